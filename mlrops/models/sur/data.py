"""The data of a system of regression equations: what is given, checked, with its names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..._wording import counted, name_some
from ...operators._validate import as_finite
from ..frames import frame_values
from .system import StackedSystem

__all__ = ["SURData", "SystemNames", "read_equations"]


class SystemNames(NamedTuple):
    """What the user calls equations, regressors and rows."""

    equations: tuple  # of K str
    regressors: tuple  # of K tuples of p_j str
    rows: object = None  # pandas.Index, where the data had one
    constraints: tuple = ()  # of m str


@dataclass(frozen=True, eq=False)
class SURData:
    """K equations with N rows each, of one dtype.

    Attributes
    ----------
    Xs : list of K ndarray, shapes (N, p_j)
        Regressors, finite; the same object where equations share one.  Rows of missing cells hold
        zeros.
    Y : ndarray, shape (N, K)
        Dependent variables, finite; zeros at missing cells.
    observed : ndarray of bool, shape (N, K), or None
        Which cells there are; None where all are.
    weights : ndarray, shape (N, K), or None
        The error of equation j in row t has covariance ``Σ / w``: ``Σ_jj / w_tj`` for a variance.
        Positive, of mean 1 in every equation.  None where all are 1.
    constraints : (ndarray (m, P), ndarray (m,)) or None
        ``R β = q`` for the coefficients of all equations, one after the other.
    names : SystemNames or None
    """

    Xs: list
    Y: np.ndarray
    observed: np.ndarray | None = None
    weights: np.ndarray | None = None
    constraints: tuple | None = None
    names: SystemNames | None = None

    @property
    def N(self):
        """Number of rows."""
        return self.Y.shape[0]

    @property
    def K(self):
        """Number of equations."""
        return self.Y.shape[1]

    @property
    def p(self):
        """Number of regressors of each equation, (K,)."""
        return np.array([X.shape[1] for X in self.Xs])

    @property
    def nobs(self):
        """Number of cells of each equation, (K,)."""
        return np.full(self.K, self.N) if self.observed is None else self.observed.sum(axis=0)

    def system(self, order=None, beta_ridge=0.0):
        """The equations as a `StackedSystem`, in another order where one is given."""
        order = np.arange(self.K) if order is None else order
        constraints = self.constraints
        if constraints is not None:
            columns = np.split(np.arange(self.p.sum()), np.cumsum(self.p)[:-1])
            R, q = constraints
            constraints = R[:, np.concatenate([columns[j] for j in order])], q
        observed, weights = (None if x is None else x[:, order]
                             for x in (self.observed, self.weights))
        said = {}
        if self.names is not None:
            numbers = [self.names.equations[j] for j in order]
            said = dict(regressors=[self.names.regressors[j] for j in order],
                        constraint_names=self.names.constraints)
        else:
            numbers = order
        return StackedSystem([self.Xs[j] for j in order], self.Y[:, order], numbers,
                             observed=observed, weights=weights, constraints=constraints,
                             ridge=beta_ridge, **said)

    def in_double(self):
        """The same equations in float64; these themselves if they are."""
        if self.Y.dtype == np.float64:
            return self
        known = {id(X): X.astype(np.float64) for X in self.Xs}
        return replace(self, Xs=[known[id(X)] for X in self.Xs], Y=self.Y.astype(np.float64))

    def with_Y(self, Y):
        """The same regressors with other dependent variables (N, K)."""
        if self.observed is not None:
            Y = np.where(self.observed, Y, 0)
        return replace(self, Y=Y.astype(self.Y.dtype, copy=False))

    def exact(self, coefficients):
        """Coefficients (list of K arrays) for which constraints hold to rounding of their terms.

        They come out of a solver to rounding of fitted values, which large regressors dominate, and
        1e-17 in place of 0 would be told from 0: what one constraint gives is set to its value.
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
        tol = 10 * max(rows.shape) * np.finfo(self.Y.dtype).eps
        beta = beta + (unit * scipy.linalg.lstsq(rows, gap, cond=tol, lapack_driver="gelsy")[0]
                       ).astype(beta.dtype)
        for row, value in zip(R[alone], q[alone], strict=True):
            i = np.flatnonzero(row)[0]
            beta[i] = value / row[i]
        return np.split(beta, np.cumsum(self.p)[:-1])

    def take(self, rows):
        """The equations on some rows only; the weights stay as they are."""
        known = {}
        for X in self.Xs:
            if id(X) not in known:
                known[id(X)] = X[rows]
        observed, weights = (None if x is None else x[rows] for x in (self.observed, self.weights))
        names = self.names
        if names is not None and names.rows is not None:
            names = names._replace(rows=names.rows[rows])
        return SURData([known[id(X)] for X in self.Xs], self.Y[rows], observed, weights,
                       self.constraints, names)


def read_equations(Xs, Y):
    """`SURData` of the arrays or DataFrames that `als_gls` is given.

    The same object given for several equations stays one array.
    """
    equations = rows = None
    if hasattr(Y, "columns") and hasattr(Y, "index"):
        equations, rows = tuple(map(str, Y.columns)), Y.index
        Y = frame_values(Y, "Y")
    Y = as_finite(Y, "Y", ndim=2, axis_name="equation", axis=1)
    N, K = Y.shape
    if (isinstance(Xs, (str, Mapping)) or not hasattr(Xs, "__len__")
            or getattr(Xs, "ndim", 3) != 3):
        raise TypeError("Xs must be a list of K arrays (N, p_j), one an equation, got"
                        f" {type(Xs).__name__}")
    if len(Xs) != K or K == 0:
        raise ValueError("Xs must hold one array for each column of Y, at least one, got"
                         f" {len(Xs)} for Y of shape {Y.shape}")
    Xs, known, labels = list(Xs), {}, {}  # views of an array of three dimensions stay themselves
    for j, X in enumerate(Xs):
        if id(X) in known:
            continue
        if hasattr(X, "columns") and hasattr(X, "index"):
            labels[id(X)] = tuple(map(str, X.columns))
            if rows is not None and not X.index.equals(rows):
                raise ValueError(f"X of equation {equations[j]} and Y must have the same index"
                                 " (row labels), in the same order")
        known[id(X)] = _as_design(X, j, N)
    dtype = np.result_type(Y.dtype, *{X.dtype for X in known.values()})
    known = {key: X.astype(dtype, copy=False) for key, X in known.items()}
    names = None
    if equations is not None or labels:
        names = SystemNames(
            equations or tuple(f"y{j}" for j in range(K)),
            tuple(labels.get(id(X)) or tuple(f"x{i}" for i in range(known[id(X)].shape[1]))
                  for X in Xs), rows)
        check_distinct(names)
    return SURData([known[id(X)] for X in Xs], Y.astype(dtype, copy=False), names=names)


def check_distinct(names):
    """Refuse two equations, or two regressors of an equation, of the same name."""
    for what, labels in (("equations", names.equations),
                         *((f"regressors of equation {name}", regressors) for name, regressors
                           in zip(names.equations, names.regressors, strict=True))):
        twice = [label for i, label in enumerate(labels) if label in labels[:i]]
        if twice:
            raise ValueError(f"{what} must have different names, got {name_some(twice)} twice")


def _as_design(X, j, N):
    what = f"X of equation {j}"
    X = frame_values(X, what) if hasattr(X, "columns") and hasattr(X, "index") else X
    X = as_finite(X, what, ndim=2, axis_name="column", axis=1)
    if len(X) != N:
        raise ValueError(f"X of equation {j} has {counted(len(X), 'row')}, Y has {N}: every"
                         " equation needs the same rows")
    if N <= X.shape[1]:
        raise ValueError(f"equation {j} has {counted(X.shape[1], 'regressor')} and"
                         f" {counted(N, 'row')}; more rows than regressors are needed")
    return X
