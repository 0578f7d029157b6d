"""The algebra of operators: the rules of `A + B`, `A @ B` and `c A`, one line of mathematics each.

A rule returns the tightest type, or None where it does not apply: a diagonal that is not positive,
shapes or trees that do not match.  Where no other rule applies there are `Sum`, `Product` and
`Scaled`.  `rule` says which rule is asked when, and how to enter one for a type of your own.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from .._common.typing import FloatArray
from .arithmetic import add, matmul, scale
from .base import StructuredOperator
from .blocks import BlockDiagonal, Kronecker
from .composed import Product, Scaled, Sum, is_transpose
from .elementary import Dense, Diagonal, Identity, LowRank
from .general.levels import Levels, multiply
from .general.mlr import GeneralMLR
from .low_rank_plus_diagonal import LowRankPlusDiagonal
from .mlr import MLR
from .mlr_inverse import MLRInverse
from .permutation import Permutation
from .rules import SPLIT, rule
from .woodbury import Woodbury, WoodburyInverse

__all__: list[str] = []


def _terms(A, kind):
    return A.ops if isinstance(A, kind) else (A,)


# (A₁ + A₂) + (B₁ + B₂) = A₁ + A₂ + B₁ + B₂
rule("add", StructuredOperator, StructuredOperator)(
    lambda A, B: Sum(*_terms(A, Sum), *_terms(B, Sum)))

# (A₁ A₂) (B₁ B₂) = A₁ A₂ B₁ B₂
rule("matmul", StructuredOperator, StructuredOperator)(
    lambda A, B: Product(*_terms(A, Product), *_terms(B, Product)))
rule("scale", StructuredOperator)(lambda A, c: Scaled(A, c))
rule("identity", StructuredOperator)(lambda A: Identity(A.shape[0], A.dtype))


# ---------------------------------------------------------------- sums
#
# Two families are closed under addition and multiples: matrices diag(d) + U C Vᵀ, and multilevel
# matrices Σ_l B_l C_lᵀ + diag(d).  The sum of one of each is multilevel.  SPLIT gives their parts.


class Update(NamedTuple):
    """diag(d) + U C Vᵀ; d or U is None where that part is missing, C None for the identity."""

    d: FloatArray | None
    U: FloatArray | None = None
    C: FloatArray | None = None
    V: FloatArray | None = None

    @property
    def middle(self):
        return np.eye(self.U.shape[1], dtype=self.U.dtype) if self.C is None else self.C

    def scaled(self, c):  # c diag(d) + U (cC) Vᵀ
        return self._replace(d=None if self.d is None else c * self.d,
                             C=None if self.U is None else c * self.middle)

    def plus(self, other):
        # (diag(a) + U₁C₁V₁ᵀ) + (diag(b) + U₂C₂V₂ᵀ) = diag(a + b) + [U₁ U₂] (C₁ ⊕ C₂) [V₁ V₂]ᵀ
        d = other.d if self.d is None else self.d if other.d is None else self.d + other.d
        parts = [part for part in (self, other) if part.U is not None]
        if not parts:
            return Update(d)
        U = np.hstack([part.U for part in parts])
        same = all(part.V is part.U for part in parts)
        identity = all(part.C is None for part in parts)
        return Update(d, U, None if identity else block_diag(*(part.middle for part in parts)),
                      U if same else np.hstack([part.V for part in parts]))


rule("split", Diagonal)(lambda A: Update(A.d))
rule("split", LowRank)(lambda A: Update(None, A.U, None, A.V))
rule("split", LowRankPlusDiagonal)(lambda A: Update(A.D, A.F, None, A.F))
rule("split", Woodbury)(
    lambda A: Update(A.base.d, A.U, A.C, A.V) if isinstance(A.base, Diagonal) else None)
rule("split", MLR)(lambda A: Levels(A.hierarchy, A.hierarchy, A.ranks, A._F, A._F, A._d))
rule("split", GeneralMLR)(lambda A: A._levels)


@rule("split", Scaled)
def _(A):
    part = SPLIT(A.base)
    return None if part is None else part.scaled(A.c)


def _proved(A: StructuredOperator, B: StructuredOperator) -> bool:
    """A + B is positive definite: one operand is, and the other is positive semidefinite."""
    return (A.positive_definite and B._semidefinite) or (A._semidefinite and B.positive_definite)


_UPDATES = (Diagonal, LowRank, LowRankPlusDiagonal, Woodbury)


@rule("add", (*_UPDATES, Scaled), (*_UPDATES, Scaled))
@rule("add", MLR, Scaled)
@rule("add", GeneralMLR, (*_UPDATES, MLR, GeneralMLR, Scaled))
def _(A, B):  # part by part
    a, b = SPLIT(A), SPLIT(B)
    if a is None or b is None or not (type(a) is type(b) or isinstance(A, GeneralMLR)):
        return None
    return _joined(a.plus(b), A, B)


def _joined(total, A, B):
    """The operator that has the parts `total`, those of A + B."""
    if total is None:
        return None
    if isinstance(total, Levels):
        return GeneralMLR._of(total, (A.symmetric and B.symmetric) or is_transpose(A, B))
    d, U, C, V = total
    if U is None:
        return Diagonal(d)
    if d is None:
        return LowRank(U if C is None else U @ C, V)
    if C is None and V is U and (d > 0).all():
        return LowRankPlusDiagonal(U, d)
    if np.count_nonzero(d == 0) <= U.shape[1]:  # so many zeros the update can mend
        return Woodbury(Diagonal(d), U, C, V, _positive_definite=_proved(A, B))
    return None


rule("add", Dense, Dense)(lambda A, B: Dense(A.A + B.A, _proved=_proved(A, B)))
rule("add", Dense, Diagonal)(lambda A, B: Dense(A.A + np.diag(B.d), _proved=_proved(A, B)))


@rule("add", StructuredOperator, (LowRank, LowRankPlusDiagonal, Woodbury, Scaled))
def _(A, B):  # A + (diag(d) + U C Vᵀ) = (A + diag(d)) + U C Vᵀ
    part = SPLIT(B)
    if not isinstance(part, Update) or part.U is None:
        return None
    base = A if part.d is None else add(A, Diagonal(part.d))
    if isinstance(base, Woodbury):
        part, base = Update(None, base.U, base.C, base.V).plus(part._replace(d=None)), base.base
    elif not base._has_direct_solve:
        return None
    return Woodbury(base, part.U, part.C, part.V, _positive_definite=_proved(A, B))


@rule("add", MLR, Diagonal)
def _(A, B):  # Σ_l F_l F_lᵀ + diag(D) + diag(d), general where that is not positive
    total = A.D + B.d
    if (total > 0).all():
        return MLR.from_compact(A.hierarchy, A.ranks, A.F, total, copy=False)
    return _joined(SPLIT(A).plus(SPLIT(B)), A, B)


@rule("add", MLR, MLR)
def _(A, B):  # levels side by side: F_l F_lᵀ + G_l G_lᵀ = [F_l G_l] [F_l G_l]ᵀ
    if A.hierarchy != B.hierarchy:
        return _joined(SPLIT(A).plus(SPLIT(B)), A, B)
    levels = [np.hstack(pair) for pair in zip(A.factors, B.factors, strict=True)]
    return MLR(A.hierarchy, levels, A.D + B.D)


@rule("add", MLR, (LowRank, LowRankPlusDiagonal))
def _(A, B):  # one group at the top: its factors and U stand side by side
    if A.hierarchy.group_counts[0] != 1 or not B.symmetric:
        return None
    part, (top, *levels) = SPLIT(B), A.factors
    return MLR(A.hierarchy, [np.hstack([top, part.U]), *levels],
               A.D if part.d is None else A.D + part.d)


# I B = B
rule("matmul", Identity, StructuredOperator)(
    lambda A, B: B if np.result_type(A.dtype, B.dtype) == B.dtype else None)

# A I = A
rule("matmul", StructuredOperator, Identity)(
    lambda A, B: A if np.result_type(A.dtype, B.dtype) == A.dtype else None)

# (cA) B = c (A B)
rule("matmul", Scaled, StructuredOperator)(lambda A, B: scale(matmul(A.base, B), A.c))

# A (cB) = c (A B)
rule("matmul", StructuredOperator, Scaled)(lambda A, B: scale(matmul(A, B.base), B.c))

# diag(a) diag(b) = diag(a b)
rule("matmul", Diagonal, Diagonal)(lambda A, B: Diagonal(A.d * B.d))

# diag(d) B scales the rows of B
rule("matmul", Diagonal, Dense)(lambda A, B: Dense(A.d[:, None] * B.A))

# A diag(d) scales the columns of A
rule("matmul", Dense, Diagonal)(lambda A, B: Dense(A.A * B.d))


@rule("matmul", LowRank, LowRank)
def _(A, B):  # U₁V₁ᵀ U₂V₂ᵀ = U₁ (V₁ᵀU₂) V₂ᵀ, of the smaller rank
    core = A.V.T @ B.U
    if A.rank <= B.rank:
        return LowRank(A.U, B.V @ core.T)
    return LowRank(A.U @ core, B.V)


# A (U Vᵀ) = (A U) Vᵀ
rule("matmul", StructuredOperator, LowRank)(lambda A, B: LowRank(A.matmat(B.U), B.V))


@rule("matmul", LowRank, StructuredOperator)
def _(A, B):  # (U Vᵀ) B = U (Bᵀ V)ᵀ
    try:
        return LowRank(A.U, B.rmatmat(A.V))
    except NotImplementedError:  # a wrapped operator without an adjoint product
        return None


# ((P Q) x)[i] = (Q x)[p[i]] = x[q[p[i]]]
rule("matmul", Permutation, Permutation)(
    lambda A, B: Permutation(B.p[A.p], np.result_type(A.dtype, B.dtype)))

# P B has the rows of B in the order p
rule("matmul", Permutation, Dense)(
    lambda A, B: Dense(B.A[A.p].astype(np.result_type(A.dtype, B.dtype), copy=False)))

# A P has the columns of A in the order of Pᵀ
rule("matmul", Dense, Permutation)(
    lambda A, B: Dense(A.A[:, B.T.p].astype(np.result_type(A.dtype, B.dtype), copy=False)))


@rule("add", BlockDiagonal, BlockDiagonal)
def _(A, B):  # (A₁ ⊕ A₂) + (B₁ ⊕ B₂) = (A₁ + B₁) ⊕ (A₂ + B₂)
    if [op.shape for op in A.ops] != [op.shape for op in B.ops]:
        return None
    return BlockDiagonal(list(map(add, A.ops, B.ops)))


@rule("matmul", Kronecker, Kronecker)
@rule("matmul", BlockDiagonal, BlockDiagonal)
def _(A, B):  # (A₁ ⊗ A₂)(B₁ ⊗ B₂) = A₁B₁ ⊗ A₂B₂, and the same with ⊕
    if [op.shape[1] for op in A.ops] != [op.shape[0] for op in B.ops]:
        return None
    return type(A)(list(map(matmul, A.ops, B.ops)))


@rule("matmul", (MLR, GeneralMLR), (MLR, GeneralMLR))
def _(A, B):  # (Σ_l A_l)(Σ_m B_m) = Σ over pairs, each of the coarser level
    product = multiply(SPLIT(A), SPLIT(B))
    if product is None:
        return None
    return GeneralMLR._of(product, is_transpose(A, B), _factored(A, B))


@rule("matmul", Diagonal, GeneralMLR)
def _(A, B):  # diag(d) Σ B_l C_lᵀ = Σ (diag(d) B_l) C_lᵀ
    left = B.rows._gather(A.d)[:, None] * B._B
    return GeneralMLR._of(B._levels._replace(B=left), equal_to=_factored(A, B))


def _factored(A: StructuredOperator, B: StructuredOperator) -> Product | None:
    """The Product that a square product is solved by, its factors having direct solves."""
    known = (getattr(X, "_equal_to", None) or X for X in (A, B))
    terms = [op for X in known for op in _terms(X, Product)]
    return Product(terms) if all(op._has_direct_solve for op in terms) else None


# c (dA) = (cd) A
rule("scale", Scaled)(lambda A, c: scale(A.base, c * A.c))
rule("scale", Diagonal)(lambda A, c: Diagonal(c * A.d))
rule("scale", Dense)(lambda A, c: Dense(c * A.A, _proved=c > 0 and A.positive_definite))


@rule("scale", LowRank)
def _(A, c):  # c U Uᵀ = (√c U)(√c U)ᵀ, c U Vᵀ = (c U) Vᵀ
    if not A.symmetric:
        return LowRank(c * A.U, A.V)
    return LowRank(math.sqrt(c) * A.U) if c > 0 else None


@rule("scale", LowRankPlusDiagonal)
def _(A, c):  # c (F Fᵀ + D) = (√c F)(√c F)ᵀ + cD
    D = c * A.D
    return LowRankPlusDiagonal(math.sqrt(c) * A.F, D) if c > 0 and D.all() else None


@rule("scale", Woodbury)
def _(A, c):  # c (A + U C Vᵀ) = cA + U (cC) Vᵀ
    if c <= 0:
        return None
    C = Update(None, A.U, A.C, A.V).scaled(c).C
    return Woodbury(scale(A.base, c), A.U, C, A.V, _positive_definite=A.positive_definite)


# c A⁻¹ = (A / c)⁻¹
rule("scale", (WoodburyInverse, MLRInverse))(
    lambda A, c: scale(A.inv(), 1 / c).inv() if c > 0 else None)


@rule("scale", MLR)
def _(A, c):  # c (Σ F_l F_lᵀ + D) = Σ (√c F_l)(√c F_l)ᵀ + cD
    D = c * A.D
    if c < 0 or not (D > 0).all():
        return None
    return MLR.from_compact(A.hierarchy, A.ranks, math.sqrt(c) * A.F, D, copy=False)


@rule("scale", GeneralMLR)
def _(A, c):  # c Σ B_l C_lᵀ = Σ (c B_l) C_lᵀ, both sides by √c where they are equal
    same, known = A._C is A._B and c > 0, A._equal_to
    B = (math.sqrt(c) if same else c) * A._B
    known = None if same or known is None or c == 0 else scale(known, c)
    levels = A._levels._replace(B=B, C=B if same else A._C)
    return GeneralMLR._of(levels, A.symmetric, known)
