"""Predictions of a fitted system, their standard errors, and how well they fit data."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..._common.optional import import_pandas
from ..._common.typing import FloatArray, Frame, Labelled
from ..._common.validate import shows_a_cell
from ..._common.wording import counted
from ...factor import conditional
from ..inference import half_widths
from . import measures
from .covariance import blocks_of
from .new_data import linear, read_new
from .system_fit import SystemFit

__all__ = ["SystemPrediction", "get_prediction", "mean_squared_error", "predict", "score",
           "score_samples"]


@dataclass(frozen=True, repr=False, eq=False)
class SystemPrediction:
    """Predictions for M rows and K equations; what `SURResult.get_prediction` returns.

    Arrays (M, K), or DataFrames where equations or rows have names; NaN at missing cells of the fit
    and where a new regressor is NaN.

    Attributes
    ----------
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

    mean: FloatArray = field(repr=False)
    variance: FloatArray = field(repr=False)
    error_variance: FloatArray = field(repr=False)
    df_resid: FloatArray
    rows: Any = None
    equations: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return (f"<SystemPrediction: {counted(self.mean.shape[0], 'row')},"
                f" {counted(self.mean.shape[1], 'equation')}>")

    def _named(self, x: FloatArray) -> Labelled:
        if self.equations is None and self.rows is None:
            return x
        return import_pandas().DataFrame(x, index=self.rows, columns=self.equations)

    @property
    def predicted_mean(self) -> Labelled:
        """``x_tj β_j``, (M, K)."""
        return self._named(self.mean)

    @property
    def se_mean(self) -> Labelled:
        """Standard errors of the means, from the covariance of the coefficients, (M, K)."""
        return self._named(np.sqrt(self.variance))

    @property
    def se_obs(self) -> Labelled:
        """Standard deviations of new observations: of error and mean together, (M, K)."""
        return self._named(np.sqrt(self.variance + self.error_variance))

    def conf_int(self, obs: bool = False, alpha: float = 0.05) -> Labelled:
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

    def summary_frame(self, alpha: float = 0.05) -> Frame:
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

    def _ends(self, obs: bool, alpha: float) -> tuple[FloatArray, FloatArray]:
        spread = np.sqrt(self.variance + self.error_variance if obs else self.variance)
        half = half_widths(spread, self.df_resid, alpha)
        return self.mean - half, self.mean + half

    def _columns(self, parts: dict[str, FloatArray]) -> Frame:
        pd = import_pandas()
        K = self.mean.shape[1]
        columns = pd.MultiIndex.from_product([self.equations or range(K), parts],
                                             names=["equation", None])
        return pd.DataFrame(np.stack(list(parts.values()), axis=2).reshape(len(self.mean), -1),
                            index=self.rows, columns=columns)


def predict(fit: SystemFit, Xs: Any = None) -> Labelled:
    """Fitted values for regressors like those of the fit.

    Parameters
    ----------
    Xs : list or dict of K array_like or DataFrame, shapes (M, p_j), or one for all, optional
        Regressors.  A list is in the order of the equations, a dict is by their names.  It may
        have the forms that `SUR` takes, of which only the regressors count: ``{name: X}``,
        ``{name: (y, X)}``, ``{name: {"exog": X}}``.  One frame, or one array of two dimensions,
        is for all equations.  Default the rows of the fit.

    Returns
    -------
    ndarray, shape (M, K), or DataFrame
        NaN where a regressor is NaN or masked.

    Raises
    ------
    ValueError, TypeError
        Equations, regressors or rows whose names are not those of the fit, or of one another
        (the first are named), infinity, shapes that do not fit.

    Notes
    -----
    *What has names is matched by name.*  Columns of frames are the regressors of the fit, in
    any order; a frame for all equations may hold more than one equation needs.  Rows of a list
    must have the same labels, in any order, and come in that of the first X.  Rows of a dict
    are put together as `SUR` does it: those that an equation lacks are NaN.  Arrays stand in
    the order of the fit.

    Examples
    --------
    >>> from mlrops.datasets import simulate_sur
    >>> from mlrops import SUR
    >>> sim = simulate_sur(2, 2, ranks=1, n_samples=60, random_state=0)
    >>> equations = {"u": (sim.Y[:, 0], sim.Xs[0]), "v": (sim.Y[:, 1], sim.Xs[1])}
    >>> fit = SUR(equations).fit(ranks=0)
    >>> found = fit.predict({"v": [[1.0, 2.0]], "u": [[0.0, 1.0]]})
    >>> list(found.columns), bool(found["u"][0] == fit.params["u"]["x1"])
    (['u', 'v'], True)
    """
    if Xs is None:
        return fit._by_row(fit.fitted)
    new = read_new(fit, Xs)
    return fit._by_cell(linear(fit, new.Xs), new.rows)


def get_prediction(fit: SystemFit, Xs: Any = None) -> SystemPrediction:
    """Predictions with standard errors and intervals.

    Parameters
    ----------
    Xs : list or dict of K array_like or DataFrame, shapes (M, p_j), or one for all, optional
        Regressors as for `SURResult.predict`; default those of the fit.

    Returns
    -------
    SystemPrediction
        With ``predicted_mean``, ``se_mean``, ``conf_int(obs=False, alpha=0.05)`` and
        ``summary_frame(alpha=0.05)``.

    Notes
    -----
    Variances of means are ``x_jᵀ V_jj x_j``, V_jj the covariance of the equation's coefficients
    that `bse` uses.  A new observation adds the variance Σ_jj of its error: as given where it
    is known or has this divisor (``dfk=True``), otherwise times ``N_j / (N_j - p_j)`` for the
    coefficients that were estimated.
    New rows have weight 1; those of the fit have theirs.
    """
    data, new = fit.data, read_new(fit, Xs)
    mean = linear(fit, new.Xs)
    variance = np.stack([np.einsum("ti,ij,tj->t", X, V, X, dtype=float, optimize=True)
                         for X, V in zip(new.Xs, blocks_of(fit), strict=True)], axis=1)
    variances = np.asarray(fit.covariance.diagonal(), float)
    if not (fit.covariance_is_known or fit.options.dfk):
        variances = variances * (data.nobs / (data.nobs - data.p))
    errors = np.broadcast_to(variances, mean.shape)
    if Xs is None:
        errors = errors if data.weights is None else errors / data.weights
        mean, variance, errors = map(fit._observed, (mean, variance, errors))
    return SystemPrediction(mean, np.maximum(variance, 0), errors, fit._df_resid, new.rows,
                            data.equations)


def mean_squared_error(fit: SystemFit, Xs: Any = None, Y: Any = None,
                       by_equation: bool = False) -> Labelled:
    """Mean squared error of the predictions of data.

    Parameters
    ----------
    Xs, Y : optional
        As for `SURResult.score_samples`: new rows, matched by name, whose missing cells are
        left out.  Default the rows of the fit, weighted as in `mse`.
    by_equation : bool, default False
        One number an equation in place of their mean.

    Returns
    -------
    mse : float, or ndarray, shape (K,), or Series
        NaN for an equation without any cell, which the mean over equations leaves out.
    """
    errors = measures.new_mean_squares(fit, read_new(fit, Xs, Y, need_Y=True))
    if by_equation:
        return fit._by_equation(errors)
    there = ~np.isnan(errors)
    return float(errors[there].mean()) if there.any() else math.nan


def score_samples(fit: SystemFit, Xs: Any = None, Y: Any = None) -> Labelled:
    """Log-likelihood of each row of data, given its regressors.

    Parameters
    ----------
    Xs : list or dict of K array_like or DataFrame, shapes (M, p_j), or one for all, optional
        Regressors as for `predict`; of a dict in the forms that `SUR` takes the dependent
        variables too.  Default the rows of the fit, with their weights.
    Y : array_like, DataFrame or dict, shape (M, K), optional
        Dependent variables, matched to the equations by the names of its columns and to Xs by
        the labels of its rows.  NaN, there or among the regressors, marks a missing cell, which
        is left out: Σ must then be an `MLR`.

    Returns
    -------
    loglik : ndarray, shape (M,), or Series where rows have labels

    Raises
    ------
    ValueError, TypeError
        As `predict`; weights of new rows; missing cells where Σ is no `MLR`.
    """
    new = read_new(fit, Xs, Y, need_Y=True)
    loglik = measures.loglik_samples(fit, new)
    return loglik if new.rows is None else import_pandas().Series(loglik, index=new.rows)


def score(fit: SystemFit, Xs: Any = None, Y: Any = None) -> float:
    """Average log-likelihood a row of data; one without a cell of Y counts nowhere.

    Parameters
    ----------
    Xs, Y : optional
        As for `score_samples`; default the rows of the fit.

    Returns
    -------
    loglik : float
    """
    new = read_new(fit, Xs, Y, need_Y=True)
    shown = shows_a_cell(measures.new_errors(new, fit))
    return conditional.average(measures.loglik_samples(fit, new), shown)
