"""Kronecker products and block diagonal matrices of operators."""

import math
from functools import partial, reduce
from typing import Any

import numpy as np

from .base import StructuredOperator
from .composed import Composed, rdot

__all__ = ["BlockDiagonal", "Kronecker"]


class _Blocks(Composed):
    """The common part of Kronecker products and block diagonals: each verb acts on every part.

    A subclass provides ``_each(verb, x)``, which applies ``verb(part, block of x)`` to each part
    and puts the results together; `_joined`, which makes its diagonal of those of the parts; and
    `_total`, which makes its trace of theirs.
    """

    def __init__(self, ops: tuple[StructuredOperator, ...], shape: tuple[int, int]) -> None:
        super().__init__(ops, shape, all(op.symmetric for op in ops),
                         all(op.positive_definite for op in ops))

    def _check_square_parts(self):
        # Where one part is not square, the rank of a square whole is below its order.
        if not self._square_parts:
            raise np.linalg.LinAlgError(
                f"{type(self).__name__} of shape {self.shape} is singular: its parts have shapes"
                f" {[op.shape for op in self._ops]}")

    def _mul(self, x):
        return self._each(lambda op, y: op.dot(y), x)

    def _rmul(self, x):
        return self._each(rdot, x)

    def _solve(self, b):
        self._check_square_parts()
        return self._each(lambda op, y: op.solve(y), b)

    def _whiten(self, x):
        return self._each(lambda op, y: op.whiten(y), x)

    def _color(self, z):
        return self._each(lambda op, y: op.color(y), z)

    def _diagonal(self):
        if not self._square_parts:
            return super()._diagonal()
        return self._joined([op.diagonal() for op in self._ops])

    def _trace(self):
        if not self._square_parts:
            return super()._trace()
        return self._total(op.trace() for op in self._ops)

    def _inv(self):
        self._check_square_parts()
        return type(self)([op.inv() for op in self._ops])

    def _transpose(self):
        return type(self)([op.T for op in self._ops])


class Kronecker(_Blocks):
    """Kronecker product ``A ⊗ B ⊗ …`` in row-major order.

    Parameters
    ----------
    *ops : operators, arrays or sparse arrays, or one sequence of them

    Raises
    ------
    ValueError
        No operands.
    TypeError
        An operand is not a matrix.

    Notes
    -----
    ``(A ⊗ B) vec(X) = vec(A X Bᵀ)`` with row-major ``vec(X) = X.ravel()``.  Inverse, transpose and
    square root are those of the parts, ``det(A ⊗ B) = det(A)^n_B det(B)^n_A``.  Each part is
    applied once, to a block of n / n_A columns.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Kronecker
    >>> A, B = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> X = np.array([[1.0], [10.0]])
    >>> Kronecker(A, B) @ X.ravel()
    array([63., 84.])
    >>> (A @ X @ B.T).ravel()
    array([63., 84.])
    """

    _joined, _total = staticmethod(partial(reduce, np.kron)), staticmethod(math.prod)

    def __init__(self, *ops: Any) -> None:
        ops = self._operators(ops, "Kronecker")
        super().__init__(ops, (math.prod(op.shape[0] for op in ops),
                               math.prod(op.shape[1] for op in ops)))

    def _each(self, verb, x):
        # x has axes (n_1, …, n_d, k); a step applies one part along the leading axis and makes it
        # the last, so that d steps end at (k, m_1, …, m_d).
        adjoint = verb is rdot
        columns = x.shape[1:]
        for op in self._ops:
            x = verb(op, x.reshape(op.shape[0 if adjoint else 1], -1)).T
        return x.reshape(*columns, self.shape[1 if adjoint else 0]).T

    def _slogdet(self):
        N = self.shape[0]
        if not self._square_parts:
            return 0.0, -np.inf
        if N == 0:
            return 1.0, 0.0
        return self._determinant([N // op.shape[0] for op in self._ops])


class BlockDiagonal(_Blocks):
    """Block diagonal matrix of operators; the blocks may be rectangular.

    Parameters
    ----------
    *ops : operators, arrays or sparse arrays, or one sequence of them

    Raises
    ------
    ValueError
        No operands.
    TypeError
        An operand is not a matrix.

    Notes
    -----
    Block j takes the next ``n_j`` entries of the operand to the next ``m_j`` of the result.  Every
    verb costs what it costs on the blocks.

    Examples
    --------
    >>> from mlrops import BlockDiagonal, Diagonal
    >>> A = BlockDiagonal([[0.0, 2.0], [1.0, 0.0]], Diagonal([3.0]))
    >>> A.solve([2.0, 1.0, 3.0])
    array([1., 1., 1.])
    >>> A.slogdet()[0], round(A.slogdet()[1], 6)
    (-1.0, 1.791759)
    """

    _joined, _total = staticmethod(np.concatenate), staticmethod(sum)

    def __init__(self, *ops: Any) -> None:
        ops = self._operators(ops, "BlockDiagonal")
        sizes = np.array([op.shape for op in ops])
        super().__init__(ops, (int(sizes[:, 0].sum()), int(sizes[:, 1].sum())))
        self._ends = tuple(np.cumsum(sizes, axis=0)[:-1].T)

    def _each(self, verb, x):
        ends = self._ends[0 if verb is rdot else 1]
        parts = zip(self._ops, np.split(x, ends), strict=True)
        return np.concatenate([verb(op, block) for op, block in parts])

    def _slogdet(self):
        if not self._square_parts:
            return 0.0, -np.inf
        return self._determinant([1] * len(self._ops))
