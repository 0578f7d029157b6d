"""What is computed once is computed once, under a lock of its own: threads, forks, copies."""

import copy
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops import LowRankPlusDiagonal
from mlrops._common.cached import _computing, cached_property

WAIT = 60  # seconds until a deadlock is called one


class Slow:
    """A value whose computation waits until it is told to go on."""

    def __init__(self):
        self.begun, self.go, self.count = threading.Event(), threading.Event(), 0

    @cached_property
    def value(self):
        """What it is."""
        self.count += 1
        self.begun.set()
        assert self.go.wait(WAIT)
        return object()

    @cached_property
    def other(self):
        return "other"

    @cached_property
    def square(self):
        return self.other, self.other


def started(task):
    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    return thread


def test_objects_do_not_wait_for_each_other():
    held, free = Slow(), Slow()
    thread = started(lambda: held.value)
    assert held.begun.wait(WAIT)
    free.go.set()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: free.value).result(WAIT) is free.value
        # Nor do two values of one object.
        assert pool.submit(lambda: held.square).result(WAIT) == ("other", "other")
    held.go.set()
    thread.join(WAIT)
    assert held.count == free.count == 1


def test_threads_share_one_computation():
    slow = Slow()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: slow.value) for _ in range(8)]
        assert slow.begun.wait(WAIT)
        slow.go.set()
        values = {id(job.result(WAIT)) for job in jobs}
    assert len(values) == 1 and slow.count == 1
    assert not _computing


def test_an_error_leaves_the_next_try_free():
    class Fails:
        tries = 0

        @cached_property
        def value(self):
            self.tries += 1
            if self.tries == 1:
                raise ValueError("first")
            return self.tries

    it = Fails()
    with pytest.raises(ValueError, match="first"):
        _ = it.value
    assert it.value == it.value == 2 and not _computing


def test_copies_pickles_frozen_dataclasses_and_documentation():
    @dataclass(frozen=True)
    class Point:
        x: float

        @cached_property
        def double(self):
            """Twice x."""
            return 2 * self.x

    p = Point(2.0)
    assert p.double == 4.0 and replace(p, x=3.0).double == 6.0 and copy.copy(p).double == 4.0
    assert Point.double.__doc__ == "Twice x." and hash(p) == hash(Point(2.0))
    A = LowRankPlusDiagonal([[1.0], [2.0]], [1.0, 1.0])
    fresh = LowRankPlusDiagonal([[1.0], [2.0]], [1.0, 1.0])
    A.logdet()
    for B in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A), copy.copy(A)):
        assert B.logdet() == fresh.logdet()
        assert not any("lock" in type(value).__name__.lower() for value in vars(B).values())


def test_one_inverse_and_one_transpose_for_all_threads():
    A = LowRankPlusDiagonal(np.ones((40, 3)), np.ones(40)) + mlrops.Permutation(
        np.roll(np.arange(40), 1))
    barrier = threading.Barrier(8)

    def both():
        barrier.wait(WAIT)
        return id(A.inv()), id(A.T)

    with ThreadPoolExecutor(8) as pool:
        found = {job.result(WAIT) for job in [pool.submit(both) for _ in range(8)]}
    assert len(found) == 1 and A.inv().inv() is A and A.T.T is A


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("of", ["the same object", "another object"])
def test_a_child_forked_meanwhile_computes_for_itself(of):
    held, other = Slow(), Slow()
    thread = started(lambda: held.value)
    assert held.begun.wait(WAIT)
    asked = held if of == "the same object" else other

    def child(sent):
        asked.go = threading.Event()
        asked.go.set()
        sent.send((asked.value is asked.value, asked.count))

    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(False)
    process = context.Process(target=child, args=(sent,), daemon=True)
    process.start()
    try:
        assert received.poll(WAIT), "the child waits for a thread that it does not have"
        assert received.recv() == (True, 2 if asked is held else 1)
    finally:
        process.kill()
        held.go.set()
        thread.join(WAIT)


def test_no_other_cached_property_in_the_package():
    package = Path(mlrops.__file__).parent
    users = [file.name for file in package.rglob("*.py") if file.name != "cached.py"
             and "functools import cached_property" in file.read_text(encoding="utf-8")
             or "functools.cached_property" in file.read_text(encoding="utf-8")
             and file.name != "cached.py"]
    assert not users
