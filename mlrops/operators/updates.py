"""Low rank updates of a base that cannot be inverted, or hardly: the sum in another form.

Woodbury's formula goes through A⁻¹.  A + U C Vᵀ may be well-conditioned though A is singular: an
update of rank k mends up to k directions.
"""

import numpy as np

from .elementary import Dense, Diagonal, LowRank

__all__ = ["lacks_rank", "regular_form"]


def lacks_rank(A):
    """Whether the `Woodbury` A is seen to be singular: its update has too few columns."""
    return isinstance(A.base, Diagonal) and np.count_nonzero(A.base.d == 0) > A.U.shape[1]


def regular_form(A):
    """An operator equal to the `Woodbury` A whose solve needs no inverse of A's base, or None.

    It holds no more numbers than A does, up to a factor.
    """
    from .closure import add
    from .general.mlr import GeneralMLR
    from .woodbury import Woodbury

    base, left = A.base, A._left
    if isinstance(base, LowRank) and base._has_direct_solve:
        base = base._square_product  # no larger than its factors
    if isinstance(base, Dense):
        return Dense(base.A + left @ A.V.T)
    if isinstance(base, GeneralMLR):
        return add(base, LowRank(left, A.V))
    if isinstance(base, Woodbury):
        whole = Woodbury(base.base, np.hstack([base._left, left]), None, np.hstack([base.V, A.V]))
        return regular_form(whole)
    if isinstance(base, Diagonal):
        return _moved(A, base.d, left)
    return None


def _moved(A, d, left):
    """``diag(d) + U Vᵀ = diag(d + e) + [U E] [V, -E]ᵀ``, E units of the k least entries of d."""
    from .woodbury import Woodbury

    n, k = left.shape
    size = max(float(np.abs(d).max(initial=0.0)),
               float(np.sqrt(np.einsum("ij,ij->i", left, left)
                             * np.einsum("ij,ij->i", A.V, A.V)).max(initial=0.0)))
    small = np.argsort(np.abs(d), kind="stable")[:k]
    small = small[np.abs(d[small]) < 0.1 * size]
    if size == 0 or small.size == 0:
        return None
    moved, unit = d.astype(A.dtype), np.zeros((n, small.size), A.dtype)
    step = A.dtype.type(size)
    moved[small] += np.where(moved[small] < 0, -step, step)
    unit[small, np.arange(small.size)] = moved[small] - d[small]
    other = np.zeros_like(unit)
    other[small, np.arange(small.size)] = -1
    result = Woodbury(Diagonal(moved), np.hstack([left, unit]), None, np.hstack([A.V, other]))
    result._regular = None  # this is it
    return result
