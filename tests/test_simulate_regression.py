"""Simulated regressions: the equations hold, the truth is the truth, the seed decides."""

import numpy as np
import pytest
from trees import dense_mlr, permuted_case

from mlrops import Dense, Diagonal, Hierarchy, Identity, Kronecker, LowRankPlusDiagonal
from mlrops.datasets import simulate_gls, simulate_sur

TREE = Hierarchy.from_labels(list("bababab"), [1, 3, 1, 3, 2, 4, 1])


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_every_equation_holds(dtype, tol):
    p = [1, 4, 2, 2, 1, 3, 5]
    data = simulate_sur(7, p, [2, 0, 1], 30, hierarchy=TREE, dtype=dtype, random_state=1)
    assert [X.shape for X in data.Xs] == [(30, p_j) for p_j in p]
    assert [b.shape for b in data.params] == [(p_j,) for p_j in p]
    for array in (*data.Xs, *data.params, data.Y, data.errors, *data.scores, data.covariance.D):
        assert array.dtype == dtype
    for j in range(7):
        expected = data.Xs[j].astype(float) @ data.params[j].astype(float) + data.errors[:, j]
        np.testing.assert_allclose(data.Y[:, j], expected, rtol=tol, atol=tol)
    assert data.covariance.ranks == (2, 0, 1) and data.covariance.hierarchy == TREE


def test_errors_are_factors_plus_noise_of_the_stated_size():
    noise = np.arange(1, 8) * 1e-20
    data = simulate_sur(7, 1, [2, 0, 1], 30, hierarchy=TREE, noise=noise, random_state=1)
    moved = np.zeros((30, 7))
    for level, (F, z) in enumerate(zip(data.covariance.factors, data.scores, strict=True)):
        moved += np.einsum("nir,ir->ni", z[:, TREE.labels(level)], F)
    np.testing.assert_allclose(data.errors, moved, atol=1e-8)
    np.testing.assert_array_equal(data.covariance.D, noise)


def test_errors_have_the_stated_covariance():
    data = simulate_sur(7, 2, [1, 1, 1], 200_000, hierarchy=TREE, random_state=3)
    truth = dense_mlr(TREE, data.covariance.factors, data.covariance.D)
    sample = data.errors.T @ data.errors / len(data.errors)
    scale = np.sqrt(np.diag(truth))
    np.testing.assert_allclose(sample / np.outer(scale, scale), truth / np.outer(scale, scale),
                               atol=0.02)
    # Independent of every regressor.
    for X in data.Xs:
        assert np.abs(X.T @ data.errors).max() / len(X) < 0.02 * scale.max()
        np.testing.assert_allclose(X.T @ X / len(X), np.eye(2), atol=0.02)


def test_one_level_without_a_hierarchy():
    data = simulate_sur(5, 2, 3, 12, random_state=0)
    assert data.covariance.ranks == (3,) and data.covariance.hierarchy == Hierarchy.flat(5)
    assert simulate_sur(5, 2, 0, 12, random_state=0).covariance.ranks == (0,)


def test_a_seed_fixes_the_truth_whatever_the_number_of_observations():
    few, many = (simulate_sur(5, 2, 3, N, random_state=4) for N in (1, 50))
    again = simulate_sur(5, 2, 3, 50, random_state=np.random.default_rng(4))
    np.testing.assert_array_equal(np.concatenate(few.params), np.concatenate(many.params))
    np.testing.assert_array_equal(few.covariance.F, many.covariance.F)
    np.testing.assert_allclose(many.Y, again.Y, rtol=1e-12, atol=1e-12)
    assert not np.array_equal(many.Y, simulate_sur(5, 2, 3, 50, random_state=5).Y)
    single = simulate_sur(5, 2, 3, 50, dtype=np.float32, random_state=4)
    np.testing.assert_allclose(single.Y, many.Y, rtol=1e-4, atol=1e-4)
    legacy = [simulate_sur(3, 1, 1, 4, random_state=np.random.RandomState(0)).Y for _ in range(2)]
    np.testing.assert_allclose(*legacy, rtol=1e-12, atol=1e-12)


def test_coefficients_given_or_of_a_given_size():
    given = [[1.0], [2.0, 3.0]]
    data = simulate_sur(2, [1, 2], 1, 9, beta=given, random_state=0)
    np.testing.assert_array_equal(np.concatenate(data.params), [1, 2, 3])
    small, large = (np.concatenate(simulate_sur(40, 50, 1, 1, beta=b, random_state=0).params)
                    for b in (0.01, 1.0))
    np.testing.assert_allclose(small, 0.01 * large)
    assert np.std(large) == pytest.approx(1, abs=0.06)
    assert not np.concatenate(simulate_sur(4, 2, 1, 1, beta=0, random_state=0).params).any()


@pytest.mark.slow
def test_simulate_gls_draws_from_the_operator_it_was_given():
    case = permuted_case()
    data = simulate_gls(4, case.A, random_state=2)
    assert data.covariance is case.A
    np.testing.assert_allclose(data.y, data.X @ data.params + data.errors, atol=1e-13)
    rng = np.random.default_rng(0)
    errors = np.array([simulate_gls(1, case.A, random_state=rng).errors for _ in range(20_000)])
    scale = np.sqrt(np.diag(case.dense))
    sample = errors.T @ errors / len(errors)
    np.testing.assert_allclose(sample / np.outer(scale, scale),
                               case.dense / np.outer(scale, scale), atol=0.05)


@pytest.mark.parametrize("covariance", [
    Identity(6), Diagonal(np.arange(1.0, 7)), LowRankPlusDiagonal(np.ones((6, 1)), np.ones(6)),
    Kronecker(Dense([[2.0, 1], [1, 2]], positive_definite=True), Identity(3)),
    Diagonal(np.ones(6, dtype=np.float32)),
], ids=lambda A: f"{type(A).__name__}-{A.dtype}")
def test_simulate_gls_takes_any_covariance(covariance):
    data = simulate_gls(2, covariance, beta=[3.0, 4.0], random_state=1)
    assert data.X.shape == (6, 2) and data.y.dtype == data.X.dtype == covariance.dtype
    np.testing.assert_array_equal(data.params, [3, 4])
    expected = simulate_gls(2, covariance, beta=np.zeros(2), random_state=1)
    np.testing.assert_allclose(data.y - expected.y, data.X @ [3, 4], rtol=1e-5, atol=1e-5)


def test_representations_say_what_was_drawn():
    data = simulate_sur(5, [1, 1, 1, 2, 2], 3, 12, random_state=0)
    assert repr(data).startswith("<SURSimulation of 12 observations of 5 equations, 7 coefficients")
    assert repr(simulate_gls(2, Identity(6))).startswith(
        "<GLSSimulation of 6 observations, 2 coefficients, float64")


@pytest.mark.parametrize("change, error, message", [
    ({"K": 0}, ValueError, "K must be at least 1, got 0"),
    ({"K": 2.0}, TypeError, "K must be an integer"),
    ({"p": 0}, ValueError, "p of equation 0 must be at least 1"),
    ({"p": [1, 2]}, ValueError, "one for each of the 7 equations, got 2"),
    ({"p": [1, 2, 1, 0, 1, 1, 1]}, ValueError, "p of equation 3"),
    ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
    ({"hierarchy": None}, ValueError, "one integer where there is no hierarchy"),
    ({"hierarchy": Hierarchy.flat(6)}, ValueError, "must group the 7 equations, got one of 6"),
    ({"hierarchy": "flat"}, TypeError, "hierarchy must be a Hierarchy, got str"),
    ({"ranks": [1]}, ValueError, "rank"),
    ({"noise": -1.0}, ValueError, "noise must be positive"),
    ({"beta": -1.0}, ValueError, "beta must not be negative"),
    ({"beta": [[1.0]] * 7}, ValueError, "as many coefficients as there are regressors"),
    ({"beta": [[1.0, np.nan]] * 7}, ValueError, "beta must be finite"),
    ({"dtype": np.int64}, TypeError, "dtype must be float64 or float32"),
])
def test_bad_input_is_named(change, error, message):
    good = {"K": 7, "p": 2, "ranks": [1, 1, 1], "n_samples": 5, "hierarchy": TREE}
    with pytest.raises(error, match=message):
        simulate_sur(**{**good, **change})


def test_simulate_gls_needs_a_covariance_to_draw_from():
    with pytest.raises(TypeError, match="sample method, got ndarray"):
        simulate_gls(2, np.eye(3))
    with pytest.raises(ValueError, match="symmetric positive definite"):
        simulate_gls(2, Dense(-np.eye(3)))
    with pytest.raises(ValueError, match="beta must hold as many"):
        simulate_gls(2, Identity(3), beta=[1.0])
    with pytest.raises(ValueError, match="p must be at least 1"):
        simulate_gls(0, Identity(3))
