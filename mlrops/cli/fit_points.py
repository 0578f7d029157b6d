"""``python -m mlrops fit points.csv --kernel ...``: the kernel matrix of points, never formed."""

import numpy as np

from .._common.wording import counted
from ..fitting.fit import fit_mlr
from ..fitting.point_partitions import partition_points
from ..fitting.rank_allocation import allocate_ranks
from ..io import save
from .bench.timing import best_of
from .errors import CommandError, in_options, reporting
from .groups_file import read_tree
from .info import stored_numbers
from .matrix_file import read_matrix
from .outputs import can_draw, save_picture, writing
from .tables import paragraph, table
from .watch import watched

__all__ = ["fit_points"]

# Most points of which the operator itself is drawn: a picture averages all n² entries.
DRAWN = 10_000
TIMED = 0.2  # seconds of products
PARAMETERS = "total_rank", "n_levels", "start", "kernel", "scale", "symmetric", "random_state"


def fit_points(args, starts):
    """As for a matrix: read, find tree and ranks, print, write, draw."""
    for option, given in (("--kernel", args.kernel is None), ("--method", args.method is not None),
                          ("--psd", args.psd)):
        if given:
            raise CommandError("--scale is for points and needs --kernel" if option == "--kernel"
                               else f"{option} is for a matrix: leave it out with --kernel")
    draws = can_draw("--picture", args.picture)
    points = read_matrix(args.matrix, args.key)
    if not isinstance(points, np.ndarray):
        raise CommandError(f"{args.matrix} must hold points as dense numbers, one a line")
    n = len(points)
    if args.total_rank > n:
        raise CommandError(f"--total-rank {args.total_rank} is too large for {counted(n, 'point')}")
    print(f"{args.matrix}: {counted(n, 'point')} of dimension {points.shape[1]}, kernel"
          f" {args.kernel}\n", flush=True)
    given = {"points": points, "kernel": args.kernel, "scale": args.scale,
             "symmetric": args.symmetric, "random_state": args.random_state}
    with reporting("fit"), in_options(PARAMETERS):
        rows = None
        if args.groups is not None:
            rows = read_tree(args.groups, n)
        elif args.n_levels not in (None, "auto"):
            rows = partition_points(points, n_levels=args.n_levels)[0]
        fits = {start: _fit(args.total_rank, rows, start, given) for start in starts}
        best = min(fits, key=lambda start: fits[start].error)
        found = fits[best]
        with writing(args.output):  # before anything else is done with it
            save(args.output, found.operator)
        print(table(("start", "ranks by level", "relative error", "seconds"), [
            (start + " *" * (start == best), " ".join(map(str, one.ranks)), _error(one),
             f"{one.times[-1]:.1f}") for start, one in fits.items()]))
        print("\n" + paragraph("* the best, which is kept.  "
                               + ("Errors are estimates with a standard error from whole rows that"
                                  " were held out." if found.held_out_se is not None else
                                  "So few points were fitted as a whole matrix.")) + "\n")
        low = fit_mlr(None, (args.total_rank, *[0] * (len(found.ranks) - 1)),
                      found.operator.rows, **given)
        print(table(("equal storage", "relative error", "against multilevel"), [
            (label, _error(one), f"{one.error / found.error:.2f}x" if found.error else "-")
            for label, one in (("multilevel", found), (f"low rank {args.total_rank}", low))]))
        numbers, _ = stored_numbers(found.operator)  # what `info` says of the file
        x = np.random.default_rng(0).standard_normal(n)
        took = best_of(lambda: found.operator @ x, 3, TIMED)[0]
        print(f"\nStorage: {numbers:,} numbers, {100 * numbers / n**2:.2g}% of the dense {n**2:,}."
              f"\nProduct with a vector: {1e3 * took:.2f} ms.")
        print(f"\nOperator written to {args.output} (mlrops.load reads it)")
        if draws:
            save_picture(args.picture, lambda: _picture(fits, best, low))
        else:
            print("There is no matplotlib: no picture was drawn.  Install it with:\npython -m pip"
                  " install matplotlib")


def _fit(total_rank, rows, start, given):
    with watched(start) as show:
        found = allocate_ranks(None, total_rank, rows, start=start, callback=show, **given)
    if found.termination == "interrupted":
        raise KeyboardInterrupt
    return found


def _error(found):
    spread = "" if found.held_out_se is None else f" ± {found.held_out_se:.1g}"
    return f"{found.error:.4g}{spread}"


def _picture(fits, best, low):
    import matplotlib.pyplot as plt

    from ..plotting import _axes, plot_matrix, plot_rank_allocation

    operator = fits[best].operator
    small = operator.shape[0] <= DRAWN
    figure = plt.figure(figsize=(11, 8 if small else 4), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[1.5, 1]) if small else [None, figure]
    if small:
        ax, errors = parts[0].subplots(1, 2)
        plot_matrix(operator, operator.rows, operator.cols, ax)
        ax.set_title(f"fit, relative error {fits[best].error:.3g}", fontsize=10)
        axes = np.ravel(parts[1].subplots(1, len(fits), squeeze=False))
    else:
        *axes, errors = np.ravel(parts[1].subplots(1, len(fits) + 1))
    for (label, one), ax in zip(fits.items(), axes, strict=True):
        plot_rank_allocation(one, ax)
        ax.set_title(f"start {label}: {ax.get_title()}", fontsize=9)
    shown = {**fits, f"low rank {sum(operator.ranks)}": low}
    errors.bar(range(len(shown)), [one.error for one in shown.values()],
               yerr=[one.held_out_se or 0 for one in shown.values()], color="#1b4965")
    errors.set(ylabel="relative error", xticks=range(len(shown)), xticklabels=list(shown))
    _axes.hide_spines(errors, "top", "right")
    return figure
