"""Trees grown from the root by cutting every group in two, and the spectral cut.

A *splitter* is called with the level, the rows and the columns of a group, and returns rows and
columns of its halves, ``[(rows₁, cols₁), (rows₂, cols₂)]``, or None when it cannot cut the group.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from .bisection_pieces import cut_graph, split_balanced, split_free

__all__ = ["OrderSplit", "SpectralSplit", "grow", "starts"]

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


def grow(m, n, n_levels, split, min_size, symmetric):
    """Cut every group in two, level after level, where both of its sides are large enough.

    Parameters
    ----------
    m, n : int
        Rows and columns.
    n_levels : int
    split : callable
        A splitter.
    min_size : int
        A group of less than ``2 min_size`` rows or columns is kept whole at the next level.
    symmetric : bool
        Rows and columns are the same features: one hierarchy is returned twice.

    Returns
    -------
    rows, cols : Hierarchy
        The half with the lower-numbered first row comes first.

    Raises
    ------
    ValueError
        A level at which no group can be cut any more.
    """
    groups = [(np.arange(m), np.arange(n))]
    sizes = [[(m, n)]]
    for level in range(1, n_levels):
        finer = []
        for rows, cols in groups:
            halves = None
            if min(rows.size, cols.size) >= 2 * min_size:
                halves = split(level - 1, rows, cols)
            finer += sorted(halves or [(rows, cols)], key=lambda half: half[0][0])
        if len(finer) == len(groups):
            raise ValueError(_too_deep(level, n_levels, groups, min_size, symmetric))
        groups = finer
        sizes.append([(rows.size, cols.size) for rows, cols in groups])
    row_tree, col_tree = (
        Hierarchy(np.concatenate([group[side] for group in groups]),
                  [np.cumsum([0, *(pair[side] for pair in level)]) for level in sizes])
        for side in (0, 1))
    return (row_tree, row_tree) if symmetric else (row_tree, col_tree)


def _too_deep(level, n_levels, groups, min_size, symmetric):
    smaller = [min(rows.size, cols.size) for rows, cols in groups]
    g = int(np.argmax(smaller))
    rows, cols = groups[g]
    if symmetric:
        largest, needed = _count(rows.size, "feature"), _count(2 * min_size, "feature")
    else:
        largest = f"{_count(rows.size, 'row')} and {_count(cols.size, 'column')}"
        needed = f"{_count(2 * min_size, 'row')} and as many columns"
    return (
        f"n_levels = {n_levels} is deeper than the data allow: no group of level {level - 1} can be"
        f" cut in two to make level {level}; its largest, group {g}, has {largest}, and a cut that"
        f" leaves min_size = {min_size} on both sides needs {needed}. Ask for"
        f" {counted(level, 'level')}"
    )


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class SpectralSplit:
    """Cut groups along the leading vectors of their normalized weights, and refine.

    Parameters
    ----------
    weights : callable
        ``weights(rows, cols)`` is the block of non-negative weights, dense or sparse; what belongs
        together has large ones.
    symmetric, balanced, refine : bool
    min_size : int
        Least number of rows and of columns of a half.
    n_starts : int
        Starts of the refinement, 1 to 9.
    rng : numpy.random.Generator
        Starting vectors of Lanczos' method, for large groups.
    """

    def __init__(self, weights, *, symmetric, balanced, refine, min_size, n_starts, rng):
        self.weights, self.symmetric, self.balanced = weights, symmetric, balanced
        self.min_size, self.rng = min_size, rng
        self.passes = MAX_PASSES if refine else 0
        self.combinations = COMBINATIONS[: n_starts if refine else 1]

    def __call__(self, level, rows, cols):
        W = self.weights(rows, cols)
        graph = cut_graph(W, self.symmetric)
        return _halves(self._best(graph), rows, cols, self.symmetric)

    def _best(self, graph):
        """Signs of the best cut that the starts lead to."""
        best, best_value = None, -np.inf
        for scores in starts(graph, self.combinations, self.rng):
            signs, value = self._cut(graph, scores)
            if value > best_value * (1 + 1e-12 * np.sign(best_value)) or best is None:
                best, best_value = signs, value
        return best

    def _cut(self, graph, scores):
        if not self.balanced:
            signs, cut = split_free(graph, scores, self.min_size, self.passes)
            if signs is not None:
                return signs, -cut
        signs, inside = split_balanced(graph, scores, self.passes)
        return signs, inside if self.balanced else -np.inf


class OrderSplit:
    """Cut groups in the order in which their rows and columns come.

    Parameters
    ----------
    weights, symmetric, balanced, min_size
        As for `SpectralSplit`; balanced halves ask for no weights.
    """

    def __init__(self, weights, *, symmetric, balanced, min_size):
        self.weights, self.symmetric = weights, symmetric
        self.balanced, self.min_size = balanced, min_size

    def __call__(self, level, rows, cols):
        sides = (rows,) if self.symmetric else (rows, cols)
        signs = None
        if not self.balanced:
            graph = cut_graph(self.weights(rows, cols), self.symmetric)
            scores = np.concatenate([-(np.arange(x.size) + 0.5) / x.size for x in sides])
            signs, _ = split_free(graph, scores, self.min_size, max_passes=0)
        if signs is None:
            signs = np.concatenate([np.where(np.arange(x.size) < (x.size + 1) // 2, 1, -1)
                                    for x in sides])
        return _halves(signs, rows, cols, self.symmetric)


def _halves(signs, rows, cols, symmetric):
    plus, minus = signs > 0, signs < 0
    if symmetric:
        return [(rows[side], rows[side]) for side in (plus, minus)]
    p = rows.size
    return [(rows[side[:p]], cols[side[p:]]) for side in (plus, minus)]


def starts(graph, combinations, rng):
    """Scores of the vertices to begin from: combinations of as many vectors as there are."""
    vectors = leading_vectors(graph, COMBINATIONS.shape[1], rng)
    k = vectors.shape[1]
    for combination in combinations:
        if not combination[k:].any():
            yield vectors @ combination[:k]


def leading_vectors(graph, k, rng):
    """Scores of the vertices from the leading singular vectors of ``D^(-1/2) W D^(-1/2)``.

    The first pair, ``D^(1/2) 1`` with singular value 1, says nothing and is taken out; the others
    come back multiplied by ``D^(-1/2)``, shape (vertices, <= k).  For a symmetric graph they are
    eigenvectors, those of the largest eigenvalues.
    """
    degree, W, p = graph.degree, graph.product, graph.n_rows
    if not degree.any():
        return -np.arange(degree.size, dtype=float)[:, None]  # nothing tells vertices apart
    root = np.sqrt(degree)
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
        M = W if between is None else W.T @ (_times_rows(between, W))
        M = M.toarray() if hasattr(M, "toarray") else M
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


def _times_rows(d, W):
    return sparse.diags_array(d) @ W if sparse.issparse(W) else d[:, None] * W
