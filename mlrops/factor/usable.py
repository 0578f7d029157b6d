"""Which columns of a tree's factors groups can use: no more than they have features."""

from collections.abc import Sequence

import numpy as np

from .._common.typing import BoolArray, FloatArray, IntArray
from ..tree.hierarchy import Hierarchy

__all__ = ["capped_groups", "fold", "tops_of", "usable_columns", "usable_ranks"]


def tops_of(hierarchy: Hierarchy) -> list[IntArray]:
    """Coarsest level at which each group of each level is a group, one array (p_l,) a level."""
    found: list[IntArray] = []
    for level, offsets in enumerate(hierarchy.boundaries):
        top = np.full(offsets.size - 1, level)
        if level:
            parent = _parents(hierarchy, level)
            same = hierarchy.group_sizes(level) == hierarchy.group_sizes(level - 1)[parent]
            top[same] = found[-1][parent[same]]
        found.append(top)
    return found


def _parents(hierarchy: Hierarchy, level: int) -> IntArray:
    """Group of the level above that holds each group of a level."""
    begins, coarser = hierarchy.boundaries[level][:-1], hierarchy.boundaries[level - 1]
    return np.searchsorted(coarser, begins, side="right") - 1


def usable_ranks(hierarchy: Hierarchy, ranks: Sequence[int]) -> list[IntArray]:
    """Number of columns that each group of each level can use, one array (p_l,) a level.

    The covariance of a group of m features holds m columns at most, and of the ranks of groups with
    the same features only the sum matters.  So levels take from m in turn, the coarsest first.
    """
    before = np.cumsum([0, *ranks])  # columns of all coarser levels
    return [np.clip(hierarchy.group_sizes(level) - (before[level] - before[top]), 0, ranks[level])
            for level, top in enumerate(tops_of(hierarchy))]


def usable_columns(hierarchy: Hierarchy, ranks: Sequence[int]) -> BoolArray:
    """Mask (n, R) of the entries of compact factors that can be used, in tree order."""
    columns = [np.arange(r) < np.repeat(usable, hierarchy.group_sizes(level))[:, None]
               for level, (r, usable) in enumerate(
                   zip(ranks, usable_ranks(hierarchy, ranks), strict=True))]
    return np.concatenate(columns, axis=1)


def capped_groups(hierarchy: Hierarchy, ranks: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """(level, group, features) of the groups that can use fewer columns than their level's rank."""
    found: list[tuple[int, int, int]] = []
    for level, (r, usable) in enumerate(zip(ranks, usable_ranks(hierarchy, ranks), strict=True)):
        sizes = hierarchy.group_sizes(level)
        found += [(level, int(g), int(sizes[g])) for g in np.flatnonzero(usable < r)]
    return tuple(found)


def fold(F: FloatArray, hierarchy: Hierarchy, ranks: Sequence[int]) -> None:
    """Move what stands in columns that cannot be used into those that can, in place.

    The columns of a group at all the levels where it stands are rotated to principal axes, of which
    no more than its features are not zero.  So the covariance stays the same.  Groups with nothing
    in other columns stay as they are.
    """
    usable = usable_columns(hierarchy, ranks)
    stray = (F != 0) & ~usable
    if not stray.any():
        return
    ends = np.cumsum([0, *ranks])
    for level, top in enumerate(tops_of(hierarchy)):
        for rows in hierarchy._equal_groups(level):
            tops = top[np.searchsorted(hierarchy.boundaries[level], rows[:, 0])]
            for first in np.unique(tops):
                columns = np.arange(ends[first], ends[level + 1])
                here = rows[tops == first]
                here = here[stray[here[:, :, None], columns].any(axis=(1, 2))]
                if here.size:
                    at = here[:, :, None], columns
                    U, s, _ = np.linalg.svd(F[at], full_matrices=False)
                    free = columns[usable[here[0, 0], columns]]
                    F[at] = 0
                    F[here[:, :, None], free] = (U * s[:, None, :])[:, :, : free.size]
