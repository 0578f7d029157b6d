"""`als_gls`: the maximum of the likelihood, against dense formulas, plain EM and linearmodels."""

import sys
import warnings

import numpy as np
import pytest
from systems import SHARP, TREE, dense_loglik, draw, flat

from mlrops import MLR, ConvergenceWarning, Dense, Hierarchy, LowRankPlusDiagonal, als_gls, em_gls
from mlrops.datasets import load_grunfeld

# ---------------------------------------------------------------- the maximum


@pytest.mark.quick(1)
@pytest.mark.parametrize("hierarchy, ranks", [(None, 2), (TREE, (1, 0, 1)), (None, 0)],
                         ids=["flat", "tree", "diagonal"])
def test_same_maximum_as_dense_em(hierarchy, ranks):
    Xs, Y, _, _ = draw(hierarchy=hierarchy, ranks=np.atleast_1d(ranks), N=200, seed=3)
    fit = als_gls(Xs, Y, ranks, hierarchy, **SHARP)
    dense = em_gls(Xs, Y, ranks, hierarchy, tol=0.0, gtol=1e-7)
    assert dense.termination == "gradient" and not fit.boundary.size
    assert np.isclose(fit.loglik, dense.loglik, rtol=1e-10)
    np.testing.assert_allclose(flat(fit.params), flat(dense.params), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.covariance.toarray(), dense.covariance.toarray(), rtol=1e-4,
                               atol=1e-5)
    np.testing.assert_allclose(flat(fit.bse), flat(dense.bse), rtol=1e-5)
    for found in (fit, dense):
        assert (np.diff(found.loglik_trace) >= 0).all() and found.loglik == found.loglik_trace[-1]
        assert len(found.loglik_trace) == found.n_iter + 1
        value = dense_loglik(Xs, Y, found.params, found.covariance.toarray())
        assert np.isclose(found.loglik, value, rtol=1e-12)
        assert np.isclose(found.score(Xs, Y), value, rtol=1e-12)
        np.testing.assert_allclose(found.predict(Xs), found.fittedvalues, atol=1e-12)
        np.testing.assert_allclose(Y - found.resid, found.fittedvalues, atol=1e-12)


def test_one_em_step_is_that_of_the_book():
    """The dense reference itself: one iteration from the start, equation by equation."""
    Xs, Y, _, _ = draw(hierarchy=TREE, ranks=(1, 0, 1), N=40)
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iteration"):
        one = em_gls(Xs, Y, (1, 0, 1), TREE, max_iter=1, tol=0, gtol=0)
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations"):
        two = em_gls(Xs, Y, (1, 0, 1), TREE, max_iter=2, tol=0, gtol=0)
    E, S = one.resid, one.resid.T @ one.resid / 40
    sigma, labels = one.covariance, TREE.labels(2)
    F = np.zeros((12, 4))
    F[:, 0], F[np.arange(12), 1 + labels] = sigma.factors[0][:, 0], sigma.factors[2][:, 0]
    Z = F.T @ np.linalg.inv(sigma.toarray()) @ E.T
    second = np.eye(4) - F.T @ np.linalg.inv(sigma.toarray()) @ F + Z @ Z.T / 40
    new = np.zeros((12, 12))
    loadings = np.zeros_like(F)
    for j in range(12):
        own = [0, 1 + labels[j]]
        loadings[j, own] = np.linalg.solve(second[np.ix_(own, own)], Z[own] @ E[:, j] / 40)
        new[j, j] = S[j, j] - loadings[j, own] @ (Z[own] @ E[:, j]) / 40
    new += loadings @ loadings.T
    np.testing.assert_allclose(two.covariance.toarray(), new, rtol=1e-9)


@pytest.mark.parametrize("hierarchy, ranks", [(None, (2,)), (TREE, (1, 0, 1))],
                         ids=["flat", "tree"])
def test_gradient_is_zero_at_the_maximum(hierarchy, ranks):
    """Finite differences of the dense likelihood by coefficients, loadings and variances."""
    Xs, Y, _, _ = draw(hierarchy=hierarchy, ranks=ranks, seed=1, N=200)
    fit = als_gls(Xs, Y, ranks, hierarchy, **SHARP)
    assert not fit.boundary.size
    S, h = fit.covariance, 1e-4

    def value(betas, factors, D):
        return dense_loglik(Xs, Y, betas, MLR(S.hierarchy, factors, D).toarray())

    def slope(change):
        ends = []
        for sign in (1, -1):
            betas, factors, D = [b.copy() for b in fit.params], [f.copy() for f in S.factors], S.D
            betas, factors, D = change(betas, factors, D.copy(), sign * h)
            ends.append(value(betas, factors, D))
        return (ends[0] - ends[1]) / (2 * h)

    def by_beta(j, i):
        def change(betas, factors, D, h):
            betas[j][i] += h
            return betas, factors, D
        return change

    def by_factor(level, j, i):
        def change(betas, factors, D, h):
            factors[level][j, i] += h
            return betas, factors, D
        return change

    def by_log_D(j):
        def change(betas, factors, D, h):
            D[j] *= np.exp(h)
            return betas, factors, D
        return change

    slopes = [slope(by_beta(j, i)) for j in range(12) for i in range(len(fit.params[j]))]
    slopes += [slope(by_log_D(j)) for j in range(12)]
    slopes += [slope(by_factor(level, j, i)) for level, f in enumerate(S.factors)
               for j in range(12) for i in range(f.shape[1])]
    assert np.abs(slopes).max() < 1e-6
    assert max(fit.gradient_norm, fit.normal_norm) < 1e-6
    fit.params[0][0] += 0.1  # the same differences see a coefficient that is off
    assert abs(slope(by_beta(0, 0))) > 1e-3


@pytest.mark.quick(5)
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("N, ranks, hierarchy", [
    (20, 4, None), (25, (1, 0, 1), TREE), (60, 3, None)])
@pytest.mark.parametrize("solver", ["cg", "lsmr"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_likelihood_never_falls(N, ranks, hierarchy, solver, seed):
    Xs, Y, _, _ = draw(N=N, seed=seed)
    fit = als_gls(Xs, Y, ranks, hierarchy, solver=solver, variance_floor=1e-4, max_iter=8)
    assert (np.diff(fit.loglik_trace) >= 0).all()
    value = dense_loglik(Xs, Y, fit.params, fit.covariance.toarray())
    assert np.isclose(fit.loglik, value, rtol=1e-9)


def test_a_step_that_loses_is_not_taken(monkeypatch):
    module = sys.modules["mlrops.regression.sur.climb"]
    Xs, Y, _, _ = draw()
    honest = module.beta_step
    calls = []

    def worse(system, covariance, gamma, *options):
        calls.append(gamma)
        step = honest(system, covariance, gamma, *options)
        if len(calls) == 2:
            gamma = gamma + 1
            step = step._replace(gamma=gamma, residuals=system.residuals(gamma))
        return step

    monkeypatch.setattr(module, "beta_step", worse)
    fit = als_gls(Xs, Y, 2, tol=0)
    assert len(calls) > 2 and calls[2] is calls[1]
    assert (np.diff(fit.loglik_trace) >= 0).all() and fit.termination == "gradient"
    monkeypatch.undo()
    np.testing.assert_allclose(flat(fit.params), flat(als_gls(Xs, Y, 2).params), atol=1e-4)


def test_default_rules_stop_close_to_the_maximum():
    for N in (20, 100):
        Xs, Y, _, _ = draw(N=N, ranks=(1,))
        usual, sharp = als_gls(Xs, Y, 1), als_gls(Xs, Y, 1, **SHARP)
        assert usual.converged and 0 <= sharp.loglik - usual.loglik < 1e-6
        np.testing.assert_allclose(flat(usual.params), flat(sharp.params), atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_few_rows_do_not_stall(monkeypatch):
    """Where each half-step holds the other back, the two are taken together."""
    Xs, Y, _, _ = draw(N=17)
    fit = als_gls(Xs, Y, 3, variance_floor=1e-4, tol=0)
    assert fit.termination == "gradient" and fit.n_iter <= 20 and fit.boundary.size
    value = dense_loglik(Xs, Y, fit.params, fit.covariance.toarray())
    assert np.isclose(fit.loglik, value, rtol=1e-10)
    assert (np.diff(fit.loglik_trace) >= 0).all() and len(fit.n_cg) == fit.n_iter
    for name in ("SEPARATE", "LATE"):
        monkeypatch.setattr(sys.modules["mlrops.regression.sur.climb"], name, 10**6)
    alone = als_gls(Xs, Y, 3, variance_floor=1e-4, tol=0)
    assert alone.n_iter > 1.5 * fit.n_iter and alone.loglik <= fit.loglik + 1e-9


def test_recovers_coefficients_better_than_least_squares():
    Xs, Y, betas, sigma = draw(K=40, N=200, ranks=(3,), seed=2)
    fit = als_gls(Xs, Y, 3)
    ols = [np.linalg.lstsq(X, y, rcond=None)[0] for X, y in zip(Xs, Y.T, strict=True)]
    # Intercepts are shared regressors, in which the equations do not help one another.
    error, plain = (np.linalg.norm(flat([a[1:] - b[1:] for a, b in zip(x, betas, strict=True)]))
                    for x in (fit.params, ols))
    assert error < 0.8 * plain
    assert fit.loglik > dense_loglik(Xs, Y, betas, sigma.toarray())
    z = (flat(fit.params) - flat(betas)) / flat(fit.bse)
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.25


# ---------------------------------------------------------------- a covariance that is known


def test_given_covariance_is_feasible_gls():
    Xs, Y, _, sigma = draw(N=30)
    fit = als_gls(Xs, Y, covariance=sigma)
    K, N = 12, 30
    X = np.zeros((K * N, sum(x.shape[1] for x in Xs)))
    at = np.cumsum([0, *(x.shape[1] for x in Xs)])
    for j in range(K):
        X[j * N : (j + 1) * N, at[j] : at[j + 1]] = Xs[j]
    weight = np.kron(np.linalg.inv(sigma.toarray()), np.eye(N))
    cov = np.linalg.inv(X.T @ weight @ X)
    np.testing.assert_allclose(flat(fit.params), cov @ X.T @ weight @ Y.T.ravel(), rtol=1e-9)
    np.testing.assert_allclose(fit.cov_params(), cov, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(flat(fit.bse), np.sqrt(np.diag(cov)), rtol=1e-9)
    assert fit.covariance is sigma and fit.converged and fit.n_iter == 0
    assert np.isclose(fit.loglik, dense_loglik(Xs, Y, fit.params, sigma.toarray()))
    for kind in (LowRankPlusDiagonal(sigma.F, sigma.D), Dense(sigma.toarray())):
        np.testing.assert_allclose(flat(als_gls(Xs, Y, covariance=kind).params), flat(fit.params),
                                   rtol=1e-9)


def test_grunfeld_like_linearmodels():
    system = pytest.importorskip("linearmodels.system")
    panel = load_grunfeld()
    Xs = [np.stack([np.ones(20), panel.value[:, j], panel.capital[:, j]], 1) for j in range(10)]
    Y = panel.invest[:, :10]
    equations = {str(j): {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)}
    theirs = system.SUR(equations).fit(method="gls", cov_type="unadjusted", iterate=False)
    sigma = np.asarray(theirs.sigma)
    fit = als_gls(Xs, Y, covariance=Dense((sigma + sigma.T) / 2))
    np.testing.assert_allclose(flat(fit.params), np.asarray(theirs.params), rtol=1e-8)
    np.testing.assert_allclose(flat(fit.bse), np.asarray(theirs.std_errors), rtol=1e-6)


def test_caps_are_reported():
    Xs, Y, _, sigma = draw()
    with pytest.warns(ConvergenceWarning, match="after 1 iteration of cg.*raise maxiter"):
        fit = als_gls(Xs, Y, covariance=sigma, maxiter=1)
    assert not fit.converged and fit.termination == "max_iter" and fit.n_cg == [1]
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iteration"):
        fit = als_gls(Xs, Y, 2, max_iter=1)
    assert (fit.n_iter, fit.converged) == (1, False)


# ---------------------------------------------------------------- the edges


def test_one_equation_is_least_squares():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal((30, 1))
    for ranks in (0, 1):
        fit = als_gls([X], y, ranks)
        np.testing.assert_allclose(fit.params[0], np.linalg.lstsq(X, y[:, 0], rcond=None)[0])
        variance = np.mean(fit.resid**2)
        assert np.isclose(fit.covariance.toarray()[0, 0], variance, rtol=1e-4)
    covariance = np.linalg.inv(X.T @ X) * fit.covariance.toarray()
    np.testing.assert_allclose(fit.cov_params(debiased=False), covariance, rtol=1e-9)


def test_more_factors_than_equations_or_rows():
    Xs, Y, _, _ = draw(K=4, ranks=(1,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        many = als_gls(Xs, Y, 6)
    assert many.capped == ((0, 0, 4),)
    assert not many.covariance.F[:, 4:].any()
    best = -0.5 * (4 * np.log(2 * np.pi) + 4 + np.linalg.slogdet(np.cov(many.resid.T, ddof=0))[1])
    assert many.loglik < best + 0.5
    with pytest.raises(ValueError, match="equation 0 has 8 rows for 2 regressors and 10 factors"):
        als_gls(*draw(K=12, N=8)[:2], 10)


@pytest.mark.parametrize("fit", [als_gls, em_gls])
def test_likelihoods_without_a_maximum_are_refused(fit):
    """Four equations of four regressors, the first one shared: 13 that are independent."""
    Xs, Y, _, _ = draw(N=16)
    message = ("with 3 factors the likelihood has no maximum: equations 2, 5, 8, 11 have 13"
               " independent regressors, and 16 rows allow 12 for 4 equations")
    with pytest.raises(ValueError, match=message):
        fit(Xs, Y, 3)
    ridged = als_gls(Xs, Y, 3, factor_ridge=1.0)
    assert ridged.converged and not ridged.boundary.size
    # The same for the leaf of a tree, and not for groups with fewer equations than that.
    X4 = [np.random.default_rng(j).standard_normal((16, 4)) for j in range(12)]
    with pytest.raises(ValueError, match="with 3 factors .* have 16 independent"):
        fit(X4, Y, (1, 1, 1), TREE)
    shared = als_gls([X4[0]] * 12, Y, 3, max_iter=2, tol=0.5)  # of these there are only four
    assert np.isfinite(shared.loglik)


def test_a_likelihood_without_a_maximum_can_be_climbed_without_end():
    """What is refused: a direction along which the variances of four equations vanish."""
    Xs, Y, _, _ = draw(N=16)
    S = [2, 5, 8, 11]
    columns = np.concatenate([Y[:, S], Xs[2], *(Xs[j][:, 1:] for j in S[1:])], axis=1)
    null = np.linalg.svd(columns)[2][-1]
    assert np.linalg.norm(columns @ null) < 1e-10 and np.abs(null[:4]).max() > 1e-3


def test_repeated_equations_are_named():
    Xs, Y, _, _ = draw()
    Xs[7], Y[:, 7] = Xs[3], -2.5 * Y[:, 3]
    with pytest.warns(ConvergenceWarning, match="residuals of equations 3 and 7 are the same"):
        fit = als_gls(Xs, Y, 2)
    assert {3, 7} <= set(fit.boundary) and np.isfinite(flat(fit.bse)).all()


def test_repeated_equations_are_named_wherever_the_climb_ends():
    """One factor that another group of equations takes: no variance at the floor tells of it."""
    rng = np.random.default_rng(5)
    Xs = [rng.standard_normal((100, 2)) for _ in range(8)]
    Y = 3 * rng.standard_normal((100, 1)) + rng.standard_normal((100, 8))
    Y[:, 7] = rng.standard_normal(100)
    with pytest.warns(ConvergenceWarning, match="residuals of equations 7 and 8 are the same"):
        fit = als_gls([*Xs, Xs[7]], np.column_stack([Y, Y[:, 7]]), 1)
    assert not fit.boundary.size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        als_gls([*Xs, Xs[7]], np.column_stack([Y, Y[:, 7]]), 0)  # a diagonal Σ is not singular


def test_heywood_cases_stop_at_the_floor():
    Xs, Y, _, _ = draw(N=20)
    with pytest.warns(ConvergenceWarning, match="Heywood cases: .*fewer factors may do") as seen:
        fit = als_gls(Xs, Y, 3, variance_floor=1e-4)
    assert len(seen) == 1 and fit.boundary.size
    X = Xs
    for j in fit.boundary:
        ols = Y[:, j] - X[j] @ np.linalg.lstsq(X[j], Y[:, j], rcond=None)[0]
        assert np.isclose(fit.covariance.D[j], 1e-4 * np.mean(ols**2), rtol=1e-9)
    assert (np.diff(fit.loglik_trace) >= 0).all()


def test_predictions_and_scores():
    Xs, Y, _, _ = draw(N=60)
    fit = als_gls([X[:40] for X in Xs], Y[:40], 2)
    new = [X[40:] for X in Xs]
    predicted = fit.predict(new)
    for j in range(12):
        np.testing.assert_allclose(predicted[:, j], new[j] @ fit.params[j])
    np.testing.assert_allclose(fit.fittedvalues + fit.resid, Y[:40])
    np.testing.assert_allclose(fit.predict([X[:40] for X in Xs]), fit.fittedvalues, atol=1e-12)
    assert np.isclose(fit.score(new, Y[40:]),
                      dense_loglik(new, Y[40:], fit.params, fit.covariance.toarray()))
    assert (fit.nobs, fit.n_equations) == (40, 12)
    assert "12 equations, 36 coefficients, 40 rows" in repr(fit)
    with pytest.raises(ValueError, match="one array for each equation .*, got 11 for 12 equations"):
        fit.predict(new[1:])
    with pytest.raises(ValueError, match=r"X of equation 1 must have 3 columns, one a regressor"):
        fit.predict([new[0], new[0], *new[2:]])
    with pytest.raises(ValueError, match=r"Y must have shape \(20, 12\)"):
        fit.score(new, Y)


def test_bad_arguments():
    Xs, Y, _, sigma = draw()
    for fit in (als_gls, em_gls):
        with pytest.raises(ValueError, match="hierarchy's 9 equations, got 12"):
            fit(Xs, Y, 1, Hierarchy.flat(9))
        with pytest.raises(ValueError, match="1 label for 12 equations"):
            fit(Xs, Y, 1, [1])
        with pytest.raises(ValueError, match="1 entry, one a level"):
            fit(Xs, Y, (1, 1))
        with pytest.raises(ValueError, match="rank of level 0 must be non-negative"):
            fit(Xs, Y, -1)
        with pytest.raises(ValueError, match=r"tol must lie in \[0, 1\)"):
            fit(Xs, Y, 1, tol=2)
        exact = Y.copy()
        exact[:, 6] = Xs[6] @ np.arange(Xs[6].shape[1])
        with pytest.raises(ValueError, match=r"fitted exactly .*\(equation 6\)"):
            fit(Xs, exact, 1)
    with pytest.raises(TypeError, match="ranks is needed"):
        als_gls(Xs, Y)
    with pytest.raises(ValueError, match="not both"):
        als_gls(Xs, Y, 1, covariance=sigma)
    with pytest.raises(ValueError, match="covariance must have shape"):
        als_gls(Xs, Y, covariance=np.eye(3))
    with pytest.raises(ValueError, match=r"covariance must have shape \(12, 12\)"):
        als_gls(Xs, Y, covariance=Dense(np.eye(9)))
    with pytest.raises(ValueError, match="must be symmetric positive definite"):
        als_gls(Xs, Y, covariance=Dense(np.diag([-1.0] + 11 * [1])))
    with pytest.raises(ValueError, match='solver must be "cg" or "lsmr"'):
        als_gls(Xs, Y, 1, solver="lu")
    with pytest.raises(ValueError, match="maxiter must be at least 1"):
        als_gls(Xs, Y, 1, maxiter=0)


def test_a_tolerance_is_a_number():
    """Only factor models have a rule of their own where none is given."""
    Xs, Y, _, _ = draw(N=30)
    for fit in (als_gls, em_gls):
        with pytest.raises(TypeError, match="tol must be a number, got None"):
            fit(Xs, Y, 1, tol=None)
