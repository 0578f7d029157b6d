"""`select_sur_ranks` and ``SUR.fit(ranks="bic")``: criteria by hand, folds, true ranks found."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlrops import SUR, ConvergenceWarning, Hierarchy, RankSelection, als_gls
from mlrops.datasets import simulate_sur
from mlrops.factor.criteria import degrees_of_freedom
from mlrops.regression.sur import selection as sur_selection
from mlrops.regression.sur.data import SURData, read_equations
from mlrops.regression.sur.measures import average_loglik
from mlrops.regression.sur.selection import select_sur_ranks

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

TREE = Hierarchy(np.random.default_rng(2).permutation(8), [[0, 8], [0, 3, 8]])


@pytest.fixture(scope="module")
def small():
    return simulate_sur(8, [2, 3, 2, 1, 2, 3, 2, 2], ranks=(1, 0), n_samples=60, hierarchy=TREE,
                        random_state=0)


def named(sim):
    return {f"e{j}": (y, X) for j, (y, X) in enumerate(zip(sim.Y.T, sim.Xs, strict=True))}


# ---------------------------------------------------------------- criteria by hand


def test_information_criteria_by_hand(small):
    candidates = [(0, 0), (1, 0), (1, 1)]
    selection = select_sur_ranks(small.Xs, small.Y, candidates, TREE)
    assert isinstance(selection, RankSelection)
    # 17 coefficients and D; 8 loadings; 3 + 5 more, but 3 equations have 6 covariances only
    assert [r.df for r in selection.table] == [25, 33, 25 + degrees_of_freedom(
        TREE, (1, 1), mean=False) - 8]
    for record in selection.table:
        fit = als_gls(small.Xs, small.Y, record.ranks, TREE)
        assert record.loglik == pytest.approx(fit.loglik, rel=1e-8)
        assert record.aic == pytest.approx(-120 * record.loglik + 2 * record.df, rel=1e-12)
        assert record.bic == pytest.approx(-120 * record.loglik + math.log(60) * record.df)
        assert abs(record.n_iter - fit.n_iter) <= 1 and math.isnan(record.cv_mean)
        assert record.storage == 8 * (1 + sum(record.ranks))
    best = min(selection.table, key=lambda r: r.bic)
    assert selection.ranks == best.ranks and selection.fit.loglik == best.loglik


def test_constraints_take_degrees_of_freedom(small):
    same = {("e0", "x0"): 1, ("e1", "x0"): -1}
    twice = [same, ({("e0", "x0"): 3, ("e1", "x0"): -3}, 0.0), ({("e2", "x1"): 1}, 2.0)]
    free = SUR(named(small)).fit("bic", rank_options={"candidates": [0, 1]}).selection.table
    tied = SUR(named(small), constraints=twice).fit("bic", rank_options={"candidates": [0, 1]})
    assert [a.df - b.df for a, b in zip(free, tied.selection.table, strict=True)] == [2, 2]
    assert tied.params["e2"]["x1"] == pytest.approx(2.0)


def dense_loglik(data, fit):
    sigma, total = fit.covariance.toarray(), 0.0
    for t in range(data.N):
        cells = np.arange(data.K) if data.observed is None else np.flatnonzero(data.observed[t])
        e = np.array([data.Y[t, j] - data.Xs[j][t] @ fit.coefficients[j] for j in cells])
        root = 1.0 if data.weights is None else np.sqrt(data.weights[t, cells])
        V = sigma[np.ix_(cells, cells)] / np.outer(root, root)
        total -= 0.5 * (cells.size * math.log(2 * math.pi) + np.linalg.slogdet(V)[1]
                        + e @ np.linalg.solve(V, e))
    return total / data.N


def variants(sim, seed=0):
    """The data complete, weighted, with missing cells, and both."""
    rng = np.random.default_rng(seed)
    data = read_equations(sim.Xs, sim.Y)
    observed = rng.random(data.Y.shape) < 0.85
    observed[:, 0] = True
    weights = np.where(observed, rng.uniform(0.3, 2, data.Y.shape), 1)
    gaps = SURData([X * o[:, None] for X, o in zip(data.Xs, observed.T, strict=True)],
                   data.Y * observed, observed)
    return {"complete": data, "weighted": replace(data, weights=weights), "gaps": gaps,
            "both": replace(gaps, weights=weights)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["complete", "weighted", "gaps", "both"])
def test_held_out_likelihood_by_dense_blocks(small, kind):
    data = variants(small)[kind]
    fit = als_gls(small.Xs, small.Y, (1, 1), TREE)
    rows = np.array([1, 4, 5, 30, 58])
    part = data.take(rows)
    assert average_loglik(fit, part) == pytest.approx(dense_loglik(part, fit), rel=1e-10)
    if kind == "complete":
        expected = fit.score([X[rows] for X in small.Xs], small.Y[rows])
        assert average_loglik(fit, part) == pytest.approx(expected, rel=1e-12)


def test_folds_by_hand(small):
    folds = [(np.arange(20, 60), np.arange(20)), (slice(0, 40), slice(40, 60))]
    selection = select_sur_ranks(small.Xs, small.Y, [(1, 0), (0, 1)], TREE, criterion="cv",
                                 folds=folds, refit=False)
    assert selection.fit is None
    for record in selection.table:
        scores, n_iter = [], 0
        for train, test in folds:
            fit = als_gls([X[train] for X in small.Xs], small.Y[train], record.ranks, TREE)
            scores.append(fit.score([X[test] for X in small.Xs], small.Y[test]))
            n_iter += fit.n_iter
        assert record.cv_mean == pytest.approx(np.mean(scores), rel=1e-6)
        assert record.cv_se == pytest.approx(np.std(scores, ddof=1) / math.sqrt(2), rel=1e-4)
        assert abs(record.n_iter - n_iter) <= 2 and math.isnan(record.bic)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_folds(small):
    def means(seed):
        table = select_sur_ranks(small.Xs, small.Y, candidates=[1], criterion="cv", n_folds=3,
                                 refit=False, random_state=seed).table
        return [record.cv_mean for record in table]

    assert means(1) == means(1) != means(2)


# ---------------------------------------------------------------- true ranks are found


def chosen(K, k, seed, criterion, **options):
    sim = simulate_sur(K, 3, ranks=k, n_samples=200, random_state=seed)
    return select_sur_ranks(sim.Xs, sim.Y, criterion=criterion, random_state=seed, **options).ranks


@pytest.mark.slow
@pytest.mark.parametrize("K, seeds, least", [(20, 5, 22), (60, 2, 10)])
def test_bic_finds_the_number_of_factors(K, seeds, least):
    """Of 5 true ranks times the seeds; weak factors are found too few of, never too many."""
    found = [(k, chosen(K, k, seed, "bic")[0]) for k in range(5) for seed in range(seeds)]
    assert sum(k == r for k, r in found) >= least, found
    assert all(r in (k - 1, k) for k, r in found), found


@pytest.mark.slow
def test_held_out_likelihood_finds_the_number_of_factors():
    found = [(k, chosen(20, k, seed, "cv", n_folds=4, refit=False)[0])
             for k in range(5) for seed in range(2)]
    assert sum(k == r for k, r in found) >= 9, found


@pytest.mark.slow
@pytest.mark.parametrize("criterion, seeds, least", [("bic", 5, 4), ("cv", 2, 2)])
def test_ranks_of_a_tree_are_found(criterion, seeds, least):
    tree = Hierarchy.balanced(32, [1, 4])
    found = []
    for seed in range(seeds):
        sim = simulate_sur(32, 3, ranks=(2, 1), n_samples=200, hierarchy=tree, random_state=seed)
        found.append(select_sur_ranks(sim.Xs, sim.Y, hierarchy=tree, criterion=criterion, n_folds=3,
                                      random_state=seed).ranks)
    assert found.count((2, 1)) >= least, found


@pytest.mark.slow
def test_gaps_and_weights_do_not_hide_the_rank():
    sim = simulate_sur(12, 2, ranks=2, n_samples=150, random_state=3)
    rng = np.random.default_rng(3)
    Y = np.where(rng.random(sim.Y.shape) < 0.9, sim.Y, np.nan)
    model = SUR({f"e{j}": (y, X, np.full(150, 2.0))
                 for j, (y, X) in enumerate(zip(Y.T, sim.Xs, strict=True))})
    for how in ("bic", "cv"):
        fit = model.fit(how, rank_options={"candidates": [1, 2, 3], "n_folds": 3,
                                           "random_state": 0} if how == "cv"
                        else {"candidates": [1, 2, 3]})
        assert fit.selection.ranks == fit.covariance.ranks == (2,)


# ---------------------------------------------------------------- SUR.fit


@pytest.mark.slow
def test_fit_keeps_the_table(small):
    groups = {f"e{j}": "xy"[label] for j, label in enumerate(TREE.labels(1))}
    model = SUR(named(small))
    fit = model.fit("bic", groups, tol=1e-10)
    direct = select_sur_ranks(small.Xs, small.Y, hierarchy=TREE, tol=1e-10)
    assert fit.selection.ranks == direct.ranks == fit.covariance.ranks
    assert [r.ranks for r in fit.selection.table] == [r.ranks for r in direct.table]
    assert fit.selection.fit is None and fit.selection.criterion == "bic"
    assert fit.loglik == pytest.approx(direct.fit.loglik, rel=1e-7)
    assert isinstance(fit.params, pd.Series) and np.isfinite(fit.bse).all()
    assert "Ranks by bic" in fit.selection.summary()
    chosen, = [r for r in fit.selection.table if r.ranks == fit.selection.ranks]
    assert (fit.aic, fit.bic) == pytest.approx((chosen.aic, chosen.bic))
    assert list(fit.selection.to_frame()["ranks"]) == [r.ranks for r in direct.table]
    assert model.fit(1).selection is None


def test_options_of_the_choice(small):
    fit = SUR(named(small)).fit("cv", rank_options={
        "max_rank": 2, "strategy": "grid", "n_folds": 3, "random_state": 0,
        "one_standard_error": True})
    assert [r.ranks for r in fit.selection.table] == [(0,), (1,), (2,)]
    assert fit.selection.one_standard_error
    assert not any(math.isnan(r.cv_mean) or math.isnan(r.bic) for r in fit.selection.table)


def test_one_equation_has_no_factors_to_choose(small):
    model = SUR({"e": (small.Y[:, 0], small.Xs[0])})
    for how, ranks in (("bic", (0,)), ("cv", (0, 0))):
        fit = model.fit(how, {"e": "group"} if len(ranks) == 2 else None)
        assert [r.ranks for r in fit.selection.table] == [ranks] and fit.covariance.ranks == ranks
    assert model.fit("bic").selection.table[0].df == 3  # two coefficients and a variance


def test_ranks_are_generated_as_far_as_the_likelihood_has_a_maximum():
    sim = simulate_sur(12, 3, ranks=1, n_samples=13, random_state=0)
    # 3 equations have 9 < 13 - 2 regressors, but 4 have 12 > 13 - 3; with 8 rows to train on
    # 2 equations have 6 < 8 - 1, but 3 have 9 > 8 - 2
    folds = [(slice(0, 8), slice(8, 13))]
    for options, most in ((dict(), 2), (dict(criterion="cv", folds=folds), 1)):
        selection = select_sur_ranks(sim.Xs, sim.Y, max_rank=11, strategy="grid", max_iter=3,
                                     **options)
        assert [r.ranks for r in selection.table] == [(k,) for k in range(most + 1)]
    # 3 regressors in all, so that 10 of 13 rows are left for factors
    shared = select_sur_ranks([sim.Xs[0]] * 12, sim.Y, max_rank=11, strategy="grid", max_iter=3)
    assert [r.ranks for r in shared.table] == [(k,) for k in range(10)]
    with pytest.raises(ValueError, match="equation 0 has 13 rows for 3 regressors and 10 factors"):
        select_sur_ranks(sim.Xs, sim.Y, candidates=[0, 10])
    with pytest.raises(ValueError, match="total rank of 3 cannot be used up: the rows carry 2"):
        select_sur_ranks(sim.Xs, sim.Y, total_rank=3, exact=True)


def test_one_warning_for_all_fits(small):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select_sur_ranks(small.Xs, small.Y, candidates=[1, 2], max_iter=1)
        SUR(named(small)).fit("bic", max_iter=1, rank_options={"candidates": [1, 2]})
    assert [w.category for w in caught] == [ConvergenceWarning] * 2
    for warning in caught:
        assert "of 2 fits, 2 did not converge" in str(warning.message)
        assert warning.filename == __file__


def test_an_interrupted_fit_ends_the_choice(small, monkeypatch):
    def interrupted(*args, **kwargs):
        return replace(fit, termination="interrupted", converged=False)

    fit = als_gls(small.Xs, small.Y, 1)
    monkeypatch.setattr(sur_selection, "fit_system", interrupted)
    with pytest.raises(KeyboardInterrupt):
        select_sur_ranks(small.Xs, small.Y, candidates=[1, 2])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("options, error, message", [
    (dict(candidates=[(1, 1)]), ValueError, r"candidates\[0\].*1 entry, one a level, got 2"),
    (dict(candidates=[9]), ValueError, "exceed hierarchy.n = 8"),
    (dict(criterion="hqic"), ValueError, "criterion must be one of"),
    (dict(criterion="cv", n_folds=61), ValueError, "61 folds need at least 61"),
    (dict(hierarchy=Hierarchy.flat(7)), ValueError, "hierarchy's 7 equations, got 8"),
    (dict(hierarchy="tree"), TypeError, "must be a Hierarchy"),
    (dict(no_such_option=1), TypeError, "no_such_option"),
    (dict(one_standard_error=True), ValueError, 'criterion="cv"'),
])
def test_refuses(small, options, error, message):
    with pytest.raises(error, match=message):
        select_sur_ranks(small.Xs, small.Y, **options)


def test_a_fold_that_cannot_be_fitted_is_named(small):
    Xs = [X.copy() for X in small.Xs]
    Xs[2][:40, 1] = 0.0
    folds = [(slice(0, 40), slice(40, 60))]
    with pytest.raises(ValueError, match="40 training samples of fold 0 cannot be fitted: X of"
                                         " equation 2 has a column of zeros .column 1.*fewer"):
        select_sur_ranks(Xs, small.Y, candidates=[1], criterion="cv", folds=folds)
    Xs = [np.column_stack([X, X[:, :1]]) for X in small.Xs]
    with pytest.raises(ValueError, match="^X of equation 3 is rank-deficient"):
        select_sur_ranks(Xs, small.Y)


def test_the_order_of_version_0_1(small):
    new = select_sur_ranks(small.Xs, small.Y, [(1, 0), (0, 1)], TREE, max_iter=3)
    with pytest.warns(DeprecationWarning, match=r"is select_sur_ranks\(data, cand") as seen:
        old = select_sur_ranks(small.Xs, small.Y, TREE, [(1, 0), (0, 1)], max_iter=3)
    assert old.table == new.table
    assert [w.filename for w in seen if w.category is DeprecationWarning] == [__file__]
    with pytest.raises(ValueError, match="in the order data, candidates, hierarchy"):
        select_sur_ranks(small.Xs, small.Y, None, [(1, 0), (0, 1)])
