"""Under the tests a wrong type or shape is an error, and where it is asked for it is none."""

import jaxtyping
import pytest
import torch

from steepest.polar import Auto, certify


def test_shapes_and_their_names_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="x"):
        Auto()(torch.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="q"):
        certify(torch.eye(2), torch.ones(2, 3))


def test_nothing_is_checked_where_the_library_must_answer(unchecked):
    with pytest.raises(ValueError, match=r"^x="):
        Auto()(torch.ones(3))
