"""Pictures of systems of regressions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._common.typing import Axes
from .._common.wording import name_some
from ..regression import SURResult
from . import _axes

__all__ = ["plot_coefficients"]

# Of several results in one picture: told apart by lightness and shape as well as by colour.
_RESULT_STYLES = (("#e08e1b", "D"), ("#1b3a5c", "o"), ("#86cbc9", "s"), ("#a03a5c", "^"),
                  ("#777777", "v"))
_MOST_PANELS = 12


def plot_coefficients(
    results: SURResult | Mapping[str, SURResult], regressors: Sequence[str] | str | None = None,
    axes: Sequence[Axes] | npt.NDArray[Any] | None = None, alpha: float = 0.05,
) -> npt.NDArray[Any]:
    """Draw coefficients of systems of regressions with confidence intervals, a panel a regressor.

    Parameters
    ----------
    results : SURResult, or dict of str to SURResult
        At most five fits of the same equations, in any order.  The dots that several fits have for
        an equation stand below one another in the order of the dict.
    regressors : sequence of str, optional
        By default all regressors, at most twelve, in the order of their appearance.
    axes : sequence of matplotlib Axes, optional
        One for each regressor.  By default they are those of a new figure, which is as high as the
        equations need, up to 12 inches.
    alpha : float, default 0.05
        Intervals have the level ``1 - alpha``.

    Returns
    -------
    axes : ndarray of matplotlib Axes, shape (number of regressors,)

    Raises
    ------
    ValueError
        The results have different equations, no equation has one of the regressors, or there are
        not as many axes as regressors.

    Notes
    -----
    Equations run from top to bottom in the order of the tree of the first result that has one, with
    lines between its groups.  The names of the coarsest groups stand at the right of the last
    panel.  Equations are named where there is room for letters.  The place of an equation without
    the regressor stays empty.  If a panel does not show zero, all its coefficients are far from it.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from mlrops.datasets import simulate_sur
    >>> from mlrops import als_gls
    >>> from mlrops.plotting import plot_coefficients
    >>> sim = simulate_sur(6, 2, ranks=1, n_samples=100, random_state=0)
    >>> fits = {f"rank {r}": als_gls(sim.Xs, sim.Y, r) for r in (0, 1)}
    >>> axes = plot_coefficients(fits)
    >>> [ax.get_title() for ax in axes]
    ['0', '1']
    >>> plt.close(axes[0].figure)
    """
    fits = _axes.results_by_label(results, len(_RESULT_STYLES))
    tables = {label: _coefficients(fit, alpha) for label, fit in fits.items()}
    equations = _same_equations(fits)
    label, hierarchy = next(((label, fit.covariance.hierarchy) for label, fit in fits.items()
                             if getattr(fit.covariance, "hierarchy", None) is not None
                             and fit.covariance.hierarchy.n_levels > 1), (None, None))
    named = list(next(iter(equations.values())))
    if hierarchy is not None:
        named = [equations[label][j] for j in hierarchy.permutation]
    known = list(dict.fromkeys(name for table in tables.values() for _, name in table))
    regressors = _check_regressors(regressors, known)
    panels = (_panels(len(regressors), len(named)) if axes is None
              else _axes.new_panels(axes, len(regressors), "regressors"))
    for ax, regressor in zip(panels, regressors, strict=True):
        _draw_coefficients(ax, tables, named, regressor)
        if hierarchy is not None:
            _separate_groups(ax, hierarchy)
    for place in sorted(set(map(_row, panels))):
        row = [ax for ax in panels if _row(ax) == place]
        _name_equations(row, named)
        if hierarchy is not None:
            labels = _axes.group_labels(hierarchy, _axes.row_height(row[-1]), 8)
            for middle, name in zip(*labels, strict=True):
                row[-1].text(1.03, middle, name, transform=row[-1].get_yaxis_transform(),
                             fontsize=9, va="center", ha="left")
    if len(tables) > 1:
        _name_results(panels[0], len(tables), axes is None)
    if axes is None:
        panels[0].figure.supxlabel(f"coefficient and {100 * (1 - alpha):g}% interval", fontsize=9)
    return panels


def _name_results(ax, number, outside):
    """A legend of the results above a figure of its own, or below the first of the axes given."""
    handles = ax.get_legend_handles_labels()
    style = {"fontsize": 9, "ncols": number, "frameon": False}
    if outside:
        legend = ax.figure.legend(*handles, loc="outside upper left", **style)
    else:  # below the ticks, where no dots are
        legend = ax.legend(*handles, loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=2.5,
                           **style)
    for handle in legend.legend_handles:
        handle.set_markersize(5)


def _coefficients(fit, alpha):
    """``{(equation, regressor): (coefficient, low, high)}`` of a result."""
    found = fit.inference
    return {pair: (b, *ends) for pair, b, ends
            in zip(fit.names.coefficients(), found.params, found.conf_int(alpha), strict=True)}


def _same_equations(results):
    equations = {label: fit.names.equations for label, fit in results.items()}
    (first, names), *others = equations.items()
    for label, other in others:
        if set(other) != set(names):
            lacks = [name for name in names if name not in set(other)]
            raise ValueError(f"results must have the same equations, {label} and {first} differ"
                             f" ({name_some(lacks or [x for x in other if x not in set(names)])})")
    return equations


def _check_regressors(regressors, known):
    if regressors is None:
        if len(known) > _MOST_PANELS:
            raise ValueError(f"there are {len(known)} regressors, at most {_MOST_PANELS} are drawn"
                             " unasked: choose some by regressors=")
        return known
    regressors = [regressors] if isinstance(regressors, str) else list(map(str, regressors))
    for name in regressors:
        if name not in known:
            raise ValueError(f"no equation has a regressor {name}; there are"
                             f" {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}")
    if not regressors:
        raise ValueError("regressors must name at least one, got none")
    return regressors


def _panels(number, equations):
    """Axes of a new figure, at most five beside one another."""
    across = min(number, 5)
    down = -(-number // across)
    height = min(max(0.2 * equations, 1.5), 11)
    grid = _axes.new_axes(None, nrows=down, ncols=across, squeeze=False, sharey=True,
                          layout="constrained",
                          figsize=(max(2 + 2 * across, 5), 1 + height * down)).ravel()
    for ax in grid[number:]:
        ax.remove()
    return grid[:number]


def _row(ax):
    """Where an Axes begins from above; those of one row share the names of the equations."""
    return -round(ax.get_position(original=True).y1, 3)


def _draw_coefficients(ax, tables, equations, regressor):
    ax.set_ylim(len(equations), 0)
    size = _axes.row_height(ax)
    thick, number = np.clip(0.12 * size, 0.5, 1.5), len(tables)
    # Distances of the dots of an equation from its middle.
    offsets = (np.arange(number) - (number - 1) / 2) * 0.66 / max(number, 2)
    for (label, table), (color, marker), offset in zip(tables.items(), _RESULT_STYLES, offsets,
                                                       strict=False):
        if number == 1:
            color, marker = _RESULT_STYLES[1]
        at = [i for i, name in enumerate(equations) if (name, regressor) in table]
        b, low, high = np.array([table[equations[i], regressor] for i in at]).reshape(-1, 3).T
        y = np.array(at) + 0.5 + offset
        ax.hlines(y, low, high, color=color, linewidth=thick)
        ax.plot(b, y, linestyle="none", marker=marker, color=color, label=label,
                markersize=np.clip((0.42 if number == 1 else 0.36) * size, 1.5, 4.5))
    left, right = ax.get_xlim()
    if left - 0.2 * (right - left) < 0 < right + 0.2 * (right - left):
        ax.axvline(0, color="#555555", linewidth=0.8, zorder=0)
    ax.set_title(regressor, fontsize=10)
    ax.tick_params(axis="x", labelsize=8)
    ax.xaxis.get_major_locator().set_params(nbins=4)
    ax.grid(axis="x", color=_axes.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    _axes.hide_spines(ax, "top", "right", "left")


def _separate_groups(ax, hierarchy):
    """Lines between the groups, the thicker the coarser."""
    drawn = {0, hierarchy.n}
    coarsest = True
    for offsets in hierarchy.boundaries:
        new = [x for x in offsets.tolist() if x not in drawn]
        if new:
            ax.hlines(new, 0, 1, transform=ax.get_yaxis_transform(), zorder=0,
                      color="#333333" if coarsest else "#9aa3af",
                      linewidth=1.0 if coarsest else 0.5)
            drawn.update(new)
            coarsest = False


def _name_equations(row, equations):
    first, size = row[0], _axes.row_height(row[0])
    equations = [name if len(name) <= 24 else name[:22] + "..." for name in equations]
    room = size >= 5
    for ax in row:
        ax.tick_params(axis="y", length=0, labelleft=room and ax is first)
    first.set_yticks(np.arange(len(equations)) + 0.5 if room else [], equations if room else [],
                     fontsize=min(9, 0.85 * size))
    for ax in row[1:]:
        if not room or not ax.get_shared_y_axes().joined(ax, first):
            ax.set_yticks([])
