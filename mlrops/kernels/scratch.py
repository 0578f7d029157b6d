"""Temporaries that are kept from call to call, one set a thread.

A fresh array of a few megabytes is mapped and zeroed page by page by the operating system, which
costs as much as a pass of arithmetic over it.
"""

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["none", "scratch"]

# Numbers a kept array may hold (8 MB in float64); larger ones are allocated as they are needed.
KEEP_ITEMS = 1_000_000

_kept = threading.local()
_NONE: dict[Any, Any] = {(np.dtype(t), d): np.empty((0,) * d, t)
                         for t in (np.float32, np.float64) for d in (1, 2, 3)}


def none(dtype: npt.DTypeLike, ndim: int = 2) -> Any:
    """An empty array: what stands for no scale, no factor, no Gram matrices or no sums."""
    return _NONE[np.dtype(dtype), ndim]


def scratch(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """An uninitialized array; the next call with the same name in this thread reuses its memory."""
    size = math.prod(shape)
    if size > KEEP_ITEMS:
        return np.empty(shape, dtype)
    key = f"{name} {np.dtype(dtype).char}"
    array = _kept.__dict__.get(key)
    if array is None or array.size < size:
        array = _kept.__dict__[key] = np.empty(size, dtype)
    return array[:size].reshape(shape)
