"""`partition_points`: hierarchies from the positions of what stands in the rows and columns."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .._common.labels import match
from .._common.typing import Data
from .._common.validate import as_finite
from ..tree.hierarchy import Hierarchy
from .bisection import Bisection
from .labelled import named_trees, without_names

__all__ = ["partition_points"]


def partition_points(
    row_points: Data, col_points: Data | None = None, n_levels: int | Literal["auto"] = 2, *,
    balanced: bool = True, min_size: int = 1, n_parts: int | Sequence[int] = 2,
) -> tuple[Hierarchy, Hierarchy]:
    """Find hierarchies of points: groups are cut across their longest extent.

    Parameters
    ----------
    row_points : array_like or DataFrame, shape (m, d)
        Where the things in the rows are.  The tree keeps the names of the rows of a DataFrame.
    col_points : array_like or DataFrame, shape (n, d), optional
        Where the things in the columns are, its coordinates by name if both are DataFrames.  By
        default they are those of the rows.
    n_levels : int or "auto", optional
        Levels L, the root counted, 2 by default: level l has ``2^l`` groups, unless some were too
        small to be cut.  "auto" goes on while more than half of the rows, and of the columns, are
        in groups that can be cut, as in `partition`.
    balanced : bool, optional
        If True (the default), rows and columns are each cut into halves of equal number, or nearly.
        If False, all points of the group are cut at one place along the axis, where the sum of
        squared deviations from the means of the halves is least.
    min_size : int, optional
        Least number of rows, and of columns, of a half.
    n_parts : int or sequence of L - 1 int, optional
        Parts k that a group is cut into, 2 by default, or one number for each level but the last.
        More than two parts need `balanced`: a group is cut in two, with room for ``⌈k/2⌉`` and
        ``⌊k/2⌋`` parts, and so on.

    Returns
    -------
    rows, cols : Hierarchy
        Trees of one shape, the same object without `col_points`.  Of two halves the one with the
        lower-numbered first row comes first.

    Raises
    ------
    ValueError
        Points of different dimensions, NaN or infinity; more levels, or parts of a group, than
        there are rows and columns for; more than two parts without balance.

    See Also
    --------
    partition : from the entries of a matrix.

    Notes
    -----
    The axis is the first principal one of the group's points, rows and columns together.  Balanced
    halves of many points are those of a k-d tree with axes of its own (J. L. Bentley, 1975; R.
    Sproull, 1991).  Nothing here is random, and no matrix of distances is formed.  A level takes
    time and memory in proportion to the numbers in the points (with a sort if not `balanced`).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import partition_points
    >>> rows, cols = partition_points([[0.0, 0], [5, 1], [0, 1], [6, 1]], [[6.0, 2], [1, 1]])
    >>> rows.labels(1), cols.labels(1)
    (array([0, 1, 0, 1]), array([1, 0]))
    """
    options = Bisection(n_levels, min_size, balanced, n_parts=n_parts)
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

    def cut(level, sides, parts, wanted):
        choose = _upper_parts if balanced else _least_squares_cuts
        return choose(_along_axes(sides, (own, other)), sides, parts, options.min_size)

    trees = options.grow(len(own), len(other), cut, symmetric)
    return named_trees(*trees, row_names, col_names)


def _as_points(points, what):
    points = as_finite(points, what, dtype=np.float64, ndim=2, axis_name="point")
    if 0 in points.shape:
        raise ValueError(f"{what} must hold at least one point of at least one dimension, got shape"
                         f" {points.shape}")
    return points


def _along_axes(sides, points):
    """Positions of each side along the first principal axis of all, group by group."""
    sets = [np.take(x, side.order, axis=0) for x, side in zip(points, sides, strict=False)]

    def sums(values):
        return sum(np.add.reduceat(x, side.offsets[:-1])
                   for x, side in zip(values, sides, strict=True))

    centres = sums(sets) / sum(side.sizes for side in sides)[:, None]
    for x, side in zip(sets, sides, strict=True):
        x -= np.take(centres, side.group, axis=0)
    d = centres.shape[1]
    moments = np.zeros((len(centres), d, d))
    for i in range(d):  # what is below the diagonal is enough
        moments[:, i:, i] = sums([x[:, i:] * x[:, i, None] for x in sets])
    # The sign of an axis does not matter: halves are ordered by their first row.
    axes = np.linalg.eigh(moments)[1][:, :, -1]
    return [np.einsum("id,id->i", x, np.take(axes, side.group, axis=0))
            for x, side in zip(sets, sides, strict=True)]


def _upper_parts(along, sides, parts, min_size):
    """The upper parts of given sizes; of points in one place the later ones come first."""
    uppers = []
    for x, side in zip(along, sides, strict=True):
        count = -(-side.sizes * parts[:, 0] // parts.sum(axis=1))
        # A group a row, filled up with infinity: the sizes of a level are nearly the same.
        table = np.full((side.sizes.size, side.sizes.max()), np.inf)
        table[side.group, np.arange(x.size) - side.offsets[side.group]] = x
        rank = side.sizes - count
        table.partition(np.unique(rank), axis=1)
        least = table[np.arange(rank.size), rank][side.group]
        upper = x > least
        missing = count - np.add.reduceat(upper, side.offsets[:-1], dtype=np.intp)
        equal = np.flatnonzero(x == least)[::-1]
        # How many of these come later in the group: they are in runs.
        group = side.group[equal]
        later = np.arange(equal.size) - np.searchsorted(-group, -group)
        upper[equal[later < missing[group]]] = True
        uppers.append(upper)
    return uppers, np.ones(len(parts), bool)


def _least_squares_cuts(along, sides, parts, min_size):
    """The upper parts at the cuts with the least sum of squares within, and where there are any.

    The sum between, ``n₁ n₂ (mean₁ - mean₂)² / n``, is the larger.
    """
    both, group = np.concatenate(along), np.concatenate([side.group for side in sides])
    order = np.lexsort((both, group))
    line, group = both[order], group[order]
    starts, size = sum(side.offsets[:-1] for side in sides), sum(side.sizes for side in sides)

    def before(values):
        """Sums of what comes before each point in its group."""
        sums = np.cumsum(values) - values
        return sums - sums[starts][group]

    total = np.add.reduceat(line, starts)[group]
    size, below = size[group], before(np.ones(line.size, np.intp))
    allowed = (below > 0) & (line > np.roll(line, 1))
    first = 0
    for side in sides:
        left = before(((order >= first) & (order < first + side.order.size)).astype(np.intp))
        allowed &= (left >= min_size) & (side.sizes[group] - left >= min_size)
        first += side.order.size
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * below / size - before(line)) ** 2 / (below * (size - below))
    between = np.where(allowed, between, -1)
    best = np.flatnonzero(allowed & (between == np.maximum.reduceat(between, starts)[group]))[::-1]
    cuts = np.full(starts.size, np.inf)
    cuts[group[best]] = line[best]  # of equal ones the first, which is written last
    return [x >= cuts[side.group] for x, side in zip(along, sides, strict=True)], np.isfinite(cuts)
