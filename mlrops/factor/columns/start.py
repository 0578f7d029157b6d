"""Starting points of fits whose features are in chunks of columns."""

from typing import Any, NamedTuple

import numpy as np

from ..._common.cluster import added, in_pairs, nothing, task, task_of
from ..._common.spread import Spread
from ..._common.typing import FloatArray
from ...operators.mlr import MLR
from ...operators.part_sweeps import alone
from ...tree.hierarchy import Hierarchy
from ..estep.columns import Bench
from ..frobenius_start import IDLE
from ..point import Point
from ..principal_start import FIRST_UNIQUENESS, LEAST_UNIQUENESS, SWEEPS
from ..start import EXTRA, POWERS, STARTS, start, unknown_start

__all__ = ["first_point"]

# Directions that a group is searched in, beyond its rank, and the rounds of products with its data,
# are those of the truncated SVDs in memory.
LEAST_SHARE = 0.01  # of a feature's variance that a start leaves in D

Sums = dict[int, FloatArray]  # of each group of a level


def first_point(surface: Any, init: Any, hierarchy: Hierarchy, seed: int | None) -> Spread:
    """Points of the parts that a start of a kind gives.

    Levels above the parts get theirs from coarse to fine, each in what coarser levels leave of the
    data: principal factors, or the leading singular directions for the other kinds.  The parts' own
    levels then get what was asked for, in what these leave of the part's data.
    """
    benches = surface.benches
    if isinstance(init, MLR):
        F, D = start(init, hierarchy, surface.ranks, surface.source, seed)
        ends = np.cumsum([0, *benches.total(_join, _size)])
        given = [task_of((F[lo:hi], D[lo:hi])) for lo, hi in
                 zip(ends[:-1], ends[1:], strict=True)]
        return benches.map(_given, benches.shelf.spread(given))
    if not isinstance(init, str) or init not in STARTS:
        raise unknown_start(init)
    if init == "random":
        return benches.map(alone(_random), surface.cut.ranks, seed)
    left = benches.map(alone(_standardized))
    found = benches.map(_no_factors)
    for level, r in enumerate(surface.ranks[: surface.level]):
        if r:
            both = _level(benches, left, level, r, surface.source.n_samples,
                          init == "principal_factor")
            found = found.map(alone(_beside), both.map(_first))
            left = both.map(_second)
    point = benches.map(alone(_own_levels), found, left, surface.ranks, surface.level, init)
    surface.shelf.results(in_pairs(nothing, point.parts))
    return point


def _level(benches: Spread, left: Spread, level: int, r: int, n_samples: int, principal: bool
           ) -> Spread:
    """The factors of a level above the parts, and what it leaves of the data.

    With X̃ the data of a group over the roots of its uniquenesses Ψ, and the leading eigenpairs
    (λ, v) of ``X̃ᵀX̃`` by subspace iteration, principal factors are ``Ψ^½ X̃ v √((λ - 1) / λ)``; what
    they leave of the variances is the next Ψ.  Singular directions are the same without Ψ and -1.
    """
    width, rng = min(r + EXTRA, n_samples), np.random.default_rng(0)
    start = np.linalg.qr(rng.standard_normal((n_samples, width)))[0]
    pairs = task_of({None: _Pairs(start, np.zeros(width))})
    psi = left.map(alone(_first_uniqueness), principal)
    for number in range(SWEEPS if principal else 1):
        for _ in range(1 + POWERS if number == 0 else 1):
            products = benches.map(alone(_products), left, psi, pairs, level)
            pairs = task(alone(_leading), in_pairs(added, products.parts), pairs)
        both = benches.map(alone(_factors), left, psi, pairs, level, r, principal)
        if principal:
            psi = left.map(alone(_uniqueness), both)
    return both


def _size(bench):
    return [len(bench.part.features)]


def _join(a, b):
    return a + b


def _first(pair):
    return pair[0]


def _second(pair):
    return pair[1]


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


class _Pairs(NamedTuple):
    """Directions (N, q) of the data of a group, orthonormal, and the eigenvalues there."""

    V: FloatArray
    values: FloatArray


def _first_uniqueness(X, principal):
    return FIRST_UNIQUENESS * _squares(X) if principal else np.ones(len(X))


def _squares(X):
    return np.maximum(np.einsum("ik,ik->i", X, X), np.finfo(float).tiny)


def _uniqueness(X, both):
    s = _squares(X)
    return np.clip(s - np.square(both[0]).sum(axis=1), LEAST_UNIQUENESS * s, s)


def _products(bench, X, psi, pairs, level):
    found = {}
    for g, rows in _groups(bench, level).items():
        x = X[rows] / np.sqrt(psi[rows])[:, None]
        found[g] = x.T @ (x @ (pairs[g] if g in pairs else pairs[None]).V)
    return found


def _leading(total: Sums, pairs: dict[Any, _Pairs]) -> dict[Any, _Pairs]:
    """The eigenpairs of each group's Gram matrix in the span of its last product, largest first.

    The values are those in the span before.
    """
    found = {}
    for g, product in total.items():
        T = (pairs[g] if g in pairs else pairs[None]).V.T @ product
        values, P = np.linalg.eigh((T + T.T) / 2)
        # Columns in the order of the values: the first r of the basis span the leading ones.
        found[g] = _Pairs(np.linalg.qr(product @ P[:, ::-1])[0], values[::-1])
    return found


def _factors(bench, X, psi, pairs, level, r, principal):
    """The factors of a level, and what they leave of the data."""
    F, left = np.zeros((len(X), r)), X.copy()
    for g, rows in _groups(bench, level).items():
        V, values = (x[..., :r] for x in pairs[g])
        scores = X[rows] @ V
        left[rows] -= scores @ V.T
        # A column of zeros would stay one: the least factors are small.
        length = np.sqrt(np.maximum(values - 1, IDLE) / np.maximum(values, IDLE))
        F[rows, : V.shape[1]] = scores * length if principal else scores
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
    F = np.zeros((len(X), 0))
    if any(own):
        F, _ = start(init, bench.tree, tuple(own), _Left(X, bench.data.n_samples), None)
    F = bench.used(np.concatenate([coarse, F], axis=1))
    D = np.clip(1 - np.square(F).sum(axis=1), LEAST_SHARE, 1)
    return _point(bench, F * sd[:, None], D * sd**2)
