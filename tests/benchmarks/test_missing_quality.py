"""What 20% of cells missing at random cost: errors of the covariance, and of imputed cells."""

import numpy as np
import pytest

from mlrops import Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr

SEEDS, SHARE = range(10), 0.2
PROBLEMS = {
    "n = 200, N = 200": ((1, 5, 20), (2, 1, 1), 200, 200),
    "n = 300, N = 400": ((1, 6, 30), (2, 1, 1), 300, 400),
    "n = 100, N = 1000": ((1, 5, 10), (3, 2, 1), 100, 1000),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_missing_cells_cost_no_more_than_they_must(problem, record):
    groups, ranks, n, N = PROBLEMS[problem]
    h = Hierarchy.balanced(n, groups)
    errors = {"full": [], "fewer": [], "gaps": []}
    rmse = {"model": [], "single-level": [], "column means": []}
    for seed in SEEDS:
        sim = simulate_mlr(h, ranks, N, mean=1.0, random_state=seed)
        truth, gone = sim.covariance.toarray(), np.random.default_rng(seed).random((N, n)) < SHARE
        gaps = np.where(gone, np.nan, sim.Y)
        for name, Y in (("full", sim.Y), ("fewer", sim.Y[: 3 * N // 4]), ("gaps", gaps)):
            fit = fit_factor_model(Y, ranks, h, missing="em")
            errors[name].append((
                np.linalg.norm(fit.covariance.toarray() - truth) / np.linalg.norm(truth),
                fit.kl_divergence(sim.covariance, fit.mean)))
        single = fit_factor_model(gaps, sum(ranks), missing="em")
        for name, filled in (
            ("model", fit.impute(gaps)),
            ("single-level", single.impute(gaps)),
            ("column means", np.where(gone, np.nanmean(gaps, axis=0), gaps)),
        ):
            rmse[name].append(np.sqrt(np.square(filled - sim.Y)[gone].mean()))
    full, fewer, with_gaps = (np.mean(errors[name], axis=0) for name in errors)
    for at, what in enumerate(("Frobenius error", "Kullback-Leibler divergence")):
        record(f"{what}, 20% missing, {problem}", "0.75 N complete samples", f"{fewer[at]:.4g}",
               f"{with_gaps[at] / fewer[at]:.3f}", f"all cells: {full[at] / fewer[at]:.3f}", "1.1")
    model, single, means = (np.mean(x) for x in rmse.values())
    record(f"RMSE of imputed cells, {problem}", "column means", f"{means:.4f}",
           f"{model / means:.3f}", f"single-level: {single / means:.3f}", "1")
    assert (with_gaps <= 1.1 * fewer).all()
    assert model < min(single, means)
