"""`fit_mlr`: where it starts from, how it is watched and stopped, and what it refuses."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_array
from test_fit_mlr import Products, sparse_case, symmetric_matrix, trees

from mlrops import GeneralMLR, Hierarchy
from mlrops.fitting import fit_mlr


def test_init_is_the_start_and_cannot_be_lost():
    A, rows, cols = sparse_case()
    first = fit_mlr(A, (2, 1, 0, 1), rows, cols, max_iter=3, random_state=0)
    for method in ("bcd", "als"):
        again = fit_mlr(A, (2, 1, 0, 1), rows, cols, init=first.operator, max_iter=2, tol=0,
                        method=method, random_state=1)
        assert again.objective_trace[0] == pytest.approx(first.error, rel=1e-12)
        assert (np.diff(again.objective_trace) < 0).all()
    S, tree = symmetric_matrix()
    first = fit_mlr(S, (2, 1, 1), tree, max_iter=3, psd=True)
    again = fit_mlr(S, (2, 1, 1), tree, init=first.operator, max_iter=2, psd=True, tol=0)
    assert again.objective_trace[0] == pytest.approx(first.error, rel=1e-12)
    assert (np.diff(again.objective_trace) < 0).all()


def test_the_callback_sees_every_error_and_may_stop():
    A, rows, cols = sparse_case()
    seen = []

    def watch(iterate):
        if iterate.stage == "refinement":
            seen.append((iterate.n_iter, iterate.objective, iterate.ranks))
        if iterate.n_iter == 3:
            raise StopIteration

    fit = fit_mlr(A, (2, 1, 0, 1), rows, cols, callback=watch, tol=0)
    assert [n for n, _, _ in seen] == [0, 1, 2, 3] and seen[0][2] == (2, 1, 0, 1)
    np.testing.assert_array_equal([e for _, e, _ in seen], fit.objective_trace)
    assert fit.termination == "callback" and not fit.converged
    start = fit_mlr(A, (2, 1, 0, 1), rows, cols, max_iter=0)
    assert start.n_iter == 0 and start.termination == "max_iter"
    assert start.objective_trace.shape == (1,)


def test_progress_and_repr_and_pickle(capsys):
    A, rows, cols = sparse_case()
    fit = fit_mlr(A, (2, 1, 0, 1), rows, cols, progress=True, max_iter=2, tol=0)
    assert "fit" in capsys.readouterr().err
    assert repr(fit).startswith("<MLRFit of 70x64, ranks (2, 1, 0, 1), error 0.")
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.operator.B, fit.operator.B)


def test_input_is_left_alone():
    S, tree = symmetric_matrix()
    for A in (S, csr_array(S)):
        before = A.copy()
        fit_mlr(A, (2, 1, 1), tree, max_iter=2)
        assert not (abs(before - A) > 0).sum()


# ---------------------------------------------------------------- bad input

def bad(A=None, ranks=(1, 1, 1), rows=None, cols=None, **options):
    default_rows, default_cols, rng = trees()
    A = rng.standard_normal((26, 21)) if A is None else A
    return fit_mlr(A, ranks, rows or default_rows, cols or default_cols, **options)


def test_refusals():
    A = trees()[2].standard_normal((26, 21))
    nan, wrong = A.copy(), A[:, :20]
    nan[4, 5] = np.nan
    with pytest.raises(ValueError, match=r"A must be finite, .* \(row 4\)"):
        bad(nan)
    with pytest.raises(ValueError, match=r"A must be finite, .* \(row 4\)"):
        bad(csr_array(nan))
    with pytest.raises(ValueError, match="products with NaN"):
        bad(Products(nan))
    for zero in (np.zeros_like, lambda x: csr_array(x.shape), lambda x: Products(0 * x)):
        with pytest.raises(ValueError, match="A is all zero"):
            bad(zero(A))
    with pytest.raises(ValueError, match="26 features of rows and a column for each of the 21"):
        bad(wrong)
    with pytest.raises(TypeError, match="complex"):
        bad(A + 1j)
    with pytest.raises(ValueError, match="3 entries, one a level"):
        bad(ranks=(1, 1))
    with pytest.raises(ValueError, match="rank of level 1 must be non-negative"):
        bad(ranks=(1, -1, 1))
    with pytest.raises(ValueError, match="method must be 'als', 'bcd' or None"):
        bad(method="svd")
    with pytest.raises(ValueError, match="order must be"):
        bad(order="w")
    for tol in (-1, np.nan, 1):
        with pytest.raises(ValueError, match="tol must lie in"):
            bad(tol=tol)
    with pytest.raises(ValueError, match="max_iter must be non-negative"):
        bad(max_iter=-1)
    with pytest.raises(TypeError, match="rows must be a Hierarchy"):
        bad(rows=2)
    with pytest.raises(ValueError, match="rows: level 1 has 2 labels for 26 rows"):
        bad(rows=[1, 2])
    with pytest.raises(ValueError, match="level 1 has 2 and 3"):
        bad(cols=Hierarchy.balanced(21, [1, 3, 6]))
    with pytest.raises(ValueError, match="group 0 of level 1 has 2 children"):
        bad(cols=Hierarchy.from_boundaries([[0, 21], [0, 5, 21], [0, 5, 7, 9, 21]]))


def test_refusals_of_symmetry_and_starts():
    S, tree = symmetric_matrix()
    S[3, 7] += 2.5
    for A in (S, csr_array(S)):
        with pytest.raises(ValueError, match=r"A\[(3, 7|7, 3)\] and .* differ by 2.5"):
            fit_mlr(A, (1, 1, 1), tree, symmetric=True)
    with pytest.raises(ValueError, match="for random v and w"):
        fit_mlr(Products(S), (1, 1, 1), tree, symmetric=True)
    other = Hierarchy.balanced(40, [1, 2, 4])
    with pytest.raises(ValueError, match="same hierarchy"):
        fit_mlr(S, (1, 1, 1), tree, other, symmetric=True)
    with pytest.raises(ValueError, match="psd=True is for symmetric fits"):
        fit_mlr(S, (1, 1, 1), tree, psd=True, symmetric=False)
    with pytest.raises(ValueError, match='use method="bcd" for symmetric'):
        fit_mlr(S, (1, 1, 1), tree, symmetric=True, method="als")
    S[3, 7] -= 2.5
    S[3, 7] *= 1 + 1e-14
    assert fit_mlr(S, (1, 1, 1), tree, symmetric=True, max_iter=1).operator.symmetric
    rng = np.random.default_rng(0)
    start = GeneralMLR(tree, tree, [rng.standard_normal((40, 1))] * 3,
                       [rng.standard_normal((40, 1))] * 3)
    with pytest.raises(ValueError, match="init must be symmetric"):
        fit_mlr(S, (1, 1, 1), tree, init=start, symmetric=True)
    with pytest.raises(ValueError, match="equal left and right"):
        fit_mlr(S, (1, 1, 1), tree, init=start, psd=True)
    with pytest.raises(ValueError, match="init must have the ranks"):
        fit_mlr(S, (1, 1, 2), tree, init=start, method="als")
    with pytest.raises(ValueError, match="init must live on the hierarchies"):
        fit_mlr(S, (1, 1, 1), other, init=start, method="als")
    with pytest.raises(TypeError, match="init must be a GeneralMLR or a pair"):
        fit_mlr(S, (1, 1, 1), tree, init="svd")
