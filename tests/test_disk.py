"""Data on disk, of zarr, h5py and pyarrow: results of memory maps, read a few rows at a time."""

import warnings

import numpy as np
import pytest
from disks import (
    GAPS,
    KINDS,
    NAMES,
    RANKS,
    TABLES,
    WEIGHTS,
    H,
    N,
    Watched,
    Y,
    as_frame,
    each,
    fit,
    memmap,
    n,
    parquet_file,
    same,
    zarr_array,
)
from streams import split_rows
from test_kernels import in_a_new_process
from trees import close

from mlrops import ConvergenceWarning, Diagonal, select_ranks
from mlrops._common.disk import OnDisk, on_disk


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of at most ten rows of doubles, or of one chunk."""
    monkeypatch.setattr("mlrops._common.disk.READ_BYTES", 10 * 8 * n)


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


class WatchedTable:
    """A parquet file of which nothing but batches can be read."""

    def __init__(self, file):
        self._file, self.read = file, []
        self.metadata, self.schema_arrow = file.metadata, file.schema_arrow

    def iter_batches(self, batch_size, row_groups, columns=None):
        for batch in self._file.iter_batches(batch_size, row_groups, columns):
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


@pytest.mark.parametrize("kind", TABLES)
def test_a_reader_of_tables_holds_a_few_row_groups(kind, tmp_path):
    """By default, or by the user's own options, it may fetch a file at once."""
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = np.random.default_rng(0).standard_normal((40_000, 100))
    table = pyarrow.table({f"x{i}": column for i, column in enumerate(values.T)})
    pq.write_table(table, tmp_path / "y.parquet", row_group_size=1000)
    most = in_a_new_process(f"""
        import pyarrow
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq
        from mlrops._common.disk import on_disk

        path = {str(tmp_path / "y.parquet")!r}
        data = pq.ParquetFile(path, pre_buffer=True) if {kind == "parquet"} else ds.dataset(path)
        assert sum(len(block) for block in on_disk(data)) == 40_000
        print(pyarrow.default_memory_pool().max_memory())
    """)
    assert 0 < int(most) < values.nbytes


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
