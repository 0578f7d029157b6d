"""`partition`: the hierarchy, or the pair of them, that a matrix itself suggests."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh, svds

from .._common.typing import Data, RandomState, Sparse
from .._common.validate import as_finite, check_rank, working_dtype
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from .bisection import Bisection, OrderSplit, SpectralSplit, one_by_one
from .labelled import named_trees, without_names
from .residuals import row_chunks
from .target import asymmetry

__all__ = ["partition"]

METHODS = ("spectral", "order", "distance", "linkage")
DISTANCES = METHODS[2:]

# Up to this smaller side the approximation of a rank is taken from all singular vectors.
DENSE_SIDE = 500

# Weights below it, in units of the largest of a group, count as none: they would underflow.
NEGLIGIBLE = 1e-30

# What is left of a matrix of that rank, as a share of it, is rounding up to this many epsilons.
ROUNDING = 100


def partition(
    A: Data | Sparse, n_levels: int | Literal["auto"], *,
    method: Literal["spectral", "order", "distance", "linkage"] = "spectral", rank: int = 0,
    balanced: bool | None = None, symmetric: bool | None = None, refine: bool = True,
    min_size: int = 1, n_starts: int = 9, random_state: RandomState = None,
    n_parts: int | Sequence[int] = 2,
) -> tuple[Hierarchy, Hierarchy]:
    """Find hierarchies of the rows and columns of a matrix, for its multilevel low rank fit.

    From the root down, every group of rows is cut in two, or in more parts, together with its group
    of columns.  The blocks that pair the parts hold as much of the group's block as they can.

    Parameters
    ----------
    A : array_like, DataFrame or sparse array, shape (m, n)
        The matrix; for "distance" and "linkage", distances.  The trees keep the names of the rows
        and columns of a DataFrame; where both sides have the same names, its rows are put in the
        order of its columns.
    n_levels : int or "auto"
        Levels L, the root counted: level 0 is one group, level l has ``2^l`` groups unless some
        were too small to be cut.  "auto" goes on while more than half of the rows, and of the
        columns, are in groups that can be cut; see Notes.
    method : {"spectral", "order", "distance", "linkage"}, optional
        * "spectral": the weights are the squares of the entries.  The cut begins along the leading
          singular vectors of the group's normalized weights (eigenvectors if symmetric).
        * "order": rows and columns stay in the order in which they come, such as that of time,
          frequency or place, and groups are runs of it.  If not balanced, each cut leaves the same
          share of rows and of columns on a side, and is where the normalized cut is least.
        * "distance": A holds distances d >= 0, which may be infinite.  The cut is that of
          "spectral" for the weights ``exp(-(d / s)²)``, where s is the median of the group's finite
          distances, without the diagonal of a symmetric A.
        * "linkage": A holds the distances of n features to one another.  `Hierarchy.from_linkage`
          cuts the tree of average linkage into as many groups as balanced cuts would make.
    rank : int, optional
        If positive, what is cut is the difference of A from the nearest matrix of this rank, for
        "spectral" and "order".  The default is 0, and A itself is cut.  See Notes.
    balanced : bool, optional
        Whether the halves have equal numbers of rows and of columns (they differ by one where a
        number is odd).  The cut then maximizes the weight inside the two blocks.  If False, halves
        are of any size, and the cut minimizes the normalized cut: the weight outside times the sum
        of the inverses of the halves' total weights.  The default is True, but False for
        "linkage", which does not choose sizes.
    symmetric : bool, optional
        Whether rows and columns are the same features and get one hierarchy.  By default they are
        if A equals its transpose, up to rounding.
    refine : bool, optional
        Improve each cut by swaps of rows or of columns between its halves (by moves of one, if not
        balanced) until a whole pass brings no gain.  "order" and "linkage" take no such passes.
    min_size : int, optional
        Least number of rows, and of columns, of a half.
    n_starts : int, optional
        Starts of the refinement, 1 to 9: the second singular vectors, the next two and their
        combinations.  After each pass the worst fifth of them is left; the best cut is taken.
    random_state : None, int or numpy.random.Generator, optional
        Starting vectors of Lanczos' method.  It is used for groups of more than 200 rows and
        columns, and for the nearest matrix of a `rank` if both sides of A are above 500.
    n_parts : int or sequence of L - 1 int, optional
        Parts k that a group is cut into, 2 by default; ``n_parts=(8, 4, 4)`` makes levels of 1, 8,
        32 and 128 groups.  More than two parts are balanced: their numbers of rows, and of columns,
        differ by at most one.

    Returns
    -------
    rows, cols : Hierarchy
        Trees of one shape: group g of level l of `rows` is paired with group g of level l of
        `cols`.  The same object if symmetric.  Of two halves the one with the lower-numbered first
        row comes first.

    Raises
    ------
    ValueError
        A has NaN, or infinity that is no distance, or is zero everywhere, or has the given rank;
        ``symmetric=True`` for another matrix; more levels, or parts of a group, than there are
        rows and columns for (the message names the level and the group); more than two parts
        without balance.
    TypeError
        A is an operator, complex or not numeric; sparse with a positive rank.

    See Also
    --------
    partition_points : from positions of rows and columns.
    partition_features : from data, for factor models.
    Hierarchy.from_labels, Hierarchy.from_linkage

    Notes
    -----
    The cut is that of I. Dhillon, Co-clustering documents and words using bipartite spectral graph
    partitioning (2001), for symmetric weights of J. Shi and J. Malik, Normalized cuts and image
    segmentation (2000).  Swaps follow B. Kernighan and S. Lin, An efficient heuristic procedure for
    partitioning graphs (1970), moves C. Fiduccia and R. Mattheyses (1982): a pass makes the best
    change, even a loss, again and again without undoing one, and returns to the best state it
    met.  A swap costs O(m + n) for a group of m rows and n columns, a pass O((m + n)²).

    *Rank.*  What the blocks leave out is left to the coarser levels.  Where those levels can say
    little about the entries, as in kernels that fall off with distance, the squares of the entries
    measure what that costs.  Where entries are large and smooth (distances, thin plates, a large
    mean), the coarsest level fits most of them, and squares put together what is large instead of
    what is hard to fit: of distances, what is far apart.  Then give `rank` about half of the total
    rank of the fit to come.  Neither choice is always better; compare the fits.

    *Order.*  In a matrix whose entries all have about the same size and whose rows are orthogonal,
    such as that of a cosine transform, no two rows are more alike than two others.  Only their
    order shows that blocks of neighbours are nearly of low rank, and only "order" uses it.

    *More than two parts.*  A group is cut in two, with room for ``⌈k/2⌉`` and ``⌊k/2⌋`` parts, and
    so on; then any two of its parts swap rows or columns, in up to four rounds of all pairs.

    *Depth.*  "auto" goes down to groups of a row and a column, or of hardly more.  On the matrices
    of the README each further level lowered the error at equal storage or left it as it was: fits
    that choose their ranks give 0 to levels that do not pay, and groups of single features, which
    are a diagonal, paid on kernels that are not smooth.

    *Cost.*  A dense A is read once a level, block by block.  Of one block at a time the weights are
    kept, in single precision, with their transpose if not symmetric: half of a float64 A, or as
    much as it, for the root.  The products with them, some ten passes, cost half as much with each
    further level.  Weights below 1e-30 of the largest of their group count as zero.  A sparse A
    stays sparse.

    A group of less than ``k min_size`` rows or columns is left whole and repeats at the next level.
    The diagonal of a symmetric matrix takes no part, because every cut leaves it inside.  If the
    rows and columns of A are permuted, so are the groups, but for ties and the accuracy of Lanczos'
    method.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import partition
    >>> A = np.array([[0, 5, 0, 4, 0], [1, 0, 2, 0, 3], [0, 6, 0, 5, 1], [3, 0, 2, 0, 2]])
    >>> rows, cols = partition(A, 2)
    >>> rows.labels(1), cols.labels(1)
    (array([0, 1, 0, 1]), array([1, 0, 1, 0, 1]))
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}; got {method!r}")
    options = Bisection(n_levels, min_size, balanced is None or balanced, refine, n_starts,
                        random_state, n_parts)
    if check_rank(rank, "rank") and method in DISTANCES:
        raise ValueError(f"method={method!r} reads distances and takes none of their rank away, got"
                         f" rank = {rank}: leave it out, or use method='spectral'")
    values, row_names, col_names = without_names(A, square=True)
    matrix = _as_matrix(values, method)
    symmetric = check_symmetry(matrix, symmetric)
    if method == "linkage":
        tree = _by_linkage(matrix, options, balanced, symmetric)
        return named_trees(tree, tree, row_names, col_names)
    if rank:
        matrix = _left_over(matrix, rank, symmetric, options.rng)
    weights = _closeness(matrix, symmetric) if method == "distance" else _squares(matrix)
    splitter = OrderSplit if method == "order" else SpectralSplit
    m, n = matrix.shape
    split = splitter(weights, symmetric, options)
    trees = options.grow(m, n, one_by_one(split), symmetric, getattr(split, "refine", None))
    return named_trees(*trees, row_names, col_names)


# ---------------------------------------------------------------- checks


def _as_matrix(A, method):
    """A finite array or CSR array with at least one row and column; distances may be infinite."""
    if sparse.issparse(A):
        if method in DISTANCES:
            raise TypeError(
                f"method={method!r} needs all distances: a sparse array does not say whether an"
                " entry it leaves out is zero or infinite; pass a dense array")
        working_dtype(A.dtype, "A")
        A = sparse.csr_array(A)
        if A.nnz:
            as_finite(A.data, "A", axis_name="stored entry")
        largest = abs(A).max() if A.nnz else 0
    else:
        if hasattr(A, "matvec"):
            raise TypeError(
                f"partition reads the entries of A, got an operator ({type(A).__name__}): pass"
                " A.toarray(), or use partition_points or partition_features")
        A = _as_distances(A, method) if method in DISTANCES else as_finite(
            A, "A", ndim=2, axis_name="row")
        largest = _largest(A)
    if 0 in A.shape or A.ndim != 2:
        raise ValueError(f"A must be 2-d with at least one row and one column, got {A.shape}")
    if largest == 0:
        raise ValueError(f"A, {A.shape[0]} by {A.shape[1]}, is zero everywhere: nothing tells its"
                         " rows and columns apart")
    return A


def _as_distances(A, method):
    A = np.asarray(A)
    A = np.asarray(A, dtype=working_dtype(A.dtype, "A"))
    if A.ndim != 2:
        raise ValueError(f"A must be 2-d, got shape {A.shape}")
    bad = ~(A >= 0)
    if method == "linkage":
        bad |= np.isinf(A)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        kind = "finite distances" if method == "linkage" else "distances"
        raise ValueError(f"A must hold {kind}, not negative and not NaN; got {A[i, j]} in row {i},"
                         f" column {j} ({bad.sum()} such entries)")
    return A


def check_symmetry(A: Any, symmetric: bool | None) -> bool:
    """Whether A is symmetric up to rounding; refuse ``symmetric=True`` where it is not."""
    if symmetric is not None and not symmetric:
        return False
    if A.shape[0] != A.shape[1]:
        if symmetric:
            raise ValueError(f"symmetric=True needs a square matrix, got {A.shape}")
        return False
    gap, i, j, scale = asymmetry(A)
    unlike = gap > 100 * np.finfo(working_dtype(A.dtype)).eps * scale
    if unlike and symmetric:
        i, j = sorted((i, j))
        raise ValueError(
            f"symmetric=True, but A is not symmetric: A[{i}, {j}] = {A[i, j]:.6g} and"
            f" A[{j}, {i}] = {A[j, i]:.6g}")
    return not unlike


# ---------------------------------------------------------------- weights of a block


def _left_over(A, rank, symmetric, rng):
    """``A - Â`` in units of A's largest entry, Â the nearest matrix of a rank; float64."""
    if sparse.issparse(A):
        raise TypeError("rank > 0 takes a dense matrix from A: pass A.toarray(), or leave rank out")
    shorter = min(A.shape)
    if rank >= shorter:
        raise ValueError(f"rank must be below the smaller side of A, {shorter}, got {rank}")
    eps = np.finfo(A.dtype).eps
    A = A.astype(np.float64)
    A /= _largest(A)
    if shorter <= DENSE_SIDE:
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        B, C = U[:, :rank] * s[:rank], Vt[:rank]
    elif symmetric:
        lam, V = eigsh(A, rank, v0=rng.standard_normal(shorter))  # largest in magnitude
        B, C = V * lam, V.T
    else:
        U, s, C = svds(A, rank, v0=rng.standard_normal(shorter))
        B = U * s
    size = np.linalg.norm(A)
    A = A - B @ C
    if np.linalg.norm(A) <= ROUNDING * eps * size:
        raise ValueError(f"A is of rank {rank} up to rounding, so that nothing is left to cut: give"
                         " a lower rank")
    return (A + A.T) / 2 if symmetric else A


def _largest(A):
    """The largest magnitude, without an array of magnitudes."""
    return max(float(A.max(initial=0)), -float(A.min(initial=0)))


def _squares(A):
    """Weights of blocks: squares of the entries, the largest of which is 1, in single precision.

    What is below `NEGLIGIBLE` counts as zero.
    """
    largest = float(abs(A).max()) if sparse.issparse(A) else _largest(A)

    def weights(rows, cols):
        if sparse.issparse(A):
            W = A[rows][:, cols].astype(np.float64)
            W.data = (W.data / largest).astype(np.float32)
            W.data = _squared(W.data, np.abs(W.data).max(initial=0))
            return W
        W = np.empty((rows.size, cols.size), np.float32)
        parts = list(row_chunks(*W.shape))
        for part in parts:
            np.divide(A[np.ix_(rows[part], cols)], largest, out=W[part], casting="same_kind",
                      dtype=np.float64)
        top = _largest(W)
        for part in parts:
            W[part] = _squared(W[part], top)
        return W

    return weights


def _squared(x, largest):
    """``(x / largest)²``, or zero."""
    squares = np.square(x / x.dtype.type(largest or 1))
    squares *= squares > NEGLIGIBLE
    return squares


def _closeness(distances, symmetric):
    """Weights of blocks: ``exp(-(d / s)²)``, s the median finite distance of the block."""
    def weights(rows, cols):
        d = distances[np.ix_(rows, cols)].astype(np.float64)
        known = np.isfinite(d)
        if symmetric:
            np.fill_diagonal(known, False)
        s = np.median(d[known]) if known.any() else 0
        if s == 0:
            return (d == 0).astype(np.float32)  # at least half of them are in one place
        return np.exp(-((d / s) ** 2)).astype(np.float32)

    return weights


def _by_linkage(A, options, balanced, symmetric):
    if not symmetric:
        raise ValueError("method='linkage' needs the distances of features to one another, a"
                         f" symmetric matrix; got one of shape {A.shape} that is not")
    if balanced or options.min_size > 1:
        raise ValueError("method='linkage' does not choose the sizes of its groups: leave out"
                         " balanced and min_size, or use method='distance'")
    n, counts = len(A), [1]
    while k := options.next_parts(len(counts) - 1, np.full((1, counts[-1]), n // counts[-1])):
        counts.append(k * counts[-1])
        if counts[-1] > n:
            raise ValueError(
                f"n_levels = {options.n_levels} is deeper than the data allow: level"
                f" {len(counts) - 1} would cut {n} features into {counts[-1]} groups, and group {n}"
                f" on would be empty. Ask for {counted(len(counts) - 1, 'level')}")
    if n == 1:
        return Hierarchy.flat(1)
    # Loaded where it is used: nothing else here needs these parts of SciPy.
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    Z = linkage(squareform(A, checks=False), "average")
    return Hierarchy.from_linkage(Z, counts)
