"""Generalized least squares: one equation, any operator as covariance of its errors."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.sparse.linalg import LinearOperator, lsmr

from .._common.cached import cached_property
from .._common.convergence import ConvergenceWarning
from .._common.deprecated import renamed_options
from .._common.frames import is_frame, is_series, read_table
from .._common.labels import by_label, labels_of
from .._common.typing import BoolArray, Data, FloatArray, Vector
from .._common.validate import as_finite, check_rank
from .._common.wording import counted, name_some
from ..operators import Dense, Diagonal, StructuredOperator, as_operator, krylov
from ..operators.iterations import cg_of_one
from ..operators.named import read_square
from .design import Design, name_dependent, rounding
from .gls_result import GLSResult

__all__ = ["gls"]

# A round solves for the residual that the round before it left.
ROUNDS = 4


@renamed_options(max_iter="maxiter")
def gls(X: Any, y: Data | Mapping[Any, float], covariance: Any, *,
        solver: Literal["cg", "lsmr", "qr"] = "cg", rtol: float | None = None,
        maxiter: int | None = None, x0: Vector | Mapping[Any, float] | None = None,
        scale: Literal["estimated", "known"] = "estimated") -> GLSResult:
    """Generalized least squares with any operator as covariance of the errors.

    The coefficients minimize ``(y - Xβ)ᵀ Σ⁻¹ (y - Xβ)`` [3]_.  Σ is used by its own ``solve`` or
    ``whiten`` alone: no N×N matrix is formed.

    Parameters
    ----------
    X : array_like, DataFrame, dict of columns, sparse array or LinearOperator, shape (N, p)
        Regressors, N > p.  No constant is added.
    y : array_like, Series or dict, shape (N,)
        Dependent variable.
    covariance : StructuredOperator, (N, N), or array_like or DataFrame, (N, N), or variances (N,)
        Covariance Σ of the errors, positive definite; up to a factor unless ``scale="known"``.
        Variances are an array, a Series, or a dict by row.
    solver : {"cg", "lsmr", "qr"}, default "cg"
        ``"cg"``: conjugate gradients on the normal operator ``Xᵀ Σ⁻¹ X``; an iteration is one solve
        with Σ.  ``"lsmr"``: LSMR on the whitened regressors ``W X``, ``WᵀW = Σ⁻¹``, whose condition
        is not squared; an iteration is one ``whiten``, one ``color`` and one solve.  ``"qr"``: no
        iteration, a QR of the whitened regressors, which it forms: N×p numbers.
    rtol : float, optional
        Relative residual of the normal equations, `GLSResult.residual`, at which the iteration
        stops.  Default 1e-10, in single precision (of X or Σ) 1e-5.
    maxiter : int, optional
        Cap on the iterations, default ``10 p``, at least 100.
    x0 : array_like, Series or dict by regressor, shape (p,), optional
        Coefficients to start from, default zeros.
    scale : {"estimated", "known"}, default "estimated"
        ``"estimated"``: the covariance of the errors is σ²Σ, σ² is estimated with N - p degrees of
        freedom, and tests refer to Student's t.  ``"known"``: it is Σ, and they refer to the normal
        distribution.

    Returns
    -------
    GLSResult
        ``params``, ``bse``, ``tvalues``, ``pvalues``, ``conf_int()``, ``cov_params()``,
        ``llf``, ``summary()``, … and how the solver ended.

    Raises
    ------
    ValueError
        Shapes or labels that do not match, two columns of one name, N <= p, NaN or masked entries,
        columns of X that are linearly dependent (named), a covariance not known to be positive
        definite or, for ``"lsmr"`` and ``"qr"``, without a structured square root.
    TypeError
        Complex or non-numeric input.
    numpy.linalg.LinAlgError
        A dense covariance that is not positive definite, or one whose own solve fails.

    Warns
    -----
    ConvergenceWarning
        The residual stays above `rtol`; the message says where, and what to do.

    Notes
    -----
    *Labels.*  Rows are those of X where it has an index, else those of y: y, variances and the rows
    and columns of a covariance that have labels are put in their order, and refused where the
    labels differ; so is `x0` by the names of the regressors.  Arrays and operators stand in the
    order of the rows.  Frames of polars and other libraries have names of columns, but no index.

    *Solution.*  The iteration runs in a basis of the columns of X.  A dense X is replaced by the
    orthonormal factor of its QR, so that the number of iterations depends on Σ, not on the
    condition of X; the columns of a sparse X are scaled to unit length (Jacobi preconditioning); a
    LinearOperator is taken as it is.  After each run of a solver the residual is formed anew from
    ``y - Xβ``, and up to three more runs solve for what is left [1]_.

    `rtol` bounds the gradient of the least squares problem.  With ``W B``, the whitened regressors
    in that basis, of condition κ, coefficients can be off by about ``κ² rtol`` of their size, and
    by ``κ rtol ‖W y‖ / σ`` standard errors.  Where a sparse X or a LinearOperator makes κ large,
    ask for a small `rtol`, such as 1e-13, together with ``solver="lsmr"`` [2]_.

    That columns of a sparse X or a LinearOperator are dependent is noticed with ``solver="qr"``,
    or when standard errors are asked for.

    References
    ----------
    .. [1] Å. Björck, *Numerical Methods for Least Squares Problems*, SIAM 1996, chapter 7.
    .. [2] D. C.-L. Fong and M. Saunders, "LSMR: an iterative algorithm for sparse least-squares
       problems", SIAM J. Sci. Comput. 33, 2011.
    .. [3] A. Aitken, "On least squares and linear combination of observations", Proc. R. Soc.
       Edinburgh 55, 1935.

    Examples
    --------
    Errors of 12 persons at 50 times, correlated across persons and over time:

    >>> import numpy as np
    >>> from mlrops import Dense, Kronecker, LowRankPlusDiagonal, gls
    >>> from mlrops.datasets import simulate_gls
    >>> persons = LowRankPlusDiagonal(np.ones((12, 1)), np.ones(12))
    >>> lag = np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    >>> covariance = Kronecker(persons, Dense(0.8 ** lag, positive_definite=True))
    >>> data = simulate_gls(3, covariance, beta=[1.0, -2.0, 0.5], random_state=0)
    >>> fit = gls(data.X, data.y, covariance)
    >>> fit.converged, bool((np.abs(fit.params - data.params) < 3 * fit.bse).all())
    (True, True)
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, got {solver!r}")
    if scale not in ("estimated", "known"):
        raise ValueError(f"scale must be 'estimated' or 'known', got {scale!r}")
    design = Design(X)
    N, p = design.shape
    y, dependent, rows = _dependent(y, design)
    covariance = _as_covariance(covariance, N, rows)
    if rtol is None:
        rtol = max(krylov.RTOL[design.dtype], krylov.RTOL[covariance.dtype])
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol}")
    maxiter = max(100, 10 * p) if maxiter is None else check_rank(maxiter, "maxiter")
    start = _start(x0, design, np.result_type(design.dtype, y.dtype, covariance.dtype))

    equations = SOLVERS[solver](design, y, covariance)
    gamma, residual, n_cg = _refine(equations, start, rtol, maxiter)
    converged = residual <= rtol
    if not converged:
        _warn(solver, residual, rtol, n_cg, maxiter)
    fitted = design.apply(gamma)
    return GLSResult(
        coefficients=design.coefficients(gamma), errors=y - fitted, fitted=fitted,
        covariance=covariance, solver=solver, n_cg=n_cg, residual=residual, converged=converged,
        scale_is=scale, names=design.names, dependent=dependent, rows=rows, _equations=equations)


def _dependent(y: Any, design: Design) -> tuple[FloatArray, str | None, Any]:
    """y as an array (N,) in the order of X, its name, and the labels of the rows."""
    N, rows = design.shape[0], labels_of(y) if design.index is None else design.index
    y = by_label(y, rows, "y", "observation")
    name = y.name if is_series(y) else None
    y = read_table(y, "y").values
    if y.shape != (N,):
        raise ValueError(f"y must have shape ({N},), one entry a row of X, got {y.shape}")
    y = as_finite(y, "y", axis_name="observation", labels=rows)
    return y, None if name in (None, "") else str(name), rows


def _as_covariance(covariance: Any, N: int, rows: Any) -> StructuredOperator:
    """The covariance as an operator known to be positive definite."""
    if not is_frame(covariance):
        covariance = by_label(covariance, rows, "covariance", "observation")
    if is_series(covariance):
        covariance = read_table(covariance, "covariance").values
    covariance = read_square(covariance, rows, "covariance", "observation")
    if hasattr(covariance, "matvec") or not (
            hasattr(covariance, "__array__") or isinstance(covariance, (list, tuple))):
        covariance = as_operator(covariance)
    else:
        diagonal = np.ndim(covariance) == 1
        labels = rows if np.ndim(covariance) and len(covariance) == N else None
        A = as_finite(covariance, "covariance", ndim=1 if diagonal else 2,
                      axis_name="observation", labels=labels)
        bad = np.flatnonzero(~(A > 0)) if diagonal else np.empty(0, int)
        if len(bad):
            where = bad if labels is None else [labels[i] for i in bad]
            raise ValueError(
                f"covariance must hold positive variances, got {A[bad[0]]:.3g} at observation"
                f" {where[0]} ({counted(len(bad), 'observation')}: {name_some(where)})")
        covariance = Diagonal(A) if diagonal else Dense(A, positive_definite=True)
    if covariance.shape != (N, N):
        raise ValueError(f"covariance must have shape ({N}, {N}), one row an observation, got"
                         f" {covariance.shape}")
    if not covariance.positive_definite:
        raise ValueError(
            f"covariance must be known to be symmetric positive definite, got {covariance!r}; where"
            " it is, say so: Dense(A, positive_definite=True) or Wrapped(A, positive_definite=True)"
        )
    return covariance


def _start(x0: Any, design: Design, dtype: Any) -> FloatArray:
    """The start in the basis of the design."""
    p = design.shape[1]
    if x0 is None:
        return np.zeros(p, dtype)
    x0 = read_table(by_label(x0, design.names, "x0", "coefficient"), "x0").values
    x0 = as_finite(x0, "x0", axis_name="coefficient", labels=design.names)
    if x0.shape != (p,):
        raise ValueError(f"x0 must have shape ({p},), one entry a coefficient, got {x0.shape}")
    return design.in_basis(x0).astype(dtype, copy=False)


def _warn(solver: str, residual: float, rtol: float, n_cg: int, maxiter: int) -> None:
    capped = n_cg >= maxiter
    other = {"cg": "solver='lsmr', which does not square conditions, or ", "lsmr": "", "qr": ""}
    hint = "raise maxiter" if capped else "rtol is below what rounding allows here: raise it"
    warnings.warn(
        f"gls: {solver} {'hit the cap of' if capped else 'stopped after'}"
        f" {counted(n_cg, 'iteration')} at a relative residual of the normal equations of"
        f" {residual:.1e}, {rtol:.0e} was asked for; try {other[solver]}solver='qr', or {hint}",
        ConvergenceWarning, stacklevel=4)


def _refine(equations: "_Normal", gamma: FloatArray, rtol: float,
            maxiter: int) -> tuple[FloatArray, float, int]:
    """Rounds of a solver on the true residual: γ, its relative residual, and iterations used."""
    size, n_cg = equations.size, 0
    if size == 0:  # nothing to explain
        return np.zeros_like(gamma), 0.0, 0
    error, gradient, reached = equations.at(gamma)
    for _ in range(ROUNDS):
        if not reached > rtol or n_cg >= maxiter:
            break
        step, used = equations.step(error, gradient, 0.1 * rtol * size, maxiter - n_cg)
        n_cg += used
        error, gradient, left = equations.at(gamma + step)
        if not left < reached:
            break
        gamma, reached = gamma + step, left
    return gamma, reached, n_cg


class _Normal:
    """The normal equations ``Bᵀ Σ⁻¹ B γ = Bᵀ Σ⁻¹ y``, X = B T."""

    def __init__(self, design: Design, y: FloatArray, covariance: StructuredOperator) -> None:
        self.design, self.y, self.covariance = design, y, covariance
        self.dtype = np.result_type(design.dtype, y.dtype, covariance.dtype)

    def gradient(self, error: FloatArray) -> FloatArray:
        """``Bᵀ Σ⁻¹ e``."""
        return self.design.adjoint(self.covariance.solve(error))

    def quad(self, error: FloatArray) -> float:
        """``eᵀ Σ⁻¹ e``."""
        return float(error @ self.covariance.solve(error))

    @cached_property
    def size(self) -> float:
        """``‖W B‖ ‖W y‖``, the size of a gradient that nothing explains."""
        first = self.gradient(self.y)
        length = np.linalg.norm(first)
        if not math.isfinite(length):
            raise ValueError(
                "gls: Xᵀ Σ⁻¹ y is not finite: it overflows, or the products of X or the solve of"
                " covariance give NaN or infinity for finite input")
        if not first.any():
            return 0.0
        # A Rayleigh quotient of the normal operator; the gradient leans to its large eigenvalues.
        norm = self.quad(self.design.apply(first / length)) if length else 0.0
        total = self.quad(self.y)
        if norm < 0 or total < 0:
            raise np.linalg.LinAlgError(
                f"gls: covariance is not positive definite: vᵀ Σ⁻¹ v = {min(norm, total):.3g} for"
                " some v")
        if not norm * total > 0:
            raise ValueError("gls: the squares of y underflow; measure y in a smaller unit")
        return math.sqrt(norm) * math.sqrt(total)

    def at(self, gamma: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Errors of γ, their gradient, and its norm relative to `size`."""
        error = self.y - self.design.apply(gamma)
        gradient = self.gradient(error)
        return error, gradient, float(np.linalg.norm(gradient)) / self.size

    def step(self, error: FloatArray, gradient: FloatArray, goal: float,
             maxiter: int) -> tuple[FloatArray, int]:
        """Solve for what is left until the gradient is below `goal`; γ and iterations used."""
        return cg_of_one(lambda v: self.gradient(self.design.apply(v)), gradient, goal, maxiter)

    @cached_property
    def root(self) -> FloatArray:
        """C (p, p) with ``C Cᵀ = (Xᵀ Σ⁻¹ X)⁻¹``, from the eigenvectors of the normal matrix."""
        design = self.design
        p = design.shape[1]
        normal = np.empty((p, p), self.dtype)
        for block in design.blocks():
            solved = self.covariance.solve(design.columns(block.start, block.stop))
            normal[:, block] = design.adjoint(solved)
        length = _lengths(normal.diagonal(), design)
        values, vectors = np.linalg.eigh((normal + normal.T) / 2 / np.outer(length, length))
        # Sums of N products round like √N.
        noise = max(rounding(p, self.dtype), math.sqrt(design.shape[0]) * np.finfo(self.dtype).eps)
        _check_rank(values <= noise * values[-1], vectors, design,
                    "; solver='lsmr' and 'qr' resolve a condition that this one squares")
        return design.coefficients(vectors / np.sqrt(values) / length[:, None])


class _Whitened(_Normal):
    """The least squares problem ``W B γ ≈ W y`` with ``WᵀW = Σ⁻¹``."""

    def __init__(self, design: Design, y: FloatArray, covariance: StructuredOperator) -> None:
        super().__init__(design, y, covariance)
        try:
            covariance.whiten(y)
        except ValueError as error:
            raise ValueError(
                f"this solver whitens, and {error}; solver='cg' needs no square root") from error

    def quad(self, error: FloatArray) -> float:
        return float(self.covariance.inv_quad(error))

    def step(self, error: FloatArray, gradient: FloatArray, goal: float,
             maxiter: int) -> tuple[FloatArray, int]:
        design, covariance = self.design, self.covariance
        # W is the inverse of S, S Sᵀ = Σ, and so Wᵀ = Σ⁻¹ S.
        whitened = LinearOperator(
            design.shape, lambda v: covariance.whiten(design.apply(v.ravel())),
            rmatvec=lambda u: design.adjoint(covariance.solve(covariance.color(u.ravel()))),
            dtype=np.float64)
        # Its own recurrences in double precision: their squares overflow single precision.
        right = covariance.whiten(error).astype(np.float64, copy=False)
        # ‖Âᵀr‖ <= tol ‖Â‖ ‖r‖ or ‖r‖ <= tol ‖right‖: either brings the gradient below the goal.
        tol = goal / self.size * math.sqrt(self.quad(self.y)) / np.linalg.norm(right)
        step, _, n_cg, *_ = lsmr(whitened, right, atol=tol, btol=tol, conlim=0, maxiter=maxiter)
        return step.astype(self.dtype, copy=False), int(n_cg)

    @cached_property
    def _triangle(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Orthonormal and triangular factor of the whitened B, columns scaled, and the lengths."""
        design = self.design
        Z = np.empty(design.shape, np.result_type(design.dtype, self.covariance.dtype))
        for block in design.blocks():
            Z[:, block] = self.covariance.whiten(design.columns(block.start, block.stop))
        length = _lengths(np.square(Z).sum(axis=0), design)
        Q, R = qr(Z / length, mode="economic", check_finite=False)
        _, sigma, Vt = np.linalg.svd(R)
        _check_rank(sigma <= rounding(Z.shape[1], Z.dtype) * sigma[0], Vt.T, design)
        return Q, R, length

    @cached_property
    def root(self) -> FloatArray:
        """C (p, p) with ``C Cᵀ = (Xᵀ Σ⁻¹ X)⁻¹``, from the QR of the whitened regressors."""
        _, R, length = self._triangle
        inverse = solve_triangular(R, np.eye(length.size, dtype=R.dtype), check_finite=False)
        return self.design.coefficients(inverse / length[:, None])


class _Direct(_Whitened):
    """The same problem by the QR of ``W B``."""

    def step(self, error: FloatArray, gradient: FloatArray, goal: float,
             maxiter: int) -> tuple[FloatArray, int]:
        Q, R, length = self._triangle
        right = Q.T @ self.covariance.whiten(error)
        return solve_triangular(R, right, check_finite=False) / length, 1


SOLVERS = {"cg": _Normal, "lsmr": _Whitened, "qr": _Direct}


def _lengths(squares: FloatArray, design: Design) -> FloatArray:
    """Lengths of the whitened columns; one of zero is a column of zeros."""
    zero = ~(squares > 0)
    _check_rank(zero, np.eye(zero.size), design)
    return np.sqrt(squares)


def _check_rank(null: BoolArray, vectors: FloatArray, design: Design, hint: str = "") -> None:
    if null.any():
        rank, p = np.count_nonzero(~null), null.size
        raise ValueError(
            f"X must have linearly independent columns, got rank {rank} of {p} to working"
            f" precision: {name_dependent(vectors[:, null], design.names)} are dependent; leave out"
            f" {p - rank} of them{hint}")
