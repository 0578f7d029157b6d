"""The layout of a tree of features: what operators and fits need of a `Hierarchy`."""

from typing import Any

import numpy as np

from .._common.cached import cached_property
from ..kernels.groups import by_size

__all__ = ["TreeLayout", "frozen"]


class TreeLayout:
    """Private methods of `Hierarchy`: places in tree order, groups by size, parts of the tree."""

    @cached_property
    def _paths(self):
        """``_paths[q, l]`` is the group of level l that holds leaf q (read-only, int64)."""
        paths = np.empty((self.group_counts[-1], self.n_levels), dtype=np.int64)
        for level, offsets in enumerate(self._boundaries):
            leaves = np.diff(np.searchsorted(self._boundaries[-1], offsets))
            paths[:, level] = np.repeat(np.arange(leaves.size), leaves)
        return frozen(paths)

    @cached_property
    def _in_order(self):
        """Whether tree order is feature order."""
        return bool((self._permutation == np.arange(self.n)).all())

    @cached_property
    def _position(self):
        """The position of every feature in the tree: the inverse permutation."""
        position = np.empty_like(self._permutation)
        position[self._permutation] = np.arange(self.n)
        return frozen(position)

    def _gather(self, x):
        """Rows of `x` (n, ...) from feature to tree order, C-contiguous; no copy if they are so."""
        if self._in_order:
            return np.ascontiguousarray(x)
        return np.take(x, self._permutation, axis=0)

    def _scatter(self, x):
        """Rows of `x` (n, ...) from tree order back to feature order; `x` itself when in order."""
        return x if self._in_order else np.take(x, self._position, axis=0)

    @cached_property
    def _identity_twin(self):
        names = self._feature_names
        return type(self)._make(None, self._boundaries, self._names,
                                names and tuple(names[i] for i in self._permutation))

    def _in_tree_order(self):
        """This tree for features that already stand in tree order."""
        return self if self._in_order else self._identity_twin

    def _equal_groups(self, level):
        """Yield (g, m) arrays of tree positions: the groups of one level, batched by their size."""
        for rows, _ in by_size(self._boundaries[level]):
            yield rows

    def _restrict(self, features):
        """The tree that distinct features (ndarray of int) leave, in that order.

        ``features[j]`` becomes feature j; groups without features vanish.
        """
        places = self._position[features]
        order = np.argsort(places)
        offsets = [np.searchsorted(places[order], each) for each in self._boundaries]
        names = tuple(labels and tuple(labels[g] for g in np.flatnonzero(np.diff(each)))
                      for labels, each in zip(self._names, offsets, strict=True))
        features = self._feature_names and tuple(self._feature_names[i] for i in features)
        return type(self)._make(order, [np.unique(each) for each in offsets], names, features)

    def _reordered(self, order):
        """The tree of all features in another order, which they keep within the finest groups."""
        tree = self._restrict(np.asarray(order))
        leaves = np.repeat(np.arange(tree.group_counts[-1]), tree.group_sizes(-1))
        return type(self)._make(tree._permutation[np.lexsort((tree._permutation, leaves))],
                                tree._boundaries, tree._names, tree._feature_names)

    def _renamed(self, feature_names):
        """The same tree with other names of features, or None for none."""
        if feature_names == self._feature_names:
            return self
        return type(self)._make(self._permutation, self._boundaries, self._names, feature_names)

    def _same_groups(self, other):
        """Whether the groups are those of another tree, in the same order."""
        return self == other or (
            self.group_counts == other.group_counts and self.n == other.n
            and all((self.labels(level) == other.labels(level)).all()
                    for level in range(self.n_levels)))


def frozen(x: Any) -> np.ndarray[Any, Any]:
    """`x` as an array that nobody writes to."""
    x = np.asarray(x)
    x.flags.writeable = False
    return x
