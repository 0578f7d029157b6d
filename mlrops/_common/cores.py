"""How many threads work may be shared by, in this process and in a task of many."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_most", "count"]


class _Local(threading.local):
    most: int | None = None


_local = _Local()


def count() -> int:
    """Number of threads that share work."""
    return _of_process() if _local.most is None else min(_of_process(), _local.most)


def _of_process() -> int:
    asked = os.environ.get("MLROPS_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Share the work of the calling thread by so many threads, or by fewer."""
    before, _local.most = _local.most, threads
    try:
        yield
    finally:
        _local.most = before
