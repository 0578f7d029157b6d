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

    def operator(self, hierarchy: Hierarchy, ranks: tuple[int, ...], dtype: np.dtype) -> MLR:
        """The covariance in the order of the features of a hierarchy."""
        F, D = (hierarchy._scatter(x).astype(dtype, copy=False) for x in (self.F, self.D))
        return MLR.from_compact(hierarchy, ranks, F, D, check_finite=False)
