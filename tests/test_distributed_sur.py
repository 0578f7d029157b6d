"""Systems of regressions in chunks of equations on the workers of a cluster."""

import gc
import operator
import time
import warnings

import clusters
import numpy as np
import pytest

from mlrops import MLR, SUR, ConvergenceWarning, Hierarchy, als_gls
from mlrops._common import spread
from mlrops.regression.sur import climb

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

N, P = 70, 3
SHARP = {"tol": 1e-15, "gtol": 1e-8, "optimizer": "bfgs", "max_iter": 60}
LEAVES = np.repeat(np.arange(8), 6)
# Trees of 48 equations, ranks and chunks: whole, unequal groups of a level, and a flat one cut
# anywhere; the last one is cut within leaves.
TREES = {
    "flat": (None, 2, (17, 20, 11)),
    "two levels": (Hierarchy.from_labels(LEAVES), (1, 1), (12, 6, 30)),
    "three levels": (Hierarchy.from_labels(LEAVES // 2, LEAVES), (1, 1, 1), (12, 24, 12)),
    "not in order": (Hierarchy.from_boundaries(
        [[0, 48], np.arange(0, 49, 12)],
        np.concatenate([12 * g + np.random.default_rng(g).permutation(12) for g in range(4)])),
        (1, 1), (24, 12, 12)),
    "leaves cut": (Hierarchy.from_labels(LEAVES // 2), (1, 1), (15, 13, 20))}


def draw(seed=0, n=N, K=48, shared=False, dtype=float, tree="flat"):
    """Regressors (N, K, p), or (N, p) for all, and Y (N, K) with the factors of a tree."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, P) if shared else (n, K, P))
    beta = rng.standard_normal((K, P))
    E = rng.standard_normal((n, K)) * np.sqrt(rng.uniform(0.3, 1, K))
    h, ranks, _ = TREES[tree]
    for level, r in enumerate(np.atleast_1d(ranks)):
        labels = np.zeros(K, int) if h is None else h.labels(level)
        for _ in range(r):
            size = rng.uniform(0.5, 1.5, K) * rng.choice([-1, 1], K)
            E += rng.standard_normal((n, K))[:, labels] * size
    fitted = X @ beta.T if shared else np.einsum("tkp,kp->tk", X, beta)
    return X.astype(dtype), (fitted + E).astype(dtype)


def cut(X, Y, widths):
    """The same in chunks of equations."""
    Y = da.from_array(Y, chunks=(len(Y), widths))
    return X if X.ndim == 2 else da.from_array(X, chunks=(len(X), widths, P)), Y


def listed(X, K):
    return [X] * K if X.ndim == 2 else list(np.moveaxis(X, 1, 0))


@pytest.fixture(scope="module")
def two():
    with clusters.cluster(2) as (client, workers):
        yield client, workers


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads"):
        yield


def close(fit, one, atol=1e-6):
    """Whether parameters in parts are those of one machine."""
    np.testing.assert_allclose(fit.params.compute(), np.array(one.params), atol=atol)
    np.testing.assert_allclose(fit.covariance.gather().toarray(), one.covariance.toarray(),
                               atol=30 * atol)
    assert abs(fit.loglik - one.loglik) < 1e-9 * abs(one.loglik)


# ---------------------------------------------------------------- the same as on one machine


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("shared", [False, True], ids=["own regressors", "shared"])
@pytest.mark.parametrize("tree", TREES)
def test_estimates_are_those_of_one_machine(tree, shared, threads):
    hierarchy, ranks, widths = TREES[tree]
    X, Y = draw(shared=shared, n=150, tree=tree)
    fit = als_gls(*cut(X, Y, widths), ranks, hierarchy, **SHARP)
    one = als_gls(listed(X, 48), Y, ranks, hierarchy, **SHARP)
    close(fit, one)
    assert fit.converged and fit.covariance.widths == widths
    assert (np.diff(fit.objective_trace) >= 0).all()


OPTIONS = {"prior": {"prior": True}, "prior_variance": {"prior": 3.0, "prior_variance": 0.7},
           "ridge": {"beta_ridge": 2.0}, "em": {"optimizer": "em", "gtol": 1e-6}}


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("name", OPTIONS)
def test_options_mean_the_same(name, threads):
    X, Y = draw(1)
    options = SHARP | OPTIONS[name]
    fit = als_gls(*cut(X, Y, (20, 28)), 2, **options)
    one = als_gls(listed(X, 48), Y, 2, **options)
    close(fit, one, 1e-5 if name == "em" else 1e-6)
    assert abs(fit.objective - one.objective) < 1e-9 * abs(one.objective)


def test_a_list_of_arrays_travels_with_its_parts(threads):
    X, Y = draw(2)
    whole = als_gls(*cut(X, Y, (20, 28)), 2)
    fit = als_gls(listed(X, 48), cut(X, Y, (20, 28))[1], 2)
    assert np.array_equal(fit.params.compute(), whole.params.compute())


@pytest.fixture
def same_start(monkeypatch):
    """Both ways begin at one covariance: starts in parts differ above the parts."""
    from mlrops.regression.sur.parts.surface import RegressionSurface

    here, there = climb.start, RegressionSurface.first

    def begin(covariance):
        monkeypatch.setattr(climb, "start", lambda _, *rest: here(covariance, *rest))
        monkeypatch.setattr(RegressionSurface, "first",
                            lambda self, _, *rest: there(self, covariance, *rest))
    return begin


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("tree", ["flat", "three levels"])
def test_from_one_start_the_steps_are_the_same(tree, same_start, threads):
    hierarchy, ranks, widths = TREES[tree]
    h, rng = hierarchy or Hierarchy.flat(48), np.random.default_rng(0)
    same_start(MLR(h, [rng.standard_normal((48, r)) / 2 for r in np.atleast_1d(ranks)],
                   rng.uniform(0.5, 1.5, 48)))
    X, Y = draw(3, tree=tree)
    options = SHARP | {"max_iter": 3}
    seen, here = [], []
    fit = als_gls(*cut(X, Y, widths), ranks, hierarchy, **options, callback=seen.append)
    one = als_gls(listed(X, 48), Y, ranks, hierarchy, **options, callback=here.append)
    assert fit.n_cg == one.n_cg and len(seen) == len(here) == 4
    np.testing.assert_allclose(fit.loglik_trace, one.loglik_trace, rtol=1e-10)
    for a, b, atol in zip(seen, here, (1e-12, 1e-9, 1e-9, 1e-9), strict=True):
        np.testing.assert_allclose(a.params.compute(), np.array(b.params), atol=atol)
        np.testing.assert_allclose(a.covariance.gather().toarray(), b.covariance.toarray(),
                                   atol=10 * atol)


def test_what_one_step_holds_back_is_climbed_together(threads):
    """Few rows: from some iteration on Σ-steps take the coefficients along."""
    rng = np.random.default_rng(2)
    X, E = rng.standard_normal((20, 12, P)), rng.standard_normal((20, 3))
    Y = X.sum(axis=2) + E @ rng.standard_normal((3, 12)) + rng.standard_normal((20, 12))
    options = SHARP | {"prior": 0.5, "gtol": 1e-7, "max_iter": 40}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = als_gls(*cut(X, Y, (5, 7)), 3, **options)
        one = als_gls(listed(X, 12), Y, 3, **options)
    # β-steps within Σ-steps
    assert fit.n_iter > climb.SEPARATE and max(fit.n_cg[: climb.SEPARATE]) < max(fit.n_cg) / 2
    assert abs(fit.objective - one.objective) < 1e-8


def test_single_precision(threads):
    X, Y = draw(4, dtype=np.float32)
    fit, one = als_gls(*cut(X, Y, (20, 28)), 2), als_gls(listed(X, 48), Y, 2)
    assert fit.params.dtype == fit.covariance.dtype == fit.resid.dtype == np.float32
    np.testing.assert_allclose(fit.params.compute(), np.array(one.params), atol=1e-3)
    assert abs(fit.loglik - one.loglik) < 1e-4


# ---------------------------------------------------------------- bits, and workers that are lost


def numbers(X, Y, widths, tree="flat", **options):
    """All numbers of a fit."""
    hierarchy, ranks, _ = TREES[tree]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = als_gls(X, Y, ranks, hierarchy, max_iter=3, **options)
    A = fit.covariance.gather()
    return fit.params.compute(), A.F, A.D, fit.loglik_trace, fit.resid.compute()


def same(a, b):
    return all(map(np.array_equal, a, b))


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["flat", "three levels"])
def test_bits_do_not_depend_on_the_number_of_workers(tree, two):
    data = *cut(*draw(tree=tree), TREES[tree][2]), TREES[tree][2]
    with dask.config.set(scheduler="sync"):
        expected = numbers(*data, tree)
    with dask.config.set(scheduler=two[0]):
        assert same(numbers(*data, tree), expected)
    for n_workers in (1, 3):
        with clusters.cluster(n_workers):
            assert same(numbers(*data, tree), expected)


@pytest.mark.slow
@pytest.mark.parametrize("all_of_them", [False, True], ids=["one worker", "all workers"])
@pytest.mark.parametrize("n_iter, delay", [(0, 0.05), (1, 0.3), (2, 0.1)])
def test_a_fit_goes_on_when_workers_are_killed(n_iter, delay, all_of_them):
    X, Y = cut(*draw(), (17, 20, 11))
    with dask.config.set(scheduler="sync"):
        expected = numbers(X, Y, None)
    with clusters.cluster(2) as (client, _):
        killer = clusters.Killer(client, n_iter, all_of_them, delay)
        assert same(numbers(X, Y, None, callback=killer), expected)
        killer.done()
        assert set(clusters.pids(client)) != set(killer.first)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_what_the_scheduler_holds_does_not_grow(two, monkeypatch):
    """Files are written every ten steps, whatever they take: what is held goes by the steps."""
    monkeypatch.setattr(spread, "MOST", spread.LEAST)
    client, workers = two
    X, Y = (client.persist(x) for x in cut(*draw(), (17, 20, 11)))
    held, honest = [], spread.Shelf.step

    def look(self):
        held.append(len(workers.scheduler.tasks))
        honest(self)

    monkeypatch.setattr(spread.Shelf, "step", look)
    with dask.config.set(scheduler=client):
        fit = als_gls(X, Y, 2, max_iter=5, tol=0, gtol=1e-7)
    # What is spread, and what it is made of, until files cut it: whatever the round.
    n = len(held) // 3
    assert n > 15 and max(held[-n:]) <= 1.3 * max(held[n : 2 * n])
    gc.collect()
    del X, Y
    assert clusters.forgotten(workers, 40)  # the data, F, D and coefficients
    del fit
    gc.collect()
    assert clusters.forgotten(workers, 0)


def test_what_is_made_of_what_is_made_is_made_anew(threads, monkeypatch):
    """Once files are written, nothing goes back to what was before them."""
    monkeypatch.setattr(spread, "is_remote", lambda: True)
    shelf = spread.Shelf([])
    x = shelf.spread([dask.delayed(3.0)])
    y = shelf.derived(operator.neg, x)
    z = shelf.derived(operator.neg, y)
    shelf.results()
    before = [made.parts[0].key for made in (x, y, z)]
    shelf.settle()
    assert not set(before) & {made.parts[0].key for made in (x, y, z)}
    assert shelf.results(*y.parts, *z.parts) == [-3.0, 3.0]


def moved(client):
    """Bytes between workers so far; what the client sends is not among them."""
    logs = client.run(lambda dask_worker: [
        entry["total"] for entry in dask_worker.transfer_incoming_log])
    return sum(map(sum, logs.values()))


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_a_round_moves_little(monkeypatch):
    """``R_c² + R_c N`` numbers a part up and as many down, whatever the number of equations."""
    from mlrops.regression.sur.parts.normal import SpreadNormalEquations

    n, parts, ranks, most, honest = 40, 4, 2, [], SpreadNormalEquations._iteration
    with clusters.settled() as (client, _):
        for m in (50, 800):
            each = []

            def watched(self, *given, each=each):
                before, out = moved(client), honest(self, *given)
                each.append(moved(client) - before)
                return out

            monkeypatch.setattr(SpreadNormalEquations, "_iteration", watched)
            als_gls(*cut(*draw(5, n, parts * m), (m,) * parts), ranks, max_iter=3, tol=1e-3,
                    gtol=1e-6)
            most.append(min(each))  # a busy machine may place tasks elsewhere now and then
    one = 8 * (ranks + 1) * (n + ranks + 3)
    assert max(most) <= 2 * parts * one


# ---------------------------------------------------------------- the result


def test_the_result_has_what_needs_no_whole(threads):
    X, Y = draw(6)
    fit = als_gls(*cut(X, Y, (20, 28)), 2)
    one = als_gls(listed(X, 48), Y, 2, optimizer="bfgs")
    assert fit.params.chunks == ((20, 28), (3,)) and fit.resid.chunks == ((N,), (20, 28))
    assert (fit.nobs, fit.n_equations, fit.n_params) == (N, 48, 144)
    np.testing.assert_allclose(fit.resid.compute(), one.resid, atol=1e-3)
    np.testing.assert_allclose(fit.fittedvalues.compute() + fit.resid.compute(), Y)
    assert fit.degrees_of_freedom == one.degrees_of_freedom
    assert abs(fit.bic - one.bic) < 1e-3 and abs(fit.aic - one.aic) < 1e-3
    assert repr(fit).startswith("<DistributedSURResult: 48 equations, 144 coefficients, 70 rows, 2")
    whole = fit.gather()
    np.testing.assert_allclose(np.array(whole.bse), np.array(one.bse), atol=1e-3)
    assert abs(whole.score(listed(X, 48), Y) - fit.loglik) < 1e-9
    for name in ("rsquared", "summary", "cov_params"):
        with pytest.raises(AttributeError, match=rf"no '{name}'.*gather\(\)"):
            getattr(fit, name)
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        fit.nonsense  # noqa: B018
    new = np.random.default_rng(0).standard_normal((5, 48, P))
    expected = np.einsum("tkp,kp->tk", new, fit.params.compute())
    np.testing.assert_allclose(fit.predict(da.from_array(new, chunks=(5, (20, 28), P))), expected)
    with pytest.raises(ValueError, match=r"shape \(M, 3\) or \(M, 48, 3\), got \(5, 47, 3\)"):
        fit.predict(new[:, 1:])


@pytest.mark.slow
def test_a_result_outlives_the_data_and_lost_workers():
    X, Y = cut(*draw(), (17, 20, 11))
    with clusters.cluster(2) as (client, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = als_gls(X, Y, 2, max_iter=2)
        before = fit.params.compute(), fit.covariance.gather().F
        clusters.kill(clusters.pids(client))
        time.sleep(0.1)
        assert same((fit.params.compute(), fit.covariance.gather().F), before)


# ---------------------------------------------------------------- bad input


def refused(words, *args, error=ValueError, **options):
    with pytest.raises(error, match=words):
        als_gls(*args, **options)


def test_chunks_that_do_not_fit_are_refused(threads):
    X, Y = draw()
    Xd, Yd = cut(X, Y, (20, 28))
    refused(r"cut by rows.*rechunk\(\{0: -1\}\)", Xd, Yd.rechunk((35, 48)), 2)
    refused("cut both ways, into 2 by 2 chunks", Xd, Yd.rechunk((35, 24)), 2)
    refused("unknown sizes", Xd, Yd[:, Yd.sum(axis=0) > -1e9], 2)
    refused(r"chunks of Xs must be those of Y", Xd.rechunk({1: 24}), Yd, 2)
    refused(r"chunks of Xs must be those of Y", Xd.rechunk({2: 1}), Yd, 2)
    refused(r"70 rows and 48 equations of Y, got \(70, 47, 3\)", Xd[:, 1:], Yd, 2)
    refused(r"dask array \(N, K, p\), or .* 1 dimensions", Xd[:, 0, 0], Yd, 2)
    refused("Xs has 69 rows, Y has 70", Xd[1:, 0], Yd, 2)
    refused("one array for each equation.*got 47 for 48", listed(X, 48)[1:], Yd, 2)
    refused(r"X of equation 5 has shape \(70, 2\).*equally many",
            [x[:, :2] if j == 5 else x for j, x in enumerate(listed(X, 48))], Yd, 2)
    refused("Xs has 69 rows, Y has 70", X[1:, 0], Yd, 2)
    refused("3 regressors and 3 rows; more rows", Xd[:3], Yd[:3], 2)
    refused("Y must be a dask array.*an array in memory beside dask Xs", Xd, Y, 2, error=TypeError)
    refused("Xs with names, Y must be in memory", {0: X[:, 0]}, Yd, 2, error=TypeError)
    tree = Hierarchy.from_labels(np.arange(48) % 2)
    refused("runs of features in the order of the hierarchy|Y.*hierarchy", Xd, Yd, (1, 1), tree)


def test_cells_and_regressors_that_are_wrong_are_named(threads):
    X, Y = draw()
    gap, lost = Y.copy(), X.copy()
    gap[3, 30] = np.nan
    lost[4, 12, 1] = lost[4, 0, 1] = np.inf
    refused(r"Y must be finite, got 1 cell with NaN in chunk 1, in 1 equation \(30\)",
            *cut(X, gap, (20, 28)), 2)
    refused(r"Xs must be finite, got 2 cells with infinity in chunk 0, in 2 equations \(0, 12\)",
            *cut(lost, Y, (20, 28)), 2)
    refused("Xs.*infin|infin.*Xs", da.from_array(lost[:, 0]), cut(X, Y, (20, 28))[1], 2)
    twice = X.copy()
    twice[:, 33, 2] = 2 * twice[:, 33, 0]
    refused("X of equation 33 is rank-deficient: column 2", *cut(twice, Y, (20, 28)), 2)
    exact = Y.copy()
    exact[:, 41] = X[:, 41] @ [1.0, 2.0, 3.0]
    refused("equation 41", *cut(X, exact, (20, 28)), 2)
    refused("more rows than both together are needed", *cut(*draw(n=40), (20, 28)), 37)
    refused("likelihood has no maximum: equations (0, 1|20, 21)", *cut(*draw(n=20), (20, 28)), 6)


@pytest.mark.parametrize("options, words", [
    ({"solver": "lsmr"}, 'solver="lsmr"'), ({"optimizer": "scoring"}, 'optimizer="scoring"'),
    ({"factor_ridge": 1.0}, "factor_ridge"), ({"covariance": np.eye(48)}, "a covariance to keep")])
def test_options_for_one_machine_are_refused_by_name(options, words, threads):
    refused(f"Y is a dask array: {words}.*in memory", *cut(*draw(), (20, 28)),
            None if "covariance" in options else 2, **options)


# ---------------------------------------------------------------- SUR


@pytest.mark.parametrize("shared", ["own", "array", "dask"])
def test_SUR_of_dask_arrays_is_als_gls(shared, threads):
    hierarchy, ranks, widths = TREES["two levels"]
    X, Y = draw(8, shared=shared != "own", tree="two levels")
    given = cut(X, Y, widths)
    Xd = da.from_array(X, chunks=(30, 2)) if shared == "dask" else given[0]
    expected = als_gls(*given, ranks, hierarchy, prior=True)
    for model in (SUR((given[1], Xd)), SUR.multivariate_ls(given[1], Xd)):
        fit = model.fit(ranks, hierarchy, prior=True)
        assert type(fit) is type(expected)
        assert same(
            (fit.params.compute(), fit.covariance.gather().F, fit.loglik_trace),
            (expected.params.compute(), expected.covariance.gather().F, expected.loglik_trace))
        np.testing.assert_allclose(fit.resid.compute(), expected.resid.compute(), atol=1e-12)
    assert (model.nobs, model.n_equations) == (N, 48)
    assert repr(model) == "<DistributedSUR: 48 equations, 144 coefficients, 70 rows, 3 parts>"
    assert np.array_equal(fit.gather().Xs[3], X[:, 3] if shared == "own" else X)


def test_without_factors_it_is_least_squares_equation_by_equation(threads):
    X, Y = draw(9)
    fit = SUR(cut(X, Y, (20, 28))[::-1]).fit(0)
    expected = [np.linalg.lstsq(X[:, j], Y[:, j], rcond=None)[0] for j in range(48)]
    np.testing.assert_allclose(fit.params.compute(), expected, atol=1e-12)
    squares = np.square(fit.resid.compute()).mean(axis=0)
    np.testing.assert_allclose(fit.covariance.diagonal().compute(), squares, rtol=1e-6)


def test_what_SUR_has_in_memory_only_is_refused_by_name(threads):
    X, Y = cut(*draw(), (20, 28))
    for equation in ((Y[:, 0], X[:, 0]), {"dependent": Y[:, 0], "exog": np.ones(N)}):
        with pytest.raises(TypeError, match=r"names must be in memory.*SUR\(\(Y, X\)\)"):
            SUR({"a": equation})
    with pytest.raises(ValueError, match=r"tuple \(Y, X\).*3 entries: weights"):
        SUR((Y, X, Y))
    for options in ({"constraints": {"a": 1}}, {"missing": "drop"}):
        with pytest.raises(ValueError, match="constraints: these are for equations in memory"):
            SUR((Y, X), **options)
    model = SUR((Y, X))
    for asked in (lambda: model.data, lambda: model.param_names, lambda: model.equations,
                  lambda: model.add_constraints(np.ones((1, 144)))):
        with pytest.raises(AttributeError, match=r"in memory, SUR\(\{name"):
            asked()
    for options, words in (
            ({"ranks": "bic"}, "select_sur_ranks.*compare the bic"),
            ({"ranks": 2, "rank_options": {}}, "select_sur_ranks"),
            ({"ranks": 2, "cov_type": "robust"}, "cov_type of a fit.*gather"),
            ({"covariance": np.eye(48)}, "a covariance to keep is for data in memory"),
            ({"ranks": 2, "solver": "lsmr"}, 'solver="lsmr" is for data in memory')):
        with pytest.raises(ValueError, match=words):
            model.fit(**options)
    with pytest.raises(ValueError, match="chunks of Xs must be those of Y"):
        SUR((Y, X.rechunk({1: 24})))
    with pytest.raises(ValueError, match="Xs has 69 rows, Y has 70"):
        SUR.multivariate_ls(Y, da.ones((69, 2)))
