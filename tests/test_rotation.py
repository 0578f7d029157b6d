"""Rotations of the factors within groups: criteria, conventions, values of others."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.linalg import expm
from test_result import result_of
from trees import cases, close, make_case, permuted_case

from mlrops import MLR, ConvergenceWarning, FactorModelResult, Hierarchy
from mlrops.factor import rotation

METHODS = pytest.mark.parametrize("method", ["varimax", "quartimax", "promax"])
ORTHOGONAL = pytest.mark.parametrize("method", ["varimax", "quartimax"])
NORMALIZE = pytest.mark.parametrize("normalize", [True, False])


def groups_of(hierarchy, level):
    return [hierarchy.features(level, g) for g in range(hierarchy.group_counts[level])]


def kaiser(B):
    """Rows of unit length, zero rows as they are."""
    length = np.linalg.norm(B, axis=1, keepdims=True)
    return B / np.where(length > 0, length, 1)


def criterion(Lambda, method):
    squares = np.square(Lambda)
    gamma = {"varimax": 1, "quartimax": 0}[method]
    return np.square(squares).sum() - gamma * np.square(squares.sum(axis=0)).sum() / len(Lambda)


def example(ranks=(2, 0, 3), dtype=np.float64):
    """A permuted tree with two roots, a level of rank 0 and groups of one feature."""
    return result_of(make_case(permuted_case().hierarchy, ranks, 6, dtype).A.principal())


def flat(n=40, r=4, seed=0):
    return result_of(make_case(Hierarchy.flat(n), (r,), seed).A.principal())


def structured(n=60, r=4, seed=0):
    """Loadings near simple structure, mixed by a random rotation."""
    rng = np.random.default_rng(seed)
    B = 0.1 * rng.standard_normal((n, r))
    B[np.arange(n), np.arange(n) % r] += rng.uniform(0.5, 1.0, n)
    Q = np.linalg.qr(rng.standard_normal((r, r)))[0]
    return result_of(MLR(Hierarchy.flat(n), [B @ Q], rng.uniform(0.5, 1, n)).principal()), B


# ---------------------------------------------------------------- any tree


@pytest.mark.quick(1)
@METHODS
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_a_rotation_changes_axes_and_nothing_else(method, case):
    fit = result_of(case.A.principal())
    h = case.hierarchy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        turned = fit.rotate(method)
    dense = np.diag(case.D)
    for level, F in enumerate(fit.covariance.factors):
        p, r = h.group_counts[level], F.shape[1]
        Lambda, T, Phi = (x[level] for x in (turned.loadings, turned.rotation,
                                             turned.factor_covariance))
        assert Lambda.shape == F.shape and T.shape == Phi.shape == (p, r, r)
        np.testing.assert_allclose(np.einsum("grr->gr", Phi), 1, atol=1e-9)
        for g, rows in enumerate(groups_of(h, level)):
            scale = 1 + np.abs(T[g]).max(initial=0)
            np.testing.assert_allclose(F[rows] @ T[g], Lambda[rows], atol=1e-10 * scale)
            np.testing.assert_allclose(T[g] @ Phi[g] @ T[g].T, np.eye(r), atol=1e-6)
            dense[np.ix_(rows, rows)] += Lambda[rows] @ Phi[g] @ Lambda[rows].T
            lengths = np.square(Lambda[rows]).sum(axis=0)
            assert (np.diff(lengths) <= 1e-9 * lengths.max(initial=0)).all()
            peaks = Lambda[rows][np.abs(Lambda[rows]).argmax(axis=0), np.arange(r)]
            assert (peaks >= 0).all()
            used = min(len(rows), r)
            assert (Lambda[rows][:, used:] == 0).all()  # columns of zeros stay, behind the others
    np.testing.assert_allclose(dense, case.dense, atol=1e-6 * np.abs(case.dense).max())
    np.testing.assert_allclose(turned.covariance.toarray(), case.dense,
                               atol=1e-9 * np.abs(case.dense).max())


@pytest.mark.quick(3)
@ORTHOGONAL
@NORMALIZE
def test_no_group_has_a_better_rotation_nearby(method, normalize):
    fit = example()
    h, rng = fit.covariance.hierarchy, np.random.default_rng(0)
    turned = fit.rotate(method, normalize=normalize)
    assert turned.converged
    for level, r in ((0, 2), (2, 3)):
        for rows in groups_of(h, level):
            before, B = fit.covariance.factors[level][rows], turned.loadings[level][rows]
            if normalize:
                before, B = kaiser(before), kaiser(B)
            best = criterion(B, method)
            assert best >= criterion(before, method) - 1e-12
            for step in (1e-3, 1e-2):
                for _ in range(20):
                    A = rng.standard_normal((r, r))
                    assert criterion(B @ expm(step * (A - A.T)), method) <= best + 1e-12
            # The derivative by every rotation of the plane of two columns vanishes.
            gamma = {"varimax": 1, "quartimax": 0}[method]
            G = B.T @ (B**3 - gamma * B * np.square(B).mean(axis=0))
            np.testing.assert_allclose(G, G.T, atol=1e-8 * len(rows))


@pytest.mark.slow
@ORTHOGONAL
@NORMALIZE
def test_two_factors_against_a_grid_of_angles(method, normalize):
    fit = flat(25, 2, seed=4)
    turned = fit.rotate(method, normalize=normalize)
    F, B = fit.covariance.factors[0], turned.loadings[0]
    if normalize:
        F, B = kaiser(F), kaiser(B)
    angles = np.linspace(0, np.pi / 2, 20_001)
    grid = [criterion(F @ [[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]], method)
            for t in angles]
    assert criterion(B, method) >= max(grid) - 1e-12
    assert criterion(B, method) == pytest.approx(max(grid), rel=1e-6)


# ---------------------------------------------------------------- values of others


def in_convention(Lambda):
    """Longest columns first, largest entries positive."""
    Lambda = Lambda[:, np.argsort(-np.square(Lambda).sum(axis=0))]
    return Lambda * np.sign(Lambda[np.abs(Lambda).argmax(axis=0), np.arange(Lambda.shape[1])])


@pytest.mark.slow
@ORTHOGONAL
def test_against_statsmodels(method):
    factor_rotation = pytest.importorskip("statsmodels.multivariate.factor_rotation")
    fit, _ = structured()
    reference, _ = factor_rotation.rotate_factors(
        np.array(fit.covariance.factors[0]), method, tol=1e-10, max_tries=5000)
    close(fit.rotate(method, normalize=False).loadings[0], in_convention(reference), 1e-6)


def test_promax_by_its_definition():
    fit, _ = structured()
    V = fit.rotate("varimax", normalize=False).loadings[0]
    for power in (2.0, 4.0):
        U = np.linalg.lstsq(V, V * np.abs(V) ** (power - 1), rcond=None)[0]
        U = U * np.sqrt(np.diag(np.linalg.inv(U.T @ U)))
        turned = fit.rotate("promax", normalize=False, power=power)
        close(turned.loadings[0], in_convention(V @ U), 1e-7)
        close(np.sort(turned.factor_covariance[0].ravel()),
              np.sort(np.linalg.inv(U.T @ U).ravel()), 1e-7)
    straight = fit.rotate("promax", power=1)
    close(straight.loadings[0], fit.rotate("varimax").loadings[0], 1e-10)


def test_promax_finds_correlated_factors():
    rng = np.random.default_rng(0)
    B = np.kron(np.eye(3), np.ones((20, 1))) * rng.uniform(0.5, 1.0, (60, 1))
    Phi = np.array([[1, 0.4, 0.2], [0.4, 1, 0.3], [0.2, 0.3, 1]])
    fit = result_of(MLR(Hierarchy.flat(60), [B @ np.linalg.cholesky(Phi)], np.ones(60)).principal())
    turned = fit.rotate("promax", power=4)
    order = turned.loadings[0][[0, 20, 40]].argmax(axis=1)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(turned.factor_covariance[0][0][np.ix_(order, order)], Phi, atol=0.1)
    varimax = np.abs(fit.rotate().loadings[0][:, order])
    cross = B == 0
    assert np.abs(turned.loadings[0][:, order])[cross].max() < 0.3 * varimax[cross].max()


def test_varimax_recovers_simple_structure():
    fit, B = structured(n=400)
    close(fit.rotate().loadings[0], in_convention(B), 0.05)


# ---------------------------------------------------------------- what comes back


def test_an_orthogonal_rotation_is_a_result():
    fit = example()
    turned = fit.rotate("quartimax", level=2)
    assert isinstance(turned.result, FactorModelResult)
    assert turned.result.loglik == fit.loglik and turned.result.n_samples == fit.n_samples
    np.testing.assert_array_equal(turned.result.covariance.factors[2], turned.loadings[2])
    Y = np.random.default_rng(0).standard_normal((5, 30))
    np.testing.assert_allclose(turned.result.score_samples(Y), fit.score_samples(Y), rtol=1e-10)
    for method in ("posterior", "bartlett"):
        if method == "bartlett":  # the groups of one feature would make it singular
            fit = result_of(make_case(Hierarchy.flat(30), (3,), 1).A.principal())
            turned = fit.rotate("varimax")
        for level in range(fit.covariance.hierarchy.n_levels):
            np.testing.assert_allclose(turned.scores(Y, level, method=method),
                                       turned.result.scores(Y, level, method=method), atol=1e-9)
        for got, wanted in zip(turned.scores(Y, method=method),
                               turned.result.scores(Y, method=method), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_scores_of_oblique_factors_are_those_of_the_rotated_model():
    fit, _ = structured()
    turned = fit.rotate("promax")
    Y = np.random.default_rng(0).standard_normal((4, 60))
    Lambda, Phi, D = turned.loadings[0], turned.factor_covariance[0][0], fit.covariance.D
    posterior = Y @ np.linalg.solve(Lambda @ Phi @ Lambda.T + np.diag(D), Lambda @ Phi)
    close(turned.scores(Y, 0)[:, 0], posterior)
    w = 1 / np.sqrt(D)[:, None]
    bartlett = np.linalg.lstsq(Lambda * w, Y.T * w, rcond=None)[0].T
    close(turned.scores(Y, -1, method="bartlett")[:, 0], bartlett)
    assert turned.covariance is fit.covariance and turned.oblique
    with pytest.raises(ValueError, match="promax gives correlated factors"):
        turned.result  # noqa: B018


def test_only_the_levels_asked_for_are_rotated():
    fit = example((2, 2, 3))
    for level, chosen in ((1, {1}), (-1, {2}), ([0, 2], {0, 2}), (None, {0, 1, 2}), ([], set())):
        turned = fit.rotate(level=level)
        for at in range(3):
            same = np.array_equal(turned.loadings[at], fit.covariance.factors[at])
            assert same == (at not in chosen)
            identity = np.array_equal(turned.rotation[at],
                                      np.broadcast_to(np.eye((2, 2, 3)[at]),
                                                      turned.rotation[at].shape))
            assert identity == (at not in chosen)


@METHODS
def test_rotating_again_changes_nothing(method):
    fit, _ = structured()
    once = fit.rotate("varimax").result
    again = once.rotate("varimax")
    np.testing.assert_allclose(again.rotation[0][0], np.eye(4), atol=1e-8)
    # Batches: a tree of groups gives what each group gives alone.
    tree = example((0, 0, 3))
    turned = tree.rotate(method)
    for rows in groups_of(tree.covariance.hierarchy, 2):
        alone = result_of(MLR(Hierarchy.flat(len(rows)), [tree.covariance.factors[2][rows]],
                              np.ones(len(rows)))).rotate(method)
        np.testing.assert_allclose(turned.loadings[2][rows], alone.loadings[0], atol=1e-12)


def test_small_batches_give_the_same(monkeypatch):
    h = Hierarchy.balanced(90, [1, 30])
    fit = result_of(make_case(h, (2, 2), 0).A.principal())
    whole = fit.rotate("promax")
    monkeypatch.setattr(rotation, "BATCH", 7)
    parts = fit.rotate("promax")
    for a, b in zip(whole.loadings + whole.rotation, parts.loadings + parts.rotation, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@METHODS
def test_scale_and_precision(method):
    fit, _ = structured()
    A = fit.covariance
    for scale in (1e-8, 1e8):
        scaled = result_of(MLR(A.hierarchy, [scale * A.F], scale**2 * A.D)).rotate(method)
        close(scaled.loadings[0], scale * fit.rotate(method).loadings[0], 1e-7)
    single = result_of(MLR(A.hierarchy, [A.F.astype(np.float32)], A.D.astype(np.float32)))
    turned = single.rotate(method)
    for x in (*turned.loadings, *turned.rotation, *turned.factor_covariance):
        assert x.dtype == np.float32
    close(turned.loadings[0], fit.rotate(method).loadings[0], 1e-4)
    assert turned.covariance.dtype == np.float32


@METHODS
@NORMALIZE
def test_flat_criteria_and_single_columns(method, normalize):
    """Where no axes are better than others they stay; nothing is divided by zero."""
    blocks = [np.zeros((3, 2)), np.array([[1.0, 0], [0, 0], [0, 0]]), np.ones((3, 1)) * [1, 0],
              np.array([[2.0, 0], [0, 1], [0, 0]])]
    h = Hierarchy.from_boundaries([[0, 3, 6, 9, 12]])
    fit = result_of(MLR(h, [np.concatenate(blocks)], np.ones(12)))
    turned = fit.rotate(method, normalize=normalize)
    assert turned.converged
    np.testing.assert_allclose(turned.loadings[0], fit.covariance.factors[0], atol=1e-12)
    one = result_of(MLR(h, [-np.ones((12, 1))], np.ones(12))).rotate(method, normalize=normalize)
    np.testing.assert_array_equal(one.loadings[0], np.ones((12, 1)))
    np.testing.assert_array_equal(one.rotation[0], -np.ones((4, 1, 1)))


def test_many_groups_are_rotated_at_once():
    n = 50_000
    h = Hierarchy.balanced(n, [1, n // 10])
    rng = np.random.default_rng(0)
    B = 0.1 * rng.standard_normal((n, 2))
    B[np.arange(n), np.arange(n) % 10 // 5] += 1
    calls = []
    original = rotation._orthomax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "_orthomax", lambda *a: calls.append(1) or original(*a))
        turned = result_of(MLR(h, [np.empty((n, 0)), B], np.ones(n))).rotate(level=1)
    assert len(calls) == 1 and turned.converged
    A = turned.covariance
    for g in (0, 1234, 4999):
        close(turned.loadings[1][h.features(1, g)],
              result_of(MLR(Hierarchy.flat(10), [B[h.features(1, g)]], np.ones(10))
                        ).rotate().loadings[0], 1e-10)
    np.testing.assert_allclose(A.diagonal(), 1 + np.square(B).sum(axis=1))


# ---------------------------------------------------------------- errors, warnings, text


def test_rotate_refuses():
    fit = example()
    for wrong, message in ((dict(method="oblimin"), "'quartimax', 'varimax', 'promax', got 'obl"),
                           (dict(power=0.5), "power must be at least 1"),
                           (dict(tol=0), "tol must lie between 0 and 1"),
                           (dict(max_iter=-1), "max_iter must be non-negative")):
        with pytest.raises(ValueError, match=message):
            fit.rotate(**wrong)
    with pytest.raises(IndexError, match="level 3 is out of range"):
        fit.rotate(level=3)


def test_a_rotation_cut_short_warns():
    fit = flat()
    with pytest.warns(ConvergenceWarning, match="did not come to rest in 1 sweeps"):
        turned = fit.rotate(max_iter=1)
    assert not turned.converged and "not converged" in repr(turned)
    close(turned.covariance.toarray(), fit.covariance.toarray())


def test_dependent_oblique_axes_are_named():
    # With a power this high the target is each column's peak, here in one row for two of them.
    B = np.concatenate([np.kron(np.eye(2), np.ones((9, 1))), np.kron(np.eye(2), np.ones((9, 1)))])
    B[18] = [1.2, 1.1]
    h = Hierarchy.from_boundaries([[0, 36], [0, 18, 36]])
    fit = result_of(MLR(h, [np.empty((36, 0)), B], np.ones(36)))
    with pytest.raises(np.linalg.LinAlgError, match=r"dependent axes at level 1 \(group 1\)"):
        fit.rotate("promax", normalize=False, power=1e4)
    assert fit.rotate("promax", normalize=False, power=4).converged


def test_frame_and_repr():
    pytest.importorskip("pandas")
    turned = example().rotate("promax")
    frame = turned.to_frame()
    np.testing.assert_array_equal(frame["level 2"], turned.loadings[2])
    assert frame.shape == (30, 7)
    assert repr(turned).startswith("<RotatedLoadings by promax: <30x30 MLR")
