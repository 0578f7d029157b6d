"""Saved fits of matrices come back bit by bit; what cannot be is refused with one error."""

import json
import zipfile
from dataclasses import fields

import numpy as np
import pytest
from archives import refused
from scipy.sparse import csr_array
from test_allocate_ranks import kernel, planted

import mlrops
from mlrops import Hierarchy, MLRFit, RankAllocation, allocate_ranks, fit_mlr
from mlrops.io.archive import read_archive, write_archive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


def again(path, fit):
    mlrops.save(path, fit)
    return mlrops.load(path)


def assert_same(a, b):
    """Every number and word of two fits."""
    assert type(a) is type(b)
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert type(x) is type(y), f.name
        if f.name in ("objective_trace", "times"):
            assert x.dtype == y.dtype and x.tobytes() == y.tobytes() and y.flags.writeable
        elif f.name != "operator":
            assert x == y, f.name
    A, B = a.operator, b.operator
    assert (A.rows, A.cols, A.ranks, A.dtype) == (B.rows, B.cols, B.ranks, B.dtype)
    assert A.B.tobytes() == B.B.tobytes() and A.C.tobytes() == B.C.tobytes()
    assert (A.symmetric, A.positive_definite) == (B.symmetric, B.positive_definite)
    assert a.summary() == b.summary() and repr(a) == repr(b)


FITS = {
    "bcd": lambda A, S, *trees: fit_mlr(A, (2, 1, 0, 1), *trees[:2], random_state=0),
    "als": lambda A, S, *trees: fit_mlr(A, (2, 1, 0, 1), *trees[:2], method="als", random_state=0),
    "capped": lambda A, S, *trees: fit_mlr(A, (0, 0, 0, 5), *trees[:2], random_state=0),
    "start": lambda A, S, *trees: fit_mlr(A, (1, 0, 0, 0), *trees[:2], max_iter=0),
    "nothing": lambda A, S, *trees: fit_mlr(A, (0, 0, 0, 0), *trees[:2]),
    "sparse": lambda A, S, *trees: fit_mlr(csr_array(A), (1, 1, 0, 1), *trees[:2]),
    "symmetric": lambda A, S, *trees: fit_mlr(S, (2, 1, 1, 0, 1), trees[2], random_state=0),
    "psd": lambda A, S, *trees: fit_mlr(S, (2, 1, 1, 0, 1), trees[2], psd=True, random_state=0),
    "allocation": lambda A, S, *trees: allocate_ranks(A, 4, *trees[:2], random_state=0),
    "symmetric allocation": lambda A, S, *trees: allocate_ranks(S, 6, trees[2], random_state=0),
    "one level": lambda A, S, *trees: allocate_ranks(S, 2, Hierarchy.flat(64), random_state=0),
}


@pytest.mark.quick(8)
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fits_come_back(path, name, dtype):
    (A, rows, cols), (S, tree) = planted(), kernel()
    fit = FITS[name](A.astype(dtype), S.astype(dtype), rows, cols, tree)
    assert fit.operator.dtype == dtype
    assert_same(fit, again(path, fit))


def test_a_fit_with_a_diagonal_level_is_an_mlr_again(path):
    S = kernel()[0]
    fit = fit_mlr(S, (1, 1), Hierarchy.balanced(64, [1, 64]), psd=True, random_state=0)
    back = again(path, fit)
    assert_same(fit, back)
    assert (back.to_mlr().D == fit.to_mlr().D).all()


def test_one_hierarchy_is_stored_once_and_nothing_is_pickled(path):
    S, tree = kernel()
    mlrops.save(path, fit_mlr(S, (2, 1, 1, 0, 1), tree, random_state=0))
    with np.load(path, allow_pickle=False) as inside, zipfile.ZipFile(path) as archive:
        assert all(inside[name].dtype.kind != "O" for name in inside if name != "mlrops.json")
        nodes = json.loads(archive.read("mlrops.json"))["meta"]["nodes"]
    assert [node["class"] for node in nodes] == ["Hierarchy", "GeneralMLR", "MLRFit"]


# ---------------------------------------------------------------- damaged files


@pytest.fixture
def saved(path):
    A, rows, cols = planted()
    fit = allocate_ranks(A, 20, rows, cols, start="bottom", max_iter=2, random_state=0)
    assert fit.capped and len(fit.history) == 3
    mlrops.save(path, fit)
    return path


def of(field, f):
    def change(node, arrays):
        name = node["arrays"][field]
        arrays[name] = f(arrays[name])
    return change


def put(**values):
    return lambda node, arrays: node["values"].update(values)


def lost(name):
    return lambda node, arrays: node["values"].pop(name)


TRACE = "objective_trace"
CHANGES = {
    "errors short": (of(TRACE, lambda x: x[1:]), f"{TRACE} must hold n_iter"),
    "errors nan": (of(TRACE, lambda x: x * np.nan), f"{TRACE} must hold n_iter"),
    "errors single": (of(TRACE, lambda x: x.astype("f4")), f"{TRACE} must hold n_iter"),
    "errors negative": (of(TRACE, lambda x: -x), f"{TRACE} must hold n_iter"),
    "errors else": (of(TRACE, lambda x: x * 2), "the entries of objective_trace"),
    "times matrix": (of("times", lambda x: x[:, None]), "'times' must be a vector"),
    "n_iter": (put(n_iter=7), f"{TRACE} must hold n_iter"),
    "n_iter bool": (put(n_iter=True), "'n_iter' must be an integer that is not"),
    "n_iter text": (put(n_iter="2"), "'n_iter' must not be of type str"),
    "converged": (put(converged=1), "'converged' must not be of type int"),
    "termination": (put(termination=None), "'termination' must not be of type NoneType"),
    "capped list": (put(capped=[]), "'capped' must not be of type list"),
    "capped level": (put(capped=((9, 0, 1),)), "'capped' must hold"),
    "capped group": (put(capped=((3, 99, 1),)), "'capped' must hold"),
    "capped side": (put(capped=((3, 0, 100),)), "'capped' must hold"),
    "capped text": (put(capped="ab"), "'capped' must not be of type str"),
    "history": (put(history=()), "history must have 3 entries"),
    "history text": (put(history=("a", "b", "c")), "history must hold ranks"),
    "trials": (put(n_trials=-1), "'n_trials' must be an integer that is not"),
    "unknown": (put(magic=1), "newer mlrops"),
    "missing": (lost("termination"), "no field 'termination'"),
    "operator": (lambda node, arrays: node["parts"].update(operator=0),
                 "'operator' must not be of type Hierarchy"),
    "kind": (lambda node, arrays: node.update({"class": "MLRFit"}), "'history', unknown here"),
}


def rewritten(path, change):
    """The file with its last node or arrays changed by ``change(node, arrays)``."""
    meta, arrays = read_archive(path, "object")
    change(meta["nodes"][-1], arrays)
    write_archive(path, "object", meta, arrays)


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_is_refused(saved, name):
    change, message = CHANGES[name]
    rewritten(saved, change)
    refused(saved, message)


def test_history_must_lead_to_the_operator(saved):
    def change(entry):
        def put(node, arrays):
            history = list(node["values"]["history"])
            history[entry] = ((19, 1, 0, 1), history[entry][1])
            node["values"]["history"] = tuple(history)
        return put

    for entry in (-1, 0):
        whole = saved.read_bytes()
        rewritten(saved, change(entry))
        refused(saved, "end with the operator's ranks, and keep their sum")
        saved.write_bytes(whole)


def test_damaged_bytes_are_refused(saved):
    whole = saved.read_bytes()
    fit, rng = mlrops.load(saved), np.random.default_rng(0)
    for at in [*rng.integers(0, len(whole), 60), len(whole) - 5]:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        saved.write_bytes(broken)
        try:
            assert_same(fit, mlrops.load(saved))  # a bit that says nothing
        except ValueError as error:
            assert str(error).startswith("cannot read")
    saved.write_bytes(whole[: len(whole) // 2])
    refused(saved)


# ---------------------------------------------------------------- words


def test_summary():
    A, rows, cols = planted()
    fit = fit_mlr(A, (2, 0, 2, 5), rows, cols, random_state=0)
    text = fit.summary()
    assert max(map(len, text.splitlines())) < 80
    assert f"Numbers stored{(48 + 40) * 9:>21}" in text
    assert f"of the dense matrix{88 * 9 / 1920:>16.1%}" in text
    assert f"Relative error{fit.error:>25.4g}" in text
    assert f"of the start{fit.objective_trace[0]:>27.4g}" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line[:1].isdigit()}
    assert lines["2"] == ["2", "4", *_between(rows, 2), *_between(cols, 2), "2", "176"]
    assert f"shorter than the rank: {len(fit.capped)} (level 3 group {fit.capped[0][1]}" in text
    assert f", {len(fit.capped)} groups capped>" in repr(fit)
    plain = allocate_ranks(A, 4, rows, cols, random_state=0)
    assert f"Exchanges tried{plain.n_trials:>24}" in plain.summary()
    assert "shorter than the rank" not in plain.summary() and "capped" not in repr(plain)
    assert isinstance(plain, RankAllocation) and isinstance(plain, MLRFit)


def _between(h, level):
    sizes = h.group_sizes(level)
    low, high = str(sizes.min()), str(sizes.max())
    return [low] if low == high else [low, "to", high]
