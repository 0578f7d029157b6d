"""Saved systems come back as they were; damaged files are refused with one error."""

import json
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
from test_sur_tests import grunfeld
from test_sur_variants import TREE, draw, variants

import mlrops
from mlrops import Dense, Diagonal, Kronecker, als_gls
from mlrops.factor.selection import RankRecord, RankSelection
from mlrops.io.archive import read_archive, write_archive
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.data import SystemNames
from mlrops.regression.sur.result import SURResult

pytestmark = pytest.mark.filterwarnings("ignore:.*Heywood")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


def again(path, fit):
    mlrops.save(path, fit)
    return mlrops.load(path)


def same_array(a, b):
    if a is None:
        assert b is None
        return
    assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


def assert_same(a, b):
    """Every number, name and option of two results."""
    assert type(b) is SURResult
    for x, y in zip(a.data.Xs, b.data.Xs, strict=True):
        same_array(x, y)
    for name in ("Y", "observed", "weights"):
        same_array(getattr(a.data, name), getattr(b.data, name))
    if a.data.constraints is None:
        assert b.data.constraints is None
    else:
        for x, y in zip(a.data.constraints, b.data.constraints, strict=True):
            same_array(x, y)
    for x, y in zip(a.coefficients, b.coefficients, strict=True):
        same_array(x, y)
    plain = {f.name for f in fields(a)} - {"data", "coefficients", "covariance", "loglik_trace",
                                           "boundary", "cov_kwds", "selection",
                                           "objective_trace"}
    for name in plain:
        x, y = getattr(a, name), getattr(b, name)
        assert x == y and (type(x) is type(y)), name
    same_array(a.loglik_trace, b.loglik_trace)
    same_array(a.objective_trace, b.objective_trace)
    same_array(a.boundary, b.boundary)
    assert type(a.covariance) is type(b.covariance)
    same_array(a.covariance.toarray(), b.covariance.toarray())
    assert a.summary(max_equations=0) == b.summary(max_equations=0)
    for x, y in zip(a.bse, b.bse, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5 if x.dtype == np.float32 else 1e-10)


@pytest.mark.quick(3)
@pytest.mark.parametrize("case", ["plain", "weights", "limits", "gaps", "all"])
@pytest.mark.parametrize("dtype", [np.float64,
                                   pytest.param(np.float32, marks=pytest.mark.slow)])
def test_fits_come_back(path, case, dtype):
    data, _ = draw(dtype=dtype)
    data = data if case == "plain" else variants(data)[case]
    options = SUROptions(gtol=1e-3)
    fit = fit_system(data, (1, 1, 0), TREE, options)
    back = again(path, fit)
    assert_same(fit, back)
    assert back.wald_test({(0, 1): 1}) == fit.wald_test({(0, 1): 1})
    assert back.coefficients[0].flags.writeable


@pytest.mark.parametrize("covariance", [Diagonal(np.ones(6)), Dense(np.eye(6) + 0.5),
                                        Kronecker([Diagonal(np.ones(2)), Dense(np.eye(3))])])
def test_known_covariances(path, covariance):
    data, _ = draw()
    fit = als_gls(data.Xs, data.Y, covariance=covariance)
    assert_same(fit, again(path, fit))


def test_shared_regressors_stay_shared(path):
    X, Y = np.random.default_rng(0).standard_normal((2, 50, 40))
    fit = als_gls([X[:, :3]] * 40, Y, 1)
    back = again(path, fit)
    assert all(other is back.data.Xs[0] for other in back.data.Xs) and back.system.shared
    assert path.stat().st_size < 60_000
    none = als_gls([X[:, :0], X[:, :2]], Y[:, :2], 0)
    assert_same(none, again(path, none))


def test_names_and_rows(path):
    pd = pytest.importorskip("pandas")
    Xs, Y = grunfeld(2)
    for rows in (pd.RangeIndex(20), pd.Index(range(1935, 1955), name="year"),
                 pd.date_range("2000-01-01", periods=20, freq="MS"),
                 pd.period_range("1999-05", periods=20, freq="M", name="month"),
                 pd.Index([f"row {i}" for i in range(20)])):
        frames = [pd.DataFrame(X, columns=["const", "value", "capital"], index=rows) for X in Xs]
        fit = als_gls(frames, pd.DataFrame(Y, columns=["GM", "US"], index=rows), 1)
        back = again(path, fit)
        pd.testing.assert_series_equal(back.params, fit.params)
        pd.testing.assert_frame_equal(back.resid, fit.resid, check_freq=False)
        assert back.data.names[:2] == fit.data.names[:2]
    strange = rows.map(lambda x: (x, 1)), pd.date_range("2000", periods=20, tz="UTC")
    for rows in strange:
        other = replace(fit, data=replace(fit.data, names=fit.data.names._replace(rows=rows)))
        with pytest.raises(TypeError, match="the row labels must be numbers, text"):
            mlrops.save(path, other)


def test_kinds_of_standard_errors_and_selections(path):
    data, _ = draw()
    fit = als_gls(data.Xs, data.Y, 1)
    clusters = np.array(["north", "south", "east"])[np.arange(60) % 3]
    for other in (fit.with_cov("robust", debiased=False),
                  fit.with_cov("clustered", clusters=clusters),
                  fit.with_cov("hac", kernel="parzen", bandwidth=2)):
        back = again(path, other)
        assert back.cov_type == other.cov_type
        np.testing.assert_allclose(back.bse[3], other.bse[3], rtol=1e-10)
    with pytest.raises(TypeError, match="cov_kwds"):
        mlrops.save(path, fit.with_cov("bootstrap", random_state=np.random.default_rng(0)))
    table = [RankRecord((i,), 6 * i + 6, 9, 1.5, 1.5, 1.5, np.nan, 1.5, 3, True, 0)
             for i in range(2)]
    chosen = replace(fit, selection=RankSelection((1,), "bic", table, None))
    back = again(path, chosen).selection
    assert repr(back) == repr(chosen.selection) and back.table[1].ranks == (1,)


# ---------------------------------------------------------------- damaged files


@pytest.fixture
def saved(path):
    pytest.importorskip("pandas")
    data = variants(draw()[0])["all"]
    names = SystemNames(
        tuple("abcdef"), tuple(tuple(f"r{i}" for i in range(p)) for p in data.p))
    fit = fit_system(replace(data, names=names), (1, 1, 0), TREE, SUROptions())
    mlrops.save(path, fit)
    return path


def rewritten(path, change):
    """The file with its last node or arrays changed by ``change(node, arrays)``."""
    meta, arrays = read_archive(path, "object")
    change(meta["nodes"][-1], arrays)
    write_archive(path, "object", meta, arrays)


def of(field, f):
    """Change the array of a field."""
    def change(node, arrays):
        name = node["arrays"][field]
        name = name[0] if isinstance(name, list) else name
        arrays[name] = f(arrays[name])
    return change


def put(**values):
    return lambda node, arrays: node["values"].update(values)


def old_options(**options):
    """Options as version 0.1.0 stored them, in a dict."""
    def change(node, arrays):
        del node["parts"]["options"]
        node["values"]["options"] = options
    return change


CHANGES = {
    "Y shape": (of("Y", lambda x: x[:-1]), "60|59"),
    "Y integers": (of("Y", lambda x: x.astype(int)), "'Y' must be a matrix of float32"),
    "Y nan": (of("Y", lambda x: x * np.nan), "Y must be finite"),
    "X width": (of("X", lambda x: x[:, 1:]), "shape"),
    "X dtype": (of("X", lambda x: x.astype("f4")), "matrices of float64"),
    "X infinite": (of("X", lambda x: x + np.inf), "X must be finite"),
    "X_of": (put(X_of=(0, 1, 2, 3, 4, 6)), "X_of"),
    "X_of type": (put(X_of=[0, 1, 2, 3, 4, 5]), "'X_of' must be a tuple of integers"),
    "observed": (of("observed", lambda x: x.astype(float)), "observed must have shape"),
    "weights": (of("weights", lambda x: -x), "weights must be positive"),
    "R": (of("R", lambda x: x[:, 1:]), "R must have shape"),
    "q": (of("q", lambda x: x * np.inf), "q must be finite"),
    "coefficients": (of("coefficients", lambda x: x[1:]), "coefficients must have shape"),
    "coefficients nan": (of("coefficients", lambda x: x * np.nan), "coefficients must be finite"),
    "boundary": (of("boundary", lambda x: np.array([6])), "integers from 0 to 5"),
    "trace": (of("loglik_trace", lambda x: x[:0]), "loglik_trace"),
    "names": (put(equations=("a", "b")), "one text each"),
    "names type": (put(equations=(1, 2, 3, 4, 5, 6)), "one text each"),
    "regressors": (put(regressors=None), "one text each"),
    "options": (old_options(solver="magic"), "solver must be"),
    "options type": (old_options(gtol="x"), "gtol"),
    "kind": (put(cov_type="magic"), "'cov_type' must be one of"),
    "kind options": (put(cov_kwds={"magic": 1}), "takes the options"),
    "loglik": (put(loglik="x"), "'loglik' must be a finite number, got 'x'"),
    "unknown": (put(magic=1), "newer mlrops"),
    "missing": (lambda node, arrays: node["values"].pop("n_iter"), "'n_iter'"),
    "covariance": (lambda node, arrays: node["parts"].update(covariance=0), "covariance"),
    "selection": (put(selection={"ranks": 1}), "'selection'"),
}


@pytest.mark.quick(12)
@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_is_refused(saved, name):
    change, message = CHANGES[name]
    rewritten(saved, change)
    with pytest.raises(ValueError, match="cannot read '.*fit.npz'.*SURResult") as caught:
        mlrops.load(saved)
    caught.match(message)


def test_damaged_bytes_are_refused(saved):
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*rng.integers(0, len(whole), 60), len(whole) - 5]:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        saved.write_bytes(broken)
        try:
            mlrops.load(saved)
        except ValueError as error:
            assert str(error).startswith("cannot read")
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot read"):
        mlrops.load(saved)


def test_no_pickles(saved):
    with np.load(saved, allow_pickle=False) as inside, zipfile.ZipFile(saved) as archive:
        assert all(inside[name].dtype.kind != "O" for name in inside if name != "mlrops.json")
        meta = json.loads(archive.read("mlrops.json"))["meta"]
    classes = [node["class"] for node in meta["nodes"]]
    assert classes == ["Hierarchy", "MLR", "SUROptions", "SURResult"]
