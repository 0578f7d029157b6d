"""Approximation by multilevel low rank matrices: factors, ranks, and the trees themselves."""

from .allocate_ranks import allocate_ranks
from .fit_mlr import MLRIterate, fit_mlr
from .fit_result import MLRFit, RankAllocation
from .partition import partition
from .partition_features import partition_features
from .partition_points import partition_points

__all__ = [
    "MLRFit",
    "MLRIterate",
    "RankAllocation",
    "allocate_ranks",
    "fit_mlr",
    "partition",
    "partition_features",
    "partition_points",
]
