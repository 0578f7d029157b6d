"""Seeded draws from multilevel factor models whose covariance is known."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .._common.labels import by_label
from .._common.typing import FloatArray, Labels, RandomState, Ranks, Vector
from .._common.validate import as_finite, as_generator, as_positive, check_rank
from .._common.wording import counted
from ..operators.mlr import MLR, check_ranks
from ..tree.hierarchy import Hierarchy

__all__ = ["Simulation", "at_least_one", "simulate_factor_model", "simulate_mlr"]


@dataclass(frozen=True, eq=False, repr=False)
class Simulation:
    """Simulated data and the truth behind them.

    Attributes
    ----------
    Y : ndarray, shape (N, n)
        The data, one sample a row, features in the user's order.
    covariance : MLR
        The true covariance; its ``factors`` and ``D`` are the parameters drawn.
    mean : ndarray, shape (n,)
        The true mean.
    scores : tuple of L ndarray, shapes (N, p_l, r_l)
        The factors that moved each group in each sample: feature i in group g of level l received
        ``scores[l][:, g] @ covariance.factors[l][i]``.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.datasets import simulate_factor_model
    >>> data = simulate_factor_model(4, 1, n_samples=1000, noise=1e-4, random_state=0)
    >>> common = data.scores[0][:, 0] @ data.covariance.factors[0].T
    >>> bool(np.abs(data.Y - common).std() < 0.02)
    True
    """

    Y: FloatArray
    covariance: MLR
    mean: FloatArray
    scores: tuple[FloatArray, ...]

    def __repr__(self) -> str:
        N, n = self.Y.shape
        return (f"<Simulation of {counted(N, 'sample')} of {counted(n, 'feature')}, {self.Y.dtype};"
                f" {self.covariance!r}>")


def at_least_one(count: int, what: str) -> int:
    """A count, of things of which there must be one at least."""
    if check_rank(count, what) < 1:
        raise ValueError(f"{what} must be at least 1, got {count}")
    return int(count)


def simulate_mlr(hierarchy: Hierarchy, ranks: Ranks, n_samples: int, *,
                 noise: float | Vector | Labels = 1.0, mean: float | Vector | Labels = 0.0,
                 dtype: npt.DTypeLike = np.float64,
                 random_state: RandomState | np.random.RandomState = None) -> Simulation:
    """Draw a multilevel factor model and normal samples from it.

    Sample i of the features of one group is, summed over the levels, ``F_l`` times the group's own
    standard normal scores, plus independent noise of variance D.

    Parameters
    ----------
    hierarchy : Hierarchy
        n features, L levels.
    ranks : sequence of L int
        Factors a group at each level; 0 leaves a level out.
    n_samples : int
        Number of samples N, at least 1.
    noise : float or array_like, shape (n,), default 1.0
        Variances of the noise.  One number is their expected size: they are then drawn uniformly
        between half and one and a half of it.  An array is taken as it is.  For comparison, the
        factors of one level add an expected variance of 1 to each feature.
    mean : float or array_like, shape (n,), default 0.0
        Mean of the features.  Both are matched to the names of the hierarchy where they have
        labels.
    dtype : {float64, float32}
        Precision of data and covariance.  The draws are the same, up to rounding.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Seed or generator.

    Returns
    -------
    Simulation
        ``Y`` (N, n), ``covariance`` (`MLR`), ``mean`` (n,), ``scores``.

    Raises
    ------
    ValueError
        Ranks that do not match the levels, no samples, noise that is not positive, entries that are
        not finite.
    TypeError
        A hierarchy or dtype of the wrong kind.

    Notes
    -----
    Factors and D are drawn before the samples, so that a seed fixes the covariance whatever
    `n_samples` is.  No n×n array is formed: memory is that of Y, of the n R factors and of the
    scores.

    Examples
    --------
    >>> from mlrops.datasets import simulate_mlr
    >>> from mlrops import Hierarchy
    >>> tree = Hierarchy.balanced(60, [1, 4, 12])
    >>> data = simulate_mlr(tree, [2, 1, 1], n_samples=500, noise=0.5, random_state=0)
    >>> data.Y.shape, data.covariance.ranks
    ((500, 60), (2, 1, 1))
    >>> data.scores[1].shape
    (500, 4, 1)
    """
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    n, N = hierarchy.n, at_least_one(n_samples, "n_samples")
    per_level, dtype = check_ranks(ranks, hierarchy), np.dtype(dtype)
    if dtype not in (np.float64, np.float32):
        raise TypeError(f"dtype must be float64 or float32, got {dtype}")
    given = [by_label(x, hierarchy.feature_names, what, "feature")
             for x, what in ((noise, "noise"), (mean, "mean"))]
    drawn = np.ndim(given[0]) == 0
    D, mu = (np.full(n, x) if np.ndim(x) == 0 else x for x in given)
    D, mu = as_positive(D, "noise", n), as_finite(mu, "mean", ndim=1)
    if mu.shape != (n,):
        raise ValueError(f"mean must be a number or have shape ({n},), got {mu.shape}")
    mu, rng = mu.astype(dtype), as_generator(random_state)

    factors = [rng.standard_normal((n, r)) / np.sqrt(max(r, 1)) for r in per_level]
    if drawn:
        D = D * rng.uniform(0.5, 1.5, n)
    covariance = MLR(hierarchy, [F.astype(dtype) for F in factors], D.astype(dtype))

    scores = tuple(rng.standard_normal((N, p, r)).astype(dtype, copy=False)
                   for p, r in zip(hierarchy.group_counts, per_level, strict=True))
    Y = rng.standard_normal((N, n)).astype(dtype, copy=False)
    Y *= np.sqrt(covariance.D)
    Y += mu
    for level, (F, z) in enumerate(zip(covariance.factors, scores, strict=True)):
        _, p, r = z.shape  # the factors as a sparse (n, p r) matrix, r columns for each group
        columns = hierarchy.labels(level)[:, None] * r + np.arange(r)
        spread = sparse.csr_array((F.ravel(), columns.ravel(), np.arange(n + 1) * r), (n, p * r))
        Y += spread.dot(z.reshape(N, -1).T).T
    return Simulation(Y, covariance, mu, scores)


def simulate_factor_model(n: int, rank: int, n_samples: int, *, noise: float | Vector = 1.0,
                          mean: float | Vector = 0.0, dtype: npt.DTypeLike = np.float64,
                          random_state: RandomState | np.random.RandomState = None) -> Simulation:
    """Draw an ordinary factor model ``F Fᵀ + diag(D)`` and normal samples from it.

    Parameters
    ----------
    n : int
        Number of features.
    rank : int
        Number of factors.
    n_samples, noise, mean, dtype, random_state
        As in `simulate_mlr`.

    Returns
    -------
    Simulation
        Its covariance is an `MLR` on a flat hierarchy: one level, one group.

    Raises
    ------
    ValueError, TypeError
        No features, a negative rank; and as `simulate_mlr`.

    Examples
    --------
    >>> from mlrops.datasets import simulate_factor_model
    >>> data = simulate_factor_model(10, 3, n_samples=50, random_state=0)
    >>> data.Y.shape, data.covariance.ranks
    ((50, 10), (3,))
    """
    return simulate_mlr(Hierarchy.flat(n), [rank], n_samples, noise=noise, mean=mean, dtype=dtype,
                        random_state=random_state)
