"""The β-step: generalized least squares for all coefficients of a stacked system, given Σ."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from ..._common.typing import FloatArray
from ...operators.base import StructuredOperator
from ...operators.iterations import cg_of_one
from .system import StackedSystem, inverse_diagonal

__all__ = ["RTOL", "SOLVERS", "BetaStep", "Evaluation", "beta_step", "descend"]

SOLVERS = "cg", "lsmr"
# A round solves for what the true residual of the round before says is left; each takes off RTOL.
ROUNDS, RTOL = 6, 1e-10
# Where the residual falls, the quadratic form, a sum of products with Σ⁻¹, may rise by rounding.
SLACK = 1000
# A residual this many times as large as rounding explains is more than rounding.
ROUNDING = 100


class BetaStep(NamedTuple):
    """Where a β-step went."""

    gamma: Any  # (P,), or parts of it on workers
    residuals: Any  # (K, N), or parts
    quad: float  # Σ_t e_tᵀ Σ⁻¹ e_t, and the penalty of a ridge
    norm: float  # of the normal equations' residual
    first_norm: float  # the same for the γ that came in
    n_iter: int  # iterations of CG or LSMR
    end: str  # "target", "rounding" (of what the residual is made of), "max_iter" or "stalled"

    @property
    def is_short(self) -> bool:
        """Whether less was reached than the target, or than rounding allows."""
        return self.end in ("max_iter", "stalled")


class Evaluation(NamedTuple):
    """Coefficients, and what they leave of the data and of the normal equations."""

    gamma: Any  # an array, or parts of it on workers
    residuals: Any
    quad: float
    score: Any  # along the directions that constraints allow
    size: float  # its length


def beta_step(system: StackedSystem, covariance: StructuredOperator, gamma: FloatArray,
              target: float, solver: str = "cg", maxiter: int = 1000) -> BetaStep:
    r"""Solve the normal equations ``Xᵀ(I⊗Σ⁻¹)(y - Xβ) = 0`` from a first γ (P,).

    With constraints ``Cᵀγ = q``, which the first γ must satisfy, the unknowns are coordinates v on
    an orthonormal basis Z of the directions that they allow, and only the part ``Zᵀr`` of the
    residual must vanish.  In these coordinates the normal matrix is positive definite; projected on
    those directions in the space of γ it would be singular, and rounding in the parts of r that
    constraints hold, which may be many times as large as the others, would never leave it.

    It stops where the residual is no larger than `target`, the 2-norm of the derivatives of the
    average log-likelihood a row by the coefficients of orthogonal regressors of mean square 1, in
    units of the equations' partial standard deviations; 0 goes to what rounding of the data, of the
    solve with Σ and of the products leaves of it.  `maxiter` caps the iterations on the normal
    operator ("cg", a round takes no more than there are free coefficients) or on the whitened
    stacked one ("lsmr").  Where the quadratic form could not be lowered, the γ that came in stays.
    """
    return descend(_NormalEquations(system, covariance, solver), gamma, target, maxiter)


def descend(equations: Any, gamma: Any, target: float, maxiter: int) -> BetaStep:
    """`beta_step` for normal equations in memory, or in parts on the workers of a cluster."""
    here, used, root = equations.evaluate(gamma), 0, math.sqrt(equations.N)
    goal, first_norm = target * root, here.size / root
    noise = equations.rounding(here) if goal < equations.rtol * here.size else None
    enough = max(goal, noise or 0.0)
    eps = equations.eps
    for _ in range(ROUNDS):
        if here.size <= enough or used >= maxiter:
            break
        closer, n = equations.closer(here, enough / 2, maxiter - used)
        used += n
        trial = equations.evaluate(closer)
        # CG lowers the quadratic form in every step, the residual only in the end.
        falls = trial.quad < here.quad * (1 - 4 * eps)
        if not (falls or trial.size < here.size and trial.quad <= here.quad * (1 + SLACK * eps)):
            break
        stalled = not falls and trial.size > here.size / 2
        here = trial
        if stalled:
            break
        if noise is not None:  # residuals may have been larger
            noise = equations.rounding(here)
            enough = max(goal, noise)
    if here.size <= goal:
        end = "target"
    elif here.size <= ROUNDING * (equations.rounding(here) if noise is None else noise):
        end = "rounding"
    else:
        end = "max_iter" if used >= maxiter else "stalled"
    return BetaStep(here.gamma, here.residuals, here.quad, here.size / root, first_norm, used, end)


class _NormalEquations:
    """The normal equations for v, ``γ = γ₀ + unit Z v``, whose matrix is ``Zᵀ M Z``.

    M, which scaling by `unit` gives a diagonal of ones, where Z is the identity.
    """

    def __init__(self, system: StackedSystem, covariance: StructuredOperator, solver: str = "cg"):
        self.system, self.covariance = system, covariance
        self.N, self.eps = system.N, float(np.finfo(system.dtype).eps)
        self._method = _cg if solver == "cg" else _lsmr
        self.weighting = system.weigh(covariance)
        diagonal = system.spread(inverse_diagonal(covariance)) + system.penalty
        self.unit = (1 / np.sqrt(diagonal)).astype(system.dtype)
        self.allowed = system.allowed(self.unit)
        self.rtol = max(RTOL, 10 * self.eps)

    def expand(self, v: FloatArray) -> FloatArray:
        """The step of γ that v stands for."""
        return self.unit * self.allowed.expand(v)

    def reduce(self, score: FloatArray) -> FloatArray:
        """Derivatives by v of what has these by γ."""
        return self.allowed.reduce(self.unit * score)

    def weigh(self, E: FloatArray) -> FloatArray:
        return self.weighting.solve(E).astype(self.system.dtype, copy=False)

    def evaluate(self, gamma: FloatArray) -> Evaluation:
        system, E = self.system, self.system.residuals(gamma)
        V = self.weigh(E)
        quad = float(np.einsum("kt,kt->", E, V, dtype=np.float64))
        score = system.adjoint(V)
        if system.ridge:
            pull = system.penalty * gamma
            quad, score = quad + float(gamma @ pull), score - pull
        score = self.reduce(score)
        return Evaluation(gamma, E, quad, score, float(np.linalg.norm(score)))

    def normal(self, v: FloatArray) -> FloatArray:
        """The matrix times v."""
        step = self.expand(v)
        out = self.system.adjoint(self.weigh(self.system.fitted(step)))
        if self.system.ridge:
            out += self.system.penalty * step
        return self.reduce(out)

    def rounding(self, at: Evaluation) -> float:
        """About the length that rounding alone gives the score.

        Cells of Y and of the fitted values are off by eps times their sizes, and a solve with Σ
        solves for a Σ that is off by eps times Σ, which is as if ``Σ V`` were; with signs at
        random the score of such cells is what it does to this one.  The products with Q and Z
        round once more.
        """
        system, E = self.system, at.residuals
        V = self.weigh(E)
        sd = np.sqrt(self.covariance.diagonal()).astype(system.dtype)[:, None]
        cells = np.abs(system.Y) + np.abs(system.Y - E) + sd * (sd * np.abs(V)).sum(axis=0)
        signs = np.random.default_rng(0).integers(0, 2, cells.shape) * 2 - 1
        if system.observed is not None:
            signs *= system.observed
        score = self.reduce(system.adjoint(self.weigh(signs.astype(system.dtype) * cells)))
        sums = self.unit * system.spread(np.linalg.norm(V, axis=1))
        pull = self.unit * system.penalty * at.gamma
        parts = sum(float(np.linalg.norm(x)) for x in (score, sums, pull))
        return self.eps * parts

    def closer(self, here: Evaluation, goal: float, maxiter: int) -> tuple[FloatArray, int]:
        """γ whose residual is to be no larger than a goal, and iterations of the solver."""
        step, n = self._method(self, here, goal, maxiter)
        return here.gamma + self.expand(step), n


def _cg(equations: _NormalEquations, here: Evaluation, goal: float,
        maxiter: int) -> tuple[FloatArray, int]:
    """The step v by conjugate gradients, and their number."""
    return cg_of_one(equations.normal, here.score, max(goal, equations.rtol * here.size), maxiter)


def _lsmr(equations: _NormalEquations, here: Evaluation, goal: float,
          maxiter: int) -> tuple[FloatArray, int]:
    """The same by LSMR on ``W X``; with ``Σ = S Sᵀ`` and ``W = S⁻¹`` its adjoint is Σ⁻¹S.

    A ridge adds a row ``√penalty γ = 0`` for each coefficient.
    """
    system, covariance = equations.system, equations.covariance
    shape, cells = (system.K, system.N), system.K * system.N
    root = np.sqrt(system.penalty) if system.ridge else np.empty(0, system.dtype)

    def product(v: FloatArray) -> FloatArray:
        step = equations.expand(v.ravel())
        out = covariance.whiten(system.fitted(step)).ravel()
        return np.concatenate([out, root * step]) if root.size else out

    def adjoint(z: FloatArray) -> FloatArray:
        V = covariance.solve(covariance.color(z[:cells].reshape(shape)))
        score = system.adjoint(V)
        return equations.reduce(score + root * z[cells:] if root.size else score)

    B = LinearOperator((cells + root.size, here.score.size), product, adjoint, dtype=system.dtype)
    b = covariance.whiten(here.residuals).ravel()
    if root.size:
        b = np.concatenate([b, -root * here.gamma])
    tol = max(goal / max(np.linalg.norm(b), np.finfo(b.dtype).tiny) / 10,
              np.finfo(system.dtype).eps)
    found = lsmr(B, b, atol=tol, btol=0.0, conlim=0.0, maxiter=maxiter)
    return found[0].astype(system.dtype, copy=False), int(found[2])
