"""Samples in chunks of rows on the workers of a cluster: F here, the moments of a chunk there.

A pass sends what all chunks need once to each worker, lets every chunk be gone through where it is,
and adds up what they give in pairs that depend on their order only: an E-step moves F, D and mean
to the workers and the ``n R + s R`` numbers of moments from them.  A chunk is gone through by the
very sources that streams have, with random numbers that hang on its number.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..._common.cluster import (
    added,
    check_workers,
    chunks_of,
    in_pairs,
    on_workers,
    results,
    task,
    task_of,
)
from ..._common.given import Given, check_weights, check_whole_rows, wrong_weights
from ..._common.labels import by_label, labels_of
from ..._common.typing import FloatArray
from ..._common.wording import counted
from ...operators.mlr import MLR
from ...operators.part_sweeps import alone
from ...operators.posterior import factor_without_loss, split_of
from ...tree.hierarchy import Hierarchy
from .chunks import Chunks, FirstPass, Known, compressed, triangle
from .complete import CompleteData
from .incomplete_chunks import IncompleteChunks
from .residual import SplitMoments
from .streamed import (
    ChunkedData,
    Streamed,
    complete_chunks,
    first_of,
    sketch_of,
    sketch_width,
    to_variance,
)

__all__ = ["DistributedChunks", "DistributedRows", "distributed_source"]


class Part(NamedTuple):
    """A chunk of rows, whose numbers and weights tasks give."""

    chunk: Any
    weights: Any  # None where all rows weigh the same
    known: Known | None = None  # after the first pass


class Parts:
    """Chunks of rows on workers; the options of each are those of `template`."""

    def __init__(self, given: Given, template: Chunks):
        # Held as long as its chunks are: what workers keep of it is forgotten with it.
        self.collection = on_workers(given.values)
        self.parts, self.template = _parts_of(given._replace(values=self.collection)), template

    def total(self, merge: Callable[[Any, Any], Any], work: Callable[..., Any], *given: Any
              ) -> Any:
        """``work(chunk, *given)`` of all chunks, merged; `given` goes once to each worker."""
        shared = [task_of(x) for x in (self.template, *given)]
        return results(in_pairs(merge, [
            task(_visit, number, *part, work, *shared) for number, part in enumerate(self.parts)
        ], at_once=2))[0]

    def first(self, work: Callable[..., Any], *given: Any) -> Any:
        """What a first pass gives: a `FirstPass` or a `Triangle`."""
        found = self.total(_merged, _first, work, *given)
        self.parts = [part._replace(known=known) for part, known in
                      zip(self.parts, found.known, strict=True)]
        self.template.learn(Known(*map(sum, zip(*found.known, strict=True))), found.dtype)
        return found.found


class _First(NamedTuple):
    known: tuple[Known, ...]  # of each chunk
    dtype: Any
    found: Any


def _first(read: Chunks, work: Callable[..., Any], *given: Any) -> _First:
    found = work(read, *given)
    return _First((read.known,), read.dtype, found)


def _merged(a: _First, b: _First) -> _First:
    return _First(a.known + b.known, np.result_type(a.dtype, b.dtype), a.found.merged(b.found))


def _visit(number, chunk, weights, known, work, template, *given):
    """What a chunk gives."""
    return alone(work)(template.part(number, chunk, weights, known), *given)


# ---------------------------------------------------------------- what a chunk gives


def _beside(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.concatenate([a, b], axis=1)


def _moments(read: Chunks, data: ChunkedData, A: MLR) -> Any:
    return data.of(read).moments(A)


def _split_moments(read: Chunks, data: ChunkedData, A: MLR) -> Any:
    factor_without_loss(A)
    return tuple(data.of(read).split_moments(A, split_of(A)))


def _incomplete_moments(read: Chunks, data: IncompleteChunks, A: MLR, mean: FloatArray) -> Any:
    own = data.of(read)
    return *own.moments(A, mean), own.cells


def _weight_of_pairs(read: Chunks, data: IncompleteChunks, features: np.ndarray) -> float:
    return data.of(read).weight_of_pairs(features)


def _samples(read: Chunks, data: Any) -> FloatArray:
    found = [X.copy() for X in data.of(read).start_blocks(max(1, read.n_samples))]
    return np.concatenate([np.empty((data.mean.size, 0)), *found], axis=1)


def _sketch(read: Chunks, data: Any, width: int, seed: int) -> FloatArray:
    blocks = data.of(read).start_blocks
    return sketch_of(blocks, data.mean.size, width, [seed, read.number])


# ---------------------------------------------------------------- sources


class _OnWorkers:
    """What sources on workers have in common; `_data` is the like of a chunk, without its rows."""

    _parts: Parts
    _data: Any

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """The samples if they are few, else a sketch of them."""
        data: Any = self
        width = sketch_width(width, data.mean.size)
        if data.n_samples <= width:
            X = self._parts.total(_beside, _samples, self._data)
        else:
            X = self._parts.total(added, _sketch, self._data, width, first_of(seed))
        return to_variance(X, data)


class DistributedRows(_OnWorkers, Streamed):
    """Complete samples on workers as a `Source` of EM: one pass an evaluation."""

    def __init__(self, parts: Parts, data: ChunkedData):
        self._parts, self._data = parts, data
        self.mean, self.sums_of_squares, self.n_samples = (
            data.mean, data.sums_of_squares, data.n_samples)
        self.weight, self.dtype, self.names = data.weight, data.dtype, data.names

    def moments(self, A: MLR) -> tuple[FloatArray, FloatArray, float]:
        """V (n, R) and S (s, R) of all samples under the covariance A, and ``Σ ‖w‖²``."""
        return self._parts.total(added, _moments, self._data, A)

    def split_moments(self, covariance: MLR, split: Any) -> SplitMoments:
        """The samples summed up, for `ResidualStep`."""
        return SplitMoments(*self._parts.total(added, _split_moments, self._data, covariance))


class DistributedChunks(_OnWorkers, IncompleteChunks):
    """Samples with missing cells on workers as a `Source` of EM: one pass an evaluation."""

    def __init__(self, parts: Parts, hierarchy: Hierarchy, found: FirstPass, center: bool):
        super().__init__(parts.template, hierarchy, found, center)
        self._parts, self._data = parts, IncompleteChunks(parts.template, hierarchy, found, center)

    def moments(self, covariance: MLR, mean: FloatArray) -> tuple[Any, ...]:
        """What the E-step sums over the samples."""
        *sums, cells = self._parts.total(
            added, _incomplete_moments, self._data, covariance, mean)
        self._expect(cells == self._cells)
        return tuple(sums)

    def weight_of_pairs(self, features: np.ndarray) -> float:
        """Weight of the samples that show two or more of these features."""
        return float(self._parts.total(added, _weight_of_pairs, self._data, features))


def distributed_source(given: Given, hierarchy: Hierarchy, center: bool, missing: str,
                       compress: bool | None) -> DistributedRows | DistributedChunks | CompleteData:
    """The source that an array or a DataFrame of dask in chunks of rows is.

    What its first pass finds is checked here, where features have names; see `fit_factor_model`.
    """
    check_whole_rows(given.values)
    check_workers()
    gaps = missing == "em"
    template = Chunks(_none, hierarchy, None, hierarchy.feature_names, once=bool(compress),
                      gaps=gaps)
    parts = Parts(given, template)
    if compress:
        return compressed(template, parts.first(triangle, center), hierarchy)
    found = template.checked(parts.first(Chunks.scan), center)
    if gaps and (found.cells < template.n_samples).any():
        return DistributedChunks(parts, hierarchy, found, bool(center))
    return DistributedRows(parts, complete_chunks(template, hierarchy, found))


def _none() -> Any:
    """No chunks: for a template."""
    return iter(())


def _parts_of(given: Given) -> list[Part]:
    """The chunks of a collection and their weights, as tasks."""
    chunks = chunks_of(given.values)
    weights = given.weights
    if weights is None:
        return [Part(chunk, None) for chunk in chunks]
    if hasattr(weights, "__dask_graph__"):
        return _weighted(chunks, weights, given.values)
    lengths = given.values.chunks[0] if hasattr(given.values, "chunks") else results(
        in_pairs(operator.add, [task(_length, chunk) for chunk in chunks]))[0]
    N = sum(lengths)
    relative: Any = given.relative_weights()
    if relative.size != N:
        raise ValueError(wrong_weights(relative.size, N))
    ends = np.cumsum(lengths)[:-1]
    return [Part(chunk, own) for chunk, own in
            zip(chunks, np.split(relative, ends), strict=True)]


def _length(chunk):
    return (len(chunk),)


def _weighted(chunks: list[Any], weights: Any, Y: Any) -> list[Part]:
    """Chunks with weights that are a collection of dask too."""
    rows = getattr(Y, "chunks", None)
    if rows is not None and hasattr(weights, "rechunk"):
        if weights.shape != Y.shape[:1]:
            raise ValueError(wrong_weights(weights.size, Y.shape[0]))
        weights = weights.rechunk(rows[:1])
    own = chunks_of(weights)
    if len(own) != len(chunks):
        raise ValueError(
            f"sample_weight must have the chunks of Y, {counted(len(chunks), 'chunk')},"
            f" got {len(own)}; give an array in memory, or repartition it")
    starts = np.cumsum([0, *rows[0][:-1]]) if rows is not None else [None] * len(own)
    read = [task(_read_weights, *each) for each in zip(own, chunks, starts, strict=True)]
    largest, = results(in_pairs(max, [task(_largest, w) for w in read]))
    if not largest > 0:
        raise ValueError("weights must not all be zero")
    number, total = results(in_pairs(added, [task(_weigh, w, largest) for w in read]))[0]
    return [Part(chunk, task(_relative, w, largest, number / total))
            for chunk, w in zip(chunks, read, strict=True)]


def _read_weights(weights, chunk, start):
    """Weights of the rows of a chunk, checked but for a positive one."""
    labels = labels_of(chunk)
    values = by_label(weights, labels, "sample_weight", "sample")
    values = np.append(np.asarray(values), 1)  # all of a chunk's may be zero
    if labels is None:
        labels = range(start, start + len(chunk))
    return check_weights(values, len(chunk) + 1, [*labels, ""])[:-1]


def _largest(weights):
    return float(weights.max(initial=0))


def _weigh(weights, largest):
    return np.count_nonzero(weights), float((weights / largest).sum())


def _relative(weights, largest, scale):
    return weights / largest * scale
