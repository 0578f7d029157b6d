"""The rules of `closure` for multilevel low rank matrices; one line of mathematics each."""

import math

import numpy as np

from .base import StructuredOperator
from .closure import ADD, MATMUL, SCALE, _rule, _split, scale
from .composed import Product, Scaled, _is_transpose
from .elementary import Diagonal, Identity, LowRank
from .general.algebra import add_diagonal, add_low_rank, add_parts, join, multiply_parts, split
from .general.mlr import GeneralMLR
from .low_rank_plus_diagonal import LowRankPlusDiagonal
from .mlr import MLR
from .mlr_inverse import MLRInverse
from .woodbury import Woodbury

__all__ = []


# ---------------------------------------------------------------- sums


@_rule(ADD, MLR, Diagonal)
def _(A, B):  # Σ_l F_l F_lᵀ + diag(D) + diag(d), general where that is not positive
    total = A.D + B.d
    if (total > 0).all():
        return MLR.from_compact(A.hierarchy, A.ranks, A.F, total, copy=False)
    return join(add_diagonal(split(A), B.d))


@_rule(ADD, MLR, MLR)
def _(A, B):  # levels side by side: F_l F_lᵀ + G_l G_lᵀ = [F_l G_l] [F_l G_l]ᵀ
    if A.hierarchy != B.hierarchy:
        return None
    levels = [np.hstack(pair) for pair in zip(A.factors, B.factors, strict=True)]
    return MLR(A.hierarchy, levels, A.D + B.D)


@_rule(ADD, MLR, LowRank)
@_rule(ADD, MLR, LowRankPlusDiagonal)
def _(A, B):  # one group at the top: its factors and U stand side by side
    part = _split(B)
    if A.hierarchy.group_counts[0] != 1 or not B.symmetric:
        return None
    top, *levels = A.factors
    return MLR(A.hierarchy, [np.hstack([top, part.U]), *levels],
               A.D if part.d is None else A.D + part.d)


@_rule(ADD, StructuredOperator, StructuredOperator)
def _(A, B):  # multilevel ones, and multiples: B_l C_lᵀ + E_l G_lᵀ = [B_l E_l] [C_l G_l]ᵀ
    a, b = split(A), split(B)
    total = a and b and add_parts(a, b)
    if total is None:
        return None
    return join(total._replace(symmetric=total.symmetric or _is_transpose(A, B)))


@_rule(ADD, GeneralMLR, Diagonal)
def _(A, B):  # diag(d) is a level of single features
    total = add_diagonal(split(A), B.d)
    return total and join(total)


@_rule(ADD, GeneralMLR, LowRank)
@_rule(ADD, GeneralMLR, LowRankPlusDiagonal)
@_rule(ADD, GeneralMLR, Woodbury)
@_rule(ADD, GeneralMLR, Scaled)
def _(A, B):  # one group at the top: B_0 C_0ᵀ + U C Vᵀ = [B_0 UC] [C_0 V]ᵀ
    part = _split(B)
    if part is None:
        return None
    total = split(A)
    if part.d is not None:
        total = add_diagonal(total, part.d)
    if part.U is not None:
        U = part.U if part.C is None else part.U @ part.C
        total = total and add_low_rank(total, U, part.V, A.symmetric and B.symmetric)
    return total and join(total)


# ---------------------------------------------------------------- products


@_rule(MATMUL, GeneralMLR, GeneralMLR)
@_rule(MATMUL, GeneralMLR, MLR)
@_rule(MATMUL, MLR, GeneralMLR)
@_rule(MATMUL, MLR, MLR)
def _(A, B):  # (Σ_l A_l)(Σ_m B_m) = Σ over pairs, each of the coarser level
    product = multiply_parts(split(A), split(B))
    if product is None:
        return None
    return join(product._replace(symmetric=_is_transpose(A, B)), _factored(A, B))


@_rule(MATMUL, Diagonal, GeneralMLR)
def _(A, B):  # diag(d) Σ B_l C_lᵀ = Σ (diag(d) B_l) C_lᵀ
    d = B.rows._gather(A.d)[:, None]
    return GeneralMLR._from_tree(
        B.rows, B.cols, B.ranks, *_one_dtype(d * B._B, B._C), equal_to=_factored(A, B))


@_rule(MATMUL, GeneralMLR, Diagonal)
def _(A, B):  # Σ B_l C_lᵀ diag(d) = Σ B_l (diag(d) C_l)ᵀ
    if isinstance(B, Identity) and np.result_type(A.dtype, B.dtype) == A.dtype:
        return A
    d = A.cols._gather(B.d)[:, None]
    return GeneralMLR._from_tree(
        A.rows, A.cols, A.ranks, *_one_dtype(A._B, d * A._C), equal_to=_factored(A, B))


def _one_dtype(B, C):
    dtype = np.result_type(B, C)
    return B.astype(dtype, copy=False), C.astype(dtype, copy=False)


def _factored(A, B):
    """The Product that a square product is solved by, its factors having direct solves."""
    known = (getattr(X, "_equal_to", None) or X for X in (A, B))
    terms = [op for X in known for op in (X.ops if isinstance(X, Product) else (X,))]
    if not all(op._has_direct_solve for op in terms):
        return None
    return Product(terms)


# ---------------------------------------------------------------- multiples


@_rule(SCALE, MLR)
def _(A, c):  # c (Σ F_l F_lᵀ + D) = Σ (√c F_l)(√c F_l)ᵀ + cD
    D = c * A.D
    if c < 0 or not (D > 0).all():
        return None
    return MLR.from_compact(A.hierarchy, A.ranks, math.sqrt(c) * A.F, D, copy=False)


@_rule(SCALE, MLRInverse)
def _(A, c):  # c A⁻¹ = (A / c)⁻¹
    return scale(A.inv(), 1 / c).inv() if c > 0 else None


@_rule(SCALE, GeneralMLR)
def _(A, c):  # c Σ B_l C_lᵀ = Σ (c B_l) C_lᵀ, both sides by √c where they are equal
    same = A._C is A._B and c > 0
    B = (math.sqrt(c) if same else c) * A._B
    known = A._equal_to
    known = None if same or known is None or c == 0 else scale(known, c)
    return GeneralMLR._from_tree(
        A.rows, A.cols, A.ranks, B, B if same else A._C, A.symmetric, known)
