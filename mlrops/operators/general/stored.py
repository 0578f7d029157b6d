"""What a file holds of a `GeneralMLR`; what was known of its operands is shown again."""

import numpy as np

from ..._common.stored import FLAG, RANKS, Stored, check_sides, floats, instance, maybe, one_dtype
from ...tree.hierarchy import Hierarchy
from ..composed import Product, Scaled
from ..mlr import MLR, check_ranks
from .checks import check_pair

__all__ = ["StoredGeneral"]

TREE = instance(Hierarchy, "of type Hierarchy")


class StoredGeneral(Stored):
    """The part of `GeneralMLR` that `mlrops.save` and `mlrops.load` use."""

    stored_fields = {
        "rows": TREE, "cols": TREE, "ranks": RANKS, "B": floats(2), "C": maybe(floats(2)),
        "symmetric": FLAG, "equal_to": maybe(instance((MLR, Product, Scaled),
                                                      "an MLR, a Product or a Scaled"))}

    def to_fields(self):
        return {"rows": self.rows, "cols": self.cols, "ranks": self.ranks, "B": self._B,
                "C": None if self._C is self._B else self._C, "symmetric": self.symmetric,
                "equal_to": self._known_form}

    @classmethod
    def from_fields(cls, rows, cols, ranks, B, C, symmetric, equal_to):
        check_pair(rows, cols)
        C = B if C is None else C
        one_dtype(B=B, C=C)
        check_sides(check_ranks(ranks, rows), B=(B, rows), C=(C, cols))
        A = cls._from_tree(rows, cols, ranks, B, C)
        if (symmetric and not A.symmetric) or equal_to is not None:
            _show_equal(A, symmetric, equal_to)
            A = cls._from_tree(rows, cols, ranks, B, C, symmetric, equal_to)
        return A


def _show_equal(A, symmetric, equal_to):
    """Known from the operands when A was made: here a product with any vector has to show it."""
    x = np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.dtype)
    others = [A.rmatvec] if symmetric else []
    if equal_to is not None:
        others.append(equal_to.matvec)
    y, rounding = A.matvec(x), 1e3 * max(A.shape) * np.finfo(A.dtype).eps
    size = float(np.linalg.norm(A._B) * np.linalg.norm(A._C) * np.linalg.norm(x))
    if not all(np.linalg.norm(y - other(x)) <= rounding * size for other in others):
        raise ValueError("tagged symmetric or equal to a product, but it is not")
