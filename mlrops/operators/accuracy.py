"""What rounding leaves of results that come from the factor of ``P = I + FᵀD⁻¹F`` of an `MLR`.

The Cholesky factor of P is exact for a matrix whose entries differ from those of P by
``eps √(P_ii P_jj)``.  A pivot c² that is left of a diagonal entry P_jj has lost ``P_jj / c²`` units
of rounding, a posterior variance C_jj of the factors ``C_jj P_jj`` of them: the scaled condition of
P, however large P itself is.  Results that could be off by more than `PROMISED` are refused.
Solves measure their backward error instead; see `refine`.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .._common.typing import FloatArray, IntArray
from .._common.wording import name_some
from ..kernels.layout import Layout

__all__ = ["PROMISED", "check_left", "check_logdet", "check_quad", "checked_root",
           "diagonal_sizes", "inverse_loss", "loss_left", "loss_of_explained", "norms", "refused"]

Factored: TypeAlias = Any  # its file imports this one

# The relative error that a result may have.  The estimates err on the safe side, by 10 or so.
PROMISED = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 3e-3}

# A pivot's logarithm moves by so many times what the pivot has lost: it inherits from others.
_LOGS = 20
# The same of what the factors explain of a feature.
_PARTIAL = 4
# What two vectors show may be more for others.
_MARGIN = 10
# And of a quadratic form.
_QUAD = 30


def refused(A: Factored, verb: str, loss: float, reason: str = ""
            ) -> np.linalg.LinAlgError:
    """The LinAlgError of a result that could be off by `loss`."""
    return np.linalg.LinAlgError(
        f"{verb}: rounding could move the result by {loss:.1e}{reason}, relatively; {A!r} in"
        f" {A.dtype} promises {PROMISED[A.dtype]:.0e}: D is too small beside F; take a larger D"
        + (", or float64" if A.dtype == np.float32 else ""))


def diagonal_sizes(K: FloatArray, layout: Layout) -> tuple[FloatArray, FloatArray]:
    """The diagonal of P and its pivots, each (s,), from the factor K of `kernels.tree.factor`."""
    sizes, pivots = np.empty((2, layout.s))
    below = None  # squares of the rows X of all descendants, summed over each group
    for level in range(layout.L - 1, -1, -1):
        lo, hi = int(layout.cols[level]), int(layout.cols[level + 1])
        own = slice(int(layout.zoff[level]), int(layout.zoff[level + 1]))
        groups = int(layout.path[-1, level]) + 1
        rows = K[own].reshape(groups, hi - lo, layout.R)
        if below is not None:  # gathered from the level below
            starts = np.searchsorted(layout.path[:, level], np.arange(groups))
            child = layout.path[starts, level + 1]
            below = np.add.reduceat(below, child, axis=0)
        squares = np.square(rows[:, :, lo:hi], dtype=np.float64).sum(axis=2)
        if below is not None:
            squares += below[:, lo:hi]
        sizes[own] = squares.ravel()
        pivots[own] = np.square(
            np.einsum("gii->gi", rows[:, :, lo:hi]), dtype=np.float64).ravel()
        passed = np.square(rows[:, :, :lo], dtype=np.float64).sum(axis=1)
        below = passed if below is None else passed + below[:, :lo]
    return sizes, pivots


def check_logdet(A: Factored) -> float:
    """``log det D + log det P``, where rounding in ``log det P`` leaves the sum enough digits."""
    eps, F, gained = float(np.finfo(A.dtype).eps), A._F, A._gained
    logs = np.log(A._d, dtype=np.float64)
    total = float(logs.sum()) + gained
    size = max(abs(total), 0.05 * (np.abs(logs, out=logs).sum() + gained), 1.0)
    unit, factors = _LOGS * eps / size, A._n_factors
    if 8 * factors > len(F):  # then a bound is cheaper: each P_jj / c² is at most P_jj
        largest = 1 + len(F) * float(max(F.max(), -F.min())) ** 2 / float(A._d.min())
        if unit * factors * largest <= PROMISED[A.dtype]:
            return total
    sizes, pivots = A._sizes
    loss = unit * float((sizes / pivots).sum())
    if not loss <= PROMISED[A.dtype]:
        raise refused(A, "logdet", loss)
    return total


def inverse_loss(A: Factored, product: Callable[[FloatArray], FloatArray]) -> float:
    """What rounding does to ``product``, with Σ⁻¹, tried on two vectors where ‖P‖ asks for it.

    Its residual in units of the backward error.  Where D is small and ‖Σ⁻¹‖ is not, products that
    start from 1/D cancel.
    """
    above, _, norm = A._norms
    if above * np.finfo(A.dtype).eps <= PROMISED[A.dtype] / 100:
        return 0.0
    v = np.random.default_rng(0).standard_normal((A.shape[0], 2)).astype(A.dtype)
    with np.errstate(all="ignore"):
        x = product(v)
        loss = _MARGIN * float(np.linalg.norm(v - A._product(x)) / (
            norm * np.linalg.norm(x) + np.linalg.norm(v)))
    return loss if np.isfinite(loss) else math.inf


def loss_of_explained(cov: FloatArray, sizes: FloatArray, layout: Layout
                      ) -> tuple[FloatArray, Callable[[], FloatArray]]:
    """What moves ``f C fᵀ``, f a row of D^{-1/2}F, in units of rounding: a bound and a measure.

    The bound is (n,); the measure is ``f M fᵀ``, M (n_leaves, R, R) what the second result returns.
    C (n_leaves, R, R) is `cov` along the paths, and `sizes` (s,) the diagonal of P.  An error E of
    P moves it by ``f C E C fᵀ``; entries √(P_jj P_kk) of random signs make that ``f C diag(P) C
    fᵀ``.  Rounding in C itself moves it by ``f diag(C) fᵀ``.
    """
    spread = np.ones(cov.shape[:2])
    for level in range(layout.L):
        lo, hi = int(layout.cols[level]), int(layout.cols[level + 1])
        own = sizes[int(layout.zoff[level]):int(layout.zoff[level + 1])]
        spread[:, lo:hi] = own.reshape(-1, hi - lo)[layout.path[:, level]] if hi > lo else 1
    variances = np.einsum("qii->qi", cov)

    def moved():
        M = np.matmul(cov * spread[:, None].astype(cov.dtype), cov)
        np.einsum("qii->qi", M)[...] += variances
        return M

    bounds = 2 * (variances * spread).sum(axis=1)  # C_jj P_jj: bounds of all that
    return np.repeat(bounds, np.diff(layout.leaf_off)), moved


def loss_left(A: Factored, moved: FloatArray) -> FloatArray:
    """What so many units of rounding are of ``1 - f C fᵀ``."""
    return _PARTIAL * np.finfo(A.dtype).eps * np.abs(moved)


def check_left(A: Factored, left: FloatArray, moved: FloatArray, features: IntArray) -> None:
    """Refuse ``1 - f C fᵀ`` of the features, (n,), where `moved` units of rounding are too many."""
    loss = loss_left(A, moved)
    bad = np.flatnonzero(~(loss <= PROMISED[A.dtype] * left))
    if bad.size:
        worst = float(np.max(loss[bad] / np.maximum(left[bad], np.finfo(A.dtype).eps)))
        raise refused(A, "partial variance", worst, " for " + (
            "feature " if bad.size == 1 else "features ") + name_some(np.sort(features[bad])))


def norms(A: Factored) -> tuple[float, float, float]:
    """Bounds from the traces of the groups: of ‖P‖ and ‖F‖ above, of ‖Σ‖ below."""
    scaled, plain, below = 1.0, 0.0, float(A._diagonal().max())
    for level, (f, offsets) in enumerate(zip(
            np.split(A._F, A._layout.cols[1:-1], axis=1), A._hierarchy.boundaries, strict=True)):
        squares = np.einsum("ij,ij->i", f, f, dtype=np.float64)
        largest = np.add.reduceat(squares, offsets[:-1]).max()
        plain += largest
        below = max(below, largest / max(A._ranks[level], 1))
        scaled += np.add.reduceat(squares * A._dinv, offsets[:-1]).max()
    return scaled, math.sqrt(plain), below


def check_quad(A: Factored, quad: FloatArray, squares: FloatArray, scaled: FloatArray,
               gap: Callable[[IntArray], FloatArray]) -> None:
    """Refuse quadratic forms (k,) that rounding could spoil.

    Rounding in z costs gᵀP⁻¹g of the minimum, ``g = z - Fᵀy``, which ``gap(columns)`` gives where a
    bound asks for it: about Σ g² / pivots.  Rounding in D^{-1/2} y costs what cancels in x - F z.
    `squares` is ‖z‖², `scaled` ‖D^{-1/2}x‖².
    """
    eps, above = float(np.finfo(A.dtype).eps), A._norms[0]
    moved = math.sqrt(above) * np.sqrt(squares) + np.sqrt(scaled)
    positive = np.where(quad > 0, quad, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        loss = 2 * eps * moved / np.sqrt(positive)
        doubtful = np.flatnonzero(
            np.square(eps * math.sqrt(above) * moved) > PROMISED[A.dtype] * quad)
        if doubtful.size:
            cost = _QUAD * (1 / A._sizes[1]) @ np.square(gap(doubtful), dtype=float)
            loss[doubtful] += cost / positive[doubtful]
    loss = loss[np.isfinite(quad)]
    if not (loss <= PROMISED[A.dtype]).all():
        raise refused(A, "inv_quad", loss.max())


def checked_root(A: Factored, root: Any) -> Any:
    """`root`, tried on two vectors where the bound of ‖P‖ asks for it.

    S Sᵀ = Σ in units of standard deviations, and W S = I.
    """
    if A._norms[0] * np.finfo(A.dtype).eps <= PROMISED[A.dtype] / 100:
        return root
    v = np.random.default_rng(0).standard_normal((A.shape[0], 2)).astype(A.dtype)
    deviation = np.sqrt(A._d + np.einsum("ij,ij->i", A._F, A._F))[:, None]
    with np.errstate(all="ignore"):
        exact = A._product(v / deviation) / deviation
        error = root.color(root.color_transpose(v / deviation)) / deviation - exact
        losses = _ratio(error, exact), _ratio(root.whiten(root.color(v)) - v, v)
    loss = _MARGIN * max(losses)
    if not loss <= PROMISED[A.dtype]:
        raise refused(A, "square root", loss)
    return root


def _ratio(error: FloatArray, size: FloatArray) -> float:
    found = float(np.linalg.norm(error.astype(float)) / np.linalg.norm(size.astype(float)))
    return found if np.isfinite(found) else math.inf
