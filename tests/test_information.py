"""The expected information of F and D, by value: against dense algebra and against differences."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from market import dense_information
from scipy.sparse.linalg import aslinearoperator, cg, eigsh, lobpcg, minres
from trees import PATHS, cases, close, computing, make_case, permuted_case

import mlrops
from mlrops import MLR, Hierarchy, LowRankPlusDiagonal
from mlrops.factor.estep.sources import open_source
from mlrops.factor.likelihood import LikelihoodSurface
from mlrops.factor.point import Point
from mlrops.factor.reopened import derivatives
from mlrops.kernels.information import InformationAt
from mlrops.operators import FactorInformation


def dense_product(case, dF, dD):
    """``(A F, ½ diag A)`` with ``A = Σ⁻¹ dΣ Σ⁻¹``, entry by entry of dense matrices."""
    h, inverse = case.hierarchy, np.linalg.inv(case.dense)
    ends = np.cumsum([0, *case.A.ranks])
    dS = np.diag(np.asarray(dD, float))
    same = [h.labels(level)[:, None] == h.labels(level) for level in range(h.n_levels)]
    for mask, F, a, b in zip(same, case.factors, ends[:-1], ends[1:], strict=True):
        cross = np.where(mask, dF[:, a:b] @ np.asarray(F, float).T, 0)
        dS += cross + cross.T
    A = inverse @ dS @ inverse
    parts = [np.where(mask, A, 0) @ np.asarray(F, float)
             for mask, F in zip(same, case.factors, strict=True)]
    return np.concatenate(parts, axis=1), np.diag(A) / 2


def direction(case):
    n, R = case.A.F.shape
    return case.rng.standard_normal((n, R)), case.rng.standard_normal(n)


def agrees(case, tol=1e-12):
    dF, dD = direction(case)
    found, expected = case.A.information().times(dF, dD), dense_product(case, dF, dD)
    scale = max(np.abs(x).max(initial=0) for x in expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == case.A.dtype
        assert np.abs(a - b).max(initial=0) <= tol * max(1, np.linalg.cond(case.dense) / 50) * scale


# ---------------------------------------------------------------- by value


@settings(deadline=None, max_examples=80)
@given(cases())
def test_against_dense_algebra(case):
    """Random trees: unequal leaves, levels of rank 0, groups of one feature, permutations."""
    agrees(case)


@settings(deadline=None, max_examples=20)
@given(cases(dtype=np.float32))
def test_single_precision(case):
    """In its own units of rounding, times the condition of Σ."""
    agrees(case, 1e-4)


@settings(deadline=None, max_examples=20)
@given(cases(max_n=8, max_levels=3, max_rank=2))
def test_the_whole_matrix(case):
    J = case.A.information()
    dense = dense_information(case.A, case.dense)
    scale = np.linalg.cond(case.dense)
    close(J.toarray(), dense, 1e-12 * scale)
    close(J.diagonal(), np.diagonal(dense), 1e-12 * scale)


def fixed(name):
    rng = np.random.default_rng(2)
    flat, p = Hierarchy.flat, rng.permutation(30)
    trees = {
        "one feature": (flat(1), (1,)), "one feature, two factors": (flat(1), (2,)),
        "no factors": (flat(7), (0,)),
        "no factors at any level": (Hierarchy(p, [[0, 30], [0, 4, 30]]), (0, 0)),
        "one feature a group": (Hierarchy(p, [[0, 30], range(31)]), (2, 1)),
        "only groups of one feature": (Hierarchy(p, [range(31)]), (2,)),
        "unequal leaves": (Hierarchy(p, [[0, 30], [0, 1, 3, 29, 30]]), (2, 2)),
        "rank 0 above": (Hierarchy(p, [[0, 30], [0, 10, 30], [0, 10, 20, 30]]), (0, 1, 2)),
        "rank 0 below": (Hierarchy(p, [[0, 30], [0, 10, 30], [0, 10, 20, 30]]), (2, 1, 0)),
        "rank 0 between": (Hierarchy(p, [[0, 30], [0, 10, 30], [0, 10, 20, 30]]), (2, 0, 1)),
        "a forest": (Hierarchy(p, [[0, 12, 30], [0, 12, 20, 30]]), (1, 2)),
        "the same groups twice": (Hierarchy(p, [[0, 12, 30], [0, 12, 30]]), (1, 2))}
    return make_case(*trees[name], seed=3)


NAMES = ["one feature", "one feature, two factors", "no factors", "no factors at any level",
         "one feature a group", "only groups of one feature", "unequal leaves", "rank 0 above",
         "rank 0 below", "rank 0 between", "a forest", "the same groups twice"]


@pytest.mark.parametrize("name", NAMES)
def test_special_trees(name):
    agrees(fixed(name))


@pytest.mark.parametrize("path", PATHS)
def test_every_way_of_computing(path):
    with computing(path):
        agrees(permuted_case())


def test_leaves_that_are_work_for_blas():
    """A leaf of 5000 rows; the dense matrix by Woodbury's identity."""
    rng = np.random.default_rng(0)
    n, R = 5000, 6
    F, D = rng.standard_normal((n, R)), rng.uniform(0.5, 2, n)
    dF, dD = rng.standard_normal((n, R)), rng.standard_normal(n)
    found = MLR.from_compact(Hierarchy.flat(n), (R,), F, D).information().times(dF, dD)
    S = LowRankPlusDiagonal(F, D)
    SF = S.solve(F)
    AF = S.solve(dF @ (F.T @ SF) + F @ (dF.T @ SF) + dD[:, None] * SF)
    # diag A = 2 rowsum(Σ⁻¹dF ∘ Σ⁻¹F) + diag(Σ⁻¹ diag(dD) Σ⁻¹), and Σ⁻¹ = diag(1/D) - U Uᵀ.
    U = SF @ np.linalg.inv(np.linalg.cholesky(np.eye(R) - F.T @ SF)).T
    squares = (dD / D**2 - 2 * dD / D * np.square(U).sum(axis=1)
               + np.einsum("ir,rs,is->i", U, U.T @ (dD[:, None] * U), U))
    diagonal = 2 * (S.solve(dF) * SF).sum(axis=1) + squares
    close(found[0], AF, 1e-12)
    close(found[1], diagonal / 2, 1e-12)


def test_many_tiny_leaves():
    """20,000 leaves of one to four features, some of them looked at by themselves."""
    rng = np.random.default_rng(1)
    offsets = np.append(0, np.cumsum(rng.integers(1, 5, 20_000)))
    h = Hierarchy.from_boundaries([offsets])
    n = h.n
    F, D = rng.standard_normal((n, 2)), rng.uniform(0.5, 2, n)
    dF, dD = rng.standard_normal((n, 2)), rng.standard_normal(n)
    found = MLR.from_compact(h, (2,), F, D).information().times(dF, dD)
    for q in rng.integers(0, 20_000, 50):
        rows = slice(offsets[q], offsets[q + 1])
        S = F[rows] @ F[rows].T + np.diag(D[rows])
        dS = dF[rows] @ F[rows].T
        A = np.linalg.inv(S) @ (dS + dS.T + np.diag(dD[rows])) @ np.linalg.inv(S)
        np.testing.assert_allclose(found[0][rows], A @ F[rows], rtol=0, atol=1e-11)
        np.testing.assert_allclose(found[1][rows], np.diag(A) / 2, rtol=0, atol=1e-11)


def test_columns_of_zeros_have_no_information():
    """Groups with fewer features than factors have them: a step along them changes nothing."""
    h = Hierarchy.from_boundaries([[0, 8], [0, 1, 3, 8]])
    case = make_case(h, (1, 2), seed=4)
    F = np.concatenate(case.factors, axis=1)
    F[0, 1:] = F[1:3, 2] = 0
    case = case._replace(A=MLR.from_compact(h, (1, 2), F, case.D))
    dF = np.zeros_like(F)
    dF[0, 1:], dF[1:3, 2] = 1, 1
    out = case.A.information().times(dF, np.zeros(8))
    assert not out[0].any() and not out[1].any()


# ---------------------------------------------------------------- what it is


@settings(deadline=None, max_examples=30)
@given(cases(max_n=20))
def test_symmetric_and_positive_semidefinite(case):
    J = case.A.information()
    u, v = (case.rng.standard_normal(J.shape[0]) for _ in range(2))
    size = np.linalg.norm(J @ u) * np.linalg.norm(v) + np.linalg.norm(J @ v) * np.linalg.norm(u)
    assert abs(u @ (J @ v) - v @ (J @ u)) <= 1e-12 * size
    assert u @ (J @ u) >= -1e-12 * size
    dense = J.toarray()
    assert np.linalg.eigvalsh(dense).min() >= -1e-11 * np.abs(dense).max()
    assert J.symmetric and not J.positive_definite and J.T is J


@settings(deadline=None, max_examples=30)
@given(cases(max_n=20, max_rank=3))
def test_rotations_are_null_vectors(case):
    """Of the factors of each group by itself, in whatever units."""
    h = case.hierarchy
    for level, F in enumerate(case.factors):
        r = F.shape[1]
        K = case.rng.standard_normal((h.group_counts[level], r, r))
        K -= K.swapaxes(1, 2)
        dF = [np.zeros_like(f) for f in case.factors]
        dF[level] = np.einsum("ir,irs->is", F, K[h.labels(level)])
        out = case.A.information().times(np.concatenate(dF, axis=1), np.zeros(h.n))
        largest = max((np.abs(x).max() for x in dF if x.size), default=0.0)
        assert all(np.abs(x).max(initial=0) <= 1e-11 * (1 + largest) * np.linalg.cond(case.dense)
                   for x in out)


@pytest.mark.parametrize("linear", [True, False])
def test_minus_the_expected_hessian(linear):
    """At S = Σ the gradient's differences are exactly those that the information says."""
    case = permuted_case()
    A, h, n = case.A, case.hierarchy, case.hierarchy.n
    # 2 n samples with the covariance Σ and the mean 0.
    root = np.linalg.cholesky(case.dense) * np.sqrt(n)
    Y = np.concatenate([root.T, -root.T])
    source, _, _ = open_source(Y, h, True, "raise", None, None)
    surface = LikelihoodSurface(source, h._in_tree_order(), A.ranks, np.zeros(n), linear=linear)
    point = Point(h._gather(A.F).copy(), h._gather(A.D).copy(), source.mean)
    assert np.abs(derivatives(surface, point).gradient).max() < 1e-10
    v = case.rng.standard_normal(surface.size)
    step = 1e-4
    up, down = (derivatives(surface, surface.move(point, v, s, Point.empty_like(point))).gradient
                for s in (step, -step))
    F, D, _ = surface.parts(v)
    dD = D * surface.sd**2 if linear else D * point.D
    out = A.information().times(h._scatter(F * surface.sd[:, None]), h._scatter(dD))
    unit = surface.sd**2 if linear else point.D
    expected = np.append(h._gather(out[0]) * surface.sd[:, None], h._gather(out[1]) * unit)
    close((down - up) / (2 * step), expected, 1e-5)


def test_of_samples_it_is_the_covariance_of_the_score():
    """The mean square of derivatives over samples of the model, along one direction."""
    case = make_case(Hierarchy.from_boundaries([[0, 6], [0, 2, 6]]), (1, 1), seed=7)
    dF, dD = direction(case)
    A, h = case.A, case.hierarchy
    Y = A.sample(200_000, random_state=0)
    out = A.information().times(dF, dD)
    inverse = np.linalg.inv(case.dense)
    dS = np.diag(dD)
    for level, (F, d) in enumerate(zip(case.factors, np.hsplit(dF, 2), strict=True)):
        cross = (h.labels(level)[:, None] == h.labels(level)) * (d @ F.T)
        dS += cross + cross.T
    W = Y @ inverse
    score = 0.5 * (np.einsum("ti,ij,tj->t", W, dS, W) - np.trace(inverse @ dS))
    expected = (dF * out[0]).sum() + dD @ out[1]
    assert np.square(score).mean() == pytest.approx(expected, rel=0.03)


# ---------------------------------------------------------------- as an operator


def test_blocks_of_vectors_and_solvers():
    case = permuted_case()
    J = case.A.information()
    m = J.shape[0]
    assert J.shape == (30 * 6, 30 * 6) and J.dtype == np.float64
    X = case.rng.standard_normal((m, 4))
    columns = np.stack([np.append(*(x.ravel() for x in J.times(x[:150].reshape(30, 5), x[150:])))
                        for x in X.T], axis=1)
    for block in (J @ X, J.matmat(X), J @ np.asfortranarray(X), aslinearoperator(J) @ X):
        np.testing.assert_array_equal(block, columns)
    np.testing.assert_array_equal(J.matvec(X[:, 0]), columns[:, 0])
    assert (J @ X[:, :0]).shape == (m, 0)
    b = J @ X[:, 0]  # in its range
    for solver in (cg, minres):
        x, failed = solver(J, b, maxiter=5000, rtol=1e-10)
        assert not failed and np.linalg.norm(J @ x - b) < 1e-7 * np.linalg.norm(b)
    np.testing.assert_allclose(J @ J.solve(b), b, atol=1e-7 * np.abs(b).max())
    top = np.linalg.eigvalsh(J.toarray())[-1]
    assert eigsh(J, 1, return_eigenvectors=False)[0] == pytest.approx(top)
    assert lobpcg(J, X, maxiter=500, tol=1e-8)[0][0] == pytest.approx(top, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pickling_copying_saving_and_dtype(tmp_path, dtype):
    case = make_case(Hierarchy.from_boundaries([[0, 9], [0, 4, 9]]), (1, 2), 5, dtype)
    J = case.A.information()
    x = case.rng.standard_normal(J.shape[0]).astype(dtype)
    mlrops.save(tmp_path / "information", J)
    saved = next(tmp_path.iterdir())
    for again in (pickle.loads(pickle.dumps(J)), copy.copy(J), copy.deepcopy(J),
                  mlrops.load(saved)):
        assert isinstance(again, FactorInformation) and again.dtype == dtype
        np.testing.assert_array_equal(again @ x, J @ x)
    assert (J @ x).dtype == dtype == J.diagonal().dtype == J.toarray().dtype
    assert (J @ x.astype(float)).dtype == np.float64
    assert J.covariance is case.A
    F, D = J.times(np.zeros((9, 3)), np.ones(9))
    assert F.dtype == D.dtype == dtype


def test_what_is_refused():
    case = permuted_case()
    J = case.A.information()
    with pytest.raises(TypeError, match="expects an MLR, got LowRankPlusDiagonal"):
        FactorInformation(LowRankPlusDiagonal(np.ones((3, 1)), np.ones(3)))
    with pytest.raises(ValueError, match=r"dF must have shape \(30, 5\)"):
        J.times(np.ones((5, 30)), np.ones(30))
    with pytest.raises(ValueError, match=r"dD must have shape \(30,\)"):
        J.times(np.ones((30, 5)), np.ones(29))
    with pytest.raises(TypeError, match="dD"):
        J.times(np.ones((30, 5)), 1j * np.ones(30))
    with pytest.raises(np.linalg.LinAlgError, match="singular|residual"):
        turn = np.zeros((30, 5))
        turn[:, 0], turn[:, 1] = -case.A.F[:, 1], case.A.F[:, 0]
        J.solve(np.append(turn, np.zeros(30)))  # a rotation is not in the range


def test_memory():
    """Neither features times features, 3.2 GB here, nor factors times factors, 134 MB."""
    rng = np.random.default_rng(0)
    n, R = 20_000, 4
    h = Hierarchy.balanced(n, (1, 100, 4000))
    A = MLR.from_compact(h, (2, 1, 1), rng.standard_normal((n, R)), rng.uniform(0.5, 2, n))
    assert sum(p * r for p, r in zip(h.group_counts, A.ranks, strict=True)) > 4000
    x = rng.standard_normal(n * (R + 1))
    A.information() @ x  # compiles
    A = pickle.loads(pickle.dumps(A))
    tracemalloc.start()
    A.information() @ x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 8 * n * R


def test_the_tests_see_a_missing_term(monkeypatch):
    """Without the part that moves between levels the dense matrix is not met."""
    sweep = InformationAt._sweep

    def half(self, T, S):
        E, Z = sweep(self, T, S)
        return E, Z / 2

    monkeypatch.setattr(InformationAt, "_sweep", half)
    with pytest.raises(AssertionError):
        agrees(permuted_case())
