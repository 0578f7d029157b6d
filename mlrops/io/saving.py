"""`save` and `load`: objects become nodes of a file, and nodes become objects.

``help(mlrops.io)`` describes the layout.  What an object consists of, its class knows.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import numpy as np

from .._common.stored import OPERATOR, Stored
from .archive import Arrays, Meta, check_regular, read_archive, reading, write_archive
from .classes import class_named, make, name_of
from .plain import encode

__all__ = ["fields_of", "load", "save"]

KIND = "object"
# What a directory of parts has.
INDEX = "index.npz"
TRANSPOSE = "transpose"

# What a small file may ask for.  Operators hand a question on to their parts, so a shared part is
# asked once for each way that leads to it, and a transposed sparse array has one offset for each
# column of the original.
MAX_DEPTH = 100
MAX_PARTS = 100_000
MAX_ORDER = 2**46
MAX_EMPTY_COLUMNS = 2**25


def save(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a hierarchy, an operator or a fitted model to a file.

    Parameters
    ----------
    path : str or os.PathLike
        Written exactly there: no suffix is appended, ``.npz`` is the usual one.  A file that is
        there already is replaced in one step, and stays as it is if anything fails.
    obj : Hierarchy, operator, FactorModelResult, SURResult, MLRFit or RankAllocation
        Operators of this package, built from arrays and from one another in any way.  Sparse
        arrays in a `Wrapped` are saved, operators of other packages cannot be.  Objects of a class
        of yours are saved if it has the decorator `mlrops.io.storable`.  A `DistributedMLR` becomes
        a directory, with a file for each part.

    Raises
    ------
    TypeError
        `obj`, or the part that the message names, is none of these; or names of groups or features
        are not strings, numbers, bytes, booleans, None, NumPy dates or tuples of such.
    ValueError
        Operators nested more than 100 deep; a positive definite tag that is lost to rounding.
    OSError
        The file cannot be written, or is a folder, a device, a named pipe or a socket.

    See Also
    --------
    load

    Notes
    -----
    The file is a zip of ``.npy`` arrays and one JSON text, without pickles; `numpy.load` opens it.
    ``help(mlrops.io)`` documents the layout.  It is about as long as the arrays;
    they are written without a copy in memory.  Inverses (`MLRInverse`, inverses of `Woodbury` and
    `LowRankPlusDiagonal`) are saved as what they invert; factorizations, and transposes or inverses
    that were only asked for, not at all.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import mlrops
    >>> h = mlrops.Hierarchy.from_labels(["a", "a", "b"])
    >>> A = mlrops.MLR(h, [np.ones((3, 1)), np.eye(3)[:, :1]], D=np.ones(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "covariance.npz")
    ...     mlrops.save(path, 2 * A)
    ...     B = mlrops.load(path)
    ...     with np.load(path) as inside:
    ...         sorted(inside)
    ['0.boundaries.0', '0.boundaries.1', '0.permutation', '1.D', '1.F', 'mlrops.json']
    >>> B
    <3x3 MLR, groups (1, 2), ranks (1, 1), float64>
    >>> B.hierarchy.names(1)
    ('a', 'b')
    >>> bool((B @ np.arange(3.0) == (2 * A) @ np.arange(3.0)).all())
    True
    """
    if isinstance(obj, _in_parts()):
        obj.save(path)
        return
    check_regular(path)
    writer = _Writer()
    try:
        writer.add(obj, type(obj).__name__)
    except RecursionError:
        raise ValueError(
            "cannot save an operator that is nested this deep; combine its parts"
        ) from None
    write_archive(path, KIND, {"nodes": writer.nodes}, writer.arrays)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Hierarchy, operator, FactorModelResult, SURResult, MLRFit or RankAllocation
        Equal to the one that was saved, its arrays bit by bit.

    Raises
    ------
    ValueError
        The file is damaged, truncated, not of this format, of a newer version of it, or describes
        what cannot be: the message begins with ``cannot read '<path>'``.
    OSError
        FileNotFoundError, PermissionError and the like.

    Notes
    -----
    A file may come from anywhere: loading runs no code from it, allocates no more than a small
    multiple of its length, and passes all arrays through the checks of the constructors.  Arrays
    are read once, straight into memory, and kept without a copy.  A `Dense` that is tagged positive
    definite is proved to be so again, n³/3 flops; inverses are formed anew.

    A field that a result from an older version of mlrops does not have takes its default.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import mlrops
    >>> Y = np.random.default_rng(0).standard_normal((50, 4))
    >>> fit = mlrops.fit_factor_model(Y, ranks=1, tol=1e-4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "fit.npz")
    ...     mlrops.save(path, fit)
    ...     again = mlrops.load(path)
    >>> again.loglik == fit.loglik, bool((again.covariance.F == fit.covariance.F).all())
    (True, True)
    """
    if os.path.isfile(os.path.join(path, INDEX)):
        return _in_parts().load(path)
    meta, arrays = read_archive(path, KIND)
    with reading(path), np.errstate(all="ignore"):
        return _rebuild(meta, arrays)


def _in_parts() -> Any:
    """The class of what is written as a directory; loaded when it is asked for."""
    return import_module("mlrops.operators.distributed").DistributedMLR


# ---------------------------------------------------------------- what an object consists of


def fields_of(obj: Any) -> dict[str, tuple[Any, ...]]:
    """What an object consists of: by field, the one thing or the several that it holds.

    Empty for what a file cannot hold.
    """
    if name_of(type(obj)) is None:
        return {}
    return {name: _entries(value) for name, value in obj.to_fields().items()}


def _entries(value: Any) -> tuple[Any, ...]:
    return value if type(value) is tuple else (value,)


def _is_part(x: Any) -> bool:
    return isinstance(x, Stored) or name_of(type(x)) is not None


def _all(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether a condition holds for `value`, or for each entry of a tuple."""
    entries = _entries(value)
    return entries != () and all(map(holds, entries))


def _each(function: Callable[..., Any], value: Any, *places: str) -> Any:
    """`function` of one value or of each entry of a tuple, which becomes a list."""
    if type(value) is not tuple:
        return function(value, *places)
    name, where = places
    return [function(x, f"{name}.{i}", f"{where}[{i}]") for i, x in enumerate(value)]


def _flat(found: dict[str, Any]) -> list[Any]:
    """The entries of a dict of single things and lists of things."""
    return [x for value in found.values() for x in (value if type(value) is list else [value])]


class _Limits:
    """Keeps count while the nodes of one file are written or read, and raises ValueError."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []
        self._empty = 0

    def parts(self, numbers: Iterable[int]) -> None:
        """The next node has the earlier nodes of these numbers as parts."""
        depths, parts = zip((0, 0), *(self._sizes[i] for i in numbers), strict=True)
        depth, total = 1 + max(depths), 1 + sum(parts)
        if depth > MAX_DEPTH or total > MAX_PARTS:
            raise ValueError(
                f"operators may be nested {MAX_DEPTH} deep and have {MAX_PARTS:,}"
                f" parts, got {depth} and {total:,}"
            )
        self._sizes.append((depth, total))

    def made(self, obj: Any) -> None:
        """The object of that node."""
        order = max(getattr(obj, "shape", (0,)))
        if order > MAX_ORDER:
            raise ValueError(f"operators may be of order {MAX_ORDER:,}, got {order:,}")
        self._empty += max(0, getattr(obj, "_empty_columns", 0))
        if self._empty > MAX_EMPTY_COLUMNS:
            raise ValueError(f"sparse arrays may have {MAX_EMPTY_COLUMNS:,} empty columns")


# ---------------------------------------------------------------- out of objects, into nodes


class _Writer:
    """Collects the nodes and arrays of an object, parts first."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        # Number of the node of each object, by identity; the objects are kept, so that no identity
        # is given away twice.
        self._known: dict[int, tuple[int, Any]] = {}
        self._limits = _Limits()

    def add(self, obj: Any, where: str) -> int:
        """The number of the node of `obj`."""
        if id(obj) in self._known:
            return self._known[id(obj)][0]
        kind = name_of(type(obj))
        if kind is None:
            raise TypeError(
                f"cannot save {where}: expected a Hierarchy, the result of a fit, an operator of"
                " mlrops that is made of arrays, or an object of a class with the decorator"
                f" mlrops.io.storable, got {type(obj).__name__}"
            )
        node = self._node(obj, kind, where)
        try:
            self._limits.parts(_flat(node.get("parts", {})))
            self._limits.made(obj)
        except ValueError as error:
            raise ValueError(f"cannot save {where}: {error}") from None
        self._known[id(obj)] = len(self.nodes), obj
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _node(self, obj: Any, kind: str, where: str) -> dict[str, Any]:
        # A palindrome X M Xᵀ is known by the identity of X and of its transpose.
        pair = getattr(obj, "_transposed", None)
        known = id(pair) in self._known or kind == "Transposed"
        if known and pair is not None and pair._transposed is obj:
            return {"class": TRANSPOSE, "parts": {"base": self.add(pair, f"{where}.T")}}
        try:
            given = obj.to_fields()
        except (TypeError, ValueError) as error:
            raise type(error)(f"cannot save {where}: {error}") from None
        node: dict[str, Any] = {"values": {}, "arrays": {}, "parts": {}}
        for name, value in given.items():
            place = f"{where}.{name}"
            if _all(value, _is_part):
                node["parts"][name] = _each(lambda x, _, at: self.add(x, at), value, name, place)
            elif _all(value, lambda x: isinstance(x, np.ndarray)):
                node["arrays"][name] = value
            else:
                encode(value, (place,))  # an error here names the place
                node["values"][name] = value
        for name, value in node["arrays"].items():  # after the parts, whose nodes come before
            node["arrays"][name] = _each(self._array, value, name, "")
        node["read_only"] = [
            name
            for name in node["arrays"]
            if is_dataclass(obj) and not any(x.flags.writeable for x in _entries(given[name]))
        ]
        return {"class": kind} | {key: value for key, value in node.items() if value}

    def _array(self, x: np.ndarray, name: str, _: str) -> str:
        name = f"{len(self.nodes)}.{name}"
        self.arrays[name] = x
        return name


# ---------------------------------------------------------------- out of nodes, into objects


def _rebuild(meta: Meta, arrays: Arrays) -> Any:
    """The object of the last node; takes the arrays out of the dict one by one."""
    nodes = meta.get("nodes")
    if type(nodes) is not list or not nodes:
        raise ValueError("damaged: no list of nodes")
    built: list[Any] = []
    limits = _Limits()
    for number, node in enumerate(nodes):
        if type(node) is not dict or type(node.get("class")) is not str:
            raise ValueError(f"damaged: node {number} names no class")
        kind = node["class"]
        cls = _Transpose if kind == TRANSPOSE else class_named(kind, f"node {number}")
        try:
            made = make(cls, _fields(node, is_dataclass(cls), arrays, built, limits))
            limits.made(made)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"node {number} ({kind}): {error}{_unnamed(node, str(error))}"
            ) from None
        built.append(made)
    idle = set(range(len(nodes) - 1)) - {i for node in nodes for i in _flat(node.get("parts", {}))}
    if arrays:
        raise ValueError(f"damaged: no node has the array {min(arrays)!r}")
    if idle:
        raise ValueError(f"damaged: node {min(idle)} is part of nothing")
    return built[-1]


class _Transpose(Stored):
    """Stands for the transpose of an operator."""

    stored_fields = {"base": OPERATOR}

    @classmethod
    def from_fields(cls, base: Any) -> Any:
        return base.T


def _unnamed(node: dict[str, Any], text: str) -> str:
    """The fields of a node, for an error that names none of them."""
    keys = (node.get(key) for key in ("values", "arrays", "parts"))
    names = [name for found in keys if type(found) is dict for name in found]
    if not names or any(re.search(rf"\b{re.escape(name)}\b", text) for name in names):
        return ""
    return f" (its fields are {', '.join(names)[:200]})"


def _fields(node: Meta, writeable: bool, arrays: Arrays, built: list[Any], limits: _Limits) -> Meta:
    """The fields of a node, its arrays and parts looked up."""
    values, names, parts = (node.get(key, {}) for key in ("values", "arrays", "parts"))
    read_only = node.get("read_only", [])
    if [type(x) for x in (values, names, parts, read_only)] != [dict, dict, dict, list]:
        raise ValueError("values, arrays and parts must be objects, read_only a list")
    for i in _flat(parts):
        if type(i) is not int or not 0 <= i < len(built):
            raise ValueError(f"a part must be the number of an earlier node, got {str(i)[:40]}")
    limits.parts(_flat(parts))

    def array(name: Any, field: str) -> np.ndarray:
        if type(name) is not str or name not in arrays:
            raise ValueError(f"there is no array {str(name)[:60]!r}, or it is used twice")
        x = arrays.pop(name)
        if not writeable or field in read_only:
            x.flags.writeable = False
        return x

    def look_up(function: Callable[[Any, str], Any], found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: tuple(function(x, name) for x in value)
            if type(value) is list
            else function(value, name)
            for name, value in found.items()
        }

    found = [values, look_up(array, names), look_up(lambda i, _: built[i], parts)]
    given = {name: value for part in found for name, value in part.items()}
    if len(given) < sum(map(len, found)):
        raise ValueError("a field is given twice")
    return given
