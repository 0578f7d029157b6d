"""Data on disk, of zarr, h5py and pyarrow: results of memory maps, read a few rows at a time."""

import warnings

import numpy as np
import pytest
from gaps import at_random
from streams import split_rows
from trees import close

from mlrops import ConvergenceWarning, Diagonal, Hierarchy, fit_factor_model, select_ranks
from mlrops._common.disk import OnDisk, on_disk
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


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of at most ten rows of doubles, or of one chunk."""
    monkeypatch.setattr("mlrops._common.disk.READ_BYTES", 10 * 8 * n)


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


# ---------------------------------------------------------------- fits


@each
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i2", "|b1", ">f8", ">f4", ">i4"])
def test_fits_are_those_of_memory_maps(kind, dtype, tmp_path):
    data = (Y > 0 if dtype == "|b1" else 10 * Y).astype(dtype)
    if kind in TABLES:
        data = data.astype(data.dtype.newbyteorder("="))
    found, expected = (fit(make(data, tmp_path)) for make in (KINDS[kind], memmap))
    same(found, expected)
    assert found.covariance.dtype == (np.float32 if dtype.endswith("f4") else np.float64)
    assert found.feature_names == (NAMES if kind in TABLES else None)


@each
@pytest.mark.parametrize("options", [
    {"sample_weight": WEIGHTS}, {"compress": True, "optimizer": "em"}, {"center": False},
    {"optimizer": "em"}, {"init": "random", "n_init": 2, "random_state": 0}, {"prior": True},
    {"compress": True, "sample_weight": WEIGHTS, "optimizer": "em"}], ids=" ".join)
def test_options(kind, options, tmp_path):
    same(*(fit(make(Y, tmp_path), **options) for make in (KINDS[kind], memmap)),
         bits="compress" not in options)


@each
def test_missing_cells(kind, tmp_path):
    data, mapped = (make(GAPS, tmp_path) for make in (KINDS[kind], memmap))
    found, expected = (fit(x, missing="em", sample_weight=WEIGHTS) for x in (data, mapped))
    same(found, expected)
    assert fit(data, missing="em").n_samples == N - 2
    feature = NAMES[np.isnan(GAPS[0]).argmax()] if kind in TABLES else np.isnan(GAPS[0]).argmax()
    with pytest.raises(ValueError, match=f'NaN in row 0, feature {feature}; missing="em" fits'):
        fit(data)
    with pytest.raises(ValueError, match="compress=True needs complete data"):
        fit(data, missing="em", compress=True)


@each
def test_a_checkpoint_of_a_memory_map_is_resumed(kind, tmp_path):
    path, options = tmp_path / "fit", {"optimizer": "bfgs", "tol": 0, "gtol": 0}
    fit(memmap(Y, tmp_path), checkpoint=path, max_iter=3, **options)
    data = KINDS[kind](Y, tmp_path)
    found = fit(data, checkpoint=path, resume=True, max_iter=8, **options)
    same(found, fit(memmap(Y, tmp_path), max_iter=8, **options))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="checkpoint of another fit .*data"):
        fit(KINDS[kind](Y + 1e-9 * Y**2, other), checkpoint=path, resume=True, **options)


@pytest.mark.parametrize("kind", TABLES)
def test_columns_are_matched_by_name(kind, tmp_path):
    groups = {name: str(H.labels(1)[i]) for i, name in reversed(list(enumerate(NAMES)))}
    data = KINDS[kind](Y, tmp_path)
    found = fit(data, groups)
    assert found.feature_names == NAMES
    turned = {name: Y[:, i] for i, name in reversed(list(enumerate(NAMES)))}
    frame = pytest.importorskip("pandas").DataFrame(turned)
    assert found.score(frame) == pytest.approx(found.score(data), rel=1e-12)
    with pytest.raises(ValueError, match="it has none for 1 feature .gene 0"):
        fit(data, {name: groups[name] for name in NAMES[1:]})


def test_labels_that_pandas_has_stored_are_no_features(tmp_path):
    pd = pytest.importorskip("pandas")
    pq, ds = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow.dataset")
    days = pd.Index(np.arange(N) ** 2, name="day")
    pd.DataFrame(Y, days, NAMES).to_parquet(tmp_path / "y.parquet")
    for data in (pq.ParquetFile(tmp_path / "y.parquet"), ds.dataset(tmp_path / "y.parquet")):
        assert "day" in getattr(data, "schema_arrow", data.schema).names
        found = fit(data)
        assert found.feature_names == NAMES
        same(found, fit(memmap(Y, tmp_path)))
        assert found.impute(data).column_names == list(NAMES)


# ---------------------------------------------------------------- results


def as_array(x):
    """What came back, of a table of pyarrow or not."""
    if hasattr(x, "columns"):
        return np.stack([column.to_numpy() for column in x.columns], axis=1)
    return x.to_numpy() if hasattr(x, "chunks") else x


@each
@pytest.mark.parametrize("values", [Y, GAPS], ids=["complete", "missing"])
def test_results_are_those_in_memory(kind, values, tmp_path):
    data = KINDS[kind](values, tmp_path)
    found = fit(data, missing="em", prior=True)
    assert found.score(data) == pytest.approx(found.score(as_frame(values, found)), rel=1e-12)
    memory = as_frame(values, found)
    close(as_array(found.score_samples(data)), np.asarray(found.score_samples(memory)), 1e-12)
    for a, b in zip(found.impute(data, return_std=True), found.impute(memory, return_std=True),
                    strict=True):
        close(as_array(a), np.asarray(b), 1e-12)
    np.testing.assert_array_equal(as_array(found.impute(data)), as_array(
        found.impute(data, return_std=True)[0]))
    for level in (None, 1):
        z, cov = found.scores(data, level, covariance=True)
        z0, cov0 = found.scores(memory, level, covariance=True)
        if level is None:
            assert len(z) == len(cov) == 2
            z, cov, z0, cov0 = z[1], cov[1], z0[1], cov0[1]
        z = as_array(z)
        close(z.reshape(N, -1), np.asarray(z0).reshape(N, -1), 1e-12)
        assert cov.shape == cov0.shape and cov.ndim == (3 if values is Y else 4)
        close(cov, cov0, 1e-12)
    turned = found.rotate("varimax")
    close(as_array(turned.scores(data, 1)).reshape(N, -1),
          np.asarray(turned.scores(memory, 1)).reshape(N, -1), 1e-12)
    assert found.check(data, n_directions=1, n_init=0, random_state=0).n_samples == \
        found.n_samples


def as_frame(values, fit):
    """The data in memory, with the names of a fit."""
    if fit.feature_names is None:
        return values
    return pytest.importorskip("pandas").DataFrame(values, columns=fit.feature_names)


def test_some_blocks_complete(tmp_path):
    """Covariances are one a row where any row lacks a cell, whatever block it is in."""
    values = Y.copy()
    values[55, 3] = np.nan
    found = fit(Y)
    for data in (memmap(values, tmp_path), zarr_array(values, tmp_path)):
        z, cov = found.scores(data, 1, covariance=True)
        z0, cov0 = found.scores(values, 1, covariance=True)
        close(z, z0, 1e-12)
        close(cov, cov0, 1e-12)
    few = Y.copy()
    few[55, 1:] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="55"):
        found.scores(zarr_array(few, tmp_path), method="bartlett")


@each
@pytest.mark.parametrize("options", [
    {"criterion": "bic"}, {"criterion": "cv"}, {"criterion": "cv", "missing": "em"},
    {"criterion": "cv", "sample_weight": WEIGHTS}], ids=" ".join)
def test_ranks_are_chosen(kind, options, tmp_path):
    values = GAPS if "missing" in options else Y
    options = options | {"random_state": 0, "max_iter": 30, "optimizer": "em"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found, expected = (select_ranks(data, [(0, 1), (1, 1)], H, **options)
                           for data in (KINDS[kind](values, tmp_path), values))
    assert found.ranks == expected.ranks
    for a, b in zip(found.table, expected.table, strict=True):
        assert (a.bic, a.cv_mean) == pytest.approx((b.bic, b.cv_mean), rel=1e-8, nan_ok=True)


@each
def test_the_estimator(kind, tmp_path):
    FactorModel = pytest.importorskip("mlrops.sklearn").FactorModel
    model = FactorModel(RANKS, H, missing="em", optimizer="em", max_iter=30)
    data, memory = KINDS[kind](GAPS, tmp_path), GAPS
    if kind in TABLES:
        memory = pytest.importorskip("pandas").DataFrame(GAPS, columns=NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = model.fit(memory).loglik_
        model.fit(data)
    assert model.n_features_in_ == n
    assert getattr(model, "feature_names_in_", None) is None or (
        tuple(model.feature_names_in_) == NAMES and kind in TABLES)
    assert model.loglik_ == pytest.approx(expected, rel=1e-10)
    close(model.transform(data), model.transform(memory), 1e-12)
    close(model.score_samples(data), model.score_samples(memory), 1e-12)
    assert model.score(data) == pytest.approx(model.score(memory), rel=1e-12)
    with pytest.raises(ValueError, match="NaN"):
        FactorModel(RANKS, H).fit(Y).transform(zarr_array(GAPS, tmp_path))


# ---------------------------------------------------------------- what is read


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


class WatchedTable:
    """A parquet file of which nothing but batches can be read."""

    def __init__(self, file):
        self._file, self.read = file, []
        self.metadata, self.schema_arrow = file.metadata, file.schema_arrow

    def iter_batches(self, batch_size, columns=None):
        for batch in self._file.iter_batches(batch_size, columns=columns):
            self.read.append((0, batch.num_rows))
            yield batch


def watched(values, path):
    return Watched(values)


def watched_table(values, path):
    return WatchedTable(parquet_file(values, path))


@pytest.mark.parametrize("make", [watched, watched_table])
@pytest.mark.parametrize("values", [Y, GAPS], ids=["complete", "missing"])
def test_a_few_rows_are_read_at_a_time(make, values, tmp_path):
    data = make(values, tmp_path)
    found = fit(values, missing="em")
    if make is watched_table:
        found = fit(as_frame(values, fit(data, missing="em")), missing="em")
    tasks = [
        lambda: fit(data, missing="em", max_iter=2),
        lambda: found.score(data), lambda: found.score_samples(data),
        lambda: found.scores(data), lambda: found.impute(data),
        lambda: found.check(data, n_directions=0, n_init=0),
        lambda: select_ranks(data, [(0, 1)], H, criterion="cv", missing="em", max_iter=2)]
    if values is Y:
        tasks.append(lambda: fit(data, compress=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for task in tasks:
            data.read.clear()
            try:
                task()
            except ValueError as error:  # a check of a fit to fewer iterations may end otherwise
                assert "log-likelihood" in str(error)
            assert data.read
            assert max(stop - start for start, stop in data.read) <= 10


def test_rows_of_whole_chunks_are_read(monkeypatch):
    data = Watched(Y)
    assert [len(block) for block in on_disk(data)] == [8] * 11 + [2]
    for chunks, length in (((40, 1), 40), (None, 10), ((3, n), 9), ((10, n), 10)):
        data.chunks = chunks
        assert len(next(iter(on_disk(data)))) == length
    monkeypatch.setattr("mlrops._common.disk.LARGEST_READ", 39 * 8 * n)
    data.chunks = 40, n
    assert len(next(iter(on_disk(data)))) == 10
    data.read.clear()
    same(fit(data), fit(split_rows(Y, 0)))
    assert {stop - start for start, stop in data.read} == {10}


def test_a_pass_an_iteration(tmp_path):
    data = Watched(Y)
    found = fit(data, optimizer="em", max_iter=4)
    passes = sum(start == 0 for start, _ in data.read)
    assert passes <= found.n_evaluations + 16  # those of the start


def test_what_is_not_on_disk():
    class InMemory(Watched):
        def __dlpack__(self): ...

    for other in (Y, Y.tolist(), np.float64(1), Diagonal(np.ones(3)), InMemory(Y), None, "a",
                  iter([Y]), [Y], np.ma.masked_invalid(GAPS), np.asmatrix(Y)):
        assert on_disk(other) is None
    assert isinstance(on_disk(Watched(Y)), OnDisk)
    pd = pytest.importorskip("pandas")
    for other in (pd.DataFrame(Y), pd.Series(Y[0])):
        assert on_disk(other) is None
    pa = pytest.importorskip("pyarrow")
    assert on_disk(pa.table({"a": [1.0]})) is None
    da = pytest.importorskip("dask.array")
    assert on_disk(da.from_array(Y)) is None


# ---------------------------------------------------------------- bad data


@each
def test_bad_numbers(kind, tmp_path):
    values = Y.copy()
    values[77, 5] = np.inf
    feature = NAMES[5] if kind in TABLES else 5
    data = KINDS[kind](values, tmp_path)
    with pytest.raises(ValueError, match=f"got infinity in row 77, feature {feature}"):
        fit(data)
    with pytest.raises(ValueError, match=f"infinity.*feature {feature}"):
        fit(as_frame(Y, fit(KINDS[kind](Y, new(tmp_path))))).score(data)
    values[:, 5] = 3
    with pytest.raises(ValueError, match=f"constant.*{feature}"):
        fit(KINDS[kind](values, new(tmp_path)))


def new(path):
    for name in map(str, range(100)):
        if not (path / name).exists():
            (path / name).mkdir()
            return path / name


@each
@pytest.mark.parametrize("shape, ranks, message", [
    ((0, n), 1, "at least 2 samples"), ((1, n), 1, "at least 2 samples"),
    ((N, 3), 1, None), ((N, 1), 0, None)])
def test_sizes(kind, shape, ranks, message, tmp_path):
    values = Y[: shape[0], : shape[1]]
    data = KINDS[kind](values, tmp_path)
    if message is None:
        found, expected = (fit_factor_model(x, ranks) for x in (data, memmap(values, tmp_path)))
        same(found, expected)
        return
    with pytest.raises(ValueError, match=message):
        fit_factor_model(data, ranks)
    memory = fit(as_frame(Y, fit(KINDS[kind](Y, new(tmp_path)))))
    assert len(memory.score_samples(data)) == shape[0]


@pytest.mark.parametrize("kind", ARRAYS)
def test_other_shapes(kind, tmp_path):
    for k, values in enumerate((Y[0], Y.reshape(9, 10, n))):
        (tmp_path / str(k)).mkdir()
        data = KINDS[kind](values, tmp_path / str(k), *(
            [(3,) * values.ndim] if kind != "contiguous h5py" else []))
        for task in (fit, fit(Y).score, lambda data: select_ranks(data, [1])):
            with pytest.raises(ValueError, match="must be 2-d, samples by features, got shape"):
                task(data)
    with pytest.raises(ValueError, match=r"12 features, got shape \(90, 5\)"):
        fit(KINDS[kind](Y[:, :5], tmp_path))


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_other_things(kind, tmp_path):
    for k, dtype in enumerate(("S3", "c16")):
        (tmp_path / str(k)).mkdir()
        data = KINDS[kind](Y.astype(dtype), tmp_path / str(k))
        with pytest.raises(TypeError, match="must be (numeric|real), got"):
            fit(data)
        with pytest.raises(TypeError, match="must be (numeric|real), got"):
            fit(Y).score(data)


@pytest.mark.parametrize("kind", TABLES)
def test_columns_of_text_are_named(kind, tmp_path):
    values = Y.astype(object)
    values[:, 3], values[:, 7] = "word", "other"
    data = KINDS[kind](values, tmp_path)
    message = r"Y must be numeric, got .* in 2 columns \(gene 3, gene 7\)"
    FactorModel = pytest.importorskip("mlrops.sklearn").FactorModel
    for task in (fit, fit(as_frame(Y, fit(KINDS[kind](Y, new(tmp_path))))).score,
                 FactorModel(RANKS, H).fit):
        with pytest.raises(TypeError, match=message):
            task(data)


def test_files_that_are_closed(tmp_path):
    data = h5_dataset(Y, tmp_path)
    found = fit(data)
    data.file.close()
    for task in (fit, found.score):
        with pytest.raises(ValueError, match="Y cannot be read, is its file closed"):
            task(data)


@each
def test_what_needs_data_in_memory(kind, tmp_path):
    data = KINDS[kind](Y, tmp_path)
    with pytest.raises(ValueError, match='prior="cv" holds out rows of data in memory, got data'):
        fit(data, prior="cv")
    with pytest.raises(ValueError, match="one entry for each of the 90 samples, got 3"):
        fit(data, sample_weight=np.ones(3))
