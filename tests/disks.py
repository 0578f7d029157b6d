"""Data in memory, on disk by every reader, and by none but its structure."""

import warnings

import numpy as np
import pytest
from gaps import at_random
from trees import close

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr

N, n = 90, 12
H, RANKS = Hierarchy.balanced(n, (1, 3)), (1, 1)
Y = simulate_mlr(H, RANKS, N, random_state=0).Y
NAMES = tuple(f"gene {i}" for i in range(n))
GAPS = np.where(at_random(Y.shape, np.random.default_rng(1), 0.15), np.nan, Y)
GAPS[[4, 60]] = np.nan
WEIGHTS = np.random.default_rng(2).uniform(0, 2, N) * (np.arange(N) % 4 > 0)


def memmap(Y, path):
    disk = np.memmap(path / "map", Y.dtype, "w+", shape=Y.shape)
    disk[:] = Y
    return disk


def zarr_array(Y, path, chunks=(7, 5)):
    zarr = pytest.importorskip("zarr")
    out = zarr.open(str(path / "y.zarr"), mode="w", shape=Y.shape, dtype=Y.dtype, chunks=chunks)
    out[:] = Y
    return out


def h5_dataset(Y, path, chunks=(7, 5)):
    h5py = pytest.importorskip("h5py")
    return h5py.File(path / "y.h5", "a").create_dataset(
        "a/y", data=Y, chunks=chunks and Y.size > 0 and tuple(
            map(min, chunks, Y.shape)) or None)


def write_parquet(Y, path):
    """Missing cells are nulls in one half of the columns, NaN in the other."""
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("narwhals")
    columns = {name: pyarrow.array(y, from_pandas=i % 2 == 0)
               for i, (name, y) in enumerate(zip(NAMES, Y.T, strict=False))}
    pq.write_table(pyarrow.table(columns), path / "y.parquet", row_group_size=25)
    return pq


def parquet_file(Y, path):
    return write_parquet(Y, path).ParquetFile(path / "y.parquet")


def parquet_dataset(Y, path):
    folder = path / "parts"
    for k, part in enumerate(np.split(Y, [20, 20, 61][: len(Y) // 20])):
        (folder / str(k)).mkdir(parents=True)
        write_parquet(part, folder / str(k))
    return pytest.importorskip("pyarrow.dataset").dataset(
        [str(folder / str(k) / "y.parquet") for k in range(k + 1)])


ARRAYS = {"zarr": zarr_array, "h5py": h5_dataset,
          "contiguous h5py": lambda Y, path: h5_dataset(Y, path, None)}
TABLES = {"parquet": parquet_file, "dataset": parquet_dataset}
KINDS = ARRAYS | TABLES
each = pytest.mark.parametrize("kind", KINDS)


def fit(data, hierarchy=H, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_factor_model(data, RANKS, hierarchy, **{"max_iter": 6, "tol": 0} | options)


def same(found, expected, bits=True):
    for a, b in ((found.loglik_trace, expected.loglik_trace), (found.mean, expected.mean),
                 (found.covariance.F, expected.covariance.F),
                 (found.covariance.D, expected.covariance.D)):
        assert a.dtype == b.dtype
        if bits:
            np.testing.assert_array_equal(a, b)
        else:
            close(a, b, 1e-12)
    assert found.n_samples == expected.n_samples


def as_frame(values, fit):
    """The data in memory, with the names of a fit."""
    if fit.feature_names is None:
        return values
    return pytest.importorskip("pandas").DataFrame(values, columns=fit.feature_names)


class Watched:
    """An array on disk by its structure only, that tells how many rows were asked for at a time."""

    ndim, chunks = 2, (4, 3)

    def __init__(self, values):
        self._values, self.read = values, []
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.read.append((rows.start, min(rows.stop, len(self._values))))
        return self._values[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("pulled into memory")

    def __iter__(self):
        raise AssertionError("gone through row by row")
