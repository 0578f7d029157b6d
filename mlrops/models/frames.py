"""Models and data with named columns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .._labels import check_distinct, labels_of, match
from .._optional import import_narwhals, import_pandas
from .._wording import counted, name_some
from ..operators import MLR
from ..operators._validate import as_real, in_memory, working_dtype

__all__ = ["Table", "column_names", "frame_values", "is_frame", "is_series", "loadings_frame",
           "read_columns", "read_square", "read_table"]


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


def read_square(x, labels, what, axis):
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
    order = match(column_names(x) if _is_foreign(x) else x.columns, labels,
                  f"{what} (its columns)", axis)
    rows = order if _is_foreign(x) else match(x.index, labels, f"{what} (its index)", axis)
    values = frame_values(x, what)
    values = values if order is None else values[:, order]
    return values if rows is None else values[rows]


def is_frame(x):
    """Whether `x` is a table with named columns."""
    if _is_foreign(x):
        return not hasattr(x, "name")
    return hasattr(x, "iloc") and hasattr(x, "columns")


def is_series(x):
    """Whether `x` is one column of a table."""
    if _is_foreign(x):
        return hasattr(x, "name")
    return hasattr(x, "iloc") and hasattr(x, "name")


def _is_foreign(x):
    """Whether `x` is a table, or a named column of one, of another library than pandas."""
    return (any(hasattr(x, verb) for verb in ("__dataframe__", "__arrow_c_stream__", "to_arrow"))
            and not hasattr(x, "iloc") and (hasattr(x, "columns") or hasattr(x, "name")))


def _eager(x):
    """A frame of another library as one with ``columns`` and columns by name."""
    if not _is_foreign(x):
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


def loadings_frame(fit, loadings):
    """Loadings, one array (n, r_l) a level, with variance and communality, as a DataFrame."""
    pd = import_pandas()

    columns = [(f"level {level}", f"factor {k}")
               for level, F in enumerate(loadings) for k in range(F.shape[1])]
    data = np.column_stack([*loadings, fit.covariance.D, fit.communalities])
    return pd.DataFrame(
        data, index=None if fit.feature_names is None else pd.Index(fit.feature_names),
        columns=pd.MultiIndex.from_tuples([*columns, ("D", ""), ("communality", "")]))
