"""Iterative solves that check themselves, and determinants asked for by name."""

import pickle

import numpy as np
import pytest
from market import Bench
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, diags_array

from mlrops.operators import (
    Dense,
    Diagonal,
    Kronecker,
    LowRankPlusDiagonal,
    Permutation,
    Sum,
    Wrapped,
    krylov,
)

bench = Bench(np.float64)
n = 30
POSITIVE = Sum(Kronecker(*(Dense(bench.spd(m), positive_definite=True) for m in (5, 6))),
               Diagonal(bench.positive(n)))
SYMMETRIC = POSITIVE + Diagonal(np.where(np.arange(n) % 3, 0.0, -8.0))
GENERAL = POSITIVE + Permutation(np.roll(np.arange(n), 3))


@pytest.mark.parametrize("A, method", [(POSITIVE, "cg"), (SYMMETRIC, "minres"), (GENERAL, "gmres")],
                         ids=["cg", "minres", "gmres"])
def test_method_follows_the_tags(A, method, monkeypatch):
    assert type(A) is Sum
    used = []
    for name in ("cg", "minres", "gmres"):
        original = getattr(krylov, name)

        def spy(*args, original=original, name=name, **options):
            used.append(name)
            return original(*args, **options)

        monkeypatch.setattr(krylov, name, spy)
    dense = A.toarray()
    B = np.random.default_rng(0).standard_normal((n, 3))
    X = A.solve(B)
    assert set(used) == {method}
    residual = np.linalg.norm(dense @ X - B, axis=0) / np.linalg.norm(B, axis=0)
    assert residual.max() <= 1.01e-10
    assert_allclose(A.solve(B[:, 0]), np.linalg.solve(dense, B[:, 0]), rtol=1e-6, atol=1e-8)
    assert_allclose(A.inv() @ B, X)


def test_float32():
    b32 = Bench(np.float32)
    parts = [Dense(b32.spd(m), positive_definite=True) for m in (2, 3)]
    A = Sum(Kronecker(parts), Diagonal(b32.positive(6)))
    b = b32.normal(6)
    x = A.solve(b)
    assert x.dtype == np.float32
    assert np.linalg.norm(A.toarray() @ x - b) <= 1.1e-5 * np.linalg.norm(b)


def test_zero_and_empty():
    assert np.array_equal(GENERAL.solve(np.zeros(n)), np.zeros(n))
    assert GENERAL.solve(np.zeros((n, 0))).shape == (n, 0)


def test_failure_says_what_was_reached():
    hilbert = 1.0 / (np.arange(12)[:, None] + np.arange(12) + 1)
    A = Wrapped(csr_array(hilbert), positive_definite=True)
    with pytest.raises(np.linalg.LinAlgError,
                       match=r"cg on .* relative residual of \S+ in \d+ iterations, 1e-10"):
        A.solve(np.random.default_rng(0).standard_normal(12))
    singular = Sum(Permutation([1, 0]), -1 * Diagonal([1.0, 1.0]))
    with pytest.raises(np.linalg.LinAlgError, match="minres"):
        singular.solve([1.0, 0.0])
    shift = Wrapped(diags_array([1.0, 1.0], offsets=1, shape=(3, 3)))
    with pytest.raises(np.linalg.LinAlgError, match="gmres"):
        shift.solve([0.0, 0.0, 1.0])


def test_nan_in_the_right_hand_side():
    b = np.ones((n, 2))
    b[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4"):
        GENERAL.solve(b)
    b[4, 1] = np.inf
    with pytest.raises(ValueError, match="row 4"):
        GENERAL.solve(b[:, 1])


# ---------------------------------------------------------------- determinants


def test_lanczos_is_exact_when_it_may_run_to_the_end():
    # Rademacher probes are exact for a diagonal matrix, and n steps are exact quadrature.
    d = np.linspace(1, 9, 12)
    sign, estimate = Diagonal(d).slogdet("lanczos", n_probes=3, n_steps=20, random_state=0)
    assert sign == 1.0
    assert_allclose(estimate, np.log(d).sum(), rtol=1e-12)
    assert estimate.standard_error < 1e-10


def test_lanczos_stops_at_an_invariant_subspace():
    A = LowRankPlusDiagonal(np.random.default_rng(0).standard_normal((200, 3)), np.ones(200))
    estimate = A.logdet("lanczos", n_probes=60, n_steps=50, random_state=1)
    assert abs(estimate - A.logdet()) < 5 * estimate.standard_error
    alpha, beta, steps = krylov._lanczos(A, np.ones((200, 2)) / 200**0.5, 50)
    assert list(steps) == [4, 4]


@pytest.mark.slow
def test_lanczos_covers_the_truth():
    errors = []
    exact = np.linalg.slogdet(POSITIVE.toarray())[1]
    for seed in range(30):
        estimate = POSITIVE.logdet(method="lanczos", n_probes=20, random_state=seed)
        assert isinstance(estimate, float) and estimate.standard_error > 0
        errors.append((estimate - exact) / estimate.standard_error)
    assert 0.5 < np.std(errors) < 1.6 and abs(np.mean(errors)) < 0.7
    again = POSITIVE.logdet(method="lanczos", n_probes=20, random_state=29)
    assert again == estimate and again.standard_error == estimate.standard_error


def test_lanczos_steps_and_float32():
    A = Dense(bench.spd(60), positive_definite=True)
    exact = A.logdet()
    rough, fine = (A.logdet("lanczos", n_probes=400, n_steps=s, random_state=0) for s in (2, 25))
    assert abs(fine - exact) < 4 * fine.standard_error
    assert abs(rough - exact) > 1e-3
    B = Dense(A.A.astype(np.float32), positive_definite=True)
    assert_allclose(B.logdet("lanczos", n_probes=400, n_steps=25, random_state=0), fine, rtol=1e-3)


def test_one_probe_has_no_standard_error():
    estimate = POSITIVE.logdet("lanczos", n_probes=1, random_state=0)
    assert estimate.standard_error == np.inf


def test_estimate_is_a_float():
    estimate = krylov.LogdetEstimate(2.5, 0.1)
    assert estimate == 2.5 and estimate + 1 == 3.5
    assert repr(estimate) == "LogdetEstimate(2.5, standard_error=0.1)"
    copied = pickle.loads(pickle.dumps(estimate))
    assert copied == 2.5 and copied.standard_error == 0.1


def test_dense_by_name():
    for A in (POSITIVE, SYMMETRIC, GENERAL):
        sign, logabs = A.slogdet(method="dense")
        expected = np.linalg.slogdet(A.toarray())
        assert (sign, logabs) == (expected[0], pytest.approx(expected[1], rel=1e-12))


def test_lanczos_refuses():
    with pytest.raises(ValueError, match="positive definite"):
        GENERAL.slogdet("lanczos")
    with pytest.raises(ValueError, match="'dense' or 'lanczos'"):
        POSITIVE.slogdet("exact")
    with pytest.raises(TypeError, match="need method"):
        POSITIVE.slogdet(n_probes=3)
    with pytest.raises(ValueError, match="n_probes"):
        POSITIVE.slogdet("lanczos", n_probes=0)
    with pytest.raises(TypeError, match="n_steps"):
        POSITIVE.slogdet("lanczos", n_steps=2.5)
    liar = Wrapped(csr_array(np.diag([1.0, -1.0, 2.0])), positive_definite=True)
    with pytest.raises(np.linalg.LinAlgError, match="not positive"):
        liar.slogdet("lanczos", random_state=0)
