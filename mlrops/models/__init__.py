"""Statistical models, written only in terms of the package's operators."""

from .als_gls import als_gls
from .convergence import ConvergenceWarning
from .criteria import degrees_of_freedom
from .em_gls import em_gls
from .factor_model import FactorModelIterate, fit_factor_model
from .gls import gls
from .gls_result import GLSResult
from .result import FactorModelResult
from .rotation import RotatedLoadings
from .selection import RankRecord, RankSelection, select_ranks
from .sur_result import SURResult

__all__ = [
    "ConvergenceWarning",
    "FactorModelIterate",
    "FactorModelResult",
    "GLSResult",
    "RankRecord",
    "RankSelection",
    "RotatedLoadings",
    "SURResult",
    "als_gls",
    "degrees_of_freedom",
    "em_gls",
    "fit_factor_model",
    "gls",
    "select_ranks",
]
