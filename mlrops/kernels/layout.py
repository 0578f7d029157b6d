"""Where things lie: the integer arrays that every kernel shares, and blocks of leaves."""

from collections.abc import Iterator, Sequence

import numpy as np

from .._common.cached import cached_property
from .._common.typing import IntArray

__all__ = ["Layout", "blocks", "group_of", "make_layout"]

# Long leaves are cut into pieces of so many rows at most, which threads share.  Fixed: the order of
# summation must not depend on the machine.
PIECE_ROWS = 4096
# Numbers in the largest temporary of a block of leaves: where the loops are compiled it should stay
# in cache between two sweeps over it, where BLAS does the work it should only stay small (32 MB).
CACHE_ITEMS = 65_536
BLOCK_ITEMS = 4_000_000
# A level at which sweeps are shared out to threads has so many groups, none with more than this
# share of the rows; a tree of fewer numbers than SHARED_ITEMS in F is swept by one thread.
SHARES = 16
LARGEST_SHARE = 1 / 8
SHARED_ITEMS = 150_000
# Leaves of more rows are long, in a tree that has no such level though it is large enough.
LONG_ROWS = 500


class Layout:
    """Integer arrays of a tree with ranks; see the package docstring for the names.

    Sweeps are cut below the level `top`: its groups can be swept apart from one another, their
    parents are the leaves of the tree `above`.  With `top` 0 there is nothing above.
    """

    def __init__(self, path: IntArray, cols: IntArray, zoff: IntArray, leaf_off: IntArray, top: int
                 ) -> None:
        self.path = path  # (n_leaves, L) group of each level on the way to a leaf
        self.cols = cols  # (L + 1,) first column of each level
        self.zoff = zoff  # (L + 1,) first row of each level in node arrays; zoff[L] = s
        self.leaf_off = leaf_off  # (n_leaves + 1,)
        self.top = top
        self.n = int(leaf_off[-1])
        self.n_leaves, self.L = path.shape
        self.R, self.s = int(cols[-1]), int(zoff[-1])
        self.tree = path, cols, zoff  # what a sweep asks of a tree
        few = top == 0 and self.n * self.R >= SHARED_ITEMS
        self.long_rows = LONG_ROWS if few else 2 * PIECE_ROWS  # a longer leaf is cut into pieces

    @cached_property
    def begins(self) -> IntArray:
        """The coarsest level of which a group begins at a leaf, (n_leaves + 1,); 0 at both ends."""
        return _begins(self.path)

    @cached_property
    def top_leaf(self) -> IntArray:
        """The leaf at which each group of level `top` begins, and the number of leaves."""
        return self.first_leaves[self.top]

    @cached_property
    def in_one_piece(self) -> bool:
        """Whether one thread sweeps one column through the whole tree."""
        return self.top == 0 and self.n * self.R < SHARED_ITEMS and not self.long.size

    @cached_property
    def n_groups(self) -> int:
        """Number of groups at level `top`."""
        return self.top_leaf.size - 1

    @cached_property
    def parent(self) -> IntArray:
        """The parent of each group of level `top`, (n_groups,)."""
        if self.top == 0:
            return np.zeros(self.n_groups, np.int64)
        return np.ascontiguousarray(self.path[self.top_leaf[:-1], self.top - 1])

    @cached_property
    def place(self) -> IntArray:
        """(n_groups, 3): parent, number among the parent's groups, and 1, of groups of `top`."""
        first = np.searchsorted(self.parent, self.parent)
        groups = np.arange(self.n_groups)
        return np.column_stack([self.parent, groups - first, np.ones_like(groups)])

    @cached_property
    def above(self) -> tuple[IntArray, IntArray, IntArray]:
        """`tree` of the levels above `top`, with the parents of its groups for leaves."""
        first = np.searchsorted(self.parent, np.arange(self.parent[-1] + 1))
        path = np.ascontiguousarray(self.path[self.top_leaf[:-1][first], : self.top])
        return path, self.cols[: self.top + 1].copy(), self.zoff[: self.top + 1].copy()

    @cached_property
    def begins_above(self) -> IntArray:
        """`begins` of the tree `above`."""
        return _begins(self.above[0])

    @cached_property
    def sizes(self) -> IntArray:
        """Rows of each leaf, (n_leaves,)."""
        return np.diff(self.leaf_off)

    @cached_property
    def largest(self) -> int:
        """Rows of the largest leaf."""
        return int(self.sizes.max())

    @cached_property
    def long(self) -> IntArray:
        """Numbers of the leaves that are cut into pieces."""
        return np.flatnonzero(self.sizes > self.long_rows)

    @cached_property
    def shares(self) -> IntArray:
        """Rows before each group of level `top`, (n_groups + 1,), those of long leaves left out."""
        rows = self.sizes.copy()
        rows[self.long] = 0
        return np.concatenate([[0], np.cumsum(rows)])[self.top_leaf]

    @cached_property
    def pieces(self) -> tuple[IntArray, IntArray, IntArray]:
        """(first rows, rows behind, number of its leaf within `long`) of the pieces of long leaves.

        Piece j of a leaf of m rows in p pieces starts at row j m // p: nearly equal, deterministic.
        """
        sizes = self.sizes[self.long]
        count = -(-sizes // PIECE_ROWS)
        owner = np.repeat(np.arange(sizes.size), count)
        within = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
        start, m, p = self.leaf_off[self.long][owner], sizes[owner], count[owner]
        return start + within * m // p, start + (within + 1) * m // p, owner

    @cached_property
    def first_leaves(self) -> list[IntArray]:
        """Of each level the leaf at which each group begins, and the number of leaves."""
        return [np.searchsorted(groups, np.arange(groups[-1] + 2)) for groups in self.path.T]

    def node_rows(self, level: int) -> slice:
        """The node rows of a level."""
        return slice(int(self.zoff[level]), int(self.zoff[level + 1]))

    def columns(self, level: int) -> slice:
        """The columns of a level in F, and in leaf products."""
        return slice(int(self.cols[level]), int(self.cols[level + 1]))

    def path_rows(self, leaves: IntArray) -> IntArray:
        """The node rows along the paths of leaves, (leaves, R)."""
        own, level = np.arange(self.R), np.repeat(np.arange(self.L), np.diff(self.cols))
        within, ranks = own - self.cols[level], np.diff(self.cols)[level]
        return self.zoff[level] + self.path[leaves][:, level] * ranks + within

    def at(self, level: int) -> "Layout":
        """The same tree, cut below another level."""
        return Layout(self.path, self.cols, self.zoff, self.leaf_off, level)

    def part(self, lo: int, hi: int) -> "Layout":
        """The groups lo:hi of level `top` as a tree of their own, which nothing is above.

        Their places are those in the whole tree; `parent` counts from the parent of the first one.
        """
        first, last, top = int(self.top_leaf[lo]), int(self.top_leaf[hi]), self.top
        path = self.path[first:last] - self.path[first]
        # Levels above change with the parent, which is all that sweeps ask of them.
        path[:, :top] = path[:, top - 1 : top]
        widths = np.diff(self.cols)
        widths[:top] = 0
        zoff = np.concatenate([[0], np.cumsum(widths * (path[-1] + 1))])
        off = self.leaf_off[first : last + 1] - self.leaf_off[first]
        part = Layout(path, self.cols, zoff, off, top)
        vars(part).update(parent=self.parent[lo:hi] - self.parent[lo], place=self.place[lo:hi])
        return part

    def crown(self) -> "Layout":
        """The levels above `top` as a tree for `root`: each parent has one group, without rows."""
        path, cols, zoff = self.above
        groups = np.arange(len(path))
        return Layout(np.column_stack([path, groups]), np.append(cols, cols[-1]),
                      np.append(zoff, zoff[-1]), np.arange(len(path) + 1), self.top)

    # Pieces of all leaves, for products whose results are summed piece by piece.

    @cached_property
    def first_piece(self) -> IntArray:
        """The first piece of each leaf, and the number of pieces, (n_leaves + 1,)."""
        return np.concatenate([[0], np.cumsum(-(-self.sizes // PIECE_ROWS))])

    @cached_property
    def piece_leaf(self) -> IntArray:
        """The leaf that a piece belongs to."""
        return np.repeat(np.arange(self.n_leaves), np.diff(self.first_piece))

    @cached_property
    def piece_off(self) -> IntArray:
        """The row at which a piece begins, and the number of rows."""
        leaf, count = self.piece_leaf, np.diff(self.first_piece)[self.piece_leaf]
        within = np.arange(leaf.size) - self.first_piece[leaf]
        starts = self.leaf_off[leaf] + within * self.sizes[leaf] // count
        return np.concatenate([starts, self.leaf_off[-1:]])


def blocks(lo: int, hi: int, items_per_leaf: int, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of leaves within lo:hi whose temporaries of `items_per_leaf` numbers stay bounded."""
    step = max(1, limit // max(1, items_per_leaf))
    for a in range(lo, hi, step):
        yield a, min(a + step, hi)


def group_of(rows: IntArray, nodes: tuple[IntArray, IntArray, IntArray]) -> tuple[int, int]:
    """(level, group) of the first of some node rows, increasing, on the finest level among them.

    `nodes` is a layout's `tree`.
    """
    _, cols, zoff = nodes
    level = int(np.searchsorted(zoff, rows[-1], side="right")) - 1
    first = rows[rows >= zoff[level]][0] - zoff[level]
    return level, int(first) // int(cols[level + 1] - cols[level])


def make_layout(boundaries: Sequence[IntArray], paths: IntArray, ranks: Sequence[int]) -> Layout:
    """Layout of a hierarchy (its boundaries and leaf paths) with `ranks`, one a level."""
    widths = np.asarray(ranks, dtype=np.int64)
    counts = np.array([b.size - 1 for b in boundaries], dtype=np.int64)
    leaf_off = np.ascontiguousarray(boundaries[-1], dtype=np.int64)
    cols, zoff = np.zeros((2, widths.size + 1), np.int64)
    np.cumsum(widths, out=cols[1:])
    np.cumsum(widths * counts, out=zoff[1:])
    top = 0
    if leaf_off[-1] * cols[-1] >= SHARED_ITEMS:
        top = _sharing_level(boundaries, counts)
    return Layout(np.ascontiguousarray(paths, dtype=np.int64), cols, zoff, leaf_off, top)


def _begins(path):
    """The coarsest level that changes before each row of path, and 0 at both ends."""
    out = np.zeros(len(path) + 1, np.int64)
    if len(path) > 1:
        out[1:-1] = np.argmax(path[1:] != path[:-1], axis=1)
    return out


def _sharing_level(boundaries, counts):
    """The first level of many groups, none of which is most of the work; else the last of many."""
    rows = np.diff(boundaries[-1])
    rows[rows > 2 * PIECE_ROWS] = 0  # long leaves are shared by themselves
    before = np.concatenate([[0], np.cumsum(rows)])
    many = np.flatnonzero(counts >= SHARES)
    for level in many:
        at = np.searchsorted(boundaries[-1], boundaries[level])
        if np.diff(before[at]).max() <= LARGEST_SHARE * before[-1]:
            return int(level)
    return int(many[-1]) if many.size else 0
