"""Feasible GLS with an unrestricted Σ: against linearmodels, Stata, textbooks, dense formulas."""


import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlrops import SUR, ConvergenceWarning, load, save
from mlrops.datasets import load_grunfeld
from mlrops.regression.sur.feasible import as_factor_model
from mlrops.regression.sur.residual_moments import completed, pairwise

FIRMS = ("General Motors", "Chrysler", "General Electric", "Westinghouse", "US Steel")


def grunfeld(firms=FIRMS, weighted=False):
    panel = load_grunfeld().to_frame().assign(const=1.0)
    rng = np.random.default_rng(0)
    out = {}
    for firm, rows in panel.set_index("year").groupby("firm"):
        if firm in firms:
            out[firm] = {"dependent": rows["invest"], "exog": rows[["value", "capital", "const"]]}
            if weighted:
                out[firm]["weights"] = pd.Series(rng.uniform(0.4, 2, len(rows)), rows.index)
    return out


def tie(*models):
    """Equal effects of value in the first two firms, a given effect of capital in the third."""
    names = models[0].param_names
    R = pd.DataFrame(0.0, index=["equal", "given"], columns=names)
    R.loc["equal", [names[0], names[3]]] = 1, -1
    R.loc["given", names[7]] = 1
    for model in models:
        model.add_constraints(R, pd.Series([0.0, 0.3], R.index))


def with_gaps(seed=1, N=60, K=4):
    """Equations of unequal width; each lacks some rows."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((K, K)) + 2 * np.eye(K)
    E = rng.standard_normal((N, K)) @ mix.T
    equations = {}
    for j in range(K):
        X = np.column_stack([np.ones(N), rng.standard_normal((N, 1 + j % 2))])
        y = X.sum(axis=1) + E[:, j]
        y[rng.choice(N, 6, replace=False)] = np.nan
        equations["abcdefgh"[j]] = (y, X)
    return equations


def assert_like(fit, theirs, params=1e-9, errors=1e-8):
    """In units of the standard errors."""
    bse = np.asarray(theirs.std_errors)
    scale = np.where(bse > 0, bse, 1)
    assert np.abs((fit.params.to_numpy() - np.asarray(theirs.params)) / scale).max() < params
    np.testing.assert_allclose(fit.bse, bse, rtol=errors, atol=1e-12)


# ---------------------------------------------------------------- linearmodels

COVARIANCES = {  # ours, theirs
    "unadjusted": (("unadjusted", {}), {}),
    "robust": (("robust", {}), {}),
    "kernel": (("hac", {"kernel": "parzen", "bandwidth": 3}),
               {"kernel": "parzen", "bandwidth": 3}),
    "clustered": (("clustered", {"clusters": np.arange(20) // 2}),
                  {"clusters": np.arange(20) // 2}),
}


@pytest.mark.parametrize("debiased", [False, True], ids=["plain", "debiased"])
@pytest.mark.parametrize("constrained", [False, True], ids=["free", "constrained"])
@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
@pytest.mark.parametrize("iterate", [False, True], ids=["fgls", "ifgls"])
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_like_linearmodels(iterate, weighted, constrained, debiased):
    system = pytest.importorskip("linearmodels.system")
    equations = grunfeld(weighted=weighted)
    model, reference = SUR(equations), system.SUR(equations)
    if constrained:
        tie(model, reference)
    method = "ifgls" if iterate else "fgls"
    fit = model.fit(method=method, dfk=debiased, small=debiased, gtol=1e-13 if iterate else 1e-5,
                    max_iter=2000)
    for name, ((kind, options), other) in COVARIANCES.items():
        theirs = reference.fit(method="gls", iterate=iterate, iter_limit=2000, tol=1e-12,
                               cov_type=name, debiased=debiased, **other)
        if kind != "unadjusted":
            options = {**options, "debiased": debiased}
        found = fit.with_cov(kind, **options)
        assert_like(found, theirs)
        if constrained:  # theirs counts coefficients that constraints take, too
            continue
        np.testing.assert_allclose(found.pvalues, theirs.pvalues, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.conf_int(), theirs.conf_int(), rtol=1e-6)
    np.testing.assert_allclose(fit.covariance.toarray(), theirs.sigma, rtol=1e-8)
    assert fit.method == method and not fit.covariance_is_known
    assert fit.n_iter == 1 if not iterate else fit.n_iter > 5


def test_iterated_likelihood_like_linearmodels():
    system = pytest.importorskip("linearmodels.system")
    fit = SUR(grunfeld()).fit(method="ifgls", gtol=1e-11, max_iter=1000)
    theirs = system.SUR(grunfeld()).fit(method="gls", iterate=True, iter_limit=1000, tol=1e-12)
    assert fit.converged and fit.termination == "gradient"
    logdet = np.linalg.slogdet(np.asarray(theirs.resids).T @ np.asarray(theirs.resids) / 20)[1]
    np.testing.assert_allclose(fit.llf, -10 * (5 * np.log(2 * np.pi) + 5 + logdet), rtol=1e-11)
    assert fit.degrees_of_freedom == 15 + 15


# ---------------------------------------------------------------- Stata, and printed results


def stata_cases():
    results = pytest.importorskip("linearmodels.tests.system.results.parse_stata_results")
    data = pytest.importorskip("linearmodels.tests.system.results.generate_data")
    return results.stata_results, data


@pytest.mark.parametrize("key", [f"{data}-{kind}" for data in ("basic", "common", "missing")
                                 for kind in ("base", "ss", "constrained")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_like_stata(key):
    """Stata's `sureg`, `sureg, small dfk` and `sureg, constraints()` on simulated systems."""
    results, data = stata_cases()
    which, kind = key.split("-")
    given = dict(getattr(data, f"{which}_data"))
    first = next(iter(given.values()))["exog"]
    equations = {part["dependent"].columns[0]: {
        "dependent": part["dependent"].iloc[:, 0],
        "exog": first if which == "common" else part["exog"]} for part in given.values()}
    model = SUR(equations, missing="drop")
    if kind == "constrained":
        P, widths = len(model.param_names), model.data.p
        R = np.zeros((2, P))
        R[:, 0] = -1
        R[0, widths[0]] = R[1, widths[:2].sum()] = 1
        model.add_constraints(R)
    small = kind == "ss"
    fit, stata = model.fit(method="fgls", dfk=small, small=small), results[key]
    bse = np.sqrt(np.diag(stata.variance))
    # Printed with 11 digits, and small numbers with 7.
    assert np.abs((fit.params.to_numpy() - stata.params.param) / bse).max() < 1e-6
    np.testing.assert_allclose(fit.bse, bse, rtol=1e-6)
    np.testing.assert_allclose(fit.tvalues, stata.params.tstat, rtol=2e-6)
    np.testing.assert_allclose(fit.pvalues, stata.params.pval, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(fit.covariance.toarray(), stata.sigma, rtol=1e-6)
    numbers = stata.stats.squeeze()
    for j, name in enumerate(model.equations):
        slopes = [x for x in fit.params[name].index if x != "cons"]
        test = fit.wald_test([{(name, x): 1} for x in slopes])
        if kind == "constrained" and test.df < len(slopes):
            continue
        printed = numbers[f"F_{j + 1}" if small else f"chi2_{j + 1}"]
        np.testing.assert_allclose(test.statistic, printed, rtol=1e-6)
        np.testing.assert_allclose(test.pvalue, numbers[f"p_{j + 1}"], rtol=1e-4, atol=1e-30)


def test_grunfeld_as_printed():
    """Two firms, Zellner's example: H. Theil, "Principles of Econometrics", 1971, section 7.1.

    The digits are those of SAS's documentation of its procedure SYSLIN, and of Stata's dfk.
    """
    fit = SUR(grunfeld(("General Electric", "Westinghouse"))).fit(method="fgls", dfk=True)
    printed = {("General Electric", "const"): (-27.7193, 29.32122),
               ("General Electric", "value"): (0.038310, 0.014415),
               ("General Electric", "capital"): (0.139036, 0.024986),
               ("Westinghouse", "const"): (-1.25199, 7.545217),
               ("Westinghouse", "value"): (0.057630, 0.014546),
               ("Westinghouse", "capital"): (0.063978, 0.053041)}
    for at, (value, error) in printed.items():
        np.testing.assert_allclose([fit.params[at], fit.bse[at]], [value, error], rtol=2e-5)


# ---------------------------------------------------------------- small samples


def test_small_and_dfk():
    model = SUR(grunfeld())
    plain, small = model.fit(method="fgls"), model.fit(method="fgls", small=True)
    np.testing.assert_array_equal(plain.params, small.params)
    np.testing.assert_array_equal(plain.bse, small.bse)
    assert np.isinf(plain.df_resid).all() and (small.df_resid == 100 - 15).all()
    np.testing.assert_allclose(small.pvalues, 2 * stats.t.sf(np.abs(small.tvalues), 85))
    R = [{(FIRMS[0], "value"): 1, (FIRMS[1], "value"): -1}]
    chi2, F = plain.wald_test(R), small.wald_test(R)
    assert chi2.df_denom is None and F.df_denom == 85
    np.testing.assert_allclose(F.pvalue, stats.f.sf(chi2.statistic, 1, 85))
    # As all equations have three regressors, dfk divides by 17 in place of 20.
    dfk = model.fit(method="fgls", dfk=True)
    np.testing.assert_allclose(dfk.params, plain.params, rtol=1e-8)
    np.testing.assert_allclose(dfk.bse, plain.bse * np.sqrt(20 / 17), rtol=1e-8)
    # New observations vary with Σ_jj of the divisor N - p in either case.
    for fit in plain, dfk:
        found = fit.get_prediction()
        S = dfk.covariance.diagonal()
        variance = np.square(np.asarray(found.se_obs)) - np.square(np.asarray(found.se_mean))
        np.testing.assert_allclose(variance, np.broadcast_to(S, variance.shape), rtol=1e-6)


def test_free_coefficients_count():
    model = SUR(grunfeld())
    tie(model)
    assert (model.fit(method="fgls", small=True).df_resid == 100 - 13).all()


# ---------------------------------------------------------------- missing cells


def residuals(fit):
    return np.nan_to_num(np.asarray(fit.resid, float).T)


@pytest.mark.parametrize("dfk", [False, True])
def test_one_step_with_gaps(dfk):
    """Σ from the rows that two equations share, and GLS on the cells there are."""
    model = SUR(with_gaps())
    fit = model.fit(method="fgls", dfk=dfk)
    there, p = model.data.observed, model.data.p
    S = np.empty((4, 4))
    E = np.where(there, model.data.Y - np.column_stack([
        X @ np.linalg.lstsq(X[there[:, j]], model.data.Y[there[:, j], j], rcond=None)[0]
        for j, X in enumerate(model.data.Xs)]), 0)
    for i in range(4):
        for j in range(4):
            both = there[:, i] & there[:, j]
            n = both.sum()
            S[i, j] = E[both, i] @ E[both, j] / (np.sqrt((n - p[i]) * (n - p[j])) if dfk else n)
    np.testing.assert_allclose(fit.covariance.toarray(), S, rtol=1e-10)
    A, b, loglik = np.zeros((p.sum(), p.sum())), np.zeros(p.sum()), 0.0
    ends = np.cumsum([0, *p])
    designs = []
    for t in range(len(there)):
        X = np.zeros((4, p.sum()))
        for j in range(4):
            X[j, ends[j]:ends[j + 1]] = model.data.Xs[j][t]
        seen = there[t]
        designs.append((X[seen], model.data.Y[t, seen], S[np.ix_(seen, seen)]))
        A += X[seen].T @ np.linalg.solve(designs[-1][2], X[seen])
        b += X[seen].T @ np.linalg.solve(designs[-1][2], designs[-1][1])
    beta = np.linalg.solve(A, b)
    np.testing.assert_allclose(fit.params, beta, rtol=1e-9)
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diag(np.linalg.inv(A))), rtol=1e-8)
    for X, y, V in designs:
        loglik += stats.multivariate_normal.logpdf(y, X @ beta, V)
    np.testing.assert_allclose(fit.llf, loglik, rtol=1e-10)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_maximum_with_gaps():
    """No other Σ or β near the end of `ifgls` has a larger likelihood of the cells there are."""
    model = SUR(with_gaps())
    fit = model.fit(method="ifgls", gtol=1e-10, max_iter=1000)
    assert fit.converged and (np.diff(fit.loglik_trace) > -1e-13).all()
    S, rng = fit.covariance.toarray(), np.random.default_rng(0)
    X, Y = [np.asarray(x) for x in model.data.Xs], np.where(model.data.observed,
                                                          model.data.Y, np.nan)

    def loglik(S, beta):
        E, total = Y - np.column_stack([x @ b for x, b in zip(X, beta, strict=True)]), 0.0
        for e in E:
            seen = ~np.isnan(e)
            total += stats.multivariate_normal.logpdf(e[seen], None, S[np.ix_(seen, seen)])
        return total

    beta = [fit.params[name].to_numpy() for name in model.equations]
    best = loglik(S, beta)
    np.testing.assert_allclose(fit.llf, best, rtol=1e-11)
    for _ in range(20):
        step = rng.standard_normal((4, 4))
        step = (step + step.T) / 2
        moved = [b + 1e-4 * rng.standard_normal(b.size) for b in beta]
        for sign in (-1, 1):  # both sides of a maximum are below it, to second order
            assert loglik(S + sign * 1e-3 * step, moved) < best
    with_factors = model.fit(ranks=2)
    assert fit.llf > with_factors.llf - 1e-6


def test_dense_covariance_with_gaps():
    model = SUR(with_gaps())
    S = np.cov(np.random.default_rng(2).standard_normal((4, 40)))
    fit = model.fit(covariance=S)
    np.testing.assert_allclose(fit.covariance.toarray(), S, rtol=1e-12)
    given = model.fit(covariance=as_factor_model(S))
    np.testing.assert_allclose(fit.params, given.params, rtol=1e-10)
    assert fit.method == "gls" and fit.covariance_is_known


def test_complete_cells_are_no_special_case():
    """EM and pairwise moments of complete residuals are their covariance."""
    E = np.random.default_rng(0).standard_normal((3, 20))
    there = np.ones(E.shape, bool)
    for found in pairwise(E, there), completed(E, there, np.eye(3)):
        np.testing.assert_allclose(found, E @ E.T / 20, rtol=1e-12)


# ---------------------------------------------------------------- the result


@pytest.mark.parametrize("method", ["fgls", "ifgls"])
@pytest.mark.parametrize("equations", [grunfeld, with_gaps], ids=["complete", "gaps"])
def test_result(method, equations, tmp_path):
    model = SUR(equations())
    fit = model.fit(method=method, small=True)
    text = fit.summary()
    name = "feasible GLS, 1 step" if method == "fgls" else "feasible GLS, iterated"
    assert name in text and "unrestricted" in text and "degrees of freedom." in text
    assert fit.converged and fit.boundary.size == 0 and fit.selection is None
    np.testing.assert_allclose(fit.score_samples().sum(), fit.llf, rtol=1e-10)
    save(tmp_path / "fit.npz", fit)
    again = load(tmp_path / "fit.npz")
    assert again.method == method and again.options == fit.options
    np.testing.assert_allclose(again.bse, fit.bse, rtol=1e-12)
    with pytest.raises(TypeError, match="fits no factors"):
        fit.factor_scores()
    with pytest.raises(ValueError, match="compares covariances of factors"):
        fit.likelihood_ratio()
    with pytest.raises(ValueError, match="dfk=True"):
        _ = fit.with_cov("unadjusted", debiased=True).bse
    again = fit.with_cov("bootstrap", n_boot=20, random_state=1)
    assert (np.abs(np.log(again.bse / fit.bse)) < 1.2).all()


def test_callback_and_cap():
    seen = []
    fit = SUR(grunfeld()).fit(method="fgls", callback=seen.append)
    assert [at.n_iter for at in seen] == [0, 1]
    assert seen[0].loglik < seen[1].loglik == fit.loglik
    with pytest.warns(ConvergenceWarning, match="ifgls stopped after 3 iterations.*max_iter"):
        fit = SUR(grunfeld()).fit(method="ifgls", max_iter=3)
    assert not fit.converged and fit.n_iter == 3 and len(fit.n_cg) == 3
    with pytest.warns(ConvergenceWarning, match="raise gtol"):
        fit = SUR(grunfeld()).fit(method="ifgls", gtol=0.0, max_iter=5000)
    assert fit.termination == "rounding" and fit.gradient_norm < 1e-12


def test_one_equation_is_least_squares():
    equations = {"a": grunfeld()["Chrysler"]}
    fit = SUR(equations).fit(method="ifgls", dfk=True, small=True)
    X, y = equations["a"]["exog"].to_numpy(), equations["a"]["dependent"].to_numpy()
    beta, left = np.linalg.lstsq(X, y, rcond=None)[:2]
    np.testing.assert_allclose(fit.params, beta, rtol=1e-9)
    errors = np.sqrt(np.diag(np.linalg.inv(X.T @ X)) * left / 17)
    np.testing.assert_allclose(fit.bse, errors, rtol=1e-9)
    assert (fit.df_resid == 17).all()


def test_units_do_not_count():
    equations = grunfeld()
    fit = SUR(equations).fit(method="fgls")
    scaled = {name: {**part, "dependent": part["dependent"] * 10.0 ** (8 * j - 16)}
              for j, (name, part) in enumerate(equations.items())}
    other = SUR(scaled).fit(method="fgls")
    np.testing.assert_allclose(other.tvalues, fit.tvalues, rtol=1e-7)


def test_ranks_are_chosen_unless_given():
    model = SUR(with_gaps())
    fit, chosen = model.fit(), model.fit(ranks="bic")
    assert fit.method == "factor" and fit.selection.criterion == "bic"
    np.testing.assert_array_equal(fit.params, chosen.params)
    assert f"{fit.selection.ranks[0]} (bic)" in fit.summary(max_equations=0)
    assert "(bic)" not in model.fit(ranks=1).summary(max_equations=0)


# ---------------------------------------------------------------- what is refused


def wide(N, K):
    rng = np.random.default_rng(0)
    return {f"e{j}": (rng.standard_normal(N), rng.standard_normal((N, 2))) for j in range(K)}


def test_refuses_singular_covariances():
    for method in ("fgls", "ifgls"):
        with pytest.raises(ValueError, match="no more equations than rows, got 30 equations and 20"
                                             ' rows.*singular; use method="factor"'):
            SUR(wide(20, 30)).fit(method=method)
    # With one X residuals have N - p dimensions.
    X, Y = np.random.default_rng(0).standard_normal((20, 3)), np.eye(20)[:, :18]
    with pytest.raises(ValueError, match="18 equations|positive definite.*factor"):
        SUR.multivariate_ls(Y, X).fit(method="fgls")
    equations = grunfeld(FIRMS[:2])
    twin = {**equations, "twin": equations[FIRMS[0]]}
    with pytest.raises(ValueError, match="positive definite.*equations General Motors, twin"):
        SUR(twin).fit(method="fgls")


def test_refuses_likelihoods_without_a_maximum():
    """Ten firms have 21 independent regressors: one weighted sum of errors can be zero always."""
    firms = load_grunfeld().to_frame()["firm"].unique()
    for K in 6, 7, 10:
        model = SUR(grunfeld(firms[:K]))
        assert np.isfinite(model.fit(method="fgls").llf)
        if K == 6:  # 13 regressors and 6 equations in 20 rows
            assert model.fit(method="ifgls", max_iter=5000).converged
            continue
        with pytest.raises(ValueError, match=f"no maximum.*{K} equations with .* independent"
                                             " regressors.*there are 20.*fgls.*factor"):
            model.fit(method="ifgls")
    model = SUR(grunfeld(firms[:10]))
    tie(model)
    with pytest.raises(ValueError, match="smallest eigenvalue.*no maximum"):
        model.fit(method="ifgls", max_iter=5000)


def test_refuses_pairwise_covariances():
    rng = np.random.default_rng(0)
    u = rng.standard_normal(90)
    Y = np.column_stack([u, u, -u]) + 0.01 * rng.standard_normal((90, 3))
    Y[:30, 2], Y[30:60, 1], Y[60:, 0] = np.nan, np.nan, np.nan
    Y[30:60, 2] = u[30:60]  # a and c go together, b and c against one another, a and b together
    equations = {name: (y, np.ones(90)) for name, y in zip("abc", Y.T, strict=True)}
    with pytest.raises(ValueError, match="equations a, b, c.*pairwise.*method=\"ifgls\""):
        SUR(equations).fit(method="fgls")
    Y[60:, 2] = np.nan
    equations = {name: (y, np.ones(90)) for name, y in zip("abc", Y.T, strict=True)}
    with pytest.raises(ValueError, match="equations b and c have 0 rows in common"):
        SUR(equations).fit(method="ifgls")
    with pytest.raises(ValueError, match='needs complete samples.*"fgls" or dfk=False'):
        SUR(with_gaps()).fit(method="ifgls", dfk=True)


@pytest.mark.parametrize("options, error, message", [
    ({"method": "gls"}, ValueError, "method must be one of 'factor', 'fgls', 'ifgls', got 'gls'"),
    ({"method": "fgls", "ranks": 1}, ValueError, "leave out ranks, hierarchy and covariance"),
    ({"method": "ifgls", "covariance": np.eye(5)}, ValueError, "leave out ranks"),
    ({"method": "fgls", "ranks": "bic"}, ValueError, "leave out ranks"),
    ({"method": "fgls", "prior": True}, ValueError, "prior is an option of method=\"factor\""),
    ({"ranks": 1, "dfk": True}, ValueError, "dfk is an option of method=\"fgls\" or \"ifgls\""),
    ({"ranks": 1, "small": True}, ValueError, "small is an option of"),
    ({"method": "fgls", "small": 1}, TypeError, "small must be True or False, got 1"),
])
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        SUR(grunfeld()).fit(**options)
