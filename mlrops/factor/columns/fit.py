"""`fit_factor_model` for a dask array in chunks of columns."""

import math
from typing import Any

import numpy as np

from ..._common.cluster import joined
from ..._common.driver import CONVERGED, Watch
from ..._common.given import Given
from ..._common.typing import IntArray
from ...operators.cut import cut_at
from ...operators.mlr import check_ranks
from ...tree.hierarchy import Hierarchy
from ...tree.reading import tree_of
from ..checkpoint import Checkpointing, to_resume
from ..climb import (
    Climb,
    FactorStopping,
    Race,
    Tournament,
    best_of_starts,
    check_optimizer,
    felt_by,
    jumps_of,
    warn_of_end,
)
from ..estep.chunks import check_features
from ..estep.columns import Bench
from ..likelihood import VanishingVariance
from ..limits import LOWER, at_floor, tied, too_few_samples, warn_of_floor, warn_of_prior
from ..point import Point
from ..prior import MANY, MUCH, NEEDS_PRIOR, read_strength, read_variance
from ..usable import capped_groups
from .checkpoint import PartsCheckpoint, identity_of_parts
from .result import DistributedFactorModel
from .source import Options, open_columns
from .surface import SpreadPoint, SpreadSurface

__all__ = ["fit_columns", "places"]


def fit_columns(given: Given, ranks: Any, hierarchy: Any, *, init: Any, n_init: int,
                optimizer: str, prior: Any, prior_variance: Any, center: bool, missing: str,
                compress: Any, stopping: FactorStopping, tol: float | None, variance_floor: float,
                watch: Watch, checkpointing: Checkpointing, random_state: Any
                ) -> DistributedFactorModel:
    """The fit to features in chunks of columns; see `fit_factor_model`."""
    _check_options(given, optimizer, prior, missing, compress)
    hierarchy = tree_of(hierarchy, given.names, given.n)
    check_features(given.values.shape, hierarchy)
    level_ranks = check_ranks(ranks, hierarchy)
    strength, t = _prior(prior, prior_variance, hierarchy, level_ranks)
    way = "bfgs" if optimizer == "auto" else optimizer
    saves = checkpointing.path is not None
    surface = open_columns(
        given, cut_at(hierarchy, level_ranks, given.values.chunks[1]),
        Options(level_ranks, bool(center), float(variance_floor), strength, saves), t,
        keep=way != "em")
    n_samples = surface.source.n_samples
    stopping = felt_by(stopping, tol, n_samples)
    seeds = np.random.default_rng(random_state).integers(2**63, size=n_init)
    race, identity = Race(surface, hierarchy, init, stopping, way), None
    if saves:
        identity = identity_of_parts(surface, hierarchy, strength, t, **to_resume(
            init, n_init, stopping, random_state, optimizer=way, center=bool(center),
            variance_floor=float(variance_floor)))
    try:
        best = _climbed(race, Tournament(tuple(map(int, seeds))), watch, checkpointing, identity)
    except VanishingVariance as error:
        raise error.naming(hierarchy, hierarchy.feature_names, "feature") from None
    place, ruled = places(surface, best.point, strength)
    boundary, names = np.sort(hierarchy.permutation[place]), hierarchy.feature_names
    unbounded = None
    if not strength:
        unbounded = (too_few_samples(hierarchy, level_ranks, n_samples, center)
                     or _run_off(surface, hierarchy, best, place))
    warn_of_end(best, n_samples, stopping, stacklevel=5)
    warn_of_floor(boundary, names, variance_floor, unbounded, stacklevel=5)
    warn_of_prior(np.sort(hierarchy.permutation[ruled]), hierarchy.n, names, stacklevel=5)
    # What jumps remember is not for the files that the result goes back to.
    point, best = best.point, best._replace(point=None, memory={})
    return _result(surface, hierarchy, point, best, strength, {
        "boundary": boundary, "optimizer": way, "mean_is_estimated": bool(center),
        "capped": capped_groups(hierarchy, level_ranks)})


def _climbed(race: Race, tournament: Tournament, watch: Watch, checkpointing: Checkpointing,
             identity: dict[str, str] | None) -> Climb:
    """The best climb; what else a checkpoint holds is let go."""
    if identity is None:
        return best_of_starts(race, tournament, watch)
    keeper = PartsCheckpoint(checkpointing, identity, tournament)
    tournament = keeper.resume(race.surface, jumps_of(race.optimizer, race.surface.vectors))
    return best_of_starts(race, tournament, watch._replace(observer=keeper), keeper.saved)


def _check_options(given, optimizer, prior, missing, compress):
    check_optimizer(optimizer)
    by_rows = "for chunks of rows, Y.rechunk({1: -1}), or data in memory"
    for wrong, what in (
            (missing == "em", f'missing="em" is {by_rows}: give complete columns'),
            (bool(compress), f"compress=True is {by_rows}"),
            (isinstance(prior, str) and prior == "cv", f'prior="cv" is {by_rows}'),
            (optimizer == "scoring", f'optimizer="scoring" is {by_rows}: take "bfgs"')):
        if wrong:
            raise ValueError(f"Y is in chunks of columns: {what}")
    if missing != "raise":
        raise ValueError(f'missing must be "raise" or "em", got {missing!r}')
    if hasattr(given.weights, "__dask_graph__"):
        raise TypeError("sample_weight must be an array in memory where Y is in chunks of columns:"
                        " give sample_weight.compute()")


def _prior(prior, variance, hierarchy, ranks):
    """Strength of the prior, 0 for none, and the variances (n,) given for it."""
    strength = read_strength(prior)
    if strength is None:
        if variance is not None:
            raise ValueError(NEEDS_PRIOR)
        return 0.0, None
    t = None if variance is None else read_variance(
        variance, hierarchy.feature_names, hierarchy.n, "feature")
    return float(sum(ranks) if strength is True else strength), t


# ---------------------------------------------------------------- the end of a fit


def places(surface: SpreadSurface, point: SpreadPoint, strength: float
           ) -> tuple[IntArray, IntArray]:
    """Places of the variances at the floor, and of those that the prior sets."""
    many = surface.source.n_samples >= MANY * surface.source.n_features
    return surface.benches.total(joined, _place, point.parts, strength if many else 0.0)


def _place(bench: Bench, point: Point, strength: float) -> tuple[IntArray, IntArray]:
    prior, low = bench.surface.prior, at_floor(point.D, bench.surface.floor)
    ruled = np.array([], int)
    if strength and prior is not None:
        ruled = np.flatnonzero(prior.shares * prior.variance >= MUCH * point.D)
    return low + bench.first, ruled + bench.first


def _run_off(surface: SpreadSurface, hierarchy: Hierarchy, best: Climb, place: IntArray
             ) -> str | None:
    """Why variances at the floor say that the likelihood has no maximum; see `limits.run_off`."""
    if place.size < 2:
        return None
    lower = SpreadPoint(surface, surface.benches.map(_lowered, best.point.parts))
    try:
        rise = surface.evaluate(lower, keep=False).loglik - best.logliks[-1]
    except VanishingVariance:
        return None
    if rise < -0.25 * math.log(LOWER):
        return None
    return tied(hierarchy, place, hierarchy.feature_names)


def _lowered(bench, point):
    D = point.D.copy()
    D[at_floor(D, bench.surface.floor)] *= LOWER
    return point._replace(D=D)


def _result(surface: SpreadSurface, hierarchy: Hierarchy, point: SpreadPoint, best: Climb,
            strength: float, more: dict[str, Any]) -> DistributedFactorModel:
    """The result, all of whose parts go back to files and no longer to the data."""
    source, shelf = surface.source, surface.shelf
    covariance = point.operator(hierarchy, surface.ranks, source.dtype).principal()
    mean = surface.benches.map(_mean, source.dtype)
    prior_variance = surface.benches.map(_prior_variance) if strength else None
    loglik = best.logliks[-1]
    if source.dtype != np.float64:
        rounded = SpreadPoint(surface, surface.benches.map(_rounded, covariance._parts))
        loglik = surface.evaluate(rounded, keep=False).loglik
    covariance.persist()
    counts: dict[str, Any] = {
        "loglik": loglik, "loglik_trace": np.array(best.logliks),
        "objective_trace": np.array(best.objectives), "n_iter": len(best.logliks) - 1,
        "converged": best.termination in CONVERGED, "termination": best.termination,
        "n_samples": source.n_samples, "n_evaluations": best.n_evaluations,
        "gradient_norm": best.gradient_norm, "feature_names": hierarchy.feature_names}
    shelf.settle(anchored=False)
    if prior_variance is not None:
        counts |= {"prior": strength,
                   "prior_variance": covariance._rows(prior_variance.parts, ()),
                   "prior_share": np.full(hierarchy.n, strength / (source.n_samples + strength))}
    return DistributedFactorModel(
        covariance=covariance, mean=covariance._rows(mean.parts, ()), **counts, **more)


def _mean(bench, dtype):
    return bench.tree._scatter(bench.data.mean).astype(dtype)


def _prior_variance(bench):
    return bench.tree._scatter(bench.surface.prior.variance)


def _rounded(bench, part):
    return Point(part.F.astype(float), part.D.astype(float), bench.data.mean)
