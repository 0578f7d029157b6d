"""A fitted normal distribution against a known one."""

import math
from typing import Any

from .._common.labelled import read_values
from .._common.typing import FloatArray, Labels
from .._common.validate import as_finite
from ..operators import Dense, as_operator
from ..operators.mlr import MLR
from ..operators.named import read_square

__all__ = ["expected_loglik", "kl_divergence"]


def expected_loglik(covariance: MLR, mean: FloatArray, true_covariance: Any,
                    true_mean: Labels | None, names: tuple[str, ...] | None = None) -> float:
    """See `FactorModelResult.expected_loglik`."""
    truth = _operator(true_covariance, covariance, names)
    return -0.5 * (mean.size * math.log(2 * math.pi)
                   + _cross_entropy(covariance, mean, truth, true_mean, names))


def kl_divergence(covariance: MLR, mean: FloatArray, true_covariance: Any,
                  true_mean: Labels | None, names: tuple[str, ...] | None = None) -> float:
    """See `FactorModelResult.kl_divergence`."""
    truth = _operator(true_covariance, covariance, names)
    logdet = (truth.astype(float) if isinstance(truth, MLR) else truth).logdet()
    return 0.5 * (_cross_entropy(covariance, mean, truth, true_mean, names) - logdet - mean.size)


def _operator(true_covariance, covariance, names):
    truth = as_operator(read_square(true_covariance, names, "true_covariance", "feature"))
    if truth.shape != covariance.shape:
        raise ValueError(f"true_covariance must have shape {covariance.shape}, got {truth.shape}")
    if isinstance(truth, Dense) and not truth.symmetric:
        raise ValueError(
            "true_covariance must be symmetric; pass (A + A.T) / 2 if that is rounding")
    return truth


def _cross_entropy(covariance, mean, truth, true_mean, names):
    """``log det Σ + tr(Σ⁻¹ Σ*) + (μ - μ*)ᵀ Σ⁻¹ (μ - μ*)``."""
    fitted, shift = covariance.astype(float), 0.0
    if true_mean is not None:
        true_mean = as_finite(read_values(true_mean, names, "true_mean"), "true_mean",
                              dtype=float, ndim=1)
        if true_mean.shape != mean.shape:
            raise ValueError(f"true_mean must have shape {mean.shape}, got {true_mean.shape}")
        shift = fitted.inv_quad(mean - true_mean)
    return shift + fitted.logdet() + fitted.inv().trace_with(truth)
