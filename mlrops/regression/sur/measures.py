"""How well a system of regressions fits: shares of variation explained, errors, new data."""

import math
import warnings
from typing import Any

import numpy as np

from ..._common.convergence import ConvergenceWarning
from ..._common.typing import BoolArray, FloatArray
from ..._common.validate import shows_a_cell
from ...factor import conditional
from ...operators.mlr import MLR
from .beta_step import beta_step
from .data import SURData
from .new_data import NewData, linear
from .system_fit import SystemFit

__all__ = ["adjusted_rsquared", "average_loglik", "equation_rsquared", "loglik_samples", "mcelroy",
           "mean_squares", "new_errors", "new_mean_squares", "spans_constant", "sums_of_squares",
           "weighted_errors"]


def row_roots(data: SURData) -> FloatArray:
    """Square roots of the weights, (K, N), zeros at missing cells."""
    root = np.ones(data.Y.shape, data.Y.dtype) if data.weights is None else np.sqrt(data.weights)
    if data.observed is not None:
        root = root * data.observed
    return np.ascontiguousarray(root.T, data.Y.dtype)


def weighted_errors(fit: SystemFit) -> FloatArray:
    """Residuals times the square roots of their weights, (K, N), zeros at missing cells."""
    E = fit.errors if fit.data.observed is None else np.where(fit.data.observed, fit.errors, 0)
    return E.T * row_roots(fit.data)


def spans_constant(fit: SystemFit) -> BoolArray:
    """Whether the regressors of each equation span a constant, (K,) of bool."""
    one = row_roots(fit.data)
    left = one - fit.system.fitted(fit.system.adjoint(one))
    tol = np.finfo(one.dtype).eps ** 0.5
    return np.linalg.norm(left, axis=1) <= tol * np.linalg.norm(one, axis=1)


def sums_of_squares(x: FloatArray) -> FloatArray:
    """Of the rows of x (K, N), (K,), in float64."""
    return np.einsum("kt,kt->k", x, x, dtype=np.float64)


def mean_squares(fit: SystemFit) -> FloatArray:
    """Weighted mean squares of the residuals of each equation, (K,)."""
    return sums_of_squares(weighted_errors(fit)) / fit.data.nobs


def equation_rsquared(fit: SystemFit) -> FloatArray:
    """R² of each equation, (K,); see `SURResult.rsquared`."""
    one, Y = row_roots(fit.data), fit.system.Y
    mean = np.einsum("kt,kt->k", one, Y, dtype=np.float64) / sums_of_squares(one)
    centre = np.where(spans_constant(fit), mean, 0).astype(Y.dtype)
    total = sums_of_squares(Y - centre[:, None] * one)
    # What is left of a Y that does not vary is rounding.
    rounding = (Y.shape[1] * np.finfo(Y.dtype).eps) ** 2 * sums_of_squares(Y)
    varies = total > rounding
    left = sums_of_squares(weighted_errors(fit))
    return 1 - np.divide(left, total, out=np.full(left.size, np.nan), where=varies)


def adjusted_rsquared(fit: SystemFit) -> FloatArray:
    """R² adjusted for regressors, (K,); see `SURResult.rsquared_adj`."""
    n = fit.data.nobs
    return 1 - (1 - equation_rsquared(fit)) * (n - spans_constant(fit)) / (n - fit.data.p)


def mcelroy(fit: SystemFit) -> float:
    """McElroy's R² of the system; see `SURResult.mcelroy_rsquared`."""
    data, E = fit.data, weighted_errors(fit)
    left = np.vdot(E, fit.system.weigh(fit.covariance).solve(E))
    one, nothing = np.ones((data.N, 1), data.Y.dtype), np.empty((data.N, 0), data.Y.dtype)
    means = SURData([one if spans else nothing for spans in spans_constant(fit)], data.Y,
                    data.observed, data.weights).system()
    step = beta_step(means, fit.covariance, means.ols, 0.0)
    if step.is_short:
        warnings.warn("the normal equations of the equations' means are left with a residual of"
                      f" {step.norm:.1e}; McElroy's R² has that error or more",
                      ConvergenceWarning, stacklevel=3)
    return float(1 - left / step.quad) if step.quad > 0 else np.nan


def new_errors(new: NewData, fit: SystemFit) -> FloatArray:
    """Errors of predictions of `NewData`, (M, K) in float64; NaN at missing cells."""
    known = {id(X): X.astype(float, copy=False) for X in new.Xs}
    Y: Any = new.Y
    return Y - linear(fit, [known[id(X)] for X in new.Xs])


def new_mean_squares(fit: SystemFit, new: NewData) -> FloatArray:
    """Mean squared errors of each equation on `NewData`, (K,); NaN where there is no cell."""
    E = new_errors(new, fit)
    there = ~np.isnan(E)
    E = E if new.weights is None else E * np.sqrt(new.weights)
    squares, count = sums_of_squares(np.where(there, E, 0).T), there.sum(axis=0)
    return np.divide(squares, count, out=np.full(count.size, np.nan), where=count > 0)


def loglik_samples(fit: SystemFit, new: NewData) -> FloatArray:
    """Log-likelihood of each row of `NewData`, (M,); see `SURResult.score_samples`."""
    E, covariance, extra = new_errors(new, fit), fit.covariance, 0.0
    covariance = covariance.astype(float) if isinstance(covariance, MLR) else covariance
    if new.weights is not None:
        E, extra = E * np.sqrt(new.weights), 0.5 * np.log(new.weights).sum(axis=1)
    if not np.isnan(E).any():
        quad = np.einsum("kt,kt->t", E.T, covariance.solve(E.T))
        return extra - 0.5 * (fit.n_equations * math.log(2 * math.pi) + covariance.logdet() + quad)
    if not isinstance(covariance, MLR):
        raise ValueError("missing samples need a covariance whose blocks can be inverted one by"
                         f" one: an MLR, got {covariance!r}")
    return extra + conditional.loglik_samples(covariance, np.zeros(fit.n_equations), E)


def average_loglik(fit: SystemFit, data: SURData) -> float:
    """Average log-likelihood a row of rows of a fit's equations, on the cells there are.

    A row without any cell counts nowhere.
    """
    Y = data.Y if data.observed is None else np.where(data.observed, data.Y, np.nan)
    new = NewData(data.Xs, Y, None, data.weights)
    return conditional.average(loglik_samples(fit, new), shows_a_cell(Y))
