"""`SURResult`: a fitted system of seemingly unrelated regressions."""

from dataclasses import dataclass, field, replace

import numpy as np

from ..._common.cached import cached_property
from ..._common.optional import import_pandas
from ..._common.wording import counted
from ...factor import conditional
from ...operators.base import StructuredOperator
from . import measures
from .covariance import CovConfig
from .data import SURData
from .inference import Inference
from .new_data import linear, read_new
from .stored import StoredSystem
from .system_tests import SystemTests

__all__ = ["SURResult"]


@dataclass(frozen=True, repr=False, eq=False)
class SURResult(StoredSystem, Inference, SystemTests):
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
        for name in ("system", "_df_resid", "_cov", "_blocks", "_errors_of_coefficients",
                     "_ratios"):
            vars(out)[name] = getattr(self, name)  # computed once for both
        return out

    def _index(self):
        """The pandas index (equation, regressor)."""
        pd = import_pandas()

        names = self.data.names
        pairs = [(equation, regressor) for equation, regressors
                 in zip(names.equations, names.regressors, strict=True) for regressor in regressors]
        return pd.MultiIndex.from_tuples(pairs, names=["equation", "regressor"])

    def _by_row(self, x, rows=None):
        """One number a cell, (M, K): an array, or a DataFrame."""
        names = self.data.names
        if names is None and rows is None:
            return x
        pd = import_pandas()

        return pd.DataFrame(x, index=rows, columns=None if names is None else list(names.equations))

    @property
    def _rows(self):
        """Labels of the rows of the fit."""
        return None if self.data.names is None else self.data.names.rows

    # ---------------------------------------------------------------- fit

    @cached_property
    def params(self):
        """Coefficients, list of K arrays (p_j,) or Series."""
        return self._by_coefficient(np.concatenate(self.coefficients))

    @cached_property
    def fitted(self):
        """Fitted values as an array (N, K), NaN at missing cells."""
        return self._observed(linear(self, self.data.Xs))

    @cached_property
    def errors(self):
        """Residuals as an array (N, K), NaN at missing cells."""
        return self.data.Y - self.fitted

    def _observed(self, x):
        return x if self.data.observed is None else np.where(self.data.observed, x, np.nan)

    @property
    def fittedvalues(self):
        """Fitted values, ndarray or DataFrame of shape (N, K); NaN at missing cells."""
        return self._by_row(self.fitted, self._rows)

    @property
    def resid(self):
        """Residuals, ndarray or DataFrame of shape (N, K); NaN at missing cells."""
        return self._by_row(self.errors, self._rows)

    # ---------------------------------------------------------------- new data

    def predict(self, Xs=None):
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
            return self.fittedvalues
        new = read_new(self, Xs)
        return self._by_row(linear(self, new.Xs), new.rows)

    def score_samples(self, Xs=None, Y=None):
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
        new = read_new(self, Xs, Y, need_Y=True)
        loglik = measures.loglik_samples(self, new)
        return loglik if new.rows is None else import_pandas().Series(loglik, index=new.rows)

    def score(self, Xs=None, Y=None):
        """Average log-likelihood a row of data; one without a cell of Y counts nowhere.

        Parameters
        ----------
        Xs, Y : optional
            As for `score_samples`; default the rows of the fit.

        Returns
        -------
        loglik : float
        """
        new = read_new(self, Xs, Y, need_Y=True)
        loglik = measures.loglik_samples(self, new)
        return conditional.average(loglik, measures.new_errors(new, self))
