"""`als_gls`: many regressions with correlated errors, by alternating generalized least squares."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..._common.convergence import ConvergenceWarning
from ..._common.driver import Stopping
from ..._common.validate import check_number, check_rank
from ..._common.wording import counted, name_some
from ...factor.ascent import VanishingVariance
from ...factor.estep.protocol import loading_penalty
from ...factor.limits import at_floor, run_off
from ...factor.start import capped_groups
from ...operators.base import StructuredOperator
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .beta_step import SOLVERS, beta_step
from .climb import Climb, warn_of
from .data import read_equations
from .groups import read_covariance, read_tree
from .limits import check_bounded, check_carried
from .measures import average_loglik
from .result import SURResult

__all__ = ["SURIterate", "SUROptions", "als_gls", "check_hierarchy", "fit_system"]


class SURIterate(NamedTuple):
    """Where `als_gls` is; what its `callback` is given.

    Attributes
    ----------
    n_iter : int
        Iterations so far.
    objective : float
        Log-likelihood a row, less penalties.
    params : list of K ndarray, shapes (p_j,)
    covariance : MLR, shape (K, K)

    Examples
    --------
    >>> from mlrops import als_gls
    >>> from mlrops.datasets import simulate_sur
    >>> sim, seen = simulate_sur(5, 2, ranks=1, n_samples=60, random_state=0), []
    >>> fit = als_gls(sim.Xs, sim.Y, 1, callback=seen.append)
    >>> len(seen) == fit.n_iter + 1, bool(seen[-1].objective == fit.objective)
    (True, True)
    """

    n_iter: int
    objective: float
    params: list
    covariance: MLR


@dataclass(frozen=True)
class SUROptions:
    """How a system is fitted, checked."""

    solver: str = "cg"
    rules: Stopping = Stopping(1e-9, 1e-6, 200)
    max_cg_iter: int = 1000
    variance_floor: float = 1e-6
    beta_ridge: float = 0.0
    factor_ridge: float = 0.0

    @classmethod
    def checked(cls, solver="cg", tol=1e-9, gtol=1e-6, max_iter=200, max_cg_iter=1000,
                variance_floor=1e-6, beta_ridge=0.0, factor_ridge=0.0):
        rules = Stopping.checked(tol, gtol, max_iter)
        check_number(variance_floor, "variance_floor", below=1)
        if check_rank(max_cg_iter, "max_cg_iter") < 1:
            raise ValueError("max_cg_iter must be at least 1, got 0")
        if solver not in SOLVERS:
            raise ValueError(f'solver must be "cg" or "lsmr", got {solver!r}')
        for name, value in (("beta_ridge", beta_ridge), ("factor_ridge", factor_ridge)):
            check_number(value, name, below=math.inf)
        return cls(solver, rules, max_cg_iter, variance_floor, float(beta_ridge),
                   float(factor_ridge))

    def fit(self, data, ranks, hierarchy, *, covariance=None):
        """Fit `SURData` this way."""
        return fit_system(data, ranks, hierarchy, self, covariance=covariance)

    @property
    def how(self):
        """What a β-step takes."""
        return self.solver, self.max_cg_iter


def als_gls(Xs, Y, ranks=None, hierarchy=None, *, covariance=None, solver="cg", tol=1e-9,
            gtol=1e-6, max_iter=200, max_cg_iter=1000, variance_floor=1e-6, beta_ridge=0.0,
            factor_ridge=0.0, progress=False, callback=None):
    r"""Fit seemingly unrelated regressions with structured error covariance, by maximum likelihood.

    The model is :math:`y_{tj} = x_{tj}^T \beta_j + e_{tj}`, K equations j with regressors of their
    own, whose errors :math:`e_t \sim N(0, \Sigma)` are independent across the N rows t and share
    factors across equations: :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block
    diagonal over the groups of level l of a hierarchy of the equations.  No K×K matrix is formed.

    Parameters
    ----------
    Xs : list of K array_like or DataFrame, shapes (N, p_j), or dict of them, or DataFrame
        Regressors; an intercept is a column of ones.  ``N > p_j``, full column rank.  A list is in
        the order of the columns of Y, a dict has them by the names of the equations, and one frame
        is for all equations.
    Y : array_like or DataFrame, shape (N, K)
        Dependent variables, one equation a column.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first; one number where there is one level.  A
        group with fewer equations than its level's rank gets as many factors as it has equations
        (``result.capped`` lists them), and no level gets more than there are rows.
    hierarchy : Hierarchy or labels, optional
        Tree of the equations, as for `SUR.fit`; default one level with one group.
    covariance : StructuredOperator, array_like or DataFrame, shape (K, K), optional
        A Σ to keep, positive definite, in place of `ranks` and `hierarchy`: feasible GLS, one
        β-step to rounding.  It has converged where no more is left than rounding explains, and no
        more than `gtol`.  A DataFrame is read by the names of the equations.
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
        Cap of the solver's iterations in a β-step.  A run of conjugate gradients ends after as many
        as there are free coefficients; what rounding leaves is solved for anew.
    variance_floor : float, optional
        Lower bound of D relative to the residual variances of least squares equation by equation.
    beta_ridge, factor_ridge : float, optional
        Penalties taken off the log-likelihood of all rows: ``beta_ridge Σ_j ‖β_j‖² / 2``, in the
        units of the regressors, and ``factor_ridge tr(Fᵀ D⁻¹ F) / 2``, which has no units and keeps
        variances from the floor.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called with the `SURIterate` of the start and of every iteration; StopIteration from it ends
        the fit.  So does Ctrl-C, with the best parameters so far.

    Returns
    -------
    SURResult

    Raises
    ------
    ValueError, TypeError
        NaN, masked cells or infinity, regressors that depend on one another (equation and columns
        are named), too few rows, shapes or labels that do not fit, equations that their regressors
        fit exactly, bad ranks; a covariance that is not positive definite.

    Warns
    -----
    ConvergenceWarning
        A cap was reached, also that of the solver, the solver stalls above what rounding explains,
        or variances stand at the floor (Heywood cases).  Two equations with the
        same residuals up to a factor, which make Σ singular, are named.

    Notes
    -----
    *Labels.*  The rows are those of Y, where it has an index, else of the first X that has one;
    the rows of all others that have labels are put in their order, and refused where the labels
    differ.  Names of equations (columns of Y, or keys of Xs), of regressors and of rows are those
    of the result.  Arrays stand in the order of the data.

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
    options = SUROptions.checked(solver, tol, gtol, max_iter, max_cg_iter, variance_floor,
                                 beta_ridge, factor_ridge)
    data = read_equations(Xs, Y)
    return fit_system(data, ranks, read_tree(hierarchy, data), options, progress=progress,
                      covariance=read_covariance(covariance, data.equations, data.K),
                      callback=callback)


def fit_system(data, ranks, hierarchy, options, *, covariance=None, progress=False, callback=None):
    """`als_gls` for `SURData` and checked options."""
    if covariance is not None:
        if ranks is not None or hierarchy is not None:
            raise ValueError("give either ranks (and a hierarchy), to fit a covariance, or a"
                             " covariance to keep, not both")
        return _feasible(data, covariance, options)
    if ranks is None:
        raise TypeError("ranks is needed to fit a covariance; or give a covariance to keep")
    if data.observed is not None and options.factor_ridge:
        raise ValueError("factor_ridge needs complete samples, some equations lack some")
    if data.observed is not None and options.solver != "cg":
        raise ValueError('missing samples need solver="cg"')
    hierarchy = check_hierarchy(hierarchy, data.K)
    ranks = check_carried(data, hierarchy, ranks)
    if not options.factor_ridge:
        check_bounded(data, hierarchy, ranks)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    order = hierarchy.permutation
    label = list(range(data.K) if data.names is None else data.names.equations)
    try:
        climb = Climb(data.system(order, options.beta_ridge), hierarchy, ranks, options)
        trace, termination = _iterate(climb, hierarchy, options.rules, progress, callback)
    except VanishingVariance as error:
        low = np.sort(order[error.place])
        raise error.naming(f"{counted(low.size, 'equation')} ({name_some(label[j] for j in low)})",
                         "equation") from None
    point = climb.ascent.state.point
    place = at_floor(point.D, climb.floor)
    boundary = np.sort(order[place])
    unbounded = run_off(
        climb._source(climb.E), hierarchy, ranks, point, place, label, "equation")
    covariance = _covariance(climb, hierarchy).principal()
    penalty = climb._penalty(climb.gamma) + (
        loading_penalty(covariance, options.factor_ridge) / data.N if options.factor_ridge else 0.0)
    fit = SURResult(
        data=data, coefficients=data.exact(_coefficients(climb, hierarchy)), covariance=covariance,
        loglik=trace[-1] + penalty, loglik_trace=np.array(trace),
        objective_trace=np.array(trace), n_iter=len(trace) - 1,
        converged=termination in ("gradient", "tol"), termination=termination,
        n_cg=climb.cg_iterations, gradient_norm=climb.ascent.state.gradient_norm,
        normal_norm=climb.normal_norm, boundary=boundary, capped=capped_groups(hierarchy, ranks),
        options=options)
    if data.Y.dtype != np.float64:
        fit = replace(fit, loglik=average_loglik(fit, data))
    warn_of(fit, climb.solver_end, unbounded)
    return fit


def _iterate(climb, hierarchy, rules, progress, callback):
    """Alternate until a rule, the callback, the cap or the user says stop: trace and reason."""
    def report():
        if callback is not None:
            callback(SURIterate(len(trace) - 1, trace[-1], _coefficients(climb, hierarchy),
                                _covariance(climb, hierarchy)))

    trace, termination = [climb.objective], None
    with tqdm(total=rules.max_iter, desc="ALS", disable=not progress) as bar:
        try:
            report()
            while termination is None:
                moved = climb.iterate(rules.gtol)
                trace.append(climb.objective)
                bar.set_postfix(loglik=f"{trace[-1]:.6g}", change=f"{trace[-1] - trace[-2]:.1e}",
                                refresh=False)
                bar.update()
                report()
                termination = climb.reason(trace, moved, rules)
        except StopIteration:
            termination = "callback"
        except KeyboardInterrupt:
            climb.settle()
            if climb.objective > trace[-1]:
                trace.append(climb.objective)
            termination = "interrupted"
    return trace, termination


def _coefficients(climb, hierarchy):
    in_order = climb.system.coefficients(climb.gamma)
    return [in_order[i] for i in hierarchy._position]


def _covariance(climb, hierarchy):
    point, ranks = climb.ascent.state.point, climb.ascent.surface.ranks
    F, D = (hierarchy._scatter(x).astype(climb.system.dtype, copy=False)
            for x in (point.F, point.D))
    return MLR.from_compact(hierarchy, ranks, F, D, check_finite=False)


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


def _feasible(data, covariance, options):
    """GLS with a covariance that is known."""
    K = data.K
    if not isinstance(covariance, StructuredOperator):
        raise TypeError("covariance must be an operator of this package (Dense for an array), got"
                        f" {type(covariance).__name__}")
    if covariance.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got"
                         f" {covariance.shape}")
    if not covariance.symmetric or covariance.slogdet()[0] <= 0:
        raise ValueError(f"covariance must be symmetric positive definite, {covariance!r} is not")
    if data.observed is not None and not isinstance(covariance, MLR):
        raise ValueError("missing samples need a covariance whose blocks can be inverted one by"
                         f" one: an MLR, got {covariance!r}")
    system = data.system(beta_ridge=options.beta_ridge)
    step = beta_step(system, covariance, system.ols, 0.0, *options.how)
    penalty = float(step.gamma @ (system.penalty * step.gamma))
    loglik = system.average_loglik(system.weigh(covariance), step.quad - penalty)
    converged = not step.is_short and step.norm <= options.rules.gtol
    if not converged:
        warnings.warn(_shortfall(step, options), ConvergenceWarning, stacklevel=4)
    termination = "gradient" if converged else "max_iter" if step.end == "max_iter" else "rounding"
    return SURResult(
        data=data, coefficients=data.exact(system.coefficients(step.gamma)), covariance=covariance,
        loglik=loglik, loglik_trace=np.array([loglik]),
        objective_trace=np.array([loglik - 0.5 * penalty / data.N]), n_iter=0,
        converged=converged, termination=termination,
        n_cg=[step.n_iter], gradient_norm=0.0, normal_norm=step.norm,
        boundary=np.array([], int), options=options, covariance_is_known=True)


def _shortfall(step, options):
    """What is wrong with a β-step that did not reach rounding, or rounding not gtol."""
    said = (f"the normal equations' residual is {step.norm:.1e} after"
            f" {counted(step.n_iter, 'iteration')} of {options.solver}, ")
    if step.end == "max_iter":
        return said + "more than rounding leaves; raise max_cg_iter"
    if step.end == "stalled":
        return said + ("more than rounding explains, and falls no further: covariance is too close"
                       " to singular for it"
                       + ("" if options.solver == "lsmr" else "; try solver='lsmr'"))
    return said + (f"which is rounding; gtol asks for {options.rules.gtol:.0e}: raise gtol, or"
                   " measure Y from nearer its fit")
