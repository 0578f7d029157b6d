"""The stacked system of K regression equations whose errors are correlated across equations."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg, lsmr

from ..operators._validate import as_finite, name_some
from ..operators.elementary import Dense

__all__ = ["BetaStep", "StackedSystem", "as_equations", "average_loglik", "beta_step",
           "inverse_diagonal"]

SOLVERS = "cg", "lsmr"
# A round solves for what the true residual of the round before says is left; each takes off RTOL.
ROUNDS, RTOL = 6, 1e-10


def as_equations(Xs, Y):
    """Check and convert: a list of K arrays (N, p_j) and Y (N, K), all of one dtype.

    The same object given for several equations stays one array.
    """
    Y = as_finite(Y, "Y", ndim=2, axis_name="equation", axis=1)
    N, K = Y.shape
    if (isinstance(Xs, (str, Mapping)) or not hasattr(Xs, "__len__")
            or getattr(Xs, "ndim", 3) != 3):
        raise TypeError("Xs must be a list of K arrays (N, p_j), one an equation, got"
                        f" {type(Xs).__name__}")
    if len(Xs) != K or K == 0:
        raise ValueError("Xs must hold one array for each column of Y, at least one, got"
                         f" {len(Xs)} for Y of shape {Y.shape}")
    Xs, known = list(Xs), {}  # views that an array of three dimensions gives keep their identity
    for j, X in enumerate(Xs):
        if id(X) not in known:
            known[id(X)] = _as_design(X, j, N)
    dtype = np.result_type(Y.dtype, *{X.dtype for X in known.values()})
    known = {key: X.astype(dtype, copy=False) for key, X in known.items()}
    return [known[id(X)] for X in Xs], Y.astype(dtype, copy=False)


def _as_design(X, j, N):
    X = as_finite(X, f"X of equation {j}", ndim=2, axis_name="column", axis=1)
    if len(X) != N:
        raise ValueError(f"X of equation {j} has {len(X)} rows, Y has {N}: every equation needs"
                         " the same samples")
    if N <= X.shape[1]:
        raise ValueError(f"equation {j} has {X.shape[1]} regressors and {N} samples; more samples"
                         " than regressors are needed")
    return X


class _Batch(NamedTuple):
    """Equations with equally many regressors; ``X_j = Q_jᵀ R_j diag(norms_j)``, Q_j Q_jᵀ = I."""

    equations: np.ndarray  # (K_p,) positions in the system
    Q: np.ndarray  # (K_p, p, N)
    R: np.ndarray  # (K_p, p, p) upper triangular
    norms: np.ndarray  # (K_p, p) lengths of the regressors


class StackedSystem:
    r"""Regressors of K equations on orthonormal bases of their columns.

    With ``X_j = Q_j R_j`` the unknowns are ``γ_j = R_j β_j``: neither units of regressors nor
    collinearity within an equation are seen by an iteration on γ, and the diagonal blocks
    ``(Σ⁻¹)_jj X_jᵀ X_j`` of the normal matrix become ``(Σ⁻¹)_jj I``.  So scaling by that diagonal
    *is* the block-Jacobi preconditioner with exact blocks.  γ is one vector (P,), batch by batch of
    equations with equally many regressors; samples run along rows of (K, N) arrays.

    Parameters
    ----------
    Xs : list of K ndarray, shapes (N, p_j)
        Checked, see `as_equations`.
    Y : ndarray, shape (N, K)
    numbers : ndarray of int, shape (K,), optional
        What errors call the equations.

    Raises
    ------
    ValueError
        Regressors of an equation that depend on one another (equation and columns are named).
    """

    def __init__(self, Xs, Y, numbers=None):
        self.Y = np.ascontiguousarray(Y.T)
        self.K, self.N = self.Y.shape
        self.dtype = self.Y.dtype
        self.numbers = np.arange(self.K) if numbers is None else numbers
        self.shared = all(X is Xs[0] or np.array_equal(X, Xs[0]) for X in Xs[1:])
        widths = np.array([X.shape[1] for X in Xs])
        self.P = int(widths.sum())
        self._batches = []
        for p in np.unique(widths):
            equations = np.flatnonzero(widths == p)
            used = equations[:1] if self.shared else equations
            X = np.stack([Xs[j].T for j in used])
            found = _orthonormal(X, self.numbers[used])
            full = (np.broadcast_to(x, (equations.size, *x.shape[1:])) for x in found)
            self._batches.append(_Batch(equations, *full))
        sizes = [b.equations.size * b.Q.shape[1] for b in self._batches]
        self._cuts = np.cumsum(sizes)[:-1]

    def _parts(self, gamma):
        """(batch, γ of its equations (K_p, p)) one after the other."""
        for batch, part in zip(self._batches, np.split(gamma, self._cuts), strict=True):
            yield batch, part.reshape(batch.norms.shape + gamma.shape[1:])

    def fitted(self, gamma):
        """Fitted values (K, N)."""
        out = np.empty((self.K, self.N), self.dtype)
        for batch, part in self._parts(gamma):
            out[batch.equations] = np.matmul(part[:, None, :], batch.Q)[:, 0]
        return out

    def residuals(self, gamma):
        """``Y - Xβ`` (K, N)."""
        out = self.fitted(gamma)
        return np.subtract(self.Y, out, out=out)

    def check_errors(self, E):
        """Refuse equations whose regressors leave nothing of Y, E being the residuals (K, N)."""
        left, whole = (np.einsum("kt,kt->k", x, x, dtype=float) for x in (E, self.Y))
        bad = left <= whole * (self.N * np.finfo(self.dtype).eps) ** 2
        if bad.any():
            numbers = np.sort(self.numbers[bad])
            raise ValueError(
                f"{numbers.size} equations are fitted exactly by their regressors (equation"
                f" {name_some(numbers)}): no error variance can be estimated; leave them out")

    def adjoint(self, V):
        """``Q_j v_j`` of every equation, (P,), for V (K, N)."""
        return np.concatenate([np.matmul(b.Q, V[b.equations][:, :, None]).ravel()
                               for b in self._batches])

    def spread(self, x):
        """A number for each equation (K,) as one for each coefficient (P,)."""
        return np.concatenate([np.repeat(x[b.equations], b.Q.shape[1]) for b in self._batches])

    @cached_property
    def ols(self):
        """γ of least squares equation by equation; with shared X it is GLS for every Σ."""
        gamma = self.adjoint(self.Y)
        return gamma + self.adjoint(self.residuals(gamma))

    def coefficients(self, gamma):
        """List of K arrays β_j (p_j,), or (p_j, m) for m columns γ (P, m)."""
        out = [None] * self.K
        for batch, part in self._parts(gamma):
            beta = _back_substitution(batch.R, part)
            beta /= batch.norms.reshape(batch.norms.shape + (1,) * (gamma.ndim - 1))
            for j, b in zip(batch.equations, beta, strict=True):
                out[j] = b
        return out

    def normal_matrix(self, precision):
        """``Xᵀ(I⊗Σ⁻¹)X`` for γ, dense (P, P), from a dense Σ⁻¹ (K, K)."""
        Q = np.concatenate([b.Q.reshape(-1, self.N) for b in self._batches])
        equation = self.spread(np.arange(self.K))
        return (Q @ Q.T) * precision[np.ix_(equation, equation)]

    def coefficient_covariance(self, covariance):
        """Covariance of all coefficients of GLS, equation by equation, dense (P, P)."""
        precision = covariance.inv().toarray()
        normal = self.normal_matrix((precision + precision.T) / 2)
        inverse = Dense((normal + normal.T) / 2, positive_definite=True).solve(
            np.eye(self.P, dtype=normal.dtype))
        half = np.concatenate(self.coefficients(inverse))  # R⁻¹ A⁻¹, and with R⁻ᵀ from the right
        whole = np.concatenate(self.coefficients(np.ascontiguousarray(half.T)))
        return (whole + whole.T) / 2


def _orthonormal(X, numbers):
    """Q, R and lengths of stacked X (g, p, N), regressors as rows.

    |R_ii| is the distance of regressor i, scaled to length 1, from the span of those before it.
    """
    norms = np.linalg.norm(X, axis=2)
    zero = np.argwhere(norms == 0)
    if len(zero):
        raise ValueError(f"X of equation {numbers[zero[0, 0]]} has a column of zeros"
                         f" (column {zero[0, 1]}); leave it out")
    Q, R = np.linalg.qr((X / norms[:, :, None]).swapaxes(1, 2))
    tol = max(X.shape[1:]) * np.finfo(X.dtype).eps
    bad = np.abs(np.diagonal(R, axis1=1, axis2=2)) <= tol
    if bad.any():
        which = np.flatnonzero(bad.any(axis=1))
        columns = name_some(np.flatnonzero(bad[which[0]]))
        raise ValueError(
            f"X of equation {numbers[which[0]]} is rank-deficient: column {columns} depends on"
            f" those before it ({which.size} equations: {name_some(numbers[i] for i in which)});"
            " leave such columns out"
        )
    return np.ascontiguousarray(Q.swapaxes(1, 2)), R, norms


def _back_substitution(R, g):
    """``R_j x_j = g_j`` for stacked upper triangular R (m, p, p), g (m, p) or (m, p, c)."""
    x = np.empty_like(g)
    for i in reversed(range(g.shape[1])):
        known = np.einsum("mk,mk...->m...", R[:, i, i + 1 :], x[:, i + 1 :])
        x[:, i] = ((g[:, i] - known).T / R[:, i, i]).T
    return x


# ---------------------------------------------------------------- generalized least squares


def inverse_diagonal(covariance):
    """diag(Σ⁻¹), (K,)."""
    if hasattr(covariance, "partial_variance"):
        return 1 / covariance.partial_variance()
    return covariance.inv().diagonal()


def average_loglik(covariance, quad, N):
    """Average normal log-likelihood a row, from ``Σ_t e_tᵀ Σ⁻¹ e_t``."""
    K = covariance.shape[0]
    return -0.5 * (K * math.log(2 * math.pi) + covariance.logdet() + quad / N)


class BetaStep(NamedTuple):
    """Where a β-step went."""

    gamma: np.ndarray  # (P,)
    residuals: np.ndarray  # (K, N)
    quad: float  # Σ_t e_tᵀ Σ⁻¹ e_t
    norm: float  # of the normal equations' residual
    first_norm: float  # the same for the γ that came in
    n_iter: int  # iterations of CG or LSMR


class _At(NamedTuple):
    gamma: np.ndarray
    residuals: np.ndarray
    quad: float
    score: np.ndarray


def beta_step(system, covariance, gamma, target, solver="cg", max_iter=1000):
    r"""Solve the normal equations ``Xᵀ(I⊗Σ⁻¹)(y - Xβ) = 0`` from a first γ.

    Parameters
    ----------
    system : StackedSystem
    covariance : StructuredOperator, shape (K, K)
        Σ, positive definite.
    gamma : ndarray, shape (P,)
    target : float
        Stop where the residual is no larger; 0 goes to rounding.  It is the 2-norm of the
        derivatives of the average log-likelihood a row by the coefficients of orthogonal regressors
        of mean square 1, in units of the equations' partial standard deviations.
    solver : {"cg", "lsmr"}
        On the normal operator, or on the whitened stacked one.
    max_iter : int
        Cap of the iterations.

    Returns
    -------
    BetaStep
        Where the quadratic form could not be lowered, the γ that came in.
    """
    unit = system.spread(1 / np.sqrt(inverse_diagonal(covariance))).astype(system.dtype)

    def look(gamma):
        E = system.residuals(gamma)
        V = covariance.solve(E).astype(system.dtype, copy=False)
        quad = float(np.einsum("kt,kt->", E, V, dtype=np.float64))
        return _At(gamma, E, quad, unit * system.adjoint(V))

    here, used = look(gamma), 0
    first_norm = float(np.linalg.norm(here.score)) / math.sqrt(system.N)
    goal = target * math.sqrt(system.N)
    method = _cg if solver == "cg" else _lsmr
    eps = np.finfo(system.dtype).eps
    for _ in range(ROUNDS):
        size = np.linalg.norm(here.score)
        if size <= goal or used >= max_iter:
            break
        step, n = method(system, covariance, unit, here, goal / 2, max_iter - used)
        used += n
        trial = look(here.gamma + unit * step)
        left = np.linalg.norm(trial.score)
        capped = used >= max_iter  # stopped early: less is left in the norm of Σ⁻¹ only
        falls = trial.quad <= here.quad * (1 + 4 * eps)
        if not (falls and (left < size or capped)):
            break
        here = trial
        if left > size / 2:
            break
    norm = float(np.linalg.norm(here.score)) / math.sqrt(system.N)
    return BetaStep(here.gamma, here.residuals, here.quad, norm, first_norm, used)


def _cg(system, covariance, unit, here, goal, max_iter):
    """The step in scaled γ by conjugate gradients, and their number."""
    count = _Counter()

    def normal(u):
        V = covariance.solve(system.fitted(unit * u.ravel()))
        return unit * system.adjoint(V.astype(system.dtype, copy=False))

    A = LinearOperator((system.P, system.P), normal, dtype=system.dtype)
    rtol = max(RTOL, 10 * np.finfo(system.dtype).eps)
    step, _ = cg(A, here.score, rtol=rtol, atol=goal, maxiter=max_iter, callback=count)
    return step, count.n


def _lsmr(system, covariance, unit, here, goal, max_iter):
    """The same by LSMR on ``W X``; with ``Σ = S Sᵀ`` and ``W = S⁻¹`` its adjoint is Σ⁻¹S."""
    shape = system.K, system.N

    def product(u):
        return covariance.whiten(system.fitted(unit * u.ravel())).ravel()

    def adjoint(z):
        return unit * system.adjoint(covariance.solve(covariance.color(z.reshape(shape))))

    B = LinearOperator((system.K * system.N, system.P), product, adjoint, dtype=system.dtype)
    b = covariance.whiten(here.residuals).ravel()
    tol = max(goal / max(np.linalg.norm(b), np.finfo(b.dtype).tiny) / 10,
              np.finfo(system.dtype).eps)
    found = lsmr(B, b, atol=tol, btol=0.0, conlim=0.0, maxiter=max_iter)
    return found[0].astype(system.dtype, copy=False), int(found[2])


class _Counter:
    def __init__(self):
        self.n = 0

    def __call__(self, _):
        self.n += 1
