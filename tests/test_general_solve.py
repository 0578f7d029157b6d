"""Solves, determinants and least squares of general multilevel matrices."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paired_trees import factors, general, pairs, twin
from trees import close, make_case

from mlrops import Diagonal, GeneralMLR, Hierarchy
from mlrops._common.convergence import ConvergenceWarning
from mlrops.operators.general import solve as general_solve


def backward_error(dense, x, b, norm=None):
    """‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖), the largest over the columns."""
    residual = np.linalg.norm(dense @ x - b, axis=0)
    norm = np.linalg.norm(dense, 2) if norm is None else norm
    return np.max(residual / (norm * np.linalg.norm(x, axis=0) + np.linalg.norm(b, axis=0)))


@st.composite
def squares(draw):
    """Square operators on unlike permutations, of any structural rank: full leaves, or too few."""
    rows, cols, rng = draw(pairs(square=draw(st.booleans()), max_leaf=3))
    n = min(rows.n, cols.n)
    if rows.n != cols.n:  # equal n, unequal leaves
        sizes = rows.group_sizes(-1)
        cols = twin(rows, sizes[::-1], rng.permutation(rows.n))
        n = rows.n
    ranks = [draw(st.integers(0, 2)) for _ in range(rows.n_levels - 1)] + [draw(st.integers(1, 4))]
    return *general(rows, cols, ranks, rng), rng, n


@given(case=squares())
def test_solve_and_determinant(case):
    A, dense, rng, n = case
    sign, logabs = A.slogdet()
    values = np.linalg.svd(dense, compute_uv=False)
    if values[-1] < 1e-10 * values[0]:
        assert sign == 0 or logabs < np.log(values[0]) * n - 20
        with pytest.raises(np.linalg.LinAlgError, match="is singular: "):
            A.solve(np.ones(n))
        return
    expected = np.linalg.slogdet(dense)
    if values[-1] < 1e-8 * values[0]:
        return
    assert sign == expected[0] and logabs == pytest.approx(expected[1], abs=1e-6)
    for k in ((), (1,), (4,)):
        b = rng.standard_normal((n, *k))
        x, y = A.solve(b), A.T.solve(b)
        assert x.shape == y.shape == b.shape
        # Levels that cancel are known to the rounding of each, not of their sum.
        norm = sum(map(np.linalg.norm, A.left)) * max(map(np.linalg.norm, A.right))
        assert backward_error(dense, x, b, norm) < 1e-15
        assert backward_error(dense.T, y, b, norm) < 1e-15
        close(A.inv() @ b, x, 1e-12)
        close(A.inv().T @ b, y, 1e-12)


def regular(n=600, dtype=np.float64, seed=0, kind="diagonal"):
    """A permuted matrix of four levels with a diagonal, or with full leaves on unlike trees."""
    rng = np.random.default_rng(seed)
    bounds = [np.arange(p + 1) * n // p for p in (1, 4, 20)]
    h, g = (Hierarchy(rng.permutation(n), bounds) for _ in range(2))
    if kind == "diagonal":
        h = g = Hierarchy(h.permutation, [*bounds, np.arange(n + 1)])
        return *general(h, g, (3, 0, 2, 1), rng, dtype), rng
    return *general(h, g, (3, 1, n // 20), rng, dtype), rng


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["diagonal", "leaves"])
def test_backward_error_at_size(kind):
    A, dense, rng = regular(kind=kind)
    B = rng.standard_normal((600, 3))
    assert backward_error(dense, A.solve(B), B) < 1e-14
    assert backward_error(dense.T, A.T.solve(B), B) < 1e-14
    image = dense @ B
    assert backward_error(dense, A.solve(image), image) < 1e-14
    assert A.slogdet() == (np.linalg.slogdet(dense)[0],
                           pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-11))


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e150])
def test_scale_does_not_matter(scale):
    A, dense, rng = regular(200)
    left = [scale * f for f in A.left]
    right = [f / np.sqrt(scale) for f in A.right]
    B = GeneralMLR(A.rows, A.cols, left, right)
    b = rng.standard_normal(200)
    close(np.sqrt(scale) * B.solve(b), A.solve(b), 1e-9)
    assert B.slogdet()[1] == pytest.approx(A.slogdet()[1] + 100 * np.log(scale), rel=1e-11)


def test_units_that_span_twelve_orders():
    A, dense, rng = regular(200)
    units = 10.0 ** rng.uniform(-6, 6, 200)
    B = GeneralMLR(A.rows, A.cols, [units[:, None] * f for f in A.left], A.right)
    b = rng.standard_normal(200)
    close(B.solve(units * b), A.solve(b), 1e-9)
    assert B.slogdet()[1] == pytest.approx(A.slogdet()[1] + np.log(units).sum(), rel=1e-11)


def test_single_precision():
    A, dense, rng = regular(200, np.float32, kind="leaves")
    b = rng.standard_normal((200, 2)).astype(np.float32)
    x = A.solve(b)
    assert x.dtype == np.float32 and backward_error(dense, x, b) < 1e-6
    assert A.slogdet()[1] == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-12)


def deep(kind):
    """Seven levels and more; in "half", half the pivots of a leaf come from the levels above."""
    rng = np.random.default_rng(0)
    n, depth, last = {"diagonal": (1500, 7, 2), "leaves": (1500, 7, 24), "half": (1024, 9, 2)}[kind]
    bounds = Hierarchy.balanced(n, [2**level for level in range(depth)]).boundaries
    h, g = (Hierarchy(rng.permutation(n), bounds) for _ in range(2))
    ranks = (4 if kind == "half" else 2, *[2] * (depth - 2), last)
    if kind == "diagonal":
        h = g = Hierarchy(h.permutation, [*bounds, np.arange(n + 1)])
        ranks = (*ranks, 1)
    return *general(h, g, ranks, rng), rng


@pytest.mark.slow
@pytest.mark.parametrize("kind, most", [("diagonal", 1.4), ("leaves", 1.3), ("half", 4)])
def test_fill_stays_small(kind, most):
    A, dense, rng = deep(kind)
    lu, _ = A._lu
    assert lu.fill <= most * lu.nnz
    b = rng.standard_normal((len(dense), 2))
    assert backward_error(dense, A.solve(b), b) < 1e-14
    assert backward_error(dense.T, A.T.solve(b), b) < 1e-14
    assert A.slogdet()[0] == np.linalg.slogdet(dense)[0]


# ---------------------------------------------------------------- one factorization


@pytest.fixture
def factorizations(monkeypatch):
    """Counts the calls of splu."""
    made = []

    def counted(*args, **kwargs):
        made.append(1)
        return splu(*args, **kwargs)

    splu = general_solve.splu
    monkeypatch.setattr(general_solve, "splu", counted)
    return made


@pytest.mark.parametrize("first", ["itself", "transpose"])
def test_factored_once_for_everything(factorizations, first):
    A, dense, rng = regular(60)
    if first == "transpose":
        A, dense = A.T, dense.T
    b = rng.standard_normal(60)
    T = A.T
    for _ in range(2):
        assert backward_error(dense, A.solve(b), b) < 1e-14
        assert backward_error(dense.T, T.solve(b), b) < 1e-14
        A.slogdet(), T.slogdet(), A.inv() @ b, A.inv().T @ b, A.inv().diagonal()
    assert len(factorizations) == 1
    B = pickle.loads(pickle.dumps(A))
    assert not any("lu" in name for name in vars(B))
    close(B.solve(b), A.solve(b), 1e-13)
    assert len(factorizations) == 2


def test_what_is_known_otherwise_needs_no_factorization(factorizations):
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(12), [[0, 12], [0, 5, 12]])
    P, Q = make_case(h, (2, 1), 1), make_case(h, (1, 3), 2)
    x = rng.standard_normal((12, 2))
    for A, dense in ((P.A.to_general(), P.dense), (P.A @ Q.A, P.dense @ Q.dense),
                     (-2 * (P.A @ Q.A), -2 * P.dense @ Q.dense),
                     (P.A @ Q.A @ P.A, P.dense @ Q.dense @ P.dense),
                     (-(P.A.to_general()), -P.dense),
                     ((P.A @ Q.A).T, Q.dense @ P.dense),
                     (P.A @ Q.A @ Diagonal(-P.D), P.dense @ Q.dense * -P.D),
                     (pickle.loads(pickle.dumps(P.A @ Q.A)), P.dense @ Q.dense)):
        assert type(A) is GeneralMLR
        assert backward_error(dense, A.solve(x), x) < 1e-14
        expected = np.linalg.slogdet(dense)
        assert A.slogdet() == (expected[0], pytest.approx(expected[1], rel=1e-12))
        assert A.inv().slogdet()[1] == pytest.approx(-expected[1], rel=1e-12)
    assert not factorizations
    # as for the Product itself: a palindrome of positive operators is positive, with its root
    for A, dense in ((P.A @ P.A, P.dense @ P.dense),
                     (P.A @ Q.A @ P.A, P.dense @ Q.dense @ P.dense)):
        assert A.symmetric and A.positive_definite
        S = A.color(np.eye(12))
        close(S @ S.T, dense, 1e-12)
        close(A.whiten(S), np.eye(12), 1e-10)
        assert A.sample(3, random_state=0).shape == (3, 12)
        assert pickle.loads(pickle.dumps(A)).positive_definite
    assert not (P.A @ Q.A).symmetric
    # by hand from the same factors: the same through the sparse factorization
    A = P.A @ Q.A
    B = GeneralMLR(A.rows, A.cols, A.left, A.right)
    close(B.solve(x), A.solve(x), 1e-10)
    assert B.slogdet()[1] == pytest.approx(A.slogdet()[1], rel=1e-11) and len(factorizations) == 1


# ---------------------------------------------------------------- singular ones


def test_singular_by_structure():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(10), [[0, 10], [0, 4, 10]])
    g = Hierarchy(rng.permutation(10), [[0, 10], [0, 5, 10]])
    A, _ = general(h, g, (0, 6), rng)  # leaves of 4×5 and 6×5
    assert A.slogdet() == (0.0, -np.inf) and A.logdet() == -np.inf
    with pytest.raises(np.linalg.LinAlgError,
                       match="10x10 GeneralMLR.* is singular: structure alone leaves it a rank"
                             " deficiency of 1"):
        A.solve(np.ones(10))
    with pytest.raises(np.linalg.LinAlgError, match="is singular"):
        A.T.solve(np.ones(10))
    B, dense = general(h, g, (1, 6), rng)  # one factor for all makes up for it
    b = rng.standard_normal(10)
    assert backward_error(dense, B.solve(b), b) < 1e-14


def test_singular_by_values():
    A, _, rng = regular(60)
    left = [f.copy() for f in A.left]
    left[3][A.rows.features(2, 3)] = 0  # no diagonal in a leaf of 3 with 5 factors above
    left[0][A.rows.features(2, 3)] = 0
    left[2][A.rows.features(2, 3), 1] = 0
    B = GeneralMLR(A.rows, A.cols, left, A.right)
    assert np.linalg.matrix_rank(B.toarray()) == 58
    with pytest.raises(np.linalg.LinAlgError, match="is singular: "):
        B.solve(np.ones(60))
    left = [f.copy() for f in A.left]
    right = [f.copy() for f in A.right]
    i, j = A.rows.features(2, 3)[:2]
    for side in (left, right):
        for f in side:
            f[j] = f[i]
    left[3][[i, j]] = 0  # two equal rows
    C = GeneralMLR(A.rows, A.cols, left, right)
    with pytest.raises(np.linalg.LinAlgError, match="is singular: "):
        C.solve(np.ones(60))
    assert C.slogdet()[1] < A.slogdet()[1] - 25


def test_numerically_singular_names_the_condition():
    rng = np.random.default_rng(1)
    h = Hierarchy.flat(6)
    X = rng.standard_normal((6, 6))
    A = GeneralMLR(h, h, [X], [X[:, ::-1] @ np.diag([1, 1, 1, 1, 1, 0.0]) + 1e-18])
    with pytest.raises(np.linalg.LinAlgError, match="to working precision.*e-1"):
        A.solve(np.ones(6))


# ---------------------------------------------------------------- least squares


def tall(m=40, n=25, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(m), [[0, m], [0, m // 3, m]])
    cols = Hierarchy(rng.permutation(n), [[0, n], [0, n // 2, n]])
    return *general(rows, cols, (n, n), rng, dtype), rng


@pytest.mark.parametrize("transposed", [False, True], ids=["tall", "wide"])
def test_lstsq(transposed):
    A, dense, rng = tall()
    if transposed:
        A, dense = A.T, dense.T
    m, n = dense.shape
    b = rng.standard_normal(m)
    x, info = A.lstsq(b, atol=1e-13, btol=1e-13)
    expected = np.linalg.lstsq(dense, b, rcond=None)[0]
    close(x, expected, 1e-8)
    assert info.converged and 0 < info.n_iter <= 200 and "small enough" in info.reason
    assert info.residual_norm == pytest.approx(np.linalg.norm(b - dense @ x), abs=1e-8)
    assert info.gradient_norm <= 1e-9 * np.linalg.norm(dense)
    assert info.condition > 1
    X, infos = A.lstsq(np.stack([b, 2 * b, 0 * b], axis=1), atol=1e-13, btol=1e-13)
    close(X, np.outer(expected, [1, 2, 0]), 1e-8)
    assert len(infos) == 3 and infos[2].n_iter == 0 and infos[2].residual_norm == 0
    empty, none = A.lstsq(np.zeros((m, 0)))
    assert empty.shape == (n, 0) and none == []


def test_lstsq_damped_and_started():
    A, dense, rng = tall()
    b, x0 = rng.standard_normal(40), rng.standard_normal(25)
    x, _ = A.lstsq(b, damp=2.0, atol=1e-13, btol=1e-13)
    close(x, np.linalg.solve(dense.T @ dense + 4 * np.eye(25), dense.T @ b), 1e-9)
    x, _ = A.lstsq(b, x0=x0, atol=1e-13, btol=1e-13)
    close(x, np.linalg.lstsq(dense, b, rcond=None)[0], 1e-8)
    assert A.lstsq(b, x0=x, maxiter=3, atol=1e-6, btol=1e-6)[1].converged
    with pytest.raises(ValueError, match=r"x0 must have shape \(25,\), got \(25, 1\)"):
        A.lstsq(b, x0=x0[:, None])
    with pytest.raises(ValueError, match="expected 40 rows"):
        A.lstsq(b[1:])
    b[3] = np.nan
    with pytest.raises(ValueError, match="b must be finite.*row 3"):
        A.lstsq(b)


def test_lstsq_says_when_it_stops_early():
    A, _, rng = tall()
    B = rng.standard_normal((40, 2))
    message = "right-hand side [01] stopped after 2 iterations: the limit.*raise maxiter"
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        _, infos = A.lstsq(B, maxiter=2)
    assert len(caught) == 2 and not any(info.converged for info in infos)
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"lstsq\(max_iter=\) is called maxiter="):
        assert A.lstsq(np.zeros(A.shape[0]), max_iter=2)[1].converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, info = tall(dtype=np.float32)[0].lstsq(B[:, 0].astype(np.float32), atol=1e-5, btol=1e-5)
    assert info.converged and x.dtype == np.float32


def test_factors_of_the_expanded_matrix():
    # Nothing is assumed of the tree: one level, one group, all in A₀; and all levels spread out.
    rng = np.random.default_rng(0)
    h = Hierarchy.flat(9)
    A, dense = general(h, h, (9,), rng)
    assert general_solve._multiplied_out(A) == [True]
    b = rng.standard_normal(9)
    assert backward_error(dense, A.solve(b), b) < 1e-14
    B = GeneralMLR(h, h, *(factors(h, (4,), rng) for _ in range(2)))
    assert general_solve._multiplied_out(B) == [False]
    with pytest.raises(np.linalg.LinAlgError, match="deficiency of 5"):
        B.solve(b)
