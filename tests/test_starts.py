"""Starting points: what each is, capped groups."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from trees import close, dense_mlr

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor import principal_start
from mlrops.factor.estep.complete import complete_source
from mlrops.factor.estep.incomplete import incomplete_source
from mlrops.factor.estep.sources import open_source
from mlrops.factor.frobenius_start import IDLE
from mlrops.factor.principal_start import LEAST_UNIQUENESS
from mlrops.factor.start import LEAST_SHARE, start

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

H = Hierarchy(np.random.default_rng(0).permutation(20), [[0, 20], [0, 6, 20], [0, 1, 6, 11, 20]])
RANKS = (2, 1, 2)


def samples(h=H, ranks=RANKS, N=60, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    A = MLR(h, [rng.standard_normal((h.n, r)) for r in ranks],
            noise * rng.uniform(0.5, 1.5, h.n))
    return A.sample(N, random_state=seed) + 3 * rng.standard_normal(h.n)


def begin(Y, ranks=RANKS, h=H, init="svd", **options):
    """Where a fit starts."""
    seen = []
    fit_factor_model(Y, ranks, h, init=init, max_iter=0, callback=seen.append, **options)
    return seen[0].covariance


def started(Y, ranks, h, init, seed=None, **options):
    """What `start` gives, in feature order."""
    source, h, _ = open_source(Y, h, True, "em", options.get("sample_weight"),
                               options.get("compress"))
    F, D = start(init, h, ranks, source, seed)
    assert F.dtype == D.dtype == np.float64 and F.shape == (h.n, sum(ranks))
    return h._scatter(F), h._scatter(D)


# ---------------------------------------------------------------- svd


def svd_reference(Y, ranks, h):
    """Level after level, group after group: leading singular vectors of what is left.

    Of features in units of their standard deviations.
    """
    sd = Y.std(axis=0)
    left = ((Y - Y.mean(axis=0)) / sd).T / np.sqrt(len(Y))
    variance, levels = np.square(left).sum(axis=1), []
    for level, r in enumerate(ranks):
        labels, S = h.labels(level), np.zeros((h.n, h.n))
        for g in range(h.group_counts[level]):
            rows = np.flatnonzero(labels == g)
            U, s, Vt = np.linalg.svd(left[rows], full_matrices=False)
            best = (U[:, :r] * s[:r]) @ Vt[:r]
            S[np.ix_(rows, rows)] = best @ best.T
            left[rows] -= best
        levels.append(S * np.outer(sd, sd))
    return levels, sd**2 * np.maximum(np.square(left).sum(axis=1), LEAST_SHARE * variance)


@pytest.mark.parametrize("N", [4, 19, 60])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ranks", [RANKS, (0, 2, 0), (0, 0, 0), (9, 9, 9)])
def test_svd(N, compress, ranks):
    Y = samples(N=N)
    A = begin(Y, ranks, compress=compress)
    levels, D = svd_reference(Y, ranks, H)
    for level, F in enumerate(A.factors):
        same = H.labels(level)[:, None] == H.labels(level)
        np.testing.assert_allclose(np.where(same, F @ F.T, 0), levels[level], atol=1e-9)
    np.testing.assert_allclose(A.D, D, rtol=1e-8, atol=1e-12)


def test_svd_in_single_precision():
    Y = samples().astype(np.float32)
    close(begin(Y).toarray(), begin(Y.astype(float)).toarray(), 1e-4)


def test_svd_of_weighted_samples():
    Y, times = samples(), np.random.default_rng(1).integers(0, 4, 60)
    expected = begin(np.repeat(Y, times, axis=0)).toarray()
    for scale in (1.0, 1e10):
        close(begin(Y, sample_weight=times * scale).toarray(), expected, 1e-10)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_data_to_start_from_have_the_variance_of_the_data(scale):
    weights = scale * (1 + np.arange(60.0))
    for source in (complete_source(samples(), H, True, weights),
                   incomplete_source(samples(), H, True, weights)):
        X = source.start_data(10, None)
        close(np.square(X).sum(axis=1) / source.n_samples, source.variance, 1e-12)


@pytest.mark.parametrize("form", [sp.csr_array, lambda x: [x]])
def test_svd_of_all_of_few_samples(form):
    """Where a sketch would be as large as the data, it is the data."""
    Y = samples(N=25)
    close(begin(form(Y)).toarray(), begin(Y).toarray(), 1e-9)


def test_a_start_stands_at_or_above_the_floor():
    Y = samples()
    floor = 0.6 * Y.var(axis=0) * (1 - 1e-12)
    below = MLR(H, [np.ones((20, r)) for r in RANKS], np.full(20, 1e-12))
    for init in ("svd", "frobenius", "random", below):
        fit = fit_factor_model(Y, RANKS, H, init=init, variance_floor=0.6, random_state=0)
        assert (fit.covariance.D >= floor).all()
        assert (begin(Y, init=init, variance_floor=0.6).D >= floor).all()
        assert (np.diff(fit.loglik_trace) >= 0).all() and fit.n_iter > 2


# ---------------------------------------------------------------- principal factors

FLAT = Hierarchy.flat(20)
HARMAN = Path(__file__).parent / "data" / "harman74.csv"


@pytest.mark.parametrize("N", [12, 60, 500])
def test_principal_factors_do_not_depend_on_how_they_are_computed(N):
    """More samples than features or fewer, compressed or not: the same fixed point."""
    Y = samples(FLAT, (2,), N, noise=0.5)
    F, D = started(Y, (2,), FLAT, "principal_factor")
    S = F @ F.T + np.diag(D)
    wide = np.repeat(Y, 5, axis=0)
    for data, options in ((Y, {"compress": False}), (wide, {"compress": False}), (wide, {})):
        G, E = started(data, (2,), FLAT, "principal_factor", **options)
        close(G @ G.T + np.diag(E), S, 1e-8)
    assert (D >= LEAST_UNIQUENESS * Y.var(axis=0) * (1 - 1e-12)).all()


def test_principal_factors_by_the_book():
    Y = samples(FLAT, (2,), 300)
    F, D = started(Y, (2,), FLAT, "principal_factor")
    sd = Y.std(axis=0)
    R, psi = np.corrcoef(Y.T), np.full(20, 0.5)
    for _ in range(20):
        values, V = np.linalg.eigh(R / np.sqrt(np.outer(psi, psi)))
        L = np.sqrt(psi)[:, None] * V[:, -2:] * np.sqrt(np.maximum(values[-2:] - 1, 0))
        psi = np.clip(1 - np.square(L).sum(axis=1), LEAST_UNIQUENESS, 1)
    close(F @ F.T, L @ L.T * np.outer(sd, sd), 1e-9)
    close(D, psi * sd**2, 1e-9)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**30])
def test_principal_factors_in_other_units(scale):
    Y = samples(FLAT, (2,), 100)
    F, D = started(Y, (2,), FLAT, "principal_factor")
    G, E = started(Y * scale, (2,), FLAT, "principal_factor")
    close(np.abs(G), np.abs(F) * scale, 1e-10)
    close(E, D * scale**2, 1e-10)


def test_principal_factors_start_near_the_optimum():
    Y = samples(FLAT, (2,), 2000)
    best = fit_factor_model(Y, 2).loglik
    gaps = {}
    for init in ("svd", "principal_factor", "random"):
        fit = fit_factor_model(Y, 2, init=init, random_state=0)
        assert fit.loglik == pytest.approx(best, abs=1e-6)
        gaps[init] = best - fit.loglik_trace[0]
    assert gaps["principal_factor"] < 1e-3 < gaps["svd"] / 10 < gaps["random"] / 10


def test_principal_factors_of_small_uniquenesses():
    """Where the factors explain 99% and more, the start is still next to the optimum."""
    Y = samples(FLAT, (2,), 2000, noise=0.05)
    fit = fit_factor_model(Y, 2, init="principal_factor")
    assert fit.uniquenesses.min() < 0.03
    assert fit.loglik - fit.loglik_trace[0] < 0.05


@pytest.mark.parametrize("ranks", [0, 19, 20, 25])
def test_principal_factors_of_any_rank(ranks):
    Y = samples(FLAT, (2,), 200)
    fit = fit_factor_model(Y, ranks, init="principal_factor", tol=1e-6)
    assert (np.diff(fit.loglik_trace) >= 0).all()


def dense_principal_factors(Y, ranks, h, sweeps):
    """The same on a tree, with the eigenvectors of dense blocks."""
    sd, R = Y.std(axis=0), np.corrcoef(Y.T)
    parts, psi = [np.zeros(R.shape) for _ in ranks], np.full(h.n, 0.5)
    for _ in range(sweeps):
        for level in np.flatnonzero(ranks):
            parts[level] = np.zeros(R.shape)
            left, root = R - sum(parts), np.sqrt(psi)
            for g in range(h.group_counts[level]):
                at = h.features(level, g)
                values, V = np.linalg.eigh(left[np.ix_(at, at)] / np.outer(root[at], root[at]))
                V, values = (x[..., ::-1][..., : ranks[level]] for x in (V, values))
                L = root[at, None] * V * np.sqrt(np.maximum(values - 1, 0))
                parts[level][np.ix_(at, at)] = L @ L.T
            psi = np.clip(1 - np.diag(sum(parts)), LEAST_UNIQUENESS, 1)
    return sum(parts) * np.outer(sd, sd), psi * sd**2


@pytest.mark.parametrize("h, ranks", [
    (H, (2, 1, 0)), (Hierarchy(range(20), [[0, 9, 20]]), (2,)),
    (Hierarchy(range(20), [[0, 20], [0, 6, 13, 20]]), (1, 1))])
def test_principal_factors_of_a_tree_by_the_book(h, ranks):
    Y = samples(h, ranks, 300)
    F, D = started(Y, ranks, h, "principal_factor")
    found = dense_mlr(h, np.split(F, np.cumsum(ranks)[:-1], axis=1), np.zeros(20))
    S, psi = dense_principal_factors(Y, ranks, h, 20)
    close(D, psi, 1e-8)
    idle = 2 * IDLE * np.sqrt(np.outer(D, D))  # instead of zeros
    assert (np.abs(found - S) < idle + 1e-8).all()


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [float, np.float32])
@pytest.mark.parametrize("h, ranks", [
    (Hierarchy.balanced(400, [1, 4, 40]), (2, 1, 1)), (Hierarchy.flat(400), (3,))])
def test_principal_factors_sought_in_few_directions(h, ranks, dtype, monkeypatch):
    """Next to those of exact eigenvectors, and far nearer to the end than what an SVD gives."""
    Y = samples(h, ranks, 300).astype(dtype)
    found = begin(Y, ranks, h, "principal_factor")
    assert found.dtype == dtype
    at = {init: fit_factor_model(Y, ranks, h, init=init, max_iter=0).loglik
          for init in ("principal_factor", "svd")}
    monkeypatch.setattr(principal_start, "FEW", 10**9)
    exact = fit_factor_model(Y, ranks, h, init="principal_factor", max_iter=0).loglik
    best = fit_factor_model(Y, ranks, h).loglik
    assert best - at["principal_factor"] < 0.25 * (best - at["svd"])
    assert at["principal_factor"] > exact - 0.15 * (best - at["svd"])


@pytest.mark.parametrize("form", ["sparse", "missing", "weights"])
def test_principal_factors_of_data_of_any_kind(form):
    Y = samples(N=60)
    data, options = {"sparse": (sp.csr_array(Y), {}), "missing": (Y, {"missing": "em"}),
                     "weights": (np.concatenate([Y, 1 + Y[:3]]),
                                 {"sample_weight": np.repeat([2.0, 0.0], [60, 3])})}[form]
    expected = begin(Y, RANKS, H, "principal_factor").toarray()
    close(begin(data, RANKS, H, "principal_factor", **options).toarray(), expected, 1e-8)
    if form == "missing":
        gaps = np.where(np.random.default_rng(0).random(Y.shape) < 0.1, np.nan, Y)
        fit = fit_factor_model(gaps, RANKS, H, missing="em", tol=1e-6)
        assert (np.diff(fit.loglik_trace) >= 0).all() and fit.n_iter > 2


@pytest.mark.parametrize("ranks", [(9, 9, 9), (0, 3, 0), (0, 0, 0), (25, 0, 1)])
def test_principal_factors_of_any_ranks_on_a_tree(ranks):
    for N in (4, 60):
        A = begin(samples(N=N), ranks, H, "principal_factor")
        assert np.isfinite(A.F).all() and (A.D > 0).all()
        close(begin(samples(N=N) * 2.0**30, ranks, H, "principal_factor").toarray(),
              A.toarray() * 2.0**60, 1e-10)
    if not any(ranks):
        close(A.D, samples(N=60).var(axis=0), 1e-12)


def test_the_24_tests_of_holzinger_and_swineford():
    """The test statistics that R documents for `factanal(covmat = Harman74.cor)`."""
    R = np.loadtxt(HARMAN, delimiter=",", skiprows=5)
    N, p = 145, 24
    Z = np.random.default_rng(0).standard_normal((N, p))
    Q = np.linalg.qr(Z - Z.mean(axis=0))[0]
    Y = np.sqrt(N) * Q @ np.linalg.cholesky(R).T
    close(np.corrcoef(Y.T), R, 1e-12)
    whole = -0.5 * (p * np.log(2 * np.pi) + np.linalg.slogdet(R)[1] + p)
    known = {1: (622.91, 252), 2: (420.24, 229), 3: (295.59, 207), 4: (226.68, 186),
             5: (186.82, 166)}
    for k, (chi_square, df) in known.items():
        fit = fit_factor_model(Y, k, gtol=1e-7, tol=0)
        found = (N - 1 - (2 * p + 5) / 6 - 2 * k / 3) * 2 * (whole - fit.loglik)
        assert found == pytest.approx(chi_square, abs=0.006)
        assert p * (p + 1) // 2 + p - fit.degrees_of_freedom == df
        assert fit.boundary.size == 0


# ---------------------------------------------------------------- random, operators


def test_random_starts_are_seeded():
    Y = samples()
    one, same, other = (begin(Y, init="random", random_state=s) for s in (3, 3, 4))
    assert np.array_equal(one.F, same.F) and not np.allclose(one.F, other.F)
    many = begin(Y, init="random", random_state=np.random.default_rng(3))
    assert np.array_equal(many.F, one.F)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**30])
def test_random_starts_in_other_units(scale):
    Y = samples()
    one, other = (begin(Y * s, init="random", random_state=3) for s in (1.0, scale))
    close(other.F, one.F * scale, 1e-12)
    close(other.D, one.D * scale**2, 1e-12)


@pytest.mark.slow
def test_random_starts_have_the_variance_of_the_data():
    Y = samples()
    mean = np.mean([begin(Y, init="random", random_state=s).diagonal() for s in range(300)], axis=0)
    np.testing.assert_allclose(mean / Y.var(axis=0), 1, atol=0.15)
    close(begin(Y, (0, 0, 0), init="random").D, Y.var(axis=0), 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, float])
def test_operators_are_taken_as_they_are(dtype):
    factors = [np.random.default_rng(1).standard_normal((20, r)) for r in RANKS]
    factors[2][H.features(2, 0), 1] = 0  # a single feature cannot use two
    A = MLR(H, factors, np.linspace(1, 2, 20))
    F, D = A.F.copy(), A.D.copy()
    found = begin(samples().astype(dtype), init=A)
    assert np.array_equal(found.F, F.astype(dtype)) and np.array_equal(found.D, D.astype(dtype))
    assert np.array_equal(A.F, F) and np.array_equal(A.D, D)


def test_a_fit_can_go_on_from_its_result():
    Y = samples(N=300)
    fit = fit_factor_model(Y, (1, 1, 0), H)
    again = fit_factor_model(Y, (1, 1, 0), H, init=fit.covariance)
    assert again.loglik_trace[0] == pytest.approx(fit.loglik, abs=1e-9)
    assert again.converged and again.n_iter < fit.n_iter / 2


# ---------------------------------------------------------------- groups smaller than their rank


@pytest.mark.quick(8)
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("init", ["svd", "frobenius", "random"])
@pytest.mark.parametrize("form", ["array", "sparse", "missing"])
def test_capped_groups(init, optimizer, form):
    """Columns that a small group cannot use are zero from the start to the end, and reported."""
    Y, ranks, seen = samples(N=80), (1, 7, 5), []
    Y = {"array": Y, "sparse": sp.csr_array(Y),
         "missing": np.where(np.random.default_rng(0).random(Y.shape) < 0.1, np.nan, Y)}[form]
    fit = fit_factor_model(Y, ranks, H, init=init, optimizer=optimizer, max_iter=25,
                           missing="em", random_state=0, callback=seen.append)
    assert fit.capped == ((1, 0, 6), (2, 0, 1))
    assert len(seen) == fit.n_iter + 1 > 9
    sizes = [H.group_sizes(level)[H.labels(level)] for level in range(3)]
    for A in [it.covariance for it in seen] + [fit.covariance]:
        for F, size, r in zip(A.factors, sizes, ranks, strict=True):
            beyond = np.arange(r) >= np.minimum(size, r)[:, None]
            assert not F[beyond].any()
            assert F[~beyond].all()


def test_nothing_is_capped_where_there_is_room():
    assert fit_factor_model(samples(), (2, 1, 1), H, max_iter=1).capped == ()
    assert fit_factor_model(samples(), 21, max_iter=1).capped == ((0, 0, 20),)
