"""How well a factor model describes the covariances: the χ² test, RMSEA, TLI, CFI and SRMR."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from scipy.special import chdtrc, chndtr

from .._common.text import WIDTH, side_by_side, title
from .._common.typing import Data, FloatArray, Labels, RowData
from .._common.validate import check_number
from .._common.wording import counted
from ..operators.mlr import MLR
from .criteria import degrees_of_freedom
from .estep.from_covariance import open_covariance
from .estep.sources import Opened, open_source
from .reopened import Reopened, reopen

__all__ = ["FitMeasures", "Measured", "fit_measures"]

# Features whose residual correlations with all others are formed at a time.
COLUMNS = 256


@dataclass(frozen=True)
class FitMeasures:
    """How well a model fits the sample covariance; what `FactorModelResult.fit_measures` returns.

    Attributes
    ----------
    chi2 : float
        Likelihood ratio statistic against the saturated model, any covariance matrix.
    df : int
        Its degrees of freedom: entries of a covariance matrix less free parameters of the model.
    pvalue : float
        Probability of a larger statistic where the model holds; NaN with ``df = 0``.
    discrepancy : float
        ``F = log det Σ - log det S + tr(Σ⁻¹ S) - n``, S the sample covariance: the likelihood ratio
        statistic a sample.
    null_chi2, null_discrepancy : float
        The same of independent features.
    null_df : int
        ``n (n - 1) / 2``.
    rmsea : float
        Root mean square error of approximation, misfit for each degree of freedom; NaN with
        ``df = 0``.
    rmsea_interval : tuple of (float, float)
        Its confidence interval.
    confidence : float
        Coverage of the interval.
    tli, cfi : float
        Indices of Tucker and Lewis, and of Bentler: 1 where the model fits, 0 where it does no
        better than independent features.
    srmr : float
        Standardized root mean square residual, over ``n (n + 1) / 2`` entries with the diagonal.
    rmsr : float
        The same over the ``n (n - 1) / 2`` correlations, what `psych` calls rms.
    n_samples : int
    bartlett : bool
        Whether statistics have Bartlett's correction.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(12, 2, n_samples=300, random_state=0).Y
    >>> found = fit_factor_model(Y, 2).fit_measures(Y)
    >>> found.df, found.null_df, bool(found.pvalue > 0.01), bool(found.tli > 0.95)
    (43, 66, True, True)
    >>> print(found.summary().splitlines()[0].strip())
    Fit of a factor model
    """

    chi2: float
    df: int
    pvalue: float
    discrepancy: float
    null_chi2: float
    null_discrepancy: float
    null_df: int
    rmsea: float
    rmsea_interval: tuple[float, float]
    confidence: float
    tli: float
    cfi: float
    srmr: float
    rmsr: float
    n_samples: int
    bartlett: bool

    def summary(self) -> str:
        """The measures as a readable text, less than 80 columns wide.

        Returns
        -------
        str
        """
        low, high = self.rmsea_interval
        left = [("χ²", f"{self.chi2:,.4f}"), ("Degrees of freedom", f"{self.df:,}"),
                ("p-value", f"{self.pvalue:.4g}"), ("χ² of independence", f"{self.null_chi2:,.4f}"),
                ("Degrees of freedom", f"{self.null_df:,}"), ("Samples", f"{self.n_samples:,}"),
                ("Bartlett's correction", "yes" if self.bartlett else "no")]
        right = [("RMSEA", f"{self.rmsea:.4f}"),
                 (f"{self.confidence:.0%} interval", f"[{low:.4f}, {high:.4f}]"),
                 ("TLI", f"{self.tli:.4f}"), ("CFI", f"{self.cfi:.4f}"),
                 ("SRMR", f"{self.srmr:.4f}"), ("RMSR", f"{self.rmsr:.4f}"),
                 ("Discrepancy F", f"{self.discrepancy:.6g}")]
        return "\n".join([*title("Fit of a factor model"), *side_by_side(left, right), "=" * WIDTH])

    __str__ = summary


class Measured:
    """The method of a result that asks how well the model fits the covariances."""

    def fit_measures(self, Y: RowData | None = None, *, covariance: Data | None = None,
                     sample_weight: Labels | None = None, bartlett: bool = True,
                     confidence: float = 0.9) -> FitMeasures:
        r"""Test the model against any covariance matrix, and measure its misfit.

        Parameters
        ----------
        Y : array_like, DataFrame, data on disk or row chunks, shape (N, n), optional
            The data that were fitted to, complete and dense: a result does not keep them.
        covariance : array_like or DataFrame, shape (n, n), optional
            In place of Y: the covariance that was fitted to, or that of the data, divided by N.
        sample_weight : array_like, Series or dict, shape (N,), optional
            Those of the fit.
        bartlett : bool, optional
            Correct the statistics for the number of samples, see Notes.
        confidence : float, optional
            Coverage of the interval of RMSEA.

        Returns
        -------
        FitMeasures
            ``chi2``, ``df``, ``pvalue``, ``rmsea``, ``rmsea_interval``, ``tli``, ``cfi``, ``srmr``,
            ``rmsr`` and ``summary()``, which printing gives, too.

        Raises
        ------
        ValueError, TypeError
            Data or names that are not those of the fit; neither data nor a covariance, or both;
            missing cells or sparse data; a fit with a prior, which is not at the maximum of the
            likelihood; a saturated model that does not exist, since samples are no more than
            features or features depend on one another; too few samples for the correction.

        Notes
        -----
        With F the discrepancy (see `FitMeasures`), ``ν = N - 1`` (N with ``center=False``) and k
        the factors that a feature sees, R of them on a tree, M. Bartlett ("Tests of significance in
        factor analysis", 1950) takes

            ``χ² = m F``,  ``m = ν - (2 n + 5) / 6 - 2 k / 3``,

        which has a χ² distribution with `df` degrees of freedom for many samples, several times as
        many as features: with fewer it is too large.  That of independent features has k = 0.  On a
        tree the correction is that of a single level with as many factors, and parameters are
        counted by `mlrops.factor.criteria.degrees_of_freedom`.  Variances at the floor (`boundary`)
        are counted as others are.  At a level of 5% it rejected 5.3, 2.7 and 4.0% of 300 true
        models for N = 40, 100 and 400 with n = 10 and k = 2; on trees 6.3, 3.3 and 5.7% (n = 18,
        ranks 1, 1) and 8.3, 5.7 and 4.0% (n = 24, ranks 2, 1, 1).

        - ``RMSEA² = max(χ² / (df N) - 1 / ν, 0)`` (J. Steiger, J. Lind, 1980); its interval is that
          of the noncentrality λ, as ``√(λ / (ν df))`` (M. Browne, R. Cudeck, 1993).
        - ``TLI = (F₀ / df₀ - F / df) / (F₀ / df₀ - 1 / m)`` (L. Tucker, C. Lewis, 1973), F₀ that of
          independent features.
        - ``CFI = 1 - max(χ² - df, 0) / max(χ₀² - df₀, χ² - df, 0)`` (P. Bentler, 1990).
        - ``SRMR² = Σ_{i ≤ j} (s_ij - σ_ij)² / (s_ii s_jj) / (n (n + 1) / 2)`` (P. Bentler, 1995).

        χ² is that of R's ``factanal``, RMSEA and TLI are those of its package psych (2.2.9).  With
        ``bartlett=False`` N stands in the place of m and ν everywhere, as in the package lavaan.

        It takes the singular values of n samples and ``2 n² (n + R)`` flops for the residuals, a
        block of columns at a time.

        Examples
        --------
        One factor too few, and enough of them:

        >>> from mlrops import fit_factor_model
        >>> from mlrops.datasets import simulate_factor_model
        >>> Y = simulate_factor_model(12, 2, n_samples=300, random_state=0).Y
        >>> one, two = (fit_factor_model(Y, k).fit_measures(Y) for k in (1, 2))
        >>> bool(one.pvalue < 1e-6), bool(two.pvalue > 0.01), bool(two.rmsea < one.rmsea)
        (True, True, True)
        """
        return fit_measures(self, Y, covariance, sample_weight, bool(bartlett), confidence)


def fit_measures(fit: Any, Y: Any, covariance: Any, sample_weight: Any, bartlett: bool,
                 confidence: float) -> FitMeasures:
    """See `Measured.fit_measures`."""
    check_number(confidence, "confidence", below=1)
    if fit.prior:
        raise ValueError(
            f"fit_measures needs a fit that maximizes the likelihood, got one with a prior of"
            f" strength {fit.prior:g}: fit with prior=None")
    n, N = fit.n_features, fit.n_samples
    if n < 2:
        raise ValueError("fit_measures needs 2 features or more, got 1: its covariance is always"
                         " fitted")
    again = reopen(fit, _opened(fit, Y, covariance, sample_weight), None, "raise")
    ranks, mean_is_free = fit.covariance.ranks, fit.mean_is_estimated
    logdet = _logdet_of_correlations(again, N - mean_is_free, "less one for the mean, "
                                     if mean_is_free else "")
    A = MLR.from_compact(again.hierarchy._in_tree_order(), again.ranks, again.point.F,
                         again.point.D)
    saturated = -0.5 * (n * math.log(2 * math.pi) + float(np.log(again.source.variance).sum())
                        + logdet + n)
    F = max(2 * (saturated - float(again.source.evaluate(A, again.point.mean).loglik)), 0.0)
    df = n * (n + 1) // 2 - degrees_of_freedom(fit.covariance.hierarchy, ranks, mean=False)
    null_F, null_df = max(-logdet, 0.0), n * (n - 1) // 2
    nu = times = null_times = float(N)
    if bartlett:
        nu = float(N - mean_is_free)
        null_times = nu - (2 * n + 5) / 6
        times = null_times - 2 * sum(ranks) / 3
        if times <= 0:
            raise ValueError(
                f"Bartlett's correction takes more than all of {counted(N, 'sample')}, with"
                f" {counted(n, 'feature')} and {counted(sum(ranks), 'factor')}: take fewer factors,"
                " or bartlett=False")
    chi2, null_chi2 = times * F, null_times * null_F
    pvalue = rmsea = tli = math.nan
    interval = (math.nan, math.nan)
    if df:
        pvalue = float(chdtrc(df, chi2))
        rmsea = math.sqrt(max(chi2 / (df * N) - 1 / nu, 0.0))
        low, high = (math.sqrt(_noncentrality(chi2, df, p) / (nu * df))
                     for p in ((1 + confidence) / 2, (1 - confidence) / 2))
        interval = low, high
        tli = (null_F / null_df - F / df) / (null_F / null_df - 1 / times)
    excess = max(chi2 - df, 0.0)
    most = max(null_chi2 - null_df, excess)
    srmr, rmsr = _residuals(again, A)
    return FitMeasures(
        chi2=chi2, df=df, pvalue=pvalue, discrepancy=F, null_chi2=null_chi2,
        null_discrepancy=null_F, null_df=null_df, rmsea=rmsea, rmsea_interval=interval,
        confidence=float(confidence), tli=tli, cfi=1 - excess / most if most > 0 else 1.0,
        srmr=srmr, rmsr=rmsr, n_samples=N, bartlett=bartlett)


def _opened(fit: Any, Y: Any, covariance: Any, sample_weight: Any) -> Opened:
    """Complete samples, or what stands for them, no more than features."""
    hierarchy = fit.covariance.hierarchy
    if (Y is None) == (covariance is None):
        raise TypeError("fit_measures needs the data Y that were fitted to, or their covariance=,"
                        f" got {'neither' if Y is None else 'both'}")
    if covariance is not None:
        if sample_weight is not None:
            raise TypeError("sample_weight is about samples, which a covariance= does not show:"
                            " leave it out, or give the data Y")
        return open_covariance(covariance, fit.n_samples, hierarchy)
    if scipy.sparse.issparse(Y):
        raise TypeError("fit_measures needs dense data, got a sparse matrix, which is never made"
                        " dense: give their covariance=, divided by the number of samples")
    return Opened(*open_source(Y, hierarchy, fit.mean_is_estimated, "raise", sample_weight, True))


def _standardized(again: Reopened) -> FloatArray:
    """Samples Z (n, k), in tree order, whose ``Z Zᵀ`` are the correlations."""
    source: Any = again.source  # `CompleteData`, which `_opened` asks for
    Z: FloatArray = source.X / np.sqrt(source.sums_of_squares)[:, None]
    return Z


def _logdet_of_correlations(again: Reopened, dimensions: int, less: str) -> float:
    """``log det`` of the correlations; a saturated model that does not exist is refused."""
    n, N = again.source.variance.size, again.source.n_samples
    if dimensions < n:
        raise ValueError(
            f"the saturated model that fit_measures compares with does not exist:"
            f" {counted(N, 'sample')}, {less}must be no fewer than {counted(n, 'feature')}; compare"
            " models of so few samples by held-out likelihood (select_ranks) or bic")
    Z = _standardized(again)
    s = np.linalg.svd(Z, compute_uv=False)
    if s.size < n or s[-1] <= n * np.finfo(float).eps * s[0]:
        raise ValueError(
            "the saturated model that fit_measures compares with does not exist: features depend"
            " on one another, their correlations are singular; leave out those that others"
            " determine")
    return 2 * float(np.log(s).sum())


def _noncentrality(chi2: float, df: int, p: float) -> float:
    """λ for which a noncentral χ² stays below `chi2` with probability p; 0 where none does."""
    low, high = 0.0, max(chi2, 1.0)
    if chndtr(chi2, df, low) <= p:
        return low
    while chndtr(chi2, df, high) > p:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:  # bisection, to the last digit
        low, high = (middle, high) if chndtr(chi2, df, middle) > p else (low, middle)
    return low


def _residual_blocks(again: Reopened, A: MLR) -> Iterator[tuple[int, FloatArray]]:
    """Residual correlations, some columns at a time, and the number of the first of them."""
    Z, n = _standardized(again), A.shape[0]
    sd = np.sqrt(again.source.variance)
    fitted = MLR.from_compact(A.hierarchy, A.ranks, A.F / sd[:, None], A.D / sd**2)
    for first in range(0, n, COLUMNS):
        part = Z[first : first + COLUMNS]
        unit = np.zeros((n, len(part)))
        unit[first + np.arange(len(part)), np.arange(len(part))] = 1
        yield first, Z @ part.T - fitted @ unit


def _residuals(again: Reopened, A: MLR) -> tuple[float, float]:
    """SRMR with the diagonal, and RMSR without."""
    n, total, diagonal = A.shape[0], 0.0, 0.0
    for first, block in _residual_blocks(again, A):
        total += float(np.square(block).sum())
        diagonal += float(np.square(np.diagonal(block, -first)).sum())
    pairs = (total - diagonal) / 2
    return (math.sqrt((pairs + diagonal) / (n * (n + 1) / 2)),
            math.sqrt(max(pairs, 0.0) / (n * (n - 1) / 2)))
