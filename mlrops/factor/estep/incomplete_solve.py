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
from ...kernels.layout import BLOCK_ITEMS, CACHE_ITEMS
from ...kernels.scratch import scratch
from ...operators.mlr import MLR
from ...operators.refine import corrected
from ...tree.hierarchy import Hierarchy
from .. import estep
from .exact import Factors, correct, hide, means_of, path_covariances
from .patterns import Grouped, add_by_class, by_class, gather

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
        """(K (patterns, s, R), log det(I + Fᵀ D⁻¹ F) (patterns,)); compare `tree.factor`."""
        A, P, layout = self.covariance, self.cells.n_patterns, self.covariance._layout
        factors, K, logs = self._factors, np.zeros((P, layout.s, layout.R), A.dtype), np.empty(P)
        for p0, p1 in _pattern_batches(P, layout.n_leaves * factors.outer.shape[1]):
            factors.fill(p0, p1, K[p0:p1], logs[p0:p1])
        return K, logs

    @cached_property
    def _factors(self):
        return Factors(self.covariance, self.cells._patterns)

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
        K, out = self._factor[0], np.empty_like(X) if out is None else out
        Z = kernels.leaf.tdot(A._F, X, layout, 0, layout.n_leaves, A._dinv)
        squares = means_of(Z, K, owner, layout)
        if self._factors.long.rows.size:
            E, squares = correct(A, patterns, owner, X, K, Z)
            return np.multiply(E, A._dinv[:, None], out=out), squares
        kernels.leaf.dot(A._F, Z, X, A._dinv, layout, 0, layout.n_leaves, out, solve=True)
        return hide(out, patterns, owner), squares

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
            K, W = self._factor[0], np.zeros((patterns.row_off.size - 1, width), A.dtype)
            weights, factors = self.cells._pattern_weights.astype(A.dtype), self._factors
            lengths = np.zeros(factors.long.rows.size)
            for p0, p1 in _pattern_batches(weights.size, layout.n_leaves * width):
                S = path_covariances(K[p0:p1], weights[p0:p1], layout)
                add_by_class(S, patterns, p0, p1, W)
                factors.add_lengths(p0, weights[p0:p1], K[p0:p1], lengths)
            by_class(lambda lo, hi: estep._compiled_incomplete.class_forms(
                A._F, W, patterns.rows, patterns.row_off, lo, hi, share), patterns, A._F.size * R)
            share[factors.long.rows] = lengths
            share /= A._d * np.maximum(shown, 1).astype(A.dtype)
        diagonal = np.maximum(1 - share, np.finfo(A.dtype).eps) / A._d
        return A.hierarchy._scatter(np.where(shown > 0, diagonal, 0))


# ------------------------------------------------------------------ passes over arrays


def batches(patterns, layout):
    """Ranges of samples whose temporaries stay bounded; F is read for R samples or more."""
    N = int(patterns.starts[-1])
    step = min(BLOCK_ITEMS // layout.n, PRODUCT_ITEMS // max(1, layout.n_leaves * layout.R))
    step = max(step, layout.R, 1)
    for first in range(0, N, step):
        yield first, min(first + step, N)


def _pattern_batches(P, per_pattern):
    """Ranges of P patterns with temporaries of `per_pattern` numbers for each."""
    step = max(1, BLOCK_ITEMS // max(1, per_pattern))
    for p0 in range(0, P, step):
        yield p0, min(p0 + step, P)


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
        out = np.empty(P)
        threads.run(lambda lo, hi: estep._compiled_incomplete.largest_sums(
            patterns.seen, by_class, off, lo, hi, out), np.arange(P + 1), 0, P, P * C)
        return out

    variances = np.einsum("ij,ij->i", F, F, dtype=float) + d
    scaled, plain = np.ones(P), np.zeros(P)
    below = largest(np.maximum.reduceat(variances[patterns.rows], first), np.arange(C + 1))
    for level, (c0, c1) in enumerate(zip(layout.cols[:-1], layout.cols[1:], strict=True)):
        if c0 == c1:
            continue
        squares = np.einsum("ij,ij->i", F[:, c0:c1], F[:, c0:c1], dtype=float)[patterns.rows]
        off = patterns.class_off[_first_leaves(layout, level)]
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
            own = np.add.reduceat(G[:, c0:c1, c0:c1], _first_leaves(layout, level)[:-1], axis=0)
            if not np.isfinite(own).all():
                return np.inf
            total += float(np.linalg.eigvalsh(own)[:, -1].max())
    return total


def _first_leaves(layout, level):
    """The leaf at which each group of a level begins, and the number of leaves."""
    groups = layout.path[:, level]
    return np.searchsorted(groups, np.arange(groups[-1] + 2))
