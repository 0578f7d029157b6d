"""Factor models from a covariance or correlation matrix: equal to those of the data behind it."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mlrops import ConvergenceWarning, Hierarchy, fit_factor_model, load, save
from mlrops.datasets import simulate_mlr

DATA = Path(__file__).parent / "data"
TREE = Hierarchy.balanced(20, [1, 2])
Y = simulate_mlr(TREE, (2, 1), 150, random_state=1).Y + 5
S = np.cov(Y.T, bias=True)
NAMES = [f"f{i}" for i in range(20)]


def close(a, b, tol=1e-8):
    """Equality to `tol`, in units of the features' standard deviations."""
    scale = np.sqrt(np.diagonal(b))
    assert (np.abs(a - b) <= tol * np.outer(scale, scale)).all()


def both(data=Y, cov=S, **options):
    """The fit to data and that to their covariance."""
    options = {"ranks": (2, 1), "hierarchy": TREE, "random_state": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (fit_factor_model(data, **options),
                fit_factor_model(covariance=cov, n_samples=len(data), **options))


@pytest.mark.parametrize("options", [
    {}, {"ranks": 3, "hierarchy": None}, {"optimizer": "em", "max_iter": 50},
    {"optimizer": "bfgs"}, {"init": "svd"}, {"init": "frobenius"}, {"init": "random"},
    {"n_init": 3}, {"prior": True}, {"prior": 4.0, "prior_variance": np.diagonal(S) / 2},
    {"variance_floor": 0.4}, {"tol": 1e-4}], ids=str)
def test_equals_the_fit_to_the_data(options):
    data, cov = both(**options)
    close(cov.covariance.toarray(), data.covariance.toarray())
    assert cov.loglik == pytest.approx(data.loglik, abs=1e-8)
    assert cov.bic == pytest.approx(data.bic, abs=1e-6)
    np.testing.assert_allclose(cov.loglik_trace, data.loglik_trace, rtol=0, atol=1e-7)
    for name in ("n_samples", "termination", "degrees_of_freedom", "optimizer", "prior"):
        assert getattr(cov, name) == getattr(data, name)
    np.testing.assert_array_equal(cov.boundary, data.boundary)


def test_units_do_not_matter():
    units = 2.0 ** np.arange(-30, 30, 3)
    options = {"ranks": (2, 1), "hierarchy": TREE, "n_samples": 150}
    fit = fit_factor_model(covariance=S, **options)
    scaled = fit_factor_model(covariance=S * np.outer(units, units), **options)
    close(scaled.correlation.toarray(), fit.correlation.toarray())


def test_about_zero():
    data, cov = both(cov=Y.T @ Y / len(Y), center=False)
    close(cov.covariance.toarray(), data.covariance.toarray())
    assert not cov.mean_is_estimated and cov.aic == pytest.approx(data.aic, abs=1e-6)


def test_other_divisors_and_correlations():
    data, cov = both(cov=np.cov(Y.T) * (len(Y) - 1) / len(Y))
    close(cov.covariance.toarray(), data.covariance.toarray())
    data, cov = both((Y - Y.mean(0)) / Y.std(0), np.corrcoef(Y.T))
    close(cov.covariance.toarray(), data.covariance.toarray())


def test_fewer_samples_than_features():
    """S of rank N - 1."""
    few = Y[:12]
    data, cov = both(few, np.cov(few.T, bias=True), prior=True)
    close(cov.covariance.toarray(), data.covariance.toarray())


def test_the_mean_is_zero_and_data_are_to_be_centred():
    data, cov = both()
    assert not cov.mean.any()
    centred = Y - Y.mean(0)
    assert cov.score(centred) == pytest.approx(cov.loglik, abs=1e-8)
    assert data.score(Y) == pytest.approx(cov.score(centred), abs=1e-8)
    for a, b in zip(data.scores(Y), cov.scores(centred), strict=True):
        np.testing.assert_allclose(np.abs(b), np.abs(a), atol=1e-6)


@pytest.mark.parametrize("frame", [pd.DataFrame, "rows in another order", pl.DataFrame])
def test_names(frame):
    named = pd.DataFrame(S, index=NAMES, columns=NAMES)
    if frame is pl.DataFrame:
        named = pl.DataFrame(S, schema=NAMES)
    elif frame is not pd.DataFrame:
        named = named.iloc[::-1]
    labels = dict(zip(NAMES[::-1], np.repeat(["b", "a"], 10), strict=True))
    fit = fit_factor_model(covariance=named, n_samples=150, ranks=(2, 1), hierarchy=labels)
    assert fit.feature_names == tuple(NAMES) and list(fit.uniquenesses.index) == NAMES
    data = fit_factor_model(pd.DataFrame(Y, columns=NAMES), (2, 1), labels)
    close(fit.covariance.toarray(), data.covariance.toarray())


def test_a_shuffled_tree():
    p = np.random.default_rng(0).permutation(20)
    labels = np.array(TREE.labels(1))[np.argsort(p)]
    data, cov = both(hierarchy=labels)
    close(cov.covariance.toarray(), data.covariance.toarray())


def test_kept_and_resumed(tmp_path):
    _, fit = both()
    save(tmp_path / "fit.npz", fit)
    assert load(tmp_path / "fit.npz").bic == fit.bic
    path = tmp_path / "state"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit_factor_model(covariance=S, n_samples=150, ranks=(2, 1), hierarchy=TREE, max_iter=2,
                         checkpoint=path)
    again = fit_factor_model(covariance=S, n_samples=150, ranks=(2, 1), hierarchy=TREE,
                             checkpoint=path, resume=True)
    np.testing.assert_array_equal(again.covariance.F, fit.covariance.F)


def test_published_uniquenesses():
    """R 4.2.2's factanal, whose optimizer was run to its end."""
    ability = np.genfromtxt(DATA / "ability_cov.csv", delimiter=",", skip_header=4)
    fit = fit_factor_model(covariance=ability, n_samples=112, ranks=2, gtol=1e-9, tol=0)
    np.testing.assert_allclose(fit.uniquenesses, [
        0.4552241772567, 0.5893321753771, 0.2181795496140, 0.7694214441743, 0.0524517512595,
        0.3335883343067], atol=1e-6)


def damaged(change):
    bad = S.copy()
    change(bad)
    return bad


def lopsided(x):
    x[0, 1] *= 2


def indefinite(x):
    x[2, 3] = x[3, 2] = 1.5 * np.sqrt(x[2, 2] * x[3, 3])


@pytest.mark.parametrize("cov, words", [
    (damaged(lopsided), "must be symmetric, got .* for features 0, 1"),
    (damaged(indefinite), "positive semidefinite, got .*negative eigenvalue.* features"),
    (damaged(lambda x: x.__setitem__((4, 4), 0)), "positive variances .*feature: 4"),
    (damaged(lambda x: x.__setitem__((4, 5), np.nan)), "finite, got NaN"),
    (S[:10], "must be square"), (S[:10, :10], "hierarchy's 20 features"),
    (pd.DataFrame(S, index=NAMES, columns=[*NAMES[:-1], "other"]), "other")])
def test_what_is_no_covariance(cov, words):
    with pytest.raises(ValueError, match=words):
        fit_factor_model(covariance=cov, n_samples=150, ranks=(2, 1), hierarchy=TREE)


@pytest.mark.parametrize("options, error, words", [
    ({"sample_weight": np.ones(150)}, ValueError, "sample_weight is about samples"),
    ({"missing": "em"}, ValueError, "missing is about samples"),
    ({"compress": True}, ValueError, "compress is about samples"),
    ({"prior": "cv"}, ValueError, 'prior="cv" holds out samples'),
    ({"Y": Y}, TypeError, "got both"),
    ({"n_samples": None}, TypeError, "needs n_samples="),
    ({"n_samples": 1}, ValueError, "n_samples must be at least 2"),
    ({"n_samples": 150.0}, TypeError, "n_samples must be an integer"),
    ({"covariance": None}, TypeError, "n_samples= goes with a covariance="),
    ({"covariance": None, "Y": Y}, TypeError, "n_samples= goes with a covariance="),
    ({"ranks": None}, ValueError, "ranks must have 2 entries")])
def test_refusals(options, error, words):
    given = {"covariance": S, "n_samples": 150, "ranks": (2, 1), "hierarchy": TREE} | options
    with pytest.raises(error, match=words):
        fit_factor_model(**given)


def test_rounding_is_no_asymmetry_and_no_negative_eigenvalue():
    rough = S * (1 + 1e-12 * np.random.default_rng(0).standard_normal(S.shape))
    close(fit_factor_model(covariance=rough, n_samples=150, ranks=2).covariance.toarray(),
          fit_factor_model(covariance=S, n_samples=150, ranks=2).covariance.toarray(), 1e-6)
    single = fit_factor_model(covariance=S.astype(np.float32), n_samples=150, ranks=2)
    close(single.covariance.toarray(), fit_factor_model(Y, 2).covariance.toarray(), 1e-3)


def test_correlations_passed_as_data_are_warned_about():
    R = np.corrcoef(Y.T)
    with pytest.warns(UserWarning, match="give it as covariance=") as caught:
        fit_factor_model(R, 1)
    assert [w.filename for w in caught if "covariance=" in str(w.message)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_factor_model(Y[:20], 1)  # square, and no correlations
