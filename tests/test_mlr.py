"""MLR and its inverse: every method by value, on random trees, against dense arrays."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import (
    PATHS,
    cases,
    close,
    computing,
    dense_mlr,
    hierarchies,
    make_case,
    permuted_case,
    spread,
)

from mlrops import MLR
from mlrops.operators import MLRInverse

some = settings(max_examples=40)
few = settings(max_examples=15)
PRECISION = [(np.float64, 1e-9), (np.float32, 3e-4)]
precisions = pytest.mark.parametrize("dtype, tol", PRECISION, ids=["float64", "float32"])


@pytest.fixture
def case():
    return permuted_case()


# ---------------------------------------------------------------- products and solves


@pytest.mark.quick(4)
@precisions
@pytest.mark.parametrize("path", PATHS)
@few
@given(data=st.data())
def test_products_and_solves(path, dtype, tol, data):
    c = data.draw(cases(dtype=dtype))
    n = c.hierarchy.n
    with computing(path):
        A, S = c.A, c.dense
        inverse = np.linalg.inv(S)
        close(A.toarray(), S, tol)
        close(A.inv().toarray(), inverse, tol)
        for shape in [(n,), (n, 0), (n, 1), (n, 2), (n, 7)]:
            x = c.rng.standard_normal(shape).astype(dtype)
            for y, M in [(A @ x, S), (A.rmatvec(x) if x.ndim == 1 else A.rmatmat(x), S),
                         (A.solve(x), inverse), (A.inv() @ x, inverse), (A.inv().solve(x), S)]:
                assert y.dtype == dtype and y.shape == x.shape
                close(y, M @ x, tol)
        assert A.T is A and A.H is A and A.symmetric and A.positive_definite


@precisions
@some
@given(data=st.data())
def test_determinant_diagonal_and_trace(dtype, tol, data):
    c = data.draw(cases(dtype=dtype))
    inverse = np.linalg.inv(c.dense)
    logdet = np.linalg.slogdet(c.dense)[1]
    for A, dense, expected in [(c.A, c.dense, logdet), (c.A.inv(), inverse, -logdet)]:
        sign, logabs = A.slogdet()
        assert sign == 1.0 and isinstance(sign, float) and isinstance(logabs, float)
        assert abs(logabs - expected) <= tol * (abs(expected) + c.hierarchy.n)
        assert A.logdet() == logabs
        close(A.diagonal(), np.diag(dense), tol)
        assert A.diagonal().dtype == dtype
        assert isinstance(A.trace(), float)
        assert A.trace() == pytest.approx(np.trace(dense), rel=tol)


@few
@given(c=cases())
def test_inverse_is_an_operator_of_the_same_family(c):
    inverse = c.A.inv()
    assert isinstance(inverse, MLRInverse) and c.A.inv() is inverse
    assert inverse.inv() is c.A and inverse.inv().inv() is inverse
    assert inverse.ranks == c.A.ranks and inverse.hierarchy is c.hierarchy
    assert inverse.symmetric and inverse.positive_definite and inverse.T is inverse
    assert inverse.U.shape == c.A.F.shape and not inverse.U.flags.writeable
    levels = np.split(inverse.U, np.cumsum(c.A.ranks)[:-1], axis=1)
    taken_off = dense_mlr(c.hierarchy, levels, np.zeros(c.hierarchy.n))
    close(np.diag(1 / c.D) - taken_off, np.linalg.inv(c.dense))


@precisions
@some
@given(data=st.data())
def test_square_roots(dtype, tol, data):
    c = data.draw(cases(dtype=dtype))
    n = c.hierarchy.n
    eye = np.eye(n, dtype=dtype)
    for A, dense in [(c.A, c.dense), (c.A.inv(), np.linalg.inv(c.dense))]:
        W, S = A.whiten(eye), A.color(eye)
        assert W.dtype == S.dtype == dtype
        close(W.T @ W, np.linalg.inv(dense), tol)
        close(S @ S.T, dense, tol)
        close(W @ S, np.eye(n), tol)
        x = c.rng.standard_normal((n, 3)).astype(dtype)
        close(A.whiten(A.color(x)), x, tol)
        close(A.color(x[:, 0]), S @ x[:, 0], tol)
        close(A.whiten(x), W @ x, tol)
        assert A.whiten(x[:, :0]).shape == (n, 0)


@some
@given(c=cases())
def test_inv_quad(c):
    n = c.hierarchy.n
    X = c.rng.standard_normal((n, 4))
    for A, inverse in [(c.A, np.linalg.inv(c.dense)), (c.A.inv(), c.dense)]:
        quad = A.inv_quad(X)
        close(quad, np.einsum("ik,ij,jk->k", X, inverse, X))
        assert (quad >= 0).all()
        one = A.inv_quad(X[:, 1])
        assert isinstance(one, float) and one == pytest.approx(quad[1], rel=1e-12)
        assert A.inv_quad(X[:, :0]).shape == (0,)
        assert A.inv_quad(np.zeros(n)) == 0


@few
@given(h=hierarchies(), seed=st.integers(0, 1000))
def test_inv_quad_is_never_negative_where_terms_cancel(h, seed):
    rng = np.random.default_rng(seed)
    F = [rng.standard_normal((h.n, 2)) for _ in range(h.n_levels)]
    A = MLR(h, F, np.full(h.n, 1e-12))
    X = np.stack([F[0][:, 0], A @ rng.standard_normal(h.n)], axis=1)
    try:
        assert (A.inv_quad(X) >= 0).all()
    except np.linalg.LinAlgError as error:  # more features than D = 1e-12 leaves digits for
        assert "inv_quad: rounding" in str(error)


# ---------------------------------------------------------------- samples


def test_samples_have_this_covariance(case):
    N = 40_000
    for A, dense in [(case.A, case.dense), (case.A.inv(), np.linalg.inv(case.dense))]:
        Y = A.sample(N, random_state=3)
        assert Y.shape == (N, 30)
        variance = np.diag(dense)
        deviation = np.sqrt((np.square(dense) + np.outer(variance, variance)) / N)
        assert (np.abs(Y.T @ Y / N - dense) < 5.5 * deviation).all()
        assert (np.abs(Y.mean(axis=0)) < 5 * np.sqrt(variance / N)).all()


def test_samples_are_seeded(case):
    A = case.A
    assert A.sample(random_state=0).shape == (30,) and A.sample(0).shape == (0, 30)
    assert np.array_equal(A.sample(4, random_state=1), A.sample(4, random_state=1))
    assert np.array_equal(A.sample(4, np.random.RandomState(1)),
                          A.sample(4, np.random.RandomState(1)))
    assert np.array_equal(A.sample(4, np.random.default_rng(1)), A.sample(4, random_state=1))
    assert not np.array_equal(A.sample(4, random_state=1), A.sample(4, random_state=2))
    assert make_case(case.hierarchy, (1, 1, 1), 0, np.float32).A.sample(2).dtype == np.float32
    with pytest.raises(TypeError, match="size"):
        A.sample(2.5)


# ---------------------------------------------------------------- principal axes, compression


def blocks(A):
    """(level, rows, factor block) of every group."""
    for level, F in enumerate(A.factors):
        labels = A.hierarchy.labels(level)
        for g in range(A.hierarchy.group_counts[level]):
            yield level, np.flatnonzero(labels == g), F[labels == g]


@precisions
@some
@given(data=st.data())
def test_principal_axes(dtype, tol, data):
    c = data.draw(cases(dtype=dtype))
    P = c.A.principal()
    assert P.ranks == c.A.ranks and P.dtype == dtype
    close(P.toarray(), c.dense, tol)
    for _, _, B in blocks(P):
        gram = B.T @ B
        assert np.abs(gram - np.diag(np.diag(gram))).max(initial=0) <= 10 * tol
        assert (np.diff(np.sqrt(np.diag(gram))) <= 10 * tol).all()
        if B.shape[1]:
            assert (B[np.abs(B).argmax(axis=0), np.arange(B.shape[1])] >= 0).all()


@some
@given(c=cases())
def test_compress_removes_redundancy_exactly(c):
    twice = MLR(c.hierarchy, [np.hstack([f, -0.5 * f]) for f in c.factors], c.D)
    small = twice.compress()
    for level, (r, f) in enumerate(zip(small.ranks, c.factors, strict=True)):
        largest = min(f.shape[1], c.hierarchy.group_sizes(level).max())
        assert r == largest
    close(small.toarray(), twice.toarray())
    assert np.array_equal(small.D, c.D)


@some
@given(c=cases(), data=st.data())
def test_compress_truncates_every_group_to_its_best_approximation(c, data):
    L = c.hierarchy.n_levels
    ranks = data.draw(st.lists(st.integers(0, 4), min_size=L, max_size=L))
    small = c.A.compress(ranks)
    assert all(r <= s for r, s in zip(small.ranks, ranks, strict=True))
    expected = np.diag(c.D)
    for level, rows, B in blocks(c.A):
        U, s, _ = np.linalg.svd(B, full_matrices=False)
        best = U[:, : ranks[level]] * s[: ranks[level]]
        expected[np.ix_(rows, rows)] += best @ best.T
    close(small.toarray(), expected)


def test_compress_arguments(case):
    A = case.A
    assert A.compress(1).ranks == (1, 0, 1)
    close(A.compress(9).toarray(), case.dense)
    close(A.compress(1).toarray(), A.compress([1, 1, 1]).toarray())
    tol = 0.4
    cut = A.compress(tol=tol)
    expected = np.diag(case.D)
    dropped = 0
    for _, rows, B in blocks(A):
        if B.shape[1]:
            U, s, _ = np.linalg.svd(B, full_matrices=False)
            best = U[:, s > tol * s[0]] * s[s > tol * s[0]]
            dropped += s.size - best.shape[1]
            expected[np.ix_(rows, rows)] += best @ best.T
    assert dropped > 0
    close(cut.toarray(), expected)
    for bad, message in [((1, 2), "3 entries, one a level"), ((1, -1, 2), "level 1")]:
        with pytest.raises(ValueError, match=message):
            A.compress(bad)
    for tol in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="tol"):
            A.compress(tol=tol)


# ---------------------------------------------------------------- expanded matrix


@some
@given(c=cases())
def test_expanded_matrix_and_its_factorization(c):
    n, h = c.hierarchy.n, c.hierarchy
    F = spread(h, c.factors)
    s = F.shape[1]
    expected = np.block([[np.diag(c.D), F], [F.T, -np.eye(s)]])
    E = c.A.expanded_matrix()
    assert sp.issparse(E)
    assert np.array_equal(E.toarray(), expected)
    close(expected[:n, :n] + F @ F.T, c.dense)  # A is the Schur complement of -I
    L, d, order = c.A.expanded_cholesky()
    assert sorted(order) == list(range(n + s))
    dense = L.toarray()
    assert np.array_equal(np.triu(dense), np.eye(n + s))
    close(dense * d @ dense.T, expected[np.ix_(order, order)])
    assert (d[:n] > 0).all() and (d[n:] < 0).all()
    close(np.log(np.abs(d)).sum(), np.linalg.slogdet(c.dense)[1], 1e-9 * (1 + n))
    totals = np.cumsum(c.A.ranks)
    bound = n + n * totals[-1] + sum(
        p * r * R for p, r, R in zip(h.group_counts, c.A.ranks, totals, strict=True)) + s
    assert L.nnz <= bound


# ---------------------------------------------------------------- posterior


@precisions
@some
@given(data=st.data())
def test_posterior_is_the_conditional_normal(dtype, tol, data):
    c = data.draw(cases(dtype=dtype))
    n, h, N = c.hierarchy.n, c.hierarchy, 5
    X = c.rng.standard_normal((n, N)).astype(dtype)
    F = spread(h, c.factors).astype(float)
    mean = F.T @ np.linalg.solve(c.dense, X)
    cov = np.eye(F.shape[1]) - F.T @ np.linalg.solve(c.dense, F)
    post = c.A.posterior(X)
    first = 0
    for level, (p, r) in enumerate(zip(h.group_counts, c.A.ranks, strict=True)):
        own = slice(first, first + p * r)
        for at in (level, level - h.n_levels):
            close(post.mean(at).reshape(p * r, N), mean[own], tol)
        found = post.covariance(level)
        assert found.shape == (p, r, r) and found.dtype == dtype
        for g in range(p):
            rows = slice(first + g * r, first + (g + 1) * r)
            close(found[g], cov[rows, rows], 10 * tol)
        first += p * r
    quad = np.einsum("ik,ij,jk->", X, np.linalg.inv(c.dense), X)
    squares = np.square(X.astype(float)).sum(axis=1)
    assert post.total_inv_quad(squares) == pytest.approx(quad, rel=10 * tol)


def test_posterior_refuses_bad_samples(case):
    with pytest.raises(ValueError, match="one row a feature"):
        case.A.posterior(np.zeros((29, 2)))
    X = np.zeros((30, 2))
    X[7, 1] = np.nan
    with pytest.raises(ValueError, match="feature 7"):
        case.A.posterior(X)


# ---------------------------------------------------------------- construction


@some
@given(c=cases())
def test_from_compact_and_parts(c):
    F = np.concatenate(c.factors, axis=1)
    B = MLR.from_compact(c.hierarchy, c.A.ranks, F, c.D)
    for A in (c.A, B):
        assert np.array_equal(A.F, F) and np.array_equal(A.D, c.D)
        assert len(A.factors) == c.hierarchy.n_levels
        assert all(map(np.array_equal, A.factors, c.factors))
        assert A.ranks == tuple(f.shape[1] for f in c.factors)
        assert A.storage == F.size + c.D.size and A.hierarchy is c.hierarchy
        for part in (A.F, A.D, *A.factors):
            assert not part.flags.writeable
    close(B.toarray(), c.dense)


@pytest.mark.parametrize("ordered", [True, False])
def test_input_arrays_stay_the_users(case, ordered):
    h = case.hierarchy._in_tree_order() if ordered else case.hierarchy
    factors, D = [f.copy() for f in case.factors], case.D.copy()
    F = np.concatenate(factors, axis=1)
    both = [MLR(h, factors, D), MLR.from_compact(h, (2, 0, 3), F, D)]
    before = [A.toarray() for A in both]
    for array in (*factors, D, F):
        array *= 7
        array += 1
    for A, dense in zip(both, before, strict=True):
        assert np.array_equal(A.toarray(), dense)
        for part in (A.F, A.D, A.factors[0], A.inv().U):
            with pytest.raises(ValueError, match="read-only"):
                part[0] = 1
    x = np.ones(30)
    for y in (both[0] @ x, both[0].solve(x), both[0].diagonal()):
        y += 1  # results belong to the caller
    assert np.array_equal(both[0].toarray(), before[0]) and (x == 1).all()


@pytest.mark.parametrize("copier", [
    lambda A: pickle.loads(pickle.dumps(A)), copy.copy, copy.deepcopy,
    lambda A: pickle.loads(pickle.dumps(A, protocol=5)),
], ids=["pickle", "copy", "deepcopy", "pickle 5"])
@pytest.mark.parametrize("factored", [True, False])
def test_copies(case, copier, factored):
    A, b = make_case(case.hierarchy, (2, 0, 3), seed=1).A, np.arange(30.0)
    if factored:
        A.solve(b), A.whiten(b), A.inv().diagonal()
    B = copier(A)
    assert type(B) is MLR and B.ranks == A.ranks and B.hierarchy == A.hierarchy
    assert np.array_equal(B.F, A.F) and np.array_equal(B.D, A.D)
    assert np.array_equal(B @ b, A @ b) and np.array_equal(B.solve(b), A.solve(b))
    assert not B.F.flags.writeable and not B.D.flags.writeable
    inverse = copier(A.inv())
    assert type(inverse) is MLRInverse
    assert np.array_equal(inverse @ b, A.inv() @ b)
    assert np.array_equal(inverse.inv().F, A.F)
    with pytest.warns(DeprecationWarning, match="MLRInverse.F is called MLRInverse.U"):
        assert np.array_equal(inverse.F, A.inv().U)


def test_repr(case):
    assert "30x30 MLR" in repr(case.A) and "(2, 0, 3)" in repr(case.A)
    assert "inverse of" in repr(case.A.inv())


def test_precision_of_a_copy(case):
    assert case.A.astype(np.float64) is case.A
    single = case.A.astype("float32")
    assert single.dtype == np.float32 and single.ranks == case.A.ranks
    assert single.hierarchy is case.A.hierarchy
    np.testing.assert_allclose(single.toarray(), case.dense, rtol=1e-5, atol=1e-5)


def test_scores_by_a_method_that_does_not_exist(case):
    with pytest.raises(ValueError, match="method must be 'posterior' or 'bartlett', got 'ridge'"):
        case.A.scores(np.zeros((30, 2)), "ridge")
