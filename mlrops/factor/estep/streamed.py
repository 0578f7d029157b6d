"""Data that never sit dense in memory, sparse matrices and row chunks, as sources of EM.

Beside a sparse matrix, or a chunk, an evaluation holds a small multiple of the factors (n, R): a
block of ``k = max(2 R, 64)`` samples (n, k), the cross moments V (n, R), and what the sweeps need
for the s factors of all groups: their factorization and second moments (s, R) and their means
(s, k).  With few features a block has up to 262,144 numbers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse

from ... import kernels
from ..._common.labelled import named
from ..._common.typing import FloatArray
from ...kernels.layout import Layout
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .. import estep
from .chunks import Chunks, FirstPass
from .complete import EveryCell, check_enough, check_varies
from .from_moments import FromMoments
from .protocol import Filled, Maybe, Moved, Source, log_likelihood, scaled

__all__ = ["ChunkedData", "SparseData", "StreamedStep", "chunked_source", "complete_chunks",
           "dense_width", "first_of", "sketch", "sketch_of", "sketch_width", "sparse_source",
           "to_variance"]

# Columns of a block below which its products are slow, and numbers below which the calls around
# them take longer than the products.
LEAST_WIDTH = 64
LEAST_ITEMS = 262_144
# Samples of a sparse block at most: products of huge leaves keep a result for each of its pieces.
LARGEST_SPARSE_WIDTH = 1024
# Numbers that a sketch of the data has room for at least.
SKETCH_ITEMS = 262_144


class StreamedStep(FromMoments):
    r"""The E-step of samples that pass by once, ``x = F z + e`` with ``cov(e) = diag(D)``.

    What it keeps does not grow with the samples: cross moments V (n, R) and the second moments
    (s, R) of the factors along their paths.  It takes ``2 n R`` flops a sample for the product with
    F and as many for the one with the posterior means, and two sweeps over the tree; with sparse
    samples ``2 R`` flops each for every entry that is stored.  The quadratic forms come with the
    upward sweep, ``yᵀΣ⁻¹y = yᵀD⁻¹y - Σ ‖w‖²``; they lose as many digits as D is smaller than the
    features' variances: where those are many `ResidualStep` takes its place.  See `EStep` for its
    methods.
    """

    def __init__(self, covariance: MLR, data: "Streamed"):
        self._sigma, self._data = covariance, data
        self._cross, self._second, explained = data.moments(covariance)
        quad = float(data.sums_of_squares @ (1 / covariance._d.astype(float)) - explained)
        self.loglik = log_likelihood(covariance, quad, data.weight)

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step; ``F_leaf = V W⁻¹``, ``W = N Cov + Z Zᵀ`` along the leaf's path.

        ``D = (diag(X Xᵀ) - rowsum(F ∘ V)) / N`` may reach zero.  The moments are kept in any case.
        """
        A, data = self._sigma, self._data
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        self._times_moments(self._cross, F, invert=True)
        estep.moments.share_rows(lambda lo, hi: estep._compiled_moments.rows_residual(
            self._cross, F, data.sums_of_squares, data.weight, lo, hi, D), len(D), F.size)
        return F, D, data.mean

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by Fisher's identity; the outcome of `update` is not needed.

        They are those of the expected complete log-likelihood: with
        ``res_i = (ss_i - 2 F_i·V_i + F_i W F_iᵀ) / N``,

            dF = D⁻¹ (V - F W) / N        dD_i = ½ (res_i / D_i² - 1 / D_i)
        """
        A, data, dD = self._sigma, self._data, np.empty_like(self._sigma._d)
        dF = self._times_moments(A._F, np.empty_like(A._F), invert=False)
        estep.moments.share_rows(lambda lo, hi: estep._compiled_moments.rows_gradient(
            A._F, self._cross, A._dinv, data.sums_of_squares, data.weight, lo, hi, dF, dD),
            len(dD), 2 * dF.size)
        return scaled(dF, scale, out), dD, np.zeros_like(mean)


class Streamed(EveryCell):
    """What the sources have in common whose samples pass by."""

    n_samples: int
    is_dear = True

    def moments(self, A: MLR) -> tuple[FloatArray, FloatArray, float]:
        """V (n, R) and S (s, R) of all samples under the covariance A, and ``Σ ‖w‖²``."""
        layout = A._layout
        V, S = np.zeros_like(A._F), np.zeros((layout.s, layout.R), A.dtype)
        return V, S, self.accumulate(A, V, S) if layout.R else 0.0

    def accumulate(self, A: MLR, V: FloatArray, S: FloatArray) -> float:
        """Add all samples to the moments V and S; returns ``Σ ‖w‖²``."""
        raise NotImplementedError

    def _plain_step(self, covariance):
        return StreamedStep(covariance, self)


def sketch_width(width: int, n: int) -> int:
    """Columns of a sketch: with few features many, at no cost."""
    return max(width, SKETCH_ITEMS // n)


def to_variance(X: FloatArray, source: Source) -> FloatArray:
    """Scale the rows of a sketch so that the diagonal of ``X Xᵀ / n_samples`` is exact."""
    lengths = np.einsum("ik,ik->i", X, X)
    X *= np.sqrt(source.n_samples * source.variance / lengths)[:, None]
    return X


def sketch(source: Source, blocks: Callable[[int], Iterator[FloatArray]], width: int,
           seed: int | None) -> FloatArray:
    """`start_data` of samples that ``blocks(k)`` gives: all if they are few, else a sketch.

    Blocks (n, k or less) are centred and weighted, each good until the next one is asked for.
    """
    n = source.mean.size
    width = sketch_width(width, n)
    if source.n_samples <= width:
        return to_variance(next(blocks(source.n_samples)), source)
    return to_variance(sketch_of(blocks, n, width, first_of(seed)), source)


def first_of(seed: int | None) -> int:
    """The seed of a sketch."""
    return 0 if seed is None else seed


def sketch_of(blocks: Callable[[int], Iterator[FloatArray]], n: int, width: int, seed: Any
              ) -> FloatArray:
    """The product X Ω (n, width) of samples X with random numbers."""
    draw, out = _draws(width, seed), np.zeros((n, width))
    for X in blocks(max(width, LEAST_WIDTH)):
        omega = draw(X.shape[1])
        for a in range(0, n, 4096):  # the product stays in cache
            out[a : a + 4096] += X[a : a + 4096] @ omega
    return out


def _draws(width, seed):
    """Rows of a normal Ω (N, width) with ``E ΩΩᵀ = I``, some at a time, whatever their number.

    The sketch X Ω has the covariance of the data in expectation: N. Halko, P. Martinsson, J. Tropp,
    "Finding structure with randomness" (2011).
    """
    rng = np.random.default_rng(seed)
    return lambda count: rng.standard_normal((count, width)) / math.sqrt(width)


# ---------------------------------------------------------------- sparse matrices


class SparseData(Streamed):
    """``X = A diag(√w) - mean √wᵀ`` for sparse A and weights w, never formed; a `Source`.

    A (n, N) is a csr_array in tree order with sorted indices and no duplicates; its values are
    overwritten by the weighted ones.  Features range from `low` to `high`.
    """

    def __init__(self, A: Any, weights: FloatArray, center: bool, dtype: np.dtype):
        n, self.n_samples = A.shape
        self.dtype, self.weight = dtype, float(weights.sum())
        self._rows = estep.moments.SparseRows(A.data, A.indices, A.indptr, np.sqrt(weights))
        self.mean, self.low, self.high = np.zeros((3, n))
        self.sums_of_squares = np.empty(n)
        estep._compiled_moments.sparse_describe(
            A.data, A.indices, A.indptr, weights, weights.sum(), center, 0, n, self.mean,
            self.sums_of_squares, self.low, self.high)
        A.data *= self._rows.root_weight[A.indices]

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """The samples if they are few, else a sketch of them."""
        N, width = self.n_samples, sketch_width(width, self.mean.size)
        draw = _draws(width, first_of(seed))

        def columns(start, stop):
            return np.eye(stop - start, N, start) if N <= width else draw(stop - start)

        return to_variance(self.product(columns, min(N, width)), self)

    def product(self, draw: Callable[[int, int], FloatArray], width: int) -> FloatArray:
        """``X Ω`` (n, width); ``draw(start, stop)`` returns the rows start:stop of Ω (N, width)."""
        out, total = np.zeros((self.mean.size, width)), np.zeros(width)
        for block in self._rows.blocks(LARGEST_SPARSE_WIDTH):
            omega = np.ascontiguousarray(draw(block.start, block.stop))
            estep.moments.sketch_sparse(block, omega, out)
            total += block.root_weight @ omega
        out -= self.mean[:, None] * total
        return out

    def accumulate(self, A: MLR, V: FloatArray, S: FloatArray) -> float:
        """Add all samples, block by block, from left to right."""
        layout, explained = A._layout, 0.0
        shift = kernels.leaf.tdot(A._F, np.ascontiguousarray(self.mean[:, None], A.dtype),
                                  layout, 0, layout.n_leaves, A._dinv)
        totals = np.zeros(layout.s, A.dtype)
        for block in self._rows.blocks(_sparse_width(layout)):
            explained += estep.moments.accumulate_sparse(
                A._F, A._dinv, A._factor.K, block, shift, layout, V, S, totals)
        estep.moments.subtract_mean(V, self.mean, totals, layout)
        return explained

    def centred_blocks(self, layout: Layout) -> Iterator[Any]:
        """The samples, block by block, from left to right; the mean comes off implicitly."""
        for block in self._rows.blocks(_sparse_width(layout)):
            yield estep.moments.CentredBlock(block, self.mean)


def _sparse_width(layout):
    """Samples of a sparse block: the factors of all groups are about as large as F."""
    return min(max(LEAST_WIDTH, layout.n * layout.R // layout.s), LARGEST_SPARSE_WIDTH)


def sparse_source(Y: Any, hierarchy: Hierarchy, center: bool, weights: FloatArray | None = None,
                  names: Sequence[str] | None = None, dtype: Any = float) -> SparseData:
    """A sparse matrix (N, n) as a source, which takes one copy of it, transposed and in tree order.

    Entries that are not stored are zeros, not missing; duplicates are summed.  With `center` the
    means are taken off implicitly: where they are large beside the standard deviations, products
    lose as many digits as the means are larger.  Samples of weight 0 are left out; NaN, infinity,
    constant features and fewer than 2 samples are refused.  An evaluation costs about ``4 R`` flops
    for every stored entry, and the sweeps over the tree.
    """
    A = scipy.sparse.csc_array(Y, dtype=np.float64, copy=True)
    if weights is None:
        weights = np.ones(Y.shape[0])
    elif (weights == 0).any():
        A, weights = A[np.flatnonzero(weights)], weights[weights > 0]
    A.sum_duplicates()
    bad = np.flatnonzero(~np.isfinite(A.data))
    if bad.size:
        columns = np.unique(np.searchsorted(A.indptr, bad, side="right") - 1)
        raise ValueError(
            f"Y must be finite, got NaN or infinity in {bad.size} of its {A.nnz} stored entries"
            f" (feature {named(columns, names)})")
    check_enough(A.shape[0])
    A = A[:, hierarchy.permutation].T.tocsr()
    A.sort_indices()
    source = SparseData(A, weights, center, np.dtype(dtype))
    check_varies(source.low, source.high, hierarchy.permutation, names)
    return source


# ---------------------------------------------------------------- chunks of rows


@dataclass(frozen=True)
class ChunkedData(Streamed):
    """Row chunks as a `Source` of EM: one pass an evaluation."""

    chunks: Chunks = field(repr=False)
    place: np.ndarray  # (n,) the position of each feature in tree order
    sums_of_squares: FloatArray  # (n,) float64
    mean: FloatArray  # (n,)
    n_samples: int
    weight: float
    dtype: np.dtype
    names: tuple[str, ...] | None = None

    def of(self, chunks: Chunks) -> "ChunkedData":
        """The same of other chunks, of which these may be a part."""
        return replace(self, chunks=chunks)

    def centred_blocks(self, layout: Layout) -> Iterator[Any]:
        """The samples, each array good until the next one is asked for."""
        for X in self._blocks(dense_width(layout), np.ones(self.mean.size)):
            yield estep.moments.DenseBlock(X)

    def _blocks(self, width, scale):
        """Centred samples ``diag(scale) X``, (n, k) at a time, k at most `width`."""
        for X, _ in self.chunks.blocks(width, self.place, self.mean, scale):
            yield X

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """The samples if they are few, else a sketch of them."""
        return sketch(self, self.start_blocks, width, seed)

    def start_blocks(self, width: int) -> Iterator[FloatArray]:
        """The centred and weighted samples, (n, k) at a time, k at most `width`."""
        return self._blocks(width, np.ones(self.mean.size))

    def accumulate(self, A: MLR, V: FloatArray, S: FloatArray) -> float:
        """Add all samples, block by block.

        Samples come multiplied by D⁻¹, which is what the products with F and with the posterior
        means both need.  A block is about twice as large as the factors.
        """
        layout, explained = A._layout, 0.0
        for P in self._blocks(dense_width(layout), 1 / A._d.astype(np.float64)):
            explained += estep.moments.accumulate(A._F, A._factor.K, P, layout, V, S)
        V *= A._d[:, None]
        return explained


def dense_width(layout: Layout) -> int:
    """Samples of a block (n, k), which is about twice as large as the factors."""
    return max(2 * layout.R, LEAST_WIDTH, LEAST_ITEMS // (layout.n + layout.s))


def chunked_source(chunks: Any, hierarchy: Hierarchy, center: bool,
                   weights: FloatArray | None = None, names: Sequence[str] | None = None,
                   dtype: Any = None) -> ChunkedData:
    """Chunks of rows as a source: the data pass by once now, and once an evaluation.

    `chunks` is an iterable of arrays or DataFrames (c, n) of any number of rows each, or a function
    without arguments that returns an iterator over them.  Every pass must give the same rows: a
    later one that finds another number of them raises RuntimeError.  Rows of weight 0 are left out.
    DataFrames bring names of their own.  `dtype` is that of the results, by default float32 if all
    chunks are, else float64.  The source is the same, bit for bit, however the rows are cut.
    """
    read = Chunks(chunks, hierarchy, weights, names, dtype=dtype)
    return complete_chunks(read, hierarchy, read.describe(center))


def complete_chunks(read: Chunks, hierarchy: Hierarchy, found: FirstPass) -> ChunkedData:
    """The source that chunks without missing cells are, after their first pass."""
    return ChunkedData(read, hierarchy._position, hierarchy._gather(found.squares),
                       hierarchy._gather(found.mean), read.n_samples, read.weight, read.dtype,
                       read.names)
