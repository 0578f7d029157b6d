"""`allocate_ranks`: a total rank shared out among the levels by exchanges that lower the error."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .._common.driver import Callback, Iterate, Iteration, Stopping, Watch, drive
from .._common.typing import FloatArray, Labels, Matrix, RandomState
from .._common.validate import check_rank
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from .bcd import improve
from .descent import Descent
from .fit import Refinement
from .fit_result import RankAllocation
from .target import Target

__all__ = ["allocate_ranks"]

STARTS = "uniform", "bottom", "top"
# Iterations of the refit after an exchange: to win, and once it has won.
REFIT, SETTLE = 5, 2
# Iterations of a refit when exchanges have come to an end.
LONGEST = 100
# What it has to gain, as a share of the error, for exchanges to be tried once more.  With 0.01 a
# Hilbert matrix took three times as long, for 15% less of an error of 1.6e-6.
REOPEN = 0.05
# A real improvement, as a share of the error.
LEAST_GAIN = 1e-4


def allocate_ranks(
    A: Matrix, total_rank: int, rows: Hierarchy | Labels,
    cols: Hierarchy | Labels | None = None, *,
    start: Literal["uniform", "bottom", "top"] | Sequence[int] = "uniform",
    symmetric: bool | None = None, psd: bool = False, max_failures: int | None = None,
    tol: float = 1e-4, max_iter: int = 200, progress: bool = False,
    callback: Callback | None = None, random_state: RandomState = None,
) -> RankAllocation:
    r"""Share a total rank out among the levels, and fit the factors.

    Minimizes :math:`\|A - \sum_l B_l C_l^T\|_F` over factors *and* ranks with :math:`\sum_l r_l`
    given, that is at constant storage ``(m + n) total_rank``, by exchanges: one level gives up one
    rank, another gets it.

    Parameters
    ----------
    A
        As in `fit_mlr`.
    total_rank : int
        Sum of the ranks, at least 1.
    rows, cols
        As in `fit_mlr`.
    start : {"uniform", "bottom", "top"} or sequence of int, optional
        First ranks: the same at every level (what cannot be shared out evenly goes to the coarsest
        ones), all at the finest level, all at the coarsest, or given ones.  The answer depends on
        it: take the best of several.
    symmetric, psd
        As in `fit_mlr`.
    max_failures : int, optional
        Exchanges tried in a row without success before it stops; default twice the number of
        levels.
    tol : float, optional
        When no exchange succeeds any more, the factors are refitted until an iteration lowers the
        error by no more than `tol` times itself; if that gains one percent altogether, exchanges
        are tried once more.
    max_iter : int, optional
        Largest number of steps, accepted exchanges and such refits.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(iterate)`` with an `Iterate` for the start and after every step;
        raising StopIteration stops the search.
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    RankAllocation

    Raises
    ------
    ValueError, TypeError
        As `fit_mlr`; `total_rank` below 1, or a `start` with another sum.

    Notes
    -----
    *Gain.*  One more rank at level l lowers the squared error by ``Σ_g σ²_{r_l + 1}`` at once, the
    sum over the level's groups of the next squared singular value of the residual with the level's
    own part put back.  Visits of the level keep a few singular values more than its rank.

    *Loss.*  One rank less raises it by at most the rise that is left when, for fixed right factors,
    the left factors of all levels answer.  A row with coefficient b in the column dropped, whose
    path has the Gram matrix G, adds ``b² / (G⁻¹)_cc``: G⁻¹ is known from the least squares step.
    Each group drops its cheapest column.  Fits that are symmetric drop the last eigenpair and lose
    ``Σ_g λ²``, as if the others stayed.

    Exchanges are tried in the order of predicted gain less loss.  The factors are refitted by
    alternating least squares (by sweeps of block coordinate descent when symmetric), and the
    exchange is accepted when the error is really less, by more than its rounding; otherwise factors
    and residual are put back.

    *Rounding.*  Of a sparse matrix or an operator the squared relative error is known to a few
    units of the precision only (times ``Σ ‖B_l C_lᵀ‖² / ‖A‖²`` where levels cancel), so that errors
    of 1e-6 (in single precision 0.02) have to fall by much more than their share to be told from
    rounding.  Where exchanges would lower the error by less than that, the search ends with
    ``termination="rounding"``.

    *Ctrl-C.*  Interrupted once the start has been fitted, the search finishes its step and returns
    the factors, ``termination="interrupted"``.  A refit ends with its iteration, and a second
    Ctrl-C breaks a step off; then the factors are those of the step before.

    References
    ----------
    T. Parshakova, T. Hastie, E. Darve, S. Boyd, "Factor fitting, rank allocation, and partitioning
    in multilevel low rank matrices", 2023, whose exchanges go by singular values on both sides.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy, allocate_ranks
    >>> x = np.linspace(0, 1, 64)
    >>> A = 1 / (0.02 + np.abs(x[:, None] - x))
    >>> fit = allocate_ranks(A, 6, Hierarchy.balanced(64, [1, 2, 4, 8]), random_state=0)
    >>> sum(fit.ranks), fit.history[0][0], fit.converged
    (6, (2, 2, 1, 1), True)
    >>> bool(fit.error < fit.objective_trace[0])
    True
    """
    target = Target(A, rows, cols, symmetric, psd)
    tree = target.pairs.rows
    if isinstance(total_rank, (int, np.integer)) and total_rank < 1:
        raise ValueError(f"total_rank must be at least 1, got {total_rank}")
    ranks = first_ranks(start, check_rank(total_rank, "total_rank"), tree)
    if max_failures is None:
        max_failures = 2 * tree.n_levels
    max_failures = check_rank(max_failures, "max_failures")
    stopping = Stopping(tol=tol, max_iter=max_iter)
    descent = Descent(target, ranks, random_state, range(tree.n_levels))
    search = _Search(descent, max_failures, tol)
    run = drive(search, stopping.max_iter, "ranks", Watch(progress, callback))
    return RankAllocation(
        descent.operator(), np.array(run.objectives), np.array(run.times) - descent.began,
        run.n_iter, run.converged or run.termination == "rounding", run.termination,
        target.pairs.capped(search.ranks), tuple(search.history), search.n_trials)


def first_ranks(start: Any, total: int, rows: Hierarchy) -> tuple[int, ...]:
    """Ranks to start from, (L,) with the given sum."""
    L = rows.n_levels
    if isinstance(start, str) or np.ndim(start) == 0:
        if not isinstance(start, str) or start not in STARTS:
            raise ValueError(f"start must be {', '.join(map(repr, STARTS))} or one rank a level,"
                             f" got {start!r}")
        by_name = {"uniform": [total // L + (level < total % L) for level in range(L)],
                   "bottom": [0] * (L - 1) + [total], "top": [total] + [0] * (L - 1)}
        return tuple(by_name[start])
    ranks = check_ranks(start, rows)
    if sum(ranks) != total:
        raise ValueError(f"the ranks to start from must add up to total_rank = {total}, got {ranks}"
                         f" with the sum {sum(ranks)}")
    return ranks


class _Search(Iteration):
    """Exchanges of rank between levels; the descent is always at the best factors so far."""

    measure = "error"
    _end: str | None = None  # why no further step is of use

    def __init__(self, descent: Descent, max_failures: int, tol: float):
        self._descent, self._max_failures, self._tol = descent, max_failures, tol
        self.history: list[tuple[tuple[int, ...], float]] = []  # ranks and error of each step
        self.n_trials = 0
        self.blurred = False  # whether the last error refused was less, but for rounding
        self._levels = range(len(descent.factors.ranks))
        descent.visit(self._levels, depth=2)
        for _ in range(REFIT):
            self.refit()
        self._settle()

    @property
    def ranks(self) -> tuple[int, ...]:
        return self._descent.factors.ranks

    @property
    def objective(self) -> float:
        return self.history[-1][1]

    def shown(self) -> dict[str, object]:
        return {"ranks": self.ranks}

    def iterate(self, n_iter: int) -> Iterate:
        return Iterate(n_iter, self.objective, ranks=self.ranks)

    def reason(self, trace: list[float]) -> str | None:
        return self._end or ("exact" if trace[-1] <= self._descent.floor else None)

    def advance(self) -> str | None:
        if not self.exchange() and not self.converge():
            self._end = "rounding" if self.blurred else "tol"
        return None

    def _record(self, error: float) -> None:
        self.history.append((self.ranks, float(error)))
        self._kept = len(self.history), self._descent.factors.snapshot()

    def restore(self) -> None:
        """Put the factors of the last whole step back; the residual is no longer theirs."""
        n_steps, saved = self._kept
        del self.history[n_steps:]
        self._descent.factors.restore(saved)

    def refit(self) -> dict[int, FloatArray]:
        """One iteration on the factors; what it costs to drop columns, by level."""
        descent, sigma = self._descent, self._descent.factors.sigma
        if not descent.target.symmetric:
            return descent.als()
        descent.bcd("v")
        return {level: np.square(sigma[level][:, : self.ranks[level]]) for level in descent.used}

    def _settle(self) -> None:
        """Refit at the new ranks, after a visit of all levels for their next singular values."""
        self._descent.visit(self._levels)
        for _ in range(SETTLE):
            self._losses = self.refit()
        self._record(self._descent.error())

    def _candidates(self) -> list[tuple[int, int]]:
        """(level that gets, level that gives), the most promising first."""
        sigma = self._descent.factors.sigma
        gain = [np.square(sigma[level][:, self.ranks[level]]).sum() for level in self._levels]
        loss = {level: x.min(axis=1).sum() for level, x in self._losses.items()}
        pairs = [(up, down) for up in self._levels for down in loss if up != down]
        return sorted(pairs, key=lambda pair: loss[pair[1]] - gain[pair[0]])

    def converge(self) -> bool:
        """Refit at the ranks there are; whether that changed enough to try exchanges again."""
        before = self.objective
        run = drive(Refinement(self._descent, self.refit, self._tol), LONGEST, "refit")
        if run.termination == "interrupted":
            if run.objectives[-1] < before:
                self._record(run.objectives[-1])
            raise KeyboardInterrupt
        self._settle()
        return self._real(before, self.objective, REOPEN)

    def _real(self, before: float, after: float, gain: float) -> bool:
        """Whether an error is less by this share of it, and by more than rounding makes of it."""
        if after >= (1 - gain) * before:
            return False
        is_real = before**2 - after**2 > self._descent.rounding
        self.blurred |= not is_real
        return is_real

    def exchange(self) -> bool:
        """Try exchanges until one lowers the error; False when none does."""
        descent = self._descent
        saved, self.blurred = descent.factors.snapshot(), False
        for up, down in self._candidates()[: self._max_failures]:
            self.n_trials += 1
            gone_B, gone_C = descent.factors.drop(down, self._losses[down])
            descent.residual.open(down).subtract([-b for b in gone_B], gone_C)
            improve(descent.factors, descent.residual, up, rank=self.ranks[up] + 1)
            if self._wins():
                self._settle()
                return True
            descent.back_to(saved)
        return False

    def _wins(self) -> bool:
        """Refit until the error is less than before the exchange, or will not be at this pace."""
        target, before = (1 - LEAST_GAIN) * self.objective, np.inf
        for left in reversed(range(REFIT)):
            self.refit()
            error = self._descent.error()
            if self._real(self.objective, error, LEAST_GAIN):
                return True
            if error - target > left * (before - error):
                return False
            before = error
        return False
