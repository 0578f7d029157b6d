"""Low rank updates: backward error, memory, and what their constructors refuse."""

import tracemalloc

import numpy as np
import pytest
from market import Bench
from numpy.testing import assert_allclose

from mlrops import MLR, Hierarchy
from mlrops.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    LowRankPlusDiagonal,
    Permutation,
    Woodbury,
    factored,
    refine,
)
from mlrops.operators import low_rank_plus_diagonal as module

EPS = np.finfo(float).eps


def backward_error(A, x, b):
    """‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖) in extended precision, for F and D as they are stored."""
    F, D, x, b = (np.asarray(v, np.longdouble) for v in (A.F, A.D, x, b))
    norm = max(np.linalg.norm(np.asarray(A.F, float), 2) ** 2, float(D.max()))
    residual = D * x + F @ (F.T @ x) - b
    size = norm * np.sqrt((x * x).sum()) + np.sqrt((b * b).sum())
    return float(np.sqrt((residual * residual).sum()) / size)


def diagonals(n, rng):
    return {
        "ones": np.ones(n),
        "12 decades shuffled": rng.permutation(np.logspace(-6, 6, n)),
        "down to 1e-12": np.logspace(-12, 0, n),
        "up to 1e12": np.logspace(0, 12, n),
        "all 1e-12": np.full(n, 1e-12),
        "all 1e12": np.full(n, 1e12),
    }


CASES = [(3, 1), (40, 6), (2000, 10), (20_000, 30)]


@pytest.mark.quick(8)
@pytest.mark.parametrize("n, k", CASES)
@pytest.mark.parametrize("which", list(diagonals(2, np.random.default_rng(0))))
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_backward_error(n, k, which, scale):
    rng = np.random.default_rng(n)
    F = scale * rng.standard_normal((n, k)) * np.logspace(0, -3, k)
    A = LowRankPlusDiagonal(F, diagonals(n, rng)[which])
    for b in (rng.standard_normal(n), A @ rng.standard_normal(n), A @ np.ones(n),
              F @ rng.standard_normal(k), A.D * rng.standard_normal(n), np.eye(n, 1)[:, 0]):
        assert backward_error(A, A.solve(b), b) < 1e-13
    B = np.stack([b, A @ rng.standard_normal(n)], axis=1)
    X = A.solve(B)
    assert backward_error(A, X[:, 0], B[:, 0]) < 1e-13
    assert backward_error(A, X[:, 1], B[:, 1]) < 1e-13


@pytest.mark.parametrize("make", [LowRankPlusDiagonal, lambda F, D: MLR(
    Hierarchy.flat(len(D)), [F], D)])
def test_the_uncorrected_solve_would_not_do(make, monkeypatch):
    """The correction keeps the backward error small, and is skipped where nothing needs it."""
    rng = np.random.default_rng(0)
    n, k = 2000, 10
    A = make(rng.standard_normal((n, k)), np.logspace(-2, 3, n))
    assert A.factorization.method == "cholesky"
    b = A @ rng.standard_normal(n)
    steps = []
    explained = type(A)._explained

    def spy(self, t):
        steps.append(t)
        return explained(self, t)

    monkeypatch.setattr(type(A), "_explained", spy)
    before = len(steps)
    A.solve(rng.standard_normal(n))
    once = len(steps) - before
    x = A.solve(b)
    assert len(steps) > 2 * once and backward_error(A, x, b) < 2e-14
    monkeypatch.setattr(factored, "CORRECTIONS", 0)
    assert backward_error(A, A.solve(b), b) > backward_error(A, x, b)
    monkeypatch.setattr(factored, "LIMIT", 1e-3)
    monkeypatch.setattr(refine, "LIMIT", 1e-3)
    with pytest.raises(np.linalg.LinAlgError, match=r"backward error .* of \S+; 2.2e-19 is what"):
        A.solve(b)


@pytest.mark.parametrize("s", [1e-8, 1e-4, 1, 1e4, 1e8])
def test_scale_equivariance(s):
    bench = Bench(np.float64)
    F, D, x = bench.normal(50, 4), bench.positive(50), bench.normal(50)
    A, B = LowRankPlusDiagonal(F, D), LowRankPlusDiagonal(s * F, s * s * D)
    assert_allclose(B.solve(s * s * x), A.solve(x), rtol=1e-11)
    assert_allclose(B.logdet(), A.logdet() + 100 * np.log(s), rtol=1e-12)
    assert_allclose(B.inv_quad(s * x), A.inv_quad(x), rtol=1e-11)
    assert_allclose(B.whiten(s * x), A.whiten(x), rtol=1e-9, atol=1e-11)


def test_logdet_of_extreme_diagonals():
    # det = Π D (1 + Σ f²/D), in closed form for k = 1
    D, f = np.logspace(-300, 300, 41), np.logspace(-150, 150, 41)
    A = LowRankPlusDiagonal(f[:, None], D)
    assert_allclose(A.logdet(), np.log(D).sum() + np.log1p((f * f / D).sum()), rtol=1e-13,
                    atol=1e-10)


def test_inv_quad_does_not_cancel():
    # x = F z: xᵀ Σ⁻¹ x = ‖z‖² λ / (1 + λ) for k = 1, λ = ‖f‖² / D
    D = np.full(100, 1e-10)
    f = np.random.default_rng(0).standard_normal(100)
    A = LowRankPlusDiagonal(f[:, None], D)
    exact = 1 / (1 + 1e-10 / (f @ f))
    assert_allclose(A.inv_quad(f), exact, rtol=1e-14)
    assert_allclose(A.inv_quad(np.outer(f, [1.0, -2.0])), [exact, 4 * exact], rtol=1e-14)


def test_root_of_a_nearly_singular_matrix():
    bench = Bench(np.float64)
    F = bench.normal(30, 3)
    A = LowRankPlusDiagonal(F, np.full(30, 1e-10))
    S = A.color(np.eye(30))
    assert np.linalg.norm(S @ S.T - A.toarray()) < 1e-13 * np.linalg.norm(A.toarray())
    assert_allclose(A.whiten(S), np.eye(30), atol=1e-8)


def test_root_is_symmetric_for_equal_variances():
    S = LowRankPlusDiagonal(Bench(np.float64).normal(8, 2), np.full(8, 0.7)).color(np.eye(8))
    assert_allclose(S, S.T, atol=1e-15)


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-11), (np.float32, 2e-4)])
def test_low_rank_plus_diagonal_is_an_mlr_of_one_group(dtype, tol):
    """One matrix, one mathematics."""
    bench = Bench(dtype)
    F, D, X = bench.normal(40, 3), bench.positive(40), bench.normal(40, 4)
    A, B = LowRankPlusDiagonal(F, D), MLR.from_compact(Hierarchy.flat(40), 3, F, D)
    for verb in ("__matmul__", "solve", "inv_quad", "whiten", "color"):
        for x in (X, X[:, 0]):
            found, expected = getattr(A, verb)(x), getattr(B, verb)(x)
            assert np.asarray(found).dtype == np.asarray(expected).dtype
            assert_allclose(found, expected, rtol=tol, atol=tol)
    assert_allclose(A.logdet(), B.logdet(), rtol=tol)
    assert_allclose(A.inv().diagonal(), B.inv().diagonal(), rtol=tol)
    assert_allclose(A.inv() @ X, B.inv() @ X, rtol=tol, atol=tol)


def test_diagonal_of_the_inverse_by_solves():
    """F = a I + 1 1ᵀ and D = 1: 1 - f C fᵀ loses every digit, the solves lose none."""
    a, n = 1e8, 6
    A = LowRankPlusDiagonal(a * np.eye(n) + 1, np.ones(n))
    p, c = a * a + 1, 2 * a + n
    assert_allclose(A.inv().diagonal(), 1 / p - c / (p * (p + n * c)), rtol=1e-13)


# ---------------------------------------------------------------- factored once, nothing dense


def test_factored_once(monkeypatch):
    calls = []
    cholesky = module.linalg.cholesky

    def spy(*args, **options):
        calls.append(args[0].shape)
        return cholesky(*args, **options)

    monkeypatch.setattr(module.linalg, "cholesky", spy)
    A = LowRankPlusDiagonal(Bench(np.float64).normal(60, 4), np.ones(60))
    for _ in range(2):
        A.solve(np.ones(60))
        A.logdet()
        A.inv().diagonal()
        A.inv_quad(np.ones(60))
        A.inv().solve(np.ones(60))
        A.inv().logdet()
        A.whiten(A.color(np.ones(60)))
    assert calls == [(4, 4)]


def test_woodbury_factored_once(monkeypatch):
    solves = []
    solve = Dense._solve

    def spy(self, b):
        solves.append((self.shape, b.shape))
        return solve(self, b)

    bench = Bench(np.float64)
    A = Woodbury(bench.regular(20), bench.normal(20, 3), bench.normal(3, 3), bench.normal(20, 3))
    monkeypatch.setattr(Dense, "_solve", spy)
    for _ in range(3):
        A.solve(np.ones(20))
        A.slogdet()
    assert solves.count(((20, 20), (20, 3))) == 1
    assert solves.count(((20, 20), (20,))) == 3  # and no correction where none is needed


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_large_temporaries():
    """At n = 200,000 a dense matrix is 320 GB; nor is there a second array of the size of F."""
    n, k = 200_000, 8
    rng = np.random.default_rng(0)
    A = LowRankPlusDiagonal(rng.standard_normal((n, k)), rng.uniform(0.5, 2, n))
    b, hard, vector = np.ones(n), A @ np.ones(n), 8 * n
    LowRankPlusDiagonal(A.F[:5], A.D[:5]).logdet()  # compiles
    assert peak(A.logdet) < 3 * vector
    assert peak(lambda: A.solve(b)) < 4 * vector
    assert peak(lambda: A.solve(hard)) < 5 * vector
    assert peak(lambda: A @ b) < 4 * vector
    assert peak(lambda: A.inv_quad(b)) < 5 * vector
    assert peak(lambda: A.whiten(b)) < 5 * vector
    assert peak(lambda: A.color(b)) < 5 * vector
    assert peak(lambda: A.inv().diagonal()) < 6 * k * vector


def test_woodbury_forms_nothing_dense():
    n, k = 200_000, 3
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((n, k)), rng.standard_normal((n, k)) / n
    A = Woodbury(Permutation(rng.permutation(n)), U, None, V)
    x = rng.standard_normal(n)
    limit = 12 * k * 8 * n
    assert peak(lambda: A.solve(x)) < limit
    assert peak(A.slogdet) < limit
    assert_allclose(A @ A.solve(x), x, atol=1e-8)
    assert peak(lambda: A.inv() @ x) < limit
    assert peak(A.diagonal) < limit


# ---------------------------------------------------------------- forms of Woodbury


def test_capacitance_needs_no_inverse_of_C():
    bench = Bench(np.float64)
    U, V = bench.normal(7, 3), bench.normal(7, 3)
    for C in (np.zeros((3, 3)), np.diag([1.0, 0, -1]), np.ones((3, 3)), bench.normal(3, 3)):
        A = Woodbury(Dense(bench.regular(7)), U, C, V)
        dense = A.base.A + U @ C @ V.T
        assert_allclose(A.solve(dense), np.eye(7), atol=1e-11)
        assert_allclose(A.slogdet()[1], np.linalg.slogdet(dense)[1], rtol=1e-11)
        assert_allclose(A.inv().toarray() @ dense, np.eye(7), atol=1e-11)
        assert_allclose(A.inv().T @ dense.T, np.eye(7), atol=1e-11)


def test_inverse_of_lrd():
    bench = Bench(np.float64)
    F, D = bench.normal(9, 2), bench.positive(9)
    A = LowRankPlusDiagonal(F, D)
    B = A.inv()
    dense = np.linalg.inv(F @ F.T + np.diag(D))
    assert isinstance(B, Woodbury) and B.positive_definite and B.inv() is A
    assert_allclose(B.base.d, 1 / D)
    assert_allclose(np.diag(1 / D) - B.U @ B.U.T, dense, atol=1e-12)
    assert_allclose(B.diagonal(), np.diag(dense), rtol=1e-12)
    assert np.array_equal(B.C, -np.eye(2))


def test_singular_woodbury():
    u = np.array([[1.0], [0], [0]])
    A = Identity(3) + (-1) * Dense(u) @ Dense(u).T
    assert np.linalg.matrix_rank(A.toarray()) == 2
    B = Woodbury(Identity(3), u, [[-1.0]])
    assert B.slogdet() == (0.0, -np.inf)
    for verb in (lambda: B.solve(np.ones(3)), B.inv):
        with pytest.raises(np.linalg.LinAlgError, match="capacitance"):
            verb()
    C = Woodbury(Diagonal([0.0, 1, 1]), u)  # the base is singular, the sum is not
    assert C.slogdet() == (1.0, 0.0)
    assert_allclose(C.solve([1.0, 2.0, 3.0]), [1, 2, 3], rtol=1e-12)
    D = Woodbury(Diagonal([0.0, 0, 1]), u)
    assert D.slogdet() == (0.0, -np.inf)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        D.solve(np.ones(3))


# ---------------------------------------------------------------- immutability


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_copied_once_and_kept_read_only(order):
    F, D = np.asfortranarray(np.ones((4, 2))) if order == "F" else np.ones((4, 2)), np.ones(4)
    A = LowRankPlusDiagonal(F, D)
    before = A.toarray()
    F[:], D[:] = 7, 7
    assert np.array_equal(A.toarray(), before)
    for array in (A.F, A.D):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    B = LowRankPlusDiagonal(A.F, A.D)  # read-only arrays that nobody else can write are shared
    assert B.F is A.F and B.D is A.D
    view = np.ones((4, 2))
    locked = view[:]
    locked.flags.writeable = False
    C = LowRankPlusDiagonal(locked, A.D)
    view[:] = 9
    assert np.array_equal(C.toarray(), before)


# ---------------------------------------------------------------- refusals


def test_lrd_refuses():
    F, D = np.ones((6, 2)), np.ones(6)
    with pytest.raises(ValueError, match=r"positive, got 0 at feature 2 \(2 features: 2, 4\)"):
        LowRankPlusDiagonal(F, [1, 1, 0, 1, -1, 1])
    with pytest.raises(ValueError, match=r"D must be finite.*feature 1"):
        LowRankPlusDiagonal(F, [1, np.nan, 1, 1, 1, 1])
    broken = F.copy()
    broken[3, 0] = broken[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"F must be finite, got NaN or infinity in 2 of 12.*3, 5"):
        LowRankPlusDiagonal(broken, D)
    with pytest.raises(ValueError, match="F must be finite"):
        LowRankPlusDiagonal(np.full((6, 2), np.inf), D)
    with pytest.raises(TypeError, match="complex"):
        LowRankPlusDiagonal(1j * F, D)
    with pytest.raises(TypeError, match="complex"):
        LowRankPlusDiagonal(F, 1j * D)
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(5,\)"):
        LowRankPlusDiagonal(F, D[:5])
    with pytest.raises(ValueError, match="2-d"):
        LowRankPlusDiagonal(D, D)
    with pytest.raises(TypeError, match="dtype object|numeric"):
        LowRankPlusDiagonal(np.full((6, 2), "x", object), D)


def test_overflow_is_named():
    A = LowRankPlusDiagonal(np.full((3, 1), 1e250), np.full(3, 1e-200))
    with np.errstate(over="ignore"), pytest.raises(np.linalg.LinAlgError, match="overflows"):
        A.logdet()


def test_woodbury_refuses():
    U = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        Woodbury(np.ones((3, 5)), U)
    with pytest.raises(ValueError, match=r"U must have shape"):
        Woodbury(np.eye(3), U)
    with pytest.raises(ValueError, match=r"V must have shape \(n, k\) = \(4, 2\)"):
        Woodbury(np.eye(4), U, None, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"C must have shape \(k, k\) = \(2, 2\), got \(3, 3\)"):
        Woodbury(np.eye(4), U, np.eye(3))
    with pytest.raises(ValueError, match="C must be finite"):
        Woodbury(np.eye(4), U, [[np.nan, 0], [0, 1]])
    with pytest.raises(TypeError, match="complex"):
        Woodbury(np.eye(4), U * 1j)
    with pytest.raises(TypeError):
        Woodbury(3.0, U)


# ---------------------------------------------------------------- bases whose inverse is large


def hard_bases(d, rng):
    n, dtype = d.size, d.dtype
    F = rng.standard_normal((n, 3)).astype(dtype)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return {
        "diagonal": Diagonal(d), "negative": Diagonal(-d),
        "low rank plus diagonal": LowRankPlusDiagonal(F, d),
        "mlr": MLR(Hierarchy.balanced(n, [1, 5]), [F[:, :2], F[:, 2:]], d),
        "positive": Dense((Q * d @ Q.T).astype(dtype)),
        "dense": Dense((Q * d @ Q[::-1].T).astype(dtype)),
        "blocks": BlockDiagonal([Diagonal(d[:10]), LowRankPlusDiagonal(F[10:], d[10:])]),
        "orthogonal": dtype.type(d.min()) * Permutation(rng.permutation(n)),
    }


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", ["U", "U C U", "U V", "U C V"])
def test_right_over_any_base(form, dtype):
    """A⁻¹ up to 1e14 times as large as the inverse of the sum."""
    n, eps = 30, np.finfo(dtype).eps
    for power in (2, 6, 10, 14) if dtype is np.float64 else (2, 4, 6):
        rng = np.random.default_rng(power)
        U, V = rng.standard_normal((2, n, 3)).astype(dtype)
        C = rng.standard_normal((3, 3)).astype(dtype)
        C = {"U C U": C @ C.T + np.eye(3, dtype=dtype), "U C V": C}.get(form)
        V = V if "V" in form else None
        for spread in (False, True):
            d = np.logspace(-power, 0, n) if spread else np.full(n, 10.0**-power)
            for name, base in hard_bases(rng.permutation(d).astype(dtype), rng).items():
                A = Woodbury(base, U, C, V)
                middle = np.eye(3) if C is None else C
                dense = base.toarray() + U.astype(np.longdouble) @ middle.astype(
                    np.longdouble) @ A.V.T
                norm = np.linalg.norm(dense.astype(float), 2)
                for b in (rng.standard_normal(n).astype(dtype), U[:, 0],
                          A @ rng.standard_normal(n).astype(dtype)):
                    for x in (A.solve(b), A.inv() @ b):
                        residual = np.linalg.norm((dense @ x - b).astype(float))
                        size = norm * np.linalg.norm(x.astype(float)) + np.linalg.norm(b)
                        assert residual <= 100 * eps * size, (name, power, spread)


def test_hard_positive_updates_are_factored():
    rng = np.random.default_rng(0)
    U, d = rng.standard_normal((30, 3)), np.full(30, 1e-10)
    A, B = Woodbury(Diagonal(d), U), LowRankPlusDiagonal(U, d)
    b = B @ rng.standard_normal(30)
    assert_allclose(A.solve(b), B.solve(b), rtol=1e-12, atol=1e-13)
    assert_allclose(A.logdet(), B.logdet(), rtol=1e-12)
