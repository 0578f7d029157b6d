"""Conjugate gradients for many right-hand sides at once."""

import numpy as np

__all__ = ["block_cg"]


def block_cg(A, B, rtol=1e-10, max_iter=1000):
    """Solve ``A X = B`` for all columns of B, each by conjugate gradients of its own.

    The columns share nothing but the products, which are taken of all that are not done yet.

    Parameters
    ----------
    A : callable
        ``A(X)``, the product of a symmetric positive definite matrix with X (n, m); any m.
    B : ndarray, shape (n, m)
    rtol : float, optional
        A column is done when the residual that the iteration recurs is `rtol` times as long as the
        column.
    max_iter : int, optional

    Returns
    -------
    X : ndarray, shape (n, m)
    residuals : ndarray, shape (m,)
        Relative lengths of the residuals; above `rtol` where `max_iter` was reached.
    n_iter : int

    Notes
    -----
    M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems" (1952).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.models.sur.block_cg import block_cg
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> X, residuals, n_iter = block_cg(lambda X: A @ X, np.eye(2))
    >>> bool(np.allclose(A @ X, np.eye(2))), n_iter
    (True, 2)
    """
    X, length = np.zeros_like(B), np.sqrt(_dots(B, B))
    scale = np.where(length > 0, length, 1)
    residuals, n_iter = np.where(length > 0, 1.0, 0.0), 0
    left = np.flatnonzero(residuals > rtol)
    x, r = X[:, left], B[:, left] / scale[left]
    p, square = r.copy(), _dots(r, r)
    while left.size and n_iter < max_iter:
        n_iter += 1
        q = A(p)
        step = square / _dots(p, q)
        x += step * p
        r -= step * q
        before, square = square, _dots(r, r)
        residuals[left] = np.sqrt(square)
        more = residuals[left] > rtol
        p = r + (square / before) * p
        if not more.all():
            X[:, left[~more]] = x[:, ~more]
            left, square = left[more], square[more]
            x, r, p = x[:, more], r[:, more], p[:, more]
    X[:, left] = x
    return X * scale, residuals, n_iter


def _dots(X, Y):
    return np.einsum("ij,ij->j", X, Y)
