"""New data, masks and frames of other libraries in systems of equations; names that come out."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pytest
from labelled_regressions import (
    CLUSTERS,
    NAMES,
    NEW_XS,
    NEW_Y,
    ROWS,
    SIGMA,
    WEIGHTS,
    XS,
    N,
    Y,
    equations,
    fit,
    fitted,
)

from mlrops import MLR, SUR, Dense, Hierarchy, als_gls, em_gls, gls, load, save, select_sur_ranks

# ---------------------------------------------------------------- new regressors


def test_new_data_take_the_forms_that_sur_takes():
    new, expected = list(NEW_XS.values()), fit().predict(list(NEW_XS.values()))
    forms = {
        "dict": NEW_XS,
        "exog": {name: {"exog": X} for name, X in NEW_XS.items()},
        "dependent": {name: {"dependent": NEW_Y[name], "exog": X} for name, X in NEW_XS.items()},
        "tuple": {name: (NEW_Y[name], X) for name, X in NEW_XS.items()},
        "columns": {name: {"b": X["b"], "a": X["a"]} for name, X in NEW_XS.items()},
        "beside arrays": {**NEW_XS, "w": NEW_XS["w"].to_numpy()},
        "turned": [X.iloc[::-1, ::-1] for X in new],
    }
    for what, form in forms.items():
        found = fit().predict(form)
        assert list(found.columns) == list(NAMES), what
        pd.testing.assert_frame_equal(found.loc[expected.index], expected)
        frame = fit().get_prediction(form).predicted_mean
        pd.testing.assert_frame_equal(frame.loc[expected.index], expected)
    for form in (np.stack(new), [X.to_numpy() for X in new], [X.to_numpy().tolist() for X in new]):
        np.testing.assert_allclose(fit().predict(form), expected)
    # What belongs to which equation is said by name, not by place.
    turned = fit().predict({name: NEW_XS[name] for name in "wuv"})
    pd.testing.assert_frame_equal(turned[list(NAMES)], expected)


def test_data_of_the_fit_are_the_default():
    for found in (fit(), fitted()):
        pd.testing.assert_frame_equal(found.predict(), found.fittedvalues)
        pd.testing.assert_frame_equal(found.get_prediction().predicted_mean, found.fittedvalues)
        assert found.score() == pytest.approx(found.loglik, rel=1e-12)
        assert list(found.score_samples().index) == list(ROWS)
        assert found.mean_squared_error() == pytest.approx(found.mse.mean())
        pd.testing.assert_series_equal(found.mean_squared_error(by_equation=True), found.mse)
    gaps = equations()
    gaps["v"]["dependent"] = gaps["v"]["dependent"].mask(np.arange(N) % 7 == 0)
    found = SUR(gaps).fit(ranks=1)
    assert found.score() == pytest.approx(found.loglik, rel=1e-10)
    pd.testing.assert_frame_equal(found.predict(), found.fittedvalues)
    assert found.predict().isna().to_numpy().sum() == 6


def test_scores_of_a_dict_are_those_of_its_tables():
    both = {name: (NEW_Y[name], NEW_XS[name]) for name in "wvu"}
    for method in ("score", "mean_squared_error"):
        expected = getattr(fit(), method)(list(NEW_XS.values()), NEW_Y)
        assert getattr(fit(), method)(both) == pytest.approx(expected)
        assert getattr(fit(), method)(NEW_XS, NEW_Y.iloc[::-1, ::-1]) == pytest.approx(expected)
        assert getattr(fit(), method)(NEW_XS, dict(NEW_Y.items())) == pytest.approx(expected)


@pytest.mark.parametrize("mark", [np.nan, None, "mask"])
def test_one_missing_regressor_costs_one_cell(mark):
    new = {name: X.copy() for name, X in NEW_XS.items()}
    if mark == "mask":
        new["v"] = np.ma.array(new["v"].to_numpy(), mask=False)
        new["v"][2, 1] = np.ma.masked
    else:
        new["v"] = new["v"].astype(object)
        new["v"].iloc[2, 1] = mark
    found, expected = fitted().predict(new), fitted().predict(NEW_XS)
    assert np.isnan(found.loc["s2", "v"]) and found.isna().to_numpy().sum() == 1
    pd.testing.assert_frame_equal(found.fillna(0), expected.where(found.notna(), 0))
    prediction = fitted().get_prediction(new)
    for x in (prediction.se_mean, prediction.se_obs):
        assert np.isnan(x.loc["s2", "v"]) and x.isna().to_numpy().sum() == 1
    gap = NEW_Y.copy()
    gap.loc["s2", "v"] = np.nan
    pd.testing.assert_series_equal(fitted().score_samples(new, NEW_Y),
                                   fitted().score_samples(NEW_XS, gap))


def test_equations_of_other_rows_are_put_together():
    new = {**NEW_XS, "v": NEW_XS["v"].iloc[2:]}
    found = fit().predict(new)
    assert list(found.index) == list(NEW_XS["u"].index)
    assert found["v"].isna().tolist() == [True, True, *[False] * 4]
    pd.testing.assert_series_equal(found["u"], fit().predict(NEW_XS)["u"])
    with pytest.raises(ValueError, match=r"X of equation v .*none for 2 rows \(s0, s1\)"):
        fit().predict(list(new.values()))


def test_one_frame_for_all_equations():
    shared = SUR.multivariate_ls(Y, XS["u"]).fit(covariance=SIGMA)
    expected = shared.predict([NEW_XS["u"]] * 3)
    for form in (NEW_XS["u"], NEW_XS["u"][["b", "a"]], pl.from_pandas(NEW_XS["u"]),
                 NEW_XS["u"].to_numpy()):
        np.testing.assert_allclose(shared.predict(form), expected)
    # A frame of all columns there are, of which each equation has its own.
    own = {name: (Y[name], XS["u"].add_suffix(f"_{name}")) for name in NAMES}
    wide = pd.concat([NEW_XS["u"].add_suffix(f"_{name}") for name in "wuv"], axis=1)
    found = SUR(own).fit(covariance=SIGMA)
    np.testing.assert_allclose(found.predict(wide), expected)
    np.testing.assert_allclose(als_gls(XS["u"], Y, covariance=SIGMA).params, shared.params)
    with pytest.raises(ValueError, match=r"1 label belongs to no regressor \(c\)"):
        shared.predict(NEW_XS["u"].assign(c=1))
    with pytest.raises(ValueError, match=r"none for 1 regressor \(b\)"):
        shared.predict(NEW_XS["u"][["a"]])


@pytest.mark.parametrize("given, error, message", [
    (({"u": 1, "v": 2, "z": 3},), ValueError, r"none for 1 equation \(w\).*no equation \(z\)"),
    (({"u": NEW_XS["u"]},), ValueError, r"none for 2 equations \(v, w\)"),
    ((list(NEW_XS.values())[:2],), ValueError, "one array for each equation"),
    ((np.ones((6, 3)),), ValueError, "X of equation u must have 2 columns, one a regressor"),
    (("u",), TypeError, "list of K arrays"),
    (({**NEW_XS, "u": [[np.inf, 1]]},), ValueError, "exog of equation u must not be infinite"),
    (([X * np.inf for X in NEW_XS.values()],), ValueError, "X of equation u must not be infinite"),
    (({**NEW_XS, "u": NEW_XS["u"].to_numpy()[:, :1]},), ValueError, "u must have 2 columns"),
    ((NEW_XS, NEW_Y.rename(columns={"u": "z"})), ValueError, r"Y must .*1 equation \(u\).*\(z\)"),
    ((NEW_XS, NEW_Y.rename({"s1": "q"})), ValueError, r"Y must .*none for 1 row \(s1\).*\(q\)"),
    ((NEW_XS, NEW_Y.iloc[1:]), ValueError, r"Y must .*none for 1 row \(s0\)"),
    ((NEW_XS, NEW_Y.to_numpy()[1:]), ValueError, r"Y must have shape \(6, 3\)"),
    ((NEW_XS, NEW_Y.where(NEW_Y > -0.1, np.inf)), ValueError, "inf in row s. of equation"),
    ((NEW_XS,), TypeError, "give Y, or a dict of equations .*equation u has none"),
    ((None, NEW_Y), TypeError, "Y needs the regressors of its rows"),
    (({name: (NEW_Y[name], NEW_XS[name]) for name in NAMES}, NEW_Y), TypeError, "either as Y or"),
    (({name: (NEW_Y[name], NEW_XS[name], NEW_Y[name]) for name in NAMES},), ValueError,
     "equation u has weights, but new rows have weight 1"),
    (([Dense(np.eye(2))] * 3, NEW_Y), TypeError, "X of equation u .*operator Dense"),
    (([da.ones((6, 2))] * 3, NEW_Y), TypeError, "X of equation u .*compute"),
])
def test_new_data_are_refused_by_name(given, error, message):
    with pytest.raises(error, match=message):
        fitted().score(*given)


# ---------------------------------------------------------------- masks and kinds of numbers


def line():
    """y = x / 9 and some noise, one cell of which is masked over a huge number."""
    rng = np.random.default_rng(1)
    x = np.arange(30.0)
    y = np.ma.array(x / 9 + 0.1 * rng.standard_normal(30), mask=False)
    y[4] = 1e9
    y[4] = np.ma.masked
    return x, y


def test_masked_cells_are_missing_or_refused():
    x, y = line()
    other = np.cos(x) + np.ma.getdata(line()[1]).clip(-1, 1)
    found = SUR({"a": (y, x), "b": (other, x**2)}).fit(ranks=0)
    kept = np.arange(30) != 4
    expected = x[kept] @ np.ma.getdata(y)[kept] / (x[kept] @ x[kept])
    assert found.params["a"]["x0"] == pytest.approx(expected, rel=1e-6) and 0.1 < expected < 0.12
    assert found.resid["a"].isna().tolist() == (~kept).tolist()
    # The same among regressors, and in a table.
    assert SUR({"a": (other, y), "b": (other, x)}).nobs == {"a": 29, "b": 30}
    table = np.ma.column_stack([y, np.ma.array(other)])
    assert SUR.multivariate_ls(table, x).nobs == {"y0": 29, "y1": 30}
    with pytest.raises(ValueError, match="y must be finite.*observation 4"):
        gls(x, y, np.ones(30))
    with pytest.raises(ValueError, match=r"X must be finite.*1 row \(4\)"):
        gls(y, x, np.ones(30))
    with pytest.raises(ValueError, match="covariance must be finite.*observation 4"):
        gls(x, x, y)
    for call in (als_gls, em_gls, select_sur_ranks):
        options = {} if call is select_sur_ranks else {"ranks": 1}
        with pytest.raises(ValueError, match="Y must be finite.*equation 0; row 4.*SUR takes"):
            call([x[:, None]] * 2, table, **options)
        with pytest.raises(ValueError, match="X of equation b must be finite.*column 0; row 4"):
            call({"a": x[:, None], "b": y[:, None]}, np.stack([x, other], 1), **options)
    clusters = np.ma.array(np.arange(30) // 3, mask=~kept)
    with pytest.raises(ValueError, match="there is none for row 4"):
        _ = found.with_cov("clustered", clusters=clusters).bse


def test_kinds_of_numbers_are_one():
    expected = als_gls(XS, Y, covariance=SIGMA).params
    kinds = {
        "objects": lambda x: x.astype(object), "nullable": lambda x: x.astype("Float64"),
        "big-endian": lambda x: np.asarray(x).astype(">f8"),
        "Fortran": lambda x: np.asfortranarray(x), "list": lambda x: np.asarray(x).tolist(),
        "strided": lambda x: np.repeat(np.asarray(x), 2, axis=0)[::2],
    }
    for kind in kinds.values():
        found = als_gls([kind(X) for X in XS.values()], kind(Y), covariance=kind(SIGMA))
        np.testing.assert_allclose(np.concatenate(found.coefficients), expected, rtol=1e-10)
        one = gls(kind(XS["u"]), kind(Y[["u"]])["u"] if hasattr(kind(Y), "columns")
                  else np.asarray(kind(Y[["u"]]))[:, 0], np.asarray(kind(WEIGHTS.to_frame()))[:, 0])
        np.testing.assert_allclose(one.coefficients, gls(XS["u"], Y["u"], WEIGHTS).params)
    single = [np.asarray(X).astype(">f4") for X in XS.values()]
    assert als_gls(single, Y.to_numpy().astype(">f4"), 0).data.Y.dtype == np.dtype("f4")


NOT_IN_MEMORY = [
    lambda x: gls(x, Y["u"], np.ones(N)), lambda x: gls(XS["u"], x[:, 0], np.ones(N)),
    lambda x: gls(XS["u"], Y["u"], x[:, 0]), lambda x: als_gls([x] * 3, Y, 0),
    lambda x: als_gls(XS, da.ones((N, 3)), 0), lambda x: SUR({"a": (x[:, 0], XS["u"])}),
    lambda x: SUR({"a": (Y["u"], x)}), lambda x: SUR.multivariate_ls(x, XS["u"]),
    lambda x: fit().with_cov("clustered", clusters=x[:, 0]).bse,
    lambda x: als_gls(XS, Y, covariance=x[:3]), lambda x: gls(XS["u"], Y["u"], np.ones(N), x0=x[0]),
    lambda x: fit().wald_test(x), lambda x: fit().predict([x] * 3), lambda x: fit().predict(x)]


@pytest.mark.parametrize("call", NOT_IN_MEMORY)
def test_what_is_not_in_memory_is_refused(call):
    with pytest.raises(TypeError, match="must be in memory, got a dask Array.*compute"):
        call(da.ones((N, 2)))


def test_tables_that_are_not_in_memory_are_refused():
    frames = pytest.importorskip("dask.dataframe")
    X, y = (frames.from_pandas(x, npartitions=2) for x in (XS["u"], Y["u"]))
    lazy = pl.from_pandas(XS["u"]).lazy()
    for call in (lambda: gls(X, Y["u"], WEIGHTS), lambda: gls(XS["u"], y, WEIGHTS),
                 lambda: gls(XS["u"], Y["u"], y), lambda: als_gls([X] * 3, Y, 0),
                 lambda: SUR({"u": (y, XS["u"])}), lambda: fit().predict([X] * 3),
                 lambda: fit().with_cov("clustered", clusters=y).bse,
                 lambda: gls(lazy, Y["u"], WEIGHTS), lambda: als_gls([lazy] * 3, Y, 0),
                 lambda: als_gls(XS, lazy, 0), lambda: SUR({"u": (Y["u"], lazy)})):
        with pytest.raises(TypeError, match="must be in memory, got a .* compute"):
            call()


def test_columns_of_one_name_are_refused():
    twice = XS["u"].set_axis(["a", "a"], axis=1)
    for call in (lambda: gls(twice, Y["u"], WEIGHTS), lambda: als_gls([twice] * 3, Y, 0),
                 lambda: SUR({"u": (Y["u"], twice)}), lambda: fit().predict([twice] * 3)):
        with pytest.raises(ValueError, match="must have different names, got a more than once"):
            call()
    with pytest.raises(ValueError, match="equations must have different names, got u more"):
        als_gls(list(XS.values()), Y.set_axis(["u", "u", "w"], axis=1), 0)


# ---------------------------------------------------------------- polars


def test_polars_keeps_names():
    Xs = {name: pl.from_pandas(X) for name, X in XS.items()}
    table = pl.from_pandas(Y)
    expected = als_gls(XS, Y, covariance=SIGMA)
    sigma = pl.from_pandas(SIGMA.iloc[[2, 0, 1], [2, 0, 1]])  # rows as columns
    for found in (als_gls(Xs, table[["w", "u", "v"]], covariance=sigma),
                  als_gls(list(Xs.values()), table, covariance=SIGMA),
                  SUR({name: (table[name], Xs[name]) for name in NAMES}).fit(covariance=sigma),
                  SUR.multivariate_ls(table, Xs["u"]).fit(covariance=sigma)):
        assert set(found.params.index) == set(expected.params.index)
        assert set(found.resid.columns) == set(NAMES)
        if found.data.Xs[0] is not found.data.Xs[1]:
            np.testing.assert_allclose(found.params[expected.params.index], expected.params)
    new = {name: pl.from_pandas(X)[["b", "a"]] for name, X in NEW_XS.items()}
    np.testing.assert_allclose(fit().predict(new), fit().predict(NEW_XS))
    with pytest.raises(ValueError, match=r"none for 1 regressor \(a\).*\(q\)"):
        fit().predict({**new, "v": new["v"].rename({"a": "q"})})
    one = gls(Xs["u"], table["u"], pl.from_pandas(WEIGHTS), x0={"b": 1.0, "a": 0})
    plain = gls(XS["u"], Y["u"], WEIGHTS)
    pd.testing.assert_series_equal(one.params, plain.params)
    assert one.dependent == "u" and type(one.resid) is np.ndarray
    assert fit().wald_test(pl.DataFrame({"v_b": [1.0], "u_a": [2.0]})).statistic == pytest.approx(
        fit().wald_test({("u", "a"): 2, ("v", "b"): 1}).statistic)


# ---------------------------------------------------------------- names that come out


def test_names_come_out(tmp_path):
    save(tmp_path / "fit.npz", fitted())
    for found in (fitted(), load(tmp_path / "fit.npz")):
        pairs = [(name, x) for name in NAMES for x in "ab"]
        for x in (found.params, found.bse, found.tvalues, found.pvalues, found.conf_int(),
                  found.cov_params(), found.to_frame()):
            assert list(x.index) == pairs
        for x in (found.resid, found.fittedvalues, found.predict()):
            assert list(x.index) == list(ROWS) and list(x.columns) == list(NAMES)
        for x in (found.rsquared, found.mse, found.df_resid):
            assert list(x.index) == list(NAMES)
        new = found.score_samples(NEW_XS, NEW_Y)
        assert list(new.index) == list(NEW_Y.index)


def test_clusters_of_more_rows_than_the_data():
    more = pd.concat([CLUSTERS, pd.Series({"later": 99})]).iloc[::-1]
    np.testing.assert_allclose(fit().with_cov("clustered", clusters=more).bse,
                               fit().with_cov("clustered", clusters=CLUSTERS.to_numpy()).bse)


def test_rows_are_named_by_whatever_has_labels():
    plain = als_gls([X.to_numpy() for X in XS.values()], Y.to_numpy(), 0)
    assert plain.data.names is None
    named = als_gls([XS["u"], *[X.to_numpy() for X in list(XS.values())[1:]]], Y.to_numpy(), 0)
    assert list(named.resid.index) == list(ROWS) and list(named.resid.columns) == ["y0", "y1", "y2"]
    np.testing.assert_allclose(named.resid, plain.resid)


def test_pictures_carry_names():
    plt = pytest.importorskip("matplotlib.pyplot")
    from mlrops.plotting import plot_coefficients

    other = SUR({name: equations()[name] for name in "wvu"}).fit(
        (1, 0), {"u": "n", "v": "s", "w": "n"})
    axes = plot_coefficients({"given": fit(), "tree": other})
    try:
        assert [ax.get_title() for ax in axes] == ["a", "b"]
        named = [text.get_text() for text in axes[0].get_yticklabels()]
        assert named == ["w", "u", "v"]  # in the order of the tree
        dots = [line for line in axes[0].lines if line.get_linestyle() == "None"]
        for line, found in zip(dots, (fit(), other), strict=True):
            np.testing.assert_allclose(line.get_xdata(), [found.params[x, "a"] for x in named])
    finally:
        plt.close(axes[0].figure)
    lacking = SUR({name: equations()[name] for name in "uv"}).fit(covariance=np.eye(2))
    with pytest.raises(ValueError, match=r"same equations, less and given differ \(w\)"):
        plot_coefficients({"given": fit(), "less": lacking})


def test_scores_of_factors_carry_names():
    tree = SUR(equations()).fit((1, 1, 0), {"u": ("n", 1), "v": ("s", 2), "w": ("n", 3)})
    plain = replace(tree, data=replace(tree.data, names=None)).factor_scores()
    for level, found in enumerate(tree.factor_scores()):
        assert list(found.index) == list(ROWS)
        np.testing.assert_allclose(found, plain[level].reshape(N, -1), atol=1e-12)
        pd.testing.assert_frame_equal(found, tree.factor_scores(level))
    assert list(tree.factor_scores(1).columns) == [("n", "factor 0"), ("s", "factor 0")]
    assert tree.factor_scores(2).shape == (N, 0)


def test_operators_with_names_are_matched_to_the_equations_and_rows():
    tree = Hierarchy.from_labels({"v": "x", "w": "x", "u": "y"})
    sigma = MLR(tree, [np.ones((3, 1)), np.array([[0.5], [0.6], [0.7]])], [1.0, 2, 3])
    names = list(tree.feature_names)
    frame = pd.DataFrame(sigma.toarray(), names, names)
    for call in (als_gls, lambda Xs, Y, covariance: SUR(equations()).fit(covariance=covariance)):
        np.testing.assert_allclose(call(XS, Y, covariance=sigma).params,
                                   call(XS, Y, covariance=frame).params, rtol=1e-9)
        other = Hierarchy.from_labels({"v": "x", "w": "x", "q": "y"})
        with pytest.raises(ValueError, match=r"none for 1 equation \(u\).*no equation \(q\)"):
            call(XS, Y, covariance=MLR(other, sigma.factors, sigma.D))
    rows = list(ROWS[::-1])
    tree = Hierarchy.from_labels({row: i // 10 for i, row in enumerate(rows)})
    rng = np.random.default_rng(0)
    sigma = MLR(tree, [rng.standard_normal((N, 1))] * 2, rng.uniform(1, 2, N))
    np.testing.assert_allclose(gls(XS["u"], Y["u"], sigma).params, gls(
        XS["u"], Y["u"], pd.DataFrame(sigma.toarray(), rows, rows)).params, rtol=1e-8)
    # Without names it stands in the order of the rows.
    unnamed = MLR(Hierarchy.from_labels([i // 10 for i in range(N)]), sigma.factors, sigma.D)
    np.testing.assert_allclose(gls(XS["u"], Y["u"], unnamed).params, gls(
        XS["u"], Y["u"], unnamed.toarray()).params, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_groups_are_read_by_name_whatever_takes_them():
    groups = {"w": "n", "v": "s", "u": "n"}
    for given in (groups, pd.Series(groups), pd.DataFrame({"side": groups}), ["n", "s", "n"],
                  Hierarchy.from_labels(groups)):
        for call in (als_gls, em_gls):
            found = call(XS, Y, (1, 0), given, max_iter=3)
            assert found.covariance.hierarchy.labels(1).tolist() == [0, 1, 0]
        chosen = select_sur_ranks(XS, Y, [(0, 0), (1, 0)], given, max_iter=3)
        assert chosen.fit.covariance.hierarchy.names(1) == ("n", "s")


def test_messages_name_rows_by_label_and_count_in_plain_words():
    wrong = equations()
    wrong["u"]["weights"] = WEIGHTS.mask(WEIGHTS.index == "r07", -1).iloc[::-1]
    with pytest.raises(ValueError, match="weights of equation u .* got -1 in row r07"):
        SUR(wrong)
    few = {name: (Y[name].iloc[:2], X.iloc[:1]) for name, X in XS.items()}
    with pytest.raises(ValueError, match="equation u has 2 regressors and 1 complete row;"):
        SUR(few)
    with pytest.raises(ValueError, match="got 1 row and 1 column$"):
        gls([[1.0]], [1.0], [1.0])


def test_weights_must_have_the_rows_of_their_equation():
    expected = SUR(equations()).data
    more = equations()
    more["u"]["weights"] = pd.concat([WEIGHTS, pd.Series({"later": 1e6})]).iloc[::-1]
    found = SUR(more)
    np.testing.assert_allclose(found.data.weights, expected.weights)
    assert found.dropped == [] and list(found.data.names.rows) == list(ROWS)
    wrong = equations()
    wrong["u"]["weights"] = WEIGHTS.rename({"r07": "stranger"})
    with pytest.raises(ValueError, match=r"weights of equation u .*none for 1 row \(r07\)"):
        SUR(wrong)
