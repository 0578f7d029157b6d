"""EM for factor models: the iterates against a dense reference, the fit against other software."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import close, dense_mlr, hierarchies, spread

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.factor.usable import usable_columns

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


def split(F, ranks):
    return np.split(np.asarray(F), np.cumsum(ranks)[:-1], axis=1)


def dense_loglik(S, Y):
    """Average normal log-likelihood of the rows of Y, mean zero."""
    return scipy.stats.multivariate_normal(np.zeros(len(S)), S).logpdf(Y).mean()


def dense_em(h, ranks, F, D, Y, updates):
    """EM by the book, feature by feature, on spread-out factors and dense inverses."""
    N, n = Y.shape
    support = spread(h, split(np.ones_like(F), ranks)) != 0
    out = [(F, D)]
    for _ in range(updates):
        B = spread(h, split(F, ranks))
        S = B @ B.T + np.diag(D)
        Z = B.T @ np.linalg.inv(S) @ Y.T  # posterior means (s, N)
        second = N * (np.eye(B.shape[1]) - B.T @ np.linalg.inv(S) @ B) + Z @ Z.T
        cross = Y.T @ Z.T
        F, D = np.empty_like(F), np.empty_like(D)
        for i in range(n):
            own = np.flatnonzero(support[i])
            f = np.linalg.solve(second[np.ix_(own, own)], cross[i, own])
            F[i], D[i] = f, (Y[:, i] @ Y[:, i] - f @ cross[i, own]) / N
        out.append((F, D))
    return out


def iterates(Y, ranks, h, **options):
    """(iterates seen by the callback, result)."""
    seen = []
    fit = fit_factor_model(Y, ranks, h, callback=seen.append, **options)
    return seen, fit


def tree_data(N=60, n=24, seed=0, ranks=(2, 1, 1)):
    """A permuted three-level tree and samples of a model on it."""
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(n), [[0, n], [0, n // 3, n], [0, 3, n // 3, n // 2, n]])
    A = MLR(h, [rng.standard_normal((n, r)) for r in ranks], rng.uniform(0.5, 1.5, n))
    return h, A, A.sample(N, random_state=seed) + rng.standard_normal(n)


# ---------------------------------------------------------------- the paper's first example


@pytest.fixture(scope="module")
def hello():
    """The example of the multilevel factor model paper, number by number."""
    state = np.random.RandomState(1001)
    n, N, ranks = 1000, 40, (10, 7, 5, 4)
    state.permutation(n)
    bounds = [np.linspace(0, n, g).astype(int) for g in (2, 5, 9, 17)]
    bounds[1] = np.delete(bounds[1], -2)
    bounds[2] = np.delete(bounds[2], -4)
    F = state.randn(n, 27)[:, :26]
    D = state.uniform(0, 0.5 * np.mean(np.square(F).sum(axis=1)), n)
    h = Hierarchy.from_boundaries(bounds)
    z = state.randn(sum(p * r for p, r in zip(h.group_counts, ranks, strict=True)), N)
    Y = spread(h, split(F, ranks)) @ z
    Y += state.multivariate_normal(np.zeros(n), np.diag(D), size=N).T
    Y -= Y.mean(axis=1, keepdims=True)
    return h, ranks, F, D, Y


@pytest.mark.quick(1)
def test_paper_loglik_of_the_true_model(hello):
    h, ranks, F, D, Y = hello
    assert h.group_counts == (1, 3, 7, 16)
    A = MLR.from_compact(h, ranks, F, D)
    quad = A.inv_quad(Y).mean()
    loglik = -0.5 * (1000 * math.log(2 * math.pi) + A.logdet() + quad)
    assert loglik == pytest.approx(-2422.4406, abs=1e-3)


def test_paper_iterates(hello):
    h, ranks, _, _, Y = hello
    U, s, _ = np.linalg.svd(Y, full_matrices=False)
    F = U[:, :26] * np.sqrt(s[:26]) / np.sqrt(40)
    D = np.maximum(np.square(Y).mean(axis=1) - np.square(F).sum(axis=1), 1e-4)
    fit = fit_factor_model(Y.T, ranks, h, init=MLR.from_compact(h, ranks, F, D),
                           max_iter=2, tol=0, optimizer="em")
    assert fit.loglik_trace[0] == pytest.approx(-3061.3413, abs=1e-3)
    assert fit.loglik_trace[2] == pytest.approx(-2275.3261, abs=1e-3)
    assert fit.n_iter == 2 and fit.loglik == fit.loglik_trace[2]


# ---------------------------------------------------------------- iterates


@pytest.mark.parametrize("N", [4, 200], ids=["N < n", "N > n"])
@settings(max_examples=12)
@given(h=hierarchies(max_n=16, max_levels=4), data=st.data())
def test_iterates_equal_dense_em(N, h, data):
    ranks = [data.draw(st.integers(0, 2)) for _ in range(h.n_levels)]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    Y = rng.standard_normal((N, h.n)) @ rng.standard_normal((h.n, h.n)) + 5
    F, D = rng.standard_normal((h.n, sum(ranks))), rng.uniform(1, 2, h.n)
    F = np.where(h._scatter(usable_columns(h, ranks)), F, 0)
    seen, fit = iterates(Y, ranks, h, init=MLR.from_compact(h, ranks, F, D), max_iter=4, tol=0,
                         gtol=0, variance_floor=0, optimizer="em")
    X = Y - Y.mean(axis=0)
    reference = dense_em(h, ranks, F, D, X, 4)
    assert len(seen) == fit.n_iter + 1 and (len(seen) == 5 or fit.converged)
    for t, found in enumerate(seen):
        expected = reference[t]
        assert found.n_iter == t
        close(found.covariance.D, expected[1], 1e-8)
        close(found.covariance.F, expected[0], 1e-8)
        S = dense_mlr(h, split(expected[0], ranks), expected[1])
        assert found.loglik == pytest.approx(dense_loglik(S, X), rel=1e-9, abs=1e-9)


def test_trace_holds_the_loglik_of_the_parameters_after_t_updates():
    h, _, Y = tree_data()
    seen, fit = iterates(Y, (2, 1, 1), h, max_iter=9, tol=0)
    assert fit.n_iter == 9 and fit.loglik_trace.shape == (10,)
    X = Y - Y.mean(axis=0)
    for t, it in enumerate(seen):
        assert it.n_iter == t and it.loglik == fit.loglik_trace[t]
        assert it.loglik == pytest.approx(dense_loglik(it.covariance.toarray(), X), rel=1e-10)
    close(fit.covariance.toarray(), seen[-1].covariance.toarray(), 1e-12)
    assert fit.loglik == fit.loglik_trace[-1]
    without = fit_factor_model(Y, (2, 1, 1), h, max_iter=9, tol=0)
    assert np.array_equal(without.loglik_trace, fit.loglik_trace)
    assert np.array_equal(without.covariance.F, fit.covariance.F)


@settings(max_examples=15)
@given(h=hierarchies(max_n=20, max_levels=4), seed=st.integers(0, 99), data=st.data())
def test_loglik_never_falls(h, seed, data):
    ranks = [data.draw(st.integers(0, 3)) for _ in range(h.n_levels)]
    init = data.draw(st.sampled_from(["svd", "random"]))
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((12, h.n)) @ rng.standard_normal((h.n, h.n))
    fit = fit_factor_model(Y, ranks, h, init=init, max_iter=60, tol=0, random_state=seed)
    assert (np.diff(fit.loglik_trace) >= -1e-8 * (1 + np.abs(fit.loglik_trace[1:]))).all()


def test_single_precision():
    h, _, Y = tree_data()
    options = dict(max_iter=20, tol=0, optimizer="em")
    double = fit_factor_model(Y, (2, 1, 1), h, **options)
    single = fit_factor_model(Y.astype(np.float32), (2, 1, 1), h, **options)
    assert single.covariance.dtype == single.mean.dtype == np.float32
    close(single.covariance.toarray(), double.covariance.toarray(), 1e-3)
    assert single.loglik == pytest.approx(double.loglik, rel=1e-4)


# ---------------------------------------------------------------- the ordinary factor model


def test_single_level_equals_factor_analysis():
    sklearn = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(0)
    A = MLR(Hierarchy.flat(12), [rng.standard_normal((12, 2))], rng.uniform(1, 2, 12))
    Y = A.sample(300, random_state=0) + 3
    X = Y - Y.mean(axis=0)
    seen, _ = iterates(Y, 2, None, init=A, max_iter=5, tol=0, optimizer="em")
    for (F, D), found in zip(dense_em(A.hierarchy, (2,), A.F, A.D, X, 5), seen, strict=True):
        close(found.covariance.F, F)
        close(found.covariance.D, D)
    fit = fit_factor_model(Y, 2, tol=1e-12, max_iter=20_000)
    assert fit.converged
    other = sklearn.FactorAnalysis(2, svd_method="lapack", tol=1e-9, max_iter=20_000).fit(Y)
    assert fit.loglik == pytest.approx(other.score(Y), rel=1e-7)
    close(fit.covariance.toarray(), other.get_covariance(), 2e-3)
    assert fit.score(Y) == pytest.approx(fit.loglik, rel=1e-10)


def test_without_a_hierarchy_it_is_the_flat_one():
    _, _, Y = tree_data()
    one = fit_factor_model(Y, 3, max_iter=5, tol=0)
    two = fit_factor_model(Y, (3,), Hierarchy.flat(24), max_iter=5, tol=0)
    assert one.covariance.hierarchy == Hierarchy.flat(24)
    assert np.array_equal(one.covariance.F, two.covariance.F)


def test_rank_zero_is_the_diagonal_model():
    h, _, Y = tree_data()
    fit = fit_factor_model(Y, (0, 0, 0), h)
    assert fit.converged and fit.covariance.F.shape == (24, 0)
    close(fit.covariance.D, Y.var(axis=0))
    assert fit.loglik == pytest.approx(
        dense_loglik(np.diag(Y.var(axis=0)), Y - Y.mean(axis=0)), rel=1e-12)


# ---------------------------------------------------------------- start


def test_starts():
    h, A, Y = tree_data(N=400)
    exact = A.ranks
    fits = [fit_factor_model(Y, exact, h, init=init, random_state=0, tol=1e-8, max_iter=3000)
            for init in ("svd", "random", A)]
    assert all(f.converged for f in fits)
    for fit in fits[1:]:
        assert fit.loglik == pytest.approx(fits[0].loglik, abs=2e-2)
    X = Y - Y.mean(axis=0)
    assert fits[2].loglik_trace[0] == pytest.approx(dense_loglik(A.toarray(), X), rel=1e-10)
    assert all(f.loglik > fits[2].loglik_trace[0] for f in fits)
    first = [iterates(Y, exact, h, init="svd", max_iter=0)[0][0].covariance for _ in range(2)]
    assert np.array_equal(first[0].F, first[1].F)
    # Top-down: the leading directions of all standardized data, then of what is left in groups.
    sd = X.std(axis=0)
    s2 = np.square(np.linalg.svd(X / sd, compute_uv=False)[:2]).sum() / 400
    assert np.square(first[0].factors[0] / sd[:, None]).sum() == pytest.approx(s2, rel=1e-9)


def test_random_starts_are_seeded():
    h, _, Y = tree_data()

    def start(seed):
        return iterates(Y, (2, 1, 1), h, init="random", random_state=seed, max_iter=0)[0][0]

    assert np.array_equal(start(1).covariance.F, start(1).covariance.F)
    assert np.array_equal(start(np.random.default_rng(1)).covariance.F, start(1).covariance.F)
    assert not np.array_equal(start(1).covariance.F, start(2).covariance.F)


def test_start_from_an_operator_changes_nothing_of_it():
    h, A, Y = tree_data()
    F, D = A.F.copy(), A.D.copy()
    fit_factor_model(Y, A.ranks, h, init=A, max_iter=3, tol=0)
    assert np.array_equal(A.F, F) and np.array_equal(A.D, D)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("N", [20, 100])
def test_centering(N):
    h, _, Y = tree_data(N=N)
    mean, options = Y.mean(axis=0), dict(max_iter=5, tol=0, optimizer="bfgs")
    raw = fit_factor_model(Y, (2, 1, 1), h, center=False, **options)
    centred = fit_factor_model(Y, (2, 1, 1), h, **options)
    by_hand = fit_factor_model(Y - mean, (2, 1, 1), h, center=False, **options)
    assert np.array_equal(raw.mean, np.zeros(24))
    close(centred.mean, mean, 1e-14)
    close(by_hand.covariance.toarray(), centred.covariance.toarray(), 1e-9)
    assert raw.loglik < centred.loglik
    assert raw.loglik == pytest.approx(dense_loglik(raw.covariance.toarray(), Y), rel=1e-10)


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_stopping_on_the_log_likelihood(optimizer):
    h, _, Y = tree_data(N=300)
    n, options = 24, dict(gtol=0, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_factor_model(Y, (2, 1, 0), h, tol=1e-6, **options)
    assert fit.converged and fit.termination == "tol"
    independent = dense_loglik(np.diag(Y.var(axis=0)), Y - Y.mean(axis=0))
    gains = np.diff(fit.loglik_trace)
    small = gains <= 1e-6 * np.maximum(fit.loglik_trace[1:] - independent, n / 2)
    assert small[-3:].all() and not any(small[t : t + 3].all() for t in range(small.size - 3))
    tighter = fit_factor_model(Y, (2, 1, 0), h, tol=1e-8, **options)
    assert tighter.n_iter > fit.n_iter and tighter.loglik >= fit.loglik
    with pytest.warns(ConvergenceWarning, match="3 updates"):
        cut = fit_factor_model(Y, (2, 1, 0), h, tol=0, max_iter=3, **options)
    assert not cut.converged and cut.termination == "max_iter" and cut.n_iter == 3
    assert np.array_equal(cut.loglik_trace, fit.loglik_trace[:4])
    none = fit_factor_model(Y, (2, 1, 0), h, max_iter=0)
    assert none.n_iter == 0 and none.loglik_trace.shape == (1,)


def dense_gradient_norm(fit, Y):
    """The stated norm, from the gradient ``½ Σ⁻¹(S - Σ)Σ⁻¹`` by Σ, for a single level."""
    A = fit.covariance
    S, inverse = np.cov(Y.T, bias=True), np.linalg.inv(A.toarray())
    M = inverse @ (S - A.toarray()) @ inverse
    by_log_D = np.diag(M) * A.D / 2
    by_F = (M @ A.F) * np.sqrt(A.D)[:, None]
    return max(np.abs(by_log_D).max(), np.abs(by_F).max())


@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("N", [15, 300])
def test_stopping_on_the_gradient(optimizer, N):
    Y = MLR(Hierarchy.flat(20), [np.ones((20, 1))], np.full(20, 2.0)).sample(N, random_state=0)
    options = dict(tol=0, max_iter=20_000, optimizer=optimizer)
    fit = fit_factor_model(Y, 1, gtol=1e-4, **options)
    assert fit.converged and fit.termination == "gradient" and fit.gradient_norm <= 1e-4
    # The rotation of a single factor is its sign: the result's factors are the iterate's.
    assert fit.gradient_norm == pytest.approx(dense_gradient_norm(fit, Y), rel=1e-3)
    assert fit_factor_model(Y, 1, gtol=1e-6, **options).gradient_norm <= 1e-6
    assert fit_factor_model(Y, 1, init="svd", gtol=0, max_iter=0).gradient_norm > 1e-4


def test_callback_stops():
    h, _, Y = tree_data()

    def stop(iterate):
        if iterate.n_iter == 4:
            raise StopIteration

    fit = fit_factor_model(Y, (2, 1, 1), h, callback=stop)
    assert fit.termination == "callback" and fit.n_iter == 4 and not fit.converged
    assert np.array_equal(fit.loglik_trace, fit_factor_model(
        Y, (2, 1, 1), h, max_iter=4, tol=0).loglik_trace)

    def fails(iterate):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit_factor_model(Y, (2, 1, 1), h, callback=fails)


def test_progress_bar(capsys):
    h, _, Y = tree_data()
    fit_factor_model(Y, (2, 1, 1), h, max_iter=3, tol=0)
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    fit_factor_model(Y, (2, 1, 1), h, max_iter=3, tol=0, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "scoring" in shown.err
    assert "3/3" in shown.err and "loglik" in shown.err
    for way, word in (("bfgs", "bfgs"), ("em", "EM")):
        fit_factor_model(Y, (2, 1, 1), h, max_iter=3, tol=0, progress=True, optimizer=way)
        assert word in capsys.readouterr().err


def test_variances_at_the_floor_are_named():
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(10), [[0, 10], [0, 5, 10]])
    Y = rng.standard_normal((50, 10))
    Y[:, 7] = Y[:, 2]  # two copies: the factor explains both entirely
    with pytest.warns(ConvergenceWarning, match="no maximum.*of 2 features.*2, 7"):
        fit = fit_factor_model(Y, (1, 0), h, max_iter=3000, tol=0, variance_floor=1e-3)
    assert fit.boundary.tolist() == [2, 7]
    close(fit.covariance.D[[2, 7]], 1e-3 * Y.var(axis=0)[[2, 7]], 1e-9)
    assert (fit.covariance.D >= 1e-3 * Y.var(axis=0) * (1 - 1e-12)).all()
    assert (np.diff(fit.loglik_trace) >= -1e-10).all()


@pytest.mark.quick(4)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_accelerated_fits_to_data_in_other_units_converge_to_the_same(scale):
    h, _, Y = tree_data(N=300)
    options = dict(init="random", random_state=0, tol=0, gtol=1e-6)
    one = fit_factor_model(Y, (2, 1, 0), h, **options)
    many = fit_factor_model(Y * scale, (2, 1, 0), h, **options)
    assert many.termination == one.termination == "gradient"
    close(many.covariance.F, one.covariance.F * scale, 1e-5)
    close(many.covariance.D, one.covariance.D * scale**2, 1e-5)


def test_each_feature_may_have_units_of_its_own():
    h, _, Y = tree_data()
    units = 10.0 ** np.random.default_rng(0).integers(-6, 7, 24)
    init = iterates(Y, (2, 1, 1), h, init="random", random_state=0, max_iter=0)[0][0].covariance
    scaled = MLR.from_compact(h, init.ranks, init.F * units[:, None], init.D * units**2)
    for optimizer, tol in (("em", 1e-7), ("bfgs", 1e-4)):
        options = dict(max_iter=30, tol=0, optimizer=optimizer)
        one = fit_factor_model(Y, (2, 1, 1), h, init=init, **options)
        many = fit_factor_model(Y * units, (2, 1, 1), h, init=scaled, **options)
        close(many.covariance.toarray() / np.outer(units, units), one.covariance.toarray(), tol)


def test_same_input_same_answer(monkeypatch):
    h, _, Y = tree_data()
    monkeypatch.setenv("MLROPS_NUM_THREADS", "1")
    fits = [fit_factor_model(Y, (2, 1, 1), h, init="random", random_state=3, max_iter=20)]
    monkeypatch.setenv("MLROPS_NUM_THREADS", "2")
    fits.append(fit_factor_model(Y.copy(order="F"), (2, 1, 1), h, init="random", random_state=3,
                                 max_iter=20))
    close(fits[1].covariance.F, fits[0].covariance.F, 1e-12)
    close(fits[1].loglik_trace, fits[0].loglik_trace, 1e-12)


def test_order_of_the_features_does_not_matter():
    h, _, Y = tree_data()
    p = np.random.default_rng(4).permutation(24)
    other = Hierarchy(np.argsort(p)[h.permutation], h.boundaries)  # feature p[i] is now feature i
    for optimizer, tol in (("em", 1e-10), ("bfgs", 1e-5)):
        options = dict(max_iter=20, tol=0, optimizer=optimizer)
        one = fit_factor_model(Y, (2, 1, 1), h, **options)
        two = fit_factor_model(Y[:, p], (2, 1, 1), other, **options)
        close(two.covariance.toarray(), one.covariance.toarray()[np.ix_(p, p)], tol)
    close(two.mean, one.mean[p], 1e-14)


# ---------------------------------------------------------------- result


def test_score_samples():
    h, _, Y = tree_data()
    fit = fit_factor_model(Y, (2, 1, 1), h, max_iter=20)
    new = np.random.default_rng(1).standard_normal((7, 24))
    expected = scipy.stats.multivariate_normal(fit.mean, fit.covariance.toarray()).logpdf(new)
    close(fit.score_samples(new), expected, 1e-10)
    assert fit.score(new) == pytest.approx(expected.mean(), rel=1e-10)
    assert fit.score(Y) == pytest.approx(fit.loglik, rel=1e-10)
    assert "loglik" in repr(fit) and fit.n_samples == 60
    with pytest.raises(ValueError, match="24 features"):
        fit.score_samples(new[:, :5])
    with pytest.raises(ValueError, match="must not hold infinity"):
        fit.score_samples(np.full((2, 24), np.inf))


def test_factors_stand_on_principal_axes():
    h, _, Y = tree_data()
    fit = fit_factor_model(Y, (2, 1, 1), h, max_iter=20)
    B = fit.covariance.factors[0]
    gram = B.T @ B
    assert abs(gram[0, 1]) < 1e-10 * gram[0, 0] and gram[0, 0] >= gram[1, 1]
    assert (B[np.abs(B).argmax(axis=0), [0, 1]] > 0).all()
    assert fit.covariance.hierarchy == h and not fit.covariance.F.flags.writeable


def test_input_stays_as_it_is():
    h, _, Y = tree_data(N=100)
    for center in (True, False):
        for data in (Y, np.asfortranarray(Y), Y[::2]):
            before = data.copy()
            data.flags.writeable = False
            fit_factor_model(data, (2, 1, 1), h, center=center, max_iter=2)
            assert np.array_equal(data, before)
            data.flags.writeable = True
    whole = (Y * 10).astype(int)
    close(fit_factor_model(whole.tolist(), (2, 1, 1), h, max_iter=3).covariance.F,
          fit_factor_model(whole.astype(float), (2, 1, 1), h, max_iter=3).covariance.F, 1e-13)


# ---------------------------------------------------------------- bad input


def changed(value, at=(2, [3, 17]), dtype=float):
    Y = tree_data()[2].astype(dtype)
    Y[at] = value
    return Y


@pytest.mark.parametrize("Y, error, message", [
    (changed(np.nan), ValueError, r"2 missing cells \(NaN\) in 2 columns \(3, 17\)"),
    (changed(-np.inf), ValueError, r"2 infinite cells in 2 columns \(3, 17\)"),
    (changed(4.5, (slice(None), [1, 5])), ValueError, r"2 constant features \(1, 5\)"),
    (tree_data()[2][:1], ValueError, "at least 2 samples"),
    (tree_data()[2][:0], ValueError, "at least 2 samples"),
    (tree_data()[2][:, :23], ValueError, "24 features"),
    (tree_data()[2].T, ValueError, "24 features.*samples are rows"),
    (tree_data()[2][0], ValueError, "2-d"),
    (changed(1j, dtype=complex), TypeError, "real"),
    (tree_data()[2].astype(str), TypeError, "numeric"),
])
def test_bad_data(Y, error, message):
    with pytest.raises(error, match=message):
        fit_factor_model(Y, (2, 1, 1), tree_data()[0])


@pytest.mark.parametrize("options, error, message", [
    ({"ranks": (2, 1)}, ValueError, "3 entries, one a level"),
    ({"ranks": 2}, ValueError, "3 entries, one a level"),
    ({"ranks": (2, -1, 1)}, ValueError, "rank of level 1 must be non-negative"),
    ({"ranks": (2, 1.5, 1)}, TypeError, "rank of level 1 must be an integer"),
    ({"ranks": (2, "1", 1)}, TypeError, "rank of level 1"),
    ({"hierarchy": [[0, 24]]}, ValueError, "level 1 has 2 labels for 24 features"),
    ({"init": "pca"}, ValueError, "svd.*random.*pca"),
    ({"init": None}, ValueError, "svd.*random"),
    ({"init": tree_data(ranks=(1, 1, 1))[1]}, ValueError, r"ranks of the model, \(2, 1, 1\)"),
    ({"init": tree_data(seed=1)[1]}, ValueError, "hierarchy of the model"),
    ({"tol": -1e-3}, ValueError, "tol"),
    ({"tol": 1.0}, ValueError, "tol"),
    ({"gtol": -1.0}, ValueError, "gtol"),
    ({"tol": math.nan}, ValueError, "tol"),
    ({"variance_floor": 1.5}, ValueError, "variance_floor"),
    ({"max_iter": -1}, ValueError, "max_iter"),
    ({"max_iter": 2.5}, TypeError, "max_iter"),
])
def test_bad_options(options, error, message):
    h, _, Y = tree_data()
    with pytest.raises(error, match=message):
        fit_factor_model(Y, **{"ranks": (2, 1, 1), "hierarchy": h, **options})
