"""Features in chunks of columns: what a worker computes for its part of F, D and the data.

A part is a run of features in tree order, whole groups of one level of the tree.  Its E-step begins
with a sweep up, what all parts pass goes through the levels above them, and what these send down
ends it: then the M-step, derivatives and EM's answer to them are matters of the part's own rows, by
the `State` and the coordinates that a fit on one machine has.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import kernels
from ..._common.typing import BoolArray, FloatArray
from ...operators.part_posterior import PartPosterior, precondition
from ...operators.part_sweeps import alone
from ...operators.parts import Coarse, Part, Passed, Swept, sweep_up
from ...tree.hierarchy import Hierarchy
from ..likelihood import LikelihoodSurface, State, VanishingVariance
from ..point import Point
from .complete import CompleteData
from .protocol import Filled, Maybe, Moved

__all__ = ["Bench", "Facts", "Found", "alone", "combined", "difference", "dots", "down", "fall",
           "moved", "preconditioned", "up"]


class Bench(NamedTuple):
    """A part of the features where it is fitted: its place in the tree, and its data."""

    number: int
    part: Part  # whose F and D are of no use
    first: int  # the place of its first feature
    tree: Hierarchy  # of the part alone
    usable: BoolArray  # (leaves, R) columns of the factors that groups can use
    surface: LikelihoodSurface
    digest: str = ""  # of the data as they came, where it was asked for

    @property
    def data(self) -> CompleteData:
        return self.surface.source

    def at(self, point: Point) -> Part:
        """The part of the covariance at a point."""
        return self.part._replace(F=point.F, D=point.D)

    def used(self, F: FloatArray) -> FloatArray:
        """F with zeros in the columns that groups have no use for."""
        return np.where(np.repeat(self.usable, self.part.layout.sizes, axis=0), F, 0)


class Found(NamedTuple):
    """What a state keeps of a part: nothing of the data."""

    image: Point  # of the EM map
    gradient: Maybe = None  # the rest only where the next step asks for it
    inverses: Maybe = None  # (leaves, R, R) of the second moments
    partial: Maybe = None  # (m,) partial variances


class Facts(NamedTuple):
    """Numbers of a part, or of all parts together."""

    penalty: float
    gradient_norm: float
    fades: bool

    def merged(self, other: "Facts") -> "Facts":
        return Facts(self.penalty + other.penalty,
                     float(np.maximum(self.gradient_norm, other.gradient_norm)),
                     self.fades or other.fades)


class PartStep:
    """The E-step of a part as an `EStep`, whose likelihood the levels above know."""

    loglik = 0.0

    def __init__(self, bench: Bench, posterior: Any, inverses: Any = None):
        self.bench, self.posterior, self.inverses = bench, posterior, inverses

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step."""
        data, arrays = self.bench.data, out or (np.empty(0), np.empty(0))
        F, D = self.posterior.regress(data.sums_of_squares, data.weight, arrays, keep)
        if keep and F.shape[1]:
            self.inverses = self.posterior.moments[1]
        return F, D, data.mean

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by F and D; the mean is fixed."""
        wanted = np.empty_like(F) if out is None else out
        unit = np.ones_like(D) if scale is None else scale
        dF, dD = self.posterior.gradient(F, D, self.bench.data.weight, unit, wanted)
        return dF, dD, np.zeros_like(mean)

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """EM's answer to a gradient by F; ``posterior.part`` has the D of the state."""
        part = self.posterior.part
        unit = part.D if scale is None else part.D * scale
        moved = np.empty_like(dF) if out is None else out
        return precondition(dF, unit, self.inverses, self.bench.data.weight, part.layout,
                            moved), dmean


class _Known(NamedTuple):
    """What remains of a posterior."""

    part: Part
    partial_variance: Maybe

    def _rough_partial_variance(self):
        return self.partial_variance


# ---------------------------------------------------------------- the E-step in two halves


def up(bench: Bench, point: Point) -> tuple[Swept, Passed]:
    """The sweep up: what the part keeps, and what it passes."""
    low = bench.surface.vanished(point.D)
    if low.size:
        raise VanishingVariance(low + bench.first)
    data = bench.data
    swept, passed = sweep_up(bench.at(point), data.X, data.sums_of_squares)
    return swept._replace(b=np.empty((0, 0))), passed


def down(bench: Bench, point: Point, swept: tuple[Swept, Passed], coarse: Coarse, keep: bool
         ) -> tuple[Found, Facts]:
    """The rest of the E-step after `up`, and the M-step.

    With `keep` it gives what quasi-Newton steps ask for.
    """
    posterior = PartPosterior(bench.at(point), swept[0], coarse, bench.data.X)
    step = PartStep(bench, posterior)
    nowhere: Any = None  # one machine has the whole covariance
    state = State(bench.surface, point, nowhere, step)
    state.map(Point.empty_like(point), keep)
    penalty = -state.objective
    if not keep:
        return Found(state.image), Facts(penalty, np.nan, False)
    found = Found(state.image, state.gradient, step.inverses, posterior.partial_variance)
    return found, Facts(penalty, state.gradient_norm, state.fades)


def _state(bench: Bench, point: Point, found: Found) -> State:
    """The state of a part as it was."""
    known: Any = _Known(bench.at(point), found.partial)
    state = State(bench.surface, point, known, PartStep(bench, known, found.inverses))
    vars(state)["gradient"] = found.gradient
    return state


# ---------------------------------------------------------------- vectors


def preconditioned(bench: Bench, point: Point, found: tuple[Found, Facts], q: FloatArray
                   ) -> FloatArray:
    """EM's answer to the part of a gradient."""
    return _state(bench, point, found[0]).precondition()(q)


def moved(bench: Bench, point: Point, d: FloatArray, share: float) -> Point:
    """The part of the point at ``v + share d``."""
    return bench.surface.move(point, d, share, Point.empty_like(point))


def difference(bench: Bench, a: Point, b: Point) -> FloatArray:
    """``v(a) - v(b)``."""
    out = np.empty(bench.surface.size)
    bench.surface.difference(a, b, out)
    return out


def fall(a: FloatArray, b: FloatArray) -> FloatArray:
    """By how much b is below a."""
    return a - b


def dots(x: FloatArray, *rows: FloatArray) -> FloatArray:
    """The inner products of rows with x, one at a time: they lie in memory apart."""
    return np.concatenate([kernels.vectors.dots(row[None], x) for row in rows])


def combined(x: FloatArray, c: Sequence[float], *rows: FloatArray) -> FloatArray:
    """``x + Σ c row``."""
    out = x.copy()
    for share, row in zip(c, rows, strict=True):
        kernels.vectors.combine(np.array([share]), row[None], out)
    return out
