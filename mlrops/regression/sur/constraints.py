"""Linear constraints on the coefficients of a system, as `SUR` is given them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._common.frames import is_frame, is_series, read_table
from ..._common.labels import by_label, check_distinct, labels_of
from ..._common.typing import FloatArray
from ..._common.validate import as_finite
from ..._common.wording import counted, name_some
from .data import SystemNames

__all__ = ["holds_dicts", "parameter_names", "read_constraints"]


def parameter_names(names: SystemNames) -> list[str]:
    """``"equation_regressor"`` of all coefficients, equation by equation (list of P str)."""
    return ["_".join(pair) for pair in names.coefficients()]


def read_constraints(R: Any, q: Any,
                     names: SystemNames) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """``R β = q`` as arrays (m, P) and (m,) for all P coefficients, and what to call each row.

    R and q are in the forms that `SUR.add_constraints` takes.
    """
    if is_series(R) and labels_of(R) is not None:  # factors by coefficient, as a dict
        check_distinct(R.index, "R's coefficients")
        R = dict(R.items())
    if isinstance(R, Mapping) or holds_dicts(R):
        if q is not None:
            raise TypeError("q is for R as a matrix; a constraint given as a dict has its value"
                            " beside it, (dict, value)")
        return _from_dicts([R] if isinstance(R, Mapping) else list(R), names)
    P = len(names.coefficients())
    if is_frame(R):
        table = read_table(R, "R")
        columns = _places(table.columns if table.index is None else R.columns, names, "column")
        whole = np.zeros((len(R), P))
        whole[:, columns] = as_finite(table.values, "R", dtype=float, axis_name="row",
                                      labels=table.index)
        labels = _row_names(len(R)) if table.index is None else tuple(map(str, table.index))
        return whole, _values(q, len(R), table.index), labels
    R = as_finite(R, "R", dtype=float, ndim=2, axis_name="row")
    if R.shape[1] != P:
        raise ValueError(f"R must have a column for each of the {counted(P, 'coefficient')}, got"
                         f" shape {R.shape}; the attribute param_names has their order")
    return R, _values(q, len(R), None), _row_names(len(R))


def _row_names(m: int) -> tuple[str, ...]:
    return tuple(f"row {i}" for i in range(m))


def holds_dicts(R: Any) -> bool:
    """Whether this is a sequence of dicts, or of dicts with their values."""
    if isinstance(R, str) or not isinstance(R, (list, tuple)):
        return False
    return any(isinstance(x, Mapping) or (isinstance(x, tuple) and x and isinstance(x[0], Mapping))
               for x in R)


def _values(q: Any, m: int, index: Any) -> FloatArray:
    if q is None:
        return np.zeros(m)
    q = by_label(q, index, "q", "row")
    q = read_table(q, "q").values
    q = as_finite(q, "q", dtype=float, ndim=(0, 1), axis_name="row")
    if q.ndim and q.size != m:
        raise ValueError(f"q must have one value for each of the {counted(m, 'row')} of R, got"
                         f" {q.size}")
    return np.broadcast_to(q, m).copy()


def _from_dicts(given: Sequence[Any],
                names: SystemNames) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    R, q, labels = np.zeros((len(given), len(names.coefficients()))), np.zeros(len(given)), []
    for i, one in enumerate(given):
        terms, value = one if isinstance(one, tuple) and len(one) == 2 else (one, 0.0)
        if not isinstance(terms, Mapping) or not terms:
            raise TypeError(f"constraint {i} must be a dict of factors by (equation, regressor), or"
                            f" such a dict and its value, got {one!r}")
        at = _places(list(terms), names, f"constraint {i}")
        R[i, at] = as_finite(list(terms.values()), f"constraint {i}", dtype=float, ndim=1)
        q[i] = as_finite(value, f"the value of constraint {i}", dtype=float, ndim=0)
        labels.append(_equation_text(terms, value))
    return R, q, tuple(labels)


def _equation_text(terms: Mapping[Any, float], value: float) -> str:
    text = ""
    for key, factor in terms.items():
        name = key if isinstance(key, str) else "_".join(map(str, key))
        size = "" if abs(factor) == 1 else f"{abs(factor):g} "
        text += (" - " if factor < 0 else " + ") + size + name
    text = text[3:] if text.startswith(" + ") else "-" + text[3:]
    return f"{text} = {value:g}"


def _places(keys: Any, names: SystemNames, what: str) -> list[int]:
    """Numbers of coefficients called by (equation, regressor) or by ``"equation_regressor"``."""
    pairs = names.coefficients()
    by_pair = {pair: i for i, pair in enumerate(pairs)}
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(parameter_names(names)):
        by_name.setdefault(name, []).append(i)
    places, unknown = [], []
    for key in keys:
        if isinstance(key, tuple):
            pair = tuple(map(str, key))
            found = [by_pair[pair]] if pair in by_pair else []
        else:
            found = by_name.get(str(key), [])
        if len(found) > 1:
            raise ValueError(f"{key!r} could be {name_some(pairs[i] for i in found)}: name the"
                             " coefficient by (equation, regressor)")
        unknown += [] if found else [key]
        places += found
    if unknown:
        raise ValueError(f"{what} names no coefficient: {name_some(map(repr, unknown))}; there are"
                         f" {name_some(parameter_names(names))}")
    if len(set(places)) < len(places):
        twice = {pairs[i] for i in places if places.count(i) > 1}
        raise ValueError(f"{what} names a coefficient more than once: {name_some(sorted(twice))}")
    return places
