"""Samples of which some rows are fitted to, and others held out."""

from typing import Any

import numpy as np
import scipy.sparse

from .._common.given import Given, as_array
from .._common.typing import BoolArray, FloatArray, IntArray
from .._common.validate import as_real
from .conditional import average, loglik_samples

__all__ = ["Rows"]

BLOCK = 1000  # samples scored, or looked at, at a time


class Rows:
    """The rows of an array, a sparse matrix or a memory map, with their weights."""

    def __init__(self, given: Given):
        self.values, self.labels = given.values, given.labels
        self.weights: FloatArray | None = None
        if given.weights is not None:
            self.weights = as_real(given.weights, "sample_weight")

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
