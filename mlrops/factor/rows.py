"""Samples of which some rows are fitted to, and others held out."""

from typing import Any

import numpy as np
import scipy.sparse

from .._common.cached import cached_property
from .._common.cluster import in_pairs, is_dask, joined, on_workers, results, task
from .._common.disk import OnDisk
from .._common.given import Given, as_array, check_whole_rows
from .._common.typing import BoolArray, FloatArray, IntArray
from .._common.validate import as_real, shows_a_cell
from .conditional import average, loglik_samples

__all__ = ["Rows", "rows_of"]

BLOCK = 1000  # samples scored, or looked at, at a time


def rows_of(given: Given) -> "Rows":
    """The `Rows` of data of any kind."""
    return RowsOnWorkers(given) if given.kind == "dask" else Rows(given)


class Rows:
    """The rows of an array, a sparse matrix or data on disk, with their weights."""

    def __init__(self, given: Given):
        self.values, self.labels = given.values, given.labels
        self.weights: FloatArray | None = None
        if given.weights is not None:
            self.weights = as_real(given.weights, "sample_weight")

    @property
    def number(self) -> int:
        """How many rows there are."""
        N, _ = np.shape(self.values)
        return N

    def part(self, rows: IntArray) -> tuple[Any, dict[str, Any]]:
        """Some of the rows to fit to, and their weights as an option of the fit.

        Data on disk stay there: the other rows get the weight 0.
        """
        if not isinstance(self.values, OnDisk):
            return self._take(rows), {} if self.weights is None else {
                "sample_weight": self.weights[rows]}
        weights = np.zeros(self.values.shape[0])
        weights[rows] = 1 if self.weights is None else self.weights[rows]
        return self.values, {"sample_weight": weights}

    def weights_of_all(self) -> dict[str, Any]:
        """The weights as an option of a fit."""
        return {} if self.weights is None else {"sample_weight": self.weights}

    def _take(self, rows):
        Y = self.values
        return Y.tocsr()[rows] if scipy.sparse.issparse(Y) else Y[rows]

    def _blocks(self, rows):
        """Yield (places, block): the rows asked for, in order, as arrays of some at a time."""
        if not isinstance(self.values, OnDisk):
            for first in range(0, rows.size, BLOCK):
                places = slice(first, first + BLOCK)
                Y = self._take(rows[places])
                yield places, Y.toarray() if scipy.sparse.issparse(Y) else Y
            return
        first = 0
        for block in self.values:
            places = slice(*np.searchsorted(rows, (first, first + len(block))))
            yield places, as_array(block)[rows[places] - first]
            first += len(block)

    def score(self, fit: Any, rows: IntArray) -> float:
        """Average log-likelihood of rows under a fit, some at a time: they are made dense."""
        loglik, shown = np.empty(rows.size), np.empty(rows.size, bool)
        for places, block in self._blocks(rows):
            Y = fit._samples(block, missing=True).values
            loglik[places] = loglik_samples(fit.covariance, fit.mean, Y)
            shown[places] = shows_a_cell(Y)
        return average(loglik, shown, None if self.weights is None else self.weights[rows])

    def counted_in(self, missing: str) -> BoolArray:
        """Which rows have a positive weight and, with ``missing="em"``, a cell."""
        found = np.ones(np.shape(self.values)[0], bool)
        if missing == "em" and not scipy.sparse.issparse(self.values):
            for places, block in self._blocks(np.arange(found.size)):
                found[places] = shows_a_cell(block)
        if self.weights is not None and np.size(self.weights) == found.size:  # else fits refuse it
            found &= self.weights > 0
        return found


class RowsOnWorkers(Rows):
    """The rows of an array of dask, with weights in memory."""

    def __init__(self, given: Given):
        check_whole_rows(given.values)
        weights = given.weights
        if is_dask(weights):
            given = given._replace(weights=results(weights)[0])
        super().__init__(given._replace(values=on_workers(given.values)))

    @property
    def number(self) -> int:
        """How many rows there are."""
        if not hasattr(self.values, "chunks"):
            raise ValueError("rows of a dask DataFrame cannot be held out, since they have no"
                             " numbers: give Y.to_dask_array(lengths=True), or choose by BIC or"
                             " AIC")
        return self.values.shape[0]

    def score(self, fit: Any, rows: IntArray) -> float:
        """Average log-likelihood of rows under a fit, where the rows are."""
        loglik, = results(fit.score_samples(self._take(rows)))
        weights = None if self.weights is None else self.weights[rows]
        return average(loglik, self._shown[rows], weights)

    def counted_in(self, missing: str) -> BoolArray:
        """Which rows have a positive weight and, with ``missing="em"``, a cell."""
        found = self._shown.copy()
        if missing != "em":
            found[:] = True
        if self.weights is not None and np.size(self.weights) == found.size:
            found &= self.weights > 0
        return found

    @cached_property
    def _shown(self) -> BoolArray:
        """Which rows have a cell."""
        chunks = np.ravel(self.values.to_delayed())
        return results(in_pairs(joined, [task(_shown_in, chunk) for chunk in chunks]))[0]


def _shown_in(chunk):
    return shows_a_cell(as_array(chunk))
