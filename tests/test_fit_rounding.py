"""Fits at the level of rounding: errors that are true, gains that are none, sides that drift."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator
from test_allocate_ranks import planted

from mlrops import GeneralMLR, Hierarchy
from mlrops.datasets import hilbert_matrix
from mlrops.fitting import allocate_ranks, fit_mlr
from mlrops.fitting.alternation import Alternation
from mlrops.fitting.descent import Descent
from mlrops.fitting.search import Exchanges, State
from mlrops.fitting.target import Target


def true_error(A, fit):
    A = A.astype(float)
    return np.linalg.norm(A - fit.operator.toarray().astype(float)) / np.linalg.norm(A)


def level_norms(operator):
    """Frobenius norms of the levels, multiplied out."""
    rows, cols = operator.rows, operator.cols
    return np.array([
        np.linalg.norm(np.where(rows.labels(level)[:, None] == cols.labels(level), b @ c.T, 0))
        for level, (b, c) in enumerate(zip(operator.left, operator.right, strict=True))])


def by_hand(seed=0):
    """Factors of a descent that are anything."""
    A, rows, cols = planted(noise=0.5, seed=seed)
    descent = Descent(Target(A, rows, cols, False, False), (2, 0, 1, 1), 0)
    descent.start()
    return A, descent


# ---------------------------------------------------------------- sides of columns


def test_balancing_rounds_nothing():
    A, descent = by_hand()
    factors, rng = descent.factors, np.random.default_rng(1)
    for level in descent.used:
        sizes = factors.pairs.rows.group_sizes(level), factors.pairs.cols.group_sizes(level)
        power = rng.integers(-40, 40, (sizes[0].size, factors.ranks[level]))
        for side, size, sign in zip((factors.left, factors.right), sizes, (1, -1), strict=True):
            scale = np.repeat(2.0 ** (sign * power), size, axis=0)
            side[level] = side[level] * np.pad(scale, ((0, 1), (0, 0)))
    before = descent.factors.operator().toarray()
    saved, kept = factors.snapshot(), [x.copy() for x in factors.left]
    factors.balance(descent.used)
    for level in descent.used:
        rows, cols = (np.sqrt(np.add.reduceat(np.square(x[:-1]), h.boundaries[level][:-1], axis=0))
                      for x, h in ((factors.left[level], factors.pairs.rows),
                                   (factors.right[level], factors.pairs.cols)))
        assert (0.24 < rows / cols).all() and (rows / cols < 4.1).all()
        assert not factors.left[level][-1].any() and not factors.right[level][-1].any()
    np.testing.assert_array_equal(
        factors.left[0][:-1] @ factors.right[0][:-1].T, kept[0][:-1] @ saved[0][1][0][:-1].T)
    np.testing.assert_allclose(descent.factors.operator().toarray(), before, atol=1e-13)
    for x, y in zip(saved[0][0], kept, strict=True):  # a snapshot stays as it was
        np.testing.assert_array_equal(x, y)


def test_steps_and_losses_do_not_depend_on_the_scale_of_sides():
    A, descent = by_hand()
    found = descent.als()
    B = [x.copy() for x in descent.factors.left]
    _, other = by_hand()
    for level in other.used:
        other.factors.left[level] = other.factors.left[level] * 2.0**30
        other.factors.right[level] = other.factors.right[level] * 2.0**-30
    for level, loss in other.als().items():
        np.testing.assert_array_equal(loss, found[level])
        ratio = other.factors.left[level] / np.where(B[level], B[level], 1)
        assert (np.frexp(ratio[:-1])[0] == 0.5).all()  # powers of two


def test_zero_columns_are_balanced():
    A, descent = by_hand()
    left = descent.factors.left
    left[0] = left[0] * [0, 1]
    descent.factors.balance(descent.used)
    assert np.isfinite(descent.factors.right[0]).all() and not left[0][:, 0].any()


def test_levels_of_single_features_do_not_drift_away():
    """Where coarse levels hold everything, sides of single features grew until they overflowed."""
    A = hilbert_matrix(128)
    tree = Hierarchy.balanced(128, [1, 2, 4, 8, 16, 32, 64, 128])
    with np.errstate(all="raise", under="ignore"):
        descent = Descent(Target(A, tree, None, False, False), (12, 1, 1, 0, 0, 0, 0, 1), 0)
        descent.start()
        for _ in range(150):
            descent.als()
    for level in descent.used:
        sizes = [np.abs(side[level]).max() for side in (descent.factors.left,
                                                        descent.factors.right)]
        assert max(sizes) < 1e8
    assert descent.error() < 1e-8


# ---------------------------------------------------------------- errors and gains


@pytest.mark.quick(1)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exact_fits_report_what_their_factors_leave(dtype):
    """A residual that is kept up to date goes to zero; the factors' own does not."""
    A, rows, cols = (x.astype(dtype) if i == 0 else x for i, x in enumerate(planted()))
    for fit in (allocate_ranks(A, 160, rows, cols, random_state=0),
                fit_mlr(A, (40, 5, 5, 5), rows, cols, random_state=0),
                fit_mlr(A, (40, 5, 5, 5), rows, cols, method="als", random_state=0)):
        eps = float(np.finfo(dtype).eps)
        assert fit.termination == "exact" and fit.converged
        assert eps / 100 < fit.error < 32 * eps
        assert fit.error == pytest.approx(true_error(A, fit), abs=32 * eps)  # the floor


def search(A, kind, error, rows, cols):
    """A search that stands at a given error, of a given kind of matrix."""
    state = State(Target(kind(A), rows, cols, False, False), 0)
    state.descend((1, 1, 1, 1), range(4))
    state.engine.start()
    state.engine.step()
    found = Exchanges(state, 5, 1e-4)
    found.history[-1] = (state.ranks, error)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind, power", [(np.asarray, 2), (csr_array, 1), (aslinearoperator, 1)])
def test_gains_below_rounding_are_none(dtype, kind, power):
    A, rows, cols = planted()
    A = A.astype(dtype)
    eps = float(np.finfo(dtype).eps)
    found = search(A, kind, 1.0, rows, cols)
    rounding = (4 * eps) ** 2 if power == 2 else 4 * eps
    engine = found._state.engine
    assert rounding <= engine.floor**2  # what is no rounding can still be told below it
    operator = engine.factors.operator()
    parts = sum(level_norms(operator) ** 2) / np.linalg.norm(A) ** 2
    rounding *= max(1, parts)
    assert engine.rounding == pytest.approx(rounding, rel=1e-5)
    for before in np.sqrt(rounding) * np.array([1.5, 10, 60]):
        least = before - np.sqrt(before**2 - rounding)
        assert not found._real(before, before - 0.9 * least, 1e-4) and least > 1e-4 * before
        assert found.blurred
        assert found._real(before, before - 1.1 * least, 1e-4)
    found.blurred = False
    before = 1e4 * np.sqrt(rounding)  # far above rounding shares count alone
    assert not found._real(before, (1 - 0.9e-4) * before, 1e-4) and not found.blurred
    assert found._real(before, (1 - 1.1e-4) * before, 1e-4)


def test_levels_that_cancel_blur_more():
    A, descent = by_hand()
    before, large = descent.rounding, 1e3 * np.linalg.norm(A)
    left = descent.factors.left
    left[0] = left[0] * large
    norms = level_norms(descent.factors.operator())
    np.testing.assert_allclose(np.sqrt(descent.factors.squared_norms()), norms, atol=1e-9)
    assert descent.rounding > 1e5 * before
    assert descent.rounding == pytest.approx(
        descent.residual.rounding * sum(norms**2) / np.linalg.norm(A) ** 2)


def test_exchanges_that_rounding_hides_end_the_search(monkeypatch):
    A, rows, cols = planted(noise=0.3)
    plain = allocate_ranks(A, 5, rows, cols, start="top", random_state=0)
    assert plain.termination == "tol" and plain.n_iter > 2
    monkeypatch.setattr(Alternation, "rounding", 0.5)  # as if only halves could be told
    fit = allocate_ranks(A, 5, rows, cols, start="top", random_state=0)
    assert fit.termination == "rounding" and fit.converged
    assert fit.n_iter < plain.n_iter and fit.objective_trace[0] == plain.objective_trace[0]
    assert fit.error == pytest.approx(true_error(A, fit), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [csr_array, aslinearoperator])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_searches_of_products_end_at_rounding(kind, dtype):
    """Every step that counts is a gain of the true error, too, as far as it can be known."""
    A = hilbert_matrix(64).astype(dtype)
    tree = Hierarchy.balanced(64, [1, 2, 4, 8])
    fit = allocate_ranks(kind(A), 8, tree, start="uniform", symmetric=False, random_state=0)
    assert fit.termination in ("rounding", "exact", "tol")
    noise = 4 * float(np.finfo(dtype).eps)
    cancelling = sum(level_norms(fit.operator) ** 2) / np.linalg.norm(A) ** 2
    steps = np.square(fit.objective_trace)
    moved = [a != b for (a, _), (b, _) in zip(fit.history[1:], fit.history[:-1], strict=True)]
    assert any(moved) and (steps[:-1] - steps[1:])[moved].min() > noise / 2
    assert abs(true_error(A, fit) ** 2 - fit.error**2) < 8 * noise * max(1, cancelling)


def test_dense_fits_go_down_to_the_best_low_rank():
    """The optimum of rank 12 of a Hilbert matrix, 4e-9, is not taken for rounding."""
    A = hilbert_matrix(128)
    s = np.linalg.svd(A, compute_uv=False)
    best = np.linalg.norm(s[12:]) / np.linalg.norm(s)
    tree = Hierarchy.balanced(128, [1, 2, 4, 8])
    fit = allocate_ranks(A, 12, tree, symmetric=False, random_state=0)
    assert fit.ranks == (12, 0, 0, 0) and fit.error < 1.01 * best


def test_planted_matrices_end_as_exact():
    rng = np.random.default_rng(0)
    for n in (50, 200):
        tree = Hierarchy.balanced(n, [1, 2, 10])
        A = GeneralMLR(tree, tree, [rng.standard_normal((n, r)) for r in (2, 1, 1)],
                       [rng.standard_normal((n, r)) for r in (2, 1, 1)]).toarray()
        fit = allocate_ranks(A, 4, tree, start=(2, 1, 1), random_state=0, tol=0)
        assert fit.termination == "exact" and fit.error < 32 * np.finfo(float).eps
        assert fit.n_iter < 20
