"""Solves with the observed blocks of an MLR: against dense blocks, sample after sample."""

import numpy as np
import pytest
from gaps import KINDS, at_random, blocks, one_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import PATHS, cases, close, computing, make_case, permuted_case

from mlrops import MLR, Hierarchy
from mlrops.factor.estep import incomplete_solve
from mlrops.factor.estep.filling import fill, loglik_samples
from mlrops.factor.estep.incomplete import IncompleteData, IncompleteSamples, IncompleteStep
from mlrops.factor.estep.incomplete_solve import IncompletePrecision, ObservedCells
from mlrops.operators import refine


def make_cells(kind, n, N, rng):
    """(observed (n, N), values with rubbish at the missing cells)."""
    observed = ~kind((N, n), rng).T
    E = rng.standard_normal((n, N))
    E[~observed] = rng.choice([np.nan, np.inf, 1e30, 7.0], (~observed).sum())
    return observed, E


def dense_solve(dense, observed, E):
    """Block after block by LAPACK: solutions, quadratic forms, log-determinant, mean diagonal."""
    out, quad, logdet = np.zeros(E.shape), np.zeros(E.shape[1]), 0.0
    diagonal, counts = np.zeros(len(E)), observed.sum(axis=1)
    for t in range(E.shape[1]):
        o = np.flatnonzero(observed[:, t])
        block, e = dense[np.ix_(o, o)], E[o, t].astype(float)
        out[o, t] = np.linalg.solve(block, e)
        quad[t] = e @ out[o, t]
        logdet += np.linalg.slogdet(block)[1]
        diagonal[o] += np.diag(np.linalg.inv(block))
    return out, quad, logdet, diagonal / np.maximum(counts, 1)


def check(case, observed, E, tol=1e-9):
    A = case.A
    precision = IncompletePrecision(A, ObservedCells(A.hierarchy, observed))
    out, quad, logdet, diagonal = dense_solve(case.dense, observed, E)
    found = precision.solve(E)
    close(found, out, tol)
    assert (found[~observed] == 0).all()
    close(precision.inv_quad(E), quad, tol)
    assert precision.logdet() == pytest.approx(logdet, rel=tol, abs=tol * E.size)
    close(precision.inverse_diagonal(), diagonal, tol)


@settings(max_examples=60, deadline=None)
@given(cases(max_n=25), st.sampled_from(KINDS), st.integers(1, 12), st.sampled_from(sorted(PATHS)))
def test_every_block_is_solved_as_by_lapack(case, kind, N, path):
    observed, E = make_cells(kind, case.hierarchy.n, N, case.rng)
    with computing(path):
        check(case, observed, E)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_permuted_tree_on_every_path(kind, path):
    case = permuted_case()
    observed, E = make_cells(kind, 30, 40, case.rng)
    with computing(path):
        check(case, observed, E)


def test_samples_in_batches(monkeypatch):
    case = permuted_case()
    observed, E = make_cells(blocks, 30, 41, case.rng)
    monkeypatch.setattr(incomplete_solve, "PRODUCT_ITEMS", 1)
    ranges = list(incomplete_solve.batches(
        ObservedCells(case.hierarchy, observed)._patterns, case.A._layout))
    assert len(ranges) == 9 and ranges[-1] == (40, 41)  # R = 5 samples at a time, patterns are cut
    check(case, observed, E)


def test_solutions_do_not_share_memory():
    case = permuted_case()
    observed, E = make_cells(at_random, 30, 10, case.rng)
    precision = IncompletePrecision(case.A, ObservedCells(case.hierarchy, observed))
    first = precision.solve(E)
    kept = first.copy()
    precision.solve(3 - E)
    assert np.array_equal(first, kept)


def test_deep_tree():
    n, L = 64, 12
    h = Hierarchy.from_boundaries([np.arange(0, n + 1, 64 >> min(lv, 6)) for lv in range(L)])
    case = make_case(h, [1, 0, 2, 1, 1, 1, 1, 1, 1, 1, 0, 1], seed=3)
    check(case, *make_cells(at_random, n, 30, case.rng))


@pytest.mark.slow
def test_large_unequal_leaves():
    rng = np.random.default_rng(7)
    levels = [[0, 900], [0, 500, 900], [0, 1, 480, 500, 503, 900]]
    case = make_case(Hierarchy(rng.permutation(900), levels), (4, 3, 5), seed=8)
    check(case, *make_cells(blocks, 900, 50, rng))
    check(case, *make_cells(at_random, 900, 25, rng))


def test_complete_samples_are_solved_as_by_the_whole_matrix():
    case = permuted_case()
    E = case.rng.standard_normal((30, 17))
    cells = ObservedCells(case.hierarchy, np.ones((30, 17), bool))
    precision = IncompletePrecision(case.A, cells)
    assert cells.n_patterns == 1
    close(precision.solve(E), case.A.solve(E), 1e-14)
    close(precision.inv_quad(E), case.A.inv_quad(E), 1e-14)
    assert precision.logdet() == pytest.approx(17 * case.A.logdet(), rel=1e-14)
    close(precision.inverse_diagonal(), 1 / case.A.partial_variance(), 1e-13)


def test_empty_samples_and_features_that_no_sample_shows():
    case = permuted_case()
    observed, E = make_cells(at_random, 30, 12, case.rng)
    observed[:, [0, 5]] = False
    observed[[2, 29]] = False
    check(case, observed, E)
    precision = IncompletePrecision(case.A, ObservedCells(case.hierarchy, observed))
    assert (precision.solve(E)[:, [0, 5]] == 0).all()
    assert (precision.inv_quad(E)[[0, 5]] == 0).all()
    assert (precision.inverse_diagonal()[[2, 29]] == 0).all()
    nothing = IncompletePrecision(case.A, ObservedCells(case.hierarchy, np.zeros((30, 2), bool)))
    assert not nothing.solve(E[:, :2]).any() and nothing.logdet() == 0
    assert not nothing.inverse_diagonal().any()


def test_all_ranks_zero():
    case = make_case(Hierarchy(np.arange(9)[::-1], [[0, 9], [0, 4, 9]]), (0, 0), seed=1)
    observed, E = make_cells(at_random, 9, 8, case.rng)
    observed[3] = False
    check(case, observed, E, 1e-14)


def test_one_object_for_the_cells_serves_many_covariances_and_values():
    first, second = (make_case(permuted_case().hierarchy, (2, 1, 1), seed=s) for s in (1, 2))
    observed, E = make_cells(at_random, 30, 20, first.rng)
    cells = ObservedCells(first.hierarchy, observed)
    for case in (first, second):
        precision = IncompletePrecision(case.A, cells)
        for values in (E, 2 - E):
            close(precision.solve(values), dense_solve(case.dense, observed, values)[0])


def test_solves_share_one_factorization(monkeypatch):
    calls, products = [], incomplete_solve.products  # of the factors, which a factorization takes
    monkeypatch.setattr(incomplete_solve, "products",
                        lambda *args: calls.append(1) or products(*args))
    case = permuted_case()
    observed, E = make_cells(at_random, 30, 20, case.rng)
    precision = IncompletePrecision(case.A, ObservedCells(case.hierarchy, observed))
    for _ in range(3):
        precision.solve(E)
    precision.logdet(), precision.inv_quad(E), precision.inverse_diagonal()
    assert len(calls) == 1


def test_groups_are_the_patterns():
    h = permuted_case().hierarchy
    observed, _ = make_cells(blocks, 30, 21, np.random.default_rng(0))
    cells = ObservedCells(h, observed)
    seen, all_samples = np.zeros_like(observed), []
    for samples, features in cells.groups():
        seen[np.ix_(features, samples)] = True
        all_samples.extend(samples)
        assert (np.diff(features) > 0).all() and (np.diff(samples) > 0).all()
    assert (seen == observed).all() and sorted(all_samples) == list(range(21))
    assert cells.n_patterns == len(np.unique(observed, axis=1).T)
    assert (cells.counts == observed.sum(axis=1)).all()


# ---------------------------------------------------------------- precision


def backward_errors(case, observed, x, b):
    """``‖Σ_OO x - b‖ / (‖Σ_OO‖ ‖x‖ + ‖b‖)`` of each sample, the residual in extended precision."""
    for t in range(b.shape[1]):
        o = np.flatnonzero(observed[:, t])
        block = case.dense[np.ix_(o, o)]
        residual = np.linalg.norm(
            (block.astype(np.longdouble) @ x[o, t] - b[o, t]).astype(float))
        yield residual / (np.linalg.norm(block, 2) * np.linalg.norm(x[o, t])
                          + np.linalg.norm(b[o, t]))


@pytest.mark.quick(4)
@pytest.mark.parametrize("low, dtype", [
    (0, np.float64), (-3, np.float64), (-6, np.float64), (-12, np.float64),
    *(pytest.param(low, np.float32, marks=pytest.mark.slow)  # of 7 digits, I + FᵀD⁻¹F leaves none
      for low in (0, -3)),  # where D is 1e-6
])
@pytest.mark.parametrize("kind", [at_random, blocks])
def test_backward_error_where_D_spans_decades(kind, low, dtype):
    rng = np.random.default_rng(-low)
    n, N = 80, 30
    h = Hierarchy(rng.permutation(n), [[0, n], [0, 30, n], [0, 1, 12, 30, 70, n]])
    factors = [rng.standard_normal((n, r)).astype(dtype) for r in (3, 2, 2)]
    case = make_case(h, (3, 2, 2), 0)
    D = (10 ** rng.uniform(low, 0, n)).astype(dtype)
    A = MLR(h, factors, D)
    observed, _ = make_cells(kind, n, N, rng)
    spread_out = sum((np.where(h.labels(lv)[:, None] == h.labels(lv), f.astype(float)
                               @ f.astype(float).T, 0) for lv, f in enumerate(factors)),
                     np.diag(D.astype(float)))
    case = case._replace(A=A, dense=spread_out)
    precision = IncompletePrecision(A, ObservedCells(h, observed))
    # Right-hand sides close to the range of F, where D⁻¹ (b - F z) cancels, and plain ones.
    E = np.where(np.arange(N) % 2, A.factors[0] @ rng.standard_normal((3, N)),
                 rng.standard_normal((n, N))).astype(dtype)
    x = precision.solve(E)
    assert x.dtype == dtype
    worst = max(backward_errors(case, observed, x, E))
    assert worst <= 120 * np.finfo(dtype).eps
    assert (precision.inv_quad(E) >= 0).all()


def test_ordinary_solves_are_not_refined_and_hard_ones_are(monkeypatch):
    rng, n, N = np.random.default_rng(0), 60, 12
    h = Hierarchy.from_boundaries([[0, n], [0, 20, n]])
    factors = [rng.standard_normal((n, 2)), rng.standard_normal((n, 2))]
    observed, _ = make_cells(at_random, n, N, rng)
    E = factors[0] @ rng.standard_normal((2, N))
    errors = {}
    for corrections in (12, 0):
        if not corrections:
            monkeypatch.setattr(refine, "refine", lambda x, *_: np.zeros(x.shape[1]))
        for low in (0, -12):
            case = make_case(h, (2, 2), 0)
            D = 10 ** np.linspace(low, 0, n)
            A = MLR(h, factors, D)
            case = case._replace(A=A, dense=A.toarray())
            x = IncompletePrecision(A, ObservedCells(h, observed)).solve(E)
            errors[corrections, low] = max(backward_errors(case, observed, x, E)), x
    close(errors[12, 0][1], errors[0, 0][1], 1e-12)
    assert errors[12, -12][0] < 1e-13 < errors[0, -12][0]


@pytest.mark.slow
def test_float32():
    rng = np.random.default_rng(4)
    h = permuted_case().hierarchy
    single = make_case(h, (2, 0, 3), seed=6, dtype=np.float32)
    observed, E = make_cells(at_random, 30, 40, rng)
    E = np.where(observed, E, np.nan).astype(np.float32)
    check(single, observed, E, 2e-5)
    precision = IncompletePrecision(single.A, ObservedCells(h, observed))
    assert precision.solve(E).dtype == precision.inv_quad(E).dtype == np.float32
    assert precision.inverse_diagonal().dtype == np.float32
    assert precision.solve(E.astype(float)).dtype == np.float64


# ---------------------------------------------------------------- input


def test_input_may_lie_anyhow_and_is_not_written_to():
    case = permuted_case()
    observed, E = make_cells(at_random, 30, 14, case.rng)
    precision = IncompletePrecision(case.A, ObservedCells(case.hierarchy, observed))
    expected = precision.solve(E)
    kept = E.copy()
    wide = np.zeros((60, 28))
    wide[::2, ::2] = E
    read_only = E.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(E), wide[::2, ::2], read_only, E.tolist()):
        close(precision.solve(same), expected, 1e-12)
    assert np.array_equal(E, kept, equal_nan=True)
    whole = np.arange(30 * 14).reshape(30, 14)
    close(precision.solve(whole), precision.solve(whole.astype(float)), 1e-15)


def test_nan_at_an_observed_cell_stays_in_its_sample():
    case = permuted_case()
    observed, E = make_cells(blocks, 30, 15, case.rng)
    precision = IncompletePrecision(case.A, ObservedCells(case.hierarchy, observed))
    expected = precision.solve(E)
    E[np.flatnonzero(observed[:, 4])[0], 4] = np.nan
    found, others = precision.solve(E), np.arange(15) != 4
    assert np.isnan(found[observed[:, 4], 4]).any()
    close(found[:, others], expected[:, others], 1e-13)


def test_refusals():
    case = permuted_case()
    h, observed = case.hierarchy, np.ones((30, 4), bool)
    with pytest.raises(TypeError, match="hierarchy must be a Hierarchy, got ndarray"):
        ObservedCells(observed, observed)
    with pytest.raises(TypeError, match="observed must be boolean, got dtype float64"):
        ObservedCells(h, observed.astype(float))
    for wrong in (observed.T, observed[:, 0], observed[:, :0]):
        with pytest.raises(ValueError, match="observed must have one row a feature"):
            ObservedCells(h, wrong)
    cells = ObservedCells(h, observed)
    with pytest.raises(TypeError, match="covariance must be an MLR, got ndarray"):
        IncompletePrecision(case.dense, cells)
    with pytest.raises(ValueError, match="must share one hierarchy.*order of features differ"):
        IncompletePrecision(MLR(Hierarchy.flat(30), [np.ones((30, 1))], np.ones(30)), cells)
    precision = IncompletePrecision(case.A, cells)
    for wrong in (np.ones((30, 5)), np.ones((4, 30)), np.ones(30)):
        for verb in (precision.solve, precision.inv_quad):
            with pytest.raises(ValueError, match=r"shape|must be 2-d"):
                verb(wrong)
    with pytest.raises(TypeError, match="real"):
        precision.solve(np.ones((30, 4)) * 1j)


def test_overflow_names_level_and_group():
    h = Hierarchy.from_boundaries([[0, 6], [0, 2, 6]])
    factors = [np.ones((6, 1)), np.ones((6, 1))]
    factors[1][3:] = 1e306
    A = MLR(h, factors, np.full(6, 1e-6))
    precision = IncompletePrecision(A, ObservedCells(h, ~np.eye(6, dtype=bool)))
    with pytest.raises(np.linalg.LinAlgError, match="level 1, group 1"):
        precision.logdet()


# ---------------------------------------------------------------- the same cells, other values


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_with_other_values_are_those_grouped_anew(weighted, dtype):
    case = permuted_case()
    rng, mean = case.rng, case.rng.standard_normal(30)
    A = make_case(case.hierarchy, (2, 0, 3), seed=6, dtype=dtype).A
    observed, E = make_cells(at_random, 30, 25, rng)
    first = np.where(observed, rng.standard_normal((30, 25)), np.nan)
    weights = rng.uniform(0.5, 2, 25) if weighted else None
    old = IncompleteSamples(case.hierarchy, first, weights)
    before = loglik_samples(case.A, mean, old)
    new = old.with_values(E.astype(dtype))
    anew = IncompleteSamples(
        case.hierarchy, np.where(observed, E, np.nan).astype(dtype), weights)
    assert new.dtype == dtype and new.n_patterns == anew.n_patterns
    tol = 1e-12 if dtype == np.float64 else 1e-4
    close(loglik_samples(A, mean, new), loglik_samples(A, mean, anew), tol)
    close(fill(A, mean, new), fill(A, mean, anew), tol)
    steps = (IncompleteStep(A, mean, IncompleteData(x, x.counts, 0 * mean, True))
             for x in (new, anew))
    for a, b in zip(*(step.update() for step in steps), strict=True):
        close(a, b, tol)
    close(loglik_samples(case.A, mean, old), before, tol)  # not written to


def test_samples_with_other_cells_are_refused():
    h = permuted_case().hierarchy
    observed, E = make_cells(one_cell, 30, 9, np.random.default_rng(1))
    samples = IncompleteSamples(h, np.where(observed, E, np.nan))
    feature = int(np.flatnonzero(observed.all(axis=1))[0])
    E[feature, 3] = np.nan
    with pytest.raises(ValueError, match=rf"NaN at 1 feature \({feature}\)"):
        samples.with_values(E)
    with pytest.raises(ValueError, match=r"\(n, N\) = \(30, 9\), got \(30, 8\)"):
        samples.with_values(E[:, :8])
