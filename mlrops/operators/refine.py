"""Solves that measure themselves: refined where a bound of their rounding asks for it, or refused.

The measure is the backward error ``‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖)``, the smallest relative change of A
and b that makes x exact.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._common.cached import computed_once
from .._common.typing import FloatArray, IntArray

__all__ = ["LIMIT", "RTOL", "are_safe", "check_reached", "column_dots", "corrected", "doubtful",
           "exponents", "lengths", "norm_of", "of_size_one", "refine", "refined", "unreached"]

StructuredOperator: TypeAlias = Any  # its file imports this one

# A solve is corrected until its backward error is this many units of rounding; what a step gains
# depends on how small D is beside F.
BACKWARD_ERROR = 50
CORRECTIONS = 12
# Steps of iterative refinement where no structure says more.
STEPS = 3
# Above this many units of rounding a solve is no answer.
LIMIT = 1e4
# Relative residual ‖b - A x‖ / ‖b‖ that a solve by iteration reaches, or it raises.
RTOL = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5}

# Entries of vectors whose inner products BLAS forms without the help of threads.
_ALONE = 4096

_NO_COLUMNS: IntArray = np.empty(0, np.intp)
_FIRST_COLUMN: IntArray = np.zeros(1, np.intp)

# Squared lengths that leave room for what is done with them.
_SAFE = {info.dtype: (float(info.tiny / info.eps**2), float(info.max * info.eps**2))
         for info in (np.finfo(np.float32), np.finfo(np.float64))}


def unreached(A: StructuredOperator, error: float, remedy: str) -> np.linalg.LinAlgError:
    """The LinAlgError of a solve with A whose backward error stayed at `error`."""
    eps = np.finfo(A.dtype).eps
    return np.linalg.LinAlgError(
        f"solve: {A!r} reached a backward error ‖Ax - b‖ / (‖A‖ ‖x‖ + ‖b‖) of {error:.1e};"
        f" {LIMIT * eps:.1e} is what {A.dtype} has to reach (1e4 units of rounding): {remedy}")


def column_dots(x: FloatArray, y: FloatArray | None = None, weight: FloatArray | None = None
                ) -> FloatArray:
    """``Σ_i w_i x_ik y_ik`` of the columns of x and y (n, k), y = x and w = 1 by default; float64.

    Long ones not by BLAS: the threads it would wake spin on and take the cores of the sweeps around
    it.
    """
    y = x if y is None else y
    precise: dict[str, Any] = {} if x.dtype == np.float64 else {"dtype": np.float64}
    if x.shape[1] != 1:
        return (np.einsum("ik,ik->k", x, y, **precise) if weight is None
                else np.einsum("ik,ik,i->k", x, y, weight, **precise))
    x, y = x.ravel(), y.ravel()
    if len(x) <= _ALONE and not precise:
        return np.dot(x if weight is None else x * weight, y)[None]
    return (np.einsum("i,i->", x, y, **precise) if weight is None
            else np.einsum("i,i,i->", x, y, weight, **precise))[None]


def exponents(x: FloatArray) -> IntArray:
    """Exponents e of the columns of x, whose largest entries lie in [2^(e-1), 2^e); 0 for zero."""
    return np.frexp(np.abs(x).max(axis=0, initial=0))[1]


def are_safe(squares: FloatArray, dtype: np.dtype) -> bool:
    """Whether squared lengths of columns leave room for what is done with them."""
    low, high = _SAFE[dtype]
    if squares.size == 1:
        return low < squares.item() < high
    return bool(((low < squares) & (squares < high)).all())


def of_size_one(solve: Callable[[FloatArray], Any], b: FloatArray, power: int = 1) -> Any:
    """``solve(b)``, on columns of size one where squares of b would under- or overflow.

    Scaled by powers of two, which changes no bit of what stays in range.  `power` is the degree of
    `solve` in b; it may return a tuple.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(b, b) if b.ndim == 1 else column_dots(b)
    if are_safe(squares, b.dtype):
        return solve(b)
    low, high = _SAFE[b.dtype]
    inside = (low < squares) & (squares < high)
    peak = np.abs(b).max(axis=0, initial=0)
    exponents = np.where(np.isfinite(peak) & ~inside, np.frexp(peak)[1], 0)
    if not exponents.any():
        return solve(b)
    found = solve(np.ldexp(b, -exponents))
    with np.errstate(over="ignore", under="ignore"):
        if isinstance(found, tuple):
            return tuple(np.ldexp(part, power * exponents) for part in found)
        return np.ldexp(found, power * exponents)


def refine(x: FloatArray, residual: Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray]],
           step: Callable[[FloatArray, IntArray], FloatArray], left: IntArray, enough: float,
           steps: int, gain: float = 0.5) -> FloatArray:
    """Correct columns of x (n, k) in place by what solves for their residuals, while that gains.

    ``residual(x, columns)``, for x (n, j) that stands for these columns, gives what is left to
    solve for, and its size (j,) in whatever measure; ``step(r, columns)`` gives the correction (n,
    j) for residuals r.  Only the columns `left` are looked at; a residual of size `enough` is
    done.  A column that keeps more than the share `gain` of its residual, or has taken so many
    `steps`, is given up, with the better one of its last two values.  Returns the sizes (k,) of the
    residuals at the end, 0 for columns that were not looked at.
    """
    sizes = np.zeros(x.shape[1])
    if not left.size:
        return sizes
    r, found = residual(np.take(x, left, axis=1), left)
    sizes[left], more = found, ~(found <= enough)
    for _ in range(steps):
        if not more.any():
            break
        left, r = left[more], np.compress(more, r, axis=1)
        trial = step(r, left)
        trial += np.take(x, left, axis=1)
        r, found = residual(trial, left)
        before = sizes[left]
        better = found < before
        x[:, left[better]], sizes[left[better]] = trial[:, better], found[better]
        more = (found < gain * before) & (found > enough)
    return sizes


def corrected(A: StructuredOperator, solve: Callable[..., tuple[FloatArray, FloatArray]],
              multiply: Callable[[FloatArray, IntArray], FloatArray], b: FloatArray,
              dinv: FloatArray, norms: Sequence[float | FloatArray]) -> FloatArray:
    """A pass up and down the tree, refined where a bound of the backward error asks for it; (n, k).

    ``x = D⁻¹ (b - F z)`` cancels where b lies close to the range of F or D is small.  Rounding in z
    and in ``Fᵀ D⁻¹ b`` moves ``z - Fᵀx`` by ``‖P‖ ‖z‖ + ‖D^{-1/2}F‖ ‖D^{-1/2}b‖`` units, ``P = I +
    FᵀD⁻¹F``.  A pass on the residual takes ``eps ‖P‖`` or less of the error; a column is done when
    its backward error is small or a step no longer halves it.  LinAlgError speaks of A where one
    stays above `LIMIT` units of rounding.

    ``solve(b, columns)`` gives x (n, k) and the squared lengths of z (k,) for right-hand sides b
    that stand for these columns of `b`, None for all; ``multiply(x, columns)`` is the product with
    the matrix that it inverts.  `norms`, each a float or of shape (k,), are bounds of ‖P‖ and ‖F‖
    above, and of the norm of the matrix below.
    """
    norm, size = np.broadcast_to(norms[2], b.shape[1]), lengths(b)

    def residual(x, columns):
        r = np.take(b, columns, axis=1) - multiply(x, columns)
        scale = norm[columns] * lengths(x) + size[columns]
        return r, lengths(r) / np.maximum(scale, np.finfo(b.dtype).tiny)

    with np.errstate(over="ignore", invalid="ignore"):
        x, squares = solve(b, None)
        parts = np.array([column_dots(b), column_dots(b, weight=dinv), squares, column_dots(x)])
        left = doubtful(parts, norms[0] ** 2, norms)
        reached = refine(x, residual, lambda r, columns: solve(r, columns)[0], left,
                         BACKWARD_ERROR * np.finfo(b.dtype).eps, CORRECTIONS)
    check_reached(A, reached)
    return x


def doubtful(squares: FloatArray, moved: float | FloatArray, norms: Sequence[float | FloatArray]
             ) -> IntArray:
    """The columns of x that may have to be corrected, by the bound of `corrected`.

    `squares` (4, k) are those of the lengths of b, D^{-1/2} b, z and x; rounding in P moves P z by
    ``√moved ‖z‖`` units.
    """
    if squares.shape[1] == 1:
        parts = squares[:, 0].tolist()  # floats cost less, and overflow without a warning
        fine = not math.isfinite(parts[0]) or _are_fine(parts, moved, norms)
        return _NO_COLUMNS if fine else _FIRST_COLUMN
    with np.errstate(over="ignore", invalid="ignore"):
        return np.flatnonzero(~_are_fine(squares, moved, norms) & np.isfinite(squares[0]))


def _are_fine(squares: Any, moved: Any, norms: Any) -> Any:
    """Whether rounding is small beside what is solved for; False where anything overflows."""
    size, scaled, means, length = squares
    above, factors, norm = norms
    bound = factors * ((moved * means)**0.5 + (above * scaled)**0.5)
    return bound <= BACKWARD_ERROR * (norm * length**0.5 + size**0.5)


def check_reached(A: StructuredOperator, reached: FloatArray) -> None:
    """Raise where backward errors are no answers."""
    if not (reached <= LIMIT * np.finfo(A.dtype).eps).all():
        raise unreached(A, np.nan_to_num(reached, nan=np.inf).max(),
                        "D is too small beside F for this precision; take a larger D"
                        + (", or float64" if A.dtype == np.float32 else ""))


def refined(A: StructuredOperator, solve: Callable[[FloatArray], FloatArray], b: FloatArray,
            units: float | None = None) -> FloatArray:
    """`solve` with steps of iterative refinement as long as they halve the residual.

    None where the backward error (where `units` are 10 or less: the residual, relative to b) is
    below so many `units` of rounding; by default 50, and what an iteration promises where parts of
    A are solved by one.  Raises LinAlgError where it stays above `LIMIT`, or `units`, of them.
    """
    if units is None:
        units = BACKWARD_ERROR if A._has_direct_solve else RTOL[A.dtype] / np.finfo(A.dtype).eps
    return of_size_one(lambda b: _refined(A, solve, b, units), b)


def _refined(A: StructuredOperator, solve: Callable[[FloatArray], FloatArray], b: FloatArray,
             units: float) -> FloatArray:
    eps, B = float(np.finfo(A.dtype).eps), b.reshape(len(b), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        x, length = np.array(solve(b), A.dtype, order="C").reshape(B.shape), lengths(B)

        def residual(x, columns):
            r, size = B[:, columns] - A._mul(x), length[columns]
            error = lengths(r)
            if units > 10 and (error > units * eps * size).any():
                size = size + norm_of(A) * lengths(x)
            return r, error / np.where(size > 0, size, 1)

        reached = refine(x, residual, lambda r, _: solve(r).astype(A.dtype, copy=False),
                         np.flatnonzero(np.isfinite(length)), units * eps, STEPS)
        limit = max(LIMIT, units) * eps
        short = np.flatnonzero(~(reached <= limit))
        if short.size:
            size = norm_of(A) * lengths(x[:, short]) + length[short]
            left = lengths(B[:, short] - A._mul(x[:, short]))
            error = float(np.max(left / np.where(size > 0, size, 1)))
            if not error <= limit:
                raise unreached(A, error, "it is singular or ill-conditioned to this precision")
    return x.reshape(b.shape)


def lengths(x: FloatArray) -> FloatArray:
    """Lengths of the columns of x (n, k)."""
    with np.errstate(over="ignore"):
        squares = column_dots(x)
    if np.isfinite(squares).all():
        return np.sqrt(squares)
    peak = np.abs(x).max(axis=0, initial=0)
    peak = np.where(np.isfinite(peak) & (peak > 0), peak, 1)
    return peak * np.sqrt(column_dots(x / peak))


def norm_of(A: StructuredOperator) -> float:
    """`norm_estimate`, kept with A."""
    return computed_once(A, "_norm_estimate", lambda: norm_estimate(A))


def norm_estimate(A: StructuredOperator, steps: int = 4) -> float:
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
