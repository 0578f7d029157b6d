"""`partition_points`: hierarchies from the positions of what stands in the rows and columns."""

import numpy as np

from .._common.labels import match
from .._common.typing import Data
from .._common.validate import as_finite
from ..tree.hierarchy import Hierarchy
from .bisection import Bisection
from .cut_graph import upper_part
from .labelled import named_trees, without_names

__all__ = ["partition_points"]


def partition_points(
    row_points: Data, col_points: Data | None = None, n_levels: int = 2, *,
    balanced: bool = True, min_size: int = 1,
) -> tuple[Hierarchy, Hierarchy]:
    """Find hierarchies of points: groups are cut in two across their longest extent.

    Parameters
    ----------
    row_points : array_like or DataFrame, shape (m, d)
        Where the things in the rows are.  The tree keeps the names of the rows of a DataFrame.
    col_points : array_like or DataFrame, shape (n, d), optional
        Where the things in the columns are, its coordinates by name if both are DataFrames.  By
        default they are those of the rows.
    n_levels : int, optional
        Levels L, the root counted, 2 by default: level l has ``2^l`` groups, unless some were too
        small to be cut.
    balanced : bool, optional
        If True (the default), rows and columns are each cut into halves of equal number, or nearly.
        If False, all points of the group are cut at one place along the axis, where the sum of
        squared deviations from the means of the halves is least.
    min_size : int, optional
        Least number of rows, and of columns, of a half.

    Returns
    -------
    rows, cols : Hierarchy
        Trees of one shape, the same object without `col_points`.  Of two halves the one with the
        lower-numbered first row comes first.

    Raises
    ------
    ValueError
        Points of different dimensions, NaN or infinity, more levels than there are groups to cut.

    See Also
    --------
    partition : from the entries of a matrix.

    Notes
    -----
    The axis is the first principal one of the group's points, rows and columns together.  Balanced
    halves of many points are those of a k-d tree with axes of its own (J. L. Bentley, 1975; R.
    Sproull, 1991).  Nothing here is random, and no matrix of distances is formed.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import partition_points
    >>> rows, cols = partition_points([[0.0, 0], [5, 1], [0, 1], [6, 1]], [[6.0, 2], [1, 1]])
    >>> rows.labels(1), cols.labels(1)
    (array([0, 1, 0, 1]), array([1, 0]))
    """
    options = Bisection(n_levels, min_size, balanced)
    symmetric = col_points is None
    own, row_names, axes = without_names(row_points, "row_points")
    own = other = _as_points(own, "row_points")
    col_names = row_names
    if not symmetric:
        other, col_names, col_axes = without_names(col_points, "col_points")
        other = _as_points(other, "col_points")
        order = None if axes is None or col_axes is None else match(
            col_axes, axes, "col_points", "coordinate")
        other = other if order is None else other[:, order]
    if own.shape[1] != other.shape[1]:
        raise ValueError("row_points and col_points must have the same dimension, got"
                         f" {own.shape[1]} and {other.shape[1]}")

    def split(level, rows, cols, parts):
        x, y = _along_axis(own[rows], other[cols], symmetric)
        if balanced:
            # Of points in one place the later ones come first.
            sides = upper_part(x[::-1])[::-1], upper_part(y[::-1])[::-1]
        else:
            cut = _least_squares_cut(x, y, options.min_size, symmetric)
            if cut is None:
                return None
            sides = x >= cut, y >= cut
        return [(rows[sides[0]], cols[sides[1]]), (rows[~sides[0]], cols[~sides[1]])]

    trees = options.grow(len(own), len(other), split, symmetric)
    return named_trees(*trees, row_names, col_names)


def _as_points(points, what):
    points = as_finite(points, what, dtype=np.float64, ndim=2, axis_name="point")
    if 0 in points.shape:
        raise ValueError(f"{what} must hold at least one point of at least one dimension, got shape"
                         f" {points.shape}")
    return points


def _along_axis(x, y, symmetric):
    """Positions of both sets along the first principal axis of their union."""
    both = x if symmetric else np.concatenate([x, y])
    centre = both.mean(axis=0)
    deviations = both - centre
    # The sign of the axis does not matter: halves are ordered by their first row.
    axis = np.linalg.eigh(deviations.T @ deviations)[1][:, -1]
    return (x - centre) @ axis, (y - centre) @ axis


def _least_squares_cut(x, y, min_size, symmetric):
    """Where to cut a line so that the halves have the least sum of squares within; None if nowhere.

    The sum between, ``n₁ n₂ (mean₁ - mean₂)² / n``, is the larger.
    """
    both = x if symmetric else np.concatenate([x, y])
    order = np.sort(both)
    n = order.size
    below = np.arange(1, n)
    sums = np.cumsum(order)
    between = (sums[-1] * below / n - sums[:-1]) ** 2 / (below * (n - below))
    cuts = order[1:]
    allowed = order[1:] > order[:-1]
    for z in (x, y):
        left = np.searchsorted(np.sort(z), cuts)
        allowed &= (left >= min_size) & (z.size - left >= min_size)
    if not allowed.any():
        return None
    return cuts[np.argmax(np.where(allowed, between, -1))]
