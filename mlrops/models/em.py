"""The EM map of a factor model, written in terms of `MLR` operators only.

What EM asks of data is a *source*.  Its arrays are in tree order.

============================ =======================================================================
``n_samples``                number of samples N (int)
``dtype``                    of factors and variances
``variance``                 (n,) variance of the observed cells of each feature, float64
``mean``                     (n,) where the mean starts
``mean_is_free``             whether EM updates the mean; with complete data it knows its place
``start_data(width, seed)``  (n, k) array X, ``X Xᵀ / N`` like the covariance of the data: the
                             data themselves, or a sketch of about `width` columns
``evaluate(Σ, mean)``        the E-step at a covariance (`MLR` in tree order) and mean
============================ =======================================================================

What ``evaluate`` returns has ``loglik``, the average log-likelihood a sample of the parameters that
went in; ``update(out=None)``, the M-step ``(F, D, mean)`` with D not clipped; and ``gradient(F, D,
mean)``, which takes what ``update`` gave and returns the derivatives of ``loglik`` with respect to
the F, D and mean that went in.
"""

import math
from typing import NamedTuple

import numpy as np

from ..operators.mlr import MLR

__all__ = ["Complete", "Point", "em_map", "log_likelihood"]


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
    step: object  # the source's E-step, for its gradient


def em_map(source, tree, ranks, floor, point, out):
    """Evaluate the EM map at a point; its image is written to the F and D of `out`.

    Given its new factors, the expected log-likelihood of a feature is unimodal in its variance, so
    clipping at the floor is the exact constrained maximum and EM stays monotone.
    """
    covariance = MLR.from_compact(tree, ranks, point.F, point.D, copy=False, check_finite=False)
    step = source.evaluate(covariance, point.mean)
    F, D, mean = step.update((out.F, out.D))
    return Mapped(step.loglik, covariance, Point(F, np.maximum(D, floor, out=D), mean), step)


def log_likelihood(covariance, total_quad, n_samples):
    """Average normal log-likelihood a sample, ``-½ (n log 2π + log det Σ + tr Σ⁻¹S)``."""
    n = covariance.shape[0]
    return -0.5 * (n * math.log(2 * math.pi) + covariance.logdet() + total_quad / n_samples)


class Complete:
    """The E-step of complete data held in memory."""

    def __init__(self, covariance, data):
        self._covariance, self._data = covariance, data
        self._posterior = covariance.posterior(data.X, check_finite=False)
        quad = self._posterior.total_inv_quad(data.sums_of_squares)
        self.loglik = log_likelihood(covariance, quad, data.weight)

    def update(self, out=None):
        """The M-step: F, D (not clipped) and mean."""
        F, D = self._posterior.regress(self._data.sums_of_squares, self._data.weight, out)
        return F, D, self._data.mean

    def gradient(self, F, D, mean):
        """Derivatives of the average log-likelihood by F and D, from the outcome of `update`."""
        dF, dD = self._posterior.gradient(F, D, self._data.weight)
        return dF, dD, np.zeros_like(mean)
