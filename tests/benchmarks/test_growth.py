"""Growth and exchanges on sibling blocks: errors, CPU seconds and passes, two seeds each.

The floor is the time of a product of A with R vectors: a pass multiplies A once, its blocks by the
factors of the levels that see them.
"""

from time import perf_counter, process_time

import numpy as np
import pytest

from mlrops.datasets import gauss_transform, graph_distances, sphere_kernel, toeplitz_matrix
from mlrops.fitting import allocate_ranks, partition, partition_points

COLUMNS = ("matrix", "seed", "error", "truncated SVD", "ranks", "CPU seconds", "passes",
           "a pass, in products with R vectors", "aim")


def radial(n=3000, random_state=0):
    """Σ_l (1 + (2^l d / 0.9)²)^-2, l < 3, of points on the unit sphere (T. Parshakova et al.)."""
    rng = np.random.default_rng(random_state)
    t, s = rng.standard_normal((2, n, 3))
    t, s = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (t, s))
    squares = np.maximum(2 - 2 * t @ s.T, 0)
    return sum((1 + squares * 4.0**level / 0.81) ** -2.0 for level in range(3)), (t, s)


def sphere(n):
    data = sphere_kernel(n, "inverse_multiquadric", 0.3, random_state=0)
    return data.A, partition_points(data.sources, None, 8)[0], None, 28


def cases():
    def gauss():
        A = gauss_transform(random_state=0).A
        return A, *partition(A, 7, random_state=0), 20

    def radial_kernel():
        A, points = radial()
        return A, *partition_points(*points, 8), 28

    def toeplitz():
        A = toeplitz_matrix(2000, random_state=0)
        return A, partition(A, 9, method="order")[0], None, 20

    def small_world():
        A = graph_distances("small_world", 2000, random_state=0)
        return A, partition(A, 9, rank=10, random_state=0)[0], None, 20

    return {"Gauss transform, 800 by 600": (gauss, 0.207),
            "radial kernel, n = 3000": (radial_kernel, 0.0618),
            "sphere kernel, n = 3000": (lambda: sphere(3000), None),
            "sphere kernel, n = 5000": (lambda: sphere(5000), None),
            "Toeplitz, n = 2000": (toeplitz, 0.505),
            "distances, small world, n = 2000": (small_world, 0.0940)}


@pytest.mark.parametrize("name", cases())
def test_errors_seconds_and_passes(name, benchmark, record_in):
    make, aim = cases()[name]
    A, rows, cols, rank = make()
    benchmark.pedantic(lambda: None)
    s = np.linalg.svd(A, compute_uv=False) if len(A) <= 3000 else None
    truncated = "" if s is None else f"{np.linalg.norm(s[rank:]) / np.linalg.norm(s):.4f}"
    X = np.random.default_rng(0).standard_normal((A.shape[1], rank))
    product = min(_seconds(lambda: A @ X) for _ in range(5))
    for seed in range(2):
        seen, cpu, clock = [], process_time(), perf_counter()
        fit = allocate_ranks(A, rank, rows, cols, random_state=seed, callback=seen.append)
        cpu, clock = process_time() - cpu, perf_counter() - clock
        record_in("Growth and exchanges", COLUMNS, name, f"{seed}", f"{fit.error:.4f}", truncated,
                  " ".join(map(str, fit.ranks)), f"{cpu:.1f}", f"{seen[-1].n_passes:.0f}",
                  f"{clock / seen[-1].n_passes / product:.2f}", "" if aim is None else f"{aim:.4f}")
        assert aim is None or fit.error <= aim
        assert s is None or fit.error <= np.linalg.norm(s[rank:]) / np.linalg.norm(s)


def _seconds(f):
    start = perf_counter()
    f()
    return perf_counter() - start
