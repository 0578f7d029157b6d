"""The algebra, by value against dense arrays, in both orders, and the types that come back."""

import numpy as np
import pytest
from market import Bench, dense_mlr, dense_permutation, market, trees
from scipy.linalg import block_diag
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlrops.operators import (
    MLR,
    BlockDiagonal,
    Dense,
    Diagonal,
    GeneralMLR,
    Identity,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    MLRInverse,
    Permutation,
    Product,
    Scaled,
    Sum,
    Woodbury,
    Wrapped,
    as_operator,
)
from mlrops.tree.hierarchy import Hierarchy

PAIRS = {pair.name: pair for pair in market()}
NAMES = list(PAIRS)
NO_ADJOINT = "wrapped without adjoint"


def check(result, dense, solve=True):
    """Value, tags, adjoint, solve and determinant of a result."""
    dense = np.asarray(dense)
    scale = max(np.linalg.norm(dense), 1)
    assert result.shape == dense.shape
    assert np.linalg.norm(result.toarray() - dense) <= 1e-11 * scale
    if result.symmetric:
        assert np.linalg.norm(dense - dense.T) <= 1e-12 * scale
    if result.positive_definite:
        assert np.linalg.eigvalsh(dense).min() > 0
    if result._semidefinite:
        assert np.linalg.eigvalsh(dense).min() >= -1e-12 * scale
    if not solve or dense.shape[0] != dense.shape[1] or not result._has_direct_solve:
        return
    if np.linalg.cond(dense) < 1e6:
        x = np.linspace(1, 2, len(dense))
        try:
            got = result.solve(dense @ x)
        except np.linalg.LinAlgError as error:
            # A nonsingular sum of a singular base and a low rank matrix has no Woodbury form.
            assert "singular" in str(error) and isinstance(result, Woodbury)
            assert np.linalg.cond(result.base.toarray()) > 1e12, result.base
            return
        assert np.linalg.norm(got - x) <= 1e-9 * np.linalg.norm(x)
        sign, logabs = np.linalg.slogdet(dense)
        assert result.slogdet() == (sign, pytest.approx(logabs, rel=1e-9, abs=1e-9))
        if result.positive_definite:
            S = result.color(np.eye(len(dense)))
            assert np.linalg.norm(S @ S.T - dense) <= 1e-9 * scale


# ---------------------------------------------------------------- every pair of the market


@pytest.mark.parametrize("name", NAMES)
def test_sums(name):
    _, A, a = PAIRS[name]
    for _, B, b in PAIRS.values():
        if a.shape == b.shape:
            total = A + B
            check(total, a + b)
            check(A - B, a - b)
            assert type(B + A) is type(total)


@pytest.mark.parametrize("name", NAMES)
def test_products(name):
    _, A, a = PAIRS[name]
    for other, B, b in PAIRS.values():
        if a.shape[1] == b.shape[0]:
            check(A @ B, a @ b, solve=False)
            if NO_ADJOINT not in (name, other):
                assert type((A @ B).T) is type(B.T @ A.T), other
                y = np.linspace(-1, 2, len(a))
                assert np.allclose((A @ B).rmatvec(y), b.T @ (a.T @ y), rtol=1e-9, atol=1e-9)


def test_identities_give_the_other_operand():
    for _, A, _ in PAIRS.values():
        for product in (Identity(A.shape[0]) @ A, A @ Identity(A.shape[1])):
            assert product is A or type(A) is type(product) is Identity
        single = Identity(A.shape[1], np.float32)
        assert A @ single is A
    wide = Diagonal(np.ones(3, np.float32))
    assert (Identity(3) @ wide).dtype == (wide @ Identity(3)).dtype == np.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("c", [2.5, -1.5, 1, 0])
def test_multiples(name, c):
    _, A, a = PAIRS[name]
    for result in (c * A, A * c, np.float64(c) * A, np.array(c) * A, A * np.float32(c)):
        check(result, c * a, solve=False)
        assert result.dtype == A.dtype
    check(c * A, c * a)
    check(-(c * A), -c * a)
    if c:
        check(A / c, a / c)
        check(A / np.float64(c), a / c)


@pytest.mark.quick(9)
@pytest.mark.parametrize("name", [n for n in NAMES if len(set(PAIRS[n].dense.shape)) == 1])
def test_powers(name):
    _, A, a = PAIRS[name]
    check(A ** 0, np.eye(len(a)))
    check(A ** 1, a)
    check(A ** 2, a @ a, solve=False)
    check(A ** 3, a @ a @ a, solve=False)
    if np.linalg.cond(a) < 1e4:
        inverse = np.linalg.inv(a)
        for p, expected in ((-1, inverse), (-2, inverse @ inverse)):
            got = (A ** p).toarray()
            assert np.linalg.norm(got - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_strangers(name):
    _, A, a = PAIRS[name]
    m, n = a.shape
    rng = np.random.default_rng(0)
    X = rng.standard_normal((m, n))
    for other in (X, csr_array(X), aslinearoperator(X)):
        check(A + other, a + X)
        check(A - other, a - X)
    check(X + A, X + a)
    check(X - A, X - a)
    Y = rng.standard_normal((n, 3))
    assert np.allclose(A @ Y, a @ Y, rtol=1e-11, atol=1e-11)
    check(A @ aslinearoperator(Y), a @ Y)
    stranger = aslinearoperator(X) + A
    assert isinstance(stranger, LinearOperator)
    assert np.allclose(stranger @ Y, (X + a) @ Y)
    if name != NO_ADJOINT:
        Z = rng.standard_normal((4, m))
        assert np.allclose(Z @ A, Z @ a, rtol=1e-11, atol=1e-11)
        assert np.allclose(Z[0] @ A, Z[0] @ a, rtol=1e-11, atol=1e-11)
        assert (Z[0] @ A).shape == (n,)


# ---------------------------------------------------------------- the types that come back

bench = Bench(np.float64, seed=3)
n = 6
U, V, F, G = bench.normal(n, 2), bench.normal(n, 2), bench.normal(n, 3), bench.normal(n, 1)
d, e = bench.positive(n), bench.positive(n)
signed = d * np.array([1, -1, 1, 1, -1, 1])
holes = d * np.array([1, 0, 1, 1, 1, 1])
X, Y, S = bench.regular(n), bench.regular(n), bench.spd(n)
p, q = np.array([2, 0, 1, 5, 4, 3]), np.array([1, 2, 3, 4, 5, 0])
low, sym = LowRank(U, V), LowRank(U)
lrd, lrd2 = LowRankPlusDiagonal(F, d), LowRankPlusDiagonal(U, e)
eye, diag, neg, gaps = Identity(n), Diagonal(d), Diagonal(signed), Diagonal(holes)
perm, dense = Permutation(p), Dense(X)
wood, blocks = Woodbury(X, U, None, V), BlockDiagonal(X[:2, :2], Y[:4, :4])
blocks2, kron = BlockDiagonal(Y[:2, :2], lrd2.toarray()[:4, :4]), Kronecker(X[:2, :2], Y[:3, :3])
kron2 = Kronecker(Y[:2, :2], X[:3, :3])
f = Hierarchy([3, 1, 5, 0, 2, 4], [[0, 6], [0, 2, 6]])
factors, factors2 = [bench.normal(n, r) for r in (1, 2)], [bench.normal(n, r) for r in (2, 0)]
mlr, mlr2 = MLR(f, factors, d), MLR(f, factors2, e)
forest = MLR(Hierarchy([3, 1, 5, 0, 2, 4], [[0, 2, 6]]), factors[1:], d)

SUMS = [
    (diag, neg, Diagonal), (eye, diag, Diagonal), (eye, eye, Diagonal), (eye, -eye, Diagonal),
    (low, diag, Woodbury), (low, neg, Woodbury), (low, gaps, Woodbury),
    (sym, diag, LowRankPlusDiagonal), (sym, eye, LowRankPlusDiagonal), (sym, neg, Woodbury),
    (sym, gaps, Woodbury), (-sym, diag, Woodbury), (-sym, 5 * eye, Woodbury),
    (sym, low, LowRank), (sym, LowRank(F), LowRank), (sym, -LowRank(F), LowRank),
    (lrd, lrd2, LowRankPlusDiagonal), (lrd, sym, LowRankPlusDiagonal), (lrd, low, Woodbury),
    (lrd, diag, LowRankPlusDiagonal), (lrd, -0.5 * diag, LowRankPlusDiagonal),
    (lrd, -3 * diag, Woodbury), (lrd, -1 * diag, Sum), (lrd, -0.1 * lrd2, Woodbury),
    (lrd, -sym, Woodbury), (lrd, lrd2.inv(), Woodbury), (lrd.inv(), diag, Woodbury),
    (lrd.inv(), sym, Woodbury), (lrd.inv(), lrd2.inv(), Woodbury),
    (dense, low, Woodbury), (dense, -sym, Woodbury), (dense, lrd, Woodbury),
    (dense, diag, Dense), (dense, Dense(Y), Dense), (perm, low, Woodbury),
    (kron, sym, Woodbury), (blocks, low, Woodbury), (wood, low, Woodbury), (wood, sym, Woodbury),
    (blocks, blocks2, BlockDiagonal), (blocks, -blocks2, Sum), (kron, kron2, Sum),
    (blocks, kron, Sum), (perm, diag, Sum), (perm, dense, Sum), (Sum(perm, dense), low, Sum),
    (Wrapped(csr_array(X)), low, Sum),
    (mlr, diag, MLR), (mlr, -0.5 * diag, MLR), (mlr, -1 * diag, GeneralMLR), (mlr, neg, GeneralMLR),
    (mlr, -mlr2, GeneralMLR), (-mlr, -mlr2, GeneralMLR), (mlr, -forest, Sum),
    (mlr, mlr2, MLR), (mlr, sym, MLR), (mlr, lrd2, MLR), (mlr, low, Woodbury),
    (mlr, -sym, Woodbury), (mlr, forest, Sum), (forest, sym, Woodbury), (forest, lrd2, Woodbury),
    (forest, low, Woodbury), (mlr.inv(), sym, Woodbury), (mlr.inv(), diag, Sum),
]

PRODUCTS = [
    (diag, neg, Diagonal), (eye, lrd, LowRankPlusDiagonal), (lrd, eye, LowRankPlusDiagonal),
    (diag, dense, Dense), (dense, diag, Dense), (diag, low, LowRank), (low, diag, LowRank),
    (low, sym, LowRank), (sym, LowRank(F, F[::-1]), LowRank), (dense, low, LowRank),
    (low, dense, LowRank), (sym, perm, LowRank), (perm, sym, LowRank), (lrd, low, LowRank),
    (mlr, low, LowRank), (low, mlr, LowRank), (LowRank(bench.normal(4, 2), V), dense, LowRank),
    (perm, Permutation(q), Permutation), (Permutation(q), perm, Permutation),
    (perm, dense, Dense), (dense, perm, Dense), (kron, kron2, Kronecker),
    (kron, Kronecker(X[:3, :3], X[:2, :2]), Product), (blocks, blocks2, BlockDiagonal),
    (blocks, BlockDiagonal(X[:3, :3], X[:3, :3]), Product),
    (BlockDiagonal(F[:2], F[:4]), BlockDiagonal(F[:3, :2], F[3:, :1]), BlockDiagonal),
    (lrd, lrd2, Product), (lrd, lrd, Product), (dense, Dense(Y), Product), (-lrd, lrd2, Scaled),
    (lrd, -lrd2, Scaled), (-lrd, -lrd2, Product), (mlr, mlr2, GeneralMLR),
    (mlr, forest, Product), (perm, diag, Product),
]

MULTIPLES = [
    (eye, Diagonal, Diagonal), (diag, Diagonal, Diagonal), (dense, Dense, Dense),
    (sym, LowRank, Scaled), (low, LowRank, LowRank), (lrd, LowRankPlusDiagonal, Scaled),
    (lrd.inv(), type(lrd.inv()), Scaled), (wood, Woodbury, Scaled),
    (Woodbury(lrd, U), Woodbury, Scaled), (Woodbury(lrd, U).inv(), Woodbury, Scaled),
    (mlr, MLR, Scaled), (mlr.inv(), MLRInverse, Scaled), (perm, Scaled, Scaled),
    (kron, Scaled, Scaled), (Sum(perm, dense), Scaled, Scaled),
]


def label(case):
    return "-".join(type(x).__name__ if not isinstance(x, type) else x.__name__ for x in case)


@pytest.mark.parametrize("case", SUMS, ids=label)
def test_type_of_sums(case):
    A, B, kind = case
    a, b = A.toarray(), B.toarray()
    for result in (A + B, B + A):
        assert type(result) is kind
        check(result, a + b)
    assert (A + B).positive_definite or not (
        A.positive_definite and B.positive_definite)


@pytest.mark.parametrize("case", PRODUCTS, ids=label)
def test_type_of_products(case):
    A, B, kind = case
    assert type(A @ B) is kind
    assert type(A * B) is kind
    check(A @ B, A.toarray() @ B.toarray())
    if B.shape[1] == A.shape[0]:
        check(B @ A, B.toarray() @ A.toarray())


@pytest.mark.parametrize("case", MULTIPLES, ids=label)
def test_type_of_multiples(case):
    A, positive, negative = case
    a = A.toarray()
    assert isinstance(2.0 * A, positive) and type(-2.0 * A) is negative
    check(2.0 * A, 2 * a)
    check(-2.0 * A, -2 * a)
    assert (2.0 * A).positive_definite == A.positive_definite
    assert (2.0 * A).symmetric == A.symmetric
    if A._has_direct_solve:
        assert (2.0 * A).inv().inv() is not A
    assert 1 * A is A


def test_multiples_merge():
    A = -3.0 * (2.0 * kron)
    assert type(A) is Scaled and A.base is kron and A.c == -6
    assert type(-1 * (-lrd)) is LowRankPlusDiagonal
    assert type(0.5 * (-2.0 * perm) * -1) is Permutation


def test_sums_and_products_flatten():
    A = (perm + kron) + (blocks + perm)
    assert type(A) is Sum and len(A.ops) == 4
    B = (perm @ kron) @ (lrd @ perm)
    assert type(B) is Product and len(B.ops) == 4
    check(A, 2 * perm.toarray() + kron.toarray() + blocks.toarray())
    check(B, perm.toarray() @ kron.toarray() @ lrd.toarray() @ perm.toarray())


def test_ranks_add():
    assert (lrd + lrd2).F.shape == (n, 5)
    assert (mlr + mlr2).ranks == (3, 2)
    assert (mlr + sym).ranks == (3, 2) and (mlr + lrd2).ranks == (3, 2)
    assert (wood + low).U.shape == (n, 4) and type((wood + low).base) is Dense
    assert (forest + lrd2).base.ranks == forest.ranks
    assert type((forest + lrd2).base) is MLR
    assert (LowRank(F) @ LowRank(U, V)).rank == 2 and (low @ LowRank(F)).rank == 2


def test_values_of_mlr_rules_by_definition():
    a = dense_mlr(f, factors, d)
    b = dense_mlr(f, factors2, e)
    check(mlr + mlr2, a + b)
    check(mlr + sym, a + U @ U.T)
    check(lrd2 + mlr, a + U @ U.T + np.diag(e))
    check(mlr - 0.5 * diag, a - np.diag(d) / 2)
    check(3 * mlr, 3 * a)
    check(mlr.inv() * 4, 4 * np.linalg.inv(a))
    other, ranks = trees()["groups of one"]
    check(sum([MLR(other, [bench.normal(8, r) * 0 for r in ranks], np.ones(8))] * 3),
          3 * np.eye(8))


def test_permutation_products_by_definition():
    P, Q = dense_permutation(p), dense_permutation(q)
    check(perm @ Permutation(q), P @ Q)
    check(Permutation(q) @ perm, Q @ P)
    assert not np.array_equal(P @ Q, Q @ P)
    check(perm @ dense, P @ X)
    check(dense @ perm, X @ P)
    check(perm @ perm.inv(), np.eye(n))


def test_kronecker_of_products():
    A = Kronecker(F[:2, :3], X[:2, :2]) @ Kronecker(F[:3, :2], X[:2, :3])
    assert type(A) is Kronecker
    check(A, np.kron(F[:2, :3] @ F[:3, :2], X[:2, :2] @ X[:2, :3]))
    B = BlockDiagonal(F[:2], F[:4]) @ BlockDiagonal(F[:3, :2], F[3:, :1])
    check(B, block_diag(F[:2] @ F[:3, :2], F[:4] @ F[3:, :1]))


def test_builtin_sum():
    check(sum([lrd, perm, dense]), lrd.toarray() + perm.toarray() + X)
    assert type(sum([lrd, lrd2, diag])) is LowRankPlusDiagonal
    assert type(sum([mlr, mlr2, diag, sym])) is MLR


# ---------------------------------------------------------------- tags


def test_palindromes():
    sums = [
        (lrd @ lrd, True), (lrd @ lrd2 @ lrd, True), (lrd2 @ neg @ lrd2, False),
        (perm @ lrd @ perm.T, True), (neg @ lrd @ neg, True),
        (gaps @ lrd @ gaps, False),
    ]
    for A, positive in sums:
        assert A.symmetric and A.positive_definite == positive
        check(A, A.toarray())
    for A in (lrd @ lrd2, perm @ lrd @ perm, lrd @ kron @ lrd, lrd @ dense @ lrd,
              lrd @ lrd2 @ lrd2, Product(dense, dense)):
        assert not A.symmetric and not A.positive_definite
    tall = Dense(F)
    assert (tall @ tall.T).symmetric and not (tall @ tall.T).positive_definite
    assert (tall @ tall.T)._semidefinite
    assert (Product(tall, tall.T) + diag).positive_definite


def test_positive_tags_of_sums():
    assert (kron @ kron.T + perm @ diag @ perm.T).positive_definite
    assert (lrd @ lrd + sym).positive_definite
    assert not (lrd - 1e-3 * diag @ perm).symmetric
    assert not Sum(lrd, neg).positive_definite
    assert not Sum(sym, LowRank(F)).positive_definite
    assert Sum(sym, lrd).positive_definite
    assert not (-lrd).positive_definite and (-lrd).symmetric
    assert not Woodbury(lrd, U, [[1, 2], [2, 1]]).positive_definite
    assert Woodbury(lrd, U, [[2, 1], [1, 2]]).positive_definite
    assert not Woodbury(lrd, U, [[2, 1], [0, 2]]).symmetric
    assert not Woodbury(neg, U).positive_definite


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize("left", [np.float32, np.float64])
@pytest.mark.parametrize("right", [np.float32, np.float64])
def test_dtype_of_compositions(left, right):
    pairs, others = ({x.name: x for x in market(t)} for t in (left, right))
    names = ["identity", "diagonal", "dense", "low rank", "low rank symmetric", "permutation",
             "lrd", "lrd inverse", "woodbury general", "mlr permuted", "kronecker", "scaled",
             "product", "blocks positive"]
    wanted = np.result_type(left, right)
    seen = 0
    for a in names:
        for b in names:
            A, B = pairs[a].operator, others[b].operator
            if A.shape == B.shape:
                seen += 1
                for result in (A + B, A @ B, A - B):
                    assert result.dtype == wanted, (a, b)
                    assert (result @ np.ones(A.shape[1], wanted)).dtype == wanted
                    assert np.allclose((A + B).toarray(), pairs[a].dense + others[b].dense,
                                       rtol=1e-4, atol=1e-4)
    assert seen > 60


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("c, error", [
    ("2", TypeError), (None, TypeError), (np.nan, ValueError),
    (np.inf, ValueError), (-np.inf, ValueError),
])
def test_bad_scalars(c, error):
    with pytest.raises(error):
        c * lrd
    with pytest.raises(error):
        lrd * c
    with pytest.raises(error):
        lrd / c
    with pytest.raises(error):
        Scaled(lrd, c)


def test_bad_operands():
    with pytest.raises(ZeroDivisionError):
        lrd / 0
    with pytest.raises(ValueError, match="scalar"):
        lrd / lrd
    for other in (1, np.ones(n), "matrix", None, 1j * np.eye(n)):
        with pytest.raises(TypeError):
            lrd + other
        with pytest.raises(TypeError):
            lrd - other
    with pytest.raises(TypeError):
        as_operator(np.ones(3))
    with pytest.raises(ValueError, match=r"\(6, 6\) and \(5, 5\)"):
        lrd + Identity(5)
    with pytest.raises(ValueError, match=r"\(6, 6\) and \(5, 5\)"):
        lrd @ Identity(5)
    for power in (0.5, "2", None):
        with pytest.raises(TypeError, match="integer"):
            lrd ** power
    with pytest.raises(np.linalg.LinAlgError):
        gaps ** -1
