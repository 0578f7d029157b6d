"""Matrices to try approximations on: kernels of points, distances in graphs, classical matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from .._common.radial import KERNELS, radial, squared_distances
from .._common.typing import FloatArray, RandomState
from .._common.validate import as_finite, check_rank
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from .simulate import at_least_one

__all__ = ["PointMatrix", "dct_matrix", "gauss_transform", "graph_distances", "hierarchical_matrix",
           "hilbert_matrix", "sphere_kernel", "toeplitz_matrix"]


@dataclass(frozen=True, eq=False, repr=False)
class PointMatrix:
    """A matrix whose entries depend on a point a row and a point a column.

    Attributes
    ----------
    A : ndarray, shape (m, n)
        The matrix.
    targets : ndarray, shape (m, d)
        Points of the rows.
    sources : ndarray, shape (n, d)
        Points of the columns; the same array as `targets` where A is symmetric.

    Examples
    --------
    >>> from mlrops.datasets import sphere_kernel
    >>> data = sphere_kernel(50, random_state=0)
    >>> data.A.shape, data.targets.shape, data.sources is data.targets
    ((50, 50), (50, 3), True)
    """

    A: FloatArray
    targets: FloatArray
    sources: FloatArray

    def __repr__(self) -> str:
        m, n = self.A.shape
        return f"<PointMatrix {m} by {n}, points of dimension {self.targets.shape[1]}>"


def gauss_transform(m: int = 800, n: int = 600, k: float = 5.0, *, dimension: int = 3,
                    random_state: RandomState = None) -> PointMatrix:
    """Discrete Gauss transform: ``A[i, j] = exp(-k² ‖t_i - s_j‖²)``.

    Parameters
    ----------
    m, n : int, optional
        Number of targets t (rows) and sources s (columns), 800 and 600.
    k : float, optional
        Inverse of the width, in units of the side of the cube, 5.
    dimension : int, optional
        Of the unit cube in which all points are drawn uniformly, 3.
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    PointMatrix
        ``A`` (m, n), ``targets`` (m, dimension), ``sources`` (n, dimension).

    Raises
    ------
    ValueError, TypeError
        Counts below 1 or not integers, a width that is not positive, a bad seed.

    References
    ----------
    L. Greengard and J. Strain, The fast Gauss transform, SIAM Journal on Scientific and Statistical
    Computing 12 (1991), 79-94.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.datasets import gauss_transform
    >>> data = gauss_transform(random_state=0)
    >>> data
    <PointMatrix 800 by 600, points of dimension 3>
    >>> distance = np.linalg.norm(data.targets[3] - data.sources[7])
    >>> bool(np.isclose(data.A[3, 7], np.exp(-25 * distance**2)))
    True
    """
    m, n, k = at_least_one(m, "m"), at_least_one(n, "n"), _positive(k, "k")
    dimension = at_least_one(dimension, "dimension")
    rng = np.random.default_rng(random_state)
    targets, sources = rng.uniform(size=(m, dimension)), rng.uniform(size=(n, dimension))
    return PointMatrix(np.exp(-(k**2) * squared_distances(targets, sources)), targets, sources)


def sphere_kernel(n: int = 1000, kernel: str = "gaussian", scale: float = 0.5, *,
                  m: int | None = None, random_state: RandomState = None) -> PointMatrix:
    """Radial function of the distances of points drawn uniformly on the unit sphere.

    Parameters
    ----------
    n : int, optional
        Number of points, 1000.
    kernel : str, optional
        With r the distance through the sphere in units of `scale`: "gaussian", ``exp(-r²/2)``;
        "exponential", ``exp(-r)``; "matern32", ``(1 + √3 r) exp(-√3 r)``; "multiquadric",
        ``√(1 + r²)``; "inverse_multiquadric", ``1/√(1 + r²)``; "thin_plate", ``r² log r``.
    scale : float, optional
        Length scale, in units of the radius, 0.5.
    m : int, optional
        Number of other points for the rows.  By default rows and columns are the same points and A
        is symmetric.
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    PointMatrix
        ``A`` (m or n, n), ``targets``, ``sources`` (n, 3).

    Raises
    ------
    ValueError, TypeError
        Counts below 1 or not integers, an unknown kernel, a scale that is not positive, a bad seed.

    References
    ----------
    G. E. Fasshauer, Meshfree approximation methods with MATLAB, World Scientific (2007), for the
    kernels; G. Marsaglia, Choosing a point from the surface of a sphere, Annals of Mathematical
    Statistics 43 (1972), 645-646, for the points.

    Examples
    --------
    >>> from mlrops.datasets import sphere_kernel
    >>> data = sphere_kernel(200, "multiquadric", random_state=0)
    >>> data.A.shape, bool((data.A == data.A.T).all()), float(data.A[5, 5])
    ((200, 200), True, 1.0)
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(map(repr, KERNELS))}; got {kernel!r}")
    n, scale = at_least_one(n, "n"), _positive(scale, "scale")
    rng = np.random.default_rng(random_state)
    sources = _on_sphere(n, rng)
    targets = sources if m is None else _on_sphere(at_least_one(m, "m"), rng)
    return PointMatrix(radial(kernel, scale, targets, sources), targets, sources)


def graph_distances(graph: str = "small_world", n: int = 1000, *, degree: int = 4,
                    rewire: float = 0.1, random_state: RandomState = None) -> FloatArray:
    """Lengths of the shortest paths between the vertices of a graph, in edges.

    Parameters
    ----------
    graph : {"small_world", "grid", "random_regular"}, optional
        * "small_world": a ring in which each vertex is joined to its `degree` nearest, and each
          edge is then led elsewhere with probability `rewire` (D. Watts and S. Strogatz, 1998).
        * "grid": the most nearly square rectangle of n vertices, each joined to those beside,
          above and below; nothing random.
        * "random_regular": every vertex has `degree` neighbours, from stubs joined at random, loops
          and double edges exchanged away (after B. McKay and N. Wormald, 1990).
    n : int, optional
        Number of vertices, 1000.
    degree : int, optional
        Neighbours of each vertex, 4 (even for "small_world").
    rewire : float, optional
        Probability, 0.1; for "small_world".
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    A : ndarray, shape (n, n)
        Symmetric float64, 0 on the diagonal, infinite between vertices that no path joins.

    Raises
    ------
    ValueError, TypeError
        An unknown graph, n below 1, a degree of n or more or odd where it must be even, `rewire`
        outside of 0 to 1, a bad seed.

    References
    ----------
    D. Watts and S. Strogatz, Collective dynamics of small-world networks, Nature 393 (1998), 440-2;
    B. McKay and N. Wormald, Uniform generation of random regular graphs of moderate degree, Journal
    of Algorithms 11 (1990), 52-67.

    Examples
    --------
    >>> from mlrops.datasets import graph_distances
    >>> graph_distances("grid", 6)
    array([[0., 1., 2., 1., 2., 3.],
           [1., 0., 1., 2., 1., 2.],
           [2., 1., 0., 3., 2., 1.],
           [1., 2., 3., 0., 1., 2.],
           [2., 1., 2., 1., 0., 1.],
           [3., 2., 1., 2., 1., 0.]])
    """
    n, degree = at_least_one(n, "n"), at_least_one(degree, "degree")
    rng = np.random.default_rng(random_state)
    if graph == "grid":
        edges = _grid(n)
    elif graph not in ("small_world", "random_regular"):
        raise ValueError("graph must be 'small_world', 'grid' or 'random_regular', got"
                         f" {graph!r}")
    elif degree >= n:
        raise ValueError(f"degree must be less than the number of vertices {n}, got {degree}")
    elif graph == "small_world":
        edges = _small_world(n, degree, rewire, rng)
    else:
        edges = _random_regular(n, degree, rng)
    rows, cols = np.asarray(edges, np.int32).T  # SciPy 1.12 finds no paths by wider indices
    adjacency = sparse.csr_array((np.ones(len(rows)), (rows, cols)), shape=(n, n))
    return csgraph.shortest_path(adjacency, directed=False, unweighted=True)


def toeplitz_matrix(n: int = 1000, m: int | None = None, *, decay: float = 1.0,
                    symmetric: bool = True, random_state: RandomState = None) -> FloatArray:
    """Random Toeplitz matrix: constant along diagonals, which fall off with the lag.

    Parameters
    ----------
    n : int, optional
        Number of columns, 1000.
    m : int, optional
        Number of rows, n by default.
    decay : float, optional
        The diagonal of lag t is a standard normal draw over ``(1 + |t|)^decay``.
    symmetric : bool, optional
        Whether lags t and -t share one draw, as by default.
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    A : ndarray, shape (m, n)
        ``A[i, j]`` depends on ``i - j``.

    Raises
    ------
    ValueError, TypeError
        Counts below 1 or not integers, a decay that is not finite, a bad seed.

    References
    ----------
    R. M. Gray, Toeplitz and circulant matrices: a review, Foundations and Trends in Communications
    and Information Theory 2 (2006), 155-239.

    Examples
    --------
    >>> from mlrops.datasets import toeplitz_matrix
    >>> A = toeplitz_matrix(4, random_state=0)
    >>> bool((A[1:, 1:] == A[:-1, :-1]).all() and (A == A.T).all())
    True
    """
    n = at_least_one(n, "n")
    m = n if m is None else at_least_one(m, "m")
    decay = float(as_finite(decay, "decay", ndim=0))
    rng = np.random.default_rng(random_state)
    lags = np.arange(-(n - 1), m)
    size, draws = np.abs(lags), rng.standard_normal(max(m, n))
    before = draws if symmetric else rng.standard_normal(max(m, n))
    values = np.where(lags < 0, before[size], draws[size]) / (1 + size) ** decay
    return values[np.subtract.outer(np.arange(m), np.arange(n)) + n - 1]


def dct_matrix(n: int = 1000) -> FloatArray:
    """The orthogonal matrix of the discrete cosine transform, type II.

    Parameters
    ----------
    n : int, optional
        Order, 1000.

    Returns
    -------
    A : ndarray, shape (n, n)
        ``A[i, j] = √(2/n) cos(π i (2j + 1) / 2n)``, row 0 divided by ``√2``; ``A Aᵀ = I``.

    Raises
    ------
    ValueError, TypeError
        n below 1, or not an integer.

    References
    ----------
    N. Ahmed, T. Natarajan and K. R. Rao, Discrete cosine transform, IEEE Transactions on Computers
    C-23 (1974), 90-93.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.datasets import dct_matrix
    >>> A = dct_matrix(8)
    >>> np.allclose(A @ A.T, np.eye(8))
    True
    """
    n = at_least_one(n, "n")
    A = np.sqrt(2 / n) * np.cos(np.pi * np.outer(np.arange(n), 2 * np.arange(n) + 1) / (2 * n))
    A[0] /= np.sqrt(2)
    return A


def hilbert_matrix(n: int = 1000, m: int | None = None) -> FloatArray:
    """The Hilbert matrix ``A[i, j] = 1 / (i + j + 1)``, which is nearly singular.

    Parameters
    ----------
    n : int, optional
        Number of columns, 1000.
    m : int, optional
        Number of rows, n by default.

    Returns
    -------
    A : ndarray, shape (m, n)

    Raises
    ------
    ValueError, TypeError
        Numbers below 1, or not integers.

    References
    ----------
    M.-D. Choi, Tricks or treats with the Hilbert matrix, American Mathematical Monthly 90 (1983),
    301-312.

    Examples
    --------
    >>> from mlrops.datasets import hilbert_matrix
    >>> hilbert_matrix(3, 2)
    array([[1.        , 0.5       , 0.33333333],
           [0.5       , 0.33333333, 0.25      ]])
    """
    n = at_least_one(n, "n")
    m = n if m is None else at_least_one(m, "m")
    return 1 / (np.add.outer(np.arange(m), np.arange(n)) + 1.0)


def hierarchical_matrix(
        m: int, n: int, group_counts: Sequence[int], ranks: Sequence[int], *, noise: float = 0.0,
        shuffle: bool = True, random_state: RandomState = None,
) -> tuple[FloatArray, Hierarchy, Hierarchy]:
    """A rectangular matrix that is multilevel low rank on a known pair of hierarchies, plus noise.

    For covariances see `simulate_mlr`: with ``noise = levels of positive rank / SNR`` the variance
    that all factors together give a feature is on average SNR times that of its noise.

    Parameters
    ----------
    m, n : int
        Rows and columns.
    group_counts : sequence of L int
        Groups at each level, as for `Hierarchy.balanced`.
    ranks : sequence of L int
        Rank of each level's blocks, whose entries have variance 1 on average, or 0 for rank 0.
    noise : float, optional
        Standard deviation of independent normal noise, 0.
    shuffle : bool, optional
        Whether rows and columns come in random order, as by default, or group after group.
    random_state : None, int or numpy.random.Generator, optional

    Returns
    -------
    A : ndarray, shape (m, n)
    rows, cols : Hierarchy
        Of m and of n features; blocks stand where group g of a level of one meets group g of the
        same level of the other.

    Raises
    ------
    ValueError, TypeError
        Group counts that do not divide one another or exceed m or n, not a rank for each level,
        negative ranks or noise, counts that are not integers.

    References
    ----------
    T. Parshakova, T. Hastie, E. Darve and S. Boyd, Factor fitting, rank allocation, and
    partitioning in multilevel low rank matrices (2023), arXiv:2310.19214.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.datasets import hierarchical_matrix
    >>> A, rows, cols = hierarchical_matrix(30, 20, [1, 2], [1, 2], random_state=0)
    >>> int(np.linalg.matrix_rank(A[np.ix_(rows.features(1, 0), cols.features(1, 1))]))
    1
    """
    m, n = at_least_one(m, "m"), at_least_one(n, "n")
    noise = float(as_finite(noise, "noise", ndim=0))
    if noise < 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    rng = np.random.default_rng(random_state)
    trees = [Hierarchy.balanced(size, group_counts) for size in (m, n)]
    if shuffle:
        trees = [Hierarchy(rng.permutation(tree.n), tree.boundaries) for tree in trees]
    rows, cols = trees
    ranks = [check_rank(r, f"ranks[{level}]") for level, r in enumerate(ranks)]
    if len(ranks) != rows.n_levels:
        raise ValueError(f"ranks must have {counted(rows.n_levels, 'entry')}, one a level, got"
                         f" {len(ranks)}")
    A = noise * rng.standard_normal((m, n))
    for level, r in enumerate(ranks):
        B, C = rng.standard_normal((m, r)), rng.standard_normal((n, r)) / np.sqrt(max(r, 1))
        for g in range(rows.group_counts[level]):
            i, j = rows.features(level, g), cols.features(level, g)
            A[np.ix_(i, j)] += B[i] @ C[j].T
    return A, rows, cols


# ---------------------------------------------------------------- points and graphs


def _on_sphere(n, rng):
    x = rng.standard_normal((n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _grid(n):
    height = next(h for h in range(int(np.sqrt(n)), 0, -1) if n % h == 0)
    at = np.arange(n).reshape(height, -1)
    beside = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], axis=1)
    below = np.stack([at[:-1].ravel(), at[1:].ravel()], axis=1)
    return np.concatenate([beside, below])


def _small_world(n, degree, rewire, rng):
    if degree % 2:
        raise ValueError(f"degree must be even for a small world, half on each side; got {degree}")
    if not 0 <= rewire <= 1:
        raise ValueError(f"rewire must be a probability, got {rewire}")
    joined, every = np.eye(n, dtype=bool), np.arange(n)
    for lag in range(1, degree // 2 + 1):
        joined[every, (every + lag) % n] = joined[(every + lag) % n, every] = True
    for lag in range(1, degree // 2 + 1):
        for i in range(n):
            j = (i + lag) % n
            if rng.random() < rewire and joined[i, j] and not joined[i].all():
                k = rng.choice(np.flatnonzero(~joined[i]))
                joined[i, j] = joined[j, i] = False
                joined[i, k] = joined[k, i] = True
    return np.argwhere(np.triu(joined, 1))


def _random_regular(n, degree, rng):
    if n * degree % 2:
        raise ValueError(f"n times degree must be even, got n = {n} and degree = {degree}")
    if 2 * degree > n - 1:  # exchanges would hardly find one: take what a sparse graph leaves out
        absent = np.ones((n, n), dtype=bool)
        absent[tuple(_random_regular(n, n - 1 - degree, rng).T)] = False
        return np.argwhere(np.triu(absent, 1))
    ends = rng.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2)
    while True:
        ends.sort(axis=1)
        keys = ends[:, 0] * n + ends[:, 1]
        _, first = np.unique(keys, return_index=True)
        bad = np.ones(len(ends), dtype=bool)
        bad[first] = False  # all but the first of a double edge
        bad |= ends[:, 0] == ends[:, 1]
        if not bad.any():
            return ends
        # Each bad edge exchanges an end with an edge drawn at random.
        for e in np.flatnonzero(bad):
            f = rng.integers(len(ends))
            ends[e, 1], ends[f, 1] = ends[f, 1], ends[e, 1]


def _positive(x: Any, what: str) -> float:
    x = float(as_finite(x, what, ndim=0))
    if x <= 0:
        raise ValueError(f"{what} must be positive, got {x}")
    return x
