"""Block coordinate descent: each level in turn gets its best factors for the residual of the rest.

The blocks of a level come in batches: a list of (g, M, k) arrays stands for all of them.  Their
leading singular or eigen triples are found by warm subspace iteration.
"""

import numpy as np

from .factors import EXTRA

__all__ = ["ORDERS", "improve", "leading_eigen", "leading_singular", "order_of", "symmetrize"]

ORDERS = "v", "topdown", "bottomup"


def improve(factors, residual, level, rank=None, depth=1):
    """Give one level better factors, of a new rank if one is given; others stay as they are."""
    rank = factors.ranks[level] if rank is None else rank
    blocks = residual.open(level)
    B, C = factors.take(level)
    Q = factors.directions(level, rank)
    own = Own(blocks, B, C)
    if factors.symmetric:
        found = leading_eigen(own, Q, rank, depth, factors.psd)
        if factors.least is not None and level + 1 == len(factors.ranks):
            found = _at_least(*found, [factors.least[b.rows] for b in factors.pairs.batches[level]])
    else:
        found = leading_singular(own, Q, rank, depth)
    factors.put(level, rank, *found)
    new_B, new_C = factors.take(level)
    blocks.subtract(_beside(new_B, B, -1), _beside(new_C, C, 1))


def _beside(new, old, sign):
    return [np.concatenate([x, sign * y], axis=2) for x, y in zip(new, old, strict=True)]


def _at_least(B, C, V, s, least):
    """The same for blocks of one entry, which are to be no less than `least` (g, 1)."""
    raised = [c.copy() for c in C]
    for c, low in zip(raised, least, strict=True):
        c[:, :, :1] = np.maximum(np.abs(c[:, :, :1]), np.sqrt(np.reshape(low, (-1, 1, 1))))
    return raised, raised, V, s


def symmetrize(factors):
    """Give each level the nearest symmetric blocks of its rank, ``(B Cᵀ + C Bᵀ) / 2`` cut down."""
    for level, rank in enumerate(factors.ranks):
        found = []
        for b, c in zip(*factors.take(level), strict=True):
            K = np.linalg.qr(np.concatenate([b, c], axis=2))[0]
            HK = (_outer(b, c, K) + _outer(c, b, K)) / 2
            found.append(_eigen_factors(K, HK, rank, K.shape[2], False))
        B, C, V, s = map(list, zip(*found, strict=True))
        factors.put(level, rank, B, C, [v[:, :, : rank + EXTRA] for v in V],
                    [x[:, : rank + EXTRA] for x in s])
        factors.stale.add(level)


def order_of(levels, order):
    """Levels as one sweep visits them."""
    levels = list(levels)
    if order == "topdown":
        return levels
    return levels[::-1] if order == "bottomup" else levels + levels[-2::-1]


class Own:
    """Residual blocks with the level's own part put back: ``X_g + B_g C_gᵀ``."""

    def __init__(self, blocks, B, C):
        self._blocks, self._B, self._C = blocks, B, C

    def mul(self, Q):
        return [y + _outer(b, c, q)
                for y, b, c, q in zip(self._blocks.mul(Q), self._B, self._C, Q, strict=True)]

    def rmul(self, U):
        return [z + _outer(c, b, u)
                for z, b, c, u in zip(self._blocks.rmul(U), self._B, self._C, U, strict=True)]


def _outer(b, c, q):
    return np.matmul(b, np.matmul(c.swapaxes(1, 2), q))


def orthonormal(*Y):
    """Orthonormal bases of the ranges of the blocks of Y, (g, M, min(M, k)) each."""
    if len(Y) > 1:
        Y = [[np.concatenate(parts, axis=2) for parts in zip(*Y, strict=True)]]
    return [np.linalg.qr(y)[0] for y in Y[0]]


def leading_singular(own, Q, rank, depth):
    """Best approximations of a rank within a Krylov space of each block X, Q (g, N, k) a batch.

    Their columns lie in the span of ``X Q, (X Xᵀ) X Q, …`` (`depth` terms); columns of Q are
    orthonormal or zero.  Where Q spans the right factors of an approximation, the one found is at
    least as good: for given right factors the best left ones lie in the range of ``X Q``.
    Returned are lists of ``B = U √s``, ``C = V √s``, all right singular vectors V found, and s.
    """
    U = [orthonormal(own.mul(Q))]
    for _ in range(depth - 1):
        U.append(orthonormal(own.mul(orthonormal(own.rmul(U[-1])))))
    U = U[0] if depth == 1 else orthonormal(*U)
    found = [_singular_factors(u, z, rank, q.shape[2])
             for u, z, q in zip(U, own.rmul(U), Q, strict=True)]
    return map(list, zip(*found, strict=True))


def _singular_factors(U, Z, rank, width):
    """Triples of ``U Zᵀ`` for orthonormal U."""
    V, T = np.linalg.qr(Z)
    P, s, Wt = np.linalg.svd(T, full_matrices=False)
    W = Wt.swapaxes(1, 2)
    root = np.sqrt(s[:, None, :rank])
    V = np.matmul(V, P[:, :, :width])
    return (np.matmul(U, W[:, :, :rank]) * root, V[:, :, :rank] * root, V, s[:, :width])


def leading_eigen(own, Q, rank, depth, psd):
    """The same for symmetric blocks: eigenpairs largest in magnitude, or positive ones (`psd`).

    The space searched holds Q itself, so that the captured part of X cannot fall (eigenvalues of
    sections interlace).  ``B = C sign(λ)``.
    """
    K = [Q]
    for _ in range(depth):
        K.append(orthonormal(own.mul(K[-1])))
    K = orthonormal(*K)
    found = [_eigen_factors(k, hk, rank, q.shape[2], psd)
             for k, hk, q in zip(K, own.mul(K), Q, strict=True)]
    return map(list, zip(*found, strict=True))


def _eigen_factors(K, HK, rank, width, psd):
    T = np.matmul(K.swapaxes(1, 2), HK)
    lam, P = np.linalg.eigh((T + T.swapaxes(1, 2)) / 2)
    order = np.argsort(-lam if psd else -np.abs(lam), axis=1)[:, :width]
    lam = np.take_along_axis(lam, order, axis=1)
    V = np.matmul(K, np.take_along_axis(P, order[:, None, :], axis=2))
    used = np.maximum(lam, 0) if psd else lam
    C = V[:, :, :rank] * np.sqrt(np.abs(used[:, None, :rank]))
    return C * np.sign(used[:, None, :rank]), C, V, np.abs(used)
