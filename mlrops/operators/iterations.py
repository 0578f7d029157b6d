"""Conjugate gradients and MINRES for many right-hand sides, each with scalars of its own.

One product with the operator serves all columns.  Both stop a column where the norm of its residual
that the iteration recurs, exactly what is asked for, falls below a tolerance; scalars are float64
whatever the dtype of the vectors.
"""

import numpy as np

__all__ = ["cg", "column_products", "minres"]


def column_products(x, y):
    """Inner products of the columns of x and y, (n, k), in float64."""
    return np.einsum("ik,ik->k", x, y, dtype=np.float64)


def _length(r, z, active):
    """√(rᵀz) of each column, z = M r."""
    squares = column_products(r, z)
    if np.any(active & (squares < 0)):
        raise ValueError(
            "solve: M must be symmetric positive definite where A is symmetric: rᵀ M r ="
            f" {squares[active].min():.3g} for a residual r")
    return np.sqrt(squares)


def cg(multiply, precondition, b, tolerance, limit):
    """Conjugate gradients from the zero start, for positive definite A.

    Parameters
    ----------
    multiply, precondition : callable
        Products of A and M with (n, k) arrays.
    b : ndarray, shape (n, k)
    tolerance : ndarray, shape (k,)
        Norms of the residuals at which the columns stop.
    limit : int
        Products with A.

    Returns
    -------
    x : ndarray, shape (n, k)
    count : int
        Products taken.
    """
    x, r = np.zeros_like(b), b
    active = np.sqrt(column_products(r, r)) > tolerance
    z = precondition(r)
    p, rho, count = z, _length(r, z, active) ** 2, 0
    while active.any() and count < limit:
        q = multiply(p)
        count += 1
        curvature = column_products(p, q)
        active &= (curvature > 0) & (rho > 0)  # else A is not positive definite, or r is zero
        alpha = np.where(active, rho / np.where(active, curvature, 1), 0).astype(b.dtype)
        x += alpha * p
        r = r - alpha * q  # not in place: z, and so p, may be r itself
        active &= np.sqrt(column_products(r, r)) > tolerance
        z = precondition(r)
        new = _length(r, z, active) ** 2
        p = z + np.where(active, new / np.where(active, rho, 1), 0).astype(b.dtype) * p
        rho = new
    return x, count


def minres(multiply, precondition, b, tolerance, limit):
    """MINRES from the zero start, for symmetric A; parameters and results as of `cg`.

    The residual that is recurred is measured in the norm of M, which is to be positive definite.

    C. Paige, M. Saunders, "Solution of sparse indefinite systems of linear equations", 1975.
    """
    def scalar(x):
        return x.astype(b.dtype)

    x, v, v_old = np.zeros_like(b), b, np.zeros_like(b)
    w = w_old = np.zeros_like(b)
    z = precondition(v)
    active = np.ones(b.shape[1], bool)
    gamma = _length(v, z, active)
    eta, gamma_old = gamma, np.ones_like(gamma)
    c = c_old = np.ones_like(gamma)
    s = s_old = np.zeros_like(gamma)
    active = eta > tolerance
    count = 0
    while active.any() and count < limit:
        safe = np.where(active, gamma, 1)
        z = z * scalar(active / safe)  # columns that are done stand still, at zero
        q = multiply(z)
        count += 1
        delta = column_products(q, z)
        q = q - scalar(delta / safe) * v - scalar(np.where(active, gamma / gamma_old, 0)) * v_old
        v_old, v = v, q
        y = precondition(v)
        gamma_old, gamma = safe, np.where(active, _length(v, y, active), 0)
        # Two rotations of the past and the new one of T's last column.
        a0 = c * delta - c_old * s * safe
        a1 = np.hypot(a0, gamma)
        a2 = np.where(active, s * delta + c_old * c * safe, 0)
        a3 = np.where(active, s_old * safe, 0)
        active &= a1 > 0
        pivot = np.where(active, a1, 1)
        c_old, c, s_old, s = c, a0 / pivot, s, gamma / pivot
        w_old, w = w, (z - scalar(a3) * w_old - scalar(a2) * w) / scalar(pivot)
        x += scalar(np.where(active, c * eta, 0)) * w
        eta = np.where(active, -s * eta, eta)
        active &= (np.abs(eta) > tolerance) & (gamma > 0)
        z = y
    return x, count
