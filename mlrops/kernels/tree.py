"""The algorithms on a multilevel low rank matrix ``Σ = diag(D) + Σ_l F_l F_lᵀ``, on plain arrays.

All arrays have their rows in tree order.  ``K`` is the factor that `factor` returns: the row blocks
``[X | C]`` of every node, ``C Cᵀ = A_own,own + I`` and ``X = C⁻¹ A_own,anc``.
"""

import numpy as np

from . import _compiled, leaf

__all__ = ["factor", "inverse_rows", "multiply", "path_covariance", "posterior",
           "regress", "solve", "spread"]


def _up(F, x, scale, K, layout):
    """Node rows W (s, k): ``w = C⁻¹ t_own`` bottom up, or the plain ``F_lᵀ x`` for K None."""
    k = x.shape[1]
    W = np.empty((layout.s, k), F.dtype)
    stack = np.zeros((layout.L, layout.R, k), F.dtype)
    for lo, hi in layout.blocks(k * layout.R):
        T = leaf.tdot(F, x, layout, lo, hi, scale)
        _compiled.sweep_up(T, lo, hi, layout.path, layout.cols, layout.zoff,
                           _no_factor(F) if K is None else K, K is not None, stack, W)
    return W


def _down(W, K, layout):
    """Yield (lo, hi, Z) with Z (hi - lo, R, k) along paths; W becomes the factors of the nodes."""
    k = W.shape[1]
    stack = np.zeros((layout.R, k), W.dtype)
    for lo, hi in layout.blocks(k * layout.R):
        Z = np.empty((hi - lo, layout.R, k), W.dtype)
        _compiled.sweep_down(W, lo, hi, layout.path, layout.cols, layout.zoff,
                             _no_factor(W) if K is None else K, K is not None, stack, Z)
        yield lo, hi, Z


def _no_factor(like):
    return np.empty((0, 0), like.dtype)


def multiply(F, p, x, layout, sign=1.0):
    """``diag(p) x + sign F_spread F_spreadᵀ x`` for x (n, k)."""
    out = np.empty_like(x)
    W = _up(F, x, None, None, layout)
    for lo, hi, Z in _down(W, None, layout):
        leaf.dot(F, Z, x, p, layout, lo, hi, out, sign=sign)
    return out


def factor(F, dinv, layout):
    """(K, log det(I + Fᵀ D⁻¹ F), fail): fail is None or the (level, group) of a bad pivot."""
    R = layout.R
    K = np.zeros((layout.s, R), F.dtype)
    stack = np.zeros((layout.L, R, R), F.dtype)
    fail = np.full(2, -1, np.int64)
    logs = 0.0
    for lo, hi in layout.blocks(R * R):
        G = leaf.gram(F, dinv, layout, lo, hi)
        logs += _compiled.sweep_factor(G, lo, hi, layout.path, layout.cols, layout.zoff,
                                       stack, K, fail)
        if fail[0] >= 0:
            return K, np.nan, (int(fail[0]), int(fail[1]))
    return K, 2 * logs, None


def solve(F, dinv, K, b, layout):
    """``Σ⁻¹ b`` and the factors' posterior means of the nodes, (s, k), for b (n, k)."""
    out = np.empty_like(b)
    W = _up(F, b, dinv, K, layout)
    for lo, hi, Z in _down(W, K, layout):
        leaf.dot(F, Z, b, dinv, layout, lo, hi, out, solve=True)
    return out, W


def posterior(F, dinv, K, Y, layout):
    """Posterior means of the nodes, (s, N), and ``Σ_nodes ‖w‖²`` a sample, for Y (n, N).

    ``yᵀΣ⁻¹y = yᵀD⁻¹y - Σ ‖w‖²``: the quadratic form of every sample comes with the upward sweep.
    """
    W = _up(F, Y, dinv, K, layout)
    squares = np.einsum("sk,sk->k", W, W)
    for _ in _down(W, K, layout):
        pass
    return W, squares


def path_covariance(K, layout, lo, hi, stack):
    """Posterior covariance of the factors along the paths of leaves lo:hi, (hi - lo, R, R)."""
    out = np.empty((hi - lo, layout.R, layout.R), K.dtype)
    _compiled.sweep_covariance(lo, hi, layout.path, layout.cols, layout.zoff, K, stack, out)
    return out


def regress(K, means, Y, yy, n_samples, layout, F, D):
    """One M-step into F (n, R) and D (n,): regress the features on the factors of their paths."""
    k, R, L = Y.shape[1], layout.R, layout.L
    cov_stack = np.zeros((R, R), K.dtype)
    zz, chol, linv = np.zeros((3, R, R), K.dtype)
    winv = np.zeros((L + 1, R, R), K.dtype)
    z_stack = np.zeros((R, k), K.dtype)
    for lo, hi in layout.blocks(R * max(R, k)):
        Z = np.empty((hi - lo, R, k), K.dtype)
        _compiled.sweep_down(means, lo, hi, layout.path, layout.cols, layout.zoff, K, False,
                             z_stack, Z)
        cov = path_covariance(K, layout, lo, hi, cov_stack)
        Winv = np.empty_like(cov)
        _compiled.sweep_second_moments(cov, Z, lo, hi, layout.path, layout.cols,
                                       n_samples, zz, chol, linv, winv, Winv)
        leaf.regress(Y, Z, Winv, yy, n_samples, layout, lo, hi, F, D)


def spread(F, p, W, x, layout):
    """``diag(p) x + F_spread w`` for node rows W (s, k) and x (n, k)."""
    out = np.empty_like(x)
    if layout.R == 0:
        return np.multiply(x, p[:, None], out=out)
    for lo, hi, Z in _down(W, None, layout):
        leaf.dot(F, Z, x, p, layout, lo, hi, out)
    return out


def inverse_rows(F, dinv, K, layout):
    """H (n, R), of the sparsity of F, with ``Σ⁻¹ = diag(1/D) - H_spread H_spreadᵀ``."""
    H = np.empty_like(F)
    _compiled.sweep_inverse_rows(F, dinv, layout.leaf_off, layout.path, layout.cols, layout.zoff,
                                 K, H)
    return H
