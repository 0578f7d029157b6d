"""Monotone ascent of the log-likelihood: EM, or quasi-Newton jumps that fall back to EM."""

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
from .em import Mapped, Point
from .estep.protocol import Source
from .secant import SecantPairs

__all__ = ["LEAST", "Ascent", "LikelihoodSurface", "VanishingVariance", "independent_loglik"]

# Pairs of vectors that shape a jump: in trials more gained nothing, 3 cost a third more steps.
MEMORY = 5
# Shares of a jump that failed within which its second, interpolated try may lie.
SHORTER = 0.1, 0.6
# Largest change of log D in one jump.
LARGEST = 10.0
# Share of a feature's variance below which D is not followed: rounding of the data, of the size of
# eps, moves derivatives in units of √D by eps / √LEAST or more.
LEAST = 1e3 * np.finfo(float).eps


class VanishingVariance(np.linalg.LinAlgError):
    """Entries of D go to zero, where no floor holds them."""

    def __init__(self, place: IntArray):
        self.place = place  # in tree order
        super().__init__("variances go to zero")

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
    """The log-likelihood of a model and its EM map, in coordinates that units do not matter for.

    They are ``v = (F / sd, log D, mean / sd)``, sd the features' standard deviations.  The mean is
    part of v only where EM updates it.
    """

    def __init__(self, source: Any, tree: Hierarchy, ranks: tuple[int, ...], floor: FloatArray,
                 sd: FloatArray | None = None):
        self.source, self.tree, self.ranks, self.floor = source, tree, ranks, floor
        self.sd: FloatArray = np.sqrt(source.variance) if sd is None else sd
        n, R = tree.n, sum(ranks)
        self.shape, self.cuts = (n, R), (n * R, n * R + n)
        self.size = n * R + n + n * source.mean_is_free

    def over(self, source: Any) -> "LikelihoodSurface":
        """The log-likelihood of other data in the same coordinates."""
        return LikelihoodSurface(source, self.tree, self.ranks, self.floor, self.sd)

    def parts(self, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Views of v: (n, R), (n,) and (n,), the last one empty where the mean is fixed."""
        F, D, mean = np.split(v, self.cuts)
        return F.reshape(self.shape), D, mean

    def evaluate(self, point: Point, out: Point, keep: bool) -> Mapped:
        """The EM map at a point; its image is written to the F and D of `out`.

        Given its new factors, the expected log-likelihood of a feature is unimodal in its variance,
        so clipping at the floor is the exact constrained maximum and EM stays monotone.
        """
        low = np.flatnonzero(point.D < LEAST * self.sd**2)
        if low.size:
            raise VanishingVariance(low)
        covariance = MLR.from_compact(
            self.tree, self.ranks, point.F, point.D, copy=False, check_finite=False)
        step = self.source.evaluate(covariance, point.mean)
        raw = Point(*step.update((out.F, out.D), keep))
        return Mapped(step.loglik, covariance, raw._replace(D=np.maximum(raw.D, self.floor)), raw,
                      step)

    def difference(self, a: Point, b: Point, v: FloatArray) -> None:
        """``v(a) - v(b)``."""
        F, D, mean = self.parts(v)
        kernels.vectors.difference(a.F, b.F, self.sd, F)
        np.log(a.D / b.D, out=D)
        if mean.size:
            mean[:] = (a.mean - b.mean) / self.sd

    def gradient(self, point: Point, mapped: Mapped) -> FloatArray:
        """Derivatives by v; zero for a variance at the floor that would go lower."""
        g = np.empty(self.size)
        F, D, mean = self.parts(g)
        _, dD, dmean = mapped.step.gradient(*mapped.raw, scale=self.sd, out=F)
        np.multiply(dD, point.D, out=D)
        D[(point.D <= self.floor) & (D < 0)] = 0
        if mean.size:
            mean[:] = dmean * self.sd
        return g

    def precondition(self, point: Point, mapped: Mapped, held: BoolArray
                    ) -> Callable[[FloatArray], FloatArray]:
        """EM's answer to a gradient, as a function; variances `held` at the floor stay there.

        EM answers as if the factors were seen: it takes D_i for what is unknown of feature i.  From
        data it is the partial variance, many times D_i where the factors explain much.  Steps in F
        and mean are longer by the ratio of the two, steps in log D by its power 3/2; with EM's own,
        fits with variances near the floor took ten times the evaluations.
        """
        ratio = mapped.covariance._rough_partial_variance() / point.D
        twice = 2 * ratio**1.5
        twice[held] = 0
        scale = ratio / self.sd**2

        def apply(q: FloatArray) -> FloatArray:
            F, D, mean = self.parts(q)
            out = np.empty_like(q)
            oF, oD, omean = self.parts(out)
            _, shift = mapped.step.precondition(F, mean, scale=scale, out=oF)
            np.multiply(D, twice, out=oD)
            if mean.size:
                omean[:] = shift
            return out

        return apply

    def move(self, point: Point, d: FloatArray, share: float, out: Point) -> Point:
        """The point at ``v + share d``, D clipped at the floor, written to `out`."""
        F, D, mean = self.parts(d)
        kernels.vectors.step(point.F, F, share * self.sd, out.F)
        growth = np.exp(np.clip(share * D, -LARGEST, LARGEST))
        np.maximum(point.D * growth, self.floor, out=out.D)
        shifted = point.mean + share * self.sd * mean if mean.size else point.mean
        return Point(out.F, out.D, shifted)


class State:
    """A point whose EM map has been evaluated."""

    def __init__(self, surface: LikelihoodSurface, point: Point, mapped: Mapped):
        self.point, self.mapped, self.loglik = point, mapped, mapped.loglik
        self._surface = surface

    @cached_property
    def gradient(self) -> FloatArray:
        return self._surface.gradient(self.point, self.mapped)

    @property
    def gradient_norm(self) -> float:
        """Largest derivative of `loglik` by F, mean (in units of √D) and log D."""
        F, D, mean = self._surface.parts(self.gradient)
        unit = np.sqrt(self.point.D) / self._surface.sd
        largest = [np.abs(D).max(), kernels.vectors.largest(F, unit)]
        if mean.size:
            largest.append((np.abs(mean) * unit).max())
        return float(np.max(largest))


class Ascent:
    """Steps uphill from a first point; `state` is always the best point so far.

    A jump goes along the quasi-Newton direction whose rough inverse Hessian is EM's own answer to a
    gradient.  Where it would let the log-likelihood fall, it is tried once more where the slopes at
    its ends say that the maximum is; failing that, the plain EM step is taken, which cannot fall,
    and the pairs are forgotten.  Without `accelerate` all steps are plain EM steps.  `pairs` are
    curvature that an earlier ascent has seen.
    """

    def __init__(self, surface: LikelihoodSurface, first: Point, accelerate: bool = True,
                 pairs: SecantPairs | None = None):
        self.surface, self.accelerate = surface, accelerate
        if pairs is None:
            pairs = SecantPairs(MEMORY if accelerate else 0, surface.size)
        self.pairs = pairs
        self.n_evaluations, self.exhausted = 0, False
        self._free = [Point.empty_like(first) for _ in range(3 if accelerate else 2)]
        self.state = self._evaluate(first)

    def _evaluate(self, point: Point) -> State:
        out = self._free.pop()
        mapped = self.surface.evaluate(point, out, self.accelerate)
        self.n_evaluations += 1
        return State(self.surface, point, mapped)

    def _accept(self, state: State) -> None:
        """Go to a state; the buffers of the old one that it does not live in are free again."""
        old, self.state = self.state, state
        self._free += [p for p in (old.point, old.mapped.image) if p.F is not state.point.F]

    def _discard(self, state: State) -> None:
        self._free += [p for p in (state.point, state.mapped.image)
                       if p.F is not self.state.mapped.image.F]

    def advance(self) -> bool:
        """Take one step; False when not even EM's own step gains anything in this precision."""
        if len(self.pairs) and self._jump():
            return True
        trial = self._evaluate(self.state.mapped.image)
        if not math.isfinite(trial.loglik):
            raise FloatingPointError(
                f"the log-likelihood is {trial.loglik} after {self.n_evaluations} evaluations of"
                f" the EM map; the data's scale may be out of range")
        if trial.loglik < self.state.loglik:
            self._discard(trial)
            self.exhausted = True
            return False
        if self.accelerate:
            self._learn(trial)
        self._accept(trial)
        return True

    def _learn(self, trial: State) -> None:
        """Take the pair from the present state to another one."""
        s, y = self.pairs.free
        self.surface.difference(trial.point, self.state.point, s)
        np.subtract(self.state.gradient, trial.gradient, out=y)
        self.pairs.add()

    def _jump(self) -> bool:
        """Try a quasi-Newton step and a shorter one."""
        here, surface = self.state, self.surface
        g = here.gradient
        held = (here.point.D <= surface.floor) & (surface.parts(g)[1] <= 0)
        d = self.pairs.direction(g, surface.precondition(here.point, here.mapped, held))
        slope = float(d @ g)
        share = 1.0
        for last in (False, True):
            if not slope > 0:
                break
            buffer = self._free.pop()
            trial = self._try(surface.move(here.point, d, share, buffer))
            if trial is None:
                break
            self._learn(trial)
            if trial.loglik >= here.loglik:
                self._accept(trial)
                return True
            if not last:
                share = _shorter(slope, float(d @ trial.gradient))
            self._discard(trial)
        self.pairs.clear()
        return False

    def _try(self, point: Point) -> State | None:
        """The state at a point of a jump, None where the model cannot be evaluated."""
        free = list(self._free)
        try:
            trial = self._evaluate(point)
        except np.linalg.LinAlgError:
            self.n_evaluations += 1
            self._free = [*free, point]
            return None
        if not math.isfinite(trial.loglik):
            self._discard(trial)
            return None
        return trial


def _shorter(slope: float, end_slope: float) -> float:
    """Where the line through the slopes at 0 and 1 is zero, within SHORTER.

    Slopes are known to rounding, also where two log-likelihoods differ by little else.
    """
    share = slope / (slope - end_slope) if end_slope < 0 else 0.3
    return min(max(share, SHORTER[0]), SHORTER[1])
