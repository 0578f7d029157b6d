"""Samples of a fitted model: read by the names of its features, and handed back with names.

A frame in gives a frame out, with the labels of its rows; an array gives an array.  What takes no
data, such as samples drawn from the model, has the names of the features if the model has.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .frames import column_names, is_frame, is_series, read_table
from .labels import by_label, labels_of, match, names_of_features
from .optional import import_narwhals
from .typing import FloatArray
from .validate import all_finite
from .wording import counted, name_some

__all__ = ["Samples", "data_names", "factor_columns", "like_rows", "named", "read_samples",
           "read_values", "with_names"]


class Samples(NamedTuple):
    """Samples in the order of the model's features."""

    values: FloatArray  # (N, n)
    given: Any  # what they came from
    order: np.ndarray | None  # where each feature stands in it; None where in that order

    def back(self, values: FloatArray) -> Any:
        """Values (N, n) in the order, with the labels, and as the kind of what was given."""
        if self.order is not None:
            there = np.empty_like(self.order)
            there[self.order] = np.arange(there.size)
            values = values[:, there]
        given = self.given
        return like_rows(given, values,
                         given.columns if hasattr(given, "iloc") else column_names(given))


def data_names(Y: Any) -> tuple[str, ...] | None:
    """Names of the features of a frame; None without, or where they are the numbers 0 to n - 1."""
    if not is_frame(Y):
        return None
    return names_of_features(Y.columns) if hasattr(Y, "iloc") else column_names(Y)


def column_order(Y: Any, names: Sequence[str] | None, what: str = "Y") -> list[int] | None:
    """Where each feature stands among the columns of a frame; None where in that order."""
    if not is_frame(Y):
        return None
    labels = list(Y.columns if hasattr(Y, "iloc") else column_names(Y) or ())
    if names_of_features(labels) is None and (
            names is None or set(names).isdisjoint(map(str, labels))):
        return None  # numbers of columns are no names
    if names is None and not set(labels) <= set(range(len(labels))):
        raise ValueError(f"{what} has names of features ({name_some(labels)}), what it comes to has"
                         f" none: give {what} as a plain array, features in the order of that")
    return match(labels, names, what, "feature")


def read_samples(Y: Any, names: Sequence[str] | None, n: int, missing: bool = False,
                 what: str = "Y") -> Samples:
    """Samples (N, n) of a model whose features have these names, or None.

    The columns of a frame stand in any order; those of an array in that of the model.  Cells may be
    missing (NaN, masked, None) where `missing` says so.
    """
    table = read_table(Y, what, ndim=2)
    found, values = column_order(Y, names, what), table.values
    order = None if found is None else np.array(found)
    if order is not None:
        values = values[:, order]
    if values.shape[1] != n:
        raise ValueError(
            f"{what} must have {counted(n, 'feature')} (columns), got shape {values.shape}")
    if not all_finite(values):
        bad = np.isinf(values) if missing else ~np.isfinite(values)
        if bad.any():
            columns = np.flatnonzero(bad.any(axis=0))
            raise ValueError(
                f"{what} must {'not hold' if missing else 'be finite, got NaN or'} infinity"
                f"{', got some' if missing else ''} in {counted(bad.sum(), 'cell')} (feature"
                f" {named(columns, names)})")
    return Samples(values, Y, order)


def read_values(x: Any, names: Sequence[str] | None, what: str, axis: str = "feature"
                ) -> FloatArray:
    """A vector with one number a feature, matched by name where it has labels."""
    if labels_of(x) is not None and not is_frame(x):
        x = by_label(x, names, what, axis)
    return read_table(x, what).values


def named(columns: Iterable[int], names: Sequence[str] | None) -> str:
    """Spell out columns, by their names where they have some."""
    return name_some(columns if names is None else [names[j] for j in columns])


# ---------------------------------------------------------------- names out


def like_rows(given: Any, values: np.ndarray, columns: Any = None) -> Any:
    """Results a row, (N, k) with `columns` or (N,), as the kind of frame that was given.

    Columns are names, or pairs of them where they have two levels; those of vectors are one name.
    """
    if not (is_frame(given) or is_series(given)):
        return values
    vector = values.ndim == 1
    if hasattr(given, "iloc"):
        import pandas as pd

        if vector:
            return pd.Series(values, index=given.index, name=columns)
        if not isinstance(columns, pd.Index) and all(isinstance(x, tuple) for x in columns):
            columns = pd.MultiIndex.from_tuples(list(columns), names=["group", "factor"])
        return pd.DataFrame(values, index=given.index, columns=columns)
    frames = import_narwhals()
    space = frames.get_native_namespace(frames.from_native(given, allow_series=True))
    table = getattr(space, "table", None) or space.DataFrame
    if vector:
        return table({columns: np.ascontiguousarray(values)})[columns]
    columns = [name if isinstance(name, str) else " ".join(name) for name in columns]
    return table({name: np.ascontiguousarray(x)
                  for name, x in zip(columns, values.T, strict=True)})


def with_names(values: np.ndarray, names: Sequence[str] | None, columns: Any = None) -> Any:
    """(n,) or (n, k) as a Series or DataFrame of pandas, if there are names and pandas is there."""
    if names is None:
        return values
    try:
        import pandas as pd
    except ImportError:
        return values
    if values.ndim == 1:
        return pd.Series(values, index=pd.Index(names))
    return pd.DataFrame(values, index=pd.Index(names), columns=columns)


def factor_columns(hierarchy: Any, level: int, rank: int) -> list[tuple[str, str]]:
    """Pairs (group, factor) that name the scores of a level."""
    count, names = hierarchy.group_counts[level], hierarchy.names(level)
    if names is None or len(set(map(str, names))) < count:
        names = ["all"] if count == 1 else [f"group {g}" for g in range(count)]
    return [(str(group), f"factor {k}") for group in names for k in range(rank)]
