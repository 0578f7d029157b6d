"""The inverse-gamma prior on the variances D of a factor model."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model, load, save
from mlrops._common.stored import check_fields
from mlrops.datasets import simulate_mlr
from mlrops.factor.ascent import Ascent
from mlrops.factor.estep.sources import open_source
from mlrops.factor.likelihood import LikelihoodSurface
from mlrops.factor.point import Point
from mlrops.factor.prior import read_prior
from mlrops.factor.start import start

TREE = Hierarchy.from_labels(np.repeat([2, 0, 1], 4), root=True)
RANKS = (1, 1)
WEIGHTS = np.random.default_rng(5).integers(0, 4, 30).astype(float)


@pytest.fixture(scope="module")
def Y():
    return 3 * simulate_mlr(TREE, RANKS, 30, mean=2.0, random_state=1).Y


def gappy(Y):
    Y = Y.copy()
    Y[np.random.default_rng(2).random(Y.shape) < 0.2] = np.nan
    Y[:, 3][: len(Y) // 2] = np.nan  # features differ in how often they are seen
    return Y


# name → data and options that make a source of each kind.
KINDS = {
    "complete": lambda Y: (Y, {}),
    "weights": lambda Y: (Y, {"sample_weight": WEIGHTS}),
    "missing": lambda Y: (gappy(Y), {"missing": "em"}),
    "missing and weights": lambda Y: (gappy(Y), {"missing": "em", "sample_weight": WEIGHTS}),
    "chunks": lambda Y: ((lambda: iter(np.array_split(Y, 4))), {}),
    "chunks with gaps": lambda Y: ((lambda: iter(np.array_split(gappy(Y), 4))),
                                   {"missing": "em", "sample_weight": WEIGHTS}),
    "sparse": lambda Y: (scipy.sparse.csr_array(np.where(abs(Y) > 3, Y, 0)), {}),
}


def surface_of(Y, options=None, *, strength=3.0, variance=None, linear=False, tree=TREE):
    """A surface with a prior, and a point on it that is not its maximum."""
    given = {"center": True, "missing": "raise", "sample_weight": None} | (options or {})
    source, tree, names = open_source(Y, tree, given["center"], given["missing"],
                                      given["sample_weight"], None)
    prior = read_prior(strength, variance, source.n_samples, source.shares, source.variance, tree,
                       RANKS, names)
    surface = LikelihoodSurface(source, tree._in_tree_order(), RANKS, 1e-9 * source.variance,
                                linear=linear, prior=prior)
    F, D = start("random", tree, RANKS, source, 0)
    return surface, Point(F, D, source.mean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.3, 25.0])
def test_the_m_step_is_the_maximum(Y, kind, strength):
    """Of the expected log-likelihood of each feature less its penalty, sought by numbers."""
    surface, point = surface_of(*KINDS[kind](Y), strength=strength)
    state = Ascent(surface, point).state
    prior, raw = surface.prior, state.raw.D
    for i in range(TREE.n):
        def negative(log_d, i=i):
            d = np.exp(log_d)
            return (prior.counts[i] * (log_d + raw[i] / d)
                    + prior.strength * (log_d + prior.variance[i] / d))
        best = scipy.optimize.minimize_scalar(negative, bracket=np.log([raw[i], 2 * raw[i]]),
                                              tol=1e-12)
        np.testing.assert_allclose(state.image.D[i], np.exp(best.x), rtol=1e-6)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_objective(Y, kind, linear):
    surface, point = surface_of(*KINDS[kind](Y), linear=linear)
    g = Ascent(surface, point, jumps=None).state.gradient
    rng = np.random.default_rng(0)
    for _ in range(3):
        d = 1e-5 * rng.standard_normal(g.size)
        up, down = (surface.evaluate(surface.move(point, d, share, Point.empty_like(point)))
                    for share in (1.0, -1.0))
        rise = (up.objective - down.objective) / 2
        np.testing.assert_allclose(rise, d @ g, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("linear", [False, True])
def test_what_the_information_adds_is_the_curvature_where_the_prior_alone_rules(Y, linear):
    """At D = t, where the penalty is least, its second derivative is the one that scoring takes."""
    with_prior, point = surface_of(Y, linear=linear)
    point = point._replace(D=with_prior.prior.variance.copy())
    bare = LikelihoodSurface(with_prior.source, with_prior.tree, RANKS, with_prior.floor,
                             linear=True)
    surface = LikelihoodSurface(with_prior.source, with_prior.tree, RANKS, with_prior.floor,
                                linear=True, prior=with_prior.prior)
    v = np.zeros(surface.size)
    surface.parts(v)[1][:] = np.random.default_rng(0).standard_normal(TREE.n)
    added = surface.evaluate(point).information()(v) - bare.evaluate(point).information()(v)
    h = 1e-4 * surface.sd**2
    penalty = surface.prior.penalty
    second = [(penalty(point.D + h * e) - 2 * penalty(point.D) + penalty(point.D - h * e)) / 1e-8
              for e in np.eye(TREE.n)]
    np.testing.assert_allclose(surface.parts(added)[1], second * surface.parts(v)[1], rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["em", "bfgs", "scoring"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_climbs_to_the_same_place_and_never_falls(Y, kind, optimizer):
    data, options = KINDS[kind](Y)
    fit = fit_factor_model(data, RANKS, TREE, prior=5, optimizer=optimizer, max_iter=5000,
                           tol=0, gtol=1e-6, **options)
    other = fit_factor_model(data, RANKS, TREE, prior=5, tol=0, gtol=1e-6, **options)
    assert fit.termination == "gradient" and (np.diff(fit.objective_trace) >= 0).all()
    np.testing.assert_allclose(fit.objective, other.objective, atol=1e-8)
    np.testing.assert_allclose(fit.covariance.D, other.covariance.D, rtol=1e-3)


def test_objective_and_log_likelihood_are_told_apart(Y):
    seen = []
    fit = fit_factor_model(Y, RANKS, TREE, prior=4.0, prior_variance=2.5, callback=seen.append)
    D, N = fit.covariance.D, len(Y)
    penalty = 4 / (2 * N) * (np.log(D) + 2.5 / D).sum()
    np.testing.assert_allclose(fit.loglik - fit.objective, penalty, rtol=1e-9)
    np.testing.assert_allclose(fit.score(Y), fit.loglik)
    assert [i.objective for i in seen] == fit.objective_trace.tolist()
    assert [i.loglik for i in seen] == fit.loglik_trace.tolist()
    assert not np.allclose(fit.objective_trace, fit.loglik_trace)
    assert fit.prior == 4.0 and (fit.prior_variance == 2.5).all()
    np.testing.assert_allclose(fit.prior_share, 4 / 34)


def test_without_a_prior_they_are_the_same(Y):
    fit = fit_factor_model(Y, RANKS, TREE)
    assert fit.prior == 0 and fit.prior_variance is None and fit.prior_share is None
    assert fit.objective == fit.loglik and (fit.objective_trace == fit.loglik_trace).all()
    for none in (False, 0, 0.0, np.False_):
        assert fit_factor_model(Y, RANKS, TREE, prior=none).loglik == fit.loglik


@pytest.mark.parametrize("kind", KINDS)
def test_variances_keep_above_the_bound(Y, kind):
    """``D_i ≥ α t_i / (N_i + α)``, N_i the weight of what shows feature i, of mean 1 a sample."""
    data, options = KINDS[kind](Y)
    alpha = 5
    fit = fit_factor_model(data, (2, 3), TREE, prior=alpha, **options)
    dense = data.toarray() if kind == "sparse" else gappy(Y) if "missing" in options else Y
    weight = options.get("sample_weight", np.ones(len(Y)))
    weight = np.where(np.isnan(dense).all(axis=1), 0, weight)
    weight = weight * np.count_nonzero(weight) / weight.sum()
    counts = weight @ ~np.isnan(dense)
    mean = weight @ np.nan_to_num(dense) / counts
    own = weight @ np.nan_to_num(dense - mean) ** 2 / counts
    np.testing.assert_allclose(fit.prior_share, alpha / (counts + alpha), rtol=1e-12)
    np.testing.assert_allclose(fit.prior_variance, own, rtol=1e-9)
    ratio = fit.covariance.D / (fit.prior_share * own)
    assert ratio.min() >= 1 - 1e-9
    assert ratio.min() < 3  # the factors are many enough for the bound to be of use
    assert fit.boundary.size == 0


def test_true_is_one_pseudo_sample_a_factor(Y):
    fits = [fit_factor_model(Y, (2, 1), TREE, prior=prior) for prior in (True, np.True_, 3)]
    assert {fit.prior for fit in fits} == {3.0} and len({fit.loglik for fit in fits}) == 1
    assert fit_factor_model(Y, (0, 0), TREE, prior=True).prior == 0


def test_strong_and_weak(Y):
    """A strong prior leaves D at t, a weak one where the likelihood has it."""
    t = np.linspace(1, 3, TREE.n)
    strong = fit_factor_model(Y, RANKS, TREE, prior=1e9, prior_variance=t)
    np.testing.assert_allclose(strong.covariance.D, t, rtol=1e-6)
    weak, bare = (fit_factor_model(Y, RANKS, TREE, prior=prior, tol=0, gtol=1e-7)
                  for prior in (1e-9, None))
    np.testing.assert_allclose(weak.loglik, bare.loglik, atol=1e-4)
    np.testing.assert_allclose(weak.covariance.D, bare.covariance.D, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("optimizer", ["em", "bfgs", "scoring"])
@pytest.mark.parametrize("tol", [None, 1e-3])
def test_units_do_not_matter(Y, optimizer, tol):
    """Column by column, over 14 decades: the same updates, stopping rules included."""
    unit = 10.0 ** -np.random.default_rng(0).integers(-2, 12, TREE.n)
    fit, other = (fit_factor_model(data, RANKS, TREE, prior=True, optimizer=optimizer, tol=tol)
                  for data in (Y, Y * unit))
    assert fit.n_iter == other.n_iter and fit.prior == other.prior
    np.testing.assert_allclose(other.covariance.D / unit**2, fit.covariance.D, rtol=1e-6)
    np.testing.assert_allclose(other.prior_variance, fit.prior_variance * unit**2, rtol=1e-12)
    np.testing.assert_allclose(np.abs(other.covariance.F / unit[:, None]),
                               np.abs(fit.covariance.F), rtol=1e-5, atol=1e-7)
    shift = (1 + fit.prior / len(Y)) * np.log(unit).sum()
    np.testing.assert_allclose(other.objective + shift, fit.objective, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_measured_from_the_objective_of_independent_features(Y, kind):
    surface, point = surface_of(*KINDS[kind](Y))
    apart = point._replace(F=np.zeros_like(point.F), D=surface.source.variance.copy())
    np.testing.assert_allclose(surface.independent, surface.evaluate(apart).objective, rtol=1e-10)


def test_one_unit_for_all(Y):
    fit, other = (fit_factor_model(s * Y, RANKS, TREE, prior=2, prior_variance=4 * s**2)
                  for s in (1.0, 1000.0))
    np.testing.assert_allclose(other.covariance.D, 1e6 * fit.covariance.D, rtol=1e-7)
    np.testing.assert_allclose(other.covariance.F, 1e3 * fit.covariance.F, rtol=1e-5, atol=1e-4)


def test_single_precision(Y):
    fit = fit_factor_model(Y, RANKS, TREE, prior=True)
    single = fit_factor_model(Y.astype(np.float32), RANKS, TREE, prior=True)
    assert single.covariance.D.dtype == np.float32 and single.prior_share.dtype == np.float64
    np.testing.assert_allclose(single.covariance.D, fit.covariance.D, rtol=1e-3)
    np.testing.assert_allclose(single.objective, fit.objective, rtol=1e-5)


def test_weights_that_count_rows_twice_are_not_more_samples(Y):
    """Only ratios of weights count, for the prior as for the likelihood."""
    one, two = (fit_factor_model(Y, RANKS, TREE, prior=3, sample_weight=w)
                for w in (np.ones(len(Y)), np.full(len(Y), 2.0)))
    np.testing.assert_allclose(one.covariance.D, two.covariance.D, rtol=1e-10)


# ---------------------------------------------------------------- variances of one's own


def test_variances_are_matched_by_name(Y):
    names = [f"f{i}" for i in range(TREE.n)]
    frame, t = pd.DataFrame(Y, columns=names), np.linspace(1, 5, TREE.n)
    here = fit_factor_model(frame, RANKS, TREE, prior=3, prior_variance=t)
    backwards = pd.Series(t, index=names)[::-1]
    for given in (backwards, dict(backwards), {"unknown": 7.0, **backwards}):
        there = fit_factor_model(frame, RANKS, TREE, prior=3, prior_variance=given)
        np.testing.assert_array_equal(there.prior_variance, t)
        assert there.objective == here.objective


@pytest.mark.parametrize("prior, variance, message", [
    (True, {"f0": 1.0}, "prior_variance.*f1"),
    (True, [1.0, 2.0], r"prior_variance must be one number or have one for each of the 12"),
    (True, -1.0, "prior_variance must be positive, got -1"),
    (True, [1.0, 0.0] + 10 * [1.0], r"prior_variance must be positive.*1 feature: f1"),
    (True, np.nan, "prior_variance must be finite"),
    (True, np.ones((12, 1)), "prior_variance"),
    (None, 1.0, "prior_variance needs a prior"),
    (False, 1.0, "prior_variance needs a prior"),
    (-1, None, "prior must be finite and not negative, got -1"),
    (np.inf, None, "prior must be finite and not negative"),
    (np.nan, None, "prior must be finite and not negative"),
    ("auto", None, "prior must be None, True, a number or \"cv\", got 'auto'"),
    ([1.0], None, "prior must be None, True"),
    (1j, None, "prior must be None, True"),
])
def test_what_is_refused(Y, prior, variance, message):
    frame = pd.DataFrame(Y, columns=[f"f{i}" for i in range(TREE.n)])
    with pytest.raises((ValueError, TypeError), match=message):
        fit_factor_model(frame, RANKS, TREE, prior=prior, prior_variance=variance)


# ---------------------------------------------------------------- few samples


def test_more_factors_than_samples_have_a_maximum():
    Y = np.random.default_rng(0).standard_normal((6, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_factor_model(Y, 8, prior=True)
    assert fit.converged and fit.boundary.size == 0 and np.isfinite(fit.objective)


def test_the_floor_suggests_a_prior():
    Y = np.random.default_rng(0).standard_normal((40, 6))
    Y[:, 1] = Y[:, 0] + 1e-5 * Y[:, 1]
    with pytest.warns(ConvergenceWarning, match=r"prior=True"):
        fit_factor_model(Y, 2)
    Y = np.random.default_rng(0).standard_normal((6, 20))
    with pytest.warns(ConvergenceWarning, match=r"no maximum.*prior=True"):
        fit_factor_model(Y, 5)


# ---------------------------------------------------------------- files


def test_saved_and_loaded(Y, tmp_path):
    fit = fit_factor_model(Y, RANKS, TREE, prior="cv", prior_variance=2.0)
    save(tmp_path / "fit.mlr", fit)
    again = load(tmp_path / "fit.mlr")
    assert again.prior == fit.prior and again.prior_table == fit.prior_table
    assert again.prior_table[0].strength > again.prior_table[-1].strength
    np.testing.assert_array_equal(again.prior_variance, fit.prior_variance)
    np.testing.assert_array_equal(again.prior_share, fit.prior_share)
    np.testing.assert_array_equal(again.objective_trace, fit.objective_trace)
    assert again.summary() == fit.summary()


@pytest.mark.parametrize("change, message", [
    ({"prior": 0.0}, "prior_variance must be there with a prior"),
    ({"prior": np.nan}, "prior"),
    ({"prior_variance": np.ones(3)}, "prior_variance must hold 12 positive"),
    ({"prior_share": np.full(12, 1.5)}, "prior_share must hold 12 positive"),
    ({"prior_share": None}, "prior_share must be there"),
    ({"prior_scores": np.array([[3.0, 2.0, -1.0]])}, "prior_scores must hold"),
    ({"prior_scores": np.ones((1, 2))}, "prior_scores must hold"),
    ({"prior_scores": np.ones((1, 3))}, "not in prior_scores"),
    ({"objective_trace": np.ones(2)}, "objective_trace must hold"),
])
def test_files_that_contradict_themselves(Y, change, message):
    fit = fit_factor_model(Y, RANKS, TREE, prior=3.0)
    with pytest.raises(ValueError, match=message):
        check_fields(fit.to_fields() | change, fit.stored_fields)
        type(fit).from_fields(**fit.to_fields() | change)


def test_checkpoints_know_the_prior(Y, tmp_path):
    path = tmp_path / "check.mlr"
    t = np.linspace(1, 3, TREE.n)
    options = {"prior": 3.0, "prior_variance": t, "optimizer": "bfgs", "gtol": 1e-9, "tol": 0}

    def stop(iterate):
        if iterate.n_iter == 3:
            raise StopIteration

    whole = fit_factor_model(Y, RANKS, TREE, **options)
    fit_factor_model(Y, RANKS, TREE, **options, checkpoint=path, callback=stop)
    for other in ({"prior": 3.5}, {"prior_variance": t[::-1]}, {"prior": None,
                                                                 "prior_variance": None}):
        with pytest.raises(ValueError, match="checkpoint of another fit.*prior"):
            fit_factor_model(Y, RANKS, TREE, **options | other, checkpoint=path, resume=True)
    resumed = fit_factor_model(Y, RANKS, TREE, **options, checkpoint=path, resume=True)
    assert resumed.objective_trace.tolist() == whole.objective_trace.tolist()
    assert resumed.loglik_trace.tolist() == whole.loglik_trace.tolist()


# ---------------------------------------------------------------- what the summary says


def test_the_summary_of_a_prior(Y):
    fit = fit_factor_model(gappy(Y), RANKS, TREE, prior="cv", missing="em")
    text = fit.summary()
    low, high = fit.prior_share.min(), fit.prior_share.max()
    assert f"{low:.1%} to {high:.1%}" in text and high > low
    assert f"{fit.n_samples * fit.objective:,.2f}" in text
    assert f"{fit.n_samples * fit.loglik:,.2f}" in text
    for record in fit.prior_table:
        mark = "*" if record.strength == fit.prior else " "
        assert any(line.startswith(mark) and f" {record.strength:g} " in line
                   and f"{record.cv_mean:.6g}" in line for line in text.splitlines())
    one = fit_factor_model(Y, RANKS, TREE, prior=3).summary()
    assert "Prior, pseudo-samples" in one and f"{3 / 33:.1%}" in one and " to " not in one[:1400]
    bare = fit_factor_model(Y, (1, 0), TREE).summary()
    assert "rior" not in bare


def test_the_summary_suggests_a_prior_at_the_floor():
    Y = np.random.default_rng(0).standard_normal((40, 6))
    Y[:, 1] = Y[:, 0] + 1e-5 * Y[:, 1]
    with pytest.warns(ConvergenceWarning):
        fit = fit_factor_model(Y, 2)
    assert "prior=True" in fit.summary().replace("\n", " ")


def test_a_prior_that_rules_is_named():
    """Tiny uniquenesses of many samples, of two features only."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 1))
    Y = z + 0.5 * rng.standard_normal((300, 6))
    Y[:, 4:] = z + 0.02 * rng.standard_normal((300, 2))
    frame = pd.DataFrame(Y, columns=list("abcdef"))
    with pytest.warns(ConvergenceWarning, match=r"of 2 of 6 features \(e, f\).*prior=\"cv\""):
        fit = fit_factor_model(frame, 1, prior=True)
    said = fit.summary().replace("\n", " ")
    assert "Variances that the prior sets rather than the many samples" in said
    assert "2 of 6 (e, f)" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for few_or_weak in (fit_factor_model(frame[:25], 1, prior=True),
                            fit_factor_model(frame, 1, prior=0.01),
                            fit_factor_model(frame.iloc[:, :4], 1, prior=True)):
            assert "sets rather than" not in few_or_weak.summary().replace("\n", " ")
