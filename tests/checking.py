"""How annotations are checked under the tests: a stand-in for `jaxtyping.jaxtyped`.

Only a function whose annotations name shapes is checked: a check takes longer than most functions
of the library, and other types are mypy's business in the sources and the library's own errors' for
what a user gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_scoped = jaxtyping.jaxtyped

# As PEP 484 reads annotations, a whole number is a float.
typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def jaxtyped(made: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Check the annotations of a function, or of a dataclass's `__init__`, at every call."""
    if made is None:
        return partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(made):
        if is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = jaxtyped(made.__init__, typechecker=typechecker)
        return made
    if "<locals>" in made.__qualname__:  # made anew in every call of the function around it
        return made
    if any("[Tensor, " in str(a) for a in made.__annotations__.values()):
        return _scoped(made, typechecker=typechecker)
    return made
