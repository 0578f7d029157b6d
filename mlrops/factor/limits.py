"""Where the likelihood of a factor model has no maximum or leaves the range of its dtype.

Also how many factors are of use.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from .._common.convergence import ConvergenceWarning, UnboundedWarning
from .._common.labelled import named
from .._common.typing import FloatArray, IntArray
from .._common.wording import agree, counted
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .estep.protocol import Source
from .likelihood import LEAST
from .point import Point
from .usable import usable_ranks

__all__ = ["FEWER", "at_floor", "check_scale", "run_off", "tied", "too_few_samples",
           "useful_ranks", "warn_of_floor", "warn_of_plateau", "warn_of_prior"]

# Nats of the log-likelihood of all samples that a fit should not leave without a word.
PLATEAU = 0.05
# By how much D is lowered to see whether the likelihood goes on rising.
LOWER = 0.01
# What to do about variances at the floor.
FEWER = "; fewer factors may do, or a prior on the variances: prior=True"
# How near to its floor a variance stands at it: a fit may stop before the last of the way.
NEAR = 2.0


def check_scale(source: Source, hierarchy: Hierarchy, names: Sequence[str] | None,
                axis_name: str = "feature") -> None:
    """Refuse variances so large or small that what is computed with them leaves the dtype.

    Limits of double precision are those of squares of variances.
    """
    limits = np.finfo(source.dtype)
    low = max(float(limits.tiny / limits.eps), 1e-60)
    high = min(float(limits.max * limits.eps), 1e60)
    variance = hierarchy._scatter(source.variance)
    bad = np.flatnonzero(~((variance >= low) & (variance <= high)))
    if bad.size:
        raise ValueError(
            f"Y has {counted(bad.size, axis_name)} ({named(bad, names)}) with variances out of the"
            f" range that can be computed with in {source.dtype}, {low:.0e} to {high:.0e}; change"
            " their units")


def at_floor(D: FloatArray, floor: FloatArray) -> IntArray:
    """Where entries of D stand at their floor."""
    return np.flatnonzero(NEAR * floor >= D)


def useful_ranks(hierarchy: Hierarchy) -> list[int]:
    """Largest rank of each level with which its largest group is still a model.

    With r factors and D a group of m features has ``m r - r (r - 1) / 2 + m`` parameters.  They
    must not outnumber the entries of its covariance, ``m (m + 1) / 2`` (W. Ledermann, 1937), which
    is ``(m - r)² >= m + r``; a pair gets one factor nevertheless, the covariance of the two.
    """
    largest = [int(hierarchy.group_sizes(level).max()) for level in range(hierarchy.n_levels)]
    return [next((r for r in range(m - 1, 0, -1) if (m - r) ** 2 >= m + r), min(m - 1, 1))
            for m in largest]


def too_few_samples(hierarchy: Hierarchy, ranks: Sequence[int], n_samples: int, center: bool,
                    share: float = 1.0) -> str | None:
    """Why so few samples leave the likelihood without a maximum, or None.

    N samples of positive weight, less one where the mean is estimated, lie in a space of N
    dimensions.  Take N + 1 features of a group that sees N factors or more: the factors can hold
    all that space and be orthogonal to one direction, in which the samples do not vary.  With the D
    of these features its variance goes to zero, and the likelihood to infinity.

    With a `share` below 1 that share of the N dimensions is as much as the factors may take.
    """
    N = n_samples - bool(center)
    factors = np.zeros(hierarchy.n, int)
    for level, usable in enumerate(usable_ranks(hierarchy, ranks)):
        sizes, labels = hierarchy.group_sizes(level), hierarchy.labels(level)
        factors += usable[labels]
        excess = np.minimum(factors, sizes[labels] - 1)
        if ranks[level] and (excess.max() >= N or excess.max() > share * N):
            i = int(excess.argmax())
            where = (f"the {counted(sizes[labels[i]], 'feature')} of group {labels[i]} of level"
                     f" {level}" if hierarchy.group_counts[level] > 1 else
                     counted(hierarchy.n, "feature"))
            less = ", less one for the mean," if center else ""
            return (f"the likelihood has no maximum: {counted(n_samples, 'sample')}{less}"
                    f" {agree(n_samples, 'carries', 'carry')} {counted(max(N - 1, 0), 'factor')} at"
                    f" most, and ranks {tuple(ranks)} give {factors[i]} to {where}")
    return None


def run_off(source: Source, hierarchy: Hierarchy, ranks: tuple[int, ...], point: Point,
            place: IntArray, names: Sequence[str] | None, noun: str = "feature") -> str | None:
    """Why variances at the floor say that the likelihood has no maximum, or None.

    Regular Heywood cases have one where D is zero.  But where the samples do not vary in a
    combination of features whose D are at the floor, the log-likelihood a sample rises by a half
    with every fall of log D: it is computed once more with D times `LOWER`.  The fit ended at the
    `point`, with D at the floor in the places `place` of tree order; `noun` is what errors call a
    feature.
    """
    share = source.share_of_pairs(place) if place.size > 1 else 0.0
    if share == 0 or (LOWER * point.D[place] < LEAST * source.variance[place]).any():
        return None
    tree, D = hierarchy._in_tree_order(), point.D.copy()
    D[place] *= LOWER
    here, below = (source.evaluate(MLR.from_compact(tree, ranks, point.F, d), point.mean).loglik
                   for d in (point.D, D))
    if below - here < 0.25 * share * -math.log(LOWER):
        return None
    return tied(hierarchy, place, names, noun)


def tied(hierarchy: Hierarchy, place: IntArray, names: Sequence[str] | None, noun: str = "feature"
         ) -> str:
    """What is wrong with variances at the floor that the likelihood would have lower and lower."""
    there = np.sort(hierarchy.permutation[place])
    return (f"the likelihood has no maximum: it rises without limit as variances go to zero that"
            f" now stand at the floor, those of {counted(there.size, noun)} which the samples tie"
            f" to one another (Heywood cases: {named(there, names)})")


def warn_of_floor(boundary: IntArray, names: Sequence[str] | None, variance_floor: float,
                  unbounded: str | None, noun: str = "feature", whole: str = "total",
                  advice: str = FEWER, stacklevel: int = 3) -> None:
    """Warn of variances at the floor, or give the reason why the likelihood is unbounded."""
    if unbounded is not None:
        warnings.warn(f"{unbounded}; lower the ranks, leave {noun}s out or take a prior on the"
                      " variances (prior=True), all figures depend on the variance_floor of"
                      f" {variance_floor:g}", UnboundedWarning, stacklevel=stacklevel)
    elif boundary.size:
        n = boundary.size
        warnings.warn(
            f"{counted(n, noun)} {agree(n, 'has', 'have')} a variance at the floor of"
            f" {variance_floor:g} of {agree(n, 'its', 'their')} {whole} (Heywood cases:"
            f" {named(boundary, names)}){advice}", ConvergenceWarning, stacklevel=stacklevel)


def warn_of_prior(ruled: IntArray, n: int, names: Sequence[str] | None, noun: str = "feature",
                  advice: str = 'a weaker prior, prior="cv" or none', stacklevel: int = 3) -> None:
    """Warn of variances that the prior sets, not the data, though there are many samples."""
    if ruled.size:
        warnings.warn(
            f"the prior, not the data, sets variances though samples are many: it makes up a"
            f" quarter or more of those of {ruled.size} of {counted(n, noun)}"
            f" ({named(ruled, names)}); {advice} may predict better", ConvergenceWarning,
            stacklevel=stacklevel)


def warn_of_plateau(expected: float, stacklevel: int = 3) -> None:
    """Warn where small gains promise a further rise of the log-likelihood of all samples."""
    if expected > PLATEAU:
        warnings.warn(
            f"gains are small but hardly fall: {expected:.2g} nats more may lie ahead (a plateau);"
            " tol=0 goes on to the gradient, n_init tries other starts, and fit.check tells"
            " whether this is a maximum", ConvergenceWarning, stacklevel=stacklevel)
