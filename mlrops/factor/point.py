"""Parameters of a factor model."""

from typing import NamedTuple

import numpy as np

from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy

__all__ = ["Point"]


class Point(NamedTuple):
    """Parameters of a factor model, in tree order."""

    F: np.ndarray  # (n, R)
    D: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)

    @classmethod
    def empty_like(cls, point: "Point") -> "Point":
        return cls(*map(np.empty_like, point))

    def room(self) -> "Point":
        """Arrays for another point."""
        return Point.empty_like(self)

    def copy(self) -> "Point":
        return Point(*map(np.copy, self))

    def shares(self, other: "Point") -> bool:
        """Whether it lives in the arrays of another point."""
        return self.F is other.F

    def operator(self, hierarchy: Hierarchy, ranks: tuple[int, ...], dtype: np.dtype) -> MLR:
        """The covariance in the order of the features of a hierarchy."""
        F, D = (hierarchy._scatter(x).astype(dtype, copy=False) for x in (self.F, self.D))
        return MLR.from_compact(hierarchy, ranks, F, D, check_finite=False)
