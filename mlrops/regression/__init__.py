"""Regressions whose errors are correlated: one by `gls`, systems by `SUR` and `als_gls`."""

from .._common.deprecated import moved_names
from .gls_fit import gls
from .gls_result import GLSResult
from .sur.als_gls import als_gls
from .sur.bootstrap import Bootstrap
from .sur.em_gls import em_gls
from .sur.hypotheses import HypothesisTest
from .sur.model import SUR
from .sur.prediction import SystemPrediction
from .sur.result import SURResult
from .sur.selection import select_sur_ranks
from .sur.small_sample import corrected_covariance, effective_weights, residual_df

__all__ = ["Bootstrap", "GLSResult", "HypothesisTest", "SUR", "SURResult", "SystemPrediction",
           "als_gls", "corrected_covariance", "effective_weights", "em_gls", "gls", "residual_df",
           "select_sur_ranks"]
__getattr__ = moved_names(__name__, {"SURIterate": "mlrops:Iterate"})
