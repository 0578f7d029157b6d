"""The problem that a fit climbed, made again from its result and the data it was made from."""

from typing import Any, NamedTuple

import numpy as np

from .._common.labels import match
from .._common.typing import FloatArray
from .._common.wording import counted, name_some
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import Source
from .estep.sources import open_source
from .likelihood import LikelihoodSurface, State, VanishingVariance
from .point import Point
from .prior import Prior

__all__ = ["Reopened", "derivatives", "reopen"]

# The floor of a fit that left no variance there: the share that fits take unless told.
USUAL_FLOOR = 1e-6
# Variances this near to the floor, relatively, stand at it: results may have single precision.
EQUAL = 1e-4


class Reopened(NamedTuple):
    """A problem and where its fit ended, on principal axes, in tree order."""

    source: Source
    hierarchy: Hierarchy
    names: tuple[str, ...] | None
    ranks: tuple[int, ...]
    floor: FloatArray
    prior: Prior | None
    center: bool
    point: Point

    def surface(self, linear: bool = True) -> LikelihoodSurface:
        return LikelihoodSurface(self.source, self.hierarchy._in_tree_order(), self.ranks,
                                 self.floor, linear=linear, prior=self.prior)

    def state(self) -> State:
        """Where the fit ended, with its gradient."""
        try:
            return derivatives(self.surface(), self.point)
        except VanishingVariance as error:
            raise error.naming(self.hierarchy, self.names, "feature") from None

    def covariance(self, point: Point) -> MLR:
        """The covariance at a point, features in the order of the data."""
        return point.operator(self.hierarchy, self.ranks, np.dtype(float))


def derivatives(surface: LikelihoodSurface, point: Point) -> State:
    """The state at a point, whose gradient is known."""
    state = surface.evaluate(point)
    state.map(Point.empty_like(point), True)
    return state


def reopen(fit: Any, Y: Any, sample_weight: Any, missing: str) -> Reopened:
    """The problem of a `FactorModelResult`; data that it was not made from are refused.

    The floor of the variances is not in the result: it is the lowest share of its feature's own
    variance at which one of the `boundary` stands.
    """
    source, hierarchy, names = open_source(
        Y, fit.covariance.hierarchy, fit.mean_is_estimated, missing, sample_weight, None)
    if names is not None and fit.feature_names is None:
        raise ValueError(f"Y has names of features ({name_some(names)}), the fit has none: give Y"
                         " as a plain array, features in the order of the fit")
    if source.n_samples != fit.n_samples:
        raise ValueError(f"the fit was made from {counted(fit.n_samples, 'sample')} of positive"
                         f" weight, Y has {source.n_samples}; give the same data")
    order = (None if names is None or fit.feature_names is None else
             match(fit.feature_names, names, "the fit", "feature"))

    def arranged(x: Any) -> FloatArray:
        """A value a feature, from the order of the fit to tree order."""
        x = np.asarray(x, float)
        return hierarchy._gather(x if order is None else x[order])

    A = fit.covariance.astype(float).principal()
    D = arranged(A.D)
    floor = _floor(D, source, arranged(np.isin(np.arange(A.shape[0]), fit.boundary)) > 0)
    prior = None
    if fit.prior:
        N = float(source.n_samples)
        prior = Prior(fit.prior, arranged(fit.prior_variance), N, N * source.shares)
    mean = arranged(fit.mean) if source.mean_is_free else source.mean
    point = Point(arranged(A.F), np.maximum(D, floor), mean)
    opened = Reopened(source, hierarchy, names, A.ranks, floor, prior,
                      fit.mean_is_estimated, point)
    _check_same(fit, opened.state().loglik, source.dtype)
    return opened


def _floor(D: FloatArray, source: Source, held: Any) -> FloatArray:
    """The floor of each variance, in tree order; `held` ones stand near it."""
    share = D / source.variance
    if not held.any():
        return min(USUAL_FLOOR, share.min() / 2) * source.variance
    floor = share[held].min() * source.variance
    same = held & (D <= (1 + EQUAL) * floor)
    floor[same] = D[same]
    return floor


def _check_same(fit: Any, loglik: float, dtype: Any) -> None:
    """Refuse data of which the fit does not have the likelihood that its result says."""
    rounding = np.sqrt(np.finfo(dtype).eps) * max(fit.n_features, abs(fit.loglik))
    if not abs(loglik - fit.loglik) <= rounding:
        raise ValueError(
            f"the fit has a log-likelihood of {fit.loglik:.6f} a sample, and of Y it is"
            f" {loglik:.6f}: give the data that it was made from, with the same sample_weight")
