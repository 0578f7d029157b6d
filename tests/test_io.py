"""Save and load: every operator, hierarchy and fit comes back bit by bit; files appear at once."""

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import market
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import aslinearoperator
from trees import cases, hierarchies

import mlrops
from mlrops import (
    MLR,
    Dense,
    Diagonal,
    FactorModelResult,
    Hierarchy,
    Identity,
    Inverse,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    MLRFit,
    Permutation,
    Product,
    RankAllocation,
    Scaled,
    StructuredOperator,
    Sum,
    SURResult,
    Woodbury,
    Wrapped,
)
from mlrops.io import classes as _classes
from mlrops.regression.sur.als_gls import SUROptions

STRANGERS = {"wrapped operator", "wrapped without adjoint"}
PAIRS = [pytest.param(pair, id=f"{pair.name} {np.dtype(dtype)}")
         for dtype in (np.float64, np.float32) for pair in market(dtype)]


def stored(x):
    """What an object is made of: its attributes without what it has computed since."""
    computed = {name for kind in type(x).__mro__ for name, value in vars(kind).items()
                if isinstance(value, cached_property)}
    links = {"_transposed", "_norm_estimate"}
    if not type(x).__name__.endswith("Inverse"):
        links.add("_inverse")
    return {key: value for key, value in vars(x).items() if key not in computed | links}


def assert_same(a, b):
    """Equal in type, structure and every bit."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.dtype.byteorder == b.dtype.byteorder and a.shape == b.shape
        assert a.tobytes() == b.tobytes()
        assert a.flags.writeable == b.flags.writeable
        assert a.flags.f_contiguous == b.flags.f_contiguous or not a.flags.c_contiguous
    elif issparse(a):
        for name in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype
        assert a.shape == b.shape
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (StructuredOperator, Hierarchy, FactorModelResult)):
        mine, other = stored(a), stored(b)
        assert mine.keys() == other.keys()
        for key in mine:
            assert_same(mine[key], other[key])
    else:
        assert a == b or (a != a and b != b)


def again(path, obj):
    mlrops.save(path, obj)
    return mlrops.load(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("io")


@pytest.fixture(scope="module")
def fit():
    sim = mlrops.datasets.simulate_mlr(
        Hierarchy.from_labels(list("aabbccdd") * 3), (1, 2), 60, random_state=0)
    return mlrops.fit_factor_model(sim.Y, (1, 2), sim.covariance.hierarchy, tol=1e-4)


# ---------------------------------------------------------------- operators


@pytest.mark.quick(90)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_operator_comes_back(pair, path):
    A = pair.operator
    if pair.name in STRANGERS:
        with pytest.raises(TypeError, match="LinearOperator|Operator of another package"):
            mlrops.save(path, A)
        assert not list(path.parent.iterdir())
        return
    B = again(path, A)
    assert_same(A, B)
    rng = np.random.default_rng(0)
    for x in (rng.standard_normal(A.shape[1]), rng.standard_normal((A.shape[1], 3))):
        x = x.astype(A.dtype)
        assert (A @ x).tobytes() == (B @ x).tobytes()
    y = rng.standard_normal((A.shape[0], 2)).astype(A.dtype)
    if pair.name != "inverse transposed":  # A.T is what A was derived from, B.T is derived from B
        assert (A.T @ y).tobytes() == (B.T @ y).tobytes()
    if A.shape[0] == A.shape[1] and A._has_direct_solve and "singular" not in pair.name:
        assert A.solve(y).tobytes() == B.solve(y).tobytes()
    np.testing.assert_allclose(B.toarray(), pair.dense, rtol=0,
                               atol=2e-4 * max(1, np.abs(pair.dense).max()))


def test_the_market_holds_every_class_that_can_be_saved():
    found = set()

    def walk(A):
        found.add(type(A))
        for part in vars(A).values():
            for x in part if isinstance(part, tuple) else (part,):
                if isinstance(x, (StructuredOperator, Hierarchy)) and type(x) not in found:
                    walk(x)

    for pair in market():
        walk(pair.operator)
    fits = {FactorModelResult, SURResult, SUROptions, MLRFit, RankAllocation}
    assert {_classes.class_named(name, "") for name in _classes.OURS} - fits <= found


@given(case=cases(), single=st.booleans())
def test_any_tree(folder, case, single):
    A = case.A
    if single:
        A = MLR(A.hierarchy, [f.astype(np.float32) for f in A.factors], A.D.astype(np.float32))
    B = again(folder / "tree.npz", A)
    assert_same(A, B)
    assert (A @ case.D.astype(A.dtype)).tobytes() == (B @ case.D.astype(A.dtype)).tobytes()
    assert A.logdet() == B.logdet()


def test_shared_parts_stay_shared(path):
    G = Dense(np.arange(9.0).reshape(3, 3) + np.eye(3))
    S = Dense(np.diag([1.0, 2, 3]), positive_definite=True)
    for A in (Product(G, S, G.T), Product(G.T, S, G), Product(S, G, S), Product(S, G, G.T, S)):
        B = again(path, A)
        assert_same(A, B)
        assert A.symmetric == B.symmetric
    B = again(path, Product(G, S, G.T))
    assert B.symmetric and B.ops[0].T is B.ops[2]
    h = Hierarchy.flat(3)
    pair = [MLR(h, [np.ones((3, 1))], np.ones(3)) for _ in range(2)]
    first, second = again(path, Product(pair)).ops
    assert first is not second and first.hierarchy is second.hierarchy
    with np.load(path) as inside:
        assert sum(name.endswith("permutation") for name in inside) == 1


def test_palindromes_of_sparse_arrays_and_transposes(path):
    W = Wrapped(csr_array([[1.0, 0, 2], [0, 3, 0]]))
    A = Product(W, Diagonal([1.0, 2, 3]), W.T)
    B = again(path, A)
    assert_same(A, B)
    assert A.symmetric and B.symmetric
    T = mlrops.Transposed(LowRank([[1.0], [2.0]], [[3.0], [4.0]]))
    assert_same(T, again(path, T))
    K = Kronecker(W, Permutation([1, 2, 0])).T
    assert_same(K, again(path, K))


def test_inverses_know_what_they_invert(path):
    A = MLR(Hierarchy.flat(4), [np.ones((4, 1))], np.ones(4))
    L = LowRankPlusDiagonal(np.ones((4, 2)), np.ones(4))
    for op in (A, L, Woodbury(L, np.ones((4, 1)))):
        B = again(path, op.inv())
        assert_same(op.inv(), B)
        assert B.inv().inv() is B
        assert_same(op, B.inv())
    E = Inverse(Dense(np.diag([1.0, 2.0])))
    assert again(path, E).inv() is not None


def test_tags_are_kept_and_proved(path):
    S = np.array([[2.0, 1], [1, 2]])
    for A in (Dense(S), Dense(S, symmetric=False), Dense(S, positive_definite=True),
              Dense(S, positive_definite=True) + Diagonal([1.0, 2.0]),
              Wrapped(csr_array(S), positive_definite=True), Wrapped(csr_array(S), symmetric=False),
              Diagonal([1.0, 2.0]) + LowRankPlusDiagonal(np.ones((2, 1)), np.ones(2)).inv(),
              Woodbury(Diagonal([1.0, 2.0]), np.ones((2, 1)), [[-0.1]], )):
        B = again(path, A)
        assert_same(A, B)
        assert (A.symmetric, A.positive_definite) == (B.symmetric, B.positive_definite)
    hidden = Diagonal([1.0, 2.0]) + LowRankPlusDiagonal(np.ones((2, 1)), np.ones(2)).inv()
    assert hidden.positive_definite  # by its terms: the constructor could not tell
    assert not Woodbury(hidden.base, hidden.U, hidden.C).positive_definite
    lost = Dense(np.ones((2, 2)), _proved=True)  # numerically singular
    with pytest.raises(np.linalg.LinAlgError, match="cannot save Sum.ops.1.: .*not positive def"):
        mlrops.save(path, Sum(Permutation([1, 0]), lost))


def test_memory_order_and_bits(path):
    for order in "CF":
        A = Dense(np.arange(15.0).reshape(5, 3)) if order == "C" else Dense(np.ones((3, 5))).T
        assert again(path, A).A.flags.f_contiguous == (order == "F")
    A = Diagonal([-0.0, 5e-324, 1.7976931348623157e308, 0.1])
    assert again(path, A).d.tobytes() == A.d.tobytes()
    assert again(path, Scaled(A, 0.1 + 0.2)).c == 0.1 + 0.2
    for A in (Identity(0, np.float32), Dense(np.ones((0, 2))), LowRank(np.ones((3, 0)))):
        assert_same(A, again(path, A))
    assert again(path, Identity(10**12)).shape == (10**12, 10**12)  # and takes no time


def test_what_cannot_be_saved_is_named(path):
    class Own(StructuredOperator):
        pass

    stranger = aslinearoperator(np.eye(2))
    for obj, message in [
        (Own(np.float64, (2, 2)), "cannot save Own: expected a Hierarchy.* got Own"),
        (np.eye(2), "cannot save ndarray: expected .* got ndarray"),
        (Sum(np.eye(2), Scaled(Wrapped(stranger), 2.0)),
         r"cannot save Sum\.ops\[1\]\.base: it wraps a MatrixLinearOperator of another package"),
        (Product(Identity(2), Own(np.float64, (2, 2))), r"cannot save Product\.ops\[1\]: .*Own"),
    ]:
        with pytest.raises(TypeError, match=message):
            mlrops.save(path, obj)
    A = Identity(2)
    for _ in range(120):
        A = Scaled(A, 2.0)
    with pytest.raises(ValueError, match="nested 100 deep"):
        mlrops.save(path, A)
    for _ in range(3000):
        A = Scaled(A, 2.0)
    with pytest.raises(ValueError, match="nested this deep"):
        mlrops.save(path, A)
    with pytest.raises(ValueError, match="k = 100 of n = 1 feature"):
        mlrops.save(path, LowRankPlusDiagonal(np.ones((1, 100)), [1.0]).inv())
    assert not list(path.parent.iterdir())


# ---------------------------------------------------------------- hierarchies


@given(h=hierarchies())
def test_any_hierarchy(folder, h):
    assert_same(h, again(folder / "h.npz", h))


def test_names_of_groups(path):
    dates = np.array(["2020-01-01", "2021-06-05"], "datetime64[D]")
    for labels in (["b", "a ü\udc80\n\"", "b"], [3, -2**62, 7], [0.5, 1e-310, np.inf],
                   [True, False, True], dates[[0, 1, 0]], np.array([b"x", b"\xff", b"x"]),
                   np.array(["a", "b", "a"]), np.float32([0.1, 0.2, 0.1])):
        h = Hierarchy.from_labels(labels)
        g = again(path, h)
        assert_same(h, g)
        assert h.names(1) == g.names(1) and list(map(type, h.names(1))) == list(
            map(type, g.names(1)))
    h = Hierarchy.from_labels([(1, "a"), (0, "b"), (1, "a")])
    assert again(path, h).names(1) == ((0, "b"), (1, "a"))
    import datetime

    h = Hierarchy.from_labels([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)])
    with pytest.raises(TypeError, match=r"Hierarchy\.names\[1\]\[0\] cannot be saved: .* got date"):
        mlrops.save(path, h)


# ---------------------------------------------------------------- results


def test_a_fit_comes_back(path, fit):
    for result in (fit, dataclasses.replace(
            fit, feature_names=tuple(f"x{i}" for i in range(24)), capped=((1, 2, 1),),
            mean=fit.mean.astype(">f8"), gradient_norm=float("nan")),
            dataclasses.replace(fit, feature_names=tuple((i, "é") for i in range(24)))):
        back = again(path, result)
        assert_same(result, back)
        for f in dataclasses.fields(result):
            assert_same(getattr(result, f.name), getattr(back, f.name))
    Y = np.random.default_rng(1).standard_normal((5, 24))
    assert fit.score(Y) == again(path, fit).score(Y)


def test_read_only_arrays_stay_so(path, fit):
    trace = fit.loglik_trace.copy()
    assert again(path, dataclasses.replace(fit, loglik_trace=trace)).loglik_trace.flags.writeable
    trace.flags.writeable = False
    assert not again(
        path, dataclasses.replace(fit, loglik_trace=trace)).loglik_trace.flags.writeable


@pytest.fixture
def later(monkeypatch):
    """The class as a later version might have it, with fields of every kind."""
    new = [("noise", float, 0.5), ("rounds", int, 3), ("label", str, "x"), ("flag", bool, False),
           ("weights", np.ndarray | None, None), ("starts", tuple, ((1, "a"), (2, "b"))),
           ("levels", tuple[np.ndarray, ...], ()), ("start", MLR | None, None),
           ("notes", dict, dataclasses.field(default_factory=dict))]
    cls = dataclasses.make_dataclass("FactorModelResult", [
        (name, kind, value if isinstance(value, dataclasses.Field)
         else dataclasses.field(default=value)) for name, kind, value in new],
        bases=(FactorModelResult,), frozen=True, repr=False)

    def upgrade():
        monkeypatch.setattr("mlrops.factor.result.FactorModelResult", cls)
        return cls
    return upgrade


def test_new_fields_need_no_change(path, fit, later):
    mlrops.save(path, fit)
    cls = later()
    old = mlrops.load(path)
    assert type(old) is cls and old.noise == 0.5 and old.notes == {} and old.loglik == fit.loglik
    full = dataclasses.replace(
        old, noise=np.float64(1) / 3, rounds=np.int64(2**40), flag=np.True_, start=old.covariance,
        weights=np.arange(3, dtype="<f4"), levels=(np.arange(2), np.zeros((0, 3), np.float32)),
        notes={"a": [1, None, (2.5, float("nan"))]})
    back = again(path, full)
    for f in dataclasses.fields(full):
        if f.name != "notes":
            assert_same(getattr(full, f.name), getattr(back, f.name))
    assert back.start is back.covariance
    assert back.notes["a"][:2] == [1, None] and np.isnan(back.notes["a"][2][1])


def test_a_result_of_a_newer_version(path, fit, later, monkeypatch):
    cls = later()
    known = {f.name: getattr(fit, f.name) for f in dataclasses.fields(fit)}
    mlrops.save(path, cls(**known))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="a.npz.*FactorModelResult.*'.*unknown here: .*newer"):
        mlrops.load(path)


def test_fields_that_are_not_data(path, fit):
    with pytest.raises(TypeError, match=r"FactorModelResult\.capped\[0\] cannot be saved"):
        mlrops.save(path, dataclasses.replace(fit, capped=(object(),)))
    with pytest.raises(TypeError, match="covariance: expected a Hierarchy"):
        mlrops.save(path, dataclasses.replace(fit, covariance=StructuredOperator("f8", (2, 2))))


# ---------------------------------------------------------------- files


def test_the_path_is_taken_as_it_is(tmp_path):
    A = Identity(3)
    for name in ("plain", "with.npz", "ü .dat", "x" * 200):
        mlrops.save(str(tmp_path / name), A)
        assert_same(A, mlrops.load(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == sorted(["plain", "with.npz", "ü .dat", "x" * 200])
    (tmp_path / "link").symlink_to("plain")
    mlrops.save(tmp_path / "link", Identity(4))
    assert (tmp_path / "link").is_symlink() and mlrops.load(tmp_path / "plain").shape == (4, 4)


def test_permissions_are_those_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        mlrops.save(tmp_path / "a", Identity(2))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o640
    os.chmod(tmp_path / "a", 0o604)
    mlrops.save(tmp_path / "a", Identity(2))
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o604


def test_errors_of_the_file_system_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError):
        mlrops.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        mlrops.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.a.npz'"):
        mlrops.save(tmp_path / "none" / "a.npz", Identity(2))
    with pytest.raises(TypeError):
        mlrops.load(3)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["os.fsync", "os.replace", "numpy.lib.format.write_array"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file(path, monkeypatch, where, error):
    mlrops.save(path, Identity(3))

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(type(error)):
            mlrops.save(path, Diagonal([1.0, 2.0]))
    assert os.listdir(path.parent) == [path.name]
    assert_same(Identity(3), mlrops.load(path))


def test_the_disk_has_it_before_the_name(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(a, b):
        assert os.path.dirname(a) == os.path.dirname(b) == str(path.parent)
        calls.append("replace")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    mlrops.save(path, Identity(3))
    assert calls == ["file", "replace", "folder"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_leaves_a_whole_file(path):
    code = """if True:
        import sys, numpy as np, mlrops
        while True:
            for k in (1.0, 2.0):
                mlrops.save(sys.argv[1], mlrops.Diagonal(np.full(200_000, k)))
                print("saved", flush=True)
    """
    for delay in (0.0, 0.013, 0.031, 0.057):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], text=True,
                                   stdout=subprocess.PIPE, env={
                                       **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        with process:
            assert process.stdout.readline() == "saved\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        d = mlrops.load(path).d
        assert d[0] in (1.0, 2.0) and (d == d[0]).all()


def test_equal_objects_give_equal_files(tmp_path, fit):
    for name in "ab":
        mlrops.save(tmp_path / name, fit)
    assert Path(tmp_path / "a").read_bytes() == Path(tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_a_million_features_take_one_copy(path):
    h = Hierarchy.balanced(1_000_000, [1, 1000, 100_000])
    A = MLR._from_tree(h, (4, 4, 4), np.ones((h.n, 12)), np.ones(h.n))
    size = A._F.nbytes
    tracemalloc.start()
    try:
        mlrops.save(path, A)
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        B = mlrops.load(path)
        loading = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert saving < 0.5 * size
    assert loading < 1.6 * size
    assert os.path.getsize(path) < 1.2 * size
    assert B._F.tobytes() == A._F.tobytes()


def test_numpy_opens_it(path, fit):
    mlrops.save(path, fit)
    with np.load(path) as inside:
        text = inside["mlrops.json"]
        assert text.startswith(b'{"format": "mlrops", "version": 1, ')
        assert np.array_equal(inside["1.F"], fit.covariance._F)
        assert all(inside[name] is not None for name in inside)
