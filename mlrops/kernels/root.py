"""Square root of ``Σ = S Sᵀ`` level by level, ``S = D^{1/2} T_{L-1} ⋯ T_0``, on plain arrays.

On rows scaled by D^{-1/2} and finest level first, ``T_l² = I + F_l F_lᵀ`` is a rank-r_l update of
the identity in each group, and ``T_l⁻¹ F_m`` keeps the sparsity of every coarser F_m.  With
``F_lᵀF_l = Q Λ Qᵀ`` both roots have the form ``I ± F_l Q f(Λ) Qᵀ F_lᵀ``, where

    T:    φ(λ) = (√(1+λ) - 1) / λ  = 1 / (1 + √(1+λ))
    T⁻¹:  ψ(λ) = (1 - 1/√(1+λ)) / λ = 1 / (√(1+λ) (1 + √(1+λ)))

need no division by λ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import leaf
from .layout import Layout, make_layout

__all__ = ["SquareRoot", "square_root"]


def _update(F: FloatArray, M: FloatArray, x: FloatArray, layout: Layout, sign: float
            ) -> FloatArray:
    """``(I + sign F M Fᵀ) x`` group by group."""
    ones = np.ones(x.shape[0], F.dtype)
    out = np.empty_like(x)
    T = leaf.tdot(F, x, layout, 0, layout.n_leaves)
    leaf.dot(F, np.matmul(M, T), x, ones, layout, 0, layout.n_leaves, out, sign=sign)
    return out


class SquareRoot(NamedTuple):
    """S, by levels finest first: (F_l, φ, ψ, layout), F_l scaled and transformed."""

    levels: list[tuple[FloatArray, FloatArray, FloatArray, Layout]]
    D: FloatArray

    def color(self, z: FloatArray) -> FloatArray:
        """``S z``: the coarsest level acts first."""
        for F, phi, _, layout in reversed(self.levels):
            z = _update(F, phi, z, layout, 1.0)
        return z * np.sqrt(self.D)[:, None]

    def whiten(self, x: FloatArray) -> FloatArray:
        """``S⁻¹ x``: the finest level acts first."""
        x = x / np.sqrt(self.D)[:, None]
        for F, _, psi, layout in self.levels:
            x = _update(F, psi, x, layout, -1.0)
        return x

    def color_transpose(self, x: FloatArray) -> FloatArray:
        """``Sᵀ x``: every T is symmetric, so only the order turns round."""
        x = x * np.sqrt(self.D)[:, None]
        for F, phi, _, layout in self.levels:
            x = _update(F, phi, x, layout, 1.0)
        return x

    def whiten_transpose(self, z: FloatArray) -> FloatArray:
        """``S⁻ᵀ z``."""
        for F, _, psi, layout in reversed(self.levels):
            z = _update(F, psi, z, layout, -1.0)
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
        own: FloatArray = np.ascontiguousarray(rest[:, lo:hi])
        rest = np.ascontiguousarray(rest[:, :lo])
        groups = np.arange(boundaries[level].size - 1)[:, None]
        layout = make_layout([boundaries[level]], groups, [hi - lo])
        G = leaf.gram(own, np.ones_like(D), layout, 0, layout.n_leaves)
        lam, Q = np.linalg.eigh(G)  # reads the lower triangle
        root = np.sqrt(1 + np.maximum(lam, 0))
        Qt = Q.swapaxes(1, 2)
        phi = np.matmul(Q / (1 + root)[:, None, :], Qt)
        psi = np.matmul(Q / (root * (1 + root))[:, None, :], Qt)
        levels.append((own, phi, psi, layout))
        if lo:
            rest = _update(own, psi, rest, layout, -1.0)
    return SquareRoot(levels, D)
