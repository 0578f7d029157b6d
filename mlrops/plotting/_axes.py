"""What all pictures share: axes, colours, room for letters, names of groups."""

import numpy as np

__all__ = ["GRID", "INK", "LEVEL_COLORS", "bare", "check_choice", "color_bar",
           "draw_pixels", "group_labels", "hide_spines", "ink_on", "legend", "level_colors",
           "named_level", "new_axes", "new_panels", "operand", "outline", "points_of", "rectangles",
           "results_by_label", "row_height", "spread_apart", "text_width",
           "whole_ticks"]

# From dark to light in steps of lightness that grey leaves apart, and apart without red or green.
LEVEL_COLORS = ("#14213d", "#7b2d4f", "#3377a8", "#d9703a", "#6fbf9f", "#efcf5b")
GRID = "#c9ced6"
INK = "#222222"


def level_colors(count):
    """A colour a level, coarsest and darkest first; beyond six levels steps of a colour map."""
    if count <= len(LEVEL_COLORS):
        return LEVEL_COLORS[:count]
    import matplotlib

    from_map = matplotlib.colormaps["cividis"](np.linspace(0.02, 0.98, count))
    return tuple(map(matplotlib.colors.to_hex, from_map))


def ink_on(color):
    """The colour of letters on a colour."""
    from matplotlib.colors import to_rgb

    return INK if np.dot(to_rgb(color), (0.299, 0.587, 0.114)) > 0.5 else "white"


def _pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plotting needs matplotlib: python -m pip install "mlrops[plot]"') from error
    return plt


def new_axes(ax, **kwargs):
    """The axes given, or those of a new figure."""
    plt = _pyplot()
    if ax is None:
        return plt.subplots(**{"layout": "constrained", **kwargs})[1]
    if not isinstance(ax, plt.Axes):
        raise TypeError(f"ax must be a matplotlib Axes, got {type(ax).__name__}")
    return ax


def new_panels(axes, number, what, **kwargs):
    """The `number` axes given, as an array, or those of a new figure, beside one another."""
    plt = _pyplot()
    if axes is None:
        kwargs = {"layout": "constrained", "ncols": number, "squeeze": False, **kwargs}
        return plt.subplots(**kwargs)[1].ravel()
    axes = np.ravel(np.asarray(axes, object))
    if len(axes) != number:
        raise ValueError(f"axes must hold one for each of {number} {what}, got {len(axes)}")
    for ax in axes:
        if not isinstance(ax, plt.Axes):
            raise TypeError(f"axes must hold matplotlib Axes, got {type(ax).__name__}")
    return axes


def operand(given, caller, *kinds):
    """The operator given, or the one a result holds, of one of the kinds."""
    for holder in ("covariance", "operator"):
        inside = getattr(given, holder, None)
        if not isinstance(given, kinds) and isinstance(inside, kinds):
            return inside
    if not isinstance(given, kinds):
        names = [kind.__name__ for kind in kinds]
        wanted = " or ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
        raise TypeError(f"{caller} expects an {wanted}, or a result that holds one, got"
                        f" {type(given).__name__}")
    return given


def results_by_label(results, most):
    """A dict of results, of which there are one to `most`; a single one has no label."""
    results = results if isinstance(results, dict) else {"": results}
    if not 1 <= len(results) <= most:
        raise ValueError(f"results must be one to {most} fits, got {len(results)}")
    return results


def check_choice(value, what, choices):
    if value not in choices:
        wanted = ", ".join(map(repr, choices[:-1]))
        raise ValueError(f"{what} must be {wanted} or {choices[-1]!r}, got {value!r}")


def bare(ax, m, n, aspect="equal"):
    """An m by n matrix: no ticks, rows downwards."""
    ax.set_xlim(0, n)
    ax.set_ylim(m, 0)
    ax.set_aspect(aspect)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(GRID)


def hide_spines(ax, *sides):
    """Draw no lines at these sides of axes, by default at any side."""
    for side in sides or tuple(ax.spines):
        ax.spines[side].set_visible(False)


def whole_ticks(axis):
    """Put ticks at whole numbers only."""
    axis.get_major_locator().set_params(integer=True)


def draw_pixels(ax, pixels, m, n, **style):
    """An array as the picture of an m by n matrix."""
    return ax.imshow(pixels, **{"cmap": "YlGnBu", "extent": (0, n, m, 0),
                                "interpolation": "nearest", **style})


def rectangles(ax, x, y, **style):
    """Draw rectangles, given arrays of (left, right) and of (top, bottom)."""
    from matplotlib.collections import PolyCollection

    (left, right), (top, bottom) = x, y
    corners = np.stack([np.stack([left, right, right, left], axis=1),
                        np.stack([top, top, bottom, bottom], axis=1)], axis=2)
    return ax.add_collection(PolyCollection(corners, **style))


def outline(ax, y, x, **style):
    """The diagonal blocks between the offsets y of rows and x of columns."""
    return rectangles(ax, (x[:-1], x[1:]), (y[:-1], y[1:]), **style)


def color_bar(image, axes, **kwargs):
    """A colour bar beside axes of one figure."""
    figure = np.ravel(np.asarray(axes, object))[0].figure
    bar = figure.colorbar(image, ax=axes, **{"fraction": 0.046, "pad": 0.03, **kwargs})
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.label.set_size(8)
    return bar


def points_of(ax):
    """Width and height of axes in points, as they stand now."""
    ax.apply_aspect()
    box = ax.get_window_extent()
    return box.width / ax.figure.dpi * 72, box.height / ax.figure.dpi * 72


def row_height(ax):
    """Points that a row of axes with a unit a row is high, as they stand now."""
    return points_of(ax)[1] / abs(np.subtract(*ax.get_ylim()))


def text_width(text, size):
    """Width of a line of letters in points."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text.replace("$", "S"), size=size).get_extents().width if text else 0


def legend(ax, entries, above=False):
    """A legend of patches, ``{label: color}``, below or above axes and no wider than they are."""
    from matplotlib.patches import Patch

    if not entries:
        return
    widest = max(text_width(label, 8) for label in entries)
    columns = int(np.clip(points_of(ax)[0] // (widest + 24), 1, min(4, len(entries))))
    place = dict(loc="lower left", bbox_to_anchor=(0, 1)) if above else dict(
        loc="upper center", bbox_to_anchor=(0.5, -0.01))
    ax.legend([Patch(facecolor=color) for color in entries.values()], list(entries), fontsize=8,
              frameon=False, borderaxespad=0.2, handlelength=1, handleheight=1, ncols=columns,
              handletextpad=0.5, columnspacing=1.2, **place)


def spread_apart(centres, least, low=-np.inf, high=np.inf):
    """Move increasing numbers as little as it takes for them to be `least` apart.

    Then as far as it takes for them to be at most `high`, and at last for them to be at least
    `low`.
    """
    # Runs of numbers that touch are placed around the mean of where they want to be.
    runs = []  # (first, count)
    for centre in centres:
        first, count = centre, 1
        while runs and first - (runs[-1][0] + (runs[-1][1] - 1) * least) < least:
            before, size = runs.pop()
            first = (before * size + (first - size * least) * count) / (size + count)
            count += size
        runs.append((first, count))
    steps = least * np.arange(len(centres))
    places = np.concatenate([first + steps[:count] for first, count in runs] or [steps])
    return np.maximum(np.minimum(places, high - steps[::-1]), low + steps)


def named_level(hierarchy):
    """The coarsest level of several groups, or None."""
    return next((level for level, p in enumerate(hierarchy.group_counts) if p > 1), None)


def group_labels(hierarchy, room, least):
    """Middles and names of the coarsest groups as high as `least` points; a row has `room`."""
    level = named_level(hierarchy)
    names = None if level is None else hierarchy.names(level)
    if names is None:
        return np.empty(0), []
    offsets = hierarchy.boundaries[level]
    seen = np.diff(offsets) * room >= least
    return ((offsets[:-1] + offsets[1:]) / 2)[seen], [
        str(name) for name, fits in zip(names, seen, strict=True) if fits]
