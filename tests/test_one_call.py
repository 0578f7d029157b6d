"""One column on a small tree goes up and down in one compiled call: by value, and as in many."""

import numpy as np
import pytest
from trees import computing, make_case, set_constants

from mlrops import MLR, Hierarchy, LowRankPlusDiagonal
from mlrops.kernels import _compiled_column, parts

TREES = {
    "balanced": (Hierarchy.balanced(50, (1, 5)), (2, 2)),
    "rank 0 above": (Hierarchy.balanced(24, (1, 3, 6)), (0, 2, 1)),
    "rank 0 between": (Hierarchy.balanced(24, (1, 3, 6)), (3, 0, 2)),
    "rank 0 below": (Hierarchy.balanced(24, (1, 3, 6)), (1, 2, 0)),
    "unequal leaves": (Hierarchy.from_boundaries([[0, 31], [0, 1, 20, 31], [0, 1, 4, 20, 22, 31]]),
                       (3, 2, 5)),
    "one leaf": (Hierarchy.flat(7), (3,)),
    "one feature": (Hierarchy.flat(1), (2,)),
    "leaves of one feature": (Hierarchy.balanced(6, (2, 6)), (1, 1)),
    "many roots": (Hierarchy.balanced(40, (20, 40)), (2, 1)),
    "permuted": (Hierarchy(np.random.default_rng(3).permutation(30),
                           Hierarchy.balanced(30, (1, 2, 6)).boundaries), (2, 2, 1)),
}
DTYPES = {np.float64: 1e-12, np.float32: 2e-5}


@pytest.fixture(params=TREES)
def tree(request):
    return TREES[request.param]


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels for one column that Python calls."""
    made = []
    for name in ("column", "column_up", "column_down"):
        kernel = getattr(_compiled_column, name)
        monkeypatch.setattr(_compiled_column, name, lambda *args, kernel=kernel, name=name: (
            made.append(name), kernel(*args))[1])
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_and_solves_by_value(tree, dtype, calls):
    case = make_case(*tree, 5, dtype)
    A, x = case.A, case.rng.standard_normal(case.A.shape[0]).astype(dtype)
    before, close = x.copy(), {"rtol": 0, "atol": DTYPES[dtype]}
    y, z = A @ x, A.solve(x)
    assert calls == ["column", "column"]
    assert y.dtype == z.dtype == dtype and y.shape == z.shape == x.shape
    expected = case.dense @ x
    np.testing.assert_allclose(y / np.abs(expected).max(), expected / np.abs(expected).max(),
                               **close)
    residual = (case.dense @ z - x) / (np.linalg.norm(case.dense, 2) * np.linalg.norm(z))
    np.testing.assert_allclose(residual, 0, **close)
    # Nothing is kept of the operand, and nothing of it comes back.
    x[:] = 7
    np.testing.assert_array_equal(A @ before, y)
    assert not np.shares_memory(y, x) and not np.shares_memory(A.solve(x), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_as_in_two_calls(tree, dtype, calls, monkeypatch):
    case = make_case(*tree, 6, dtype)
    x = case.rng.standard_normal(case.A.shape[0]).astype(dtype)
    one = case.A @ x, case.A.solve(x)
    set_constants(monkeypatch, SHARED_ITEMS=0, SHARES=10**9)
    B = make_case(*tree, 6, dtype).A
    two = B @ x, B.solve(x)
    assert calls == ["column"] * 2 + ["column_up", "column_down"] * 2
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0,
                                   atol=50 * np.finfo(dtype).eps * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_squares_of_lengths(tree, dtype):
    """What the error test is told, of one call and of two."""
    A = make_case(*tree, 7, dtype).A
    b = np.random.default_rng(0).standard_normal((A.shape[0], 1)).astype(dtype)
    found = {}
    for way in ("as shipped", "subtrees shared by threads", "large leaves shared by pieces"):
        with computing(way):
            A = make_case(*tree, 7, dtype).A
            x, z, found[way] = A._once(b)
        weights = np.ones(len(b)), A._dinv, np.ones(len(z)), np.ones(len(x))
        expected = [[np.sum(w * v[:, 0].astype(float) ** 2)]
                    for w, v in zip(weights, (b, b, z, x), strict=True)]
        np.testing.assert_allclose(found[way], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, rank", [(50, 4), (1, 1), (5, 9), (30, 30)])
def test_solves_of_one_leaf_by_the_factor_of_lapack(n, rank, dtype, calls):
    rng = np.random.default_rng(4)
    F, D = rng.standard_normal((n, rank)).astype(dtype), rng.uniform(1, 2, n).astype(dtype)
    A, b = LowRankPlusDiagonal(F, D), rng.standard_normal((n, 2)).astype(dtype)
    x = np.column_stack([A.solve(column) for column in b.T])
    assert "column" in calls and x.dtype == dtype  # others where it is corrected
    residual = (F.astype(float) @ (F.T @ x) + D[:, None] * x - b) / np.linalg.norm(A.toarray(), 2)
    np.testing.assert_allclose(residual, 0, rtol=0, atol=DTYPES[dtype])
    np.testing.assert_allclose(A.solve(b), x, rtol=0, atol=DTYPES[dtype] * np.abs(x).max() * 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_goes_through(tree, bad):
    """Where it stands, and without a warning or an error."""
    A = make_case(*tree, 8).A
    x = np.ones(A.shape[0])
    x[0] = bad
    with computing("subtrees shared by threads"):
        B = make_case(*tree, 8).A
        expected = B @ x, B.solve(x)
    for found, other in zip((A @ x, A.solve(x)), expected, strict=True):
        assert not np.isfinite(found[0])
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(other))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["MLR", "LowRankPlusDiagonal"])
def test_squares_out_of_range(dtype, kind):
    """Columns whose squares under- or overflow are solved as those of size one."""
    F, D = np.random.default_rng(1).standard_normal((9, 2)).astype(dtype), np.ones(9, dtype)
    A = LowRankPlusDiagonal(F, D) if kind == "LowRankPlusDiagonal" else MLR(
        Hierarchy.flat(9), [F], D)
    b = np.arange(1, 10).astype(dtype)
    for power in (80, -80) if dtype == np.float32 else (700, -700):
        np.testing.assert_array_equal(A.solve(np.ldexp(b, power)), np.ldexp(A.solve(b), power))


def test_a_matrix_of_one_column_is_a_column(tree):
    A = make_case(*tree, 9).A
    x = np.random.default_rng(2).standard_normal((A.shape[0], 1))
    for verb in (A.dot, A.solve):
        assert verb(x).shape == x.shape
        np.testing.assert_array_equal(verb(x)[:, 0], verb(x[:, 0]))


def test_which_trees_are_in_one_piece():
    def layout(n, counts, ranks):
        return Hierarchy.balanced(n, counts)._layout(ranks)

    assert layout(10_000, (1, 10, 100, 1000), (3, 3, 3, 3)).in_one_piece
    assert not layout(20_000, (1, 10, 100, 1000), (3, 3, 3, 3)).in_one_piece  # shared by threads
    long = layout(10_000, (1,), (2,))
    assert long.top == 0 and not long.in_one_piece  # a leaf in pieces
    x = np.ones((10_000, 1))
    assert not parts.in_one_call(np.ones((10_000, 2)), layout(10_000, (1, 1000), (1, 1)))
    assert parts.in_one_call(x, layout(10_000, (1, 1000), (1, 1)))
