"""Fits to chunks of columns on clusters: bits, workers that are lost, what is held and moved."""

import gc
import threading

import clusters
import numpy as np
import pytest
from column_parts import cut, same, samples

import mlrops
from mlrops import Hierarchy, fit_factor_model
from mlrops._common import spread

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


@pytest.fixture(scope="module")
def two():
    with clusters.cluster(2) as (client, workers):
        yield client, workers


# ---------------------------------------------------------------- bits, and workers that are lost


TALL = Hierarchy.balanced(720, [1, 3, 12]), (2, 1, 1), (240, 180, 60, 240)


def tall(optimizer="bfgs", **options):
    h, ranks, widths = TALL
    options = {"max_iter": 14, "gtol": 0, "tol": 0, "optimizer": optimizer} | options
    return fit_factor_model(cut(samples(h, ranks, 40), widths), ranks, h, **options)


@pytest.mark.parametrize("optimizer", [pytest.param("em", marks=pytest.mark.slow), "bfgs"])
def test_bits_do_not_depend_on_the_number_of_workers(two, optimizer):
    with dask.config.set(scheduler=two[0]):
        first = tall(optimizer).gather()
    assert first.n_iter == 14
    with dask.config.set(scheduler="sync"):
        assert same(tall(optimizer), first)
    for n_workers in (1, 3):
        with clusters.cluster(n_workers):
            assert same(tall(optimizer), first)


def holder_of_root(client):
    """The process that holds what the levels above the parts gave last, if it is there."""
    held = client.who_has()
    for key, where in held.items():
        if "sweep_root" in str(key) and where:
            return client.run(clusters.os.getpid, workers=list(where)[:1]).popitem()[1]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("which", ["one", "all", "root"])
@pytest.mark.parametrize("optimizer", [pytest.param("em", marks=pytest.mark.slow), "bfgs"])
def test_a_fit_goes_on_when_workers_are_killed(optimizer, which):
    """In the midst of an iteration, before the first files and after."""
    with dask.config.set(scheduler="sync"):
        expected = tall(optimizer).gather()
    with clusters.cluster(2) as (client, _):
        killed = []

        def shoot():
            root = None
            for _ in range(2000 if which == "root" else 0):
                root = root or holder_of_root(client)
                if root:
                    break
            pids = clusters.pids(client)
            killed.append([root or pids[0]] if which != "all" else pids)
            clusters.kill(killed[-1])

        shots = {n_iter: threading.Timer(0.1, shoot) for n_iter in (3, 12)}

        def look(iterate):
            if iterate.n_iter in shots:
                client.wait_for_workers(2, timeout=60)
                shots[iterate.n_iter].start()

        found = tall(optimizer, callback=look).gather()
        for shot in shots.values():
            shot.join()
        assert len(killed) == 2
    assert np.array_equal(found.covariance.F, expected.covariance.F)
    assert np.array_equal(found.loglik_trace, expected.loglik_trace)


@pytest.mark.slow
def test_a_result_outlives_the_workers(two, tmp_path):
    """What a fit leaves is computed again from files, without the data."""
    client, _ = two
    fit = tall(max_iter=3)
    expected = fit.gather()
    clusters.kill(clusters.pids(client))
    again = fit.gather()
    assert np.array_equal(again.covariance.F, expected.covariance.F)
    assert np.array_equal(again.mean, expected.mean)
    fit.covariance.save(tmp_path / "parts")
    assert np.array_equal(mlrops.load(tmp_path / "parts").gather().F, expected.covariance.F)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_what_the_scheduler_holds_does_not_grow(two, optimizer, monkeypatch):
    """Files are written every ten steps, whatever they take: what is held goes by the steps."""
    monkeypatch.setattr(spread, "MOST", spread.LEAST)
    client, workers = two
    gc.collect()
    assert clusters.forgotten(workers, 0)
    held = []

    def look(iterate):
        held.append(len(workers.scheduler.tasks))

    fit = tall(optimizer, max_iter=60 if optimizer == "em" else 40, callback=look)
    assert max(held[-20:]) <= max(held[:20]) + 8
    parts = len(fit.covariance.widths)
    assert clusters.forgotten(workers, 2 * parts + 2)  # F, D and mean of each part
    del fit
    gc.collect()
    assert clusters.forgotten(workers, 0)


@pytest.mark.slow
def test_files_are_cleared_away(two, tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        seen = []
        fit = tall(max_iter=25, callback=lambda iterate: seen.append(
            sum(len(list(folder.iterdir())) for folder in tmp_path.iterdir())))
        assert max(seen) > 0 and max(seen[15:]) <= 2 * 16 * 4
        assert len(list(tmp_path.iterdir())) == 1
        del fit
        gc.collect()
        assert not list(tmp_path.iterdir())


def moved(client):
    """Bytes between workers so far; what the client sends is not among them."""
    logs = client.run(lambda dask_worker: [
        entry["total"] for entry in dask_worker.transfer_incoming_log])
    return sum(map(sum, logs.values()))


def test_an_iteration_moves_little():
    """``R_c² + R_c N`` numbers a parent and part up and as many down, whatever the features."""
    N, each = 50, []
    with clusters.settled(2) as (client, _):
        for m in (500, 4000):
            h, ranks = Hierarchy.balanced(4 * m, [1, 4, 40]), (3, 2, 2)
            rng, count = np.random.default_rng(0), []
            Y = cut(rng.standard_normal((N, 4 * m)), m)
            fit_factor_model(Y, ranks, h, optimizer="em", max_iter=12, tol=0, gtol=0, init="random",
                             callback=lambda iterate, count=count: count.append(moved(client)))
            each.append(min(np.diff(count)))  # a busy machine may place tasks elsewhere at times
    c = 3  # ranks above the cut, at level 1
    one = 8 * ((c + 1) * (N + c + 2))
    # Four parts on two workers: what parts pass, and what goes down to them, crosses or does not.
    assert max(each) <= 8 * one


@pytest.mark.parametrize("took, one, expected", [
    (0.1, 1.0, [10, 20, 30, 40, 50]),  # seconds of the files, and of a step
    (1.0, 1.0, [10, 30, 50, 70, 90]), (1.5, 1.0, [10, 40, 70, 100, 130]),
    (1.0, 0.01, [10, 50, 90, 130, 170]), (0.0, 0.0, [10, 20, 30, 40, 50])])
def test_files_are_the_rarer_the_longer_they_take(took, one, expected, monkeypatch):
    """Ten steps or more, so many that they take twenty times as long, and forty at most."""
    now, count, found = [0.0], [0], []

    def settle(self, anchored):
        now[0] += took
        found.append(count[0])

    monkeypatch.setattr(spread, "monotonic", lambda: now[0])
    monkeypatch.setattr(spread, "is_remote", lambda: True)
    monkeypatch.setattr(spread.Shelf, "_settle", settle)
    shelf = spread.Shelf([])
    while len(found) < len(expected):
        now[0] += one
        count[0] += 1
        shelf.step()
    assert found == expected
