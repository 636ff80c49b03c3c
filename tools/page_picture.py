"""Draw the picture of a page of `steepest diagnose` in docs/images, by a Chromium.

$ python tools/page_picture.py runs/one/diagnosis.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "diagnosis.png"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--window-size=1000,760"),
)


def main() -> None:
    """Take the picture of the page's beginning."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise SystemExit(f"error: none of {', '.join(NAMES)} is installed")
    page = Path(sys.argv[1]).resolve(strict=True)
    with tempfile.TemporaryDirectory() as profile:
        own = (f"--user-data-dir={profile}", f"--screenshot={PICTURE}")
        subprocess.run([program, *FLAGS, *own, page.as_uri()], check=True, capture_output=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
