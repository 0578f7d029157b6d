"""Solves with the principal blocks of an MLR covariance that samples with missing cells show.

With zeros for the precisions of the missing features Woodbury's identity gives ``Σ_OO⁻¹`` on the
whole tree, so the products with F are those of all samples at once and only the sweeps go pattern
by pattern: one factor a pattern, kept.  See `patterns` for patterns and classes.
"""

from collections.abc import Iterator

import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.typing import BoolArray, FloatArray, Real
from ..._common.validate import as_real
from ...kernels import threads
from ...kernels.layout import BLOCK_ITEMS, CACHE_ITEMS, blocks
from ...kernels.scratch import scratch
from ...operators.mlr import MLR
from ...operators.refine import corrected
from ...tree.hierarchy import Hierarchy
from .. import estep
from .exact import correct, hide, long_rows
from .patterns import Grouped, add_by_class, by_class, gather, grams, products

__all__ = ["IncompletePrecision", "ObservedCells"]

# Numbers in the leaf products of a batch of samples: they are passed over four times.
PRODUCT_ITEMS = 4 * CACHE_ITEMS


class ObservedCells(Grouped):
    """Which cells of an array (n, N) are there, samples grouped by their patterns once and for all.

    `observed` is True where there is a value; rows are in feature order, one sample a column.
    Samples without any and features that no sample shows are allowed.  It depends on the mask
    alone: one object serves every covariance and all values.  A boolean is kept for each pair of a
    class, a set of features of one leaf that are missing in the same samples, and a pattern.
    """

    def __init__(self, hierarchy: Hierarchy, observed: BoolArray):
        if not isinstance(hierarchy, Hierarchy):
            raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
        observed = np.asarray(observed)
        if observed.dtype != bool:
            raise TypeError(f"observed must be boolean, got dtype {observed.dtype}")
        if observed.ndim != 2 or observed.shape[0] != hierarchy.n or observed.shape[1] == 0:
            raise ValueError(
                f"observed must have one row a feature ({hierarchy.n}) and a column for each of one"
                f" sample or more, got shape {observed.shape}")
        super().__init__(hierarchy, hierarchy._gather(observed))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, N)."""
        return self.hierarchy.n, self.n_samples

    @cached_property
    def _owner(self):
        return self._patterns.owner(0, self.n_samples)

    def groups(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (samples, features) for each pattern: its samples and the features they show.

        Increasing numbers; for callers that form dense blocks.
        """
        patterns, permutation = self._patterns, self.hierarchy.permutation
        for p in range(self.n_patterns):
            samples = self._order[patterns.starts[p] : patterns.starts[p + 1]]
            rows = patterns.rows[np.repeat(patterns.seen[:, p], patterns.sizes)]
            yield np.sort(samples), np.sort(permutation[rows])


class IncompletePrecision:
    """Inverses of the blocks ``Σ_OO`` of an MLR covariance Σ that each of N samples shows.

    A missing cell is a feature of zero precision in its sample: ``Σ_OO⁻¹`` follows from Woodbury's
    identity with zeros in ``D⁻¹``.  With P patterns, C classes (see `ObservedCells`) and
    ``s = Σ p_l r_l`` factors in all groups, factoring takes ``n R² + C P R² + P Σ p_l r_l R_l²``
    flops once and keeps ``P s R`` numbers; after that `logdet` is free, `solve` and `inv_quad` take
    ``4 n R N + 4 s R N`` flops, and `inverse_diagonal` takes ``n R² + C P R²`` and P sweeps.  With
    leaves much larger than R, ``P s R`` is small beside the data; leaves of R features or fewer
    make it about ``P n R``.

    `solve` is refined as `MLR.solve` is, where a bound of its backward error asks for it; and like
    it needs ``eps ‖I + FᵀD⁻¹F‖`` below 1 for that to help.
    """

    def __init__(self, covariance: MLR, cells: ObservedCells):
        if not isinstance(covariance, MLR):
            raise TypeError(f"covariance must be an MLR, got {type(covariance).__name__}")
        if covariance.hierarchy != cells.hierarchy:
            raise ValueError(
                f"covariance and cells must share one hierarchy, got {covariance.hierarchy!r} and"
                f" {cells.hierarchy!r}"
                + (", groups or order of features differ" if covariance.shape[0] == cells.shape[0]
                   else ""))
        self.covariance, self.cells, self.shape = covariance, cells, cells.shape

    @cached_property
    def _factor(self):
        """(K of each of the `_forests`, log det(I + FᵀD⁻¹F) (patterns,)); see `tree.factor`."""
        A, patterns, layout = self.covariance, self.cells._patterns, self.covariance._layout
        R, forests, (long, others) = layout.R, self._forests, self._long
        outer = products(A._F, others, patterns)
        K = [np.zeros((trees.s, R), A.dtype) for _, _, trees in forests]
        logs, fail = np.empty(self.cells.n_patterns), np.full(2, -1, np.int64)
        for first, last in _forest_batches(forests, layout.n_leaves * outer.shape[1]):
            p0, p1 = forests[first][0], forests[last - 1][1]
            G = grams(outer, patterns, p0, p1)

            def task(lo, hi, G=G, p0=p0):
                for f in range(lo, hi):
                    a, b, trees = forests[f]
                    gram = estep.forest.unpack(G, np.arange(a, b) - p0)
                    leaves = trees.leaves(np.arange(b - a), R)
                    if not (leaves.factor(gram, K[f], fail)
                            and long.add_to(K[f], leaves, np.arange(a, b), A, fail)):
                        return
                    logs[a:b] = trees.logdet(K[f])

            threads.run(task, np.arange(len(forests) + 1), first, last,
                        (p1 - p0) * layout.s * R * R)
            if fail[0] >= 0:
                raise A._breakdown(int(fail[0]), int(fail[1]))
        return K, logs

    @cached_property
    def _forests(self):
        """[(p0, p1, `Forest` of the patterns p0:p1) …], few trees in each."""
        layout, P = self.covariance._layout, self.cells.n_patterns
        return [(a, b, estep.forest.Forest(layout, b - a))
                for a, b in blocks(0, P, layout.n_leaves * layout.R**2, CACHE_ITEMS)]

    @cached_property
    def _long(self):
        patterns = self.cells._patterns
        long, others = long_rows(self.covariance, patterns.classes)
        return long.among(patterns), others

    @cached_property
    def _norms(self):
        A = self.covariance
        return norms(A._F, A._d, A._dinv, self.cells._patterns, A._layout)

    def _batches(self, E):
        """Yield (X, columns, owner): samples with zeros for missing cells, and their patterns."""
        cells, permutation = self.cells, self.covariance.hierarchy.permutation
        for first, last in batches(cells._patterns, self.covariance._layout):
            owner, columns = cells._owner[first:last], cells._order[first:last]
            room = scratch("cells", (len(E), last - first), E.dtype)
            X = gather(E, permutation, columns, cells._patterns, owner, out=room)
            yield X, columns, owner

    def _values(self, E, verb):
        E = as_real(E, verb, ndim=2)
        if E.shape != self.shape:
            raise ValueError(
                f"{verb}: expected an array of shape (n, N) = {self.shape}, got {E.shape}")
        out = np.result_type(E.dtype, self.covariance.dtype)
        return np.ascontiguousarray(E, self.covariance.dtype), out

    def _pass(self, X, owner, out=None):
        """``D⁻¹ (x - F z)`` with zeros at missing cells, and ``‖z‖²``, of samples of a batch.

        owner[t], increasing, is the pattern of column t.
        """
        A, layout, patterns = self.covariance, self.covariance._layout, self.cells._patterns
        if layout.R == 0:
            return X * A._dinv[:, None], np.zeros(X.shape[1])
        out = np.empty_like(X) if out is None else out
        Z = kernels.leaf.tdot(A._F, X, layout, 0, layout.n_leaves, A._dinv)
        squares = self._means(Z, owner)
        if self._long[0].rows.size:
            E, squares = correct(A, patterns, owner, X, Z, lambda T: self._means(T, owner))
            return np.multiply(E, A._dinv[:, None], out=out), squares
        kernels.leaf.dot(A._F, Z, X, A._dinv, layout, 0, layout.n_leaves, out, solve=True)
        return hide(out, patterns, owner), squares

    def _means(self, Z, owner):
        """Posterior means in place of the leaf products Z (leaves, R, k); ``‖z‖²``, (k,)."""
        layout, K = self.covariance._layout, self._factor[0]
        k, squares = owner.size, np.empty(owner.size)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1, [k]])
        edges = [a for a, _, _ in self._forests] + [self.cells.n_patterns]
        runs = np.searchsorted(owner[starts[:-1]], edges)  # the first run of each forest

        def task(lo, hi):
            for f in range(lo, hi):
                first, _, trees = self._forests[f]
                for which, width in estep.forest.equals(starts, runs[f], runs[f + 1], layout):
                    columns, W = starts[which], scratch("W", (trees.s, width), Z.dtype)
                    chosen = owner[columns] - first
                    leaves = trees.leaves(chosen, width)
                    leaves.up(estep.forest.take(Z, columns), K[f], W)
                    leaves.down(estep.forest.give(Z, columns), K[f], W)
                    squares[columns[:, None] + np.arange(width)] = trees.squares(W)[chosen]

        threads.run(task, starts[runs], 0, len(self._forests),
                    2 * k * (layout.s + layout.n_leaves) * layout.R)
        return squares

    def solve(self, E: Real) -> FloatArray:
        """``Σ_OO⁻¹ e_O`` for each sample e, the columns of E (n, N); zeros at its missing cells.

        Rows are in feature order.  Values at missing cells are ignored, NaN or not; NaN at an
        observed cell makes its sample NaN and no other.
        """
        A = self.covariance
        E, dtype = self._values(E, "solve")
        out = np.empty_like(E)
        for X, columns, owner in self._batches(E):
            y = self._corrected(X, owner) if A._layout.R else self._pass(X, owner)[0]
            scatter(y, A.hierarchy.permutation, columns, out)
        return out.astype(dtype, copy=False)

    def _corrected(self, X, owner):
        A, patterns = self.covariance, self.cells._patterns

        def solve(b, columns):
            if columns is None:
                return self._pass(b, owner, scratch("solved", b.shape, b.dtype))
            return self._pass(b, owner[columns])

        def multiply(x, columns):  # Σ_OO x_O, from zeros elsewhere
            return hide(kernels.tree.multiply(A._F, A._d, x, A._layout), patterns, owner[columns])

        bounds = [bound[owner] for bound in self._norms]
        return corrected(A, solve, multiply, X, A._dinv, bounds)

    def inv_quad(self, E: Real) -> FloatArray:
        """``e_Oᵀ Σ_OO⁻¹ e_O`` of each sample, (N,), never negative; 0 for one without any cell.

        The smallest ``‖D^{-1/2}(e - F z)‖² + ‖z‖²`` over z: a sum of squares.
        """
        values, dtype = self._values(E, "inv_quad")
        out = np.empty(self.shape[1], dtype)
        for X, columns, owner in self._batches(values):
            y, squares = self._pass(X, owner)
            out[columns] = squares + np.einsum(
                "ik,ik,i->k", y, y, self.covariance._d, dtype=np.float64)
        return out

    def logdet(self) -> float:
        """``Σ_t log det Σ_OO`` over the samples, float; a sample without any cell adds 0."""
        A, cells = self.covariance, self.cells
        logs = cells._tree_counts @ np.log(A._d, dtype=float)
        return float(logs + (cells._pattern_weights @ self._factor[1] if A._layout.R else 0))

    def inverse_diagonal(self) -> FloatArray:
        """Mean of ``(Σ_OO⁻¹)_ii`` over the samples that show feature i, (n,); 0 where none does.

        What a sample's cell weighs by itself, for preconditioners of weighted regressions.  A sum
        of ``Cov`` over the patterns that see a class serves all of its features:
        ``(Σ_OO⁻¹)_ii = (1 - F_i Cov F_iᵀ / D_i) / D_i``, exact to rounding of 1 / D_i.
        """
        A, layout, patterns = self.covariance, self.covariance._layout, self.cells._patterns
        R, shown, share = layout.R, self.cells._tree_counts, np.zeros_like(A._d)
        width = R * (R + 1) // 2
        if R:
            W = np.zeros((patterns.row_off.size - 1, width), A.dtype)
            for first, last in _forest_batches(self._forests, layout.n_leaves * width):
                p0, p1 = self._forests[first][0], self._forests[last - 1][1]
                add_by_class(self._covariances(first, last), patterns, p0, p1, W)
            by_class(lambda lo, hi: estep._compiled_incomplete.class_forms(
                A._F, W, patterns.rows, patterns.row_off, lo, hi, share), patterns, A._F.size * R)
            share[self._long[0].rows] = self._lengths()
            share /= A._d * np.maximum(shown, 1).astype(A.dtype)
        diagonal = np.maximum(1 - share, np.finfo(A.dtype).eps) / A._d
        return A.hierarchy._scatter(np.where(shown > 0, diagonal, 0))

    def _lengths(self):
        """``Σ_t f Cov f`` of the long rows over the samples that show them."""
        long, weights = self._long[0], self.cells._pattern_weights.astype(float)
        out = np.zeros(long.rows.size)
        for (a, b, trees), K in zip(self._forests, self._factor[0], strict=True):
            leaves = trees.leaves(np.arange(b - a), 0)
            long.add_lengths(K, leaves, np.arange(a, b), weights[a:b], self.covariance, out)
        return out

    def _covariances(self, first, last):
        """S (leaves, patterns, R (R + 1) / 2) of the forests first:last.

        Path covariances, times the number of samples of each pattern.
        """
        forests, K, layout = self._forests[first:last], self._factor[0], self.covariance._layout
        R, dtype, p0 = layout.R, self.covariance.dtype, forests[0][0]
        shape = layout.n_leaves, forests[-1][1] - p0, R * (R + 1) // 2
        S = scratch("covariances of patterns", shape, dtype)
        weights, roots = self.cells._pattern_weights[p0:].astype(dtype), np.empty(0, dtype)

        def task(lo, hi):
            for f in range(lo, hi):
                a, b, trees = self._forests[f]
                which = np.arange(a, b) - p0

                def keep(first, last, T, cov, which=which):
                    estep._compiled_incomplete.pack_moments(
                        cov, weights, T, roots, which, which, first, last, S)

                trees.leaves(which - which[0], 0).down(
                    keep, K[f], np.empty((trees.s, 0), dtype), covariance=True)

        threads.run(task, np.arange(len(self._forests) + 1), first, last, S.size * R)
        return S


# ------------------------------------------------------------------ passes over arrays


def batches(patterns, layout):
    """Ranges of samples whose temporaries stay bounded; F is read for R samples or more."""
    N = int(patterns.starts[-1])
    step = min(BLOCK_ITEMS // layout.n, PRODUCT_ITEMS // max(1, layout.n_leaves * layout.R))
    step = max(step, layout.R, 1)
    for first in range(0, N, step):
        yield first, min(first + step, N)


def _forest_batches(forests, per_pattern):
    """Ranges of forests with temporaries of `per_pattern` numbers for each of their patterns."""
    yield from blocks(0, len(forests), max(b - a for a, b, _ in forests) * per_pattern, BLOCK_ITEMS)


def scatter(X, row, column, out):
    """out[row[i], column[t]] = X[i, t]."""
    threads.run(lambda lo, hi: estep._compiled_incomplete.scatter(X, row, column, lo, hi, out),
                np.arange(row.size + 1), 0, row.size, X.size)


def norms(F, d, dinv, patterns, layout):
    """Bounds a pattern, three arrays: of ‖I + FᵀD⁻¹F‖ and ‖F‖ above, of ‖Σ_OO‖ below.

    Fewer rows have a smaller Gram matrix: those of all features bound every pattern from above, as
    do the traces of its own rows.  Below, ``‖F_g F_gᵀ‖ >= tr F_g F_gᵀ / r`` for each group.
    """
    P, first, C = patterns.starts.size - 1, patterns.row_off[:-1], patterns.row_off.size - 1

    def largest(by_class, off):
        total, out = np.empty((2, P))
        threads.run(lambda lo, hi: estep._compiled_incomplete.largest_sums(
            patterns.seen, by_class, off, lo, hi, total, out), np.arange(P + 1), 0, P, P * C)
        return out

    variances = np.einsum("ij,ij->i", F, F, dtype=float) + d
    scaled, plain = np.ones(P), np.zeros(P)
    below = largest(np.maximum.reduceat(variances[patterns.rows], first), np.arange(C + 1))
    for level, (c0, c1) in enumerate(zip(layout.cols[:-1], layout.cols[1:], strict=True)):
        if c0 == c1:
            continue
        squares = np.einsum("ij,ij->i", F[:, c0:c1], F[:, c0:c1], dtype=float)[patterns.rows]
        off = patterns.class_off[layout.first_leaves[level]]
        traces = largest(np.add.reduceat(squares, first), off)
        plain += traces
        scaled += largest(np.add.reduceat(squares * dinv[patterns.rows], first), off)
        below = np.maximum(below, traces / (c1 - c0))
    scaled = np.minimum(scaled, 1 + _gram_norm(F, dinv, layout))
    plain = np.minimum(plain, _gram_norm(F, np.ones_like(d), layout))
    return scaled, np.sqrt(plain), below


def _gram_norm(F, scale, layout):
    """``Σ_l ‖F_lᵀ diag(scale) F_l‖``, a bound of the norm for all levels; infinite on overflow."""
    G = kernels.leaf.gram(F, scale, layout, 0, layout.n_leaves)
    total = 0.0
    for level, (c0, c1) in enumerate(zip(layout.cols[:-1], layout.cols[1:], strict=True)):
        if c0 < c1:
            own = np.add.reduceat(G[:, c0:c1, c0:c1], layout.first_leaves[level][:-1], axis=0)
            if not np.isfinite(own).all():
                return np.inf
            total += float(np.linalg.eigvalsh(own)[:, -1].max())
    return total
