"""The recursive Sherman-Morrison-Woodbury algorithm group by group in Python, to compare with.

It follows the order of work in T. Parshakova, T. Hastie, S. Boyd, "Fitting multilevel factor
models" (2024): the inverse from the finest level to the coarsest, a Python loop over the groups of
each level, and an E-step that solves with all features for each leaf.  Nothing of `MLR` is used.
"""

import math

import numpy as np
from scipy.linalg import solve_triangular

__all__ = ["Recursion"]


class Recursion:
    """``Σ = Σ_l F_l F_lᵀ + diag(D)``, ``Σ⁻¹ = diag(D)⁻¹ - Σ_l H_l H_lᵀ`` and ``log det Σ``.

    With S the inverse of ``diag(D)`` and the levels below a group g,
    ``(S⁻¹ + F_g F_gᵀ)⁻¹ = S - H_g H_gᵀ``, where ``H_g = S F_g C⁻ᵀ`` and ``C Cᵀ = I + F_gᵀ S F_g``.

    Parameters
    ----------
    hierarchy : Hierarchy
        Features in tree order.
    ranks : sequence of int
    F : ndarray, shape (n, R)
    D : ndarray, shape (n,)
    """

    def __init__(self, hierarchy, ranks, F, D):
        self.F, self.D = F, D
        self.boundaries = hierarchy.boundaries
        self.groups = [[slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
                       for ends in (level.tolist() for level in hierarchy.boundaries)]
        ends = np.cumsum([0, *ranks]).tolist()
        self.columns = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.H = np.empty_like(F)
        self.logdet = float(np.log(D).sum())
        SF = F / D[:, None]  # S F, S the inverse of the levels eliminated so far
        for groups, own in reversed(list(zip(self.groups, self.columns, strict=True))):
            above = slice(0, own.start)
            for g in groups if own.start < own.stop else ():
                C = np.linalg.cholesky(np.eye(own.stop - own.start) + F[g, own].T @ SF[g, own])
                H = self.H[g, own] = solve_triangular(C, SF[g, own].T, lower=True).T
                SF[g, above] -= H @ (H.T @ F[g, above])
                self.logdet += 2 * float(np.log(C.diagonal()).sum())

    def multiply(self, x):
        """``Σ x`` for x (n,) or (n, k)."""
        return self._products(self.F, (x.T * self.D).T, x, 1)

    def solve(self, b):
        """``Σ⁻¹ b`` for b (n,) or (n, k)."""
        return self._products(self.H, (b.T / self.D).T, b, -1)

    def _products(self, factors, out, x, sign):
        for groups, own in zip(self.groups, self.columns, strict=True):
            for g in groups:
                block = factors[g, own]
                out[g] += sign * (block @ (block.T @ x[g]))
        return out

    def path(self, leaf):
        """Spread-out factors of the groups around a leaf, (n, R)."""
        P = np.zeros_like(self.F)
        for ends, groups, own in zip(self.boundaries, self.groups, self.columns, strict=True):
            g = groups[int(np.searchsorted(ends, leaf.start, side="right")) - 1]
            P[g, own] = self.F[g, own]
        return P

    def update_leaf(self, Y, leaf):
        """The M-step of a leaf: F (|leaf|, R) and D (|leaf|,), for centred data Y (N, n)."""
        N = len(Y)
        P = self.path(leaf)
        SP = self.solve(P)
        Z = Y @ SP  # posterior means of the factors, a sample a row
        W = N * (np.eye(P.shape[1]) - P.T @ SP) + Z.T @ Z
        V = Y[:, leaf].T @ Z
        F = np.linalg.solve(W, V.T).T
        squares = np.einsum("ti,ti->i", Y[:, leaf], Y[:, leaf])
        return F, (squares - 2 * (F * V).sum(axis=1) + ((F @ W) * F).sum(axis=1)) / N

    def em_step(self, Y):
        """New F and D, and the average log-likelihood a sample of the old ones."""
        leaves = [self.update_leaf(Y, leaf) for leaf in self.groups[-1]]
        F, D = (np.concatenate(parts) for parts in zip(*leaves, strict=True))
        quad = float(np.einsum("ti,it->", Y, self.solve(Y.T))) / len(Y)
        return F, D, -0.5 * (Y.shape[1] * math.log(2 * math.pi) + self.logdet + quad)
