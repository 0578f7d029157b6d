"""Arrays and tables on disk: known by what they can do, and read some rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .validate import check_2d, working_dtype

__all__ = ["OnDisk", "by_blocks", "on_disk"]

# Bytes to read at a time, and those of a row of an array's own chunks above which it is cut.
READ_BYTES = 16_000_000
LARGEST_READ = 256_000_000


@dataclass(frozen=True)
class OnDisk:
    """Samples on disk: gone through from the first to the last, a block of rows at a time."""

    shape: tuple[int, int]
    dtype: Any  # to give results in: float32 or float64; None for tables
    names: tuple[str, ...] | None  # of the columns of a table
    read: Callable[[], Iterator[Any]] = field(repr=False)  # blocks: arrays, or frames of a table

    def __iter__(self) -> Iterator[Any]:
        return self.read()

    def through(self, function: Callable[[Any], Any]) -> "OnDisk":
        """The same with its blocks passed through a function as they are read."""
        return replace(self, read=partial(map, function, self))


def on_disk(x: Any) -> OnDisk | None:
    """`x` as samples on disk, None for what is something else: no file is read yet.

    That is a memory map, what can be sliced as an array but is none (of zarr, h5py, netCDF4), and a
    parquet file or a dataset of pyarrow.  They are known by their attributes: the packages that
    they come from need not be there.
    """
    if isinstance(x, OnDisk):
        return x
    if hasattr(x, "iter_batches") and hasattr(x, "schema_arrow"):
        return _table(x.schema_arrow, x.metadata.num_rows, partial(_row_groups, x))
    if hasattr(x, "to_batches") and hasattr(x, "count_rows"):
        return _table(x.schema, x.count_rows(), partial(x.to_batches, **_unhurried(x)))
    try:
        if not (isinstance(x, np.memmap) or _is_stored_array(x)):
            return None
    except (RuntimeError, ValueError) as error:  # of h5py
        raise ValueError(f"Y cannot be read, is its file closed? {error}") from error
    return OnDisk(check_2d(x).shape, working_dtype(x.dtype, "Y"), None, partial(_slices, x))


# What arrays in memory, columns of frames, operators, sparse matrices and dask's arrays have.
OTHERS = "__array_interface__", "__dlpack__", "iloc", "matvec", "toarray", "__dask_graph__"


def _is_stored_array(x):
    """Whether `x` has the structure of an array, but is none of the others."""
    return (all(hasattr(x, name) for name in ("shape", "ndim", "__getitem__"))
            and isinstance(getattr(x, "dtype", None), np.dtype)
            and not any(hasattr(x, name) for name in OTHERS))


def _slices(x):
    """The rows of an array, whole rows of its own chunks at a time unless these are huge."""
    size = max(1, x.shape[1] * x.dtype.itemsize)
    rows, own = max(1, READ_BYTES // size), max(1, (getattr(x, "chunks", None) or (1,))[0])
    if own * size <= LARGEST_READ:
        rows = max(rows // own, 1) * own
    for start in range(0, max(1, x.shape[0]), rows):
        yield x[start : start + rows]


def _table(schema, n_rows, batches):
    """A table of pyarrow, without the columns that are labels of the rows to pandas."""
    labels = (schema.pandas_metadata or {}).get("index_columns", ())
    names = [name for name in schema.names if name not in labels]
    columns = None if len(names) == len(schema.names) else names
    rows = max(1, READ_BYTES // (8 * max(1, len(names))))

    def read():
        import pyarrow

        if not n_rows:
            yield schema.empty_table().select(names)
        for batch in batches(batch_size=rows, columns=columns):
            if batch.num_rows:
                yield pyarrow.Table.from_batches([batch])

    return OnDisk((n_rows, len(names)), None, tuple(names), read)


def _row_groups(file, **options):
    """The batches of a parquet file; those of all row groups at once would be fetched at once."""
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(row_groups=[group], **options)


def _unhurried(dataset):
    """Options of a scan that does not read ahead, where the user has set none: by default it does
    so by 64 batches, and fetches what it needs of a parquet file at once."""
    options = {"batch_readahead": 1, "fragment_readahead": 1}
    own = getattr(getattr(dataset, "format", None), "default_fragment_scan_options", None)
    if hasattr(own, "pre_buffer") and own == type(own)():
        options["fragment_scan_options"] = type(own)(pre_buffer=False)
    return options


def by_blocks(function: Callable[[Any, int], Any], Y: Any) -> Any:
    """``function(Y, 0)``; of data on disk, what it gives for blocks of them, joined along the rows.

    The second argument is the number of the first row.  Results are arrays, frames, series, or
    tuples of those.
    """
    disk = on_disk(Y)
    if disk is None:
        return function(Y, 0)
    parts, first = [], 0
    for block in disk:
        parts.append(function(block, first))
        first += len(block)
    return _joined(parts)


def _joined(parts):
    if isinstance(parts[0], tuple):
        return tuple(map(_joined, zip(*parts, strict=True)))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import pyarrow

    if isinstance(parts[0], pyarrow.Table):
        return pyarrow.concat_tables(parts)
    return pyarrow.chunked_array([chunk for part in parts for chunk in part.chunks])
