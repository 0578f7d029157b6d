"""``python -m mlrops fit``: a multilevel low rank matrix near to that of a file."""

from functools import partial

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import svds

from .._common.progress import progress_bar
from .._common.wording import counted
from ..fitting.fit import fit_mlr
from ..fitting.partitions import check_symmetry, partition
from ..fitting.rank_allocation import STARTS, allocate_ranks
from ..io import save
from ..tree.hierarchy import Hierarchy
from .bench.timing import best_of
from .errors import CommandError, in_options, reporting
from .fit_points import fit_points
from .groups_file import read_tree
from .info import stored_numbers
from .matrix_file import read_matrix, read_names
from .outputs import can_draw, check_outputs, save_picture, writing
from .tables import paragraph, table
from .watch import watched

__all__ = ["fit"]

# Up to this smaller side all singular values are computed; above, the leading ones by Lanczos.
DENSE_SIDE = 2000
# Largest square matrix that is also fitted by low rank plus diagonal.
DIAGONAL_SIDE = 2000
ROWS = 512  # of a dense matrix that are worked on at a time
TIMED = 0.2  # seconds of products
# Parameters of the library that are options here.
PARAMETERS = "total_rank", "n_levels", "method", "start", "symmetric", "psd", "random_state"


def fit(args):
    """Run the command: read, find tree and ranks, print, write, draw."""
    starts = _checked(args)
    check_outputs({"--output": args.output, "--picture": args.picture},
                  {"the matrix": args.matrix, "--groups": args.groups})
    if args.kernel is not None or args.scale is not None:
        fit_points(args, starts)
        return
    draws = can_draw("--picture", args.picture)
    if not draws:
        print("There is no matplotlib: the operator will be written, but no picture.  Install it"
              " with:\npython -m pip install matplotlib\n", flush=True)
    A = read_matrix(args.matrix, args.key)
    _check_sides(args, A.shape)
    with reporting("fit"), in_options(PARAMETERS, **({"symmetric": "--psd"} if args.psd else {})):
        symmetric = check_symmetry(A, True if args.psd else args.symmetric)
        print(f"{args.matrix}: {_kind(A, symmetric)}\n", flush=True)
        rows, cols, origin = _tree(A, args, symmetric)
        print(f"{origin}\n\n{_describe(rows, cols)}\n", flush=True)
        fits = _fits(A, rows, cols, symmetric, args, starts)
        best = min(fits, key=lambda label: fits[label].error)
        found = fits[best]
        with writing(args.output):  # before anything else is done with it
            save(args.output, found.operator)
        print(table(("start", "ranks by level", "relative error", "seconds"), [
            (label + " *" * (label == best), " ".join(map(str, found.ranks)), _error(found.error),
             f"{found.times[-1]:.1f}") for label, found in fits.items()]))
        print("\n" + paragraph("* the best, which is kept" + _capped(found)) + "\n", flush=True)
        others = _others(A, args.total_rank, symmetric, args)
        print(table(("equal storage", "relative error", "against multilevel"), [
            (label, _error(error), _ratio(error, found.error, A.dtype))
            for label, error in (("multilevel", found.error), *others.items())]))
        print(f"\n{_storage(A, found.operator)}\n{_products(A, found.operator)}")
        print(f"\nOperator written to {args.output} (mlrops.load reads it)")
        if draws:
            save_picture(args.picture, lambda: _picture(A, rows, cols, fits, best, others))


# ---------------------------------------------------------------- what is asked for


def _checked(args):
    """The starts; refuses what is wrong with any matrix, before it is read."""
    for option, value, least in (("--total-rank", args.total_rank, 1),
                                 ("--n-levels", _asked(args), 1),
                                 ("--random-state", args.random_state, 0)):
        if value is not None and value < least:
            raise CommandError(f"{option} must be at least {least}, got {value}")
    if args.groups is not None and (_asked(args) is not None or args.method is not None):
        raise CommandError("--groups gives the tree: leave out --n-levels and --method")
    if args.psd and args.symmetric is False:
        raise CommandError("--psd fits a symmetric matrix: leave out --no-symmetric")
    if args.start == "all":
        return STARTS
    starts = tuple(dict.fromkeys(name.strip() for name in args.start.split(",")))
    for name in starts:
        if name not in STARTS:
            raise CommandError(f"--start must be all or some of {','.join(STARTS)}, got {name!r}")
    return starts


def _asked(args):
    """The number of levels that is asked for, if there is one."""
    return None if args.n_levels == "auto" else args.n_levels


def _check_sides(args, shape):
    """Refuse a rank and a number of levels that the sides of the matrix do not allow."""
    m, n = shape
    shorter = min(shape)
    if args.total_rank > shorter:
        raise CommandError(f"--total-rank {args.total_rank} is too large: no matrix of {m} by {n}"
                           f" has a rank above {shorter}")
    deepest = 1 + (shorter - 1).bit_length()  # until the larger of all halves is 1
    if (_asked(args) or 0) > deepest:
        raise CommandError(f"--n-levels {args.n_levels} is too deep: a side of {shorter} can be"
                           f" halved {deepest - 1} times, which makes {deepest} levels")


def _tree(A, args, symmetric):
    """Hierarchies of rows and columns, and in words where they come from."""
    if args.groups is not None:
        if A.shape[0] != A.shape[1]:
            raise CommandError(f"--groups is for square matrices, got {A.shape[0]} by"
                               f" {A.shape[1]}")
        rows = read_tree(args.groups, A.shape[0], read_names(args.matrix))
        return rows, rows, f"Tree of {args.groups}:"
    why = "as deep as rows and columns allow" if _asked(args) is None else "as asked for"
    with progress_bar(desc="finding the tree ...", bar_format="{desc}", leave=False,
                      patient=True):
        rows, cols = partition(A, args.n_levels, method=args.method or "spectral",
                               symmetric=symmetric, random_state=args.random_state)
    return rows, cols, paragraph(
        f"Tree found by partition, method {args.method or 'spectral'}:"
        f" {counted(rows.n_levels, 'level')}, {why}.")


def _fits(A, rows, cols, symmetric, args, starts):
    """`RankAllocation` of each start; one for all if there is one level."""
    fits = {}
    for start in starts if rows.n_levels > 1 else starts[:1]:
        with watched(start) as show:
            fits[start] = _nearest(A, rows, cols, symmetric, args.psd, partial(
                allocate_ranks, A, args.total_rank, rows, cols, start=start, callback=show,
                random_state=args.random_state))
        if fits[start].termination == "interrupted":
            raise KeyboardInterrupt
    return fits


def _nearest(A, rows, cols, symmetric, psd, fit):
    """The fit with the smallest error of those to the family asked for and to all it contains.

    Symmetric matrices are general ones, positive semidefinite ones symmetric; but a search that
    may go further need not end lower.
    """
    families = [{"symmetric": symmetric, "psd": psd}]
    if rows == cols and check_symmetry(A, None):
        families += [family for family in ({"symmetric": True, "psd": False},
                                           {"symmetric": True, "psd": True})
                     if (family["psd"], family["symmetric"]) > (psd, symmetric)]
    return min((fit(**family) for family in families), key=lambda found: found.error)


# ---------------------------------------------------------------- what it is compared with


def _others(A, rank, symmetric, args):
    """Relative errors of relatives that store no more numbers."""
    out = {f"low rank {rank} (SVD)": low_rank_error(A, rank, args.random_state)}
    n = A.shape[0]
    if symmetric and 1 < n <= DIAGONAL_SIDE:
        # A level of single features with rank 1 is a diagonal.
        tree = Hierarchy.balanced(n, [1, n])
        plus = _nearest(A, tree, tree, True, args.psd, partial(
            fit_mlr, A, (rank - 1, 1), tree, random_state=args.random_state))
        out[f"low rank {rank - 1} plus diagonal"] = plus.error
    return out


def low_rank_error(A, rank, seed=0):
    """Relative error of the truncated singular value decomposition."""
    k = min(A.shape)
    # Factors of more than half the rank there is hold as many numbers as the dense matrix.
    if 2 * rank >= k or not issparse(A) and k <= DENSE_SIDE:
        dense = A.toarray() if issparse(A) else A
        s = np.linalg.svd(dense, compute_uv=False)
        return float(np.linalg.norm(s[rank:]) / np.linalg.norm(s))
    v0 = np.random.default_rng(seed).standard_normal(k).astype(A.dtype)
    U, s, Vt = svds(A, k=rank, v0=v0)
    if issparse(A):
        square = np.square(A.data, dtype=np.float64).sum()
        return float(np.sqrt(max(0.0, 1 - np.square(s, dtype=np.float64).sum() / square)))
    # Row by row: 1 - Σ s² / ‖A‖² would leave errors below the root of the precision untold.
    missed = total = 0.0
    for start in range(0, len(A), ROWS):
        part = A[start : start + ROWS]
        missed += np.square(part - (U[start : start + ROWS] * s) @ Vt, dtype=np.float64).sum()
        total += np.square(part, dtype=np.float64).sum()
    return float(np.sqrt(missed / total))


# ---------------------------------------------------------------- what is shown


def _kind(A, symmetric):
    kind = f"sparse, {A.nnz:,} entries" if issparse(A) else "dense"
    return (f"{A.shape[0]:,} by {A.shape[1]:,}, {kind}, {A.dtype}"
            f"{', symmetric' if symmetric else ''}")


def _describe(rows, cols):
    def sizes(h, level):
        size = h.group_sizes(level)
        low, high = size.min(), size.max()
        return str(low) if low == high else f"{low} to {high}"

    return table(("level", "groups", "rows each", "columns each"), [
        (str(level), str(rows.group_counts[level]), sizes(rows, level), sizes(cols, level))
        for level in range(rows.n_levels)])


def _error(error):
    return f"{error:.6f}" if error == 0 or error >= 1e-4 else f"{error:.2e}"


def _ratio(error, own, dtype):
    """How often `own` goes into `error`; a dash where both are rounding."""
    if max(error, own) < 1000 * np.finfo(dtype).eps or own == 0:
        return "-"
    return f"{error / own:.2f}x" if error < 1000 * own else f"{error / own:.1e}x"


def _capped(found):
    levels = sorted({level for level, _, _ in found.capped})
    if not levels:
        return ""
    return (f"; {len(found.capped)} blocks of level {', '.join(map(str, levels))} have a side"
            " shorter than the rank of their level")


def _storage(A, operator):
    dense = A.shape[0] * A.shape[1]
    numbers, _ = stored_numbers(operator)  # what `info` says of the file
    text = f"Storage: {numbers:,} numbers, {100 * numbers / dense:.1f}% of the dense {dense:,}"
    if issparse(A):
        text += f", {100 * numbers / max(A.nnz, 1):.1f}% of the {A.nnz:,} stored entries"
    return text + "."


def _products(A, operator):
    x = np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.dtype)
    own, given = (best_of(lambda M=M: M @ x, 3, TIMED)[0] for M in (operator, A))
    return (f"Product with a vector: {_time(own)}; {'sparse' if issparse(A) else 'dense'} matrix"
            f" {_time(given)} ({given / own:.1f}x).")


def _time(seconds):
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def level_errors(A, operator):
    """Relative errors of the coarsest 1, 2, ..., L levels of the fit together."""
    norm2 = np.linalg.norm(A.data if issparse(A) else A) ** 2
    out = []
    for level in range(len(operator.ranks)):
        part = type(operator)(operator.rows, operator.cols, *(
            [f if i <= level else f[:, :0] for i, f in enumerate(side)]
            for side in (operator.left, operator.right)))
        # ‖A - M‖² = ‖A‖² - 2 <A, M> + ‖M‖², the inner product level by level.
        inner = sum(_inner(A, part, i) for i in range(level + 1))
        out.append(np.sqrt(max(0.0, norm2 - 2 * inner + part.norm() ** 2) / norm2))
    return out


def _inner(A, operator, level):
    """<A, B_l C_lᵀ> = Σ_g tr(B_gᵀ A_g C_g)."""
    B, C = operator.left[level], operator.right[level]
    if not B.shape[1]:
        return 0.0
    total = 0.0
    for g in range(operator.rows.group_counts[level]):
        i, j = operator.rows.features(level, g), operator.cols.features(level, g)
        block = A[i][:, j] if issparse(A) else A[np.ix_(i, j)]
        total += float(np.sum(B[i] * (block @ C[j])))
    return total


def _picture(A, rows, cols, fits, best, others):
    import matplotlib.pyplot as plt

    from ..plotting import _axes, plot_matrix, plot_rank_allocation

    found = fits[best]
    figure = plt.figure(figsize=(11, 9.5), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.5, 1, 1])
    left, right = top.subplots(1, 2)
    plot_matrix(A, rows, cols, left)
    left.set_title("matrix, magnitudes in tree order", fontsize=10)
    plot_matrix(found.operator, rows, cols, right, vmax=left.images[0].norm.vmax)
    right.set_title(f"fit, relative error {found.error:.3g}", fontsize=10)
    for ax, (label, one) in zip(np.ravel(middle.subplots(1, len(fits), squeeze=False)),
                                fits.items(), strict=True):
        plot_rank_allocation(one, ax)
        ax.set_title(f"start {label}: {ax.get_title()}", fontsize=9)
    for draw, ax in zip((partial(_draw_errors, fits, others), partial(_draw_levels, A, found)),
                        bottom.subplots(1, 2), strict=True):
        draw(ax)
        _axes.hide_spines(ax, "top", "right")
    return figure


def _draw_errors(fits, others, ax):
    """The errors of all steps of all starts, and those of the relatives."""
    styles = zip(("-", "--", ":"), ("o", "s", "^"), ("#1b3a5c", "#e08e1b", "#2a9d8f"), strict=True)
    for (label, one), (line, marker, color) in zip(fits.items(), styles, strict=False):
        ax.plot(one.objective_trace, line, marker=marker, markersize=3, color=color, label=label)
    for (label, error), shade in zip(others.items(), ("#222222", "#888888"), strict=False):
        ax.axhline(error, color=shade, linewidth=1, linestyle=(0, (6, 3)))
        ax.annotate(label, (1, error), xycoords=("axes fraction", "data"), fontsize=8,
                    xytext=(0, 2), textcoords="offset points", ha="right", color=shade)
    ax.set(xlabel="step", ylabel="relative error", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    if len(fits) > 1:
        ax.legend(fontsize=8, frameon=False)


def _draw_levels(A, found, ax):
    """What is left when the fit has its coarsest levels only."""
    errors = level_errors(A, found.operator)
    ax.bar(range(len(errors)), errors, color="#1b4965")
    for level, error in enumerate(errors):
        ax.annotate(f"{error:.2g}", (level, error), ha="center", fontsize=8,
                    xytext=(0, 2), textcoords="offset points")
    ax.set(xlabel="levels 0 to ... of the fit, and rank of the last", ylabel="relative error",
           ylim=(0, 1.15 * max(errors) or 1), xticks=range(len(errors)),
           xticklabels=[f"{level}\n{rank}" for level, rank in enumerate(found.ranks)])
