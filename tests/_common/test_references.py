"""References to parameters: none keeps a plain one alive, none hinders torch from moving others."""

import gc

import torch
from torch import nn

from steepest._common.references import KnownTensors, reference


class Wrapped(torch.Tensor):
    """A tensor of another class, as DTensor is."""


def test_a_plain_parameter_is_not_kept_alive():
    p = nn.Parameter(torch.ones(2))
    ref, known = reference(p), KnownTensors()
    known.remember([(p, "view")])
    assert ref() is p and known.of(p) == "view"
    del p
    gc.collect()
    assert ref() is None
    known.remember([])
    assert not known


def test_another_tensor_in_the_same_place_is_not_known():
    p = nn.Parameter(torch.ones(2))
    known = KnownTensors({id(p): (lambda: None, "view")})
    assert known.of(p) is None


def test_a_parameter_of_another_class_can_be_exchanged():
    p, q = torch.ones(2).as_subclass(Wrapped), torch.zeros(2).as_subclass(Wrapped)
    ref, known = reference(p), KnownTensors()
    known.remember([(p, "view")])
    torch.utils.swap_tensors(p, q)
    assert ref() is p and known.of(p) == "view" and p.tolist() == [0.0, 0.0]
