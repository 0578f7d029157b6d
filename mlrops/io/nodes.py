"""The table of what can be saved: each class's fields, and what makes the object of them again.

`mlrops.io` describes the file; here a file's fields, already looked up, pass the checks of the
constructors.
"""

import types
import typing
from dataclasses import MISSING, fields
from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, issparse

from .._common.driver import CONVERGED, TERMINATIONS, current_termination
from .._common.validate import as_finite, as_positive
from .._common.wording import counted
from ..factor.result import FactorModelResult
from ..fitting.fit_result import MLRFit, RankAllocation
from ..operators import (
    MLR,
    BlockDiagonal,
    Dense,
    Diagonal,
    GeneralMLR,
    Identity,
    Inverse,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    MLRInverse,
    Permutation,
    Product,
    Scaled,
    StructuredOperator,
    Sum,
    Transposed,
    Woodbury,
    Wrapped,
)
from ..operators.general.checks import check_pair
from ..operators.mlr import check_ranks
from ..operators.woodbury import WoodburyInverse
from ..regression.sur.result import SURResult
from ..tree.hierarchy import Hierarchy
from .fields import (
    BOUNDARY,
    CAPPED,
    COUNT,
    FINITE,
    FLAG,
    NAMES,
    NOT_NEGATIVE,
    check_capped,
    check_fields,
    floats,
    instance,
    integers,
    maybe,
    one_of,
    tuple_of,
)
from .fit_nodes import fit_fields, make_allocation, make_fit
from .system_nodes import make_system, system_fields

__all__ = ["MAKERS", "TABLE", "TRANSPOSE", "Limits", "check_node"]

TRANSPOSE = "transpose"

# What a small file may ask for.  Operators hand a question on to their parts, so a shared part is
# asked once for each way that leads to it; a transposed sparse array has one offset for each column
# of the original; and a low rank update is inverted by a k×k matrix.
MAX_DEPTH = 100
MAX_PARTS = 100_000
MAX_ORDER = 2**46
MAX_EMPTY_COLUMNS = 2**25
MAX_WIDTH = 16


class Limits:
    """Keeps count while the nodes of one file are written or read, and raises ValueError."""

    def __init__(self):
        self._sizes = []
        self._empty = 0

    def parts(self, numbers):
        """The next node has the earlier nodes of these numbers as parts."""
        depths, parts = zip((0, 0), *(self._sizes[i] for i in numbers), strict=True)
        depth, total = 1 + max(depths), 1 + sum(parts)
        if depth > MAX_DEPTH or total > MAX_PARTS:
            raise ValueError(f"operators may be nested {MAX_DEPTH} deep and have {MAX_PARTS:,}"
                             f" parts, got {depth} and {total:,}")
        self._sizes.append((depth, total))

    def made(self, obj):
        """The object of that node."""
        order = max(getattr(obj, "shape", (0,)))
        if order > MAX_ORDER:
            raise ValueError(f"operators may be of order {MAX_ORDER:,}, got {order:,}")
        if isinstance(obj, Wrapped):
            self._empty += max(0, obj.shape[1] - 16 * (obj.shape[0] + obj.A.nnz))
            if self._empty > MAX_EMPTY_COLUMNS:
                raise ValueError(f"sparse arrays may have {MAX_EMPTY_COLUMNS:,} empty columns")


# ---------------------------------------------------------------- what needs more than its class


def _one_dtype(**arrays):
    found = {name: x.dtype for name, x in arrays.items()}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} must be of one dtype, got"
                         f" {' and '.join(map(str, found.values()))}")


def _or_none(V, U):
    return None if V is U else V


def _hierarchy(permutation, boundaries, names, feature_names=None):
    h = Hierarchy(permutation, boundaries)
    if type(names) is not tuple or len(names) != h.n_levels:
        raise ValueError(f"names must have {counted(h.n_levels, 'entry')}, one tuple or None a"
                         " level")
    for level, (given, p) in enumerate(zip(names, h.group_counts, strict=True)):
        if given is not None and (type(given) is not tuple or len(given) != p):
            raise ValueError(f"names of level {level} must be a tuple of {p}, one a group")
    if feature_names is not None and not (
            type(feature_names) is tuple and len(feature_names) == h.n
            and all(isinstance(name, str) for name in feature_names)):
        raise ValueError(f"feature_names must be None or a tuple of {h.n} strings, one a feature")
    return Hierarchy._make(h.permutation, h.boundaries, names, feature_names)


def _mlr(hierarchy, ranks, F, D):
    ranks = check_ranks(ranks, hierarchy)
    _one_dtype(F=F, D=D)
    F = as_finite(F, "F", ndim=2, axis_name="tree position")
    if F.shape != (hierarchy.n, sum(ranks)):
        raise ValueError(f"F must have shape (n, R) = {(hierarchy.n, sum(ranks))}, got {F.shape}")
    return MLR._from_tree(hierarchy, ranks, F, as_positive(D, "D", hierarchy.n))


def _general(rows, cols, ranks, B, C, symmetric, equal_to):
    check_pair(rows, cols)
    ranks = check_ranks(ranks, rows)
    C = B if C is None else C
    _one_dtype(B=B, C=C)
    for name, x, h in (("B", B, rows), ("C", C, cols)):
        if as_finite(x, name, ndim=2, axis_name="tree position").shape != (h.n, sum(ranks)):
            raise ValueError(f"{name} must have shape {(h.n, sum(ranks))}, got {x.shape}")
    A = GeneralMLR._from_tree(rows, cols, ranks, B, C)
    if (symmetric and not A.symmetric) or equal_to is not None:
        # Known from the operands when it was made; here a product with any vector has to show it.
        x = np.random.default_rng(0).standard_normal(rows.n).astype(A.dtype)
        others = [A.rmatvec] if symmetric else []
        if equal_to is not None:
            others.append(equal_to.matvec)
        y, rounding = A.matvec(x), 1e3 * max(A.shape) * np.finfo(A.dtype).eps
        size = float(np.linalg.norm(B) * np.linalg.norm(C) * np.linalg.norm(x))
        if not all(np.linalg.norm(y - other(x)) <= rounding * size for other in others):
            raise ValueError("tagged symmetric or equal to a product, but it is not")
        A = GeneralMLR._from_tree(rows, cols, ranks, B, C, symmetric, equal_to)
    return A


def _general_fields(A):
    return {"rows": A.rows, "cols": A.cols, "ranks": A.ranks, "B": A._B,
            "C": _or_none(A._C, A._B), "symmetric": A.symmetric, "equal_to": A._known_form}


def _mlr_inverse(base):
    return base.inv()


def _woodbury(base, U, C, V, positive_definite):
    A = Woodbury(base, U, C, V)
    if positive_definite and not A.positive_definite:
        # Known from the terms of a sum when it was made; here its square root has to show it.
        if not (A.symmetric and A.base.positive_definite):
            raise ValueError("tagged positive definite, but not symmetric or not an update of a"
                             " positive definite operator")
        A = Woodbury(base, U, C, V, _positive_definite=True)
        _ = A._root
    return A


def _woodbury_fields(A):
    given = {"base": A.base, "U": A.U, "C": A.C, "V": _or_none(A.V, A.U),
             "positive_definite": A.positive_definite}
    _woodbury(**given)  # what cannot be shown again is not saved either
    return given


def _dense_fields(A):
    if A.positive_definite:
        _ = A._cholesky  # likewise
    return {"A": A.A, "symmetric": A.symmetric, "positive_definite": A.positive_definite}


def _invertible(base):
    """`base`, once it is known that its inverse is not much larger than itself."""
    n, k = (base.F if isinstance(base, LowRankPlusDiagonal) else base.U).shape
    if k > MAX_WIDTH * max(n, 4):
        raise ValueError(f"an update of rank k = {k} of n = {counted(n, 'feature')} has an inverse"
                         " of k×k numbers, which is not saved")
    return base


def _woodbury_inverse(base):
    return _invertible(base).inv()


def _sparse_arrays(A):
    if not issparse(A.A):
        raise TypeError(f"it wraps a {type(A.A).__name__} of another package, which has no arrays"
                        " to save")
    return {"data": A.A.data, "indices": A.A.indices, "indptr": A.A.indptr, "shape": A.A.shape,
            "symmetric": A.symmetric, "positive_definite": A.positive_definite}


def _wrapped(data, indices, indptr, shape, symmetric, positive_definite):
    m, n = shape
    _check_csr(data, indices, indptr, m, n)
    A = csr_array((data, indices, indptr), shape=shape)
    return Wrapped(A, symmetric=symmetric, positive_definite=positive_definite)


def _check_csr(data, indices, indptr, m, n):
    """Refuse arrays that a product would follow to places that are not theirs.

    SciPy's own check looks no further where the last offset says that there are no entries.
    """
    if indptr.size != m + 1:
        raise ValueError(f"indptr must have m + 1 = {m + 1} entries, got {indptr.size}")
    if data.size != indices.size:
        raise ValueError(f"data and indices must be of one length, got {data.size} and"
                         f" {indices.size}")
    if indptr[0] != 0 or indptr[-1] > indices.size or (indptr[1:] < indptr[:-1]).any():
        raise ValueError("indptr must rise from 0 to the number of entries,"
                         f" {indices.size}, without a step down")
    if indices.size and not 0 <= indices.min() <= indices.max() < n:
        raise ValueError(f"indices must lie in 0 to n - 1 = {n - 1}, got {indices.min()} to"
                         f" {indices.max()}")


# ---------------------------------------------------------------- fitted models


def _result(**given):
    known = {f.name: f for f in fields(FactorModelResult) if f.init}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"it has a field {unknown[0][:60]!r}, unknown here: it was written by a"
                         " newer mlrops")
    hints = typing.get_type_hints(FactorModelResult)
    for name, value in given.items():
        optional = value is None and known[name].default is not MISSING
        if not optional and not isinstance(value, _types(hints[name])):
            raise TypeError(f"field {name!r} must not be of type {type(value).__name__}")
    missing = [name for name, f in known.items() if name not in given
               and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ValueError(f"it has no field {missing[0]!r}")
    given["termination"] = current_termination(given["termination"])
    check_fields(given, RESULT)
    result = FactorModelResult(**given)
    A, trace = result.covariance, result.loglik_trace
    n = A.shape[0]
    if result.mean.shape != (n,) or not np.isfinite(result.mean).all():
        raise ValueError(f"mean must hold {n} finite floats, got {result.mean.dtype} of shape"
                         f" {result.mean.shape}")
    if trace.shape != (result.n_iter + 1,) or not np.isfinite(trace).all():
        raise ValueError(f"loglik_trace must hold n_iter + 1 = {result.n_iter + 1} finite floats,"
                         f" got {trace.dtype} of shape {trace.shape}")
    if result.feature_names is not None and len(result.feature_names) != n:
        raise ValueError(f"feature_names must be {n}, got {len(result.feature_names)}")
    if result.boundary.size and result.boundary.max() >= n:
        raise ValueError(f"boundary must hold features, integers from 0 to {n - 1}")
    if result.converged and result.termination not in CONVERGED:
        raise ValueError(f"field 'converged' is True, but field 'termination' is"
                         f" {result.termination!r}")
    check_capped(result.capped, A.ranks, A.hierarchy.group_counts)
    return result


def _types(hint):
    """The types that a field of this annotation takes; NumPy's scalars count as numbers."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for option in typing.get_args(hint) for kind in _types(option))
    kind = origin or hint
    wider = {float: Real, int: Integral, bool: (bool, np.bool_)}
    return (wider.get(kind, kind) if isinstance(kind, type) else object,)


# ---------------------------------------------------------------- what fields may hold

OPERATOR = instance(StructuredOperator, "an operator")
OPERATORS = tuple_of(OPERATOR, "a list of operators")
TREE = instance(Hierarchy, "of type Hierarchy")
RANKS = tuple_of(COUNT, "a tuple of integers that are not negative, one a level")
DTYPE = one_of("float32", "float64")
TAGS = {"symmetric": FLAG, "positive_definite": FLAG}
CHECKS = {
    "Hierarchy": {"permutation": integers(),
                  "boundaries": tuple_of(integers(), "a list of vectors of signed integers"),
                  "names": tuple_of(maybe(NAMES), "a tuple of names or None, one a level"),
                  "feature_names": maybe(NAMES)},
    "MLR": {"hierarchy": TREE, "ranks": RANKS, "F": floats(2), "D": floats(1)},
    "MLRInverse": {"base": instance(MLR, "of type MLR")},
    "GeneralMLR": {"rows": TREE, "cols": TREE, "ranks": RANKS, "B": floats(2),
                   "C": maybe(floats(2)), "symmetric": FLAG, "equal_to": maybe(instance(
                       (MLR, Product, Scaled), "an MLR, a Product or a Scaled"))},
    "LowRankPlusDiagonal": {"F": floats(2), "D": floats(1)},
    "Woodbury": {"base": OPERATOR, "U": floats(2), "C": maybe(floats(2)), "V": maybe(floats(2)),
                 **TAGS},
    "WoodburyInverse": {"base": instance((Woodbury, LowRankPlusDiagonal),
                                         "a Woodbury or a LowRankPlusDiagonal")},
    "LowRank": {"U": floats(2), "V": maybe(floats(2))},
    "Diagonal": {"d": floats(1)},
    "Identity": {"n": COUNT, "dtype": DTYPE},
    "Permutation": {"p": integers(), "dtype": DTYPE},
    "Dense": {"A": floats(2), **TAGS},
    "Wrapped": {"data": floats(1), "indices": integers(), "indptr": integers(),
                "shape": tuple_of(COUNT, "a tuple of two integers that are not negative", 2),
                **TAGS},
    **dict.fromkeys(("Sum", "Product", "Kronecker", "BlockDiagonal"), {"ops": OPERATORS}),
    "Scaled": {"base": OPERATOR, "c": FINITE},
    **dict.fromkeys(("Transposed", "Inverse", TRANSPOSE), {"base": OPERATOR}),
}
RESULT = {"mean": floats(1), "loglik": FINITE, "loglik_trace": floats(1), "n_iter": COUNT,
          "converged": FLAG, "termination": one_of(*TERMINATIONS), "boundary": BOUNDARY,
          "n_samples": COUNT, "n_evaluations": COUNT, "gradient_norm": NOT_NEGATIVE,
          "feature_names": maybe(NAMES), "capped": CAPPED, "mean_is_estimated": FLAG}


def check_node(kind, given):
    """Refuse fields of a node of this class that are not of their kind."""
    check_fields(given, CHECKS.get(kind, {}))


# ---------------------------------------------------------------- the table


def _field(*names):
    return lambda A: {name: getattr(A, name) for name in names}


# class -> (object to its fields, fields to the object)
TABLE = {
    Hierarchy: (lambda h: {"permutation": h.permutation, "boundaries": h.boundaries,
                           "names": h._names, "feature_names": h.feature_names}, _hierarchy),
    MLR: (lambda A: {"hierarchy": A.hierarchy, "ranks": A.ranks, "F": A._F, "D": A._d}, _mlr),
    MLRInverse: (lambda A: {"base": A._inverse}, _mlr_inverse),
    GeneralMLR: (_general_fields, _general),
    LowRankPlusDiagonal: (_field("F", "D"), lambda F, D: LowRankPlusDiagonal(F, D)),
    Woodbury: (_woodbury_fields, _woodbury),
    WoodburyInverse: (lambda A: {"base": _invertible(A._inverse)}, _woodbury_inverse),
    LowRank: (lambda A: {"U": A.U, "V": _or_none(A.V, A.U)}, lambda U, V: LowRank(U, V)),
    Diagonal: (_field("d"), lambda d: Diagonal(d)),
    Identity: (lambda A: {"n": A.shape[0], "dtype": A.dtype.name},
               lambda n, dtype: Identity(n, np.dtype(dtype))),
    Permutation: (lambda A: {"p": A.p, "dtype": A.dtype.name},
                  lambda p, dtype: Permutation(p, np.dtype(dtype))),
    Dense: (_dense_fields,
            lambda A, symmetric, positive_definite: Dense(
                A, symmetric, positive_definite, _order="K")),
    Wrapped: (_sparse_arrays, _wrapped),
    Sum: (_field("ops"), lambda ops: Sum(ops)),
    Product: (_field("ops"), lambda ops: Product(ops)),
    Kronecker: (_field("ops"), lambda ops: Kronecker(ops)),
    BlockDiagonal: (_field("ops"), lambda ops: BlockDiagonal(ops)),
    Scaled: (_field("base", "c"), lambda base, c: Scaled(base, c)),
    Transposed: (_field("base"), lambda base: Transposed(base)),
    Inverse: (_field("base"), lambda base: Inverse(base)),
    FactorModelResult: (lambda r: {f.name: getattr(r, f.name) for f in fields(r) if f.init},
                        _result),
    SURResult: (system_fields, make_system),
    MLRFit: (fit_fields, make_fit),
    RankAllocation: (fit_fields, make_allocation),
}
MAKERS = {kind.__name__: make for kind, (_, make) in TABLE.items()} | {
    TRANSPOSE: lambda base: base.T}
