"""Small D: a right value or an error with the figure, against arithmetic of 60 digits."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

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
PROMISED = {np.float64: 1e-7, np.float32: 3e-3}
both = pytest.mark.parametrize("dtype", [np.float64, np.float32])
TREES = {
    "flat": ([1], (3,)), "as many factors as features": ([1], (12,)),
    "more": ([1], (15,)), "two levels": ([1, 3], (3, 2)), "three levels": ([1, 2, 6], (4, 3, 2)),
}
N = 12


def decimals(x):
    return np.array([Decimal(float(v)) for v in np.ravel(x)], object).reshape(np.shape(x))


def floats(x):
    return np.asarray(x, object).astype(float)


def exact(A):
    """Σ, Σ⁻¹ as Decimals and log det Σ, by Gauss and Jordan."""
    h, n = A.hierarchy, A.shape[0]
    S = np.diag(decimals(A.D)) + Decimal(0)
    for level, F in enumerate(A.factors):
        labels = h.labels(level)
        if F.shape[1]:
            f = decimals(F)
            S = S + np.where(labels[:, None] == labels, f @ f.T, Decimal(0))
    M = np.concatenate([S, decimals(np.eye(n))], axis=1)
    logdet = Decimal(0)
    for k in range(n):
        logdet += M[k, k].ln()
        M[k] = M[k] / M[k, k]
        for i in range(n):
            if i != k:
                M[i] = M[i] - M[i, k] * M[k]
    return S, M[:, n:], float(logdet)


def matrix(tree, power, spread, dtype):
    counts, ranks = TREES[tree]
    rng = np.random.default_rng(power)
    F = rng.standard_normal((N, sum(ranks))).astype(dtype)
    D = rng.permutation(np.logspace(-power, 0, N)) if spread else np.full(N, 10.0**-power)
    return MLR.from_compact(Hierarchy.balanced(N, counts), ranks, F, D.astype(dtype)), rng


def attempt(values, verb, error, tolerance):
    """Whether a verb gives a value; that value is right, or the error says what was reached."""
    try:
        found = error()
    except np.linalg.LinAlgError as refusal:
        assert any(word in str(refusal) for word in ("reached a backward error", "broke down",
                                                     "rounding could move the result by"))
        values[verb].append(False)
        return
    assert found <= tolerance, (verb, found)
    values[verb].append(True)


@both
@pytest.mark.parametrize("tree", TREES)
def test_the_value_or_an_error(tree, dtype):
    eps, promised = EPS[dtype], PROMISED[dtype]
    verbs = ("solve", "logdet", "partial", "diagonal", "quad", "inverse", "color", "whiten")
    values = {verb: [] for verb in verbs}
    powers = range(0, 17, 2) if dtype is np.float64 else range(0, 9)
    for power in powers:
        for spread in (False, True):
            with localcontext() as context:
                context.prec = 60
                A, rng = matrix(tree, power, spread, dtype)
                S, inverse, logdet = exact(A)
                dense, diagonal = floats(S), floats(np.diag(inverse))
                norm = np.linalg.norm(dense, 2)
                b = rng.standard_normal(N).astype(dtype)
                alone = [MLR.from_compact(A.hierarchy, A.ranks, A.F, A.D)]
                if tree == "flat" and power % 4 == 0:
                    alone.append(LowRankPlusDiagonal(A.F, A.D))
                for B in alone:
                    check(values, B, S, inverse, logdet, dense, diagonal, norm, b, eps, promised)
    for verb in verbs:  # the ordinary ones have to be there
        assert values[verb][0], verb
    if dtype is np.float64 and tree in ("flat", "two levels"):
        for verb in verbs:
            assert sum(values[verb]) >= 0.6 * len(values[verb]), verb


def check(values, A, S, inverse, logdet, dense, diagonal, norm, b, eps, promised):
    def backward(b):
        x = A.solve(b)
        residual = np.linalg.norm(floats(S @ decimals(x) - decimals(b)))
        return residual / (norm * np.linalg.norm(x.astype(float)) + np.linalg.norm(b))

    def quad(x):
        x = decimals(x)
        return float(x @ inverse @ x)

    sample = A.sample(random_state=0)
    image = A @ b
    for c in (b, image):
        attempt(values, "solve", lambda c=c: backward(c), 1e4 * eps)
    attempt(values, "logdet", lambda: abs(A.logdet() - logdet) / max(abs(logdet), 1), promised)
    if isinstance(A, MLR):
        attempt(values, "partial", lambda: np.max(np.abs(A.partial_variance() * diagonal - 1)),
                promised)
    attempt(values, "diagonal", lambda: np.max(np.abs(A.inv().diagonal() / diagonal - 1)),
            promised)
    for x in (b, sample, image):
        attempt(values, "quad", lambda x=x: abs(A.inv_quad(x) / quad(x) - 1), 3 * promised)

    def product():  # relative to the inverse, as any inverse times its condition
        error = np.linalg.norm(A.inv() @ np.eye(N, dtype=A.dtype) - floats(inverse))
        size = np.linalg.norm(floats(inverse))
        return error / size / max(1, eps * norm * size / promised)

    attempt(values, "inverse", product, 3 * promised)

    def root():
        C, deviation = A.color(np.eye(N, dtype=A.dtype)), np.sqrt(np.diag(dense))
        error = floats(decimals(C) @ decimals(C).T - S) / np.outer(deviation, deviation)
        return np.linalg.norm(error) / np.linalg.norm(dense / np.outer(deviation, deviation))

    attempt(values, "color", root, promised)
    attempt(values, "whiten", lambda: abs(
        np.square(A.whiten(sample).astype(float)).sum() / quad(sample) - 1), promised)


def test_the_cases_of_old():
    rng = np.random.default_rng(0)
    F = rng.standard_normal((20, 3))
    b = rng.standard_normal(20)
    for make in (lambda D, F: MLR(Hierarchy.flat(20), [F], D), lambda D, F: MLR(
            Hierarchy.balanced(20, [1, 4]), [F, F[::-1]], D)):
        for dtype, d in ((np.float64, 1e-14), (np.float32, 1e-6)):
            A = make(np.full(20, d, dtype), F.astype(dtype))
            dense = A.toarray().astype(np.longdouble)
            for c in (b, dense.astype(float) @ b, F[:, 0]):
                try:
                    x = A.solve(c.astype(dtype))
                except np.linalg.LinAlgError as error:
                    assert "backward error" in str(error) and "larger D" in str(error)
                    assert ("float64" in str(error).split("larger D")[1]) == (dtype is np.float32)
                    continue
                residual = np.linalg.norm((dense @ x - c.astype(dtype)).astype(float))
                assert residual <= 1e4 * EPS[dtype] * (
                    np.linalg.norm(dense.astype(float), 2) * np.linalg.norm(x.astype(float))
                    + np.linalg.norm(c))


def test_features_are_named():
    F = np.eye(6)[:, :2] * 1e6
    A = MLR(Hierarchy([3, 1, 5, 0, 2, 4], [[0, 6]]), [F + 1e3], np.full(6, 1e-8))
    with pytest.raises(np.linalg.LinAlgError, match=r"partial variance: .* feature"):
        MLR(Hierarchy([3, 1, 5, 0, 2, 4], [[0, 6]]), [np.eye(6) * 1e8 + 1], np.ones(
            6)).partial_variance()
    assert A.shape == (6, 6)


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
