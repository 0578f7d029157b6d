"""A million features on one machine: build, factor, solve and fit, and nothing near n×n."""

import json

import pytest
from test_kernels import in_a_new_process

LIMIT_GB = 3.5


@pytest.mark.slow
def test_a_million_features():
    out = in_a_new_process("""
        import json, resource, sys, time, warnings
        import numpy as np
        from mlrops.tree.hierarchy import Hierarchy
        from mlrops.factor.factor_model import fit_factor_model
        from mlrops.operators.mlr import MLR

        n, N, ranks = 1_000_000, 20, (2,) * 6
        rng, clock = np.random.default_rng(0), time.perf_counter
        h = Hierarchy.balanced(n, [10 ** level for level in range(6)])
        start = clock()
        A = MLR.from_compact(h, ranks, rng.standard_normal((n, 12)), rng.uniform(1, 2, n))
        b = rng.standard_normal(n)
        logdet, x = A.logdet(), A.solve(b)
        residual = float(np.linalg.norm(A @ x - b) / np.linalg.norm(b))
        solved = clock()
        Y = A.sample(N, random_state=1)
        del A, x, b
        warnings.simplefilter("ignore")
        fit = fit_factor_model(Y, ranks, h, max_iter=5, tol=0)
        scale = 1 if sys.platform == "darwin" else 1024
        print(json.dumps({
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9,
            "logdet": logdet, "residual": residual, "trace": fit.loglik_trace.tolist(),
            "solve_s": solved - start, "fit_s": clock() - solved}))
    """)
    found = json.loads(out)
    trace = found.pop("trace")
    print("\nn = 1,000,000:", {key: round(value, 3) for key, value in found.items()
                               if key != "residual"}, f"residual {found['residual']:.1e}")
    assert found["peak_gb"] < LIMIT_GB
    assert found["residual"] < 1e-10
    assert len(trace) == 6 and all(b > a for a, b in zip(trace[:-1], trace[1:], strict=True))
