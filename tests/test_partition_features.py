"""Trees found from data, how deep partitions go, and what they refuse."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from test_partition import assert_paired, same_groups

from mlrops import Hierarchy, Identity, fit_factor_model
from mlrops.datasets import gauss_transform, simulate_mlr
from mlrops.fitting.feature_partitions import partition_features
from mlrops.fitting.partitions import partition
from mlrops.fitting.point_partitions import partition_points

# ---------------------------------------------------------------- data


def misplaced(found, true):
    share = np.mean(found != true)
    return min(share, 1 - share)


@pytest.mark.quick(3)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ranks", [(2, 5), (0, 8), (5, 5)])
def test_tree_of_a_covariance_is_found(ranks, seed):
    """Two groups below the root, all factors together as much variance as the noise."""
    shuffled = np.random.default_rng(seed).permutation(np.arange(2000) % 2)
    tree = Hierarchy.from_labels(shuffled)
    noise = float(sum(r > 0 for r in ranks))
    data = simulate_mlr(tree, ranks, 200, noise=noise, mean=3.0, random_state=seed)
    signal = data.covariance.diagonal() - data.covariance.D
    assert abs(signal.mean() / data.covariance.D.mean() - 1) < 0.05
    found = partition_features(data.Y, ranks, random_state=seed)
    assert misplaced(found.labels(1), tree.labels(1)) <= 0.01


@pytest.mark.parametrize("n_samples", [60, 500])
def test_unequal_groups_of_features(n_samples):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], [50, 130]))
    data = simulate_mlr(Hierarchy.from_labels(labels), (1, 4), n_samples, noise=0.3,
                        random_state=1)
    found = partition_features(data.Y, (1, 4))
    assert misplaced(found.labels(1), labels) <= 0.02
    assert partition_features((data.Y - 7) * np.geomspace(1e-8, 1e8, 180), (1, 4)) == found
    halves = partition_features(data.Y, (1, 4), balanced=True)
    assert list(halves.group_sizes(1)) == [90, 90]
    kept = partition_features(data.Y, (1, 4), min_size=70)
    assert kept.group_sizes(1).min() >= 70


def test_tree_of_three_levels_fits_like_the_true_one():
    n = 120
    true = Hierarchy(np.random.default_rng(0).permutation(n), [[0, n], [0, n // 2, n],
                                                               [0, 30, 60, 90, n]])
    data = simulate_mlr(true, (1, 2, 3), 300, noise=0.5, random_state=0)
    found = partition_features(data.Y, (1, 2, 3))
    wrong = sum(30 - np.bincount(found.labels(2)[true.labels(2) == g]).max() for g in range(4))
    assert wrong <= 3
    chance = Hierarchy(np.random.default_rng(1).permutation(n), true.boundaries)
    logliks = [fit_factor_model(data.Y, (1, 2, 3), tree, max_iter=30, tol=1e-4).loglik
               for tree in (true, found, chance)]
    assert logliks[1] > logliks[0] - 0.02 * (logliks[0] - logliks[2])


def test_features_permuted():
    data = simulate_mlr(Hierarchy.balanced(90, [1, 2]), (1, 3), 80, noise=0.5, random_state=3)
    p = np.random.default_rng(0).permutation(90)
    a, b = partition_features(data.Y, (1, 3)), partition_features(data.Y[:, p], (1, 3))
    assert same_groups(a.labels(1)[p], b.labels(1))
    float32 = partition_features(data.Y.astype(np.float32), (1, 3))
    assert float32 == a


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1, 3, 10])
def test_strong_common_factors_do_not_hide_groups(strength):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(300) % 2)
        Y = strength * rng.standard_normal((200, 3)) @ rng.standard_normal((3, 300))
        Y += rng.standard_normal((200, 300))
        for g in (0, 1):
            Y[:, labels == g] += rng.standard_normal((200, 3)) @ rng.standard_normal((3, 150))
        found = partition_features(Y, (3, 3), random_state=0)
        assert misplaced(found.labels(1), labels) <= 0.01


def test_no_array_of_features_by_features():
    data = simulate_mlr(Hierarchy.balanced(6000, [1, 2]), (1, 4), 60, noise=0.5, random_state=3)
    tracemalloc.start()
    try:
        found = partition_features(data.Y, (1, 4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert misplaced(found.labels(1), np.arange(6000) >= 3000) <= 0.03
    assert peak < 10 * data.Y.nbytes < 6000**2 * 8 / 9


# ---------------------------------------------------------------- depth and bad input


def test_depth():
    A = gauss_transform(40, 30, random_state=0).A
    rows, cols = partition(A, 6)
    assert_paired(rows, cols)
    assert rows.group_counts[:5] == (1, 2, 4, 8, 16) and 16 < rows.group_counts[5] <= 30
    with pytest.raises(ValueError, match=r"n_levels = 8 is deeper.*no group of level [56] can"):
        partition(A, 8)
    with pytest.raises(ValueError, match=(
            "no group of level 2 can be cut in two to make level 3; its largest, group 0, has"
            " 10 rows and [78] columns, and a cut that leaves min_size = 6 on both sides needs"
            " 12 rows and as many columns. Ask for 3 levels")):
        partition(A, 4, min_size=6)
    tree, _ = partition(np.eye(1), 1)
    assert tree == Hierarchy.flat(1)
    with pytest.raises(ValueError, match="has 1 feature, .* needs 2 features. Ask for 1 level"):
        partition(np.eye(1), 2)


def spoiled(value, shape=(4, 5)):
    A = np.ones(shape)
    A[2, 1] = value
    return A


@pytest.mark.parametrize("call, error, message", [
    (lambda: partition(spoiled(np.nan), 2), ValueError, r"A must be finite.*\(row 2\)"),
    (lambda: partition(spoiled(np.inf), 2), ValueError, "A must be finite"),
    (lambda: partition(sp.csr_array(spoiled(np.nan)), 2), ValueError, "A must be finite"),
    (lambda: partition(np.zeros((4, 5)), 2), ValueError, "4 by 5, is zero everywhere"),
    (lambda: partition(sp.csr_array((4, 5)), 2), ValueError, "zero everywhere"),
    (lambda: partition(np.ones(4), 2), ValueError, "A must be 2-d"),
    (lambda: partition(np.ones((0, 4)), 2), ValueError, r"one row and one column, got \(0, 4\)"),
    (lambda: partition(np.ones((4, 4)) * 1j, 2), TypeError, "must be real"),
    (lambda: partition(Identity(4), 2), TypeError, r"got an operator \(Identity\): pass A.toarray"),
    (lambda: partition(np.ones((4, 5)), 2, symmetric=True), ValueError, r"square.*got \(4, 5\)"),
    (lambda: partition(spoiled(2.5, (4, 4)), 2, symmetric=True), ValueError,
     r"A\[1, 2\] = 1 and A\[2, 1\] = 2.5"),
    (lambda: partition(sp.csr_array(spoiled(2.5, (4, 4))), 2, symmetric=True), ValueError,
     r"A\[1, 2\] = 1 and A\[2, 1\] = 2.5"),
    (lambda: partition(spoiled(np.inf, (4, 4)), 2, symmetric=True, method="distance"), ValueError,
     r"A\[1, 2\] = 1 and A\[2, 1\] = inf"),
    (lambda: partition(np.ones((4, 5)), 0), ValueError, "n_levels must be at least 1, got 0"),
    (lambda: partition(np.ones((4, 5)), 2.0), TypeError, "n_levels must be an integer"),
    (lambda: partition(np.ones((4, 5)), 2, min_size=0), ValueError, "min_size must be at least 1"),
    (lambda: partition(np.ones((4, 5)), 2, n_starts=10), ValueError, "n_starts must lie in 1 to 9"),
    (lambda: partition(np.ones((4, 5)), 2, method="metis"), ValueError,
     "one of 'spectral', 'order', 'distance', 'linkage'; got 'metis'"),
    (lambda: partition(np.eye(5), 2, rank=5), ValueError, "below the smaller side of A, 5, got 5"),
    (lambda: partition(np.eye(5), 2, rank=-1), ValueError, "rank must be non-negative"),
    (lambda: partition(np.eye(5), 2, rank=1.0), TypeError, "rank must be an integer"),
    (lambda: partition(np.outer(np.arange(5), np.arange(1, 7)), 2, rank=1), ValueError,
     "A is of rank 1 up to rounding, so that nothing is left to cut"),
    (lambda: partition(sp.csr_array(spoiled(2.0)), 2, rank=1), TypeError, "takes a dense matrix"),
    (lambda: partition(1 - np.eye(5), 2, rank=1, method="distance"), ValueError,
     "method='distance' reads distances and takes none of their rank away, got rank = 1"),
    (lambda: partition(np.zeros((4, 5)), 2, method="order"), ValueError, "zero everywhere"),
    (lambda: partition(np.ones((4, 5)), 4, method="order"), ValueError, "n_levels = 4 is deeper"),
    (lambda: partition(spoiled(-1.0), 2, method="distance"), ValueError,
     r"must hold distances, not negative and not NaN; got -1.0 in row 2, column 1"),
    (lambda: partition(sp.csr_array(spoiled(2.0)), 2, method="distance"), TypeError,
     "needs all distances: .* pass a dense array"),
    (lambda: partition(np.ones((4, 5)), 2, method="linkage"), ValueError, "symmetric matrix"),
    (lambda: partition(spoiled(np.inf, (4, 4)), 2, method="linkage"), ValueError,
     "must hold finite distances, .* got inf in row 2, column 1"),
    (lambda: partition(1 - np.eye(4), 2, method="linkage", balanced=True), ValueError, "sizes"),
    (lambda: partition(1 - np.eye(5), 4, method="linkage"), ValueError,
     "level 3 would cut 5 features into 8 groups, and group 5 on would be empty. Ask for 3 levels"),
    (lambda: partition_points(np.ones((4, 2)), np.ones((4, 3)), 2), ValueError, "got 2 and 3"),
    (lambda: partition_points(spoiled(np.nan), n_levels=2), ValueError, r"\(point 2\)"),
    (lambda: partition_points(np.ones((4, 2)), n_levels=2, balanced=False), ValueError, "group 0"),
    (lambda: partition_points(np.ones((0, 2))), ValueError, "at least one point"),
    (lambda: partition_features(spoiled(np.nan), (1, 1)), ValueError, "Y must be finite"),
    (lambda: partition_features(np.ones((9, 5)), (1, 1)), ValueError, "constant: 0, 1, 2, 3, 4"),
    (lambda: partition_features(np.eye(9), (1, 0)), ValueError, "groups of level 1 that have no"),
    (lambda: partition_features(np.eye(9), (1, 1, 1, 1)), ValueError, "n_levels = 4 is deeper"),
    (lambda: partition_features(np.ones((1, 5)), (1, 1)), ValueError, "at least two samples"),
    (lambda: partition_features(np.eye(9), (1, -1)), ValueError, r"ranks\[1\] must be non-neg"),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
