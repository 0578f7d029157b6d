"""Data that come in chunks of rows: checked, and cut into blocks of samples in tree order."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

from ..._common.disk import OnDisk
from ..._common.frames import frame_values, is_frame
from ..._common.given import check_weights, wrong_weights
from ..._common.labelled import column_order, data_names, named
from ..._common.typing import FloatArray, IntArray
from ..._common.validate import all_finite, plain, shows_a_cell, working_dtype
from ..._common.wording import counted
from ...tree.hierarchy import Hierarchy
from .. import estep
from .complete import CompleteData, check_enough, check_varies
from .incomplete import check_observed

__all__ = ["Chunks", "FirstPass", "changed", "check_features", "compress_chunks"]

# Samples in a block of the first pass at least, and the numbers that it has room for at least.
FIRST_WIDTH = 64
FIRST_ITEMS = 262_144


class FirstPass(NamedTuple):
    """What a pass over chunks has found out of each feature, in feature order."""

    mean: FloatArray  # (n,) of the observed cells, zero where it is not to be estimated
    squares: FloatArray  # (n,) weighted sums of squares about that
    seen: FloatArray  # (n,) weight of the observed cells
    cells: IntArray  # (n,) their number
    codes: np.ndarray  # (n, 2) equal where features are missing in the same samples


class Chunks:
    """Chunks of rows: checked, cut into pieces, rows of weight 0 left out.

    Parameters are those of `chunked_source`; with `once` one pass over the chunks is enough.  With
    `gaps` rows without an observed cell are left out, too, and cells may be missing in the others.
    """

    def __init__(self, chunks: Any, hierarchy: Hierarchy, weights: FloatArray | None,
                 names: Sequence[str] | None, *, dtype: Any = None, once: bool = False,
                 gaps: bool = False):
        if scipy.sparse.issparse(chunks):
            raise TypeError("chunks must be dense; give a sparse matrix as it is, not in chunks")
        if not (callable(chunks) or hasattr(chunks, "__iter__")):
            raise TypeError("chunks must be an iterable of arrays or a function that returns one,"
                            f" got {type(chunks).__name__}")
        self._open = chunks if callable(chunks) else chunks.__iter__
        if not once and not callable(chunks) and self._open() is chunks:
            raise TypeError(
                f"chunks must be an iterable that can be gone through many times, got a"
                f" {type(chunks).__name__}, which can be used once; pass a function that makes a"
                " new one each time it is called")
        self._hierarchy, self._weights = hierarchy, check_weights(weights)
        self._is_whole = isinstance(chunks, OnDisk)  # blocks of rows that the user did not cut
        self._wanted, self._common, self._gaps, self._once = dtype, None, gaps, once
        self._count = -1  # rows of a pass, known after the first one
        self.names = None if names is None else tuple(names)
        self.n_samples = 0  # rows that count
        self.weight = 0.0  # of all samples together

    @property
    def dtype(self) -> Any:
        """The dtype of the results, float32 or float64; known after the first pass."""
        return self._common if self._wanted is None else working_dtype(self._wanted)

    def pieces(self, width: int, first: bool = False
               ) -> Iterator[tuple[int, np.ndarray, FloatArray]]:
        """Yield (at, rows, weights): rows for the places `at` and on of a block of `width`."""
        at = count = kept = 0
        weight = 0.0
        for number, chunk in enumerate(self._open()):
            rows = self._check_chunk(chunk, number, first)
            end = count + len(rows)
            if not first and end > self._count:
                raise RuntimeError(changed(f"more than {counted(self._count, 'row')}"))
            weights = np.ones(len(rows)) if self._weights is None else self._weights[count:end]
            keep = np.flatnonzero(weights)
            if self._gaps:
                keep = keep[shows_a_cell(rows[keep] if len(keep) < len(rows) else rows)]
            if not first and kept + len(keep) > self.n_samples:
                raise RuntimeError(changed(f"more than {counted(self.n_samples, 'row')} with an"
                                           " observed cell"))
            # One after the other: the same bits however rows are cut.
            weight = np.cumsum(np.concatenate([[weight], weights[keep]]))[-1]
            count, pos = end, 0
            while pos < len(keep):
                part = keep[pos : pos + width - at]
                whole = part[-1] - part[0] + 1 == len(part)
                piece = rows[part[0] : part[-1] + 1] if whole else rows[part]
                piece = np.asarray(piece, _native(piece.dtype))
                if first:
                    self._check_finite(piece, number, part, end - len(rows))
                yield at, piece, weights[part]
                at, pos = (at + len(part)) % width, pos + len(part)
            kept += len(keep)
        if first:
            self._count, self.n_samples = count, kept
            self.weight = float(weight if self._gaps or self._weights is None else
                                self._weights[self._weights > 0].sum())
        elif count != self._count:
            raise RuntimeError(changed(f"{counted(count, 'row')} after {self._count}"))
        elif kept != self.n_samples:
            raise RuntimeError(changed(
                f"{counted(kept, 'row')} with an observed cell after {self.n_samples}"))

    def blocks(self, width: int, place: np.ndarray, mean: FloatArray, scale: FloatArray,
               first: bool = False, weighted: bool = True
               ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield (X, weights): ``X = diag(scale) (rows - mean)ᵀ diag(weights)^½``.

        Feature i goes to row ``place[i]``, where its mean and scale are too.  X (n, k) is good
        until the next one is asked for; k is at most `width`.  Without `weighted`, and in the first
        pass, weights stay out of X; in that the last X may have more columns than there are
        weights.
        """
        n, left = self._hierarchy.n, sys.maxsize if first else self.n_samples
        if not first:
            width = -(-left // -(-left // width))  # blocks of nearly equal width
        store, filled = np.empty(n * width), 0
        for at, piece, weights in self.pieces(width, first):
            if at == 0:
                k = min(width, left)
                X, held = store[: n * k].reshape(n, k), np.empty(k)
            filled = at + len(piece)
            held[at:filled] = weights
            root = np.sqrt(weights) if weighted and not first else np.ones_like(weights)
            estep.moments.load(piece, place, mean, scale, root, at, X)
            if filled == k:
                yield X, held
                left, filled = left - k, 0
        if filled:
            yield X, held[:filled]

    def describe(self, center: bool) -> FirstPass:
        """The first pass: mean (zero unless `center`), sums of squares about it, missing cells."""
        n, rng = self._hierarchy.n, np.random.default_rng(0)
        mean, squares, seen = np.zeros((3, n))
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        cells, codes = np.zeros(n, int), np.zeros((n, 2), np.uint64)
        for X, weights in self.blocks(max(FIRST_WIDTH, FIRST_ITEMS // n), np.arange(n),
                                      np.zeros(n), np.ones(n), first=True):
            before = cells.copy()
            estep.moments.describe(X, weights, seen, cells, mean, squares, low, high)
            # A code sums two random numbers of each sample that lacks the feature: that sums of
            # different samples are equal has probability 2^-128.
            some = np.flatnonzero(cells - before < weights.size)
            numbers = rng.integers(2**64, size=(weights.size, 2), dtype=np.uint64)
            codes[some] += np.isnan(X[some, : weights.size]).astype(np.uint64) @ numbers
        self.check_first_pass(cells, low, high)
        if not center:
            mean, squares = np.zeros(n), squares + seen * np.square(mean)
        return FirstPass(mean, squares, seen, cells, codes)

    def check_first_pass(self, cells: IntArray, low: FloatArray, high: FloatArray) -> None:
        """Check what is known only after the pass: numbers of rows and cells, constant features."""
        if self._weights is not None and self._weights.size != self._count:
            raise ValueError(wrong_weights(self._weights.size, self._count))
        check_enough(self.n_samples)
        if (cells < self.n_samples).any():
            check_observed(cells, low, high, self.names)
        else:
            check_varies(low, high, np.arange(self._hierarchy.n), self.names)

    def _check_chunk(self, chunk, number, first):
        """The rows of a chunk as an array, not copied."""
        if scipy.sparse.issparse(chunk):
            raise TypeError(
                f"chunk {number} is sparse; give all samples as one sparse matrix"
                " (scipy.sparse.vstack), which is never made dense")
        what, order = "Y" if self._is_whole else f"chunk {number}", None
        if is_frame(chunk):
            rows = frame_values(chunk, what)
            if first and self.names is None:
                self.names = data_names(chunk)
            order = column_order(chunk, self.names, what)
        else:
            rows = plain(chunk, what)
        if rows.ndim != 2:
            raise ValueError(f"{what} must be 2-d, samples by features, got shape {rows.shape}")
        check_features(rows.shape, self._hierarchy, what)
        if first:
            dtype = _native(rows.dtype, what)
            self._common = dtype if self._common is None else np.result_type(dtype, self._common)
        return rows if order is None else rows[:, order]

    def _check_finite(self, piece, number, part, start):
        if all_finite(piece):
            return
        bad = np.isinf(piece) if self._gaps and not self._once else ~np.isfinite(piece)
        if not bad.any():
            return
        row, column = np.argwhere(bad)[0]
        at = (f"in row {start + part[row]}" if self._is_whole else
              f"in chunk {number}, row {part[row]}")
        at += f", feature {named([column], self.names)}"
        if np.isinf(piece[row, column]):
            raise ValueError(f"data must be finite, got infinity {at}")
        if self._gaps:
            raise ValueError("compress=True needs complete data: patterns of missing cells differ;"
                             f" got NaN {at}")
        raise ValueError(
            f'data must be finite, got NaN {at}; missing="em" fits to the cells that are there')


def check_features(shape: tuple[int, ...], hierarchy: Hierarchy, what: str = "Y") -> None:
    """Refuse data of another number of columns than the hierarchy has features."""
    if shape[1] != hierarchy.n:
        raise ValueError(
            f"{what} must have one column for each of the hierarchy's"
            f" {counted(hierarchy.n, 'feature')}, got shape {shape} (samples are rows)")


def _native(dtype, what="chunks"):
    """The float dtype that the compiled loops read a chunk in."""
    return working_dtype(dtype.newbyteorder("="), what)


def changed(change: str) -> str:
    """What is wrong with data that a later pass has found other than the first."""
    return (f"the data changed between passes: {change}; chunks must give the same rows every time,"
            " and a function that returns them a new iterator")


def compress_chunks(chunks: Any, hierarchy: Hierarchy, center: bool,
                    weights: FloatArray | None = None, names: Sequence[str] | None = None,
                    dtype: Any = None, gaps: bool = False) -> CompleteData:
    """Replace samples in row chunks by the n rows of the triangular factor of their QR.

    They have the same ``X Xᵀ`` as the data, so every EM iterate stays the same.  It takes one pass,
    also over an iterator that can be used only once; about ``6 n²`` numbers of memory and ``3 n²``
    flops a sample.  Parameters and errors are those of `chunked_source`.  With `gaps` rows without
    an observed cell are left out; single cells that are missing are refused in any case.

    The factor is updated block by block, ``R ← qr([R; block])``.  A first column of ones takes up
    the mean: what lies below its row is the factor of the centred data (J. Demmel, L. Grigori, M.
    Hoemmen, J. Langou, "Communication-optimal parallel and sequential QR", 2012).
    """
    read = Chunks(chunks, hierarchy, weights, names, dtype=dtype, once=True, gaps=gaps)
    n, width = hierarchy.n, max(2 * hierarchy.n, FIRST_WIDTH)
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

    for at, piece, weight in read.pieces(width, first=True):
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
    read.check_first_pass(np.full(n, read.n_samples), low, high)
    X = np.ascontiguousarray(hierarchy._gather(stack[ones:above, ones:].T))
    mean = shift + stack[0, 1:] / stack[0, 0] if center else shift
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean),
                        read.n_samples, read.weight, names=read.names, dtype=read.dtype)
