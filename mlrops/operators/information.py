"""The expected information of the factors and variances of an MLR covariance."""

from typing import Any, TypeAlias

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.stored import Check
from .._common.typing import FloatArray
from .._common.validate import as_real
from .base import StructuredOperator
from .factored import Factored

__all__ = ["FactorInformation"]

MLR: TypeAlias = Any  # its file imports this one


def _is_mlr(x: Any) -> bool:
    return isinstance(x, Factored) and hasattr(x, "information")


class FactorInformation(StructuredOperator):
    r"""Fisher's information of F and D for one sample of ``N(μ, Σ)``; made by `MLR.information`.

    With ``dΣ = dF Fᵀ + F dFᵀ + diag(dD)``, F spread out over the tree, and
    ``A = Σ⁻¹ dΣ Σ⁻¹``, the information times ``(dF, dD)`` is ``(A F, ½ diag A)``, A F on the
    positions that F has.  So ``uᵀ I v = ½ tr(Σ⁻¹ dΣ_u Σ⁻¹ dΣ_v)``.  The mean is apart: its
    information is Σ⁻¹, and none is shared with F and D.

    Vectors are ``numpy.append(F, D)``: the rows of F one after the other, in feature order, and D.

    Parameters
    ----------
    covariance : MLR

    Raises
    ------
    TypeError
        `covariance` is not an `MLR`.

    Notes
    -----
    A product takes about ``10 n R²`` flops and the memory of a few arrays of the size of F,
    whatever the number of groups; no n×n and no s×s matrix is formed.  What a point needs is
    computed once.
    Rotations of the factors of a group leave Σ as it is, so the matrix is singular: along them, and
    along columns of zeros, as groups smaller than their rank have.  It is positive semidefinite,
    and `solve` finds the shortest solution where there is one.

    Where D is far below the variances the entries lose as many digits as the ratio has: it serves
    optimizers and standard errors, as an approximation.

    Examples
    --------
    Of one variance D alone the information is ``1 / (2 D²)``.

    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> A = MLR(Hierarchy.flat(2), [np.zeros((2, 1))], D=[1.0, 2.0])
    >>> A.information() @ [0, 0, 1, 1]
    array([0.   , 0.   , 0.5  , 0.125])
    """

    def __init__(self, covariance: MLR) -> None:
        if not _is_mlr(covariance):
            raise TypeError(f"FactorInformation expects an MLR, got {type(covariance).__name__}")
        n, R = covariance.shape[0], sum(covariance.ranks)
        super().__init__(covariance.dtype, (n * (R + 1),) * 2, symmetric=True)
        self._sigma = covariance

    stored_fields = {"covariance": Check("of type MLR", _is_mlr)}

    @property
    def _semidefinite(self) -> bool:
        return True

    @property
    def covariance(self) -> MLR:
        """The covariance Σ."""
        return self._sigma

    def __reduce__(self):
        return FactorInformation, (self._sigma,)

    @cached_property
    def _at(self) -> Any:
        A = self._sigma
        return kernels.information.InformationAt(A._F, A._d, A._factor.K, A._layout)

    def times(self, dF: FloatArray, dD: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The product with a direction that is given, and returned, as two arrays.

        Parameters
        ----------
        dF : array, shape (n, R)
        dD : array, shape (n,)

        Returns
        -------
        tuple of ndarray, shapes (n, R) and (n,)

        Raises
        ------
        ValueError, TypeError
            Other shapes, or entries that are no real numbers.
        """
        A, h = self._sigma, self._sigma.hierarchy
        given = []
        for x, what, shape in ((dF, "dF", A._F.shape), (dD, "dD", A._d.shape)):
            x = as_real(x, what, dtype=A.dtype)
            if x.shape != shape:
                raise ValueError(f"{what} must have shape {shape}, got {x.shape}")
            given.append(np.ascontiguousarray(h._gather(x)))
        dF, dD = given
        if not A._layout.R:
            return h._scatter(dF), h._scatter(dD / (2 * A._d**2))
        F, D = self._at.times(dF, dD)
        return h._scatter(F), h._scatter(D)

    def _diagonal(self):
        A, h = self._sigma, self._sigma.hierarchy
        if not A._layout.R:
            return h._scatter(1 / (2 * A._d**2))
        return np.append(*map(h._scatter, self._at.diagonal()))

    def _mul(self, x):
        n, R = self._sigma._F.shape

        def one(v):  # a product with one direction is work for BLAS by itself
            return np.append(*self.times(v[: n * R].reshape(n, R), v[n * R :]))

        if x.ndim == 1:
            return one(x)
        return np.stack([one(v) for v in x.T], axis=1) if x.shape[1] else np.empty_like(x)
