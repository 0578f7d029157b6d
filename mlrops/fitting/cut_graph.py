"""Cuts of a weighted graph in two: where they begin, and how they are improved."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from .._common.typing import BoolArray, FloatArray, IntArray

__all__ = ["CutGraph", "leading_vectors", "upper_part"]

# Up to this smaller side all singular vectors are computed; above, the leading ones by Lanczos.
DENSE_SIDE = 200
# Columns of a block of Lanczos' method.  Products with a block cost one pass over the weights,
# hardly more than those with a single vector.
BLOCK = 8
# Columns of its basis, those that are kept when it is full, and blocks at most.
BASIS, KEPT, MAX_BLOCKS = 128, 32, 100
# Residual at which its vectors are taken, in units of the value and of its distance from 1, the
# value that is left out: the closer to 1, the closer are others.  Refinement forgives the rest.
LANCZOS_TOL = 0.05

# Values that are no further from 0 or 1 than this are there.
ROUNDING = 1e-6

# Share of the cuts that go on from one pass of the refinement to the next, the best ones.
GO_ON = 0.8
# A pass has to gain more than this share of the total weight: rounding could go on for ever.
LEAST_GAIN = 1e-13
# Least number of vertices that a pass moves on trial; a twentieth of all if that is more.
PATIENCE = 100

# Numbers that are converted to double precision at a time, for products with them.
CHUNK = 400_000


def upper_part(x: FloatArray | IntArray, count: int | None = None) -> BoolArray:
    """Which entries are the `count` largest (the larger half), earlier ones first of equal ones."""
    upper = np.zeros(x.size, dtype=bool)
    upper[np.argsort(-x, kind="stable")[: (x.size + 1) // 2 if count is None else count]] = True
    return upper


def products(W: Any, X: FloatArray, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``W X`` and ``Wᵀ Y`` in double precision, in one pass over W, dense or sparse."""
    if sparse.issparse(W):
        return W @ X, W.T @ Y
    right, left = np.empty((W.shape[0], *X.shape[1:])), np.zeros((W.shape[1], *Y.shape[1:]))
    for rows, block in _blocks(W):
        right[rows] = block @ X
        left += block.T @ Y[rows]
    return right, left


def _blocks(W):
    """Slices of rows, and these rows in double precision."""
    step = max(1, CHUNK // W.shape[1])
    for start in range(0, len(W), step):
        rows = slice(start, start + step)
        yield rows, W[rows].astype(np.float64, copy=False)


def _times(W, X):
    """``W X`` in double precision; W may be anything with this product."""
    if not isinstance(W, np.ndarray):
        return W @ X
    out = np.empty((W.shape[0], *X.shape[1:]))
    for rows, block in _blocks(W):
        out[rows] = block @ X
    return out


def _gram_times(W, between, X):
    """``Wᵀ diag(between) W X``, in one pass over W."""
    if sparse.issparse(W):
        return W.T @ (between[:, None] * (W @ X))
    out = np.zeros((W.shape[1], X.shape[1]))
    for rows, block in _blocks(W):
        out += block.T @ (between[rows, None] * (block @ X))
    return out


# ---------------------------------------------------------------- where cuts begin


def leading_vectors(W: Any, degree: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """Scores of the vertices from the leading singular vectors of ``D^(-1/2) W D^(-1/2)``.

    The first pair, ``D^(1/2) 1`` with singular value 1, tells nothing apart and is taken out; the
    others come back multiplied by ``D^(-1/2)``, shape (vertices, <= k).  For a symmetric graph
    they are eigenvectors, those of the largest eigenvalues.
    """
    if not degree.any():
        return -np.arange(degree.size, dtype=float)[:, None]  # nothing tells vertices apart
    p, root = W.shape[0], np.sqrt(degree)
    scale = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    if p == degree.size:
        first = root / np.sqrt(degree.sum())
        return scale[:, None] * _leading(W, scale, first, k, rng)
    if p < degree.size - p:
        return np.roll(_by_smaller_side(W.T, np.roll(root, -p), np.roll(scale, -p), k, rng), p,
                       axis=0)
    return _by_smaller_side(W, root, scale, k, rng)


def _by_smaller_side(W, root, scale, k, rng):
    """The vectors of both sides from the Gram matrix of the columns: u = M v / σ."""
    p = W.shape[0]
    first = root[p:] / np.linalg.norm(root[p:])
    V = _leading(W, scale[p:], first, k, rng, between=scale[:p] ** 2)
    U = scale[:p, None] * _times(W, scale[p:, None] * V)
    length = np.linalg.norm(U, axis=0)
    U = np.divide(U, length, out=np.zeros_like(U), where=length > 0)
    return scale[:, None] * np.concatenate([U, V])


def _leading(W, scale, first, k, rng, between=None):
    """Leading eigenvectors of ``S W S``, or of ``S Wᵀ diag(between) W S``, but the first one."""
    n = scale.size
    k = min(k, n - 1)
    if n <= DENSE_SIDE:
        M = W.toarray() if hasattr(W, "toarray") else W.astype(np.float64)
        if between is not None:
            M = M.T @ (between[:, None] * M)
        M = scale[:, None] * M * scale - np.outer(first, first)
        return np.linalg.eigh(M)[1][:, ::-1][:, :k]

    def product(X):
        X = scale[:, None] * X
        Y = scale[:, None] * (_times(W, X) if between is None else _gram_times(W, between, X))
        return Y - np.outer(first, first @ Y)

    start = rng.standard_normal((n, BLOCK))
    return _block_lanczos(product, start - np.outer(first, first @ start), k)


def _block_lanczos(product: Callable[[FloatArray], FloatArray], start: FloatArray,
                   k: int) -> FloatArray:
    """Eigenvectors of the k largest eigenvalues of a symmetric operator, from a block of vectors.

    The method is that of G. Golub and R. Underwood, The block Lanczos method for computing
    eigenvalues (1977), with all blocks orthogonalized against all others.
    """
    n, b = start.shape
    V = np.empty((n, min(BASIS, n // b * b)), order="F")
    T = np.zeros((V.shape[1],) * 2)
    Q, end = np.linalg.qr(start)[0], 0
    values, Y = np.empty(0), np.empty((0, 0))
    for _ in range(MAX_BLOCKS):
        if end == V.shape[1]:  # go on from the best of what it spans (a thick restart)
            V[:, :KEPT] = V @ Y[:, :KEPT]
            T[:], end = 0, KEPT
            np.fill_diagonal(T[:KEPT, :KEPT], values[:KEPT])
        own, end = slice(end, end + b), end + b
        V[:, own] = Q
        basis, Z = V[:, :end], product(Q)
        T[:end, own] = basis.T @ Z
        T[own, :end] = T[:end, own].T
        Q, R = np.linalg.qr(Z - basis @ T[:end, own])
        # Once more: where Z has hardly anything outside the basis, what is left is not orthogonal.
        Q, again = np.linalg.qr(Q - basis @ (basis.T @ Q))
        values, Y = (x[..., ::-1] for x in np.linalg.eigh(T[:end, :end]))
        residuals = np.linalg.norm(again @ R @ Y[own, :k], axis=0)
        scale = np.minimum(np.abs(values[:k]), 1 - values[:k])
        if (residuals <= LANCZOS_TOL * np.maximum(scale, ROUNDING)).all():
            break
    return basis @ Y[:, :k]


# ---------------------------------------------------------------- the graph


class CutGraph:
    """A graph that is cut in two; an edge of weight ``W[i, j] >= 0`` joins row i and column j.

    Rows are vertices of `kind` 0, columns follow, of kind 1.  If `symmetric`, row i and column i
    are one vertex, and the diagonal of W takes no part.  `degree` is the weight of each vertex.  A
    dense W is taken over, in single or double precision; a symmetric one loses its diagonal.  Sums
    are in double precision.
    """

    def __init__(self, W: Any, symmetric: bool) -> None:
        from . import _compiled_bisection  # it is compiled when first used

        self._loops = _compiled_bisection
        p, n = W.shape[0], W.shape[0] if symmetric else sum(W.shape)
        data, none, no_block = np.empty(0), np.empty(0, np.int64), np.empty((0, 0), np.float32)
        if sparse.issparse(W):
            W = sparse.csr_array(W, dtype=np.float64)
            if symmetric:
                W = W - sparse.diags_array(W.diagonal(), format="csr")
                W.eliminate_zeros()
            whole = W if symmetric else sparse.block_array([[None, W], [W.T, None]], format="csr")
            self._edges = (no_block, no_block, whole.data, whole.indices.astype(np.int64),
                           whole.indptr.astype(np.int64), 0)
        else:
            W = np.ascontiguousarray(W)
            if symmetric:
                np.fill_diagonal(W, 0)
            transposed = W if symmetric else np.ascontiguousarray(W.T)
            self._edges = W, transposed, data, none, none, 0 if symmetric else p
        self.weights, self.kind = W, (np.arange(n) >= p).astype(np.int64)
        self.degree = self.field(np.ones(n))
        # Vertices that a pass moves on trial beyond its best state.
        self._patience = max(PATIENCE, n // 20)

    def field(self, s: FloatArray) -> FloatArray:
        """``W s``, W the symmetric weights of all pairs of vertices; s of all, (n,) or (n, c)."""
        p = self.weights.shape[0]
        if p == len(s):
            return _times(self.weights, s)
        return np.concatenate(products(self.weights, s[p:], s[:p]))

    def inside(self, s: FloatArray) -> float:
        """Weight of the edges whose ends are on one side."""
        return (self.degree.sum() + s @ self.field(s)) / 4

    def normalized_cut(self, s: FloatArray) -> float:
        """Weight of the edges between the sides, times the sum of the inverses of their degrees."""
        return self._loops.normalized_cut(
            self._between(s, self.field(s)), self.degree[s > 0].sum(), self.degree.sum())

    def _between(self, s, field):
        return max((self.degree.sum() - s @ field) / 4, 0.0)

    # ---------------------------------------------------------------- sides of given sizes

    def split_balanced(self, scores: FloatArray, max_passes: int,
                       parts: tuple[int, int] = (1, 1)) -> tuple[FloatArray, float]:
        """Cut each kind of vertices by scores such that the sides can be cut into equal parts.

        There are scores in each column of `scores`, (n,) or (n, c).  The plus side, where vertices
        of large scores begin, has room for ``parts[0]`` of ``sum(parts)`` parts whose sizes differ
        by at most one.  Swaps then improve the cuts; the passes are those of B. Kernighan and
        S. Lin (1970).  Returned are signs ±1 of the vertices and the weight of the edges within the
        sides, of the best cut.
        """
        scores = scores.reshape(self.kind.size, -1)
        sizes = np.bincount(self.kind)
        counts = -(-sizes * parts[0] // sum(parts))
        if (2 * counts != sizes).any():  # the sign of a vector is no matter of the graph
            scores = np.concatenate([scores, -scores], axis=1)
        signs = np.full(scores.shape, -1.0)
        for own, count in zip(np.split(np.arange(len(signs)), sizes[:-1]), counts, strict=True):
            largest = np.argsort(-scores[own], axis=0, kind="stable")[:count]
            np.put_along_axis(signs[own[0] : own[-1] + 1], largest, 1, axis=0)
        return self.improve_balanced(signs, max_passes, parts)

    def improve_balanced(self, signs: FloatArray, max_passes: int,
                         parts: tuple[int, int] = (1, 1)) -> tuple[FloatArray, float]:
        """The best of some cuts, (n, c), after swaps: as `split_balanced` does from its starts."""
        room = np.array([_room(size, parts) for size in np.bincount(self.kind, minlength=2)])

        def one_pass(s, h):
            return self._loops.swap_pass(*self._edges, self.kind, room, self._patience, s, h)

        fields = self.field(signs)
        inside = (self.degree.sum() + np.einsum("ic,ic->c", signs, fields)) / 4
        least = LEAST_GAIN * self.degree.sum()
        return _tournament(signs, fields, inside, one_pass, least, max_passes)

    # ---------------------------------------------------------------- sides of any size

    def split_free(self, scores: FloatArray, smallest: int,
                   max_passes: int) -> tuple[FloatArray | None, float]:
        """Cut in two where the normalized cut along the scores is least, then improve by moves.

        There are scores in each column of `scores`.  Each side keeps `smallest` vertices of each
        kind or more; the passes are those of C. Fiduccia and R. Mattheyses (1982).  Returned are
        signs ±1 and the normalized cut, of the best cut; the signs are None where every cut leaves
        a side with too few vertices or without edges.
        """
        swept = [self.sweep(np.argsort(-x, kind="stable"), smallest)
                 for x in scores.reshape(self.kind.size, -1).T]
        found = [s for s in swept if s is not None]
        if not found:
            return None, np.inf
        signs = np.stack(found, axis=1)
        fields, total = self.field(signs), float(self.degree.sum())
        cuts = [self._loops.normalized_cut(self._between(s, h), self.degree[s > 0].sum(), total)
                for s, h in zip(signs.T, fields.T, strict=True)]

        def one_pass(s, h):
            cut = self._between(s, h)
            before = self._loops.normalized_cut(cut, self.degree[s > 0].sum(), total)
            return before - self._loops.move_pass(
                *self._edges, self.kind, self.degree, total, self._counts(s), smallest,
                self._patience, cut, s, h)

        best, value = _tournament(signs, fields, -np.array(cuts), one_pass,
                                  LEAST_GAIN * min(cuts), max_passes)
        return best, -value

    def sweep(self, order: IntArray, smallest: int) -> FloatArray | None:
        """Signs of the prefix of `order` with the least normalized cut, None if none is allowed."""
        s = np.full(self.kind.size, -1.0)
        length = self._loops.sweep_cut(
            *self._edges, self.kind, self.degree, float(self.degree.sum()), self._counts(s),
            smallest, order, s.copy(), -self.degree)
        if length == 0:
            return None
        s[order[:length]] = 1
        return s

    def _counts(self, s):
        """Vertices of each kind (row) on the plus and the minus side (columns)."""
        return np.array([[np.sum((self.kind == k) & (s > 0)), np.sum((self.kind == k) & (s < 0))]
                         for k in range(2)])


def _room(size, parts):
    """Least and most of `size` vertices that ``parts[0]`` of ``sum(parts)`` equal parts hold."""
    each, more = divmod(int(size), sum(parts))
    return parts[0] * each + max(0, more - parts[1]), parts[0] * each + min(parts[0], more)


def _tournament(signs, fields, values, one_pass, least, max_passes):
    """The best cut of all columns of `signs`, and its value, after passes that raise the value.

    ``one_pass(s, h)`` improves signs and their field in place and returns the gain.  All cuts take
    the first pass; of those that gain by it a share goes on to the next one.
    """
    cuts = [[value, s.copy(), h.copy()]
            for value, s, h in zip(values, signs.T, fields.T, strict=True)]
    alive = cuts
    for _ in range(max_passes):
        gaining = []
        for cut in alive:
            gain = one_pass(*cut[1:])
            cut[0] += gain
            if gain > least:
                gaining.append(cut)
        if not gaining:
            break
        gaining.sort(key=lambda cut: -cut[0])
        alive = gaining[: int(np.ceil(len(alive) * GO_ON))]
    # Of cuts that rounding alone tells apart, the first one.
    top = max(cut[0] for cut in cuts)
    value, s, _ = next(cut for cut in cuts if cut[0] >= top - 1e-12 * abs(top))
    return s, float(value)
