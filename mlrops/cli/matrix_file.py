"""Matrices in files: NumPy, SciPy sparse, text, Matrix Market, parquet, zarr and HDF5."""

import csv
import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import mmread

from .._common.wording import counted, name_some
from .errors import CommandError, needed
from .parquet_file import ParquetFile
from .table_file import decoded, separator_of

__all__ = ["read_matrix", "read_names"]

TEXT = ".csv", ".tsv", ".txt"


def read_matrix(path, key=None):
    """A finite real matrix, (m, n): a float ndarray, or a csr_array where the file is sparse."""
    ending = Path(path.lower().removesuffix(".zip")).suffix
    several = {".npz": _read_npz, ".zarr": _read_zarr, ".h5": _read_h5, ".hdf5": _read_h5}
    readers = dict.fromkeys(TEXT, _read_text) | {
        ".npy": _read_npy, ".mtx": _read_market, ".parquet": _read_parquet}
    if key is not None and ending not in several:
        raise CommandError(f"--key names an array of an .npz, .zarr or .h5 file, got {path}")
    if ending not in readers | several:
        raise CommandError(f"{path} must end in .npy, .npz, .mtx, .parquet, .zarr, .h5, .hdf5,"
                           f" {', '.join(TEXT)}")
    try:
        A = several[ending](path, key) if ending in several else readers[ending](path)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, OverflowError, csv.Error, zipfile.BadZipFile,
            zlib.error) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise CommandError(f"{path} is not a matrix in {ending} format: {reason}") from None
    return _checked(A, path)


def _checked(A, path):
    if A.ndim != 2 or 0 in A.shape:
        raise CommandError(f"{path} must hold a matrix with rows and columns, got an array of shape"
                           f" {A.shape}")
    if A.dtype.kind == "c":
        raise CommandError(f"{path} holds complex numbers; only real matrices are fitted")
    if A.dtype.kind not in "fiub":
        raise CommandError(f"{path} must hold numbers, got dtype {A.dtype}")
    if A.dtype != np.float32:
        A = A.astype(np.float64, copy=False)
    if sparse.issparse(A):
        A = sparse.csr_array(A)
        A.sum_duplicates()  # norms go by the stored entries
    values = A.data if sparse.issparse(A) else A
    if not np.isfinite(values).all():
        if sparse.issparse(A):
            A = A.tocoo()
            at = np.flatnonzero(~np.isfinite(A.data))
            bad = np.stack([A.row[at], A.col[at]], axis=1)
        else:
            bad = np.argwhere(~np.isfinite(A))
        where = name_some([f"[{i}, {j}]" for i, j in bad[:6]], limit=len(bad[:6]))
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        raise CommandError(f"{path} must be finite, got NaN or infinity in"
                           f" {counted(len(bad), 'entry')}: {where}{more} (row and column, from 0)")
    return A


def _load(path, magic, other):
    """What `numpy.load` reads; a file that begins otherwise it would take for a pickle."""
    with open(path, "rb") as file:
        start = file.read(len(magic))
    if start != magic:
        raise ValueError(other if start else "it is empty")
    return np.load(path, allow_pickle=False)


def _read_npy(path):
    return _load(path, b"\x93NUMPY", "it does not begin like one")


def _read_npz(path, key):
    with _load(path, b"PK", "it is not an archive of arrays") as arrays:
        names = arrays.files
        if "mlrops.json" in names:
            raise CommandError(f"{path} was written by mlrops.save and is no plain matrix; python"
                               " -m mlrops info describes it")
        if key is None and {"format", "shape", "data"} <= set(names):
            return sparse.load_npz(path)
        return arrays[_chosen(names, key, path)]


def _chosen(names, key, path):
    """The name of the array that is asked for, or of the only one."""
    if key is None and len(names) != 1:
        raise CommandError(f"{path} holds {counted(len(names), 'array')}: choose one by --key"
                           f" ({name_some(names)})")
    key = names[0] if key is None else key
    if key not in names:
        raise CommandError(f"{path} has no array {key}; there are {name_some(names)}")
    return key


def _read_zarr(path, key):
    zarr = needed(path, "zarr", "disk")
    os.stat(path)  # a missing file is told in the system's words
    store = zarr.storage.ZipStore(path, mode="r") if os.path.isfile(path) else path
    root = zarr.open(store, mode="r")
    arrays = {"/": root} if hasattr(root, "shape") else dict(_arrays_in(root))
    return arrays[_chosen(list(arrays), key, path)][...]


def _arrays_in(group, at=""):
    """Names and arrays of a group of zarr, and of those in it."""
    for name, array in group.arrays():
        yield at + name, array
    for name, inner in group.groups():
        yield from _arrays_in(inner, f"{at}{name}/")


def _read_h5(path, key):
    h5py = needed(path, "h5py", "disk")
    os.stat(path)
    names = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, x: names.append(name) if hasattr(x, "shape") else None)
        return file[_chosen(names, key, path)][()]


def _read_parquet(path):
    table = ParquetFile(path)
    return np.stack([table.numbers(name) for name in table.columns], axis=1)


def _read_market(path):
    with open(path, "rb"):  # a missing file is told in the system's words
        pass
    return mmread(path)


def _read_text(path):
    """Rows of numbers; a first line without any number is one of column names."""
    rows, width = [], None
    text = decoded(path, encodes=False)
    reader = csv.reader(io.StringIO(text), delimiter=separator_of(text) or " ",
                        skipinitialspace=True)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        line = reader.line_num
        if width is not None and len(cells) != width:
            raise CommandError(f"{path}, line {line}: {counted(len(cells), 'cell')}, but"
                               f" {width} in the first line")
        first, width = width is None, len(cells)
        try:
            rows.append(np.array(list(map(float, cells))))
        except ValueError:
            column, cell = next((j, cell) for j, cell in enumerate(cells, 1)
                                if not _is_number(cell))
            if first and not any(map(_is_number, cells)):
                continue
            what = repr(cell.strip()) if cell.strip() else "an empty cell"
            raise CommandError(f"{path}, line {line}, column {column}: {what} is not a"
                               " number") from None
        if not np.isfinite(rows[-1]).all():
            column = np.flatnonzero(~np.isfinite(rows[-1]))[0]
            raise CommandError(f"{path}, line {line}, column {column + 1}:"
                               f" {cells[column].strip()!r} is not a finite number")
    if not rows:
        raise CommandError(f"{path} has no rows of numbers")
    return np.array(rows)


def read_names(path):
    """The names of the columns of a text or parquet file; None where there are none."""
    if Path(path).suffix.lower() == ".parquet":
        return list(ParquetFile(path).columns)
    if Path(path).suffix.lower() not in TEXT:
        return None
    head = decoded(path, encodes=False).partition("\n")[0]
    cells = next(csv.reader([head], delimiter=separator_of(head) or " ", skipinitialspace=True), [])
    cells = [cell.strip() for cell in cells]
    return None if any(map(_is_number, cells)) else cells


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True
