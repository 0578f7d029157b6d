"""The alternation of `als_gls`: Σ-steps by accelerated EM, β-steps by conjugate gradients."""

import copy
import warnings

import numpy as np
import scipy.linalg

from ..._common.convergence import ConvergenceWarning, UnboundedWarning
from ..._common.wording import agree, counted, name_some
from ...factor.ascent import Ascent, independent_loglik
from ...factor.ascent import LikelihoodSurface as Problem
from ...factor.em import Point
from ...factor.estep.complete import CompleteData
from ...factor.estep.incomplete import IncompleteData
from ...factor.limits import check_scale
from ...factor.start import start
from .beta_step import beta_step

__all__ = ["LEAST_GAIN", "Climb", "residual_source", "warn_of"]

# Updates of Σ in the first iteration, and in any; each later one may take twice as many.
FIRST_UPDATES, MOST_UPDATES = 8, 128
# After this many iterations the Σ-step takes the coefficients along, once an iteration no longer
# brings the gradient below this share of what the one before it left: with 12 equations of 2 to 4
# regressors, N = 20 and 3 factors the alternation took 21 to 31, and then 9 to 13 are enough.
SEPARATE, SLOW = 6, 0.3
# A half-step goes on until its gradient is this share of what the other one left; a smaller one
# where the log-likelihood of inexact coefficients hides gains.
SHARE, LEAST_SHARE = 0.1, 1e-4
# Iterations whose gains must all be small: one small gain is no proof that the next is small, too.
SMALL_GAINS = 2
# A gain, relative as `tol` is, that does not keep a fit with a small gradient from stopping.
LEAST_GAIN = 1e-9


def residual_source(E, system=None, tree=None, ridge=0.0):
    """The source of EM that residuals (K, N) in tree order are; their mean is fixed at 0.

    Where cells of the system are missing, they are left out of the likelihood.  All is float64,
    whatever the residuals are.
    """
    (K, N), dtype = E.shape, E.dtype
    E = E.astype(float, copy=False)
    if system is not None and system.observed is not None:
        samples = system.samples(tree, E)
        variance = np.einsum("kt,kt->k", E, E, dtype=float) / samples.counts
        return IncompleteData(samples, variance, np.zeros(K), False, dtype)
    # The triangular factor of their QR factorization has the same products E Eᵀ.
    X = E if N <= K else np.ascontiguousarray(
        scipy.linalg.qr(E.T, mode="r", check_finite=False)[0][:K].T)
    return CompleteData(X, np.einsum("kt,kt->k", X, X), np.zeros(K), N, float(N), ridge, dtype)


class Climb:
    """The alternation; arrays in tree order, always at the best parameters so far."""

    def __init__(self, system, hierarchy, ranks, options):
        self.tree = tree = hierarchy._in_tree_order()
        self.system, self.options = system, options
        self.gamma = system.ols
        self.E = system.residuals(self.gamma)
        system.check_errors(self.E)
        source = self._source(self.E)
        check_scale(source, hierarchy, [system.numbers[i] for i in hierarchy._position],
                    "equation")
        self.floor = options.variance_floor * source.variance
        F, D = start("svd", tree, ranks, source, None)
        first = Point(F, np.maximum(D, self.floor), source.mean)
        self.ascent = Ascent(Problem(source, tree, ranks, self.floor), first, True)
        self.independent = independent_loglik(source)
        self.normal_norm, self.cg_iterations, self.share = np.inf, [], SHARE
        self.solver_end = "target"  # of the last β-step
        self.norms = []  # of the gradient that Σ-steps left

    def _source(self, E):
        return residual_source(E, self.system, self.tree, self.options.factor_ridge)

    def _penalty(self, gamma):
        """What a ridge on β takes off the average log-likelihood a row."""
        if not self.system.ridge:
            return 0.0
        return 0.5 * float(gamma @ (self.system.penalty * gamma)) / self.system.N

    @property
    def objective(self):
        """Log-likelihood a row less penalties."""
        source = self.ascent.surface.source
        own = 0.0 if isinstance(source, _Profiled) else self._penalty(self.gamma)
        return self.ascent.state.loglik - own + self.system.log_weights / self.system.N

    def iterate(self, gtol):
        """A Σ-step and a β-step; False where neither can gain anything in this precision."""
        moved = self._climb_covariance(gtol)
        return self._solve_coefficients(gtol) or moved

    def _target(self, gtol):
        """How far a β-step goes now."""
        return self.share * max(self.ascent.state.gradient_norm, gtol)

    def _climb_covariance(self, gtol):
        goal = max(SHARE * self.ascent.state.gradient_norm, gtol / 2)
        source = self.ascent.surface.source
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
            self.settle()
            # Another try, with coefficients whose inexactness hides less.
            if self.ascent.exhausted and self.share > LEAST_SHARE:
                self.share *= SHARE
                moved = True
        return moved

    def settle(self):
        """Take the coefficients along where Σ-steps have moved them, all of them or some."""
        if isinstance(self.ascent.surface.source, _Profiled):
            best = self.ascent.state.mapped.step.coefficients
            self.gamma, self.E = best.gamma, best.residuals

    def _solve_coefficients(self, gtol):
        state = self.ascent.state
        step = beta_step(self.system, state.mapped.covariance, self.gamma, self._target(gtol),
                         *self.options.how)
        self.cg_iterations.append(step.n_iter + self._iterations_of_updates())
        self.solver_end = step.end if step.is_short else "target"
        if step.gamma is self.gamma and not self.ascent.exhausted:
            self.normal_norm = step.norm
            return False
        problem = copy.copy(self.ascent.surface)
        problem.source = self._source(step.residuals)
        if self._is_slow():
            problem.source = _Profiled(self, step.gamma, self._target(gtol))
        new = copy.copy(self)
        new.ascent = Ascent(problem, state.point, True)
        new.gamma, new.E = step.gamma, step.residuals
        if new.objective < self.objective:
            self.normal_norm = step.first_norm
            return False
        new.ascent.pairs = self.ascent.pairs  # the curvature hardly depends on β
        self.ascent, self.gamma, self.E = new.ascent, new.gamma, new.E
        self.normal_norm = step.norm
        return True

    def _is_slow(self):
        """Whether the half-steps hold each other back; once that is so, it stays so."""
        self.norms.append(self.ascent.state.gradient_norm)
        slow = len(self.norms) >= SEPARATE and self.norms[-1] > SLOW * self.norms[-2]
        return slow or isinstance(self.ascent.surface.source, _Profiled)

    def _iterations_of_updates(self):
        """Iterations of the solver that the Σ-step has taken since this was last asked."""
        source = self.ascent.surface.source
        if not isinstance(source, _Profiled):
            return 0
        taken, source.n_iter = source.n_iter, 0
        return taken

    def reason(self, trace, moved, rules):
        """Why to stop here, or None."""
        # The gain over independent errors does not depend on units, as the log-likelihood does.
        scale = max(trace[-1] - self.independent, self.system.K / 2)
        gains = np.diff(trace[-SMALL_GAINS - 1 :]) / scale
        # With many parameters small derivatives can still add up to a gain.
        still = max(self.ascent.state.gradient_norm, self.normal_norm) <= rules.gtol
        if still and (not moved or gains[-1] <= rules.tol or gains[-1] <= LEAST_GAIN):
            return "gradient"
        if not moved or gains.size == SMALL_GAINS and gains.max() <= rules.tol:
            # Gains are no measure of coefficients that the solver leaves on their way.  Where it
            # stalls at a residual whose square no likelihood shows, they are there.
            most = 0.0 if self.solver_end == "max_iter" else LEAST_GAIN**0.5
            if self.solver_end == "target" or self.normal_norm <= max(rules.gtol, most):
                return "tol"
            if not moved:
                return "max_iter" if self.solver_end == "max_iter" else "rounding"
        return "max_iter" if len(trace) > rules.max_iter else None


class _Profiled:
    """The source of EM whose residuals are those of the best coefficients for each covariance.

    Its log-likelihood is the one maximized over β; that has the same gradient by Σ, and an EM step
    followed by a β-step cannot lower it.
    """

    mean_is_free = False

    def __init__(self, climb, gamma, target):
        self.climb, self.gamma, self.target = climb, gamma, target
        self.dtype, self.n_iter = climb.system.dtype, 0

    def evaluate(self, covariance, mean):
        climb = self.climb
        best = beta_step(climb.system, covariance, self.gamma, self.target, *climb.options.how)
        self.gamma = best.gamma
        self.n_iter += best.n_iter
        found = climb._source(best.residuals).evaluate(covariance, mean)
        found.loglik -= climb._penalty(best.gamma)
        found.coefficients = best
        return found


def warn_of(fit, solver_end="target", unbounded=None, stacklevel=4):
    """Warn of what makes a `SURResult` doubtful.

    A cap that was reached, rounding where coefficients are not yet right (`solver_end` says how the
    last β-step ended), equations with the same residuals, variances at the floor, a likelihood that
    is `unbounded`, for a reason.
    """
    names, options = fit.data.names, fit.options
    label = range(fit.n_equations) if names is None else names.equations
    alike = _alike(np.nan_to_num(fit.errors.T)) if any(fit.covariance.ranks) else []

    def warn(message, category=ConvergenceWarning):
        warnings.warn(message, category, stacklevel=stacklevel + 1)

    if fit.termination == "max_iter" and solver_end == "max_iter":
        warn(f"the alternation did not converge in {counted(fit.n_iter, 'iteration')} with at most"
             f" {counted(options.max_cg_iter, 'step')} of {options.solver} each; raise max_cg_iter")
    elif fit.termination == "max_iter":
        warn(f"the alternation did not converge in {counted(options.rules.max_iter, 'iteration')};"
             " raise max_iter or tol")
    if fit.termination == "rounding":
        warn(f"rounding lets no step gain anything where the normal equations leave a residual of"
             f" {fit.normal_norm:.1e} and the covariance a gradient of {fit.gradient_norm:.1e},"
             f" {options.rules.gtol:.0e} was asked for: Σ is too close to singular; raise"
             " variance_floor or gtol" + ("" if options.solver == "lsmr" or not fit.n_cg
                                          else ", or try solver='lsmr'"))
    if alike:
        pairs = " and of ".join(f"equations {label[i]} and {label[j]}" for i, j in alike[:5])
        warn(f"the residuals of {pairs} are the same up to a factor, so Σ is singular: leave one of"
             " them out")
    if unbounded is not None:
        warn(f"{unbounded}; lower the ranks or leave equations out, all figures depend on the"
             f" variance_floor of {options.variance_floor:g}", UnboundedWarning)
    elif fit.boundary.size:
        warn(f"{counted(fit.boundary.size, 'equation')} {agree(fit.boundary.size, 'has', 'have')}"
             f" a variance at the floor of {options.variance_floor:g} of"
             f" {agree(fit.boundary.size, 'its', 'their')} residual variance"
             f" (Heywood cases: {name_some(label[i] for i in fit.boundary)})"
             + ("" if alike else "; fewer factors may do"))


def _alike(E):
    """Pairs of rows of E that are multiples of one another, found as neighbours on a line."""
    U = E / np.linalg.norm(E, axis=1, keepdims=True)
    place = np.abs(U @ np.random.default_rng(0).standard_normal(U.shape[1]))
    order = np.argsort(place)
    cosines = np.array([U[i] @ U[j] for i, j in zip(order[1:], order[:-1], strict=True)])
    same = np.flatnonzero(1 - np.abs(cosines) <= 1e-6)
    return sorted(tuple(sorted((int(order[i]), int(order[i + 1])))) for i in same)
