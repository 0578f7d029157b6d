"""`FactorModel`: scikit-learn's own checks, its tools, and the model against dense formulas."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from trees import close, spread

from mlrops import MLR, Hierarchy, fit_factor_model

pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_digits  # noqa: E402
from sklearn.decomposition import FactorAnalysis  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.feature_selection import VarianceThreshold  # noqa: E402
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from mlrops.sklearn import FactorModel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


@pytest.mark.quick(24)
@parametrize_with_checks([FactorModel(), FactorModel(missing="em"),
                          FactorModel(2, init="svd", optimizer="em", center=False, tol=1e-9)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


# ---------------------------------------------------------------- against FactorAnalysis


def digits():
    return VarianceThreshold().fit_transform(load_digits().data)


def tumours():
    return StandardScaler().fit_transform(load_breast_cancer().data)


@pytest.mark.quick(1)
@pytest.mark.parametrize("data, k", [(tumours, 3), (digits, 5)])
def test_one_level_is_factor_analysis(data, k):
    X = data()
    other = FactorAnalysis(k, svd_method="lapack", tol=1e-8, max_iter=2000).fit(X)
    model = FactorModel(k).fit(X)
    assert abs(model.score(X) - other.score(X)) < 1e-6
    assert model.loglik_ == pytest.approx(model.score(X), rel=1e-12)
    model.set_params(tol=1e-12, gtol=1e-7).fit(X)
    close(model.get_covariance(), other.get_covariance(), 1e-4)
    close(model.noise_variance_, other.noise_variance_, 1e-4)
    close(model.get_precision(), np.linalg.inv(model.get_covariance()), 1e-9)
    assert isinstance(model.components_, np.ndarray)
    close(model.components_.T @ model.components_, other.components_.T @ other.components_, 1e-4)
    Z, W = model.transform(X), other.transform(X)
    close(Z @ Z.T, W @ W.T, 1e-4)  # the same up to a rotation
    close(model.score_samples(X), other.score_samples(X), 1e-5)


# ---------------------------------------------------------------- trees, by value


def tree_data(N=80, dtype=np.float64, seed=0):
    """A permuted tree with a level of rank 0 and leaves smaller than the rank, and samples."""
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(20), [[0, 20], [0, 8, 20], [0, 1, 8, 11, 20]])
    ranks = (1, 0, 2)
    A = MLR(h, [rng.standard_normal((20, r)) for r in ranks], rng.uniform(0.5, 1.5, 20))
    X = A.sample(N, random_state=seed) + rng.standard_normal(20)
    return h, ranks, X.astype(dtype)


def dense(model, hierarchy):
    """Spread-out factors (n, s) and covariance (n, n) of a fitted model, in float64."""
    F = spread(hierarchy, [np.asarray(f, float) for f in model.covariance_.factors])
    return F, F @ F.T + np.diag(model.noise_variance_.astype(float))


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-9), (np.float32, 1e-3)])
@pytest.mark.parametrize("N", [80, 8])
def test_scores_on_a_tree(N, dtype, tol):
    h, ranks, X = tree_data(N, dtype)
    model = FactorModel(ranks, h, variance_floor=0.05)
    Z = model.fit_transform(X)
    F, S = dense(model, h)
    assert Z.dtype == model.get_covariance().dtype == dtype and Z.shape == (N, 9)
    close(Z, np.linalg.solve(S, (X - model.mean_).T.astype(float)).T @ F, tol)
    assert scipy.sparse.issparse(model.components_)
    assert model.components_.dtype == dtype and model.components_.nnz <= 20 * 3
    assert np.array_equal(model.components_.toarray(), F.T.astype(dtype))
    assert model.inverse_transform(Z).dtype == dtype
    close(model.inverse_transform(Z), Z @ F.T + model.mean_, tol)
    close(model.get_covariance(), S, tol)
    close(model.get_precision(), np.linalg.inv(S), tol)
    logpdf = scipy.stats.multivariate_normal(model.mean_.astype(float), S).logpdf(X)
    close(model.score_samples(X), logpdf, tol)
    assert type(model.score(X)) is float and model.score(X) == pytest.approx(logpdf.mean(), tol)


def test_the_columns_are_named():
    h, ranks, X = tree_data()
    names = FactorModel(ranks, h).fit(X).get_feature_names_out()
    assert list(names) == ["level0_factor0", *(f"level2_{g}_factor{k}" for g in range(4)
                                               for k in range(2))]
    assert list(FactorModel(2).fit(X).get_feature_names_out()) == ["factor0", "factor1"]
    sectors = Hierarchy.from_labels(["bank"] * 9 + ["tech"] * 11)
    names = FactorModel((1, 1), sectors).fit(X).get_feature_names_out()
    assert list(names) == ["level0_factor0", "level1_bank_factor0", "level1_tech_factor0"]
    # Two groups of the same name are told apart by their numbers.
    twins = Hierarchy.from_labels([0] * 9 + [1] * 11, ["x"] * 20, qualify=True)
    assert list(FactorModel((0, 0, 1), twins).fit(X).get_feature_names_out()) == [
        "level2_0_factor0", "level2_1_factor0"]


def test_no_factors():
    h, _, X = tree_data()
    for model in (FactorModel(0).fit(X), FactorModel((0, 0, 0), h).fit(X)):
        assert model.transform(X).shape == (80, 0) and model.components_.shape == (0, 20)
        close(model.inverse_transform(np.empty((3, 0))), np.tile(X.mean(axis=0), (3, 1)))
        close(model.get_covariance(), np.diag(X.var(axis=0)))


def test_the_options_reach_the_fit():
    h, ranks, X = tree_data()
    options = dict(init="random", n_init=2, optimizer="em", center=False, tol=1e-12, gtol=1e-12,
                   max_iter=30, variance_floor=0.6, random_state=3)
    model, fit = FactorModel(ranks, h, **options).fit(X), fit_factor_model(X, ranks, h, **options)
    close(model.result_.loglik_trace, fit.loglik_trace, 1e-9)
    close(model.get_covariance(), fit.covariance.toarray(), 1e-8)
    assert model.n_iter_ == fit.n_iter and not model.mean_.any()
    assert model.loglik_ == model.result_.loglik
    assert model.result_.boundary.size
    # Each one makes a difference: the second start is the better one, the others matter to both.
    single = clone(model).set_params(n_init=1).fit(X).get_covariance()
    assert not np.allclose(model.get_covariance(), single, rtol=1e-7, atol=0)
    for name, value in dict(init="frobenius", optimizer="bfgs", center=True, tol=0.5, gtol=0.9,
                            max_iter=29, variance_floor=0.1, random_state=4).items():
        other = clone(model).set_params(n_init=1, **{name: value}).fit(X)
        assert not np.allclose(other.get_covariance(), single, rtol=1e-7, atol=0), name


def test_seeds():
    _, _, X = tree_data()
    model = FactorModel(1, init="random", max_iter=1)

    def first(seed):
        return model.set_params(random_state=seed).fit(X).loglik_

    for make in (np.random.RandomState, np.random.default_rng):
        assert first(make(0)) == first(make(0)) != first(make(1))
    state = np.random.RandomState(0)
    assert first(state) != first(state)  # as everywhere in scikit-learn, fits go on drawing


def test_weights_are_repetitions():
    _, _, X = tree_data()
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    model = FactorModel(2, tol=1e-12, gtol=1e-7)
    weighted = clone(model).fit(X, sample_weight=weights)
    close(weighted.get_covariance(), model.fit(np.repeat(X, weights, axis=0)).get_covariance(),
          1e-6)
    assert not np.allclose(weighted.mean_, X.mean(axis=0), atol=1e-3)
    # The scaler has no weights: only the last step asked for them.
    pipe = make_pipeline(StandardScaler(), model).fit(X, factormodel__sample_weight=weights)
    close(pipe[-1].mean_, np.average(pipe[0].transform(X), axis=0, weights=weights))


# ---------------------------------------------------------------- missing cells


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-9), (np.float32, 1e-3)])
def test_scores_given_the_observed_cells(dtype, tol):
    h, ranks, X = tree_data(dtype=dtype)
    rng = np.random.default_rng(1)
    X[rng.random(X.shape) < 0.3] = np.nan
    X[7], X[9] = np.nan, 1
    options = dict(missing="em", variance_floor=0.05)
    model = FactorModel(ranks, h, **options).fit(X)
    close(model.mean_, fit_factor_model(X, ranks, h, **options).mean)
    F, S = dense(model, h)
    Z, loglik = np.zeros((len(X), 9)), np.zeros(len(X))
    for t, x in enumerate(X):
        o = np.flatnonzero(~np.isnan(x))
        if o.size:
            Z[t] = F[o].T @ np.linalg.solve(S[np.ix_(o, o)], x[o] - model.mean_[o])
            loglik[t] = scipy.stats.multivariate_normal(
                model.mean_[o].astype(float), S[np.ix_(o, o)]).logpdf(x[o])
    assert model.transform(X).dtype == dtype
    close(model.transform(X), Z, tol)
    close(model.score_samples(X), loglik, tol)
    counted_in = ~np.isnan(X).all(axis=1)  # all but the seventh
    assert model.score(X) == pytest.approx(loglik[counted_in].mean(), tol)


def test_missing_cells_are_refused_by_default():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(tree_data()[2]).rename(columns="f{}".format)
    gaps = X.copy()
    gaps.iloc[3, 4] = np.nan
    with pytest.raises(ValueError, match=r'1 column \(f4\).*missing="em"'):
        FactorModel().fit(gaps)
    model = FactorModel().fit(X)
    for method in (model.transform, model.score_samples, model.score):
        with pytest.raises(ValueError, match="NaN"):
            method(gaps)
    with pytest.raises(ValueError, match='must be "raise" or "em", got \'drop\''):
        FactorModel(missing="drop").fit(X)


# ---------------------------------------------------------------- scikit-learn's tools


@pytest.mark.slow
def test_grid_search_over_ranks():
    h, _, _ = tree_data()
    rng = np.random.default_rng(2)
    A = MLR(h, [rng.standard_normal((20, r)) for r in (1, 0, 1)], np.full(20, 0.5))
    X = A.sample(400, random_state=0)
    pipe = make_pipeline(StandardScaler(), FactorModel(hierarchy=h))
    grid = [(0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1), (2, 1, 2)]
    search = GridSearchCV(pipe, {"factormodel__ranks": grid}, cv=KFold(4)).fit(X)
    assert search.best_params_ == {"factormodel__ranks": (1, 0, 1)}
    assert search.score(X) == search.best_estimator_.score(X)
    # A score is the average log-likelihood of samples that were left out.
    scores = cross_val_score(search.best_estimator_, X, cv=KFold(4))
    assert scores.mean() == pytest.approx(search.best_score_, rel=1e-12)
    for score, (train, test) in zip(scores, KFold(4).split(X), strict=True):
        scale = StandardScaler().fit(X[train])
        fit = fit_factor_model(scale.transform(X[train]), (1, 0, 1), h)
        assert score == pytest.approx(fit.score(scale.transform(X[test])), rel=1e-9)


def test_clone_and_pickle():
    h, ranks, X = tree_data()
    model = FactorModel(ranks, h, missing="em").fit(X)
    twin = clone(model)
    assert twin.get_params() == model.get_params() and twin.hierarchy is h
    with pytest.raises(NotFittedError):
        twin.transform(X)
    for method in (twin.score, twin.score_samples, twin.inverse_transform):
        with pytest.raises(NotFittedError):
            method(X)
    for method in (twin.get_covariance, twin.get_precision, twin.get_feature_names_out):
        with pytest.raises(NotFittedError):
            method()
    assert not hasattr(twin, "components_")
    assert "ranks=(1, 0, 2)" in repr(twin) and "center" not in repr(twin)
    again = pickle.loads(pickle.dumps(model))
    close(again.transform(X), model.transform(X), 1e-12)
    assert again.score(X) == pytest.approx(model.score(X), rel=1e-12) and again.hierarchy == h


def test_frames():
    pd = pytest.importorskip("pandas")
    h, ranks, X = tree_data()
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(20)], index=np.arange(80) + 5)
    model = FactorModel(ranks, h).set_output(transform="pandas")
    Z = model.fit_transform(frame)
    assert Z.columns.equals(pd.Index(model.get_feature_names_out())) and Z.index.equals(frame.index)
    close(Z.to_numpy(), FactorModel(ranks, h).fit_transform(X), 1e-6)
    assert model.result_.feature_names == tuple(model.feature_names_in_) == tuple(frame.columns)
    assert list(model.result_.impute(frame).columns) == list(frame.columns)
    with pytest.raises(ValueError, match="same order"):
        model.transform(frame.iloc[:, ::-1])
    with pytest.raises(ValueError, match=r"1 constant feature \(f3\)"):
        FactorModel().fit(frame.assign(f3=1.0))
    model.fit(X)
    assert model.result_.feature_names is None and not hasattr(model, "feature_names_in_")
    # Two models side by side, each on features of its own.
    both = ColumnTransformer([("left", FactorModel(1), ["f0", "f1", "f2"]),
                              ("right", FactorModel(2), [f"f{i}" for i in range(3, 20)])])
    assert list(both.fit(frame).get_feature_names_out()) == [
        "left__factor0", "right__factor0", "right__factor1"]


def test_what_is_refused():
    h, ranks, X = tree_data()
    with pytest.raises(TypeError, match="[Ss]parse"):
        FactorModel().fit(scipy.sparse.csr_array(X))
    with pytest.raises(ValueError, match="20 features"):
        FactorModel(ranks, h).fit(X[:, :19])
    with pytest.raises(ValueError, match="3 entries, one a level"):
        FactorModel(1, h).fit(X)
    with pytest.raises(ValueError, match="1 sample"):
        FactorModel().fit(X[:1])
    with pytest.raises(ValueError, match="weights must have one entry for each of the 80"):
        FactorModel().fit(X, sample_weight=np.ones(79))
    with pytest.raises(ValueError, match="Z must have 9 factors"):
        FactorModel(ranks, h).fit(X).inverse_transform(X)


@pytest.mark.slow
def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import mlrops; import mlrops.sklearn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode and 'ImportError: mlrops.sklearn needs scikit-learn' in run.stderr
    assert 'pip install "mlrops[sklearn]"' in run.stderr
