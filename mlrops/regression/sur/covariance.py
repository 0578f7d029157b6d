"""Kinds of covariance of the coefficients of a fitted system."""

from typing import NamedTuple

import numpy as np
from scipy.linalg import matmul_toeplitz

from ..._common.cached import cached_property
from ..._common.labels import by_label, labels_of
from ..._common.validate import check_number, in_memory
from ..._common.wording import agree, counted, name_some
from ...operators.elementary import Dense
from ...operators.mlr import MLR
from .bootstrap import bootstrap
from .coefficient_inverse import CoefficientInverse
from .small_sample import corrected_covariance

__all__ = ["KINDS", "CovConfig", "estimate", "joint_estimate"]

# Lags of the pilot estimate are 4 (N / 100)^power; bandwidths constant N^(1 / (2 q + 1)).
KERNELS = {"bartlett": (1, 1.1447, 2 / 9), "parzen": (2, 2.6614, 4 / 25), "qs": (2, 1.3221, 2 / 25)}
# Squares of scores whose sum is below this share of what independent rows would give are zeros that
# the normal equations make, as exactly as they are solved.
SILENT = 1e-6


class CovConfig(NamedTuple):
    """A kind of covariance, and its options."""

    kind: str = "unadjusted"
    options: dict = {}

    def check(self):
        """Refuse kinds that there are not, and options that the kind does not take."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        known = KINDS[self.kind][1]
        strange = [name for name in self.options if name not in known]
        if strange:
            raise TypeError(f'kind="{self.kind}" takes the options {", ".join(known)}, got'
                            f" {', '.join(strange)}")

    def aligned(self, rows):
        """The same with clusters that have labels of rows brought to the order of `rows`.

        `rows` is the pandas Index of the data, or None.  There may be clusters of more rows, which
        equations lack.
        """
        clusters = self.options.get("clusters")
        if labels_of(clusters) is None:
            return self
        clusters = by_label(clusters, rows, "clusters", "row", extra=True)
        return self._replace(options={**self.options, "clusters": clusters})


def estimate(result, config):
    """The covariance of the coefficients of a `SURResult`.

    It knows ``times(V)``, ``blocks()`` and ``matrix()``, as `CoefficientInverse` does.
    """
    return KINDS[config.kind][0](result, **config.options)


def precise(result):
    """The system and Σ of a result, in double precision."""
    data, covariance = result.data.in_double(), result.covariance
    system = (result.system if data is result.data
              else data.system(beta_ridge=result.options.beta_ridge))
    return system, covariance.astype(float) if isinstance(covariance, MLR) else covariance


# ---------------------------------------------------------------- from the model


def _unadjusted(result, debiased=None, joint=False):
    known = result.covariance_is_known
    if known and debiased:
        raise ValueError("debiased=True corrects a Σ that was estimated; this one is known")
    system, covariance = precise(result)
    if debiased is None:
        debiased = not known
    if debiased:
        covariance = _small_sample(result, covariance, joint)
    return CoefficientInverse(system, covariance)


def _small_sample(result, covariance, joint=False, **options):
    """Σ of a fit, corrected for the coefficients and factors that were estimated with it."""
    data = result.data
    return corrected_covariance(covariance, data.nobs, data.p,
                                shared=one_least_squares(result) and not joint, **options)


def joint_estimate(result):
    """The covariance in use, for tests across equations.

    With shared X coefficients take no weights from Σ, but such a test does.
    """
    config = result.cov_config
    if config.kind == "unadjusted" and one_least_squares(result):
        return _unadjusted(result, **config.options, joint=True)
    return result._cov


def one_least_squares(result):
    """Whether the estimate is least squares equation by equation, whatever Σ."""
    system = result.system
    return system.shared and system.constraint_columns is None and not system.ridge


def _bootstrap(result, n_boot=200, random_state=0, progress=False):
    covariance = result.covariance
    if not result.covariance_is_known:
        covariance = _small_sample(result, covariance, bias_only=True)
    elif isinstance(covariance, Dense) and not covariance.positive_definite:
        covariance = Dense(covariance.A, positive_definite=True)
    found = bootstrap(result, covariance, n_boot, random_state, progress)
    centred = found.draws - found.draws.mean(axis=0)
    out = ScoreCovariance(centred.T / np.sqrt(len(centred) - 1), _as_is, result.data.p)
    out.bootstrap = found
    return out


# ---------------------------------------------------------------- from the scores


class ScoreCovariance:
    """``Z W Zᵀ`` from an array Z (P, N) and products with W (N, N)."""

    def __init__(self, Z, weigh, p):
        self.Z, self._weigh, self._cuts = Z, weigh, np.cumsum(p)[:-1]

    @cached_property
    def _weighed(self):
        """``Z W``."""
        return self._weigh(self.Z.T).T

    def times(self, V):
        return self._weighed @ (self.Z.T @ V)

    def matrix(self):
        out = self._weighed @ self.Z.T
        return (out + out.T) / 2

    def blocks(self):
        pairs = zip(np.split(self._weighed, self._cuts), np.split(self.Z, self._cuts), strict=True)
        return [(B + B.T) / 2 for B in (w @ z.T for w, z in pairs)]


def _as_is(X):
    return X


def _robust(result, debiased=True):
    return _from_scores(result, lambda S: _as_is, debiased)


def _clustered(result, clusters=None, debiased=True, group_debias=False):
    weigh = _cluster_weights(clusters, result.data, group_debias)
    return _from_scores(result, lambda S: weigh, debiased)


def _hac(result, kernel="bartlett", bandwidth=None, debiased=True):
    N = result.data.N
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    if bandwidth is not None:
        check_number(bandwidth, "bandwidth")
        if not 0 <= bandwidth < N:
            raise ValueError(f"bandwidth must lie between 0 and the number of rows, {N}, got"
                             f" {bandwidth}")

    def weights(S):
        width = automatic_bandwidth(S, kernel) if bandwidth is None else bandwidth
        lags = kernel_weights(kernel, width, N)
        return lambda X: matmul_toeplitz(lags, X)

    return _from_scores(result, weights, debiased)


def _from_scores(result, weights, debiased):
    """The sandwich ``H S W Sᵀ H`` from the scores S (P, N) of the rows, W that of weights(S)."""
    system, covariance = precise(result)
    p = result.data.p
    errors = np.nan_to_num(result.errors.T.astype(np.float64, copy=False))
    if result.data.weights is not None:
        errors = errors * np.sqrt(result.data.weights.T)
    V = system.weigh(covariance).solve(errors)
    gamma = np.concatenate([(b.Q * V[b.equations][:, None, :]).reshape(-1, system.N)
                            for b in system.batches])
    S, size = _raw_scores(result, V)
    weigh = weights(S)
    _check_scores(result, S, size, weigh)
    inverse = CoefficientInverse(system, covariance)
    Z = np.concatenate(system.coefficients(inverse.bread(gamma)))
    Z[inverse.fixed] = 0
    if debiased:
        n = result.data.nobs
        Z *= np.sqrt(np.repeat(n / (n - p), p))[:, None]
    out = ScoreCovariance(Z, weigh, p)
    _check_variances(result, out, inverse.fixed)
    return out


def _raw_scores(result, V):
    """``x_tj v_tj`` in the units of the regressors (P, N), and a bound of their squares' sum."""
    data = result.data
    root = 1 if data.weights is None else np.sqrt(data.weights)
    U = V.T * root
    S = np.concatenate([X.T * U[:, j] for j, X in enumerate(data.Xs)])
    mean = np.mean(np.square(U), axis=0)
    size = np.concatenate([mean[j] * np.square(X, dtype=float).sum(axis=0)
                           for j, X in enumerate(data.Xs)])
    return S, size


def _check_scores(result, S, size, weigh):
    """Refuse coefficients of whose scores nothing is left: their variance would be zero."""
    left = np.einsum("it,it->i", S, weigh(S.T).T)
    silent = (left <= SILENT * size) & (left >= -SILENT * size)
    if silent.any():
        raise ValueError(
            f"the scores of {counted(silent.sum(), 'coefficient')} are zero in every row or"
            f" cluster ({_name(result, silent)}), as those of a regressor that differs from zero in"
            ' one of them only: kind="unadjusted" knows their variance, this one does not')


def _check_variances(result, covariance, fixed):
    """Refuse variances that are not positive, as inclusion and exclusion may leave them."""
    variances = np.concatenate([block.diagonal() for block in covariance.blocks()])
    bad = (variances <= 1e-12 * np.square(covariance.Z).sum(axis=1)) & ~fixed
    if bad.any():
        raise ValueError(
            f"{counted(np.count_nonzero(bad), 'variance')} {agree(bad.sum(), 'is', 'are')} not"
            f" positive ({_name(result, bad)}): with two kinds of clusters their sum less that of"
            " the intersections need not be; cluster by one of them")


def _name(result, chosen):
    """Some coefficients by equation and regressor."""
    p, names = result.data.p, result.data.names
    labels = []
    for c in np.flatnonzero(chosen):
        j = int(np.searchsorted(np.cumsum(p), c, side="right"))
        i = int(c - p[:j].sum())
        labels.append(f"{i} of equation {j}" if names is None else
                      f"{names.regressors[j][i]} of equation {names.equations[j]}")
    return name_some(labels)


# ---------------------------------------------------------------- clusters


def _cluster_weights(clusters, data, group_debias):
    """Products with W, whose entries are 1 where two rows share a cluster."""
    if clusters is None:
        raise TypeError('kind="clustered" needs clusters=, one label a row or two')
    in_memory(clusters, "clusters")
    labels = np.asarray(clusters)
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or labels.shape[1] not in (1, 2) or len(labels) != data.N:
        raise ValueError(f"clusters must have shape ({data.N},) or ({data.N}, 2), got"
                         f" {np.shape(clusters)}")
    missing = labels != labels if labels.dtype.kind in "fO" else np.zeros(labels.shape, bool)
    missing |= np.equal(labels, None)
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

    def weigh(X):
        out = np.zeros_like(X)
        for sign, part in zip(signs, parts, strict=True):
            sums = np.zeros((part.max() + 1, X.shape[1]), X.dtype)
            np.add.at(sums, part, X)
            out += sign * sums[part]
        return out

    return weigh


# ---------------------------------------------------------------- kernels


def kernel_weights(kernel, bandwidth, N):
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


def automatic_bandwidth(S, kernel):
    r"""Bandwidth by the rule of Newey and West, from scores S (P, N).

    The scores, each with variance 1, are summed to one series.  From its autocovariances
    :math:`\sigma_l` up to lag :math:`n = \lceil 4 (N / 100)^a \rceil`,

    .. math:: m = \lceil c \, \big((s_q / s_0)^2 N\big)^{1 / (2 q + 1)} \rceil, \quad
        s_q = 2 \sum_{l=1}^n l^q \sigma_l, \quad s_0 = \sigma_0 + 2 \sum_{l=1}^n \sigma_l,

    at most N - 1, with the constants (q, c, a) = (1, 1.1447, 2/9) of Bartlett's kernel, (2, 2.6614,
    4/25) of Parzen's and (2, 1.3221, 2/25) of the quadratic spectral one (W. Newey, K. West,
    "Automatic lag selection in covariance matrix estimation", 1994).

    Returns
    -------
    int
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


KINDS = {
    "unadjusted": (_unadjusted, ("debiased",)),
    "robust": (_robust, ("debiased",)),
    "clustered": (_clustered, ("clusters", "group_debias", "debiased")),
    "hac": (_hac, ("kernel", "bandwidth", "debiased")),
    "bootstrap": (_bootstrap, ("n_boot", "random_state", "progress")),
}
