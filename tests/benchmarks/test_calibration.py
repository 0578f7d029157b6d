"""Standard errors of `als_gls` with estimated Σ: how they compare with the truth.

For each way of computing them: mean reported over true standard deviation, coverage of 95%
intervals, size of 5% tests of two coefficients of an equation and of five in five equations.
Regressors are fixed, three an equation, normal but for the intercept.  The intercept is the same
regressor in all equations and needs no weights: slopes alone are in columns of their own.  The
errors are those of a factor model of the rank fitted, loadings normal, factors explain half of each
variance.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from mlrops import MLR, ConvergenceWarning, Hierarchy, als_gls
from mlrops.regression.sur.small_sample import corrected_covariance, residual_df, wald_df

p = 3
DESIGNS = 4  # regressors and truths
RANKS = {5: 1, 30: 2}
DRAWS = {20: 1600, 40: 1200, 100: 800, 400: 500}
COLUMNS = ("K", "N", "standard errors", "reported / true", "coverage", "reported / true, slopes",
           "coverage, slopes", "size, one equation", "size, five equations")


class Inference(NamedTuple):
    """What a way of computing standard errors says of one fit."""

    errors: list  # standard errors, K arrays (p_j,)
    df: np.ndarray  # (K,), of Student's t; infinite for the normal distribution
    params_covariance: np.ndarray  # (P, P)


def from_sigma(fit, sigma, df):
    """(Xᵀ(Σ⁻¹⊗I)X)⁻¹, dense."""
    X = np.concatenate([X.T for X in fit.Xs])
    equation = np.repeat(np.arange(fit.n_equations), p)
    precision = np.linalg.inv(sigma.toarray())
    C = np.linalg.inv(X @ X.T * precision[np.ix_(equation, equation)])
    return Inference(np.split(np.sqrt(C.diagonal()), fit.n_equations), df, C)


def naive(fit):
    """Σ as it was fitted, normal quantiles."""
    return from_sigma(fit, fit.covariance, np.full(fit.n_equations, np.inf))


def debiased(fit):
    """σ_ij N / (N - p), t with N - p degrees of freedom: as if the weights were known."""
    sigma = corrected_covariance(fit.covariance, fit.nobs, p, shared=True)
    return from_sigma(fit, sigma, np.full(fit.n_equations, fit.nobs - p))


def default(fit):
    """Corrected for weights that are estimated."""
    sigma = corrected_covariance(fit.covariance, fit.nobs, p)
    return from_sigma(fit, sigma, residual_df(fit.covariance, fit.nobs, p))


# Another way is one more function of a fit here.
WAYS = {"naive": naive, "debiased": debiased, "default": default}


def wald_p(b, inference, which):
    """p-value of the true hypothesis that some coefficients are 0."""
    P = b.size
    R = np.eye(P)[which]
    C = inference.params_covariance
    statistic = b[which] @ np.linalg.solve(C[np.ix_(which, which)], b[which])
    if np.isinf(inference.df).all():
        return scipy.stats.chi2.sf(statistic, len(which))
    df = wald_df(R, C, np.repeat(np.arange(P // p), p), inference.df)
    return scipy.stats.f.sf(statistic / len(which), len(which), df)


def draw(K, N, rng):
    """Regressors and Σ."""
    Xs = [np.column_stack([np.ones(N), rng.standard_normal((N, p - 1))]) for _ in range(K)]
    F = rng.standard_normal((K, RANKS[K]))
    F /= np.sqrt(2) * np.linalg.norm(F, axis=1, keepdims=True)
    return Xs, MLR(Hierarchy.flat(K), [F], np.full(K, 0.5))


def simulate(K, N):
    """For each way a list of designs: b, standard errors and df (m, P), shares of rejections (m,).

    The true coefficients are 0.
    """
    rng = np.random.default_rng([K, N])
    out = {name: [] for name in WAYS}
    for _ in range(DESIGNS):
        Xs, sigma = draw(K, N, rng)
        rows = {name: [] for name in WAYS}
        for _ in range(DRAWS[N] // DESIGNS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fit = als_gls(Xs, sigma.sample(N, random_state=rng), RANKS[K], tol=1e-7, gtol=1e-4)
            b = np.concatenate(fit.params)
            for name, way in WAYS.items():
                inference = way(fit)
                one = np.mean([wald_p(b, inference, [p * j + 1, p * j + 2]) < 0.05
                               for j in range(5)])
                five = wald_p(b, inference, [p * j + 1 for j in range(5)]) < 0.05
                rows[name].append(
                    (b, np.concatenate(inference.errors), np.repeat(inference.df, p), one, five))
        for name in WAYS:
            out[name].append([np.array(x) for x in zip(*rows[name], strict=True)])
    return out


@pytest.mark.parametrize("N", DRAWS)
@pytest.mark.parametrize("K", RANKS)
def test_calibration(K, N, benchmark, record_in):
    simulated = benchmark.pedantic(simulate, (K, N), rounds=1)
    slopes = np.tile(np.arange(p) > 0, K)
    for name, designs in simulated.items():
        ratio = np.mean([se.mean(axis=0) / np.sqrt((b**2).mean(axis=0))
                         for b, se, *_ in designs], axis=0)
        inside = np.mean([(np.abs(b) <= scipy.stats.t.ppf(0.975, df) * se).mean(axis=0)
                          for b, se, df, *_ in designs], axis=0)
        one, five = (np.mean([d[i] for d in designs]) for i in (3, 4))
        record_in("Standard errors of `als_gls`, Σ estimated", COLUMNS, str(K), str(N), name,
                  f"{ratio.mean():.3f}", f"{inside.mean():.3f}", f"{ratio[slopes].mean():.3f}",
                  f"{inside[slopes].mean():.3f}", f"{one:.3f}", f"{five:.3f}")
        if name == "default":
            assert 0.93 <= inside.mean() <= 0.97
            assert 0.93 <= inside[slopes].mean() <= 0.97
