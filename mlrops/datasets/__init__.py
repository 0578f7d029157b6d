"""Small real data that ships with the package, and seeded simulators.

Importing this package reads no file; each ``load_*`` call reads its own.
"""

from .french import load_french
from .grunfeld import load_grunfeld
from .simulate import simulate_factor_model, simulate_mlr
from .simulate_regression import simulate_gls, simulate_sur

__all__ = [
    "load_french",
    "load_grunfeld",
    "simulate_factor_model",
    "simulate_gls",
    "simulate_mlr",
    "simulate_sur",
]
