"""Scores of rows with missing cells, against dense algebra row by row."""

import dataclasses

import numpy as np
import pytest
from gaps import KINDS, at_random, blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from test_result import by_group, diagonal_blocks, example, result_of
from trees import PATHS, cases, close, computing, make_case, spread

from mlrops import MLR, Hierarchy

pd = pytest.importorskip("pandas")


def gappy(c, N, kind=at_random, seed=0, dtype=float):
    """Rows with missing cells; the last one has no cell at all."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((N, c.hierarchy.n))
    Y[kind(Y.shape, rng)] = np.nan
    Y[-1] = np.nan
    return Y.astype(dtype)


def dense_posterior(c, mean, Y):
    """Means (s, N) and covariances, a list of (s, s), of all factors, from normal conditioning."""
    S = spread(c.hierarchy, c.factors).reshape(c.hierarchy.n, -1).astype(float)
    Z, covs = [], []
    for y in Y.astype(float):
        o = ~np.isnan(y)
        block = S[o] @ S[o].T + np.diag(c.D[o].astype(float))
        gain = np.linalg.solve(block, S[o]).T
        Z.append(gain @ (y - mean)[o])
        covs.append(np.eye(S.shape[1]) - gain @ S[o])
    return np.array(Z).reshape(len(Y), -1).T, covs


def check_posterior(c, fit, Y, tol):
    h, ranks = c.hierarchy, c.A.ranks
    Z, covs = dense_posterior(c, fit.mean.astype(float), Y)
    covs = [diagonal_blocks(cov, h, ranks) for cov in covs]
    means, found = fit.scores(Y, covariance=True)
    assert len(means) == len(found) == h.n_levels
    for level, z in enumerate(by_group(Z, h, ranks)):
        cov = np.stack([one[level] for one in covs])
        assert means[level].shape == z.shape and found[level].shape == cov.shape
        assert means[level].dtype == found[level].dtype == c.A.dtype
        np.testing.assert_allclose(means[level], z, atol=tol * (1 + np.abs(z).max(initial=0)))
        np.testing.assert_allclose(found[level], cov, atol=tol)
        np.testing.assert_array_equal(fit.scores(Y, level), means[level])
        one, own = fit.scores(Y, level - h.n_levels, covariance=True)
        np.testing.assert_array_equal(one, means[level])
        np.testing.assert_array_equal(own, found[level])


@settings(max_examples=60)
@given(case=cases(), N=st.integers(1, 6), kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_posterior_scores_on_random_trees(case, N, kind, seed):
    fit = result_of(case.A, case.rng.standard_normal(case.hierarchy.n))
    check_posterior(case, fit, gappy(case, N, kind, seed), 1e-9)


@pytest.mark.parametrize("dtype, tol", [(float, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize("path", PATHS)
def test_all_ways_of_computing_agree(path, dtype, tol):
    with computing(path):
        c, fit = example(dtype)
        check_posterior(c, fit, gappy(c, 20, blocks, dtype=dtype), tol)


def test_a_row_without_a_cell_has_the_prior():
    c, fit = example()
    Y = gappy(c, 4)
    for z, cov in zip(*fit.scores(Y, covariance=True), strict=True):
        assert not z[-1].any()
        np.testing.assert_array_equal(cov[-1], np.stack(len(cov[-1]) * [np.eye(cov.shape[-1])]))
    for z in fit.scores(np.full((3, 30), np.nan)):
        assert not z.any()


def test_variances_far_below_the_others():
    """Against least squares of the rows of ``D^-½ F`` and of the prior, by QR."""
    c, fit = example()
    D = np.where(np.arange(30) % 4, c.D, 1e-12)
    hard = result_of(MLR(c.hierarchy, c.factors, D), fit.mean)
    Y, S = gappy(c, 12), spread(c.hierarchy, c.factors)
    means, covs = hard.scores(Y, covariance=True)
    for t, y in enumerate(Y):
        o = ~np.isnan(y)
        root = np.sqrt(D[o])
        Q, R = np.linalg.qr(np.concatenate([S[o] / root[:, None], np.eye(S.shape[1])]))
        z = np.linalg.solve(R, Q[: o.sum()].T @ ((y - fit.mean)[o] / root))
        half = np.linalg.inv(R)
        for level, expected in enumerate(by_group(z[:, None], c.hierarchy, c.A.ranks)):
            np.testing.assert_allclose(means[level][t], expected[0], atol=1e-8)
            cov = diagonal_blocks(half @ half.T, c.hierarchy, c.A.ranks)[level]
            np.testing.assert_allclose(covs[level][t], cov, atol=1e-8)


def test_complete_rows_have_one_covariance():
    c, fit = example()
    Y = np.random.default_rng(0).standard_normal((5, 30))
    plain, cov = fit.scores(Y, 2, covariance=True)
    assert cov.shape == (5, 3, 3)
    Y[3, 7] = np.nan
    gaps, covs = fit.scores(Y, 2, covariance=True)
    assert covs.shape == (5, 5, 3, 3)
    others = np.arange(5) != 3
    np.testing.assert_allclose(gaps[others], plain[others], atol=1e-12)
    np.testing.assert_allclose(covs[others], np.broadcast_to(cov, (4, 5, 3, 3)), atol=1e-12)
    assert np.abs(gaps[3] - plain[3]).max() > 1e-3


# ---------------------------------------------------------------- least squares


def flat_tree(dtype=float):
    """Groups of many features, so that all factors are determined in most rows."""
    h = Hierarchy(np.random.default_rng(1).permutation(60), [[0, 40, 60], [0, 9, 40, 60],
                                                             [0, 9, 20, 30, 40, 52, 60]])
    c = make_case(h, (2, 0, 1), 2, dtype)
    return c, result_of(c.A, np.linspace(-1, 1, 60).astype(dtype))


@pytest.mark.parametrize("dtype, tol", [(float, 1e-10), (np.float32, 1e-3)])
@pytest.mark.parametrize("kind", [at_random, blocks], ids=lambda kind: kind.__name__)
def test_least_squares_over_the_observed_cells(kind, dtype, tol):
    c, fit = flat_tree(dtype)
    h, ranks = c.hierarchy, c.A.ranks
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((12, 60)).astype(dtype)
    Y[kind(Y.shape, rng) & (np.arange(60) % 3 > 0)] = np.nan
    means, covs = fit.scores(Y, covariance=True, method="bartlett")
    S = spread(h, c.factors).astype(float)
    for t, y in enumerate(Y.astype(float)):
        o = ~np.isnan(y)
        w = 1 / np.sqrt(c.D[o].astype(float))
        z = np.linalg.lstsq(S[o] * w[:, None], (y - fit.mean)[o] * w, rcond=None)[0]
        C = diagonal_blocks(np.linalg.inv(S[o].T * np.square(w) @ S[o]), h, ranks)
        for level, expected in enumerate(by_group(z[:, None], h, ranks)):
            assert means[level].dtype == covs[level].dtype == dtype
            np.testing.assert_allclose(means[level][t], expected[0],
                                       atol=tol * np.abs(z).max())
            np.testing.assert_allclose(covs[level][t], C[level],
                                       atol=tol * max(np.abs(x).max(initial=0) for x in C))


def test_rows_whose_factors_are_not_determined_are_named():
    c, fit = flat_tree()
    group = c.hierarchy.features(2, 4)
    Y = np.random.default_rng(0).standard_normal((9, 60))
    Y[:, 0] = np.nan
    Y[np.ix_([3, 6], group)] = np.nan
    message = (r"rows {}, {} show \d+ of 60 features, too few for all factors: .* at level 2,"
               r" group 4 \(12 features\)")
    with pytest.raises(np.linalg.LinAlgError, match=message.format(3, 6)):
        fit.scores(Y, method="bartlett")
    frame = pd.DataFrame(Y, index=[f"day {t}" for t in range(9)])
    with pytest.raises(np.linalg.LinAlgError, match=message.format("day 3", "day 6")):
        fit.scores(frame, 0, method="bartlett")
    Y[[3, 6]] = 0
    Y[2] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="row 2 shows 0 of 60 features"):
        fit.scores(Y, method="bartlett")
    with pytest.raises(ValueError, match="'posterior' or 'bartlett', got 'regression'"):
        fit.scores(Y, method="regression")


def test_factors_that_a_group_does_not_use_are_left_out():
    h = Hierarchy.from_boundaries([[0, 2, 12, 22]])
    c = make_case(h, (3,), 0)
    fit = result_of(c.A.principal())
    Y = c.rng.standard_normal((4, 22))
    Y[:2, 5] = np.nan
    z, cov = fit.scores(Y, 0, covariance=True, method="bartlett")
    assert (z[:, 0, 2] == 0).all() and (cov[:, 0, 2, 2] == 1).all()
    close(z[:, 0, :2], np.linalg.solve(fit.covariance.F[:2, :2], Y[:, :2].T).T)


# ---------------------------------------------------------------- names


def test_names_in_names_out():
    c, fit = example()
    names = tuple(f"x{i}" for i in range(30))
    fit = dataclasses.replace(fit, feature_names=names)
    Y = gappy(c, 6)
    frame = pd.DataFrame(Y, columns=names, index=pd.Index([f"day {t}" for t in range(6)]))
    plain = fit.scores(Y, 2)
    for data in (frame, frame[list(names[::-1])], frame.convert_dtypes()):
        found = fit.scores(data, 2)
        assert list(found.index) == list(frame.index) and found.columns.nlevels == 2
        np.testing.assert_allclose(found.to_numpy().reshape(6, 5, 3), plain, atol=1e-12)
    masked = np.ma.masked_array(np.nan_to_num(Y, nan=7.0), np.isnan(Y))
    np.testing.assert_array_equal(fit.scores(masked, 2), plain)


def test_rotated_factors():
    c, fit = flat_tree()
    turned = fit.rotate("varimax")
    Y = gappy(c, 6)
    for level in (0, 2):
        close(turned.scores(Y, level), turned.result.scores(Y, level), 1e-9)
