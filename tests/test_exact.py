"""Whatever D and F are: right values, against arithmetic of many digits."""

import numpy as np
import pytest
from decimals import Exact, decimals, floats, precise

from mlrops import MLR, Diagonal, Hierarchy, LowRankPlusDiagonal
from mlrops.kernels import tree
from mlrops.operators import accuracy, factored

both = pytest.mark.parametrize("dtype", [np.float64, np.float32])
N = 24
# Units of rounding: 1e-12, 1e-10 and 1e-13 of float64, and the same numbers of float32's.
SOLVE, LOGDET, DIAGONAL, ROOT = 100, 4500, 4.5e5, 450


def nested(L, seed):
    """Even for seed 0; else permuted, unequal, with repeated levels and leaves of one feature."""
    if seed == 0:
        return Hierarchy.balanced(N, [(1, 2, 4, 8, 24)[min(level, 4)] for level in range(L)])
    rng = np.random.default_rng([seed, L])
    ends, levels = {0, N}, [[0, N]]
    for _ in range(1, L):
        ends |= set(rng.choice(np.arange(1, N), max(1, N // (2 * L)), replace=False).tolist())
        levels.append(sorted(ends))
    return Hierarchy(rng.permutation(N), levels)


KINDS = {
    **{f"D = 1e-{p}": (lambda F, D, rng, p=p: (F, np.full(N, 10.0**-p)))
       for p in (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16)},
    "F = 1e8": lambda F, D, rng: (1e8 * F, D),
    "16 decades": lambda F, D, rng: (F, rng.permutation(np.logspace(-16, 0, N))),
    "repeated columns": lambda F, D, rng: (np.repeat(F[:, :1], F.shape[1], axis=1), 1e-9 * D),
    "large rows": lambda F, D, rng: (F * rng.permutation(np.logspace(-8, 8, N))[:, None], D),
}
SINGLE = {
    **{f"D = 1e-{p}": (lambda F, D, rng, p=p: (F, np.full(N, 10.0**-p))) for p in range(9)},
    "F = 1e4": lambda F, D, rng: (1e4 * F, D),
    "8 decades": lambda F, D, rng: (F, rng.permutation(np.logspace(-8, 0, N))),
}


def matrix(kind, L, seed, dtype):
    """Ranks 0 to 3 a level, or up to more factors than features in one level."""
    rng = np.random.default_rng([L, seed, len(kind)])
    ranks = rng.integers(0, 4, L)
    ranks[-1] = max(ranks[-1], 1) if L > 1 else (3, 24, 30)[seed % 3]
    kinds = KINDS if dtype is np.float64 else SINGLE
    F, D = kinds[kind](rng.standard_normal((N, ranks.sum())), np.ones(N), rng)
    return MLR.from_compact(nested(L, seed), ranks, F.astype(dtype), D.astype(dtype)), rng


def check(A, exact, rng):
    eps, n = np.finfo(A.dtype).eps, A.shape[0]
    B = np.stack([rng.standard_normal(n), A @ rng.standard_normal(n), A.F[:, 0],
                  A.F @ rng.standard_normal(A.F.shape[1])], axis=1).astype(A.dtype)
    for X in (A.solve(B), A.inv() @ B, np.stack([A.solve(b) for b in B.T], axis=1)):
        for x, b in zip(X.T, B.T, strict=True):
            assert exact.backward_error(x, b) <= SOLVE * eps
    logdet = float(exact.logdet)
    assert abs(A.logdet() - logdet) <= LOGDET * eps * max(1, abs(logdet))
    diagonal = floats(np.diag(exact.inverse))
    assert np.abs(A.inv().diagonal() / diagonal - 1).max() <= DIAGONAL * eps
    if isinstance(A, MLR):
        assert np.abs(A.partial_variance() * diagonal - 1).max() <= DIAGONAL * eps
    quad = floats([b @ exact.inverse @ b for b in decimals(B).T])
    assert np.abs(A.inv_quad(B) / quad - 1).max() <= DIAGONAL * eps
    check_root(A, exact, eps)


def check_root(A, exact, eps):
    unit = np.eye(A.shape[0], dtype=A.dtype)
    S, W = A.color(unit), A.whiten(unit)
    C = decimals(S)
    assert np.linalg.norm(floats(C @ C.T - exact.S), 2) <= ROOT * eps * exact.norm
    inverse, D = floats(exact.inverse), decimals(W)
    assert np.linalg.norm(floats(D.T @ D) - inverse, 2) <= DIAGONAL * eps * np.linalg.norm(
        inverse, 2)
    # W S as it stands, and of vectors: rounding in S z counts as often as S is conditioned.
    condition = np.linalg.norm(S.astype(float), 2) * np.linalg.norm(W.astype(float), 2)
    assert np.abs(A.whiten(S) - unit).max() <= ROOT * eps * condition
    if isinstance(A, MLR):
        inverse = A.inv()
        np.testing.assert_allclose(inverse.color(unit), W.T, rtol=0, atol=(
            DIAGONAL * eps * np.abs(W).max()))
        np.testing.assert_allclose(inverse.whiten(unit), S.T, rtol=0, atol=(
            DIAGONAL * eps * np.abs(S).max()))


@pytest.mark.quick(16)
@pytest.mark.parametrize(("kind", "dtype"), [(kind, np.float64) for kind in KINDS] + [
    (kind, np.float32) for kind in SINGLE])
@pytest.mark.parametrize("L", range(1, 13))
def test_right_whatever_D_and_F(L, kind, dtype):
    for seed in range(2):
        A, rng = matrix(kind, L, seed, dtype)
        with precise():
            check(A, Exact(A), rng)


@both
@pytest.mark.parametrize("k", [3, 24, 30])
def test_low_rank_plus_diagonal(k, dtype):
    rng = np.random.default_rng(k)
    for power in range(0, 17, 2) if dtype is np.float64 else range(9):
        for D in (np.full(N, 10.0**-power), rng.permutation(np.logspace(-power, 0, N))):
            A = LowRankPlusDiagonal(rng.standard_normal((N, k)).astype(dtype), D.astype(dtype))
            with precise():
                check(A, Exact(A), rng)


@both
def test_blas_and_loops_alike(dtype, monkeypatch):
    """Every node by LAPACK, every product by it, and threads: the same matrices."""
    from mlrops.kernels import qr, threads

    monkeypatch.setenv("MLROPS_NUM_THREADS", "3")
    for limits in ({"LAPACK_WORK": 0, "LAPACK_COLUMNS": 1}, {"LAPACK_WORK": 10**12}):
        for name, value in limits.items():
            monkeypatch.setattr(qr, name, value)
        monkeypatch.setattr(threads, "MIN_WORK", 0)
        for L in (1, 3, 7):
            kind = "16 decades" if dtype is np.float64 else "8 decades"
            A, rng = matrix(kind, L, 1, dtype)
            with precise():
                check(A, Exact(A), rng)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    from mlrops.kernels import threads

    monkeypatch.setattr(threads, "MIN_WORK", 0)
    A, rng = matrix("16 decades", 5, 1, np.float64)
    b, found = rng.standard_normal((N, 3)), []
    for count in "123":
        monkeypatch.setenv("MLROPS_NUM_THREADS", count)
        B = MLR.from_compact(A.hierarchy, A.ranks, A.F, A.D)
        found.append([B.solve(b), B.whiten(b), B.logdet(), B.partial_variance()])
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            assert np.array_equal(x, y)


def test_columns_many_at_a_time(monkeypatch):
    from mlrops.kernels import qr

    A, rng = matrix("D = 1e-12", 4, 1, np.float64)
    b = rng.standard_normal((N, 7))
    whole = [A.solve(b), A.whiten(b), A.color(b), A.inv().color(b), A.inv().whiten(b),
             A.partial_variance()]
    monkeypatch.setattr(qr, "COLUMNS", 2)
    parts = [A.solve(b), A.whiten(b), A.color(b), A.inv().color(b), A.inv().whiten(b),
             A.partial_variance()]
    for x, y in zip(whole, parts, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13 * np.abs(x).max())
    assert A.solve(b[:, :0]).shape == A.whiten(b[:, :0]).shape == (N, 0)


def test_the_range_of_numbers():
    """D = 1e-300 and F = 1e150: neither squares nor inverses overflow on the way."""
    rng = np.random.default_rng(0)
    for scale, d in ((1.0, 1e-300), (1e140, 1.0), (1e-140, 1e-290), (1.0, 1e-305)):
        for h, ranks in ((Hierarchy.flat(N), (3,)), (Hierarchy.balanced(N, [1, 6]), (2, 1))):
            A = MLR.from_compact(h, ranks, scale * rng.standard_normal((N, 3)), np.full(N, d))
            with precise(700):
                exact = Exact(A)
                for b in (rng.standard_normal(N), A.F[:, 0]):
                    assert exact.backward_error(A.solve(b), b) <= SOLVE * np.finfo(float).eps
                assert A.logdet() == pytest.approx(float(exact.logdet), rel=1e-12)
    A = MLR(Hierarchy.flat(3), [np.full((3, 1), 1e200)], np.full(3, 1e-300))
    with pytest.raises(np.linalg.LinAlgError, match=r"level 0, group 0.*overflows.*rescale"):
        A.logdet()


# ---------------------------------------------------------------- which factorization


def ordinary(n, counts, ranks, dtype):
    rng = np.random.default_rng(n)
    F = rng.standard_normal((n, sum(ranks))).astype(dtype)
    D = rng.permutation(np.logspace(-1, 2, n)).astype(dtype)
    A = MLR.from_compact(Hierarchy.balanced(n, counts), ranks, F, D)
    return A, rng.standard_normal((n, 2)).astype(dtype)


@both
@pytest.mark.parametrize("n, counts, ranks", [
    (1000, [1], [30]), (20_000, [1], [5]), (10_000, [1, 100, 1000], [4, 4, 4]),
    (2000, [1, 200], [60, 40]), (4096, [2**level for level in range(12)], [2] * 12)], ids=str)
def test_ordinary_matrices_take_cholesky_and_are_never_corrected(n, counts, ranks, dtype,
                                                                  monkeypatch):
    A, x = ordinary(n, counts, ranks, dtype)

    def never(*args):
        raise AssertionError("an ordinary matrix was corrected, or factored by QR")

    monkeypatch.setattr(tree, "means", never)  # of what a correction is made
    monkeypatch.setattr(factored.Factored, "_qr", property(never))
    if ranks != [60, 40]:  # there the gap is looked at, and found small
        monkeypatch.setattr(factored.Factored, "_in_factor_space", never)
    for B in [A] + [LowRankPlusDiagonal(A.F, A.D)] * (len(counts) == 1):
        B.solve(x)
        B.solve(x[:, 0])
        B.logdet()
        B.whiten(x)
        B.inv().diagonal()
        assert B.factorization.method == "cholesky"
        assert B.factorization.bound <= accuracy.LARGEST * np.finfo(dtype).eps


@both
def test_roots_of_ordinary_matrices(dtype):
    """Of more factors than features in a leaf, where a root of Gram matrices misses 1000 units."""
    A, _ = ordinary(400, [1, 40], [30, 60], dtype)
    assert A.factorization.method == "cholesky"
    S, F = A.color(np.eye(400, dtype=dtype)).astype(np.longdouble), A.F.astype(np.longdouble)
    leaf = A.hierarchy.labels(1)
    exact = np.diag(A.D) + F[:, :30] @ F[:, :30].T + np.where(
        leaf[:, None] == leaf, F[:, 30:] @ F[:, 30:].T, 0)
    error = np.linalg.norm((S @ S.T - exact).astype(float), 2)
    assert error <= ROOT * np.finfo(dtype).eps * np.linalg.norm(exact.astype(float), 2)


@pytest.mark.parametrize("make", [lambda F, D: MLR(Hierarchy.flat(N), [F], D),
                                  LowRankPlusDiagonal])
def test_the_property_says_which(make):
    F = np.random.default_rng(0).standard_normal((N, 3))
    eps = np.finfo(float).eps
    A = make(F, np.ones(N))
    method, bound = A.factorization
    assert method == "cholesky" and bound == A.factorization.bound
    largest = 1 + np.square(F).sum(axis=1).max()
    assert eps * largest <= bound <= accuracy.LARGEST * eps
    A = make(F, np.full(N, 1e-9))
    assert A.factorization == ("qr", eps)
    repeated = make(np.ones((N, 2)), np.full(N, 5e-3))
    assert repeated._scales.share < accuracy.LARGEST / 5
    assert make(np.ones((N, 2)), np.full(N, 1e-3)).factorization.method == "qr"
    assert make(np.ones((N, 0)), np.full(N, 1e-30)).factorization == ("cholesky", eps)


def test_a_likelihood_takes_cholesky_where_its_pivots_are_fine():
    """A variance at the floor of a fit, 1e-6, is no reason for EM to pay for QR."""
    rng = np.random.default_rng(0)
    F, D = rng.standard_normal((N, 3)), np.ones(N)
    D[3] = 1e-6
    A = MLR(Hierarchy.flat(N), [F], D)
    rough = A._rough_logdet()
    assert "_qr" not in vars(A)
    assert A.logdet() == pytest.approx(rough, abs=1e-8) and "_qr" in vars(A)
    D[3] = 1e-14
    B = MLR(Hierarchy.flat(N), [F], D)
    rough = B._rough_logdet()
    assert "_qr" in vars(B) and B.logdet() == pytest.approx(rough, rel=1e-13)


# ---------------------------------------------------------------- traces


@pytest.mark.parametrize("d", [1.0, 1e-6, 1e-14])
def test_traces(d):
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(N, [1, 4])
    A = MLR.from_compact(h, (2, 1), rng.standard_normal((N, 3)), np.full(N, d))
    others = [MLR.from_compact(h, (2, 1), rng.standard_normal((N, 3)), rng.uniform(1, 2, N) * d), A,
              LowRankPlusDiagonal(A.F[:, :2], A.D), Diagonal(rng.uniform(1, 2, N))]
    with precise():
        exact = Exact(A)
        for B in others:
            if isinstance(B, Diagonal):
                value = (np.diag(exact.inverse) * decimals(B.d)).sum()
            else:
                value = (exact.inverse * Exact(B).S).sum()
            assert A.inv().trace_with(B) == pytest.approx(float(value), rel=1e-10)


@both
def test_the_form_of_an_inverse(dtype):
    """``diag(1/D) - U Uᵀ`` where that is right beside ‖Σ⁻¹‖, and refused where it cancels."""
    rng, small = np.random.default_rng(0), dtype(1e-10 if dtype is np.float64 else 1e-5)
    F = rng.standard_normal((N, 3 * N)).astype(dtype)
    D = np.full(N, small)
    A, low = MLR(Hierarchy.flat(N), [F[:, :3]], D), LowRankPlusDiagonal(F[:, :3], D)
    for B, inverse in ((A, A.inv()), (low, low.inv())):
        assert B.factorization.method == "qr"
        with precise():
            exact = floats(Exact(A).inverse)
        U = inverse.U.astype(float)
        error = np.linalg.norm(np.diag(1 / D.astype(float)) - U @ U.T - exact)
        assert error <= 1e3 * np.finfo(dtype).eps * np.linalg.norm(exact)
    full = MLR(Hierarchy.flat(N), [F], D)
    with pytest.raises(np.linalg.LinAlgError, match="cancel"):
        _ = full.inv().U
    assert not hasattr(LowRankPlusDiagonal(F, D).inv(), "U")
