"""Small real data that ships with the package, seeded simulators, and test matrices.

Importing this package reads no file; each ``load_*`` call reads its own.
"""

from .french import load_french
from .grunfeld import load_grunfeld
from .matrices import (
    dct_matrix,
    gauss_transform,
    graph_distances,
    hierarchical_matrix,
    hilbert_matrix,
    sphere_kernel,
    toeplitz_matrix,
)
from .simulate import simulate_factor_model, simulate_mlr
from .simulate_regression import simulate_gls, simulate_sur

__all__ = ["dct_matrix", "gauss_transform", "graph_distances", "hierarchical_matrix",
           "hilbert_matrix", "load_french", "load_grunfeld", "simulate_factor_model",
           "simulate_gls", "simulate_mlr", "simulate_sur", "sphere_kernel", "toeplitz_matrix"]
