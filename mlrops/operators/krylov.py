"""What is left where no structure helps: iterative solves and determinants asked for by name."""

import numpy as np
from scipy.sparse.linalg import cg, gmres, minres

from .._wording import counted
from ._validate import check_rank

__all__ = ["RTOL", "LogdetEstimate", "slogdet", "solve"]

# Relative residual ‖b - A x‖ / ‖b‖ that a solve reaches, or it raises.
RTOL = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5}

# A round iterates on the residual left by the round before it.
_ROUNDS = 4
_RESTART = 200


def solve(A, b):
    """Solve ``A x = b`` by products with A alone, to a relative residual of `RTOL`.

    Conjugate gradients when A is known to be positive definite, MINRES when it is known to be
    symmetric, restarted GMRES otherwise; one right-hand side after the other.

    Parameters
    ----------
    A : StructuredOperator, shape (n, n)
    b : ndarray, shape (n,) or (n, k), of the dtype of A

    Returns
    -------
    x : ndarray, same shape as `b`

    Raises
    ------
    ValueError
        NaN or infinity in `b`.
    numpy.linalg.LinAlgError
        The true residual stays above the tolerance; the message names method, iterations and the
        residual reached.

    Notes
    -----
    An iteration is one product with A; GMRES keeps up to 200 vectors of length n.

    Examples
    --------
    >>> from mlrops import Diagonal, Permutation, Sum
    >>> A = Sum(Permutation([1, 0]), Diagonal([2.0, 3.0]))
    >>> A.solve(A @ [1.0, 2.0]).round(8)
    array([1., 2.])
    """
    if not np.isfinite(b).all():
        rows = np.flatnonzero(~np.isfinite(b.reshape(b.shape[0], -1)).all(axis=1))
        raise ValueError(f"solve: the right-hand side has NaN or infinity (row {rows[0]})")
    if b.ndim == 1:
        return _solve_one(A, b)
    x = np.empty_like(b)
    for j in range(b.shape[1]):
        x[:, j] = _solve_one(A, np.ascontiguousarray(b[:, j]))
    return x


class _Counter:
    """Counts the products with an operator: the iterations of a Krylov method."""

    def __init__(self):
        self.iterations = 0

    def __call__(self, _):
        self.iterations += 1


def _method(A, counter):
    """(name, function of (b, rtol)) for one round."""
    n = A.shape[0]
    if A.positive_definite:
        return "cg", lambda b, rtol: cg(A, b, rtol=rtol, atol=0.0, callback=counter)[0]
    if A.symmetric:
        return "minres", lambda b, rtol: minres(A, b, rtol=rtol, callback=counter)[0]
    restart = min(n, _RESTART)
    return "gmres", lambda b, rtol: gmres(
        A, b, rtol=rtol, atol=0.0, restart=restart, maxiter=max(1, 10 * n // restart),
        callback=counter, callback_type="pr_norm")[0]


def _solve_one(A, b):
    size, rtol = np.linalg.norm(b), RTOL[A.dtype]
    x = np.zeros_like(b)
    if size == 0:
        return x
    counter = _Counter()
    name, iterate = _method(A, counter)
    residual, reached = b, 1.0
    for _ in range(_ROUNDS):
        # The residual that a method recurs drifts from the true one: ask for less, look, go on.
        step = iterate(residual, 0.1 * rtol / reached)
        if not np.isfinite(step).all():
            break
        trial = b - A.matvec(x + step)
        left = np.linalg.norm(trial) / size
        if left >= reached:
            break
        x, residual, reached = x + step, trial, left
        if reached <= rtol:
            return x
    raise np.linalg.LinAlgError(
        f"solve: {name} on {A!r} reached a relative residual of {reached:.1e} in"
        f" {counted(counter.iterations, 'iteration')}, {rtol:.0e} was asked for; the operator is"
        " singular or ill-conditioned: solve with a structured operator, or with"
        " toarray() where it fits"
    )


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

    def __new__(cls, value, standard_error):
        self = super().__new__(cls, value)
        self.standard_error = float(standard_error)
        return self

    def __getnewargs__(self):
        return float(self), self.standard_error

    def __repr__(self):
        return f"LogdetEstimate({float(self)!r}, standard_error={self.standard_error:.3g})"


def slogdet(A, method, *, n_probes=30, n_steps=50, random_state=None):
    """Sign and log|det A| without structure, by a method that is named.

    Parameters
    ----------
    A : StructuredOperator, shape (n, n)
    method : {"dense", "lanczos"}
        ``"dense"`` forms A and takes 2 n³/3 flops.  ``"lanczos"`` is stochastic Lanczos quadrature
        for a positive definite A: the mean over random signs v of ``vᵀ log(A) v``, each from
        `n_steps` Lanczos steps with full reorthogonalization.
    n_probes, n_steps : int, optional
        Probes, advanced together as one block (n, n_probes), and steps.  Storage is
        n × n_probes × n_steps numbers, work n_steps block products and 4 n n_probes n_steps² flops.
    random_state : None, int, numpy.random.Generator or RandomState

    Returns
    -------
    sign : float
    logabsdet : float, or LogdetEstimate for ``"lanczos"``

    Raises
    ------
    ValueError
        Unknown method, or ``"lanczos"`` for an operator not known to be positive definite.
    numpy.linalg.LinAlgError
        ``"lanczos"`` meets a Ritz value that is not positive.

    Notes
    -----
    The ``standard_error`` is that of the mean over probes; the bias of too few steps, which falls
    like ``exp(-4 n_steps / √cond(A))``, comes on top.

    Examples
    --------
    >>> from mlrops import Diagonal
    >>> A = Diagonal([1.0, 2.0, 3.0])
    >>> sign, logdet = A.slogdet("lanczos", n_probes=4, random_state=0)
    >>> logdet.standard_error, round(logdet, 6), round(A.logdet(), 6)
    (0.0, 1.791759, 1.791759)
    """
    if method == "dense":
        sign, logabs = np.linalg.slogdet(A.toarray())
        return float(sign), float(logabs)
    if method != "lanczos":
        raise ValueError(f"slogdet: method must be 'dense' or 'lanczos', got {method!r}")
    if not A.positive_definite:
        raise ValueError(
            "slogdet: method='lanczos' needs an operator known to be positive definite;"
            f" {A!r} is not (method='dense' works for any)"
        )
    for value, name in ((n_probes, "n_probes"), (n_steps, "n_steps")):
        if check_rank(value, name) == 0:
            raise ValueError(f"slogdet: {name} must be positive")
    n = A.shape[0]
    if n == 0:
        return 1.0, LogdetEstimate(0.0, 0.0)
    rng = random_state if isinstance(random_state, np.random.RandomState) else (
        np.random.default_rng(random_state))
    signs = np.where(rng.random((n, n_probes)) < 0.5, -1, 1).astype(A.dtype)
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
            " definite to working precision"
        )
    return float(vectors[0] ** 2 @ np.log(values))
