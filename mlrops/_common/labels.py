"""Labels: what carries names is matched by name, and what disagrees is refused.

One rule for the whole package.  Data define the labels of their rows and columns.  What is given
beside them — variances, weights, groups, masks, new regressors — is put in their order where it
has labels of its own (a Series, a DataFrame, a dict), and refused where these do not fit.  A plain
array has no labels and stands in the order of the data.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from .wording import agree, counted, name_some

__all__ = ["by_label", "check_distinct", "check_no_gaps", "is_missing", "labels_of", "match",
           "names_of_features"]


def labels_of(x: Any) -> Any:
    """Labels of the rows of `x`: the keys of a dict, a pandas index, None where it has none."""
    if isinstance(x, Mapping):
        return tuple(x)
    index = getattr(x, "index", None)
    if callable(index) or hasattr(x, "__dask_graph__"):  # a method of lists; not in memory
        return None
    return index


def names_of_features(labels: Iterable[Any] | None) -> tuple[str, ...] | None:
    """Labels as a tuple of str; None where there are none, or only the numbers 0 to n - 1."""
    if labels is None:
        return None
    labels = list(labels)
    if all(isinstance(x, Integral) and x == i for i, x in enumerate(labels)):
        return None
    return tuple(map(str, labels))


def match(labels: Any, wanted: Any, what: str, axis: str, *, extra: bool = False
          ) -> list[int] | None:
    """Where each wanted label stands among `labels`; None where they are the wanted ones, in order.

    Without `wanted`, labels of the data in their order, `labels` must be the numbers 0 to n - 1, in
    any order.  Labels that are missing, repeated or, unless there may be `extra` ones, foreign are
    refused by name; errors call what carries the labels `what`, and one thing that has a label
    `axis` ("feature").  Names of features and equations are text: if all wanted labels are, all are
    compared as text.  So are numbers with labels that are text.
    """
    if hasattr(labels, "equals") and labels.equals(wanted):
        return None
    labels = list(labels)
    numbered = wanted is None
    as_text = labels if numbered else wanted
    if numbered:
        wanted = range(len(labels))
    wanted = list(wanted)
    if as_text is not None and all(isinstance(label, str) for label in as_text):
        labels, wanted = list(map(str, labels)), list(map(str, wanted))
    if labels == wanted:
        return None
    known = set(wanted)
    if numbered and not set(labels) <= known:
        foreign = [label for label in labels if label not in known]
        raise ValueError(
            f"{what} has labels ({name_some(foreign)}), the data have none to match them to: give"
            f" data with labels, or {what} as a plain array in the order of the data")
    place = {label: i for i, label in enumerate(labels)}
    if len(place) < len(labels):
        raise ValueError(f"{what} must have each label once to be matched by label, got"
                         f" {name_some(_repeated(labels))} more than once")
    if len(known) < len(wanted):
        raise ValueError(f"{what} cannot be matched by label: more than one {axis} of the data is"
                         f" called {name_some(_repeated(wanted))}")
    lacks = [label for label in wanted if label not in place]
    foreign = [] if extra else [label for label in labels if label not in known]
    if lacks or foreign:
        problems = []
        if lacks:
            problems.append(f"it has none for {counted(len(lacks), axis)} ({name_some(lacks)})")
        if foreign:
            problems.append(f"{counted(len(foreign), 'label')}"
                            f" {agree(len(foreign), 'belongs', 'belong')} to no {axis}"
                            f" ({name_some(foreign)})")
        raise ValueError(f"{what} must have the labels of the data: {', and '.join(problems)}")
    return [place[label] for label in wanted]


def by_label(x: Any, wanted: Any, what: str, axis: str, *, extra: bool = False) -> Any:
    """`x` with its rows in the order of the data; see `match` for parameters and errors.

    A dict becomes a list of its values, pandas objects stay pandas objects, and what has no labels
    is returned as it is.
    """
    labels = labels_of(x)
    if labels is None:
        return x
    order = match(labels, wanted, what, axis, extra=extra)
    if isinstance(x, Mapping):
        values = list(x.values())
        return values if order is None else [values[i] for i in order]
    return x if order is None else x.iloc[order]


def check_distinct(labels: Iterable[Any], what: str) -> None:
    """Refuse labels that stand for two things."""
    twice = _repeated(labels)
    if twice:
        raise ValueError(f"{what} must have different names, got {name_some(twice)} more than once")


def check_no_gaps(levels: Sequence[Any], names: Sequence[str], what: str, axis: str) -> None:
    """Refuse a feature without a label at some level, by name."""
    lacks = [name for name, *labels in zip(names, *levels, strict=True)
             if any(is_missing(label) for label in labels)]
    if lacks:
        raise ValueError(f"{what} has no label for {counted(len(lacks), axis)}"
                         f" ({name_some(lacks)})")


def is_missing(label: Any) -> bool:
    """Whether this is no label: None, NaN, NaT or NA."""
    # pandas' NA refuses to be compared, so it is known by the name of its type.
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


def _repeated(labels):
    """Labels that come more than once, each of them once."""
    seen = set()
    return list(dict.fromkeys(label for label in labels if label in seen or seen.add(label)))
