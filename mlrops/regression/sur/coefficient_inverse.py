r"""The inverse of the normal matrix of a system, applied to columns: one place, three ways.

For coefficients γ on orthonormal bases Q_j of the regressors the normal matrix is
``A = Xᵀ(Σ⁻¹⊗I)X``, row t of the data weighing with the inverse of the block of Σ that it shows.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..._common.cached import cached_property
from ..._common.convergence import ConvergenceWarning
from ..._common.typing import BoolArray, FloatArray, IntArray
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense
from ...operators.iterations import cg_in_runs
from .factor_elimination import Blocks, FactorElimination, size_of_elimination
from .system import StackedSystem, inverse_diagonal

__all__ = ["MOST_COEFFICIENTS", "CoefficientInverse"]

# Coefficients up to which A is formed as one dense matrix (128 MB, and as much for its factor).
MOST_COEFFICIENTS = 4000
# Factors on the widest path times rows, and numbers in all, up to which factors are eliminated
# exactly: 128 MB for one front, of which six or so are held at a time, 800 MB for all groups.
MOST_PATH, MOST_NUMBERS = 4000, 100_000_000
# What a pattern of missing cells adds to a number of the dense A, in flops (measured, 40 ns).
PATTERN = 500
# Numbers in the largest temporary of a chunk of columns.
CHUNK = 20_000_000
RTOL, MAX_ITER = 1e-10, 1000
# A coefficient is fixed when of its squared length no more is left free by the constraints.
FREE = 1e-12


class CoefficientInverse:
    r"""Covariance of generalized least squares, applied to columns.

    Without a ridge and constraints :math:`A^{-1}`.  A ridge :math:`\Lambda` shrinks and makes it
    the sandwich :math:`H A H = H - H \Lambda H`, :math:`H = (A + \Lambda)^{-1}`.  Constraints
    ``Cᵀγ = q`` replace H by ``H - H C (Cᵀ H C)⁻¹ Cᵀ H``, singular in the directions they fix.

    A is inverted by one of three routes, which all give the same numbers: "dense", as one matrix,
    for up to 4000 coefficients; "factors", see `FactorElimination`, for an MLR or a low rank plus
    diagonal Σ whose factors along a path of the tree, times rows, are at most 4000; and "cg", a run
    of conjugate gradients a column, scaled by the diagonal of A, to a relative residual of 1e-10.
    By default it is the one of the first two that takes fewer operations (elimination where its
    fronts are at most P / 2 wide; wider ones where A is a sum over many patterns of missing cells),
    and the last where neither fits.
    """

    def __init__(self, system: StackedSystem, covariance: StructuredOperator,
                 route: Literal["dense", "factors", "cg"] | None = None) -> None:
        self.system = system
        self.route = route or _choose(system, covariance)
        makers: dict[str, Any] = {"dense": _DenseInverse, "factors": FactorElimination,
                                  "cg": _IterativeInverse}
        self._inverse = makers[self.route](system, covariance)
        C, self._root = system.constraint_columns, None
        if C is not None and C.shape[1]:  # U, ``H - U Uᵀ`` the inverse on what constraints allow
            HC = self._inverse.times(C)
            gram = C.T @ HC
            self._root = Dense((gram + gram.T) / 2, positive_definite=True).whiten(HC.T).T

    def bread(self, V: FloatArray) -> FloatArray:
        """``H V`` for V (P, m) in the coordinates γ, constraints minded."""
        out = self._inverse.times(V)
        return out if self._root is None else out - self._root @ (self._root.T @ V)

    def sandwich(self, V: FloatArray) -> FloatArray:
        """``H A H V``, the covariance of the coefficients γ times V (P, m)."""
        out = self.bread(V)
        if self.system.ridge:
            out -= self.bread(self.system.penalty[:, None] * out)
        return out

    def times(self, V: FloatArray) -> FloatArray:
        """The covariance of the coefficients β, equation by equation, times V (P, m)."""
        out = np.concatenate(self.system.coefficients(self.sandwich(self.system.pull(V))))
        out[self.fixed] = 0
        return out

    def matrix(self) -> FloatArray:
        """The covariance of the coefficients β as an array (P, P)."""
        system = self.system
        out = self._inverse.matrix()
        if self._root is not None:
            out = out - self._root @ self._root.T
        if system.ridge:
            out = out - out @ (system.penalty[:, None] * out)
        for _ in range(2):  # B⁻¹ from the left, and from the right
            out = np.ascontiguousarray(np.concatenate(system.coefficients(out)).T)
        out[self.fixed], out[:, self.fixed] = 0, 0
        return (out + out.T) / 2

    def blocks(self) -> list[FloatArray]:
        """Diagonal blocks of the covariance of β, list of K arrays (p_j, p_j)."""
        system, U = self.system, self._root
        free, shrinkage = self._inverse.blocks()
        found = [H.copy() for H in free]
        if U is not None:
            parts = [u for _, u in system.parts(U)]
            found = [H - u @ u.swapaxes(1, 2) for H, u in zip(found, parts, strict=True)]
        if shrinkage is not None:
            found = [H - S for H, S in zip(found, shrinkage, strict=True)]
        if U is not None and shrinkage is not None:
            pulled = system.penalty[:, None] * U
            middle, cross = U.T @ pulled, system.parts(self._inverse.times(pulled))
            for H, u, (_, w) in zip(found, parts, cross, strict=True):
                wu = w @ u.swapaxes(1, 2)
                H += wu + wu.swapaxes(1, 2) - u @ middle @ u.swapaxes(1, 2)
        out: list[FloatArray] = [np.empty(0)] * system.K
        fixed = np.split(self.fixed, np.cumsum(system.widths)[:-1])
        for batch, H in zip(system.batches, found, strict=True):
            H = batch.inverse @ H @ batch.inverse.swapaxes(1, 2)
            for j, block in zip(batch.equations, (H + H.swapaxes(1, 2)) / 2, strict=True):
                block[fixed[j]], block[:, fixed[j]] = 0, 0
                out[j] = block
        return out

    @cached_property
    def fixed(self) -> BoolArray:
        """Which coefficients β the constraints fix, (P,), equation by equation.

        Those whose rows of B⁻¹ lie in the span of C; their variance is 0, not rounding.
        """
        system, Z = self.system, self.system.constraint_columns
        if self._root is None:
            return np.zeros(system.P, bool)
        out = [np.empty(0)] * system.K
        for batch, z in system.parts(Z):
            inside = np.square(batch.inverse @ z).sum(axis=2)
            whole = np.square(batch.inverse).sum(axis=2)
            for j, fixed in zip(batch.equations, inside >= (1 - FREE) * whole, strict=True):
                out[j] = fixed
        return np.concatenate(out)


def _choose(system: StackedSystem, covariance: StructuredOperator) -> str:
    """The exact way that costs less, of those that fit in memory; else the iterative one."""
    path, numbers = size_of_elimination(system, covariance)
    fits = path <= MOST_PATH and numbers <= MOST_NUMBERS
    if system.P > MOST_COEFFICIENTS:
        return "factors" if fits else "cg"
    cost = system.P**2
    if system.observed is not None and fits:
        cost += PATTERN * system.P * system.weigh(covariance).cells.n_patterns
    return "factors" if fits and 4 * path**2 <= cost else "dense"


class _ByColumns:
    """H whose columns are known: its diagonal blocks from all of them, a chunk at a time."""

    system: StackedSystem
    columns: Callable[..., FloatArray]  # columns (P, m) of H by their numbers

    def blocks(self) -> Blocks:
        system, blocks, shrinkage = self.system, [], []
        for _, numbers in system.parts(np.arange(system.P)):
            g, p = numbers.shape
            H, S = np.empty((2, g, p, p), system.dtype)
            step = max(1, CHUNK // (system.P * max(p, 1)))
            for some in (slice(first, first + step) for first in range(0, g, step)):
                own = numbers[some]
                X = self.columns(own.ravel()).reshape(system.P, len(own), p)
                H[some] = X[own[:, :, None], np.arange(len(own))[:, None, None], np.arange(p)]
                if system.ridge:
                    weighted = system.penalty[:, None, None] * X
                    S[some] = np.einsum("agi,agj->gij", X, weighted)
            blocks.append(H)
            shrinkage.append(S)
        return blocks, shrinkage if system.ridge else None


class _DenseInverse(_ByColumns):
    """H from the dense matrix ``A + Λ``."""

    def __init__(self, system: StackedSystem, covariance: StructuredOperator) -> None:
        self.system = system
        normal = _normal_matrix(system, covariance)
        self.H = Dense((normal + normal.T) / 2, positive_definite=True).solve(
            np.eye(system.P, dtype=normal.dtype))

    def times(self, V: FloatArray) -> FloatArray:
        return self.H @ V

    def matrix(self) -> FloatArray:
        return self.H

    def columns(self, numbers: IntArray) -> FloatArray:
        return self.H[:, numbers]


def _normal_matrix(system: StackedSystem, covariance: StructuredOperator) -> FloatArray:
    """``A + Λ``, dense (P, P); the rows that show the same cells share one block of Σ."""
    if system.observed is None:
        precision = covariance.inv().toarray()
        return system.normal_matrix((precision + precision.T) / 2)
    Q, equation = system.basis, system.spread(np.arange(system.K))
    out = np.diag(system.penalty)
    for rows, equations in system.weigh(covariance).cells.groups():
        if equations.size == 0:
            continue
        precision = np.zeros((system.K, system.K), system.dtype)
        precision[np.ix_(equations, equations)] = covariance.restrict(equations).inv().toarray()
        shown = np.flatnonzero(np.isin(equation, equations))
        q, e = Q[np.ix_(shown, rows)], equation[shown]
        out[np.ix_(shown, shown)] += (q @ q.T) * precision[np.ix_(e, e)]
    return out


class _IterativeInverse(_ByColumns):
    """H by conjugate gradients on ``A + Λ``, scaled to a diagonal of ones."""

    def __init__(self, system: StackedSystem, covariance: StructuredOperator) -> None:
        self.system, self.weighting = system, system.weigh(covariance)
        diagonal = system.spread(inverse_diagonal(covariance)) + system.penalty
        self.unit = (1 / np.sqrt(diagonal)).astype(system.dtype)[:, None]

    def times(self, V: FloatArray) -> FloatArray:
        system, out = self.system, np.empty_like(V)
        rtol = max(RTOL, 10 * np.finfo(system.dtype).eps)
        width, worst, n_iter = max(1, CHUNK // (system.K * system.N)), 0.0, 0
        for start in range(0, V.shape[1], width):
            part = slice(start, start + width)
            X, residuals, n = cg_in_runs(self._normal, self.unit * V[:, part], rtol, MAX_ITER)
            out[:, part] = self.unit * X
            worst, n_iter = max(worst, residuals.max(initial=0)), max(n_iter, n)
        if worst > rtol:
            warnings.warn(
                f"conjugate gradients for the covariance of coefficients left relative residuals up"
                f" to {worst:.1e} after {n_iter} iterations, {rtol:.0e} was asked for; standard"
                " errors have that error or more",
                ConvergenceWarning, stacklevel=2)
        return out

    def matrix(self) -> FloatArray:
        return self.columns(np.arange(self.system.P))

    def columns(self, numbers: IntArray) -> FloatArray:
        unit = np.zeros((self.system.P, numbers.size), self.system.dtype)
        unit[numbers, np.arange(numbers.size)] = 1
        return self.times(unit)

    def _normal(self, U: FloatArray, _: Any) -> FloatArray:
        """The scaled normal matrix times U (P, m)."""
        system, gamma = self.system, self.unit * U
        fitted = system.fitted(gamma)
        if system.observed is None:
            weighed = self.weighting.solve(fitted.reshape(system.K, -1)).reshape(fitted.shape)
        else:
            weighed = np.stack([self.weighting.solve(x) for x in np.moveaxis(fitted, 2, 0)], axis=2)
        return self.unit * (system.adjoint(weighed) + system.penalty[:, None] * gamma)
