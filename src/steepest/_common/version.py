"""The version of the library, and its order among others."""

from __future__ import annotations

import re
from importlib import metadata

try:
    VERSION = metadata.version("steepest")
except metadata.PackageNotFoundError:  # a source tree on the path, a vendored copy
    VERSION = "0+unknown"

RELEASE = re.compile(r"\d+(?:\.\d+)+")


def is_newer(version: str | None, than: str = VERSION) -> bool:
    """Whether a version is a later release than another one; false where either is not known.

    Examples:
        >>> is_newer("0.10.0", "0.9.2"), is_newer("0.9.2", "0.9.2.dev3"), is_newer(None)
        (True, False, False)
    """
    found = [RELEASE.match(text or "") for text in (version, than)]
    if not all(found):
        return False
    new, old = ([int(n) for n in match[0].split(".")] for match in found if match)
    return new > old
