"""Sweeps of a tree in four operations: up, merge, root and down.

A part of a tree is a range of whole groups of the layout's level `top`.  ``up`` multiplies a part's
rows of F and eliminates its nodes; what its groups pass up is a `Passed`, plain arrays.  ``merge``
brings together what parts passed.  ``root`` sweeps the levels above and gives each parent what goes
back down; ``down`` does the rest on the part's rows.  Threads take parts of one tree that share the
node arrays K and W; a machine may hold a part as a tree of its own.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import _compiled_column, _compiled_posterior, _compiled_sweeps, leaf, threads
from .layout import CACHE_ITEMS, Layout, blocks
from .scratch import none, scratch

__all__ = ["NOTHING_ABOVE", "Factor", "Passed", "Use", "coarse_covariance", "coarse_factors",
           "column", "column_down", "down", "factor_up", "in_one_call", "merge", "passing",
           "room_for_factor", "root", "share", "sweep", "up", "up_with"]

# What `sweep_covariance` takes where no levels are above: `top`, their covariances, parents.
NOTHING_ABOVE = 0, none(np.float64, 3), np.zeros(0, np.int64)

# Called with a range of leaves and an array with a block of each.
Use: TypeAlias = Callable[[int, int, FloatArray], object]


class Passed(NamedTuple):
    """What runs of groups of one level pass up; with c the columns of the levels above it."""

    level: int
    place: IntArray  # (m, 3) parent, number of a run's first group among the parent's, their number
    gram: FloatArray  # (m, c, c) what elimination leaves of the Gram matrices, lower triangles
    sizes: FloatArray  # (m, c) the diagonals of the Gram matrices before elimination
    rows: FloatArray  # (m, c, k) the same of the right-hand sides
    sums: FloatArray  # (m, 1 + k) float64: Σ log diag C, Σ w²

    def copy(self) -> "Passed":
        """For `root`, which overwrites what it takes."""
        return Passed(self.level, self.place, *(x.copy() for x in self[2:]))


def passing(layout: Layout, k: int, dtype: np.dtype, gram: bool = False) -> Passed:
    """Room for what the groups of a layout pass up, one run a group."""
    m, c = layout.n_groups, int(layout.cols[layout.top])
    g = c if gram else 0
    return Passed(layout.top, layout.place, np.zeros((m, g, g), dtype), np.empty((m, g), dtype),
                  np.empty((m, c, k), dtype), np.zeros((m, 1 + k)))


def share(task: Callable[[int, int], object], layout: Layout, work: int) -> None:
    """Call ``task(lo, hi)`` on ranges of groups of level `top` that cover them, by threads."""
    threads.run(task, layout.shares, 0, layout.n_groups, work)


# ---------------------------------------------------------------- up


def up(F: FloatArray, scale: FloatArray, x: FloatArray, layout: Layout, K: FloatArray,
       W: FloatArray, passed: Passed, lo: int, hi: int, long: FloatArray | None = None,
       norms: FloatArray | None = None) -> None:
    """Sweep ``t = F_leafᵀ diag(scale) x`` up through the groups lo:hi: W (s, k) and `passed`.

    ``w = C⁻¹ t_own``, ``t_anc - Xᵀ w`` to the parent; for an empty K w is the plain sum of t.
    `long` is what `leaf.long_tdot` gave.  The squares of x and of ``diag(scale)^½ x`` are added to
    `norms` (2, k).
    """
    if x.shape[1] == 1:
        _column_up(F, scale, x, layout, K, W, passed, lo, hi, long, norms)
    else:
        up_with(lambda a, b, T: leaf.tdot(F, x, layout, a, b, scale, T, long, norms), layout, K,
                W, passed, lo, hi)


def sweep(F: FloatArray, scale: FloatArray, x: FloatArray, layout: Layout, K: FloatArray,
          norms: FloatArray | None = None) -> tuple[FloatArray, Passed]:
    """`up` of all groups: W (s, k), and what they pass."""
    k, dtype = x.shape[1], F.dtype
    W, passed = np.empty((layout.s, k), dtype), passing(layout, k, dtype)
    found = []  # one array a thread
    long = leaf.long_tdot(F, x, layout, scale, norms)

    def task(lo, hi):
        found.append(own := None if norms is None else np.zeros((2, k)))
        up(F, scale, x, layout, K, W, passed, lo, hi, long, own)

    share(task, layout, layout.n * layout.R * k)
    if norms is not None:
        norms += sum(found)
    return W, passed


def up_with(product: Use, layout: Layout, K: FloatArray, W: FloatArray, passed: Passed, lo: int,
            hi: int) -> None:
    """`up` for leaf products of any kind: ``product(a, b, T)`` writes t of the leaves a:b to T."""
    R, k, dtype = layout.R, W.shape[1], W.dtype
    stack = np.zeros((layout.L, R, k), dtype)
    first, last = int(layout.top_leaf[lo]), int(layout.top_leaf[hi])
    for a, b in blocks(first, last, k * R, CACHE_ITEMS):
        T = scratch("T", (b - a, R, k), dtype)
        product(a, b, T)
        _sweep_up(T, a, b, layout.begins, layout.tree, K, layout.top, stack, W, passed.rows,
                  passed.sums)


def _sweep_up(T, first, last, begins, tree, K, top, stack, W, U, sums):
    """`_compiled_sweeps.sweep_up`, for one column by the kernel that has no loop over columns."""
    if not T.size:
        return
    if T.shape[2] > 1:
        _compiled_sweeps.sweep_up(T, first, last, begins, tree, K, top, stack, W, U, sums)
        return
    rows, none_ = none(T.dtype), none(T.dtype, 1)  # which are asked for nothing
    _compiled_column.column_up(rows, none_, none_, T[..., 0], begins, begins, tree, K, first, last,
                               top, stack[..., 0], W[:, 0], U[..., 0], sums, np.zeros(2))


def _column_up(F, scale, x, layout, K, W, passed, lo, hi, long, norms):
    """`up` for one column."""
    nothing, stack = none(W.dtype), np.zeros((layout.L, layout.R), W.dtype)
    norms = np.zeros(2) if norms is None else norms.reshape(-1)
    x, w, U = x.reshape(-1), W.reshape(-1), passed.rows.reshape(passed.rows.shape[:2])
    for a, b, number in _runs(layout, lo, hi):
        given = nothing if number is None or long is None else long[number].reshape(1, -1)
        _compiled_column.column_up(F, scale, x, given, layout.leaf_off, layout.begins, layout.tree,
                                   K, a, b, layout.top, stack, w, U, passed.sums, norms)


def _runs(layout, lo, hi):
    """Ranges of leaves of the groups lo:hi: those between long ones, and each long one by itself.

    With each the number of the long leaf, or None.
    """
    at, end = int(layout.top_leaf[lo]), int(layout.top_leaf[hi])
    long = layout.long
    if long.size:
        for number in range(*np.searchsorted(long, [at, end])):
            q = int(long[number])
            if at < q:
                yield at, q, None
            yield q, q + 1, number
            at = q + 1
    if at < end:
        yield at, end, None


class Factor(NamedTuple):
    """What elimination fills; see `_compiled_sweeps.sweep_factor`."""

    K: FloatArray  # (s, R)
    sizes: FloatArray  # (s,)
    losses: FloatArray  # (groups, 2)
    fail: IntArray  # (2,)


def room_for_factor(layout: Layout, dtype: np.dtype, s: int) -> Factor:
    """A `Factor` of s node rows that is to be filled."""
    return Factor(np.zeros((s, layout.R), dtype), np.empty(s, dtype),
                  np.zeros((layout.n_groups, 2)), np.full(2, -1, np.int64))


def factor_up(F: FloatArray, scale: FloatArray, x: FloatArray | None, layout: Layout,
              ridge: FloatArray) -> tuple[Factor, FloatArray, Passed]:
    """Factor all groups, and sweep x (n, k) up in the same pass over F: W (s, k), and `Passed`."""
    R, k, dtype = layout.R, 0 if x is None else x.shape[1], F.dtype
    factor, W = room_for_factor(layout, dtype, layout.s), np.empty((layout.s, k), dtype)
    passed = passing(layout, k, dtype, gram=True)
    long = leaf.long_gram(F, scale, layout, factor.losses[0, :1])
    long_x = leaf.long_tdot(F, x, layout, scale) if x is not None and k else None

    def task(lo, hi):
        first, last = layout.top_leaf[[lo, hi]].tolist()
        whole = leaf.all_small(layout, first, last)
        stacks = np.zeros((layout.L, R, R), dtype), np.zeros((layout.L, R), dtype)
        rows = np.zeros((layout.L, R, k), dtype)
        items = k * R if whole else R * max(R, k)
        for a, b in blocks(first, last, items, CACHE_ITEMS):
            G = none(dtype, 3)
            if not whole:
                G = leaf.gram(F, scale, layout, a, b, scratch("G", (b - a, R, R), dtype), long,
                              factor.losses[lo, :1])
            _compiled_sweeps.sweep_factor(
                F, scale, G, none(dtype), ridge, a, b, layout.leaf_off, layout.begins, layout.tree,
                layout.top, *stacks, factor.K, factor.sizes, passed.gram, passed.sizes,
                passed.sums, factor.losses, factor.fail)
            if factor.fail[0] >= 0:
                return
            if k:
                T = leaf.tdot(F, x, layout, a, b, scale, scratch("T", (b - a, R, k), dtype), long_x)
                _sweep_up(T, a, b, layout.begins, layout.tree, factor.K, layout.top, rows, W,
                          passed.rows, passed.sums)

    share(task, layout, layout.n * R * max(R, k))
    return factor, W, passed


# ---------------------------------------------------------------- merge and root


def merge(*passed: Passed) -> Passed:
    """What parts of one tree pass up together, in any order and whatever the parts.

    Runs of neighbours are summed in pairs that the tree fixes, so that the sums do not depend on
    the cuts: merging is associative to the last bit.
    """
    (level, *_), *together = zip(*passed, strict=True)
    place, *arrays = (np.concatenate(parts) for parts in together)
    order = np.lexsort((place[:, 1], place[:, 0]))
    place, arrays = place[order], [array[order] for array in arrays]
    for X in arrays[:-1]:
        _add_in_pairs(place.copy(), X)
    m = _add_in_pairs(place, arrays[-1])
    gram, sizes, rows, sums = (X[:m] for X in arrays)
    return Passed(level, place[:m], gram, sizes, rows, sums)


def _add_in_pairs(place, X):
    """Sum runs in `place` and X, in place; how many are left."""
    return _compiled_sweeps.add_in_pairs(place, X.reshape(len(X), -1)) if X.size else 0


def _by_parent(place, X, parents):
    """The sum of the runs of each parent, (parents, …); X is overwritten."""
    out = np.zeros((parents, *X.shape[1:]), X.dtype)
    if X.size:
        at = place.copy()
        m = _add_in_pairs(at, X)
        _compiled_sweeps.add_by_parent(at[:m], X[:m].reshape(m, -1), out.reshape(parents, -1))
    return out


def root(passed: Passed, layout: Layout, K: FloatArray, W: FloatArray,
         ridge: FloatArray | None = None, factor: Factor | None = None) -> FloatArray:
    """Sweep the levels above the groups: their rows of W, and of `factor` if there is one.

    Returns the sums (1 + k,) over all nodes: Σ log diag C and Σ w².  `passed` is overwritten.
    """
    k, top, dtype = W.shape[1], layout.top, K.dtype
    if top == 0 and len(passed.sums) == 1:
        return passed.sums[0]
    parents = int(layout.parent[-1]) + 1
    sums = _by_parent(passed.place, passed.sums, parents)
    if top == 0:
        return sums[0]
    c, tree, begins = int(layout.cols[top]), layout.above, layout.begins_above
    if factor is not None and c:
        G, plain = (_by_parent(passed.place, X, parents) for X in (passed.gram, passed.sizes))
        losses = np.zeros((parents, 2))
        _compiled_sweeps.sweep_factor(
            none(dtype), none(dtype, 1), G, plain, ridge, 0, parents, np.zeros(1, np.int64),
            begins, tree, 0, np.zeros((top, c, c), dtype), np.zeros((top, c), dtype), K,
            factor.sizes, np.empty((parents, 0, 0), dtype),
            np.empty((parents, 0), dtype), sums, losses, factor.fail)
        factor.losses[0, 1] = max(factor.losses[0, 1], losses[:, 1].max())
        if factor.fail[0] >= 0:
            return sums[0]
    if k:
        T = _by_parent(passed.place, passed.rows, parents)
        _sweep_up(T, 0, parents, begins, tree, K, 0, np.zeros((top, c, k), dtype), W,
                  np.empty((parents, 0, k), dtype), sums)
    return sums.sum(axis=0)


def coarse_factors(layout: Layout, K: FloatArray, W: FloatArray) -> FloatArray:
    """What goes down: the factors (parents, c, k) along the path of each parent of the groups.

    In the rows of W of the levels above they take the place of w; for an empty K they stand there.
    """
    k, c, parents = W.shape[1], int(layout.cols[layout.top]), int(layout.parent[-1]) + 1
    coarse = np.empty((parents, c, k), W.dtype)
    if layout.top:
        _sweep_down(W, 0, parents, layout.begins_above, layout.above, K, 0,
                    np.empty((1, 0, k), W.dtype), np.zeros(parents, np.int64),
                    np.empty((c, k), W.dtype), coarse)
    return coarse


def coarse_covariance(layout: Layout, K: FloatArray) -> FloatArray:
    """Posterior covariances (parents, c, c) of the factors along the path of each parent."""
    c, parents = int(layout.cols[layout.top]), int(layout.parent[-1]) + 1
    out = np.empty((parents, c, c), K.dtype)
    if c:
        _compiled_posterior.sweep_covariance(0, 0, parents, layout.above, K, *NOTHING_ABOVE,
                                             np.zeros((c, c), K.dtype), out)
    return out


# ---------------------------------------------------------------- down


def down(layout: Layout, K: FloatArray, W: FloatArray, coarse: FloatArray, use: Use | None,
         lo: int, hi: int) -> None:
    """Turn W of the groups lo:hi into factors; ``use(a, b, Z)`` gets them, Z (b - a, R, k).

    Along the paths of the leaves a:b.  `coarse` are those of the levels above, parent by parent.
    """
    k, R, dtype = W.shape[1], layout.R, W.dtype
    stack = np.empty((R, k), dtype)
    first, last = int(layout.top_leaf[lo]), int(layout.top_leaf[hi])
    for a, b in blocks(first, last, k * R, CACHE_ITEMS):
        Z = scratch("Z", (b - a if use or k == 1 else 0, R, k), dtype)
        _sweep_down(W, a, b, layout.begins, layout.tree, K, layout.top, coarse, layout.parent,
                    stack, Z)
        if use:
            use(a, b, Z)


def _sweep_down(W, first, last, begins, tree, K, top, coarse, parent, stack, Z):
    """`_compiled_sweeps.sweep_down`, for one column as in `_sweep_up`."""
    if W.shape[1] > 1:
        _compiled_sweeps.sweep_down(W, first, last, begins, tree, K, top, coarse, parent, stack, Z)
        return
    if Z.size:
        rows, none_ = none(W.dtype), none(W.dtype, 1)
        _compiled_column.column_down(
            rows, none_, none_, W.dtype.type(1), False, coarse[..., 0], parent, begins, begins,
            tree, K, first, last, top, stack[:, 0], W[:, 0], Z[..., 0], none_, np.zeros(2))


def column_down(F: FloatArray, p: FloatArray, x: FloatArray, sign: float, solve: bool,
                layout: Layout, K: FloatArray, W: FloatArray, coarse: FloatArray, out: FloatArray,
                lo: int, hi: int, norms: FloatArray, kept: FloatArray) -> None:
    """`down` for one column, and ``p x + sign F z`` or ``p (x - F z)`` on the rows at once.

    The z of long leaves are left in `kept` (long leaves, R).  The squares of the result are added
    to norms[1].
    """
    nothing, z = none(W.dtype), np.empty(layout.R, W.dtype)
    x, w, out = x.reshape(-1), W.reshape(-1), out.reshape(-1)
    above = coarse.reshape(coarse.shape[:2])
    for a, b, number in _runs(layout, lo, hi):
        place = nothing if number is None else kept[number : number + 1]
        _compiled_column.column_down(F, p, x, F.dtype.type(sign), solve, above, layout.parent,
                                     layout.leaf_off, layout.begins, layout.tree, K, a, b,
                                     layout.top, z, w, place, out, norms)


def in_one_call(x: FloatArray, layout: Layout) -> bool:
    """Whether `column` takes x (n, k) up and down the tree."""
    return x.shape[1] == 1 and layout.in_one_piece


def column(F: FloatArray, p: FloatArray, x: FloatArray, sign: float, solve: bool, layout: Layout,
           K: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`up` and `column_down` for one column on a tree in one piece, in one call.

    Returns the result, the factors, and the squares (4, 1) of the lengths of x, ``diag(p)^½ x``
    (when `solve`, where p is the scale), of the factors and of the result.
    """
    dtype, sums = F.dtype, np.zeros((2 + layout.n_groups, 2))
    room = np.zeros((layout.L, layout.R), dtype)
    W, out = np.empty((layout.s, 1), dtype), np.empty((layout.n, 1), dtype)
    _compiled_column.column(F, p, x.ravel(), dtype.type(sign), solve, layout.leaf_off,
                            layout.begins, layout.tree, K, room, sums, W.ravel(), out.ravel())
    return out, W, sums[:2].reshape(4, 1)
