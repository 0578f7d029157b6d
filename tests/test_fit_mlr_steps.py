"""Single steps of the Frobenius fits: what each keeps, and that none goes uphill."""

import numpy as np
import pytest
from test_fit_mlr import gaussian, sparse_case

from mlrops import Hierarchy
from mlrops._common.driver import drive
from mlrops.fitting import fit_mlr, pairs
from mlrops.fitting.bcd import leading_eigen, leading_singular
from mlrops.fitting.descent import Descent
from mlrops.fitting.search import Refinement, State
from mlrops.fitting.target import Target


class Plain:
    """One batch of blocks without a part of their own."""

    def __init__(self, X):
        self.X = X

    def mul(self, Q):
        return [self.X @ Q[0]]

    def rmul(self, U):
        return [self.X.swapaxes(1, 2) @ U[0]]


@pytest.mark.parametrize("seed", range(5))
def test_a_visit_keeps_what_its_directions_hold(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((3, 20, 20)) + np.diag(np.r_[5 * np.ones(3), np.zeros(17)])
    Q = np.linalg.qr(rng.standard_normal((3, 20, 4)))[0]
    B, C, _, s = leading_singular(Plain(X), [Q], 4, 1)
    found = np.linalg.norm(X - B[0] @ C[0].swapaxes(1, 2), axis=(1, 2))
    given = np.linalg.norm(X - X @ Q @ Q.swapaxes(1, 2), axis=(1, 2))
    assert (found < given).all()
    np.testing.assert_allclose(found**2, (X**2).sum(axis=(1, 2)) - (s[0]**2).sum(axis=1))
    # The range of S Q alone holds less than Q does, when Q spans eigenvectors of one small block.
    S = X + X.swapaxes(1, 2)
    lam, V = np.linalg.eigh(S)
    V = V[:, :, [0, 1, 18, 19]] + 1e-3 * rng.standard_normal((3, 20, 4))
    Q = np.linalg.qr(V)[0]
    for psd in (False, True):
        section = np.linalg.eigvalsh(Q.swapaxes(1, 2) @ S @ Q)
        section = np.maximum(section, 0) if psd else section
        _, _, _, s = leading_eigen(Plain(S), [Q], 4, 1, psd)
        assert ((s[0]**2).sum(axis=1) >= (section**2).sum(axis=1)).all()


def test_visits_after_least_squares_go_downhill():
    A, rows, cols = sparse_case()
    descent = Descent(Target(A, rows, cols, False, False), (2, 2, 1, 1), 0)
    descent.start()
    for _ in range(4):
        for _ in range(3):
            descent.als()
        for level in range(4):
            before = descent.error()
            descent.visit([level])
            assert descent.error() <= before + 1e-14


def test_the_row_that_fills_batches_up_stays_zero():
    x = np.zeros((5, 2))
    index = np.array([[0, 1, 2], [3, 4, 4]])
    pairs.put(x, index, np.ones((2, 3, 2)))
    np.testing.assert_array_equal(x, [[1, 1]] * 4 + [[0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_als_stays_downhill_where_fine_levels_repeat_each_other(dtype):
    A = gaussian(120, 90).astype(dtype)
    rows, cols = (Hierarchy.balanced(k, [1, 2, 4, 8, 16, 32, 64]) for k in A.shape)
    fit = fit_mlr(A, [2] * 7, rows, cols, method="als", tol=0, max_iter=200, random_state=0)
    assert fit.n_iter > 60 or fit.termination == "exact"
    assert np.abs(fit.operator.B).max() < 1e6 and fit.termination != "rounding"
    assert (np.diff(fit.objective_trace) <= 0).all()


def test_a_step_uphill_is_taken_back():
    A, rows, cols = sparse_case()
    state = State(Target(A, rows, cols, False, False), 0)
    state.descend((2, 2, 1, 1))
    descent = state.engine
    descent.start()
    steps = iter([False, False, True])

    def step():
        descent.als()
        if next(steps):
            descent.factors.left[1] = descent.factors.left[1] + 1
            descent.residual.restart(descent.factors)

    run = drive(Refinement(state, 0.0, step), 10, "fit")
    errors = run.objectives
    assert run.termination == "rounding" and not run.converged and len(errors) == 3
    gap = np.linalg.norm(A - descent.factors.operator().toarray()) / np.linalg.norm(A)
    assert gap == pytest.approx(errors[-1], rel=1e-12) == descent.error()
