"""A fit on its way: factors, the residual they leave, and the steps that make it smaller."""

import time

import numpy as np

from ..operators.general.mlr import GeneralMLR
from .als import half_step, losses
from .bcd import improve, order_of
from .factors import Factors

__all__ = ["Descent"]

# Krylov terms a visit of a level takes: from a random start, and where one level is all there is.
FIRST, ALONE = 2, 4


class Descent:
    """Factors of given ranks for a `Target`, zero at first.

    `levels` are those that will be visited, by default the ones of nonzero rank.

    Raises
    ------
    ValueError
        A is all zero, its products are not finite, or its norm is out of range.
    """

    def __init__(self, source, ranks, random_state, levels=None):
        self.source, self.began = source, time.perf_counter()
        if levels is None:
            levels = np.flatnonzero(ranks)
        self.residual = source.residual(levels, ranks)
        self.factors = Factors(source.pairs, ranks, source.dtype,
                               np.random.default_rng(random_state), source.symmetric, source.psd)
        self.residual.restart(self.factors)
        self.norm = np.sqrt(self.residual.squared_norm())
        source.check_scale(self.norm)

    @property
    def used(self):
        """Levels of nonzero rank."""
        return [level for level, rank in enumerate(self.factors.ranks) if rank]

    @property
    def floor(self):
        return self.residual.floor

    @property
    def rounding(self):
        """What rounding moves the squared error by: the more, the larger levels that cancel are."""
        parts = sum(self.factors.squared_norms()) / self.norm**2
        return self.residual.rounding * max(1.0, parts)

    def error(self):
        """``‖A - M‖ / ‖A‖``; where it is rounding, that of the factors there are."""
        error = self._error()
        if error <= self.floor:  # a residual kept up to date forgets what the factors were rounded
            self.residual.restart(self.factors)
            error = self._error()
        return error

    def _error(self):
        return float(np.sqrt(self.residual.squared_norm()) / self.norm)

    def seconds(self):
        return time.perf_counter() - self.began

    def load(self, operator):
        """Go on from the factors of an operator."""
        for side, factors, h in ((self.factors.left, operator.left, operator.rows),
                                 (self.factors.right, operator.right, operator.cols)):
            for level, x in enumerate(factors):
                side[level][:-1] = h._gather(x)
        self.residual.restart(self.factors)

    def back_to(self, saved):
        """Put factors from a snapshot back, and the residual with them."""
        self.factors.restore(saved)
        self.residual.restart(self.factors)

    def visit(self, levels, depth=1):
        """Give some levels, one after the other, better factors."""
        for level in levels:
            improve(self.factors, self.residual, level, depth=depth)

    def start(self):
        """Top down: each level fits what the coarser ones leave."""
        self.visit(self.used, FIRST)

    def bcd(self, order):
        """One sweep over the levels."""
        used = self.used
        self.visit(order_of(used, order), ALONE if len(used) == 1 else 1)

    def als(self):
        """Right factors for fixed left ones, then left for right; the losses of columns.

        Returns
        -------
        dict of int -> (p_l, r_l)
            By level, what dropping a column would cost; see `als.losses`.
        """
        used = self.used
        half_step(self.factors, self.residual, used, "right")
        inverse = half_step(self.factors, self.residual, used, "left")
        found = dict(zip(used, losses(self.factors, used, inverse), strict=True))
        self.factors.balance(used)
        return found

    def operator(self):
        """The fit as an operator."""
        pairs, factors = self.source.pairs, self.factors
        B, C = factors.principal()
        return GeneralMLR._from_tree(
            pairs.rows, pairs.cols, factors.ranks, B, C, symmetric=factors.symmetric)
