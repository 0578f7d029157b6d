"""``python -m mlrops``: the commands as a user runs them, their tables and their refusals."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops import SUR
from mlrops.__main__ import main
from mlrops.cli.table_file import TableFile
from mlrops.datasets import load_french, simulate_sur
from mlrops.tree.hierarchy import Hierarchy

GROUPS = ["north", "north", "north", "south", "south", "south"]
NAMES = [f"ret_{letter}" for letter in "abcdef"]


def run(*args, code=0, before=""):
    """Output and errors of ``python -m mlrops`` in a process of its own."""
    start = f"import sys; {before}; from mlrops.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, *(["-c", start] if before else ["-m", "mlrops"]), *map(str, args)]
    root = str(Path(mlrops.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONPATH": root, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def refused(capsys, *args):
    """The one line on stderr of a command that is refused."""
    assert main(["sur", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("mlrops sur: error: ")
    return captured.err


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for pictures without --output


@pytest.fixture(scope="module")
def system():
    """Sixty rows of six equations with two regressors x, z in common, by columns."""
    rng = np.random.default_rng(0)
    h = Hierarchy.from_labels(GROUPS)
    sim = simulate_sur(6, 2, ranks=(1, 1), hierarchy=h, n_samples=60, random_state=0)
    X = rng.standard_normal((60, 2))
    Y = X @ rng.standard_normal((2, 6)) + sim.Y
    return np.round(X, 6), np.round(Y, 6)


@pytest.fixture
def files(tmp_path, system):
    """The file of the system, a file of groups, and three cells that are missing in ret_b."""
    X, Y = system
    cells = [[f"19{40 + t}", *X[t], *Y[t]] for t in range(60)]
    for t, text in zip((3, 10, 20), ("", "NA", " nan "), strict=True):
        cells[t][4] = text
    data = write(tmp_path / "data.csv", [["year", "x", "z", *NAMES], *cells])
    groups = write(tmp_path / "groups.csv",
                   [["equation", "region"], ["other", "east"],
                    *zip(reversed(NAMES), reversed(GROUPS), strict=True)])
    return data, groups


@pytest.fixture
def fit(system):
    """What the command should find in `files`."""
    X, Y = system[0], system[1].copy()
    Y[[3, 10, 20], 1] = np.nan
    X = np.column_stack([np.ones(60), X])
    model = SUR({name: (y, X) for name, y in zip(NAMES, Y.T, strict=True)})
    return model.fit((1, 1), Hierarchy.from_labels(GROUPS)), model.fit(0)


# ---------------------------------------------------------------- the user's own file


def test_a_file_of_data_and_a_file_of_groups(files, fit, tmp_path):
    data, groups = files
    picture, saved = tmp_path / "out.png", tmp_path / "out.csv"
    out, err = run("sur", "--data", data, "--index-column", "year", "--dependent", "ret_*",
                   "--exog", "x,z", "--groups", groups, "--ranks", "1,1", "-o", picture,
                   "--save-table", saved)
    assert "the same X" not in out  # one of them lacks rows
    assert "60 rows, 1940 to 1999; 6 equations with 57 to 60 of these rows." in out
    assert "Seemingly unrelated regressions" in out and "Missing cells: 3 of 360." in out
    assert max(map(len, out.replace(str(data), "").splitlines())) <= 100
    assert "Traceback" not in err
    assert picture.read_bytes().startswith(b"\x89PNG")
    sur, ols = fit
    rows = list(csv.DictReader(open(saved, encoding="utf-8")))
    assert [(row["equation"], row["regressor"]) for row in rows] == [
        (name, x) for name in NAMES for x in ("const", "x", "z")]
    for column, expected in (
            ("coef", sur.params), ("std_err", sur.bse), ("t", sur.tvalues), ("p", sur.pvalues),
            ("lower", sur.conf_int()["lower"]), ("upper", sur.conf_int()["upper"]),
            ("ols_coef", ols.params), ("ols_std_err", ols.bse)):
        np.testing.assert_allclose([float(row[column]) for row in rows], np.asarray(expected),
                                   rtol=1e-7, atol=1e-12)
    # The table of both fits, in the numbers that it prints.
    for (name, regressor), b, se, b0, se0 in zip(sur.params.index, sur.params, sur.bse,
                                                 ols.params, ols.bse, strict=True):
        regressor = ["const", "x", "z"][int(regressor[1:])]
        cells = [*(f"{x:.4f}" for x in (b0, se0, b, se)), f"{100 * (se / se0 - 1) + 0.0:+.1f}%"]
        line = " +".join(map(re.escape, [regressor, *cells]))
        assert re.search(rf"^(?:{name})? +{line}$", out, re.MULTILINE), (name, cells)


@pytest.mark.slow
def test_without_matplotlib_the_numbers_are_the_same(files, tmp_path):
    data, groups = files
    args = ("sur", "--data", data, "--dependent", "ret_*", "--exog", "x,z", "--groups", groups,
            "--ranks", "bic", "-o", tmp_path / "none.png")
    with_both, _ = run(*args)
    without, _ = run(*args, before="sys.modules['matplotlib'] = None")
    assert "No picture" in without and "pip install matplotlib" in without
    assert without[: without.index("No picture")] == with_both[: with_both.index("Picture written")]
    assert re.search(r"Ranks \(\d, \d\) are best by bic of \d+ candidates\.", without)


def test_without_pandas_a_command_says_how_to_get_it(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert 'pip install "mlrops[pandas]"' in refused(
        capsys, "--data", files[0], "--dependent", "ret_*", "--exog", "x")


def test_equations_with_regressors_of_their_own(files, system, capsys, tmp_path):
    saved = tmp_path / "table.csv"
    assert main(["sur", "--data", str(files[0]), "--dependent", "ret_a,ret_c", "--exog", "x",
                 "--equation", "ret_c ~ 1 + slope=z", "--equation", "ret_d ~ slope=x", "--ranks",
                 "1", "-o", str(tmp_path / "p.png"), "--save-table", str(saved)]) == 0
    rows = list(csv.DictReader(open(saved, encoding="utf-8")))
    assert [(row["equation"], row["regressor"]) for row in rows] == [
        ("ret_a", "const"), ("ret_a", "x"), ("ret_c", "const"), ("ret_c", "slope"),
        ("ret_d", "const"), ("ret_d", "slope")]
    X, Y = system
    one = np.ones(60)
    fit = SUR({"a": (Y[:, 0], np.column_stack([one, X[:, 0]])),
               "c": (Y[:, 2], np.column_stack([one, X[:, 1]])),
               "d": (Y[:, 3], np.column_stack([one, X[:, 0]]))}).fit(1)
    np.testing.assert_allclose([float(row["coef"]) for row in rows], np.asarray(fit.params),
                               rtol=1e-6)


@pytest.mark.parametrize("kind, how, options", [
    ("robust", [], {}),
    ("hac", [], {}),
    ("clustered", ["--clusters", "year"], {"clusters": np.arange(60) % 3}),
])
def test_kinds_of_standard_errors(tmp_path, system, capsys, kind, how, options):
    X, Y = system
    Y = Y.copy()
    Y[5] = np.nan  # a row without any equation is left out of the clusters too
    data = write(tmp_path / "d.csv", [["year", "x", *NAMES[:2]], *(
        [t % 3, X[t, 0], *("" if np.isnan(y) else y for y in Y[t, :2])] for t in range(60))])
    assert main(["sur", "--data", str(data), "--dependent", "ret_*", "--exog", "x", "--no-const",
                 "--ranks", "1", "--cov-type", kind, *how, "-o", str(tmp_path / "p.png"),
                 "--save-table", str(tmp_path / "t.csv")]) == 0
    if options:
        options = {"clusters": np.delete(options["clusters"], 5)}
    fit = SUR({str(j): (Y[:, j], X[:, :1]) for j in range(2)}).fit(1).with_cov(kind, **options)
    rows = list(csv.DictReader(open(tmp_path / "t.csv", encoding="utf-8")))
    np.testing.assert_allclose([float(row["std_err"]) for row in rows], np.asarray(fit.bse),
                               rtol=1e-6)
    assert kind in capsys.readouterr().out


def test_many_equations_are_described_by_regressor(tmp_path, capsys):
    rng = np.random.default_rng(0)
    K, x = 30, rng.standard_normal((40, 1))
    Y = 2 * x + np.arange(K) + rng.standard_normal((40, K)) + rng.standard_normal((40, 1))
    data = write(tmp_path / "d.csv", [["x", *(f"y{j}" for j in range(K))], *np.hstack([x, Y])])
    assert main(["sur", "--data", str(data), "--dependent", "*", "--exog", "x", "--ranks", "1",
                 "-o", str(tmp_path / "p.png")]) == 0
    out = capsys.readouterr().out
    assert "All equations have the same X: SUR is least squares" in out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line]
    assert len(lines) < 30 and max(map(len, lines)) <= 80
    (line,) = re.findall(r"^x +(.*)$", out, re.MULTILINE)
    X = np.column_stack([np.ones(40), x])
    slopes = np.linalg.lstsq(X, Y, rcond=None)[0][1]
    assert line.split() == ["30", *(f"{v:.3g}" for v in (
        slopes.min(), np.median(slopes), slopes.max())), *["+0.0"] * 3, "30", "30"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separators_marks_and_quotes(tmp_path, separator):
    path = tmp_path / "d.csv"
    path.write_text("\ufeff" + separator.join(['"a, b"', " c "]) + "\n\n" + separator.join(
        ["1e3", " -2"]) + "\n" + separator.join(["n/a", "."]) + "\n", encoding="utf-8")
    data = TableFile(path)
    assert list(data.columns) == ["a, b", "c"] and list(data.lines) == [3, 4]
    np.testing.assert_array_equal(data.numbers("a, b"), [1000, np.nan])
    np.testing.assert_array_equal(data.numbers("c"), [-2, np.nan])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("args, message", [
    (["--dependent", "ret_A", "--exog", "x"], "data.csv has no column ret_A; did you mean"),
    (["--dependent", "ret_a", "--exog", "X"], "did you mean x?"),
    (["--dependent", "ret_a", "--exog", "qqqq"], "no column qqqq; there are year, x, z, ret_a"),
    (["--dependent", "sales_*", "--exog", "x"], 'no further column like "sales_*"'),
    (["--dependent", "ret_*"], "equation ret_a has no regressors: give --exog"),
    (["--exog", "x"], "nothing to explain"),
    (["--dependent", "ret_a,x", "--exog", "x"], "equation x has x among its own regressors"),
    (["--equation", "ret_a x"], 'must look like "y ~ x1 + x2", got "ret_a x"'),
    (["--equation", "ret_a ~ x +"], 'must look like'),
    (["--equation", "ret_a ~ w=x + w=z"], "has two regressors w"),
    (["--equation", "ret_a ~ xx"], "no column xx; did you mean x?"),
    (["--equation", "ret_a ~ const=x"], "a regressor is called const"),
    (["--equation", "ret_a ~ 1", "--no-const"], "equation ret_a has no regressors"),
    (["--dependent", "ret_*", "--exog", "x", "--ranks", "two"], "must be numbers such as 2,1"),
    (["--dependent", "ret_*", "--exog", "x", "--ranks", "1,1,1"], "3"),
    (["--dependent", "ret_*", "--exog", "x", "--cov-type", "clustered"], "--clusters belong"),
    (["--dependent", "ret_*", "--exog", "x,z", "--ranks", "-1"], "-1"),
])
def test_specifications_that_are_refused(files, capsys, args, message):
    assert message in refused(capsys, "--data", files[0], *args)


def test_cells_that_are_no_numbers_are_named(tmp_path, capsys):
    rows = [["x", "y"], [1, 2], [3, "4,5"], [5, 6]]
    spec = "--dependent", "y", "--exog", "x"
    path = write(tmp_path / "d.csv", rows)
    assert (f"{path}, line 3, column y: '4,5' is not a finite number"
            in refused(capsys, "--data", path, *spec))
    rows[2][1] = "inf"
    assert "'inf' is not a finite number" in refused(capsys, "--data", write(path, rows), *spec)
    rows[2] = [3]
    assert "line 3: 1 cell, but 2 column names" in refused(capsys, "--data", write(path, rows),
                                                            *spec)
    rows[1:] = [[1, ""], [2, "NA"]]
    assert "column y has no numbers" in refused(capsys, "--data", write(path, rows), *spec)


def test_files_that_are_no_tables(tmp_path, capsys):
    spec = "--dependent", "y", "--exog", "x"
    path = tmp_path / "d.csv"
    assert "cannot be read: No such file" in refused(capsys, "--data", path, *spec)
    path.write_text("")
    assert "must begin with a line of column names" in refused(capsys, "--data", path, *spec)
    path.write_text("x,y\n")
    assert "has column names but no rows" in refused(capsys, "--data", path, *spec)
    path.write_text("x,x\n1,2\n")
    assert "has two columns x" in refused(capsys, "--data", path, *spec)
    path.write_bytes(b"x,y\n1,\xff\n")
    assert "is not text in UTF-8" in refused(capsys, "--data", path, *spec)


def test_groups_that_are_refused(files, tmp_path, capsys):
    spec = "--data", files[0], "--dependent", "ret_*", "--exog", "x", "--groups"
    rows = [["equation", "region", "town"],
            *([name, group, group + "1"] for name, group in zip(NAMES, GROUPS, strict=True))]
    groups = tmp_path / "g.csv"
    assert ("g.csv has no row for 1 of 6 equations (ret_f)"
            in refused(capsys, *spec, write(groups, rows[:-1])))
    assert "line 8: equation ret_a has had a row in line 2" in refused(
        capsys, *spec, write(groups, [*rows, rows[1]]))
    assert "it has one column" in refused(capsys, *spec, write(groups, [r[:1] for r in rows]))
    assert "line 2, column town: equation ret_a has no group" in refused(
        capsys, *spec, write(groups, [rows[0], ["ret_a", "north", ""], *rows[2:]]))
    crossed = [*rows[:-1], ["ret_f", "south", "north1"]]
    assert "north1" in refused(capsys, *spec, write(groups, crossed))


def test_options_of_a_file_need_a_file(capsys):
    assert "--exog describes columns of a file" in refused(capsys, "--exog", "x")


def test_outputs_are_refused_before_the_work(files, capsys, tmp_path, monkeypatch):
    def read(*args):
        raise AssertionError("the outputs come first")

    monkeypatch.setattr("mlrops.cli.sur.open_table", read)
    monkeypatch.setattr("mlrops.datasets.load_french", read)
    spec = "--data", files[0], "--dependent", "ret_*", "--exog", "x", "--ranks", "1"
    nowhere = tmp_path / "nowhere" / "p.png"
    assert "--output " in (message := refused(capsys, *spec, "-o", nowhere))
    assert f"cannot be written: there is no folder {nowhere.parent}" in message
    assert "it is a folder" in refused(capsys, *spec, "--save-table", tmp_path)
    assert "--data" in refused(capsys, *spec, "--save-table", files[0])
    assert "must end in" in refused(capsys, *spec, "-o", tmp_path / "p.docx")
    for command in ("demo", "sur"):
        assert main([command, "-o", str(nowhere)]) == 2
        assert f"mlrops {command}: error: --output {nowhere}" in capsys.readouterr().err


def test_refusals_of_the_models_have_no_traceback(files, tmp_path):
    data = write(tmp_path / "d.csv", [["x", "z", "y"], *([t, 2 * t, t**0.5] for t in range(9))])
    out, err = run("sur", "--data", data, "--dependent", "y", "--exog", "x,z", code=2)
    assert err.startswith("mlrops sur: error: ") and err.count("\n") == 1
    assert "X of equation y is rank-deficient: column z" in err


# ---------------------------------------------------------------- the French portfolios


@pytest.fixture(scope="module")
def french(tmp_path_factory):
    folder = tmp_path_factory.mktemp("french")
    run("sur", "-o", folder / "p.png", "--data", write(
        folder / "d.csv", [["x", "y"], [1, 2], [2, 2], [3, 5]]), "--dependent", "y", "--exog", "x")
    out, err = run("sur", "-o", folder / "french.png")
    return out, err, folder / "french.png"


@pytest.mark.slow
def test_french_tables_fit_on_two_screens(french):
    out, err, picture = french
    lines = out.splitlines()
    assert not err and len(lines) < 105
    assert max(len(line) for line in lines if str(picture) not in line) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_french_numbers_are_those_of_least_squares_where_all_share_one_x(french):
    out = french[0]
    data = load_french()
    X = np.column_stack([np.ones(819), 100 * data.factors[:, :4]])
    B = np.linalg.lstsq(X, 100 * data.excess, rcond=None)[0]
    first = out[: out.index("2: own past year")]
    for name, b in zip(data.names, B.T, strict=True):
        (row,) = re.findall(rf"^{name} +(.*)$", first, re.MULTILINE)
        assert re.findall(r"(-?\d\.\d\d) \(", row) == [f"{x:.2f}" for x in b]
        assert row.endswith("+0.0%")


@pytest.mark.slow
def test_french_own_past_year_gains_precision(french):
    out = french[0]
    data = load_french()
    second = out[out.index("2: own past year"):]
    y, market = 100 * data.excess, 100 * data.factors[:, 0]
    t = np.arange(12, 819)
    changes = []
    for j, name in enumerate(data.names):
        past = np.array([np.mean(y[s - 12:s, j] - market[s - 12:s]) for s in t])
        slope = np.polyfit(past, y[t, j], 1)[0]
        (row,) = re.findall(rf"^{name} +(.*)$", second, re.MULTILINE)
        cells = row.split()
        assert cells[0] == f"{slope:.3f}"
        assert float(cells[-1][:-1]) == pytest.approx(
            100 * (float(cells[4]) / float(cells[1]) - 1), abs=1.5)
        changes.append(float(cells[-1][:-1]))
    assert np.median(changes) < -50 and max(changes) < -20


@pytest.mark.slow
def test_french_tree_beats_one_level_on_months_held_out(french):
    rows = re.findall(r"^\d: (?:four factors|own past year) +(-.*)$", french[0], re.MULTILINE)
    assert len(rows) == 2
    for row in rows:
        tree, single, alone, gain, *parts = map(float, row.split())
        assert alone < single < tree and gain > 0.1
        assert len(parts) == 5 and np.mean(parts) == pytest.approx(gain, abs=0.02)


# ---------------------------------------------------------------- the rest


def test_help_and_version(capsys):
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"mlrops {mlrops.__version__}"
    with pytest.raises(SystemExit):
        main(["sur", "--help"])
    assert "--equation" in capsys.readouterr().out
