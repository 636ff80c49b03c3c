"""Under the tests a wrong type or shape is an error, and where it is asked for it is none."""

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation

from steepest._types import shape_text
from steepest.norms import Spectral
from steepest.polar import Auto, certify
from steepest.views import MatrixView


def test_shapes_and_their_names_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="x"):
        Auto()(torch.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="q"):
        certify(torch.eye(2), torch.ones(2, 3))


def test_types_are_checked_without_a_scope_for_shapes():
    with pytest.raises(BeartypeCallHintParamViolation, match="shape"):
        shape_text(3)
    with pytest.raises(BeartypeCallHintParamViolation, match="split"):
        MatrixView(split="all")
    with pytest.raises(BeartypeCallHintParamViolation, match="polar"):
        Spectral(polar="svd")


def test_nothing_is_checked_where_the_library_must_answer(unchecked):
    assert shape_text("34") == "3×4"
    with pytest.raises(ValueError, match=r"^x="):
        Auto()(torch.ones(3))
