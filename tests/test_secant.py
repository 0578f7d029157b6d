"""Directions of jumps: limited-memory BFGS and scoring steps against dense matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import close

from mlrops.factor.quasi_newton import SHORTER, _shorter
from mlrops.factor.scoring import scoring_step
from mlrops.factor.secant import SecantPairs
from mlrops.kernels import vectors

# ---------------------------------------------------------------- directions


def dense_bfgs(H, pairs):
    """The textbook update of an inverse Hessian, pair by pair."""
    eye = np.eye(len(H))
    for s, y in pairs:
        rho = 1 / (s @ y)
        H = (eye - rho * np.outer(s, y)) @ H @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)
    return H


def curved_pairs(size, count, seed, dtype=np.float32):
    """Steps and the falls of the gradient of a quadratic along them."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((size, size))
    B = B @ B.T / size + np.eye(size)
    S = rng.standard_normal((count, size)).astype(dtype)
    return [(s, (B @ s).astype(dtype)) for s in S]


def add(known, s, y):
    known.free[0][:], known.free[1][:] = s, y
    known.add()


@pytest.mark.parametrize("chunk", [7, 1 << 17])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 12])
def test_directions_equal_dense_bfgs(count, chunk, monkeypatch):
    """Also after the oldest pairs have been written over."""
    monkeypatch.setattr(vectors, "PIECE", chunk)
    size = 40
    rng = np.random.default_rng(count)
    first = rng.uniform(0.5, 2.0, size)
    known, pairs = SecantPairs(5, vectors.Arrays(size)), curved_pairs(size, count, seed=1)
    for s, y in pairs:
        add(known, s, y)
    assert len(known) == min(count, 5)
    for scale in (1.0, 3.0):  # the rough matrix may be another one at every call
        H = dense_bfgs(np.diag(scale * first), [
            (s.astype(float), y.astype(float)) for s, y in pairs[-5:]])
        g = rng.standard_normal(size).astype(np.float32)
        given = g.copy()
        d = known.direction(g, lambda q, c=scale: (c * first * q).astype(np.float32))
        close(d, H @ g, 2e-5)
        assert np.array_equal(g, given)
    if count:  # the secant equation of the newest pair
        s, y = pairs[-1]
        close(known.direction(y, lambda q: (first * q).astype(np.float32)), s, 2e-5)


def test_pairs_that_no_positive_matrix_satisfies_are_refused():
    known = SecantPairs(3, vectors.Arrays(4))
    e = np.eye(4, dtype=np.float32)
    for y in (-e[0], e[1], e[0] + np.nan, e[0] + np.inf, -e[0] - np.inf, 0 * e[0]):
        with np.errstate(invalid="ignore"):
            add(known, e[0], y)
    assert len(known) == 0
    add(known, e[0], 2 * e[0])
    add(known, e[1], -e[1])
    assert len(known) == 1
    close(known.direction(np.ones(4, np.float32), lambda q: q), [0.5, 1, 1, 1], 1e-6)


def test_cleared_pairs_are_forgotten():
    known, pairs = SecantPairs(3, vectors.Arrays(10)), curved_pairs(10, 8, seed=2)
    for s, y in pairs[:5]:
        add(known, s, y)
    known.clear()
    g = np.arange(10, dtype=np.float32)
    assert len(known) == 0
    close(known.direction(g, lambda q: 2 * q), 2 * g, 1e-6)
    fresh = SecantPairs(3, vectors.Arrays(10))
    for s, y in pairs[5:]:
        add(known, s, y)
        add(fresh, s, y)
        assert np.array_equal(known.direction(g, np.copy), fresh.direction(g, np.copy))


@given(slope=st.floats(1e-3, 100), top=st.floats(0.01, 10))
def test_shorter_is_the_maximum_of_a_parabola(slope, top):
    end = slope * (1 - 1 / top)  # its slope falls to zero at `top`
    expected = np.clip(top, *SHORTER) if top < 1 else 0.3  # it fell, and yet is rising at its end
    assert _shorter(slope, end) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- corrected information


def dense_updates(B, pairs):
    """The textbook update of a Hessian, pair by pair."""
    for s, y in pairs:
        Bs = B @ s
        B = B - np.outer(Bs, Bs) / (s @ Bs) + np.outer(y, y) / (s @ y)
    return B


def matrix(apply, size):
    return np.stack([apply(e) for e in np.eye(size)], axis=1)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 12])
def test_corrected_matrices_equal_dense_bfgs(count):
    """Also after the oldest pairs have been written over; that of the directions is its inverse."""
    size, rng = 30, np.random.default_rng(count)
    X = rng.standard_normal((size, size))
    B = X @ X.T / size + np.eye(size)
    known = SecantPairs(5, vectors.Arrays(size))
    pairs = curved_pairs(size, count, seed=3, dtype=float)
    for s, y in pairs:
        add(known, s, y)
    for scale in (1.0, 4.0):
        found = matrix(known.corrected(lambda v, c=scale: c * (B @ v)), size)
        close(found, dense_updates(scale * B, pairs[-5:]), 1e-10)
        assert np.linalg.eigvalsh((found + found.T) / 2).min() > 0
        inverse = matrix(lambda g, c=scale: known.direction(
            g, lambda q: np.linalg.solve(c * B, q)), size)
        close(inverse @ found, np.eye(size), 1e-8)
    s, y = pairs[-1]
    close(known.corrected(lambda v: B @ v)(s), y, 1e-10)


def test_memory_goes_on_with_the_same_directions():
    known, pairs = SecantPairs(3, vectors.Arrays(10)), curved_pairs(10, 9, seed=4)
    for s, y in pairs[:5]:
        add(known, s, y)
    again = SecantPairs(3, vectors.Arrays(10))
    again.remember({name: np.copy(x) for name, x in known.memory().items()})
    for s, y in pairs[5:]:
        g = np.arange(10.0)
        assert np.array_equal(known.direction(g, np.copy), again.direction(g, np.copy))
        assert np.array_equal(known.corrected(np.copy)(g), again.corrected(np.copy)(g))
        for x in (known, again):
            add(x, s, y)


# ---------------------------------------------------------------- steps of scoring


def scoring_problem(size=40, rank=None, seed=0):
    """A positive (semidefinite) B, a diagonal M, a gradient in the range of B."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((size, rank or size))
    B, M = X @ X.T / size, rng.uniform(0.5, 4.0, size)
    return B, M, B @ rng.standard_normal(size)


@pytest.mark.parametrize("damping", [0.0, 1e-6, 0.3, 50.0])
@pytest.mark.parametrize("rank", [None, 10])
def test_steps_solve_the_damped_system(damping, rank):
    """Without damping a singular B has a solution, too: its gradients are in its range."""
    B, M, g = scoring_problem(rank=rank)
    given = g.copy()
    d = scoring_step(lambda v: B @ v, lambda q: q / M, g, damping, most=2000, ratio=1e-13)
    close((B + damping * np.diag(M)) @ d, g, 1e-9)
    assert np.array_equal(g, given)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_truncated_steps_are_those_of_conjugate_gradients(damping):
    """After k products d is the best of all combinations of k directions of Krylov."""
    B, M, g = scoring_problem()
    A = B + damping * np.diag(M)
    directions = [g / M]
    for k in range(1, 6):
        d = scoring_step(lambda v: B @ v, lambda q: q / M, g, damping, most=k, ratio=0.0)
        K = np.linalg.qr(np.stack(directions, axis=1))[0]
        close(d, K @ np.linalg.solve(K.T @ A @ K, K.T @ g), 1e-8)
        assert d @ g > 0
        directions.append(A @ directions[-1] / M)


@pytest.mark.parametrize("ratio", [0.2, 0.1, 1e-4])
def test_products_end_with_the_residual(ratio):
    B, M, g = scoring_problem()
    count = []

    def times(v):
        count.append(1)
        return B @ v

    def left(most):
        count.clear()
        d = scoring_step(times, lambda q: q / M, g, 0.01, most, ratio)
        r = g - (B + 0.01 * np.diag(M)) @ d
        return np.sqrt(r @ (r / M)) / np.sqrt(g @ (g / M)), len(count)

    share, products = left(1000)
    assert share <= ratio and 1 < products < 1000
    before, one_less = left(products - 1)
    assert before > ratio and one_less == products - 1


def test_steps_of_no_gradient_and_without_curvature():
    B, M, g = scoring_problem()
    assert not scoring_step(lambda v: B @ v, lambda q: q / M, 0 * g).any()
    assert not scoring_step(lambda v: -v, lambda q: q / M, g).any()
    assert scoring_step(lambda v: -v, lambda q: q / M, g, 10.0).any()  # damping makes it positive
    held = np.arange(40) < 8  # what the answer holds does not move
    d = scoring_step(lambda v: B @ v, lambda q: np.where(held, 0, q / M), g, 0.1, 2000, 1e-13)
    assert not d[:8].any()
    A = (B + 0.1 * np.diag(M))[8:, 8:]
    close(A @ d[8:], g[8:], 1e-9)


# ---------------------------------------------------------------- vectors


def test_vectors_in_one_pass():
    """Sums of pieces, whatever their number; NaN in rows of weight zero does not matter."""
    rng = np.random.default_rng(0)
    M, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 200_000), 200_000))
    close(vectors.dots(M, x), M.astype(float) @ x.astype(float), 1e-12)
    M[2] = np.nan
    out, c = x.copy(), np.array([1.0, -2.0, 0.0, 0.5])
    assert vectors.combine(c, M, out) is out
    close(out, x + M[0] - 2 * M[1] + M[3] / 2, 1e-6)


@pytest.mark.parametrize("shape", [(50, 3), (40_000, 3), (50, 0), (0, 3)])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_rows_with_one_scale_each(shape, threads, monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", threads)
    monkeypatch.setattr("mlrops.kernels.threads.MIN_WORK", 1)
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, *shape))
    scale, out = rng.uniform(1, 2, shape[0]), np.empty(shape, np.float32)
    vectors.difference(A, B, scale, out)
    close(out, (A - B) / scale[:, None], 1e-6)
    vectors.step(A, B, scale, B)
    close(B, A + scale[:, None] * np.random.default_rng(0).standard_normal((2, *shape))[1], 1e-14)
    assert vectors.largest(A, scale) == np.abs(A * scale[:, None]).max(initial=0)
    if A.size:
        A[-1, -1] = np.nan
        assert np.isnan(vectors.largest(A, scale))
