"""`GLSResult`: coefficients of one equation, with their standard errors and tests."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from .._common.cached import cached_property
from .._common.optional import import_pandas
from .._common.text import WIDTH, coefficient_columns, coefficient_lines, short, side_by_side, title
from .._common.wording import counted

__all__ = ["GLSResult"]


@dataclass(frozen=True, eq=False, repr=False)
class GLSResult:
    """A regression by generalized least squares; what `gls` returns.

    What belongs to the coefficients is an array, or a Series or DataFrame where the regressors have
    names; what belongs to the rows is one where the rows have labels, those of X or else of y.

    Attributes
    ----------
    params : ndarray or Series, shape (p,)
        Coefficients.
    resid, fittedvalues : ndarray or Series, shape (N,)
        ``y - Xβ`` and ``Xβ``.
    covariance : StructuredOperator, shape (N, N)
        Covariance Σ of the errors as given, up to `scale`.
    solver : str
        ``"cg"``, ``"lsmr"`` or ``"qr"``.
    n_iter : int
        Iterations of the solver; factorizations of ``"qr"``.
    residual : float
        Relative residual of the normal equations, ``‖Bᵀ Σ⁻¹ (y - Xβ)‖ / (‖W B‖ ‖W y‖)``: B the
        regressors in the basis of the iteration, ``WᵀW = Σ⁻¹``, ``‖W B‖`` a lower bound from one
        product.
    converged : bool
        Whether `residual` is at most ``rtol``.
    scale_is : str
        ``"estimated"`` or ``"known"``.
    names : tuple of str or None
        Names of the regressors, where X had some.
    dependent : str or None
        Name of y, where it had one.
    rows : pandas.Index, tuple or None
        Labels of the rows, where X or y had some.
    coefficients : ndarray, shape (p,)
        `params` as an array, whatever has names.
    errors, fitted : ndarray, shape (N,)
        `resid` and `fittedvalues` as arrays.

    Notes
    -----
    Standard errors and what follows from them are computed on first use, from the p×p matrix
    ``Xᵀ Σ⁻¹ X``: with ``solver="cg"`` from its entries, one solve with Σ a column, otherwise from a
    QR of the whitened regressors.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import gls
    >>> x = np.arange(6.0)
    >>> y = np.array([1.1, 2.9, 5.2, 7.1, 8.8, 11.0])
    >>> fit = gls(np.column_stack([np.ones(6), x]), y, np.ones(6))
    >>> fit.params.round(4), fit.bse.round(4), round(fit.rsquared, 5)
    (array([1.081 , 1.9743]), array([0.1126, 0.0372]), 0.99858)
    >>> fit.conf_int().round(3)
    array([[0.768, 1.393],
           [1.871, 2.078]])
    """

    coefficients: np.ndarray
    errors: np.ndarray
    fitted: np.ndarray
    covariance: object
    solver: str
    n_iter: int
    residual: float
    converged: bool
    scale_is: str
    names: tuple | None = None
    dependent: str | None = None
    rows: object = None
    _problem: object = None

    def __repr__(self):
        how = "converged" if self.converged else "NOT converged"
        return (
            f"<GLSResult of {counted(self.coefficients.size, 'coefficient')},"
            f" {counted(self.nobs, 'observation')}; {self.solver} {how}>"
        )

    # ---------------------------------------------------------------- arrays, or with names

    def _by_coefficient(self, x):
        """One number a coefficient, (p,): an array, or a Series."""
        return x if self.names is None else import_pandas().Series(x, index=list(self.names))

    def _by_row(self, x):
        """One number a row, (N,): an array, or a Series."""
        if self.rows is None:
            return x
        return import_pandas().Series(x, index=self.rows, name=self.dependent)

    @property
    def params(self):
        """Coefficients, ndarray or Series of shape (p,)."""
        return self._by_coefficient(self.coefficients)

    @property
    def resid(self):
        """Residuals ``y - Xβ``, ndarray or Series of shape (N,)."""
        return self._by_row(self.errors)

    @property
    def fittedvalues(self):
        """Fitted values ``Xβ``, ndarray or Series of shape (N,)."""
        return self._by_row(self.fitted)

    # ---------------------------------------------------------------- size of the errors

    @property
    def nobs(self):
        """Number of observations N (int)."""
        return self.errors.size

    @property
    def df_resid(self):
        """Degrees of freedom of the residuals, N - p (int)."""
        return self.errors.size - self.coefficients.size

    @cached_property
    def ssr(self):
        """Weighted sum of squares of the residuals, ``rᵀ Σ⁻¹ r`` (float)."""
        return self._problem.quad(self.errors)

    @property
    def scale(self):
        """σ² (float): ``ssr / (N - p)``, or 1 where it is known."""
        return 1.0 if self.scale_is == "known" else self.ssr / self.df_resid

    @cached_property
    def loglik(self):
        """Gaussian log-likelihood of the coefficients (float).

        At Σ where the scale is known.  Otherwise at ``(ssr / N) Σ``, which maximizes it.
        """
        N = self.nobs
        scale = 1.0 if self.scale_is == "known" else self.ssr / N
        logdet = self.covariance.logdet() + N * math.log(scale) if scale else -math.inf
        quad = self.ssr / scale if scale else N
        return -0.5 * (N * math.log(2 * math.pi) + logdet + quad)

    @cached_property
    def rsquared(self):
        """Share of the weighted variation explained (float).

        ``1 - rᵀ Σ⁻¹ r / (y - μ)ᵀ Σ⁻¹ (y - μ)``, μ the generalized mean of y where the regressors
        span a constant and zero where they do not; NaN where nothing varies.
        """
        problem = self._problem
        y, one = problem.y, np.ones_like(problem.y)
        if problem.design.spans(one, tol=np.finfo(problem.dtype).eps ** 0.5):
            weighted = self.covariance.solve(one)
            y = y - (weighted @ y) / (weighted @ one)
        total = problem.quad(y)
        return 1 - self.ssr / total if total else math.nan

    # ---------------------------------------------------------------- inference

    def cov_params(self):
        """Covariance of the coefficients, ``scale (Xᵀ Σ⁻¹ X)⁻¹``.

        Returns
        -------
        covariance : ndarray or DataFrame, shape (p, p)

        Raises
        ------
        ValueError
            Columns of X that are linearly dependent, named.
        """
        root = self._problem.root
        out = self.scale * (root @ root.T)
        if self.names is None:
            return out
        return import_pandas().DataFrame(out, index=list(self.names), columns=list(self.names))

    @cached_property
    def _standard_errors(self):
        root = self._problem.root
        largest = np.abs(root).max(axis=1)  # squares of quotients do not underflow
        return math.sqrt(self.scale) * largest * np.linalg.norm(root / largest[:, None], axis=1)

    @cached_property
    def _ratios(self):
        with np.errstate(divide="ignore", invalid="ignore"):  # a perfect fit
            return self.coefficients / self._standard_errors

    @property
    def bse(self):
        """Standard errors of the coefficients, ndarray or Series of shape (p,)."""
        return self._by_coefficient(self._standard_errors)

    @property
    def tvalues(self):
        """Coefficients over standard errors, shape (p,); z where the scale is known."""
        return self._by_coefficient(self._ratios)

    @property
    def pvalues(self):
        """Two-sided p-values of ``β_j = 0``, ndarray or Series of shape (p,)."""
        return self._by_coefficient(self._probabilities())

    def _probabilities(self):
        below = -np.abs(self._ratios)
        if self.scale_is == "known":
            return 2 * ndtr(below)
        return 2 * stdtr(self.df_resid, below)

    def conf_int(self, alpha=0.05):
        """Confidence intervals of level ``1 - alpha``.

        Parameters
        ----------
        alpha : float, default 0.05
            Between 0 and 1.

        Returns
        -------
        interval : ndarray or DataFrame, shape (p, 2)
            Lower and upper ends; columns ``lower`` and ``upper``.

        Raises
        ------
        ValueError
            `alpha` is not between 0 and 1.
        """
        ends = self._ends(alpha)
        if self.names is None:
            return ends
        return import_pandas().DataFrame(ends, index=list(self.names), columns=["lower", "upper"])

    def _ends(self, alpha):
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        tail = 1 - alpha / 2
        quantile = ndtri(tail) if self.scale_is == "known" else stdtrit(self.df_resid, tail)
        half = quantile * self._standard_errors
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    # ---------------------------------------------------------------- tables

    def to_frame(self, alpha=0.05):
        """The table of coefficients as a pandas DataFrame, a regressor a row.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.

        Returns
        -------
        pandas.DataFrame, shape (p, 6)
            Columns ``coef``, ``std err``, ``t`` and ``P>|t|`` (``z`` where the scale is known), and
            the ends of the confidence intervals.
        """
        pd = import_pandas()

        return pd.DataFrame(self._table(alpha), index=pd.Index(self._labels()),
                            columns=self._columns(alpha))

    def summary(self, alpha=0.05):
        """The regression as text: facts, then a line a coefficient.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.

        Returns
        -------
        text : str
        """
        rule = "=" * WIDTH
        return "\n".join([
            *title("Generalized least squares"), *self._facts(), rule,
            *coefficient_lines(self._labels(), self._table(alpha), self._columns(alpha)), rule])

    def _table(self, alpha):
        return np.column_stack([self.coefficients, self._standard_errors, self._ratios,
                                self._probabilities(), self._ends(alpha)])

    def _labels(self):
        if self.names is not None:
            return list(self.names)
        return [f"x{j}" for j in range(self.coefficients.size)]

    def _columns(self, alpha):
        return coefficient_columns(alpha, self.scale_is == "known")

    def _facts(self):
        """Pairs of name and value, in two columns."""
        try:
            loglik = f"{self.loglik:,.2f}"
        except ValueError:  # the covariance has no structured determinant
            loglik = "not known"
        left = [
            ("Dependent", short(self.dependent or "y")),
            ("Observations", f"{self.nobs:,}"),
            ("Coefficients", f"{self.coefficients.size:,}"),
            ("Df residuals", f"{self.df_resid:,}"),
            ("Covariance", short(type(self.covariance).__name__)),
        ]
        right = [
            ("R-squared", f"{self.rsquared:.4f}"),
            ("Log-likelihood", loglik),
            (f"Scale ({self.scale_is})", f"{self.scale:.5g}"),
            (f"Iterations ({self.solver})", f"{self.n_iter:,}"),
            ("Converged", f"{'yes' if self.converged else 'no'} ({self.residual:.1e})"),
        ]
        return side_by_side(left, right)
