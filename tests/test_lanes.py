"""Vectors of four numbers in kernels: what rows of any length, and nodes of any rank, make of them.

A vector's last lanes may lie behind its row: in the next one, or behind the array.
"""

import numpy as np
import pytest
from trees import PATHS, close, computing, make_case, spread

from mlrops import Hierarchy
from mlrops.kernels import _compiled_rows
from mlrops.kernels._jit import jit
from mlrops.kernels._lanes import (
    V,
    add,
    axpy,
    fma,
    leading,
    load,
    product,
    store,
    store_column,
    times,
    total,
    totals,
    zeros,
)

DTYPES = [np.float64, np.float32]
U = np.uint64


@jit
def combined(X, y, s, out, sums):
    """out = X + s X² + y, row by row; sums (rows, 4): of x, x², x y and once more of x."""
    n = U(X.shape[1])
    for i in range(U(X.shape[0])):
        a = zeros(X)
        b = zeros(X)
        c = zeros(X)
        j = U(0)
        while j < n:
            m = n - j
            v = load(X, i * n + j, m)
            w = load(y, j, m)
            store(out, i * n + j, m, add(axpy(v, s, product(v, v)), w))
            a = add(a, v)
            b = fma(b, v, v)
            c = fma(c, v, leading(add(w, times(s, zeros(X))), m))
            j += V
        store(sums, i * V, V, totals(a, b, c, zeros(X)))
        sums[i, U(3)] = total(a)


@jit
def transposed(X, out):
    """out = Xᵀ, by columns of lanes."""
    m = U(X.shape[0])
    n = U(X.shape[1])
    for i in range(m):
        j = U(0)
        while j < n:
            store_column(out, j * m + i, m, min(n - j, V), load(X, i * n + j, n - j))
            j += V


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", range(1, 14))
def test_rows_of_any_length(n, dtype):
    """Nothing behind a row is read, and nothing there is written."""
    rng = np.random.default_rng(n)
    guarded = np.full((5, n), np.nan, dtype)  # what lies around the rows
    X = guarded[1:4]
    X[...] = rng.integers(-8, 8, X.shape)
    y = rng.integers(-8, 8, n).astype(dtype)
    room = np.full((5, n), 77, dtype)
    sums = np.empty((3, 4), dtype)
    combined(X, y, dtype(3), room[1:4], sums)
    np.testing.assert_array_equal(room[1:4], X + 3 * X**2 + y)  # of whole numbers: exactly
    np.testing.assert_array_equal(room[[0, 4]], 77)
    np.testing.assert_array_equal(
        sums, np.column_stack([X.sum(1), (X**2).sum(1), X @ y, X.sum(1)]))
    out = np.full((n + 2, 3), 77, dtype)
    transposed(X, out[1:-1])
    np.testing.assert_array_equal(out[1:-1], X.T)
    np.testing.assert_array_equal(out[[0, -1]], 77)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_lanes_of_not_a_number(dtype):
    """A row is not spoilt by NaN in the next one."""
    X = np.full((2, 5), np.nan, dtype)
    X[0] = 1
    out, sums = np.empty_like(X), np.empty((2, 4), dtype)
    combined(X, np.ones(5, dtype), dtype(1), out, sums)
    np.testing.assert_array_equal(out[0], 3)
    np.testing.assert_array_equal(sums[0], 5)
    assert np.isnan(out[1]).all()


def test_precisions_may_differ():
    """Samples in double precision meet factors in single precision, and the other way round."""
    rng = np.random.default_rng(0)
    off, F, x = np.array([0, 3, 10]), rng.integers(-4, 5, (10, 6)), rng.integers(-4, 5, (10, 7))
    p, Z = rng.integers(1, 4, 10), rng.integers(-4, 5, (2, 6, 7))
    none = np.empty((0, 0))
    expected = np.stack([F[a:b].T @ (p[a:b, None] * x[a:b]) for a, b in ((0, 3), (3, 10))])
    for one, other in ((np.float32, np.float64), (np.float64, np.float32)):
        T, out = np.empty((2, 6, 7), one), np.empty((10, 7), other)
        _compiled_rows.rows_tdot(F.astype(one), p.astype(other), x.astype(other), off, 0, 0, 2, T,
                                 none)
        np.testing.assert_array_equal(T, expected)
        _compiled_rows.rows_dot(F.astype(one), Z.astype(other), 0, p.astype(other), x.astype(other),
                                off, 0, 2, one(2), False, out, np.empty(0))
        products = np.concatenate([F[a:b] @ z for (a, b), z in zip(
            ((0, 3), (3, 10)), Z, strict=True)])
        np.testing.assert_array_equal(out, p[:, None] * x + 2 * products)
        guarded = np.full((12, 7), 77, one)  # of the precision of F, which p x is not
        _compiled_rows.rows_dot(F.astype(one), Z.astype(other), 0, p.astype(other), x.astype(other),
                                off, 0, 2, one(2), False, guarded[:10], np.empty(0))
        np.testing.assert_array_equal(guarded[:10], p[:, None] * x + 2 * products)
        np.testing.assert_array_equal(guarded[10:], 77)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("R", range(1, 10))
def test_gram_matrices_in_tiles(R, dtype):
    """Of leaves of one row, of 16 rows and of more; nothing around them is written."""
    off = np.array([0, 1, 17, 40])
    rng = np.random.default_rng(R)
    F, scale = rng.integers(-4, 5, (40, R)).astype(dtype), rng.integers(1, 4, 40).astype(dtype)
    room = np.full((5, R, R), 77, dtype)
    _compiled_rows.rows_gram(F, scale, off, 0, 0, 3, room[1:4])
    for G, lo, hi in zip(room[1:4], off[:-1], off[1:], strict=True):
        own = F[lo:hi]
        np.testing.assert_array_equal(np.tril(G), np.tril(own.T @ (scale[lo:hi, None] * own)))
    np.testing.assert_array_equal(room[[0, 4]], 77)


RANKS = [(5, 6, 9), (3, 5, 3), (1, 8, 4), (7, 0, 5), (0, 0, 6), (6, 5, 0), (13, 1, 2), (4, 4, 4),
         (2, 2, 13)]


@pytest.mark.parametrize("path", ["as shipped", "loops for every leaf",
                                  "block after block of leaves", "subtrees shared by threads"])
@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_nodes_of_any_rank(ranks, path):
    """Ranks of one, two and more vectors, on unequal leaves, by value."""
    assert path in PATHS
    tree = Hierarchy.from_boundaries([[0, 61], [0, 9, 40, 61], [0, 3, 9, 10, 24, 40, 45, 61]])
    case = make_case(tree, ranks, 2)
    with computing(path):
        A = make_case(tree, ranks, 2).A
        inverse = np.linalg.inv(case.dense)
        for k in (None, 1, 3, 9):
            x = case.rng.standard_normal(61 if k is None else (61, k))
            close(A @ x, case.dense @ x, 1e-13)
            close(A.solve(x), inverse @ x, 1e-11)
        assert abs(A.logdet() - np.linalg.slogdet(case.dense)[1]) < 1e-11
        close(A.partial_variance(), 1 / np.diag(inverse), 1e-11)
        regressed(A, case)


def regressed(A, case):
    """The M-step of EM against the same by dense matrices."""
    F, N = spread(case.hierarchy, case.factors), 8
    X = case.rng.standard_normal((len(F), N))
    D = np.diag(A.D)
    cov = np.linalg.inv(np.eye(F.shape[1]) + F.T @ np.linalg.solve(D, F))
    Z = cov @ F.T @ np.linalg.solve(D, X)
    posterior = A.posterior(X)
    for keep in (False, True):
        found, variances = posterior.regress((X**2).sum(axis=1), keep_moments=keep)
        for i, own in enumerate(F != 0):
            moments = Z[own] @ Z[own].T + N * cov[np.ix_(own, own)]
            v = Z[own] @ X[i]
            close(found[i], np.linalg.solve(moments, v), 1e-9)
            close(variances[i], (X[i] @ X[i] - found[i] @ v) / N, 1e-9)
