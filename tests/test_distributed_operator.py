"""An MLR in parts against the same in memory, and its files."""

import pickle

import numpy as np
import pytest
from column_parts import CASES, SIMPLE, operator
from trees import close

import mlrops
from mlrops import MLR, DistributedMLR

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
each = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads"):
        yield


# ---------------------------------------------------------------- the result


@each
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_operator_is_the_gathered_one(threads, name, dtype):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks, dtype)
    B = DistributedMLR.cut(A, widths)
    tol = 1e-12 if dtype == np.float64 else 1e-5
    assert (B.shape, B.dtype, B.ranks, B.widths) == (A.shape, A.dtype, ranks, widths)
    assert B.hierarchy == h
    rng = np.random.default_rng(1)
    for x in (rng.standard_normal(h.n), rng.standard_normal((h.n, 3)), np.arange(h.n)):
        for given in (x, da.from_array(x, chunks=7)):
            for found, expected in ((B @ given, A @ x), (B.matvec(given), A @ x),
                                    (B.solve(given), A.solve(x)),
                                    (B.inv_quad(given), A.inv_quad(x))):
                assert isinstance(found, da.Array) and found.shape == np.shape(expected)
                close(found.compute(), expected, tol)
            assert (B @ given).chunks[0] == widths
    assert B.logdet() == pytest.approx(A.logdet(), rel=tol) and B.slogdet() == (1, B.logdet())
    close(B.diagonal().compute(), A.diagonal(), tol)
    close(B.D.compute(), A.D, tol)
    close(B.F.compute(), A.F, tol)
    whole = B.gather()
    assert np.array_equal(whole.F, A.F) and np.array_equal(whole.D, A.D)
    close(B.principal().gather().F, A.principal().F, 100 * tol)


@each
def test_samples_have_the_covariance(threads, name):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    drawn = B.sample(30_000, random_state=0)
    assert drawn.chunks[1] == widths and B.sample(random_state=1).shape == (h.n,)
    spread = np.sqrt(A.diagonal())
    found = np.cov(drawn.compute().T) / np.outer(spread, spread)
    assert np.abs(found - A.toarray() / np.outer(spread, spread)).max() < 0.04
    again = B.sample(30_000, random_state=0)
    assert np.array_equal(again[:5].compute(), drawn[:5].compute())


@each
def test_files_of_an_operator(threads, name, tmp_path):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    mlrops.save(tmp_path / "there", B)
    for again in (mlrops.load(tmp_path / "there"), DistributedMLR.load(tmp_path / "there")):
        assert again.hierarchy == h and again.ranks == ranks and again.widths == widths
        assert np.array_equal(again.gather().F, A.F)
    assert len(list((tmp_path / "there").iterdir())) == len(widths) + 1
    DistributedMLR.cut(2 * A, widths).save(tmp_path / "there")  # takes the place of the other
    assert len(list((tmp_path / "there").iterdir())) == len(widths) + 1
    close(mlrops.load(tmp_path / "there").persist().diagonal().compute(), 2 * A.diagonal(), 1e-12)


def test_damaged_files(threads, tmp_path):
    h, ranks, widths, _ = CASES[SIMPLE]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    B.save(tmp_path / "a")
    part = min((tmp_path / "a").glob("part-1*"))
    part.write_bytes(part.read_bytes()[:-400])
    with pytest.raises(ValueError, match="cannot read .*part-1"):
        mlrops.load(tmp_path / "a").gather()
    part.unlink()
    with pytest.raises(FileNotFoundError):
        mlrops.load(tmp_path / "a").gather()
    (tmp_path / "a" / "index.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot read .*index"):
        mlrops.load(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        DistributedMLR.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        B.save(tmp_path / "file")


def test_what_an_operator_refuses(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    assert repr(B) == ("<36x36 DistributedMLR, groups (1, 3, 6), ranks (2, 1, 1), float64, 3 parts"
                       " of 6 to 18 features>")
    for x in (np.ones(35), da.ones(35), np.ones((36, 2, 2))):
        with pytest.raises(ValueError, match="36 rows|1-d or 2-d"):
            B @ x
    with pytest.raises(TypeError, match="real"):
        B @ da.ones(36, dtype=complex)
    with pytest.raises(AttributeError, match=r"no 'factorization': .*gather\(\) gives an MLR"):
        _ = B.factorization
    with pytest.raises(AttributeError, match="no 'nonsense'$"):
        _ = B.nonsense
    with pytest.raises(TypeError, match="save it to a directory, or gather it"):
        pickle.dumps(B)
    with pytest.raises(ValueError, match="add up to the 36 features, got 30 in 3 parts"):
        DistributedMLR.cut(A, (10, 10, 10))
    broken = DistributedMLR.cut(MLR.from_compact(h, ranks, 1e200 * A.F, A.D), widths)
    with pytest.raises(np.linalg.LinAlgError, match=r"level 2, group \d \(6 features\)"):
        broken.logdet()
