"""Counting the parameters of a factor model, for information criteria."""

import numpy as np

from .._common.typing import Ranks
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy

__all__ = ["degrees_of_freedom"]


def degrees_of_freedom(hierarchy: Hierarchy, ranks: Ranks, mean: bool = True) -> int:
    r"""Number of free parameters of ``N(μ, Σ_l F_l F_lᵀ + diag(D))`` on a tree.

    Parameters
    ----------
    hierarchy : Hierarchy
        Tree of the n features.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first.
    mean : bool, optional
        Count the n entries of the mean.

    Returns
    -------
    count : int

    Raises
    ------
    ValueError, TypeError
        Ranks that do not fit the hierarchy.

    Notes
    -----
    A group of m features with r factors has ``m r`` loadings, of which a rotation takes
    ``r (r - 1) / 2``; D adds one parameter a feature.  Two corrections make the sum over levels
    and groups count covariances, not coordinates:

    - *Where m_c of a group's m features form one child,* a rotation makes all but ``m - m_c`` of
      its factors vanish outside that child.  They are counted as factors of the child.  A group
      that is its own only child (``m_c = m``) so shares rotations and rank with it, and of two
      levels with the same groups only the sum of the ranks matters.  The children of a leaf are
      single features: what is rotated into one is already in D.
    - *A group of m features* with all that is below it, D included, counts at most
      ``m (m + 1) / 2``, the size of its block of Σ.

    For the ordinary factor model this is the dimension of the set of its covariances (M. Drton,
    B. Sturmfels, S. Sullivant, "Algebraic factor analysis: tetrads, pentads and beyond", 2007).
    On trees it is that dimension where groups have several features for each of their factors,
    and can exceed it by a few where small children already have every covariance they can.

    Examples
    --------
    >>> from mlrops import Hierarchy
    >>> from mlrops.factor.criteria import degrees_of_freedom
    >>> degrees_of_freedom(Hierarchy.flat(10), 2)           # 2·10 - 1, D, mean
    39
    >>> degrees_of_freedom(Hierarchy.balanced(10, [1, 2]), (2, 1), mean=False)
    39
    >>> degrees_of_freedom(Hierarchy.balanced(10, [1, 1]), (1, 1))
    39
    """
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    n, L = hierarchy.n, hierarchy.n_levels
    bounds = [*hierarchy.boundaries, np.arange(n + 1)]
    sizes = [np.diff(offsets) for offsets in bounds]
    first = [np.searchsorted(bounds[level + 1], bounds[level][:-1]) for level in range(L)]

    own = [np.full(p, r) for p, r in zip(hierarchy.group_counts, check_ranks(ranks, hierarchy),
                                            strict=True)]
    own.append(np.zeros(n, int))
    for level in range(L):
        child = _largest_child(sizes[level + 1], first[level])
        kept = np.minimum(own[level], sizes[level] - sizes[level + 1][child])
        own[level + 1][child] += own[level] - kept
        own[level] = kept

    count = np.ones(n, int)
    for m, r, children in zip(sizes[-2::-1], own[-2::-1], first[::-1], strict=True):
        below = np.add.reduceat(count, children)
        count = np.minimum(m * (m + 1) // 2, m * r - r * (r - 1) // 2 + below)
    return int(count.sum()) + (n if mean else 0)


def _largest_child(sizes, first):
    """Number of the largest child of every group; children are runs that begin at `first`."""
    parent = np.repeat(np.arange(first.size), np.diff(np.append(first, sizes.size)))
    order = np.lexsort((sizes, parent))  # ascending within each parent
    return order[np.append(first[1:], sizes.size) - 1]
