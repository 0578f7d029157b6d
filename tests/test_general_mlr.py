"""General multilevel matrices: products, entries, norms, algebra and conversions, by value."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import TOLERANCE, dense_general, dense_mlr
from trees import PATHS, close, computing, hierarchies, make_case

from mlrops import MLR, Diagonal, GeneralMLR, Hierarchy, LowRank, LowRankPlusDiagonal
from mlrops.kernels import paired
from mlrops.operators import Product, Woodbury, check_operator


def twin(shape, sizes, permutation):
    """A tree of the shape of another one, its leaves of these sizes."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    at = [np.searchsorted(shape.boundaries[-1], b) for b in shape.boundaries]
    return Hierarchy(permutation, [ends[b] for b in at])


@st.composite
def pairs(draw, square=False, max_leaf=4):
    """Two trees of one shape: unequal groups, unlike permutations, several roots, deep ones."""
    shape = draw(hierarchies(max_n=12, max_levels=5))
    leaves = shape.group_counts[-1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(1, max_leaf + 1, leaves)
    cols = rng.permutation(rows) if square else rng.integers(1, max_leaf + 1, leaves)
    return (twin(shape, rows, rng.permutation(rows.sum())),
            twin(shape, cols, rng.permutation(cols.sum())), rng)


def factors(h, ranks, rng, dtype=np.float64):
    return [rng.standard_normal((h.n, r)).astype(dtype) for r in ranks]


def general(rows, cols, ranks, rng, dtype=np.float64):
    left, right = factors(rows, ranks, rng, dtype), factors(cols, ranks, rng, dtype)
    return GeneralMLR(rows, cols, left, right), dense_general(rows, cols, left, right)


@st.composite
def operators(draw, square=False, dtype=np.float64, max_rank=3):
    rows, cols, rng = draw(pairs(square))
    ranks = [draw(st.integers(0, max_rank)) for _ in range(rows.n_levels)]
    return *general(rows, cols, ranks, rng, dtype), rng


def example(seed=0, dtype=np.float64):
    """One permuted rectangular pair: two roots, rank 0, one-wide groups."""
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(30), [[0, 20, 30], [0, 5, 20, 30], [0, 5, 6, 20, 21, 30]])
    cols = Hierarchy(rng.permutation(23), [[0, 3, 23], [0, 1, 3, 23], [0, 1, 2, 3, 10, 23]])
    return *general(rows, cols, (2, 0, 3), rng, dtype), rng


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
    with pytest.raises(ValueError, match="one entry for each of the 1 levels"):
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


# ---------------------------------------------------------------- algebra


@given(case=operators(), data=st.data())
def test_sums(case, data):
    A, dense, rng = case
    ranks = [data.draw(st.integers(0, 2)) for _ in A.ranks]
    B, other = general(A.rows, A.cols, ranks, rng)
    for total, expected in ((A + B, dense + other), (A - B, dense - other),
                            (2 * A - B / 4, 2 * dense - other / 4), (A - A, 0 * dense)):
        assert type(total) is GeneralMLR
        np.testing.assert_allclose(total.toarray(), expected, atol=1e-11)
    assert (A + B).ranks == tuple(r + q for r, q in zip(A.ranks, ranks, strict=True))


@given(case=operators(), data=st.data())
def test_products_of_operators(case, data):
    A, dense, rng = case
    sizes = [data.draw(st.integers(1, 4)) for _ in range(A.cols.group_counts[-1])]
    cols = twin(A.cols, sizes, rng.permutation(sum(sizes)))
    ranks = [data.draw(st.integers(0, 2)) for _ in A.ranks]
    B, other = general(A.cols, cols, ranks, rng)
    C = A @ B
    assert type(C) is GeneralMLR and C.rows == A.rows and C.cols == cols
    scale = max(1, np.abs(dense @ other).max())
    np.testing.assert_allclose(C.toarray(), dense @ other, atol=1e-12 * scale)
    assert all(r <= p + q for r, p, q in zip(C.ranks, A.ranks, ranks, strict=True))


def test_factors_of_a_product_are_left_as_they_are():
    A, _, rng = example()
    B, _ = general(A.cols, A.rows, (1, 2, 2), rng)
    C = A @ B
    assert C.ranks == (3, 2, 2)  # at the finest level the smaller rank carries the product
    assert np.array_equal(C.left[0][:, :2], A.left[0])
    assert np.array_equal(C.right[0][:, 2:], B.right[0])
    assert np.array_equal(C.right[2], B.right[2])


@st.composite
def with_mlr(draw):
    """A GeneralMLR from a tree to another one of its shape, and MLRs on both."""
    A, dense, rng = draw(operators())
    made = []
    for h in (A.rows, A.cols):
        ranks = [draw(st.integers(0, 2)) for _ in A.ranks]
        made.append(make_case(h, ranks, int(rng.integers(2**32))))
    return A, dense, *made


@given(case=with_mlr())
def test_with_mlr(case):
    A, dense, P, Q = case
    for got, expected in ((P.A @ A, P.dense @ dense), (A @ Q.A, dense @ Q.dense),
                          (P.A @ A @ Q.A, P.dense @ dense @ Q.dense),
                          ((-P.A) @ A, -P.dense @ dense), (P.A @ P.A, P.dense @ P.dense),
                          (P.A - 3 * P.A @ P.A, P.dense - 3 * P.dense @ P.dense),
                          ((P.A - P.A @ P.A) @ A, (P.dense - P.dense @ P.dense) @ dense),
                          (A @ (Q.A - Q.A @ Q.A), dense @ (Q.dense - Q.dense @ Q.dense))):
        assert type(got) is GeneralMLR
        close(got.toarray(), expected, 1e-11)
    S, dense = general(P.hierarchy, P.hierarchy, A.ranks, P.rng)
    for got, expected in ((S + P.A, dense + P.dense), (P.A - S, P.dense - dense),
                          (S + Diagonal(P.D), dense + np.diag(P.D)),
                          (P.A - Diagonal(9 * P.D), P.dense - np.diag(9 * P.D)),
                          (Diagonal(P.D) @ S, P.D[:, None] * dense),
                          (S @ Diagonal(P.D), dense * P.D)):
        assert type(got) is GeneralMLR
        np.testing.assert_allclose(got.toarray(), expected, atol=1e-10)


def test_with_low_rank():
    rng = np.random.default_rng(1)
    h = Hierarchy(rng.permutation(9), [[0, 9], [0, 2, 9]])
    g = Hierarchy(rng.permutation(7), [[0, 7], [0, 3, 7]])
    (A, a), (S, s) = general(h, g, (1, 2), rng), general(h, h, (1, 2), rng)
    U, V, W = (rng.standard_normal((k, 2)) for k in (9, 7, 9))
    assert (A + LowRank(U, V)).ranks == (LowRank(U, V) + A).ranks == (3, 2)
    close((A - LowRank(U, V)).toarray(), a - U @ V.T, 1e-12)
    d = rng.uniform(1, 2, 9)
    for B, b in ((LowRank(U), U @ U.T), (LowRank(U, W), U @ W.T),
                 (LowRankPlusDiagonal(U, d), U @ U.T + np.diag(d)),
                 (Woodbury(Diagonal(d), U, [[1, 2], [3, 4]]),
                  np.diag(d) + U @ [[1, 2], [3, 4]] @ U.T),
                 (-LowRankPlusDiagonal(U, d), -U @ U.T - np.diag(d))):
        for total, expected in ((S + B, s + b), (B - S, b - s)):
            assert type(total) is GeneralMLR
            close(total.toarray(), expected, 1e-12)
    forest, f = general(Hierarchy(h.permutation, h.boundaries[1:]),
                        Hierarchy(h.permutation, h.boundaries[1:]), (9,), rng)
    assert type(forest + LowRank(U, W)) is Woodbury
    close((forest + LowRank(U, W)).toarray(), f + U @ W.T, 1e-12)


def test_unlike_trees_do_not_mix():
    rng = np.random.default_rng(0)
    h, g = Hierarchy(rng.permutation(8), [[0, 8], [0, 3, 8]]), Hierarchy.balanced(8, [1, 2])
    (A, a), (B, b) = general(h, h, (1, 2), rng), general(g, g, (1, 2), rng)
    assert type(A @ B) is Product
    close((A @ B).toarray(), a @ b, 1e-12)
    close((A + B).toarray(), a + b, 1e-12)


# ---------------------------------------------------------------- lower ranks


def best(block, rank):
    U, s, Vt = np.linalg.svd(block, full_matrices=False)
    return U[:, :rank] * s[:rank] @ Vt[:rank]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compress_truncates_each_block_optimally(dtype):
    A, _, _ = example(dtype=dtype)
    small = A.compress((1, 0, 2))
    assert small.ranks == (1, 0, 2) and small.dtype == dtype
    for level, rank in ((0, 1), (2, 2)):
        rows, cols = A.rows.labels(level), A.cols.labels(level)
        for g in range(A.rows.group_counts[level]):
            i, j = rows == g, cols == g
            B, C = A.left[level][i].astype(float), A.right[level][j]
            got = small.left[level][i].astype(float) @ small.right[level][j].T
            close(got, best(B @ C.T, rank), 10 * TOLERANCE[np.dtype(dtype)] / 100)
            # both sides carry the root of the singular values
            close(np.linalg.norm(small.left[level][i], axis=0),
                  np.linalg.norm(small.right[level][j], axis=0).astype(float), 1e-4)


@given(case=operators())
def test_compress_removes_what_rounding_put_there(case):
    A, dense, _ = case
    twice = (A + A).compress()
    assert all(r <= q for r, q in zip(twice.ranks, A.ranks, strict=True))
    np.testing.assert_allclose(twice.toarray(), 2 * dense, atol=1e-11)
    assert (A - A).compress(tol=1e-10).norm() <= 1e-10 * max(1, A.norm())
    assert A.compress(0).ranks == (0,) * len(A.ranks)


def test_compress_keeps_symmetry():
    rng = np.random.default_rng(3)
    h = Hierarchy(rng.permutation(12), [[0, 12], [0, 5, 12]])
    F = factors(h, (3, 2), rng)
    gram = GeneralMLR(h, h, F, F).compress((2, 1))
    assert gram.symmetric and gram._semidefinite
    A, _ = general(h, h, (3, 2), rng)
    S = A + A.T
    small = S.compress((4, 2))
    assert small.symmetric and not small._semidefinite and small.ranks == (4, 2)
    dense = small.toarray()
    assert np.abs(dense - dense.T).max() < 1e-13
    top = S.left[0] @ S.right[0].T
    close(small.left[0] @ small.right[0].T, best(top, 4), 1e-12)
    with pytest.raises(ValueError, match="tol must be"):
        A.compress(tol=-1)
    with pytest.raises(ValueError, match="one entry for each of the 2 levels"):
        A.compress((1, 2, 3))


# ---------------------------------------------------------------- MLR and back


def test_mlr_and_back():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(8), [[0, 8], [0, 3, 8]])
    case = make_case(h, (2, 1), 1)
    A = case.A.to_general()
    assert A.rows is A.cols and A.ranks == (2, 1, 1) and A.rows.group_counts == (1, 2, 8)
    assert A.positive_definite and A.storage == 2 * 8 * 4
    close(A.toarray(), case.dense, 1e-13)
    back = A.to_mlr()
    assert type(back) is MLR and back.hierarchy == h and back.ranks == (2, 1)
    close(back.toarray(), case.dense, 1e-13)
    x = rng.standard_normal(8)
    assert A.inv_quad(x) == pytest.approx(x @ np.linalg.solve(case.dense, x))
    # the same matrix with other factors: rotated, rescaled
    R = np.linalg.qr(rng.standard_normal((2, 2)))[0] @ np.diag([3.0, 0.2])
    left, right = list(A.left), list(A.right)
    left[0], right[0] = left[0] @ R, right[0] @ np.linalg.inv(R).T
    left[2], right[2] = 7 * left[2], right[2] / 7
    B = GeneralMLR(A.rows, A.cols, left, right)
    assert not B.symmetric
    close(B.to_mlr().toarray(), case.dense, 1e-13)
    assert B.to_mlr().positive_definite


def test_singles_join_the_diagonal():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(5), [[0, 5], [0, 1, 2, 3, 4, 5]])
    F, D = factors(h, (1, 2), rng), rng.uniform(1, 2, 5)
    A = MLR(h, F, D).to_general()
    assert A.rows == h and A.ranks == (1, 1)
    close(A.toarray(), dense_mlr(h, F, D), 1e-13)
    alone = Hierarchy.balanced(4, [4])
    B = MLR(alone, factors(alone, (2,), rng), D[:4])
    close(B.to_general().toarray(), B.toarray(), 1e-13)
    C = GeneralMLR(alone, alone, [D[:4, None]], [D[:4, None]])
    assert C.positive_definite
    close(C.to_mlr().toarray(), np.diag(D[:4] ** 2), 1e-13)


def test_what_is_no_mlr():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(6), [[0, 6], [0, 2, 6], list(range(7))])
    F, one = factors(h, (1, 1), rng), np.ones((6, 1))

    def refused(left, right, message, cols=h):
        with pytest.raises(ValueError, match=message):
            GeneralMLR(h, cols, left, right).to_mlr()

    refused([F[0], F[1], one], [F[0], -F[1], one],
            r"level 1, group 0 \(2 features\) is not positive semidefinite")
    skew = F[1] + np.where(h.labels(1) == 1, 1, 0)[:, None]
    refused([F[0], F[1], one], [F[0], skew, one],
            r"level 1, group 1 \(4 features\) is not symmetric")
    refused([*F, one], [*F, -one], "diagonal level must be positive, got -1 at feature 0")
    refused([*F, one], [*F, one], "one hierarchy", Hierarchy.from_boundaries(h.boundaries))
    top = Hierarchy(h.permutation, h.boundaries[:2])
    with pytest.raises(ValueError, match="group 0 of level 1 has 2.*add a positive Diagonal"):
        GeneralMLR(top, top, F, F).to_mlr()
    with pytest.raises(TypeError, match="expects an MLR, got Diagonal"):
        GeneralMLR.from_mlr(Diagonal([1.0]))


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
