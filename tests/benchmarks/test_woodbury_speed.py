"""LowRankPlusDiagonal against BLAS: n = 100,000, rank 30."""

import numpy as np
import pytest

from mlrops import LowRankPlusDiagonal

N, K = 100_000, 30


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    F, D = rng.standard_normal((N, K)), rng.uniform(0.5, 1.5, N)
    return F, D, rng.standard_normal(N), rng.standard_normal(K)


def test_matvec(parts, against_floor):
    F, D, x, z = parts
    A = LowRankPlusDiagonal(F, D)
    against_floor("LowRankPlusDiagonal matvec", "`Fᵀx`, `F z`", lambda: (F.T @ x, F @ z),
                  lambda: A @ x, 1.2, 100)


def test_solve(parts, against_floor):
    F, D, x, z = parts
    A = LowRankPlusDiagonal(F, D)
    A.logdet()
    against_floor("LowRankPlusDiagonal solve, factored", "`Fᵀx`, `F z`",
                  lambda: (F.T @ x, F @ z), lambda: A.solve(x), 1.2, 100)


def test_factor_solve_logdet(parts, against_floor):
    F, D, x, z = parts
    F = F.copy()
    F.flags.writeable = False  # shared by the operators, which are built outside the clock
    operators = iter([LowRankPlusDiagonal(F, D) for _ in range(400)])

    def factor_solve_logdet():
        A = next(operators)
        return A.solve(x), A.logdet()

    against_floor("LowRankPlusDiagonal factor + solve + logdet", "`FᵀF`, `Fᵀx`, `F z`",
                  lambda: (F.T @ F, F.T @ x, F @ z), factor_solve_logdet, 1.4, 30)
