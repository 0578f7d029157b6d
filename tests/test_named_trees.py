"""Names of features in a `Hierarchy`: where they come from, what they are matched to."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest

import mlrops
from mlrops import MLR, SUR, Hierarchy, allocate_ranks, fit_mlr, partition, partition_points
from mlrops.__main__ import main
from mlrops.tree.reading import read_hierarchy

NAMES = ("d", "a", "c", "b")
SECTOR = pd.Series(["x", "y", "x", "y"], NAMES)
INDUSTRY = pd.Series(["p", "q", "r", "s"], NAMES)
H = Hierarchy.from_labels(SECTOR, INDUSTRY)


def groups(h):
    return [{name: h.names(level)[g] for name, g in zip(h.feature_names, h.labels(level),
                                                        strict=True)} for level in (1, 2)]


# ---------------------------------------------------------------- made from labels


@pytest.mark.parametrize("labels", [
    (SECTOR, INDUSTRY), (SECTOR, INDUSTRY[::-1]), (SECTOR, dict(INDUSTRY[::-1])),
    (SECTOR, INDUSTRY.to_numpy()), (SECTOR, list(INDUSTRY)), (dict(SECTOR), INDUSTRY[::-1]),
    (pd.DataFrame({"s": SECTOR, "i": INDUSTRY}),), (SECTOR, INDUSTRY.to_frame()),
    (SECTOR.astype("category"), INDUSTRY[["a", "b", "c", "d"]].astype("category")),
    ({name: (SECTOR[name], INDUSTRY[name]) for name in NAMES},),
], ids=lambda x: "+".join(type(y).__name__ for y in x))
def test_levels_are_matched_to_the_first_that_has_names(labels):
    h = Hierarchy.from_labels(*labels)
    assert h == H and h.feature_names == NAMES
    assert groups(h) == [dict(SECTOR), dict(INDUSTRY)]


def test_order_of_categories_and_of_names():
    sizes = pd.Series(pd.Categorical(["s", "l", "s", "l"], ["s", "m", "l"]), NAMES)
    h = Hierarchy.from_labels(SECTOR, sizes[["a", "b", "c", "d"]].map({"s": "x", "l": "y"}))
    assert h.feature_names == NAMES
    assert Hierarchy.from_labels(SECTOR[::-1], sizes).names(2) == ("s", "l")


@pytest.mark.parametrize("labels", [
    pd.Series(list("xyxy")), pd.Series(list("yxyx"), index=[3, 2, 1, 0]), list("xyxy"),
    {1: "y", 0: "x", 3: "y", 2: "x"}, pl.Series(list("xyxy")), pl.DataFrame({"s": list("xyxy")}),
    pd.Series(list("xyxy"), index=np.arange(4, dtype=np.int32))])
def test_numbers_of_features_are_no_names(labels):
    h = Hierarchy.from_labels(labels)
    assert h.feature_names is None and h.labels(1).tolist() == [0, 1, 0, 1]
    assert "features" not in repr(h)


def test_other_numbers_are_names():
    h = Hierarchy.from_labels(pd.Series(list("xy"), index=[10001, 7]))
    assert h.feature_names == ("10001", "7")


@pytest.mark.parametrize("labels, message", [
    ((SECTOR, INDUSTRY.rename({"a": "z"})), r"labels\[1\] .* 1 feature \(a\), and 1 label .*\(z\)"),
    ((SECTOR, INDUSTRY[:3]), r"labels\[1\] .* none for 1 feature \(b\)"),
    ((SECTOR, pd.concat([INDUSTRY, INDUSTRY[:1]])), r"labels\[1\] .* got d more than once"),
    ((SECTOR.rename({"a": "d"}),), "features must have different names, got d more than once"),
    ((SECTOR, list("xyz")), r"labels\[0\] has 4 entries, labels\[1\] has 3"),
    ((SECTOR.mask(SECTOR.index == "c"),), r"1 of 4 features \(c\)"),
    (({"a": ("x", "p"), "b": ("y",)},), "equally many labels for every feature.*not so b"),
    ((pd.Series(list("xyxy")), INDUSTRY), "the data have none to match them to"),
])
def test_levels_that_do_not_fit_each_other(labels, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_labels(*labels)


# ---------------------------------------------------------------- kept


def test_names_survive(tmp_path):
    for same in (copy.copy(H), copy.deepcopy(H), pickle.loads(pickle.dumps(H))):
        assert same == H and same.feature_names == NAMES
    mlrops.save(tmp_path / "h.npz", H)
    again = mlrops.load(tmp_path / "h.npz")
    assert again == H and again.feature_names == NAMES and groups(again) == groups(H)
    assert repr(H) == ("Hierarchy(n=4, n_levels=3, group_counts=(1, 2, 4), features d, a, c and 1"
                       " more)")


def test_names_do_not_count_in_comparisons():
    plain = Hierarchy.from_labels(list(SECTOR), list(INDUSTRY))
    assert plain == H and hash(plain) == hash(H) and plain.feature_names is None
    a, b = (MLR(h, [np.ones((4, 1))] * 3, np.ones(4)) for h in (plain, H))
    assert type(a + b) is MLR


def test_parts_of_a_tree_keep_their_names():
    assert H._in_tree_order().feature_names == ("d", "c", "a", "b")
    A = MLR(H, [np.ones((4, 1))] * 3, np.ones(4))
    assert A.restrict([3, 0]).hierarchy.feature_names == ("b", "d")
    assert A.to_general().rows.feature_names == NAMES
    assert (A + A).hierarchy.feature_names == NAMES


def test_factors_and_D_of_a_matrix_are_matched_to_a_tree_with_names():
    rng = np.random.default_rng(0)
    F, D = pd.DataFrame(rng.standard_normal((4, 3)), NAMES), pd.Series([1.0, 2, 3, 4], NAMES)
    A = MLR.from_compact(H, (1, 1, 1), F.to_numpy(), D.to_numpy())
    for B in (MLR.from_compact(H, (1, 1, 1), F[::-1], D[::-1]),
              MLR(H, [F[[j]][::-1] for j in range(3)], dict(D[::-1]))):
        np.testing.assert_array_equal(B.toarray(), A.toarray())
    with pytest.raises(ValueError, match=r"D must have .* \(z\)"):
        MLR.from_compact(H, (1, 1, 1), F, D.rename({"a": "z"}))


# ---------------------------------------------------------------- read beside data


@pytest.mark.parametrize("given", [
    H, dict(zip(NAMES, zip(SECTOR, INDUSTRY, strict=True), strict=True)),
    pd.DataFrame({"s": SECTOR, "i": INDUSTRY}), [SECTOR, INDUSTRY[::-1]],
    [dict(SECTOR), INDUSTRY], pd.DataFrame({"s": SECTOR, "i": INDUSTRY}).astype("category")])
def test_a_hierarchy_is_put_in_the_order_of_the_data(given):
    order = ("a", "b", "c", "d")
    h = read_hierarchy(given, order)
    assert h.feature_names == order
    assert groups(h) == [dict(SECTOR[list(order)]), dict(INDUSTRY[list(order)])]


def test_a_table_may_speak_of_more_a_hierarchy_may_not():
    table = pd.concat([SECTOR, pd.Series({"z": "x"})])
    assert read_hierarchy(table, NAMES) == Hierarchy.from_labels(SECTOR)
    with pytest.raises(ValueError, match=r"1 feature that the data lack \(z\): give its labels"):
        read_hierarchy(Hierarchy.from_labels(table), NAMES)


@pytest.mark.parametrize("given, names, message", [
    (SECTOR, (*NAMES, "e"), r"none for 1 feature \(e\)"),
    (H, ("a", "b", "c", "e"), r"none for 1 feature \(e\), and 1 label .* \(d\)"),
    (SECTOR, None, r"hierarchy has labels \(d, a, c, b\), the data have none"),
    ({4: "x", 0: "x", 1: "y", 2: "y"}, None, r"hierarchy has labels \(4\)"),
    (SECTOR.mask(SECTOR.index == "c"), NAMES, r"no label for 1 feature \(c\)"),
    (SECTOR, ("a", "a", "b", "c"), "more than one feature of the data is called a"),
    (list("xyz"), NAMES, "level 1 has 3 labels for 4 features"),
])
def test_hierarchies_that_do_not_fit_the_data(given, names, message):
    with pytest.raises(ValueError, match=message):
        read_hierarchy(given, names, 4)


@pytest.mark.parametrize("given", ["x", {"x", "y"}, 3, Hierarchy.flat, MLR])
def test_what_is_no_hierarchy(given):
    with pytest.raises(TypeError, match="hierarchy must be a Hierarchy or labels of the features"):
        read_hierarchy(given, NAMES)


def test_equations_of_a_system():
    rng = np.random.default_rng(0)
    equations = {name: (rng.standard_normal(40), rng.standard_normal((40, 1))) for name in "abcd"}
    fit = SUR(equations).fit((1, 0), Hierarchy.from_labels(SECTOR))
    assert fit.covariance.hierarchy == Hierarchy.from_labels(list("yyxx"))
    with pytest.raises(ValueError, match=r"none for 1 equation \(a\)"):
        SUR(equations).fit((1, 0), Hierarchy.from_labels(SECTOR.rename({"a": "z"})))


# ---------------------------------------------------------------- matrices with names


KERNEL = pd.DataFrame(np.exp(-np.abs(np.subtract.outer(*[np.arange(4.0)] * 2))), NAMES, NAMES)


def test_trees_found_have_the_names_of_the_matrix():
    rows, cols = partition(KERNEL, 2)
    assert rows is cols and rows.feature_names == NAMES
    tall = pd.DataFrame(np.random.default_rng(0).standard_normal((6, 4)), list("uvwxyz"), NAMES)
    rows, cols = partition(tall, 2)
    assert rows.feature_names == tuple("uvwxyz") and cols.feature_names == NAMES
    rows, cols = partition_points(pd.DataFrame({"x": [0.0, 1, 5, 6]}, NAMES), n_levels=2)
    assert rows is cols and rows.feature_names == NAMES


def test_rows_of_a_matrix_with_other_names():
    with pytest.raises(ValueError, match=r"rows of A .* none for 1 column \(d\).* \(z\)"):
        fit_mlr(KERNEL.rename(index={"d": "z"}), (1, 0), Hierarchy.balanced(4, [1, 2]))
    with pytest.raises(ValueError, match="tree of the columns, too, must have the labels"):
        allocate_ranks(KERNEL.set_axis(list("stuv"), axis=1), 1, SECTOR)
    two = allocate_ranks(KERNEL.set_axis(list("stuv"), axis=1), 1, SECTOR, dict(zip(
        "stuv", SECTOR, strict=True)), symmetric=False, random_state=0)
    assert two.operator.cols.feature_names == tuple("stuv")


def test_starts_of_other_names():
    first = fit_mlr(KERNEL, (1, 0), SECTOR, max_iter=2)
    assert fit_mlr(KERNEL, (1, 0), SECTOR, init=first.operator).error <= first.error * (1 + 1e-12)
    with pytest.raises(ValueError, match="init must have the rows of A in their order, got d in"):
        fit_mlr(KERNEL.iloc[::-1, ::-1], (1, 0), SECTOR, init=first.operator)


@pytest.mark.slow
def test_groups_on_the_command_line_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    KERNEL.to_csv("k.csv", index=False)
    for lines, order in ((SECTOR, NAMES), (SECTOR[::-1], NAMES)):
        lines.rename_axis("name").rename("sector").to_csv("g.csv")
        assert main(["fit", "k.csv", "--total-rank", "2", "--groups", "g.csv", "-o", "o.npz"]) == 0
        found = mlrops.load("o.npz").rows
        assert found.feature_names == order
        assert found.labels(1).tolist() == [0, 1, 0, 1]
    capsys.readouterr()
    SECTOR.rename({"a": "z"}).rename_axis("name").rename("sector").to_csv("g.csv")
    assert main(["fit", "k.csv", "--total-rank", "2", "--groups", "g.csv"]) == 2
    assert "no row for 1 of 4 columns (a)" in capsys.readouterr().err
