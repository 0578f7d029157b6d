"""The expected information of F and D of a factor model on a tree, times a direction.

For ``dΣ = dF Fᵀ + F dFᵀ + diag(dD)`` and ``A = Σ⁻¹ dΣ Σ⁻¹ = -d(Σ⁻¹)`` it is the rows of A F on the
factors' own paths and ``½ diag A``.  With ``C = (I + FᵀD⁻¹F)⁻¹``, ``T = FᵀD⁻¹dF`` and
``S = T + Tᵀ - FᵀD⁻²dD F``,

    (A F)_q   = D⁻¹ [dF (I - C_q) + (dD/D) F C_q + F (Z_q - E_q)]        E = C T,  Z = C S C = -dC
    diag(A)_i = D_i⁻² [2 dF_i C_q F_iᵀ + dD_i (1 - 2 F_i C_q F_iᵀ / D_i) - F_i Z_q F_iᵀ]

where q is the leaf of row i, and M_q the block of M on its path.  T and S have the sparsity of
``FᵀD⁻¹F``, so that the blocks of C, E and Z come from a sweep up and a sweep down the tree: for a
node o and its ancestors a, after all that is below it has been eliminated, with
``Q = (P_oo)⁻¹`` and ``B = Q P_oa``,

    C_(a,o) = M C_a Mᵀ + (0 ⊕ Q),    M = [I; -B]
    S passes up Mᵀ S M, T passes up the ancestors' columns of Mᵀ T
"""

from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import _compiled_information, curvature, leaf, threads
from .layout import Layout

__all__ = ["InformationAt"]


class _Nodes(NamedTuple):
    """The nodes of a level: stacks of p matrices, r own factors, a of ancestors."""

    parent: IntArray  # (p,)
    first: IntArray  # (parents + 1,) where the children of each parent begin
    B: FloatArray  # (p, r, a)
    Q: FloatArray  # (p, r, r)
    C: FloatArray  # (p, a, a), covariances of the ancestors' factors


class InformationAt:
    """The information a sample at F (n, R) and D (n,), from the factorization K; see above."""

    def __init__(self, F: FloatArray, d: FloatArray, K: FloatArray, layout: Layout):
        self.F, self.d, self.layout = F, d, layout
        self._levels: list[_Nodes] = []
        C = np.empty((1, 0, 0), F.dtype)
        for level, first in enumerate(layout.first_leaves):
            own, p = layout.columns(level), first.size - 1
            nodes = K[layout.node_rows(level)].reshape(p, own.stop - own.start, layout.R)
            root = np.linalg.inv(nodes[:, :, own])
            parent = layout.path[first[:-1], level - 1] if level else np.zeros(p, np.int64)
            begin = np.searchsorted(parent, np.arange(parent[-1] + 2))
            at = _Nodes(parent, begin, _t(root) @ nodes[:, :, : own.start], _t(root) @ root,
                        C[parent])
            self._levels.append(at)
            moved = -at.B @ at.C
            C = _bordered(at.C, moved, at.Q - moved @ _t(at.B))
        self._covariance = C
        self._FC, self._forms = curvature.rows_times(F, C, layout)
        self._share = 1 - 2 * self._forms / d

    def times(self, dF: FloatArray, dD: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The information times a direction, (n, R) and (n,)."""
        F, d, layout = self.F, self.d, self.layout
        every, relative = (0, layout.n_leaves), dD / d
        T = leaf.tdot(F, dF, layout, *every, 1 / d)
        E, Z = self._sweep(T, T + _t(T) - leaf.tdot(F, F, layout, *every, relative / d))
        out, _ = curvature.rows_times(dF, self._covariance, layout)
        np.subtract(dF, out, out=out)
        out += relative[:, None] * self._FC
        fitted, forms = curvature.rows_times(F, Z, layout)
        out += fitted
        out -= curvature.rows_times(F, E, layout)[0]
        out /= d[:, None]
        forms = 2 * np.einsum("ij,ij->i", dF, self._FC) + dD * self._share - forms
        return out, forms / (2 * d**2)

    def diagonal(self) -> tuple[FloatArray, FloatArray]:
        """The diagonal entries of F (n, R) and of D (n,).

        With ``u = diag Σ⁻¹`` they are ``u_i (1 - C_jj) + (D⁻¹ F C)_ij²`` and ``½ u²``.
        """
        u = (1 - self._forms / self.d) / self.d
        unseen = 1 - np.einsum("qrr->qr", self._covariance)
        out = unseen.repeat(self.layout.sizes, axis=0) * u[:, None]
        out += np.square(self._FC / self.d[:, None])
        return out, u**2 / 2

    def _sweep(self, T: FloatArray, S: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Blocks of E and Z on the paths of the leaves, (n_leaves, R, R), from those of T, S."""
        kept = []
        for at in reversed(self._levels):
            own, T, S = _up(at, T, S)
            kept.append(own)
        E = Z = np.empty((1, 0, 0), T.dtype)
        for at in self._levels:
            E, Z = _down(at, E, Z, kept.pop())
        return E, Z


def _up(at: _Nodes, T: FloatArray, S: FloatArray
        ) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """What the nodes of a level keep of their T and S, and what their parents are passed."""
    (p, r, a), parents = at.B.shape, at.first.size - 1
    own = [np.empty((p, *shape), T.dtype) for shape in ((r, a + r), (a, r), (r, a), (r, r))]
    passed = np.empty((2, parents, a, a), T.dtype)
    threads.run(lambda lo, hi: _compiled_information.level_up(
        T, S, at.B, at.Q, at.first, lo, hi, *own, *passed), at.first, 0, parents, 4 * r * T.size)
    return own, passed[0], passed[1]


def _down(at: _Nodes, E: FloatArray, Z: FloatArray, own: list[FloatArray]
          ) -> tuple[FloatArray, FloatArray]:
    """E and Z of the nodes of a level from those of their parents and what `_up` kept."""
    p, r, a = at.B.shape
    found = np.empty((2, p, a + r, a + r), E.dtype)
    threads.run(lambda lo, hi: _compiled_information.level_down(
        E, Z, at.parent, at.B, at.Q, at.C, *own, lo, hi, *found), np.arange(p + 1), 0, p,
        2 * a * found.size)
    return found[0], found[1]


def _t(x: FloatArray) -> FloatArray:
    return x.swapaxes(1, 2)


def _bordered(above: FloatArray, across: FloatArray, own: FloatArray) -> FloatArray:
    """Symmetric matrices ``[above, acrossᵀ; across, own]``."""
    return np.concatenate([np.concatenate([above, _t(across)], axis=2),
                           np.concatenate([across, own], axis=2)], axis=1)
