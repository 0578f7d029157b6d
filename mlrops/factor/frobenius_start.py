"""The factor model nearest to the sample covariance in the Frobenius norm, to start EM from."""

from typing import Any

import numpy as np

from .._common.typing import FloatArray
from ..fitting.bcd import improve, order_of
from ..fitting.factors import Factors
from ..fitting.pairs import GroupPairs
from ..fitting.residuals import GramResidual
from ..tree.hierarchy import Hierarchy
from .usable import fold, usable_columns

__all__ = ["FrobeniusFit", "frobenius_start", "without_idle"]

# Sweeps end where one adds less than this share to what factors have explained so far, or after so
# many: further ones hardly save EM an update.
LEAST_GAIN, MAX_SWEEPS = 1e-4, 30
# A column with less than this share of the D of one feature is left to EM, which gets it with this
# share of the D of all.
IDLE = 0.01


class FrobeniusFit:
    """Block coordinate descent for ``min ‖S - Σ_l F_l F_lᵀ - diag(D)‖`` with ``D >= floor``.

    S is ``X Xᵀ`` for X (n, k) in tree order.  From ``F = 0`` the levels are visited in turn.  Each
    group gets the positive part of its block of the residual, to the rank of the level and within a
    Krylov space that holds the factors it had; then D gets its best values.  Neither half-step can
    raise the error.
    """

    def __init__(self, X: FloatArray, hierarchy: Hierarchy, ranks: tuple[int, ...],
                 floor: FloatArray):
        pairs = GroupPairs(hierarchy, hierarchy)
        self.residual, self.floor = GramResidual(X, pairs), floor
        self.factors = Factors(
            pairs, ranks, X.dtype, np.random.default_rng(0), symmetric=True, psd=True)
        self.residual.restart(self.factors)
        self.used = np.flatnonzero(ranks)
        self.improve_D()

    @property
    def F(self) -> FloatArray:
        """(n, R), in tree order"""
        return np.concatenate([F[:-1] for F in self.factors.right], axis=1)

    @property
    def D(self) -> FloatArray:
        """(n,), in tree order"""
        return self.residual.D

    def improve_D(self) -> None:
        """The best D for the factors: what they leave of the diagonal, or the floor."""
        left = self.residual.diagonal.copy()
        for F in self.factors.right:
            left -= np.einsum("ij,ij->i", F[:-1], F[:-1], dtype=np.float64)
        self.residual.D = np.maximum(left, self.floor)

    def improve_F(self, level: int) -> None:
        """Better factors of a level for D and the other levels."""
        improve(self.factors, self.residual, level)

    def sweep(self) -> None:
        """Levels from coarse to fine and back, D after each."""
        for level in order_of(self.used, "v"):
            self.improve_F(level)
            self.improve_D()

    def run(self, least_gain: float, max_sweeps: int) -> int:
        """Sweep until one adds less than a share of what all have; the number of sweeps."""
        start = last = self.residual.explained()
        for number in range(1, max_sweeps + 1 if self.used.size else 0):
            self.sweep()
            last, before = self.residual.explained(), last
            if last - before <= least_gain * (last - start):
                return number
        return max_sweeps if self.used.size else 0


def frobenius_start(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None,
                    least_share: float) -> tuple[FloatArray, FloatArray]:
    """Factors F (n, R) and D (n,) nearest to the sample covariance, D at least so much of it.

    The source's features are to be of like variance: those of large variance weigh more.  Where a
    source gives a sketch of its samples, it is asked for one that is as large as what the
    acceleration of EM holds.
    """
    X = source.start_data(8 * sum(ranks) + 20, seed)
    X = X / X.dtype.type(np.sqrt(source.n_samples))
    fit = FrobeniusFit(X, hierarchy, ranks, least_share * source.variance)
    fit.run(LEAST_GAIN, MAX_SWEEPS)
    return without_idle(fit.F, fit.D, hierarchy, ranks), fit.D


def without_idle(F: FloatArray, D: FloatArray, hierarchy: Hierarchy, ranks: tuple[int, ...]
                ) -> FloatArray:
    """Small random loadings for columns that could be used, but that a fit has no use for.

    The residual of a group may have fewer positive eigenvalues than the group has factors, as that
    of a single feature has none next to D.  EM would leave a zero column at zero, although the
    likelihood may have a use for it.
    """
    fold(F, hierarchy, ranks)
    rng, usable, col = np.random.default_rng(0), usable_columns(hierarchy, ranks), 0
    for level, r in enumerate(ranks):
        for rows in hierarchy._equal_groups(level) if r else ():
            here = np.s_[rows, col : col + min(r, rows.shape[1])]
            mine, noise = F[here], D[rows]
            idle = np.square(mine).sum(axis=1) < IDLE * noise.mean(axis=1)[:, None]
            new = rng.standard_normal(mine.shape) * np.sqrt(IDLE * noise)[:, :, None]
            F[here] = np.where(usable[here], np.where(idle[:, None, :], new, mine), 0)
        col += r
    return F
