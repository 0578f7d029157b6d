"""`GLSResult`: coefficients of one equation, with their standard errors and tests."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._common.cached import cached_property
from .._common.deprecated import old_attribute, other_name
from .._common.optional import import_pandas
from .._common.text import WIDTH, coefficient_lines, short, side_by_side, title
from .._common.typing import FloatArray, Labelled
from .._common.wording import counted
from ..operators.base import StructuredOperator
from .inference import CoefficientResults, Inference

__all__ = ["GLSResult"]


@dataclass(frozen=True, eq=False, repr=False)
class GLSResult(CoefficientResults):
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
    n_cg : int
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

    coefficients: FloatArray
    errors: FloatArray
    fitted: FloatArray
    covariance: StructuredOperator
    solver: str
    n_cg: int
    residual: float
    converged: bool
    scale_is: str
    names: tuple[str, ...] | None = None
    dependent: str | None = None
    rows: Any = None
    _equations: Any = None  # the normal equations

    def __repr__(self) -> str:
        end = "converged" if self.converged else "NOT converged"
        return (
            f"<GLSResult of {counted(self.coefficients.size, 'coefficient')},"
            f" {counted(self.nobs, 'observation')}; {self.solver} {end}>")

    def _by_coefficient(self, x: FloatArray, columns: list[str] | None = None) -> Labelled:
        if self.names is None:
            return x
        pd, index = import_pandas(), list(self.names)
        return (pd.Series(x, index=index) if columns is None
                else pd.DataFrame(x, index=index, columns=columns))

    def _by_row(self, x: FloatArray) -> Labelled:
        if self.rows is None:
            return x
        return import_pandas().Series(x, index=self.rows, name=self.dependent)

    def _labels(self) -> list[str]:
        return [f"x{j}" for j in range(self.coefficients.size)] if self.names is None else (
            list(self.names))

    @property
    def _index(self) -> Labelled:
        return import_pandas().Index(self._labels())

    @property
    def params(self) -> Labelled:
        """Coefficients, ndarray or Series of shape (p,)."""
        return self._by_coefficient(self.coefficients)

    @property
    def nobs(self) -> int:
        """Number of observations N (int)."""
        return self.errors.size

    @property
    def df_resid(self) -> int:
        """Degrees of freedom of the residuals, N - p (int)."""
        return self.errors.size - self.coefficients.size

    @cached_property
    def ssr(self) -> float:
        """Weighted sum of squares of the residuals, ``rᵀ Σ⁻¹ r`` (float)."""
        return self._equations.quad(self.errors)

    @property
    def scale(self) -> float:
        """σ² (float): ``ssr / (N - p)``, or 1 where it is known."""
        return 1.0 if self.scale_is == "known" else self.ssr / self.df_resid

    @cached_property
    def llf(self) -> float:
        """Gaussian log-likelihood of the coefficients (float).

        At Σ where the scale is known.  Otherwise at ``(ssr / N) Σ``, which maximizes it.
        """
        N = self.nobs
        scale = 1.0 if self.scale_is == "known" else self.ssr / N
        logdet = self.covariance.logdet() + N * math.log(scale) if scale else -math.inf
        quad = self.ssr / scale if scale else N
        return -0.5 * (N * math.log(2 * math.pi) + logdet + quad)

    loglik = other_name("llf")

    @property
    def aic(self) -> float:
        """Akaike's criterion, ``-2 llf + 2 p`` (float); the scale is not counted."""
        return -2 * self.llf + 2 * self.coefficients.size

    @property
    def bic(self) -> float:
        """Schwarz's criterion, ``-2 llf + p log N`` (float); the scale is not counted."""
        return -2 * self.llf + math.log(self.nobs) * self.coefficients.size

    @cached_property
    def _spans_constant(self) -> bool:
        design = self._equations.design
        return design.spans(np.ones_like(self.errors), tol=np.finfo(self._equations.dtype).eps**0.5)

    @cached_property
    def rsquared(self) -> float:
        """Share of the weighted variation explained (float).

        ``1 - rᵀ Σ⁻¹ r / (y - μ)ᵀ Σ⁻¹ (y - μ)``, μ the generalized mean of y where the regressors
        span a constant and zero where they do not; NaN where nothing varies.
        """
        y = self._equations.y
        if self._spans_constant:
            weighted = self.covariance.solve(np.ones_like(y))
            y = y - (weighted @ y) / weighted.sum()
        total = self._equations.quad(y)
        return 1 - self.ssr / total if total else math.nan

    @property
    def rsquared_adj(self) -> float:
        """`rsquared` adjusted for the number of regressors (float).

        ``1 - (1 - R²) (N - c) / (N - p)``, c one where the regressors span a constant.
        """
        return 1 - (1 - self.rsquared) * (self.nobs - self._spans_constant) / self.df_resid

    def cov_params(self) -> Labelled:
        """Covariance of the coefficients, ``scale (Xᵀ Σ⁻¹ X)⁻¹``.

        Returns
        -------
        covariance : ndarray or DataFrame, shape (p, p)

        Raises
        ------
        ValueError
            Columns of X that are linearly dependent, named.
        """
        root = self._equations.root
        return self._by_coefficient(self.scale * (root @ root.T), self._labels())

    @cached_property
    def inference(self) -> Inference:
        """Coefficients and their precision as arrays, whatever has names (an `Inference`)."""
        root = self._equations.root
        largest = np.abs(root).max(axis=1)  # squares of quotients do not underflow
        lengths = largest * np.linalg.norm(root / largest[:, None], axis=1)
        return Inference(self.coefficients, math.sqrt(self.scale) * lengths,
                         math.inf if self.scale_is == "known" else float(self.df_resid))

    def summary(self, alpha: float = 0.05) -> str:
        """The regression as text: facts, then a line a coefficient.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.

        Returns
        -------
        text : str
        """
        rule, found = "=" * WIDTH, self.inference
        return "\n".join([
            *title("Generalized least squares"), *self._facts(), rule,
            *coefficient_lines(self._labels(), found.table(alpha), found.columns(alpha)), rule])

    def _facts(self) -> Iterator[str]:
        """Pairs of name and value, in two columns."""
        try:
            loglik = f"{self.llf:,.2f}"
        except ValueError:  # the covariance has no structured determinant
            loglik = "not known"
        left = [
            ("Dependent", short(self.dependent or "y")),
            ("Observations", f"{self.nobs:,}"),
            ("Coefficients", f"{self.coefficients.size:,}"),
            ("Df residuals", f"{self.df_resid:,}"),
            ("Covariance", short(type(self.covariance).__name__))]
        right = [
            ("R-squared", f"{self.rsquared:.4f}"),
            ("Log-likelihood", loglik),
            (f"Scale ({self.scale_is})", f"{self.scale:.5g}"),
            (f"Iterations ({self.solver})", f"{self.n_cg:,}"),
            ("Converged", f"{'yes' if self.converged else 'no'} ({self.residual:.1e})")]
        return side_by_side(left, right)

    n_iter = old_attribute("n_iter", "n_cg")
