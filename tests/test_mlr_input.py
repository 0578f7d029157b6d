"""What goes into an MLR operator: every kind of array, every dtype, every mistake by name."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from trees import close, make_case, permuted_case

from mlrops import MLR, Hierarchy
from mlrops.operators import MLRInverse


@pytest.fixture
def case():
    return permuted_case()


# ---------------------------------------------------------------- what goes in


def test_every_kind_of_array_goes_in(case):
    rng = case.rng
    X = rng.standard_normal((30, 6))
    frozen = X.copy()
    frozen.flags.writeable = False
    wide = np.zeros((60, 12))
    wide[::2, ::2] = X
    kinds = {"Fortran": np.asfortranarray(X), "strided": wide[::2, ::2], "read-only": frozen,
             "reversed": X[::-1].copy()[::-1], "list": X.tolist(), "transposed": X.T.copy().T}
    verbs = [case.A.solve, case.A.whiten, case.A.color, case.A.inv_quad, case.A.inv().solve,
             case.A.matmat, case.A.inv().matmat]
    for verb in verbs:
        expected = verb(X)
        for name, kind in kinds.items():
            assert np.array_equal(verb(kind), expected), (verb, name)
    for verb in (*verbs[:5], case.A.matvec):
        expected = verb(X[:, 1].copy())
        assert np.array_equal(verb(X[:, 1]), expected)
        assert np.array_equal(verb(X[:, 1].tolist()), expected)
    F = np.concatenate(case.factors, axis=1)
    for order in (np.asfortranarray(F), np.repeat(F, 2, axis=0)[::2], F.tolist()):
        same = MLR.from_compact(case.hierarchy, (2, 0, 3), order, case.D.tolist())
        assert np.array_equal(same @ X, case.A @ X)


def test_dtypes(case):
    single = make_case(case.hierarchy, (2, 0, 3), 0, np.float32)
    x = np.arange(30)
    for verb in ("solve", "whiten", "color", "matvec"):
        assert getattr(case.A, verb)(x).dtype == np.float64
        assert getattr(single.A, verb)(x).dtype == np.float64  # integers become float64
        assert getattr(single.A, verb)(x.astype(np.float32)).dtype == np.float32
        assert getattr(case.A, verb)(x.astype(np.float32)).dtype == np.float64
        close(getattr(case.A, verb)(x), getattr(case.A, verb)(x.astype(float)), 0)
    assert single.A.dtype == single.A.inv().dtype == single.A.F.dtype == np.float32
    assert MLR(Hierarchy.flat(2), [[[1], [2]]], [1, 1]).dtype == np.float64
    mixed = MLR(Hierarchy.flat(2), [np.ones((2, 1), np.float32)], np.ones(2))
    assert mixed.dtype == mixed.F.dtype == mixed.D.dtype == np.float64


def test_no_warning_for_ordinary_work(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        A = make_case(case.hierarchy, (2, 0, 3), 0).A
        A.logdet(), A.solve(np.ones(30)), A.whiten(np.zeros(30)), A.inv().diagonal()
        MLR(Hierarchy.flat(3), [np.zeros((3, 2))], np.ones(3)).compress().principal().logdet()


@pytest.mark.parametrize("verb", ["solve", "whiten", "color", "inv_quad", "matvec", "matmat"])
def test_wrong_right_hand_sides(case, verb):
    for A in (case.A, case.A.inv()):
        call = getattr(A, verb)
        shape = (30, 2) if verb == "matmat" else (30,)
        if verb in ("whiten", "color", "inv_quad"):
            with pytest.raises(TypeError, match="real"):
                call(np.zeros(shape, complex))
        with pytest.raises(ValueError, match="29|dimension|30"):
            call(np.zeros((29, *shape[1:])))
        with pytest.raises(ValueError):
            call(np.zeros((30, 2, 2)))
        with pytest.raises((TypeError, ValueError)):
            call(np.full(shape, "a"))
    if verb in ("solve", "whiten", "color", "inv_quad"):
        with pytest.raises(TypeError, match="sparse"):
            getattr(case.A, verb)(sp.eye_array(30, format="csr"))
    with pytest.raises(ValueError):
        case.A @ np.zeros(29)


def bad(rows, columns, at, value):
    F = np.ones((rows, columns))
    F[at] = value
    return F


@pytest.mark.parametrize("factors, D, error, message", [
    ([np.ones((4, 1)), bad(4, 2, (2, 1), np.nan)], np.ones(4), ValueError,
     r"factors of level 1 .*NaN.*feature 2"),
    ([bad(4, 1, 3, -np.inf), np.ones((4, 2))], np.ones(4), ValueError,
     r"factors of level 0 .*infinity.*feature 3"),
    ([np.ones((4, 1)), np.ones((3, 2))], np.ones(4), ValueError, "level 1 must have 4 rows"),
    ([np.ones((4, 1)), np.ones(4)], np.ones(4), ValueError, "level 1 must be 2-d"),
    ([np.ones((4, 1))], np.ones(4), ValueError, r"one array a level \(2\), got 1"),
    (np.ones((4, 3)), np.ones(4), TypeError, "from_compact"),
    ([np.ones((4, 1)), np.ones((4, 1), complex)], np.ones(4), TypeError, "level 1 must be real"),
    ([np.ones((4, 1)), np.full((4, 1), "a")], np.ones(4), TypeError, "numeric"),
    ([np.ones((4, 1)), sp.eye_array(4, format="csr")], np.ones(4), TypeError, "dense"),
    ([np.ones((4, 1)), np.ones((4, 1))], [1, 0, -1, 1], ValueError,
     r"D must be positive, got 0 at feature 1 \(2 features: 1, 2\)"),
    ([np.ones((4, 1)), np.ones((4, 1))], [1, 1, np.nan, 1], ValueError, "D must be finite.*2"),
    ([np.ones((4, 1)), np.ones((4, 1))], [1, 1, 1, np.inf], ValueError, "D must be finite.*3"),
    ([np.ones((4, 1)), np.ones((4, 1))], np.ones(3), ValueError, r"shape \(4,\)"),
    ([np.ones((4, 1)), np.ones((4, 1))], np.ones((4, 4)), ValueError, "D must be 1-d"),
    ([np.ones((4, 1)), np.ones((4, 1))], np.ones(4, complex), TypeError, "D must be real"),
])
def test_wrong_parts(factors, D, error, message):
    h = Hierarchy([3, 1, 0, 2], [[0, 4], [0, 1, 4]])
    with pytest.raises(error, match=message):
        MLR(h, factors, D)


@pytest.mark.parametrize("ranks, F, D, error, message", [
    ((1,), np.ones((4, 1)), np.ones(4), ValueError, "2 entries, one a level"),
    (2, np.ones((4, 2)), np.ones(4), ValueError, "2 entries, one a level"),
    ((1, -1), np.ones((4, 1)), np.ones(4), ValueError, "rank of level 1 must be non-negative"),
    ((1, 1.0), np.ones((4, 2)), np.ones(4), TypeError, "rank of level 1 must be an integer"),
    ((1, True), np.ones((4, 2)), np.ones(4), TypeError, "rank of level 1 must be an integer"),
    ((1, 2), np.ones((4, 2)), np.ones(4), ValueError, r"F must have shape .*\(4, 3\)"),
    ((1, 1), bad(4, 2, (2, 1), np.nan), np.ones(4), ValueError, "F must be finite.*feature 2"),
    ((1, 1), np.ones((4, 2)), [1, 1, 1, -2], ValueError, "feature 3"),
    ((1, 1), np.ones((4, 2), complex), np.ones(4), TypeError, "F must be real"),
])
def test_wrong_compact_parts(ranks, F, D, error, message):
    h = Hierarchy([3, 1, 0, 2], [[0, 4], [0, 1, 4]])
    with pytest.raises(error, match=message):
        MLR.from_compact(h, ranks, F, D)


def test_wrong_owners():
    with pytest.raises(TypeError, match="Hierarchy"):
        MLR([[0, 4]], [np.ones((4, 1))], np.ones(4))
    with pytest.raises(TypeError, match="expects an MLR, got ndarray"):
        MLRInverse(np.eye(3))


def test_overflow_names_level_and_group():
    h = Hierarchy(np.arange(6)[::-1], [[0, 6], [0, 2, 6]])
    F = np.ones((6, 1), np.float32)
    F[:4] = 1e30  # in tree order the last four features: group 1
    A = MLR(h, [np.zeros((6, 1), np.float32), F], np.full(6, 1e-3, np.float32))
    for verb in (lambda: A.solve(np.ones(6)), lambda: A.inv() @ np.ones(6)):
        with pytest.raises(np.linalg.LinAlgError, match=r"overflows float32: .* 1e\+30 .*rescale"):
            verb()
    exact = MLR(h, [F * 0, F], np.full(6, 1e-3)).logdet()  # float64 holds it
    assert A.logdet() == pytest.approx(exact, rel=1e-6)
    B = MLR(h, [F * 0, F], np.full(6, 1e-30, np.float32))
    with pytest.raises(np.linalg.LinAlgError, match=r"level 1, group 1 \(4 features\)"):
        B.logdet()


def test_samples_of_a_posterior_are_real():
    A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    with pytest.raises(TypeError, match="X must be real, got complex dtype complex128"):
        A.posterior(np.full((3, 2), 1 + 1j))
