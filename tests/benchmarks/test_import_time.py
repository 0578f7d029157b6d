"""Importing the package against importing the part of SciPy it stands on."""

import subprocess
import sys

CODE = "from time import perf_counter as t; a = t(); import {}; print(t() - a)"


def seconds(module):
    out = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True,
                         text=True, check=True)
    return float(out.stdout)


def test_import(benchmark, record):
    ours, floor = [], []

    def both():
        ours.append(seconds("mlrops"))
        floor.append(seconds("scipy.sparse.linalg"))

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    extra = min(ours) - min(floor)  # below zero: the package loads its parts when they are used
    benchmark.extra_info["extra_seconds"] = extra
    record("`import mlrops`", "`import scipy.sparse.linalg`", f"{1e3 * min(floor):.0f} ms",
           f"{extra:+.2f} s", "", "+0.1 s")
