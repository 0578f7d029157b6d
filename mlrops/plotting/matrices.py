"""Pictures of the entries of multilevel low rank matrices, and of what they fit."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from .._common.typing import Axes
from .._common.wording import counted
from ..operators import MLR, GeneralMLR, MLRInverse
from ..tree.hierarchy import Hierarchy
from . import _axes

__all__ = ["plot_levels", "plot_matrix"]

MOST_PIXELS = 600  # a side
MOST_CELLS = 200  # a side of a level, of which several share a figure
MOST_BORDERS = 16  # groups outlined unasked
MOST_SQUARES = 100  # of a diagonal, so that it can be seen


def plot_levels(
    matrix: Any, axes: Sequence[Axes] | npt.NDArray[Any] | None = None, *,
    kind: Literal["entries", "blocks"] = "entries", vmax: float | None = None,
) -> npt.NDArray[Any]:
    """Draw what each level of an MLR matrix adds to it, a panel a level, then the diagonal.

    Parameters
    ----------
    matrix : MLR, MLRInverse or GeneralMLR
        A result that holds one as `covariance` or `operator` will do, too.
    axes : sequence of matplotlib Axes, optional
        One for each level, and one for the diagonal of an `MLR` or its inverse.  By default they
        are those of a new figure.
    kind : {"entries", "blocks"}, optional
        The magnitudes of the entries of each level, in one scale of colours for all panels; or
        plain blocks, with a colour for each level.
    vmax : float, optional
        Magnitude of the darkest colour of ``kind="entries"``, by default the largest drawn.

    Returns
    -------
    axes : ndarray of matplotlib Axes, shape (number of panels,)
        Rows and columns in tree order, coarsest level first; a level of rank 0 is only outlined.

    Raises
    ------
    TypeError
        The matrix is of another type.
    ValueError
        The kind is another word, or there are not as many axes as panels.

    Notes
    -----
    Colours follow the square root of the magnitude.  More than 200 rows or columns are drawn in
    coarser cells.  A cell shows the root mean square of the level's entries in it, which takes
    `O(n r_l²)` operations and no entries; the diagonal is drawn as at most 100 squares.  The levels
    of an `MLRInverse` are those of ``U Uᵀ``, which is taken off its diagonal.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_levels
    >>> h = Hierarchy.balanced(8, (1, 4))
    >>> A = MLR(h, [np.ones((8, 1)), np.ones((8, 1))], np.ones(8))
    >>> axes = plot_levels(A)
    >>> [ax.get_title() for ax in axes]
    ['level 0: 1 group, rank 1', 'level 1: 4 groups, rank 1', 'diagonal D']
    >>> plt.close(axes[0].figure)
    """
    _axes.check_choice(kind, "kind", ("entries", "blocks"))
    matrix = _axes.operand(matrix, "plot_levels", MLR, MLRInverse, GeneralMLR)
    general = isinstance(matrix, GeneralMLR)
    rows, cols = (matrix.rows, matrix.cols) if general else (matrix.hierarchy,) * 2
    count = rows.n_levels + (not general)
    panels = _axes.new_panels(axes, count, "panels", figsize=(2.6 * count + 0.7, 3))
    for level, (ax, rank) in enumerate(zip(panels, matrix.ranks, strict=False)):
        _axes.bare(ax, rows.n, cols.n)
        groups = rows.group_counts[level]
        _title(ax, f"level {level}: {counted(groups, 'group', ',')}, rank {rank}")
    if not general:
        _axes.bare(panels[-1], rows.n, rows.n)
        _title(panels[-1], "diagonal 1/D" if isinstance(matrix, MLRInverse) else "diagonal D")
    (_draw_blocks if kind == "blocks" else _draw_entries)(panels, matrix, rows, cols, vmax)
    return panels


def _title(ax, text):
    """A title in letters that fit above narrow axes."""
    fit = _axes.points_of(ax)[0] / _axes.text_width(text, 9)
    ax.set_title(text, fontsize=np.clip(9 * fit, 6, 9))


def _draw_blocks(axes, matrix, rows, cols, vmax):
    for level, (ax, rank, color) in enumerate(zip(
            axes, matrix.ranks, _axes.level_colors(rows.n_levels), strict=False)):
        _outline(ax, rows, cols, level, facecolor=color if rank else "none",
                 edgecolor="white" if rank else color,
                 linewidth=min(1, 16 / rows.group_counts[level]))
    if len(axes) > rows.n_levels:
        axes[-1].plot([0, rows.n], [0, rows.n], color=_axes.INK, linewidth=2)


def _draw_entries(axes, matrix, rows, cols, vmax):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    if isinstance(matrix, GeneralMLR):
        B, C = matrix.B, matrix.C
    else:
        B = C = matrix.U if isinstance(matrix, MLRInverse) else matrix.F
    ends = np.cumsum(matrix.ranks)
    drawn = [None if rank == 0 else _level_magnitudes(
        rows, cols, level, B[:, end - rank : end], C[:, end - rank : end])
        for level, (rank, end) in enumerate(zip(matrix.ranks, ends, strict=True))]
    y = _edges(rows.n, MOST_SQUARES)
    D = np.abs(matrix.D[rows.permutation]) if len(axes) > rows.n_levels else np.zeros(rows.n)
    squares = np.add.reduceat(D, y[:-1]) / np.diff(y)
    largest = max([squares.max(), *(pixels.max() for pixels in drawn if pixels is not None)])
    norm = PowerNorm(0.5, 0, vmax or float(largest) or 1.0)
    for level, (ax, pixels) in enumerate(zip(axes, drawn, strict=False)):
        if pixels is not None:
            _axes.draw_pixels(ax, pixels, rows.n, cols.n, norm=norm)
        room = min(_axes.points_of(ax)) / rows.group_counts[level]
        _outline(ax, rows, cols, level, facecolor="none", edgecolor=_axes.INK if pixels is not None
                 else _axes.GRID, linewidth=min(0.7, room / 8))
    if len(axes) > rows.n_levels:
        _axes.outline(axes[-1], y, y, array=squares, norm=norm, cmap="YlGnBu", linewidth=0)
    _axes.color_bar(ScalarMappable(norm, "YlGnBu"), list(axes), pad=0.01, fraction=0.02,
                    label="magnitude")


def _edges(n, most):
    """n features as at most `most` nearly equal runs."""
    k = min(n, most)
    return np.arange(k + 1) * n // k


def _level_magnitudes(rows, cols, level, B, C):
    """Root mean squares of a level's entries over at most 200 by 200 cells; masked outside.

    The squares of the entries of a block sum to the inner product of the Gram matrices of its rows
    and columns of factors, so that a cell needs only those of the rows and columns in it.
    """
    sides = [_pieces(h, level, X) for h, X in ((rows, B), (cols, C))]
    shape = tuple(min(h.n, MOST_CELLS) for h in (rows, cols))
    total, area = np.zeros(shape), np.zeros(shape)
    (py, sy, gy, cy), (px, sx, gx, cx) = sides
    single = (np.diff(sy) == 1) & (np.diff(sx) == 1)
    # Groups within one cell at once, of which there may be very many; the others one by one.
    i, j = sy[:-1][single], sx[:-1][single]
    np.add.at(total, (py[i], px[j]), np.einsum("gk,gk->g", gy[i], gx[j]))
    np.add.at(area, (py[i], px[j]), cy[i] * cx[j])
    for group in np.flatnonzero(~single):
        y, x = slice(sy[group], sy[group + 1]), slice(sx[group], sx[group + 1])
        here = np.ix_(py[y], px[x])
        total[here] += gy[y] @ gx[x].T
        area[here] += np.outer(cy[y], cx[x])
    with np.errstate(invalid="ignore"):
        return np.ma.masked_invalid(np.sqrt(np.maximum(total, 0) / np.where(area, area, np.nan)))


def _pieces(hierarchy, level, X):
    """The groups of a level cut at the edges of cells.

    Returns the cell of every piece, the first piece of every group and one past the last, the Gram
    matrix of each piece's rows of X, flat, and its number of rows.
    """
    cuts, offsets = _edges(hierarchy.n, MOST_CELLS), hierarchy.boundaries[level]
    edges = np.union1d(cuts, offsets)
    X = np.asarray(X, float)[hierarchy.permutation]
    gram = np.empty((edges.size - 1, X.shape[1] ** 2))
    at = np.searchsorted(edges, cuts)
    for a, b in zip(at[:-1], at[1:], strict=True):  # the outer products of one cell at a time
        some = X[edges[a] : edges[b]]
        outer = (some[:, :, None] * some[:, None, :]).reshape(len(some), -1)
        gram[a:b] = np.add.reduceat(outer, edges[a:b] - edges[a])
    cell = np.searchsorted(cuts, edges[:-1], side="right") - 1
    return cell, np.searchsorted(edges, offsets), gram, np.diff(edges).astype(float)


def _outline(ax, rows, cols, level, **style):
    """The blocks of a level as rectangles."""
    _axes.outline(ax, rows.boundaries[level], cols.boundaries[level], **style)


def plot_matrix(A: Any, rows: Hierarchy, cols: Hierarchy | None = None, ax: Axes | None = None, *,
                level: int | None = None, vmax: float | None = None) -> Axes:
    """Draw the magnitudes of the entries of a matrix in tree order, groups outlined.

    Parameters
    ----------
    A : array_like, sparse array or GeneralMLR, shape (m, n)
        It is read piece by piece, so that a `GeneralMLR` or sparse array is not made dense.  Other
        operators of this package are read by ``A.toarray()``.
    rows : Hierarchy
    cols : Hierarchy, optional
        By default `rows`.
    ax : matplotlib Axes, optional
    level : int, optional
        The level whose blocks are outlined, by default the finest of at most 16 groups.
    vmax : float, optional
        Magnitude of the darkest colour, by default the largest drawn; give it to compare pictures.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        The matrix and its trees do not have the same shape.

    Notes
    -----
    More than 600 rows or columns are averaged: a pixel shows the mean magnitude of its entries.
    Colours follow the square root of the magnitude.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops.plotting import plot_matrix
    >>> ax = plot_matrix(np.eye(1000), Hierarchy.balanced(1000, [1, 4]))
    >>> ax.images[0].get_array().shape
    (600, 600)
    >>> plt.close(ax.figure)
    """
    from matplotlib.colors import PowerNorm

    cols = rows if cols is None else cols
    shape = A.shape if hasattr(A, "shape") else np.shape(A)
    if tuple(shape) != (rows.n, cols.n):
        raise ValueError(f"A must have shape {(rows.n, cols.n)}, as rows and cols, got {shape}")
    ax = _axes.new_axes(ax)
    pixels = _mean_magnitudes(A, rows, cols)
    _axes.bare(ax, rows.n, cols.n)
    vmax = vmax or float(pixels.max()) or 1.0
    image = _axes.draw_pixels(ax, pixels, rows.n, cols.n, norm=PowerNorm(0.5, 0, vmax))
    if level is None:
        level = max(i for i, p in enumerate(rows.group_counts) if p <= MOST_BORDERS or i == 0)
    _outline(ax, rows, cols, level, facecolor="none", edgecolor=_axes.INK, linewidth=0.7)
    _axes.color_bar(image, ax)
    return ax


def _mean_magnitudes(A, rows, cols):
    """Means of |A| in tree order over at most 600 by 600 nearly equal rectangles."""
    y, x = _edges(rows.n, MOST_PIXELS), _edges(cols.n, MOST_PIXELS)
    area = np.outer(np.diff(y), np.diff(x))
    if issparse(A):
        A = A.tocoo()
        pixel = [np.searchsorted(edges, np.argsort(h.permutation)[index], side="right") - 1
                 for h, edges, index in ((rows, y, A.row), (cols, x, A.col))]
        flat = np.ravel_multi_index(pixel, area.shape)
        return np.bincount(flat, np.abs(A.data), area.size).reshape(area.shape) / area
    block = A.block if hasattr(A, "block") else np.asarray(
        A.toarray() if hasattr(A, "toarray") else A).__getitem__
    total = np.empty(area.shape)
    for i, (a, b) in enumerate(zip(y[:-1], y[1:], strict=True)):
        index = rows.permutation[a:b]
        part = block(index)[:, cols.permutation]
        total[i] = np.add.reduceat(np.abs(part).sum(axis=0), x[:-1])
    return total / area
