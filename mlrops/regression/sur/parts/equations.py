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

__all__ = ["Equations", "Metric", "Place", "Swept", "crown", "expanded", "factored", "first_place",
           "fitted_up", "metric", "noise_down", "noise_up", "normal_down", "residual_bench",
           "residual_up", "score_down", "sizes_of_cells", "step", "turned", "weighed"]


class Equations(NamedTuple):
    """A part of the equations where it is fitted."""

    bench: Bench  # its place in the tree and the coordinates of F and D, with no data
    system: StackedSystem  # in the order of the part


class Metric(NamedTuple):
    """What Σ is to a part."""

    part: Part
    K: FloatArray  # the factors of its nodes
    unit: FloatArray  # (P,) with which the normal matrix gets a diagonal of ones


class Swept(NamedTuple):
    """What a part keeps from a sweep up."""

    E: FloatArray  # (m, N) what went up
    W: FloatArray  # (s, N)


Up = tuple[Swept, Passed]  # beside what it passes


class Place(NamedTuple):
    """Where conjugate gradients are in a part; all (P,)."""

    x: FloatArray
    r: FloatArray
    p: FloatArray


# ---------------------------------------------------------------- Σ


def residual_bench(own: Equations, gamma: FloatArray) -> Bench:
    """The part of a factor model's data that the residuals are; their mean is fixed at 0."""
    system = own.system
    E = system.residuals(gamma).astype(float, copy=False)
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


def _up(of: Metric, E: FloatArray) -> Up:
    E = np.ascontiguousarray(E, of.part.F.dtype)
    W, passed = sweep(of.part, E, of.K)
    return Swept(E, W), passed


def weighed(of: Metric, up: Up, coarse: Coarse) -> FloatArray:
    """The part's rows (m, N) of ``Σ⁻¹ E``."""
    return rows(of.part, *up[0], coarse, of.K)


def _score(own: Equations, of: Metric, V: FloatArray) -> FloatArray:
    return of.unit * own.system.adjoint(V.astype(own.system.dtype, copy=False))


def residual_up(own: Equations, of: Metric, gamma: FloatArray) -> Up:
    """The sweep up of the residuals."""
    return _up(of, own.system.residuals(gamma))


def score_down(own: Equations, of: Metric, gamma: FloatArray, up: Up, coarse: Coarse
               ) -> tuple[FloatArray, FloatArray]:
    """The part's derivatives by the scaled γ; what it adds to the quadratic form and to ``‖r‖²``.
    """
    V, penalty = weighed(of, up, coarse), own.system.penalty
    pull = penalty * gamma
    score = _score(own, of, V) - of.unit * pull
    quad = float(np.einsum("kt,kt->", up[0].E, V)) + float(gamma @ pull)
    return score, np.array([quad, _square(score)])


def fitted_up(own: Equations, of: Metric, at: Place) -> Up:
    """The sweep up of what the direction p of the scaled γ fits."""
    return _up(of, own.system.fitted(of.unit * at.p))


def normal_down(own: Equations, of: Metric, at: Place, up: Up, coarse: Coarse
                ) -> tuple[FloatArray, float]:
    """The part's rows of ``M p``, M the scaled normal matrix, and its share of ``pᵀ M p``."""
    product = _score(own, of, weighed(of, up, coarse))
    product += of.unit * (own.system.penalty * (of.unit * at.p))
    return product, _dot(at.p, product)


# ---------------------------------------------------------------- conjugate gradients


def first_place(score: FloatArray) -> Place:
    """Where they begin."""
    return Place(np.zeros_like(score), score, score)


def step(at: Place, product: tuple[FloatArray, float], rho: float, curvature: float
         ) -> tuple[Place, float]:
    """x and r after a step along p, and the part's share of ``‖r‖²``."""
    alpha = at.x.dtype.type(rho / curvature if curvature > 0 else 0)
    r = at.r - alpha * product[0]
    return at._replace(x=at.x + alpha * at.p, r=r), _square(r)


def turned(moved: tuple[Place, float], squares: float, rho: float) -> Place:
    """The next direction, conjugate to those before it."""
    at, _ = moved
    return at._replace(p=at.r + at.r.dtype.type(squares / rho) * at.p)


def expanded(gamma: FloatArray, of: Metric, at: Place) -> FloatArray:
    """γ after the steps of the scaled one."""
    return gamma + of.unit * at.x


def _dot(x: FloatArray, y: FloatArray) -> float:
    return float(np.einsum("i,i->", x, y, dtype=np.float64))


def _square(x: FloatArray) -> float:
    return _dot(x, x)


# ---------------------------------------------------------------- rounding


def sizes_of_cells(of: Metric, V: FloatArray) -> FloatArray:
    """The part's share (N,) of ``Σ_k sd_k |V_kt|``."""
    return _sd(of.part) @ np.abs(V)


def noise_up(own: Equations, of: Metric, gamma: FloatArray, sizes: FloatArray) -> Up:
    """The sweep up of cells of the size that rounding moves, with signs at random."""
    Y, fitted = own.system.Y, own.system.fitted(gamma)
    cells = np.abs(Y) + np.abs(fitted) + _sd(of.part)[:, None] * sizes
    signs = np.random.default_rng([0, own.bench.number]).integers(0, 2, cells.shape) * 2 - 1
    return _up(of, signs * cells)


def noise_down(own: Equations, of: Metric, gamma: FloatArray, V: FloatArray, up: Up, coarse: Coarse
               ) -> FloatArray:
    """Shares of the squares of the three terms of rounding; see `_NormalEquations.rounding`."""
    system: Any = own.system
    score = _score(own, of, weighed(of, up, coarse))
    sums = of.unit * system.spread(np.linalg.norm(V, axis=1))
    return np.array([_square(score), _square(sums), _square(of.unit * system.penalty * gamma)])


def _sd(part: Part) -> FloatArray:
    return np.sqrt(part.D + np.einsum("ij,ij->i", part.F, part.F))
