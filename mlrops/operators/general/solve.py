"""Solves with a `GeneralMLR`: sparse LU of its expanded matrix, and least squares by LSMR.

With B and C spread out, ``A = A₀ + B Cᵀ`` is the Schur complement of

    E = [[A₀, B], [Cᵀ, -I]],     det A = (-1)^s det E,

and ``A x = b`` is ``E [x; z] = [b; 0]``, ``z = Cᵀ x``.  Unknowns are eliminated leaf by leaf, the
factors z of a group after its subtree.  The rows of Cᵀ reach over whole groups: a pivot taken from
one of them too early fills in the group.  So E is brought to entries of about one and then its rows
of Cᵀ are scaled down, the more the coarser their level: partial pivoting takes its pivots inside
the leaf, then nearby, where those are not much too small.
"""

import warnings
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import structural_rank
from scipy.sparse.linalg import LinearOperator, lsmr, onenormest, splu

from ... import kernels
from ..._common.convergence import ConvergenceWarning
from ..._common.deprecated import renamed_options
from ..._common.typing import FloatArray, Real
from ..._common.validate import as_finite
from ..._common.wording import counted
from ..expanded import spread_out
from ..operand import operand
from ..permutation import Permutation

__all__ = ["ExpandedLU", "LstsqInfo", "lstsq"]

GeneralMLR: TypeAlias = Any  # its file imports this one

# Factor rows are scaled by SHARED_ROW at the finest level, by COARSER_ROW more at each coarser one,
# and by LEAST_ROW at the least.
SHARED_ROW = 1e-2
COARSER_ROW = 0.3
LEAST_ROW = 1e-6
# Number of passes of equilibration; each one removes half of the remaining exponents.
PASSES = 12


def _multiplied_out(A):
    """Which levels belong to A₀: those whose blocks hold no more numbers than their factors."""
    chosen = []
    for r, row_off, col_off in zip(A.ranks, A.rows.boundaries, A.cols.boundaries, strict=True):
        a, b = (np.diff(offsets).astype(np.float64) for offsets in (row_off, col_off))
        chosen.append(r > 0 and (a * b).sum() <= r * (a.sum() + b.sum()))
    return chosen


def _blocks(A, level):
    """COO triplets of the blocks of a level multiplied out, in tree positions."""
    own = slice(*A._columns[level : level + 2])
    B, C = A._B[:, own].astype(np.float64), A._C[:, own].astype(np.float64)
    batches = kernels.paired.by_shape(
        A.rows.boundaries[level], A.cols.boundaries[level], own.stop - own.start)
    for rows, cols, _ in batches:
        block = np.matmul(B[rows], C[cols].swapaxes(1, 2))
        yield (np.broadcast_to(rows[:, :, None], block.shape).ravel(),
               np.broadcast_to(cols[:, None, :], block.shape).ravel(), block.ravel())


def _order(A, levels):
    """Ranks in the elimination order of x, then of z level by level; tree positions and groups."""
    paths, L = A.cols._paths, A.cols.n_levels
    leaf = np.repeat(np.arange(len(paths)), A.cols.group_sizes(-1))
    keys = [leaf * (L + 1)]
    for level in levels:
        last = np.searchsorted(paths[:, level], np.arange(A.cols.group_counts[level]), "right") - 1
        keys.append(np.repeat(last * (L + 1) + L - level, A.ranks[level]))
    order = np.argsort(np.concatenate(keys), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return rank


def _expand(A):
    """E as csc with its columns in elimination order, that order, and the level of factor rows."""
    m = A.shape[0]
    B, C = A._B.astype(np.float64), A._C.astype(np.float64)
    triplets, levels, factor_level, first = [], [], [np.zeros(0, int)], m
    for level, multiplied in enumerate(_multiplied_out(A)):
        own = slice(*A._columns[level : level + 2])
        if multiplied:
            triplets.extend(_blocks(A, level))
        elif A.ranks[level]:
            triplets.append(spread_out(B[:, own], A.rows.boundaries[level], first))
            j, i, v = spread_out(C[:, own], A.cols.boundaries[level], first)
            triplets.append((i, j, v))
            levels.append(level)
            factor_level.append(np.full(A.rows.group_counts[level] * A.ranks[level], level))
            first += factor_level[-1].size
    z = np.arange(m, first)
    triplets.append((z, z, -np.ones(z.size)))
    i, j, v = (np.concatenate(part) for part in zip(*triplets, strict=True))
    rank = _order(A, levels)
    E = sp.coo_array((v, (i, rank[j])), shape=(first, first)).tocsc()
    E.eliminate_zeros()
    if E.nnz > np.iinfo(np.intc).max:
        raise ValueError(f"the expanded matrix of {A!r} has {E.nnz:,} nonzeros, more than SuperLU"
                         " can count; lower the ranks, or solve iteratively")
    E.indices, E.indptr = E.indices.astype(np.intc), E.indptr.astype(np.intc)  # as SuperLU has them
    return E, rank, np.concatenate(factor_level)


def _equilibrate(E):
    """Powers of two (rows, columns) that bring the largest entries of E's lines to about one."""
    r, c = np.ones(E.shape[0]), np.ones(E.shape[1])
    M = abs(E)
    for _ in range(PASSES):
        steps = []
        for axis in (1, 0):
            largest = M.max(axis=axis).toarray().ravel()
            exponent = np.log2(largest, where=largest > 0, out=np.zeros_like(largest))
            steps.append(np.exp2(-np.round(exponent / 2)))
        if all((step == 1).all() for step in steps):
            break
        r, c = r * steps[0], c * steps[1]
        M = sp.csc_array(sp.diags_array(steps[0]) @ M @ sp.diags_array(steps[1]))
    return r, c


class ExpandedLU:
    """Sparse LU factorization of the expanded matrix of a square GeneralMLR.

    `nnz` counts the nonzeros of the expanded matrix, `fill` those of L and U.
    """

    def __init__(self, A: GeneralMLR) -> None:
        self._n, self._name = A.shape[0], repr(A)
        self._rows, self._cols = A.rows, A.cols
        E, self._rank, levels = _expand(A)
        self._s, self.nnz, self.fill = E.shape[0] - self._n, E.nnz, 0
        lacking = E.shape[0] - structural_rank(E)
        self._singular = lacking and (f"structure alone leaves it a rank deficiency of {lacking}:"
                                      " raise ranks, or add a diagonal")
        if lacking:
            return
        self._r, self._c = _equilibrate(E)
        E = sp.csc_array(sp.diags_array(self._r) @ E @ sp.diags_array(self._c))
        self._norm = abs(E).sum(axis=0).max()
        finest = A.rows.n_levels - 1
        self._w = np.ones(E.shape[0])
        self._w[self._n:] = np.maximum(
            LEAST_ROW, SHARED_ROW * COARSER_ROW ** (finest - levels).astype(float))
        try:
            self._lu = splu(sp.csc_matrix(sp.diags_array(self._w) @ E), permc_spec="NATURAL")
        except RuntimeError as error:  # SuperLU's word for an exactly zero pivot
            if "singular" not in str(error):
                raise
            self._singular = "a pivot is exactly zero"
            return
        self.fill = self._lu.nnz
        self._singular = self._why_not_accurate()

    def _why_not_accurate(self):
        """The 1-norm condition estimate of the equilibrated matrix, if it is beyond precision."""
        inverse = LinearOperator(
            self._w.shape * 2, dtype=np.float64,
            matvec=lambda v: self._lu.solve(self._w * v.ravel()),
            rmatvec=lambda v: self._w * self._lu.solve(v.ravel(), "T"))
        with np.errstate(all="ignore"):
            pivots = self._lu.U.diagonal()
            if pivots.all() and np.isfinite(pivots).all():
                rcond = 1 / (self._norm * onenormest(inverse, t=1))
                if rcond >= np.finfo(np.float64).eps:
                    return ""
            else:
                rcond = 0.0
        return f"to working precision (reciprocal condition number {rcond:.1e})"

    def _check(self):
        if self._singular:
            raise np.linalg.LinAlgError(f"{self._name} is singular: {self._singular}")

    def solve(self, b: FloatArray, transposed: bool = False) -> FloatArray:
        """``A⁻¹ b``, or ``A⁻ᵀ b``, for b (n,) or (n, k) in feature order; float64."""
        self._check()
        into, out = (self._cols, self._rows) if transposed else (self._rows, self._cols)
        n, t = self._n, into._gather(b).reshape(self._n, -1).astype(np.float64)
        full = np.zeros((n + self._s, t.shape[1]))
        r, c, rank = self._r * self._w, self._c, self._rank
        if transposed:  # W R E C y = v: Eᵀ x = b is (C Eᵀ R W)(W⁻¹ R⁻¹ x) = C b
            full[rank[:n]] = t
            x = self._lu.solve(full * c[:, None], "T") * r[:, None]
        else:
            full[:n] = t
            x = (self._lu.solve(full * r[:, None]) * c[:, None])[rank]
        return out._scatter(x[:n]).reshape(b.shape)

    def slogdet(self) -> tuple[float, float]:
        """Sign and log|det A|; (0, -inf) for what is singular by structure or a zero pivot."""
        if not hasattr(self, "_lu"):
            return 0.0, -np.inf
        pivots = self._lu.U.diagonal()
        if not pivots.all():
            return 0.0, -np.inf
        moved = (self._lu.perm_r, self._lu.perm_c, self._rank,
                 self._rows.permutation, self._cols.permutation)
        sign = float(np.prod([Permutation(p).slogdet()[0] for p in moved]))
        flips = np.count_nonzero(pivots < 0) + self._s
        logs = np.log(np.abs(pivots)).sum() - sum(
            np.log(scale).sum() for scale in (self._r, self._c, self._w))
        return sign * (-1.0) ** flips, logs


class LstsqInfo(NamedTuple):
    """How a least squares solve by LSMR ended.

    Attributes
    ----------
    converged : bool
    n_iter : int
        Products with A.
    residual_norm : float
        ``‖A x - b‖``; with a `damp` the root of ``‖A x - b‖² + damp² ‖x‖²``.
    gradient_norm : float
        ``‖Aᵀ (A x - b) + damp² x‖``.
    condition : float
        Estimate of the condition number of A, that of ``[A; damp I]`` with a `damp`.
    reason : str
        Why it stopped.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import GeneralMLR, Hierarchy
    >>> h = Hierarchy.flat(3)
    >>> A = GeneralMLR(h, h, [[[1.0], [0], [0]]], [[[2.0], [0], [0]]])
    >>> x, info = A.lstsq([4.0, 1.0, 0.0])
    >>> x, info.converged, round(info.residual_norm, 6)
    (array([2., 0., 0.]), True, 1.0)
    """

    converged: bool
    n_iter: int
    residual_norm: float
    gradient_norm: float
    condition: float
    reason: str


# In the order of the codes that scipy.sparse.linalg.lsmr returns as `istop`.
_REASONS = (
    "x = 0 is the exact solution", "the residual is small enough",
    "the gradient is small enough", "the condition number is beyond its limit",
    "the residual is small to working precision", "the gradient is small to working precision",
    "the condition number is beyond working precision", "the limit of iterations was reached")


@renamed_options(max_iter="maxiter")
def lstsq(self: GeneralMLR, b: Real, *, damp: float = 0.0, atol: float = 1e-10,
          btol: float = 1e-10, maxiter: int | None = None, x0: Real | None = None
          ) -> tuple[FloatArray, LstsqInfo | list[LstsqInfo]]:
    """Least squares solution of ``A x = b`` by LSMR: products with A and Aᵀ only.

    Parameters
    ----------
    b : array_like, shape (m,) or (m, k)
    damp : float, optional
        Minimize ``‖A x - b‖² + damp² ‖x‖²``.
    atol, btol : float, optional
        Stop where ``‖Aᵀr‖ <= atol ‖A‖ ‖r‖`` or ``‖r‖ <= btol ‖b‖ + atol ‖A‖ ‖x‖``.
    maxiter : int, optional
        Products with A; default ``4 min(m, n) + 100``.
    x0 : array_like, shape (n,) or (n, k), optional
        Where to start.

    Returns
    -------
    x : ndarray, shape (n,) or (n, k)
        From the zero start the solution of least norm.
    info : LstsqInfo
        ``converged, n_iter, residual_norm, gradient_norm, condition, reason``; a list of them
        for (m, k).

    Raises
    ------
    ValueError, TypeError
        `b` or `x0` of another shape, with NaN or infinity, or complex.

    Warns
    -----
    ConvergenceWarning
        `maxiter` was reached, or the condition number is beyond the precision.

    References
    ----------
    D. Fong, M. Saunders, "LSMR: an iterative algorithm for sparse least-squares problems",
    2011.
    """
    m, n = self.shape
    right, out = operand(as_finite(b, "b", axis_name="row"), self.dtype, m, "lstsq")
    shape = (n, *right.shape[1:])
    x, infos, start = np.zeros(shape, out), [], None
    if x0 is not None:
        start = operand(as_finite(x0, "x0"), self.dtype, n, "lstsq: x0")[0]
        if start.shape != shape:
            raise ValueError(f"x0 must have shape {shape}, got {start.shape}")
    for j, column in enumerate(right.reshape(m, -1).T):
        with np.errstate(over="ignore"):  # its start values overflow float32
            x.reshape(n, -1)[:, j], stop, n_iter, residual, gradient, _, condition, _ = lsmr(
                self, column, damp=damp, atol=atol, btol=btol, conlim=0,
                maxiter=4 * min(m, n) + 100 if maxiter is None else maxiter,
                x0=None if start is None else start.reshape(n, -1)[:, j])
        info = LstsqInfo(stop not in (3, 6, 7), int(n_iter), float(residual), float(gradient),
                         float(condition), _REASONS[stop])
        infos.append(info)
        if not info.converged:
            of = f" of right-hand side {j}" if right.ndim == 2 else ""
            warnings.warn(
                f"lstsq{of} stopped after {counted(info.n_iter, 'iteration')}: {info.reason}"
                f" (residual norm {info.residual_norm:.3g}, gradient norm"
                f" {info.gradient_norm:.3g}); raise maxiter, or damp",
                ConvergenceWarning, stacklevel=3)
    return x, infos if right.ndim == 2 else infos[0]
