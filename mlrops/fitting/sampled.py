"""A matrix that nobody forms, as sibling blocks of which some columns and rows are looked at.

Leaf blocks are read in full.  What a group sees of its siblings is read at some of the columns (for
steps of the left factors) or rows (of the right ones): those in tree order are cut into strata of
equal size, each gives one, drawn at random, with its size as weight.  The tree keeps together what
is alike, so that strata are better than as many independent draws.

What is solved is the weighted least squares problem of the entries that were read: its products and
its Gram matrices, which differ from leaf to leaf.
"""

from typing import NamedTuple

import numpy as np

from .pairs import holders, put, take
from .paths import PathGrams

__all__ = ["SampledBlocks", "largest_siblings"]


class Sample(NamedTuple):
    """What was read of some blocks of a level, for steps of one side.

    `groups` are those whose rows (`here`: a slice for one group, else (g, M) tree positions) meet
    the columns `there` (g, S) of weights (g, S, 1); `values` (g, M, S) are the entries.
    """

    groups: np.ndarray
    here: slice | np.ndarray
    there: np.ndarray
    weights: np.ndarray
    values: np.ndarray


class SampledBlocks:
    """Of a function ``read(i, j)``, which gives the block of two arrays of tree positions.

    A `symmetric` one is sampled once for both sides.  Samples keep the dtype they are read in, the
    sums are float64.
    """

    def __init__(self, read, pairs, symmetric, samples, rng):
        self._pairs = pairs
        left = _draw(read, pairs, "rows", "cols", samples, rng)
        self._samples = {"cols": left, "rows": left if symmetric else _draw(
            lambda j, i: read(i, j).T, pairs, "cols", "rows", samples, rng)}
        self.squared_norm = float(sum(
            np.einsum("gms,gms,gs->", s.values, s.values, s.weights[:, :, 0], dtype=np.float64)
            for level in left for s in level))  # what several roots leave out is part of A

    def normal(self, parts, fixed):
        """As for `DenseBlocks`, of the sampled problem."""
        here = "rows" if fixed == "cols" else "cols"
        tree, X = getattr(self._pairs, here), np.concatenate(parts, axis=1)
        edges = np.cumsum([0, *(x.shape[1] for x in parts)])
        Y, G = np.zeros((tree.n + 1, X.shape[1])), np.zeros((tree.group_counts[0], 0, 0))
        for level, samples in enumerate(self._samples[fixed][1:]):
            width, child = edges[level + 1], min(level + 1, tree.n_levels - 1)
            own = np.empty((tree.group_counts[child], width, width))
            for s in samples:
                x = X[s.there, :width]
                weighted = x * s.weights
                own[s.groups] = np.matmul(x.swapaxes(1, 2), weighted)
                product = np.matmul(s.values, weighted.astype(s.values.dtype, copy=False))
                if isinstance(s.here, slice):
                    Y[s.here, :width] += product[0]
                else:
                    put(Y[:, :width], s.here, take(Y[:, :width], s.here) + product)
            own[:, : G.shape[1], : G.shape[1]] += G[holders(tree, child, level)]
            G = own
        of_leaf = np.arange(tree.group_counts[-1])
        return Y, PathGrams([G[:, :end, start:end] for start, end in
                             zip(edges[:-1], edges[1:], strict=True)], [of_leaf] * len(parts))


def largest_siblings(tree):
    """The most features that a group of any level sees of its siblings."""
    most = [tree.group_sizes(level - 1)[holders(tree, level, level - 1)] - tree.group_sizes(level)
            for level in range(1, tree.n_levels)]
    most.append(tree.n - tree.group_sizes(0))
    return max(int(x.max()) for x in most)


def _draw(read, pairs, here, there, samples, rng):
    """For each level a list of `Sample`: what children see of their siblings; last, the leaves.

    Before the first level is what its groups see of each other.
    """
    found, tree = [], getattr(pairs, there)
    for level in range(-1, tree.n_levels):
        child = min(level + 1, tree.n_levels - 1)
        start, end = tree.boundaries[child][:-1], tree.boundaries[child][1:]
        if child == level:  # a leaf sees itself
            first, gap, hole, most = start, end - start, 0 * start, end - start
        else:
            outer = tree.boundaries[level] if level >= 0 else np.array([0, tree.n])
            parent = np.searchsorted(outer, start, side="right") - 1
            first, last = outer[parent], outer[parent + 1]
            gap, hole = start - first, end - start
            most = last - first - hole
        at_most = tree.n if child == level else samples
        found.append([_read(read, batch, here, getattr(pairs, here).n, *_strata(
            *(x[batch.groups] for x in (first, gap, hole, most)), at_most, tree.n, rng))
            for batch in pairs.batches[child]])
    return found


def _strata(first, gap, hole, most, samples, n, rng):
    """Positions (g, S) and weights (g, S, 1), one of each stratum; positions n of weight 0 fill up.

    The positions of a group are the `most` ones from `first` on, but for a `hole` after `gap`.
    """
    first, gap, hole, most = (x[:, None] for x in (first, gap, hole, most))
    count = np.minimum(most, samples)
    k, some = np.arange(count.max(initial=0)), np.maximum(count, 1)
    low, size = k * most // some, (k + 1) * most // some - k * most // some
    at = low + (rng.random(low.shape) * size).astype(int)
    at = first + at + np.where(at >= gap, hole, 0)
    used = k < count
    return np.where(used, at, n), np.where(used, size, 0)[:, :, None].astype(float)


def _read(read, batch, here, n, there, weights):
    """`Sample` of a batch of groups, whose positions on the side `here` are below n."""
    index, values = getattr(batch, here), None
    own = np.arange(index.start, index.stop)[None] if isinstance(index, slice) else index
    for g, (rows, cols, weight) in enumerate(zip(own, there, weights[:, :, 0], strict=True)):
        rows, cols = rows[rows < n], cols[weight > 0]
        if cols.size:
            block = read(rows, cols)
            if values is None:
                values = np.zeros((*own.shape, there.shape[1]), block.dtype)
            values[g, : rows.size, : cols.size] = block
    if values is None:
        values = np.zeros((*own.shape, there.shape[1]))
    return Sample(batch.groups, index, there, weights, values)
