"""Unrestricted covariances of residuals of which some are missing."""

import numpy as np

from ..._common.typing import BoolArray, FloatArray, IntArray
from ...operators.elementary import Dense

__all__ = ["completed", "pairwise"]


def pairwise(E: FloatArray, there: BoolArray, p: IntArray | None = None) -> FloatArray:
    r"""Covariance of residuals from the rows that both equations of a pair have.

    Parameters
    ----------
    E : ndarray, shape (K, N)
        Residuals, zeros where there are none.
    there : ndarray of bool, shape (K, N)
        Which cells there are; every pair has some in common.
    p : ndarray of int, shape (K,), optional
        Regressors of each equation.

    Returns
    -------
    ndarray, shape (K, K)
        :math:`\sum_t e_{ti} e_{tj} / n_{ij}` over the :math:`n_{ij}` common rows; with `p` the
        divisor is :math:`\sqrt{(n_{ij} - p_i)(n_{ij} - p_j)}`.  It need not be positive definite.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.regression.sur.residual_moments import pairwise
    >>> E = np.array([[1.0, -1.0, 2.0], [1.0, 1.0, 0.0]])
    >>> pairwise(E, np.array([[True, True, True], [True, True, False]]))
    array([[2., 0.],
           [0., 1.]])
    """
    seen = there.astype(float)
    n = seen @ seen.T
    return E @ E.T / (n if p is None else np.sqrt((n - p[:, None]) * (n - p)))


def completed(E: FloatArray, there: BoolArray, sigma: FloatArray) -> FloatArray:
    r"""Mean of :math:`e_t e_t^T` given the residuals that there are, for errors of covariance Σ.

    It is one step of EM for Σ: missing residuals count with their means and covariances given the
    others of their row.

    Parameters
    ----------
    E : ndarray, shape (K, N)
        Residuals; what stands at missing cells does not count.
    there : ndarray of bool, shape (K, N)
        Which cells there are.
    sigma : ndarray, shape (K, K)
        Positive definite.

    Returns
    -------
    ndarray, shape (K, K)

    Raises
    ------
    numpy.linalg.LinAlgError
        A block of Σ that is not positive definite.

    References
    ----------
    A. Dempster, N. Laird, D. Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
    1977.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.regression.sur.residual_moments import completed
    >>> E, there = np.array([[1.0], [0.0]]), np.array([[True], [False]])
    >>> completed(E, there, np.array([[2.0, 1.0], [1.0, 2.0]]))
    array([[1.  , 0.5 ],
           [0.5 , 1.75]])
    """
    K, N = E.shape
    patterns, row = np.unique(there, axis=1, return_inverse=True)
    row, out = row.ravel(), np.zeros((K, K))
    for i in range(patterns.shape[1]):
        seen, rows = np.flatnonzero(patterns[:, i]), np.flatnonzero(row == i)
        lost, full = np.flatnonzero(~patterns[:, i]), E[:, rows].copy()
        if lost.size:
            among = Dense(sigma[np.ix_(seen, seen)], positive_definite=True)
            weights = among.solve(sigma[np.ix_(seen, lost)])
            full[lost] = weights.T @ full[seen]
            out[np.ix_(lost, lost)] += rows.size * (
                sigma[np.ix_(lost, lost)] - sigma[np.ix_(lost, seen)] @ weights)
        out += full @ full.T
    return out / N
