"""Operators and results of a user's own: saved and loaded like those of the package."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from archives import refused
from test_archive_by_hand import IDENTITY, forge_nodes
from test_io import assert_same

import mlrops
from mlrops import MLR, Diagonal, Hierarchy, Identity, StructuredOperator, Sum
from mlrops._common.stored import COUNT, floats
from mlrops.io import storable
from mlrops.io.archive import read_archive, write_archive


@storable
class Reversal(StructuredOperator):
    def __init__(self, n):
        super().__init__(np.float64, (n, n), symmetric=True)

    def _mul(self, x):
        return x[::-1].copy()

    def to_fields(self):
        return {"n": self.shape[0]}

    @classmethod
    def from_fields(cls, n: int):
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}")
        return cls(n)


@storable
class Circulant(StructuredOperator):
    """Declares its fields only."""

    stored_fields = {"c": floats(1), "times": COUNT}

    def __init__(self, c, times):
        self.c, self.times = c, times
        super().__init__(c.dtype, (c.size, c.size))

    def _mul(self, x):
        return self.times * np.fft.ifft(np.fft.fft(self.c) * np.fft.fft(x)).real

    def _rmul(self, x):
        return self.times * np.fft.ifft(np.fft.fft(self.c).conj() * np.fft.fft(x)).real


@storable
@dataclass
class Report:
    """A result that knows nothing of the package's classes."""

    covariance: MLR
    scores: np.ndarray
    loglik: float
    names: tuple[str, ...] = ()
    parts: tuple[np.ndarray, ...] = ()
    before: "Report | None" = None
    notes: dict = field(default_factory=dict)


@storable
class Pair:
    """No dataclass, no base class."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def to_fields(self):
        return {"both": (self.first, self.second)}

    @classmethod
    def from_fields(cls, both):
        return cls(*both)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def again(path, obj):
    mlrops.save(path, obj)
    return mlrops.load(path)


def report():
    A = MLR(Hierarchy.from_labels(list("aab")), [np.ones((3, 1)), np.eye(3)[:, :1]], np.ones(3))
    first = Report(A, np.arange(6.0).reshape(2, 3), -1.5)
    return Report(A, np.zeros((0, 3)), np.float64(0.25), ("a", "b"), (np.arange(2), np.ones(1)),
                  before=first, notes={"seconds": 3, "way": [1, None]})


def test_an_operator(path):
    A = Sum(Reversal(3), Diagonal([1.0, 2, 3]), Reversal(3).T)
    B = again(path, A)
    assert [type(op) for op in B.ops] == [type(op) for op in A.ops]
    assert np.array_equal(A.toarray(), B.toarray())
    C = Circulant(np.array([1.0, 2, 0]), 2)
    D = again(path, C @ C.T)
    assert type(D.ops[0]) is Circulant and D.ops[1].T is D.ops[0]
    assert not D.ops[0].c.flags.writeable
    assert np.array_equal(D @ np.ones(3), C @ (C.T @ np.ones(3)))


def test_a_dataclass(path):
    fit = report()
    back = again(path, fit)
    assert type(back) is Report and type(back.before) is Report
    assert back.covariance is back.before.covariance  # stored once
    assert_same(fit.covariance, back.covariance)
    for name in ("loglik", "names", "notes"):
        assert getattr(fit, name) == getattr(back, name)
    for x, y in zip((fit.scores, *fit.parts), (back.scores, *back.parts), strict=True):
        assert_same(x, y)
    fit.scores.flags.writeable = False
    back = again(path, fit)
    assert not back.scores.flags.writeable and back.parts[0].flags.writeable


def test_a_class_without_a_base(path):
    pair = again(path, Pair(Identity(2), Pair(Reversal(2), Hierarchy.flat(3))))
    assert type(pair.second) is Pair and type(pair.second.first) is Reversal
    assert pair.second.second == Hierarchy.flat(3)


def test_a_file_names_the_class_by_its_module(path):
    mlrops.save(path, Reversal(3))
    meta, _ = read_archive(path, "object")
    assert meta["nodes"] == [{"class": f"{__name__}.Reversal", "values": {"n": 3}}]


def test_nothing_is_imported_because_a_file_names_it(path, tmp_path):
    (tmp_path / "hostile_module.py").write_text("print('imported')\nclass Thing: pass\n")
    forge_nodes(path, [{"class": "hostile_module.Thing"}])
    code = ("import sys, mlrops\ntry:\n    mlrops.load(sys.argv[1])\nexcept ValueError as error:\n"
            "    print(error)\nprint('hostile_module' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(
                              [str(tmp_path), *sys.path])})
    lines = done.stdout.splitlines()
    assert lines[1:] == ["False"]
    assert "node 0 is of class 'hostile_module.Thing', which is unknown here" in lines[0]
    assert "mlrops.io.storable before you load the file" in lines[0]


def test_classes_that_are_not_storable(path):
    class Bare:
        pass

    class Child(Reversal):
        pass

    with pytest.raises(TypeError, match="Bare must be a dataclass or have a method to_fields"):
        storable(Bare)
    for obj in (Bare(), Child(2), Sum(Child(2), Identity(2)), Pair(Identity(2), Child(2))):
        with pytest.raises(TypeError, match="decorator mlrops.io.storable, got (Bare|Child)"):
            mlrops.save(path, obj)
    with pytest.raises(TypeError, match=r"Report\.notes\['x'\] cannot be saved"):
        fit = report()
        fit.notes["x"] = object()
        mlrops.save(path, fit)


@pytest.mark.parametrize("change, reason", [
    ({"values": {"loglik": "high"}}, "field 'loglik' must not be of type str"),
    ({"values": {"loglik": 1.0, "names": ["a"]}}, "field 'names' must not be of type list"),
    ({"values": {}}, "it has no field 'loglik'"),
    ({"values": {"loglik": 1.0, "more": 1}}, "it has a field 'more', unknown here"),
    ({"parts": {"covariance": 0}}, "field 'covariance' must not be of type Hierarchy"),
    ({"values": {"loglik": 1.0}, "parts": {"covariance": 1, "before": 1}},
     "field 'before' must not be of type MLR"),
])
def test_fields_are_checked_against_the_annotations(path, change, reason):
    mlrops.save(path, report().before)
    meta, arrays = read_archive(path, "object")
    meta["nodes"][-1].update(change)
    write_archive(path, "object", meta, arrays)
    refused(path, reason)


@pytest.mark.parametrize("nodes, reason", [
    ([{"class": f"{__name__}.Reversal", "values": {"n": "3"}}], None),
    ([{"class": f"{__name__}.Reversal", "values": {"n": -1}}], "n must not be negative"),
    ([{"class": f"{__name__}.Reversal"}], None),
    ([{"class": f"{__name__}.Circulant", "values": {"c": [1.0], "times": 1}}], "'c' must be a vec"),
    ([IDENTITY, {"class": f"{__name__}.Pair", "parts": {"both": 0}}], None),
])
def test_fields_of_other_classes_are_checked(path, nodes, reason):
    forge_nodes(path, nodes)
    refused(path, reason)


def test_a_class_defined_anew_takes_the_place_of_the_old_one(path):
    def define(factor):
        @storable
        @dataclass
        class Local:
            x: float

            def value(self):
                return factor * self.x
        return Local

    mlrops.save(path, define(2)(1.5))
    define(3)
    assert mlrops.load(path).value() == 4.5


def test_a_class_may_have_a_name_of_the_package(path):
    @storable
    @dataclass
    class MLRFit:
        errors: float  # a field that the package's class of this name calls otherwise now
        termination: str

    fit = again(path, Pair(MLRFit(0.5, "loglik"), Identity(2))).first
    assert type(fit) is MLRFit and fit == MLRFit(0.5, "loglik")
