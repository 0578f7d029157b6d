"""Objects that a file can hold: what they consist of, and what each part of them may be.

`mlrops.save` asks an object for its fields by `Stored.to_fields`, and `mlrops.load` gives them to
`Stored.from_fields` of its class.  A file may come from anywhere, so fields are checked first: the
checks stand here, one for each kind of field, with one wording of what is refused.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .driver import TERMINATIONS
from .validate import as_finite

__all__ = ["COUNT", "DTYPE", "FINITE", "FIT", "FLAG", "NAMES", "NOT_NEGATIVE", "OPERATOR",
           "OPERATORS", "RANKS", "Check", "Stored", "check_fields", "check_fit", "check_compact",
           "floats", "instance", "integers", "maybe", "of_field", "one_dtype", "one_of", "tuple_of"]

LONGEST = 60  # of a value in a message


class Check(NamedTuple):
    """A condition on a field, and the words for it that complete "must be ..."."""

    wanted: str
    holds: Callable[[Any], bool]


class Stored:
    """An object that a file can hold: it tells its fields, and is made of them again.

    ``stored_fields`` says what fields have to be; one that may be None may lack.  Of a class that
    is no dataclass, these are the fields: attributes of the object, and arguments of the
    constructor in order.
    """

    stored_fields: ClassVar[Mapping[str, Check]] = {}

    def to_fields(self) -> dict[str, Any]:
        """The fields of which the object can be made again.

        Returns
        -------
        dict
            By name: arrays, other objects that a file can hold, or tuples of either; or numbers,
            text, None, and tuples, lists and dicts of them.
        """
        if is_dataclass(self):
            return {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        given: dict[str, Any] = {}
        for name in self.stored_fields:
            value = getattr(self, name)
            if isinstance(value, np.ndarray) and any(value is x for x in given.values()):
                value = None  # the array of an earlier field stands for both
            given[name] = value.name if isinstance(value, np.dtype) else value
        return given

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> Any:
        """The object that has these fields.

        Parameters
        ----------
        *args : object
            There are none: subclasses may give the fields names of their own.
        **given : object
            The fields, as `to_fields` gave them, but from a file that may come from anywhere.

        Returns
        -------
        object

        Raises
        ------
        ValueError, TypeError
            Fields that no object has.
        """
        if is_dataclass(cls):
            return cls(**given)
        return cls(*map(given.get, cls.stored_fields))


def check_fields(given: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Refuse the first of the fields `given` that its check does not hold for; others may lack."""
    for name, check in checks.items():
        if name in given and not check.holds(given[name]):
            raise ValueError(f"field {name!r} must be {check.wanted}, got {_shown(given[name])}")


def _shown(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f"an array of {x.dtype} of shape {x.shape}"
    if isinstance(x, tuple) and any(isinstance(entry, np.ndarray) for entry in x):
        return f"a tuple of {len(x)}: {', '.join(map(_shown, x[:3]))}"
    text = repr(x)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def of_field(name: str) -> Iterator[None]:
    """Errors raised in the block become errors of this field."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"field {name!r}: {error}") from None


# ---------------------------------------------------------------- checks


def _real(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, (bool, np.bool_))


def _name(x: Any) -> bool:
    """What may name a group, a level, a feature; None for none."""
    kinds = str, bytes, bool, int, float, np.generic, type(None)
    return isinstance(x, kinds) or type(x) is tuple and all(map(_name, x))


def _array(x: Any, kinds: str, ndim: int) -> bool:
    return isinstance(x, np.ndarray) and x.ndim == ndim and x.dtype.kind in kinds


def one_of(*words: str) -> Check:
    return Check(f"one of {', '.join(words)}", lambda x: type(x) is str and x in words)


def maybe(check: Check) -> Check:
    return Check(f"{check.wanted}, or None", lambda x: x is None or check.holds(x))


def instance(kind: type | tuple[type, ...], wanted: str) -> Check:
    return Check(wanted, lambda x: isinstance(x, kind))


def tuple_of(check: Check, wanted: str, length: int | None = None) -> Check:
    return Check(wanted, lambda x: type(x) is tuple and all(map(check.holds, x))
                 and (length is None or len(x) == length))


def floats(ndim: int) -> Check:
    shape = ("a number", "a vector", "a matrix")[ndim]
    return Check(f"{shape} of float32 or float64",
                 lambda x: _array(x, "f", ndim) and x.dtype.itemsize in (4, 8))


def integers(ndim: int = 1) -> Check:
    return Check("a vector of signed integers", lambda x: _array(x, "i", ndim))


FLAG = Check("True or False", lambda x: isinstance(x, (bool, np.bool_)))
COUNT = Check("an integer that is not negative", lambda x: isinstance(x, Integral)
              and not isinstance(x, (bool, np.bool_)) and 0 <= int(x) < 2**63)
FINITE = Check("a finite number", lambda x: _real(x) and math.isfinite(x))
# NaN where it is not known.
NOT_NEGATIVE = Check("a finite number that is not negative, or NaN",
                     lambda x: _real(x) and (math.isnan(x) or 0 <= x < math.inf))
NAMES = Check("a tuple of names", lambda x: type(x) is tuple and all(map(_name, x)))
RANKS = tuple_of(COUNT, "a tuple of integers that are not negative, one a level")
OPERATOR = Check("an operator", lambda x: hasattr(x, "matvec"))
OPERATORS = tuple_of(OPERATOR, "a list of operators")
DTYPE = one_of("float32", "float64")
# Fields that results of fits have in common.
FIT = {
    "loglik": FINITE,
    "loglik_trace": floats(1),
    "objective_trace": floats(1),
    "times": floats(1),
    "n_iter": COUNT,
    "n_evaluations": COUNT,
    "converged": FLAG,
    "termination": one_of(*TERMINATIONS),
    "gradient_norm": NOT_NEGATIVE,
    "boundary": Check(
        "a vector of different integers that are not negative",
        lambda x: _array(x, "iu", 1) and bool((x >= 0).all()) and np.unique(x).size == x.size),
    "capped": tuple_of(tuple_of(COUNT, "(level, group, size)", 3),
                       "a tuple of (level, group, size)")}


def one_dtype(**arrays: np.ndarray) -> np.ndarray:
    """The last of the arrays, once it is known that all are of one dtype."""
    found = {name: x.dtype for name, x in arrays.items()}
    name = [*arrays][-1]
    if len(set(found.values())) > 1:
        raise ValueError(
            f"{' and '.join(found)} must be of one dtype, got"
            f" {' and '.join(map(str, found.values()))}")
    return arrays[name]


def check_compact(ranks: Sequence[int], **sides: tuple[np.ndarray, Any]) -> None:
    """Refuse factors of a tree, given as (array, hierarchy), that are not finite or do not fit."""
    for name, (x, hierarchy) in sides.items():
        wanted = hierarchy.n, sum(ranks)
        if as_finite(x, name, ndim=2, axis_name="tree position").shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {x.shape}")


def check_fit(given: Mapping[str, Any], traces: Sequence[str], ranks: Sequence[int],
              group_counts: Sequence[int]) -> None:
    """Refuse fields of a fit, ``capped`` among them if there is one, that contradict one another.

    The arrays named in `traces` have a number for the start and one for every iteration; `ranks`
    and `group_counts` are those of every level of the operator that was fitted.
    """
    n_iter, converged, word = (given[name] for name in ("n_iter", "converged", "termination"))
    for name in traces:
        x = given[name]
        if x.shape != (n_iter + 1,) or not np.isfinite(x).all():
            raise ValueError(
                f"{name} must hold n_iter + 1 = {n_iter + 1} finite floats, got"
                f" {x.dtype} of shape {x.shape}")
    if converged and word in ("max_iter", "callback", "interrupted"):
        raise ValueError(f"field 'converged' is True, but field 'termination' is {word!r}")
    for entry in given.get("capped", ()):
        level, group, size = entry
        if not (level < len(ranks) and group < group_counts[level] and ranks[level]
                and size < sum(ranks[: level + 1])):
            raise ValueError(
                "field 'capped' must hold (level, group, size) of groups smaller than the ranks"
                f" of their level and of coarser ones with the same group, got {entry}")
