"""Pictures of covariances: correlations, and the variance that each level explains."""

import numpy as np

from .._common.wording import counted
from ..operators import MLR, MLRInverse
from ._axes import (
    INK,
    bare,
    check_choice,
    color_bar,
    legend,
    level_colors,
    named_level,
    new_axes,
    operand,
    outline,
    points_of,
    rectangles,
    text_width,
)
from .hierarchies import check_names, feature_names, group_name

__all__ = ["plot_correlation", "plot_variance_shares"]

RESIDUAL = "#d4d4d4"
SMALLEST, LARGEST = 5, 8  # points, of names of features


def plot_correlation(covariance, names=None, ax=None, *, groups=None):
    """Draw the correlation matrix of an MLR covariance in tree order, groups outlined.

    Parameters
    ----------
    covariance : MLR or MLRInverse
        Or a result that holds one as `covariance`.  Drawn densely: meant for up to a few thousand
        features.
    names : sequence of str, optional
        Names of the features, in feature order; written where there is room for letters.  Default
        those of the result or of the hierarchy.  Give ``()`` for none.
    ax : matplotlib Axes, optional
    groups : sequence of str, optional
        Names of the groups of the coarsest level that has several, in tree order, written above
        them; default those of the hierarchy where it has labels.  Give ``()`` for none.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    TypeError
        Another covariance.
    ValueError
        Other than a name for each feature or group.

    Notes
    -----
    Colours grow darker from 0, or from the smallest correlation, rounded down to tenths, where
    there are negative ones, to 1: grey tells all of them apart.

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
    given, covariance = covariance, operand(covariance, "plot_correlation", MLR, MLRInverse)
    h = covariance.hierarchy
    names = feature_names(given, h, names)
    groups = _group_names(h, groups)
    ax = new_axes(ax, figsize=(5.8, 4.9))
    scale = 1 / np.sqrt(covariance.diagonal())
    order = h.permutation
    correlation = (covariance.toarray() * scale * scale[:, None])[np.ix_(order, order)]
    bare(ax, h.n, h.n)
    low = min(0, np.floor(10 * correlation.min()) / 10)  # a round number on the colour bar
    image = ax.imshow(correlation, vmin=low, vmax=1, cmap="YlGnBu", extent=(0, h.n, h.n, 0),
                      interpolation="nearest" if h.n <= 400 else "antialiased")
    for level in range(1, h.n_levels):
        room = points_of(ax)[0] / h.group_counts[level]
        if room >= 3:  # lines would hide smaller groups
            offsets = h.boundaries[level]
            outline(ax, offsets, offsets, facecolor="none", edgecolor=INK,
                    linewidth=min(1.6 / level, room / 6))
    point = points_of(ax)[0] / h.n
    size = min(LARGEST, 0.85 * point)
    if names is not None and size >= SMALLEST:
        ticks, labels = np.arange(h.n) + 0.5, [names[i] for i in order]
        ax.set_yticks(ticks, labels, fontsize=size)
        ax.set_xticks(ticks, labels, fontsize=size, rotation=90)
        ax.tick_params(length=0)
    color_bar(image, ax)
    if groups:
        _name_above(ax, groups, h.boundaries[named_level(h)])
    return ax


def _group_names(hierarchy, groups):
    level = named_level(hierarchy)
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
    point = points_of(ax)[0] / offsets[-1]
    wide = np.diff(offsets) * point >= 8
    fit = min(((b - a) * point - 4) / text_width(name, 9) for name, a, b in zip(
        groups, offsets[:-1], offsets[1:], strict=True))  # of letters of 9 points
    above = ax.secondary_xaxis("top")
    above.set_xticks(((offsets[:-1] + offsets[1:]) / 2)[wide],
                     [name for name, fits in zip(groups, wide, strict=True) if fits],
                     **(dict(fontsize=min(9, 9 * fit)) if fit > 0.66 else
                        dict(fontsize=8, rotation=90)))
    above.tick_params(length=0)
    above.spines["top"].set_visible(False)


def plot_variance_shares(covariance, ax=None, *, level=None, by="covariance", names=None):
    """Draw the share of the variance that each level explains, of features or of groups.

    Parameters
    ----------
    covariance : FactorModelResult or MLR
        Or another result whose `covariance` is an MLR.
    ax : matplotlib Axes, optional
    level : int, optional
        A bar for each group of this level; default a bar for each feature.
    by : {"covariance", "correlation"}, optional
        Whether the bars of groups and of the total share out the variance of their features, or
        count every feature the same; see `FactorModelResult.variance_shares`.
    names : sequence of str, optional
        Names of the features, in feature order, or of the groups, in tree order.  Default those of
        the result or of the hierarchy.

    Returns
    -------
    ax : matplotlib Axes
        Bars in tree order from top to bottom, the total above them; each stacks the levels,
        coarsest first and darkest, and the residual D in grey.

    Raises
    ------
    TypeError
        No MLR.
    ValueError
        Another `by`, or other than a name for each bar.
    IndexError
        A level that does not exist.

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
    check_choice(by, "by", ("covariance", "correlation"))
    A = operand(covariance, "plot_variance_shares", MLR)
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
    ax = new_axes(ax, figsize=(6, float(np.clip(1.5 + 0.17 * bars, 2.2, 9))))
    thick, gap = max(1.0, 0.04 * bars), max(0.5, 0.02 * bars)  # of the total, and below it
    ax.set_xlim(0, 1)
    ax.set_ylim(bars, -gap - thick)
    rows = np.arange(bars)
    _stack_shares(ax, parts, (rows, rows + 1))
    _stack_shares(ax, shares, ([-gap - thick], [-gap]))
    _name_bars(ax, labels, h, level, -gap - thick / 2)
    ax.set_xticks(np.linspace(0, 1, 5), [f"{x:.0f}%" for x in np.linspace(0, 100, 5)], fontsize=8)
    ax.set_xlabel("share of the variance", fontsize=9)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    names = *(f"level {k}" for k in range(h.n_levels)), "residual"
    colors = *level_colors(h.n_levels), RESIDUAL
    legend(ax, {f"{name}  {share:.0%}": color for name, share, color in zip(
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
    names = feature_names(given, hierarchy, names) or list(map(str, range(hierarchy.n)))
    return [names[i] for i in hierarchy.permutation]


def _stack_shares(ax, shares, y):
    """Bars between y[0] and y[1], rows of shares that sum to one."""
    ends = np.cumsum(np.insert(shares, 0, 0, axis=1), axis=1)
    room = points_of(ax)[1] / abs(np.subtract(*ax.get_ylim()))
    width = min(0.8, 0.12 * room)
    for k, color in enumerate((*level_colors(shares.shape[1] - 1), RESIDUAL)):
        rectangles(ax, (ends[:, k], ends[:, k + 1]), y, facecolor=color, linewidth=width,
                   edgecolor="white" if width > 0.3 else color)


def _name_bars(ax, labels, hierarchy, level, total):
    """Names of all bars where there is room for letters, else of the coarsest groups."""
    room = points_of(ax)[1] / abs(np.subtract(*ax.get_ylim()))
    size = min(LARGEST, 0.85 * room)
    ticks = np.arange(len(labels)) + 0.5
    if size < SMALLEST:
        ticks, labels, size = _coarsest(hierarchy, room) if level is None else ([], [], 8)
    ax.set_yticks([total, *ticks], ["total", *labels], fontsize=size)
    ax.get_yticklabels()[0].set(fontsize=9, fontweight="bold")
    ax.tick_params(axis="y", length=0)


def _coarsest(hierarchy, room):
    """Middles and names of the coarsest groups that are high enough for letters, and their size."""
    level = named_level(hierarchy)
    if level is None or hierarchy.names(level) is None:
        return [], [], 8
    offsets = hierarchy.boundaries[level]
    high = np.diff(offsets) * room >= 9
    names = [str(name) for name, fits in zip(hierarchy.names(level), high, strict=True) if fits]
    return ((offsets[:-1] + offsets[1:]) / 2)[high], names, 9
