"""Methods of a fit on collections of dask: chunk by chunk, where the chunks are, when asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._common.cluster import added, import_array, in_pairs, task, task_of
from .._common.given import check_whole_rows
from ..operators.part_sweeps import alone
from . import conditional

__all__ = ["impute", "score", "score_samples", "scores"]


def score_samples(fit: Any, Y: Any) -> Any:
    """The log-likelihood of each sample, a dask array or Series (N,)."""
    return _by_chunks(_loglik, fit, Y, (), np.dtype(float))


def score(fit: Any, Y: Any) -> Any:
    """The average log-likelihood a sample, a dask array without dimensions."""
    check_whole_rows(Y)
    shared = task_of(fit)
    parts = [task(_on_chunk, chunk, _total, shared) for chunk in np.ravel(Y.to_delayed())]
    return import_array().from_delayed(task(_average, in_pairs(added, parts)), (), float)


def scores(fit: Any, Y: Any, level: int | None, method: str, covariance: bool) -> Any:
    """Scores, a dask array (N, p_l, r_l) or a dask DataFrame; a tuple of them for all levels."""
    if covariance:
        raise ValueError("covariance=True needs samples in memory: give it some of them; for"
                         " complete rows it does not depend on which")
    A = fit.covariance
    levels = range(A.hierarchy.n_levels) if level is None else (A.hierarchy._level(level),)
    found = [_by_chunks(_scores, fit, Y, (A.hierarchy.group_counts[at], A.ranks[at]), A.dtype,
                        level=at, method=method) for at in levels]
    return tuple(found) if level is None else found[0]


def impute(fit: Any, Y: Any, return_std: bool) -> Any:
    """The filled data, with `return_std` also standard deviations: collections like Y."""
    dtype = np.result_type(getattr(Y, "dtype", float), fit.covariance.dtype)
    found = [_by_chunks(kind, fit, Y, (fit.mean.size,), dtype)
             for kind in (_filled, _deviations)[: 1 + return_std]]
    return tuple(found) if return_std else found[0]


# ---------------------------------------------------------------- what a chunk gives


def _loglik(fit, chunk):
    return fit.score_samples(chunk)


def _scores(fit, chunk, level, method):
    return fit.scores(chunk, level, method=method)


def _filled(fit, chunk):
    return fit.impute(chunk)


def _deviations(fit, chunk):
    return fit.impute(chunk, return_std=True)[1]


def _total(fit, chunk):
    """Sum of the log-likelihoods of the samples that have a cell, and their number."""
    loglik, shown = fit._logliks(chunk)
    return float(loglik[shown].sum()), int(shown.sum()), len(shown)


def _average(total):
    loglik, number, N = total
    if not number:
        raise ValueError(conditional.nothing_to_average(N))
    return np.float64(loglik / number)


def _by_chunks(function: Callable[..., Any], fit: Any, Y: Any, shape: tuple[int, ...],
               dtype: np.dtype, **options: Any) -> Any:
    """A function of a fit and of each chunk, with `shape` a sample."""
    check_whole_rows(Y)
    if hasattr(Y, "map_partitions"):
        return Y.map_partitions(_on_chunk, function, task_of(fit), **options,
                                meta=function(fit, Y._meta, **options))
    return import_array().map_blocks(
        _on_chunk, Y, function=function, fit=task_of(fit), **options, dtype=dtype,
        chunks=(Y.chunks[0], *((k,) for k in shape)), drop_axis=1,
        new_axis=list(range(1, 1 + len(shape))), meta=np.empty((0,) * (1 + len(shape)), dtype))


def _on_chunk(chunk, function, fit, **options):
    return alone(function)(fit, chunk, **options)
