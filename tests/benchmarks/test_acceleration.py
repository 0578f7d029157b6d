"""How many evaluations of the EM map reach what 400 plain iterations reach."""

import itertools
import warnings

import numpy as np
import pytest
from schemes import Map, daarem, plain, squarem

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import load_french, simulate_mlr

LIMIT = 250
COLUMNS = ("plain log-likelihood at 400", "PX-EM", "SQUAREM", "damped Anderson", "bfgs", "scoring",
           "aim")


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

    def ours(optimizer, max_iter=LIMIT):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return fit_factor_model(Y, ranks, h, init=init, random_state=0, tol=0, gtol=0,
                                    optimizer=optimizer, max_iter=max_iter)

    used = []
    for optimizer in ("bfgs", "scoring"):
        first = optimizer == "bfgs"
        fit = benchmark.pedantic(ours, (optimizer,), rounds=1) if first else ours(optimizer)
        n_entries = first_at(fit.loglik_trace, goal)
        if n_entries is None and not first:  # it climbed to the top of another hill
            assert fit.gradient_norm < 1e-4 and goal - fit.loglik < 0.02
            used.append(None)
        else:  # rejected jumps count as well: fit again up to there and ask
            used.append(ours(optimizer, int(n_entries) - 1).n_evaluations)
    name = (f"{problem.__name__.replace('_', ' ')}: n = {h.n}, N = {len(Y)},"
            f" ranks {', '.join(map(str, ranks))}")
    shown = [f"> {LIMIT}" if count is None else str(count) for count in counts]
    record_in("evaluations of the EM map", ("problem", *COLUMNS), name, f"{goal:.4f}", *shown,
              *("another maximum" if count is None else str(count) for count in used), "80")
    assert max(count for count in used if count is not None) <= 80
