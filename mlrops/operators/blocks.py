"""Kronecker products and block diagonal matrices of operators."""

import math
from functools import reduce

import numpy as np

from .._common.stored import OPERATORS
from .base import StructuredOperator
from .composed import all_square, common_dtype, operands, rdot

__all__ = ["BlockDiagonal", "Kronecker"]


def _product(A, x):
    return A.dot(x)


def _solution(A, x):
    return A.solve(x)


def _whitened(A, x):
    return A.whiten(x)


def _colored(A, x):
    return A.color(x)


class _Blocks(StructuredOperator):
    """What Kronecker products and block diagonals share: each verb acts on every part.

    A subclass provides ``_each(verb, x)``, which applies ``verb(part, block of x)`` to each part
    and puts the results together.
    """

    def __init__(self, ops, shape):
        self._ops = ops
        super().__init__(common_dtype(ops), shape, symmetric=all(op.symmetric for op in ops),
                         positive_definite=all(op.positive_definite for op in ops))

    stored_fields = {"ops": OPERATORS}

    @property
    def ops(self):
        """The parts (tuple of operators)."""
        return self._ops

    @property
    def _semidefinite(self):
        return all(op._semidefinite for op in self._ops)

    @property
    def _has_direct_solve(self):
        return all(op._has_direct_solve for op in self._ops)

    def _check_square_parts(self):
        # A square whole with an m×n part, m ≠ n, has rank below its order.
        if not all_square(self._ops):
            raise np.linalg.LinAlgError(
                f"{type(self).__name__} of shape {self.shape} is singular: its parts have shapes"
                f" {[op.shape for op in self._ops]}"
            )

    def _mul(self, x):
        return self._each(_product, x)

    def _rmul(self, x):
        return self._each(rdot, x)

    def _solve(self, b):
        self._check_square_parts()
        return self._each(_solution, b)

    def _whiten(self, x):
        return self._each(_whitened, x)

    def _color(self, z):
        return self._each(_colored, z)

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

    def __init__(self, *ops):
        ops = operands(ops, "Kronecker")
        super().__init__(ops, tuple(math.prod(sizes) for sizes in zip(
            *(op.shape for op in ops), strict=True)))

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
        if not all_square(self._ops):
            return 0.0, -np.inf
        if N == 0:
            return 1.0, 0.0
        sign, logabs = 1.0, 0.0
        for op in self._ops:
            s, logs = op.slogdet()
            power = N // op.shape[0]
            sign, logabs = sign * s**power, logabs + power * logs
        return sign, logabs if sign else -np.inf

    def _diagonal(self):
        if not all_square(self._ops):
            return super()._diagonal()
        return reduce(np.kron, (op.diagonal() for op in self._ops))

    def _trace(self):
        if not all_square(self._ops):
            return super()._trace()
        return math.prod(op.trace() for op in self._ops)


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

    def __init__(self, *ops):
        ops = operands(ops, "BlockDiagonal")
        sizes = np.array([op.shape for op in ops])
        super().__init__(ops, tuple(int(size) for size in sizes.sum(axis=0)))
        self._ends = tuple(np.cumsum(sizes, axis=0)[:-1].T)

    def _each(self, verb, x):
        ends = self._ends[0 if verb is rdot else 1]
        parts = zip(self._ops, np.split(x, ends), strict=True)
        return np.concatenate([verb(op, block) for op, block in parts])

    def _slogdet(self):
        if not all_square(self._ops):
            return 0.0, -np.inf
        signs, logs = zip(*(op.slogdet() for op in self._ops), strict=True)
        sign = math.prod(signs)
        return sign, sum(logs) if sign else -np.inf

    def _diagonal(self):
        if not all_square(self._ops):
            return super()._diagonal()
        return np.concatenate([op.diagonal() for op in self._ops])

    def _trace(self):
        if not all_square(self._ops):
            return super()._trace()
        return sum(op.trace() for op in self._ops)
