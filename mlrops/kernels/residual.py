"""The posterior of the factors without loss where D is far below the features' variances.

For samples ``x = F z + e``, ``cov(e) = diag(D)``, with P = I + FᵀD⁻¹F = Λ Λᵀ, the quadratic form is

    xᵀΣ⁻¹x = min over z of q(z) = ‖D^{-1/2} (x - F z)‖² + ‖z‖²

a sum of squares, where ``xᵀD⁻¹x - ‖Λ⁻¹FᵀD⁻¹x‖²`` loses variance / D units of rounding.  The means z
lose as many: rounding in ``f_i x_i / D_i`` does not lie along f_i.  That in ``f_i e_i / D_i``, of
a small residual e = x - F z, does, but for as much less: so z is corrected by its gap,

    t = FᵀD⁻¹e - z        z ← z + P⁻¹ t        min q = q(z) - ‖Λ⁻¹ t‖²

All arrays have their rows in tree order.
"""

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import _compiled_residual, leaf, threads, tree
from .layout import Layout

__all__ = ["CORRECTIONS", "LAST", "Split", "factor", "long_rows", "loses_digits"]

# Variance over D of a feature from which what cancels in the plain forms is worth a second pass:
# they leave a relative error of so many units of rounding at most, 1e-9, and mostly of far fewer.
# Fits stop D at 1e-6 of the variance, if not told otherwise, and are spared that pass.
LOSS = {np.dtype(np.float64): 4e6, np.dtype(np.float32): 1e2}
# Rows of D^{-1/2}F with squares above this share of it are taken out of Gram matrices.
LONG = 0.1
# Corrections at most; with an exact factor one is enough.
CORRECTIONS = 3
# Squared length of a correction, of the quadratic form, below which it was the last one: what it
# leaves is smaller by what the factor has lost.
LAST = 1e-12


def loses_digits(variance: FloatArray, d: FloatArray) -> bool:
    """Whether a variance (n,) is so many times its D that the plain forms lose digits."""
    return bool((variance > LOSS[d.dtype] * d).any())


def long_rows(F: FloatArray, d: FloatArray, layout: Layout) -> tuple[IntArray, IntArray]:
    """The rows of D^{-1/2}F that are far longer than the others, and their leaves.

    None where none is so long that the plain forms lose digits.
    """
    squares, limit = np.einsum("ij,ij->i", F, F), LOSS[d.dtype] * d
    long = squares > LONG * limit if (squares > limit).any() else np.zeros(d.size, bool)
    rows = np.flatnonzero(long)
    return rows, np.searchsorted(layout.leaf_off, rows, side="right") - 1


def factor(F: FloatArray, d: FloatArray, dinv: FloatArray, layout: Layout) -> tree.Factorization:
    """`tree.factor` where some rows of D^{-1/2}F are far longer than the others.

    In a Gram matrix with them the others would lose digits: they are added to the Cholesky factor
    of the others, in ``3 R²`` flops each.
    """
    rows, leaves = long_rows(F, d, layout)
    others = dinv.copy()
    others[rows] = 0
    found = tree.factor(F, others, layout)
    if found.fail is not None or not rows.size:
        return found
    K, sizes = found.K, found.sizes
    _compiled_residual.add_rows(F, np.sqrt(d), rows, leaves, layout.tree, K)
    np.add.at(sizes, layout.path_rows(leaves), np.square(F[rows]) * dinv[rows, None])
    pivots = tree.pivots(K, layout)
    gained = 2 * float(np.log(pivots, dtype=np.float64).sum())
    return found._replace(gained=gained, fail=tree.broken(K, layout.tree), share=np.inf,
                          loss=float((sizes / np.square(pivots)).max(initial=1.0)))


# ------------------------------------------------------------------ long rows apart


class Split:
    """The long rows of D^{-1/2}F apart from the others, for corrections without passes over all.

    With P = I + G + F_bᵀD_b⁻¹F_b, F_b the long rows, and t = FᵀD⁻¹x of the others, the gap of z is
    ``t - (z + G z) + F_bᵀD_b⁻¹(x_b - F_b z)``: what the others give of it needs no residuals.
    """

    def __init__(self, F: FloatArray, d: FloatArray, dinv: FloatArray, layout: Layout) -> None:
        self.rows, self._owners = long_rows(F, d, layout)
        self._layout, self.others = layout, dinv.copy()
        self.others[self.rows] = 0
        if not self.rows.size:
            return
        self.F, self.dinv = F[self.rows], dinv[self.rows]
        self._leaves, first = np.unique(self._owners, return_index=True)
        self._nodes = layout.path_rows(self._leaves)
        # For products leaf by leaf only: the nodes are those of the whole tree.
        self.layout = Layout(layout.path[self._leaves], layout.cols, layout.zoff,
                             np.append(first, self.rows.size), 0)
        G = leaf.gram(F, self.others, layout, 0, layout.n_leaves)
        for a in range(layout.R - 1):  # the upper triangles
            G[:, a, a + 1 :] = G[:, a + 1 :, a]
        # Their rows one below the other, as products with leaves of R rows take them.
        self._gram = G.reshape(-1, layout.R)
        self._blocks = Layout(layout.path, layout.cols, layout.zoff,
                              layout.R * np.arange(layout.n_leaves + 1), 0)

    def paths(self, W: FloatArray) -> FloatArray:
        """Z (leaves, R, k) along the paths of the leaves with long rows, of node rows W (s, k)."""
        return W[self._nodes]

    def times_covariance(self, K: FloatArray, F: FloatArray | None = None
                         ) -> tuple[FloatArray, FloatArray]:
        """``f Cov`` (b, R), Cov along the path, and ``f Cov fᵀ = ‖Λ⁻¹ f‖²`` (b,) float64.

        Of the long rows, or of others in their places.  Cov itself is known to rounding of its
        largest entries only, which may be far more.
        """
        F = self.F if F is None else F
        out, lengths, layout = np.empty_like(F), np.empty(len(F)), self._layout
        threads.run(lambda lo, hi: _compiled_residual.path_solves(
            F, self._owners, layout.tree, K, lo, hi, out, lengths),
            np.arange(len(F) + 1), 0, len(F), len(F) * layout.R**2)
        return out, lengths

    def means(self, K: FloatArray, t: FloatArray, X: FloatArray) -> tuple[FloatArray, FloatArray,
                                                                         float]:
        """Means W (s, k) and residuals E (b, k) of long rows X (b, k); t (s, k) is of the others.

        The third result is ``Σ xᵀΣ⁻¹x`` without ``Σ x²/D`` of the others.
        """
        t0, W, E, quad, size = t, np.zeros_like(t), X, 0.0, np.inf
        for _ in range(1 + CORRECTIONS):
            step = self._project(K, t, E)
            before, size = size, _sum(step, step)
            if not size < before:  # nothing but rounding is left
                break
            tree.spread_with(step, K, self._layout)
            W += step
            E = self.residuals(W, X)
            if before < np.inf and size <= LAST * _sum(W, W):
                return W, E, quad - size  # what the step lowers its minimum by
            own = W + self._times_gram(W)
            quad = _sum(W, own) - 2 * _sum(t0, W) + float(
                np.einsum("ik,ik,i->", E, E, self.dinv, dtype=np.float64))
            t = t0 - own
        return W, E, quad

    def residuals(self, W: FloatArray, X: FloatArray, F: FloatArray | None = None) -> FloatArray:
        """``X - F_b Z`` (b, k) for node rows W (s, k), F_b their own rows of F if not others."""
        E, ones, F = np.empty_like(X), np.ones_like(self.dinv), self.F if F is None else F
        leaf.dot(F, self.paths(W), X, ones, self.layout, 0, self._leaves.size, E, sign=-1.0)
        return E

    def _project(self, K, t, E):
        """``Λ⁻¹ (t + F_bᵀD_b⁻¹E)``, node rows (s, k)."""
        T = leaf.tdot(self.F, E, self.layout, 0, self._leaves.size, self.dinv)
        return tree.project_with(lambda lo, hi, out: self._place(t, T, lo, hi, out), E.shape[1],
                                 t.dtype, K, self._layout)

    def _place(self, node, T, lo, hi, out):
        """Leaf products out (hi - lo, R, k) that sum up to the node rows `node` and T."""
        out[...] = 0
        tree.add_nodes(out, node, self._layout, lo, hi)
        a, b = np.searchsorted(self._leaves, [lo, hi])
        out[self._leaves[a:b] - lo] += T[a:b]

    def _times_gram(self, W):
        """G W for node rows W (s, k)."""
        layout, G, k = self._layout, self._gram, W.shape[1]
        T, none = np.zeros((len(G), k), W.dtype), np.zeros(len(G), W.dtype)

        def multiply(lo, hi, Z):
            leaf.dot(G, Z, T, none, self._blocks, lo, hi, T)

        def give(lo, hi, out):
            out[...] = T[lo * layout.R : hi * layout.R].reshape(out.shape)

        tree.spread_with(W, None, layout, multiply)
        return tree.project_with(give, k, W.dtype, None, layout)


def _sum(a, b):
    return float(np.einsum("sk,sk->", a, b, dtype=np.float64))
