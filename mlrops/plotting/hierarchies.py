"""Pictures of trees of features."""

from typing import Any, Literal

import numpy as np

from .._common.labels import by_label, labels_of
from .._common.typing import Axes, Labels
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from . import _axes

__all__ = ["plot_hierarchy"]

MOST_EDGES = 2000  # offsets told apart along a picture
LETTERS = 9  # points, of the names of groups


def plot_hierarchy(hierarchy: Any, ax: Axes | None = None, *,
                   kind: Literal["icicle", "blocks"] = "icicle",
                   names: Labels | None = None) -> Axes:
    """Draw the groups of a tree of features, level by level.

    Parameters
    ----------
    hierarchy : Hierarchy
        Anything that has one as its attribute `hierarchy`, such as an `MLR`, will do, too.
    ax : matplotlib Axes, optional
        By default the axes of a new figure.
    kind : {"icicle", "blocks"}, optional
        An icicle has a row of bars for each level, the coarsest on top; the bar of a group is as
        wide as its number of features.  "blocks" are the diagonal blocks of a matrix in tree order,
        the finer ones drawn on the coarser ones.
    names : sequence of str, optional
        Names of the n features, in feature order, which are written where there is room for
        letters.  By default they are those of the hierarchy; give ``()`` for no names.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    TypeError
        There is no hierarchy.
    ValueError
        The kind is another word, or there are not n names.

    Notes
    -----
    Features run in tree order, from left to right.  A group is named where its bar has room, by its
    label if it has one (`Hierarchy.names`), else by its number; the axes should have their final
    size before this is called.  Groups that are too narrow to be seen are drawn as one.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from mlrops import Hierarchy
    >>> from mlrops.plotting import plot_hierarchy
    >>> h = Hierarchy.from_labels(["tech", "bank", "tech"], ["chips", "retail", "web"])
    >>> ax = plot_hierarchy(h)
    >>> [text.get_text() for text in ax.texts]
    ['all', 'bank', 'tech', 'retail', 'chips', 'web']
    >>> plt.close(ax.figure)
    """
    hierarchy = getattr(hierarchy, "hierarchy", hierarchy)
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError("plot_hierarchy expects a Hierarchy or an operator on one, got"
                        f" {type(hierarchy).__name__}")
    _axes.check_choice(kind, "kind", ("icicle", "blocks"))
    features, L = names_in_order(hierarchy, hierarchy, names), hierarchy.n_levels
    size = (4.4, 4.8)
    if kind == "icicle":  # as wide as the names of the features need, within bounds
        size = np.clip(0.15 * len(features or ()), 7, 12), 0.7 + 0.5 * L
    ax = _axes.new_axes(ax, figsize=size)
    (_icicle if kind == "icicle" else _blocks)(ax, hierarchy, features)
    return ax


def names_in_order(given, hierarchy, names):
    """Names in tree order: those given, or else those of the result or hierarchy, or None.

    Names with labels of their own (a Series or dict) are matched to those of the features.
    """
    own = getattr(given, "feature_names", None) or hierarchy.feature_names
    if names is None:
        names = own
    elif labels_of(names) is not None:
        names = by_label(names, own, "names", "feature")
    if names is None or isinstance(names, tuple) and not names:
        return None
    names = check_names(names, hierarchy.n)
    return [names[i] for i in hierarchy.permutation]


def check_names(names, n, what="names"):
    """A list of n strings."""
    names = list(map(str, names))
    if len(names) != n:
        raise ValueError(f"{what} must hold {n}, got {len(names)}")
    return names


def group_name(hierarchy, level, group):
    labels = hierarchy.names(level)
    if labels is not None:
        return str(labels[group])
    return "all" if hierarchy.group_counts[level] == 1 else str(group)


def _seen(offsets, n):
    """Offsets of the groups that are wide enough to be seen."""
    if n <= MOST_EDGES:
        return offsets
    return np.unique(np.round(offsets * (MOST_EDGES / n))) * (n / MOST_EDGES)


def _icicle(ax, hierarchy, names):
    n, L = hierarchy.n, hierarchy.n_levels
    ax.set_xlim(0, n)
    ax.set_ylim(L, 0)
    ax.set_yticks(np.arange(L) + 0.5, _level_names(hierarchy, "\n"), fontsize=8)
    ax.tick_params(length=0)
    _axes.hide_spines(ax)
    width, height = _axes.points_of(ax)
    for level, color in enumerate(_axes.level_colors(L)):
        offsets = _seen(hierarchy.boundaries[level], n)
        rows = np.full(offsets.size - 1, level)
        _axes.rectangles(ax, (offsets[:-1], offsets[1:]), (rows + 0.02, rows + 0.98),
                         facecolor=color, **_edges(width / rows.size))
        _name_bars(ax, hierarchy, level, _axes.ink_on(color), (width / n, height / L))
    room = width / n
    if names is None or room < 5:
        ax.set_xticks([])
        ax.set_xlabel(f"{counted(n, 'feature', ',')}, tree order", fontsize=8)
    else:
        size = min(8, 0.85 * room)
        level_off = max(_axes.text_width(name, size) for name in names) <= 0.9 * room
        ax.set_xticks(np.arange(n) + 0.5, names, fontsize=size, rotation=0 if level_off else 90)


def _level_names(hierarchy, between):
    return [f"level {level}{between}{counted(p, 'group', ',')}"
            for level, p in enumerate(hierarchy.group_counts)]


def _edges(room):
    """White lines between groups that have `room` points each; none where they would hide them."""
    width = min(1.2, 0.15 * room)
    return dict(edgecolor="white" if width > 0.1 else "none", linewidth=width)


def _wide_groups(hierarchy, level, point, least):
    """(group, first, last) of groups at least so many points wide; `point` is that of a feature."""
    offsets = hierarchy.boundaries[level]
    for group in np.flatnonzero(np.diff(offsets) * point >= least).tolist():
        yield group, offsets[group], offsets[group + 1]


def _name_bars(ax, hierarchy, level, ink, room):
    across, down = room
    for group, a, b in _wide_groups(hierarchy, level, across, LETTERS + 2):
        name = group_name(hierarchy, level, group)
        length = _axes.text_width(name, LETTERS) + 4
        if length <= (b - a) * across and LETTERS + 2 <= down:
            turn = 0
        elif length <= 0.94 * down:
            turn = 90
        else:
            continue
        ax.text((a + b) / 2, level + 0.5, name, color=ink, fontsize=LETTERS, rotation=turn,
                ha="center", va="center", parse_math=False)


def _blocks(ax, hierarchy, names):
    n, L = hierarchy.n, hierarchy.n_levels
    _axes.bare(ax, n, n)
    point = _axes.points_of(ax)[0] / n
    colors = _axes.level_colors(L)
    for level, color in enumerate(colors):
        offsets = _seen(hierarchy.boundaries[level], n)
        _axes.outline(ax, offsets, offsets, facecolor=color,
                      **_edges(point * n / (offsets.size - 1)))
        _name_blocks(ax, hierarchy, level, _axes.ink_on(color), point)
    _axes.legend(ax, dict(zip(_level_names(hierarchy, ": "), colors, strict=True)))
    if names is not None and point >= 5:
        ax.set_yticks(np.arange(n) + 0.5, names, fontsize=min(8, 0.85 * point))
        ax.tick_params(length=0)


def _name_blocks(ax, hierarchy, level, ink, point):
    """In the middle of the finest blocks; of the others in the corner that no finer one covers."""
    finest = level == hierarchy.n_levels - 1
    for group, a, b in _wide_groups(hierarchy, level, point, LETTERS + 2):
        name = group_name(hierarchy, level, group)
        length = _axes.text_width(name, LETTERS) + 6
        if finest:
            if length <= (b - a) * point:
                ax.text((a + b) / 2, (a + b) / 2, name, color=ink, fontsize=LETTERS, ha="center",
                        va="center", parse_math=False)
            continue
        below = hierarchy.boundaries[level + 1]
        covered = below[np.searchsorted(below, a) + 1] - a
        if length <= (b - a - covered) * point and LETTERS + 6 <= covered * point:
            ax.annotate(name, (b, a), xytext=(-4, -4), textcoords="offset points", color=ink,
                        fontsize=LETTERS, ha="right", va="top", parse_math=False)
