"""The tables of docs/plan.md: what others have published, and the presets."""

from __future__ import annotations

from dataclasses import replace

from steepest.apps.plan import Plan, plan
from steepest.apps.plan.hardware import DEVICES
from tools import plan_constants, plan_published
from tools.plan_published import FAR, MEMORY, ROWS


def test_the_page_has_the_tables_that_the_tool_prints() -> None:
    page = plan_published.PAGE.read_text(encoding="utf-8")
    assert plan_published.replaced(page) == page, "run: python tools/plan_published.py --write"


def test_what_is_far_off_says_why() -> None:
    assert FAR == 1.5
    for row in ROWS:
        assert row.source
        assert row.reason or 1 / FAR <= row.ratio() <= FAR, row.run


def test_memory_is_near_what_torchtitan_reports() -> None:
    ratios = [row.ratio() for row in ROWS if row.what == MEMORY]
    assert len(ratios) >= 5 and all(0.75 <= ratio <= 1.4 for ratio in ratios), ratios


def test_every_preset_has_its_data_sheet() -> None:
    assert DEVICES.keys() == {"a100", "h100", "h200", "b200", "gb200", "mi300x"}
    for device, links in DEVICES.values():
        assert device.source.startswith("https://") and links.source.startswith("https://")
        assert device.source != links.source, "a page of the device, and one of the machine"


def test_every_constant_has_a_source_or_is_called_an_assumption() -> None:
    assert plan_constants.SOURCES.keys() == plan_constants.defaults().keys()
    assumed = [n for n, text in plan_constants.SOURCES.items() if text == plan_constants.ASSUMED]
    assert assumed == ["message"]


def test_a_plan_says_what_an_assumption_changes() -> None:
    def said(found: Plan) -> list[str]:
        return [note for note in found.notes() if "assumed" in note]

    found = plan("llama-8b", mesh="fsdp=64")
    links = DEVICES["h100"][1]
    twice = replace(links, message=2 * links.message)
    other = plan("llama-8b", mesh="fsdp=64", device=DEVICES["h100"][0], links=twice)
    by = other["exchange"].seconds / found["exchange"].seconds - 1
    assert by > 0.01 and said(found) and f"takes {by:.0%} longer" in said(found)[0]
    # Not where it hardly counts, nor of a number that the user has given.
    assert not said(plan("llama-8b", mesh="fsdp=1")) and not said(other)
