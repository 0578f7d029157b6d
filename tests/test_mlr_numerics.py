"""MLR where it is hard: huge and tiny leaves, many levels, variances over twelve decades."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from trees import PATHS, cases, close, computing, make_case, same_group, spread

from mlrops import MLR, Hierarchy

# ---------------------------------------------------------------- large leaves


def reference(h, factors, D):
    """Product and solve through the spread-out factors, n and s moderate, never n×n."""
    F = spread(h, factors)
    small = scipy.linalg.cho_factor(np.eye(F.shape[1]) + F.T @ (F / D[:, None]))

    def multiply(x):
        return (D * x.T).T + F @ (F.T @ x)

    def solve(b):
        t = (b.T / D).T
        return t - ((F @ scipy.linalg.cho_solve(small, F.T @ t)).T / D).T

    logdet = np.log(D).sum() + 2 * np.log(np.diag(small[0])).sum()
    return multiply, solve, logdet


@pytest.mark.quick(1)
@pytest.mark.parametrize("leaves", [
    [12_000],  # one huge leaf, cut into pieces for a single right-hand side
    [5_000, 1, 6_500, 3, 496],
    [1, 2, 3, 4_097, 40, 7, 1, 7_000, 300, 1, 500, 48],
], ids=str)
def test_huge_and_tiny_leaves(leaves):
    rng = np.random.default_rng(len(leaves))
    n, ends = sum(leaves), np.cumsum([0, *leaves])
    h = Hierarchy(rng.permutation(n), [[0, n], ends[[0, len(leaves) // 2, -1]], ends]
                  if len(leaves) > 1 else [[0, n]])
    factors = [rng.standard_normal((n, r)) for r in (3, 4, 5)[: h.n_levels]]
    D = rng.uniform(1, 3, n)
    A = MLR(h, factors, D)
    multiply, solve, logdet = reference(h, factors, D)
    assert A.logdet() == pytest.approx(logdet, rel=1e-12)
    for shape in [(n,), (n, 1), (n, 3), (n, 40)]:
        x = rng.standard_normal(shape)
        close(A @ x, multiply(x), 1e-12)
        close(A.solve(x), solve(x), 1e-11)
        close(A.inv() @ x, solve(x), 1e-11)
        close(A.color(A.whiten(x)), x, 1e-11)
        close(A.inv_quad(x), (x * solve(x)).sum(axis=0), 1e-11)
    assert A.trace() == pytest.approx(D.sum() + sum(np.square(f).sum() for f in factors), rel=1e-12)


def test_many_levels():
    n, L = 64, 20
    h = Hierarchy.from_boundaries([np.arange(0, n + 1, 64 >> min(lv, 6)) for lv in range(L)])
    c = make_case(h, [1] * L, seed=0)
    x = c.rng.standard_normal((n, 5))
    close(c.A @ x, c.dense @ x)
    close(c.A.solve(x), np.linalg.solve(c.dense, x))
    close(c.A.logdet(), np.linalg.slogdet(c.dense)[1])


# ---------------------------------------------------------------- ill-conditioned


def backward_error(dense, x, b):
    """``‖Σx - b‖ / (‖Σ‖ ‖x‖ + ‖b‖)``, the residual in extended precision."""
    residual = np.linalg.norm((dense.astype(np.longdouble) @ x - b).astype(float))
    return residual / (np.linalg.norm(dense, 2) * np.linalg.norm(x) + np.linalg.norm(b))


DECADES = pytest.mark.parametrize("low, high", [(-6, 6), (-12, 0)])
SHAPES = pytest.mark.parametrize("counts, ranks", [
    ([1], [1]), ([1], [20]), ([1, 4, 40], [5, 3, 2]), ([2, 10, 60], [3, 2, 1]),
], ids=str)


def twelve_decades(counts, ranks, low, high, n=600):
    rng = np.random.default_rng(n + low)
    h = Hierarchy(rng.permutation(n), Hierarchy.balanced(n, counts).boundaries)
    F = rng.standard_normal((n, sum(ranks)))
    D = rng.permutation(np.logspace(low, high, n))
    return MLR.from_compact(h, ranks, F, D), rng


@pytest.mark.quick(1)
@pytest.mark.parametrize("path", ["as shipped", "BLAS for every leaf"])
@DECADES
@SHAPES
def test_backward_error_over_twelve_decades_of_variances(path, counts, ranks, low, high):
    with computing(path):
        A, rng = twelve_decades(counts, ranks, low, high)
        dense = A.toarray()
        b = np.column_stack([rng.standard_normal((600, 2)), dense @ rng.standard_normal((600, 2)),
                             dense @ A.F[:, 0], A.F[:, -1], np.zeros(600), 1e30 * dense[:, 3]])
        alone = [A.solve(column) for column in b.T]
        for j, x in enumerate(A.solve(b).T):
            if j != 6:
                assert backward_error(dense, x, b[:, j]) < 1e-13
                assert backward_error(dense, alone[j], b[:, j]) < 1e-13
            else:
                assert not x.any() and not alone[j].any()


def test_ordinary_solves_are_corrected_where_they_cancel():
    n = 4_000  # b = Σ x with x in the range of F loses 1e-11 without a correction
    rng = np.random.default_rng(0)
    F = rng.standard_normal((n, 3))
    A = MLR(Hierarchy.flat(n), [F], np.full(n, 1e-2))
    b = A @ F
    norm = np.linalg.norm(F, 2) ** 2 + 1e-2
    for x, c in zip(A.solve(b).T, b.T, strict=True):
        residual = np.linalg.norm(A @ x - c)
        assert residual < 1e-14 * (norm * np.linalg.norm(x) + np.linalg.norm(c))


@pytest.mark.quick(2)
@DECADES
@SHAPES
def test_determinant_and_quadratic_form_over_twelve_decades(counts, ranks, low, high):
    A, rng = twelve_decades(counts, ranks, low, high, n=120)
    assert A.logdet() == pytest.approx(exact_logdet(A.hierarchy, A.factors, A.D), abs=1e-6)
    x = rng.standard_normal((120, 3))
    b = A @ x
    assert A.inv_quad(b) == pytest.approx((x * b).sum(axis=0), rel=1e-10)


@SHAPES
def test_roots_over_many_decades_of_variances(counts, ranks):
    # On a tree T⁻¹ F_m of the coarser levels cancels: the roots hold less far than solves do.
    for low, high in [(-6, 6), (-12, 0) if len(counts) == 1 else (-4, 2)]:
        A, rng = twelve_decades(counts, ranks, low, high, n=120)
        z = rng.standard_normal((120, 3))
        close(A.whiten(A.color(z)), z, 1e-7)
        S = A.color(np.eye(120))
        close(S @ S.T, A.toarray(), 1e-10)


def exact_logdet(hierarchy, factors, D):
    """From the Cholesky factor of the dense matrix in rational arithmetic of 60 digits."""
    with localcontext() as context:
        context.prec = 60
        labels = [hierarchy.labels(level) for level in range(hierarchy.n_levels)]
        F = [[[Decimal(float(v)) for v in row] for row in f] for f in factors]
        n = len(D)
        S = [[sum((sum((a * b for a, b in zip(f[i], f[j], strict=True)), Decimal(0))
                   for f, g in zip(F, labels, strict=True) if g[i] == g[j]), Decimal(0))
              for j in range(i + 1)] for i in range(n)]
        for i in range(n):
            S[i][i] += Decimal(float(D[i]))
        total = Decimal(0)
        for k in range(n):
            total += S[k][k].ln()
            for i in range(k + 1, n):
                f = S[i][k] / S[k][k]
                for j in range(k + 1, i + 1):
                    S[i][j] -= f * S[j][k]
        return float(total)


# ---------------------------------------------------------------- what the data say of the factors


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=15)
@given(case=cases())
def test_partial_variances(path, case):
    with computing(path):
        found = case.A.partial_variance()
    np.testing.assert_allclose(found, 1 / np.diag(np.linalg.inv(case.dense)), rtol=1e-9)


def test_partial_variances_in_single_precision():
    found = make_case(Hierarchy.balanced(40, [1, 4]), (3, 2), 0, np.float32).A.partial_variance()
    double = make_case(Hierarchy.balanced(40, [1, 4]), (3, 2), 0).A.partial_variance()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, double, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=15)
@given(case=cases())
def test_a_posterior_factors_on_its_way(path, case):
    X = case.rng.standard_normal((case.A.shape[0], 3))
    with computing(path):
        at_once = case.A.posterior(X)  # one pass over F for both
        twin = MLR.from_compact(case.A.hierarchy, case.A.ranks, case.A.F, case.A.D)
        assert twin.logdet() == pytest.approx(case.A.logdet(), rel=1e-12, abs=1e-12)
        after = twin.posterior(X)
    close(case.A.logdet(), np.linalg.slogdet(case.dense)[1], 1e-9)
    for level in range(case.A.hierarchy.n_levels):
        close(at_once.mean(level), after.mean(level), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=15)
@given(case=cases())
def test_gradient_of_the_log_likelihood(path, case):
    A, N = case.A, 7
    X = case.rng.standard_normal((A.shape[0], N))
    with computing(path):
        posterior = A.posterior(X)
        F, D = posterior.regress(np.square(X).sum(axis=1), N, keep_moments=True)
        dF, dD = posterior.gradient(F, D, N)
        answer = posterior.precondition(dF, N)
    inverse = np.linalg.inv(case.dense)
    M = inverse @ (X @ X.T / N - case.dense) @ inverse / 2  # by Σ
    close(dD, np.diag(M), 1e-8)
    col = 0
    for level, r in enumerate(A.ranks):
        blocks = same_group(A.hierarchy, level)
        close(dF[:, col : col + r], 2 * (M * blocks) @ A.factors[level], 1e-8)
        col += r
    np.testing.assert_allclose(answer, F - A.F, rtol=1e-7, atol=1e-9)  # EM's own step
