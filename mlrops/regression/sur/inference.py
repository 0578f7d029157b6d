"""Standard errors, intervals and covariances of the coefficients of a fitted system."""

from dataclasses import replace

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from ..._common.cached import cached_property
from ..._common.optional import import_pandas
from .coefficient_inverse import MOST_COEFFICIENTS
from .covariance import CovConfig, estimate, one_least_squares
from .small_sample import residual_df

__all__ = ["Inference"]


class Inference:
    """What `SURResult` knows of the precision of its coefficients."""

    def with_cov(self, kind, **options):
        r"""The same fit with another kind of covariance of its coefficients.

        Standard errors, intervals, tests and predictions of the result that is returned use it.

        Parameters
        ----------
        kind : {"unadjusted", "robust", "clustered", "hac", "bootstrap"}
            With :math:`A = X^T (\Sigma^{-1} \otimes I) X` and the scores of the rows
            :math:`s_t = \sum_j x_{tj} (\Sigma^{-1} e_t)_j`,

            - ``"unadjusted"``: :math:`A^{-1}`, for errors that are independent across rows with
              covariance Σ.  Where Σ was estimated, of the Σ that
              `mlrops.regression.corrected_covariance` makes of it for small samples;
            - ``"robust"``: :math:`A^{-1} (\sum_t s_t s_t^T) A^{-1}`, rows with errors of any
              covariance, independent;
            - ``"clustered"``: the same with sums of scores over clusters of rows, independent
              across clusters;
            - ``"hac"``: with products of scores of neighbouring rows too, weighted by a kernel:
              errors that are autocorrelated;
            - ``"bootstrap"``: that of refits to data drawn from the fitted system with normal
              errors.
        debiased : bool, optional
            ``"unadjusted"``: False takes Σ as it was estimated, which is too small for few rows;
            default True, and False where Σ is known.  The others: multiply by
            ``N / √((N - p_i) (N - p_j))``, N the cells of an equation; default True.
        clusters : array_like, Series, DataFrame or dict, shape (N,) or (N, 2)
            ``"clustered"``: labels of the rows; a Series, a DataFrame or a dict is matched to the
            rows by label, and may have more of them.  With two of them the covariances by the first
            and by the second are added and that by their intersections is taken off.
        group_debias : bool, optional
            ``"clustered"``: multiply by ``g / (g - 1) (N - 1) / N`` for g clusters; default False.
        kernel : {"bartlett", "parzen", "qs"}, optional
            ``"hac"``: default Bartlett's; ``"qs"`` is the quadratic spectral one.
        bandwidth : float, optional
            ``"hac"``: lags up to it get weights from Bartlett's and Parzen's kernel.  Default the
            rule of Newey and West (1994) for the sum of the standardized scores.
        n_boot, random_state, progress : int, int or Generator, bool, optional
            ``"bootstrap"``: number of refits, default 200; their seed, default 0; a progress bar.

        Returns
        -------
        SURResult

        Raises
        ------
        ValueError, TypeError
            Unknown kinds and options.  When the covariance is first used: coefficients whose scores
            are zero in every row or cluster, variances that two kinds of clusters make negative.

        Notes
        -----
        Constraints make the covariance singular: a coefficient that they fix has standard error 0.
        With a ridge `unadjusted` is the sandwich
        :math:`(A + \Lambda)^{-1} A (A + \Lambda)^{-1}`, the covariance of an estimate that is
        biased; the others have :math:`(A + \Lambda)^{-1}` in place of :math:`A^{-1}`.

        All are computed in double precision, and exactly up to 4000 coefficients; beyond, where the
        factors of Σ on a path of the tree, times rows, are at most 4000: some seconds for 30,000
        coefficients.  Else by conjugate gradients, for N columns (``"robust"``, ``"clustered"``,
        ``"hac"``) or for P (standard errors of ``"unadjusted"``), which takes long.

        Examples
        --------
        Errors four times as large in the second half of the rows, as is the regressor:

        >>> import numpy as np
        >>> from mlrops import als_gls
        >>> rng = np.random.default_rng(0)
        >>> x = np.repeat([1.0, 4.0], 100) * rng.standard_normal(200)
        >>> E = np.repeat([[1.0], [4.0]], 100, axis=0) * rng.standard_normal((200, 3))
        >>> fit = als_gls([x[:, None]] * 3, x[:, None] + E, ranks=0)
        >>> robust = fit.with_cov("robust")
        >>> robust.cov_kind, [round(float(r[0] / u[0]), 1) for r, u in zip(robust.bse, fit.bse)]
        ('robust', [1.2, 1.1, 1.6])
        """
        config = CovConfig(kind, options)
        config.check()
        names = self.data.names
        config = config.aligned(None if names is None else names.rows)
        out = replace(self, cov_config=config)
        for name in ("system", "fitted", "errors", "_df_resid"):  # what no kind changes
            if name in vars(self):
                vars(out)[name] = vars(self)[name]
        return out

    @property
    def cov_kind(self):
        """Kind of the covariance in use (str); see `with_cov`."""
        return self.cov_config.kind

    @cached_property
    def _cov(self):
        return estimate(self, self.cov_config)

    def _cov_times(self, V):
        """The covariance of the coefficients in use times V (P, m), any P."""
        return self._cov.times(V)

    def _cov_blocks(self):
        """Its diagonal blocks, list of K arrays (p_j, p_j)."""
        return self._blocks

    @cached_property
    def _blocks(self):
        return self._cov.blocks()

    def cov_params(self, kind=None, **options):
        """Covariance of the coefficients.

        Parameters
        ----------
        kind : str, optional
            One of those of `with_cov`.  Default the one in use.
        **options : optional
            Those of the kind, as for `with_cov`.

        Returns
        -------
        ndarray, shape (P, P), or DataFrame
            Coefficients equation by equation, as ``numpy.concatenate(result.params)``.

        Raises
        ------
        ValueError, TypeError
            As `with_cov`; more than 4000 coefficients: `bse` knows the standard errors of any
            number.
        """
        if self.P > MOST_COEFFICIENTS:
            raise ValueError(
                f"cov_params forms a matrix of at most {MOST_COEFFICIENTS} coefficients, the system"
                f" has {self.P}, which would take {8e-9 * self.P**2:.1f} GB; bse, tvalues, pvalues"
                " and conf_int need no such matrix")
        if kind is not None or options:
            return self.with_cov(kind or self.cov_kind, **options).cov_params()
        out = self._cov.matrix()
        if self.data.names is None:
            return out
        pd = import_pandas()

        index = self._index()
        return pd.DataFrame(out, index=index, columns=index)

    @property
    def bootstrap(self):
        """The draws behind standard errors of the kind "bootstrap" (a `Bootstrap`).

        Raises
        ------
        ValueError
            The covariance in use is of another kind.
        """
        if self.cov_kind != "bootstrap":
            raise ValueError('with_cov("bootstrap") makes the draws; the covariance in use is'
                             f' "{self.cov_kind}"')
        return self._cov.bootstrap

    # ---------------------------------------------------------------- coefficient by coefficient

    @property
    def df_resid(self):
        """Degrees of freedom of Student's t of each equation's coefficients, (K,) or Series.

        ``N - p_j`` less what the factors take, see `residual_df`; infinite, a normal distribution,
        where Σ is known.
        """
        return self._by_equation(self._df_resid)

    @cached_property
    def _df_resid(self):
        if self.covariance_is_known:
            return np.full(self.K, np.inf)
        data = self.data
        return residual_df(self.covariance, data.nobs, data.p, shared=one_least_squares(self))

    @cached_property
    def _errors_of_coefficients(self):
        """Standard errors (P,)."""
        return np.sqrt(np.concatenate([block.diagonal() for block in self._blocks]))

    @cached_property
    def _ratios(self):
        """t values (P,); of a coefficient that constraints fix infinite, or 0 where it is 0."""
        params, errors = np.concatenate(self.coefficients), self._errors_of_coefficients
        sure = np.where(params == 0, 0, np.copysign(np.inf, params))
        return np.divide(params, errors, out=sure, where=errors > 0)

    @property
    def _df(self):
        """Degrees of freedom of each coefficient, (P,)."""
        return np.repeat(self._df_resid, self.data.p)

    @cached_property
    def bse(self):
        """Standard errors of the coefficients, list of K arrays (p_j,) or Series."""
        return self._by_coefficient(self._errors_of_coefficients)

    @cached_property
    def tvalues(self):
        """Coefficients over standard errors, list of K arrays (p_j,) or Series.

        Infinite where constraints fix a coefficient, 0 where they fix it at 0.
        """
        return self._by_coefficient(self._ratios)

    @cached_property
    def pvalues(self):
        """Two-sided p-values of ``β_ji = 0``, list of K arrays (p_j,) or Series.

        Of Student's t with `df_resid`; of the normal distribution where Σ is known.
        """
        below = -np.abs(self._ratios)
        return self._by_coefficient(
            2 * (ndtr(below) if self.covariance_is_known else stdtr(self._df, below)))

    def conf_int(self, alpha=0.05):
        """Confidence intervals of level ``1 - alpha``.

        Parameters
        ----------
        alpha : float, optional
            Between 0 and 1.

        Returns
        -------
        list of K ndarray, shapes (p_j, 2), or DataFrame
            Lower and upper ends; columns ``lower`` and ``upper``.

        Raises
        ------
        ValueError
            `alpha` is not between 0 and 1.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        tail = 1 - alpha / 2
        quantile = ndtri(tail) if self.covariance_is_known else stdtrit(self._df, tail)
        half, params = quantile * self._errors_of_coefficients, np.concatenate(self.coefficients)
        ends = np.stack([params - half, params + half], axis=1)
        if self.data.names is None:
            return np.split(ends, np.cumsum(self.data.p)[:-1])
        pd = import_pandas()

        return pd.DataFrame(ends, index=self._index(), columns=["lower", "upper"])
