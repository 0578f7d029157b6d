"""`FactorModelResult`: what a fitted factor model knows and can do."""

import math
from dataclasses import dataclass, field

import numpy as np

from ..operators._validate import as_finite
from ..operators.mlr import MLR

__all__ = ["FactorModelResult"]


@dataclass(frozen=True, repr=False)
class FactorModelResult:
    """A fitted factor model; what `fit_factor_model` returns.

    Attributes
    ----------
    covariance : MLR
        Fitted covariance ``Σ_l F_l F_lᵀ + diag(D)``, feature order, factors on principal axes
        (`MLR.principal`).
    mean : ndarray, shape (n,)
        Mean of the data; zeros with ``center=False``.
    loglik : float
        Average log-likelihood a sample of the fitted parameters.
    loglik_trace : ndarray, shape (n_iter + 1,)
        Entry t is the average log-likelihood a sample of the parameters after t updates.
    n_iter : int
        Number of updates.
    converged : bool
    termination : str
        Why it stopped: ``"loglik"``, ``"gradient"``, ``"max_iter"``, ``"callback"`` or
        ``"interrupted"``.
    boundary : ndarray of int
        Features whose variance in D stands at the floor (Heywood cases).
    n_samples : int
        Number of samples fitted to.
    n_evaluations : int
        Number of evaluations of the EM map, rejected jumps of the acceleration included.
    gradient_norm : float
        Largest derivative of the log-likelihood a sample in units of the features' standard
        deviations; variances at the floor count only where they would rise.
    feature_names : tuple of str or None
        Column names of the data where it had some.
    capped : tuple of (int, int, int)
        ``(level, group, features)`` of groups that have fewer features than their level's rank.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import fit_factor_model
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.standard_normal((500, 1)) + rng.standard_normal((500, 6))
    >>> fit = fit_factor_model(Y, ranks=1)
    >>> fit.termination, fit.covariance.ranks, fit.loglik_trace.size == fit.n_iter + 1
    ('loglik', (1,), True)
    >>> bool(np.isclose(fit.score(Y), fit.loglik))
    True
    """

    covariance: MLR
    mean: np.ndarray
    loglik: float
    loglik_trace: np.ndarray = field(repr=False)
    n_iter: int
    converged: bool
    termination: str
    boundary: np.ndarray
    n_samples: int
    n_evaluations: int = 0
    gradient_norm: float = math.nan
    feature_names: tuple | None = None
    capped: tuple = ()

    def score_samples(self, Y):
        """Log-likelihood of each sample.

        Parameters
        ----------
        Y : array_like, shape (N, n)

        Returns
        -------
        loglik : ndarray, shape (N,)
        """
        n = self.mean.size
        Y = as_finite(Y, "Y", ndim=2, axis=1)
        if Y.shape[1] != n:
            raise ValueError(f"Y must have {n} features (columns), got shape {Y.shape}")
        quad = self.covariance.inv_quad((Y - self.mean).T)
        return -0.5 * (n * math.log(2 * math.pi) + self.covariance.logdet() + quad)

    def score(self, Y):
        """Average log-likelihood a sample of data (N, n); see `score_samples`."""
        return float(self.score_samples(Y).mean())

    def __repr__(self):
        return (f"<FactorModelResult: loglik {self.loglik:.6g} a sample, {self.n_iter} iterations,"
                f" {self.termination}, {self.covariance!r}>")
