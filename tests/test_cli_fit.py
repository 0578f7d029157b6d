"""``python -m mlrops fit``: every format, errors as NumPy computes them, files, refusals."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmwrite

import mlrops
from mlrops.__main__ import main
from mlrops.cli import fit, outputs
from mlrops.cli.errors import CommandError, in_options
from mlrops.cli.fit import level_errors, low_rank_error
from mlrops.cli.matrix_file import read_matrix

RNG = np.random.default_rng(0)
POINTS, SOURCES = RNG.uniform(size=(40, 1)), RNG.uniform(size=(30, 1))
RECTANGLE = np.exp(-20 * np.abs(POINTS - SOURCES.T))
SYMMETRIC = np.exp(-20 * np.abs(POINTS - POINTS.T))
SPARSE = sparse.csr_array(np.where(RECTANGLE > 0.2, RECTANGLE, 0))


def relative_error(A, M):
    return np.linalg.norm(A - M) / np.linalg.norm(A)


def svd_error(A, rank):
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    return relative_error(A, (U[:, :rank] * s[:rank]) @ Vt[:rank])


def run(folder, *args):
    """Output and errors of the command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(mlrops.__file__).parents[1]),
           "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-m", "mlrops", "fit", *map(str, args)], cwd=folder,
                          env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def refused(capsys, *args):
    """The one line on stderr of a command that is refused."""
    assert main(["fit", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert "written" not in out
    assert err.count("\n") == 1 and err.startswith("mlrops fit: error: "), err
    return err


def printed(out, label):
    """The number behind a label at the beginning of a line."""
    return float(re.search(rf"^{re.escape(label)} +([\d.e-]+)", out, re.MULTILINE)[1])


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, A):
    """Write A in the format that the name tells."""
    ending = path.name.split("-")[-1]
    if ending == "sparse.npz":
        sparse.save_npz(path, A)
    elif path.suffix == ".npz":
        np.savez(path, other=np.ones(3), wanted=A)
    elif path.suffix == ".npy":
        np.save(path, A)
    elif path.suffix == ".mtx":
        mmwrite(path, A, precision=17)
    else:
        head = ",".join(f"c{j}" for j in range(A.shape[1])) if ending == "head.csv" else ""
        np.savetxt(path, A, delimiter=";" if ending == "bare.csv" else ",", header=head,
                   comments="", fmt="%.17g")
        if not head:
            path.write_text(path.read_text().lstrip("\n"))
    return path


@pytest.mark.quick(1)
@pytest.mark.parametrize("name, A, options", [
    ("a.npy", RECTANGLE, ()),
    ("a.npz", RECTANGLE, ("--key", "wanted")),
    ("a-head.csv", RECTANGLE, ()),
    ("a-bare.csv", RECTANGLE, ()),
    ("a.mtx", SPARSE, ()),
    ("a-sparse.npz", SPARSE, ()),
], ids=lambda x: x if isinstance(x, str) else "")
def test_every_format_is_fitted_and_the_errors_are_true(tmp_path, name, A, options):
    path = write(tmp_path / name, A)
    out, err = run(tmp_path, path, "--total-rank", 4, *options, "-o", "o.npz", "--picture", "p.png")
    dense = A.toarray() if sparse.issparse(A) else A
    operator = mlrops.load(tmp_path / "o.npz")
    assert isinstance(operator, mlrops.GeneralMLR) and sum(operator.ranks) == 4
    assert printed(out, "multilevel") == pytest.approx(
        relative_error(dense, operator.toarray()), abs=1e-6)
    assert printed(out, "low rank 4 (SVD)") == pytest.approx(svd_error(dense, 4), abs=1e-6)
    kind = f"sparse, {A.nnz} entries" if sparse.issparse(A) else "dense"
    assert f"40 by 30, {kind}, float64\n" in out
    assert "280 numbers, 23.3% of the dense 1,200" in out
    assert ("stored entries" in out) == sparse.issparse(A)
    starts = re.findall(r"^(grow|top)( \*)? +([\d ]+\d)  +([\d.]+) ", out, re.MULTILINE)
    assert [start for start, *_ in starts] == ["grow", "top"]
    (best,) = [row for row in starts if row[1]]
    assert float(best[3]) == min(float(row[3]) for row in starts)
    assert tuple(map(int, best[2].split())) == operator.ranks
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert err == ""  # no bar where nobody looks
    assert "plus diagonal" not in out


@pytest.mark.parametrize("name, A", [("a.npy", RECTANGLE.astype(np.float32)), ("a-head.csv",
                         RECTANGLE), ("a-bare.csv", RECTANGLE), ("a-sparse.npz", SPARSE)])
def test_what_is_read_is_what_was_written(tmp_path, name, A):
    B = read_matrix(str(write(tmp_path / name, A)))
    assert B.dtype == A.dtype and sparse.issparse(A) == sparse.issparse(B)
    assert abs(B - A).max() == 0


@pytest.mark.slow
def test_a_symmetric_matrix_with_a_tree_of_its_own(tmp_path):
    write(tmp_path / "s.npy", SYMMETRIC)
    order = np.argsort(POINTS[:, 0])
    half = np.empty(40, int)
    half[order] = np.arange(40) // 20
    (tmp_path / "g.csv").write_text("half\n" + "".join(f"h{x}\n" for x in half))
    out, _ = run(tmp_path, "s.npy", "--total-rank", 5, "--psd", "--groups", "g.csv", "--start",
                 "top", "-o", "o.npz")
    operator = mlrops.load(tmp_path / "o.npz")
    np.testing.assert_array_equal(operator.rows.labels(1), half)
    assert operator.symmetric and np.linalg.eigvalsh(operator.toarray())[0] > -1e-10
    assert "float64, symmetric" in out and "uniform" not in out
    # Low rank plus diagonal is no better than the best such matrix from a long alternation.
    d = np.zeros(40)
    for _ in range(2000):
        w, V = np.linalg.eigh(SYMMETRIC - np.diag(d))
        low = (V[:, -4:] * np.maximum(w[-4:], 0)) @ V[:, -4:].T
        d = np.diag(SYMMETRIC - low)
    best = relative_error(SYMMETRIC, low + np.diag(d))
    assert best - 1e-6 <= printed(out, "low rank 4 plus diagonal") <= 1.02 * best
    out, _ = run(tmp_path, "s.npy", "--total-rank", 5, "--no-symmetric", "--n-levels", 2, "-o",
                 "o.npz")
    assert ", symmetric" not in out and "2 levels, as asked for" in out
    out, _ = run(tmp_path, "s.npy", "--total-rank", 5, "--n-levels", "auto", "--start", "top")
    assert "6 levels, as deep as rows and columns allow" in " ".join(out.split())


@pytest.mark.slow
def test_one_level_is_the_truncated_svd(tmp_path):
    write(tmp_path / "a.npy", RECTANGLE)
    out, _ = run(tmp_path, "a.npy", "--total-rank", 3, "--n-levels", 1)
    assert printed(out, "multilevel") == pytest.approx(svd_error(RECTANGLE, 3), abs=2e-6)
    assert (tmp_path / "mlrops-fit.npz").exists() and (tmp_path / "mlrops-fit.png").exists()


@pytest.mark.slow
def test_a_seed_tells_everything(tmp_path):
    write(tmp_path / "a.npy", RECTANGLE)
    for name in ("1.npz", "2.npz"):
        run(tmp_path, "a.npy", "--total-rank", 3, "--start", "bottom", "--random-state", 7, "-o",
            name)
    one, two = (mlrops.load(tmp_path / name) for name in ("1.npz", "2.npz"))
    np.testing.assert_array_equal(one.B, two.B)


@pytest.mark.parametrize("A", [RECTANGLE, SPARSE], ids=["dense", "sparse"])
def test_errors_of_relatives_and_of_levels(A):
    dense = A.toarray() if sparse.issparse(A) else A
    for rank in (1, 5, 20):
        assert low_rank_error(A, rank) == pytest.approx(svd_error(dense, rank), rel=1e-6)
    rows, cols = (mlrops.Hierarchy.balanced(n, [1, 2, 4]) for n in (40, 30))
    left, right = ([RNG.standard_normal((n, r)) for r in (1, 0, 2)] for n in (40, 30))
    operator = mlrops.GeneralMLR(rows, cols, left, right)
    expected = [relative_error(dense, mlrops.GeneralMLR(
        rows, cols, [f * (i <= level) for i, f in enumerate(left)], right).toarray())
        for level in range(3)]
    np.testing.assert_allclose(level_errors(A, operator), expected, rtol=1e-9)


def with_entry(value, at=(3, 2), dtype=float):
    A = RECTANGLE.astype(dtype)
    A[at] = value
    return A


@pytest.mark.parametrize("name, A, options, message", [
    ("a.npy", with_entry(np.nan), (), r"NaN or infinity in 1 entry: \[3, 2\]"),
    ("a-sparse.npz", sparse.csr_array(with_entry(np.inf)), (), r"infinity in 1 entry: \[3, 2\]"),
    ("a.npy", with_entry(1j, dtype=complex), (), "complex numbers"),
    ("a.npy", np.ones(3), (), r"must hold a matrix .* shape \(3,\)"),
    ("a.npy", np.array([["x"]]), (), "must hold numbers, got dtype"),
    ("a.npy", np.zeros((4, 4)), (), "zero everywhere"),
    ("a.npz", RECTANGLE, (), r"holds 2 arrays: choose one by --key \(other, wanted\)"),
    ("a.npz", RECTANGLE, ("--key", "no"), "has no array no; there are other, wanted"),
    ("a.npy", RECTANGLE, ("--key", "no"), "--key names an array of an .npz, .zarr or .h5 file"),
    ("a.npy", RECTANGLE, ("--total-rank", "31"), "--total-rank 31 is too large: .* rank above 30"),
    ("a.npy", RECTANGLE, ("--total-rank", "0"), "--total-rank must be at least 1"),
    ("a.npy", RECTANGLE, ("--n-levels", "7"), "--n-levels 7 is too deep: a side of 30 .* 6 levels"),
    ("a.npy", SYMMETRIC, ("--n-levels", "7", "--method", "linkage"),
     "^mlrops fit: error: --n-levels 7 is deeper than the data allow"),
    ("a.npy", RECTANGLE, ("--method", "linkage"), "--method linkage needs the distances"),
    ("a.npy", RECTANGLE, ("--n-levels", "0"), "--n-levels must be at least 1"),
    ("a.npy", RECTANGLE, ("--start", "middle"), "all or some of grow,uniform,bottom,top"),
    ("a.npy", RECTANGLE, ("--psd",), "error: --psd needs a square matrix"),
    ("a.npy", RECTANGLE, ("--symmetric",), "error: --symmetric needs a square matrix"),
    ("a.npy", SYMMETRIC + np.eye(40, k=1), ("--symmetric",), "--symmetric, but A is not symm.*: A"),
    ("a.npy", SYMMETRIC + np.eye(40, k=1), ("--psd",), "--psd, but A is not symmetric: A"),
    ("a.npy", SYMMETRIC, ("--psd", "--no-symmetric"), "--psd fits .*: leave out --no-symmetric"),
    ("a.npy", RECTANGLE, ("--total-rank", "-2"), "--total-rank must be at least 1, got -2"),
    ("a.npy", RECTANGLE, ("--random-state", "-1"), "--random-state must be at least 0, got -1"),
    ("a.npy", np.array([["x", 1]], object), (), "it holds Python objects"),
    ("a.npy", RECTANGLE, ("--groups", "g.csv"), "--groups is for square matrices"),
    ("a.npy", SYMMETRIC, ("--groups", "none.csv"), "none.csv cannot be read: No such file"),
    ("a.npy", RECTANGLE, ("-o", "none/o.npz"), "there is no folder .*none"),
])
def test_refusals(tmp_path, capsys, name, A, options, message):
    path = write(tmp_path / name, A)
    assert re.search(message, refused(capsys, path, "--total-rank", 4, *options))


@pytest.mark.parametrize("name, text, message", [
    ("a.csv", "a,b\n1,2\n3,x\n", "a.csv, line 3, column 2: 'x' is not a number"),
    ("a.csv", "1,x\n3,4\n", "line 1, column 2: 'x' is not a number"),
    ("a.csv", "1,2\n,4\n", "line 2, column 1: an empty cell is not a number"),
    ("a.csv", "1,2\n3,nan\n", "line 2, column 2: 'nan' is not a finite number"),
    ("a.csv", "1,2\n3\n", "line 2: 1 cell, but 2"),
    ("a.csv", "a,b\n", "no rows of numbers"),
    ("a.npy", "text", "not a matrix in .npy format: it does not begin like one"),
    ("a.npy", "", "not a matrix in .npy format: it is empty"),
    ("a.npz", "", "not a matrix in .npz format: it is empty"),
    ("a.csv", "", "no rows of numbers"),
    ("a.npz", "text", "not a matrix in .npz format"),
    ("a.mtx", "text", "not a matrix in .mtx format"),
    ("a.xls", "text", "must end in .npy, .npz"),
])
def test_files_that_are_no_matrices(tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    assert message in refused(capsys, name, "--total-rank", 1)


@pytest.mark.parametrize("ending", ["npy", "npz", "mtx", "csv"])
def test_files_that_are_missing(capsys, ending):
    assert f"none.{ending} cannot be read: No such file" in refused(
        capsys, f"none.{ending}", "--total-rank", 1)


def test_groups_that_do_not_fit(tmp_path, capsys):
    write(tmp_path / "s.npy", SYMMETRIC)
    given = ("s.npy", "--total-rank", 3, "--groups", "g.csv")
    (tmp_path / "g.csv").write_text("g\na\nb\n")
    assert "for each of the 40 rows of the matrix, it has 2" in refused(capsys, *given)
    (tmp_path / "g.csv").write_text("g,h\n" + "a,b\n" * 39 + ",b\n")
    assert "line 41, column g: a row without a group" in refused(capsys, *given)
    assert "leave out --n-levels" in refused(capsys, *given, "--n-levels", 2)
    crossed = "".join(f"a{i // 10},b{i // 20}\n" for i in range(40))
    (tmp_path / "g.csv").write_text(f"g,h\n{crossed}")
    assert "g.csv: group b0 of column h lies in two groups of column g, a0 and a1;" in refused(
        capsys, *given)


def test_a_saved_operator_is_no_plain_matrix(capsys):
    mlrops.save("o.npz", mlrops.Identity(3))
    assert "written by mlrops.save and is no plain matrix" in refused(
        capsys, "o.npz", "--total-rank", 1)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("options, message", [
    (("-o", "a.npy"), "--output a.npy would replace the file of the matrix"),
    (("--picture", "g.csv", "--groups", "g.csv"), "would replace the file of --groups"),
    (("-o", "x.png", "--picture", "./x.png"), "--picture ./x.png would replace .* of --output"),
    (("-o", "."), "--output . cannot be written: it is a folder"),
    (("-o", os.devnull), "cannot be written: it is a device, expected an ordinary file"),
    (("-o", "a.npy/x"), "cannot be written: there is no folder"),
    (("--picture", "none/p.png"), "--picture none/p.png cannot be written: there is no folder"),
    (("--picture", "p.xyz"), "it must end in .*.png"),
    (("-o", "x" * 300), "cannot be written: File name too long"),
])
def test_outputs_are_refused_before_anything_is_read(tmp_path, capsys, options, message):
    (tmp_path / "a.npy").write_text("text")  # reading it would be the error
    assert re.search(message, refused(capsys, "a.npy", "--total-rank", 1, *options))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_folder_that_takes_no_files(tmp_path, capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
    assert "--output o.npz cannot be written: Permission denied" in refused(
        capsys, "none.npy", "--total-rank", 1, "-o", "o.npz")


@pytest.mark.slow
def test_without_matplotlib_the_operator_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(tmp_path / "a.npy", RECTANGLE)
    assert main(["fit", "a.npy", "--total-rank", "2", "--start", "top"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("There is no matplotlib: the operator will be written, but no picture")
    assert "Operator written" in out and "Picture written" not in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "mlrops-fit.npz"]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "p.png").write_text("old")

    class Full(pytest.importorskip("matplotlib.figure").Figure):
        def savefig(self, file, **_):
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(CommandError, match=r"p.png cannot be written: No space left"):
        outputs.write_picture(tmp_path / "p.png", Full())
    assert (tmp_path / "p.png").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    """Ctrl-C at a step of the second start; the fit itself would return what it has."""
    from mlrops.cli import fit as command

    monkeypatch.chdir(tmp_path)
    x = RNG.uniform(size=(60, 3))
    np.save("a.npy", np.exp(-np.abs(x[:, None] - x).sum(axis=2)))
    allocate, old = command.allocate_ranks, signal.getsignal(signal.SIGINT)

    def allocate_ranks(*args, start, **options):
        def interrupted(iterate):
            if start == "top" and iterate.n_iter == 1:
                signal.raise_signal(signal.SIGINT)

        return allocate(*args, start=start, **options | {"callback": interrupted})

    monkeypatch.setattr(command, "allocate_ranks", allocate_ranks)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["fit", "a.npy", "--total-rank", "6"]) == 130
    finally:
        signal.signal(signal.SIGINT, old)
    out, err = capsys.readouterr()
    assert err == "mlrops fit: interrupted\n" and "written" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_gets_a_bar(tmp_path):
    import fcntl
    import struct
    import termios

    write(tmp_path / "a.npy", RECTANGLE)
    env = {**os.environ, "PYTHONPATH": str(Path(mlrops.__file__).parents[1])}
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-m", "mlrops", "fit", "a.npy", "--total-rank", "3",
                           "--start", "bottom"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL,
                          stderr=theirs) as process:
        os.close(theirs)
        err = b""
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                err += part
    os.close(ours)
    assert process.returncode == 0 and b"ranks, start bottom" in err and b"finding the tree" in err


# ---------------------------------------------------------------- odd matrices


@pytest.mark.slow
@pytest.mark.parametrize("A, rank", [
    (RECTANGLE[:1], 1), (RECTANGLE[:, :1], 1), (RECTANGLE[:, :3], 1), (np.ones((1, 1)), 1),
    (RECTANGLE[:3, :3], 1), (RECTANGLE[:6, :6], 1), (RECTANGLE[:11, :7], 2),
    (RECTANGLE.astype(np.float32), 3), (np.asfortranarray(RECTANGLE), 3),
    (np.round(9 * RECTANGLE).astype(int), 3)],
    ids=lambda x: f"{x.dtype}-{x.shape[0]}x{x.shape[1]}" if isinstance(x, np.ndarray) else None)
def test_odd_matrices_are_fitted(tmp_path, capsys, A, rank):
    write(tmp_path / "a.npy", A)
    assert main(["fit", "a.npy", "--total-rank", str(rank), "--start", "top"]) == 0
    out = capsys.readouterr().out
    operator = mlrops.load("mlrops-fit.npz")
    eps = float(np.finfo(operator.dtype).eps)
    assert operator.dtype == (np.float32 if A.dtype == np.float32 else np.float64)
    assert printed(out, "multilevel") == pytest.approx(
        relative_error(A, operator.toarray()), abs=max(1e-6, 100 * eps), rel=1e-3)
    assert printed(out, f"low rank {rank} (SVD)") == pytest.approx(
        svd_error(A.astype(float), rank), abs=max(1e-6, 100 * eps))


def test_entries_that_are_stored_twice_are_added(tmp_path):
    A = sparse.csr_array((np.array([1.0, 2, 3, 4]), [1, 1, 2, 0], [0, 2, 3, 4]), shape=(3, 3))
    sparse.save_npz(tmp_path / "a.npz", A)
    B = read_matrix(str(tmp_path / "a.npz"))
    assert B.nnz == 3 and low_rank_error(B, 1) == pytest.approx(np.sqrt(18 / 34))


def test_small_errors_of_a_large_matrix_are_told(monkeypatch):
    monkeypatch.setattr(fit, "DENSE_SIDE", 10)
    monkeypatch.setattr(fit, "ROWS", 7)
    for eps, dtype in ((1e-7, np.float64), (1e-2, np.float32)):
        s = np.array([1, 0.5, *[eps] * 20])
        Q, _ = np.linalg.qr(RNG.standard_normal((60, 22)))
        P, _ = np.linalg.qr(RNG.standard_normal((50, 22)))
        A = ((Q * s) @ P.T).astype(dtype)
        assert low_rank_error(A, 2) == pytest.approx(
            eps * np.sqrt(20) / np.linalg.norm(s), rel=1e-4)


def test_parameters_are_called_as_options():
    for text, expected in (
            ("n_levels = 9 is deeper", "--n-levels 9 is deeper"),
            ("n_levels must be", "--n-levels must be"),
            ("symmetric=True, but A is not symmetric: the method", "--symmetric, but A is not"
             " symmetric: the method"),
            ("use symmetric=False or method='linkage'.", "use --no-symmetric or --method linkage."),
            ("psd=True needs", "--positive needs"),
            ("min_size = 1 and my_method=2", "min_size = 1 and my_method=2")):
        with pytest.raises(CommandError) as caught, in_options(
                ("n_levels", "symmetric", "method"), psd="--positive"):
            raise ValueError(text)
        assert str(caught.value) == expected


def test_options_are_read_under_their_old_names(capsys):
    assert main(["fit", "none.npy", "--rank", "4", "--levels", "2", "--seed", "1"]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert warnings == [
        f"mlrops fit: warning: {old} is now called {new}" for old, new in (
            ("--rank", "--total-rank"), ("--levels", "--n-levels"), ("--seed", "--random-state"))]
    assert "none.npy cannot be read" in error
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert not re.search(r"--(rank|levels|seed)\b", capsys.readouterr().out)
