"""Alternating least squares on a residual: the left factors of all levels at once, then the right.
"""

import numpy as np

from .pairs import put, take
from .paths import path_grams

__all__ = ["half_step", "losses"]


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
    grams = path_grams(factors.pairs, [fixed[level] for level in levels], levels, there)
    inverse = grams.inverse(np.ones(slopes.shape[1], bool), np.finfo(slopes.dtype).eps)
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
