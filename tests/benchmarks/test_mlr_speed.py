"""MLR against BLAS: n = 100,000 features, R = 69, 32 leaves; then tiny leaves from 10⁴ to 10⁶."""

import numpy as np
import pytest

from mlrops import MLR, Hierarchy
from mlrops.cli.bench.timing import best_of

N_FEATURES, RANKS, N_SAMPLES = 100_000, (14, 12, 11, 11, 11, 10), 280


@pytest.fixture(scope="module")
def big():
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(N_FEATURES, (1, 2, 4, 8, 16, 32))
    F = rng.standard_normal((N_FEATURES, sum(RANKS)))
    D = rng.uniform(0.5, 1.5, N_FEATURES)
    return h, F, D, rng


def fresh(h, ranks, F, D):
    """An operator without a factorization, at no cost."""
    return MLR.from_compact(h, ranks, F, D, copy=False, check_finite=False)


@pytest.fixture(params=[1, 50], ids=["single calls", "unbroken loop"])
def calls(request):
    """How often a product is repeated within one timing."""
    return request.param


def repeat(function, calls):
    return lambda: [function() for _ in range(calls)]


def label(name, calls):
    return name if calls == 1 else f"{name}, unbroken loop of {calls}"


def test_matvec(big, against_floor, calls):
    h, F, D, rng = big
    A = fresh(h, RANKS, F, D)
    x, z = rng.standard_normal(N_FEATURES), rng.standard_normal(F.shape[1])
    against_floor(label("matvec", calls), "`Fᵀx`, `F z`", repeat(lambda: (F.T @ x, F @ z), calls),
                  repeat(lambda: A @ x, calls), 1.4, 60 // calls + 9)


def test_factor(big, against_floor):
    h, F, D, _ = big
    against_floor("factor + logdet", "`FᵀF`", lambda: F.T @ F,
                  lambda: fresh(h, RANKS, F, D).logdet(), 2.0, 30)


def test_solve(big, against_floor, calls):
    h, F, D, rng = big
    A = fresh(h, RANKS, F, D)
    x, z = rng.standard_normal(N_FEATURES), rng.standard_normal(F.shape[1])
    A.logdet()
    against_floor(label("solve, factored", calls), "`Fᵀx`, `F z`",
                  repeat(lambda: (F.T @ x, F @ z), calls), repeat(lambda: A.solve(x), calls),
                  1.4, 60 // calls + 9)


def em_iteration(h, ranks, F, D, X, squares, out):
    posterior = (A := fresh(h, ranks, F, D)).posterior(X, check_finite=False)
    posterior.total_inv_quad(squares)
    A.logdet()
    posterior.regress(squares, out=out)


def test_em_iteration(big, against_floor):
    h, F, D, rng = big
    Y = rng.standard_normal((N_SAMPLES, N_FEATURES))
    Z = rng.standard_normal((F.shape[1], N_SAMPLES))
    X = np.ascontiguousarray(Y.T)  # what the fit makes of the data, once
    squares = np.einsum("ik,ik->i", X, X)
    out = np.empty_like(F), np.empty_like(D)
    against_floor("one EM iteration, N = 280", "`Fᵀ Yᵀ`, `Z Y`", lambda: (F.T @ Y.T, Z @ Y),
                  lambda: em_iteration(h, RANKS, F, D, X, squares, out), 1.6, 15)


def test_cost_of_a_feature_is_flat(benchmark, record):
    """Leaves of 10, R = 12: time a feature at n = 10⁴, 10⁵, 10⁶."""
    rng = np.random.default_rng(1)
    ranks, N = (3, 3, 3, 3), 20
    costs = {}

    def measure():
        for n in (10**4, 10**5, 10**6):
            for name, operation in operations(n):
                rounds = 5 if name == "EM iteration" else 2 * 10**6 // n + 5
                costs.setdefault(name, []).append(best_of(operation, rounds + 1)[0] / n)

    def operations(n):
        h = Hierarchy.balanced(n, (1, n // 1000, n // 100, n // 10))
        F, D = rng.standard_normal((n, 12)), rng.uniform(0.5, 1.5, n)
        x, X = rng.standard_normal(n), rng.standard_normal((n, N))
        squares, out = np.einsum("ik,ik->i", X, X), (np.empty_like(F), np.empty_like(D))
        A = fresh(h, ranks, F, D)
        A.logdet()
        yield "matvec", lambda: A @ x
        yield "factor + logdet", lambda: fresh(h, ranks, F, D).logdet()
        yield "solve", lambda: A.solve(x)
        yield "EM iteration", lambda: em_iteration(h, ranks, F, D, X, squares, out)

    benchmark.pedantic(measure, rounds=1)
    for name, cost in costs.items():
        growth = cost[-1] / cost[0]
        benchmark.extra_info[name] = [1e9 * c for c in cost]
        record(f"{name}, leaves of 10, R = 12", "same at n = 10⁴",
               " / ".join(f"{1e9 * c:.0f}" for c in cost) + " ns a feature",
               f"{growth:.2f}", "", "1.3")
