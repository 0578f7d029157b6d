"""`StructuredOperator`: SciPy's LinearOperator with solve, logdet, inverse and square root.

Public methods validate and reshape; private hooks compute.  A subclass provides

    _mul(x), _rmul(x)      A x and Aᵀ x; x is real, of this operator's dtype, (n,) or (n, k)
    _solve(b)              A⁻¹ b, same shapes           (default: a Krylov solve that checks itself)
    _slogdet()             (sign, log|det A|)           (default: an error that names the methods)
    _diagonal(), _trace()  the diagonal and its sum     (default: products with unit vectors)
    _inv(), _transpose()   operators
    _whiten(x), _color(z)  W x with WᵀW = A⁻¹, and S z with S Sᵀ = A, when positive definite
    _semidefinite          property: known to be symmetric positive semidefinite
    _has_direct_solve      property: whether `_solve` follows the structure
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .._common.cached import computed_once
from .._common.stored import Stored
from .._common.typing import FloatArray, RandomState, Real
from .._common.validate import as_generator, check_rank
from . import krylov, rules
from .arithmetic import Arithmetic, Operand
from .operand import linear, operand, solve_options

__all__ = ["StructuredOperator"]


class StructuredOperator(Stored, Arithmetic):
    """Base class of every operator of the package.

    Parameters
    ----------
    dtype : dtype
        float32 or float64; the precision in which products and solves are computed.
    shape : (int, int)
        Number of rows and columns.
    symmetric, positive_definite : bool
        Structure that the subclass has *proved*.  ``positive_definite`` implies ``symmetric``.

    Raises
    ------
    ValueError
        `shape` is not a pair.

    See Also
    --------
    check_operator : compare an operator with its dense matrix.
    mlrops.operators.rule : say what an operator gives in a sum, a product or a multiple.

    Notes
    -----
    Operators are immutable: arrays handed to a constructor are copied and kept read-only, and
    whatever has been factored stays valid.  Products take ``(n,)`` or ``(n, k)`` arrays; integers
    become float64 and float32 stays float32.  An operator computes in its own dtype; the result has
    ``numpy.result_type`` of operator and operand.

    Examples
    --------
    A subclass has to define its product, ``_mul``, and ``_rmul`` where it is not symmetric.  Every
    other verb has a default; the subclass may replace what its structure does better.

    >>> import numpy as np
    >>> from mlrops import Identity, StructuredOperator, check_operator
    >>> class Reversal(StructuredOperator):
    ...     def __init__(self, n):
    ...         super().__init__(np.float64, (n, n), symmetric=True)
    ...     def _mul(self, x):
    ...         return x[::-1].copy()
    ...     _solve = _mul
    >>> A = Reversal(3)
    >>> A.solve([1.0, 2.0, 3.0])
    array([3., 2., 1.])
    >>> A - Identity(3), A @ A
    (<3x3 Sum, symmetric, float64>, <3x3 Product, symmetric, float64>)
    >>> check_operator(A).passed
    True

    A rule says that a reversal undoes itself.

    >>> from mlrops.operators import rule
    >>> @rule("matmul", Reversal, Reversal)
    ... def _(A, B):
    ...     return Identity(A.shape[0])
    >>> A @ A
    <3x3 Identity, positive definite, float64>
    """

    _inverse: Any = None
    _transposed: Any = None

    def __init__(self, dtype: DTypeLike, shape: tuple[int, int], *, symmetric: bool = False,
                 positive_definite: bool = False) -> None:
        super().__init__(dtype, shape)
        self._symmetric = bool(symmetric or positive_definite)
        self._positive_definite = bool(positive_definite)

    def __setstate__(self, state):
        # NumPy arrays come out of pickle and deepcopy writeable.
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        parent = super()
        if hasattr(parent, "__setstate__"):  # since SciPy 1.18, which keeps an array namespace
            parent.__setstate__(state)
        else:
            self.__dict__.update(state)

    @property
    def symmetric(self) -> bool:
        """True when the matrix is known to be symmetric (bool)."""
        return self._symmetric

    @property
    def positive_definite(self) -> bool:
        """True when the matrix is known to be symmetric positive definite (bool)."""
        return self._positive_definite

    @property
    def _semidefinite(self) -> bool:
        """True when the matrix is known to be symmetric positive semidefinite."""
        return self._positive_definite

    @property
    def _has_direct_solve(self) -> bool:
        """True when `solve` follows the structure: it does not iterate, or fail by construction."""
        return (self.shape[0] == self.shape[1]
                and type(self)._solve is not StructuredOperator._solve)

    def _square(self, verb):
        m, n = self.shape
        if m != n:
            raise ValueError(f"{verb} needs a square operator, got shape {self.shape}")
        return n

    def _need_positive(self, verb):
        self._square(verb)
        if not self._positive_definite:
            raise ValueError(
                f"{verb} needs an operator known to be symmetric positive definite;"
                f" {type(self).__name__} of shape {self.shape} is not")

    def _matvec(self, x):
        return linear(self._mul, x, self.dtype, self.shape[1], "matvec")

    def _matmat(self, X):
        return linear(self._mul, X, self.dtype, self.shape[1], "matmat")

    def _rmatvec(self, x):
        return linear(self._rmul, x, self.dtype, self.shape[0], "rmatvec")

    def _rmatmat(self, X):
        return linear(self._rmul, X, self.dtype, self.shape[0], "rmatmat")

    def _mul(self, x):
        raise NotImplementedError(f"{type(self).__name__} does not define its product")

    def _rmul(self, x):
        if self._symmetric:
            return self._mul(x)
        raise NotImplementedError(f"{type(self).__name__} does not define its adjoint product")

    def _transpose(self):
        return rules.TRANSPOSE(self)

    def transpose(self) -> "StructuredOperator":
        """The transpose as an operator: itself when symmetric; ``A.T.T`` is ``A`` again."""
        if self._symmetric:
            return self
        return computed_once(self, "_transposed", lambda: self._paired("_transposed"))

    T = property(transpose)

    def _adjoint(self):
        return self.transpose()

    def solve(self, b: Real, *, rtol: float | None = None, maxiter: int | None = None,
              M: Operand | None = None, x0: Real | None = None) -> FloatArray:
        """Solve ``A x = b``.

        Parameters
        ----------
        b : array_like, shape (n,) or (n, k)
            One right-hand side, or one a column.
        rtol, maxiter, M, x0 : optional
            As of SciPy's solvers, where `solve` iterates; a solve by structure takes none of them.
            ``‖b - A x‖ <= rtol ‖b‖``, default 1e-10 (float32: 1e-5), or what rounding allows;
            products with A at most, default ``10 n`` or 1000; an operator or array that
            approximates A⁻¹; and where to start, of the shape of `b`.

        Returns
        -------
        x : ndarray, same shape as `b`

        Raises
        ------
        ValueError
            `A` is not square, or `b` has not n rows.
        TypeError
            Options for a solve that does not iterate.
        numpy.linalg.LinAlgError
            `A` is singular; or the backward error ``‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖)`` stays above 1e4
            units of rounding, or (where only an iterative solve exists) the residual above `rtol`;
            the message carries the figure that was reached.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import Diagonal, Permutation
        >>> A = Permutation([1, 2, 3, 0]) + Diagonal([2.0, 4.0, 8.0, 16.0])
        >>> b = A @ [1.0, 2.0, 3.0, 4.0]
        >>> A.solve(b, rtol=1e-12, M=Diagonal([2.0, 4.0, 8.0, 16.0]).inv()).round(8)
        array([1., 2., 3., 4.])
        """
        n = self._square("solve")
        options = solve_options(self, b, {"rtol": rtol, "maxiter": maxiter, "M": M, "x0": x0})
        if not options:
            return linear(self._solve, b, self.dtype, n, "solve")
        return linear(partial(krylov.solve, self, **options), b, self.dtype, n, "solve")

    def slogdet(self, method: str | None = None, **options: Any) -> Any:
        """Sign and natural logarithm of the absolute value of the determinant.

        Parameters
        ----------
        method : {None, "dense", "lanczos"}, optional
            None uses the structure.  Where there is none to use, name a method: ``"dense"`` forms
            the n×n matrix, ``"lanczos"`` estimates (positive definite operators only) by
            stochastic Lanczos quadrature and returns a `LogdetEstimate`.
        **options : optional
            For ``"lanczos"``: ``n_probes=30``, ``n_steps=50``, ``random_state=None``.

        Returns
        -------
        sign : float
            1.0, -1.0, or 0.0 for a singular matrix.
        logabsdet : float
            ``-inf`` for a singular matrix.

        Raises
        ------
        ValueError
            `A` is not square, has no structured determinant and no method is named, or is not
            known to be positive definite (``"lanczos"``).
        TypeError
            Options that the method does not take.
        numpy.linalg.LinAlgError
            `A` is an update of an operator that is too near a singular one.

        References
        ----------
        S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
        quadrature", 2017.
        """
        self._square("slogdet")
        if method is None:
            if options:
                raise TypeError(f"slogdet: options {sorted(options)} need method='lanczos'")
            sign, logabs = self._slogdet()
            return float(sign), float(logabs)
        return krylov.slogdet(self, method, **options)

    def logdet(self, method: str | None = None, **options: Any) -> float:
        """Logarithm of the determinant, where that is not negative.

        Parameters
        ----------
        method : {None, "dense", "lanczos"}, optional
        **options : optional
            As for `slogdet`.

        Returns
        -------
        float
            ``-inf`` for a singular matrix; a `LogdetEstimate` for ``"lanczos"``.

        Raises
        ------
        ValueError
            The determinant is negative; and as `slogdet`.
        numpy.linalg.LinAlgError
            As `slogdet`.
        """
        sign, logabs = self.slogdet(method, **options)
        if sign < 0:
            raise ValueError(
                f"logdet: the determinant of this {type(self).__name__} is negative"
                " (use slogdet, which returns the sign)")
        return logabs

    def inv(self) -> "StructuredOperator":
        """The inverse as an operator; ``A.inv().inv()`` is ``A`` again.

        Raises
        ------
        ValueError
            `A` is not square.
        numpy.linalg.LinAlgError
            `A` is seen to be singular, as a `Diagonal` with zeros; otherwise products raise it.
        """
        self._square("inv")
        return computed_once(self, "_inverse", lambda: self._paired("_inverse"))

    def _paired(self, link):
        """The inverse or the transpose, with the way back."""
        other = self._inv() if link == "_inverse" else self._transpose()
        if getattr(other, link) is None:
            setattr(other, link, self)
        return other

    def diagonal(self) -> FloatArray:
        """The main diagonal, ndarray of shape (min(m, n),)."""
        return self._diagonal()

    def trace(self) -> float:
        """Sum of the diagonal (float); ValueError where `A` is not square."""
        self._square("trace")
        return float(self._trace())

    def toarray(self) -> FloatArray:
        """The dense matrix, shape (m, n).  The only method that forms it."""
        return self._mul(np.eye(self.shape[1], dtype=self.dtype))

    def whiten(self, x: Real) -> FloatArray:
        """``W x`` with ``WᵀW = A⁻¹``: decorrelate.

        Parameters
        ----------
        x : array_like, shape (n,) or (n, k)

        Returns
        -------
        ndarray, same shape as `x`

        Raises
        ------
        ValueError
            `A` is not known to be positive definite or has no structured square root, or `x` has
            not n rows.
        numpy.linalg.LinAlgError
            `A` is not positive definite to working precision; so do `color` and `inv_quad`.
        """
        self._need_positive("whiten")
        x, out = operand(x, self.dtype, self.shape[0], "whiten")
        return self._whiten(x).astype(out, copy=False)

    def color(self, z: Real) -> FloatArray:
        """``S z`` with ``S Sᵀ = A``: the inverse map of `whiten`.

        Parameters
        ----------
        z : array_like, shape (n,) or (n, k)

        Returns
        -------
        ndarray, same shape as `z`

        Raises
        ------
        ValueError
            `A` is not known to be positive definite or has no structured square root, or `z` has
            not n rows.
        """
        self._need_positive("color")
        z, out = operand(z, self.dtype, self.shape[0], "color")
        return self._color(z).astype(out, copy=False)

    def inv_quad(self, x: Real) -> float | FloatArray:
        """``xᵀ A⁻¹ x``, never negative.

        Parameters
        ----------
        x : array_like, shape (n,) or (n, k)

        Returns
        -------
        float, or ndarray of shape (k,) for columns

        Raises
        ------
        ValueError
            `A` is not known to be positive definite or has no structured square root, or `x` has
            not n rows.
        """
        self._need_positive("inv_quad")
        quad = self._inv_quad(operand(x, self.dtype, self.shape[0], "inv_quad")[0])
        return float(quad) if np.ndim(quad) == 0 else quad

    def sample(self, size: int | None = None,
               random_state: RandomState | np.random.RandomState = None) -> FloatArray:
        """Draw from the normal distribution with mean zero and this covariance.

        Parameters
        ----------
        size : int, optional
            Number of samples; None draws one.
        random_state : None, int, numpy.random.Generator or RandomState
            Seed or generator.

        Returns
        -------
        samples : ndarray, shape (n,) for ``size=None``, else (size, n)

        Raises
        ------
        ValueError
            `A` is not known to be positive definite, or has no structured square root.
        """
        self._need_positive("sample")
        samples = self._sample(1 if size is None else check_rank(size, "size"),
                               as_generator(random_state))
        return samples[0] if size is None else samples

    def _solve(self, b):
        return krylov.solve(self, b)

    def _slogdet(self):
        raise ValueError(
            f"{type(self).__name__} of shape {self.shape} has no structured determinant; ask for"
            " one by name: method='dense' forms the matrix, method='lanczos' estimates (positive"
            " definite operators)")

    def _inv(self):
        return rules.INVERSE(self)

    def _diagonal(self, block=64):
        m, n = self.shape
        out = np.empty(min(m, n), dtype=self.dtype)
        for start in range(0, out.size, block):
            stop = min(start + block, out.size)
            unit = np.zeros((n, stop - start), dtype=self.dtype)
            unit[np.arange(start, stop), np.arange(stop - start)] = 1
            out[start:stop] = self._mul(unit)[np.arange(start, stop), np.arange(stop - start)]
        return out

    def _trace(self):
        return self._diagonal().sum()

    def _whiten(self, x):
        raise ValueError(
            f"{type(self).__name__} of shape {self.shape} has no structured square root; factor"
            " toarray() where the dense matrix fits")

    _color = _whiten

    def _inv_quad(self, x):
        return np.square(self._whiten(x)).sum(axis=0)

    def _sample(self, size, rng):
        z = rng.standard_normal((size, self.shape[0])).astype(self.dtype, copy=False)
        return self._color(np.ascontiguousarray(z.T)).T

    def __repr__(self):
        tags = "positive definite" if self._positive_definite else (
            "symmetric" if self._symmetric else "")
        m, n = self.shape
        return f"<{m}x{n} {type(self).__name__}{', ' + tags if tags else ''}, {self.dtype}>"
