"""The factor model nearest to the sample covariance: by value, and as a start of EM."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize
from trees import close, dense_mlr, same_group

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.datasets import load_french, simulate_mlr
from mlrops.factor.estep.sources import open_source
from mlrops.factor.frobenius_start import IDLE, FrobeniusFit
from mlrops.factor.start import LEAST_SHARE, start

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

H = Hierarchy(np.random.default_rng(0).permutation(20), [[0, 20], [0, 6, 20], [0, 1, 6, 11, 20]])
FLAT = Hierarchy.flat(20)
WIDE = Hierarchy(np.random.default_rng(1).permutation(400),
                 [[0, 400], [0, 150, 170, 400], [0, 37, 54, 150, 152, 153, 170, 290, 400]])
CASES = [(H, (2, 1, 2)), (H, (0, 2, 0)), (H, (2, 0, 1)), (H, (1, 7, 5)), (FLAT, (2,)),
         (FLAT, (25,)), (H, (0, 0, 0)), (Hierarchy(range(20), [[0, 7, 20]]), (3,))]


def samples(h=H, ranks=(2, 1, 2), N=60, seed=0):
    rng = np.random.default_rng(seed)
    A = MLR(h, [rng.standard_normal((h.n, r)) for r in ranks], rng.uniform(0.5, 1.5, h.n))
    return A.sample(N, random_state=seed) + 3 * rng.standard_normal(h.n)


def covariance(Y):
    """In feature order."""
    return np.cov(Y.T, bias=True)


def begin(Y, h, ranks, share=LEAST_SHARE, dtype=float):
    """The descent before its first visit, and S in tree order."""
    X = ((Y - Y.mean(axis=0)).T / np.sqrt(len(Y)))[h.permutation].astype(dtype)
    return FrobeniusFit(X, h, ranks, share * Y.var(axis=0)[h.permutation]), covariance(Y)


def operator(fit, h, ranks):
    """Its Σ in feature order, float64."""
    F = h._scatter(fit.F.astype(float))
    return dense_mlr(h, np.split(F, np.cumsum(ranks)[:-1], axis=1), h._scatter(fit.D))


def started(Y, ranks, h, seed=None, **options):
    """What `start` gives, in feature order."""
    options = {"missing": "raise", "sample_weight": None, "compress": None, **options}
    source, h, _ = open_source(Y, h, True, *options.values())
    F, D = start("frobenius", h, ranks, source, seed)
    assert F.dtype == D.dtype == np.float64 and F.shape == (h.n, sum(ranks))
    F = h._scatter(F)
    return dense_mlr(h, np.split(F, np.cumsum(ranks)[:-1], axis=1), h._scatter(D))


# ---------------------------------------------------------------- the descent


def dense_descent(S, h, ranks, floor, sweeps):
    """The same descent with exact eigendecompositions of dense blocks, in feature order."""
    n, D = len(S), np.maximum(np.diag(S), floor)
    parts = [np.zeros((n, n)) for _ in ranks]
    used = [level for level, r in enumerate(ranks) if r]
    for _ in range(sweeps):
        for level in used + used[-2::-1]:
            left = S - sum(parts) + parts[level] - np.diag(D)
            parts[level] = np.zeros((n, n))
            for g in range(h.group_counts[level]):
                here = np.ix_(*[h.features(level, g)] * 2)
                values, V = np.linalg.eigh(left[here])
                V = V[:, ::-1][:, : ranks[level]]
                values = np.maximum(values[::-1][: ranks[level]], 0)
                parts[level][here] = V * values @ V.T
            D = np.maximum(np.diag(S - sum(parts)), floor)
    return sum(parts) + np.diag(D)


@pytest.mark.quick(3)
@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("h, ranks", CASES)
def test_error_is_that_of_dense_descent(h, ranks, share):
    Y = samples(N=200)
    fit, S = begin(Y, h, ranks, share)
    fit.run(0, 1000)
    found = operator(fit, h, ranks)
    expected = dense_descent(S, h, ranks, share * np.diag(S), 1000)
    error, least = np.linalg.norm(S - found), np.linalg.norm(S - expected)
    assert error <= least * (1 + 1e-6) + 1e-7 * np.linalg.norm(S)


@pytest.mark.quick(1)
@pytest.mark.parametrize("h, ranks", CASES)
@pytest.mark.parametrize("N", [12, 200])
def test_the_end_is_stationary(h, ranks, N):
    """No block has a better approximation, no entry of D a better value."""
    Y = samples(N=N)
    fit, S = begin(Y, h, ranks)
    fit.run(0, 1000)
    left = S - operator(fit, h, ranks)
    F, scale = h._scatter(fit.F), np.linalg.norm(S, 2)
    D, floor = h._scatter(fit.D), LEAST_SHARE * np.diag(S)
    assert (D >= floor * (1 - 1e-12)).all()
    assert np.abs(np.diag(left)[D > floor * (1 + 1e-9)]).max(initial=0) < 1e-12 * scale
    assert np.diag(left).max() < 1e-12 * scale
    for level, part in enumerate(np.split(F, np.cumsum(ranks)[:-1], axis=1)):
        M = np.where(same_group(h, level), part @ part.T, 0)
        assert np.linalg.norm(np.where(same_group(h, level), left, 0) @ M) < 1e-5 * scale**2
        for g in range(h.group_counts[level] if ranks[level] else 0):
            here = np.ix_(*[h.features(level, g)] * 2)
            best = np.linalg.eigvalsh((left + M)[here])[::-1][: ranks[level]]
            mine = np.linalg.eigvalsh(M[here])[::-1][: ranks[level]]
            np.testing.assert_allclose(mine, np.maximum(best, 0), atol=1e-5 * scale)


@pytest.mark.quick(7)
@pytest.mark.parametrize("dtype, slack", [(float, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("h, ranks", [*CASES, (WIDE, (3, 2, 1)), (WIDE, (0, 30, 4))])
def test_no_half_step_raises_the_error(h, ranks, dtype, slack):
    Y = samples(h, (2,) * h.n_levels, N=60)
    fit, S = begin(Y, h, ranks, dtype=dtype)
    scale, errors = np.linalg.norm(S), []

    def record():
        errors.append(np.linalg.norm(S - operator(fit, h, ranks)) / scale)
        assert fit.residual.explained() / scale**2 == pytest.approx(
            1 - errors[-1] ** 2, abs=100 * slack)

    record()
    for level in [level for level, r in enumerate(ranks) if r] * 4:
        fit.improve_F(level)
        record()
        fit.improve_D()
        record()
    assert (np.diff(errors) <= slack).all()
    assert errors[-1] < 0.9 * errors[0] or not any(ranks)


@pytest.mark.parametrize("r", [1, 2, 4])
def test_one_group_is_unweighted_least_squares(r):
    """Where no D is at the floor, the off-diagonal entries alone decide: as an optimizer finds."""
    Y = samples(FLAT, (r,), 400)
    fit, S = begin(Y, FLAT, (r,), share=1e-6)
    fit.run(0, 5000)
    assert (fit.D > 0.01 * np.diag(S)).all()

    def off_diagonal(x):
        L = x.reshape(20, r)
        E = S - L @ L.T
        np.fill_diagonal(E, 0)
        return np.square(E).sum(), (-4 * E @ L).ravel()

    x = np.random.default_rng(0).standard_normal(20 * r)
    found = minimize(off_diagonal, x, jac=True, method="L-BFGS-B",
                     options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10000})
    L = found.x.reshape(20, r)
    assert np.linalg.norm(S - operator(fit, FLAT, (r,))) ** 2 == pytest.approx(found.fun, rel=1e-8)
    close(fit.F @ fit.F.T, L @ L.T, 1e-5)


def test_a_matrix_of_this_kind_is_found():
    rng = np.random.default_rng(0)
    A = MLR(WIDE, [rng.standard_normal((400, r)) for r in (2, 1, 0)], rng.uniform(1, 2, 400))
    X = np.linalg.cholesky(A.toarray())[WIDE.permutation]
    fit = FrobeniusFit(X, WIDE, (2, 1, 0), 0.01 * np.square(X).sum(axis=1))
    fit.run(0, 200)
    close(operator(fit, WIDE, (2, 1, 0)), A.toarray(), 1e-6)


# ---------------------------------------------------------------- data of every kind


def forms(Y):
    N = len(Y)
    return {"float32": (Y.astype(np.float32), {}), "sparse": (sp.csr_array(Y), {}),
            "chunks": ([Y[:20], Y[20:]], {}), "no cell missing": (Y, {"missing": "em"}),
            "weights": (np.concatenate([Y, 1 + Y[:3]]),
                        {"sample_weight": np.repeat([2.0, 0.0], [N, 3])}),
            "uncompressed": (Y, {"compress": False})}


@pytest.mark.quick(4)
@pytest.mark.parametrize("form", forms(samples()))
@pytest.mark.parametrize("N", [15, 60])
def test_the_kind_of_data_does_not_matter(form, N):
    Y, ranks = samples(N=N), (2, 1, 2)
    data, options = forms(Y)[form]
    close(started(data, ranks, H, **options), started(Y, ranks, H),
          1e-4 if form == "float32" else 1e-8)


def test_weights_are_repetitions():
    Y, times = samples(), np.random.default_rng(1).integers(0, 4, 60)
    close(started(Y, (2, 1, 2), H, sample_weight=times),
          started(np.repeat(Y, times, axis=0), (2, 1, 2), H), 1e-8)


def test_missing_cells_stand_at_their_means():
    Y = np.where(np.random.default_rng(0).random((60, 20)) < 0.2, np.nan, samples())
    filled = np.where(np.isnan(Y), 0, Y - np.nanmean(Y, axis=0))
    filled *= np.sqrt(np.nanvar(Y, axis=0) / np.square(filled).mean(axis=0))
    twice = np.concatenate([filled, -filled])  # with means of zero
    close(started(Y, (2, 1, 2), H, missing="em"), started(twice, (2, 1, 2), H), 1e-8)


def test_the_order_of_features_does_not_matter():
    Y, order = samples(), np.random.default_rng(3).permutation(20)
    place = np.argsort(order)
    other = Hierarchy(place[H.permutation], H.boundaries)
    close(started(Y[:, order], (2, 1, 2), other), started(Y, (2, 1, 2), H)[np.ix_(order, order)],
          1e-10)


def test_a_sketch_of_many_samples_will_do():
    """With more samples than a sketch has columns, D and F still add up to the variances."""
    h = Hierarchy.balanced(6000, [1, 6, 600])
    sim = simulate_mlr(h, (1, 1, 1), n_samples=100, random_state=0)
    A = sim.covariance
    gaps = {}
    for init in ("svd", "frobenius"):
        fit = fit_factor_model(sp.csr_array(sim.Y), (1, 1, 1), h, init=init, max_iter=0)
        gaps[init] = fit.loglik
        rest = fit.covariance.diagonal() - sim.Y.var(axis=0)
        assert np.abs(rest / A.diagonal()).max() < 0.2
    assert gaps["frobenius"] > gaps["svd"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [float, np.float32])
@pytest.mark.parametrize("h, ranks", [(H, (2, 1, 2)), (FLAT, (2,)), (H, (1, 7, 5))])
def test_units(h, ranks, dtype):
    Y = samples().astype(dtype)
    expected = started(Y, ranks, h)
    for scale in (1e-14, 1e-8, 1e-3, 1e5, 1e8, 1e14):
        close(started(Y * dtype(scale), ranks, h) / scale**2, expected,
              1e-4 if dtype == np.float32 else 1e-10)
    assert np.array_equal(started(Y * dtype(2.0**20), ranks, h), expected * 2.0**40)


# ---------------------------------------------------------------- columns without a use


def test_idle_columns_begin_small():
    """Next to D a single feature has no use for a factor, and a pair for one of two."""
    h = Hierarchy(np.random.default_rng(0).permutation(12), [[0, 12], [0, 1, 3, 12]])
    Y = samples(h, (1, 1), 100)
    Y /= Y.std(axis=0)  # what a start sees
    source, _, _ = open_source(Y, h, True, "raise", None, None)
    F, D = start("frobenius", h, (1, 2), source, None)
    fit, S = begin(Y, h, (1, 2))
    fit.run(1e-4, 30)
    assert np.abs(fit.F[0, 1:]).max() < 1e-6
    assert np.square(fit.F[1:3, 2]).sum() < 1e-6 * fit.D[1]
    assert F[0, 1] != 0 and F[0, 2] == 0  # a single feature cannot have two
    assert (F[1:3, 2] != 0).all()
    assert np.square(F[0, 1]) < 16 * IDLE * D[0]
    close(F[3:] @ F[3:].T, fit.F[3:] @ fit.F[3:].T, 1e-10)
    close(D, fit.D, 1e-10)


# ---------------------------------------------------------------- EM from there


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("counts, ranks, N", [
    ([1], (4,), 300), ([1, 5, 20], (3, 2, 1), 200), ([1, 2, 50], (2, 1, 1), 500)])
def test_em_gets_as_far_and_from_nearer(counts, ranks, N, optimizer):
    h = Hierarchy.balanced(100, counts)
    sim = simulate_mlr(h, ranks, n_samples=N, random_state=0)
    fits = {init: fit_factor_model(sim.Y, ranks, h, init=init, optimizer=optimizer)
            for init in ("svd", "frobenius")}
    far, near = (fits[init].loglik - fits[init].loglik_trace[0] for init in ("svd", "frobenius"))
    assert fits["frobenius"].loglik >= fits["svd"].loglik - 1e-4
    assert near < 0.5 * far
    assert (np.diff(fits["frobenius"].loglik_trace) >= 0).all()


def test_returns_with_groups_of_three():
    """The small variances of stock portfolios: no worse a maximum."""
    data = load_french()
    fits = [fit_factor_model(data.returns, (3, 1, 1), data.hierarchy, init=init, tol=1e-9,
                             optimizer="bfgs")
            for init in ("svd", "frobenius")]
    assert fits[1].loglik >= fits[0].loglik - 1e-4  # two maxima 3e-5 apart: rounding decides
    assert fits[1].loglik_trace[0] > fits[0].loglik_trace[0]


@pytest.mark.slow
@pytest.mark.parametrize("counts", [[1, 20, 4000], [1, 20000]])
def test_memory_is_that_of_the_samples(counts):
    n, N = 20_000, 50
    h = Hierarchy.balanced(n, counts)
    Y = np.random.default_rng(0).standard_normal((N, n))
    source, _, _ = open_source(Y, h, True, "raise", None, None)
    tracemalloc.start()
    try:
        start("frobenius", h, (2, 1, 1)[: len(counts)], source, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * Y.nbytes < 0.03 * n * n * 8
