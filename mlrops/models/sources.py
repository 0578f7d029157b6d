"""From what users hold — arrays, frames, sparse matrices, maps, chunks — to a source of EM."""

from collections.abc import Mapping, Set

import numpy as np
import scipy.sparse

from .._wording import agree, counted
from ..hierarchy import Hierarchy
from ..operators._validate import as_real, working_dtype
from .data import complete_source
from .frames import frame_values
from .incomplete import incomplete_source
from .rows import check_features, check_weights, named
from .streamed import chunked_source, compress_chunks, memmap_chunks, sparse_source

__all__ = ["as_array", "open_source"]


def open_source(Y, hierarchy, center, missing, weights, compress):
    """The source of EM that `Y` is, its hierarchy, and its column names or None.

    See `fit_factor_model` for what is taken.
    """
    if missing not in ("raise", "em"):
        raise ValueError(f'missing must be "raise" or "em", got {missing!r}')
    if compress not in (None, True, False):
        raise ValueError(f"compress must be True, False or None, got {compress!r}")
    if isinstance(Y, (str, bytes, Mapping, Set)) and not scipy.sparse.issparse(Y):
        raise TypeError("Y must be an array, DataFrame, sparse matrix or iterable of row chunks,"
                        f" got {type(Y).__name__}")
    if hierarchy is not None and not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    weights, names = _relative(weights), column_names(Y)
    if scipy.sparse.issparse(Y):
        _check_2d(Y)
        if compress:
            raise ValueError("compress=True needs dense data: a sparse matrix is never made dense")
        hierarchy = hierarchy or Hierarchy.flat(Y.shape[1])
        return sparse_source(Y, hierarchy, center, weights), hierarchy, None
    if isinstance(Y, np.memmap) or is_chunks(Y):
        return _chunked(Y, hierarchy, center, missing, weights, compress)
    Y = np.ascontiguousarray(as_array(Y, names))  # the same bits in whatever order it lies
    hierarchy = hierarchy or Hierarchy.flat(Y.shape[1])
    check_features(Y.shape[1], hierarchy, "Y", Y.shape)
    if weights is not None:
        keep = check_weights(weights, len(Y)) > 0
        if not keep.all():  # whatever stands in samples that do not count
            Y, weights = Y[keep], weights[keep]
    _check_cells(Y, names, missing)
    if missing == "em":
        Y, weights = _drop_empty(Y, weights)
    if missing == "em" and np.isnan(Y).any():
        if compress:
            raise ValueError("compress=True needs complete data: patterns of missing cells differ")
        source = incomplete_source(Y, hierarchy, center, weights, names)
    else:
        compress = compress is None or bool(compress)
        source = complete_source(Y, hierarchy, center, weights, names, compress)
    return source, hierarchy, names


def _drop_empty(Y, weights):
    """Leave out samples without an observed cell: what remains may be complete."""
    empty = np.isnan(Y).all(axis=1)
    if not empty.any():
        return Y, weights
    return Y[~empty], None if weights is None else weights[~empty]


def _relative(weights):
    """Sample weights scaled to mean 1 over those that are positive: only their ratios count."""
    if weights is None:
        return None
    weights = check_weights(as_real(weights, "weights"))
    weights = weights / weights.max()
    return weights * (np.count_nonzero(weights) / weights.sum())


def is_chunks(Y):
    """Whether `Y` gives row chunks: a function, an iterable without a shape, a list of matrices."""
    if callable(Y):
        return True
    if hasattr(Y, "shape") or hasattr(Y, "__array__") or not hasattr(Y, "__iter__"):
        return False
    return not isinstance(Y, (list, tuple)) or bool(Y) and getattr(Y[0], "ndim", 0) == 2


def column_names(Y):
    """Column names of a DataFrame as a tuple, None for what has none."""
    columns = getattr(Y, "columns", None)
    return None if columns is None or callable(columns) else tuple(map(str, columns))


def _chunked(Y, hierarchy, center, missing, weights, compress):
    if missing == "em":
        raise ValueError(
            'missing="em" needs the data in memory, as an array or DataFrame: samples are grouped'
            f" by their pattern of missing cells; got {type(Y).__name__}"
        )
    mapped = isinstance(Y, np.memmap)
    if mapped:
        _check_2d(Y)
    if hierarchy is None:
        hierarchy = Hierarchy.flat(Y.shape[1] if mapped else _first_width(Y))
    chunks = memmap_chunks(Y) if mapped else Y
    if compress:
        return compress_chunks(chunks, hierarchy, center, weights), hierarchy, None
    source = chunked_source(chunks, hierarchy, center, weights)
    return source, hierarchy, source.names


def _first_width(chunks):
    """Number of features of chunks that can be gone through again."""
    opened = iter(chunks() if callable(chunks) else chunks)
    if opened is chunks:
        raise TypeError("give a hierarchy (Hierarchy.flat(n)) with an iterator that can be used"
                        " only once: it tells the number of features")
    first = next(opened, None)
    if first is None:
        raise ValueError("Y holds no chunks")
    if np.ndim(first) != 2:
        raise ValueError(f"chunks must be 2-d, samples by features, got shape {np.shape(first)}")
    return np.shape(first)[1]


def as_array(Y, names):
    """`Y` as a 2-d array of float32 or float64; columns that are no numbers are named."""
    if names is not None:
        return frame_values(Y, "Y")
    if isinstance(Y, np.ma.MaskedArray):
        Y = Y.astype(working_dtype(Y.dtype, "Y")).filled(np.nan)
    Y = np.asarray(Y)
    _check_2d(Y)
    return np.asarray(Y, working_dtype(Y.dtype, "Y"))


def _check_2d(Y):
    if len(Y.shape) != 2:
        raise ValueError(f"Y must be 2-d, samples by features, got shape {Y.shape}")


def _check_cells(Y, names, missing):
    """Refuse infinite cells, and missing ones unless EM is to leave them out."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = Y.sum()
    if np.isfinite(total):
        return
    infinite = np.isinf(Y)
    if infinite.any():
        columns = np.flatnonzero(infinite.any(axis=0))
        raise ValueError(f"Y must be finite, got {infinite.sum()} infinite cells in"
                         f" {counted(columns.size, 'column')} ({named(columns, names)})")
    gaps = np.isnan(Y)
    if missing == "raise" and gaps.any():
        columns, empty = np.flatnonzero(gaps.any(axis=0)), int(gaps.all(axis=1).sum())
        rows = (f"; {empty} of {counted(len(Y), 'row')} {agree(empty, 'is', 'are')} missing"
                " entirely" if empty else "")
        raise ValueError(
            f"Y has {counted(gaps.sum(), 'missing cell')} (NaN) in"
            f" {counted(columns.size, 'column')}"
            f' ({named(columns, names)}){rows}; missing="em" fits to the cells that are there'
        )
