"""Samples of which some rows are fitted to, and others held out."""

from typing import Any

import numpy as np
import scipy.sparse

from .._common.cached import cached_property
from .._common.cluster import in_pairs, is_dask, on_workers, results, task
from .._common.given import Given, as_array
from .._common.typing import BoolArray, FloatArray, IntArray
from .._common.validate import as_real
from .conditional import average, loglik_samples

__all__ = ["Rows", "rows_of"]

BLOCK = 1000  # samples scored, or looked at, at a time


def rows_of(given: Given) -> "Rows":
    """The `Rows` of data of any kind."""
    return RowsOnWorkers(given) if given.kind == "dask" else Rows(given)


class Rows:
    """The rows of an array, a sparse matrix or a memory map, with their weights."""

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

    def take(self, rows: IntArray) -> Any:
        """Some of the rows, in memory."""
        Y = self.values
        return Y.tocsr()[rows] if scipy.sparse.issparse(Y) else np.asarray(Y)[rows]

    def weights_of(self, rows: IntArray | None = None) -> dict[str, Any]:
        """The weights of some rows, or of all, as an option of a fit."""
        if self.weights is None:
            return {}
        return {"sample_weight": self.weights if rows is None else self.weights[rows]}

    def score(self, fit: Any, rows: IntArray) -> float:
        """Average log-likelihood of rows under a fit, some at a time: they are made dense."""
        loglik, cells = np.empty(rows.size), np.zeros((rows.size, 1))
        for first in range(0, rows.size, BLOCK):
            block = slice(first, first + BLOCK)
            Y = self.take(rows[block])
            Y = fit._samples(Y.toarray() if scipy.sparse.issparse(Y) else Y, missing=True).values
            loglik[block] = loglik_samples(fit.covariance, fit.mean, Y)
            cells[block][np.isnan(Y).all(axis=1)] = np.nan
        return average(loglik, cells, None if self.weights is None else self.weights[rows])

    def counted_in(self, missing: str) -> BoolArray:
        """Which rows have a positive weight and, with ``missing="em"``, a cell."""
        found = np.ones(np.shape(self.values)[0], bool)
        if missing == "em" and not scipy.sparse.issparse(self.values):
            for first in range(0, found.size, BLOCK):  # of a memory map little at a time
                block = slice(first, first + BLOCK)
                found[block] = ~np.isnan(as_array(self.values[block])).all(axis=1)
        if self.weights is not None and np.size(self.weights) == found.size:  # else fits refuse it
            found &= self.weights > 0
        return found


class RowsOnWorkers(Rows):
    """The rows of an array of dask, with weights in memory."""

    def __init__(self, given: Given):
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

    def take(self, rows: IntArray) -> Any:
        """Some of the rows, in chunks where they are."""
        return self.values[rows]

    def score(self, fit: Any, rows: IntArray) -> float:
        """Average log-likelihood of rows under a fit, where the rows are."""
        loglik, = results(fit.score_samples(self.take(rows)))
        cells = np.where(self._seen[rows], 0.0, np.nan)[:, None]
        return average(loglik, cells, None if self.weights is None else self.weights[rows])

    def counted_in(self, missing: str) -> BoolArray:
        """Which rows have a positive weight and, with ``missing="em"``, a cell."""
        found = self._seen.copy()
        if missing != "em":
            found[:] = True
        if self.weights is not None and np.size(self.weights) == found.size:
            found &= self.weights > 0
        return found

    @cached_property
    def _seen(self) -> BoolArray:
        """Which rows have a cell."""
        chunks = np.ravel(self.values.to_delayed())
        return results(in_pairs(_joined, [task(_shown, chunk) for chunk in chunks]))[0]


def _shown(chunk):
    return ~np.isnan(as_array(chunk)).all(axis=1)


def _joined(a, b):
    return np.concatenate([a, b])
