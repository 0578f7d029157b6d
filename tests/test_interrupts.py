"""Ctrl-C and SIGKILL: an interrupted fit returns the best so far, and goes on as if nothing was."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import fit, same, stop_after

from mlrops.factor import ascent, checkpoint, likelihood
from mlrops.factor.checkpoint import KIND
from mlrops.io.archive import read_archive, write_archive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_interrupt_from_the_callback(optimizer, path, recwarn):
    full = fit(optimizer=optimizer, tol=1e-5)
    part = fit(optimizer=optimizer, tol=1e-5, checkpoint=path, max_iter=6,
               callback=stop_after(7, KeyboardInterrupt))
    assert part.termination == "interrupted" and not part.converged
    assert part.n_iter == 6 and part.loglik == full.loglik_trace[6]
    assert not recwarn.list
    same(fit(optimizer=optimizer, tol=1e-5, checkpoint=path, resume=True), full)


def breaking(at, monkeypatch):
    """Break evaluation number `at` of the EM map off by KeyboardInterrupt."""
    evaluate, count = likelihood.LikelihoodSurface.evaluate, 0

    def broken(self, *args):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return evaluate(self, *args)

    monkeypatch.setattr(likelihood.LikelihoodSurface, "evaluate", broken)


@pytest.mark.quick(5)
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("at", [2, 3, 10, 17])
def test_an_update_that_is_broken_off_is_not_written(at, optimizer, path, monkeypatch):
    options = {"optimizer": optimizer, "tol": 1e-12}
    full = fit(**options)
    with monkeypatch.context() as patch:
        breaking(at, patch)
        part = fit(**options, checkpoint=path, checkpoint_every=1)
    assert part.termination == "interrupted" and 0 <= part.n_iter < at
    np.testing.assert_array_equal(part.loglik_trace, full.loglik_trace[: part.n_iter + 1])
    assert fit(init=part.covariance, max_iter=0, gtol=0.9).loglik == pytest.approx(part.loglik)
    same(fit(**options, checkpoint=path, resume=True), full)


def test_an_interrupt_of_the_first_evaluation_goes_through(path, monkeypatch):
    breaking(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path)
    assert not path.exists()


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_a_signal_waits_for_the_update(optimizer, path, monkeypatch):
    """Ctrl-C in the middle of an update: the update is whole, and what is written goes on."""
    options = {"optimizer": optimizer}
    full, accept = fit(**options), ascent.Ascent.accept

    def signalled(self, trial):
        if self.n_evaluations == 9:
            signal.raise_signal(signal.SIGINT)
        accept(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(ascent.Ascent, "accept", signalled)
        part = fit(**options, checkpoint=path, checkpoint_seconds=None)
    assert part.termination == "interrupted" and part.n_evaluations == 9
    assert not part.converged and part.n_iter < full.n_iter
    meta, arrays = read_archive(path, KIND)
    assert meta["climbs"][0]["n_evaluations"] == 9
    assert meta["climbs"][0]["termination"] == "interrupted"
    assert np.array_equal(arrays["logliks"], part.loglik_trace)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    same(fit(**options, checkpoint=path, resume=True), full)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_a_second_signal_breaks_the_update_off(optimizer, first, path, monkeypatch):
    """Before the step is taken, or after: what is returned is the best so far."""
    options = {"optimizer": optimizer}
    full, accept, reached = fit(**options), ascent.Ascent.accept, []

    def signalled(self, trial):
        if not first:
            accept(self, trial)
        if self.n_evaluations == 9:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append(1)
        if first:
            accept(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(ascent.Ascent, "accept", signalled)
        part = fit(**options, checkpoint=path, checkpoint_every=3)
    assert part.termination == "interrupted" and not reached
    np.testing.assert_array_equal(part.loglik_trace, full.loglik_trace[: part.n_iter + 1])
    again = fit(init=part.covariance, max_iter=0, gtol=0.9)
    assert again.loglik == pytest.approx(part.loglik, rel=1e-9)
    assert read_archive(path, KIND)[1]["trace"].size - 1 in range(part.n_iter - 3, part.n_iter + 1)
    same(fit(**options, checkpoint=path, resume=True), full)


def test_a_signal_while_the_end_is_written(path, monkeypatch):
    full = fit()

    def write(*args):
        if args[3]["trace"].size - 1 == full.n_iter:
            signal.raise_signal(signal.SIGINT)
        write_archive(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_archive", write)
        part = fit(checkpoint=path, checkpoint_seconds=None)
    assert part.termination == "interrupted" and part.loglik == full.loglik
    same(fit(checkpoint=path, resume=True), full)


def test_handlers_of_others_and_other_threads_are_left_alone():
    found, own = [], lambda number, frame: None
    old = signal.signal(signal.SIGINT, own)
    try:
        fit(callback=lambda _: found.append(signal.getsignal(signal.SIGINT)), tol=1e-3)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, old)
    assert set(found) == {own}
    thread = threading.Thread(target=lambda: found.append(fit()))
    thread.start()
    thread.join()
    same(found[-1], fit())


# ---------------------------------------------------------------- processes

# Forks a process for a fit each time it is told to: imports are paid once.  The fit sends itself
# the signal: some milliseconds after an update, in any case before another two are through, so that
# it is in time on any machine.
HOST = """
import os, signal, sys, threading, warnings
import numpy as np
from mlrops import Hierarchy, fit_factor_model
warnings.simplefilter("ignore")
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
h = Hierarchy.balanced(160, [1, 4, 16])
Y = rng.standard_normal((120, 12)) @ rng.standard_normal((12, 160))
Y += rng.standard_normal((120, 160))

def fit(path, optimizer, number, updates, delay):
    seen = []

    def tell(iterate):
        os.write(1, b"%d\\n" % iterate.n_iter)  # a line is whole whenever the signal comes
        seen.append(iterate.n_iter)
        if len(seen) == updates:
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()
        if number and len(seen) == updates + 2:
            threading.Event().wait()

    fit = fit_factor_model(
        Y, (3, 2, 1), h, optimizer=optimizer, checkpoint=path, resume=True, tol=0, gtol=0,
        max_iter=600, init="svd", checkpoint_every=1, checkpoint_seconds=None, callback=tell)
    np.savez(path + ".result.npz", F=fit.covariance.F, D=fit.covariance.D, mean=fit.mean,
             trace=fit.loglik_trace, n_evaluations=fit.n_evaluations)
    print(fit.termination, fit.converged, fit.loglik == fit.loglik_trace.max(), flush=True)

for line in sys.stdin:
    path, optimizer, number, updates, delay = line.rstrip().split("|")
    child = os.fork()
    if child == 0:
        fit(path, optimizer, int(number), int(updates), float(delay))
        os._exit(0)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def host():
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "MLROPS_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", HOST], env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def run(host, path, optimizer, number=0, updates=0, delay=0.0):
    """What a fit in a process of its own prints; it sends itself a signal."""
    host.stdin.write(f"{path}|{optimizer}|{int(number)}|{updates}|{delay}\n")
    host.stdin.flush()
    said = []
    for line in iter(host.stdout.readline, ""):
        said.append(line.rstrip())
        if line.startswith("exit"):
            return said
    raise AssertionError("the host ended")


def result(path):
    with np.load(f"{path}.result.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def uninterrupted(host, tmp_path_factory):
    """What a whole fit comes to, by its optimizer."""
    found = {}
    for optimizer in ("bfgs", "scoring"):
        path = tmp_path_factory.mktemp("fit") / "fit.npz"
        said = run(host, path, optimizer)
        assert said[-1] == "exit 0" and said[-2] == "tol True True"
        found[optimizer] = result(path)
    return found


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected)


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("optimizer, kills", [("bfgs", 10), ("scoring", 3)])
def test_killed_at_many_moments(optimizer, kills, host, uninterrupted, tmp_path):
    path, expected = tmp_path / "fit.npz", uninterrupted[optimizer]
    assert expected["trace"].size > 9 * kills  # room for them
    rng, reached = np.random.default_rng(7), []
    for _ in range(kills):
        # The checkpoint of the update is being written: most are killed within.
        said = run(host, path, optimizer, signal.SIGKILL, rng.integers(3, 7), rng.uniform(0, 0.004))
        assert said[-1] == "exit -9"
        meta, arrays = read_archive(path, KIND)  # never unreadable
        reached.append(arrays["trace"].size - 1)
        assert int(said[-2]) - 1 <= reached[-1] <= int(said[-2]) + 1
        assert len(list(tmp_path.glob(".*.tmp"))) <= 1
    assert np.all(np.diff(reached) > 0) and reached[-1] < expected["trace"].size - 1
    assert run(host, path, optimizer)[-1] == "exit 0"
    assert equal(result(path), expected)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
@FORKS
@pytest.mark.parametrize("optimizer", ["bfgs", "scoring"])
def test_a_process_that_is_interrupted(optimizer, host, uninterrupted, tmp_path):
    path, expected = tmp_path / "fit.npz", uninterrupted[optimizer]
    said = run(host, path, optimizer, signal.SIGINT, 9, 0.001)
    assert said[-1] == "exit 0" and said[-2] == "interrupted False True"
    assert 9 <= result(path)["trace"].size <= 12 < expected["trace"].size
    said = run(host, path, optimizer)
    assert said[-1] == "exit 0" and said[-2] == "tol True True"
    assert equal(result(path), expected)
