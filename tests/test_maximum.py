"""`FactorModelResult.check`: maxima, fits stopped early, saddles, floors, names, refusals."""

import dataclasses
import warnings

import numpy as np
import pytest
import scipy.sparse
from trees import dense_mlr

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.datasets import load_french, simulate_mlr
from mlrops.factor.check import _Look
from mlrops.factor.limits import PLATEAU
from mlrops.factor.probe import Probe
from mlrops.factor.reopened import reopen

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

RNG = np.random.default_rng(0)
TREE = Hierarchy(RNG.permutation(40), [[0, 40], [0, 8, 20, 33, 40]])
Y = simulate_mlr(TREE, (2, 1), n_samples=300, random_state=1).Y + RNG.standard_normal(40)
GAPS = np.where(RNG.random(Y.shape) < 0.1, np.nan, Y)
WEIGHTS = RNG.uniform(0, 2, 300)
SPARSE = Y * (RNG.random(Y.shape) < 0.5)
FEW = simulate_mlr(Hierarchy.balanced(40, [1, 4]), (2, 1), n_samples=300, random_state=1).Y[:25]

KINDS = {
    "complete": (Y, {}, {}),
    "weights": (Y, {"sample_weight": WEIGHTS}, {"sample_weight": WEIGHTS}),
    "missing cells": (GAPS, {"missing": "em"}, {}),
    "missing cells and weights": (GAPS, {"missing": "em", "sample_weight": WEIGHTS},
                                  {"sample_weight": WEIGHTS}),
    "sparse": (scipy.sparse.csr_array(SPARSE), {}, {}),
    "prior": (Y, {"prior": True}, {}),
    "prior with variances": (GAPS, {"missing": "em", "prior": 3.0,
                                    "prior_variance": np.linspace(0.5, 2, 40)}, {}),
    "mean fixed": (Y, {"center": False}, {}),
    "single precision": (Y.astype("f4"), {}, {}),
    "single precision, missing cells": (GAPS.astype("f4") + 100, {"missing": "em"}, {}),
    "chunks": (lambda: iter([Y[:100], Y[100:]]), {}, {"missing": "raise"}),
    "chunks with missing cells": (lambda: iter([GAPS[:100], GAPS[100:]]), {"missing": "em"}, {}),
    "plain EM": (Y, {"optimizer": "em", "max_iter": 5000, "tol": 0.0}, {}),
    "BFGS": (Y, {"optimizer": "bfgs"}, {}),
}


def is_sound(found, fit):
    """What holds at every maximum."""
    assert found.is_maximum, found.verdict
    assert found.loglik == pytest.approx(fit.loglik, rel=1e-7, abs=1e-7)
    assert found.objective == pytest.approx(fit.objective_trace[-1], rel=1e-7, abs=1e-7)
    assert 0 <= found.expected_gain <= PLATEAU and found.ahead <= PLATEAU
    assert found.least_curvature > 0.01 and found.saddle_gain == found.zero_column_gain == 0
    assert len(found.curvatures) == 5
    for row in found.curvatures:
        assert row.differences > 0 and row.information > 0, row
        assert row.ratio == row.differences / row.information
    assert 0.8 < found.curvatures[4].ratio < 1.25  # a random one sees much of the data
    assert all(len(line) < 80 for line in str(found).splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_maxima(kind):
    data, options, again = KINDS[kind]
    fit = fit_factor_model(data, (2, 1), TREE, **options)
    found = fit.check(data, random_state=0, **again)
    is_sound(found, fit)
    assert found.verdict == "maximum" and not found.held and not found.zero_columns
    assert found.gradient_norm == pytest.approx(fit.gradient_norm, rel=0.5)
    assert found.others[0].same_covariance and abs(found.others[0].gain) < 1e-4


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("floor", [1e-6, 1e-3])
def test_heywood_cases_are_held(dtype, floor):
    data = FEW.astype(dtype)
    fit = fit_factor_model(data, (2, 1), Hierarchy.balanced(40, [1, 4]), variance_floor=floor)
    assert fit.boundary.size
    found = fit.check(data, random_state=0)
    is_sound(found, fit)
    assert [name for name, _ in found.held] == fit.boundary.tolist()
    assert all(slope < 0 for _, slope in found.held)
    text = " ".join(str(found).split())
    assert "at the floor (Heywood cases)" in text and "would have lower ones of" in text
    D = fit.covariance.D.astype(float)
    np.testing.assert_allclose(reopen(fit, data, None, "em").floor[
        np.isin(fit.covariance.hierarchy.permutation, fit.boundary)],
        np.sort(D[fit.boundary])[0], rtol=1 if fit.boundary.size > 1 else 1e-6)


def test_two_kinds_of_problem_without_a_rotation():
    """Ranks of zero, and one feature."""
    for data, ranks, verdict in ((Y[:, :5], 0, "maximum"), (Y[:, :1], 0, "maximum"),
                                 (Y[:, :1], 1, "flat: along a direction there is no curvature")):
        fit = fit_factor_model(data, ranks)
        assert fit.check(data, random_state=0).verdict.startswith(verdict)


def test_the_least_effort():
    fit = fit_factor_model(Y, (2, 1), TREE)
    found = fit.check(Y, n_directions=0, n_init=0)
    assert found.verdict == "maximum" and found.curvatures == found.others == ()
    assert "by differences" not in str(found)
    assert len(fit.check(Y, n_directions=2, n_init=0).curvatures) == 2
    assert [row.direction for row in fit.check(Y, n_directions=7, n_init=0).curvatures[4:]] == [
        "random 1", "random 2", "random 3"]


@pytest.mark.parametrize("max_iter", [0, 1, 3])
@pytest.mark.parametrize("kind", ["complete", "missing cells", "prior"])
def test_stopped_early(kind, max_iter):
    """The gain that is announced is within a factor 2 of that of going on."""
    data, options, again = KINDS[kind]
    options = {**options, "init": "random", "random_state": 3}
    fit = fit_factor_model(data, (2, 1), TREE, max_iter=max_iter, **options)
    end = fit_factor_model(data, (2, 1), TREE, init=fit.covariance, tol=0, gtol=1e-7,
                           **{k: v for k, v in options.items() if k in ("missing", "prior")})
    real = 300 * (end.objective_trace[-1] - fit.objective_trace[-1])
    found = fit.check(data, random_state=0, n_init=0, **again)
    assert real > 10 and not found.is_maximum
    assert "going on gains about" in found.verdict
    assert real / 2 < found.ahead < 2 * real


def test_the_expected_gain_near_a_maximum():
    """There ½ gᵀ I⁻¹ g by itself is what is really gained."""
    end = fit_factor_model(Y, (2, 1), TREE, tol=0, gtol=1e-9)
    A = end.covariance
    rng = np.random.default_rng(5)
    near = MLR.from_compact(A.hierarchy, A.ranks,
                            A.F + 0.02 * rng.standard_normal(A.F.shape), A.D)
    fit = fit_factor_model(Y, (2, 1), TREE, init=near, max_iter=0)
    real = 300 * (end.loglik - fit.loglik)
    found = fit.check(Y, n_init=0, random_state=0)
    assert real > 1 and found.expected_gain == pytest.approx(real, rel=0.3)
    assert found.ahead == pytest.approx(real, rel=0.01)


# ---------------------------------------------------------------- saddles


def with_factors(fit, ranks, F):
    """A result of the same covariance with other factors."""
    A = fit.covariance
    return dataclasses.replace(fit, covariance=MLR.from_compact(A.hierarchy, ranks, F, A.D))


@pytest.mark.parametrize("how", ["a zero column", "two equal columns"])
def test_saddles(how):
    """EM stays at a column of zeros, and two equal columns are one, turned."""
    low = fit_factor_model(Y, (1, 1), TREE, tol=0, gtol=1e-9)
    f, g = low.covariance.F[:, :1], low.covariance.F[:, 1:]
    pair = [f, 0 * f] if how == "a zero column" else [f / np.sqrt(2)] * 2
    fit = with_factors(low, (2, 1), np.concatenate([*pair, g], axis=1))
    found = fit.check(Y, random_state=0, n_init=0)
    assert found.gradient_norm < 1e-6 and found.expected_gain < 1e-3  # stationary
    end = fit_factor_model(Y, (2, 1), TREE)
    gain = 300 * (end.loglik - low.loglik)
    assert found.verdict.startswith("not a maximum: a saddle point")
    assert found.least_curvature < -0.1 and found.curvatures[0].differences < 0
    assert found.saddle_gain == pytest.approx(gain, rel=0.05)
    assert found.zero_columns == ((0, 0, 1),)
    assert found.zero_column_gain == pytest.approx(gain, rel=0.05)
    assert "level 0 group 0" in str(found)


def test_a_column_of_zeros_that_nobody_needs_is_no_saddle():
    noise = np.random.default_rng(1).standard_normal((2000, 10))
    low = fit_factor_model(noise, 0)
    fit = with_factors(low, (1,), np.zeros((10, 1)))
    found = fit.check(noise, random_state=0, n_init=0)
    assert found.zero_columns == ((0, 0, 1),)
    # Samples of white noise are not white: what a factor gains of them is real, and small.
    end = fit_factor_model(noise, 1, init="random", random_state=0, tol=0)
    assert found.zero_column_gain == pytest.approx(2000 * (end.loglik - low.loglik), rel=0.5)


def test_capped_columns_are_not_missed():
    """A group of one feature cannot use a second column, and nothing is said of it."""
    h = Hierarchy.from_boundaries([[0, 9], [0, 1, 5, 9]])
    data = simulate_mlr(h, (1, 2), n_samples=400, random_state=0).Y
    fit = fit_factor_model(data, (1, 1), h)
    assert not fit.capped or fit.capped[0][2] == 1
    fit = fit_factor_model(data, (1, 2), h)
    assert fit.capped
    found = fit.check(data, random_state=0, n_init=0)
    assert all(level != 1 or group != 0 or columns < 2
               for level, group, columns in found.zero_columns)


# ---------------------------------------------------------------- second derivatives


def objective(point, opened):
    h, ranks = opened.hierarchy, opened.ranks
    ends = np.cumsum([0, *ranks])
    F = h._scatter(point.F)
    S = dense_mlr(h, [F[:, a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)],
                  h._scatter(point.D))
    E = Y - h._scatter(point.mean)
    n = Y.shape[1]
    return -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(S)[1]
                   + np.trace(np.linalg.solve(S, E.T @ E / len(E))))


def test_curvatures_against_dense_second_differences():
    fit = fit_factor_model(Y, (2, 1), TREE)
    opened = reopen(fit, Y, None, "em")
    probe = Probe(opened.state(), np.random.default_rng(0))
    surface = probe.state.surface
    for d in (probe.random(), probe.extremes(probe.hessian, 12).directions[0]):
        h = 1e-3 / probe.size(d)
        up, here, down = (objective(probe.moved(surface, d, s), opened) for s in (h, 0, -h))
        assert -(up - 2 * here + down) / h**2 == pytest.approx(d @ probe.hessian(d), rel=1e-3)


def test_directions_do_not_rotate():
    """They are orthogonal to rotations in EM's metric."""
    fit = fit_factor_model(Y, (2, 1), TREE)
    probe = Probe(reopen(fit, Y, None, "em").state(), np.random.default_rng(0))
    surface = probe.state.surface
    turn = np.zeros(surface.size)
    F, _, _ = surface.parts(turn)
    F[:, 0], F[:, 1] = -probe.state.point.F[:, 1], probe.state.point.F[:, 0]
    F /= surface.sd[:, None]
    assert abs(probe._admitted(probe._noise()) @ turn) < 1e-9
    assert np.abs(probe.hessian(turn)).max() < 1e-4  # they change nothing
    assert np.abs(probe.information(turn)).max() < 1e-10
    few, many = (probe.extremes(probe.information, k).values for k in (10, 60))
    assert 0 < many[0] <= few[0] and few[-1] <= many[-1] * (1 + 1e-9)


def test_a_wrong_sign_would_be_seen(monkeypatch):
    """With curvatures of the wrong sign the tests above are red."""
    hessian = Probe.hessian
    monkeypatch.setattr(Probe, "hessian", lambda self, d: -hessian(self, d))
    fit = fit_factor_model(Y, (2, 1), TREE)
    found = fit.check(Y, random_state=0, n_init=0)
    assert found.least_curvature < 0 and found.curvatures[4].ratio < 0
    with pytest.raises(AssertionError):
        is_sound(found, fit)


# ---------------------------------------------------------------- other starts


def test_another_start_may_be_higher():
    from mlrops.datasets import load_french

    data = load_french()
    R = 100 * data.excess[:60]
    fits = [fit_factor_model(R, (4, 1, 1), data.hierarchy, init="random", random_state=seed)
            for seed in range(4)]
    worst, best = min(fits, key=lambda f: f.loglik), max(fits, key=lambda f: f.loglik)
    assert 60 * (best.loglik - worst.loglik) > PLATEAU
    found = worst.check(R, n_init=3, random_state=0, n_directions=0)
    gains = [start.gain for start in found.others]
    assert 60 * max(gains) > PLATEAU
    assert found.verdict.startswith("maximum, but not the highest: another start ends")
    assert found.others[int(np.argmax(gains))].divergence > 0
    found = best.check(R, n_init=1, random_state=0, n_directions=0)
    assert found.is_maximum


def test_the_same_seed_gives_the_same_check():
    fit = fit_factor_model(Y, (2, 1), TREE)
    assert fit.check(Y, random_state=4) == fit.check(Y, random_state=4)
    a, b = (fit.check(Y, random_state=s).curvatures[4] for s in (4, 5))
    assert a != b


# ---------------------------------------------------------------- names and refusals


def named_fit():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(Y, columns=[f"item {i}" for i in range(40)])
    return fit_factor_model(frame, (2, 1), TREE, max_iter=2, init="random", random_state=0), frame


def test_features_by_name_in_any_order():
    fit, frame = named_fit()
    found = fit.check(frame, random_state=0, n_init=0)
    assert found.largest[0] in frame.columns and found.largest[1] in ("level 0", "level 1", "D")
    assert str(found.largest[0]) in str(found)
    turned = fit.check(frame[frame.columns[::-1]], random_state=0, n_init=0)
    assert turned.largest == found.largest
    assert turned.objective == pytest.approx(found.objective, rel=1e-12)
    assert turned.expected_gain == pytest.approx(found.expected_gain, rel=1e-6)
    # An array is in the order of the fit.
    assert fit.check(Y, random_state=0, n_init=0).largest == found.largest


def test_held_variances_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FEW, columns=[f"item {i}" for i in range(40)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_factor_model(frame, (2, 1), Hierarchy.balanced(40, [1, 4]))
    found = fit.check(frame[frame.columns[::-1]], random_state=0, n_init=0)
    assert {name for name, _ in found.held} == {frame.columns[i] for i in fit.boundary}


def test_refusals():
    fit, frame = named_fit()
    plain = fit_factor_model(Y, (2, 1), TREE, max_iter=2)
    with pytest.raises(ValueError, match="39"):
        fit.check(Y[:, :39])
    with pytest.raises(ValueError, match="item 7"):
        fit.check(frame.rename(columns={"item 7": "another"}))
    with pytest.raises(ValueError, match="the fit has none"):
        plain.check(frame)
    with pytest.raises(ValueError, match="300 samples of positive weight, Y has 299"):
        fit.check(frame[1:])
    with pytest.raises(ValueError, match="give the data that it was made from"):
        fit.check(frame + 0.5 * np.random.default_rng(0).standard_normal(frame.shape))
    with pytest.raises(ValueError, match="with the same sample_weight"):
        fit.check(frame, sample_weight=WEIGHTS)
    with pytest.raises(ValueError, match="missing cell"):
        plain.check(GAPS, missing="raise")
    with pytest.raises(ValueError, match="n_init"):
        fit.check(frame, n_init=-1)
    with pytest.raises(ValueError, match="n_directions"):
        fit.check(frame, n_directions=-1)


def test_a_likelihood_without_a_maximum_is_named():
    data = Y[:4, :20]
    fit = fit_factor_model(data, 6)
    found = fit.check(data, random_state=0, n_init=0, n_directions=0)
    assert "the likelihood has no maximum" in found.verdict and not found.is_maximum


def test_the_fit_is_left_alone():
    fit = fit_factor_model(Y, (2, 1), TREE, max_iter=3)
    F, D = fit.covariance.F.copy(), fit.covariance.D.copy()
    opened = reopen(fit, Y, None, "em")
    state = opened.state()
    before = [x.copy() for x in opened.point]
    _Look(opened, state, Probe(state, np.random.default_rng(0)), False).ahead()
    assert all((a == b).all() for a, b in zip(opened.point, before, strict=True))
    assert (fit.covariance.F == F).all() and (fit.covariance.D == D).all()


def test_columns_that_fade_promise_nothing():
    """A prior makes columns fade: the information knows no curvature of them, differences do."""
    data = load_french()
    Y, h = 100 * data.excess[:60], data.hierarchy
    fit = fit_factor_model(Y, (2, 1, 1), h, prior=8.0)
    found = fit.check(Y, n_init=0, random_state=0)
    more = fit_factor_model(Y, (2, 1, 1), h, prior=8.0, init=fit.covariance, tol=0, gtol=1e-7)
    assert len(Y) * (more.objective_trace[-1] - fit.objective_trace[-1]) < PLATEAU
    assert found.verdict == "maximum" and max(found.expected_gain, found.ahead) < PLATEAU
