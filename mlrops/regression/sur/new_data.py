"""New data for a fitted system: read as those of the fit were, and matched to them by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..._common.frames import read_columns, read_table
from ..._common.labels import by_label, match
from ..._common.typing import FloatArray
from ..._common.wording import counted
from .data import Shared, by_equation
from .equations import (
    PARTS,
    Equation,
    common_rows,
    put_in_rows,
    read_part,
    split_equation,
    with_labels,
)

__all__ = ["NewData", "linear", "read_new"]


class NewData(NamedTuple):
    """Rows for the equations of a fit."""

    Xs: list[FloatArray]  # K arrays (M, p_j), NaN where a number is missing
    Y: FloatArray | None = None  # (M, K), NaN at missing cells
    rows: Any = None  # pandas.Index
    weights: FloatArray | None = None  # (M, K)


def linear(fit: Any, Xs: Sequence[FloatArray]) -> FloatArray:
    """``x_tj β_j``, (M, K)."""
    return np.stack([X @ b for X, b in zip(Xs, fit.coefficients, strict=True)], axis=1)


def read_new(fit: Any, Xs: Any = None, Y: Any = None, need_Y: bool = False) -> NewData:
    """`NewData` of what the methods of `SURResult` are given; see `SURResult.predict`.

    Without `Xs` it is that of the fit.  With `need_Y` the dependent variables are read from Y, or
    from the equations of a dict.
    """
    if Xs is None:
        if Y is not None:
            raise TypeError("Y needs the regressors of its rows, Xs; without both the rows are"
                            " those of the fit")
        return _own(fit)
    equations = _names(fit)[0]
    label = equations or range(fit.n_equations)
    if isinstance(Xs, Mapping) and equations is None:  # numbers
        by_label(Xs, None, "Xs", "equation")
    given, _ = by_equation(Xs, equations, fit.n_equations)
    if isinstance(Xs, Mapping):
        read = _of_dict(given, label, need_Y)
    else:
        read = _of_list(given, label)
    if given[0] is Xs:
        _check_shared(read[0].X, fit)
    read = [equation._replace(X=_regressors(fit, j, equation, given[0] is Xs))
            for j, equation in enumerate(read)]
    rows, Xs, ys = _together(read) if isinstance(Xs, Mapping) else _one_order(read)
    if not need_Y:
        return NewData(Xs, None, rows)
    if Y is None:
        lacks = [equation.name for equation in read if equation.y is None]
        if lacks:
            raise TypeError("score needs the dependent variables of its rows: give Y, or a dict of"
                            f" equations that have theirs; equation {lacks[0]} has none")
        return NewData(Xs, np.concatenate(ys, axis=1), rows)
    if any(equation.y is not None for equation in read):
        raise TypeError("give the dependent variables either as Y or in the dict of equations")
    return NewData(Xs, *_read_Y(fit, Y, rows, len(Xs[0])))


def _names(fit):
    """Names of the equations and of their regressors, None where there are none."""
    names = fit.data.names
    if names is None:
        return None, [None] * fit.n_equations
    return names.equations, names.regressors


def _own(fit):
    """The rows of the fit."""
    data = fit.data
    Y = data.Y if data.observed is None else np.where(data.observed, data.Y, np.nan)
    return NewData(data.Xs, Y, None if data.names is None else data.names.rows, data.weights)


# ---------------------------------------------------------------- what was given


def _of_dict(given, label, need_Y):
    """`Equation`s of what `SUR` takes, or of regressors alone."""
    read, out = Shared(read_part), []
    for name, x in zip(label, given, strict=True):
        y = weights = None
        if _is_equation(x):
            y, x, weights = split_equation(name, x)
            if x is None:
                raise ValueError(f"equation {name} lacks 'exog'")
        if need_Y and weights is not None:
            raise ValueError(f"equation {name} has weights, but new rows have weight 1: leave them"
                             " out")
        y = read_part(y, "dependent", name) if need_Y and y is not None else None
        out.append(Equation(name, y, read(x, "exog", name)))
    return out


def _is_equation(x):
    """Whether this is an equation with all its variables, and not regressors alone."""
    if isinstance(x, Mapping):
        return bool(x) and set(x) <= set(PARTS)
    return isinstance(x, tuple) or (
        isinstance(x, list) and len(x) in (2, 3) and np.ndim(x[0]) == 1 and np.ndim(x[1]) == 2)


def _of_list(given, label):
    """`Equation`s of regressors in the order of the equations."""
    def read(x, what):
        table = read_columns(x, what)
        table.check_not_infinite(what)
        return table

    read = Shared(read)
    return [Equation(name, None, read(x, f"X of equation {name}"))
            for name, x in zip(label, given, strict=True)]


# ---------------------------------------------------------------- columns


def _check_shared(X, fit):
    """Refuse columns of a shared frame that no equation has."""
    if X.columns is not None and fit.data.names is not None:
        wanted = dict.fromkeys(name for own in fit.data.names.regressors for name in own)
        match(X.columns, tuple(wanted), "Xs", "regressor")


def _regressors(fit, j, equation, shared):
    """The `Table` of an equation's X with the columns of the fit, in their order."""
    what = f"X of equation {equation.name}"
    table = equation.X.choose(_names(fit)[1][j], what, "regressor", extra=shared)
    p = fit.coefficients[j].size
    if table.values.shape[1] != p:
        raise ValueError(f"{what} must have {counted(p, 'column')}, one a regressor, got shape"
                         f" {table.values.shape}")
    return table


# ---------------------------------------------------------------- rows


def _together(read):
    """Rows of all equations, as `SUR` puts them together; NaN where an equation has none."""
    read = list(map(with_labels, read))
    rows = common_rows(read)
    M = len(read[0].X.values) if rows is None else len(rows)
    ys, Xs, _ = zip(*put_in_rows(read, rows, M), strict=True)
    return rows, list(Xs), ys


def _one_order(read):
    """The same rows in every equation, in the order of the first that has labels."""
    rows = next((e.X.index for e in read if e.X.index is not None), None)
    M, Xs = len(read[0].X.values), []
    for equation in read:
        what = f"X of equation {equation.name}"
        X = equation.X.in_order(rows, what).values
        if len(X) != M:
            raise ValueError(f"{what} must have shape {(M, X.shape[1])}, got {X.shape}")
        Xs.append(X)
    return rows, Xs, None


def _read_Y(fit, Y, rows, M):
    """Dependent variables (M, K) in the order of the equations and rows, and the rows' labels."""
    Y = read_columns(Y, "Y") if isinstance(Y, Mapping) else read_table(Y, "Y", ndim=2)
    rows = Y.index if rows is None else rows
    Y = Y.choose(_names(fit)[0], "Y", "equation").in_order(rows, "Y")
    shape = M, fit.n_equations
    if Y.values.shape != shape:
        raise ValueError(f"Y must have shape {shape}, as Xs say, got {Y.values.shape}")
    replace(Y, columns=_names(fit)[0]).check_not_infinite("Y", "equation")
    return Y.values, rows
