"""The hierarchy that a function is given, beside data whose features may have names."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from .._common.labels import check_no_gaps, labels_of, match
from .._common.wording import counted, name_some
from .hierarchy import Hierarchy
from .labels import read_levels

__all__ = ["read_hierarchy", "tree_of"]


def read_hierarchy(given: Any, names: Sequence[str] | None, n: int | None = None, *,
                   axis: str = "feature", what: str = "hierarchy") -> Hierarchy | None:
    """A `Hierarchy` of the features of some data, in their order, from what users hold.

    None stays None.  A Hierarchy that has names of features is put in the order of the data, and
    must have their `names`; without names it is taken by position.  Labels may be a dict from names
    of features to labels, or to tuples of one label a level; a Series; a DataFrame with one column
    a level; one array or list of labels; or a list of these, coarse to fine.  A table of labels may
    speak of features that the data do not have.  Where the features have no names, `n` is their
    number, and the tree keeps its own names.  Errors call it `what`, and a feature `axis`.
    """
    if given is None:
        return None
    if isinstance(given, Hierarchy):
        given = _in_order(given, names, axis, what)
        # The caller refuses another number of names.
        return given if names is None or len(names) != given.n else given._renamed(tuple(names))
    if isinstance(given, (str, bytes, Set)) or not (
            isinstance(given, Mapping) or hasattr(given, "__iter__")) or hasattr(given, "matvec"):
        raise TypeError(f"{what} must be a Hierarchy or labels of the {axis}s, got {given!r:.60}")
    names = None if names is None else tuple(names)
    levels, _ = read_levels(_one_a_level(given), what, axis, names, numbered=names is None)
    n = len(names) if names is not None else n
    for i, labels in enumerate(levels):
        if n is not None and np.ndim(labels) == 1 and len(labels) != n:
            raise ValueError(f"{what}: level {i + 1} has {counted(len(labels), 'label')} for"
                             f" {counted(n, axis)}")
    if names is not None and all(len(labels) == n for labels in levels):
        check_no_gaps(levels, names, what, axis)
    # Labels are in the order of the data: their index has done its work.
    read = Hierarchy.from_labels(*(
        x.reset_index(drop=True) if hasattr(x, "reset_index") else x for x in levels))
    return read if names is None or len(names) != read.n else read._renamed(names)


def tree_of(given: Any, names: Sequence[str] | None, n: Any) -> Any:
    """The hierarchy of n features with these names; without one, all are one group."""
    return (Hierarchy.flat(n or 0)._renamed(names) if given is None else
            read_hierarchy(given, names, n))


def _in_order(hierarchy, names, axis, what):
    """A hierarchy for the order of the features in the data."""
    own = hierarchy.feature_names
    if own is None or names is None:
        return hierarchy
    if not set(own) <= set(names) and set(names) <= set(own):
        foreign = [name for name in own if name not in set(names)]
        raise ValueError(f"{what} is of {counted(len(foreign), axis)} that the data lack"
                         f" ({name_some(foreign)}): give its labels as a dict, Series or DataFrame,"
                         f" which may speak of more {axis}s, or leave these out")
    order = match(own, names, what, axis)
    return hierarchy if order is None else hierarchy._reordered(order)


def _one_a_level(given):
    if isinstance(given, Mapping) or labels_of(given) is not None or hasattr(given, "columns"):
        return [given]
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return [given] if np.ndim(given) == 1 else list(given)
    given = list(given)
    if given and all(isinstance(x, str) or np.ndim(x) == 0 and not isinstance(x, Mapping)
                     for x in given):
        return [given]
    return given
