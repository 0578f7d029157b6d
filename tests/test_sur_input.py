"""What `SUR` reads, how rows and labels are put together, and what it refuses by name."""

import numpy as np
import pandas as pd
import pytest

from mlrops import SUR, Dense, Diagonal, Hierarchy

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


def draw(N=30, K=4, seed=0):
    """Equations a, b, c, ... of DataFrames with regressors one, x."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(N)
    days = pd.date_range("2020-01-01", periods=N)
    return {name: {"dependent": pd.Series(common + rng.standard_normal(N), days, name="y"),
                   "exog": pd.DataFrame({"one": 1.0, "x": rng.standard_normal(N)}, days)}
            for name in "abcdefgh"[:K]}


def arrays(equations):
    return {name: {key: x.to_numpy() for key, x in given.items()}
            for name, given in equations.items()}


def changed(equations, name, **what):
    return {**equations, name: {**equations[name], **what}}


# ---------------------------------------------------------------- forms of equations


def test_all_forms_are_one_system():
    equations = draw()
    expected = SUR(equations).data
    forms = {
        "tuple": {name: (given["dependent"], given["exog"]) for name, given in equations.items()},
        "list": {name: [given["dependent"], given["exog"], None]
                 for name, given in equations.items()},
        "frame": {name: (given["dependent"].to_frame(), given["exog"])
                  for name, given in equations.items()},
        "array and frame": {name: (given["dependent"].to_numpy(), given["exog"])
                            for name, given in equations.items()},
        "columns": {name: (given["dependent"].to_numpy()[:, None], given["exog"].to_numpy())
                    for name, given in equations.items()},
    }
    for what, form in forms.items():
        found = SUR(form).data
        np.testing.assert_array_equal(found.Y, expected.Y)
        for X, Z in zip(found.Xs, expected.Xs, strict=True):
            np.testing.assert_array_equal(X, Z)
        assert found.names.equations == tuple("abcd")
        assert found.names.regressors[0] == (("x0", "x1") if what == "columns" else ("one", "x"))
        assert (found.names.rows is None) == (what == "columns")


def test_one_column_of_regressors():
    equations = {name: (given["dependent"], given["exog"]["x"]) for name, given in draw().items()}
    assert SUR(equations).param_names == ["a_x", "b_x", "c_x", "d_x"]
    rng = np.random.default_rng(0)
    model = SUR({"a": (rng.standard_normal(9), np.arange(9.0)), 2: (np.arange(9), np.ones(9))})
    assert model.param_names == ["a_x0", "2_x0"] and model.data.Xs[0].shape == (9, 1)
    assert model.nobs == {"a": 9, "2": 9}


def test_kinds_of_numbers_names_and_rows():
    rng = np.random.default_rng(0)
    y, X = rng.standard_normal((2, 40))
    model = SUR({"a": (pd.Series(y), pd.Series(X, name=3)), "b": (list(y[::-1]), (X > 0).tolist()),
                 "c": (y**2, pd.DataFrame(np.arange(80).reshape(40, 2)))})
    assert model.param_names == ["a_3", "b_x0", "c_0", "c_1"]
    assert model.data.Y.dtype == model.data.Xs[1].dtype == np.float64
    index = pd.MultiIndex.from_product([range(8), list("vwxyz")])
    X = pd.DataFrame({"x": X}, index)
    model = SUR({"a": (pd.Series(y, index), X), "b": (pd.Series(y[3:], index[3:]) ** 2, X)})
    assert model.nobs == {"a": 40, "b": 37} and model.data.names.rows.equals(index)


def test_equations_of_different_days():
    equations = draw()
    late = {key: x.iloc[10:] for key, x in equations["a"].items()}
    model = SUR({**equations, "a": late})
    assert model.data.N == 30 and model.nobs == {"a": 20, "b": 30, "c": 30, "d": 30}
    assert model.data.names.rows.is_monotonic_increasing
    assert not model.data.Xs[0][:10].any() and not model.data.Y[:10, 0].any()
    # An equation whose y and X have different days has those that both have.
    y, X = equations["a"].values()
    uneven = {"dependent": y.iloc[5:], "exog": X.iloc[:25]}
    assert SUR({**equations, "a": uneven}).nobs["a"] == 20


def test_missing_weights_are_missing_cells():
    equations = draw()
    w = pd.Series(1.5, equations["b"]["dependent"].index)
    w.iloc[3] = np.nan
    model = SUR(changed(equations, "b", weights=w))
    assert model.nobs["b"] == 29 and model.data.weights is None


def test_nullable_columns():
    equations = draw()
    y = equations["a"]["dependent"].astype("Float64")
    y.iloc[2] = pd.NA
    assert SUR(changed(equations, "a", dependent=y)).nobs["a"] == 29


# ---------------------------------------------------------------- equations that are refused


def a_day_twice(equations):
    X = equations["b"]["exog"]
    return changed(equations, "b", exog=X.set_axis([*X.index[:-1], X.index[0]]))


REFUSED = {
    "no dict": (lambda e: list(e.values()), TypeError, "dict of equations by name"),
    "empty": (lambda e: {}, ValueError, "at least one equation"),
    "same names": (lambda e: {1: e["a"], "1": e["b"]}, ValueError, "different names, got 1 more"),
    "a frame": (lambda e: {**e, "b": e["b"]["exog"]}, TypeError, "equation b must be a dict"),
    "four": (lambda e: {**e, "b": (1, 2, 3, 4)}, TypeError, "equation b .* got 4 entries"),
    "endog": (lambda e: changed(e, "b", endog=1), ValueError, "equation b has 'endog'.*exogenous"),
    "no exog": (lambda e: {**e, "c": {"dependent": e["c"]["dependent"]}}, ValueError,
                "equation c lacks 'exog'"),
    "text": (lambda e: changed(e, "b", exog=e["b"]["exog"].assign(x="text")), TypeError,
             "exog of equation b must be numeric.*x"),
    "complex": (lambda e: changed(arrays(e), "b", dependent=np.ones(30) * 1j), TypeError,
                "dependent of equation b must be real"),
    "infinite": (lambda e: changed(e, "c", exog=e["c"]["exog"].replace(1.0, np.inf)), ValueError,
                 "exog of equation c must not be infinite, got inf in row 2020-01-01.* column one"),
    "two columns": (lambda e: changed(e, "b", dependent=e["b"]["exog"]), ValueError,
                    "dependent of equation b must be one column, got 2"),
    "three axes": (lambda e: changed(arrays(e), "b", exog=np.ones((30, 1, 1))), ValueError,
                   "exog of equation b must be 1-d or 2-d"),
    "same columns": (lambda e: changed(e, "b", exog=e["b"]["exog"].set_axis(["x", "x"], axis=1)),
                     ValueError, "columns of exog of equation b must have different names, got x"),
    "same days": (a_day_twice, ValueError, "rows of exog of equation b .*2020-01-01.*more than"),
    "lengths": (lambda e: changed(arrays(e), "b", exog=np.ones((29, 2))), ValueError,
                "exog of equation b has 29 rows without labels, 30 in equation a"),
    "other lengths": (lambda e: {**arrays(e), "b": (np.ones(29), np.ones(29))}, ValueError,
                      "dependent of equation b has 29 rows without labels, 30 in equation a"),
    "short array": (lambda e: changed(e, "b", exog=np.ones((29, 2))), ValueError,
                    "exog of equation b is an array of 29 rows.*30 rows"),
    "kinds": (lambda e: changed(e, "b", **{key: x.set_axis(range(30))
                                           for key, x in e["b"].items()}),
              ValueError, "row labels of equations a and b are of different kinds"),
    "alone": (lambda e: {**e, "b": {key: x.shift(100, freq="D") for key, x in e["b"].items()}},
              ValueError, r"1 equation shares no row with any other one \(b\)"),
    "array beside days": (lambda e: {**e, "a": arrays(e)["a"],
                                     "b": {key: x.iloc[1:] for key, x in e["b"].items()}},
                          ValueError, "dependent of equation a .*without labels, those of other"),
    "few rows": (lambda e: {name: {key: x.iloc[:2] for key, x in given.items()}
                            for name, given in e.items()}, ValueError,
                 "equation a has 2 regressors and 2 complete rows; more rows"),
    "no numbers": (lambda e: changed(e, "b", exog=e["b"]["exog"].assign(x=np.nan)), ValueError,
                   r"equation b has 2 regressors and 0 complete rows \(column x has no numbers\)"),
    "no rows": (lambda e: changed(arrays(e), "b", exog=np.ones((0, 2))), ValueError,
                "exog of equation b must have at least one row"),
    "weight 0": (lambda e: changed(e, "b", weights=np.zeros(30)), ValueError,
                 "weights of equation b must be positive, got 0 in row 2020-01-01"),
    "negative weight": (lambda e: changed(arrays(e), "b", weights=np.r_[np.ones(29), -2]),
                        ValueError, "weights of equation b must be positive, got -2 in row 29"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what):
    change, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        SUR(change(draw()))


def test_refuses_an_unknown_rule_for_missing_cells():
    with pytest.raises(ValueError, match="missing must be one of 'cells', 'drop', 'raise'"):
        SUR(draw(), missing="ignore")


def test_dependent_regressors_are_named():
    equations = draw()
    X = equations["c"]["exog"]
    for columns, message in (({"twice": 2 * X["x"]}, "equation c is rank-deficient: column twice"),
                             ({"zero": 0.0}, "equation c has a column of zeros .column zero")):
        with pytest.raises(ValueError, match=message):
            SUR(changed(equations, "c", exog=X.assign(**columns))).fit(ranks=1)
    gaps = X.assign(late=np.r_[np.zeros(20), np.ones(10)])  # constant where y is there
    y = equations["c"]["dependent"].where(np.arange(30) < 20)
    with pytest.raises(ValueError, match="equation c has a column of zeros .column late"):
        SUR(changed(equations, "c", exog=gaps, dependent=y)).fit(ranks=1)


def test_equations_without_a_variance_are_named():
    equations = draw()
    X = equations["c"]["exog"]
    with pytest.raises(ValueError, match=r"1 equation is fitted exactly .*equation c\)"):
        SUR(changed(equations, "c", dependent=X.sum(axis=1))).fit(ranks=1)
    tiny = changed(equations, "c", dependent=1e-40 * equations["c"]["dependent"])
    with pytest.raises(ValueError, match=r"Y has 1 equation \(c\) with variances out of the range"):
        SUR(tiny).fit(ranks=(0, 1), hierarchy=list("zyzy"))


def test_multivariate_ls_refuses():
    rng = np.random.default_rng(0)
    Y = pd.DataFrame(rng.standard_normal((20, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match="columns of dependent must have different names, got a"):
        SUR.multivariate_ls(Y, np.ones(20))
    with pytest.raises(ValueError, match="table of rows by equations"):
        SUR.multivariate_ls(np.ones(20), np.ones(20))
    assert SUR.multivariate_ls(rng.standard_normal((20, 2)), np.ones(20)).equations == ("y0", "y1")


# ---------------------------------------------------------------- groups


LABELS = {"a": ("north", "coast"), "b": ("south", "desert"), "c": ("north", "hills"),
          "d": ("south", "desert")}
FRAME = pd.DataFrame.from_dict(LABELS, orient="index", columns=["zone", "land"])


@pytest.mark.parametrize("groups", [
    LABELS, {**LABELS, "z": ("west", "sea")}, FRAME, FRAME.iloc[::-1],
    [["north", "south", "north", "south"], ["coast", "desert", "hills", "desert"]],
    FRAME.astype("category"),
], ids=["dict", "more", "frame", "shuffled", "lists", "categories"])
def test_labels_of_two_levels(groups):
    fit = SUR(draw()).fit(ranks=(1, 0, 0), hierarchy=groups)
    h = fit.covariance.hierarchy
    assert h == Hierarchy.from_labels(*FRAME.to_numpy().T)
    assert h.names(1) == ("north", "south") and h.names(2) == ("coast", "hills", "desert")


@pytest.mark.parametrize("groups", [
    {"a": "n", "b": "s", "c": "n", "d": "s"}, pd.Series(list("snsn"), index=list("badc")),
    list("nsns"), [list("nsns")], np.array(list("nsns")), Hierarchy.from_labels(list("nsns"))],
    ids=["dict", "series", "list", "lists", "array", "hierarchy"])
def test_labels_of_one_level(groups):
    fit = SUR(draw()).fit(ranks=(1, 0), hierarchy=groups)
    assert fit.covariance.hierarchy == Hierarchy.from_labels(list("nsns"))
    assert fit.covariance.hierarchy.names(1) == ("n", "s")


@pytest.mark.parametrize("groups, error, message", [
    ({"a": "n", "b": "s"}, ValueError, r"has none for 2 equations \(c, d\)"),
    (FRAME.loc[["a", "b", "d"]], ValueError, r"has none for 1 equation \(c\)"),
    (FRAME.loc[["a", "b", "c", "d", "d"]], ValueError, "got d more than once"),
    ({**LABELS, "c": "north"}, ValueError, "equally many labels.*a has 2, not so c"),
    ({**LABELS, "c": ("north", None)}, ValueError, r"no label for 1 equation \(c\)"),
    (FRAME.assign(land=["x", np.nan, "y", "z"]), ValueError, r"no label for 1 equation \(b\)"),
    ([list("nsn")], ValueError, "level 1 has 3 labels for 4 equations"),
    ("zone", TypeError, "must be a Hierarchy or labels"),
    (Hierarchy.flat(3), ValueError, "hierarchy's 3 equations, got 4"),
    ({**LABELS, "c": ("north", "desert")}, ValueError, "desert"),
])
def test_refuses_labels(groups, error, message):
    with pytest.raises(error, match=message):
        SUR(draw()).fit(ranks=(1, 0, 0), hierarchy=groups)


# ---------------------------------------------------------------- constraints


def test_forms_of_constraints_are_one():
    equations, model = draw(), None
    R = np.zeros((2, 8))
    R[0, [1, 3]], R[1, 4], q = (1, -1), 2, [0, 0.5]
    names = SUR(equations).param_names
    frame = pd.DataFrame(R, columns=names, index=["same", "half"])
    pairs = frame.set_axis(pd.MultiIndex.from_tuples([tuple(n.split("_")) for n in names]), axis=1)
    dicts = [{("a", "x"): 1, ("b", "x"): -1}, ({"c_one": 2}, 0.5)]
    value = pd.Series({"half": 0.5, "same": 0.0})
    for args in ((R, q), (frame, value), (frame[["c_one", "b_x", "a_x"]], value),
                 (pairs.iloc[:, ::-1], value), (dicts,)):
        model = SUR(equations)
        model.add_constraints(*args)
        for found, expected in zip(model.data.constraints, (R, q), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert list(model.constraints.index) == ["a_x - b_x = 0", "2 c_one = 0.5"]
    assert list(model.constraints["q"]) == [0, 0.5]
    one_by_one = SUR(equations, constraints=dicts[0])
    one_by_one.add_constraints([dicts[1]])
    pd.testing.assert_frame_equal(one_by_one.constraints, model.constraints)
    assert repr(one_by_one) == "<SUR: 4 equations, 8 coefficients, 30 rows, 2 constraints>"


@pytest.mark.parametrize("args, error, message", [
    (({("a", "z"): 1},), ValueError, r"constraint 0 names no coefficient: \('a', 'z'\); there are"
                                     " a_one, a_x"),
    ((pd.DataFrame({"a_x": [1], "q_x": [1]}),), ValueError, "column names no coefficient: 'q_x'"),
    ((pd.DataFrame([[1, 2]], columns=["a_x", "a_x"]),), ValueError, "more than once: .*'a', 'x'"),
    ((np.ones((1, 7)),), ValueError, r"each of the 8 coefficients, got shape \(1, 7\)"),
    ((np.full((1, 8), np.nan),), ValueError, "R must be finite"),
    ((np.ones((2, 8)), [1, 2, 3]), ValueError, "each of the 2 rows of R, got 3"),
    ((np.ones((2, 8)), [1, np.inf]), ValueError, "q must be finite"),
    ((pd.DataFrame({"a_x": [1]}, index=["r"]), pd.Series({"s": 1.0})), ValueError,
     "q must have .*none for 1 row .r.*no row .s"),
    (([{}],), TypeError, "constraint 0 must be a dict"),
    (([{"a_x": 1}, 3],), TypeError, "constraint 1 must be a dict"),
    (({"a_x": 1}, 2.0), TypeError, "has its value beside it"),
])
def test_refuses_constraints(args, error, message):
    with pytest.raises(error, match=message):
        SUR(draw()).add_constraints(*args)


def test_names_that_could_be_two_coefficients():
    y, X = np.random.default_rng(0).standard_normal((2, 20))
    equations = {"a": (y, pd.DataFrame({"b_x": X})), "a_b": (X, pd.DataFrame({"x": y}))}
    with pytest.raises(ValueError, match="'a_b_x' could be .*'a', 'b_x'.*'a_b', 'x'"):
        SUR(equations, constraints={"a_b_x": 1})
    SUR(equations, constraints={("a_b", "x"): 1})


def test_contradictions_are_named_and_repetitions_left_out():
    same = {("a", "x"): 1, ("b", "x"): -1}
    model = SUR(draw(), constraints=[same, ({("a", "x"): 2, ("b", "x"): -2}, 0.0)])
    fit = model.fit(ranks=1)
    assert fit.params["a"]["x"] == pytest.approx(fit.params["b"]["x"])
    assert fit.system.n_free == 7
    model.add_constraints([(same, 1.0)])
    with pytest.raises(ValueError, match="contradict one another: a_x - b_x = 1 cannot hold"):
        model.fit(ranks=1)
    rows = SUR(draw(), constraints=pd.DataFrame({"a_x": [1, 0]}, index=["one", "none"]))
    rows.add_constraints(pd.DataFrame({"a_x": [0]}, index=["empty"]), 2.0)
    with pytest.raises(ValueError, match="contradict one another: empty cannot hold"):
        rows.fit(ranks=1)


# ---------------------------------------------------------------- covariances and ranks


def test_forms_of_a_covariance_are_one():
    model = SUR(draw())
    A = np.array([[2, 1, 0, 0], [1, 3, 0, 0], [0, 0, 4, 1], [0, 0, 1, 5.0]])
    expected = model.fit(covariance=Dense(A, positive_definite=True)).params
    frame = pd.DataFrame(A, list("abcd"), list("abcd")).loc[list("dacb"), list("bcda")]
    rounded = A + np.triu(np.full((4, 4), 1e-15))
    for covariance in (A, A.tolist(), frame, rounded):
        np.testing.assert_allclose(model.fit(covariance=covariance).params, expected, rtol=1e-12)


@pytest.mark.parametrize("covariance, message", [
    (np.eye(3), r"shape \(4, 4\)"), (-np.eye(4), "positive definite"),
    (np.triu(np.ones((4, 4))) + np.eye(4), "symmetric"), (np.full((4, 4), np.nan), "finite"),
    (pd.DataFrame(np.eye(4), list("abce"), list("abcd")),
     r"its index.*none for 1 equation \(d\).*no equation \(e\)"),
    (pd.DataFrame(np.eye(4), list("abcd"), list("abcc")), "its columns.*each label once.*got c"),
    (Diagonal(np.ones(3)), r"shape \(4, 4\)"),
])
def test_refuses_covariances(covariance, message):
    with pytest.raises(ValueError, match=message):
        SUR(draw()).fit(covariance=covariance)


@pytest.mark.parametrize("options, error, message", [
    (dict(ranks=(1, 1)), ValueError, "1 entry, one a level"),
    (dict(ranks=-1), ValueError, "non-negative"),
    (dict(ranks=1.5), TypeError, "integer"),
    (dict(ranks="hqic"), ValueError, "ranks must be numbers or one of 'bic', 'aic', 'cv'"),
    (dict(ranks=1, rank_options={"max_rank": 2}), ValueError, "rank_options choose ranks"),
    (dict(ranks="bic", rank_options={"refit": False}), ValueError, "must not hold refit"),
    (dict(ranks="bic", rank_options={"max_rnak": 2}), TypeError, "select_sur_ranks, got max_rnak"),
    (dict(ranks="bic", covariance=np.eye(4)), ValueError, "covariance is given: there are no"),
    (dict(ranks=1, covariance=np.eye(4)), (TypeError, ValueError), "covariance"),
    (dict(ranks=1, solver="qr"), ValueError, "solver"),
])
def test_refuses_options_of_the_fit(options, error, message):
    with pytest.raises(error, match=message):
        SUR(draw()).fit(**options)


def test_more_factors_than_rows_carry():
    with pytest.raises(ValueError, match="equation a has 6 rows for 2 regressors and 4 factors;"
                                         r" more rows.*4 equations: a, b, c, d\): lower the ranks"):
        SUR(draw(N=6)).fit(ranks=4)
    # A rank above the number of equations is that number: every covariance the group can have.
    fit = SUR(draw()).fit(ranks=9)
    assert fit.capped == ((0, 0, 4),)
    assert np.isfinite(fit.bse).all() and (fit.bse > 0).all()
