"""A part of the equations of a system: what a worker computes for it.

Products with the normal matrix go like E-steps: fitted values of the part are swept up, what all
parts pass goes through the levels of the tree above them, and what these send down ends in the
part's own rows of ``Σ⁻¹ V``, whose products with the regressors are a matter of the part.
"""

from typing import Any, NamedTuple

import numpy as np

from ...._common.typing import FloatArray
from ....factor.estep.columns import Bench
from ....factor.estep.complete import CompleteData
from ....factor.point import Point
from ....operators.part_posterior import crown_covariances, partial_variance
from ....operators.part_sweeps import crown_factor, factor, rows, sweep
from ....operators.parts import Coarse, Part, Passed
from ..system import StackedSystem

__all__ = ["Equations", "Metric", "Place", "crown", "expanded", "factored", "first_place",
           "fitted_up", "metric", "noise", "noise_down", "normal_down", "residual_bench",
           "residuals", "score_down", "sizes_of_cells", "up", "weighed"]


class Equations(NamedTuple):
    """A part of the equations where it is fitted."""

    bench: Bench  # its place in the tree and the coordinates of F and D, with no data
    system: StackedSystem  # in the order of the part


class Metric(NamedTuple):
    """What Σ is to a part."""

    part: Part
    K: FloatArray  # the factors of its nodes
    unit: FloatArray  # (P,) with which the normal matrix gets a diagonal of ones


Up = tuple[FloatArray, Passed]  # rows (s, N) of a sweep up, and what it passes


class Place(NamedTuple):
    """Where conjugate gradients are in a part; all (P,)."""

    x: FloatArray
    r: FloatArray
    p: FloatArray
    product: FloatArray  # of the scaled normal matrix with p

    def moved(self, alpha: float, beta: float) -> "Place":
        """After a step alpha along p, the next direction being conjugate to those before it."""
        a, b = (self.x.dtype.type(share) for share in (alpha, beta))
        r = self.r - a * self.product
        return Place(self.x + a * self.p, r, r + b * self.p, self.product)


# ---------------------------------------------------------------- Σ


def residuals(own: Equations, gamma: FloatArray) -> FloatArray:
    """What coefficients leave of the data, (m, N)."""
    return own.system.residuals(gamma)


def residual_bench(own: Equations, E: FloatArray) -> Bench:
    """The part of a factor model's data that the residuals are; their mean is fixed at 0."""
    system, E = own.system, E.astype(float, copy=False)
    data = CompleteData(E, np.einsum("kt,kt->k", E, E), np.zeros(system.K), system.N,
                        float(system.N), dtype=system.dtype)
    return own.bench._replace(surface=own.bench.surface.over(data))


def factored(own: Equations, point: Point) -> tuple[tuple[Part, FloatArray], Passed]:
    """The part of Σ and the factors of its nodes, and what it passes."""
    part = own.bench.at(point)
    K, passed = factor(part)
    return (part, K), passed


def crown(layout: Any, passed: Passed) -> tuple[FloatArray, FloatArray]:
    """The factors of the nodes above, and the covariances of their factors given data."""
    K, _ = crown_factor(layout, passed)
    return K, crown_covariances(layout, K)


def metric(own: Equations, found: tuple[tuple[Part, FloatArray], Passed], covariances: FloatArray
           ) -> Metric:
    """What Σ is to the part, from the covariances at its parents."""
    (part, K), system = found[0], own.system
    diagonal = system.spread(1 / partial_variance(part, K, covariances)) + system.penalty
    return Metric(part, K, (1 / np.sqrt(diagonal)).astype(system.dtype))


# ---------------------------------------------------------------- the normal equations


def up(of: Metric, E: FloatArray) -> Up:
    """The sweep up of E (m, N)."""
    return sweep(of.part, np.ascontiguousarray(E, of.part.F.dtype), of.K)


def weighed(of: Metric, E: FloatArray, swept: Up, coarse: Coarse) -> FloatArray:
    """The part's rows (m, N) of ``Σ⁻¹ E``."""
    E = np.ascontiguousarray(E, of.part.F.dtype)
    return rows(of.part, E, swept[0], coarse, of.K)


def _score(own: Equations, of: Metric, V: FloatArray) -> FloatArray:
    return of.unit * own.system.adjoint(V.astype(own.system.dtype, copy=False))


def score_down(own: Equations, of: Metric, gamma: FloatArray, E: FloatArray, swept: Up,
               coarse: Coarse) -> tuple[FloatArray, FloatArray]:
    """The part's derivatives by the scaled γ; what it adds to the quadratic form and to ``‖r‖²``.
    """
    V, penalty = weighed(of, E, swept, coarse), own.system.penalty
    pull = penalty * gamma
    score = _score(own, of, V) - of.unit * pull
    quad = float(np.einsum("kt,kt->", E, V)) + float(gamma @ pull)
    return score, np.array([quad, _square(score)])


def fitted_up(own: Equations, of: Metric, before: tuple[Place, Any], alpha: float, beta: float
              ) -> tuple[tuple[Place, FloatArray, FloatArray], Passed]:
    """The next place, and the sweep up of what its direction p of the scaled γ fits."""
    at = before[0].moved(alpha, beta)
    E = own.system.fitted(of.unit * at.p)
    W, passed = up(of, E)
    return (at, E, W), passed


def normal_down(own: Equations, of: Metric,
                swept: tuple[tuple[Place, FloatArray, FloatArray], Passed], coarse: Coarse
                ) -> tuple[Place, FloatArray]:
    """The place with ``M p``, M the scaled normal matrix; the part's share of products.

    These are ``pᵀ M p``, ``rᵀ M p``, ``‖M p‖²`` and ``‖r‖²``: all that the next step hangs on.
    """
    (at, E, W), passed = swept
    product = _score(own, of, weighed(of, E, (W, passed), coarse))
    product += of.unit * (own.system.penalty * (of.unit * at.p))
    return at._replace(product=product), np.array([
        _dot(at.p, product), _dot(at.r, product), _square(product), _square(at.r)])


# ---------------------------------------------------------------- conjugate gradients


def first_place(score: FloatArray) -> tuple[Place, None]:
    """Where they begin."""
    nothing = np.zeros_like(score)
    return Place(nothing, score, nothing, nothing), None


def expanded(gamma: FloatArray, of: Metric, before: tuple[Place, Any], alpha: float) -> FloatArray:
    """γ after the steps of the scaled one, the last of which is still to be taken."""
    return gamma + of.unit * before[0].moved(alpha, 0).x


def _dot(x: FloatArray, y: FloatArray) -> float:
    return float(np.einsum("i,i->", x, y, dtype=np.float64))


def _square(x: FloatArray) -> float:
    return _dot(x, x)


# ---------------------------------------------------------------- rounding


def sizes_of_cells(of: Metric, V: FloatArray) -> FloatArray:
    """The part's share (N,) of ``Σ_k sd_k |V_kt|``."""
    return _sd(of.part) @ np.abs(V)


def noise(own: Equations, of: Metric, E: FloatArray, sizes: FloatArray) -> FloatArray:
    """Cells (m, N) of the size that rounding moves, with signs at random."""
    Y = own.system.Y
    cells = np.abs(Y) + np.abs(Y - E) + _sd(of.part)[:, None] * sizes
    signs = np.random.default_rng([0, own.bench.number]).integers(0, 2, cells.shape) * 2 - 1
    return signs * cells


def noise_down(own: Equations, of: Metric, gamma: FloatArray, V: FloatArray, cells: FloatArray,
               swept: Up, coarse: Coarse) -> FloatArray:
    """Shares of the squares of the three terms of rounding; see `_NormalEquations.rounding`."""
    system: Any = own.system
    score = _score(own, of, weighed(of, cells, swept, coarse))
    sums = of.unit * system.spread(np.linalg.norm(V, axis=1))
    return np.array([_square(score), _square(sums), _square(of.unit * system.penalty * gamma)])


def _sd(part: Part) -> FloatArray:
    return np.sqrt(part.D + np.einsum("ij,ij->i", part.F, part.F))
