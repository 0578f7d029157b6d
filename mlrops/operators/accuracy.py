"""What rounding costs the Cholesky factor of ``P = I + FᵀD⁻¹F``, and which factorization to take.

The Cholesky factor is exact for a matrix whose entries differ from those of P by
``eps √(P_ii P_jj)``.  A pivot c² that is left of a diagonal entry P_jj has lost ``P_jj / c²`` units
of rounding, what is not explained of a feature, at least ``D_i / Σ_ii`` of it, has lost ``Σ_ii /
D_i`` of them.  ‖P‖ itself is no measure: it grows with the number of features though nothing is
lost.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from .._common.typing import FloatArray
from ..kernels.layout import Layout

__all__ = ["CANCELLED", "LARGEST", "TOLERATED", "Factorization", "Scales", "norms", "rough_norms",
           "scales", "sharper"]

Factored: TypeAlias = Any  # its file imports this one

# Units of rounding that Cholesky may lose; QR takes over above.  With more, square roots and the
# diagonals of inverses miss 450 and 450,000 units; normal factors and D in 0.1 … 100 lose 1700.
LARGEST = 2500.0
# The relative error that iterations, whose variances stop at 1e-6 of those of the data, live with.
TOLERATED = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-3}
# The share of ‖Σ⁻¹‖ that rounding may move of its form as a low rank update.
CANCELLED = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 3e-3}
# Products with F and Fᵀ for an estimate of a norm, and how much larger it may be.
_STEPS, _MARGIN = 5, 1.25


class Factorization(NamedTuple):
    """How a matrix ``F Fᵀ + diag(D)`` is factored; see `LowRankPlusDiagonal.factorization`."""

    method: Literal["cholesky", "qr"]
    bound: float


class Scales(NamedTuple):
    """What one pass over F tells."""

    share: float  # the largest Σ_ii / D_i
    factors: float  # a bound of ‖F‖ from above
    below: float  # a bound of ‖Σ‖ from below: its diagonal, and mean eigenvalues of its groups


def scales(A: Factored) -> Scales:
    """The `Scales` of F and D."""
    layout = A._layout
    rows: Any = 0.0
    factors, below = 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for level, rank in enumerate(A._ranks):
            F, first = A._F[:, layout.columns(level)], layout.first_leaves[level][:-1]
            squares = np.einsum("ij,ij->i", F, F, dtype=np.float64)
            trace = float(np.add.reduceat(squares, layout.leaf_off[first]).max())
            factors, below = factors + trace, max(below, trace / max(rank, 1))
            squares += rows
            rows = squares
        rows /= A._d
        rows += 1
        share = float(rows.max())
        rows *= A._d
        return Scales(share, math.sqrt(factors), max(below, float(rows.max())))


def rough_norms(A: Factored) -> tuple[float, float, float]:
    """Bounds of ‖P‖ and ‖F‖ above, of ‖Σ‖ below: of ‖P‖ by the largest traces of its levels."""
    layout, above = A._layout, 1.0
    for level in range(layout.L):
        sizes = A._factor.sizes[layout.node_rows(level)].reshape(layout.path[-1, level] + 1, -1)
        above += float(sizes.sum(axis=1, dtype=np.float64).max())
    return above, A._scales.factors, A._scales.below


def norms(A: Factored) -> tuple[float, float, float]:
    """`rough_norms`, by all of K."""
    # P = RᵀR with the rows [Cᵀ | X] of R: ‖P‖ is at most the largest row sum of |R|ᵀ|R|.
    layout, sums = A._layout, np.empty(A._layout.s)
    levels = [(level, np.abs(C), np.abs(X)) for level, C, X in _levels(A._factor.K, layout)]
    for level, C, X in levels:
        sums[layout.node_rows(level)] = (C.sum(axis=1) + X.sum(axis=2)).ravel()
    above, factors, below = A._rough_norms
    largest = float(_times_transposed(levels, sums, layout).max(initial=1.0))
    return min(above, largest), factors, below


def sharper(A: Factored) -> tuple[float, float, float]:
    """`norms`, by a few products with F and Fᵀ."""
    above, factors, below = A._norms

    def largest(scale):  # eigenvalue of diag(scale) F Fᵀ diag(scale), from below
        v = np.random.default_rng(0).standard_normal((len(A._d), 1)).astype(A.dtype)
        found = 0.0
        for _ in range(_STEPS):
            w = A._loadings(A._means(v / np.linalg.norm(v) * scale)) * scale
            v, found = w, float(np.linalg.norm(w))
        return found

    with np.errstate(over="ignore", invalid="ignore"):
        plain = largest(np.ones((len(A._d), 1), A.dtype))
        scaled = _MARGIN * (1 + largest(np.sqrt(A._dinv)[:, None]))
        return min(above, scaled), min(factors, math.sqrt(_MARGIN * plain)), max(below, plain)


def _levels(K: FloatArray, layout: Layout) -> Iterator[tuple[int, FloatArray, FloatArray]]:
    """(level, C (groups, r, r), X (groups, r, columns above)) of K in float64, finest first."""
    for level in range(layout.L - 1, -1, -1):
        own, groups = layout.columns(level), int(layout.path[-1, level]) + 1
        rows = K[layout.node_rows(level)].reshape(groups, own.stop - own.start, layout.R)
        yield (level, np.tril(rows[:, :, own]).astype(np.float64),
               rows[:, :, : own.start].astype(np.float64))


def _times_transposed(levels: list[tuple[int, FloatArray, FloatArray]], u: FloatArray,
                      layout: Layout) -> FloatArray:
    """``Mᵀ u`` (s,) for M in the form of R, its rows ``[Cᵀ | X]`` as `_levels` gives C and X."""
    out, below = np.empty_like(u), None  # what all descendants add, in each group
    for level, C, X in levels:
        own, lo = layout.node_rows(level), X.shape[2]
        if below is not None:  # gathered from the level below
            starts = layout.path[layout.first_leaves[level][:-1], level + 1]
            below = np.add.reduceat(below, starts, axis=0)
        weights = u[own].reshape(C.shape[:2])
        found = np.einsum("gji,gi->gj", C, weights)
        if below is not None:
            found += below[:, lo:]
        out[own] = found.ravel()
        passed = np.einsum("gia,gi->ga", X, weights)
        below = passed if below is None else passed + below[:, :lo]
    return out
