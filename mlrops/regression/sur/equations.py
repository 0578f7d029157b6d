"""The equations that `SUR` is given, read into one table with the cells each equation lacks."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..._common.frames import Table, read_columns
from ..._common.optional import import_pandas
from ..._common.wording import agree, counted, name_some
from .data import Shared, SURData, SystemNames, check_names, default_names

__all__ = ["MISSING", "PARTS", "Equation", "common_rows", "put_in_rows", "read_part",
           "read_system", "split_equation", "with_labels"]

MISSING = "cells", "drop", "raise"
PARTS = "dependent", "exog", "weights"  # of an equation


class Equation(NamedTuple):
    """What an equation is given, columns and rows as they came."""

    name: str
    y: Table | None
    X: Table
    weights: Table | None = None

    @property
    def parts(self) -> list[tuple[str, Table]]:
        """Those that there are, with what they are called."""
        return [(what, table) for what, table in zip(PARTS, self[1:], strict=True)
                if table is not None]


def read_system(equations: Mapping[Any, Any], missing: str = "cells") -> tuple[SURData, list[Any]]:
    """`SURData` of the equations that `SUR` takes, and the labels of the rows that were left out.

    Rows without labels go by their numbers.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(map(repr, MISSING))}, got {missing!r}")
    read = _read_equations(equations)
    rows = common_rows(read)
    N = len(read[0].y.values) if rows is None else len(rows)
    placed = put_in_rows(read, rows, N)
    lacks = Shared(lambda values: np.isnan(values).any(axis=1))
    lacking = np.stack([np.any([lacks(x) for x in parts if x is not None], axis=0)
                        for parts in placed], axis=1)
    if missing == "raise" and lacking.any():
        raise ValueError(_first_missing(read, placed, lacking, rows))
    kept = ~(lacking.any(axis=1) if missing == "drop" else lacking.all(axis=1))
    label = np.arange(N) if rows is None else rows
    dropped = label[~kept].tolist()
    if missing == "drop" and dropped:
        incomplete = np.flatnonzero(lacking.any(axis=0))
        warnings.warn(
            f"{len(dropped)} of {counted(N, 'row')} {agree(len(dropped), 'is', 'are')} left out of"
            f" all equations because some lack them ({agree(len(dropped), 'row', 'rows')}"
            f" {name_some(dropped)}; {counted(incomplete.size, 'equation')}:"
            f" {name_some(read[j].name for j in incomplete)})", UserWarning, stacklevel=3)
    _check_cells(read, placed, ~lacking[kept], label)
    names = SystemNames(tuple(equation.name for equation in read),
                        tuple(map(_regressors, read)), None if rows is None else rows[kept])
    check_names(names)
    return _assemble(placed, lacking, kept, names), dropped


def _regressors(equation):
    X = equation.X
    return X.columns or default_names(X.values.shape[1])


def _read_equations(equations):
    if not isinstance(equations, Mapping):
        raise TypeError("equations must be a dict of equations by name, such as"
                        ' {"name": {"dependent": y, "exog": X}}, got'
                        f" {type(equations).__name__}")
    if not equations:
        raise ValueError("equations must hold at least one equation, got none")
    readers, read = [Shared(read_part) for _ in PARTS], []
    for name, given in equations.items():
        parts = split_equation(name, given)
        lacks = [what for what, x in zip(PARTS[:2], parts, strict=False) if x is None]
        if lacks:
            raise ValueError(f"equation {name} lacks {name_some(map(repr, lacks))}")
        tables = (None if x is None else reader(x, what, name)
                  for reader, x, what in zip(readers, parts, PARTS, strict=True))
        read.append(with_labels(_weighed(Equation(str(name), *tables))))
    return read


def _weighed(equation):
    """Weights that have labels in the order of the rows of their equation, which they must have.

    There may be weights of more rows.
    """
    name, y, X, weights = equation
    rows = X.index if y.index is None else y.index
    if weights is None or weights.index is None or rows is None:
        return equation
    if X.index is not None and rows is not X.index:
        rows = rows[rows.isin(X.index)]
    return equation._replace(weights=weights.in_order(
        rows, f"weights of equation {name}", extra=True))


def split_equation(name: Any, given: Any) -> tuple[Any, ...]:
    """Dependent variable, regressors and weights of an equation, None where it has none."""
    if isinstance(given, Mapping):
        extra = [key for key in given if key not in PARTS]
        if extra:
            raise ValueError(f"equation {name} has {name_some(map(repr, extra))}, but an equation"
                             ' has "dependent", "exog" and "weights" only: regressors are taken to'
                             " be exogenous")
        return tuple(map(given.get, PARTS))
    if isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return *given, *[None] * (3 - len(given))
    what = (counted(len(given), "entry") if isinstance(given, (tuple, list))
            else type(given).__name__)
    raise TypeError(f'equation {name} must be a dict with "dependent", "exog" and perhaps'
                    f' "weights", or a tuple of them, got {what}')


def read_part(x: Any, what: str, name: Any) -> Table:
    """The `Table` of one variable of an equation; `what` is ``"exog"`` or has one column.

    Of a dict, keys are the names of regressors, or for one column the labels of the rows.
    """
    label = f"{what} of equation {name}"
    if isinstance(x, Mapping) and what != "exog":
        x = import_pandas().Series(x)
    table = read_columns(x, label)
    values, index = table.values, table.index
    if len(values) == 0:
        raise ValueError(f"{label} must have at least one row, got none")
    if what != "exog" and values.shape[1] != 1:
        raise ValueError(f"{label} must be one column, got {values.shape[1]}")
    if index is not None and not index.is_unique:
        twice = index[index.duplicated()].unique()
        raise ValueError(f"the rows of {label} must have different labels, got"
                         f" {name_some(twice)} more than once")
    table.check_not_infinite(label)
    return table


def with_labels(equation: Equation) -> Equation:
    """Arrays take the row labels that the rest of their equation has."""
    indexes = [table.index for _, table in equation.parts if table.index is not None]
    if not indexes or len(indexes) == len(equation.parts):
        return equation
    same = all(index.equals(indexes[0]) for index in indexes[1:])
    for what, table in equation.parts:
        if table.index is None and not (same and len(table.values) == len(indexes[0])):
            raise ValueError(
                f"{what} of equation {equation.name} is an array of"
                f" {counted(len(table.values), 'row')}, whose labels cannot be those of the rest"
                f" of the equation ({counted(len(indexes[0]), 'row')}"
                f"{'' if same else ' of different labels'}); give it an index")

    def label(table):
        lacks = table is not None and table.index is None
        return replace(table, index=indexes[0]) if lacks else table

    return Equation(equation.name, *map(label, equation[1:]))


def common_rows(read: Sequence[Equation]) -> Any:
    """The labels of all rows, None where nothing has any; refuses what cannot be aligned."""
    # Each index with the first equation that has it: equations may share one object.
    once: dict[int, tuple[Any, str]] = {}
    for equation in read:
        for _, table in equation.parts:
            if table.index is not None:
                once.setdefault(id(table.index), (table.index, equation.name))
    indexes = list(once.values())
    same = all(index.equals(indexes[0][0]) for index, _ in indexes[1:])
    rows, whose = indexes[0] if indexes else (None, read[0].name)
    N = len(read[0].parts[0][1].values) if rows is None else len(rows)
    for equation in read:
        for what, table in equation.parts:
            if table.index is None and not (same and len(table.values) == N):
                other = f"{N} in equation {whose}" if same else "those of other equations differ"
                raise ValueError(
                    f"{what} of equation {equation.name} has {counted(len(table.values), 'row')}"
                    f" without labels, {other}: arrays need the same rows everywhere; give them an"
                    " index")
    return rows if same else _union(indexes)


def _union(indexes):
    """All labels: sorted where each index is, else in the order in which they come."""
    rows, first = indexes[0]
    for index, name in indexes[1:]:
        kinds = {rows.inferred_type, index.inferred_type}
        if len(kinds) > 1 and not kinds <= {"integer", "floating"} or rows.nlevels != index.nlevels:
            raise ValueError(f"the row labels of equations {first} and {name} are of different"
                             f" kinds ({rows.inferred_type} and {index.inferred_type}): they have"
                             " no row in common")
        if not index.equals(rows):
            rows = rows.append(index[~index.isin(rows)])
    if all(index.is_monotonic_increasing for index, _ in indexes):
        rows = rows.sort_values()
    return rows


def put_in_rows(read: Sequence[Equation], rows: Any, N: int) -> list[list[Any]]:
    """The numbers y, X and weights of each equation for all rows, None where it has none.

    Rows that an equation lacks are NaN.  A table that equations share becomes one array.
    """
    def put(table):
        if rows is None or table.index is None or table.index.equals(rows):
            return table.values
        at = table.index.get_indexer(rows)
        values = np.full((N, table.values.shape[1]), np.nan, table.values.dtype)
        values[at >= 0] = table.values[at[at >= 0]]
        return values

    place = Shared(put)
    return [[None if table is None else place(table) for table in equation[1:]]
            for equation in read]


def _first_missing(read, placed, lacking, rows):
    j = int(np.flatnonzero(lacking.any(axis=0))[0])
    t = int(np.flatnonzero(lacking[:, j])[0])
    present = [values for values in placed[j] if values is not None]
    what, bad = next((what, np.flatnonzero(np.isnan(values[t])))
                     for (what, _), values in zip(read[j].parts, present, strict=True)
                     if np.isnan(values[t]).any())
    column = "" if what != "exog" else f", column {_regressors(read[j])[bad[0]]}"
    return (f"{what} of equation {read[j].name} is missing in row {t if rows is None else rows[t]}"
            f"{column} ({lacking.sum()} of {counted(lacking.size, 'cell')}"
            f" {agree(lacking.sum(), 'is', 'are')}); missing=\"cells\" leaves"
            ' cells out of the likelihood, missing="drop" rows out of all equations')


def _check_cells(read, placed, observed, label):
    """Enough cells in every equation, weights that are positive there, and rows in common."""
    counts = observed.sum(axis=0)
    for j, (equation, (_, X, weights)) in enumerate(zip(read, placed, strict=True)):
        if counts[j] <= X.shape[1]:
            empty = np.flatnonzero(np.isnan(X).all(axis=0))
            which = [_regressors(equation)[i] for i in empty]
            why = f" (column {name_some(which)} has no numbers)" if which else ""
            raise ValueError(
                f"equation {equation.name} has {counted(X.shape[1], 'regressor')} and"
                f" {counted(counts[j], 'complete row')}{why}; more rows than regressors are needed")
        if weights is not None and (weights <= 0).any():
            t = int(np.flatnonzero(weights[:, 0] <= 0)[0])
            raise ValueError(f"weights of equation {equation.name} must be positive, got"
                             f" {weights[t, 0]:g} in row {label[t]}")
    shared = observed & (observed.sum(axis=1) > 1)[:, None]
    alone = np.flatnonzero(~shared.any(axis=0))
    if alone.size and len(read) > 1:
        raise ValueError(
            f"{counted(alone.size, 'equation')} {agree(alone.size, 'shares', 'share')} no row with"
            f" any other one ({name_some(read[j].name for j in alone)}): nothing is known of their"
            " covariance; check the row labels, or fit them by themselves")


def _assemble(placed, lacking, kept, names):
    every = kept.all()
    observed = None if not lacking[kept].any() else ~lacking[kept]
    dtype = np.result_type(*{x.dtype for parts in placed for x in parts[:2]})
    Y = np.concatenate([parts[0] for parts in placed], axis=1)[kept].astype(dtype, copy=False)
    if observed is not None:
        Y = np.where(observed, Y, np.zeros((), dtype))
    keep = Shared(lambda X: (X if every else X[kept]).astype(dtype, copy=False))
    Xs = [keep(X) for _, X, _ in placed]
    if observed is not None:
        Xs = [X if cells.all() else np.where(cells[:, None], X, np.zeros((), dtype))
              for X, cells in zip(Xs, observed.T, strict=True)]
    return SURData(Xs, Y, observed, _weights(placed, lacking[kept], kept), None, names)


def _weights(placed, lacking, kept):
    """Weights of mean 1 an equation over its cells, 1 elsewhere; None where all are 1."""
    if all(weights is None for _, _, weights in placed):
        return None
    out = np.ones(lacking.shape)
    for j, (_, _, weights) in enumerate(placed):
        if weights is not None:
            cells = ~lacking[:, j]
            w = weights[kept, 0][cells].astype(float)
            w /= w.max()  # so that the mean of huge weights is finite
            out[cells, j] = w / w.mean()
    return None if (out == 1).all() else out
