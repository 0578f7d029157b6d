"""EM on data with missing cells: each cell that is missing is left out, none is filled in."""

from dataclasses import dataclass

import numpy as np

from ..._common.wording import agree, counted, name_some
from ..em import scaled
from .incomplete_samples import IncompleteMoments, IncompleteSamples

__all__ = ["IncompleteData", "incomplete_source"]


@dataclass(frozen=True)
class IncompleteData:
    """Data with missing cells, all in tree order; a source of EM (see `em`)."""

    samples: IncompleteSamples  # relative to `mean`
    variance: np.ndarray  # (n,) mean square of the observed cells about `mean`
    mean: np.ndarray  # (n,) mean of the observed cells, or zeros where it is fixed
    mean_is_free: bool
    dtype: np.dtype = np.dtype(float)

    @property
    def n_samples(self):
        return self.samples.n_samples

    @property
    def shares(self):
        """(n,) share of the samples, by weight, that show each feature.

        The log-likelihood of independent features is ``-½ Σ shares (log 2π + 1 + log variance)``.
        """
        return self.samples.counts / self.samples.weight

    def shown(self, features):
        return self.samples.shown(features)

    def start_data(self, width, seed):
        """Missing cells at the mean, features scaled to the variance of their observed cells.

        A place to start from and nothing more: EM itself fills in nothing.
        """
        X = self.samples.zero_filled()
        X *= np.sqrt(self.samples.weight / self.samples.counts)[:, None]
        return X

    def evaluate(self, covariance, mean):
        return Incomplete(covariance, mean, self)


class Incomplete:
    """The E-step of data with missing cells."""

    def __init__(self, covariance, mean, data):
        self._mean, self._mean_is_free = mean, data.mean_is_free
        self._moments = IncompleteMoments(covariance, data.samples, mean - data.mean)
        self.loglik = self._moments.loglik

    def update(self, out=None, keep=False):
        """The M-step: F, D (not clipped) and mean.  The moments are there in any case."""
        F, D, offset = self._moments.regress(self._mean_is_free, out)
        return F, D, self._mean + offset

    def gradient(self, F, D, mean, scale=None, out=None):
        """Derivatives of the average log-likelihood by F, D and mean, zero for a fixed mean.

        They follow from the moments of the E-step: the outcome of `update` is not needed.
        """
        dF, dD, dmean = self._moments.gradient()
        return scaled(dF, scale, out), dD, dmean if self._mean_is_free else np.zeros_like(dmean)

    def precondition(self, G, shift, scale=None, out=None):
        """EM's answer to a gradient by F and mean (empty where the mean is fixed)."""
        dF, dmean = self._moments.precondition(G, shift if self._mean_is_free else None)
        return scaled(dF, scale, out), scaled(dmean, scale, None) if self._mean_is_free else shift


def incomplete_source(Y, hierarchy, center, weights=None, names=None):
    """Source of EM for data with missing cells.

    Parameters
    ----------
    Y : ndarray of float, shape (N, n)
        NaN marks a missing cell; no infinity.
    hierarchy : Hierarchy
    center : bool
        Whether the mean is estimated; it is fixed at zero otherwise.
    weights : ndarray, shape (N,), optional
        Non-negative weights of the samples; their scale does not count.
    names : sequence of str, optional
        Column names for messages.

    Returns
    -------
    IncompleteData
        Samples without an observed cell, or of weight zero, say nothing about the parameters: they
        are left out and not counted in ``n_samples``.

    Raises
    ------
    ValueError
        Columns with fewer than two observed cells, or constant where observed.
    """
    used = ~np.isnan(Y).all(axis=1)
    if weights is not None:
        used &= weights > 0
    Y = Y[used]
    weights = np.ones(len(Y)) if weights is None else weights[used].astype(float)
    observed = ~np.isnan(Y)
    _check_columns(Y, observed, names)
    weights *= len(Y) / weights.sum()
    counts = weights @ observed
    if center:
        # About a first value of each column: sums of large equal numbers lose digits.
        origin = Y[observed.argmax(axis=0), np.arange(Y.shape[1])].astype(float)
        mean = origin + weights @ np.where(observed, Y - origin, 0) / counts
    else:
        mean = np.zeros(Y.shape[1])
    X = Y - mean
    variance = weights @ np.square(np.where(observed, X, 0)) / counts
    gather = hierarchy._gather
    samples = IncompleteSamples(hierarchy._in_tree_order(), gather(X.T), weights)
    return IncompleteData(samples, gather(variance), gather(mean), bool(center), Y.dtype)


def _check_columns(Y, observed, names):
    n_observed = observed.sum(axis=0)
    few = np.flatnonzero(n_observed < 2)
    if few.size:
        raise ValueError(
            f"Y has {counted(few.size, 'column')} with fewer than 2 observed cells"
            f" ({_named(few, names)}), for which no variance can be estimated; leave them out"
        )
    high = np.where(observed, Y, -np.inf).max(axis=0)
    constant = np.flatnonzero(high == np.where(observed, Y, np.inf).min(axis=0))
    if constant.size:
        raise ValueError(
            f"Y has {counted(constant.size, 'feature')} that {agree(constant.size, 'is', 'are')}"
            f" constant where observed ({_named(constant, names)}), for which no variance can be"
            " estimated; leave them out"
        )


def _named(columns, names):
    return name_some(columns if names is None else [names[i] for i in columns])
