"""Labels of groups, one a feature, in the forms that users have, matched to each other by name.

Labels may be arrays, one a level, or carry the names of the features:
a dict from names to labels, pandas Series, or a DataFrame with one column a level.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from .._common.labels import by_label, check_distinct, labels_of, match, names_of_features
from .._common.optional import import_narwhals
from .._common.wording import counted, name_some

__all__ = ["check_names", "read_levels"]


def read_levels(given: Sequence[Any], what: str = "labels", axis: str = "feature",
                wanted: tuple[str, ...] | None = None, numbered: bool = False
                ) -> tuple[list[Any], tuple[str, ...] | None]:
    """One array of labels a level, in the order of the features, and the names of these.

    `given` holds arrays, lists, Series, DataFrames (one column a level) or dicts, coarse to fine;
    Series stay Series, with the order of their categories.  Errors call it `what`, and a thing that
    has a label `axis`.  The order is that of the names `wanted`, and labels of others are left out;
    by default that of the first that has names.  Features that are `numbered` have no names, which
    refuses labels but the numbers 0 to n - 1.
    """
    parts = []  # (level, labels of the features or None, index of what it came from)
    for i, x in enumerate(given):
        labels = labels_of(x)
        if labels is None and hasattr(x, "columns"):  # a frame of a library without an index
            frame = import_narwhals().from_native(x, eager_only=True)
            parts += [(frame[name].to_list(), None, i) for name in frame.columns]
        elif hasattr(x, "columns"):
            parts += [(x.iloc[:, j], labels, i) for j in range(x.shape[1])]
        elif isinstance(x, Mapping):
            parts += [(dict(zip(x, level, strict=True)), labels, i) for level in _paths(x, axis)]
        else:
            parts.append((x, labels, i))
    extra = wanted is not None
    if wanted is None and not numbered:
        labels = next((labels for _, labels, _ in parts if labels is not None), None)
        if labels is not None and not _are_numbers(labels):
            wanted = names_of_features(labels)
    if wanted is not None and not extra:
        check_distinct(wanted, f"{axis}s")
    # Labels of one object are matched once: a table may have a column a level.
    levels: list[Any] = []
    orders: dict[int, list[int] | None] = {}
    for x, labels, i in parts:
        name = f"{what}[{i}]" if len(given) > 1 else what
        if labels is None:
            levels.append(x)
        elif isinstance(x, Mapping):
            levels.append(by_label(x, wanted, name, axis, extra=extra))
        else:
            if i not in orders:
                orders[i] = match(labels, wanted, name, axis, extra=extra)
            levels.append(x if orders[i] is None else x.iloc[orders[i]])
    return levels, wanted


def _are_numbers(labels):
    """Whether labels are the numbers 0 to n - 1, in any order: then they are no names."""
    labels = list(labels)
    return (all(isinstance(x, Integral) and 0 <= x < len(labels) for x in labels)
            and len(set(labels)) == len(labels))


def _paths(labels, axis):
    """One list of labels a level from a label, or a path of them, for each key of a dict."""
    paths = [tuple(x) if isinstance(x, (tuple, list)) else (x,) for x in labels.values()]
    if not paths:
        return []
    depth = len(paths[0])
    uneven = [key for key, path in zip(labels, paths, strict=True) if len(path) != depth]
    if uneven or depth == 0:
        raise ValueError(f"the hierarchy must have equally many labels for every {axis}, at least"
                         f" one: {next(iter(labels))} has {depth}, not so {name_some(uneven)}")
    return [list(level) for level in zip(*paths, strict=True)]


def check_names(hierarchy, names, feature_names):
    """Refuse names of groups, one tuple or None a level, or of features that do not fit a tree."""
    if type(names) is not tuple or len(names) != hierarchy.n_levels:
        raise ValueError(f"names must have {counted(hierarchy.n_levels, 'entry')}, one tuple or"
                         " None a level")
    for level, (given, p) in enumerate(zip(names, hierarchy.group_counts, strict=True)):
        if given is not None and (type(given) is not tuple or len(given) != p):
            raise ValueError(f"names of level {level} must be a tuple of {p}, one a group")
    if feature_names is not None and not (
            type(feature_names) is tuple and len(feature_names) == hierarchy.n
            and all(isinstance(name, str) for name in feature_names)):
        raise ValueError(f"feature_names must be None or a tuple of {hierarchy.n} strings, one a"
                         " feature")
