"""Pictures of the course of fits: likelihoods, ranks and errors."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from .._common.typing import Axes, Vector
from ..fitting import RankAllocation
from . import _axes

__all__ = ["plot_loglik", "plot_rank_allocation"]

# Lines are told apart by lightness and by dashes as well as by colour; no pale ones on white.
LINE_STYLES = (("#3377a8", "-"), ("#d9703a", "-"), ("#14213d", (0, (5, 1.5))),
               ("#4c9a7d", (0, (6, 1.5, 1.5, 1.5))), ("#7b2d4f", (0, (1.5, 1))), ("#a8a8a8", "-"))
LETTERS = 9  # points


def plot_loglik(results: Any, ax: Axes | None = None, *,
                seconds: Vector | Mapping[str, Vector] | None = None, gap: bool = False) -> Axes:
    """Draw the log-likelihood traces of fits against iterations or seconds.

    Parameters
    ----------
    results : FactorModelResult, SURResult, or dict of str to them
        At most six; anything with a `loglik_trace` will do.
    ax : matplotlib Axes, optional
    seconds : array_like, shape (n_iter + 1,), or dict of str to such, optional
        The time when each entry of the trace was reached, as a callback of the fit may note it.  By
        default traces are drawn against the iteration.
    gap : bool, optional
        Draw the distance of each trace from the best entry of all, in a logarithmic scale.

    Returns
    -------
    ax : matplotlib Axes
        Iterations have a logarithmic scale, seconds a linear one; each trace is named at its end.

    Raises
    ------
    TypeError
        A result has no trace.
    ValueError
        There are no results or more than six, or not as many seconds as entries of a trace.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import fit_factor_model
    >>> from mlrops.plotting import plot_loglik
    >>> Y = np.random.default_rng(0).standard_normal((50, 1)) + np.eye(50, 6)
    >>> ax = plot_loglik({f"rank {r}": fit_factor_model(Y, ranks=r) for r in (1, 2)}, gap=True)
    >>> ax.get_yscale(), len(ax.lines)
    ('log', 2)
    >>> plt.close(ax.figure)
    """
    results = _axes.results_by_label(results, len(LINE_STYLES))
    traces = {label: _trace(result) for label, result in results.items()}
    times = _times(traces, seconds)
    best = max(trace.max() for trace in traces.values())
    ax = _axes.new_axes(ax)
    ends = {}
    for (label, trace), (color, dashes) in zip(traces.items(), LINE_STYLES, strict=False):
        x, y = times[label], best - trace if gap else trace
        if gap:  # the best itself is nowhere in a logarithmic scale
            x, y = x[y > 0], y[y > 0]
        ax.plot(x, y, color=color, linestyle=dashes, linewidth=1.8, label=str(label),
                marker="o" if x.size == 1 else None)
        if x.size:
            ends[label] = x[-1], y[-1], color
    _name_traces(ax, traces, ends, (seconds is None, gap))
    ax.set_xlabel("update + 1" if seconds is None else "seconds")
    ax.set_ylabel("log-likelihood a sample, below the best" if gap else "log-likelihood a sample")
    ax.grid(color=_axes.GRID, linewidth=0.5)
    _axes.hide_spines(ax, "top", "right")
    return ax


def _trace(result):
    trace = getattr(result, "loglik_trace", None)
    if trace is None:
        raise TypeError("plot_loglik expects results with a loglik_trace, or a dict of them, got"
                        f" {type(result).__name__}")
    return np.asarray(trace, float)


def _times(traces, seconds):
    """Where the entries of every trace stand."""
    if seconds is None:
        return {label: np.arange(1, trace.size + 1) for label, trace in traces.items()}
    if not isinstance(seconds, dict):
        seconds = dict.fromkeys(traces, seconds) if len(traces) == 1 else {}
    times = {}
    for label, trace in traces.items():
        times[label] = np.asarray(seconds.get(label, ()), float)
        if times[label].shape != trace.shape:
            raise ValueError(f"seconds must hold {trace.size} for the trace of {label or 'the fit'}"
                             f", one an entry, got {times[label].size}")
    return times


def _name_traces(ax, traces, ends, scales):
    """The name and last entry of every trace at its end, one below another where they meet."""
    low = _axes.points_of(ax)[1] < 2.6 * LETTERS * len(ends)
    between = "  " if low else "\n"
    texts = {label: f"{label}{between if label != '' else ''}{traces[label][-1]:.2f}"
             for label in ends}
    longest = max((_axes.text_width(line, LETTERS) for text in texts.values()
                   for line in text.split("\n")), default=0)
    _scale_traces(ax, longest + 14, *scales)
    height, least = _axes.points_of(ax)[1], (1.25 if low else 2.6) * LETTERS
    at = {label: ax.transAxes.inverted().transform(ax.transData.transform(end[:2]))[1] * height
          for label, end in ends.items()}
    order = sorted(at, key=at.get)
    places = _axes.spread_apart([at[label] for label in order], least, least / 2,
                                height - least / 2)
    for label, place in zip(order, places, strict=True):
        x, y, color = ends[label]
        # Out of the layout: as room for them is inside of the axes.
        ax.annotate(texts[label], (x, y), xytext=(6, place - at[label]), color=color, va="center",
                    textcoords="offset points", fontsize=LETTERS, parse_math=False,
                    in_layout=False)


def _scale_traces(ax, room, iterations, gap):
    """Scales and limits, with `room` points on the right for the labels at the ends."""
    points = np.concatenate([line.get_xydata() for line in ax.lines])
    points = points if points.size else np.ones((1, 2))
    last, (low, high) = points[:, 0].max(), np.quantile(points[:, 1], [0, 1])
    wider = 1 / (1 - min(room / _axes.points_of(ax)[0], 0.6))
    if iterations:
        ax.set_xscale("log")
        ax.set_xlim(0.8, 0.8 * (max(last, 2) / 0.8)**wider)
    else:
        ax.set_xlim(-0.02 * last, last * wider)
    if gap:
        ax.set_yscale("log")
        ax.set_ylim(low / 2, high * 2)
    else:
        above = 0.08 * (high - low) or 0.5
        ax.set_ylim(low - above, high + above)


def plot_rank_allocation(result: RankAllocation, ax: Axes | None = None, *,
                         kind: Literal["stack", "heat"] = "stack",
                         error_ax: Axes | None = None) -> Axes:
    """Draw the ranks of all levels after each step of a search that shares a total rank out.

    Parameters
    ----------
    result : RankAllocation
    ax : matplotlib Axes, optional
        Axes of the ranks.  By default they are those of a new figure, which has axes for the errors
        above.
    kind : {"stack", "heat"}, optional
        Ranks that are stacked to the total; or a row of cells for each level, the darker the larger
        its rank, with the rank written where it changes and there is room.
    error_ax : matplotlib Axes, optional
        Axes of the errors; with `ax` alone only the first and the last error are given, in the
        title.

    Returns
    -------
    ax : matplotlib Axes
        The axes of the ranks, with the coarsest level at the bottom of a stack and darkest, or in
        the top row.  Levels that have a rank in the end are named at the right.  The title, above
        the errors where they are drawn, has the first and the last of them.

    Raises
    ------
    TypeError
        The result is no RankAllocation.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops import allocate_ranks
    >>> from mlrops.plotting import plot_rank_allocation
    >>> x = np.linspace(0, 1, 32)
    >>> fit = allocate_ranks(np.exp(-np.abs(x[:, None] - x)), 4, Hierarchy.balanced(32, [1, 2, 4]))
    >>> ax = plot_rank_allocation(fit)
    >>> len(ax.collections)
    3
    >>> plt.close(ax.figure)
    """
    _axes.check_choice(kind, "kind", ("stack", "heat"))
    if not isinstance(result, RankAllocation):
        raise TypeError("plot_rank_allocation expects a RankAllocation, got"
                        f" {type(result).__name__}")
    error_ax = None if error_ax is None else _axes.new_axes(error_ax)
    if ax is None and error_ax is None:
        error_ax, ax = _axes.new_axes(None, nrows=2, sharex=True, height_ratios=[1, 2.4],
                                      figsize=(6.4, 5))
    ax = _axes.new_axes(ax)
    ranks = np.array([r for r, _ in result.history])
    errors = np.array([error for _, error in result.history])
    # A state lasts until the next one: n states have n + 1 edges.
    edges = np.arange(len(ranks) + 1) - 0.5
    (_stack if kind == "stack" else _heat)(ax, ranks, edges)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("step")
    _axes.whole_ticks(ax.xaxis)
    (error_ax or ax).set_title(f"error {errors[0]:.3g} to {errors[-1]:.3g}", fontsize=9)
    if error_ax is not None:
        error_ax.step(edges, np.append(errors, errors[-1]), where="post", color=_axes.INK,
                      linewidth=1.5)
        error_ax.set(xlim=(edges[0], edges[-1]), ylim=(0, None), ylabel="relative error")
        _axes.whole_ticks(error_ax.xaxis)
        error_ax.grid(axis="y", color=_axes.GRID, linewidth=0.5)
        _axes.hide_spines(error_ax, "top", "right")
    return ax


def _stack(ax, ranks, edges):
    tops = np.cumsum(ranks, axis=1)
    L = ranks.shape[1]
    named, room = [], _axes.points_of(ax)[1] / max(tops[0, -1], 1)
    for level, color in enumerate(_axes.level_colors(L)):
        low, high = (np.append(t, t[-1]) for t in (tops[:, level] - ranks[:, level],
                                                   tops[:, level]))
        ax.fill_between(edges, low, high, step="post", facecolor=color, edgecolor="white",
                        linewidth=0.6, label=f"level {level}")
        if ranks[-1, level]:
            named.append((f"{level}: {ranks[-1, level]}", (low[-1] + high[-1]) / 2))
    places = _axes.spread_apart([y * room for _, y in named], 10)
    for (text, y), place in zip(named, places, strict=True):
        ax.annotate(text, (edges[-1], y), xytext=(4, place - y * room), fontsize=8, va="center",
                    textcoords="offset points", annotation_clip=False)
    ax.set_ylim(0, max(tops[0, -1], 1))
    ax.set_ylabel("rank, by level")
    _axes.whole_ticks(ax.yaxis)
    _axes.hide_spines(ax, "top", "right")


def _heat(ax, ranks, edges):
    steps, L = ranks.shape
    image = ax.imshow(ranks.T, cmap="YlGnBu", vmin=0, vmax=max(ranks.max(), 1), aspect="auto",
                      extent=(edges[0], edges[-1], L - 0.5, -0.5), interpolation="nearest")
    ax.set_yticks(np.arange(L), [f"level {level}" for level in range(L)],
                  fontsize=float(np.clip(0.7 * _axes.points_of(ax)[1] / L, 4, 9)))
    ax.tick_params(axis="y", length=0)
    across, down = _axes.points_of(ax)[0] / steps, _axes.points_of(ax)[1] / L
    if across >= 11 and down >= 9:
        for step, level in np.argwhere(np.diff(ranks, axis=0, prepend=-1)):
            ax.text(step, level, str(ranks[step, level]), fontsize=7, ha="center", va="center",
                    color=_axes.ink_on(image.cmap(image.norm(ranks[step, level]))))
    for level in np.flatnonzero(ranks[-1]):
        ax.annotate(str(ranks[-1, level]), (edges[-1], level), xytext=(4, 0), fontsize=8,
                    textcoords="offset points", va="center", annotation_clip=False)
    _axes.color_bar(image, ax, pad=0.06, label="rank")
    _axes.hide_spines(ax)
