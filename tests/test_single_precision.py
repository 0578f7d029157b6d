"""Likelihoods of single precision data are those of the parameters that are returned."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import multivariate_normal

from mlrops import SUR, Hierarchy, als_gls, fit_factor_model, select_ranks
from mlrops.datasets import simulate_sur

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

CASES = {"few samples": (5, 8, (3, 2), (1, 2)), "more": (12, 16, (2, 1), (1, 4)),
         "many": (80, 24, (2, 1), (1, 4))}


def samples(case):
    N, n, ranks, groups = CASES[case]
    Y = np.random.default_rng(0).standard_normal((N, n)) + 5
    return Y.astype(np.float32), ranks, Hierarchy.balanced(n, groups)


def exact(fit, Y):
    """The average log-likelihood by dense algebra in double precision."""
    F, D, mean = (x.astype(float) for x in (fit.covariance.F, fit.covariance.D, fit.mean))
    A = fit.covariance
    S = np.diag(D)
    at = 0
    for level, r in enumerate(A.ranks):
        labels = A.hierarchy.labels(level)
        S += (labels[:, None] == labels) * (F[:, at : at + r] @ F[:, at : at + r].T)
        at += r
    seen = [np.flatnonzero(~np.isnan(y)) for y in Y]
    return np.mean([multivariate_normal(mean[o], S[np.ix_(o, o)], allow_singular=True).logpdf(
        y[o].astype(float)) for y, o in zip(Y, seen, strict=True) if o.size])


FORMS = {
    "array": (lambda Y: Y, {}), "uncompressed": (lambda Y: Y, {"compress": False}),
    "chunks": (lambda Y: [Y[:3], Y[3:]], {}),
    "compressed chunks": (lambda Y: [Y[:3], Y[3:]], {"compress": True}),
    "sparse": (sp.csr_array, {}), "missing": (lambda Y: Y, {"missing": "em"}),
}


@pytest.mark.quick(5)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_is_that_of_what_is_returned(case, form):
    Y, ranks, h = samples(case)
    if form == "missing":
        Y[np.random.default_rng(1).random(Y.shape) < 0.05] = np.nan
    make, options = FORMS[form]
    fit = fit_factor_model(make(Y), ranks, h, max_iter=100, **options)
    assert fit.covariance.dtype == fit.mean.dtype == np.float32
    assert fit.loglik == pytest.approx(fit.score(Y), abs=1e-6)
    assert fit.loglik == pytest.approx(exact(fit, Y), abs=1e-5)
    assert fit.loglik == pytest.approx(fit.loglik_trace[-1], abs=1e-4)
    assert (np.diff(fit.loglik_trace) >= 0).all()


@pytest.mark.parametrize("form", ["array", "missing", "chunks", "sparse"])
def test_single_and_double_precision_agree(form):
    """Of the same numbers: what differs is the rounding of the parameters in the end."""
    Y, ranks, h = samples("many")
    make, options = FORMS[form]
    single, double = (fit_factor_model(make(x), ranks, h, **options)
                      for x in (Y, Y.astype(float)))
    assert single.n_evaluations == double.n_evaluations
    assert single.loglik == pytest.approx(double.loglik, abs=1e-6)


def test_callbacks_are_shown_single_precision():
    Y, ranks, h = samples("many")
    seen = []
    fit_factor_model(Y, ranks, h, callback=seen.append, max_iter=3)
    assert {it.covariance.dtype for it in seen} == {np.dtype(np.float32)}


@pytest.mark.parametrize("missing", [False, True])
def test_regressions(missing):
    sim = simulate_sur(8, 2, ranks=2, n_samples=30, random_state=0)
    Xs, Y = [X.astype(np.float32) for X in sim.Xs], sim.Y.astype(np.float32)
    if missing:
        Y[4, 3] = np.nan
        fit = SUR({f"y{j}": {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)},
                  missing="cells").fit(2)
    else:
        fit = als_gls(Xs, Y, 2)
    assert fit.covariance.dtype == np.float32
    assert fit.loglik == pytest.approx(fit.score(Xs, Y), abs=1e-6)
    assert fit.loglik == pytest.approx(fit.loglik_trace[-1], abs=1e-4)


def test_held_out_likelihoods():
    Y, _, _ = samples("many")
    single, double = (select_ranks(x, candidates=[0, 1], criterion="cv", random_state=0)
                      for x in (Y, Y.astype(float)))
    for a, b in zip(single.table, double.table, strict=True):
        assert a.cv_mean == pytest.approx(b.cv_mean, abs=1e-5)
