"""`Permutation`: the operator that puts the entries of a vector in another order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .._common.stored import DTYPE, integers
from .._common.typing import IntArray
from .._common.validate import read_only, refuse_masked, working_dtype
from .._common.wording import name_some
from .base import StructuredOperator

__all__ = ["Permutation"]


class Permutation(StructuredOperator):
    """Permutation matrix: ``(P x)[i] = x[p[i]]``.

    Parameters
    ----------
    p : array_like of int, shape (n,)
        Each of 0, …, n-1 once.
    dtype : dtype, optional
        float64 (default) or float32.

    Raises
    ------
    ValueError
        `p` is not 1-d or not a permutation; the message names what is repeated or missing.
    TypeError
        `p` does not hold integers.

    Notes
    -----
    n integers stored; a product gathers, the inverse is the transpose.  `slogdet` counts cycles:
    the sign is ``(-1)**(n - cycles)``.

    Examples
    --------
    >>> from mlrops import Permutation
    >>> P = Permutation([2, 0, 1])
    >>> P @ [10, 20, 30]
    array([30., 10., 20.])
    >>> P.T @ (P @ [10, 20, 30])
    array([10., 20., 30.])
    >>> P.slogdet()
    (1.0, 0.0)
    """

    def __init__(self, p: IntArray | Sequence[int], dtype: DTypeLike = np.float64) -> None:
        refuse_masked(p, "p")
        order = np.asarray(p)
        n = order.size
        if order.ndim != 1:
            raise ValueError(f"p must be 1-d, got shape {order.shape}")
        if n and order.dtype.kind not in "iu":
            raise TypeError(f"p must hold integers, got dtype {order.dtype}")
        order = order.astype(np.intp)
        outside = order[(order < 0) | (order >= n)]
        if outside.size:
            raise ValueError(f"p must hold 0 to {n - 1}, got {name_some(outside)}")
        counts = np.bincount(order, minlength=n)
        if n and counts.max() > 1:
            repeated, lacking = (name_some(np.flatnonzero(x)) for x in (counts > 1, counts == 0))
            raise ValueError(f"p must be a permutation of 0 to {n - 1}: repeats {repeated},"
                             f" lacks {lacking}")
        self._p = read_only(order)
        super().__init__(working_dtype(dtype, "dtype"), (n, n),
                         symmetric=np.array_equal(order[order], np.arange(n)))

    stored_fields = {"p": integers(), "dtype": DTYPE}

    @property
    def p(self) -> IntArray:
        """The permutation, read-only integer ndarray of shape (n,)."""
        return self._p

    def _mul(self, x):
        return x[self._p]

    def _rmul(self, x):
        out = np.empty_like(x)
        out[self._p] = x
        return out

    _solve = _rmul  # P⁻¹ = Pᵀ

    def _slogdet(self):
        n = self._p.size
        graph = csr_array((np.ones(n, np.int8), self._p, np.arange(n + 1)), shape=(n, n))
        cycles = connected_components(graph, directed=False, return_labels=False)
        return (-1.0) ** (n - cycles), 0.0

    def _diagonal(self):
        return (self._p == np.arange(self._p.size)).astype(self.dtype)

    def _transpose(self):
        inverse = np.empty_like(self._p)
        inverse[self._p] = np.arange(self._p.size)
        return Permutation(inverse, self.dtype)

    _inv = StructuredOperator.transpose
