"""Checks shared by the public constructors and methods: one wording for one mistake."""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Complex, Real
from typing import Any

import numpy as np

from .typing import BoolArray, FloatArray, IntArray
from .wording import agree, counted, name_some

__all__ = ["all_finite", "as_features", "as_finite", "as_positive", "as_real", "check_2d",
           "check_number", "check_rank", "in_memory", "plain", "read_only", "refuse_masked",
           "rowwise", "shows_a_cell", "working_dtype"]


def working_dtype(dtype: Any, what: str = "input") -> np.dtype:
    """The dtype we compute in: float32 and half stay or become float32, other reals float64."""
    dtype = np.dtype(dtype)
    if dtype.kind in "fiubc":  # text of a variable length has no byte order
        dtype = dtype.newbyteorder("=")
    if dtype.kind == "c":
        raise TypeError(f"{what} must be real, got complex dtype {dtype}; operators here are real")
    if dtype.kind not in "fiub":
        raise TypeError(f"{what} must be numeric, got dtype {dtype}")
    return np.dtype(np.float32 if dtype in (np.float32, np.float16) else np.float64)


def in_memory(x: Any, what: str) -> None:
    """Refuse what is no array of numbers, and would have to be computed to become one."""
    if isinstance(x, np.ndarray):
        return
    name = type(x).__name__
    if hasattr(x, "matvec"):
        raise TypeError(f"{what} must be numbers, got the operator {name}; see toarray()")
    if hasattr(x, "toarray"):
        raise TypeError(f"{what} must be a dense array, got {name}")
    if hasattr(x, "__dask_graph__"):
        raise TypeError(f"{what} must be in memory, got a dask {name}, which is not computed"
                        " unasked: give its compute()")
    if hasattr(x, "collect") and not hasattr(x, "to_numpy"):
        raise TypeError(f"{what} must be in memory, got a {name}, which is not computed unasked:"
                        " give its collect()")


def plain(x: Any, what: str) -> np.ndarray:
    """`x` as a plain array: masked cells and missing marks among objects (None, NA) become NaN."""
    in_memory(x, what)
    if isinstance(x, np.ma.MaskedArray):
        values, masked = plain(x.data, what), np.ma.getmaskarray(x)
        if not masked.any():
            return values
        return np.where(masked, working_dtype(values.dtype, what).type(np.nan), values)
    x = np.asarray(x)
    return _from_objects(x, what) if x.dtype.kind == "O" else x


def _from_objects(x, what):
    """float64 numbers from an object array of numbers, None and NA."""
    if x.ndim == 0:
        raise TypeError(f"{what} must be numeric, got {x[()]!r:.40} of type"
                        f" {type(x[()]).__name__}")
    out = np.empty(x.size)
    for i, value in enumerate(x.ravel()):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            out[i] = np.nan
        elif isinstance(value, (Real, Decimal, np.bool_)):
            try:
                out[i] = value
            except OverflowError:
                raise ValueError(f"{what} must be finite, got {value!r:.40}") from None
        else:
            at = ", ".join(map(str, np.unravel_index(i, x.shape)))
            kind = "real" if isinstance(value, Complex) else "numeric"
            raise TypeError(f"{what} must be {kind}, got {value!r:.40} of type"
                            f" {type(value).__name__} at entry {at}")
    return out.reshape(x.shape)


def as_real(x: Any, what: str, dtype: Any = None, ndim: int | Sequence[int] | None = None
            ) -> FloatArray:
    """`x` as a real float array (float32 kept, everything else float64).

    Masked cells become NaN.  Raises TypeError for complex, sparse or non-numeric input, for
    operators and for what is not in memory, ValueError for a wrong dimension.
    """
    x = plain(x, what)
    own = working_dtype(x.dtype, what)  # refuses, whatever dtype is asked for
    x = np.asarray(x, dtype=own if dtype is None else dtype)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and x.ndim not in allowed:
        wanted = " or ".join(f"{d}-d" for d in allowed)
        raise ValueError(f"{what} must be {wanted}, got shape {x.shape}")
    return x


def as_finite(x: Any, what: str, dtype: Any = None, ndim: int | Sequence[int] | None = None,
              axis_name: str = "feature", axis: int = 0, labels: Any = None) -> FloatArray:
    """Like `as_real`, and refuse NaN and infinity, naming the first offenders along `axis`.

    They are named by their `labels`, or by number where there are none.
    """
    x = as_real(x, what, dtype, ndim)
    if not all_finite(x):
        bad = ~np.isfinite(x)
        others = tuple(d for d in range(x.ndim) if d != axis)
        where = np.flatnonzero(bad.any(axis=others))
        raise ValueError(
            f"{what} must be finite, got NaN or infinity in {bad.sum()} of"
            f" {counted(x.size, 'entry')} ({axis_name}"
            f" {name_some(where if labels is None else [labels[i] for i in where])})")
    return x


def all_finite(x: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite."""
    # One sum decides the usual case without a mask of size n; the other cases take a second pass.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum())) or bool(np.isfinite(x).all())


def check_2d(Y: Any) -> Any:
    """`Y`, if it has two dimensions."""
    if len(Y.shape) != 2:
        raise ValueError(f"Y must be 2-d, samples by features, got shape {Y.shape}")
    return Y


def shows_a_cell(rows: np.ndarray) -> BoolArray:
    """Which rows have an observed cell."""
    if rows.dtype.kind != "f":
        return np.ones(len(rows), bool)
    return ~np.isnan(rows).all(axis=1)


def as_positive(d: Any, what: str, n: int | None = None, dtype: Any = None) -> FloatArray:
    """A finite vector with all entries > 0; the error names the first offending features."""
    d = as_finite(d, what, dtype, ndim=1)
    if n is not None and d.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},), got {d.shape}")
    bad = np.flatnonzero(~(d > 0))
    if bad.size:
        raise ValueError(
            f"{what} must be positive, got {d[bad[0]]:.3g} at feature {bad[0]}"
            f" ({counted(bad.size, 'feature')}: {name_some(bad)})")
    return d


def refuse_masked(x: Any, what: str) -> None:
    """ValueError that names the rows of masked cells, for what has no missing values."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        mask = np.ma.getmaskarray(x)
        rows = np.flatnonzero(mask.reshape(mask.shape[0], -1).any(axis=1)) if mask.ndim else [0]
        n = int(mask.sum())
        raise ValueError(
            f"{what}: {counted(n, 'entry')} {agree(n, 'is', 'are')} masked (row {name_some(rows)})"
            f" and {agree(n, 'has', 'have')} no value; fill what is masked, or leave it out")


def as_features(features: Any, n: int, what: str = "features") -> IntArray:
    """Distinct feature numbers 0 to n - 1, at least one; negative ones count from the end."""
    refuse_masked(features, what)
    features = np.asarray(features)
    if features.dtype.kind not in "iu" or features.ndim != 1 or features.size == 0:
        raise ValueError(
            f"{what} must be a 1-d array of at least one integer, got shape {features.shape} of"
            f" dtype {features.dtype}")
    bad = features[(features < -n) | (features >= n)]
    if bad.size:
        raise IndexError(f"{what} must lie in 0 to {n - 1}, got {name_some(bad)}")
    features = features.astype(np.intp) % n
    values, counts = np.unique(features, return_counts=True)
    if values.size < features.size:
        raise ValueError(
            f"{what} must be distinct, got {name_some(values[counts > 1])} more than once")
    return features


def check_number(value: Any, name: str, below: float | None = None) -> None:
    """Refuse an option that is no number or, where `below` is given, does not lie in [0, below)."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if below is not None and not 0 <= float(value) < below:
        interval = "be finite and not negative" if np.isinf(below) else f"lie in [0, {below})"
        raise ValueError(f"{name} must {interval}, got {value!r}")


def check_rank(rank: Any, what: str = "rank") -> int:
    """A non-negative integer."""
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)):
        raise TypeError(f"{what} must be an integer, got {rank!r}")
    if rank < 0:
        raise ValueError(f"{what} must be non-negative, got {rank}")
    return int(rank)


def as_generator(random_state: Any) -> Any:
    """The generator of a seed, or the Generator or RandomState that is given."""
    if isinstance(random_state, np.random.RandomState):
        return random_state
    return np.random.default_rng(random_state)


def _nobody_writes(x):
    while isinstance(x, np.ndarray):
        if x.flags.writeable:
            return False
        x = x.base
    return x is None


def read_only(x: np.ndarray, order: Any = "C") -> np.ndarray:
    """A contiguous array equal to `x` that nobody can write to.

    Copies, except where `x` is such an array already: operators made from the arrays of other
    operators share them.  ``order="K"`` also keeps Fortran order.
    """
    contiguous = x.flags.c_contiguous or (order == "K" and x.flags.f_contiguous)
    if contiguous and type(x) is np.ndarray and _nobody_writes(x):
        return x
    x = np.array(x, order=order, copy=True)
    x.flags.writeable = False
    return x


def rowwise(d: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`d` shaped to multiply the rows of `x`, a vector or a block of columns."""
    return d if x.ndim == 1 else d[:, None]
