"""The tree of the features: every way to build one, every mistake by name, its laws."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy as sch

from mlrops.tree.hierarchy import Hierarchy


@st.composite
def trees(draw, max_n=24, max_levels=5):
    """Any tree: unequal groups, groups of one feature, repeated levels, any order of features."""
    n = draw(st.integers(1, max_n))
    inner = draw(st.sets(st.integers(1, n - 1))) if n > 1 else set()
    levels = [sorted({0, n} | inner)]
    for _ in range(draw(st.integers(0, max_levels - 1))):
        kept = [b for b in levels[0][1:-1] if draw(st.booleans())]
        levels.insert(0, [0, *kept, n])
    permutation = draw(st.permutations(range(n)))
    return Hierarchy(permutation, levels)


def group_of(h, level, feature):
    """The group of a feature by the definition: which run of positions holds it."""
    position = list(h.permutation).index(feature)
    offsets = list(h.boundaries[level])
    return next(g for g in range(len(offsets) - 1) if offsets[g] <= position < offsets[g + 1])


# ---------------------------------------------------------------- laws, on random trees


@given(trees())
def test_labels_sizes_and_features_agree_with_the_definition(h):
    for level in range(h.n_levels):
        labels, p = h.labels(level), h.group_counts[level]
        assert [group_of(h, level, i) for i in range(h.n)] == labels.tolist()
        assert np.array_equal(h.group_sizes(level), np.bincount(labels, minlength=p))
        for g in range(p):
            features = h.features(level, g)
            assert sorted(features) == np.flatnonzero(labels == g).tolist()
            assert np.array_equal(features, h.features(level - h.n_levels, g - p))


@given(trees())
def test_paths_hold_the_ancestors_of_every_leaf(h):
    paths = h._paths
    assert paths.dtype == np.int64 and paths.flags.c_contiguous and not paths.flags.writeable
    assert paths.shape == (h.group_counts[-1], h.n_levels)
    assert paths is h._paths
    for leaf in range(h.group_counts[-1]):
        some = h.features(-1, leaf)[0]
        assert paths[leaf].tolist() == [group_of(h, level, some) for level in range(h.n_levels)]


@given(trees(), st.sampled_from([(), (1,), (3,), (2, 2)]), st.sampled_from("CF"))
def test_gather_and_scatter_are_inverse(h, trailing, order):
    x = np.arange(h.n * int(np.prod(trailing, dtype=int)), dtype=np.float32)
    x = np.asarray(x.reshape((h.n, *trailing)), order=order)
    tree = h._gather(x)
    assert np.array_equal(tree, x[h.permutation])
    assert tree.flags.c_contiguous and tree.dtype == x.dtype
    assert np.array_equal(h._scatter(tree), x)
    if h._in_order:
        assert h._scatter(x) is x
        assert h._gather(x) is x or not x.flags.c_contiguous


@given(trees())
def test_tree_order_twin(h):
    twin = h._in_tree_order()
    assert twin._in_order and h._in_order == (h.permutation == np.arange(h.n)).all()
    assert twin is h if h._in_order else h._in_tree_order() is twin
    assert all(map(np.array_equal, twin.boundaries, h.boundaries))
    for level in range(h.n_levels):
        assert np.array_equal(twin.labels(level), h._gather(h.labels(level)))


@given(trees())
def test_labels_rebuild_the_tree(h):
    labels = [h.labels(level) for level in range(h.n_levels)]
    again = Hierarchy.from_labels(*labels, root=False)
    assert again.group_counts == h.group_counts
    for level in range(h.n_levels):
        assert np.array_equal(again.labels(level), labels[level])
        assert again.names(level) == tuple(range(h.group_counts[level]))
    for g in range(h.group_counts[-1]):  # within a leaf: the user's order
        assert np.array_equal(again.features(-1, g), np.sort(h.features(-1, g)))


@given(trees())
def test_equality_hash_copies_and_pickles(h):
    same = Hierarchy(h.permutation.tolist(), [b.tolist() for b in h.boundaries])
    assert same == h and hash(same) == hash(h) and not same != h
    assert copy.copy(h) is h and copy.deepcopy(h) is h
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(h, protocol))
        assert back == h and hash(back) == hash(h)
        assert not back.permutation.flags.writeable
        assert not any(b.flags.writeable for b in back.boundaries)
    assert h != Hierarchy.flat(h.n + 1) and h != "a tree"
    if h.n > 1:
        assert h != Hierarchy(np.roll(h.permutation, 1), h.boundaries)


@given(trees(), st.integers(1, 40))
def test_description_shows_at_most_max_groups_and_counts_the_rest(h, max_groups):
    lines = h.describe(max_groups).splitlines()
    shown = [line for line in lines[1:] if "feature" in line]
    assert 1 <= len(shown) <= max_groups
    hidden = 0
    for line in lines[1:]:
        if "..." in line and "more group" in line:
            hidden += int(line.split("...")[1].split()[0])
    if len(shown) == sum(h.group_counts):
        assert "more" not in h.describe(max_groups)
    else:
        assert "more" in h.describe(max_groups)
        assert hidden <= sum(h.group_counts) - len(shown)
    assert len(h.describe(10**6).splitlines()) == 1 + sum(h.group_counts)


# ---------------------------------------------------------------- the constructor


def test_attributes():
    h = Hierarchy([2, 0, 1, 4, 3], [[0, 5], [0, 1, 5], [0, 1, 3, 5]])
    assert (h.n, h.n_levels, h.group_counts) == (5, 3, (1, 2, 3))
    assert h.permutation.dtype == np.intp and not h.permutation.flags.writeable
    assert isinstance(h.boundaries, tuple)
    assert all(b.dtype == np.intp and not b.flags.writeable for b in h.boundaries)
    assert h.labels(-1).tolist() == [1, 1, 0, 2, 2]
    assert h.names(1) is None
    assert repr(h) == "Hierarchy(n=5, n_levels=3, group_counts=(1, 2, 3))"
    with pytest.raises(AttributeError):
        h.n = 3
    with pytest.raises(ValueError, match="read-only"):
        h.permutation[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        h.features(0, 0)[0] = 1


def test_input_arrays_stay_the_users():
    permutation, offsets = np.array([1, 0]), np.array([0, 1, 2])
    h = Hierarchy(permutation, [offsets])
    permutation[:], offsets[:] = 0, 9
    assert h.permutation.tolist() == [1, 0] and h.boundaries[0].tolist() == [0, 1, 2]


def test_whole_floats_and_small_integers_are_integers():
    h = Hierarchy(np.array([1.0, 0.0]), [np.array([0, 1, 2], dtype=np.uint8)])
    assert h.permutation.dtype == np.intp and h.boundaries[0].dtype == np.intp


FLAT = [[0, 3]]


@pytest.mark.parametrize(
    "permutation, boundaries, error, message",
    [
        ([0, 1, 1], FLAT, ValueError, r"feature 1 is repeated \(positions 1 and 2\), feature 2 "),
        ([0, 1, 3], FLAT, ValueError, "features 0 to 2 once, got 3 at position 2"),
        ([0, -1, 1], FLAT, ValueError, "got -1 at position 1"),
        ([], [[0]], ValueError, "at least one feature"),
        ([0, 1.5, 2], FLAT, ValueError, "permutation must hold integers, got 1.5 at entry 1"),
        ([0, np.nan, 2], FLAT, ValueError, "must hold integers, got nan at entry 1"),
        ([0, np.inf, 2], FLAT, ValueError, "must hold integers, got inf at entry 1"),
        (["0", "1", "2"], FLAT, TypeError, "permutation must hold integers, got dtype <U1"),
        ([True, False, True], FLAT, TypeError, "must hold integers, got dtype bool"),
        ([0, None, 2], FLAT, TypeError, "must hold integers, got dtype object"),
        (None, FLAT, ValueError, "permutation must be one-dimensional"),
        ([[0, 1, 2]], FLAT, ValueError, r"permutation must be one-dimensional, got shape \(1, 3\)"),
        ([[0, 1], 2], FLAT, ValueError, "permutation must be one-dimensional"),
        ([0, 1, 2], [], ValueError, "at least one level, got none"),
        ([0, 1, 2], [0, 3], TypeError, "one array of offsets a level"),
        ([0, 1, 2], np.array([0, 3]), TypeError, "one array of offsets a level"),
        ([0, 1, 2], 3, TypeError, "one array of offsets a level"),
        ([0, 1, 2], [[0, 3], []], ValueError, r"boundaries\[1\] must run from 0 to n = 3 .* no "),
        ([0, 1, 2], [[1, 3]], ValueError, r"boundaries\[0\] must run from 0 to n = 3.*got 1 to 3"),
        ([0, 1, 2], [[0, 3], [0, 2]], ValueError, r"boundaries\[1\] must run from 0 .*got 0 to 2"),
        ([0, 1, 2], [[0, 4]], ValueError, "got 0 to 4"),
        ([0, 1, 2], [[0, np.nan, 3]], ValueError, r"boundaries\[0\] must hold integers, got nan"),
        ([0, 1, 2], [[0, 1.5, 3]], ValueError, r"boundaries\[0\] must hold integers, got 1.5"),
        ([0, 1, 2], [["a", "b"]], TypeError, r"boundaries\[0\] must hold integers, got dtype <U1"),
        ([0, 1, 2], [[[0, 3]]], ValueError, r"boundaries\[0\] must be one-dimensional"),
        ([0, 1, 2], [[0, 3], [0, 1, 1, 3]], ValueError, "group 1 of level 1 is empty"),
        ([0, 1, 2], [[0, 2, 1, 3]], ValueError, "group 1 of level 0 ends before it begins"),
        (
            range(6),
            [[0, 6], [0, 2, 6], [0, 1, 3, 6]],
            ValueError,
            r"level 2 does not nest in level 1: its group 1 \(offsets 1 to 3\) crosses the boundary"
            " 2 between groups 0 and 1 of level 1",
        ),
        (range(6), [[0, 1, 2, 6], [0, 2, 6], [0, 6]], ValueError, r"fine to coarse.*\[::-1\]"),
    ],
)
def test_the_constructor_refuses(permutation, boundaries, error, message):
    with pytest.raises(error, match=message):
        Hierarchy(permutation, boundaries)


@given(trees(max_levels=4))
def test_reversed_levels_are_always_recognised(h):
    if len(set(h.group_counts)) > 1:
        with pytest.raises(ValueError, match="fine to coarse"):
            Hierarchy(h.permutation, h.boundaries[::-1])


@given(trees())
def test_reversed_labels_are_always_recognised(h):
    if len(set(h.group_counts)) > 1:
        with pytest.raises(ValueError, match="fine to coarse"):
            Hierarchy.from_labels(*[h.labels(level) for level in range(h.n_levels)][::-1])


def test_levels_and_groups_out_of_range():
    h = Hierarchy.balanced(6, [1, 3])
    for method in (h.labels, h.group_sizes, h.names, lambda level: h.features(level, 0)):
        for level in (2, -3):
            with pytest.raises(IndexError, match=f"level {level} is out of range: .* has 2 levels"):
                method(level)
        with pytest.raises(TypeError, match="level must be an integer, got 'sector'"):
            method("sector")
    for group in (3, -4):
        with pytest.raises(IndexError, match=f"group {group} is out of range: level -1 has 3 gr"):
            h.features(-1, group)
    assert h.features(1, -1).tolist() == [4, 5]


# ---------------------------------------------------------------- the other constructors


def test_from_boundaries():
    h = Hierarchy.from_boundaries([[0, 4], [0, 1, 4]])
    assert h._in_order and h.group_counts == (1, 2)
    permuted = Hierarchy.from_boundaries([[0, 4], [0, 1, 4]], permutation=[3, 2, 1, 0])
    assert permuted == Hierarchy([3, 2, 1, 0], [[0, 4], [0, 1, 4]])
    for boundaries in ([], [[]], [[0]], [[0, 3], [0, 4]], 7, [[0, -2]]):
        with pytest.raises((ValueError, TypeError)):
            Hierarchy.from_boundaries(boundaries)


def test_flat():
    h = Hierarchy.flat(np.int64(7))
    assert h == Hierarchy(range(7), [[0, 7]]) and type(h.n) is int
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"at least one feature, got n = {n}"):
            Hierarchy.flat(n)
    with pytest.raises(TypeError, match="n must be an integer, got 2.0"):
        Hierarchy.flat(2.0)


@given(st.integers(1, 3000), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_balanced_splits_nearly_evenly_and_nests(n, factors):
    counts = [int(p) for p in np.cumprod(factors) if p <= n] or [1]
    h = Hierarchy.balanced(n, counts)
    assert h == Hierarchy(range(n), h.boundaries)  # the checks of the constructor hold
    assert h.group_counts == tuple(counts)
    for level in range(h.n_levels):
        assert np.ptp(h.group_sizes(level)) <= 1


@pytest.mark.parametrize(
    "counts, error, message",
    [
        ([2, 3], ValueError, "2 groups of level 0 cannot be split evenly into 3 groups of level 1"),
        ([1, 4, 2], ValueError, "must not decrease .* got 2 groups at level 2 after 4 at level 1$"),
        ([4, 2, 1], ValueError, "given fine to coarse: pass the coarsest level first"),
        ([1, 11], ValueError, r"group_counts\[1\] must lie between 1 and .* features, 10; got 11"),
        ([0, 2], ValueError, r"group_counts\[0\] must lie between 1 and"),
        ([], ValueError, "at least one level"),
        ([1, 2.0], TypeError, r"group_counts\[1\] must be an integer, got 2.0"),
        ([True, 2], TypeError, r"group_counts\[0\] must be an integer, got True"),
        (4, TypeError, "sequence with one number a level, got 4"),
    ],
)
def test_group_counts_are_checked(counts, error, message):
    with pytest.raises(error, match=message):
        Hierarchy.balanced(10, counts)


@settings(max_examples=40)
@given(
    st.integers(2, 30),
    st.sampled_from(["single", "complete", "average", "centroid", "median", "ward"]),
    st.integers(0, 10**6),
    st.data(),
)
def test_from_linkage_cuts_in_merge_order(n, method, seed, data):
    Z = sch.linkage(np.random.default_rng(seed).standard_normal((n, 2)), method)
    counts = sorted(data.draw(st.lists(st.integers(1, n), min_size=1, max_size=4)))
    h = Hierarchy.from_linkage(Z, counts)
    assert h == Hierarchy(h.permutation, h.boundaries)  # a permutation, and the levels nest
    assert h.group_counts == tuple(counts)
    assert np.array_equal(h.permutation, sch.leaves_list(Z))
    for level, p in enumerate(counts):
        clusters = [{i} for i in range(n)]
        for left, right in Z[: n - p, :2].astype(int):
            clusters.append(clusters[left] | clusters[right])
            clusters[left] = clusters[right] = set()
        found = {frozenset(h.features(level, g).tolist()) for g in range(p)}
        assert found == {frozenset(c) for c in clusters if c}


def test_from_linkage_of_a_long_chain():
    n = 20_000
    merges = np.arange(n - 1.0)
    Z = np.column_stack([np.r_[0, n + merges[:-1]], merges + 1, merges + 1, merges + 2])
    h = Hierarchy.from_linkage(Z, [1, 2, 5000])
    assert h._in_order and h.group_sizes(1).tolist() == [n - 1, 1]


GOOD = np.array([[0, 1, 0.5, 2], [2, 3, 0.7, 3.0]])


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({(0, 0): 0.5}, ValueError, "merge 0 must have two whole cluster numbers"),
        ({(0, 0): np.nan}, ValueError, "merge 0 must have two whole cluster numbers"),
        ({(0, 1): 4}, ValueError, "merge 0 must have clusters that exist by then"),
        ({(1, 1): 4}, ValueError, "merge 1 must have clusters that exist by then"),
        ({(0, 1): -1}, ValueError, "merge 0 must have clusters that exist by then"),
        ({(1, 2): np.nan}, ValueError, "merge 1 must have a height"),
        ({(0, 2): -0.1}, ValueError, "merge 0 must have a height"),
        ({(1, 1): 1}, ValueError, r"cluster 1 is merged twice, in rows \[0, 1\]"),
        ({(1, 3): 4}, ValueError, "merge 1 says it holds 4 features, its clusters hold 3"),
    ],
)
def test_linkages_are_checked(change, error, message):
    assert Hierarchy.from_linkage(GOOD, [1, 3]).group_counts == (1, 3)
    Z = GOOD.copy()
    for at, value in change.items():
        Z[at] = value
    with pytest.raises(error, match=message):
        Hierarchy.from_linkage(Z, [1, 2])


def test_linkages_of_the_wrong_shape_or_with_wrong_counts():
    with pytest.raises(ValueError, match=r"shape \(n - 1, 4\) .* got \(3, 3\)"):
        Hierarchy.from_linkage(np.eye(3), [1])
    with pytest.raises(TypeError, match="numeric linkage array, got dtype <U1"):
        Hierarchy.from_linkage([["a"] * 4], [1])
    with pytest.raises(ValueError, match=r"group_counts\[1\] must lie between 1 and .* 3; got 4"):
        Hierarchy.from_linkage(GOOD, [1, 4])
    with pytest.raises(ValueError, match="given fine to coarse"):
        Hierarchy.from_linkage(GOOD, [3, 1])


# ---------------------------------------------------------------- text, and size


def test_describe_a_small_tree_in_full():
    family = ["value"] * 3 + ["momentum"] * 3
    group = ["v1", "v1", "v2", "m1", "m2", "m2"]
    assert Hierarchy.from_labels(family, group).describe() == "\n".join([
        "Hierarchy of 6 features, groups by level: 1, 2, 4",
        "└─ all: 6 features in 2 groups",
        "   ├─ momentum: 3 features in 2 groups",
        "   │  ├─ m1: 1 feature",
        "   │  └─ m2: 2 features",
        "   └─ value: 3 features in 2 groups",
        "      ├─ v1: 2 features",
        "      └─ v2: 1 feature",
    ])


def test_describe_refuses_a_useless_size():
    with pytest.raises(ValueError, match="max_groups must be at least 1, got 0"):
        Hierarchy.flat(3).describe(0)
    with pytest.raises(TypeError, match="max_groups must be an integer"):
        Hierarchy.flat(3).describe("all")


@pytest.mark.slow
def test_a_million_features_take_a_moment():
    n = 10**6
    rng = np.random.default_rng(0)
    leaf = rng.integers(0, 10**5, n)
    h = Hierarchy.from_labels(leaf // 1000, leaf)
    h._paths, h._position, h.labels(-1)
    text = h.describe()
    assert len(text.splitlines()) < 30 and "more" in text
    assert h == Hierarchy(h.permutation, h.boundaries)
