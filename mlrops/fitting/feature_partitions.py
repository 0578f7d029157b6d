"""`partition_features`: a hierarchy of features from data, for those who have none.

Features of one group have the factors of its level in common: given the scores of *all* factors of
a group (those of the levels above, its own, and those within it), its features are independent.
So each half of a cut is a subspace of the samples, and a feature belongs where less of it is left.
"""

import numpy as np

from .._common.typing import Data, RandomState, Ranks
from .._common.validate import as_finite, check_rank
from .._common.wording import name_some
from ..tree.hierarchy import Hierarchy
from .bisection import Bisection, one_by_one, starts
from .cut_graph import upper_part
from .labelled import without_names

__all__ = ["partition_features"]

# A pass of the refinement must raise the log-likelihood, a sample and feature, by more than this.
LEAST_GAIN = 1e-10


def partition_features(
    Y: Data, ranks: Ranks, *, balanced: bool = False, refine: bool = True,
    min_size: int | None = None, n_starts: int = 9, random_state: RandomState = None,
) -> Hierarchy:
    """Find a hierarchy of features from data, for `fit_factor_model`.

    From the root down, every group of features is cut in two such that a factor model of each half,
    fitted to its features alone, makes their data most likely.

    Parameters
    ----------
    Y : array_like or DataFrame, shape (N, n)
        Data, one sample a row; N may be less than n.  The tree keeps the names of the columns.
    ranks : sequence of L int
        Factors a group at each level, coarsest first, as for `fit_factor_model`: level 0 is one
        group, level l has ``2^l`` groups unless some were too small to be cut.
    balanced : bool, optional
        Whether halves have equal numbers of features, or nearly.  By default they have any size.
    refine : bool, optional
        Move features to the half that makes them more likely until no feature moves any more.
    min_size : int, optional
        Least number of features of a group, by default ``sum(ranks) + 1``, so that every group has
        more features than factors.
    n_starts : int, optional
        Starts of the refinement, 1 to 9; the most likely cut is taken.
    random_state : None, int or numpy.random.Generator, optional
        Starting vectors of Lanczos' method, for groups of more than 200 features.

    Returns
    -------
    hierarchy : Hierarchy
        Of two halves the one with the lower-numbered first feature comes first.

    Raises
    ------
    ValueError
        NaN or infinity, features that do not vary, no factors below the root, more levels than
        there are groups to cut.

    See Also
    --------
    fit_factor_model : what the tree is for.
    partition : from the entries of a matrix.

    Notes
    -----
    Each feature is centred and scaled to length 1.  A group of level l holds
    ``k = r_0 + … + r_l + 2 r_{l+1} + 4 r_{l+2} + …`` factors, and a half of it has d of them.  On
    the coordinates ``v_i`` of the features on the first k principal components of the group, with
    ``P_h`` a projection of rank d for half h,

        log-likelihood = -N/2 Σ_i log(1 - ‖P_h(i) v_i‖²) + constant.

    The start cuts the graph of squared products ``(w_iᵀ w_j)²`` of the coordinates scaled to unit
    covariance along its leading eigenvectors: all factors count the same there, however strong, so
    that those of the levels above, which all features share, do not hide those of the halves.
    Then come in turn ``P_h``, from the d leading eigenvectors of
    ``Σ v_i v_iᵀ / (1 - ‖P_h v_i‖²)``, and the half of each feature; neither step can lower the
    likelihood (for the first: the logarithm lies below its tangents).  d is at most half of k and
    of what the features and samples of a group allow.

    Cost: ``n N min(n, N)`` for the components of a level, then ``n k²`` a pass.  No n × n array is
    formed unless n < N.

    Which features can be placed is a matter of the signal: with N samples, a feature whose loadings
    on its group's factors are less than about ``1 / √N`` of its noise's standard deviation fits
    both halves.  Take 2000 features in two groups, with normal loadings, five factors a group, two
    common ones and a signal-to-noise ratio of 1 (the average variance of a feature that all factors
    together cause, over the average variance of its noise).  Then 200 samples place all but a few
    features in a thousand; with one factor a group, about five in a hundred cannot be placed.

    Examples
    --------
    >>> from mlrops import Hierarchy
    >>> from mlrops.datasets import simulate_mlr
    >>> from mlrops import partition_features
    >>> tree = Hierarchy.from_labels([0, 1] * 30)
    >>> data = simulate_mlr(tree, (1, 3), n_samples=200, noise=0.5, random_state=0)
    >>> found = partition_features(data.Y, (1, 3))
    >>> found.labels(1)[:8]
    array([0, 1, 0, 1, 0, 1, 0, 1])
    """
    values, _, names = without_names(Y, "Y")
    samples = as_finite(values, "Y", ndim=2, axis=1, labels=names)
    N, n = samples.shape
    if N < 2 or n < 1:
        raise ValueError("Y must hold at least two samples of one feature, got shape"
                         f" {samples.shape}")
    counts = [check_rank(r, f"ranks[{level}]") for level, r in enumerate(np.atleast_1d(ranks))]
    options = Bisection(len(counts), sum(counts) + 1 if min_size is None else min_size, balanced,
                        refine, n_starts, random_state)
    if len(counts) > 1 and not counts[-1]:
        raise ValueError(
            f"ranks must end with a positive one, got {tuple(counts)}: groups of level"
            f" {len(counts) - 1} that have no factors cannot be told apart")
    split = _LikelihoodSplit(_standardized(samples), counts, options)
    hierarchy, _ = options.grow(n, n, one_by_one(split), symmetric=True)
    return hierarchy._renamed(names)


def _standardized(Y):
    """Columns centred and of length 1, float64."""
    X = Y - Y.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.einsum("ti,ti->i", X, X))
    rounding = 10 * np.finfo(Y.dtype).eps * np.abs(Y).max(axis=0) * np.sqrt(len(Y))
    still = np.flatnonzero(length <= rounding)
    if still.size:
        raise ValueError(f"features must vary to be told apart; constant: {name_some(still)}")
    X /= length
    return X


class _SquaredProducts:
    """The matrix of ``(w_i · w_j)²``, as products with columns; w has k columns: O(n k²) each."""

    def __init__(self, w):
        self.w, self.shape = w, (len(w), len(w))

    def __matmul__(self, X):
        w = self.w
        return np.stack([np.einsum("ij,ij->i", w @ (w.T @ (x[:, None] * w)), w) for x in X.T],
                        axis=1)

    def toarray(self):
        return (self.w @ self.w.T) ** 2


class _LikelihoodSplit:
    """A splitter: halves of a group that are most likely as two factor models."""

    def __init__(self, X, ranks, options):
        self.X, self.ranks, self.options = X, np.array(ranks), options

    def __call__(self, level, features, _, parts):
        k, d = self._dimensions(level, features.size)
        v, w = _coordinates(self.X[:, features], k)
        k = v.shape[1]
        d = min(d, max(k - 1, 1))
        products = _SquaredProducts(w)
        smallest = max(self.options.min_size, min(d + 1, features.size // 2))
        best, best_value = None, -np.inf
        degree = (products @ np.ones((len(w), 1)))[:, 0]
        for scores in starts(products, degree, self.options).T:
            upper, value = self._climb(v, d, upper_part(scores), smallest)
            if value > best_value:
                best, best_value = upper, value
        return [(half, half) for half in (features[best], features[~best])]

    def _dimensions(self, level, n):
        """Factors of a group of n features of a level, and of one of its halves."""
        above = int(self.ranks[: level + 1].sum())
        below = self.ranks[level + 1 :]
        half = above + int((below * 2 ** np.arange(below.size)).sum())
        most = max(1, min(n // 4, (len(self.X) - 1) // 3))
        half = min(half, most)
        return max(2 * half - min(above, half), 2), half

    def _climb(self, v, d, upper, smallest):
        """Alternate between the projections and the halves; the halves and their likelihood."""
        left = np.ones(len(v))  # what is left of each feature, its share of variance
        value = -np.inf
        for _ in range(max(self.options.passes, 1)):
            rests = np.stack([_rest(v, d, left, half) for half in (upper, ~upper)])
            now = -np.log(np.where(upper, *rests)).mean() / 2
            if now <= value + LEAST_GAIN:
                break
            value, kept = now, upper
            if self.options.passes:
                upper = self._choose(np.log(rests[1]) - np.log(rests[0]), smallest)
            left = np.where(upper, *rests)
        return kept, value

    def _choose(self, gain, smallest):
        """Which features are in the half that `gain` speaks for."""
        if self.options.balanced:
            return upper_part(gain)
        upper = gain > 0
        count = min(max(int(upper.sum()), smallest), gain.size - smallest)
        if count == upper.sum():
            return upper
        upper[:] = False
        upper[np.argsort(-gain, kind="stable")[:count]] = True
        return upper


def _coordinates(X, k):
    """Features on the first k principal components of X (N, n): (n, k), and at unit covariance."""
    N, n = X.shape
    if n < N:
        values, V = np.linalg.eigh(X.T @ X)
    else:
        values, U = np.linalg.eigh(X @ X.T)
    values = values[::-1][:k]
    k = int(np.sum(values > 1e-12 * values[0]))
    sigma = np.sqrt(values[:k])
    if n < N:
        w = V[:, ::-1][:, :k]
        return w * sigma, w
    v = X.T @ U[:, ::-1][:, :k]
    return v, v / sigma


def _rest(v, d, left, half):
    """What is left of every feature when the d leading directions of one half are taken out."""
    inside = v[half]
    _, P = np.linalg.eigh(inside.T @ (inside / left[half, None]))
    taken = v @ P[:, -d:]
    rest = 1 - np.einsum("ij,ij->i", taken, taken)
    return np.maximum(rest, np.finfo(float).eps)  # a feature that is a combination of factors
