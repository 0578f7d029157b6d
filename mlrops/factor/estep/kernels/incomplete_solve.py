"""Solves with the blocks of Σ that samples with missing cells show: one factor a pattern, kept.

With zeros for the precisions of the missing features Woodbury's identity gives ``Σ_OO⁻¹`` on the
whole tree, so the products with F are those of all samples at once and only the sweeps go pattern
by pattern.  See `incomplete` for patterns and classes.
"""

import numpy as np

from ....kernels import leaf, threads
from ....kernels.layout import BLOCK_ITEMS, CACHE_ITEMS
from ....kernels.scratch import scratch
from . import _compiled_incomplete as _compiled
from .incomplete import add_by_class, grams, products

__all__ = ["batches", "factor", "gather", "hide", "inverse_diagonal", "norms", "scatter", "solve"]


# Numbers in the leaf products of a batch of samples: they are passed over four times.
PRODUCT_ITEMS = 4 * CACHE_ITEMS


def batches(patterns, layout):
    """Ranges of samples whose temporaries stay bounded; F is read for R samples or more."""
    N = int(patterns.starts[-1])
    step = min(BLOCK_ITEMS // layout.n, PRODUCT_ITEMS // max(1, layout.n_leaves * layout.R))
    step = max(step, layout.R, 1)
    for first in range(0, N, step):
        yield first, min(first + step, N)


def _pattern_batches(patterns, per_pattern):
    """Ranges of patterns with temporaries of `per_pattern` numbers for each."""
    P, step = patterns.starts.size - 1, max(1, BLOCK_ITEMS // max(1, per_pattern))
    for p0 in range(0, P, step):
        yield p0, min(p0 + step, P)


def _leaves_at_once(layout, columns):
    """Leaves whose blocks (R, columns) stay in cache between two sweeps."""
    return min(layout.n_leaves, max(1, CACHE_ITEMS // (layout.R * max(layout.R, columns))))


# ------------------------------------------------------------------ cells in and out


def _by_class(kernel, patterns, work):
    threads.run(kernel, patterns.row_off, 0, patterns.row_off.size - 1, work)


def gather(X, row, column, patterns, owner, fill=0.0, out=None):
    """X[row][:, column] with `fill` at missing cells; owner[t] is the pattern of column[t]."""
    out = np.empty((row.size, column.size), X.dtype) if out is None else out
    fill = X.dtype.type(fill)
    _by_class(lambda lo, hi: _compiled.gather_seen(
        X, row, column, patterns.seen, patterns.rows, patterns.row_off, owner, fill, lo, hi, out),
        patterns, out.size)
    return out


def hide(X, patterns, owner):
    """Set the missing cells of X (n, k) to zero; return X."""
    _by_class(lambda lo, hi: _compiled.hide(
        X, patterns.seen, patterns.rows, patterns.row_off, owner, lo, hi), patterns, X.size)
    return X


def scatter(X, row, column, out):
    """out[row[i], column[t]] = X[i, t]."""
    threads.run(lambda lo, hi: _compiled.scatter(X, row, column, lo, hi, out),
                np.arange(row.size + 1), 0, row.size, X.size)


# ------------------------------------------------------------------ factor, then apply


def factor(F, dinv, patterns, layout):
    """(K (patterns, s, R), log det(I + G) (patterns,), fail); compare `tree.factor`."""
    R, P = layout.R, patterns.starts.size - 1
    outer = products(F, dinv, patterns)
    K, logs = np.zeros((P, layout.s, R), F.dtype), np.empty(P)
    fail, ridge = np.full(2, -1, np.int64), np.ones(layout.s, F.dtype)
    step = _leaves_at_once(layout, R)
    for p0, p1 in _pattern_batches(patterns, layout.n_leaves * outer.shape[1]):
        G = grams(outer, patterns, p0, p1)
        threads.run(lambda lo, hi, G=G, p0=p0, p1=p1: _compiled.factor_patterns(
            G, ridge, layout.tree, step, lo, hi, K[p0:p1], logs[p0:p1], fail),
            np.arange(p1 - p0 + 1), 0, p1 - p0, (p1 - p0) * layout.s * R * R)
        if fail[0] >= 0:
            return K, logs, (int(fail[0]), int(fail[1]))
    return K, logs, None


def solve(F, dinv, K, X, owner, layout, out=None):
    """``D⁻¹ (x - F z)`` for X (n, k), zero where missing, and ``‖z‖²`` (k,).

    owner[t], increasing, is the pattern of column t and K[owner[t]] its factor.  The result is to
    be hidden where cells are missing.
    """
    k, R, n_leaves = X.shape[1], layout.R, layout.n_leaves
    Z, squares = np.empty((n_leaves, R, k), X.dtype), np.empty(k)
    leaf.tdot(F, X, layout, 0, n_leaves, dinv, Z)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1, [k]])
    longest = int(np.diff(starts).max())
    threads.run(lambda lo, hi: _compiled.solve_patterns(
        Z, K, owner, starts, layout.tree, _leaves_at_once(layout, longest), lo, hi,
        squares),
        starts, 0, starts.size - 1, 2 * k * (layout.s + n_leaves) * R)
    out = np.empty_like(X) if out is None else out
    leaf.dot(F, Z, X, dinv, layout, 0, n_leaves, out, solve=True)
    return out, squares


def inverse_diagonal(F, d, K, counts, patterns, layout):
    """(n,) means of ``(Σ_OO⁻¹)_ii`` over the samples that show i, zero where none does.

    counts (patterns,) are numbers of samples.  A sum of ``Cov`` over the patterns that see a class
    serves all of its features: ``(Σ_OO⁻¹)_ii = (1 - F_i Cov F_iᵀ / D_i) / D_i``.
    """
    R, width = layout.R, layout.R * (layout.R + 1) // 2
    W = np.zeros((patterns.row_off.size - 1, width), F.dtype)
    step, weights = _leaves_at_once(layout, R), counts.astype(F.dtype)
    for p0, p1 in _pattern_batches(patterns, layout.n_leaves * width):
        S = scratch("covariances of patterns", (layout.n_leaves, p1 - p0, width), F.dtype)
        threads.run(lambda lo, hi, S=S, p0=p0, p1=p1: _compiled.covariance_patterns(
            K[p0:p1], weights[p0:p1], layout.tree, step, lo, hi, S),
            np.arange(p1 - p0 + 1), 0, p1 - p0, S.size * R)
        add_by_class(S, patterns, p0, p1, W)
    explained, shown = np.empty_like(d), np.empty_like(d)
    _by_class(lambda lo, hi: _compiled.class_forms(
        F, W, patterns.rows, patterns.row_off, lo, hi, explained), patterns, F.size * R)
    shown[patterns.rows] = np.repeat(patterns.seen @ counts, patterns.sizes)
    share = explained / (d * np.maximum(shown, 1))
    return np.where(shown > 0, np.maximum(1 - share, np.finfo(d.dtype).eps) / d, 0)


def norms(F, d, dinv, patterns, layout):
    """Bounds a pattern, three arrays: of ‖I + FᵀD⁻¹F‖ and ‖F‖ above, of ‖Σ_OO‖ below.

    Fewer rows have a smaller Gram matrix: those of all features bound every pattern from above, as
    do the traces of its own rows.  Below, ``‖F_g F_gᵀ‖ >= tr F_g F_gᵀ / r`` for each group.
    """
    P, first, C = patterns.starts.size - 1, patterns.row_off[:-1], patterns.row_off.size - 1

    def largest(by_class, off):
        out = np.empty(P)
        threads.run(lambda lo, hi: _compiled.largest_sums(
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
    G = leaf.gram(F, scale, layout, 0, layout.n_leaves)
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
