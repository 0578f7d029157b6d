"""Weights of pairs of rows in robust covariances: of one cluster, or near each other in time."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..._common.typing import FloatArray
from ..._common.validate import in_memory
from ..._common.wording import name_some
from .data import SURData

__all__ = ["KERNELS", "Weigh", "automatic_bandwidth", "cluster_weights", "kernel_weights"]

# Products of arrays (N, m) with weights (N, N) of pairs of rows.
Weigh: TypeAlias = Callable[[FloatArray], FloatArray]
# Lags of the pilot estimate are 4 (N / 100)^power; bandwidths constant N^(1 / (2 q + 1)).
KERNELS = {"bartlett": (1, 1.1447, 2 / 9), "parzen": (2, 2.6614, 4 / 25), "qs": (2, 1.3221, 2 / 25)}


def cluster_weights(clusters: Any, data: SURData, group_debias: bool) -> Weigh:
    """Products with W, whose entries are 1 where two rows share a cluster."""
    if clusters is None:
        raise TypeError('cov_type="clustered" needs clusters=, one label a row or two')
    in_memory(clusters, "clusters")
    labels = np.asarray(clusters)
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or labels.shape[1] not in (1, 2) or len(labels) != data.N:
        raise ValueError(f"clusters must have shape ({data.N},) or ({data.N}, 2), got"
                         f" {np.shape(clusters)}")
    missing = labels != labels if labels.dtype.kind in "fO" else np.zeros(labels.shape, bool)
    missing |= np.array([x is None for x in labels.ravel()]).reshape(labels.shape)
    if isinstance(clusters, np.ma.MaskedArray):
        missing |= np.ma.getmaskarray(clusters).reshape(labels.shape)
    if missing.any():
        raise ValueError("clusters must have a label for every row, there is none for row"
                         f" {name_some(np.flatnonzero(missing.any(axis=1)))}")
    parts = [np.unique(labels[:, i], return_inverse=True)[1].ravel()
             for i in range(labels.shape[1])]
    for i, part in enumerate(parts):
        if part.max() == 0:
            raise ValueError("a covariance by clusters needs at least two of them, column"
                             f" {i} of clusters has one")
    signs = [1.0] * len(parts)
    if len(parts) == 2:
        both = parts[0] * (parts[1].max() + 1) + parts[1]
        parts.append(np.unique(both, return_inverse=True)[1].ravel())
        signs.append(-1.0)
    if group_debias:
        N = data.N
        signs = [sign * g / (g - 1) * (N - 1) / N
                 for sign, g in zip(signs, (part.max() + 1 for part in parts), strict=True)]

    def weigh(X: FloatArray) -> FloatArray:
        out = np.zeros_like(X)
        for sign, part in zip(signs, parts, strict=True):
            sums = np.zeros((part.max() + 1, X.shape[1]), X.dtype)
            np.add.at(sums, part, X)
            out += sign * sums[part]
        return out

    return weigh


def kernel_weights(kernel: str, bandwidth: float, N: int) -> FloatArray:
    """Weights of the lags 0, ..., N - 1, (N,).

    With the bandwidth m and lags l: ``1 - z`` of Bartlett and ``1 - 6z² + 6z³`` or ``2 (1 - z)³``
    of Parzen, ``z = l / (⌊m⌋ + 1)`` up to 1; ``3 (sin z / z - cos z) / z²``, ``z = 6πl / 5m``, the
    quadratic spectral one.
    """
    lags = np.arange(N, dtype=float)
    if kernel == "qs":
        if bandwidth == 0:
            return (lags == 0).astype(float)
        z = 6 * np.pi / 5 * lags / bandwidth
        z[0] = 1
        out = 3 * (np.sin(z) / z - np.cos(z)) / z**2
        out[0] = 1
        return out
    z = np.minimum(lags / (int(bandwidth) + 1), 1)
    if kernel == "bartlett":
        return 1 - z
    return np.where(z <= 0.5, 1 - 6 * z**2 + 6 * z**3, 2 * (1 - z) ** 3)


def automatic_bandwidth(S: FloatArray, kernel: str) -> int:
    r"""Bandwidth by the rule of Newey and West, from scores S (P, N).

    The scores, each with variance 1, are summed to one series.  From its autocovariances
    :math:`\sigma_l` up to lag :math:`n = \lceil 4 (N / 100)^a \rceil`,

    .. math:: m = \lceil c \, \big((s_q / s_0)^2 N\big)^{1 / (2 q + 1)} \rceil, \quad
        s_q = 2 \sum_{l=1}^n l^q \sigma_l, \quad s_0 = \sigma_0 + 2 \sum_{l=1}^n \sigma_l,

    at most N - 1, with the constants (q, c, a) of the kernel in `KERNELS` (W. Newey, K. West,
    "Automatic lag selection in covariance matrix estimation", 1994).
    """
    N = S.shape[1]
    q, constant, power = KERNELS[kernel]
    n = int(np.ceil(4 * (N / 100) ** power))
    if n >= N - 1:
        raise ValueError(f"the automatic bandwidth needs more rows, there are {N}; give bandwidth=")
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (S / S.std(axis=1, keepdims=True)).sum(axis=0)
        sigma = np.array([x[lag:] @ x[: N - lag] for lag in range(n + 1)]) / N
        s0 = sigma[0] + 2 * sigma[1:].sum()
        sq = 2 * (np.arange(1, n + 1.0) ** q @ sigma[1:])
        width = constant * ((sq / s0) ** 2 * N) ** (1 / (2 * q + 1))
    if not np.isfinite(width):
        raise ValueError("the automatic bandwidth does not exist: scores do not vary, or their"
                         " long-run variance is 0; give bandwidth=")
    return min(int(np.ceil(width)), N - 1)
