"""Parquet, zarr and HDF5 at the command line: the answers of text files, or a line that helps."""

import csv
import datetime
import re
import sys
from decimal import Decimal

import numpy as np
import pytest

import mlrops
from mlrops.cli.main import main
from mlrops.cli.matrix_file import read_matrix, read_names
from mlrops.cli.parquet_file import ParquetFile, open_table
from mlrops.cli.table_file import Cells, TableFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

N, NAMES = 40, ["ret_a", "ret_b", "ret_c", "ret_d"]
RNG = np.random.default_rng(0)
X = np.round(RNG.standard_normal(N), 6)
Y = np.round(X[:, None] + RNG.standard_normal((N, 4)) @ RNG.standard_normal((4, 4)), 6)
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(t) for t in range(N)]
MATRIX = np.random.default_rng(1).standard_normal((20, 16))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files():
    """A system and its groups, as text and as parquet: one cell of ret_b is missing."""
    columns = {"day": DAYS, "x": X, **dict(zip(NAMES, Y.T, strict=True))}
    columns["ret_b"] = [None if t == 7 else y for t, y in enumerate(Y[:, 1])]
    groups = {"equation": NAMES, "region": ["north", "north", "south", "south"]}
    for name, table in (("data", columns), ("groups", groups)):
        pq.write_table(pa.table(table), f"{name}.parquet")
        with open(f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])


def command(capsys, *args, code=0):
    assert main(list(map(str, args))) == code
    return capsys.readouterr()


def refused(capsys, *args):
    """The one line on stderr of a command that is refused."""
    err = command(capsys, *args, code=2).err
    assert err.count("\n") == 1 and err.startswith(f"mlrops {args[0]}: error: ")
    return err


# ---------------------------------------------------------------- tables


def test_regressions_are_those_of_text(files, capsys):
    found = {}
    for ending in ("csv", "parquet"):
        out = command(capsys, "sur", "--data", f"data.{ending}", "--index-column", "day",
                      "--dependent", "ret_*", "--exog", "x", "--groups", f"groups.{ending}",
                      "--ranks", "1,0", "--save-table", "t.csv").out
        assert "40 rows, 2020-01-01 to 2020-02-09; 4 equations with 39 to 40 of" in out
        with open("t.csv", encoding="utf-8", newline="") as file:
            found[ending] = out.replace(f"data.{ending}", ""), list(csv.reader(file))
    assert found["csv"] == found["parquet"]


def test_numbers_and_text_of_every_type(tmp_path):
    pq.write_table(pa.table({
        "double": [1.5, None, -99.0], "nan": [1.0, float("nan"), 2.0],
        "single": pa.array([0.1, 2, None], pa.float32()),
        "whole": pa.array([1, None, 3], pa.int8()), "yes": [True, None, False],
        "money": [Decimal("1.25"), None, Decimal("3")],
        "words": ["1,5", " n/a", "-99"], "class": pa.array(["a", None, "b"]).dictionary_encode(),
        "infinite": [1.0, float("inf"), 2.0], "when": DAYS[:3], "nothing": [None, None, None],
        "a.b": [1.0, 2.0, 3.0]}), "t.parquet")
    table = open_table("t.parquet", Cells(None, ",", None, ("-99", "inf")))
    assert isinstance(table, ParquetFile) and not isinstance(open_table(plain()), ParquetFile)
    assert len(table.rows) == 3
    for name, expected in {
            "double": [1.5, np.nan, np.nan], "nan": [1, np.nan, 2],
            "single": [np.float32(0.1), 2, np.nan], "whole": [1, np.nan, 3], "yes": [1, np.nan, 0],
            "money": [1.25, np.nan, 3], "words": [1.5, np.nan, np.nan],
            "infinite": [1, np.nan, 2], "a.b": [1, 2, 3]}.items():
        np.testing.assert_array_equal(table.numbers(name), expected, err_msg=name)
        assert table.numbers(name).dtype == np.float64
    assert table.text("class") == ["a", "", "b"] and table.text("nan") == ["1.0", "", "2.0"]
    assert table.text("when") == ["2020-01-01", "2020-01-02", "2020-01-03"]
    pq.write_table(pa.table({"y": [-99.99, 1.0, 2.0]}), "c.parquet")
    table = open_table("c.parquet")
    table.numbers("y")
    assert "y (1 cell of -99.99)" in table.suspicion()


def plain():
    with open("p.csv", "w", encoding="utf-8") as file:
        file.write("y\n1\n")
    return "p.csv"


def test_a_folder_of_parquet_files(files, tmp_path):
    whole = pq.read_table("data.parquet")
    (tmp_path / "parts.parquet").mkdir()
    for k in range(4):
        pq.write_table(whole.slice(10 * k, 10), tmp_path / "parts.parquet" / f"{k}.parquet")
    np.testing.assert_array_equal(open_table("parts.parquet").numbers("ret_c"), Y[:, 2])


def test_columns_are_read_when_they_are_asked_for(files, monkeypatch):
    table, asked = open_table("data.parquet"), []
    monkeypatch.setattr(table, "_data", type("Spy", (), {"to_table": lambda _, columns: (
        asked.append(columns), pq.read_table("data.parquet", columns=columns))[1]})())
    table.numbers("x")
    assert asked == [["x"]]


def test_tables_that_are_refused(files, capsys):
    spec = "--dependent", "y", "--exog", "x"

    def message(columns, *more):
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), "d.parquet")
        return refused(capsys, "sur", "--data", "d.parquet", *spec, *more)

    assert "none.parquet cannot be read: No such file" in refused(
        capsys, "sur", "--data", "none.parquet", *spec)
    with open("text.parquet", "w", encoding="utf-8") as file:
        file.write("x,y\n1,2\n")
    assert "text.parquet is not a table in parquet format" in refused(
        capsys, "sur", "--data", "text.parquet", *spec)
    x = [1.0, 2.0, 3.0]
    assert "has column names but no rows" in message(pa.table({"x": x, "y": x}).slice(0, 0))
    twice = pa.Table.from_arrays([pa.array(x)] * 3, names=["x", "y", "x"])
    assert "not a table in parquet format: Can't unify schema with duplicate" in message(twice)
    assert "has no column y; did you mean Y" in message({"x": x, "Y": x})
    assert "d.parquet, row 2, column y: 'word' is not a finite number" in message(
        {"x": x, "y": ["1", "word", "2"]})
    assert "d.parquet, row 3, column y: 'inf' is not a finite number; give --na-values" in message(
        {"x": x, "y": [1.0, 2.0, np.inf]})
    assert "row 1, column y: '2020-01-01' is not a finite number" in message(
        {"x": x, "y": DAYS[:3]})
    assert "column y has no numbers" in message({"x": x, "y": pa.array([None] * 3, pa.float64())})
    given = "sur", "--data", "data.parquet", "--dependent", "ret_*", "--exog", "x", "--groups"
    pq.write_table(pa.table({"name": [*NAMES, "ret_a"], "g": ["a"] * 5}), "g.parquet")
    assert "g.parquet, row 5: equation ret_a has had a row in row 1" in refused(
        capsys, *given, "g.parquet")
    pq.write_table(pa.table({"name": NAMES, "g": ["a", None, "b", "b"]}), "g.parquet")
    assert "g.parquet, row 2, column g: equation ret_b has no group" in refused(
        capsys, *given, "g.parquet")


# ---------------------------------------------------------------- matrices


def write_zarr(name, A):
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(name, mode="w") if name.endswith("zip") else name
    out = zarr.open(store, mode="w", shape=A.shape, dtype=A.dtype, chunks=(7, 5))
    out[:] = A
    if name.endswith("zip"):
        store.close()


def write_h5(name, A):
    with pytest.importorskip("h5py").File(name, "w") as file:
        file.create_dataset("deep/down", data=A, chunks=(7, 5))


def write_parquet(name, A):
    pq.write_table(pa.table({f"c{j}": column for j, column in enumerate(A.T)}), name)


WRITERS = {"a.zarr": write_zarr, "a.zarr.zip": write_zarr, "a.h5": write_h5, "a.HDF5": write_h5,
           "a.parquet": write_parquet}


@pytest.mark.parametrize("name", WRITERS)
def test_matrices_are_read(name, tmp_path):
    for dtype in (float, np.float32, ">f8", np.int16):
        if dtype == ">f8" and name.endswith("parquet"):
            continue
        A = (10 * MATRIX).astype(dtype)
        folder = tmp_path / np.dtype(dtype).name / np.dtype(dtype).str.replace("<", "")
        folder.mkdir(parents=True)
        WRITERS[name](str(folder / name), A)
        B = read_matrix(str(folder / name))
        assert B.flags.writeable and B.dtype.isnative
        assert B.dtype == (np.float32 if dtype == np.float32 and name != "a.parquet" else float)
        np.testing.assert_array_equal(A, B)


@pytest.mark.parametrize("name", WRITERS)
def test_matrices_are_fitted(name, capsys):
    WRITERS[name](name, MATRIX)
    np.save("a.npy", MATRIX)
    found = {}
    for path in (name, "a.npy"):
        out = command(capsys, "fit", path, "--total-rank", 3, "--start", "bottom", "-o", "o.npz",
                      "--picture", "p.png").out
        assert out.startswith(f"{path}: 20 by 16, dense, float64\n")
        found[path] = mlrops.load("o.npz").toarray()
    np.testing.assert_array_equal(found[name], found["a.npy"])


def test_the_names_of_columns_match_groups(capsys):
    write_parquet("a.parquet", MATRIX[:16] + MATRIX[:16].T)
    assert read_names("a.parquet") == [f"c{j}" for j in range(16)]
    pq.write_table(pa.table({"name": [f"c{j}" for j in range(16)][::-1],
                             "group": [str(j // 8) for j in range(16)][::-1]}), "g.parquet")
    out = command(capsys, "fit", "a.parquet", "--total-rank", 2, "--groups", "g.parquet", "-o",
                  "o.npz", "--start", "bottom", "--picture", "p.png").out
    assert "Tree of g.parquet" in out
    assert mlrops.load("o.npz").rows.labels(1).tolist() == [0] * 8 + [1] * 8


def test_one_array_of_several(capsys):
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    group = zarr.open_group("b.zarr", mode="w")
    with h5py.File("b.h5", "w") as file:
        for where in (group.require_group("deep"), group, file.create_group("deep"), file):
            make = getattr(where, "create_array", None) or where.create_dataset
            make("one" if where in (group, file) else "down", shape=MATRIX.shape,
                 dtype="f8")[:] = MATRIX
    for path in ("b.zarr", "b.h5"):
        given = "fit", path, "--total-rank", 3
        line = refused(capsys, *given)
        assert re.search(r"holds 2 arrays: choose one by --key \((deep/down, one|one, deep/down)\)",
                         line)
        assert f"{path} has no array down; there are" in refused(capsys, *given, "--key", "down")
        np.testing.assert_array_equal(read_matrix(path, "deep/down"), MATRIX)


def test_matrices_that_are_refused(capsys):
    pytest.importorskip("zarr"), pytest.importorskip("h5py")
    given = "--total-rank", 1
    bad = MATRIX.copy()
    bad[3, 2] = np.nan
    for name, write in WRITERS.items():
        assert f"none-{name} cannot be read: No such file" in refused(
            capsys, "fit", f"none-{name}", *given)
        with open(f"text-{name}", "w", encoding="utf-8") as file:
            file.write("text")
        assert re.search(rf"text-{name} (is not a|cannot be read)",
                         refused(capsys, "fit", f"text-{name}", *given))
        write(name, bad)
        assert "NaN or infinity in 1 entry: [3, 2]" in refused(capsys, "fit", name, *given)
    write_zarr("b.zarr", MATRIX.astype(complex))
    assert "complex numbers" in refused(capsys, "fit", "b.zarr", *given)
    pytest.importorskip("h5py").File("b.h5", "w").close()
    assert "b.h5 holds 0 arrays" in refused(capsys, "fit", "b.h5", *given)
    pq.write_table(pa.table({"a": ["x", "y"], "b": [1.0, 2.0]}), "b.parquet")
    assert "row 1, column a: 'x' is not a finite number" in refused(
        capsys, "fit", "b.parquet", *given)
    assert "--key names an array of an .npz, .zarr or .h5 file" in refused(
        capsys, "fit", "b.parquet", *given, "--key", "a")


@pytest.mark.parametrize("package, name", [
    ("zarr", "a.zarr"), ("h5py", "a.h5"), ("pyarrow", "a.parquet")])
def test_without_its_reader_a_command_says_how_to_get_it(package, name, capsys, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    line = (f"{name} is read by {package}, which is not installed: python -m pip install"
            ' "mlrops[disk]"')
    assert line in refused(capsys, "fit", name, "--total-rank", 1)
    if package == "pyarrow":
        assert line in refused(capsys, "sur", "--data", name, "--dependent", "y", "--exog", "x")


def test_text_is_still_read_as_text():
    assert type(open_table(plain())) is TableFile
