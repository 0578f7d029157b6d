"""Data that never sit dense in memory: sparse matrices, row chunks, memory maps.

Sources of EM (see `em`).  Beside a sparse matrix, or a chunk, an evaluation holds a small multiple
of the factors (n, R): a block of ``k = max(2 R, 64)`` samples (n, k), the cross moments V (n, R),
and what the sweeps need for the s factors of all groups: their factorization and second moments
(s, R) and their means (s, k).  With few features a block has up to 262,144 numbers.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.sparse

from ..._common.labelled import named
from ..._common.validate import working_dtype
from ..em import log_likelihood, scaled
from .complete import CompleteData
from .moments import SparseSamples, StreamedMoments, block_width, row_scale
from .rows import Rows, check_enough, check_features, check_varies, check_weights

__all__ = ["chunked_source", "compress_chunks", "memmap_chunks", "sparse_source"]

# Bytes that are read from a memory map at a time.
READ_BYTES = 16_000_000
# Samples in a block at least.
LEAST_WIDTH = 64
# Numbers that a sketch of the data has room for at least.
SKETCH_ITEMS = 262_144


class StreamedStep:
    """The E-step of data that passed by once."""

    def __init__(self, moments, data):
        self._moments, self._data = moments, data
        quad = moments.total_inv_quad(data.sums_of_squares)
        self.loglik = log_likelihood(moments.covariance, quad, data.weight)

    def update(self, out=None, keep=False):
        """The M-step: F, D (not clipped) and mean; its moments are kept in any case."""
        F, D = self._moments.regress(self._data.sums_of_squares, self._data.weight, out)
        return F, D, self._data.mean

    def gradient(self, F, D, mean, scale=None, out=None):
        """Derivatives of the average log-likelihood by the F, D and mean that went in."""
        dF, dD = self._moments.gradient(self._data.sums_of_squares, self._data.weight)
        return scaled(dF, scale, out), dD, np.zeros_like(mean)

    def precondition(self, G, shift, scale=None, out=None):
        """EM's answer to a gradient by F; the mean stays."""
        return scaled(self._moments.precondition(G, self._data.weight), scale, out), shift


@dataclass(frozen=True)
class SparseData:
    """A sparse matrix as a source of EM: only products with it are taken."""

    samples: SparseSamples = field(repr=False)
    n_samples: int  # samples of positive weight
    weight: float
    names: tuple | None = None
    dtype: np.dtype = np.dtype(float)
    mean_is_free = False

    @property
    def mean(self):
        return self.samples.mean

    @property
    def sums_of_squares(self):
        return self.samples.sums_of_squares

    @property
    def variance(self):
        return self.sums_of_squares / self.weight

    def shown(self, features):
        return np.ones((1, features.size), bool), np.ones(1)

    def start_data(self, width, seed):
        N, width = self.n_samples, _sketch_width(width, self.mean.size)
        draw = _draws(width, seed)

        def columns(start, stop):
            return np.eye(stop - start, N, start) if N <= width else draw(stop - start)

        return _to_variance(self, self.samples.product(columns, min(N, width)))

    def evaluate(self, covariance, mean):
        return StreamedStep(StreamedMoments(covariance, self.samples), self)


@dataclass(frozen=True)
class ChunkedData:
    """Row chunks as a source of EM: one pass an evaluation."""

    rows: "Rows" = field(repr=False)
    place: np.ndarray  # (n,) the position of each feature in tree order
    sums_of_squares: np.ndarray  # (n,) float64
    mean: np.ndarray  # (n,)
    weight: float
    dtype: np.dtype
    mean_is_free = False

    @property
    def n_samples(self):
        return self.rows.n_samples

    @property
    def names(self):
        return self.rows.names

    @property
    def variance(self):
        return self.sums_of_squares / self.weight

    def _blocks(self, width, scale):
        """Centred samples ``diag(scale) X``, (n, k) at a time, k at most `width`."""
        for X, _ in self.rows.blocks(width, self.place, self.mean, scale):
            yield X

    def shown(self, features):
        return np.ones((1, features.size), bool), np.ones(1)

    def start_data(self, width, seed):
        n, ones = self.mean.size, np.ones(self.mean.size)
        width = _sketch_width(width, n)
        if self.n_samples <= width:
            return _to_variance(self, next(self._blocks(self.n_samples, ones)))
        draw = _draws(width, seed)
        out = np.zeros((n, width))
        for X in self._blocks(max(width, LEAST_WIDTH), ones):
            omega = draw(X.shape[1])
            for a in range(0, n, 4096):  # the product stays in cache
                out[a : a + 4096] += X[a : a + 4096] @ omega
        return _to_variance(self, out)

    def evaluate(self, covariance, mean):
        blocks = self._blocks(block_width(covariance), row_scale(covariance))
        return StreamedStep(StreamedMoments(covariance, blocks), self)


def _draws(width, seed):
    """Rows of a normal Ω (N, width) with ``E ΩΩᵀ = I``, some at a time, whatever their number.

    The sketch X Ω has the covariance of the data in expectation: N. Halko, P. Martinsson, J. Tropp,
    "Finding structure with randomness" (2011).
    """
    rng = np.random.default_rng(0 if seed is None else seed)
    return lambda count: rng.standard_normal((count, width)) / math.sqrt(width)


def _sketch_width(width, n):
    """Columns of a sketch: with few features many, at no cost."""
    return max(width, SKETCH_ITEMS // n)


def _to_variance(data, X):
    """Scale the rows of a sketch so that the diagonal of ``X Xᵀ / n_samples`` is exact."""
    lengths = np.einsum("ik,ik->i", X, X)
    X *= np.sqrt(data.n_samples * data.variance / lengths)[:, None]
    return X


# ---------------------------------------------------------------- sources


def sparse_source(Y, hierarchy, center, weights=None, names=None):
    """A sparse matrix as a source.

    Parameters
    ----------
    Y : scipy.sparse matrix or array, shape (N, n)
        Entries that are not stored are zeros, not missing; duplicates are summed.  It is copied
        once, transposed and in tree order.
    hierarchy : Hierarchy
    center : bool
        Take off the means, implicitly.  Where they are large beside the standard deviations,
        products lose as many digits as the means are larger.
    weights : array_like, shape (N,), optional
        Non-negative; samples of weight 0 are left out.
    names : sequence of str, optional
        Names of the features, for errors.

    Returns
    -------
    SparseData

    Raises
    ------
    ValueError, TypeError
        NaN or infinity, constant features, fewer than 2 samples, shapes that do not fit, complex
        or non-numeric data.

    Notes
    -----
    An evaluation costs about ``4 R`` flops for every stored entry, and the sweeps over the tree.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.estep.streamed import sparse_source
    >>> Y = scipy.sparse.csr_array([[0, 2.0, 0], [0, 0, 1.0], [4.0, 0, 0], [0, 2.0, 3.0]])
    >>> source = sparse_source(Y, Hierarchy.flat(3), center=True)
    >>> source.mean, source.variance
    (array([1., 1., 1.]), array([3. , 1. , 1.5]))
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=source.variance)
    >>> F, D, mean = source.evaluate(A, source.mean).update()
    """
    N, n = Y.shape
    dtype = working_dtype(Y.dtype, "Y")
    names = None if names is None else tuple(names)
    check_features(n, hierarchy, "Y", Y.shape)
    weights, n_samples = check_weights(weights, N), N
    A = scipy.sparse.csc_array(Y, dtype=np.float64, copy=True)
    if weights is None:
        weights = np.ones(N)
    elif (weights == 0).any():
        A, weights = A[np.flatnonzero(weights)], weights[weights > 0]
        n_samples = weights.size
    A.sum_duplicates()
    bad = np.flatnonzero(~np.isfinite(A.data))
    if bad.size:
        columns = np.unique(np.searchsorted(A.indptr, bad, side="right") - 1)
        raise ValueError(
            f"Y must be finite, got NaN or infinity in {bad.size} of its {A.nnz} stored entries"
            f" (feature {named(columns, names)})"
        )
    check_enough(n_samples)
    A = A[:, hierarchy.permutation].T.tocsr()
    A.sort_indices()
    samples = SparseSamples(A, np.sqrt(weights), center)
    check_varies(samples.low, samples.high, hierarchy.permutation, names)
    return SparseData(samples, n_samples, float(weights.sum()), names, dtype)


def chunked_source(chunks, hierarchy, center, weights=None, names=None, dtype=None):
    """Chunks of rows as a source: the data pass by once now, and once an evaluation.

    Parameters
    ----------
    chunks : iterable of array_like, shapes (c, n), or callable
        Arrays or DataFrames, of any number of rows each; or a function without arguments that
        returns an iterator over them.  Every pass must give the same rows.
    hierarchy : Hierarchy
    center : bool
        Take off the means.
    weights : array_like, shape (N,), optional
        Non-negative; rows of weight 0 are left out.
    names : sequence of str, optional
        Names of the features; DataFrames bring their own.
    dtype : dtype, optional
        Of the results: float32 or float64.  Default float32 if all chunks are, else float64.

    Returns
    -------
    ChunkedData
        The same, bit for bit, however the rows are cut into chunks.

    Raises
    ------
    ValueError, TypeError
        An iterator that can be used only once, NaN or infinity (chunk, row and feature are named),
        constant features, fewer than 2 samples, chunks that do not fit the hierarchy.
    RuntimeError
        In a later pass: another number of rows than in the first one.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops.factor.estep.streamed import chunked_source
    >>> Y = np.array([[0, 2.0], [1.0, 2.0], [2.0, 5.0]])
    >>> source = chunked_source([Y[:1], Y[1:]], Hierarchy.flat(2), center=True)
    >>> source.n_samples, source.mean
    (3, array([1., 3.]))
    >>> source = chunked_source(lambda: (row[None] for row in Y), Hierarchy.flat(2), center=True)
    >>> source.mean
    array([1., 3.])
    """
    rows = Rows(chunks, hierarchy, weights, names)
    mean, squares, dtype = rows.describe(dtype, center)
    return ChunkedData(rows, hierarchy._position, hierarchy._gather(squares),
                       hierarchy._gather(mean), rows.weight, dtype)


def compress_chunks(chunks, hierarchy, center, weights=None, names=None, dtype=None):
    """Replace samples in row chunks by the n rows of the triangular factor of their QR.

    One pass, also over an iterator that can be used only once; about ``6 n²`` numbers of memory
    and ``3 n²`` flops a sample.  Parameters and errors as in `chunked_source`.

    Returns
    -------
    CompleteData
        With the same ``X Xᵀ`` as the data: every EM iterate stays the same.

    Notes
    -----
    The factor is updated block by block, ``R ← qr([R; block])``.  A first column of ones takes up
    the mean: what lies below its row is the factor of the centred data (J. Demmel, L. Grigori,
    M. Hoemmen, J. Langou, "Communication-optimal parallel and sequential QR", 2012).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops.factor.estep.streamed import compress_chunks
    >>> Y = np.random.default_rng(0).standard_normal((1000, 3))
    >>> data = compress_chunks(iter(np.array_split(Y, 7)), Hierarchy.flat(3), center=True)
    >>> data.X.shape, data.n_samples
    ((3, 3), 1000)
    >>> bool(np.allclose(data.X @ data.X.T / 1000, np.cov(Y.T, bias=True)))
    True
    """
    rows = Rows(chunks, hierarchy, weights, names, once=True)
    n, width = hierarchy.n, max(2 * hierarchy.n, LEAST_WIDTH)
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    shift = np.zeros(n)
    ones = 1 if center else 0
    stack = np.empty((n + ones + width, ones + n))
    above = filled = 0

    def reduce():
        """Number of rows that the triangular factor of those in the stack has."""
        R = scipy.linalg.qr(stack[: above + filled], mode="r", check_finite=False)[0][: n + ones]
        stack[: len(R)] = R
        return len(R)

    for at, piece, weight in rows.pieces(width, first=True):
        if above == filled == 0 and center:
            shift = np.ascontiguousarray(piece).mean(axis=0, dtype=np.float64)
        np.minimum(low, piece.min(axis=0), out=low)
        np.maximum(high, piece.max(axis=0), out=high)
        root = np.sqrt(weight)[:, None]
        block = stack[above + at : above + at + len(piece)]
        block[:, :ones] = root
        np.multiply(piece - shift, root, out=block[:, ones:])
        filled = at + len(piece)
        if filled == width:
            above, filled = reduce(), 0
    if filled:
        above = reduce()
    rows.check_first_pass(low, high)
    dtype = rows.dtype if dtype is None else working_dtype(dtype)
    X = np.ascontiguousarray(hierarchy._gather(stack[ones:above, ones:].T))
    mean = shift + stack[0, 1:] / stack[0, 0] if center else shift
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean),
                        rows.n_samples, rows.weight, names=rows.names, dtype=dtype)


class memmap_chunks:
    """The rows of an array on disk, some at a time: chunks for `chunked_source`.

    Parameters
    ----------
    Y : numpy.memmap or any array that can be sliced, shape (N, n)
    rows : int, optional
        Rows that are read at a time; default 16 MB.

    Notes
    -----
    Rows are read in order, which on disk is sequential for C-contiguous arrays.  Pages of a map
    that have been read belong to the operating system, which drops them when memory gets short.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.factor.estep.streamed import memmap_chunks
    >>> [chunk.shape for chunk in memmap_chunks(np.zeros((5, 2)), rows=2)]
    [(2, 2), (2, 2), (1, 2)]
    """

    def __init__(self, Y, rows=None):
        if len(Y.shape) != 2:
            raise ValueError(f"Y must be 2-d, samples by features, got shape {Y.shape}")
        self._Y = Y
        self._rows = rows or max(1, READ_BYTES // max(1, Y.shape[1] * Y.dtype.itemsize))

    def __iter__(self):
        for start in range(0, self._Y.shape[0], self._rows):
            yield self._Y[start : start + self._rows]
