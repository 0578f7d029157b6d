"""Least squares scores of the factors of an MLR covariance: the posterior without its prior."""

import numpy as np

from .. import kernels
from .._common.wording import counted
from .posterior import FactorMoments, samples_in_tree_order

__all__ = ["BartlettScores"]

# A pivot is taken for zero where it is this many units of rounding of its own column, or less.
SINGULAR = 100


class BartlettScores(FactorMoments):
    r"""Weighted least squares scores of the factors of all groups jointly.

    For samples ``x = F z + e``, ``cov(e) = diag(D)``, F spread out:

    .. math:: \hat z = (F^T D^{-1} F)^{-1} F^T D^{-1} x,
              \qquad \mathrm{cov}(\hat z - z) = (F^T D^{-1} F)^{-1},

    the unbiased scores of M. S. Bartlett, "The statistical conception of mental factors" (1937).

    Parameters
    ----------
    covariance : MLR
        Covariance of the n features.
    X : array_like, shape (n, N)
        Centred samples, one a column, rows in feature order.
    check_finite : bool, optional
        False skips the pass over X that looks for NaN and infinity.

    Raises
    ------
    numpy.linalg.LinAlgError
        ``Fᵀ D⁻¹ F`` is singular to working precision: the scores are not determined.  The message
        names the level and group of the first factor that depends on finer ones.

    Notes
    -----
    The elimination of `MLR`, with ``A_own,own`` in place of ``A_own,own + I``, and one step of
    iterative refinement on ``x - F z``.  A factor whose loadings are all zero within a group has
    score 0 with the variance 1 of its prior.  ``6 n R N`` flops and ``n R²`` to factor.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.operators.bartlett import BartlettScores
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> BartlettScores(A, np.array([[4.0], [-1.0], [0.0]])).mean(0)  # the average
    array([[[1.]]])
    """

    def __init__(self, covariance, X, check_finite=True):
        A, layout = covariance, covariance._layout
        X = samples_in_tree_order(A, X, check_finite)
        K = _factor_without_prior(A) if layout.R else None

        def score(x):
            return kernels.tree.posterior(A._F, A._dinv, K, x, layout)[0]

        if layout.R and X.size:
            means = score(X)
            ones = np.ones_like(A._d)
            means += score(kernels.tree.spread(A._F, ones, means, X, layout, sign=-1.0))
        else:
            means = np.empty((layout.s, X.shape[1]), A.dtype)
        super().__init__(A, K, means)


def _factor_without_prior(A):
    """Rows [X | C] of the nodes for ``Fᵀ D⁻¹ F``, with a pivot of 1 for factors that are zero."""
    layout, bounds = A._layout, A.hierarchy.boundaries
    columns = [np.add.reduceat(np.square(F) * A._dinv[:, None], offsets[:-1], axis=0)
               for F, offsets in zip(np.split(A._F, layout.cols[1:-1], axis=1), bounds,
                                     strict=True)]
    diagonal = np.concatenate([c.ravel() for c in columns])
    K, _, fail = kernels.tree.factor(A._F, A._dinv, layout, (diagonal == 0).astype(A.dtype))
    if fail is None:
        fail = _first_dependent(K, columns, layout)
    if fail is not None:
        level, group = fail
        raise np.linalg.LinAlgError(
            f"least squares scores are not determined: at level {level}, group {group}"
            f" ({counted(A.hierarchy.group_sizes(level)[group], 'feature')}) a factor's loadings"
            " depend on those of finer levels or of its own group; posterior scores exist"
            " for any loadings"
        )
    return K


def _first_dependent(K, columns, layout):
    """(level, group) of a pivot that is only rounding, finest level first; None without one."""
    limit = SINGULAR * np.finfo(K.dtype).eps
    for level in range(layout.L - 1, -1, -1):
        (p, r), c0 = columns[level].shape, int(layout.cols[level])
        rows = K[layout.zoff[level] : layout.zoff[level + 1]].reshape(p, r, layout.R)
        pivots = np.square(np.einsum("gii->gi", rows[:, :, c0 : c0 + r]))
        dependent = ((pivots <= limit * columns[level]) & (columns[level] > 0)).any(axis=1)
        if dependent.any():
            return level, int(dependent.argmax())
    return None
