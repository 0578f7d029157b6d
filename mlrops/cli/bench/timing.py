"""How calls are timed, for ``python -m mlrops bench`` and for the benchmarks of the tests."""

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any, NamedTuple

__all__ = ["Turns", "best_of", "in_turn", "timed"]

SHORT = 0.5  # seconds below which a call is timed in the steady state of a loop


class Turns(NamedTuple):
    """Seconds of functions that were called in turn, and what `compare` found of their answers."""

    times: list[list[float]]  # of each function
    agreement: Any = None

    @property
    def best(self) -> list[float]:
        """Shortest time of each function."""
        return [min(own) for own in self.times]

    @property
    def ratio(self) -> float:
        """Shortest time of the second function over that of the first."""
        return self.best[1] / self.best[0]

    @property
    def median_ratio(self) -> float:
        """Median over the rounds of the second function's time over the first's."""
        return statistics.median(b / a for a, b in zip(*self.times, strict=True))


def in_turn(functions: Sequence[Callable[[], Any]], rounds: int = 2, budget: float = 0.0,
            steady: bool = True, compare: Callable[..., Any] | None = None) -> Turns:
    """Time functions in turn, at least so many rounds, and until `budget` seconds are over.

    A slow spell of the machine meets all of them.  The first calls load and compile; their answers
    go to `compare`.  BLAS threads spin for a while after a product in case another one comes, and
    after a pause take some calls to spread over the cores: if timed in their `steady` state, a
    pause parts short calls, and each is repeated for a while before the clock starts.
    """
    stop = perf_counter() + budget
    first = [timed(function) for function in functions]
    agreement = None if compare is None else compare(*(answer for _, answer in first))
    times = [[seconds] for seconds, _ in first]
    del first
    while len(times[0]) < rounds or perf_counter() < stop:
        for function, own in zip(functions, times, strict=True):
            if steady and own[-1] < SHORT:
                settle(function)
            own.append(timed(function)[0])
    return Turns(times, agreement)


def best_of(function: Callable[[], Any], rounds: int, budget: float = 0.0) -> tuple[float, Any]:
    """Shortest of some times, at least so many and until `budget` seconds are over; the answer."""
    stop = perf_counter() + budget
    best, answer = timed(function)
    done = 1
    while done < rounds or perf_counter() < stop:
        seconds, answer = timed(function)
        best, done = min(best, seconds), done + 1
    return best, answer


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = perf_counter()
    answer = function()
    return perf_counter() - start, answer


def settle(function: Callable[[], Any]) -> None:
    """Pause, then call for 40 ms."""
    sleep(0.05)
    stop = perf_counter() + 0.04
    while perf_counter() < stop:
        function()
