"""Pictures of matrices, covariances and fits.  Needs matplotlib (``pip install mlrops[plot]``)."""

from .coefficients import plot_coefficients
from .covariances import plot_correlation, plot_loglik
from .matrices import plot_levels, plot_matrix, plot_rank_allocation

__all__ = ["plot_coefficients", "plot_correlation", "plot_levels", "plot_loglik", "plot_matrix",
           "plot_rank_allocation"]
