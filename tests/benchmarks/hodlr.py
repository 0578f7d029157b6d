"""Reference construction of HODLR matrices: halves on the diagonal, low rank blocks beside."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class HODLR:
    """Dense diagonal blocks of one level, and ``U Vᵀ`` for the siblings of this level and above.

    Every entry lies in one block only.  Blocks are in tree order, ``(rows, cols, entries)`` and
    ``(rows, cols, U, V)`` with rows and cols slices.
    """

    rows: object
    cols: object
    dense: list
    low_rank: list

    @property
    def storage(self):
        """Numbers in all blocks."""
        return (sum(entries.size for *_, entries in self.dense)
                + sum(U.size + V.size for *_, U, V in self.low_rank))

    def toarray(self):
        in_order = np.zeros((self.rows.n, self.cols.n))
        for i, j, entries in self.dense:
            in_order[i, j] = entries
        for i, j, U, V in self.low_rank:
            in_order[i, j] = U @ V.T
        A = np.empty_like(in_order)
        A[np.ix_(self.rows.permutation, self.cols.permutation)] = in_order
        return A


def hodlr(A, rows, cols, storage):
    """The most accurate HODLR of `A` that stores at most `storage` numbers, of all depths.

    Each off-diagonal block has a rank of its own: singular triples are bought in the order of
    their squared singular value per number stored, until nothing more fits.

    Returns None if the dense blocks of the finest level alone are too many.
    """
    in_order = A[np.ix_(rows.permutation, cols.permutation)]
    best, least = None, np.inf
    siblings = []
    for depth in range(rows.n_levels):
        if depth:
            siblings += [(i, j, *np.linalg.svd(in_order[i, j], full_matrices=False))
                         for i, j in _sibling_blocks(rows, cols, depth)]
        diagonal = list(zip(_groups(rows, depth), _groups(cols, depth), strict=True))
        left = storage - sum(in_order[block].size for block in diagonal)
        if left < 0:
            continue
        ranks = _affordable([s for *_, s, _ in siblings],
                            [U.shape[0] + Vt.shape[1] for *_, U, _, Vt in siblings], left)
        lost = sum(np.square(s[r:]).sum() for (*_, s, _), r in zip(siblings, ranks, strict=True))
        if lost < least:
            least = lost
            best = HODLR(rows, cols, [(*block, in_order[block]) for block in diagonal],
                         [(i, j, U[:, :r] * s[:r], Vt[:r].T)
                          for (i, j, U, s, Vt), r in zip(siblings, ranks, strict=True)])
    return best


def _groups(h, level):
    ends = h.boundaries[level].tolist()
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _sibling_blocks(rows, cols, level):
    """Off-diagonal blocks between the groups of a level that share a parent."""
    pairs = list(zip(_groups(rows, level), _groups(cols, level), strict=True))
    for parent in _groups(rows, level - 1):
        children = [pair for pair in pairs
                    if parent.start <= pair[0].start and pair[0].stop <= parent.stop]
        yield from ((i, j) for (i, _), (_, j) in permutations(children, 2))


def _affordable(spectra, costs, budget):
    """Rank of each block when triples are bought by what they take off the error per number."""
    offers = sorted(((-(sigma**2) / cost, block, cost)
                     for block, (s, cost) in enumerate(zip(spectra, costs, strict=True))
                     for sigma in s))
    ranks = [0] * len(spectra)
    for _, block, cost in offers:
        if cost <= budget:
            budget -= cost
            ranks[block] += 1
    return ranks
