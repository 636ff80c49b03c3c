"""Laws as functions, for a norm, a map, a polar method or an optimizer of your own.

Each function raises an `AssertionError` that names the law, the input and by how much it fails, so
that a test of pytest is one line:

    def test_my_norm():
        check_norm(MyNorm(), shapes=[(4, 3), (2, 5, 5)])

The suites of this library call the same functions.
"""

from steepest.testing.convex import check_convex_map as check_convex_map
from steepest.testing.norms import check_norm as check_norm
from steepest.testing.optimizers import check_optimizer as check_optimizer
from steepest.testing.polar import check_polar as check_polar
