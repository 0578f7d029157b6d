"""Multilevel low rank against its relatives: errors of approximations that store equally much.

``MLROPS_PICTURE=notebooks/relatives.png`` in the environment draws the table, too.
"""

import os

import numpy as np
import pytest
from hodlr import hodlr

from mlrops.datasets import (
    dct_matrix,
    gauss_transform,
    graph_distances,
    hierarchical_matrix,
    hilbert_matrix,
    sphere_kernel,
    toeplitz_matrix,
)
from mlrops.fitting import allocate_ranks
from mlrops.fitting.partitions import partition

TOTAL_RANK = 20
STARTS = "grow", "top"  # of the ranks
N, LEVELS = 512, 10  # down to single features, so that a level can be a diagonal
KINDS = {"low rank": ("#8a8a8a", "o"), "low rank + diagonal": ("#e08e1b", "D"),
         "HODLR": ("#2f7fb8", "s"), "multilevel low rank": ("#101c33", "X")}
MATRICES = {
    "Gauss transform, 800 by 600": lambda: gauss_transform(random_state=0).A,
    "sphere, gaussian": lambda: sphere_kernel(N, "gaussian", 0.2, random_state=0).A,
    "sphere, exponential": lambda: sphere_kernel(N, "exponential", 0.2, random_state=0).A,
    "sphere, thin plate": lambda: sphere_kernel(N, "thin_plate", random_state=0).A,
    "distances, small world": lambda: graph_distances("small_world", N, random_state=0),
    "distances, grid": lambda: graph_distances("grid", N),
    "distances, random regular": lambda: graph_distances("random_regular", N, random_state=0),
    "Toeplitz": lambda: toeplitz_matrix(N, random_state=0),
    "DCT": lambda: dct_matrix(N),
    "Hilbert": lambda: hilbert_matrix(N),
    "hierarchical, 600 by 400": lambda: hierarchical_matrix(
        600, 400, [1, 2, 4, 8], [5, 5, 5, 5], noise=0.5, random_state=0)[0],
}
# Arguments of `partition` for the trees tried.
TREES = {"spectral": {}, f"spectral below rank {TOTAL_RANK // 2}": {"rank": TOTAL_RANK // 2},
         "order": {"method": "order"}}
COLUMNS = ("matrix", "numbers stored", *KINDS, "ranks, coarsest first", "tree of MLR, of HODLR")


def low_rank(A, rank):
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vt[:rank]


def low_rank_plus_diagonal(A, rank, n_iter=200):
    """Alternating projections; each half-step lowers the error."""
    d = np.zeros(len(A))
    for _ in range(n_iter):
        L = low_rank(A - np.diag(d), rank)
        d = np.diag(A - L)
    return L + np.diag(d)


def relative_error(A, approximation):
    return float(np.linalg.norm(A - approximation) / np.linalg.norm(A))


@pytest.fixture(scope="module")
def found():
    """Errors by matrix and kind; drawn in the end, if asked."""
    errors = {}
    yield errors
    if os.environ.get("MLROPS_PICTURE"):
        draw(errors, os.environ["MLROPS_PICTURE"])


@pytest.mark.parametrize("name", MATRICES)
def test_errors_at_equal_storage(name, found, record_in):
    A = MATRICES[name]()
    storage = sum(A.shape) * TOTAL_RANK
    errors = {"low rank": relative_error(A, low_rank(A, TOTAL_RANK))}
    symmetric = A.shape[0] == A.shape[1] and (A == A.T).all()
    if symmetric:
        # The diagonal takes half of what a rank does: n numbers of 2 n.
        errors["low rank + diagonal"] = relative_error(
            A, low_rank_plus_diagonal(A, TOTAL_RANK - 1))
    levels = LEVELS if A.shape[0] == A.shape[1] else 7
    trees = {name: partition(A, levels, random_state=0, **options)
             for name, options in TREES.items()}
    relatives = {tree: hodlr(A, *pair, storage) for tree, pair in trees.items()}
    assert all(relative.storage <= storage for relative in relatives.values())
    by_tree = {tree: relative_error(A, x.toarray()) for tree, x in relatives.items()}
    hodlr_tree = min(by_tree, key=by_tree.get)
    errors["HODLR"] = by_tree[hodlr_tree]
    fits = {(tree, start): allocate_ranks(A, TOTAL_RANK, *pair, start=start, random_state=0)
            for tree, pair in trees.items() for start in STARTS}
    tree, start = min(fits, key=lambda key: fits[key].error)
    best = fits[tree, start]
    assert best.operator.storage == storage
    errors["multilevel low rank"] = relative_error(A, best.operator.toarray())
    record_in("Errors of multilevel low rank by tree, the best of the starts", ("matrix", *TREES),
              name, *(f"{min(fits[tree, start].error for start in STARTS):.3g}" for tree in TREES))
    found[name] = errors
    record_in(f"Relative errors at equal storage: that of rank {TOTAL_RANK}", COLUMNS, name,
              f"{storage / A.size:.1%}",
              *(f"{errors[kind]:.3g}" if kind in errors else "" for kind in KINDS),
              " ".join(map(str, best.ranks)), f"{tree}, {hodlr_tree}")
    assert errors["multilevel low rank"] <= (1 + 1e-6) * errors["low rank"]


REFERENCE = "low rank"  # the line at 1
EDGE = 13.0  # ratios beyond stand there, with their number
OFFSET = {"low rank + diagonal": -0.15, "HODLR": 0.15}  # of a row: none hides another
INK, BAND = "#222222", "#f2f4f7"


def draw(errors, path):
    """A row a matrix, best gain first: errors over that of the truncated SVD."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ratios = {name: {kind: e / of[REFERENCE] for kind, e in of.items()}
              for name, of in errors.items()}
    names = sorted(ratios, key=lambda name: ratios[name]["multilevel low rank"])
    with plt.rc_context({"font.size": 11}):
        fig, ax = plt.subplots(figsize=(9, 0.44 * len(names) + 1.5), layout="constrained")
        for at, name in enumerate(names):
            if at % 2 == 0:
                ax.axhspan(at - 0.5, at + 0.5, color=BAND, linewidth=0, zorder=0)
            _row(ax, at, ratios[name])
        color, _ = KINDS[REFERENCE]
        ax.axvline(1, color=color, linewidth=2, zorder=1, label=REFERENCE)
        for kind, (color, marker) in KINDS.items():
            if kind != REFERENCE:
                ax.scatter([], [], s=75, color=color, marker=marker, label=kind)
        ax.set_xscale("log")
        ax.set_xlim(0.11, EDGE * 1.12)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ticks = [0.2, 0.5, 1, 2, 5, 10]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.tick_params(length=0)
        ax.minorticks_off()
        ax.set_xlabel("← better      "
                      f"error / error of the truncated SVD of rank {TOTAL_RANK}, at equal storage")
        fig.legend(ncols=len(KINDS), loc="outside upper center", frameon=False, handletextpad=0.4,
                   columnspacing=1.6, handlelength=1.2)
        for side in ax.spines.values():
            side.set_visible(False)
        fig.savefig(path, dpi=130)
        plt.close(fig)


def _row(ax, at, ratios):
    """Markers of one matrix, the number of multilevel low rank beside its own."""
    ours = ratios["multilevel low rank"]
    ax.plot([ours, 1], [at, at], color=KINDS["multilevel low rank"][0], linewidth=3, zorder=2,
            solid_capstyle="butt")
    for kind, ratio in ratios.items():
        if kind == REFERENCE:
            continue
        color, marker = KINDS[kind]
        x, y = min(ratio, EDGE), at + OFFSET.get(kind, 0)
        ax.scatter(x, y, s=75, color=color, marker=marker, edgecolor="white", linewidth=0.9,
                   zorder=4 if kind == "multilevel low rank" else 3)
        if ratio > EDGE:
            power = f"{ratio:.0e}".split("e")
            ax.annotate(rf"${power[0]}\cdot10^{int(power[1])}\rightarrow$",
                        (x, y), xytext=(-9, 0), ha="right", va="center",
                        textcoords="offset points", color=INK)
    ax.annotate(f"{ours:.2f}", (min(ratios.values()), at), xytext=(-9, 0), ha="right", va="center",
                textcoords="offset points", color=INK, fontweight="bold")
