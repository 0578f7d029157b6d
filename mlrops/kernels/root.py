"""Square root of ``Σ = S Sᵀ`` level by level, ``S = D^{1/2} T_{L-1} ⋯ T_0``, on plain arrays.

On rows scaled by D^{-1/2} and finest level first, ``T_l² = I + F_l F_lᵀ`` is a rank-r_l update of
the identity in each group, and ``T_l⁻¹ F_m`` keeps the sparsity of every coarser F_m.  With the
singular values σ of a group's F_l and its left singular vectors U both roots are ``I ± U f(σ) Uᵀ``:

    T:    f = √(1+σ²) - 1   = σ² / (1 + √(1+σ²))
    T⁻¹:  f = 1 - 1/√(1+σ²) = σ² / (√(1+σ²) (1 + √(1+σ²)))

Of the group's rows themselves, not of their Gram matrix, which would square what rounding does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import groups, leaf
from .layout import Layout, make_layout

__all__ = ["SquareRoot", "square_root"]


def _update(U: FloatArray, f: FloatArray, x: FloatArray, layout: Layout, sign: float
            ) -> FloatArray:
    """``(I + sign U diag(f) Uᵀ) x`` group by group, f (p, r)."""
    ones = np.ones(x.shape[0], U.dtype)
    out = np.empty_like(x)
    T = leaf.tdot(U, x, layout, 0, layout.n_leaves)
    T *= f[:, :, None]
    leaf.dot(U, T, x, ones, layout, 0, layout.n_leaves, out, sign=sign)
    return out


class SquareRoot(NamedTuple):
    """S, by levels finest first: (U, f of T, f of T⁻¹, layout)."""

    levels: list[tuple[FloatArray, FloatArray, FloatArray, Layout]]
    D: FloatArray

    def color(self, z: FloatArray) -> FloatArray:
        """``S z``: the coarsest level acts first."""
        for U, f, _, layout in reversed(self.levels):
            z = _update(U, f, z, layout, 1.0)
        return z * np.sqrt(self.D)[:, None]

    def whiten(self, x: FloatArray) -> FloatArray:
        """``S⁻¹ x``: the finest level acts first."""
        x = x / np.sqrt(self.D)[:, None]
        for U, _, f, layout in self.levels:
            x = _update(U, f, x, layout, -1.0)
        return x

    def color_transpose(self, x: FloatArray) -> FloatArray:
        """``Sᵀ x``: every T is symmetric, so only the order turns round."""
        x = x * np.sqrt(self.D)[:, None]
        for U, f, _, layout in self.levels:
            x = _update(U, f, x, layout, 1.0)
        return x

    def whiten_transpose(self, z: FloatArray) -> FloatArray:
        """``S⁻ᵀ z``."""
        for U, _, f, layout in reversed(self.levels):
            z = _update(U, f, z, layout, -1.0)
        return z / np.sqrt(self.D)[:, None]


def square_root(F: FloatArray, D: FloatArray, boundaries: Sequence[IntArray], cols: IntArray
                ) -> SquareRoot:
    """The `SquareRoot` of a tree's factors F (n, R) and diagonal D (n,)."""
    rest: FloatArray = F / np.sqrt(D)[:, None]
    levels: list[tuple[FloatArray, FloatArray, FloatArray, Layout]] = []
    for level in range(len(boundaries) - 1, -1, -1):
        lo, hi = int(cols[level]), int(cols[level + 1])
        if lo == hi:
            continue
        U, sigma = groups.left_vectors(np.ascontiguousarray(rest[:, lo:hi]), boundaries[level])
        rest = np.ascontiguousarray(rest[:, :lo])
        one = np.arange(boundaries[level].size - 1)[:, None]
        layout = make_layout([boundaries[level]], one, [hi - lo])
        root = np.sqrt(1 + sigma * sigma)
        grow = sigma * (sigma / (1 + root))
        levels.append((U, grow, grow / root, layout))
        if lo:
            rest = _update(U, grow / root, rest, layout, -1.0)
    return SquareRoot(levels, D)
