"""Degrees of freedom and corrected covariances: dense formulas, limits, a small simulation."""

import warnings

import numpy as np
import pytest
import scipy.stats
from trees import close, dense_mlr, make_case, permuted_case, same_group, spread

from mlrops import MLR, ConvergenceWarning, Dense, Hierarchy, als_gls
from mlrops.regression.sur.small_sample import (
    corrected_covariance,
    effective_weights,
    residual_df,
    wald_df,
)

N7, P7 = np.array([25, 18, 40, 30, 22, 19, 60]), np.array([1, 4, 2, 3, 6, 5, 2])
# Permuted; a group of one, one of two equations with rank 2, one of four; a level of rank 0.
TREE7 = Hierarchy([3, 6, 0, 2, 5, 1, 4], [[0, 7], [0, 3, 7], [0, 1, 3, 7]])


def by_hand(case, N, p, bias_only=False):
    """(q, ν, corrected Σ) from dense matrices, equation by equation."""
    h, K = case.hierarchy, case.hierarchy.n
    F, D = [np.asarray(f, float) for f in case.factors], np.asarray(case.D, float)
    S = spread(h, F)
    posterior = np.linalg.inv(np.eye(S.shape[1]) + S.T @ (S / D[:, None]))
    tau = 1 / np.diag(np.linalg.inv(dense_mlr(h, F, D)))
    q, nu, c, noisy = np.zeros((4, K))
    scales = np.empty((len(F), K))
    for j in range(K):
        noise, k, mean_leverage, v, most = D[j], 0, 0.0, 0.0, 0
        start = 0
        for level, f in enumerate(F):
            r, groups = f.shape[1], h.group_counts[level]
            group = h.labels(level)[j]
            m = int((h.labels(level) == group).sum())
            own = slice(start + r * group, start + r * (group + 1))
            start += r * groups
            if r == 0:
                continue
            if m == 1:
                noise += f[j] @ f[j]
            counted = min(r, m - 1)
            trace = np.linalg.eigvalsh(posterior[own, own])[:counted].sum()
            k, v, most = k + counted, v + trace, max(most, m - 1)
            mean_leverage += (counted - trace) / m
        leverage = 1 - noise / tau[j]
        q[j] = min(k + (k + 2) * max(leverage, mean_leverage) + v, most)
        left = N[j] - p[j]
        nu[j] = max(left - q[j], 1)
        c[j] = N[j] / nu[j]
        if not bias_only:
            c[j] *= 1 + (left - nu[j]) / max(nu[j] - 1, 1)
        noisy[j] = N[j] / left * (1 - leverage) + c[j] * leverage
    for level in range(len(F)):
        alone = same_group(h, level).sum(axis=1) == 1
        scales[level] = np.where(alone, c, noisy)
    F = [f * np.sqrt(s)[:, None] for f, s in zip(F, scales, strict=True)]
    return q, nu, dense_mlr(h, F, c * D)


CASES = {
    "one level": lambda: make_case(Hierarchy.flat(7), (2,), seed=1),
    "rank 0": lambda: make_case(Hierarchy.flat(7), (0,), seed=1),
    "more factors than equations": lambda: make_case(Hierarchy.flat(3), (5,), seed=1),
    "tree": lambda: make_case(TREE7, (1, 0, 2), seed=3),
    "tree of capped groups": lambda: make_case(TREE7, (2, 4, 1), seed=4),
    "permuted, two roots": permuted_case,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_by_hand(case):
    case = case()
    K = case.hierarchy.n
    N, p = np.resize(N7, K), np.resize(P7, K)
    q, nu, corrected = by_hand(case, N, p)
    close(effective_weights(case.A), q)
    close(residual_df(case.A, N, p), nu)
    B = corrected_covariance(case.A, N, p)
    close(B.toarray(), corrected)
    assert B.hierarchy == case.A.hierarchy and B.ranks == case.A.ranks
    _, _, unbiased = by_hand(case, N, p, bias_only=True)
    close(corrected_covariance(case.A, N, p, bias_only=True).toarray(), unbiased)


def test_float32():
    case = make_case(TREE7, (1, 0, 2), seed=3, dtype=np.float32)
    q, nu, corrected = by_hand(case, N7, P7)
    B = corrected_covariance(case.A, N7, P7)
    assert B.dtype == np.float32
    close(B.toarray(), corrected, 1e-5)
    close(residual_df(case.A, N7, P7), nu, 1e-5)


def test_order_of_equations_does_not_matter():
    case = make_case(TREE7, (1, 0, 2), seed=3)
    order = np.array([5, 0, 6, 3, 1, 4, 2])
    A = case.A.restrict(order)
    close(residual_df(A, N7[order], P7[order]), residual_df(case.A, N7, P7)[order])
    close(corrected_covariance(A, N7[order], P7[order]).toarray(),
          corrected_covariance(case.A, N7, P7).toarray()[np.ix_(order, order)])


def test_factors_may_be_rotated_and_equations_rescaled():
    case = make_case(Hierarchy.flat(6), (3,), seed=8)
    turn = np.linalg.qr(case.rng.standard_normal((3, 3)))[0]
    units = np.exp(case.rng.uniform(-5, 5, 6))
    other = MLR(case.hierarchy, [case.factors[0] @ turn * units[:, None]], case.D * units**2)
    close(residual_df(other, 20, 3), residual_df(case.A, 20, 3))
    close(corrected_covariance(other, 20, 3).toarray() / np.outer(units, units),
          corrected_covariance(case.A, 20, 3).toarray())


# ---------------------------------------------------------------- limits


def test_uncorrelated_equations_are_least_squares():
    A = MLR(Hierarchy.flat(7), [np.zeros((7, 0))], np.arange(1.0, 8))
    np.testing.assert_array_equal(residual_df(A, N7, P7), N7 - P7)
    close(corrected_covariance(A, N7, P7).toarray(), np.diag(A.D * N7 / (N7 - P7)))


def test_one_equation():
    """A factor of one equation is more of its variance: s² and N - p, as in least squares."""
    A = MLR(Hierarchy.flat(1), [np.array([[2.0]])], np.array([3.0]))
    assert effective_weights(A) == 0 and residual_df(A, 20, 3) == 17
    close(corrected_covariance(A, 20, 3).toarray(), np.array([[7.0 * 20 / 17]]))


def test_two_equations_have_one_weight():
    """As many as an unstructured Σ, where the cost is that of one more regressor."""
    A = MLR(Hierarchy.flat(2), [np.array([[2.0], [1.0]])], np.array([3.0, 1.0]))
    close(effective_weights(A), np.ones(2))
    close(residual_df(A, 20, [3, 5]), np.array([16.0, 14.0]))


@pytest.mark.parametrize("K, most", [(5, 4), (3, 2)])
def test_never_more_weights_than_other_equations(K, most):
    A = make_case(Hierarchy.flat(K), (K,), seed=2).A
    close(effective_weights(A), np.full(K, float(most)))


def test_known_and_unknown_factors():
    """k weights where factors are known, 2 k where loadings vanish."""
    h, f = Hierarchy.flat(2000), np.random.default_rng(0).standard_normal((2000, 3))
    for size, expected in (1.0, 3), (1e-4, 6):
        q = effective_weights(MLR(h, [size * f], np.ones(2000)))
        np.testing.assert_allclose(q, expected, atol=0.1)


@pytest.mark.slow
def test_first_order_cost_of_weights():
    """The mean of q is that of Fisher's information on all loadings and variances, to a tenth."""
    for K, k, size in (5, 1, 1.0), (12, 1, 0.5), (30, 2, 1.0):
        case = make_case(Hierarchy.flat(K), (k,), seed=K)
        F, D = size * case.factors[0], case.D
        S = F @ F.T + np.diag(D)
        precision = np.linalg.inv(S)
        unit = np.eye(K)
        changes = [np.outer(unit[i], f) + np.outer(f, unit[i]) for f in F.T for i in range(K)]
        changes = np.array([*changes, *(np.outer(e, e) for e in unit)])
        parts = precision @ changes
        information = np.einsum("aij,bji->ab", parts, parts) / 2
        inverse = np.linalg.pinv(information, rcond=1e-10, hermitian=True)
        moved = parts @ precision  # of Σ⁻¹, with the sign turned
        q = []
        for j in range(K):
            tau = 1 / precision[j, j]
            dw = tau * (moved[:, :, j] - tau * np.outer(moved[:, j, j], precision[j]))
            q.append(np.einsum("ab,ai,ij,bj->", inverse, dw, S, dw) / tau)
        mine = effective_weights(MLR(case.hierarchy, [F], D)).mean()
        np.testing.assert_allclose(mine, np.mean(q), rtol=0.1)


def test_large_samples_need_no_correction():
    case = make_case(TREE7, (1, 0, 2), seed=3)
    close(corrected_covariance(case.A, 10**9, P7).toarray(), case.dense, 1e-7)
    np.testing.assert_allclose(residual_df(case.A, 10**9, P7) / 1e9, 1, rtol=1e-7)


def test_corrections_raise_standard_errors():
    A = make_case(Hierarchy.flat(7), (2,), seed=1).A
    for N in 12, 20, 100:
        B = corrected_covariance(A, N, 3)
        assert (B.partial_variance() > N / (N - 3) * A.partial_variance()).all()
        assert (B.diagonal() > N / (N - 3) * A.diagonal()).all()


@pytest.mark.parametrize("N", [4, 5, 6, 7])
def test_never_below_one_degree_of_freedom(N):
    A = make_case(Hierarchy.flat(7), (4,), seed=1).A
    nu = residual_df(A, N, 3)
    assert (nu >= 1).all() and nu.min() == 1
    B = corrected_covariance(A, N, 3)
    assert np.isfinite(B.toarray()).all()
    assert (B.D >= N / (N - 3) * A.D).all()


def test_heywood_cases():
    """A variance at the floor: the loadings are the equation's noise, and are scaled as such."""
    F = np.array([[1.0, 0], [0.3, 0.5], [0.2, 0.7], [0.1, 0.4], [-0.2, 0.6]])
    A = MLR(Hierarchy.flat(5), [F], np.array([1e-6, 1, 1, 1, 1]))
    B = corrected_covariance(A, 20, 3)
    nu = residual_df(A, 20, 3)
    c = 20 / nu * (1 + (17 - nu) / (nu - 1))
    np.testing.assert_allclose((B.diagonal() / A.diagonal())[0], c[0], rtol=1e-5)
    assert (effective_weights(A) > 2.9).all()


def test_shared_regressors():
    """No weights are estimated: N / sqrt((N - p_i)(N - p_j))."""
    case = make_case(TREE7, (1, 0, 2), seed=3)
    root = np.sqrt(N7 / (N7 - 3))
    off = case.dense * np.outer(root, root)
    close(corrected_covariance(case.A, N7, 3, shared=True).toarray(), off)
    np.testing.assert_array_equal(residual_df(case.A, N7, 3, shared=True), N7 - 3)


# ---------------------------------------------------------------- tests of several coefficients


def test_wald_df_within_an_equation():
    rng = np.random.default_rng(0)
    C = np.cov(rng.standard_normal((5, 20)))
    R = np.zeros((2, 5))
    R[:, 2:] = rng.standard_normal((2, 3))
    assert wald_df(R, C, [0, 0, 1, 1, 1], [4.5, 13.25]) == 13.25


def test_wald_df_of_a_contrast_is_satterthwaites():
    C = np.diag([3.0, 1.0])
    expected = 4.0**2 / (3.0**2 / 10 + 1.0**2 / 16)
    assert np.isclose(wald_df([[1.0, -1.0]], C, [0, 1], [10.0, 16.0]), expected)


def test_wald_df_keeps_the_mean_of_squared_t():
    df = np.array([6.0, 9.0, 30.0])
    nu = wald_df(np.eye(3), np.diag([1.0, 4.0, 9.0]), [0, 1, 2], df)
    assert np.isclose(scipy.stats.f(3, nu).mean(), np.mean(df / (df - 2)))
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    assert np.isclose(wald_df(turned, np.diag([1.0, 4.0, 9.0]), [0, 1, 2], df), nu)


def test_wald_df_knows_the_hypothesis_not_how_it_is_written():
    rng = np.random.default_rng(2)
    C = np.cov(rng.standard_normal((9, 40)))
    equations, df = np.repeat([0, 1, 2], 3), np.array([6.0, 11.0, 40.0])
    R = rng.standard_normal((4, 9))
    nu = wald_df(R, C, equations, df)
    assert 6 < nu < 57
    for turn in (np.diag([1e-6, 1.0, 1e6, 1.0]), rng.standard_normal((4, 4))):
        assert np.isclose(wald_df(turn @ R, C, equations, df), nu, rtol=1e-6)
    order = rng.permutation(9)
    assert np.isclose(wald_df(R[:, order], C[np.ix_(order, order)], equations[order], df), nu)


def test_wald_df_gives_the_mean_of_the_statistic():
    """Blocks of the covariance that vary like independent chi squares, nothing in common."""
    rng = np.random.default_rng(3)
    df = np.array([20.0, 35.0, 60.0])
    equations = np.repeat([0, 1, 2], 2)
    C = np.kron(np.eye(3), np.ones((2, 2))) * np.cov(rng.standard_normal((6, 30)))
    R = rng.standard_normal((2, 6))
    b = R @ np.linalg.cholesky(C) @ rng.standard_normal((6, 100_000))
    scales = rng.chisquare(df, (100_000, 3)) / df
    parts = [R[:, equations == j] @ C[np.ix_(equations == j, equations == j)]
             @ R[:, equations == j].T for j in range(3)]
    V = np.einsum("nj,jab->nab", scales, parts)
    F = np.einsum("an,na->n", b, np.linalg.solve(V, b.T[:, :, None])[:, :, 0]) / 2
    expected = scipy.stats.f(2, wald_df(R, C, equations, df)).mean()
    assert abs(F.mean() - expected) < 0.01 < abs(expected - 1)


def test_wald_df_without_a_mean():
    assert wald_df(np.eye(2), np.eye(2), [0, 1], [1.5, 9.0]) == 1.5


def test_wald_df_of_equal_equations():
    assert np.isclose(wald_df(np.eye(3), np.eye(3), [0, 1, 2], [7.5] * 3), 7.5)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("N, p, error, message", [
    (20, 20, ValueError, "equation 0 has 20 and 20"),
    (20, [1, 2, 20, 3, 25, 1, 1], ValueError, r"\(2 equations: 2, 4\)"),
    (20.0, 3, TypeError, "N must be an integer"),
    (20, [1, 2], ValueError, "p must be one number or one for each of the 7 equations"),
    (20, -1, ValueError, "p must not be negative"),
])
@pytest.mark.parametrize("function", [corrected_covariance, residual_df])
def test_bad_counts(function, N, p, error, message):
    with pytest.raises(error, match=message):
        function(make_case(Hierarchy.flat(7), (1,), seed=0).A, N, p)


@pytest.mark.parametrize("function", [corrected_covariance, residual_df])
def test_other_covariances(function):
    with pytest.raises(TypeError, match="need the MLR that was fitted, got Dense"):
        function(Dense(np.eye(3), positive_definite=True), 20, 3)


@pytest.mark.parametrize("R, C, equations", [
    (np.eye(2), np.eye(3), [0, 1, 1]), (np.eye(2), np.eye(2), [0])])
def test_shapes_of_wald_df(R, C, equations):
    with pytest.raises(ValueError, match="restrictions have 2 columns"):
        wald_df(R, C, equations, [5.0, 5.0])


# ---------------------------------------------------------------- does it work


@pytest.mark.slow
def test_coverage_in_a_small_simulation():
    """Coefficients of twelve slopes, N = 20: 95% intervals, with and without the correction."""
    rng = np.random.default_rng(12)
    K, N, draws = 6, 20, 150
    Xs = [np.column_stack([np.ones(N), rng.standard_normal((N, 2))]) for _ in range(K)]
    X = np.concatenate([x.T for x in Xs])
    equation = np.repeat(np.arange(K), 3)
    slopes = np.tile([False, True, True], K)

    def errors(sigma):
        normal = X @ X.T * np.linalg.inv(sigma.toarray())[np.ix_(equation, equation)]
        return np.sqrt(np.diag(np.linalg.inv(normal)))[slopes]

    inside, plain, ratio = [], [], []
    for _ in range(draws):
        E = rng.standard_normal((N, 1)) + rng.standard_normal((N, K))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = als_gls(Xs, E, ranks=1, tol=1e-6, gtol=1e-3)
        b = np.concatenate(fit.params)[slopes]
        t = scipy.stats.t.ppf(0.975, residual_df(fit.covariance, N, 3))[equation[slopes]]
        se = errors(corrected_covariance(fit.covariance, N, 3))
        inside.append(np.abs(b) <= t * se)
        plain.append(np.abs(b) <= 1.96 * errors(fit.covariance))
        ratio.append((b**2, se**2))
    squares, variances = np.mean(ratio, axis=0)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert np.mean(plain) < 0.90
    assert 0.9 < np.sqrt(variances.sum() / squares.sum()) < 1.1
