"""Zip files as torch and NumPy write them: each entry as it is, none larger than its file."""

from __future__ import annotations

import os
import zipfile
from typing import BinaryIO


def whole_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The zip archive in a file, read once to compare its checksums.

    What unpacks to more than it seems to be is refused before it is unpacked.

    Raises:
        zipfile.BadZipFile: it is cut off, damaged, or has entries that are packed or overlap.
    """
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise zipfile.BadZipFile("an entry is packed")
    if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
        raise zipfile.BadZipFile("entries overlap")
    damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
    return archive
