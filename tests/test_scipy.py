"""The operators as they are, in the hands of SciPy and PyLops, under pickle and copy."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse.linalg as spla
from market import Bench, market
from numpy.testing import assert_allclose

from mlrops.operators import Kronecker, LowRankPlusDiagonal, Woodbury, Wrapped, check_operator

PAIRS = {pair.name: pair for pair in market()}
REGULAR = [name for name, pair in PAIRS.items()
           if len(set(pair.dense.shape)) == 1 and np.linalg.cond(pair.dense) < 1e3]
POSITIVE = [name for name in REGULAR if PAIRS[name].operator.positive_definite]
SYMMETRIC = [name for name in REGULAR if PAIRS[name].operator.symmetric]
ADJOINT = [name for name in PAIRS if name != "wrapped without adjoint"]


@pytest.mark.parametrize("name", POSITIVE)
def test_cg(name):
    _, A, dense = PAIRS[name]
    b = np.linspace(-1, 2, len(dense))
    x, info = spla.cg(A, b, rtol=1e-12, atol=0)
    assert info == 0
    assert_allclose(dense @ x, b, atol=1e-9)
    x, info = spla.cg(A, b, rtol=1e-12, atol=0, M=A.inv(), maxiter=3)
    assert info == 0
    assert_allclose(dense @ x, b, atol=1e-8)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_minres(name):
    _, A, dense = PAIRS[name]
    b = np.linspace(-1, 2, len(dense))
    x, info = spla.minres(A, b, rtol=1e-13)
    assert info == 0
    assert_allclose(dense @ x, b, atol=1e-7)


@pytest.mark.parametrize("name", REGULAR)
def test_gmres(name):
    _, A, dense = PAIRS[name]
    b = np.linspace(-1, 2, len(dense))
    x, info = spla.gmres(A, b, rtol=1e-11, atol=0, restart=len(dense))
    assert info == 0
    assert_allclose(dense @ x, b, atol=1e-8)


@pytest.mark.parametrize("name", ADJOINT)
def test_lsmr(name):
    _, A, dense = PAIRS[name]
    b = np.linspace(-1, 2, len(dense))
    x = spla.lsmr(A, b, atol=1e-13, btol=1e-13, maxiter=500)[0]
    expected = np.linalg.lstsq(dense, b, rcond=1e-10)[0]
    assert_allclose(x, expected, atol=1e-6 * max(1, np.linalg.norm(expected)))


@pytest.mark.parametrize("name", [name for name in SYMMETRIC if len(PAIRS[name].dense) > 4])
def test_eigsh(name):
    _, A, dense = PAIRS[name]
    largest = spla.eigsh(A, k=2, which="LA", v0=np.linspace(1, 2, len(dense)))[0]
    assert_allclose(np.sort(largest), np.linalg.eigvalsh(dense)[-2:], atol=1e-8)
    if A._has_direct_solve:
        nearest = spla.eigsh(A, k=1, sigma=0, OPinv=A.inv(), v0=np.linspace(1, 2, len(dense)))[0]
        values = np.linalg.eigvalsh(dense)
        assert_allclose(np.abs(nearest), np.abs(values).min(), rtol=1e-7)


@pytest.mark.parametrize("name", [n for n in ADJOINT if min(PAIRS[n].dense.shape) > 3])
def test_svds(name):
    _, A, dense = PAIRS[name]
    expected = np.linalg.svd(dense, compute_uv=False)[:2]
    if expected[1] < 1e-8:
        assert expected[0] == 0 or expected[1] < 1e-8
        return
    got = spla.svds(A, k=2, return_singular_vectors=False, v0=np.linspace(1, 2, min(A.shape)))
    assert_allclose(np.sort(got)[::-1], expected, rtol=1e-7)


def test_lobpcg():
    bench = Bench(np.float64)
    A = LowRankPlusDiagonal(bench.normal(60, 3), np.linspace(1, 2, 60))
    X = bench.normal(60, 3)
    values, _ = spla.lobpcg(A, X, M=A.inv(), largest=True, maxiter=200, tol=1e-9)
    assert_allclose(np.sort(values), np.linalg.eigvalsh(A.toarray())[-3:], rtol=1e-8)


@pytest.mark.quick(20)
@pytest.mark.parametrize("name", REGULAR)
def test_expm_multiply(name):
    _, A, dense = PAIRS[name]
    from scipy.linalg import expm

    x = np.linspace(-1, 2, len(dense))
    got = spla.expm_multiply(0.1 * A, x, traceA=0.1 * A.trace())
    assert_allclose(got, expm(0.1 * dense) @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(PAIRS))
def test_aslinearoperator(name):
    A = PAIRS[name].operator
    assert spla.aslinearoperator(A) is A


@pytest.mark.parametrize("name", ADJOINT)
def test_deepcopy_and_pickle_share_nothing(name):
    _, A, dense = PAIRS[name]
    for B in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), copy.copy(A)):
        assert type(B) is type(A) and repr(B) == repr(A)
        assert_allclose(B.toarray(), dense, atol=1e-10)
        assert_allclose(B.rmatvec(np.ones(B.shape[0])), dense.sum(axis=0), atol=1e-10)


def test_pickle_keeps_the_factorization():
    A = LowRankPlusDiagonal(np.ones((5, 1)), np.ones(5))
    A.logdet()
    B = pickle.loads(pickle.dumps(A))
    assert "_factor" in vars(B) and B.logdet() == A.logdet()
    assert B.inv().inv() is B


@pytest.mark.parametrize("name", ADJOINT)
def test_pylops_dottest(name):
    pylops = pytest.importorskip("pylops")
    A = PAIRS[name].operator
    m, n = A.shape
    assert pylops.utils.dottest(pylops.aslinearoperator(A), m, n, rtol=1e-9, raiseerror=True)


def test_pylops_operators_compose():
    pylops = pytest.importorskip("pylops")
    bench = Bench(np.float64)
    X = bench.normal(6, 6)
    A = LowRankPlusDiagonal(bench.normal(6, 2), bench.positive(6))
    foreign = pylops.MatrixMult(X)
    for got, expected in ((A + foreign, A.toarray() + X), (A @ foreign, A.toarray() @ X)):
        assert_allclose(got.toarray(), expected, atol=1e-12)
        check_operator(got).raise_if_failed()
    assert_allclose((foreign @ A) @ np.ones(6), X @ A.toarray().sum(axis=1), atol=1e-12)


def test_scipy_sees_a_preconditioned_stranger():
    bench = Bench(np.float64)
    S = bench.spd(30)
    A = Wrapped(spla.aslinearoperator(S), positive_definite=True)
    M = LowRankPlusDiagonal(bench.normal(30, 2) / 10, np.diag(S)).inv()
    x, info = spla.cg(A, np.ones(30), M=M, rtol=1e-10)
    assert info == 0
    assert_allclose(S @ x, np.ones(30), atol=1e-8)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrix_operands():
    A = PAIRS["lrd"].operator
    y = A @ np.asmatrix(np.ones((6, 2)))
    assert_allclose(np.asarray(y), A @ np.ones((6, 2)))


def test_large_operators_stay_structured():
    rng = np.random.default_rng(0)
    n = 50_000
    A = LowRankPlusDiagonal(rng.standard_normal((n, 4)), rng.uniform(1, 2, n))
    B = Woodbury(A, rng.standard_normal((n, 2)))
    C = Kronecker(B, LowRankPlusDiagonal(np.ones((3, 1)), np.ones(3)))
    x = rng.standard_normal(3 * n)
    assert_allclose(C @ C.solve(x), x, atol=1e-9)
    assert_allclose(C.logdet(), 3 * B.logdet() + n * np.log(4), rtol=1e-12)
    values = spla.eigsh(B, k=2, which="LA", tol=1e-8)[0]
    assert values.min() > 0.8 * n
