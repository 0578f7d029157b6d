"""The β-step: generalized least squares for all coefficients of a stacked system, given Σ."""

import math
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg, lsmr

from .system import inverse_diagonal

__all__ = ["SOLVERS", "BetaStep", "beta_step"]

SOLVERS = "cg", "lsmr"
# A round solves for what the true residual of the round before says is left; each takes off RTOL.
ROUNDS, RTOL = 6, 1e-10


class BetaStep(NamedTuple):
    """Where a β-step went."""

    gamma: np.ndarray  # (P,)
    residuals: np.ndarray  # (K, N)
    quad: float  # Σ_t e_tᵀ Σ⁻¹ e_t, and the penalty of a ridge
    norm: float  # of the normal equations' residual
    first_norm: float  # the same for the γ that came in
    n_iter: int  # iterations of CG or LSMR


class _At(NamedTuple):
    gamma: np.ndarray
    residuals: np.ndarray
    quad: float
    score: np.ndarray


def beta_step(system, covariance, gamma, target, solver="cg", max_iter=1000):
    r"""Solve the normal equations ``Xᵀ(I⊗Σ⁻¹)(y - Xβ) = 0`` from a first γ.

    With constraints ``Cᵀγ = q``, which the first γ must satisfy, only directions u with
    ``Cᵀu = 0`` are searched, and only the part of the residual along them must vanish.

    Parameters
    ----------
    system : StackedSystem
    covariance : StructuredOperator, shape (K, K)
        Σ, positive definite.
    gamma : ndarray, shape (P,)
    target : float
        Stop where the residual is no larger; 0 goes to rounding.  It is the 2-norm of the
        derivatives of the average log-likelihood a row by the coefficients of orthogonal regressors
        of mean square 1, in units of the equations' partial standard deviations.
    solver : {"cg", "lsmr"}
        On the normal operator, or on the whitened stacked one.
    max_iter : int
        Cap of the iterations.

    Returns
    -------
    BetaStep
        Where the quadratic form could not be lowered, the γ that came in.
    """
    problem = _Problem(system, covariance)
    here, used = problem.look(gamma), 0
    first_norm = float(np.linalg.norm(here.score)) / math.sqrt(system.N)
    goal = target * math.sqrt(system.N)
    method = _cg if solver == "cg" else _lsmr
    eps = np.finfo(system.dtype).eps
    for _ in range(ROUNDS):
        size = np.linalg.norm(here.score)
        if size <= goal or used >= max_iter:
            break
        step, n = method(problem, here, goal / 2, max_iter - used)
        used += n
        trial = problem.look(here.gamma + problem.unit * problem.project(step))
        left = np.linalg.norm(trial.score)
        capped = used >= max_iter  # stopped early: less is left in the norm of Σ⁻¹ only
        falls = trial.quad <= here.quad * (1 + 4 * eps)
        if not (falls and (left < size or capped)):
            break
        here = trial
        if left > size / 2:
            break
    norm = float(np.linalg.norm(here.score)) / math.sqrt(system.N)
    return BetaStep(here.gamma, here.residuals, here.quad, norm, first_norm, used)


class _Problem:
    """The normal equations in ``u = γ / unit``, whose matrix has a diagonal of ones."""

    def __init__(self, system, covariance):
        self.system, self.covariance = system, covariance
        self.weighting = system.weigh(covariance)
        diagonal = system.spread(inverse_diagonal(covariance)) + system.penalty
        self.unit = (1 / np.sqrt(diagonal)).astype(system.dtype)
        self.project = system.projector(self.unit)

    def weigh(self, E):
        return self.weighting.solve(E).astype(self.system.dtype, copy=False)

    def look(self, gamma):
        system, E = self.system, self.system.residuals(gamma)
        V = self.weigh(E)
        quad = float(np.einsum("kt,kt->", E, V, dtype=np.float64))
        score = system.adjoint(V)
        if system.ridge:
            pull = system.penalty * gamma
            quad, score = quad + float(gamma @ pull), score - pull
        return _At(gamma, E, quad, self.project(self.unit * score))

    def normal(self, u):
        """The normal matrix times u, which constraints allow."""
        gamma = self.unit * u.ravel()
        out = self.system.adjoint(self.weigh(self.system.fitted(gamma)))
        if self.system.ridge:
            out += self.system.penalty * gamma
        return self.project(self.unit * out)


def _cg(problem, here, goal, max_iter):
    """The step in scaled γ by conjugate gradients, and their number."""
    system, count = problem.system, _Counter()
    A = LinearOperator((system.P, system.P), problem.normal, dtype=system.dtype)
    rtol = max(RTOL, 10 * np.finfo(system.dtype).eps)
    step, _ = cg(A, here.score, rtol=rtol, atol=goal, maxiter=max_iter, callback=count)
    return step, count.n


def _lsmr(problem, here, goal, max_iter):
    """The same by LSMR on ``W X``; with ``Σ = S Sᵀ`` and ``W = S⁻¹`` its adjoint is Σ⁻¹S.

    A ridge adds a row ``√penalty γ = 0`` for each coefficient.
    """
    system, covariance, unit = problem.system, problem.covariance, problem.unit
    shape, cells = (system.K, system.N), system.K * system.N
    root = np.sqrt(system.penalty) if system.ridge else np.empty(0, system.dtype)

    def product(u):
        gamma = unit * problem.project(u.ravel())
        rows = covariance.whiten(system.fitted(gamma)).ravel()
        return np.concatenate([rows, root * gamma]) if root.size else rows

    def adjoint(z):
        V = covariance.solve(covariance.color(z[:cells].reshape(shape)))
        gamma = system.adjoint(V)
        return problem.project(unit * (gamma + root * z[cells:] if root.size else gamma))

    B = LinearOperator((cells + root.size, system.P), product, adjoint, dtype=system.dtype)
    b = covariance.whiten(here.residuals).ravel()
    if root.size:
        b = np.concatenate([b, -root * here.gamma])
    tol = max(goal / max(np.linalg.norm(b), np.finfo(b.dtype).tiny) / 10,
              np.finfo(system.dtype).eps)
    found = lsmr(B, b, atol=tol, btol=0.0, conlim=0.0, maxiter=max_iter)
    return found[0].astype(system.dtype, copy=False), int(found[2])


class _Counter:
    def __init__(self):
        self.n = 0

    def __call__(self, _):
        self.n += 1
