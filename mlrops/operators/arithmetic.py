"""The arithmetic of operators: sums, products, multiples and powers, and the signs for them.

Each function checks its operands and looks the result up in the table of `rules`.
"""

import math
import operator
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from .._common.validate import refuse_masked
from . import rules

if TYPE_CHECKING:
    from .base import StructuredOperator

__all__ = ["Arithmetic", "Operand", "add", "as_scalar", "is_operator", "matmul", "power", "scale"]

# Everything that `as_operator` accepts: an operator, a 2-d array, a sparse array.
Operand: TypeAlias = Any


def is_operator(x: object) -> bool:
    """True for what SciPy takes as a linear operator, subclass or not."""
    return isinstance(x, LinearOperator) or (hasattr(x, "matvec") and hasattr(x, "shape"))


def as_scalar(c: Any, what: str = "scalar") -> float:
    """A finite real number as a Python float; TypeError for anything else, ValueError for NaN."""
    if np.ndim(c) != 0 or isinstance(c, (str, bytes)):
        raise TypeError(f"{what} must be a real number, got {type(c).__name__}")
    kind = np.asarray(c).dtype.kind
    if kind not in "fiub":
        reason = "; operators here are real" if kind == "c" else ""
        raise TypeError(f"{what} must be a real number, got {type(c).__name__} {c!r}{reason}")
    c = float(c)
    if not math.isfinite(c):
        raise ValueError(f"{what} must be finite, got {c}")
    return c


def _is_scalar(x: Any) -> bool:
    if type(x) is np.ndarray:  # nothing else is to be asked of what most products are taken with
        return x.ndim == 0
    return not is_operator(x) and not issparse(x) and np.ndim(x) == 0


def _operator(x: Operand) -> Any:
    return x if isinstance(x, Arithmetic) else rules.CONVERT(x)


def add(A: Operand, B: Operand) -> "StructuredOperator":
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
    A, B = _operator(A), _operator(B)
    if A.shape != B.shape:
        raise ValueError(f"cannot add operators of shapes {A.shape} and {B.shape}")
    return rules.ADD(A, B)


def matmul(A: Operand, B: Operand) -> "StructuredOperator":
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
    A, B = _operator(A), _operator(B)
    if A.shape[1] != B.shape[0]:
        raise ValueError(
            f"cannot multiply operators of shapes {A.shape} and {B.shape}: inner dimensions differ")
    return rules.MATMUL(A, B)


def scale(A: Operand, c: float) -> "StructuredOperator":
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
    A, c = _operator(A), as_scalar(c)
    return A if c == 1 else rules.SCALE(A, c)


def power(A: Operand, p: int) -> "StructuredOperator":
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
    A = _operator(A)
    A._square("a power")
    try:
        p = operator.index(p)
    except TypeError:
        raise TypeError(f"the power must be an integer, got {p!r}") from None
    if p == 0:
        return rules.IDENTITY(A)
    return reduce(matmul, [A if p > 0 else A.inv()] * abs(p))


class Arithmetic(LinearOperator):
    """The arithmetic of `StructuredOperator`, in the place of SciPy's own.

    Operators here store real numbers, so a complex multiple is SciPy's scaled operator.
    """

    def _multiple(self, c: Any) -> Any:
        return super().dot(complex(c)) if np.iscomplexobj(c) else scale(self, c)

    def dot(self, x: Any) -> Any:
        """``A x`` for an array, ``A B`` for an operator, ``c A`` for a number.

        Parameters
        ----------
        x : array_like, shape (n,) or (n, k), operator, shape (n, k), or number
            Complex arrays and numbers are taken as SciPy's operators take them.

        Returns
        -------
        ndarray, shape (m,) or (m, k), or StructuredOperator
            For a complex number SciPy's scaled operator.

        Raises
        ------
        ValueError
            Shapes that do not match, or masked entries.
        TypeError
            Not numeric.
        """
        if type(x) is np.ndarray and x.ndim == 1:
            return self.matvec(x)
        if is_operator(x):
            return matmul(self, x)
        if _is_scalar(x):
            return self._multiple(x)
        refuse_masked(x, "product")
        return super().dot(x)

    def __matmul__(self, x: Any) -> Any:
        if _is_scalar(x):
            raise ValueError("matmul: a scalar operand is not allowed, use '*' instead")
        return self.dot(x)

    def rdot(self, x: Any) -> Any:
        """``x A`` for an array, an operator or a number.

        Parameters
        ----------
        x : array_like, shape (m,) or (k, m), operator, shape (k, m), or float

        Returns
        -------
        ndarray, shape (n,) or (k, n), or StructuredOperator

        Raises
        ------
        ValueError, TypeError
            As `dot`.
        """
        if is_operator(x):
            return matmul(x, self)
        if _is_scalar(x):
            return self._multiple(x)
        refuse_masked(getattr(x, "T", x), "product")
        parent: Any = super()  # public since SciPy 1.18
        return (parent.rdot if hasattr(parent, "rdot") else parent._rdot)(x)

    _rdot = rdot

    def __rmul__(self, x: Any) -> Any:
        return self.rdot(x)

    def __rmatmul__(self, x: Any) -> Any:
        if _is_scalar(x):
            raise ValueError("matmul: a scalar operand is not allowed, use '*' instead")
        return self.rdot(x)

    def __truediv__(self, c: Any) -> Any:
        if not _is_scalar(c):
            raise ValueError("an operator can be divided by a scalar only; use solve or inv()")
        if c == 0:
            raise ZeroDivisionError("division of an operator by zero")
        return self._multiple(1.0 / c if np.iscomplexobj(c) else 1.0 / as_scalar(c))

    def __neg__(self) -> "StructuredOperator":
        return scale(self, -1.0)

    def __add__(self, other: Operand) -> "StructuredOperator":
        return add(self, other)

    def __radd__(self, other: Operand) -> "StructuredOperator":
        if _is_scalar(other) and other == 0:
            return self  # the start value of sum()
        return add(other, self)

    def __sub__(self, other: Operand) -> "StructuredOperator":
        return add(self, scale(other, -1.0))

    def __rsub__(self, other: Operand) -> "StructuredOperator":
        return add(other, scale(self, -1.0))

    def __pow__(self, p: int) -> "StructuredOperator":
        return power(self, p)
