"""Operators peeled by products: blocks by value, how many products, and fits to them."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from mlrops import GeneralMLR, Hierarchy, allocate_ranks, fit_mlr, partition_points
from mlrops._common.radial import radial
from mlrops.datasets import hierarchical_matrix
from mlrops.fitting.blocks import DenseBlocks
from mlrops.fitting.pairs import GroupPairs
from mlrops.fitting.peeled import PeeledBlocks, products_for


class Counted(LinearOperator):
    """Products with A, counted; without adjoint ones if it is `symmetric`."""

    def __init__(self, A, symmetric=False):
        super().__init__(A.dtype, A.shape)
        self.A, self.is_symmetric, self.n_products = A, symmetric, 0

    def _matmat(self, X):
        self.n_products += X.shape[1]
        return self.A @ X

    def _rmatmat(self, X):
        assert not self.is_symmetric
        self.n_products += X.shape[1]
        return self.A.T @ X


def planted(counts, symmetric, m=800, n=640):
    """A matrix whose sibling blocks have rank 3, and its trees."""
    A, rows, cols = hierarchical_matrix(m, n, counts, [2, 1, 1, 1], random_state=0)
    if not symmetric:
        return A, rows, cols
    rng = np.random.default_rng(1)
    B = [rng.standard_normal((m, r)) for r in (2, 1, 1, 1)]
    return GeneralMLR(rows, rows, B, B).toarray(), rows, rows


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("counts", [[1, 2, 4, 8], [1, 3, 6, 12], [1, 1, 4, 8], [2, 4, 8, 16]],
                         ids=str)
def test_blocks_of_low_rank_are_found(counts, symmetric):
    A, rows, cols = planted(counts, symmetric)
    if counts[0] == 2:  # what the roots leave out
        rng = np.random.default_rng(2)
        u, v = rng.standard_normal(A.shape[0]), rng.standard_normal(A.shape[1])
        A = A + (np.outer(u, u) if symmetric else np.outer(u, v))
    pairs, operator, rng = GroupPairs(rows, cols), Counted(A, symmetric), np.random.default_rng(1)
    blocks = PeeledBlocks(operator, pairs, A.dtype, symmetric, 10, rng)
    whole = DenseBlocks(A, pairs, A.dtype)
    products, cut = products_for(pairs, symmetric, 10)
    assert 0 < cut and blocks.n_products == operator.n_products == products < A.shape[1]
    assert blocks.squared_norm == pytest.approx(whole.squared_norm, rel=1e-9)
    for fixed in ("rows", "cols"):
        size = getattr(pairs, fixed).n
        parts = [np.pad(rng.standard_normal((size, k)), ((0, 1), (0, 0))) for k in (2, 1, 0, 3)]
        got, expected = (x.normal(parts, fixed)[0] for x in (blocks, whole))
        np.testing.assert_allclose(got[:-1], expected[:-1], atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("symmetric", [True, False])
def test_fits_to_peeled_operators_are_near_those_to_arrays(symmetric):
    X = np.random.default_rng(0).random((1200, 2))
    A = radial("exponential", 0.5, X, X if symmetric else X + 0.05)
    tree = partition_points(X, None, 6)[0]
    operator = Counted(A, symmetric)
    fit = allocate_ranks(operator, 10, tree, symmetric=symmetric, random_state=0)
    whole = allocate_ranks(A, 10, tree, random_state=0)
    true = np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)
    assert fit.operator.symmetric == symmetric
    assert operator.n_products < 700
    assert true < 1.1 * whole.error
    assert abs(fit.error - true) < 5 * fit.held_out_se < 0.5 * true
    again = allocate_ranks(Counted(A, symmetric), 10, tree, symmetric=symmetric, random_state=0)
    np.testing.assert_array_equal(again.operator.B, fit.operator.B)


def test_small_operators_are_read_in_full_and_fitted_as_arrays():
    A, rows, cols = hierarchical_matrix(60, 45, [1, 3, 9], [2, 1, 1], noise=0.1, random_state=0)
    operator = Counted(A)
    found = allocate_ranks(operator, 5, rows, cols, random_state=0)
    assert operator.n_products == 45 and found.held_out_error is None
    expected = allocate_ranks(A, 5, rows, cols, random_state=0)
    assert found.ranks == expected.ranks
    np.testing.assert_allclose(found.operator.toarray(), expected.operator.toarray(), atol=1e-9)
    assert found.error == pytest.approx(expected.error, rel=1e-9)


def test_als_peels_and_bcd_does_not():
    A, rows, cols = planted([1, 2, 4, 8], False)
    fit = fit_mlr(Counted(A), (2, 1, 1, 1), rows, cols, method="als", random_state=0, max_iter=400,
                  tol=1e-8)
    assert fit.error < 1e-5 and fit.held_out_se is not None
    plain = fit_mlr(Counted(A), (2, 1, 1, 1), rows, cols, max_iter=2, random_state=0)
    assert plain.held_out_error is None


def test_operators_that_are_bad():
    A, rows, cols = planted([1, 2, 4, 8], False)
    with pytest.raises(ValueError, match="A is all zero"):
        allocate_ranks(Counted(0 * A), 4, rows, cols)
    bad = A.copy()
    bad[7, 9] = np.nan
    with pytest.raises(ValueError, match=r"got products with NaN or infinity \(row 7\)"):
        allocate_ranks(Counted(bad), 4, rows, cols)

    class OneSided(Counted):
        def _rmatmat(self, X):
            raise NotImplementedError

    with pytest.raises(TypeError, match="A must multiply from both sides"):
        allocate_ranks(OneSided(A), 4, rows, cols)


def test_products_are_the_fewest():
    deep = GroupPairs(*[Hierarchy.balanced(4096, [1, 2, 4, 8, 16, 32, 64])] * 2)
    for rank in (1, 8, 40, 500):
        for symmetric, each in ((True, 2 * rank), (False, 4 * rank)):
            by_cut = [each * cut + 4096 // 2**cut for cut in range(7)]
            fewest, cut = products_for(deep, symmetric, rank)
            assert fewest == min(by_cut) and max(cut, 0) == np.argmin(by_cut)
