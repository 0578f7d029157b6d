"""`SystemFit`: a fitted system as data, and what follows from them alone."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..._common.cached import cached_property
from ..._common.optional import import_pandas
from ..._common.typing import FloatArray, IntArray, Labelled
from ...factor import criteria
from ...operators.base import StructuredOperator
from .data import SURData, SystemNames
from .new_data import linear
from .small_sample import residual_df
from .system import StackedSystem

__all__ = ["Fitter", "SystemFit"]


class Fitter(Protocol):
    """How a system was fitted, and how the same is fitted to other data."""

    @property
    def beta_ridge(self) -> float: ...

    @property
    def factor_ridge(self) -> float: ...

    @property
    def method(self) -> str: ...

    @property
    def dfk(self) -> bool: ...

    @property
    def small(self) -> bool: ...

    def fit(self, data: SURData, ranks: Any, hierarchy: Any, *,
            covariance: StructuredOperator | None = None) -> "SystemFit":
        """Fit these data in the same way."""


@dataclass(frozen=True, repr=False, eq=False)
class SystemFit:
    """The data of a `SURResult`, which documents them.

    Diagnostics, covariances, tests, predictions and tables are functions over this.  What must fit
    other data has the fitter from `options`.  What is cached here does not depend on `cov_type`.
    """

    data: SURData
    coefficients: list[FloatArray]
    covariance: StructuredOperator
    loglik: float
    loglik_trace: FloatArray
    objective_trace: FloatArray
    n_iter: int
    converged: bool
    termination: str
    n_cg: list[int]
    gradient_norm: float
    normal_norm: float
    boundary: IntArray
    options: Fitter
    capped: tuple[tuple[int, int, int], ...] = ()
    covariance_is_known: bool = False
    selection: Any = None
    cov_type: Any = "unadjusted"
    cov_kwds: dict[str, Any] = field(default_factory=dict)
    prior: float = 0.0
    prior_variance: FloatArray | None = None
    prior_share: FloatArray | None = None

    @property
    def nobs(self) -> int:
        """Number of rows (int)."""
        return self.data.N

    @property
    def n_equations(self) -> int:
        """Number of equations (int)."""
        return self.data.K

    @property
    def n_params(self) -> int:
        """Number of coefficients in all (int)."""
        return sum(b.size for b in self.coefficients)

    @property
    def method(self) -> str:
        """How Σ came about (str).

        ``"factor"``, ``"fgls"`` or ``"ifgls"`` of `SUR.fit`; ``"gls"`` where it was given.
        """
        return "gls" if self.covariance_is_known else self.options.method

    @property
    def _is_unrestricted(self) -> bool:
        """Whether Σ was estimated without any structure."""
        return self.method in ("fgls", "ifgls")

    @property
    def objective(self) -> float:
        """Log-likelihood a row less penalties, which is what was maximized (float)."""
        return float(self.objective_trace[-1])

    @cached_property
    def degrees_of_freedom(self) -> int:
        """Number of free parameters (int).

        The coefficients less independent constraints on them, and where the covariance was fitted
        its parameters, rotations counted out; see `mlrops.factor.criteria`.
        """
        count, A = self.system.n_free, self.covariance
        if self._is_unrestricted:
            return count + self.n_equations * (self.n_equations + 1) // 2
        return count if self.covariance_is_known else (
            count + criteria.degrees_of_freedom(A.hierarchy, A.ranks, mean=False))

    @property
    def llf(self) -> float:
        """Log-likelihood of all rows (float)."""
        return self.nobs * self.loglik

    @property
    def aic(self) -> float:
        """Akaike's criterion of all rows, ``-2 llf + 2 df`` (float); smaller is better."""
        return -2 * self.llf + 2 * self.degrees_of_freedom

    @property
    def bic(self) -> float:
        """Schwarz's criterion of all rows, ``-2 llf + df log N`` (float)."""
        return -2 * self.llf + math.log(self.nobs) * self.degrees_of_freedom

    @cached_property
    def system(self) -> StackedSystem:
        """The equations on orthonormal bases of their regressors (a `StackedSystem`)."""
        return self.data.system(beta_ridge=self.options.beta_ridge)

    @cached_property
    def fitted(self) -> FloatArray:
        """Fitted values as an array (N, K), NaN at missing cells."""
        return self._observed(linear(self, self.data.Xs))

    @cached_property
    def errors(self) -> FloatArray:
        """Residuals as an array (N, K), NaN at missing cells."""
        return self.data.Y - self.fitted

    @cached_property
    def _df_resid(self) -> FloatArray:
        """Degrees of freedom of each equation (K,); see `SURResult.df_resid`."""
        return self._degrees(self.system.is_least_squares)

    def _degrees(self, shared: bool) -> FloatArray:
        if self._is_unrestricted and self.options.small:
            return np.full(self.n_equations, max(self.system.n_cells - self.system.n_free, 1.0))
        if self.covariance_is_known or self._is_unrestricted:
            return np.full(self.n_equations, np.inf)
        return residual_df(self.covariance, self.data.nobs, self.data.p, shared=shared)

    def _refit(self, data: SURData) -> "SystemFit":
        """The same model fitted to other data; a covariance that was given is kept."""
        A = self.covariance
        if self.covariance_is_known:
            return self.options.fit(data, None, None, covariance=A)
        if self._is_unrestricted:
            return self.options.fit(data, None, None)
        return self.options.fit(data, A.ranks, A.hierarchy)

    def _observed(self, x: FloatArray) -> FloatArray:
        return x if self.data.observed is None else np.where(self.data.observed, x, np.nan)

    @property
    def names(self) -> SystemNames:
        """Names of equations, regressors and rows; numbers of the former two without names."""
        if self.data.names is not None:
            return self.data.names
        return SystemNames(tuple(map(str, range(self.n_equations))),
                           tuple(tuple(map(str, range(b.size))) for b in self.coefficients))

    @cached_property
    def _index(self) -> Labelled:
        index = import_pandas().MultiIndex.from_tuples(
            self.names.coefficients(), names=["equation", "regressor"])
        if self.data.names is None:
            index = index.set_levels([level.astype(int) for level in index.levels])
        return index

    def _by_coefficient(self, x: FloatArray, columns: list[str] | None = None) -> Labelled:
        """One or more numbers a coefficient, (P,) or (P, m): a list, a Series or a DataFrame."""
        if self.data.names is None:
            return np.split(x, np.cumsum(self.data.p)[:-1])
        pd = import_pandas()
        return (pd.Series(x, index=self._index) if columns is None
                else pd.DataFrame(x, index=self._index, columns=columns))

    def _by_equation(self, x: FloatArray) -> Labelled:
        """One number an equation, (K,): an array, or a Series."""
        if self.data.names is None:
            return x
        pd = import_pandas()
        return pd.Series(x, index=pd.Index(self.names.equations, name="equation"))

    def _by_row(self, x: FloatArray) -> Labelled:
        """One number a cell of the fit, (N, K): an array, or a DataFrame."""
        return self._by_cell(x, self.names.rows)

    def _by_cell(self, x: FloatArray, rows: Any) -> Labelled:
        """One number a cell, (M, K): an array, or a DataFrame; `rows` are their labels or None."""
        names = self.data.names
        if names is None and rows is None:
            return x
        return import_pandas().DataFrame(
            x, index=rows, columns=None if names is None else list(names.equations))
