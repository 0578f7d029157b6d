"""Kinds of covariance of the coefficients of systems, against linearmodels and dense formulas."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from test_sur_inference import draw
from test_sur_variants import NAMES, stacked, variants
from trees import close, make_case

from mlrops import Dense, Hierarchy, als_gls
from mlrops.datasets import load_french, load_grunfeld
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.covariance import blocks_of, estimated
from mlrops.regression.sur.data import SURData
from mlrops.regression.sur.row_weights import automatic_bandwidth, kernel_weights

TREE = Hierarchy([3, 0, 5, 1, 4, 2], [[0, 6], [0, 2, 6], [0, 2, 4, 6]])


def gls(data, covariance, **options):
    return fit_system(data, None, None, SUROptions(**options), covariance=covariance)


# ---------------------------------------------------------------- linearmodels


def grunfeld():
    """Ten firms, one of them without its capital."""
    panel = load_grunfeld()
    Xs = [np.stack([np.ones(20), panel.value[:, j], panel.capital[:, j]], 1) for j in range(10)]
    Xs[3] = Xs[3][:, :2]
    return Xs, panel.invest[:, :10]


def french():
    """Thirty portfolios on a constant, the market, size, value and momentum; some without it."""
    returns = load_french()
    X = np.column_stack([np.ones(len(returns.factors)), returns.factors[:, :4]])
    assert returns.factor_names[:4] == ("MktRF", "SMB", "HML", "Mom")
    return [X if j % 3 else X[:, :4] for j in range(30)], returns.excess


OTHERS = {  # kind, options of ours and of theirs
    "unadjusted": ("unadjusted", {}, {}),
    "robust": ("robust", {"debiased": False}, {"cov_type": "robust"}),
    "robust debiased": ("robust", {}, {"cov_type": "robust", "debiased": True}),
    "clustered": ("clustered", {"debiased": False}, {"cov_type": "clustered"}),
    "groups debiased": ("clustered", {"group_debias": True},
                        {"cov_type": "clustered", "group_debias": True, "debiased": True}),
    **{f"{kernel} {bandwidth}": ("hac", {"kernel": kernel, "bandwidth": bandwidth},
                                 {"cov_type": "kernel", "kernel": kernel, "bandwidth": bandwidth,
                                  "debiased": True})
       for kernel in ("bartlett", "parzen", "qs") for bandwidth in (None, 0, 3.5)},
}


@cache
def pair(which):
    """A fit with a given Σ, and linearmodels' model with the same."""
    system = pytest.importorskip("linearmodels.system")
    pd = pytest.importorskip("pandas")
    Xs, Y = french() if "french" in which else grunfeld()
    weights = constraints = None
    equations = {str(j): {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)}
    if which == "weighted":
        weights = np.random.default_rng(0).uniform(0.4, 2, Y.shape)
        weights /= weights.mean(axis=0)
        for j, equation in enumerate(equations.values()):
            equation["weights"] = weights[:, j]
    P = sum(X.shape[1] for X in Xs)

    def model(**given):
        out = system.SUR(equations, **given)
        if "constrained" in which:
            R, q = np.zeros((2, P)), np.array([0.0, 0.3])
            R[0, [1, 5]] = 1, -1
            R[1, [2, 3]] = 1, 0.01
            out.add_constraints(pd.DataFrame(R, columns=out.param_names), pd.Series(q))
            return out, (R, q)
        return out, None

    # Their unadjusted errors assume that Σ is the covariance of least squares' residuals.
    sigma = np.asarray(model()[0].fit(method="gls", iterate=False).sigma)
    sigma = (sigma + sigma.T) / 2
    theirs, constraints = model(sigma=sigma)
    fit = gls(SURData(Xs, Y, weights=weights, constraints=constraints), Dense(sigma))
    return fit, theirs


# The kernels of linearmodels take a minute for 819 months and 150 coefficients.
FRENCH = "unadjusted", "robust", "robust debiased", "clustered", "groups debiased"


@pytest.mark.quick(8)
@pytest.mark.parametrize("which, name", [
    *((which, name) for which in ("grunfeld", "constrained", "weighted") for name in OTHERS),
    *((which, name) for which in ("french", "constrained french") for name in FRENCH),
    ("french", "bartlett 3.5")])
def test_linearmodels(which, name):
    fit, model = pair(which)
    kind, ours, options = OTHERS[name]
    if kind == "clustered":
        clusters = np.random.default_rng(0).integers(0, fit.nobs // 2, fit.nobs)
        ours, options = {**ours, "clusters": clusters}, {**options, "clusters": clusters}
    theirs = model.fit(method="gls", iterate=False, **{"cov_type": "unadjusted", **options})
    found = fit.with_cov(kind, **ours)
    errors = np.asarray(theirs.std_errors)
    np.testing.assert_allclose(np.concatenate(found.bse), errors, rtol=1e-6)
    scale = np.sqrt(np.outer(errors, errors))
    close(found.cov_params() / scale, np.asarray(theirs.cov) / scale, 1e-6)
    params = np.asarray(theirs.params)
    np.testing.assert_allclose(np.concatenate(fit.params), params, rtol=1e-8,
                               atol=1e-8 * errors.min())


# ---------------------------------------------------------------- dense formulas


def dense_parts(data, sigma, ridge, errors):
    """H and the scores (P, N) of the rows, from the stacked design."""
    X, _, V = stacked(data, sigma)
    seen = np.ones(data.Y.shape, bool) if data.observed is None else data.observed
    A = X.T @ np.linalg.solve(V, X)
    H = np.linalg.inv(A + ridge * np.eye(len(A)))
    if data.constraints is not None:
        R = data.constraints[0]
        H -= H @ R.T @ np.linalg.solve(R @ H @ R.T, R @ H)
    weighted = np.linalg.solve(V, errors[seen])
    row = np.repeat(np.arange(data.N), seen.sum(axis=1))
    scores = np.zeros((len(A), data.N))
    np.add.at(scores.T, row, X * weighted[:, None])
    return H, scores


def dense_kernel(kernel, m, N):
    """Weights of all pairs of rows."""
    lag = np.abs(np.subtract.outer(np.arange(N), np.arange(N))).astype(float)
    z = lag / (np.floor(m) + 1)
    if kernel == "bartlett":
        return np.maximum(1 - z, 0)
    if kernel == "parzen":
        return np.select([z <= 0.5, z <= 1], [1 - 6 * z**2 * (1 - z), 2 * (1 - z) ** 3], 0.0)
    z = 1.2 * np.pi * np.where(lag, lag, 1) / m
    return np.where(lag, 3 / z**2 * (np.sin(z) / z - np.cos(z)), 1)


CLUSTERS = np.random.default_rng(3).permutation(np.arange(40) % 13)
PAIRS = np.stack([CLUSTERS, np.random.default_rng(4).permutation(np.arange(40) % 17)], axis=1)


def dense_clusters(labels, group_debias=False):
    W = (labels[:, None] == labels).astype(float)
    g, N = len(set(labels.tolist())), len(labels)
    return W * g / (g - 1) * (N - 1) / N if group_debias else W


def dense_weights(kind, options):
    if kind == "robust":
        return np.eye(40)
    if kind == "hac":
        return dense_kernel(options["kernel"], options["bandwidth"], 40)
    labels, debias = np.asarray(options["clusters"]), options.get("group_debias", False)
    if labels.ndim == 1:
        return dense_clusters(labels, debias)
    both = labels[:, 0] * 100 + labels[:, 1]
    return sum(sign * dense_clusters(x, debias) for sign, x in
               ((1, labels[:, 0]), (1, labels[:, 1]), (-1, both)))


SANDWICHES = {
    "robust": ("robust", {}), "plain": ("robust", {"debiased": False}),
    "clustered": ("clustered", {"clusters": CLUSTERS}),
    "debiased": ("clustered", {"clusters": CLUSTERS, "group_debias": True, "debiased": False}),
    "two ways": ("clustered", {"clusters": PAIRS}),
    "two ways debiased": ("clustered", {"clusters": PAIRS, "group_debias": True}),
    "bartlett": ("hac", {"kernel": "bartlett", "bandwidth": 4}),
    "parzen": ("hac", {"kernel": "parzen", "bandwidth": 6.7}),
    "qs": ("hac", {"kernel": "qs", "bandwidth": 2.5}),
}


@pytest.mark.quick(8)
@pytest.mark.parametrize("name, ridge", [
    ("plain", 0.0), *((name, 0.0) for name in NAMES), ("plain", 3.0), ("all", 3.0)])
@pytest.mark.parametrize("sandwich", SANDWICHES)
def test_sandwiches_are_those_of_dense_scores(sandwich, name, ridge):
    kind, options = SANDWICHES[sandwich]
    case = make_case(TREE, (1, 1, 0), 0)
    data = draw(case, 40, widths=(2, 3, 1, 2, 3, 4))
    data = data if name == "plain" else variants(data)[name]
    fit = gls(data, case.A, beta_ridge=ridge).with_cov(kind, **options)
    H, S = dense_parts(data, case.dense, ridge, fit.resid)
    expected = H @ S @ dense_weights(kind, options) @ S.T @ H
    if options.get("debiased", True):
        n = data.nobs if data.observed is None else data.observed.sum(axis=0)
        scale = np.repeat(np.sqrt(n / (n - data.p)), data.p)
        expected = expected * np.outer(scale, scale)
    close(fit.cov_params(), expected, 1e-8)
    at = np.cumsum([0, *data.p])
    for block, i, j in zip(blocks_of(fit), at[:-1], at[1:], strict=True):
        close(block, expected[i:j, i:j], 1e-7 * np.abs(expected).max() / np.abs(block).max())
    close(np.concatenate(fit.bse) ** 2, expected.diagonal(), 1e-8)
    V = np.random.default_rng(0).standard_normal((at[-1], 2))
    close(estimated(fit).times(V), expected @ V, 1e-8)


@pytest.mark.parametrize("kernel", ["bartlett", "parzen", "qs"])
def test_kernel_weights(kernel):
    for m in (1, 3.9, 18):
        np.testing.assert_allclose(kernel_weights(kernel, m, 20), dense_kernel(kernel, m, 20)[0],
                                   atol=1e-14)
    assert kernel_weights(kernel, 0, 5).tolist() == [1, 0, 0, 0, 0]


def test_the_bandwidth_grows_with_persistence():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 400))
    slow = np.zeros((3, 400))
    for t in range(1, 400):
        slow[:, t] = 0.8 * slow[:, t - 1] + noise[:, t]
    for kernel in ("bartlett", "parzen", "qs"):
        short, long = (automatic_bandwidth(x, kernel) for x in (noise, slow))
        assert 0 < short < long < 60
        assert automatic_bandwidth(slow * [[1e-6], [1], [1e6]], kernel) == long
    with pytest.raises(ValueError, match="needs more rows, there are 3; give bandwidth="):
        automatic_bandwidth(noise[:, :3], "bartlett")
    with pytest.raises(ValueError, match="scores do not vary"):
        automatic_bandwidth(np.ones((2, 9)), "bartlett")


# ---------------------------------------------------------------- what they are for


@pytest.mark.slow
def test_they_see_what_the_model_does_not():
    """Ratios to the spread of estimates over draws: of each kind where its assumption holds."""
    rng = np.random.default_rng(0)
    K, N, draws = 3, 200, 300
    case = make_case(Hierarchy.flat(K), (1,), 1)
    x = np.abs(rng.standard_normal(N)) + 0.2
    walk = np.zeros(N)
    for t in range(1, N):
        walk[t] = 0.7 * walk[t - 1] + rng.standard_normal()
    groups = np.repeat(np.arange(40), 5)
    common = np.repeat(rng.standard_normal(40), 5)
    truth = {"robust": x, "hac": walk, "clustered": common}
    for kind, column in truth.items():
        estimates, found, plain = [], [], []
        for _ in range(draws):
            E = case.A.sample(N, random_state=rng)
            if kind == "robust":
                E = E * column[:, None]
            elif kind == "hac":
                for t in range(1, N):
                    E[t] += 0.7 * E[t - 1]
            else:
                E += case.A.sample(40, random_state=rng)[groups]
            data = SURData([np.stack([np.ones(N), column * (j + 1)], 1) for j in range(K)], E)
            fit = gls(data, case.A)
            options = {"clusters": groups} if kind == "clustered" else {}
            estimates.append(fit.params[0][1])
            found.append(fit.with_cov(kind, **options).bse[0][1])
            plain.append(fit.bse[0][1])
        spread = np.std(estimates)
        assert 0.75 < np.mean(found) / spread < 1.15
        assert np.mean(plain) / spread < 0.7 * np.mean(found) / spread


# ---------------------------------------------------------------- never NaN


def plain_fit():
    case = make_case(TREE, (1, 1, 0), 0)
    return gls(draw(case, 40), case.A)


def test_variances_that_are_not_positive_are_refused():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 3, 40), rng.integers(0, 3, 40)], axis=1)
    fit = plain_fit().with_cov("clustered", clusters=labels)
    with pytest.raises(ValueError, match=r"(is|are) not positive \(\d of equation \d.*: with"
                                         " two kinds of clusters"):
        _ = fit.bse
    with pytest.raises(ValueError, match="cluster by one of them"):
        fit.cov_params()


def test_scores_that_are_zero_are_refused():
    fit = plain_fit()
    dummy, pulse = np.repeat([1.0, 0], [8, 32]), np.eye(40)[0]
    clusters = np.repeat(np.arange(5), 8)
    for column, kind, options in ((dummy, "clustered", {"clusters": clusters}),
                                  (pulse, "robust", {}), (pulse, "hac", {"bandwidth": 0})):
        Xs = list(fit.data.Xs)
        Xs[4] = np.column_stack([Xs[4], column])
        found = gls(replace(fit.data, Xs=Xs), fit.covariance)
        assert np.isfinite(found.bse[4]).all()
        with pytest.raises(ValueError, match=r"scores of 1 coefficient are zero in every row or"
                                             r" cluster \(2 of equation 4\)"):
            _ = found.with_cov(kind, **options).bse


def test_labels_of_any_kind():
    pd = pytest.importorskip("pandas")
    fit = plain_fit()
    expected = fit.cov_params("clustered", clusters=CLUSTERS)
    names = np.array([f"year {c}" for c in CLUSTERS])
    for labels in (names, names.astype(object), CLUSTERS[:, None], CLUSTERS.tolist(),
                   CLUSTERS * 0.5, pd.Series(names), pd.DataFrame({"year": names})):
        np.testing.assert_allclose(fit.cov_params("clustered", clusters=labels), expected)
    own = np.arange(40)  # every row a cluster
    np.testing.assert_allclose(fit.cov_params("clustered", clusters=own), fit.cov_params("robust"))
    # Clusters within clusters: those that hold the others are all that counts.
    nested = np.stack([CLUSTERS, CLUSTERS // 2], axis=1)
    np.testing.assert_allclose(fit.cov_params("clustered", clusters=nested),
                               fit.cov_params("clustered", clusters=CLUSTERS // 2), atol=1e-12)


@pytest.mark.parametrize("kind, options, error, message", [
    ("clustered", {}, TypeError, "needs clusters="),
    ("clustered", {"clusters": CLUSTERS[1:]}, ValueError, r"shape \(40,\) or \(40, 2\), got \(39,"),
    ("clustered", {"clusters": np.zeros((40, 3))}, ValueError, r"got \(40, 3\)"),
    ("clustered", {"clusters": np.zeros(40)}, ValueError, "at least two of them, column 0"),
    ("clustered", {"clusters": np.r_[np.arange(39.0), np.nan]}, ValueError, "none for row 39"),
    ("clustered", {"clusters": [None, *"ab" * 19, "c"]}, ValueError, "none for row 0"),
    ("hac", {"kernel": "boxcar"}, ValueError, "one of bartlett, parzen, qs, got 'boxcar'"),
    ("hac", {"bandwidth": 40}, ValueError, "between 0 and the number of rows, 40, got 40"),
    ("hac", {"bandwidth": -1}, ValueError, "between 0"),
    ("hac", {"bandwidth": "wide"}, TypeError, "bandwidth must be a number"),
])
def test_bad_options(kind, options, error, message):
    with pytest.raises(error, match=message):
        _ = plain_fit().with_cov(kind, **options).bse


def test_clusters_are_matched_by_label():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    rows = pd.Index([f"r{i}" for i in range(40)])
    frames = [pd.DataFrame(rng.standard_normal((40, 2)), index=rows) for _ in range(3)]
    Y = pd.DataFrame(rng.standard_normal((40, 3)), index=rows)
    fit = als_gls(frames, Y, 0)
    clusters = pd.Series(np.arange(40) // 4, index=rows)
    plain = fit.with_cov("clustered", clusters=clusters.to_numpy()).bse
    for given in (clusters, clusters.sample(frac=1, random_state=0)):
        found = fit.with_cov("clustered", clusters=given).bse
        np.testing.assert_allclose(found, plain, rtol=1e-12)
    with pytest.raises(ValueError, match="clusters must have the labels .* none for 1 row .r39"):
        fit.with_cov("clustered", clusters=clusters[:-1])
