"""Pictures of multilevel low rank matrices, of what they fit, and of how ranks were found."""

import numpy as np
from scipy.sparse import issparse

from ._axes import LEVEL_COLORS, bare, new_axes

__all__ = ["plot_levels", "plot_matrix", "plot_rank_allocation"]

MOST_PIXELS = 600  # a side
MOST_BORDERS = 16  # groups outlined unasked


def plot_levels(matrix, axes=None):
    """Draw which entries each level of an MLR matrix fills, a panel a level, then the diagonal.

    Parameters
    ----------
    matrix : MLR or GeneralMLR
    axes : sequence of matplotlib Axes, optional
        One a level, and one for the diagonal of an `MLR`.

    Returns
    -------
    axes : sequence of matplotlib Axes
        Rows and columns in tree order, coarsest level first; a level of rank 0 is only outlined.

    Examples
    --------
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_levels
    >>> h = Hierarchy.balanced(8, (1, 4))
    >>> A = MLR(h, [np.ones((8, 1)), np.ones((8, 1))], np.ones(8))
    >>> len(plot_levels(A))
    3
    """
    diagonal = hasattr(matrix, "hierarchy")
    rows, cols = (matrix.hierarchy,) * 2 if diagonal else (matrix.rows, matrix.cols)
    number = rows.n_levels + diagonal
    axes = np.ravel(np.asarray(
        new_axes(axes, ncols=number, figsize=(3 * number, 3), squeeze=False), object))
    for level, (ax, rank) in enumerate(zip(axes, matrix.ranks, strict=False)):
        bare(ax, rows.n, cols.n)
        color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
        groups = rows.group_counts[level]
        _outline(ax, rows, cols, level, facecolor=color if rank else "none",
                 edgecolor="white" if rank else color, linewidth=min(1, 16 / groups))
        ax.set_title(f"level {level}: {groups} group{'s' if groups > 1 else ''}, rank {rank}",
                     fontsize=9)
    if diagonal:
        ax = axes[rows.n_levels]
        bare(ax, rows.n, rows.n)
        ax.plot([0, rows.n], [0, rows.n], color="#33415c", linewidth=2)
        ax.set_title("diagonal D", fontsize=9)
    return axes


def _outline(ax, rows, cols, level, **style):
    """The blocks of a level as rectangles."""
    from matplotlib.collections import PolyCollection

    y, x = rows.boundaries[level], cols.boundaries[level]
    corners = np.stack([np.stack([x[:-1], x[1:], x[1:], x[:-1]], axis=1),
                        np.stack([y[:-1], y[:-1], y[1:], y[1:]], axis=1)], axis=2)
    ax.add_collection(PolyCollection(corners, **style))


def plot_matrix(A, rows, cols=None, ax=None, *, level=None, vmax=None):
    """Draw the magnitudes of the entries of a matrix in tree order, groups outlined.

    Parameters
    ----------
    A : array_like, sparse array or GeneralMLR, shape (m, n)
        Read piece by piece; a `GeneralMLR` or sparse array is not made dense.
    rows : Hierarchy
    cols : Hierarchy, optional
        Default `rows`.
    ax : matplotlib Axes, optional
    level : int, optional
        Whose blocks are outlined; default the finest of at most 16 groups.
    vmax : float, optional
        Magnitude of the darkest colour, default the largest drawn; give it to compare pictures.

    Returns
    -------
    ax : matplotlib Axes

    Notes
    -----
    More than 600 rows or columns are averaged: a pixel has the mean magnitude of its entries.
    Colours go by the square root of the magnitude.

    Examples
    --------
    >>> from mlrops import Hierarchy
    >>> from mlrops.plotting import plot_matrix
    >>> ax = plot_matrix(np.eye(1000), Hierarchy.balanced(1000, [1, 4]))
    >>> ax.images[0].get_array().shape
    (600, 600)
    """
    from matplotlib.colors import PowerNorm

    cols = rows if cols is None else cols
    shape = A.shape if hasattr(A, "shape") else np.shape(A)
    if tuple(shape) != (rows.n, cols.n):
        raise ValueError(f"A must have shape {(rows.n, cols.n)}, as rows and cols, got {shape}")
    ax = new_axes(ax)
    pixels = _mean_magnitudes(A, rows, cols)
    bare(ax, rows.n, cols.n)
    vmax = vmax or float(pixels.max()) or 1.0
    image = ax.imshow(pixels, norm=PowerNorm(0.5, 0, vmax), cmap="YlGnBu",
                      extent=(0, cols.n, rows.n, 0), interpolation="nearest")
    if level is None:
        level = max(i for i, p in enumerate(rows.group_counts) if p <= MOST_BORDERS or i == 0)
    _outline(ax, rows, cols, level, facecolor="none", edgecolor="#222222", linewidth=0.7)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    return ax


def _mean_magnitudes(A, rows, cols):
    """Means of |A| in tree order over at most 600 by 600 nearly equal rectangles."""
    y, x = (np.arange(k + 1) * h.n // k
            for h, k in ((h, min(h.n, MOST_PIXELS)) for h in (rows, cols)))
    area = np.outer(np.diff(y), np.diff(x))
    if issparse(A):
        A = A.tocoo()
        pixel = [np.searchsorted(edges, np.argsort(h.permutation)[index], side="right") - 1
                 for h, edges, index in ((rows, y, A.row), (cols, x, A.col))]
        flat = np.ravel_multi_index(pixel, area.shape)
        return np.bincount(flat, np.abs(A.data), area.size).reshape(area.shape) / area
    block = A.block if hasattr(A, "block") else np.asarray(A).__getitem__
    total = np.empty(area.shape)
    for i, (a, b) in enumerate(zip(y[:-1], y[1:], strict=True)):
        index = rows.permutation[a:b]
        part = block(index)[:, cols.permutation]
        total[i] = np.add.reduceat(np.abs(part).sum(axis=0), x[:-1])
    return total / area


def plot_rank_allocation(result, ax=None):
    """Draw how a total rank was shared out among levels, after each accepted exchange.

    Parameters
    ----------
    result : RankAllocation
    ax : matplotlib Axes, optional

    Returns
    -------
    ax : matplotlib Axes
        Ranks stacked, the coarsest level at the bottom and darkest, each named at the right where
        it ends with a rank; the title tells the first and the last error.

    Examples
    --------
    >>> from mlrops import Hierarchy
    >>> from mlrops.fitting import allocate_ranks
    >>> from mlrops.plotting import plot_rank_allocation
    >>> x = np.linspace(0, 1, 32)
    >>> fit = allocate_ranks(np.exp(-np.abs(x[:, None] - x)), 4, Hierarchy.balanced(32, [1, 2, 4]))
    >>> ax = plot_rank_allocation(fit)
    >>> len(ax.collections)
    3
    """
    import matplotlib

    ax = new_axes(ax)
    ranks = np.array([r for r, _ in result.history])
    tops = np.cumsum(ranks, axis=1)
    L = ranks.shape[1]
    colors = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, L))
    # A state lasts until the next one: n states have n + 1 edges.
    edges = np.arange(len(ranks) + 1) - 0.5
    for level in range(L):
        low, high = (np.append(t, t[-1]) for t in (tops[:, level] - ranks[:, level],
                                                   tops[:, level]))
        ax.fill_between(edges, low, high, step="post", facecolor=colors[level],
                        edgecolor="white", linewidth=0.6, label=f"level {level}")
        if ranks[-1, level]:
            ax.annotate(f"{level}: {ranks[-1, level]}", (edges[-1], (low[-1] + high[-1]) / 2),
                        xytext=(4, 0), textcoords="offset points", fontsize=8, va="center",
                        annotation_clip=False)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, max(tops[0, -1], 1))
    ax.set_xlabel("step")
    ax.set_ylabel("rank, by level")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    ax.set_title(f"error {result.history[0][1]:.3g} to {result.history[-1][1]:.3g}", fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
