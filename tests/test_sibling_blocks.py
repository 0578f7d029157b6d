"""Sibling blocks, least squares on them, and growth, against their definitions on dense arrays."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from mlrops import GeneralMLR, Hierarchy
from mlrops._common.driver import Watch
from mlrops.datasets import graph_distances, hilbert_matrix, sphere_kernel
from mlrops.fitting import allocate_ranks, blocks, fit_mlr, partition, partition_points
from mlrops.fitting.alternation import EXTRA, FIRST, Alternation
from mlrops.fitting.blocks import DenseBlocks, SparseBlocks
from mlrops.fitting.descent import Descent
from mlrops.fitting.pairs import GroupPairs
from mlrops.fitting.search import State, grow
from mlrops.fitting.target import Target


def pair(name, seed=0):
    """Permuted trees of m = 60 rows and n = 47 columns."""
    rng = np.random.default_rng(seed)
    rows, cols = {
        "binary": ([[0, 60], [0, 30, 60], [0, 15, 30, 45, 60]],
                   [[0, 47], [0, 23, 47], [0, 11, 23, 35, 47]]),
        "three and five": ([[0, 60], [0, 10, 35, 60], [0, 2, 4, 6, 8, 10, 35, 50, 60]],
                           [[0, 47], [0, 20, 21, 47], [0, 4, 8, 12, 16, 20, 21, 30, 47]]),
        "one-wide": ([[0, 60], [0, 1, 60], [0, 1, 2, 60]],
                     [[0, 47], [0, 45, 47], [0, 45, 46, 47]]),
        "no root": ([[0, 20, 60], [0, 20, 41, 60]], [[0, 30, 47], [0, 30, 40, 47]]),
        "a repeated level": ([[0, 60], [0, 22, 60], [0, 22, 60], [0, 22, 40, 60]],
                             [[0, 47], [0, 9, 47], [0, 9, 47], [0, 9, 20, 47]]),
        "flat": ([[0, 60]], [[0, 47]]),
    }[name]
    return Hierarchy(rng.permutation(60), rows), Hierarchy(rng.permutation(47), cols), rng


TREES = "binary", "three and five", "one-wide", "no root", "a repeated level", "flat"


def inside(rows, cols, level):
    """Which entries of A, in tree order, lie in the blocks of a level."""
    row, col = (np.repeat(np.arange(h.group_counts[level]), h.group_sizes(level))
                for h in (rows, cols))
    return row[:, None] == col


def in_order(A, rows, cols):
    return A[np.ix_(rows.permutation, cols.permutation)]


# ---------------------------------------------------------------- products and Gram matrices


@pytest.mark.parametrize("small", [1, 10**9])
@pytest.mark.parametrize("source", [DenseBlocks, SparseBlocks])
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-13), (np.float32, 1e-4)])
def test_products_and_grams_are_those_of_the_levels(name, source, small, dtype, rtol, monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", small)
    rows, cols, rng = pair(name)
    A = (rng.standard_normal((60, 47)) * (rng.random((60, 47)) < 0.6)).astype(dtype)
    found = source(csr_array(A) if source is SparseBlocks else A, GroupPairs(rows, cols), dtype)
    assert found.squared_norm == pytest.approx(np.square(A.astype(float)).sum(), rel=1e-12)
    A, L = in_order(A, rows, cols), rows.n_levels
    for fixed, X, h in (("cols", A, cols), ("rows", A.T, rows)):
        parts = [rng.standard_normal((h.n + 1, w)).astype(dtype) for w in (3, 0, 2, 1)[:L]]
        for x in parts:
            x[-1] = 0
        Y, grams = found.normal(parts, fixed)
        masks = [inside(rows, cols, level) for level in range(L)]
        masks = masks if fixed == "cols" else [mask.T for mask in masks]
        expected = [np.where(mask, X, 0) @ x[:-1] for mask, x in zip(masks, parts, strict=True)]
        np.testing.assert_allclose(Y[:-1], np.concatenate(expected, axis=1), atol=20 * rtol)
        assert not Y[-1].any() and Y.dtype == dtype
        G, _ = grams.products(np.ones(Y.shape[1], bool))
        used = rng.random(Y.shape[1]) < 0.7
        turned, lengths = grams.products(used)
        inverse = grams.inverse(used, np.finfo(dtype).eps)
        other = rows if fixed == "cols" else cols
        for leaf, row in enumerate(other.boundaries[-1][:-1]):
            path = np.concatenate([x[:-1] * mask[row][:, None]
                                   for x, mask in zip(parts, masks, strict=True)], axis=1)
            own = path.astype(float).T @ path
            np.testing.assert_allclose(G[leaf], own, atol=50 * rtol)
            order = np.argsort(~used, kind="stable")
            np.testing.assert_array_equal(turned[leaf], G[leaf][np.ix_(order[: used.sum()], order)])
            np.testing.assert_array_equal(lengths[leaf], np.diag(G[leaf])[~used])
            own = own[np.ix_(used, used)]
            if np.linalg.matrix_rank(own, tol=1e-3) == len(own):
                np.testing.assert_allclose(inverse[leaf] @ own, np.eye(len(own)), atol=1e5 * rtol)
            np.testing.assert_allclose(own @ inverse[leaf] @ own, own, atol=1e3 * rtol)


# ---------------------------------------------------------------- steps


def engine(name, ranks, noise=1.0, seed=0):
    rows, cols, rng = pair(name, seed)
    A = rng.standard_normal((60, 47))
    state = State(Target(A, rows, cols, False, False), seed)
    grow(state, ranks, sum(ranks), Watch())
    return in_order(A, rows, cols), rows, cols, state.engine


def product(factors, rows, cols):
    """The fit, in tree order."""
    return sum(np.where(inside(rows, cols, level), b[:-1] @ c[:-1].T, 0)
               for level, (b, c) in enumerate(zip(factors.left, factors.right, strict=True)))


def least_squares(A, rows, cols, right):
    """Squared error of the best left factors for `right` ones, pairs of a level and a column."""
    total = 0.0
    masks = [inside(rows, cols, level) for level in range(rows.n_levels)]
    for i in range(len(A)):
        path = np.array([x * masks[level][i] for level, x in right]).T
        x = np.linalg.lstsq(path, A[i], rcond=None)[0]
        total += np.square(A[i] - path @ x).sum()
    return total


@pytest.mark.parametrize("name, ranks", [("binary", (3, 2, 1)), ("three and five", (2, 0, 2)),
                                         ("no root", (2, 2)), ("one-wide", (2, 1, 1))])
def test_errors_losses_and_gains_are_those_of_joint_least_squares(name, ranks):
    A, rows, cols, found = engine(name, ranks)
    for _ in range(6):
        found.step()
        gap = np.linalg.norm(A - product(found.factors, rows, cols)) / np.linalg.norm(A)
        assert found.error() == pytest.approx(gap, rel=1e-12)
    right = [(level, x) for level, c in enumerate(found.factors.right) for x in c[:-1].T]
    before = least_squares(A, rows, cols, right)
    assert found.error() ** 2 * np.square(A).sum() == pytest.approx(before, rel=1e-10)
    at = 0
    for losses in found.losses().values():
        for column in range(losses.shape[1]):
            less = least_squares(A, rows, cols, right[: at + column] + right[at + column + 1 :])
            assert losses[:, column].sum() == pytest.approx(less - before, rel=1e-6, abs=1e-9)
        at += losses.shape[1]
    # Gains are those of the directions that the columns were carried along by.
    for level in range(rows.n_levels):
        saved = found._extra["cols"][level][:-1, 0]
        more = least_squares(A, rows, cols, [*right, (level, saved)])
        assert found.gains()[level] == pytest.approx(before - more, rel=1e-6, abs=1e-9)


def test_extra_directions_follow_what_is_left():
    A, rows, cols, found = engine("binary", (2, 0, 1))
    for _ in range(60):
        found.step()
    left = A - product(found.factors, rows, cols)
    for level in range(3):
        for g in range(rows.group_counts[level]):
            r, c = (slice(*h.boundaries[level][g : g + 2]) for h in (rows, cols))
            s = np.linalg.svd(left[r, c], compute_uv=False)
            u = found._extra["rows"][level][:-1][r]
            np.testing.assert_allclose(u.T @ u, np.eye(EXTRA), atol=1e-8)
            assert np.linalg.norm(left[r, c].T @ u[:, 0]) > 0.8 * s[0]


def test_no_step_raises_the_error():
    for name in TREES[:4]:
        ranks = (2,) * pair(name)[0].n_levels
        _, _, _, found = engine(name, ranks)
        errors = [found.error()]
        for _ in range(60):
            found.step()
            errors.append(found.error())
        assert (np.diff(errors) <= 1e-13).all() and errors[-1] < errors[1]


def test_snapshots_stay_as_they_were():
    """Whatever follows: a plain step or a relaxed one, columns that come and go."""
    A, rows, cols, found = engine("binary", (3, 2, 1))
    for more in (0, 1, 2):
        saved, error = found.snapshot(), found.error()
        whole = product(found.factors, rows, cols)
        found.drop(0, found.losses()[0])
        for level in range(more):
            found.add(level)
        found.step()
        found.step()
        found.restore(saved)
        assert found.error() == error and found.ranks == (3, 2, 1)
        np.testing.assert_array_equal(product(found.factors, rows, cols), whole)
        found.step()
        gap = np.linalg.norm(A - product(found.factors, rows, cols)) / np.linalg.norm(A)
        assert found.error() == pytest.approx(gap, rel=1e-12) and found.error() <= error


def test_a_step_too_far_is_taken_back(monkeypatch):
    from mlrops.fitting import alternation

    A, rows, cols, found = engine("binary", (3, 2, 1))
    found.step()
    saved = found.snapshot()
    found.restore(saved)
    monkeypatch.setattr(alternation, "RELAXATION", 40.0)
    before, passes = found.error(), found.n_passes
    found.step()
    assert found.error() <= before and found.n_passes == passes + 4
    gap = np.linalg.norm(A - product(found.factors, rows, cols)) / np.linalg.norm(A)
    assert found.error() == pytest.approx(gap, rel=1e-12)


# ---------------------------------------------------------------- growth


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("name", TREES)
def test_growth_reaches_the_ranks_that_are_given(name, kind):
    rows, cols, rng = pair(name)
    A = rng.standard_normal((60, 47))
    ranks = (3, 0, 2, 1)[: rows.n_levels]
    state, seen = State(Target(kind(A), rows, cols, False, False), 0), []
    assert grow(state, ranks, sum(ranks), Watch(callback=seen.append)) == ""
    assert state.ranks == ranks and len(seen) == sum(ranks) + 1
    assert state.n_passes == 2 * (FIRST + sum(ranks))
    assert [sum(i.ranks) for i in seen] == list(range(sum(ranks) + 1))
    assert {(i.stage, i.n_iter) for i in seen} == {("growth", 0)}
    assert (np.diff([i.objective for i in seen]) < 0).all()
    assert (np.diff([i.seconds for i in seen]) > 0).all()
    gap = np.linalg.norm(in_order(A, rows, cols) - product(state.engine.factors, rows, cols))
    assert state.error() == pytest.approx(gap / np.linalg.norm(A), rel=1e-10)


def test_the_first_column_goes_where_it_gains_most():
    rng = np.random.default_rng(1)
    rows = Hierarchy(rng.permutation(64), Hierarchy.balanced(64, [1, 2, 4]).boundaries)
    for level in range(3):
        b, c = rng.standard_normal((2, 64, 1))
        zero = np.zeros((64, 0))
        A = GeneralMLR(rows, rows, [b if k == level else zero for k in range(3)],
                       [c if k == level else zero for k in range(3)]).toarray()
        A += 1e-3 * rng.standard_normal(A.shape)
        fit = allocate_ranks(A, 1, rows, random_state=0)
        assert fit.ranks == tuple(int(k == level) for k in range(3))


def test_small_errors_are_those_of_a_residual():
    A = hilbert_matrix(96)
    tree = Hierarchy.balanced(96, [1, 2, 4, 8])
    state = State(Target(A, tree, None, False, False), 0)
    grow(state, [np.inf] * 4, 12, Watch())
    assert isinstance(state.engine, Descent)
    assert state.error() < 1e-7
    gap = np.linalg.norm(A - state.engine.factors.operator().toarray()) / np.linalg.norm(A)
    assert state.error() == pytest.approx(gap, rel=1e-6)
    single = State(Target(A.astype(np.float32), tree, None, False, False), 0)
    grow(single, [np.inf] * 4, 5, Watch())
    assert isinstance(single.engine, Descent)
    kept = State(Target(csr_array(A), tree, None, False, False), 0)
    grow(kept, [np.inf] * 4, 5, Watch())
    assert isinstance(kept.engine, Alternation)  # a residual of products is blurred as much


@pytest.mark.parametrize("symmetric", [None, False])
def test_an_exact_fit_needs_no_more_columns(symmetric):
    rng = np.random.default_rng(0)
    b = rng.standard_normal((30, 2))
    tree = Hierarchy.balanced(30, [1, 3])
    fit = allocate_ranks(b @ b.T, 9, tree, symmetric=symmetric, random_state=0)
    assert fit.termination == "exact" and sum(fit.ranks) == 9 and fit.error < 1e-12
    fit = fit_mlr(b @ b.T, (4, 2), tree, symmetric=symmetric, random_state=0)
    assert fit.termination == "exact" and fit.ranks == (4, 2) and fit.error < 1e-12


@pytest.mark.parametrize("error, word", [(StopIteration, "callback"),
                                         (KeyboardInterrupt, "interrupted")])
@pytest.mark.parametrize("symmetric", [None, False])
def test_growth_that_is_stopped_leaves_what_has_grown(error, word, symmetric):
    data = sphere_kernel(60, "gaussian", 0.4, random_state=0)
    tree, _ = partition_points(data.sources, None, 3)

    def stop(iterate):
        if iterate.ranks is not None and sum(iterate.ranks) == 3:
            raise error

    options = {"callback": stop, "symmetric": symmetric, "random_state": 0}
    fit = fit_mlr(data.A, (3, 2, 1), tree, **options)
    assert fit.termination == word and fit.ranks == (3, 2, 1) and not fit.converged
    assert np.isclose(fit.error, np.linalg.norm(data.A - fit.operator.toarray())
                      / np.linalg.norm(data.A), rtol=1e-10)
    found = allocate_ranks(data.A, 6, tree, **options)
    assert found.termination == word and sum(found.ranks) == 3 and len(found.history) <= 2
    assert np.isclose(found.error, np.linalg.norm(data.A - found.operator.toarray())
                      / np.linalg.norm(data.A), rtol=1e-10)


def test_zero_blocks_and_empty_levels():
    rng = np.random.default_rng(0)
    A = np.zeros((40, 40))
    A[:10, :10] = rng.standard_normal((10, 10))
    tree = Hierarchy.balanced(40, [1, 2, 4])
    for fit in (allocate_ranks(A, 10, tree, random_state=0),
                fit_mlr(A, (0, 0, 10), tree, random_state=0),
                fit_mlr(A, (5, 0, 5), tree, random_state=0)):
        assert fit.error < 1e-10 and np.isfinite(fit.operator.B).all()
    nothing = fit_mlr(A, (0, 0, 0), tree)
    assert nothing.error == 1 and nothing.converged


# ---------------------------------------------------------------- symmetric ends


@pytest.mark.parametrize("seed", range(3))
def test_symmetric_fits_lose_little_to_general_ones(seed):
    data = sphere_kernel(200, "exponential", 0.5, random_state=seed)
    tree, _ = partition_points(data.sources, None, 5)
    plain = fit_mlr(data.A, (4, 2, 2, 1, 1), tree, symmetric=False, random_state=seed)
    fit = fit_mlr(data.A, (4, 2, 2, 1, 1), tree, random_state=seed)
    assert fit.operator.symmetric and fit.error < 1.05 * plain.error
    M = fit.operator.toarray()
    np.testing.assert_allclose(M, M.T, atol=1e-12)
    gap = np.linalg.norm(data.A - M) / np.linalg.norm(data.A)
    assert fit.error == pytest.approx(gap, rel=1e-10)
    found = allocate_ranks(data.A, 10, tree, random_state=seed)
    assert found.operator.symmetric and (np.diff(found.objective_trace) <= 0).all()


def test_turns_bring_the_levels_together():
    """Levels that are not symmetric make up for one another; the nearest symmetric ones do not."""
    from mlrops.fitting.bcd import symmetrize

    A = graph_distances("grid", 128)
    tree, _ = partition(A, 4, rank=7)
    state = State(Target(A, tree, None, True, False), 0)
    grow(state, (10, 1, 1, 1), 13, Watch())
    for _ in range(40):
        state.engine.step()
    start = state.engine.snapshot()
    symmetrize(state.engine.factors)
    state.engine._meet()
    once = state.engine.error()
    state.engine.restore(start)
    state.engine.make_symmetric()
    by_turns = state.engine.factors.operator()
    assert np.linalg.norm(A - by_turns.toarray()) / np.linalg.norm(A) < 0.6 * once


def test_steps_that_the_symmetric_end_does_not_reach_are_taken_out(monkeypatch):
    from mlrops.fitting import alternation, search

    A = graph_distances("grid", 128)
    tree, _ = partition(A, 4, rank=7)
    options = {"start": (10, 1, 1, 1), "max_failures": 0, "random_state": 0}
    whole = allocate_ranks(A, 13, tree, **options)
    assert whole.n_iter > 0 and (np.diff(whole.objective_trace) <= 0).all()
    monkeypatch.setattr(alternation, "TURNS", 1)
    monkeypatch.setattr(search, "SWEEPS", 0)
    fit = allocate_ranks(A, 13, tree, **options)
    assert fit.error > 1.5 * whole.error and fit.n_iter < whole.n_iter
    assert (np.diff(fit.objective_trace) <= 0).all()
    assert fit.history[-1] == (fit.ranks, fit.error) and len(fit.history) == fit.times.size
