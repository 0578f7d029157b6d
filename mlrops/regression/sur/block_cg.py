"""Conjugate gradients for many right-hand sides at once."""

import numpy as np

__all__ = ["block_cg"]

ROUNDS = 4


def block_cg(A, B, rtol=1e-10, max_iter=1000):
    """Solve ``A X = B`` for all columns of B, each by conjugate gradients of its own.

    The columns share nothing but the products, which are taken of all that are not done yet.

    Parameters
    ----------
    A : callable
        ``A(X)``, the product of a symmetric positive definite matrix with X (n, m); any m.
    B : ndarray, shape (n, m)
    rtol : float, optional
        A column is done when its residual is `rtol` times as long as the column.  What the
        iteration recurs is checked against ``B - A X``, and runs follow for what is left.
    max_iter : int, optional

    Returns
    -------
    X : ndarray, shape (n, m)
    residuals : ndarray, shape (m,)
        Relative lengths of the residuals ``B - A X``; above `rtol` where `max_iter` was reached, or
        rounding allows no less.
    n_iter : int
        Steps of the longest runs.

    Notes
    -----
    M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems" (1952).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.regression.sur.block_cg import block_cg
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> X, residuals, n_iter = block_cg(lambda X: A @ X, np.eye(2))
    >>> bool(np.allclose(A @ X, np.eye(2))), n_iter
    (True, 2)
    """
    X, length = np.zeros_like(B), np.sqrt(_dots(B, B))
    scale = np.where(length > 0, length, 1)
    right = B / scale
    R, residuals, n_iter = right.copy(), np.where(length > 0, 1.0, 0.0), 0
    for _ in range(ROUNDS):
        left = np.flatnonzero(residuals > rtol)
        if not left.size or n_iter >= max_iter:
            break
        steps, used = _run(A, R[:, left], rtol / residuals[left] / 2, max_iter - n_iter)
        n_iter += used
        tried = X[:, left] + steps
        error = right[:, left] - A(tried)
        reached = np.sqrt(_dots(error, error))
        # A run that the cap cuts short may leave more: less is left in the norm of A only.
        better = (reached < residuals[left]) | (n_iter >= max_iter)
        X[:, left[better]], R[:, left[better]] = tried[:, better], error[:, better]
        slow = ~(reached < residuals[left] / 2)
        residuals[left[better]] = reached[better]
        if slow.all():
            break
    return X * scale, residuals, n_iter


def _run(A, B, goals, max_iter):
    """One run from zero, until the residuals that it recurs are `goals` of the columns' lengths."""
    X, n_iter = np.zeros_like(B), 0
    length = np.sqrt(_dots(B, B))
    left = np.arange(length.size)
    x, r = X.copy(), B / length
    p, square = r.copy(), _dots(r, r)
    while left.size and n_iter < max_iter:
        n_iter += 1
        q = A(p)
        curvature = _dots(p, q)
        usable = curvature > 0  # else A is not positive definite, or nothing is left of it
        step = np.divide(square, curvature, out=np.zeros_like(square), where=usable)
        x += step * p
        r -= step * q
        before, square = square, _dots(r, r)
        more = usable & (np.sqrt(square) > goals[left])
        p = r + (square / before) * p
        if not more.all():
            X[:, left[~more]] = x[:, ~more]
            left, square = left[more], square[more]
            x, r, p = x[:, more], r[:, more], p[:, more]
    X[:, left] = x
    return X * length, n_iter


def _dots(X, Y):
    return np.einsum("ij,ij->j", X, Y)
