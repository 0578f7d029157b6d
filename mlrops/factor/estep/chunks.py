"""Data that come in chunks of rows: checked, and cut into blocks of samples in tree order."""

import copy
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

__all__ = ["Chunks", "FirstPass", "Known", "Triangle", "changed", "check_features",
           "compress_chunks", "compressed", "triangle"]

# Samples in a block of the first pass at least, and the numbers that it has room for at least.
FIRST_WIDTH = 64
FIRST_ITEMS = 262_144


class Known(NamedTuple):
    """What a pass has found of chunks, which every later one must find again."""

    rows: int
    samples: int  # rows that count
    weight: float  # of the samples together


class FirstPass(NamedTuple):
    """What a pass over chunks has found out of each feature, in feature order."""

    mean: FloatArray  # (n,) of the observed cells, zero where it is not to be estimated
    squares: FloatArray  # (n,) weighted sums of squares about that
    seen: FloatArray  # (n,) weight of the observed cells
    cells: IntArray  # (n,) their number
    codes: np.ndarray  # (n, 2) equal where features are missing in the same samples
    low: FloatArray  # (n,) the smallest and the largest observed cell
    high: FloatArray

    def merged(self, other: "FirstPass") -> "FirstPass":
        """What is found of two runs of chunks together."""
        seen = self.seen + other.seen
        share = np.divide(other.seen, seen, out=np.zeros_like(seen), where=seen > 0)
        gap = other.mean - self.mean
        return FirstPass(
            self.mean + share * gap, self.squares + other.squares + share * self.seen * gap**2,
            seen, self.cells + other.cells, self.codes + other.codes,
            np.minimum(self.low, other.low), np.maximum(self.high, other.high))


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
        self.names = None if names is None else tuple(names)
        self.number = 0  # of the first chunk, where these are part of more
        self.known = Known(-1, 0, 0.0)  # after the first pass

    def part(self, number: int, chunk: Any, weights: FloatArray | None,
             known: Known | None = None) -> "Chunks":
        """One chunk of many, with the options of these and checked weights of its own."""
        own = copy.copy(self)
        own._open, own._weights, own.number = lambda: iter([chunk]), weights, number
        own.known = self.known if known is None else known
        return own

    def learn(self, known: Known, dtype: Any) -> None:
        """Take over what a first pass over the parts has found."""
        self.known, self._common = known, dtype

    @property
    def n_samples(self) -> int:
        """Rows that count."""
        return self.known.samples

    @property
    def weight(self) -> float:
        """That of all samples together."""
        return self.known.weight

    @property
    def dtype(self) -> Any:
        """The dtype of the results, float32 or float64; known after the first pass."""
        return self._common if self._wanted is None else working_dtype(self._wanted)

    def pieces(self, width: int, first: bool = False
               ) -> Iterator[tuple[int, np.ndarray, FloatArray]]:
        """Yield (at, rows, weights): rows for the places `at` and on of a block of `width`."""
        at = count = kept = 0
        weight, before = 0.0, self.known
        for number, chunk in enumerate(self._open(), self.number):
            rows = self._check_chunk(chunk, number, first)
            end = count + len(rows)
            if not first and end > before.rows:
                raise RuntimeError(changed(f"more than {counted(before.rows, 'row')}"))
            weights = np.ones(len(rows)) if self._weights is None else self._weights[count:end]
            keep = np.flatnonzero(weights)
            if self._gaps:
                keep = keep[shows_a_cell(rows[keep] if len(keep) < len(rows) else rows)]
            if not first and kept + len(keep) > before.samples:
                raise RuntimeError(changed(f"more than {counted(before.samples, 'row')} with an"
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
            self.known = Known(count, kept, float(
                weight if self._gaps or self._weights is None else
                self._weights[self._weights > 0].sum()))
        elif count != before.rows:
            raise RuntimeError(changed(f"{counted(count, 'row')} after {before.rows}"))
        elif kept != before.samples:
            raise RuntimeError(changed(
                f"{counted(kept, 'row')} with an observed cell after {before.samples}"))

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
        return self.checked(self.scan(), center)

    def scan(self) -> FirstPass:
        """The first pass, unchecked, with means whether these are to be estimated or not."""
        # Chunks have numbers of their own, wherever they are gone through.
        n, rng = self._hierarchy.n, np.random.default_rng(self.number)
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
        return FirstPass(mean, squares, seen, cells, codes, low, high)

    def checked(self, found: FirstPass, center: bool) -> FirstPass:
        """What a `scan` found, with a mean of zero unless it is to be estimated."""
        self.check_first_pass(found.cells, found.low, found.high)
        if center:
            return found
        return found._replace(mean=np.zeros_like(found.mean),
                              squares=found.squares + found.seen * np.square(found.mean))

    def check_first_pass(self, cells: IntArray, low: FloatArray, high: FloatArray) -> None:
        """Check what is known only after the pass: numbers of rows and cells, constant features."""
        if self._weights is not None and self._weights.size != self.known.rows:
            raise ValueError(wrong_weights(self._weights.size, self.known.rows))
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
    return compressed(read, triangle(read, center), hierarchy)


class Triangle(NamedTuple):
    """The triangular factor R of samples, and the range of each feature."""

    R: FloatArray  # of the weighted samples ``y - shift``; a first column of √w if these count
    shift: FloatArray | None  # (n,) near the mean; None where the mean is zero
    low: FloatArray  # (n,)
    high: FloatArray

    def merged(self, other: "Triangle") -> "Triangle":
        """That of the samples of two runs of chunks together."""
        a, b, shift = self.R, other.R, self.shift
        if shift is None or other.shift is None:
            shift = other.shift if shift is None else shift
        elif shift is not other.shift:
            b = b.copy()
            b[:, 1:] += b[:, :1] * (other.shift - shift)
        R = scipy.linalg.qr(np.vstack([a, b]), mode="r", check_finite=False)[0][: a.shape[1]]
        return Triangle(R, shift, np.minimum(self.low, other.low),
                        np.maximum(self.high, other.high))


def triangle(read: Chunks, center: bool) -> Triangle:
    """The `Triangle` of chunks, in one pass."""
    n = read._hierarchy.n
    width, ones, shift = max(2 * n, FIRST_WIDTH), 1 if center else 0, None
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    stack = np.empty((n + ones + width, ones + n))
    above = filled = 0

    def reduce():
        """Number of rows that the triangular factor of those in the stack has."""
        R = scipy.linalg.qr(stack[: above + filled], mode="r", check_finite=False)[0][: n + ones]
        stack[: len(R)] = R
        return len(R)

    for at, piece, weight in read.pieces(width, first=True):
        if shift is None and center:
            shift = np.ascontiguousarray(piece).mean(axis=0, dtype=np.float64)
        np.minimum(low, piece.min(axis=0), out=low)
        np.maximum(high, piece.max(axis=0), out=high)
        root = np.sqrt(weight)[:, None]
        block = stack[above + at : above + at + len(piece)]
        block[:, :ones] = root
        np.multiply(piece if shift is None else piece - shift, root, out=block[:, ones:])
        filled = at + len(piece)
        if filled == width:
            above, filled = reduce(), 0
    if filled:
        above = reduce()
    return Triangle(stack[:above].copy(), shift, low, high)


def compressed(read: Chunks, found: Triangle, hierarchy: Hierarchy) -> CompleteData:
    """The samples that the factor of all samples stands for, after checks of these."""
    read.check_first_pass(np.full(hierarchy.n, read.n_samples), found.low, found.high)
    R, mean = found.R, np.zeros(hierarchy.n)
    if found.shift is not None:
        mean = found.shift + R[0, 1:] / R[0, 0]
        R = R[1:, 1:]
    X = np.ascontiguousarray(hierarchy._gather(R.T))
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean),
                        read.n_samples, read.weight, names=read.names, dtype=read.dtype)
