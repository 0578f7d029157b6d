"""Measures of fit: those of R's factanal and psych, and of the formulas on dense arrays."""

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy.stats import chi2 as chi2_law
from scipy.stats import ncx2

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr

DATA = Path(__file__).parent / "data"
ABILITY = np.genfromtxt(DATA / "ability_cov.csv", delimiter=",", skip_header=4)
HARMAN = np.genfromtxt(DATA / "harman74.csv", delimiter=",", skip_header=5)
TREE = Hierarchy.balanced(18, [1, 3])
SIM = simulate_mlr(TREE, (1, 1), 90, random_state=2)
NAMES = [f"f{i}" for i in range(18)]


def fitted(Y=SIM.Y, ranks=(1, 1), hierarchy=TREE, **options):
    return fit_factor_model(Y, ranks, hierarchy, **options)


# χ², df, p, F, RMSEA with its 90% interval, TLI, rms, χ² of independence: tests/data/fit_measures.R
@pytest.mark.parametrize("S, N, k, expected", [
    (ABILITY, 112, 1, (75.1795913005, 9, 1.45638456547e-12, 0.699345035354, 0.25607404958,
                       0.205445833789, 0.312676401593, 0.561782277352, 0.159289596905,
                       268.353765307)),
    (ABILITY, 112, 2, (6.10661649875, 4, 0.19132631561, 0.057160216837, 0.0679840524681, 0,
                       0.171122690979, 0.968406548104, 0.0354604698254, 268.353765307)),
    (HARMAN, 145, 4, (226.683844723, 186, 0.0223955907964, 1.71082146961, 0.0382176979702,
                      0.0158196440657, 0.0556205521645, 0.951289873353, 0.0411815036433,
                      1545.86186333)),
    (HARMAN, 145, 5, (186.820306947, 166, 0.128326366116, 1.41709461654, 0.028584911788, 0,
                      0.0494864095793, 0.971895927744, 0.0366929460718, 1545.86186333))],
    ids=["ability 1", "ability 2", "Harman 4", "Harman 5"])
def test_equals_factanal_and_psych(S, N, k, expected):
    fit = fit_factor_model(covariance=S, n_samples=N, ranks=k, tol=0, gtol=1e-9)
    found = fit.fit_measures(covariance=S)
    values = (found.chi2, found.df, found.pvalue, found.discrepancy, found.rmsea,
              *found.rmsea_interval, found.tli, found.rmsr, found.null_chi2)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    assert found.pvalue == pytest.approx(expected[2], rel=1e-6)


def by_the_book(S, Sigma, N, df, k, bartlett, center=True):
    """The measures by their formulas, on dense arrays."""
    n = len(S)
    F = (np.linalg.slogdet(Sigma)[1] - np.linalg.slogdet(S)[1]
         + np.trace(np.linalg.solve(Sigma, S)) - n)
    F0 = np.log(np.diagonal(S)).sum() - np.linalg.slogdet(S)[1]
    nu = N - center if bartlett else N
    m0 = nu - (2 * n + 5) / 6 if bartlett else N
    m = m0 - 2 * k / 3 if bartlett else N
    df0, chi2, chi20 = n * (n - 1) / 2, m * F, m0 * F0
    sd = np.sqrt(np.diagonal(S))
    e = (S - Sigma) / np.outer(sd, sd)
    low, high = np.tril_indices(n), np.tril_indices(n, -1)
    return {
        "chi2": chi2, "df": df, "pvalue": chi2_law.sf(chi2, df), "discrepancy": F,
        "null_chi2": chi20, "null_discrepancy": F0, "null_df": df0,
        "rmsea": math.sqrt(max(chi2 / (df * N) - 1 / nu, 0)),
        "tli": (F0 / df0 - F / df) / (F0 / df0 - 1 / m),
        "cfi": 1 - max(chi2 - df, 0) / max(chi20 - df0, chi2 - df, 0),
        "srmr": math.sqrt(np.square(e[low]).mean()), "rmsr": math.sqrt(np.square(e[high]).mean())}


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("bartlett", [True, False])
@pytest.mark.parametrize("ranks, tree, df", [
    ((1, 1), TREE, 171 - 54), ((2,), Hierarchy.flat(18), 171 - 53),
    ((0,), Hierarchy.flat(18), 153)])
def test_by_the_book(ranks, tree, df, bartlett, center):
    """Trees lose as many degrees of freedom as they have identified parameters."""
    Y = SIM.Y[:, np.random.default_rng(0).permutation(18)] * np.logspace(-2, 2, 18)
    fit = fitted(Y, ranks, tree, center=center)
    S = np.cov(Y.T, bias=True) if center else Y.T @ Y / len(Y)
    expected = by_the_book(S, fit.covariance.toarray(), 90, df, sum(ranks), bartlett, center)
    for given in ({"Y": Y}, {"covariance": S}):
        found = fit.fit_measures(**given, bartlett=bartlett)
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-8, abs=1e-10), name


def test_a_fit_that_was_stopped():
    """Far from the maximum variances differ, too, and count in SRMR."""
    with pytest.warns(ConvergenceWarning):
        fit = fitted(optimizer="em", init="random", max_iter=1, random_state=0)
    S = np.cov(SIM.Y.T, bias=True)
    expected = by_the_book(S, fit.covariance.toarray(), 90, 171 - 54, 2, True)
    found = fit.fit_measures(SIM.Y)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-8, abs=1e-10), name
    assert abs(found.srmr - found.rmsr) > 1e-3


def test_the_likelihood_ratio_is_that_of_the_results():
    one, two = (fitted(ranks=k, hierarchy=None) for k in (1, 2))
    a, b = (fit.fit_measures(SIM.Y, bartlett=False) for fit in (one, two))
    assert a.chi2 - b.chi2 == pytest.approx(2 * 90 * (two.loglik - one.loglik), abs=1e-8)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_interval_holds_the_noncentrality(confidence):
    fit = fitted(ranks=1, hierarchy=None)
    found = fit.fit_measures(SIM.Y, confidence=confidence)
    low, high = (x**2 * 89 * found.df for x in found.rmsea_interval)
    assert low < high and found.rmsea_interval[0] < found.rmsea < found.rmsea_interval[1]
    assert ncx2.cdf(found.chi2, found.df, high) == pytest.approx((1 - confidence) / 2, rel=1e-6)
    assert ncx2.cdf(found.chi2, found.df, low) == pytest.approx((1 + confidence) / 2, rel=1e-6)


def test_names_weights_and_blocks(monkeypatch):
    frame = pd.DataFrame(SIM.Y, columns=NAMES)
    weights = np.random.default_rng(0).random(90) + 0.5
    fit = fitted(frame, sample_weight=weights)
    found = fit.fit_measures(frame[NAMES[::-1]], sample_weight=weights)
    S = pd.DataFrame(np.cov(SIM.Y.T, aweights=weights, bias=True), index=NAMES, columns=NAMES)
    monkeypatch.setattr("mlrops.factor.fit_measures.COLUMNS", 5)
    other = fit.fit_measures(covariance=S.loc[NAMES[::-1], NAMES[::2] + NAMES[1::2]])
    for name in ("chi2", "tli", "cfi", "srmr", "rmsr"):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-8)


def test_chunks_and_single_precision():
    found, chunks = fitted().fit_measures(SIM.Y), [SIM.Y[:40], SIM.Y[40:]]
    assert fitted(chunks).fit_measures(chunks).chi2 == pytest.approx(found.chi2, rel=1e-4)
    single = SIM.Y.astype(np.float32)
    assert fitted(single).fit_measures(single).chi2 == pytest.approx(found.chi2, rel=1e-3)


def test_no_degrees_of_freedom():
    """Three features and a factor: the covariance is fitted, and nothing is tested."""
    Y = np.random.default_rng(0).standard_normal((200, 1)) + np.random.default_rng(
        1).standard_normal((200, 3))
    found = fit_factor_model(Y, 1, tol=0, gtol=1e-9).fit_measures(Y)
    assert found.df == 0 and found.chi2 < 1e-6 and found.cfi == 1 and found.srmr < 1e-6
    assert math.isnan(found.pvalue) and math.isnan(found.rmsea) and math.isnan(found.tli)
    assert "nan" in found.summary()


@pytest.mark.parametrize("ranks, tree", [((1,), Hierarchy.flat(9)),
                                         ((1, 1), Hierarchy.balanced(18, [1, 3]))])
def test_the_test_has_its_size(ranks, tree):
    """χ² has the mean of its distribution, and rejects a true model in 5% of samples."""
    N, times = 100, 200
    Y = simulate_mlr(tree, ranks, N * times, random_state=5).Y.reshape(times, N, tree.n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [fit_factor_model(y, ranks, tree).fit_measures(y) for y in Y]
    df = found[0].df
    statistics = np.array([x.chi2 for x in found])
    assert abs(statistics.mean() - df) < 4 * math.sqrt(2 * df / times)
    assert 0.005 < np.mean([x.pvalue < 0.05 for x in found]) < 0.12


def test_summary_and_immutability():
    found = fitted().fit_measures(SIM.Y)
    text = found.summary()
    assert str(found) == text and max(map(len, text.splitlines())) < 80
    for word in ("RMSEA", "90% interval", "TLI", "CFI", "SRMR", f"{found.chi2:,.4f}"):
        assert word in text
    with pytest.raises(AttributeError):
        found.chi2 = 0


@pytest.mark.parametrize("given, error, words", [
    ({}, TypeError, "got neither"),
    ({"Y": SIM.Y, "covariance": np.eye(18)}, TypeError, "got both"),
    ({"Y": SIM.Y[:80]}, ValueError, "90 samples .* Y has 80"),
    ({"Y": 2 * SIM.Y}, ValueError, "give the data that it was made from"),
    ({"covariance": np.cov(SIM.Y.T)}, ValueError, "log-likelihood"),
    ({"covariance": np.eye(17)}, ValueError, "hierarchy's 18 features"),
    ({"covariance": np.eye(18), "sample_weight": np.ones(90)}, TypeError, "about samples"),
    ({"Y": scipy.sparse.csr_array(SIM.Y)}, TypeError, "needs dense data"),
    ({"Y": np.where(SIM.Y > 3, np.nan, SIM.Y)}, ValueError, "missing cell"),
    ({"Y": SIM.Y, "confidence": 1.0}, ValueError, "confidence must lie in"),
    ({"Y": SIM.Y, "confidence": "90%"}, TypeError, "confidence must be a number")])
def test_refusals(given, error, words):
    with pytest.raises(error, match=words):
        fitted().fit_measures(**given)


@pytest.mark.parametrize("N", [10, 18])
def test_no_saturated_model(N):
    """18 samples about their mean span 17 dimensions, about zero 18."""
    Y = SIM.Y[:N]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit, about_zero = (fitted(Y, 1, None, center=center) for center in (True, False))
    with pytest.raises(ValueError, match=f"does not exist: {N} samples, less one for the mean"):
        fit.fit_measures(Y)
    if N == 18:
        assert about_zero.fit_measures(Y).chi2 > 0


def test_what_has_no_test():
    with pytest.raises(ValueError, match="prior of strength 2"):
        fitted(prior=2.0).fit_measures(SIM.Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        Y = np.c_[SIM.Y, SIM.Y[:, 0] + SIM.Y[:, 1]]
        fit = fit_factor_model(Y, 1)
        narrow = fit_factor_model(SIM.Y[:19], 17, max_iter=3)
    with pytest.raises(ValueError, match="their correlations are singular"):
        fit.fit_measures(Y)
    with pytest.raises(ValueError, match="Bartlett's correction takes more than all"):
        narrow.fit_measures(SIM.Y[:19])
    one = fit_factor_model(SIM.Y[:, :1], 0)
    with pytest.raises(ValueError, match="2 features or more"):
        one.fit_measures(SIM.Y[:, :1])
