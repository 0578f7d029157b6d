"""Low rank updates of a base that is singular, or nearly so: the sum in a form that can be solved.

Woodbury's formula goes through A⁻¹.  ``A + U Vᵀ`` may be well-conditioned though A is singular: an
update of rank k mends up to k directions.  Each rule gives an operator equal to the sum whose solve
needs no inverse of A, and which holds no more numbers than A, U and V do, up to a factor.
"""

import numpy as np

from .arithmetic import add
from .elementary import Dense, Diagonal, LowRank
from .general.mlr import GeneralMLR
from .rules import REGULAR, rule
from .woodbury import Woodbury

__all__: list[str] = []


@rule("regular", Dense)
def _(A, U, V):
    return Dense(A.A + U @ V.T)


@rule("regular", LowRank)
def _(A, U, V):  # multiplied out, where that is no larger than its factors
    return REGULAR(A._square_product, U, V) if A._has_direct_solve else None


@rule("regular", GeneralMLR)
def _(A, U, V):  # in its coarsest level
    return add(A, LowRank(U, V))


@rule("regular", Woodbury)
def _(A, U, V):  # (A + U₁C₁V₁ᵀ) + U Vᵀ = A + [U₁C₁ U] [V₁ V]ᵀ
    return REGULAR(A.base, np.hstack([A._left, U]), np.hstack([A.V, V]))


@rule("regular", Diagonal)
def _(A, U, V):  # diag(d) + U Vᵀ = diag(d + e) + [U E] [V, -E]ᵀ, E units of the k least of d
    d, (n, k) = A.d, U.shape
    size = max(float(np.abs(d).max(initial=0.0)),
               float(np.sqrt(np.einsum("ij,ij->i", U, U)
                             * np.einsum("ij,ij->i", V, V)).max(initial=0.0)))
    small = np.argsort(np.abs(d), kind="stable")[:k]
    small = small[np.abs(d[small]) < 0.1 * size]
    if size == 0 or small.size == 0:
        return None
    moved, unit = d.astype(U.dtype), np.zeros((n, small.size), U.dtype)
    step = U.dtype.type(size)
    moved[small] += np.where(moved[small] < 0, -step, step)
    unit[small, np.arange(small.size)] = moved[small] - d[small]
    other = np.zeros_like(unit)
    other[small, np.arange(small.size)] = -1
    result = Woodbury(Diagonal(moved), np.hstack([U, unit]), None, np.hstack([V, other]))
    result._regular = None  # this is it
    return result
