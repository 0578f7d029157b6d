"""Starting points of EM for factor models."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .._common.labels import match
from .._common.typing import FloatArray
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import Source
from .frobenius_start import frobenius_start

__all__ = ["capped_groups", "start"]

# A start leaves at least this share of a feature's variance in D: where D is small, it and the
# loadings move slowly.  With 0.01, 18 trial fits of 300 updates fell 15 times as far short.
LEAST_SHARE = 0.1
# The same for principal factors, which settle on D and loadings together.
LEAST_UNIQUENESS = 0.01
# Iterations of principal factors: D hardly moves any more; EM goes on from there.
PRINCIPAL_ITERATIONS = 20
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


def svd_start(
    hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None
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


def principal_factor_start(
    hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None
) -> tuple[FloatArray, FloatArray]:
    """Iterated principal factors of the correlations R, for a single level of one group.

    In the metric of the uniquenesses Ψ: the leading eigenpairs (λ, v) of ``Ψ^-½ R Ψ^-½`` give the
    loadings ``Ψ^½ v √(λ - 1)``, the best for this Ψ, and what these leave of the diagonal is the
    next Ψ (D. Lawley, A. Maxwell, "Factor analysis as a statistical method", 1971).
    """
    if hierarchy.group_counts != (1,):
        raise ValueError(
            'init="principal_factor" is for a single level of one group, got group counts'
            f' {hierarchy.group_counts}; init="svd" is for trees')
    X = _data(source, ranks, seed)
    r, n = min(ranks[0], *X.shape), hierarchy.n
    psi = np.full(n, 0.5)
    F = np.zeros((n, ranks[0]))
    for _ in range(PRINCIPAL_ITERATIONS if r else 0):
        scaled = (X / np.sqrt(psi)[:, None]).astype(float)
        V, s = _left_singular(scaled, r)
        F[:, :r] = np.sqrt(psi)[:, None] * V * np.sqrt(np.maximum(s**2 - 1, 0))
        psi = np.clip(1 - np.square(F).sum(axis=1), LEAST_UNIQUENESS, 1)
    return F, psi


def _left_singular(X: FloatArray, r: int) -> tuple[FloatArray, FloatArray]:
    """The r leading left singular vectors (n, r) and singular values of X."""
    n, k = X.shape
    V = _right_vectors(X.T[None], r)[0] if k >= n else X @ _right_vectors(X[None], r)[0]
    s = np.linalg.norm(X.T @ V if k >= n else V, axis=0)
    return (V if k >= n else V / np.where(s > 0, s, 1)), s


def random_start(
    hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, seed: int | None
) -> tuple[FloatArray, FloatArray]:
    """Normal factors that carry half of every feature's variance in expectation; D the rest."""
    rng = np.random.default_rng(seed)
    R = sum(ranks)
    half = source.variance / 2
    F = rng.standard_normal((hierarchy.n, R)) * np.sqrt(half / max(R, 1))[:, None]
    return F, half if R else 2 * half


STARTS: dict[str, Callable[..., tuple[FloatArray, FloatArray]]] = {
    "svd": svd_start,
    "principal_factor": principal_factor_start,
    # D leaves EM room to move.
    "frobenius": partial(frobenius_start, least_share=LEAST_SHARE),
    "random": random_start}


def start(
    init: Any, hierarchy: Hierarchy, ranks: tuple[int, ...], source: Source, seed: int | None
) -> tuple[FloatArray, FloatArray]:
    """Compact F (n, R) and D (n,) to start from, in tree order, writeable.

    They do not depend on the units of the features: times s, F is times s and D times s².
    """
    if isinstance(init, MLR):
        init = _by_name(init, hierarchy.feature_names)
        if not init.hierarchy._same_groups(hierarchy):
            raise ValueError(
                f"init must live on the hierarchy of the model, {hierarchy!r},"
                f" got one on {init.hierarchy!r}")
        if init.ranks != ranks:
            raise ValueError(f"init must have the ranks of the model, {ranks}, got {init.ranks}")
        F, D = (np.array(hierarchy._gather(x)) for x in (init.F, init.D))
    elif isinstance(init, str) and init in STARTS:
        standardized = _Standardized(source)
        F, D = STARTS[init](hierarchy, ranks, standardized, seed)
        _cap(F, hierarchy, ranks)
        F, D = F * standardized.sd[:, None], D * standardized.sd**2
    else:
        raise ValueError(
            f"init must be {', '.join(map(repr, STARTS))} or an MLR, got {init!r}")
    return F.astype(float, copy=False), D.astype(float, copy=False)


def _by_name(init: MLR, names: Sequence[str] | None) -> MLR:
    """An operator in the order of the features, where both have names."""
    own = init.hierarchy.feature_names
    order = None if own is None or names is None else match(own, names, "init", "feature")
    return init if order is None else init.restrict(np.array(order))


def capped_groups(
    hierarchy: Hierarchy, ranks: Sequence[int]
) -> tuple[tuple[int, int, int], ...]:
    """(level, group, features) of the groups that have fewer features than their level's rank."""
    return tuple((level, g, int(size)) for level, r in enumerate(ranks)
                 for g, size in enumerate(hierarchy.group_sizes(level)) if size < r)


def _cap(F: FloatArray, hierarchy: Hierarchy, ranks: tuple[int, ...]) -> None:
    """Zero the columns that a group cannot use: EM leaves a zero column at zero."""
    col = 0
    for level, r in enumerate(ranks):
        for rows in hierarchy._equal_groups(level) if r else ():
            m = rows.shape[1]
            if m < r:
                F[rows, col + m : col + r] = 0
        col += r
