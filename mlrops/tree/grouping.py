"""Labels, a linkage or offsets in, nested groups out: what `Hierarchy`'s constructors rest on.

Everything here is plain arrays.  A tree is ``(permutation, boundaries)``: the features in tree
order and, for each level, the offsets at which its groups begin.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._common.labels import is_missing
from .._common.typing import IntArray, Labels
from .._common.wording import counted, name_some

__all__ = ["as_integer", "check_tree", "cut_linkage", "nest_labels", "split_evenly"]

Boundaries: TypeAlias = list[IntArray]


# ---------------------------------------------------------------- a permutation and offsets


def as_integer(value: Any, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {value!r}") from None


def check_tree(permutation: Any, boundaries: Any,
               in_order: bool = False) -> tuple[IntArray, Boundaries]:
    """New arrays of a tree from what is given; with `in_order` the features stay in their order."""
    levels = _as_levels(boundaries)
    if in_order:
        permutation = np.arange(max(levels[0][-1], 0) if levels[0].size else 0)
    order = _as_integers(permutation, "permutation")
    _check_permutation(order)
    for level, offsets in enumerate(levels):
        _check_offsets(offsets, level, order.size)
    _check_nested(levels)
    return order, levels


def _as_integers(x, what):
    """A new intp array of one dimension; whole floats pass, fractions and NaN do not."""
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError(f"{what} must be one-dimensional, got {x!r:.60}") from None
    if array.ndim != 1:
        raise ValueError(f"{what} must be one-dimensional, got shape {array.shape}: {x!r:.60}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{what} must hold integers, got dtype {array.dtype}")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.intp)
    wrong = np.flatnonzero(whole != array)
    if wrong.size:
        raise ValueError(f"{what} must hold integers, got {array[wrong[0]]} at entry {wrong[0]}")
    return whole


def _check_permutation(permutation):
    n = permutation.size
    if n == 0:
        raise ValueError("a hierarchy needs at least one feature, got an empty permutation")
    outside = np.flatnonzero((permutation < 0) | (permutation >= n))
    if outside.size:
        raise ValueError(f"permutation must hold each of the features 0 to {n - 1} once, got"
                         f" {permutation[outside[0]]} at position {outside[0]}")
    times = np.bincount(permutation, minlength=n)
    if (times != 1).any():
        repeated = np.flatnonzero(times > 1)[0]
        positions = np.flatnonzero(permutation == repeated)[:2]
        raise ValueError(f"permutation must hold each of the features 0 to {n - 1} once: feature"
                         f" {repeated} is repeated (positions {positions[0]} and {positions[1]}),"
                         f" feature {np.flatnonzero(times == 0)[0]} is missing")


def _as_levels(boundaries):
    try:
        levels = list(boundaries)
    except TypeError:
        levels = None
    if levels is None or any(np.ndim(b) == 0 for b in levels if not isinstance(b, (list, tuple))):
        raise TypeError("boundaries must be a sequence with one array of offsets a level (a single"
                        f" level is [[0, ..., n]]), got {boundaries!r:.60}")
    if not levels:
        raise ValueError("boundaries must hold at least one level, got none")
    return [_as_integers(b, f"boundaries[{level}]") for level, b in enumerate(levels)]


def _check_offsets(offsets, level, n):
    if offsets.size < 2 or offsets[0] != 0 or offsets[-1] != n:
        got = f"{offsets[0]} to {offsets[-1]}" if offsets.size else "no offsets"
        raise ValueError(f"boundaries[{level}] must run from 0 to n = {n} (features), got {got}")
    steps = np.diff(offsets)
    if (steps <= 0).any():
        group = np.flatnonzero(steps <= 0)[0]
        begin, end = offsets[group : group + 2]
        problem = "is empty" if begin == end else "ends before it begins"
        raise ValueError(f"boundaries[{level}] must increase: group {group} of level {level}"
                         f" {problem} (offsets {begin} and {end})")


def _check_nested(boundaries):
    for level in range(1, len(boundaries)):
        fine, cut = boundaries[level], _not_in(boundaries[level - 1], boundaries[level])
        if not cut.size:
            continue
        backwards = boundaries[::-1]
        if not any(_not_in(a, b).size for a, b in zip(backwards[:-1], backwards[1:], strict=True)):
            raise ValueError("boundaries are given fine to coarse; levels go coarse to fine: pass"
                             " boundaries[::-1]")
        at = boundaries[level - 1][cut[0]]
        group = np.searchsorted(fine, at) - 1
        raise ValueError(f"level {level} does not nest in level {level - 1}: its group {group}"
                         f" (offsets {fine[group]} to {fine[group + 1]}) crosses the boundary {at}"
                         f" between groups {cut[0] - 1} and {cut[0]} of level {level - 1}")


def _not_in(coarse, fine):
    """Indices of the offsets of `coarse` that are not offsets of `fine`."""
    return np.flatnonzero(fine[np.searchsorted(fine, coarse)] != coarse)


# ---------------------------------------------------------------- labels of one level


def _factorize(labels: Labels, what: str,
              names: Sequence[str] | None = None) -> tuple[IntArray, list[Any]]:
    """Number the distinct labels of one level in their order.

    Returns codes (n,) and the k labels that occur, in order: ``values[codes[i]]`` is the label of
    feature i.  The order of a pandas Categorical is its own.  Errors call the array `what`, and the
    features by their `names`.
    """
    codes, values = _codes(labels, what)
    missing = np.flatnonzero(codes < 0)
    if missing.size:
        if names is not None and len(names) == codes.size:
            missing = np.array(names, object)[missing]
        raise ValueError(f"{what}: the label is missing (None, NaN, NA or NaT) for {missing.size}"
                         f" of {counted(codes.size, 'feature')} ({name_some(missing)}); drop these"
                         " features or give them a label of their own")
    used, codes = np.unique(codes, return_inverse=True)
    return codes, [values[c] for c in used]


def _codes(labels, what):
    """Codes into an ordered list of values, -1 where the label is missing."""
    categorical = getattr(labels, "cat", labels)  # a Series keeps its categories one step away
    if hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        return np.array(categorical.codes, dtype=np.intp), list(categorical.categories)

    array = _label_array(labels, what)
    if array.dtype.kind == "O":
        codes, values = _object_codes(array, what)
    else:
        values, codes = np.unique(array, return_inverse=True)
        codes[array != array] = -1  # NaN and NaT are the values that differ from themselves
        # tolist() turns dates into bare integers
        values = list(values) if values.dtype.kind in "mM" else values.tolist()
    if isinstance(labels, np.ma.MaskedArray):
        codes[np.ma.getmaskarray(labels)] = -1
    return codes, values


def _label_array(labels, what):
    if isinstance(labels, (str, bytes, dict, set, frozenset)) or not hasattr(labels, "__iter__"):
        raise TypeError(f"{what} must be an array with one label for each feature, got"
                        f" {type(labels).__name__} {labels!r:.60}")
    if hasattr(labels, "__array__"):
        array = np.asarray(labels)
    else:
        # Through objects: asarray would turn [1, "a"] and ["a", nan] into strings without a word.
        array = np.fromiter(labels, dtype=object)
    if array.ndim != 1:
        raise ValueError(f"{what} must be one-dimensional, got shape {array.shape}; pass one array"
                         " a level: from_labels(coarse, fine)")
    if array.dtype.kind not in "biufSUMmOT":
        raise TypeError(f"{what} must hold strings, numbers or dates, got dtype {array.dtype}")
    return array.astype(object) if array.dtype.kind == "T" else array


def _object_codes(array, what):
    index, codes, at = {}, np.empty(array.size, np.intp), 0
    try:
        for at, label in enumerate(array):
            codes[at] = index.setdefault(label, len(index))
    except TypeError:
        raise TypeError(f"{what} must hold labels such as strings or integers, got a"
                        f" {type(array[at]).__name__} at feature {at}; pass one array a level:"
                        " from_labels(coarse, fine)") from None
    values = list(index)
    present = [i for i, v in enumerate(values) if not is_missing(v)]
    try:
        present.sort(key=values.__getitem__)
    except TypeError:
        example = {type(values[i]).__name__: values[i] for i in reversed(present)}
        kinds = " and ".join(f"{kind} (such as {v!r})" for kind, v in sorted(example.items()))
        raise TypeError(f"{what} holds labels that cannot be sorted: {kinds}; convert them to one"
                        " type, or pass a pandas Categorical, which has an order of its"
                        " own") from None
    rank = np.full(len(values), -1, dtype=np.intp)
    rank[present] = np.arange(len(present))
    return rank[codes], [values[i] for i in present]


# ---------------------------------------------------------------- labels of all levels


def nest_labels(levels: Sequence[Labels], features: Sequence[str] | None, qualify: bool,
                first_level: int) -> tuple[IntArray, Boundaries, list[tuple[Any, ...]]]:
    """Permutation, boundaries and names of groups from one array of labels a level.

    A group is a path of labels, coarse to fine.  Paths are numbered level by level, sorted by
    parent and then by label, so the groups of every level come out contiguous under one stable
    sort.  With `qualify` one label may stand under several parents.  For errors: `features` are
    names, `first_level` is the level of the hierarchy that ``levels[0]`` becomes.
    """
    if not levels:
        raise ValueError("from_labels needs one array of labels a level, got none")
    codes, values = zip(*(_factorize(x, f"labels[{j}]", features) for j, x in enumerate(levels)),
                        strict=True)
    n = codes[0].size
    for j, code in enumerate(codes):
        if code.size != n:
            raise ValueError("every level needs one label for each feature: labels[0] has"
                             f" {counted(n, 'entry')}, labels[{j}] has {code.size}")
    if n == 0:
        raise ValueError("a hierarchy needs at least one feature, got empty labels")
    path = np.zeros(n, dtype=np.intp)
    boundaries: Boundaries = []
    names: list[tuple[Any, ...]] = []
    for j, (code, labels) in enumerate(zip(codes, values, strict=True)):
        pairs, path, sizes = np.unique(path * len(labels) + code, return_inverse=True,
                                       return_counts=True)
        parent, label = np.divmod(pairs, len(labels))
        if len(pairs) > len(labels) and not qualify:
            torn = np.flatnonzero(np.bincount(label) > 1)
            one, other = (names[-1][p] for p in parent[label == torn[0]][:2])
            level = first_level + j
            more = f" (and {torn.size - 1} more labels of this level)" if torn.size > 1 else ""
            raise ValueError(f"label {labels[torn[0]]!r} of level {level} (labels[{j}]) stands"
                             f" under two parents of level {level - 1}: {one!r} and {other!r}"
                             f"{more}; {_advice(codes, values)}")
        boundaries.append(np.concatenate(([0], np.cumsum(sizes))))
        names.append(tuple(labels[c] for c in label))
    return np.argsort(path, kind="stable"), boundaries, names


def _advice(codes, values):
    """What to do about labels that do not nest."""
    fine_first = zip(codes[1:], codes[:-1], values[:-1], strict=True)
    if all(np.unique(coarse * len(labels) + fine).size == len(labels)
           for coarse, fine, labels in fine_first):
        return ("the labels nest the other way round, so they were given fine to coarse: pass the"
                " coarsest first (qualify=True would read every label as a path and split the"
                " groups)")
    return ("if equal labels under different parents mean different groups, pass qualify=True;"
            " otherwise correct the labels")


# ---------------------------------------------------------------- numbers of groups


def _check_counts(group_counts: Iterable[int], n: int) -> list[int]:
    """The numbers of groups as ints: each between 1 and n, none less than the one before."""
    try:
        counts = list(group_counts)
    except TypeError:
        raise TypeError("group_counts must be a sequence with one number a level, got"
                        f" {group_counts!r}") from None
    if not counts:
        raise ValueError("group_counts must hold at least one level, got an empty sequence")
    for level, p in enumerate(counts):
        if isinstance(p, (bool, np.bool_)) or not isinstance(p, (int, np.integer)):
            raise TypeError(f"group_counts[{level}] must be an integer, got {p!r}")
        if not 1 <= p <= n:
            raise ValueError(f"group_counts[{level}] must lie between 1 and the number of features,"
                             f" {n}; got {p}")
    counts = [int(p) for p in counts]
    falls = [level for level in range(1, len(counts)) if counts[level] < counts[level - 1]]
    if falls:
        level = falls[0]
        advice = ("; the counts were given fine to coarse: pass the coarsest level first"
                  if counts == sorted(counts, reverse=True) else "")
        raise ValueError("group_counts must not decrease from coarse to fine, got"
                         f" {counted(counts[level], 'group')} at level {level} after"
                         f" {counts[level - 1]} at level {level - 1}{advice}")
    return counts


def split_evenly(n: int, group_counts: Iterable[int]) -> Boundaries:
    """Offsets of groups of nearly equal size; each count must be a multiple of the one before."""
    n = as_integer(n, "n")
    if n < 1:
        raise ValueError(f"a hierarchy needs at least one feature, got n = {n}")
    counts = _check_counts(group_counts, n)
    for level, (p, q) in enumerate(zip(counts[:-1], counts[1:], strict=True)):
        if q % p:
            raise ValueError(f"each group count must divide the next one: {p} groups of level"
                             f" {level} cannot be split evenly into {q} groups of level"
                             f" {level + 1}")
    # i n // p = (i k) n // (p k): an offset of p groups is one of p k groups, so levels nest.
    return [np.arange(p + 1) * n // p for p in counts]


# ---------------------------------------------------------------- a linkage


def cut_linkage(Z: Any, group_counts: Iterable[int]) -> tuple[IntArray, Boundaries]:
    """Permutation and boundaries of a linkage, cut into ``group_counts[l]`` clusters a level.

    The permutation (n,) holds the leaves of the dendrogram from left to right.  Row i of Z merges
    two clusters into cluster n + i.  Undoing the last p - 1 merges leaves p clusters.  A finer
    level undoes what the coarser ones undid and more, so the levels nest whatever the heights,
    which need not increase (centroid and median linkages).
    """
    children, sizes = _read_linkage(Z)
    n = len(children) + 1
    counts = _check_counts(group_counts, n)

    # Top down: a cluster begins where its left child begins, and its right child follows.
    first = [0] * (2 * n - 1)
    for i in range(n - 2, -1, -1):
        left, right = children[i]
        first[left] = first[n + i]
        first[right] = first[n + i] + sizes[left]
    start = np.array(first, dtype=np.intp)
    parent = np.full(2 * n - 1, 2 * n - 1, dtype=np.intp)  # the root's parent is never undone last
    parent[np.ravel(children).astype(np.intp)] = np.repeat(np.arange(n, 2 * n - 1), 2)

    permutation = np.empty(n, dtype=np.intp)
    permutation[start[:n]] = np.arange(n)
    boundaries = []
    for p in counts:
        made = 2 * n - p  # the clusters below this number exist once n - p merges are done
        alive = np.flatnonzero(parent[:made] >= made)
        boundaries.append(np.append(np.sort(start[alive]), n))
    return permutation, boundaries


def _read_linkage(Z):
    """Children (n-1 pairs) and sizes (2n-1) of the clusters, after checking that Z is one tree."""
    Z = np.asarray(Z)
    if Z.dtype.kind not in "fiu":
        raise TypeError(f"Z must be a numeric linkage array, got dtype {Z.dtype}")
    if Z.ndim != 2 or Z.shape[1] != 4:
        raise ValueError("Z must have shape (n - 1, 4) as scipy.cluster.hierarchy.linkage returns"
                         f" it, got {Z.shape}")
    merges = len(Z)
    n = merges + 1
    ids, heights, sizes = Z[:, :2], Z[:, 2], Z[:, 3]
    latest = n + np.arange(merges)  # merge i can only use what exists by then
    for wrong, expected in [
        (~(ids == np.floor(ids)).all(axis=1), "two whole cluster numbers"),
        (~((ids >= 0) & (ids < latest[:, None])).all(axis=1), "clusters that exist by then"),
        (~(heights >= 0), "a height that is not negative and not NaN")]:
        if wrong.any():
            i = np.flatnonzero(wrong)[0]
            raise ValueError(f"Z is not a linkage: merge {i} must have {expected}, got"
                             f" {Z[i].tolist()}")
    ids = ids.astype(np.intp)
    used = np.bincount(ids.ravel(), minlength=2 * n - 1)
    if (used > 1).any():
        twice = np.flatnonzero(used > 1)[0]
        rows = np.flatnonzero((ids == twice).any(axis=1)).tolist()
        raise ValueError(f"Z is not a linkage: cluster {twice} is merged twice, in rows {rows}")

    children = ids.tolist()
    held = [1] * n
    for left, right in children:
        held.append(held[left] + held[right])
    wrong = np.flatnonzero(sizes != np.array(held[n:]))
    if wrong.size:
        i = wrong[0]
        raise ValueError(f"Z is not a linkage: merge {i} says it holds"
                         f" {counted(sizes[i], 'feature', 'g')}, its clusters hold {held[n + i]}")
    return children, held
