"""`MLRInverse`: the inverse of an MLR matrix, of the same sparsity."""



from .. import kernels
from .._common.cached import cached_property
from .._common.stored import Check
from . import accuracy
from .base import StructuredOperator

__all__ = ["MLRInverse"]


class MLRInverse(StructuredOperator):
    r"""Inverse of an `MLR` matrix, :math:`\Sigma^{-1} = \mathrm{diag}(1/D) - H H^T`.

    H has the sparsity of the factors: it is stored as ``(n, R)`` numbers on the same hierarchy, in
    attribute ``F`` (``H`` is an operator's adjoint, as everywhere in SciPy).

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
    ``H = D⁻¹ F Λ⁻ᵀ`` on the rows of a leaf, ``Λ Λᵀ = I + Fᵀ D⁻¹ F`` along its path: the recursive
    Sherman-Morrison-Woodbury identity of T. Parshakova, T. Hastie, S. Boyd, "Fitting multilevel
    factor models" (2024).
    A product costs what a product with the MLR matrix costs (4 n R flops); forming H costs n R²
    after the factorization.  Products are formed as ``x / D - H (Hᵀ x)``: forward stable in
    ``‖1/D‖``.  Where that is too much, for D very small beside F, products are solves, and H, `F`,
    raises ``numpy.linalg.LinAlgError``.  Where backward stability matters more, call ``mlr.solve``.

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

    def __init__(self, mlr):
        from .mlr import MLR

        if not isinstance(mlr, MLR):
            raise TypeError(f"MLRInverse expects an MLR, got {type(mlr).__name__}")
        super().__init__(mlr.dtype, mlr.shape, positive_definite=True)
        self._inverse = mlr

    stored_fields = {"base": Check("of type MLR", lambda x: hasattr(x, "_rough_logdet"))}

    def to_fields(self):
        return {"base": self._inverse}

    @classmethod
    def from_fields(cls, base):
        return base.inv()

    def __reduce__(self):
        return _inverse_of, (self._inverse,)

    @property
    def hierarchy(self):
        """The Hierarchy of the features."""
        return self._inverse.hierarchy

    @property
    def ranks(self):
        """Rank of each level, tuple of L int."""
        return self._inverse.ranks

    @cached_property
    def _h(self):
        A = self._inverse
        if not A._F.shape[1]:
            return A._F
        H = kernels.tree.inverse_rows(A._F, A._dinv, A._factor[0], A._layout)
        H.flags.writeable = False
        return H

    @cached_property
    def _loss(self):
        A = self._inverse
        if not A._F.shape[1]:
            return 0.0
        return accuracy.inverse_loss(
            A, A._norms[0], A._norms[2], self._product,
            lambda x: kernels.tree.multiply(A._F, A._d, x, A._layout))

    def _product(self, t):
        """``t / D - H (Hᵀ t)`` in tree order."""
        A = self._inverse
        return kernels.tree.multiply(self._h, A._dinv, t, A._layout, sign=-1.0)

    @cached_property
    def F(self):
        """H: compact factors of what is taken off the diagonal, (n, R), feature order.

        Raises
        ------
        numpy.linalg.LinAlgError
            Products with H would cancel: D is too small beside F.
        """
        if self._loss > accuracy.PROMISED[self.dtype]:
            raise accuracy.refused(self._inverse, "inverse", self._loss)
        H = self.hierarchy._scatter(self._h)
        H.flags.writeable = False
        return H

    @cached_property
    def D(self):
        """The diagonal part, 1/D of the MLR matrix, (n,), feature order; read-only."""
        D = 1 / self._inverse.D
        D.flags.writeable = False
        return D

    def _mul(self, x):
        A = self._inverse
        if A._F.shape[1] == 0 or x.size == 0:
            return (x.T * self.D).T
        if self._loss > accuracy.PROMISED[self.dtype]:
            return A._solve(x)
        return A._apply(self._product, x)

    def _solve(self, b):
        return self._inverse._mul(b)

    def _slogdet(self):
        return 1.0, -self._inverse._slogdet()[1]

    def _inv(self):
        return self._inverse

    def _diagonal(self):
        A = self._inverse
        return self.hierarchy._scatter(accuracy.unexplained(A) / A._d)

    # With A = S Sᵀ: A⁻¹ = WᵀW, so Wᵀ colours the inverse and Sᵀ whitens it.

    def _color(self, z):
        A = self._inverse
        return A._apply(lambda t: kernels.root.whiten_transpose(A._root, A._d, t), z)

    def _whiten(self, x):
        A = self._inverse
        return A._apply(lambda t: kernels.root.color_transpose(A._root, A._d, t), x)

    def __repr__(self):
        return f"<inverse of {self._inverse!r}>"


def _inverse_of(mlr):
    return mlr.inv()
