"""Starting points of EM for factor models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .._common.labels import match
from .._common.typing import FloatArray
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import Source
from .frobenius_start import frobenius_start, without_idle
from .principal_start import PrincipalFactors
from .usable import fold

__all__ = ["STARTS", "start", "unknown_start"]

# A start leaves at least this share of a feature's variance in D: where D is small, it and the
# loadings move slowly.  With 0.01, 18 trial fits of 300 updates fell 15 times as far short.
LEAST_SHARE = 0.1
# Truncated SVDs of blocks whose smaller side is more than MANY times the directions asked for, with
# EXTRA ones for good measure, take POWERS subspace iterations.
MANY, EXTRA, POWERS = 8, 10, 3


def _leading(X: FloatArray, r: int, go_on: bool) -> tuple[FloatArray, Any]:
    """Leading r left singular directions of blocks X (g, m, k) as ``V s`` (g, m, r).

    Also the rest of X for the next level to work on, if one will `go_on`.  The factors are products
    with the data, so no singular value is divided by.
    """
    g, m, k = X.shape
    q = min(r, m, k)
    if k <= m:
        U = _right_vectors(X, q)
        scores = np.matmul(X, U)
        rest = X - np.matmul(scores, U.swapaxes(1, 2)) if go_on else None
    else:
        V = _right_vectors(X.swapaxes(1, 2), q)
        coordinates = np.matmul(V.swapaxes(1, 2), X)
        scores = V * np.sqrt(np.square(coordinates).sum(axis=2))[:, None, :]
        rest = X - np.matmul(V, coordinates) if go_on else None
    F = np.zeros((g, m, r), X.dtype)
    F[:, :, :q] = scores
    return F, rest


def _right_vectors(X: FloatArray, q: int) -> FloatArray:
    """The q leading right singular vectors (g, k, q) of tall blocks X (g, m, k).

    By the Gram matrices; where k is many times q, by subspace iteration from a fixed random start,
    which is as good for a start of EM (N. Halko, P. Martinsson, J. Tropp, "Finding structure with
    randomness", 2011).
    """
    k, width = X.shape[2], q + EXTRA
    Xt = X.swapaxes(1, 2)
    if k <= MANY * width:
        return np.linalg.eigh(np.matmul(Xt, X))[1][:, :, ::-1][:, :, :q]
    Q = np.broadcast_to(np.random.default_rng(0).standard_normal((k, width)).astype(X.dtype),
                        (len(X), k, width))
    for _ in range(POWERS):
        Q = np.linalg.qr(np.matmul(Xt, np.matmul(X, Q)))[0]
    A = np.matmul(X, Q)
    _, U = np.linalg.eigh(np.matmul(A.swapaxes(1, 2), A))
    return np.matmul(Q, U[:, :, ::-1][:, :, :q])


class _Standardized:
    """A source in units of its features' standard deviations: what a start knows of the data.

    In units of their own the features with the largest numbers would decide where the climb begins,
    and so at which of several maxima it may end.
    """

    def __init__(self, source: Source):
        self.source, self.sd = source, np.sqrt(source.variance)
        self.n_samples, self.variance = source.n_samples, np.ones(self.sd.size)

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        return self.source.start_data(width, seed) / self.sd[:, None]


def _data(source: Any, ranks: tuple[int, ...], seed: int | None) -> FloatArray:
    """Data of the features' covariance, (n, k) with ``X Xᵀ`` like it."""
    X = source.start_data(2 * sum(ranks) + 20, seed)
    X /= X.dtype.type(np.sqrt(source.n_samples))
    return X


def svd_start(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None
             ) -> tuple[FloatArray, FloatArray]:
    """Top-down truncated SVDs of the running residual, group by group."""
    residual = _data(source, ranks, seed)
    F = np.zeros((hierarchy.n, sum(ranks)), residual.dtype)
    col, used = 0, np.flatnonzero(ranks)
    for level in used:
        r, go_on = ranks[level], level != used[-1]
        for rows in hierarchy._equal_groups(level):
            F[rows, col : col + r], rest = _leading(residual[rows], r, go_on)
            if go_on:
                residual[rows] = rest
        col += r
    left = source.variance - np.square(F).sum(axis=1)
    return F, np.maximum(left, LEAST_SHARE * source.variance)


def principal_factor_start(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any,
                           seed: int | None) -> tuple[FloatArray, FloatArray]:
    """Iterated principal factors, level by level; see `PrincipalFactors`."""
    fit = PrincipalFactors(_data(source, ranks, seed), hierarchy, ranks)
    fit.run()
    return without_idle(fit.F, fit.psi, hierarchy, ranks), fit.psi


def random_start(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None
                ) -> tuple[FloatArray, FloatArray]:
    """Normal factors that carry half of every feature's variance in expectation; D the rest."""
    rng = np.random.default_rng(seed)
    R = sum(ranks)
    half = source.variance / 2
    F = rng.standard_normal((hierarchy.n, R)) * np.sqrt(half / max(R, 1))[:, None]
    return F, half if R else 2 * half


STARTS: dict[str, Callable[..., tuple[FloatArray, FloatArray]]] = {
    "principal_factor": principal_factor_start,
    "svd": svd_start,
    # D leaves EM room to move.
    "frobenius": partial(frobenius_start, least_share=LEAST_SHARE),
    "random": random_start}


def unknown_start(init: object) -> ValueError:
    """The error for what is no start."""
    return ValueError(f"init must be {', '.join(map(repr, STARTS))} or an MLR, got {init!r}")


def start(init: Any, hierarchy: Hierarchy, ranks: tuple[int, ...], source: Source, seed: int | None
         ) -> tuple[FloatArray, FloatArray]:
    """Compact F (n, R) and D (n,) to start from, in tree order, writeable.

    They do not depend on the units of the features: times s, F is times s and D times s².  Columns
    that a group cannot use are zero, at which EM leaves them.
    """
    if isinstance(init, MLR):
        own, names = init.hierarchy.feature_names, hierarchy.feature_names
        order = None if own is None or names is None else match(own, names, "init", "feature")
        init = init if order is None else init.restrict(np.array(order))
        if not init.hierarchy._same_groups(hierarchy):
            raise ValueError(
                f"init must live on the hierarchy of the model, {hierarchy!r},"
                f" got one on {init.hierarchy!r}")
        if init.ranks != ranks:
            raise ValueError(f"init must have the ranks of the model, {ranks}, got {init.ranks}")
        F, D = (np.array(hierarchy._gather(x)) for x in (init.F, init.D))
        fold(F, hierarchy, ranks)
    elif isinstance(init, str) and init in STARTS:
        standardized = _Standardized(source)
        F, D = STARTS[init](hierarchy, ranks, standardized, seed)
        fold(F, hierarchy, ranks)
        F, D = F * standardized.sd[:, None], D * standardized.sd**2
    else:
        raise unknown_start(init)
    return F.astype(float, copy=False), D.astype(float, copy=False)
