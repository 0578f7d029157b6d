"""Partitions: planted groups are found, cuts are as good as they say, bad input is named."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mlrops import Hierarchy, fit_mlr
from mlrops.datasets import gauss_transform, graph_distances, hierarchical_matrix
from mlrops.fitting.bisection import Bisection, SpectralSplit
from mlrops.fitting.cut_graph import CutGraph, leading_vectors
from mlrops.fitting.partitions import _closeness, _left_over, partition
from mlrops.fitting.point_partitions import partition_points


def same_groups(a, b):
    """Whether two arrays of labels name the same groups."""
    pairs = set(zip(a, b, strict=True))
    return len(pairs) == len(set(a)) == len(set(b))


def assert_paired(rows, cols):
    """Trees of one shape, a permutation each, and levels that nest."""
    assert rows.group_counts == cols.group_counts and rows.group_counts[0] == 1
    np.testing.assert_array_equal(rows._paths, cols._paths)
    for tree in (rows, cols):
        Hierarchy(tree.permutation, tree.boundaries)


def planted(row_sizes, col_sizes, seed, inside=1.0, outside=0.3):
    """A shuffled matrix with larger entries where group g of rows meets group g of columns."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.repeat(np.arange(len(row_sizes)), row_sizes))
    cols = rng.permutation(np.repeat(np.arange(len(col_sizes)), col_sizes))
    scale = np.where(np.equal.outer(rows, cols), inside, outside)
    return scale * rng.standard_normal((rows.size, cols.size)), rows, cols


def symmetric_weights(n, seed, density=1.0):
    rng = np.random.default_rng(seed)
    W = rng.exponential(size=(n, n)) * (rng.random((n, n)) < density)
    W = np.triu(W, 1)
    return W + W.T


# ---------------------------------------------------------------- planted groups


@pytest.mark.quick(6)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes, balanced", [
    (((30, 30), (20, 20)), True), (((31, 30), (20, 21)), True), (((45, 15), (8, 40)), False),
    (((12, 50), (12, 50)), False)])
def test_planted_rectangular(sizes, balanced, seed, dtype):
    A, row_groups, col_groups = planted(*sizes, seed, outside=0.3 if balanced else 0.1)
    rows, cols = partition(A.astype(dtype), 2, balanced=balanced)
    assert_paired(rows, cols)
    both = np.concatenate([rows.labels(1), cols.labels(1)])
    assert same_groups(both, np.concatenate([row_groups, col_groups]))


@pytest.mark.quick(5)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes, balanced", [
    ((30, 30), True), ((31, 30), True), ((12, 40), False), ((8, 30), False)])
def test_planted_symmetric(sizes, balanced, seed):
    A, groups, cols = planted(sizes, sizes, seed, outside=0.3 if balanced else 0.1)
    order = np.argsort(np.argsort(groups, kind="stable"), kind="stable")
    A = A[:, np.argsort(cols, kind="stable")][:, order]  # columns of the rows' groups
    tree, same = partition(A + A.T, 2, balanced=balanced)
    assert tree is same and same_groups(tree.labels(1), groups)
    for symmetric in (True, False):
        r, c = partition(A + A.T, 2, balanced=balanced, symmetric=symmetric)
        assert (r is c) == symmetric
        assert same_groups(r.labels(1), groups) and same_groups(c.labels(1), groups)


@pytest.mark.parametrize("seed", range(3))
def test_planted_tree(seed):
    _, rows, cols = hierarchical_matrix(160, 120, [1, 2, 4, 8], [0, 0, 0, 0], random_state=seed)
    shared = sum(np.equal.outer(rows.labels(level), cols.labels(level)) for level in range(4))
    A = np.random.default_rng(seed).standard_normal((160, 120)) * 3.0**shared
    found = partition(A, 4)
    assert_paired(*found)
    for level in (1, 2, 3):
        for tree, true in zip(found, (rows, cols), strict=True):
            assert same_groups(tree.labels(level), true.labels(level))
    # The pairing, not only the groups: rows and columns of a group share labels.
    both = [np.concatenate([r.labels(3), c.labels(3)]) for r, c in (found, (rows, cols))]
    assert same_groups(*both)


def test_three_components_of_a_disconnected_matrix():
    A = sp.block_array([[np.ones((4, 3)), None, None], [None, np.ones((4, 3)), None],
                        [None, None, np.ones((8, 6))]]).toarray()
    rows, cols = partition(A, 3)
    assert same_groups(rows.labels(1), np.repeat([0, 1], 8))
    inside = np.equal.outer(rows.labels(1), cols.labels(1))
    assert A[~inside].sum() == 0
    rows, cols = partition(A, 3, balanced=False)
    assert A[~np.equal.outer(rows.labels(1), cols.labels(1))].sum() == 0


def test_halves_are_balanced_and_ordered():
    rows, cols = partition(np.random.default_rng(0).standard_normal((77, 45)), 6)
    for tree in (rows, cols):
        for level in range(6):
            assert np.ptp(tree.group_sizes(level)) <= 1
    for level in range(1, 6):
        firsts = [rows.features(level, g).min() for g in range(rows.group_counts[level])]
        assert all(a < b for a, b in zip(firsts[::2], firsts[1::2], strict=True))


def test_band_matrices_keep_their_order():
    i = np.arange(64)
    A = np.exp(-np.abs(np.subtract.outer(i, i)) / 4)
    for balanced in (True, False):
        tree, _ = partition(A, 4, balanced=balanced)
        assert tree == Hierarchy.balanced(64, [1, 2, 4, 8])


# ---------------------------------------------------------------- invariances


@pytest.mark.quick(2)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("shape", [(60, 41), (50, 50), (260, 230)])
def test_permutation_equivariance(shape, balanced):
    rng = np.random.default_rng(2)
    data = gauss_transform(*shape, 4.0, random_state=1)
    p, q = rng.permutation(shape[0]), rng.permutation(shape[1])
    for A, cols in ((data.A, q), (np.exp(-4 * cdist(data.targets, data.targets)), p)):
        first = partition(A, 4, balanced=balanced, random_state=0)
        moved = partition(A[p][:, cols], 4, balanced=balanced, random_state=0)
        for level in range(4):
            labels = [np.concatenate([a.labels(level), b.labels(level)])
                      for a, b in ((first[0], first[1]), moved)]
            order = np.concatenate([p, len(p) + cols])
            assert same_groups(labels[0][order], labels[1])


@pytest.mark.quick(4)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, sp.coo_matrix])
def test_sparse_is_dense(form, symmetric, balanced):
    rng = np.random.default_rng(3)
    A = rng.standard_normal((250, 210)) * (rng.random((250, 210)) < 0.05)
    A = A[:210] + A[:210].T if symmetric else A
    options = {"balanced": balanced, "symmetric": symmetric, "random_state": 0}
    assert partition(form(A), 4, **options) == partition(A, 4, **options)


def test_scale_and_integers_do_not_matter():
    rng = np.random.default_rng(0)  # large within 2, 4 and 8 groups: no cut is nearly a tie
    A, rows, cols = rng.integers(-1, 2, (30, 24)), np.sort(np.arange(30) % 8), np.arange(24) // 3
    for groups, size in ((4, 12), (2, 6), (1, 20)):
        A += (rows[:, None] // groups == cols // groups) * rng.choice([-size, size], (30, 24))
    A = A[rng.permutation(30)][:, rng.permutation(24)]
    expected = partition(A, 4)
    for other in (A * 1e-170, A * 1e160, A.astype(np.float32), A.tolist(), np.asfortranarray(A)):
        assert partition(other, 4) == expected
    before = A.copy()
    partition(A, 4)
    np.testing.assert_array_equal(A, before)


def test_seeds():
    A = gauss_transform(300, 280, random_state=0).A
    assert partition(A, 5, random_state=7) == partition(A, 5, random_state=7)
    assert partition(A, 5, random_state=np.random.default_rng(7)) == partition(A, 5, random_state=7)


# ---------------------------------------------------------------- the graph, the cut, refinement


@pytest.mark.quick(1)
@pytest.mark.parametrize("n", [12, 260])
@pytest.mark.parametrize("sparse", [False, True])
def test_leading_vectors_solve_the_eigenproblem(n, sparse):
    W = symmetric_weights(n, 0, density=0.4)
    B = np.random.default_rng(1).exponential(size=(n, n + 31))
    B[:5, :9] += 9
    for M, symmetric in ((W, True), (B, False), (B.T, False)):
        graph = CutGraph(sp.csr_array(M) if sparse else M, symmetric)
        adjacency = M if symmetric else np.block(
            [[np.zeros((M.shape[0],) * 2), M], [M.T, np.zeros((M.shape[1],) * 2)]])
        d = adjacency.sum(axis=1)
        values, exact = np.linalg.eigh(adjacency / np.sqrt(np.outer(d, d)))
        assert values[-1] == pytest.approx(1)
        found = leading_vectors(graph.weights, graph.degree, 3, np.random.default_rng(0))[:, 0]
        rayleigh = found @ adjacency @ found / (found @ (d * found))
        assert rayleigh == pytest.approx(values[-2], rel=1e-3)
        np.testing.assert_allclose(found @ d, 0, atol=1e-8 * np.abs(found).max() * d.sum())
        if n == 12:
            exact = exact[:, -2] / np.sqrt(d)
            np.testing.assert_allclose(abs(found @ (d * exact)) / np.sqrt(found @ (d * found)), 1,
                                       rtol=1e-9)


def all_balanced(kind):
    """Every ±1 vector whose sums over the kinds are at most 1 in size."""
    for s in itertools.product([-1.0, 1.0], repeat=len(kind)):
        s = np.array(s)
        if all(abs(s[kind == k].sum()) <= np.sum(kind == k) % 2 for k in (0, 1)):
            yield s


def adjacency_of(M, symmetric):
    if symmetric:
        return M - np.diag(np.diag(M))
    p, q = M.shape
    return np.block([[np.zeros((p, p)), M], [M.T, np.zeros((q, q))]])


def inside_of(adjacency, s):
    return adjacency[np.equal.outer(s, s)].sum() / 2


def ncut_of(adjacency, s):
    cut = adjacency[s > 0][:, s < 0].sum()
    return cut / adjacency[s > 0].sum() + cut / adjacency[s < 0].sum()


TINY = [(4, 4, True), (7, 7, True), (8, 8, True), (4, 6, False), (5, 4, False), (3, 5, False),
        (2, 2, False), (2, 3, False), (2, 2, True), (3, 3, True)]


@pytest.mark.quick(6)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("p, q, symmetric", TINY)
def test_cuts_of_tiny_graphs_are_the_best(p, q, symmetric, sparse):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        W = symmetric_weights(p, seed) if symmetric else rng.exponential(size=(p, q))
        full = adjacency_of(W, symmetric)
        weights = sp.csr_array(W) if sparse else W
        graph = CutGraph(weights, symmetric)
        assert graph.degree == pytest.approx(full.sum(axis=1))
        balanced, free = (SpectralSplit(None, symmetric, Bisection(2, 1, equal, True, 9, rng))
                          for equal in (True, False))
        s = balanced.best(graph)
        best = max(inside_of(full, t) for t in all_balanced(graph.kind))
        assert inside_of(full, s) == pytest.approx(best, rel=1e-12)
        if min(p, q) < 3:
            continue
        s = free.best(graph)
        best = min(ncut_of(full, np.array(t)) for t in itertools.product([-1.0, 1.0],
                                                                         repeat=len(full))
                   if all(0 < np.sum(np.array(t)[graph.kind == k] > 0) < np.sum(graph.kind == k)
                          for k in np.unique(graph.kind)))
        assert ncut_of(full, s) == pytest.approx(best, rel=1e-12)


@given(st.integers(2, 24), st.integers(2, 24), st.booleans(), st.booleans(),
       st.integers(0, 2**31))
@example(14, 17, False, False, 219)  # an exchange of two of 17 columns takes two steps
def test_refinement_only_helps(p, q, symmetric, sparse, seed):
    rng = np.random.default_rng(seed)
    W = symmetric_weights(p, seed, 0.6) if symmetric else (
        rng.exponential(size=(p, q)) * (rng.random((p, q)) < 0.6))
    full = adjacency_of(W, symmetric)
    graph = CutGraph(sp.csr_array(W) if sparse else W, symmetric)
    scores = rng.standard_normal(len(full))
    start, before = graph.split_balanced(scores, 0)
    s, after = graph.split_balanced(scores, 50)
    assert before == pytest.approx(inside_of(full, start))
    assert after == pytest.approx(inside_of(full, s))
    assert after >= before * (1 - 1e-12)
    for k in np.unique(graph.kind):
        assert abs(s[graph.kind == k].sum()) == np.sum(graph.kind == k) % 2
    if not symmetric:  # no step that a pass can begin with raises it further
        excess = np.array([s[graph.kind == k].sum() for k in range(2)])[graph.kind]
        steps = [[i] for i in range(len(full)) if s[i] == excess[i]]  # of an odd number of vertices
        steps += [[i, j] for i, j in itertools.combinations(range(len(full)), 2)
                  if graph.kind[i] == graph.kind[j] and s[i] != s[j] and not excess[i]]
        for step in steps:
            t = s.copy()
            t[step] *= -1
            assert inside_of(full, t) <= after * (1 + 1e-11) + 1e-11

    start, before = graph.split_free(scores, 1, 0)
    s, after = graph.split_free(scores, 1, 50)
    assert (s is None) == (start is None)
    if s is not None:
        assert before == pytest.approx(ncut_of(full, start), rel=1e-9, abs=1e-12)
        assert after == pytest.approx(ncut_of(full, s), rel=1e-9, abs=1e-12)
        assert after <= before * (1 + 1e-9) + 1e-12
        for i in range(len(full)):  # nor does a move lower the cut
            t = s.copy()
            t[i] = -t[i]
            sides = [np.sum((graph.kind == graph.kind[i]) & (t == side)) for side in (1, -1)]
            if min(sides) >= 1 and min(full[t > 0].sum(), full[t < 0].sum()) > 0:
                assert ncut_of(full, t) >= after * (1 - 1e-9) - 1e-12


def test_sweep_takes_the_best_prefix():
    for seed in range(6):
        W = symmetric_weights(9, seed)
        graph = CutGraph(W, True)
        order = np.random.default_rng(seed).permutation(9)
        cuts = {}
        for t in range(2, 8):
            s = np.full(9, -1.0)
            s[order[:t]] = 1
            cuts[t] = ncut_of(W, s)
        found = graph.sweep(order, 2)
        assert ncut_of(W, found) == pytest.approx(min(cuts.values()))


def test_smallest_sides_are_kept():
    A, *_ = planted((3, 40), (2, 30), 0, outside=0.1)
    for min_size in (1, 4, 10, 15):
        rows, cols = partition(A, 2, balanced=False, min_size=min_size)
        assert min(rows.group_sizes(1).min(), cols.group_sizes(1).min()) >= min_size


def test_refinement_of_large_graphs_beats_the_spectral_cut():
    A = gauss_transform(400, 300, random_state=0).A

    def outside(rows, cols):
        return np.sum(A[~np.equal.outer(rows.labels(3), cols.labels(3))] ** 2)

    rough, one, nine = (outside(*partition(A, 4, random_state=0, **options)) for options in (
        {"refine": False}, {"n_starts": 1}, {}))
    assert one < 0.97 * rough and nine <= one


# ---------------------------------------------------------------- order, rank, branching


def test_order_is_kept():
    A = np.random.default_rng(0).standard_normal((64, 48))
    counts = [1, 2, 4, 8]
    found = partition(A, 4, method="order")
    assert found == (Hierarchy.balanced(64, counts), Hierarchy.balanced(48, counts))
    tree, same = partition(A @ A.T, 4, method="order")
    assert tree is same and tree == Hierarchy.balanced(64, counts)
    for tree in partition(A[:37, :11], 4, method="order"):
        for level in range(4):
            assert (np.diff(tree.labels(level)) >= 0).all()
            assert np.ptp(tree.group_sizes(level)) <= 1
    rows, cols = partition(A[:, :43], 3, method="order", min_size=11)  # 22 and 21 columns
    assert rows.group_counts == (1, 2, 3) and list(cols.group_sizes(2)) == [11, 11, 21]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("change", [5, 12, 26])
def test_order_is_cut_where_the_regime_changes(change, form):
    rng = np.random.default_rng(change)
    regime = np.arange(40) >= change
    A = rng.standard_normal((40, 60))
    A[~np.equal.outer(regime, np.arange(60) >= 1.5 * change)] *= 0.1
    rows, cols = partition(form(A), 2, method="order", balanced=False)
    assert same_groups(rows.labels(1), regime)
    assert (np.diff(cols.labels(1)) >= 0).all()
    assert abs(cols.group_sizes(1)[0] - 1.5 * change) <= 1
    S = rng.standard_normal((40, 40)) * np.where(np.equal.outer(regime, regime), 1, 0.1)
    tree, _ = partition(form(S + S.T), 2, method="order", balanced=False)
    assert same_groups(tree.labels(1), regime)
    kept, _ = partition(form(S + S.T), 2, method="order", balanced=False, min_size=15)
    full = adjacency_of((S + S.T) ** 2, True)
    cuts = {t: ncut_of(full, np.where(np.arange(40) < t, 1, -1)) for t in range(15, 26)}
    assert kept.group_sizes(1)[0] == min(cuts, key=cuts.get)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(60, 50), (510, 540)])
def test_groups_under_a_strong_coarse_level(shape, symmetric, dtype):
    A, row_groups, col_groups = planted(*([size // 2] * 2 for size in shape), 0, outside=0.3)
    if symmetric:
        A = A[:, np.argsort(col_groups, kind="stable")][:, : shape[0]]
        A, col_groups = A @ A.T / 8, row_groups
    rng = np.random.default_rng(1)
    B, C = rng.standard_normal((len(A), 3)), rng.standard_normal((A.shape[1], 3))
    above = 20 * (B @ B.T if symmetric else B @ C.T)
    A = (A + above).astype(dtype)
    true = np.concatenate([row_groups, col_groups])

    def wrong(**options):
        rows, cols = partition(A, 2, random_state=0, **options)
        share = np.mean(np.concatenate([rows.labels(1), cols.labels(1)]) != true)
        return min(share, 1 - share)

    assert wrong() > 0.1 and wrong(rank=3) == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (520, 510)])
def test_what_a_rank_leaves(shape):
    rng = np.random.default_rng(0)
    B, C = (rng.standard_normal((side, 6)) for side in shape)
    A = B * np.arange(9, 3, -1) @ C.T + 0.1 * rng.standard_normal(shape)
    for M, symmetric in ((A, False), (A @ A.T, True), (A[:, :9] @ A[:, :9].T - A @ A.T, True)):
        U, s, Vt = np.linalg.svd(M)
        expected = (M - (U[:, :4] * s[:4]) @ Vt[:4]) / abs(M).max()
        for scale in (1, 1e-150):
            left = _left_over(M * scale, 4, symmetric, rng)
            np.testing.assert_allclose(left, expected, atol=1e-9)
            assert not symmetric or (left == left.T).all()


def test_distances_fit_better_below_a_rank():
    A = graph_distances("grid", 128)
    errors = [fit_mlr(A, [10, 1, 1, 1], *partition(A, 4, rank=rank), random_state=0).error
              for rank in (0, 7)]
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.slow
def test_groups_of_four():
    A = gauss_transform(96, 80, random_state=0).A
    trees = partition(A, 5, random_state=0)
    by_four = [Hierarchy(tree.permutation, tree.boundaries[::2]) for tree in trees]
    assert by_four[0].group_counts == by_four[1].group_counts == (1, 4, 16)
    wide, deep = (fit_mlr(A, ranks, *pair, random_state=0, tol=1e-10, max_iter=2000).error
                  for ranks, pair in (([3, 2, 1], by_four), ([3, 0, 2, 0, 1], trees)))
    assert wide == pytest.approx(deep, rel=1e-3)


# ---------------------------------------------------------------- distances, points


@pytest.mark.parametrize("balanced", [True, False])
def test_distances_of_clusters(balanced):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), 15))
    centres = np.array([[0, 0], [0, 4], [20, 0], [20, 4]])
    x = centres[labels] + 0.3 * rng.standard_normal((60, 2))
    for method in ("distance", "linkage"):
        options = {} if method == "linkage" else {"balanced": balanced}
        tree, same = partition(cdist(x, x), 3, method=method, **options)
        assert tree is same and same_groups(tree.labels(2), labels)
        assert same_groups(tree.labels(1), labels // 2)
    y = centres[labels[:30]] + 0.3 * rng.standard_normal((30, 2))
    for rows, cols in (partition(cdist(x, y), 3, method="distance", balanced=balanced),
                       partition_points(x, y, 3, balanced=False)):
        if balanced and rows.group_sizes(1)[0] == 30:
            assert_paired(rows, cols)
        else:
            both = np.concatenate([rows.labels(2), cols.labels(2)])
            assert same_groups(both, np.concatenate([labels, labels[:30]]))


def test_distances_in_a_graph_of_two_components():
    line = graph_distances("small_world", 20, degree=2, rewire=0.0)
    A = np.full((40, 40), np.inf)
    A[::2, ::2] = A[1::2, 1::2] = line
    for balanced in (True, False):
        tree, _ = partition(A, 2, method="distance", balanced=balanced)
        assert same_groups(tree.labels(1), np.arange(40) % 2)


def test_distances_that_are_mostly_zero():
    A = np.ones((8, 8))
    A[np.ix_([0, 2, 4, 6, 7], [0, 2, 4, 6, 7])] = 0
    np.fill_diagonal(A, 0)
    tree, _ = partition(A, 2, method="distance", balanced=False)
    assert set(tree.labels(1)[[0, 2, 4, 6, 7]]) == {0}


def test_closeness_by_its_definition():
    x = np.array([0.0, 1.0, 3.0, 7.0])
    d = np.abs(np.subtract.outer(x, x))
    d[0, 3] = d[3, 0] = np.inf
    apart = [1.0, 3.0, 2.0, 6.0, 4.0]  # the pairs that have a finite distance
    rows = np.arange(4)
    for symmetric, s in ((True, np.median(apart)), (False, np.median([0.0] * 4 + apart * 2))):
        np.testing.assert_allclose(_closeness(d, symmetric)(rows, rows), np.exp(-((d / s) ** 2)))
    block = _closeness(d, False)(rows[:2], rows[2:])
    np.testing.assert_allclose(block, [[np.exp(-1), 0], [np.exp(-4 / 9), np.exp(-4)]])


def test_points_on_a_line():
    x = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 30.0, 31.0])[:, None] * [[3.0, 4.0]]
    p = np.random.default_rng(0).permutation(7)
    tree, same = partition_points(x[p], n_levels=2, balanced=False)
    assert tree is same and same_groups(tree.labels(1), p >= 5)
    tree, _ = partition_points(x[p], n_levels=3)
    assert same_groups(tree.labels(1), p >= 3) or same_groups(tree.labels(1), p >= 4)
    assert np.ptp(tree.group_sizes(2)) <= 1
    rows, cols = partition_points(x[p], x[[6, 0, 5]], 2, balanced=False)
    both = np.concatenate([rows.labels(1), cols.labels(1)])
    assert same_groups(both, np.concatenate([p >= 5, [True, False, True]]))


def test_free_cut_of_points_is_the_best_two_means():
    x = np.random.default_rng(5).standard_normal((30, 1))
    tree, _ = partition_points(x, n_levels=2, balanced=False, min_size=3)
    order = np.argsort(x[:, 0])
    squares = {t: x[order[:t]].var() * t + x[order[t:]].var() * (30 - t) for t in range(3, 28)}
    best = min(squares, key=squares.get)
    assert same_groups(tree.labels(1)[order], np.arange(30) >= best)
