"""Statistical models, written only in terms of the package's operators."""

from .factor_model import (
    ConvergenceWarning,
    FactorModelIterate,
    fit_factor_model,
)
from .result import FactorModelResult

__all__ = ["ConvergenceWarning", "FactorModelIterate", "FactorModelResult", "fit_factor_model"]
