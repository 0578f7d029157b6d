"""Ranks for which the likelihood has no maximum: refused with the reason, or named."""

import warnings

import numpy as np
import pandas as pd
import pytest
from trees import close

from mlrops import ConvergenceWarning, Hierarchy, als_gls, fit_factor_model, select_ranks
from mlrops._common.convergence import UnboundedWarning
from mlrops.datasets import simulate_factor_model, simulate_sur
from mlrops.factor.criteria import degrees_of_freedom
from mlrops.factor.limits import too_few_samples, useful_ranks

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

FEW = simulate_factor_model(40, 1, n_samples=8, random_state=0).Y
MANY = simulate_factor_model(8, 1, n_samples=40, random_state=0).Y
TREE = Hierarchy.balanced(40, [1, 10])


def gaps(Y, share=0.1):
    return np.where(np.random.default_rng(0).random(Y.shape) < share, np.nan, Y)


def mixed(N, n):
    """Samples with a covariance that no few factors have."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, n)) @ rng.standard_normal((n, n))


def words(call, *args, **options):
    """What it returns, and the warnings of a likelihood without a maximum."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call(*args, **options)
    return found, [str(w.message) for w in caught if issubclass(w.category, UnboundedWarning)]


# ---------------------------------------------------------------- by the number of samples


@pytest.mark.parametrize("center", [True, False])
def test_as_many_factors_as_dimensions_run_off(center):
    """One factor less has a maximum; at the limit it goes on rising with the floor."""
    most = 8 - center - 1
    for rank, runs_off in ((most, False), (most + 1, True)):
        logliks = []
        for floor in (1e-7, 1e-9, 1e-11):
            fit, told = words(fit_factor_model, FEW, rank, center=center, variance_floor=floor)
            logliks.append(fit.loglik)
            assert bool(told) == runs_off, told
        rises = np.diff(logliks)
        assert (rises > 10).all() if runs_off else rises.max() < 5
    less = ", less one for the mean," if center else ""
    assert f"8 samples{less} carry {most} factors at most, and ranks ({most + 1},) give" in told[0]


def test_what_counts_as_a_sample():
    """Positive weights, cells, and groups of more features than there are dimensions."""
    h = Hierarchy.from_labels(np.repeat(["a", "b"], [3, 37]))
    assert too_few_samples(h, (0, 7), 8, True).endswith("37 features of group 1 of level 1")
    assert too_few_samples(h, (0, 6), 8, True) is None
    assert too_few_samples(h, (3, 4), 8, True) and too_few_samples(h, (7, 0), 8, True)
    assert too_few_samples(Hierarchy.flat(7), (7,), 8, True) is None  # every covariance is there
    assert too_few_samples(Hierarchy.flat(8), (7,), 8, True)
    weights = np.repeat([1.0, 0.0], 8)
    twice = np.concatenate([FEW, FEW + 1])
    empty = np.concatenate([FEW, np.full((5, 40), np.nan)])
    for data, options in ((twice, {"sample_weight": weights}), (empty, {"missing": "em"})):
        assert words(fit_factor_model, data, 7, **options)[1]
        with pytest.raises(ValueError, match=r"candidates\[1\]: the likelihood has no maximum: 8"):
            select_ranks(data, candidates=[1, 7], **options)


# ---------------------------------------------------------------- selection


def test_the_default_does_not_end_at_the_floor():
    """One factor, 40 features, 8 samples: not 7 with all variances at the floor."""
    selection = select_ranks(FEW)
    assert selection.ranks == (1,) and not selection.fit.boundary.size
    assert max(record.ranks for record in selection.table) < (4,)
    assert select_ranks(MANY).ranks == (1,)


@pytest.mark.parametrize("options", [
    {"max_rank": 20}, {"total_rank": 20}, {"strategy": "grid", "max_rank": 20},
    {"max_storage": 40 * 30}])
def test_budgets_are_bounded_by_the_samples(options):
    selection = select_ranks(FEW, max_iter=50, **options)
    assert max(record.ranks for record in selection.table) <= (6,)
    chosen, = (record for record in selection.table if record.ranks == selection.ranks)
    assert not chosen.refused


def test_listed_candidates_are_refused_with_the_reason():
    why = (r"candidates\[7\]: the likelihood has no maximum: 8 samples, less one for the mean,"
           r" carry 6 factors at most, and ranks \(7,\) give 7 to 40 features; lower the ranks")
    with pytest.raises(ValueError, match=why):
        select_ranks(FEW, candidates=range(8))
    with pytest.raises(ValueError, match="no split of a total rank of 7 can be reached"):
        select_ranks(FEW, total_rank=7, exact=True, max_iter=20)
    with pytest.raises(ValueError, match="start: the likelihood has no maximum"):
        select_ranks(FEW, max_rank=8, start=7)


def test_folds_count_their_training_parts():
    """Two folds of 8 samples: 4 to train on."""
    with pytest.raises(ValueError, match="training part of fold 0 the likelihood .* 4 samples"):
        select_ranks(FEW, candidates=[1, 3], criterion="cv", n_folds=2)
    selection = select_ranks(FEW, criterion="cv", n_folds=2, max_rank=5, max_iter=50)
    assert max(record.ranks for record in selection.table) <= (2,)


@pytest.mark.quick(1)
@pytest.mark.parametrize("data, options", [
    (FEW, {"hierarchy": TREE}), (gaps(FEW), {"missing": "em"}),
    (gaps(FEW), {"missing": "em", "hierarchy": TREE})])
def test_what_runs_off_is_not_chosen(data, options):
    """In trees and with missing cells it takes a fit to see it."""
    ranks = [(1, 0), (3, 2)] if "hierarchy" in options else [1, 5]
    selection = select_ranks(data, candidates=ranks, max_iter=300, **options)
    good, bad = selection.table
    assert selection.ranks == good.ranks and not good.refused
    assert "rises without limit as variances go to zero" in bad.refused
    assert np.isnan([bad.loglik, bad.aic, bad.bic]).all()
    assert "refused: no maximum" in selection.summary()
    assert selection.to_frame()["refused"].tolist() == ["", bad.refused]
    with pytest.raises(ValueError, match="1 candidate, and all of them refused: with ranks"):
        select_ranks(data, candidates=ranks[1:], max_iter=300, **options)


def test_the_default_takes_no_more_factors_than_a_group_has_a_model_for():
    """Ledermann's bound: as many parameters as covariances; a pair gets one factor."""
    for m in range(1, 40):
        h = Hierarchy.flat(m)
        most, = useful_ranks(h)
        covariances = m * (m + 1) // 2
        if m > 2:
            def parameters(r, m=m):
                return m * r - r * (r - 1) // 2 + m
            assert parameters(most) <= covariances < parameters(most + 1) or most == m - 1
        assert most == {1: 0, 2: 1}.get(m, most)
        assert degrees_of_freedom(h, most, mean=False) <= covariances
    Y = mixed(200, 6)
    assert max(record.ranks for record in select_ranks(Y, criterion="aic").table) <= (3,)


# ---------------------------------------------------------------- features that depend on others


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_duplicates_are_named(rank, missing):
    Y = np.random.default_rng(0).standard_normal((100, 6))
    Y = pd.DataFrame(np.column_stack([Y, 3 * Y[:, 0] + 1]), columns=list("abcdefg"))
    if missing:
        Y.iloc[::9, 3] = np.nan
    fit, told = words(fit_factor_model, Y, rank, missing="em" if missing else "raise")
    assert {0, 6} <= set(fit.boundary)
    assert "no maximum" in told[0] and "(Heywood cases: a" in told[0] and "g" in told[0]


def test_regular_heywood_cases_are_no_run_off():
    fit, told = words(fit_factor_model, FEW, 4)
    assert fit.boundary.size and not told
    Y = np.random.default_rng(0).standard_normal((100, 6))
    for floor in (0.3, 0.9):  # a floor above the maximum is no fault of the likelihood
        fit, told = words(fit_factor_model, Y, 2, variance_floor=floor)
        assert fit.boundary.size and not told


@pytest.mark.parametrize("floor", [0, 1e-13])
@pytest.mark.parametrize("rank", [1, 3])
def test_variances_that_vanish_are_named(floor, rank):
    Y = np.random.default_rng(0).standard_normal((100, 4))
    Y = pd.DataFrame(np.column_stack([Y, Y[:, 0]]), columns=list("abcde"))
    with pytest.raises(np.linalg.LinAlgError, match=r"D of 2 features \(a, e\) go to zero"):
        fit_factor_model(Y, rank, variance_floor=floor)


def test_no_floor_is_needed_where_there_is_a_maximum():
    Y = simulate_factor_model(10, 1, n_samples=200, random_state=0).Y
    close(fit_factor_model(Y, 1, variance_floor=0).covariance.D,
          fit_factor_model(Y, 1).covariance.D, 1e-9)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_more_factors_than_features(n):
    Y = mixed(100, n)
    S = np.cov(Y.T, bias=True).reshape(n, n)
    full = -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(S)[1] + n)
    for rank in (n, n + 1, 5 * n):
        fit, told = words(fit_factor_model, Y, rank)
        assert fit.loglik == pytest.approx(full, abs=1e-6) and not told


def test_regressions():
    sim = simulate_sur(8, 2, ranks=1, n_samples=60, random_state=0)
    Xs, Y = list(sim.Xs), sim.Y.copy()
    Y[:, 7], Xs[7] = Y[:, 0], Xs[0]
    for rank in (1, 3):
        assert "of 2 equations" in words(als_gls, Xs, Y, rank)[1][0] or rank == 3
        with pytest.raises(np.linalg.LinAlgError, match=r"D of 2 equations \(0, 7\) go to zero"):
            als_gls(Xs, Y, rank, variance_floor=0)
    assert issubclass(UnboundedWarning, ConvergenceWarning)
    assert not words(als_gls, sim.Xs, sim.Y, 1)[1]
