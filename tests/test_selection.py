"""`select_ranks`: criteria by hand, folds, the two searches, and what they refuse."""

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.sparse

from mlrops import ConvergenceWarning, Hierarchy, RankSelection, fit_factor_model, select_ranks
from mlrops.datasets import simulate_factor_model, simulate_mlr
from mlrops.factor import rows
from mlrops.factor import selection as rank_selection
from mlrops.factor.criteria import degrees_of_freedom

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

TREE = Hierarchy(np.random.default_rng(4).permutation(36), [[0, 36], [0, 16, 36],
                                                            [0, 8, 16, 24, 36]])
SMALL = Hierarchy(np.random.default_rng(5).permutation(12), [[0, 12], [0, 5, 12]])


@pytest.fixture(scope="module")
def small():
    return simulate_mlr(SMALL, (1, 1), 80, mean=3.0, random_state=1).Y


@pytest.fixture
def counted(monkeypatch):
    """Ranks and options of every call of `fit_factor_model`, in order."""
    calls = []

    def fit(Y, ranks, hierarchy, **options):
        calls.append((ranks, options))
        return fit_factor_model(Y, ranks, hierarchy, **options)

    monkeypatch.setattr(rank_selection, "fit_factor_model", fit)
    return calls


def table_of(selection):
    return {record.ranks: record for record in selection.table}


# ---------------------------------------------------------------- criteria


def test_information_criteria_by_hand(small):
    selection = select_ranks(small, [(0, 0), (1, 0), (1, 1)], SMALL, criterion="aic")
    records = table_of(selection)
    variances = small.var(axis=0)
    loglik = -0.5 * (12 * (math.log(2 * math.pi) + 1) + np.log(variances).sum())
    assert records[0, 0].loglik == pytest.approx(loglik, rel=1e-9)
    # D and the mean; 12 loadings; 5 + 7 more
    assert [r.df for r in selection.table] == [24, 36, 48]
    assert [r.storage for r in selection.table] == [12, 24, 36]
    for ranks, record in records.items():
        fit = fit_factor_model(small, ranks, SMALL)
        assert record.loglik == pytest.approx(fit.loglik, rel=1e-12)
        assert record.aic == pytest.approx(-160 * fit.loglik + 2 * record.df, rel=1e-12)
        assert record.bic == pytest.approx(-160 * fit.loglik + math.log(80) * record.df, rel=1e-12)
        assert record.n_iter == fit.n_iter and record.converged
        assert math.isnan(record.cv_mean) and math.isnan(record.cv_se)
    assert selection.ranks == min(selection.table, key=lambda r: r.aic).ranks
    assert selection.fit.loglik == records[selection.ranks].loglik


def test_mean_counts_only_where_it_is_estimated(small):
    record = select_ranks(small - 3, [(1, 0)], SMALL, center=False).table[0]
    assert record.df == degrees_of_freedom(SMALL, (1, 0), mean=False) == 24


def test_criteria_disagree_as_they_must():
    """BIC asks more of a factor than AIC: with a factor between the two they choose apart."""
    for seed in range(20):
        Y = simulate_factor_model(10, 1, 60, noise=2.0, random_state=seed).Y
        chosen = {c: select_ranks(Y, candidates=range(4), criterion=c, max_iter=5000)
                  for c in ("aic", "bic")}
        for criterion, selection in chosen.items():
            values = [getattr(r, criterion) for r in selection.table]
            assert selection.ranks == (int(np.argmin(values)),)
        if chosen["aic"].ranks > chosen["bic"].ranks:
            return
    pytest.fail("AIC never chose more factors than BIC")


def by_hand(Y, h, ranks, folds, **options):
    scores = []
    for train, test in folds:
        fit = fit_factor_model(Y[train], ranks, h, **options)
        S, mean = fit.covariance.toarray(), Y[train].mean(axis=0)
        x = Y[test] - mean
        quad = np.einsum("ti,ti->t", x, np.linalg.solve(S, x.T).T)
        scores.append(-0.5 * (h.n * math.log(2 * math.pi) + np.linalg.slogdet(S)[1]
                              + quad).mean())
    return np.mean(scores), np.std(scores, ddof=1) / math.sqrt(len(scores))


@pytest.mark.slow
def test_contiguous_folds_by_hand(small):
    cuts = [0, 27, 54, 80]
    folds = [(np.r_[0:a, b:80], np.arange(a, b)) for a, b in itertools.pairwise(cuts)]
    selection = select_ranks(small, [(0, 1), (1, 1)], SMALL, criterion="cv", n_folds=3,
                             shuffle=False)
    for record in selection.table:
        mean, se = by_hand(small, SMALL, record.ranks, folds)
        assert record.cv_mean == pytest.approx(mean, rel=1e-9)
        assert record.cv_se == pytest.approx(se, rel=1e-7)
        assert record.loglik == fit_factor_model(small, record.ranks, SMALL).loglik


def test_own_folds_in_every_form(small):
    mask = np.arange(80) % 3 == 0
    numbers = [(np.flatnonzero(~mask), np.flatnonzero(mask)), (np.arange(60), np.arange(60, 80))]
    mean, se = by_hand(small, SMALL, (1, 1), numbers)

    class Splitter:
        def split(self, X):
            assert len(X) == 80
            yield from numbers

    masks = [(~mask, mask), (slice(0, 60), slice(60, 80))]
    for folds in (numbers, masks, iter(numbers), Splitter()):
        record = select_ranks(small, [(1, 1)], SMALL, criterion="cv", folds=folds).table[0]
        assert record.cv_mean == pytest.approx(mean, rel=1e-9)
        assert record.cv_se == pytest.approx(se, rel=1e-7)


@pytest.mark.slow
def test_splitter_of_scikit_learn(small):
    splitter = pytest.importorskip("sklearn.model_selection").KFold(4)
    ours, theirs = (select_ranks(small, [(1, 0), (1, 1)], SMALL, criterion="cv", **how)
                    for how in (dict(n_folds=4, shuffle=False), dict(folds=splitter)))
    assert ours.table == theirs.table


def test_one_fold_has_no_standard_error(small):
    record = select_ranks(small, [(1, 0)], SMALL, criterion="cv",
                          folds=[(slice(0, 60), slice(60, 80))]).table[0]
    assert math.isfinite(record.cv_mean) and math.isnan(record.cv_se)


@pytest.mark.slow
def test_one_standard_error_rule():
    Y = simulate_factor_model(15, 2, 60, noise=3.0, random_state=3).Y
    options = dict(candidates=[3, 2, 1, 0, 4], criterion="cv", random_state=0, tol=1e-6)
    best, simple = (select_ranks(Y, one_standard_error=rule, **options) for rule in (False, True))
    assert best.table == simple.table
    top = max(best.table, key=lambda r: r.cv_mean)
    assert best.ranks == top.ranks
    within = [r.ranks for r in best.table if r.cv_mean >= top.cv_mean - top.cv_se]
    assert simple.ranks == min(within) < best.ranks
    assert simple.fit.covariance.ranks == simple.ranks
    assert "one-standard-error" in simple.summary() and "within a standard error" in repr(simple)


# ---------------------------------------------------------------- does it find the truth


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("criterion", ["bic", "cv"])
def test_finds_the_rank_of_one_level(criterion, seed):
    Y = simulate_factor_model(30, 3, 200, random_state=seed).Y
    selection = select_ranks(Y, candidates=range(6), criterion=criterion, random_state=seed)
    assert selection.ranks == (3,)
    assert select_ranks(Y, max_rank=5, criterion=criterion, random_state=seed).ranks == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [(2, 1, 1), (1, 0, 2), (0, 2, 0)])
def test_greedy_finds_the_ranks_of_a_tree(truth):
    for seed in range(3):
        Y = simulate_mlr(TREE, truth, 400, random_state=seed).Y
        selection = select_ranks(Y, hierarchy=TREE, random_state=seed, tol=1e-6)
        assert selection.ranks == truth
        assert selection.fit.covariance.ranks == truth


@pytest.mark.slow
def test_held_out_likelihood_finds_the_ranks_of_a_tree():
    for seed in range(2):
        Y = simulate_mlr(TREE, (2, 1, 1), 300, random_state=seed).Y
        selection = select_ranks(Y, hierarchy=TREE, max_storage=36 * 6, criterion="cv", n_folds=3,
                                 random_state=seed, tol=1e-6)
        assert selection.ranks == (2, 1, 1)


@pytest.mark.slow
def test_greedy_is_nearly_always_as_good_as_the_grid():
    agree = 0
    for seed in range(6):
        truth = [(1, 1), (2, 0), (0, 1)][seed % 3]
        Y = simulate_mlr(SMALL, truth, 150, random_state=seed).Y
        options = dict(total_rank=4, max_rank=2, tol=1e-6, random_state=seed)
        greedy, grid = (select_ranks(Y, hierarchy=SMALL, strategy=s, **options)
                        for s in ("greedy", "grid"))
        assert len(grid.table) == 9
        agree += greedy.ranks == grid.ranks
    assert agree >= 5


# ---------------------------------------------------------------- the searches


def neighbours(ranks):
    steps = [np.array(s) for s in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, -1), (-1, 1))]
    return {tuple(np.add(ranks, s).tolist()) for s in steps}


@pytest.mark.slow
@pytest.mark.parametrize("start", [None, (2, 2), (0, 3)])
def test_greedy_ends_where_no_move_helps(small, start):
    selection = select_ranks(small, hierarchy=SMALL, max_rank=3, start=start, random_state=0,
                             tol=1e-6)
    records = table_of(selection)
    assert selection.table[0].ranks == (start or (0, 0))
    tried = {r for r in neighbours(selection.ranks) if 0 <= min(r) and max(r) <= 3}
    assert tried <= set(records)
    assert selection.ranks == min(records, key=lambda r: records[r].bic)


@pytest.mark.slow
def test_grid_is_complete():
    Y = simulate_mlr(TREE, (1, 1, 0), 60, random_state=0).Y
    options = dict(strategy="grid", max_iter=3, tol=0.9)
    upto = select_ranks(Y, hierarchy=TREE, total_rank=3, **options)
    capped = select_ranks(Y, hierarchy=TREE, max_rank=(2, 0, 1), **options)
    six = select_ranks(Y, hierarchy=TREE, total_rank=6, exact=True, **options)
    stored = select_ranks(Y, hierarchy=TREE, max_storage=36 * 3 + 35, **options)
    every = set(itertools.product(range(7), repeat=3))
    assert {r.ranks for r in upto.table} == {r for r in every if sum(r) <= 3}
    assert {r.ranks for r in capped.table} == set(itertools.product(range(3), [0], range(2)))
    assert {r.ranks for r in six.table} == {r for r in every if sum(r) == 6}
    assert len(six.table) == 28 and {r.storage for r in six.table} == {36 * 7}
    assert {r.ranks for r in stored.table} == {r for r in every if sum(r) <= 2}
    assert all(len({r.ranks for r in s.table}) == len(s.table) for s in (upto, capped, six))


@pytest.mark.slow
def test_greedy_uses_up_the_budget_where_asked(small):
    free = select_ranks(small, hierarchy=SMALL, total_rank=4, random_state=0)
    exact = select_ranks(small, hierarchy=SMALL, total_rank=4, exact=True, random_state=0)
    stored = select_ranks(small, hierarchy=SMALL, max_storage=12 * 5 + 11, exact=True,
                          random_state=0)
    assert sum(free.ranks) < 4 and sum(exact.ranks) == 4
    assert {sum(r.ranks) for r in exact.table} == {4}
    assert exact.ranks == min(exact.table, key=lambda r: r.bic).ranks == stored.ranks
    assert exact.fit.covariance.ranks == exact.ranks


def test_groups_smaller_than_their_rank():
    h = Hierarchy.from_boundaries([[0, 10], [0, 2, 4, 10]])
    Y = simulate_mlr(h, (1, 1), 100, random_state=0).Y
    selection = select_ranks(Y, [(0, 2), (0, 3), (1, 7)], h)
    grid = select_ranks(Y, hierarchy=h, max_rank=(0, 9), strategy="grid")
    assert [r.n_capped for r in selection.table] == [0, 2, 3]
    assert [r.df for r in selection.table] == [degrees_of_freedom(h, r.ranks)
                                               for r in selection.table]
    assert "3 groups capped" in selection.summary()
    # six features need five factors at most
    assert [r.ranks[1] for r in grid.table] == [0, 1, 2, 3, 4, 5]


def test_each_candidate_is_fitted_once(counted, small):
    select_ranks(small, [(1, 0), (1, 1), (1, 0)], SMALL)
    assert [ranks for ranks, _ in counted] == [(1, 0), (1, 1)]
    counted.clear()
    grid = select_ranks(small, hierarchy=SMALL, total_rank=1, strategy="grid", criterion="cv",
                        n_folds=4, one_standard_error=True)
    assert len(counted) == 5 * len(grid.table) == 15
    counted.clear()
    bare = select_ranks(small, [(1, 0)], SMALL, criterion="cv", n_folds=4, refit=False)
    assert len(counted) == 4
    assert bare.fit is None and math.isnan(bare.table[0].bic)
    counted.clear()
    greedy = select_ranks(small, hierarchy=SMALL, max_rank=2, random_state=0)
    assert greedy.ranks == (1, 1)  # (1, 0) and (0, 1) were asked for twice
    assert len(counted) == len({ranks for ranks, _ in counted}) == len(greedy.table)


def test_greedy_starts_beside_the_neighbour(counted, small):
    select_ranks(small, hierarchy=SMALL, max_rank=2, random_state=0, max_iter=5000)
    (first, options), *others = counted
    assert first == (0, 0) and "init" not in options
    for ranks, options in others:
        start = options["init"]
        assert start.ranks == ranks
        for level, F in enumerate(start.factors):
            assert (np.abs(F) > 0).all() or ranks[level] == 0
    counted.clear()
    select_ranks(small, hierarchy=SMALL, max_rank=1, init="random", random_state=0)
    assert {options["init"] for _, options in counted} == {"random"}


def test_warm_start_keeps_what_was_found(small):
    """Kept columns are the leading ones of correlations; new ones have a signal-to-noise ratio near
    1 in each group."""
    fit = fit_factor_model(small, (2, 1), SMALL)
    start = rank_selection._beside(fit, (1, 41), np.random.default_rng(0))
    sd, axes = np.sqrt(fit.covariance.diagonal())[:, None], fit.correlation.principal().factors
    np.testing.assert_allclose(start.D, fit.covariance.D, rtol=1e-12)
    np.testing.assert_allclose(start.factors[0], sd * axes[0][:, :1], rtol=1e-12)
    np.testing.assert_allclose(start.factors[1][:, :1], sd * axes[1], rtol=1e-12)
    new = start.factors[1][:, 1:] ** 2 / start.D[:, None]
    for g in range(2):
        assert new[SMALL.labels(1) == g].sum(axis=0).mean() == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_same_seed_same_answer(small):
    one, two = (select_ranks(small, hierarchy=SMALL, criterion="cv", n_folds=3, max_rank=2,
                             random_state=7, tol=1e-5) for _ in range(2))
    assert one.table == two.table and one.ranks == two.ranks
    assert np.array_equal(one.fit.covariance.F, two.fit.covariance.F)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_seed_draws_shuffled_folds_only(small, shuffle):
    means = {select_ranks(small, [(1, 0)], SMALL, criterion="cv", n_folds=3, shuffle=shuffle,
                          random_state=seed).table[0].cv_mean for seed in (7, 7, 8)}
    assert len(means) == 1 + shuffle


# ---------------------------------------------------------------- data and options


def test_data_frames_lists_and_float32(small):
    pd = pytest.importorskip("pandas")
    options = dict(candidates=[(1, 0), (1, 1)], criterion="cv", n_folds=3, random_state=0)
    plain = select_ranks(small, hierarchy=SMALL, **options)
    frame = pd.DataFrame(small, columns=[f"x{i}" for i in range(12)],
                         index=np.arange(80)[::-1])
    assert select_ranks(small.tolist(), hierarchy=SMALL, **options).table == plain.table
    framed = select_ranks(frame, hierarchy=SMALL, **options)
    for a, b in zip(framed.table, plain.table, strict=True):  # columns first: other sums
        assert a.ranks == b.ranks
        assert a[3:8] == pytest.approx(b[3:8], rel=1e-3)
    single = select_ranks(small.astype(np.float32), hierarchy=SMALL, **options)
    assert single.fit.covariance.dtype == np.float32
    for a, b in zip(single.table, plain.table, strict=True):
        assert a.cv_mean == pytest.approx(b.cv_mean, rel=1e-3)


def test_missing_cells():
    Y = simulate_mlr(SMALL, (1, 1), 200, random_state=0).Y
    Y[np.random.default_rng(0).random(Y.shape) < 0.1] = np.nan
    Y[::20] = np.nan_to_num(Y[::20])
    selection = select_ranks(Y, hierarchy=SMALL, criterion="cv", max_rank=2, n_folds=3,
                             random_state=0, missing="em", shuffle=False, tol=1e-6)
    assert selection.ranks == (1, 1)
    cuts = [0, 67, 134, 200]
    scores = [fit_factor_model(np.delete(Y, np.s_[a:b], 0), (0, 0), SMALL, missing="em",
                               tol=1e-6).score(Y[a:b]) for a, b in itertools.pairwise(cuts)]
    assert table_of(selection)[0, 0].cv_mean == pytest.approx(np.mean(scores), rel=1e-9)


def test_sample_weights_follow_their_samples(small):
    weight = np.random.default_rng(0).uniform(0.2, 2, 80)
    train, test = np.arange(50), np.arange(50, 80)
    record = select_ranks(small, [(1, 1)], SMALL, criterion="cv", folds=[(train, test)],
                          sample_weight=weight).table[0]
    fit = fit_factor_model(small[train], (1, 1), SMALL, sample_weight=weight[train])
    held_out = np.average(fit.score_samples(small[test]), weights=weight[test])
    assert record.cv_mean == pytest.approx(held_out, rel=1e-9)
    whole = fit_factor_model(small, (1, 1), SMALL, sample_weight=weight)
    assert record.loglik == pytest.approx(whole.loglik, rel=1e-9)


def test_weights_go_with_their_samples_into_training_and_scores(small, monkeypatch):
    weight, seen = np.arange(1.0, 81), []

    def fit(Y, ranks, hierarchy, *, sample_weight, **options):
        seen.append(sample_weight)
        return fit_factor_model(Y, ranks, hierarchy, **options)

    monkeypatch.setattr(rank_selection, "fit_factor_model", fit)
    record = select_ranks(small, [(1, 0)], SMALL, criterion="cv", sample_weight=weight,
                          folds=[(slice(20, 80), slice(20))]).table[0]
    assert [w.tolist() for w in seen] == [list(range(1, 81)), list(range(21, 81))]
    held_out = fit_factor_model(small[20:], (1, 0), SMALL).score_samples(small[:20])
    assert record.cv_mean == pytest.approx(np.average(held_out, weights=weight[:20]), rel=1e-9)


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array"])
def test_sparse_data(kind, monkeypatch):
    Y = simulate_mlr(SMALL, (1, 1), 200, noise=0.3, random_state=2).Y
    Y[np.abs(Y) < 0.3] = 0
    options = dict(candidates=[(1, 0), (1, 1)], criterion="cv", n_folds=3, random_state=0,
                   tol=1e-9)
    dense = select_ranks(Y, hierarchy=SMALL, **options)
    monkeypatch.setattr(rows, "BLOCK", 10)
    sparse = select_ranks(getattr(scipy.sparse, kind)(Y), hierarchy=SMALL, **options)
    for a, b in zip(sparse.table, dense.table, strict=True):
        assert a.cv_mean == pytest.approx(b.cv_mean, rel=1e-4)
        assert a.loglik == pytest.approx(b.loglik, rel=1e-4)


def test_scoring_in_blocks_changes_nothing(small, monkeypatch):
    options = dict(candidates=[(1, 1)], criterion="cv", n_folds=3, random_state=0)
    whole = select_ranks(small, hierarchy=SMALL, **options).table[0]
    monkeypatch.setattr(rows, "BLOCK", 4)
    blocks = select_ranks(small, hierarchy=SMALL, **options).table[0]
    assert blocks.cv_mean == pytest.approx(whole.cv_mean, rel=1e-12)


def test_result_reads_well(small):
    pd = pytest.importorskip("pandas")
    selection = select_ranks(small, [(0, 0), (1, 1), (2, 0)], SMALL)
    assert isinstance(selection, RankSelection) and "(1, 1)" in repr(selection)
    frame = selection.to_frame()
    assert isinstance(frame, pd.DataFrame) and frame["ranks"].tolist() == [(0, 0), (1, 1), (2, 0)]
    assert frame.columns.tolist() == list(selection.table[0]._fields)
    assert frame["bic"].idxmin() == 1
    lines = selection.summary().splitlines()
    assert len(lines) == 5 and lines[2].startswith("*  (1, 1)")
    assert [line.startswith("*") for line in lines].count(True) == 1
    values = [float(line.split()[-2]) for line in lines[2:]]
    assert values == sorted(values) and "cv_mean" not in lines[1]
    short = selection.summary(limit=1).splitlines()
    assert short[2] == lines[2] and short[-1].split() == ["and", "2", "more"]


def test_one_warning_for_all_fits(small):
    with pytest.warns(ConvergenceWarning) as seen:
        select_ranks(small, [(1, 0), (1, 1)], SMALL, criterion="cv", n_folds=3, max_iter=1, tol=0)
    told = [w for w in seen if issubclass(w.category, ConvergenceWarning)]
    assert len(told) == 1 and told[0].filename == __file__
    assert str(told[0].message).startswith("of 8 fits, 8 did not converge")
    assert "(1, 0), (1, 1)" in str(told[0].message)


def test_warnings_turned_into_errors_come_at_the_end(small, counted):
    with warnings.catch_warnings(), pytest.raises(ConvergenceWarning, match="of 2 fits, 2 did"):
        warnings.simplefilter("error")
        select_ranks(small, [(1, 0), (1, 1)], SMALL, max_iter=1, tol=0)
    assert len(counted) == 2


def test_warnings_of_other_kinds_get_through(small, monkeypatch):
    def fit(*args, **options):
        warnings.warn("something else", UserWarning, stacklevel=2)
        return fit_factor_model(*args, **options)

    monkeypatch.setattr(rank_selection, "fit_factor_model", fit)
    with pytest.warns(UserWarning, match="something else"):
        select_ranks(small, [(1, 0)], SMALL)


def test_an_interrupted_fit_ends_the_search(small, monkeypatch):
    import dataclasses

    def fit(*args, **options):
        return dataclasses.replace(fit_factor_model(*args, **options), termination="interrupted")

    monkeypatch.setattr(rank_selection, "fit_factor_model", fit)
    with pytest.raises(KeyboardInterrupt):
        select_ranks(small, [(1, 0)], SMALL)


def test_progress_bar(small, capsys):
    select_ranks(small, [(1, 0), (1, 1)], SMALL, progress=True)
    assert "ranks: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [False, True])
def test_samples_are_read_once_for_all_ranks(missing, monkeypatch):
    """And the fits are those that `fit_factor_model` makes of the data."""
    opened, usual = [], rank_selection.open_source
    monkeypatch.setattr(rank_selection, "open_source",
                        lambda *args: opened.append(args) or usual(*args))
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 8)) + rng.standard_normal((60, 8))
    options = {"missing": "em"} if missing else {}
    if missing:
        Y[::7, 3] = np.nan
    chosen = select_ranks(Y, [1, 2, 3], random_state=0, **options)
    assert len(opened) == 1
    again = fit_factor_model(Y, chosen.ranks, **options)
    assert chosen.fit.loglik == pytest.approx(again.loglik, abs=1e-8)
    assert chosen.fit.n_samples == 60
