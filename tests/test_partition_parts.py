"""Cuts into more than two parts, depths that are chosen, points by their definition, memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from test_partition import adjacency_of, assert_paired, planted, same_groups, symmetric_weights

from mlrops import Hierarchy, allocate_ranks
from mlrops.datasets import gauss_transform, sphere_kernel
from mlrops.fitting import bisection
from mlrops.fitting.cut_graph import CutGraph
from mlrops.fitting.partitions import partition
from mlrops.fitting.point_partitions import partition_points


def weight_inside(A, rows, cols, level=1):
    """Squares of the entries in blocks of a level, without the diagonal of a symmetric matrix."""
    A = A - np.diag(np.diag(A)) if rows is cols else A
    return np.sum(A[np.equal.outer(rows.labels(level), cols.labels(level))] ** 2)


# ---------------------------------------------------------------- more than two parts


@pytest.mark.quick(4)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sizes", [(20, 20, 20), (13, 14, 13, 14, 13), (12,) * 6])
def test_planted_parts_are_found(sizes, symmetric, form):
    for seed in range(3):
        A, row_groups, col_groups = planted(sizes, sizes, seed, outside=0.1)
        if symmetric:
            order = np.argsort(np.argsort(row_groups, kind="stable"), kind="stable")
            A = A[:, np.argsort(col_groups, kind="stable")][:, order]
            A, col_groups = A + A.T, row_groups
        rows, cols = partition(form(A), 2, n_parts=len(sizes))
        assert (rows is cols) == symmetric
        assert_paired(rows, cols)
        assert same_groups(np.concatenate([rows.labels(1), cols.labels(1)]),
                           np.concatenate([row_groups, col_groups]))


def balanced_parts(n, k):
    for labels in itertools.product(range(k), repeat=n):
        counts = np.bincount(labels, minlength=k)
        if counts.max() - counts.min() <= 1:
            yield np.array(labels)


@pytest.mark.parametrize("n, k", [(6, 3), (7, 3), (8, 4)])
def test_parts_of_tiny_graphs_are_the_best(n, k):
    found, best = [], []
    for seed in range(6):
        W = np.sqrt(symmetric_weights(n, seed))
        tree, _ = partition(W, 2, n_parts=k)
        found.append(weight_inside(W, tree, tree))
        best.append(max(np.sum(W[np.equal.outer(x, x)] ** 2) for x in balanced_parts(n, k)))
    assert max(np.array(found) / best) <= 1 + 1e-6
    assert np.mean(np.array(found) / best) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_no_swap_of_two_parts_gains(seed):
    A = np.random.default_rng(seed).standard_normal((40, 35))
    rows, cols = partition(A, 2, n_parts=5)
    kept = weight_inside(A, rows, cols)
    for tree in (rows, cols):
        labels = tree.labels(1)
        for i, j in itertools.combinations(range(tree.n), 2):
            swapped = labels.copy()
            swapped[[i, j]] = labels[[j, i]]
            one, two = (swapped if other is tree else other.labels(1) for other in (rows, cols))
            assert np.sum(A[np.equal.outer(one, two)] ** 2) <= kept * (1 + 1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_swaps_raise_what_repeated_cuts_in_two_keep(symmetric, monkeypatch):
    A = gauss_transform(90, 80, random_state=0).A
    A = A @ A.T if symmetric else A
    kept = [weight_inside(A, *partition(A, 2, n_parts=k)) for k in (3, 5, 8)]
    monkeypatch.setattr(bisection, "MAX_ROUNDS", 0)
    cut = [weight_inside(A, *partition(A, 2, n_parts=k)) for k in (3, 5, 8)]
    assert all(np.greater_equal(kept, cut)) and sum(kept) > (1 + 1e-4) * sum(cut)


def test_numbers_of_parts_by_level():
    A = gauss_transform(150, 130, random_state=0).A
    assert partition(A, 4, n_parts=2) == partition(A, 4) == partition(A, 4, n_parts=(2, 2, 2))
    points = np.random.default_rng(0).random((150, 2)), np.random.default_rng(1).random((130, 2))
    for trees in (partition(A, 4, n_parts=(5, 2, 3)), partition(A, 4, n_parts=[5, 2, 3],
                                                                method="order"),
                  partition_points(*points, 4, n_parts=(5, 2, 3))):
        assert_paired(*trees)
        for tree in trees:
            assert tree.group_counts == (1, 5, 10, 30)
            assert all(np.ptp(tree.group_sizes(level)) <= 1 for level in range(4))
    rows, _ = partition(A, 3, n_parts=3, method="order")
    assert rows == Hierarchy.from_boundaries([[0, 150], [0, 50, 100, 150],
                                              np.cumsum([0, *[17, 17, 16] * 3])])
    linked, _ = partition(np.abs(np.subtract.outer(*2 * [np.arange(30.0) ** 2])), 3,
                          method="linkage", n_parts=(3, 4))
    assert linked.group_counts == (1, 3, 12)


def test_thirds_of_a_line():
    x = np.random.default_rng(0).permutation(21).astype(float)
    tree, _ = partition_points(x[:, None], n_levels=2, n_parts=3)
    assert same_groups(tree.labels(1), x // 7)
    tree, _ = partition(np.exp(-np.abs(np.subtract.outer(x, x))), 2, n_parts=3)
    assert same_groups(tree.labels(1), x // 7)


@pytest.mark.parametrize("options, message", [
    ({"n_parts": 1}, "n_parts must be at least 2, got 1"),
    ({"n_parts": (3, 2.5)}, r"n_parts\[1\] must be an integer"),
    ({"n_parts": (3, 1)}, r"n_parts\[1\] must be at least 2"),
    ({"n_parts": (3, 2, 2)}, "each of the 2 levels above the last one .* got 3 numbers"),
    ({"n_parts": 12}, "no group of level 0 can be cut into 12 parts .* 10 columns, .* 12 rows"),
    ({"n_parts": (3, 5)}, "no group of level 1 can be cut into 5 parts .* Ask for 2 levels"),
    ({"n_parts": 3, "min_size": 4}, "group 0, has .* min_size = 4 on each of them needs 12 rows"),
    ({"n_parts": 3, "balanced": False}, "parts of equal size, got n_parts = 3 and balanced=False"),
    ({"n_levels": "auto", "n_parts": (3, 2)}, "one number for all levels, .* ask for 3 levels"),
    ({"n_levels": "deep"}, "n_levels must be a number or 'auto', got 'deep'")])
def test_parts_that_cannot_be(options, message):
    A = np.random.default_rng(0).random((14, 10))
    with pytest.raises((ValueError, TypeError), match=message):
        partition(A, **{"n_levels": 3, **options})
    with pytest.raises((ValueError, TypeError), match=message):
        partition_points(A[:, :2], A[:10, :2], **{"n_levels": 3, **options})


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize("m, n, k, levels", [
    (64, 64, 2, 7), (100, 64, 2, 7), (40, 40, 2, 6), (60, 60, 2, 7), (1, 1, 2, 1), (64, 3, 2, 2),
    (81, 90, 3, 5), (50, 50, 3, 4)])
def test_auto_goes_down_to_single_features(m, n, k, levels):
    """With k parts, as long as more than half are in groups of k or more."""
    A = np.random.default_rng(0).standard_normal((m, n))
    points = A[:, :1], A[:1].T
    for rows, cols in (partition(A, "auto", n_parts=k), partition(A, "auto", n_parts=k,
                                                                  method="order"),
                       partition_points(*points, "auto", n_parts=k)):
        assert rows.n_levels == levels
        assert_paired(rows, cols)


def test_auto_with_a_least_size_and_without_balance():
    A = gauss_transform(90, 80, random_state=0).A
    rows, cols = partition(A, "auto", min_size=8)
    assert rows.n_levels == 4 and min(cols.group_sizes(3)) >= 8
    for rows, cols in (partition(A, "auto", balanced=False),
                       partition(A, "auto", balanced=False, method="order"),
                       partition_points(A[:, :2], A.T[:, :2], "auto", balanced=False)):
        assert_paired(rows, cols)
        sizes = np.minimum(rows.group_sizes(-1), cols.group_sizes(-1))
        can_be_cut = np.isin(rows.labels(rows.n_levels - 1), np.flatnonzero(sizes > 1))
        assert can_be_cut.mean() <= 0.5 or rows.n_levels > 5
    x = np.array([0.0, 1, 2, 10, 11, 30])
    tree, _ = partition(np.abs(np.subtract.outer(x, x)), "auto", method="linkage")
    assert tree.group_counts == (1, 2, 4)
    same = partition_points(np.zeros((9, 2)), n_levels="auto", balanced=False)[0]
    assert same.n_levels == 1  # nothing tells them apart


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
def test_no_other_depth_is_much_better(kernel):
    A = sphere_kernel(128, kernel, 0.2, random_state=0).A
    tree, _ = partition(A, "auto", random_state=0)
    errors = [allocate_ranks(A, 10, Hierarchy(tree.permutation, tree.boundaries[:L]), start="top",
                             random_state=0).error for L in (4, 5, 6, tree.n_levels)]
    # The search for ranks ends a few percent apart, whatever the depth.
    assert errors[-1] <= 1.1 * min(errors) and errors[-1] < 0.8 * errors[0]


# ---------------------------------------------------------------- points, by definition


def axis_of(points):
    centred = points - points.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][0]


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("m, n", [(64, 48), (40, 0)])
def test_points_are_cut_as_the_definition_says(m, n, balanced):
    rng = np.random.default_rng(m)
    x, y = rng.standard_normal((m, 3)) * [3, 2, 1], rng.standard_normal((n, 3)) * [1, 3, 2]
    rows, cols = partition_points(x, y if n else None, 4, balanced=balanced)
    for level in range(3):
        for g in range(rows.group_counts[level]):
            i = np.sort(rows.features(level, g))
            j = np.sort(cols.features(level, g)) if n else i[:0]
            line = axis_of(np.concatenate([x[i], y[j]]))
            own, other = line[: i.size], line[i.size :]
            if balanced:
                expected = [z > np.median(z) for z in (own, other) if z.size]
            else:
                cuts = [t for t in np.sort(line) if own.min() < t <= own.max()
                        and (not n or other.min() < t <= other.max())]
                if not cuts:
                    continue
                within = [sum(part.var() * part.size for part in (line[line < t], line[line >= t]))
                          for t in cuts]
                expected = [z >= cuts[int(np.argmin(within))] for z in (own, other) if z.size]
            for z, tree, numbers in zip(expected, (rows, cols), (i, j), strict=False):
                if not (balanced and numbers.size % 2):
                    assert same_groups(tree.labels(level + 1)[numbers], z)


def test_points_in_one_place_are_cut_evenly():
    x = np.repeat([[0.0, 0], [1, 1]], [3, 10], axis=0)[np.random.default_rng(0).permutation(13)]
    for k in (2, 3):
        tree, _ = partition_points(x, n_levels=3, n_parts=k)
        assert all(np.ptp(tree.group_sizes(level)) <= 1 for level in range(3))
    tree, _ = partition_points(np.zeros((8, 2)), n_levels=4)
    assert tree == Hierarchy(tree.permutation, [np.arange(0, 9, size) for size in (8, 4, 2, 1)])
    np.testing.assert_array_equal(np.sort(tree.features(1, 0)), np.arange(4))


# ---------------------------------------------------------------- weights


def test_a_group_of_tiny_entries_is_cut_like_a_large_one():
    big, big_rows, big_cols = planted((20, 20), (16, 16), 0)
    tiny, tiny_rows, tiny_cols = planted((20, 20), (16, 16), 1)
    A = np.block([[big, np.zeros((40, 32))], [np.zeros((40, 32)), 1e-17 * tiny]])
    rows, cols = partition(A, 3)
    assert same_groups(rows.labels(2), np.concatenate([big_rows, tiny_rows + 2]))
    assert same_groups(cols.labels(2), np.concatenate([big_cols, tiny_cols + 2]))


@pytest.mark.parametrize("symmetric, share", [(True, 0.8), (False, 1.3)])
def test_memory_beside_a_matrix(symmetric, share):
    A = gauss_transform(1400, 1400, random_state=0)
    A = np.exp(-((A.targets[:, None] - A.targets) ** 2).sum(axis=2)) if symmetric else A.A
    partition(A[:300, :300], 2)  # compiled
    tracemalloc.start()
    try:
        partition(A, 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < share * A.nbytes + 8e6  # single precision, once or twice, and chunks


def test_many_cuts_at_once_are_the_best_of_them():
    rng = np.random.default_rng(0)
    graph = CutGraph(symmetric_weights(60, 0), True)
    scores = rng.standard_normal((60, 9))
    each = [graph.split_balanced(x, 50)[1] for x in scores.T]
    signs, inside = graph.split_balanced(scores, 50)
    assert inside == pytest.approx(graph.inside(signs), rel=1e-12)
    assert min(each) <= inside <= max(each) * (1 + 1e-12)
    assert graph.split_balanced(scores, 0)[1] == pytest.approx(
        max(graph.split_balanced(x, 0)[1] for x in scores.T), rel=1e-12)
    assert np.argmax([inside, np.mean(each)]) == 0


@pytest.mark.parametrize("parts", [(2, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("p, q", [(11, 0), (12, 7), (15, 10)])
def test_sides_have_room_for_their_parts(p, q, parts):
    rng = np.random.default_rng(p)
    W = rng.exponential(size=(p, q)) if q else symmetric_weights(p, 0)
    graph = CutGraph(W.copy(), not q)
    k = sum(parts)
    for passes in (0, 50):
        s, inside = graph.split_balanced(rng.standard_normal(graph.kind.size), passes, parts)
        full = adjacency_of(W, not q)
        assert inside == pytest.approx(full[np.equal.outer(s, s)].sum() / 2, rel=1e-12)
        for kind in np.unique(graph.kind):
            own = s[graph.kind == kind]
            for side, share in ((1, parts[0]), (-1, parts[1])):
                least = share * (own.size // k)
                assert least <= np.sum(own == side) <= least + min(share, own.size % k)
