"""Two ways to the same answer, timed in turn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .timing import in_turn

__all__ = ["Agreement", "PeerError", "Race", "Times", "higher", "of_peer", "race", "same"]


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
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    compare: Callable[[Any, Any], Agreement]


class Times(NamedTuple):
    """Best seconds of the two, and how their answers agree."""

    theirs: float
    ours: float
    agreement: Agreement


class PeerError(Exception):
    """There is no answer of a peer to compare with; the message says why."""


def race(entrants: Race, budget: float) -> Times:
    """Time both in turn (see `in_turn`), and compare their answers.

    Parameters
    ----------
    entrants : Race
    budget : float
        Seconds; with 0 there are two rounds, and short calls are not repeated.

    Returns
    -------
    Times

    Raises
    ------
    PeerError
        The peer failed, or its answer could not be read.
    """
    turns = in_turn((of_peer(entrants.theirs), entrants.ours), 2, budget, budget > 0,
                    of_peer(entrants.compare))
    theirs, ours = turns.best
    return Times(theirs, ours, turns.agreement)


def of_peer(function):
    """The same function; what it raises is a PeerError."""
    def call(*args):
        try:
            return function(*args)
        except Exception as error:  # whatever a package of others may raise
            raise PeerError(f"failed: {type(error).__name__}: {error}") from error

    return call


def same(tolerance, **pairs):
    """Arrays agree when each differs by at most `tolerance` times its largest entry."""
    errors = {name: float(np.abs(np.subtract(a, b)).max() / np.abs(a).max())
              for name, (a, b) in pairs.items()}
    return Agreement(", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
                     all(error <= tolerance for error in errors.values()))


def higher(theirs, ours, tolerance=1e-6):
    """Maxima agree when ours, a log-likelihood a sample, is no lower than theirs."""
    return Agreement(f"loglik {theirs:.6f} -> {ours:.6f}", ours >= theirs - tolerance)
