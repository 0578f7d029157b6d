"""Climbing: gradients, information, buffers, steps that fail, ends, speed in evaluations."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from trees import close, dense_mlr, same_group

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor.ascent import Ascent
from mlrops.factor.climb import jumps_of
from mlrops.factor.estep.sources import open_source
from mlrops.factor.likelihood import LikelihoodSurface
from mlrops.factor.point import Point
from mlrops.factor.prior import read_prior
from mlrops.factor.scoring import TRIES
from mlrops.factor.start import start

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
WAYS = "scoring", "bfgs", "em"


def samples(h, ranks, N, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    A = MLR(h, [rng.standard_normal((h.n, r)) for r in ranks],
            noise * rng.uniform(0.5, 1.5, h.n))
    return A.sample(N, random_state=seed) + rng.standard_normal(h.n)


def gappy(Y, share=0.1, seed=3):
    return np.where(np.random.default_rng(seed).random(Y.shape) < share, np.nan, Y)


def open_problem(Y, ranks, h, floor=1e-6, center=True, optimizer="bfgs", prior=None):
    """The problem of a fit and its first point, as `fit_factor_model` makes them."""
    source, h, _ = open_source(Y, h, center, "em", None, None)
    surface = LikelihoodSurface(
        source, h._in_tree_order(), ranks, floor * source.variance, linear=optimizer == "scoring",
        prior=read_prior(prior, None, source.n_samples, source.shares, source.variance, h, ranks,
                         None))
    F, D = start("svd", h, ranks, source, None)
    return surface, Point(F, np.maximum(D, surface.floor), source.mean)


def mapped(surface, point):
    """The state at a point, its M-step taken."""
    state = surface.evaluate(point)
    state.map(Point.empty_like(point), True)
    return state


# ---------------------------------------------------------------- gradients

TREE = Hierarchy(np.random.default_rng(0).permutation(14), [[0, 14], [0, 5, 14], [0, 1, 5, 9, 14]])


@pytest.mark.quick(6)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("ranks", [(2, 1, 1), (0, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize("optimizer, prior", [("bfgs", None), ("scoring", None), ("bfgs", 3.0),
                                              ("scoring", 3.0)])
def test_gradient_in_the_coordinates_of_the_search(optimizer, prior, missing, ranks):
    Y = samples(TREE, ranks, 40)
    surface, _ = open_problem(gappy(Y) if missing else Y, ranks, TREE, optimizer=optimizer,
                              prior=prior)
    rng = np.random.default_rng(1)
    sd = surface.sd
    point = Point(rng.standard_normal((14, sum(ranks))) * sd[:, None] / 2,
                  rng.uniform(0.5, 1.5, 14) * sd**2, surface.source.mean + 0.1 * sd * missing)
    state = mapped(surface, point)
    assert surface.size == 14 * (sum(ranks) + 1 + missing) == state.gradient.size
    assert (state.objective == state.loglik) == (prior is None)
    for _ in range(4):
        u, eps = rng.standard_normal(surface.size), 1e-4
        uF, uD, umean = surface.parts(u)
        shift = sd * umean if missing else 0

        def moved(e, uF=uF, uD=uD, shift=shift):
            D = point.D + e * sd**2 * uD if surface.linear else point.D * np.exp(e * uD)
            return Point(point.F + e * sd[:, None] * uF, D, point.mean + e * shift)

        up, down = moved(eps), moved(-eps)
        rise = surface.evaluate(up).objective - surface.evaluate(down).objective
        assert rise / (2 * eps) == pytest.approx(float(state.gradient @ u), rel=1e-5, abs=1e-5)
        v = np.empty(surface.size)
        surface.difference(up, down, v)
        close(v, 2 * eps * u, 1e-6)
        close(surface.evaluate(down).to(surface.evaluate(up)), v, 1e-14)
        found = surface.move(point, u, eps, Point.empty_like(point))
        for one, other in zip(found, up, strict=True):
            close(one, other, 1e-6)


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
def test_gradient_of_a_variance_at_the_floor(optimizer):
    Y = samples(TREE, (1, 1, 1), 40)
    surface, first = open_problem(Y, (1, 1, 1), TREE, floor=0.5, optimizer=optimizer)
    low = np.arange(14) < 7
    point = first._replace(D=np.where(low, surface.floor, 4 * surface.sd**2))
    state = mapped(surface, point)
    dD = state.step.gradient(*state.raw)[1] * (surface.sd**2 if surface.linear else point.D)
    found = surface.parts(state.gradient)[1]
    assert (dD[:7] < 0).any() and (dD[7:] < 0).any()
    close(found, np.where(low & (dD < 0), 0, dD), 1e-6)
    # They stay where they are: no answer to a gradient moves them, but it moves all others.
    assert np.array_equal(state.held, low & (dD < 0))
    answer = surface.parts(state.precondition()(np.ones(surface.size)))[1]
    assert np.array_equal(answer == 0, state.held)


@pytest.mark.parametrize("optimizer", WAYS)
def test_gradient_norm_as_documented(optimizer):
    """The largest derivative of the dense log-likelihood, F in units of √D, D as log D."""
    Y, ranks, seen = samples(TREE, (2, 1, 1), 60), (2, 1, 1), []
    found = fit_factor_model(Y, ranks, TREE, max_iter=3, tol=0, callback=seen.append,
                             init="random", random_state=0, optimizer=optimizer)
    A = seen[-1].covariance
    inverse = np.linalg.inv(dense_mlr(TREE, A.factors, A.D))
    G = (inverse @ np.cov(Y.T, bias=True) @ inverse - inverse) / 2
    by_F = [2 * np.where(same_group(TREE, level), G, 0) @ F * np.sqrt(A.D)[:, None]
            for level, F in enumerate(A.factors)]
    expected = max(np.abs(np.column_stack([*by_F, np.diag(G) * A.D])).ravel())
    assert found.gradient_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("prior", [None, 5.0])
def test_information_is_the_curvature_at_the_model(missing, prior):
    """Of data whose second moments are those of the model it is minus the Hessian.

    Cells that are missing at random leave the information of each feature its share of samples.
    """
    ranks = (1, 1, 0)
    h = Hierarchy(np.random.default_rng(0).permutation(6), [[0, 6], [0, 2, 6], [0, 1, 2, 6]])
    A = MLR(h, [np.random.default_rng(1).standard_normal((6, r)) for r in ranks],
            np.linspace(0.5, 1.5, 6))
    root = np.linalg.cholesky(A.toarray())
    Y = np.concatenate([root.T, -root.T]) * math.sqrt(6)  # second moments: the model's own
    surface, first = open_problem(Y, ranks, h, optimizer="scoring", prior=prior)
    F, D = h._gather(A.F), h._gather(A.D)
    state = mapped(surface, Point(F, D, surface.source.mean))
    if missing:
        surface.source = SimpleNamespace(
            shares=np.linspace(0.3, 1, 6), variance=surface.source.variance)
    B = np.stack([state.information()(e) for e in np.eye(surface.size)])
    close(B, B.T, 1e-10)
    unit = np.concatenate([np.repeat(surface.sd, sum(ranks)), surface.sd**2])
    factors = np.split(F, np.cumsum(ranks)[:-1], axis=1)

    def sigma(theta):
        F, D = theta[: F0.size].reshape(F0.shape), theta[F0.size :]
        return dense_mlr(h._in_tree_order(), np.split(F, np.cumsum(ranks)[:-1], axis=1), D)

    F0, at = np.concatenate(factors, axis=1), np.concatenate([F.ravel(), D])
    eye, eps = np.eye(at.size), 1e-6
    dS = [(sigma(at + eps * e) - sigma(at - eps * e)) / (2 * eps) for e in eye]
    inverse = np.linalg.inv(sigma(at))
    expected = np.array([[np.trace(inverse @ a @ inverse @ b) / 2 for a in dS] for b in dS])
    root_share = np.sqrt(surface.source.shares)
    shares = np.concatenate([np.repeat(root_share, sum(ranks)), root_share])
    expected *= np.outer(unit * shares, unit * shares)
    if prior is not None:
        rate = prior / (2 * 12) * surface.source.variance / D**3
        expected[F.size :, F.size :] += np.diag(rate * surface.sd**4)
    close(B, expected, 1e-6)


# ---------------------------------------------------------------- buffers and fallbacks


class Watched(LikelihoodSurface):
    """Checks at every writing that nothing alive is written; may break evaluations of jumps."""

    def __init__(self, surface, breaks=None):
        self.__dict__.update(surface.__dict__)
        self.breaks, self.broken, self.maps, self.kinds = breaks, 0, 0, []
        self.ascent, self.after_move, self.alive = None, False, []

    def unwritten(self, out):
        """A place to write to in which nothing lives: no state, no trial under way."""
        alive = list(self.alive)
        if hasattr(self.ascent, "state"):
            alive += [self.ascent.state.point, self.ascent.state.image]
        for x in (out.F, out.D):
            assert not any(np.shares_memory(x, y) for p in alive for y in (p.F, p.D))

    def move(self, point, d, share, out):
        self.alive = []  # of earlier trials nothing is needed
        self.unwritten(out)
        moved = super().move(point, d, share, out)
        self.after_move, self.alive = True, [moved]
        return moved

    def evaluate(self, point):
        jump, self.after_move = self.after_move, False
        self.alive = [point]
        state = super().evaluate(point)
        how = next(self.breaks) if jump and self.breaks is not None else None
        self.kinds.append((jump, how))
        if how == "singular":
            self.broken += 1
            raise np.linalg.LinAlgError("broke down")
        if how is not None:
            self.broken += 1
            state.objective = how
        take = state.map

        def mapping(out, keep):
            self.maps += 1
            self.unwritten(out)
            take(out, keep)

        state.map = mapping
        return state


def check_buffers(ascent):
    """Those in use and those free are different arrays, and no more than two states need."""
    state = ascent.state
    held = [state.point, state.image, *ascent._free]
    assert len(held) <= (3 if ascent.jumps is None else 4)
    for name in ("F", "D"):
        arrays = [getattr(p, name) for p in held]
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


def watched(surface, first, optimizer, breaks=None):
    """An ascent whose surface watches what is written."""
    seen = Watched(surface, breaks)
    seen.ascent = ascent = Ascent.__new__(Ascent)
    ascent.__init__(seen, first, jumps_of(optimizer, surface.vectors))
    return ascent


def climb(surface, first, optimizer, steps, breaks=None):
    """An ascent with all that must hold checked at every step; three that gain nothing end it."""
    first = Point(*map(np.copy, first))
    ascent = watched(surface, first, optimizer, breaks)
    trace = [ascent.state.objective]
    for _ in range(steps):
        if trace[-4:].count(trace[-1]) == 4:
            break
        before = ascent.state
        copies = [x.copy() for x in (*before.point, *before.image)]
        moved = ascent.advance()
        check_buffers(ascent)
        if not moved:
            assert ascent.state is before
            for x, copy in zip((*before.point, *before.image), copies, strict=True):
                assert np.array_equal(x, copy)
            break
        trace.append(ascent.state.objective)
        again = mapped(surface, ascent.state.point)
        assert again.objective == pytest.approx(trace[-1], rel=1e-9)
        close(again.image.F, ascent.state.image.F, 1e-6)
        close(again.gradient, ascent.state.gradient, 1e-6) if again.gradient_norm > 1e-6 else None
    assert (np.diff(trace) >= 0).all()
    return ascent, trace


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("optimizer", WAYS)
def test_what_is_alive_is_never_written(missing, optimizer):
    Y = samples(TREE, (2, 1, 1), 60)
    climb(*open_problem(gappy(Y) if missing else Y, (2, 1, 1), TREE, optimizer=optimizer),
          optimizer, 60)


@pytest.mark.quick(8)
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("hows", [
    ["singular"], [math.nan], [-math.inf], [math.inf], [-1e9],
    ["singular", None, math.nan, None, -1e9, -1e9]], ids=str)
def test_jumps_that_fail_fall_back(hows, missing, optimizer):
    """Whatever a jump runs into, the climb goes on, and ends where it would have ended."""
    Y = samples(TREE, (1, 1, 0), 200)
    surface, first = open_problem(gappy(Y) if missing else Y, (1, 1, 0), TREE,
                                  optimizer=optimizer)
    rng = np.random.default_rng(0)

    def breaks():
        while True:
            yield hows[rng.integers(len(hows))] if rng.random() < 0.7 else None

    ascent, trace = climb(surface, first, optimizer, 400, breaks())
    assert ascent.surface.broken > 10
    expected = climb(surface, first, optimizer, 400)[1]
    assert trace[-1] == pytest.approx(expected[-1], abs=2e-3)
    assert ascent.n_evaluations > len(trace) + ascent.surface.broken - 2


@pytest.mark.parametrize("how", ["singular", math.nan, -1e9], ids=str)
def test_a_refused_try_of_scoring_takes_no_m_step(how):
    """Each try is more damped; after the last one EM's own step is taken, and pairs are gone."""
    surface, first = open_problem(samples(TREE, (2, 1, 1), 60), (2, 1, 1), TREE,
                                  optimizer="scoring")
    refused = [None, None, None, how, how, None, *[how] * TRIES]
    ascent = watched(surface, first, "scoring", iter(refused))
    for _ in range(3):
        assert ascent.advance()
    seen, damping = ascent.surface, ascent.jumps.damping
    assert seen.kinds == [(False, None), *[(True, None)] * 3] and seen.maps == 4
    assert len(ascent.jumps.pairs) == 3
    steps, made = [], seen.move

    def move(point, d, share, out):
        steps.append(np.linalg.norm(d))
        return made(point, d, share, out)

    seen.move = move
    assert ascent.advance() and seen.maps == 5 and ascent.n_evaluations == 7
    assert len(steps) == 3 and steps[0] > steps[1] > steps[2]
    assert ascent.jumps.damping > damping
    assert ascent.advance() and seen.maps == 6 and ascent.n_evaluations == 7 + TRIES + 1
    assert seen.kinds[-1] == (False, None)  # of the image: EM's own step
    assert len(ascent.jumps.pairs) == 0


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
def test_a_step_is_tried_again_shorter(optimizer):
    """The second try of a BFGS jump lies on the same line; scoring turns to EM's answer."""
    surface, first = open_problem(samples(TREE, (2, 1, 1), 60), (2, 1, 1), TREE,
                                  optimizer=optimizer)
    ascent = watched(surface, first, optimizer)
    for _ in range(3):
        assert ascent.advance()
    seen, here, tries = ascent.surface, ascent.state, []
    seen.breaks = iter([-1e9, None])
    made = seen.move

    def move(point, d, share, out):
        tries.append((d.copy(), share))
        return made(point, d, share, out)

    seen.move = move
    assert ascent.advance() and len(tries) == 2
    (d, share), (other, shorter) = tries
    g = here.gradient
    assert share == 1 and d @ g > 0 and other @ g > 0
    if optimizer == "bfgs":
        assert np.array_equal(d, other) and 0.1 <= shorter <= 0.6
    else:
        assert shorter == 1 and np.linalg.norm(other) < np.linalg.norm(d)


@pytest.mark.parametrize("optimizer", WAYS)
def test_no_finite_value_at_a_plain_step_is_an_error(optimizer):
    surface, first = open_problem(samples(TREE, (1, 1, 0), 60), (1, 1, 0), TREE,
                                  optimizer=optimizer)
    ascent = Ascent(surface, first, jumps_of(optimizer, surface.vectors))
    evaluate = surface.evaluate

    def broken(point):
        state = evaluate(point)
        state.objective = math.nan
        return state

    surface.evaluate = broken
    count = 2 + TRIES * (optimizer == "scoring")
    with pytest.raises(FloatingPointError, match=f"log-likelihood is nan after {count} evaluat"):
        ascent.advance()


@pytest.mark.parametrize("optimizer", WAYS)
@pytest.mark.parametrize("prior", [None, 2.0])
def test_it_stops_where_rounding_ends_all_gains(optimizer, prior):
    Y = samples(TREE, (1, 1, 0), 200)
    surface, first = open_problem(Y, (1, 1, 0), TREE, optimizer=optimizer, prior=prior)
    ascent, trace = climb(surface, first, optimizer, 4000)
    assert len(trace) < 4000 and (ascent.exhausted or trace[-4] == trace[-1])
    assert ascent.state.gradient_norm < 1e-5


# ---------------------------------------------------------------- speed in evaluations


PROBLEMS = {
    "five levels": (Hierarchy.balanced(300, [1, 2, 4, 8, 16]), (6, 4, 3, 2, 1), 100),
    "one level": (Hierarchy.flat(60), (6,), 150),
    "missing cells": (Hierarchy.balanced(120, [1, 6]), (3, 2), 100),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
def test_80_evaluations_reach_400_updates_of_em(optimizer, name):
    h, ranks, N = PROBLEMS[name]
    Y = samples(h, ranks, N)
    Y = gappy(Y, 0.05) if name == "missing cells" else Y
    fast, slow = (Ascent(surface, first, jumps_of(way, surface.vectors))
                  for way in (optimizer, "em")
                  for surface, first in [open_problem(Y, ranks, h, optimizer=way)])
    while fast.n_evaluations < 80:
        before = fast.state.loglik
        if not fast.advance():
            break
    while slow.n_evaluations < 401 and slow.advance():
        pass
    reached = before if fast.n_evaluations > 80 else fast.state.loglik
    assert reached > slow.state.loglik
