"""Pictures of where the factors, the expanded matrix and its Cholesky factor are not zero."""

from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from .._common.deprecated import warn_old
from .._common.typing import Axes, IntArray
from ..operators import MLR, MLRInverse
from . import _axes

__all__ = ["plot_sparsity"]

MOST_CELLS = 240  # a side of the picture; a cell with a nonzero in it is coloured
PLAIN, REDUCED, FILL = "#14213d", "#b3d0ea", "#dd6410"
UNIT = "#9a9a9a"
ORDERS = "tree", "natural", "colamd", "mmd"


class _Cells(NamedTuple):
    """Where a matrix is not zero, and how that is drawn."""

    places: tuple[IntArray, IntArray]  # rows and columns of the nonzeros
    kind: IntArray  # of each nonzero
    shape: tuple[int, int]
    colors: tuple[str, ...]  # of each kind
    legend: dict[str, str]
    title: str
    tall: float | None = None  # height over width; None for a square


def plot_sparsity(
    matrix: Any, what: Literal["F", "U", "expanded", "cholesky"] = "F", ax: Axes | None = None, *,
    order: Literal["tree", "natural", "colamd", "mmd"] = "tree",
) -> Axes:
    """Draw where a factor of an MLR matrix is not zero, and count (a spy plot).

    Parameters
    ----------
    matrix : MLR or MLRInverse
        A result that holds one as `covariance` will do, too.
    what : {"F", "U", "expanded", "cholesky"}, optional
        The factors spread out, (n, s) with ``s = Σ p_l r_l``; those of the inverse,
        ``Σ⁻¹ = diag(1/D) - U Uᵀ``, the same way; `MLR.expanded_matrix`; or the unit lower
        triangular factor L of the expanded matrix.
    ax : matplotlib Axes, optional
    order : {"tree", "natural", "colamd", "mmd"}, optional
        Of ``what="cholesky"``, the order in which the expanded matrix is eliminated: that of
        `MLR.expanded_cholesky`, features first, then factors from the finest level to the coarsest;
        features, then factors from the coarsest; or one of those of `scipy.sparse.linalg.splu`,
        ``"COLAMD"`` and ``"MMD_AT_PLUS_A"``, for contrast.

    Returns
    -------
    ax : matplotlib Axes
        The title has the number of nonzeros.

    Raises
    ------
    TypeError
        The matrix is of another type.
    ValueError
        `what` or `order` is another word, or an order is given for a picture that has none.

    Notes
    -----
    Features stand in tree order, factors level by level, coarsest first.  Columns of F and U, and
    the two copies of F in the expanded matrix, have a colour a level.

    A Cholesky factor has the nonzeros of the expanded matrix ``[[diag(D), F], [Fᵀ, -I]]``; those of
    ``Fᵀ D⁻¹ F``, the pairs of factors that share features, which arise where -I stands as soon as
    the features are eliminated; and *fill*, all others.  In tree order there is no fill.  The
    entries of the tree's own factor are those of `MLR.expanded_cholesky`; those of other orders
    follow from the structure alone.

    More than 240 rows or columns are drawn in coarser cells, coloured where anything in them is not
    zero; the counts are exact.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.plotting import plot_sparsity
    >>> h = Hierarchy.balanced(12, [1, 2, 4])
    >>> A = MLR(h, [np.ones((12, 1))] * 3, np.ones(12))
    >>> figure, (left, right) = plt.subplots(1, 2)
    >>> plot_sparsity(A, "cholesky", left).get_title()
    'Cholesky, tree order: 65 nonzeros\\n10 of FᵀD⁻¹F, fill 0'
    >>> plot_sparsity(A, "cholesky", right, order="natural").get_title()
    'Cholesky, natural order: 76 nonzeros\\n10 of FᵀD⁻¹F, fill 11'
    >>> plt.close(figure)
    """
    if what == "H":
        warn_old("plot_sparsity(what='H')", "what='U'")
        what = "U"
    _axes.check_choice(what, "what", ("F", "U", "expanded", "cholesky"))
    _axes.check_choice(order, "order", ORDERS)
    if order != "tree" and what != "cholesky":
        raise ValueError(f"order={order!r} is for what='cholesky', got what={what!r}")
    matrix = _axes.operand(matrix, "plot_sparsity", MLR, MLRInverse)
    if isinstance(matrix, MLRInverse):
        if what in ("expanded", "cholesky"):
            raise ValueError(f"what={what!r} is drawn of an MLR, got an MLRInverse: give its inv()")
        what, matrix = "U", matrix.inv()
    if what == "cholesky":
        return _draw(ax, _cholesky(matrix, order))
    if what == "expanded":
        return _draw(ax, _expanded(matrix))
    return _draw(ax, _factors(matrix.inv() if what == "U" else matrix, what))


def _spread(operator):
    """(row in tree order, column, level) of every nonzero of its factors spread out."""
    h = operator.hierarchy
    F = operator.U if isinstance(operator, MLRInverse) else operator.F
    ends = np.cumsum(operator.ranks)
    parts, first = [], 0
    for level, (rank, end, offsets) in enumerate(zip(operator.ranks, ends, h.boundaries,
                                                     strict=True)):
        group = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        i, c = np.nonzero(F[h.permutation, end - rank : end])
        parts.append((i, first + group[i] * rank + c, np.full(i.size, level)))
        first += (offsets.size - 1) * rank
    return (*(np.concatenate(part) for part in zip(*parts, strict=True)), first)


def _factors(operator, what):
    n, L = operator.shape[0], len(operator.ranks)
    i, j, level, s = _spread(operator)
    tall = float(np.clip(n / max(s, 1), 0.5, 2.5))
    return _Cells((i, j), level, (n, s), _axes.level_colors(L), _of_levels(operator),
                  f"{what}, {n:,} × {s:,}\n{i.size:,} nonzeros", tall)


def _of_levels(operator):
    """Colours of the levels that have factors, by name."""
    colors = _axes.level_colors(len(operator.ranks))
    return {f"level {k}": colors[k] for k, rank in enumerate(operator.ranks) if rank}


def _expanded(matrix):
    n = matrix.shape[0]
    E = matrix.expanded_matrix()[_in_tree_order(matrix)][:, _in_tree_order(matrix)].tocoo()
    kept = E.data != 0
    i, j = E.row[kept], E.col[kept]
    factors = np.repeat(np.arange(len(matrix.ranks)), np.multiply(
        matrix.hierarchy.group_counts, matrix.ranks))
    level = np.zeros(i.size, int)  # 0 for D and -I
    mixed = (i < n) != (j < n)
    level[mixed] = 1 + factors[np.maximum(i, j)[mixed] - n]
    return _Cells((i, j), level, E.shape, (UNIT, *_axes.level_colors(len(matrix.ranks))),
                  {"D, −I": UNIT, **_of_levels(matrix)},
                  f"expanded matrix, {E.shape[0]:,} × {E.shape[0]:,}\n{i.size:,} nonzeros")


def _in_tree_order(matrix):
    """The expanded matrix with its features in tree order, factors as they are."""
    s = int(np.dot(matrix.hierarchy.group_counts, matrix.ranks))
    n = matrix.shape[0]
    return np.concatenate([matrix.hierarchy.permutation, n + np.arange(s)])


def _cholesky(matrix, order):
    n, E = matrix.shape[0], matrix.expanded_matrix()
    if order == "tree":
        L, _, sequence = matrix.expanded_cholesky()
        L = L.tocoo()
        i, j = L.row[L.data != 0], L.col[L.data != 0]
    else:
        sequence = _in_tree_order(matrix)
        if order != "natural":
            sequence = _of_superlu(E, "COLAMD" if order == "colamd" else "MMD_AT_PLUS_A")
        i, j = _eliminated(E[sequence][:, sequence])
    F = E[:n, n:] != 0
    sharing = sp.block_array([[sp.eye_array(n), None], [None, (F.T @ F) != 0]], format="csr")
    kind = np.full(i.size, 2)
    for value, A in ((1, sharing), (0, E.tocsr())):
        kind[np.asarray(A[sequence][:, sequence][i, j] != 0).ravel()] = value
    counts = np.bincount(kind, minlength=3)
    name = order.upper() if order in ("colamd", "mmd") else order
    return _Cells((i, j), kind, E.shape, (PLAIN, REDUCED, FILL),
                  {"expanded matrix": PLAIN, "FᵀD⁻¹F": REDUCED, "fill": FILL},
                  f"Cholesky, {name} order: {i.size:,} nonzeros\n{counts[1]:,} of FᵀD⁻¹F,"
                  f" fill {counts[2]:,}")


def _of_superlu(E, permc_spec):
    """The order in which SuperLU eliminates a symmetric matrix with the diagonal as pivots."""
    from scipy.sparse.linalg import splu

    lu = splu(E.tocsc(), permc_spec=permc_spec, diag_pivot_thresh=0.0,
              options={"SymmetricMode": True})
    return np.argsort(lu.perm_c)


def _eliminated(A):
    """Rows and columns of the nonzeros of the Cholesky factor of a matrix of this structure.

    A column has the entries of A below the diagonal and those of every column whose first entry
    below its diagonal stands in this row (the children in the elimination tree).
    """
    lower = sp.tril(A, k=-1).tocsc()
    n = A.shape[0]
    children, columns = [[] for _ in range(n)], []
    for j in range(n):
        own = lower.indices[lower.indptr[j] : lower.indptr[j + 1]]
        parts = [own, *(columns[child] for child in children[j])]
        below = np.unique(np.concatenate(parts)).astype(int)
        columns.append(below[below > j])
        if columns[j].size:
            children[columns[j][0]].append(j)
    sizes = [column.size for column in columns]
    return (np.concatenate([np.arange(n), *columns]),
            np.concatenate([np.arange(n), np.repeat(np.arange(n), sizes)]))


def _draw(ax, cells):
    """Colour the cells of a grid that hold nonzeros by the last of their kinds."""
    from matplotlib.colors import ListedColormap

    m, n = cells.shape
    grid = [min(size, MOST_CELLS) for size in cells.shape]
    last = np.full([max(size, 1) for size in grid], -1)
    np.maximum.at(last, tuple(index * cell // size for index, cell, size in zip(
        cells.places, grid, cells.shape, strict=True)), cells.kind)
    size = (4.2, 5.2) if cells.tall is None else (2.6, 1.4 + 2.3 * cells.tall)
    ax = _axes.new_axes(ax, figsize=size)
    _axes.draw_pixels(ax, np.ma.masked_less(last, 0), m, max(n, 1), vmin=-0.5,
                      vmax=len(cells.colors) - 0.5, cmap=ListedColormap(cells.colors))
    _axes.bare(ax, m, max(n, 1), aspect="auto")
    ax.set_box_aspect(cells.tall or 1.0)
    ax.set_title(cells.title, fontsize=9)
    _axes.legend(ax, cells.legend)
    return ax
