"""A fit on its way: factors, the residual they leave, and the steps that make it smaller."""

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
        self.residual.restart(self.factors)
        self.norm = np.sqrt(self.residual.squared_norm())
        target.check_scale(self.norm)

    @property
    def used(self) -> list[int]:
        """Levels of nonzero rank."""
        return [level for level, rank in enumerate(self.factors.ranks) if rank]

    @property
    def floor(self) -> float:
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

    def load(self, operator: GeneralMLR) -> None:
        """Go on from the factors of an operator."""
        for side, factors, h in ((self.factors.left, operator.left, operator.rows),
                                 (self.factors.right, operator.right, operator.cols)):
            for level, x in enumerate(factors):
                side[level][:-1] = h._gather(x)
        self.residual.restart(self.factors)

    def back_to(self, saved: Any) -> None:
        """Put factors from a snapshot back, and the residual with them."""
        self.factors.restore(saved)
        self.residual.restart(self.factors)

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

    def operator(self) -> GeneralMLR:
        """The fit as an operator."""
        pairs, factors = self.target.pairs, self.factors
        B, C = factors.principal()
        return GeneralMLR._from_tree(
            pairs.rows, pairs.cols, factors.ranks, B, C, symmetric=factors.symmetric)
