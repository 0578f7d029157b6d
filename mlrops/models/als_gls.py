"""`als_gls`: many regressions with correlated errors, by alternating generalized least squares."""

import copy
import warnings

import numpy as np
import scipy.linalg

from ..hierarchy import Hierarchy
from ..operators._validate import check_rank, name_some
from ..operators.base import StructuredOperator
from ..operators.mlr import MLR, check_ranks
from .ascent import Ascent, Problem
from .convergence import ConvergenceWarning
from .data import CompleteData
from .em import Complete, Point
from .options import check_options, check_scale
from .run import independent_loglik
from .start import capped_groups, start
from .sur_result import SURResult
from .sur_system import SOLVERS, StackedSystem, as_equations, average_loglik, beta_step

__all__ = ["als_gls", "check_hierarchy", "residual_source", "warn_of"]

# Updates of Σ in the first iteration, and in any; each later one may take twice as many.
FIRST_UPDATES, MOST_UPDATES = 8, 128
# Iterations after which the Σ-step takes the coefficients along: with 12 equations of 2 to 4
# regressors, N = 20 and 3 factors the alternation took 21 to 31, and then 9 to 13 are enough.
SEPARATE = 6
# A half-step goes on until its gradient is this share of what the other one left; a smaller one
# where the log-likelihood of inexact coefficients hides gains.
SHARE, LEAST_SHARE = 0.1, 1e-4
# Iterations whose gains must all be small: one small gain is no proof that the next is small, too.
SMALL_GAINS = 2


def als_gls(Xs, Y, ranks=None, hierarchy=None, *, covariance=None, solver="cg", tol=1e-9,
            gtol=1e-5, max_iter=200, max_cg_iter=1000, variance_floor=1e-6):
    r"""Fit seemingly unrelated regressions with structured error covariance, by maximum likelihood.

    The model is :math:`y_{tj} = x_{tj}^T \beta_j + e_{tj}`, K equations j with regressors of their
    own, whose errors :math:`e_t \sim N(0, \Sigma)` are independent across the N rows t and share
    factors across equations: :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block
    diagonal over the groups of level l of a hierarchy of the equations.  No K×K matrix is formed.

    Parameters
    ----------
    Xs : list of K array_like, shapes (N, p_j)
        Regressors; an intercept is a column of ones.  ``N > p_j``, full column rank.
    Y : array_like, shape (N, K)
        Dependent variables, one equation a column.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first.  A group with fewer equations than its
        level's rank gets as many factors as it has equations (``result.capped`` lists them), and no
        level gets more than there are rows.
    hierarchy : Hierarchy, optional
        Tree of the equations; default one level with one group.
    covariance : StructuredOperator, shape (K, K), optional
        A Σ to keep, positive definite, in place of `ranks` and `hierarchy`: feasible GLS, one
        β-step to rounding.
    solver : {"cg", "lsmr"}, optional
        For the coefficients: preconditioned conjugate gradients on the normal operator, or LSMR on
        the whitened stacked operator, which does not square its condition number (Σ must know
        `whiten`).
    tol : float, optional
        Stop after two iterations in a row that each gain at most `tol` times the gain in average
        log-likelihood over independent errors, or `tol` K / 2 where that is more.
    gtol : float, optional
        Stop where neither ``gradient_norm`` nor ``normal_norm`` of the result exceeds this.
    max_iter : int, optional
        Cap of the iterations, each a Σ-step and a β-step.
    max_cg_iter : int, optional
        Cap of the solver's iterations in a β-step.
    variance_floor : float, optional
        Lower bound of D relative to the residual variances of least squares equation by equation.

    Returns
    -------
    SURResult

    Raises
    ------
    ValueError, TypeError
        NaN or infinity, regressors that depend on one another (equation and columns are named), too
        few rows, shapes that do not fit, equations that their regressors fit exactly, bad ranks; a
        covariance that is not positive definite.

    Warns
    -----
    ConvergenceWarning
        A cap was reached, or variances stand at the floor (Heywood cases).  Two equations with the
        same residuals up to a factor, which make Σ singular, are named.

    Notes
    -----
    *β-step.*  The normal equations ``Xᵀ(I⊗Σ⁻¹)(y - Xβ) = 0`` by conjugate gradients,
    preconditioned with the exact blocks ``(Σ⁻¹)_jj X_jᵀX_j``, from the β before.  An iteration is
    one solve with Σ for all rows at once, ``4 K R N`` flops, and two products with the regressors,
    batched over equations with equally many.  It stops at a tenth of the Σ-step's remaining
    gradient, or of `gtol`.  When all equations share one X, least squares equation by equation is
    GLS for every Σ (A. Zellner, "An efficient method of estimating seemingly unrelated regressions
    and tests for aggregation bias", 1962): it is where the iteration starts and stays.

    *Σ-step.*  Accelerated EM updates on the residuals, as `fit_factor_model` takes them, to a tenth
    of the gradient before it: up to 8 in the first iteration, twice as many in each later one, at
    most 128.  The curvature that one step has seen serves the next.

    A half-step that would let the log-likelihood fall is not taken.  Coefficients and covariance
    are orthogonal in Fisher's information (T. Breusch, "Useful invariance results for generalized
    regression models", 1980), so few iterations are needed when N is large, five or so at N = 300.
    When it is small, or variances run to the floor, each half-step holds the other back.  From the
    sixth iteration on the Σ-step therefore climbs the likelihood *maximized over β*: every update
    takes a β-step of its own.  Where likelihoods of inexact β hide its gains it asks for more
    exact ones.
    Iterating to the maximum gives the estimates of W. Oberhofer, J. Kmenta, "A general procedure
    for obtaining maximum likelihood estimates in generalized regression models" (1974).

    In memory: the regressors once more, a few arrays of the size of Y, about fifteen of the size
    of F.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import als_gls
    >>> rng = np.random.default_rng(0)
    >>> Xs = [rng.standard_normal((100, 2)) for _ in range(30)]
    >>> E = rng.standard_normal((100, 1)) + 0.3 * rng.standard_normal((100, 30))
    >>> Y = np.stack([X @ [1.0, -2.0] for X in Xs], axis=1) + E
    >>> fit = als_gls(Xs, Y, ranks=1)
    >>> fit.termination, fit.covariance.ranks
    ('gradient', (1,))
    >>> least_squares = [np.linalg.lstsq(X, y, rcond=None)[0] for X, y in zip(Xs, Y.T)]
    >>> def error(params):
    ...     return float(np.sqrt(np.mean(np.square(np.subtract(params, [1.0, -2.0])))))
    >>> error(fit.params) < error(least_squares) / 2
    True
    """
    _, rules = check_options(1, tol, gtol, max_iter, variance_floor)
    if check_rank(max_cg_iter, "max_cg_iter") < 1:
        raise ValueError("max_cg_iter must be at least 1, got 0")
    if solver not in SOLVERS:
        raise ValueError(f'solver must be "cg" or "lsmr", got {solver!r}')
    Xs, Y = as_equations(Xs, Y)
    if covariance is not None:
        if ranks is not None or hierarchy is not None:
            raise ValueError("give either ranks (and a hierarchy), to fit a covariance, or a"
                             " covariance to keep, not both")
        return _feasible(Xs, Y, covariance, solver, rules, max_cg_iter)
    if ranks is None:
        raise TypeError("ranks is needed to fit a covariance; or give a covariance to keep")
    hierarchy = check_hierarchy(hierarchy, Y.shape[1])
    ranks = check_ranks(ranks, hierarchy)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    order = hierarchy.permutation
    system = StackedSystem([Xs[j] for j in order], Y[:, order], order)
    climb = _Climb(system, hierarchy, ranks, variance_floor, (solver, max_cg_iter))
    trace, termination = [climb.loglik], None
    while termination is None:
        moved = climb.iterate(rules.gtol)
        trace.append(climb.loglik)
        termination = climb.reason(trace, moved, rules)
    point = climb.ascent.state.point
    boundary = np.sort(order[point.D <= climb.floor])
    resid = hierarchy._scatter(climb.E).T
    warn_of(termination, max_iter, boundary, variance_floor, resid.T)
    covariance = MLR.from_compact(hierarchy, ranks, hierarchy._scatter(point.F),
                                  hierarchy._scatter(point.D), check_finite=False).principal()
    in_order = system.coefficients(climb.gamma)
    return SURResult(
        params=[in_order[i] for i in hierarchy._position], covariance=covariance, loglik=trace[-1],
        loglik_trace=np.array(trace), n_iter=len(trace) - 1, converged=termination != "max_iter",
        termination=termination, cg_iterations=climb.cg_iterations, resid=resid,
        fittedvalues=Y - resid, gradient_norm=climb.ascent.state.gradient_norm,
        normal_norm=climb.normal_norm, boundary=boundary, capped=capped_groups(hierarchy, ranks),
        Xs=tuple(Xs))


def check_hierarchy(hierarchy, K):
    """A hierarchy of K equations, flat by default."""
    if hierarchy is None:
        return Hierarchy.flat(K)
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    if hierarchy.n != K:
        raise ValueError(f"Y must have one column for each of the hierarchy's {hierarchy.n}"
                         f" equations, got {K}")
    return hierarchy


def residual_source(E):
    """The source of EM that residuals (K, N) in tree order are; their mean is fixed at 0."""
    K, N = E.shape
    # The triangular factor of their QR factorization has the same products E Eᵀ.
    X = E if N <= K else np.ascontiguousarray(
        scipy.linalg.qr(E.T, mode="r", check_finite=False)[0][:K].T)
    return CompleteData(X, np.einsum("kt,kt->k", X, X), np.zeros(K, E.dtype), N, float(N))


class _Climb:
    """The alternation; arrays in tree order, always at the best parameters so far."""

    def __init__(self, system, hierarchy, ranks, variance_floor, how):
        tree = hierarchy._in_tree_order()
        self.system, self.how = system, how
        self.gamma = system.ols
        self.E = system.residuals(self.gamma)
        system.check_errors(self.E)
        source = residual_source(self.E)
        check_scale(source, hierarchy, None)
        self.floor = (variance_floor * source.variance).astype(source.dtype)
        F, D = start("svd", tree, ranks, source, None)
        first = Point(F, np.maximum(D, self.floor), source.mean)
        self.ascent = Ascent(Problem(source, tree, ranks, self.floor), first, True)
        self.independent = independent_loglik(source)
        self.normal_norm, self.cg_iterations, self.share = np.inf, [], SHARE

    @property
    def loglik(self):
        return self.ascent.state.loglik

    def iterate(self, gtol):
        """A Σ-step and a β-step; False where neither can gain anything in this precision."""
        moved = self._climb_covariance(gtol)
        return self._solve_coefficients(gtol) or moved

    def _target(self, gtol):
        """How far a β-step goes now."""
        return self.share * max(self.ascent.state.gradient_norm, gtol)

    def _climb_covariance(self, gtol):
        goal = max(SHARE * self.ascent.state.gradient_norm, gtol / 2)
        source = self.ascent.problem.source
        if isinstance(source, _Profiled):
            source.target = self._target(gtol)
        # The exponent is capped only to keep the integer small.
        most = min(FIRST_UPDATES * 2 ** min(len(self.cg_iterations), 30), MOST_UPDATES)
        moved = False
        for _ in range(most):
            if self.ascent.state.gradient_norm <= goal or not self.ascent.advance():
                break
            moved = True
        if isinstance(source, _Profiled):
            best = self.ascent.state.mapped.step.coefficients
            self.gamma, self.E = best.gamma, best.residuals
            # Another try, with coefficients whose inexactness hides less.
            if self.ascent.exhausted and self.share > LEAST_SHARE:
                self.share *= SHARE
                moved = True
        return moved

    def _solve_coefficients(self, gtol):
        state = self.ascent.state
        step = beta_step(self.system, state.mapped.covariance, self.gamma, self._target(gtol),
                         *self.how)
        self.cg_iterations.append(step.n_iter + self._iterations_of_updates())
        if step.gamma is self.gamma and not self.ascent.exhausted:
            self.normal_norm = step.norm
            return False
        problem = copy.copy(self.ascent.problem)
        problem.source = residual_source(step.residuals)
        if len(self.cg_iterations) >= SEPARATE:
            problem.source = _Profiled(self.system, step.gamma, self._target(gtol), self.how)
        ascent = Ascent(problem, state.point, True)
        if ascent.state.loglik < state.loglik:
            self.normal_norm = step.first_norm
            return False
        ascent.pairs = self.ascent.pairs  # the curvature hardly depends on β
        self.ascent, self.gamma, self.E = ascent, step.gamma, step.residuals
        self.normal_norm = step.norm
        return True

    def _iterations_of_updates(self):
        """Iterations of the solver that the Σ-step has taken since this was last asked."""
        source = self.ascent.problem.source
        if not isinstance(source, _Profiled):
            return 0
        taken, source.n_iter = source.n_iter, 0
        return taken

    def reason(self, trace, moved, rules):
        """Why to stop here, or None."""
        if max(self.ascent.state.gradient_norm, self.normal_norm) <= rules.gtol:
            return "gradient"
        # The gain over independent errors does not depend on units, as the log-likelihood does.
        scale = max(trace[-1] - self.independent, self.system.K / 2)
        gains = np.diff(trace[-SMALL_GAINS - 1 :])
        if not moved or gains.size == SMALL_GAINS and gains.max() <= rules.tol * scale:
            return "loglik"
        return "max_iter" if len(trace) > rules.max_iter else None


class _Profiled:
    """The source of EM whose residuals are those of the best coefficients for each covariance.

    Its log-likelihood is the one maximized over β; that has the same gradient by Σ, and an EM step
    followed by a β-step cannot lower it.
    """

    mean_is_free = False

    def __init__(self, system, gamma, target, how):
        self.system, self.gamma, self.target, self.how = system, gamma, target, how
        self.dtype, self.n_iter = system.dtype, 0

    def evaluate(self, covariance, mean):
        best = beta_step(self.system, covariance, self.gamma, self.target, *self.how)
        self.gamma = best.gamma
        self.n_iter += best.n_iter
        found = Complete(covariance, residual_source(best.residuals))
        found.coefficients = best
        return found


def _feasible(Xs, Y, covariance, solver, rules, max_cg_iter):
    """GLS with a covariance that is known."""
    K = Y.shape[1]
    if not isinstance(covariance, StructuredOperator):
        raise TypeError("covariance must be an operator of this package (Dense for an array), got"
                        f" {type(covariance).__name__}")
    if covariance.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got"
                         f" {covariance.shape}")
    if not covariance.symmetric or covariance.slogdet()[0] <= 0:
        raise ValueError(f"covariance must be symmetric positive definite, {covariance!r} is not")
    system = StackedSystem(Xs, Y)
    step = beta_step(system, covariance, system.ols, 0.0, solver, max_cg_iter)
    loglik = average_loglik(covariance, step.quad, system.N)
    resid = step.residuals.T
    converged = step.norm <= rules.gtol
    if not converged:
        warnings.warn(
            f"the normal equations' residual is {step.norm:.1e} after {step.n_iter} iterations of"
            f" {solver}, gtol asks for {rules.gtol:.0e}; raise max_cg_iter or gtol",
            ConvergenceWarning, stacklevel=3)
    return SURResult(
        params=system.coefficients(step.gamma), covariance=covariance, loglik=loglik,
        loglik_trace=np.array([loglik]), n_iter=0, converged=converged,
        termination="gradient" if converged else "max_iter", cg_iterations=[step.n_iter],
        resid=resid, fittedvalues=Y - resid, gradient_norm=0.0, normal_norm=step.norm,
        boundary=np.array([], int), Xs=tuple(Xs))


def warn_of(termination, max_iter, boundary, variance_floor, E):
    """Warn of a cap that was reached and of variances at the floor; E are residuals (K, N)."""
    if termination == "max_iter":
        warnings.warn(
            f"the alternation did not converge in {max_iter} iterations; raise max_iter or tol",
            ConvergenceWarning, stacklevel=3)
    if boundary.size:
        alike = _alike(E, boundary)
        remedy = "fewer factors may do" if not alike else (
            "the residuals of " + " and of ".join(f"equations {i} and {j}" for i, j in alike[:5])
            + " are the same up to a factor, so Σ is singular: leave one of them out")
        warnings.warn(
            f"{boundary.size} equations have a variance at the floor of {variance_floor:g} of their"
            f" residual variance (Heywood cases: {name_some(boundary)}); {remedy}",
            ConvergenceWarning, stacklevel=3)


def _alike(E, rows):
    """Pairs of rows of E that are multiples of one another, found as neighbours on a line."""
    U = E[rows] / np.linalg.norm(E[rows], axis=1, keepdims=True)
    place = np.abs(U @ np.random.default_rng(0).standard_normal(U.shape[1]))
    order = np.argsort(place)
    cosines = np.einsum("kt,kt->k", U[order[1:]], U[order[:-1]])
    same = np.flatnonzero(1 - np.abs(cosines) <= 1e-6)
    return sorted(tuple(sorted((int(rows[order[i]]), int(rows[order[i + 1]])))) for i in same)
