"""The parametric bootstrap of fitted systems."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from test_sur_inference import draw
from test_sur_variants import vary, with_gaps
from trees import make_case

from mlrops import ConvergenceWarning, Dense, Hierarchy
from mlrops.regression.sur import covariance as sur_covariance
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.covariance import estimated

CASE = make_case(Hierarchy([3, 0, 5, 1, 4, 2], [[0, 6], [0, 3, 6]]), (1, 0), 4)
WIDTHS = 2, 3, 1, 2, 3, 4


def make_fit(data=None, covariance=None, **options):
    data = draw(CASE, 60, widths=WIDTHS) if data is None else data
    how = (None, None) if covariance is not None else ((1, 0), CASE.hierarchy)
    return fit_system(data, *how, SUROptions(**options), covariance=covariance)


@pytest.mark.slow
def test_the_covariance_is_that_of_the_draws():
    fit = make_fit().with_cov("bootstrap", n_boot=12, random_state=3)
    found = fit.bootstrap
    assert found.draws.shape == (12, fit.n_params) and (found.failed, found.unconverged) == (0, 0)
    expected = np.cov(found.draws.T)
    np.testing.assert_allclose(fit.cov_params(), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(np.concatenate(fit.bse), found.draws.std(axis=0, ddof=1), rtol=1e-9)
    V = np.random.default_rng(0).standard_normal((fit.n_params, 2))
    np.testing.assert_allclose(estimated(fit).times(V), expected @ V, rtol=1e-8, atol=1e-14)
    assert repr(found) == "<Bootstrap of 12 draws, 0 refits failed, 0 did not converge>"
    same, other = (make_fit().with_cov("bootstrap", n_boot=12, random_state=r) for r in (3, 4))
    np.testing.assert_allclose(same.bootstrap.draws, found.draws, rtol=1e-7)
    assert not np.isclose(other.bootstrap.draws, found.draws).any()


@pytest.mark.slow
def test_a_draw_is_a_refit():
    """The first one by hand, with weights, gaps, constraints and a ridge."""
    data = draw(CASE, 60, widths=WIDTHS)
    weights, observed = vary(data)
    R = np.zeros((1, data.p.sum()))
    R[0, [0, 3]] = 1, -1
    data = replace(with_gaps(data, observed), weights=weights, constraints=(R, np.array([0.1])))
    fit = make_fit(data, beta_ridge=0.5)
    found = fit.with_cov("bootstrap", n_boot=2, random_state=8).bootstrap
    sigma = sur_covariance.corrected_covariance(fit.covariance, data.nobs, data.p, bias_only=True)
    errors = sigma.sample(60, np.random.default_rng(8)) / np.sqrt(weights)
    fitted = np.stack([X @ b for X, b in zip(data.Xs, fit.coefficients, strict=True)], axis=1)
    again = make_fit(replace(data, Y=np.where(observed, fitted + errors, 0)), beta_ridge=0.5)
    np.testing.assert_allclose(found.draws[0], np.concatenate(again.coefficients), rtol=1e-10)
    np.testing.assert_allclose(found.draws @ R[0], 0.1, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("sigma, n", [(CASE.A, 400), (Dense(CASE.A.toarray()), 60)])
def test_with_a_known_covariance_it_estimates_the_exact_one(sigma, n):
    fit = make_fit(covariance=sigma)
    boot = fit.with_cov("bootstrap", n_boot=n)
    ratio = np.concatenate(boot.bse) / np.concatenate(fit.bse)
    assert np.abs(ratio - 1).max() < 4 / np.sqrt(2 * n)  # standard errors of standard deviations
    assert abs(ratio.mean() - 1) < 2 / np.sqrt(2 * n)
    draws = (boot.bootstrap.draws - np.concatenate(fit.params)) / np.concatenate(fit.bse)
    assert np.abs(draws.mean(axis=0)).max() < 4 / np.sqrt(n)


@pytest.mark.slow
def test_it_sees_that_the_covariance_was_estimated():
    """Few rows: more than the model says of Σ as estimated, about what the correction says."""
    fit = make_fit(draw(CASE, 24, widths=WIDTHS))
    boot = np.concatenate(fit.with_cov("bootstrap", n_boot=100).bse)
    plain = np.concatenate(fit.with_cov("unadjusted", debiased=False).bse)
    assert np.mean(boot / plain) > 1.1
    assert 0.85 < np.mean(boot / np.concatenate(fit.bse)) < 1.1


def test_failures_are_counted(monkeypatch):
    fit, calls = make_fit(), []
    every = [3]

    def failing(*args, **options):
        calls.append(1)
        if len(calls) % every[0] == 0:
            raise np.linalg.LinAlgError("Σ broke down")
        return replace(fit_system(*args, **options), converged=len(calls) != 1)

    monkeypatch.setattr(sys.modules["mlrops.regression.sur.als_gls"], "fit_system", failing)
    with pytest.warns(ConvergenceWarning, match="of 9 refits of the bootstrap 3 failed and 1 did"):
        found = fit.with_cov("bootstrap", n_boot=9).bootstrap
    assert (len(found.draws), found.failed, found.unconverged) == (6, 3, 1)
    assert np.isfinite(found.draws).all()
    every[0] = 1
    with pytest.raises(ValueError, match="9 of 9 refits of the bootstrap failed, the last one with:"
                                         " Σ broke down"):
        _ = fit.with_cov("bootstrap", n_boot=9).bse


def test_warnings_of_refits_are_not_shown(recwarn):
    fit = make_fit(max_iter=2, tol=0.0, gtol=1e-12)
    recwarn.clear()
    assert fit.with_cov("bootstrap", n_boot=3).bootstrap.unconverged == 3
    assert [str(w.message) for w in recwarn] == [
        "of 3 refits of the bootstrap 0 failed and 3 did not converge; the former are left out"]


def test_bad_options():
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"n_boot must be at least 2, got {n}"):
            _ = make_fit().with_cov("bootstrap", n_boot=n).bse
    with pytest.raises(TypeError, match="n_boot"):
        _ = make_fit().with_cov("bootstrap", n_boot=2.5).bse
