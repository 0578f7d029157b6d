"""Statistical models, written only in terms of the package's operators."""

from .factor_model import (
    ConvergenceWarning,
    FactorModelIterate,
    FactorModelResult,
    fit_factor_model,
)

__all__ = ["ConvergenceWarning", "FactorModelIterate", "FactorModelResult", "fit_factor_model"]
