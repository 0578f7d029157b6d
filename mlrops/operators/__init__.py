"""Matrices as SciPy linear operators with solve, determinant, inverse and square root."""

from .._common.deprecated import moved_names
from . import closure, updates  # noqa: F401 - they enter their rules
from .arithmetic import add, matmul, power, scale
from .base import StructuredOperator
from .blocks import BlockDiagonal, Kronecker
from .check import OperatorReport, check_operator
from .composed import Inverse, Product, Scaled, Sum, Transposed
from .elementary import Dense, Diagonal, Identity, LowRank
from .general.mlr import GeneralMLR
from .general.solve import LstsqInfo
from .information import FactorInformation
from .low_rank_plus_diagonal import LowRankPlusDiagonal
from .mlr import MLR
from .mlr_inverse import MLRInverse
from .permutation import Permutation
from .rules import rule
from .woodbury import Woodbury
from .wrapped import Wrapped, as_operator

__all__ = [
    "MLR",
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "FactorInformation",
    "GeneralMLR",
    "Identity",
    "Inverse",
    "Kronecker",
    "LowRank",
    "LowRankPlusDiagonal",
    "LstsqInfo",
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
    "rule",
    "scale",
]

__getattr__ = moved_names(
    __name__, dict.fromkeys(("ConvergenceWarning", "UnboundedWarning"), "mlrops"))
