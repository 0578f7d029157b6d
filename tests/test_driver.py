"""The driver of all fits: one loop, one `Iterate`, one set of words, one way to be interrupted."""

import dataclasses
import signal
import warnings

import numpy as np
import pytest
from trees import close

import mlrops
from mlrops import Hierarchy, Iterate, als_gls, em_gls, fit_factor_model
from mlrops._common.driver import (
    CONVERGED,
    OLD_TERMINATIONS,
    TERMINATIONS,
    UNWATCHED,
    Iteration,
    Stopping,
    Watch,
    current_termination,
    drive,
    whole_step,
)
from mlrops.datasets import simulate_factor_model, simulate_sur
from mlrops.fitting import allocate_ranks, fit_mlr
from mlrops.regression import SUR, select_sur_ranks


class Halving(Iteration):
    """Halves its distance from zero at every step; may break steps off, or refuse to take one."""

    measure = "distance"

    def __init__(self, signals=(), refuses_at=None):
        self.x, self.half_done, self.restored = 1.0, False, 0
        self.signals, self.refuses_at, self.steps = dict(signals), refuses_at, 0

    @property
    def objective(self):
        return -self.x

    @property
    def loglik(self):
        return 1 - self.x

    def advance(self):
        self.steps += 1
        if self.steps == self.refuses_at:
            return "tol"
        self.half_done = True
        for _ in range(self.signals.get(self.steps, 0)):
            signal.raise_signal(signal.SIGINT)
        self.x, self.half_done = self.x / 2, False
        return None

    def reason(self, trace):
        return "gradient" if self.x < 1e-3 else None

    def iterate(self, n_iter):
        return Iterate(n_iter, self.objective)

    def restore(self):
        self.restored, self.half_done = self.restored + 1, False


def test_a_run_keeps_objectives_and_reason():
    fit, seen = Halving(), []
    run = drive(fit, 100, "halves", Watch(callback=seen.append))
    assert run.termination == "gradient" and run.converged and run.n_iter == 10
    np.testing.assert_array_equal(run.objectives, -(0.5 ** np.arange(11.0)))
    np.testing.assert_array_equal(run.logliks, 1 + np.array(run.objectives))
    assert len(run.times) == 11 and (np.diff(run.times) >= 0).all()
    assert [i.n_iter for i in seen] == list(range(11))
    assert [i.objective for i in seen] == run.objectives


@pytest.mark.parametrize("cap", [0, 1, 4])
def test_the_cap(cap):
    run = drive(Halving(), cap, "halves")
    assert run.termination == "max_iter" and run.n_iter == cap and not run.converged


def test_a_step_that_is_refused_leaves_no_entry():
    run = drive(Halving(refuses_at=3), 100, "halves")
    assert run.termination == "tol" and run.n_iter == 2 and run.converged


def test_a_callback_stops_and_other_errors_go_through():
    def stop(iterate):
        if iterate.n_iter == 2:
            raise StopIteration

    assert drive(Halving(), 9, "halves", Watch(callback=stop)).termination == "callback"
    with pytest.raises(ZeroDivisionError):
        drive(Halving(), 9, "halves", Watch(callback=lambda iterate: 1 / 0))


def test_one_signal_waits_for_the_step():
    fit = Halving({3: 1})
    run = drive(fit, 100, "halves")
    assert run.termination == "interrupted" and run.n_iter == 3 and not fit.restored
    assert fit.x == 1 / 8 and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_breaks_the_step_off():
    fit = Halving({3: 2})
    run = drive(fit, 100, "halves")
    assert run.termination == "interrupted" and run.n_iter == 2
    assert fit.restored == 1 and not fit.half_done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_within_a_step_end_it_early():
    """A long step is made of whole pieces: after Ctrl-C the present one is the last."""
    done = []
    with pytest.raises(KeyboardInterrupt):
        with whole_step():
            for piece in range(5):
                with whole_step():
                    if piece == 2:
                        signal.raise_signal(signal.SIGINT)
                    done.append(piece)
    assert done == [0, 1, 2]


def test_an_observer_follows_the_run(capsys):
    class Observer:
        def __init__(self):
            self.seen = []

        def begin(self, fit, run):
            self.seen.append(("begin", run.n_iter))

        def visit(self, fit, run):
            self.seen.append(("visit", run.n_iter))
            assert run.objectives[-1] == fit.objective and run.logliks[-1] == fit.loglik

        def finish(self, fit, run):
            self.seen.append(("finish", run.n_iter))
            assert run.termination

    observer = Observer()
    drive(Halving({2: 2}), 9, "halves", Watch(progress=True, observer=observer))
    assert observer.seen == [("begin", 0), ("visit", 1)]  # what is broken off is not finished
    assert "halves" in capsys.readouterr().err
    observer = Observer()
    drive(Halving(), 2, "halves", Watch(observer=observer))
    assert observer.seen == [("begin", 0), ("visit", 1), ("visit", 2), ("finish", 2)]


def test_an_earlier_run_is_continued():
    fit, seen = Halving(), []
    first = drive(fit, 4, "halves")
    kept = dataclasses.replace(first, objectives=[*first.objectives], logliks=[*first.logliks])
    run = drive(fit, 7, "halves", Watch(callback=lambda it: seen.append(it.n_iter)), first)
    assert run.n_iter == 7 and seen == [4, 5, 6, 7] and run.termination == "max_iter"
    whole = drive(Halving(), 7, "halves")
    assert run.objectives == whole.objectives and run.logliks == whole.logliks
    assert run.times[:5] == first.times and len(run.times) == 8
    assert first.objectives == kept.objectives and first.logliks == kept.logliks  # left alone
    again = drive(fit, 7, "halves", UNWATCHED, run)
    assert again.n_iter == 7 and again.termination == "max_iter"
    end = drive(fit, 100, "halves", UNWATCHED, run)
    assert end.termination == "gradient" and end.n_iter == 10


def test_rules_of_stopping():
    rules = Stopping(tol=0.125)
    assert not rules.small_gains([0.0, 1.0], 1.0, 2)  # too few
    assert rules.small_gains([0.0, 1.0, 1.125, 1.25], 1.0, 2)
    assert not rules.small_gains([0.0, 1.0, 1.125, 1.5], 1.0, 2)
    for wrong in ({"tol": -1}, {"tol": 1}, {"gtol": np.nan}, {"max_iter": -1}):
        with pytest.raises(ValueError, match="must"):
            Stopping(**wrong)
    for wrong in ({"tol": "x"}, {"tol": None}, {"gtol": None}, {"max_iter": 1.5}):
        with pytest.raises(TypeError, match="must"):
            Stopping(**wrong)


# ---------------------------------------------------------------- words and names

X = np.linspace(0, 1, 24)
A, TREE = np.exp(-8 * np.abs(X[:, None] - X)), Hierarchy.balanced(24, [1, 4])
SIM = simulate_sur(5, 2, ranks=1, n_samples=60, random_state=0)
Y = simulate_factor_model(8, 1, n_samples=50, random_state=0).Y
FITS = {
    "fit_factor_model": lambda **o: fit_factor_model(Y, 1, **o),
    "als_gls": lambda **o: als_gls(SIM.Xs, SIM.Y, 1, **o),
    # Of symmetric searches, those steps are taken out that the end does not come up to.
    "fit_mlr": lambda **o: fit_mlr(A, [1, 1], TREE, symmetric=False, random_state=0, **o),
    "allocate_ranks": lambda **o: allocate_ranks(A, 4, TREE, symmetric=False, random_state=0, **o),
}


@pytest.mark.parametrize("name", FITS)
def test_every_fit_gives_its_callback_the_same(name):
    seen = []
    fit = FITS[name](callback=seen.append)
    assert all(type(iterate) is Iterate for iterate in seen)
    before = [i for i in seen if i.stage == "growth"]  # of what the fit starts from
    assert bool(before) == (name in ("fit_mlr", "allocate_ranks"))
    assert {i.n_iter for i in before} <= {0} and before == seen[: len(before)]
    seen = seen[len(before) :]
    np.testing.assert_array_equal([i.objective for i in seen], fit.objective_trace
                                  if hasattr(fit, "objective_trace") else fit.loglik_trace)
    assert [i.n_iter for i in seen] == list(range(fit.n_iter + 1))
    assert seen[-1].ranks == getattr(fit, "ranks", None) or fit.covariance.ranks
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen[0].objective = 0.0
    assert fit.termination in TERMINATIONS and fit.converged


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("error, word", [(StopIteration, "callback"),
                                         (KeyboardInterrupt, "interrupted")])
def test_every_fit_stops_the_same_way(name, error, word):
    def stop(iterate):
        if iterate.n_iter == 1:
            raise error

    fit = FITS[name](callback=stop)
    assert fit.termination == word and fit.n_iter == 1 and not fit.converged


def test_words():
    assert set(CONVERGED) < set(TERMINATIONS) and set(OLD_TERMINATIONS.values()) <= set(CONVERGED)
    assert not set(OLD_TERMINATIONS) & set(TERMINATIONS)
    assert [current_termination(x) for x in ("loglik", "exchanges", "tol", None)] == [
        "tol", "tol", "tol", None]


@pytest.mark.parametrize("module, name", [
    ("factor", "FactorModelIterate"), ("regression", "SURIterate"), ("fitting", "MLRIterate"),
    ("models", "FactorModelIterate"), ("models", "SURIterate")])
def test_earlier_names_of_iterates(module, name):
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is called mlrops.Iterate"):
        assert getattr(getattr(mlrops, module), name) is Iterate


def test_earlier_names_of_attributes_and_options():
    with pytest.warns(DeprecationWarning, match="Iterate.error is called Iterate.objective"):
        assert Iterate(0, 0.5).error == 0.5
    fit = FITS["fit_mlr"]()
    with pytest.warns(DeprecationWarning, match="MLRFit.errors is called MLRFit.objective_trace"):
        assert fit.errors is fit.objective_trace
    expected = FITS["als_gls"](maxiter=7)
    with pytest.warns(DeprecationWarning, match=r"als_gls\(max_cg_iter=\) is called maxiter="):
        found = FITS["als_gls"](max_cg_iter=7)
    assert found.options == expected.options and found.loglik == expected.loglik
    system = SUR({j: (SIM.Y[:, j], X) for j, X in enumerate(SIM.Xs)})
    with pytest.warns(DeprecationWarning, match=r"fit\(max_cg_iter=\) is called maxiter="):
        assert system.fit(1, max_cg_iter=7).options.maxiter == 7
    with pytest.warns(DeprecationWarning, match="is called maxiter="):
        select_sur_ranks(SIM.Xs, SIM.Y, candidates=[0, 1], max_cg_iter=50)


def test_warnings_point_at_the_caller():
    system = SUR({j: (SIM.Y[:, j], X) for j, X in enumerate(SIM.Xs)})
    for fit in (lambda: FITS["fit_factor_model"](max_iter=1, tol=0, gtol=0),
                lambda: FITS["als_gls"](max_iter=1, tol=0, gtol=0),
                lambda: system.fit(1, max_iter=1, tol=0, gtol=0),
                lambda: em_gls(SIM.Xs, SIM.Y, 1, max_iter=1, tol=0, gtol=0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit()
        assert caught and all(w.filename == __file__ for w in caught)


def test_same_default_everywhere():
    plain = als_gls(SIM.Xs, SIM.Y, 1).options
    system = SUR({j: (SIM.Y[:, j], X) for j, X in enumerate(SIM.Xs)}).fit(1).options
    dense = em_gls(SIM.Xs, SIM.Y, 1).options
    assert plain == system and plain.gtol == dense.gtol == Stopping().gtol == 1e-5


@pytest.mark.parametrize("ridges", [(0.0, 0.0), (2.0, 0.0), (0.0, 3.0), (1.0, 2.0)])
def test_objectives_are_penalized_and_log_likelihoods_are_not(ridges):
    """Both traces, from the parameters that the callback saw."""
    seen = []
    fit = als_gls(SIM.Xs, SIM.Y, 1, beta_ridge=ridges[0], factor_ridge=ridges[1],
                  callback=seen.append)
    for iterate, objective, loglik in zip(seen, fit.objective_trace, fit.loglik_trace,
                                          strict=True):
        assert (iterate.objective, iterate.loglik) == (objective, loglik)
        sigma = iterate.covariance
        E = SIM.Y - np.column_stack([X @ b for X, b in zip(SIM.Xs, iterate.params, strict=True)])
        dense = sigma.toarray()
        quad = np.einsum("ti,ti->", E, np.linalg.solve(dense, E.T).T) / len(E)
        expected = -0.5 * (5 * np.log(2 * np.pi) + np.linalg.slogdet(dense)[1] + quad)
        close(loglik, expected, 1e-10)
        penalty = ridges[0] / 2 * sum(b @ b for b in iterate.params)
        penalty += ridges[1] / 2 * (np.square(sigma.F).sum(axis=1) / sigma.D).sum()
        close(objective, expected - penalty / len(E), 1e-10)
    assert fit.objective == fit.objective_trace[-1]
    close(fit.loglik, fit.loglik_trace[-1], 1e-12)
