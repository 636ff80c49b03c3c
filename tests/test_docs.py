"""What the README and the documentation say: their code runs and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from steepest import polar
from tests.navigation import NAV
from tools import compare_table
from tools.ledger import filled

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def content(block: re.Match[str]) -> str:
    """What a fenced block holds, without its indentation."""
    return re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without their indentation."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [content(block) for block in found if block[2] == language]


def shown_after(text: str, code: re.Match[str]) -> str:
    """The `text` block that follows a block of code with nothing between them; else empty."""
    following = BLOCK.search(text, code.end())
    if following is None or following[2] != "text" or text[code.end() : following.start()].strip():
        return ""
    return content(following)


def same_output(shown: str, printed: str) -> bool:
    """Whether a page shows what its code prints, or the end of it; "…" leaves out the rest.

    Layout does not count, and numbers are the same to 2 %: they are rounded, and another build of
    torch rounds in another way.
    """
    stated, found = shown.split(), printed.split()
    if stated and stated[-1] == "…":
        stated, found = stated[:-1], found[: len(stated) - 1]
    found = found[-len(stated) :]
    words = [NUMBER.sub("#", " ".join(tokens)) for tokens in (stated, found)]
    numbers = [[*map(float, NUMBER.findall(" ".join(tokens)))] for tokens in (stated, found)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=0.02)


def anchor(heading: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return kept.replace(" ", "-")


# Its code compiles, which checked annotations do not: here it runs as it is, and compiled in a slow
# test of `tests/optim/test_compiled.py`.
COMPILED = ROOT / "docs" / "step.md"


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("loss 1.00, lr 3e-4", "loss  1.01,\nlr 0.0003", True),
        ("loss 1.00", "loss 1.1", False),
        ("gain 1.00", "loss 1.00", False),
        ("the end", "before\nthe end", True),
        ("the start …", "the start\nand more", True),
        ("the end", "the end\nand more", False),
    ],
)
def test_shown_output_is_compared(shown: str, printed: str, expected: bool) -> None:
    assert same_output(shown, printed) == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The blocks of a page are read from top to bottom: a later one may use an earlier one's names.
    monkeypatch.chdir(tmp_path)
    if page == COMPILED:
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    names: dict[str, object] = {"__name__": "__docs__"}
    text = page.read_text(encoding="utf-8")
    codes = [block for block in BLOCK.finditer(text) if block[2] == "python"]
    for number, code in enumerate(codes, start=1):
        exec(compile(content(code), f"{page.name}, block {number}", "exec"), names)
        shown, printed = shown_after(text, code), capsys.readouterr().out
        assert same_output(shown, printed) or not shown, f"block {number} prints:\n{printed}"


def numbers(table: str) -> dict[str, list[float]]:
    """The numbers of each direction in a table of `diagnostics.compare_directions`."""
    rows = [line.split() for line in table.splitlines() if line.startswith("(all)")]
    return {row[1]: [float(cell) for cell in row[2:]] for row in rows}


def test_the_page_shows_the_directions_that_its_code_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "diagnostics.md"
    (code,) = (
        code for code in blocks(page, "python") if "per_layer=False" in code and "Tanh" in code
    )
    (shown,) = (text for text in blocks(page, "text") if text.startswith("layer  direction"))
    # It stands alone but for the imports at the top of the page.
    exec(compile(code, page.name, "exec"), {"torch": torch, "nn": torch.nn})
    printed = numbers(capsys.readouterr().out)
    stated = numbers(shown)
    assert printed.keys() == stated.keys() == {"gradient", "sign", "muon", "newton-schulz", "adam"}
    for name, row in stated.items():
        # Three digits are shown, and thirty steps have rounded in their own way.
        assert printed[name] == pytest.approx(row, rel=0.02), name
    decrease = {name: row[-1] for name, row in printed.items()}
    assert all(
        1.8 < decrease[name] / decrease["gradient"] < 2.2 for name in ("sign", "muon", "adam")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in (first or second for first, second in LINK.findall(text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if fragment and target.suffix == ".md":
            prose = BLOCK.sub("", target.read_text(encoding="utf-8"))
            headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
            assert fragment in {anchor(h) for h in headings}, f"{page.name} links to {link}"


def test_every_page_is_in_the_navigation() -> None:
    docs = ROOT / "docs"
    assert sorted(NAV) == sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))


def test_the_ledgers_are_those_of_the_stored_results() -> None:
    page = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
    assert filled(page) == page, "run: python tools/ledger.py"


def test_the_comparison_is_that_of_the_stored_results() -> None:
    page = compare_table.PAGE.read_text(encoding="utf-8")
    assert compare_table.filled(page) == page, "run: python tools/compare_table.py"


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first heading is given, without the two heading lines."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def evaluate(cell: str) -> object:
    """The object of `steepest.polar` that a cell names."""
    return eval(cell.strip("`"), dict(vars(polar)))


def test_the_table_of_schedules_is_what_the_schedules_do() -> None:
    rows = table("polar.md", "schedule")
    for name, steps, *bands, safe in rows:
        schedule = evaluate(name)
        assert isinstance(schedule, polar.Schedule)
        assert schedule.steps == int(steps)
        for lower, band in zip((1e-3, 1e-2), bands, strict=True):
            stated = [float(v) for v in band.split("–")]
            assert stated == pytest.approx(schedule.band(lower, 1.0), abs=6e-4), name
        assert f"{schedule.interval[1]:.2f}" == safe, name
        # A safe largest singular value ends no further out than the others.
        assert schedule.band(1e-3, schedule.interval[1])[1] < 1.21
    shown = {name.strip("`") for name, *_ in rows}
    named = {k for k, v in vars(polar).items() if isinstance(v, polar.Schedule)}
    assert named <= shown, "a schedule is missing in the table"


def test_the_table_of_methods_is_what_the_methods_promise() -> None:
    rows = [row for row in table("polar.md", "method") if "Auto" not in row[0]]
    assert len(rows) == 8
    for name, _, cell in rows:
        method = evaluate(name)
        assert isinstance(method, polar.PolarMethod)
        resolution, error, upper, _ = method.accuracy(768, 768, torch.float32)
        found = f"{resolution:.1e}, {error:.1e}, {upper:.2f}".replace("e-0", "e-")
        assert found == cell, name
