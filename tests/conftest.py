"""What runs by default, and what is said of it: see "Tests" in the README.

A test marked ``slow`` waits for ``python -m pytest -m ""``.  So do most cases of a test marked
``quick(k)``: k of them, evenly spread, run by default.  A failure is named as soon as it is there.
"""

import gc
from collections import defaultdict

import pytest
from hypothesis import settings

# Hypothesis draws the same examples in every run and takes the time it needs.
settings.register_profile("mlrops", derandomize=True, deadline=None)
settings.load_profile("mlrops")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("quick") and not item.get_closest_marker("slow"):
            cases[item.nodeid.split("[")[0]].append(item)
    for of_one in cases.values():
        count = of_one[0].get_closest_marker("quick").args[0]
        kept = {round((i + 0.5) * len(of_one) / count - 0.5) for i in range(count)}
        for number, item in enumerate(of_one):
            if number not in kept:
                item.add_marker("slow")


def pytest_collection_finish():
    gc.freeze()  # thousands of items, which the collector of garbage need not look at again


class NamesOfFailures:
    def __init__(self, reporter):
        self.reporter = reporter

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.reporter.verbosity > 0:
            self.reporter.write_line(f" {report.nodeid} failed", red=True)


@pytest.hookimpl(trylast=True)  # when there is a reporter
def pytest_configure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.register(NamesOfFailures(reporter))
