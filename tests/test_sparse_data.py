"""EM on sparse matrices: same iterates as on the dense ones, and nothing dense is formed."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import (
    bitwise,
    check_gradient,
    dense_data,
    run,
    same_iterates,
    some_point,
    step_at,
    tree,
    trees_with_ranks,
)
from test_streamed import random_weights
from trees import PATHS, close, computing

from mlrops import Hierarchy
from mlrops.factor.estep.sources import open_source
from mlrops.factor.estep.streamed import sparse_source
from mlrops.factor.point import Point
from mlrops.factor.start import start

RANKS = (2, 0, 3)


def counts(N=100, n=24, seed=0, density=0.15):
    """Mostly zeros; every column varies."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((N, n)) + 2
    Y[rng.random((N, n)) > density] = 0
    Y[rng.integers(0, N), Y.any(axis=0) == 0] = 1.5
    return Y


# ---------------------------------------------------------------- iterates


@pytest.mark.parametrize("N", [3, 60], ids=["N < n", "N > n"])
@settings(max_examples=12)
@given(case=trees_with_ranks(), center=st.booleans(), weighted=st.booleans(),
       seed=st.integers(0, 1000))
def test_iterates_equal_those_in_memory(N, case, center, weighted, seed):
    h, ranks = case
    Y = counts(N, h.n, seed, density=0.5)
    weights = random_weights(N, seed) if weighted else None
    if weighted and np.ptp(Y[weights > 0], axis=0).min() == 0:
        Y[1:3] += [[1.0], [2.0]]
    expected = run(dense_data(Y, h, center, weights), h, ranks)
    same_iterates(run(sparse_source(sp.csr_array(Y), h, center, weights), h, ranks), expected)


@pytest.mark.parametrize("path", PATHS)
def test_iterates_whichever_way_they_are_computed(path):
    rng = np.random.default_rng(2)
    h = Hierarchy(rng.permutation(60), [[0, 60], [0, 20, 60], [0, 5, 6, 20, 21, 33, 34, 35, 60]])
    Y = counts(90, 60)
    expected = run(dense_data(Y, h), h, (1, 2, 3))
    with computing(path):
        source = sparse_source(sp.csr_array(Y), h, True)
        same_iterates(run(source, h, (1, 2, 3)), expected)
        check_gradient(source, dense_data(Y, h), h, (1, 2, 3))


@pytest.mark.parametrize("weights", [None, random_weights(100)], ids=["equal", "weighted"])
def test_many_blocks(monkeypatch, weights):
    h, Y = tree(), counts()
    expected = run(dense_data(Y, h, True, weights), h, RANKS)
    source = sparse_source(sp.csr_array(Y), h, True, weights)
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    sketch = source.start_data(20, 3)
    monkeypatch.setattr("mlrops.factor.estep.streamed.LARGEST_SPARSE_WIDTH", 7)
    same_iterates(run(source, h, RANKS), expected)
    close(source.start_data(20, 3), sketch, 1e-12)


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("kind", [sp.coo_matrix, sp.coo_array])
def test_formats(format, kind):
    h, Y = tree(), counts()
    expected = run(sparse_source(sp.csr_array(Y), h, True), h, RANKS)
    matrix = kind(Y).asformat(format)
    assert bitwise(run(sparse_source(matrix, h, True), h, RANKS), expected)
    close(matrix.toarray(), Y, 0)


def test_duplicates_and_stored_zeros():
    h, Y = tree(), counts()
    once = sp.coo_array(Y)
    row, col = once.coords if hasattr(once, "coords") else (once.row, once.col)
    extra = np.arange(24)
    twice = sp.coo_array((np.concatenate([once.data / 4, 0.75 * once.data, 0.0 * extra]),
                          (np.concatenate([row, row, extra]), np.concatenate([col, col, extra]))),
                         shape=Y.shape)
    assert twice.nnz > 2 * once.nnz
    for matrix in (twice, twice.tocsr(), twice.tocsc()):
        stored = matrix.data.copy()
        same_iterates(run(sparse_source(matrix, h, True), h, RANKS),
                      run(dense_data(Y, h), h, RANKS), 1e-11)
        assert np.array_equal(matrix.data, stored)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool, np.float32, np.float64])
def test_dtypes(dtype):
    h = tree()
    Y = sp.csr_array(np.round(counts()).astype(dtype))
    source, _, _ = open_source(Y, h, True, "raise", None, None)
    assert source.dtype == (np.float32 if dtype is np.float32 else np.float64)
    assert Y.dtype == dtype
    dense = Y.toarray().astype(source.dtype)
    point = some_point(h, RANKS, source)
    wide = Point(*(x.astype(float) for x in point))
    same_iterates(run(source, h, RANKS, point=point),
                  run(dense_data(dense.astype(float), h), h, RANKS, point=wide),
                  1e-4 if dtype is np.float32 else 1e-10)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_index_types(index):
    h, Y = tree(), sp.csr_array(counts())
    Y.indices, Y.indptr = Y.indices.astype(index), Y.indptr.astype(index)
    same_iterates(run(sparse_source(Y, h, True), h, RANKS),
                  run(dense_data(Y.toarray(), h), h, RANKS))


def test_moments():
    h, Y = tree(), counts()
    Y[:, 3] = np.random.default_rng(1).standard_normal(100) + 1e6  # a full column, far away
    w = random_weights(100)
    source = sparse_source(sp.csc_matrix(Y), h, True, w)
    mean = w @ Y / w.sum()
    close(source.mean, mean[h.permutation], 1e-14)
    found, expected = source.variance, (w @ np.square(Y - mean) / w.sum())[h.permutation]
    assert np.allclose(found, expected, rtol=1e-9)
    assert source.n_samples == 75 and source.weight == pytest.approx(100)


def test_implicit_centring_loses_only_the_digits_of_the_mean():
    """V sums ``(y - mean) z``: what rounding leaves of ``Σ z`` is not multiplied by the mean."""
    h, Y = tree(), np.random.default_rng(0).standard_normal((100, 24)) + 1e5
    same_iterates(run(sparse_source(sp.csr_array(Y), h, True), h, RANKS),
                  run(dense_data(Y, h), h, RANKS), 1e-9)


def test_samples_of_weight_zero_do_not_count():
    h, Y = tree(), counts()
    weights = random_weights(100)
    dirty = Y.copy()
    dirty[weights == 0] = np.nan
    kept = weights > 0
    assert bitwise(
        run(sparse_source(sp.csr_array(dirty), h, True, weights), h, RANKS),
        run(sparse_source(sp.csr_array(Y[kept]), h, True, weights[kept]), h, RANKS))


@settings(max_examples=15)
@given(case=trees_with_ranks(), weighted=st.booleans(), seed=st.integers(0, 1000))
def test_gradient(case, weighted, seed):
    h, ranks = case
    Y = counts(40, h.n, seed, density=0.5)
    weights = random_weights(40, seed) if weighted else None
    data = dense_data(Y, h, True, weights)
    if data.variance.min() > 0.1:
        check_gradient(sparse_source(sp.csr_array(Y), h, True, weights), data, h, ranks)


# ---------------------------------------------------------------- memory


def test_nothing_dense_is_formed():
    n, N, R = 20_000, 5_000, 4
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(n), Hierarchy.balanced(n, [1, 20, 400]).boundaries)
    Y = sp.random_array((N, n), density=1e-3, random_state=rng, format="csr")
    Y = sp.csr_array(sp.vstack([Y, sp.eye_array(2, n), sp.csr_array(np.ones((1, n)))]))

    def fit():
        source = sparse_source(Y, h, True)
        point = Point(*start("svd", h, (2, 1, 1), source, None), source.mean)
        return run(source, h, (2, 1, 1), updates=3, point=point)

    tracemalloc.start()
    trace = [loglik for loglik, _, _ in fit()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trace[0] < trace[1] < trace[2]
    # The start takes a few sketches of 2 R + 20 columns; N×n bytes are 100 MB.
    assert peak < 8 * (5 * n * (2 * R + 20) + 8 * Y.nnz) < 0.5 * N * n


def test_one_node_mean_a_sample_is_too_much():
    """With many samples, not even the factors of all of them are held at once."""
    n, N, R = 300, 60_000, 30
    h = Hierarchy.balanced(n, [1, 3])
    Y = sp.random_array((N, n), density=0.01, random_state=np.random.default_rng(0), format="csr")
    source = sparse_source(Y, h, True)
    point = some_point(h, (15, 15), source)
    step_at(source, h, (15, 15), point)
    tracemalloc.start()
    step_at(source, h, (15, 15), point)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * R * N / 4


# ---------------------------------------------------------------- starting points


@pytest.mark.parametrize("weights", [None, random_weights(100)], ids=["equal", "weighted"])
@pytest.mark.parametrize("center", [True, False])
def test_start_data(weights, center, monkeypatch):
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    h, Y = tree(), counts()
    source = sparse_source(sp.csr_array(Y), h, center, weights)
    data = dense_data(Y, h, center, weights)
    S = data.X @ data.X.T / data.weight
    X = source.start_data(100, None)
    assert X.shape == (24, source.n_samples)
    close(X @ X.T / source.n_samples, S, 1e-12)
    np.testing.assert_allclose(source.start_data(20, None), source.start_data(20, None),
                               atol=1e-12)
    sketches = [source.start_data(20, seed) for seed in range(400)]
    assert sketches[0].shape == (24, 20)
    close(np.square(sketches[3]).sum(axis=1) / source.n_samples, np.diag(S), 1e-12)
    close(sum(X @ X.T for X in sketches) / 400 / source.n_samples, S, 0.08)


# ---------------------------------------------------------------- bad input


def changed(value, at):
    Y = counts()
    Y[at] = value
    return sp.csr_array(Y)


NAMES = [f"gene {j}" for j in range(24)]


@pytest.mark.parametrize("Y, options, error, message", [
    (changed(np.nan, (2, [3, 17])), {}, ValueError,
     r"NaN or infinity in 2 of its \d+ stored entries \(feature 3, 17\)"),
    (changed(-np.inf, (2, 3)), {"names": NAMES}, ValueError, r"feature gene 3\)"),
    (changed(0, (slice(None), [1, 5])), {}, ValueError, r"2 constant features \(1, 5\)"),
    (changed(4.5, (slice(None), 5)), {"names": NAMES}, ValueError, r"\(gene 5\)"),
    (sp.csr_array(counts()[:1]), {}, ValueError, "at least 2 samples.*1"),
    (sp.csr_array(counts(n=23)), {}, ValueError, "24 features.*samples are rows"),
    (sp.csr_array(counts() * 1j), {}, TypeError, "real"),
    (sp.csr_array(counts()), {"weights": np.ones(99)}, ValueError, "100 samples, got 99"),
    (sp.csr_array(counts()), {"weights": -np.eye(100)[7]}, ValueError, "negative.*sample 7"),
    (sp.csr_array(counts()), {"weights": np.zeros(100)}, ValueError, "zero"),
    (sp.csr_array(counts()), {"weights": np.eye(100)[7]}, ValueError, "at least 2 samples"),
])
@pytest.mark.parametrize("format", ["csr", "coo"])
def test_bad_data(Y, options, error, message, format):
    with pytest.raises(error, match=message):
        open_source(Y.asformat(format), tree()._renamed(options.get("names")), True, "raise",
                    options.get("weights"), None)
