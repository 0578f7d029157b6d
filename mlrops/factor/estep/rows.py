"""Reading data that come in chunks of rows: checks, and blocks of samples in tree order."""

import math

import numpy as np
import scipy.sparse

from ..._common.frames import frame_values, is_frame
from ..._common.labelled import column_order, data_names, named
from ..._common.validate import as_real, plain, working_dtype
from ..._common.wording import counted, name_some
from .moments import RunningMoments, load_samples

__all__ = ["Rows", "check_enough", "check_features", "check_varies", "check_weights"]

# Samples in a block of the first pass at least, and the numbers that it has room for at least.
FIRST_WIDTH = 64
FIRST_ITEMS = 262_144


class Rows:
    """The rows of chunks: checked, cut into pieces, those of weight 0 left out."""

    def __init__(self, chunks, hierarchy, weights, names, once=False):
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
                " new one each time it is called"
            )
        self._n = hierarchy.n
        self._hierarchy = hierarchy
        self._weights = None if weights is None else check_weights(weights)
        self.names = None if names is None else tuple(names)
        self.dtype = None  # what the chunks of the first pass have in common
        self._count = None  # rows of a pass
        self.n_samples = None  # those of positive weight
        self.weight = None  # of all samples together

    def pieces(self, width, first=False):
        """Yield (at, rows, weights): rows for the places `at` and on of a block of `width`."""
        at = count = kept = 0
        chunks = self._open()
        for number, chunk in enumerate(chunks):
            rows = self._check_chunk(chunk, number, first)
            end = count + len(rows)
            if not first and end > self._count:
                raise RuntimeError(_changed(f"more than {counted(self._count, 'row')}"))
            if self._weights is None:
                keep, weights = range(len(rows)), np.ones(len(rows))
            else:
                weights = self._weights[count:end]
                keep = np.flatnonzero(weights)
            count, pos = end, 0
            while pos < len(keep):
                part = keep[pos : pos + width - at]
                whole = part[-1] - part[0] + 1 == len(part)
                piece = rows[part[0] : part[-1] + 1] if whole else rows[part]
                piece = np.asarray(piece, _native(piece.dtype))
                if first:
                    self._check_finite(piece, number, part)
                yield at, piece, weights[part]
                at, pos = (at + len(part)) % width, pos + len(part)
            kept += len(keep)
        if first:
            self._count, self.n_samples = count, kept
            self.weight = float(kept if self._weights is None else
                                self._weights[self._weights > 0].sum())
        elif count != self._count:
            raise RuntimeError(_changed(f"{counted(count, 'row')} after {self._count}"))

    def blocks(self, width, place, mean, scale, first=False):
        """Yield (X, weights): ``X = diag(scale) (rows - mean)ᵀ diag(weights)^½``.

        Feature i goes to row ``place[i]``, where its mean and scale are too.  X (n, k) is good
        until the next one is asked for; k is at most `width`.  In the first pass weights stay out
        of X, and the last X may have more columns than there are weights.
        """
        left = math.inf if first else self.n_samples
        if not first:
            width = -(-left // -(-left // width))  # blocks of nearly equal width
        store, filled = np.empty(self._n * width), 0
        for at, piece, weights in self.pieces(width, first):
            if at == 0:
                k = min(width, left)
                X, held = store[: self._n * k].reshape(self._n, k), np.empty(k)
            filled = at + len(piece)
            held[at:filled] = weights
            root = np.ones_like(weights) if first else np.sqrt(weights)
            load_samples(piece, place, mean, scale, root, at, X)
            if filled == k:
                yield X, held
                left, filled = left - k, 0
        if filled:
            yield X, held[:filled]

    def describe(self, dtype, center):
        """The first pass: mean (zero unless `center`), sums of squares about it, and the dtype."""
        n, moments = self._n, RunningMoments(self._n)
        width = max(FIRST_WIDTH, FIRST_ITEMS // n)
        for X, weights in self.blocks(width, np.arange(n), np.zeros(n), np.ones(n),
                                      first=True):
            moments.add(X, weights)
        self.check_first_pass(moments.low, moments.high)
        dtype = self.dtype if dtype is None else working_dtype(dtype)
        mean = moments.mean if center else np.zeros(n)
        return mean, moments.about(mean), dtype

    def check_first_pass(self, low, high):
        """Check what only the end of the pass tells: numbers of rows, constant features."""
        if self._weights is not None and self._weights.size != self._count:
            raise ValueError(_wrong_weights(self._weights.size, self._count))
        check_enough(self.n_samples)
        check_varies(low, high, np.arange(self._n), self.names)

    def _check_chunk(self, chunk, number, first):
        """The rows of a chunk as an array, not copied."""
        if scipy.sparse.issparse(chunk):
            raise TypeError(
                f"chunk {number} is sparse; give all samples as one sparse matrix"
                " (scipy.sparse.vstack), which is never made dense"
            )
        what, order = f"chunk {number}", None
        if is_frame(chunk):
            rows = frame_values(chunk, what)
            if first and self.names is None:
                self.names = data_names(chunk)
            order = column_order(chunk, self.names, what)
        else:
            rows = plain(chunk, what)
        if rows.ndim != 2:
            raise ValueError(f"{what} must be 2-d, samples by features, got shape {rows.shape}")
        check_features(rows.shape[1], self._hierarchy, what, rows.shape)
        if first:
            dtype = _native(rows.dtype, what)
            self.dtype = dtype if self.dtype is None else np.result_type(dtype, self.dtype)
        return rows if order is None else rows[:, order]

    def _check_finite(self, piece, number, part):
        with np.errstate(over="ignore", invalid="ignore"):
            total = piece.sum()
        bad = np.argwhere(~np.isfinite(piece)) if not np.isfinite(total) else []
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"data must be finite, got NaN or infinity in chunk {number}, row {part[row]},"
                f" feature {named([column], self.names)}"
            )


def _native(dtype, what="chunks"):
    """The float dtype that the compiled loops read a chunk in."""
    return working_dtype(dtype.newbyteorder("="), what)


def _changed(how):
    return (f"the data changed between passes: {how}; chunks must give the same rows every time,"
            " and a function that returns them a new iterator")


def check_features(n, hierarchy, what, shape):
    if n != hierarchy.n:
        raise ValueError(
            f"{what} must have one column for each of the hierarchy's"
            f" {counted(hierarchy.n, 'feature')}, got shape {shape} (samples are rows)"
        )


def check_varies(low, high, features, names):
    """Refuse features whose range (low, high), given in the order of `features`, is a point."""
    constant = np.sort(features[low == high])
    if constant.size:
        raise ValueError(
            f"Y has {counted(constant.size, 'constant feature')} ({named(constant, names)}), for"
            " which no variance can be estimated; leave them out"
        )


def check_weights(weights, N=None, labels=None):
    """Non-negative sample weights (N,) as float64; None stays None.  Labels name the samples."""
    if weights is None:
        return None
    weights = as_real(weights, "weights", dtype=np.float64, ndim=1)
    if N is not None and weights.size != N:
        raise ValueError(_wrong_weights(weights.size, N))
    if labels is None or len(labels) != weights.size:
        labels = range(weights.size)
    for bad, what in ((~np.isfinite(weights), "be finite"), (weights < 0, "not be negative")):
        if bad.any():
            bad = np.flatnonzero(bad)
            raise ValueError(
                f"weights must {what}, got {weights[bad[0]]:.3g} for sample {labels[bad[0]]}"
                f" ({counted(bad.size, 'sample')}: {name_some(labels[i] for i in bad)})")
    if not weights.any():
        raise ValueError("weights must not all be zero")
    return weights


def _wrong_weights(given, N):
    return f"weights must have one entry for each of the {counted(N, 'sample')}, got {given}"


def check_enough(N):
    if N < 2:
        raise ValueError(f"Y must hold at least 2 samples (rows) of positive weight, got {N}")
