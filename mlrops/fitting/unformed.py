"""Matrices that nobody forms as what a fit is to come near to: functions of indices, and points."""

from typing import Any

import numpy as np

from .._common.validate import check_rank
from ..tree.reading import read_hierarchy
from .entries import Entries, KernelEntries
from .pairs import GroupPairs
from .sampled import SampledBlocks, largest_siblings
from .target import ROUNDING, Target

__all__ = ["FunctionTarget", "target_of"]

# Columns, and rows, of each sibling block that are looked at.
SAMPLES = 192
# Whole rows of the matrix from which the error is estimated at the end.
HELD_OUT = 512
# Entries of them that are computed at a time.
ENTRIES = 2**22
# Rows, and columns, of the sample on which a function is tested for symmetry.
TESTED = 64


def target_of(A: Any, rows: Any, cols: Any, symmetric: bool | None, psd: bool, *,
              entries: Any = None, points: Any = None, kernel: Any = None,
              scale: float | None = None, samples: int | None = None) -> Any:
    """The `Target` or `FunctionTarget` of what a fit is given."""
    given = [name for name, x in (("A", A), ("entries", entries), ("points", points))
             if x is not None]
    if not given:
        raise TypeError("A must be numeric, a matrix, unless entries= or points= are given; got"
                        " None")
    if len(given) > 1:
        raise ValueError(f"give one of A, entries= and points=, got {' and '.join(given)}")
    if points is None and (kernel is not None or scale is not None):
        raise ValueError("kernel= and scale= are for points=, which are missing")
    if points is not None and kernel is None:
        raise ValueError("points= need kernel=, the name of one or a function of two arrays of"
                         " points")
    if rows is None and points is None:
        raise TypeError("rows must be a Hierarchy, got NoneType; give one, or labels: only points="
                        " have a tree of their own")
    if A is not None:
        if samples is not None:
            raise ValueError("samples= is for entries= and points=: of A all entries are read")
        return Target(A, rows, cols, symmetric, psd)
    if psd:
        raise ValueError("psd=True needs a matrix A, since it works on what is left of all of it;"
                         " a function is fitted by symmetric=True")
    samples = SAMPLES if samples is None else check_rank(samples, "samples")
    if samples == 0:
        raise ValueError("samples must be at least 1, got 0")
    if points is None:
        if not callable(entries):
            raise TypeError("entries must be a function f(i, j) of two arrays of numbers of rows"
                            f" and columns, got {type(entries).__name__}")
        rows = read_hierarchy(rows, None, what="rows")
        cols = rows if cols is None else read_hierarchy(cols, None, what="cols")
    else:
        entries = f = KernelEntries(points, kernel, scale)
        if rows is None:
            if cols is not None:
                raise ValueError("cols without rows: give both trees of the points, or none")
            rows, cols = f.trees()
        else:
            rows, cols = f.read_trees(rows, cols)
    return FunctionTarget(entries, GroupPairs(rows, cols), symmetric, samples).or_whole()


class FunctionTarget:
    """A function of indices, on its pair of trees; as `Target`, without a matrix."""

    kind, psd, dtype = "function", False, np.dtype(float)

    def __init__(self, f, pairs, symmetric, samples):
        self.pairs, self._samples = pairs, samples
        self._of_points = isinstance(f, KernelEntries)
        self.entries = Entries(f, pairs.rows, pairs.cols,
                               "kernel(x, y)" if self._of_points else "entries(i, j)")
        self._wanted = symmetric
        self.symmetric = self._symmetry(symmetric)

    def or_whole(self):
        """This, or the `Target` of the whole matrix where every entry would be read anyway."""
        if max(map(largest_siblings, (self.pairs.rows, self.pairs.cols))) > self._samples:
            return self
        m, n = self.pairs.shape
        A = self.entries.of_features(np.arange(m), np.arange(n))
        same = self.pairs.rows is self.pairs.cols
        if self.symmetric:
            A = (A + A.T) / 2  # which differ by rounding
        return Target(A, self.pairs.rows, None if same else self.pairs.cols,
                      self.symmetric or self._wanted, False)

    check_scale = Target.check_scale

    def _symmetry(self, wanted):
        """Whether to fit a symmetric matrix; without a word, only a kernel of points is tested."""
        same = self.pairs.rows == self.pairs.cols
        if wanted and not same:
            raise ValueError("a symmetric fit needs the same hierarchy of rows and columns;"
                             " leave cols out")
        if not (wanted or wanted is None and self._of_points and same):
            return False
        rng, n = np.random.default_rng(0), self.pairs.shape[0]
        i, j = (np.sort(rng.choice(n, min(TESTED, n), replace=False)) for _ in range(2))
        a, b = self.entries.of_features(i, j), self.entries.of_features(j, i).T
        gap = np.abs(a - b)
        at = np.unravel_index(gap.argmax(), gap.shape)
        alike = gap[at] <= ROUNDING * np.finfo(a.dtype).eps * np.abs(a).max()
        if wanted and not alike:
            raise ValueError(f"symmetric=True needs a symmetric function: entries ({i[at[0]]},"
                             f" {j[at[1]]}) and ({j[at[1]]}, {i[at[0]]}) differ by {gap[at]:.3g}"
                             f" (largest entry of the sample: {np.abs(a).max():.3g})")
        return bool(alike)

    def blocks(self, rng, total):
        """The function as sibling blocks."""
        return SampledBlocks(self.entries, self.pairs, self.symmetric, self._samples, rng)

    def held_out(self, operator, blocks, rng):
        """Relative error of an operator, from whole rows, and its standard error.

        One row of each of equal strata in tree order is drawn.  What they hold counts as often as
        in the matrix, whether a fit has looked at some of it or not, so that the squared norms of
        rows are unbiased.
        """
        tree, (m, n) = self.pairs.rows, self.pairs.shape
        count = min(HELD_OUT, m)
        edges = np.arange(count + 1) * m // count
        at = edges[:-1] + (rng.random(count) * np.diff(edges)).astype(int)
        features, squares = tree.permutation[at], []
        step = max(ENTRIES // n, 1)
        for start in range(0, count, step):
            i = features[start : start + step]
            A = self.entries.of_features(i, np.arange(n)).astype(float)
            unit = np.zeros((m, i.size))
            unit[i, np.arange(i.size)] = 1
            gap = A - operator.rmatmat(unit).T
            squares.append([np.einsum("ij,ij->i", x, x) for x in (gap, A)])
        error, norm = np.concatenate(squares, axis=1) * np.diff(edges)
        return _ratio(error, norm, 1 - count / m)


def _ratio(error, norm, unseen):
    """Root of a ratio of sums of squares, and its standard error, for a share `unseen` of rows."""
    ratio = error.sum() / norm.sum()
    spread = error - ratio * norm
    count = max(error.size, 2)
    se = np.sqrt(unseen * count / (count - 1) * np.square(spread).sum()) / norm.sum()
    root = np.sqrt(ratio)
    return float(root), float(se / (2 * root)) if root > 0 else 0.0
