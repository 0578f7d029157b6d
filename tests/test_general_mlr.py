"""General multilevel matrices: products, entries, norms and bad input, by value."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from market import TOLERANCE
from paired_trees import example, factors, operators
from trees import PATHS, close, computing, make_case

from mlrops import Diagonal, GeneralMLR, Hierarchy
from mlrops._common.stored import check_fields
from mlrops.kernels import paired
from mlrops.operators import Product, check_operator

# ---------------------------------------------------------------- products


@given(case=operators())
def test_products(case):
    A, dense, rng = case
    m, n = dense.shape
    for k in ((), (1,), (3,), (7,)):
        x, y = rng.standard_normal((n, *k)), rng.standard_normal((m, *k))
        np.testing.assert_allclose(A @ x, dense @ x, rtol=0, atol=1e-11)
        np.testing.assert_allclose(A.T @ y, dense.T @ y, rtol=0, atol=1e-11)
        np.testing.assert_allclose(y.T @ A, y.T @ dense, rtol=0, atol=1e-11)
    x, y = rng.standard_normal(n), rng.standard_normal(m)
    assert y @ (A @ x) == pytest.approx(A.rmatvec(y) @ x, abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", list(PATHS))
def test_every_way_to_compute(path, dtype):
    with computing(path):
        A, dense, rng = example(dtype=dtype)
        for k in (1, 5, 40):
            X, Y = rng.standard_normal((23, k)), rng.standard_normal((30, k))
            got = A @ X.astype(dtype), A.rmatmat(Y.astype(dtype))
            assert got[0].dtype == got[1].dtype == dtype
            close(got[0], dense @ X, TOLERANCE[np.dtype(dtype)])
            close(got[1], dense.T @ Y, TOLERANCE[np.dtype(dtype)])


def test_factors_come_back_and_nobody_writes():
    rng = np.random.default_rng(0)
    A, _, _ = example()
    left, right = factors(A.rows, A.ranks, rng), factors(A.cols, A.ranks, rng)
    A = GeneralMLR(A.rows, A.cols, left, right)
    before = A.toarray()
    left[0][:] = right[2][:] = 0
    assert np.array_equal(A.toarray(), before)
    assert [f.shape for f in A.left] == [(30, 2), (30, 0), (30, 3)]
    assert A.ranks == (2, 0, 3) and A.storage == 53 * 5
    assert A.B.shape == (30, 5) and A.C.shape == (23, 5)
    for array in (A.B, A.C, *A.left, *A.right):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    again = GeneralMLR(A.rows, A.cols, A.left, A.right)
    assert np.array_equal(again.toarray(), before)


def test_transposes_share_the_arrays():
    A, dense, _ = example()
    assert type(A.T) is GeneralMLR and A.T.T is A and A.H is A.T
    assert A.T._B is A._C and A.T._C is A._B and A.T.rows is A.cols
    np.testing.assert_allclose(A.T.toarray(), dense.T, atol=1e-12)


def test_from_compact():
    A, dense, rng = example()
    for copy in (True, False):
        for check_finite in (True, False):
            same = GeneralMLR.from_compact(A.rows, A.cols, A.ranks, A.B, A.C, copy=copy,
                                           check_finite=check_finite)
            assert np.array_equal(same.toarray(), A.toarray())
    h = Hierarchy.flat(4)
    X, Y = rng.standard_normal((2, 4, 2))
    kept = GeneralMLR.from_compact(h, h, (2,), X, Y, copy=False)
    copied = GeneralMLR.from_compact(h, h, (2,), X, Y)
    assert np.shares_memory(kept.B, X) and not np.shares_memory(copied.B, X)
    assert X.flags.writeable
    with pytest.raises(ValueError, match=r"C must have shape \(n, R\) = \(4, 2\), got \(4, 1\)"):
        GeneralMLR.from_compact(h, h, (2,), X, Y[:, :1])
    with pytest.raises(ValueError, match="1 entry, one a level"):
        GeneralMLR.from_compact(h, h, (2, 1), X, Y)
    X[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"B must be finite.*feature 1"):
        GeneralMLR.from_compact(h, h, (2,), X, Y)


def test_symmetry_is_seen():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(6), [[0, 6], [0, 2, 6]])
    other = Hierarchy(rng.permutation(6), [[0, 6], [0, 2, 6]])
    F = factors(h, (2, 1), rng)
    assert GeneralMLR(h, h, F, F)._semidefinite
    minus = GeneralMLR(h, h, F, [F[0] * [1, -1], -F[1]])
    assert minus.symmetric and not minus._semidefinite and minus.T is minus
    off = [F[0], F[1] * np.where(np.arange(6) == 5, -1, 1)[:, None]]
    assert not GeneralMLR(h, h, F, off).symmetric
    assert not GeneralMLR(h, other, F, F).symmetric
    A = GeneralMLR(h, h, F, off)
    for S in (A + A.T, A.T + A, A @ A.T, A.T @ A):
        assert S.symmetric and S.T is S
        dense = S.toarray()
        np.testing.assert_allclose(dense, dense.T, atol=1e-13)
    assert not (A - A.T).symmetric


# ---------------------------------------------------------------- entries and norms


@given(case=operators())
def test_entries_blocks_and_sums(case):
    A, dense, rng = case
    m, n = dense.shape
    np.testing.assert_allclose(A.toarray(), dense, atol=1e-12)
    np.testing.assert_allclose(A.diagonal(), np.diagonal(dense), atol=1e-12)
    assert A.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-10, abs=1e-12)
    if m == n:
        assert A.trace() == pytest.approx(np.trace(dense), abs=1e-11)
    i, j = rng.integers(-m, m, (4, 5)), rng.integers(-n, n, (4, 5))
    np.testing.assert_allclose(A.entries(i, j), dense[i, j], atol=1e-12)
    np.testing.assert_allclose(A.entries(i[:, :1], j[0]), dense[i[:, :1], j[0]], atol=1e-12)
    for a, b in ((0, 3), (1, 1), (7, 0), (6, 9)):
        i, j = rng.integers(-m, m, a), rng.integers(-n, n, b)
        np.testing.assert_allclose(A.block(i, j), dense[np.ix_(i, j)], atol=1e-12)
    np.testing.assert_allclose(A.block(slice(None, None, -2), [0]), dense[::-2, :1], atol=1e-12)
    np.testing.assert_allclose(A.block(cols=slice(1, 3)), dense[:, 1:3], atol=1e-12)


def test_batches_of_any_size(monkeypatch):
    A, dense, rng = example()
    i, j = rng.integers(0, 30, 50), rng.integers(0, 23, 50)
    for items in (1, 7, 40):
        monkeypatch.setattr(paired, "BATCH_ITEMS", items)
        np.testing.assert_allclose(A.toarray(), dense, atol=1e-12)
        np.testing.assert_allclose(A.entries(i, j), dense[i, j], atol=1e-12)
        assert A.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-12)
        small = A.compress(1)
        assert small.ranks == (1, 0, 1)
    monkeypatch.undo()
    np.testing.assert_allclose(small.toarray(), A.compress(1).toarray(), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_norm_neither_overflows_nor_underflows(scale):
    A, dense, _ = example()
    B = scale * A
    assert B.norm() == pytest.approx(scale * np.linalg.norm(dense), rel=1e-12)


def test_norm_in_single_precision_sums_in_double():
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(20_000, [1, 4])
    A = GeneralMLR(h, h, factors(h, (1, 0), rng, np.float32), factors(h, (1, 0), rng, np.float32))
    expected = (np.linalg.norm(A.B[:, 0].astype(float)) * np.linalg.norm(A.C[:, 0].astype(float)))
    assert A.norm() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("i, j, error, message", [
    ([30], [0], IndexError, "i must lie in 0 to 29, got 30"),
    ([0], [-24], IndexError, "j must lie in 0 to 22, got -24"),
    ([0.5], [0], TypeError, "i must be a slice or integers"),
    ([True], [0], TypeError, "got dtype bool"),
])
def test_bad_indices(i, j, error, message):
    A, _, _ = example()
    with pytest.raises(error, match=message):
        A.entries(i, j)
    with pytest.raises(error):
        A.block(i, j)
    with pytest.raises(ValueError, match="rows must be 1-d"):
        A.block([[0]], [0])


# ---------------------------------------------------------------- bad input


def test_trees_of_unlike_shape():
    h = Hierarchy.from_boundaries([[0, 8], [0, 4, 8], [0, 2, 4, 6, 8]])
    for other, message in (
            (Hierarchy.flat(8), "equally many levels, got 3 and 1"),
            (Hierarchy.balanced(8, [1, 4, 8]), "level 1 has 2 and 4"),
            (Hierarchy.from_boundaries([[0, 8], [0, 2, 8], [0, 2, 4, 6, 8]]),
             "group 0 of level 1 has 2 children at level 2 in rows, 1 in cols"),
            (np.arange(8), "cols must be a Hierarchy, got ndarray")):
        with pytest.raises((ValueError, TypeError), match=message):
            GeneralMLR(h, other, [np.ones((8, 1))] * 3, [np.ones((8, 1))] * 3)
        with pytest.raises((ValueError, TypeError), match=message):
            GeneralMLR.from_compact(h, other, (1, 0, 0), np.ones((8, 1)), np.ones((8, 1)))


def test_factors_that_do_not_fit():
    h, g, one, two = Hierarchy.balanced(4, [1, 2]), Hierarchy.balanced(3, [1, 2]), *(
        np.ones((k, 1)) for k in (4, 3))
    bad = np.array([[1.0], [np.inf], [1]])
    for left, right, error, message in (
            ([one], [two, two], ValueError, r"left must hold one array a level \(2\), got 1"),
            ([one, one], [two, one], ValueError, "right factors of level 1 must have 3 rows"),
            ([one, np.ones((4, 2))], [two, two], ValueError,
             "level 1 must have equally many columns, got 2 and 1"),
            ([one, one], [two, bad], ValueError,
             r"right factors of level 1 must be finite.*row 1"),
            ([one, 1j * one], [two, two], TypeError, "left factors of level 1.*complex"),
            ([one, one[:, 0]], [two, two], ValueError, "level 1 must be 2-d"),
            (one, [two, two], TypeError, "see GeneralMLR.from_compact")):
        with pytest.raises(error, match=message):
            GeneralMLR(h, g, left, right)


def test_tags_in_a_file_have_to_be_true():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(9), [[0, 9], [0, 2, 9]])
    P, Q = make_case(h, (1, 2), 1).A, make_case(h, (2, 0), 2).A
    good = (P @ Q).to_fields()
    assert type(good["equal_to"]) is Product
    assert GeneralMLR.from_fields(**good).slogdet() == (P @ Q).slogdet()
    for change, error, message in (
            ({"symmetric": True}, ValueError, "tagged symmetric or equal to a product, but it is"),
            ({"equal_to": Product(Q, P)}, ValueError, "tagged symmetric or equal to a product"),
            ({"equal_to": Diagonal(np.ones(9))}, ValueError, "field 'equal_to' must be an MLR, a"),
            ({"ranks": (3, 2, 2)}, ValueError, r"B must have shape \(9, 7\)"),
            ({"B": good["B"].astype(np.float32)}, ValueError, "B and C must be of one dtype"),
            ({"cols": Hierarchy.flat(9)}, ValueError, "equally many levels"),
            ({"rows": None}, ValueError, "field 'rows' must be of type Hierarchy")):
        with pytest.raises(error, match=message):
            check_fields(good | change, GeneralMLR.stored_fields)
            GeneralMLR.from_fields(**(good | change))


# ---------------------------------------------------------------- nothing dense


def test_nothing_is_densified():
    rng = np.random.default_rng(0)
    n = 60_000
    h = Hierarchy.balanced(n, [1, 8, 512])
    g = Hierarchy.balanced(n // 2, [1, 8, 512])
    A = GeneralMLR(h, g, factors(h, (2, 1, 2), rng), factors(g, (2, 1, 2), rng))
    x = rng.standard_normal(n // 2)
    product = A.T @ A
    close(product @ x, A.T @ (A @ x), 1e-10)
    close((product + Diagonal(np.ones(n // 2))).compress() @ x, A.T @ (A @ x) + x, 1e-10)
    assert product.trace() == pytest.approx(A.norm() ** 2, rel=1e-10)
    assert (A - A).norm() <= 1e-6 * A.norm()
    assert A.block([0, n - 1], [5]).shape == (2, 1)
    assert A.diagonal().shape == (n // 2,)
    check = pickle.loads(pickle.dumps(A))
    assert np.array_equal(check @ x, A @ x)


@given(case=operators(square=True, dtype=np.float32))
def test_single_precision_passes_the_self_check(case):
    check_operator(case[0]).raise_if_failed()
