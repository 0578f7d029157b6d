"""From what users hold, in memory, on disk or in chunks, to a source of EM."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._common.given import read_given
from ..._common.labelled import named
from ..._common.typing import FloatArray
from ..._common.wording import agree, counted
from ...tree.hierarchy import Hierarchy
from ...tree.reading import tree_of
from .chunks import check_features, compress_chunks
from .complete import complete_source
from .distributed import distributed_source
from .incomplete import incomplete_source
from .incomplete_chunks import incomplete_chunks_source
from .protocol import Source
from .streamed import chunked_source, sparse_source

__all__ = ["Opened", "open_source"]


# To which correlations may differ from their mirror images and variances from 1.
ROUNDING = 1e-6


class Opened(NamedTuple):
    """What `open_source` gave, in place of data: for many fits to the same ones."""

    source: Source
    hierarchy: Hierarchy
    names: tuple[str, ...] | None


def open_source(Y: Any, hierarchy: Any, center: bool, missing: str, weights: Any,
                compress: bool | None) -> tuple[Source, Hierarchy, tuple[str, ...] | None]:
    """The source of EM that `Y` is, its hierarchy, and the names of its features or None.

    See `fit_factor_model` for what is taken; what was opened before is given back as it is.
    """
    if isinstance(Y, Opened):
        return Y
    if missing not in ("raise", "em"):
        raise ValueError(f'missing must be "raise" or "em", got {missing!r}')
    if compress not in (None, True, False):
        raise ValueError(f"compress must be True, False or None, got {compress!r}")
    if hierarchy is None and hasattr(Y, "__next__"):
        raise TypeError("give a hierarchy (Hierarchy.flat(n)) with an iterator that can be used"
                        " only once: it tells the number of features")
    has_names = not isinstance(hierarchy, Hierarchy) or hierarchy.feature_names is not None
    given = read_given(Y, weights, peek=has_names)
    source: Any
    streamed = given.kind in ("disk", "chunks")
    if given.kind == "sparse" and compress:
        raise ValueError("compress=True needs dense data: a sparse matrix is never made dense")
    weights = None if given.kind == "dask" else given.relative_weights()
    hierarchy = tree_of(hierarchy, given.names, given.n)
    values, names = given.values, hierarchy.feature_names
    if given.kind != "chunks":
        check_features(values.shape, hierarchy)
    if given.kind == "dask":
        source = distributed_source(given, hierarchy, center, missing, compress)
        return source, hierarchy._renamed(source.names), source.names
    if streamed:
        if compress:
            source = compress_chunks(values, hierarchy, center, weights, names,
                                     gaps=missing == "em")
        else:
            open_chunks = incomplete_chunks_source if missing == "em" else chunked_source
            source = open_chunks(values, hierarchy, center, weights, names)
        return source, hierarchy._renamed(source.names), source.names
    if given.kind == "sparse":
        return (sparse_source(values, hierarchy, center, weights, names, given.dtype), hierarchy,
                names)
    values, weights, has_gaps = _samples_that_count(values, weights, names, missing)
    if has_gaps and compress:
        raise ValueError("compress=True needs complete data: patterns of missing cells differ")
    if has_gaps:
        return incomplete_source(values, hierarchy, center, weights, names), hierarchy, names
    if looks_like_correlations(values):
        warnings.warn(
            f"Y is a symmetric {len(values)} by {len(values)} matrix with ones on its diagonal, and"
            " is read as that many samples; if it is a correlation matrix, give it as covariance=,"
            " with n_samples=", UserWarning, stacklevel=4)  # through a decorator
    compress = compress is None or bool(compress)
    return complete_source(values, hierarchy, center, weights, names, compress), hierarchy, names


def looks_like_correlations(Y: FloatArray) -> bool:
    """Whether data are a symmetric matrix with a unit diagonal, as no samples are."""
    return (Y.shape[0] == Y.shape[1] and bool((np.abs(np.diagonal(Y) - 1) < ROUNDING).all())
            and np.allclose(Y, Y.T, rtol=0, atol=ROUNDING))


def _samples_that_count(Y: FloatArray, weights: FloatArray | None,
                        names: Sequence[str] | None, missing: str
                        ) -> tuple[FloatArray, FloatArray | None, bool]:
    """Samples of positive weight that have a cell, their weights, and whether cells are missing.

    Infinite cells are refused, and missing ones unless EM is to leave them out.
    """
    if weights is not None and not weights.all():  # whatever stands in samples that do not count
        Y, weights = Y[weights > 0], weights[weights > 0]
    with np.errstate(over="ignore", invalid="ignore"):
        total = Y.sum()  # decides the usual case in one pass
    if np.isfinite(total):
        return Y, weights, False
    infinite = np.isinf(Y)
    if infinite.any():
        columns = np.flatnonzero(infinite.any(axis=0))
        raise ValueError(f"Y must be finite, got {infinite.sum()} infinite cells in"
                         f" {counted(columns.size, 'column')} ({named(columns, names)})")
    gaps = np.isnan(Y)
    empty = gaps.all(axis=1)
    if missing == "raise" and gaps.any():
        columns, n_empty = np.flatnonzero(gaps.any(axis=0)), int(empty.sum())
        rows = (f"; {n_empty} of {counted(len(Y), 'row')} {agree(n_empty, 'is', 'are')} missing"
                " entirely" if n_empty else "")
        raise ValueError(
            f"Y has {counted(gaps.sum(), 'missing cell')} (NaN) in"
            f" {counted(columns.size, 'column')}"
            f' ({named(columns, names)}){rows}; missing="em" fits to the cells that are there')
    if empty.any():  # what remains may be complete
        Y, weights = Y[~empty], None if weights is None else weights[~empty]
    return Y, weights, bool(gaps[~empty].any())
