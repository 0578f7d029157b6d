"""Two hierarchies whose groups are paired: the blocks of each level, batched by shape."""

from typing import NamedTuple

import numpy as np

from ..operators.general.checks import check_pair

__all__ = ["Batch", "GroupPairs", "filled", "holders", "put", "take"]

# Blocks of at least this many entries are worked on where they lie; smaller ones are gathered into
# stacks, since thousands of them would otherwise cost one call each.
IN_PLACE = 2**14


class Batch(NamedTuple):
    """Blocks of one level that are worked on together.

    `rows` and `cols` are slices for a single block, else (g, M) and (g, N) tree positions in which
    a group shorter than its batch is filled up with the position behind the last one.  Arrays that
    are taken by them have one row more, which is zero.
    """

    groups: np.ndarray
    rows: slice | np.ndarray
    cols: slice | np.ndarray


def take(x, index):
    """Rows of `x` (n + 1, k) for one side of a batch, (g, M, k); a view for a single block."""
    return x[index][None] if isinstance(index, slice) else x[index]


def put(x, index, values):
    """Write what `take` would read; the row behind the last one stays zero."""
    if isinstance(index, slice):
        x[index] = values[0]
    else:
        x[index] = values
        x[-1] = 0


def holders(tree, level, above):
    """The group of the level `above` that each group of a level lies in."""
    return np.searchsorted(tree.boundaries[above], tree.boundaries[level][:-1], side="right") - 1


class GroupPairs:
    """Group g of each level of `rows` paired with group g of that level of `cols`, tree order."""

    def __init__(self, rows, cols):
        check_pair(rows, cols)
        self.rows, self.cols = rows, cols
        self.batches = [
            _batches(r, c) for r, c in zip(rows.boundaries, cols.boundaries, strict=True)]
        self.shape, self.n_levels = (rows.n, cols.n), rows.n_levels

    def share(self, level):
        """What part of all entries lies in the blocks of a level."""
        sizes = (h.group_sizes(level).astype(float) for h in (self.rows, self.cols))
        return float(np.dot(*sizes)) / (self.shape[0] * self.shape[1])

    def capped(self, ranks):
        """(level, group, smaller side) of the blocks that cannot have their level's rank."""
        found = []
        for level, r in enumerate(ranks):
            side = np.minimum(self.rows.group_sizes(level), self.cols.group_sizes(level))
            found += [(level, int(g), int(side[g])) for g in np.flatnonzero(side < r)]
        return tuple(found)


def _size_class(sizes):
    """Sizes rounded up to one of eight values an octave: less than an eighth is filling."""
    step = 2 ** np.maximum(np.floor(np.log2(sizes)).astype(int) - 3, 0)
    return -(-sizes // step) * step


def _batches(row_offsets, col_offsets):
    m, n = np.diff(row_offsets), np.diff(col_offsets)
    big = np.flatnonzero(m * n >= IN_PLACE)
    out = [Batch(np.array([g]), slice(row_offsets[g], row_offsets[g + 1]),
                 slice(col_offsets[g], col_offsets[g + 1])) for g in big]
    small = np.flatnonzero(m * n < IN_PLACE)
    classes = np.stack([_size_class(m[small]), _size_class(n[small])])
    _, inverse = np.unique(classes, axis=1, return_inverse=True)
    inverse = inverse.ravel()
    order = np.argsort(inverse, kind="stable")
    cuts = np.flatnonzero(np.diff(inverse[order])) + 1
    for groups in np.split(small[order], cuts) if small.size else ():
        out.append(Batch(groups, filled(row_offsets, groups), filled(col_offsets, groups)))
    return out


def filled(offsets, groups):
    """(g, M) positions of some groups, those beyond a group's end set to offsets[-1]."""
    start, size = offsets[groups, None], np.diff(offsets)[groups, None]
    within = np.arange(size.max())
    return np.where(within < size, start + within, offsets[-1])
