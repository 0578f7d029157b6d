"""How benchmarks time whole calls."""

from time import perf_counter

__all__ = ["timed"]


def timed(function, rounds):
    """Best time of some rounds, and what came out."""
    times = []
    for _ in range(rounds):
        start = perf_counter()
        found = function()
        times.append(perf_counter() - start)
    return min(times), found
