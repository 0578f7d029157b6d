"""Radial functions by name, and the distances they are of."""

from collections.abc import Callable

import numpy as np

from .typing import FloatArray

__all__ = ["KERNELS", "radial", "squared_distances"]

# Of the distance in units of the length scale.
KERNELS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "gaussian": lambda r: np.exp(-(r**2) / 2),
    "exponential": lambda r: np.exp(-r),
    "matern32": lambda r: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
    "multiquadric": lambda r: np.sqrt(1 + r**2),
    "inverse_multiquadric": lambda r: 1 / np.sqrt(1 + r**2),
    "thin_plate": lambda r: np.where(r > 0, r**2 * np.log(np.where(r > 0, r, 1)), 0),
}


def radial(kernel: str, scale: float, x: FloatArray, y: FloatArray) -> FloatArray:
    """The block ``f(‖x_i - y_j‖ / scale)`` of two sets of points, (m, d) and (n, d)."""
    return KERNELS[kernel](np.sqrt(squared_distances(x, y)) / scale)


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """``‖x_i - y_j‖²`` by differences, so that close points lose no digits."""
    total = np.zeros((len(x), len(y)), np.result_type(x, y))
    for a, b in zip(x.T, y.T, strict=True):
        difference = np.subtract.outer(a, b)
        total += difference * difference
    return total
