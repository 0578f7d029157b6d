"""Archives: what goes in comes out, and a bad file gives one ValueError, whatever is wrong."""

import struct
import warnings

import numpy as np
import pytest
from archives import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_io import assert_same

import mlrops
from mlrops import Diagonal, Hierarchy, Permutation, Scaled, Sum
from mlrops.io.archive import read_archive, reading, write_archive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archive")


# ---------------------------------------------------------------- the primitives


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2**63, 2**64 - 1), st.text(), st.binary(max_size=9),
    st.integers(0, 2**64 - 1).map(lambda k: struct.unpack("<d", struct.pack("<Q", k))[0]),
    st.floats(width=32).map(np.float32), st.floats(width=16).map(np.float16),
    st.integers(-2**31, 2**31 - 1).map(np.int32), st.booleans().map(np.bool_),
    st.integers(-9999, 9999).map(lambda k: np.datetime64(k, "D")),
    st.integers(-9999, 9999).map(lambda k: np.timedelta64(k, "ms")))
metas = st.dictionaries(
    st.text().filter(lambda key: not key.startswith("$")),
    st.recursive(scalars, lambda part: st.lists(part) | st.lists(part).map(tuple)
                 | st.dictionaries(st.text("abc"), part), max_leaves=12))


def bits(x):
    """A value with its types and all its bits."""
    if isinstance(x, (list, tuple)):
        return type(x), [bits(y) for y in x]
    if isinstance(x, dict):
        return {key: bits(y) for key, y in x.items()}
    if isinstance(x, np.generic):
        return type(x), x.dtype.str, x.tobytes()
    return type(x), struct.pack("<d", x) if type(x) is float else x


@pytest.mark.slow
@settings(max_examples=60)
@given(meta=metas)
def test_meta_comes_back_bit_for_bit(folder, meta):
    write_archive(folder / "m", "test", meta, {})
    back, arrays = read_archive(folder / "m", "test")
    assert bits(back) == bits(meta) and arrays == {}


def test_arrays_come_back(path):
    rng = np.random.default_rng(0)
    block = rng.standard_normal((4, 6))
    arrays = {
        "C": block, "F": np.asfortranarray(block), "strided": block[::2, ::3],
        "scalar": np.array(0.1), "empty": np.zeros((0, 3)), "big": block.astype(">f4"),
        "half": np.float16(block),
        "bool": block > 0, "int": np.arange(5, dtype=">i2"), "u": np.arange(5, dtype=np.uint64),
        "dates": np.array(["2020-01-01", "NaT"], "datetime64[s]"), "text": np.array(["ä", "bc"]),
        "bytes": np.array([b"a", b"bc"]), "long": np.arange(300_000.0), "a.b-c_0": np.ones(2),
        "nan": np.frombuffer(np.uint64([0x7ff0000000000001, 0xfff8000000000123]).tobytes(), "<f8")}
    write_archive(path, "test", {}, arrays)
    meta, back = read_archive(path, "test")
    assert list(back) == list(arrays)
    for name, x in arrays.items():
        y = back[name]
        assert y.dtype.str == x.dtype.str and y.shape == x.shape
        assert y.tobytes() == x.tobytes() and y.flags.writeable and y.flags.owndata
        assert y.flags.f_contiguous or not x.flags.f_contiguous
    with np.load(path) as inside:
        for name, x in arrays.items():
            assert inside[name].tobytes() == x.tobytes()


@pytest.mark.parametrize("kind, meta, arrays, error, message", [
    (3, {}, {}, TypeError, "kind must be a string"),
    ("k", [], {}, TypeError, "meta must be a dict"),
    ("k", {"a": [1, {"b": object()}]}, {}, TypeError, r"meta\['a'\]\[1\]\['b'\] .* got object"),
    ("k", {"a": 2**64}, {}, ValueError, r"meta\['a'\] .* 64 bits"),
    ("k", {"a": 1j}, {}, TypeError, "got complex"),
    ("k", {"a": {"$x": 1}}, {}, TypeError, "keys must be strings"),
    ("k", {1: 1}, {}, TypeError, "keys must be strings"),
    ("k", {"a": np.complex64(1)}, {}, TypeError, "got complex64"),
    ("k", {"a": np.ones(2)}, {}, TypeError, "got ndarray"),
    ("k", {}, {"a": [1.0]}, TypeError, "array 'a' must be a NumPy array, got list"),
    ("k", {}, {"a": np.ma.ones(2)}, TypeError, "got MaskedArray"),
    ("k", {}, {"a": np.array([None])}, TypeError, "'a' cannot be saved: .* got dtype object"),
    ("k", {}, {"a": np.ones(2, complex)}, TypeError, "got dtype complex128"),
    ("k", {}, {"a": np.ones(2, "f4,f4")}, TypeError, "got dtype"),
    ("k", {}, {"../a": np.ones(2)}, ValueError, "names of arrays"),
    ("k", {}, {"": np.ones(2)}, ValueError, "names of arrays"),
    ("k", {}, {".a": np.ones(2)}, ValueError, "names of arrays"),
])
def test_what_an_archive_cannot_hold(path, kind, meta, arrays, error, message):
    with pytest.raises(error, match=message):
        write_archive(path, kind, meta, arrays)
    assert not list(path.parent.iterdir())


def test_meta_without_end(path):
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested more than 50"):
        write_archive(path, "k", {"a": loop}, {})


def test_kinds(path):
    write_archive(path, "checkpoint", {}, {})
    refused(path, "expected an archive of kind 'object', got 'checkpoint'")
    mlrops.save(path, Diagonal([1.0]))
    refused(path, "of kind 'checkpoint'", lambda p: read_archive(p, "checkpoint"))


def test_reading_leaves_errors_of_the_system_alone(path):
    for error in (FileNotFoundError(2, "no"), OSError(5, "Input/output error"), MemoryError()):
        with pytest.raises(type(error)), reading(path):
            raise error
    for error in (KeyError("a"), OSError(22, "Invalid argument"), RecursionError("deep"),
                  np.linalg.LinAlgError("b"), struct.error("c")):
        with pytest.raises(ValueError, match="cannot read '.*a.npz': ") as caught, reading(path):
            raise error
        assert type(caught.value) is ValueError


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def sound(folder):
    """A file with a bit of everything, and its object."""
    h = Hierarchy([2, 0, 1, 3], [[0, 4], [0, 1, 4]])._make(
        np.array([2, 0, 1, 3]), (np.array([0, 4]), np.array([0, 1, 4])), (None, ("a", 0.1)))
    A = mlrops.MLR(h, [np.ones((4, 1)), np.ones((4, 2))], np.ones(4))
    obj = Sum(A, Scaled(Permutation([1, 0, 3, 2]), -0.5))
    mlrops.save(folder / "sound", obj)
    return (folder / "sound").read_bytes(), obj


def test_truncations(path, sound):
    data, _ = sound
    for end in [*range(0, len(data), 7), *range(len(data) - 30, len(data))]:
        path.write_bytes(data[:end])
        refused(path)


def outcome(path, obj):
    """True when loading was refused; otherwise the object is the very same."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = mlrops.load(path)
        except ValueError as error:
            assert type(error) is ValueError and str(path) in str(error)
            return True
    assert_same(obj, found)
    return False


@pytest.mark.slow
def test_bytes_flipped(path, sound):
    data, obj = sound
    rng = np.random.default_rng(0)
    found = 0
    places = [*range(0, len(data), 3), *range(len(data) - 22, len(data))]
    for at in places:
        bad = bytearray(data)
        bad[at] ^= 1 << int(rng.integers(8)) if at % 2 else int(rng.integers(1, 256))
        path.write_bytes(bad)
        found += outcome(path, obj)
    # The rest are dates and attributes of the zip, which nobody reads.
    assert 0.75 * len(places) < found < len(places)


def test_many_bytes_flipped_removed_or_put_in(path, sound):
    data, obj = sound
    rng = np.random.default_rng(1)
    for _ in range(400):
        bad = bytearray(data)
        for at in rng.integers(len(bad), size=rng.integers(1, 20)):
            bad[at] = rng.integers(256)
        at, length = (int(k) for k in rng.integers(len(bad), size=2) // (1, 30))
        how = rng.integers(3)
        if how == 1:
            del bad[at : at + length]
        elif how == 2:
            bad[at:at] = rng.bytes(length)
        path.write_bytes(bad)
        outcome(path, obj)


@pytest.mark.parametrize("data", [
    b"", b"PK", b"not a zip at all" * 99, b"\x93NUMPY\x01\x00v\x00", b"PK\x05\x06" + bytes(18),
    b"PK\x05\x06" + b"\xff" * 18, b"PK\x05\x06" + b"\x00" * 8 + b"\xff\xff\xff\x7f" * 2 + b"\0\0",
])
def test_what_is_no_archive(path, data):
    path.write_bytes(data)
    refused(path)


def test_other_npz_files(path):
    np.savez(path, a=np.ones(3))
    refused(path, "not an mlrops archive: it has no member 'mlrops.json'")
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    refused(path, "no member")
