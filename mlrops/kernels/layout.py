"""Where things lie: the integer arrays that every kernel shares, and blocks of leaves."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .._common.typing import IntArray

__all__ = ["Layout", "make_layout"]

# Leaves longer than this are cut into pieces, so that threads share one huge leaf and a piece of
# F stays in cache between two uses.  Fixed: the order of summation must not depend on the machine.
PIECE_ROWS = 4096
# Numbers in the largest temporary of a block of leaves: where the loops are compiled it should stay
# in cache between two sweeps over it, where BLAS does the work it should only stay small (32 MB).
CACHE_ITEMS = 65_536
BLOCK_ITEMS = 4_000_000
# Groups a level must have to be the one at which sweeps are shared out to threads.
SHARES = 16


class Layout(NamedTuple):
    """Integer arrays of a tree with ranks; see the package docstring for the names."""

    path: IntArray  # (n_leaves, L) group of each level on the way to a leaf
    cols: IntArray  # (L + 1,) first column of each level
    zoff: IntArray  # (L + 1,) first row of each level in node arrays; zoff[L] = s
    leaf_off: IntArray  # (n_leaves + 1,)
    piece_off: IntArray  # (n_pieces + 1,)
    piece_leaf: IntArray  # (n_pieces,) the leaf a piece belongs to
    first_piece: IntArray  # (n_leaves + 1,)
    top: int  # the first level with many groups, at which a sweep can be shared out; else 0
    top_leaf: IntArray  # (p_top + 1,) the leaf at which each group of that level begins

    @property
    def n(self) -> int:
        return int(self.leaf_off[-1])

    @property
    def n_leaves(self) -> int:
        return self.leaf_off.size - 1

    @property
    def R(self) -> int:
        return int(self.cols[-1])

    @property
    def s(self) -> int:
        return int(self.zoff[-1])

    @property
    def L(self) -> int:
        return self.cols.size - 1

    @property
    def tree(self) -> tuple[IntArray, IntArray, IntArray]:
        """(path, cols, zoff), what a sweep asks of a tree."""
        return self.path, self.cols, self.zoff

    @property
    def above(self) -> tuple[IntArray, IntArray, IntArray]:
        """`tree` of the levels above `top`, with its groups for leaves, of rank 0."""
        path = np.ascontiguousarray(self.path[self.top_leaf[:-1], : self.top + 1])
        levels = np.minimum(np.arange(self.top + 2), self.top)
        return path, self.cols[levels], self.zoff[levels]


def blocks(lo: int, hi: int, items_per_leaf: int, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of leaves within lo:hi whose temporaries of `items_per_leaf` numbers stay bounded."""
    step = max(1, limit // max(1, items_per_leaf))
    for a in range(lo, hi, step):
        yield a, min(a + step, hi)


def make_layout(boundaries: Sequence[IntArray], paths: IntArray, ranks: Sequence[int]) -> Layout:
    """Layout of a hierarchy (its boundaries and leaf paths) with `ranks`, one a level."""
    widths = np.asarray(ranks, dtype=np.int64)
    leaf_off = np.ascontiguousarray(boundaries[-1], dtype=np.int64)
    sizes = np.diff(leaf_off)
    pieces = -(-sizes // PIECE_ROWS)
    first_piece = np.concatenate([[0], np.cumsum(pieces)])
    piece_leaf = np.repeat(np.arange(sizes.size), pieces)
    counts = np.array([b.size - 1 for b in boundaries], dtype=np.int64)
    many = np.flatnonzero(counts >= SHARES)
    top = int(many[0]) if many.size else 0
    # Piece j of a leaf of m rows in p pieces starts at row j m // p: nearly equal, deterministic.
    within = np.arange(piece_leaf.size) - first_piece[piece_leaf]
    starts = leaf_off[piece_leaf] + within * sizes[piece_leaf] // pieces[piece_leaf]
    return Layout(
        path=np.ascontiguousarray(paths, dtype=np.int64),
        cols=np.concatenate([[0], np.cumsum(widths)]),
        zoff=np.concatenate([[0], np.cumsum(widths * counts)]),
        leaf_off=leaf_off,
        piece_off=np.concatenate([starts, leaf_off[-1:]]),
        piece_leaf=piece_leaf,
        first_piece=first_piece,
        top=top,
        top_leaf=np.searchsorted(leaf_off, boundaries[top]),
    )
