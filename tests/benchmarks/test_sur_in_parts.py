"""`als_gls` on dask arrays: 100,000 equations on two workers, their memory and what they send."""

import resource
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from mlrops import als_gls

sys.path.append(str(Path(__file__).parents[1]))
import clusters  # noqa: E402

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

N, P, RANK = 200, 3, 5
LIMIT = "2GiB"  # of a worker; the data are 0.64 GB
COLUMNS = ("equations", "chunks", "seconds", "iterations", "error of coefficients",
           "a worker's peak", "peak here", "bytes moved an iteration", "log-likelihood a row")


def drawn(seed, m):
    """Regressors (N, m, p), Y (N, m) and coefficients (m, p) of a chunk, by a seed of its own."""
    rng, factors = np.random.default_rng([1, seed]), np.random.default_rng(7)
    X, beta = rng.standard_normal((N, m, P)), rng.standard_normal((m, P))
    E = factors.standard_normal((N, RANK)) @ rng.standard_normal((RANK, m))
    E += rng.standard_normal((N, m)) * np.sqrt(rng.uniform(0.5, 2, m))
    return X, np.einsum("tkp,kp->tk", X, beta) + E, beta


def system(K, parts):
    """Dask arrays that workers draw, chunk by chunk: nothing of their size is ever here."""
    m, each = K // parts, dask.delayed(drawn, nout=3)
    chunks = [each(seed, m) for seed in range(parts)]
    shapes = ((N, m, P), 1), ((N, m), 1), ((m, P), 0)
    return [da.concatenate([da.from_delayed(chunk[i], shape, float) for chunk in chunks], axis=axis)
            for i, (shape, axis) in enumerate(shapes)]


def peak():
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def moved(client):
    logs = client.run(lambda dask_worker: [
        entry["total"] for entry in dask_worker.transfer_incoming_log])
    return sum(map(sum, logs.values()))


@pytest.mark.parametrize("K", [20_000, 100_000])
def test_equations_by_the_hundred_thousand(K, benchmark, record_in):
    """Two workers with one thread each; two iterations to warm up come first."""
    parts, each = 10, []
    with clusters.cluster(2, memory_limit=LIMIT) as (client, _):
        X, Y, _ = system(1000, 2)
        als_gls(X, Y, RANK, max_iter=2, tol=0.5)
        X, Y, beta = system(K, parts)
        start = perf_counter()
        fit = als_gls(X, Y, RANK, callback=lambda iterate: each.append(moved(client)))
        seconds = perf_counter() - start
        most = max(client.run(peak).values())
        error = float(np.sqrt(np.square(fit.params - beta).mean().compute()))
    benchmark.pedantic(lambda: None)
    a_round = float(np.median(np.diff(each)))
    record_in(f"systems in parts, N = {N}, p = {P}, k = {RANK}, two workers of {LIMIT}", COLUMNS,
              f"{K:,}", f"{parts}", f"{seconds:.1f}", f"{fit.n_iter}", f"{error:.4f}",
              f"{most:.2f} GB", f"{peak():.2f} GB", f"{a_round / 1e6:.2f} MB", f"{fit.loglik:.3f}")
    assert fit.converged and error < 1.5 * np.sqrt(1.25 / N)
    assert most < 2 and peak() < 0.5
