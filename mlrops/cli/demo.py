"""``python -m mlrops demo``: a covariance of stock returns, fitted, held out and used in SciPy."""

import warnings
from time import perf_counter

import numpy as np

from .outputs import can_draw, check_outputs, save_picture
from .tables import table

__all__ = ["choose", "demo", "held_out"]

# Factors in all, to be split over the levels of the tree.
TOTAL = 6


def _compile(months, hierarchy):
    """Two steps of a fit, so that the seconds of the fits are theirs alone."""
    from ..factor import fit_factor_model
    from ..kernels._jit import announcing

    begun = []

    def say():
        begun.append(perf_counter())
        print("Compiling kernels, once per installation ...", end=" ", flush=True)

    def stop(iterate):
        if iterate.n_iter == 2:
            raise StopIteration

    with announcing(say):
        fit = fit_factor_model(months, (TOTAL - 1, 1, 0), hierarchy, callback=stop)
        fit.score(months[:1])
    if begun:
        print(f"{perf_counter() - begun[0]:.1f} s\n")


def choose(months, hierarchy, **options):
    """Split the factors over the levels by BIC, or as the options ask, on these months."""
    from .._common.convergence import ConvergenceWarning
    from ..factor import select_ranks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of splits that are not chosen
        return select_ranks(months, hierarchy=hierarchy, total_rank=TOTAL, exact=True,
                            random_state=0, **options)


def held_out(data, months):
    """Hold out each fifth of the months; fit to the others, by tree and by a single level.

    Yields (block, selection, log-likelihood of a month in the tree, in the single level).
    """
    from ..factor import fit_factor_model

    for block in np.array_split(np.arange(len(months)), 5):
        train = np.delete(months, block, axis=0)
        chosen, single = choose(train, data.hierarchy), fit_factor_model(train, TOTAL)
        yield block, chosen, chosen.fit.score(months[block]), single.score(months[block])


def _hold_out(data, months):
    """Print what `held_out` finds."""
    rows, gains, start = [], [], perf_counter()
    for block, chosen, tree, single in held_out(data, months):
        gains.append(tree - single)
        rows.append((f"{data.dates[block[0]]} to {data.dates[block[-1]]}",
                     " + ".join(map(str, chosen.ranks)), f"{tree:.3f}", f"{single:.3f}",
                     f"{tree - single:+.3f}", f"{perf_counter() - start:.1f}"))
        start = perf_counter()
    print(table(("months held out", "ranks chosen", "tree", "single level", "gain", "seconds"),
                 rows))
    print(f"\nmean gain {np.mean(gains):+.3f} a month")


def _with_scipy(covariance, names):
    """Use the fitted covariance as an operator; print what was done."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import cg, eigsh

    n = covariance.shape[0]
    values, vectors = eigsh(covariance, k=3)
    shares = 100 * values[::-1] / covariance.trace()
    print(f"eigsh    three largest eigenvalues carry {shares[0]:.1f}%, {shares[1]:.1f}% and"
          f" {shares[2]:.1f}% of the variance;")
    loads = vectors[:, -1] / vectors[:, -1].sum()
    print(f"         the first is the market: loadings from {loads.min() * n:.2f} to"
          f" {loads.max() * n:.2f} times the mean")

    # Minimum-variance weights with a penalty on differences between neighbours in the tree: the
    # perturbed system (Σ + λ Dᵀ D) w = 1.
    order = covariance.hierarchy.permutation
    chain = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n - 1, n)).tocsc()
    chain = chain[:, np.argsort(order)]
    system = covariance + 0.5 * (chain.T @ chain)
    counts = {}
    for label, M in (("plain", None), ("preconditioned", covariance.inv())):
        steps = []
        w, info = cg(system, np.ones(n), rtol=1e-10, M=M, callback=steps.append)
        if info:
            raise RuntimeError(f"{label} cg stopped with code {info}")
        counts[label] = len(steps)
    residual = np.linalg.norm(system @ w - 1) / np.sqrt(n)
    w /= w.sum()
    print(f"cg       minimum-variance weights, smoothed along the tree: {counts['plain']} steps"
          f" plain, {counts['preconditioned']} with the")
    print(f"         inverse covariance as preconditioner; relative residual {residual:.1e}")
    top = np.argsort(w)[::-1][:4]
    print("         largest weights: " + ", ".join(f"{names[i]} {100 * w[i]:.0f}%" for i in top))
    risk = np.sqrt(w @ (covariance @ w))
    equal = np.sqrt(np.ones(n) @ (covariance @ np.ones(n))) / n
    print(f"         monthly volatility {risk:.2f}% against {equal:.2f}% at equal weights")


def _picture(tree, single, names):
    import matplotlib.pyplot as plt

    from ..plotting import plot_correlation, plot_levels, plot_loglik

    fig = plt.figure(figsize=(11, 8.2), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1, 2.3])
    top.suptitle("30 portfolios of US stocks: a covariance in levels", fontsize=13, weight="bold")
    L = tree.covariance.hierarchy.n_levels
    plot_levels(tree.covariance, top.subplots(1, L + 1))
    left, right = bottom.subplots(1, 2, width_ratios=[1, 1.25])
    plot_loglik({"single level": single, "tree": tree}, left)
    left.set_title("log-likelihood a month, all months", fontsize=10)
    plot_correlation(tree.covariance, names, right)
    right.set_title("implied correlation, tree order", fontsize=10)
    return fig


def demo(args):
    """Run the command: fit, hold out, use, draw."""
    from ..datasets import load_french
    from ..factor import fit_factor_model

    check_outputs({"--output": args.output}, {})
    can_draw("--output", args.output)
    data = load_french()
    months = 100 * data.excess
    print(f"Monthly excess returns (%) of {months.shape[1]} portfolios, {data.dates[0]} to"
          f" {data.dates[-1]}.\n")
    print(data.hierarchy.describe(), end="\n\n")

    _compile(months, data.hierarchy)
    print(f"""\
Log-likelihood of a held-out month under two models that store equally many numbers: {TOTAL} factors
of the root, and {TOTAL} split over root, family and size group by BIC on the months fitted to.
""")
    _hold_out(data, months)
    tree, single = choose(months, data.hierarchy).fit, fit_factor_model(months, TOTAL)
    print(f"\nFitted to all months:\n\n{tree.summary(max_factors=0)}\n")

    print("The fitted covariance in SciPy's solvers, as it is:\n")
    _with_scipy(tree.covariance, data.names)
    save_picture(args.output, lambda: _picture(tree, single, data.names))
