"""Files with one field of one object put to something else: refused when read, or sound."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from archives import refused
from market import market
from test_allocate_ranks import kernel
from test_archive_by_hand import ALL, FITTED, H4, MLR4, RESULT, TREE, changed, csr, forge_nodes
from test_checkpoint import fit

import mlrops
from mlrops import als_gls
from mlrops._common.driver import OLD_TERMINATIONS, TERMINATIONS
from mlrops.factor.checkpoint import KIND
from mlrops.factor.selection import RankRecord, RankSelection
from mlrops.io import classes as _classes
from mlrops.io.archive import read_archive, write_archive

NAN, INF = {"$float": "7ff8000000000000"}, {"$float": "7ff0000000000000"}
# What a field that is no array is put to.
SCALARS = [None, "x", "", -1, 2**63 - 1, -(2**62), 0.5, float("nan"), float("inf"), -1e300, True,
           b"x", [], (), [1], ("x",), (-1,), (2**62, 2**62), (0.5,), (float("nan"),), ([],), ((),),
           ((1, 2, 3),), ((0, 0, 10**6),), {}, {"x": 1}, np.float32("nan"), np.int64(-3)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


# ---------------------------------------------------------------- kinds of objects


@functools.cache
def regressions():
    """Systems with all that they can have: names, gaps, weights, clusters, a selection."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    rows = pd.period_range("2000-01", periods=40, freq="M", name="month")
    Xs = [pd.DataFrame(rng.standard_normal((40, 2)), columns=["a", "b"], index=rows)
          for _ in range(4)]
    Y = pd.DataFrame(rng.standard_normal((40, 4)) + rng.standard_normal((40, 1)), index=rows,
                     columns=list("wxyz"))
    equations = {name: (Y[name], X) for name, X in zip(Y, Xs, strict=True)}
    Z = Y.copy()
    Z.iloc[3:5, 1] = np.nan
    gaps = mlrops.SUR({name: (Z[name], X) for name, X in zip(Z, Xs, strict=True)}).fit(1)
    constrained = mlrops.SUR(equations)
    constrained.add_constraints([{("w", "a"): 1.0, ("x", "a"): -1.0}])
    found = constrained.fit(1, cov_type="hac", cov_kwds={"bandwidth": 2.0})
    table = [RankRecord((1,), 8, 9, 1.5, 1.5, 1.5, 1.5, 1.5, 3, True, 0)]
    chosen = dataclasses.replace(
        found, selection=RankSelection((1,), "bic", table, None))
    clustered = als_gls([X.to_numpy() for X in Xs], Y.to_numpy(), 1).with_cov(
        "clustered", clusters=np.arange(40) // 4)
    return {"system with gaps": gaps, "system chosen": chosen, "system clustered": clustered}


@functools.cache
def objects():
    """One object or more of every class that is saved, by name."""
    out, seen = {}, set()
    for pair in market():
        kind = type(pair.operator)
        ours = "of another" not in pair.name and kind.__name__ in _classes.OURS
        if kind not in seen and ours and (
                kind is not mlrops.Wrapped or hasattr(pair.operator.A, "indptr")):
            seen.add(kind)
            out[kind.__name__] = pair.operator
    out["Hierarchy"] = mlrops.Hierarchy.from_labels(list("aabb"), list("abcd"))
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((40, 6)) + rng.standard_normal((40, 1))
    tree = mlrops.Hierarchy.from_labels(list("aaabbb"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out["FactorModelResult"] = mlrops.fit_factor_model(Y, (1, 0), tree, max_iter=3)
        S, tree = kernel()
        out["MLRFit"] = mlrops.fit_mlr(S, (0, 0, 0, 0, 5), tree, max_iter=2)
        out["RankAllocation"] = mlrops.allocate_ranks(S, 3, tree, max_iter=2, random_state=0)
        out |= regressions()
    return out


# Options are parts of systems.
NAMES = [*(name for name in _classes.OURS if name not in ("SURResult", "SUROptions")),
         "system with gaps", "system chosen", "system clustered"]


def test_every_class_is_here():
    assert set(NAMES) == set(objects())


# ---------------------------------------------------------------- mutations


def arrays_instead(x):
    """What an array is put to."""
    if x.ndim:
        yield x[:-1]
    yield x[None]
    yield np.zeros((0,) * x.ndim, x.dtype)
    yield np.zeros((), x.dtype)
    yield x.astype(np.float32 if x.dtype.kind != "f" else np.int64)
    yield x.astype(bool)
    yield np.full(x.shape, "x")
    if x.dtype.kind == "f":
        for value in (np.nan, np.inf, -1e300):
            other = x.astype(np.float64)
            if other.size:
                other.flat[other.size // 2] = value
            yield other.astype(x.dtype)
        yield x.astype(np.float16)
        yield np.asarray(x * 0)
    elif x.dtype.kind in "iu":
        for value in (-1, 2**30, -(2**62) if x.dtype.itemsize == 8 else -(2**30)):
            other = x.copy()
            if other.size:
                other.flat[other.size // 2] = value
            yield other
        if x.ndim:
            yield x[::-1].copy()
        yield np.asarray(x * 0)
        yield x.astype(np.uint64)


def mutants(path):
    """(meta, arrays, field, what) with one field of one node of a file changed."""
    meta, arrays = read_archive(path, "object")
    for number, node in enumerate(meta["nodes"]):
        for field, value in node.get("values", {}).items():
            for other in SCALARS:
                if type(other) is type(value) and other == value:
                    continue
                yield {"nodes": [*meta["nodes"][:number], node | {
                    "values": node["values"] | {field: other}}, *meta["nodes"][number + 1:]]
                    }, arrays, field, other
            if type(value) is dict:
                for key, inner in value.items():
                    for other in (None, "x", -1, float("nan"), [], (), {"x": 1}):
                        if type(other) is type(inner) and other == inner:
                            continue
                        yield {"nodes": [*meta["nodes"][:number], node | {
                            "values": node["values"] | {field: value | {key: other}}},
                            *meta["nodes"][number + 1:]]}, arrays, field, {key: other}
        for field, names in node.get("arrays", {}).items():
            for name in names if type(names) is list else [names]:
                for other in arrays_instead(arrays[name]):
                    yield meta, arrays | {name: other}, field, other


def use(obj):
    """What reads every number of an object; what is singular may say so."""
    repr(obj)
    if isinstance(obj, mlrops.StructuredOperator):
        x, y = np.ones((obj.shape[1], 2), obj.dtype), np.ones(obj.shape[0], obj.dtype)
        if 0 not in obj.shape:
            _ = obj @ x, obj.T @ y, obj.diagonal() if obj.shape[0] == obj.shape[1] else None
        if obj.shape[0] == obj.shape[1] > 0 and obj._has_direct_solve:
            obj.solve(x)
    elif isinstance(obj, mlrops.Hierarchy):
        obj.describe(), obj.labels(obj.n_levels - 1)
    elif isinstance(obj, mlrops.SURResult):
        str(obj.summary()), obj.predict(obj.Xs), obj.resid
        if obj.selection is not None:
            obj.selection.summary(), obj.selection.to_frame()
        use(obj.covariance)
    else:
        str(obj.summary())
        use(obj.covariance if hasattr(obj, "covariance") else obj.operator)


def attempt(path, nodes):
    """None where a file is refused in words that name a field of a node, or is sound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = mlrops.load(path)
        except ValueError as error:
            begin, text = f"cannot read {str(path)!r}: node ", str(error)
            if type(error) is not ValueError or not text.startswith(begin):
                return f"refused as {text}"
            node = nodes[int(re.match(r"\d+", text.removeprefix(begin))[0])]
            text = text.split("):", 1)[1]
            fields = [x for key in ("values", "arrays", "parts") for x in node.get(key, {})]
            return None if any(re.search(rf"\b{x}\b", text) for x in fields) else (
                f"refused without a field as {text}")
        try:
            use(found)
        except np.linalg.LinAlgError:
            pass
        except Exception as error:
            if "the scores of" in str(error):  # of a Y of 1e300: numbers like others, and silent
                return None
            return f"loaded, then {type(error).__name__}: {error}"
    return None


def put_to_anything(name, path, monkeypatch, stride):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    mlrops.save(path, objects()[name])
    wrong, cases = [], [*mutants(path)]
    for meta, arrays, field, other in cases[::stride]:
        write_archive(path, "object", meta, arrays)
        said = attempt(path, meta["nodes"])
        if said is not None:
            wrong.append(f"{field} = {str(other)[:50]!r} ({type(other).__name__}): {said}")
    assert len(cases) > 5 and not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_field_put_to_anything(name, path, monkeypatch):
    put_to_anything(name, path, monkeypatch, 1)


@pytest.mark.parametrize("name", NAMES)
def test_some_fields_put_to_something(name, path, monkeypatch):
    """Every seventh case of operators, every 29th of fits."""
    is_fit = name.startswith(("system", "Factor", "MLRFit", "Rank"))
    put_to_anything(name, path, monkeypatch, 29 if is_fit else 7)


# ---------------------------------------------------------------- by hand

CRASH = """
import sys, warnings
import numpy as np
import mlrops
for path in sys.argv[1:]:
    try:
        A = mlrops.load(path)
    except ValueError as error:
        print("refused", error)
    else:
        print("loaded", float(np.abs(A @ np.ones(A.shape[1])).sum() + np.abs(A.T @ np.ones(
            A.shape[0])).sum()))
"""
SPARSE = {
    "offsets beyond": csr([2, 2], [], [], [0, 2**30, 0]),
    "offsets beyond, entries": csr([2, 2], [1.0], [0], [0, 2**30, 1]),
    "offsets below": csr([2, 2], [1.0], [0], [0, -(2**30), 1]),
    "first offset": csr([2, 2], [1.0], [0], [-(2**30), 0, 1]),
    "last offset": csr([1, 2], [1.0], [0], [0, 2**30]),
    "index beyond": csr([1, 2], [1.0], [2**30], [0, 1]),
    "index below": csr([1, 2], [1.0], [-(2**30)], [0, 1]),
    "index of an empty tail": csr([1, 2], [1.0, 1.0], [0, 2**30], [0, 1]),
    "no columns": csr([1, 0], [1.0], [0], [0, 1]),
    "no offsets": csr([0, 5], [], [], []),
    "too few offsets": csr([5, 5], [1.0], [0], [0, 1]),
    "fewer data": csr([1, 2], [], [0], [0, 1]),
}


def test_sparse_arrays_that_crash_a_product(tmp_path):
    """In a process of their own, which lives."""
    paths = []
    for i, (nodes, arrays) in enumerate(SPARSE.values()):
        paths.append(str(tmp_path / f"{i}.npz"))
        forge_nodes(paths[-1], nodes, arrays)
    done = subprocess.run([sys.executable, "-c", CRASH, *paths], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) == 12
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"refused cannot read {path!r}: node 0 (Wrapped): ")
        assert re.search("indptr|indices|data", line.split("):")[1])


@pytest.mark.parametrize("changes, arrays, reason", [
    ({"n_iter": NAN}, {}, "'n_iter' must not be of type float"),
    ({"n_iter": -1}, {}, "'n_iter' must be an integer that is not negative"),
    ({"n_iter": 5}, {}, "loglik_trace must hold n_iter . 1 = 6 finite floats"),
    ({"loglik": NAN}, {}, "'loglik' must be a finite number, got nan"),
    ({"loglik": INF}, {}, "'loglik' must be a finite number, got inf"),
    ({"termination": "banana"}, {}, "'termination' must be one of gradient, tol"),
    ({"termination": "max_iter"}, {}, "'converged' is True, but field 'termination'"),
    ({"converged": 1}, {}, "'converged' must not be of type int"),
    ({"n_samples": -7}, {}, "'n_samples' must be an integer that is not negative"),
    ({"n_evaluations": True}, {}, "'n_evaluations' must be an integer"),
    ({"gradient_norm": -1.0}, {}, "'gradient_norm' must be a finite number that is not neg"),
    ({"mean_is_estimated": "no"}, {}, "'mean_is_estimated' must"),
    ({"feature_names": {"$tuple": ["a", "b", "c"]}}, {}, "feature_names must be 4, got 3"),
    ({"feature_names": {"$tuple": [["a"], "b", "c", "d"]}}, {}, "'feature_names' must be a tup"),
    ({"capped": {"$tuple": [{"$tuple": [0, 9, 0]}]}}, {}, "'capped' must hold .* got .0, 9, 0."),
    ({"capped": {"$tuple": ["x"]}}, {}, "'capped' must be a tuple of"),
    ({}, {"t": np.array([0.0, np.nan])}, "loglik_trace must hold n_iter . 1 = 2 finite"),
    ({}, {"t": np.array([["a", "b"]])}, "'loglik_trace' must be a vector of float32"),
    ({}, {"h": np.array([1, 1])}, "'boundary' must be a vector of different integers"),
    ({}, {"m": np.zeros((4, 1))}, "'mean' must be a vector"),
])
def test_damaged_numbers_of_a_result(changes, arrays, reason, path):
    """They are refused when read, not in the summary."""
    forge_nodes(path, [H4, MLR4, changed(RESULT, values=changes)], FITTED | arrays)
    refused(path, reason)


@pytest.mark.parametrize("kind", [mlrops.FactorModelResult, mlrops.SURResult])
def test_every_word_for_the_end_of_a_fit_is_read(kind, path):
    told = kind.__doc__.split("termination : str", 1)[1].split("\n    boundary", 1)[0]
    words = set(re.findall('``"([a-z_]+)"``', told.split(" : ")[0]))
    assert words and words <= {*TERMINATIONS, *OLD_TERMINATIONS}
    fit = objects()["FactorModelResult" if kind is mlrops.FactorModelResult else "system chosen"]
    for word in (*TERMINATIONS, *OLD_TERMINATIONS):
        mlrops.save(path, dataclasses.replace(fit, termination=word, converged=False))
        assert mlrops.load(path).termination == OLD_TERMINATIONS.get(word, word)


@pytest.mark.parametrize("node, reason", [
    (changed(H4, values={"names": {"$tuple": [None, {"$tuple": ["a"]}]}}), "names of level 1"),
    (changed(H4, values={"names": {"$tuple": [None]}}), "names must have 2 entries"),
    (changed(H4, values={"names": {"$tuple": [None, {"$tuple": [{}, "b"]}]}}), "'names' must be"),
])
def test_names_of_groups(node, reason, path):
    forge_nodes(path, [node], TREE)
    refused(path, reason)
    forge_nodes(path, [node, MLR4], ALL)
    refused(path, reason)


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
def test_checkpoints_with_any_field_put_to_something(optimizer, path, monkeypatch):
    """A fit that goes on from a damaged one refuses it, or finds numbers as others would be."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    options = {"checkpoint": path, "max_iter": 5, "n_init": 2, "optimizer": optimizer}
    fit(**options)
    assert fit(**options, resume=True).n_iter == 5  # the one that is not damaged goes on
    meta, arrays = read_archive(path, KIND)
    cases = [(meta | {name: other}, arrays) for name in meta
             for other in (None, "x", -1, float("nan"), [], {"x": 1})]
    cases += [(meta | {"climbs": [climb | {name: other}, *meta["climbs"][1:]]}, arrays)
              for climb in meta["climbs"][:1] for name in climb
              for other in ("x", -1, 7, float("nan"), [-1], {"x": 1})]
    cases += [(meta | {"climbs": [*meta["climbs"][:2], other]}, arrays)
              for other in (None, "x", {}, [], -1, meta["climbs"])]
    cases += [(meta, arrays | {name: other}) for name, x in arrays.items()
              for other in arrays_instead(x)]
    refusals = 0
    for meta, arrays in cases[::3]:
        write_archive(path, KIND, meta, arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = fit(**options, resume=True)
            except ValueError as error:
                assert str(path) in str(error)
                refusals += 1
            else:
                assert np.isfinite(found.loglik_trace).all()
    assert refusals > len(cases[::3]) / 2
