"""Conjugate gradients of few coefficients, which end after as many steps as there are."""

import numpy as np

__all__ = ["conjugate_gradients"]

# Numbers in the residuals that are kept, beyond those of one array of as many rows as columns.
MOST_KEPT = 20_000_000


def conjugate_gradients(product, b, goal, max_iter):
    """Solve ``A x = b`` from zero until the residual that the iteration recurs is `goal` long.

    In exact arithmetic the residuals are orthogonal to one another, and n steps are enough.
    Rounding makes them lose that where A is ill-conditioned, and steps are taken again, ten times
    as many as coefficients and more; so each residual is made orthogonal to those before it.  Past
    20 million numbers in residuals, the first of them serve.

    Parameters
    ----------
    product : callable
        ``product(x)``, of a symmetric positive definite matrix with x (n,).
    b : ndarray, shape (n,)
    goal : float
    max_iter : int
        Cap of the steps; more than n are never taken.

    Returns
    -------
    x : ndarray, shape (n,)
        Where A proves not to be positive definite, what was reached before.
    n_iter : int
        Number of products.

    Notes
    -----
    C. Lanczos, "Solution of systems of linear equations by minimized iterations" (1952).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.regression.conjugate import conjugate_gradients
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> x, n_iter = conjugate_gradients(lambda x: A @ x, np.ones(2), 1e-12, 10)
    >>> bool(np.allclose(A @ x, 1)), n_iter
    (True, 2)
    """
    largest = float(np.abs(b).max(initial=0))
    if not 0 < largest < np.inf:
        return np.zeros_like(b), 0
    # In units of b, whose squares may be too small or too large for the dtype.
    x, r, goal = np.zeros_like(b), b / b.dtype.type(largest), goal / largest
    p, square = r.copy(), float(r @ r)
    kept, most = [], max(1, MOST_KEPT // b.size)
    n_iter = 0
    while n_iter < min(max_iter, b.size) and np.sqrt(square) > goal:
        if len(kept) < most:
            kept.append(r / b.dtype.type(np.sqrt(square)))
        q = product(p)
        n_iter += 1
        curvature = float(p @ q)
        if not curvature > 0:
            break
        step = b.dtype.type(square / curvature)
        x += step * p
        r -= step * q
        for v in kept:
            r -= (v @ r) * v
        before, square = square, float(r @ r)
        p = r + b.dtype.type(square / before) * p
    return x * b.dtype.type(largest), n_iter
