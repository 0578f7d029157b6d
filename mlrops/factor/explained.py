"""How much the factors of a fitted model explain, and how many parameters that costs."""

import math
from typing import Any

import numpy as np

from .._common.labelled import with_names
from ..operators.mlr import MLR
from . import criteria

__all__ = ["Explained"]


class Explained:
    """Shares of variance and information criteria of a `FactorModelResult`."""

    covariance: MLR
    loglik: float
    n_samples: int
    feature_names: tuple[str, ...] | None
    mean_is_estimated: bool

    @property
    def correlation(self) -> MLR:
        """Fitted correlation matrix, an `MLR` on the same hierarchy.

        Factors and D in units of the features' standard deviations; the factors keep their axes.
        """
        A = self.covariance
        sd = np.sqrt(A.diagonal())
        return MLR.from_compact(A.hierarchy, A.ranks, A.F / sd[:, None], A.D / np.square(sd),
                                check_finite=False)

    @property
    def communalities(self) -> Any:
        """Share of each feature's variance that its common factors explain, (n,).

        A Series of pandas where the features have names, as `uniquenesses`.
        """
        return 1 - self.uniquenesses

    @property
    def uniquenesses(self) -> Any:
        """Share of each feature's variance that is its own, ``D / diag(Σ)``, (n,)."""
        return with_names(self.covariance.D / self.covariance.diagonal(), self.feature_names)

    def variance_shares(self, by: str = "covariance") -> Any:
        """Share of variance that each level explains.

        Parameters
        ----------
        by : {"covariance", "correlation", "feature"}, optional
            Shares of ``tr Σ``; shares of the trace of the correlation matrix, in which every
            feature counts the same; or the shares of each feature.

        Returns
        -------
        shares : ndarray, shape (L + 1,), or (n, L + 1) by feature
            Levels, coarsest first, then D.  Each row sums to 1.  By feature it is a DataFrame of
            pandas where the features have names.

        Raises
        ------
        ValueError
            Another `by`.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import Hierarchy, fit_factor_model
        >>> from mlrops.datasets import simulate_mlr
        >>> sim = simulate_mlr(Hierarchy.balanced(60, [1, 4]), (2, 1), 500, random_state=0)
        >>> fit = fit_factor_model(sim.Y, (2, 1), sim.covariance.hierarchy)
        >>> np.round(fit.variance_shares(), 1)  # a third each, in the population
        array([0.3, 0.3, 0.3])
        """
        if by not in ("covariance", "correlation", "feature"):
            raise ValueError(f"by must be 'covariance', 'correlation' or 'feature', got {by!r}")
        A = self.covariance
        parts = np.stack([*(np.einsum("ij,ij->i", F, F, dtype=float) for F in A.factors), A.D],
                         axis=1)
        if by == "covariance":
            return parts.sum(axis=0) / parts.sum()
        shares = parts / parts.sum(axis=1, keepdims=True)
        if by == "correlation":
            return shares.mean(axis=0)
        levels = [f"level {level}" for level in range(A.hierarchy.n_levels)]
        return with_names(shares.astype(A.dtype, copy=False), self.feature_names, [*levels, "D"])

    # ---------------------------------------------------------------- comparing models

    @property
    def degrees_of_freedom(self) -> int:
        """Number of free parameters, rotations counted out; see `mlrops.factor.criteria`."""
        A = self.covariance
        return criteria.degrees_of_freedom(A.hierarchy, A.ranks, self.mean_is_estimated)

    @property
    def aic(self) -> float:
        """Akaike's criterion of all samples, ``-2 N loglik + 2 df``; smaller is better."""
        return -2 * self.n_samples * self.loglik + 2 * self.degrees_of_freedom

    @property
    def bic(self) -> float:
        """Schwarz's criterion of all samples, ``-2 N loglik + df log N``; smaller is better."""
        return (-2 * self.n_samples * self.loglik
                + math.log(self.n_samples) * self.degrees_of_freedom)
