"""Checkpoints of fits to chunks of columns: what was cut ends where it would have ended."""

import gc
import os
import subprocess
import sys
import threading

import clusters
import numpy as np
import pytest
from column_parts import CASES, SIMPLE, cut, operator, same, samples

from mlrops import fit_factor_model
from mlrops._common import spread
from mlrops.factor import climb
from mlrops.factor.checkpoint import KIND
from mlrops.factor.columns import checkpoint
from mlrops.io.archive import read_archive, write_archive

dask = pytest.importorskip("dask")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

H, RANKS, WIDTHS, _ = CASES[SIMPLE]
Y = samples(H, RANKS)


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit"


def fit(data=Y, h=H, ranks=RANKS, widths=WIDTHS, **options):
    options = {"max_iter": 15, "tol": 0, "gtol": 0} | options
    return fit_factor_model(cut(data, widths), ranks, h, **options)


def stop_after(number):
    """A callback that stops a fit at the update of this number, counted over all its climbs."""
    seen = []

    def stop(iterate):
        seen.append(iterate.n_iter)
        if len(seen) > number:
            raise StopIteration

    return stop


def agree(a, b):
    return same(a, b) and all(getattr(a, name) == getattr(b, name) for name in (
        "loglik", "n_iter", "n_evaluations", "termination", "gradient_norm", "optimizer"))


# ---------------------------------------------------------------- cut and resumed


KINDS = {
    "em": {"optimizer": "em"},
    "bfgs": {},
    "prior": {"prior": 2.0, "prior_variance": np.linspace(1, 2, 36)},
    "weights": {"sample_weight": np.arange(60) % 3},
    "not centred": {"center": False},
    "single": {"data": Y.astype(np.float32)},
    "random": {"init": "random", "random_state": 3},
    "an operator": {"init": operator(H, RANKS)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_a_cut(threads, kind, path):
    options = KINDS[kind]
    full = fit(**options)
    assert full.n_iter == 15
    part = fit(**options, checkpoint=path, callback=stop_after(7), checkpoint_every=2)
    assert part.n_iter == 7
    begun = []
    resumed = fit(**options, checkpoint=path, resume=True,
                  callback=lambda iterate: begun.append(iterate.n_iter))
    assert begun[0] == 7 and agree(resumed, full)
    assert agree(fit(**options, checkpoint=path, resume=True), full)  # it is over


@pytest.mark.quick(4)
@pytest.mark.parametrize("number", range(1, 15))
@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_resumed_after_any_update(threads, optimizer, number, path):
    full = fit(optimizer=optimizer)
    fit(optimizer=optimizer, checkpoint=path, callback=stop_after(number))
    assert agree(fit(optimizer=optimizer, checkpoint=path, resume=True), full)


@pytest.mark.parametrize("number", [3, 8, 20, 26])
def test_tournaments_are_resumed(threads, number, path, monkeypatch):
    """In heats, after five updates and the start of each, and in both finals."""
    monkeypatch.setattr(climb, "HEAT", 5)
    options = {"n_init": 3, "random_state": 0, "max_iter": 11}
    full = fit(**options)
    fit(**options, checkpoint=path, callback=stop_after(number))
    assert agree(fit(**options, checkpoint=path, resume=True), full)


def test_resume_without_a_checkpoint_begins(threads, path):
    assert agree(fit(checkpoint=path / "deep", resume=True), fit())
    assert (path / "deep" / "checkpoint.npz").exists()


def test_what_is_in_the_folder(threads, path):
    """Files of the last checkpoint, and what is not ours."""
    path.mkdir()
    left = "checkpoint-0-0123456789ab.npz"
    others = {"index.npz", "part-0-0123456789ab.npz", "checkpoint-0.npz", "notes.txt"}
    for name in {left, f".{left}.0123456789ab.tmp", ".checkpoint.npz.0123456789ab.tmp", *others}:
        (path / name).write_text("something")
    for _ in range(2):
        fit(checkpoint=path, checkpoint_every=1)
        names = {file.name for file in path.iterdir()} - others
        parts = read_archive(path / "checkpoint.npz", KIND)[0]["parts"]
        assert names == {"checkpoint.npz", *parts} and len(parts) == len(WIDTHS)
    assert others <= {file.name for file in path.iterdir()}


# ---------------------------------------------------------------- killed while it writes


def failing_at(number, function, cut_off=lambda path: None):
    """The function, but for a failure at one call."""
    calls = []

    def write(path, *args):
        calls.append(path)
        if len(calls) == number:
            cut_off(path)
            raise OSError("the disk is full")
        function(path, *args)

    return write


@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
@pytest.mark.parametrize("what, number", [
    ("write_archive", 1), ("write_archive", 3), ("write_part", 2), ("write_part", 8)],
    ids=["first index", "third index", "second part", "a part of the third"])
def test_a_kill_while_it_writes_leaves_the_checkpoint_before(
        threads, optimizer, what, number, path, monkeypatch):
    full = fit(optimizer=optimizer)
    function = getattr(checkpoint, what)
    monkeypatch.setattr(checkpoint, what, failing_at(number, function))
    with pytest.raises(OSError, match="full"):
        fit(optimizer=optimizer, checkpoint=path, checkpoint_every=3)
    monkeypatch.setattr(checkpoint, what, function)
    begun = []
    again = fit(optimizer=optimizer, checkpoint=path, resume=True,
                callback=lambda iterate: begun.append(iterate.n_iter))
    assert begun[0] == (0 if number < 3 else 3) and agree(again, full)
    assert len(list(path.iterdir())) == len(WIDTHS) + 1


PROGRAM = """
import os, signal, sys
import dask.array as da, numpy as np
from distributed import Client
from mlrops import Hierarchy, fit_factor_model

if __name__ == "__main__":
    client = Client(sys.argv[1])

    def stop(iterate):
        if iterate.n_iter == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    fit_factor_model(da.from_array(np.load("Y.npy"), chunks=(-1, (6, 18, 12))), (2, 1, 1),
                     Hierarchy.balanced(36, [1, 3, 6]), max_iter=15, tol=0, gtol=0,
                     optimizer=sys.argv[2], checkpoint="fit", checkpoint_every=2, callback=stop)
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_a_fit_is_resumed_after_the_client_is_killed(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", Y)
    with clusters.cluster(2) as (_, workers):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, workers.scheduler_address, optimizer])
        assert done.returncode < 0
        whole, begun = fit(optimizer=optimizer), []
        resumed = fit(optimizer=optimizer, checkpoint="fit", resume=True,
                      callback=lambda iterate: begun.append(iterate.n_iter))
        assert begun[0] == 6 and agree(resumed, whole)


@pytest.mark.slow
def test_what_is_resumed_does_not_go_back_to_files_that_are_removed(path):
    """All workers are lost after the next checkpoint has taken the place of the one read."""
    with dask.config.set(scheduler="sync"):
        full = fit()
    with clusters.cluster(2) as (client, _):
        fit(checkpoint=path, callback=stop_after(7))
        shots = []

        def shoot(iterate):
            if iterate.n_iter == 9:
                shots.append(threading.Timer(0.1, clusters.kill, [clusters.pids(client)]))
                shots[0].start()
                shots[0].join()

        resumed = fit(checkpoint=path, checkpoint_every=1, resume=True, callback=shoot)
        assert shots and agree(resumed, full)


@pytest.mark.slow
def test_a_checkpoint_leaves_nothing_on_a_cluster(path, monkeypatch):
    monkeypatch.setattr(spread, "MOST", spread.LEAST)  # what is held goes by the steps
    with clusters.cluster(2) as (_, workers):
        held = []
        options = {"max_iter": 30, "checkpoint": path, "checkpoint_every": 1,
                   "callback": lambda iterate: held.append(len(workers.scheduler.tasks))}
        fit(**options | {"max_iter": 10})
        found = fit(**options, resume=True)
        assert max(held[-10:]) <= max(held[:20]) + 8
        gc.collect()
        assert clusters.forgotten(workers, 2 * len(WIDTHS) + 2)  # F, D and mean of each part
        del found
        gc.collect()
        assert clusters.forgotten(workers, 0)


# ---------------------------------------------------------------- what is refused


def changed():
    """The data but for the last digit of one cell."""
    other = Y.copy()
    other[3, 8] = np.nextafter(other[3, 8], np.inf)
    return other


OTHERS = {
    "data": ({"data": changed()}, r"another fit \(data: \w+ there, \w+ now\)"),
    "dtype": ({"data": Y.astype(np.float32)}, "dtype: float64 there, float32 now; data: "),
    "samples": ({"data": Y[:50]}, "shape of the data: 60 samples of .* there, 50 samples"),
    "weights": ({"sample_weight": 1 + np.arange(60) % 2}, "data: "),
    "ranks": ({"ranks": (1, 1, 1)}, r"another fit \(ranks: \(2, 1, 1\) there, \(1, 1, 1\) now\)"),
    "chunks": ({"widths": (6, 12, 18)}, "chunks: 6, 18, 12 there, 6, 12, 18 now"),
    "more chunks": ({"widths": 6}, "chunks: 6, 18, 12 there, 6, 6, 6, 6, 6, 6 now"),
    "many chunks": ({"widths": 3, "ranks": (1, 1, 1)}, r"18, 12 there, 12, of widths \w+ now"),
    "hierarchy": ({"h": type(H).balanced(36, [1, 2, 6])}, r"hierarchy: \w+ there, \w+ now"),
    "optimizer": ({"optimizer": "em"}, r"another fit \(optimizer: bfgs there, em now\)"),
    "center": ({"center": False}, r"another fit \(center: True there, False now\)"),
    "floor": ({"variance_floor": 1e-3}, r"another fit \(variance_floor: "),
    "prior": ({"prior": 2.0}, "prior: None there, strength 2.0, variances of the data now"),
    "init": ({"init": "svd"}, r"another fit \(init: principal_factor there, svd now\)"),
    "starts": ({"n_init": 2}, "n_init: 1 there, 2 now"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_fits_are_refused(threads, other, path):
    options, message = OTHERS[other]
    fit(checkpoint=path, max_iter=2)
    with pytest.raises(ValueError, match=message) as caught:
        fit(**options, checkpoint=path, resume=True)
    assert f"{str(path)!r} is the checkpoint of another fit" in str(caught.value)


def test_other_priors_are_refused(threads, path):
    one = {"prior": 2.0, "prior_variance": 1.0, "max_iter": 2}
    fit(**one, checkpoint=path)
    for other in ({"prior_variance": 3.0}, {"prior_variance": None}, {"prior": 1.0}):
        with pytest.raises(ValueError, match=r"another fit \(prior: strength 2.0, variances \w+"):
            fit(**one | other, checkpoint=path, resume=True)


def parts_of(path):
    return [path / name for name in read_archive(path / "checkpoint.npz", KIND)[0]["parts"]]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "another"])
def test_damaged_parts(threads, damage, path):
    fit(checkpoint=path, max_iter=6, widths=12)  # any part would fit in the place of another
    first, second, _ = parts_of(path)
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 4
    second.write_bytes({"empty": b"", "cut": content[:-200], "flipped": content,
                        "another": first.read_bytes()}[damage])
    with pytest.raises(ValueError, match=f"cannot read '{second}'"):
        fit(checkpoint=path, resume=True, widths=12)


@pytest.mark.parametrize("name, change", [
    ("F", lambda x: x[1:]), ("F", None), ("D", lambda x: -x), ("D", lambda x: x * np.nan),
    ("mean", lambda x: x[None]), ("S.0", lambda x: x[1:]), ("Y.0", lambda x: x * np.inf),
    ("Y.1", None), ("S.1", lambda x: x.astype(np.float32))])
def test_parts_that_do_not_fit_the_model(threads, name, change, path):
    fit(checkpoint=path, max_iter=6)
    second = parts_of(path)[1]
    meta, arrays = read_archive(second, checkpoint.PART)
    arrays.pop(name) if change is None else arrays.update({name: change(arrays[name])})
    write_archive(second, checkpoint.PART, meta, arrays)
    with pytest.raises(ValueError, match=rf"cannot read '{second}': .*{name}"):
        fit(checkpoint=path, resume=True)


def test_missing_parts(threads, path):
    fit(checkpoint=path, max_iter=6)
    second = parts_of(path)[1]
    second.unlink()
    with pytest.raises(ValueError, match=rf"'{path}' is no whole checkpoint: 1 file of its 3 parts"
                                         rf" .*{second.name}"):
        fit(checkpoint=path, resume=True)


@pytest.mark.parametrize("parts", [None, [], ["a", "b", "c"], [1, 2, 3], ["../x", "y", "z"]])
def test_an_index_that_does_not_fit(threads, parts, path):
    fit(checkpoint=path, max_iter=2)
    index = path / "checkpoint.npz"
    meta, arrays = read_archive(index, KIND)
    write_archive(index, KIND, meta | {"parts": parts}, arrays)
    with pytest.raises(ValueError, match=f"'{path}' is no checkpoint of this version"):
        fit(checkpoint=path, resume=True)


def test_a_file_in_place_of_the_folder(threads, path):
    path.write_text("something")
    with pytest.raises(NotADirectoryError, match="it is a file, expected a folder or a new path"):
        fit(checkpoint=path)
    assert path.read_text() == "something"


def test_one_machine_and_parts_do_not_take_the_checkpoint_of_the_other(threads, path):
    fit(checkpoint=path, max_iter=2)
    options = {"optimizer": "bfgs", "resume": True}
    with pytest.raises(ValueError, match="another fit.*chunks: 6, 18, 12 there, None now"):
        fit_factor_model(Y, RANKS, H, checkpoint=path / "checkpoint.npz", **options)
    fit_factor_model(Y, RANKS, H, checkpoint=path / "checkpoint.npz", optimizer="bfgs", max_iter=2)
    with pytest.raises(ValueError, match="another fit.*chunks: None there, 6, 18, 12 now"):
        fit(checkpoint=path, **options)


def test_a_folder_that_workers_do_not_see(threads, path, monkeypatch):
    write = checkpoint.write_part

    def elsewhere(name, *args):
        (path.parent / "other").mkdir(exist_ok=True)
        write(os.path.join(path.parent / "other", os.path.basename(name)), *args)

    monkeypatch.setattr(checkpoint, "write_part", elsewhere)
    with pytest.raises(FileNotFoundError, match="a folder that the client and all workers share"):
        fit(checkpoint=path)
    assert not list(path.iterdir())
    monkeypatch.setattr(checkpoint, "write_part",
                        lambda name, *args: write(os.path.join(path, "no", "x"), *args))
    with pytest.raises(FileNotFoundError, match="a worker does not see the folder of"):
        fit(checkpoint=path)
