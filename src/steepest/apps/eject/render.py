"""The text of an ejected file: the blocks of a row, put together."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from steepest.apps.eject import source
from steepest.apps.eject.blocks import adamw, layers, maps, optimizers, polar, slots, splits
from steepest.apps.eject.constructor import WIDTH, documented
from steepest.apps.eject.rows import IN_WORDS, Ejected
from steepest.polar import Schedule


def rendered(one: Ejected, schedule: Schedule, remark: Sequence[str], command: str) -> str:
    """The file of a row.

    Args:
        one: The row.
        schedule: The steps of its polar factors, if it has any.
        remark: The lines of the comment above them.
        command: The call that writes the file, with the version of the library.
    """
    modules = _modules(one)
    pieces = _pieces(one, modules)
    pieces["SCHEDULE"] = "\n".join([*(f"# {line}" for line in remark), _steps(schedule)])
    used = _reachable(pieces, [one.name, *(["groups"] if one.stacked else [])])
    pieces = {name: text for name, text in pieces.items() if name in used}
    pieces[one.name] = documented(one, pieces)
    pieces = {name: source.without_attributes(text) for name, text in pieces.items()}
    parts = [_head(one, command), *_imports(modules, source.names("\n".join(pieces.values())))]
    for name, text in pieces.items():
        before = parts[-1].lstrip()
        if name.isupper() and before.startswith(tuple(f"{n} =" for n in pieces if n.isupper())):
            parts[-1] += f"\n{text}"  # a table of constants
        else:
            parts.append(f"\n{text}" if _defines(text) or _defines(before) else text)
    return "\n\n".join(parts) + "\n"


def _defines(text: str) -> bool:
    """Whether a text is a function or a class, around which there are two blank lines."""
    return any(line.startswith(("class ", "def ")) for line in text.splitlines())


def _head(one: Ejected, command: str) -> str:
    """Licence, origin and docstring of the file."""
    licence = "# SPDX-License-Identifier: Apache-2.0"
    title = f"{one.name}: steepest descent in {IN_WORDS[one.row.direction]}"
    title = f"{one.name}, a successor of Muon" if one.is_variant else title
    docstring = f'"""{title} ({one.preset.source})."""'
    if len(docstring) > WIDTH:
        docstring = f'"""{title}.\n\nSource: {one.preset.source}.\n"""'
    return f"{licence}\n# Written by {command}.\n{docstring}"


def _modules(one: Ejected) -> list[ModuleType]:
    """The modules of the blocks, in the order of the file."""
    own = (inspect.getmodule(b) for blocks in one.blocks.values() for b in blocks.values())
    return [*dict.fromkeys([polar, *filter(None, own), maps, layers, adamw, optimizers, splits])]


def _pieces(one: Ejected, modules: Sequence[ModuleType]) -> dict[str, str]:
    """Everything that the file may have, by name and in its order."""
    found: dict[str, str] = {}
    own = [pair for blocks in one.blocks.values() for pair in blocks.items()]
    for module in modules:
        found.update(source.definitions(module))
        for name, block in own:
            if inspect.getmodule(block) is module:
                text = source.renamed(source.function_text(block), name)
                found[name] = source.with_docstring(text, source.described(text)[0])
        if module is optimizers:
            kept = found["StackedOptimizer" if one.stacked else "TensorwiseOptimizer"]
            found[one.name] = _with_blocks(source.renamed(kept, one.name), one)
    split = "layer_groups" if one.row.direction == "layers" else "matrix_groups"
    found["groups"] = source.renamed(found[split], "groups")
    return {name: source.folded(text, one.row) for name, text in found.items()}


def _with_blocks(text: str, one: Ejected) -> str:
    """The class, which calls the blocks of the row and no others."""
    text = source.folded(text, one.row)
    for stand_in in (slots.pull, slots.before, slots.after, slots.retract):
        if blocks := one.blocks.get(stand_in.__name__):
            text = source.with_blocks(text, stand_in, blocks)
    return text


def _reachable(pieces: Mapping[str, str], start: Iterable[str]) -> set[str]:
    """The definitions that these ones need, and themselves."""
    used, left = set[str](), [*start]
    while left:
        name = left.pop()
        if name in pieces and name not in used:
            used.add(name)
            left += source.names(pieces[name])
    return used


def _steps(schedule: Schedule) -> str:
    """The coefficients of a schedule as a constant."""
    steps = schedule.folded
    if len(set(steps)) == 1:
        return f"SCHEDULE = ({steps[0]!r},) * {len(steps)}"
    return "\n".join(["SCHEDULE = (", *(f"    {step!r}," for step in steps), ")"])


def _imports(modules: Iterable[ModuleType], used: set[str]) -> list[str]:
    """The imports of the modules that are needed: those of Python, then torch."""
    lines: dict[bool, set[str]] = {False: set(), True: set()}
    members: dict[str, set[str]] = {}
    for module, name in (pair for each in modules for pair in source.imports(each)):
        if name in used and module.partition(".")[0] not in ("steepest", "__future__"):
            members.setdefault(module, set()).add(name)
        elif not name and module in used:
            lines[module not in sys.stdlib_module_names].add(f"import {module}")
    found = []
    for foreign, plain in lines.items():
        own = [
            m for m in members if (m.partition(".")[0] not in sys.stdlib_module_names) == foreign
        ]
        block = [*sorted(plain), *(f"from {m} import {_listed(members[m])}" for m in sorted(own))]
        found += ["\n".join(block)] if block else []
    return found


def _listed(names: Iterable[str]) -> str:
    """Names as isort has them: classes before functions."""
    return ", ".join(sorted(names, key=lambda name: (not name[0].isupper(), name)))
