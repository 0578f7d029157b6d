"""Pictures of covariances: correlations, and the variance that each level explains."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .._common.typing import Axes, Labels
from .._common.wording import counted
from ..operators import MLR, MLRInverse
from . import _axes
from .hierarchies import check_names, group_name, names_in_order

__all__ = ["plot_correlation", "plot_variance_shares"]

RESIDUAL = "#d4d4d4"
SMALLEST, LARGEST = 5, 8  # points, of names of features


def plot_correlation(covariance: Any, names: Labels | None = None, ax: Axes | None = None, *,
                     groups: Sequence[str] | None = None) -> Axes:
    """Draw the correlation matrix of an MLR covariance in tree order, groups outlined.

    Parameters
    ----------
    covariance : MLR or MLRInverse
        A result that holds one as `covariance` will do, too.  The dense matrix is formed: this is
        meant for up to a few thousand features.
    names : sequence of str, optional
        Names of the features, in feature order, which are written where there is room for letters.
        By default they are those of the result or of the hierarchy; give ``()`` for no names.
    ax : matplotlib Axes, optional
    groups : sequence of str, optional
        Names of the groups of the coarsest level that has several, in tree order, which are written
        above them.  By default they are the labels of the hierarchy, if it has any; give ``()`` for
        no names.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    TypeError
        The covariance is of another type.
    ValueError
        There is not one name for each feature or group.

    Notes
    -----
    Colours grow darker from 0 to 1; where there are negative correlations, they begin at the
    smallest one, rounded down to tenths.  In a grey print they still differ.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_correlation
    >>> h = Hierarchy.from_labels(["b", "a", "b", "a"])
    >>> A = MLR(h, [np.ones((4, 1))] * 2, np.ones(4))
    >>> ax = plot_correlation(A, ["w", "x", "y", "z"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['x', 'z', 'w', 'y']
    >>> [text.get_text() for text in ax.child_axes[0].get_xticklabels()]
    ['a', 'b']
    >>> plt.close(ax.figure)
    """
    given, covariance = covariance, _axes.operand(covariance, "plot_correlation", MLR, MLRInverse)
    h = covariance.hierarchy
    features, groups = names_in_order(given, h, names), _group_names(h, groups)
    ax = _axes.new_axes(ax, figsize=(5.8, 4.9))
    scale = 1 / np.sqrt(covariance.diagonal())
    order = h.permutation
    correlation = (covariance.toarray() * scale * scale[:, None])[np.ix_(order, order)]
    _axes.bare(ax, h.n, h.n)
    low = min(0, np.floor(10 * correlation.min()) / 10)  # a round number on the colour bar
    image = _axes.draw_pixels(ax, correlation, h.n, h.n, vmin=low, vmax=1,
                              interpolation="nearest" if h.n <= 400 else "antialiased")
    for level in range(1, h.n_levels):
        room = _axes.points_of(ax)[0] / h.group_counts[level]
        if room >= 3:  # lines would hide smaller groups
            offsets = h.boundaries[level]
            _axes.outline(ax, offsets, offsets, facecolor="none", edgecolor=_axes.INK,
                          linewidth=min(1.6 / level, room / 6))
    point = _axes.points_of(ax)[0] / h.n
    size = min(LARGEST, 0.85 * point)
    if features is not None and size >= SMALLEST:
        ax.set_yticks(np.arange(h.n) + 0.5, features, fontsize=size)
        ax.set_xticks(np.arange(h.n) + 0.5, features, fontsize=size, rotation=90)
        ax.tick_params(length=0)
    _axes.color_bar(image, ax)
    if groups:
        _name_above(ax, groups, h.boundaries[_axes.named_level(h)])
    return ax


def _group_names(hierarchy, groups):
    level = _axes.named_level(hierarchy)
    if groups is None:
        labels = None if level is None else hierarchy.names(level)
        return [] if labels is None else list(map(str, labels))
    groups = list(map(str, groups))
    wanted = 0 if level is None else hierarchy.group_counts[level]
    if groups and len(groups) != wanted:
        raise ValueError(f"groups must name the {counted(wanted, 'group')} of level {level}, got"
                         f" {len(groups)}" if wanted else
                         f"groups must be empty, no level has several, got {len(groups)}")
    return groups


def _name_above(ax, groups, offsets):
    """Names above the blocks wide enough for letters, upright where they do not fit along."""
    point = _axes.points_of(ax)[0] / offsets[-1]
    wide = np.diff(offsets) * point >= 8
    fit = min(((b - a) * point - 4) / _axes.text_width(name, 9) for name, a, b in zip(
        groups, offsets[:-1], offsets[1:], strict=True))  # of letters of 9 points
    above = ax.secondary_xaxis("top")
    above.set_xticks(((offsets[:-1] + offsets[1:]) / 2)[wide],
                     [name for name, fits in zip(groups, wide, strict=True) if fits],
                     **(dict(fontsize=min(9, 9 * fit)) if fit > 0.66 else
                        dict(fontsize=8, rotation=90)))
    above.tick_params(length=0)
    above.spines["top"].set_visible(False)


def plot_variance_shares(
    covariance: Any, ax: Axes | None = None, *, level: int | None = None,
    by: Literal["covariance", "correlation"] = "covariance", names: Labels | None = None,
) -> Axes:
    """Draw the share of the variance that each level explains, of features or of groups.

    Parameters
    ----------
    covariance : FactorModelResult or MLR
        Any other result whose `covariance` is an MLR will do, too.
    ax : matplotlib Axes, optional
    level : int, optional
        Draw a bar for each group of this level; by default there is a bar for each feature.
    by : {"covariance", "correlation"}, optional
        Whether the bars of groups and of the total share out the variance of their features, or
        count every feature the same; see `FactorModelResult.variance_shares`.
    names : sequence of str, optional
        Names of the features, in feature order, or of the groups, in tree order.  By default they
        are those of the result or of the hierarchy.

    Returns
    -------
    ax : matplotlib Axes
        Bars in tree order from top to bottom, the total above them; each stacks the levels,
        coarsest first and darkest, and the residual D in grey.

    Raises
    ------
    TypeError
        The covariance is no MLR.
    ValueError
        `by` is another word, or there is not one name for each bar.
    IndexError
        The level does not exist.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_variance_shares
    >>> h = Hierarchy.from_labels(["b", "a", "b", "a"])
    >>> A = MLR(h, [np.ones((4, 1))] * 2, np.full(4, 2.0))
    >>> ax = plot_variance_shares(A, level=1)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['total', 'a', 'b']
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['level 0  25%', 'level 1  25%', 'residual  50%']
    >>> plt.close(ax.figure)
    """
    _axes.check_choice(by, "by", ("covariance", "correlation"))
    A = _axes.operand(covariance, "plot_variance_shares", MLR)
    h = A.hierarchy
    parts = np.stack([*(np.square(F, dtype=float).sum(axis=1) for F in A.factors), A.D],
                     axis=1)[h.permutation]
    if by == "correlation":
        parts = parts / parts.sum(axis=1, keepdims=True)
    total = parts.sum(axis=0, keepdims=True)
    labels = _bar_names(covariance, h, level, names)
    if level is not None:
        parts = np.add.reduceat(parts, h.boundaries[level][:-1], axis=0)
    parts, shares = (x / x.sum(axis=1, keepdims=True) for x in (parts, total))
    bars = len(parts)
    ax = _axes.new_axes(ax, figsize=(6, float(np.clip(1.5 + 0.17 * bars, 2.2, 9))))
    thick, gap = max(1.0, 0.04 * bars), max(0.5, 0.02 * bars)  # of the total, and below it
    ax.set_xlim(0, 1)
    ax.set_ylim(bars, -gap - thick)
    rows = np.arange(bars)
    _stack_shares(ax, parts, (rows, rows + 1))
    _stack_shares(ax, shares, ([-gap - thick], [-gap]))
    _name_bars(ax, labels, h, level, -gap - thick / 2)
    ax.set_xticks(np.linspace(0, 1, 5), [f"{x:.0f}%" for x in np.linspace(0, 100, 5)], fontsize=8)
    ax.set_xlabel("share of the variance", fontsize=9)
    _axes.hide_spines(ax, "top", "right", "left")
    names = *(f"level {k}" for k in range(h.n_levels)), "residual"
    colors = *_axes.level_colors(h.n_levels), RESIDUAL
    _axes.legend(ax, {f"{name}  {share:.0%}": color for name, share, color in zip(
        names, shares[0], colors, strict=True)}, above=True)
    return ax


def _bar_names(given, hierarchy, level, names):
    """Names of the bars in tree order."""
    if level is not None:
        p = hierarchy.group_sizes(level).size
        if names is None:
            level %= hierarchy.n_levels
            return [group_name(hierarchy, level, group) for group in range(p)]
        return check_names(names, p)
    return names_in_order(given, hierarchy, names) or list(map(str, hierarchy.permutation))


def _stack_shares(ax, shares, y):
    """Bars between y[0] and y[1], rows of shares that sum to one."""
    ends = np.cumsum(np.insert(shares, 0, 0, axis=1), axis=1)
    width = min(0.8, 0.12 * _axes.row_height(ax))
    for k, color in enumerate((*_axes.level_colors(shares.shape[1] - 1), RESIDUAL)):
        _axes.rectangles(ax, (ends[:, k], ends[:, k + 1]), y, facecolor=color, linewidth=width,
                         edgecolor="white" if width > 0.3 else color)


def _name_bars(ax, labels, hierarchy, level, total):
    """Names of all bars where there is room for letters, else of the coarsest groups."""
    room, ticks = _axes.row_height(ax), np.arange(len(labels)) + 0.5
    size = min(LARGEST, 0.85 * room)
    if size < SMALLEST:
        size, ticks, labels = 9, [], []
        if level is None:
            ticks, labels = _axes.group_labels(hierarchy, room, 9)
    ax.set_yticks([total, *ticks], ["total", *labels], fontsize=size)
    ax.get_yticklabels()[0].set(fontsize=9, fontweight="bold")
    ax.tick_params(axis="y", length=0)
