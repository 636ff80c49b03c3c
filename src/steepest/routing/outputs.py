"""Output layers, told from hidden ones by names, containers and order."""

from __future__ import annotations

import re

from torch import nn

from steepest._common.torch_modules import CONVS, NORMALIZATIONS
from steepest.routing import names
from steepest.routing.conditions import in_attention, linear_map, router
from steepest.routing.places import ModelIndex, ParameterPlace, Path, kind_of


def _called(pattern: str, name: str) -> bool:
    """The whole name is this."""
    return bool(re.fullmatch(pattern, name, re.IGNORECASE))


def named_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """An output head by its own name, or the last layer of a container of such a name."""
    if not linear_map(place, model) or in_attention(place, model) or router(place, model):
        return False
    if re.search(names.HEAD_PATH, ".".join(place.path), re.I):
        return True
    if _called(names.HEAD, place.given_name):
        return True
    if place.given_name.lower() == "conv_out":  # of a U-Net; an encoder's is hidden
        beside = model.sibling(place, "conv_in") is not None
        return beside and "encoder" not in place.container_path
    if any(_called(name, place.given_name) for name in (names.QUERY, names.KEY, names.VALUE)):
        return False
    return any(
        _ends(place, model, depth, step) for depth, step in enumerate(place.path[:-1], start=1)
    )


def _ends(place: ParameterPlace, model: ModelIndex, depth: int, step: str) -> bool:
    """The output of the head `depth` steps down the path, or of a member if it is a list."""
    if _called(names.OUTPUT_BLOCK, step):
        if model.has_twin_block(place):
            return False
    elif not _called(names.HEAD, step):
        return False
    if _called(names.NO_END, place.given_name) or followed_by_norm(place):
        return False
    depth += _is_collection(place.chain[depth])
    if model.has_twin_block(place, above=depth):
        return False
    under = place.path[:depth]
    if _has_named_head(place, model, under):
        return False
    end = model.end(under, names.END)
    return end is not None and (end == place.path or _added(place, model, end))


def _is_collection(module: nn.Module) -> bool:
    """A list whose members stand beside each other; one with activations in it is a sequence."""
    if isinstance(module, nn.ModuleDict):
        return True
    return isinstance(module, nn.ModuleList) and all(
        any(True for _ in m.parameters()) for m in module
    )


def _has_named_head(place: ParameterPlace, model: ModelIndex, under: Path) -> bool:
    """Another layer below, or a container of one, is called a head: then no other member is one."""
    for path in model.layers_below(under):
        for depth in range(len(under), len(path)):
            head = _called(names.HEAD, path[depth])
            if head and path[: depth + 1] != place.path[: depth + 1]:
                return True
    return False


def _added(place: ParameterPlace, model: ModelIndex, end: Path) -> bool:
    """The output is a sum, of which this layer is one term and the layer at `end` another."""
    terms = ("output_layer", "residual_layer")
    return (
        place.path[:-1] == end[:-1] and place.given_name in terms and end[-1] in terms
    ) and model.sibling(place, end[-1]) is not None


def followed_by_norm(place: ParameterPlace) -> bool:
    """The next module of the `Sequential` is a normalisation, which no output has behind it."""
    parent = place.chain[-2] if len(place.chain) > 1 else None
    if not isinstance(parent, nn.Sequential):
        return False
    children = [name for name, _ in parent.named_children()]
    after = children[children.index(place.path[-1]) + 1 :]
    return bool(after) and (
        isinstance(parent.get_submodule(after[0]), NORMALIZATIONS)
        or bool(re.search(r"Norm\w{0,2}$", kind_of(parent.get_submodule(after[0]))))
    )


def detection_output(place: ParameterPlace, _: ModelIndex) -> bool:
    """The last layer of a branch of a detection head, by the class of the head."""
    return any(
        bool(re.search(names.DETECTION, kind_of(module))) and _ends_branch(place, depth)
        for depth, module in enumerate(place.chain[:-1])
    )


def branch_output(place: ParameterPlace, model: ModelIndex) -> bool:
    """The last layer of one of several branches in the last module of the model.

    A branch ends in a layer with a bias and without a normalisation, where its other convolutions
    have one: boxes, classes and the like of a detection head whose class is not known.
    """
    end = model.end()
    if end is None or not place.layer or not isinstance(place.owner, CONVS):
        return False
    for depth in range(len(place.path) - 1):
        module = place.chain[depth]
        if place.path[:depth] != end[:depth]:
            return False
        lists = [m for m in module.children() if isinstance(m, nn.ModuleList) and len(m) > 1]
        if len(lists) > 1 and len({len(m) for m in lists}) == 1:
            convs = [m for m in module.modules() if isinstance(m, CONVS)]
            bare = any(m.bias is None for m in convs) and place.owner.bias is not None
            return bare and _ends_branch(place, depth)
    return False


def _ends_branch(place: ParameterPlace, depth: int) -> bool:
    """The last layer of a member of a list that the module at this depth holds."""
    if len(place.path) < depth + 2 or not isinstance(place.chain[depth + 1], nn.ModuleList):
        return False
    branch = place.chain[depth + 2]
    layers = [m for m in branch.modules() if isinstance(m, (nn.Linear, *CONVS))]
    return bool(layers) and layers[-1] is place.owner and place.layer


def at_the_end(place: ParameterPlace, model: ModelIndex) -> bool:
    """The last layer of the model, unless it is known as a hidden one."""
    return (
        place.layer
        and model.end() == place.path
        and not _called(names.HIDDEN, place.given_name)
        and not any(_called(names.BETWEEN, step) for step in place.path[:-1])
        and not in_attention(place, model)
        and not model.has_twin_block(place)
    )


def named_output(place: ParameterPlace, _: ModelIndex) -> bool:
    """Called an output, or the end of a `Sequential` so called."""
    called = [place.given_name]
    if len(place.path) > 1 and isinstance(place.container, nn.Sequential):
        called.append(place.path[-2])
    # `mlp.fc2` is the second layer of a block, whatever stands behind the block.
    block = len(place.path) > 1 and _called(names.FEED_FORWARD, place.path[-2])
    return not block and any(_called(names.OUTPUT, name) for name in called)


def in_a_head(place: ParameterPlace, _: ModelIndex) -> bool:
    """Some module above is called a head."""
    return any(_called(names.HEAD, step) for step in place.path[:-1])


def at_the_root(place: ParameterPlace, _: ModelIndex) -> bool:
    """A module of the model itself, or in a `Sequential` of it."""
    return len(place.path) == 1 or (
        len(place.path) == 2 and isinstance(place.container, nn.Sequential)
    )


def after_the_blocks(place: ParameterPlace, model: ModelIndex) -> bool:
    """Called the output of the model, and registered behind all of its blocks."""
    return place.layer and _called(names.FINAL, place.given_name) and model.after_the_blocks(place)


def indexed(place: ParameterPlace, model: ModelIndex) -> bool:
    """The layer has as many outputs as an embedding of the model has rows, and as many inputs."""
    return place.layer and model.indexed(place)


def of_the_embedding(place: ParameterPlace, model: ModelIndex) -> bool:
    """Called an output and as large as an embedding, though another layer comes after it."""
    return (
        indexed(place, model)
        and model.end() != place.path
        and named_output(place, model)
        and not in_attention(place, model)
        and not model.has_twin_block(place)
    )


def _main_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """An output head that is used after training as well."""
    auxiliary = any(_called(names.AUXILIARY, step) for step in place.path)
    return not auxiliary and (named_head(place, model) or of_the_embedding(place, model))


def headless(_: ParameterPlace, model: ModelIndex) -> bool:
    """No output head was recognised anywhere, but for auxiliary ones."""
    return not model.tied_head and not model.any(_main_head)


def without_any_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """Neither a head by name nor an output behind the blocks was recognised."""
    return headless(place, model) and not model.any(after_the_blocks)
