"""Hold the verdicts of small reproductions against the documented ones.

    steepest reproduce --all --quick --out FOLDER
    python tools/quick_verdicts.py FOLDER

A small run may leave a claim undecided. What it decides has to be what the results in
`docs/reproductions/` say: otherwise the claim needs more than it asks for, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.table import REPRODUCTIONS

DATA = Path(__file__).resolve().parent.parent / "docs" / "reproductions"


def contradictions(parent: Path) -> list[str]:
    """A line for each claim in the folders of `parent` that is decided in another way there."""
    found = []
    for name in REPRODUCTIONS:
        path = parent / name / "claims.json"
        if not path.exists():
            continue
        data = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        stored = {claim["id"]: claim["verdict"] for claim in data["claims"]}
        for claim in json.loads(path.read_text(encoding="utf-8")):
            small, large = claim["verdict"], stored.get(claim["id"])
            if small not in (UNDECIDED, large):
                found.append(f"{name}: {claim['id']} {small} ({claim['measured']}), not {large}")
    return found


def main() -> None:
    """Print what there is, and fail if there is any."""
    found = contradictions(Path(sys.argv[1]))
    print("\n".join(found) or "every verdict is a documented one")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
