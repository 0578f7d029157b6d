"""A fit on its way, by the residual that its factors leave, and the steps that make it smaller.

It is exact down to rounding, takes symmetric and positive semidefinite blocks, and reads A some
times for each level and step; `alternation` reads it twice a step, for all levels together.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._common.typing import FloatArray, RandomState
from ..operators.general.mlr import GeneralMLR
from .als import half_step, losses
from .bcd import improve, order_of
from .factors import Factors
from .target import Target

__all__ = ["Descent"]

# Krylov terms a visit of a level takes: from a random start, and where one level is all there is.
FIRST, ALONE = 2, 4


class Descent:
    """Factors of given ranks for a `Target`, zero at first.

    `levels` are those that will be visited, by default the ones of nonzero rank.
    """

    def __init__(self, target: Target, ranks: Sequence[int], random_state: RandomState,
                 levels: Iterable[int] | None = None):
        self.target, self.began = target, time.perf_counter()
        if levels is None:
            levels = np.flatnonzero(ranks)
        self.residual = target.residual(levels, ranks)
        self.factors = Factors(target.pairs, ranks, target.dtype,
                               np.random.default_rng(random_state), target.symmetric, target.psd)
        self.factors.least = target.least_diagonal()
        self.residual.restart(self.factors)
        self.norm = np.sqrt(self.residual.squared_norm())
        target.check_scale(self.norm)
        self._losses: dict[int, FloatArray] = {}

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.factors.ranks

    @property
    def n_passes(self) -> float:
        """How often A has been read."""
        return self.residual.passes

    @property
    def used(self) -> list[int]:
        """Levels of nonzero rank."""
        return [level for level, rank in enumerate(self.factors.ranks) if rank]

    @property
    def floor(self) -> float:
        """Relative errors that are rounding."""
        return self.residual.floor

    @property
    def rounding(self) -> float:
        """What rounding moves the squared error by: the more, the larger levels that cancel are."""
        parts = sum(self.factors.squared_norms()) / self.norm**2
        return self.residual.rounding * max(1.0, parts)

    def error(self) -> float:
        """``‖A - M‖ / ‖A‖``; where it is rounding, that of the factors there are."""
        error = self._error()
        if error <= self.floor:  # a residual kept up to date forgets what the factors were rounded
            self.residual.restart(self.factors)
            error = self._error()
        return error

    def _error(self) -> float:
        return float(np.sqrt(self.residual.squared_norm()) / self.norm)

    # ---------------------------------------------------------------- steps

    def begin(self) -> None:
        """Before the first column there is nothing to do."""

    def step(self) -> None:
        """One iteration on all levels: by least squares, or one sweep of a symmetric fit."""
        if not self.target.symmetric:
            self._losses = self.als()
            return
        self.bcd("v")
        sigma, ranks = self.factors.sigma, self.ranks
        self._losses = {level: np.square(sigma[level][:, : ranks[level]]) for level in self.used}

    def visit(self, levels: Iterable[int], depth: int = 1) -> None:
        """Give some levels, one after the other, better factors."""
        for level in levels:
            improve(self.factors, self.residual, level, depth=depth)

    def start(self) -> None:
        """Top down: each level fits what the coarser ones leave."""
        self.visit(self.used, FIRST)

    def bcd(self, order: str) -> None:
        """One sweep over the levels."""
        used = self.used
        self.visit(order_of(used, order), ALONE if len(used) == 1 else 1)

    def als(self) -> dict[int, FloatArray]:
        """Improve the right factors, then the left ones; by level, the losses of columns."""
        used = self.used
        half_step(self.factors, self.residual, used, "right")
        inverse = half_step(self.factors, self.residual, used, "left")
        found = dict(zip(used, losses(self.factors, used, inverse), strict=True))
        self.factors.balance(used)
        return found

    # ---------------------------------------------------------------- columns

    def gains(self) -> FloatArray:
        """What one more column at each level gains at once, (L,), after a visit of all levels."""
        levels = range(len(self.ranks))
        self.visit(levels)
        sigma = self.factors.sigma
        return np.array([np.square(sigma[level][:, self.ranks[level]]).sum() for level in levels])

    def losses(self) -> dict[int, FloatArray]:
        """What dropping a column raises the squared error by at most, as of the last step."""
        return self._losses

    def add(self, level: int) -> None:
        """One more column."""
        improve(self.factors, self.residual, level, rank=self.ranks[level] + 1)

    def drop(self, level: int, losses: FloatArray) -> None:
        """One column less: of each group that of least loss (p_l, r_l)."""
        gone_B, gone_C = self.factors.drop(level, losses)
        self.residual.open(level).subtract([-b for b in gone_B], gone_C)

    # ---------------------------------------------------------------- there and back

    def load(self, operator: GeneralMLR) -> None:
        """Go on from the factors of an operator."""
        self.factors.load(operator)
        self.residual.restart(self.factors)

    def take_over(self, factors: Factors) -> None:
        """Go on from other factors."""
        self.factors = factors
        self.residual.restart(factors)

    def snapshot(self) -> Any:
        """What `restore` needs."""
        return self.factors.snapshot()

    def recall(self, saved: Any) -> None:
        """Put factors from a snapshot back, and leave the residual behind."""
        self.factors.restore(saved)

    def restore(self, saved: Any) -> None:
        """Put factors from a snapshot back, and the residual with them."""
        self.factors.restore(saved)
        self.residual.restart(self.factors)
