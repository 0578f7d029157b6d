"""Solves by Woodbury's identity, refined where a bound of their rounding asks for it."""

import numpy as np

__all__ = ["column_dots", "corrected", "norm_estimate"]

# A solve is corrected until its backward error is this many units of rounding; what a step gains
# depends on how small D is beside F.
BACKWARD_ERROR = 100
CORRECTIONS = 12


def column_dots(x, weight=None):
    """``Σ_i w_i x_ik²`` of each column of x (n, k), w = 1 by default.

    Not by BLAS: the threads it would wake spin on and take the cores of the sweeps around it.
    """
    weights = () if weight is None else (weight,)
    rows = "" if weight is None else ",i"
    if x.shape[1] == 1:  # the same, contiguous
        return np.einsum(f"i,i{rows}->", x[:, 0], x[:, 0], *weights)[None]
    return np.einsum(f"ik,ik{rows}->k", x, x, *weights)


def corrected(solve, multiply, b, dinv, norms):
    """A pass up and down the tree, refined where a bound of the backward error asks for it.

    ``x = D⁻¹ (b - F z)`` cancels where b lies close to the range of F or D is small.  Rounding in z
    and in ``Fᵀ D⁻¹ b`` moves ``z - Fᵀx`` by ``‖P‖ ‖z‖ + ‖D^{-1/2}F‖ ‖D^{-1/2}b‖`` units,
    ``P = I + FᵀD⁻¹F``.  A pass on the residual takes ``eps ‖P‖`` or less of the error; a column is
    done when its backward error is small or a step no longer halves it.

    Parameters
    ----------
    solve : callable
        ``solve(b, columns)`` gives x (n, k) and the squared lengths of z (k,) for right-hand sides
        b that stand for these columns of `b`; `columns` None means all.
    multiply : callable
        ``multiply(x, columns)``, the product with the matrix that `solve` inverts.
    b : ndarray, shape (n, k)
    dinv : ndarray, shape (n,)
        ``D⁻¹``.
    norms : tuple of three, each a float or of shape (k,)
        Bounds of ‖P‖ and ‖F‖ above, of the norm of the matrix below.

    Returns
    -------
    ndarray, shape (n, k)
    """
    eps, tiny = (getattr(np.finfo(b.dtype), name) for name in ("eps", "tiny"))
    above, factors, norm = (np.broadcast_to(bound, b.shape[1]) for bound in norms)

    def lengths(x):
        return np.sqrt(column_dots(x))

    with np.errstate(over="ignore", invalid="ignore"):
        x, squares = solve(b, None)
        gap = (above * np.sqrt(squares)
               + np.sqrt(above) * np.sqrt(column_dots(b, dinv)))
        left = np.flatnonzero(factors * gap > BACKWARD_ERROR * (norm * lengths(x) + lengths(b)))
        reached, y = np.full(left.size, np.inf), np.take(x, left, axis=1)
        for step in range(CORRECTIONS if left.size else 0):
            c = np.take(b, left, axis=1)
            residual = c - multiply(y, left)
            error = lengths(residual) / np.maximum(norm[left] * lengths(y) + lengths(c), tiny)
            better = error < reached / 2
            if step:
                x[:, left[better]] = y[:, better]
            more = better & (error > BACKWARD_ERROR * eps)
            if not more.any():
                break
            left, reached = left[more], error[more]
            y = np.compress(more, y, axis=1)
            y += solve(np.compress(more, residual, axis=1), left)[0]
    return x


def norm_estimate(A, steps=4):
    """A lower bound of ‖A‖, near it, by a few products with A and Aᵀ (float)."""
    m, n = A.shape
    v = np.random.default_rng(0).standard_normal((n, 1)).astype(A.dtype)
    found = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            peak = float(np.abs(v).max(initial=0.0))
            if not 0 < peak < np.inf:
                break
            v = v / A.dtype.type(peak)
            v /= np.sqrt(column_dots(v))
            w = A._mul(v).astype(np.float64)
            largest = float(np.abs(w).max(initial=0.0)) or 1.0
            length = largest * float(np.sqrt(column_dots(w / largest))[0])
            found = max(found, length) if np.isfinite(length) else found
            w = (w / largest).astype(A.dtype)
            try:
                v = A._rmul(w)
            except NotImplementedError:
                if m != n:
                    break
                v = w
    return found
