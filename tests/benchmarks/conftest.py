"""Benchmarks against floors measured in the same run; the table is printed at the end."""

import platform
import statistics
from time import perf_counter, sleep

import numba
import numpy as np
import pytest
import scipy

ROWS = []
TABLES = {}


def settle(function):
    """Pause, then call for 40 ms."""
    sleep(0.05)
    stop = perf_counter() + 0.04
    while perf_counter() < stop:
        function()


@pytest.fixture
def against_floor(benchmark):
    """Time an operation and its floor in turn; record the ratio of their best times.

    A slow spell of the machine meets both.  Each is timed in its own steady state, as in a loop
    that repeats it: BLAS threads spin for a while after a product in case another one comes, so a
    pause parts the two, and after the pause threads take some calls to spread over the cores.
    """

    def measure(name, floor_name, floor, operation, limit, rounds=15):
        floors = []

        def time_floor():
            settle(floor)
            start = perf_counter()
            floor()
            floors.append(perf_counter() - start)
            settle(operation)

        operation()  # compile and warm up
        floor()
        benchmark.pedantic(operation, setup=time_floor, rounds=rounds, iterations=1)
        times = benchmark.stats.stats.data
        best = min(times) / min(floors)
        median = statistics.median(t / f for t, f in zip(times, floors, strict=True))
        benchmark.extra_info.update(floor=floor_name, best=best, median=median, limit=limit)
        ROWS.append((name, floor_name, f"{1e3 * min(floors):.2f} ms", f"{best:.2f}",
                     f"{median:.2f}", f"{limit:g}"))
        return best

    return measure


@pytest.fixture
def record():
    """Add a row to the table: name, floor, its size, best ratio, median ratio, limit."""
    return lambda *row: ROWS.append(row)


@pytest.fixture
def record_in():
    """Add a row to a table of its own: title, columns, then the row."""
    return lambda title, columns, *row: TABLES.setdefault((title, columns), []).append(row)


def pytest_terminal_summary(terminalreporter):
    write = terminalreporter.write_line
    for (title, columns), rows in TABLES.items():
        write("")
        write(title)
        write("")
        write("| " + " | ".join(columns) + " |")
        write("| " + " | ".join("---" for _ in columns) + " |")
        for row in rows:
            write("| " + " | ".join(row) + " |")
    if not ROWS:
        return
    write("")
    write(f"{platform.processor() or platform.machine()}, {numba.config.NUMBA_NUM_THREADS} cores;"
          f" Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__},"
          f" numba {numba.__version__}")
    write("")
    write("| operation | floor | floor's time | ratio, best | ratio, median | keep below |")
    write("| --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        write("| " + " | ".join(row) + " |")
