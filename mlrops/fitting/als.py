"""Alternating least squares: the left factors of all levels at once for fixed right ones, and back.

A row of A sees one group a level, its path.  For fixed right factors its coefficients solve normal
equations whose matrix is the Gram matrix of the path's right factors, each within its group:

    G = [[C_anc,gᵀ C_anc,g + …, X], [Xᵀ, K]],    X = C_anc[g]ᵀ C_own[g],   K = C_own[g]ᵀ C_own[g].

G of levels 0 … l depends on the group of level l only; so its inverse grows by one border a level,
shared by all groups below.
"""

import numpy as np

from .pairs import put, take

__all__ = ["half_step"]


def half_step(factors, residual, levels, side):
    """Give all `levels` together their best left ("left") or right ("right") factors.

    The change is computed from the residual, so that rounding errors scale with it.  Returned are
    the inverses of the paths' Gram matrices at the last of the levels, (p, R, R).
    """
    left = side == "left"
    moving, fixed = (factors.left, factors.right) if left else (factors.right, factors.left)
    here, there = ("rows", "cols") if left else ("cols", "rows")
    slopes = []
    for level in levels:
        blocks = residual.open(level)
        batches = factors.pairs.batches[level]
        given = [take(fixed[level], getattr(b, there)) for b in batches]
        slope = np.zeros_like(moving[level])
        products = blocks.mul(given) if left else blocks.rmul(given)
        for batch, x in zip(batches, products, strict=True):
            put(slope, getattr(batch, here), x)
        slopes.append(slope)
    slopes = np.concatenate(slopes, axis=1)
    inverse = path_inverse(factors.pairs, [fixed[level] for level in levels], levels, there)
    change = np.zeros_like(slopes)
    for batch in factors.pairs.batches[levels[-1]]:
        rows = getattr(batch, here)
        put(change, rows, np.matmul(take(slopes, rows), inverse[batch.groups]))
    edges = np.cumsum([fixed[level].shape[1] for level in levels])[:-1]
    for level, step in zip(levels, np.split(change, edges, axis=1), strict=True):
        batches = factors.pairs.batches[level]
        moving[level] = moving[level] + step
        steps = [take(step, getattr(b, here)) for b in batches]
        given = [take(fixed[level], getattr(b, there)) for b in batches]
        residual.open(level).subtract(*((steps, given) if left else (given, steps)))
    if not left:
        factors.stale.update(levels)
    return inverse


def losses(factors, levels, inverse):
    """What the squared error rises by when a column is dropped, (p_l, r_l) for each level.

    This holds after a left half step, for fixed right factors, when all other left factors answer:
    a row with coefficient b in that column adds ``b² / (G⁻¹)_cc``, G the Gram matrix of its path.
    """
    rows, out, start = factors.pairs.rows, [], 0
    diagonal = np.einsum("pii->pi", inverse)
    sizes = np.diff(rows.boundaries[levels[-1]])
    for level in levels:
        B = factors.left[level][:-1]
        stop = start + B.shape[1]
        d = np.repeat(diagonal[:, start:stop], sizes, axis=0)
        rise = np.divide(np.square(B), d, out=np.zeros_like(B), where=d > 0)
        out.append(np.add.reduceat(rise, rows.boundaries[level][:-1], axis=0))
        start = stop
    return out


def path_inverse(pairs, factors, levels, side):
    """Inverses of the paths' Gram matrices at the last of some levels, (p, R, R).

    Bordering, G⁻¹ from that of the ancestors, M, with the Schur complement ``S = K - Xᵀ M X``:

        [[M + W S⁻¹ Wᵀ, -W S⁻¹], [-S⁻¹ Wᵀ, S⁻¹]],   W = M X.

    Directions in which S, measured by K, is below the square root of the precision are left out of
    S⁻¹: there the factors stay as they are, and the least squares step still goes downhill.
    """
    dtype = factors[0].dtype
    offsets = getattr(pairs, side).boundaries
    inverse = np.zeros((1, 0, 0), dtype)
    above = None
    for level, C, first in zip(levels, factors, range(len(factors)), strict=True):
        p = offsets[level].size - 1
        A = np.concatenate([C[:, :0], *factors[:first]], axis=1)
        X, K = (np.zeros((p, width, C.shape[1]), dtype) for width in (A.shape[1], C.shape[1]))
        for batch in pairs.batches[level]:
            index = getattr(batch, side)
            own = take(C, index)
            X[batch.groups] = np.matmul(take(A, index).swapaxes(1, 2), own)
            K[batch.groups] = np.matmul(own.swapaxes(1, 2), own)
        parent = np.zeros(p, int) if above is None else (
            np.searchsorted(offsets[above], offsets[level][:-1], side="right") - 1)
        M = inverse[parent]
        W = np.matmul(M, X)
        pivot = _pseudo_inverse(K - np.matmul(X.swapaxes(1, 2), W), K)
        border = -np.matmul(W, pivot)
        inverse = np.concatenate([
            np.concatenate([M - np.matmul(border, W.swapaxes(1, 2)), border], axis=2),
            np.concatenate([border.swapaxes(1, 2), pivot], axis=2)], axis=1)
        above = level
    return inverse


def _pseudo_inverse(S, K):
    """Inverses of Schur complements S, measured by the diagonals of K, without null directions."""
    d = np.einsum("pii->pi", K)
    unit = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    lam, P = np.linalg.eigh(S * unit[:, :, None] * unit[:, None, :])
    P = P * unit[:, :, None]
    cut = np.sqrt(np.finfo(S.dtype).eps)  # factors nearer to dependent than this grow and cancel
    P = P * np.where(lam > cut, 1 / np.sqrt(np.where(lam > cut, lam, 1)), 0)[:, None, :]
    return np.matmul(P, P.swapaxes(1, 2))
