"""Tests of hypotheses about a system of regressions: coefficients, and a diagonal covariance."""

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, fdtrc

from ..._common.convergence import ConvergenceWarning
from ..._common.validate import check_rank
from ..._common.wording import counted, name_some
from ...factor.criteria import degrees_of_freedom
from .bootstrap import drawn_data
from .constraints import read_constraints
from .covariance import joint_estimate
from .data import SystemNames
from .measures import sums_of_squares
from .small_sample import residual_df, wald_df

__all__ = ["HypothesisTest", "breusch_pagan", "coefficient_names", "homogeneity",
           "likelihood_ratio", "restrictions_test", "wald"]

# Pairs of equations whose sums of products are formed at a time, where samples differ.
PAIRS = 4_000_000
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

    def __repr__(self):
        law = f"chi2({self.df})" if self.df_denom is None else f"F({self.df}, {self.df_denom:.4g})"
        if self.n_simulations:
            law = f"statistic ({self.n_simulations} simulated)"
        sign = "<=" if self.is_bound else "="
        return (f"<{self.name}: {law} = {self.statistic:.5g}, p {sign} {self.pvalue:.4f};"
                f" null: {self.null}>")


# ---------------------------------------------------------------- restrictions on coefficients


def coefficient_names(fit):
    """`SystemNames` of the fit; numbers where it has no names."""
    if fit.data.names is not None:
        return fit.data.names
    return SystemNames(tuple(map(str, range(fit.K))),
                       tuple(tuple(map(str, range(b.size))) for b in fit.coefficients))


def restrictions_test(fit, R, q=None, use_f=None):
    """Test ``R β = q`` as a user writes it; see `SystemTests.wald_test`."""
    if isinstance(R, (list, np.ndarray)) and not _of_dicts(R):
        R = np.atleast_2d(R)
    R, q, words = read_constraints(R, q, coefficient_names(fit))
    empty = np.flatnonzero(~R.any(axis=1))
    if empty.size or not len(R):
        raise ValueError("R must hold at least one restriction, none of zeros alone"
                         + (f", got row {name_some(empty)}" if empty.size else ""))
    short = len(words) <= 2 and not words[0].startswith("row ")
    null = ", ".join(words) if short else counted(len(R), "linear restriction")
    return wald(fit, R, q, null, use_f)


def _of_dicts(R):
    """Whether these are restrictions as dicts, or dicts with their values."""
    return isinstance(R, list) and any(isinstance(row, (Mapping, tuple)) for row in R)


def homogeneity(fit, regressor, use_f=None):
    """Test that a regressor has one coefficient everywhere; see `SystemTests.homogeneity_test`."""
    names = coefficient_names(fit)
    at = [i for i, name in enumerate(itertools.chain(*names.regressors)) if name == str(regressor)]
    if len(at) < 2:
        raise ValueError(f"regressor {regressor!r} must stand in at least two equations, it stands"
                         f" in {len(at)}")
    R = np.zeros((len(at) - 1, fit.P))
    R[:, at[0]] = 1
    R[np.arange(len(at) - 1), at[1:]] = -1
    what = f"regressor {regressor}" if fit.data.names is None else regressor
    null = f"one coefficient of {what} in {counted(len(at), 'equation')}"
    return wald(fit, R, np.zeros(len(R)), null, use_f)


def wald(fit, R, q, null, use_f=None):
    """Test ``R β = q`` for R (m, P); see `SystemTests.wald_test`."""
    gap = R @ np.concatenate(fit.coefficients).astype(float) - q
    T = _independent(fit, R, q, gap)
    used = np.flatnonzero(R.any(axis=0))
    equations = np.repeat(np.arange(fit.K), fit.data.p)[used]
    across = np.unique(equations).size > 1
    V = _covariance_among(joint_estimate(fit) if across else fit._cov, fit.P, used)
    R, gap = T @ R[:, used], T @ gap
    spread = np.sqrt(np.einsum("mi,ij,mj->m", R, V, R))
    R, gap = R / spread[:, None], gap / spread  # restrictions of variance 1: no units
    W = R @ V @ R.T
    value, axes = np.linalg.eigh(W)
    if not value[0] > len(W) * np.finfo(fit.system.dtype).eps * value[-1]:
        raise ValueError(
            f"the {fit.cov_kind} covariance of the coefficients is singular along the {len(W)}"
            " restrictions: test fewer at a time, or with another covariance (with_cov)")
    chi2, m = float(np.sum(np.square(axes.T @ gap) / value)), len(W)
    df = _joint_df(fit) if across else np.asarray(fit._df_resid, float)
    known = np.isinf(df[equations]).any()
    if use_f is False or (use_f is None and known):
        return HypothesisTest(chi2, float(chdtrc(m, chi2)), m, null=null)
    df_denom = math.inf if known else wald_df(R, V, equations, df)
    pvalue = chdtrc(m, chi2) if known else fdtrc(m, df_denom, chi2 / m)
    return HypothesisTest(chi2 / m, float(pvalue), m, df_denom, null=null)


def _joint_df(fit):
    """Degrees of freedom of the equations for tests across them; see `joint_estimate`."""
    if fit.covariance_is_known:
        return np.full(fit.K, np.inf)
    return residual_df(fit.covariance, fit.data.nobs, fit.data.p)


def _covariance_among(covariance, P, used):
    """Covariance of the coefficients of these numbers."""
    out = np.empty((used.size, used.size))
    for start in range(0, used.size, COLUMNS):
        some = used[start : start + COLUMNS]
        unit = np.zeros((P, some.size))
        unit[some, np.arange(some.size)] = 1
        out[:, start : start + some.size] = covariance.times(unit)[used]
    return (out + out.T) / 2


def _independent(fit, R, q, gap):
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


# ---------------------------------------------------------------- a diagonal covariance


def _check_several(fit):
    if fit.K < 2:
        raise ValueError("errors across equations can be tested with two equations or more, got 1")


def breusch_pagan(fit):
    """LM test of uncorrelated errors; see `SystemTests.breusch_pagan`."""
    _check_several(fit)
    system = fit.system
    E = system.Y - system.fitted(system.adjoint(system.Y))  # neither ridge nor constraints
    system.check_errors(E)
    E = E.astype(float)
    if fit.data.observed is None:
        statistic, df = _complete_lm(E), fit.K * (fit.K - 1) // 2
    else:
        statistic, df = _incomplete_lm(E, fit.data.observed.T)
    return HypothesisTest(statistic, float(chdtrc(df, statistic)), df, name="Breusch-Pagan LM",
                          null="errors are uncorrelated across equations")


def _complete_lm(E):
    """``N Σ_{i<j} r_ij²``, from the smaller Gram matrix: ``‖Z Zᵀ‖ = ‖Zᵀ Z‖`` for Z (K, N)."""
    K, N = E.shape
    Z = E / np.sqrt(sums_of_squares(E))[:, None]
    if K <= N:
        return N * float(np.square(np.tril(Z @ Z.T, -1)).sum())
    return N * max(0.0, float(np.square(Z.T @ Z).sum()) - K) / 2


def _incomplete_lm(E, observed):
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


def likelihood_ratio(fit, n_simulations=0, random_state=None):
    """LR test of uncorrelated errors; see `SystemTests.likelihood_ratio`."""
    _check_several(fit)
    if fit.covariance_is_known:
        raise ValueError("the likelihood ratio test compares fitted covariances, this one was"
                         " given; see breusch_pagan")
    if fit.options.beta_ridge or fit.options.factor_ridge:
        raise ValueError("the likelihood ratio test needs maxima of the likelihood, these are"
                         " of one with penalties; fit without ridges")
    hierarchy, ranks = fit.covariance.hierarchy, fit.covariance.ranks
    n_simulations = check_rank(n_simulations, "n_simulations")
    null = _diagonal_fit(fit.data, fit.options)
    statistic = max(0.0, 2 * fit.N * (fit.loglik - null.loglik))
    df = degrees_of_freedom(hierarchy, ranks, mean=False) - fit.K
    if df == 0:
        raise ValueError("the likelihood ratio test needs factors, the fitted covariance is"
                         " diagonal: ranks 0")
    words = {"df": df, "name": "Likelihood ratio",
             "null": "errors are uncorrelated across equations"}
    if not n_simulations:
        most = _correlated_pairs(hierarchy, ranks)
        return HypothesisTest(statistic, float(chdtrc(most, statistic)), is_bound=df < most,
                              **words | {"df": most})
    larger = sum(_simulated(fit, null, rng) >= statistic for rng in
                 np.random.default_rng(random_state).spawn(n_simulations))
    return HypothesisTest(statistic, (1 + larger) / (1 + n_simulations),
                          n_simulations=n_simulations, **words)


def _diagonal_fit(data, options):
    """The most likely coefficients and variances where errors are uncorrelated."""
    from .als_gls import fit_system

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_system(data, 0, None, options)


def _simulated(fit, null, rng):
    """The statistic for errors drawn from the fit under the null hypothesis."""
    from .als_gls import fit_system

    drawn = drawn_data(null, null.covariance, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        full = fit_system(drawn, fit.covariance.ranks, fit.covariance.hierarchy, fit.options)
    return 2 * fit.N * (full.loglik - _diagonal_fit(drawn, fit.options).loglik)


def _correlated_pairs(hierarchy, ranks):
    """Number of pairs of equations in one group of the coarsest level that has factors."""
    level = next(at for at, rank in enumerate(ranks) if rank)
    m = hierarchy.group_sizes(level)
    return int((m * (m - 1) // 2).sum())
