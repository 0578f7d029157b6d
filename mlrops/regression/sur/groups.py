"""Hierarchies and covariances of the equations of `SUR`, by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._common.validate import as_finite
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense
from ...operators.named import read_square
from ...tree.hierarchy import Hierarchy
from ...tree.reading import read_hierarchy
from .data import SURData

__all__ = ["read_covariance", "read_tree"]


def read_tree(hierarchy: Any, data: SURData) -> Hierarchy | None:
    """A `Hierarchy` of the equations of `SURData`, or None; see `SUR.fit`."""
    return read_hierarchy(hierarchy, data.equations, data.K, axis="equation")


def read_covariance(covariance: Any, equations: Sequence[str] | None, K: int) -> Any:
    """An operator (K, K) from itself, None, an array, or a frame by the names of the equations."""
    covariance = read_square(covariance, equations, "covariance", "equation")
    if covariance is None or isinstance(covariance, StructuredOperator):
        return covariance
    A = as_finite(covariance, "covariance", ndim=2, axis_name="row")
    if A.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got {A.shape}")
    if np.abs(A - A.T).max() <= 100 * np.finfo(A.dtype).eps * np.abs(A).max():
        A = (A + A.T) / 2
    try:
        return Dense(A, positive_definite=True)
    except np.linalg.LinAlgError:
        raise ValueError("covariance must be positive definite, the array given is not") from None
