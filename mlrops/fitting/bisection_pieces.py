"""Two sides of a weighted graph, from scores of its vertices and improved by swaps or moves."""

import numpy as np
from scipy import sparse

__all__ = ["cut_graph", "split_balanced", "split_free"]


def _kernel():
    from . import bisection_kernel  # compiled when first used

    return bisection_kernel


def cut_graph(W, symmetric):
    """The graph of non-negative weights, in the form the other functions here take.

    Parameters
    ----------
    W : ndarray or sparse array, shape (p, q)
        float64.  Row i and column j are joined by an edge of weight ``W[i, j]``.
    symmetric : bool
        Whether W is symmetric and row i and column i are one vertex.  Its diagonal takes no part.

    Returns
    -------
    graph
        A named tuple whose `degree` (vertices,) holds the weight of the edges of each vertex, rows
        before columns.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.fitting.bisection_pieces import cut_graph
    >>> cut_graph(np.array([[1.0, 2.0, 3.0]]), symmetric=False).degree
    array([6., 1., 2., 3.])
    """
    if not sparse.issparse(W):
        W = np.array(W, dtype=np.float64, order="C")
        if symmetric:
            np.fill_diagonal(W, 0)
        return _kernel().dense_graph(W, symmetric)
    W = sparse.csr_array(W, dtype=np.float64)
    if symmetric:
        W = W - sparse.diags_array(W.diagonal(), format="csr")
        W.eliminate_zeros()
        return _kernel().sparse_graph(W, W)
    adjacency = sparse.block_array([[None, W], [W.T, None]], format="csr")
    return _kernel().sparse_graph(W, adjacency)


def split_balanced(graph, scores, max_passes):
    """Cut each kind of vertices into halves by its scores, then improve by swaps.

    Parameters
    ----------
    graph
        What `cut_graph` returns.
    scores : ndarray, shape (vertices,)
        Large scores begin on the plus side.
    max_passes : int
        Passes of the refinement of B. Kernighan and S. Lin (1970); 0 leaves it out.

    Returns
    -------
    signs : ndarray, shape (vertices,)
        ±1.  Rows are cut into halves, or nearly if their number is odd, and so are columns.
    inside : float
        Weight of the edges within the sides.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.fitting.bisection_pieces import cut_graph, split_balanced
    >>> W = np.kron(np.eye(2), np.ones((2, 2)))
    >>> graph = cut_graph(W, symmetric=True)
    >>> signs, inside = split_balanced(graph, np.array([3.0, 0.0, 2.0, 1.0]), max_passes=9)
    >>> signs, float(inside)
    (array([-1., -1.,  1.,  1.]), 2.0)
    """
    signs = np.empty(scores.size)
    for kind in np.unique(graph.kind):
        vertices = np.flatnonzero(graph.kind == kind)
        order = vertices[np.argsort(-scores[vertices], kind="stable")]
        half = (order.size + 1) // 2
        signs[order[:half]], signs[order[half:]] = 1, -1
    if max_passes:
        _kernel().improve_swaps(graph, signs, max_passes)
    return signs, _kernel().inside(graph, signs)


def split_free(graph, scores, smallest, max_passes):
    """Cut the vertices in two where the normalized cut along their scores is least, then improve.

    Parameters
    ----------
    graph, scores
        As in `split_balanced`.
    smallest : int
        Least number of vertices of each kind on each side.
    max_passes : int
        Passes of the refinement of C. Fiduccia and R. Mattheyses (1982); 0 leaves it out.

    Returns
    -------
    signs : ndarray, shape (vertices,)
        ±1, or None where every cut leaves less than `smallest` or a side without edges.
    cut : float
        Normalized cut: weight of the edges between the sides, times the sum of the inverses of the
        sides' total degrees.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.fitting.bisection_pieces import cut_graph, split_free
    >>> W = np.ones((5, 5))
    >>> W[:2, 2:] = W[2:, :2] = 0.1
    >>> graph = cut_graph(W, symmetric=True)
    >>> signs, cut = split_free(graph, np.arange(5.0), smallest=1, max_passes=9)
    >>> signs
    array([-1., -1.,  1.,  1.,  1.])
    """
    order = np.argsort(-scores, kind="stable")
    signs = _kernel().sweep(graph, order, smallest)
    if signs is None:
        return None, np.inf
    if max_passes:
        _kernel().improve_moves(graph, signs, smallest, max_passes)
    return signs, _kernel().cut_of(graph, signs)
