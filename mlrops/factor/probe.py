"""Second derivatives of what a fit climbs, along directions: by the information, by differences.

A direction d stands beside ``q = M d``, M what EM divides a gradient by.  Rotations of the factors
change nothing, so directions are orthogonal to them in the metric M: ``qᵀ t = 0`` for all t along
which factors rotate.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .._common.cached import cached_property
from .._common.typing import BoolArray, FloatArray
from .likelihood import LikelihoodSurface, State
from .point import Point
from .reopened import derivatives
from .scoring import scoring_step
from .usable import tops_of, usable_columns

__all__ = ["Probe", "Ritz"]

# Largest change, in the units of `Probe.size`, over which differences are taken: errors of second
# derivatives are of the size of its square, and of rounding over it.
STEP = 1e-3
# Variances that are a smaller share of the partial ones are left alone: differences would take them
# below zero.
LOW = 1e-2
# Conjugate gradients for the step to the maximum of the quadratic that the information gives.
PRODUCTS, RATIO = 200, 1e-2
# How often it is sought again because it led variances below the floor.
ROUNDS = 4
# Lanczos' method ends where a new direction is this share of the matrix: there are no others, but
# what rounding and differences leave.
EXHAUSTED = 1e-5

Matrix = Callable[[FloatArray], FloatArray]


class Ritz(NamedTuple):
    """Curvatures relative to M, ascending, and the directions that have them."""

    values: FloatArray  # (k,)
    directions: FloatArray  # (k, size)


class Probe:
    """Looks around a state, in the coordinates of its surface, which are linear in D.

    Variances at the floor that would go lower are held.  ``zero`` (n, R) marks loadings of columns
    that are zero, for which the information is zero whatever the curvature: the step to the maximum
    leaves them alone.
    """

    def __init__(self, state: State, rng: np.random.Generator, zero: BoolArray | None = None):
        surface = state.surface
        self.state, self.rng, self._zero = state, rng, zero
        self.free = LikelihoodSurface(
            surface.source, surface.tree, surface.ranks, np.zeros_like(surface.floor), surface.sd,
            surface.linear, surface.prior)
        self.information, self._em = state.information(), state.precondition()
        # What the others leave unknown of a feature: on its scale the likelihood is smooth.
        partial = np.minimum(state.covariance._rough_partial_variance(), surface.sd**2)
        self._unit = np.sqrt(partial) / surface.sd
        self._still = state.point.D < LOW * partial
        self._axes = list(_axes_of_rotations(surface, state.point))
        self._used = usable_columns(surface.tree, surface.ranks)

    @cached_property
    def freely(self) -> State:
        """The state where no floor holds a variance."""
        return derivatives(self.free, self.state.point)

    def size(self, d: FloatArray) -> float:
        """Largest change along d of a loading, a mean or a variance.

        Its unit is the feature's partial standard deviation, for D its square.
        """
        F, D, mean = self.state.surface.parts(d)
        return float(max(np.abs(F / self._unit[:, None]).max(initial=0),
                         np.abs(D / self._unit**2).max(),
                         np.abs(mean / self._unit[: mean.size]).max(initial=0)))

    @cached_property
    def step(self) -> FloatArray:
        """To the maximum of the quadratic that the information gives, D at or above the floor.

        Variances that the quadratic would have below the floor are left where they are.
        """
        surface, D = self.state.surface, self.state.point.D
        low = np.zeros(D.size, bool)
        for _ in range(ROUNDS):
            d = self._maximum(low)
            below = D + surface.sd**2 * surface.parts(d)[1] < surface.floor
            if not below.any():
                return d
            low |= below
        return self._maximum(low)

    def _maximum(self, low: BoolArray) -> FloatArray:
        """The step to the maximum of the quadratic, some variances left where they are."""
        def admitted(q: FloatArray) -> FloatArray:
            q = self._admitted(q, self._zero)
            self.state.surface.parts(q)[1][low] = 0
            return q

        return scoring_step(lambda d: admitted(self.information(d)), self._em,
                            admitted(self.state.gradient), most=PRODUCTS, ratio=RATIO)

    @cached_property
    def expected_gain(self) -> float:
        """What is expected of the objective a sample at the top of the line along the step.

        The quadratic's own figure, unless the line is more curved by differences: of small columns
        the information knows no curvature.
        """
        slope = float(self.state.gradient @ self.step)
        if not slope > 0:
            return 0.0
        d = self.admissible(self.step)
        curvature = float(d @ self.hessian(d)) if d.any() else 0.0
        return 0.5 * slope * min(1.0, slope / curvature if curvature > 0 else 1.0)

    def admissible(self, d: FloatArray) -> FloatArray:
        """d without the variances that are to be left alone."""
        d = d.copy()
        self.state.surface.parts(d)[1][self._still] = 0
        return d

    def _answer(self, q: FloatArray) -> FloatArray:
        return self.admissible(self._em(q))

    def hessian(self, d: FloatArray) -> FloatArray:
        """Minus the second derivatives along d, by central differences of the gradient."""
        share = STEP / max(self.size(d), np.finfo(float).tiny)
        up, down = (derivatives(self.free, self.moved(self.free, d, s)).gradient
                    for s in (share, -share))
        return (down - up) / (2 * share)

    def moved(self, surface: LikelihoodSurface, d: FloatArray, share: float) -> Point:
        """The point at ``v + share d``."""
        point = self.state.point
        return surface.move(point, d, share, Point.empty_like(point))

    def random(self) -> FloatArray:
        """A random direction."""
        return self._answer(self._admitted(self._noise()))

    def extremes(self, matrix: Matrix, steps: int, without: BoolArray | None = None) -> Ritz:
        """Curvatures of a matrix by so many steps of Lanczos' method, preconditioned by M.

        ``without`` (n, R) marks loadings that directions leave alone.
        """
        w = self._admitted(self._noise(), without)
        Q: list[FloatArray] = []
        X: list[FloatArray] = []
        T = np.zeros((steps, steps))
        while len(X) < steps:
            d = self._answer(w)
            norm = math.sqrt(max(float(w @ d), 0.0))
            if not norm > EXHAUSTED * np.abs(T).max(initial=0):
                break
            X.append(d / norm)
            Q.append(w / norm)
            w = self._admitted(matrix(X[-1]), without)
            for _ in range(2):  # once more for what rounding left
                c = np.array([x @ w for x in X])
                T[: len(X), len(X) - 1] += c
                for share, q in zip(c, Q, strict=True):
                    w -= share * q
            w = self._admitted(w, without)
        k = len(X)
        T = np.triu(T[:k, :k])
        values, V = np.linalg.eigh(T + np.triu(T, 1).T)
        return Ritz(values, V.T @ np.array(X) if X else np.empty((0, w.size)))

    def _noise(self) -> FloatArray:
        """Random numbers with the units of a gradient."""
        z = self.rng.standard_normal(self.state.surface.size)
        F, D, mean = self.state.surface.parts(z)
        F /= self._unit[:, None]
        D /= self._unit**2
        if mean.size:
            mean /= self._unit
        return z

    def _admitted(self, q: FloatArray, without: BoolArray | None = None) -> FloatArray:
        """q without what would rotate factors, or move loadings that are of no use."""
        q = q.copy()
        F, D, _ = self.state.surface.parts(q)
        F[~self._used] = 0
        D[self.state.held] = 0
        for rows, columns, X, V, sums in self._axes:
            block = F[rows[:, :, None], columns]
            turn = np.matmul(X.swapaxes(1, 2), block)
            turn = np.matmul(np.matmul(V.swapaxes(1, 2), turn - turn.swapaxes(1, 2)), V) / sums
            turn = np.matmul(np.matmul(V, turn), V.swapaxes(1, 2))
            F[rows[:, :, None], columns] = block - np.matmul(X, turn)
        if without is not None:
            F[without] = 0
        return q


class _Axes(NamedTuple):
    """Groups of one size, and what finds rotations of their factors in a gradient."""

    rows: np.ndarray  # (groups, features)
    columns: np.ndarray
    X: FloatArray  # their loadings
    V: FloatArray  # axes of XᵀX
    sums: FloatArray  # of each two of its eigenvalues


def _axes_of_rotations(surface: LikelihoodSurface, point: Point) -> Iterator[_Axes]:
    """The groups whose factors can rotate: at all the levels together at which they stand."""
    tree, ends = surface.tree, np.cumsum([0, *surface.ranks])
    scaled = point.F / surface.sd[:, None]
    for level, top in enumerate(tops_of(tree)):
        for rows in tree._equal_groups(level):
            tops = top[np.searchsorted(tree.boundaries[level], rows[:, 0])]
            for first in np.unique(tops):
                columns, here = np.arange(ends[first], ends[level + 1]), rows[tops == first]
                if columns.size < 2:
                    continue
                X = scaled[here[:, :, None], columns]
                values, V = np.linalg.eigh(np.matmul(X.swapaxes(1, 2), X))
                values = np.maximum(values, 0)
                sums = values[:, :, None] + values[:, None, :]
                sums[sums <= 1e-14 * values.max(axis=1)[:, None, None]] = np.inf
                yield _Axes(here, columns, X, V, sums)
