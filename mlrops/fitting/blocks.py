"""A matrix as sibling blocks: products of all levels at once, in one pass.

Every entry of A that a pair of trees covers lies in one place: in a leaf, or in a group of some
level but in none of the next, where it belongs to a child and that child's siblings.  What the
levels down to this one make of the entry, they make together.  So the products that least squares
needs of all levels,

    Y_l[i] = Σ_j A_ij C_l[j]    over the columns j of the group of level l that row i is in,

are sums over such blocks, each multiplied once by the factors of all levels that see it.

A source of blocks gives `squared_norm` of all of A and `normal`: products, and the Gram matrices
that belong to them.
"""

import numpy as np
from scipy.sparse import csr_array

from .pairs import filled, holders
from .paths import path_grams
from .residuals import row_chunks

__all__ = ["DenseBlocks", "SparseBlocks"]

# Groups of fewer entries are worked on in stacks: thousands of them cost one call each.
SMALL = 2**12


class DenseBlocks:
    """Of an array; what is kept is a copy in tree order, and stacks of the small blocks."""

    def __init__(self, A, pairs, dtype):
        self._pairs = pairs
        rows, cols = pairs.rows, pairs.cols
        if rows._in_order and cols._in_order and A.dtype == dtype and A.flags.c_contiguous:
            self._A = A
        else:
            self._A = np.empty(A.shape, dtype)
            for part in row_chunks(*A.shape):
                block = A[rows.permutation[part]]
                self._A[part] = block if cols._in_order else block[:, cols.permutation]
        self.squared_norm = float(sum(
            np.einsum("ij,ij->", self._A[part], self._A[part], dtype=np.float64)
            for part in row_chunks(*A.shape)))
        self._blocks = [self._of_level(level) for level in range(pairs.n_levels)]

    def normal(self, parts, fixed):
        """``(Y, grams)`` for the factors (n + 1, w_l) of all levels on the side that is `fixed`."""
        Y = self._products(np.concatenate(parts, axis=1), np.cumsum([x.shape[1] for x in parts]),
                           fixed == "rows")
        return Y, path_grams(self._pairs, parts, range(len(parts)), fixed)

    def _products(self, X, widths, transposed):
        Y = np.zeros((self._pairs.shape[1 if transposed else 0] + 1, X.shape[1]), X.dtype)
        for width, blocks in zip(widths, self._blocks, strict=True):
            for block, rows, cols in blocks:
                if transposed:
                    block, rows, cols = block.swapaxes(-1, -2), cols, rows
                Y[rows, :width] += np.matmul(block, X[cols, :width])
        return Y

    def _of_level(self, level):
        """Triples of a block (…, M, N), its rows and its columns: what the next level leaves out.

        Large blocks lie where they are, a child with its siblings before it, and with those after
        it.  Small groups are stacked, each whole, with zeros for what the next level sees.
        """
        rows, cols = (h.boundaries[level] for h in (self._pairs.rows, self._pairs.cols))
        small, out = np.diff(rows) * np.diff(cols) < SMALL, []
        children = self._children(level)
        for g in np.flatnonzero(~small):
            if children is None:
                r, c = slice(rows[g], rows[g + 1]), slice(cols[g], cols[g + 1])
                out.append((self._A[r, c], r, c))
                continue
            for r, c in children[g]:
                for siblings in slice(cols[g], c.start), slice(c.stop, cols[g + 1]):
                    if siblings.stop > siblings.start:
                        out.append((self._A[r, siblings], r, siblings))
        for batch in self._pairs.batches[level]:
            groups = batch.groups[small[batch.groups]]
            if groups.size:
                out.append(self._stack(groups, rows, cols, children))
        return out

    def _children(self, level):
        """Rows and columns of the children of each group, slices; None at the finest level."""
        if level + 1 == self._pairs.n_levels:
            return None
        found = [[] for _ in range(self._pairs.rows.group_counts[level])]
        r, c = (h.boundaries[level + 1] for h in (self._pairs.rows, self._pairs.cols))
        for a, g in enumerate(holders(self._pairs.rows, level + 1, level)):
            found[g].append((slice(r[a], r[a + 1]), slice(c[a], c[a + 1])))
        return found

    def _stack(self, groups, rows, cols, children):
        sizes = [np.diff(x)[groups] for x in (rows, cols)]
        stack = np.zeros((groups.size, *(int(x.max()) for x in sizes)), self._A.dtype)
        for block, g, m, n in zip(stack, groups, *sizes, strict=True):
            block[:m, :n] = self._A[rows[g] : rows[g + 1], cols[g] : cols[g + 1]]
            for r, c in children[g] if children else ():
                block[r.start - rows[g] : r.stop - rows[g],
                      c.start - cols[g] : c.stop - cols[g]] = 0
        return stack, filled(rows, groups), filled(cols, groups)


class SparseBlocks:
    """Of a sparse array: for each level the entries (CSR) that the next one leaves out."""

    def __init__(self, A, pairs, dtype):
        self._pairs = pairs
        A = A.astype(dtype)[pairs.rows.permutation][:, pairs.cols.permutation].tocoo()
        self.squared_norm = float(np.einsum("i,i->", A.data, A.data, dtype=np.float64))
        group = [[np.repeat(np.arange(h.group_counts[level]), h.group_sizes(level))
                  for h in (pairs.rows, pairs.cols)] for level in range(pairs.n_levels)]
        deepest = sum((r[A.row] == c[A.col]).astype(int) for r, c in group) - 1
        self._blocks = []
        for level in range(pairs.n_levels):
            own = deepest == level
            self._blocks.append(csr_array((A.data[own], (A.row[own], A.col[own])), shape=A.shape))

    def normal(self, parts, fixed):
        """As for `DenseBlocks`."""
        X, at = np.concatenate(parts, axis=1), np.cumsum([x.shape[1] for x in parts])
        Y = np.zeros((self._pairs.shape[1 if fixed == "rows" else 0] + 1, X.shape[1]), X.dtype)
        for width, block in zip(at, self._blocks, strict=True):
            Y[:-1, :width] += (block.T if fixed == "rows" else block) @ X[:-1, :width]
        return Y, path_grams(self._pairs, parts, range(len(parts)), fixed)
