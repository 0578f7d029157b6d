"""Where models lived in version 0.1; they are in `mlrops.factor` and `mlrops.regression` now."""

from ._common.deprecated import moved_names

_FACTOR = ("FactorModelResult", "RankRecord", "RankSelection",
           "RotatedLoadings", "degrees_of_freedom", "fit_factor_model", "select_ranks")
_REGRESSION = ("Bootstrap", "GLSResult", "HypothesisTest", "SUR", "SURResult",
               "SystemPrediction", "als_gls", "corrected_covariance", "effective_weights", "em_gls",
               "gls", "residual_df", "select_sur_ranks")

__getattr__ = moved_names(__name__, {
    "ConvergenceWarning": "mlrops",
    "FactorModelIterate": "mlrops:Iterate", "SURIterate": "mlrops:Iterate",
    **dict.fromkeys(_FACTOR, "mlrops.factor"), **dict.fromkeys(_REGRESSION, "mlrops.regression")})
