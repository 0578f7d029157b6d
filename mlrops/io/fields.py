"""What the fields of a saved object may hold: one check a field, one wording of what is refused."""

import math
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BOUNDARY", "CAPPED", "COUNT", "FINITE", "FLAG", "NAMES", "NOT_NEGATIVE", "Check",
           "check_capped", "check_fields", "floats", "instance", "integers", "maybe", "of_field",
           "one_of", "tuple_of"]

LONGEST = 60  # of a value in a message


class Check(NamedTuple):
    """A condition, and the words for it that complete "must be ..."."""

    wanted: str
    holds: Any


def check_fields(given, checks):
    """Refuse the first of the fields `given` that its check does not hold for; others may lack."""
    for name, check in checks.items():
        if name in given and not check.holds(given[name]):
            raise ValueError(f"field {name!r} must be {check.wanted}, got {_shown(given[name])}")


def _shown(x):
    if isinstance(x, np.ndarray):
        return f"an array of {x.dtype} of shape {x.shape}"
    if isinstance(x, tuple) and any(isinstance(entry, np.ndarray) for entry in x):
        return f"a tuple of {len(x)}: {', '.join(map(_shown, x[:3]))}"
    text = repr(x)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def of_field(name):
    """Whatever is refused in the block, said of a field."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"field {name!r}: {error}") from None


# ---------------------------------------------------------------- checks


def _whole(x):
    return isinstance(x, Integral) and not isinstance(x, (bool, np.bool_)) and 0 <= x < 2**63


def _real(x):
    return isinstance(x, Real) and not isinstance(x, (bool, np.bool_))


def _name(x):
    """What may name a group, a level, a feature; None for none."""
    kinds = str, bytes, bool, int, float, np.generic, type(None)
    return isinstance(x, kinds) or type(x) is tuple and all(map(_name, x))


FLAG = Check("True or False", lambda x: isinstance(x, (bool, np.bool_)))
COUNT = Check("an integer that is not negative", _whole)
FINITE = Check("a finite number", lambda x: _real(x) and math.isfinite(x))
# NaN where it is not known.
NOT_NEGATIVE = Check("a finite number that is not negative, or NaN", lambda x: _real(x) and (
    math.isnan(x) or 0 <= x < math.inf))
NAMES = Check("a tuple of names", lambda x: type(x) is tuple and all(map(_name, x)))
CAPPED = Check("a tuple of (level, group, size)", lambda x: type(x) is tuple and all(
    type(entry) is tuple and len(entry) == 3 and all(map(_whole, entry)) for entry in x))
BOUNDARY = Check("a vector of different integers that are not negative", lambda x: (
    _array(x, "iu", 1) and (x.size == 0 or x.min() >= 0) and np.unique(x).size == x.size))


def one_of(*words):
    return Check(f"one of {', '.join(words)}", lambda x: type(x) is str and x in words)


def maybe(check):
    return Check(f"{check.wanted}, or None", lambda x: x is None or check.holds(x))


def instance(kind, wanted):
    return Check(wanted, lambda x: isinstance(x, kind))


def tuple_of(check, wanted, length=None):
    return Check(wanted, lambda x: type(x) is tuple and all(map(check.holds, x)) and (
        length is None or len(x) == length))


def _array(x, kinds, ndim):
    return isinstance(x, np.ndarray) and x.ndim == ndim and x.dtype.kind in kinds


def floats(ndim):
    shape = ("a number", "a vector", "a matrix")[ndim]
    return Check(f"{shape} of float32 or float64", lambda x: _array(x, "f", ndim)
                 and x.dtype.itemsize in (4, 8))


def integers(ndim=1):
    return Check("a vector of signed integers", lambda x: _array(x, "i", ndim))


def check_capped(capped, ranks, group_counts):
    """Refuse (level, group, size) that are no groups smaller than their level's rank."""
    for entry in capped:
        level, group, size = entry
        if not (level < len(ranks) and group < group_counts[level] and size < ranks[level]):
            raise ValueError("field 'capped' must hold (level, group, size) of groups smaller than"
                             f" their level's rank, got {entry}")
