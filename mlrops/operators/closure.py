"""The algebra of operators: one table an operation, keyed by the types of the operands.

A rule is one function, one line of mathematics, and returns the tightest type.  Rules are looked up
along the classes of both operands, most special first; a rule that does not apply (a diagonal that
is not positive, shapes that do not match) returns None and the next one is asked.  Sums commute, so
a rule of `ADD` serves both orders.  Where no rule applies there are `Sum`, `Product` and `Scaled`.
The rules of multilevel matrices are entered by `closure_mlr`.
"""

import itertools
import math
import operator

import numpy as np
from scipy.linalg import block_diag

from .base import StructuredOperator
from .blocks import BlockDiagonal, Kronecker
from .composed import Product, Scaled, Sum
from .elementary import Dense, Diagonal, Identity, LowRank, Permutation
from .low_rank_plus_diagonal import LowRankPlusDiagonal
from .woodbury import Woodbury, WoodburyInverse
from .wrapped import as_operator, as_scalar

__all__ = ["add", "as_operator", "as_scalar", "matmul", "power", "scale"]

ADD, MATMUL, SCALE = {}, {}, {}


def _rule(table, *types):
    """Enter the decorated function under the given operand types."""
    def enter(function):
        table[types] = function, False
        if table is ADD and types[0] is not types[1]:
            table[types[::-1]] = function, True
        return function
    return enter


def _apply(table, A, *B):
    """The result of the first rule that applies, most special first; None when none does."""
    lines = [type(X).__mro__ for X in (A, *B) if isinstance(X, StructuredOperator)]
    for key in itertools.product(*lines):
        function, flipped = table.get(key, (None, False))
        result = function and (function(*B, A) if flipped else function(A, *B))
        if result is not None:
            return result
    return None


# ---------------------------------------------------------------- operations


def add(A, B):
    """``A + B`` as the tightest type.

    Parameters
    ----------
    A, B : operators, 2-d arrays, sparse arrays; one shape (m, n)

    Returns
    -------
    StructuredOperator

    Raises
    ------
    ValueError
        Different shapes.
    TypeError
        An operand is not a matrix.

    Examples
    --------
    >>> from mlrops import Diagonal, LowRank
    >>> LowRank([[1.0], [2.0]]) + Diagonal([1.0, 1.0])
    <2x2 LowRankPlusDiagonal, positive definite, float64>
    >>> LowRank([[1.0], [2.0]]) - Diagonal([1.0, 1.0])
    <2x2 Woodbury, symmetric, float64>
    """
    A, B = as_operator(A), as_operator(B)
    if A.shape != B.shape:
        raise ValueError(f"cannot add operators of shapes {A.shape} and {B.shape}")
    result = _apply(ADD, A, B)
    return Sum(*_terms(A, Sum), *_terms(B, Sum)) if result is None else result


def matmul(A, B):
    """``A B`` as the tightest type.

    Parameters
    ----------
    A : operator, 2-d array or sparse array, shape (m, k)
    B : operator, 2-d array or sparse array, shape (k, n)

    Returns
    -------
    StructuredOperator, shape (m, n)

    Raises
    ------
    ValueError
        Inner dimensions differ.
    TypeError
        An operand is not a matrix.

    Examples
    --------
    >>> from mlrops import Diagonal, LowRank
    >>> Diagonal([1.0, 2.0]) @ LowRank([[1.0], [2.0]])
    <2x2 LowRank, float64>
    """
    A, B = as_operator(A), as_operator(B)
    if A.shape[1] != B.shape[0]:
        raise ValueError(
            f"cannot multiply operators of shapes {A.shape} and {B.shape}: inner dimensions differ"
        )
    result = _apply(MATMUL, A, B)
    return Product(*_terms(A, Product), *_terms(B, Product)) if result is None else result


def scale(A, c):
    """``c A`` as the tightest type; keeps the dtype of A.

    Parameters
    ----------
    A : operator, 2-d array or sparse array
    c : float
        Finite.

    Returns
    -------
    StructuredOperator

    Raises
    ------
    TypeError
        `c` is complex or not a number.
    ValueError
        `c` is NaN or infinite.

    Examples
    --------
    >>> from mlrops import LowRankPlusDiagonal
    >>> A = LowRankPlusDiagonal([[1.0], [2.0]], [1.0, 1.0])
    >>> 4 * A
    <2x2 LowRankPlusDiagonal, positive definite, float64>
    >>> -A
    <2x2 Scaled, symmetric, float64>
    """
    A, c = as_operator(A), as_scalar(c)
    if c == 1:
        return A
    result = _apply(SCALE, A, c)
    return Scaled(A, c) if result is None else result


def power(A, p):
    """``A ** p`` for an integer p; p = 0 is the identity, p < 0 a power of ``A.inv()``.

    Parameters
    ----------
    A : square operator, 2-d array or sparse array, shape (n, n)
    p : int

    Returns
    -------
    StructuredOperator, shape (n, n)

    Raises
    ------
    TypeError
        `p` is not an integer.
    ValueError
        `A` is not square.

    Examples
    --------
    >>> from mlrops import Diagonal
    >>> (Diagonal([1.0, 2.0]) ** -2).diagonal()
    array([1.  , 0.25])
    """
    A = as_operator(A)
    n = A._square("a power")
    try:
        p = operator.index(p)
    except TypeError:
        raise TypeError(f"the power must be an integer, got {p!r}") from None
    if p == 0:
        return Identity(n, A.dtype)
    factor = A if p > 0 else A.inv()
    result = factor
    for _ in range(abs(p) - 1):
        result = matmul(result, factor)
    return result


def _terms(A, kind):
    return A.ops if isinstance(A, kind) else (A,)


# ---------------------------------------------------------------- sums
#
# Diagonal, LowRank, LowRankPlusDiagonal, Woodbury on a diagonal base and multiples of them are one
# family, diag(d) + U C Vᵀ, closed under addition.


class _Split:
    """diag(d) + U C Vᵀ; d or U is None where that part is missing, C None for the identity."""

    def __init__(self, d, U, C, V):
        self.d, self.U, self.C, self.V = d, U, C, V

    @property
    def middle(self):
        return np.eye(self.U.shape[1], dtype=self.U.dtype) if self.C is None else self.C


def _split(A):
    """`A` as a member of the family, None when it is not."""
    if isinstance(A, Diagonal):
        return _Split(A.d, None, None, None)
    if isinstance(A, LowRank):
        return _Split(None, A.U, None, A.V)
    if isinstance(A, LowRankPlusDiagonal):
        return _Split(A.D, A.F, None, A.F)
    if isinstance(A, Woodbury) and isinstance(A.base, Diagonal):
        return _Split(A.base.d, A.U, A.C, A.V)
    part = _split(A.base) if isinstance(A, Scaled) else None
    if part is None:
        return None
    return _Split(None if part.d is None else A.c * part.d,
                  part.U, None if part.U is None else A.c * part.middle, part.V)


def _side_by_side(*parts):
    """Σ_j U_j C_j V_jᵀ = [U_1 …] (C_1 ⊕ …) [V_1 …]ᵀ."""
    parts = [part for part in parts if part.U is not None]
    U = np.hstack([part.U for part in parts])
    V = U if all(part.V is part.U for part in parts) else np.hstack([part.V for part in parts])
    identity = all(part.C is None for part in parts)
    return U, None if identity else block_diag(*(part.middle for part in parts)), V


def _proved(A, B):
    """A + B is positive definite: one operand is, and the other is positive semidefinite."""
    return (A.positive_definite and B._semidefinite) or (A._semidefinite and B.positive_definite)


@_rule(ADD, Diagonal, Diagonal)
def _(A, B):  # diag(a) + diag(b) = diag(a + b)
    return Diagonal(A.d + B.d)


@_rule(ADD, Dense, Dense)
def _(A, B):
    return Dense(A.A + B.A, _proved=_proved(A, B))


@_rule(ADD, Dense, Diagonal)
def _(A, B):
    return Dense(A.A + np.diag(B.d), _proved=_proved(A, B))


@_rule(ADD, LowRank, LowRank)
@_rule(ADD, Scaled, LowRank)
@_rule(ADD, Scaled, Scaled)
@_rule(ADD, Diagonal, LowRank)
@_rule(ADD, Diagonal, LowRankPlusDiagonal)
@_rule(ADD, Diagonal, Woodbury)
@_rule(ADD, Diagonal, Scaled)
@_rule(ADD, LowRankPlusDiagonal, LowRank)
@_rule(ADD, LowRankPlusDiagonal, LowRankPlusDiagonal)
@_rule(ADD, LowRankPlusDiagonal, Scaled)
@_rule(ADD, LowRankPlusDiagonal, Woodbury)
@_rule(ADD, Woodbury, Woodbury)
@_rule(ADD, Woodbury, Scaled)
def _(A, B):  # (diag(a) + U₁C₁V₁ᵀ) + (diag(b) + U₂C₂V₂ᵀ) = diag(a + b) + [U₁ U₂](C₁ ⊕ C₂)[V₁ V₂]ᵀ
    a, b = _split(A), _split(B)
    if a is None or b is None or (a.U is None and b.U is None):
        return None
    U, C, V = _side_by_side(a, b)
    if a.d is None and b.d is None:
        return LowRank(U if C is None else U @ C, V)
    d = b.d if a.d is None else a.d if b.d is None else a.d + b.d
    if C is None and V is U and (d > 0).all():
        return LowRankPlusDiagonal(U, d)
    if np.count_nonzero(d == 0) <= U.shape[1]:  # so many zeros the update can mend
        return Woodbury(Diagonal(d), U, C, V, _positive_definite=_proved(A, B))
    return None


@_rule(ADD, Woodbury, LowRank)
def _(A, B):  # (A + U₁C₁V₁ᵀ) + U₂V₂ᵀ = A + [U₁ U₂] (C₁ ⊕ I) [V₁ V₂]ᵀ
    U, C, V = _side_by_side(_Split(None, A.U, A.C, A.V), _split(B))
    return Woodbury(A.base, U, C, V, _positive_definite=_proved(A, B))


@_rule(ADD, StructuredOperator, LowRank)
@_rule(ADD, StructuredOperator, LowRankPlusDiagonal)
@_rule(ADD, StructuredOperator, Woodbury)
@_rule(ADD, StructuredOperator, Scaled)
def _(A, B):  # A + (diag(d) + U C Vᵀ) = (A + diag(d)) + U C Vᵀ
    part = _split(B)
    if part is None or part.U is None:
        return None
    base = A if part.d is None else add(A, Diagonal(part.d))
    if not base._has_direct_solve:
        return None
    return Woodbury(base, part.U, part.C, part.V, _positive_definite=_proved(A, B))


@_rule(ADD, BlockDiagonal, BlockDiagonal)
def _(A, B):  # (A₁ ⊕ A₂) + (B₁ ⊕ B₂) = (A₁ + B₁) ⊕ (A₂ + B₂)
    if [op.shape for op in A.ops] != [op.shape for op in B.ops]:
        return None
    return BlockDiagonal([add(a, b) for a, b in zip(A.ops, B.ops, strict=True)])


# ---------------------------------------------------------------- products


@_rule(MATMUL, Identity, StructuredOperator)
def _(A, B):  # I B = B
    return B if np.result_type(A.dtype, B.dtype) == B.dtype else None


@_rule(MATMUL, StructuredOperator, Identity)
def _(A, B):  # A I = A
    return A if np.result_type(A.dtype, B.dtype) == A.dtype else None


@_rule(MATMUL, Scaled, StructuredOperator)
def _(A, B):  # (cA) B = c (A B)
    return scale(matmul(A.base, B), A.c)


@_rule(MATMUL, StructuredOperator, Scaled)
def _(A, B):  # A (cB) = c (A B)
    return scale(matmul(A, B.base), B.c)


@_rule(MATMUL, Diagonal, Diagonal)
def _(A, B):  # diag(a) diag(b) = diag(a b)
    return Diagonal(A.d * B.d)


@_rule(MATMUL, Diagonal, Dense)
def _(A, B):  # rows of B times d
    return Dense(A.d[:, None] * B.A)


@_rule(MATMUL, Dense, Diagonal)
def _(A, B):  # columns of A times d
    return Dense(A.A * B.d)


@_rule(MATMUL, LowRank, LowRank)
def _(A, B):  # U₁V₁ᵀ U₂V₂ᵀ = U₁ (V₁ᵀU₂) V₂ᵀ, of the smaller rank
    core = A.V.T @ B.U
    if A.rank <= B.rank:
        return LowRank(A.U, B.V @ core.T)
    return LowRank(A.U @ core, B.V)


@_rule(MATMUL, StructuredOperator, LowRank)
def _(A, B):  # A (U Vᵀ) = (A U) Vᵀ
    return LowRank(A.matmat(B.U), B.V)


@_rule(MATMUL, LowRank, StructuredOperator)
def _(A, B):  # (U Vᵀ) B = U (Bᵀ V)ᵀ
    try:
        return LowRank(A.U, B.rmatmat(A.V))
    except NotImplementedError:  # a wrapped operator without an adjoint product
        return None


@_rule(MATMUL, Permutation, Permutation)
def _(A, B):  # ((P Q) x)[i] = (Q x)[p[i]] = x[q[p[i]]]
    return Permutation(B.p[A.p], np.result_type(A.dtype, B.dtype))


@_rule(MATMUL, Permutation, Dense)
def _(A, B):  # rows of B in the order p
    return Dense(A.matmat(B.A))


@_rule(MATMUL, Dense, Permutation)
def _(A, B):  # A P = (Pᵀ Aᵀ)ᵀ
    return Dense(B.rmatmat(A.A.T).T)


@_rule(MATMUL, Kronecker, Kronecker)
def _(A, B):  # (A₁ ⊗ A₂)(B₁ ⊗ B₂) = A₁B₁ ⊗ A₂B₂
    return _part_by_part(Kronecker, A, B)


@_rule(MATMUL, BlockDiagonal, BlockDiagonal)
def _(A, B):  # (A₁ ⊕ A₂)(B₁ ⊕ B₂) = A₁B₁ ⊕ A₂B₂
    return _part_by_part(BlockDiagonal, A, B)


def _part_by_part(kind, A, B):
    if [op.shape[1] for op in A.ops] != [op.shape[0] for op in B.ops]:
        return None
    return kind([matmul(a, b) for a, b in zip(A.ops, B.ops, strict=True)])


# ---------------------------------------------------------------- multiples


@_rule(SCALE, Scaled)
def _(A, c):  # c (dA) = (cd) A
    return scale(A.base, c * A.c)


@_rule(SCALE, Diagonal)
def _(A, c):
    return Diagonal(c * A.d)


@_rule(SCALE, Dense)
def _(A, c):
    return Dense(c * A.A, _proved=c > 0 and A.positive_definite)


@_rule(SCALE, LowRank)
def _(A, c):  # c U Uᵀ = (√c U)(√c U)ᵀ, c U Vᵀ = (c U) Vᵀ
    if not A.symmetric:
        return LowRank(c * A.U, A.V)
    return LowRank(math.sqrt(c) * A.U) if c > 0 else None


@_rule(SCALE, LowRankPlusDiagonal)
def _(A, c):  # c (F Fᵀ + D) = (√c F)(√c F)ᵀ + cD
    D = c * A.D
    return LowRankPlusDiagonal(math.sqrt(c) * A.F, D) if c > 0 and D.all() else None


@_rule(SCALE, Woodbury)
def _(A, c):  # c (A + U C Vᵀ) = cA + U (cC) Vᵀ
    if c <= 0:
        return None
    C = c * (np.eye(A.U.shape[1], dtype=A.dtype) if A.C is None else A.C)
    return Woodbury(scale(A.base, c), A.U, C, A.V, _positive_definite=A.positive_definite)


@_rule(SCALE, WoodburyInverse)
def _(A, c):  # c A⁻¹ = (A / c)⁻¹
    return scale(A.inv(), 1 / c).inv() if c > 0 else None
