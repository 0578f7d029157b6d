"""Sums over samples that never sit together in memory; all arrays here are in tree order.

`StreamedMoments` is the E-step of EM on blocks of samples, or on sparse ones.  What it keeps does
not grow with the samples: for n features, total rank R and s factors of all groups, cross moments
V (n, R) and the second moments of the factors along their paths (s, R).
"""

import numpy as np

from ... import kernels
from . import kernels as passes

__all__ = ["RunningMoments", "SparseSamples", "StreamedMoments", "block_width",
           "load_samples", "row_scale"]

# Columns of a block below which its products are slow, and numbers below which the calls around
# them take longer than the products.
LEAST_WIDTH = 64
LEAST_ITEMS = 262_144
# Samples of a sparse block at most: products of huge leaves keep a result for each of its pieces.
LARGEST_SPARSE_WIDTH = 1024


def load_samples(rows, place, mean, scale, root_weight, at, out):
    """Put samples (m, n), one a row, centred and scaled, into columns of a block.

    Parameters
    ----------
    rows : ndarray, shape (m, n)
        float32 or float64, any strides.
    place : ndarray of int, shape (n,)
        The row of the block that each feature goes to.
    mean, scale : ndarray, shape (n,)
        In the order of the block's rows, float64.
    root_weight : ndarray, shape (m,)
        float64.
    at : int
        Column of `out` that the first sample goes to.
    out : ndarray, shape (n, k), C-contiguous
        ``out[p, at + t] = scale_p (rows[t, i] - mean_p) root_weight_t``, ``p = place_i``, formed in
        float64.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.factor.estep.moments import load_samples
    >>> X = np.zeros((2, 3))
    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> load_samples(rows, np.array([1, 0]), np.zeros(2), np.ones(2), np.array([1.0, 10.0]), 1, X)
    >>> X
    array([[ 0.,  2., 40.], [ 0.,  1., 30.]])
    """
    passes.moments.load(rows, place, mean, scale, root_weight, at, out)


class RunningMoments:
    """Weighted mean, sum of squared deviations and range of n features, block by block.

    Formed in float64.  Blocks are merged by the update of T. Chan, G. Golub and R. LeVeque (1979),
    so nothing cancels where means are large beside standard deviations.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.factor.estep.moments import RunningMoments
    >>> moments = RunningMoments(1)
    >>> for block in ([[1.0, 2.0]], [[6.0]]):
    ...     moments.add(np.array(block), np.ones(len(block[0])))
    >>> moments.mean, moments.squares, moments.low, moments.high
    (array([3.]), array([14.]), array([1.]), array([6.]))
    """

    def __init__(self, n):
        self.weight = 0.0
        self.mean, self.squares = np.zeros((2, n))
        self.low, self.high = np.full(n, np.inf), np.full(n, -np.inf)

    def add(self, X, weight):
        """Count the first ``weight.size`` columns of X (n, k); weights are positive."""
        passes.moments.describe(X, weight, self.weight, self.mean, self.squares, self.low,
                                 self.high)
        self.weight += weight.sum()

    def about(self, mean):
        """Sums of squared deviations from another mean, (n,)."""
        return self.squares + self.weight * np.square(self.mean - mean)


class SparseSamples:
    """``X = A diag(root_weight) - mean root_weightᵀ`` for sparse A, never formed.

    Parameters
    ----------
    A : scipy.sparse.csr_array, shape (n, N)
        One feature a row in tree order, one sample a column; indices sorted, no duplicates.
        Its values are overwritten by the weighted ones.
    root_weight : ndarray, shape (N,)
        Square roots of positive weights.
    center : bool
        Whether `mean` is the weighted mean of the features, or zero.

    Attributes
    ----------
    mean : ndarray, shape (n,), dtype of A
    sums_of_squares : ndarray, shape (n,), float64
        Of the rows of X.
    low, high : ndarray, shape (n,)
        Range of the features.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> from mlrops.factor.estep.moments import SparseSamples
    >>> A = scipy.sparse.csr_array([[0, 3.0, 0], [2.0, 0, 4.0]])
    >>> X = SparseSamples(A, root_weight=np.ones(3), center=True)
    >>> X.mean, X.sums_of_squares
    (array([1., 2.]), array([6., 8.]))
    >>> X.product(lambda start, stop: np.eye(3)[start:stop], 3)
    array([[-1.,  2., -1.], [ 0., -2.,  2.]])
    """

    def __init__(self, A, root_weight, center):
        n = A.shape[0]
        self.dtype, self.shape = A.dtype, A.shape
        self._rows = passes.moments.SparseRows(
            A.data, A.indices, A.indptr, root_weight.astype(A.dtype))
        self.mean, self.low, self.high = np.zeros((3, n), A.dtype)
        self.sums_of_squares = np.empty(n)
        passes.moments.describe_sparse(
            self._rows, np.square(root_weight), center, self.mean, self.sums_of_squares, self.low,
            self.high)
        A.data *= self._rows.root_weight[A.indices]

    def blocks(self, width):
        """Blocks of at most `width` samples that cover them, from left to right."""
        at = self._rows.offsets[:-1].copy()
        for start in range(0, self.shape[1], width):
            stop = min(start + width, self.shape[1])
            yield passes.moments.SparseBlock(self._rows, start, stop, at)

    def product(self, draw, width):
        """``X Ω`` (n, width); ``draw(start, stop)`` returns the rows start:stop of Ω (N, width)."""
        out = np.zeros((self.shape[0], width), self.dtype)
        total = np.zeros(width, self.dtype)
        for block in self.blocks(LARGEST_SPARSE_WIDTH):
            omega = np.ascontiguousarray(draw(block.start, block.stop), self.dtype)
            passes.moments.sketch_sparse(block, omega, out)
            total += block.root_weight @ omega
        out -= self.mean[:, None] * total
        return out


def row_scale(covariance):
    """``D⁻¹`` (n,) float64, by which the rows of a block are multiplied."""
    return 1 / covariance._d.astype(np.float64)


def block_width(covariance):
    """Samples a block should have, so that it is twice as large as the factors of an `MLR`."""
    layout = covariance._layout
    return max(2 * layout.R, LEAST_WIDTH, LEAST_ITEMS // (layout.n + layout.s))


class StreamedMoments:
    r"""The E-step of EM on samples of ``x = F z + e``, ``cov(e) = diag(D)``, in one pass.

    Parameters
    ----------
    covariance : MLR
        Covariance Σ of the n features, on a hierarchy in tree order.
    samples : iterable of ndarray (n, k), or SparseSamples
        Blocks of centred samples, one a column, *multiplied by* ``D⁻¹`` (`row_scale`): that is
        what the products with F and with the posterior means both need.  A block is used up
        before the next one is asked for.  Sparse samples come as they are.

    Notes
    -----
    ``2 n R`` flops a sample for the product with F and as many for the one with the posterior
    means, two sweeps over the tree; with sparse samples ``2 R`` flops each for every entry that is
    stored.  The quadratic forms come with the upward sweep, ``yᵀΣ⁻¹y = yᵀD⁻¹y - Σ ‖w‖²``.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.estep.moments import StreamedMoments
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.full(3, 0.5))
    >>> X = np.random.default_rng(0).standard_normal((3, 8))
    >>> squares = np.square(X).sum(axis=1)
    >>> by_block = StreamedMoments(A, [X[:, :3] / 0.5, X[:, 3:] / 0.5])
    >>> F, D = by_block.regress(squares, 8)
    >>> bool(np.allclose(F, A.posterior(X).regress(squares)[0]))
    True
    """

    def __init__(self, covariance, samples):
        self.covariance = A = covariance
        layout = A._layout
        self._cross = np.zeros_like(A._F)
        self._second = np.zeros((layout.s, layout.R), A.dtype)
        self._explained = 0.0
        if layout.R == 0:
            return
        if isinstance(samples, SparseSamples):
            self._add_sparse(samples)
        else:
            self._add(samples)

    def _add(self, blocks):
        A = self.covariance
        for P in blocks:
            self._explained += passes.moments.accumulate(
                A._F, A._factor[0], P, A._layout, self._cross, self._second)
        self._cross *= A._d[:, None]

    def _add_sparse(self, samples):
        A = self.covariance
        layout = A._layout
        shift = kernels.leaf.tdot(A._F, np.ascontiguousarray(samples.mean[:, None], A.dtype),
                                  layout, 0, layout.n_leaves, A._dinv)
        totals = np.zeros(layout.s, A.dtype)
        width = min(max(LEAST_WIDTH, layout.n * layout.R // layout.s), LARGEST_SPARSE_WIDTH)
        for block in samples.blocks(width):
            self._explained += passes.moments.accumulate_sparse(
                A._F, A._dinv, A._factor[0], block, shift, layout, self._cross, self._second,
                totals)
        passes.moments.subtract_mean(self._cross, samples.mean, totals, layout)

    def total_inv_quad(self, sums_of_squares):
        """``Σ_j x_jᵀ Σ⁻¹ x_j`` over the samples, from the features' sums of squares (n,).

        It loses as many digits as D is smaller than the features' variances.
        """
        return float(sums_of_squares @ (1 / self.covariance._d.astype(float)) - self._explained)

    def regress(self, sums_of_squares, n_samples, out=None):
        """Regress the features on their factors: the M-step.

        Parameters
        ----------
        sums_of_squares : ndarray, shape (n,)
        n_samples : float
            Total weight of the samples.
        out : (ndarray (n, R), ndarray (n,)), optional
            C-contiguous arrays to fill.

        Returns
        -------
        F : ndarray, shape (n, R)
            ``F_leaf = V W⁻¹``, ``V = X_leaf Zᵀ``, ``W = N Cov + Z Zᵀ`` along the leaf's path.
        D : ndarray, shape (n,)
            ``(diag(X Xᵀ) - rowsum(F ∘ V)) / N``; may reach zero, nothing is clipped.
        """
        A = self.covariance
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        if A._layout.R == 0:
            D[:] = sums_of_squares / n_samples
        else:
            passes.moments.regress(A._factor[0], self._cross, self._second, sums_of_squares,
                                    n_samples, A._layout, F, D)
        return F, D

    def gradient(self, sums_of_squares, n_samples):
        """Derivatives of the average log-likelihood by the F (n, R) and D (n,) of `covariance`.

        By Fisher's identity those of the expected complete log-likelihood: with
        ``res_i = (ss_i - 2 F_i·V_i + F_i W F_iᵀ) / N``,

            dF = D⁻¹ (V - F W) / N        dD_i = ½ (res_i / D_i² - 1 / D_i)
        """
        A = self.covariance
        if A._layout.R == 0:
            d = A._d.astype(float)
            return np.empty_like(A._F), (
                (sums_of_squares / n_samples / d - 1) / (2 * d)).astype(A.dtype)
        return passes.moments.gradient(A._F, A._dinv, A._factor[0], self._cross, self._second,
                                        sums_of_squares, n_samples, A._layout)

    def precondition(self, G, n_samples):
        """The change of F by which EM would answer the gradient G (n, R): ``N D G W⁻¹``."""
        A = self.covariance
        if A._layout.R == 0:
            return np.zeros_like(G)
        change = passes.moments.precondition(G.astype(A.dtype, copy=False), A._d, A._factor[0],
                                              self._second, n_samples, A._layout)
        return change.astype(G.dtype, copy=False)
