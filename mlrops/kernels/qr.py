"""QR factorization up the tree: ``Σ = diag(D) + F Fᵀ`` where a Cholesky factor has lost too much.

With ``M = [D^{-1/2} F; I] = Q [R; 0]``, F spread out, ``I + FᵀD⁻¹F = MᵀM = RᵀR``: R holds what the
Cholesky factor holds, without squaring the condition, and what of ``[D^{-1/2} b; 0]`` lies outside
the range of M, the n numbers c₂ of ``Qᵀ [D^{-1/2} b; 0]``, is ``W b`` with ``WᵀW = Σ⁻¹``.

A node factors ``[[own, anc], [I, 0]]``, its own columns first, in which the rows are what its
children (or the features of a leaf) pass it.  The first rows of the triangle, ``[Cᵀ, X]``, are what
K keeps; those that follow are passed up in place of ``A_anc,anc - XᵀX``.  Rows are sorted by size,
largest first, so that each is as exact as it was by itself whatever the range of D (A. Cox and
N. Higham, "Stability of Householder QR factorization for weighted least squares problems", 1998).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from .._common.typing import FloatArray, IntArray
from . import _compiled_qr, threads, tree
from .layout import Layout

__all__ = ["QR"]

# Multiply-adds of a node from which LAPACK wins over the compiled loop, its call included.
LAPACK_WORK = 200_000
# Columns below which products with its reflectors are bound by memory, and not by LAPACK.
LAPACK_COLUMNS = 4
# Columns at a time: vectors are copied, as rows.
COLUMNS = 64
# Share of a row that lies outside the range of M, below which it is not a difference from one.
OUTSIDE = 1e-3


class Level(NamedTuple):
    """Reflectors of the nodes of a level; node g has ``m = off[g + 1] - off[g]`` rows."""

    incoming: int  # rows that come from below; r rows of the identity a node follow
    order: IntArray  # (rows,) which of them is where, node by node
    off: IntArray  # (p_l + 1,)
    r: int
    zoff: int  # first node row of the level
    poff: IntArray  # (p_l + 1,) the rows of the level above that it passes up
    V: FloatArray  # (rows R_l,) the packed factorizations (R_l, m)
    tau: FloatArray  # (p_l, R_l)

    def packed(self, g: int) -> FloatArray:
        """The packed factorization of node g, (R_l, m), a view."""
        a, b, width = int(self.off[g]), int(self.off[g + 1]), self.tau.shape[1]
        return self.V[a * width : b * width].reshape(width, b - a)

    @property
    def rest(self) -> int:
        """Numbers that lie outside the range when the level is done."""
        return int(self.incoming - self.poff[-1])


class QR:
    """The factorization of F (n, R) and D (n,) on a layout; rows of arrays in tree order.

    ``K (s, R)`` and `gained`, log det(I + Fᵀ D⁻¹ F), are as `tree.factor` returns them, to rounding
    in the entries of M.  Each of the products below costs 4 n R flops and more a column; the
    reflectors are ``(n + s) R`` numbers or less.
    """

    def __init__(self, F: FloatArray, D: FloatArray, layout: Layout) -> None:
        self.F, self.layout, self.deviation = F, layout, np.sqrt(D)[:, None]
        self.K = np.zeros((layout.s, layout.R), F.dtype)
        self._sign = np.empty(layout.s, F.dtype)
        self._levels: list[Level] = []
        with np.errstate(over="ignore", invalid="ignore"):
            rows: FloatArray = F / self.deviation
            offsets = layout.leaf_off
            for level in range(layout.L - 1, -1, -1):
                done, rows = self._eliminate(level, rows, offsets)
                self._levels.append(done)
                offsets = done.poff[_first_children(layout, level)]
            self.gained = 2 * float(np.log(tree.pivots(self.K, layout), dtype=np.float64).sum())

    @property
    def failed(self) -> tuple[int, int] | None:
        """(level, group) where entries overflowed, if they did."""
        return tree.broken(self.K, self.layout.tree)

    # ------------------------------------------------------------ the factorization

    def _eliminate(self, level: int, B: FloatArray, offsets: IntArray
                   ) -> tuple[Level, FloatArray]:
        """Factor the nodes of a level, whose rows B (rows, R_l) are ``offsets[g]:offsets[g + 1]``.

        Returns them and what they pass up.
        """
        layout, p = self.layout, offsets.size - 1
        c0, width = int(layout.cols[level]), int(layout.cols[level + 1])
        r, zoff, below = width - c0, int(layout.zoff[level]), np.diff(offsets)
        order, off = _sorted(B, below, r), offsets + r * np.arange(p + 1)
        done = Level(len(B), order, off, r, zoff, _offsets(np.minimum(below, c0)),
                     np.empty(len(order) * width, B.dtype), np.zeros((p, width), B.dtype))
        S = np.empty((int(done.poff[-1]), c0), B.dtype)
        rows = np.diff(off)
        large = np.flatnonzero(rows * np.minimum(rows, width) * width > LAPACK_WORK)

        def task(lo, hi, small=True):
            _compiled_qr.gather_nodes(B, order, off, c0, width, lo, hi, done.V)
            if small:
                _compiled_qr.reflect_nodes(off, width, lo, hi, done.V, done.tau)
            else:
                _factor_large(done, lo)
            _compiled_qr.spread_nodes(off, done.poff, c0, width, zoff, lo, hi, done.V, self._sign,
                                      self.K, S)

        for lo, hi in _runs(large, p):
            threads.run(task, off, lo, hi, int(off[hi] - off[lo]) * width * width)
        for g in large:
            task(int(g), int(g) + 1, small=False)
        return done, S

    # ------------------------------------------------------------ products with Q

    def _apply(self, level: Level, up: bool, X: FloatArray, nodes: FloatArray, passed: FloatArray,
               rest: FloatArray) -> None:
        """Multiply with Qᵀ (`up`) or Q of a level; see `_compiled_qr.apply_nodes`."""
        off, k, width = level.off, len(X), level.tau.shape[1]
        rows = np.diff(off)
        work = rows * np.minimum(rows, width) * k
        large = np.flatnonzero(work > LAPACK_WORK) if k >= LAPACK_COLUMNS else np.arange(0)

        def task(lo, hi):
            room = np.empty(int(rows[lo:hi].max(initial=0)), X.dtype)
            _compiled_qr.apply_nodes(
                level.order, off, level.poff, level.r, level.zoff, level.V, level.tau, self._sign,
                up, lo, hi, room, X, nodes, passed, rest)

        for lo, hi in _runs(large, len(rows)):
            threads.run(task, off, lo, hi, int(off[hi] - off[lo]) * width * k)
        for g in large:
            self._apply_large(level, int(g), up, X, nodes, passed, rest)

    def _apply_large(self, level: Level, g: int, up: bool, X: FloatArray, nodes: FloatArray,
                     passed: FloatArray, rest: FloatArray) -> None:
        rows = level.order[level.off[g] : level.off[g + 1]]
        above = slice(int(level.poff[g]), int(level.poff[g + 1]))
        inner = rows < level.incoming
        own = slice(level.zoff + g * level.r, level.zoff + (g + 1) * level.r)
        m, r, t = len(rows), level.r, above.stop - above.start
        start = int(level.off[g]) - g * r - above.start
        beyond = slice(start, start + m - r - t)
        identity = level.zoff + rows[~inner] - level.incoming
        y: FloatArray = np.empty((len(X), m), X.dtype)
        if up:
            y[:, inner], y[:, ~inner] = X[:, rows[inner]], nodes[:, identity]
        else:
            y[:, :r] = self._sign[own] * nodes[:, own]
            y[:, r : r + t], y[:, r + t :] = passed[:, above], rest[:, beyond]
        V = level.packed(g)[: min(m, level.tau.shape[1])]
        y = _of(lapack, "ormqr", y)("L", "T" if up else "N", V.T, level.tau[g, : len(V)], y.T,
                                    max(1, 64 * len(y)), overwrite_c=1)[0].T
        if up:
            nodes[:, own] = self._sign[own] * y[:, :r]
            passed[:, above], rest[:, beyond] = y[:, r : r + t], y[:, r + t :]
        else:
            X[:, rows[inner]], nodes[:, identity] = y[:, inner], y[:, ~inner]

    def _up(self, X: FloatArray, nodes: FloatArray) -> FloatArray:
        """c₂ (k, n) of ``Qᵀ [X; nodes]``, X (k, n), whose first part takes the place of nodes."""
        k, at = len(X), 0
        rest = np.empty_like(X)
        for level in self._levels:
            passed: FloatArray = np.empty((k, int(level.poff[-1])), X.dtype)
            left = np.empty((k, level.rest), X.dtype)
            self._apply(level, True, X, nodes, passed, left)
            rest[:, at : at + level.rest] = left
            at, X = at + level.rest, passed
        return rest

    def _down(self, rest: FloatArray, nodes: FloatArray) -> FloatArray:
        """The n rows of ``Q [nodes; rest]``, (k, n); those of the identity go to nodes."""
        k, at = rest.shape
        passed: FloatArray = np.empty((k, 0), rest.dtype)
        for level in reversed(self._levels):
            X: FloatArray = np.empty((k, level.incoming), rest.dtype)
            left = np.ascontiguousarray(rest[:, at - level.rest : at])
            self._apply(level, False, X, nodes, passed, left)
            at, passed = at - level.rest, X
        return passed

    def _outside(self, x: FloatArray) -> FloatArray:
        return self._up(_rows(x), np.zeros((x.shape[1], self.layout.s), x.dtype))

    # ------------------------------------------------------------ what follows

    def solve(self, b: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``x = Σ⁻¹ b`` and ``z = F_spreadᵀ x`` (s, k), for b (n, k)."""
        x, z = np.empty_like(b), np.empty((self.layout.s, b.shape[1]), b.dtype)
        for part in _columns(b):
            # The residual of min ‖[D^{-1/2} b; 0] - M z‖ is Q [0; c₂] = [D^{1/2} x; -z].
            nodes = np.zeros((part.stop - part.start, self.layout.s), b.dtype)
            top = self._down(self._outside(b[:, part] / self.deviation), nodes)
            x[:, part] = top.T / self.deviation
            z[:, part] = -nodes.T
        return x, z

    def whiten(self, x: FloatArray) -> FloatArray:
        """``W x = c₂`` of ``[D^{-1/2} x; 0]``."""
        out = np.empty_like(x)
        for part in _columns(x):
            out[:, part] = self._outside(x[:, part] / self.deviation).T
        return out

    def whiten_transpose(self, z: FloatArray) -> FloatArray:
        """``Wᵀ z = D^{-1/2} u``, ``[u; -v] = Q [0; z]``."""
        out = np.empty_like(z)
        for part in _columns(z):
            nodes = np.zeros((part.stop - part.start, self.layout.s), z.dtype)
            out[:, part] = self._down(_rows(z[:, part]), nodes).T / self.deviation
        return out

    def color(self, z: FloatArray) -> FloatArray:
        """``S z = D^{1/2} u + F v``, ``[u; -v] = Q [0; z]``: the inverse of W."""
        out = np.empty_like(z)
        scale = np.ascontiguousarray(self.deviation[:, 0])
        for part in _columns(z):
            nodes = np.zeros((part.stop - part.start, self.layout.s), z.dtype)
            u = np.ascontiguousarray(self._down(_rows(z[:, part]), nodes).T)
            out[:, part] = tree.spread(self.F, scale, np.ascontiguousarray(-nodes.T), u,
                                       self.layout)
        return out

    def color_transpose(self, x: FloatArray) -> FloatArray:
        """``Sᵀ x = c₂`` of ``[D^{1/2} x; -Fᵀ x]``."""
        out = np.empty_like(x)
        for part in _columns(x):
            X = np.ascontiguousarray(x[:, part])
            means = _rows(-tree.up(self.F, X, self.layout))
            out[:, part] = self._up(_rows(X * self.deviation), means).T
        return out

    def outside(self) -> FloatArray:
        """Squares of what of each unit vector lies outside the range of M, ``D_i (Σ⁻¹)_ii``, (n,).

        1 less the squares of its coordinates in the range; where these are nearly one, the squares
        of the others, by a product with Qᵀ.
        """
        layout = self.layout
        inside = np.zeros(layout.n)
        for start in range(0, layout.R, COLUMNS):
            stop = min(start + COLUMNS, layout.R)
            # Factor i of every node of a level at once: a row of F sees one of them.
            nodes = np.zeros((stop - start, layout.s), self.F.dtype)
            for level in range(layout.L):
                own, rows = layout.columns(level), layout.node_rows(level)
                for j in range(max(start, own.start), min(stop, own.stop)):
                    nodes[j - start, rows][j - own.start :: own.stop - own.start] = 1
            top = self._down(np.zeros((stop - start, layout.n), self.F.dtype), nodes)
            inside += np.einsum("ki,ki->i", top, top, dtype=np.float64)
        left = 1 - inside
        near = np.flatnonzero(~(left > OUTSIDE))
        if near.size:
            left[near] = self._outside_of(near)
        return left

    def _outside_of(self, rows: IntArray) -> FloatArray:
        """`outside` of some rows: by whole vectors, or along their paths where that is less."""
        layout, H = self.layout, rows.size
        path = layout.path[np.searchsorted(layout.leaf_off, rows, side="right") - 1]
        nodes = [np.ascontiguousarray(path[:, layout.L - 1 - i]) for i in range(layout.L)]
        work = [np.diff(level.off) * level.tau.shape[1] for level in self._levels]
        along = [each[node].sum() for each, node in zip(work, nodes, strict=True)]
        left = np.zeros(H)
        if 3 * sum(along) > H * sum(each.sum() for each in work):
            for start in range(0, H, COLUMNS):
                part = rows[start : start + COLUMNS]
                unit = np.zeros((part.size, layout.n), self.F.dtype)
                unit[np.arange(part.size), part] = 1
                rest = self._up(unit, np.zeros((part.size, layout.s), self.F.dtype))
                left[start : start + part.size] = np.einsum("ki,ki->k", rest, rest, dtype=float)
            return left
        A, first, count = np.zeros((H, layout.R), self.F.dtype), rows.copy(), np.ones(H, int)
        A[:, 0] = 1
        for level, node, total in zip(self._levels, nodes, along, strict=True):
            def task(lo, hi, level=level, node=node):
                room = np.empty(int(np.diff(level.off).max()), A.dtype)
                _compiled_qr.follow_rows(level.order, level.off, level.poff, level.r, level.V,
                                         level.tau, node, first, count, lo, hi, room, A, left)

            threads.run(task, np.arange(H + 1), 0, H, int(total))
        return left


def _sorted(B: FloatArray, below: IntArray, r: int) -> IntArray:
    """The rows of B, ``below[g]`` a node, and behind them r of the identity a node, node by node.

    Largest first, to a power of two: numbers sort faster, and nodes stand nearly in order.
    """
    nodes = np.arange(below.size)
    node = np.concatenate([np.repeat(nodes, below), np.repeat(nodes, r)])
    size = np.abs(B.T, order="C").max(axis=0, initial=0)
    exponents = np.where(size > 0, np.frexp(size)[1], -4096)
    exponents = np.concatenate([exponents, np.ones(r * below.size, exponents.dtype)])
    return np.argsort(8192 * node - exponents, kind="stable")


def _factor_large(level: Level, g: int) -> None:
    """Factor node g by LAPACK, in place."""
    A = level.packed(g)
    packed, tau, _, _ = _of(lapack, "geqrf", A)(A.T, overwrite_a=1)
    if packed.base is not A.base:  # LAPACK had a copy
        A[:] = packed.T
    level.tau[g, : len(tau)] = tau


def _first_children(layout: Layout, level: int) -> IntArray:
    """(p + 1,) the first node of `level` in each node of the level above; all in one for the root.
    """
    child = layout.path[:, level]
    if level == 0:
        return np.array([0, int(child[-1]) + 1])
    return np.append(child[layout.first_leaves[level - 1][:-1]], int(child[-1]) + 1)


def _offsets(counts: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts)])


def _runs(large: IntArray, p: int) -> Iterator[tuple[int, int]]:
    """The ranges of the p nodes between the large ones."""
    edges = [-1, *(int(g) for g in large), p]
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        if a + 1 < b:
            yield a + 1, b


def _columns(x: FloatArray) -> Iterator[slice]:
    for start in range(0, x.shape[1], COLUMNS):
        yield slice(start, min(start + COLUMNS, x.shape[1]))


def _rows(x: FloatArray) -> FloatArray:
    """The transpose of x (n, k), C-contiguous."""
    return np.ascontiguousarray(x.T)


def _of(library: Any, name: str, like: FloatArray) -> Any:
    return getattr(library, ("d" if like.dtype == np.float64 else "s") + name)
