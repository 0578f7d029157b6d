"""The solver of regressions: by exact arithmetic, in few steps, honest where it ends short."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from mlrops import SUR, ConvergenceWarning, Dense, als_gls, em_gls, gls
from mlrops.datasets import load_grunfeld
from mlrops.operators.iterations import cg_in_runs, cg_of_one
from mlrops.regression.sur import em_gls as em_module
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.coefficient_inverse import CoefficientInverse
from mlrops.regression.sur.data import SURData

SOLVERS = "cg", "lsmr"


def exact(x):
    return [[Fraction(float(v)) for v in row] for row in np.atleast_2d(x)]


def solve_exactly(M, B):
    """``M⁻¹ B`` of lists of rows of Fraction, by elimination."""
    rows, n = [[*m, *b] for m, b in zip(M, B, strict=True)], len(M)
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                factor = rows[k][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


def reference(data, sigma):
    """Coefficients and standard errors of GLS in exact arithmetic."""
    P, K = int(data.p.sum()), data.K
    equation = np.repeat(np.arange(K), data.p)
    columns = exact(np.concatenate(data.Xs, axis=1).T)
    W = solve_exactly(exact(sigma), exact(np.eye(K)))
    Y = exact(data.Y.T)
    R, q = data.constraints or (np.zeros((0, P)), np.zeros(0))

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    A = [[W[equation[i]][equation[k]] * dot(columns[i], columns[k]) for k in range(P)]
         for i in range(P)]
    b = [sum(W[equation[i]][k] * dot(columns[i], Y[k]) for k in range(K)) for i in range(P)]
    R, q = (exact(R) if len(R) else []), [Fraction(float(v)) for v in q]
    saddle = [[*a, *(r[i] for r in R)] for i, a in enumerate(A)]
    saddle += [[*r, *[Fraction(0)] * len(R)] for r in R]
    found = solve_exactly(saddle, [[v, *(Fraction(int(i == k)) for k in range(P))]
                                   for i, v in enumerate([*b, *q])])
    found = np.array([[float(v) for v in row] for row in found[:P]])
    return found[:, 0], np.sqrt(np.diag(found[:, 1:]))


def draw(spread=0, alike=1.0, condition=10.0, seed=0, N=16, widths=(3, 2, 3, 2)):
    """Regressors of sizes up to ``10**spread``, `alike` of what equations do not share."""
    rng = np.random.default_rng(seed)
    K, common = len(widths), rng.standard_normal((N, max(widths)))
    Xs = [common[:, :p] + alike * rng.standard_normal((N, p)) for p in widths]
    Xs = [X * 10 ** np.linspace(0, spread, X.shape[1]) for X in Xs]
    U = np.linalg.qr(rng.standard_normal((K, K)))[0]
    sigma = (U * np.geomspace(1, 1 / condition, K)) @ U.T
    Y = np.stack([X.sum(axis=1) for X in Xs], axis=1)
    Y += rng.standard_normal((N, K)) @ np.linalg.cholesky(sigma).T
    return SURData(Xs, Y), (sigma + sigma.T) / 2


def limits(kind, P):
    """Three constraints, across equations, within one, and on one coefficient; true, or nearly."""
    R = np.zeros((3, P))
    R[0, [0, 3]], R[1, [1, 2]], R[2, P - 1] = (1, -1), (1, 2), 1
    if kind == "near":  # to the first one
        R[1] = R[0]
        R[1, 5] = 1e-4
    q = R @ np.linspace(0.99, 1.01, P)
    size = {"scaled": [1e-9, 1e9, 1e5], "huge": [1e-200, 1e200, 1e-170]}.get(kind, [1, 1, 1])
    return R * np.reshape(size, (3, 1)), q * size


@pytest.mark.quick(8)
@pytest.mark.parametrize("kind", [None, "plain", "near", "scaled", "huge"])
@pytest.mark.parametrize("spread, alike", [(0, 1.0), (0, 1e-3), (6, 1.0)])
@pytest.mark.parametrize("condition", [10.0, 1e6])
def test_known_covariance_in_exact_arithmetic(kind, spread, alike, condition):
    data, sigma = draw(spread, alike, condition)
    if kind:
        data = replace(data, constraints=limits(kind, data.p.sum()))
    beta, errors = reference(data, sigma)
    for solver in SOLVERS:
        fit = fit_system(data, None, None, SUROptions(solver=solver, gtol=1e-5),
                         covariance=Dense(sigma, positive_definite=True))
        found = np.concatenate(fit.coefficients)
        assert fit.converged and fit.n_cg[0] <= 2 * beta.size
        assert (np.abs(found - beta) <= 1e-8 * (np.abs(beta) + errors)).all()
        np.testing.assert_allclose(np.concatenate(fit.bse), errors, rtol=1e-6, atol=1e-12)
        if kind:
            R, q = data.constraints
            gap, terms = np.abs(R @ found - q), np.abs(R) @ np.abs(found) + np.abs(q)
            assert (gap <= 1e-14 * terms).all()


# ---------------------------------------------------------------- in few steps


@pytest.mark.parametrize("solver", SOLVERS)
def test_constraints_of_grunfeld_take_no_more_steps_than_coefficients(solver):
    panel = load_grunfeld().to_frame().assign(const=1.0)
    firms = [rows for _, rows in panel.set_index("year").groupby("firm")][:5]
    model = SUR({f"f{i}": (rows["invest"], rows[["value", "capital", "const"]])
                 for i, rows in enumerate(firms)})
    E = model.fit(ranks=0).resid
    model.add_constraints([{"f0_value": 1, "f3_value": -1},
                           ({"f1_value": 1, "f1_capital": 2}, 0.4), ({"f2_const": 1}, -3.0)])
    fit = model.fit(covariance=E.T @ E / len(E), solver=solver)
    assert fit.converged and fit.termination == "gradient" and fit.n_cg[0] <= 15
    assert fit.normal_norm < 1e-12


def test_conjugate_gradients_end_after_as_many_steps_as_unknowns():
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    A, b = (U * np.geomspace(1, 1e7, 60)) @ U.T, rng.standard_normal(60)
    calls = []

    def product(x):
        calls.append(x)
        return A @ x

    for factor in (1.0, 1e-200, 1e200):
        calls.clear()
        x, n_iter = cg_of_one(product, factor * b, 1e-10 * factor, 1000)
        assert n_iter == len(calls) <= 60
        assert np.linalg.norm(A @ (x / factor) - b) <= 1e-8 * np.linalg.norm(b)
    assert cg_of_one(product, b, 1e9, 1000)[1] == 0
    assert cg_of_one(product, b, 0.0, 3)[1] == 3
    x, n_iter = cg_of_one(lambda x: -x, b, 0.0, 3)
    assert not x.any() and n_iter == 1  # not positive definite


def test_gls_takes_no_more_steps_than_coefficients():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 20)), rng.standard_normal(60)
    U = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    A = (U * np.geomspace(1, 1e-7, 60)) @ U.T
    fit = gls(X, y, Dense((A + A.T) / 2, positive_definite=True), rtol=1e-9)
    assert fit.converged and fit.n_cg <= 2 * 20


# ---------------------------------------------------------------- honest where they end short


class Rough(Dense):
    """A matrix whose solve is off in the sixth digit."""

    def _solve(self, b):
        x = super()._solve(b)
        return x * (1 + 1e-6 * np.sin(1e6 * x / np.abs(x).max()))


@pytest.mark.parametrize("constrained", [False, True])
def test_a_solve_that_stalls_is_not_converged(constrained):
    data, sigma = draw()
    if constrained:
        data = replace(data, constraints=limits("plain", data.p.sum()))
    with pytest.warns(ConvergenceWarning, match="more than rounding explains"):
        fit = fit_system(data, None, None, SUROptions(), covariance=Rough(
            sigma, positive_definite=True))
    assert not fit.converged and fit.termination == "rounding" and fit.normal_norm < 1e-4
    assert fit.n_cg[0] <= 60
    with pytest.warns(ConvergenceWarning, match="relative residuals up to"):
        CoefficientInverse(data.system(), Rough(sigma, positive_definite=True), "cg").blocks()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("cap", [1, 3])
def test_a_cap_of_the_solver_is_not_converged(solver, cap):
    data, sigma = draw(alike=0.1, condition=1e4)
    # A loose gtol is no reason: coefficients given Σ are those of rounding, or not converged.
    with pytest.warns(ConvergenceWarning, match="more than rounding leaves; raise maxiter"):
        fit = fit_system(data, None, None, SUROptions(solver=solver, maxiter=cap, gtol=0.9),
                         covariance=Dense(sigma, positive_definite=True))
    assert (fit.converged, fit.termination, fit.n_cg) == (False, "max_iter", [cap])


def test_small_gains_of_a_capped_solver_are_not_convergence():
    data, _ = draw(alike=1e-2, condition=1e3, N=60, widths=(2,) * 5, seed=1)
    free = als_gls(data.Xs, data.Y, 1)
    assert free.converged
    with pytest.warns(ConvergenceWarning, match="1 step of cg each; raise maxiter"):
        fit = als_gls(data.Xs, data.Y, 1, maxiter=1, tol=1e-3, max_iter=15)
    assert (fit.converged, fit.termination) == (False, "max_iter") and fit.normal_norm > 1e-6


def test_em_that_loses_is_not_converged(monkeypatch):
    data, _ = draw(N=40)
    honest = em_module._State.em_step

    def worse(self, floor):
        new = honest(self, floor)
        new.loglik -= 0.1
        return new

    monkeypatch.setattr(em_module._State, "em_step", worse)
    monkeypatch.setattr(em_module._State, "gls_step", lambda self: self)
    with pytest.warns(ConvergenceWarning, match="rounding lets no step gain anything"):
        fit = em_gls(data.Xs, data.Y, 1)
    assert (fit.converged, fit.termination) == (False, "rounding")


def test_runs_of_cg_reports_what_is_left():
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    A, B = (U * np.geomspace(1, 1e12, 40)) @ U.T, rng.standard_normal((40, 3))
    for rtol in (1e-6, 1e-15):
        X, residuals, n_iter = cg_in_runs(lambda X, _: A @ X, B, rtol, 1000)
        true = np.linalg.norm(A @ X - B, axis=0) / np.linalg.norm(B, axis=0)
        np.testing.assert_allclose(residuals, true, rtol=1e-6)
        assert n_iter <= 1000
    assert (residuals > 1e-15).all()
    X, residuals, _ = cg_in_runs(lambda X, _: -X, B)  # not positive definite
    assert not X.any() and np.allclose(residuals, 1)
