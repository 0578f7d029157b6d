"""Data on disk that cannot be fitted to: errors that say where and why."""

import numpy as np
import pytest
from disks import (
    ARRAYS,
    KINDS,
    NAMES,
    RANKS,
    TABLES,
    H,
    N,
    Watched,
    Y,
    as_frame,
    each,
    fit,
    h5_dataset,
    memmap,
    n,
    same,
)

from mlrops import fit_factor_model, select_ranks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of at most ten rows of doubles, or of one chunk."""
    monkeypatch.setattr("mlrops._common.disk.READ_BYTES", 10 * 8 * n)


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


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs NumPy 2")
def test_text_of_a_variable_length():
    values = Y.astype(np.dtypes.StringDType())
    for data in (values, Watched(values)):
        with pytest.raises(TypeError, match="Y must be numeric, got dtype StringDType"):
            fit(data)
