"""A kernel of 100,000 points, 80 GB as an array: error, CPU time and memory of a fit to samples."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_kernels import in_a_new_process  # noqa: E402

TITLE = "Kernels that nobody forms"
COLUMNS = ("what", "measured", "aim")
RUN = """
    import json, resource, sys, time
    import numpy as np
    from mlrops import allocate_ranks, partition_points
    from mlrops.datasets import sphere_kernel

    n, whole = {n}, {whole}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if whole:
        data = sphere_kernel(n, "inverse_multiquadric", 0.3, random_state=0)
        given = (data.A, 28, partition_points(data.sources, None, 9)[0]), {{}}
    else:
        given = (None, 28), dict(points=x.astype(np.float32), kernel="inverse_multiquadric",
                                 scale=0.3)
    start = time.process_time()
    fit = allocate_ranks(*given[0], **given[1], random_state=0)
    scale = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({{
        "error": fit.error, "se": fit.held_out_se, "seen": fit.objective_trace[-1],
        "ranks": fit.ranks, "seconds": time.process_time() - start,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9}}))
"""
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def measured(n, whole):
    return json.loads(in_a_new_process(RUN.format(n=n, whole=whole), **ONE))


def test_a_kernel_of_a_hundred_thousand_points(record_in):
    few, many = measured(12_000, True), measured(100_000, False)
    record_in(TITLE, COLUMNS, "12,000 points in full, rank 28",
              f"error {few['error']:.4f}, {few['seconds']:.0f} s of CPU, {few['gb']:.1f} GB", "")
    record_in(TITLE, COLUMNS, "100,000 points from samples, rank 28",
              f"held-out error {many['error']:.4f} ± {many['se']:.1g}, {many['seconds']:.0f} s of"
              f" CPU, {many['gb']:.1f} GB, ranks {' '.join(map(str, many['ranks']))}",
              f"{1.1 * few['error']:.4f}, 120 s, 3 GB")
    assert many["error"] - 2 * many["se"] < 1.1 * few["error"]
    assert many["gb"] < 3
    assert many["seconds"] < 240
