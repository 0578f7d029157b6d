"""Where the likelihood of a factor model has no maximum, and how many factors are of use."""

import numpy as np

from .._wording import agree, counted
from .em import Point, em_map
from .rows import named

__all__ = ["run_off", "too_few_samples", "useful_ranks"]


def useful_ranks(hierarchy):
    """Largest rank of each level with which its largest group is still a model.

    With r factors and D a group of m features has ``m r - r (r - 1) / 2 + m`` parameters.  They
    must not outnumber the entries of its covariance, ``m (m + 1) / 2`` (W. Ledermann, 1937); a
    pair gets one factor nevertheless, the covariance of the two.
    """
    largest = [int(hierarchy.group_sizes(level).max()) for level in range(hierarchy.n_levels)]
    return [max(_ledermann(m), min(m - 1, 1)) for m in largest]


def _ledermann(m):
    """Largest r with ``(m - r)² >= m + r``."""
    return next((r for r in range(m - 1, 0, -1) if (m - r) ** 2 >= m + r), 0)


def too_few_samples(hierarchy, ranks, n_samples, center, share=1.0):
    """Why so few samples leave the likelihood without a maximum, or None.

    N samples of positive weight, less one where the mean is estimated, lie in a space of N
    dimensions.  Take N + 1 features of a group that sees N factors or more: the factors can hold
    all that space and be orthogonal to one direction, in which the samples do not vary.  With the D
    of these features its variance goes to zero, and the likelihood to infinity.

    With a `share` below 1 that share of the N dimensions is as much as the factors may take.
    """
    N = n_samples - bool(center)
    factors = np.zeros(hierarchy.n, int)
    for level, r in enumerate(ranks):
        sizes, labels = hierarchy.group_sizes(level), hierarchy.labels(level)
        factors += np.minimum(r, sizes)[labels]
        excess = np.minimum(factors, sizes[labels] - 1)
        if r and (excess.max() >= N or excess.max() > share * N):
            i = int(excess.argmax())
            where = (f"the {counted(sizes[labels[i]], 'feature')} of group {labels[i]} of level"
                     f" {level}" if hierarchy.group_counts[level] > 1 else
                     counted(hierarchy.n, "feature"))
            less = ", less one for the mean," if center else ""
            return (f"the likelihood has no maximum: {counted(n_samples, 'sample')}{less}"
                    f" {agree(n_samples, 'carries', 'carry')} {counted(max(N - 1, 0), 'factor')} at"
                    f" most, and ranks {tuple(ranks)} give {factors[i]} to {where}")
    return None


def run_off(source, hierarchy, ranks, point, floor, names, noun="feature"):
    """Why variances at the floor say that the likelihood has no maximum, or None.

    Take the features whose D is at the floor.  Where more of them are seen together than they have
    factors among them, one of their combinations has the variance of the floor.  If the samples do
    not vary in it, the log-likelihood a sample rises by a half with every fall of log D.

    Parameters
    ----------
    source : source of EM
    hierarchy : Hierarchy
    ranks : tuple of int
    point : Point
        Where the fit ended, in tree order.
    floor : ndarray, shape (n,)
    names : sequence of str or None
    noun : str, optional
        What a feature is called.
    """
    place = np.flatnonzero(point.D <= floor)
    if place.size == 0:
        return None
    shown, weights = source.shown(place)
    factors = _factors_among(hierarchy, ranks, place, shown)
    excess = shown.sum(axis=1) - factors
    if excess.max() <= 0:
        return None
    mapped = em_map(source, hierarchy._in_tree_order(), ranks, floor, point,
                    Point.empty_like(point), keep=True)
    _, dD, _ = mapped.step.gradient(*mapped.raw)
    rate = 0.5 * float(weights @ np.maximum(excess, 0)) / weights.sum()
    if -float(point.D[place] @ dD[place]) < rate / 2:
        return None
    t = int(excess.argmax())
    there = np.sort(hierarchy.permutation[place[shown[t]]])
    return (f"the likelihood has no maximum: it rises with every lower variance_floor, at which"
            f" {counted(there.size, noun)} {agree(there.size, 'stands', 'stand')} that"
            f" {agree(there.size, 'has', 'have')} {counted(factors[t], 'factor')} among"
            f" {agree(there.size, 'it', 'them')} (Heywood cases: {named(there, names)})")


def _factors_among(hierarchy, ranks, place, shown):
    """Rank of the factors of those features (at `place` in tree order) that each row marks."""
    count, held, starts = shown.astype(int), np.zeros(shown.shape, int), place
    for level in range(hierarchy.n_levels - 1, -1, -1):
        offsets = np.asarray(hierarchy.boundaries[level])
        group = np.searchsorted(offsets, starts, side="right") - 1
        first = np.flatnonzero(np.diff(group, prepend=-1))
        count, held = (np.add.reduceat(x, first, axis=1) for x in (count, held))
        held = np.minimum(count, held + ranks[level])
        starts = offsets[group[first]]
    return held.sum(axis=1)
