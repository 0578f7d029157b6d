"""Sums, products, truncation and conversions of general multilevel matrices, by value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import TOLERANCE, dense_mlr
from paired_trees import example, factors, general, operators, twin
from trees import close, make_case

from mlrops import MLR, Diagonal, GeneralMLR, Hierarchy, LowRank, LowRankPlusDiagonal
from mlrops.operators import Product, Woodbury

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


@pytest.mark.slow
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
    assert (forest + LowRank(U, W)).ranks == (2, 9)  # in a coarsest level of its own
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


def test_nothing_to_compress():
    A, _, rng = example()
    nothing = general(A.rows, A.cols, (0, 0, 0), rng)[0].compress()
    assert nothing.ranks == (0, 0, 0) and nothing.T.shape == (23, 30) and not nothing.symmetric
    assert nothing.norm() == 0 and not nothing.toarray().any()


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
    with pytest.raises(ValueError, match="2 entries, one a level"):
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
