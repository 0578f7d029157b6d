"""The likelihood of a factor model whose parts lie on workers, for those who climb it.

Points, states and vectors are cut like the features.  They have the few operations that `Ascent`
and its jumps ask of them, so that what climbs is the same as on one machine; what comes here are
numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._common.cached import cached_property
from ..._common.cluster import added, in_pairs, joined, merged, task
from ..._common.spread import Shelf, Spread
from ..._common.typing import FloatArray, IntArray
from ...operators.cut import Cut
from ...operators.distributed import DistributedMLR
from ...operators.part_sweeps import alone, own_factors
from ...operators.parts import Coarse, Part, merge, sweep_root
from ...tree.hierarchy import Hierarchy
from ..estep import columns
from ..estep.columns import Bench, Facts
from ..likelihood import VanishingVariance
from ..point import Point

__all__ = ["SpreadPoint", "SpreadState", "SpreadSurface", "SpreadVector", "SpreadVectors"]


class SpreadVector:
    """A step or a gradient in parts, to be filled again and again as an array would be."""

    def __init__(self, parts: Spread | None = None):
        self.parts: Any = parts

    def copy(self) -> "SpreadVector":
        return SpreadVector(self.parts)

    def __matmul__(self, other: "SpreadVector") -> float:
        return float(SpreadVectors().dots([self], other)[0])


class SpreadVectors:
    """What `SecantPairs` asks of vectors; see `kernels.vectors.Arrays`."""

    def rows(self, count: int) -> list[SpreadVector]:
        """Room for so many vectors, to be filled one by one."""
        return [SpreadVector() for _ in range(count)]

    def dots(self, M: Sequence[SpreadVector], x: SpreadVector) -> FloatArray:
        """The inner products of some vectors with x: one number of each part, summed in pairs."""
        return x.parts.total(added, alone(columns.dots), *(row.parts for row in M))

    def combine(self, c: FloatArray, M: Sequence[SpreadVector], out: SpreadVector
                ) -> SpreadVector:
        """``out += c M``."""
        out.parts = out.parts.map(alone(columns.combined), c.tolist(), *(row.parts for row in M))
        return out


class SpreadPoint:
    """Parameters of a factor model in parts, each a `Point`."""

    def __init__(self, surface: "SpreadSurface", parts: Spread):
        self.surface, self.parts = surface, parts

    def operator(self, hierarchy: Hierarchy, ranks: tuple[int, ...], dtype: np.dtype
                 ) -> DistributedMLR:
        """The covariance in the order of the features of a hierarchy."""
        parts = self.surface.benches.map(_part_at, self.parts, dtype)
        return DistributedMLR(hierarchy, self.surface.cut, parts, dtype)

    def room(self) -> None:
        """Nothing: where results of tasks lie is not ours to say."""

    def copy(self) -> "SpreadPoint":
        """Itself: nobody writes to it."""
        return self

    def shares(self, other: "SpreadPoint") -> bool:
        """Always: so nobody takes it for free room."""
        return True


class SpreadImage(SpreadPoint):
    """Where EM goes from a state; its parts are apart from those of the state once asked for."""

    def __init__(self, surface: "SpreadSurface", found: Spread):
        self.surface, self._found = surface, found

    @cached_property
    def parts(self) -> Spread:
        return self._found.map(_image)


class SpreadState:
    """A point whose likelihood is known, and what else follows; see `State`."""

    is_mapped = True

    def __init__(self, surface: "SpreadSurface", point: SpreadPoint, loglik: float, facts: Facts,
                 found: Spread):
        self.surface, self.point, self.loglik, self._facts = surface, point, loglik, facts
        self.objective = loglik - facts.penalty
        self._found = found

    @cached_property
    def image(self) -> SpreadPoint:
        """Where EM goes."""
        return SpreadImage(self.surface, self._found)

    @property
    def _kept(self) -> "SpreadState":
        """A state that keeps what jumps ask of it; plain EM seldom does."""
        return self._again if math.isnan(self._facts.gradient_norm) else self

    @cached_property
    def _again(self) -> "SpreadState":
        return self.surface.evaluate(self.point, keep=True)

    @cached_property
    def gradient(self) -> SpreadVector:
        """Derivatives of the objective by the coordinates."""
        return SpreadVector(self._kept._found.map(_gradient))

    @property
    def gradient_norm(self) -> float:
        return self._kept._facts.gradient_norm

    @property
    def fades(self) -> bool:
        return self._kept._facts.fades

    def precondition(self) -> Callable[[SpreadVector], SpreadVector]:
        """EM's answer to a gradient, as a function."""
        kept = self._kept

        def apply(q: SpreadVector) -> SpreadVector:
            return SpreadVector(kept.surface.benches.map(
                alone(columns.preconditioned), kept.point.parts, kept._found, q.parts))

        return apply

    def to(self, other: "SpreadState", out: SpreadVector) -> None:
        """The step from here to another state."""
        out.parts = self.surface.benches.map(
            alone(columns.difference), other.point.parts, self.point.parts)

    def fall(self, other: "SpreadState", out: SpreadVector) -> None:
        """By how much the gradient falls from here to another state."""
        out.parts = self.gradient.parts.map(columns.fall, other.gradient.parts)


class SpreadSurface:
    """What a fit climbs, with its parts on workers; see `LikelihoodSurface`.

    An evaluation is one graph of tasks: every part sweeps up, what it passes is merged in fixed
    pairs, a task sweeps the levels above the parts and gives each parent what it needs, and every
    part sweeps down and takes its M-step.
    """

    def __init__(self, benches: Spread, source: Any, crown: Any, cut: Cut, ranks: tuple[int, ...],
                 keep: bool):
        self.benches, self.source, self.ranks, self._keep = benches, source, ranks, keep
        self.shelf: Shelf = benches.shelf
        self.cut, self.level = cut, cut.level
        self._crown, self._parents = crown, cut.parents()
        self.vectors = SpreadVectors()

    @cached_property
    def independent(self) -> float:
        """What is climbed, of independent features with the variances of the data."""
        return float(self.benches.total(added, _independent))

    def evaluate(self, point: SpreadPoint, keep: bool | None = None) -> SpreadState:
        """The E-step at a point, and the M-step."""
        self.shelf.step()
        keep = self._keep if keep is None else keep
        swept = self.benches.map(alone(columns.up), point.parts)
        passed = in_pairs(alone(merge), [task(_second, one) for one in swept.parts])
        coarse = task(alone(sweep_root), self._crown, passed, True)
        # Where there is but one parent, every part needs all.
        one = len(set(self._parents)) == 1
        own = self.shelf.spread(coarse if one else task(own_factors, coarse, *place)
                                for place in self._parents)
        found = self.benches.map(alone(columns.down), point.parts, swept, own, keep)
        del swept, own  # which nobody asks for again
        try:
            (logdet, quad), *facts = self.shelf.results(
                task(_sums, coarse), *(task(_second, one) for one in found.parts))
        except VanishingVariance:
            del found, coarse, passed  # to ask all parts, not the first that complained
            raise VanishingVariance(
                self.benches.total(joined, _vanished, point.parts)) from None
        n, weight = self.source.n_features, self.source.weight
        loglik = -0.5 * (n * math.log(2 * math.pi) + logdet + quad / weight)
        return SpreadState(self, point, loglik, merged(Facts.merged, facts), found)

    def move(self, point: SpreadPoint, d: SpreadVector, share: float, out: Any) -> SpreadPoint:
        """The point at ``v + share d``, D clipped at the floor."""
        return SpreadPoint(
            self, self.benches.map(alone(columns.moved), point.parts, d.parts, share))

    def first(self, init: Any, hierarchy: Hierarchy, seed: int | None) -> SpreadPoint:
        """The point that a start of a kind gives."""
        from .start import first_point

        return SpreadPoint(self, first_point(self, init, hierarchy, seed))


def _vanished(bench: Bench, point: Point) -> IntArray:
    return bench.surface.vanished(point.D) + bench.first


def _second(pair):
    return pair[1]


def _image(both):
    return both[0].image


def _gradient(both):
    return both[0].gradient


def _sums(coarse: Coarse) -> tuple[float, float]:
    return coarse.logdet, float(coarse.inv_quad.sum())


def _part_at(bench: Bench, point: Point, dtype: np.dtype) -> Part:
    return bench.part._replace(F=point.F.astype(dtype, copy=False),
                               D=point.D.astype(dtype, copy=False))


def _independent(bench: Bench) -> float:
    return bench.surface.independent

