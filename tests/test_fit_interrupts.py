"""Ctrl-C in a fit of a matrix: the factors of the last whole step, whatever was half done."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator
from test_allocate_ranks import kernel, planted

from mlrops.fitting import allocate_ranks, bcd, fit_mlr
from mlrops.fitting.alternation import Alternation
from mlrops.fitting.descent import Descent
from mlrops.fitting.factors import Factors
from mlrops.fitting.paths import PathGrams
from mlrops.fitting.search import Exchanges, State


def whole(A, fit, rel=1e-9):
    """The factors leave the error that is reported, and ended by Ctrl-C."""
    assert fit.termination == "interrupted" and not fit.converged
    assert fit.objective_trace.size == fit.times.size == fit.n_iter + 1
    assert (np.diff(fit.objective_trace) <= 1e-14).all()
    gap = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(fit.error, rel=rel)


def broken(monkeypatch, place, name, at):
    """Raise KeyboardInterrupt in place of call number `at` of a function; the calls so far."""
    function, calls = getattr(place, name), []

    def half(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(place, name, half)
    return calls


FITS = {
    "bcd": lambda A, **options: fit_mlr(A, (2, 1, 0, 1), *planted()[1:], tol=0, max_iter=30,
                                        method="bcd", random_state=0, **options),
    "als": lambda A, **options: fit_mlr(A, (2, 1, 0, 1), *planted()[1:], tol=0, max_iter=30,
                                        method="als", random_state=0, **options),
    "ranks": lambda A, **options: allocate_ranks(A, 4, *planted()[1:], start="top",
                                                 random_state=0, **options),
}


@pytest.mark.parametrize("name", FITS)
def test_an_interrupt_from_the_callback_keeps_what_it_saw(name, recwarn):
    A = planted(noise=0.5)[0]
    full, seen = FITS[name](A), []

    def watch(iterate):
        if iterate.stage != "growth":
            seen.append((iterate.ranks, iterate.objective))
        if iterate.n_iter == 2:
            raise KeyboardInterrupt

    part = FITS[name](A, callback=watch, progress=True)
    whole(A, part)
    assert part.n_iter == 2 < full.n_iter and len(seen) == 3
    np.testing.assert_array_equal(part.objective_trace, full.objective_trace[:3])
    assert seen[-1] == (part.ranks, part.error)
    assert not recwarn.list  # as fits of factor models, that say it by termination alone


# Functions within a step: between levels, between sides, with factors or residual half changed.
PLACES = {
    "bcd": [(bcd, "leading_singular"), (Factors, "put"), (Descent, "error")],
    "als": [(PathGrams, "inverse"), (Alternation, "_half"), (State, "error")],
    "ranks": [(PathGrams, "inverse"), (Alternation, "add"), (Factors, "drop"),
              (Alternation, "_follow"), (Alternation, "restore"), (Exchanges, "_settle")],
}
MOMENTS = [(name, *place) for name, places in PLACES.items() for place in places]


@pytest.mark.quick(4)
@pytest.mark.parametrize("name, place, function", MOMENTS,
                         ids=lambda x: x if isinstance(x, str) else x.__name__.split(".")[-1])
def test_a_step_that_is_broken_off_leaves_the_last_one(name, place, function, monkeypatch):
    A = planted(noise=0.5)[0]
    with monkeypatch.context() as patch:
        calls = broken(patch, place, function, None)
        full = FITS[name](A)
    reached = set()
    for at in np.unique(np.linspace(1, len(calls), 12).astype(int)):
        with monkeypatch.context() as patch:
            broken(patch, place, function, at)
            try:
                part = FITS[name](A)
            except KeyboardInterrupt:  # there was no start yet
                continue
        whole(A, part)
        reached.add(part.n_iter)
        if part.objective_trace[0] > full.objective_trace[0]:  # columns were still growing
            continue
        # A long refit that is broken off counts as a step, and is not worse than the last one.
        last = part.n_iter + (name != "ranks")
        np.testing.assert_array_equal(part.objective_trace[:last], full.objective_trace[:last])
    assert reached and max(reached) > 0


@pytest.mark.parametrize("kind", [csr_array, aslinearoperator])
@pytest.mark.parametrize("name", FITS)
def test_sparse_arrays_and_operators(name, kind, monkeypatch):
    A = planted(noise=0.5)[0]
    place = (Factors, "put") if name == "bcd" else (Alternation, "_half")
    broken(monkeypatch, *place, 13 if name == "bcd" else 55)
    part = FITS[name](kind(A))
    whole(A, part, rel=1e-6)
    assert part.n_iter > 0


def test_symmetric_fits_stay_symmetric(monkeypatch):
    S, tree = kernel()
    for at in (150, 261, 397):
        with monkeypatch.context() as patch:
            broken(patch, bcd, "leading_eigen", at)
            part = allocate_ranks(S, 7, tree, random_state=0, psd=True)
        whole(S, part)
        assert part.operator.symmetric and sum(part.ranks) == 7


@pytest.mark.slow
def test_an_interrupted_refit_keeps_its_gains(monkeypatch):
    """Of the long refit at the end of exchanges whole iterations are kept, as a step."""
    S, tree = kernel()
    full = allocate_ranks(S, 7, tree, random_state=0, max_failures=0, tol=0, symmetric=False)
    broken(monkeypatch, Alternation, "_half", 60)
    part = allocate_ranks(S, 7, tree, random_state=0, max_failures=0, tol=0, symmetric=False)
    whole(S, part)
    assert part.n_iter == 1 and full.objective_trace[1] < part.error < full.objective_trace[0]


@pytest.mark.parametrize("name", FITS)
def test_a_second_interrupt_gives_up(name, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Factors, "principal", stop)  # while the result is put in order
    with pytest.raises(KeyboardInterrupt):
        FITS[name](planted(noise=0.5)[0], callback=stop)


def test_what_was_interrupted_goes_on():
    A, rows, cols = planted(noise=0.5)

    def stop(iterate):
        if iterate.n_iter == 3:
            raise KeyboardInterrupt

    part = FITS["bcd"](A, callback=stop)
    again = fit_mlr(A, part.ranks, rows, cols, init=part.operator, tol=0, max_iter=3)
    assert again.objective_trace[0] == pytest.approx(part.error, rel=1e-12)
    assert again.error < part.error


# ---------------------------------------------------------------- processes

SCRIPT = """
import os, signal, sys, threading
import numpy as np
from mlrops import Hierarchy, allocate_ranks, fit_mlr
from mlrops.datasets import gauss_transform

name, updates, wait, bar = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "bar"
signal.signal(signal.SIGINT, signal.default_int_handler)
A = gauss_transform(300, 260, random_state=0).A
rows, cols = Hierarchy.balanced(300, [1, 2, 4, 8, 16]), Hierarchy.balanced(260, [1, 2, 4, 8, 16])

def say(iterate):
    if iterate.n_iter == updates:
        threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()
    if iterate.n_iter == updates + (5 if name == "ranks" else 200):  # the timer may be late
        threading.Event().wait()

options = {"tol": 0, "max_iter": 10**6, "random_state": 0, "progress": bar, "callback": say}
if name == "ranks":
    fit = allocate_ranks(A, 10, rows, cols, start="bottom", max_failures=10**6, **options)
else:
    fit = fit_mlr(A, (2,) * 5, rows, cols, method=name, **options)
gap = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
print(fit.termination, abs(gap - fit.error) <= 1e-9 * gap, fit.n_iter, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends signals to processes")
@pytest.mark.parametrize("name, updates, wait, bar", [
    ("bcd", 1, 0.0, False), ("bcd", 20, 0.013, True), ("als", 1, 0.004, False),
    ("als", 9, 0.0, True), ("ranks", 1, 0.1, False), ("ranks", 4, 0.021, True)])
def test_a_process_that_is_interrupted(name, updates, wait, bar):
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "MLROPS_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(updates), str(wait), "bar" if bar else ""],
        env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    reason, right, n_iter = done.stdout.split()
    assert (reason, right) == ("interrupted", "True") and int(n_iter) >= updates
    assert "Traceback" not in done.stderr and ("error=" in done.stderr) == bar
