"""The contract of an operator, by value, over every operator of the market."""

import pickle

import numpy as np
import pytest
from market import TOLERANCE, market
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator

from mlrops.operators import Inverse, StructuredOperator, check_operator

DTYPES = [np.float64, np.float32]
PAIRS = {dtype: {pair.name: pair for pair in market(dtype)} for dtype in DTYPES}
NAMES = list(PAIRS[np.float64])
SQUARE = [name for name in NAMES if len(set(PAIRS[np.float64][name].dense.shape)) == 1]
REGULAR = [name for name in SQUARE
           if np.linalg.cond(PAIRS[np.float64][name].dense) < 1e8]
SINGULAR = [name for name in SQUARE if name not in REGULAR]
POSITIVE = [name for name in SQUARE if PAIRS[np.float64][name].operator.positive_definite]
NO_DETERMINANT = {"sum", "sum symmetric", "sum positive", "product rectangular inside",
                  "wrapped sparse", "wrapped positive", "wrapped operator",
                  *(name for name in NAMES if name.startswith("information"))}
NO_ROOT = {"sum positive", "wrapped positive"}
NO_ADJOINT = {"wrapped without adjoint"}

both = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def over(names):
    return pytest.mark.parametrize("name", names)


def get(name, dtype):
    pair = PAIRS[dtype][name]
    rng = np.random.default_rng(7)
    return pair.operator, pair.dense, TOLERANCE[np.dtype(dtype)], rng


def near(got, expected, tol, scale=None):
    assert np.shape(got) == np.shape(expected)
    scale = np.linalg.norm(expected) if scale is None else scale
    assert np.linalg.norm(got - expected) <= tol * max(scale, 1)


def conditioned(tol, dense):
    """A tolerance for results that depend on the inverse."""
    return tol * max(1, np.linalg.cond(dense) / 1e2)


def test_the_market_covers_every_kind():
    import mlrops.operators as package

    kinds = {type(pair.operator).__name__ for pair in PAIRS[np.float64].values()}
    classes = {name for name in package.__all__
               if isinstance(getattr(package, name), type)
               and issubclass(getattr(package, name), StructuredOperator)}
    assert classes - kinds == {"StructuredOperator"}
    assert set(REGULAR) & NO_DETERMINANT and len(SINGULAR) >= 8 and len(POSITIVE) >= 25


@both
@over(NAMES)
def test_products(name, dtype):
    A, dense, tol, rng = get(name, dtype)
    m, n = dense.shape
    assert isinstance(A, LinearOperator) and A.shape == (m, n) and A.dtype == dtype
    for shape in ((n,), (n, 1), (n, 0), (n, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        near(A @ x, dense @ x, tol)
        assert (A @ x).dtype == dtype
    X = np.asfortranarray(rng.standard_normal((n, 4)).astype(dtype))
    for x in (X, X[:, ::2]):
        near(A @ x, dense @ x, tol)
    near(A @ ([1] * n), dense.sum(axis=1), tol)
    assert (A @ np.arange(n)).dtype == np.float64
    near(A.toarray(), dense, tol)
    assert A.toarray().flags.writeable


@both
@over([name for name in NAMES if name not in NO_ADJOINT])
def test_adjoint_and_transpose(name, dtype):
    A, dense, tol, rng = get(name, dtype)
    m = dense.shape[0]
    for shape in ((m,), (m, 1), (m, 0), (m, 3)):
        y = rng.standard_normal(shape).astype(dtype)
        adjoint = A.rmatvec(y) if len(shape) == 1 or shape[1] == 1 else A.rmatmat(y)
        near(adjoint, dense.T @ y, tol)
        for transposed in (A.T, A.H):
            near(transposed @ y, dense.T @ y, tol)
            assert (transposed @ y).dtype == dtype
        near(y.T @ A, y.T @ dense, tol)
    if name in ("transposed", "transposed wide"):  # made around an operator with a tighter A.T
        assert A.T is A.base and A.T.T.T is A.T
    else:
        assert A.T.T is A
    if A.symmetric:
        assert A.T is A and A.H is A


def test_missing_adjoint_says_so():
    A, _, _, _ = get("wrapped without adjoint", np.float64)
    with pytest.raises(NotImplementedError, match="no adjoint product"):
        A.rmatvec(np.ones(4))


@both
@over(NAMES)
def test_tags_are_true(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    if A.symmetric:
        near(dense, dense.T, tol)
    if A.positive_definite:
        assert A.symmetric and np.linalg.eigvalsh(dense).min() > 0
    if A._semidefinite:
        assert np.linalg.eigvalsh(dense).min() >= -tol * np.linalg.norm(dense)


@both
@over(NAMES)
def test_diagonal_and_trace(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    near(A.diagonal(), np.diagonal(dense), tol, np.linalg.norm(dense))
    if name in SQUARE:
        assert A.trace() == pytest.approx(np.trace(dense), rel=tol, abs=tol * len(dense))
        assert isinstance(A.trace(), float)


@both
@over(REGULAR)
def test_solve_and_inverse(name, dtype):
    A, dense, tol, rng = get(name, dtype)
    n = len(dense)
    hard = conditioned(tol, dense)
    for shape in ((n,), (n, 1), (n, 0), (n, 3)):
        b = rng.standard_normal(shape).astype(dtype)
        x = A.solve(b)
        assert x.dtype == dtype
        near(x, np.linalg.solve(dense, b), hard)
        near(A.inv() @ b, np.linalg.solve(dense, b), hard)
        near(A.inv().solve(b), dense @ b, hard, np.linalg.norm(dense))
        near(A.T.solve(b), np.linalg.solve(dense.T, b), hard)
    x = A.solve(dense.astype(dtype) @ np.ones(n, dtype))
    residual = np.linalg.norm(dense @ x - dense.sum(axis=1))
    assert residual <= tol * np.linalg.norm(dense) * n
    if name in ("inverse", "inverse positive"):
        assert A.inv() is A.base and A.inv().inv().inv() is A.inv()
    else:
        assert A.inv().inv() is A
    assert A.inv() is A.inv()
    near(A.inv().diagonal(), np.diagonal(np.linalg.inv(dense)), hard)
    near(A.inv().T @ b, np.linalg.solve(dense.T, b), hard)
    assert A.inv().symmetric or not A.symmetric
    assert A.inv().positive_definite or not A.positive_definite


@both
@over([name for name in REGULAR if name not in NO_DETERMINANT])
def test_determinant(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    sign, logabs = A.slogdet()
    expected_sign, expected = np.linalg.slogdet(dense)
    assert sign == expected_sign
    assert logabs == pytest.approx(expected, rel=tol, abs=10 * tol)
    assert isinstance(sign, float) and isinstance(logabs, float)
    if sign > 0:
        assert A.logdet() == logabs
    else:
        with pytest.raises(ValueError, match="negative"):
            A.logdet()
    for B in (A.inv(), A.T):
        assert B.slogdet()[0] == expected_sign
    assert A.inv().slogdet()[1] == pytest.approx(-expected, rel=tol, abs=10 * tol)
    assert A.T.slogdet()[1] == pytest.approx(expected, rel=tol, abs=10 * tol)


@both
@over(sorted(NO_DETERMINANT))
def test_determinant_by_name(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    with pytest.raises(ValueError, match="method='dense'.*method='lanczos'"):
        A.slogdet()
    sign, logabs = A.slogdet(method="dense")
    if name in REGULAR:
        assert sign == np.linalg.slogdet(dense)[0]
        assert logabs == pytest.approx(np.linalg.slogdet(dense)[1], rel=10 * tol)
    if not A.positive_definite:
        with pytest.raises(ValueError, match="positive definite"):
            A.slogdet(method="lanczos")


@both
@over(SINGULAR)
def test_singular(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    if name in NO_DETERMINANT:
        with pytest.raises(ValueError, match="no structured determinant"):
            A.slogdet()
    elif name != "low rank k>n":
        assert A.slogdet() == (0.0, -np.inf)
        assert A.logdet() == -np.inf
    # A right-hand side outside the range.
    b = np.linalg.svd(dense)[0][:, -1].astype(dtype)
    with pytest.raises(np.linalg.LinAlgError, match="singular|relative residual"):
        A.solve(b)


@over([name for name in NAMES if name not in SQUARE])
def test_rectangular_ones_refuse(name):
    A, dense, _, _ = get(name, np.float64)
    for verb in (lambda: A.solve(np.ones(A.shape[0])), A.slogdet, A.logdet, A.inv, A.trace,
                 lambda: A.whiten(np.ones(A.shape[0])), lambda: A ** 2):
        with pytest.raises(ValueError, match=rf"\({A.shape[0]}, {A.shape[1]}\)"):
            verb()


@both
@over([name for name in POSITIVE if name not in NO_ROOT])
def test_square_root(name, dtype):
    A, dense, tol, rng = get(name, dtype)
    n = len(dense)
    hard = conditioned(tol, dense)
    unit = np.eye(n, dtype=dtype)
    S, W = A.color(unit), A.whiten(unit)
    assert S.shape == W.shape == (n, n) and S.dtype == W.dtype == dtype
    near(S @ S.T, dense, tol)
    near(W.T @ W, np.linalg.inv(dense), hard)
    near(W @ S, np.eye(n), hard)
    for shape in ((n,), (n, 0), (n, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        near(A.whiten(A.color(x)), x, hard)
        quad = A.inv_quad(x)
        near(quad, np.einsum("i...,i...->...", x, np.linalg.solve(dense, x)), hard)
        assert np.all(np.asarray(quad) >= 0)
    assert isinstance(A.inv_quad(x[:, 0]), float)
    samples = A.sample(3, random_state=1)
    assert samples.shape == (3, n) and samples.dtype == dtype
    assert A.sample(random_state=1).shape == (n,)
    near(samples, A.sample(3, random_state=1), hard)


@over(["lrd", "lrd inverse", "woodbury positive", "kronecker positive", "mlr permuted"])
def test_samples_have_the_covariance(name):
    A, dense, _, _ = get(name, np.float64)
    N = 40_000
    Y = A.sample(N, random_state=3)
    error = np.abs(Y.T @ Y / N - dense) / np.sqrt(np.outer(np.diag(dense), np.diag(dense)))
    assert error.max() < 6 * np.sqrt(2 / N)


@over([name for name in SQUARE if name not in POSITIVE])
def test_roots_need_a_proof(name):
    A, _, _, _ = get(name, np.float64)
    for verb in (A.whiten, A.color, A.inv_quad):
        with pytest.raises(ValueError, match="positive definite"):
            verb(np.ones(A.shape[0]))
    with pytest.raises(ValueError, match="positive definite"):
        A.sample()


@both
@over(NAMES)
def test_pickle(name, dtype):
    A, dense, tol, _ = get(name, dtype)
    if name == "wrapped without adjoint":
        pytest.skip("SciPy's operator of a bound method; pickles only where that does")
    B = pickle.loads(pickle.dumps(A))
    near(B.toarray(), dense, tol)
    assert (B.symmetric, B.positive_definite) == (A.symmetric, A.positive_definite)
    for value in vars(B).values():
        assert not isinstance(value, np.ndarray) or not value.flags.writeable


@over(NAMES)
def test_bad_operands(name):
    A, dense, _, _ = get(name, np.float64)
    m, n = A.shape
    with pytest.raises(ValueError):
        A @ np.ones(n + 1)
    with pytest.raises(ValueError):
        A @ np.ones((n + 1, 2))
    with pytest.raises(TypeError):
        A @ csr_array(np.ones((n, 2)))
    with pytest.raises(ValueError, match="scalar"):
        A @ 3.0
    if m == n:
        with pytest.raises(ValueError, match=f"{n} rows?"):
            A.solve(np.ones(n + 1))
        with pytest.raises(TypeError, match="sparse"):
            A.solve(csr_array(np.ones((n, 2))))
        with pytest.raises(ValueError, match="1-d or 2-d"):
            A.solve(np.ones((n, 2, 2)))


@both
@over(NAMES)
def test_complex_operands(name, dtype):
    """A z = A Re z + i A Im z, and the same for solve; a complex multiple is SciPy's operator."""
    A, dense, tol, rng = get(name, dtype)
    m, n = A.shape
    wanted = np.result_type(dtype, np.complex64)
    for shape in ((n,), (n, 1), (n, 3), (n, 0)):
        z = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(wanted)
        for got, expected in ((A @ z, dense @ z), ((2j * A) @ z, 2j * dense @ z),
                              ((A * (1 + 1j)) @ z, (1 + 1j) * dense @ z),
                              ((A / 2j) @ z, dense @ z / 2j)):
            near(got, expected, tol)
        assert (A @ z).dtype == wanted and (A @ z).shape == (m, *shape[1:])
        if name in REGULAR:
            near(A.solve(dense.astype(dtype) @ z), z, conditioned(tol, dense))
            assert A.solve(z).dtype == wanted
    z = (rng.standard_normal((m, 2)) + 1j).astype(wanted)
    if name != "wrapped without adjoint":
        near(A.T @ z, dense.T @ z, tol)
        near(A.rmatvec(z[:, 0]), dense.T @ z[:, 0], tol)


@over(NAMES)
def test_masked_operands_are_refused(name):
    A, dense, _, _ = get(name, np.float64)
    m, n = A.shape
    x = np.ma.array(np.ones((n, 2)), mask=False)
    near(A @ x, dense @ np.ones((n, 2)), 1e-9)  # nothing is masked
    x[n // 2, 1] = np.ma.masked
    verbs = [A.dot, A.matmat, lambda x: A @ x, lambda x: A @ (1j * x), lambda x: A.matvec(x[:, 1]),
             lambda x: x.T @ A.T]
    if name == "wrapped without adjoint":
        del verbs[-1]
    if m == n:
        verbs += [A.solve, A.rmatmat, lambda x: A.rmatvec(x[:, 1]), lambda x: A.solve(1j * x)]
    if A.positive_definite:
        verbs += [A.whiten, A.color, A.inv_quad]
    for verb in verbs:
        with pytest.raises(ValueError, match=rf"1 entry is masked.*{n // 2}"):
            verb(x)


@both
@over(NAMES)
def test_check_operator_agrees(name, dtype):
    A, _, _, _ = get(name, dtype)
    if name == "wrapped without adjoint":
        pytest.skip("cannot be copied")
    check_operator(A).raise_if_failed()


def test_inverse_of_a_singular_one_has_no_determinant():
    A, _, _, _ = get("diagonal singular", np.float64)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        Inverse(A).slogdet()
    with pytest.raises(np.linalg.LinAlgError, match="feature 1, 3"):
        A.inv()
