"""Tests of hypotheses about a system of regressions: coefficients, and a diagonal covariance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import chdtrc, fdtrc

from ..._common.convergence import ConvergenceWarning
from ..._common.jobs import Jobs
from ..._common.progress import progress_bar
from ..._common.typing import BoolArray, FloatArray, IntArray, RandomState
from ..._common.validate import check_rank
from ..._common.warned import kept_warnings, pass_on
from ..._common.wording import counted, name_some
from ...factor.criteria import degrees_of_freedom
from .bootstrap import bare, drawn_data
from .constraints import holds_dicts, read_constraints
from .covariance import Covariance, estimated, joint_estimate
from .measures import sums_of_squares
from .small_sample import wald_df
from .system_fit import SystemFit

__all__ = ["HypothesisTest", "breusch_pagan", "homogeneity_test", "likelihood_ratio", "wald_test"]

# Pairs of equations whose sums of products are formed at a time, where samples differ.
PAIRS = 4_000_000
UNCORRELATED = "errors are uncorrelated across equations"
COLUMNS = 256  # of the covariance of the coefficients that are formed at a time


@dataclass(frozen=True, repr=False)
class HypothesisTest:
    """The outcome of a test.

    Attributes
    ----------
    statistic : float
    pvalue : float
        Probability of a larger statistic where the null hypothesis holds.
    df : int
        Degrees of freedom: number of restrictions.
    df_denom : float or None
        Those of the denominator of an F statistic; None for a χ² statistic.
    name, null : str
        The test, and the null hypothesis.
    n_simulations : int
        Number of simulated statistics that `pvalue` counts; 0 where it is that of a distribution.
    is_bound : bool
        Whether `pvalue` is only an upper bound of that probability.

    Examples
    --------
    >>> from mlrops.regression.sur.hypotheses import HypothesisTest
    >>> HypothesisTest(9.49, 0.05, 4, name="Breusch-Pagan", null="uncorrelated errors")
    <Breusch-Pagan: chi2(4) = 9.49, p = 0.0500; null: uncorrelated errors>
    """

    statistic: float
    pvalue: float
    df: int
    df_denom: float | None = None
    name: str = "Wald"
    null: str = ""
    n_simulations: int = 0
    is_bound: bool = False

    def __repr__(self) -> str:
        law = f"chi2({self.df})" if self.df_denom is None else f"F({self.df}, {self.df_denom:.4g})"
        if self.n_simulations:
            law = f"statistic ({self.n_simulations} simulated)"
        sign = "<=" if self.is_bound else "="
        return (f"<{self.name}: {law} = {self.statistic:.5g}, p {sign} {self.pvalue:.4f};"
                f" null: {self.null}>")


def wald_test(fit: SystemFit, R: Any, q: Any = None, *,
              use_f: bool | None = None) -> HypothesisTest:
    r"""Wald test of linear restrictions :math:`R \beta = q` on the coefficients.

    Parameters
    ----------
    R : array_like, DataFrame, dict, Series, or list of dict or of (dict, value)
        An array (m, P) or (P,), coefficients equation by equation; a DataFrame whose columns
        are (equation, regressor) pairs, those that are left out being zero; or for each
        restriction a dict ``{(equation, regressor): factor}``, with the value beside it where
        that is not zero; one restriction also as a Series.  Equations and regressors go by
        their names, or by their numbers where they have none.
    q : float, array_like, Series or dict, shape (m,), optional
        For R as an array or DataFrame; default zeros.  A Series or dict is read by R's index.
    use_f : bool, optional
        An F statistic, or a χ² statistic.  Default F, but χ² where the covariance of the errors
        is known.

    Returns
    -------
    HypothesisTest
        With ``statistic``, ``pvalue``, ``df``, ``df_denom``, ``null``.

    Raises
    ------
    ValueError
        Restrictions that contradict one another or constraints of the fit, or say nothing that
        these do not say; names that are not known; a robust covariance of the coefficients
        that is singular along the restrictions.

    Notes
    -----
    :math:`W = (R\beta - q)^T (R V R^T)^{-1} (R\beta - q)` with the covariance V of the
    coefficients that `bse` uses (`with_cov`).  Restrictions that follow from the others do not
    count.  W is χ² with m degrees of freedom as N grows.  F is ``W / m``, its denominator
    degrees of freedom those of A. Fai, P. Cornelius (1996) from the equations' ``df_resid``;
    for one coefficient it is the square of its t value.  V comes from one solve with the normal
    equations for each coefficient that R speaks of.
    """
    if isinstance(R, (list, np.ndarray)) and not holds_dicts(R):
        R = np.atleast_2d(R)
    R, q, words = read_constraints(R, q, fit.names)
    empty = np.flatnonzero(~R.any(axis=1))
    if empty.size or not len(R):
        raise ValueError("R must hold at least one restriction, none of zeros alone"
                         + (f", got row {name_some(empty)}" if empty.size else ""))
    short = len(words) <= 2 and not words[0].startswith("row ")
    null = ", ".join(words) if short else counted(len(R), "linear restriction")
    return _wald(fit, R, q, null, use_f)


def homogeneity_test(fit: SystemFit, regressor: str | int, *,
                     use_f: bool | None = None) -> HypothesisTest:
    """Wald test that a regressor has one coefficient in all equations that have it.

    Zellner's test for aggregation bias (1962), a regressor at a time.

    Parameters
    ----------
    regressor : str, or int where regressors have no names
    use_f : bool, optional
        As in `wald_test`.

    Returns
    -------
    HypothesisTest

    Raises
    ------
    ValueError
        Fewer than two equations have it.
    """
    at = [i for i, (_, name) in enumerate(fit.names.coefficients()) if name == str(regressor)]
    if len(at) < 2:
        raise ValueError(f"regressor {regressor!r} must stand in at least two equations, it stands"
                         f" in {len(at)}")
    R = np.zeros((len(at) - 1, fit.n_params))
    R[:, at[0]] = 1
    R[np.arange(len(at) - 1), at[1:]] = -1
    what = f"regressor {regressor}" if fit.data.names is None else regressor
    null = f"one coefficient of {what} in {counted(len(at), 'equation')}"
    return _wald(fit, R, np.zeros(len(R)), null, use_f)


def _wald(fit: SystemFit, R: FloatArray, q: FloatArray, null: str,
          use_f: bool | None) -> HypothesisTest:
    """Test ``R β = q`` for R (m, P)."""
    gap = R @ np.concatenate(fit.coefficients).astype(float) - q
    T = _independent(fit, R, q, gap)
    used = np.flatnonzero(R.any(axis=0))
    equations = np.repeat(np.arange(fit.n_equations), fit.data.p)[used]
    across = np.unique(equations).size > 1
    V = _covariance_among(joint_estimate(fit) if across else estimated(fit), fit.n_params, used)
    R, gap = T @ R[:, used], T @ gap
    spread = np.sqrt(np.einsum("mi,ij,mj->m", R, V, R))
    R, gap = R / spread[:, None], gap / spread  # restrictions of variance 1: no units
    W = R @ V @ R.T
    value, axes = np.linalg.eigh(W)
    if not value[0] > len(W) * np.finfo(fit.system.dtype).eps * value[-1]:
        raise ValueError(
            f"the {fit.cov_type} covariance of the coefficients is singular along the {len(W)}"
            " restrictions: test fewer at a time, or with another covariance (with_cov)")
    chi2, m = float(np.sum(np.square(axes.T @ gap) / value)), len(W)
    df = fit._degrees(shared=False) if across else fit._df_resid
    known = np.isinf(df[equations]).any()
    if use_f is False or (use_f is None and known):
        return HypothesisTest(chi2, float(chdtrc(m, chi2)), m, null=null)
    pooled = fit.method != "factor"  # one number of degrees of freedom for all equations
    df_denom = (math.inf if known else float(df[0]) if pooled
                else wald_df(R, V, equations, df))
    pvalue = chdtrc(m, chi2) if known else fdtrc(m, df_denom, chi2 / m)
    return HypothesisTest(chi2 / m, float(pvalue), m, df_denom, null=null)


def _covariance_among(covariance: Covariance, P: int, used: IntArray) -> FloatArray:
    """Covariance of the coefficients of these numbers."""
    out = np.empty((used.size, used.size))
    for start in range(0, used.size, COLUMNS):
        some = used[start : start + COLUMNS]
        unit = np.zeros((P, some.size))
        unit[some, np.arange(some.size)] = 1
        out[:, start : start + some.size] = covariance.times(unit)[used]
    return (out + out.T) / 2


def _independent(fit: SystemFit, R: FloatArray, q: FloatArray, gap: FloatArray) -> FloatArray:
    """T (rank, m): combinations of the rows of R that say all of ``R β = q``, each once.

    In coordinates in which units do not matter, without what constraints of the fit say already.
    """
    system = fit.system
    C = system.pull(R.T.astype(system.dtype))
    length = np.linalg.norm(C, axis=0)
    C, Z = C / length, system.constraint_columns
    for _ in range(0 if Z is None else 2):  # the second one for rounding
        C = C - Z @ (Z.T @ C)
    _, size, Vt = np.linalg.svd(C.astype(float), full_matrices=True)
    tol = 10 * max(C.shape) * np.finfo(system.dtype).eps
    rank = int(np.count_nonzero(size > tol))
    left = Vt[rank:] / length
    rounding = np.abs(R) @ np.abs(np.concatenate(fit.coefficients)) + np.abs(q)
    wrong = np.abs(left @ gap) > 1e3 * tol * (np.abs(left) @ rounding)
    if wrong.any():
        rows = np.flatnonzero(np.abs(Vt[rank:][wrong]).max(axis=0) > 1e-6)
        raise ValueError(f"restrictions contradict one another, or constraints of the fit: row"
                         f" {name_some(rows)} of R β = q cannot hold together")
    if not rank:
        raise ValueError("the restrictions hold by the constraints of the fit: nothing is left to"
                         " test")
    return (Vt[:rank] if rank < len(R) else np.eye(rank)) / length


def _check_several(fit: SystemFit) -> None:
    if fit.n_equations < 2:
        raise ValueError("errors across equations can be tested with two equations or more, got 1")


def breusch_pagan(fit: SystemFit) -> HypothesisTest:
    r"""Lagrange multiplier test of errors that are uncorrelated across equations.

    Returns
    -------
    HypothesisTest

    Raises
    ------
    ValueError
        One equation only, or equations that their regressors fit exactly.

    Notes
    -----
    :math:`\sum_{i<j} N_{ij} r_{ij}^2`, χ² with one degree of freedom a pair of equations, r the
    correlations of the residuals of *least squares equation by equation*, without ridge and
    constraints, which are what holds where the errors are uncorrelated; not those of this fit.
    Weighted where the equations are.  N_ij counts the rows that the pair shares: all N where no
    cell is missing.  Then the K×K or the N×N products of residuals are formed, the fewer.

    The approximation is one of N much larger than K and the numbers of regressors: r² has mean
    1 / (N - p) and not 1 / N, which K²/2 pairs add up (T. Breusch, A. Pagan, "The Lagrange
    multiplier test and its applications to model specification", 1980).
    """
    _check_several(fit)
    system = fit.system
    E = system.Y - system.fitted(system.adjoint(system.Y))  # neither ridge nor constraints
    system.check_errors(E)
    E = E.astype(float)
    if fit.data.observed is None:
        statistic, df = _complete_lm(E), fit.n_equations * (fit.n_equations - 1) // 2
    else:
        statistic, df = _incomplete_lm(E, fit.data.observed.T)
    return HypothesisTest(statistic, float(chdtrc(df, statistic)), df, None, "Breusch-Pagan LM",
                          UNCORRELATED)


def _complete_lm(E: FloatArray) -> float:
    """``N Σ_{i<j} r_ij²``, from the smaller Gram matrix: ``‖Z Zᵀ‖ = ‖Zᵀ Z‖`` for Z (K, N)."""
    K, N = E.shape
    Z = E / np.sqrt(sums_of_squares(E))[:, None]
    if K <= N:
        return N * float(np.square(np.tril(Z @ Z.T, -1)).sum())
    return N * max(0.0, float(np.square(Z.T @ Z).sum()) - K) / 2


def _incomplete_lm(E: FloatArray, observed: BoolArray) -> tuple[float, int]:
    """``Σ_{i<j} N_ij r_ij²`` over the rows that a pair of equations share, and number of pairs."""
    K, statistic, df = len(E), 0.0, 0
    squares, seen = np.square(E), observed.astype(float)
    step = max(1, PAIRS // K)
    for start in range(0, K, step):
        rows = slice(start, start + step)
        pairs = np.arange(start, min(start + step, K))[:, None] > np.arange(K)
        shared = seen[rows] @ seen.T
        product = np.square(E[rows] @ E.T)
        norms = (squares[rows] @ seen.T) * (seen[rows] @ squares.T)
        use = pairs & (norms > 0)  # norms are zero where no row is shared
        statistic += float((shared[use] * product[use] / norms[use]).sum())
        df += int(use.sum())
    return statistic, df


def likelihood_ratio(fit: SystemFit, n_simulations: int = 0, random_state: RandomState = None, *,
                     n_jobs: int | None = None, progress: bool = False) -> HypothesisTest:
    r"""Likelihood ratio test of errors that are uncorrelated across equations.

    Parameters
    ----------
    n_simulations : int, default 0
        Number of systems to draw from the fit under the null hypothesis.  Each is fitted anew,
        and the p-value is the share of statistics as large as this one; 99 or 999 are usual.
    random_state : None, int or numpy.random.Generator
        Of the simulations.
    n_jobs : int, optional
        How many simulations run at a time, each in a worker of joblib: -1 is one for each core,
        None is one unless a `joblib.parallel_config` around the call says otherwise.  The result is
        the same, see the notes of `fit_factor_model`.
    progress : bool, optional
        Show a progress bar of the simulations.

    Returns
    -------
    HypothesisTest

    Raises
    ------
    ValueError
        A covariance that was given or is diagonal, one equation only, ridges.

    Notes
    -----
    ``2 N`` times the difference of log-likelihoods a row of this fit and of one with diagonal
    Σ and the same constraints.

    A diagonal Σ is a singular point of the factor model: no direction of the loadings is known
    there, and the statistic is *not* χ² with as many degrees of freedom as the factors have
    parameters; for 12 equations with one factor such a test of size 5% would reject in 45% of
    cases.  Without simulations the p-value is that of χ² with one degree of freedom for each
    pair of equations that a factor can correlate: of the model with all their covariances,
    whose statistic is larger.  It bounds the p-value from above (``is_bound``; it is the
    p-value where factors have as many parameters as there are pairs), by much where K is large:
    with more equations than rows it says nothing; simulate.  See M. Drton, "Likelihood ratio
    tests and singularities" (2009).
    """
    _check_several(fit)
    if fit.covariance_is_known:
        raise ValueError("the likelihood ratio test compares fitted covariances, this one was"
                         " given; see breusch_pagan")
    if fit.options.beta_ridge or fit.options.factor_ridge:
        raise ValueError("the likelihood ratio test needs maxima of the likelihood, these are"
                         " of one with penalties; fit without ridges")
    if fit.method != "factor":
        raise ValueError("the likelihood ratio test compares covariances of factors, this one is"
                         f' of method="{fit.method}"; see breusch_pagan')
    hierarchy, ranks = fit.covariance.hierarchy, fit.covariance.ranks
    n_simulations = check_rank(n_simulations, "n_simulations")
    null = _quietly(fit.options.fit, fit.data, 0, None)
    statistic = max(0.0, 2 * fit.nobs * (fit.loglik - null.loglik))
    df = degrees_of_freedom(hierarchy, ranks, mean=False) - fit.n_equations
    if df == 0:
        raise ValueError("the likelihood ratio test needs factors, the fitted covariance is"
                         " diagonal: ranks 0")
    if not n_simulations:
        # Pairs of equations in one group of the coarsest level that has factors.
        m = hierarchy.group_sizes(next(level for level, rank in enumerate(ranks) if rank))
        most = int((m * (m - 1) // 2).sum())
        return HypothesisTest(statistic, float(chdtrc(most, statistic)), most, None,
                              "Likelihood ratio", UNCORRELATED, is_bound=df < most)
    rngs = ((rng,) for rng in np.random.default_rng(random_state).spawn(n_simulations))
    found = Jobs(n_jobs).run(partial(_simulated, bare(fit), bare(null)), rngs)
    larger = sum(simulated >= statistic for _, simulated in progress_bar(
        found, total=n_simulations, desc="simulations", disable=not progress))
    return HypothesisTest(statistic, (1 + larger) / (1 + n_simulations), df, None,
                          "Likelihood ratio", UNCORRELATED, n_simulations)


def _quietly(fit: Callable[..., SystemFit], *args: Any) -> SystemFit:
    """A fit that does not warn where it does not converge."""
    with kept_warnings() as kept:
        found = fit(*args)
    pass_on(kept, but=ConvergenceWarning)
    if found.termination == "interrupted":
        raise KeyboardInterrupt
    return found


def _simulated(fit: SystemFit, null: SystemFit, rng: np.random.Generator) -> float:
    """The statistic for errors drawn from the fit under the null hypothesis."""
    drawn = drawn_data(null, null.covariance, rng)
    diagonal = _quietly(fit.options.fit, drawn, 0, None)
    return 2 * fit.nobs * (_quietly(fit._refit, drawn).loglik - diagonal.loglik)
