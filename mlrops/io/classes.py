"""Classes whose objects files hold: how a file names them, and how the name becomes the class.

Nothing is imported because a file names it.  The classes of this package have the names below;
a class of a user's program has one that `storable` gave it in the same program.
"""

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from .._common.driver import current_termination
from .._common.stored import Stored, check_fields, of_field

__all__ = ["class_named", "make", "name_of", "storable"]

T = TypeVar("T")

# Module of the package: the classes that it has.
_HOMES = {
    "operators": (
        "MLR BlockDiagonal Dense Diagonal FactorInformation GeneralMLR Identity Inverse "
        "Kronecker LowRank LowRankPlusDiagonal MLRInverse Permutation Product Scaled Sum "
        "Transposed Woodbury Wrapped"
    ),
    "operators.woodbury": "WoodburyInverse",
    "tree.hierarchy": "Hierarchy",
    "factor.result": "FactorModelResult",
    "regression.sur.result": "SURResult",
    "regression.sur.als_gls": "SUROptions",
    "fitting.fit_result": "MLRFit RankAllocation",
}
OURS = {name: f"mlrops.{home}" for home, names in _HOMES.items() for name in names.split()}
# Of files of earlier versions, by class: what fields were called, and are called now.
RENAMED = {
    "MLRFit": {"errors": "objective_trace"},
    "RankAllocation": {"errors": "objective_trace"},
    "SURResult": {"cg_iterations": "n_cg", "cov_kind": "cov_type", "cov_options": "cov_kwds"},
    "SUROptions": {"max_cg_iter": "maxiter"},
}
# Fields that were dicts, and are objects of a class now.
WERE_DICTS = {"SURResult": {"options": "SUROptions"}}

_registered: dict[str, type] = {}


def storable(cls: type[T]) -> type[T]:
    """Class decorator: `mlrops.save` and `mlrops.load` take objects of this class.

    Parameters
    ----------
    cls : type
        A dataclass, whose fields are saved, and checked against their annotations when they are
        loaded; or a class with the method ``to_fields`` and the class method ``from_fields``, which
        makes an object of what ``to_fields`` gave.  It needs no base class.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    TypeError
        It is no dataclass and has neither ``to_fields`` nor ``stored_fields``.

    Notes
    -----
    The hooks have the form of `StructuredOperator.to_fields` and `StructuredOperator.from_fields`.
    A file names the class by its module and its name.  The program that loads the file has to
    have defined the class by then: a file imports nothing.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import mlrops
    >>> @mlrops.io.storable
    ... class Reversal(mlrops.StructuredOperator):
    ...     def __init__(self, n):
    ...         super().__init__(np.float64, (n, n), symmetric=True)
    ...     def _mul(self, x):
    ...         return x[::-1].copy()
    ...     def to_fields(self):
    ...         return {"n": self.shape[0]}
    ...     @classmethod
    ...     def from_fields(cls, n):
    ...         return cls(n)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "reversal.npz")
    ...     mlrops.save(path, Reversal(3) + mlrops.Diagonal([1.0, 2.0, 3.0]))
    ...     mlrops.load(path)
    <3x3 Sum, symmetric, float64>
    """
    own = getattr(cls, "to_fields", Stored.to_fields) is not Stored.to_fields
    if not (own or is_dataclass(cls) or getattr(cls, "stored_fields", None)):
        raise TypeError(f"{cls.__name__} must be a dataclass or have a method to_fields")
    for name in ("stored_fields", "to_fields", "from_fields"):
        if not hasattr(cls, name):
            setattr(cls, name, vars(Stored)[name])
    _registered[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return cls


def name_of(cls: type) -> str | None:
    """The name by which a file calls a class, None if it calls it by none."""
    for name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}"):
        if _find(name) is cls:
            return name
    return None


def class_named(name: str, where: str) -> type:
    """The class that a file calls so; ValueError if there is none."""
    found = _find(name)
    if found is None:
        advice = (
            "; if it is a class of yours, define it with the decorator mlrops.io.storable"
            " before you load the file"
            if "." in name
            else ""
        )
        raise ValueError(f"{where} is of class {name[:60]!r}, which is unknown here{advice}")
    return found


def _find(name: str) -> type | None:
    if name in OURS:
        return getattr(import_module(OURS[name]), name)
    return _registered.get(name)


def make(cls: Any, given: dict[str, Any]) -> Any:
    """An object of its fields, once it is known that they are all there and of the right kind."""
    if name_of(cls) in OURS:
        given = _current(cls.__name__, given)
    optional, hints = _declared(cls)
    unknown = sorted(set(given) - set(optional))
    if optional and unknown:
        raise ValueError(
            f"it has a field {unknown[0][:60]!r}, unknown here: it was written by a newer mlrops"
        )
    for name, may_lack in optional.items():
        if name not in given and not may_lack:
            raise ValueError(f"it has no field {name!r}")
        if name in given and name in hints and not isinstance(given[name], _types(hints[name])):
            raise TypeError(f"field {name!r} must not be of type {type(given[name]).__name__}")
    check_fields(given, cls.stored_fields)
    return cls.from_fields(**given)


def _current(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a class of the package, as files of this version have them."""
    renamed = RENAMED.get(name, {})
    given = {renamed.get(field, field): value for field, value in given.items()}
    for field, kind in WERE_DICTS.get(name, {}).items():
        if type(given.get(field)) is dict:
            with of_field(field):
                given[field] = make(class_named(kind, field), given[field])
    if "termination" in given:
        given["termination"] = current_termination(given["termination"])
    return given


def _declared(cls: Any) -> tuple[dict[str, bool], dict[str, Any]]:
    """Each field that a class declares, and whether it may lack; annotations of fields."""
    if cls.to_fields is not Stored.to_fields or not is_dataclass(cls):
        return {name: check.holds(None) for name, check in cls.stored_fields.items()}, {}
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # of what only type checkers import
        hints = {}
    own = [f for f in fields(cls) if f.init]
    return {
        f.name: f.default is not MISSING or f.default_factory is not MISSING for f in own
    }, hints


def _types(hint: Any) -> tuple[type, ...]:
    """The types that a field of this annotation takes; NumPy's scalars count as numbers."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for option in typing.get_args(hint) for kind in _types(option))
    kind = object if hint is Any else origin or hint
    wider: dict[Any, Any] = {float: Real, int: Integral, bool: bool | np.bool_}
    return (wider.get(kind, kind) if isinstance(kind, type) else object,)
