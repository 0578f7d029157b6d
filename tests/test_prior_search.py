"""The strength of the prior by cross-validation, and ranks chosen with a prior."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model, select_ranks
from mlrops.datasets import load_french, simulate_factor_model, simulate_mlr
from mlrops.factor import prior_search
from mlrops.sklearn import FactorModel

TREE = Hierarchy.balanced(24, [1, 4])


@pytest.fixture(scope="module")
def sim():
    return simulate_mlr(TREE, (1, 1), 30, mean=2.0, random_state=1)


@pytest.fixture
def calls(monkeypatch):
    """The data and options of every fit that the search takes."""
    seen, quiet = [], prior_search._quiet

    def fit(function, Y, ranks, hierarchy, **options):
        found = quiet(function, Y, ranks, hierarchy, **options)
        seen.append((Y, options, found))
        return found

    monkeypatch.setattr(prior_search, "_quiet", fit)
    return seen


def test_the_table_is_what_fits_outside_contiguous_folds_score(sim, calls):
    fit = fit_factor_model(sim.Y, (1, 1), TREE, prior="cv")
    strengths = [record.strength for record in fit.prior_table]
    assert strengths == sorted(strengths, reverse=True) and strengths[-1] == 0
    k, folds = len(strengths), np.array_split(np.arange(30), 5)
    assert len(calls) == 5 * k
    scores = np.empty((5, k))
    for f, test in enumerate(folds):
        for i, (Y, options, found) in enumerate(calls[f * k : (f + 1) * k]):
            np.testing.assert_array_equal(Y, np.delete(sim.Y, test, axis=0))
            assert options["prior"] == strengths[i]
            # Warm starts go along the strengths of one fold, and begin as the user says.
            start = calls[f * k + i - 1][2].covariance if i else "principal_factor"
            assert options["init"] is start
            scores[f, i] = found.score(sim.Y[test])
    means = scores.mean(axis=0)
    np.testing.assert_allclose([record.cv_mean for record in fit.prior_table], means)
    less = scores[:, means.argmax()][:, None] - scores
    np.testing.assert_allclose([record.cv_se for record in fit.prior_table],
                               less.std(axis=0, ddof=1) / 5**0.5)
    within = [a for a, m, e in fit.prior_table if m >= means.max() - e]
    assert fit.prior == max(within)


def test_the_fit_is_that_of_the_strength_chosen(sim):
    chosen = fit_factor_model(sim.Y, (1, 1), TREE, prior="cv")
    given = fit_factor_model(sim.Y, (1, 1), TREE, prior=chosen.prior)
    assert given.objective_trace.tolist() == chosen.objective_trace.tolist()
    assert given.prior_table == () and given.prior_scores is None


def test_the_strongest_within_one_standard_error():
    table = prior_search.compare([4.0, 2.0, 1.0, 0.0], np.array(
        [[-9.0, -5.0, -4.0, -7.0], [-8.0, -3.8, -4.0, -9.0], [-9.0, -5.0, -5.0, -9.0]]))
    np.testing.assert_allclose(table[:, 1], [-26 / 3, -4.6, -13 / 3, -25 / 3])
    less = [[5, 4, 4], [1, -0.2, 0], [0, 0, 0], [3, 5, 4]]
    np.testing.assert_allclose(table[:, 2], np.std(less, axis=1, ddof=1) / 3**0.5)
    assert prior_search.choose(table) == 2.0
    table[1, 2] = 0.25
    assert prior_search.choose(table) == 1.0


def test_levels_of_folds_do_not_count():
    """A calm and a wild fold differ, but agree on the strength: the error is of differences."""
    table = prior_search.compare([2.0, 1.0], np.array([[-101.0, -100.0], [-11.2, -10.0]]))
    assert prior_search.choose(table) == 1.0


def test_no_prior_is_a_choice_only_where_the_likelihood_has_a_maximum(sim):
    few = fit_factor_model(sim.Y[:8], (3, 3), TREE, prior="cv")
    assert few.prior_table[-1].strength > 0 and few.prior > 0
    many = simulate_mlr(TREE, (1, 1), 100, noise=1e-3, random_state=0).Y
    bare = fit_factor_model(many, (1, 1), TREE, prior="cv", prior_variance=100.0)
    assert bare.prior == 0.0 and bare.prior_variance is None and bare.prior_table
    assert bare.objective == bare.loglik


def test_it_predicts_better_than_the_bare_maximum(sim):
    bare, true, chosen = (fit_factor_model(sim.Y[:12], (1, 1), TREE, prior=prior).expected_loglik(
        sim.covariance, sim.mean) for prior in (None, True, "cv"))
    assert true > bare + 1 and chosen > bare + 1


def test_weights_and_missing_cells(sim, calls):
    """Rows of weight 0 and rows without a cell are in no fold; weights go with their rows."""
    Y = sim.Y.copy()
    Y[np.random.default_rng(0).random(Y.shape) < 0.1] = np.nan
    Y[4] = np.nan
    w = np.random.default_rng(1).integers(1, 4, 30).astype(float)
    w[:10:3] = 0
    kept = np.flatnonzero((w > 0) & (np.arange(30) != 4))
    fit = fit_factor_model(Y, (1, 1), TREE, missing="em", sample_weight=w, prior="cv")
    k = len(fit.prior_table)
    total = np.zeros(k)
    for f, test in enumerate(np.array_split(kept, 5)):
        train = np.setdiff1d(kept, test)
        for i, (data, options, found) in enumerate(calls[f * k : (f + 1) * k]):
            np.testing.assert_array_equal(data, Y[train])
            np.testing.assert_array_equal(options["sample_weight"], w[train])
            total[i] += np.average(found.score_samples(Y[test]), weights=w[test]) / 5
    np.testing.assert_allclose([record.cv_mean for record in fit.prior_table], total)
    only = fit_factor_model(Y[kept], (1, 1), TREE, missing="em", sample_weight=w[kept], prior="cv")
    assert only.prior == fit.prior


def test_sparse_data_and_frames_are_as_arrays(sim):
    Y = np.where(np.abs(sim.Y) > 2, sim.Y, 0)
    fit = fit_factor_model(Y, (1, 1), TREE, prior="cv")
    sparse = fit_factor_model(scipy.sparse.csc_array(Y), (1, 1), TREE, prior="cv")
    np.testing.assert_allclose(sparse.prior_scores, fit.prior_scores, atol=1e-3)
    names = [f"f{i}" for i in range(24)]
    t = pd.Series(np.linspace(1, 2, 24), index=names)
    frame = fit_factor_model(pd.DataFrame(Y, columns=names), (1, 1), TREE, prior="cv",
                             prior_variance=t[::-1])
    plain = fit_factor_model(Y, (1, 1), TREE, prior="cv", prior_variance=t.to_numpy())
    np.testing.assert_array_equal(frame.prior_scores, plain.prior_scores)


@pytest.mark.parametrize("data, message", [
    (lambda Y, path: iter([Y]), 'prior="cv" holds out rows of data in memory, got chunks'),
    (lambda Y, path: np.memmap(path, Y.dtype, "w+", shape=Y.shape), "got data on disk"),
    (lambda Y, path: Y[:2], "needs 3 samples or more, got 2"),
    (lambda Y, path: np.where(np.arange(30)[:, None] < 6, Y, Y * (np.arange(24) != 5)),
     "24 samples outside fold 0, of 30, cannot be fitted.*5.*give the prior a strength"),
])
def test_what_cannot_be_held_out(sim, tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        fit_factor_model(data(sim.Y, tmp_path / "y.dat"), (1, 1), TREE, prior="cv")


def test_warnings_come_once(sim):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_factor_model(sim.Y, (1, 1), TREE, prior="cv", max_iter=2)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 2 and all(issubclass(w.category, ConvergenceWarning) for w in caught)
    assert "fits to parts of the samples" in texts[0] and "did not converge in 2" in texts[1]


def test_progress(sim, capsys):
    fit_factor_model(sim.Y, (1, 1), TREE, prior="cv", progress=True)
    shown = capsys.readouterr().err
    assert "prior: 100%" in shown and "45/45" in shown


def test_checkpoints(sim, tmp_path):
    """The search is run again, to the same strength, and the fit goes on."""
    options = {"prior": "cv", "optimizer": "bfgs"}

    def stop(iterate):
        if iterate.n_iter == 3:
            raise StopIteration

    whole = fit_factor_model(sim.Y, (1, 1), TREE, **options)
    path = tmp_path / "check.mlr"
    fit_factor_model(sim.Y, (1, 1), TREE, **options, checkpoint=path, callback=stop)
    resumed = fit_factor_model(sim.Y, (1, 1), TREE, **options, checkpoint=path, resume=True)
    assert resumed.objective_trace.tolist() == whole.objective_trace.tolist()
    np.testing.assert_array_equal(resumed.prior_scores, whole.prior_scores)


def test_estimator(sim):
    model = FactorModel((1, 1), TREE, prior="cv", prior_variance=1.0).fit(sim.Y)
    fit = fit_factor_model(sim.Y, (1, 1), TREE, prior="cv", prior_variance=1.0)
    assert model.result_.prior == fit.prior and model.loglik_ == fit.loglik
    assert FactorModel(prior=2.0).fit(sim.Y).result_.prior == 2.0


# ---------------------------------------------------------------- ranks with a prior


def test_ranks_of_few_samples():
    """French returns of 20 months: held-out months allow what the bare likelihood refuses."""
    data = load_french()
    months = 100 * data.excess[100:120]
    with pytest.raises(ValueError, match="has no maximum"):
        select_ranks(months, [(16, 2, 1)], data.hierarchy, criterion="cv", random_state=0)
    selection = select_ranks(months, [(16, 2, 1), (1, 1, 1), (0, 0, 0)], data.hierarchy,
                             criterion="cv", prior=True, random_state=0)
    assert len(selection.table) == 3 and selection.ranks == (1, 1, 1)
    assert not any(record.refused for record in selection.table)
    assert np.isfinite([record.cv_mean for record in selection.table]).all()


def test_what_is_generated_with_a_prior():
    """By held-out samples up to their dimensions, by BIC up to a quarter of them as ever."""
    Y = simulate_factor_model(40, 4, n_samples=10, noise=0.1, random_state=0).Y
    by_cv = select_ranks(Y, criterion="cv", prior=True, n_folds=5, random_state=0)
    assert 2 < by_cv.ranks[0] <= 7  # 8 samples in each training part, less one for the mean
    by_bic = select_ranks(Y, prior=True, random_state=0)
    assert max(record.ranks[0] for record in by_bic.table) <= 2
    wide = select_ranks(Y, max_rank=30, strategy="grid", criterion="cv", prior=True,
                        random_state=0)
    assert max(record.ranks[0] for record in wide.table) == 7


def test_a_prior_by_cross_validation_within_a_choice_of_ranks(sim, calls):
    selection = select_ranks(sim.Y, max_rank=1, hierarchy=TREE, prior="cv", criterion="cv",
                             n_folds=2, random_state=0)
    assert selection.ranks == (1, 1) and selection.fit.prior_table
    # No fit of the search starts from one that has seen what it holds out.
    starts = {options["init"] for _, options, _ in calls if type(options["init"]) is str}
    assert starts == {"principal_factor"}
    firsts = [options["init"] for _, options, _ in calls[:: len(selection.fit.prior_table)]]
    assert firsts == ["principal_factor"] * len(firsts)
