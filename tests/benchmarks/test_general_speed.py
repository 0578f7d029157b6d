"""General multilevel matrices against the dense product, the bare GEMVs and the dense LU."""

import numpy as np
import pytest

from mlrops import Diagonal, GeneralMLR, Hierarchy


def operator(n, ranks, n_levels, seed=0):
    rng = np.random.default_rng(seed)
    bounds = Hierarchy.balanced(n, [2**level for level in range(n_levels)]).boundaries
    rows = Hierarchy(rng.permutation(n), bounds)
    return rng, GeneralMLR.from_compact(
        rows, rows, ranks, *rng.standard_normal((2, n, sum(ranks))), copy=False)


@pytest.fixture(scope="module")
def large():
    rng, A = operator(16_000, (5,) * 10, 10)
    return A, A.toarray(), rng.standard_normal(16_000)


def test_product_against_dense(against_floor, large):
    A, dense, x = large
    best = against_floor("general, A x, n=16,000, R=50", "dense A x", lambda: dense @ x,
                         lambda: A @ x, 1 / 30)
    assert best < 1 / 30


def test_product_against_gemv(against_floor, large):
    A, _, x = large
    assert against_floor("general, A x, n=16,000, R=50", "Cᵀx, B z", lambda: A._B @ (A._C.T @ x),
                         lambda: A @ x, 3) < 3


def test_norm_against_grams(against_floor, large):
    A, _, _ = large
    assert against_floor("general, norm, n=16,000, R=50", "BᵀB, CᵀC",
                         lambda: (A._B.T @ A._B, A._C.T @ A._C), A.norm, 25) < 25


def test_factoring_against_dense(against_floor):
    rng, A = operator(3000, (2,) * 8, 8)
    signs = rng.choice([-1.0, 1.0], 3000)
    dense = A.toarray() + np.diag(signs)
    best = against_floor(
        "general, factor + logdet, n=3000, R=17", "dense slogdet",
        lambda: np.linalg.slogdet(dense), lambda: (A + Diagonal(signs)).slogdet(), 0.5, rounds=3)
    assert best < 0.5
