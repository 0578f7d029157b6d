"""Measures of fit and tests of hypotheses of systems, against dense formulas and linearmodels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from test_sur_variants import SHARP, TREE, draw, stacked, variants

from mlrops import MLR, Dense, Diagonal, Hierarchy, als_gls
from mlrops.datasets import load_grunfeld
from mlrops.factor.criteria import degrees_of_freedom
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.bootstrap import drawn_data
from mlrops.regression.sur.data import SURData
from mlrops.regression.sur.hypotheses import HypothesisTest
from mlrops.regression.sur.small_sample import wald_df

OPTIONS = SUROptions(**SHARP)


def known(data, sigma, **options):
    return fit_system(data, None, None, SUROptions(**SHARP | options), covariance=sigma)


def everything(data, sigma):
    """The data as they are, and with weights, constraints, gaps and all of these."""
    return {"plain": data} | variants(data)


def grunfeld(firms=10):
    panel = load_grunfeld()
    Xs = [np.stack([np.ones(20), panel.value[:, j], panel.capital[:, j]], 1) for j in range(firms)]
    return Xs, panel.invest[:, :firms]


CASES = "plain", "weights", "limits", "gaps", "all"


# ---------------------------------------------------------------- measures of fit


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES)
def test_mcelroy_by_dense_algebra(case):
    data, sigma = draw()
    data = replace(data, Xs=[X if j != 2 else X + 1 for j, X in enumerate(data.Xs)])
    data.Xs[4] = data.Xs[4][:, 1:]  # no constant
    data = everything(data, sigma)[case] if case == "plain" else variants(data)[case]
    fit = known(data, sigma)
    X, y, V = stacked(data, sigma.toarray())
    W = np.linalg.inv(V)
    e = y - X @ np.concatenate(fit.coefficients)
    means = stacked(replace(data, Xs=[np.ones((data.N, int(j != 4))) for j in range(6)]),
                    sigma.toarray())[0]
    out = y - means @ np.linalg.solve(means.T @ W @ means, means.T @ W @ y)
    expected = 1 - (e @ W @ e) / (out @ W @ out)
    assert fit.mcelroy_rsquared == pytest.approx(expected, rel=1e-10) and 0.05 < expected < 1


@pytest.mark.parametrize("case", CASES)
def test_rsquared_and_mse_of_each_equation(case):
    data, sigma = draw()
    data.Xs[4] = data.Xs[4][:, 1:]
    data = everything(data, sigma)[case]
    fit = known(data, sigma)
    weights = np.ones(data.Y.shape) if data.weights is None else data.weights
    for j in range(6):
        at = slice(None) if data.observed is None else data.observed[:, j]
        w, y = weights[at, j], data.Y[at, j]
        e = y - data.Xs[j][at] @ fit.coefficients[j]
        centre = 0 if j == 4 else np.average(y, weights=w)
        expected = 1 - w @ e**2 / (w @ (y - centre) ** 2)
        assert fit.rsquared[j] == pytest.approx(expected, rel=1e-11)
        assert fit.mse[j] == pytest.approx(w @ e**2 / y.size, rel=1e-11)


def test_a_constant_may_hide_in_dummies():
    rng = np.random.default_rng(0)
    group = np.eye(3)[np.arange(30) % 3]
    Y = rng.standard_normal((30, 2)) + 50
    fit = als_gls([group, group[:, :2]], Y, covariance=Diagonal(np.ones(2)))
    e = fit.resid
    assert fit.rsquared[0] == pytest.approx(1 - e[:, 0] @ e[:, 0] / (30 * Y[:, 0].var()))
    assert fit.rsquared[1] == pytest.approx(1 - e[:, 1] @ e[:, 1] / (Y[:, 1] @ Y[:, 1]))


def test_no_variation_and_no_regressors():
    rng = np.random.default_rng(1)
    Y = rng.standard_normal((20, 3))
    Y[:, 0] = 0.1
    Xs = [np.ones((20, 1)), np.empty((20, 0)), rng.standard_normal((20, 2))]
    fit = als_gls(Xs, Y, covariance=Diagonal(np.ones(3)))
    assert math.isnan(fit.rsquared[0]) and fit.rsquared[1] == 0 < fit.rsquared[2]
    only = als_gls([np.empty((20, 0))] * 2, Y[:, 1:], covariance=Diagonal(np.ones(2)))
    assert abs(only.mcelroy_rsquared) < 1e-14 and only.degrees_of_freedom == 0


@pytest.mark.filterwarnings("ignore:the normal equations")
def test_single_precision_and_units():
    data, sigma = draw()
    exact = known(data, sigma)
    single = known(SURData([X.astype("f") for X in data.Xs], data.Y.astype("f")), sigma)
    np.testing.assert_allclose(single.rsquared, exact.rsquared, rtol=2e-5, atol=1e-6)
    assert single.mcelroy_rsquared == pytest.approx(exact.mcelroy_rsquared, rel=2e-5)
    scale = np.logspace(-6, 6, 6)
    h = sigma.hierarchy
    other = MLR(h, [F * scale[:, None] for F in sigma.factors], sigma.D * scale**2)
    moved = known(SURData([X * 1e5 for X in data.Xs], data.Y * scale), other)
    np.testing.assert_allclose(moved.rsquared, exact.rsquared, rtol=1e-9, atol=1e-14)
    assert moved.mcelroy_rsquared == pytest.approx(exact.mcelroy_rsquared, rel=1e-9)
    R = np.eye(data.p.sum())[[0, 4, 7]]
    assert moved.wald_test(R).statistic == pytest.approx(exact.wald_test(R).statistic, rel=1e-8)


def test_criteria():
    data, sigma = draw()
    fit = fit_system(data, (1, 1, 0), TREE, OPTIONS)
    df = 15 + degrees_of_freedom(TREE, (1, 1, 0), mean=False)
    assert fit.degrees_of_freedom == df
    assert fit.aic == pytest.approx(-120 * fit.loglik + 2 * df)
    assert fit.bic == pytest.approx(-120 * fit.loglik + math.log(60) * df)
    assert known(data, sigma).degrees_of_freedom == 15
    R = np.zeros((3, 15))
    R[0, 0], R[1, :2], R[2, :2] = 1, [1, 1], [3, 2]  # two that are independent
    assert known(replace(data, constraints=(R, np.zeros(3))), sigma).degrees_of_freedom == 13


# ---------------------------------------------------------------- restrictions on coefficients


@pytest.mark.quick(2)
@pytest.mark.filterwarnings("ignore:.*Heywood")
@pytest.mark.parametrize("case", CASES)
def test_wald_by_dense_algebra(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    rng = np.random.default_rng(5)
    R, q = rng.standard_normal((4, data.p.sum())), rng.standard_normal(4)
    for fit in (known(data, sigma), fit_system(data, (1, 1, 0), TREE, OPTIONS)):
        V = fit.cov_params()
        gap = R @ np.concatenate(fit.coefficients) - q
        W = gap @ np.linalg.solve(R @ V @ R.T, gap)
        test = fit.wald_test(R, q, use_f=False)
        assert test.statistic == pytest.approx(W, rel=1e-6)
        assert (test.df, test.df_denom) == (4, None)
        assert test.pvalue == pytest.approx(scipy.stats.chi2.sf(test.statistic, 4), rel=1e-9)
        f = fit.wald_test(R, q, use_f=True)
        assert f.statistic == pytest.approx(test.statistic / 4, rel=1e-12)
        if fit.covariance_is_known:
            assert fit.wald_test(R, q) == test and f.df_denom == math.inf
            assert f.pvalue == pytest.approx(test.pvalue)
        else:
            assert fit.wald_test(R, q) == f
            unit = R / np.sqrt(np.diag(R @ V @ R.T))[:, None]
            df = wald_df(unit, V, np.repeat(np.arange(6), data.p), fit.df_resid)
            assert f.df_denom == pytest.approx(df, rel=1e-6)
            assert f.pvalue == pytest.approx(scipy.stats.f.sf(f.statistic, 4, f.df_denom), rel=1e-9)


def test_wald_of_one_coefficient_is_its_t_value():
    data, sigma = draw(N=30)
    for fit in (fit_system(data, (1, 1, 0), TREE, OPTIONS), known(data, sigma)):
        for j, i in ((0, 1), (5, 3)):
            test = fit.wald_test({(j, i): 2.0})
            assert test.statistic == pytest.approx(fit.tvalues[j][i] ** 2, rel=1e-8)
            assert test.pvalue == pytest.approx(fit.pvalues[j][i], rel=1e-7)


def test_forms_of_a_restriction():
    pd = pytest.importorskip("pandas")
    Xs, Y = grunfeld(3)
    names = ["GM", "US Steel", "GE"]
    frames = [pd.DataFrame(X, columns=["const", "value", "capital"]) for X in Xs]
    fit = als_gls(frames, pd.DataFrame(Y, columns=names), covariance=Diagonal(np.ones(3)))
    R = np.zeros((2, 9))
    R[0, [1, 4]], R[1, 8] = [1, -1], 2
    expected = fit.wald_test(R, [0, 0.3])
    columns = pd.MultiIndex.from_tuples([("US Steel", "value"), ("GE", "capital"), ("GM", "value")])
    frame = pd.DataFrame([[-1, 0, 1], [0, 2, 0]], columns=columns)
    dicts = [{("GM", "value"): 1, ("US Steel", "value"): -1}, ({("GE", "capital"): 2}, 0.3)]
    for test in (fit.wald_test(frame, [0, 0.3]), fit.wald_test(dicts)):
        assert test.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert fit.wald_test(R[1], 0.3).statistic == pytest.approx(fit.wald_test(dicts[1:]).statistic)
    assert fit.wald_test(dicts[0]).null == "GM_value - US Steel_value = 0"
    assert fit.wald_test(R).null == "2 linear restrictions"
    plain = als_gls(Xs, Y, covariance=Diagonal(np.ones(3)))
    assert plain.wald_test([{(0, 1): 1, (1, 1): -1}, ({(2, 2): 2}, 0.3)]).statistic == (
        pytest.approx(expected.statistic, rel=1e-12))
    same = fit.homogeneity_test("value")
    R = np.zeros((2, 9))
    R[:, 1], R[0, 4], R[1, 7] = 1, -1, -1
    assert same.statistic == pytest.approx(fit.wald_test(R).statistic, rel=1e-12) and same.df == 2
    assert same.null == "one coefficient of value in 3 equations"
    assert plain.homogeneity_test(1).null == "one coefficient of regressor 1 in 3 equations"
    assert plain.homogeneity_test(1).statistic == pytest.approx(same.statistic, rel=1e-12)
    with pytest.raises(ValueError, match="'rate' must stand in at least two equations.* in 0"):
        fit.homogeneity_test("rate")


def test_redundant_and_contradictory_restrictions():
    data, sigma = draw()
    fit = known(data, sigma)
    R = np.zeros((4, 15))
    R[0, 0], R[1, 3], R[2, [0, 3]], R[3, 0] = 1, 1e7, [1, -1e-3], 1e-9
    once = fit.wald_test(R[:2], [0.1, 2.0])
    q = np.array([0.1, 2.0, 0.1 - 2e-10, 1e-10])
    again = fit.wald_test(R, q)
    assert again.df == 2 and again.statistic == pytest.approx(once.statistic, rel=1e-7)
    with pytest.raises(ValueError, match="contradict one another"):
        fit.wald_test(R, q * [1, 1, 1, 1.01])
    with pytest.raises(ValueError, match="none of zeros alone, got row 1"):
        fit.wald_test(R * [[1], [0], [1], [1]])
    with pytest.raises(ValueError, match="column for each of the 15 coefficients"):
        fit.wald_test(np.ones((1, 14)))


def test_restrictions_that_constraints_imply():
    data, sigma = draw()
    C = np.zeros((2, 15))
    C[0, [0, 3]], C[1, 7] = [1, -1], 1
    fit = known(replace(data, constraints=(C, np.array([0.5, 0.0]))), sigma)
    R = np.zeros((3, 15))
    R[0, 0], R[1, 3], R[2, 7] = 1, 1, 4
    test, one = fit.wald_test(R, [0.7, 0.2, 0.0]), fit.wald_test(R[:1], 0.7)
    assert test.df == 1 and test.statistic == pytest.approx(one.statistic, rel=1e-8)
    with pytest.raises(ValueError, match="row 0, 1 of R β = q cannot hold together"):
        fit.wald_test(R[:2], [0.7, 0.3])
    with pytest.raises(ValueError, match="nothing is left to test"):
        fit.wald_test(C, [0.5, 0.0])


def test_more_restrictions_than_clusters():
    data, sigma = draw()
    fit = known(data, sigma).with_cov("clustered", clusters=np.arange(60) // 20)
    with pytest.raises(ValueError, match="clustered covariance of the coefficients is singular"):
        fit.wald_test(np.eye(15)[:5])
    assert fit.wald_test(np.eye(15)[:2]).df == 2


def test_wald_like_linearmodels():
    system = pytest.importorskip("linearmodels.system")
    Xs, Y = grunfeld()
    equations = {str(j): {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)}
    theirs = system.SUR(equations).fit(method="gls", cov_type="unadjusted", iterate=False)
    sigma = np.asarray(theirs.sigma)
    fit = als_gls(Xs, Y, covariance=Dense((sigma + sigma.T) / 2))
    R = np.zeros((9, 30))
    R[:, 1], R[np.arange(9), np.arange(4, 30, 3)] = 1, -1
    hypotheses = pytest.importorskip("linearmodels.shared.hypotheses")
    expected = hypotheses.quadratic_form_test(theirs.params, theirs.cov, R, np.zeros(9))
    found = fit.homogeneity_test(1)
    assert found.statistic == pytest.approx(expected.stat, rel=1e-6)
    assert found.pvalue == pytest.approx(expected.pval, rel=1e-4)
    np.testing.assert_allclose(fit.rsquared, [theirs.equations[str(j)].rsquared for j in range(10)],
                               rtol=1e-8)


def test_mcelroy_like_linearmodels():
    """Theirs takes Σ from the residuals of the fit: the same where that was iterated."""
    system = pytest.importorskip("linearmodels.system")
    Xs, Y = grunfeld(4)
    equations = {str(j): {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)}
    theirs = system.SUR(equations).fit(method="gls", iterate=True, iter_limit=1000, tol=1e-12)
    sigma = np.asarray(theirs.sigma)
    fit = als_gls(Xs, Y, covariance=Dense((sigma + sigma.T) / 2))
    assert fit.mcelroy_rsquared == pytest.approx(theirs.system_rsquared.mcelroy, rel=1e-8)


# ---------------------------------------------------------------- a diagonal covariance


def least_squares(data, j):
    """Weighted residuals (N,) of equation j, zeros where a cell is missing."""
    root = np.ones(data.N) if data.weights is None else np.sqrt(data.weights[:, j])
    root = root if data.observed is None else root * data.observed[:, j]
    X, y = data.Xs[j] * root[:, None], data.Y[:, j] * root
    return y - X @ np.linalg.lstsq(X, y, rcond=None)[0]


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES)
def test_breusch_pagan_by_pairs(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    fit = known(data, sigma)
    E = np.stack([least_squares(data, j) for j in range(6)])
    seen = np.ones((6, 60), bool) if data.observed is None else data.observed.T
    expected = 0.0
    for i in range(6):
        for j in range(i):
            both = seen[i] & seen[j]
            r = E[i] @ E[j] / np.linalg.norm(E[i][both]) / np.linalg.norm(E[j][both])
            expected += both.sum() * r**2
    test = fit.breusch_pagan()
    assert test.statistic == pytest.approx(expected, rel=1e-10) and test.df == 15
    assert test.pvalue == pytest.approx(scipy.stats.chi2.sf(expected, 15), rel=1e-9)
    ridge = known(data, sigma, beta_ridge=30.0)
    assert ridge.breusch_pagan().statistic == pytest.approx(expected, rel=1e-10)


def test_breusch_pagan_of_more_equations_than_rows():
    rng = np.random.default_rng(3)
    Xs = [rng.standard_normal((12, 1 + j % 2)) for j in range(40)]
    fit = als_gls(Xs, rng.standard_normal((12, 40)), covariance=Diagonal(np.ones(40)))
    E = np.stack([least_squares(fit.data, j) for j in range(40)])
    Z = E / np.linalg.norm(E, axis=1)[:, None]
    r = np.tril(Z @ Z.T, -1)
    assert fit.breusch_pagan().statistic == pytest.approx(12 * np.sum(r**2), rel=1e-12)
    assert fit.breusch_pagan().df == 780


def test_breusch_pagan_leaves_out_pairs_that_share_no_row(monkeypatch):
    data, _ = draw()
    observed = np.ones((60, 6), bool)
    observed[:30, 0] = observed[30:, 1] = False
    Xs = [np.where(observed[:, j, None], X, 0) for j, X in enumerate(data.Xs)]
    data = SURData(Xs, np.where(observed, data.Y, 0), observed)
    fit = known(data, MLR(Hierarchy.flat(6), [np.zeros((6, 0))], np.ones(6)))
    test = fit.breusch_pagan()
    assert test.df == 14
    monkeypatch.setattr("mlrops.regression.sur.hypotheses.PAIRS", 12)  # two equations at a time
    blocked = fit.breusch_pagan()
    assert blocked.df == 14 and blocked.statistic == pytest.approx(test.statistic, rel=1e-12)


def test_diagonal_tests_like_linearmodels():
    """One X for all: their residuals are those of least squares, and one factor of three is Σ."""
    system = pytest.importorskip("linearmodels.system")
    rng = np.random.default_rng(7)
    X = np.column_stack([np.ones(50), rng.standard_normal((50, 2))])
    Y = rng.standard_normal((50, 3)) + 1.2 * rng.standard_normal((50, 1))
    theirs = system.SUR.multivariate_ls(Y, X).fit()
    fit = als_gls([X] * 3, Y, 1, **SHARP)
    for ours, other in ((fit.breusch_pagan(), theirs.breusch_pagan()),
                        (fit.likelihood_ratio(), theirs.likelihood_ratio())):
        assert ours.statistic == pytest.approx(other.stat, rel=1e-7)
        assert ours.df == other.df and not ours.is_bound
        assert ours.pvalue == pytest.approx(other.pval, rel=1e-5)


@pytest.mark.quick(2)
@pytest.mark.filterwarnings("ignore:.*Heywood")
@pytest.mark.parametrize("case", CASES)
def test_likelihood_ratio_against_the_diagonal_maximum(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    fit = fit_system(data, (1, 1, 0), TREE, OPTIONS)
    test = fit.likelihood_ratio()
    assert test.df == 15 and test.pvalue == scipy.stats.chi2.sf(test.statistic, 15)
    if data.constraints is None:
        nobs = data.nobs
        variances = np.array([np.sum(least_squares(data, j) ** 2) for j in range(6)]) / nobs
        weights = np.ones(data.Y.shape) if data.weights is None else data.weights
        seen = slice(None) if data.observed is None else data.observed
        null = -0.5 * nobs @ (np.log(2 * np.pi * variances) + 1) + 0.5 * np.log(weights[seen]).sum()
        assert test.statistic == pytest.approx(2 * (60 * fit.loglik - null), rel=1e-7)
    else:
        null = fit_system(data, 0, None, OPTIONS)
        assert test.statistic == pytest.approx(120 * (fit.loglik - null.loglik), rel=1e-7)


@pytest.mark.filterwarnings("ignore:.*Heywood")
def test_pairs_that_factors_correlate_are_counted():
    data, _ = draw()
    fit = fit_system(data, (0, 1, 0), TREE, OPTIONS)  # groups of two and four equations
    test = fit.likelihood_ratio()
    assert test.df == 1 + 6 and test.is_bound and f"p <= {test.pvalue:.4f};" in repr(test)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Heywood")
def test_simulated_likelihood_ratio():
    data, _ = draw()
    weights, observed = np.full(data.Y.shape, 1.0), np.ones(data.Y.shape, bool)
    observed[:5, 2] = False
    data = replace(data, observed=observed, weights=weights)
    strong = fit_system(data, (1, 1, 0), TREE, SUROptions())
    test = strong.likelihood_ratio(9, random_state=0)
    assert test.pvalue == 0.1 and test.n_simulations == 9 and not test.is_bound
    assert "9 simulated" in repr(test)
    # Its own null distribution: p-values of systems without correlation are uniform.
    rng, pvalues = np.random.default_rng(1), []
    for _ in range(12):
        null = als_gls(data.Xs[:4], rng.standard_normal((60, 4)), 1, variance_floor=0.05)
        pvalues.append(null.likelihood_ratio(9, rng).pvalue)
    assert scipy.stats.kstest(np.array(pvalues) - 0.05, "uniform").pvalue > 0.01


def test_data_drawn_under_the_null_hypothesis():
    data = variants(draw(N=4000)[0])["all"]
    null = fit_system(data, 0, None, SUROptions())
    drawn = drawn_data(null, null.covariance, np.random.default_rng(0))
    e = np.where(data.observed, drawn.Y - null.fitted, np.nan) * np.sqrt(data.weights)
    for part in (data.weights > 1, data.weights < 1):
        found = np.nanmean(np.where(part, e, np.nan) ** 2, axis=0)
        np.testing.assert_allclose(found, null.covariance.D, rtol=0.15)
    assert not drawn.Y[~data.observed].any()


def test_refusals_of_the_diagonal_tests():
    data, sigma = draw()
    with pytest.raises(ValueError, match="this one was given; see breusch_pagan"):
        known(data, sigma).likelihood_ratio()
    with pytest.raises(ValueError, match="diagonal: ranks 0"):
        fit_system(data, 0, None, OPTIONS).likelihood_ratio()
    with pytest.raises(ValueError, match="without ridges"):
        als_gls(data.Xs, data.Y, 1, beta_ridge=1.0).likelihood_ratio()
    one = als_gls(data.Xs[:1], data.Y[:, :1], 0)
    for test in (one.breusch_pagan, one.likelihood_ratio):
        with pytest.raises(ValueError, match="two equations or more"):
            test()
    assert one.mcelroy_rsquared == pytest.approx(one.rsquared[0])


def test_repr_of_a_test():
    assert repr(HypothesisTest(1.5, 0.25, 3, 20.123, null="all is well")) == (
        "<Wald: F(3, 20.12) = 1.5, p = 0.2500; null: all is well>")
