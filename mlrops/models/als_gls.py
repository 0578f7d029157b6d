"""`als_gls`: many regressions with correlated errors, by alternating generalized least squares."""

import copy
import warnings

import numpy as np

from ..hierarchy import Hierarchy
from ..operators._validate import check_rank, name_some
from ..operators.base import StructuredOperator
from ..operators.mlr import MLR, check_ranks
from .ascent import Ascent, Problem
from .convergence import ConvergenceWarning
from .data import complete_source
from .em import Point
from .factor_model import _check_number
from .run import independent_loglik
from .start import capped_groups, start
from .sur_result import SURResult
from .sur_system import SOLVERS, StackedSystem, as_equations, average_loglik, beta_step

__all__ = ["als_gls"]

# Updates of Σ in the first iteration; each later one may take twice as many as the one before.
FIRST_UPDATES, MOST_UPDATES = 8, 128
# A half-step goes on until its gradient is this share of what the other one left.
SHARE = 0.1


def als_gls(Xs, Y, ranks=None, hierarchy=None, *, covariance=None, solver="cg", tol=1e-9,
            gtol=1e-5, max_iter=100, max_cg_iter=1000, variance_floor=1e-6):
    Xs, Y = as_equations(Xs, Y)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
    if covariance is not None:
        return _feasible(StackedSystem(Xs, Y), covariance, solver, gtol, max_cg_iter)
    K = Y.shape[1]
    hierarchy = hierarchy or Hierarchy.flat(K)
    ranks = check_ranks(ranks, hierarchy)
    order = hierarchy.permutation
    system = StackedSystem([Xs[j] for j in order], Y[:, order], order)
    climb = _Climb(system, hierarchy._in_tree_order(), ranks, variance_floor, solver, max_cg_iter)
    trace, termination = [climb.loglik], None
    while termination is None:
        moved = climb.iterate(FIRST_UPDATES * 2 ** min(len(trace) - 1, 30), gtol)
        trace.append(climb.loglik)
        termination = climb.reason(trace, moved, tol, gtol, max_iter)
    point = climb.ascent.state.point
    covariance = MLR.from_compact(hierarchy, ranks, hierarchy._scatter(point.F),
                                  hierarchy._scatter(point.D), check_finite=False).principal()
    boundary = np.sort(order[point.D <= climb.problem.floor])
    in_order = system.coefficients(climb.step.gamma)
    params = [in_order[i] for i in hierarchy._position]
    resid = hierarchy._scatter(climb.step.residuals).T
    return SURResult(
        params, covariance, trace[-1], np.array(trace), len(trace) - 1,
        termination != "max_iter", termination, climb.cg_iterations, resid, Y - resid,
        climb.ascent.state.gradient_norm, climb.step.norm, boundary,
        capped_groups(hierarchy, ranks))


def _feasible(system, covariance, solver, gtol, max_cg_iter):
    step = beta_step(system, covariance, system.ols, 0.0, solver, max_cg_iter)
    loglik = average_loglik(covariance, step.quad, system.N)
    resid = step.residuals.T
    converged = step.norm <= gtol
    return SURResult(
        system.coefficients(step.gamma), covariance, loglik, np.array([loglik]), 0, converged,
        "gradient" if converged else "max_iter", [step.n_iter], resid, system.Y.T - resid, 0.0,
        step.norm, np.array([], int))


class _Climb:
    def __init__(self, system, tree, ranks, variance_floor, solver, max_cg_iter):
        self.system, self.tree = system, tree
        self.options = solver, max_cg_iter
        gamma = system.ols
        E = system.residuals(gamma)
        source = self._source(E)
        floor = (variance_floor * source.variance).astype(source.dtype)
        self.problem = Problem(source, tree, ranks, floor)
        F, D = start("svd", tree, ranks, source, None)
        self.ascent = Ascent(self.problem, Point(F, np.maximum(D, floor), source.mean), True)
        self.independent = independent_loglik(source)
        self.gamma, self.step = gamma, None
        self.cg_iterations = []

    @property
    def loglik(self):
        return self.ascent.state.loglik

    def _source(self, E):
        return complete_source(E.T, self.tree, center=False)

    def iterate(self, updates, gtol):
        goal = max(SHARE * self.ascent.state.gradient_norm, gtol / 2)
        moved = False
        for _ in range(min(updates, MOST_UPDATES)):
            if self.ascent.state.gradient_norm <= goal or not self.ascent.advance():
                break
            moved = True
        state = self.ascent.state
        target = max(SHARE * state.gradient_norm, SHARE * gtol)
        step = beta_step(self.system, state.mapped.covariance, self.gamma, target, *self.options)
        self.cg_iterations.append(step.n_iter)
        if step.gamma is not self.gamma:
            problem = copy.copy(self.problem)
            problem.source = self._source(step.residuals)
            ascent = Ascent(problem, state.point, True)
            if ascent.state.loglik >= state.loglik:
                ascent.pairs = self.ascent.pairs
                self.ascent, self.problem, self.gamma = ascent, problem, step.gamma
                self.step = step
                return True
        if self.step is None:
            self.step = step
        self.step = self.step._replace(norm=step.norm)
        return moved

    def reason(self, trace, moved, tol, gtol, max_iter):
        if self.ascent.state.gradient_norm <= gtol and self.step.norm <= gtol:
            return "gradient"
        scale = max(trace[-1] - self.independent, self.tree.n / 2)
        gains = np.diff(trace[-3:])
        if not moved or gains.size == 2 and gains.max() <= tol * scale:
            return "loglik"
        return "max_iter" if len(trace) - 1 >= max_iter else None
