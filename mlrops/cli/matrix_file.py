"""Matrices in files: NumPy, SciPy sparse, text and Matrix Market."""

import csv
import io
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import mmread

from .._common.wording import counted, name_some
from ..tree.hierarchy import Hierarchy
from .errors import CommandError
from .table_file import TableFile, decoded, separator_of

__all__ = ["read_matrix", "read_names", "read_tree"]

TEXT = ".csv", ".tsv", ".txt"


def read_matrix(path, key=None):
    """A finite real matrix, (m, n): a float ndarray, or a csr_array where the file is sparse."""
    ending = Path(path).suffix.lower()
    readers = dict.fromkeys(TEXT, _read_text) | {".npy": _read_npy, ".mtx": _read_market}
    if key is not None and ending != ".npz":
        raise CommandError(f"--key names an array of an .npz file, got {path}")
    if ending != ".npz" and ending not in readers:
        raise CommandError(f"{path} must end in .npy, .npz, .mtx, {', '.join(TEXT)}")
    try:
        A = _read_npz(path, key) if ending == ".npz" else readers[ending](path)
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
        if key is None and len(names) != 1:
            raise CommandError(f"{path} holds {counted(len(names), 'array')}: choose one by --key"
                               f" ({name_some(names)})")
        key = names[0] if key is None else key
        if key not in names:
            raise CommandError(f"{path} has no array {key}; there are {name_some(names)}")
        return arrays[key]


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
    """The head of a text file of numbers as a list of column names; None where there is none."""
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


def read_tree(path, n, names=None):
    """The tree of a table with a line for each of n rows: groups, coarse to fine.

    Lines stand in the order of the rows, unless the first column holds the names of these.
    """
    table = TableFile(path)
    by_name = _by_name(table, names)
    if by_name is not None:
        return by_name
    if len(table.rows) != n:
        raise CommandError(f"{path} must have a line below its head for each of the"
                           f" {counted(n, 'row')} of the matrix, it has {len(table.rows)}"
                           + (": is there no head?" if len(table.rows) == n - 1 else ""))
    levels = list(map(table.text, table.columns))
    for column, labels in zip(table.columns, levels, strict=True):
        if "" in labels:
            raise CommandError(f"{path}, line {table.lines[labels.index('')]}, column {column}:"
                               " a row without a group")
    _check_nested(path, list(table.columns), levels)
    return Hierarchy.from_labels(*levels)


def _by_name(table, names):
    """The tree of a table whose first column names the columns of the matrix, or None."""
    first, *columns = table.columns
    given = table.text(first)
    if names is None or not columns or len(set(names)) < len(names) or (
            set(given).isdisjoint(names)):
        return None
    paths = {}
    for line, *path in zip(table.lines, given, *map(table.text, columns), strict=True):
        name, *path = path
        if name in paths:
            raise CommandError(f"{table.path}, line {line}: {name} has had a line before")
        if "" in path:
            raise CommandError(f"{table.path}, line {line}, column {columns[path.index('')]}: a row"
                               " without a group")
        paths[name] = path
    lacks = [name for name in names if name not in paths]
    if lacks:
        raise CommandError(f"{table.path} has no line for {len(lacks)} of the {len(names)} columns"
                           f" of the matrix ({name_some(lacks)})")
    levels = list(zip(*(paths[name] for name in names), strict=True))
    _check_nested(table.path, columns, levels)
    return Hierarchy.from_labels({name: tuple(paths[name]) for name in names})


def _check_nested(path, names, levels):
    """Refuse a group that lies in two groups of the column before."""
    for (outer, above), (inner, below) in pairwise(zip(names, levels, strict=True)):
        parent = {}
        for group, one in zip(below, above, strict=True):
            other = parent.setdefault(group, one)
            if other != one:
                raise CommandError(
                    f"{path}: group {group} of column {inner} lies in two groups of column {outer},"
                    f" {other} and {one}; columns go from coarse to fine, each group in one of the"
                    " column before")
