"""Row chunks with missing cells as a source of EM, which never sit in memory together.

The first pass finds the *classes*, features of one leaf that are missing in the same samples, so
that the moments have as few rows as they have in memory.  Then an evaluation takes blocks of
samples, groups those of a block by the features they show, and adds to the moments.  In memory are
the moments, V (n, R + 1) and one or two packed triangles of ``(R + 1)(R + 2) / 2`` numbers a class,
beside a chunk and three copies of a block.  A block is as large as the moments, or has
``max(2 R, 64)`` samples: a pattern that is cut by blocks is factored once in each of them, which
costs as much as R samples do.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..._common.labelled import named
from ..._common.typing import FloatArray, IntArray
from ..._common.wording import counted
from ...kernels.layout import Layout
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .chunks import FIRST_ITEMS, FIRST_WIDTH, Chunks, FirstPass, changed
from .incomplete import IncompleteSamples, SomeCells
from .patterns import Batch, Classes, find_classes
from .streamed import ChunkedData, complete_chunks, dense_width, sketch

__all__ = ["IncompleteChunks", "incomplete_chunks_source"]


class IncompleteChunks(SomeCells):
    """Row chunks with missing cells as a `Source` of EM: one pass an evaluation; in tree order.

    `found` is what the first pass over the chunks has found out.
    """

    cells: IntArray  # (n,) numbers of observed cells that the last pass has found
    _is_part = False

    def __init__(self, chunks: Chunks, hierarchy: Hierarchy, found: FirstPass, center: bool):
        self._chunks, self._hierarchy, self.mean_is_free = chunks, hierarchy, center
        gather = hierarchy._gather
        self.mean, self._counts, self._cells = map(gather, (found.mean, found.seen, found.cells))
        self.variance: FloatArray = gather(found.squares / found.seen)
        self._classes = find_classes(hierarchy, gather(found.codes).view(np.uint8))
        self.n_samples, self.dtype, self.names = chunks.n_samples, chunks.dtype, chunks.names

    def of(self, chunks: Chunks) -> "IncompleteChunks":
        """The same of a part of the chunks; `cells` counts those that a pass has found."""
        own = copy.copy(self)
        own._chunks, own._is_part = chunks, True
        return own

    @property
    def classes(self) -> Classes:
        """The features that are seen in the same samples, leaf by leaf."""
        return self._classes

    @property
    def weight(self) -> float:
        """Sum of the weights of all samples."""
        return self._chunks.weight

    @property
    def counts(self) -> FloatArray:
        """Weight of the samples that show each feature, (n,)."""
        return self._counts

    def batches(self, covariance: MLR, mean: FloatArray) -> Iterator[Batch]:
        """The samples about a mean, block by block, each grouped by pattern."""
        A, tree = covariance, self._hierarchy._in_tree_order()
        for X, weights in self._blocks(self._width(A._layout), weighted=False):
            samples = IncompleteSamples(tree, X, weights, self.classes)
            yield from samples.batches(A, mean - self.mean)

    def share_of_pairs(self, features: np.ndarray) -> float:
        """Share of the samples, by weight, that show two or more of these features."""
        return self.weight_of_pairs(features) / self.weight

    def weight_of_pairs(self, features: np.ndarray) -> float:
        """Weight of the samples that show two or more of these features."""
        pairs = 0.0
        for X, weights in self._blocks(max(FIRST_WIDTH, FIRST_ITEMS // self.mean.size)):
            pairs += weights @ (np.count_nonzero(~np.isnan(X[features]), axis=0) > 1)
        return float(pairs)

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """The samples if they are few, else a sketch of them, missing cells at the mean.

        Features are scaled to the variance of their observed cells.  It is a place to start from
        and nothing more: EM itself fills in nothing.
        """
        return sketch(self, self.start_blocks, width, seed)

    def start_blocks(self, width: int) -> Iterator[FloatArray]:
        """Centred and weighted samples, (n, k) at a time, k at most `width`, zero where missing."""
        for X, _ in self._blocks(width):
            X[np.isnan(X)] = 0
            yield X

    def _width(self, layout: Layout) -> int:
        """Samples of a block."""
        m = layout.R + 1
        moments = self.mean.size * m + self.classes.number * (m * (m + 1) // 2)
        return max(dense_width(layout), moments // self.mean.size)

    def _blocks(self, width: int, weighted: bool = True
                ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield (X, weights): samples relative to `mean`, (n, k) at a time, k at most `width`.

        What is missing must be what the first pass found missing.
        """
        cells, ones = np.zeros_like(self._cells), np.ones(self.mean.size)
        for X, weights in self._chunks.blocks(
                width, self._hierarchy._position, self.mean, ones, weighted=weighted):
            observed = ~np.isnan(X)
            others = self.classes.spread(observed[self.classes.first])
            self._expect((observed == others).all(axis=1))
            cells += np.count_nonzero(observed, axis=1)
            yield X, weights
        self.cells = cells
        if not self._is_part:
            self._expect(cells == self._cells)

    def _expect(self, same):
        if not same.all():
            of_feature = self.classes.spread(np.arange(self.classes.number))
            suspect = np.isin(of_feature, of_feature[~same])  # which one changed is not known
            bad = np.sort(self._hierarchy.permutation[suspect])
            raise RuntimeError(changed(f"other cells are missing among"
                                       f" {counted(bad.size, 'feature')}"
                                       f" ({named(bad, self.names)})"))


def incomplete_chunks_source(chunks: Any, hierarchy: Hierarchy, center: bool,
                             weights: FloatArray | None = None, names: Sequence[str] | None = None,
                             dtype: Any = None) -> IncompleteChunks | ChunkedData:
    """Chunks of rows in which NaN marks missing cells as a source.

    Rows without an observed cell are left out; if what remains is complete, the source is that of
    complete chunks.  Columns with fewer than two observed cells, or constant where observed, are
    refused, and so is a later pass that finds other cells missing.  Parameters are those of
    `chunked_source`.
    """
    read = Chunks(chunks, hierarchy, weights, names, dtype=dtype, gaps=True)
    found = read.describe(center)
    if (found.cells == read.n_samples).all():
        return complete_chunks(read, hierarchy, found)
    return IncompleteChunks(read, hierarchy, found, bool(center))
