"""The data of a system of regression equations: what is given, checked, with its names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from ..._common.frames import is_frame, is_series, read_columns, read_table
from ..._common.labels import by_label, check_distinct
from ..._common.typing import FloatArray, IntArray
from ..._common.wording import counted
from .system import StackedSystem

__all__ = ["SURData", "Shared", "SystemNames", "by_equation", "check_names", "default_names",
           "read_equations"]


class SystemNames(NamedTuple):
    """What the user calls equations, regressors and rows."""

    equations: tuple[str, ...]  # K
    regressors: tuple[tuple[str, ...], ...]  # K of p_j
    rows: Any = None  # pandas.Index, where the data had one
    constraints: tuple[str, ...] = ()  # m

    def coefficients(self):
        """(equation, regressor) of all coefficients, equation by equation."""
        return [(equation, regressor) for equation, own
                in zip(self.equations, self.regressors, strict=True) for regressor in own]


@dataclass(frozen=True, eq=False)
class SURData:
    """K equations with N rows each, of one dtype.

    Equations that share regressors have the same object in `Xs`.  The error of equation j in row t
    has covariance ``Σ / w``: ``Σ_jj / w_tj`` for a variance.  Constraints are ``R β = q`` for the
    coefficients of all equations, one after the other.
    """

    Xs: list[FloatArray]  # K of (N, p_j), finite, zeros in rows of missing cells
    Y: FloatArray  # (N, K), finite, zeros at missing cells
    observed: np.ndarray | None = None  # (N, K) of bool, which cells there are; None where all are
    weights: FloatArray | None = None  # (N, K), positive, of mean 1 in every equation; None: all 1
    constraints: tuple[FloatArray, FloatArray] | None = None  # R (m, P) and q (m,)
    names: SystemNames | None = None

    @property
    def N(self) -> int:
        """Number of rows."""
        return self.Y.shape[0]

    @property
    def K(self) -> int:
        """Number of equations."""
        return self.Y.shape[1]

    @property
    def equations(self) -> tuple[str, ...] | None:
        """Names of the equations (tuple of K str), or None."""
        return None if self.names is None else self.names.equations

    @property
    def p(self) -> IntArray:
        """Number of regressors of each equation, (K,)."""
        return np.array([X.shape[1] for X in self.Xs])

    @property
    def nobs(self) -> IntArray:
        """Number of cells of each equation, (K,)."""
        return np.full(self.K, self.N) if self.observed is None else self.observed.sum(axis=0)

    def system(self, order: Any = None, beta_ridge: float = 0.0) -> StackedSystem:
        """The equations as a `StackedSystem`, in another order where one is given."""
        order = np.arange(self.K) if order is None else order
        constraints = self.constraints
        if constraints is not None:
            columns = np.split(np.arange(self.p.sum()), np.cumsum(self.p)[:-1])
            R, q = constraints
            constraints = R[:, np.concatenate([columns[j] for j in order])], q
        observed, weights = (None if x is None else x[:, order]
                             for x in (self.observed, self.weights))
        names, numbers = {}, order
        if self.names is not None:
            numbers = [self.names.equations[j] for j in order]
            names = dict(regressors=[self.names.regressors[j] for j in order],
                         constraint_names=self.names.constraints)
        return StackedSystem([self.Xs[j] for j in order], self.Y[:, order], numbers,
                             observed=observed, weights=weights, constraints=constraints,
                             ridge=beta_ridge, **names)

    def in_double(self) -> "SURData":
        """The same equations in float64; these themselves if they are."""
        if self.Y.dtype == np.float64:
            return self
        as_double = Shared(lambda X: X.astype(np.float64))
        return replace(self, Xs=list(map(as_double, self.Xs)), Y=self.Y.astype(np.float64))

    def with_Y(self, Y: FloatArray) -> "SURData":
        """The same regressors with other dependent variables (N, K)."""
        if self.observed is not None:
            Y = np.where(self.observed, Y, 0)
        return replace(self, Y=Y.astype(self.Y.dtype, copy=False))

    def exact(self, coefficients: list[FloatArray]) -> list[FloatArray]:
        """Coefficients (list of K arrays) for which constraints hold to rounding of their terms.

        A solver gives them to rounding of the fitted values, which large regressors dominate, and
        1e-17 is not 0: a coefficient that one constraint fixes is set to its value.
        """
        if self.constraints is None:
            return coefficients
        R, q = self.constraints
        beta, alone = np.concatenate(coefficients), np.count_nonzero(R, axis=1) == 1
        unit = 1 / np.concatenate([np.linalg.norm(X, axis=0) for X in self.Xs])
        rows = R * unit  # by the coefficients of regressors of length 1
        size = np.abs(rows).max(axis=1, initial=0)
        rows, used = rows[size > 0] / size[size > 0, None], size > 0
        gap = (q - R @ beta)[used] / size[used]
        Z, T, order = scipy.linalg.qr(rows.T, mode="economic", pivoting=True)
        tol = 10 * max(rows.shape, default=1) * np.finfo(self.Y.dtype).eps
        rank = int(np.count_nonzero(np.abs(np.diagonal(T)) > tol))
        step = scipy.linalg.solve_triangular(T[:rank, :rank], gap[order[:rank]], trans="T")
        beta = beta + (unit * (Z[:, :rank] @ step)).astype(beta.dtype)
        for row, value in zip(R[alone], q[alone], strict=True):
            i = np.flatnonzero(row)[0]
            beta[i] = value / row[i]
        return np.split(beta, np.cumsum(self.p)[:-1])

    def take(self, rows: Any) -> "SURData":
        """The equations on some rows only; the weights stay as they are."""
        observed, weights = (None if x is None else x[rows] for x in (self.observed, self.weights))
        names = self.names
        if names is not None and names.rows is not None:
            names = names._replace(rows=names.rows[rows])
        return SURData(list(map(Shared(lambda X: X[rows]), self.Xs)), self.Y[rows], observed,
                       weights, self.constraints, names)


class Shared:
    """A function of objects that equations may share: computed once for each object."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any, *args: Any) -> Any:
        if id(x) not in self._known:
            self._known[id(x)] = x, self._function(x, *args)  # x is kept: its id stays its own
        return self._known[id(x)][1]

    def __reduce__(self) -> Any:
        return Shared, (self._function,)  # in another process objects have other ids


def read_equations(Xs: Any, Y: Any) -> SURData:
    """`SURData` of the arrays or frames that `als_gls` is given.

    Rows are those of Y where it has labels, else of the first X that has some.  The same object
    given for several equations stays one array.
    """
    if getattr(Xs, "ndim", 3) != 3 and not is_frame(Xs):
        raise _no_list(Xs)
    table = read_table(Y, "Y", ndim=2)
    N, K = table.values.shape
    # Views of an array of three dimensions stay themselves while the list lives.
    Xs, equations = by_equation(Xs, table.columns, K)
    whats = [f"X of equation {name}" for name in equations or range(K)]
    read = list(map(Shared(lambda X, what: read_columns(X, what) if is_series(X)
                           else read_table(X, what, ndim=2)), Xs, whats))
    rows = next((part.index for part in (table, *read) if part.index is not None), None)
    table.check_finite("Y", "equation", equations)
    read = list(map(Shared(lambda X, what: _in_order(X, rows, what, N)), read, whats))
    dtype = np.result_type(table.values.dtype, *{X.values.dtype for X in read})
    names = None
    if equations is not None or rows is not None or any(X.columns for X in read):
        regressors = tuple(X.columns or default_names(X.values.shape[1]) for X in read)
        names = SystemNames(equations or tuple(f"y{j}" for j in range(K)), regressors, rows)
        check_names(names)
    as_dtype = Shared(lambda X: X.values.astype(dtype, copy=False))
    return SURData(list(map(as_dtype, read)), table.values.astype(dtype, copy=False), names=names)


def _in_order(table, rows, what, N):
    """The regressors of an equation in the order of the rows."""
    table = table.in_order(rows, what)
    n, p = table.values.shape
    if n != N:
        raise ValueError(f"{what} has {counted(n, 'row')}, Y has {N}: every equation needs the same"
                         " rows")
    if N <= p:
        raise ValueError(f"{what.removeprefix('X of ')} has {counted(p, 'regressor')} and"
                         f" {counted(N, 'row')}; more rows than regressors are needed")
    table.check_finite(what, "column", table.columns)
    return table


def by_equation(given: Any, names: Sequence[str] | None, K: int) -> tuple[list[Any], Any]:
    """What is given for each of K equations, in their order, and the names of the equations.

    A list has one for each.  A dict is read by the `names`, or gives them where there are none.  A
    frame, or an array of two dimensions, is for all of them.
    """
    if is_frame(given) or getattr(given, "ndim", None) == 2:
        return [given] * K, names
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise _no_list(given)
    named = isinstance(given, Mapping)
    if K == 0 or len(given) != K and not (named and names):
        raise ValueError("Xs must hold one array for each equation (column of Y), at least one, got"
                         f" {len(given)} for {counted(K, 'equation')}")
    if not named:
        return list(given), names
    if names is None and set(map(str, given)) != set(map(str, range(K))):
        names = tuple(map(str, given))
    return list(by_label(given, names, "Xs", "equation")), names


def _no_list(given):
    return TypeError("Xs must be a list of K arrays (N, p_j), one an equation, a dict of them by"
                     f" equation or one frame for all, got {type(given).__name__}")


def default_names(p: int) -> tuple[str, ...]:
    """What regressors without names are called."""
    return tuple(f"x{i}" for i in range(p))


def check_names(names: SystemNames) -> None:
    """Refuse two equations, or two regressors of an equation, of the same name."""
    check_distinct(names.equations, "equations")
    for name, regressors in zip(names.equations, names.regressors, strict=True):
        check_distinct(regressors, f"regressors of equation {name}")
