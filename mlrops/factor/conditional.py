"""Normal distributions with an MLR covariance, given some of the cells of a sample."""

import math
from collections.abc import Mapping

import numpy as np

from .._common.cached import cached_property
from .._common.frames import is_frame
from .._common.labelled import like_rows, read_samples, read_values, with_names
from .._common.labels import labels_of, match
from .._common.validate import as_features, as_finite
from .._common.wording import counted, name_some
from .estep import filling
from .estep.incomplete import IncompleteSamples

__all__ = ["Conditional", "average", "condition", "impute", "loglik_samples"]


def loglik_samples(covariance, mean, Y):
    """Log-likelihood of the observed cells of each sample.

    Parameters
    ----------
    covariance : MLR
    mean : array_like, shape (n,)
    Y : ndarray, shape (N, n)
        As `read_samples` gives them; NaN marks a missing cell.

    Returns
    -------
    loglik : ndarray, shape (N,)
        0 for a sample without an observed cell.

    Notes
    -----
    One factorization for each different pattern of missing cells.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.conditional import loglik_samples
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> Y = np.array([[0.0, np.nan, np.nan], [np.nan, np.nan, np.nan]])
    >>> np.round(loglik_samples(A, np.zeros(3), Y), 6)  # the first is that of N(0, 2) at 0
    array([-1.265512,  0.      ])
    """
    if not len(Y):
        return np.empty(0)
    covariance, mean = covariance.astype(float), np.asarray(mean, float)
    if np.isnan(Y).any():
        samples = IncompleteSamples(covariance.hierarchy, Y.T.astype(covariance.dtype))
        return filling.loglik_samples(covariance, mean, samples)
    quad = covariance.inv_quad((Y - mean).T)
    return -0.5 * (mean.size * math.log(2 * math.pi) + covariance.logdet() + quad)


def average(loglik, Y, weights=None):
    """Average log-likelihood of the samples that have a cell; the others count nowhere.

    Parameters
    ----------
    loglik : ndarray, shape (N,)
        Of each sample.
    Y : ndarray, shape (N, n)
        NaN marks a missing cell.
    weights : ndarray, shape (N,), optional
        Of the samples.

    Returns
    -------
    loglik : float

    Raises
    ------
    ValueError
        No sample has a cell, or only samples of weight 0 have one.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.factor.conditional import average
    >>> average(np.array([-3.0, 0.0, -5.0]), np.array([[1.0, 2], [np.nan, np.nan], [3, 4]]))
    -4.0
    """
    counted_in = ~np.isnan(Y).all(axis=1)
    weights = counted_in if weights is None else np.where(counted_in, weights, 0)
    if not weights.any():
        raise ValueError(f"none of {counted(len(Y), 'sample')} has an observed cell and a positive"
                         " weight: there is nothing to average the log-likelihood over")
    return float(weights @ loglik / weights.sum())


def impute(covariance, mean, Y, return_std=False):
    """Fill missing cells with their conditional means given the observed cells of their sample.

    Parameters
    ----------
    covariance : MLR
    mean : array_like, shape (n,)
    Y : ndarray, shape (N, n)
        NaN marks a missing cell.
    return_std : bool, optional

    Returns
    -------
    filled : ndarray, shape (N, n)
        Observed cells as they are.
    std : ndarray, shape (N, n)
        Conditional standard deviations, 0 at observed cells; only with `return_std`.

    Notes
    -----
    A sample without an observed cell gets the mean, and the standard deviations of the features.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.conditional import impute
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> filled, std = impute(A, np.zeros(3), np.array([[3.0, np.nan, 0.0]]), return_std=True)
    >>> filled, np.round(std, 6)
    (array([[3., 1., 0.]]), array([[0.      , 1.154701, 0.      ]]))
    """
    filled = Y.astype(np.result_type(Y, covariance.dtype))
    if not len(Y):
        return (filled, np.zeros_like(filled)) if return_std else filled
    samples = IncompleteSamples(covariance.hierarchy, Y.T.astype(covariance.dtype))
    found = filling.fill(covariance, mean, samples, return_std)
    missing = np.isnan(Y)
    filled[missing] = (found[0] if return_std else found).T[missing]
    return (filled, np.ascontiguousarray(found[1].T)) if return_std else filled


class Conditional:
    """Distribution of some features given the others; what `FactorModelResult.condition` returns.

    Attributes
    ----------
    observed, missing : ndarray of int, shapes (n_observed,) and (n_missing,)
        The features that are given, in the order asked for, and the rest, increasing.
    observed_names, missing_names : tuple of str or None
        Their names, where the features have some.
    mean_map : StructuredOperator, shape (n_missing, n_observed)
        ``B = Σ_mo Σ_oo⁻¹``.
    covariance : MLR
        Covariance of the missing features given the observed ones, whatever their values.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> fit = fit_factor_model(simulate_factor_model(6, 1, n_samples=80, random_state=0).Y, 1)
    >>> rest = fit.condition([0, 4])
    >>> rest.missing, rest.mean([1.0, -1.0]).shape, rest.covariance.shape
    (array([1, 2, 3, 5]), (4,), (4, 4))
    """

    def __init__(self, covariance, mean, observed, missing, names=None):
        self.observed, self.missing, self._mean = observed, missing, np.asarray(mean)
        self.observed_names, self.missing_names = (
            None if names is None else tuple(names[i] for i in part)
            for part in (observed, missing))
        self.mean_map = filling.ConditionalMap(covariance, observed, missing)

    @cached_property
    def covariance(self):
        """Covariance of the missing features given the observed ones (`MLR`)."""
        return self.mean_map.covariance

    def mean(self, y):
        """Conditional mean ``μ_m + B (y - μ_o)``.

        Parameters
        ----------
        y : array_like, Series, dict or DataFrame, shape (n_observed,) or (N, n_observed)
            Values of the observed features, in the order of `observed`; by name where it has names.

        Returns
        -------
        mean : ndarray, Series or DataFrame, shape (n_missing,) or (N, n_missing)
            With names where `y` has some and the features have.

        Raises
        ------
        ValueError, TypeError
            NaN or infinity, other features, complex values.
        """
        k, names = self.observed.size, self.observed_names or tuple(self.observed.tolist())
        if is_frame(y):
            values = read_samples(y, names, k, what="y").values
        else:
            values = as_finite(read_values(y, names, "y"), "y", ndim=(1, 2), axis=-1)
        if values.shape[-1] != k:
            raise ValueError(f"y must hold {k} observed features, got shape {values.shape}")
        shift = self.mean_map @ (values - self._mean[self.observed]).T
        found = self._mean[self.missing] + shift.T
        if is_frame(y):
            columns = self.missing if self.missing_names is None else self.missing_names
            return like_rows(y, found, list(map(str, columns)))
        return found if labels_of(y) is None else with_names(found, self.missing_names)

    def __repr__(self):
        return (f"<{counted(self.missing.size, 'feature')} given {self.observed.size}:"
                f" {self.covariance!r}>")


def condition(covariance, mean, observed, names=None):
    """Distribution of the rest of the features given some.

    Parameters
    ----------
    covariance : MLR
    mean : array_like, shape (n,)
    observed : array_like, shape (n,) of bool or (n_observed,) of int or str, Series or dict
        The features that are given: a mask, distinct numbers, or names.  A mask that is a Series or
        dict is matched by name.
    names : sequence of str, optional
        Names of the features, for an `observed` of names.

    Returns
    -------
    Conditional

    Raises
    ------
    ValueError
        Every feature is observed or none, repeated features, names that are not known or shared.
    IndexError
        Feature numbers out of range.

    Notes
    -----
    Given the observed features the others are normal with mean ``μ_m + Σ_mo Σ_oo⁻¹ (y_o - μ_o)``
    and a covariance on what the tree leaves of them, with the same ranks: neither is ever dense.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.conditional import condition
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> rest = condition(A, np.zeros(3), observed=[0])
    >>> rest.missing, rest.mean([2.0])
    (array([1, 2]), array([1., 1.]))
    >>> rest.covariance.toarray()
    array([[1.5, 0.5],
           [0.5, 1.5]])
    """
    n = covariance.shape[0]
    observed = _selection(observed, names)
    if observed.dtype.kind == "b":
        if observed.shape != (n,):
            raise ValueError(f"observed must be a mask of shape ({n},), got {observed.shape}")
        observed = np.flatnonzero(observed)
    elif observed.dtype.kind in "UO" and observed.size:
        observed = _numbers(observed, names)
    missing = np.ones(n, bool)
    if observed.size:
        observed = as_features(observed, n, "observed")
        missing[observed] = False
    if not 0 < observed.size < n:
        raise ValueError(
            f"observed must leave out at least one feature and hold one, got {observed.size} of {n}"
        )
    return Conditional(covariance, mean, observed, np.flatnonzero(missing), names)


def _selection(observed, names):
    """Masks, numbers or names as an array; masks with labels in the order of the features."""
    if is_frame(observed):
        raise TypeError("observed must be a mask, numbers or names of features, got a table")
    labels = labels_of(observed)
    values = list(observed.values()) if isinstance(observed, Mapping) else observed
    values = np.asarray(values)
    if values.dtype.kind == "O" and values.size and all(
            isinstance(x, (bool, np.bool_)) for x in values.ravel()):
        values = values.astype(bool)
    if labels is not None and values.dtype.kind == "b":
        order = match(labels, names, "observed", "feature")
        return values if order is None else values[order]
    if isinstance(observed, Mapping):
        raise TypeError("observed must tell of each feature whether it is given: a dict must hold"
                        f" True and False, got {values.ravel()[:3].tolist()}")
    return values


def _numbers(wanted, names):
    if names is None:
        raise ValueError("observed holds names, but the features have none; use their numbers")
    number = {name: i for i, name in enumerate(names)}
    unknown = [name for name in wanted if name not in number]
    if unknown:
        raise ValueError(f"observed must hold names of features, got {name_some(unknown)}")
    shared = [name for name in wanted if len(number) < len(names) and names.count(name) > 1]
    if shared:
        raise ValueError(f"observed must name one feature each, but several features are called"
                         f" {name_some(shared)}; use their numbers")
    return np.array([number[name] for name in wanted])
