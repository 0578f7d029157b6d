"""`Hierarchy`: a nested partition of the features, coarsest level first.

A group of level l is a run of positions in *tree order*, the order in which the features of every
group of every level stand next to each other.  So a tree over n features is one permutation and,
for each level, the offsets at which its groups begin; nothing is a node object, and n may be 10⁷.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._common.cached import cached_property
from .._common.stored import NAMES, Stored, integers, maybe, tuple_of
from .._common.typing import IntArray, Labels, Vector
from .._common.wording import counted, name_some
from ..kernels.layout import Layout, make_layout
from .grouping import as_integer, check_tree, cut_linkage, nest_labels, split_evenly
from .labels import check_names, read_levels
from .layout import TreeLayout, frozen
from .text import describe

__all__ = ["Hierarchy"]

# Layouts that are kept, each for other ranks: n numbers and more.
LAYOUTS = 4


class Hierarchy(Stored, TreeLayout):
    """A nested partition of n features into groups, levels coarse to fine; immutable.

    Parameters
    ----------
    permutation : array_like of int, shape (n,)
        ``permutation[i]`` is the feature at position i of the tree.
    boundaries : sequence of L array_like of int, shapes (p_l + 1,)
        ``boundaries[l]`` are increasing offsets into the permuted features, from 0 to n:
        group g of level l holds the positions ``boundaries[l][g]`` to ``boundaries[l][g + 1] - 1``.
        Every offset of a level must be an offset of the next one.

    Raises
    ------
    ValueError
        No features, no levels, not a permutation, an empty group, offsets that do not run from 0 to
        n, or levels that do not nest; the message names the feature, level or group.
    TypeError
        Anything that is not an array of integers.

    See Also
    --------
    Hierarchy.from_labels : from one array of group labels a level (the usual way).
    Hierarchy.from_linkage : from a hierarchical clustering.
    Hierarchy.balanced, Hierarchy.flat, Hierarchy.from_boundaries

    Notes
    -----
    Two hierarchies are equal when permutation and boundaries are; names of groups and of features
    do not count.

    Examples
    --------
    >>> from mlrops import Hierarchy
    >>> h = Hierarchy([2, 0, 1, 3], [[0, 4], [0, 1, 4]])
    >>> h
    Hierarchy(n=4, n_levels=2, group_counts=(1, 2))
    >>> h.labels(1)
    array([1, 1, 0, 1])
    >>> h.features(1, 0)
    array([2])
    """

    def __init__(self, permutation: Vector, boundaries: Iterable[Vector]):
        self._set(*check_tree(permutation, boundaries))

    def _set(self, permutation, boundaries, names=None, feature_names=None):
        self._permutation = frozen(permutation)
        self._boundaries = tuple(frozen(offsets) for offsets in boundaries)
        self._names = names or (None,) * len(self._boundaries)
        self._feature_names = feature_names

    @classmethod
    def _make(cls, permutation: IntArray | None, boundaries: Sequence[IntArray],
              names: Sequence[tuple[Any, ...] | None] | None = None,
              feature_names: tuple[str, ...] | None = None) -> "Hierarchy":
        """Wrap arrays known to be a tree, unchecked and uncopied; permutation None is identity."""
        self = cls.__new__(cls)
        if permutation is None:
            permutation = np.arange(boundaries[0][-1])
        self._set(permutation, boundaries, names, feature_names)
        return self

    stored_fields = {
        "permutation": integers(),
        "boundaries": tuple_of(integers(), "a list of vectors of signed integers"),
        "names": tuple_of(maybe(NAMES), "a tuple of names or None, one a level"),
        "feature_names": maybe(NAMES)}

    def to_fields(self) -> dict[str, object]:
        return {"permutation": self._permutation, "boundaries": self._boundaries,
                "names": self._names, "feature_names": self._feature_names}

    @classmethod
    def from_fields(cls, permutation: IntArray, boundaries: tuple[IntArray, ...],
                    names: tuple[Any, ...], feature_names: tuple[str, ...] | None = None
                    ) -> "Hierarchy":
        h = cls(permutation, boundaries)
        check_names(h, names, feature_names)
        return cls._make(h.permutation, h.boundaries, names, feature_names)

    # ---------------------------------------------------------------- constructors

    @classmethod
    def from_labels(cls, *labels: Labels, root: bool = True,
                    qualify: bool = False) -> "Hierarchy":
        """Build a tree from one array of group labels a level, coarse to fine.

        Parameters
        ----------
        *labels : array_like, shape (n,), Series, DataFrame or dict
            Strings, integers, dates.  An array or list is read by position.  The index of a Series,
            or of a DataFrame with one column a level, and the keys of a dict, whose values are
            labels or tuples of one label a level, are the names of the features: they are kept, and
            levels with names are put in the order of the first that has some.  Labels 0 to n - 1
            are numbers of features, and no names.  Groups are sorted by label within their parent;
            the categories of a pandas Categorical keep their own order, and those that do not occur
            are dropped.
        root : bool, default True
            Put a level 0 of one group that holds everything in front, so that ``labels[0]`` is
            level 1.
        qualify : bool, default False
            Read labels as paths: equal labels under different parents are different groups.  By
            default they are an error.

        Returns
        -------
        Hierarchy
            Features keep their order within a group of the finest level.

        Raises
        ------
        ValueError
            Missing labels, arrays of different lengths, levels of different or repeated names, no
            features, or a label under two parents (also when the levels were given fine to coarse;
            the message tells which).
        TypeError
            Labels of several types that cannot be sorted, or that are not labels at all.

        Examples
        --------
        >>> from mlrops import Hierarchy
        >>> sector = ["tech", "bank", "tech", "bank", "tech"]
        >>> industry = ["chips", "retail", "web", "retail", "chips"]
        >>> h = Hierarchy.from_labels(sector, industry)
        >>> print(h.describe())
        Hierarchy of 5 features, groups by level: 1, 2, 3
        └─ all: 5 features in 2 groups
           ├─ bank: 2 features in 1 group
           │  └─ retail: 2 features
           └─ tech: 3 features in 2 groups
              ├─ chips: 2 features
              └─ web: 1 feature
        >>> h.permutation
        array([1, 3, 0, 4, 2])
        >>> Hierarchy.from_labels({"AAPL": "tech", "JPM": "bank"})
        Hierarchy(n=2, n_levels=2, group_counts=(1, 2), features AAPL, JPM)
        """
        levels, feature_names = read_levels(labels)
        permutation, boundaries, names = nest_labels(levels, feature_names, qualify, bool(root))
        if not root:
            return cls._make(permutation, boundaries, tuple(names), feature_names)
        return cls._make(permutation, [np.array([0, permutation.size]), *boundaries],
                         (None, *names), feature_names)

    @classmethod
    def from_boundaries(cls, boundaries: Iterable[Vector],
                        permutation: Vector | None = None) -> "Hierarchy":
        """Build a tree from offsets; features stay in their order unless a permutation is given.

        Parameters
        ----------
        boundaries : sequence of L array_like of int, shapes (p_l + 1,)
            As in `Hierarchy`.
        permutation : array_like of int, shape (n,), optional

        Returns
        -------
        Hierarchy

        Raises
        ------
        ValueError, TypeError
            As `Hierarchy`.

        Examples
        --------
        >>> from mlrops import Hierarchy
        >>> Hierarchy.from_boundaries([[0, 6], [0, 2, 6], [0, 1, 2, 6]])
        Hierarchy(n=6, n_levels=3, group_counts=(1, 2, 3))
        """
        return cls._make(*check_tree(permutation, boundaries, in_order=permutation is None))

    @classmethod
    def flat(cls, n: int) -> "Hierarchy":
        """One level of one group that holds all features: the ordinary factor model.

        Parameters
        ----------
        n : int
            Number of features, at least 1.

        Returns
        -------
        Hierarchy

        Examples
        --------
        >>> from mlrops import Hierarchy
        >>> Hierarchy.flat(100)
        Hierarchy(n=100, n_levels=1, group_counts=(1,))
        """
        return cls.balanced(n, [1])

    @classmethod
    def balanced(cls, n: int, group_counts: Iterable[int]) -> "Hierarchy":
        """Split n features, in their order, into groups of nearly equal size.

        Parameters
        ----------
        n : int
            Number of features.
        group_counts : sequence of L int
            Groups at each level, coarse to fine; each must divide the next, and none exceed n.

        Returns
        -------
        Hierarchy
            Sizes within one level differ by at most one.

        Raises
        ------
        ValueError
            No features, a count that does not divide the next one or is out of range.
        TypeError
            Numbers that are not integers.

        Examples
        --------
        >>> from mlrops import Hierarchy
        >>> h = Hierarchy.balanced(10, [1, 2, 4])
        >>> h.group_sizes(2)
        array([2, 3, 2, 3])
        """
        return cls._make(None, split_evenly(n, group_counts))

    @classmethod
    def from_linkage(cls, Z: Any, group_counts: Iterable[int]) -> "Hierarchy":
        """Cut a hierarchical clustering into a given number of groups a level.

        Parameters
        ----------
        Z : array_like, shape (n - 1, 4)
            What `scipy.cluster.hierarchy.linkage` returns; heights need not increase.
        group_counts : sequence of L int
            Groups at each level, coarse to fine, each between 1 and n.

        Returns
        -------
        Hierarchy
            Tree order is the order of the leaves in the dendrogram.  Level l undoes the last
            ``group_counts[l] - 1`` merges, in merge order, so that the levels always nest.

        Raises
        ------
        ValueError
            Z is not a linkage (the message names the merge), or counts decrease or exceed n.
        TypeError
            Z is not numeric, counts are not integers.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy.cluster.hierarchy import linkage
        >>> from mlrops import Hierarchy
        >>> x = np.array([[0.0], [10.0], [0.1], [10.1], [12.0]])
        >>> h = Hierarchy.from_linkage(linkage(x, "average"), [1, 2, 3])
        >>> h.labels(2)
        array([0, 2, 0, 2, 1])
        """
        return cls._make(*cut_linkage(Z, group_counts))

    # ---------------------------------------------------------------- attributes

    @property
    def n(self) -> int:
        """Number of features (int)."""
        return self._permutation.size

    @property
    def n_levels(self) -> int:
        """Number of levels L (int)."""
        return len(self._boundaries)

    @property
    def group_counts(self) -> tuple[int, ...]:
        """Number of groups p_l at each level (tuple of L int)."""
        return tuple(offsets.size - 1 for offsets in self._boundaries)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features (tuple of n str), or None where it was made without names."""
        return self._feature_names

    @property
    def permutation(self) -> IntArray:
        """``permutation[i]`` is the feature at tree position i (read-only, shape (n,))."""
        return self._permutation

    @property
    def boundaries(self) -> tuple[IntArray, ...]:
        """Offsets of the groups at each level (tuple of L read-only arrays, shapes (p_l + 1,))."""
        return self._boundaries

    def labels(self, level: int) -> IntArray:
        """Group number of every feature at a level.

        Parameters
        ----------
        level : int
            Negative levels count from the finest.  IndexError for one that does not exist.

        Returns
        -------
        ndarray of int, shape (n,)
            In feature order; groups are numbered 0 to p_l - 1 in tree order.
        """
        sizes = self.group_sizes(level)
        return self._scatter(np.repeat(np.arange(sizes.size), sizes))

    def group_sizes(self, level: int) -> IntArray:
        """Number of features in every group of a level.

        Parameters
        ----------
        level : int

        Returns
        -------
        ndarray of int, shape (p_l,)
        """
        return np.diff(self._boundaries[self._level(level)])

    def names(self, level: int) -> tuple[Any, ...] | None:
        """The labels of the groups of a level, as given to `from_labels`.

        Parameters
        ----------
        level : int

        Returns
        -------
        tuple of length p_l, or None
            None where there are no labels, as for a root.  Groups told apart by ``qualify=True``
            may have the same name.
        """
        return self._names[self._level(level)]

    def features(self, level: int, group: int) -> IntArray:
        """The features of one group, in the order they have in the tree.

        Parameters
        ----------
        level, group : int
            Negative groups count from the last.

        Returns
        -------
        ndarray of int, shape (size of the group,)
            Read-only.

        Raises
        ------
        IndexError
            A level or group that does not exist.
        """
        offsets = self._boundaries[self._level(level)]
        index, p = as_integer(group, "group"), offsets.size - 1
        if not -p <= index < p:
            raise IndexError(f"group {group} is out of range: level {level} has"
                             f" {counted(p, 'group')}")
        index %= p
        return self._permutation[offsets[index] : offsets[index + 1]]

    def _level(self, level: int) -> int:
        index, L = as_integer(level, "level"), self.n_levels
        if not -L <= index < L:
            raise IndexError(f"level {level} is out of range: this hierarchy has"
                             f" {counted(L, 'level')} (0 to {L - 1}, or -1 to -{L} from the"
                             " finest)")
        return index % L

    # ---------------------------------------------------------------- object protocol

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return self is other or (self.group_counts == other.group_counts
                                 and np.array_equal(self._permutation, other._permutation)
                                 and all(map(np.array_equal, self._boundaries, other._boundaries)))

    @cached_property
    def _layouts(self):
        return {}

    def _layout(self, ranks: Sequence[int]) -> Layout:
        """The kernels' layout of this tree with `ranks`: the same one for operators that follow."""
        key = tuple(ranks)
        if key not in self._layouts:
            if len(self._layouts) >= LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = make_layout(self.boundaries, self._paths, key)
        return self._layouts[key]

    @cached_property
    def _hash(self):
        return hash((self._permutation.tobytes(), *(b.tobytes() for b in self._boundaries)))

    def __hash__(self) -> int:
        return self._hash

    def __copy__(self) -> "Hierarchy":
        return self

    def __deepcopy__(self, memo: Any) -> "Hierarchy":
        return self

    def __reduce__(self):
        # By way of _make, because arrays come out of a pickle writeable.
        permutation = None if self._in_order else self._permutation
        return type(self)._make, (permutation, self._boundaries, self._names, self._feature_names)

    def __repr__(self) -> str:
        named = self._feature_names is not None
        names = f", features {name_some(self._feature_names, limit=3)}" if named else ""
        return (f"Hierarchy(n={self.n}, n_levels={self.n_levels}, group_counts={self.group_counts}"
                f"{names})")

    def describe(self, max_groups: int = 20) -> str:
        """The tree as text, cut to a readable size.

        Parameters
        ----------
        max_groups : int, default 20
            At most this many groups are shown, of which the first ones down to the leaves; the text
            says how many more there are.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            `max_groups` is below 1.

        Examples
        --------
        >>> from mlrops import Hierarchy
        >>> print(Hierarchy.balanced(10**6, [1, 100, 10**5]).describe(max_groups=5))
        Hierarchy of 1,000,000 features, groups by level: 1, 100, 100,000
        └─ all: 1,000,000 features in 100 groups
           ├─ group 0: 10,000 features in 1,000 groups
           │  ├─ group 0: 10 features
           │  ├─ group 1: 10 features
           │  └─ ... 998 more
           ├─ group 1: 10,000 features ... 1,000 more groups
           └─ ... 98 more
        """
        return describe(self, max_groups)
