"""`SUR`: against linearmodels and dense formulas, with names, weights, constraints and gaps."""

import numpy as np
import pandas as pd
import pytest
from linearmodels.system import SUR as Reference

from mlrops import SUR, ConvergenceWarning, als_gls
from mlrops.datasets import load_french, load_grunfeld, simulate_sur

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


@pytest.fixture(scope="module")
def grunfeld():
    panel = load_grunfeld().to_frame()
    panel["const"] = 1.0
    return {firm: {"dependent": rows["invest"], "exog": rows[["value", "capital", "const"]]}
            for firm, rows in panel.set_index("year").groupby("firm")}


def some(equations, K):
    return {name: equations[name] for name in list(equations)[:K]}


def weighted(equations, seed=3):
    rng = np.random.default_rng(seed)
    return {name: {**given, "weights": pd.Series(rng.uniform(0.2, 3, len(given["dependent"])),
                                                 index=given["dependent"].index)}
            for name, given in equations.items()}


def residual_covariance(equations):
    E = SUR(equations).fit(ranks=0).resid
    return E.T @ E / len(E)


def assert_same_params(fit, reference, tol=1e-8):
    ours = pd.Series(fit.params.to_numpy(), index=["_".join(key) for key in fit.params.index])
    assert list(ours.index) == list(reference.params.index)
    scale = np.abs(reference.params) + reference.std_errors
    assert np.abs((ours - reference.params) / scale).max() < tol


def saddle_gls(data, sigma):
    """Coefficients of GLS with constraints, complete cells, in units of the regressors."""
    equation, X = np.repeat(np.arange(data.K), data.p), np.concatenate(data.Xs, axis=1)
    X, size = X / np.linalg.norm(X, axis=0), np.linalg.norm(X, axis=0)
    weight = np.linalg.inv(sigma)
    A, b = X.T @ X * weight[np.ix_(equation, equation)], X.T @ data.Y @ weight
    R, q = data.constraints or (np.zeros((0, len(A))), np.zeros(0))
    R = R / size
    M = np.block([[A, R.T], [R, np.zeros((len(q), len(q)))]])
    scale = 1 / np.sqrt(np.abs(M).max(axis=0))
    right = np.concatenate([b[np.arange(len(A)), equation], q])
    found = scale * np.linalg.solve(M * np.outer(scale, scale), scale * right)
    return found[: len(A)] / size


# ---------------------------------------------------------------- with a covariance


@pytest.mark.parametrize("weights", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("constrained", [False, True], ids=["free", "constrained"])
def test_given_covariance_as_linearmodels(grunfeld, weights, constrained):
    equations = some(grunfeld, 5)
    sigma = residual_covariance(equations)
    if weights:
        equations = weighted(equations)
    model, reference = SUR(equations), Reference(equations, sigma=sigma)
    assert model.param_names == reference.param_names
    if constrained:
        names = list(equations)
        R = pd.DataFrame(0.0, index=["across", "within", "value"], columns=model.param_names)
        R.loc["across", [f"{names[0]}_value", f"{names[3]}_value"]] = 1, -1
        R.loc["within", [f"{names[1]}_value", f"{names[1]}_capital"]] = 1, 2
        R.loc["value", f"{names[2]}_const"] = 1
        q = pd.Series([0.0, 0.4, -3.0], index=R.index)
        model.add_constraints(R, q)
        reference.add_constraints(R, q)
    fit = model.fit(covariance=sigma)
    assert_same_params(fit, reference.fit(method="gls"))
    assert fit.covariance_is_known
    if constrained:
        np.testing.assert_allclose(R @ np.concatenate(fit.coefficients), q, atol=1e-10)


def test_french_portfolios_as_linearmodels():
    french = load_french()
    months = pd.Index(french.dates)
    factors = pd.DataFrame(french.factors, months, list(french.factor_names)).assign(const=1.0)
    returns = pd.DataFrame(french.excess, months, list(french.names))
    wide, narrow = list(factors), [*list(factors)[:2], "const"]
    equations = {name: (returns[name], factors[narrow if j % 3 else wide])
                 for j, name in enumerate(returns)}
    sigma = SUR(equations).fit(ranks=(1, *[0] * (french.hierarchy.n_levels - 1)),
                               hierarchy=french.hierarchy).covariance
    model, reference = SUR(equations), Reference(equations, sigma=sigma.toarray())
    R = pd.DataFrame(0.0, index=range(29), columns=model.param_names)
    for i in range(29):  # all portfolios have one coefficient of the market
        R.loc[i, [f"{returns.columns[i]}_{wide[0]}", f"{returns.columns[29]}_{wide[0]}"]] = 1, -1
    for constrain in (False, True):
        if constrain:
            model.add_constraints(R)
            reference.add_constraints(R)
        fit, theirs = model.fit(covariance=sigma), reference.fit(method="gls")
        # Theirs with constraints is off by 1e-10 to 1e-7, as the processor and the versions are.
        assert_same_params(fit, theirs, 1e-5 if constrain else 1e-8)
        error = fit.params - saddle_gls(model.data, sigma.toarray())
        assert np.abs(error / (np.abs(fit.params) + fit.bse)).max() < 1e-10
        assert fit.converged and fit.n_cg[0] <= 20
    assert model.fit(covariance=sigma).params.xs(wide[0], level=1).std() < 1e-12


def test_weights_have_mean_one(grunfeld):
    equations = weighted(some(grunfeld, 3))
    model = SUR(equations)
    np.testing.assert_allclose(model.data.weights.mean(axis=0), 1, rtol=1e-14)
    huge = {name: {**given, "weights": given["weights"] * 1e306}
            for name, given in equations.items()}
    np.testing.assert_allclose(SUR(huge).data.weights, model.data.weights, rtol=1e-12)
    ones = {name: {**given, "weights": 7 * np.ones(20)} for name, given in equations.items()}
    assert SUR(ones).data.weights is None


def test_weighted_likelihood_is_that_of_the_dense_covariance(grunfeld):
    equations = weighted(some(grunfeld, 3))
    fit = SUR(equations).fit(ranks=1)
    sigma, E, w = fit.covariance.toarray(), fit.resid.to_numpy(), fit.data.weights
    loglik = 0.0
    for e, root in zip(E, np.sqrt(w), strict=True):
        V = sigma / np.outer(root, root)
        quad = e @ np.linalg.solve(V, e)
        loglik -= 0.5 * (3 * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + quad)
    assert fit.loglik == pytest.approx(loglik / 20, rel=1e-9)


def test_shared_regressors_stay_one_array(grunfeld):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.standard_normal((40, 2)), columns=["a", "b"])
    Y = pd.DataFrame(rng.standard_normal((40, 5)), columns=list("vwxyz"))
    model = SUR.multivariate_ls(Y, X)
    assert all(x is model.data.Xs[0] for x in model.data.Xs)
    assert model.equations == tuple("vwxyz") and model.param_names[:3] == ["v_a", "v_b", "w_a"]
    fit = model.fit(ranks=1)
    ols = np.linalg.lstsq(X.to_numpy(), Y.to_numpy(), rcond=None)[0]
    np.testing.assert_allclose(np.stack(fit.coefficients, axis=1), ols, atol=1e-12)
    assert_same_params(fit, Reference.multivariate_ls(Y, X).fit(method="gls"))
    Y.iloc[3] = np.nan
    fewer = SUR.multivariate_ls(Y.astype(np.float32), X)
    assert fewer.dropped == [3] and all(x is fewer.data.Xs[0] for x in fewer.data.Xs)
    assert fewer.data.Xs[0].shape == (39, 2) and fewer.data.system().shared


# ---------------------------------------------------------------- fitted covariances


def test_the_same_as_als_gls_with_names():
    sim = simulate_sur(8, [2, 3, 1, 2, 2, 4, 1, 2], ranks=2, n_samples=100, random_state=0)
    model = SUR({f"e{j}": (y, X) for j, (y, X) in enumerate(zip(sim.Y.T, sim.Xs, strict=True))})
    rules = {"tol": 0.0, "gtol": 1e-8}
    fit, plain = model.fit(2, **rules), als_gls(sim.Xs, sim.Y, 2, **rules)
    assert fit.loglik == pytest.approx(plain.loglik, rel=1e-9)
    assert (np.abs(fit.params - np.concatenate(plain.params)) / fit.bse).max() < 1e-4
    assert list(fit.params["e1"].index) == ["x0", "x1", "x2"]
    assert list(fit.resid.columns) == [f"e{j}" for j in range(8)]
    assert np.isfinite(fit.bse).all() and (fit.bse > 0).all()


def test_names_of_rows_and_groups_are_kept(grunfeld):
    sectors = {"General Motors": "cars", "Chrysler": "cars", "US Steel": "steel",
               "American Steel": "steel", "General Electric": "power", "Westinghouse": "power"}
    equations = {name: grunfeld[name] for name in sectors}
    fit = SUR(equations).fit(ranks=(1, 0), hierarchy=sectors)
    assert fit.covariance.hierarchy.names(1) == ("cars", "power", "steel")
    assert fit.covariance.ranks == (1, 0)
    assert list(fit.resid.index) == list(range(1935, 1955))
    assert list(fit.params.index.names) == ["equation", "regressor"]
    assert list(fit.params["Chrysler"].index) == ["value", "capital", "const"]
    np.testing.assert_allclose(
        fit.resid["Chrysler"],
        equations["Chrysler"]["dependent"] - equations["Chrysler"]["exog"] @ fit.params["Chrysler"])


def test_constraints_hold_in_a_fit_by_maximum_likelihood(grunfeld):
    equations = some(grunfeld, 4)
    a, b = list(equations)[:2]
    model = SUR(equations, constraints={(a, "value"): 1, (b, "value"): -1})
    free = SUR(equations).fit(ranks=1)
    fit = model.fit(ranks=1)
    assert fit.params[a]["value"] == pytest.approx(fit.params[b]["value"], rel=1e-10)
    assert fit.params[a]["value"] != pytest.approx(free.params[a]["value"], rel=1e-3)
    assert fit.loglik < free.loglik
    model.reset_constraints()
    assert model.constraints is None
    assert model.fit(ranks=1).loglik == pytest.approx(free.loglik, rel=1e-8)


def test_one_equation_is_ordinary_regression(grunfeld):
    equations = weighted(some(grunfeld, 1))
    (name, given), = equations.items()
    X, y, w = (given[key].to_numpy() for key in ("exog", "dependent", "weights"))
    w = w / w.mean()
    beta = np.linalg.solve(X.T * w @ X, X.T * w @ y)
    for ranks in (0, 1, 3):
        fit = SUR(equations).fit(ranks)
        np.testing.assert_allclose(fit.params[name], beta, rtol=1e-9)
        assert fit.covariance.ranks == (0,) and fit.converged
        s2 = (w * np.square(y - X @ beta)).mean()
        np.testing.assert_allclose(fit.covariance.toarray(), [[s2]], rtol=1e-6)
        assert np.isfinite(fit.bse).all()


def test_duplicated_equations_are_named(grunfeld):
    equations = some(grunfeld, 4)
    first = next(iter(equations))
    with pytest.warns(ConvergenceWarning, match=f"equations {first} and Twin are the same"):
        fit = SUR({**equations, "Twin": equations[first]}).fit(ranks=1)
    assert np.isfinite(fit.bse).all() and (fit.bse > 0).all()


def test_single_precision_stays_so(grunfeld):
    single = {name: {key: x.astype(np.float32) for key, x in given.items()}
              for name, given in some(weighted(grunfeld), 4).items()}
    double = SUR(some(weighted(grunfeld), 4)).fit(ranks=1)
    fit = SUR(single).fit(ranks=1)
    assert fit.data.Y.dtype == fit.coefficients[0].dtype == np.float32
    # Single precision does not see gains below 1e-7 of the log-likelihood.
    assert fit.loglik == pytest.approx(double.loglik, rel=1e-5)
    assert np.abs((fit.params - double.params) / double.bse).max() < 0.05


def test_standard_errors_of_other_kinds(grunfeld):
    equations = some(grunfeld, 3)
    sigma = residual_covariance(equations)
    model = SUR(equations)
    fit = model.fit(covariance=sigma)
    assert fit.cov_type == "unadjusted"
    robust = model.fit(covariance=sigma, cov_type="robust", cov_kwds={"debiased": False})
    reference = Reference(equations, sigma=sigma).fit(method="gls", cov_type="robust")
    np.testing.assert_allclose(robust.bse, reference.std_errors, rtol=1e-6)
    pd.testing.assert_series_equal(robust.bse, fit.with_cov("robust", debiased=False).bse)
    decades = pd.Series(np.arange(20) // 4, index=equations["Atlantic Refining"]["exog"].index)
    by_label = model.fit(covariance=sigma, cov_type="clustered",
                         cov_kwds={"clusters": decades.sample(frac=1, random_state=0)})
    by_place = fit.with_cov("clustered", clusters=np.arange(20) // 4)
    pd.testing.assert_series_equal(by_label.bse, by_place.bse)
    assert np.abs(by_label.bse / fit.bse - 1).max() > 0.1
    for config, message in (({"clusters": decades.iloc[1:]}, "none for 1 row .1935"),
                            ({"clusters": decades.iloc[[0, *range(20)]]},
                             "each label once .*got 1935")):
        with pytest.raises(ValueError, match=message):
            model.fit(ranks=1, cov_type="clustered", cov_kwds=config)
    with pytest.raises(ValueError, match="cov_type must be one of"):
        model.fit(ranks="bic", cov_type="magic")
    with pytest.raises(TypeError, match="takes the options"):
        model.fit(ranks=1, cov_type="robust", cov_kwds={"clusters": decades})


# ---------------------------------------------------------------- equations with gaps


def dense_gls(data, sigma):
    """Coefficients of GLS from the covariance of all cells that are there."""
    at, total = np.cumsum([0, *data.p]), data.p.sum()
    normal, right = np.zeros((total, total)), np.zeros(total)
    for t in range(data.N):
        cells = np.flatnonzero(data.observed[t])
        X = np.zeros((cells.size, total))
        for i, j in enumerate(cells):
            X[i, at[j] : at[j + 1]] = data.Xs[j][t]
        root = 1.0 if data.weights is None else np.sqrt(data.weights[t, cells])
        V = sigma[np.ix_(cells, cells)] / np.outer(root, root)
        normal += X.T @ np.linalg.solve(V, X)
        right += X.T @ np.linalg.solve(V, data.Y[t, cells])
    return np.linalg.solve(normal, right)


def with_gaps(equations):
    """The same with other years, and some numbers missing."""
    out = {}
    for j, (name, given) in enumerate(equations.items()):
        y, X = given["dependent"].copy(), given["exog"].copy()
        if j == 0:
            y, X = y.iloc[3:], X.iloc[3:]
        if j == 1:
            y.iloc[[2, 5]] = np.nan
        if j == 2:
            X.iloc[7, 0] = np.nan
        out[name] = {**given, "dependent": y, "exog": X}
    return out


@pytest.mark.parametrize("weights", [False, True], ids=["plain", "weighted"])
def test_unbalanced_equations_against_dense_blocks(grunfeld, weights):
    equations = with_gaps(some(grunfeld, 4))
    if weights:
        equations = weighted(equations)
    model = SUR(equations)
    assert list(model.nobs.values()) == [17, 18, 19, 20]
    assert repr(model) == ("<SUR: 4 equations, 12 coefficients, 20 rows, 6 of 80 cells missing"
                           f"{', weighted' if weights else ''}>")
    fit = model.fit(ranks=1)
    beta = dense_gls(fit.data, fit.covariance.toarray())
    assert (np.abs(fit.params - beta) / fit.bse).max() < 1e-4  # β is the last half-step's
    known = model.fit(covariance=fit.covariance)
    assert (np.abs(known.params - beta) / fit.bse).max() < 1e-8
    assert fit.resid.isna().to_numpy().sum() == 6
    assert fit.resid[model.equations[2]].isna()[1942]
    assert np.isfinite(fit.bse).all()


def test_rows_in_the_order_of_their_labels(grunfeld):
    equations = with_gaps(some(grunfeld, 4))
    rows = SUR(equations).data.names.rows
    assert list(rows) == list(range(1935, 1955))
    mixed = {name: {key: x.sample(frac=1, random_state=j) for key, x in given.items()}
             for j, (name, given) in enumerate(equations.items())}
    shuffled = SUR(mixed)
    first = mixed[next(iter(mixed))]["dependent"].index
    assert list(shuffled.data.names.rows[:17]) == list(first)
    fit, again = SUR(equations).fit(ranks=1), shuffled.fit(ranks=1)
    assert again.loglik == pytest.approx(fit.loglik, rel=1e-8)
    pd.testing.assert_frame_equal(again.resid.sort_index(), fit.resid, rtol=1e-3,
                                  check_names=False)


def test_incomplete_rows_can_be_dropped_or_refused(grunfeld):
    equations = with_gaps(some(grunfeld, 4))
    with pytest.warns(UserWarning, match="5 of 20 rows are left out of all equations because some"
                                         " lack them .rows 1935.0, 1936.0.*; 3 equations: Amer"):
        model = SUR(equations, missing="drop")
    assert model.dropped == [1935, 1936, 1937, 1940, 1942]
    assert repr(model) == "<SUR: 4 equations, 12 coefficients, 15 rows, 5 rows dropped>"
    assert model.data.observed is None
    kept = [year for year in range(1935, 1955) if year not in model.dropped]
    complete = {name: {key: x.loc[kept] for key, x in given.items()}
                for name, given in some(grunfeld, 4).items()}
    assert model.fit(ranks=1).loglik == pytest.approx(SUR(complete).fit(ranks=1).loglik, rel=1e-8)
    with pytest.raises(ValueError, match="dependent of equation American Steel is missing in row"
                                         " 1935.0 .6 of 80 cells"):
        SUR(equations, missing="raise")
    only = {**some(grunfeld, 2), "Chrysler": equations["Chrysler"]}
    with pytest.raises(ValueError, match="exog of equation Chrysler is missing in row 1942.0,"
                                         " column value"):
        SUR(only, missing="raise")


def test_rows_that_no_equation_has_are_left_out(grunfeld):
    equations = {name: {key: x.copy() for key, x in given.items()}
                 for name, given in some(grunfeld, 3).items()}
    for given in equations.values():
        given["dependent"].iloc[4] = np.nan
    model = SUR(equations)
    assert model.dropped == [1939] and model.data.N == 19 and model.data.observed is None
