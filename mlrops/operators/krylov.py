"""What is left where no structure helps: iterative solves and determinants asked for by name."""

from typing import Any, TypeAlias

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres, lsmr

from .._common.typing import FloatArray, RandomState, Real
from .._common.validate import as_finite, as_generator, check_rank
from .._common.wording import counted
from .iterations import cg, minres
from .refine import RTOL, exponents, lengths, norm_of, refine
from .rules import CONVERT

__all__ = ["RTOL", "LogdetEstimate", "slogdet", "solve"]

StructuredOperator: TypeAlias = Any  # its file imports this one

# Where rounding keeps the residual above that, a backward error of so many units of rounding will
# do, and a relative residual of at most √eps, beyond which A counts as singular.
_BACKWARD_ERROR = 100

# A round iterates on the residual left by the round before it.
_ROUNDS = 4
_RESTART = 200

# A round that leaves more than this of a residual is the last one of its method.
_STALLED = 0.9


def solve(A: StructuredOperator, b: FloatArray, *, rtol: float | None = None,
          maxiter: int | None = None, M: Any = None, x0: Real | None = None) -> FloatArray:
    """Solve ``A x = b`` by products with A alone, to a relative residual of `rtol`.

    Conjugate gradients when A is known to be positive definite and MINRES when it is known to be
    symmetric, for all right-hand sides at once; otherwise restarted GMRES, one right-hand side
    after the other, and LSMR where that stalls and A has an adjoint product.
    `StructuredOperator.solve` describes the options; `rtol` is by default `RTOL`, or else what
    rounding allows, a backward error of 100 units of rounding.  LinAlgError names method,
    iterations and the residual reached where the true residual stays above that.

    Each right-hand side is scaled to size one by a power of two first, and so is what A makes of
    it: neither 1e-300 nor 1e+300 under- or overflows on the way.  An iteration is one product with
    A; GMRES keeps up to 200 vectors of length n.
    """
    if not np.isfinite(b).all():
        rows = np.flatnonzero(~np.isfinite(b.reshape(b.shape[0], -1)).all(axis=1))
        raise ValueError(f"solve: the right-hand side has NaN or infinity (row {rows[0]})")
    n = A.shape[0]
    if rtol is not None and not (np.ndim(rtol) == 0 and 0 <= rtol < np.inf):
        raise ValueError(f"solve: rtol must be finite and non-negative, got {rtol!r}")
    if maxiter is not None and check_rank(maxiter, "maxiter") == 0:
        raise ValueError("solve: maxiter must be positive")
    if M is not None:
        M = CONVERT(M)
        if M.shape != (n, n):
            raise ValueError(f"solve: M must have the shape of A, {(n, n)}, got {M.shape}")
    if x0 is not None:
        x0 = as_finite(x0, "x0", dtype=A.dtype, axis_name="row")
        if x0.shape != b.shape:
            raise ValueError(f"solve: x0 must have the shape of b, {b.shape}, got {x0.shape}")
        x0 = x0.reshape(n, -1)
    limit = max(10 * n, 1000) if maxiter is None else maxiter
    columns = _Columns(A, b.reshape(n, -1), M, limit)
    return columns.solve(rtol, x0).reshape(b.shape)


class _Columns:
    """Right-hand sides, with A and M, scaled to size one by powers of two, column by column."""

    def __init__(self, A, b, M, limit):
        self.A, self.M, self.limit, self.count = A, M, limit, 0
        self.size_b = exponents(b)
        self.b = np.ldexp(b, -self.size_b)
        self.norms = lengths(self.b)
        with np.errstate(over="ignore", invalid="ignore"):
            self.size_a = exponents(A._mul(self.b))
            self.size_m = 0 if M is None else exponents(M.matmat(self.b))
        self.method = "cg" if A.positive_definite else "minres" if A.symmetric else "gmres"
        self.used = self.method

    def multiply(self, x, columns):
        return np.ldexp(self.A._mul(x), -self.size_a[columns])

    def precondition(self, r, columns):
        if self.M is None:
            return r
        z = self.M.matmat(r).astype(r.dtype, copy=False)
        return np.ldexp(z, -self.size_m[columns])

    def residual(self, x, columns):
        if not x.any():  # the start, without a product
            return self.b[:, columns], np.ones(columns.size)
        r = self.b[:, columns] - self.multiply(x, columns)
        reached = lengths(r) / self.norms[columns]
        return r, np.where(np.isfinite(reached), reached, np.inf)

    def solve(self, rtol, x0):
        asked = RTOL[self.A.dtype] if rtol is None else rtol
        back = self.size_b - self.size_a
        x, reached = np.zeros_like(self.b), np.where(self.norms > 0, 1.0, 0.0)
        if x0 is not None:
            with np.errstate(over="ignore"):
                x = np.where(self.norms > 0, np.ldexp(x0, -back), 0)
        methods = [self.method, *(["gmres, then lsmr,"] if self.method == "gmres" else [])]
        for self.method in methods:
            left = np.flatnonzero(reached > asked)
            if not left.size or self.method != methods[0] and not self.has_other():
                break
            self.used = self.method
            with np.errstate(over="ignore", invalid="ignore"):
                reached[left] = refine(
                    x, self.residual, lambda r, columns: self.step(r, columns, asked), left, asked,
                    _ROUNDS if self.A.symmetric else self.limit, _STALLED)[left]
        self.check(x, reached, asked, rtol is None)
        with np.errstate(over="ignore"):
            out = np.ldexp(x, back)
        if not np.isfinite(out).all():
            raise np.linalg.LinAlgError(
                f"solve: the solution overflows {self.A.dtype}; scale the right-hand side down")
        return out

    def step(self, r, columns, asked):
        """One round on the residuals r of these columns."""
        # The residual that a method recurs drifts from the true one: it is asked for less.
        tolerance, limit = 0.1 * asked * self.norms[columns], self.limit - self.count
        if limit <= 0:
            return np.zeros_like(r)
        if self.A.symmetric:
            method = cg if self.method == "cg" else minres
            step, count = method(lambda x, left: self.multiply(x, columns[left]), r, tolerance,
                                 limit, lambda x, left: self.precondition(x, columns[left]))
            self.count += count
            return step
        steps, counts = zip(*(
            self.step_of_one(np.ascontiguousarray(r[:, j]), columns[j:j + 1], tolerance[j], limit)
            for j in range(columns.size)), strict=True)
        self.count += max(counts)
        return np.stack(steps, axis=1)

    def step_of_one(self, r, column, tolerance, limit):
        n = r.size
        size, counter = np.linalg.norm(r), []

        def product(verb):
            return lambda x: verb(x.reshape(n, 1).astype(r.dtype, copy=False), column).ravel()

        def transposed(x, column):
            return np.ldexp(self.A._rmul(x), -self.size_a[column])

        A = LinearOperator((n, n), product(self.multiply), product(transposed), dtype=r.dtype)
        if self.method != "gmres":
            # Its tests speak of products with Aᵀ too: only the residual and the limit count here.
            x, _, count, *_ = lsmr(A, r, atol=0, btol=tolerance / size, conlim=0, maxiter=limit)
            return x.astype(r.dtype), count
        M = None if self.M is None else LinearOperator(
            (n, n), product(self.precondition), dtype=r.dtype)
        x, _ = gmres(A, r, rtol=tolerance / size, atol=0.0, restart=min(n, _RESTART, limit),
                     maxiter=1, M=M, callback=counter.append, callback_type="pr_norm")
        return x, max(len(counter), 1)

    def has_other(self):
        """Whether LSMR can go on: it needs products with Aᵀ, and takes no M."""
        if self.M is not None:
            return False
        try:
            self.A._rmul(np.zeros((self.A.shape[0], 1), self.A.dtype))
        except NotImplementedError:
            return False
        return True

    def check(self, x, reached, asked, by_default):
        """Raise where a column falls short; `by_default` of what rounding allows."""
        short = np.flatnonzero(~(reached <= asked))
        eps = np.finfo(self.A.dtype).eps
        if by_default and short.size and (reached[short] <= eps**0.5).all():
            sizes = (np.ldexp(norm_of(self.A), -self.size_a[short]) * lengths(x[:, short])
                     + self.norms[short])
            short = short[reached[short] * self.norms[short] > _BACKWARD_ERROR * eps * sizes]
        if not short.size:
            return
        worst = short[reached[short].argmax()]
        column = f" for column {worst}" if reached.size > 1 else ""
        raise np.linalg.LinAlgError(
            f"solve: {self.used} on {self.A!r} reached a relative residual of"
            f" {reached[worst]:.1e}{column} in {counted(self.count, 'iteration')},"
            f" {asked:.0e} was asked for; the operator is singular or ill-conditioned, or"
            " the iteration needs a preconditioner M or a larger maxiter: else solve with a"
            " structured operator, or with toarray() where it fits")


class LogdetEstimate(float):
    """A float that carries the standard error of the estimate it is; what `slogdet` returns.

    Attributes
    ----------
    standard_error : float
        Of the mean over the random probes; infinite with a single one.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Dense
    >>> A = Dense([[2.0, 1.0], [1.0, 2.0]], positive_definite=True)
    >>> estimate = A.logdet("lanczos", random_state=0)
    >>> bool(abs(estimate - np.log(3)) < 3 * estimate.standard_error)
    True
    """

    standard_error: float

    def __new__(cls, value: float, standard_error: float) -> "LogdetEstimate":
        self = super().__new__(cls, value)
        self.standard_error = float(standard_error)
        return self

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        return float(self), self.standard_error

    def __repr__(self) -> str:
        return f"LogdetEstimate({float(self)!r}, standard_error={self.standard_error:.3g})"


def slogdet(A: StructuredOperator, method: str, *, n_probes: int = 30, n_steps: int = 50,
            random_state: RandomState = None) -> tuple[float, float]:
    """Sign and log|det A| without structure, by a method that is named.

    ``"dense"`` forms A and takes 2 n³/3 flops.  ``"lanczos"`` is stochastic Lanczos quadrature for
    a positive definite A: the mean over `n_probes` random signs v of ``vᵀ log(A) v``, each from
    `n_steps` Lanczos steps with full reorthogonalization.  The probes advance together as one block
    (n, n_probes): storage is n × n_probes × n_steps numbers, work n_steps block products and 4 n
    n_probes n_steps² flops.  The ``standard_error`` of its LogdetEstimate is that of the mean over
    probes; the bias of too few steps, which falls like ``exp(-4 n_steps / √cond(A))``, comes on
    top.
    """
    if method == "dense":
        sign, logabs = np.linalg.slogdet(A.toarray())
        return float(sign), float(logabs)
    if method != "lanczos":
        raise ValueError(f"slogdet: method must be 'dense' or 'lanczos', got {method!r}")
    if not A.positive_definite:
        raise ValueError(
            "slogdet: method='lanczos' needs an operator known to be positive definite;"
            f" {A!r} is not (method='dense' works for any)")
    for value, name in ((n_probes, "n_probes"), (n_steps, "n_steps")):
        if check_rank(value, name) == 0:
            raise ValueError(f"slogdet: {name} must be positive")
    n = A.shape[0]
    if n == 0:
        return 1.0, LogdetEstimate(0.0, 0.0)
    signs = np.where(as_generator(random_state).random((n, n_probes)) < 0.5, -1, 1).astype(A.dtype)
    alpha, beta, steps = _lanczos(A, signs / np.sqrt(n, dtype=A.dtype), min(n_steps, n))
    samples = [n * _quadrature(alpha[:j, p], beta[:j - 1, p]) for p, j in enumerate(steps)]
    error = np.std(samples, ddof=1) / np.sqrt(n_probes) if n_probes > 1 else np.inf
    return 1.0, LogdetEstimate(np.mean(samples), error)


def _lanczos(A, v, n_steps):
    """Lanczos on every column of v: diagonals, off-diagonals (steps, probes) and steps taken."""
    n, probes = v.shape
    basis = np.zeros((probes, n_steps, n), v.dtype)
    alpha, beta = np.zeros((n_steps, probes)), np.zeros((n_steps, probes))
    steps = np.full(probes, n_steps)
    active = np.ones(probes, bool)
    scale = np.zeros(probes)
    for j in range(n_steps):
        basis[:, j] = v.T
        w = A.matmat(v).T
        alpha[j] = np.einsum("pn,pn->p", basis[:, j], w)
        done = basis[:, :j + 1]
        for _ in range(2):  # once leaves what cancellation hides
            coefficients = np.matmul(done, w[:, :, None])
            w = w - np.matmul(coefficients.transpose(0, 2, 1), done)[:, 0]
        beta[j] = np.linalg.norm(w, axis=1)
        scale = np.maximum(scale, np.abs(alpha[j]) + beta[j])
        # An invariant subspace: the quadrature of this probe is complete, and exact.
        ended = active & (beta[j] <= n * np.finfo(v.dtype).eps * scale)
        steps[ended] = j + 1
        active &= ~ended
        if not active.any():
            break
        v = np.where(active, w.T / np.where(active, beta[j], 1), 0).astype(v.dtype)
    return alpha, beta, steps


def _quadrature(alpha, beta):
    """e₁ᵀ log(T) e₁ for the tridiagonal T."""
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    if values[0] <= 0:
        raise np.linalg.LinAlgError(
            f"slogdet: Lanczos found the eigenvalue {values[0]:.3g}; the operator is not positive"
            " definite to working precision")
    return float(vectors[0] ** 2 @ np.log(values))
