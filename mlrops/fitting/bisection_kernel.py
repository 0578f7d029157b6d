"""Cut a weighted graph in two, and improve a cut by swaps or moves of its vertices.

The graph of a symmetric n × n array of weights has n vertices; that of a rectangular p × q one has
a vertex a row and a vertex a column, and edges between rows and columns alone.
"""

from typing import NamedTuple

import numpy as np

from . import _compiled_bisection as _compiled

__all__ = ["Graph", "cut_of", "dense_graph", "improve_moves", "improve_swaps", "inside",
           "sparse_graph", "sweep"]

# A pass has to gain more than this share of the total weight: rounding could go on for ever.
LEAST_GAIN = 1e-13

# Least number of vertices that a pass moves on trial; a twentieth of all if that is more.
PATIENCE = 100


class Graph(NamedTuple):
    """Weights in the form the compiled loops read, and the kind of each vertex."""

    weights: tuple  # (W, Wt, data, indices, indptr, p)
    kind: np.ndarray  # (vertices,), 0 for rows, 1 for columns
    degree: np.ndarray  # (vertices,)
    product: object  # the weights themselves, an array or sparse array (n_rows, columns)
    n_rows: int  # as many as vertices if the graph is symmetric


def dense_graph(W, symmetric):
    """The graph of a C-contiguous array of weights; a symmetric one has a diagonal of zeros."""
    none = np.empty(0, np.int64)
    p, q = W.shape
    kind = np.zeros(p if symmetric else p + q, np.int64)
    if not symmetric:
        kind[p:] = 1
    rows = W.sum(axis=1)
    degree = rows if symmetric else np.concatenate([rows, W.sum(axis=0)])
    Wt = W if symmetric else np.ascontiguousarray(W.T)
    weights = (W, Wt, np.empty(0, W.dtype), none, none, 0 if symmetric else p)
    return Graph(weights, kind, degree, W, p)


def sparse_graph(W, adjacency):
    """The graph of sparse weights W; `adjacency` is the symmetric CSR array of all vertices."""
    p = W.shape[0]
    kind = np.zeros(adjacency.shape[0], np.int64)
    kind[p:] = 1
    none = np.empty((0, 0), adjacency.dtype)
    indices, indptr = (x.astype(np.int64) for x in (adjacency.indices, adjacency.indptr))
    weights = (none, none, adjacency.data, indices, indptr, 0)
    return Graph(weights, kind, np.asarray(adjacency.sum(axis=1)).ravel(), W, p)


def field(graph, s):
    """h = W s."""
    W, p = graph.product, graph.n_rows
    return W @ s if p == s.size else np.concatenate([W @ s[p:], s[:p] @ W])


def inside(graph, s):
    """Weight of the edges whose ends are on one side."""
    return (graph.degree.sum() + s @ field(graph, s)) / 4


def cut_of(graph, s):
    """Normalized cut of ±1 signs."""
    total = graph.degree.sum()
    cut = max((total - s @ field(graph, s)) / 4, 0.0)
    return _compiled.normalized_cut(cut, graph.degree[s > 0].sum(), total)


def counts_by_side(graph, s):
    """Vertices of each kind (row) on the plus and the minus side (columns)."""
    return np.array([[np.sum((graph.kind == k) & (s > 0)), np.sum((graph.kind == k) & (s < 0))]
                     for k in range(2)])


def patience(s):
    """Vertices that a pass moves on trial beyond its best state."""
    return max(PATIENCE, s.size // 20)


def improve_swaps(graph, s, max_passes):
    """Improve ±1 signs `s` in place by Kernighan-Lin passes; the sides keep their sizes.

    Where the number of rows (or of columns) is odd, the odd one may be on either side.
    """
    turned = np.empty(s.size, np.int64)
    least = LEAST_GAIN * graph.degree.sum()
    for _ in range(max_passes):
        excess = np.subtract(*counts_by_side(graph, s).T)
        gain = _compiled.swap_pass(graph.weights, graph.kind, excess, patience(s), s,
                                   field(graph, s), turned)
        if gain <= least:
            break


def improve_moves(graph, s, smallest, max_passes):
    """Improve ±1 signs `s` in place by Fiduccia-Mattheyses passes on the normalized cut."""
    turned = np.empty(s.size, np.int64)
    before = np.inf
    for _ in range(max_passes):
        h = field(graph, s)
        cut = max((graph.degree.sum() - s @ h) / 4, 0.0)
        now = _compiled.move_pass(graph.weights, graph.kind, graph.degree,
                                  counts_by_side(graph, s), smallest, patience(s), cut, s, h,
                                  turned)
        if now >= before * (1 - LEAST_GAIN):
            break
        before = now


def sweep(graph, order, smallest):
    """Signs of the prefix of `order` with the least normalized cut, or None if none is allowed."""
    s = np.full(graph.kind.size, -1.0)
    taken = _compiled.sweep_cut(graph.weights, graph.kind, graph.degree,
                                counts_by_side(graph, s), smallest, order, s.copy(),
                                -graph.degree)
    if taken == 0:
        return None
    s[order[:taken]] = 1
    return s
