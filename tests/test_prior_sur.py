"""The prior on the residual variances of systems of regressions."""

import numpy as np
import pandas as pd
import pytest

from mlrops import (
    SUR,
    ConvergenceWarning,
    Hierarchy,
    als_gls,
    fit_factor_model,
    load,
    save,
    select_sur_ranks,
)
from mlrops.datasets import simulate_sur

TREE = Hierarchy.from_labels(np.repeat([2, 0, 1], 4), root=True)


@pytest.fixture(scope="module")
def sim():
    return simulate_sur(TREE.n, 3, (1, 1), 30, hierarchy=TREE, random_state=0)


@pytest.fixture
def equations(sim):
    """With gaps, and names."""
    y = np.where(np.random.default_rng(0).random(sim.Y.shape) < 0.1, np.nan, sim.Y)
    return {f"e{j}": (y[:, j], sim.Xs[j]) for j in range(TREE.n)}


@pytest.mark.parametrize("optimizer", ["em", "bfgs", "scoring"])
def test_with_means_alone_it_is_the_factor_model(sim, optimizer):
    """Regressions on ones, by other code: residuals are centred data, t their variances."""
    ones = [np.ones((30, 1))] * TREE.n
    fit = als_gls(ones, sim.Y, (1, 1), TREE, prior=4.0, gtol=1e-7, tol=0)
    model = fit_factor_model(sim.Y, (1, 1), TREE, prior=4.0, optimizer=optimizer, gtol=1e-7, tol=0,
                             max_iter=20000)
    np.testing.assert_allclose(fit.objective, model.objective, rtol=1e-9)
    np.testing.assert_allclose(fit.loglik, model.loglik, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance.D, model.covariance.D, rtol=1e-3)
    np.testing.assert_allclose(fit.prior_variance, model.prior_variance)
    np.testing.assert_allclose(fit.prior_share, model.prior_share)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_objective_climbs_and_is_told_from_the_log_likelihood(sim, equations, gaps):
    seen = []
    options = {"prior": True, "beta_ridge": 0.5, "callback": seen.append}
    fit = (SUR(equations).fit((1, 1), TREE, **options) if gaps else
           als_gls(sim.Xs, sim.Y, (1, 1), TREE, **options))
    assert fit.converged and (np.diff(fit.objective_trace) >= 0).all() and fit.prior == 2
    D, t = fit.covariance.D, fit.prior_variance
    ridge = 0.5 * sum(b @ b for b in fit.coefficients) / 2
    less = (np.log(D) + t / D).sum() + ridge
    np.testing.assert_allclose(fit.nobs * (fit.loglik - fit.objective), less, rtol=1e-8)
    assert [i.objective for i in seen] == fit.objective_trace.tolist()
    assert [i.loglik for i in seen] == fit.loglik_trace.tolist()
    counts = fit.data.nobs
    np.testing.assert_allclose(fit.prior_share, 2 / (counts + 2))
    assert (fit.prior_share * t <= D).all()


def test_at_the_maximum_nothing_nearby_is_better(sim):
    """By dense algebra: the derivatives of the objective by log D are zero."""
    fit = als_gls(sim.Xs, sim.Y, (1, 1), TREE, prior=3.0, prior_variance=2.0, gtol=1e-8, tol=0)
    E, F = fit.errors, fit.covariance.toarray() - np.diag(fit.covariance.D)

    def objective(log_d):
        sigma, N = F + np.diag(np.exp(log_d)), len(E)
        loglik = -0.5 * (N * np.linalg.slogdet(2 * np.pi * sigma)[1]
                         + np.einsum("ti,ti->", E, np.linalg.solve(sigma, E.T).T))
        return (loglik - 1.5 * (log_d + 2.0 / np.exp(log_d)).sum()) / N

    at = np.log(fit.covariance.D)
    np.testing.assert_allclose(objective(at), fit.objective)
    for step in 1e-4 * np.eye(TREE.n):
        assert abs(objective(at + step) - objective(at - step)) / 2e-4 < 1e-5


def test_variances_are_matched_by_name(equations):
    names, t = list(equations), np.linspace(1, 4, TREE.n)
    given = pd.Series(t, index=names)[::-1]
    fit = SUR(equations).fit(1, prior=2.0, prior_variance=given)
    np.testing.assert_array_equal(fit.prior_variance, t)
    assert SUR(equations).fit(1, prior=2.0, prior_variance=t).objective == fit.objective
    with pytest.raises(ValueError, match="prior_variance.*e11"):
        SUR(equations).fit(1, prior=2.0, prior_variance=given.drop("e11"))
    with pytest.raises(ValueError, match="prior_variance must be positive.*1 equation: e3"):
        SUR(equations).fit(1, prior=2.0, prior_variance=np.where(t == t[3], -1, t))


def test_variances_follow_their_equations_into_the_tree(sim):
    """The tree's order is not that of the data."""
    t = np.geomspace(0.1, 100, TREE.n)
    fit = als_gls(sim.Xs, sim.Y, (1, 1), TREE, prior=1e9, prior_variance=t)
    np.testing.assert_allclose(fit.covariance.D, t, rtol=1e-6)


@pytest.mark.parametrize("options, message", [
    ({"prior": "cv"}, 'prior="cv" chooses the strength for factor models'),
    ({"prior": "much"}, "prior must be None, True, a number"),
    ({"prior": -1.0}, "prior must be finite and not negative"),
    ({"prior_variance": 1.0}, "prior_variance needs a prior"),
])
def test_what_is_refused(sim, equations, options, message):
    for call in (lambda: als_gls(sim.Xs, sim.Y, 1, **options),
                 lambda: SUR(equations).fit(1, **options),
                 lambda: select_sur_ranks(sim.Xs, sim.Y, [1], **options)):
        with pytest.raises(ValueError, match=message):
            call()


def test_ranks_that_the_bare_likelihood_refuses(sim):
    with pytest.raises(ValueError, match="no maximum"):
        als_gls(sim.Xs, sim.Y, 8)
    fit = als_gls(sim.Xs, sim.Y, 8, prior=True)
    assert fit.converged and fit.boundary.size == 0
    bare, prior = (max(r.ranks[0] for r in select_sur_ranks(
        sim.Xs, sim.Y, criterion="cv", max_rank=9, strategy="grid", random_state=0,
        **options).table) for options in ({}, {"prior": True, "prior_variance": 1.0}))
    assert bare < prior == 9


def test_the_floor_suggests_it(sim):
    Y = sim.Y.copy()
    Y[:, 1] = Y[:, 0] + 1e-5 * Y[:, 1]
    with pytest.warns(ConvergenceWarning, match="prior=True"):
        fit = als_gls([sim.Xs[0]] * 2 + sim.Xs[2:], Y, 2)
    assert "prior=True" in " ".join(fit.summary(max_equations=0).split())


def test_the_summary_of_a_prior(sim):
    fit = als_gls(sim.Xs, sim.Y, (1, 1), TREE, prior=True)
    text = " ".join(fit.summary(max_equations=0).split())
    assert "Prior, pseudo-samples 2" in text and f"Its share of D {2 / 32:.1%}" in text
    assert f"what was maximized is {fit.nobs * fit.objective:,.2f}" in text
    assert f"Log-likelihood {fit.llf:,.2f}" in text


def test_saved_loaded_and_fitted_again(equations, tmp_path):
    fit = SUR(equations).fit(1, prior=True, prior_variance=3.0)
    save(tmp_path / "fit.mlr", fit)
    again = load(tmp_path / "fit.mlr")
    assert again.options == fit.options and again.prior == fit.prior == 1.0
    np.testing.assert_array_equal(again.prior_share, fit.prior_share)
    np.testing.assert_array_equal(again.prior_variance, fit.prior_variance)
    refit = again.options.fit(again.data, 1, None)
    assert refit.objective == fit.objective
    errors = fit.with_cov("bootstrap", n_boot=3).bse
    assert np.isfinite(errors).all()
    with pytest.raises(ValueError, match="prior_share"):
        type(fit).from_fields(**fit.to_fields() | {"prior_share": None})
