"""The hierarchy of the equations of `SUR` from labels by name, and covariances by name."""

from collections.abc import Mapping

import numpy as np

from ..._wording import counted, name_some
from ...hierarchy import Hierarchy
from ...operators._validate import as_finite
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense
from ..frames import read_square

__all__ = ["read_covariance", "read_hierarchy", "read_tree"]


def read_tree(hierarchy, data):
    """A `Hierarchy` of the equations of `SURData`, or None; see `SUR.fit`."""
    return read_hierarchy(hierarchy, data.equations or tuple(map(str, range(data.K))))


def read_hierarchy(groups, equations):
    """A `Hierarchy` of equations from itself, None, or labels; see `SUR.fit`."""
    if groups is None or isinstance(groups, Hierarchy):
        return groups
    if isinstance(groups, str):
        raise TypeError(f"hierarchy must be a Hierarchy or labels of the equations, got {groups!r}")
    if isinstance(groups, Mapping):
        levels = _by_equation({str(key): _path(x) for key, x in groups.items()}, equations)
    elif hasattr(groups, "index") and hasattr(groups, "reindex"):
        levels = _from_pandas(groups, equations)
    else:
        levels = list(groups)
        if levels and all(isinstance(x, str) or np.ndim(x) == 0 for x in levels):
            levels = [levels]  # one level
        for i, labels in enumerate(levels):
            if len(labels) != len(equations):
                raise ValueError(f"hierarchy: level {i + 1} has {counted(len(labels), 'label')} for"
                                 f" {counted(len(equations), 'equation')}")
    lacks = [name for name, *labels in zip(equations, *levels, strict=True)
             if any(_is_missing(label) for label in labels)]
    if lacks:
        raise ValueError(f"hierarchy has no label for {counted(len(lacks), 'equation')}"
                         f" ({name_some(lacks)})")
    return Hierarchy.from_labels(*levels)


def _path(label):
    return tuple(label) if isinstance(label, (tuple, list)) else (label,)


def _is_missing(label):
    return label is None or bool(label != label)  # NaN and NaT differ from themselves


def _by_equation(paths, equations):
    """One list of labels a level from a path of labels an equation."""
    lacks = [name for name in equations if name not in paths]
    if lacks:
        raise ValueError(f"hierarchy has no labels for {counted(len(lacks), 'equation')}"
                         f" ({name_some(lacks)})")
    paths = {name: paths[name] for name in equations}
    depth = len(paths[equations[0]])
    uneven = [name for name, path in paths.items() if len(path) != depth]
    if uneven or depth == 0:
        raise ValueError(f"hierarchy must have equally many labels for every equation, at least"
                         f" one: {equations[0]} has {depth}, not so {name_some(uneven)}")
    return [list(labels) for labels in zip(*paths.values(), strict=True)]


def _from_pandas(groups, equations):
    """Columns of a frame, or a series, indexed by equation; categories keep their order."""
    index = groups.index.map(str)
    twice = index[index.duplicated()].unique()
    if len(twice):
        raise ValueError(f"hierarchy has two rows for {name_some(twice)}")
    lacks = [name for name in equations if name not in index]
    if lacks:
        raise ValueError(f"hierarchy has no row for {counted(len(lacks), 'equation')}"
                         f" ({name_some(lacks)}); its index must hold the names of the equations")
    groups = groups.iloc[index.get_indexer(list(equations))]
    return [groups[name] for name in groups] if hasattr(groups, "columns") else [groups]


def read_covariance(covariance, equations, K):
    """An operator (K, K) from itself, None, an array, or a frame by the names of the equations."""
    if covariance is None or isinstance(covariance, StructuredOperator):
        return covariance
    A = as_finite(read_square(covariance, equations, "covariance", "equation"), "covariance",
                  ndim=2, axis_name="row")
    if A.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got {A.shape}")
    if np.abs(A - A.T).max() <= 100 * np.finfo(A.dtype).eps * np.abs(A).max():
        A = (A + A.T) / 2
    try:
        return Dense(A, positive_definite=True)
    except np.linalg.LinAlgError:
        raise ValueError("covariance must be positive definite, the array given is not") from None
