"""`als_gls`: many regressions with correlated errors, by alternating generalized least squares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..._common.cluster import is_dask
from ..._common.deprecated import renamed_options
from ..._common.driver import Callback, Stopping, Watch, drive
from ..._common.stored import Stored
from ..._common.typing import Data, Labels, Optimizer, Ranks, Solver
from ..._common.validate import check_number, check_rank
from ...factor.climb import check_optimizer
from ...factor.likelihood import VanishingVariance
from ...factor.limits import at_floor, run_off
from ...factor.prior import NEEDS_PRIOR, prior_fields, read_strength, read_variance
from ...factor.usable import capped_groups
from ...operators.base import StructuredOperator
from ...tree.hierarchy import Hierarchy
from .beta_step import SOLVERS
from .climb import alternation, warn_of
from .data import SURData, read_equations
from .feasible import estimated_gls, known_gls
from .groups import read_covariance, read_tree
from .limits import check_bounded, check_carried
from .measures import average_loglik
from .parts.fit import fit_in_parts
from .parts.opening import read_parts
from .result import SURResult

METHODS = "factor", "fgls", "ifgls"

__all__ = ["METHODS", "SUROptions", "als_gls", "check_hierarchy", "fit_system"]


@dataclass(frozen=True, kw_only=True)
class SUROptions(Stopping, Stored):
    """How a system is fitted, checked."""

    max_iter: int = 200
    solver: str = "cg"
    maxiter: int = 1000
    variance_floor: float = 1e-6
    beta_ridge: float = 0.0
    factor_ridge: float = 0.0
    optimizer: str = "auto"
    prior: float | bool | None = None  # strength, or True for the number of factors
    prior_variance: float | tuple[float, ...] | None = None  # of all, or of each equation
    method: str = "factor"
    dfk: bool = False
    small: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.variance_floor, "variance_floor", below=1)
        if check_rank(self.maxiter, "maxiter") < 1:
            raise ValueError("maxiter must be at least 1, got 0")
        if self.solver not in SOLVERS:
            raise ValueError(f'solver must be "cg" or "lsmr", got {self.solver!r}')
        check_optimizer(self.optimizer)
        check_number(self.beta_ridge, "beta_ridge", below=math.inf)
        check_number(self.factor_ridge, "factor_ridge", below=math.inf)
        if isinstance(self.prior, str) and self.prior == "cv":
            raise ValueError('prior="cv" chooses the strength for factor models; for regressions'
                             " give prior=True or a number")
        object.__setattr__(self, "prior", read_strength(self.prior))
        if self.prior_variance is not None and self.prior is None:
            raise ValueError(NEEDS_PRIOR)
        self._check_method()

    def _check_method(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got"
                             f" {self.method!r}")
        for name in "dfk", "small":
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        factor = self.method == "factor"
        taken = [name for name in (("dfk", "small") if factor else ("prior", "factor_ridge"))
                 if getattr(self, name)]
        if taken:
            other = '"fgls" or "ifgls"' if factor else '"factor"'
            raise ValueError(f"{taken[0]} is an option of method={other}, got"
                             f" method={self.method!r}; leave it out")

    def with_variances(self, variance: Any, data: SURData) -> "SUROptions":
        """The same with variances of the prior, matched to the equations by name."""
        if variance is None:
            return self
        label = None if data.names is None else data.names.equations
        known = read_variance(variance, label, data.K, "equation")
        return replace(self, prior_variance=tuple(known.tolist()))

    def fit(self, data: SURData, ranks: Any, hierarchy: Any, *,
            covariance: StructuredOperator | None = None) -> SURResult:
        """Fit `SURData` this way."""
        return fit_system(data, ranks, hierarchy, self, covariance=covariance)


@renamed_options(max_cg_iter="maxiter")
def als_gls(Xs: Sequence[Data] | Mapping[Any, Data] | Data, Y: Data, ranks: Ranks | None = None,
            hierarchy: Hierarchy | Labels | None = None, *,
            covariance: StructuredOperator | Data | None = None,
            solver: Solver = "cg", tol: float = 1e-9, gtol: float = 1e-5,
            max_iter: int = 200, maxiter: int = 1000, variance_floor: float = 1e-6,
            beta_ridge: float = 0.0, factor_ridge: float = 0.0, optimizer: Optimizer = "auto",
            prior: float | bool | None = None, prior_variance: Labels | float | None = None,
            progress: bool = False, callback: Callback | None = None) -> SURResult:
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
        is for all equations.  Beside a dask array Y: an array (N, p) for all equations, of dask or
        not, a list of arrays of one shape, or a dask array (N, K, p) in the chunks of Y.
    Y : array_like, DataFrame or dask array, shape (N, K)
        Dependent variables, one equation a column.  A dask array in chunks of whole columns is
        fitted where its chunks are, see *Beyond one machine*.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first; one number where there is one level.  A
        group gets as many factors as it has equations at most, at all levels together at which it
        stands (``result.capped`` lists those with fewer than the rank), and no level gets more than
        there are rows.
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
        Stop after three iterations in a row that each gain at most `tol` times the gain in average
        log-likelihood over independent errors, or `tol` K / 2 where that is more.
    gtol : float, optional
        Stop where neither ``gradient_norm`` nor ``normal_norm`` of the result exceeds this.
    max_iter : int, optional
        Cap of the iterations, each a Σ-step and a β-step.
    maxiter : int, optional
        Cap of the solver's iterations in a β-step.  A run of conjugate gradients ends after as many
        as there are free coefficients; what rounding leaves is solved for anew.
    variance_floor : float, optional
        Lower bound of D relative to the residual variances of least squares equation by equation.
    beta_ridge, factor_ridge : float, optional
        Penalties taken off the log-likelihood of all rows: ``beta_ridge Σ_j ‖β_j‖² / 2``, in the
        units of the regressors, and ``factor_ridge tr(Fᵀ D⁻¹ F) / 2``, which has no units and keeps
        variances from the floor.
    optimizer : {"auto", "scoring", "bfgs", "em"}, optional
        How steps of Σ are found, as in `fit_factor_model`; ``"auto"`` is scoring up to
        1000 numbers in F, else BFGS.
    prior : None, True or float, optional
        Strength α, in pseudo-samples, of an inverse-gamma prior on D, as in `fit_factor_model`:
        ``α Σ_j (log D_j + t_j / D_j) / 2`` is taken off the log-likelihood of all rows.  True is
        one for each factor that an equation sees.
    prior_variance : float, array_like, Series or dict, shape (K,), optional
        Its variances t: one number, or one an equation, matched by name.  Default the residual
        variances of least squares equation by equation.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called with the `Iterate` of the start and of every iteration; StopIteration from it ends
        the fit.  So does Ctrl-C after the update of Σ or the β-step that is under way; a second
        one breaks that off.  The result has the best parameters so far.

    Returns
    -------
    SURResult
        Of a dask array a `DistributedSURResult`, whose arrays are dask arrays; its ``gather()`` is
        a SURResult, where one memory holds it.

    Raises
    ------
    ValueError, TypeError
        NaN, masked cells or infinity, regressors that depend on one another (equation and columns
        are named), too few rows, shapes or labels that do not fit, equations that their regressors
        fit exactly, bad ranks; a covariance that is not positive definite.  Of a dask array also
        chunks of rows or of unknown sizes, of Xs that are not those of Y, or that are no runs of
        whole groups in the order of the hierarchy, and options that are for data in memory.

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

    *Σ-step.*  Updates on the residuals, as `fit_factor_model` takes them, to a tenth of the
    gradient before it or until gains are small: up to 8 in the first iteration, twice as many in
    each later one, at most 128.  What one step has learnt serves the next.

    A half-step that would let the log-likelihood fall is not taken.  Coefficients and covariance
    are orthogonal in Fisher's information (T. Breusch, "Useful invariance results for generalized
    regression models", 1980), so few iterations are needed when N is large, five or so at N = 300.
    When it is small, or variances run to the floor, each half-step can hold the other back: the
    gradient falls by less than a fifth an iteration.  Then, from the sixth iteration on, the Σ-step
    climbs the likelihood *maximized over β* by BFGS directions: every update takes a β-step of its
    own.  Where likelihoods of inexact β hide its gains it asks for more exact
    ones.  Iterating to the maximum gives the estimates of W. Oberhofer, J. Kmenta, "A general
    procedure for obtaining maximum likelihood estimates in generalized regression models" (1974).

    In memory: the regressors once more, a few arrays of the size of Y, about fifteen of the size
    of F.

    *Beyond one machine.*  A dask array Y in chunks of columns, ``Y.rechunk({0: -1})``, each a run
    of equations in the order of the hierarchy, stays where its chunks are, and so do regressors,
    residuals, coefficients and covariance: the same alternation climbs with points and vectors cut
    by equations; `SUR` of dask arrays does the same.  A product with the normal matrix is a sweep
    up the tree in each part, one through the levels above the parts, and one down; parts exchange
    ``R_c N`` numbers a parent and product, and ``R_c² + R_c N`` an update of Σ, R_c the ranks
    above.  The bits of the result depend on the chunks, not on the workers; one that is lost costs
    the work since the last files, which are written every ten products or updates to dask's
    ``temporary-directory``, where all must see it.  Where Σ climbs it climbs by BFGS or EM.  A
    covariance to keep, ``solver="lsmr"``, ``optimizer="scoring"``, ``factor_ridge``, names, weights
    and missing cells are for data in memory.  Standard errors are those of one machine, see
    `DistributedSURResult.bse`.  100,000 equations with N = 200, p = 3 and 5 factors took 21 to 35 s
    and up to 1.3 GB on each of two workers with a thread each, 0.15 GB where the fit was called,
    and moved 0.4 to 0.8 MB an iteration (ten chunks, 7 iterations;
    ``tests/benchmarks/test_sur_in_parts.py``).  Where one memory holds them, one process is
    faster: 14 s and 2.9 GB with two threads.

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
    options = SUROptions(
        solver=solver, tol=tol, gtol=gtol, max_iter=max_iter, maxiter=maxiter,
        variance_floor=variance_floor, beta_ridge=beta_ridge, factor_ridge=factor_ridge,
        optimizer=optimizer, prior=prior)
    if is_dask(Y) or is_dask(Xs):
        found: Any = fit_in_parts(read_parts(Xs, Y), ranks, hierarchy, options,
                                  covariance=covariance, prior_variance=prior_variance,
                                  progress=progress, callback=callback)
        return found
    data = read_equations(Xs, Y)
    options = options.with_variances(prior_variance, data)
    return fit_system(data, ranks, read_tree(hierarchy, data), options, progress=progress,
                      covariance=read_covariance(covariance, data.equations, data.K),
                      callback=callback)


def fit_system(data: SURData, ranks: Any, hierarchy: Any, options: SUROptions, *,
               covariance: StructuredOperator | None = None, progress: bool = False,
               callback: Callback | None = None) -> SURResult:
    """`als_gls` for `SURData` and checked options."""
    if options.method != "factor":
        if any(x is not None for x in (ranks, hierarchy, covariance)):
            raise ValueError(f"method={options.method!r} estimates an unrestricted covariance:"
                             " leave out ranks, hierarchy and covariance")
        return estimated_gls(data, options, Watch(progress, callback))
    if covariance is not None:
        if ranks is not None or hierarchy is not None:
            raise ValueError("give either ranks (and a hierarchy), to fit a covariance, or a"
                             " covariance to keep, not both")
        return known_gls(data, covariance, options)
    if ranks is None:
        raise TypeError("ranks is needed to fit a covariance; or give a covariance to keep")
    if data.observed is not None and options.factor_ridge:
        raise ValueError("factor_ridge needs complete samples, some equations lack some")
    if data.observed is not None and options.solver != "cg":
        raise ValueError('missing samples need solver="cg"')
    hierarchy = check_hierarchy(hierarchy, data.K)
    ranks = check_carried(data, hierarchy, ranks)
    if not options.factor_ridge and not options.prior:
        check_bounded(data, hierarchy, ranks)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    order = hierarchy.permutation
    label: Any = list(range(data.K) if data.names is None else data.names.equations)
    try:
        fit = alternation(data.system(order, options.beta_ridge), hierarchy, ranks, options)
        run = drive(fit, max(options.max_iter, 1), "ALS", Watch(progress, callback))
    except VanishingVariance as error:
        raise error.naming(hierarchy, label, "equation") from None
    state, floor = fit.ascent.state, fit.ascent.surface.floor
    place = at_floor(state.point.D, floor)
    prior = fit.ascent.surface.prior
    unbounded = None if prior is not None else run_off(
        fit.at.data, hierarchy, ranks, state.point, place, label, "equation")
    result = SURResult(
        data=data, coefficients=data.exact(fit.params), covariance=fit.covariance.principal(),
        loglik=run.logliks[-1], loglik_trace=np.array(run.logliks),
        objective_trace=np.array(run.objectives), n_iter=run.n_iter, converged=run.converged,
        termination=run.termination, n_cg=fit.n_cg, gradient_norm=state.gradient_norm,
        normal_norm=fit.normal_norm, boundary=np.sort(order[place]),
        capped=capped_groups(hierarchy, ranks), options=options, **prior_fields(prior, hierarchy))
    if data.Y.dtype != np.float64:
        result = replace(result, loglik=average_loglik(result, data))
    warn_of(result, fit.solver_end, unbounded)
    return result


def check_hierarchy(hierarchy: Hierarchy | None, K: int) -> Hierarchy:
    """A hierarchy of K equations, flat by default."""
    if hierarchy is None:
        return Hierarchy.flat(K)
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    if hierarchy.n != K:
        raise ValueError(f"Y must have one column for each of the hierarchy's {hierarchy.n}"
                         f" equations, got {K}")
    return hierarchy
