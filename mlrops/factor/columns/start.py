"""Starting points of fits whose features are in chunks of columns."""

from typing import Any

import numpy as np

from ..._common.cluster import in_pairs, task, task_of
from ..._common.spread import Spread
from ..._common.typing import FloatArray
from ...operators.mlr import MLR
from ...operators.part_sweeps import alone
from ...tree.hierarchy import Hierarchy
from ..estep.columns import Bench
from ..point import Point
from ..start import EXTRA, POWERS, start

__all__ = ["first_point"]

# Directions that a group is searched in, beyond its rank, and the rounds of products with its data,
# are those of the truncated SVDs in memory.
LEAST_SHARE = 0.01  # of a feature's variance that a start leaves in D

Sums = dict[int, FloatArray]  # of each group of a level


def first_point(surface: Any, init: Any, hierarchy: Hierarchy, seed: int | None) -> Spread:
    """Points of the parts that a start of a kind gives.

    Levels above the parts get the leading singular directions of what coarser levels leave, a few
    products with the data each; the parts' own levels then the start that was asked for, in what
    these leave of the part's data.
    """
    benches = surface.benches
    if isinstance(init, MLR):
        F, D = start(init, hierarchy, surface.ranks, surface.source, seed)
        ends = np.cumsum([0, *benches.total(_join, _size)])
        given = [task_of((F[lo:hi], D[lo:hi])) for lo, hi in
                 zip(ends[:-1], ends[1:], strict=True)]
        return benches.map(_given, benches.shelf.spread(given))
    if init == "random":
        return benches.map(alone(_random), surface.cut.ranks, seed)
    left = benches.map(alone(_standardized))
    found = benches.map(_no_factors)
    for level, r in enumerate(surface.ranks[: surface.level]):
        if r:
            directions = _directions(benches, left, level, r, surface.source.n_samples)
            both = benches.map(alone(_factors), left, directions, level, r)
            found = found.map(alone(_beside), both.map(_first))
            left = both.map(_second)
    point = benches.map(alone(_own_levels), found, left, surface.ranks, surface.level, init)
    surface.shelf.results(in_pairs(_nothing, point.parts))
    return point


def _directions(benches: Spread, left: Spread, level: int, r: int, n_samples: int) -> Any:
    """Leading right singular vectors (N, r) of the data of each group, as a task."""
    width = min(r + EXTRA, n_samples)
    rng = np.random.default_rng(0)
    Q = task_of({None: np.linalg.qr(rng.standard_normal((n_samples, width)))[0]})
    for last in [False] * POWERS + [True]:
        products = benches.map(alone(_products), left, Q, level)
        total = in_pairs(_add, products.parts)
        Q = task(alone(_leading if last else _orthonormal), total, Q)
    return Q


def _size(bench):
    return [len(bench.part.features)]


def _join(a, b):
    return a + b


def _first(pair):
    return pair[0]


def _second(pair):
    return pair[1]


def _nothing(*_):
    return None


def _add(a: Sums, b: Sums) -> Sums:
    return {**a, **b, **{g: a[g] + b[g] for g in a.keys() & b.keys()}}


def _given(bench, given):
    F, D = given
    return _point(bench, F, D)


def _point(bench: Bench, F: FloatArray, D: FloatArray) -> Point:
    return Point(np.ascontiguousarray(F), np.maximum(D, bench.surface.floor), bench.data.mean)


def _random(bench, ranks, seed):
    F, D = start("random", bench.tree, ranks, bench.data, [seed, bench.number])
    return _point(bench, bench.used(F), D)


def _standardized(bench):
    """The data in units of the features' standard deviations, over √N."""
    data = bench.data
    return data.X / (np.sqrt(data.weight) * bench.surface.sd)[:, None]


def _no_factors(bench):
    return np.zeros((len(bench.part.features), 0))


def _groups(bench, level):
    """The rows of each group of a level that the part has features of."""
    offsets = bench.tree.boundaries[level].tolist()
    return {int(bench.part.begins[level]) + i: slice(*pair)
            for i, pair in enumerate(zip(offsets[:-1], offsets[1:], strict=True))}


def _products(bench, X, Q, level):
    return {g: X[rows].T @ (X[rows] @ (Q[g] if g in Q else Q[None]))
            for g, rows in _groups(bench, level).items()}


def _orthonormal(total, _):
    return {g: np.linalg.qr(x)[0] for g, x in total.items()}


def _leading(total, Q):
    """The eigenvectors of each group's Gram matrix in the span of Q, largest first."""
    found = {}
    for g, product in total.items():
        own = Q[g] if g in Q else Q[None]
        T = own.T @ product
        found[g] = own @ np.linalg.eigh((T + T.T) / 2)[1][:, ::-1]
    return found


def _factors(bench, X, directions, level, r):
    """The factors of a level, and what they leave of the data."""
    F, left = np.zeros((len(X), r)), X.copy()
    for g, rows in _groups(bench, level).items():
        V = directions[g][:, :r]
        scores = X[rows] @ V
        left[rows] -= scores @ V.T
        F[rows, : V.shape[1]] = scores
    return F, left


def _beside(F, more):
    return np.concatenate([F, more], axis=1)


class _Left:
    """What coarser levels leave of standardized data, as a start takes a source."""

    def __init__(self, X, n_samples):
        self.X, self.n_samples = X, n_samples
        self.variance = np.maximum(np.einsum("ik,ik->i", X, X), LEAST_SHARE)

    def start_data(self, width, seed):
        return self.X * np.sqrt(self.n_samples)


def _own_levels(bench, coarse, X, ranks, level, init):
    own, sd = [0] * level + list(ranks[level:]), bench.surface.sd
    F, D = np.zeros((len(X), 0)), np.einsum("ik,ik->i", X, X)
    if any(own):
        F, D = start(init, bench.tree, tuple(own), _Left(X, bench.data.n_samples), None)
    F = bench.used(np.concatenate([coarse, F], axis=1))
    return _point(bench, F * sd[:, None], np.maximum(D, LEAST_SHARE) * sd**2)
