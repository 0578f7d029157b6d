"""Predictions, errors on new data and factor scores of systems, against dense formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from test_sur_tests import CASES, OPTIONS, everything, grunfeld, known
from test_sur_variants import TREE, draw, with_gaps

from mlrops import Diagonal, als_gls, fit_factor_model
from mlrops.regression.sur.als_gls import fit_system
from mlrops.regression.sur.data import SystemNames

pytestmark = pytest.mark.filterwarnings("ignore:.*Heywood")


def fits(data, sigma):
    return known(data, sigma), fit_system(data, (1, 1, 0), TREE, OPTIONS)


def blocks(fit):
    V, at = fit.cov_params(), np.cumsum([0, *fit.data.p])
    return [V[a:b, a:b] for a, b in zip(at[:-1], at[1:], strict=True)]


# ---------------------------------------------------------------- means and intervals


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES)
def test_predictions_by_dense_algebra(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    rng = np.random.default_rng(2)
    new = [rng.standard_normal((7, p)) for p in data.p]
    for fit in fits(data, sigma):
        found = fit.get_prediction(new)
        np.testing.assert_allclose(found.predicted_mean, fit.predict(new), rtol=1e-12, atol=1e-12)
        var = np.stack([np.diag(X @ V @ X.T) for X, V in zip(new, blocks(fit), strict=True)], 1)
        np.testing.assert_allclose(found.se_mean, np.sqrt(var), rtol=1e-7, atol=1e-12)
        error = np.diag(fit.covariance.toarray())
        if not fit.covariance_is_known:
            error = error * data.nobs / (data.nobs - data.p)
        np.testing.assert_allclose(found.se_obs, np.sqrt(var + error), rtol=1e-8)
        for obs, sd in ((False, np.sqrt(var)), (True, np.sqrt(var + error))):
            ends = found.conf_int(obs, alpha=0.1)
            half = scipy.stats.t.ppf(0.95, fit.df_resid) * sd  # normal where those are infinite
            np.testing.assert_allclose(ends[..., 0], found.predicted_mean - half, rtol=1e-7)
            np.testing.assert_allclose(ends[..., 1], found.predicted_mean + half, rtol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_the_fit_have_their_weights_and_gaps(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    fit = known(data, sigma)
    found, seen = fit.get_prediction(), np.ones(data.Y.shape, bool)
    seen = seen if data.observed is None else data.observed
    for x in (found.predicted_mean, found.se_mean, found.se_obs):
        np.testing.assert_array_equal(np.isnan(x), ~seen)
    np.testing.assert_allclose(found.predicted_mean, fit.fittedvalues, rtol=1e-12, atol=1e-12)
    weights = np.ones(data.Y.shape) if data.weights is None else data.weights
    error = np.square(found.se_obs) - np.square(found.se_mean)
    np.testing.assert_allclose(error[seen], (sigma.diagonal() / weights)[seen], rtol=1e-10)


def test_one_equation_is_that_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    Xs, Y = grunfeld(1)
    fit = als_gls(Xs, Y, 0)
    theirs = sm.OLS(Y[:, 0], Xs[0]).fit()
    new = Xs[0][:4] * 1.1
    found, expected = fit.get_prediction([new]), theirs.get_prediction(new).summary_frame(0.1)
    table = found.summary_frame(0.1)[0]
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table, expected, rtol=1e-5)  # of a maximum by iteration
    assert fit.rsquared[0] == pytest.approx(theirs.rsquared)
    assert fit.rsquared_adj[0] == pytest.approx(theirs.rsquared_adj)
    assert fit.llf == fit.nobs * fit.loglik == pytest.approx(theirs.llf)


def test_names():
    pd = pytest.importorskip("pandas")
    Xs, Y = grunfeld(2)
    years = pd.Index(range(1935, 1955), name="year")
    frames = [pd.DataFrame(X, columns=["const", "value", "capital"], index=years) for X in Xs]
    fit = als_gls(frames, pd.DataFrame(Y, columns=["GM", "US"], index=years), 1)
    plain = als_gls(Xs, Y, 1).get_prediction()
    found = fit.get_prediction()
    for name in ("predicted_mean", "se_mean", "se_obs"):
        frame = getattr(found, name)
        assert list(frame.columns) == ["GM", "US"] and frame.index.equals(years)
        np.testing.assert_allclose(frame, getattr(plain, name), rtol=1e-6)
    low, high = np.moveaxis(plain.conf_int(obs=True), 2, 0)
    ends = found.conf_int(obs=True)
    np.testing.assert_allclose(ends["US"]["lower"], low[:, 1], rtol=1e-6)
    np.testing.assert_allclose(ends["GM", "upper"], high[:, 0], rtol=1e-6)
    frame = found.summary_frame()
    assert frame.shape == (20, 12) and frame.loc[1940, ("US", "obs_ci_lower")] == (
        pytest.approx(low[5, 1], rel=1e-6))
    later = fit.get_prediction([frame.loc[1950:] for frame in frames]).predicted_mean
    np.testing.assert_allclose(later, found.predicted_mean.loc[1950:])
    assert later.index.equals(years[15:])
    assert list(plain.summary_frame().columns.levels[0]) == [0, 1]
    assert repr(found) == "<SystemPrediction: 20 rows, 2 equations>"


@pytest.mark.slow
def test_intervals_cover_in_small_samples():
    """20 rows, 5 equations with a common factor: prediction intervals for new rows."""
    rng, hits, mean_hits = np.random.default_rng(0), [], []
    for _ in range(60):
        Xs = [np.column_stack([np.ones(30), rng.standard_normal((30, 2))]) for _ in range(5)]
        mean = np.stack([X.sum(axis=1) for X in Xs], axis=1)
        Y = mean + rng.standard_normal((30, 1)) + rng.standard_normal((30, 5))
        fit = als_gls([X[:20] for X in Xs], Y[:20], 1, tol=1e-6, gtol=1e-3)
        found = fit.get_prediction([X[20:] for X in Xs])
        for obs, truth, out in ((True, Y, hits), (False, mean, mean_hits)):
            low, high = np.moveaxis(found.conf_int(obs), 2, 0)
            out.append((low < truth[20:]) & (truth[20:] < high))
    assert 0.935 < np.mean(hits) < 0.97
    assert 0.92 < np.mean(mean_hits) < 0.98


def test_equations_without_regressors_and_single_precision():
    rng = np.random.default_rng(1)
    Xs = [rng.standard_normal((40, p)).astype("f") for p in (0, 2, 1)]
    Y = rng.standard_normal((40, 3)).astype("f") + rng.standard_normal((40, 1)).astype("f")
    fit = als_gls(Xs, Y, 1)
    found = fit.get_prediction()
    assert not found.predicted_mean[:, 0].any() and not found.se_mean[:, 0].any()
    double = als_gls([X.astype(float) for X in Xs], Y.astype(float), 1).get_prediction()
    np.testing.assert_allclose(found.se_obs, double.se_obs, rtol=1e-3)
    np.testing.assert_allclose(found.se_mean, double.se_mean, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_bad_levels(alpha):
    found = known(*draw()).get_prediction()
    for method in (found.conf_int, found.summary_frame):
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
            method(alpha=alpha)


# ---------------------------------------------------------------- new data


def test_mean_squared_error():
    data, sigma = draw()
    fit = known(data, sigma)
    Y = data.Y + 1
    errors = np.square(Y - fit.predict(data.Xs))
    assert fit.mean_squared_error(data.Xs, Y) == pytest.approx(errors.mean())
    np.testing.assert_allclose(fit.mean_squared_error(data.Xs, Y, by_equation=True),
                               errors.mean(axis=0))
    Y[::3, 1] = np.nan
    Y[:, 4] = np.nan
    seen = np.where(np.isnan(Y), np.nan, errors)
    by_equation = [np.nan if j == 4 else np.nanmean(seen[:, j]) for j in range(6)]
    np.testing.assert_allclose(fit.mean_squared_error(data.Xs, Y, True), by_equation)
    assert fit.mean_squared_error(data.Xs, Y) == pytest.approx(np.nanmean(by_equation))
    assert math.isnan(fit.mean_squared_error(data.Xs, np.full(Y.shape, np.nan)))
    with pytest.raises(ValueError, match=r"Y must have shape \(60, 6\)"):
        fit.mean_squared_error(data.Xs, Y[:-1])
    Y[3, 2] = np.inf
    with pytest.raises(ValueError, match="Y must not be infinite, got inf in row 3 of equation 2"):
        fit.mean_squared_error(data.Xs, Y)
    np.testing.assert_allclose(fit.mean_squared_error(data.Xs, data.Y, True), fit.mse)


def test_likelihood_of_rows_with_gaps():
    data, sigma = draw()
    fit, S = known(data, sigma), sigma.toarray()
    Y = np.where(np.random.default_rng(3).random((60, 6)) < 0.3, np.nan, data.Y)
    Y[7] = np.nan
    E = Y - fit.predict(data.Xs)
    expected = np.zeros(60)
    for t in range(60):
        o = ~np.isnan(Y[t])
        if o.any():
            normal = scipy.stats.multivariate_normal(np.zeros(o.sum()), S[np.ix_(o, o)])
            expected[t] = normal.logpdf(E[t, o])
    np.testing.assert_allclose(fit.score_samples(data.Xs, Y), expected, rtol=1e-10)
    counted_in = ~np.isnan(Y).all(axis=1)
    assert fit.score(data.Xs, Y) == pytest.approx(expected[counted_in].mean())
    assert fit.score(data.Xs, data.Y) == pytest.approx(fit.loglik)
    plain = als_gls(data.Xs, data.Y, covariance=Diagonal(np.ones(6)))
    with pytest.raises(ValueError, match="blocks can be inverted one by one: an MLR"):
        plain.score(data.Xs, Y)


def test_mean_squared_error_of_names():
    pytest.importorskip("pandas")
    data, sigma = draw()
    names = SystemNames(tuple("abcdef"), tuple(tuple(f"x{i}" for i in range(p)) for p in data.p))
    fit = known(replace(data, names=names), sigma)
    errors = fit.mean_squared_error(data.Xs, data.Y, by_equation=True)
    assert list(errors.index) == list("abcdef")
    assert errors["c"] == pytest.approx(fit.mse["c"]) and fit.rsquared["a"] < 1


# ---------------------------------------------------------------- factor scores


def spread_out(covariance):
    """All loadings of the tree, (K, s), and the number of factors of each level."""
    h, columns = covariance.hierarchy, []
    for level, F in enumerate(covariance.factors):
        for g in range(h.group_counts[level]):
            member = np.zeros(h.n)
            member[h.features(level, g)] = 1
            columns.append(F * member[:, None])
    sizes = [p * r for p, r in zip(h.group_counts, covariance.ranks, strict=True)]
    return np.concatenate(columns, axis=1), sizes


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES)
def test_scores_by_dense_algebra(case):
    data, sigma = draw()
    data = everything(data, sigma)[case]
    root = np.ones(data.Y.shape) if data.weights is None else np.sqrt(data.weights)
    for fit in fits(data, sigma):
        F, sizes = spread_out(fit.covariance)
        S, E = fit.covariance.toarray(), fit.errors * root
        expected = np.zeros((60, F.shape[1]))
        for t in range(60):
            o = ~np.isnan(E[t])
            if o.any():
                expected[t] = F[o].T @ np.linalg.solve(S[np.ix_(o, o)], E[t, o])
        parts = np.split(expected, np.cumsum(sizes)[:-1], axis=1)
        scores = fit.factor_scores()
        h, ranks = fit.covariance.hierarchy, fit.covariance.ranks
        for level, (found, part) in enumerate(zip(scores, parts, strict=True)):
            assert found.shape == (60, h.group_counts[level], ranks[level])
            np.testing.assert_allclose(found.reshape(60, -1), part, atol=1e-7)
            np.testing.assert_allclose(found, fit.factor_scores(level), rtol=1e-12, atol=1e-12)


def test_bartlett_scores_are_those_of_the_factor_model():
    data, _ = draw()
    fit = fit_system(data, 1, None, OPTIONS)
    model = fit_factor_model(fit.errors, 1, center=False)
    twin = replace(model, covariance=fit.covariance, mean=np.zeros(6))
    np.testing.assert_allclose(fit.factor_scores(0, "bartlett"),
                               twin.scores(fit.errors, 0, method="bartlett"))
    F, D = fit.covariance.F, fit.covariance.D
    np.testing.assert_allclose(
        fit.factor_scores(0, "bartlett")[:, 0],
        fit.errors @ (F / D[:, None]) / (F[:, 0] @ (F[:, 0] / D)), rtol=1e-9)


def test_refusals_of_scores():
    data, sigma = draw()
    fit = known(data, sigma)
    with pytest.raises(ValueError, match="method must be 'posterior' or 'bartlett', got 'mean'"):
        fit.factor_scores(method="mean")
    with pytest.raises(IndexError):
        fit.factor_scores(3)
    with pytest.raises(TypeError, match="only an MLR has factors"):
        als_gls(data.Xs, data.Y, covariance=Diagonal(np.ones(6))).factor_scores()
    observed = np.ones((60, 6), bool)
    observed[0, 0] = False
    with pytest.raises(ValueError, match="needs complete rows"):
        known(with_gaps(data, observed), sigma).factor_scores(method="bartlett")


def test_columns_in_another_order_are_put_in_that_of_the_fit():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frames = [pd.DataFrame(rng.standard_normal((30, 2)), columns=["a", "b"]) for _ in range(3)]
    Y = pd.DataFrame(rng.standard_normal((30, 3)), columns=["u", "v", "w"])
    fit = als_gls(frames, Y, 0)
    assert np.isclose(fit.score(frames, Y), fit.loglik)
    turned = [X[["b", "a"]] for X in frames]
    pd.testing.assert_frame_equal(fit.predict(turned), fit.predict(frames))
    assert fit.score(frames, Y[["w", "v", "u"]]) == pytest.approx(fit.score(frames, Y))
