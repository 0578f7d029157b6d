"""Solves that measure themselves: refined where a bound of their rounding asks for it, or refused.

The measure is the backward error ``‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖)``, the smallest relative change of A
and b that makes x exact.
"""

import numpy as np

from .._common.cached import computed_once

__all__ = ["LIMIT", "RTOL", "column_dots", "corrected", "norm_of", "of_size_one", "refined",
           "unreached"]

# A solve is corrected until its backward error is this many units of rounding; what a step gains
# depends on how small D is beside F.
BACKWARD_ERROR = 100
CORRECTIONS = 12
# Steps of iterative refinement where no structure says more.
STEPS = 3
# Above this many units of rounding a solve is no answer.
LIMIT = 1e4
# Relative residual ‖b - A x‖ / ‖b‖ that a solve by iteration reaches, or it raises.
RTOL = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5}

# Squared lengths that leave room for what is done with them.
_SAFE = {info.dtype: (float(info.tiny / info.eps**2), float(info.max * info.eps**2))
         for info in map(np.finfo, (np.float32, np.float64))}


def unreached(A, error, remedy):
    """The LinAlgError of a solve with A whose backward error stayed at `error`."""
    eps = np.finfo(A.dtype).eps
    return np.linalg.LinAlgError(
        f"solve: {A!r} reached a backward error ‖Ax - b‖ / (‖A‖ ‖x‖ + ‖b‖) of {error:.1e};"
        f" {LIMIT * eps:.1e} is what {A.dtype} has to reach (1e4 units of rounding): {remedy}")


def column_dots(x, weight=None):
    """``Σ_i w_i x_ik²`` of each column of x (n, k), w = 1 by default.

    Not by BLAS: the threads it would wake spin on and take the cores of the sweeps around it.
    """
    weights = () if weight is None else (weight,)
    rows = "" if weight is None else ",i"
    if x.shape[1] == 1:  # the same, contiguous
        return np.einsum(f"i,i{rows}->", x[:, 0], x[:, 0], *weights)[None]
    return np.einsum(f"ik,ik{rows}->k", x, x, *weights)


def of_size_one(solve, b, power=1):
    """``solve(b)``, on columns of size one where squares of b would under- or overflow.

    Scaled by powers of two, which changes no bit of what stays in range.  `power` is the degree of
    `solve` in b; it may return a tuple.
    """
    low, high = _SAFE[b.dtype]
    squares = np.dot(b, b) if b.ndim == 1 else np.einsum("ij,ij->j", b, b)
    inside = (low < squares) & (squares < high)
    if inside.all():
        return solve(b)
    peak = np.abs(b).max(axis=0, initial=0)
    exponents = np.where(np.isfinite(peak) & ~inside, np.frexp(peak)[1], 0)
    if not exponents.any():
        return solve(b)
    found = solve(np.ldexp(b, -exponents))
    with np.errstate(over="ignore", under="ignore"):
        if isinstance(found, tuple):
            return tuple(np.ldexp(part, power * exponents) for part in found)
        return np.ldexp(found, power * exponents)


def corrected(A, solve, multiply, b, dinv, norms):
    """A pass up and down the tree, refined where a bound of the backward error asks for it.

    ``x = D⁻¹ (b - F z)`` cancels where b lies close to the range of F or D is small.  Rounding in z
    and in ``Fᵀ D⁻¹ b`` moves ``z - Fᵀx`` by ``‖P‖ ‖z‖ + ‖D^{-1/2}F‖ ‖D^{-1/2}b‖`` units,
    ``P = I + FᵀD⁻¹F``.  A pass on the residual takes ``eps ‖P‖`` or less of the error; a column is
    done when its backward error is small or a step no longer halves it.

    Parameters
    ----------
    A : StructuredOperator
        Whom an error speaks of.
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

    Raises
    ------
    numpy.linalg.LinAlgError
        The backward error of a column stays above `LIMIT` units of rounding.
    """
    eps, tiny = (getattr(np.finfo(b.dtype), name) for name in ("eps", "tiny"))
    above, factors, norm = (np.broadcast_to(bound, b.shape[1]) for bound in norms)

    def lengths(x):
        return np.sqrt(column_dots(x))

    with np.errstate(over="ignore", invalid="ignore"):
        x, squares = solve(b, None)
        gap = (above * np.sqrt(squares)
               + np.sqrt(above) * np.sqrt(column_dots(b, dinv)))
        # Not "greater": what overflows is looked at.
        size = lengths(b)
        doubtful = ~(factors * gap <= BACKWARD_ERROR * (norm * lengths(x) + size))
        left = np.flatnonzero(doubtful & np.isfinite(size))
        best = np.zeros(b.shape[1])
        reached, y = np.full(left.size, np.inf), np.take(x, left, axis=1)
        for step in range(CORRECTIONS if left.size else 0):
            c = np.take(b, left, axis=1)
            residual = c - multiply(y, left)
            error = lengths(residual) / np.maximum(norm[left] * lengths(y) + lengths(c), tiny)
            better = error < reached / 2
            if step:
                x[:, left[better]] = y[:, better]
            best[left] = np.where(better, error, reached)
            more = better & (error > BACKWARD_ERROR * eps)
            if not more.any():
                break
            left, reached = left[more], error[more]
            y = np.compress(more, y, axis=1)
            y += solve(np.compress(more, residual, axis=1), left)[0]
    if not (best <= LIMIT * eps).all():
        raise unreached(A, np.nan_to_num(best, nan=np.inf).max(),
                        "D is too small beside F for this precision; take a larger D"
                        + (", or float64" if b.dtype == np.float32 else ""))
    return x


def refined(A, solve, b, units=None):
    """`solve` with steps of iterative refinement as long as they halve the residual.

    None where the backward error (where `units` are 10 or less: the residual, relative to b) is
    below so many `units` of rounding; by default 100, and what an iteration promises where parts of
    A are solved by one.  Raises LinAlgError where it stays above `LIMIT`, or `units`, of them.
    """
    if units is None:
        units = BACKWARD_ERROR if A._has_direct_solve else RTOL[A.dtype] / np.finfo(A.dtype).eps
    return of_size_one(lambda b: _refined(A, solve, b, units), b)


def _refined(A, solve, b, units):
    eps = np.finfo(A.dtype).eps
    with np.errstate(over="ignore", invalid="ignore"):
        x = solve(b).astype(A.dtype, copy=False)
        residual = b - A._mul(x)
        size, length = np.linalg.norm(residual, axis=0), np.linalg.norm(b, axis=0)
        enough = units * eps * length
        if np.any(size > enough) and units > 10:
            enough = enough + units * eps * norm_of(A) * np.linalg.norm(x, axis=0)
        for _ in range(STEPS):
            if not np.any(size > enough):
                break
            trial = x + solve(residual).astype(A.dtype, copy=False)
            left = b - A._mul(trial)
            now = np.linalg.norm(left, axis=0)
            better = now < size
            x, residual = np.where(better, trial, x), np.where(better, left, residual)
            stalled = now > size / 2
            size = np.where(better, now, size)
            if np.all(stalled):
                break
        limit = max(LIMIT, units) * eps
        short = ~(size <= limit * length) & np.isfinite(length)
        if np.any(short):
            norms = norm_of(A) * np.linalg.norm(x, axis=0) + length
            error = np.max(np.where(short, size / np.where(norms > 0, norms, 1), 0))
            if not error <= limit:
                raise unreached(A, error, "it is singular or ill-conditioned to this precision")
    return x


def norm_of(A):
    """`norm_estimate`, kept with A."""
    return computed_once(A, "_norm_estimate", lambda: norm_estimate(A))


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
