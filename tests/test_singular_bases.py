"""Updates of singular and ill-conditioned bases; tags of updates and of their inverses."""

import itertools

import numpy as np
import pytest
from market import market
from numpy.testing import assert_allclose

from mlrops import (
    BlockDiagonal,
    Dense,
    Diagonal,
    GeneralMLR,
    Hierarchy,
    Identity,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    Woodbury,
)

N = 12


def near(A, dtype, det=True):
    """solve, inverse and determinant of a well-conditioned sum, against dense arrays."""
    eps = np.finfo(dtype).eps
    dense = A.toarray().astype(float)
    condition = np.linalg.cond(dense)
    if condition > (1e6 if dtype is np.float64 else 1e3):
        return
    norm = np.linalg.norm(dense, 2)
    b = np.random.default_rng(0).standard_normal((N, 2)).astype(dtype)
    tol = (1e-6 if dtype is np.float64 else 3e-2) * max(1, condition / 1e3)
    for B, M in ((A, dense), (A.T, dense.T)):
        x = B.solve(b)
        assert x.dtype == dtype
        error = np.linalg.norm(M @ x - b) / (norm * np.linalg.norm(x) + np.linalg.norm(b))
        assert error <= max(1e4 * eps, 0 if det else 1e-5)
        exact = np.linalg.solve(M, b)
        assert np.linalg.norm(B.inv() @ b - exact) <= tol * np.linalg.norm(exact)
    if det:
        sign, logabs = np.linalg.slogdet(dense)
        assert A.slogdet()[0] == sign
        assert_allclose(A.slogdet()[1], logabs, rtol=tol, atol=tol)
        assert A.inv().slogdet()[0] == sign
        assert_allclose(A.inv().slogdet()[1], -logabs, rtol=tol, atol=tol)


both = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@pytest.mark.quick(6)
@both
@pytest.mark.parametrize("counts, ranks", [([2, 4], (2, 1)), ([1, 2, 4], (1, 2, 1))], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_low_rank_updates_of_general_matrices(seed, counts, ranks, dtype):
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(N), Hierarchy.balanced(N, counts).boundaries)

    def factors():
        return [rng.standard_normal((N, r)).astype(dtype) for r in ranks]

    F = factors()
    for A in (GeneralMLR(h, h, F, factors()), GeneralMLR(h, h, F, F)):
        k = N - np.linalg.matrix_rank(A.toarray())
        assert k > 0
        U, V = rng.standard_normal((2, N, k)).astype(dtype)
        for total in (A + LowRank(U, V), A - LowRank(U), LowRank(U) + A, LowRank(U, V) - A):
            assert type(total) is GeneralMLR
            near(total, dtype)
        near(Woodbury(A, U, rng.standard_normal((k, k)).astype(dtype), V), dtype)
        near(Woodbury(Woodbury(A, U[:, :1]), U[:, 1:], None, V[:, 1:]), dtype)
        d = rng.uniform(1, 2, N).astype(dtype)
        near(A + LowRankPlusDiagonal(U, d), dtype)


@pytest.mark.quick(12)
@both
@pytest.mark.parametrize("small", [0.0, 1e-15, 1e-9, 1e-4])
@pytest.mark.parametrize("seed", range(3))
def test_bases_with_three_small_directions(seed, small, dtype):
    rng = np.random.default_rng(seed)
    U, V = rng.standard_normal((2, N, 3)).astype(dtype)
    C = rng.standard_normal((3, 3)).astype(dtype)
    Q = np.linalg.qr(rng.standard_normal((N, N)))[0]
    values = np.r_[small, small, small, np.linspace(1, 2, N - 3)]
    S = (Q * values @ Q.T).astype(dtype)
    d = (rng.permutation(values) * rng.choice([-1, 1], N)).astype(dtype)
    for A in (Woodbury(S, U, C, V), Dense(S) + LowRank(U, V), Woodbury(Diagonal(d), U, C, V),
              Diagonal(d) + LowRank(U, V), LowRank(U, V) - Diagonal(d),
              Woodbury(LowRank(Q.astype(dtype), (Q * values).astype(dtype)), U, None, V)):
        assert A._has_direct_solve
        near(A, dtype)
    near(LowRank(U[:, :2], V[:, :2]) + Diagonal(d) + LowRank(U[:, 2:]), dtype, det=False)


@both
def test_bases_that_leave_iteration(dtype):
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((2, N, 3)).astype(dtype)
    b = rng.standard_normal(N).astype(dtype)
    for small in (0.0, 1e-15):
        S = np.diag(np.r_[small, small, small, np.linspace(1, 2, N - 3)]).astype(dtype)
        for base in (BlockDiagonal(Dense(S[:6, :6]), Dense(S[6:, 6:])),
                     Kronecker(Identity(1, dtype), Dense(S))):
            A = Woodbury(base, U, None, V)
            assert_allclose(A @ A.solve(b), b, atol=1e-8 if dtype is np.float64 else 1e-3)


def test_sums_that_are_singular():
    u = np.eye(N)[:, :1]
    d = np.r_[0.0, 0.0, np.ones(N - 2)]
    for A in (Woodbury(Diagonal(d), u), Woodbury(Dense(np.diag(d)), u),
              Woodbury(Identity(N), u, [[-1.0]])):
        assert A.slogdet() == (0.0, -np.inf)
        with pytest.raises(np.linalg.LinAlgError, match="singular"):
            A.solve(np.ones(N))
    kron = Woodbury(Kronecker(Identity(1), Dense(np.diag(d))), u)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        kron.solve(np.ones(N))
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        kron.slogdet()


# ---------------------------------------------------------------- tags

PAIRS = [pair for pair in market() if pair.dense.shape[0] == pair.dense.shape[1]]
NO_ROOT = "no structured square root"  # of a Sum or a Wrapped: documented


def assert_tag_is_true(A, dense):
    """Tagged positive definite: it is, and whitens; not tagged: it says so."""
    n = len(dense)
    if not A.positive_definite:
        with pytest.raises(ValueError, match="known to be symmetric positive definite"):
            A.whiten(np.ones(n))
        return
    assert np.allclose(dense, dense.T, atol=1e-9 * np.abs(dense).max())
    assert np.linalg.eigvalsh(dense)[0] > 0
    try:
        W = A.whiten(np.eye(n))
    except ValueError as error:
        assert NO_ROOT in str(error)
        return
    inverse = np.linalg.inv(dense)
    assert_allclose(W.T @ W, inverse, atol=1e-7 * np.abs(inverse).max())


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_tags_are_proved(pair):
    A, dense = pair.operator, pair.dense
    assert_tag_is_true(A, dense)
    assert_tag_is_true(A.T, dense.T)
    if len(dense) and np.linalg.cond(dense) < 1e9:
        assert A.inv().positive_definite == A.positive_definite
        assert_tag_is_true(A.inv(), np.linalg.inv(dense))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["downdate", "woodbury positive", "woodbury indefinite", "lrd",
                                  "lrd inverse", "dense positive", "low rank symmetric"])
def test_tags_of_sums_and_their_inverses(name, sign):
    first = next(pair for pair in PAIRS if pair.name == name)
    seen = 0
    for other in PAIRS:
        if other.dense.shape != first.dense.shape or not other.operator.symmetric:
            continue
        for (a, x), (b, y) in itertools.permutations(
                [(first.operator, first.dense), (other.operator, other.dense)]):
            A, dense = a + sign * b, x + sign * y
            assert_tag_is_true(A, dense)
            if np.linalg.cond(dense) < 1e8:
                seen += 1
                assert A.inv().positive_definite == A.positive_definite
                assert_tag_is_true(A.inv(), np.linalg.inv(dense))
    assert seen > 10
