"""Starting points of EM for factor models."""

import numpy as np

from ..operators.mlr import MLR

__all__ = ["start"]

# A start leaves at least this share of a feature's variance in D: EM moves D away from zero slowly.
LEAST_SHARE = 0.01


def _leading(X, r):
    """Leading r left singular directions of blocks X (g, m, k) as ``V s`` (g, m, r), and the rest.

    Works on the smaller of the two Gram matrices; the factors are products with the data, so no
    singular value is divided by.
    """
    g, m, k = X.shape
    q = min(r, m, k)
    if k <= m:
        _, U = np.linalg.eigh(np.matmul(X.swapaxes(1, 2), X))
        U = U[:, :, ::-1][:, :, :q]
        scores = np.matmul(X, U)
        rest = X - np.matmul(scores, U.swapaxes(1, 2))
    else:
        _, V = np.linalg.eigh(np.matmul(X, X.swapaxes(1, 2)))
        V = V[:, :, ::-1][:, :, :q]
        coordinates = np.matmul(V.swapaxes(1, 2), X)
        scores = V * np.sqrt(np.square(coordinates).sum(axis=2))[:, None, :]
        rest = X - np.matmul(V, coordinates)
    F = np.zeros((g, m, r), X.dtype)
    F[:, :, :q] = scores
    return F, rest


def svd_start(hierarchy, ranks, data, seed):
    """Top-down truncated SVDs of the running residual, group by group."""
    residual = data.start_data(2 * sum(ranks) + 20, seed).copy()
    F = np.empty((hierarchy.n, sum(ranks)), residual.dtype)
    col = 0
    for level, r in enumerate(ranks):
        for rows in hierarchy._equal_groups(level) if r else ():
            F[rows, col : col + r], residual[rows] = _leading(residual[rows], r)
        col += r
    F /= np.sqrt(data.n_samples)
    left = np.einsum("ik,ik->i", residual, residual) / data.n_samples
    return F, np.maximum(left, LEAST_SHARE * data.variance)


def random_start(hierarchy, ranks, data, random_state):
    """Normal factors that carry half of every feature's variance in expectation; D the rest."""
    rng = np.random.default_rng(random_state)
    R = sum(ranks)
    half = data.variance / 2
    F = rng.standard_normal((hierarchy.n, R)) * np.sqrt(half / max(R, 1))[:, None]
    return F, half if R else 2 * half


def start(init, hierarchy, ranks, data, random_state):
    """Compact F (n, R) and D (n,) to start from, in tree order."""
    if isinstance(init, MLR):
        if init.hierarchy != hierarchy:
            raise ValueError(
                f"init must live on the hierarchy of the model, {hierarchy!r},"
                f" got one on {init.hierarchy!r}"
            )
        if init.ranks != ranks:
            raise ValueError(f"init must have the ranks of the model, {ranks}, got {init.ranks}")
        F, D = (np.array(hierarchy._gather(x)) for x in (init.F, init.D))
    elif isinstance(init, str) and init == "svd":
        F, D = svd_start(hierarchy, ranks, data, random_state)
    elif isinstance(init, str) and init == "random":
        F, D = random_start(hierarchy, ranks, data, random_state)
    else:
        raise ValueError(f'init must be "svd", "random" or an MLR, got {init!r}')
    return F.astype(data.dtype, copy=False), D.astype(data.dtype, copy=False)
