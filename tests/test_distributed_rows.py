"""Factor models of samples in chunks of rows on the workers of a cluster."""

import subprocess
import sys
import time

import clusters
import numpy as np
import pytest

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr

cloudpickle = pytest.importorskip("cloudpickle")
dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

LABELS = np.random.default_rng(5).integers(4, size=40)
H = Hierarchy.from_labels(LABELS, 3 * LABELS + np.arange(40) % 3)  # unequal groups, not in order
RANKS = 2, 1, 1
N = 700


@pytest.fixture(scope="module")
def Y():
    return simulate_mlr(H, RANKS, n_samples=N, random_state=0).Y


@pytest.fixture(scope="module")
def start(Y):
    rng = np.random.default_rng(1)
    return MLR(H, [rng.standard_normal((40, r)) / 2 for r in RANKS], np.full(40, 0.5))


@pytest.fixture(scope="module")
def two():
    with clusters.cluster(2) as (client, workers):
        yield client, workers


def gaps_in(Y):
    """Cells that are missing: at random, in a block, and all of two samples."""
    Y = Y.copy()
    Y[np.random.default_rng(3).random(Y.shape) < 0.03] = np.nan
    Y[:300, 5:8], Y[[4, 500]] = np.nan, np.nan
    return Y


def weights():
    w = np.random.default_rng(2).random(N)
    w[3:180] = 0  # a whole chunk and more
    return w


def same(a, b):
    return all(np.array_equal(x, y) for x, y in (
        (a.covariance.F, b.covariance.F), (a.covariance.D, b.covariance.D), (a.mean, b.mean)))


OPTIONS = {
    "plain": {}, "weights": {"sample_weight": weights()}, "not centred": {"center": False},
    "compressed": {"compress": True}, "compressed, not centred": {"compress": True,
                                                                 "center": False},
    "missing cells": {"missing": "em"}, "missing, weights": {"missing": "em",
                                                             "sample_weight": weights()},
    "prior": {"prior": True}}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("scheduler", ["threads", "workers"])
def test_iterates_of_EM_are_those_of_one_machine(Y, start, two, name, scheduler):
    options = {"init": start, "optimizer": "em", "max_iter": 8, "tol": 0} | OPTIONS[name]
    values = gaps_in(Y) if "missing" in options else Y
    cut = da.from_array(values, chunks=(110, 40))
    seen, here = [], []
    with dask.config.set(scheduler="threads" if scheduler == "threads" else two[0]):
        with pytest.warns(UserWarning, match="did not converge"):
            fit = fit_factor_model(cut, RANKS, H, **options, callback=seen.append)
    options.setdefault("compress", False)
    with pytest.warns(UserWarning, match="did not converge"):
        one = fit_factor_model(values, RANKS, H, **options, callback=here.append)
    assert len(seen) == len(here) == 9 and fit.n_samples == one.n_samples
    for a, b in zip(seen, here, strict=True):
        assert abs(a.loglik - b.loglik) <= 1e-10
        np.testing.assert_allclose(a.covariance.F, b.covariance.F, rtol=0, atol=1e-10)
        np.testing.assert_allclose(a.covariance.D, b.covariance.D, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit.mean, one.mean, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- bits, and workers that are lost


def slow(x):
    """A chunk that takes its time: a fit to it lasts long enough to lose workers in it."""
    time.sleep(0.03)
    return x


FITS = {
    "complete": lambda Y, **k: fit_factor_model(Y, RANKS, H, max_iter=12, **k),
    "bfgs": lambda Y, **k: fit_factor_model(Y, RANKS, H, optimizer="bfgs", max_iter=12, **k),
    "missing": lambda Y, **k: fit_factor_model(Y, RANKS, H, missing="em", max_iter=6,
                                             **k),
    "low floor": lambda Y, **k: fit_factor_model(Y, (8, 3, 2), H, variance_floor=1e-9, max_iter=40,
                                               **k),
    "compressed": lambda Y, **k: fit_factor_model(Y, RANKS, H, compress=True, max_iter=6, **k)}


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning", "ignore:Running on a single")
@pytest.mark.parametrize("kind", [kind if kind in ("complete", "missing") else
                                  pytest.param(kind, marks=pytest.mark.slow) for kind in FITS])
def test_bits_do_not_depend_on_the_number_of_workers(Y, two, kind):
    cut = da.from_array(gaps_in(Y) if kind == "missing" else Y, chunks=(110, 40))
    with dask.config.set(scheduler=two[0]):
        first = FITS[kind](cut)
    with dask.config.set(scheduler="sync"):
        assert same(FITS[kind](cut), first)
    with clusters.cluster(3):
        assert same(FITS[kind](cut), first)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("all_of_them", [False, True], ids=["one worker", "all workers"])
@pytest.mark.parametrize("kept", [False, True], ids=["loaded", "kept in memory"])
@pytest.mark.parametrize("kind", ["complete", "missing"])
def test_a_fit_goes_on_when_workers_are_killed(Y, kind, kept, all_of_them):
    cut = da.from_array(gaps_in(Y) if kind == "missing" else Y, chunks=(110, 40)).map_blocks(slow)
    with dask.config.set(scheduler="sync"):
        expected = FITS[kind](cut)
    with clusters.cluster(2) as (client, _):
        if kept:
            cut = client.persist(cut)
        for n_iter in (0, 3):
            client.wait_for_workers(2)
            killer = clusters.Killer(client, n_iter, all_of_them)
            assert same(FITS[kind](cut, callback=killer), expected)
            killer.done()


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_what_the_scheduler_holds_does_not_grow(Y, two):
    client, workers = two
    cut, held = client.persist(da.from_array(Y, chunks=(110, 40))), []

    def look(iterate):
        held.append(len(workers.scheduler.tasks))

    fit_factor_model(cut, RANKS, H, optimizer="em", max_iter=40, tol=0, callback=look)
    assert max(held[20:]) <= max(held[:20]) + cut.npartitions
    assert clusters.forgotten(workers, cut.npartitions)  # a fit leaves nothing behind
    del cut
    assert clusters.forgotten(workers, 0)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_data_in_the_graph_are_sent_once(Y, two):
    client, workers = two
    cut, sizes = da.from_array(np.tile(Y, (8, 1)), chunks=(800, 40)), []
    compute = client.compute

    def spy(nodes, *args, **options):
        sizes.append(len(cloudpickle.dumps([dict(node.dask) for node in nodes])))
        return compute(nodes, *args, **options)

    client.compute = spy
    try:
        fit_factor_model(cut, RANKS, H, max_iter=2)
    finally:
        client.compute = compute
    assert len(sizes) > 3 and max(sizes) < 100_000


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_an_error_leaves_nothing_behind(Y, two):
    def bad(x, block_info=None):
        number = block_info[0]["chunk-location"][0]
        time.sleep(5 * (number == 0))  # which nobody should wait for
        return np.full_like(x, np.nan) if number == 1 else x

    cut = da.from_array(Y, chunks=(110, 40)).map_blocks(bad, dtype=float)
    with pytest.raises(ValueError, match="NaN in chunk 1, row 0") as held:
        fit_factor_model(cut, RANKS, H)
    assert clusters.forgotten(two[1], 0, seconds=3) and held is not None



@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_an_E_step_moves_the_factors_and_the_moments_only():
    """F, D and mean to each worker, ``n R + s R`` and little else a chunk back or across."""
    n, R, s = 2000, 6, 6
    with clusters.settled(2) as (client, _):
        rng = np.random.default_rng(0)
        cut = client.persist(da.from_array(rng.standard_normal((400, n)), chunks=(50, n)))
        fit_factor_model(cut, R, optimizer="em", max_iter=1, tol=0, init="random", random_state=0)

        def moved():
            """Bytes between workers so far; what the client sends is not among them."""
            logs = client.run(lambda dask_worker: [
                entry["total"] for entry in dask_worker.transfer_incoming_log])
            return sum(map(sum, logs.values()))

        count = []
        fit_factor_model(cut, R, optimizer="em", max_iter=21, tol=0, init="random", random_state=0,
                         callback=lambda iterate: count.append(moved()))
        each = min(np.diff(count))  # a busy machine may place tasks elsewhere now and then
        # Between two workers: the parameters once, and a chunk's moments for each pair that is
        # merged across; eight chunks make seven pairs.
        one = 8 * (n * R + s * R)
        assert each <= 8 * (n * R + 3 * n) + 7 * one + 200_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning", "ignore::UserWarning")
def test_data_ten_times_the_memory_of_the_workers(tmp_path):
    """Nothing of more than a few chunks stays anywhere, though tasks load the chunks anew."""
    limit, n, rows = 500 * 2**20, 400, 5000
    base = np.random.default_rng(0).standard_normal((rows, 4))
    loadings = np.random.default_rng(1).standard_normal((4, n))

    def load(block_info=None):
        number = block_info[None]["chunk-location"][0]
        noise = np.random.default_rng(number).random(rows + n)
        return base @ loadings + np.lib.stride_tricks.sliding_window_view(noise, n)[:rows]

    count = 10 * limit // (8 * rows * n) + 1
    Y = da.map_blocks(load, chunks=((rows,) * count, (n,)), dtype=float, meta=np.empty((0, 0)))
    assert Y.nbytes > 10 * limit
    with clusters.cluster(2, memory_limit=limit, local_directory=tmp_path) as (client, workers):
        first = clusters.pids(client)
        fit = fit_factor_model(Y, 4, optimizer="em", max_iter=2, init="svd")
        assert fit.n_samples == count * rows and clusters.pids(client) == first
        spilled = client.run(lambda dask_worker: len(getattr(dask_worker.data, "slow", ())))
        assert not any(spilled.values())


# ---------------------------------------------------------------- checkpoints


PROGRAM = """
import os, signal, sys
import dask.array as da, numpy as np
from distributed import Client
from mlrops import Hierarchy, fit_factor_model

if __name__ == "__main__":
    client = Client(sys.argv[1])
    Y = np.load("Y.npy")
    labels = np.load("labels.npy")
    h = Hierarchy.from_labels(labels, 3 * labels + np.arange(40) % 3)

    def stop(iterate):
        if iterate.n_iter == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    fit_factor_model(da.from_array(Y, chunks=(110, 40)), (2, 1, 1), h, max_iter=12,
                     checkpoint="fit.ckpt", checkpoint_every=2, callback=stop)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_a_fit_is_resumed_after_the_client_is_killed(Y, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", Y)
    np.save("labels.npy", LABELS)
    cut = da.from_array(Y, chunks=(110, 40))
    with clusters.cluster(2) as (client, workers):
        done = subprocess.run([sys.executable, "-c", PROGRAM, workers.scheduler_address])
        assert done.returncode < 0
        whole = fit_factor_model(cut, RANKS, H, max_iter=12)
        begun = []
        resumed = fit_factor_model(cut, RANKS, H, max_iter=12, checkpoint="fit.ckpt", resume=True,
                                   callback=lambda iterate: begun.append(iterate.n_iter))
    assert begun[0] == 6 and same(resumed, whole)
    assert np.array_equal(resumed.loglik_trace, whole.loglik_trace)
