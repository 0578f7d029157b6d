"""Labels of regressions: what has names is matched by name, or refused with the names."""

import inspect

import numpy as np
import pandas as pd
import pytest
from labelled_regressions import (
    CALLS,
    CLUSTERS,
    NEW_XS,
    ROWS_MAY_DIFFER,
    XS,
    Y,
)

from mlrops import SUR, GLSResult, als_gls, gls
from mlrops.regression.sur.prediction import SystemPrediction
from mlrops.regression.sur.result import SURResult

# ---------------------------------------------------------------- every call, labels shuffled


def shuffled(x):
    """The same labels in another order: rows and columns of tables, keys of dicts."""
    if isinstance(x, dict):
        return {key: shuffled(x[key]) for key in reversed(x)}
    if not isinstance(x, (pd.Series, pd.DataFrame)):
        return x
    order = np.random.default_rng(len(x)).permutation(len(x))
    if (order == np.arange(len(x))).all():
        order = order[::-1]
    return x.iloc[order] if isinstance(x, pd.Series) else x.iloc[order, ::-1]


def as_given(x):
    return x


def close(found, expected):
    """Whether results agree label by label, to what iterations promise."""
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            close(*pair)
    elif isinstance(expected, pd.DataFrame):
        assert set(found.index) == set(expected.index)
        assert set(found.columns) == set(expected.columns)
        np.testing.assert_allclose(found.loc[expected.index, expected.columns], expected,
                                   rtol=1e-3, atol=1e-4)
    elif isinstance(expected, pd.Series):
        assert set(found.index) == set(expected.index)
        np.testing.assert_allclose(found.loc[expected.index], expected, rtol=1e-3, atol=1e-4)
    elif isinstance(expected, str):
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_labels_does_not_matter(name):
    close(CALLS[name](shuffled), CALLS[name](as_given))


class OneForeign:
    """Gives one of the objects that it is called with a label that nothing else has."""

    def __init__(self, number):
        self.left, self.label = number, "stranger"

    def __call__(self, x):
        self.left -= 1
        if self.left != -1:
            return x
        if isinstance(x, dict):
            *others, last = x
            return {key: x[key] for key in others} | {self.label: x[last]}
        if isinstance(x.index, pd.MultiIndex):
            self.label = ("stranger", "a")
        return x.set_axis([*x.index[:-1], self.label])


def number_of_objects(call):
    seen = []
    call(lambda x: seen.append(x) or x)
    return len(seen)


# R of a test is read by its columns; the names of its rows are its own, which q must have.
FOREIGN = [(name, i) for name, call in CALLS.items() if name not in ROWS_MAY_DIFFER
           for i in range(number_of_objects(call))]


@pytest.mark.parametrize("name, number", FOREIGN)
def test_foreign_labels_are_refused_by_name(name, number):
    with pytest.raises(ValueError, match="stranger|(none|no .*) for 1"):
        CALLS[name](OneForeign(number))


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("SURResult")
                                  and "wald" not in name and "cov" not in name])
def test_foreign_regressors_and_equations_are_refused_by_name(name):
    def renamed(x):
        if isinstance(x, dict):
            return {key: renamed(value) for key, value in x.items()}
        return x.rename(columns={x.columns[0]: "stranger"})

    with pytest.raises(ValueError, match=r"none for 1 regressor \(a\).*no regressor \(stranger\)"):
        CALLS[name](renamed)


def test_the_walk_knows_every_method_that_takes_data():
    for kind in (SURResult, GLSResult, SystemPrediction, SUR):
        for name, method in inspect.getmembers(kind, callable):
            if name.startswith("_"):
                continue
            taken = set(inspect.signature(method).parameters)
            if taken & {"Xs", "Y", "R", "dependent", "clusters", "covariance"}:
                assert f"{kind.__name__}.{name}" in CALLS, name
    assert {"gls", "als_gls", "em_gls", "select_sur_ranks", "SUR", "SURResult.with_cov"} <= {*CALLS}


# ---------------------------------------------------------------- gls by value

ABCD = pd.Index(list("abcd"))
ONE = {"X": {"x": [1, 2, 3, 5]}, "y": pd.Series([1, 2, 2, 7], ABCD),
       "variances": pd.Series([1.0, 1, 1, 100], ABCD)}


def test_variances_are_read_by_label():
    X, y, v = ONE.values()
    frame = pd.DataFrame(X, ABCD)
    for given in (v, v[::-1], dict(v[::-1]), v.astype("Float64")[::-1], v.astype(object)[::-1],
                  pd.DataFrame(np.diag(v), ABCD, ABCD).iloc[::-1, [2, 0, 1, 3]]):
        for regressors, dependent in ((X, y), (frame, y), (frame, y[::-1]), (frame, y.to_list()),
                                      (frame[::-1], y), (frame["x"], dict(y))):
            found = gls(regressors, dependent, given)
            assert found.params["x"] == pytest.approx(0.7964912, abs=1e-7)
            assert found.resid["d"] == pytest.approx(3.0175439, abs=1e-7)
    # By position in silence it would have been this.
    assert gls(X, y, v[::-1].to_numpy()).params["x"] == pytest.approx(1.184, abs=1e-3)


def test_names_that_gls_takes_come_out():
    X, y, v = ONE.values()
    found = gls(X, y.rename("income"), v)
    for x in (found.params, found.bse, found.tvalues, found.pvalues):
        assert list(x.index) == ["x"]
    for x in (found.resid, found.fittedvalues):
        assert list(x.index) == list("abcd") and x.name == "income"
    assert list(found.cov_params().index) == list(found.cov_params().columns) == ["x"]
    assert list(found.conf_int().columns) == ["lower", "upper"]
    assert isinstance(found.coefficients, np.ndarray) and isinstance(found.errors, np.ndarray)
    plain = gls(np.array([[1], [2], [3], [5.0]]), [1, 2, 2, 7], [1, 1, 1, 100])
    assert all(type(x) is np.ndarray for x in (
        plain.params, plain.bse, plain.resid, plain.fittedvalues, plain.conf_int(),
        plain.cov_params()))
    # Rows that only y names.
    assert list(gls(np.array([1, 2, 3, 5]), y, v).resid.index) == list("abcd")


@pytest.mark.parametrize("change, message", [
    ({"covariance": lambda v: v.rename({"a": "q"})}, r"none for 1 observation \(a\).*\(q\)"),
    ({"covariance": lambda v: v.iloc[:-1]}, r"none for 1 observation \(d\)"),
    ({"covariance": lambda v: pd.concat([v, pd.Series({"e": 1.0})])}, r"no observation \(e\)"),
    ({"covariance": lambda v: v.set_axis(list("aabc"))}, "each label once.*got a more than once"),
    ({"covariance": lambda v: pd.DataFrame(np.diag(v), list("abcq"), ABCD)}, r"its index.*\(q\)"),
    ({"covariance": lambda v: v.replace(100, np.nan)}, "observation d"),
    ({"covariance": lambda v: v - 5}, "got -4 at observation a .3 observations: a, b, c"),
    ({"y": lambda y: y.rename({"b": "q"})}, r"y must .*none for 1 observation \(b\)"),
    ({"y": lambda y: y.astype("Int64").replace(7, pd.NA)}, "y must be finite.*observation d"),
    ({"X": lambda X: X.set_axis(["x", "x"], axis=1)}, "columns of X .*got x more than once"),
    ({"X": lambda X: X.where(X < 5)}, r"column \('x'\) and 1 row \(d\)"),
    ({"x0": lambda _: {"z": 1.0, "o": 1}}, r"x0 must .*none for 1 coefficient \(x\)"),
])
def test_gls_refuses_by_name(change, message):
    given = {"X": pd.DataFrame({"x": [1, 2, 3, 5], "o": [1, 0, 1, 0]}, ABCD), "y": ONE["y"],
             "covariance": ONE["variances"], "x0": None}
    for name, how in change.items():
        given[name] = how(given[name])
    with pytest.raises(ValueError, match=message):
        gls(**given)


def test_labels_with_nothing_to_match_are_refused():
    X, y, v = ONE.values()
    with pytest.raises(ValueError, match=r"labels \(a, b, c, d\), the data have none"):
        gls(X, y.to_numpy(), v)
    with pytest.raises(ValueError, match="give data with labels, or X of equation 0"):
        als_gls([x.to_numpy() for x in XS.values()], Y.to_numpy(), 0).predict(list(NEW_XS.values()))
    unnamed = als_gls([x.to_numpy() for x in XS.values()], Y.to_numpy(), covariance=np.eye(3))
    for numbers in ((2, 0, 1), ("2", "0", "1")):
        new = dict(zip(numbers, ([[0, 1]], [[1, 0]], [[0, 0]]), strict=True))
        assert (unnamed.predict(new) == 0).tolist() == [[False, True, False]]
    with pytest.raises(ValueError, match="clusters has labels"):
        unnamed.with_cov("clustered", clusters=CLUSTERS)
