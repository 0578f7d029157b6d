"""`check_operator` finds every lie an operator can tell."""

import numpy as np
import pytest
from market import Bench
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlrops.operators import (
    Diagonal,
    LowRankPlusDiagonal,
    StructuredOperator,
    Wrapped,
    check_operator,
)

bench = Bench(np.float64)
F, D = bench.normal(7, 2), bench.positive(7)


class Broken(LowRankPlusDiagonal):
    """A sound operator to spoil one hook of."""


def failing(dtype=np.float64, **hooks):
    A = type("Spoiled", (Broken,), hooks)(F.astype(dtype), D.astype(dtype))
    return {check.name for check in check_operator(A).failed}


def test_a_sound_operator_passes_everything():
    report = check_operator(Broken(F, D))
    assert report.passed and report and not report.failed
    assert all(check.passed for check in report.checks) and len(report.checks) >= 27
    assert report.raise_if_failed() is report
    assert report["solve"].error <= report["solve"].tolerance
    with pytest.raises(KeyError):
        report["nothing"]


def off_by_one_row(hook):
    def spoiled(self, x):
        y = np.array(getattr(LowRankPlusDiagonal, hook)(self, x))
        y[0] *= 1.001
        return y
    return spoiled


@pytest.mark.parametrize("hook, caught", [
    ("_rmul", {"rmatvec", "rmatmat", "dot test"}),
    ("_solve", {"solve", "solve A x"}),
    ("_color", {"S Sᵀ = A", "W S = I"}),
    ("_whiten", {"W A Wᵀ = I", "W S = I"}),
])
def test_a_wrong_row_is_caught(hook, caught):
    assert caught <= failing(**{hook: off_by_one_row(hook)})


def test_wrong_numbers_are_caught():
    parent = LowRankPlusDiagonal
    assert "slogdet" in failing(_slogdet=lambda self: (1.0, 1e-6 + parent._slogdet(self)[1]))
    assert "slogdet" in failing(_slogdet=lambda self: (-1.0, parent._slogdet(self)[1]))
    assert "diagonal" in failing(_diagonal=lambda self: parent._diagonal(self) + 1e-6)
    assert "trace" in failing(_trace=lambda self: parent._trace(self) * 1.001)
    assert "inv_quad" in failing(_inv_quad=lambda self, x: 2 * parent._inv_quad(self, x))
    assert "inverse" in failing(_inv=lambda self: Diagonal(1 / D))
    assert "inverse of inverse" in failing(inv=lambda self: parent(F, D).inv())
    assert "matmat" in failing(
        _mul=lambda self, x: parent._mul(self, x) * (1 if x.ndim == 1 else 1.001))
    assert "linear" in failing(_mul=lambda self, x: parent._mul(self, x) + 1)
    assert "toarray" in failing(toarray=lambda self: np.eye(7))
    assert "sample" in failing(_sample=lambda self, size, rng: np.zeros((size, 6)))
    assert "copy" in failing(__deepcopy__=lambda self, memo: Diagonal(D))


def test_lost_shapes_and_dtypes_are_caught():
    parent = LowRankPlusDiagonal
    assert "shapes kept" in failing(solve=lambda self, b: parent.solve(self, b).ravel())
    assert "dtype kept" in failing(
        np.float32, solve=lambda self, b: parent.solve(self, b).astype(np.float64))
    assert failing(np.float32) == set()


def test_an_exception_is_a_failure():
    def explode(self, x):
        raise RuntimeError("no luck")

    A = type("Exploding", (Broken,), {"_solve": explode})(F, D)
    report = check_operator(A)
    assert not report.passed and "RuntimeError: no luck" in report["solve"].reason
    with pytest.raises(AssertionError, match="solve .*FAILED.*no luck"):
        report.raise_if_failed()


class Liar(StructuredOperator):
    """Claims a structure it does not have."""

    def __init__(self, A, **tags):
        super().__init__(A.dtype, A.shape, **tags)
        self._A = A

    def _mul(self, x):
        return self._A @ x


def test_untrue_tags_are_caught():
    A = Liar(bench.regular(5), symmetric=True)
    assert "symmetric tag" in {check.name for check in check_operator(A).failed}
    B = Liar(np.diag([1.0, -1, 2]), positive_definite=True)
    assert "positive definite tag" in {check.name for check in check_operator(B).failed}
    C = Wrapped(csr_array(np.diag([1.0, -1, 2])), positive_definite=True)
    assert "positive definite tag" in {check.name for check in check_operator(C).failed}


def test_operators_of_other_packages():
    X = bench.normal(4, 6)
    report = check_operator(aslinearoperator(X))
    assert report.passed and report["rmatvec"].passed and report["dtype kept"].passed is None
    one_way = LinearOperator((4, 6), matvec=X.__matmul__, dtype=float)
    report = check_operator(one_way)
    assert report.passed and report["dot test"].passed is None
    wrong = LinearOperator((4, 6), matvec=X.__matmul__, rmatvec=(-X.T).__matmul__, dtype=float)
    assert {"rmatvec", "dot test"} <= {check.name for check in check_operator(wrong).failed}


def test_the_table():
    lines = str(check_operator(Diagonal([1.0, 0, 2]))).splitlines()
    assert lines[0] == "<3x3 Diagonal, symmetric, float64>"
    assert any(line.split()[:3] == ["solve", "skipped", "singular"] for line in lines)
    assert len({line.index("ok  ") for line in lines if "  ok  " in line}) == 1
    assert lines[-1].endswith("skipped")
    assert max(map(len, lines)) < 80


def test_ill_conditioned_results_are_not_judged():
    A = LowRankPlusDiagonal(F, np.full(7, 1e-13))
    report = check_operator(A)
    assert report.passed and report["inverse"].passed is None
    assert "condition number" in report["inverse"].reason or (
        report["inverse"].reason == "singular")


def test_refusals():
    with pytest.raises(ValueError, match="max_size=5"):
        check_operator(Broken(F, D), max_size=5)
    with pytest.raises(TypeError, match="LinearOperator"):
        check_operator(np.eye(3))
    with pytest.raises(TypeError, match="complex"):
        check_operator(aslinearoperator(1j * np.eye(3)))
