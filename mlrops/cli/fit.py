"""``python -m mlrops fit``: a multilevel low rank matrix near to that of a file."""

from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import svds
from tqdm import tqdm

from ..fitting.allocate_ranks import STARTS, allocate_ranks
from ..fitting.fit_mlr import fit_mlr
from ..fitting.partition import check_symmetry, partition
from ..hierarchy import Hierarchy
from ..io import save
from .errors import CommandError
from .matrix_file import read_matrix, read_tree
from .sur import said, save_picture
from .tables import paragraph, table

__all__ = ["fit"]

# Up to this smaller side all singular values are computed; above, the leading ones by Lanczos.
DENSE_SIDE = 2000
# Largest square matrix that is also fitted by low rank plus diagonal.
DIAGONAL_SIDE = 2000
TIMED = 0.2  # seconds of products


def fit(args):
    """Run the command: read, find tree and ranks, print, write, draw."""
    starts = _starts(args.start)
    for option, path in (("--output", args.output), ("--picture", args.picture)):
        if not Path(path).parent.is_dir():
            raise CommandError(f"{option} {path} cannot be written: there is no folder"
                               f" {Path(path).parent}")
    A = read_matrix(args.matrix, args.key)
    _check_rank(args.rank, A.shape)
    with said("fit"):
        symmetric = check_symmetry(A, True if args.psd else args.symmetric)
        print(f"{args.matrix}: {_kind(A, symmetric)}\n", flush=True)
        rows, cols, how = _tree(A, args, symmetric)
        print(f"{how}\n\n{_describe(rows, cols)}\n", flush=True)
        fits = _fits(A, rows, cols, symmetric, args, starts)
        best = min(fits, key=lambda label: fits[label].error)
        print(table(("start", "ranks by level", "relative error", "seconds"), [
            (label + " *" * (label == best), _ranks(found.ranks), f"{found.error:.6f}",
             f"{found.times[-1]:.1f}") for label, found in fits.items()]))
        found = fits[best]
        print("\n" + paragraph("* the best, which is kept" + _capped(found)) + "\n")
        others = _others(A, args.rank, symmetric, args)
        print(table(("equal storage", "relative error", "against multilevel"), [
            (label, f"{error:.6f}", f"{error / found.error:.2f}x" if found.error else "-")
            for label, error in (("multilevel", found.error), *others.items())]))
        print(f"\n{_storage(A, found.operator)}\n{_products(A, found.operator)}")
        try:
            save(args.output, found.operator)
        except OSError as error:
            raise CommandError(f"{args.output} cannot be written: {error.strerror}") from None
        print(f"\nOperator written to {args.output} (mlrops.load reads it)")
        save_picture(args.picture, lambda: _picture(A, rows, cols, fits, best, others))


# ---------------------------------------------------------------- what is asked for


def _starts(text):
    if text == "all":
        return STARTS
    starts = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in starts:
        if name not in STARTS:
            raise CommandError(f"--start must be all or some of {','.join(STARTS)}, got {name!r}")
    return starts


def _check_rank(rank, shape):
    if rank < 1:
        raise CommandError(f"--rank must be at least 1, got {rank}")
    if rank > min(shape):
        raise CommandError(f"--rank {rank} is too large: no matrix of {shape[0]} by {shape[1]} has"
                           f" a rank above {min(shape)}")


def _tree(A, args, symmetric):
    """Hierarchies of rows and columns, and in words where they come from."""
    if args.groups is not None:
        if args.levels is not None or args.method is not None:
            raise CommandError("--groups gives the tree: leave out --levels and --method")
        if A.shape[0] != A.shape[1]:
            raise CommandError(f"--groups is for square matrices, got {A.shape[0]} by"
                               f" {A.shape[1]}")
        rows = read_tree(args.groups, A.shape[0])
        return rows, rows, f"Tree of {args.groups}:"
    levels, why = args.levels, "as asked for"
    if levels is None:
        levels = default_levels(A.shape, args.rank)
        why = "as many as bring the smaller side of the leaves nearest to the rank"
    elif levels < 1:
        raise CommandError(f"--levels must be at least 1, got {levels}")
    with tqdm(desc="tree", bar_format="{desc}: {elapsed}", leave=False):
        rows, cols = partition(A, levels, method=args.method or "spectral", symmetric=symmetric,
                               random_state=args.seed)
    return rows, cols, paragraph(
        f"Tree found by partition, method {args.method or 'spectral'}: {levels} levels, {why}.")


def default_levels(shape, rank):
    """Levels of halving until the smaller side of a leaf is nearest to the rank, by ratio."""
    return 1 + max(0, round(float(np.log2(min(shape) / rank))))


def _fits(A, rows, cols, symmetric, args, starts):
    """`RankAllocation` of each start; one for all if there is one level."""
    fits = {}
    for start in starts if rows.n_levels > 1 else starts[:1]:
        with tqdm(desc=f"ranks, start {start}", unit=" steps", leave=False) as bar:
            def show(iterate, bar=bar):
                bar.set_postfix(error=f"{iterate.error:.5f}", ranks=iterate.ranks, refresh=False)
                bar.update()

            fits[start] = allocate_ranks(A, args.rank, rows, cols, start=start, callback=show,
                                         symmetric=symmetric, psd=args.psd, random_state=args.seed)
    return fits


# ---------------------------------------------------------------- what it is compared with


def _others(A, rank, symmetric, args):
    """Relative errors of relatives that store no more numbers."""
    out = {f"low rank {rank} (SVD)": low_rank_error(A, rank, args.seed)}
    n = A.shape[0]
    if symmetric and 1 < n <= DIAGONAL_SIDE:
        # A level of single features with rank 1 is a diagonal.
        tree = Hierarchy.balanced(n, [1, n])
        plus = fit_mlr(A, (rank - 1, 1), tree, symmetric=True, psd=args.psd,
                       random_state=args.seed)
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
    square = np.linalg.norm(A.data if issparse(A) else A) ** 2
    v0 = np.random.default_rng(seed).standard_normal(k)
    s = svds(A, k=rank, v0=v0.astype(A.dtype), return_singular_vectors=False)
    return float(np.sqrt(max(0.0, 1 - np.square(s).sum() / square)))


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


def _ranks(ranks):
    return " ".join(map(str, ranks))


def _capped(found):
    levels = sorted({level for level, _, _ in found.capped})
    if not levels:
        return ""
    return (f"; {len(found.capped)} blocks of level {', '.join(map(str, levels))} have a side"
            " shorter than the rank of their level")


def _storage(A, operator):
    dense = A.shape[0] * A.shape[1]
    text = (f"Storage: {operator.storage:,} numbers, {100 * operator.storage / dense:.1f}% of the"
            f" dense {dense:,}")
    if issparse(A):
        text += f", {100 * operator.storage / max(A.nnz, 1):.1f}% of the {A.nnz:,} stored entries"
    return text + "."


def _products(A, operator):
    x = np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.dtype)
    own, given = (_seconds(lambda M=M: M @ x) for M in (operator, A))
    return (f"Product with a vector: {_time(own)}; {'sparse' if issparse(A) else 'dense'} matrix"
            f" {_time(given)} ({given / own:.1f}x).")


def _seconds(product):
    """Shortest time of one product, after one that compiles."""
    product()
    times, end = [], perf_counter() + TIMED
    while len(times) < 3 or perf_counter() < end:
        start = perf_counter()
        product()
        times.append(perf_counter() - start)
    return min(times)


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

    from ..plotting import plot_matrix, plot_rank_allocation

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
    history, levels = bottom.subplots(1, 2)
    styles = ("-", "o"), ("--", "s"), (":", "^")
    for (label, one), color, (line, marker) in zip(
            fits.items(), ("#1b3a5c", "#e08e1b", "#2a9d8f"), styles, strict=False):
        history.plot(one.errors, line, marker=marker, markersize=3, color=color, label=label)
    for (label, error), shade in zip(others.items(), ("#222222", "#888888"), strict=False):
        history.axhline(error, color=shade, linewidth=1, linestyle=(0, (6, 3)))
        history.annotate(label, (1, error), xycoords=("axes fraction", "data"), fontsize=8,
                         xytext=(0, 2), textcoords="offset points", ha="right", color=shade)
    history.set(xlabel="step", ylabel="relative error", ylim=(0, None))
    history.xaxis.get_major_locator().set_params(integer=True)
    history.legend(fontsize=8, frameon=False)
    errors = level_errors(A, found.operator)
    levels.bar(range(len(errors)), errors, color="#1b4965")
    for level, (error, rank) in enumerate(zip(errors, found.ranks, strict=True)):
        levels.annotate(f"{error:.2f}\nrank {rank}", (level, error), ha="center", fontsize=8,
                        xytext=(0, 2), textcoords="offset points")
    levels.set(xlabel="levels 0 to ... of the fit", ylabel="relative error",
               ylim=(0, 1.3 * max(errors) or 1), xticks=range(len(errors)))
    for ax in (history, levels):
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    return figure
