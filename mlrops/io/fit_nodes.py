"""What a file holds of an `MLRFit` or a `RankAllocation`, and the fit made of it again."""

from dataclasses import fields

import numpy as np

from .._common.driver import TERMINATIONS, current_termination
from .._common.wording import counted
from ..fitting.fit_result import MLRFit, RankAllocation
from ..operators import GeneralMLR
from ..operators.mlr import check_ranks
from .fields import CAPPED, COUNT, FLAG, check_capped, check_fields, floats, of_field, one_of

__all__ = ["fit_fields", "make_allocation", "make_fit"]

# What each field may be; those of a newer version are refused.
FIELDS = {"operator": GeneralMLR, "objective_trace": np.ndarray, "times": np.ndarray, "n_iter": int,
          "converged": bool, "termination": str, "capped": tuple}
# What they must be besides.
CHECKS = {"objective_trace": floats(1), "times": floats(1), "n_iter": COUNT, "converged": FLAG,
          "termination": one_of(*TERMINATIONS), "capped": CAPPED, "n_trials": COUNT}
ALLOCATION = FIELDS | {"history": tuple, "n_trials": int}


def fit_fields(fit):
    """The fields of a fit: its operator, arrays, numbers and text."""
    return {f.name: getattr(fit, f.name) for f in fields(fit)}


def make_fit(**given):
    """An `MLRFit` of its fields, everything checked."""
    given = _check(given, FIELDS)
    return MLRFit(**given)


def make_allocation(**given):
    """A `RankAllocation` of its fields, everything checked."""
    given = _check(given, ALLOCATION)
    operator, history, errors = given["operator"], given["history"], given["objective_trace"]
    if len(history) != errors.size:
        raise ValueError(f"history must have {counted(errors.size, 'entry')}, got {len(history)}")
    for entry, error in zip(history, errors, strict=True):
        with of_field("history"):
            right = type(entry) is tuple and len(entry) == 2 and type(entry[0]) is tuple and (
                check_ranks(entry[0], operator.rows) == entry[0] and entry[1] == error)
        if not right:
            raise ValueError("history must hold ranks, one a level, and the entries of objective_trace")
    if history[-1][0] != operator.ranks or any(
            sum(ranks) != sum(operator.ranks) for ranks, _ in history):
        raise ValueError("history must end with the operator's ranks, and keep their sum")
    return RankAllocation(**given)


def _check(given, kinds):
    """Types of all fields, and what the fields of either kind of fit have to be."""
    given = {"objective_trace" if name == "errors" else name: x for name, x in given.items()}
    unknown = sorted(set(given) - set(kinds))
    if unknown:
        raise ValueError(f"it has a field {unknown[0][:60]!r}, unknown here: it was written by a"
                         " newer mlrops")
    for name, kind in kinds.items():
        if name not in given:
            raise ValueError(f"it has no field {name!r}")
        value = given[name]
        if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
            raise TypeError(f"field {name!r} must not be of type {type(value).__name__}")
    given["termination"] = current_termination(given["termination"])
    check_fields(given, CHECKS)
    n_iter, operator = given["n_iter"], given["operator"]
    for name in ("objective_trace", "times"):
        x = given[name]
        if x.dtype != np.float64 or x.shape != (n_iter + 1,) or not np.isfinite(x).all() or (
                x.min() < 0):
            raise ValueError(f"{name} must hold n_iter + 1 = {n_iter + 1} finite numbers of"
                             f" float64, none below zero, got {x.dtype} of shape {x.shape}")
    check_capped(given["capped"], operator.ranks, operator.rows.group_counts)
    if given["converged"] and given["termination"] in ("max_iter", "callback", "interrupted"):
        raise ValueError("field 'converged' is True, but field 'termination' is"
                         f" {given['termination']!r}")
    return given
