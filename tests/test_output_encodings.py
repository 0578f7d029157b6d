"""What a command prints: no terminal, encoding or reader costs its result."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops.cli.main import main
from mlrops.cli.printing import Printer, printing

ROOT = Path(__file__).resolve().parents[1]
FAIL = "not all of the text could be written"


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """A matrix whose name no narrow encoding has."""
    monkeypatch.chdir(tmp_path)
    x = np.linspace(0, 1, 24)
    np.save("kérnel µ.npy", np.exp(-np.abs(x[:, None] - x)))
    return "kérnel µ.npy"


def fit(matrix, *more):
    return main(["fit", matrix, "--total-rank", "3", "--n-levels", "2", "--start", "top", *more])


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")


def written(out):
    out.flush()
    return out.buffer.getvalue().decode(out.encoding)


class Gone(io.StringIO):
    """A stream whose reader goes after some texts."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8", "utf-16"])
@pytest.mark.parametrize("text", ["µs ├─ 中 é\n", "\udcff\n", "plain\n"])
def test_what_an_encoding_lacks_is_replaced(encoding, text):
    out = stream(encoding)
    Printer(out).write(text)
    expected = text.encode(encoding, "replace").decode(encoding)
    assert written(out) == expected and expected.isascii() >= (encoding == "ascii")


@pytest.mark.quick(1)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_fit_and_info_in_narrow_encodings(encoding, matrix, monkeypatch):
    """Standard output and error; the files that are written are complete."""
    out, err = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert fit(matrix, "-o", "ö.npz") == 0
    assert mlrops.load("ö.npz").shape == (24, 24) and Path("mlrops-fit.png").stat().st_size
    assert main(["info", "ö.npz"]) == 0
    assert main(["info", "no ж.npz"]) == 2
    assert main(["info", matrix]) == 0
    said = written(out)
    assert "Operator written to" in said and "Product with a vector" in said
    assert written(err).startswith("mlrops info: error: no ?.npz cannot be read")


def test_trees_of_parts_in_ascii(tmp_path, monkeypatch):
    mlrops.save(tmp_path / "sum.npz", mlrops.Sum(mlrops.Identity(3), mlrops.Dense(np.eye(3))))
    out = stream("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["info", str(tmp_path / "sum.npz")]) == 0
    assert "?? 3x3 Identity" in written(out)


def test_regressions_in_ascii_write_a_table_in_utf8(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = "\n".join(",".join(f"{v:.4f}" for v in row) for row in rng.standard_normal((40, 3)))
    data, table = tmp_path / "dätä.csv", tmp_path / "tablé.csv"
    data.write_text(f"größe,y,β\n{rows}\n", encoding="utf-8")
    out, err = stream("ascii"), stream("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["sur", "--data", str(data), "--dependent", "größe,y", "--exog", "β", "--ranks",
                 "0", "-o", str(tmp_path / "a.png"), "--save-table", str(table)]) == 0
    assert "gr??e" in written(out) and (tmp_path / "a.png").stat().st_size
    assert "größe,β," in table.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["demo", "sur", "bench"])
def test_every_command_prints_through_it(command, monkeypatch):
    """Whatever the command: what it prints is replaced, on both streams."""
    out, err = stream("ascii"), stream("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def run(args):
        print("done in 3 µs")
        print("└─ warning", file=sys.stderr)

    monkeypatch.setattr(f"mlrops.cli.{command}.{command}", run)
    assert main([command]) == 0
    assert written(out) == "done in 3 ?s\n" and written(err) == "?? warning\n"
    assert sys.stdout is out and sys.stderr is err


def test_a_process_in_ascii(matrix):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii",
                   "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "mlrops", "info", matrix], env=environment, capture_output=True)
    assert done.returncode == 0  # its name takes the bytes that it has there
    assert re.match(rb"k\?+rnel \?+.npy: an array of NumPy", done.stdout)
    assert not done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command, file", [
    (["demo", "-o", "a.png"], "a.png"), (["sur", "-o", "a.png"], "a.png"),
    (["fit", "kérnel µ.npy", "--total-rank", "3"], "mlrops-fit.npz")], ids=lambda x: x[0])
def test_processes_of_whole_commands(command, file, encoding, matrix):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding,
                   "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "mlrops", *command], env=environment,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Path(file).stat().st_size and b"Traceback" not in done.stderr


# ---------------------------------------------------------------- readers that go


@pytest.mark.slow
@pytest.mark.parametrize("error, after", [
    (BrokenPipeError(32, "Broken pipe"), 0), (BrokenPipeError(32, "Broken pipe"), 5),
    (OSError(28, "No space"), 3), (ValueError("I/O operation on closed file"), 0)], ids=repr)
def test_a_fit_outlives_its_reader(error, after, matrix, monkeypatch, capsys):
    out = Gone(error, after)
    monkeypatch.setattr(sys, "stdout", out)
    assert fit(matrix) == 1
    assert mlrops.load("mlrops-fit.npz").shape == (24, 24)
    assert Path("mlrops-fit.png").stat().st_size
    err = capsys.readouterr().err
    assert (FAIL in err) == (not isinstance(error, BrokenPipeError))
    assert "Traceback" not in err and sys.stdout is out


@pytest.mark.parametrize("output", [None, "bench.md"])
def test_without_a_file_to_write_a_command_ends_with_its_reader(output, monkeypatch, capsys):
    went_on = []

    def run(args):
        for _ in range(3):
            print("a row", flush=True)
            went_on.append(1)

    monkeypatch.setattr("mlrops.cli.bench.bench", run)
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError(32, "Broken pipe"), 2))
    assert main(["bench", *(["-o", output] if output else [])]) == 1
    assert len(went_on) == (3 if output else 1)
    assert capsys.readouterr().err == ""


def test_errors_of_a_command_come_out_where_its_text_does_not(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError(32, "Broken pipe")))
    assert main(["info", "missing.npz"]) == 2
    assert "missing.npz cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_no_streams_at_all(matrix, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert fit(matrix) == 0 and Path("mlrops-fit.npz").exists()
    with printing() as out:
        assert not out.isatty() and not hasattr(out, "fileno")
        print("nothing", file=sys.stderr, flush=True)
    assert main(["info", "missing.npz"]) == 2


def test_the_result_is_written_before_it_is_described(matrix, monkeypatch, capsys):
    """What is printed, compared and drawn may fail in any way: the operator is there."""
    for name in ("_others", "_storage", "_picture"):
        with monkeypatch.context() as patch:
            patch.setattr(f"mlrops.cli.fit.{name}", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(matrix, "-o", f"{name}.npz")
        assert mlrops.load(f"{name}.npz").shape == (24, 24)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="closes a pipe")
def test_a_process_whose_pipe_is_closed(matrix):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run([sys.executable, "-m", "mlrops", "info", matrix], env=environment,
                              stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == ""
