"""Tasks on a cluster, by dask: what runs where chunks of data are, and one result that comes back.

A pass over chunks is a graph of tasks that is gone once its result has come, so that what the
scheduler holds does not grow with the passes.  Everything a task needs, parameters too, is a task
itself: when a worker is lost the scheduler repeats those whose results went with it.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .optional import import_dask
from .wording import counted, name_some

__all__ = ["added", "check_workers", "chunks_of", "import_array", "in_pairs", "is_dask",
           "is_remote", "joined", "merged", "nothing", "on_workers", "results", "results_beside",
           "task", "task_of"]

# Seconds between two looks at a cluster that does not answer, and without any worker before a fit
# gives up, unless dask's own "distributed.scheduler.no-workers-timeout" says another number.
LOOK, PATIENCE = 1.0, 60.0
# What one task merges: each task costs the scheduler about a millisecond.
AT_ONCE = 8
# Bytes of an array in a graph that are worth sending once only.
LARGE = 1 << 16


def is_dask(x: object) -> bool:
    """Whether x is a collection of dask, which nothing may compute unasked."""
    return hasattr(x, "__dask_graph__")


def import_array() -> Any:
    """The module dask.array."""
    import_dask()
    from dask import array
    return array


class _Sealed:
    """A value that dask does not look into for collections."""

    def __init__(self, value: Any):
        self.value = value


def _opened(sealed: _Sealed) -> Any:
    return sealed.value


def task(function: Callable[..., Any], *args: Any) -> Any:
    """The call of a function as a task; tasks among the arguments come to it as their results."""
    return import_dask().delayed(function, pure=False, traverse=False)(*args)


def task_of(value: Any) -> Any:
    """A value as the result of a task: it travels once to each worker that needs it."""
    return task(_opened, _Sealed(value))


def chunks_of(x: Any) -> list[Any]:
    """The chunks of a dask array as tasks, in the order of their numbers."""
    return list(np.ravel(np.array(x.to_delayed(), object)))


def in_pairs(merge: Callable[[Any, Any], Any], parts: Sequence[Any], at_once: int = AT_ONCE) -> Any:
    """One task that merges what several give, in pairs that depend on nothing but their order.

    A task merges several at once, a power of 2 of them, in the same pairs; 2 of what is large.
    """
    parts = list(parts)
    while len(parts) > 1:
        some = [parts[i : i + at_once] for i in range(0, len(parts), at_once)]
        parts = [task(_merged, merge, *x) if len(x) > 1 else x[0] for x in some]
    return parts[0]


def _merged(merge: Callable[[Any, Any], Any], *parts: Any) -> Any:
    return merged(merge, parts)


def merged(merge: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """What several merge to here, in the same pairs."""
    parts = list(parts)
    while len(parts) > 1:
        pairs = [merge(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def nothing(*_: Any) -> None:
    """What merges tasks of which only the end is waited for."""


def added(a: Any, b: Any) -> Any:
    """The sum of numbers or arrays, or of tuples or dicts of such, entry by entry."""
    if isinstance(a, dict):
        return {**a, **b, **{key: a[key] + b[key] for key in a.keys() & b.keys()}}
    return tuple(map(added, a, b)) if isinstance(a, tuple) else a + b


def joined(a: Any, b: Any) -> Any:
    """Arrays one after the other along their rows, or tuples of such, entry by entry."""
    return tuple(map(joined, a, b)) if isinstance(a, tuple) else np.concatenate([a, b])


def _client() -> Any:
    """The client of a cluster that dask computes with, or None where it computes here."""
    owner = getattr(import_dask().base.get_scheduler(), "__self__", None)
    return owner if hasattr(owner, "scheduler_info") else None


def is_remote() -> bool:
    """Whether dask computes by a cluster, whose workers may be lost."""
    return _client() is not None


def results(*nodes: Any) -> tuple[Any, ...]:
    """What tasks give, computed together by the cluster, or here where there is none.

    An error of a task is raised as it is.  Workers that are lost are waited for; that none is left,
    or the scheduler, is an error.
    """
    client = _client()
    if client is None:
        return tuple(import_dask().compute(*nodes))
    futures: list[Any] = []
    try:
        with _in_words(client):
            futures = client.compute(list(nodes))
            _wait(client, futures)
            return tuple(client.gather(futures))
    finally:
        if client.status == "running":
            client.cancel(futures)  # what is done is forgotten, what a user broke off is not begun


def results_beside(stay: Sequence[Any], nodes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The tasks `stay`, whose results stay where they were computed, and what `nodes` give here.

    They are computed together.  What stays is there as long as the tasks that are returned are: if
    it is lost with a worker, it is computed again from what its tasks began with.
    """
    dask, client = import_dask(), _client()
    if client is None:
        kept = list(dask.persist(*stay, *nodes))
        return kept[: len(stay)], list(dask.compute(*kept[len(stay) :]))
    from distributed import futures_of
    with _in_words(client):
        kept = client.persist([*stay, *nodes])
        futures = [futures_of(x)[0] for x in kept[len(stay) :]]
        _wait(client, futures)
        return kept[: len(stay)], client.gather(futures)


@contextmanager
def _in_words(client: Any) -> Iterator[None]:
    """Say in words what is wrong with a cluster; errors of tasks are raised as they are."""
    import distributed
    from distributed.scheduler import KilledWorker
    try:
        yield
    except KilledWorker as error:
        raise RuntimeError(
            "workers were lost again and again at the same task, most likely for want of memory:"
            " take smaller chunks, or workers with more memory and fewer threads"
            f" ({error})") from error
    except (Exception, distributed.CancelledError) as error:
        if client.status != "running" or isinstance(error, distributed.CancelledError):
            raise ConnectionError(_gone(client)) from error
        raise


def _gone(client):
    address = getattr(client.scheduler, "address", None) or "of this client"
    return (f"the scheduler {address} cannot be reached any more; start it and its workers again,"
            " make a new dask.distributed.Client, and fit again (with a checkpoint: resume=True)")


def _wait(client, futures):
    """Wait for futures as long as the cluster has a scheduler and, now and then, a worker."""
    import distributed
    last = time.monotonic()
    while True:
        try:
            distributed.wait(futures, timeout=LOOK)
            return
        except distributed.TimeoutError:
            pass
        if client.status not in ("running", "connecting"):
            raise ConnectionError(_gone(client))
        if client.status == "running" and client.scheduler_info()["workers"]:
            last = time.monotonic()
        elif time.monotonic() - last > _patience():
            raise ConnectionError(
                f"the cluster has had no workers for {_patience():.0f} seconds; start some and fit"
                " again (with a checkpoint: resume=True), or raise dask's setting"
                " distributed.scheduler.no-workers-timeout")


def _patience():
    dask = import_dask()
    asked = dask.config.get("distributed.scheduler.no-workers-timeout", None)
    return PATIENCE if asked is None else dask.utils.parse_timedelta(asked)


def on_workers(collection: Any) -> Any:
    """A collection that tasks on a cluster may read again and again.

    One whose numbers stand in the graph itself, as `dask.array.from_array` leaves them, would be
    sent with every pass: its chunks go to the workers now, to stay there.
    """
    client = _client()
    if client is None or not any(getattr(x, "nbytes", 0) > LARGE or (
            hasattr(x, "memory_usage")) for x in dict(collection.__dask_graph__()).values()):
        return collection
    return client.persist(collection)


def check_workers() -> None:
    """Refuse a cluster with workers that lack this package, or have another version of it."""
    client = _client()
    if client is None:
        return
    version = sys.modules["mlrops"].__version__
    try:
        # By a function of Python's own: one of this package's could not be read without it.
        found = client.run(eval, "__import__('mlrops').__version__", on_error="return")
    except OSError as error:
        raise ConnectionError(_gone(client)) from error
    wrong = {address: given for address, given in found.items() if given != version}
    if wrong:
        what = sorted({f"version {x}" if isinstance(x, str) else str(x) for x in wrong.values()})
        raise RuntimeError(
            f"workers need mlrops {version}, the version here, but {counted(len(wrong), 'worker')}"
            f" of {len(found)} ({name_some(sorted(wrong))}) said {name_some(what)}: install it"
            " where they run")
