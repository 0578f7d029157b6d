"""Matrices as SciPy linear operators with solve, determinant, inverse and square root."""

from .base import StructuredOperator
from .blocks import BlockDiagonal, Kronecker
from .check import OperatorReport, check_operator
from .closure import add, matmul, power, scale
from .composed import Inverse, Product, Scaled, Sum, Transposed
from .elementary import Dense, Diagonal, Identity, LowRank, Permutation
from .mlr import MLR
from .mlr_inverse import MLRInverse
from .woodbury import LowRankPlusDiagonal, Woodbury
from .wrapped import Wrapped, as_operator

__all__ = [
    "MLR",
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "Identity",
    "Inverse",
    "Kronecker",
    "LowRank",
    "LowRankPlusDiagonal",
    "MLRInverse",
    "OperatorReport",
    "Permutation",
    "Product",
    "Scaled",
    "StructuredOperator",
    "Sum",
    "Transposed",
    "Woodbury",
    "Wrapped",
    "add",
    "as_operator",
    "check_operator",
    "matmul",
    "power",
    "scale",
]
