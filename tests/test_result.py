"""What a fitted factor model can do, by value against dense formulas."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import cases, close, dense_mlr, make_case, permuted_case, spread

import mlrops.operators.mlr_inverse as mlr_inverse
from mlrops import (
    MLR,
    Dense,
    Diagonal,
    FactorModelResult,
    Hierarchy,
    Identity,
    LowRankPlusDiagonal,
    StructuredOperator,
    fit_factor_model,
)
from mlrops.datasets import simulate_mlr
from mlrops.factor.criteria import degrees_of_freedom

DTYPES = pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-9), (np.float32, 2e-4)])


def result_of(covariance, mean=None, **fields):
    """A result as a fit would return it, around a covariance."""
    mean = np.zeros(covariance.shape[0], covariance.dtype) if mean is None else mean
    values = {"loglik": -1.5, "loglik_trace": np.array([-2.0, -1.5]), "n_iter": 1,
              "converged": True, "termination": "loglik", "boundary": np.array([], int),
              "n_samples": 100}
    return FactorModelResult(covariance, mean, **{**values, **fields})


def example(dtype=np.float64):
    """(case, result) on a permuted tree with two roots, a level of rank 0 and a nonzero mean."""
    c = permuted_case()
    c = make_case(c.hierarchy, (2, 0, 3), 6, dtype)
    return c, result_of(c.A, c.rng.standard_normal(c.hierarchy.n).astype(dtype))


def by_group(Z, hierarchy, ranks):
    """Scores (s, N) in the order of `spread` as one array (N, p_l, r_l) a level."""
    edges = np.cumsum([p * r for p, r in zip(hierarchy.group_counts, ranks, strict=True)])
    blocks = np.split(Z, edges[:-1])
    return [block.reshape(p, r, Z.shape[1]).transpose(2, 0, 1)
            for block, p, r in zip(blocks, hierarchy.group_counts, ranks, strict=True)]


def diagonal_blocks(M, hierarchy, ranks):
    """The (p_l, r_l, r_l) diagonal blocks of an s×s matrix, a level at a time."""
    out, at = [], 0
    for p, r in zip(hierarchy.group_counts, ranks, strict=True):
        out.append(np.array([M[at + g * r:][:r, at + g * r:][:, :r] for g in range(p)]).reshape(
            p, r, r))
        at += p * r
    return out


# ---------------------------------------------------------------- scores


@settings(max_examples=60, deadline=None)
@given(case=cases(), N=st.integers(0, 3))
def test_posterior_scores_on_random_trees(case, N):
    h, ranks = case.hierarchy, case.A.ranks
    fit = result_of(case.A, case.rng.standard_normal(h.n))
    Y = case.rng.standard_normal((N, h.n))
    S = spread(h, case.factors).reshape(h.n, -1)
    C = np.linalg.inv(np.eye(S.shape[1]) + S.T / case.D @ S)
    Z = C @ (S.T / case.D) @ (Y - fit.mean).T
    means, covs = fit.scores(Y, covariance=True)
    assert len(means) == len(covs) == h.n_levels
    for level, (z, cov) in enumerate(zip(by_group(Z, h, ranks), diagonal_blocks(C, h, ranks),
                                         strict=True)):
        assert means[level].shape == z.shape
        np.testing.assert_allclose(means[level], z, atol=1e-9)
        np.testing.assert_allclose(covs[level], cov, atol=1e-9)
        np.testing.assert_allclose(fit.scores(Y, level), means[level], atol=1e-12)


@pytest.mark.quick(1)
@DTYPES
def test_bartlett_scores_are_weighted_least_squares(dtype, tol):
    h = Hierarchy(np.random.default_rng(1).permutation(60), [[0, 40, 60], [0, 9, 40, 60],
                                                             [0, 9, 20, 30, 40, 52, 60]])
    c = make_case(h, (2, 0, 3), 2, dtype)
    fit = result_of(c.A, np.linspace(-1, 1, 60).astype(dtype))
    Y = c.rng.standard_normal((5, 60)).astype(dtype)
    S, w = spread(h, c.factors).astype(float), 1 / np.sqrt(c.D.astype(float))
    Z = np.linalg.lstsq(S * w[:, None], ((Y - fit.mean) * w).T, rcond=None)[0]
    C = np.linalg.inv(S.T * np.square(w) @ S)
    means, covs = fit.scores(Y, covariance=True, method="bartlett")
    for level in range(3):
        assert means[level].dtype == covs[level].dtype == dtype
        if c.A.ranks[level]:
            close(means[level], by_group(Z, h, c.A.ranks)[level], tol)
            close(covs[level], diagonal_blocks(C, h, c.A.ranks)[level], tol)
    assert means[1].shape == (5, 3, 0)
    # Unbiased: data without noise give the factors back.
    exact = fit.mean + (S @ Z).T
    again = fit.scores(exact, 2, method="bartlett")
    close(again, by_group(Z, h, c.A.ranks)[2], tol)


@settings(max_examples=60, deadline=None)
@given(case=cases(max_rank=2))
def test_bartlett_scores_exist_exactly_where_the_factors_are_independent(case):
    h = case.hierarchy
    fit = result_of(case.A)
    Y = case.rng.standard_normal((2, h.n))
    S, w = spread(h, case.factors).reshape(h.n, -1), 1 / np.sqrt(case.D)
    if S.size and np.linalg.matrix_rank(S) < S.shape[1]:
        with pytest.raises(np.linalg.LinAlgError, match=r"at level \d+, group \d+ \(\d+ feature"):
            fit.scores(Y, method="bartlett")
        return
    if S.shape[1] and np.linalg.cond(S * w[:, None]) > 1e4:
        return
    Z = np.linalg.lstsq(S * w[:, None], (Y * w).T, rcond=None)[0]
    for level, z in enumerate(by_group(Z, h, case.A.ranks)):
        got = fit.scores(Y, level, method="bartlett")
        np.testing.assert_allclose(got, z, atol=1e-6 * max(1, np.abs(Z).max(initial=0)))


def test_bartlett_scores_leave_out_factors_that_a_group_does_not_use():
    h = Hierarchy.from_boundaries([[0, 2, 12, 22]])
    c = make_case(h, (3,), 0)
    fit = result_of(c.A.principal())
    Y = c.rng.standard_normal((4, 22))
    z, cov = fit.scores(Y, 0, covariance=True, method="bartlett")
    assert (z[:, 0, 2] == 0).all() and cov[0, 2, 2] == 1 and (cov[0, 2, :2] == 0).all()
    F = fit.covariance.F[:2, :2]
    close(z[:, 0, :2], np.linalg.solve(F, Y[:, :2].T).T)


def test_bartlett_scores_name_the_level_of_dependent_factors():
    h = Hierarchy.from_boundaries([[0, 30], [0, 10, 30]])
    rng = np.random.default_rng(0)
    F1 = rng.standard_normal((30, 2))
    F0 = np.where(np.arange(30) < 10, F1[:, 0], F1 @ [1.0, 2.0])[:, None]  # in the span of F1
    fit = result_of(MLR(h, [F0, F1], rng.uniform(1, 2, 30)))
    with pytest.raises(np.linalg.LinAlgError, match=r"level 0, group 0 \(30 features\)"):
        fit.scores(np.ones((1, 30)), method="bartlett")
    assert fit.scores(np.ones((1, 30)), 0).shape == (1, 1, 1)


def test_scores_find_the_factors_of_a_simulation():
    sim = simulate_mlr(Hierarchy.balanced(300, [1, 6]), (1, 1), 400, noise=0.2, random_state=3)
    fit = fit_factor_model(sim.Y, (1, 1), sim.covariance.hierarchy)
    for level in range(2):
        z = fit.scores(sim.Y, level)
        for g in range(z.shape[1]):
            assert abs(np.corrcoef(z[:, g, 0], sim.scores[level][:, g, 0])[0, 1]) > 0.95


def test_scores_refuse():
    _, fit = example()
    Y = np.zeros((2, 30))
    with pytest.raises(ValueError, match="'posterior' or 'bartlett', got 'regression'"):
        fit.scores(Y, method="regression")
    with pytest.raises(IndexError, match="level 3 is out of range"):
        fit.scores(Y, 3)
    with pytest.raises(ValueError, match="30 features"):
        fit.scores(Y[:, 1:])
    with pytest.raises(ValueError, match="feature 4"):
        Y[1, 4] = np.inf
        fit.scores(Y)
    assert fit.scores(np.zeros((0, 30)), -1).shape == (0, 5, 3)


# ---------------------------------------------------------------- data with names


def test_columns_of_a_frame_are_found_by_name():
    pd = pytest.importorskip("pandas")
    c, fit = example()
    names = [f"x{i}" for i in range(30)]
    fit = dataclasses.replace(fit, feature_names=tuple(names))
    frame = pd.DataFrame(c.rng.standard_normal((4, 30)), columns=names)
    for data in (frame, frame[names[::-1]]):
        np.testing.assert_allclose(fit.scores(data, 0).to_numpy(),
                                   fit.scores(frame.to_numpy(), 0).reshape(4, -1), atol=1e-12)
        np.testing.assert_allclose(fit.score_samples(data),
                                   fit.score_samples(frame.to_numpy()), rtol=1e-12)
    with pytest.raises(ValueError, match=r"none for 1 feature \(x3\), and 1 label .* \(y\)"):
        fit.scores(frame.rename(columns={"x3": "y"}))
    with pytest.raises(ValueError, match=r"none for 1 feature \(x0\)"):
        fit.scores(frame[names[1:]])


@pytest.mark.parametrize("named", [True, False])
def test_to_frame(named):
    pd = pytest.importorskip("pandas")
    c, fit = example(np.float32)
    names = tuple(f"x{i}" for i in range(30)) if named else None
    frame = dataclasses.replace(fit, feature_names=names).to_frame()
    assert frame.shape == (30, 7) and (frame.dtypes == np.float32).all()
    assert list(frame.index) == list(names or range(30))
    assert isinstance(frame["level 2"], pd.DataFrame) and "level 1" not in frame
    np.testing.assert_array_equal(frame["level 2"], c.factors[2])
    np.testing.assert_array_equal(frame["level 0"], c.factors[0])
    np.testing.assert_array_equal(frame["D"], c.D)
    close(frame["communality"].to_numpy(), 1 - c.D / np.diag(c.dense), 1e-5)


# ---------------------------------------------------------------- sampling, likelihood


@pytest.mark.slow
def test_samples_have_the_mean_and_covariance():
    c, fit = example()
    fit = dataclasses.replace(fit, mean=10 * fit.mean)
    X = fit.sample(200_000, random_state=0)
    assert X.shape == (200_000, 30) and fit.sample(random_state=1).shape == (30,)
    np.testing.assert_array_equal(X[:0], fit.sample(0))
    np.testing.assert_allclose(X.mean(axis=0), fit.mean, atol=0.05)
    close(np.cov(X.T), c.dense, 0.03)
    np.testing.assert_array_equal(fit.sample(3, 5), fit.sample(3, np.random.default_rng(5)))
    assert example(np.float32)[1].sample(3).dtype == np.float32


def test_score_samples():
    c, fit = example()
    Y = c.rng.standard_normal((7, 30))
    normal = scipy.stats.multivariate_normal(fit.mean, c.dense)
    np.testing.assert_allclose(fit.score_samples(Y), normal.logpdf(Y))
    assert math.isclose(fit.score(Y), normal.logpdf(Y).mean())


def truths():
    """Known covariances of 30 features: operators with structure, without, and arrays."""
    rng = np.random.default_rng(9)
    other = make_case(Hierarchy(rng.permutation(30), [[0, 12, 30], [0, 3, 4, 12, 30]]), (1, 2), 1)
    deep = make_case(permuted_case().hierarchy, (0, 3, 1), 2)
    return {
        "the same tree": deep.A,
        "another tree": other.A,
        "float32": make_case(other.hierarchy, (2, 2), 5, np.float32).A,
        "no factors": MLR(other.hierarchy, [np.empty((30, 0))] * 2, other.D),
        "low rank": LowRankPlusDiagonal(other.factors[1], other.D),
        "diagonal": Diagonal(other.D),
        "identity": Identity(30),
        "dense operator": Dense(other.dense, positive_definite=True),
        "array": other.dense,
        "list": other.dense.tolist(),
        "inverse": deep.A.inv(),
    }


def dense_kl(true, mean, fitted, fitted_mean):
    gap = fitted_mean - mean
    return 0.5 * (np.trace(np.linalg.solve(fitted, true)) + gap @ np.linalg.solve(fitted, gap)
                  - len(gap) + np.linalg.slogdet(fitted)[1] - np.linalg.slogdet(true)[1])


@pytest.mark.parametrize("truth", truths())
@DTYPES
def test_divergence_from_a_known_covariance(truth, dtype, tol):
    c, fit = example(dtype)
    true = truths()[truth]
    dense = true.toarray() if isinstance(true, StructuredOperator) else np.array(true)
    dense = dense.astype(float)
    mean = np.linspace(-1, 1, 30)
    tol = 1e-5 if truth == "float32" else 1e-9  # fitted float32 parameters are exact numbers
    for given_mean in (mean, None):
        mu = fit.mean if given_mean is None else mean
        kl = dense_kl(dense, mu, c.dense, fit.mean.astype(float))
        assert fit.kl_divergence(true, given_mean) == pytest.approx(kl, rel=tol)
        entropy = 0.5 * (30 * math.log(2 * math.pi * math.e) + np.linalg.slogdet(dense)[1])
        assert fit.expected_loglik(true, given_mean) == pytest.approx(-kl - entropy, rel=tol)


def test_expected_loglik_is_what_samples_score():
    c, fit = example()
    other = make_case(c.hierarchy, (1, 1, 1), 3)
    scores = fit.score_samples(result_of(other.A, fit.mean + 0.1).sample(100_000, 0))
    expected = fit.expected_loglik(other.A, fit.mean + 0.1)
    assert abs(scores.mean() - expected) < 5 * scores.std() / math.sqrt(scores.size)


@settings(max_examples=40, deadline=None)
@given(a=cases(max_n=12), b=cases(max_n=12))
def test_trace_of_a_quotient_of_two_trees(a, b):
    n = min(a.hierarchy.n, b.hierarchy.n)
    if a.hierarchy.n != b.hierarchy.n:  # the same features for both
        b = make_case(Hierarchy.balanced(a.hierarchy.n, [1]), (2,), n)
    expected = np.trace(np.linalg.solve(a.dense, b.dense))
    assert a.A.inv().trace_with(b.A) == pytest.approx(expected, rel=1e-9)


def test_traces_are_taken_in_double_precision():
    a, b = (make_case(Hierarchy.balanced(60, [1, 4]), (2, 2), seed, np.float32) for seed in (0, 1))
    expected = np.trace(np.linalg.solve(a.dense, b.dense))
    assert a.A.inv().trace_with(b.A) == pytest.approx(expected, rel=1e-12)


def test_a_divergence_from_the_same_covariance_is_zero():
    for dtype in (np.float64, np.float32):
        c, fit = example(dtype)
        assert abs(fit.kl_divergence(c.A)) < 1e-12


def test_structured_truths_are_not_taken_column_by_column(monkeypatch):
    c, fit = example()
    monkeypatch.setattr(mlr_inverse, "_units", None)
    fit.kl_divergence(truths()["another tree"])
    with pytest.raises(TypeError):
        fit.kl_divergence(c.dense)


def test_divergence_refuses():
    c, fit = example()
    with pytest.raises(ValueError, match=r"true_covariance must have shape \(30, 30\), got \(3, 3"):
        fit.kl_divergence(np.eye(3))
    with pytest.raises(ValueError, match="symmetric"):
        fit.expected_loglik(c.dense + np.triu(np.ones((30, 30)), 1))
    with pytest.raises(ValueError, match=r"true_mean must have shape \(30,\), got \(1,\)"):
        fit.expected_loglik(c.A, [0.0])
    with pytest.raises(TypeError, match="expected an operator"):
        fit.expected_loglik("covariance")


# ---------------------------------------------------------------- shares of variance


@DTYPES
def test_correlation_communalities_and_shares(dtype, tol):
    c, fit = example(dtype)
    tol = 1e-12 if dtype == np.float64 else 1e-6
    sd = np.sqrt(np.diag(c.dense))
    corr = fit.correlation
    assert isinstance(corr, MLR) and corr.hierarchy == c.hierarchy and corr.dtype == dtype
    close(corr.toarray(), c.dense / np.outer(sd, sd), tol)
    np.testing.assert_allclose(corr.diagonal(), 1, atol=tol)
    close(corr.factors[2], c.factors[2] / sd[:, None], tol)

    common = sum(np.square(F.astype(float)).sum(axis=1) for F in c.factors)
    assert fit.communalities.dtype == fit.uniquenesses.dtype == dtype
    np.testing.assert_allclose(fit.communalities, common / np.square(sd), atol=tol)
    np.testing.assert_allclose(fit.uniquenesses, c.D / np.square(sd), atol=tol)

    parts = np.array([*(np.square(F.astype(float)).sum(axis=1) for F in c.factors), c.D]).T
    shares = parts / np.square(sd)[:, None]
    np.testing.assert_allclose(fit.variance_shares(), parts.sum(axis=0) / np.trace(c.dense))
    np.testing.assert_allclose(fit.variance_shares(by="correlation"), shares.mean(axis=0))
    np.testing.assert_allclose(fit.variance_shares(by="feature"), shares, atol=tol)
    assert fit.variance_shares(by="feature").dtype == dtype
    assert fit.variance_shares()[1] == 0  # the level of rank 0
    with pytest.raises(ValueError, match="'covariance', 'correlation' or 'feature', got 'group'"):
        fit.variance_shares(by="group")


# ---------------------------------------------------------------- degrees of freedom


def dimension(hierarchy, ranks, seed=0):
    """Dimension of the set of covariances at a random point: the rank of the derivatives."""
    n, upper = hierarchy.n, np.triu_indices(hierarchy.n)
    rng = np.random.default_rng(seed)
    changes = list(np.einsum("ij,jk->ijk", np.eye(n), np.eye(n)))
    for level, r in enumerate(ranks):
        same = hierarchy.labels(level)[:, None] == hierarchy.labels(level)
        for f in rng.standard_normal((r, n)):
            changes += [np.outer(e, f * s) for e, s in zip(np.eye(n), same, strict=True)]
    return np.linalg.matrix_rank([(E + E.T)[upper] for E in changes], tol=1e-9)


@pytest.mark.parametrize("ranks, n", [(0, 5), (1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 6),
                                      (4, 6), (2, 9), (9, 9)])
def test_degrees_of_freedom_of_a_single_level(ranks, n):
    h = Hierarchy.flat(n)
    expected = min(n * ranks - ranks * (ranks - 1) // 2 + n, n * (n + 1) // 2)
    assert degrees_of_freedom(h, ranks, mean=False) == expected == dimension(h, [ranks])
    assert degrees_of_freedom(h, ranks) == expected + n


@pytest.mark.parametrize("boundaries, ranks", [
    ([[0, 20], [0, 10, 20]], (2, 1)),
    ([[0, 20], [0, 20]], (1, 2)),                      # one block of three factors
    ([[0, 7], [0, 7], [0, 7]], (3, 4, 3)),             # more factors than features
    ([[0, 18], [0, 8, 18], [0, 8, 13, 18]], (1, 1, 1)),  # an only child on one side
    ([[0, 12], [0, 1, 12]], (3, 1)),                   # two of three turn into the second child
    ([[0, 14], [0, 12, 14]], (3, 2)),
    ([[0, 9, 16], [0, 1, 2, 9, 16]], (1, 2)),          # groups of one feature add nothing
    ([[0, 16], [0, 8, 16]], (0, 0)),
])
def test_degrees_of_freedom_are_the_dimension_of_the_model(boundaries, ranks):
    h = Hierarchy(np.random.default_rng(0).permutation(boundaries[0][-1]), boundaries)
    assert degrees_of_freedom(h, ranks, mean=False) == dimension(h, ranks)


@settings(max_examples=60, deadline=None)
@given(case=cases(max_n=10, max_levels=3, max_rank=3))
def test_degrees_of_freedom_are_never_too_few(case):
    h, ranks = case.hierarchy, case.A.ranks
    count = degrees_of_freedom(h, ranks, mean=False)
    assert dimension(h, ranks) <= count <= h.n * (h.n + 1) // 2
    more = [r + 1 for r in ranks]
    assert count <= degrees_of_freedom(h, more, mean=False)


def test_degrees_of_freedom_refuse():
    with pytest.raises(ValueError, match="2 entries, one a level"):
        degrees_of_freedom(Hierarchy.balanced(4, [1, 2]), 1)
    with pytest.raises(TypeError, match="hierarchy must be a Hierarchy"):
        degrees_of_freedom(4, 1)


def test_information_criteria():
    c, fit = example()
    df = degrees_of_freedom(c.hierarchy, (2, 0, 3), mean=True)
    assert fit.degrees_of_freedom == df
    assert dataclasses.replace(fit, mean_is_estimated=False).degrees_of_freedom == df - 30
    assert fit.aic == pytest.approx(2 * 100 * 1.5 + 2 * df)
    assert fit.bic == pytest.approx(2 * 100 * 1.5 + math.log(100) * df)


# ---------------------------------------------------------------- text


def test_summary_says_it_all():
    h = Hierarchy.from_labels(np.repeat(["banks", "chips"], [3, 9]))
    sim = simulate_mlr(h, (1, 4), 200, random_state=0)
    fit = result_of(sim.covariance.principal(), n_iter=1234, n_evaluations=1300,
                    gradient_norm=2.5e-5, boundary=np.array([1, 5]), capped=((1, 0, 3),),
                    n_samples=200, loglik=-20.125,
                    feature_names=tuple(f"a rather long name {i}" for i in range(12)))
    text = fit.summary()
    lines = text.splitlines()
    assert max(map(len, lines)) < 80
    for expected in ("12", "200", "-4,025.00", "-20.125", str(fit.degrees_of_freedom),
                     f"{fit.aic:,.2f}", f"{fit.bic:,.2f}", "1,234", "1,300", "2.5e-05", "loglik",
                     "yes", "3 to 9", "level 1 group 0", "a rather long...", "1, chips, 3"):
        assert expected in text, expected
    table = lines[lines.index(next(x for x in lines if x.startswith("level "))) + 2:]
    for line, share in zip(table, fit.variance_shares(), strict=False):
        assert f"{share:.1%}" in line
    # Three features carry three factors at most; the fourth has nothing to list.
    assert "1, banks, 2" in text and "1, banks, 3" not in text


def test_summary_lists_the_largest_loadings_in_standard_deviations():
    F = np.array([[3.0], [0.1], [-4.0], [0.2]])
    fit = result_of(MLR(Hierarchy.flat(4), [F], D=np.full(4, 9.0)))
    assert "0, 0, 0: 2 -0.80, 0 +0.71" in fit.summary(top=2)
    assert "0, 0, 0" not in fit.summary(max_factors=0)
    with pytest.raises(ValueError, match="top must be non-negative"):
        fit.summary(top=-1)


def test_summary_of_a_large_model_is_short():
    n = 200_000
    h = Hierarchy.balanced(n, [1, 100, n // 10])
    rng = np.random.default_rng(0)
    A = MLR(h, [rng.standard_normal((n, r)) for r in (2, 0, 1)], np.ones(n))
    fit = result_of(A, boundary=np.arange(500), converged=False, termination="max_iter")
    text = fit.summary()
    assert len(text.splitlines()) < 60 and max(map(len, text.splitlines())) < 80
    assert "and 495 more" in text and "more factors" in text and "max_iter" in text
    assert "not known" in text  # the gradient norm


@pytest.mark.parametrize("ranks", [(0,), (1,)])
def test_summary_of_one_feature_and_no_factors(ranks):
    A = MLR(Hierarchy.flat(1), [np.ones((1, ranks[0]))], [1.0])
    assert "Features                          1" in result_of(A).summary()


def test_a_fit_of_float32_stays_float32():
    sim = simulate_mlr(Hierarchy.balanced(30, [1, 3]), (1, 1), 100, dtype=np.float32,
                       random_state=0)
    fit = fit_factor_model(sim.Y, (1, 1), sim.covariance.hierarchy)
    outputs = [*fit.scores(sim.Y), *fit.scores(sim.Y, method="bartlett"), fit.communalities,
               fit.sample(2), fit.correlation.D,
               *fit.rotate("promax").loadings, *fit.rotate().result.covariance.factors]
    assert {x.dtype for x in outputs} == {np.dtype(np.float32)}
    assert fit.score_samples(sim.Y).dtype == np.float64  # likelihoods do not bear less
    close(fit.covariance.toarray(), dense_mlr(fit.covariance.hierarchy, fit.covariance.factors,
                                              fit.covariance.D), 1e-5)


def test_sizes():
    _, fit = example()
    assert (fit.n_samples, fit.n_features) == (100, fit.covariance.shape[0])
