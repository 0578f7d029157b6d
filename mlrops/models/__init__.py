"""Statistical models, written only in terms of the package's operators."""

from .als_gls import SURIterate, als_gls
from .bootstrap import Bootstrap
from .convergence import ConvergenceWarning
from .criteria import degrees_of_freedom
from .em_gls import em_gls
from .factor_model import FactorModelIterate, fit_factor_model
from .gls import gls
from .gls_result import GLSResult
from .result import FactorModelResult
from .rotation import RotatedLoadings
from .selection import RankRecord, RankSelection, select_ranks
from .small_sample import corrected_covariance, effective_weights, residual_df
from .sur import SUR
from .sur_hypotheses import HypothesisTest
from .sur_prediction import SystemPrediction
from .sur_result import SURResult
from .sur_selection import select_sur_ranks

__all__ = [
    "Bootstrap",
    "ConvergenceWarning",
    "FactorModelIterate",
    "FactorModelResult",
    "GLSResult",
    "HypothesisTest",
    "RankRecord",
    "RankSelection",
    "RotatedLoadings",
    "SUR",
    "SURIterate",
    "SURResult",
    "SystemPrediction",
    "als_gls",
    "corrected_covariance",
    "degrees_of_freedom",
    "effective_weights",
    "em_gls",
    "fit_factor_model",
    "gls",
    "residual_df",
    "select_ranks",
    "select_sur_ranks",
]
