"""EM on a source of data, step by step, and the same data as a dense reference."""

import math

import numpy as np
from hypothesis import strategies as st
from trees import close, dense_mlr, hierarchies

from mlrops import MLR, Hierarchy
from mlrops.factor.estep.complete import CompleteData
from mlrops.factor.likelihood import LikelihoodSurface
from mlrops.factor.point import Point


def dense_data(Y, h, center=True, weights=None):
    """Weighted, centred data in memory, by the definition."""
    Y = np.asarray(Y)
    dtype = Y.dtype if Y.dtype == np.float32 else np.dtype(float)
    w = np.ones(len(Y)) if weights is None else np.asarray(weights, float)
    mean = w @ Y / w.sum() if center else np.zeros(Y.shape[1])
    mean = mean.astype(dtype).astype(float)
    X = np.ascontiguousarray(((Y - mean) * np.sqrt(w)[:, None]).T[h.permutation])
    return CompleteData(X.astype(dtype), np.square(X).sum(axis=1),
                        mean[h.permutation].astype(dtype), int((w > 0).sum()), float(w.sum()))


def some_point(h, ranks, source, seed=0):
    """Factors and variances of the size of the data's, in tree order."""
    rng = np.random.default_rng(seed)
    unit = np.sqrt(source.variance)
    F = rng.standard_normal((h.n, sum(ranks))) * unit[:, None]
    D = rng.uniform(0.5, 1.5, h.n) * unit**2
    return Point(F.astype(source.dtype), D.astype(source.dtype), source.mean)


def run(source, h, ranks, updates=3, point=None):
    """[(loglik, F, D)] of EM from a point."""
    point = some_point(h, ranks, source) if point is None else point
    surface = LikelihoodSurface(source, h._in_tree_order(), ranks, np.zeros(h.n, source.dtype))
    out = []
    for _ in range(updates):
        state = surface.evaluate(point)
        state.map(Point.empty_like(point), False)
        point = state.image
        assert point.F.dtype == point.D.dtype == source.dtype
        out.append((state.loglik, point.F, point.D))
    return out


def same_iterates(found, expected, tol=1e-10):
    assert len(found) == len(expected)
    for (a, F, D), (b, G, E) in zip(found, expected, strict=True):
        assert abs(a - b) <= tol * max(abs(b), 1)
        close(F, G, tol)
        close(D, E, tol)


def bitwise(found, expected):
    return all(a[0] == b[0] and np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])
               for a, b in zip(found, expected, strict=True))


def step_at(source, h, ranks, point):
    tree = h._in_tree_order()
    covariance = MLR.from_compact(tree, ranks, point.F, point.D)
    step = source.evaluate(covariance, point.mean)
    return step, Point(*step.update())


def dense_loglik(h, ranks, F, D, data):
    """Average log-likelihood of reference data at F, D in tree order, from the dense matrix."""
    factors = np.split(F, np.cumsum(ranks)[:-1], axis=1)
    S = dense_mlr(h._in_tree_order(), factors, D)
    quad = (data.X * np.linalg.solve(S, data.X)).sum() / data.weight
    return -0.5 * (h.n * math.log(2 * math.pi) + np.linalg.slogdet(S)[1] + quad)


def check_gradient(source, data, h, ranks):
    """The gradient of a source against central differences of the dense log-likelihood."""
    point = some_point(h, ranks, source, seed=4)
    step, image = step_at(source, h, ranks, point)
    dF, dD, dmean = step.gradient(*image)
    assert dF.dtype == dD.dtype == source.dtype and np.array_equal(dmean, np.zeros(h.n))
    rng = np.random.default_rng(1)
    for _ in range(3):
        uF, uD = rng.standard_normal(point.F.shape), rng.standard_normal(h.n) * point.D
        eps = 1e-5
        up, down = (dense_loglik(h, ranks, point.F + e * uF, point.D + e * uD, data)
                    for e in (eps, -eps))
        slope = (dF * uF).sum() + (dD * uD).sum()
        assert abs(slope - (up - down) / (2 * eps)) < 1e-6 * max(1, abs(slope))


def tree(n=24, seed=0):
    """A permuted tree of three levels with a group of one feature."""
    rng = np.random.default_rng(seed)
    return Hierarchy(rng.permutation(n), [[0, n], [0, n // 3, n], [0, 1, n // 3, n // 2, n]])


@st.composite
def trees_with_ranks(draw):
    h = draw(hierarchies(max_n=16, max_levels=4))
    return h, [draw(st.integers(0, 2)) for _ in range(h.n_levels)]


def split_rows(Y, seed):
    """Y in chunks of random lengths, empty ones and single rows among them."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(Y) + 1, rng.integers(1, 7)))
    return np.split(Y, cuts)
