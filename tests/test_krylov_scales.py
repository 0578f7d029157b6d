"""Iterative solves: right-hand sides of any size, indefinite and unsymmetric sums, the options."""

import numpy as np
import pytest
from market import Bench
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import LinearOperator

from mlrops import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Kronecker,
    LowRankPlusDiagonal,
    Permutation,
    Product,
    Scaled,
    StructuredOperator,
    Sum,
    Woodbury,
    Wrapped,
)

SIZES = {np.float32: (1e-43, 1e-38, 1e-30, 1e-23, 1e-10, 1.0, 1e18, 1e30, 1e37),
         np.float64: (1e-322, 1e-300, 1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300)}
TAGS = {"cg": {"positive_definite": True}, "minres": {}, "gmres": {"symmetric": False}}
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])
methods = pytest.mark.parametrize("method", TAGS)


def residual(A, x, b):
    """Relative residual of each column, in float64 on arrays."""
    r = np.linalg.norm(A.toarray().astype(float) @ x - b, axis=0)
    return np.max(r / np.linalg.norm(b, axis=0))


def wrapped(dtype, method, factor=1.0):
    return Wrapped(csr_array(np.diag(np.array([1, 2, 3]) * factor).astype(dtype)), **TAGS[method])


@both
@methods
def test_right_hand_sides_of_any_size(dtype, method):
    A, tol = wrapped(dtype, method), 2e-5 if dtype is np.float32 else 1e-9
    b = (np.array([1, 2, 3])[:, None] * np.array([*SIZES[dtype], 0.0])).astype(dtype)
    expected = b / np.array([[1], [2], [3]], dtype)
    X = A.solve(b)
    for j in range(b.shape[1]):
        size = np.abs(expected[:, j]).max()
        least = np.finfo(dtype).smallest_subnormal
        for x in (X[:, j], A.solve(b[:, j]), A.inv() @ b[:, j]):
            assert x.dtype == dtype
            assert np.all(np.abs(x - expected[:, j]) <= tol * size + least), b[0, j]
    assert np.array_equal(X[:, -1], np.zeros(3))  # a zero column beside others


@both
@methods
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_operators_of_any_size(dtype, method, factor):
    A, b = wrapped(dtype, method, factor), np.array([1, 2, 3], dtype)
    assert_allclose(A.solve(b) * dtype(factor), 1, rtol=2e-5)
    assert_allclose(A.solve(b * dtype(factor)), 1, rtol=2e-5)
    with pytest.raises(np.linalg.LinAlgError, match="overflows"):
        wrapped(dtype, method, 1e-30).solve(np.full(3, np.finfo(dtype).max / 2))


def test_tridiagonal_without_a_tag():
    n = 500
    A = Wrapped(diags_array([-1.0, 2.01, -1.0], offsets=[-1, 0, 1], shape=(n, n)))
    assert A.symmetric and not A.positive_definite
    B = np.random.default_rng(0).standard_normal((n, 3))
    assert residual(A, A.solve(B), B) <= 1.1e-10
    assert residual(A.T, A.T.solve(B), B) <= 1.1e-10


@pytest.mark.quick(6)
@pytest.mark.parametrize("seed", range(20))
def test_indefinite_and_unsymmetric_sums(seed):
    rng, n = np.random.default_rng(seed), 40
    low = LowRankPlusDiagonal(rng.standard_normal((n, 3)), rng.uniform(0.5, 2, n))
    X = rng.standard_normal((n, n)) / np.sqrt(n)
    Y, Z = rng.standard_normal((5, 5)), rng.standard_normal((8, 8))
    b = rng.standard_normal((n, 2))
    for K in (Wrapped(csr_array(X @ X.T)), Wrapped(csr_array(X + X.T)), Wrapped(csr_array(X)),
              Kronecker(Y + Y.T, Z + Z.T), Permutation(rng.permutation(n))):
        A = low - K
        assert type(A) is Sum and not A.positive_definite
        assert residual(A, A.solve(b), b) <= 1.1e-10
        if seed == 0:
            assert residual(A, (2 * A).inv() @ b * 2, b) <= 1.1e-10
            c = b[:, 0] + 1j * b[:, 1]
            assert residual(A, A.solve(c), c) <= 2e-10


def test_ill_conditioned_ones_reach_what_rounding_allows():
    rng, n = np.random.default_rng(0), 40
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = Wrapped(csr_array(Q * np.r_[1e-7, np.linspace(-1, -2, n - 1)] @ Q.T), symmetric=None)
    S = Sum(A, Wrapped(A.A.T)) / 2  # symmetric to the last bit or not
    b = Q[:, 0] + 1e-3 * rng.standard_normal(n)
    x = S.solve(b)
    error = np.linalg.norm(S @ x - b) / (2 * np.linalg.norm(x) + np.linalg.norm(b))
    assert error <= 100 * np.finfo(float).eps
    with pytest.raises(np.linalg.LinAlgError, match=r"reached a relative residual of .*1e-15 was"):
        S.solve(b, rtol=1e-15)  # a tolerance that is named is kept, or is an error


# ---------------------------------------------------------------- the options

bench = Bench(np.float64)
n = 30
POSITIVE = Sum(Kronecker(*(Dense(bench.spd(m), positive_definite=True) for m in (5, 6))),
               Diagonal(bench.positive(n)))
OPERATORS = {
    "cg": POSITIVE,
    "minres": POSITIVE + Diagonal(np.where(np.arange(n) % 3, 0.0, -8.0)),
    "gmres": POSITIVE + Permutation(np.roll(np.arange(n), 3)),
    "scaled": Scaled(POSITIVE, -2.0),
    "product": Product(POSITIVE, Permutation(np.roll(np.arange(n), 1))),
    "blocks": BlockDiagonal(POSITIVE, Diagonal([1.0, 2.0])),
}
every = pytest.mark.parametrize("name", OPERATORS)


class Counted(StructuredOperator):
    """The same operator, counting columns multiplied."""

    def __init__(self, A):
        super().__init__(A.dtype, A.shape, symmetric=A.symmetric,
                         positive_definite=A.positive_definite)
        self.A, self.count = A, 0

    def _mul(self, x):
        self.count += 1
        return self.A._mul(x)

    def _rmul(self, x):
        return self.A._rmul(x)


def products(A, b, **options):
    counted = Counted(A)
    return counted.solve(b, **options), counted.count


@every
def test_rtol(name):
    A = OPERATORS[name]
    b = np.random.default_rng(1).standard_normal((A.shape[0], 2))
    loose, few = products(A, b, rtol=0.3)
    tight, many = products(A, b, rtol=1e-12)
    assert residual(A, loose, b) <= 0.3 and residual(A, tight, b) <= 1.1e-12 and few <= many
    assert residual(A, A.solve(b, rtol=1e-6), b) <= 1e-6


@every
def test_x0(name):
    A = OPERATORS[name]
    X = np.random.default_rng(2).standard_normal((A.shape[0], 2))
    b = A @ X
    found, count = products(A, b, x0=X)
    assert count <= 2 and np.array_equal(found, X)
    near, count = products(A, b[:, 0], x0=X[:, 0] * (1 + 1e-9))
    assert count <= products(A, b[:, 0])[1] + 2 and residual(A, near, b[:, 0]) <= 1.1e-10
    Z = X + 1j * X[::-1]
    assert_allclose(A.solve(A @ Z, x0=Z), Z, rtol=1e-12)
    assert np.array_equal(A.solve(np.zeros(A.shape[0]), x0=X[:, 0]), np.zeros(A.shape[0]))


@methods
def test_M(method):
    d = np.geomspace(1, 1e6, n)
    tags = {"symmetric": method != "gmres", "positive_definite": method == "cg"}
    near = Wrapped(csr_array(np.diag(d) + 0.01 * np.diag(np.ones(n - 1), 1)
                             + 0.01 * np.diag(np.ones(n - 1), -1)), **(
                                 tags if method != "gmres" else {"symmetric": False}))
    b = np.random.default_rng(3).standard_normal((n, 2))
    plain = products(near, b)[1]
    for M in (Diagonal(d).inv(), np.diag(1 / d), csr_array(np.diag(1 / d)),
              LinearOperator((n, n), matvec=lambda v: v.ravel() / d, dtype=float),
              1e-200 * Diagonal(d).inv()):
        x, count = products(near, b, M=M)
        assert count < plain and residual(near, x, b) <= 1.1e-10


@every
def test_maxiter(name):
    A = OPERATORS[name]
    b = np.random.default_rng(4).standard_normal(A.shape[0])
    with pytest.raises(np.linalg.LinAlgError, match=r"relative residual of \S+ in 2 iterations"):
        A.solve(b, maxiter=2)
    assert residual(A, A.solve(b, maxiter=10**6), b) <= 1.1e-10


@pytest.mark.parametrize("options, error, match", [
    ({"rtol": -1}, ValueError, "rtol must be finite and non-negative"),
    ({"rtol": np.nan}, ValueError, "rtol must be finite"),
    ({"maxiter": 0}, ValueError, "maxiter must be positive"),
    ({"maxiter": 2.5}, TypeError, "maxiter must be an integer"),
    ({"M": np.eye(3)}, ValueError, r"M must have the shape of A, \(30, 30\), got \(3, 3\)"),
    ({"M": -np.eye(30)}, ValueError, "M must be symmetric positive definite where A is symmetric"),
    ({"x0": np.ones(3)}, ValueError, r"x0 must have the shape of b"),
    ({"x0": np.full(30, np.nan)}, ValueError, "x0 must be finite"),
    ({"x0": np.ma.masked_less(np.arange(30.0), 1)}, ValueError, "solve: x0: 1 entry"),
])
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        POSITIVE.solve(np.ones(n), **options)


@pytest.mark.parametrize("option", [{"rtol": 1e-3}, {"maxiter": 5}, {"M": np.eye(3)},
                                    {"x0": np.ones(3)}])
def test_direct_solves_take_no_options(option):
    low = LowRankPlusDiagonal(np.ones((3, 1)), np.ones(3))
    for A in (low, low.inv(), -low, Diagonal([1.0, 2.0, 3.0]), Dense(np.eye(3)), low @ low):
        with pytest.raises(TypeError, match=f"by its structure and takes no {[*option][0]}"):
            A.solve(np.ones(3), **option)


def test_factors_that_iterate():
    """Products and updates of operators that iterate reach what an iteration promises."""
    rng = np.random.default_rng(5)
    shift = Permutation(np.roll(np.arange(n), 1)) + Diagonal(rng.uniform(2, 3, n))
    b = rng.standard_normal((n, 2))
    for A in (Product(POSITIVE, shift), Product(shift.T, POSITIVE, shift),
              Woodbury(POSITIVE, rng.standard_normal((n, 2))),
              Woodbury(shift, rng.standard_normal((n, 2)), None, rng.standard_normal((n, 2)))):
        assert not A._has_direct_solve
        assert residual(A, A.solve(b), b) <= 1e-10
        assert residual(A, A.inv() @ b, b) <= 1e-8
