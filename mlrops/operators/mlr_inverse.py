"""`MLRInverse`: the inverse of an MLR matrix, of the same sparsity."""

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.deprecated import old_attribute
from .._common.stored import instance
from .._common.typing import FloatArray
from ..tree.hierarchy import Hierarchy
from .base import StructuredOperator
from .elementary import Diagonal
from .mlr import MLR
from .rules import rule

__all__ = ["MLRInverse"]


@rule("inverse", MLR)
class MLRInverse(StructuredOperator):
    r"""Inverse of an `MLR` matrix, :math:`\Sigma^{-1} = \mathrm{diag}(1/D) - U U^T`.

    U has the sparsity of the factors: it is stored as ``(n, R)`` numbers on the same hierarchy.

    Parameters
    ----------
    mlr : MLR
        The matrix to invert; ``mlr.inv()`` builds its inverse once.

    Raises
    ------
    TypeError
        `mlr` is not an `MLR`.

    Notes
    -----
    ``U = D⁻¹ F Λ⁻ᵀ`` on the rows of a leaf, ``Λ Λᵀ = I + Fᵀ D⁻¹ F`` along its path: the recursive
    Sherman-Morrison-Woodbury identity of T. Parshakova, T. Hastie, S. Boyd, "Fitting multilevel
    factor models" (2024).
    Forming U costs n R² after the factorization.  Products are solves with the MLR matrix, at the
    same 4 n R flops, and as backward stable: ``x / D - U (Uᵀ x)`` would cancel where x is close to
    the range of F.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> A.inv().toarray()
    array([[ 0.75, -0.25, -0.25],
           [-0.25,  0.75, -0.25],
           [-0.25, -0.25,  0.75]])
    >>> A.inv().inv() is A
    True
    """

    def __init__(self, mlr: MLR) -> None:
        if not isinstance(mlr, MLR):
            raise TypeError(f"MLRInverse expects an MLR, got {type(mlr).__name__}")
        super().__init__(mlr.dtype, mlr.shape, positive_definite=True)
        self._inverse = mlr

    stored_fields = {"base": instance(MLR, "of type MLR")}

    def to_fields(self) -> dict[str, object]:
        return {"base": self._inverse}

    @classmethod
    def from_fields(cls, base: MLR) -> "MLRInverse":
        return base.inv()

    def __reduce__(self):
        return _inverse_of, (self._inverse,)

    @property
    def hierarchy(self) -> Hierarchy:
        """The Hierarchy of the features."""
        return self._inverse.hierarchy

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each level, tuple of L int."""
        return self._inverse.ranks

    @cached_property
    def _u(self):
        A = self._inverse
        if not A._F.shape[1]:
            return A._F
        U = A._inverse_rows()
        U.flags.writeable = False
        return U

    @cached_property
    def U(self) -> FloatArray:
        """Compact factors of what is taken off the diagonal, (n, R), feature order; read-only.

        Raises
        ------
        numpy.linalg.LinAlgError
            Products with U would cancel: D is too small beside F.
        """
        if self._inverse._cancels:
            raise np.linalg.LinAlgError(
                f"diag(1/D) - U Uᵀ would cancel: D is too small beside F in {self._inverse!r};"
                " products, diagonal and trace_with do without U")
        U = self.hierarchy._scatter(self._u)
        U.flags.writeable = False
        return U

    F = old_attribute("F", "U")

    @cached_property
    def D(self) -> FloatArray:
        """The diagonal part, 1/D of the MLR matrix, (n,), feature order; read-only."""
        D = 1 / self._inverse.D
        D.flags.writeable = False
        return D

    def trace_with(self, B: StructuredOperator, block: int = 64) -> float:
        r"""``tr(Σ⁻¹ B)``, computed in float64.

        Parameters
        ----------
        B : StructuredOperator, shape (n, n)
        block : int, optional
            Columns of B taken at a time where B has no structure to use.

        Returns
        -------
        trace : float

        Notes
        -----
        With B an `MLR` on any hierarchy, a `LowRankPlusDiagonal` or a `Diagonal`,
        ``B = Σ_m G_m G_mᵀ + diag(E)``:

        .. math:: \mathrm{tr}(\Sigma^{-1} B) = \sum_i E_i (\Sigma^{-1})_{ii}
                  + \sum_i B^0_{ii} / D_i - \sum_{l,m} \|U_l^T G_m\|_F^2,
                  \qquad B^0 = \sum_m G_m G_m^T.

        A block of ``U_lᵀ G_m`` is one product over the features that a group of Σ and a group of B
        have in common: ``2 n R_Σ R_B`` flops in all, whatever the number of groups.  Where that
        would cancel, D being very small beside F, the sum of squares ``‖W S‖_F²``, B = S Sᵀ: n
        columns.  For any other B: n products with B and n solves with Σ, n × `block` numbers at a
        time.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import MLR, Hierarchy, Identity
        >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
        >>> A.inv().trace_with(Identity(3)), A.inv().trace_with(A)
        (2.25, 3.0)
        """
        from .low_rank_plus_diagonal import LowRankPlusDiagonal

        A = self._inverse.astype(np.float64)
        inverse = A.inv()
        if isinstance(B, Diagonal):
            return float(inverse.diagonal() @ B.d)
        if isinstance(B, LowRankPlusDiagonal):
            B = MLR.from_compact(Hierarchy.flat(B.shape[0]), (B.F.shape[1],), B.F, B.D)
        if isinstance(B, MLR) and A._exactly:
            return sum(_squares(A.whiten(B.color(unit))) for _, unit in _units(A.shape[0], block))
        if isinstance(B, MLR):
            B = B.astype(np.float64)
            squares = np.einsum("ij,ij->i", B.F, B.F)
            return float(inverse.diagonal() @ B.D + squares @ inverse.D - sum(
                _squared_product(U, A.hierarchy.labels(a), G, B.hierarchy.labels(b))
                for a, U in enumerate(np.split(inverse.U, np.cumsum(A.ranks)[:-1], axis=1))
                for b, G in enumerate(B.factors)))
        return sum(float(np.trace(A.solve(B @ unit)[columns]))
                   for columns, unit in _units(A.shape[0], block))

    def _mul(self, x):
        return self._inverse._solve(x)

    def _solve(self, b):
        return self._inverse._mul(b)

    def _slogdet(self):
        return 1.0, -self._inverse._slogdet()[1]

    def _inv(self):
        return self._inverse

    def _diagonal(self):
        return self._inverse._inverse_diagonal()

    # With A = S Sᵀ: A⁻¹ = WᵀW, so Wᵀ colours the inverse and Sᵀ whitens it.

    def _color(self, z):
        A = self._inverse
        return A._apply(A._root.whiten_transpose, z)

    def _whiten(self, x):
        A = self._inverse
        return A._apply(A._root.color_transpose, x)

    def __repr__(self) -> str:
        return f"<inverse of {self._inverse!r}>"


def _inverse_of(mlr):
    return mlr.inv()


def _squared_product(U, groups, G, others):
    """``‖Uᵀ G‖_F²`` of compact factors (n, r) and (n, q), block diagonal by two labellings."""
    if not (U.shape[1] and G.shape[1]):
        return 0.0
    cell = groups * (others.max() + 1) + others
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    total = 0.0
    for rows, _ in kernels.groups.by_size(np.append(starts, cell.size), largest=5_000_000):
        features = order[rows]
        total += np.square(np.matmul(U[features].swapaxes(1, 2), G[features])).sum()
    return float(total)


def _units(n, block):
    """Slices of columns of the n×n identity, `block` at a time, and these columns."""
    for start in range(0, n, block):
        columns = slice(start, min(start + block, n))
        unit = np.zeros((n, columns.stop - start))
        unit[columns] = np.eye(columns.stop - start)
        yield columns, unit


def _squares(x):
    return float(np.vdot(x, x))
