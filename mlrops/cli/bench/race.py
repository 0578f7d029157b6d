"""Two ways to the same answer, timed in turn."""

from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Agreement", "PeerError", "Race", "Times", "higher", "of_peer", "race",
           "same"]

SHORT = 0.5  # seconds below which a call is timed in the steady state of a loop


class Agreement(NamedTuple):
    """How far two answers are apart, in words, and whether that is near enough."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Race:
    """A problem, who else solves it, and how.

    Attributes
    ----------
    problem, task, peer : str
    theirs, ours : callable
        Without arguments.
    compare : callable
        What the two returned -> Agreement.
    """

    problem: str
    task: str
    peer: str
    theirs: Any
    ours: Any
    compare: Any


class Times(NamedTuple):
    """Best seconds of the two, and how their answers agree."""

    theirs: float
    ours: float
    agreement: Agreement


class PeerError(Exception):
    """There is no answer of a peer to compare with; the message says why."""


def race(entrants, budget):
    """Time both in turn: once, and again until `budget` seconds are over, but once at least.

    A slow spell of the machine meets both.  The first calls load and compile.  BLAS threads spin
    for a while after a product in case another one comes, and after a pause take some calls to
    spread over the cores: a pause parts short calls, and each is repeated for a while before the
    clock starts.

    Parameters
    ----------
    entrants : Race
    budget : float
        Seconds; with 0 short calls are not repeated either.

    Returns
    -------
    Times

    Raises
    ------
    PeerError
        The peer failed, or its answer could not be read.
    """
    calls = of_peer(entrants.theirs), entrants.ours
    stop = perf_counter() + budget
    (a, first), (b, second) = map(timed, calls)
    agreement = of_peer(entrants.compare)(first, second)
    del first, second
    times = [a], [b]
    while len(times[0]) < 2 or perf_counter() < stop:
        for function, own in zip(calls, times, strict=True):
            if budget and own[-1] < SHORT:
                settle(function)
            own.append(timed(function)[0])
    return Times(min(times[0]), min(times[1]), agreement)


def of_peer(function):
    """The same function; what it raises is a PeerError."""
    def call(*args):
        try:
            return function(*args)
        except Exception as error:  # whatever a package of others may raise
            raise PeerError(f"failed: {type(error).__name__}: {error}") from error

    return call


def timed(function):
    """Seconds of a call, and what it returned."""
    start = perf_counter()
    found = function()
    return perf_counter() - start, found


def settle(function):
    """Pause, then call for 40 ms."""
    sleep(0.05)
    stop = perf_counter() + 0.04
    while perf_counter() < stop:
        function()


def same(tolerance, **pairs):
    """Arrays agree when each differs by at most `tolerance` times its largest entry."""
    errors = {name: float(np.abs(np.subtract(a, b)).max() / np.abs(a).max())
              for name, (a, b) in pairs.items()}
    return Agreement(", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
                     all(error <= tolerance for error in errors.values()))


def higher(theirs, ours, tolerance=1e-6):
    """Maxima agree when ours, a log-likelihood a sample, is no lower than theirs."""
    return Agreement(f"loglik {theirs:.6f} -> {ours:.6f}", ours >= theirs - tolerance)
