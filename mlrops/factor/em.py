"""The EM map of a factor model, written in terms of `MLR` operators only.

What EM asks of data is a *source*.  Its arrays are in tree order.

============================ =======================================================================
``n_samples``                number of samples N (int)
``dtype``                    of the data, and of what is returned in the end; all that is computed
                             between is float64, likelihoods do not bear less
``variance``                 (n,) variance of the observed cells of each feature, float64
``mean``                     (n,) where the mean starts
``mean_is_free``             whether EM updates the mean; with complete data it knows its place
``start_data(width, seed)``  (n, k) array X, ``X Xᵀ / N`` like the covariance of the data: the
                             data themselves, or a sketch of about `width` columns
``shown(features)``          which of some features the samples show together: (patterns, k) bool,
                             and the weights (patterns,) of the samples that do
``evaluate(Σ, mean)``        the E-step at a covariance (`MLR` in tree order) and mean
``shares``                   where cells are missing: (n,) share of the samples with each feature
============================ =======================================================================

What ``evaluate`` returns has

============================ =======================================================================
``loglik``                   average log-likelihood a sample of the parameters that went in
``update(out, keep)``        the M-step (F, D, mean), D not clipped; out = (F, D) may be None; keep
                             tells to keep what the next two need, which else is formed again
``gradient(F, D, mean)``     derivatives of ``loglik`` by the F, D and mean that went in, from what
                             ``update`` gave; ``scale=`` (n,) multiplies the rows of that by F,
                             ``out=`` is filled with it
``precondition(dF, dmean)``  the changes of F and mean by which an M-step would answer these
                             derivatives (dmean is empty where the mean is fixed); ``scale=`` and
                             ``out=`` as above, the scale also for the mean
============================ =======================================================================
"""

import math
from typing import NamedTuple

import numpy as np

from ..operators.mlr import MLR

__all__ = ["Complete", "Point", "em_map", "loading_penalty", "log_likelihood", "scaled"]


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
    step: object  # the source's E-step, for its gradient


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


def log_likelihood(covariance, total_quad, n_samples):
    """Average normal log-likelihood a sample, ``-½ (n log 2π + log det Σ + tr Σ⁻¹S)``."""
    n = covariance.shape[0]
    return -0.5 * (n * math.log(2 * math.pi) + covariance._rough_logdet() + total_quad / n_samples)


def loading_penalty(covariance, ridge):
    """``ridge tr(Fᵀ D⁻¹ F) / 2``: of the loadings in units of √D, so that units do not matter."""
    squares = np.einsum("ij,ij->i", covariance.F, covariance.F, dtype=np.float64)
    return 0.5 * ridge * float((squares / covariance.D).sum())


class Complete:
    """The E-step of complete data held in memory."""

    def __init__(self, covariance, data):
        self._covariance, self._data = covariance, data
        self._posterior = covariance.posterior(data.X, check_finite=False)
        quad = self._posterior.total_inv_quad(data.sums_of_squares)
        self.loglik = log_likelihood(covariance, quad, data.weight)
        if data.ridge:
            self.loglik -= loading_penalty(covariance, data.ridge) / data.weight
        self._kept = False

    def update(self, out=None, keep=False):
        """The M-step: F, D (not clipped) and mean."""
        self._kept = keep
        F, D = self._posterior.regress(
            self._data.sums_of_squares, self._data.weight, out, keep, self._data.ridge)
        return F, D, self._data.mean

    def gradient(self, F, D, mean, scale=None, out=None):
        """Derivatives of the average log-likelihood by F and D, from the outcome of `update`."""
        if not self._kept:
            F, D, mean = self.update(keep=True)
        dF, dD = self._posterior.gradient(F, D, self._data.weight, scale, out)
        return dF, dD, np.zeros_like(mean)

    def precondition(self, G, shift, scale=None, out=None):
        """EM's answer to a gradient by F; the mean stays."""
        return self._posterior.precondition(G, self._data.weight, scale, out), shift


def scaled(x, scale, out):
    """``diag(scale) x``, in `out` where there is one: for sources that have no faster way."""
    if scale is not None:
        x = (x.T * scale).T
    if out is None:
        return x
    np.copyto(out, x, casting="same_kind")
    return out
