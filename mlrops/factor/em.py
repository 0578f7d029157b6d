"""Parameters of a factor model, and what the EM map gives at them."""

from typing import NamedTuple

import numpy as np

from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import EStep

__all__ = ["Mapped", "Point"]


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


class Mapped(NamedTuple):
    """What one evaluation of the EM map at a point gives."""

    loglik: float  # of the point, a sample
    covariance: MLR  # of the point
    image: Point  # where EM goes from it
    raw: Point  # the same before its variances are clipped at the floor
    step: EStep  # for its gradient
