"""The operand of a verb: checked, real, in C order and of the operator's dtype."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import issparse

from .._common.typing import FloatArray
from .._common.validate import as_real, refuse_masked
from .._common.wording import counted

__all__ = ["linear", "operand", "solve_options"]

StructuredOperator: TypeAlias = Any  # its file imports this one


def operand(x: Any, dtype: np.dtype, n_rows: int, verb: str) -> tuple[FloatArray, np.dtype]:
    """The operand (n,) or (n, k) in `dtype`, and the dtype of the result.

    In C order: no bit of a result depends on how the operand lies in memory.
    """
    if _is_ready(x, dtype, n_rows):
        return x, dtype
    if issparse(x):
        raise TypeError(f"{verb}: expected a dense array, got a sparse {type(x).__name__}")
    refuse_masked(x, verb)
    x = as_real(x, verb, ndim=(1, 2))
    if x.shape[0] != n_rows:
        raise ValueError(f"{verb}: expected {counted(n_rows, 'row')}, got an array of shape"
                         f" {x.shape}")
    return np.ascontiguousarray(x, dtype), np.result_type(dtype, x.dtype)


def _is_ready(x, dtype, n_rows):
    """Whether `x` is an operand already: all other checks take longer than a small product."""
    return (type(x) is np.ndarray and x.dtype == dtype and x.ndim in (1, 2) and len(x) == n_rows
            and x.flags.c_contiguous)


def _real_columns(z):
    """Real and imaginary parts of z (n,) or (n, k), side by side: (n, 2 k)."""
    z = np.asarray(z).reshape(np.shape(z)[0], -1)
    return np.hstack([z.real, z.imag])


def _is_complex(x):
    return np.iscomplexobj(x) and not issparse(x) and np.ndim(x) in (1, 2)


def linear(hook: Callable[[FloatArray], FloatArray], x: Any, dtype: np.dtype, n_rows: int,
           verb: str) -> FloatArray:
    """``hook(x)`` in the dtype of the result; A z = A Re z + i A Im z for a complex operand."""
    if not _is_complex(x):
        real, out = operand(x, dtype, n_rows, verb)
        return hook(real).astype(out, copy=False)
    refuse_masked(x, verb)
    y = linear(hook, _real_columns(x), dtype, n_rows, verb)
    k = y.shape[1] // 2
    z = np.empty((y.shape[0], k), np.result_type(y.dtype, np.complex64))
    z.real, z.imag = y[:, :k], y[:, k:]
    return z.reshape(y.shape[0], *np.shape(x)[1:])


def solve_options(A: StructuredOperator, b: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `solve` that are given, for an operator A that iterates."""
    options = {name: value for name, value in options.items() if value is not None}
    if options and A._has_direct_solve:
        raise TypeError(
            f"solve: {type(A).__name__} is solved by its structure and takes no"
            f" {' or '.join(options)}; such options steer an iteration, as of a Sum or a Wrapped")
    if "x0" in options:
        refuse_masked(options["x0"], "solve: x0")
        if _is_complex(b):
            options["x0"] = _real_columns(options["x0"])
    return options
