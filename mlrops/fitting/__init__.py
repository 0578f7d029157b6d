"""Approximation by multilevel low rank matrices: factors, ranks, and the trees themselves."""

from .._common.deprecated import moved_names
from .feature_partitions import partition_features
from .fit import fit_mlr
from .fit_result import MLRFit, RankAllocation
from .partitions import partition
from .point_partitions import partition_points
from .rank_allocation import allocate_ranks

__all__ = ["MLRFit", "RankAllocation", "allocate_ranks", "fit_mlr", "partition",
           "partition_features", "partition_points"]
__getattr__ = moved_names(__name__, {"MLRIterate": "mlrops:Iterate"})
