"""Square root of ``Σ = S Sᵀ`` level by level, ``S = D^{1/2} T_{L-1} ⋯ T_0``, on plain arrays.

On rows scaled by D^{-1/2} and finest level first, ``T_l² = I + F_l F_lᵀ`` is a rank-r_l update of
the identity in each group, and ``T_l⁻¹ F_m`` keeps the sparsity of every coarser F_m.  With the
eigenvectors of a group, ``F_lᵀF_l = Q Λ Qᵀ``, both roots have the form ``I ± F_l Q f(Λ) Qᵀ F_lᵀ``,

    T:    f(λ) = (√(1+λ) - 1) / λ   = 1 / (1 + √(1+λ))
    T⁻¹:  f(λ) = (1 - 1/√(1+λ)) / λ = 1 / (√(1+λ) (1 + √(1+λ)))

which need no division by λ.  ``Q f Qᵀ`` is not multiplied out: it would square what rounding does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import leaf, tree
from .layout import Layout, make_layout

__all__ = ["SquareRoot", "Update", "eigen", "square_root"]


class Update(NamedTuple):
    """``I + B f Bᵀ``, and ``I - B g Bᵀ``, its inverse, group by group: B = F Q."""

    B: FloatArray  # (n, r)
    f: FloatArray  # (p r, 1)
    g: FloatArray
    layout: Layout

    def grow(self, x: FloatArray) -> FloatArray:
        """T x."""
        return self._multiply(self.f, x, 1.0)

    def shrink(self, x: FloatArray) -> FloatArray:
        """T⁻¹ x."""
        return self._multiply(self.g, x, -1.0)

    def _multiply(self, f: FloatArray, x: FloatArray, sign: float) -> FloatArray:
        t = tree.up(self.B, x, self.layout)
        t *= f
        return tree.spread(self.B, np.ones(len(x), x.dtype), t, x, self.layout, sign)


def eigen(G: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Q, f of T and f of T⁻¹ of Gram matrices G (p, r, r), of which the lower triangle is read."""
    values, Q = np.linalg.eigh(np.tril(G))  # NaN above the diagonal would disturb it
    root = np.sqrt(1 + np.maximum(values, 0))  # what is below 0 is rounding
    return Q, 1 / (1 + root), 1 / (root * (1 + root))


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
        one = np.arange(boundaries[level].size - 1)[:, None]
        layout = make_layout([boundaries[level]], one, [hi - lo])
        levels.append(_update(own, layout))
        rest = np.ascontiguousarray(rest[:, :lo])
        if lo:
            rest = levels[-1].shrink(rest)
    return SquareRoot(levels, D)


def _update(F: FloatArray, layout: Layout) -> Update:
    leaves, none = layout.n_leaves, np.zeros(len(F), F.dtype)
    Q, f, g = eigen(leaf.gram(F, np.ones_like(none), layout, 0, leaves))
    B = np.empty_like(F)
    leaf.dot(F, Q, np.zeros_like(F), none, layout, 0, leaves, B)
    return Update(B, f.reshape(-1, 1), g.reshape(-1, 1), layout)
