"""`check_operator`: compare an operator with its dense matrix."""

import copy
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .._common.typing import RandomState
from .._common.validate import as_generator
from .arithmetic import Operand, is_operator
from .base import StructuredOperator
from .composed import Inverse
from .wrapped import as_operator

__all__ = ["Check", "OperatorReport", "check_operator"]

_RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 2e-4}


@dataclass(frozen=True)
class Check:
    """One line of an `OperatorReport`: a check, and the error that was measured.

    `passed` is None where it was skipped; `reason` says why, or holds the exception that was
    raised.  `error` is NaN where nothing was measured.
    """

    name: str
    passed: bool | None
    error: float = np.nan
    tolerance: float = np.nan
    reason: str = ""


@dataclass
class OperatorReport:
    """The findings of `check_operator`; print it to see them as a table.

    Attributes
    ----------
    subject : str
        The operator, as text.
    checks : list of Check
        Each with ``name``, ``passed`` (None where it was skipped), ``error``, ``tolerance`` and
        ``reason``.

    Examples
    --------
    >>> from mlrops import Diagonal, check_operator
    >>> report = check_operator(Diagonal([1.0, -2.0]))
    >>> report.passed, report.failed, report.checks[0].name
    (True, [], 'linear')
    """

    subject: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True when no check failed (bool)."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The checks that failed (list of Check)."""
        return [check for check in self.checks if check.passed is False]

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [self.subject]
        for check in self.checks:
            if check.passed is None:
                lines.append(f"  {check.name:<{width}}  skipped  {check.reason}")
                continue
            mark = "ok" if check.passed else "FAILED"
            measured = "" if np.isnan(check.error) else (
                f"{check.error:.1e} (<= {check.tolerance:.0e})")
            lines.append(f"  {check.name:<{width}}  {mark:<7}  {measured} {check.reason}".rstrip())
        done = sum(check.passed is not None for check in self.checks)
        lines.append(f"{done - len(self.failed)} of {done} checks passed,"
                     f" {len(self.checks) - done} skipped")
        return "\n".join(lines)

    def raise_if_failed(self) -> "OperatorReport":
        """The report itself, where no check failed.

        Returns
        -------
        OperatorReport

        Raises
        ------
        AssertionError
            A check failed; the message is the table.
        """
        if not self.passed:
            raise AssertionError(str(self))
        return self


def check_operator(A: Operand, *, rtol: float | None = None,
                   random_state: RandomState | np.random.RandomState = 0,
                   max_size: int = 4000) -> OperatorReport:
    """Compare every verb of an operator with the dense matrix it stands for.

    Parameters
    ----------
    A : StructuredOperator or scipy LinearOperator, shape (m, n)
        Or anything with ``shape`` and ``matvec``.  For an operator of another package the checks
        that apply are made.
    rtol : float, optional
        Allowed relative error; default 1e-9, for float32 2e-4.  Errors of inverse, determinant and
        square root may exceed it by the condition number times the rounding unit.
    random_state : None, int, numpy.random.Generator or RandomState, optional
        Seed of the test vectors.
    max_size : int, optional
        Refuse larger operators: this forms the dense matrix and takes O(n³) flops.

    Returns
    -------
    OperatorReport
        With ``passed``, ``checks``, ``raise_if_failed()``; its ``str`` is a table.

    Raises
    ------
    ValueError
        A dimension exceeds `max_size`.
    TypeError
        `A` is not an operator, or complex.

    Examples
    --------
    >>> from mlrops import LowRankPlusDiagonal, check_operator
    >>> report = check_operator(LowRankPlusDiagonal([[1.0], [2.0]], [1.0, 1.0]))
    >>> report.passed
    True
    >>> str(report).splitlines()[0]
    '<2x2 LowRankPlusDiagonal, positive definite, float64>'
    """
    if not is_operator(A):
        raise TypeError(f"check_operator expects a LinearOperator, got {type(A).__name__}")
    if not isinstance(A, LinearOperator):
        A = aslinearoperator(A)
    if max(A.shape) > max_size:
        raise ValueError(
            f"check_operator forms the dense matrix; the operator has shape {A.shape}, more than"
            f" max_size={max_size}: check a smaller one of the same kind, or raise max_size")
    as_operator(A)  # refuses complex
    return _Checker(A, rtol, as_generator(random_state)).run()


def _relative(got, expected, scale=None):
    """‖got - expected‖ relative to `scale`, by default ‖expected‖; infinite for wrong shapes."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return np.inf
    if got.size == 0:
        return 0.0
    error = np.linalg.norm(got.astype(float) - expected)
    scale = np.linalg.norm(expected) if scale is None else scale
    if not np.isfinite(error):
        return np.inf
    return float(error / scale) if scale > 0 else float(error)


class _Checker:
    def __init__(self, A, rtol, rng):
        self.A, self.rng = A, rng
        self.ours = isinstance(A, StructuredOperator)
        self.dtype = np.dtype(np.float32 if A.dtype == np.float32 else np.float64)
        self.rtol = _RTOL[self.dtype] if rtol is None else rtol
        self.eps = float(np.finfo(self.dtype).eps)
        self.report = OperatorReport(repr(A))
        m, n = A.shape
        self.square = m == n
        # The other verbs are compared with the dense matrix, which is made of single products.
        self.dense = np.empty((m, n))
        for j, unit in enumerate(np.eye(n, dtype=self.dtype)):
            self.dense[:, j] = A.matvec(unit)
        self.norm = np.linalg.norm(self.dense, 2) if self.dense.size else 0.0
        self.singular_values = (
            np.linalg.svd(self.dense, compute_uv=False) if self.dense.size else np.ones(1))
        smallest, largest = self.singular_values.min(), self.singular_values.max()
        self.singular = bool(smallest <= max(m, n) * self.eps * largest) and self.dense.size > 0
        # Rounding in A alone may change a result that depends on A⁻¹ by so much; where that is
        # nearly everything, there is nothing to compare.
        cond = np.inf if smallest == 0 else float(largest / smallest)
        self.conditioned = max(self.rtol, 100 * n * self.eps * cond)
        self.hopeless = "singular" if self.singular else (
            f"condition number {cond:.0e}" if self.conditioned > 1e-2 else "")

    def random(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def run(self):
        m, n = self.A.shape
        self.products(m, n)
        if self.ours:
            self.structure()
            if self.square:
                self.inverses(n)
                self.roots(n)
        return self.report

    def check(self, name, measure, tolerance=None, skip=""):
        """Record ``measure() <= tolerance``; an exception is a failure, `skip` a reason not to."""
        tolerance = self.rtol if tolerance is None else tolerance
        if skip:
            self.report.checks.append(Check(name, None, reason=skip))
            return
        error, reason = np.nan, ""
        try:
            error = float(measure())
        except Exception as problem:  # whatever a broken operator raises belongs in the table
            reason = f"{type(problem).__name__}: {problem}"
        self.report.checks.append(Check(name, error <= tolerance, error, tolerance, reason))

    # ------------------------------------------------------------ products

    def products(self, m, n):
        A, dense = self.A, self.dense
        X, Y = self.random(n, 3), self.random(m, 3)
        x, z, y = X[:, 0], X[:, 1], Y[:, 0]
        size = self.norm * np.linalg.norm(X) or 1.0
        self.check("linear", lambda: _relative(
            A.matvec(2 * x - 3 * z), 2 * A.matvec(x) - 3 * A.matvec(z), size))
        self.check("matvec", lambda: _relative(A.matvec(x), dense @ x, size))
        self.check("matmat", lambda: _relative(A.matmat(X), dense @ X, size))
        adjoint = _lacks(lambda: A.rmatvec(y), NotImplementedError, "no adjoint product")
        size = self.norm * np.linalg.norm(Y) or 1.0
        self.check("rmatvec", lambda: _relative(A.rmatvec(y), dense.T @ y, size), skip=adjoint)
        self.check("rmatmat", lambda: _relative(A.rmatmat(Y), dense.T @ Y, size), skip=adjoint)
        self.check("dot test", lambda: _relative(
            float(y.astype(float) @ A.matvec(x)), float(x.astype(float) @ A.rmatvec(y)),
            self.norm * np.linalg.norm(x) * np.linalg.norm(y) or 1.0), skip=adjoint)
        self.check("transpose", lambda: _relative(A.T.matmat(Y), dense.T @ Y, size), skip=adjoint)
        self.check("shapes kept", self.shapes, 0.0)
        self.check("dtype kept", self.dtypes, 0.0,
                   skip="" if self.ours else "an operator of another package")

    def verbs(self):
        """The verbs that map arrays to arrays of the same kind."""
        verbs = [self.A.dot]
        if self.ours and self.square and not self.singular and self.A._has_direct_solve:
            verbs.append(self.A.solve)
        return verbs

    def shapes(self):
        m, n = self.A.shape
        trailing = [(), (1,), (3,)] + ([(0,)] if self.ours else [])
        return sum(
            verb(self.random(n, *shape)).shape != (m, *shape)
            for verb in self.verbs() for shape in trailing)

    def dtypes(self):
        n, own = self.A.shape[1], self.A.dtype
        wanted = {np.float32: np.result_type(own, np.float32), np.float64: np.float64,
                  np.int64: np.float64}
        return sum(verb(np.ones(n, given)).dtype != result
                   for verb in self.verbs() for given, result in wanted.items())

    # ------------------------------------------------------------ structure

    def structure(self):
        A, dense = self.A, self.dense
        size = self.norm or 1.0
        self.check("toarray", lambda: _relative(A.toarray(), dense, size))
        self.check("diagonal", lambda: _relative(A.diagonal(), np.diagonal(dense), size))
        rectangular = "" if self.square else "not square"
        self.check("trace", lambda: abs(A.trace() - np.trace(dense)) / (size * A.shape[0] or 1),
                   skip=rectangular)
        self.check("copy", lambda: _relative(
            copy.deepcopy(A).matvec(np.ones(A.shape[1], self.dtype)),
            dense.sum(axis=1), size * max(A.shape[1], 1) ** 0.5))
        self.check("symmetric tag", lambda: np.linalg.norm(dense - dense.T) / size,
                   skip="" if A.symmetric else "not claimed")
        self.check("positive definite tag", self.negativity,
                   skip="" if A.positive_definite else "not claimed")
        self.check("self transpose", lambda: A.T is not A or A.H is not A, 0.0,
                   skip="" if A.symmetric else "not symmetric")

    def negativity(self):
        """How far the smallest eigenvalue lies below zero, relative to the largest."""
        values = np.linalg.eigvalsh((self.dense + self.dense.T) / 2)
        return max(0.0, -values.min(initial=0.0)) / (self.norm or 1.0)

    # ------------------------------------------------------------ inverse and determinant

    def inverses(self, n):
        A, dense = self.A, self.dense
        skip, conditioned = self.hopeless, self.conditioned
        singular = "singular" if self.singular else ""
        B = self.random(n, 3)
        self.check("solve", lambda: self.backward_error(B), skip=singular)
        image = dense.astype(self.dtype) @ B
        self.check("solve A x", lambda: self.backward_error(image), skip=singular)
        self.check("slogdet", self.determinant, conditioned,
                   skip=_lacks(A.slogdet, ValueError, "no structured determinant")
                   or ("" if self.singular else skip))
        self.check("inverse", lambda: _relative(
            A.inv().matmat(B), np.linalg.solve(dense, B)), conditioned, skip=skip)
        # Inverse(B) is a second way to write B.inv(): its inverse is B, whose inverse is another.
        self.check("inverse of inverse", lambda: A.inv().inv() is not A and not (
            isinstance(A, Inverse) and A.inv() is A.base), 0.0, skip=singular)
        self.check("diagonal of inverse", lambda: _relative(
            A.inv().diagonal(), np.diagonal(np.linalg.inv(dense)),
            np.linalg.norm(np.linalg.inv(dense))), conditioned, skip=skip)

    def backward_error(self, B):
        """‖A x - b‖ / (‖A‖ ‖x‖ + ‖b‖), the largest over the columns."""
        X = self.A.solve(B)
        residual = np.linalg.norm(self.dense @ X - B, axis=0)
        sizes = self.norm * np.linalg.norm(X, axis=0) + np.linalg.norm(B, axis=0)
        return (residual / np.where(sizes > 0, sizes, 1)).max()

    def determinant(self):
        sign, logabs = self.A.slogdet()
        if self.singular:
            # Either the structure gives 0, or rounding leaves n factors, one of them below n eps.
            n, largest = self.A.shape[0], self.singular_values.max()
            if sign == 0 and logabs == -np.inf:
                return 0.0
            return max(0.0, logabs - n * np.log(largest) - np.log(10 * n * self.eps))
        expected_sign, expected = np.linalg.slogdet(self.dense)
        return np.inf if sign != expected_sign else abs(logabs - expected) / max(abs(expected), 1.0)

    # ------------------------------------------------------------ square root

    def roots(self, n):
        A, dense, conditioned = self.A, self.dense, self.conditioned
        skip = _lacks(lambda: A.color(np.zeros(n, self.dtype)), ValueError,
                      "no structured square root" if A.positive_definite
                      else "not known to be positive definite")
        identity = np.eye(n)
        unit, X, size = identity.astype(self.dtype), self.random(n, 3), n**0.5 or 1.0
        self.check("S Sᵀ = A", lambda: _relative(
            (S := A.color(unit).astype(float)) @ S.T, dense, self.norm or 1.0), skip=skip)
        skip = skip or self.hopeless
        self.check("W A Wᵀ = I", lambda: _relative(
            (W := A.whiten(unit).astype(float)) @ dense @ W.T, identity, size),
            conditioned, skip=skip)
        self.check("W S = I", lambda: _relative(A.whiten(A.color(unit)), identity, size),
                   conditioned, skip=skip)
        self.check("inv_quad", lambda: _relative(
            A.inv_quad(X), np.einsum("ij,ij->j", X, np.linalg.solve(dense, X))),
            conditioned, skip=skip)
        self.check("sample", lambda: _relative(
            np.shape(A.sample(2, random_state=0)), (2, n)), 0.0, skip=skip)


def _lacks(verb, error, reason):
    """`reason` where `verb` raises `error` to say that there is no such thing, else nothing."""
    try:
        verb()
    except error:
        return reason
    except Exception:  # it is there, and broken: its check will say so
        return ""
    return ""
