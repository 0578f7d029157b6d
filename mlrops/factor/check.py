"""Is the end of a fit a maximum?  Its gradient, its curvatures, and what other climbs find."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from .._common.driver import Watch, drive
from .._common.jobs import Jobs
from .._common.progress import progress_bar
from .._common.typing import BoolArray, FloatArray, IntArray, Labels, RandomState, RowData
from .._common.validate import as_generator, check_rank
from .ascent import Ascent
from .climb import (
    FELT,
    FactorAscent,
    FactorStopping,
    Race,
    Tournament,
    chosen_optimizer,
    is_linear,
    jumps_of,
)
from .divergence import kl_divergence
from .likelihood import State
from .limits import PLATEAU, at_floor, run_off, too_few_samples
from .maximum import CURVED, Curvature, MaximumCheck, OtherStart, verdict
from .point import Point
from .probe import Probe
from .reopened import Reopened, reopen
from .usable import usable_columns

__all__ = ["Checked", "check_maximum"]

# Steps of Lanczos' method by differences, of two evaluations each, and by the information.
STEPS, CHEAP_STEPS = 12, 40
# Updates that show what is to be gained from a point that is no maximum.
UPDATES = 30
# Nats of all samples from which on an expected gain is looked into.
WORTH = 0.1 * PLATEAU
# A column is zero whose squares in units of D sum to less; the size of a random one in its place.
ZERO, SMALL = 1e-4, 0.1
# Lengths of steps from a saddle, in the units of `Probe.size`.
LENGTHS = 0.1, 0.3, 1.0
# Nats of all samples by which the likelihood must tell two covariances apart to call them two.
APART = 1.0


class Checked:
    """The method of a result that asks whether it is a maximum."""

    def check(self, Y: RowData, *, sample_weight: Labels | None = None,
              missing: Literal["raise", "em"] = "em", n_directions: int = 5, n_init: int = 1,
              n_jobs: int | None = None, random_state: RandomState = None,
              progress: bool = False) -> MaximumCheck:
        """Look around the end of the fit, to see whether it is a maximum of what was climbed.

        Parameters
        ----------
        Y : array_like, DataFrame, sparse matrix, data on disk or row chunks, shape (N, n)
            The data that were fitted to, of any kind that `fit_factor_model` takes: a result does
            not keep them.
        sample_weight : array_like, Series or dict, shape (N,), optional
            Those of the fit.
        missing : {"raise", "em"}, optional
            What to do about missing cells; complete data on disk and chunks are faster with
            "raise".
        n_directions : int, optional
            Directions along which curvatures are computed, by the expected information and by
            differences of the gradient: the least and the most curved one that twelve steps of
            Lanczos' method find, the one to the maximum that is expected, the one of which the
            samples say least, and random ones.  0 leaves them out.
        n_init : int, optional
            Random starts to climb from, to see what else there is.
        n_jobs : int, optional
            How many climbs from them run at a time, each in a worker of joblib: -1 is one for each
            core, None is one unless a `joblib.parallel_config` around the call says otherwise.  The
            result is the same, see the notes of `fit_factor_model`.
        random_state : None, int or numpy.random.Generator, optional
            Seed of directions and starts.
        progress : bool, optional
            Show progress bars.

        Returns
        -------
        MaximumCheck
            ``verdict``, the figures it rests on, and ``summary()``, which printing gives, too.

        Raises
        ------
        ValueError, TypeError
            Y, weights or names are not those of the fit.

        Notes
        -----
        It takes about 35 evaluations of the likelihood, as many more where something is to be
        gained, and a fit for each other start.  Directions leave out rotations of the factors,
        which change nothing.  The floor of the variances is taken to be where the lowest of
        `boundary` stands.

        Examples
        --------
        >>> import warnings
        >>> from mlrops import Hierarchy, fit_factor_model
        >>> from mlrops.datasets import simulate_mlr
        >>> h = Hierarchy.balanced(60, [1, 3])
        >>> Y = simulate_mlr(h, (3, 1), n_samples=400, random_state=0).Y
        >>> fit_factor_model(Y, (3, 1), h).check(Y, random_state=0).verdict
        'maximum'
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     stopped = fit_factor_model(Y, (3, 1), h, max_iter=3)
        >>> stopped.check(Y, random_state=0).verdict.startswith("not a maximum: going on gains")
        True
        """
        return check_maximum(self, Y, sample_weight, missing, n_directions, n_init,
                             Jobs(n_jobs, data=Y), random_state, progress)


def check_maximum(fit: Any, Y: Any, sample_weight: Any, missing: str, n_directions: int,
                  n_init: int, jobs: Jobs, random_state: Any, progress: bool) -> MaximumCheck:
    """See `FactorModelResult.check`."""
    check_rank(n_directions, "n_directions")
    check_rank(n_init, "n_init")
    rng = as_generator(random_state)
    opened = reopen(fit, Y, sample_weight, missing)
    state, N = opened.state(), opened.source.n_samples
    zero = _zero_columns(opened)
    looked = _Look(opened, state, Probe(state, rng, zero), progress)
    expected = N * looked.probe.expected_gain
    ahead = looked.ahead() if expected > WORTH else expected
    curvatures, least, down = looked.curvatures(n_directions)
    saddle = looked.from_saddle(down) if least < -CURVED else 0.0
    empty = looked.from_small_columns(zero, rng) if zero.any() else 0.0
    seeds, here = rng.integers(2**63, size=n_init), jobs.here
    climbs = jobs.run(partial(_from_other_start, opened, state),
                      ((int(seed), progress and here) for seed in seeds))
    others = tuple(other for _, other in progress_bar(
        climbs, total=n_init, desc="other starts", disable=not progress or here))
    found = MaximumCheck(
        verdict="", n_samples=N, loglik=state.loglik, objective=state.objective,
        gradient_norm=state.gradient_norm, largest=_largest(opened, state),
        expected_gain=expected, ahead=ahead, curvatures=curvatures, least_curvature=least,
        saddle_gain=saddle, zero_columns=_by_group(opened, zero), zero_column_gain=empty,
        held=_held(opened, looked.probe), others=others)
    return replace(found, verdict=verdict(found, _unbounded(opened)))


class _Look:
    """What is found around the end of a fit; gains are nats of all samples."""

    def __init__(self, opened: Reopened, state: State, probe: Probe, progress: bool):
        self.opened, self.state, self.probe, self.progress = opened, state, probe, progress
        self.N = opened.source.n_samples

    def climb(self, first: Point) -> State:
        """Where some updates lead to."""
        surface = self.state.surface
        first = Point(*(x.copy() for x in first))  # an ascent writes to what it has left
        ascent = Ascent(surface, first, jumps_of("scoring", surface.vectors))
        rules = FactorStopping(gtol=1e-9, felt=FELT / self.N)
        climb = FactorAscent(ascent, rules, self.opened.hierarchy)
        drive(climb, UPDATES, "look around", Watch(self.progress))
        return ascent.state

    def gain(self, to: State) -> float:
        return self.N * (to.objective - self.state.objective)

    def ahead(self) -> float:
        """What some updates gain, and what is expected of those after them."""
        there = self.climb(self.state.point)
        zero = _zero_columns(self.opened)
        return self.gain(there) + self.N * Probe(there, self.probe.rng, zero).expected_gain

    def curvatures(self, n: int) -> tuple[tuple[Curvature, ...], float, FloatArray]:
        """Along n directions; the smallest one relative to M, and the direction that has it."""
        if not n:
            return (), np.nan, np.empty(0)
        probe = self.probe
        seen = probe.extremes(probe.hessian, STEPS)
        if not seen.values.size:
            return (), np.nan, np.empty(0)
        known = probe.extremes(probe.information, CHEAP_STEPS, _zero_columns(self.opened))
        named = [("least curved", seen.directions[0]), ("most curved", seen.directions[-1]),
                 ("to the maximum expected", probe.admissible(probe.step)),
                 *[("least information", d) for d in known.directions[:1]]]
        named += [(f"random {i + 1}", probe.random()) for i in range(n - len(named))]
        rows = tuple(self._curvature(name, d) for name, d in named[:n])
        return rows, float(seen.values[0]), seen.directions[0]

    def _curvature(self, name: str, d: FloatArray) -> Curvature:
        size = self.probe.size(d)
        d = d / size if size > 0 else d
        return Curvature(name, *(self.N * float(d @ matrix(d))
                                 for matrix in (self.probe.information, self.probe.hessian)))

    def from_saddle(self, d: FloatArray) -> float:
        """What is gained from a step along a direction, either way."""
        surface, d = self.state.surface, d / self.probe.size(d)
        tried = [self.probe.moved(surface, d, sign * s) for s in LENGTHS for sign in (1, -1)]
        first = max(tried, key=lambda point: surface.evaluate(point).objective)
        return self.gain(self.climb(first))

    def from_small_columns(self, zero: BoolArray, rng: np.random.Generator) -> float:
        """What is gained from small random columns where there are zeros."""
        point = self.state.point
        small = rng.standard_normal(point.F.shape) * np.sqrt(point.D)[:, None]
        sizes = np.concatenate(
            [np.repeat(tree.group_sizes(level)[:, None].repeat(r, 1), tree.group_sizes(level), 0)
             for tree in [self.state.surface.tree]
             for level, r in enumerate(self.opened.ranks)], axis=1)
        F = point.F + np.where(zero, SMALL * small / np.sqrt(sizes), 0)
        return self.gain(self.climb(point._replace(F=F)))


def _largest(opened: Reopened, state: State) -> tuple[str | int, str]:
    """Feature and part of the largest derivative."""
    F, D, mean = state.surface.parts(state.gradient)
    unit = np.sqrt(state.point.D) / state.surface.sd
    sizes = [np.abs(F * unit[:, None]), np.abs(D * unit**2)[:, None]]
    parts = [f"level {level}" for level, r in enumerate(opened.ranks) for _ in range(r)] + ["D"]
    if mean.size:
        sizes.append(np.abs(mean * unit)[:, None])
        parts.append("mean")
    every = np.concatenate(sizes, axis=1)
    place, part = np.unravel_index(int(every.argmax()), every.shape)
    return _name(opened, int(opened.hierarchy.permutation[place])), parts[part]


def _name(opened: Reopened, feature: int) -> str | int:
    return feature if opened.names is None else opened.names[feature]


def _held(opened: Reopened, probe: Probe) -> tuple[tuple[str | int, float], ...]:
    """Features at the floor, and their derivatives by log D that nothing holds back."""
    place: IntArray = at_floor(opened.point.D, opened.floor)
    if not place.size:
        return ()
    _, D, _ = probe.free.parts(probe.freely.gradient)
    slopes = D * probe.free.unit(opened.point.D)
    features = opened.hierarchy.permutation[place]
    return tuple((_name(opened, int(features[j])), float(slopes[place[j]]))
                 for j in np.argsort(features))


def _zero_columns(opened: Reopened) -> BoolArray:
    """Mask (n, R) of columns that are zero though their group could use them, in tree order."""
    tree, F, D = opened.hierarchy._in_tree_order(), opened.point.F, opened.point.D
    squares = np.square(F) / D[:, None]
    ends = np.cumsum([0, *opened.ranks])
    sums = [np.add.reduceat(squares[:, a:b], offsets[:-1]).repeat(np.diff(offsets), axis=0)
            for a, b, offsets in zip(ends[:-1], ends[1:], tree.boundaries, strict=True)]
    zero: BoolArray = np.concatenate(sums, axis=1) < ZERO
    return zero & usable_columns(tree, opened.ranks)


def _by_group(opened: Reopened, zero: BoolArray) -> tuple[tuple[int, int, int], ...]:
    """(level, group, columns) of the groups that have any."""
    ends, found = np.cumsum([0, *opened.ranks]), []
    for level, offsets in enumerate(opened.hierarchy.boundaries):
        counts = zero[offsets[:-1], ends[level] : ends[level + 1]].sum(axis=1)
        found += [(level, int(g), int(counts[g])) for g in np.flatnonzero(counts)]
    return tuple(found)


def _from_other_start(opened: Reopened, state: State, seed: int, progress: bool) -> OtherStart:
    """Climb from a random start to the end."""
    optimizer = chosen_optimizer("auto", opened.source, sum(opened.ranks))
    race = Race(opened.surface(is_linear(optimizer)), opened.hierarchy, "random",
                FactorStopping(felt=FELT / opened.source.n_samples), optimizer)
    climb = race.climb(Tournament((seed,)), Watch(progress))
    objective = climb.objectives[-1]
    here, there = (opened.covariance(point) for point in (state.point, climb.point))
    means = (opened.hierarchy._scatter(point.mean) for point in (climb.point, state.point))
    apart = max(kl_divergence(there, next(means), here, next(means), None), 0.0)
    return OtherStart(objective, objective - state.objective,
                      opened.source.n_samples * apart <= APART, apart)


def _unbounded(opened: Reopened) -> str | None:
    """Why the likelihood has no maximum, or None."""
    if opened.prior is not None:
        return None
    source, hierarchy, ranks = opened.source, opened.hierarchy, opened.ranks
    place = at_floor(opened.point.D, opened.floor)
    return (too_few_samples(hierarchy, ranks, source.n_samples, opened.center)
            or run_off(source, hierarchy, ranks, opened.point, place, opened.names))
