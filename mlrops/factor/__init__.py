"""Factor models, single-level or on a tree, written only in terms of the package's operators."""

from .criteria import degrees_of_freedom
from .factor_model import FactorModelIterate, fit_factor_model
from .result import FactorModelResult
from .rotation import RotatedLoadings
from .selection import RankRecord, RankSelection, select_ranks

__all__ = [
    "FactorModelIterate",
    "FactorModelResult",
    "RankRecord",
    "RankSelection",
    "RotatedLoadings",
    "degrees_of_freedom",
    "fit_factor_model",
    "select_ranks",
]
