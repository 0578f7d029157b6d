"""`DistributedSURResult`: a fitted system whose equations lie in parts on workers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...._common.cached import cached_property
from ...._common.cluster import chunks_of, import_array, is_dask, task
from ...._common.typing import FloatArray, IntArray
from ...._common.wording import counted
from ....factor import criteria
from ...inference import Inference, half_widths
from ..data import SURData
from ..result import SURResult
from .standard_errors import Errors, ordinary_errors, spread_errors

__all__ = ["DistributedSURResult"]


@dataclass(frozen=True, repr=False, eq=False)
class DistributedSURResult:
    """A fitted system of K equations with N rows, in parts; what `als_gls` returns for dask arrays.

    Nothing of the size of the data or of Σ is ever here.  Arrays with an entry or a column for each
    equation are dask arrays, cut like the equations of Y; they are computed when they are asked
    for.  What the result in memory can do beyond that is there after `gather`.

    Attributes
    ----------
    params : dask array, shape (K, p)
        Coefficients.
    covariance : DistributedMLR, shape (K, K)
        Covariance of the errors across equations.
    loglik : float
        Average log-likelihood a row; `llf` is that of all rows.
    loglik_trace, objective_trace : ndarray, shape (n_iter + 1,)
        The log-likelihood at the start and after every iteration; and the same less penalties.
    n_iter, converged, termination, n_cg, gradient_norm, normal_norm, boundary, capped, options
        As of `SURResult`.
    prior : float
        Strength of the prior on D in pseudo-samples; 0 without one.
    Y, X : dask array or ndarray
        The data as they were given.
    debiased : bool
        Whether standard errors are corrected for small samples; see `with_cov`.

    Examples
    --------
    >>> import dask, numpy as np
    >>> import dask.array as da
    >>> from mlrops import als_gls
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 12, 2))
    >>> E = rng.standard_normal((100, 1)) + 0.3 * rng.standard_normal((100, 12))
    >>> Y = X @ [1.0, -2.0] + E
    >>> with dask.config.set(scheduler="threads"):
    ...     fit = als_gls(da.from_array(X, chunks=(-1, 6, -1)), da.from_array(Y, chunks=(-1, 6)), 1)
    ...     whole, errors = fit.gather(), fit.bse.compute()
    >>> fit.params.chunks, fit.resid.shape, fit.covariance.widths
    (((6, 6), (2,)), (100, 12), (6, 6))
    >>> whole.n_equations, bool(np.isclose(whole.loglik, fit.loglik))
    (12, True)
    >>> bool(np.allclose(errors, whole.bse))
    True
    """

    params: Any
    covariance: Any
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
    capped: tuple[tuple[int, int, int], ...]
    options: Any
    prior: float
    Y: Any
    X: Any

    debiased: bool = True

    covariance_is_known = False

    @property
    def nobs(self) -> int:
        """Number of rows (int)."""
        return int(self.Y.shape[0])

    @property
    def n_equations(self) -> int:
        """Number of equations (int)."""
        return int(self.Y.shape[1])

    @property
    def n_params(self) -> int:
        """Number of coefficients in all (int)."""
        return int(self.params.size)

    @property
    def objective(self) -> float:
        """Log-likelihood a row less penalties, which is what was maximized (float)."""
        return float(self.objective_trace[-1])

    @property
    def llf(self) -> float:
        """Log-likelihood of all rows (float)."""
        return self.nobs * self.loglik

    @property
    def degrees_of_freedom(self) -> int:
        """Number of free parameters (int); see `SURResult`."""
        A = self.covariance
        return self.n_params + criteria.degrees_of_freedom(A.hierarchy, A.ranks, mean=False)

    @property
    def aic(self) -> float:
        """Akaike's criterion of all rows, ``-2 llf + 2 df`` (float); smaller is better."""
        return -2 * self.llf + 2 * self.degrees_of_freedom

    @property
    def bic(self) -> float:
        """Schwarz's criterion of all rows, ``-2 llf + df log N`` (float)."""
        return -2 * self.llf + float(np.log(self.nobs)) * self.degrees_of_freedom

    @property
    def fittedvalues(self) -> Any:
        """Fitted values, a dask array (N, K) in the chunks of Y."""
        return self.predict(self.X)

    @property
    def resid(self) -> Any:
        """Residuals, a dask array (N, K) in the chunks of Y."""
        return self.Y - self.fittedvalues

    @property
    def df_resid(self) -> Any:
        """Degrees of freedom of Student's t of each equation, a dask array (K,); see `SURResult`.
        """
        return self._inferred("df", ())

    @property
    def bse(self) -> Any:
        """Standard errors of the coefficients, a dask array (K, p).

        Those of `SURResult`, see `with_cov`.  They are computed at the first use of them or of what
        hangs on them, and stay on the workers.  Regressors of their own take an elimination of the
        factors of all rows: ``P (N R)²`` flops, shared by the parts, and ``(N R_c)²`` numbers that
        go up and down for each parent, R_c the ranks above the parts.

        Raises
        ------
        ValueError
            There is a ridge; or regressors of their own, and more than 4000 factors on a path of
            the tree, times rows.
        """
        return self._inferred("bse", self.params.shape[1:])

    @cached_property
    def _errors(self) -> Any:
        if self.options.beta_ridge:
            raise ValueError("standard errors with a beta_ridge are for results in memory: gather()"
                             " gives one")
        compute = ordinary_errors if self.X.ndim == 2 else spread_errors
        return compute(self.covariance, self.X, self.nobs, self.debiased)

    @property
    def tvalues(self) -> Any:
        """`params` in units of `bse`, a dask array (K, p)."""
        return self._inferred("tvalues", self.params.shape[1:])

    @property
    def pvalues(self) -> Any:
        """Two-sided p-values of coefficients that are 0, a dask array (K, p)."""
        return self._inferred("pvalues", self.params.shape[1:])

    def conf_int(self, alpha: float = 0.05) -> Any:
        """Confidence intervals of level ``1 - alpha``.

        Parameters
        ----------
        alpha : float, default 0.05
            Between 0 and 1.

        Returns
        -------
        dask array, shape (K, p, 2)
            Lower and upper ends.

        Raises
        ------
        ValueError
            `alpha` is not between 0 and 1; and as `bse`.
        """
        half_widths(np.zeros(1), 1.0, alpha)  # which checks it
        return self._inferred("conf_int", (self.params.shape[1], 2), alpha)

    def _inferred(self, name: str, trailing: tuple[int, ...], *options: Any) -> Any:
        """What an `Inference` says of each part, a dask array (K, *trailing)."""
        array = import_array()
        return array.concatenate([
            array.from_delayed(task(_inferred, *both, name, *options), (m, *trailing), float)
            for *both, m in zip(chunks_of(self.params), self._errors.parts,
                                self.covariance.widths, strict=True)])

    def with_cov(self, cov_type: str = "unadjusted", *, debiased: bool = True
                 ) -> "DistributedSURResult":
        """The same fit with another kind of covariance of its coefficients.

        Parameters
        ----------
        cov_type : {"unadjusted"}
            Other kinds are those of the result in memory, see `SURResult.with_cov`.
        debiased : bool, optional
            False takes Σ as it was estimated, which is too small for few rows.

        Returns
        -------
        DistributedSURResult

        Raises
        ------
        ValueError
            Another kind.
        """
        if cov_type != "unadjusted":
            raise ValueError(f'cov_type of a fit in parts must be "unadjusted", got {cov_type!r}:'
                             " where one memory holds it, gather() gives a SURResult, which has"
                             " other kinds")
        return replace(self, debiased=debiased)

    def predict(self, X: Any) -> Any:
        """Predictions for new rows.

        Parameters
        ----------
        X : array_like or dask array, shape (M, p), or dask array, shape (M, K, p)
            Regressors of all equations, or of each of them in the chunks of the fit.

        Returns
        -------
        dask array, shape (M, K)

        Raises
        ------
        ValueError
            Another number of equations or regressors.
        """
        K, p = self.params.shape
        X = X if is_dask(X) else np.asarray(X)
        if X.ndim not in (2, 3) or X.shape[1:] not in ((p,), (K, p)):
            raise ValueError(f"X must have shape (M, {p}) or (M, {K}, {p}), got {X.shape}")
        array = import_array()
        return array.einsum("mp,kp->mk" if X.ndim == 2 else "mkp,kp->mk", X, self.params)

    def gather(self) -> SURResult:
        """The same result in the memory here, where it fits.

        Returns
        -------
        SURResult
        """
        Y, X, params = (x.compute() if is_dask(x) else np.asarray(x)
                        for x in (self.Y, self.X, self.params))
        dtype = params.dtype
        X = X.astype(dtype, copy=False)
        Xs = [X] * len(params) if X.ndim == 2 else list(np.moveaxis(X, 1, 0))
        kept = ("loglik", "loglik_trace", "objective_trace", "n_iter", "converged", "termination",
                "n_cg", "gradient_norm", "normal_norm", "boundary", "capped", "options", "prior")
        return SURResult(data=SURData(Xs, Y.astype(dtype, copy=False)), coefficients=list(params),
                         covariance=self.covariance.gather(),
                         cov_kwds={} if self.debiased else {"debiased": False},
                         **{name: getattr(self, name) for name in kept})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(SURResult, name):
            raise AttributeError(f"a fit in parts has no {name!r}: where one memory holds it,"
                                 " gather() gives a SURResult, which has")
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __repr__(self) -> str:
        return (f"<DistributedSURResult: {counted(self.n_equations, 'equation')},"
                f" {counted(self.n_params, 'coefficient')}, {counted(self.nobs, 'row')},"
                f" {counted(len(self.covariance.widths), 'part')},"
                f" loglik {self.loglik:.6g} a row, {self.termination}>")


def _inferred(params: FloatArray, errors: Errors, name: str, *options: Any) -> FloatArray:
    """An attribute of the `Inference` of a part, or what its method gives, equation by equation."""
    bse, df = errors
    if name == "df":
        return df
    found = Inference(params.astype(float).ravel(), bse.ravel(), np.repeat(df, params.shape[1]))
    x: Any = getattr(found, name)
    x = x(*options) if options else x
    return np.reshape(x, (*params.shape, *x.shape[1:]))
