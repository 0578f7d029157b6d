"""What `select_ranks` refuses, and how it says so."""

import numpy as np
import pandas as pd
import pytest

from mlrops import Hierarchy, fit_factor_model, select_ranks
from mlrops.datasets import simulate_mlr

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

SMALL = Hierarchy(np.random.default_rng(5).permutation(12), [[0, 12], [0, 5, 12]])


@pytest.fixture(scope="module")
def small():
    return simulate_mlr(SMALL, (1, 1), 80, mean=3.0, random_state=1).Y


@pytest.mark.parametrize("options, error, message", [
    (dict(candidates=[(1, 1), (1, 2, 3)]), ValueError,
     r"candidates\[1\].*2 entries, one a level, got 3"),
    (dict(candidates=[1, 2]), ValueError, r"candidates\[0\].*2 entries, one a level"),
    (dict(candidates=[(1, -1)]), ValueError, r"candidates\[0\].*level 1.*non-negative"),
    (dict(candidates=[(1, 0.5)]), TypeError, r"candidates\[0\].*integer"),
    (dict(candidates=[(13, 0)]), ValueError, r"candidates\[0\].*hierarchy.n = 12"),
    (dict(candidates=[]), ValueError, "at least one rank vector"),
    (dict(candidates=[(1, 0)], total_rank=3), ValueError, "total_rank generate candidates"),
    (dict(total_rank=-1), ValueError, "total_rank must be non-negative, got -1"),
    (dict(total_rank=1.5), TypeError, "total_rank"),
    (dict(max_storage=-1), ValueError, "max_storage must be non-negative"),
    (dict(max_storage=11), ValueError, "the 12 entries of D, got 11"),
    (dict(max_storage=40, total_rank=2), ValueError, "not both"),
    (dict(max_rank=(1, 2, 3)), ValueError, "2 entries, one a level"),
    (dict(exact=True), ValueError, "needs total_rank or max_storage"),
    (dict(total_rank=9, max_rank=2, exact=True), ValueError, r"9 cannot be used up.*\(2, 2\), 4"),
    (dict(strategy="grid"), ValueError, "needs max_rank, total_rank or max_storage"),
    (dict(strategy="grid", max_rank=1, start=(0, 0)), ValueError, "start"),
    (dict(start=(3, 0), total_rank=2), ValueError, "start must lie within"),
    (dict(start=(3, 0), max_rank=2), ValueError, "start must lie within"),
    (dict(strategy="beam"), ValueError, "strategy must be one of 'greedy', 'grid', got 'beam'"),
    (dict(criterion="hqic"), ValueError, "criterion must be one of 'bic', 'aic', 'cv'"),
    (dict(criterion="cv", n_folds=81), ValueError, "81 folds need at least 81 samples, got 80"),
    (dict(criterion="cv", n_folds=1), ValueError, "n_folds must be at least 2"),
    (dict(criterion="cv", n_folds=2.0), TypeError, "n_folds"),
    (dict(criterion="cv", folds=[]), ValueError, "at least one pair"),
    (dict(criterion="cv", folds=[1, 2]), TypeError, "pairs"),
    (dict(criterion="cv", folds=3), TypeError, "pairs"),
    (dict(criterion="cv", folds=[([0, 1, 2], [80])]), ValueError, "fold 0 does not index 80"),
    (dict(criterion="cv", folds=[([0, 1, 2], [2, 3])]), ValueError, "fold 0 tests on 1 of the"),
    (dict(criterion="cv", folds=[([0], [2, 3])]), ValueError, "fold 0 needs 2 samples"),
    (dict(one_standard_error=True), ValueError, 'criterion="cv"'),
    (dict(criterion="cv", one_standard_error=True, folds=[(slice(60), slice(60, 80))]), ValueError,
     "2 folds or more"),
    (dict(checkpoint="x.npz"), ValueError, "checkpoint"),
    (dict(hierarchy="tree"), TypeError, "must be a Hierarchy"),
    (dict(no_such_option=1), TypeError, "no_such_option"),
])
def test_refuses(small, options, error, message):
    with pytest.raises(error, match=message):
        select_ranks(small, **{"hierarchy": SMALL, **options})


def test_refuses_an_operator_to_start_from(small):
    fit = fit_factor_model(small, (1, 0), SMALL)
    with pytest.raises(ValueError, match="init must not be an operator"):
        select_ranks(small, hierarchy=SMALL, init=fit.covariance)


def test_a_feature_constant_in_the_training_part_of_a_fold(small):
    Y = small.copy()
    Y[30:, 4] = 1.0  # varies in fold 0 of 3 only, where it is tested on
    with pytest.raises(ValueError, match=r"fold 0 cannot be fitted.*constant.*4.*fewer folds"):
        select_ranks(Y, [(1, 0)], SMALL, criterion="cv", folds=[(slice(30, 80), slice(30))])
    with pytest.raises(ValueError, match="fold 0") as caught:
        select_ranks(Y, [(1, 0)], SMALL, criterion="cv", n_folds=2, shuffle=False, refit=False,
                     folds=[(slice(40, 80), slice(40))])
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("Y, error, message", [
    (np.zeros(5), ValueError, "Y must be 2-d"),
    ("text", TypeError, "Y must be an array, DataFrame, sparse matrix or iterable of row chunks"),
    (None, TypeError, "Y must be numeric, got None"),
    ([np.ones((2, 3)), np.ones((1, 3))], ValueError,
     "Y must be an array, DataFrame or sparse matrix"),
])
def test_refuses_data_that_are_no_table(Y, error, message):
    with pytest.raises(error, match=message):
        select_ranks(Y)


# ---------------------------------------------------------------- the order of version 0.1


@pytest.mark.parametrize("tree", [
    SMALL, dict(zip(range(12), "aaaaabbbbbbb", strict=True)),
    pd.Series(list("aaaaabbbbbbb")), pd.DataFrame({"bundle": list("aaaaabbbbbbb")}),
], ids=["Hierarchy", "dict", "Series", "DataFrame"])
def test_a_tree_in_second_place_is_taken_with_a_warning(small, tree):
    new = select_ranks(small, [(1, 0), (0, 1)], tree)
    with pytest.warns(DeprecationWarning, match=r"is select_ranks\(data, candidates, hier") as seen:
        old = select_ranks(small, tree, [(1, 0), (0, 1)])
    assert old.table == new.table and seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="hierarchy"):
        assert select_ranks(small, tree, max_rank=1).ranks == select_ranks(
            small, hierarchy=tree, max_rank=1).ranks


@pytest.mark.parametrize("second, third", [
    (list("aaaaabbbbbbb"), [(1, 0), (1, 1)]), (np.repeat([0, 1], 6), [(1, 0), (1, 1)]),
    ([list("aaaaabbbbbbb")], None), (None, [(1, 0), (1, 1)]), (None, range(4)), (None, range(12)),
    ("tree", None), (None, "tree"),
])
def test_lists_that_may_be_either_are_refused(small, second, third):
    with pytest.raises((ValueError, TypeError), match="in the order data, candidates, hierarchy"):
        select_ranks(small, second, third)
