"""Normal distributions with an MLR covariance, given some of the cells of a sample."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._common.cached import cached_property
from .._common.disk import by_blocks
from .._common.frames import is_frame
from .._common.labelled import factor_columns, like_rows, read_samples, read_values, with_names
from .._common.labels import labels_of, match
from .._common.typing import BoolArray, Data, FloatArray, IntArray, Labels, Real
from .._common.validate import as_features, as_finite
from .._common.wording import counted, name_some
from ..operators.base import StructuredOperator
from ..operators.mlr import MLR
from .estep import filling
from .estep.incomplete import IncompleteSamples

__all__ = ["Conditional", "average", "condition", "factor_scores", "impute", "loglik_samples",
           "nothing_to_average"]


def loglik_samples(covariance: MLR, mean: FloatArray, Y: FloatArray) -> FloatArray:
    """Log-likelihood of the observed cells of each sample, (N,): 0 where there is none.

    NaN in Y (N, n) marks a missing cell.  Each different pattern of missing cells takes one
    factorization.
    """
    if not len(Y):
        return np.empty(0)
    covariance, mean = covariance.astype(float), np.asarray(mean, float)
    if np.isnan(Y).any():
        samples = IncompleteSamples(covariance.hierarchy, Y.T.astype(covariance.dtype))
        return filling.loglik_samples(covariance, mean, samples)
    quad: Any = covariance.inv_quad((Y - mean).T)
    return -0.5 * (mean.size * math.log(2 * math.pi) + covariance.logdet() + quad)


def average(loglik: FloatArray, shown: BoolArray, weights: FloatArray | None = None) -> float:
    """Average log-likelihood of the samples that have a cell; the others count nowhere."""
    weight = shown if weights is None else np.where(shown, weights, 0)
    if not weight.any():
        raise ValueError(nothing_to_average(len(shown)))
    return float(weight @ loglik / weight.sum())


def nothing_to_average(N: int) -> str:
    """What is wrong with N samples of which none counts."""
    return (f"none of {counted(N, 'sample')} has an observed cell and a positive weight: there is"
            " nothing to average the log-likelihood over")


def impute(covariance: MLR, mean: FloatArray, Y: FloatArray,
           return_std: bool = False) -> FloatArray | tuple[FloatArray, FloatArray]:
    """See `FactorModelResult.impute`; a sample without a cell gets the mean."""
    filled = Y.astype(np.result_type(Y, covariance.dtype))
    std = np.zeros_like(filled)
    if len(Y):
        samples = IncompleteSamples(covariance.hierarchy, Y.T.astype(covariance.dtype))
        found: Any = filling.fill(covariance, mean, samples, return_std)
        found, std = (found[0], found[1].T) if return_std else (found, std)
        filled = np.where(np.isnan(filled), found.T, filled)
    return (filled, np.ascontiguousarray(std)) if return_std else filled


def factor_scores(fit: Any, Y: Any, level: int | None, method: str, *, covariance: bool = False,
                  axes: Sequence[FloatArray] | None = None) -> Any:
    """See `FactorModelResult.scores`; `axes`, (p_l, r_l, r_l) a level, turn the factors."""
    A = fit.covariance
    levels = range(A.hierarchy.n_levels) if level is None else (A.hierarchy._level(level),)
    covariances: list[Any] = []  # of the blocks of the data, level by level

    def of_block(block: Any, first: int) -> Any:
        means, factors = _scores_of_block(fit, block, first, levels, method, covariance, axes)
        if covariance:
            covariances.append([(len(block), factors.covariance(at)) for at in levels])
        return means

    found: list[Any] = [by_blocks(of_block, Y)]
    if covariance:
        found.append(tuple(map(_of_all_rows, zip(*covariances, strict=True))))
    if level is not None:
        found = [one for (one,) in found]
    return tuple(found) if covariance else found[0]


def _of_all_rows(blocks):
    """Of blocks (rows, covariance): the one of all rows, or one a row where some block has that."""
    if len(blocks) == 1 or all(x.ndim == 3 for _, x in blocks):
        return blocks[0][1]
    return np.concatenate([np.broadcast_to(x, (count, *x.shape[-3:])) for count, x in blocks])


def _scores_of_block(fit: Any, Y: Any, first: int, levels: Sequence[int], method: str,
                     covariance: bool, axes: Sequence[FloatArray] | None) -> tuple[Any, Any]:
    """Scores at each of the levels, and the factors that they are of."""
    A, centred = fit.covariance, (fit._samples(Y, missing=True).values - fit.mean).T
    factors: Any
    if method not in ("posterior", "bartlett") or not np.isnan(centred).any():
        factors = A.scores(centred, method)  # refuses other methods
    else:
        samples = IncompleteSamples(A.hierarchy, centred.astype(A.dtype))
        factors = filling.FactorsOfSome(A, samples, levels, covariance)
        if method == "posterior":
            filling.posterior(A, samples, factors)
        else:
            labels = labels_of(Y) if is_frame(Y) else None
            filling.least_squares(A, samples, factors, lambda rows: list(
                map(str, rows + first if labels is None else (labels[t] for t in rows))))

    def means(at: int) -> Any:
        z = np.moveaxis(factors.mean(at), 2, 0)
        if axes is not None:
            z = np.einsum("tgr,grs->tgs", z, axes[at])
        if not is_frame(Y):
            return z
        columns = factor_columns(A.hierarchy, at, A.ranks[at])
        return like_rows(Y, z.reshape(len(z), len(columns)), columns)

    return tuple(map(means, levels)), factors


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

    observed: IntArray
    missing: IntArray
    observed_names: tuple[str, ...] | None
    missing_names: tuple[str, ...] | None
    mean_map: StructuredOperator

    def __init__(self, covariance: MLR, mean: FloatArray, observed: IntArray, missing: IntArray,
                 names: Sequence[str] | None = None):
        self.observed, self.missing, self._mean = observed, missing, np.asarray(mean)
        self.observed_names, self.missing_names = (
            None if names is None else tuple(names[i] for i in part)
            for part in (observed, missing))
        self.mean_map = filling.ConditionalMap(covariance, observed, missing)

    @cached_property
    def covariance(self) -> MLR:
        """Covariance of the missing features given the observed ones (`MLR`)."""
        return self.mean_map.covariance

    def mean(self, y: Data | Labels) -> Any:
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

    def __repr__(self) -> str:
        return (f"<{counted(self.missing.size, 'feature')} given {self.observed.size}:"
                f" {self.covariance!r}>")


def condition(covariance: MLR, mean: FloatArray, observed: Labels | Real,
              names: Sequence[str] | None = None) -> Conditional:
    """The `Conditional` that `observed` leaves; see `FactorModelResult.condition`."""
    n = covariance.shape[0]
    chosen = _chosen(observed, names)
    if chosen.dtype.kind == "b":
        if chosen.shape != (n,):
            raise ValueError(f"observed must be a mask of shape ({n},), got {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    elif chosen.dtype.kind in "UO" and chosen.size:
        chosen = _numbers(chosen, names)
    missing = np.ones(n, bool)
    if chosen.size:
        chosen = as_features(chosen, n, "observed")
        missing[chosen] = False
    if not 0 < chosen.size < n:
        raise ValueError(f"observed must leave out at least one feature and hold one, got"
                         f" {chosen.size} of {n}")
    return Conditional(covariance, mean, chosen, np.flatnonzero(missing), names)


def _chosen(observed: Any, names: Sequence[str] | None) -> np.ndarray[Any, Any]:
    """Masks, numbers or names as an array; masks with labels in the order of the features."""
    if is_frame(observed):
        raise TypeError("observed must be a mask, numbers or names of features, got a table")
    is_dict, labels = isinstance(observed, Mapping), labels_of(observed)
    values = np.asarray(list(observed.values()) if is_dict else observed)
    if values.dtype.kind == "O" and values.size and all(
            isinstance(x, (bool, np.bool_)) for x in values.ravel()):
        values = values.astype(bool)
    if labels is not None and values.dtype.kind == "b":
        order = match(labels, names, "observed", "feature")
        return values if order is None else values[order]
    if is_dict:
        raise TypeError("observed must tell of each feature whether it is given: a dict must hold"
                        f" True and False, got {values.ravel()[:3].tolist()}")
    return values


def _numbers(wanted: Iterable[str], names: Sequence[str] | None) -> np.ndarray[Any, Any]:
    """The features of these names."""
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
