"""Pictures of covariances and fits.  Needs matplotlib (``pip install mlrops[plot]``)."""

import numpy as np

__all__ = ["plot_correlation", "plot_levels", "plot_loglik"]

_LEVEL_COLORS = ("#1b4965", "#2a9d8f", "#e9a23b", "#d1495b", "#6d597a", "#577590")
_GRID = "#c9ced6"


def _axes(ax, **kwargs):
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plotting needs matplotlib: python -m pip install "mlrops[plot]"') from error
    return plt.subplots(**kwargs)[1]


def _bare(ax, n):
    ax.set_xlim(0, n)
    ax.set_ylim(n, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(_GRID)


def plot_levels(covariance, axes=None):
    """Draw which entries each level of an MLR matrix fills, one square a level, then the diagonal.

    Parameters
    ----------
    covariance : MLR
    axes : sequence of L + 1 matplotlib Axes, optional

    Returns
    -------
    axes : sequence of matplotlib Axes
        Features in tree order, coarsest level first; a level of rank 0 is only outlined.

    Examples
    --------
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_levels
    >>> h = Hierarchy.balanced(8, (1, 4))
    >>> A = MLR(h, [np.ones((8, 1)), np.ones((8, 1))], np.ones(8))
    >>> len(plot_levels(A))
    3
    """
    h = covariance.hierarchy
    axes = _axes(axes, ncols=h.n_levels + 1, figsize=(3 * (h.n_levels + 1), 3))
    for level, (ax, rank) in enumerate(zip(axes, covariance.ranks, strict=False)):
        _bare(ax, h.n)
        color = _LEVEL_COLORS[level % len(_LEVEL_COLORS)]
        offsets = h.boundaries[level]
        for a, b in zip(offsets[:-1], offsets[1:], strict=True):
            ax.fill([a, b, b, a], [a, a, b, b], facecolor=color if rank else "none",
                    edgecolor="white" if rank else color, linewidth=1)
        groups = offsets.size - 1
        ax.set_title(f"level {level}: {groups} group{'s' if groups > 1 else ''}, rank {rank}",
                     fontsize=9)
    ax = axes[h.n_levels]
    _bare(ax, h.n)
    ax.plot([0, h.n], [0, h.n], color="#33415c", linewidth=2)
    ax.set_title("diagonal D", fontsize=9)
    return axes


def plot_loglik(results, ax=None):
    """Draw the log-likelihood traces of fits, above the lowest start, against the iteration.

    Parameters
    ----------
    results : dict of str to FactorModelResult
    ax : matplotlib Axes, optional

    Returns
    -------
    ax : matplotlib Axes
    """
    ax = _axes(ax)
    for number, (label, result) in enumerate(results.items()):
        trace = np.asarray(result.loglik_trace)
        color = _LEVEL_COLORS[(3 * number) % len(_LEVEL_COLORS)]
        steps = np.arange(1, trace.size + 1)
        ax.plot(steps, trace, color=color, linewidth=1.8)
        ax.annotate(f"{label}\n{trace[-1]:.2f}", (steps[-1], trace[-1]), xytext=(6, 0),
                    textcoords="offset points", color=color, fontsize=9, va="center")
    ax.set_xscale("log")
    # Room on the right for the labels at the ends of the curves.
    longest = max(len(r.loglik_trace) for r in results.values())
    ax.set_xlim(0.8, longest**1.35 + 4)
    ax.set_xlabel("EM iteration + 1")
    ax.set_ylabel("log-likelihood a sample")
    low = min(r.loglik_trace[0] for r in results.values())
    high = max(r.loglik_trace[-1] for r in results.values())
    ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    ax.grid(color=_GRID, linewidth=0.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def plot_correlation(covariance, names=None, ax=None):
    """Draw the correlation matrix of an MLR covariance in tree order, groups outlined.

    Parameters
    ----------
    covariance : MLR
        Drawn densely: meant for up to a few thousand features.
    names : sequence of str, optional
        Names of the features, in feature order.
    ax : matplotlib Axes, optional

    Returns
    -------
    ax : matplotlib Axes
    """
    ax = _axes(ax)
    h = covariance.hierarchy
    scale = 1 / np.sqrt(covariance.diagonal())
    order = h.permutation
    correlation = (covariance.toarray() * scale * scale[:, None])[np.ix_(order, order)]
    _bare(ax, h.n)
    # A scale around zero only where there is something on both sides of it.
    low, cmap = (-1, "RdBu_r") if correlation.min() < 0 else (0, "YlGnBu")
    image = ax.imshow(correlation, vmin=low, vmax=1, cmap=cmap, extent=(0, h.n, h.n, 0),
                      interpolation="nearest")
    for level in range(1, h.n_levels):
        offsets = h.boundaries[level]
        for a, b in zip(offsets[:-1], offsets[1:], strict=True):
            ax.plot([a, b, b, a, a], [a, a, b, b, a], color="#222222",
                    linewidth=1.6 / level)
    if names is not None:
        ticks = np.arange(h.n) + 0.5
        labels = [names[i] for i in order]
        ax.set_yticks(ticks, labels, fontsize=6)
        ax.set_xticks(ticks, labels, fontsize=6, rotation=90)
        ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    return ax
