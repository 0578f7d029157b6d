"""`SURResult`: a fitted system of seemingly unrelated regressions."""

import numpy as np

from ..._common.cached import cached_property
from ..._common.deprecated import old_attribute
from ..._common.typing import FloatArray, Labelled
from ..._common.wording import counted
from ..inference import CoefficientResults, Inference
from . import covariance, hypotheses, measures, prediction, scores, summary
from .bootstrap import Bootstrap
from .stored import StoredSystem

__all__ = ["SURResult"]


class SURResult(StoredSystem, CoefficientResults):
    """A fitted system of K equations with N rows; what `als_gls`, `em_gls` and `SUR` return.

    Coefficients and what belongs to them are lists of K arrays, one an equation; where equations
    and regressors have names, pandas Series with the index (equation, regressor), so that
    ``fit.params["GM"]["value"]`` is one number.  Residuals and fitted values are then DataFrames.

    Attributes
    ----------
    params : list of K ndarray, shapes (p_j,), or Series
        Coefficients.
    covariance : StructuredOperator, shape (K, K)
        Covariance of the errors across equations: an MLR that was fitted, or the operator given.
        Of ``method="fgls"`` and ``"ifgls"`` a `Dense`; with missing cells, an MLR that equals it.
    method : str
        ``"factor"``, ``"fgls"`` or ``"ifgls"``, see `SUR.fit`; ``"gls"`` where it was given.
    covariance_is_known : bool
        Whether it was given.
    loglik : float
        Average log-likelihood a row; `llf` is that of all rows.
    objective : float
        The same less penalties, which is what was maximized.
    loglik_trace : ndarray, shape (n_iter + 1,)
        The log-likelihood at the start and after every iteration.
    objective_trace : ndarray, shape (n_iter + 1,)
        The same less penalties, which is what is climbed: it never falls.
    n_iter : int
        Number of iterations, each a Σ-step and a β-step.
    converged : bool
    termination : str
        ``"gradient"``, ``"tol"`` (``"loglik"`` in version 0.1), ``"max_iter"`` (also of the
        solver's steps), ``"rounding"`` (which the solver of the coefficients does not get past),
        ``"callback"`` or ``"interrupted"``.  The first two count as converged.
    n_cg : list of int
        Iterations of the linear solver in each iteration.
    resid, fittedvalues : ndarray or DataFrame, shape (N, K)
        NaN at missing cells; `errors` and `fitted` are the arrays.
    nobs, n_equations, n_params : int
        Numbers of rows N, of equations K and of all coefficients P.
    gradient_norm : float
        Largest derivative of the log-likelihood a row by a loading, in units of the square root of
        the equation's D, or by log D; 0 where the covariance was given.  Of an unrestricted Σ
        the norm of the derivatives by its entries, in units in which it is the identity; after the
        one step of ``method="fgls"`` it is not small.
    normal_norm : float
        Size of the normal equations' residual: 2-norm of the derivatives by the coefficients of
        orthogonal regressors of mean square 1, in units of the errors' partial standard deviations.
    boundary : ndarray of int, shape (number of them,)
        Equations whose variance in D stands at the floor (Heywood cases).
    capped : tuple of (int, int, int)
        ``(level, group, equations)`` of groups with too few equations to use their level's rank.
    selection : RankSelection or None
        How ``SUR.fit(ranks="bic")`` or ``"cv"`` chose the ranks, with the table of candidates.
    cov_type, cov_kwds : str, dict
        Kind of the coefficients' covariance and its options; see `with_cov`.
    data : SURData
        The equations as they were read: ``data.Xs``, ``data.Y``, ``data.names``, ...
    coefficients : list of K ndarray, shapes (p_j,)
        `params` as arrays, whatever has names.
    options : SUROptions
        How it was fitted: tolerances, caps, ridges.
    prior : float
        Strength α of the prior on D in pseudo-samples; 0 without one.
    prior_variance, prior_share : ndarray, shape (K,), or None
        The prior's variances t, and its share ``α / (N_j + α)`` of each variance in D.

    Examples
    --------
    Investment of four firms by their value and capital stock:

    >>> import numpy as np
    >>> from mlrops import als_gls
    >>> from mlrops.datasets import load_grunfeld
    >>> panel = load_grunfeld()
    >>> Xs = [np.column_stack([np.ones(20), v, c])
    ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
    >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
    >>> fit.n_equations, fit.nobs, fit.predict(Xs).shape
    (4, 20, (20, 4))
    >>> bool(np.isclose(fit.score(Xs, panel.invest[:, :4]), fit.loglik))
    True
    >>> fit.to_frame().loc[(0, 1), ["coef", "std err", "t"]].round(2).tolist()
    [0.12, 0.03, 4.23]
    >>> print(fit.summary(max_equations=1))  # doctest: +ELLIPSIS
                           Seemingly unrelated regressions
    ==============================================================================
    Equations                         4    Log-likelihood                  -402.07
    Rows                             20    AIC                              844.13
    ...
    equation 0            20 observations   R-squared  0.9207   error sd   84.9...
                           coef    std err        t   P>|t|     [0.025      0.975]
    ------------------------------------------------------------------------------
    x0                -15...
    x1                   0.1183     0.0280    4.23...
    x2                   0.384...
    ------------------------------------------------------------------------------
    ... and 3 more equations
    ==============================================================================...

    Tests of equal effects of capital in all firms, of those of value in the first two, and of
    errors that are uncorrelated across firms; 20 years tell little:

    >>> test = fit.homogeneity_test(2)
    >>> test.null, test.pvalue < 0.01
    ('one coefficient of regressor 2 in 4 equations', True)
    >>> fit.wald_test({(0, 1): 1, (1, 1): -1}).null
    '0_1 - 1_1 = 0'
    >>> test = fit.breusch_pagan()
    >>> round(test.statistic, 2), test.df, round(test.pvalue, 3)
    (10.46, 6, 0.107)
    >>> fit.likelihood_ratio(19, random_state=0).n_simulations
    19

    A tenth more capital, with prediction intervals; factors of the errors:

    >>> found = fit.get_prediction([X * [1, 1, 1.1] for X in Xs])
    >>> found.predicted_mean[0].round(-1), found.se_mean[0].round(-1)
    (array([210., 220.,  40.,  30.]), array([40., 60., 20., 10.]))
    >>> found.conf_int(obs=True).shape, fit.factor_scores(level=0).shape
    ((20, 4, 2), (20, 1, 1))

    Standard errors for errors whose size varies over the years:

    >>> robust = fit.with_cov("robust")
    >>> robust.cov_type, bool(robust.bse[0][1] < fit.bse[0][1])
    ('robust', True)
    """

    # What is computed from a fit are functions over it, and these are its methods.
    with_cov = covariance.with_cov
    cov_params = covariance.cov_params
    wald_test = hypotheses.wald_test
    homogeneity_test = hypotheses.homogeneity_test
    breusch_pagan = hypotheses.breusch_pagan
    likelihood_ratio = hypotheses.likelihood_ratio
    predict = prediction.predict
    get_prediction = prediction.get_prediction
    mean_squared_error = prediction.mean_squared_error
    score_samples = prediction.score_samples
    score = prediction.score
    factor_scores = scores.factor_scores
    summary = summary.summary

    def __repr__(self) -> str:
        return (f"<SURResult: {counted(self.n_equations, 'equation')},"
                f" {counted(self.n_params, 'coefficient')}, {counted(self.nobs, 'row')},"
                f" loglik {self.loglik:.6g} a row, {self.termination}>")

    @cached_property
    def params(self) -> Labelled:
        """Coefficients, list of K arrays (p_j,) or Series."""
        return self._by_coefficient(np.concatenate(self.coefficients))

    @property
    def Xs(self) -> tuple[FloatArray, ...]:
        """The regressors, tuple of K arrays (N, p_j)."""
        return tuple(self.data.Xs)

    @property
    def inference(self) -> Inference:
        """Coefficients and their precision as flat arrays, whatever has names (an `Inference`)."""
        return covariance.inference_of(self)

    @property
    def df_resid(self) -> Labelled:
        """Degrees of freedom of Student's t of each equation's coefficients, (K,) or Series.

        ``N - p_j`` less what the factors take, see `residual_df`; infinite, a normal distribution,
        where Σ is known.  Where it is unrestricted also infinite, or with ``small=True`` the cells
        of all equations less all coefficients that constraints leave free, as in Stata.
        """
        return self._by_equation(self._df_resid)

    @property
    def bootstrap(self) -> Bootstrap:
        """The draws behind standard errors of the kind "bootstrap" (a `Bootstrap`).

        Raises
        ------
        ValueError
            The covariance in use is of another kind.
        """
        return covariance.bootstrap_of(self)

    @cached_property
    def rsquared(self) -> Labelled:
        """Share of the variation of each equation's y that is explained, (K,) or Series.

        ``1 - Σ_t w e² / Σ_t w (y - ȳ)²``, ȳ the weighted mean where the regressors of the equation
        span a constant and zero where they do not.  NaN where y does not vary.  GLS does not
        minimize the sum of squares of an equation, so that it can be negative.
        """
        return self._by_equation(measures.equation_rsquared(self))

    @cached_property
    def rsquared_adj(self) -> Labelled:
        """`rsquared` adjusted for the numbers of regressors, (K,) or Series.

        ``1 - (1 - R²) (N_j - c_j) / (N_j - p_j)``, c_j one where the regressors span a constant.
        """
        return self._by_equation(measures.adjusted_rsquared(self))

    @cached_property
    def mcelroy_rsquared(self) -> float:
        r"""McElroy's R² of the system (float).

        :math:`1 - \sum_t e_t^T \Sigma^{-1} e_t / \sum_t (y_t - \mu)^T \Sigma^{-1} (y_t - \mu)`, μ
        the generalized least squares means of the equations whose regressors span a constant and
        zero for the others: the share of the variation in the metric of Σ, which GLS with a known Σ
        maximizes.  Weights and missing cells enter both sums (M. McElroy, "Goodness of fit for
        seemingly unrelated regressions", 1977).
        """
        return measures.mcelroy(self)

    @cached_property
    def mse(self) -> Labelled:
        """Mean squares of the residuals of each equation, (K,) or Series.

        Weighted where the equations are; divided by the number of observations.
        """
        return self._by_equation(measures.mean_squares(self))

    K = old_attribute("K", "n_equations")
    N = old_attribute("N", "nobs")
    P = old_attribute("P", "n_params")
    cg_iterations = old_attribute("cg_iterations", "n_cg")
    cov_kind = old_attribute("cov_kind", "cov_type")
    cov_config = old_attribute("cov_config", "cov_kwds")
