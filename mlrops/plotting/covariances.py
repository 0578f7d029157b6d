"""Pictures of covariances and of fits of factor models."""

import numpy as np

from ._axes import GRID, LEVEL_COLORS, bare, new_axes

__all__ = ["plot_correlation", "plot_loglik"]


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
    ax = new_axes(ax)
    for number, (label, result) in enumerate(results.items()):
        trace = np.asarray(result.loglik_trace)
        color = LEVEL_COLORS[(3 * number) % len(LEVEL_COLORS)]
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
    ax.grid(color=GRID, linewidth=0.5)
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
    ax = new_axes(ax)
    h = covariance.hierarchy
    scale = 1 / np.sqrt(covariance.diagonal())
    order = h.permutation
    correlation = (covariance.toarray() * scale * scale[:, None])[np.ix_(order, order)]
    bare(ax, h.n, h.n)
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
