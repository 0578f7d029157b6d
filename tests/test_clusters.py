"""Clusters that are not as they should be: one clear error each, and checkpoints are kept."""

import sys

import clusters
import pytest

from mlrops import fit_factor_model
from mlrops.datasets import simulate_factor_model
from mlrops.io.archive import read_archive

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

Y = simulate_factor_model(8, 1, n_samples=120, random_state=0).Y


def cut():
    return da.from_array(Y, chunks=(40, 8))


def other_version(version):
    """Give a worker's package another version, or take it away."""
    import mlrops
    if version is None:
        sys.modules["mlrops"] = None
    else:
        mlrops.__version__ = version


@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_workers_that_lack_the_package_or_have_another_version_are_named(version):
    with clusters.cluster(2) as (client, _):
        client.wait_for_workers(2)
        worker = sorted(client.scheduler_info()["workers"])[1]
        client.run(other_version, version, workers=[worker])
        with pytest.raises(RuntimeError) as caught:
            fit_factor_model(cut(), 1)
    text = str(caught.value)
    assert worker in text and "1 worker of 2" in text and "install it where they run" in text
    assert f"version {version}" in text or version is None and "mlrops halted" in text


def test_a_cluster_that_shrinks_to_nothing(tmp_path):
    path = tmp_path / "fit.ckpt"

    def shrink(iterate):
        if iterate.n_iter == 3:
            workers.scale(0)

    with clusters.cluster(2) as (client, workers):
        with dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}):
            with pytest.raises(ConnectionError, match="no workers for 2 seconds; start some"):
                fit_factor_model(cut(), 1, tol=0, gtol=0, callback=shrink, checkpoint=path,
                                 checkpoint_every=1)
        workers.scale(2)
        begun = []
        fit = fit_factor_model(cut(), 1, checkpoint=path, resume=True,
                               callback=lambda iterate: begun.append(iterate.n_iter))
    assert begun[0] >= 2 and fit.converged


def test_a_scheduler_that_goes_away(tmp_path):
    path = tmp_path / "fit.ckpt"
    with clusters.cluster(1) as (client, workers):

        def close(iterate):
            if iterate.n_iter == 3:
                workers.close()

        with pytest.raises(ConnectionError, match="cannot be reached any more"):
            fit_factor_model(cut(), 1, tol=0, gtol=0, callback=close, checkpoint=path,
                             checkpoint_every=1)
    assert len(read_archive(path, "factor model checkpoint")[1]["trace"]) >= 3
