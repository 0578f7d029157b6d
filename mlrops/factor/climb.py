"""The climb of a factor model from one start, or from several in a tournament."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .._common.convergence import ConvergenceWarning
from .._common.driver import UNWATCHED, Iterate, Iteration, Run, Stopping, Watch, drive
from .._common.jobs import Jobs
from .._common.progress import progress_bar
from .._common.typing import FloatArray
from .._common.wording import counted
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .ascent import Ascent, Jumps
from .estep.protocol import Source
from .limits import warn_of_plateau
from .quasi_newton import QuasiNewton
from .scoring import Scoring

__all__ = ["FELT", "OPTIMIZERS", "Climb", "FactorAscent", "FactorStopping", "Race", "Tournament",
           "best_of_starts", "check_optimizer", "chosen_optimizer", "expects", "felt_by",
           "is_linear", "jumps_of", "starts_of", "warn_of_end"]

# The ways to climb: how each finds steps longer than those of EM.
OPTIMIZERS: dict[str, Callable[[Any, bool], Jumps] | None] = {
    "scoring": Scoring, "bfgs": QuasiNewton, "em": None}
# Scoring pays where there are so many samples, or features where these are fewer, for each factor:
# a step takes about ten products with the information, each the flops of 2.5 samples a factor.
MANY = 6
# Numbers in F up to which scoring is taken in any case: no step takes long.
FEW = 10_000
# Updates from each start before the best go on, and how many do: fewer rank the starts badly.
HEAT, FINALISTS = 60, 2
# Starts that a tournament tries before random ones.
DETERMINED = "principal_factor", "svd", "frobenius"
# Updates whose gains must all be small: one small gain is no proof that the next is small, too.
SMALL_GAINS = 3
# A gain of the log-likelihood of all samples, in nats, that no user of a likelihood feels.
FELT = 2e-4
# Updates whose gains are compared with those of as many before them.
WINDOW = 6
# Plain EM computes the gradient only at every so many updates; others have it anyway.
UPDATES_BETWEEN_GRADIENTS = 10


def check_optimizer(optimizer: object) -> None:
    """Refuse a name that is no way to climb."""
    if optimizer != "auto" and optimizer not in OPTIMIZERS:
        raise ValueError(
            f'optimizer must be "auto", "scoring", "bfgs" or "em", got {optimizer!r}')


def chosen_optimizer(optimizer: str, source: Source, R: int) -> str:
    """The name of the way to climb: the one given, or "auto" by what an evaluation costs."""
    check_optimizer(optimizer)
    if optimizer != "auto":
        return optimizer
    n = source.variance.size
    pays = source.is_dear or n * R <= FEW or min(source.n_samples, n) >= MANY * R
    return "scoring" if pays else "bfgs"


def is_linear(optimizer: str) -> bool:
    """Whether the coordinates of D are not its logarithms."""
    return getattr(OPTIMIZERS[optimizer], "linear", False)


def jumps_of(optimizer: str, vectors: Any, far: bool = False) -> Jumps | None:
    """What finds the steps, which are `vectors` of a surface; `far` from a maximum or not."""
    kind = OPTIMIZERS[optimizer]
    return None if kind is None else kind(vectors, far)


@dataclass(frozen=True, kw_only=True)
class FactorStopping(Stopping):
    """The rules of a factor model: where `felt` is given, no larger gain is small."""

    felt: float | None = None  # of the average log-likelihood a sample

    def largest_small(self, scale: float) -> float:
        return super().largest_small(scale) if self.felt is None else self.felt


class FactorAscent(Iteration):
    """The ascent of a factor model from one start, as `drive` takes it."""

    def __init__(self, ascent: Ascent, stopping: FactorStopping, hierarchy: Hierarchy):
        self.ascent, self.stopping, self.hierarchy = ascent, stopping, hierarchy
        self._independent = ascent.surface.independent

    @property
    def objective(self) -> float:
        return self.ascent.state.objective

    @property
    def loglik(self) -> float:
        return self.ascent.state.loglik

    def advance(self) -> str | None:
        return None if not self.ascent.exhausted and self.ascent.advance() else "tol"

    def reason(self, trace: list[float]) -> str | None:
        n_iter = len(trace) - 1
        if self.ascent.jumps is not None or n_iter % UPDATES_BETWEEN_GRADIENTS == 0:
            if self.ascent.state.gradient_norm <= self.stopping.gtol:
                return "gradient"
        # The gain over independent features does not depend on units, as the log-likelihood does.
        scale = max(trace[-1] - self._independent, self.hierarchy.n / 2)
        rule = self.stopping
        small = rule.small_gains(trace, scale, SMALL_GAINS)
        if small and rule.felt is not None and self.ascent.state.fades:
            small = replace(rule, felt=None).small_gains(trace, scale, SMALL_GAINS)
        return "tol" if small else None

    def iterate(self, n_iter: int) -> Iterate:
        state, surface = self.ascent.state, self.ascent.surface
        covariance = state.point.operator(self.hierarchy, surface.ranks, surface.source.dtype)
        return Iterate(n_iter, state.objective, state.loglik, covariance, ranks=surface.ranks)


class Climb(NamedTuple):
    """An ascent as it was left, in tree order: enough to go on with it."""

    point: Any
    objectives: list[float]
    logliks: list[float]
    n_evaluations: int
    exhausted: bool
    gradient_norm: float
    termination: str
    memory: dict[str, FloatArray]

    @classmethod
    def of(cls, ascent: Ascent, run: Run) -> "Climb":
        state = ascent.state
        memory = {} if ascent.jumps is None else ascent.jumps.memory()
        return cls(state.point, run.objectives, run.logliks, ascent.n_evaluations,
                   ascent.exhausted, state.gradient_norm, run.termination, memory)

    @property
    def is_over(self) -> bool:
        """Whether it converged, or was stopped: there is nothing to go on with."""
        return self.termination not in ("", "max_iter")

    def resumed(self, surface: Any, jumps: Jumps | None) -> tuple[Ascent, Run]:
        """An ascent that goes on where this one was left, and its run so far.

        It writes to the arrays of the point that it begins at: not to ours, which stand in
        checkpoints and come to other processes as memory that cannot be written to.
        """
        ascent = Ascent(surface, self.point.copy(), jumps)
        ascent.n_evaluations, ascent.exhausted = self.n_evaluations, self.exhausted
        if jumps is not None:
            jumps.remember(self.memory)
        times = [np.nan] * len(self.objectives)
        return ascent, Run(self.objectives, self.logliks, times)


class Tournament:
    """Climbs from several starts: `HEAT` updates from each, then the best go on to the end.

    With one start there is nothing to compare, and it is climbed from to the end.
    """

    def __init__(self, seeds: tuple[int, ...], number: int = 0, kept: list[Climb] | None = None):
        self.seeds = seeds
        self.number = number  # of the climb that is next or under way: heats, then finals
        self.kept: list[Climb] = [] if kept is None else kept  # best first in the heats

    @property
    def n_heats(self) -> int:
        return len(self.seeds) if len(self.seeds) > 1 else 0

    @property
    def is_heat(self) -> bool:
        return self.number < self.n_heats

    @property
    def n_climbs(self) -> int:
        finals = FINALISTS if self.n_heats else 1
        return self.n_heats + min(finals, len(self.seeds))

    @property
    def is_over(self) -> bool:
        return self.number >= self.n_climbs

    @property
    def entrant(self) -> Climb | None:
        """The climb that a final goes on with; None where it begins at a start."""
        return self.kept[self.number - self.n_heats] if self.n_heats and not self.is_heat else None

    def finish(self, climb: Climb) -> None:
        """Take what a climb came to, and go on to the next one."""
        if self.is_heat or not self.n_heats:
            self.kept = sorted([*self.kept, climb], key=_height, reverse=True)[:FINALISTS]
        else:
            self.kept[self.number - self.n_heats] = climb
        self.number += 1

    @property
    def best(self) -> Climb:
        return max(self.kept, key=_height)


def _height(climb: Climb) -> float:
    return climb.objectives[-1]


def starts_of(init: str | MLR, n_init: int) -> list[str | MLR]:
    """The kinds of the starts of a tournament; further random ones differ by their seeds."""
    if isinstance(init, str) and init == "random":
        return ["random"] * n_init
    others = [kind for kind in DETERMINED if isinstance(init, MLR) or kind != init]
    return [init, *others, *["random"] * n_init][:n_init]


class Race(NamedTuple):
    """What the climbs of a fit have in common."""

    surface: Any  # what is climbed, as `Ascent` takes it
    hierarchy: Hierarchy
    init: str | MLR
    stopping: FactorStopping
    optimizer: str

    def climb(self, tournament: Tournament, watch: Watch = UNWATCHED,
              saved: Climb | None = None) -> Climb:
        """The climb that is next: from a start, from where a heat left it, or from a checkpoint."""
        surface, number = self.surface, tournament.number
        before = saved or tournament.entrant
        if before is not None and before.is_over and saved is None:
            return before
        run = None
        if before is None:
            kind = starts_of(self.init, len(tournament.seeds))[number]
            far = isinstance(kind, str) and kind == "random"
            # Only random starts take a seed: sketches of the data are the same in every fit.
            seed = tournament.seeds[number] if far else None
            first = surface.first(kind, self.hierarchy, seed)
            ascent = Ascent(surface, first, jumps_of(self.optimizer, surface.vectors, far))
        else:
            ascent, run = before.resumed(surface, jumps_of(self.optimizer, surface.vectors))
        stopping, label = self.stopping, "EM" if self.optimizer == "em" else self.optimizer
        most = stopping.max_iter
        if tournament.is_heat:
            most, label = min(HEAT, most), f"start {number + 1}"
        climb = FactorAscent(ascent, replace(stopping, max_iter=most), self.hierarchy)
        return Climb.of(ascent, drive(climb, most, label, watch, run))

    def together(self, tournament: Tournament, jobs: Jobs, progress: bool) -> Climb:
        """The best of all climbs, those of all heats side by side, then those of all finals."""
        with progress_bar(total=tournament.n_climbs, desc="starts", disable=not progress) as bar:
            while not tournament.is_over:
                numbers = range(tournament.number,
                                tournament.n_heats if tournament.is_heat else tournament.n_climbs)
                next_ones = [(Tournament(tournament.seeds, number, [*tournament.kept]),)
                             for number in numbers]
                try:
                    for _, climb in jobs.run(self.climb, next_ones):
                        tournament.finish(climb)
                        bar.update()
                except KeyboardInterrupt:
                    if not tournament.kept:
                        raise
                    return tournament.best._replace(termination="interrupted")
        return tournament.best


def best_of_starts(race: Race, tournament: Tournament, watch: Watch, saved: Climb | None = None,
                   jobs: Jobs | None = None) -> Climb:
    """Climb from each start, or go on from a checkpoint; a user who stops it gets the best."""
    if tournament.n_heats and jobs is not None and not jobs.here:
        return race.together(tournament, jobs, watch.progress)
    while not tournament.is_over:
        climb, saved = race.climb(tournament, watch, saved), None
        tournament.finish(climb)
        if climb.termination in ("callback", "interrupted"):
            return tournament.best._replace(termination=climb.termination)
    return tournament.best


def felt_by(stopping: FactorStopping, tol: float | None, n_samples: int) -> FactorStopping:
    """The rules with that of gains that are felt, where no `tol` is given."""
    return replace(stopping, felt=FELT / n_samples) if tol is None else stopping


def warn_of_end(best: Climb, n_samples: int, stopping: FactorStopping, stacklevel: int = 3) -> None:
    """Warn where a climb came to the cap, or ended by the rule of felt gains on a plateau."""
    if best.termination == "max_iter":
        warnings.warn(
            f"the fit did not converge in {counted(stopping.max_iter, 'update')}; raise max_iter or"
            " tol", ConvergenceWarning, stacklevel=stacklevel)
    elif best.termination == "tol" and stopping.felt is not None:
        warn_of_plateau(n_samples * expects(best), stacklevel=stacklevel + 1)


def expects(climb: Climb) -> float:
    """What the last gains let expect of further updates, if they fall off as they did so far."""
    gains = np.diff(climb.objectives[-2 * WINDOW - 1 :])
    if gains.size < 2 * WINDOW:
        return 0.0
    before, last = gains[:WINDOW].sum(), gains[WINDOW:].sum()
    return float(last**2 / (before - last)) if 0 < last < before else 0.0

