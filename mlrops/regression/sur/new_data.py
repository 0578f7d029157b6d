"""New data for a fitted system: read as those of the fit were, and matched to them by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..._common.frames import read_columns, read_table
from ..._common.labels import by_label, match
from ..._common.typing import FloatArray
from ..._common.wording import counted
from . import equations
from .data import Shared, by_equation

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
        data = fit.data
        Y = data.Y if data.observed is None else np.where(data.observed, data.Y, np.nan)
        return NewData(data.Xs, Y, data.names and data.names.rows, data.weights)
    names, by_name = fit.data.equations, isinstance(Xs, Mapping)
    if by_name and names is None:  # numbers
        by_label(Xs, None, "Xs", "equation")
    given, _ = by_equation(Xs, names, fit.n_equations)
    label = names or range(fit.n_equations)
    read = _of_dict(given, label, need_Y) if by_name else _of_list(given, label)
    read = _of_the_fit(fit, read, given[0] is Xs)
    rows, Xs, ys = _together(read) if by_name else _one_order(read)
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


def _of_dict(given, label, need_Y):
    """`Equation`s of what `SUR` takes, or of regressors alone."""
    read, out = Shared(equations.read_part), []
    for name, x in zip(label, given, strict=True):
        y = weights = None
        if _is_equation(x):
            y, x, weights = equations.split_equation(name, x)
            if x is None:
                raise ValueError(f"equation {name} lacks 'exog'")
        if need_Y and weights is not None:
            raise ValueError(f"equation {name} has weights, but new rows have weight 1: leave them"
                             " out")
        y = equations.read_part(y, "dependent", name) if need_Y and y is not None else None
        out.append(equations.Equation(name, y, read(x, "exog", name)))
    return out


def _is_equation(x):
    """Whether this is an equation with all its variables, and not regressors alone."""
    if isinstance(x, Mapping):
        return bool(x) and set(x) <= set(equations.PARTS)
    return isinstance(x, tuple) or (
        isinstance(x, list) and len(x) in (2, 3) and np.ndim(x[0]) == 1 and np.ndim(x[1]) == 2)


def _of_list(given, label):
    """`Equation`s of regressors in the order of the equations."""
    def read(x, what):
        table = read_columns(x, what)
        table.check_not_infinite(what)
        return table

    read = Shared(read)
    return [equations.Equation(name, None, read(x, f"X of equation {name}"))
            for name, x in zip(label, given, strict=True)]


def _of_the_fit(fit, read, shared):
    """`Equation`s whose regressors are those of the fit, in their order.

    Columns of a shared frame that no equation has are refused.
    """
    names, X = fit.data.names and fit.data.names.regressors, read[0].X
    if shared and names and X.columns is not None:
        wanted = dict.fromkeys(name for own in names for name in own)
        match(X.columns, tuple(wanted), "Xs", "regressor")
    out = []
    for own, b, equation in zip(names or [None] * len(read), fit.coefficients, read, strict=True):
        what = f"X of equation {equation.name}"
        table = equation.X.choose(own, what, "regressor", extra=shared)
        if table.values.shape[1] != b.size:
            raise ValueError(f"{what} must have {counted(b.size, 'column')}, one a regressor, got"
                             f" shape {table.values.shape}")
        out.append(equation._replace(X=table))
    return out


def _together(read):
    """Rows of all equations, as `SUR` puts them together; NaN where an equation has none."""
    read = list(map(equations.with_labels, read))
    rows = equations.common_rows(read)
    M = len(read[0].X.values) if rows is None else len(rows)
    ys, Xs, _ = zip(*equations.put_in_rows(read, rows, M), strict=True)
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
    Y = read_table(Y, "Y", ndim=2)
    rows = Y.index if rows is None else rows
    Y = Y.choose(fit.data.equations, "Y", "equation").in_order(rows, "Y")
    shape = M, fit.n_equations
    if Y.values.shape != shape:
        raise ValueError(f"Y must have shape {shape}, as Xs say, got {Y.values.shape}")
    replace(Y, columns=fit.data.equations).check_not_infinite("Y", "equation")
    return Y.values, rows
