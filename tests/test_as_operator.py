"""Operators of other packages, and what merely has ``shape`` and ``matvec``."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

import mlrops
from mlrops import Dense, Diagonal, LowRankPlusDiagonal, Permutation, Sum, Wrapped, check_operator
from mlrops import as_operator as public

S = np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])


class Duck:
    """Nothing but a shape and a product."""

    shape = (3, 3)

    def matvec(self, x):
        return S @ x


class FullDuck(Duck):
    dtype = np.dtype(np.float32)

    def rmatvec(self, x):
        return S.T @ x

    def matmat(self, X):
        return S @ X


def test_what_merely_has_shape_and_matvec():
    for duck, dtype in ((Duck(), np.float64), (FullDuck(), np.float32)):
        for make in (Wrapped, public):
            A = make(duck, positive_definite=True)
            assert type(A) is Wrapped and A.dtype == dtype and A.positive_definite
            assert_allclose(A.toarray(), S)
            assert_allclose(A.solve(S @ [1.0, 2.0, 3.0]), [1, 2, 3], rtol=1e-4)
            check_operator(A).raise_if_failed()
        report = check_operator(duck)
        assert report.passed and report["matvec"].passed
    assert_allclose((Diagonal([1.0, 1.0, 1.0]) + Duck()).toarray(), S + np.eye(3))


def test_pylops():
    pylops = pytest.importorskip("pylops")
    square = pylops.MatrixMult(S)
    A = Wrapped(square, symmetric=True)
    assert A.symmetric
    assert_allclose(A.solve([1.0, 2.0, 3.0]), np.linalg.solve(S, [1.0, 2.0, 3.0]), rtol=1e-8)
    for op in (square, pylops.FirstDerivative(6), pylops.MatrixMult(S) + pylops.Identity(3)):
        dense = np.column_stack([op.matvec(e) for e in np.eye(op.shape[1])])
        for B in (Wrapped(op), public(op)):
            assert_allclose(B.toarray(), dense, atol=1e-12)
            assert_allclose(B.T @ np.eye(op.shape[0]), dense.T, atol=1e-12)
            check_operator(B).raise_if_failed()
        check_operator(op).raise_if_failed()
    assert_allclose((square @ public(np.eye(3)).toarray()), S)


def test_tags():
    assert mlrops.as_operator is public
    dense = public(S, positive_definite=True)
    assert type(dense) is Dense and dense.positive_definite
    assert public(csr_array(S), positive_definite=True).positive_definite
    assert public(csr_array(S)).symmetric and not public(csr_array(S), symmetric=False).symmetric
    foreign = aslinearoperator(S)
    assert not public(foreign).symmetric and public(foreign, symmetric=True).symmetric
    low = LowRankPlusDiagonal(np.ones((3, 1)), np.ones(3))
    assert public(low, positive_definite=True, symmetric=True) is low
    unknown = Sum(Permutation([2, 1, 0]), Diagonal([2.0, 2.0, 2.0]))
    assert public(unknown) is unknown and public(unknown, symmetric=True) is unknown
    known = public(unknown, positive_definite=True)
    assert type(known) is Wrapped and known.positive_definite
    assert_allclose(known.solve(unknown @ np.arange(3.0)), np.arange(3.0), atol=1e-8)
    # Entries at hand are looked at.
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        public(-S, positive_definite=True)
    with pytest.raises(ValueError, match="declared symmetric"):
        public(np.triu(S), symmetric=True)
    with pytest.raises(ValueError, match="declared symmetric"):
        public(csr_array(np.triu(S)), symmetric=True)
    with pytest.raises(ValueError, match="must be square"):
        public(csr_array(S[:2]), symmetric=True)


def test_refusals():
    for x in (3.0, [1.0, 2.0], "matrix", None, object()):
        with pytest.raises(TypeError, match="expected an operator, a 2-d array"):
            public(x)
        with pytest.raises(TypeError, match="shape and matvec"):
            Wrapped(x)
        with pytest.raises(TypeError, match="LinearOperator"):
            check_operator(x)
    complex_duck = FullDuck()
    complex_duck.dtype = np.dtype(complex)
    with pytest.raises(TypeError, match="complex"):
        Wrapped(complex_duck)
