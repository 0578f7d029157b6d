"""``python -m mlrops bench``: this package against floors and peers, on the user's machine."""

from .command import bench

__all__ = ["bench"]
