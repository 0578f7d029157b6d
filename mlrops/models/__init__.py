"""Statistical models, written only in terms of the package's operators."""

from ..operators.convergence import ConvergenceWarning
from .criteria import degrees_of_freedom
from .factor_model import FactorModelIterate, fit_factor_model
from .gls import gls
from .gls_result import GLSResult
from .result import FactorModelResult
from .rotation import RotatedLoadings
from .selection import RankRecord, RankSelection, select_ranks
from .sur.als_gls import SURIterate, als_gls
from .sur.bootstrap import Bootstrap
from .sur.em_gls import em_gls
from .sur.hypotheses import HypothesisTest
from .sur.model import SUR
from .sur.prediction import SystemPrediction
from .sur.result import SURResult
from .sur.selection import select_sur_ranks
from .sur.small_sample import corrected_covariance, effective_weights, residual_df

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
