"""The tables of docs/plan.md: what others have published, and the presets."""

from __future__ import annotations

from steepest.apps.plan.hardware import DEVICES
from tools import plan_published
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
