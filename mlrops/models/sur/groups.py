"""Covariances of the equations of `SUR` by name."""

import numpy as np

from ..._wording import name_some
from ...operators._validate import as_finite
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense

__all__ = ["read_covariance"]


def read_covariance(covariance, equations):
    """An operator (K, K) from itself, None, an array, or a DataFrame indexed by equation."""
    if covariance is None or isinstance(covariance, StructuredOperator):
        return covariance
    if hasattr(covariance, "columns") and hasattr(covariance, "index"):
        rows, columns = covariance.index.map(str), covariance.columns.map(str)
        for what, labels in (("row", rows), ("column", columns)):
            if sorted(labels) != sorted(equations):
                lacks = [name for name in equations if name not in labels]
                raise ValueError(f"covariance must have one {what} for each equation, named like"
                                 f" it; {name_some(lacks) or 'several'} differ")
        at = [index.get_indexer(list(equations)) for index in (rows, columns)]
        covariance = covariance.to_numpy()[np.ix_(*at)]
    A = as_finite(covariance, "covariance", ndim=2, axis_name="row")
    K = len(equations)
    if A.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got {A.shape}")
    if np.abs(A - A.T).max() <= 100 * np.finfo(A.dtype).eps * np.abs(A).max():
        A = (A + A.T) / 2
    try:
        return Dense(A, positive_definite=True)
    except np.linalg.LinAlgError:
        raise ValueError("covariance must be positive definite, the array given is not") from None
