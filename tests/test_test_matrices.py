"""Test matrices against their definitions, entry by entry, and the laws of what is drawn."""

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
from scipy.spatial.distance import cdist

import mlrops.datasets as datasets
from mlrops.datasets import (
    dct_matrix,
    gauss_transform,
    graph_distances,
    hierarchical_matrix,
    hilbert_matrix,
    sphere_kernel,
    toeplitz_matrix,
)


def test_gauss_transform():
    data = gauss_transform(50, 30, 3.0, dimension=2, random_state=4)
    assert data.targets.shape == (50, 2) and data.sources.shape == (30, 2)
    np.testing.assert_allclose(
        data.A, np.exp(-9 * cdist(data.targets, data.sources, "sqeuclidean")), rtol=1e-12)
    both = np.concatenate([data.targets, data.sources])
    assert both.min() >= 0 and both.max() <= 1 and abs(both.mean() - 0.5) < 0.1
    assert gauss_transform().A.shape == (800, 600)


RADIAL = {
    "gaussian": lambda r: np.exp(-(r**2) / 2),
    "exponential": lambda r: np.exp(-r),
    "matern32": lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
    "multiquadric": lambda r: np.hypot(1, r),
    "inverse_multiquadric": lambda r: 1 / np.hypot(1, r),
    "thin_plate": lambda r: np.array([[x * x * np.log(x) if x else 0.0 for x in row] for row in r]),
}


@pytest.mark.parametrize("kernel", RADIAL)
def test_sphere_kernel(kernel):
    data = sphere_kernel(40, kernel, scale=0.7, random_state=1)
    np.testing.assert_allclose(np.linalg.norm(data.sources, axis=1), 1, rtol=1e-14)
    distance = cdist(data.sources, data.sources)
    np.testing.assert_allclose(data.A, RADIAL[kernel](distance / 0.7), rtol=1e-10, atol=1e-13)
    assert np.array_equal(data.A, data.A.T) and data.targets is data.sources
    other = sphere_kernel(40, kernel, m=25, random_state=1)
    assert other.A.shape == (25, 40) and np.array_equal(other.sources, data.sources)


def bfs(adjacency):
    """Lengths of shortest paths by powers of the adjacency matrix."""
    n = len(adjacency)
    out = np.full((n, n), np.inf)
    reached = np.eye(n)
    for length in range(n):
        out[(reached > 0) & np.isinf(out)] = length
        reached = (reached @ adjacency > 0).astype(float)
    return out


@pytest.mark.parametrize("graph, options", [
    ("small_world", {"degree": 4, "rewire": 0.3}), ("small_world", {"degree": 2, "rewire": 0.0}),
    ("grid", {}), ("random_regular", {"degree": 3}), ("random_regular", {"degree": 5}),
    ("random_regular", {"degree": 35}), ("random_regular", {"degree": 1})])
def test_graph_distances(graph, options):
    n = 40
    A = graph_distances(graph, n, random_state=2, **options)
    edges = (A == 1).astype(float)
    np.testing.assert_array_equal(A, bfs(edges))
    np.testing.assert_array_equal(A, A.T)
    degrees = edges.sum(axis=1)
    if graph == "random_regular":
        assert (degrees == options["degree"]).all()
    elif graph == "small_world":
        assert degrees.sum() == n * options["degree"]  # edges are led elsewhere, none is lost
        ring = graph_distances(graph, n, random_state=2, degree=options["degree"], rewire=0.0)
        lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        steps = -(-np.minimum(lag, n - lag) // (options["degree"] // 2))
        np.testing.assert_array_equal(ring, steps)
        assert (A != ring).any() == (options["rewire"] > 0)
    else:  # 5 by 8
        x, y = np.divmod(np.arange(n), 8)
        np.testing.assert_array_equal(
            A, np.abs(np.subtract.outer(x, x)) + np.abs(np.subtract.outer(y, y)))


def test_rewiring_shortens_paths():
    long, short = (graph_distances("small_world", 400, rewire=p, random_state=0)
                   for p in (0.0, 0.2))
    assert short.mean() < long.mean() / 5


def test_toeplitz():
    A = toeplitz_matrix(6, 4, decay=0.5, symmetric=False, random_state=3)
    np.testing.assert_array_equal(A, scipy.linalg.toeplitz(A[:, 0], A[0]))
    assert A.shape == (4, 6) and len(np.unique(A)) == 9
    S = toeplitz_matrix(6, decay=0.5, random_state=3)
    np.testing.assert_array_equal(S, scipy.linalg.toeplitz(S[0]))
    flat = toeplitz_matrix(6, decay=0.0, random_state=3)
    np.testing.assert_allclose(S[0] * np.sqrt(1 + np.arange(6)), flat[0], rtol=1e-14)


def test_dct_and_hilbert():
    np.testing.assert_allclose(
        dct_matrix(9), scipy.fft.dct(np.eye(9), axis=0, norm="ortho"), atol=1e-14)
    np.testing.assert_allclose(hilbert_matrix(7), scipy.linalg.hilbert(7), rtol=1e-15)
    np.testing.assert_array_equal(hilbert_matrix(7, 3), hilbert_matrix(7)[:3])


def test_hierarchical_matrix():
    A, rows, cols = hierarchical_matrix(60, 44, [1, 2, 4], [2, 1, 3], random_state=0)
    assert rows.group_counts == cols.group_counts == (1, 2, 4)
    half = [tree.labels(1) for tree in (rows, cols)]
    quarter = [tree.labels(2) for tree in (rows, cols)]
    rank = np.linalg.matrix_rank
    assert rank(A[np.ix_(half[0] == 0, half[1] == 1)]) == 2
    assert rank(A[np.ix_(quarter[0] == 2, quarter[1] == 3)]) == 2 + 1
    assert rank(A[np.ix_(quarter[0] == 2, quarter[1] == 2)]) == 2 + 1 + 3
    noisy, *_ = hierarchical_matrix(60, 44, [1, 2, 4], [2, 1, 3], noise=0.5, random_state=0)
    assert abs((noisy - A).std() - 0.5) < 0.03
    straight, rows, _ = hierarchical_matrix(6, 6, [1, 2], [0, 1], shuffle=False, random_state=0)
    assert not straight[:3, 3:].any() and straight[:3, :3].all()


def test_entries_of_a_level_have_variance_one():
    A, *_ = hierarchical_matrix(400, 300, [1, 2], [50, 0], random_state=1)
    assert abs(A.var() - 1) < 0.05


@pytest.mark.parametrize("draw", [
    lambda seed: gauss_transform(20, 10, random_state=seed).A,
    lambda seed: sphere_kernel(20, random_state=seed).A,
    lambda seed: graph_distances("small_world", 30, rewire=0.5, random_state=seed),
    lambda seed: graph_distances("random_regular", 30, random_state=seed),
    lambda seed: toeplitz_matrix(10, random_state=seed),
    lambda seed: hierarchical_matrix(10, 8, [1, 2], [1, 1], random_state=seed)[0],
], ids=["gauss", "sphere", "small world", "regular", "toeplitz", "hierarchical"])
def test_seeds(draw):
    np.testing.assert_array_equal(draw(3), draw(3))
    np.testing.assert_array_equal(draw(np.random.default_rng(3)), draw(3))
    assert (draw(3) != draw(4)).any()


@pytest.mark.parametrize("call, error, message", [
    (lambda: gauss_transform(0), ValueError, "m must be at least 1, got 0"),
    (lambda: gauss_transform(2.5), TypeError, "m must be an integer, got 2.5"),
    (lambda: gauss_transform(k=-1.0), ValueError, "k must be positive, got -1"),
    (lambda: sphere_kernel(5, "cubic"), ValueError, "kernel must be one of 'gaussian'"),
    (lambda: sphere_kernel(5, scale=np.nan), ValueError, "scale must be finite"),
    (lambda: graph_distances("tree"), ValueError, "graph must be 'small_world'"),
    (lambda: graph_distances(n=4), ValueError, "less than the number of vertices 4, got 4"),
    (lambda: graph_distances(n=10, degree=3), ValueError, "degree must be even"),
    (lambda: graph_distances(n=10, rewire=1.5), ValueError, "rewire must be a probability"),
    (lambda: graph_distances("random_regular", 5, degree=3), ValueError, "n = 5 and degree = 3"),
    (lambda: hierarchical_matrix(8, 8, [1, 2], [1]), ValueError, "2 entries, one a level, got 1"),
    (lambda: hierarchical_matrix(8, 8, [1], [1], noise=-1), ValueError, "must not be negative"),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_exported():
    assert {"gauss_transform", "sphere_kernel", "graph_distances", "toeplitz_matrix", "dct_matrix",
            "hilbert_matrix", "hierarchical_matrix"} <= set(datasets.__all__)
