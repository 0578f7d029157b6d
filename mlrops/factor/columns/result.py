"""`DistributedFactorModel`: a fit whose features lie in parts on the workers of a cluster."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._common.cluster import chunks_of, import_array, in_pairs, task
from ..._common.given import cut_by_columns
from ..._common.typing import RandomState
from ..._common.wording import counted
from ...operators.part_sweeps import alone, in_part_order
from ...operators.parts import Coarse, Part, Passed, merge, sweep_root, sweep_up
from ..result import FactorModelResult

__all__ = ["DistributedFactorModel"]


@dataclass(frozen=True, repr=False)
class DistributedFactorModel(FactorModelResult):
    """A fitted factor model in parts; what `fit_factor_model` returns for chunks of columns.

    `covariance` is a `DistributedMLR` and `mean` a dask array; what else is told of a fit is here,
    as with `FactorModelResult`.  Of its methods there are `score`, `score_samples`, which take dask
    arrays in chunks of columns, and `sample`; what is not there says so, and is there after
    `gather`, where one memory holds the factors.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(30, 2, n_samples=200, random_state=0).Y
    >>> with dask.config.set(scheduler="threads"):
    ...     fit = fit_factor_model(da.from_array(Y, chunks=(-1, 10)), 2)
    ...     whole = fit.gather()
    >>> fit.converged, fit.covariance.widths, whole.covariance.shape
    (True, (10, 10, 10), (30, 30))
    >>> bool(abs(whole.score(Y) - fit.loglik) < 1e-9)
    True
    """

    covariance: Any  # a DistributedMLR
    mean: Any  # a dask array (n,)

    @property
    def n_features(self) -> int:
        """Number of features n."""
        return self.covariance.shape[0]

    def gather(self) -> FactorModelResult:
        """The same result in the memory here.

        Returns
        -------
        FactorModelResult
        """
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        given |= {"covariance": self.covariance.gather(), "mean": self.mean.compute()}
        if self.prior:
            given["prior_variance"] = given["prior_variance"].compute()
        return FactorModelResult(**given)

    def _samples(self, Y: Any, missing: bool = False) -> Any:
        raise TypeError("a fit in parts takes data in parts: a dask array in the chunks of columns"
                        f" it was fitted to, {_shown(self.covariance.widths)}; gather() gives a fit"
                        " in memory, which takes data there")

    def score_samples(self, Y: Any) -> Any:
        """Log-likelihood of each sample.

        Parameters
        ----------
        Y : dask array, shape (N, n)
            In chunks of whole columns; they are cut as the parts are.

        Returns
        -------
        dask array, shape (N,)

        Raises
        ------
        TypeError, ValueError
            No array of dask in chunks of columns, or another number of features.
        """
        A, N = self.covariance, self._check(Y)
        chunks = chunks_of(Y.rechunk((-1, A.widths)))
        passed = [task(alone(_passed), *each) for each in
                  zip(A._parts.parts, chunks, chunks_of(self.mean), strict=True)]
        coarse = task(alone(sweep_root), A._crown.parts[0], in_pairs(alone(merge), passed))
        return import_array().from_delayed(task(_loglik, coarse, A.shape[0]), (N,), float)

    def score(self, Y: Any) -> Any:
        """Average log-likelihood a sample.

        Parameters
        ----------
        Y : dask array, shape (N, n)

        Returns
        -------
        dask array without dimensions

        Raises
        ------
        TypeError, ValueError
            As `score_samples`.
        """
        return self.score_samples(Y).mean()

    def scores(self, Y: Any, level: Any = None, **options: Any) -> Any:
        """Not there in parts: see `gather`."""
        return self._samples(Y)

    def impute(self, Y: Any, return_std: bool = False) -> Any:
        """Not there in parts: see `gather`."""
        return self._samples(Y)

    def sample(self, size: int | None = None, random_state: RandomState = None) -> Any:
        """Draw from the fitted normal distribution.

        Parameters
        ----------
        size : int, optional
            Number of samples; None draws one.
        random_state : None, int or numpy.random.Generator
            Seed or generator.

        Returns
        -------
        dask array, shape (n,) for ``size=None``, else (size, n)
        """
        return self.covariance.sample(size, random_state) + self.mean

    def _check(self, Y):
        if not cut_by_columns(Y) and not (hasattr(Y, "numblocks") and Y.numblocks[0] == 1):
            self._samples(Y)
        if Y.ndim != 2 or Y.shape[1] != self.n_features:
            raise ValueError(f"Y must have {counted(self.n_features, 'feature')}, got shape"
                             f" {Y.shape}")
        return Y.shape[0]


def _shown(widths: tuple[int, ...]) -> str:
    return f"of {counted(widths[0], 'column')}" if len(set(widths)) == 1 else f"{widths}"


def _passed(part: Part, Y: Any, mean: Any) -> Passed:
    X = np.ascontiguousarray((np.asarray(Y) - mean).T.astype(float))
    part = part._replace(F=part.F.astype(float), D=part.D.astype(float))
    return sweep_up(part, in_part_order(part, X))[1]


def _loglik(coarse: Coarse, n: int) -> Any:
    return -0.5 * (n * math.log(2 * math.pi) + coarse.logdet + coarse.inv_quad)
