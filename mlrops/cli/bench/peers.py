"""Comparisons with packages that may be installed."""

import math

import numpy as np

from ...datasets import simulate_factor_model, simulate_sur
from ...factor import fit_factor_model
from ...operators.elementary import Dense
from ...operators.low_rank_plus_diagonal import LowRankPlusDiagonal
from ...regression import als_gls
from .race import Agreement, Race, higher, same

__all__ = ["against_alsgls", "against_linearmodels", "against_pylops", "against_sklearn"]


def against_sklearn(quick, decomposition):
    """`FactorAnalysis` with each of its solvers."""
    from sklearn.datasets import load_digits

    digits = load_digits().data
    digits = digits[:, digits.std(axis=0) > 0]
    problems = [("digits", digits, 10)]
    if not quick:
        problems.append(("simulated", simulate_factor_model(1000, 10, 1000, random_state=0).Y, 10))
    for name, Y, k in problems:
        for solver in ("lapack", "randomized"):
            def theirs(solver=solver, Y=Y, k=k):
                model = decomposition.FactorAnalysis(
                    k, svd_method=solver, tol=1e-6, max_iter=10_000, random_state=0)
                return model.fit(Y)

            yield Race(f"Factor analysis, {name}, N = {len(Y):,}, n = {Y.shape[1]:,}, k = {k}",
                       "fit", f"FactorAnalysis, {solver}", theirs,
                       lambda Y=Y, k=k: fit_factor_model(Y, k),
                       lambda a, b, Y=Y: higher(a.score(Y), b.loglik))


def against_alsgls(quick, alsgls):
    """Its simulator and its defaults."""
    for K, N, k in [(40, 60, 2)] if quick else [(300, 300, 5), (1000, 300, 5)]:
        Xs, Y, _, _ = alsgls.simulate_sur(N, 1, K=K, p=3, k=k, seed=0)

        def compare(theirs, ours, Xs=Xs, Y=Y):
            B, F, D, _, _ = theirs
            E = Y - np.stack([X @ b.ravel() for X, b in zip(Xs, B, strict=True)], axis=1)
            sigma = LowRankPlusDiagonal(F, D)
            quad = sigma.inv_quad(E.T).mean()
            return higher(-0.5 * (len(D) * math.log(2 * math.pi) + sigma.logdet() + quad),
                          ours.loglik)

        yield Race(f"Regressions, K = {K:,}, N = {N}, p = 3, k = {k}", "fit", "als_gls",
                   lambda Xs=Xs, Y=Y, k=k: alsgls.als_gls(Xs, Y, k),
                   lambda Xs=Xs, Y=Y, k=k: als_gls(Xs, Y, k), compare)


def against_linearmodels(quick, system):
    """Its dense GLS: with Σ given, and with the Σ of the residuals of least squares."""
    N = 100 if quick else 400
    for K in (8,) if quick else (50, 200):
        sim = simulate_sur(K, 3, 2, n_samples=N, random_state=0)
        equations = {f"y{j}": {"dependent": sim.Y[:, j], "exog": X} for j, X in enumerate(sim.Xs)}
        sigma = sim.covariance.toarray()

        def given(equations=equations, sigma=sigma):
            model = system.SUR(equations, sigma=sigma)
            return model.fit(method="gls", cov_type="unadjusted")

        problem = f"Regressions, K = {K}, N = {N}, p = 3"
        yield Race(problem, "params, cov given", "linearmodels SUR", given,
                   lambda sim=sim: als_gls(sim.Xs, sim.Y, covariance=sim.covariance),
                   lambda a, b: same(1e-8, params=(a.params, np.concatenate(b.params))))
        if K > 100:
            continue

        def estimated(equations=equations):
            return system.SUR(equations).fit(method="gls", cov_type="unadjusted")

        def ours(sim=sim):
            E = als_gls(sim.Xs, sim.Y, 0).errors
            fit = als_gls(sim.Xs, sim.Y, covariance=Dense(E.T @ E / len(E)))
            return np.concatenate(fit.params), np.concatenate(fit.bse)

        yield Race(problem, "params, std errors", "linearmodels SUR", estimated, ours,
                   lambda a, b: same(1e-6, params=(a.params, b[0]), errors=(a.std_errors, b[1])))


def against_pylops(quick, pylops):
    """Conjugate gradients on the composed operator, to a relative residual of 1e-12."""
    n, k = (2000, 5) if quick else (100_000, 30)
    rng = np.random.default_rng(0)
    F, D, b = rng.standard_normal((n, k)), rng.uniform(0.5, 1.5, n), rng.standard_normal(n)
    loadings = pylops.MatrixMult(F)
    sigma = loadings @ loadings.H + pylops.Diagonal(D)
    tol = (1e-12 * float(np.linalg.norm(b))) ** 2  # of the squared residual

    def compare(theirs, ours):
        x, steps = theirs[0], theirs[1]
        close = same(1e-8, solve=(x, ours))
        return Agreement(f"{close.text}, {steps} steps of cg", close.holds)

    yield Race(f"Low rank plus diagonal, n = {n:,}, k = {k}", "factor + solve", "PyLops cg",
               lambda: pylops.optimization.basic.cg(sigma, b, niter=1000, tol=tol),
               lambda: LowRankPlusDiagonal(F, D).solve(b), compare)
