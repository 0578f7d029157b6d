"""`fit_mlr` against dense block coordinate descent and least squares by their definitions."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import LinearOperator

from mlrops import MLR, GeneralMLR, Hierarchy
from mlrops.fitting import fit_mlr, pairs
from mlrops.fitting.search import State
from mlrops.fitting.target import Target


def trees(seed=0, m=26, n=21):
    """A pair of permuted trees with unequal groups, some of one row or one column."""
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(m), [[0, m], [0, 9, m], [0, 4, 9, 10, m]])
    cols = Hierarchy(rng.permutation(n), [[0, n], [0, 12, n], [0, 1, 12, 16, n]])
    return rows, cols, rng


def blocks(rows, cols, level):
    """Index arrays of the blocks of a level."""
    return [np.ix_(rows.features(level, g), cols.features(level, g))
            for g in range(rows.group_counts[level])]


def masked(X, rows, cols, level):
    return np.where(rows.labels(level)[:, None] == cols.labels(level), X, 0)


def dense_fit(fit, level):
    """The part of one level, by its definition."""
    A = fit.operator
    return masked(A.left[level] @ A.right[level].T, A.rows, A.cols, level)


def nearest(X, rank, kind="svd"):
    """The best approximation of a block; symmetric ones by eigenvalues."""
    if kind == "svd":
        U, s, Vt = np.linalg.svd(X)
        return (U[:, :rank] * s[:rank]) @ Vt[:rank] if min(X.shape) > rank else X
    lam, V = np.linalg.eigh((X + X.T) / 2)
    keep = np.argsort(-lam if kind == "psd" else -np.abs(lam))[:rank]
    used = np.maximum(lam[keep], 0) if kind == "psd" else lam[keep]
    return (V[:, keep] * used) @ V[:, keep].T


def reference_bcd(A, ranks, rows, cols, orders, kind="svd"):
    """Errors of block coordinate descent with full decompositions, after each list of levels."""
    parts = [np.zeros_like(A) for _ in ranks]
    errors = []
    for order in orders:
        for level in order:
            rest = A - sum(part for k, part in enumerate(parts) if k != level)
            for block in blocks(rows, cols, level):
                parts[level][block] = nearest(rest[block], ranks[level], kind)
        errors.append(np.linalg.norm(A - sum(parts)) / np.linalg.norm(A))
    return errors


def gaussian(m=60, n=45, seed=0):
    rng = np.random.default_rng(seed)
    t, s = np.sort(rng.random(m)), np.sort(rng.random(n))
    return np.exp(-60 * (t[:, None] - s) ** 2)


def symmetric_matrix(n=40, seed=3):
    """Indefinite, with blocks that matter, in a shuffled order."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(n))
    S = np.cos(9 * (x[:, None] + x)) / (0.1 + np.abs(x[:, None] - x))
    order = rng.permutation(n)
    tree = Hierarchy(np.argsort(order), [[0, n], [0, 15, n], [0, 8, 15, 16, n]])
    return S[np.ix_(order, order)], tree


class Products(LinearOperator):
    """Nothing but products; remembers how many vectors it was given."""

    def __init__(self, A):
        super().__init__(A.dtype, A.shape)
        self.array, self.vectors, self.widest = A, 0, 0

    def _count(self, x):
        self.vectors += x.shape[1]
        self.widest = max(self.widest, x.shape[1])
        return x

    def _matmat(self, x):
        return self.array @ self._count(x)

    def _rmatmat(self, x):
        return self.array.T @ self._count(x)

    def _matvec(self, x):
        return self.array @ x


class WithNorm(Products):
    def norm(self):
        return np.linalg.norm(self.array)


# ---------------------------------------------------------------- the iterates, by value

SWEEPS = {"v": [0, 1, 2, 1, 0], "topdown": [0, 1, 2], "bottomup": [2, 1, 0]}


@pytest.mark.parametrize("order", SWEEPS)
def test_bcd_is_exact_where_few_directions_are_left_out(order):
    _, cols, rng = trees()
    rows = Hierarchy(rng.permutation(12), [[0, 12], [0, 5, 12], [0, 3, 5, 6, 12]])
    A = rng.standard_normal((12, 21))
    ranks = (9, 4, 2)
    fit = fit_mlr(A, ranks, rows, cols, method="bcd", order=order, start="topdown", tol=0,
                  max_iter=4)
    expected = reference_bcd(A, ranks, rows, cols, [[0, 1, 2]] + 4 * [SWEEPS[order]])
    np.testing.assert_allclose(fit.objective_trace, expected, rtol=1e-10)
    assert expected[0] > expected[-1] > 0.01


@pytest.mark.parametrize("kind", ["symmetric", "psd"])
def test_symmetric_bcd_is_exact_where_few_directions_are_left_out(kind):
    rng = np.random.default_rng(2)
    S = rng.standard_normal((12, 12))
    S += S.T
    tree = Hierarchy(rng.permutation(12), [[0, 12], [0, 5, 12], [0, 3, 5, 6, 12]])
    ranks = (3, 2, 1)
    fit = fit_mlr(S, ranks, tree, psd=kind == "psd", start="topdown", tol=0, max_iter=4)
    expected = reference_bcd(S, ranks, tree, tree, [[0, 1, 2]] + 4 * [SWEEPS["v"]], kind)
    np.testing.assert_allclose(fit.objective_trace, expected, rtol=1e-10)
    assert fit.operator.symmetric
    if kind == "psd":
        np.testing.assert_array_equal(fit.operator.B, fit.operator.C)


def half_step(A, moving, fixed, rows, cols, ranks):
    """Least squares for the rows of A one by one, with the factors of their paths spread out."""
    R, levels = sum(ranks), np.repeat(np.arange(len(ranks)), ranks)
    out = np.zeros((A.shape[0], R))
    for i in range(A.shape[0]):
        path = np.array([cols.labels(level) == rows.labels(level)[i] for level in levels]).T
        out[i] = np.linalg.lstsq(fixed * path, A[i], rcond=None)[0]
    return out


def test_als_is_least_squares_for_all_levels_together():
    rows, cols, rng = trees()
    A = rng.standard_normal((26, 21))
    ranks = (2, 0, 1)
    left, right = ([rng.standard_normal((k, r)) for r in ranks] for k in (26, 21))
    engines, errors = [], []
    for begin in State.open, lambda state: state.descend(ranks):
        state = State(Target(A, rows, cols, False, False), 0)
        begin(state)
        state.engine.load(GeneralMLR(rows, cols, left, right))
        engines.append(state.engine)
    B, C = np.hstack(left), np.hstack(right)
    expected = []
    for _ in range(3):
        C = half_step(A.T, C, B, cols, rows, ranks)
        B = half_step(A, B, C, rows, cols, ranks)
        M = GeneralMLR.from_compact(rows, cols, ranks, B, C).toarray()
        expected.append(np.linalg.norm(A - M) / np.linalg.norm(A))
        for engine in engines:
            engine._ahead = None  # a plain step
            engine.step()
            errors.append(engine.error())
    np.testing.assert_allclose(errors, np.repeat(expected, 2), rtol=1e-9)


def test_als_with_factors_that_repeat_each_other():
    rows, cols, rng = trees()
    A = rng.standard_normal((26, 21))
    right = rng.standard_normal((21, 2))
    init = ([np.zeros((26, 2))] * 3, [right, right, right])
    fit = fit_mlr(A, (2, 2, 2), rows, cols, method="als", init=init, tol=0, max_iter=30)
    assert np.isfinite(fit.operator.B).all()
    assert (np.diff(fit.objective_trace) <= 1e-14).all()
    assert fit.error < 0.75 * fit.objective_trace[0]


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_single_level_is_the_truncated_svd(level, rank):
    rng = np.random.default_rng(rank)
    A = rng.standard_normal((90, 70))
    rows = Hierarchy(rng.permutation(90), [[0, 90], [0, 40, 90], [0, 1, 40, 90]])
    cols = Hierarchy(rng.permutation(70), [[0, 70], [0, 40, 70], [0, 3, 40, 70]])
    ranks = np.where(np.arange(3) == level, rank, 0).tolist()
    fit = fit_mlr(A, ranks, rows, cols)
    assert fit.converged
    M = fit.operator.toarray()
    for block in blocks(rows, cols, level):
        np.testing.assert_allclose(M[block], nearest(A[block], rank), atol=2e-5)
        best = np.linalg.norm(A[block] - nearest(A[block], rank))
        assert np.linalg.norm(A[block] - M[block]) <= best * (1 + 1e-10) + 1e-12
    assert not M[rows.labels(level)[:, None] != cols.labels(level)].any()


@pytest.mark.parametrize("psd", [False, True])
def test_a_single_symmetric_level_is_the_truncated_eigendecomposition(psd):
    S, tree = symmetric_matrix(70)
    fit = fit_mlr(S, 4, Hierarchy.flat(70), psd=psd)
    expected = nearest(S, 4, "psd" if psd else "symmetric")
    np.testing.assert_allclose(fit.operator.toarray(), expected, atol=1e-6 * np.abs(S).max())


# ---------------------------------------------------------------- what a fit must show

@pytest.mark.parametrize("method", ["bcd", "als"])
def test_a_matrix_of_the_kind_is_recovered(method):
    rng = np.random.default_rng(5)
    rows = Hierarchy(rng.permutation(100), [[0, 100], [0, 45, 100], [0, 20, 45, 70, 100]])
    cols = Hierarchy(rng.permutation(80), [[0, 80], [0, 35, 80], [0, 20, 35, 62, 80]])
    truth = GeneralMLR(rows, cols, [rng.standard_normal((100, r)) for r in (2, 0, 2)],
                       [rng.standard_normal((80, r)) for r in (2, 0, 2)])
    A = truth.toarray()
    fit = fit_mlr(A, (2, 0, 2), rows, cols, method=method, tol=1e-9, max_iter=3000, random_state=1)
    assert fit.converged and fit.error < 1e-8
    np.testing.assert_allclose(fit.operator.toarray(), A, atol=1e-7)
    np.testing.assert_allclose(dense_fit(fit, 2), masked(
        truth.left[2] @ truth.right[2].T, rows, cols, 2), atol=1e-6)


@pytest.mark.parametrize("options", [
    {}, {"method": "als"}, {"order": "bottomup"}, {"order": "topdown", "tol": 1e-6}], ids=str)
def test_errors_are_those_of_the_operator_and_never_rise(options):
    A, rng = gaussian(), np.random.default_rng(8)
    shuffle = rng.permutation(60), rng.permutation(45)
    rows, cols = (Hierarchy(np.argsort(p), Hierarchy.balanced(p.size, [1, 3, 12, 24]).boundaries)
                  for p in shuffle)
    A = A[np.ix_(*shuffle)]
    fit = fit_mlr(A, (2, 1, 0, 1), rows, cols, random_state=0, **options)
    assert (np.diff(fit.objective_trace) <= 1e-13).all()
    assert fit.n_iter == fit.objective_trace.size - 1 > 2
    assert fit.times.shape == fit.objective_trace.shape and (np.diff(fit.times) > 0).all()
    gap = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(fit.error, rel=1e-11) and gap < 0.6
    assert fit.converged and fit.termination == "tol" and fit.error == fit.objective_trace[-1]
    again = fit_mlr(A, (2, 1, 0, 1), rows, cols, random_state=0, **options)
    np.testing.assert_array_equal(again.operator.B, fit.operator.B)


def test_every_level_is_the_best_for_the_rest_when_it_has_converged():
    A = gaussian()
    rows, cols = Hierarchy.balanced(60, [1, 3, 12]), Hierarchy.balanced(45, [1, 3, 12])
    fit = fit_mlr(A, (2, 1, 1), rows, cols, tol=1e-10, max_iter=5000, random_state=0)
    R = A - fit.operator.toarray()
    for level, rank in enumerate(fit.ranks):
        own = dense_fit(fit, level)
        for block in blocks(rows, cols, level):
            np.testing.assert_allclose(own[block], nearest((R + own)[block], rank), atol=1e-4)


def test_factors_are_on_principal_axes():
    rows, cols, rng = trees()
    A = rng.standard_normal((26, 21))
    for method in ("bcd", "als"):
        fit = fit_mlr(A, (3, 2, 1), rows, cols, method=method, random_state=0)
        for level, rank in enumerate((3, 2, 1)):
            B, C = fit.operator.left[level], fit.operator.right[level]
            for g in range(rows.group_counts[level]):
                b, c = B[rows.features(level, g)], C[cols.features(level, g)]
                s = np.linalg.norm(b, axis=0)
                np.testing.assert_allclose(b.T @ b, np.diag(s**2), atol=1e-10)
                np.testing.assert_allclose(c.T @ c, np.diag(s**2), atol=1e-10)
                assert (np.diff(s) <= 1e-12).all()
                peak = b[np.abs(b).argmax(axis=0), np.arange(rank)]
                assert (peak >= 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("threshold", [1, 30, 10**9])
def test_blocks_in_place_and_in_stacks_give_the_same(threshold, symmetric, monkeypatch):
    S, tree = symmetric_matrix()
    expected = fit_mlr(S, (3, 2, 1), tree, symmetric=symmetric, random_state=0, max_iter=5)
    monkeypatch.setattr(pairs, "IN_PLACE", threshold)
    fit = fit_mlr(S, (3, 2, 1), tree, symmetric=symmetric, random_state=0, max_iter=5)
    np.testing.assert_allclose(fit.objective_trace, expected.objective_trace, rtol=1e-9)
    als = fit_mlr(S, (3, 2, 1), tree, method="als", random_state=0, max_iter=5)
    assert (np.diff(als.objective_trace) <= 1e-13).all()


# ---------------------------------------------------------------- symmetric and positive

def test_symmetry_is_seen_in_arrays_and_sparse_arrays():
    S, tree = symmetric_matrix()
    assert fit_mlr(S, (2, 1, 1), tree, max_iter=1).operator.symmetric
    assert fit_mlr(csr_array(S), (2, 1, 1), tree, max_iter=1).operator.symmetric
    assert not fit_mlr(S, (2, 1, 1), tree, max_iter=1, method="als").operator.symmetric
    assert not fit_mlr(S, (2, 1, 1), tree, max_iter=1, symmetric=False).operator.symmetric
    S[3, 7] += 1e-3
    assert not fit_mlr(S, (2, 1, 1), tree, max_iter=1).operator.symmetric


@pytest.mark.parametrize("psd", [False, True])
def test_symmetric_fits_are_symmetric_monotone_and_right(psd):
    S, tree = symmetric_matrix()
    fit = fit_mlr(S, (3, 2, 1), tree, psd=psd, tol=1e-6)
    M = fit.operator.toarray()
    np.testing.assert_allclose(M, M.T, atol=1e-12)
    assert (np.diff(fit.objective_trace) <= 1e-13).all()
    assert np.linalg.norm(S - M) / np.linalg.norm(S) == pytest.approx(fit.error, rel=1e-10)
    if psd:
        for level in range(3):
            assert np.linalg.eigvalsh(dense_fit(fit, level)).min() > -1e-10
    else:
        np.testing.assert_allclose(np.abs(fit.operator.B), np.abs(fit.operator.C))
        assert np.linalg.eigvalsh(M).min() < -0.1


def test_a_positive_fit_with_a_diagonal_level_is_an_mlr():
    rng = np.random.default_rng(4)
    tree = Hierarchy(rng.permutation(30), [[0, 30], [0, 12, 30], np.arange(31)])
    loadings = [rng.standard_normal((30, 2)), rng.standard_normal((30, 1))]
    D = rng.uniform(0.5, 2, 30)
    top = Hierarchy(tree.permutation, tree.boundaries[:2])
    Sigma = MLR(top, loadings, D)
    fit = fit_mlr(Sigma.toarray(), (2, 1, 1), tree, psd=True, tol=1e-10, max_iter=20000)
    assert fit.error < 1e-6
    A = fit.to_mlr()
    assert isinstance(A, MLR)
    np.testing.assert_allclose(A.toarray(), Sigma.toarray(), atol=1e-4)
    np.testing.assert_allclose(A.solve(np.ones(30)), Sigma.solve(np.ones(30)), rtol=1e-2)


# ---------------------------------------------------------------- sparse arrays and operators

def sparse_case(seed=0):
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(70), [[0, 70], [0, 30, 70], [0, 10, 30, 31, 70],
                                           [0, 4, 10, 20, 30, 31, 50, 70]])
    cols = Hierarchy(rng.permutation(64), [[0, 64], [0, 25, 64], [0, 10, 25, 29, 64],
                                           [0, 6, 10, 24, 25, 29, 50, 64]])
    A = rng.standard_normal((70, 64)) * (rng.random((70, 64)) < 0.2)
    return A, rows, cols


@pytest.mark.parametrize("method", ["bcd", "als"])
@pytest.mark.parametrize("kind", [csr_array, coo_array, Products, WithNorm])
def test_sparse_arrays_and_operators_give_what_arrays_give(kind, method):
    A, rows, cols = sparse_case()
    ranks = (2, 1, 0, 1)
    options = {"method": method, "start": "topdown", "random_state": 0, "max_iter": 6, "tol": 0}
    expected = fit_mlr(A, ranks, rows, cols, **options)
    fit = fit_mlr(kind(A), ranks, rows, cols, **options)
    np.testing.assert_allclose(fit.objective_trace, expected.objective_trace, rtol=1e-8)
    np.testing.assert_allclose(fit.operator.toarray(), expected.operator.toarray(), atol=1e-6)


@pytest.mark.parametrize("norm", [Products, WithNorm])
def test_narrow_levels_of_an_operator_are_read_once(norm):
    A = gaussian()
    rows, cols = (Hierarchy.balanced(k, [1, 3, 45]) for k in A.shape)
    operator = norm(A)
    options = {"method": "bcd", "start": "topdown", "random_state": 0, "max_iter": 5, "tol": 0}
    fit = fit_mlr(operator, (2, 1, 1), rows, cols, **options)
    np.testing.assert_allclose(
        fit.objective_trace,
        fit_mlr(A, (2, 1, 1), rows, cols, **options).objective_trace, rtol=1e-7)
    # Five vectors for level 0 and three times four for level 1, both ways; the norm takes the rank.
    visits, norms = 2 * (1 + 2 * 5), 6
    level_1 = 1 + 2 * 5 + 1
    most = 45 + 2 * 5 * visits + 2 * 12 * level_1 + norms * (2 + 3) + 2 * (5 + 12)
    assert 45 < operator.vectors <= most


def test_an_operator_is_never_multiplied_out(monkeypatch):
    from mlrops.fitting import residuals

    monkeypatch.setattr(residuals, "VECTORS", 60 * 7)
    A = gaussian()
    rows, cols = (Hierarchy.balanced(k, [1, 3, 45]) for k in A.shape)
    operator = Products(A)
    options = {"method": "bcd", "start": "topdown", "random_state": 0, "max_iter": 3, "tol": 0}
    fit = fit_mlr(operator, (2, 1, 1), rows, cols, **options)
    assert operator.widest <= 10 < 45  # the two times five directions of level 0's start
    expected = fit_mlr(A, (2, 1, 1), rows, cols, **options)
    np.testing.assert_allclose(fit.objective_trace, expected.objective_trace, rtol=1e-7)


@pytest.mark.parametrize("kind", [csr_array, Products])
@pytest.mark.parametrize("psd", [False, True])
def test_symmetric_sparse_arrays_and_operators(kind, psd):
    S, tree = symmetric_matrix()
    options = {"symmetric": True, "psd": psd, "start": "topdown", "random_state": 0,
               "max_iter": 5, "tol": 0}
    expected = fit_mlr(S, (2, 0, 1), tree, **options)
    fit = fit_mlr(kind(S), (2, 0, 1), tree, **options)
    np.testing.assert_allclose(fit.objective_trace, expected.objective_trace, rtol=1e-7)
    assert fit.operator.symmetric


# ---------------------------------------------------------------- sizes, kinds, memory

def test_ranks_of_zero_and_ranks_beyond_the_blocks():
    rows, cols, rng = trees()
    A = rng.standard_normal((26, 21))
    none = fit_mlr(A, (0, 0, 0), rows, cols)
    assert none.error == 1 and none.converged and none.operator.B.shape == (26, 0)
    fit = fit_mlr(A, (1, 0, 5), rows, cols)
    assert fit.capped == ((2, 0, 1), (2, 2, 1))
    assert fit.operator.ranks == (1, 0, 5) and np.isfinite(fit.operator.B).all()
    full = fit_mlr(A, (30, 2, 1), rows, cols)
    assert full.capped[0] == (0, 0, 21) and full.termination == "exact" and full.error < 1e-14
    np.testing.assert_allclose(full.operator.toarray(), A, atol=1e-12)
    one = fit_mlr([[2.0]], 1, Hierarchy.flat(1))
    assert one.operator.toarray()[0, 0] == pytest.approx(2) and one.termination == "exact"


@pytest.mark.parametrize("method", ["bcd", "als"])
def test_float32_stays_and_integers_become_float64(method):
    A = gaussian()
    rows, cols = Hierarchy.balanced(60, [1, 3, 12]), Hierarchy.balanced(45, [1, 3, 12])
    options = {"method": method, "random_state": 0, "max_iter": 8, "tol": 0}
    single = fit_mlr(A.astype(np.float32), (2, 1, 1), rows, cols, **options)
    double = fit_mlr(A, (2, 1, 1), rows, cols, **options)
    assert single.operator.dtype == np.float32 and double.operator.dtype == np.float64
    np.testing.assert_allclose(single.objective_trace, double.objective_trace, rtol=2e-3)
    gap = np.linalg.norm(A - single.operator.toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(single.error, rel=1e-4)
    assert fit_mlr((10 * A).astype(int), (2, 1, 1), rows, cols).operator.dtype == np.float64


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("method", ["bcd", "als"])
def test_units_do_not_matter(scale, method):
    A, rows, cols = sparse_case()
    options = {"method": method, "random_state": 0, "max_iter": 5}
    plain = fit_mlr(A, (2, 1, 0, 1), rows, cols, **options)
    scaled = fit_mlr(scale * A, (2, 1, 0, 1), rows, cols, **options)
    np.testing.assert_allclose(scaled.objective_trace, plain.objective_trace, rtol=1e-10)
    np.testing.assert_allclose(scaled.operator.toarray(), scale * plain.operator.toarray(),
                               atol=1e-8 * scale)


@pytest.mark.parametrize("method", ["bcd", "als"])
def test_memory_is_one_residual(method):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((1600, 1500))
    counts = [1, 4, 20]
    rows, cols = (Hierarchy(rng.permutation(k), Hierarchy.balanced(k, counts).boundaries)
                  for k in A.shape)
    tracemalloc.start()
    fit_mlr(A, (2, 2, 2), rows, cols, method=method, max_iter=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert A.nbytes < peak < 1.4 * A.nbytes
