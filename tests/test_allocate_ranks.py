"""`allocate_ranks`: predictions against their definitions, exchanges that help, ranks found."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

from mlrops import GeneralMLR, Hierarchy
from mlrops.fitting import RankAllocation, allocate_ranks, fit_mlr
from mlrops.fitting.search import Exchanges, State
from mlrops.fitting.target import Target


def pair(m=48, n=40, seed=0):
    """Two permuted trees of four levels, with groups of unequal sizes."""
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(m), [[0, m], [0, 20, m], [0, 8, 20, 33, m],
                                          [0, 4, 8, 15, 20, 26, 33, 40, m]])
    cols = Hierarchy(rng.permutation(n), [[0, n], [0, 18, n], [0, 9, 18, 27, n],
                                          [0, 5, 9, 13, 18, 21, 27, 33, n]])
    return rows, cols, rng


def planted(ranks=(2, 0, 2, 0), noise=0.02, seed=0):
    """A matrix of given ranks and a little noise."""
    rows, cols, rng = pair(seed=seed)
    A = GeneralMLR(rows, cols, [rng.standard_normal((48, r)) for r in ranks],
                   [rng.standard_normal((40, r)) for r in ranks]).toarray()
    return A + noise * rng.standard_normal(A.shape), rows, cols


def kernel(n=64, seed=1):
    """Near interactions that one low rank cannot hold; symmetric, shuffled, with its tree."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, n)
    A = 1 / (0.02 + np.abs(x[:, None] - x))
    order = rng.permutation(n)
    tree = Hierarchy(np.argsort(order), Hierarchy.balanced(n, [1, 2, 4, 8, 16]).boundaries)
    return A[np.ix_(order, order)], tree


def search(A, ranks, rows, cols, symmetric=False, psd=False):
    """Exchanges from given ranks, on a residual."""
    state = State(Target(A, rows, cols, symmetric, psd), 0)
    state.descend(ranks, range(rows.n_levels))
    state.engine.visit(range(rows.n_levels), depth=2)
    for _ in range(5):
        state.engine.step()
    return Exchanges(state, 10, 1e-4)


# ---------------------------------------------------------------- predictions

@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_loss_is_the_rise_of_joint_least_squares(level):
    A, rows, cols = planted(noise=1.0)
    ranks = (2, 1, 0, 1)
    found = search(A, ranks, rows, cols)
    operator = found._state.engine.factors.operator()  # its factors are rotated
    error = np.linalg.norm(A - operator.toarray()) / np.linalg.norm(A)
    assert error == pytest.approx(found.objective)
    factors = found._state.engine.factors
    C = [cols._scatter(x[:-1]) for x in factors.right]
    for column in range(ranks[level]):
        for g in range(rows.group_counts[level]):
            rise = 0.0
            for i in rows.features(level, g):
                path = [np.where((cols.labels(k) == rows.labels(k)[i])[:, None], C[k], 0)
                        for k in range(4)]
                errors = []
                for without in (False, True):
                    used = list(path)
                    if without:
                        used[level] = np.delete(path[level], column, axis=1)
                    X = np.hstack(used)
                    x = np.linalg.lstsq(X, A[i], rcond=None)[0]
                    errors.append(np.square(A[i] - X @ x).sum())
                rise += errors[1] - errors[0]
            assert found._losses[level][g, column] == pytest.approx(rise, rel=1e-6, abs=1e-9)


def test_the_gain_is_the_next_singular_value():
    A, rows, cols = planted(noise=0.3)
    ranks = (2, 0, 1, 0)
    found = search(A, ranks, rows, cols)
    descent = found._state.engine
    for level in range(4):
        descent.visit([level] * 30)
        operator = descent.factors.operator()
        inside = rows.labels(level)[:, None] == cols.labels(level)
        X = A - operator.toarray() + np.where(
            inside, operator.left[level] @ operator.right[level].T, 0)
        for g in range(rows.group_counts[level]):
            s = np.linalg.svd(X[np.ix_(rows.features(level, g), cols.features(level, g))],
                              compute_uv=False)
            here = descent.factors.sigma[level][g]
            assert here[ranks[level]] == pytest.approx(s[ranks[level]], rel=1e-3)


def test_the_most_promising_exchange_comes_first():
    A, rows, cols = planted(noise=0.5)
    found = search(A, (1, 1, 1, 1), rows, cols)
    sigma = found._state.engine.factors.sigma
    rise = {(up, down): found._losses[down].min(axis=1).sum() - np.square(sigma[up][:, 1]).sum()
            for up in range(4) for down in range(4) if up != down}
    candidates = found.candidates()
    np.testing.assert_array_equal([rise[pair] for pair in candidates], sorted(rise.values()))
    assert found.exchange() and found.n_trials == 1  # as promised
    up, down = candidates[0]
    assert found._state.ranks[up] == 2 and found._state.ranks[down] == 0


@pytest.mark.parametrize("psd", [False, True])
def test_losses_of_symmetric_fits_are_squared_eigenvalues(psd):
    A, tree = kernel()
    found = search(A, (2, 1, 0, 1, 0), tree, None, symmetric=True, psd=psd)
    operator = found._state.engine.factors.operator()
    for level, losses in found._losses.items():
        C = operator.right[level]
        for g in range(tree.group_counts[level]):
            norms = np.square(C[tree.features(level, g)]).sum(axis=0)
            np.testing.assert_allclose(losses[g], norms**2, rtol=1e-6)


def test_dropping_takes_the_cheapest_column_of_each_group_out():
    A, rows, cols = planted(noise=1.0)
    found = search(A, (2, 2, 0, 1), rows, cols)
    factors = found._state.engine.factors
    before = [x.copy() for x in (factors.left[1][:-1], factors.right[1][:-1])]
    losses = np.array([[1.0, 3.0], [5.0, 2.0]])
    gone_B, gone_C = factors.drop(1, losses)
    kept = np.repeat([1, 0], rows.group_sizes(1)), np.repeat([1, 0], cols.group_sizes(1))
    for x, old, column in zip((factors.left[1], factors.right[1]), before, kept, strict=True):
        np.testing.assert_array_equal(x[:-1, 0], np.take_along_axis(old, column[:, None], 1)[:, 0])
        assert not x[-1].any()
    assert found._state.engine.factors.ranks == (2, 1, 0, 1)
    total = sum(np.square(np.matmul(b, c.swapaxes(1, 2))).sum()
                for b, c in zip(gone_B, gone_C, strict=True))
    lost = [np.outer(before[0][r, k], before[1][c, k]) for r, c, k in (
        (slice(0, 20), slice(0, 18), 0), (slice(20, None), slice(18, None), 1))]
    assert total == pytest.approx(sum(np.square(x).sum() for x in lost))


# ---------------------------------------------------------------- the search

@pytest.mark.parametrize("start", ["uniform", "bottom", "top", (0, 0, 3, 1)])
def test_planted_ranks_are_found(start):
    A, rows, cols = planted()
    fit = allocate_ranks(A, 4, rows, cols, start=start, random_state=0)
    assert fit.ranks == (2, 0, 2, 0)
    noise = np.linalg.norm(A - planted(noise=0.0)[0]) / np.linalg.norm(A)
    assert fit.error < noise and fit.converged and fit.termination == "tol"


@pytest.mark.quick(2)
@pytest.mark.parametrize("options", [
    {}, {"symmetric": False}, {"psd": True}, {"start": "bottom"}, {"start": "top"}], ids=str)
def test_history_storage_and_errors_agree(options):
    A, tree = kernel()
    fit = allocate_ranks(A, 7, tree, random_state=3, **options)
    assert isinstance(fit, RankAllocation)
    assert all(sum(ranks) == 7 and min(ranks) >= 0 for ranks, _ in fit.history)
    np.testing.assert_array_equal(fit.objective_trace, [e for _, e in fit.history])
    assert (np.diff(fit.objective_trace) <= 1e-14).all()
    assert fit.objective_trace[-1] < 0.95 * fit.objective_trace[0]
    assert len(fit.history) == fit.n_iter + 1 == fit.times.size and fit.n_trials >= fit.n_iter - 1
    assert fit.history[-1] == (fit.ranks, fit.error) and fit.operator.ranks == fit.ranks
    assert fit.operator.storage == (64 + 64) * 7
    gap = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(fit.error, rel=1e-9)
    assert fit.operator.symmetric == (options.get("symmetric") is None)
    moves = [np.abs(np.subtract(a, b)).sum()
             for (a, _), (b, _) in zip(fit.history[1:], fit.history[:-1], strict=True)]
    if not fit.operator.symmetric or options.get("psd"):  # else steps may be taken out
        assert set(moves) <= {0, 2}
    assert max(moves) > 0


@pytest.mark.slow
def test_found_ranks_beat_the_start_fitted_for_long():
    A, tree = kernel()
    fit = allocate_ranks(A, 7, tree, random_state=0, symmetric=False)
    for ranks in ((2, 2, 1, 1, 1), (7, 0, 0, 0, 0), (0, 0, 0, 0, 7)):
        plain = fit_mlr(A, ranks, tree, method="als", tol=1e-6, max_iter=500, random_state=0)
        assert fit.error < 0.95 * plain.error


@pytest.mark.slow
def test_a_discrete_gauss_transform():
    rng = np.random.default_rng(0)
    t, s = (rng.random((k, 3)) for k in (160, 120))
    A = np.exp(-25 * np.square(t[:, None] - s).sum(axis=2))

    def halves(x):
        """A k-d tree: halves by each coordinate in turn."""
        order, sizes = [np.arange(len(x))], [[0, len(x)]]
        for level in range(5):
            order = [half for g in order for half in np.array_split(
                g[np.argsort(x[g, level % 3], kind="stable")], 2)]
            sizes.append(np.cumsum([0, *map(len, order)]))
        return Hierarchy(np.concatenate(order), sizes)

    sigma = np.linalg.svd(A, compute_uv=False)
    low_rank = np.linalg.norm(sigma[12:]) / np.linalg.norm(sigma)
    errors = [allocate_ranks(A, 12, halves(t), halves(s), start=start, random_state=0).error
              for start in ("uniform", "bottom", "top")]
    assert max(errors) < 0.7 * low_rank and min(errors) < 0.6 * low_rank


def test_seeds_repeat():
    A, tree = kernel()
    first, again = (allocate_ranks(A, 5, tree, random_state=7) for _ in range(2))
    assert first.history == again.history
    np.testing.assert_array_equal(first.operator.B, again.operator.B)


@pytest.mark.parametrize("kind", [csr_array, aslinearoperator])
def test_sparse_arrays_and_operators(kind):
    A, rows, cols = planted()
    fit = allocate_ranks(kind(A), 4, rows, cols, random_state=0)
    assert fit.ranks == (2, 0, 2, 0)
    gap = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(fit.error, rel=1e-6)


def test_float32_and_exactly_reached_matrices():
    A, rows, cols = planted()
    single = allocate_ranks(A.astype(np.float32), 4, rows, cols, random_state=0)
    assert single.ranks == (2, 0, 2, 0) and single.operator.dtype == np.float32
    full = allocate_ranks(A, 60, rows, cols, start="top")
    assert full.termination == "exact" and full.converged and full.error < 1e-13
    assert full.capped == ((0, 0, 40),)


def test_the_callback_and_the_cap_stop_the_search():
    A, tree = kernel()
    seen, grown = [], []

    def watch(iterate):
        if iterate.stage == "growth":
            grown.append((sum(iterate.ranks), iterate.n_iter))
            return
        assert iterate.stage == "exchanges" and iterate.n_passes > grown[-1][0]
        seen.append((iterate.ranks, iterate.objective))
        if iterate.n_iter == 2:
            raise StopIteration

    options = {"start": "top", "symmetric": False, "random_state": 0}
    fit = allocate_ranks(A, 7, tree, callback=watch, **options)
    assert fit.termination == "callback" and not fit.converged
    assert seen == list(fit.history) and len(seen) == 3
    assert grown == [(k, 0) for k in range(8)]
    capped = allocate_ranks(A, 7, tree, max_iter=2, **options)
    assert capped.termination == "max_iter" and capped.history == fit.history
    none = allocate_ranks(A, 7, tree, start="top", max_failures=0, random_state=0)
    assert none.n_trials == 0 and none.ranks == (7, 0, 0, 0, 0)


def test_progress_and_repr(capsys):
    A, tree = kernel()
    fit = allocate_ranks(A, 3, tree, progress=True, max_iter=1)
    assert "ranks" in capsys.readouterr().err
    assert repr(fit).startswith("<RankAllocation of 64x64, ranks (")


def test_refusals():
    A, rows, cols = planted()
    with pytest.raises(ValueError, match="total_rank must be at least 1, got 0"):
        allocate_ranks(A, 0, rows, cols)
    with pytest.raises(TypeError, match="total_rank must be an integer"):
        allocate_ranks(A, 2.5, rows, cols)
    with pytest.raises(ValueError, match="start must be 'grow', 'uniform', 'bottom', 'top' or"):
        allocate_ranks(A, 3, rows, cols, start="middle")
    with pytest.raises(ValueError, match=r"add up to total_rank = 3, got \(1, 1, 0, 0\)"):
        allocate_ranks(A, 3, rows, cols, start=(1, 1, 0, 0))
    with pytest.raises(ValueError, match="4 entries, one a level"):
        allocate_ranks(A, 3, rows, cols, start=(3,))
    with pytest.raises(ValueError, match="A is all zero"):
        allocate_ranks(0 * A, 3, rows, cols)
    with pytest.raises(ValueError, match="max_failures must be non-negative"):
        allocate_ranks(A, 3, rows, cols, max_failures=-1)
    A[3, 4] = np.nan
    with pytest.raises(ValueError, match="A must be finite"):
        allocate_ranks(A, 3, rows, cols)
