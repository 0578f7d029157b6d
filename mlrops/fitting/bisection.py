"""Trees grown from the root by cutting every group in two, and the cuts of weighted graphs.

A *splitter* is a function of the level, the rows and the columns of a group.  It returns rows and
columns of the two halves, ``[(rows₁, cols₁), (rows₂, cols₂)]``, or None where it cannot cut the
group.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from .._common.typing import BoolArray, FloatArray, IntArray, RandomState
from .._common.validate import check_rank
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy

__all__ = ["Bisection", "CutGraph", "OrderSplit", "SpectralSplit", "leading_vectors", "starts",
           "upper_half"]

# Up to this smaller side all singular vectors are computed; above, the leading ones by Lanczos.
DENSE_SIDE = 200

# Starts of the refinement: combinations of the leading vectors, closed under changes of sign.
COMBINATIONS = np.array([
    [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1],
    [0, 1, -1]], dtype=float)

# Relative accuracy of the eigenvalues of Lanczos' method; the refinement forgives the rest.
LANCZOS_TOL = 1e-6

# Passes of the refinement end by themselves, when one brings no gain; this only bounds them.
MAX_PASSES = 100
# A pass has to gain more than this share of the total weight: rounding could go on for ever.
LEAST_GAIN = 1e-13
# Least number of vertices that a pass moves on trial; a twentieth of all if that is more.
PATIENCE = 100

Halves: TypeAlias = "list[tuple[IntArray, IntArray]] | None"


class Bisection:
    """The options that all trees grown by cuts have in common, checked.

    A group of less than ``2 min_size`` rows or columns is kept whole.  Without `refine` a cut has
    one start and no pass.  `random_state` gives Lanczos' method its starts, for large groups.
    """

    def __init__(self, n_levels: int, min_size: int, balanced: bool, refine: bool = False,
                 n_starts: int = 1, random_state: RandomState = None) -> None:
        self.n_levels = check_rank(n_levels, "n_levels")
        self.min_size = check_rank(min_size, "min_size")
        for value, name in ((self.n_levels, "n_levels"), (self.min_size, "min_size")):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 1 <= check_rank(n_starts, "n_starts") <= len(COMBINATIONS):
            raise ValueError(f"n_starts must lie in 1 to {len(COMBINATIONS)}, got {n_starts}")
        self.balanced = balanced
        self.passes = MAX_PASSES if refine else 0
        self.combinations = COMBINATIONS[: n_starts if refine else 1]
        self.rng = np.random.default_rng(random_state)

    def grow(self, m: int, n: int, split: Callable[[int, IntArray, IntArray], Halves],
             symmetric: bool) -> tuple[Hierarchy, Hierarchy]:
        """Cut every group of m rows and n columns in two, where both of its sides are large enough.

        `split` is a splitter.  Of two halves the one with the lower-numbered first row comes first.
        If `symmetric`, rows and columns are the same features, and one hierarchy is returned twice.
        """
        groups = [(np.arange(m), np.arange(n))]
        sizes = [[(m, n)]]
        for level in range(1, self.n_levels):
            finer: list[tuple[Any, Any]] = []
            for rows, cols in groups:
                halves = None
                if min(rows.size, cols.size) >= 2 * self.min_size:
                    halves = split(level - 1, rows, cols)
                finer += sorted(halves or [(rows, cols)], key=lambda half: half[0][0])
            if len(finer) == len(groups):
                raise ValueError(self._too_deep(level, groups, symmetric))
            groups = finer
            sizes.append([(rows.size, cols.size) for rows, cols in groups])
        row_tree, col_tree = (
            Hierarchy(np.concatenate([group[side] for group in groups]),
                      [np.cumsum([0, *(pair[side] for pair in level)]) for level in sizes])
            for side in (0, 1))
        return (row_tree, row_tree) if symmetric else (row_tree, col_tree)

    def _too_deep(self, level: int, groups: list[tuple[Any, Any]], symmetric: bool) -> str:
        g = int(np.argmax([min(rows.size, cols.size) for rows, cols in groups]))
        rows, cols = groups[g]
        if symmetric:
            largest, needed = (counted(size, "feature") for size in (rows.size, 2 * self.min_size))
        else:
            largest = f"{counted(rows.size, 'row')} and {counted(cols.size, 'column')}"
            needed = f"{counted(2 * self.min_size, 'row')} and as many columns"
        return (f"n_levels = {self.n_levels} is deeper than the data allow: no group of level"
                f" {level - 1} can be cut in two to make level {level}; its largest, group {g}, has"
                f" {largest}, and a cut that leaves min_size = {self.min_size} on both sides needs"
                f" {needed}. Ask for {counted(level, 'level')}")


def upper_half(x: FloatArray | IntArray) -> BoolArray:
    """Which entries are the larger half of all, the earlier ones of equal ones first."""
    upper = np.zeros(x.size, dtype=bool)
    upper[np.argsort(-x, kind="stable")[: (x.size + 1) // 2]] = True
    return upper


class OrderSplit:
    """Cut groups in the order in which their rows and columns come.

    ``weights(rows, cols)`` is the block of non-negative weights, dense or sparse, which are large
    where rows and columns belong together.  Balanced halves ask for no weights.
    """

    def __init__(self, weights: Callable[[IntArray, IntArray], Any], symmetric: bool,
                 options: Bisection) -> None:
        self.weights, self.symmetric, self.options = weights, symmetric, options

    def __call__(self, level: int, rows: IntArray, cols: IntArray) -> Halves:
        signs = self._signs(rows, cols)
        if self.symmetric:
            return [(half, half) for half in (rows[signs > 0], rows[signs < 0])]
        of_rows, of_cols = np.split(signs, [rows.size])
        return [(rows[of_rows > 0], cols[of_cols > 0]), (rows[of_rows < 0], cols[of_cols < 0])]

    def _signs(self, rows: IntArray, cols: IntArray) -> FloatArray:
        """±1 for the rows and columns of a group, by the half to which each goes."""
        sides = (rows,) if self.symmetric else (rows, cols)
        if not self.options.balanced:
            graph = CutGraph(self.weights(rows, cols), self.symmetric)
            scores = np.concatenate([-(np.arange(x.size) + 0.5) / x.size for x in sides])
            signs, _ = graph.split_free(scores, self.options.min_size, max_passes=0)
            if signs is not None:
                return signs
        return np.concatenate([np.where(upper_half(-np.arange(x.size)), 1.0, -1.0) for x in sides])


class SpectralSplit(OrderSplit):
    """Cut groups along the leading vectors of their normalized weights, and refine the cuts."""

    def _signs(self, rows: IntArray, cols: IntArray) -> FloatArray:
        return self.best(CutGraph(self.weights(rows, cols), self.symmetric))

    def best(self, graph: "CutGraph") -> FloatArray:
        """Signs of the best cut that the starts lead to."""
        best, best_value = None, -np.inf
        for scores in starts(graph.weights, graph.degree, self.options):
            signs, value = self._cut(graph, scores)
            if best is None or value > best_value * (1 + 1e-12 * np.sign(best_value)):
                best, best_value = signs, value
        assert best is not None
        return best

    def _cut(self, graph: "CutGraph", scores: FloatArray) -> tuple[FloatArray, float]:
        balanced, passes = self.options.balanced, self.options.passes
        if not balanced:
            signs, cut = graph.split_free(scores, self.options.min_size, passes)
            if signs is not None:
                return signs, -cut
        signs, inside = graph.split_balanced(scores, passes)
        return signs, inside if balanced else -np.inf


# ---------------------------------------------------------------- where the cuts begin


def starts(weights: Any, degree: FloatArray, options: Bisection) -> Iterator[FloatArray]:
    """Scores of the vertices to begin from: combinations of as many vectors as there are."""
    vectors = leading_vectors(weights, degree, COMBINATIONS.shape[1], options.rng)
    k = vectors.shape[1]
    for combination in options.combinations:
        if not combination[k:].any():
            yield vectors @ combination[:k]


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
    U = scale[:p, None] * (W @ (scale[p:, None] * V))
    length = np.linalg.norm(U, axis=0)
    U = np.divide(U, length, out=np.zeros_like(U), where=length > 0)
    return scale[:, None] * np.concatenate([U, V])


def _leading(W, scale, first, k, rng, between=None):
    """Leading eigenvectors of ``S W S``, or of ``S Wᵀ diag(between) W S``, but the first one."""
    n = scale.size
    k = min(k, n - 1)
    if n <= DENSE_SIDE:
        if between is not None:
            scaled = sparse.diags_array(between) @ W if sparse.issparse(W) else between[:, None] * W
            W = W.T @ scaled
        M = W.toarray() if hasattr(W, "toarray") else W
        M = scale[:, None] * M * scale - np.outer(first, first)
        return np.linalg.eigh(M)[1][:, ::-1][:, :k]

    def product(x):
        y = W @ (scale * x.ravel())
        y = y if between is None else W.T @ (between * y)
        return scale * y - first * (first @ x.ravel())

    M = LinearOperator((n, n), matvec=product, dtype=np.float64)
    start = rng.standard_normal(n)
    _, vectors = eigsh(M, k, which="LA", v0=start - first * (first @ start), tol=LANCZOS_TOL)
    return vectors[:, ::-1]


# ---------------------------------------------------------------- cuts of a graph


class CutGraph:
    """A graph that is cut in two; an edge of weight ``W[i, j] >= 0`` joins row i and column j.

    Rows are vertices of `kind` 0, columns follow, of kind 1.  If `symmetric`, row i and column i
    are one vertex, and the diagonal of W takes no part.  `degree` is the weight of each vertex.
    """

    def __init__(self, W: Any, symmetric: bool) -> None:
        from . import _compiled_bisection  # it is compiled when first used

        self._loops = _compiled_bisection
        p, no_numbers, none = W.shape[0], np.empty(0), np.empty(0, np.int64)
        if sparse.issparse(W):
            W = sparse.csr_array(W, dtype=np.float64)
            if symmetric:
                W = W - sparse.diags_array(W.diagonal(), format="csr")
                W.eliminate_zeros()
            whole = W if symmetric else sparse.block_array([[None, W], [W.T, None]], format="csr")
            degree, no_block = whole.sum(axis=1), np.empty((0, 0))
            self._edges = (no_block, no_block, whole.data, whole.indices.astype(np.int64),
                           whole.indptr.astype(np.int64), 0)
        else:
            W = np.array(W, dtype=np.float64, order="C")
            if symmetric:
                np.fill_diagonal(W, 0)
            degree = W.sum(axis=1)
            degree = degree if symmetric else np.concatenate([degree, W.sum(axis=0)])
            transposed = W if symmetric else np.ascontiguousarray(W.T)
            self._edges = W, transposed, no_numbers, none, none, 0 if symmetric else p
        self.weights, self.degree = W, np.asarray(degree).ravel()
        self.kind = (np.arange(self.degree.size) >= p).astype(np.int64)
        # Vertices that a pass moves on trial beyond its best state.
        self._patience = max(PATIENCE, self.kind.size // 20)

    def field(self, s: FloatArray) -> FloatArray:
        """``W s`` for signs s of all vertices, W the symmetric weights of all pairs of these."""
        W, p = self.weights, self.weights.shape[0]
        return W @ s if p == s.size else np.concatenate([W @ s[p:], s[:p] @ W])

    def inside(self, s: FloatArray) -> float:
        """Weight of the edges whose ends are on one side."""
        return (self.degree.sum() + s @ self.field(s)) / 4

    def normalized_cut(self, s: FloatArray) -> float:
        """Weight of the edges between the sides, times the sum of the inverses of their degrees."""
        return self._loops.normalized_cut(
            self._between(s, self.field(s)), self.degree[s > 0].sum(), self.degree.sum())

    def _between(self, s, field):
        return max((self.degree.sum() - s @ field) / 4, 0.0)

    def split_balanced(self, scores: FloatArray, max_passes: int) -> tuple[FloatArray, float]:
        """Cut each kind of vertices into halves by its scores, then improve by swaps.

        Vertices of large scores begin on the plus side; the passes are those of B. Kernighan and
        S. Lin (1970).  Returned are signs ±1 of the vertices and the weight of the edges within the
        sides.  Halves of an odd number of vertices differ by one.
        """
        signs = np.empty(scores.size)
        for kind in np.unique(self.kind):
            signs[self.kind == kind] = np.where(upper_half(scores[self.kind == kind]), 1, -1)
        turned, least = np.empty(signs.size, np.int64), LEAST_GAIN * self.degree.sum()
        best, value = np.empty((2, 2), np.int64), np.empty((2, 2))
        for _ in range(max_passes):
            excess = np.subtract(*self._counts(signs).T)
            gain = self._loops.swap_pass(self._edges, self.kind, excess, self._patience, signs,
                                         self.field(signs), np.ones(signs.size, bool), best,
                                         value, turned)
            if gain <= least:
                break
        return signs, self.inside(signs)

    def split_free(self, scores: FloatArray, smallest: int,
                   max_passes: int) -> tuple[FloatArray | None, float]:
        """Cut in two where the normalized cut along the scores is least, then improve by moves.

        Each side keeps `smallest` vertices of each kind or more; the passes are those of
        C. Fiduccia and R. Mattheyses (1982).  Returned are signs ±1 and the normalized cut; the
        signs are None where every cut leaves a side with too few vertices or without edges.
        """
        signs = self.sweep(np.argsort(-scores, kind="stable"), smallest)
        if signs is None:
            return None, np.inf
        turned, before = np.empty(signs.size, np.int64), np.inf
        for _ in range(max_passes):
            h = self.field(signs)
            now = self._loops.move_pass(
                self._edges, self.kind, self.degree, float(self.degree.sum()),
                self._counts(signs), smallest, self._patience, self._between(signs, h), signs, h,
                np.ones(signs.size, bool), turned)
            if now >= before * (1 - LEAST_GAIN):
                break
            before = now
        return signs, self.normalized_cut(signs)

    def sweep(self, order: IntArray, smallest: int) -> FloatArray | None:
        """Signs of the prefix of `order` with the least normalized cut, None if none is allowed."""
        s = np.full(self.kind.size, -1.0)
        length = self._loops.sweep_cut(
            self._edges, self.kind, self.degree, float(self.degree.sum()), self._counts(s),
            smallest, order, s.copy(), -self.degree)
        if length == 0:
            return None
        s[order[:length]] = 1
        return s

    def _counts(self, s):
        """Vertices of each kind (row) on the plus and the minus side (columns)."""
        return np.array([[np.sum((self.kind == k) & (s > 0)), np.sum((self.kind == k) & (s < 0))]
                         for k in range(2)])
