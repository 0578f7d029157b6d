"""When a fit stops: by gains that nobody feels, by a tol, by the gradient; plateaus are named."""

import re
import warnings

import numpy as np
import pytest
from trees import close

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_factor_model
from mlrops.factor import climb as climbing
from mlrops.factor.climb import FELT, SMALL_GAINS, WINDOW, Climb, FactorStopping, expects
from mlrops.factor.limits import PLATEAU, warn_of_plateau

WAYS = "scoring", "bfgs", "em"
H = Hierarchy(np.random.default_rng(0).permutation(24), [[0, 24], [0, 8, 24], [0, 3, 8, 12, 24]])


def samples(N=300, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    A = MLR(H, [rng.standard_normal((24, r)) for r in (2, 1, 0)],
            noise * rng.uniform(0.5, 1.5, 24))
    return A.sample(N, random_state=seed) + rng.standard_normal(24)


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_factor_model(*args, **options)


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("n_samples", [1, 50, 1234.5])
def test_gains_that_nobody_feels(n_samples):
    most = FELT / n_samples
    below, above = 0.999 * most, 1.001 * most
    trace = np.cumsum([0.0, 1.0, below, above, below, below, below])

    rules = FactorStopping(felt=most)

    def ends(length, count):
        return rules.small_gains(list(trace[:length]), 1e9, count)

    assert [ends(length, 3) for length in range(1, 8)] == [False] * 6 + [True]
    assert [ends(length, 2) for length in range(1, 8)] == [False] * 5 + [True, True]
    assert not rules.small_gains([0.0, below], 1e9, 2)  # too few


@pytest.mark.parametrize("tol", [0.0, 1e-6, 1e-2])
def test_a_tol_keeps_its_meaning(tol):
    """Relative to the scale."""
    scale = 40.0
    trace = np.cumsum([0.0, 1.0, *[0.999 * tol * scale] * 3])
    rules = FactorStopping(tol=tol)
    assert rules.small_gains(list(trace), scale, 3)
    assert not rules.small_gains(list(trace), 0.9 * scale, 3) or not tol
    assert not rules.small_gains(list(trace[:-1]), scale, 3)
    assert not FactorStopping(tol=0.0).small_gains([0.0, 0.0, 0.0, 1e-300], scale, 3)


# ---------------------------------------------------------------- fits


def first_end(gains, most):
    """Number of gains after which `SMALL_GAINS` in a row were small, the first time."""
    small = gains <= most
    return next(t + SMALL_GAINS for t in range(small.size) if small[t : t + SMALL_GAINS].all()
                and t + SMALL_GAINS <= small.size)


@pytest.mark.parametrize("optimizer", WAYS)
@pytest.mark.parametrize("prior", [None, 5.0])
def test_fits_stop_at_gains_that_nobody_feels(optimizer, prior):
    Y, options = samples(), {"gtol": 0, "optimizer": optimizer, "prior": prior}
    fit = quiet(Y, (2, 1, 0), H, **options)
    assert fit.converged and fit.termination == "tol"
    on = quiet(Y, (2, 1, 0), H, tol=0, max_iter=fit.n_iter + 9, **options)
    assert first_end(np.diff(on.objective_trace), FELT / 300) == fit.n_iter
    same = on.objective_trace[: fit.n_iter + 1]
    assert np.array_equal(fit.objective_trace, same)
    # Of all the samples together: the more there are, the smaller are gains of the average.
    fewer = quiet(Y[:60], (2, 1, 0), H, **options)
    assert (np.diff(fewer.objective_trace)[-SMALL_GAINS:] <= FELT / 60).all()
    assert (np.diff(fewer.objective_trace)[-SMALL_GAINS:] > FELT / 300).any()


@pytest.mark.parametrize("optimizer", WAYS)
def test_units_do_not_matter_to_what_is_felt(optimizer):
    Y, options = samples(), {"gtol": 0, "optimizer": optimizer}
    scale = np.exp(np.random.default_rng(1).uniform(-9, 9, 24))
    one, other = (quiet(x, (2, 1, 0), H, **options) for x in (Y, Y * scale))
    assert one.n_iter == other.n_iter
    close(np.diff(one.loglik_trace), np.diff(other.loglik_trace), 1e-6)


@pytest.mark.parametrize("optimizer", WAYS)
def test_the_gradient_ends_a_fit_that_still_gains(optimizer):
    Y = samples()
    options = {"optimizer": optimizer, "init": "svd"}
    fit = quiet(Y, (2, 1, 0), H, gtol=1e-2, **options)
    assert fit.termination == "gradient" and fit.gradient_norm <= 1e-2
    on = quiet(Y, (2, 1, 0), H, gtol=0, **options)
    assert on.n_iter > fit.n_iter and 300 * (on.loglik - fit.loglik) > FELT
    # A gain that is felt is not lost to the default rules.
    sharp = quiet(Y, (2, 1, 0), H, tol=0, gtol=1e-9, max_iter=20_000, **options)
    assert 300 * (sharp.loglik - quiet(Y, (2, 1, 0), H, **options).loglik) < PLATEAU


# ---------------------------------------------------------------- plateaus


def climb(gains):
    objectives = [float(x) for x in np.cumsum([-50.0, *gains])]
    return Climb(None, objectives, objectives, 1, False, 0.0, "tol", {})


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99, 0.999])
def test_what_geometric_gains_promise(ratio):
    """All that is still to come of them, however the climb began."""
    gains = 1e-3 * ratio ** np.arange(2 * WINDOW)
    rest = gains[-1] * ratio / (1 - ratio)
    for before in ([], [3.0, 1.0, 0.2]):
        assert expects(climb([*before, *gains])) == pytest.approx(rest, rel=1e-4)


def test_gains_that_promise_nothing():
    assert expects(climb([0.1] * (2 * WINDOW - 1))) == 0  # too few
    assert expects(climb([0.1] * 2 * WINDOW)) == 0  # no sign of an end
    assert expects(climb([0.1] * WINDOW + [0.2] * WINDOW)) == 0
    assert expects(climb([0.1] * WINDOW + [0.0] * WINDOW)) == 0
    assert expects(climb([])) == 0


def test_only_what_is_felt_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for expected in (0.0, PLATEAU, 0.99 * PLATEAU):
            warn_of_plateau(expected)
    with pytest.warns(ConvergenceWarning, match=r"hardly fall: 3.1 nats more .*\(a plateau\)"):
        warn_of_plateau(3.14)


def test_a_fit_warns_of_a_plateau_that_is_there():
    """EM's gains fall off slowly where factors explain nearly everything."""
    Y = samples(N=30, noise=0.03)
    options = {"optimizer": "em", "max_iter": 20_000, "init": "random", "random_state": 0}
    with pytest.warns(ConvergenceWarning, match=r"a plateau") as told:
        slow = fit_factor_model(Y, (2, 1, 0), H, **options)
    assert [w.filename for w in told] == [__file__] and slow.termination == "tol"
    best = quiet(Y, (2, 1, 0), H, optimizer="scoring", init=slow.covariance, tol=0, gtol=1e-8)
    ahead = 30 * (best.loglik - slow.loglik)
    assert best.converged and ahead > PLATEAU
    said = float(re.search("hardly fall: (.*) nats", str(told[0].message))[1])
    assert said == pytest.approx(ahead, rel=0.2)
    on = quiet(Y, (2, 1, 0), H, **options, tol=0, gtol=1e-6)  # as the warning says
    assert on.loglik == pytest.approx(best.loglik, abs=1e-4)


def test_other_ends_are_not_warned_of(monkeypatch):
    """Neither a tol that was given nor a small gradient leaves a plateau behind."""
    Y = samples()
    monkeypatch.setattr(climbing, "expects", lambda climb: 1.0)
    options = {"optimizer": "bfgs"}
    with pytest.warns(ConvergenceWarning, match="3e\\+02 nats more") as told:
        fit = fit_factor_model(Y, (2, 1, 0), H, gtol=0, **options)
    assert fit.termination == "tol" and len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = fit_factor_model(Y, (2, 1, 0), H, gtol=0, tol=1e-6, **options)
        still = fit_factor_model(Y, (2, 1, 0), H, gtol=1e-3, **options)
    assert given.termination == "tol" and still.termination == "gradient"
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 updates") as told:
        fit_factor_model(Y, (2, 1, 0), H, max_iter=2, **options)
    assert len(told) == 1


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs"])
@pytest.mark.parametrize("init", ["principal_factor", "svd"])
def test_variances_on_their_way_to_the_floor_get_there(optimizer, init):
    """They gain less than is felt, and are listed and warned of nevertheless."""
    Y = simulate_factor_model(8, 1, n_samples=60, random_state=5).Y
    with pytest.warns(ConvergenceWarning, match="1 feature has a variance at the floor"):
        fit = fit_factor_model(Y, 2, optimizer=optimizer, init=init)
    assert fit.boundary.tolist() == [0]
