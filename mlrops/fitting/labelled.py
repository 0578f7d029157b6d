"""Matrices with names of rows and columns, and the trees that are given beside them."""

import numpy as np

from .._common.frames import frame_values, is_frame
from .._common.labelled import data_names
from .._common.labels import labels_of, match, names_of_features
from ..tree.reading import read_hierarchy

__all__ = ["named_trees", "read_trees", "without_names"]


def without_names(A, what="A", square=False):
    """Numbers of a frame, and the names of its rows and of its columns (tuples of str or None).

    With `square`, the rows of a frame that has the same names on both sides, in different orders,
    are put in the order of its columns, and one that shares some of them only is refused.  What is
    no frame is returned as it is.
    """
    if not is_frame(A):
        return A, None, None
    rows, cols = names_of_features(labels_of(A)), data_names(A)
    A = frame_values(A, what)
    square = square and rows is not None and cols is not None and len(rows) == len(cols)
    if square and rows != cols and not set(rows).isdisjoint(cols):
        A = A[match(rows, cols, f"the rows of {what}", "column")]
        rows = cols
    return A, rows, cols


def read_trees(A, rows, cols):
    """A matrix without names, and the hierarchies of its rows and columns (or None) in its order.

    Without `cols`, one tree is for both sides, and must fit the names of both.
    """
    A, left, right = without_names(A, square=cols is None)
    shape = getattr(A, "shape", None) or np.shape(A)
    if cols is not None:
        cols = read_hierarchy(cols, right, _length(shape, 1), axis="column", what="cols")
    elif left is not None and right is not None and left != right:
        read_hierarchy(rows, right, axis="column", what="rows, the tree of the columns, too,")
    elif left is None:
        left = right
    return A, read_hierarchy(rows, left, _length(shape, 0), axis="row", what="rows"), cols


def _length(shape, axis):
    return shape[axis] if len(shape) == 2 else None


def named_trees(rows, cols, row_names, col_names):
    """Hierarchies that were found, with the names of rows and columns; one object if they agree."""
    named = rows._renamed(row_names)
    return (named, named) if rows is cols and row_names == col_names else (
        named, cols._renamed(col_names))
