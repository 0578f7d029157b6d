"""`Arithmetic`: the signs between operators, arrays and numbers; what they give is in `closure`."""

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from .._common.validate import refuse_masked

__all__ = ["Arithmetic", "is_operator"]


def is_operator(x):
    """True for what SciPy takes as a linear operator, subclass or not."""
    return isinstance(x, LinearOperator) or (hasattr(x, "matvec") and hasattr(x, "shape"))


def _is_complex_number(x):
    return _is_scalar(x) and np.asarray(x).dtype.kind == "c"


def _is_scalar(x):
    return not is_operator(x) and not issparse(x) and np.ndim(x) == 0


class Arithmetic:
    """What `StructuredOperator` puts in the place of SciPy's own arithmetic.

    Complex multiples are SciPy's scaled operators: storage here is real, operands need not be.
    """

    def dot(self, x):
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
        from . import closure

        if is_operator(x):
            return closure.matmul(self, x)
        if _is_complex_number(x):
            return super().dot(complex(x))
        if _is_scalar(x):
            return closure.scale(self, x)
        refuse_masked(x, "product")
        return super().dot(x)

    def __matmul__(self, x):
        if _is_scalar(x):
            raise ValueError("matmul: a scalar operand is not allowed, use '*' instead")
        return self.dot(x)

    def rdot(self, x):
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
        from . import closure

        if is_operator(x):
            return closure.matmul(x, self)
        if _is_complex_number(x):
            return super().dot(complex(x))
        if _is_scalar(x):
            return closure.scale(self, x)
        refuse_masked(getattr(x, "T", x), "product")
        parent = super()  # public since SciPy 1.18
        return (parent.rdot if hasattr(parent, "rdot") else parent._rdot)(x)

    _rdot = rdot

    def __rmul__(self, x):
        return self.rdot(x)

    def __rmatmul__(self, x):
        if _is_scalar(x):
            raise ValueError("matmul: a scalar operand is not allowed, use '*' instead")
        return self.rdot(x)

    def __truediv__(self, c):
        from . import closure

        if not _is_scalar(c):
            raise ValueError("an operator can be divided by a scalar only; use solve or inv()")
        if c == 0:
            raise ZeroDivisionError("division of an operator by zero")
        if _is_complex_number(c):
            return self.dot(1.0 / complex(c))
        return closure.scale(self, 1.0 / closure.as_scalar(c))

    def __neg__(self):
        from . import closure

        return closure.scale(self, -1.0)

    def __add__(self, other):
        from . import closure

        return closure.add(self, other)

    def __radd__(self, other):
        from . import closure

        if _is_scalar(other) and other == 0:
            return self  # the start value of sum()
        return closure.add(other, self)

    def __sub__(self, other):
        from . import closure

        return closure.add(self, closure.scale(closure.as_operator(other), -1.0))

    def __rsub__(self, other):
        from . import closure

        return closure.add(other, closure.scale(self, -1.0))

    def __pow__(self, p):
        from . import closure

        return closure.power(self, p)
