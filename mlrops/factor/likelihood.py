"""The log-likelihood of a factor model as a function of its parameters, for those who climb it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.labelled import named
from .._common.typing import BoolArray, FloatArray, IntArray
from .._common.wording import counted
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import EStep, Source
from .point import Point
from .prior import Prior
from .start import start

__all__ = ["LEAST", "LikelihoodSurface", "State", "VanishingVariance", "independent_loglik"]

# Largest change of log D in one step.
LARGEST = 10.0
# Share of a feature's variance below which D is not followed: rounding of the data, of the size of
# eps, moves derivatives in units of √D by eps / √LEAST or more.
LEAST = 1e3 * np.finfo(float).eps
# Variances that are a smaller share of the feature's own and go lower are on their way to the
# floor, where they gain less than is felt.
LOW = 1e-3


class VanishingVariance(np.linalg.LinAlgError):
    """Entries of D go to zero, where no floor holds them."""

    def __init__(self, place: IntArray):
        self.place = place  # in tree order
        super().__init__("variances go to zero")

    def __reduce__(self) -> Any:
        return VanishingVariance, (self.place,)

    def naming(self, hierarchy: Hierarchy, names: Sequence[str] | None, noun: str
               ) -> np.linalg.LinAlgError:
        """The error for a user, who knows features by names."""
        low = np.sort(hierarchy.permutation[self.place])
        return np.linalg.LinAlgError(
            f"the variances in D of {counted(low.size, noun)} ({named(low, names)}) go to"
            f" zero, below {LEAST:.0e} of the {noun}s' own,"
            " where derivatives lose their digits: the factors determine these"
            f" {noun}s (Heywood cases), as they do duplicates; leave some out, take fewer factors"
            f" or a variance_floor above {LEAST:.0e}")


def independent_loglik(source: Source) -> float:
    """Average log-likelihood a sample of independent features with the variances of the data."""
    return float(-0.5 * source.shares @ (math.log(2 * math.pi) + 1 + np.log(source.variance)))


class LikelihoodSurface:
    """What a fit climbs, and its EM map, in coordinates that units do not matter for.

    They are ``v = (F / sd, log D, mean / sd)``, sd the features' standard deviations, or with
    `linear` ``D / sd²`` in place of log D.  The mean is part of v only where EM updates it.  What
    is climbed is the average log-likelihood a sample, less what a `prior` takes off.
    """

    def __init__(self, source: Any, tree: Hierarchy, ranks: tuple[int, ...], floor: FloatArray,
                 sd: FloatArray | None = None, linear: bool = False, prior: Prior | None = None):
        self.source, self.tree, self.ranks, self.floor = source, tree, ranks, floor
        self.sd: FloatArray = np.sqrt(source.variance) if sd is None else sd
        self.linear, self.prior = linear, prior
        n, R = tree.n, sum(ranks)
        self.shape, self.cuts = (n, R), (n * R, n * R + n)
        self.size = n * R + n + n * source.mean_is_free

    @property
    def vectors(self) -> Any:
        """What steps and gradients are: `kernels.vectors.Arrays` of `size` numbers."""
        return kernels.vectors.Arrays(self.size)

    def first(self, init: Any, hierarchy: Hierarchy, seed: int | None) -> Point:
        """The point that a start of a kind gives, for features in the order of a hierarchy."""
        F, D = start(init, hierarchy, self.ranks, self.source, seed)
        return Point(F, np.maximum(D, self.floor), self.source.mean)

    def vanished(self, D: FloatArray) -> IntArray:
        """Places of the variances that are too small to go on with."""
        return np.flatnonzero(D < LEAST * self.sd**2)

    @property
    def independent(self) -> float:
        """What is climbed, of independent features with the variances of the data."""
        loglik = independent_loglik(self.source)
        return loglik if self.prior is None else loglik - self.prior.penalty(self.sd**2)

    def over(self, source: Any, linear: bool | None = None) -> "LikelihoodSurface":
        """That of other data, in the same coordinates unless `linear` says which of D's."""
        linear = self.linear if linear is None else linear
        return LikelihoodSurface(source, self.tree, self.ranks, self.floor, self.sd, linear,
                                 self.prior)

    def parts(self, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Views of v: (n, R), (n,) and (n,), the last one empty where the mean is fixed."""
        a, b = self.cuts
        return v[:a].reshape(self.shape), v[a:b], v[b:]

    def evaluate(self, point: Point) -> "State":
        """The E-step at a point."""
        low = self.vanished(point.D)
        if low.size:
            raise VanishingVariance(low)
        covariance = MLR.from_compact(
            self.tree, self.ranks, point.F, point.D, copy=False, check_finite=False)
        return State(self, point, covariance, self.source.evaluate(covariance, point.mean))

    def unit(self, D: FloatArray) -> FloatArray | float:
        """The change of a variance's coordinate with log D."""
        return D / self.sd**2 if self.linear else 1.0

    def difference(self, a: Point, b: Point, v: FloatArray) -> None:
        """``v(a) - v(b)``."""
        F, D, mean = self.parts(v)
        kernels.vectors.difference(a.F, b.F, self.sd, F)
        D[:] = (a.D - b.D) / self.sd**2 if self.linear else np.log(a.D / b.D)
        if mean.size:
            mean[:] = (a.mean - b.mean) / self.sd

    def move(self, point: Point, d: FloatArray, share: float, out: Point) -> Point:
        """The point at ``v + share d``, D clipped at the floor, written to `out`."""
        F, D, mean = self.parts(d)
        kernels.vectors.step(point.F, F, share * self.sd, out.F)
        if self.linear:
            moved = point.D + share * self.sd**2 * D
        else:
            moved = point.D * np.exp(np.clip(share * D, -LARGEST, LARGEST))
        np.maximum(moved, self.floor, out=out.D)
        shifted = point.mean + share * self.sd * mean if mean.size else point.mean
        return Point(out.F, out.D, shifted)


class State:
    """A point whose likelihood is known, and what else follows from the E-step there."""

    def __init__(self, surface: LikelihoodSurface, point: Point, covariance: MLR, step: EStep):
        self.surface, self.point, self.covariance, self.step = surface, point, covariance, step
        self.loglik = step.loglik
        prior = surface.prior
        self.objective = step.loglik - (0.0 if prior is None else prior.penalty(point.D))
        self.image: Any = None
        self.raw: Point | None = None  # where EM goes without prior and floor

    def map(self, out: Point, keep: bool) -> None:
        """Take the M-step; the image of the EM map is written to the F and D of `out`.

        Given its new factors, the expected log-likelihood of a feature is unimodal in its variance,
        with a prior or without, so clipping at the floor is the exact constrained maximum and EM
        stays monotone.
        """
        surface = self.surface
        raw = self.raw = Point(*self.step.update((out.F, out.D), keep))
        D = raw.D if surface.prior is None else surface.prior.shrink(raw.D)
        self.image = raw._replace(D=np.maximum(D, surface.floor))

    @property
    def is_mapped(self) -> bool:
        """Whether the M-step has been taken."""
        return self.raw is not None

    def to(self, other: "State", out: FloatArray | None = None) -> FloatArray:
        """The step from here to another state, in the coordinates v."""
        step = np.empty(self.surface.size) if out is None else out
        self.surface.difference(other.point, self.point, step)
        return step

    def fall(self, other: "State", out: FloatArray) -> None:
        """By how much the gradient falls from here to another state."""
        np.subtract(self.gradient, other.gradient, out=out)

    @cached_property
    def gradient(self) -> FloatArray:
        """Derivatives of the objective by v; zero for a variance at the floor that would go lower.
        """
        surface, point = self.surface, self.point
        g = np.empty(surface.size)
        F, D, mean = surface.parts(g)
        raw: Any = self.raw
        _, dD, dmean = self.step.gradient(raw.F, raw.D, raw.mean, surface.sd, F)
        if surface.prior is not None:
            dD = dD + surface.prior.derivative(point.D)
        np.multiply(dD, surface.sd**2 if surface.linear else point.D, out=D)
        D[(point.D <= surface.floor) & (D < 0)] = 0
        if mean.size:
            mean[:] = dmean * surface.sd
        return g

    @property
    def held(self) -> BoolArray:
        """Variances that stay at the floor."""
        return (self.point.D <= self.surface.floor) & (self.surface.parts(self.gradient)[1] <= 0)

    @property
    def fades(self) -> bool:
        """Whether variances are on their way to the floor, where results list them."""
        D, surface = self.point.D, self.surface
        low = (D < LOW * surface.sd**2) & (D > surface.floor)
        return bool((surface.parts(self.gradient)[1][low] < 0).any())

    @property
    def gradient_norm(self) -> float:
        """Largest derivative of the objective by F, mean (in units of √D) and log D."""
        F, D, mean = self.surface.parts(self.gradient)
        unit = np.sqrt(self.point.D) / self.surface.sd
        largest = [np.abs(D * self.surface.unit(self.point.D)).max(),
                   kernels.vectors.largest(F, unit)]
        if mean.size:
            largest.append((np.abs(mean) * unit).max())
        return float(np.max(largest))

    def precondition(self) -> Callable[[FloatArray], FloatArray]:
        """EM's answer to a gradient, as a function; variances `held` at the floor stay there.

        EM answers as if the factors were seen: it takes D_i for what is unknown of feature i.  From
        data it is the partial variance, many times D_i where the factors explain much.  Steps in F
        and mean are longer by the ratio of the two, steps in D by its square, in log D by its power
        3/2; with EM's own, fits with variances near the floor took ten times the evaluations.
        """
        surface, D_here = self.surface, self.point.D
        ratio = self.covariance._rough_partial_variance() / D_here
        scale = ratio / surface.sd**2
        if surface.linear:
            twice = 2 * (ratio * D_here / surface.sd**2) ** 2
        else:
            twice = 2 * ratio**1.5
        twice[self.held] = 0

        def apply(q: FloatArray) -> FloatArray:
            F, D, mean = surface.parts(q)
            out = np.empty_like(q)
            oF, oD, omean = surface.parts(out)
            _, shift = self.step.precondition(F, mean, scale=scale, out=oF)
            np.multiply(D, twice, out=oD)
            if mean.size:
                omean[:] = shift
            return out

        return apply

    def information(self) -> Callable[[FloatArray], FloatArray]:
        """The expected information a sample in the coordinates v, linear in D, as a function.

        A feature that only a share of the samples shows has that share of it.
        """
        surface, sd, A = self.surface, self.surface.sd, self.covariance
        root = np.sqrt(surface.source.shares)
        known, unit_F, unit_D = A.information(), (root * sd)[:, None], root * sd**2
        more = 0.0 if surface.prior is None else surface.prior.information(self.point.D) * sd**4

        def apply(v: FloatArray) -> FloatArray:
            F, D, mean = surface.parts(v)
            out = np.empty_like(v)
            oF, oD, omean = surface.parts(out)
            dF, dD = known.times(unit_F * F, unit_D * D)
            np.multiply(dF, unit_F, out=oF)
            np.multiply(dD, unit_D, out=oD)
            oD += more * D
            if mean.size:
                omean[:] = unit_F[:, 0] * A.solve(unit_F[:, 0] * mean)
            return out

        return apply
