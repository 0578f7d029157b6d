"""`n_jobs`: the same results, bit for bit, for any number of jobs, wherever there is one."""

import warnings

import numpy as np
import pytest
from test_selection_limits import FEW, TREE, gaps

from mlrops import (
    SUR,
    ConvergenceWarning,
    Hierarchy,
    als_gls,
    fit_factor_model,
    select_ranks,
    select_sur_ranks,
)
from mlrops.datasets import simulate_mlr, simulate_sur
from mlrops.sklearn import FactorModel

joblib = pytest.importorskip("joblib")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

H = Hierarchy.balanced(24, [1, 3])
Y = simulate_mlr(H, (2, 1), 60, random_state=0).Y
SYSTEM = simulate_sur(8, 2, ranks=1, n_samples=40, random_state=0)
XS = list(SYSTEM.Xs)


def fitted():
    return fit_factor_model(Y, (2, 1), H)


def system():
    return als_gls(XS, SYSTEM.Y, 1)


def of(fit):
    """All numbers of a fit, of either kind."""
    found = [fit.covariance.F, fit.covariance.D, fit.objective_trace]
    others = getattr(fit, "coefficients", [fit.loglik_trace])
    return [*(x.tobytes() for x in [*found, *others]), repr(getattr(fit, "prior_scores", None))]


def chosen(selection):
    return selection.ranks, repr(selection.table), selection.fit and of(selection.fit)


def generator():
    return np.random.default_rng(3)


# Functions of n_jobs and further options, and what their progress bars say at the end.
ENTRIES = {
    "starts": (lambda n, **options: of(fit_factor_model(
        Y, (2, 1), H, n_init=4, random_state=generator(), n_jobs=n, **options)), "starts: 100%"),
    "prior": (lambda n, **options: of(fit_factor_model(
        Y[:20], (2, 1), H, prior="cv", init="random", n_init=2, random_state=generator(), tol=1e-3,
        n_jobs=n, **options)), "45/45"),
    "greedy": (lambda n, **options: chosen(select_ranks(
        Y, hierarchy=H, max_rank=2, random_state=generator(), tol=1e-4, n_jobs=n, **options)),
        "ranks: "),
    "folds": (lambda n, **options: chosen(select_ranks(
        Y, hierarchy=H, total_rank=1, criterion="cv", n_folds=3, refit=False, tol=1e-4,
        random_state=generator(), n_jobs=n, **options)), "ranks: "),
    "listed": (lambda n, **options: chosen(select_ranks(
        Y, [(1, 0), (1, 1), (2, 1)], H, criterion="cv", n_folds=2, one_standard_error=True,
        init="random", random_state=generator(), tol=1e-4, n_jobs=n, **options)), "ranks: 100%"),
    "priors": (lambda n, **options: chosen(select_ranks(
        Y[:20], [(1, 0), (1, 1)], H, prior="cv", random_state=0, tol=1e-3, n_jobs=n, **options)),
        "ranks: 100%"),
    "system": (lambda n, **options: chosen(select_sur_ranks(
        XS, SYSTEM.Y, range(3), n_jobs=n, **options)), "ranks: 100%"),
    "system's folds": (lambda n, **options: chosen(select_sur_ranks(
        XS, SYSTEM.Y, criterion="cv", n_folds=2, max_rank=2, random_state=0, n_jobs=n, **options)),
        "ranks: "),
    "bootstrap": (lambda n, **options: [x.tobytes() for x in system().with_cov(
        "bootstrap", n_boot=6, n_jobs=n, **options).bse], "bootstrap: 100%"),
    "simulations": (lambda n, **options: system().likelihood_ratio(
        5, random_state=0, n_jobs=n, **options), "simulations: 100%"),
    "check": (lambda n, **options: repr(fitted().check(
        Y, n_init=3, n_directions=0, random_state=0, n_jobs=n, **options)), "other starts: 100%"),
}


@pytest.fixture(scope="module")
def alone():
    """What each function gives with one job."""
    found = {}

    def result(name):
        if name not in found:
            found[name] = ENTRIES[name][0](1)
        return found[name]

    return result


@pytest.mark.parametrize("name", ENTRIES)
def test_two_jobs_and_their_progress(name, alone, capsys):
    entry, bar = ENTRIES[name]
    assert entry(2, progress=True) == alone(name)
    assert bar in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [None, 3, -1])
@pytest.mark.parametrize("name", ENTRIES)
def test_any_number_of_jobs(name, n_jobs, alone):
    assert ENTRIES[name][0](n_jobs) == alone(name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
@pytest.mark.parametrize("name", ENTRIES)
def test_other_backends(name, backend, alone):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert ENTRIES[name][0](None) == alone(name)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(processes=True, n_workers=2, threads_per_worker=1,
                                  dashboard_address=None) as workers:
        with distributed.Client(workers):
            yield


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [None, -1])
@pytest.mark.parametrize("name", ENTRIES)
def test_a_cluster(name, n_jobs, alone, cluster):
    with joblib.parallel_config(backend="dask"):
        assert ENTRIES[name][0](n_jobs) == alone(name)


@pytest.mark.parametrize("n_jobs, error", [(0, ValueError), (1.5, TypeError), ("a", TypeError),
                                           (True, TypeError)])
@pytest.mark.parametrize("name", ENTRIES)
def test_bad_numbers_of_jobs(name, n_jobs, error):
    with pytest.raises(error, match="n_jobs must be the number of tasks at a time"):
        ENTRIES[name][0](n_jobs)


def test_the_estimator_passes_it_on():
    one, two = (FactorModel((2, 1), H, n_init=3, random_state=0, n_jobs=n).fit(Y) for n in (1, 2))
    assert of(one.result_) == of(two.result_)


def test_ranks_of_a_fit_of_a_system():
    model = SUR({f"e{j}": (y, X) for j, (y, X) in enumerate(zip(SYSTEM.Y.T, XS, strict=True))})
    one, two = (model.fit("bic", rank_options={"max_rank": 2, "n_jobs": n}) for n in (1, 2))
    assert of(one) == of(two) and one.selection.table == two.selection.table


# ---------------------------------------------------------------- callbacks


CALLBACKS = {
    "fit": lambda **options: fit_factor_model(Y, (1, 0), H, n_init=2, random_state=0, **options),
    "ranks": lambda **options: select_ranks(Y, [(1, 0), (1, 1)], H, **options),
    "system": lambda n_jobs=None, **options: SUR.multivariate_ls(SYSTEM.Y, np.ones(40)).fit(
        "bic", rank_options={"max_rank": 1, "n_jobs": n_jobs}, **options)}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_is_called_here(name):
    seen = []
    with pytest.raises(ValueError, match="a callback follows fits one after the other: leave n_j"):
        CALLBACKS[name](callback=seen.append, n_jobs=2)
    assert not seen
    with joblib.parallel_config(n_jobs=2):
        CALLBACKS[name](callback=seen.append)
    assert seen
    CALLBACKS[name](callback=seen.append, n_jobs=1)


# ---------------------------------------------------------------- errors and warnings


def test_the_fold_that_cannot_be_fitted_is_named():
    data = Y.copy()
    data[:40, 2] = 1.0
    folds, told = [(slice(20, 60), slice(0, 20)), (slice(0, 40), slice(40, 60))], []
    for n in (1, 2):
        with pytest.raises(ValueError, match="40 training samples of fold 1 cannot be") as caught:
            select_ranks(data, [(1, 0), (1, 1)], H, criterion="cv", folds=folds, n_jobs=n)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_variances_that_vanish_are_named():
    data = np.random.default_rng(0).standard_normal((100, 4))
    twice = np.column_stack([data, data[:, 0]])
    for n in (1, 2):
        with pytest.raises(np.linalg.LinAlgError, match=r"D of 2 features \(0, 4\) go to zero"):
            fit_factor_model(twice, 1, variance_floor=0, n_init=2, random_state=0, n_jobs=n)


@pytest.mark.parametrize("options", [{"hierarchy": TREE, "candidates": [(1, 0), (3, 2)]},
                                     {"missing": "em", "candidates": [1, 5]}])
def test_what_runs_off_and_one_warning_of_it(options):
    """With folds: those behind one without a maximum are not counted."""
    data, told = gaps(FEW) if "missing" in options else FEW, []
    folds = [(slice(1, 8), slice(0, 1)), (slice(0, 7), slice(7, 8))]
    for n in (1, 2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = select_ranks(data, **options, criterion="cv", folds=folds,
                                 max_iter=300, n_jobs=n)
        (message,) = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
        assert message.filename == __file__ and found.table[1].refused
        told.append((str(message.message), repr(found.table)))
    assert told[0] == told[1]


def chunks():
    warnings.warn("a chunk is read", UserWarning, stacklevel=1)
    yield Y[:30]
    yield Y[30:]


def test_warnings_of_a_worker_are_those_of_this_process():
    told = []
    for n in (1, 2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit_factor_model(chunks, (1, 0), H, n_init=2, max_iter=3, random_state=0, n_jobs=n)
        told.append([(w.category, str(w.message), w.filename, w.lineno) for w in caught])
    assert told[0] == told[1] and "a chunk is read" in {message for _, message, *_ in told[0]}


# ---------------------------------------------------------------- Ctrl-C


def test_the_best_climb_that_was_over_is_kept(monkeypatch):
    """Ctrl-C while the third of five climbs is waited for."""
    from mlrops._common.jobs import Jobs

    run = Jobs.run

    def broken_off(after):
        def runs(self, *args):
            for number, found in enumerate(run(self, *args)):
                if number == after:
                    raise KeyboardInterrupt
                yield found
        return runs

    options = {"init": "random", "random_state": 0, "n_jobs": 2}
    monkeypatch.setattr(Jobs, "run", broken_off(2))
    fit = fit_factor_model(Y, (2, 1), H, n_init=5, **options)
    assert fit.termination == "interrupted" and not fit.converged
    monkeypatch.setattr(Jobs, "run", broken_off(0))
    with pytest.raises(KeyboardInterrupt):
        fit_factor_model(Y, (2, 1), H, n_init=5, **options)
