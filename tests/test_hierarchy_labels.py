"""Trees from labels: order, types, paths, and every way in which labels can be wrong."""

import pickle

import numpy as np
import pytest

from mlrops.tree.hierarchy import Hierarchy

SECTOR = ["tech", "bank", "tech", "bank", "tech"]
INDUSTRY = ["chips", "retail", "web", "retail", "chips"]


def test_from_labels_sorts_groups_and_keeps_the_order_within():
    h = Hierarchy.from_labels(SECTOR, INDUSTRY)
    assert h.group_counts == (1, 2, 3)
    assert h.permutation.tolist() == [1, 3, 0, 4, 2]
    assert [h.names(level) for level in range(3)] == [
        None,
        ("bank", "tech"),
        ("retail", "chips", "web"),
    ]
    bare = Hierarchy.from_labels(SECTOR, INDUSTRY, root=False)
    assert bare.group_counts == (2, 3) and bare.names(0) == ("bank", "tech")
    assert h._in_tree_order().names(2) == h.names(2)
    assert pickle.loads(pickle.dumps(h)).names(1) == ("bank", "tech")
    assert h == Hierarchy(h.permutation, h.boundaries)  # names do not count


def test_label_types():
    dates = np.array(["2020-01", "2019-05", "2020-01"], dtype="datetime64[M]")
    for labels, names in [
        ([3, 1, 3], (1, 3)),
        (np.array([2.5, 0.5, 2.5]), (0.5, 2.5)),
        (np.array([True, False, True]), (False, True)),
        (np.array(["b", "a", "b"]), ("a", "b")),
        (np.array(["b", "a", "b"], dtype=object), ("a", "b")),
        ((("b", 1), ("a", 2), ("b", 1)), (("a", 2), ("b", 1))),
        (dates, (np.datetime64("2019-05"), np.datetime64("2020-01"))),
        ((c for c in "bab"), ("a", "b")),
        (np.ma.array([3, 1, 3]), (1, 3)),
        ([1, 0.5, 1], (0.5, 1)),
    ]:
        h = Hierarchy.from_labels(labels)
        assert h.names(1) == names
        assert h.labels(1).tolist() == [1, 0, 1]


def test_qualify_reads_labels_as_paths():
    parent, child = ["x", "x", "y", "y"], ["a", "b", "a", "a"]
    with pytest.raises(
        ValueError,
        match=r"label 'a' of level 2 \(labels\[1\]\) stands under two parents of level 1:"
        r" 'x' and 'y'; .* qualify=True",
    ):
        Hierarchy.from_labels(parent, child)
    h = Hierarchy.from_labels(parent, child, qualify=True)
    assert h.names(2) == ("a", "b", "a") and h.labels(2).tolist() == [0, 1, 2, 2]
    with pytest.raises(ValueError, match=r"level 1 \(labels\[1\]\) stands .* parents of level 0"):
        Hierarchy.from_labels(parent, child, root=False)
    with pytest.raises(ValueError, match="and 1 more labels of this level"):
        Hierarchy.from_labels(["x", "x", "y", "y"], ["a", "b", "a", "b"])


def test_labels_given_fine_to_coarse_are_recognised():
    with pytest.raises(ValueError, match="given fine to coarse: pass the coarsest first"):
        Hierarchy.from_labels(INDUSTRY, SECTOR)
    with pytest.raises(ValueError, match="given fine to coarse"):
        Hierarchy.from_labels(range(5), INDUSTRY, SECTOR)
    with pytest.raises(ValueError, match="correct the labels"):
        Hierarchy.from_labels(["x", "x", "y"], ["a", "b", "a"])


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b", "a", None],
        ["a", np.nan, "b", "a", float("nan")],
        np.array([1.0, np.nan, 2.0, 1.0, np.nan]),
        np.array(["2020", "NaT", "2021", "2020", "NaT"], dtype="datetime64[Y]"),
        np.array(["a", None, "b", "a", np.nan], dtype=object),
        np.ma.array([1, 2, 3, 1, 2], mask=[0, 1, 0, 0, 1]),
    ],
)
def test_missing_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels\[1\]: the label is missing .* 2 of 5 .* \(1, 4"):
        Hierarchy.from_labels([1] * 5, labels)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([], ValueError, "one array of labels a level, got none"),
        ([[]], ValueError, "at least one feature"),
        ([["a", "b"], ["a"]], ValueError, r"labels\[0\] has 2 entries, labels\[1\] has 1"),
        (["abc"], TypeError, r"labels\[0\] must be an array with one label for each .* str 'abc'"),
        ([3], TypeError, r"labels\[0\] must be an array .* int 3"),
        ([{}], ValueError, "one array of labels a level, got none"),
        ([{"a": ("x", "y"), "b": "x"}], ValueError, "equally many labels.*a has 2, not so b"),
        ([[["a", "b"], ["c", "d"]]], TypeError, "got a list at feature 0; pass one array a level"),
        ([np.eye(2)], ValueError, r"one-dimensional, got shape \(2, 2\); pass one array a level"),
        ([np.array([1j, 2])], TypeError, "must hold strings, numbers or dates, got dtype compl"),
        ([[1, "a", 2]], TypeError, r"cannot be sorted: int \(such as 1\) and str \(such as 'a'\)"),
    ],
)
def test_from_labels_refuses(labels, error, message):
    with pytest.raises(error, match=message):
        Hierarchy.from_labels(*labels)


def test_pandas_labels():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"sector": SECTOR, "industry": INDUSTRY}, index=list("edcba"))
    h = Hierarchy.from_labels(frame["sector"], frame["industry"])
    assert h == Hierarchy.from_labels(SECTOR, INDUSTRY) and h.names(1) == ("bank", "tech")
    assert Hierarchy.from_labels(pd.Index(SECTOR)) == Hierarchy.from_labels(SECTOR)
    for missing in (None, pd.NA, np.nan):
        labels = pd.Series(["a", missing, "b"])
        with pytest.raises(ValueError, match=r"1 of 3 features \(1\)"):
            Hierarchy.from_labels(labels)
    for labels in (
        ["a", pd.NA, "b"],
        pd.Series(["a", pd.NA, "b"], dtype="string"),
        pd.Series([1, pd.NA, 2], dtype="Int64"),
        pd.Series([pd.Timestamp("2020"), pd.NaT, pd.Timestamp("2021")]),
        [pd.Timestamp("2020"), pd.NaT, pd.Timestamp("2021")],
        pd.Categorical(["a", None, "b"]),
        pd.Series(["a", None, "b"], dtype="category"),
    ):
        with pytest.raises(ValueError, match=r"labels\[0\]: the label is missing .* \(1\)"):
            Hierarchy.from_labels(labels)
    assert Hierarchy.from_labels(frame) == h and h.feature_names == tuple("edcba")


def test_categories_keep_their_order_and_unused_ones_are_dropped():
    pd = pytest.importorskip("pandas")
    sizes = pd.Categorical(
        ["small", "big", "mid", "small"], categories=["small", "none", "mid", "big"]
    )
    for labels in (sizes, pd.Series(sizes), pd.CategoricalIndex(sizes)):
        h = Hierarchy.from_labels(labels)
        assert h.names(1) == ("small", "mid", "big")
        assert h.labels(1).tolist() == [0, 2, 1, 0]
    mixed = pd.Categorical([1, "a", 1], categories=["a", 1])  # the order makes mixed types fine
    assert Hierarchy.from_labels(mixed).names(1) == ("a", 1)


def test_numpy_string_dtype():
    if not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"):
        pytest.skip("NumPy without variable-width strings")
    labels = np.array(["b", "a", "b"], dtype=np.dtypes.StringDType())
    assert Hierarchy.from_labels(labels).names(1) == ("a", "b")
