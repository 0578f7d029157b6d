"""Trees grown from the root by cutting groups in two, once or again until there are k parts.

A *splitter* is a function of the level, the rows and the columns of a group, and of two numbers of
parts.  It returns rows and columns of two halves, ``[(rows₁, cols₁), (rows₂, cols₂)]``, the first
with room for the first number of parts, or None where it cannot cut the group.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from .._common.typing import FloatArray, IntArray, RandomState
from .._common.validate import check_rank
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from .cut_graph import CutGraph, leading_vectors, upper_part

__all__ = ["Bisection", "OrderSplit", "SpectralSplit", "starts"]

# Starts of the refinement: combinations of the leading vectors, closed under changes of sign.
COMBINATIONS = np.array([
    [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1],
    [0, 1, -1]], dtype=float)

# Passes of the refinement end by themselves, when one brings no gain; this only bounds them.
MAX_PASSES = 100
# Rounds of swaps between all pairs of more than two parts; these end by themselves, too.
MAX_ROUNDS = 10
# Least rows, and columns, of the parts of a level that ``n_levels="auto"`` adds.
LEAF = 2

Group: TypeAlias = tuple[IntArray, IntArray]
Groups: TypeAlias = list[Group]


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

    def cuts(self, sizes: Callable[[], list[tuple[int, int]]]) -> Any:
        """The numbers of parts of one level after another, while there is to be another level.

        ``sizes()`` are the numbers of rows and of columns of the finest groups so far.
        """
        if not self.auto:
            yield from self.n_parts
            return
        k = self.n_parts[0]
        while _worth_cutting(np.array(sizes()), k * max(LEAF, self.min_size)):
            yield k

    def grow(self, m: int, n: int, split: Callable[..., Groups | None], symmetric: bool,
             refine: Callable[[Groups], Groups] | None = None) -> tuple[Hierarchy, Hierarchy]:
        """Cut every group of m rows and n columns whose sides are large enough for it.

        `split` is a splitter; `refine` improves more than two parts of a group.  Of the parts of a
        group those with the lower-numbered first rows come first.  If `symmetric`, rows and columns
        are the same features, and one hierarchy is returned twice.
        """
        levels: list[Groups] = [[(np.arange(m), np.arange(n))]]
        for level, k in enumerate(self.cuts(lambda: _sizes(levels[-1]))):
            finer: Groups = []
            for group in levels[-1]:
                parts = self._parts(split, level, group, k)
                if refine is not None and len(parts) > 2:
                    parts = refine(parts)
                finer += sorted(parts, key=lambda part: part[0][0])
            if len(finer) == len(levels[-1]):
                raise ValueError(self._too_deep(level + 1, levels[-1], k, symmetric))
            levels.append(finer)
        row_tree, col_tree = (
            Hierarchy(np.concatenate([group[side] for group in levels[-1]]),
                      [np.cumsum([0, *(group[side].size for group in level)]) for level in levels])
            for side in (0, 1))
        return (row_tree, row_tree) if symmetric else (row_tree, col_tree)

    def _parts(self, split, level, group, k):
        """The group cut into k parts; whole where that cannot be."""
        if k == 1 or min(x.size for x in group) < k * self.min_size:
            return [group]
        upper, lower = k - k // 2, k // 2
        halves = split(level, *group, (upper, lower))
        if halves is None:
            return [group]
        return [part for half, count in zip(halves, (upper, lower), strict=True)
                for part in self._parts(split, level, half, count)]

    def _too_deep(self, level, groups, k, symmetric):
        g = int(np.argmax([min(rows.size, cols.size) for rows, cols in groups]))
        rows, cols = groups[g]
        least = k * self.min_size
        if symmetric:
            largest, needed = (counted(size, "feature") for size in (rows.size, least))
        else:
            largest = f"{counted(rows.size, 'row')} and {counted(cols.size, 'column')}"
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


def _sizes(groups):
    return [(rows.size, cols.size) for rows, cols in groups]


def _worth_cutting(sizes, least):
    """Whether more than half of the rows, and of the columns, are in groups that can be cut."""
    large = (sizes >= least).all(axis=1)
    return bool((2 * sizes[large].sum(axis=0) > sizes.sum(axis=0)).all())


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
        """Swap between parts of one group, two at a time, until no pair of them gains.

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
