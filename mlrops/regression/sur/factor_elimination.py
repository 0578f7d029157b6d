r"""The inverse of the normal matrix of a system by elimination of the factors of the errors."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..._common.typing import FloatArray, IntArray
from ...operators.elementary import Dense
from ...operators.low_rank_plus_diagonal import LowRankPlusDiagonal
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .system import StackedSystem

__all__ = ["Blocks", "Elimination", "FactorElimination", "Group", "as_mlr", "size_of_elimination",
           "size_of_fronts", "widened"]

# Diagonal blocks of H and of ``H Λ H``, one array a batch; None for the latter without a ridge.
Blocks: TypeAlias = tuple[list[FloatArray], list[FloatArray] | None]
# Numbers in the largest temporary of a chunk of equations.
CHUNK = 8_000_000


def as_mlr(covariance: Any) -> MLR | None:
    """An MLR or a low rank plus diagonal matrix as an MLR, anything else as None."""
    if isinstance(covariance, MLR):
        return covariance
    if isinstance(covariance, LowRankPlusDiagonal):
        F = covariance.F
        return MLR.from_compact(Hierarchy.flat(len(F)), F.shape[1:], F, covariance.D)
    return None


def size_of_elimination(system: StackedSystem, covariance: Any) -> tuple[float, float]:
    """(width of the widest front, numbers kept in all); infinite where Σ has no such factors."""
    covariance = as_mlr(covariance)
    if covariance is None:
        return np.inf, np.inf
    return size_of_fronts(system.N, covariance)


def size_of_fronts(N: int, covariance: Any) -> tuple[int, int]:
    """The same of an MLR and N rows."""
    above, numbers = 0, 0
    for rank, groups in zip(covariance.ranks, covariance.hierarchy.group_counts, strict=True):
        above += rank
        numbers += groups * rank * above * N**2
    return above * N, numbers


class Group(NamedTuple):
    """A group of equations on the tree."""

    depth: int  # of its level, among those with factors
    above: int  # number of factors on the path before its own
    own: int
    equations: IntArray
    beyond: int | None = None  # its number, if it has other equations elsewhere, and all its path


def _groups(covariance: MLR) -> list[Group]:
    """The groups of all levels with factors, each before those it holds, branch after branch."""
    hierarchy = covariance.hierarchy
    kept = [level for level, rank in enumerate(covariance.ranks) if rank]
    offsets = [hierarchy.boundaries[level] for level in kept]
    above = np.cumsum([0, *(covariance.ranks[level] for level in kept)])
    spans = sorted((int(start), depth, int(stop)) for depth, bounds in enumerate(offsets)
                   for start, stop in zip(bounds[:-1], bounds[1:], strict=True))
    return [Group(depth, int(above[depth]), int(above[depth + 1] - above[depth]),
                   hierarchy.permutation[start:stop]) for start, depth, stop in spans]


class Elimination:
    r"""``H = (A + Λ)⁻¹`` for an MLR Σ, exactly, without a matrix of K or P rows and columns.

    Coefficients γ and factors z of all rows have the joint precision of the mixed model
    ``y = Q γ + F z + e``, ``z ~ N(0, I)``, ``e ~ N(0, D)``:

    .. math::
        \begin{bmatrix} B & G \\ G^T & I + F^T D^{-1} F \end{bmatrix}, \qquad
        B = D^{-1} + \Lambda, \quad G = Q D^{-1} F,

    B diagonal as the bases are orthonormal, and H is the block of its inverse that belongs to γ:

    .. math::
        H = B^{-1} + B^{-1} G M^{-1} G^T B^{-1}, \quad
        M = I + \sum_j (f_j f_j^T / D_j) \otimes (O_j - Q_j^T (I + D_j \Lambda_j)^{-1} Q_j),

    O_j the diagonal matrix of the rows that equation j shows.  Every term of H is positive: nothing
    cancels.  In M the factors of two groups meet only where one group holds the other, so that
    leaves are eliminated first, without fill: fronts of N R rows and columns, R factors along a
    path.  Forming M takes ``P (N R)²`` flops, eliminating it ``Σ r_g N (R_g N)²`` over the groups,
    all diagonal blocks of H ``K (N R)² + 2 P N²`` more.

    See C. Henderson, "Best linear unbiased estimation and prediction under a selection model"
    (1975), for mixed models.
    """

    def __init__(self, system: StackedSystem, F: FloatArray, D: FloatArray, groups: list[Group]
                 ) -> None:
        self.system, self.N, self.Q = system, system.N, system.basis
        self.F, self.D = (x.astype(system.dtype, copy=False) for x in (F, D))
        self.d = system.spread(self.D)
        self.shrink = 1 / (1 + self.d * system.penalty)  # B⁻¹ = D (I + D Λ)⁻¹
        self._rate = -self.d * system.penalty * self.shrink**2  # derivative by the ridge's size
        self.equation = system.spread(np.arange(system.K))
        self._own = {j: own for batch, numbers in system.parts(np.arange(system.P))
                     for j, own in zip(batch.equations, numbers, strict=True)}
        self.groups = groups
        self._factor: list[Any] = []

    def _spread(self, group: Group) -> tuple[FloatArray, FloatArray, IntArray]:
        """Regressors (P_g, N) and loadings (P_g, path) of a group's equations, positions in γ."""
        rows = np.concatenate([self._own[j] for j in group.equations])
        width = group.above + group.own
        return self.Q[rows], self.F[self.equation[rows], :width], rows

    def _assemble(self, group: Group, shrink: FloatArray) -> FloatArray:
        """``-Σ_j (f_j f_jᵀ / D_j) ⊗ Q_jᵀ shrink Q_j`` of a group: its factors, its path's."""
        Q, f, rows = self._spread(group)
        out = np.empty((group.own, self.N, f.shape[1], self.N), Q.dtype)
        for a in range(group.own):
            i = group.above + a
            scaled = (-f[:, i] / self.d[rows] * shrink[rows])[:, None] * f[:, : i + 1]
            for b in range(i + 1):
                out[a, :, b] = (Q * scaled[:, b, None]).T @ Q
                if group.above <= b < i:
                    out[b - group.above, :, i] = out[a, :, b].T
        return out

    def _add_cells(self, group: Group, M: FloatArray) -> FloatArray:
        """Add ``I + Σ_j (f_j f_jᵀ / D_j) ⊗ O_j`` to rows of M; I is left to where groups end."""
        j, t = group.equations, np.arange(self.N)
        f, observed = self.F[j, : group.above + group.own], self.system.observed
        for a in range(group.own):
            scaled = f * (f[:, group.above + a] / self.D[j])[:, None]
            if observed is None:
                cells = np.broadcast_to(scaled.sum(axis=0)[:, None], (f.shape[1], self.N))
            else:
                cells = scaled.T @ observed[j].astype(f.dtype)
            M[a, t, :, t] += cells.T
            M[a, t, group.above + a, t] += group.beyond is None
        return M

    def _eliminate(self):
        """Yield (M_gg, T = M_gg⁻¹ M_ga) of every group, the last one first.

        With a ridge also their derivatives by the logarithm of its size.  Of a group that reaches
        beyond these equations yield their share of M.
        """
        sums, slopes = _Sums(), _Sums()
        for group in reversed(self.groups):
            rows, width = group.own * self.N, group.above * self.N
            M = self._add_cells(group, self._assemble(group, self.shrink)).reshape(rows, -1)
            rest = sums.receive(group, M, width, width)
            X, own = M[:, :width], M[:, width:]
            if group.beyond is not None:
                yield own
                continue
            pivot = Dense((own + own.T) / 2, positive_definite=True)
            T = pivot.solve(X)
            sums.add(group, rest - X.T @ T)
            if not self.system.ridge:
                yield pivot, T, None, None
                continue
            dM = self._assemble(group, self._rate).reshape(rows, -1)
            rest = slopes.receive(group, dM, width, width)
            dX, down = dM[:, :width], dM[:, width:]
            dpivot = (down + down.T) / 2
            dT = pivot.solve(dX - dpivot @ T)
            slopes.add(group, rest - dX.T @ T - X.T @ dT)
            yield pivot, T, dpivot, dT

    def times(self, V: FloatArray) -> FloatArray:
        """``H V`` for V (P, m)."""
        scaled = self.shrink[:, None] * V
        out = self.d[:, None] * scaled
        width = max(1, CHUNK // max(self.N * self.F.shape[1], 1))
        for start in range(0, V.shape[1], width):
            part = slice(start, start + width)
            out[:, part] += self.shrink[:, None] * self._through_factors(scaled[:, part])
        return out

    def matrix(self) -> FloatArray:
        """H as an array (P, P)."""
        return self.times(np.eye(self.system.P, dtype=self.system.dtype))

    def _through_factors(self, U: FloatArray) -> FloatArray:
        """``Q F M⁻¹ Fᵀ Qᵀ U``."""
        N, m, sums, right = self.N, U.shape[1], _Sums(), []
        for group, (_, T, _, _) in zip(reversed(self.groups), self._factor, strict=True):
            Q, f, rows = self._spread(group)
            z = np.concatenate([(Q * f[:, i, None]).T @ U[rows]
                                for i in range(group.above, f.shape[1])])
            rest = sums.receive(group, z, group.above * N, m)
            sums.add(group, rest - T.T @ z)
            right.append(z)
        out, path = np.zeros_like(U), [np.empty((0, m), U.dtype)]
        for group, (pivot, T, _, _), z in zip(
                self.groups, reversed(self._factor), reversed(right), strict=True):
            del path[group.depth + 1 :]
            x = pivot.solve(z) - T @ path[-1]
            path.append(np.concatenate([path[-1], x]))
            Q, f, rows = self._spread(group)
            for a in range(group.own):
                out[rows] += f[:, group.above + a, None] * (Q @ x[a * N : (a + 1) * N])
        return out

    def blocks(self) -> Blocks:
        """Diagonal blocks of H, one array a batch, and of ``H Λ H`` with a ridge.

        The latter is minus the derivative of H by the logarithm of the ridge's size.
        """
        system, ridge = self.system, bool(self.system.ridge)
        inner = [np.zeros((2 if ridge else 1, b.equations.size, b.Q.shape[1], b.Q.shape[1]),
                          system.dtype) for b in system.batches]
        for group, covs in self._paths():
            self._add_forms(group, covs, inner)
        blocks, shrinkage = [], []
        vectors = np.stack([self.d, self.shrink, self._rate], axis=1)
        for W, (_, own) in zip(inner, system.parts(vectors), strict=True):
            d, s, r = np.moveaxis(own, 2, 0)
            blocks.append(s[:, :, None] * W[0] * s[:, None, :] + _diagonal(d * s))
            if ridge:
                cross = r[:, :, None] * W[0] * s[:, None, :]
                shrinkage.append(-(cross + cross.swapaxes(1, 2) + _diagonal(d * r)
                                   + s[:, :, None] * W[1] * s[:, None, :]))
        return blocks, shrinkage if ridge else None

    def _paths(self):
        """Yield each finest group with ``M⁻¹`` over its path, with a ridge its derivative too."""
        deepest = max((group.depth for group in self.groups), default=0)
        path = [[np.empty((0, 0), self.Q.dtype)] * (2 if self.system.ridge else 1)]
        for group, found in zip(self.groups, reversed(self._factor), strict=True):
            del path[group.depth + 1 :]
            covs = [found] if group.beyond is not None else widened(path[-1], *found)
            path.append(covs)
            if group.depth == deepest:
                yield group, covs

    def _add_forms(self, group, covs, inner):
        """``Q_j (f_jᵀ ⊗ I) M⁻¹ (f_j ⊗ I) Q_jᵀ`` of the equations of a finest group."""
        N, R = self.N, group.above + group.own
        a, b = np.tril_indices(R)
        twice = np.where(a == b, 1, 2)
        member = np.zeros(self.system.K, bool)
        member[group.equations] = True
        for k, cov in enumerate(covs):
            pairs = np.empty((a.size, N, N), cov.dtype)
            tiles = cov.reshape(R, N, R, N)
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                pairs[i] = tiles[x, :, y] + tiles[x, :, y].T
            pairs *= 0.5 * twice[:, None, None]
            for batch, out in zip(self.system.batches, inner, strict=True):
                own = np.flatnonzero(member[batch.equations])
                step = max(1, CHUNK // N**2)
                for first in range(0, own.size, step):
                    chosen = own[first : first + step]
                    f = self.F[batch.equations[chosen], :R]
                    C = ((f[:, a] * f[:, b]) @ pairs.reshape(a.size, N * N)).reshape(-1, N, N)
                    Q = batch.Q[chosen]
                    out[k, chosen] = Q @ C @ Q.swapaxes(1, 2)


class FactorElimination(Elimination):
    """The elimination of all factors of Σ."""

    def __init__(self, system: StackedSystem, covariance: Any) -> None:
        covariance = as_mlr(covariance)
        super().__init__(system, covariance.F, covariance.D, _groups(covariance))
        self._factor = list(self._eliminate())


def widened(above: list[FloatArray], pivot: Dense, T: FloatArray, dpivot: FloatArray | None = None,
            dT: FloatArray | None = None) -> list[FloatArray]:
    """``M⁻¹`` over the path to a group from that above it, with a ridge its derivative too."""
    inverse = pivot.solve(np.eye(len(T), dtype=T.dtype))
    TC = T @ above[0]
    covs = [np.block([[above[0], -TC.T], [-TC, inverse + TC @ T.T]])]
    if dpivot is not None and dT is not None:
        dTC = dT @ above[0] + T @ above[1]
        own = dTC @ T.T + TC @ dT.T - inverse @ dpivot @ inverse
        covs.append(np.block([[above[1], -dTC.T], [-dTC, own]]))
    return covs


class _Sums(dict[int, FloatArray]):
    """What groups pass on to the group that holds them: one sum a level, as branches are walked."""

    def add(self, group: Group, x: FloatArray) -> None:
        """Pass x on to the group above."""
        above = group.depth - 1
        self[above] = self[above] + x if above in self else x

    def receive(self, group: Group, own: FloatArray, above: int, columns: int) -> Any:
        """Add what groups within pass on to a group's own rows; what goes on to those above."""
        found = self.pop(group.depth, None)
        if found is None:
            return 0.0
        own += found[above:]
        return found[:above, :columns]


def _diagonal(x: FloatArray) -> FloatArray:
    """Diagonal matrices (g, p, p) of rows x (g, p)."""
    return x[:, :, None] * np.eye(x.shape[1], dtype=x.dtype)
