"""How many evaluations of the EM map reach what 400 plain iterations reach."""

import itertools
import warnings

import numpy as np
import pytest
from schemes import Map, daarem, plain, squarem

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import load_french, simulate_mlr

LIMIT = 250
COLUMNS = "plain log-likelihood at 400", "PX-EM", "SQUAREM", "damped Anderson", "ours", "aim"


def five_levels():
    h = Hierarchy.balanced(5000, (1, 2, 4, 8, 16))
    Y = simulate_mlr(h, (14, 6, 4, 3, 2), n_samples=300, random_state=0).Y
    return Y, (14, 6, 4, 3, 2), h, "svd"


def noisy_tree():
    h = Hierarchy.balanced(600, (1, 6, 30))
    Y = simulate_mlr(h, (4, 2, 1), n_samples=100, noise=4.0, random_state=1).Y
    return Y, (4, 2, 1), h, "random"


def french_tree():
    data = load_french()
    return 100 * data.excess[:546], (4, 1, 1), data.hierarchy, "svd"


def digits():
    Y = pytest.importorskip("sklearn.datasets").load_digits().data
    Y = Y[:, Y.std(axis=0) > 0]
    return Y, (10,), Hierarchy.flat(Y.shape[1]), "svd"


def first_at(trace, goal):
    """Number of evaluations after which a trace is at the goal."""
    reached = np.flatnonzero(np.maximum.accumulate(trace) >= goal)
    return reached[0] + 1 if reached.size else None


@pytest.mark.parametrize("problem", [five_levels, noisy_tree, french_tree, digits])
def test_evaluations_to_400_plain_iterations(problem, benchmark, record_in):
    Y, ranks, h, init = problem()
    G, PX = Map(Y, ranks, h, init), Map(Y, ranks, h, init, expanded=True)
    goal = max(plain(G, 401)) - 1e-9
    counts = [first_at(list(itertools.islice(scheme, LIMIT)), goal)
              for scheme in (plain(PX, LIMIT), squarem(G, LIMIT), daarem(G, LIMIT))]

    def ours():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return fit_factor_model(Y, ranks, h, init=init, random_state=0, tol=0, gtol=0,
                                    max_iter=LIMIT)

    fit = benchmark.pedantic(ours, rounds=1)
    n_iter = first_at(fit.loglik_trace, goal) - 1
    # Rejected jumps count as well: fit again up to there and ask.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        upto = fit_factor_model(Y, ranks, h, init=init, random_state=0, tol=0, gtol=0,
                                max_iter=int(n_iter))
    name = (f"{problem.__name__.replace('_', ' ')}: n = {h.n}, N = {len(Y)},"
            f" ranks {', '.join(map(str, ranks))}")
    shown = [f"> {LIMIT}" if count is None else str(count) for count in counts]
    record_in("evaluations of the EM map", ("problem", *COLUMNS), name, f"{goal:.4f}", *shown,
              str(upto.n_evaluations), "80")
    assert upto.n_evaluations <= 80
