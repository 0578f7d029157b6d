"""``python -m mlrops info``: what is printed equals what the object says, files of every kind."""

import re

import numpy as np
import pytest
from scipy import sparse

import mlrops
from mlrops.__main__ import main
from mlrops.cli import info as module
from mlrops.cli.info import describe, logdet_is_cheap, stored_numbers
from mlrops.io import archive as _archive

RNG = np.random.default_rng(0)
TREE = mlrops.Hierarchy.from_labels(list("aaabbcccc"), list("xxyzzuuvv"))
COVARIANCE = mlrops.MLR(TREE, [RNG.standard_normal((9, r)) for r in (2, 0, 1)],
                        RNG.uniform(0.5, 2, 9))
ROWS, COLS = (mlrops.Hierarchy.balanced(n, [1, 3]) for n in (10, 7))
RECTANGLE = mlrops.GeneralMLR(ROWS, COLS, *(
    [RNG.standard_normal((n, r)) for r in (1, 2)] for n in (10, 7)))
DENSE = mlrops.Dense(RNG.standard_normal((4, 4)))
PLUS = mlrops.LowRankPlusDiagonal(RNG.standard_normal((5, 2)), RNG.uniform(1, 2, 5))


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shown(capsys):
    def show(obj):
        mlrops.save("file.npz", obj)
        assert main(["info", "file.npz"]) == 0
        out, err = capsys.readouterr()
        assert not err
        assert out.startswith(f"file.npz: {type(obj).__name__}, saved by mlrops in format 1, ")
        return out
    return show


@pytest.fixture
def refused(capsys):
    def refuse(path):
        assert main(["info", str(path)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and err.startswith("mlrops info: error: ")
        return err
    return refuse


def fact(out, name):
    return re.search(rf"^{re.escape(name)} +(.*)$", out, re.MULTILINE)[1]



def cells(out):
    """Rows of the table of levels."""
    return [[cell.strip() for cell in re.split(r"  +", line)]
            for line in re.findall(r"^(?:\d|D)  .*$", out, re.MULTILINE)]


def test_levels_of_a_covariance(shown):
    out = shown(COVARIANCE)
    assert "9 by 9, float64" in out
    assert cells(out) == [["0", "1", "9", "2", "18"], ["1", "3", "2 to 4", "0", "0"],
                          ["2", "5", "1 to 2", "1", "9"], ["D", "9"]]
    assert fact(out, "structure") == "positive definite"
    numbers = COVARIANCE.storage
    assert sum(int(row[-1]) for row in cells(out)) == numbers == 36
    assert fact(out, "storage").startswith(f"{numbers} numbers, {8 * numbers} bytes, and ")
    assert fact(out, "dense") == "81 numbers, 648 bytes; storage is 44.4% of it"
    low, high = map(float, fact(out, "diagonal D").split(" to "))
    assert (low, high) == pytest.approx((COVARIANCE.D.min(), COVARIANCE.D.max()), rel=1e-5)
    dense = np.linalg.slogdet(COVARIANCE.toarray())[1]
    assert float(fact(out, "log|det|").split()[0]) == pytest.approx(dense, rel=1e-9)


def test_levels_of_a_rectangle_and_single_precision(shown):
    out = shown(RECTANGLE)
    assert cells(out) == [["0", "1", "10", "7", "1", "17"],
                          ["1", "3", "3 to 4", "2 to 3", "2", "34"]]
    assert fact(out, "structure") == "rectangular" and "log|det|" not in out
    assert fact(out, "storage").startswith(f"{RECTANGLE.storage} numbers, {51 * 8} bytes")
    half = mlrops.Diagonal(np.array([1, -2, 3], np.float32))
    out = shown(half)
    assert fact(out, "storage") == "3 numbers, 12 bytes" and "float32" in out
    assert fact(out, "diagonal D") == "-2 to 3"
    value, sign = fact(out, "log|det|").split(", ")
    assert float(value) == pytest.approx(np.log(6), rel=1e-6) and sign == "sign -1 (computed now)"


def test_a_symmetric_fit_shares_its_factors(shown):
    B = [RNG.standard_normal((9, r)) for r in (1, 0, 1)]
    A = mlrops.GeneralMLR(TREE, TREE, B, B)
    out = shown(A)
    assert fact(out, "structure") == "symmetric"
    assert "factors of rows and columns are one array" in out
    assert fact(out, "storage").startswith("18 numbers") and cells(out)[0][-1] == "9"


def test_parts_are_a_tree(shown):
    middle = mlrops.Kronecker([mlrops.Identity(3), PLUS])
    total = mlrops.Sum([mlrops.Product([mlrops.Dense(RNG.standard_normal((15, 15))), middle]),
                        mlrops.Scaled(middle, 2.0)])
    out = shown(total)
    lines = out[out.index("15x15 Sum"): out.index("\n\nstructure")].splitlines()
    indents = [re.match(r"[│├└─ ]*", line)[0] for line in lines]
    assert [line[len(indent):].split()[1].strip(",")
            for line, indent in zip(lines, indents, strict=True)] == [
        "Sum", "Product", "Dense", "Kronecker", "Identity", "LowRankPlusDiagonal", "Scaled",
        "Kronecker"]
    assert indents == ["", "├─ ", "│  ├─ ", "│  └─ ", "│     ├─ ", "│     └─ ", "└─ ", "   └─ "]
    assert lines[-1].endswith("(the same as above)") and sum("same" in x for x in lines) == 1
    assert fact(out, "storage") == "240 numbers, 1.92 kB"  # 15² + 5 · 2 + 5, the shared part once
    assert fact(out, "structure") == "not known to be symmetric" and "log|det|" not in out


def test_many_parts_are_cut():
    total = mlrops.Sum([mlrops.Kronecker([mlrops.Identity(2), PLUS]) for _ in range(60)])
    lines = describe(total).splitlines()
    assert lines[module.MOST_PARTS] == "... and more parts"
    assert stored_numbers(total) == (15, 0)


@pytest.mark.parametrize("A", [
    COVARIANCE, COVARIANCE.inv(), PLUS, PLUS.inv(), DENSE, DENSE.T, mlrops.Identity(3),
    mlrops.Permutation(np.array([1, 0, 2])), mlrops.Woodbury(PLUS, RNG.standard_normal((5, 1))),
    mlrops.Kronecker([DENSE, PLUS]), mlrops.BlockDiagonal([DENSE, COVARIANCE]),
    mlrops.Product([DENSE, DENSE]), mlrops.Scaled(DENSE, -3.0)], ids=lambda A: type(A).__name__)
def test_determinants_are_those_of_the_dense_matrix(shown, A):
    assert logdet_is_cheap(A)
    text = fact(shown(A), "log|det|")
    sign, value = np.linalg.slogdet(A.toarray())
    assert float(re.match(r"[-+.\de]+", text)[0]) == pytest.approx(value, rel=1e-8, abs=1e-12)
    assert ("sign -1" in text) == (sign < 0)


def test_determinants_that_cost_are_left_out(monkeypatch):
    assert not logdet_is_cheap(RECTANGLE)
    assert not logdet_is_cheap(mlrops.Wrapped(sparse.eye_array(5)))
    assert not logdet_is_cheap(mlrops.Kronecker([mlrops.Wrapped(sparse.eye_array(5)), DENSE]))
    monkeypatch.setattr(module, "CHEAP", 63)
    assert not logdet_is_cheap(DENSE) and not logdet_is_cheap(COVARIANCE)
    assert logdet_is_cheap(PLUS)  # 5 · 2²
    assert "log|det|" not in describe(DENSE)


def test_a_fitted_factor_model(shown):
    Y = RNG.standard_normal((60, 9)) + RNG.standard_normal((60, 1))
    fit = mlrops.fit_factor_model(Y, (1, 0, 0), TREE)
    out = shown(fit)
    assert fit.summary(max_factors=0) in out and "Features:" not in out
    assert f"{fit.loglik:,.6g}" in out and fit.termination in out
    assert float(fact(out, "log|det|").split()[0]) == pytest.approx(fit.covariance.logdet(),
                                                                     rel=1e-8)
    assert len(cells(out)) == 4  # the levels of the summary alone
    pandas = pytest.importorskip("pandas")
    named = mlrops.fit_factor_model(pandas.DataFrame(Y, columns=[f"f{i}" for i in range(9)]), 1)
    assert "\nFeatures: f0, f1, f2, f3, f4, f5, ... (9 in all)\n" in shown(named)


def test_a_fitted_system(shown):
    x = RNG.standard_normal((40, 2))
    model = mlrops.SUR({name: (x.sum(axis=1) + RNG.standard_normal(40), x) for name in "uvw"})
    fit = model.fit(1)
    out = shown(fit)
    assert fit.summary(max_equations=0) in out and "\nEquations: u, v, w\n" in out
    assert cells(out) == [["0", "1", "3", "1", "3"], ["D", "3"]]


def test_a_fitted_matrix(shown):
    A = RNG.standard_normal((10, 7))
    for fit in (mlrops.fit_mlr(A, (1, 1), ROWS, COLS), mlrops.allocate_ranks(A, 2, ROWS, COLS)):
        out = shown(fit)
        assert fit.summary() in out
        assert f"{fit.operator.storage} numbers" in fact(out, "storage")


def test_a_tree(shown):
    out = shown(TREE)
    assert TREE.describe(max_groups=module.MOST_GROUPS) in out
    assert cells(out) == [["0", "1", "9"], ["1", "3", "2 to 4"], ["2", "5", "1 to 2"]]


# ---------------------------------------------------------------- other files


def test_files_of_numpy_and_scipy(capsys):
    np.save("a.npy", np.asfortranarray(RNG.standard_normal((30, 40)).astype(np.float32)))
    np.savez_compressed("b.npz", one=np.ones((2, 3)), word=np.array("x"))
    sparse.save_npz("c.npz", sparse.csr_array(np.eye(7)))
    out = {}
    for name in ("a.npy", "b.npz", "c.npz"):
        assert main(["info", name]) == 0
        out[name] = capsys.readouterr().out
        assert "not a file of mlrops" in out[name]
    assert re.search(r"^ +30 by 40  float32  4.8 kB$", out["a.npy"], re.MULTILINE)
    assert re.search(r"^one +2 by 3 +float64 +48 bytes$", out["b.npz"], re.MULTILINE)
    assert re.search(r"^word +one number +<U1 +4 bytes$", out["b.npz"], re.MULTILINE)
    assert "a sparse csr matrix of SciPy, 7 by 7" in out["c.npz"]


def test_checkpoints(capsys):
    mlrops.fit_factor_model(RNG.standard_normal((30, 5)), 1, checkpoint="c.npz", tol=1e-2)
    assert main(["info", "c.npz"]) == 0
    out = capsys.readouterr().out
    assert "a factor model checkpoint, saved by mlrops" in out and "resume=True" in out


def test_files_that_cannot_be_described(tmp_path, refused, monkeypatch):
    assert "none.npz cannot be read: No such file" in refused("none.npz")
    assert "cannot be read: Is a directory" in refused(tmp_path)
    (tmp_path / "e.npz").write_bytes(b"")
    assert "e.npz is empty" in refused("e.npz")
    (tmp_path / "t.npz").write_text("text")
    assert "t.npz is neither .npz nor .npy" in refused("t.npz")
    mlrops.save("m.npz", COVARIANCE)
    whole = (tmp_path / "m.npz").read_bytes()
    (tmp_path / "m.npz").write_bytes(whole[: len(whole) // 2])
    assert "cannot read 'm.npz': damaged" in refused("m.npz")
    at = whole.index(COVARIANCE._d.tobytes())
    (tmp_path / "m.npz").write_bytes(whole[:at] + b"\x01" + whole[at + 1:])
    assert "cannot read 'm.npz'" in refused("m.npz")
    np.save("a.npy", np.ones(3))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:20])
    assert "cannot read 'a.npy': damaged" in refused("a.npy")
    monkeypatch.setattr(_archive, "VERSION", 2)
    mlrops.save("n.npz", COVARIANCE)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "its format version is 2, this mlrops reads version 1; update mlrops" in refused("n.npz")
