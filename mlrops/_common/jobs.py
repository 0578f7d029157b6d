"""Tasks that do not depend on one another, one after the other or side by side by joblib.

What a task gives depends on its arguments alone: whatever is random comes with them.  So results
are the same for any number of jobs.
"""

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .cluster import is_dask
from .cores import at_most, count
from .optional import import_joblib
from .warned import InTurn, Warned, kept_warnings, pass_on

__all__ = ["Jobs"]

# Backends of joblib whose workers are on this machine, and share its cores.
LOCAL = {"LokyBackend", "MultiprocessingBackend", "ThreadingBackend"}


class _Local(threading.local):
    within = False


_local = _Local()


class Jobs:
    """Where tasks run, by the option `n_jobs` of the functions that have it.

    A number is that of joblib, -1 all cores.  None is what a `joblib.parallel_config` around the
    call says, as in scikit-learn, and one task after the other without.  A `callback` and a
    `checkpoint` of the tasks and `data` that are on a cluster need this process.
    """

    def __init__(self, n_jobs: int | None = None, *, callback: Any = None, checkpoint: Any = None,
                 data: Any = None):
        here = ("a callback follows fits one after the other" if callback is not None else
                "a checkpoint follows fits one after the other" if checkpoint is not None else
                "each fit to data of dask has all workers" if is_dask(data) else "")
        if n_jobs is not None:
            expected = "n_jobs must be the number of tasks at a time, -1 for all cores, or None"
            if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)):
                raise TypeError(f"{expected}, got {n_jobs!r}")
            if n_jobs == 0:
                raise ValueError(f"{expected}, got 0")
            if here and n_jobs != 1:
                raise ValueError(f"{here}: leave n_jobs out")
        self.n_jobs = 1 if here else n_jobs

    @property
    def at_once(self) -> int:
        """How many tasks run at a time."""
        # Tasks of a task would wait for workers that wait for them.
        unasked = self.n_jobs is None and sys.modules.get("joblib") is None  # nobody configured it
        if self.n_jobs == 1 or _local.within or unasked:
            return 1
        return int(import_joblib().effective_n_jobs(self.n_jobs))

    @property
    def here(self) -> bool:
        """Whether tasks run in this process, one after the other."""
        return self.at_once == 1

    def run(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]],
            wanted: Callable[..., bool] = lambda *task: True
            ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Each task with ``function(*task)``, in their order, as soon as it is there.

        Errors and warnings of a task come when it is its turn.  Tasks may turn out not to be wanted
        by what earlier ones gave: those are left out.
        """
        at_once = self.at_once
        if at_once == 1:
            for task in tasks:
                if wanted(*task):
                    with _task():
                        value = function(*task)
                    yield task, value
            return
        joblib = import_joblib()
        backend, _ = joblib.parallel.get_active_backend()
        call, sent = _Call(function, _threads(backend, at_once)), deque[tuple[Any, ...]]()

        def calls():
            for task in tasks:
                if wanted(*task):
                    sent.append(task)
                    yield joblib.delayed(_outcome)(call, task)

        # Backends that do not give results one by one give a list at the end.
        found = "generator" if backend.supports_return_generator else "list"
        outcomes = joblib.Parallel(self.n_jobs, return_as=found)(calls())
        owner = threading.get_ident()
        try:
            for outcome in outcomes:
                task = sent.popleft()
                if wanted(*task):
                    yield task, outcome.given()
        finally:
            # Closed, joblib would warn that tasks are left undone, which is meant.  A collector of
            # garbage in a thread of joblib's has to leave it to joblib.
            if found == "generator" and threading.get_ident() == owner:
                with suppress(_Left):
                    outcomes.throw(_Left())
                while call.running:  # threads cannot be stopped; none may outlive the call
                    time.sleep(0.001)


def _threads(backend: Any, at_once: int) -> int:
    """Threads of each task: tasks share those of this process, and take one on other machines."""
    asked: int | None = getattr(backend, "inner_max_num_threads", None)
    if asked is not None:
        return asked
    return max(1, count() // at_once) if type(backend).__name__ in LOCAL else 1


@contextmanager
def _task() -> Iterator[None]:
    before, _local.within = _local.within, True
    try:
        yield
    finally:
        _local.within = before


class _Call:
    """What all tasks call, with all its data."""

    def __init__(self, function: Callable[..., Any], threads: int):
        self.function, self.threads, self.caller = function, threads, os.getpid()
        self.running: list[tuple[Any, ...]] = []  # tasks, in threads of this process

    def __sizeof__(self) -> int:
        return 1_000_000  # dask sends a worker what is large once, and the rest with every task


class _Left(Exception):
    """No more results are asked for."""


class _Elsewhere(Exception):
    """Where in another process an error was raised."""


class _Outcome(NamedTuple):
    """What came of a task in a worker."""

    value: Any
    warned: list[Warned]
    error: Exception | None = None
    trace: str = ""

    def given(self) -> Any:
        pass_on(self.warned)
        if self.error is None:
            return self.value
        if self.error.__traceback__ is None:  # which processes send with tblib only
            self.error.__cause__ = _Elsewhere(f"\n{self.trace}")
        raise self.error


def _outcome(call: _Call, task: tuple[Any, ...]) -> _Outcome:
    call.running.append(task)
    try:
        with _task(), at_most(call.threads), _blas(call), kept_warnings() as warned:
            try:
                return _Outcome(call.function(*task), warned)
            except Exception as error:
                return _Outcome(None, warned, error, traceback.format_exc())
    finally:
        call.running.pop()


def _blas(call: _Call) -> AbstractContextManager[Any]:
    """Threads of BLAS are for workers to limit, but in the caller's process for the caller."""
    return nullcontext() if os.getpid() == call.caller else _limited(call.threads)


@InTurn
def _limited(threads: int) -> AbstractContextManager[Any]:
    try:
        controller = import_module("threadpoolctl").ThreadpoolController()
    except ImportError:  # then they are as joblib or dask began the worker with
        return nullcontext()
    limits = {lib.prefix: min(lib.num_threads, threads) for lib in controller.lib_controllers}
    limited: AbstractContextManager[Any] = controller.limit(limits=limits)
    return limited
