"""Imputation, conditioning and likelihood of what is observed, against dense normal formulas."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
import scipy.stats
from gaps import KINDS, at_random
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import PATHS, cases, close, computing, make_case, permuted_case

from mlrops import MLR, Hierarchy, check_operator, fit_factor_model
from mlrops.factor.conditional import condition, impute, loglik_samples
from mlrops.factor.estep.filling import ConditionalMap


def incomplete(case, N=30, kind=at_random, dtype=float):
    """A mean and samples with missing cells; the last sample shows nothing."""
    mean = case.rng.standard_normal(case.hierarchy.n)
    Y = case.A.sample(N, random_state=case.rng) + mean
    Y[kind(Y.shape, case.rng)] = np.nan
    Y[-1] = np.nan
    return mean.astype(dtype), Y.astype(dtype)


def dense_conditional(S, o):
    """(B, covariance) of the other features given those of a mask."""
    B = S[np.ix_(~o, o)] @ np.linalg.inv(S[np.ix_(o, o)])
    return B, S[np.ix_(~o, ~o)] - B @ S[np.ix_(o, ~o)]


def check_samples(case, mean, Y, tol=1e-9):
    S = case.dense
    found = loglik_samples(case.A, mean, Y)
    filled, std = impute(case.A, mean, Y, return_std=True)
    assert np.array_equal(impute(case.A, mean, Y), filled)
    assert found.shape == (len(Y),) and filled.shape == std.shape == Y.shape
    assert filled.dtype == std.dtype == Y.dtype
    for t, y in enumerate(Y):
        o = ~np.isnan(y)
        assert np.array_equal(filled[t, o], y[o]) and not std[t, o].any()
        expected = 0.0
        if o.any():
            expected = scipy.stats.multivariate_normal(mean[o], S[np.ix_(o, o)]).logpdf(y[o])
        assert found[t] == pytest.approx(expected, rel=tol, abs=tol)
        B, C = dense_conditional(S, o)
        center = mean[~o] + B @ (y[o] - mean[o])
        if center.size:
            assert np.abs(filled[t, ~o] - center).max() <= tol * (1 + np.abs(center).max())
        close(std[t, ~o], np.sqrt(np.diag(C)), tol)


@pytest.mark.slow
@settings(max_examples=40)
@given(case=cases(max_n=12, max_levels=4), kind=st.sampled_from(KINDS))
def test_samples_on_random_trees(case, kind):
    check_samples(case, *incomplete(case, 9, kind))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_missing_cells(kind):
    case = permuted_case()
    check_samples(case, *incomplete(case, kind=kind))


@pytest.mark.parametrize("path", PATHS)
def test_all_ways_of_computing_agree(path):
    with computing(path):
        case = permuted_case()
        check_samples(case, *incomplete(case))


@pytest.mark.slow
def test_single_precision():
    base = permuted_case()
    case = make_case(base.hierarchy, (2, 0, 3), 7, np.float32)
    check_samples(case, *incomplete(case, dtype=np.float32), 1e-4)


def test_likelihood_keeps_its_digits_where_variances_are_small():
    rng = np.random.default_rng(0)
    h, D = Hierarchy.balanced(12, [1, 3]), 10.0 ** rng.uniform(-12, -10, 12)
    A = MLR(h, [rng.standard_normal((12, 1)), rng.standard_normal((12, 1))], D)
    Y = A.sample(8, random_state=0)
    complete = -0.5 * (12 * np.log(2 * np.pi) + A.logdet() + A.inv_quad(Y.T))
    close(loglik_samples(A, np.zeros(12), Y), complete, 1e-9)


def test_no_samples():
    A = permuted_case().A
    empty = np.empty((0, 30))
    assert loglik_samples(A, np.zeros(30), empty).shape == (0,)
    assert [x.shape for x in impute(A, np.zeros(30), empty, return_std=True)] == [(0, 30)] * 2


# ---------------------------------------------------------------- condition


def check_condition(case, o, tol=1e-9):
    mean = case.rng.standard_normal(case.hierarchy.n)
    rest = condition(case.A, mean, o)
    B, C = dense_conditional(case.dense, o)
    assert np.array_equal(rest.observed, np.flatnonzero(o))
    assert np.array_equal(rest.missing, np.flatnonzero(~o))
    assert rest.mean_map.shape == B.shape and isinstance(rest.covariance, MLR)
    assert rest.covariance.ranks == case.A.ranks
    scale = max(np.abs(B).max(), 1)
    for x in (rest.mean_map.toarray(), rest.mean_map.T.toarray().T,
              (rest.mean_map.T.T @ np.eye(o.sum()))):
        assert np.abs(x - B).max() <= tol * scale
    close(rest.covariance.toarray(), C, tol)
    y = case.rng.standard_normal((4, o.sum()))
    expected = mean[~o] + (y - mean[o]) @ B.T
    assert np.abs(rest.mean(y) - expected).max() <= tol * (1 + np.abs(expected).max())
    assert np.abs(rest.mean(y[0]) - expected[0]).max() <= tol * (1 + np.abs(expected).max())


@settings(max_examples=40)
@given(case=cases(max_n=14), data=st.data())
def test_condition_on_random_trees(case, data):
    n = case.hierarchy.n
    if n > 1:
        o = np.zeros(n, bool)
        o[data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n - 1))]] = True
        check_condition(case, o)


@pytest.mark.parametrize("path", PATHS)
def test_condition_in_all_ways_of_computing(path):
    with computing(path):
        case = permuted_case()
        check_condition(case, case.rng.random(30) < 0.5)
        whole = np.zeros(30, bool)
        whole[case.hierarchy.features(2, 3)] = True  # all of a leaf
        check_condition(case, whole)
        check_condition(case, ~whole)


def test_condition_in_single_precision():
    case = make_case(permuted_case().hierarchy, (2, 0, 3), 7, np.float32)
    o = case.rng.random(30) < 0.5
    check_condition(case, o, 1e-4)
    rest = condition(case.A, np.zeros(30, np.float32), o)
    assert rest.mean_map.dtype == rest.covariance.dtype == np.float32


def test_condition_with_numbers_and_names():
    case = permuted_case()
    mean = case.rng.standard_normal(30)
    names = [f"gene {i}" for i in range(30)]
    numbers = np.array([17, 3, 8, -1])
    by_mask = condition(case.A, mean, np.isin(np.arange(30), [17, 3, 8, 29]))
    y = case.rng.standard_normal(4)
    for rest in (condition(case.A, mean, numbers),
                  condition(case.A, mean, ["gene 17", "gene 3", "gene 8", "gene 29"], names)):
        assert rest.observed.tolist() == [17, 3, 8, 29]
        assert np.array_equal(rest.missing, by_mask.missing)
        close(rest.mean(y), by_mask.mean(y[[1, 2, 0, 3]]))
        close(rest.mean_map.toarray(), by_mask.mean_map.toarray()[:, [2, 0, 1, 3]])
    assert "26 features given 4" in repr(rest)


def test_conditional_operators_are_good_citizens():
    case = permuted_case()
    rest = condition(case.A, np.zeros(30), case.rng.random(30) < 0.5)
    assert check_operator(rest.mean_map).passed
    assert check_operator(rest.covariance).passed
    copy = pickle.loads(pickle.dumps(rest.mean_map))
    assert np.array_equal(copy.toarray(), rest.mean_map.toarray())
    empty = rest.mean_map @ np.empty((rest.observed.size, 0))
    assert empty.shape == (rest.missing.size, 0)


@pytest.mark.parametrize("observed, error, message", [
    (np.ones(30, bool), ValueError, "leave out at least one feature.*30 of 30"),
    (np.zeros(30, bool), ValueError, "0 of 30"),
    ([], ValueError, "0 of 30"),
    (range(30), ValueError, "30 of 30"),
    (np.ones(29, bool), ValueError, r"mask of shape \(30,\), got \(29,\)"),
    ([1, 5, 1], ValueError, "distinct, got 1 more than once"),
    ([1, 30], IndexError, "0 to 29, got 30"),
    ([1.0, 2.0], ValueError, "1-d array of at least one integer"),
    (["a"], ValueError, "have none"),
])
def test_bad_observed(observed, error, message):
    with pytest.raises(error, match=message):
        condition(permuted_case().A, np.zeros(30), observed)


def test_unknown_names_and_values_of_another_length():
    A, names = permuted_case().A, [f"g{i}" for i in range(30)]
    with pytest.raises(ValueError, match="names of features, got h1, h2"):
        condition(A, np.zeros(30), ["g1", "h1", "h2"], names)
    rest = condition(A, np.zeros(30), ["g1", "g2"], names)
    with pytest.raises(ValueError, match="2 observed features"):
        rest.mean(np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        rest.mean([0.0, np.nan])


def test_conditioning_twice_is_conditioning_once():
    case = permuted_case()
    y, o = case.rng.standard_normal(30), np.arange(12)
    once = condition(case.A, np.zeros(30), o)
    first = condition(case.A, np.zeros(30), o[:7])
    second = condition(first.covariance, first.mean(y[:7]), np.arange(5))
    close(second.covariance.toarray(), once.covariance.toarray())
    close(second.mean(y[7:12]), once.mean(y[:12]))


# ---------------------------------------------------------------- restrict


@settings(max_examples=40)
@given(case=cases(max_n=14), data=st.data())
def test_restrict_is_the_principal_submatrix(case, data):
    n = case.hierarchy.n
    features = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    part = case.A.restrict(features)
    assert part.ranks == case.A.ranks and part.hierarchy.n == len(features)
    close(part.toarray(), case.dense[np.ix_(features, features)])
    rebuilt = Hierarchy(part.hierarchy.permutation, part.hierarchy.boundaries)  # checks it all
    assert rebuilt == part.hierarchy


def test_restrict_keeps_the_names_of_groups_that_stay():
    h = Hierarchy.from_labels(["x", "x", "y", "y"], ["a", "b", "c", "d"])
    part = MLR(h, [np.ones((4, 1))] * 3, np.ones(4)).restrict([3, 0])
    assert [part.hierarchy.names(level) for level in range(3)] == [None, ("x", "y"), ("a", "d")]
    assert part.hierarchy.labels(2).tolist() == [1, 0]


@pytest.mark.parametrize("features, error", [
    ([], ValueError), ([0, 0], ValueError), ([1, -3], ValueError), ([4], IndexError),
    ([[0]], ValueError), (np.array([True, False, True, True]), ValueError), ([0.5], ValueError)])
def test_restrict_refuses(features, error):
    A = MLR(Hierarchy.flat(4), [np.ones((4, 1))], np.ones(4))
    with pytest.raises(error, match="features"):
        A.restrict(features)


def test_a_map_between_some_of_the_features():
    case = permuted_case()
    observed, wanted = np.array([3, 9, 21]), np.array([7, 0])
    B = case.dense[np.ix_(wanted, observed)] @ np.linalg.inv(case.dense[np.ix_(observed, observed)])
    close(ConditionalMap(case.A, observed, wanted).toarray(), B)


# ---------------------------------------------------------------- of a fit


@pytest.fixture(scope="module")
def fitted():
    case = permuted_case()
    Y = case.A.sample(80, random_state=0) + 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_factor_model(Y, (2, 0, 3), case.hierarchy, max_iter=20)
    Y[at_random(Y.shape, case.rng)] = np.nan
    return fit, Y


def test_result_imputes_and_scores(fitted):
    fit, Y = fitted
    filled, std = fit.impute(Y, return_std=True)
    expected = impute(fit.covariance, fit.mean, Y, return_std=True)
    close(filled, expected[0], 1e-12)
    close(std, expected[1], 1e-12)
    close(fit.impute(Y), filled, 1e-12)
    assert np.isnan(Y).any()
    close(fit.score_samples(Y), loglik_samples(fit.covariance, fit.mean, Y), 1e-12)
    close(loglik_samples(fit.covariance, fit.mean, filled), fit.score_samples(filled), 1e-10)
    Y = Y.copy()
    Y[4, 11] = -np.inf
    for method in (fit.impute, fit.score_samples):
        with pytest.raises(ValueError, match="infinity.*feature 11"):
            method(Y)
        with pytest.raises(ValueError, match="infinity.*feature 11, 12"):
            method(np.where(np.arange(30) == 12, np.inf, Y))
        with pytest.raises(ValueError, match="2-d"):
            method(Y[0])
        with pytest.raises(ValueError, match="30 features"):
            method(Y[:, 1:])


def test_result_conditions(fitted):
    fit, _ = fitted
    rest = fit.condition([3, 1])
    B, C = dense_conditional(fit.covariance.toarray(), np.isin(np.arange(30), [1, 3]))
    close(rest.mean_map.toarray(), B[:, ::-1])
    close(rest.covariance.toarray(), C)
    named = dataclasses.replace(fit, feature_names=tuple(f"g{i}" for i in range(30)))
    assert named.condition(["g3", "g1"]).observed.tolist() == [3, 1]


def test_data_frames_come_back(fitted):
    pd = pytest.importorskip("pandas")
    fit, Y = fitted
    names = [f"g{i}" for i in range(30)]
    fit = dataclasses.replace(fit, feature_names=tuple(names))
    frame = pd.DataFrame(Y, index=pd.date_range("2020-01-01", periods=80), columns=names)
    for x, plain in zip(fit.impute(frame, return_std=True), fit.impute(Y, return_std=True),
                        strict=True):
        assert x.index.equals(frame.index) and list(x.columns) == names
        close(x.to_numpy(), plain, 1e-12)
    assert isinstance(fit.impute(frame), pd.DataFrame)
    close(fit.score_samples(frame), fit.score_samples(Y), 1e-14)
    turned = fit.impute(frame[names[::-1]])
    assert list(turned.columns) == names[::-1]
    pd.testing.assert_frame_equal(turned[names], fit.impute(frame))
