"""Docstring and constructor of the class in an ejected file: the hyper-parameters of its blocks."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence

from steepest.apps.eject import source
from steepest.apps.eject.rows import Ejected, formula

WIDTH = 100

FIXED: Mapping[str, object] = {"adamw": False, "split": 1, "layer": "hidden"}
"""Keys of a group that are not arguments, with their defaults."""

OWN = (
    'own = {"lr": adamw_lr, "weight_decay": adamw_weight_decay}',
    'params = [{**own, **g} if isinstance(g, dict) and g.get("adamw") else g for g in params]',
)
"""Lines of the constructor that give groups of AdamW their own values, if they do not say them."""

ADAMW = ("adamw_lr", "adamw_betas", "adamw_weight_decay")


def documented(one: Ejected, pieces: Mapping[str, str]) -> str:
    """The class of a file with its docstring and constructor.

    Args:
        one: The row.
        pieces: The definitions that the file has, by name; the class is that of the row.
    """
    blocks = {
        place: [source.described(source.function_text(block)) for block in own.values()]
        for place, own in one.blocks.items()
    }
    texts = [each for own in blocks.values() for each in own]
    texts += map(source.described, filter(source.describes, pieces.values()))
    entries = {**_common(one), **{k: text for _, _, keys in texts for k, text in keys.items()}}
    read = {key for text in pieces.values() for key in source.keys(text)}
    untold = read - entries.keys() - FIXED.keys() - {"params", *ADAMW}
    assert not untold, f"describe {sorted(untold)} under Attributes: of its block"
    entries = {key: text for key, text in entries.items() if key in read}
    arguments = [*entries, *(ADAMW if one.row.adamw else ())]
    if one.row.adamw:
        entries[", ".join(ADAMW)] = "AdamW's own, for groups with `adamw=True`."
    fixed = {key: value for key, value in FIXED.items() if key in read}
    lines = formula(one, {p: [x for _, f, _ in own for x in f] for p, own in blocks.items()})
    whole = source.with_method(pieces[one.name], "__init__", _constructor(one, arguments, fixed))
    return source.with_docstring(whole, _docstring(one, lines, entries))


def _common(one: Ejected) -> dict[str, str]:
    """The descriptions of the hyper-parameters that every row has."""
    length = "Norm of a step" + (", before the factor" if one.row.shaped else "")
    if one.row.after or one.row.retraction:
        length = "Learning rate"
    elif one.preset.scale == "dual":
        length = "Norm of a step over the dual norm of its average"
    return {"lr": f"{length}.", "weight_decay": "Decoupled decay."}


def _docstring(one: Ejected, lines: Sequence[str], entries: Mapping[str, str]) -> str:
    """The docstring of the class, to be indented by four."""
    params = "Groups such as `groups(model)`, or parameters." if one.stacked else "Parameters."
    wrapped = [
        textwrap.fill(f"{key}: {text}", WIDTH - 4, initial_indent="    ", subsequent_indent=" " * 8)
        for key, text in {"params": params, **entries}.items()
    ]
    return "\n".join([one.summary, "", *(f"    {line}" for line in lines), "", "Args:", *wrapped])


def _constructor(one: Ejected, arguments: Sequence[str], fixed: Mapping[str, object]) -> str:
    """The text of `__init__`."""
    written = ["self", "params: Iterable[Any]", *(_argument(one, key) for key in arguments)]
    items = [f'"{key}": {key}' for key in arguments if key not in ADAMW or key == ADAMW[1]]
    items += [f'"{key}": {_literal(value)}' for key, value in fixed.items()]
    indent = " " * 8
    last = f"{indent}super().__init__(params, {{{', '.join(items)}}})"
    body = [last]
    if len(last) > WIDTH or one.row.adamw:
        body = [f"{indent}{line}" for line in _packed(items)]
        if one.row.adamw:
            body += [indent + line for line in OWN]
        body.append(f"{indent}super().__init__(params, defaults)")
    return "\n".join([*_signature(written), *body])


def _argument(one: Ejected, key: str) -> str:
    """An argument as the signature has it: name, type and default."""
    value = one.values[key]
    kind = "str | None" if key == "adjust_lr_fn" else type(value).__name__
    if isinstance(value, tuple):
        kind = f"tuple[{', '.join(type(v).__name__ for v in value)}]"
    return (
        f"{key}: float"
        if value is inspect.Parameter.empty
        else f"{key}: {kind} = {_literal(value)}"
    )


def _literal(value: object) -> str:
    """A value as code."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _signature(arguments: Sequence[str]) -> list[str]:
    """The lines of `def __init__`, on one line, on three or with a line for each argument."""
    line = f"    def __init__({', '.join(arguments)}) -> None:"
    inner = f"        {', '.join(arguments)}"
    if len(line) <= WIDTH:
        return [line]
    inside = [inner] if len(inner) <= WIDTH else [f"        {each}," for each in arguments]
    return ["    def __init__(", *inside, "    ) -> None:"]


def _packed(items: Sequence[str]) -> list[str]:
    """Statements that put items into a dictionary of defaults, each on one line."""
    lines = [""]
    start = "defaults: dict[str, Any] = {"
    for item in items:
        more = f"{lines[-1]}, {item}" if lines[-1] else item
        if len(start) + len(more) + 1 + 8 > WIDTH:
            lines.append(item)
            start = "defaults |= {"
        else:
            lines[-1] = more
    first, *others = lines
    return [f"defaults: dict[str, Any] = {{{first}}}", *(f"defaults |= {{{o}}}" for o in others)]
