"""Predictions of a fitted system with their standard errors and intervals."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri, stdtrit

from ..._common.optional import import_pandas
from ..._common.wording import counted
from .new_data import linear, read_new

__all__ = ["SystemPrediction", "predict_system"]


@dataclass(frozen=True, repr=False, eq=False)
class SystemPrediction:
    """Predictions for M rows and K equations; what `SURResult.get_prediction` returns.

    Arrays (M, K), or DataFrames where equations or rows have names; NaN at missing cells of the fit
    and where a new regressor is NaN.

    Attributes
    ----------
    predicted_mean : ndarray or DataFrame, shape (M, K)
        ``x_tj β_j``.
    se_mean : ndarray or DataFrame, shape (M, K)
        Standard errors of the means, from the covariance of the coefficients.
    se_obs : ndarray or DataFrame, shape (M, K)
        Standard deviations of a new observation about its prediction: those of the error and of the
        mean together.
    df_resid : ndarray, shape (K,)
        Degrees of freedom of the t quantiles; infinity where the covariance of errors is known.
    mean, variance, error_variance : ndarray, shape (M, K)
        The means as an array, their variances, and those of the errors of new observations.
    rows, equations : pandas.Index or None, tuple of K str or None
        Labels of the rows and names of the equations, where there are some.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import als_gls
    >>> rng = np.random.default_rng(0)
    >>> Xs = [np.column_stack([np.ones(60), rng.standard_normal(60)]) for _ in range(4)]
    >>> Y = np.stack([X.sum(axis=1) for X in Xs], axis=1)
    >>> Y += rng.standard_normal((60, 1)) + rng.standard_normal((60, 4))
    >>> found = als_gls(Xs, Y, ranks=1).get_prediction()
    >>> low, high = np.moveaxis(found.conf_int(obs=True), 2, 0)
    >>> found.predicted_mean.shape, bool((low < Y).mean() > 0.9)
    ((60, 4), True)
    """

    mean: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    error_variance: np.ndarray = field(repr=False)
    df_resid: np.ndarray
    rows: object = None
    equations: tuple | None = None

    def __repr__(self):
        return (f"<SystemPrediction: {counted(self.mean.shape[0], 'row')},"
                f" {counted(self.mean.shape[1], 'equation')}>")

    def _named(self, x):
        if self.equations is None and self.rows is None:
            return x
        return import_pandas().DataFrame(x, index=self.rows, columns=self.equations)

    @property
    def predicted_mean(self):
        """``x_tj β_j``, (M, K)."""
        return self._named(self.mean)

    @property
    def se_mean(self):
        """Standard errors of the means, (M, K)."""
        return self._named(np.sqrt(self.variance))

    @property
    def se_obs(self):
        """Standard deviations of new observations about their predictions, (M, K)."""
        return self._named(np.sqrt(self.variance + self.error_variance))

    def conf_int(self, obs=False, alpha=0.05):
        """Intervals of level ``1 - alpha``.

        Parameters
        ----------
        obs : bool, default False
            For new observations (prediction intervals) in place of their means.
        alpha : float, default 0.05
            Between 0 and 1.

        Returns
        -------
        interval : ndarray, shape (M, K, 2), or DataFrame
            Lower and upper ends.  Columns of a DataFrame are ``(equation, "lower")`` and
            ``(equation, "upper")``.

        Notes
        -----
        Quantiles of Student's t with the degrees of freedom of the equation, of the normal
        distribution where the covariance of the errors is known.
        """
        low, high = self._ends(obs, alpha)
        if self.equations is None and self.rows is None:
            return np.stack([low, high], axis=2)
        return self._columns({"lower": low, "upper": high})

    def summary_frame(self, alpha=0.05):
        """All of it as a DataFrame with the columns (equation, what).

        ``what`` is ``mean``, ``mean_se``, ``mean_ci_lower``, ``mean_ci_upper``, ``obs_ci_lower`` or
        ``obs_ci_upper``; equations without names are numbered.

        Parameters
        ----------
        alpha : float, default 0.05

        Returns
        -------
        DataFrame, shape (M, 6 K)
        """
        mean, new = self._ends(False, alpha), self._ends(True, alpha)
        return self._columns({
            "mean": self.mean, "mean_se": np.sqrt(self.variance), "mean_ci_lower": mean[0],
            "mean_ci_upper": mean[1], "obs_ci_lower": new[0], "obs_ci_upper": new[1]})

    def _ends(self, obs, alpha):
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        tail = 1 - alpha / 2
        known = np.isinf(self.df_resid)
        quantile = np.where(known, ndtri(tail), stdtrit(np.where(known, 1, self.df_resid), tail))
        half = quantile * np.sqrt(self.variance + self.error_variance if obs else self.variance)
        return self.mean - half, self.mean + half

    def _columns(self, parts):
        pd = import_pandas()

        K = self.mean.shape[1]
        columns = pd.MultiIndex.from_product(
            [range(K) if self.equations is None else self.equations, parts],
            names=["equation", None])
        return pd.DataFrame(np.stack(list(parts.values()), axis=2).reshape(len(self.mean), -1),
                            index=self.rows, columns=columns)


def predict_system(fit, Xs=None):
    """`SystemPrediction` for new regressors, or for the rows of the fit."""
    data, new = fit.data, read_new(fit, Xs)
    mean = linear(fit, new.Xs)
    variance = np.stack([np.einsum("ti,ij,tj->t", X, V, X, dtype=float, optimize=True)
                         for X, V in zip(new.Xs, fit._cov_blocks(), strict=True)], axis=1)
    errors = np.broadcast_to(error_variances(fit), mean.shape)
    if Xs is None:
        errors = errors if data.weights is None else errors / data.weights
        if data.observed is not None:
            mean, variance, errors = (np.where(data.observed, x, np.nan)
                                      for x in (mean, variance, errors))
    return SystemPrediction(mean, np.maximum(variance, 0), errors, np.asarray(fit._df_resid, float),
                            new.rows, None if data.names is None else data.names.equations)


def error_variances(fit):
    """diag(Σ), (K,), times ``N_j / (N_j - p_j)`` where it was fitted by maximum likelihood."""
    variances = np.asarray(fit.covariance.diagonal(), float)
    nobs = fit.data.nobs
    return variances if fit.covariance_is_known else variances * (nobs / (nobs - fit.data.p))
