"""The alternation of `als_gls`: Σ-steps climb a factor model, β-steps are conjugate gradients."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from ..._common.cached import cached_property
from ..._common.convergence import ConvergenceWarning
from ..._common.driver import Iterate, Iteration, whole_step
from ..._common.typing import FloatArray
from ..._common.wording import counted
from ...factor.ascent import Ascent
from ...factor.climb import is_linear, jumps_of
from ...factor.estep.complete import CompleteData
from ...factor.estep.incomplete import IncompleteData
from ...factor.estep.protocol import EStep, loading_penalty
from ...factor.likelihood import LikelihoodSurface
from ...factor.limits import FEWER, check_scale, warn_of_floor, warn_of_prior
from ...factor.point import Point
from ...factor.prior import read_prior, ruled_by_prior
from ...factor.start import start
from ...operators.base import StructuredOperator
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .beta_step import BetaStep, beta_step
from .system import StackedSystem

__all__ = ["LEAST_GAIN", "Alternation", "residual_source", "warn_of"]

# Updates of Σ in the first iteration, and in any; each later one may take twice as many.
FIRST_UPDATES, MOST_UPDATES = 8, 128
# After this many iterations the Σ-step takes the coefficients along, once an iteration no longer
# brings the gradient below this share of what the one before it left: with 12 equations of 2 to 4
# regressors, N = 20 and 3 factors the alternation took 21 to 31, and then 9 to 13 are enough.
# After LATE iterations it does so in any case.
SEPARATE, SLOW, LATE = 6, 0.8, 15
# Numbers in F up to which Σ climbs by scoring: it is what gets small systems whose variances run to
# the floor to their maximum.  In larger ones what BFGS directions have learnt at one β serves for
# the next: 469 equations took them half the time.
FEW = 1000
# A half-step goes on until its gradient is this share of what the other one left; a smaller one
# where the log-likelihood of inexact coefficients hides gains.
SHARE, LEAST_SHARE = 0.1, 1e-4
# Updates of Σ, and iterations, whose gains must all be small: one small gain is no proof that the
# next is small, too.  The same of iterations in which Σ-steps end by small gains.
SMALL_GAINS, QUIET = 3, 3
# Updates of Σ are small by this share of what iterations are: many small ones make a large one.
SMALLER = 0.01
# A gain, relative as `tol` is, that does not keep a fit with a small gradient from stopping.
LEAST_GAIN = 1e-9


def residual_source(E: FloatArray, system: StackedSystem | None = None, tree: Any = None,
                    ridge: float = 0.0) -> Any:
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
    return CompleteData(X, np.einsum("kt,kt->k", X, X), np.zeros(K), N, float(N), ridge,
                        dtype=dtype)


class Coefficients(NamedTuple):
    """Coefficients of a stacked system, and what they leave of the data."""

    gamma: FloatArray  # (P,)
    residuals: FloatArray  # (K, N)


class StepAt:
    """An E-step for Σ on the residuals of some coefficients, whose penalty is taken off."""

    def __init__(self, step: EStep, at: "Regressions"):
        self.loglik, self.at = step.loglik - at.penalty, at
        self.update, self.gradient = step.update, step.gradient
        self.precondition = step.precondition


class Regressions:
    """A system in tree order: the source of EM for Σ that the residuals of its coefficients are.

    Without a target these are the coefficients given.  With one they are the best coefficients for
    each Σ, of a β-step to that target: the log-likelihood is then the one maximized over β.  That
    has the same gradient by Σ, and an EM step followed by a β-step cannot lower it.
    """

    mean_is_free = False

    def __init__(self, system: StackedSystem, tree: Hierarchy, options: Any,
                 coefficients: Coefficients | BetaStep, target: float | None = None):
        self.system, self.tree, self.options = system, tree, options
        self.coefficients, self.target = coefficients, target
        self.n_cg = 0  # iterations of the solver so far

    def over(self, coefficients: BetaStep, target: float | None = None) -> "Regressions":
        """The same system with other coefficients."""
        return Regressions(self.system, self.tree, self.options, coefficients, target)

    @property
    def shares(self) -> FloatArray:
        """Share of the rows that show each equation."""
        return self.data.shares

    @cached_property
    def data(self) -> Any:
        """The residuals of the coefficients as a source of EM."""
        return residual_source(self.coefficients.residuals, self.system, self.tree,
                               self.options.factor_ridge)

    @cached_property
    def penalty(self) -> float:
        """What a ridge takes off the average log-likelihood a row for the coefficients."""
        if not self.system.ridge:
            return 0.0
        gamma = self.coefficients.gamma
        return 0.5 * float(gamma @ (self.system.penalty * gamma)) / self.system.N

    def solve(self, covariance: StructuredOperator, target: float) -> BetaStep:
        """The best coefficients for a covariance, from those there are."""
        return beta_step(self.system, covariance, self.coefficients.gamma, target,
                         self.options.solver, self.options.maxiter)

    def evaluate(self, covariance: MLR, mean: FloatArray) -> StepAt:
        if self.target is None:
            return StepAt(self.data.evaluate(covariance, mean), self)
        self.coefficients = best = self.solve(covariance, self.target)
        self.n_cg += best.n_iter
        return self.over(best).evaluate(covariance, mean)


class Alternation(Iteration):
    """Σ-steps and β-steps in turn; arrays in tree order, always at the best parameters so far.

    The Σ-step is the ascent of a factor model on one of two sources: the residuals of the
    coefficients that the last β-step gave, or those of the best coefficients for each Σ.
    """

    def __init__(self, system: StackedSystem, hierarchy: Hierarchy, ranks: tuple[int, ...],
                 options: Any):
        tree = hierarchy._in_tree_order()
        self.system, self.hierarchy, self._options = system, hierarchy, options
        first = Coefficients(system.ols, system.residuals(system.ols))
        system.check_errors(first.residuals)
        source = Regressions(system, tree, options, first)
        data = source.data
        check_scale(data, hierarchy, [system.numbers[i] for i in hierarchy._position], "equation")
        floor = options.variance_floor * data.variance
        F, D = start("principal_factor", tree, ranks, data, None)
        optimizer = options.optimizer
        if optimizer == "auto":
            optimizer = "scoring" if hierarchy.n * sum(ranks) <= FEW else "bfgs"
        prior = read_prior(options.prior, options.prior_variance, system.N, data.shares,
                           data.variance, hierarchy, ranks, None, "equation")
        surface = LikelihoodSurface(source, tree, ranks, floor, np.sqrt(data.variance),
                                    is_linear(optimizer), prior)
        self.ascent = Ascent(surface, Point(F, np.maximum(D, floor), data.mean),
                             jumps_of(optimizer, surface.vectors))
        self._independent = surface.over(data).independent
        self._profiled = False  # whether Σ-steps take the coefficients along
        self._share, self._moved = SHARE, True
        # Whether the last Σ-step reached its goal, or ended by small gains; and iterations in a row
        # in which it did, and the β-step gained as little.
        self._arrived, self._ended_small, self._quiet = False, False, 0
        self._norms: list[float] = []  # of the gradient that Σ-steps left
        self.n_cg: list[int] = []  # iterations of the solver, by iteration
        self.normal_norm, self.solver_end = np.inf, "target"  # of the last β-step

    @property
    def at(self) -> Regressions:
        """The system at the best coefficients so far."""
        step: Any = self.ascent.state.step
        return step.at

    @property
    def objective(self) -> float:
        """Log-likelihood a row less penalties."""
        return self.ascent.state.objective + self.system.log_weights / self.system.N

    @property
    def loglik(self) -> float:
        """Log-likelihood a row."""
        covariance, ridge = self.ascent.state.covariance, self._options.factor_ridge
        penalty = loading_penalty(covariance, ridge) / self.system.N if ridge else 0.0
        state = self.ascent.state
        return self.objective + (state.loglik - state.objective) + self.at.penalty + penalty

    @property
    def params(self) -> list[FloatArray]:
        """Coefficients of each equation, in the order of the data."""
        in_order = self.system.coefficients(self.at.coefficients.gamma)
        return [in_order[i] for i in self.hierarchy._position]

    @property
    def covariance(self) -> MLR:
        """Σ, in the order of the data."""
        return self.ascent.state.point.operator(
            self.hierarchy, self.ascent.surface.ranks, self.system.dtype)

    def iterate(self, n_iter: int) -> Iterate:
        return Iterate(n_iter, self.objective, self.loglik, self.covariance, self.params,
                       self.ascent.surface.ranks)

    def advance(self) -> None:
        """Take a Σ-step and a β-step."""
        moved = self._climb_covariance()
        between = self.objective
        self._moved = self._solve_coefficients() or moved
        quiet = self._ended_small and self._is_small([between, self.objective], 1)
        self._quiet = self._quiet + 1 if quiet else 0

    def _target(self) -> float:
        """The residual of the normal equations at which a β-step stops now."""
        return self._share * max(self.ascent.state.gradient_norm, self._options.gtol)

    def _climb_covariance(self) -> bool:
        """Take updates of Σ; whether one gained anything, or may gain when tried again."""
        goal = max(SHARE * self.ascent.state.gradient_norm, self._options.gtol / 2)
        if self._profiled:
            self.ascent.surface.source.target = self._target()
        # The exponent is capped only to keep the integer small.
        most = min(FIRST_UPDATES * 2 ** min(len(self.n_cg), 30), MOST_UPDATES)
        trace, moved = [self.objective], False
        for _ in range(most):
            with whole_step():
                self._arrived = self.ascent.state.gradient_norm <= goal
                self._ended_small = self._is_small(trace, share=SMALLER)
                if self._arrived or self._ended_small or not self.ascent.advance():
                    break
                moved = True
                trace.append(self.objective)
        if self._profiled and self.ascent.exhausted and self._share > LEAST_SHARE:
            self._share *= SHARE  # another try, with coefficients whose inexactness hides less
            return True
        return moved

    def _solve_coefficients(self) -> bool:
        """Take a β-step; whether it gained anything."""
        state, surface, before = self.ascent.state, self.ascent.surface, self.at
        step = before.solve(state.covariance, self._target())
        self.n_cg.append(step.n_iter + surface.source.n_cg)
        self.solver_end = step.end if step.is_short else "target"
        surface.source.n_cg = 0
        if step.gamma is before.coefficients.gamma and not self.ascent.exhausted:
            self.normal_norm = step.norm
            return False
        slow = self._is_slow()
        source = before.over(step, self._target() if slow else None)
        # The curvature that the ascent has seen hardly depends on β.
        jumps, linear = self.ascent.jumps, surface.linear
        if slow and not self._profiled:
            jumps, linear = jumps_of("bfgs", surface.vectors), is_linear("bfgs")
        ascent = Ascent(surface.over(source, linear), state.point, jumps)
        if ascent.state.objective < state.objective:
            self.normal_norm = step.first_norm
            return False
        self.ascent, self._profiled, self.normal_norm = ascent, slow, step.norm
        return True

    def _is_slow(self) -> bool:
        """Whether the half-steps hold each other back; once that is so, it stays so.

        A Σ-step that its cap ended says nothing of that, nor does one that went as far as `gtol`.
        """
        self._norms.append(self.ascent.state.gradient_norm)
        slow = len(self._norms) >= SEPARATE and self._norms[-1] > max(
            SLOW * self._norms[-2], self._options.gtol)
        return self._profiled or slow and self._arrived or len(self._norms) >= LATE

    def _scale(self, trace: list[float]) -> float:
        """What gains are measured by.

        The gain over independent errors does not depend on units, as the log-likelihood does.
        """
        return max(trace[-1] - self._independent, self.system.K / 2)

    def _is_small(self, trace: list[float], count: int = SMALL_GAINS, share: float = 1.0) -> bool:
        """Whether the last gains were small, of iterations or, to a share of that, of updates."""
        return self._options.small_gains(trace, share * self._scale(trace), count)

    def reason(self, trace: list[float]) -> str | None:
        if len(trace) == 1:
            return None
        tol, gtol = self._options.tol, self._options.gtol
        gain = (trace[-1] - trace[-2]) / self._scale(trace)
        # With many parameters small derivatives can still add up to a gain.
        still = max(self.ascent.state.gradient_norm, self.normal_norm) <= gtol
        if still and (not self._moved or gain <= max(tol, LEAST_GAIN)):
            return "gradient"
        if not self._moved or self._quiet >= QUIET or self._is_small(trace):
            # Gains are no measure of coefficients that the solver leaves on their way.  Where it
            # stalls at a residual whose square no likelihood shows, they are there.
            most = 0.0 if self.solver_end == "max_iter" else LEAST_GAIN**0.5
            if self.solver_end == "target" or self.normal_norm <= max(gtol, most):
                return "tol"
            if not self._moved:
                return "max_iter" if self.solver_end == "max_iter" else "rounding"
        return None


def warn_of(fit: Any, solver_end: str = "target", unbounded: str | None = None,
            stacklevel: int = 5) -> None:
    """Warn of what makes a `SURResult` doubtful.

    That is a cap that was reached, rounding where coefficients are not yet right (`solver_end` says
    how the last β-step ended), equations with the same residuals, variances at the floor, or the
    reason why the likelihood is `unbounded`.
    """
    names, options = fit.data.names, fit.options
    label = list(range(fit.n_equations) if names is None else names.equations)
    alike = _alike(np.nan_to_num(fit.errors.T)) if any(fit.covariance.ranks) else []

    def warn(message: str) -> None:
        warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel + 1)

    if fit.termination == "max_iter" and solver_end == "max_iter":
        warn(f"the alternation did not converge in {counted(fit.n_iter, 'iteration')} with at most"
             f" {counted(options.maxiter, 'step')} of {options.solver} each; raise maxiter")
    elif fit.termination == "max_iter":
        warn(f"the alternation did not converge in {counted(options.max_iter, 'iteration')};"
             " raise max_iter or tol")
    if fit.termination == "rounding":
        warn(f"rounding lets no step gain anything where the normal equations leave a residual of"
             f" {fit.normal_norm:.1e} and the covariance a gradient of {fit.gradient_norm:.1e},"
             f" {options.gtol:.0e} was asked for: Σ is too close to singular; raise"
             " variance_floor or gtol" + ("" if options.solver == "lsmr" or not fit.n_cg
                                          else ", or try solver='lsmr'"))
    if alike:
        pairs = " and of ".join(f"equations {label[i]} and {label[j]}" for i, j in alike[:5])
        warn(f"the residuals of {pairs} are the same up to a factor, so Σ is singular: leave one of"
             " them out")
    warn_of_prior(ruled_by_prior(fit.covariance.D, vars(fit)) if fit.prior else fit.boundary[:0],
                  fit.n_equations, label, "equation", "a weaker prior or none", stacklevel + 1)
    warn_of_floor(fit.boundary, label, options.variance_floor, unbounded, "equation",
                  "residual variance", "" if alike else FEWER, stacklevel + 1)


def _alike(E: FloatArray) -> list[tuple[int, int]]:
    """Pairs of rows of E that are multiples of one another, found as neighbours on a line."""
    U = E / np.linalg.norm(E, axis=1, keepdims=True)
    place = np.abs(U @ np.random.default_rng(0).standard_normal(U.shape[1]))
    order = np.argsort(place)
    return sorted((int(min(pair)), int(max(pair))) for pair in zip(order[1:], order, strict=False)
                  if 1 - abs(U[pair[0]] @ U[pair[1]]) <= 1e-6)
