"""How a fit finds its ranks and factors: growth from nothing, exchanges of rank, steps to the end.

Each is an `Iteration` on a `State`, whose `engine` has the factors: an `Alternation`, which reads
A twice a step, or a `Descent`, which keeps a residual.  Both are asked the same: `step`, `gains`,
`losses`, `add` and `drop` a column, `snapshot` and `restore`, `error`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._common.driver import Iterate, Iteration, Watch, drive
from .._common.typing import RandomState
from .alternation import Alternation
from .descent import Descent
from .target import Target

__all__ = ["Exchanges", "Growth", "Refinement", "State", "alternate", "grow", "symmetric_end"]

# Steps after an exchange: to win, and once it has won.
REFIT, SETTLE = 8, 6
# Steps of a refit when exchanges have come to an end.
LONGEST = 100
# Sweeps over a symmetric fit at the end of a search that knows nothing of symmetry.
SWEEPS = 20
# What it has to gain, as a share of the error, for exchanges to be tried once more; and for errors
# that are known from samples only, to a few percent.  With 0.05 a radial kernel of 3000 points
# ended 1% higher, after two thirds of the passes.
REOPEN, SAMPLED_REOPEN = 0.003, 0.03
# What a fit without a residual may lose by being made symmetric before it is grown anew.
SYMMETRY = 0.05
# A real improvement, as a share of the error.
LEAST_GAIN = 1e-4


class State:
    """A target, the engine that has the factors, and when it began."""

    engine: Any  # Alternation or Descent

    def __init__(self, target: Target, random_state: RandomState):
        self.target, self.began = target, time.perf_counter()
        self._rng = np.random.default_rng(random_state)
        self._passes = 0.0  # of engines that are gone

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.engine.ranks

    @property
    def n_passes(self) -> float:
        """How often A has been read."""
        return self._passes + self.engine.n_passes

    def open(self, total: int = 0) -> None:
        """Begin without columns, for a total rank: on sibling blocks, or, if psd, a residual."""
        if self.target.psd:
            self.descend((0,) * self.target.pairs.n_levels)
            return
        blocks = self.target.blocks(self._rng, total)
        self.target.check_scale(np.sqrt(blocks.squared_norm))
        self.engine = Alternation(blocks, self.target.pairs, self.target.dtype, self._rng)

    @property
    def sampled(self) -> bool:
        """Whether errors are those to some of the entries."""
        return self.target.kind == "function"

    @property
    def has_residual(self) -> bool:
        """Whether a residual can take over: not of a function, nor of peeled blocks."""
        return isinstance(self.engine, Descent) or self.target.kind in ("dense", "sparse")

    def held_out(self) -> tuple[float | None, float | None]:
        """Error of the fit to the matrix itself, and its standard error, where blocks stand for it.
        """
        if self.has_residual:
            return None, None
        return self.target.held_out(
            self.engine.factors.operator(), self.engine.blocks, self._rng)

    def descend(self, ranks: Sequence[int], levels: Any = None) -> None:
        """Begin with columns of zeros, on a residual."""
        self.engine = Descent(self.target, ranks, self._rng, levels)

    def error(self) -> float:
        """The error of the factors.

        Where sibling blocks cannot tell it from rounding, it is found from a residual, which is
        kept and worked on.
        """
        engine = self.engine
        if isinstance(engine, Alternation) and self.target.kind == "dense" and engine.blurred:
            self.hand_over()
        return float(self.engine.error())

    def hand_over(self) -> None:
        """Go on from the factors with a residual, made symmetric where the fit is to be."""
        if isinstance(self.engine, Descent):
            return
        before = self.engine.error()
        if self.target.symmetric:
            self.engine.make_symmetric()
        if not self.has_residual:
            if self.engine.error() > (1 + SYMMETRY) * before:
                regrow(self)
            self.engine.factors.symmetric = self.target.symmetric
            return
        factors, self._passes = self.engine.factors, self.engine.n_passes
        del self.engine  # and its copy of A
        factors.symmetric = self.target.symmetric
        self.descend(factors.ranks)
        self.engine.take_over(factors)

    def iterate(self, stage: str, n_iter: int, error: float) -> Iterate:
        """What a callback gets."""
        return Iterate(n_iter, error, ranks=self.ranks, stage=stage, n_passes=self.n_passes,
                       seconds=time.perf_counter() - self.began)


class _Stage(Iteration):
    """Steps on a state; at the best factors so far."""

    measure, name = "error", ""

    def __init__(self, state: State):
        self._state = state
        self._keep(state.error())

    def _keep(self, error: float) -> None:
        self._kept = error, self._state.engine, self._state.engine.snapshot()

    @property
    def objective(self) -> float:
        return self._kept[0]

    def shown(self) -> dict[str, object]:
        return {"stage": self.name, "ranks": " ".join(map(str, self._state.ranks)),
                "passes": f"{self._state.n_passes:.0f}"}

    def iterate(self, n_iter: int) -> Iterate:
        return self._state.iterate(self.name, n_iter, self.objective)

    def restore(self) -> None:
        """Put the factors of the last whole step back; the residual is no longer theirs."""
        _, self._state.engine, saved = self._kept
        self._state.engine.recall(saved)


class Growth(_Stage):
    """Columns from nothing, each at the level where it gains most, and a step after each.

    Levels grow up to `most` columns each, all of them up to `total`.
    """

    name = "growth"

    def __init__(self, state: State, most: Sequence[float], total: int):
        self._most, self._total = np.array(most), total
        if total:
            state.engine.begin()
        super().__init__(state)

    def reason(self, trace: list[float]) -> str | None:
        small = self.objective <= self._state.engine.floor
        return "exact" if small or sum(self._state.ranks) >= self._total else None

    def advance(self) -> str | None:
        engine = self._state.engine
        open_levels = np.array(engine.ranks) < self._most
        engine.add(int(np.argmax(np.where(open_levels, engine.gains(), -1))))
        engine.step()
        self._keep(self._state.error())
        return None

    def iterate(self, n_iter: int) -> Iterate:
        return self._state.iterate(self.name, 0, self.objective)


class Refinement(_Stage):
    """Steps at given ranks; no step may raise the error."""

    name = "refinement"

    def __init__(self, state: State, tol: float, step: Callable[[], object] | None = None):
        self._tol, self._own = tol, step
        super().__init__(state)

    def advance(self) -> str | None:
        engine, (least, _, saved) = self._state.engine, self._kept
        if self._own is None:
            engine.step()
        else:
            self._own()
        error = self._state.error()
        if error > least and engine is self._state.engine:  # by rounding alone
            engine.restore(saved)
            # Of samples the two sides have different ones, whose optima need not agree.
            return "tol" if error - least <= engine.floor or self._state.sampled else "rounding"
        self._keep(error)
        return None

    def reason(self, trace: list[float]) -> str | None:
        if trace[-1] <= self._state.engine.floor:
            return "exact"
        small = len(trace) > 1 and trace[-2] - trace[-1] <= self._tol * trace[-2]
        return "tol" if small or not any(self._state.ranks) else None


def grow(state: State, most: Sequence[float], total: int, watch: Watch) -> str:
    """Grow columns; the reason, if it ended before all were there."""
    state.open(total)
    run = drive(Growth(state, most, total), total, "growth", watch)
    return "" if run.termination in ("exact", "max_iter") else run.termination


def alternate(state: State, tol: float, watch: Watch) -> str:
    """Refit by steps that know nothing of symmetry; the reason, if a user ended it."""
    run = drive(Refinement(state, tol), LONGEST, "refit", watch)
    return run.termination if run.termination in ("callback", "interrupted") else ""


def symmetric_end(state: State, tol: float, errors: list[float], times: list[float], sweep: bool
                  ) -> tuple[list[float], list[float]]:
    """Make the fit symmetric, and `sweep` over it where it has a residual.

    Returned are the trace of a fit, `errors` and `times`, without what this does not reach, and its
    end.
    """
    state.hand_over()
    sweep = sweep and state.has_residual
    run = drive(Refinement(state, tol), SWEEPS if sweep else 0, "sweeps")
    error = run.objectives[-1]
    kept = [k for k, found in enumerate(errors) if found > error]
    return ([*(errors[k] for k in kept), error],
            [*(times[k] for k in kept), run.times[-1] - state.began])


def regrow(state: State) -> None:
    """Symmetric factors of the same ranks that grew together, where they are better.

    Exchanges may leave levels each far from symmetric, which make up for one another; no turns mend
    that.
    """
    first, ranks = state.engine, state.ranks
    state.engine = Alternation(first.blocks, first.pairs, first.factors.dtype, first.rng)
    state.engine.n_passes = first.n_passes
    drive(Growth(state, ranks, sum(ranks)), sum(ranks), "growth")
    alternate(state, LEAST_GAIN, Watch())
    state.engine.make_symmetric()
    first.n_passes = state.engine.n_passes
    if state.engine.error() < first.error():
        state.engine.factors.widen(ranks)
    else:
        state.engine = first


class Exchanges(_Stage):
    """Exchanges of rank between levels, and long refits when they come to an end."""

    name = "exchanges"
    _end: str | None = None  # why no further step is of use

    def __init__(self, state: State, max_failures: int, tol: float, settle: bool = True):
        self._max_failures, self._tol = max_failures, tol
        self.history: list[tuple[tuple[int, ...], float]] = []  # ranks and error of each step
        self.n_trials = 0
        self.blurred = False  # whether the last error refused was less, but for rounding
        self._state = state
        if settle:
            self._settle()
        else:
            self._record(state.error())

    @property
    def objective(self) -> float:
        return self.history[-1][1]

    def reason(self, trace: list[float]) -> str | None:
        return self._end or ("exact" if trace[-1] <= self._state.engine.floor else None)

    def advance(self) -> str | None:
        if not self.exchange() and not self.converge():
            self._end = "rounding" if self.blurred else "tol"
        return None

    def _record(self, error: float) -> None:
        self.history.append((self._state.ranks, error))
        self._keep(error)
        self._whole = len(self.history)

    def restore(self) -> None:
        super().restore()
        del self.history[self._whole :]

    def _settle(self) -> None:
        """Steps at the new ranks, and what columns would gain and lose."""
        self._state.error()
        engine = self._state.engine
        self._gains = engine.gains()
        for _ in range(SETTLE):
            engine.step()
        self._losses = engine.losses()
        self._record(float(engine.error()))

    def candidates(self) -> list[tuple[int, int]]:
        """(level that gets, level that gives), the most promising first."""
        loss = {level: x.min(axis=1).sum() for level, x in self._losses.items()}
        pairs = [(up, down) for up in range(len(self._gains)) for down in loss if up != down]
        return sorted(pairs, key=lambda pair: loss[pair[1]] - self._gains[pair[0]])

    def converge(self) -> bool:
        """Refit at the ranks there are; whether that changed enough to try exchanges again."""
        before = self.objective
        run = drive(Refinement(self._state, self._tol), LONGEST, "refit")
        if run.termination == "interrupted":
            if run.objectives[-1] < before:
                self._record(run.objectives[-1])
            raise KeyboardInterrupt
        self._settle()
        return self._real(before, self.objective,
                          SAMPLED_REOPEN if self._state.sampled else REOPEN)

    def _real(self, before: float, after: float, gain: float) -> bool:
        """Whether an error is less by this share of it, and by more than rounding makes of it."""
        if after >= (1 - gain) * before:
            return False
        is_real = before**2 - after**2 > self._state.engine.rounding
        self.blurred |= not is_real
        return is_real

    def exchange(self) -> bool:
        """Try exchanges until one lowers the error; False when none does."""
        engine = self._state.engine
        saved, self.blurred = engine.snapshot(), False
        for up, down in self.candidates()[: self._max_failures]:
            self.n_trials += 1
            self.pulse()
            engine.drop(down, self._losses[down])
            engine.add(up)
            if self._wins():
                self._settle()
                return True
            engine.restore(saved)
        return False

    def _wins(self) -> bool:
        """Steps until the error is less than before the exchange, or will not be at this pace."""
        engine, before = self._state.engine, np.inf
        target = (1 - LEAST_GAIN) * self.objective
        for left in reversed(range(REFIT)):
            engine.step()
            error = engine.error()
            if self._real(self.objective, error, LEAST_GAIN):
                return True
            if error - target > left * (before - error):
                return False
            before = error
        return False
