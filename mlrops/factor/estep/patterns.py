"""Samples with missing cells, grouped by pattern: passes over arrays for all of them at once.

A missing cell is a feature of zero precision in its sample, so every algorithm of `tree` holds
pattern by pattern with the masked precision ``m ∘ D⁻¹`` and data that are 0 where missing.  What
depends on the patterns alone is done for all of them at once.  Features of one leaf that are seen
in the same patterns form a *class*; with `seen` the 0/1 matrix of classes by patterns,

    Gram matrices        G_leaf (patterns, R²/2) = seenᵀ O,    O_c = Σ_{i ∈ c} f_i f_iᵀ / D_i
    moments for the M-step    W (classes, R²/2) += seen S,     S_p = Σ_t w_t (Cov + z zᵀ)

are two products of matrices a leaf; between them lies one sweep of the tree a pattern.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.typing import BoolArray
from ...kernels import threads
from ...kernels.layout import BLOCK_ITEMS
from ...kernels.scratch import scratch
from ...tree.hierarchy import Hierarchy
from .. import estep

__all__ = ["Batch", "Classes", "Grouped", "Patterns", "add_by_class", "add_moments", "batches",
           "by_class", "centre", "find_classes", "gather", "grams", "products", "sweep"]

# Numbers in the temporary of a product that is added to a larger array.
CHUNK_ITEMS = 500_000


class Classes(NamedTuple):
    """Features in tree order, grouped: those of one leaf that are seen in the same samples."""

    class_off: np.ndarray  # (n_leaves + 1,) first class of each leaf
    rows: np.ndarray  # (n,) the features, class after class
    row_off: np.ndarray  # (classes + 1,)

    @property
    def sizes(self) -> np.ndarray:
        """Number of features of each class."""
        return np.diff(self.row_off)

    @property
    def number(self) -> int:
        """Number of classes."""
        return self.row_off.size - 1

    @property
    def first(self) -> np.ndarray:
        """The first feature of each class."""
        return self.rows[self.row_off[:-1]]

    def spread(self, x: np.ndarray) -> np.ndarray:
        """What each class has, (classes, …), for each of its features, (n, …)."""
        out = np.empty((self.rows.size, *x.shape[1:]), x.dtype)
        out[self.rows] = np.repeat(x, self.sizes, axis=0)
        return out

    def group(self, observed: BoolArray) -> tuple["Patterns", np.ndarray]:
        """(Patterns, order) of samples with the mask `observed` (n, N); `order` sorts them.

        Features of one class must be seen in the same samples.
        """
        some = observed[self.first]
        order, starts = _group_rows(np.packbits(some, axis=0).T)
        return Patterns(np.ascontiguousarray(some[:, order[starts[:-1]]]), starts, *self), order


class Patterns(NamedTuple):
    """Samples grouped by the features they show; samples sorted by pattern, rows in tree order."""

    seen: np.ndarray  # (classes, patterns) bool
    starts: np.ndarray  # (patterns + 1,) first sample of each pattern
    class_off: np.ndarray  # (n_leaves + 1,) first class of each leaf
    rows: np.ndarray  # (n,) the features, class after class
    row_off: np.ndarray  # (classes + 1,)

    @property
    def classes(self) -> Classes:
        """The classes of features."""
        return Classes(self.class_off, self.rows, self.row_off)

    @property
    def sizes(self) -> np.ndarray:
        """Number of features of each class."""
        return self.classes.sizes

    def of(self, first: int, last: int) -> tuple[int, int, np.ndarray]:
        """Patterns p0:p1 of the samples first:last, and where their samples begin within them."""
        p0 = int(np.searchsorted(self.starts, first, side="right")) - 1
        p1 = int(np.searchsorted(self.starts, last, side="left"))
        return p0, p1, np.clip(self.starts[p0 : p1 + 1], first, last) - first

    def owner(self, first: int, last: int) -> np.ndarray:
        """The pattern of each of the samples first:last."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))[first:last]


def _group_rows(x):
    """(order, offsets): an order of the rows of bytes `x` in which equal ones are neighbours."""
    x = np.ascontiguousarray(x)
    keys = x.view(np.dtype((np.void, x.shape[1])))[:, 0]
    order = np.argsort(keys, kind="stable")
    changes = (x[order[1:]] != x[order[:-1]]).any(axis=1)
    return order, np.concatenate([[0], np.flatnonzero(changes) + 1, [len(x)]])


def find_classes(hierarchy: Hierarchy, keys: np.ndarray) -> Classes:
    """The classes of features, from bytes (n, w) that are equal where features are seen together.

    Rows of `keys` are in tree order.
    """
    leaf_off = np.asarray(hierarchy.boundaries[-1], np.int64)
    n, n_leaves = len(keys), leaf_off.size - 1
    # Leaf numbers as big-endian bytes in front keep the classes of a leaf together, in tree order.
    leaves = np.repeat(np.arange(n_leaves, dtype=">i8"), np.diff(leaf_off))
    rows, row_off = _group_rows(np.concatenate(
        [leaves.view(np.uint8).reshape(n, 8), keys], axis=1))
    class_off = np.searchsorted(leaves[rows[row_off[:-1]]], np.arange(n_leaves + 1))
    return Classes(class_off, rows, row_off)


def _group(observed, hierarchy):
    """(Patterns, order) of the mask `observed` (n, N): `order` sorts the samples by pattern."""
    order, starts = _group_rows(np.packbits(observed, axis=0).T)
    seen = observed[:, order[starts[:-1]]]  # (n, patterns)
    classes = find_classes(hierarchy, np.packbits(seen, axis=1))
    return Patterns(np.ascontiguousarray(seen[classes.first]), starts, *classes), order


class Grouped:
    """Samples grouped by their patterns of missing cells, from a mask (n, N) in tree order.

    The classes of features are those of these samples, or the given ones.
    """

    def __init__(self, hierarchy: Hierarchy, observed: BoolArray, classes: Classes | None = None):
        self.hierarchy = hierarchy
        found = _group(observed, hierarchy) if classes is None else classes.group(observed)
        self._patterns: Patterns = found[0]
        self._order: np.ndarray = found[1]

    @property
    def n_samples(self) -> int:
        """Number of samples N."""
        return self._order.size

    @property
    def n_patterns(self) -> int:
        """Number of different patterns of missing cells."""
        return self._patterns.starts.size - 1

    @cached_property
    def _pattern_weights(self):
        """Number, or weight, of the samples of each pattern."""
        return np.diff(self._patterns.starts)

    @cached_property
    def _tree_counts(self):
        """Number, or weight, of the samples that show each feature, (n,), tree order."""
        patterns = self._patterns
        return patterns.classes.spread(patterns.seen @ self._pattern_weights)

    @property
    def counts(self) -> np.ndarray:
        """Number, or weight, of the samples that show each feature, (n,), feature order."""
        return self.hierarchy._scatter(self._tree_counts)


def batches(patterns, layout):
    """Ranges of samples whose temporaries stay bounded; a pattern may be cut.

    Cutting a pattern means to factor it again, so a batch holds at least R samples.
    """
    n_leaves, R = layout.n_leaves, layout.R
    most = max(R, BLOCK_ITEMS // (n_leaves * R + layout.n), 1)
    step = max(1, BLOCK_ITEMS // (n_leaves * (R + 1) ** 2))
    starts, first, N = patterns.starts, 0, int(patterns.starts[-1])
    while first < N:
        p = int(np.searchsorted(starts, first, side="right")) - 1
        last = min(first + most, int(starts[min(p + step, starts.size - 1)]))
        yield first, last
        first = last


def centre(X, mean, roots, first, last):
    """``√w (x - mean)`` of the samples first:last, zero at missing cells; (n, last - first)."""
    n, k = len(X), last - first
    out = np.empty((n, k), X.dtype)
    threads.run(lambda lo, hi: estep._compiled_incomplete.centre(
        X, mean, roots, first, lo, hi, out), np.arange(n + 1), 0, n, n * k)
    return out


def by_class(kernel, classes, work):
    """Run a kernel of the classes ``lo:hi`` on all of them; `Patterns` have classes, too."""
    threads.run(kernel, classes.row_off, 0, classes.row_off.size - 1, work)


def gather(X, row, column, patterns, owner, fill=0.0, out=None):
    """X[row][:, column] with `fill` at missing cells; owner[t] is the pattern of column[t]."""
    out = np.empty((row.size, column.size), X.dtype) if out is None else out
    fill = X.dtype.type(fill)
    by_class(lambda lo, hi: estep._compiled_incomplete.gather_seen(
        X, row, column, patterns.seen, patterns.rows, patterns.row_off, owner, fill, lo, hi, out),
        patterns, out.size)
    return out


def products(F, dinv, classes):
    """outer (classes, R (R + 1) / 2): ``Σ f fᵀ / D`` of each class, lower triangles."""
    n, R = F.shape
    outer = np.empty((classes.row_off.size - 1, R * (R + 1) // 2), F.dtype)
    by_class(lambda lo, hi: estep._compiled_incomplete.class_products(
        F, dinv, classes.rows, classes.row_off, lo, hi, outer), classes, n * R * R // 2)
    return outer


def _by_leaf(sizes, width, loop, product):
    """Call ``product(q)`` for leaves of much work, ``loop(lo, hi)`` on the ranges between them."""
    large = np.flatnonzero(sizes * width >= kernels.leaf.BLAS_WORK)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for lo, hi in kernels.leaf._small_runs(large, 0, sizes.size):
        threads.run(loop, offsets, lo, hi, int(offsets[hi] - offsets[lo]) * width)
    for q in large:
        product(q)


def grams(outer, patterns, p0, p1):
    """G (leaves, p1 - p0, R (R + 1) / 2): the Gram matrices of the rows each pattern sees."""
    off, seen = patterns.class_off, patterns.seen
    G = scratch("grams", (off.size - 1, p1 - p0, outer.shape[1]), outer.dtype)

    def product(q):
        classes = slice(off[q], off[q + 1])
        np.matmul(seen[classes, p0:p1].T.astype(outer.dtype), outer[classes], out=G[q])

    _by_leaf(np.diff(off), (p1 - p0) * outer.shape[1],
             lambda lo, hi: estep._compiled_incomplete.gather_grams(
                 seen, outer, off, p0, lo, hi, G), product)
    return G


class Batch(NamedTuple):
    """Consecutive samples, sorted by pattern."""

    patterns: Patterns
    first: int  # number of its first sample
    X: np.ndarray  # (n, k) √w x, centred, zero at missing cells
    roots: np.ndarray  # (k,) √w

    @property
    def last(self) -> int:
        """One more than the number of its last sample."""
        return self.first + self.X.shape[1]

    @property
    def shown(self) -> tuple[int, int, np.ndarray]:
        """(p0, p1, starts) of its patterns, see `Patterns.of`."""
        return self.patterns.of(self.first, self.last)


class Swept(NamedTuple):
    """What a sweep over the patterns of a batch of k samples gives."""

    Z: np.ndarray  # (leaves, R, k) posterior means along the paths
    S: np.ndarray  # (leaves, patterns, (R + 1)(R + 2) / 2); good until the next sweep
    logdet: np.ndarray  # (patterns,) log det(I + G)
    squares: np.ndarray  # (2, k) ‖Λ⁻¹ Fᵀ D⁻¹ x‖² and ‖z‖², over all nodes
    fail: tuple | None  # (level, group) of a bad pivot


def sweep(F, dinv, outer, batch, layout, total):
    """E-step of a `Batch`; `outer` are the `products` of F and dinv.

    S are path covariances, or with `total` the second moments of ``√w (z, 1)``: a sample of weight
    w stands as ``√w (z, 1)``, and Z holds ``√w z``.
    """
    k, R, n_leaves, dtype = batch.X.shape[1], layout.R, layout.n_leaves, F.dtype
    p0, p1, starts = batch.shown
    P = p1 - p0
    G = grams(outer, batch.patterns, p0, p1)
    Z, W = np.empty((n_leaves, R, k), dtype), (R + 1) * (R + 2) // 2
    S = scratch("moments of patterns", (n_leaves, P, W), dtype)
    logdet, squares, fail = np.zeros(P), np.zeros((2, k)), np.full(2, -1, np.int64)
    weights = np.add.reduceat(np.square(batch.roots), starts[:-1])
    if R == 0:
        S[:, :, 0] = weights
        return Swept(Z, S, logdet, squares, None)
    kernels.leaf.tdot(F, batch.X, layout, 0, n_leaves, dinv, Z)

    forest = estep.forest

    def task(lo, hi):
        for which, width in forest.equals(starts, lo, hi, layout):
            trees, columns = forest.Forest(layout, which.size), starts[which]
            leaves = trees.leaves(np.arange(which.size), width)
            K = scratch("K", (trees.s, R), dtype)
            if not leaves.factor(forest.unpack(G, which), K, fail):
                return
            logdet[which] = trees.logdet(K)
            rows = scratch("W", (trees.s, width), dtype)
            samples = columns[:, None] + np.arange(width)
            leaves.up(forest.take(Z, columns), K, rows)
            squares[0, samples] = trees.squares(rows)
            leaves.down(partial(keep, columns, which), K, rows, covariance=True)
            squares[1, samples] = trees.squares(rows)

    def keep(columns, which, a, b, T, cov):
        loops = estep._compiled_incomplete
        loops.give(T, columns, a, b, Z)
        if total:
            loops.pack_moments(cov, weights, T, batch.roots, columns, which, a, b, S)
        else:
            loops.pack_moments(cov, ones, T[:0, :, :0], batch.roots, columns, which, a, b, S)

    ones = np.ones(P, dtype)
    cost = starts + R * np.arange(P + 1)  # a factorization costs about as much as R samples
    threads.run(task, cost, 0, P, int(cost[-1]) * n_leaves * R * R)
    return Swept(Z, S, logdet, squares, tuple(map(int, fail)) if fail[0] >= 0 else None)


def add_moments(S, Z, batch, layout, V, W):
    """V (n, R + 1) += ``Σ_t x √w (z, 1)`` and W (classes, packed) += the second moments S."""
    R, off, X = layout.R, layout.leaf_off, batch.X
    p0, p1, _ = batch.shown

    def cross(q):
        rows = slice(off[q], off[q + 1])
        V[rows, :R] += X[rows] @ Z[q].T

    _by_leaf(np.diff(off), X.shape[1] * R,
             lambda lo, hi: estep._compiled_moments.rows_outer(X, Z, off, 0, lo, hi, V), cross)
    V[:, R] += X @ batch.roots
    add_by_class(S, batch.patterns, p0, p1, W)


def add_by_class(S, patterns, p0, p1, W):
    """W (classes, m) += the sum of S (leaves, patterns, m) over the patterns that see a class."""
    classes = patterns.class_off

    def product(q):
        step = max(1, CHUNK_ITEMS // W.shape[1])
        for a in range(classes[q], classes[q + 1], step):
            part = slice(a, min(a + step, classes[q + 1]))
            term = scratch("product", W[part].shape, W.dtype)
            W[part] += np.matmul(patterns.seen[part, p0:p1].astype(W.dtype), S[q], out=term)

    _by_leaf(np.diff(classes), (p1 - p0) * W.shape[1],
             lambda lo, hi: estep._compiled_incomplete.scatter_moments(
                 patterns.seen, S, classes, p0, lo, hi, W), product)
