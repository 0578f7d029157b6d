"""Tests of hypotheses, measures of fit, predictions and tables of a fitted system."""

import math

import numpy as np

from ..._common.cached import cached_property
from ..._common.optional import import_pandas
from ..._common.validate import check_rank
from ...factor import criteria
from . import hypotheses, measures, prediction, scores, summary

__all__ = ["SystemTests"]


class SystemTests:
    """What `SURResult` can be asked about its fit."""

    def _by_equation(self, x):
        """One number an equation, (K,): an array, or a Series."""
        names = self.data.names
        if names is None:
            return x
        pd = import_pandas()

        return pd.Series(x, index=pd.Index(names.equations, name="equation"))

    # ---------------------------------------------------------------- measures of fit

    @cached_property
    def rsquared(self):
        """Share of the variation of each equation's y that is explained, (K,) or Series.

        ``1 - Σ_t w e² / Σ_t w (y - ȳ)²``, ȳ the weighted mean where the regressors of the equation
        span a constant and zero where they do not.  NaN where y does not vary.  GLS does not
        minimize the sum of squares of an equation, so that it can be negative.
        """
        return self._by_equation(measures.equation_rsquared(self))

    @cached_property
    def mcelroy_rsquared(self):
        r"""McElroy's R² of the system (float).

        :math:`1 - \sum_t e_t^T \Sigma^{-1} e_t / \sum_t (y_t - \mu)^T \Sigma^{-1} (y_t - \mu)`, μ
        the generalized least squares means of the equations whose regressors span a constant and
        zero for the others: the share of the variation in the metric of Σ, which GLS with a known Σ
        maximizes.  Weights and missing cells enter both sums (M. McElroy, "Goodness of fit for
        seemingly unrelated regressions", 1977).
        """
        return measures.mcelroy(self)

    @cached_property
    def mse(self):
        """Mean squares of the residuals of each equation, (K,) or Series.

        Weighted where the equations are; divided by the number of observations.
        """
        return self._by_equation(measures.mean_squares(self))

    @cached_property
    def degrees_of_freedom(self):
        """Number of free parameters (int).

        The coefficients less independent constraints on them, and where the covariance was fitted
        its parameters, rotations counted out; see `mlrops.factor.criteria`.
        """
        count = self.system.n_free
        if self.covariance_is_known:
            return count
        A = self.covariance
        return count + criteria.degrees_of_freedom(A.hierarchy, A.ranks, mean=False)

    @property
    def aic(self):
        """Akaike's criterion of all rows, ``-2 N loglik + 2 df`` (float); smaller is better."""
        return -2 * self.N * self.loglik + 2 * self.degrees_of_freedom

    @property
    def bic(self):
        """Schwarz's criterion of all rows, ``-2 N loglik + df log N`` (float)."""
        return -2 * self.N * self.loglik + math.log(self.N) * self.degrees_of_freedom

    # ---------------------------------------------------------------- tests of hypotheses

    def wald_test(self, R, q=None, *, use_f=None):
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

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> rng = np.random.default_rng(0)
        >>> Xs = [rng.standard_normal((80, 2)) for _ in range(4)]
        >>> Y = np.stack([X @ [1.0, 0.5] for X in Xs], axis=1) + rng.standard_normal((80, 4))
        >>> fit = als_gls(Xs, Y, ranks=1)
        >>> test = fit.wald_test({(0, 1): 1, (1, 1): -1})
        >>> test.null, test.df, test.pvalue > 0.01
        ('0_1 - 1_1 = 0', 1, True)
        >>> fit.wald_test([{(0, 0): 1}, {(3, 1): 1}]).pvalue < 0.01
        True
        """
        return hypotheses.restrictions_test(self, R, q, use_f)

    def homogeneity_test(self, regressor, *, use_f=None):
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

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld()
        >>> Xs = [np.column_stack([np.ones(20), v, c])
        ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
        >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
        >>> test = fit.homogeneity_test(1)
        >>> test.null, round(test.pvalue, 2)
        ('one coefficient of regressor 1 in 4 equations', 0.04)
        """
        return hypotheses.homogeneity(self, regressor, use_f)

    def breusch_pagan(self):
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

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld()
        >>> Xs = [np.column_stack([np.ones(20), v, c])
        ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
        >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
        >>> test = fit.breusch_pagan()  # 20 years tell little
        >>> round(test.statistic, 2), test.df, round(test.pvalue, 3)
        (10.46, 6, 0.107)
        """
        return hypotheses.breusch_pagan(self)

    def likelihood_ratio(self, n_simulations=0, random_state=None):
        r"""Likelihood ratio test of errors that are uncorrelated across equations.

        Parameters
        ----------
        n_simulations : int, default 0
            Number of systems to draw from the fit under the null hypothesis.  Each is fitted anew,
            and the p-value is the share of statistics as large as this one; 99 or 999 are usual.
        random_state : None, int or numpy.random.Generator
            Of the simulations.

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

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> rng = np.random.default_rng(0)
        >>> Xs = [rng.standard_normal((50, 2)) for _ in range(5)]
        >>> Y = rng.standard_normal((50, 5)) + 0.6 * rng.standard_normal((50, 1))
        >>> fit = als_gls(Xs, Y, ranks=1)
        >>> fit.likelihood_ratio(19, random_state=0).pvalue  # larger than all that were drawn
        0.05
        """
        return hypotheses.likelihood_ratio(self, n_simulations, random_state)

    # ---------------------------------------------------------------- predictions

    def get_prediction(self, Xs=None):
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
        is known, otherwise times ``N_j / (N_j - p_j)`` for the coefficients that were estimated.
        New rows have weight 1; those of the fit have theirs.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld()
        >>> Xs = [np.column_stack([np.ones(20), v, c])
        ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
        >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
        >>> more = [X * [1, 1, 1.1] for X in Xs]  # a tenth more capital
        >>> found = fit.get_prediction(more)
        >>> found.predicted_mean[0].round(-1), found.se_mean[0].round(-1)
        (array([210., 220.,  40.,  30.]), array([40., 60., 20., 10.]))
        >>> found.conf_int(obs=True).shape
        (20, 4, 2)
        """
        return prediction.predict_system(self, Xs)

    def mean_squared_error(self, Xs=None, Y=None, by_equation=False):
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

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> rng = np.random.default_rng(0)
        >>> Xs = [rng.standard_normal((90, 2)) for _ in range(3)]
        >>> Y = np.stack([X.sum(axis=1) for X in Xs], axis=1) + rng.standard_normal((90, 3))
        >>> fit = als_gls([X[:60] for X in Xs], Y[:60], ranks=1)
        >>> bool(0.7 < fit.mean_squared_error([X[60:] for X in Xs], Y[60:]) < 1.3)
        True
        """
        errors = measures.new_mean_squares(self, Xs, Y)
        if by_equation:
            return self._by_equation(errors)
        there = ~np.isnan(errors)
        return float(errors[there].mean()) if there.any() else math.nan

    def factor_scores(self, level=None, method="posterior"):
        """Scores of the factors of the errors in each row of the fit.

        Parameters
        ----------
        level : int, optional
            One level; default all of them.
        method : {"posterior", "bartlett"}, optional
            Posterior means given the residuals, ``Fᵀ Σ⁻¹ e`` with F spread out; or weighted least
            squares over all factors jointly, which is unbiased given the factors (M. Bartlett,
            1937).

        Returns
        -------
        scores : ndarray, shape (N, p_l, r_l), or DataFrame
            A tuple of L of them for ``level=None``.  Where equations have names, DataFrames with
            the labels of the rows and columns ``(group, factor)``.

        Raises
        ------
        TypeError
            A known covariance that is no `MLR`, and so has no factors.
        ValueError, IndexError
            An unknown method, ``"bartlett"`` with missing cells, a level that does not exist.

        Notes
        -----
        Residuals are those times the square roots of their weights.  Where cells are missing, Σ is
        that of the cells that are there, and rows without any have scores 0.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> rng = np.random.default_rng(0)
        >>> Xs, z = [rng.standard_normal((90, 2)) for _ in range(8)], rng.standard_normal((90, 1))
        >>> fit = als_gls(Xs, z + 0.5 * rng.standard_normal((90, 8)), ranks=1)
        >>> scores = fit.factor_scores(level=0)
        >>> scores.shape, bool(abs(np.corrcoef(scores[:, 0, 0], z[:, 0])[0, 1]) > 0.9)
        ((90, 1, 1), True)
        """
        return scores.factor_scores(self, level, method)

    # ---------------------------------------------------------------- tables

    def to_frame(self, alpha=0.05):
        """The table of all coefficients as a pandas DataFrame.

        Index (equation, regressor), names or numbers; columns ``coef``, ``std err``, ``t`` and
        ``P>|t|`` (``z`` where the covariance is known), and the ends of the confidence intervals.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.

        Returns
        -------
        DataFrame, shape (P, 6)

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld()
        >>> Xs = [np.column_stack([np.ones(20), v, c])
        ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
        >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
        >>> fit.to_frame().loc[(0, 1), ["coef", "std err", "t"]].round(2).tolist()
        [0.12, 0.03, 4.23]
        """
        return summary.coefficient_frame(self, alpha)

    def summary(self, alpha=0.05, max_equations=10):
        """The system as text, 78 columns wide: facts, a table an equation, notes.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.
        max_equations : int, default 10
            Print the coefficients of at most so many equations; with 0 no standard errors are
            computed.

        Returns
        -------
        text : str
            For ``print``.  The error sd of an equation is the square root of its entry in Σ.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld()
        >>> Xs = [np.column_stack([np.ones(20), v, c])
        ...       for v, c in zip(panel.value.T[:4], panel.capital.T[:4])]
        >>> fit = als_gls(Xs, panel.invest[:, :4], ranks=1)
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
        """
        return summary.summarize_system(self, alpha, check_rank(max_equations, "max_equations"))
