"""Where chunks of features cut a tree: the level whose groups stay whole, and the parts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._common.typing import IntArray
from .._common.wording import counted, name_some
from ..tree.hierarchy import Hierarchy
from .parts import Part

__all__ = ["Cut", "cut_at"]


class Cut(NamedTuple):
    """A tree with ranks, cut into runs of features in tree order, each whole groups of one level.

    Where a run would cut groups of the finest level, that has become one level more, of the pieces
    and of rank zero.
    """

    hierarchy: Hierarchy  # with that level, if there is one
    ranks: tuple[int, ...]
    level: int
    ends: IntArray  # (k + 1,) places in tree order where the parts begin, and their number

    @property
    def layout(self) -> Any:
        """The layout of the tree, cut below `level`."""
        return self.hierarchy._layout(self.ranks).at(self.level)

    def parts(self) -> list[Part]:
        """The parts, without numbers for F and D."""
        layout, h, nothing = self.layout, self.hierarchy, np.empty((1, 0))
        groups = np.searchsorted(h.boundaries[self.level], self.ends).tolist()
        return [Part(self.level, range(a, b), h.permutation[lo:hi], layout.path[layout.top_leaf[a]],
                     nothing, nothing[0], layout.part(a, b))
                for (a, b), (lo, hi) in zip(pairwise(groups), pairwise(self.ends.tolist()),
                                            strict=True)]

    def parents(self) -> list[tuple[int, int]]:
        """The first and behind the last parent of each part, in the levels above."""
        parent = self.layout.parent
        groups = np.searchsorted(self.hierarchy.boundaries[self.level], self.ends).tolist()
        return [(int(parent[a]), int(parent[b - 1]) + 1) for a, b in pairwise(groups)]

    def trees(self) -> list[Hierarchy]:
        """The tree of each part by itself, its features numbered from zero.

        Groups that reach beyond a part are what it has of them.
        """
        h, found = self.hierarchy, []
        for lo, hi in pairwise(self.ends.tolist()):
            levels = [np.unique(np.clip(offsets, lo, hi)) - lo for offsets in h.boundaries]
            found.append(Hierarchy._make(h.permutation[lo:hi] - lo, levels))
        return found


def cut_at(hierarchy: Hierarchy, ranks: Sequence[int], widths: Sequence[int]) -> Cut:
    """Cut a tree into the runs of features that chunks of columns are.

    Parameters
    ----------
    hierarchy : Hierarchy
    ranks : sequence of int
        One a level.
    widths : sequence of int
        Features of each chunk, in feature order.

    Returns
    -------
    Cut
        Below the coarsest level all of whose groups the chunks leave whole.

    Raises
    ------
    ValueError
        Features of one chunk stand in tree order among those of another.
    """
    ends = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    chunk = np.repeat(np.arange(len(widths)), widths)
    stray = np.flatnonzero(chunk[hierarchy.permutation] != chunk)
    if stray.size:
        names = hierarchy.feature_names
        features = np.sort(hierarchy.permutation[stray])
        raise ValueError(
            f"chunks of columns must be runs of features in the order of the hierarchy, but"
            f" {counted(stray.size, 'feature')}"
            f" ({name_some(features if names is None else [names[i] for i in features])})"
            f" stand in other chunks than there, first in chunk {chunk[features[0]]}: put the"
            " columns in that order, Y = Y[:, hierarchy.permutation], with a hierarchy for it,"
            " Hierarchy.from_boundaries(hierarchy.boundaries), and rechunk Y by its groups")
    for level, offsets in enumerate(hierarchy.boundaries):
        if np.isin(ends, offsets).all():
            return Cut(hierarchy, tuple(ranks), level, ends)
    levels, names = hierarchy.boundaries, hierarchy._names
    pieces = Hierarchy._make(hierarchy.permutation, [*levels, np.union1d(levels[-1], ends)],
                             (*names, None), hierarchy.feature_names)
    return Cut(pieces, (*ranks, 0), len(levels), ends)
