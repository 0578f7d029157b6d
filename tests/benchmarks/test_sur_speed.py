"""`als_gls` against alsgls on that package's own simulator, its memory, and 10,000 equations."""

import math
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

from mlrops import Hierarchy, LowRankPlusDiagonal, als_gls, em_gls
from mlrops.cli.bench.timing import best_of
from mlrops.datasets import simulate_mlr, simulate_sur

COLUMNS = ("K, N, p, k", "alsgls, log-likelihood a row", "time", "ours", "time", "ratio of times")
MEMORY = ("K", "ours, beyond the data", "over K k", "dense baseline", "over K²")


@pytest.mark.parametrize("K, N, p, k", [(300, 300, 3, 5), (1000, 300, 3, 5), (3000, 400, 5, 8)])
def test_against_alsgls(K, N, p, k, benchmark, record_in):
    """Its simulator, both as they come."""
    alsgls = pytest.importorskip("alsgls")
    Xs, Y, _, _ = alsgls.simulate_sur(N, 1, K=K, p=p, k=k, seed=0)
    als_gls(Xs[:5], Y[:, :5], 1, max_iter=2, tol=0.5)  # compiled kernels are read from disk
    rounds = 3 if K < 3000 else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, (B, F, D, _, _) = best_of(lambda: alsgls.als_gls(Xs, Y, k), rounds)
    ours, fit = best_of(lambda: als_gls(Xs, Y, k), rounds)
    benchmark.pedantic(lambda: None)
    E = Y - np.stack([X @ b.ravel() for X, b in zip(Xs, B, strict=True)], axis=1)
    sigma = LowRankPlusDiagonal(F, D)
    loglik = -0.5 * (K * math.log(2 * math.pi) + sigma.logdet() + sigma.inv_quad(E.T).mean())
    record_in("against alsgls, its own simulator", COLUMNS, f"{K}, {N}, {p}, {k}", f"{loglik:.6f}",
              f"{theirs:.2f} s", f"{fit.loglik:.6f}", f"{ours:.2f} s", f"{ours / theirs:.2f}")
    assert fit.loglik >= loglik - 1e-6 and ours <= 0.4 * theirs


def traced(function):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_grows_as_the_loadings(benchmark, record_in):
    """With p and N small beside K what grows with K is K (N + p N + k); nothing as K²."""
    benchmark.pedantic(lambda: None)
    numbers = []
    small = simulate_sur(20, 1, 4, n_samples=40, random_state=0)
    als_gls(small.Xs, small.Y, 4, max_iter=3, tol=0.5)  # compiled kernels are read from disk
    for K in (250, 500, 1000, 2000, 4000):
        sim = simulate_sur(K, 1, 4, n_samples=40, random_state=0)
        peak = traced(lambda sim=sim: als_gls(sim.Xs, sim.Y, 4, max_iter=3, tol=0.5))
        numbers.append(peak)
        dense = "not run"
        if K <= 1000:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peak_dense = traced(lambda sim=sim: em_gls(sim.Xs, sim.Y, 4, max_iter=2))
            dense = f"{peak_dense / 1e6:.1f} MB"
        record_in("memory of a fit, N = 40, p = 1, k = 4", MEMORY, f"{K}", f"{peak / 1e6:.1f} MB",
                  f"{peak / K / 4 / 8:.0f} numbers", dense,
                  f"{peak_dense / K / K / 8:.1f} numbers" if K <= 1000 else "")
    assert numbers[-1] < 1.3 * 16 * numbers[0]


SCRIPT = """
import resource, sys
from time import perf_counter
from mlrops import als_gls
from mlrops.datasets import simulate_mlr, simulate_sur
sim = simulate_sur(10_000, 3, 5, n_samples=200, random_state=0)
start = perf_counter()
fit = als_gls(sim.Xs, sim.Y, 5)
fitted = perf_counter() - start
errors = fit.bse
both = perf_counter() - start
unit = 2**30 if sys.platform == "darwin" else 2**20
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(fit.converged, fit.loglik, fitted, both - fitted, peak)
"""


def test_ten_thousand_equations(benchmark, record_in):
    """K = 10,000, N = 200, p = 3, k = 5 in a process of its own."""
    out = benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True,
                               check=True).stdout.split(), rounds=1)
    record_in("10,000 equations, N = 200, p = 3, k = 5",
              ("converged", "log-likelihood a row", "fit", "30,000 standard errors", "peak memory"),
              out[0], f"{float(out[1]):.3f}", f"{float(out[2]):.1f} s", f"{float(out[3]):.1f} s",
              f"{float(out[4]):.2f} GB")
    assert out[0] == "True" and float(out[4]) < 4


def tree_of_equations(own):
    """469 equations in four levels with heavy-tailed errors, 7 regressors each, own or shared."""
    rng, K, N = np.random.default_rng(0), 469, 838
    leaves = np.sort(rng.integers(0, 60, K))
    h = Hierarchy.from_labels(leaves // 12, leaves // 3, leaves)
    E = simulate_mlr(h, (4, 2, 1, 1), n_samples=N, noise=2.0, random_state=0).Y
    E = E * np.sqrt(2 / (rng.standard_t(4, (N, 1)) ** 2 + 1))

    def regressors():
        return np.column_stack([np.ones(N), rng.standard_normal((N, 6))])

    Xs = [regressors() for _ in range(K)] if own else [regressors()] * K
    return Xs, np.stack([X @ rng.standard_normal(7) * 0.3 for X in Xs], axis=1) + E, h


@pytest.mark.parametrize("own", [True, False], ids=["own regressors", "shared regressors"])
def test_469_equations_on_a_tree(own, benchmark, record_in):
    Xs, Y, h = tree_of_equations(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        als_gls(Xs, Y, (6, 2, 1, 1), h, max_iter=1)  # compiled kernels are read from disk
        seconds, fit = best_of(lambda: als_gls(Xs, Y, (6, 2, 1, 1), h), 1)
    benchmark.pedantic(lambda: None)
    record_in("469 equations in four levels, N = 838, ranks 6, 2, 1, 1",
              ("regressors", "time", "iterations", "steps of conjugate gradients",
               "log-likelihood a row", "ended by"),
              "own" if own else "shared", f"{seconds:.1f} s", str(fit.n_iter), str(sum(fit.n_cg)),
              f"{fit.loglik:.6f}", fit.termination)
    assert fit.converged
