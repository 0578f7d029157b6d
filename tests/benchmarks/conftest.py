"""Benchmarks against floors measured in the same run; the tables are printed at the end."""

import pytest

from mlrops.cli.bench.command import machine
from mlrops.cli.bench.timing import in_turn
from mlrops.cli.tables import markdown

FLOORS = "operation", "floor", "floor's time", "ratio, best", "ratio, median", "keep below"
TABLES = {}


@pytest.fixture
def record_in():
    """Add a row to a table of its own: title, columns, then the row."""
    return lambda title, columns, *row: TABLES.setdefault((title, columns), []).append(row)


@pytest.fixture
def record(record_in):
    """Add a row to the table of floors."""
    return lambda *row: record_in("", FLOORS, *row)


@pytest.fixture
def against_floor(benchmark, record):
    """Time an operation and its floor in turn; record the ratio of their best times."""

    def measure(name, floor_name, floor, operation, limit, rounds=15):
        operation()  # compile and warm up
        turns = benchmark.pedantic(in_turn, ((floor, operation), rounds), rounds=1)
        benchmark.extra_info.update(
            floor=floor_name, best=turns.ratio, median=turns.median_ratio, limit=limit)
        record(name, floor_name, f"{1e3 * turns.best[0]:.2f} ms", f"{turns.ratio:.2f}",
               f"{turns.median_ratio:.2f}", f"{limit:g}")
        return turns.ratio

    return measure


def pytest_terminal_summary(terminalreporter):
    for (title, columns), rows in TABLES.items():
        terminalreporter.write_line(f"\n{title}\n\n{markdown(columns, rows)}")
    if TABLES:
        terminalreporter.write_line(f"\n{machine()}")
