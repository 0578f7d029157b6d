"""`SURResult`: a fitted system of seemingly unrelated regressions."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..._optional import import_pandas
from ..._wording import counted
from ...operators._validate import as_finite
from ...operators.base import StructuredOperator
from .. import conditional
from ..frames import check_order, frame_values
from . import measures
from .covariance import CovConfig
from .data import SURData
from .inference import Inference
from .tests import SystemTests

__all__ = ["SURResult"]


@dataclass(frozen=True, repr=False, eq=False)
class SURResult(Inference, SystemTests):
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
    covariance_is_known : bool
        Whether it was given.
    loglik : float
        Average log-likelihood a row.
    objective : float
        The same less penalties, which is what was maximized.
    loglik_trace : ndarray, shape (n_iter + 1,)
        The objective at the start and after every iteration; never falls.
    n_iter : int
        Number of iterations, each a Σ-step and a β-step.
    converged : bool
    termination : str
        ``"gradient"``, ``"loglik"``, ``"max_iter"`` (also of the solver's steps), ``"rounding"``
        (which the solver of the coefficients does not get past), ``"callback"`` or
        ``"interrupted"``.  The first two count as converged.
    cg_iterations : list of int
        Iterations of the linear solver in each iteration.
    resid, fittedvalues : ndarray or DataFrame, shape (N, K)
        NaN at missing cells.
    gradient_norm : float
        Largest derivative of the log-likelihood a row by a loading, in units of the square root of
        the equation's D, or by log D; 0 where the covariance was given.
    normal_norm : float
        Size of the normal equations' residual: 2-norm of the derivatives by the coefficients of
        orthogonal regressors of mean square 1, in units of the errors' partial standard deviations.
    boundary : ndarray of int, shape (number of them,)
        Equations whose variance in D stands at the floor (Heywood cases).
    capped : tuple of (int, int, int)
        ``(level, group, equations)`` of groups with fewer equations than their level's rank.
    selection : RankSelection or None
        How ``SUR.fit(ranks="bic")`` or ``"cv"`` chose the ranks, with the table of candidates.
    cov_config : CovConfig
        Kind of the coefficients' covariance and its options; see `with_cov`.
    data : SURData
        The equations as they were read: ``data.Xs``, ``data.Y``, ``data.names``, ...
    coefficients : list of K ndarray, shapes (p_j,)
        `params` as arrays, whatever has names.
    options : SUROptions
        How it was fitted: tolerances, caps, ridges.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import als_gls
    >>> rng = np.random.default_rng(0)
    >>> Xs = [rng.standard_normal((80, 2)) for _ in range(6)]
    >>> E = rng.standard_normal((80, 1)) + rng.standard_normal((80, 6))
    >>> Y = np.stack([X.sum(axis=1) for X in Xs], axis=1) + E
    >>> fit = als_gls(Xs, Y, ranks=1)
    >>> fit.K, fit.N, fit.predict(Xs).shape
    (6, 80, (80, 6))
    >>> bool(np.isclose(fit.score(Xs, Y), fit.loglik))
    True
    >>> [b.shape for b in fit.bse] == [b.shape for b in fit.params]
    True
    """

    data: SURData = field(repr=False)
    coefficients: list = field(repr=False)  # the K arrays that `params` shows
    covariance: StructuredOperator
    loglik: float
    loglik_trace: np.ndarray = field(repr=False)
    n_iter: int
    converged: bool
    termination: str
    cg_iterations: list
    gradient_norm: float
    normal_norm: float
    boundary: np.ndarray
    options: object = field(repr=False)  # SUROptions
    capped: tuple = ()
    covariance_is_known: bool = False
    selection: object = None
    cov_config: CovConfig = CovConfig()

    @property
    def N(self):
        """Number of rows (int)."""
        return self.data.N

    @property
    def K(self):
        """Number of equations (int)."""
        return self.data.K

    @property
    def P(self):
        """Number of coefficients in all (int)."""
        return sum(b.size for b in self.coefficients)

    @property
    def objective(self):
        """Log-likelihood a row less penalties (float)."""
        return float(self.loglik_trace[-1])

    @property
    def Xs(self):
        """The regressors, tuple of K arrays (N, p_j)."""
        return tuple(self.data.Xs)

    @cached_property
    def system(self):
        """The equations on orthonormal bases of their regressors (a `StackedSystem`)."""
        return self.data.system(beta_ridge=self.options.beta_ridge)

    def __repr__(self):
        return (f"<SURResult: {counted(self.K, 'equation')}, {counted(self.P, 'coefficient')},"
                f" {counted(self.N, 'row')}, loglik {self.loglik:.6g} a row, {self.termination}>")

    # ---------------------------------------------------------------- lists, or with names

    def _by_coefficient(self, x):
        """One number a coefficient, (P,): a list of K arrays, or a Series."""
        if self.data.names is None:
            return np.split(x, np.cumsum([b.size for b in self.coefficients])[:-1])
        pd = import_pandas()

        return pd.Series(x, index=self._index())

    @cached_property
    def _by_number(self):
        """The same result without names: lists and arrays throughout, which need no pandas."""
        out = replace(self, data=replace(self.data, names=None))
        for name in ("system", "df_resid", "_cov", "_blocks", "_errors_of_coefficients", "_ratios"):
            vars(out)[name] = getattr(self, name)  # computed once for both
        return out

    def _index(self):
        """The pandas index (equation, regressor)."""
        pd = import_pandas()

        names = self.data.names
        pairs = [(equation, regressor) for equation, regressors
                 in zip(names.equations, names.regressors, strict=True) for regressor in regressors]
        return pd.MultiIndex.from_tuples(pairs, names=["equation", "regressor"])

    def _by_row(self, x):
        """One number a cell, (N, K): an array, or a DataFrame."""
        names = self.data.names
        if names is None:
            return x
        pd = import_pandas()

        return pd.DataFrame(x, index=names.rows, columns=pd.Index(names.equations))

    # ---------------------------------------------------------------- fit

    @cached_property
    def params(self):
        """Coefficients, list of K arrays (p_j,) or Series."""
        return self._by_coefficient(np.concatenate(self.coefficients))

    @cached_property
    def fitted(self):
        """Fitted values as an array (N, K), NaN at missing cells."""
        columns = [X @ b for X, b in zip(self.data.Xs, self.coefficients, strict=True)]
        return self._observed(np.stack(columns, axis=1))

    @cached_property
    def errors(self):
        """Residuals as an array (N, K), NaN at missing cells."""
        return self.data.Y - self.fitted

    def _observed(self, x):
        return x if self.data.observed is None else np.where(self.data.observed, x, np.nan)

    @property
    def fittedvalues(self):
        """Fitted values, ndarray or DataFrame of shape (N, K); NaN at missing cells."""
        return self._by_row(self.fitted)

    @property
    def resid(self):
        """Residuals, ndarray or DataFrame of shape (N, K); NaN at missing cells."""
        return self._by_row(self.errors)

    # ---------------------------------------------------------------- new data

    def predict(self, Xs):
        """Fitted values for regressors like those of the fit.

        Parameters
        ----------
        Xs : list of K array_like or DataFrame, shapes (M, p_j)

        Returns
        -------
        ndarray, shape (M, K), or DataFrame
        """
        Xs = self._read_regressors(Xs)
        return self._name_rows(
            np.stack([X @ b for X, b in zip(Xs, self.coefficients, strict=True)], axis=1))

    def _name_rows(self, x, rows=None):
        """Numbers (M, K) for new rows: an array, or a DataFrame."""
        if self.data.names is None:
            return x
        pd = import_pandas()

        return pd.DataFrame(x, index=rows, columns=pd.Index(self.data.names.equations))

    def _read_regressors(self, Xs):
        """New regressors, checked: list of K arrays (M, p_j)."""
        if len(Xs) != self.K:
            raise ValueError("Xs must hold one array for each of the"
                             f" {counted(self.K, 'equation')}, got {len(Xs)}")
        out = []
        for j, (X, beta) in enumerate(zip(Xs, self.coefficients, strict=True)):
            what = f"X of equation {j}"
            if hasattr(X, "columns"):
                if self.data.names is not None:
                    check_order(X.columns, self.data.names.regressors[j], what)
                X = frame_values(X, what)
            X = as_finite(X, what, ndim=2, axis_name="column", axis=1)
            if X.shape[1] != beta.size or len(X) != len(out[0] if out else X):
                rows = len(out[0]) if out else "M"
                raise ValueError(f"X of equation {j} must have shape ({rows}, {beta.size}),"
                                 f" got {X.shape}")
            out.append(X)
        return out

    def score_samples(self, Xs, Y):
        """Log-likelihood of each row of data, given its regressors.

        Parameters
        ----------
        Xs : list of K array_like or DataFrame, shapes (M, p_j)
        Y : array_like or DataFrame, shape (M, K)
            NaN marks a missing cell, which is left out: Σ must then be an `MLR`.

        Returns
        -------
        loglik : ndarray, shape (M,)

        Raises
        ------
        ValueError, TypeError
            Shapes or columns other than those of the fit, infinity, missing cells where Σ is no
            `MLR`.
        """
        if hasattr(Y, "columns") and self.data.names is not None:
            check_order(Y.columns, self.data.names.equations, "Y")
        return measures.loglik_samples(self, Xs, Y)

    def score(self, Xs, Y):
        """Average log-likelihood a row of data; one without a cell of Y counts nowhere.

        Parameters
        ----------
        Xs : list of K array_like or DataFrame, shapes (M, p_j)
        Y : array_like or DataFrame, shape (M, K)
            As for `score_samples`.

        Returns
        -------
        loglik : float
        """
        loglik = self.score_samples(Xs, Y)
        return conditional.average(loglik, measures.new_errors(self, Xs, Y))
