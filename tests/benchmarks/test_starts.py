"""Where each kind of start ends: its distance to the best maximum known, evaluations and time.

A random start is drawn with 20 seeds, of which the share is shown that ends within `NEAR` nats a
sample of the best of all starts of a problem.  The other starts depend on nothing but the data.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_acceleration import digits, five_levels, french_tree, noisy_tree

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr
from mlrops.factor.estep.sources import open_source
from mlrops.factor.start import start

NEAR, SEEDS = 1e-3, 20
FIXED = "principal_factor", "svd", "frobenius"
COLUMNS = ("problem", "best known", *FIXED, "random starts that end there", "evaluations",
           "seconds of the starts", "of the fits")
HARMAN = Path(__file__).parents[1] / "data" / "harman74.csv"


def harman(k):
    """145 samples with exactly the correlations of the 24 tests."""
    R = np.loadtxt(HARMAN, delimiter=",", skiprows=5)
    Z = np.random.default_rng(0).standard_normal((145, 24))
    Q = np.linalg.qr(Z - Z.mean(axis=0))[0]
    return np.sqrt(145) * Q @ np.linalg.cholesky(R).T, (k,), Hierarchy.flat(24)


def french(rows=slice(None), missing=0.0):
    Y, ranks, h, _ = french_tree()
    gone = np.random.default_rng(0).random(Y.shape) < missing
    return np.where(gone, np.nan, Y)[rows], ranks, h


def from_sklearn(name, k, standardized=False):
    Y = getattr(pytest.importorskip("sklearn.datasets"), f"load_{name}")().data
    Y = Y / Y.std(axis=0) if standardized else Y
    return Y, (k,), Hierarchy.flat(Y.shape[1])


def eight_levels():
    h, ranks = Hierarchy.balanced(1024, [2**level for level in range(8)]), (4, 2, 2, 1, 1, 1, 1, 1)
    return simulate_mlr(h, ranks, n_samples=200, random_state=0).Y, ranks, h


PROBLEMS = {
    "24 tests, 4 factors": lambda: harman(4),
    "24 tests, 5 factors": lambda: harman(5),
    "French, 546 months": french,
    "French, first 80": lambda: french(slice(80)),
    "French, last 80": lambda: french(slice(-80, None)),
    "French, 10% missing": lambda: french(missing=0.1),
    "digits, 10 factors": lambda: digits()[:3],
    "breast cancer, 5 factors": lambda: from_sklearn("breast_cancer", 5),
    "breast cancer, standardized": lambda: from_sklearn("breast_cancer", 5, True),
    "wine, 3 factors": lambda: from_sklearn("wine", 3),
    "wine, 4 factors": lambda: from_sklearn("wine", 4),
    "noisy tree": lambda: noisy_tree()[:3],
    "eight levels": eight_levels,
    "five levels": lambda: five_levels()[:3],
}


def seconds_of(init, Y, ranks, h):
    """Processor time of a start, once compiled."""
    source, h, _ = open_source(Y, h, True, "em", None, None)
    start(init, h, ranks, source, None)
    before = time.process_time()
    start(init, h, ranks, source, None)
    return time.process_time() - before


@pytest.mark.parametrize("problem", PROBLEMS)
def test_where_starts_end(problem, benchmark, record_in):
    Y, ranks, h = PROBLEMS[problem]()
    times = {}

    def fit(init, seed=None):
        before = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = fit_factor_model(Y, ranks, h, init=init, missing="em", max_iter=2000,
                                     random_state=seed)
        times[init] = time.process_time() - before
        return found

    fit("svd")  # compiled
    fits = {init: benchmark.pedantic(fit, (init,), rounds=1) if init == "principal_factor"
            else fit(init) for init in FIXED}
    n_random = SEEDS if h.n < 2000 else 3
    random = np.array([fit("random", seed).loglik for seed in range(n_random)])
    best = max(random.max(), *(found.loglik for found in fits.values()))
    gaps = {init: best - found.loglik for init, found in fits.items()}
    record_in(
        "distance to the best maximum known, nats a sample", COLUMNS, problem, f"{best:.4f}",
        *(f"{gap:.1e}" for gap in gaps.values()),
        f"{(random > best - NEAR).sum()} of {n_random}",
        " / ".join(str(found.n_evaluations) for found in fits.values()),
        " / ".join(f"{seconds_of(init, Y, ranks, h):.4f}" for init in FIXED),
        " / ".join(f"{times[init]:.2f}" for init in FIXED))
    assert gaps["principal_factor"] < NEAR


def test_short_windows_of_returns(benchmark, record_in):
    """Problems with many maxima, on which nothing about the starts was chosen."""
    Y, _, h = french()
    windows = [(ranks, min(first, len(Y) - 100)) for ranks in ((3, 1, 1), (2, 1, 0), (3, 0, 1))
               for first in range(0, 540, 60)]

    def ends():
        found = []
        for ranks, first in windows:
            options = [(init, None) for init in FIXED] + [("random", s) for s in range(8)]
            found.append([fit_factor_model(
                Y[first : first + 100], ranks, h, init=init, max_iter=2000, random_state=seed
                ).loglik for init, seed in options])
        return np.array(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        logliks = benchmark.pedantic(ends, rounds=1)
    gaps = logliks.max(axis=1)[:, None] - logliks
    near = (gaps < NEAR).sum(axis=0)
    record_in("100 months of returns: fits that end near the best maximum known",
              ("fits", *FIXED, "random, on average", "mean distances of the first three"),
              str(len(windows)), *map(str, near[:3]), f"{near[3:].mean():.1f}",
              " / ".join(f"{gap:.3f}" for gap in gaps[:, :3].mean(axis=0)))
    assert near[0] >= near[1] and gaps[:, 0].mean() <= gaps[:, 1].mean()
