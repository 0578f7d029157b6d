"""Checkpoints: killed, interrupted, cut or damaged, a fit ends where it would have ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops._archive import read_archive, remove_leftovers, write_archive
from mlrops.models import ascent, checkpoint
from mlrops.models.checkpoint import KIND

RANKS = (2, 1, 1)


def problem(N=60, n=24, seed=3):
    """A permuted tree and samples of a model on it."""
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(n), [[0, n], [0, n // 3, n], [0, 3, n // 3, n // 2, n]])
    A = MLR(h, [rng.standard_normal((n, r)) for r in RANKS], rng.uniform(0.5, 1.5, n))
    return h, A.sample(N, random_state=seed) + rng.standard_normal(n)


H, Y = problem()
GAPS = np.where(np.random.default_rng(1).random(Y.shape) < 0.1, np.nan, Y)


def fit(data=Y, **options):
    options = {"tol": 1e-7, **options}
    return fit_factor_model(data, options.pop("ranks", RANKS), options.pop("h", H), **options)


def same(found, expected):
    """Every number of two results, bit for bit."""
    for name in ("mean", "loglik_trace", "boundary"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.covariance.F, expected.covariance.F)
    np.testing.assert_array_equal(found.covariance.D, expected.covariance.D)
    for name in ("loglik", "n_iter", "n_evaluations", "termination", "converged", "gradient_norm"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


# ---------------------------------------------------------------- cut and resumed

KINDS = {
    "accelerated": (Y, {}),
    "plain": (Y, {"accelerate": False}),
    "float32": (Y.astype(np.float32), {}),
    "missing cells": (GAPS, {"missing": "em"}),
    "missing cells, mean fixed": (GAPS - 1, {"missing": "em", "center": False}),
    "sparse": (sp.csr_array(Y), {}),
    "chunks": ([Y[:20], Y[20:]], {}),
    "weights": (Y, {"sample_weight": np.arange(60.0)}),
    "rank 0": (Y, {"ranks": (0, 0, 0)}),
    "random": (Y, {"init": "random", "random_state": 0, "tol": 1e-5}),
}


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_a_cut(kind, path):
    data, options = KINDS[kind]
    full = fit(data, **options)
    assert full.converged
    for cut in (0, 1, 4, max(full.n_iter - 1, 0)):  # every cut goes on from the last
        part = fit(data, **options, max_iter=cut, checkpoint=path, resume=True)
        assert part.n_iter == min(cut, full.n_iter)
    same(fit(data, **options, checkpoint=path, resume=True), full)
    same(fit(data, **options, checkpoint=path, resume=True), full)  # finished, and again
    same(fit(data, **options, checkpoint=path), full)  # not resumed: from the start
    same(fit(data, **options, checkpoint=str(path), max_iter=10**6, resume=True), full)


def test_resume_without_a_file_begins(path):
    same(fit(checkpoint=path, resume=True), fit())
    assert path.exists()


def test_resume_needs_a_path():
    with pytest.raises(ValueError, match="checkpoint=path"):
        fit(resume=True)


def stop_after(calls, how=StopIteration):
    """A callback that stops the fit at its call number `calls`."""
    def callback(iterate):
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise how

    return callback


@pytest.fixture(scope="module")
def three_runs():
    calls = []
    full = fit(**RUNS, callback=lambda iterate: calls.append(iterate.n_iter))
    assert len(calls) > 60 and calls.count(0) == 3 and calls.index(0, 1) > 3
    return full, calls


RUNS = {"n_init": 3, "init": "random", "random_state": 5, "tol": 1e-5}


@pytest.mark.parametrize("run", [0, 1, 2])
@pytest.mark.parametrize("how, after", [
    (StopIteration, 1), (KeyboardInterrupt, 1), (KeyboardInterrupt, 5)])
def test_restarts_resume_within_any_run(run, how, after, three_runs, path):
    full, calls = three_runs
    at = [i for i, n_iter in enumerate(calls) if n_iter == 0][run] + after
    part = fit(**RUNS, checkpoint=path, callback=stop_after(at, how))
    assert part.termination == ("callback" if how is StopIteration else "interrupted")
    assert not part.converged
    same(fit(**RUNS, checkpoint=path, resume=True), full)


def test_a_stop_in_a_later_run_returns_the_best_of_all():
    first = fit()
    part = fit(n_init=3, random_state=5, callback=stop_after(first.n_iter + 3, KeyboardInterrupt))
    assert part.termination == "interrupted" and not part.converged
    assert part.loglik == first.loglik


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_how_often_it_is_written(path, monkeypatch):
    written = []

    def write(path, kind, meta, arrays):
        written.append(arrays["trace"].size - 1)
        write_archive(path, kind, meta, arrays)

    monkeypatch.setattr(checkpoint, "write_archive", write)
    full = fit(checkpoint=path, checkpoint_every=np.int64(10), checkpoint_seconds=None)
    end = full.n_iter
    assert end > 20 and written == [*range(0, end + 1, 10), *([end] if end % 10 else [end])]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=0)
    assert written == [*range(end + 1), end]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=None)
    assert written == [0, end]
    written.clear()
    runs = fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, n_init=2,
               random_state=0, max_iter=25, tol=0, gtol=0)
    assert runs.n_iter == 25 and written == [0, 10, 20, 25] * 2
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=5)
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=17, resume=True)
    assert written == [0, 5, 15, 17]


def test_a_folder_that_is_not_there_is_told_before_the_fit(tmp_path):
    calls = []
    with pytest.raises(FileNotFoundError):
        fit(checkpoint=tmp_path / "no" / "fit.npz", callback=calls.append)
    assert not calls


def test_progress_of_a_resumed_fit(path, capsys):
    with pytest.warns(ConvergenceWarning, match="4 updates"):
        fit(checkpoint=path, max_iter=4)
    with pytest.warns(ConvergenceWarning, match="9 updates"):
        fit(checkpoint=path, max_iter=9, resume=True, progress=True)
    assert "9/9" in capsys.readouterr().err


def test_random_states_are_advanced_once():
    one, other = np.random.default_rng(4), np.random.default_rng(4)
    fit(random_state=one, tol=0.9)
    fit(random_state=other, tol=1e-4)
    assert one.integers(2**60) == other.integers(2**60)


# ---------------------------------------------------------------- other fits, damaged files


def far_digit(x):
    x = x.copy()
    x[-1, -1] = np.nextafter(x[-1, -1], np.inf)
    return x


OTHERS = {
    "data, a far digit": ({"data": far_digit(Y)}, "data: "),
    "data, one column in another order": (
        {"data": np.column_stack([np.sort(Y[:, 0]), Y[:, 1:]])}, "data: "),
    "samples": ({"data": Y[:-1]}, "60 samples of 24 features there, 59 samples"),
    "dtype": ({"data": Y.astype(np.float32)}, "dtype: float64 there, float32 now"),
    "weights": ({"sample_weight": np.arange(60.0) + 1}, "data: "),
    "ranks": ({"ranks": (1, 1, 1)}, r"ranks: \(2, 1, 1\) there, \(1, 1, 1\) now"),
    "hierarchy": ({"h": problem(seed=1)[0]}, "hierarchy: "),
    "acceleration": ({"accelerate": False}, "accelerate: True there, False now"),
    "centring": ({"center": False}, "center: True there, False now"),
    "start": ({"init": "random"}, "init: svd there, random now"),
    "restarts": ({"n_init": 2}, "n_init: 1 there, 2 now"),
    "floor": ({"variance_floor": 1e-3}, "variance_floor: 1e-06 there, 0.001 now"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_fits_are_refused(other, path):
    changed, message = OTHERS[other]
    fit(checkpoint=path)
    with pytest.raises(ValueError, match=message) as caught:
        fit(**changed, checkpoint=path, resume=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [sp.csr_array(Y), [Y]], ids=["sparse", "chunks"])
def test_other_data_are_refused_that_never_sit_in_memory(data, path):
    changed = np.column_stack([np.sort(Y[:, 0]), Y[:, 1:]])
    fit(data, checkpoint=path)
    with pytest.raises(ValueError, match="another fit.*data: "):
        fit(type(data)([changed] if isinstance(data, list) else changed), checkpoint=path,
            resume=True)


def test_other_starts_and_seeds_are_refused(path):
    one, other = (MLR(H, [np.full((24, r), x) for r in RANKS], np.ones(24)) for x in (0.1, 0.2))
    fit(init=one, checkpoint=path)
    same(fit(init=one, checkpoint=path, resume=True), fit(init=one))
    with pytest.raises(ValueError, match="init: operator .* there, operator .* now"):
        fit(init=other, checkpoint=path, resume=True)
    fit(init="random", random_state=1, checkpoint=path)
    with pytest.raises(ValueError, match="random_state: 1 there, 2 now"):
        fit(init="random", random_state=2, checkpoint=path, resume=True)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_runs_that_are_over_cannot_be_cut_elsewhere(path):
    fit(n_init=2, random_state=0, max_iter=4, checkpoint=path)
    with pytest.raises(ValueError, match="max_iter: 4 there, 9 now"):
        fit(n_init=2, random_state=0, max_iter=9, checkpoint=path, resume=True)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other kind"])
def test_damaged_files(damage, path):
    fit(checkpoint=path)
    content = bytearray(path.read_bytes())
    if damage == "other kind":
        write_archive(path, "MLR", {}, {})
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes({"empty": b"", "text": b"checkpoint", "cut": content[:-200],
                          "flipped": content}[damage])
    with pytest.raises(ValueError, match=f"cannot read '{path}'"):
        fit(checkpoint=path, resume=True)


def grown(x):
    return np.concatenate([x, x[-1:]])


ARRAYS = [
    ("F", grown), ("F", lambda x: x.T), ("F", lambda x: x.astype(np.float32)),
    ("F", lambda x: x + np.nan), ("D", grown), ("D", lambda x: -x), ("D", lambda x: x * np.inf),
    ("D", lambda x: x[:, None]), ("mean", grown), ("mean", lambda x: x > 0),
    ("trace", lambda x: x[:0]), ("trace", lambda x: x[None]), ("trace", lambda x: x * np.nan),
    ("S", lambda x: x[:, 1:]), ("Y", lambda x: x[1:]), ("Y", grown),
    ("SY", lambda x: x[1:, 1:]), ("S", None), ("F", None), ("trace", None),
    ("best_F", grown), ("best_D", lambda x: x[1:]), ("best_mean", grown), ("best_trace", None),
]


@pytest.mark.parametrize("name, change", ARRAYS)
def test_arrays_that_do_not_fit_the_model(name, change, path):
    options = {"n_init": 2, "random_state": 0, "checkpoint": path}
    fit(**options)
    meta, arrays = read_archive(path, KIND)
    arrays.pop(name) if change is None else arrays.update({name: change(arrays[name])})
    write_archive(path, KIND, meta, arrays)
    with pytest.raises(ValueError, match=f"{path}' is no checkpoint of this version: .*{name}"):
        fit(**options, resume=True)


def put(value, *keys):
    def change(meta):
        for key in keys[:-1]:
            meta = meta[key]
        meta[keys[-1]] = value

    return change


@pytest.mark.parametrize("change", [
    put(-1, "count"), put(2, "count"), put("9", "count"), put(True, "count"),
    put(None, "n_evaluations"), put(1, "exhausted"), put([], "restarts", "seeds"),
    put(["a", "b"], "restarts", "seeds"), put(2, "restarts", "number"),
    put(0, "restarts", "number"), put(None, "restarts", "best"), put({}, "restarts", "best"),
    put([1], "restarts", "best"), put(None, "restarts"), put([1], "identity"),
    lambda meta: meta.pop("count"), lambda meta: meta.pop("identity"),
])
def test_entries_that_do_not_fit_the_model(change, path):
    options = {"n_init": 2, "random_state": 0, "checkpoint": path}
    fit(**options)
    meta, arrays = read_archive(path, KIND)
    change(meta)
    write_archive(path, KIND, meta, arrays)
    with pytest.raises(ValueError, match=str(path)):
        fit(**options, resume=True)


@pytest.mark.parametrize("options, error, message", [
    ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
    ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every must be an integer"),
    ({"checkpoint_seconds": -1.0}, ValueError, "checkpoint_seconds must not be negative"),
    ({"checkpoint_seconds": np.nan}, ValueError, "checkpoint_seconds must not be negative"),
])
def test_bad_times(options, error, message, path):
    with pytest.raises(error, match=message):
        fit(checkpoint=path, **options)


def test_leftovers_of_killed_writers(tmp_path):
    path, long = tmp_path / "fit.npz", tmp_path / ("a" * 41)
    mine = tmp_path / ".fit.npz.0123456789ab.tmp"
    others = [tmp_path / name for name in (
        ".fit.npz.tmp", ".other.npz.0123456789ab.tmp", ".fit.npz.0123456789ab.tmp.npz",
        "fit.npz.0123456789ab.tmp", f".{'a' * 40}.0123456789ab.tmp")]
    for file in (mine, *others):
        file.write_text("half")
    fit(checkpoint=path, tol=0.9)
    remove_leftovers(long)
    assert not mine.exists() and all(file.exists() for file in others)


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("accelerate", [True, False])
def test_interrupt_from_the_callback(accelerate, path, recwarn):
    full = fit(accelerate=accelerate, tol=1e-5)
    part = fit(accelerate=accelerate, tol=1e-5, checkpoint=path, max_iter=6,
               callback=stop_after(7, KeyboardInterrupt))
    assert part.termination == "interrupted" and not part.converged
    assert part.n_iter == 6 and part.loglik == full.loglik_trace[6]
    assert not recwarn.list
    same(fit(accelerate=accelerate, tol=1e-5, checkpoint=path, resume=True), full)


def breaking(at, monkeypatch):
    """Break evaluation number `at` of the EM map off by KeyboardInterrupt."""
    evaluate, count = ascent.Problem.evaluate, 0

    def broken(self, *args):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return evaluate(self, *args)

    monkeypatch.setattr(ascent.Problem, "evaluate", broken)


@pytest.mark.parametrize("at", [2, 3, 10, 17])
def test_an_update_that_is_broken_off_is_not_written(at, path, monkeypatch):
    full = fit()
    with monkeypatch.context() as patch:
        breaking(at, patch)
        part = fit(checkpoint=path, checkpoint_every=1)
    assert part.termination == "interrupted" and 0 <= part.n_iter < at
    np.testing.assert_array_equal(part.loglik_trace, full.loglik_trace[: part.n_iter + 1])
    assert fit(init=part.covariance, max_iter=0, gtol=0.9).loglik == pytest.approx(part.loglik)
    same(fit(checkpoint=path, resume=True), full)


def test_an_interrupt_of_the_first_evaluation_goes_through(path, monkeypatch):
    breaking(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path)
    assert not path.exists()


def test_a_signal_waits_for_the_update(path, monkeypatch):
    """Ctrl-C in the middle of an update: the update is whole, and what is written goes on."""
    full, learn = fit(), ascent.Ascent._learn

    def signalled(self, trial):
        if self.n_evaluations == 9:
            signal.raise_signal(signal.SIGINT)
        learn(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(ascent.Ascent, "_learn", signalled)
        part = fit(checkpoint=path, checkpoint_seconds=None)
    assert part.termination == "interrupted" and part.n_evaluations == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    same(fit(checkpoint=path, resume=True), full)


def test_a_second_signal_breaks_the_update_off(path, monkeypatch):
    full, learn, reached = fit(), ascent.Ascent._learn, []

    def signalled(self, trial):
        learn(self, trial)
        if self.n_evaluations == 9:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(ascent.Ascent, "_learn", signalled)
        part = fit(checkpoint=path, checkpoint_every=3)
    assert part.termination == "interrupted" and not reached
    assert read_archive(path, KIND)[1]["trace"].size - 1 in (part.n_iter - 2, part.n_iter - 1,
                                                             part.n_iter)
    same(fit(checkpoint=path, resume=True), full)


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

# Forks a process for a fit each time it is told to: imports are paid once.
HOST = """
import os, sys, warnings
import numpy as np
from mlrops import Hierarchy, fit_factor_model
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
h = Hierarchy.balanced(160, [1, 4, 16])
Y = rng.standard_normal((120, 12)) @ rng.standard_normal((12, 160))
Y += rng.standard_normal((120, 160))

def fit(path):
    fit = fit_factor_model(
        Y, (3, 2, 1), h, checkpoint=path, resume=True, tol=0, gtol=0, max_iter=400,
        checkpoint_every=1, checkpoint_seconds=None,
        callback=lambda iterate: print(iterate.n_iter, flush=True))
    np.savez(path + ".result.npz", F=fit.covariance.F, D=fit.covariance.D, mean=fit.mean,
             trace=fit.loglik_trace, n_evaluations=fit.n_evaluations)
    print(fit.termination, fit.converged, fit.loglik == fit.loglik_trace.max(), flush=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        fit(line.rstrip())
        os._exit(0)
    print("pid", child, flush=True)
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


class Fit:
    """A fit in a process of its own, and what it prints."""

    def __init__(self, host, path):
        self.path, self.said, self._lines = path, [], iter(host.stdout.readline, "")
        host.stdin.write(f"{path}\n")
        host.stdin.flush()
        self.pid = None

    def read(self, until):
        """Read on to the first line for which `until` holds."""
        for line in self._lines:
            if line.startswith("pid"):
                self.pid = int(line.split()[1])
            else:
                self.said.append(line.rstrip())
            if until(self) or line.startswith("exit"):
                return self
        raise AssertionError("the host ended")

    def end(self):
        return self.read(lambda fit: False).said[-1]

    def result(self):
        with np.load(f"{self.path}.result.npz") as found:
            return dict(found)


@pytest.fixture(scope="module")
def uninterrupted(host, tmp_path_factory):
    fit = Fit(host, tmp_path_factory.mktemp("fit") / "fit.npz")
    assert fit.end() == "exit 0" and fit.said[-2] == "max_iter False True"
    return fit.result()


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected)


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@FORKS
def test_killed_at_ten_moments(host, uninterrupted, tmp_path):
    path = tmp_path / "fit.npz"
    rng, reached = np.random.default_rng(7), []
    for _ in range(10):
        updates = rng.integers(1, 35)
        run = Fit(host, path).read(lambda fit, k=updates: fit.pid and len(fit.said) > k)
        # The checkpoint of the update is being written: most are killed within.
        time.sleep(rng.uniform(0, 0.004))
        os.kill(run.pid, signal.SIGKILL)
        assert run.end() == "exit -9"
        meta, arrays = read_archive(path, KIND)  # never unreadable
        reached.append(arrays["trace"].size - 1)
        assert reached[-1] >= int(run.said[updates]) - 1
        assert len(list(tmp_path.glob(".*.tmp"))) <= 1
    assert np.all(np.diff(reached) > 0) and reached[-1] < 400
    last = Fit(host, path)
    assert last.end() == "exit 0"
    assert equal(last.result(), uninterrupted)
    assert not list(tmp_path.glob(".*.tmp"))


@FORKS
def test_a_process_that_is_interrupted(host, uninterrupted, tmp_path):
    path = tmp_path / "fit.npz"
    run = Fit(host, path).read(lambda fit: fit.pid and fit.said[-1:] == ["20"])
    os.kill(run.pid, signal.SIGINT)
    assert run.end() == "exit 0" and run.said[-2] == "interrupted False True"
    assert run.result()["trace"].size < 100
    last = Fit(host, path)
    assert last.end() == "exit 0" and last.said[-2] == "max_iter False True"
    assert equal(last.result(), uninterrupted)
