"""A matrix whose rows and columns have names, put in the order in which they are wanted."""

from typing import Any

import numpy as np

from .._common.frames import column_names, frame_values, is_foreign, is_frame
from .._common.labels import match
from .._common.validate import in_memory
from .mlr import MLR

__all__ = ["read_square"]


def read_square(x: Any, labels: Any, what: str, axis: str) -> Any:
    """A matrix of which rows and columns belong to one thing each, in the order of `labels`.

    The rows of a frame without an index are those of its columns.  An `MLR` has the names that its
    hierarchy has; other operators have none.
    """
    if isinstance(x, MLR):
        own = x.hierarchy.feature_names
        order = None if own is None or labels is None else match(
            own, tuple(map(str, labels)), what, axis)
        return x if order is None else x.restrict(np.array(order))
    if not is_frame(x):
        return x
    in_memory(x, what)
    order = match(column_names(x) if is_foreign(x) else x.columns, labels,
                  f"{what} (its columns)", axis)
    rows = order if is_foreign(x) else match(x.index, labels, f"{what} (its index)", axis)
    values = frame_values(x, what)
    values = values if order is None else values[:, order]
    return values if rows is None else values[rows]
