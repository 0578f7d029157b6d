"""``tr(A⁻¹ B)`` for a factored A: what a Kullback-Leibler divergence asks of two covariances."""

import numpy as np

from .. import kernels
from ..tree.hierarchy import Hierarchy
from .elementary import Diagonal
from .low_rank_plus_diagonal import LowRankPlusDiagonal
from .mlr import MLR

__all__ = ["in_double", "inverse_trace"]


def inverse_trace(A, B, block=64):
    r"""``tr(A⁻¹ B)``, computed in float64.

    Parameters
    ----------
    A : MLR
    B : StructuredOperator, shape (n, n)
    block : int, optional
        Columns of B taken at a time where B has no structure to use.

    Returns
    -------
    trace : float

    Notes
    -----
    With ``A⁻¹ = diag(1/D) - H Hᵀ`` and B an `MLR` on any hierarchy, a `LowRankPlusDiagonal` or a
    `Diagonal`, ``B = Σ_m G_m G_mᵀ + diag(E)``:

    .. math:: \mathrm{tr}(A^{-1} B) = \sum_i E_i (A^{-1})_{ii} + \sum_i B^0_{ii} / D_i
              - \sum_{l,m} \|H_l^T G_m\|_F^2, \qquad B^0 = \sum_m G_m G_m^T.

    A block of ``H_lᵀ G_m`` is one product over the features that a group of A and a group of B
    have in common: ``2 n R_A R_B`` flops in all, whatever the number of groups.  For any other B:
    n products with B and n solves with A, n × `block` numbers at a time.

    The difference loses as many digits as D is smaller than the variances of the features.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy, Identity
    >>> from mlrops.operators.traces import inverse_trace
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> inverse_trace(A, Identity(3)), inverse_trace(A, A)
    (2.25, 3.0)
    """
    A = in_double(A)
    if isinstance(B, Diagonal):
        return float(A.inv().diagonal() @ B.d)
    if isinstance(B, LowRankPlusDiagonal):
        B = MLR.from_compact(Hierarchy.flat(B.shape[0]), (B.F.shape[1],), B.F, B.D)
    if isinstance(B, MLR):
        B, inverse = in_double(B), A.inv()
        squares = np.einsum("ij,ij->i", B.F, B.F)
        return float(inverse.diagonal() @ B.D + squares @ inverse.D - sum(
            _squared_product(H, A.hierarchy.labels(a), G, B.hierarchy.labels(b))
            for a, H in enumerate(np.split(inverse.F, np.cumsum(A.ranks)[:-1], axis=1))
            for b, G in enumerate(B.factors)))
    return sum(_columns_trace(A, B, start, min(start + block, A.shape[0]))
               for start in range(0, A.shape[0], block))


def in_double(A):
    """An MLR in float64: `A` itself when it is."""
    if A.dtype == np.float64:
        return A
    return MLR.from_compact(A.hierarchy, A.ranks, A.F.astype(float), A.D.astype(float))


def _squared_product(H, groups, G, others):
    """``‖Hᵀ G‖_F²`` of compact factors (n, r) and (n, q), block diagonal by two labellings."""
    if not (H.shape[1] and G.shape[1]):
        return 0.0
    cell = groups * (others.max() + 1) + others
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    total = 0.0
    for rows, _ in kernels.groups.by_size(np.append(starts, cell.size), largest=5_000_000):
        features = order[rows]
        total += np.square(np.matmul(H[features].swapaxes(1, 2), G[features])).sum()
    return float(total)


def _columns_trace(A, B, start, stop):
    """The part of columns start to stop - 1."""
    unit = np.zeros((A.shape[0], stop - start))
    unit[np.arange(start, stop), np.arange(stop - start)] = 1
    return float(np.trace(A.solve(B @ unit)[start:stop]))
