"""Clusters of processes on this machine, for tests of what runs on workers."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest


@contextmanager
def settled(n_workers=2, **options):
    """A cluster whose workers take no tasks from one another, however busy this machine is."""
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.scheduler.work-stealing": False}):
        with cluster(n_workers, **options) as found:
            yield found


@contextmanager
def cluster(n_workers=2, **options):
    """A client of workers with one thread each, and the cluster itself."""
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0",
               "silence_logs": 50} | options
    with distributed.LocalCluster(n_workers=n_workers, **options) as workers:
        with distributed.Client(workers) as client:
            yield client, workers


def pids(client):
    """The processes of the workers."""
    return list(client.run(os.getpid).values())


def kill(which):
    for pid in which:
        os.kill(pid, signal.SIGKILL)


class Killer:
    """A callback of fits that kills a worker, or all, in the midst of the pass after an update."""

    def __init__(self, client, n_iter, all_of_them=False, delay=0.03):
        self.first, self.n_iter = pids(client), n_iter
        self.timer = threading.Timer(
            delay, lambda: kill(self.first if all_of_them else self.first[:1]))

    def __call__(self, iterate):
        if iterate.n_iter == self.n_iter:
            self.timer.start()

    def done(self):
        """Wait until the shots are fired."""
        self.timer.join()


def forgotten(workers, number, seconds=10.0):
    """Whether the scheduler comes to hold so few tasks within some seconds."""
    end = time.monotonic() + seconds
    while len(workers.scheduler.tasks) > number and time.monotonic() < end:
        time.sleep(0.05)
    return len(workers.scheduler.tasks) <= number
