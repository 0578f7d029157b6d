"""Products and solves with an MLR whose parts lie apart: what each part and the levels above do."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from .._common.typing import FloatArray, IntArray
from ..kernels import threads
from ..kernels.layout import Layout
from ..kernels.scratch import none
from .parts import Coarse, Part, Passed, merge
from .refine import column_dots

__all__ = ["Own", "alone", "crown_factor", "crown_sweep", "drawn_crown", "drawn_rows", "factor",
           "in_part_order", "own_factors", "quadratic", "rows", "sweep"]


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed by the one thread that a worker has for a task."""
    return _Alone(function)


class _Alone:
    """Not a closure: tasks are pickled."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.__name__ = function, function.__name__

    def __call__(self, *args: Any, **options: Any) -> Any:
        with threads.alone():
            return self.function(*args, **options)


def in_part_order(part: Part, x: FloatArray, back: bool = False) -> FloatArray:
    """Rows of x from the order of the features to that of the part, or back."""
    order = part.features - part.features.min()
    if (np.diff(order) == 1).all():
        return np.ascontiguousarray(x)
    out = np.empty_like(x)
    if back:
        out[order] = x
    else:
        out[:] = x[order]
    return out


def own_factors(coarse: Coarse, lo: int, hi: int) -> Coarse:
    """What a part with the parents lo:hi needs of the levels above, and the solution's squares."""
    cov = coarse.covariances
    return coarse._replace(factors=coarse.factors[lo:hi], first=lo,
                           covariances=cov if cov is None else cov[lo:hi], inv_quad=np.zeros(0))


Own = tuple[FloatArray, Passed]


# ---------------------------------------------------------------- the factorization


def factor(part: Part) -> Own:
    """K of a part, and what it passes."""
    layout = part.layout
    found, _, passed = kernels.parts.factor_up(part.F, 1 / part.D, None, layout,
                                               np.ones(layout.s, part.F.dtype))
    if found.fail[0] >= 0:
        raise part.breakdown(*(int(i) for i in found.fail))
    off = layout.leaf_off[layout.top_leaf[:-1]]
    passed.sums[:, 0] += np.add.reduceat(np.log(part.D, dtype=np.float64), off) / 2
    return found.K, merge(passed)


def crown_factor(layout: Layout, passed: Passed) -> tuple[FloatArray, float]:
    """K of the levels above, and log det Σ."""
    s, dtype = int(layout.zoff[layout.top]), passed.gram.dtype
    found = kernels.parts.room_for_factor(layout, dtype, s)
    passed = passed.copy()  # root writes to it
    sums = kernels.parts.root(passed, layout, found.K, np.empty((s, 0), dtype), np.ones(s, dtype),
                              found)
    if found.fail[0] >= 0:
        level, group = (int(i) for i in found.fail)
        raise np.linalg.LinAlgError(f"factorization broke down at level {level}, group {group}:"
                                    " rescale the features")
    return found.K, 2 * float(sums[0])


# ---------------------------------------------------------------- sweeps


def sweep(part: Part, x: FloatArray, K: FloatArray | None) -> Own:
    """``Fᵀ x`` swept up, or with K ``FᵀD⁻¹x``, eliminated: node rows, and what is passed."""
    dtype = part.F.dtype
    if K is None:
        W, passed = kernels.parts.sweep(part.F, none(dtype, 1), x, part.layout, none(dtype))
    else:
        W, passed = kernels.parts.sweep(part.F, 1 / part.D, x, part.layout, K)
    return W, merge(passed)


def crown_sweep(layout: Layout, passed: Passed, K: FloatArray | None) -> Coarse:
    """The factors of the levels above, parent by parent; `inv_quad` has their squares (k,)."""
    dtype = passed.rows.dtype
    K = none(dtype) if K is None else K
    W = np.empty((int(layout.zoff[layout.top]), passed.rows.shape[2]), dtype)
    kernels.parts.root(passed.copy(), layout, K, W)
    coarse = kernels.parts.coarse_factors(layout, K, W)
    return Coarse(coarse, 0, np.nan, column_dots(W))


def rows(part: Part, x: FloatArray, W: FloatArray, coarse: Coarse, K: FloatArray | None
         ) -> FloatArray:
    """Rows of ``Σ x``, or with K of ``Σ⁻¹ x``, in the part's order."""
    solve, p = K is not None, part.D if K is None else 1 / part.D
    if not part.layout.R:
        return x * p[:, None]
    return kernels.tree.rows_from(part.F, p, x, W.copy(), K, part.layout, 1.0, solve,
                                  coarse=coarse.of(part).factors)


def quadratic(part: Part, x: FloatArray, W: FloatArray, coarse: Coarse, K: FloatArray
              ) -> FloatArray:
    """A part's share (k,) of ``xᵀ Σ⁻¹ x = Σ D y² + Σ z²``, ``y = Σ⁻¹ x`` and z the factors."""
    z, p = W.copy(), 1 / part.D
    if not part.layout.R:
        return column_dots(x, weight=p)
    y = kernels.tree.rows_from(part.F, p, x, z, K, part.layout, 1.0, True,
                               coarse=coarse.of(part).factors)
    return column_dots(y, weight=part.D) + column_dots(z)


# ---------------------------------------------------------------- samples


def drawn_crown(layout: Layout, size: int, dtype: np.dtype, seed: IntArray) -> Coarse:
    """Standard normal factors of the levels above."""
    W = np.random.default_rng(seed).standard_normal((int(layout.zoff[layout.top]), size))
    W = W.astype(dtype, copy=False)
    return Coarse(kernels.parts.coarse_factors(layout, none(dtype), W), 0, np.nan, np.zeros(0))


def drawn_rows(part: Part, coarse: Coarse, size: int, seed: IntArray) -> FloatArray:
    """Samples (size, m) of the part's features, in their order."""
    layout, dtype, rng = part.layout, part.F.dtype, np.random.default_rng(seed)
    W = rng.standard_normal((layout.s, size)).astype(dtype, copy=False)
    noise = rng.standard_normal((layout.n, size)).astype(dtype, copy=False)
    x = noise * np.sqrt(part.D)[:, None]
    if layout.R:
        x = kernels.tree.rows_from(part.F, np.sqrt(part.D), noise, W, None, layout, 1.0, False,
                                   coarse=coarse.of(part).factors)
    return in_part_order(part, x, back=True).T
