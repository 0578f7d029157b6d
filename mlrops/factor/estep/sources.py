"""From what users hold — arrays, frames, sparse matrices, maps, chunks — to a source of EM."""

import itertools
from collections.abc import Mapping, Set

import numpy as np
import scipy.sparse

from ..._common.frames import frame_values, is_frame
from ..._common.labelled import data_names, named
from ..._common.labels import by_label, labels_of
from ..._common.validate import as_real, in_memory, plain, working_dtype
from ..._common.wording import agree, counted
from ...tree.hierarchy import Hierarchy
from ...tree.reading import read_hierarchy
from .complete import complete_source
from .incomplete import incomplete_source
from .rows import check_features, check_weights
from .streamed import chunked_source, compress_chunks, memmap_chunks, sparse_source

__all__ = ["align_weights", "as_array", "check_in_memory", "is_chunks", "open_source", "tree_of"]


def open_source(Y, hierarchy, center, missing, weights, compress):
    """The source of EM that `Y` is, its hierarchy, and the names of its features or None.

    See `fit_factor_model` for what is taken.
    """
    if missing not in ("raise", "em"):
        raise ValueError(f'missing must be "raise" or "em", got {missing!r}')
    if compress not in (None, True, False):
        raise ValueError(f"compress must be True, False or None, got {compress!r}")
    if isinstance(Y, (str, bytes, Mapping, Set)) and not scipy.sparse.issparse(Y):
        raise TypeError("Y must be an array, DataFrame, sparse matrix or iterable of row chunks,"
                        f" got {type(Y).__name__}")
    check_in_memory(Y)
    names, weights = data_names(Y), _relative(align_weights(weights, Y), labels_of(Y))
    if scipy.sparse.issparse(Y):
        _check_2d(Y)
        if compress:
            raise ValueError("compress=True needs dense data: a sparse matrix is never made dense")
        hierarchy = tree_of(hierarchy, None, Y.shape[1])
        names = hierarchy.feature_names
        return sparse_source(Y, hierarchy, center, weights, names), hierarchy, names
    if isinstance(Y, np.memmap) or is_chunks(Y):
        return _chunked(Y, hierarchy, center, missing, weights, compress)
    Y = np.ascontiguousarray(as_array(Y))  # the same bits in whatever order it lies
    hierarchy = tree_of(hierarchy, names, Y.shape[1])
    names = hierarchy.feature_names if names is None else names
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


def check_in_memory(Y):
    """Refuse data that would have to be computed to be read."""
    if hasattr(Y, "__dask_graph__"):
        raise TypeError(f"Y must be in memory, got a dask {type(Y).__name__}, which is not computed"
                        " unasked: give Y.compute(), or a function that returns an iterator over"
                        " computed chunks of rows")
    if not scipy.sparse.issparse(Y):
        in_memory(Y, "Y")


def align_weights(weights, Y):
    """Sample weights in the order of the rows of `Y`, whose labels only frames have."""
    return by_label(weights, labels_of(Y) if is_frame(Y) else None, "sample_weight", "sample")


def _relative(weights, labels):
    """Sample weights scaled to mean 1 over those that are positive: only their ratios count."""
    if weights is None:
        return None
    weights = check_weights(as_real(weights, "weights"), labels=labels)
    weights = weights / weights.max()
    return weights * (np.count_nonzero(weights) / weights.sum())


def tree_of(given, names, n):
    """The hierarchy of n features with these names; without one, all are one group."""
    hierarchy = read_hierarchy(given, names, n)
    return Hierarchy.flat(n)._renamed(names) if hierarchy is None else hierarchy


def is_chunks(Y):
    """Whether `Y` gives row chunks: a function, an iterable without a shape, a list of matrices."""
    if callable(Y):
        return True
    if hasattr(Y, "shape") or hasattr(Y, "__array__") or not hasattr(Y, "__iter__"):
        return False
    return not isinstance(Y, (list, tuple)) or bool(Y) and (
        is_frame(Y[0]) or getattr(Y[0], "ndim", 0) == 2)


def _chunked(Y, hierarchy, center, missing, weights, compress):
    if missing == "em":
        raise ValueError(
            'missing="em" needs the data in memory, as an array or DataFrame: samples are grouped'
            f" by their pattern of missing cells; got {type(Y).__name__}"
        )
    mapped = isinstance(Y, np.memmap)
    if mapped:
        _check_2d(Y)
    chunks, names, n = Y, None, None
    if mapped:
        chunks, n = memmap_chunks(Y), Y.shape[1]
    elif not isinstance(hierarchy, Hierarchy) or hierarchy.feature_names is not None:
        chunks, names, n = _peek(Y, hierarchy)
    hierarchy = tree_of(hierarchy, names, n)
    open_chunks = compress_chunks if compress else chunked_source
    source = open_chunks(chunks, hierarchy, center, weights, hierarchy.feature_names)
    return source, hierarchy._renamed(source.names), source.names


def _peek(chunks, hierarchy):
    """Chunks to go through, with the names and the number of the features of the first one."""
    opened = iter(chunks() if callable(chunks) else chunks)
    if opened is chunks and hierarchy is None:
        raise TypeError("give a hierarchy (Hierarchy.flat(n)) with an iterator that can be used"
                        " only once: it tells the number of features")
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


def as_array(Y):
    """`Y` as a 2-d array of float32 or float64; columns that are no numbers are named."""
    if is_frame(Y):
        return frame_values(Y, "Y")
    Y = plain(Y, "Y")
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
