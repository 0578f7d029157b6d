"""Gram matrices along the paths of a tree, and their inverses.

A row of A sees one group a level, its path.  For fixed right factors its coefficients solve normal
equations whose matrix is the Gram matrix of the path's right factors, each within its group:

    G = [[C_anc,gᵀ C_anc,g + …, X], [Xᵀ, K]],    X = C_anc[g]ᵀ C_own[g],   K = C_own[g]ᵀ C_own[g].

G of levels 0 … l depends on the group of level l only; so its inverse grows by one border a level,
shared by all groups below.
"""

import numpy as np

from .pairs import holders, take

__all__ = ["PathGrams", "path_grams"]


class PathGrams:
    """Gram matrices of what each level adds to the paths, coarsest level first.

    Of a level with w columns, W with those of the coarser ones, `grams` holds (p, W, w); leaf g has
    entry ``of_leaf[g]`` of them.
    """

    def __init__(self, grams, of_leaf):
        self._grams, self._of_leaf = grams, of_leaf
        self._edges = np.cumsum([0, *(G.shape[2] for G in grams)])

    def inverse(self, used, eps):
        """Inverses of the Gram matrices of the columns in the mask `used` (W,), (leaves, R, R).

        Bordering, G⁻¹ from that of the ancestors, M, with the Schur complement ``S = K - Xᵀ M X``:

            [[M + W S⁻¹ Wᵀ, -W S⁻¹], [-S⁻¹ Wᵀ, S⁻¹]],   W = M X.

        Directions in which S, measured by K, is below the square root of the precision `eps` are
        left out of S⁻¹: factors nearer to dependent than that would grow and cancel.
        """
        inverse, above = np.zeros((1, 0, 0)), np.zeros(self._of_leaf[-1].size, int)
        for k, (G, of_leaf) in enumerate(zip(self._grams, self._of_leaf, strict=True)):
            own = used[self._edges[k] : self._edges[k + 1]]
            r, width = np.count_nonzero(own), np.count_nonzero(used[: self._edges[k + 1]])
            if r == 0:
                continue
            G = G[:, used[: G.shape[1]]][:, :, own]
            X, K = G[:, : width - r], G[:, width - r :]
            M = inverse[above[np.unique(of_leaf, return_index=True)[1]]]
            W = np.matmul(M, X)
            pivot = _pseudo_inverse(K - np.matmul(X.swapaxes(1, 2), W), K, eps)
            border = -np.matmul(W, pivot)
            inverse = np.empty((len(G), width, width))
            inverse[:, : width - r, : width - r] = M - np.matmul(border, W.swapaxes(1, 2))
            inverse[:, : width - r, width - r :] = border
            inverse[:, width - r :, : width - r] = border.swapaxes(1, 2)
            inverse[:, width - r :, width - r :] = pivot
            above = of_leaf
        return inverse[above]

    def products(self, first):
        """Products of the columns in the mask `first` (W,) with these and then with the others.

        Shape (leaves, R, W) for R columns in the mask; and the squared lengths of the others,
        (leaves, W - R).
        """
        R, W, leaves = np.count_nonzero(first), first.size, self._of_leaf[-1].size
        out, lengths, above, beside = np.zeros((leaves, R, W)), np.zeros((leaves, W - R)), 0, 0
        for k, (G, of_leaf) in enumerate(zip(self._grams, self._of_leaf, strict=True)):
            down_to = first[: G.shape[1]]
            own = down_to[self._edges[k] :]
            r, e = np.count_nonzero(own), np.count_nonzero(~own)
            here, extra = slice(above, above + r), slice(R + beside, R + beside + e)
            block = G[:, down_to][:, :, own][of_leaf]
            out[:, : above + r, here] = block
            out[:, here, : above + r] = block.swapaxes(1, 2)
            out[:, : above + r, extra] = G[:, down_to][:, :, ~own][of_leaf]
            out[:, here, R : R + beside + e] = G[:, ~down_to][:, :, own][of_leaf].swapaxes(1, 2)
            square = G[:, self._edges[k] :]
            lengths[:, beside : beside + e] = np.einsum("pii->pi", square)[:, ~own][of_leaf]
            above, beside = above + r, beside + e
        return out, lengths


def path_grams(pairs, factors, levels, side):
    """`PathGrams` of the factors (n + 1, w_l) of some levels on a `side`, "rows" or "cols"."""
    tree, grams = getattr(pairs, side), []
    for k, (level, own) in enumerate(zip(levels, factors, strict=True)):
        down_to = np.concatenate(factors[: k + 1], axis=1)
        G = np.zeros((tree.group_counts[level], down_to.shape[1], own.shape[1]))
        for batch in pairs.batches[level]:
            index = getattr(batch, side)
            G[batch.groups] = np.matmul(take(down_to, index).swapaxes(1, 2), take(own, index))
        grams.append(G)
    return PathGrams(grams, [holders(tree, levels[-1], level) for level in levels])


def _pseudo_inverse(S, K, eps):
    """Inverses of Schur complements S, measured by the diagonals of K, without null directions."""
    d = np.einsum("pii->pi", K)
    unit = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    lam, P = np.linalg.eigh(S * unit[:, :, None] * unit[:, None, :])
    P = P * unit[:, :, None]
    kept = lam > np.sqrt(eps)
    P = P * np.where(kept, 1 / np.sqrt(np.where(kept, lam, 1)), 0)[:, None, :]
    return np.matmul(P, P.swapaxes(1, 2))
