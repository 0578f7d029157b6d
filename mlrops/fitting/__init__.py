"""Approximation by multilevel low rank matrices: factors for given ranks, and the ranks."""

from .allocate_ranks import allocate_ranks
from .fit_mlr import MLRIterate, fit_mlr
from .fit_result import MLRFit, RankAllocation

__all__ = ["MLRFit", "MLRIterate", "RankAllocation", "allocate_ranks", "fit_mlr"]
