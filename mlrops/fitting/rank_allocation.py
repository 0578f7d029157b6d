"""`allocate_ranks`: a total rank shared out among the levels by exchanges that lower the error."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .._common.driver import Callback, Stopping, Watch, drive
from .._common.typing import Labels, Matrix, RandomState
from .._common.validate import check_rank
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from .fit_result import RankAllocation
from .search import Exchanges, Refinement, State, grow
from .target import Target

__all__ = ["allocate_ranks"]

STARTS = "grow", "uniform", "bottom", "top"
# Steps at the first ranks of an operator.
FIRST = 5
# Sweeps over a symmetric fit at the end of a search that knows nothing of symmetry.
SWEEPS = 20


def allocate_ranks(
    A: Matrix, total_rank: int, rows: Hierarchy | Labels,
    cols: Hierarchy | Labels | None = None, *,
    start: Literal["grow", "uniform", "bottom", "top"] | Sequence[int] = "grow",
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
    start : {"grow", "uniform", "bottom", "top"} or sequence of int, optional
        First ranks: grown with the factors, column by column where each gains most; the same at
        every level (what cannot be shared out evenly goes to the coarsest ones), all at the finest
        level, all at the coarsest, or given ones.  The answer depends on it: where A is nearly of
        low rank, "top" may end lower than "grow".  Of an operator, "grow" is "uniform".
    symmetric, psd
        As in `fit_mlr`.
    max_failures : int, optional
        Exchanges tried in a row without success before it stops; default twice the number of
        levels.
    tol : float, optional
        When no exchange succeeds any more, the factors are refitted until an iteration lowers the
        error by no more than `tol` times itself; if that gains 0.3 percent altogether, exchanges
        are tried once more.
    max_iter : int, optional
        Largest number of steps, accepted exchanges and such refits.
    progress : bool, optional
        Show how far the search is: a bar on terminals and in notebooks, else a line every few
        seconds.
    callback : callable, optional
        Called as ``callback(iterate)`` with an `Iterate` for the start and after every step;
        raising StopIteration stops the search.  As in `fit_mlr`, it is also called after each
        column that has grown.
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
    *Gain.*  Each level carries a direction v along for each of its groups, near the next singular
    vector.  With one more column v a row with y of what is left in that direction gains ``y² / s``
    when the left factors of all levels answer, s the squared length of v beyond the factors of the
    row's path.  Fits on a residual (see `fit_mlr`) gain the next squared singular value of each
    block, ``Σ_g σ²_{r_l + 1}``, of which visits of a level keep a few.

    *Loss.*  One rank less raises it by at most the rise that is left when, for fixed right factors,
    the left factors of all levels answer.  A row with coefficient b in the column dropped, whose
    path has the Gram matrix G, adds ``b² / (G⁻¹)_cc``: G⁻¹ is known from the least squares step.
    Each group drops its cheapest column.  Fits that are symmetric drop the last eigenpair and lose
    ``Σ_g λ²``, as if the others stayed.

    Exchanges are tried in the order of predicted gain less loss.  The factors are refitted by
    alternating least squares (by sweeps of block coordinate descent when positive semidefinite),
    and the exchange is accepted when the error is really less, by more than its rounding; otherwise
    the factors are put back.

    *Symmetric matrices.*  The search knows nothing of symmetry; in the end its factors become
    symmetric as in `fit_mlr`.  Steps whose error that does not reach are taken out of the history.

    *Rounding.*  Of a sparse matrix or an operator the squared relative error is known to a few
    units of the precision only (times ``Σ ‖B_l C_lᵀ‖² / ‖A‖²`` where levels cancel), so that errors
    of 1e-6 (in single precision 0.02) have to fall by much more than their share to be told from
    rounding.  Where exchanges would lower the error by less than that, the search ends with
    ``termination="rounding"``.

    *Ctrl-C.*  Interrupted, the search finishes its step and returns the factors,
    ``termination="interrupted"``; while columns grow, their ranks add up to less.  A refit ends
    with its iteration, and a second Ctrl-C breaks a step off; then the factors are those of the
    step before.

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
    >>> sum(fit.ranks), fit.converged, fit.operator.symmetric
    (6, True, True)
    """
    target = Target(A, rows, cols, symmetric, psd)
    tree = target.pairs.rows
    if isinstance(total_rank, (int, np.integer)) and total_rank < 1:
        raise ValueError(f"total_rank must be at least 1, got {total_rank}")
    total = check_rank(total_rank, "total_rank")
    most = first_ranks(start, total, tree)
    if max_failures is None:
        max_failures = 2 * tree.n_levels
    max_failures = check_rank(max_failures, "max_failures")
    stopping, watch = Stopping(tol=tol, max_iter=max_iter), Watch(progress, callback)
    state = State(target, random_state)
    if target.kind == "operator":
        state.descend(most or uniform_ranks(total, tree.n_levels), range(tree.n_levels))
        state.engine.visit(range(tree.n_levels), depth=2)
        for _ in range(FIRST):
            state.engine.step()
        ended = ""
    else:
        ended = grow(state, [np.inf] * tree.n_levels if most is None else most, total, watch)
        if most is not None:
            state.engine.factors.widen(most)
        elif not ended:
            state.engine.factors.widen([total - sum(state.ranks[1:]), *state.ranks[1:]])
    search = Exchanges(state, max_failures, tol, settle=not ended)
    run = drive(search, *((0, "ranks") if ended else (stopping.max_iter, "ranks", watch)))
    history, times = search.history, [x - state.began for x in run.times]
    converged = run.converged or run.termination == "rounding"
    if target.symmetric and not target.psd:
        history, times = symmetric_end(state, tol, history, times, converged)
    return RankAllocation(
        state.engine.factors.operator(), np.array([error for _, error in history]), np.array(times),
        len(history) - 1, converged and not ended, ended or run.termination,
        target.pairs.capped(state.ranks), tuple(history), search.n_trials)


def symmetric_end(state: State, tol: float, history: list[Any], times: list[float], sweep: bool
                  ) -> tuple[list[Any], list[float]]:
    """Make the fit symmetric, and `sweep` over it; the history, without what it does not reach."""
    state.hand_over()
    run = drive(Refinement(state, tol), SWEEPS if sweep else 0, "sweeps")
    error = run.objectives[-1]
    kept = [k for k, (_, found) in enumerate(history) if found > error]
    return ([*(history[k] for k in kept), (state.ranks, error)],
            [*(times[k] for k in kept), run.times[-1] - state.began])


def uniform_ranks(total: int, n_levels: int) -> tuple[int, ...]:
    """The same at every level; what is left over goes to the coarsest ones."""
    return tuple(total // n_levels + (level < total % n_levels) for level in range(n_levels))


def first_ranks(start: Any, total: int, rows: Hierarchy) -> tuple[int, ...] | None:
    """Ranks to start from, (L,) with the given sum; None if they are to grow."""
    L = rows.n_levels
    if isinstance(start, str) or np.ndim(start) == 0:
        if not isinstance(start, str) or start not in STARTS:
            raise ValueError(f"start must be {', '.join(map(repr, STARTS))} or one rank a level,"
                             f" got {start!r}")
        if start == "grow":
            return None
        by_name = {"uniform": uniform_ranks(total, L), "bottom": (0,) * (L - 1) + (total,),
                   "top": (total,) + (0,) * (L - 1)}
        return by_name[start]
    ranks = check_ranks(start, rows)
    if sum(ranks) != total:
        raise ValueError(f"the ranks to start from must add up to total_rank = {total}, got {ranks}"
                         f" with the sum {sum(ranks)}")
    return ranks
