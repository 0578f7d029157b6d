"""Operators of other packages, sparse arrays and plain arrays, taken in."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .._common.stored import COUNT, FLAG, floats, integers, tuple_of
from .._common.typing import FloatArray, IntArray
from .._common.validate import as_finite, working_dtype
from .._common.wording import counted
from .arithmetic import Operand, is_operator
from .base import StructuredOperator
from .elementary import Dense
from .rules import rule

__all__ = ["Wrapped", "as_operator"]


@rule("convert", object)
def as_operator(x: Operand, *, symmetric: bool | None = None,
                positive_definite: bool = False) -> StructuredOperator:
    """Make an operator of this package out of anything that is a matrix.

    Parameters
    ----------
    x : StructuredOperator, array_like, sparse array or scipy LinearOperator, shape (m, n)
        Or anything with ``shape`` and ``matvec``, as the operators of PyLops; ``rmatvec``,
        ``matmat``, ``rmatmat`` and ``dtype`` are used where there are any.
    symmetric : bool, optional
        Structure that `x` has.  Entries that are at hand prove it: those of an array and of a
        sparse array.  Of an operator it is your word.  None (default): what can be seen.
    positive_definite : bool, optional
        The same; an array is factored to prove it.

    Returns
    -------
    StructuredOperator
        `x` itself, a `Dense` for a 2-d array, a `Wrapped` for a sparse or foreign operator, and for
        one of ours that does not know of the structure named.

    Raises
    ------
    TypeError
        `x` is none of these, is not 2-d, or is complex.
    ValueError, numpy.linalg.LinAlgError
        Not finite, or entries that belie the structure.

    See Also
    --------
    check_operator : whether the structure is there.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import LinearOperator
    >>> from mlrops import as_operator
    >>> as_operator([[1.0, 2.0], [2.0, 5.0]])
    <2x2 Dense, symmetric, float64>
    >>> foreign = LinearOperator((3, 3), matvec=lambda v: 2 * v + v.sum(), dtype=float)
    >>> A = as_operator(foreign, positive_definite=True)
    >>> A
    <3x3 Wrapped, positive definite, float64>
    >>> A.solve(A @ [1.0, 2.0, 3.0]).round(8)
    array([1., 2., 3.])
    """
    tags: Any = {"symmetric": symmetric, "positive_definite": positive_definite}
    if isinstance(x, StructuredOperator):
        known = x.positive_definite or not positive_definite and (x.symmetric or not symmetric)
        return x if known else Wrapped(x, **tags)
    if issparse(x) or is_operator(x):
        return Wrapped(x, **tags)
    if np.ndim(x) == 2:
        return Dense(x, **tags)
    raise TypeError(
        "expected an operator, a 2-d array, a sparse array or a scipy LinearOperator, got"
        f" {type(x).__name__}" + (f" of shape {np.shape(x)}" if np.ndim(x) else ""))


class Wrapped(StructuredOperator):
    """A sparse array or an operator of another package.

    Parameters
    ----------
    A : sparse array or matrix, or scipy LinearOperator, shape (m, n)
        Or anything with ``shape`` and ``matvec``, see `as_operator`.  Sparse entries are copied and
        must be finite.
    symmetric : bool, optional
        Of a foreign operator your word for it.  A sparse array is compared with its transpose; None
        (default) finds out, True demands it.
    positive_definite : bool, optional
        Your word for it: neither entries nor products prove it at a bearable cost.  It selects the
        method of `solve` and allows ``slogdet("lanczos")``; `check_operator` tells whether it is
        true.

    Raises
    ------
    TypeError
        `A` is not sparse or an operator, or is complex.
    ValueError
        Not finite; or declared symmetric and found not to be, or not square.

    Notes
    -----
    Products are those of `A`; the adjoint product is there when `A` has one.  No structure is
    known: `solve` iterates, `slogdet` asks for a method.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from mlrops import Wrapped
    >>> A = Wrapped(csr_array([[2.0, 1.0], [1.0, 3.0]]), positive_definite=True)
    >>> A
    <2x2 Wrapped, positive definite, float64>
    >>> A @ A.solve([3.0, 4.0])
    array([3., 4.])
    """

    def __init__(self, A: Operand, *, symmetric: bool | None = None,
                 positive_definite: bool = False) -> None:
        if not (issparse(A) or is_operator(A)):
            raise TypeError(
                "Wrapped expects a sparse array, a scipy LinearOperator or an object with shape"
                f" and matvec, got {type(A).__name__}; see as_operator")
        if not (issparse(A) or isinstance(A, LinearOperator)):
            A = aslinearoperator(A)
        if A.ndim != 2:
            raise TypeError(f"Wrapped expects a 2-d sparse array, got shape {A.shape}")
        dtype = working_dtype(np.float64 if A.dtype is None else A.dtype, "Wrapped operator")
        demanded = bool(symmetric or positive_definite)
        if demanded and A.shape[0] != A.shape[1]:
            raise ValueError(f"a symmetric operator must be square, got shape {A.shape}")
        if issparse(A):
            A = csr_array(A, dtype=dtype, copy=True)
            as_finite(A.data, "sparse entries", axis_name="stored entry")
            equal = A.shape[0] == A.shape[1] and symmetric is not False and (A != A.T).nnz == 0
            if demanded and not equal:
                raise ValueError(
                    "Wrapped was declared symmetric, but the sparse array differs from its"
                    f" transpose in {counted((A != A.T).nnz, 'entry')}")
            symmetric = equal
        super().__init__(dtype, A.shape, symmetric=bool(symmetric),
                         positive_definite=positive_definite)
        self._A = A

    stored_fields = {
        "data": floats(1), "indices": integers(), "indptr": integers(),
        "shape": tuple_of(COUNT, "a tuple of two integers that are not negative", 2),
        "symmetric": FLAG, "positive_definite": FLAG}

    def to_fields(self) -> dict[str, object]:
        A = self._A
        if not issparse(A):
            raise TypeError(f"it wraps a {type(A).__name__} of another package, which has no"
                            " arrays to save")
        return {"data": A.data, "indices": A.indices, "indptr": A.indptr, "shape": A.shape,
                "symmetric": self.symmetric, "positive_definite": self.positive_definite}

    @classmethod
    def from_fields(cls, data: FloatArray, indices: IntArray, indptr: IntArray,
                    shape: tuple[int, int], symmetric: bool, positive_definite: bool) -> "Wrapped":
        _check_csr(data, indices, indptr, *shape)
        A = csr_array((data, indices, indptr), shape=shape)
        return cls(A, symmetric=symmetric, positive_definite=positive_definite)

    @property
    def _empty_columns(self):
        """Columns beyond a small multiple of what is stored: a transpose has an offset for each."""
        return self.shape[1] - 16 * (self.shape[0] + self._A.nnz) if issparse(self._A) else 0

    @property
    def A(self) -> Any:
        """The sparse array (csr_array) or foreign LinearOperator."""
        return self._A

    def _times(self, vector, block, x, rows):
        if x.ndim == 2 and x.shape[1] == 0:
            return np.zeros((rows, 0), self.dtype)
        y = np.asarray(vector(x) if x.ndim == 1 else block(x))
        if y.dtype.kind == "c":
            raise TypeError(
                f"{type(self._A).__name__} declares dtype {self._A.dtype} but returned a complex"
                " product; operators here are real")
        return y.astype(self.dtype, copy=False)

    def _mul(self, x):
        A = self._A
        if issparse(A):
            return A @ x
        return self._times(A.matvec, A.matmat, x, self.shape[0])

    def _rmul(self, x):
        A = self._A
        if issparse(A):
            return A.T @ x
        try:
            return self._times(A.rmatvec, A.rmatmat, x, self.shape[1])
        except (NotImplementedError, TypeError) as error:
            if self.symmetric:
                return self._mul(x)
            raise NotImplementedError(
                f"the wrapped {type(A).__name__} of shape {self.shape} has no adjoint product"
                " (rmatvec)") from error

    def _diagonal(self):
        return self._A.diagonal() if issparse(self._A) else super()._diagonal()

    def _transpose(self):
        return Wrapped(self._A.T) if issparse(self._A) else super()._transpose()


def _check_csr(data, indices, indptr, m, n):
    """Refuse arrays that a product would follow to places that are not theirs.

    SciPy's own check looks no further where the last offset says that there are no entries.
    """
    if indptr.size != m + 1:
        raise ValueError(f"indptr must have m + 1 = {m + 1} entries, got {indptr.size}")
    if data.size != indices.size:
        raise ValueError(f"data and indices must be of one length, got {data.size} and"
                         f" {indices.size}")
    if indptr[0] != 0 or indptr[-1] > indices.size or (indptr[1:] < indptr[:-1]).any():
        raise ValueError("indptr must rise from 0 to the number of entries,"
                         f" {indices.size}, without a step down")
    if indices.size and not 0 <= indices.min() <= indices.max() < n:
        raise ValueError(f"indices must lie in 0 to n - 1 = {n - 1}, got {indices.min()} to"
                         f" {indices.max()}")
