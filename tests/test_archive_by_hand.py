"""Archives made by hand: sound ones load, hostile ones give one ValueError."""

import copy
import io
import json
import math
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from archives import refused
from numpy.lib import format as npy
from test_io import assert_same

import mlrops
from mlrops import Diagonal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def npy_bytes(x, **header):
    """An npy member, with entries of its header replaced."""
    out = io.BytesIO()
    fields = npy.header_data_from_array_1_0(x) | header
    npy.write_array_header_1_0(out, fields)
    return out.getvalue() + x.tobytes()


def forge(path, header, members, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("mlrops.json", header if type(header) in (str, bytes)
                             else json.dumps(header))
            for name, content in members:
                archive.writestr(name, content if type(content) is bytes else npy_bytes(content))


def listing(arrays):
    return {name: {"dtype": x.dtype.str, "shape": list(x.shape)} for name, x in arrays.items()}


def header_of(nodes, held, **changes):
    return {"format": "mlrops", "version": 1, "kind": "object", "arrays": listing(held),
            "meta": {"nodes": nodes}} | changes


def forge_nodes(path, nodes, arrays=None, **changes):
    arrays = arrays or {}
    forge(path, header_of(nodes, arrays, **changes),
          [(f"{name}.npy", x) for name, x in arrays.items()])


IDENTITY = {"class": "Identity", "values": {"n": 2, "dtype": "float64"}}


def test_a_file_made_by_hand_loads(path):
    forge_nodes(path, [IDENTITY])
    assert_same(mlrops.load(path), mlrops.Identity(2))
    forge_nodes(path, D3, {"x": np.arange(3, dtype=">f8")})
    assert_same(mlrops.load(path), Diagonal(np.arange(3.0)))


@pytest.mark.parametrize("text, reason", [
    ("", "does not begin with format"),
    ("{}", "does not begin with format"),
    ('{"format": "other", "version": 1}', "does not begin with format"),
    ('{"format": "mlrops", "version": 2, "new": {"$new": 1}}', "version is 2.* update mlrops"),
    ('{"format": "mlrops", "version": 999999999}', "version is 999999999"),
    ('{"format": "mlrops", "version": 0}', "version is 0, this mlrops reads version 1"),
    ('{"format": "mlrops", "version": -1}', "does not begin"),
    ('{"format": "mlrops", "version": 1}', "no 'kind'"),
    ('{"format": "mlrops", "version": 1, "kind": []}', "no 'kind' of type str"),
    ('{"format": "mlrops", "version": 1, "kind": "object", "arrays": []}', "no 'arrays' of type"),
    ('{"format": "mlrops", "version": 1, "kind": "object", "arrays": {}}', "no 'meta' of type"),
    ('{"format": "mlrops", "version": 1', None),
    ('{"format": "mlrops", "version": 1, "version": 1}', "stands twice"),
    ('{"format": "mlrops", "version": 1, "meta": NaN}', "NaN is not JSON"),
    ('{"format": "mlrops", "version": 1, "meta": -Infinity}', "Infinity is not JSON"),
    ('{"format": "mlrops", "version": 1, "meta": 1e999}', "not finite"),
    ('{"format": "mlrops", "version": 1, "meta": ' + "9" * 5000 + "}", "more than 64 bits"),
    ('{"format": "mlrops", "version": 1, "meta": ' + "[" * 100_000 + "}", None),
    ('{"format": "mlrops", "version": 1, "meta": ' + '{"a":' * 100_000 + "}", None),
    ('{"format": "mlrops", "version": 1, "meta": {"$evil": 1}}', "'\\$evil' is no tag"),
    ('{"format": "mlrops", "version": 1, "meta": {"$tuple": [], "a": 1}}', "no tag"),
    ('{"format": "mlrops", "version": 1, "meta": {"$tuple": 3}}', "must hold a list"),
    ('{"format": "mlrops", "version": 1, "meta": {"$float": "00"}}', None),
    ('{"format": "mlrops", "version": 1, "meta": {"$bytes": "xy"}}', None),
    ('{"format": "mlrops", "version": 1, "meta": {"$numpy": ["O", "0011223344556677"]}}', "dtype"),
    ('{"format": "mlrops", "version": 1, "meta": {"$numpy": ["<f8", "00"]}}', None),
    ('{"format": "mlrops", "version": 1, "meta": {"$numpy": ["<f8", ""]}}', "one number"),
    (b'{"format": "mlrops", "version": 1, "meta": "\xff"}', None),
])
def test_text_of_all_kinds(path, text, reason):
    forge(path, text, [])
    refused(path, reason)


ONES = np.ones(3)
D3 = [{"class": "Diagonal", "arrays": {"d": "x"}}]
SOUND = header_of(D3, {"x": ONES})


@pytest.mark.parametrize("header, members, reason", [
    (SOUND, [], "'x.npy' is missing"),
    (SOUND, [("x.npy", ONES), ("y.npy", ONES)], "'y.npy' is not listed"),
    (SOUND, [("x.npy", ONES), ("x.npy", ONES)], "two members 'x.npy'"),
    (SOUND, [("x.npy", ONES), ("mlrops.json", b"{}")], "two members 'mlrops.json'"),
    (SOUND, [("x.npy", ONES), ("../y.npy", ONES)], "'../y.npy' is no member"),
    (SOUND, [("x.npy", ONES), ("/etc/y.npy", ONES)], "is no member"),
    (SOUND, [("x.npy", ONES), ("a\\..\\y.npy", ONES)], "is no member"),
    (SOUND, [("x.npy", ONES), ("a/", b"")], "is no member"),
    (SOUND, [("x.npy", ONES), ("x.npy\0y", b"")], "is no member|two members"),
    (SOUND, [("x.npy", np.ones(4))], "is not the array that 'mlrops.json' lists"),
    (SOUND, [("x.npy", np.ones(3, np.float32))], "is not the array"),
    (SOUND, [("x.npy", b"")], "not a plain array"),
    (SOUND, [("x.npy", b"\x93NUMPY\x01\x00\xff\xff")], "not a plain array"),
    (SOUND, [("x.npy", b"\x93NUMPY\x02" + npy_bytes(ONES)[7:])], "not a plain array"),
    (SOUND, [("x.npy", npy_bytes(ONES)[:-1])], "has not the length"),
    (SOUND, [("x.npy", npy_bytes(ONES) + b"\0")], "has not the length"),
    (SOUND, [("x.npy", npy_bytes(ONES, descr="|O"))], "dtype '|O' is none"),
    (SOUND, [("x.npy", npy_bytes(ONES, descr=[("a", "<f8")]))], "not a plain array"),
    (SOUND, [("x.npy", npy_bytes(ONES, descr="<c16"))], "dtype '<c16' is none"),
    (SOUND, [("x.npy", npy_bytes(ONES, shape=(-3,)))], "not a plain array"),
    (SOUND, [("x.npy", npy_bytes(ONES, shape=(10**15,)))], "is not the array"),
    (SOUND, [("x.npy", npy_bytes(ONES).replace(b"'<f8'", b"exit()"))], "not a plain array"),
    (header_of(D3, {}, arrays={"x": {"dtype": "<f8", "shape": [10**15]}}),
     [("x.npy", npy_bytes(ONES, shape=(10**15,)))], "has not the length"),
    (header_of(D3, {}, arrays={"x": {"dtype": "<f8", "shape": [10**18, 10**18, 10**18]}}),
     [("x.npy", npy_bytes(ONES, shape=(10**18,) * 3))], "has not the length"),
    (header_of(D3, {}, arrays={"x": {"dtype": "<f8", "shape": [0, 10**19]}}),
     [("x.npy", npy_bytes(np.ones(0), shape=(0, 10**19)))], None),
    (header_of(D3, {}, arrays={"x": {"dtype": "|b1", "shape": [1]}}),
     [("x.npy", npy_bytes(np.array([7], np.uint8), descr="|b1"))], "booleans other than"),
    (header_of(D3, {}, arrays={"x": None}), [("x.npy", ONES)], "is not the array"),
])
def test_members_of_all_kinds(path, header, members, reason):
    forge(path, header, members)
    refused(path, reason)


def test_pickles_are_not_opened(path, monkeypatch):
    opened = []
    monkeypatch.setattr("pickle.load", lambda *_, **__: opened.append(1))
    x = np.array([Diagonal([1.0])], dtype=object)
    out = io.BytesIO()
    npy.write_array(out, x, allow_pickle=True)
    forge(path, header_of(D3, {"x": x}), [("x.npy", out.getvalue())])
    refused(path, "dtype '|O' is none of the layout")
    assert not opened


def test_bombs(path):
    zeros = np.zeros(10_000_000)
    forge(path, header_of(D3, {"x": zeros}), [("x.npy", zeros)], compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        refused(path, "'mlrops.json' is compressed or encrypted")
        # One stored member entered many times: together longer than the file.
        forge(path, SOUND, [(f"x{i}.npy", np.zeros(10_000)) for i in range(20)])
        with zipfile.ZipFile(path, "a") as archive:
            for info in archive.infolist()[2:]:
                info.header_offset = archive.infolist()[1].header_offset
            archive._didModify = True
            archive.start_dir = archive.infolist()[1].header_offset + 80_300
        assert path.stat().st_size < 100_000
        refused(path, "longer than the file")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


H4 = {"class": "Hierarchy", "arrays": {"permutation": "p", "boundaries": ["b", "c"]},
      "values": {"names": {"$tuple": [None, None]}}}
MLR4 = {"class": "MLR", "parts": {"hierarchy": 0}, "arrays": {"F": "F", "D": "D"},
        "values": {"ranks": {"$tuple": [1, 1]}}}
TREE = {"p": np.array([2, 0, 1, 3]), "b": np.array([0, 4]), "c": np.array([0, 1, 4])}
ALL = TREE | {"F": np.ones((4, 2)), "D": np.ones(4)}


def test_the_tree_made_by_hand_loads(path):
    forge_nodes(path, [H4, MLR4], ALL)
    A = mlrops.load(path)
    assert A.ranks == (1, 1) and A.hierarchy.permutation.tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("change, reason", [
    ({"p": np.array([2, 0, 1, 1])}, "node 0 .Hierarchy.: permutation must hold each"),
    ({"p": np.array([2, 0, 1, 4])}, "permutation must hold"),
    ({"p": np.array([2.0, 0, 1, 3])}, "field 'permutation' must be a vector of signed integers"),
    ({"p": np.ones((2, 2), int)}, "'permutation' must be a vector"),
    ({"b": np.array([0, 3])}, "boundaries.0. must run from 0 to n = 4"),
    ({"b": np.array([0, 2, 4])}, "level 1 does not nest in level 0"),
    ({"c": np.array([0, 3, 1, 4])}, "boundaries.1. must increase"),
    ({"c": np.zeros(0, int)}, "boundaries.1. must run"),
    ({"D": np.array([1.0, 1, 0, 1])}, "node 1 .MLR.: D must be positive"),
    ({"D": np.array([1.0, 1, np.nan, 1])}, "D must be finite"),
    ({"D": np.ones(3)}, "D must have shape"),
    ({"D": np.ones(4, np.float32)}, "one dtype"),
    ({"D": np.ones(4, int)}, "'D' must be a vector of float32 or float64, got .* int64"),
    ({"D": np.ones(4, np.float16), "F": np.ones((4, 2), np.float16)}, "got an array of float16"),
    ({"F": np.full((4, 2), np.inf)}, "F must be finite"),
    ({"F": np.ones((4, 3))}, "F must have shape"),
    ({"F": np.ones((2, 4))}, "F must have shape"),
    ({"F": np.ones(8)}, "'F' must be a matrix of float32"),
])
def test_arrays_that_do_not_fit(path, change, reason):
    forge_nodes(path, [H4, MLR4], ALL | change)
    refused(path, reason)


def changed(node, **changes):
    node = copy.deepcopy(node)
    for key, value in changes.items():
        node[key] = node.get(key, {}) | value if isinstance(value, dict) else value
    return node


@pytest.mark.parametrize("nodes, arrays, reason", [
    ([], {}, "no list of nodes"),
    ({}, {}, "no list of nodes"),
    ([3], {}, "node 0 names no class"),
    ([{"class": ["Identity"]}], {}, "names no class"),
    ([{"class": "os.system"}], {}, "class 'os.system', which is unknown"),
    ([{"class": "__class__"}], {}, "unknown"),
    ([{"class": "StructuredOperator"}], {}, "unknown"),
    ([{"class": "Identity"}], {}, "Identity.: it has no field 'n'"),
    ([changed(IDENTITY, values={"x": 1})], {}, "it has a field 'x', unknown here"),
    ([changed(IDENTITY, values={"n": -1})], {}, "'n' must be an integer that is not negative"),
    ([changed(IDENTITY, values={"n": 2.0})], {}, "must be an integer"),
    ([changed(IDENTITY, values={"n": 2**63})], {}, None),
    ([changed(IDENTITY, values={"n": 10**15})], {}, "of order"),
    ([changed(IDENTITY, values={"dtype": "O"})], {}, "'dtype' must be one of float32"),
    ([changed(IDENTITY, values=[1])], {}, "must be objects"),
    ([IDENTITY], {"x": ONES}, "no node has the array 'x'"),
    ([{"class": "Diagonal", "arrays": {"d": "x"}}], {}, "no array 'x'"),
    ([{"class": "Diagonal", "arrays": {"d": 3}}], {}, "no array '3'"),
    ([{"class": "LowRank", "arrays": {"U": "x", "V": "x"}}], {"x": np.ones((2, 1))}, "used twice"),
    ([changed(D3[0], values={"d": 1})], {"x": ONES}, "given twice"),
    ([{"class": "Permutation", "arrays": {"p": "x"}, "values": {"dtype": "float64"}}],
     {"x": np.array([0, 0])}, "must be a permutation"),
    ([{"class": "Scaled", "parts": {"base": 0}, "values": {"c": 1.0}}], {}, "an earlier node"),
    ([IDENTITY, {"class": "Sum", "parts": {"ops": [0, 2]}}, IDENTITY], {}, "earlier node, got 2"),
    ([IDENTITY, {"class": "Sum", "parts": {"ops": [0, -1]}}], {}, "earlier node, got -1"),
    ([IDENTITY, {"class": "Sum", "parts": {"ops": [0, True]}}], {}, "earlier node, got True"),
    ([IDENTITY, {"class": "Sum", "parts": {"ops": [0]}}, IDENTITY], {}, "node 1 is part of noth"),
    ([IDENTITY, {"class": "Sum", "parts": {"ops": []}}], {}, "at least one operator"),
    ([H4, {"class": "Sum", "parts": {"ops": [0]}}], TREE, "'ops' must be a list of operators"),
    ([H4, {"class": "MLRInverse", "parts": {"base": 0}}], TREE, "'base' must be of type MLR"),
    ([IDENTITY, {"class": "WoodburyInverse", "parts": {"base": 0}}], {}, "'base' must be a Wood"),
    ([IDENTITY, changed(MLR4, arrays={"F": "F", "D": "D"})],
     {"F": np.ones((2, 2)), "D": np.ones(2)}, "'hierarchy' must be of type Hierarchy"),
    ([H4, changed(MLR4, values={"ranks": {"$tuple": [1, -1]}})], ALL, "'ranks' must be a tup"),
    ([H4, changed(MLR4, values={"ranks": {"$tuple": [2**62, 2**62]}})], ALL, "F must have shape"),
    ([changed(H4, values={"names": None})], TREE, "'names' must be a tuple of names"),
    ([changed(H4, values={"names": {"$tuple": [None, {"$tuple": ["a"]}]}})], TREE, "tuple of 2"),
    ([changed(H4, values={"names": {"$tuple": [{"$tuple": [["a"]]}, None]}})], TREE, "'names'"),
    ([{"class": "Dense", "arrays": {"A": "x"}, "values": {
        "symmetric": True, "positive_definite": True}}], {"x": -np.eye(2)}, "not positive def"),
    ([{"class": "Dense", "arrays": {"A": "x"}, "values": {
        "symmetric": True, "positive_definite": False}}], {"x": np.triu(np.ones((2, 2)))},
     "declared symmetric"),
    ([IDENTITY, {"class": "Woodbury", "parts": {"base": 0}, "arrays": {"U": "U", "C": "C"},
                 "values": {"V": None, "positive_definite": True}}],
     {"U": np.ones((2, 1)), "C": np.array([[-3.0]])}, "not positive definite"),
    ([{"class": "LowRankPlusDiagonal", "arrays": {"F": "F", "D": "D"}},
      {"class": "WoodburyInverse", "parts": {"base": 0}}],
     {"F": np.ones((1, 4000)), "D": np.ones(1)}, "k = 4000 of n = 1"),
    ([{"class": "LowRankPlusDiagonal", "arrays": {"F": "F", "D": "D"}},
      {"class": "WoodburyInverse", "parts": {"base": 0}}],
     {"F": np.full((2, 1), 1e300), "D": np.full(2, 1e-300)}, "overflows"),
])
def test_nodes_of_all_kinds(path, nodes, arrays, reason):
    forge_nodes(path, nodes, arrays)
    refused(path, reason)


def csr(shape, data, indices, indptr):
    return [{"class": "Wrapped", "values": {
        "shape": {"$tuple": shape}, "symmetric": False, "positive_definite": False},
        "arrays": {"data": "d", "indices": "i", "indptr": "p"}}], {
            "d": np.array(data, float), "i": np.array(indices, np.int32),
            "p": np.array(indptr, np.int32)}


@pytest.mark.parametrize("nodes, arrays", [
    csr([2, 2], [1, 1], [0, 2], [0, 1, 2]),
    csr([2, 2], [1, 1], [0, -1], [0, 1, 2]),
    csr([2, 2], [1, 1], [0, 1], [0, 5, 2]),
    csr([2, 2], [1, 1], [0, 1], [0, 1, 99]),
    csr([2, 2], [1, 1], [0, 1], [1, 1, 2]),
    csr([9, 2], [1, 1], [0, 1], [0, 1, 2]),
    csr([2, -2], [1, 1], [0, 1], [0, 1, 2]),
    csr([2], [1, 1], [0, 1], [0, 1, 2]),
    csr([2, 10**12], [1, 1], [0, 1], [0, 1, 2]),
    csr([2, 2], [1, math.nan], [0, 1], [0, 1, 2]),
])
def test_sparse_arrays_that_are_none(path, nodes, arrays):
    forge_nodes(path, nodes, arrays)
    refused(path, "node 0 .Wrapped.: ")


def test_operators_that_multiply(path):
    """A chain of sums of the one before twice: 2^60 terms in a file of 4 kB."""
    double = [{"class": "Sum", "parts": {"ops": [i, i]}} for i in range(60)]
    forge_nodes(path, [IDENTITY, *double])
    refused(path, "parts")
    single = [{"class": "Scaled", "parts": {"base": i}, "values": {"c": 1.0}} for i in range(2000)]
    forge_nodes(path, [IDENTITY, *single])
    refused(path, "nested 100 deep")


RESULT = {"class": "FactorModelResult", "parts": {"covariance": 1},
          "arrays": {"mean": "m", "loglik_trace": "t", "boundary": "h"},
          "values": {"loglik": 0.5, "n_iter": 1, "converged": True, "termination": "loglik",
                     "n_samples": 7}}
FITTED = ALL | {"m": np.zeros(4), "t": np.zeros(2), "h": np.zeros(0, int)}


def test_a_result_of_an_older_version(path):
    forge_nodes(path, [H4, MLR4, RESULT], FITTED)
    fit = mlrops.load(path)
    assert fit.loglik == 0.5 and fit.feature_names is None and fit.n_evaluations == 0


@pytest.mark.parametrize("node, arrays, reason", [
    (changed(RESULT, values={"strange": 1}), {}, "'strange', unknown here: .* newer mlrops"),
    (changed(RESULT, values={"loglik": "a"}), {}, "'loglik' must not be of type str"),
    (changed(RESULT, values={"loglik": None}), {}, "'loglik' must not be of type NoneType"),
    (changed(RESULT, values={"n_iter": 1.5}), {}, "'n_iter' must not be of type float"),
    (changed(RESULT, values={"feature_names": {"$tuple": ["a"]}}), {}, "feature_names must be 4"),
    (changed(RESULT, parts={"covariance": 0}), {}, "'covariance' must not be of type Hierarchy"),
    (RESULT, {"m": np.zeros(3)}, "mean must hold 4 finite floats"),
    (RESULT, {"m": np.full(4, np.nan)}, "mean must hold 4"),
    (RESULT, {"h": np.array([4])}, "boundary must hold features"),
    (RESULT, {"h": np.array([0.5])}, "'boundary' must be a vector of different integers"),
    ({k: v for k, v in RESULT.items() if k != "values"}, {}, "it has no field 'loglik'"),
])
def test_results_that_cannot_be(path, node, arrays, reason):
    forge_nodes(path, [H4, MLR4, node], FITTED | arrays)
    refused(path, reason)


def test_lists_are_no_arrays(path):
    forge_nodes(path, [{"class": "Wrapped", "values": {
        "data": [1.0], "indices": [0], "indptr": [0, 1], "shape": {"$tuple": [1, 1]},
        "symmetric": False, "positive_definite": False}}])
    refused(path, "'data' must be a vector")
