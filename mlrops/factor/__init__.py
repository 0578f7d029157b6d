"""Factor models, single-level or on a tree, written only in terms of the package's operators."""

from .._common.deprecated import moved_names
from .criteria import degrees_of_freedom
from .factor_model import fit_factor_model
from .prior_search import PriorRecord
from .result import FactorModelResult
from .rotation import RotatedLoadings
from .selection import RankRecord, RankSelection, select_ranks

__all__ = ["FactorModelResult", "PriorRecord", "RankRecord", "RankSelection", "RotatedLoadings",
           "degrees_of_freedom", "fit_factor_model", "select_ranks"]
__getattr__ = moved_names(__name__, {"FactorModelIterate": "mlrops:Iterate"})
