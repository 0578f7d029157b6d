"""Tables with named columns, of pandas and of other libraries, as arrays with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .labels import check_distinct, labels_of, match
from .optional import import_narwhals
from .typing import FloatArray
from .validate import all_finite, as_real, in_memory, working_dtype
from .wording import agree, counted, name_some

__all__ = ["Table", "column_names", "frame_values", "is_foreign", "is_frame", "is_series",
           "read_columns", "read_table"]


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers with the labels that they came with."""

    values: Any  # (N,) or (N, n), float32 or float64; NaN where a cell is missing
    columns: tuple[str, ...] | None = None  # of a series its name, if it has one
    index: Any = None  # pandas.Index, the labels of the rows

    def in_order(self, labels: Any, what: str, axis: str = "row", *, extra: bool = False
                 ) -> "Table":
        """The same with its rows, where they have labels, in the order of the data's `labels`."""
        order = None if self.index is None else match(self.index, labels, what, axis, extra=extra)
        return self if order is None else replace(self, values=self.values[order], index=labels)

    def choose(self, names: Sequence[str] | None, what: str, axis: str, *, extra: bool = False
               ) -> "Table":
        """The same with its columns, where they have names, in the order of the data's `names`.

        Columns that a library has numbered count as columns without names, unless the data's are
        numbers too.
        """
        if self.columns is None:
            return self
        numbers = [str(i) for i in range(len(self.columns))]
        if list(self.columns) == numbers and set(names or ()).isdisjoint(numbers):
            return replace(self, columns=None)
        order = match(self.columns, names, what, axis, extra=extra)
        return self if order is None else replace(
            self, values=self.values[:, order], columns=tuple(names or ()))

    def check_finite(self, what: str, axis: str, names: Sequence[str] | None) -> None:
        """Refuse NaN and infinity, by column and row."""
        if all_finite(self.values):
            return
        bad = ~np.isfinite(self.values)
        columns, rows = (np.flatnonzero(bad.any(axis=along)).tolist() for along in (0, 1))
        columns = columns if names is None else [names[i] for i in columns]
        rows = rows if self.index is None else [self.index[t] for t in rows]
        raise ValueError(
            f"{what} must be finite, got NaN or infinity in {bad.sum()} of"
            f" {counted(bad.size, 'entry')} ({agree(len(columns), axis, axis + 's')}"
            f" {name_some(columns)}; {agree(len(rows), 'row', 'rows')} {name_some(rows)});"
            " SUR takes missing cells")

    def check_not_infinite(self, what: str, axis: str = "column") -> None:
        """Refuse infinite numbers, naming the first by row and column."""
        if not all_finite(self.values) and (bad := np.isinf(self.values)).any():
            t, i = np.argwhere(bad)[0]
            raise ValueError(
                f"{what} must not be infinite, got {self.values[t, i]} in row"
                f" {t if self.index is None else self.index[t]} of {axis}"
                f" {i if self.columns is None else self.columns[i]}"
                f" ({bad.sum()} of {counted(self.values.size, 'entry')})")


def read_table(x: Any, what: str, ndim: int | tuple[int, ...] | None = None) -> Table:
    """`x` as a `Table`: an array, or a frame or series of pandas, polars, pyarrow and others.

    Masked cells, None and NA are NaN.  Columns that are no numbers are named.  Where there may be
    several columns, a dict holds them by name.
    """
    if isinstance(x, Mapping) and ndim in (2, (1, 2)):
        return _from_dict(x, what)
    if not (is_frame(x) or is_series(x)):
        return Table(as_real(x, what, ndim=ndim))
    in_memory(x, what)
    if is_series(x):
        own = () if x.name in (None, "") else (str(x.name),)
        values = as_real(_column(x, what), what, ndim=ndim)
        return Table(values, own or None, labels_of(x))
    values = as_real(frame_values(x, what), what, ndim=ndim)
    return Table(values, column_names(x), labels_of(x))


def read_columns(x: Any, what: str) -> Table:
    """`x` as a `Table` of one column or several, (N, n); columns of one name are refused."""
    table = read_table(x, what, ndim=(1, 2))
    if table.values.ndim == 1:
        return replace(table, values=table.values[:, None])
    if table.columns is not None:
        check_distinct(table.columns, f"columns of {what}")
    return table


def _from_dict(columns, what):
    """The `Table` of a dict of columns, whose rows are those of the first that has labels."""
    if not columns:
        raise ValueError(f"{what} must have at least one column, got an empty dict")
    names = tuple(map(str, columns))
    check_distinct(names, f"columns of {what}")
    read = {f"{what}, column {name}": x for name, x in zip(names, columns.values(), strict=True)}
    read = {label: read_table(x, label, ndim=1) for label, x in read.items()}
    (first, N), *_ = ((label, len(table.values)) for label, table in read.items())
    for label, table in read.items():
        if len(table.values) != N:
            raise ValueError(f"{label} has {counted(len(table.values), 'row')}, {first} has {N}:"
                             " columns need the same rows")
    index = next((table.index for table in read.values() if table.index is not None), None)
    return Table(np.stack([table.in_order(index, label).values for label, table in read.items()],
                          axis=1), names, index)


def is_frame(x: Any) -> bool:
    """Whether `x` is a table with named columns."""
    if is_foreign(x):
        return not hasattr(x, "name")
    return hasattr(x, "iloc") and hasattr(x, "columns")


def is_series(x: Any) -> bool:
    """Whether `x` is one column of a table."""
    return (is_foreign(x) or hasattr(x, "iloc")) and hasattr(x, "name")


def is_foreign(x: Any) -> bool:
    """Whether `x` is a table, or a named column of one, of another library than pandas."""
    return (any(hasattr(x, verb) for verb in ("__dataframe__", "__arrow_c_stream__", "to_arrow"))
            and not hasattr(x, "iloc") and (hasattr(x, "columns") or hasattr(x, "name")))


def _eager(x):
    """A frame of another library as one with ``columns`` and columns by name."""
    return import_narwhals().from_native(x, eager_only=True) if is_foreign(x) else x


def column_names(x: Any) -> tuple[str, ...] | None:
    """Names of the columns of a frame, None for what is no frame."""
    return tuple(map(str, _eager(x).columns)) if is_frame(x) else None


def frame_values(frame: Any, what: str) -> FloatArray:
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
    columns: list[FloatArray] = []
    bad: list[tuple[str, str, str]] = []
    for j, name in enumerate(names):  # names may repeat
        column = frame.iloc[:, j] if hasattr(frame, "iloc") else frame[name]
        try:
            columns.append(_column(column, "a column"))
        except TypeError as error:
            bad.append((name, f"got dtype {column.dtype}", f"of {name}: {error}"))
    if bad:
        _, got, reason = bad[0]
        raise TypeError(f"{what} must be numeric, {got} in {counted(len(bad), 'column')}"
                        f" ({name_some(name for name, *_ in bad)}); {reason}")
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
