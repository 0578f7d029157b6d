"""Standard errors of systems: the inverse of the normal matrix three ways, and what uses it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sur_variants import NAMES, stacked, variants
from trees import cases, close, make_case, permuted_case

from mlrops import ConvergenceWarning, Dense, Hierarchy, Kronecker, LowRankPlusDiagonal, als_gls
from mlrops.operators.iterations import cg_in_runs
from mlrops.regression.sur import coefficient_inverse
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.coefficient_inverse import CoefficientInverse
from mlrops.regression.sur.covariance import estimated
from mlrops.regression.sur.data import SURData
from mlrops.regression.sur.small_sample import corrected_covariance, residual_df

ROUTES = "dense", "factors", "cg"


def draw(case, N, seed=0, widths=(2, 3, 1, 4)):
    """Equations with 2, 3, 1, 4, 2, ... regressors and errors of a case."""
    rng = np.random.default_rng(seed)
    K = case.hierarchy.n
    Xs = [rng.standard_normal((N, widths[j % len(widths)])) for j in range(K)]
    Y = case.A.sample(N, random_state=rng) + np.stack([X.sum(axis=1) for X in Xs], axis=1)
    return SURData(Xs, Y)


def dense_covariance(data, sigma, ridge=0.0):
    """``H A H`` by Kronecker products, constraints eliminated by a basis of their null space."""
    X, _, V = stacked(data, sigma)
    A = X.T @ np.linalg.solve(V, X)
    Z = np.eye(len(A))
    if data.constraints is not None:
        R = data.constraints[0]
        Z = np.linalg.svd(R)[2][np.linalg.matrix_rank(R) :].T
    H = Z @ np.linalg.inv(Z.T @ (A + ridge * np.eye(len(A))) @ Z) @ Z.T
    return H @ A @ H


def check(inverse, data, sigma, ridge, tol=1e-8):
    expected = dense_covariance(data, sigma, ridge)
    V = np.random.default_rng(5).standard_normal((len(expected), 3))
    close(inverse.matrix(), expected, tol)
    close(inverse.times(V), expected @ V, tol)
    blocks, at = inverse.blocks(), np.cumsum([0, *data.p])
    assert [b.shape for b in blocks] == [(p, p) for p in data.p]
    for block, i, j in zip(blocks, at[:-1], at[1:], strict=True):
        close(block, expected[i:j, i:j], tol * np.abs(expected).max() / np.abs(block).max())


# ---------------------------------------------------------------- one inverse, three ways


@pytest.mark.quick(8)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("ridge", [0.0, 2.0])
@pytest.mark.parametrize("name", ["plain", *NAMES])
def test_every_route_is_the_dense_inverse(route, ridge, name):
    case = make_case(Hierarchy([3, 0, 5, 1, 4, 2], [[0, 6], [0, 2, 6], [0, 2, 4, 6]]), (1, 2, 1), 0)
    data = draw(case, 15, widths=(2, 3, 1, 2, 3, 4))
    data = data if name == "plain" else variants(data)[name]
    inverse = CoefficientInverse(data.system(beta_ridge=ridge), case.A, route)
    assert inverse.route == route
    check(inverse, data, case.dense, ridge)
    fixed = np.zeros(data.p.sum(), bool)
    fixed[-1] = data.constraints is not None
    assert (inverse.fixed == fixed).all()
    diagonal = np.concatenate([b.diagonal() for b in inverse.blocks()])
    assert (diagonal[fixed] == 0).all() and (diagonal[~fixed] > 0).all()
    assert not inverse.matrix()[fixed].any() and not inverse.times(np.eye(fixed.size))[fixed].any()


@settings(max_examples=40, deadline=None)
@given(cases(max_n=12, max_levels=4, max_rank=3), st.integers(0, 1), st.integers(0, 100))
def test_factors_of_any_tree_are_eliminated(case, with_ridge, seed):
    data, ridge = draw(case, 6, seed), 0.7 * with_ridge
    check(CoefficientInverse(data.system(beta_ridge=ridge), case.A, "factors"), data, case.dense,
          ridge)


@pytest.mark.parametrize("route", ROUTES)
def test_other_operators(route):
    case = make_case(Hierarchy.flat(5), (2,), 3)
    data = draw(case, 9)
    for sigma in (LowRankPlusDiagonal(case.factors[0], case.D), Dense(case.A.toarray())):
        if route != "factors" or isinstance(sigma, LowRankPlusDiagonal):
            check(CoefficientInverse(data.system(), sigma, route), data, case.dense, 0.0)


@pytest.mark.parametrize("route", ["dense", "cg"])
def test_products_of_operators(route):
    rng = np.random.default_rng(0)
    parts = [Dense(np.cov(rng.standard_normal((n, 20))), positive_definite=True) for n in (2, 3)]
    sigma = Kronecker(*parts)
    data = draw(make_case(Hierarchy.flat(6), (1,), 0), 12)
    check(CoefficientInverse(data.system(), sigma, route), data, sigma.toarray(), 0.0)


@pytest.mark.slow
def test_chunks_do_not_matter(monkeypatch):
    from mlrops.regression.sur import factor_elimination

    case = permuted_case()
    data = draw(case, 7)
    for module in (coefficient_inverse, factor_elimination):
        monkeypatch.setattr(module, "CHUNK", 100)
    for route in ("factors", "cg"):
        check(CoefficientInverse(data.system(beta_ridge=0.5), case.A, route), data, case.dense, 0.5)


def test_the_route_follows_the_size(monkeypatch):
    case = make_case(Hierarchy([*range(8)], [[0, 8], [0, 4, 8]]), (1, 2), 1)
    data = draw(case, 10)  # P = 20, a front of 30, 1 10 10 + 2 20 30 = 1300 numbers

    def route(most, path, numbers, data=data, sigma=case.A):
        monkeypatch.setattr(coefficient_inverse, "MOST_COEFFICIENTS", most)
        monkeypatch.setattr(coefficient_inverse, "MOST_PATH", path)
        monkeypatch.setattr(coefficient_inverse, "MOST_NUMBERS", numbers)
        return CoefficientInverse(data.system(), sigma).route

    assert route(20, 30, 1300) == "dense"
    assert route(19, 30, 1300) == "factors"
    assert route(19, 29, 1300) == route(19, 30, 1299) == "cg"
    assert route(19, 30, 1300, sigma=Dense(case.A.toarray())) == "cg"
    # Below the limit elimination where it is cheaper: narrow fronts, many patterns of gaps.
    narrow = case.A.compress((0, 1))
    assert [route(20, 30, 1300, draw(case, N), narrow) for N in (10, 11)] == ["factors", "dense"]
    gaps = variants(draw(permuted_case(), 10))["gaps"]
    assert route(100, 100, 10**6, gaps, permuted_case().A) == "factors"
    assert route(100, 49, 10**6, gaps, permuted_case().A) == "dense"


@pytest.mark.slow
def test_many_coefficients():
    """Beyond the dense limit, against a run of conjugate gradients and the whole of one factor."""
    rng = np.random.default_rng(0)
    K, N = 1500, 40
    case = make_case(Hierarchy(rng.permutation(K), [[0, K], [0, 500, 600, K]]), (2, 1), 2)
    data = draw(case, N, widths=(3,))
    fit = fit_system(data, None, None, SUROptions(), covariance=case.A)
    assert estimated(fit).route == "factors" and fit.n_params == 4500
    E = np.zeros((4500, 4))
    E[[0, 1, 2, 4499], range(4)] = 1
    X = CoefficientInverse(fit.system, case.A, "cg").times(E)
    np.testing.assert_allclose(fit.bse[0] ** 2, np.diag(X[:3, :3]), rtol=1e-8)
    np.testing.assert_allclose(fit.bse[-1][-1] ** 2, X[-1, -1], rtol=1e-8)
    np.testing.assert_allclose(estimated(fit).times(E), X, rtol=1e-7, atol=1e-13)
    with pytest.raises(ValueError, match=r"at most 4000 coefficients, the system has 4500, which"
                                         r" would take 0.2 GB; bse, tvalues"):
        fit.cov_params()
    robust = fit.with_cov("robust", debiased=False)
    E = np.zeros((4500, 1))
    E[2] = 1
    z = estimated(fit).times(E)[:, 0]  # a column of A⁻¹ against the scores
    V = case.A.solve(fit.errors.T)
    s = sum(z[3 * j : 3 * j + 3] @ X.T * v
            for j, (X, v) in enumerate(zip(data.Xs, V, strict=True)))
    np.testing.assert_allclose(robust.bse[0][2], np.linalg.norm(s), rtol=1e-8)


def test_a_cap_is_reported(monkeypatch):
    case = permuted_case()
    monkeypatch.setattr(coefficient_inverse, "MAX_ITER", 2)
    inverse = CoefficientInverse(draw(case, 7).system(), case.A, "cg")
    with pytest.warns(ConvergenceWarning, match="relative residuals up to .* after 2 iterations"):
        inverse.blocks()


def test_runs_of_cg():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((20, 20))
    A = A @ A.T + np.eye(20)
    B = rng.standard_normal((20, 4)) * [1, 1e8, 0, 1e-8]
    sizes = []

    def product(X, _):
        sizes.append(X.shape[1])
        return A @ X

    X, residuals, n_iter = cg_in_runs(product, B, 1e-12, 200)
    assert (np.abs(A @ X - B) <= 1e-10 * np.abs(B).max(axis=0)).all()
    assert (residuals <= 1e-12).all() and sizes[0] == 3 and n_iter < len(sizes) <= n_iter + 4
    # An eigenvector is done at once and leaves.
    w = np.linalg.eigh(A)[1][:, :1]
    sizes.clear()
    cg_in_runs(product, np.hstack([w, B[:, :1]]), 1e-10, 200)
    assert sizes[0] == 2 and sizes[2] == 1
    left = cg_in_runs(product, B, 1e-12, 3)
    assert left[2] == 3 and (left[1] > 1e-12).sum() == 3


# ---------------------------------------------------------------- results


def make_fit(seed=0, **options):
    case = make_case(Hierarchy([3, 0, 5, 1, 4, 2], [[0, 6], [0, 3, 6]]), (1, 0), 4)
    data = draw(case, 80, seed)
    return fit_system(data, (1, 0), case.hierarchy, SUROptions(**options))


def test_defaults_correct_for_small_samples():
    fit = make_fit()
    args = fit.covariance, fit.nobs, fit.data.p
    np.testing.assert_allclose(fit.df_resid, residual_df(*args))
    for found, sigma in ((fit, corrected_covariance(*args)),
                         (fit.with_cov("unadjusted", debiased=False), fit.covariance)):
        expected = dense_covariance(fit.data, sigma.toarray())
        close(found.cov_params(), expected, 1e-9)
        close(np.concatenate(found.bse), np.sqrt(expected.diagonal()), 1e-9)
    assert fit.cov_type == "unadjusted"
    corrected, plain = fit.cov_params(), fit.cov_params(debiased=False)
    assert (corrected.diagonal() > 1.01 * plain.diagonal()).all()
    # Shared regressors: what least squares says, whatever Σ; not where constraints tie them.
    X = fit.data.Xs[0]
    shared = replace(fit.data, Xs=[X] * 6)
    fit = fit_system(shared, (1, 0), fit.covariance.hierarchy, fit.options)
    assert (fit.df_resid == 78).all()
    scale = fit.covariance.toarray() * 80 / 78
    close(fit.cov_params(), np.kron(scale, np.linalg.inv(X.T @ X)), 1e-9)
    tied = replace(shared, constraints=(np.eye(12)[:1] - np.eye(12)[2:3], np.zeros(1)))
    fit = fit_system(tied, (1, 0), fit.covariance.hierarchy, fit.options)
    assert (fit.df_resid < 78).all()


def test_tables_of_coefficients():
    fit = make_fit()
    flat = np.concatenate
    t, df = flat(fit.params) / flat(fit.bse), np.repeat(fit.df_resid, fit.data.p)
    np.testing.assert_allclose(flat(fit.tvalues), t, rtol=1e-12)
    np.testing.assert_allclose(flat(fit.pvalues), 2 * scipy.stats.t.sf(np.abs(t), df), rtol=1e-9)
    for alpha in (0.05, 0.3):
        low, high = scipy.stats.t.interval(1 - alpha, df, flat(fit.params), flat(fit.bse))
        assert [x.shape for x in fit.conf_int(alpha)] == [(p, 2) for p in fit.data.p]
        np.testing.assert_allclose(flat(fit.conf_int(alpha)), np.stack([low, high], 1), rtol=1e-9)
    known = fit_system(fit.data, None, None, fit.options, covariance=fit.covariance)
    assert np.isposinf(known.df_resid).all()
    z = flat(known.tvalues)
    np.testing.assert_allclose(flat(known.pvalues), 2 * scipy.stats.norm.sf(np.abs(z)), rtol=1e-9)
    half = scipy.stats.norm.ppf(0.975) * flat(known.bse)
    np.testing.assert_allclose(np.diff(flat(known.conf_int()))[:, 0], 2 * half, rtol=1e-9)
    for alpha in (0, 1, -1, np.nan):
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
            fit.conf_int(alpha)


@pytest.mark.parametrize("kind", ["unadjusted", "robust"])
def test_fixed_coefficients_have_no_error(kind):
    case = make_case(Hierarchy.flat(4), (1,), 0)
    data = draw(case, 30)
    R = np.zeros((3, data.p.sum()))
    R[0, 0] = R[1, 1] = R[2, 3] = R[2, 4] = 1
    data = replace(data, constraints=(R, np.array([0.0, -2.0, 2.0])))
    fit = fit_system(data, 1, None, SUROptions()).with_cov(kind)
    np.testing.assert_allclose(fit.params[0], [0, -2], atol=1e-14)
    assert fit.bse[0].tolist() == [0, 0] and fit.tvalues[0][1] == -np.inf
    assert fit.pvalues[0][1] == 0
    assert (fit.conf_int()[0][:, 0] == fit.params[0]).all()
    for x in (fit.bse, fit.tvalues, fit.pvalues, fit.conf_int()):
        assert not np.isnan(np.concatenate(x)).any()
    assert np.isclose(fit.bse[1][1], fit.bse[1][2]) and fit.bse[1][1] > 0.01


def test_names():
    pd = pytest.importorskip("pandas")
    fit = make_fit()
    names = [f"firm {j}" for j in range(6)]
    Y = pd.DataFrame(fit.data.Y, columns=names)
    Xs = [pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]) for X in fit.data.Xs]
    named = als_gls(Xs, Y, (1, 0), fit.covariance.hierarchy)
    assert np.isclose(named.bse["firm 2"]["x0"], fit.bse[2][0], rtol=1e-6)
    table = named.conf_int()
    assert list(table.columns) == ["lower", "upper"]
    assert np.isclose(table.loc[("firm 1", "x2"), "upper"], fit.conf_int()[1][2, 1], rtol=1e-6)
    assert table.index.equals(named.params.index)
    covariance = named.cov_params("robust")
    assert covariance.index.equals(covariance.columns)
    assert covariance.index.equals(named.params.index)
    np.testing.assert_allclose(covariance.loc[("firm 1", "x1"), ("firm 3", "x0")],
                               fit.cov_params("robust")[3, 6], rtol=1e-5)


def test_order_and_units_do_not_matter():
    case = permuted_case()
    data = draw(case, 30)
    how = {"options": SUROptions(), "covariance": case.A}
    fit = fit_system(data, None, None, **how)
    order = np.random.default_rng(1).permutation(30)
    units = [10.0 ** np.arange(-6, -6 + 4 * p, 4) for p in data.p]
    other = SURData([data.Xs[j] * units[j] for j in order], data.Y[:, order])
    sigma = case.A.restrict(order)
    for kind in ("unadjusted", "robust", "hac"):
        moved = fit_system(other, None, None, how["options"], covariance=sigma).with_cov(kind)
        for i, j in enumerate(order):
            np.testing.assert_allclose(moved.bse[i] * units[j], fit.with_cov(kind).bse[j],
                                       rtol=1e-7)


def test_single_precision():
    fit = make_fit()
    single = replace(fit.data, Xs=[X.astype(np.float32) for X in fit.data.Xs],
                     Y=fit.data.Y.astype(np.float32))
    low = fit_system(single, None, None, fit.options, covariance=fit.covariance)
    high = fit_system(fit.data, None, None, fit.options, covariance=fit.covariance)
    for kind in ("unadjusted", "robust"):
        np.testing.assert_allclose(np.concatenate(low.with_cov(kind).bse),
                                   np.concatenate(high.with_cov(kind).bse), rtol=1e-5)
    # In double precision from the same data, whatever the precision of the fit.
    again = replace(single, Xs=[X.astype(float) for X in single.Xs], Y=single.Y.astype(float))
    np.testing.assert_allclose(
        low.cov_params(), dense_covariance(again, fit.covariance.toarray()), rtol=1e-7, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = fit_system(single, (1, 0), fit.covariance.hierarchy, fit.options)
    np.testing.assert_allclose(np.concatenate(fitted.bse), np.concatenate(fit.bse), rtol=1e-3)


def test_bad_arguments():
    fit = make_fit()
    known = "cov_type must be one of unadjusted, .*bootstrap, got 'HC1'"
    with pytest.raises(ValueError, match=known):
        fit.with_cov("HC1")
    with pytest.raises(TypeError, match='cov_type="robust" takes the options debiased, got lags'):
        fit.cov_params("robust", lags=3)
    known = fit_system(fit.data, None, None, fit.options, covariance=fit.covariance)
    with pytest.raises(ValueError, match="corrects a Σ that was estimated; this one is known"):
        known.cov_params(debiased=True)
    with pytest.raises(ValueError, match="the covariance in use is \"unadjusted\""):
        _ = fit.bootstrap


def test_kinds_share_what_does_not_depend_on_them():
    fit = fit_system(draw(make_case(Hierarchy.flat(3), (1,), 0), 30), 1, None, SUROptions())
    before = fit.bse, fit.errors, fit.rsquared
    robust = fit.with_cov("robust")
    assert robust.system is fit.system and robust.errors is before[1]
    assert not np.allclose(robust.bse[0], before[0][0])
    assert fit.cov_kwds == {} and fit.with_cov("hac").cov_kwds is not fit.cov_kwds


def test_earlier_names_of_results():
    fit = fit_system(draw(make_case(Hierarchy.flat(3), (1,), 0), 30), 1, None, SUROptions())
    for old, new in (("K", "n_equations"), ("N", "nobs"), ("P", "n_params"),
                     ("cg_iterations", "n_cg"), ("cov_kind", "cov_type"),
                     ("cov_config", "cov_kwds")):
        with pytest.warns(DeprecationWarning, match=f"SURResult.{old} is called SURResult.{new}"):
            assert getattr(fit, old) == getattr(fit, new)
    with pytest.warns(DeprecationWarning, match=r"with_cov\(kind=\) is called cov_type="):
        assert fit.with_cov(kind="robust").cov_type == "robust"
    with pytest.warns(DeprecationWarning, match=r"cov_params\(kind=\) is called cov_type="):
        np.testing.assert_array_equal(fit.cov_params(kind="robust"), fit.cov_params("robust"))
