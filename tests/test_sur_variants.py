"""Weights, linear constraints, ridges and missing cells of systems, against dense formulas."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from mlrops import MLR, ConvergenceWarning, Diagonal, Hierarchy, als_gls, em_gls
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.beta_step import beta_step
from mlrops.regression.sur.data import SURData

TREE = Hierarchy([3, 0, 5, 1, 4, 2], [[0, 6], [0, 2, 6], [0, 2, 4, 6]])
WIDTHS = 2, 3, 1, 2, 3, 4
SHARP = {"tol": 0.0, "gtol": 1e-9, "max_iter": 500}


def draw(N=60, seed=0, dtype=float, hierarchy=TREE, ranks=(1, 1, 0)):
    rng = np.random.default_rng(seed)
    K = hierarchy.n
    factors = [rng.choice([-1.0, 1.0], (K, r)) * rng.uniform(0.6, 1.2, (K, r)) for r in ranks]
    sigma = MLR(hierarchy, factors, rng.uniform(0.5, 1.5, K))
    Xs = [rng.standard_normal((N, p)) for p in WIDTHS]
    for X in Xs:
        X[:, 0] = 1
    Y = sigma.sample(N, random_state=rng)
    Y += np.stack([X @ rng.standard_normal(X.shape[1]) for X in Xs], axis=1)
    return SURData([X.astype(dtype) for X in Xs], Y.astype(dtype)), sigma


def vary(data, seed=1):
    """Weights of mean 1, and gaps in all equations but the first."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.3, 2, data.Y.shape)
    weights /= weights.mean(axis=0)
    observed = rng.random(data.Y.shape) > 0.2
    observed[:, 0] = True
    observed[5, 1:] = False
    return weights, observed


def with_gaps(data, observed):
    Xs = [np.where(observed[:, j, None], X, 0) for j, X in enumerate(data.Xs)]
    return replace(data, Xs=Xs, Y=np.where(observed, data.Y, 0), observed=observed)


def stacked(data, sigma):
    """Design (n_cells, P), y and error covariance of all cells that are there, densely."""
    N, K = data.Y.shape
    X = np.zeros((N, K, data.p.sum()))
    at = np.cumsum([0, *data.p])
    for j, x in enumerate(data.Xs):
        X[:, j, at[j] : at[j + 1]] = x
    root = np.ones((N, K)) if data.weights is None else 1 / np.sqrt(data.weights)
    V = np.einsum("tj,jk,tk,ts->tjsk", root, sigma, root, np.eye(N)).reshape(N * K, N * K)
    seen = np.ones(N * K, bool) if data.observed is None else data.observed.ravel()
    return X.reshape(N * K, -1)[seen], data.Y.ravel()[seen], V[np.ix_(seen, seen)]


def log_density(data, betas, sigma):
    X, y, V = stacked(data, sigma)
    e = y - X @ np.concatenate(betas)
    return scipy.stats.multivariate_normal(np.zeros(y.size), V).logpdf(e) / len(data.Y)


def variants(data):
    weights, observed = vary(data)
    R = np.zeros((3, data.p.sum()))
    R[0, [1, 3]] = 1, -1  # across equations 0 and 1
    R[1, [6, 7]] = 2, 1  # within equation 3
    R[2, -1] = 1
    # Near what the data say: equations forced far off would have no factors left.
    ols = [np.linalg.lstsq(X, y, rcond=None)[0] for X, y in zip(data.Xs, data.Y.T, strict=True)]
    q = R @ np.concatenate(ols) + 0.05
    out = {"weights": replace(data, weights=weights), "limits": replace(data, constraints=(R, q)),
           "gaps": with_gaps(data, observed)}
    out["all"] = replace(out["gaps"], weights=weights, constraints=(R, q))
    return out


NAMES = "weights", "limits", "gaps", "all"


# ---------------------------------------------------------------- a covariance that is known


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_known_covariance_by_value(name, ridge):
    data, sigma = draw()
    data = variants(data)[name]
    fit = fit_system(data, None, None, SUROptions(beta_ridge=ridge), covariance=sigma)
    X, y, V = stacked(data, sigma.toarray())
    A, b = X.T @ np.linalg.solve(V, X) + ridge * np.eye(X.shape[1]), X.T @ np.linalg.solve(V, y)
    R, q = data.constraints or (np.zeros((0, A.shape[0])), np.zeros(0))
    saddle = np.block([[A, R.T], [R, np.zeros((len(q), len(q)))]])
    beta = np.linalg.solve(saddle, np.concatenate([b, q]))[: len(A)]
    np.testing.assert_allclose(np.concatenate(fit.coefficients), beta, rtol=1e-9, atol=1e-10)
    assert fit.converged and fit.normal_norm < 1e-10
    np.testing.assert_allclose(R @ np.concatenate(fit.coefficients), q, atol=1e-12)
    np.testing.assert_allclose(fit.loglik, log_density(data, fit.coefficients, sigma.toarray()))
    np.testing.assert_allclose(fit.objective, fit.loglik - ridge * beta @ beta / 2 / data.N)
    seen = np.ones(data.Y.shape, bool) if data.observed is None else data.observed
    np.testing.assert_allclose(fit.resid[seen], (y - X @ beta), atol=1e-9)
    assert np.isnan(fit.resid[~seen]).all() and np.isnan(fit.fittedvalues[~seen]).all()


@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("name", ["weights", "limits"])
def test_lsmr_gives_the_same(name, ridge):
    data, sigma = draw()
    data = variants(data)[name]
    both = [fit_system(data, None, None, SUROptions(solver=solver, beta_ridge=ridge),
                       covariance=sigma) for solver in ("cg", "lsmr")]
    for a, b in zip(*(fit.coefficients for fit in both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert both[1].normal_norm < 1e-9


def test_single_precision_stays_single():
    data, sigma = draw(dtype=np.float32)
    sigma = sigma.astype(np.float32) if hasattr(sigma, "astype") else sigma
    for variant in variants(data).values():
        variant = replace(variant, weights=None if variant.weights is None
                          else variant.weights.astype(np.float32))
        system = variant.system(beta_ridge=0.1)
        step = beta_step(system, sigma, system.ols, 1e-5)
        assert system.Y.dtype == step.gamma.dtype == step.residuals.dtype == np.float32
        exact = fit_system(replace(variant, Xs=[X.astype(float) for X in variant.Xs],
                                   Y=variant.Y.astype(float)), None, None,
                           SUROptions(beta_ridge=0.1), covariance=sigma)
        np.testing.assert_allclose(np.concatenate(system.coefficients(step.gamma)),
                                   np.concatenate(exact.coefficients), rtol=2e-3, atol=2e-4)


# ---------------------------------------------------------------- a covariance that is fitted


def objective(data, fit, ridges):
    """Penalized log-likelihood a row of parameters (β, F, log D), densely."""
    h, ranks = fit.covariance.hierarchy, fit.covariance.ranks
    P, shape = data.p.sum(), fit.covariance.F.shape

    def value(v):
        beta, F, D = np.split(v, [P, P + shape[0] * shape[1]])
        sigma = MLR.from_compact(h, ranks, F.reshape(shape), np.exp(D))
        penalty = ridges[0] * beta @ beta
        penalty += ridges[1] * np.sum(F.reshape(shape) ** 2 / np.exp(D)[:, None])
        betas = np.split(beta, np.cumsum(data.p)[:-1])
        return log_density(data, betas, sigma.toarray()) - penalty / 2 / data.N

    A = fit.covariance
    return value, np.concatenate([*fit.coefficients, A.F.ravel(), np.log(A.D)])


@pytest.mark.quick(1)
@pytest.mark.parametrize("name, ridges", [("weights", (0, 0)), ("plain", (2, 0)), ("gaps", (0, 0)),
                                          ("all", (0, 0)), ("limits", (0, 0)), ("plain", (0, 3.0)),
                                          ("all", (2.0, 0)), ("weights", (2.0, 3.0))])
def test_gradient_is_zero_at_the_optimum(name, ridges):
    data, _ = draw(seed=5)
    data = {"plain": data, **variants(data)}[name]
    options = SUROptions(beta_ridge=ridges[0], factor_ridge=ridges[1], **SHARP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = fit_system(data, (1, 1, 0), TREE, options)
    assert not fit.boundary.size and (np.diff(fit.objective_trace) >= 0).all()
    value, at = objective(data, fit, ridges)
    np.testing.assert_allclose(fit.objective, value(at), rtol=1e-9)
    gradient = scipy.optimize.approx_fprime(at, value, 1e-6)
    P = data.p.sum()
    if data.constraints is not None:
        R, q = data.constraints
        np.testing.assert_allclose(R @ at[:P], q, atol=1e-10)
        null = np.linalg.svd(R)[2][len(q) :]
        gradient = np.concatenate([null @ gradient[:P], gradient[P:]])
    assert np.abs(gradient).max() < 3e-5
    # What is reported tells the likelihood from what was maximized.
    v = at[: P]
    penalty = ridges[0] * v @ v
    penalty += ridges[1] * np.sum(fit.covariance.F**2 / fit.covariance.D[:, None])
    np.testing.assert_allclose(fit.loglik - fit.objective, penalty / 2 / data.N, atol=1e-12)


@pytest.mark.slow
def test_a_ridge_keeps_variances_from_the_floor():
    data, _ = draw(N=12, seed=1)
    with pytest.warns(ConvergenceWarning, match="at the floor"):
        bare = fit_system(data, (2, 1, 0), TREE, SUROptions())
    ridged = fit_system(data, (2, 1, 0), TREE, SUROptions(factor_ridge=2.0))
    assert bare.boundary.size and not ridged.boundary.size
    assert bare.loglik > ridged.loglik > ridged.objective


# ---------------------------------------------------------------- constraints


def test_redundant_rows_change_nothing_and_contradictions_are_named():
    data, sigma = draw()
    limited = variants(data)["limits"]
    R, q = limited.constraints
    more = np.vstack([R, R[0] - 3 * R[1]]), np.append(q, q[0] - 3 * q[1])
    fits = [fit_system(replace(data, constraints=c), None, None, SUROptions(), covariance=sigma)
            for c in ((R, q), more, (np.vstack([R, 0 * R[0]]), np.append(q, 0)))]
    for fit in fits[1:]:
        np.testing.assert_allclose(np.concatenate(fit.coefficients),
                                   np.concatenate(fits[0].coefficients), rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match=r"contradict one another: row \d of R"):
        fit_system(replace(data, constraints=(more[0], np.append(q, 7.0))), None, None,
                   SUROptions(), covariance=sigma)
    with pytest.raises(ValueError, match="contradict one another: row 1 of R"):
        fit_system(replace(data, constraints=(np.stack([R[0], 0 * R[0]]), np.array([0, 1.0]))),
                   None, None, SUROptions(), covariance=sigma)


def test_all_coefficients_can_be_given():
    data, sigma = draw()
    given = np.arange(data.p.sum(), dtype=float)
    fit = fit_system(replace(data, constraints=(np.eye(given.size), given)), (1, 0, 0), TREE,
                     SUROptions())
    np.testing.assert_allclose(np.concatenate(fit.coefficients), given, atol=1e-12)


def test_a_coefficient_that_is_given_is_so_exactly():
    data, sigma = draw()
    R = np.zeros((2, data.p.sum()))
    R[0, 1], R[1, 3] = 3, -2
    limited = replace(data, constraints=(R, np.array([0, 0.2])))
    for fit in (fit_system(limited, None, None, SUROptions(), covariance=sigma),
                fit_system(limited, (1, 0, 0), TREE, SUROptions())):
        assert fit.coefficients[0][1] == 0 and fit.coefficients[1][1] == -0.1
        assert fit.bse[0][1] == fit.tvalues[0][1] == 0 and fit.pvalues[0][1] == 1
        assert fit.tvalues[1][1] == -np.inf


def test_units_of_regressors_do_not_matter_to_constraints():
    data, sigma = draw()
    limited = variants(data)["limits"]
    R, q = limited.constraints
    scale = 10.0 ** np.random.default_rng(0).integers(-6, 7, data.p.sum())
    Xs = [X * s for X, s in zip(data.Xs, np.split(scale, np.cumsum(data.p)[:-1]), strict=True)]
    usual = fit_system(limited, None, None, SUROptions(), covariance=sigma)
    other = fit_system(replace(limited, Xs=Xs, constraints=(R * scale, q)), None, None,
                       SUROptions(), covariance=sigma)
    np.testing.assert_allclose(np.concatenate(other.coefficients) * scale,
                               np.concatenate(usual.coefficients), rtol=1e-7, atol=1e-9)


def test_shared_regressors_with_constraints_are_not_least_squares():
    data, sigma = draw()
    X = data.Xs[1]
    R = np.zeros((1, 18))
    R[0, [0, 4]] = 1, -1
    shared = replace(data, Xs=[X] * 6, constraints=(R, np.zeros(1)))
    fit = fit_system(shared, None, None, SUROptions(), covariance=sigma)
    Z, y, V = stacked(shared, sigma.toarray())
    A, b = Z.T @ np.linalg.solve(V, Z), Z.T @ np.linalg.solve(V, y)
    saddle = np.block([[A, R.T], [R, np.zeros((1, 1))]])
    beta = np.linalg.solve(saddle, np.append(b, 0))[:18]
    np.testing.assert_allclose(np.concatenate(fit.coefficients), beta, rtol=1e-9)


# ---------------------------------------------------------------- what is asked while it runs


def test_callback_sees_every_iterate_and_can_stop():
    data, _ = draw()
    seen = []

    def watch(iterate):
        seen.append(iterate)
        if iterate.n_iter == 2:
            raise StopIteration

    fit = als_gls(data.Xs, data.Y, (1, 1, 0), TREE, callback=watch, **SHARP)
    assert [i.n_iter for i in seen] == [0, 1, 2] and fit.termination == "callback"
    assert not fit.converged
    np.testing.assert_array_equal([i.objective for i in seen], fit.objective_trace)
    for a, b in zip(seen[-1].params, fit.coefficients, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(seen[-1].covariance.toarray(), fit.covariance.toarray())


@pytest.mark.parametrize("when", [3, 40, -1])
def test_ctrl_c_returns_the_best_so_far(monkeypatch, when):
    from mlrops.regression.sur import climb as sur_climb

    data, _ = draw(N=14, seed=2)
    honest, calls = sur_climb.beta_step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return honest(*args)

    monkeypatch.setattr(sur_climb, "beta_step", interrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        at = 0
        als_gls(data.Xs, data.Y, (2, 1, 0), TREE, **SHARP)
        at = when if when > 0 else len(calls) + 1 + when  # from the end, of a whole fit
        assert len(calls) > 40
        calls.clear()
        fit = als_gls(data.Xs, data.Y, (2, 1, 0), TREE, **SHARP)
    assert len(calls) == at
    assert fit.termination == "interrupted" and not fit.converged
    np.testing.assert_allclose(
        fit.loglik, log_density(data, fit.coefficients, fit.covariance.toarray()), rtol=1e-10)
    assert fit.objective == fit.objective_trace[-1] and (np.diff(fit.loglik_trace) >= 0).all()


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", ["complete", "gaps", "ridges"])
@pytest.mark.parametrize("optimizer", ["scoring", "em"])
def test_all_ways_to_climb_reach_the_same_maximum(optimizer, kind):
    data, _ = draw(N=80)
    data = with_gaps(data, vary(data)[1]) if kind == "gaps" else data
    options = {"tol": 0.0, "gtol": 1e-7, "max_iter": 500}
    if kind == "ridges":
        options |= {"beta_ridge": 2.0, "factor_ridge": 3.0}
    found, expected = (SUROptions(optimizer=way, **options).fit(data, (1, 1, 0), TREE)
                       for way in (optimizer, "bfgs"))
    for fit in (found, expected):
        assert fit.converged and (np.diff(fit.objective_trace) >= 0).all()
    assert np.isclose(found.objective, expected.objective, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.concatenate(found.coefficients),
                               np.concatenate(expected.coefficients), atol=1e-5)
    np.testing.assert_allclose(found.covariance.toarray(), expected.covariance.toarray(),
                               atol=1e-4)


def test_progress_is_shown(capsys):
    data, _ = draw()
    als_gls(data.Xs, data.Y, (1, 0, 0), TREE, progress=True)
    assert "ALS" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["beta_ridge", "factor_ridge"])
def test_penalties_are_checked(name):
    data, _ = draw()
    for wrong in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"{name} must be finite and not negative"):
            als_gls(data.Xs, data.Y, 1, **{name: wrong})
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        als_gls(data.Xs, data.Y, 1, **{name: "1"})


def test_what_missing_cells_exclude():
    data = variants(draw()[0])["gaps"]
    with pytest.raises(ValueError, match="factor_ridge needs complete samples"):
        fit_system(data, (1, 0, 0), TREE, SUROptions(factor_ridge=1.0))
    with pytest.raises(ValueError, match='missing samples need solver="cg"'):
        fit_system(data, (1, 0, 0), TREE, SUROptions(solver="lsmr"))
    with pytest.raises(ValueError, match="blocks can be inverted one by one"):
        fit_system(data, None, None, SUROptions(), covariance=Diagonal(np.ones(6)))


@pytest.mark.quick(1)
@pytest.mark.parametrize("fit", [als_gls, em_gls])
def test_units_of_single_equations_do_not_choose_the_maximum(fit):
    """In these units a start from the largest numbers ends 1.1 nats a row lower."""
    rng = np.random.default_rng(7)
    Xs = [np.column_stack([np.ones(40), rng.standard_normal((40, 2))]) for _ in range(8)]
    E = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 8)) * 0.7
    Y = np.stack([X.sum(axis=1) for X in Xs], axis=1) + E + rng.standard_normal((40, 8))
    units = 2.0 ** rng.integers(-10, 11, 8)
    plain, scaled = fit(Xs, Y, 2), fit(Xs, Y * units, 2)
    np.testing.assert_allclose(scaled.loglik + np.log(units).sum(), plain.loglik, rtol=1e-9)
    np.testing.assert_allclose(scaled.covariance.toarray(),
                               plain.covariance.toarray() * np.outer(units, units),
                               rtol=1e-5, atol=1e-6 * np.outer(units, units).min())
    for b, a, unit in zip(scaled.params, plain.params, units, strict=True):
        np.testing.assert_allclose(b / unit, a, rtol=1e-6, atol=1e-8)
