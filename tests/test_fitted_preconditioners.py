"""What fitted matrices are good for: preconditioners, least squares, fewer ranks, an `MLR`."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg, gmres

from mlrops import MLR, Hierarchy
from mlrops.datasets import sphere_kernel
from mlrops.fitting import allocate_ranks, fit_mlr, partition_points

RANKS = 8, 4, 3, 3, 1


def system(n=300, noise=0.02, seed=0):
    """A kernel with noise on its diagonal, and a tree down to single features."""
    data = sphere_kernel(n, "matern32", 0.3, random_state=seed)
    top, _ = partition_points(data.sources, None, 4)
    tree = Hierarchy(top.permutation, [*top.boundaries, np.arange(n + 1)])
    return data.A + noise * np.eye(n), tree


def iterations(A, M=None, solve=cg, **options):
    count = []
    b = np.random.default_rng(1).standard_normal(len(A))
    x, info = solve(A, b, M=M, rtol=1e-8, maxiter=5000, callback=count.append, **options)
    assert info == 0 and np.linalg.norm(A @ x - b) <= 1.1e-7 * np.linalg.norm(b)
    return len(count)


class WithDiagonal(LinearOperator):
    def __init__(self, A):
        self._A = A
        super().__init__(A.dtype, A.shape)

    def _matmat(self, X):
        return self._A @ X

    def _rmatmat(self, X):
        return self._A.T @ X

    def diagonal(self):
        return np.diagonal(self._A)


@pytest.mark.parametrize("kind", [np.asarray, csr_array, WithDiagonal])
@pytest.mark.parametrize("noise", [0.02, 1e-4])
def test_positive_fits_are_mlrs_and_precondition(kind, noise):
    A, tree = system(noise=noise)
    fit = fit_mlr(kind(A), RANKS, tree, psd=True, random_state=0)
    M = fit.to_mlr()
    assert isinstance(M, MLR) and M.D.min() >= 1e-3 * (1 + noise) * (1 - 1e-12)
    assert np.linalg.eigvalsh(M.toarray()).min() > 0
    gap = np.linalg.norm(A - M.toarray()) / np.linalg.norm(A)
    assert fit.error == pytest.approx(gap, rel=1e-6)
    assert iterations(A, M.inv()) < 0.6 * iterations(A)


def test_the_bound_costs_next_to_nothing():
    A, tree = system(noise=1e-4)
    fit = fit_mlr(A, RANKS, tree, psd=True, tol=1e-6, max_iter=1000, random_state=0)
    free = fit_mlr(aslinearoperator(A), RANKS, tree, psd=True, tol=1e-6, max_iter=1000,
                   random_state=0)  # its diagonal is not known
    assert (fit.operator.diagonal() > 0).all() and fit.error < 1.01 * free.error
    zeros = free.operator.left[-1][:, 0] == 0
    assert zeros.any()
    with pytest.raises(ValueError, match="diagonal level must be positive"):
        free.to_mlr()


def test_a_diagonal_that_is_not_positive_stays():
    A, tree = system(60)
    A[7, 7] = 0.0
    fit = fit_mlr(A, RANKS, tree, psd=True, random_state=0)
    assert fit.operator.left[-1][7, 0] == 0
    with pytest.raises(ValueError, match="got 0 at feature 7"):
        fit.to_mlr()


def test_general_fits_precondition_gmres():
    A, tree = system()
    A = A + 0.05 * np.triu(A)  # not symmetric
    fit = fit_mlr(A, RANKS, tree, random_state=0)
    plain = iterations(A, solve=gmres, restart=300, callback_type="pr_norm")
    with_fit = iterations(A, fit.operator.inv(), gmres, restart=300, callback_type="pr_norm")
    assert not fit.operator.symmetric and with_fit < 0.7 * plain


def test_compress_and_lstsq_of_a_fit():
    A, tree = system()
    fit = allocate_ranks(A, 14, tree, random_state=0)
    M = fit.operator
    less = M.compress(ranks=[max(r - 1, 0) for r in M.ranks])
    assert less.ranks == tuple(max(r - 1, 0) for r in M.ranks)
    again = fit_mlr(A, less.ranks, tree, init=less, random_state=0)
    assert again.error < again.objective_trace[0]
    B, _ = system(240, seed=3)
    tall = np.random.default_rng(0).standard_normal((300, 8)) @ B[:8]
    pair = Hierarchy.balanced(300, [1, 2, 4]), Hierarchy.balanced(240, [1, 2, 4])
    fit = fit_mlr(tall, (8, 1, 1), *pair, random_state=0)
    b = tall @ np.ones(240)
    x, info = fit.operator.lstsq(b)
    assert np.linalg.norm(tall @ x - b) <= 1e-6 * np.linalg.norm(b)
