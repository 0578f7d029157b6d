"""Conjugate gradients and MINRES for many right-hand sides, each with scalars of its own.

One product with the operator serves all columns.  Both stop a column where the norm of its residual
that the iteration recurs falls below a tolerance; scalars are float64 whatever the dtype of the
vectors.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .._common.typing import FloatArray, IntArray
from .refine import column_dots, exponents, refine

__all__ = ["cg", "cg_in_runs", "cg_of_one", "minres"]

# Of columns, and the numbers of those that they stand for.
Product: TypeAlias = Callable[[FloatArray, IntArray], FloatArray]

# Runs of conjugate gradients on the true residuals that the runs before them left.
RUNS = 4
# Numbers in the residuals that are kept to stay orthogonal to, beyond those of one of them.
MOST_KEPT = 20_000_000


def _squares(r: FloatArray, z: FloatArray) -> FloatArray:
    """``rᵀz`` of each column, z = M r."""
    squares = column_dots(r, z)
    if (squares < 0).any():
        raise ValueError(
            "solve: M must be symmetric positive definite where A is symmetric: rᵀ M r ="
            f" {squares.min():.3g} for a residual r")
    return squares


def cg(multiply: Product, b: FloatArray, tolerance: FloatArray, limit: int,
       precondition: Product | None = None, orthogonal: bool = False) -> tuple[FloatArray, int]:
    """Conjugate gradients for positive definite A: x (n, k) from zero on, and products taken.

    ``multiply(p, columns)`` is the product of A with p (n, j), which stands for these columns of b
    (n, k): columns leave when the norms of their residuals are at most `tolerance` (k,).
    `precondition` is the same of M, which approximates A⁻¹.  Where A proves not to be positive
    definite, x is what was reached before.  M. Hestenes, E. Stiefel, "Methods of conjugate
    gradients for solving linear systems" (1952).

    `orthogonal`, without `precondition`, makes each residual orthogonal to those before it, as it
    is without rounding; past 20 million numbers in residuals, the first of them serve.  C. Lanczos,
    "Solution of systems of linear equations by minimized iterations" (1952).
    """
    unit, out, count = exponents(b), np.zeros_like(b), 0
    r, goal = np.ldexp(b, -unit), np.ldexp(tolerance, -unit)  # squares neither over- nor underflow
    precondition = precondition or (lambda r, columns: r)
    squares = column_dots(r)
    left = np.flatnonzero((np.sqrt(squares) > goal) & np.isfinite(squares))
    r, goal, squares = r[:, left], goal[left], squares[left]
    x = np.zeros_like(r)
    p = z = precondition(r, left)
    rho = _squares(r, z)
    kept: list[FloatArray] = []
    most = max(1, MOST_KEPT // max(1, r.size)) if orthogonal else 0
    while left.size and count < limit:
        if len(kept) < most:
            kept.append(r / np.sqrt(squares).astype(r.dtype))
        q = multiply(p, left)
        count += 1
        curvature = column_dots(p, q)
        usable = (curvature > 0) & (rho > 0)  # else A is not positive definite
        alpha = np.divide(rho, curvature, out=np.zeros_like(rho), where=usable).astype(r.dtype)
        x += alpha * p
        r = r - alpha * q  # not in place: p may be r itself
        for v in kept:
            r -= column_dots(v, r).astype(r.dtype) * v
        squares = column_dots(r)
        more = usable & (np.sqrt(squares) > goal)
        if not more.all():
            out[:, left[~more]] = x[:, ~more]
            left, goal, squares, rho = left[more], goal[more], squares[more], rho[more]
            x, r, p, *kept = (array[:, more] for array in (x, r, p, *kept))
        z = precondition(r, left)
        rho, before = _squares(r, z), rho
        p = z + (rho / before).astype(r.dtype) * p
    out[:, left] = x
    return np.ldexp(out, unit), count


def cg_of_one(multiply: Callable[[FloatArray], FloatArray], b: FloatArray, tolerance: float,
              limit: int) -> tuple[FloatArray, int]:
    """`cg` for one right-hand side (n,) of few unknowns, which ends after as many steps as those.

    In exact arithmetic the residuals are orthogonal to one another, and n steps are enough.
    Rounding makes them lose that where A is ill-conditioned, and steps are taken again, ten times
    as many as unknowns and more; so each residual is made orthogonal to those before it.
    """
    x, count = cg(lambda p, _: multiply(p[:, 0])[:, None], b[:, None], np.array([tolerance]),
                  min(limit, b.size), orthogonal=True)
    return x[:, 0], count


def cg_in_runs(multiply: Product, b: FloatArray, rtol: float = 1e-10, limit: int = 1000
               ) -> tuple[FloatArray, FloatArray, int]:
    """`cg` to true residuals `rtol` times as long as the columns of b (n, k).

    What the iteration recurs is checked against ``b - A x``, and runs follow for what is left.
    Returns x (n, k), the relative lengths (k,) of the residuals ``b - A x``, above `rtol` where
    `limit` was reached or rounding allows no less, and the products of the longest runs.
    """
    length = np.sqrt(column_dots(b))
    x, count = cg(multiply, b, rtol / 2 * length, limit)

    def residual(x, columns):
        r = b[:, columns] - multiply(x, columns)
        return r, np.sqrt(column_dots(r)) / length[columns]

    def step(r, columns):
        nonlocal count
        found, used = cg(lambda p, left: multiply(p, columns[left]), r,
                         rtol / 2 * length[columns], limit - count)
        count += used
        return found

    return x, refine(x, residual, step, np.flatnonzero(length), rtol, RUNS - 1), count


def minres(multiply: Product, b: FloatArray, tolerance: FloatArray, limit: int,
           precondition: Product) -> tuple[FloatArray, int]:
    """MINRES from the zero start, for symmetric A; parameters and results as of `cg`.

    The residual that is recurred is measured in the norm of M, which is to be positive definite.

    C. Paige, M. Saunders, "Solution of sparse indefinite systems of linear equations", 1975.
    """
    def scalar(x):
        return x.astype(b.dtype)

    everything = np.arange(b.shape[1])
    x, v, v_old = np.zeros_like(b), b, np.zeros_like(b)
    w = w_old = np.zeros_like(b)
    z = precondition(v, everything)
    gamma = np.sqrt(_squares(v, z))
    eta, gamma_old = gamma, np.ones_like(gamma)
    c = c_old = np.ones_like(gamma)
    s = s_old = np.zeros_like(gamma)
    active = eta > tolerance
    count = 0
    while active.any() and count < limit:
        safe = np.where(active, gamma, 1)
        z = z * scalar(active / safe)  # columns that are done stand still, at zero
        q = multiply(z, everything)
        count += 1
        delta = column_dots(q, z)
        q = q - scalar(delta / safe) * v - scalar(np.where(active, gamma / gamma_old, 0)) * v_old
        v_old, v = v, q
        y = precondition(v, everything)
        gamma_old = safe
        gamma = np.where(active, np.sqrt(_squares(v * active, y)), 0)
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
