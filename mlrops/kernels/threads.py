"""Run a GIL-free kernel on ranges of work, in a small pool that survives fork and many callers."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from .._common.cores import count
from .._common.typing import IntArray

__all__ = ["alone", "blas_columns", "blas_keeps_to_one", "blas_rows", "count", "run"]

# Multiply-adds below which handing work to another thread costs more than it saves (about 0.3 ms).
MIN_WORK = 4_000_000


class _Local(threading.local):
    inside = False


_local = _Local()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


@contextmanager
def alone() -> Iterator[None]:
    """Within it calls of `run` keep to the thread they are in, as others use the other cores."""
    before, _local.inside = _local.inside, True
    try:
        yield
    finally:
        _local.inside = before


def _forget() -> None:
    """A forked child has no worker threads: let it start a pool of its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()
    _local.inside = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# ------------------------------------------------------------------ BLAS threads
# Two levels of threads fight for the cores: while ours share the leaves out, BLAS should use the
# thread that calls it.  How many threads it has is the caller's to say, for the whole process: it
# is read here and never set.  OpenBLAS, which NumPy's wheels carry, takes one thread for products
# that are small, whatever it was told.

# Multiply-adds of the largest such product: older versions take threads from 262,144 on.
BLAS_ALONE = 260_000
# Rows of F below which such a product is not worth its call.
BLAS_ROWS = 32


@cache
def _blas() -> Any:
    """What gets OpenBLAS's number of threads; None where NumPy uses another BLAS."""
    core = getattr(np, "_core", None) or np.core
    try:
        library = ctypes.CDLL(core._multiarray_umath.__file__)
    except (OSError, AttributeError):
        return None
    for name in ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_",
                 "openblas_get_num_threads"):
        if hasattr(library, name):
            return getattr(library, name)
    return None


def blas_keeps_to_one(width: int) -> bool:
    """Whether products of F with `width` multiply-adds a row can keep to the thread they are in."""
    return _blas() is not None and (_blas()() == 1 or BLAS_ROWS * width <= BLAS_ALONE)


def blas_rows(width: int, longest: int) -> int:
    """Rows to multiply at a time, at most `longest`: few enough for one thread within `run`."""
    if not _local.inside or _blas() is None or _blas()() == 1:
        return longest
    return min(longest, max(BLAS_ROWS, BLAS_ALONE // width))


def blas_columns(R: int, k: int) -> int:
    """Columns to multiply F (n, R) with at a time, at most k: see `blas_rows`."""
    if not _local.inside or _blas() is None or _blas()() == 1:
        return k
    return min(k, max(1, BLAS_ALONE // (BLAS_ROWS * R)))


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool._max_workers < threads - 1:
            _pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="mlrops")
        return _pool


def run(kernel: Callable[[int, int], object], offsets: IntArray, lo: int, hi: int, work: int
        ) -> None:
    """Call ``kernel(a, b)`` on ranges that cover ``lo:hi``, cut so that `offsets` is shared evenly.

    Every range writes results of its own, so the answer does not depend on the number of threads.
    Within a range, calls of `run` do not share their work out again.
    """
    threads = 1 if work < MIN_WORK or _local.inside else count()
    if threads == 1 or hi - lo < 2:
        kernel(lo, hi)
        return

    def share_of_work(a, b):
        _local.inside = True
        try:
            kernel(a, b)
        finally:
            _local.inside = False

    share = (offsets[hi] - offsets[lo]) / threads
    halfway = (offsets[lo:hi] + offsets[lo + 1 : hi + 1]) / 2
    cuts = [int(halfway.searchsorted(offsets[lo] + share * t)) + lo  # the offset nearest the share
            for t in range(1, threads)]
    edges = [lo, *cuts, hi]
    ranges = [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]
    futures = [_executor(threads).submit(share_of_work, a, b) for a, b in ranges[:-1]]
    share_of_work(*ranges[-1])
    for future in futures:
        future.result()
