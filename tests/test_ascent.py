"""Quasi-Newton jumps: directions against dense BFGS matrices, buffers, fallbacks, monotony."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import close, dense_mlr, hierarchies, same_group

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor.ascent import SHORTER, Ascent, LikelihoodSurface, _shorter
from mlrops.factor.estep.sources import open_source
from mlrops.factor.point import Point
from mlrops.factor.secant import SecantPairs
from mlrops.factor.start import start
from mlrops.kernels import vectors

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


def samples(h, ranks, N, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    A = MLR(h, [rng.standard_normal((h.n, r)) for r in ranks],
            noise * rng.uniform(0.5, 1.5, h.n))
    return A.sample(N, random_state=seed) + rng.standard_normal(h.n)


def gappy(Y, share=0.1, seed=3):
    return np.where(np.random.default_rng(seed).random(Y.shape) < share, np.nan, Y)


def open_problem(Y, ranks, h, floor=1e-6, center=True):
    """The problem of a fit and its first point, as `fit_factor_model` makes them."""
    source, h, _ = open_source(Y, h, center, "em", None, None)
    tree = h._in_tree_order()
    problem = LikelihoodSurface(source, tree, ranks, (floor * source.variance).astype(source.dtype))
    return problem, Point(*start("svd", h, ranks, source, None), source.mean)


# ---------------------------------------------------------------- directions


def dense_bfgs(H, pairs):
    """The textbook update of an inverse Hessian, pair by pair."""
    eye = np.eye(len(H))
    for s, y in pairs:
        rho = 1 / (s @ y)
        H = (eye - rho * np.outer(s, y)) @ H @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)
    return H


def curved_pairs(size, count, seed):
    """Steps and the falls of the gradient of a quadratic along them, in single precision."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((size, size))
    B = B @ B.T / size + np.eye(size)
    S = rng.standard_normal((count, size)).astype(np.float32)
    return [(s, (B @ s).astype(np.float32)) for s in S]


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
    known, pairs = SecantPairs(5, size), curved_pairs(size, count, seed=1)
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
    known = SecantPairs(3, 4)
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
    known, pairs = SecantPairs(3, 10), curved_pairs(10, 8, seed=2)
    for s, y in pairs[:5]:
        add(known, s, y)
    known.clear()
    g = np.arange(10, dtype=np.float32)
    assert len(known) == 0
    close(known.direction(g, lambda q: 2 * q), 2 * g, 1e-6)
    fresh = SecantPairs(3, 10)
    for s, y in pairs[5:]:
        add(known, s, y)
        add(fresh, s, y)
        assert np.array_equal(known.direction(g, np.copy), fresh.direction(g, np.copy))


@given(slope=st.floats(1e-3, 100), top=st.floats(0.01, 10))
def test_shorter_is_the_maximum_of_a_parabola(slope, top):
    end = slope * (1 - 1 / top)  # its slope falls to zero at `top`
    expected = np.clip(top, *SHORTER) if top < 1 else 0.3  # it fell, and yet is rising at its end
    assert _shorter(slope, end) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- gradients

TREE = Hierarchy(np.random.default_rng(0).permutation(14), [[0, 14], [0, 5, 14], [0, 1, 5, 9, 14]])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("ranks", [(2, 1, 1), (0, 2, 0), (0, 0, 0)])
def test_gradient_in_the_coordinates_of_the_search(missing, ranks):
    Y = samples(TREE, ranks, 40)
    problem, _ = open_problem(gappy(Y) if missing else Y, ranks, TREE)
    rng = np.random.default_rng(1)
    sd = problem.sd
    point = Point(rng.standard_normal((14, sum(ranks))) * sd[:, None] / 2,
                  rng.uniform(0.5, 1.5, 14) * sd**2, problem.source.mean + 0.1 * sd * missing)
    mapped = problem.evaluate(point, Point.empty_like(point), True)
    g = problem.gradient(point, mapped)
    assert problem.size == 14 * (sum(ranks) + 1 + missing) == g.size
    for _ in range(4):
        u, eps = rng.standard_normal(problem.size).astype(np.float32), 1e-4
        uF, uD, umean = problem.parts(u.astype(float))
        shift = sd * umean if missing else 0
        up, down = (Point(point.F + e * sd[:, None] * uF, point.D * np.exp(e * uD),
                          point.mean + e * shift) for e in (eps, -eps))
        rise = np.subtract(*(problem.evaluate(p, Point.empty_like(point), True).loglik
                             for p in (up, down)))
        assert rise / (2 * eps) == pytest.approx(float(g.astype(float) @ u), rel=1e-5, abs=1e-5)
        v = np.empty(problem.size, np.float32)
        problem.difference(up, down, v)
        close(v, 2 * eps * u, 1e-6)
        found = problem.move(point, u, eps, Point.empty_like(point))
        for one, other in zip(found, up, strict=True):
            close(one, other, 1e-6)


def test_gradient_of_a_variance_at_the_floor():
    Y = samples(TREE, (1, 1, 1), 40)
    problem, first = open_problem(Y, (1, 1, 1), TREE, floor=0.5)
    point = first._replace(D=np.where(np.arange(14) < 7, problem.floor, 4 * problem.sd**2))
    mapped = problem.evaluate(point, Point.empty_like(point), True)
    dD = mapped.step.gradient(*mapped.raw)[1] * point.D
    found = problem.parts(problem.gradient(point, mapped))[1]
    assert (dD[:7] < 0).any() and (dD[7:] < 0).any()
    close(found, np.where((np.arange(14) < 7) & (dD < 0), 0, dD), 1e-6)


def test_gradient_norm_as_documented():
    """The largest derivative of the dense log-likelihood, F in units of √D, D as log D."""
    Y, ranks, seen = samples(TREE, (2, 1, 1), 60), (2, 1, 1), []
    found = fit_factor_model(Y, ranks, TREE, max_iter=5, tol=0, callback=seen.append)
    A = seen[-1].covariance
    inverse = np.linalg.inv(dense_mlr(TREE, A.factors, A.D))
    G = (inverse @ np.cov(Y.T, bias=True) @ inverse - inverse) / 2
    by_F = [2 * np.where(same_group(TREE, level), G, 0) @ F * np.sqrt(A.D)[:, None]
            for level, F in enumerate(A.factors)]
    expected = max(np.abs(np.column_stack([*by_F, np.diag(G) * A.D])).ravel())
    assert found.gradient_norm == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- buffers and fallbacks


class Watched(LikelihoodSurface):
    """Checks at every evaluation that nothing alive is written; may break evaluations of jumps."""

    ascent, after_move, broken, breaks = None, False, 0, None

    def move(self, *args):
        self.after_move = True
        return super().move(*args)

    def evaluate(self, point, out, keep):
        jump, self.after_move = self.after_move, False
        alive = [point]
        if hasattr(self.ascent, "state"):
            alive += [self.ascent.state.point, self.ascent.state.mapped.image]
        for x in (out.F, out.D):
            assert not any(np.shares_memory(x, y) for p in alive for y in (p.F, p.D))
        mapped = super().evaluate(point, out, keep)
        if jump and self.breaks is not None:
            how = next(self.breaks)
            self.broken += how is not None
            if how == "singular":
                raise np.linalg.LinAlgError("broke down")
            if how is not None:
                return mapped._replace(loglik=how)
        return mapped


def check_buffers(ascent, buffers):
    """Those in use and those free are different arrays, as many as in the beginning."""
    state = ascent.state
    held = [state.point, state.mapped.image, *ascent._free]
    for name in ("F", "D"):
        arrays = [getattr(p, name) for p in held]
        assert len(arrays) == buffers
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def climb(problem, first, accelerate, steps, breaks=None):
    """An ascent with all that must hold checked at every step."""
    problem.breaks = breaks
    watched = Watched.__new__(Watched)
    watched.__dict__.update(problem.__dict__)
    ascent = Ascent.__new__(Ascent)
    watched.ascent = ascent
    ascent.__init__(watched, first, accelerate)
    trace = [ascent.state.loglik]
    for _ in range(steps):
        before = ascent.state
        copies = [x.copy() for x in (*before.point, *before.mapped.image)]
        moved = ascent.advance()
        check_buffers(ascent, 4 if accelerate else 3)
        if not moved:
            assert ascent.state is before
            for x, copy in zip((*before.point, *before.mapped.image), copies, strict=True):
                assert np.array_equal(x, copy)
            break
        trace.append(ascent.state.loglik)
        again = problem.evaluate(ascent.state.point, Point.empty_like(first), False)
        assert again.loglik == pytest.approx(trace[-1], rel=1e-9)
        close(again.image.F, ascent.state.mapped.image.F, 1e-6)
    assert (np.diff(trace) >= 0).all()
    return ascent, trace, watched.broken


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_what_is_alive_is_never_written(missing, optimizer):
    Y = samples(TREE, (2, 1, 1), 60)
    problem, first = open_problem(gappy(Y) if missing else Y, (2, 1, 1), TREE)
    climb(problem, first, accelerate, 60)


@pytest.mark.quick(5)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("hows", [
    ["singular"], [math.nan], [-math.inf], [math.inf], [-1e9],
    ["singular", None, math.nan, None, -1e9, -1e9]], ids=str)
def test_jumps_that_fail_fall_back(hows, missing):
    """Whatever a jump runs into, the climb goes on, and ends where plain EM ends."""
    Y = samples(TREE, (1, 1, 0), 200)
    problem, first = open_problem(gappy(Y) if missing else Y, (1, 1, 0), TREE)
    rng = np.random.default_rng(0)

    def breaks():
        while True:
            yield hows[rng.integers(len(hows))] if rng.random() < 0.5 else None

    ascent, trace, broken = climb(problem, first, True, 80, breaks())
    assert broken > 10
    expected = climb(problem, first, True, 80)[1]
    assert trace[-1] == pytest.approx(expected[-1], abs=2e-3)
    assert ascent.n_evaluations > len(trace) + broken - 2


def test_no_finite_value_at_a_plain_step_is_an_error():
    Y = samples(TREE, (1, 1, 0), 60)
    problem, first = open_problem(Y, (1, 1, 0), TREE)
    ascent = Ascent(problem, first, True)
    evaluate = problem.evaluate
    problem.evaluate = lambda *args: evaluate(*args)._replace(loglik=math.nan)
    with pytest.raises(FloatingPointError, match="log-likelihood is nan after 2 evaluations"):
        ascent.advance()


def test_it_stops_where_rounding_ends_all_gains():
    Y = samples(TREE, (1, 1, 0), 200)
    problem, first = open_problem(Y, (1, 1, 0), TREE)
    for optimizer in ("bfgs", "em"):
        ascent = climb(problem, first, accelerate, 4000)[0]
        assert ascent.exhausted and ascent.state.gradient_norm < 1e-5


# ---------------------------------------------------------------- monotony

KINDS = ["plain", "duplicated", "float32", "missing", "few", "missing, duplicated"]


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(h=hierarchies(max_n=14, max_levels=4), seed=st.integers(0, 1000), data=st.data())
def test_the_log_likelihood_never_falls(kind, h, seed, data):
    ranks = tuple(data.draw(st.integers(0, 3)) for _ in range(h.n_levels))
    init = data.draw(st.sampled_from(["svd", "random"]))
    rng = np.random.default_rng(seed)
    N = 4 if kind == "few" else 40
    Y = rng.standard_normal((N, h.n)) @ rng.standard_normal((h.n, h.n))
    Y += rng.standard_normal((N, h.n))
    if "duplicated" in kind:
        Y[:, -1] = Y[:, 0]
        Y[:, h.n // 2] = -2 * Y[:, 0]
    if "missing" in kind:
        Y = gappy(Y, seed=seed)
    if kind == "float32":
        Y = Y.astype(np.float32)
    seen = []
    fit = fit_factor_model(Y, ranks, h, init=init, random_state=seed, missing="em", max_iter=60,
                           callback=lambda it: seen.append((it.loglik, it.covariance.D.min())))
    trace = fit.loglik_trace
    assert (np.diff(trace) >= 0).all() and np.isfinite(trace).all()
    assert np.array_equal(trace, [loglik for loglik, _ in seen])
    assert fit.n_evaluations >= fit.n_iter + 1
    # What was gained is really there: the parameters have the likelihood that is claimed.
    used = Y[~np.isnan(Y).all(axis=1)]
    if (fit.covariance.D > 1e-4 * np.nanvar(Y, axis=0)).all():
        rel = 1e-3 if kind == "float32" else 1e-9
        assert fit.score(used) == pytest.approx(fit.loglik, rel=rel, abs=rel)


# ---------------------------------------------------------------- speed in evaluations


PROBLEMS = {
    "five levels": (Hierarchy.balanced(300, [1, 2, 4, 8, 16]), (6, 4, 3, 2, 1), 100),
    "one level": (Hierarchy.flat(60), (6,), 150),
    "missing cells": (Hierarchy.balanced(120, [1, 6]), (3, 2), 100),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", PROBLEMS)
def test_80_evaluations_reach_400_updates_of_em(name):
    h, ranks, N = PROBLEMS[name]
    Y = samples(h, ranks, N)
    problem, first = open_problem(gappy(Y, 0.05) if name == "missing cells" else Y, ranks, h)
    fast, slow = Ascent(problem, first, True), Ascent(problem, first, False)
    while fast.n_evaluations < 80:
        before = fast.state.loglik
        if not fast.advance():
            break
    while slow.n_evaluations < 401 and slow.advance():
        pass
    reached = before if fast.n_evaluations > 80 else fast.state.loglik
    assert reached > slow.state.loglik


@pytest.mark.quick(4)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("missing", [False, True])
def test_accelerated_fits_reach_what_plain_fits_reach(seed, missing):
    h = Hierarchy(np.random.default_rng(seed).permutation(30), [[0, 30], [0, 12, 30]])
    Y = samples(h, (1, 1), 300, seed=seed)
    Y = gappy(Y) if missing else Y
    fast, slow = (fit_factor_model(Y, (1, 1), h, missing="em", optimizer=optimizer)
                  for optimizer in ("bfgs", "em"))
    assert fast.converged and slow.converged
    assert fast.loglik > slow.loglik - 1e-8
    assert fast.n_evaluations <= slow.n_evaluations


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
