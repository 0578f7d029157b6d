"""Pictures of trees, matrices, covariances and fits.

This needs matplotlib (``pip install mlrops[plot]``).  Every function draws on the axes given, or
on those of a new figure, and returns them; none shows a figure or changes a style.

======================  ================================================================
`plot_hierarchy`        groups of a tree of features: icicle, or nested blocks
`plot_levels`           entries of each level of an MLR matrix, side by side
`plot_matrix`           magnitudes of the entries of a matrix in tree order
`plot_sparsity`         nonzeros of F, U, the expanded matrix, its Cholesky factor (spy)
`plot_correlation`      correlations in tree order, groups named
`plot_variance_shares`  share of the variance that each level explains
`plot_loglik`           log-likelihood traces of fits, or their distance to the best
`plot_rank_allocation`  the ranks of each step of a search, and the errors
`plot_coefficients`     coefficients of regressions with intervals
======================  ================================================================
"""

from .coefficients import plot_coefficients
from .covariances import plot_correlation, plot_variance_shares
from .hierarchies import plot_hierarchy
from .matrices import plot_levels, plot_matrix
from .sparsity import plot_sparsity
from .traces import plot_loglik, plot_rank_allocation

__all__ = ["plot_coefficients", "plot_correlation", "plot_hierarchy", "plot_levels", "plot_loglik",
           "plot_matrix", "plot_rank_allocation", "plot_sparsity", "plot_variance_shares"]
