r"""Standard errors of coefficients whose equations lie in parts: elimination of the factors.

Every part eliminates the groups that it has whole, as `Elimination` does, and passes what it knows
of the factors above, ``(N R_c)²`` numbers a parent; the levels above are eliminated at one place,
and the covariance of these factors goes down to the parts, whose blocks of the inverse follow from
it.  The cost is that of one machine, shared by the parts.
"""

from typing import Any, NamedTuple

import numpy as np

from ...._common.cluster import added, in_pairs, task, task_of
from ...._common.spread import Spread
from ...._common.typing import FloatArray, IntArray
from ....operators.distributed import DistributedMLR
from ....operators.elementary import Dense
from ....operators.part_posterior import crown_covariances, partial_variance, path_covariances
from ....operators.part_sweeps import alone, in_part_order
from ....operators.parts import Part
from ..coefficient_inverse import MOST_NUMBERS, MOST_PATH
from ..factor_elimination import Elimination, Group, size_of_fronts, widened
from ..small_sample import Level, Weights, left_df, scales, weights_of
from ..system import StackedSystem
from .opening import in_tree_order, regressors_of

__all__ = ["Errors", "ordinary_errors", "spread_errors"]

Sums = dict[int, FloatArray]  # of each parent


class Errors(NamedTuple):
    """Standard errors of the coefficients of a part, in the order of its equations."""

    bse: FloatArray  # (m, p)
    df: FloatArray  # (m,) degrees of freedom


class Above(NamedTuple):
    """What stands above a part."""

    first: int  # the number of its first parent
    sizes: IntArray  # (parents, levels above) equations of the groups on the way there


def spread_errors(covariance: DistributedMLR, X: Any, N: int, debiased: bool) -> Spread:
    """`Errors` of each part, of generalized least squares, computed and kept on the workers."""
    _check_size(covariance, N)
    if covariance.dtype != np.float64:
        double = covariance._parts.map(_in_double)
        covariance = DistributedMLR(covariance.hierarchy, covariance._cut, double, np.dtype(float))
    parts, cut = covariance._parts, covariance._cut
    shelf, places = parts.shelf, cut.parents()
    K, crown, _ = covariance._factors
    cov = task(alone(crown_covariances), covariance._crown.parts[0], crown.parts[0])
    own = shelf.spread(task(_between, cov, *place) for place in places)
    regressors = shelf.spread(regressors_of(X, len(places)))
    above = shelf.spread(task_of(x) for x in _above(covariance))
    corrected = parts.map(alone(_corrected), K, own, above, N, X.shape[-1], debiased)
    known = corrected.map(alone(_eliminated), regressors, above)
    passed = in_pairs(alone(added), [task(_second, one) for one in known.parts], 2)
    cols = cut.layout.cols[: cut.level + 1]
    inverses = task(alone(_path_inverses), task_of(_paths(cut)), cols, N, passed)
    errors = corrected.map(alone(_errors), regressors, above, known, inverses)
    del own, regressors, above, corrected, known  # which nobody asks for again
    shelf.results()
    return errors


def ordinary_errors(covariance: DistributedMLR, X: Any, N: int, debiased: bool) -> Spread:
    """The same of regressors that all equations share, where least squares is GLS."""
    parts = covariance._parts
    regressors = parts.shelf.spread(regressors_of(X, len(parts.parts)))
    return parts.map(alone(_ordinary), regressors, N, debiased)


def _check_size(covariance, N):
    path, numbers = size_of_fronts(N, covariance)
    if path > MOST_PATH or numbers > MOST_NUMBERS * len(covariance.widths):
        raise ValueError(
            f"standard errors eliminate the factors of all rows, {N} times {sum(covariance.ranks)}"
            f" on a path of the tree, of which {MOST_PATH} fit, and {numbers} numbers in all, of"
            f" which {MOST_NUMBERS} fit a part: cut the equations into more parts, or take fewer"
            " factors")


def _above(covariance):
    """What stands above each part."""
    cut = covariance._cut
    path, sizes = _paths(cut), np.zeros_like(_paths(cut))
    for level in range(cut.level):
        sizes[:, level] = cut.hierarchy.group_sizes(level)[path[:, level]]
    return [Above(lo, sizes[lo:hi]) for lo, hi in cut.parents()]


def _paths(cut):
    """The groups on the way to each parent (parents, levels above)."""
    return cut.layout.above[0] if cut.level else np.zeros((1, 0), int)


# ---------------------------------------------------------------- the covariance of the errors


def _corrected(part: Part, K: FloatArray, covariances: FloatArray, above: Above, N: int, p: int,
               debiased: bool) -> tuple[Part, FloatArray]:
    """A part of `corrected_covariance`, and the degrees of freedom of its equations."""
    weights, n = _weights(part, K, covariances, above), np.full(len(part.D), float(N))
    df = left_df(n - p, weights.number)
    if debiased:
        loadings, noise = scales(weights, n, n - p)
        cols = part.layout.cols
        F = np.concatenate([part.F[:, cols[level] : cols[level + 1]] * np.sqrt(s)[:, None]
                            for level, s in enumerate(loadings)], axis=1)
        part = part._replace(F=np.ascontiguousarray(F), D=part.D * noise)
    return part, df


def _weights(part: Part, K: FloatArray, covariances: FloatArray, above: Above) -> Weights:
    layout, levels = part.layout, []
    C = path_covariances(part, K, covariances)
    for level, first in enumerate(layout.first_leaves):
        cols, offsets = layout.columns(level), layout.leaf_off[first]
        sizes = above.sizes[:, level] if level < part.level else np.diff(offsets)
        levels.append(Level(part.F[:, cols], np.repeat(np.arange(sizes.size), np.diff(offsets)),
                            sizes, C[first[:-1]][:, cols, cols]))
    return weights_of(part.D, partial_variance(part, K, covariances), levels)


# ---------------------------------------------------------------- the inverse


def _elimination(part: Part, X: Any, above: Above) -> Elimination:
    X, order = np.asarray(X, float), part.features - part.features.min()
    system = StackedSystem(in_tree_order(X, order), np.empty((len(X), order.size)))
    return Elimination(system, part.F, part.D, _groups(part, above))


def _groups(part: Part, above: Above) -> list[Group]:
    """The groups that a part has whole, and first of all the paths to its parents."""
    layout, equations = part.layout, np.arange(len(part.D))
    cols, top, found = layout.cols, part.level, []
    kept = [level for level in range(top, layout.L) if cols[level + 1] > cols[level]]
    inner = int(cols[top] > 0)
    for depth, level in enumerate([top - 1] * inner + kept):
        bounds = layout.leaf_off[layout.first_leaves[level]].tolist()
        own = slice(0, cols[top]) if level < top else layout.columns(level)
        for number, (lo, hi) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            found.append(Group(depth, int(own.start), int(own.stop - own.start), equations[lo:hi],
                               above.first + number if level < top else None))
    return sorted(found, key=lambda group: (group.equations[0], group.depth))


def _eliminated(corrected: tuple[Part, FloatArray], X: Any, above: Above
                ) -> tuple[list[Any], Sums]:
    """What the part knows of its own factors, and what it passes of those above."""
    elimination = _elimination(corrected[0], X, above)
    beyond = [group.beyond for group in reversed(elimination.groups)]
    both = list(zip(beyond, elimination._eliminate(), strict=True))
    return ([None if number is not None else found for number, found in both],
            {number: found for number, found in both if number is not None})


def _path_inverses(path: IntArray, cols: IntArray, N: int, passed: Sums) -> Sums:
    """The covariances of the factors of all rows on the way to each parent, given the data."""
    nodes, found = passed, []
    levels = [level for level in range(len(cols) - 1) if cols[level + 1] > cols[level]]
    for level in reversed(levels):  # nodes go by one of the parents that they hold
        sums: Sums = {}
        first = {}
        for parent, M in nodes.items():
            sums = added(sums, {int(path[parent, level]): M})
            first[int(path[parent, level])] = parent
        nodes, eliminated, a = {}, {}, int(cols[level]) * N
        for group, M in sums.items():
            own = M[a:, a:] + np.eye(len(M) - a)
            pivot = Dense((own + own.T) / 2, positive_definite=True)
            T = pivot.solve(M[a:, :a])
            eliminated[group] = pivot, T
            nodes[first[group]] = M[:a, :a] - M[a:, :a].T @ T
        found.append(eliminated)
    inverses: Sums = {parent: np.empty((0, 0)) for parent in passed}
    for level, eliminated in zip(levels, reversed(found), strict=True):
        inverses = {parent: widened([above], *eliminated[int(path[parent, level])])[0]
                    for parent, above in inverses.items()}
    return inverses


def _errors(corrected: tuple[Part, FloatArray], X: Any, above: Above, known: tuple[list[Any], Sums],
            inverses: Sums) -> Errors:
    """Standard errors from the covariance of the factors above."""
    part, df = corrected
    elimination = _elimination(part, X, above)
    elimination._factor = [
        found if group.beyond is None else inverses[group.beyond] for group, found in
        zip(reversed(elimination.groups), known[0], strict=True)]
    (H,), _ = elimination.blocks()
    B = elimination.system.batches[0].inverse
    variance = np.einsum("kij,kjl,kil->ki", B, H, B)
    return Errors(*(in_part_order(part, x, back=True) for x in (np.sqrt(variance), df)))


def _ordinary(part: Part, X: Any, N: int, debiased: bool) -> Errors:
    X = np.asarray(X, float)
    p = X.shape[1]
    root = np.linalg.norm(StackedSystem([X], X[:, :1]).batches[0].inverse[0], axis=1)
    variance = part.D.astype(float) + np.einsum("ij,ij->i", part.F, part.F, dtype=float)
    variance *= N / (N - p) if debiased else 1.0
    bse = in_part_order(part, np.sqrt(variance)[:, None] * root, back=True)
    return Errors(bse, np.full(len(bse), float(N - p)))


def _in_double(part: Part) -> Part:
    return part._replace(F=part.F.astype(float), D=part.D.astype(float))


def _between(covariances, lo, hi):
    return covariances[lo:hi]


def _second(pair):
    return pair[1]
