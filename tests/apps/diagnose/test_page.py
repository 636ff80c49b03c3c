"""The page: whole in itself, safe whatever the names are, and shown by a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import Result

from steepest.apps.diagnose.page import Item, Page, Panel, Section, Table, render
from steepest.apps.diagnose.pictures import Picture
from tests.apps.diagnose.chromium import Browser
from tests.apps.diagnose.conftest import call

HOSTILE = "<script>alert(1)</script>\"'&<img src=https://example.org/x.png>"
ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "background"}


class Found(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.policy = ""
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {k: v or "" for k, v in attrs}
        self.addresses += [v for k, v in given.items() if k in ADDRESSES]
        assert not any(name.startswith("on") or name == "style" for name in given)
        if tag == "img":
            self.alts.append(given["alt"])
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_alone(content: bytes) -> Found:
    """The page asks no other place for anything and runs nothing."""
    found = Found(content)
    assert "script" not in found.tags
    assert "default-src 'none'" in found.policy and "img-src data:" in found.policy
    assert all(a.startswith(("data:", "#")) for a in found.addresses), found.addresses
    assert not re.search(rb"url\(|@import", content)
    return found


def test_whatever_comes_from_files_is_text() -> None:
    table = Table(title=HOSTILE, headings=[HOSTILE], rows=[[HOSTILE]])
    part = Panel(
        title=HOSTILE,
        text=[HOSTILE],
        picture=Picture(png=b"png", alt=HOSTILE),
        points=[HOSTILE],
        tables=[table],
        missing=HOSTILE,
    )
    section = Section(
        title=HOSTILE, line=HOSTILE, facts=[(HOSTILE, HOSTILE)], parts=[part], summary=[HOSTILE]
    )
    item = Item(
        subject=HOSTILE, what=HOSTILE, confidence=HOSTILE, why=HOSTILE, advice=HOSTILE, link="s1-1"
    )
    page = Page(
        title=HOSTILE,
        line=HOSTILE,
        head=[(HOSTILE, HOSTILE)],
        findings=[item],
        remarks=[HOSTILE],
        sections=[section],
        note=HOSTILE,
    )
    found = assert_alone(render(page))
    assert found.tags.count("img") == 1
    assert found.alts == [HOSTILE]
    # Title twice, line, part twice, …: the same text wherever a reader sees it.
    assert found.text.count(HOSTILE) >= 22
    assert found.addresses.count("data:image/png;base64,cG5n") == 1


def test_layers_with_hostile_names_are_drawn_and_escaped(tmp_path: Path) -> None:
    records = [
        {
            "step": step,
            **{f"{HOSTILE}/{q}": 1.5 + step for q in ("rms_in", "rms_out", "grad_nuclear_rank")},
            f"{HOSTILE}/update_ratio": 1e-3,
            f"{HOSTILE}/weight_sigmas": [2.0, 1.0, 0.5],
            "$x_{/rms_out": 1.0,
            "warnings": [HOSTILE],
        }
        for step in (1, 2)
    ]
    lines = "".join(f"{json.dumps(r)}\n" for r in records)
    (tmp_path / "monitor.jsonl").write_text(lines, encoding="utf-8")
    result = call("diagnose", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert HOSTILE in result.stdout
    found = assert_alone((tmp_path / "diagnosis.html").read_bytes())
    assert HOSTILE in found.text
    assert found.tags.count("img") == 4


def test_a_browser_shows_the_pictures_and_asks_for_nothing(
    diagnosed: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        page, _ = diagnosed
        content = page.read_bytes()
        assert_alone(content)
        browser.open(page)
        sizes = browser.evaluate(
            "Array.from(document.images, i => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert len(sizes) == content.count(b"<img ") >= 7
        assert all(complete and width > 1000 and shown > 500 for complete, width, shown in sizes)
        assert {r.partition(":")[0] for r in browser.requests} <= {"file", "data"}
        assert browser.requests[0] == page.as_uri()
        colour = "getComputedStyle(document.body).backgroundColor"
        light = browser.evaluate(colour)
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        browser.send("Emulation.setEmulatedMedia", features=[dark])
        assert browser.evaluate(colour) != light == "rgb(255, 255, 255)"
        # Pictures are made of dark ink: they keep their colours, on a plate that is light.
        style = "getComputedStyle(document.querySelector('figure img'))"
        assert browser.evaluate(f"{style}.filter") == "none"
        plate = browser.evaluate(f"{style}.backgroundColor")
        assert min(map(int, re.findall(r"\d+", plate))) > 200
        # What to change stands above everything else, the contents among it.
        tops = "['findings', 's1'].map(id => document.getElementById(id).offsetTop)"
        first, second = browser.evaluate(tops)
        assert first < browser.evaluate("document.querySelector('nav').offsetTop") < second
        assert first < 450
        # On a phone pictures and tables scroll inside their frames, and the page does not.
        browser.send(
            "Emulation.setDeviceMetricsOverride",
            width=400,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 400
