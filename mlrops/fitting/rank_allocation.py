"""`allocate_ranks`: a total rank shared out among the levels by exchanges that lower the error."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .._common.driver import Callback, Stopping, Watch, drive
from .._common.typing import Entries, Kernel, Labels, Matrix, Points, RandomState
from .._common.validate import check_rank
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from .fit_result import RankAllocation
from .search import Exchanges, State, grow, symmetric_end
from .unformed import target_of

__all__ = ["allocate_ranks"]

STARTS = "grow", "uniform", "bottom", "top"
# Steps at the first ranks of an operator.
FIRST = 5


def allocate_ranks(
    A: Matrix | None, total_rank: int, rows: Hierarchy | Labels | None = None,
    cols: Hierarchy | Labels | None = None, *, entries: Entries | None = None,
    points: Points | None = None, kernel: Kernel | None = None, scale: float | None = None,
    samples: int | None = None,
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
    rows, cols, entries, points, kernel, scale, samples
        As in `fit_mlr`.
    start : {"grow", "uniform", "bottom", "top"} or sequence of int, optional
        First ranks: grown with the factors, column by column where each gains most; the same at
        every level (what cannot be shared out evenly goes to the coarsest ones), all at the finest
        level, all at the coarsest, or given ones.  The answer depends on it: where A is nearly of
        low rank, "top" may end lower than "grow".  Of an operator with `psd`, "grow" is "uniform".
    symmetric, psd
        As in `fit_mlr`.
    max_failures : int, optional
        Exchanges tried in a row without success before it stops; default twice the number of
        levels, for `entries` and `points` once.
    tol : float, optional
        When no exchange succeeds any more, the factors are refitted until an iteration lowers the
        error by no more than `tol` times itself; if that gains 0.3 percent altogether, exchanges
        are tried once more (3 percent for `entries` and `points`, as errors of samples go).
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

    *Operators* are peeled once (Lin, Lu and Ying, 2011): what groups see of their siblings is found
    as ``U Vᵀ`` of twice the total rank, from the coarsest level down, by ``4 · 2 R`` products a
    level (half as many if symmetric), and the small blocks at the end by unit vectors.  Operators
    so narrow that n products are fewer are read in full: that is no more numbers than the factors
    of a peeled one.  The search then reads these blocks; ``result.error`` is an estimate of the
    error to the operator itself by 32 more products with random signs, `objective_trace` holds
    errors to the blocks.  With ``psd=True`` the search works by products all the time.

    *Ctrl-C.*  Interrupted, the search finishes its step and returns the factors,
    ``termination="interrupted"``; while columns grow, their ranks add up to less.  A refit ends
    with its iteration, and a second Ctrl-C breaks a step off; then the factors are those of the
    step before.

    References
    ----------
    T. Parshakova, T. Hastie, E. Darve, S. Boyd, "Factor fitting, rank allocation, and partitioning
    in multilevel low rank matrices", 2023, whose exchanges go by singular values on both sides.
    L. Lin, J. Lu, L. Ying, "Fast construction of hierarchical matrix representation from
    matrix-vector multiplication", Journal of Computational Physics 230 (2011), 4071-4087.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy, allocate_ranks
    >>> x = np.linspace(0, 1, 64)
    >>> A = 1 / (0.02 + np.abs(x[:, None] - x))
    >>> fit = allocate_ranks(A, 6, Hierarchy.balanced(64, [1, 2, 4, 8]), random_state=0)
    >>> sum(fit.ranks), fit.converged, fit.operator.symmetric
    (6, True, True)

    Of a kernel of points no matrix is formed.

    >>> points = np.random.default_rng(0).uniform(size=(1500, 2))
    >>> fit = allocate_ranks(None, 12, points=points, kernel="gaussian", scale=0.2, samples=64,
    ...                      random_state=0)
    >>> fit.operator.symmetric, bool(fit.error < 0.05), bool(fit.held_out_se < 0.1 * fit.error)
    (True, True, True)
    """
    target = target_of(A, rows, cols, symmetric, psd, entries=entries, points=points,
                       kernel=kernel, scale=scale, samples=samples)
    tree = target.pairs.rows
    if isinstance(total_rank, (int, np.integer)) and total_rank < 1:
        raise ValueError(f"total_rank must be at least 1, got {total_rank}")
    total = check_rank(total_rank, "total_rank")
    most = first_ranks(start, total, tree)
    if max_failures is None:
        max_failures = (1 if target.kind == "function" else 2) * tree.n_levels
    max_failures = check_rank(max_failures, "max_failures")
    stopping, watch = Stopping(tol=tol, max_iter=max_iter), Watch(progress, callback)
    state = State(target, random_state)
    if target.kind == "operator" and psd:
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
        errors, times = symmetric_end(state, tol, [x for _, x in history], times, converged)
        history = [*history[: len(errors) - 1], (state.ranks, errors[-1])]
    held_out = state.held_out()
    return RankAllocation(
        state.engine.factors.operator(), np.array([error for _, error in history]), np.array(times),
        len(history) - 1, converged and not ended, ended or run.termination,
        target.pairs.capped(state.ranks), tuple(history), search.n_trials,
        held_out_error=held_out[0], held_out_se=held_out[1])


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
