"""`save` and `load`: hierarchies, operators and fitted models as ``.npz`` files without pickles.

Layout of a file
----------------
A file is an archive of kind ``"object"`` as `mlrops.io.archive` lays it out: a zip of plain
``.npy`` arrays and one JSON text ``mlrops.json`` that names the format version.  Its ``meta`` holds
a list ``nodes``; parts come before what they are parts of, and the last node is the object itself.
A node is a JSON object with

``class``
    Name of a class in the table below.
``values``
    Numbers, strings, tuples and None by the name of their field.
``arrays``
    By the name of the field the name of an array of the archive, or a list of such names.
``parts``
    By the name of the field the number of an earlier node, or a list of such numbers.
``read_only``
    (FactorModelResult) names of the fields whose arrays are read-only.

An operator or hierarchy that is a part of several others is stored once, and is one object again
after loading.  An array belongs to one node.

==========================================  ========================================================
class                                       fields
==========================================  ========================================================
Hierarchy                                   permutation, boundaries (L arrays), names
MLR                                         hierarchy, ranks, D (n,), F (n, R): **rows in tree
                                            order**, row i belongs to feature ``permutation[i]``
MLRInverse, WoodburyInverse                 base: the operator that is inverted; the inverse is
                                            formed anew by ``base.inv()``
GeneralMLR                                  rows, cols, ranks, B (m, R), C (n, R) or None for B:
                                            **rows in tree order**; symmetric; equal_to: None, or
                                            the MLR, Product or Scaled equal to it
LowRankPlusDiagonal                         F, D
Woodbury                                    base, U, C, V, positive_definite; C None for the
                                            identity, V None for U
LowRank                                     U, V; V None for U
Diagonal, Identity, Permutation             d; n and dtype; p and dtype
Dense                                       A, symmetric, positive_definite
Wrapped                                     data, indices, indptr of a csr_array, shape, symmetric,
                                            positive_definite
Sum, Product, Kronecker, BlockDiagonal      ops
Scaled                                      base, c
Transposed, Inverse                         base
transpose                                   base: stands for ``base.T``
FactorModelResult                           its dataclass fields
SURResult                                   those of `mlrops.io.system_nodes`: X (the different
                                            regressors), X_of (which are whose), Y, observed, ...
MLRFit, RankAllocation                      their dataclass fields
==========================================  ========================================================
"""

import inspect
import re

import numpy as np

from ..factor.result import FactorModelResult
from ..fitting.fit_result import MLRFit, RankAllocation
from ..operators import StructuredOperator, Transposed
from ..regression.sur.result import SURResult
from ..tree.hierarchy import Hierarchy
from .archive import check_plain, check_regular, read_archive, reading, write_archive
from .nodes import MAKERS, TABLE, TRANSPOSE, Limits, check_node

__all__ = ["load", "save"]

KIND = "object"
# Their arrays belong to the user.
RESULTS = tuple(kind.__name__ for kind in (FactorModelResult, SURResult, MLRFit, RankAllocation))


def save(path, obj):
    """Write a hierarchy, an operator or a fitted model to a file.

    Parameters
    ----------
    path : str or os.PathLike
        Written exactly there: no suffix is appended, ``.npz`` is the usual one.  A file that is
        there already is replaced in one step, and stays as it is if anything fails.
    obj : Hierarchy, operator, FactorModelResult, SURResult, MLRFit or RankAllocation
        Operators of this package, built from arrays and from one another in any way.  Sparse
        arrays in a `Wrapped` are saved, operators of other packages cannot be.

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
    The module's docstring (``help(mlrops.io)``) documents it.  It is about as long as the arrays;
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
    check_regular(path)
    writer = _Writer()
    try:
        writer.add(obj, type(obj).__name__)
    except RecursionError:
        raise ValueError("cannot save an operator that is nested this deep; combine its parts"
                         ) from None
    write_archive(path, KIND, {"nodes": writer.nodes}, writer.arrays)


def load(path):
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
    meta, arrays = read_archive(path, KIND)
    with reading(path), np.errstate(all="ignore"):
        return _rebuild(meta, arrays)


# ---------------------------------------------------------------- out of objects, into nodes


def _all(value, kinds):
    """Whether `value` is of one of these kinds, or a tuple of such."""
    return isinstance(value, kinds) or (
        type(value) is tuple and value != () and all(isinstance(x, kinds) for x in value))


def _each(function, value, name, place):
    """`function` of one value or of each entry of a tuple, which becomes a list."""
    if type(value) is not tuple:
        return function(value, name, place)
    return [function(x, f"{name}.{i}", f"{place}[{i}]") for i, x in enumerate(value)]


def _flat(found):
    """The entries of a dict of single things and lists of things."""
    return [x for value in found.values() for x in (value if type(value) is list else [value])]


class _Writer:
    """Collects the nodes and arrays of an object, parts first."""

    def __init__(self):
        self.nodes, self.arrays = [], {}
        self._number = {}  # of each object, by identity
        self._alive = []  # no identity is given away twice
        self._limits = Limits()

    def add(self, obj, where):
        """The number of the node of `obj`."""
        if id(obj) in self._number:
            return self._number[id(obj)]
        if type(obj) not in TABLE:
            raise TypeError(
                f"cannot save {where}: expected a Hierarchy, a FactorModelResult, a SURResult, an"
                " MLRFit, a RankAllocation or an operator of mlrops that is made of arrays, got"
                f" {type(obj).__name__}"
            )
        node = self._node(obj, where)
        try:
            self._limits.parts(_flat(node["parts"]))
            self._limits.made(obj)
        except ValueError as error:
            raise ValueError(f"cannot save {where}: {error}") from None
        self._number[id(obj)] = len(self.nodes)
        self._alive.append(obj)
        self.nodes.append({key: value for key, value in node.items() if value})
        return self._number[id(obj)]

    def _node(self, obj, where):
        node = {"class": type(obj).__name__, "values": {}, "arrays": {}, "parts": {},
                "read_only": []}
        # A palindrome X M Xᵀ is known by the identity of X and of its transpose.
        pair = getattr(obj, "_transposed", None)
        if pair is not None and pair._transposed is obj and (
                id(pair) in self._number or type(obj) is Transposed):
            node["class"], node["parts"] = TRANSPOSE, {"base": self.add(pair, f"{where}.T")}
            return node
        try:
            given = TABLE[type(obj)][0](obj)
        except (TypeError, ValueError) as error:
            raise type(error)(f"cannot save {where}: {error}") from None
        arrays = []
        for name, value in given.items():
            place = f"{where}.{name}"
            if _all(value, (Hierarchy, StructuredOperator, FactorModelResult)):
                node["parts"][name] = _each(lambda x, _, at: self.add(x, at), value, name, place)
            elif _all(value, np.ndarray):
                arrays.append((name, value, place))
            else:
                check_plain(value, place)
                node["values"][name] = value
        for name, value, place in arrays:  # after the parts, whose nodes come before
            node["arrays"][name] = _each(self._array, value, name, place)
            if type(obj) is FactorModelResult and not any(
                    x.flags.writeable for x in (value if type(value) is tuple else (value,))):
                node["read_only"].append(name)
        return node

    def _array(self, x, name, place):
        name = f"{len(self.nodes)}.{name}"
        self.arrays[name] = x
        return name


# ---------------------------------------------------------------- out of nodes, into objects


def _rebuild(meta, arrays):
    """The object of the last node; takes the arrays out of the dict one by one."""
    nodes = meta.get("nodes")
    if type(nodes) is not list or not nodes:
        raise ValueError("damaged: no list of nodes")
    built, limits = [], Limits()
    for number, node in enumerate(nodes):
        if type(node) is not dict or type(node.get("class")) is not str:
            raise ValueError(f"damaged: node {number} names no class")
        kind = node["class"]
        if kind not in MAKERS:
            raise ValueError(f"node {number} is of class {kind[:60]!r}, which is unknown here")
        try:
            given = _fields(node, arrays, built, limits)
            check_node(kind, given)
            arguments = inspect.signature(MAKERS[kind]).bind(**given)
            made = MAKERS[kind](*arguments.args, **arguments.kwargs)
            limits.made(made)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"node {number} ({kind}): {error}{_unnamed(node, str(error))}"
                             ) from None
        built.append(made)
    idle = set(range(len(nodes) - 1)) - {i for node in nodes for i in _flat(node.get("parts", {}))}
    if arrays or idle:
        raise ValueError(f"damaged: no node has the array {min(arrays)!r}" if arrays else
                         f"damaged: node {min(idle)} is part of nothing")
    return built[-1]


def _unnamed(node, text):
    """The fields of a node, for an error that names none of them."""
    keys = (node.get(key) for key in ("values", "arrays", "parts"))
    names = [name for found in keys if type(found) is dict for name in found]
    if not names or any(re.search(rf"\b{re.escape(name)}\b", text) for name in names):
        return ""
    return f" (its fields are {', '.join(names)[:200]})"


def _fields(node, arrays, built, limits):
    """The fields of a node, its arrays and parts looked up."""
    values, names, parts = (node.get(key, {}) for key in ("values", "arrays", "parts"))
    read_only = node.get("read_only", [])
    if [type(x) for x in (values, names, parts, read_only)] != [dict, dict, dict, list]:
        raise ValueError("values, arrays and parts must be objects, read_only a list")
    for i in _flat(parts):
        if type(i) is not int or not 0 <= i < len(built):
            raise ValueError(f"a part must be the number of an earlier node, got {str(i)[:40]}")
    limits.parts(_flat(parts))

    def array(name, field):
        if type(name) is not str or name not in arrays:
            raise ValueError(f"there is no array {str(name)[:60]!r}, or it is used twice")
        x = arrays.pop(name)
        if node["class"] not in RESULTS or field in read_only:
            x.flags.writeable = False
        return x

    def look_up(function, found):
        return {name: tuple(function(x, name) for x in value) if type(value) is list
                else function(value, name) for name, value in found.items()}

    found = [values, look_up(array, names), look_up(lambda i, _: built[i], parts)]
    given = {name: value for part in found for name, value in part.items()}
    if len(given) < sum(map(len, found)):
        raise ValueError("a field is given twice")
    return given
