"""Models and data with named columns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .labels import check_distinct, labels_of, match
from .optional import import_narwhals
from .validate import as_real, in_memory, working_dtype
from .wording import counted, name_some

__all__ = ["Table", "column_names", "frame_values", "is_foreign", "is_frame", "is_series",
           "read_columns", "read_table"]


class Table(NamedTuple):
    """Numbers with the labels that they came with."""

    values: np.ndarray  # (N,) or (N, n), float32 or float64; NaN where a cell is missing
    columns: tuple | None = None  # n str; of a series its name, if it has one
    index: object = None  # pandas.Index

    def in_order(self, labels, what, axis="row", *, extra=False):
        """The same with its rows, where they have labels, in the order of the data's `labels`."""
        order = None if self.index is None else match(self.index, labels, what, axis, extra=extra)
        return self if order is None else self._replace(values=self.values[order], index=labels)

    def choose(self, names, what, axis, *, extra=False):
        """The same with its columns, where they have names, in the order of the data's `names`.

        Columns that a library has numbered count as columns without names, unless the data's are
        numbers too.
        """
        if self.columns is None:
            return self
        numbers = [str(i) for i in range(len(self.columns))]
        if list(self.columns) == numbers and set(names or ()).isdisjoint(numbers):
            return self._replace(columns=None)
        order = match(self.columns, names, what, axis, extra=extra)
        return self if order is None else self._replace(values=self.values[:, order],
                                                        columns=names)


def read_table(x, what, ndim=None):
    """`x` as a `Table`: an array, or a frame or series of pandas, polars, pyarrow and others.

    Masked cells, None and NA are NaN.  Columns that are no numbers are named.
    """
    if not (is_frame(x) or is_series(x)):
        return Table(as_real(x, what, ndim=ndim))
    in_memory(x, what)
    if is_series(x):
        columns = None if x.name in (None, "") else (str(x.name),)
        values = _column(x, what)
    else:
        columns = column_names(x)
        values = frame_values(x, what)
    return Table(as_real(values, what, ndim=ndim), columns, labels_of(x))


def read_columns(x, what):
    """`x` as a `Table` of one column or several, (N, n).

    A dict holds columns by name.  Columns of two names are refused.
    """
    if isinstance(x, Mapping):
        return _from_dict(x, what)
    table = read_table(x, what, ndim=(1, 2))
    if table.values.ndim == 1:
        return table._replace(values=table.values[:, None])
    if table.columns is not None:
        check_distinct(table.columns, f"columns of {what}")
    return table


def _from_dict(columns, what):
    """The `Table` of a dict of columns, whose rows are those of the first that has labels."""
    if not columns:
        raise ValueError(f"{what} must have at least one column, got an empty dict")
    names = tuple(map(str, columns))
    check_distinct(names, f"columns of {what}")
    named = [f"{what}, column {name}" for name in names]
    read = [read_table(x, label, ndim=1)
            for x, label in zip(columns.values(), named, strict=True)]
    index = next((table.index for table in read if table.index is not None), None)
    N = len(read[0].values)
    for table, label in zip(read, named, strict=True):
        if len(table.values) != N:
            raise ValueError(f"{label} has {counted(len(table.values), 'row')}, {named[0]} has {N}:"
                             " columns need the same rows")
    read = [table.in_order(index, label).values for table, label in zip(read, named, strict=True)]
    return Table(np.stack(read, axis=1), names, index)


def is_frame(x):
    """Whether `x` is a table with named columns."""
    if is_foreign(x):
        return not hasattr(x, "name")
    return hasattr(x, "iloc") and hasattr(x, "columns")


def is_series(x):
    """Whether `x` is one column of a table."""
    if is_foreign(x):
        return hasattr(x, "name")
    return hasattr(x, "iloc") and hasattr(x, "name")


def is_foreign(x):
    """Whether `x` is a table, or a named column of one, of another library than pandas."""
    return (any(hasattr(x, verb) for verb in ("__dataframe__", "__arrow_c_stream__", "to_arrow"))
            and not hasattr(x, "iloc") and (hasattr(x, "columns") or hasattr(x, "name")))


def _eager(x):
    """A frame of another library as one with ``columns`` and columns by name."""
    if not is_foreign(x):
        return x
    return import_narwhals().from_native(x, eager_only=True)


def column_names(x):
    """Names of the columns of a frame as a tuple of str, None for what is no frame."""
    return tuple(map(str, _eager(x).columns)) if is_frame(x) else None


def frame_values(frame, what):
    """A frame's numbers (N, n) as float32 or float64; columns that are no numbers are named."""
    in_memory(frame, what)
    frame = _eager(frame)
    names = list(frame.columns)
    if not names:
        return np.empty((len(frame), 0))
    kinds = [getattr(kind, "kind", "O") for kind in getattr(frame, "dtypes", ())]
    if kinds and all(kind in "fiub" for kind in kinds):
        # What a nullable column lacks becomes NaN.
        dtype = np.result_type(*map(_computing, frame.dtypes))
        return frame.to_numpy(dtype, na_value=np.nan)
    columns, bad = [], []
    for j in range(len(names)):  # names may repeat
        column = frame.iloc[:, j] if hasattr(frame, "iloc") else frame[names[j]]
        try:
            columns.append(_column(column, "a column"))
        except TypeError as error:
            bad.append((names[j], column.dtype, error))
    if bad:
        name, dtype, error = bad[0]
        raise TypeError(
            f"{what} must be numeric, got dtype {dtype} in {counted(len(bad), 'column')}"
            f" ({name_some(name for name, *_ in bad)}); of {name}: {error}")
    return np.stack(columns, axis=1)


def _column(column, what):
    """The numbers of one column of any library, (N,), NaN where it lacks one."""
    kind = getattr(column, "dtype", None)
    if getattr(kind, "kind", "O") in "fiub" and hasattr(column, "iloc"):
        return column.to_numpy(_computing(kind), na_value=np.nan)
    return as_real(column.to_numpy(), what)


def _computing(kind):
    """The dtype to compute in for a column, whose own may be nullable or sparse."""
    return working_dtype(getattr(kind, "numpy_dtype", getattr(kind, "subtype", kind)))
