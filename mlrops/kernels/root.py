"""Square root of ``Σ = S Sᵀ`` level by level, ``S = D^{1/2} T_{L-1} ⋯ T_0``, on plain arrays.

On rows scaled by D^{-1/2} and finest level first, ``T_l² = I + F_l F_lᵀ`` is a rank-r_l update of
the identity in each group, and ``T_l⁻¹ F_m`` keeps the sparsity of every coarser F_m.  With the
singular values σ of a group's F_l and its right singular vectors V both roots have the form ``I ±
F_l V f(σ) Vᵀ F_lᵀ``, where

    T:    f = (√(1+σ²) - 1) / σ²  = 1 / (1 + √(1+σ²))
    T⁻¹:  f = (1 - 1/√(1+σ²)) / σ² = 1 / (√(1+σ²) (1 + √(1+σ²)))

need no division by σ.  V and σ are those of the group's rows: of their Gram matrix, or multiplied
out to ``V f Vᵀ``, they would square what rounding does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import groups, leaf
from .layout import Layout, make_layout

__all__ = ["SquareRoot", "Update", "square_root", "weights"]


class Update(NamedTuple):
    """``I + F V f Vᵀ Fᵀ`` and, with g, its inverse, group by group."""

    F: FloatArray  # (n, r)
    V: FloatArray  # (p, r, r)
    f: FloatArray  # (p, r)
    g: FloatArray
    layout: Layout

    def grow(self, x: FloatArray) -> FloatArray:
        """T x."""
        return self._multiply(self.f, x, 1.0)

    def shrink(self, x: FloatArray) -> FloatArray:
        """T⁻¹ x."""
        return self._multiply(self.g, x, -1.0)

    def _multiply(self, f: FloatArray, x: FloatArray, sign: float) -> FloatArray:
        out, leaves = np.empty_like(x), self.layout.n_leaves
        t = np.matmul(self.V.swapaxes(1, 2), leaf.tdot(self.F, x, self.layout, 0, leaves))
        t *= f[:, :, None]
        leaf.dot(self.F, np.matmul(self.V, t), x, np.ones(x.shape[0], x.dtype), self.layout, 0,
                 leaves, out, sign=sign)
        return out


def weights(sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """f of T and of T⁻¹."""
    root = np.sqrt(1 + sigma * sigma)
    return 1 / (1 + root), 1 / (root * (1 + root))


class SquareRoot(NamedTuple):
    """S, by levels finest first."""

    levels: list[Update]
    D: FloatArray

    def color(self, z: FloatArray) -> FloatArray:
        """``S z``: the coarsest level acts first."""
        for level in reversed(self.levels):
            z = level.grow(z)
        return z * np.sqrt(self.D)[:, None]

    def whiten(self, x: FloatArray) -> FloatArray:
        """``S⁻¹ x``: the finest level acts first."""
        x = x / np.sqrt(self.D)[:, None]
        for level in self.levels:
            x = level.shrink(x)
        return x

    def color_transpose(self, x: FloatArray) -> FloatArray:
        """``Sᵀ x``: every T is symmetric, so only the order turns round."""
        x = x * np.sqrt(self.D)[:, None]
        for level in self.levels:
            x = level.grow(x)
        return x

    def whiten_transpose(self, z: FloatArray) -> FloatArray:
        """``S⁻ᵀ z``."""
        for level in reversed(self.levels):
            z = level.shrink(z)
        return z / np.sqrt(self.D)[:, None]


def square_root(F: FloatArray, D: FloatArray, boundaries: Sequence[IntArray], cols: IntArray
                ) -> SquareRoot:
    """The `SquareRoot` of a tree's factors F (n, R) and diagonal D (n,)."""
    rest: FloatArray = F / np.sqrt(D)[:, None]
    levels: list[Update] = []
    for level in range(len(boundaries) - 1, -1, -1):
        lo, hi = int(cols[level]), int(cols[level + 1])
        if lo == hi:
            continue
        own: FloatArray = np.ascontiguousarray(rest[:, lo:hi])
        V, sigma = groups.right_vectors(own, boundaries[level])
        one = np.arange(boundaries[level].size - 1)[:, None]
        layout = make_layout([boundaries[level]], one, [hi - lo])
        levels.append(Update(own, V, *weights(sigma), layout))
        rest = np.ascontiguousarray(rest[:, :lo])
        if lo:
            rest = levels[-1].shrink(rest)
    return SquareRoot(levels, D)
