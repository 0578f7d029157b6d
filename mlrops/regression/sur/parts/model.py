"""`DistributedSUR`: seemingly unrelated regressions of equations in parts on workers."""

from collections.abc import Mapping
from typing import Any, Literal

from ...._common.deprecated import renamed_options
from ...._common.typing import Callback
from ...._common.wording import counted
from ..als_gls import SUROptions
from ..covariance import CovType
from .fit import fit_in_parts
from .opening import read_parts
from .result import DistributedSURResult

__all__ = ["DistributedSUR"]

_IN_MEMORY = ("equations in parts have no table of data, names or constraints: these are for"
              " equations in memory, SUR({name: (y, X), ...})")


class DistributedSUR:
    """K equations in chunks on the workers of a cluster; what `SUR` is of dask arrays.

    Equations go by their numbers, or in errors by the names that a hierarchy has; all have the same
    rows.  Weights, missing cells and constraints are for equations in memory.

    Parameters
    ----------
    equations : tuple (Y, X)
        Y a dask array (N, K) in chunks of whole columns, ``Y.rechunk({0: -1})``, each a run of
        equations in the order of the hierarchy they are fitted with; X as for `als_gls`.
    constraints : None
    missing : {"cells", "raise"}, optional
        Missing cells are refused, by the fit that meets them.

    Raises
    ------
    ValueError, TypeError
        Shapes or chunks that do not fit, see `als_gls`; constraints.

    Examples
    --------
    >>> import dask, numpy as np
    >>> import dask.array as da
    >>> from mlrops import SUR
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 12, 2))
    >>> E = rng.standard_normal((100, 1)) + 0.3 * rng.standard_normal((100, 12))
    >>> Y = X @ [1.0, -2.0] + E
    >>> model = SUR((da.from_array(Y, chunks=(-1, 6)), da.from_array(X, chunks=(-1, 6, -1))))
    >>> model
    <DistributedSUR: 12 equations, 24 coefficients, 100 rows, 2 parts>
    >>> with dask.config.set(scheduler="threads"):
    ...     fit = model.fit(ranks=1)
    >>> fit  # doctest: +ELLIPSIS
    <DistributedSURResult: 12 equations, 24 coefficients, 100 rows, 2 parts, loglik -4.73...
    """

    def __init__(self, equations: Any, *, constraints: Any = None,
                 missing: Literal["cells", "drop", "raise"] = "cells") -> None:
        if len(equations) != 2:
            raise ValueError("equations in parts are a tuple (Y, X) of dask arrays, got"
                             f" {counted(len(equations), 'entry')}: weights are for"
                             " equations in memory")
        if constraints is not None or missing == "drop":
            raise ValueError(f"{_IN_MEMORY}; without constraints and missing=\"drop\" they can stay"
                             " in parts")
        Y, X = equations
        self._given = read_parts(X, Y)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name!r} here: {_IN_MEMORY}")

    @property
    def n_equations(self) -> int:
        """Number of equations (int)."""
        return int(self._given.Y.shape[1])

    @property
    def nobs(self) -> int:
        """Number of rows, which all equations have (int)."""
        return int(self._given.Y.shape[0])

    def __repr__(self) -> str:
        K, p = self.n_equations, self._given.X.shape[-1]
        return (f"<DistributedSUR: {counted(K, 'equation')}, {counted(K * p, 'coefficient')},"
                f" {counted(self.nobs, 'row')}, {counted(len(self._given.widths), 'part')}>")

    @renamed_options(cov_config="cov_kwds", max_cg_iter="maxiter")
    def fit(self, ranks: Any = None, hierarchy: Any = None, *, covariance: Any = None,
            cov_type: CovType = "unadjusted", cov_kwds: Mapping[str, Any] | None = None,
            rank_options: Mapping[str, Any] | None = None, prior_variance: Any = None,
            progress: bool = False, callback: Callback | None = None, **options: Any
            ) -> DistributedSURResult:
        """Coefficients and error covariance by maximum likelihood; see `SUR.fit`.

        Parameters
        ----------
        ranks, hierarchy, prior_variance, progress, callback, **options
            As for `als_gls` of dask arrays.
        cov_type : {"unadjusted"}, optional
            Kind of standard errors.
        cov_kwds : dict, optional
            ``{"debiased": False}``, see `DistributedSURResult.with_cov`.
        covariance, rank_options : None
            For equations in memory.

        Returns
        -------
        DistributedSURResult
            The numbers are those of `als_gls`.

        Raises
        ------
        ValueError, TypeError
            As `als_gls`, of dask arrays; ranks that are to be chosen.
        """
        if isinstance(ranks, str) or rank_options is not None:
            raise ValueError("ranks are chosen for equations in memory, by select_sur_ranks; in"
                             " parts give numbers, and compare the bic of fits with several")
        fit = fit_in_parts(self._given, ranks, hierarchy, SUROptions(**options),
                           covariance=covariance, prior_variance=prior_variance, progress=progress,
                           callback=callback)
        return fit.with_cov(cov_type, **cov_kwds or {})
