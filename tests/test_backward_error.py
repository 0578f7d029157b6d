"""Small D: right values, against arithmetic of many digits; products and updates of the hard."""

import numpy as np
import pytest
from decimals import Exact, precise
from test_exact import check

from mlrops import (
    MLR,
    Dense,
    Diagonal,
    GeneralMLR,
    Hierarchy,
    LowRank,
    LowRankPlusDiagonal,
    Product,
    Woodbury,
)

EPS = {np.float64: np.finfo(np.float64).eps, np.float32: np.finfo(np.float32).eps}
both = pytest.mark.parametrize("dtype", [np.float64, np.float32])
TREES = {
    "flat": ([1], (3,)), "as many factors as features": ([1], (12,)),
    "more": ([1], (15,)), "two levels": ([1, 3], (3, 2)), "three levels": ([1, 2, 6], (4, 3, 2)),
}
N = 12


def matrix(tree, power, spread, dtype):
    counts, ranks = TREES[tree]
    rng = np.random.default_rng(power)
    F = rng.standard_normal((N, sum(ranks))).astype(dtype)
    D = rng.permutation(np.logspace(-power, 0, N)) if spread else np.full(N, 10.0**-power)
    return MLR.from_compact(Hierarchy.balanced(N, counts), ranks, F, D.astype(dtype)), rng


@both
@pytest.mark.parametrize("tree", TREES)
def test_the_value_is_right(tree, dtype):
    for power in range(0, 17, 2) if dtype is np.float64 else range(0, 9):
        for spread in (False, True):
            A, rng = matrix(tree, power, spread, dtype)
            with precise():
                check(A, Exact(A), rng)


def test_the_cases_of_old():
    rng = np.random.default_rng(0)
    F = rng.standard_normal((20, 3))
    b = rng.standard_normal(20)
    for make in (lambda D, F: MLR(Hierarchy.flat(20), [F], D), lambda D, F: MLR(
            Hierarchy.balanced(20, [1, 4]), [F, F[::-1]], D)):
        for dtype, d in ((np.float64, 1e-14), (np.float32, 1e-6)):
            A = make(np.full(20, d, dtype), F.astype(dtype))
            with precise():
                exact = Exact(A)
                for c in (b, A.toarray() @ b, F[:, 0]):
                    c = c.astype(dtype)
                    assert exact.backward_error(A.solve(c), c) <= 100 * EPS[dtype]


@pytest.mark.quick(2)
@both
@pytest.mark.parametrize("n, tree, rank", [(100_000, [1], 5), (20_000, [1, 20, 2000], 2),
                                           (300, [1, 3, 150], 3)])
def test_ordinary_matrices_are_never_refused(n, tree, rank, dtype):
    rng = np.random.default_rng(n)
    F = rng.standard_normal((n, rank * len(tree))).astype(dtype)
    D = rng.permutation(np.logspace(-1, 2, n)).astype(dtype)
    A = MLR.from_compact(Hierarchy.balanced(n, tree), [rank] * len(tree), F, D)
    x = rng.standard_normal((n, 2)).astype(dtype)
    for B in [A] + [LowRankPlusDiagonal(F, D)] * (len(tree) == 1):
        b = B @ x
        for c in (x, b):
            for result in (B.solve(c), B.inv() @ c, B.whiten(c), B.color(c), B.inv_quad(c)):
                assert np.isfinite(result).all()
        tol = 1e-9 if dtype is np.float64 else 1e-2
        np.testing.assert_allclose(B.whiten(B.color(x)), x, atol=tol)
        np.testing.assert_allclose(B.inv_quad(b), np.einsum("ik,ik->k", x, b), rtol=tol)
        assert np.isfinite(B.logdet()) and np.isfinite(B.inv().logdet())
        assert (B.inv().diagonal() > 0).all()
    assert (A.partial_variance() > 0).all()


@both
def test_sizes_of_right_hand_sides(dtype):
    """Columns of any size, side by side, are solved as well as columns of size one."""
    rng = np.random.default_rng(0)
    sizes = (1e-30, 1e-20, 1.0, 1e20, 1e30) if dtype is np.float32 else (
        1e-250, 1e-150, 1.0, 1e150, 1e250)
    A, _ = matrix("two levels", 4 if dtype is np.float32 else 9, True, dtype)
    low = LowRankPlusDiagonal(A.F[:, :3], A.D)
    one = (A.toarray() @ rng.standard_normal(N)).astype(dtype)
    B = one[:, None] * np.array([*sizes, 0], dtype)
    for op in (A, low, A.inv(), low.inv(), A.to_general(), GeneralMLR.from_mlr(A) @ low,
               Woodbury(low, A.F[:, :1]), Dense(A.toarray()), Product(low, Diagonal(A.D + 1))):
        expected = op.solve(one)
        X = op.solve(B)
        for j, size in enumerate(sizes):
            np.testing.assert_allclose(X[:, j] / dtype(size), expected, rtol=1e-2, atol=(
                1e-3 * np.abs(expected).max()))
        assert not X[:, -1].any()
    quad = A.inv_quad(B[:, 1:4]) if dtype is np.float64 else A.inv_quad(B[:, 2:3])
    assert np.isfinite(quad).all() or dtype is np.float64


def test_general_products_and_updates_measure_themselves():
    rng = np.random.default_rng(1)
    n = 30
    h = Hierarchy.balanced(n, [1, 3, 30])
    hard = GeneralMLR(h, h, [rng.standard_normal((n, 2)), rng.standard_normal((n, 1)),
                             np.full((n, 1), 1e-9)],
                      [rng.standard_normal((n, 2)), rng.standard_normal((n, 1)), np.ones((n, 1))])
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    steep = Dense(Q * np.logspace(0, -12, n) @ Q[::-1].T)
    cases = [hard, hard @ hard, Product(steep, steep), steep + LowRank(Q[:, :2]),
             Woodbury(steep, Q[:, :3], None, Q[:, 3:6]),
             LowRank(np.hstack([Q * np.logspace(0, -12, n), Q[:, :1]]), np.hstack([Q, Q[:, 1:2]]))]
    values = 0
    for A in cases:
        dense = A.toarray().astype(np.longdouble)
        norm = np.linalg.norm(dense.astype(float), 2)
        for b in (rng.standard_normal(n), A @ rng.standard_normal(n)):
            try:
                x = A.solve(b)
            except np.linalg.LinAlgError as error:
                assert "backward error" in str(error) or "singular" in str(error)
                continue
            values += 1
            residual = np.linalg.norm((dense @ x - b).astype(float))
            assert residual <= 1.1e4 * EPS[np.float64] * (
                norm * np.linalg.norm(x) + np.linalg.norm(b))
    assert values >= len(cases)
