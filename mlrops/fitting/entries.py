"""Matrices by their entries: a function of two arrays of numbers, or of points and a kernel."""

from functools import partial

import numpy as np

from .._common.labels import match
from .._common.radial import KERNELS, radial
from .._common.validate import as_finite, check_number, working_dtype
from .._common.wording import counted, name_some
from ..tree.reading import read_hierarchy
from .labelled import named_trees, without_names
from .point_partitions import partition_points

__all__ = ["Entries", "KernelEntries"]

# Rows, or columns, of a leaf that halving of points comes down to.
LEAF = 50


class Entries:
    """Blocks of a function `f` of feature numbers, in the order of a pair of trees, checked."""

    def __init__(self, f, rows, cols, what="entries(i, j)"):
        self._f, self._rows, self._cols, self._what = f, rows, cols, what

    def __call__(self, i, j):
        """The block of two arrays of tree positions."""
        return self.of_features(self._rows.permutation[i], self._cols.permutation[j])

    def of_features(self, i, j):
        """The block of two arrays of feature numbers, float32 or float64."""
        block = self._f(i, j)
        if not isinstance(block, np.ndarray):
            if hasattr(block, "toarray") or hasattr(block, "matvec"):
                raise TypeError(f"{self._what} must give a dense array, got"
                                f" {type(block).__name__}")
            block = np.asarray(block)
        block = np.asarray(block, working_dtype(block.dtype, self._what))
        if block.shape != (i.size, j.size):
            raise ValueError(f"{self._what} must give the block of its rows and columns, of shape"
                             f" {(i.size, j.size)}, got shape {block.shape}")
        bad = ~np.isfinite(block)
        if bad.any():
            rows, cols = (name_some(_names(h, at[bad.any(axis=axis)])) for h, at, axis in
                          ((self._rows, i, 1), (self._cols, j, 0)))
            raise ValueError(f"{self._what} must be finite, got NaN or infinity (row {rows};"
                             f" column {cols})")
        return block


def _names(hierarchy, features):
    names = hierarchy.feature_names
    return features if names is None else [names[i] for i in features]


class KernelEntries:
    """The function of indices that a kernel of points is.

    `points` are an array or frame (n, d), or a tuple of those of the rows and of the columns;
    `names` are those of their rows, or None.
    """

    def __init__(self, points, kernel, scale):
        self._kernel = _kernel(kernel, scale)
        pair = points if isinstance(points, tuple) else (points,)
        if len(pair) not in (1, 2):
            raise ValueError("points must be an array of shape (n, d), or a tuple of those of the"
                             f" rows and those of the columns, got {len(pair)}")
        words = ("the points of the rows", "the points of the columns")[: len(pair)]
        words = words if len(pair) == 2 else ("points",)
        values, self.names, axes = (list(x) for x in zip(
            *map(without_names, pair, words), strict=True))
        values = [as_finite(x, what, ndim=2, axis_name="point")
                  for x, what in zip(values, words, strict=True)]
        for x, what in zip(values, words, strict=True):
            if 0 in x.shape:
                raise ValueError(f"{what} must hold at least one point of at least one dimension,"
                                 f" got shape {x.shape}")
        if None not in axes:
            order = match(axes[-1], axes[0], words[-1], "coordinate")
            values[-1] = values[-1] if order is None else values[-1][:, order]
        if len({x.shape[1] for x in values}) > 1:
            raise ValueError("the points of rows and columns must have the same dimension, got"
                             f" {values[0].shape[1]} and {values[1].shape[1]}")
        self.points = values

    def __call__(self, i, j):
        return self._kernel(self.points[0][i], self.points[-1][j])

    def trees(self):
        """Hierarchies of the points, with leaves of about LEAF of the fewer ones."""
        n_levels = 1 + max(0, round(float(np.log2(min(map(len, self.points)) / LEAF))))
        rows, cols = partition_points(*self.points, n_levels=n_levels)
        return named_trees(rows, cols, self.names[0], self.names[-1])

    def read_trees(self, rows, cols):
        """Hierarchies that are given, in the order of the points."""
        sizes = [len(x) for x in self.points]
        rows = read_hierarchy(rows, self.names[0], sizes[0], axis="point", what="rows")
        cols = rows if cols is None else read_hierarchy(
            cols, self.names[-1], sizes[-1], axis="point", what="cols")
        for h, n, what in ((rows, sizes[0], "rows"), (cols, sizes[-1], "cols")):
            if h.n != n:
                raise ValueError(f"{what} must be a tree of the {counted(n, 'point')}, got one of"
                                 f" {counted(h.n, 'feature')}")
        return rows, cols


def _kernel(kernel, scale):
    if isinstance(kernel, str) and kernel in KERNELS:
        scale = 1.0 if scale is None else scale
        check_number(scale, "scale", below=np.inf)
        if scale == 0:
            raise ValueError("scale must be positive, got 0")
        return partial(radial, kernel, scale)
    wanted = f"a function of two arrays of points, or one of {', '.join(map(repr, KERNELS))}"
    if isinstance(kernel, str):
        raise ValueError(f"kernel must be {wanted}; got {kernel!r}")
    if not callable(kernel):
        raise TypeError(f"kernel must be {wanted}; got {kernel!r:.40}")
    if scale is not None:
        raise ValueError("scale is for kernels by name; a function has its own")
    return kernel
