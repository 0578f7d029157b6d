"""`fit_mlr`: the multilevel low rank matrix nearest to a given one, for given ranks."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .._common.driver import Callback, Stopping, Watch, drive
from .._common.typing import Entries, Kernel, Labels, Matrix, Points, RandomState, Ranks, Real
from .._common.wording import name_some
from ..operators.general.mlr import GeneralMLR
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from .bcd import ORDERS
from .fit_result import MLRFit
from .search import Refinement, State, alternate, grow, symmetric_end
from .target import Target
from .unformed import target_of

__all__ = ["fit_mlr"]

METHODS, STARTS = (None, "als", "bcd"), ("grow", "topdown")
# Gains below this share of the error are rounding.
STATIONARY = 1e-13


def fit_mlr(
    A: Matrix | None, ranks: Ranks, rows: Hierarchy | Labels | None = None,
    cols: Hierarchy | Labels | None = None, *, entries: Entries | None = None,
    points: Points | None = None, kernel: Kernel | None = None, scale: float | None = None,
    samples: int | None = None, method: Literal["als", "bcd"] | None = None,
    symmetric: bool | None = None, psd: bool = False,
    order: Literal["v", "topdown", "bottomup"] = "v", start: Literal["grow", "topdown"] = "grow",
    init: GeneralMLR | tuple[Sequence[Real], Sequence[Real]] | None = None, tol: float = 1e-4,
    max_iter: int = 200, progress: bool = False,
    callback: Callback | None = None, random_state: RandomState = None,
) -> MLRFit:
    r"""Fit a multilevel low rank matrix of given ranks in the Frobenius norm.

    Minimizes :math:`\|A - \sum_l B_l C_l^T\|_F` over factors on a pair of hierarchies: a block of
    rank r_l for every group of level l.

    Parameters
    ----------
    A : array_like, DataFrame, sparse array or LinearOperator, shape (m, n)
        What to approximate; None where `entries` or `points` are given in its place.  Of a sparse
        array and an operator only products are taken.  The rows
        of a DataFrame that has the same names on both sides are put in the order of its columns,
        unless there is a hierarchy of each.
    ranks : int or sequence of int
        Rank of each level, coarsest first; one number where there is one level.  A block with a
        side shorter than its level's rank gets what it can have (``result.capped`` lists them).
    rows : Hierarchy or labels
        Nested partition of the m rows.  Labels are what `Hierarchy.from_labels` takes, one object,
        or a list of one a level; those with names, and a Hierarchy with names, are matched to the
        names of a DataFrame.  Of `points` it may be left out: `partition_points` then finds trees
        with leaves of about 50.
    cols : Hierarchy or labels, optional
        Of the n columns, a tree of the same shape; default `rows`.
    entries : callable, optional
        The matrix as a function: ``entries(i, j)`` gives the block (len(i), len(j)) of two integer
        arrays of numbers of rows and columns, in feature order.  A is None.
    points : array_like or DataFrame, shape (n, d), or a tuple of two, optional
        Points of rows and columns, or those (m, d) of the rows and those (n, d) of the columns,
        whose coordinates go by name if both are DataFrames.  A is None, `kernel` is needed.
    kernel : callable or str, optional
        ``kernel(x, y)`` gives the block (len(x), len(y)) of two arrays of points; or one of
        "gaussian", "exponential", "matern32", "multiquadric", "inverse_multiquadric", "thin_plate",
        radial functions as in `mlrops.datasets.sphere_kernel`.
    scale : float, optional
        Length scale of a kernel by name, 1 by default.
    samples : int, optional
        Of `entries` and `points`, how many columns (and rows) of each sibling block are looked at,
        by default 192.  See Notes.
    method : {"als", "bcd"}, optional
        How the start is made better: by alternating least squares, all left factors together and
        then all right ones; or by block coordinate descent, level after level.  Default: "als", but
        "bcd" for symmetric fits, for operators, and where one level has all of the rank.  See
        Notes.
    symmetric : bool, optional
        Whether to fit a symmetric matrix.  Default: for arrays and sparse arrays that are exactly
        symmetric, on one hierarchy, unless `method` is "als".  True accepts asymmetry at the level
        of rounding; of an operator and of `entries` it takes your word and tests it on two random
        vectors, or on a random block.  For a kernel of one set of points it is the default, tested
        in the same way.
    psd : bool, optional
        Fit a sum of positive semidefinite blocks, ``B_l = C_l``; implies `symmetric`.  A itself
        need not be positive semidefinite: blocks without a positive eigenvalue get zeros.  Where
        the finest level is one of single features, its entries are no less than a thousandth of A's
        diagonal, so that the fit is positive definite and an `MLR` (``to_mlr``); an operator has to
        have a ``diagonal()`` for that.
    order : {"v", "topdown", "bottomup"}, optional
        Levels of one sweep of "bcd": coarse to fine and back, or one way only.
    start : {"grow", "topdown"}, optional
        Where to start from: columns that grow one after the other, each at the level where it gains
        most; or each level for what the coarser ones leave, as operators always do and fits with
        the rank in one level.
    init : GeneralMLR or pair of sequences of arrays, optional
        Another start: an operator on the same hierarchies, names included, with the same ranks, or
        its factors ``(left, right)`` in feature order.
    tol : float, optional
        Stop when an iteration lowers the error by no more than `tol` times itself.
    max_iter : int, optional
        Largest number of iterations; 0 returns the start.
    progress : bool, optional
        Show how far the fit is: a bar on terminals and in notebooks, else a line every few seconds.
    callback : callable, optional
        Called as ``callback(iterate)`` with an `Iterate` for the start and after every
        iteration; raising StopIteration stops the fit.  Before the start it is called after each
        column that has grown, with ``iterate.stage == "growth"`` and `n_iter` still 0.
    random_state : None, int or numpy.random.Generator, optional
        Seed of the first directions of the subspace iterations.

    Returns
    -------
    MLRFit

    Raises
    ------
    ValueError, TypeError
        Not one of A, `entries` and `points`; a function whose blocks have a wrong shape.
        NaN, infinity or masked entries in A (rows are named), an A of zeros, a norm whose square
        overflows or underflows, complex entries; shapes that do not fit the trees, trees of unlike
        shape (level and group are named), bad ranks; ``symmetric=True`` for a matrix that is not
        (the entries that differ most are named).

    See Also
    --------
    allocate_ranks : find the ranks, too.

    Notes
    -----
    *Growth.*  Factors that grow together end lower than factors fitted to ranks given at once.
    Beside its factors each level carries two directions along, which follow the leading singular
    vectors of what is left in its blocks.  They tell what one more column would gain when all other
    left factors answer; where that is most, the direction becomes a column, and one iteration of
    least squares follows.

    *One pass for all levels.*  Every entry that the trees cover lies in one block: in a leaf, or in
    a group of some level but none of the next.  Such a block is multiplied once by the factors of
    all levels that see it.  So half an iteration of "als" reads A once, and no residual is kept:
    the squared error is ``‖A‖² - 2 <A, M> + ‖M‖²``.  Where the error falls below 1e-6 (in single
    precision 2e-2), rounding blurs that difference, and a residual takes over.

    *BCD.*  For each level in turn, every group's block of the residual, its own part put back, gets
    its best approximation of rank r_l.  A visit takes one step of subspace iteration with a few
    columns more than the rank, from the singular vectors of the last visit; the error cannot rise,
    and both iterations converge together.  It reads the residual's blocks of the level three times.
    With one level of nonzero rank a visit goes deeper into the Krylov space, and `tol` is not
    used: iterations end when the error is stationary to rounding, at the truncated singular value
    decomposition (or its analogue for symmetric and positive semidefinite matrices).

    *ALS.*  For fixed right factors the left ones of a row solve normal equations of size R with the
    Gram matrix of the row's path, solved directly: bordered level by level, its inverse costs
    ``Σ p_l r_l R_l²`` flops and ``p_l R_l²`` numbers a level, less than a conjugate gradient
    iteration with the m×R factors unless leaves are much smaller than R.  An iteration is one such
    step for either side.  Steps go on, by half of their length, from where least squares ends; one
    that raised the error is taken back and made anew without that.

    *Symmetric fits* start from one that knows nothing of symmetry.  Its blocks are then replaced by
    the nearest symmetric ones and fitted again by least squares, by turns, and BCD ends the fit.

    *Sparse arrays and operators.*  Products with the residual are those of A less those of the fit.
    An operator is multiplied by ``p_l (r_l + 3)`` vectors for a level, each zero outside of one
    group.  Where that is more than n, the blocks of the level are taken once by n products with
    unit vectors, and kept: then they are no more numbers than m by r_l + 3.  ‖A‖ comes from
    ``A.norm()`` where there is one and no level is so narrow, else from the same n products.
    Errors below the square root of the precision cannot be told from zero.  With ``method="als"``
    an operator is peeled instead, as by `allocate_ranks`.

    *Functions and points.*  The matrix is never formed.  Leaf blocks are read in full, and of what
    each group sees of its siblings `samples` columns, for the left factors, and as many rows, for
    the right ones; a symmetric function takes one set for both.  They are drawn once, one from each
    of as many strata of neighbours in the tree, and weighted by the size of the stratum; blocks no
    larger are read in full.  What is kept is at most ``samples (L - 1)`` numbers a row and leaf
    blocks, in the precision of the function: one that gives float32, as kernels by name do of
    points in float32, needs half the memory; sums and factors are float64.  Where no block has more
    columns and rows than `samples`, the fit is that of the whole array.  ALS fits the samples, and
    `objective_trace` holds its errors to them; ``result.error`` is an estimate for the matrix
    itself from 512 whole rows, one of each of as many strata, and ``result.held_out_se`` its
    standard error.  A symmetric fit is made symmetric at its end.

    Memory for an array is a copy of it in the order of the trees, or its residual, and the factors.

    *Ctrl-C.*  Interrupted, the fit finishes its iteration and returns the factors,
    ``termination="interrupted"``; columns that have not grown yet are zero.  A second Ctrl-C breaks
    the iteration off, and the factors are those of the one before; while they are being put in
    order, it is an error like any other.

    References
    ----------
    T. Parshakova, T. Hastie, E. Darve, S. Boyd, "Factor fitting, rank allocation, and partitioning
    in multilevel low rank matrices", 2023.

    Examples
    --------
    A matrix of this kind is found again.

    >>> import numpy as np
    >>> from mlrops import GeneralMLR, Hierarchy
    >>> from mlrops import fit_mlr
    >>> rng = np.random.default_rng(0)
    >>> rows, cols = Hierarchy.balanced(60, [1, 3]), Hierarchy.balanced(45, [1, 3])
    >>> A = GeneralMLR(rows, cols, [rng.standard_normal((60, 2)) for _ in range(2)],
    ...                [rng.standard_normal((45, 2)) for _ in range(2)]).toarray()
    >>> fit = fit_mlr(A, [2, 2], rows, cols, random_state=0)
    >>> fit.error < 1e-6
    True
    >>> bool(np.all(np.diff(fit.objective_trace) < 0))
    True
    """
    if method not in METHODS:
        raise ValueError(f"method must be 'als', 'bcd' or None, got {method!r}")
    if order not in ORDERS:
        raise ValueError(f"order must be {', '.join(map(repr, ORDERS))}, got {order!r}")
    if start not in STARTS:
        raise ValueError(f"start must be {' or '.join(map(repr, STARTS))}, got {start!r}")
    if method == "als":
        if symmetric or psd:
            raise ValueError('method="als" moves one side at a time and leaves symmetric matrices;'
                             ' use method="bcd" for symmetric and psd fits')
        symmetric = False
    stopping, watch = Stopping(tol=tol, max_iter=max_iter), Watch(progress, callback)
    target = target_of(A, rows, cols, symmetric, psd, entries=entries, points=points,
                       kernel=kernel, scale=scale, samples=samples)
    level_ranks = check_ranks(ranks, target.pairs.rows)
    first = check_init(init, target, level_ranks)
    single = np.count_nonzero(level_ranks) == 1
    # What has no residual, or is not to have one.
    bare = target.kind == "function" or (
        target.kind == "operator" and method == "als" and first is None and start == "grow")
    if target.kind == "function" and (method == "bcd" or start == "topdown"):
        raise ValueError('method="bcd" and start="topdown" work on what is left of a whole matrix;'
                         " a function of indices or points is fitted without them")
    if bare:
        method = "als"
    elif method is None:
        method = "bcd" if target.symmetric or single or target.kind == "operator" else "als"
    if not bare and (single or target.kind == "operator"):
        start = "topdown"  # a level alone has its best factors at once
    state, ended = State(target, random_state), ""
    if first is not None:
        if method == "als" and target.kind != "operator":
            state.open(sum(level_ranks))
        else:
            state.descend(level_ranks)
        state.engine.load(first)
    elif start == "topdown":
        state.descend(level_ranks)
        state.engine.start()
    else:
        ended = grow(state, level_ranks, sum(level_ranks), watch)
        if not ended and target.symmetric and not target.psd and not bare:
            ended = alternate(state, tol, watch)
        state.engine.factors.widen(level_ranks)
        if method == "bcd":
            state.hand_over()
    step = (lambda: state.engine.bcd(order)) if method == "bcd" else None
    refinement = Refinement(state, min(tol, STATIONARY) if single and not bare else tol, step)
    run = drive(refinement, *((0, "fit") if ended else (stopping.max_iter, "fit", watch)))
    errors, times = run.objectives, [x - state.began for x in run.times]
    if bare and target.symmetric:
        errors, times = symmetric_end(state, tol, errors, times, False)
    held_out = state.held_out()
    return MLRFit(
        state.engine.factors.operator(), np.array(errors), np.array(times), len(errors) - 1,
        run.converged and not ended, ended or run.termination, target.pairs.capped(level_ranks),
        held_out_error=held_out[0], held_out_se=held_out[1])


def check_init(init: Any, target: Target, ranks: tuple[int, ...]) -> GeneralMLR | None:
    """The operator to start from, on the trees and with the ranks of the fit; or None."""
    if init is None:
        return None
    rows, cols = target.pairs.rows, target.pairs.cols
    if not isinstance(init, GeneralMLR):
        if not (isinstance(init, (tuple, list)) and len(init) == 2):
            raise TypeError("init must be a GeneralMLR or a pair of factors (left, right), got"
                            f" {type(init).__name__}")
        init = GeneralMLR(rows, cols, *init)
    for got, wanted, side in ((init.rows, rows, "rows"), (init.cols, cols, "columns")):
        own, names = got.feature_names, wanted.feature_names
        if own is not None and names is not None and own != names:
            differ = [f"{a} in place of {b}" for a, b in zip(own, names, strict=False) if a != b]
            raise ValueError(f"init must have the {side} of A in their order, got"
                             f" {name_some(differ)}")
    if init.rows != rows or init.cols != cols:
        raise ValueError(f"init must live on the hierarchies of the fit, {rows!r} and {cols!r}, got"
                         f" one on {init.rows!r} and {init.cols!r}")
    if init.ranks != ranks:
        raise ValueError(f"init must have the ranks of the fit, {ranks}, got {init.ranks}")
    if target.psd and not init._semidefinite:
        raise ValueError("init must have equal left and right factors for a psd fit")
    if target.symmetric and not init.symmetric:
        raise ValueError("init must be symmetric for a symmetric fit")
    return init
