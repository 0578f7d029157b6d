"""The stacked system of regressions: products and the β-step against dense generalized LS."""

import numpy as np
import pytest

from mlrops import MLR, Dense, Diagonal, Hierarchy, LowRankPlusDiagonal
from mlrops.regression.sur.beta_step import beta_step
from mlrops.regression.sur.coefficient_inverse import CoefficientInverse
from mlrops.regression.sur.data import read_equations
from mlrops.regression.sur.system import StackedSystem, inverse_diagonal


def dense_gls(Xs, Y, sigma):
    """Coefficients (P,) and their covariance, equation by equation, from Kronecker products."""
    N, K = Y.shape
    widths = [X.shape[1] for X in Xs]
    X = np.zeros((K * N, sum(widths)))
    for j, at in enumerate(np.cumsum([0, *widths[:-1]])):
        X[j * N : (j + 1) * N, at : at + widths[j]] = Xs[j]
    weight = np.kron(np.linalg.inv(sigma), np.eye(N))
    cov = np.linalg.inv(X.T @ weight @ X)
    return cov @ X.T @ weight @ Y.T.ravel(), cov


def draw(widths=(3, 1, 4, 1, 3), N=15, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    Xs = [rng.standard_normal((N, p)).astype(dtype) for p in widths]
    return Xs, rng.standard_normal((N, len(widths))).astype(dtype)


def operators(K, seed=1):
    rng = np.random.default_rng(seed)
    F, D = rng.standard_normal((K, 2)), rng.uniform(0.2, 1, K)
    h = Hierarchy(rng.permutation(K), [[0, K], [0, 2, K]])
    A = F @ F.T + np.diag(D)
    return {"dense": Dense((A + A.T) / 2, positive_definite=True), "untagged": Dense(A),
            "mlr": MLR(h, [F[:, :1], F[:, 1:]], D), "lrd": LowRankPlusDiagonal(F, D),
            "diagonal": Diagonal(D)}


WIDTHS = [(3, 1, 4, 1, 3), (2, 2, 2, 2, 2), (1, 2, 3, 4, 5), (0, 2, 0, 1, 1)]


@pytest.mark.parametrize("widths", WIDTHS)
def test_products_are_those_of_the_columns(widths):
    Xs, Y = draw(widths)
    system = StackedSystem(Xs, Y)
    rng = np.random.default_rng(2)
    gamma, V = rng.standard_normal(system.P), rng.standard_normal((system.K, system.N))
    beta = system.coefficients(gamma)
    fitted = np.stack([X @ b for X, b in zip(Xs, beta, strict=True)])
    np.testing.assert_allclose(system.fitted(gamma), fitted, atol=1e-12)
    np.testing.assert_allclose(system.residuals(gamma), Y.T - fitted, atol=1e-12)
    assert np.isclose(np.vdot(fitted, V), gamma @ system.adjoint(V))
    columns = system.coefficients(np.stack([gamma, 2 * gamma], axis=1))
    for b, both in zip(beta, columns, strict=True):
        np.testing.assert_allclose(both, np.stack([b, 2 * b], axis=1), atol=1e-12)


def test_least_squares_equation_by_equation():
    Xs, Y = draw()
    system = StackedSystem(Xs, Y)
    for X, y, b in zip(Xs, Y.T, system.coefficients(system.ols), strict=True):
        np.testing.assert_allclose(b, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "untagged", "mlr", "lrd", "diagonal"])
def test_gls_is_that_of_kronecker_products(name):
    Xs, Y = draw()
    sigma = operators(5)[name]
    system = StackedSystem(Xs, Y)
    beta, cov = dense_gls(Xs, Y, sigma.toarray())
    np.testing.assert_allclose(inverse_diagonal(sigma), np.diag(np.linalg.inv(sigma.toarray())))
    for solver in ("cg", "lsmr")[: 1 if name == "untagged" else 2]:
        step = beta_step(system, sigma, system.ols, 0.0, solver)
        np.testing.assert_allclose(np.concatenate(system.coefficients(step.gamma)), beta, rtol=1e-9)
        assert step.norm < 1e-13
        E = step.residuals
        np.testing.assert_allclose(step.quad, np.trace(E.T @ np.linalg.inv(sigma.toarray()) @ E))
    found = CoefficientInverse(system, sigma).matrix()
    np.testing.assert_allclose(found, cov, rtol=1e-9, atol=1e-14)


def test_the_target_and_the_cap_end_a_step_early():
    Xs, Y = draw(tuple([3] * 12), N=20)
    sigma = operators(12)["lrd"]
    system = StackedSystem(Xs, Y)
    full = beta_step(system, sigma, system.ols, 0.0)
    loose = beta_step(system, sigma, system.ols, 1e-3)
    capped = beta_step(system, sigma, system.ols, 0.0, maxiter=2)
    assert 1e-10 < loose.norm <= 1e-3 < loose.first_norm
    assert capped.n_iter == 2 < loose.n_iter < full.n_iter
    first = beta_step(system, sigma, system.ols, np.inf)
    assert first.gamma is system.ols and first.n_iter == 0
    assert full.quad < loose.quad < capped.quad < first.quad
    again = beta_step(system, sigma, full.gamma, 1e-10)
    assert again.n_iter == 0 and again.gamma is full.gamma  # warm start


def test_the_norm_is_that_of_the_gradient():
    """By finite differences, coefficients of orthogonal regressors of mean square 1."""
    Xs, Y = draw((2, 2, 1), N=9)
    sigma = operators(3)["mlr"]
    system = StackedSystem(Xs, Y)

    def loglik(gamma):
        E = system.residuals(gamma)
        return system.average_loglik(system.weigh(sigma), np.sum(E * sigma.solve(E)))

    h, slopes = 1e-5, []
    unit = system.spread(np.sqrt(sigma.partial_variance()))
    for i in range(system.P):
        step = np.zeros(system.P)
        step[i] = h * unit[i] * np.sqrt(system.N)  # mean square 1: lengths √N in place of 1
        slopes.append((loglik(system.ols + step) - loglik(system.ols - step)) / (2 * h))
    found = beta_step(system, sigma, system.ols, np.inf).norm
    assert np.isclose(found, np.linalg.norm(slopes), rtol=1e-6) and found > 1e-3


def test_shared_regressors_make_least_squares_gls():
    X, Y = draw((3,))[0][0], draw()[1]
    for Xs in ([X] * 5, [X.copy() for _ in range(5)]):
        system = read_equations(Xs, Y).system()
        assert system.shared
        step = beta_step(system, operators(5)["dense"], system.ols, 1e-12)
        assert step.n_iter == 0
        np.testing.assert_allclose(
            np.stack(system.coefficients(step.gamma)).T, np.linalg.lstsq(X, Y, rcond=None)[0])
    assert not StackedSystem(*draw()).shared


def test_units_and_collinearity_within_an_equation_do_not_matter():
    Xs, Y = draw((3, 3, 2, 4), N=40, seed=4)
    sigma = operators(4)["mlr"]
    usual = StackedSystem(Xs, Y)
    plain = beta_step(usual, sigma, usual.ols, 1e-9)
    scales = [np.logspace(-8, 8, X.shape[1]) for X in Xs]
    other = StackedSystem([X * s for X, s in zip(Xs, scales, strict=True)], Y)
    step = beta_step(other, sigma, other.ols, 1e-9)
    assert abs(step.n_iter - plain.n_iter) <= 1
    for a, b, s in zip(usual.coefficients(plain.gamma), other.coefficients(step.gamma), scales,
                       strict=True):
        np.testing.assert_allclose(b * s, a, rtol=1e-9)
    mixed = [X @ np.array([[1, 1], [0, 1e-6]]) if X.shape[1] == 2 else X for X in Xs]
    near = StackedSystem(mixed, Y)
    assert beta_step(near, sigma, near.ols, 1e-9).n_iter <= plain.n_iter + 1


def test_lsmr_and_cg_agree_where_equations_nearly_repeat():
    """Neighbours with almost the same errors: the normal operator is ill-conditioned."""
    rng = np.random.default_rng(5)
    Xs = [rng.standard_normal((30, 3)) for _ in range(10)]
    F = np.repeat(rng.standard_normal((5, 4)), 2, axis=0)
    sigma = LowRankPlusDiagonal(F, np.full(10, 1e-6))
    Y = sigma.sample(30, random_state=0) + np.stack([X.sum(axis=1) for X in Xs], axis=1)
    system = StackedSystem(Xs, Y)
    cg, lsmr = (beta_step(system, sigma, system.ols, 0.0, solver) for solver in ("cg", "lsmr"))
    beta, _ = dense_gls(Xs, Y, sigma.toarray())
    for step in (cg, lsmr):
        found = np.concatenate(system.coefficients(step.gamma))
        np.testing.assert_allclose(found, beta, rtol=1e-6)


def test_single_precision_stays_single():
    Xs, Y = draw(dtype=np.float32)
    sigma = operators(5)["mlr"]
    system = read_equations(Xs, Y).system()
    step = beta_step(system, sigma, system.ols, 0.0)
    assert {step.gamma.dtype, step.residuals.dtype} == {np.dtype(np.float32)}
    beta, _ = dense_gls(Xs, Y, sigma.toarray())
    np.testing.assert_allclose(np.concatenate(system.coefficients(step.gamma)), beta, rtol=1e-3,
                               atol=1e-5)
    mixed = read_equations([Xs[0], *draw()[0][1:]], Y)
    assert {x.dtype for x in (*mixed.Xs, mixed.Y)} == {np.dtype(float)}


def test_one_array_of_all_regressors_is_a_list_of_them():
    Xs, Y = draw((2, 2, 2, 2))
    stacked = read_equations(np.stack(Xs), Y).Xs
    for a, b in zip(stacked, Xs, strict=True):
        np.testing.assert_array_equal(a, b)
    same = read_equations([Xs[0]] * 4, Y).Xs
    assert all(X is same[0] for X in same)


def test_dependent_regressors_are_named():
    Xs, Y = draw((3, 3, 2, 3))
    Xs[1][:, 2] = Xs[1][:, 0] - 2e5 * Xs[1][:, 1]
    with pytest.raises(ValueError, match=r"X of equation 1 is rank-deficient: column 2 depends"):
        StackedSystem(Xs, Y)
    with pytest.raises(ValueError, match=r"X of equation 30 is rank-deficient"):
        StackedSystem(Xs, Y, np.array([40, 30, 20, 10]))
    Xs[1][:, 2] = 0
    with pytest.raises(ValueError, match=r"equation 1 has a column of zeros \(column 2\)"):
        StackedSystem(Xs, Y)


def test_bad_input_is_named():
    Xs, Y = draw()
    with pytest.raises(ValueError, match="one array for each equation"):
        read_equations(Xs[:-1], Y)
    with pytest.raises(ValueError, match="got 1 for 5 equations"):
        read_equations({"a": Xs[0]}, Y)
    with pytest.raises(ValueError, match="at least one, got 0"):
        read_equations([], Y[:, :0])
    for wrong in (Xs[0], iter(Xs), "Xs", 3):
        with pytest.raises(TypeError, match="Xs must be a list of K arrays"):
            read_equations(wrong, Y)
    with pytest.raises(ValueError, match="X of equation 2 has 14 rows, Y has 15"):
        read_equations([*Xs[:2], Xs[2][1:], *Xs[3:]], Y)
    with pytest.raises(ValueError, match="equation 2 has 4 regressors and 4 rows"):
        read_equations([X[:4] for X in Xs], Y[:4])
    bad = Xs[3].copy()
    bad[4, 0] = np.nan
    with pytest.raises(ValueError, match=r"X of equation 3 must be finite.*column 0"):
        read_equations([*Xs[:3], bad, Xs[4]], Y)
    bad = Y.copy()
    bad[2, 3] = np.inf
    with pytest.raises(ValueError, match=r"Y must be finite.*equation 3"):
        read_equations(Xs, bad)
    with pytest.raises(ValueError, match="Y must be 2-d"):
        read_equations(Xs, Y[:, 0])
    with pytest.raises(ValueError, match="X of equation 0 must be 2-d"):
        read_equations([Xs[0][:, 0], *Xs[1:]], Y)
    with pytest.raises(TypeError, match="X of equation 1 must be real"):
        read_equations([Xs[0], Xs[1] + 0j, *Xs[2:]], Y)
    Y = np.stack([X @ np.ones(X.shape[1]) for X in Xs], 1)
    system = read_equations(Xs, Y).system()
    with pytest.raises(ValueError, match="5 equations are fitted exactly"):
        system.check_errors(system.residuals(system.ols))
