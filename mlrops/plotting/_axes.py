"""What all pictures share."""

__all__ = ["GRID", "LEVEL_COLORS", "bare", "new_axes"]

LEVEL_COLORS = ("#1b4965", "#2a9d8f", "#e9a23b", "#d1495b", "#6d597a", "#577590")
GRID = "#c9ced6"


def new_axes(ax, **kwargs):
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plotting needs matplotlib: python -m pip install "mlrops[plot]"') from error
    return plt.subplots(**kwargs)[1]


def bare(ax, m, n):
    """An m by n matrix: no ticks, rows downwards."""
    ax.set_xlim(0, n)
    ax.set_ylim(m, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(GRID)
