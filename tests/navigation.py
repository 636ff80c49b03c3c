"""The pages of the site as `mkdocs.yml` lists them."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GROUPS: dict[str, list[tuple[str, str]]] = {
    group: [item for entry in pages for item in entry.items()]
    for entry in CONFIG["nav"]
    for group, pages in entry.items()
}
"""(title, path in docs/) of each page, by the group in which it stands."""

NAV = [page for pages in GROUPS.values() for _, page in pages]
