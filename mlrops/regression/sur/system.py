"""The stacked system of K regression equations whose errors are correlated across equations."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from ..._common.cached import cached_property
from ..._common.typing import FloatArray, IntArray
from ..._common.wording import agree, counted, name_some
from ...factor.estep.incomplete import IncompleteSamples
from ...factor.estep.incomplete_solve import IncompletePrecision, ObservedCells
from ...operators.base import StructuredOperator
from ...tree.hierarchy import Hierarchy

__all__ = ["StackedSystem", "Weighting", "inverse_diagonal"]


class _Batch(NamedTuple):
    """Equations with equally many regressors; ``X_jᵀ = B_jᵀ Q_j``, Q_j Q_jᵀ = I."""

    equations: IntArray  # (K_p,) positions in the system
    Q: FloatArray  # (K_p, p, N)
    inverse: FloatArray  # (K_p, p, p) inverses of B_j, β_j = B_j⁻¹ γ_j
    penalty: FloatArray  # (K_p, p) of γ², zeros without a ridge


class StackedSystem:
    """Regressors of K equations on orthonormal bases of their columns.

    With ``X_j = Q_jᵀ B_j`` the unknowns are ``γ_j = B_j β_j``: neither units of regressors nor
    collinearity within an equation are seen by an iteration on γ, and the diagonal blocks
    ``(Σ⁻¹)_jj X_jᵀ X_j`` of the normal matrix become ``(Σ⁻¹)_jj I``.  So scaling by that diagonal
    *is* the block-Jacobi preconditioner with exact blocks.  γ is one vector (P,), batch by batch of
    equations with equally many regressors; samples run along rows of (K, N) arrays.

    Weights multiply rows of X_j and y_j by their square roots; missing cells are rows of zeros.
    With a ridge, the penalty ``ridge ‖β‖² / 2`` of the log-likelihood, B_j comes from the singular
    value decomposition of X_j, so that ``‖β_j‖²`` is a weighted sum of squares of γ_j too.

    The data are those of `SURData`, in the order of this system.  Errors name equations by
    `numbers`, columns of X_j by `regressors` and rows of the constraints by `constraint_names`.
    Regressors that depend on one another and constraints that contradict one another are refused.
    """

    def __init__(self, Xs: Sequence[FloatArray], Y: FloatArray, numbers: Any = None, *,
                 observed: Any = None, weights: FloatArray | None = None,
                 constraints: tuple[FloatArray, FloatArray] | None = None, ridge: float = 0.0,
                 regressors: Any = None, constraint_names: Any = ()) -> None:
        root = None if weights is None else np.sqrt(weights).astype(Y.dtype)
        if observed is not None:
            root = (observed if root is None else root * observed).astype(Y.dtype)
        self.Y = np.ascontiguousarray((Y if root is None else Y * root).T)
        self.K, self.N = self.Y.shape
        self.dtype = self.Y.dtype
        self.observed = None if observed is None else np.ascontiguousarray(observed.T)
        self._cells: ObservedCells | None = None
        self._samples: IncompleteSamples | None = None
        self.n_cells = self.Y.size if observed is None else int(observed.sum())
        # What weights add to the log-likelihood of all rows.
        self.log_weights = 0.0 if weights is None else 0.5 * float(
            np.log(weights if observed is None else weights[observed], dtype=np.float64).sum())
        self.numbers = np.arange(self.K) if numbers is None else numbers
        self.shared = root is None and all(X is Xs[0] or np.array_equal(X, Xs[0]) for X in Xs[1:])
        self.widths = widths = np.array([X.shape[1] for X in Xs])
        self.P = int(widths.sum())
        self.batches: list[_Batch] = []
        for p in np.unique(widths):
            equations = np.flatnonzero(widths == p)
            used = equations[:1] if self.shared else equations
            X = np.stack([Xs[j].T if root is None else Xs[j].T * root[:, j] for j in used])
            columns = [range(p) if regressors is None else regressors[j] for j in used]
            found = _orthonormal(X, [self.numbers[j] for j in used], columns, ridge)
            full = (np.broadcast_to(x, (equations.size, *x.shape[1:])) for x in found)
            self.batches.append(_Batch(equations, *full))
        sizes = [b.equations.size * b.Q.shape[1] for b in self.batches]
        self._cuts = np.cumsum(sizes)[:-1]
        self.ridge = ridge
        self.penalty = np.concatenate([b.penalty.ravel() for b in self.batches])
        self._limits = None
        if constraints is not None:
            R, q = constraints
            size = np.abs(R).max(axis=1, initial=0)  # whose squares may under- or overflow
            size[size == 0] = 1
            self._limits = _Limits(self.pull((R / size[:, None]).T), q / size, self.dtype,
                                   constraint_names)

    def __sizeof__(self) -> int:
        """Bytes, by which a cluster knows what it would cost to move it."""
        Q = sum((b.Q[:1] if self.shared else b.Q).nbytes for b in self.batches)
        return Q + self.Y.nbytes

    def parts(self, gamma: Any) -> Iterator[tuple[_Batch, Any]]:
        """(batch, γ of its equations (K_p, p)) one after the other; γ (P,) or (P, m)."""
        for batch, part in zip(self.batches, np.split(gamma, self._cuts), strict=True):
            yield batch, part.reshape(batch.penalty.shape + gamma.shape[1:])

    def fitted(self, gamma: FloatArray) -> FloatArray:
        """Fitted values (K, N) or (K, N, m), times the square roots of weights."""
        out = np.empty((self.K, self.N, *gamma.shape[1:]), self.dtype)
        for batch, part in self.parts(gamma):
            if gamma.ndim == 1 and len(self.batches) == 1:  # in the order of the system
                return np.einsum("kp,kpt->kt", part, batch.Q, out=out)
            columns = part.reshape(*part.shape[:2], math.prod(part.shape[2:]))
            fitted = columns.swapaxes(1, 2) @ batch.Q
            out[batch.equations] = fitted.swapaxes(1, 2).reshape(-1, *out.shape[1:])
        return out

    def residuals(self, gamma: FloatArray) -> FloatArray:
        """``Y - Xβ`` (K, N), times the square roots of weights; zero at missing cells."""
        out = self.fitted(gamma)
        return np.subtract(self.Y, out, out=out)

    def check_errors(self, E: FloatArray) -> None:
        """Refuse equations whose regressors leave nothing of Y, E being the residuals (K, N)."""
        size = np.abs(self.Y).max(axis=1, keepdims=True).astype(float)
        size[size == 0] = 1  # squares of numbers near the ends of the dtype are not seen as zero
        left, whole = (np.einsum("kt,kt->k", x, x) for x in (E / size, self.Y / size))
        bad = left <= whole * (self.N * np.finfo(self.dtype).eps) ** 2
        if bad.any():
            named = [self.numbers[j] for j in np.flatnonzero(bad)]
            raise ValueError(
                f"{counted(len(named), 'equation')} {agree(len(named), 'is', 'are')} fitted"
                f" exactly by {agree(len(named), 'its', 'their')} regressors (equation"
                f" {name_some(sorted(named))}): no error variance can be estimated; leave"
                f" {agree(len(named), 'it', 'them')} out")

    def adjoint(self, V: FloatArray) -> FloatArray:
        """``Q_j v_j`` of every equation, (P,) or (P, m), for V (K, N) or (K, N, m)."""
        if V.ndim == 2 and len(self.batches) == 1:
            return np.einsum("kpt,kt->kp", self.batches[0].Q, V).ravel()
        return np.concatenate([
            (b.Q @ V[b.equations].reshape(-1, self.N, math.prod(V.shape[2:])))
            .reshape(b.penalty.size, *V.shape[2:]) for b in self.batches])

    def spread(self, x: Any) -> Any:
        """A number for each equation (K,) as one for each coefficient (P,)."""
        return np.concatenate([np.repeat(x[b.equations], b.Q.shape[1]) for b in self.batches])

    @cached_property
    def ols(self) -> FloatArray:
        """γ of least squares equation by equation, or the nearest one that constraints allow.

        With shared X and no constraints it is GLS for every Σ.
        """
        gamma = self.adjoint(self.Y)
        gamma = gamma + self.adjoint(self.residuals(gamma))
        if self.ridge:
            gamma = gamma / (1 + self.penalty)
        return gamma if self._limits is None else self._limits.nearest(gamma)

    @property
    def is_least_squares(self) -> bool:
        """Whether the estimate is least squares equation by equation, whatever Σ."""
        return self.shared and self.constraint_columns is None and not self.ridge

    @property
    def n_free(self) -> int:
        """Number of coefficients that can be chosen: P less the independent constraints."""
        return self.P - (0 if self._limits is None else self._limits.q.size)

    def allowed(self, unit: FloatArray) -> "_Allowed":
        """The directions u that constraints leave to ``γ = unit u`` (an `_Allowed`)."""
        return _Allowed(None if self._limits is None else self._limits.C * unit[:, None])

    def coefficients(self, gamma: FloatArray) -> list[FloatArray]:
        """List of K arrays β_j (p_j,), or (p_j, m) for m columns γ (P, m)."""
        out = [np.empty(0, self.dtype)] * self.K
        for batch, part in self.parts(gamma):
            beta = np.einsum("kij,kj...->ki...", batch.inverse, part)
            for j, b in zip(batch.equations, beta, strict=True):
                out[j] = b
        return out

    def pull(self, B: FloatArray) -> FloatArray:
        """The adjoint of `coefficients`: derivatives (P, m) by β as derivatives by γ."""
        starts, parts = np.cumsum([0, *self.widths]), []
        for batch in self.batches:
            p = batch.Q.shape[1]
            rows = starts[batch.equations][:, None] + np.arange(p)
            parts.append(np.einsum("kji,kjm->kim", batch.inverse, B[rows]).reshape(-1, B.shape[1]))
        return np.concatenate(parts)

    def weigh(self, covariance: StructuredOperator) -> Any:
        """Σ⁻¹ at work on arrays (K, N): a `Weighting`, row by row on the cells that are there."""
        if self.observed is None:
            return Weighting(covariance, self.N)
        return IncompletePrecision(covariance, self.cells(covariance.hierarchy))

    def cells(self, hierarchy: Hierarchy) -> ObservedCells:
        """The cells that are there, grouped on a tree of the equations; once a tree."""
        if self._cells is None or self._cells.hierarchy is not hierarchy:
            there: Any = self.observed
            self._cells = ObservedCells(hierarchy, there)
        return self._cells

    def samples(self, hierarchy: Hierarchy, E: FloatArray) -> IncompleteSamples:
        """Residuals (K, N) without the cells that are missing, for EM."""
        if self._samples is None or self._samples.hierarchy is not hierarchy:
            there: Any = self.observed
            self._samples = IncompleteSamples(hierarchy, np.where(there, E, np.nan))
            return self._samples
        return self._samples.with_values(E)

    def average_loglik(self, weighting: Any, quad: float) -> float:
        """Average normal log-likelihood a row, from the weighted sum of squares of residuals."""
        constant = self.n_cells * math.log(2 * math.pi)
        return (self.log_weights - 0.5 * (constant + weighting.logdet() + quad)) / self.N

    @property
    def constraint_columns(self) -> FloatArray | None:
        """Orthonormal columns (P, m) that span those of C in ``Cᵀγ = q``, or None."""
        return None if self._limits is None else self._limits.qr[0]

    @property
    def basis(self) -> FloatArray:
        """All Q_j, one above the other, (P, N)."""
        return np.concatenate([b.Q.reshape(-1, self.N) for b in self.batches])

    def normal_matrix(self, precision: FloatArray) -> FloatArray:
        """``Xᵀ(I⊗Σ⁻¹)X`` for γ and penalties, dense (P, P), from a dense Σ⁻¹ (K, K)."""
        Q, equation = self.basis, self.spread(np.arange(self.K))
        out = (Q @ Q.T) * precision[np.ix_(equation, equation)]
        out[np.diag_indices(self.P)] += self.penalty
        return out


class Weighting:
    """Σ⁻¹ for complete rows, one a column of (K, N) arrays."""

    def __init__(self, covariance: StructuredOperator, N: int) -> None:
        self.covariance, self.N = covariance, N

    def solve(self, E: FloatArray) -> FloatArray:
        """``Σ⁻¹ E``."""
        return self.covariance.solve(E)

    def logdet(self) -> float:
        """``N log det Σ``."""
        return self.N * self.covariance.logdet()


def inverse_diagonal(covariance: StructuredOperator) -> FloatArray:
    """diag(Σ⁻¹), (K,)."""
    if hasattr(covariance, "partial_variance"):
        return 1 / covariance._rough_partial_variance()  # for preconditioners, which may be rough
    return covariance.inv().diagonal()


def _orthonormal(X: FloatArray, numbers: list[Any], names: list[Any],
                 ridge: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Q, B⁻¹ and penalties of stacked X (g, p, N), regressors as rows with names.

    |R_ii| is the distance of regressor i, scaled to length 1, from the span of those before it.
    """
    norms = np.linalg.norm(X, axis=2)
    zero = np.argwhere(norms == 0)
    if len(zero):
        raise ValueError(f"X of equation {numbers[zero[0, 0]]} has a column of zeros"
                         f" (column {names[zero[0, 0]][zero[0, 1]]}); leave it out")
    Q, R = np.linalg.qr((X / norms[:, :, None]).swapaxes(1, 2))
    tol = max(X.shape[1:]) * np.finfo(X.dtype).eps
    bad = np.abs(np.diagonal(R, axis1=1, axis2=2)) <= tol
    if bad.any():
        which = np.flatnonzero(bad.any(axis=1))
        columns = name_some(names[which[0]][i] for i in np.flatnonzero(bad[which[0]]))
        raise ValueError(
            f"X of equation {numbers[which[0]]} is rank-deficient: column {columns} depends on"
            f" those before it ({counted(which.size, 'equation')}:"
            f" {name_some(numbers[i] for i in which)}); leave such columns out")
    Q, penalty = Q.swapaxes(1, 2), np.zeros_like(norms)
    if ridge:  # R diag(norms) = U S Vᵀ: the basis Uᵀ Q, and β = V S⁻¹ γ
        U, S, Vt = np.linalg.svd(R * norms[:, None, :])
        Q, inverse, penalty = U.swapaxes(1, 2) @ Q, Vt.swapaxes(1, 2) / S[:, None], ridge / S**2
    else:
        inverse = _triangular_inverse(R) / norms[:, :, None]
    return np.ascontiguousarray(Q), inverse, penalty


def _triangular_inverse(R: FloatArray) -> FloatArray:
    """Inverses of stacked upper triangular R (m, p, p), by back substitution."""
    out = np.zeros_like(R)
    unit = np.eye(R.shape[1], dtype=R.dtype)
    for i in reversed(range(R.shape[1])):
        known = np.einsum("mk,mkj->mj", R[:, i, i + 1 :], out[:, i + 1 :])
        out[:, i] = (unit[i] - known) / R[:, i, i, None]
    return out


class _Allowed:
    """An orthonormal basis Z of the vectors u with ``Cᵀu = 0``, C (P, m) of full rank.

    The last columns of the orthogonal factor of C, kept as m reflections: nothing of size P².
    """

    def __init__(self, C: FloatArray | None) -> None:
        self.m = 0 if C is None else C.shape[1]
        if self.m:
            (self._reflections, self._tau), _ = scipy.linalg.qr(C, mode="raw", check_finite=False)
            self._multiply, = scipy.linalg.get_lapack_funcs(("ormqr",), (self._reflections,))

    def expand(self, v: FloatArray) -> FloatArray:
        """``Z v``, (P,) of v (P - m,)."""
        return self._rotate(np.concatenate([np.zeros(self.m, v.dtype), v]), "N") if self.m else v

    def reduce(self, u: FloatArray) -> FloatArray:
        """``Zᵀ u``."""
        return self._rotate(u, "T")[self.m :] if self.m else u

    def _rotate(self, u: FloatArray, trans: str) -> FloatArray:
        out, _, info = self._multiply("L", trans, self._reflections, self._tau, u[:, None], 1)
        assert info == 0
        return out[:, 0]


class _Limits:
    """Linear constraints ``Cᵀ γ = q``; C (P, m) with columns of length 1, independent."""

    def __init__(self, C: FloatArray, q: FloatArray, dtype: Any, names: Sequence[str] = ()) -> None:
        length = np.linalg.norm(C, axis=0)
        numbers, eps = np.arange(q.size), np.finfo(dtype).eps
        empty = length == 0
        if (q[empty] != 0).any():
            raise ValueError(_contradiction(numbers[empty & (q != 0)], names))
        C, q, numbers = C[:, ~empty] / length[~empty], q[~empty] / length[~empty], numbers[~empty]
        _, T, order = scipy.linalg.qr(C, mode="economic", pivoting=True, check_finite=False)
        tol = 10 * max(C.shape, default=1) * eps
        rank = int(np.count_nonzero(np.abs(np.diagonal(T)) > tol))
        kept, rest = order[:rank], order[rank:]
        share = scipy.linalg.solve_triangular(T[:rank, :rank], T[:rank, rank:], check_finite=False)
        implied = share.T @ q[kept]
        size = np.abs(share).T @ np.abs(q[kept]) + np.abs(q[rest])
        wrong = np.abs(implied - q[rest]) > 1e3 * tol * size
        if wrong.any():
            raise ValueError(_contradiction(np.sort(numbers[rest[wrong]]), names))
        self.C, self.q = C[:, kept].astype(dtype), q[kept].astype(dtype)

    @cached_property
    def qr(self) -> tuple[FloatArray, FloatArray]:
        """Orthonormal columns (P, m) that span those of C, and the triangle (m, m)."""
        return scipy.linalg.qr(self.C, mode="economic", check_finite=False)

    def nearest(self, gamma: FloatArray) -> FloatArray:
        """The γ that satisfies the constraints with least ``‖γ - gamma‖``."""
        Z, T = self.qr
        for _ in range(2):  # the second one for rounding
            gap = self.C.T @ gamma - self.q
            gamma = gamma - Z @ scipy.linalg.solve_triangular(T, gap, trans="T", check_finite=False)
        return gamma


def _contradiction(numbers: IntArray, names: Sequence[str]) -> str:
    which = (name_some(names[i] for i in numbers) if names
             else f"row {name_some(numbers)} of R β = q")
    return f"constraints contradict one another: {which} cannot hold together with the others"
