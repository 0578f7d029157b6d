"""Data that users hold, whatever they hold them in: read once, where they come in."""

import itertools
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from .cluster import is_dask
from .disk import on_disk
from .frames import frame_values, is_frame
from .labelled import data_names
from .labels import by_label, labels_of
from .typing import FloatArray
from .validate import as_real, check_2d, in_memory, plain, working_dtype
from .wording import counted, name_some

__all__ = ["Given", "align_weights", "as_array", "check_weights", "check_whole_rows",
           "cut_by_columns", "is_chunks", "read_given", "wrong_weights"]


class Given(NamedTuple):
    """Samples of n features, one a row, with what is known of them before they are gone through."""

    values: Any  # ndarray (N, n) of float32 or float64 in C order, `OnDisk`; else what was given
    dtype: Any  # to give results in: float32 or float64; None where only a pass tells
    kind: str  # "array", "sparse", "disk", "chunks" or "dask"
    names: tuple[str, ...] | None  # of the features
    n: int | None  # number of features; None for chunks that were not opened
    labels: Any  # of the rows, where they have some
    weights: Any  # of the rows, in their order

    def relative_weights(self) -> FloatArray | None:
        """Checked weights of mean 1 over those that are positive: only their ratios count."""
        if self.weights is None:
            return None
        N = None if self.kind in ("chunks", "dask") else self.values.shape[0]
        weights = check_weights(self.weights, N, self.labels)
        weights = weights / weights.max()
        return weights * (np.count_nonzero(weights) / weights.sum())


def read_given(Y: Any, weights: Any = None, peek: bool = True) -> Given:
    """`Given` data: an array or frame, a sparse matrix, data on disk, or chunks of rows.

    `weights` are those of the samples.  With `peek` the first chunk is read for its names and its
    number of features.  Arrays get the same bits in whatever order their numbers lie.
    """
    if isinstance(Y, (str, bytes, Mapping, Set)) and not scipy.sparse.issparse(Y):
        raise TypeError("Y must be an array, DataFrame, sparse matrix or iterable of row chunks,"
                        f" got {type(Y).__name__}")
    if is_dask(Y):
        return _read_dask(Y, weights)
    kind, disk = "sparse", None
    if not scipy.sparse.issparse(Y):
        in_memory(Y, "Y")
        disk = on_disk(Y)
        kind = "disk" if disk is not None else "chunks" if is_chunks(Y) else "array"
    labels, weights = labels_of(Y), align_weights(weights, Y)
    if kind == "chunks":
        values, names, n = _peek(Y) if peek else (Y, None, None)
        dtype = None
    elif disk is not None:
        values, names, n, dtype = disk, disk.names, disk.shape[1], disk.dtype
    else:
        values, names = np.ascontiguousarray(as_array(Y)) if kind == "array" else Y, data_names(Y)
        n, dtype = check_2d(values).shape[1], working_dtype(values.dtype, "Y")
    return Given(values, dtype, kind, names, n, labels, weights)


def _read_dask(Y, weights):
    """`Given` an array or a DataFrame of dask, of which nothing is computed."""
    if getattr(Y, "ndim", 0) != 2:
        raise ValueError("Y must be 2-d, samples by features, got a dask"
                         f" {type(Y).__name__} of {getattr(Y, 'ndim', 'no')} dimensions")
    if is_dask(weights) or not hasattr(Y, "columns"):
        weights = weights if is_dask(weights) else align_weights(weights, Y)
    elif labels_of(weights) is not None:
        raise TypeError("sample_weight has labels, and Y is a dask DataFrame, whose labels are with"
                        " its chunks: give a dask Series with the partitions of Y, or an array of"
                        " the weights in the order of the rows")
    if hasattr(Y, "chunks"):
        rows, columns = Y.chunks
        if np.isnan([*map(float, rows), *map(float, columns)]).any():
            raise ValueError("Y has chunks of unknown sizes: call Y.compute_chunk_sizes() first")
        if len(rows) > 1:
            check_whole_rows(Y)
        working_dtype(Y.dtype, "Y")
    return Given(Y, None, "dask", data_names(Y), Y.shape[1], None, weights)


def cut_by_columns(Y: Any) -> bool:
    """Whether Y is an array of dask in chunks of whole columns, more than one."""
    blocks: Any = getattr(Y, "numblocks", ()) if is_dask(Y) else ()
    return len(blocks) == 2 and blocks[0] == 1 and blocks[1] > 1


def check_whole_rows(Y: Any) -> None:
    """Refuse an array of dask that is cut between the features of a sample."""
    rows, columns = getattr(Y, "numblocks", (1, 1))
    if columns > 1:
        ways = "both ways, into {rows} by {columns} chunks" if rows > 1 else "by columns"
        raise ValueError(
            f"Y is cut {ways.format(rows=rows, columns=columns)}: make the chunks whole rows,"
            " Y.rechunk({1: -1}), to split the samples"
            + (", or whole columns, Y.rechunk({0: -1}), to split the features" if rows > 1 else ""))


def is_chunks(Y: Any) -> bool:
    """Whether `Y` gives row chunks: a function, an iterable without a shape, a list of matrices."""
    if callable(Y):
        return True
    if hasattr(Y, "shape") or hasattr(Y, "__array__") or not hasattr(Y, "__iter__"):
        return False
    return not isinstance(Y, (list, tuple)) or bool(Y) and (
        is_frame(Y[0]) or getattr(Y[0], "ndim", 0) == 2)


def as_array(Y: Any) -> FloatArray:
    """`Y` as a 2-d array of float32 or float64; columns that are no numbers are named."""
    if is_frame(Y):
        return frame_values(Y, "Y")
    Y = check_2d(plain(Y, "Y"))
    return np.asarray(Y, working_dtype(Y.dtype, "Y"))


def _peek(chunks):
    """Chunks to go through, with the names and the number of the features of the first one."""
    opened = iter(chunks() if callable(chunks) else chunks)
    first = next(opened, None)
    if first is None:
        raise ValueError("Y holds no chunks")
    if not scipy.sparse.issparse(first):
        in_memory(first, "chunk 0")
    shape = getattr(first, "shape", None) or np.shape(first)
    if len(shape) != 2:
        raise ValueError(f"chunks must be 2-d, samples by features, got shape {shape}")
    if opened is chunks:
        chunks = itertools.chain([first], opened)
    return chunks, data_names(first), shape[1]


def align_weights(weights: Any, Y: Any) -> Any:
    """Sample weights in the order of the rows of `Y`, whose labels only frames have."""
    return by_label(weights, labels_of(Y) if is_frame(Y) else None, "sample_weight", "sample")


def check_weights(weights: Any, N: int | None = None, labels: Any = None) -> Any:
    """Non-negative sample weights (N,) as float64; None stays None.  Labels name the samples."""
    if weights is None:
        return None
    weights = as_real(weights, "weights", dtype=np.float64, ndim=1)
    if N is not None and weights.size != N:
        raise ValueError(wrong_weights(weights.size, N))
    if labels is None or len(labels) != weights.size:
        labels = range(weights.size)
    for bad, what in ((~np.isfinite(weights), "be finite"), (weights < 0, "not be negative")):
        if bad.any():
            bad = np.flatnonzero(bad)
            raise ValueError(
                f"weights must {what}, got {weights[bad[0]]:.3g} for sample {labels[bad[0]]}"
                f" ({counted(bad.size, 'sample')}: {name_some(labels[i] for i in bad)})")
    if not weights.any():
        raise ValueError("weights must not all be zero")
    return weights


def wrong_weights(given: int, N: int) -> str:
    """What is wrong with weights of another number of samples."""
    return f"weights must have one entry for each of the {counted(N, 'sample')}, got {given}"
