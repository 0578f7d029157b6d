"""Low rank updates of any operator: `Woodbury` and its inverse."""

from typing import Any

import numpy as np
from scipy import linalg

from .._common.cached import cached_property
from .._common.stored import FLAG, OPERATOR, Check, floats, maybe
from .._common.typing import FloatArray, Real
from .._common.validate import as_finite, read_only, rowwise
from .._common.wording import counted
from . import krylov
from .arithmetic import add
from .base import StructuredOperator
from .composed import Inverse, rdot
from .elementary import Dense, Diagonal, LowRank
from .factored import Factored
from .refine import BACKWARD_ERROR, CORRECTIONS, lengths, norm_of, of_size_one, refine, refined
from .rules import REGULAR
from .wrapped import as_operator

__all__ = ["Woodbury", "WoodburyInverse"]

# Columns that a saved update may have for each of its rows: its inverse is a k×k matrix.
_MAX_WIDTH = 16
# Products with an update of a singular base, where only iteration is left, at most.
_ITERATIONS = 1000
# The backward error from which Woodbury's formula does not hold.
_UNSOUND = {np.dtype(np.float64): 3e-9, np.dtype(np.float32): 1e-4}


class Woodbury(StructuredOperator):
    """Low rank update ``A + U C Vᵀ`` of any square operator A.

    Parameters
    ----------
    base : square operator, array or sparse array, shape (n, n)
        A; solves and determinant need those of A.
    U : array_like, shape (n, k)
    C : array_like, shape (k, k), optional
        May be singular or indefinite; None (default) stands for the identity.
    V : array_like, shape (n, k), optional
        None (default) stands for `U`.

    Raises
    ------
    ValueError
        Wrong shapes, NaN or infinity.
    TypeError
        Complex, sparse or non-numeric arrays.

    Notes
    -----
    With the capacitance ``M = I + C Vᵀ A⁻¹ U``, formed and factored once by k solves with A,

        (A + U C Vᵀ)⁻¹ = A⁻¹ - A⁻¹ U M⁻¹ C Vᵀ A⁻¹,      det(A + U C Vᵀ) = det A det M,

    which never needs C⁻¹ (M. Woodbury, "Inverting modified matrices", 1950).  A product costs 4 n k
    flops more than one with A, a solve 8 n k more than one product and one solve with A: it bounds
    its residual, corrects x and ``z = C Vᵀ x`` by what they are apart where A⁻¹ is large beside the
    inverse of the sum, and raises ``numpy.linalg.LinAlgError`` where the residual stays.  Where A
    is a `Diagonal`, `LowRankPlusDiagonal` or `MLR` and the sum positive definite, hard ones are
    solved as an operator of the latter two types.

    Where A is singular, or nearly so, the formula fails though the sum may be well-conditioned: the
    update of a `Dense` is then factored whole, that of a `Diagonal` moved away from zero, that of a
    `GeneralMLR` taken into its coarsest level; others are solved by iteration.

    Symmetric when A and C are and V is U; positive definite when in addition A is and C is proved
    to be by a Cholesky factorization (or is the identity).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Diagonal, Woodbury
    >>> A = Woodbury(Diagonal([1.0, 2.0, 4.0]), U=np.ones((3, 1)), C=[[-0.25]])
    >>> A.toarray()
    array([[ 0.75, -0.25, -0.25],
           [-0.25,  1.75, -0.25],
           [-0.25, -0.25,  3.75]])
    >>> np.round(A.solve(A @ [1.0, 2.0, 3.0]), 12)
    array([1., 2., 3.])
    """

    def __init__(self, base: Any, U: Real, C: Real | None = None, V: Real | None = None, *,
                 _positive_definite: bool = False) -> None:
        base = as_operator(base)
        n = base._square("Woodbury")
        U = as_finite(U, "U", ndim=2, axis_name="row")
        if V is not None:
            V = as_finite(V, "V", ndim=2, axis_name="row")
            if V.shape == U.shape and np.array_equal(U, V):
                V = None
        for name, X in (("U", U), ("V", U if V is None else V)):
            if X.shape != (n, U.shape[1]):
                raise ValueError(
                    f"{name} must have shape (n, k) = {(n, U.shape[1])} to update a base of shape"
                    f" {base.shape}, got {X.shape}")
        k = U.shape[1]
        if C is not None:
            C = as_finite(C, "C", ndim=2, axis_name="row")
            if C.shape != (k, k):
                raise ValueError(f"C must have shape (k, k) = {(k, k)}, got {C.shape}")
        dtype = np.result_type(base.dtype, *(X for X in (U, C, V) if X is not None))
        self._base = base
        self._U = read_only(U.astype(dtype, copy=False))
        self._V = self._U if V is None else read_only(V.astype(dtype, copy=False))
        self._C = None if C is None else read_only(C.astype(dtype, copy=False))
        symmetric = base.symmetric and V is None and (C is None or np.array_equal(C, C.T))
        proved = _positive_definite or (
            symmetric and base.positive_definite and (C is None or _has_cholesky(C)))
        super().__init__(dtype, (n, n), symmetric=symmetric, positive_definite=proved)

    stored_fields = {"base": OPERATOR, "U": floats(2), "C": maybe(floats(2)),
                     "V": maybe(floats(2)), "positive_definite": FLAG}

    def to_fields(self) -> dict[str, object]:
        given = super().to_fields()
        Woodbury.from_fields(**given)  # what cannot be shown again is not saved either
        return given

    @classmethod
    def from_fields(cls, base: StructuredOperator, U: FloatArray, C: FloatArray | None,
                    V: FloatArray | None, positive_definite: bool) -> "Woodbury":
        A = cls(base, U, C, V)
        if positive_definite and not A.positive_definite:
            # Known from the terms of a sum when it was made; here its square root has to show it.
            if not (A.symmetric and A.base.positive_definite):
                raise ValueError("tagged positive definite, but not symmetric or not an update of"
                                 " a positive definite operator")
            A = cls(base, U, C, V, _positive_definite=True)
            _ = A._root
        return A

    @property
    def base(self) -> StructuredOperator:
        """The operator that is updated."""
        return self._base

    @property
    def U(self) -> FloatArray:
        """Left factor, read-only ndarray of shape (n, k)."""
        return self._U

    @property
    def C(self) -> FloatArray | None:
        """Middle matrix, read-only ndarray of shape (k, k), or None for the identity."""
        return self._C

    @property
    def V(self) -> FloatArray:
        """Right factor, read-only ndarray of shape (n, k); the same object as `U` if it was."""
        return self._V

    @property
    def _update_rank(self):
        return self._U.shape[1]

    @property
    def _has_direct_solve(self):
        return self._base._has_direct_solve or (
            isinstance(self._base, Diagonal) and not self._lacks_rank)

    @property
    def _lacks_rank(self):
        """Whether it is seen to be singular: the update of a diagonal has too few columns."""
        return (isinstance(self._base, Diagonal)
                and np.count_nonzero(self._base.d == 0) > self._U.shape[1])

    def _middle(self, t):
        """C t."""
        return t if self._C is None else self._C @ t

    @property
    def _left(self):
        """U C."""
        return self._U if self._C is None else self._U @ self._C

    def _mul(self, x):
        return self._base.dot(x) + self._U @ self._middle(self._V.T @ x)

    def _rmul(self, x):
        t = self._U.T @ x
        return rdot(self._base, x) + self._V @ (t if self._C is None else self._C.T @ t)

    def _diagonal(self):
        return self._base.diagonal() + np.einsum("ij,ij->i", self._left, self._V)

    def _trace(self):
        return self._base.trace() + np.einsum("ij,ij->", self._left, self._V)

    def _transpose(self):
        C = None if self._C is None else self._C.T
        return Woodbury(self._base.T, self._V, C, self._U)

    @cached_property
    def _solved(self):
        """A⁻¹ U."""
        return self._base.solve(self._U)

    @cached_property
    def _capacitance(self):
        """M = I + C Vᵀ A⁻¹ U."""
        M = self._middle(self._V.T @ self._solved)
        return Dense(M + np.eye(M.shape[0], dtype=M.dtype), symmetric=False)

    def _check_nonsingular(self):
        if self._capacitance.slogdet()[0] == 0:
            raise np.linalg.LinAlgError(
                f"Woodbury of shape {self.shape} is singular: its capacitance I + C Vᵀ A⁻¹ U,"
                f" {self._capacitance.shape}, has a zero pivot")

    @cached_property
    def _sound(self):
        """Whether Woodbury's formula holds, tried on two vectors; not where A⁻¹ is too large."""
        v = np.random.default_rng(0).standard_normal((self.shape[0], 2)).astype(self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                x = self._by_formula(v)
            except np.linalg.LinAlgError:
                return False
            error = np.linalg.norm(v - self._mul(x)) / (
                norm_of(self) * np.linalg.norm(x) + np.linalg.norm(v))
        return bool(error <= _UNSOUND[self.dtype]) or v.size == 0

    def _is_singular(self):
        """Whether M is singular, as far as there is one."""
        try:
            return self._capacitance.slogdet()[0] == 0
        except np.linalg.LinAlgError:
            return False

    @cached_property
    def _regular(self):
        """An operator equal to this one that does without A⁻¹, where there is one."""
        return self._factored or REGULAR(self._base, self._left, self._V)

    @cached_property
    def _factored(self):
        """This one as ``F Fᵀ + diag(D)``, where the base is of that form and C has a root."""
        if not (self.symmetric and self._base.positive_definite
                and isinstance(self._base, (Diagonal, Factored))):
            return None
        try:
            root = self._U if self._C is None else self._U @ linalg.cholesky(
                self._C, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        found = add(self._base, LowRank(root))
        return found if isinstance(found, Factored) else None

    def _solve(self, b):
        if b.size == 0:
            return b.copy()
        try:
            if self._base._has_direct_solve:
                return of_size_one(self._measured, b)
            return refined(self, self._by_formula, b)
        except np.linalg.LinAlgError as error:
            if self._regular is not None:
                return refined(self, self._regular._solve, b)
            if self._is_singular() or self._lacks_rank:
                raise
            failed = error
        try:
            return krylov.solve(self, b, maxiter=_ITERATIONS)
        except np.linalg.LinAlgError as error:
            text = f"{failed}; without the inverse of the base: {error}"
            raise np.linalg.LinAlgError(text) from None

    def _by_formula(self, b):
        return self._parts(b)[0]

    def _parts(self, b):
        """``x = y - w`` with ``y = A⁻¹ b``, ``w = A⁻¹ U z``; exactly, ``z = C Vᵀ x``."""
        self._check_nonsingular()
        y = self._base.solve(b)
        z = self._capacitance.solve(self._middle(self._V.T @ y))
        w = self._solved @ z
        return y - w, y, z, w

    @cached_property
    def _U_norm(self):
        return float(np.linalg.norm(self._U.T @ self._U, 2)) ** 0.5 if self._U.size else 0.0

    def _measured(self, b):
        """The formula's x, corrected where the residual U (C Vᵀ x - z) or what cancels is large."""
        eps = np.finfo(self.dtype).eps
        with np.errstate(over="ignore", invalid="ignore"):
            x, y, z, w = self._parts(b)
            gap = self._middle(self._V.T @ x) - z
            size = {name: np.linalg.norm(part, axis=0) for name, part in zip(
                "bxywg", (b, x, y, w, gap), strict=True)}
            # Of rounding in y and w, both factored parts of the product tell.
            residual = self._U_norm * size["g"] + 2 * eps * (
                norm_of(self._base) * (size["y"] + size["w"]))
            small = residual <= BACKWARD_ERROR * eps * (norm_of(self) * size["x"] + size["b"])
            if np.all(small):
                return x
            if self._factored is not None:
                return self._factored._solve(b)
            return refined(self, self._by_gap, b)

    def _by_gap(self, b):
        """``x = A⁻¹ (b - U z)``, whose residual is ``U (z - C Vᵀ x)``, with x and z corrected.

        Where A⁻¹ is large, y and w of the formula cancel; here b and U z may, which costs no more
        than rounding in b.
        """
        B = b.reshape(len(b), -1)
        n, (_, _, z, _) = len(b), self._parts(B)
        both = np.concatenate([self._base.solve(B - self._U @ z), z])
        size, norm = lengths(B), norm_of(self)

        def residual(both, columns):
            x, z = both[:n], both[n:]
            gap = self._middle(self._V.T @ x) - z
            return gap, self._U_norm * lengths(gap) / (norm * lengths(x) + size[columns])

        def step(gap, _):
            dz = self._capacitance.solve(gap)
            return np.concatenate([-(self._solved @ dz), dz])

        refine(both, residual, step, np.flatnonzero(np.isfinite(size) & (size > 0)),
               np.finfo(self.dtype).eps, CORRECTIONS)
        return both[:n].reshape(b.shape)

    def _slogdet(self):
        if self._lacks_rank:
            return 0.0, -np.inf
        if not self._sound and self._regular is not None:
            return self._regular.slogdet()
        sign, logabs = self._base.slogdet()
        if sign == 0:
            raise np.linalg.LinAlgError(
                f"the base of this Woodbury, {self._base!r}, is singular:"
                " det(A) det(I + C Vᵀ A⁻¹ U) does not exist")
        small_sign, small = self._capacitance.slogdet()
        if small_sign and not self._sound:
            raise np.linalg.LinAlgError(
                f"slogdet: the base of this Woodbury, {self._base!r}, is too near a singular matrix"
                " for det(A) det(I + C Vᵀ A⁻¹ U); ask for method='dense' where that fits")
        return sign * small_sign, logabs + small

    def _inv(self):
        # (A + U C Vᵀ)⁻¹ = A⁻¹ + (A⁻¹U) K (A⁻ᵀV)ᵀ with K = -M⁻¹ C
        if not self._sound:
            if self._is_singular() and self._regular is None:
                self._check_nonsingular()
            return super()._inv()  # its products are solves, which look at their residuals
        k = self._U.shape[1]
        C = np.eye(k, dtype=self.dtype) if self._C is None else self._C
        K = -self._capacitance.solve(C)
        V = None
        if self.symmetric:
            K = (K + K.T) / 2  # (I + C U'A⁻¹U)⁻¹ C is symmetric; only rounding says otherwise
        else:
            V = self._base.T.solve(self._V)
        return WoodburyInverse(self, self._base.inv(), self._solved, K, V)

    # ---------------------------------------------------------------- square root
    # With A = S Sᵀ and W U = Q R:  A + U C Uᵀ = S (I + Q (R C Rᵀ) Qᵀ) Sᵀ, and the middle factor has
    # the symmetric root I + X (√(1+Λ) - I) Xᵀ, where R C Rᵀ = E Λ Eᵀ and X = Q E.

    @cached_property
    def _root(self):
        """X and the eigenvalues √(1+Λ)."""
        Q, R = linalg.qr(self._base.whiten(self._U), mode="economic", check_finite=False)
        values, E = np.linalg.eigh(R @ self._middle(R.T))
        if values.size and values[0] <= -1:
            raise np.linalg.LinAlgError(
                f"Woodbury of shape {self.shape} is not positive definite to working precision:"
                f" smallest eigenvalue {1 + values[0]:.3g} relative to its base")
        return Q @ E, np.sqrt(1 + values)

    def _color(self, z):
        X, root = self._root
        return self._base.color(z + X @ (rowwise(root - 1, z) * (X.T @ z)))

    def _whiten(self, x):
        X, root = self._root
        y = self._base.whiten(x)
        return y + X @ (rowwise(1 / root - 1, y) * (X.T @ y))


def _has_cholesky(C):
    try:
        linalg.cholesky(C, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return True


class WoodburyInverse(Woodbury):
    """Inverse of a `Woodbury` or `LowRankPlusDiagonal`, held as a `Woodbury`; made by ``A.inv()``.

    Products are solves with the original: those with ``A⁻¹ + B K Vᵀ`` would cancel where x lies
    close to the range of U.  Solve, determinant and square root go back to the original, too.
    """

    def __init__(self, original, base, U, C, V):
        self._inverse = original
        super().__init__(base, U, C, V, _positive_definite=original.positive_definite)
        # A downdate may not know that it is positive definite: its inverse, whose root is that of
        # the original, must not either.
        self._positive_definite = original.positive_definite

    stored_fields = {"base": Check("a Woodbury or a LowRankPlusDiagonal",
                                   lambda x: hasattr(x, "_update_rank"))}

    def to_fields(self) -> dict[str, object]:
        return {"base": _small_enough(self._inverse)}

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> Any:
        return _small_enough(given["base"]).inv()

    _mul = Inverse._mul
    _rmul = Inverse._rmul
    _solve = Inverse._solve
    _slogdet = Inverse._slogdet
    _whiten = Inverse._whiten
    _color = Inverse._color

    def _diagonal(self):
        known = getattr(self._inverse, "_inverse_diagonal", None)
        return super()._diagonal() if known is None else known()

    def _transpose(self):
        return self._inverse.T.inv()


def _small_enough(A):
    """`A`, once it is known that its inverse is not much larger than itself."""
    n, k = A.shape[0], A._update_rank
    if k > _MAX_WIDTH * max(n, 4):
        raise ValueError(f"an update of rank k = {k} of n = {counted(n, 'feature')} has an inverse"
                         " of k×k numbers, which is not saved")
    return A
