"""Operators made of operators: sums, products, multiples, transposes and inverses.

A verb works wherever the parts and the structure provide it; nothing here forms a dense matrix.
"""

import math
from typing import Any

import numpy as np

from .._common.stored import FINITE, OPERATOR, OPERATORS
from .._common.typing import FloatArray
from .arithmetic import Operand, as_scalar
from .base import StructuredOperator
from .elementary import Diagonal
from .permutation import Permutation
from .refine import refined
from .rules import rule
from .wrapped import as_operator

__all__ = ["Inverse", "Product", "Scaled", "Sum", "Transposed"]


def rdot(A: StructuredOperator, x: FloatArray) -> FloatArray:
    """Aᵀ x."""
    return A.rmatvec(x) if x.ndim == 1 else A.rmatmat(x)


class Composed(StructuredOperator):
    """An operator that is made of several others, its parts."""

    @staticmethod
    def _operators(ops: tuple[Any, ...], name: str) -> tuple[StructuredOperator, ...]:
        """The operators given as varargs or as one sequence, converted."""
        if len(ops) == 1 and isinstance(ops[0], (list, tuple)):
            (ops,) = ops
        if not ops:
            raise ValueError(f"{name} needs at least one operator")
        return tuple(as_operator(op) for op in ops)

    def __init__(self, ops: tuple[StructuredOperator, ...], shape: tuple[int, int],
                 symmetric: bool, positive_definite: bool) -> None:
        self._ops = ops
        super().__init__(np.result_type(*(op.dtype for op in ops)), shape, symmetric=symmetric,
                         positive_definite=positive_definite)

    stored_fields = {"ops": OPERATORS}

    @property
    def ops(self) -> tuple[StructuredOperator, ...]:
        """The operators that it is made of."""
        return self._ops

    @property
    def _semidefinite(self):
        return _all(self._ops, "_semidefinite")

    @property
    def _has_direct_solve(self):
        return _all(self._ops, "_has_direct_solve")

    @property
    def _square_parts(self):
        return all(op.shape[0] == op.shape[1] for op in self._ops)

    def _determinant(self, powers):
        """Sign and log|det| of the product of the parts' determinants, raised to `powers`."""
        sign, logabs = 1.0, 0.0
        for op, power in zip(self._ops, powers, strict=True):
            s, log = op.slogdet()
            sign, logabs = sign * s**power, logabs + power * log
        return sign, logabs if sign else -np.inf


def _all(ops, structure):
    return all(getattr(op, structure) for op in ops)


class Sum(Composed):
    """``A + B + …``.

    Parameters
    ----------
    *ops : operators, arrays or sparse arrays of one shape (m, n), or one sequence of them

    Raises
    ------
    ValueError
        No operands, or operands of different shapes.
    TypeError
        An operand is not a matrix.

    Notes
    -----
    Products, diagonal, trace and transpose term by term.  A sum has no structured inverse: `solve`
    iterates to a stated tolerance, `slogdet` asks for a method.  ``A + B`` returns a tighter type
    where there is one.  Positive definite when all terms are positive semidefinite and one of them
    positive definite.

    Examples
    --------
    >>> from mlrops import Permutation, Sum
    >>> Sum(Permutation([1, 0]), [[1.0, 0.0], [0.0, 2.0]]).toarray()
    array([[1., 1.],
           [1., 2.]])
    """

    _has_direct_solve = False

    def __init__(self, *ops: Any) -> None:
        ops = self._operators(ops, "Sum")
        if len({op.shape for op in ops}) > 1:
            raise ValueError(f"cannot add operators of shapes {[op.shape for op in ops]}")
        super().__init__(ops, ops[0].shape, _all(ops, "symmetric"), _all(ops, "_semidefinite")
                         and any(op.positive_definite for op in ops))

    def _mul(self, x):
        return sum(op.dot(x) for op in self._ops)

    def _rmul(self, x):
        return sum(rdot(op, x) for op in self._ops)

    def _diagonal(self):
        return sum(op.diagonal() for op in self._ops)

    def _trace(self):
        return sum(op.trace() for op in self._ops)

    def _transpose(self):
        return Sum([op.T for op in self._ops])


def is_transpose(A: StructuredOperator, B: StructuredOperator) -> bool:
    """True when B is known to be Aᵀ."""
    return (A is B and A.symmetric) or A._transposed is B or B._transposed is A


def _is_invertible(A):
    """True when A is known to be nonsingular."""
    if isinstance(A, (Transposed, Inverse)):
        return _is_invertible(A.base)
    return A.positive_definite or isinstance(A, Permutation) or (
        isinstance(A, Diagonal) and bool(A.d.all()))


class Product(Composed):
    """``A B ⋯``.

    Parameters
    ----------
    *ops : operators, arrays or sparse arrays with matching inner dimensions, or one sequence

    Raises
    ------
    ValueError
        No operands, or inner dimensions that differ.
    TypeError
        An operand is not a matrix.

    Notes
    -----
    ``(A B)⁻¹ = B⁻¹ A⁻¹`` and ``det(A B) = det A det B`` when all factors are square.  A product of
    symmetric operators is not symmetric; a palindrome ``X M Xᵀ`` with symmetric M is, and is
    positive definite when M is and X is known to be nonsingular.  Then ``X S`` is its root, with
    ``S Sᵀ = M``.

    Examples
    --------
    >>> from mlrops import Dense, Diagonal, Product
    >>> A, D = Dense([[2.0, 1.0], [1.0, 2.0]]), Diagonal([1.0, 3.0])
    >>> Product(A, D)
    <2x2 Product, float64>
    >>> Product(D, A, D).symmetric
    True
    >>> Product(A, D).solve((A @ D) @ [1.0, 2.0])
    array([1., 2.])
    """

    def __init__(self, *ops: Any) -> None:
        ops = self._operators(ops, "Product")
        for A, B in zip(ops, ops[1:], strict=False):
            if A.shape[1] != B.shape[0]:
                raise ValueError(
                    f"cannot multiply shapes {A.shape} and {B.shape}: inner dimensions differ")
        half = len(ops) // 2
        self._outer, self._middle = outer, middle = ops[:half], ops[half:len(ops) - half]
        palindrome = _all(middle, "symmetric") and all(
            is_transpose(A, B) for A, B in zip(outer, reversed(ops), strict=False))
        super().__init__(
            ops, (ops[0].shape[0], ops[-1].shape[1]), palindrome, palindrome
            and _all(middle, "positive_definite") and all(map(_is_invertible, outer)))

    @property
    def _semidefinite(self):
        return self.symmetric and _all(self._middle, "_semidefinite")

    def _mul(self, x):
        for op in reversed(self._ops):
            x = op.dot(x)
        return x

    def _rmul(self, x):
        for op in self._ops:
            x = rdot(op, x)
        return x

    def _solve(self, b):
        if not self._square_parts:
            return super()._solve(b)
        return refined(self, self._by_factors, b)

    def _by_factors(self, b):
        for op in self._ops:
            b = op.solve(b)
        return b

    def _slogdet(self):
        if not self._square_parts:
            return super()._slogdet()
        return self._determinant([1] * len(self._ops))

    def _inv(self):
        if not self._square_parts:
            return super()._inv()
        return Product([op.inv() for op in reversed(self._ops)])

    def _transpose(self):
        return Product([op.T for op in reversed(self._ops)])

    # A = X M Xᵀ with M = S Sᵀ: the root of A is X S.

    def _color(self, z):
        for op in self._middle:
            z = op.color(z)
        for op in reversed(self._outer):
            z = op.dot(z)
        return z

    def _whiten(self, x):
        for op in self._outer:
            x = op.solve(x)
        for op in self._middle:
            x = op.whiten(x)
        return x


class OfOne(StructuredOperator):
    """An operator that is made of another one, its base."""

    stored_fields = {"base": OPERATOR}

    def __init__(self, base: StructuredOperator, shape: tuple[int, int],
                 positive: bool = True) -> None:
        self._base = base
        super().__init__(base.dtype, shape, symmetric=base.symmetric,
                         positive_definite=positive and base.positive_definite)

    @property
    def base(self) -> StructuredOperator:
        """The operator that it is made of."""
        return self._base


class Scaled(OfOne):
    """``c A`` for a real number c.

    Parameters
    ----------
    base : operator, array or sparse array, shape (m, n)
    c : float
        Finite; zero is allowed and makes a square operator singular.

    Raises
    ------
    TypeError
        `c` is complex or not a number, `base` is not a matrix.
    ValueError
        `c` is NaN or infinite.

    Notes
    -----
    Keeps the dtype of `base` whatever the type of `c`.  Symmetric when `base` is, positive definite
    when `base` is and c > 0.

    Examples
    --------
    >>> from mlrops import Identity, LowRankPlusDiagonal
    >>> A = LowRankPlusDiagonal([[1.0], [1.0]], [1.0, 1.0])
    >>> -A
    <2x2 Scaled, symmetric, float64>
    >>> (-A).slogdet()[0]
    1.0
    """

    def __init__(self, base: Operand, c: float) -> None:
        operator, self._c = as_operator(base), as_scalar(c)
        super().__init__(operator, operator.shape, self._c > 0)

    stored_fields = {"base": OPERATOR, "c": FINITE}

    @property
    def c(self) -> float:
        """The factor (float)."""
        return self._c

    @property
    def _semidefinite(self):
        return self._c >= 0 and self._base._semidefinite

    @property
    def _has_direct_solve(self):
        return self._c != 0 and self._base._has_direct_solve

    def _mul(self, x):
        return self._c * self._base.dot(x)

    def _rmul(self, x):
        return self._c * rdot(self._base, x)

    def _check_nonzero(self):
        if self._c == 0:
            raise np.linalg.LinAlgError("Scaled is singular: its factor is zero")

    def _solve(self, b):
        self._check_nonzero()
        return self._base.solve(b) / self._c

    def _slogdet(self):
        n = self.shape[0]
        if self._c == 0 and n:
            return 0.0, -np.inf
        sign, logabs = self._base.slogdet()
        flips = n % 2 if self._c < 0 else 0
        return (-sign if flips else sign), logabs + (n * math.log(abs(self._c)) if n else 0.0)

    def _inv(self):
        self._check_nonzero()
        return Scaled(self._base.inv(), 1 / self._c)

    def _diagonal(self):
        return self._c * self._base.diagonal()

    def _trace(self):
        return self._c * self._base.trace()

    def _transpose(self):
        return Scaled(self._base.T, self._c)

    def _whiten(self, x):
        return self._base.whiten(x) / math.sqrt(self._c)

    def _color(self, z):
        return self._base.color(z) * math.sqrt(self._c)

    def _inv_quad(self, x):
        return self._base.inv_quad(x) / self._c


@rule("transpose", StructuredOperator)
class Transposed(OfOne):
    """``Aᵀ`` of an operator that has no tighter transpose.

    Parameters
    ----------
    base : operator, array or sparse array, shape (m, n)

    Raises
    ------
    TypeError
        `base` is not a matrix.

    Notes
    -----
    ``A.T`` returns a tighter type where there is one; `solve` goes through that one.

    Examples
    --------
    >>> from mlrops import LowRank, Transposed
    >>> Transposed(LowRank([[1.0], [2.0]], [[3.0], [4.0]])).toarray()
    array([[3., 6.],
           [4., 8.]])
    """

    def __init__(self, base: Operand) -> None:
        self._transposed = as_operator(base)
        super().__init__(self._transposed, self._transposed.shape[::-1])

    @property
    def _semidefinite(self):
        return self._base._semidefinite

    @property
    def _has_direct_solve(self):
        T = self._base.T
        return not isinstance(T, Transposed) and T._has_direct_solve

    def _mul(self, x):
        return rdot(self._base, x)

    def _rmul(self, x):
        return self._base.dot(x)

    def _solve(self, b):
        return self._base.T.solve(b) if self._has_direct_solve else super()._solve(b)

    def _slogdet(self):
        return self._base.slogdet()

    def _inv(self):
        return Transposed(self._base.inv())

    def _diagonal(self):
        return self._base.diagonal()

    def _whiten(self, x):
        return self._base.whiten(x)

    def _color(self, z):
        return self._base.color(z)


@rule("inverse", StructuredOperator)
class Inverse(OfOne):
    """``A⁻¹`` as the operator whose product is ``A.solve``.

    Parameters
    ----------
    base : square operator, array or sparse array, shape (n, n)

    Raises
    ------
    ValueError
        `base` is not square.
    TypeError
        `base` is not a matrix.

    Notes
    -----
    ``A.inv()`` returns a tighter type where there is one.  With ``A = S Sᵀ`` and ``W = S⁻¹``, the
    root of the inverse is ``Wᵀ = A⁻¹ S``.

    Examples
    --------
    >>> from mlrops import Dense
    >>> A = Dense([[2.0, 0.0], [1.0, 1.0]])
    >>> A.inv() @ [2.0, 2.0]
    array([1., 1.])
    >>> A.inv().inv() is A
    True
    """

    def __init__(self, base: Operand) -> None:
        self._inverse = as_operator(base)
        self._inverse._square("inv")
        super().__init__(self._inverse, self._inverse.shape)

    def _mul(self, x):
        return self._inverse.solve(x)

    def _rmul(self, x):
        return self._inverse.T.solve(x)

    def _solve(self, b):
        return self._inverse.dot(b)

    def _slogdet(self):
        sign, logabs = self._inverse.slogdet()
        if sign == 0:
            raise np.linalg.LinAlgError(
                f"the inverse of a singular {type(self._inverse).__name__} has no determinant")
        return sign, -logabs

    def _diagonal(self):
        known = getattr(self._inverse, "_inverse_diagonal", None)
        return super()._diagonal() if known is None else known()

    def _transpose(self):
        return self._inverse.T.inv()

    def _whiten(self, x):
        return self._inverse.whiten(self._inverse.dot(x))

    def _color(self, z):
        return self._inverse.solve(self._inverse.color(z))
