"""Trees grown from the root by cutting groups in two, once or again until there are k parts.

All groups of a level are cut at once, by a *cutter*: a function of the level, the sides of the
matrix (a `Side` of rows and one of columns, or a single one where they are the same features), the
parts (G, 2) for which the halves of each group are to have room, and which groups are to be cut,
(G,).  For each side it returns what is in the first half of its group, (n,), and then which groups
it has cut.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from .._common.typing import BoolArray, FloatArray, IntArray, RandomState
from .._common.validate import check_rank
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from .cut_graph import CutGraph, leading_vectors, upper_part

__all__ = ["Bisection", "OrderSplit", "SpectralSplit", "one_by_one", "starts"]

# Starts of the refinement: combinations of the leading vectors, closed under changes of sign.
COMBINATIONS = np.array([
    [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1],
    [0, 1, -1]], dtype=float)

# Passes of the refinement end by themselves, when one brings no gain; this only bounds them.
MAX_PASSES = 100
# Rounds of swaps between all pairs of more than two parts; later ones would gain hardly anything.
MAX_ROUNDS = 4

Groups: TypeAlias = list[tuple[IntArray, IntArray]]  # rows and columns of each
Cut: TypeAlias = tuple[Sequence[BoolArray], BoolArray]


class Side:
    """The rows or the columns of all groups: group g holds ``order[offsets[g] : offsets[g + 1]]``.

    `group` (n,) is the group of each position of `order`.
    """

    def __init__(self, order: IntArray, sizes: IntArray) -> None:
        self.order, self.sizes = order, sizes
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.group = np.repeat(np.arange(sizes.size), sizes)

    def arranged(self, place: IntArray, n_places: int) -> "Side":
        """The same features at the groups `place` (n,), which leave none of their own order."""
        return Side(self.order[np.argsort(place, kind="stable")],
                    np.bincount(place, minlength=n_places))

    def groups(self) -> list[IntArray]:
        return np.split(self.order, self.offsets[1:-1])


class Bisection:
    """The options that all trees grown by cuts have in common, checked.

    A group of less than ``k min_size`` rows or columns that would be cut into k parts is kept
    whole.  Without `refine` a cut has one start and no pass.  `random_state` gives Lanczos' method
    its starts, for large groups.
    """

    def __init__(self, n_levels: int | Literal["auto"], min_size: int, balanced: bool,
                 refine: bool = False, n_starts: int = 1, random_state: RandomState = None,
                 n_parts: int | Sequence[int] = 2) -> None:
        self.auto = isinstance(n_levels, str)
        if self.auto and n_levels != "auto":
            raise ValueError(f"n_levels must be a number or 'auto', got {n_levels!r}")
        self.n_levels = None if self.auto else _at_least(1, n_levels, "n_levels")
        self.min_size = _at_least(1, min_size, "min_size")
        if not 1 <= check_rank(n_starts, "n_starts") <= len(COMBINATIONS):
            raise ValueError(f"n_starts must lie in 1 to {len(COMBINATIONS)}, got {n_starts}")
        self.n_parts = self._parts_of_levels(n_parts)
        self.balanced = balanced
        if not balanced and max(self.n_parts, default=2) > 2:
            raise ValueError(f"n_parts above 2 cuts into parts of equal size, got n_parts ="
                             f" {n_parts} and balanced=False: leave one of them out")
        self.refine = refine
        self.passes = MAX_PASSES if refine else 0
        self.combinations = COMBINATIONS[: n_starts if refine else 1]
        self.rng = np.random.default_rng(random_state)

    def _parts_of_levels(self, n_parts):
        """Parts that a group of each level but the last is cut into; one for all if "auto"."""
        if np.ndim(n_parts) == 0:
            k = _at_least(2, n_parts, "n_parts")
            return (k,) if self.auto else (k,) * (self.n_levels - 1)
        parts = tuple(_at_least(2, k, f"n_parts[{level}]") for level, k in enumerate(n_parts))
        if self.auto:
            raise ValueError(f"n_levels='auto' takes one number for all levels, got n_parts ="
                             f" {parts}: ask for {counted(len(parts) + 1, 'level')}")
        if len(parts) != self.n_levels - 1:
            raise ValueError(f"n_parts must say for each of the {self.n_levels - 1} levels above"
                             f" the last one into how many parts its groups are cut, got"
                             f" {counted(len(parts), 'number')}")
        return parts

    def next_parts(self, level: int, sizes: IntArray) -> int | None:
        """Parts that groups of these sizes, (1 or 2, G), are cut into; None ends the tree.

        "auto" ends it when no more than half of the rows, or of the columns, are in groups that can
        be cut.
        """
        if not self.auto:
            return self.n_parts[level] if level < len(self.n_parts) else None
        k = self.n_parts[0]
        large = (sizes >= k * self.min_size).all(axis=0)
        return k if (2 * sizes[:, large].sum(axis=1) > sizes.sum(axis=1)).all() else None

    def grow(self, m: int, n: int, cut: Callable[..., Cut], symmetric: bool,
             refine: Callable[[Groups], Groups] | None = None) -> tuple[Hierarchy, Hierarchy]:
        """Cut every group of m rows and n columns whose sides are large enough for it.

        `cut` is a cutter; `refine` improves more than two parts of a group.  Of the parts of a
        group those with the lower-numbered first rows come first.  If `symmetric`, rows and columns
        are the same features, and one hierarchy is returned twice.
        """
        sides = [Side(np.arange(size), np.array([size]))
                 for size in ((m,) if symmetric else (m, n))]
        levels = [[side.offsets for side in sides]]
        while k := self.next_parts(len(levels) - 1, _sizes(sides)):
            finer, parents = self._cut_level(cut, len(levels) - 1, sides, k)
            if parents.size == sides[0].sizes.size:
                if self.auto:  # what no size forbids, the cutter could not do
                    break
                raise ValueError(self._too_deep(len(levels), _sizes(sides), k))
            if refine is not None and k > 2:
                finer = _refined(finer, parents, refine)
            sides = _by_first_row(finer, parents)
            levels.append([side.offsets for side in sides])
        trees = [Hierarchy(side.order, [offsets[i] for offsets in levels])
                 for i, side in enumerate(sides)]
        return trees[0], trees[-1]

    def _cut_level(self, cut, level, sides, k):
        """All groups cut into k parts, or whole where that cannot be, and the group of each."""
        parents = np.arange(sides[0].sizes.size)
        left = np.full(parents.size, k)  # parts that are to be made of each group
        while True:
            wanted = (left > 1) & (_sizes(sides) >= left * self.min_size).all(axis=0)
            if not wanted.any():
                return sides, parents
            parts = np.stack([left - left // 2, left // 2], axis=1)
            first, done = cut(level, sides, parts, wanted)
            done = done & wanted
            kept = np.stack([np.ones_like(done), done], axis=1).ravel()  # of first, second halves
            sides = [side.arranged(np.cumsum(kept)[2 * side.group + (done[side.group] & ~half)] - 1,
                                   kept.sum())
                     for side, half in zip(sides, first, strict=True)]
            left = np.where(done[:, None], parts, 1).ravel()[kept]
            parents = np.repeat(parents, 1 + done)

    def _too_deep(self, level, sizes, k):
        g = int(np.argmax(sizes.min(axis=0)))
        least = k * self.min_size
        if len(sizes) == 1:
            largest, needed = (counted(size, "feature") for size in (int(sizes[0, g]), least))
        else:
            rows, cols = map(int, sizes[:, g])
            largest = f"{counted(rows, 'row')} and {counted(cols, 'column')}"
            needed = f"{counted(least, 'row')} and as many columns"
        into, sides = ("two", "both sides") if k == 2 else (f"{k} parts", "each of them")
        return (f"n_levels = {self.n_levels} is deeper than the data allow: no group of level"
                f" {level - 1} can be cut in{'to' * (k > 2)} {into} to make level {level}; its"
                f" largest, group {g}, has {largest}, and a cut that leaves min_size ="
                f" {self.min_size} on {sides} needs {needed}. Ask for {counted(level, 'level')}")


def _at_least(least, value, what):
    if check_rank(value, what) < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")
    return int(value)


def _sizes(sides):
    """Numbers of rows and of columns of all groups, (1 or 2, G)."""
    return np.stack([side.sizes for side in sides])


def _by_first_row(sides, parents):
    """The groups of each parent in the order of their lowest-numbered rows."""
    rows = sides[0]
    place = np.empty(parents.size, np.intp)
    place[np.lexsort((np.minimum.reduceat(rows.order, rows.offsets[:-1]), parents))] = np.arange(
        parents.size)
    return [side.arranged(place[side.group], parents.size) for side in sides]


def _refined(sides, parents, refine):
    """The parts of each parent, if there are more than two, improved by `refine`."""
    groups = _pairs(sides)
    starts = np.flatnonzero(np.diff(parents, prepend=-1))
    for start, count in zip(starts, np.diff(starts, append=parents.size), strict=True):
        if count > 2:
            groups[start : start + count] = refine(groups[start : start + count])
    return [Side(np.concatenate(side), np.array([x.size for x in side]))
            for side in list(zip(*groups, strict=True))[: len(sides)]]


def _pairs(sides):
    """Rows and columns of all groups."""
    return list(zip(sides[0].groups(), sides[-1].groups(), strict=True))


def one_by_one(split: Callable[..., Groups | None]) -> Callable[..., Cut]:
    """A cutter that asks ``split(level, rows, cols, parts)`` for the two halves of each group.

    It returns rows and columns of both, or None where it cannot cut the group.
    """
    def cut(level, sides, parts, wanted):
        done, first = wanted.copy(), [np.zeros(side.order.size, bool) for side in sides]
        for g, (rows, cols) in enumerate(_pairs(sides)):
            halves = split(level, rows, cols, tuple(parts[g])) if wanted[g] else None
            done[g] = halves is not None
            for half, own in zip(first, halves[0] if halves else (), strict=False):
                half[own] = True
        return [half[side.order] for half, side in zip(first, sides, strict=True)], done

    return cut


class OrderSplit:
    """Cut groups in the order in which their rows and columns come.

    ``weights(rows, cols)`` is a new block of non-negative weights, dense or sparse, which are large
    where rows and columns belong together.  Balanced halves ask for no weights.
    """

    def __init__(self, weights: Callable[[IntArray, IntArray], Any], symmetric: bool,
                 options: Bisection) -> None:
        self.weights, self.symmetric, self.options = weights, symmetric, options

    def __call__(self, level: int, rows: IntArray, cols: IntArray,
                 parts: tuple[int, int] = (1, 1)) -> Groups:
        return self._halves(rows, cols, self._signs(rows, cols, parts))

    def _halves(self, rows, cols, signs):
        if self.symmetric:
            return [(half, half) for half in (rows[signs > 0], rows[signs < 0])]
        of_rows, of_cols = np.split(signs, [rows.size])
        return [(rows[of_rows > 0], cols[of_cols > 0]), (rows[of_rows < 0], cols[of_cols < 0])]

    def _signs(self, rows, cols, parts):
        """±1 for the rows and columns of a group, by the half to which each goes."""
        sides = (rows,) if self.symmetric else (rows, cols)
        if not self.options.balanced:
            graph = CutGraph(self.weights(rows, cols), self.symmetric)
            scores = np.concatenate([-(np.arange(x.size) + 0.5) / x.size for x in sides])
            signs, _ = graph.split_free(scores, self.options.min_size, max_passes=0)
            if signs is not None:
                return signs
        return np.concatenate([
            np.where(upper_part(-np.arange(x.size), -(-x.size * parts[0] // sum(parts))), 1.0, -1.0)
            for x in sides])


class SpectralSplit(OrderSplit):
    """Cut groups along the leading vectors of their normalized weights, and refine the cuts."""

    def _signs(self, rows, cols, parts):
        return self.best(CutGraph(self.weights(rows, cols), self.symmetric), parts)

    def best(self, graph: CutGraph, parts: tuple[int, int] = (1, 1)) -> FloatArray:
        """Signs of the best cut that the starts lead to."""
        options = self.options
        scores = starts(graph.weights, graph.degree, options)
        if not options.balanced:
            signs, _ = graph.split_free(scores, options.min_size, options.passes)
            if signs is not None:
                return signs
        return graph.split_balanced(scores, options.passes, parts)[0]

    def refine(self, groups: Groups) -> Groups:
        """Swap between parts of one group, two at a time, while a pair of them gains.

        What is inside the other parts does not change by it, so that every swap raises the weight
        inside all of them.
        """
        groups = list(groups)
        waiting = set(itertools.combinations(range(len(groups)), 2))
        for _ in range(MAX_ROUNDS * bool(self.options.passes)):
            changed: set[int] = set()
            for pair in sorted(waiting):
                first, second = (groups[g] for g in pair)
                signs = np.concatenate([
                    np.repeat([1.0, -1.0], [first[side].size, second[side].size])
                    for side in range(1 if self.symmetric else 2)])
                rows, cols = (np.concatenate(both) for both in zip(first, second, strict=True))
                graph = CutGraph(self.weights(rows, cols), self.symmetric)
                improved, _ = graph.improve_balanced(signs[:, None], self.options.passes)
                if (improved != signs).any():
                    halves = self._halves(rows, cols, improved)
                    for g, (i, j) in zip(pair, halves, strict=True):
                        groups[g] = np.sort(i), np.sort(j)
                    changed.update(pair)
            waiting = {pair for pair in itertools.combinations(range(len(groups)), 2)
                       if changed.intersection(pair)}
            if not waiting:
                break
        return groups


def starts(weights: Any, degree: FloatArray, options: Bisection) -> FloatArray:
    """Scores of the vertices to begin from, (vertices, c): combinations of the leading vectors."""
    vectors = leading_vectors(weights, degree, COMBINATIONS.shape[1], options.rng)
    k = vectors.shape[1]
    return vectors @ np.array([c[:k] for c in options.combinations if not c[k:].any()]).T
