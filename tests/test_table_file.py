"""Tables of other programs and countries: understood by an option, or refused with its name."""

import codecs
import csv
import os
import threading

import numpy as np
import pandas as pd
import pytest

from mlrops.cli.errors import CommandError
from mlrops.cli.main import main
from mlrops.cli.table_file import CELLS, Cells, TableFile

SPEC = ("--dependent", "y", "--exog", "x", "--ranks", "0")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    x = np.round(rng.standard_normal(30) * 2000, 2)
    return x, np.round(x / 3 + 1000 * rng.standard_normal(30), 2)


def coefficients():
    with open("t.csv", encoding="utf-8", newline="") as file:
        return [float(row["coef"]) for row in csv.DictReader(file)]


def sur(*more, code=0, capsys=None):
    assert main(["sur", "--data", "d.csv", *SPEC, "--save-table", "t.csv", *more]) == code
    return capsys.readouterr().err if capsys else None


def refused(capsys, *more):
    err = sur(*more, code=2, capsys=capsys)
    assert err.startswith("mlrops sur: error: d.csv") and err.count("\n") == 1
    return err


def written(x, decimal=".", thousands=""):
    return f"{x:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)


# ---------------------------------------------------------------- understood


@pytest.mark.parametrize("separator, decimal, thousands, quote", [
    (";", ",", "", False), (";", ",", ".", False), ("\t", ",", " ", False),
    (",", ".", ",", True), (",", ",", "", True), (";", ".", "'", False), (";", ",", "\u202f", True),
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
def test_numbers_of_all_countries(separator, decimal, thousands, quote, encoding, values, tmp_path):
    if encoding == "cp1252" and thousands == "\u202f":
        encoding = "utf-8"
    q = '"' if quote else ""
    lines = [f"größe{separator}n°"] + [
        separator.join(f"{q}{written(v, decimal, thousands)}{q}" for v in row)
        for row in zip(*values, strict=True)]
    path = tmp_path / "d.csv"
    path.write_bytes("\r\n".join(lines).encode(encoding))
    marked = encoding.startswith("utf-8") or encoding == "utf-16"
    cells = Cells(None if marked else encoding, decimal,
                  " " if thousands == "\u202f" else thousands or None).checked()
    table = TableFile(path, cells, encodes=True)
    assert list(table.columns) == ["größe", "n°"]
    for name, expected in zip(table.columns, values, strict=True):
        np.testing.assert_array_equal(table.numbers(name), expected)
    if thousands == "\u202f":  # which pandas does not take for a space
        return
    frame = pd.read_csv(path, sep=separator, encoding=encoding, decimal=decimal,
                        thousands=thousands or None)
    np.testing.assert_array_equal(table.numbers("n°"), frame["n°"])


def test_the_command_takes_them(values, capsys, tmp_path):
    x, y = values
    (tmp_path / "d.csv").write_text("\n".join(["x,y", *(f"{a},{b}" for a, b in zip(
        x, y, strict=True))]))
    sur()
    expected = coefficients()
    (tmp_path / "d.csv").write_bytes("\n".join(["größe;x;y", *(
        f"µ;{written(a, ',', '.')};{written(b, ',', '.')}" for a, b in zip(x, y, strict=True))]
        ).encode("latin-1"))
    sur("--decimal", ",", "--thousands", ".", "--encoding", "latin-1")
    assert coefficients() == expected
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [
    ["--na-values", "-99.99", "-999"], ["--na-values=-99.99,-999"],
    ["--na-values", "-99.99", "--na-values", "-999.0"], ["--na-values=-999,-99.990"]])
def test_missing_codes(options, values, capsys, tmp_path):
    x, y = values
    cells = [[a, b] for a, b in zip(x, y, strict=True)]
    cells[3][1], cells[7][1], cells[9][0] = "", "NA", "n/a"
    write = lambda rows: (tmp_path / "d.csv").write_text("\n".join(  # noqa: E731
        ["x,y", *(f"{a},{b}" for a, b in rows)]))
    write(cells)
    sur()
    expected = coefficients()
    assert "warning" not in capsys.readouterr().err
    cells[3][1], cells[7][1], cells[9][0] = "-99.99", "-999", "-999.00"
    write(cells)
    warned = sur(capsys=capsys)
    assert ("warning: d.csv has numbers that others write for missing cells, in column y (1 cell of"
            " -99.99), y (1 cell of -999), x (1 cell of -999)") in warned
    assert "give --na-values -99.99 -999" in warned and coefficients() != expected
    assert "warning" not in sur(*options, capsys=capsys)
    assert coefficients() == expected


def test_words_for_missing_cells(values, capsys, tmp_path):
    (tmp_path / "d.csv").write_text("x;y\n" + "\n".join(
        f"{a};{'k.A.' if t == 4 else '-99,99' if t == 5 else written(b, ',')}".replace(
            f"{a}", written(a, ",")) for t, (a, b) in enumerate(zip(*values, strict=True))))
    assert "line 6, column y: 'k.A.' is not a finite number; give --na-values \"k.A.\"" in refused(
        capsys, "--decimal", ",")
    assert "(1 cell of -99.99)" in sur("--decimal", ",", "--na-values", "k.A.", capsys=capsys)
    err = sur("--decimal", ",", "--na-values=-99,99", "--na-values", "k.A.", capsys=capsys)
    assert "warning" not in err


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("cell, options, advice", [
    ("4,5", (), 'give --decimal "," if'),
    ("1,234", (), 'give --decimal "," if it is written like this, or --thousands "," if'),
    ("1,234,567", (), 'give --thousands ","'),
    ("1,234.5", (), 'give --thousands ","'),
    ("1.234,5", (), 'give --decimal "," and --thousands "."'),
    ("1 234.5", (), 'give --thousands " "'),
    ("1\u00a0234", (), 'give --thousands " "'),
    ("1'234", (), 'give --thousands "\'"'),
    ("1.5", ("--decimal", ","), 'give --decimal "."'),
    ("1.234.567", ("--decimal", ","), 'give --thousands "."'),
    ("3.5%", (), "take percent signs out of the column"),
    ("-3,5 %", (), "take percent signs out"),
    ("missing", (), 'give --na-values "missing" if it stands for a missing cell'),
    ("1_000", (), "give --na-values"),
    ("inf", (), "is not a finite number"),
    ("1e999", (), "is not a finite number"),
    ("(1.5)", (), "is not a finite number"),
    ("1,5", ("--thousands", ","), 'give --decimal ","'),
    ("12,34", ("--thousands", ","), 'give --decimal ","'),
])
def test_cells_are_refused_with_the_option_that_reads_them(cell, options, advice, capsys, tmp_path):
    (tmp_path / "d.csv").write_text(f"x;y\n1;2\n3;{cell}\n5;7\n", encoding="utf-8")
    said = refused(capsys, *options)
    assert f"d.csv, line 3, column y: {cell!r} is not a finite number; " in said and advice in said


@pytest.mark.parametrize("data, options, message", [
    (b"", (), "must begin with a line of column names, it is empty"),
    (b"\n\n", (), "must begin with a line of column names, it is empty"),
    (b"x,y\n", (), "has column names but no rows"),
    (b"x;y\n1;\xff\n", (), "line 2, is not text in UTF-8 (invalid start byte): give --encoding"),
    ("x,y\n1,2\n".encode("utf-16-le"), (), "it has bytes of zero: give --encoding"),
    (b"x,y\n1,2\n", ("--encoding", "utf-16"), "is not text in UTF-16"),
    (b"x,y\n1,2\n3,4,5\n", (), "line 3: 3 cells, but 2 column names"),
    (b"x,y\n1,2\n3\n", (), "line 3: 1 cell, but 2 column names"),
    (b"x,y\n1,5,2,5\n", ("--decimal", ","), "4 cells, but 2 column names; where cells have a dec"),
    (b"y\n1\n2\n", (), "has no column x; there are y"),
    (b"1.5,2\n3,4\n", (), "has no column x; there are 1.5, 2: the first line, which must name"),
    (b"x,x,y\n1,2,3\n", (), "has two columns x"),
    (b'x,y\n1,"2\n', (), "is not a table"),
])
def test_files_that_are_refused(data, options, message, capsys, tmp_path):
    (tmp_path / "d.csv").write_bytes(data)
    if options == ("--encoding", "utf-16"):
        (tmp_path / "d.csv").write_bytes(data + b"1")
    said = sur(*options, code=2, capsys=capsys)
    assert message in said and "d.csv" in said and said.count("\n") == 1


@pytest.mark.parametrize("options, message", [
    (("--decimal", "comma"), "--decimal must be one sign, such as a comma, got 'comma'"),
    (("--thousands", "1"), "--thousands must be one sign"),
    (("--thousands", "."), "--decimal and --thousands cannot both be '.'"),
    (("--encoding", "klingon"), "--encoding klingon is none that Python knows"),
])
def test_options_that_are_refused(options, message, capsys, tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n1,2\n3,4\n5,7\n")
    assert message in sur(*options, code=2, capsys=capsys)


def test_options_of_tables_need_a_table(capsys):
    for option in ("--decimal", "--thousands", "--na-values", "--encoding"):
        assert main(["sur", option, "x"]) == 2
        assert f"{option} describes columns of a file" in capsys.readouterr().err


def test_groups_without_a_head(values, capsys, tmp_path):
    (tmp_path / "d.csv").write_text("x,y,z\n" + "\n".join(
        f"{a},{b},{a * b}" for a, b in zip(*values, strict=True)))
    groups = tmp_path / "g.csv"
    groups.write_text("y,north\nz,south\n")
    more = "--dependent", "y,z", "--groups", str(groups)
    assert main(["sur", "--data", "d.csv", "--exog", "x", *more]) == 2
    said = capsys.readouterr().err
    assert "g.csv must begin with a line of column names, its first line is that of equation y" in (
        said)
    groups.write_bytes("equation;größe\ny;1\nz;2\n".encode("latin-1"))
    assert main(["sur", "--data", "d.csv", "--exog", "x", *more]) == 2
    assert "g.csv, line 1, is not text in UTF-8" in capsys.readouterr().err
    assert main(["sur", "--data", "d.csv", "--exog", "x", "--ranks", "0,0", *more,
                 "--encoding", "latin-1"]) == 0


def test_a_tree_without_a_head(tmp_path, capsys):
    np.save("m.npy", np.eye(4))
    (tmp_path / "g.csv").write_text("a\na\nb\nb\n")
    assert main(["fit", "m.npy", "--total-rank", "1", "--groups", "g.csv"]) == 2
    assert "it has 3: is there no head?" in capsys.readouterr().err


# ---------------------------------------------------------------- the reader


@pytest.mark.parametrize("mark, encoding", [
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be")])
def test_marks_tell_the_encoding(mark, encoding, tmp_path):
    (tmp_path / "d.csv").write_bytes(mark + "ä,β\n1,2\n".encode(encoding))
    assert list(TableFile(tmp_path / "d.csv").columns) == ["ä", "β"]


def test_lines_are_those_of_the_file(tmp_path):
    """Whatever line breaks stand in quoted cells, and whatever lines are blank."""
    (tmp_path / "d.csv").write_bytes(b'"a\nb",c\r\n\r\n"x\r\ny",1\r\n,\r\n"z",2\r\n')
    table = TableFile(tmp_path / "d.csv")
    assert list(table.columns) == ["a\nb", "c"] and table.lines == [5, 7]
    assert table.rows == [["x\ny", "1"], ["z", "2"]]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_table_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("x,y\n1,2\n",))
    writer.start()
    assert TableFile(tmp_path / "pipe").numbers("y").tolist() == [2]
    writer.join()


def test_cells_by_hand():
    parse = CELLS.parser()
    assert [parse(cell) for cell in ("1", "-2.5e3", "+.5", "7.")] == [1, -2500, 0.5, 7]
    assert all(np.isnan(parse(cell)) for cell in ("", "NA", "nan", "NULL", "."))
    assert all(parse(cell) is None for cell in (
        "1,5", "\uff11", "0x10", "1_0", "infinity", "1 2", "e5"))
    parse = Cells(thousands=",", na_values=("-1,000", "x")).parser()
    assert parse("1,234,567.25") == 1234567.25 and parse("12,34,567") == 1234567
    assert np.isnan(parse("-1000")) and np.isnan(parse("x"))
    assert all(parse(cell) is None for cell in ("1,23", ",123", "1,,234", "1234,567"))
    with pytest.raises(CommandError, match="cannot both"):
        Cells(decimal=",", thousands=",").checked()
