"""The EM map of a factor model, written in terms of `MLR` operators only."""

from typing import NamedTuple

import numpy as np

from ..operators.mlr import MLR
from .estep.protocol import EStep

__all__ = ["Point", "em_map"]


class Point(NamedTuple):
    """Parameters of a factor model, in tree order."""

    F: np.ndarray  # (n, R)
    D: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)

    @classmethod
    def empty_like(cls, point):
        return cls(*map(np.empty_like, point))


class Mapped(NamedTuple):
    """What one evaluation of the EM map at a point gives."""

    loglik: float  # of the point, a sample
    covariance: MLR  # of the point
    image: Point  # where EM goes from it
    raw: Point  # the same before its variances are clipped at the floor
    step: EStep  # for its gradient


def em_map(source, tree, ranks, floor, point, out, keep=False):
    """Evaluate the EM map at a point; its image is written to the F and D of `out`.

    Given its new factors, the expected log-likelihood of a feature is unimodal in its variance, so
    clipping at the floor is the exact constrained maximum and EM stays monotone.
    """
    covariance = MLR.from_compact(tree, ranks, point.F, point.D, copy=False, check_finite=False)
    step = source.evaluate(covariance, point.mean)
    F, D, mean = step.update((out.F, out.D), keep)
    raw = Point(F, D, mean)
    image = Point(raw.F, np.maximum(raw.D, floor), raw.mean)
    return Mapped(step.loglik, covariance, image, raw, step)
