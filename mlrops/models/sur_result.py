"""`SURResult`: a fitted system of seemingly unrelated regressions."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..operators._validate import as_finite
from ..operators.base import StructuredOperator
from .sur_system import StackedSystem

__all__ = ["SURResult"]

# Coefficients up to which their covariance is formed as one dense matrix.
MOST_COEFFICIENTS = 2000


@dataclass(frozen=True, repr=False)
class SURResult:
    """A fitted system of K equations with N rows; what `als_gls` and `em_gls` return.

    Attributes
    ----------
    params : list of K ndarray, shapes (p_j,)
        Coefficients.
    covariance : StructuredOperator, shape (K, K)
        Covariance of the errors across equations: an MLR that was fitted, or the operator given.
    loglik : float
        Average log-likelihood a row.
    loglik_trace : ndarray, shape (n_iter + 1,)
        Its value at the start and after every iteration; never falls.
    n_iter : int
        Number of iterations, each a Σ-step and a β-step.
    converged : bool
    termination : str
        ``"gradient"``, ``"loglik"`` or ``"max_iter"``.
    cg_iterations : list of int
        Iterations of the linear solver in each iteration.
    resid, fittedvalues : ndarray, shape (N, K)
    gradient_norm : float
        Largest derivative of the log-likelihood a row by a loading, in units of the square root of
        the equation's D, or by log D; 0 where the covariance was given.
    normal_norm : float
        Size of the normal equations' residual: 2-norm of the derivatives by the coefficients of
        orthogonal regressors of mean square 1, in units of the errors' partial standard deviations.
    boundary : ndarray of int
        Equations whose variance in D stands at the floor (Heywood cases).
    capped : tuple of (int, int, int)
        ``(level, group, equations)`` of groups with fewer equations than their level's rank.
    Xs : tuple of K ndarray, shapes (N, p_j)
        The regressors; the arrays given where they were float arrays of one dtype.

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

    params: list
    covariance: StructuredOperator
    loglik: float
    loglik_trace: np.ndarray = field(repr=False)
    n_iter: int
    converged: bool
    termination: str
    cg_iterations: list
    resid: np.ndarray
    fittedvalues: np.ndarray
    gradient_norm: float
    normal_norm: float
    boundary: np.ndarray
    capped: tuple = ()
    Xs: tuple = field(default=(), repr=False)

    @property
    def N(self):
        """Number of rows."""
        return self.resid.shape[0]

    @property
    def K(self):
        """Number of equations."""
        return self.resid.shape[1]

    def __repr__(self):
        P = sum(b.size for b in self.params)
        return (f"<SURResult: {self.K} equations, {P} coefficients, {self.N} rows,"
                f" loglik {self.loglik:.6g} a row, {self.termination}>")

    def predict(self, Xs):
        """Fitted values for regressors like those of the fit.

        Parameters
        ----------
        Xs : list of K array_like, shapes (M, p_j)

        Returns
        -------
        ndarray, shape (M, K)
        """
        if len(Xs) != self.K:
            raise ValueError(f"Xs must hold one array for each of the {self.K} equations,"
                             f" got {len(Xs)}")
        columns = []
        for j, (X, beta) in enumerate(zip(Xs, self.params, strict=True)):
            X = as_finite(X, f"X of equation {j}", ndim=2, axis_name="column", axis=1)
            if X.shape[1] != beta.size or len(X) != len(columns[0] if columns else X):
                rows = len(columns[0]) if columns else "M"
                raise ValueError(f"X of equation {j} must have shape ({rows}, {beta.size}),"
                                 f" got {X.shape}")
            columns.append(X @ beta)
        return np.stack(columns, axis=1)

    def cov_params(self):
        r"""Covariance of the coefficients, :math:`(X^T (I \otimes \Sigma^{-1}) X)^{-1}`.

        Exact, from dense matrices: for P coefficients in all, P²+K² numbers and P³ flops.  Σ is
        taken as it stands, known or estimated; that it was estimated adds nothing here, so for
        small N the truth is larger.

        Returns
        -------
        ndarray, shape (P, P)
            Coefficients equation by equation, as ``numpy.concatenate(result.params)``.

        Raises
        ------
        ValueError
            More than 2000 coefficients.
        """
        P = sum(b.size for b in self.params)
        if P > MOST_COEFFICIENTS:
            raise ValueError(f"cov_params forms dense matrices of at most {MOST_COEFFICIENTS}"
                             f" coefficients, the system has {P}; fit fewer equations at a time"
                             " with covariance= for standard errors")
        system = StackedSystem(list(self.Xs), self.fittedvalues)
        return system.coefficient_covariance(self.covariance)

    @cached_property
    def bse(self):
        """Standard errors of the coefficients, list of K arrays (p_j,); see `cov_params`."""
        errors = np.sqrt(self.cov_params().diagonal())
        return np.split(errors, np.cumsum([b.size for b in self.params])[:-1])

    def score_samples(self, Xs, Y):
        """Log-likelihood of each row of data (M, K) given its regressors, (M,)."""
        fitted = self.predict(Xs)
        Y = as_finite(Y, "Y", ndim=2, axis_name="equation", axis=1)
        if Y.shape != fitted.shape:
            raise ValueError(f"Y must have shape {fitted.shape}, as Xs say, got {Y.shape}")
        E = (Y - fitted).T
        quad = np.einsum("kt,kt->t", E, self.covariance.solve(E))
        return -0.5 * (self.K * math.log(2 * math.pi) + self.covariance.logdet() + quad)

    def score(self, Xs, Y):
        """Average log-likelihood a row on data (M, K); see `score_samples`."""
        return float(self.score_samples(Xs, Y).mean())
