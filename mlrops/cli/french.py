"""``python -m mlrops sur``: 30 stock portfolios on four factors, and on their own past year."""

import warnings
from dataclasses import dataclass

import numpy as np

from .._common.convergence import ConvergenceWarning
from ..datasets import load_french
from ..regression.sur.model import SUR
from .outputs import can_draw, check_outputs, save_picture
from .tables import CONSTANT, coefficient_table, paragraph, percent, table

__all__ = ["french"]

TOTAL = 6  # factors in all, to be split over the levels of the tree
YEAR = 12  # months
PARTS = 5  # of the months, each held out once
ERRORS = "tree", "single", "indep."  # models of the errors
# Likelihoods are compared to hundredths; the fits that are printed go to the maximum.
ROUGH = {"tol": 1e-6, "gtol": 1e-3}


@dataclass(frozen=True)
class Spec:
    """A specification: its equations, and the same for some months only."""

    columns: dict  # {equation: (y, {regressor: x})}

    def model(self, rows=slice(None)):
        known = {}
        for _, X in self.columns.values():
            if id(X) not in known:
                known[id(X)] = {name: x[rows] for name, x in X.items()}
        return SUR({name: (y[rows], known[id(X)]) for name, (y, X) in self.columns.items()})

    def held_out(self, hierarchy):
        """Log-likelihood a month of each part of the months, by the three models of `ERRORS`."""
        months = np.arange(len(next(iter(self.columns.values()))[0]))
        for block in np.array_split(months, PARTS):
            train = self.model(np.delete(months, block))
            new = self.model(block).data
            fits = choose(train, hierarchy), train.fit(TOTAL, **ROUGH), train.fit(0)
            yield [fit.score(new.Xs, new.Y) for fit in fits]


def factor_model(data):
    """Excess returns (%) on the four factors, one X for all."""
    X = {CONSTANT: np.ones(len(data.factors)),
         **dict(zip(data.factor_names[:4], 100 * data.factors[:, :4].T, strict=True))}
    return Spec({name: (y, X) for name, y in zip(data.names, 100 * data.excess.T, strict=True)})


def past_year(data):
    """Excess returns (%) on their own mean return above the market over the year before."""
    returns, market = 100 * data.excess, 100 * data.factors[:, 0]
    sums = np.cumsum(np.vstack([np.zeros(returns.shape[1]), returns - market[:, None]]), axis=0)
    signal = (sums[YEAR:-1] - sums[: -YEAR - 1]) / YEAR
    const = np.ones(len(signal))
    return Spec({name: (returns[YEAR:, j], {CONSTANT: const, "past": signal[:, j]})
                 for j, name in enumerate(data.names)})


def choose(model, hierarchy):
    """Six factors, split over the levels of the tree by BIC."""
    return model.fit("bic", hierarchy, rank_options={"total_rank": TOTAL, "exact": True}, **ROUGH)


def french(output):
    """Run the command; write the picture to `output`."""
    check_outputs({"--output": output}, {})
    can_draw("--output", output)
    with warnings.catch_warnings():
        # Variances at the floor in fits with six factors; the likelihoods held out judge them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        data = load_french()
        print(paragraph(f"""
            Excess returns (%) of {len(data.names)} portfolios, {data.dates[0]} to
            {data.dates[-1]}.  Their errors share {TOTAL} factors, split by BIC over market,
            families of portfolios and size groups."""), end="\n\n")
        specs = factor_model(data), past_year(data)
        factors, past = (_three(spec, data.hierarchy) for spec in specs)
        _print_factors(factors)
        _print_past(past)
        _print_tests(factors, past)
        _print_held_out(specs, data.hierarchy)
        save_picture(output, lambda: _picture(factors, past))


def _three(spec, hierarchy):
    """The tree, a single level of as many factors, and independent errors: least squares."""
    model = spec.model()
    ranks = choose(model, hierarchy).covariance.ranks
    return model.fit(ranks, hierarchy), model.fit(TOTAL), model.fit(0)


def _in_order(fit):
    return [fit.data.names.equations[j] for j in fit.covariance.hierarchy.permutation]


def _brief(b, se):
    """A coefficient with its standard error in brackets, which is below 1."""
    return f"{b:.2f} ({f'{se:.2f}'.removeprefix('0')})"


def _print_factors(fits):
    tree, _, ols = fits
    found, plain = coefficient_table(tree), coefficient_table(ols)
    names = tree.data.names.regressors[0]
    change = {pair: found[pair][1] / plain[pair][1] - 1 for pair in found}
    rows = [(equation, *(_brief(*found[equation, name][:2]) for name in names),
             percent(max((change[equation, name] for name in names), key=abs)) + "%")
            for equation in _in_order(tree)]
    print(table(("1: four factors", "alpha", *names[1:], "se"), rows, gap=1))
    moved = max(abs(found[pair][0] - plain[pair][0]) for pair in found)
    print("", paragraph(f"""
        SUR with ranks {tree.covariance.ranks}, standard errors in brackets; se: their largest
        change from least squares equation by equation (OLS).  With one X in all equations SUR is
        OLS whatever the errors (coefficients differ by {moved:.1g} at most); only joint tests
        change, see below."""), sep="\n", end="\n\n")


def _print_past(fits):
    tree, _, ols = fits
    found, plain = map(_slopes, (tree, ols))
    change = {name: found[name][1] / plain[name][1] - 1 for name in found}
    rows = [(equation, *(f"{x:.3f}" for x in plain[equation][:2]), f"{plain[equation][2]:.2f}",
             *(f"{x:.3f}" for x in found[equation][:2]), f"{found[equation][2]:.2f}",
             percent(change[equation], 0) + "%") for equation in _in_order(tree)]
    print(table(("2: own past year", "OLS", "se", "t", "SUR", "se", "t", "se"), rows))
    robust = [_slopes(fit.with_cov("robust")) for fit in (tree, ols)]
    steady = [robust[0][name][1] / robust[1][name][1] - 1 for name in found]
    sure = [sum(row[3] < 0.05 for row in slopes.values()) for slopes in (plain, found)]
    # Of OLS and an efficient estimate: the variance of the difference is that of the variances.
    apart = sum(abs(found[name][0] - plain[name][0])
                > 1.96 * np.sqrt(abs(plain[name][1] ** 2 - found[name][1] ** 2)) for name in found)
    median, median_robust = (percent(np.median(x), 0) for x in (list(change.values()), steady))
    print("", paragraph(f"""
        Does last year's winner win again?  Slopes on the portfolio's mean return above the market
        over the {YEAR} months before, SUR with ranks {tree.covariance.ranks}.  Each equation has
        an X of its own, and the errors of the others tell it what the market did this month:
        standard errors change by {median}% in the median (robust ones by
        {median_robust}%).  Slopes with p < 0.05: {sure[0]} by OLS, {sure[1]} by SUR (by
        windows of 1 to 60 months 6 to 13 were found, most by this one).  Of {len(found)}
        differences between the two {apart} exceed chance at 5% ({0.05 * len(found):.1f}
        expected)."""),
        sep="\n", end="\n\n")


def _slopes(fit):
    return {equation: row for (equation, name), row in coefficient_table(fit).items()
            if name == "past"}


def _print_tests(factors, past):
    """Wald tests of zeros by three models of the errors."""
    rows = []
    for label, *fits in zip(ERRORS, factors, past, strict=True):
        tests = [fit.wald_test([{(equation, name): 1.0} for equation in fit.data.names.equations])
                 for fit, name in zip(fits, (CONSTANT, "past"), strict=True)]
        rows.append((label, *(text for test in tests for text in (
            f"{test.statistic:.2f}", f"{test.df_denom:,.0f}", f"{test.pvalue:.1e}"))))
    print(table((f"F test, {tests[0].df} zeros", "1: alphas", "df", "p", "2: slopes", "df", "p"),
                rows), end="\n\n")


def _print_held_out(specs, hierarchy):
    rows = []
    for label, spec in zip(("1: four factors", "2: own past year"), specs, strict=True):
        scores = np.array(list(spec.held_out(hierarchy)))
        gains = scores[:, 0] - scores[:, 1]
        rows.append((label, *(f"{x:.2f}" for x in scores.mean(axis=0)), f"{gains.mean():+.2f}",
                     " ".join(f"{x:+.2f}" for x in gains)))
    print(table(("log-likelihood", *ERRORS, "gain", f"in each of {PARTS} parts"), rows, gap=1))
    print("", paragraph(f"""
        A month, of months held out: each fifth in turn, ranks chosen on the other months.  Gain:
        of the tree over a single level of {TOTAL} factors, which stores equally many numbers.
        """), sep="\n")


def _picture(factors, past):
    import matplotlib.pyplot as plt

    from ..plotting import plot_coefficients

    figure = plt.figure(figsize=(15, 7.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1])
    left.suptitle("four factors: SUR is least squares", fontsize=12, weight="bold")
    right.suptitle("own past year: SUR is more precise", fontsize=12, weight="bold")
    axes = plot_coefficients(factors[0], axes=left.subplots(1, 5, sharey=True))
    axes[0].set_title("alpha", fontsize=10)
    left.supxlabel("coefficient and 95% interval", fontsize=9)
    (slope,) = plot_coefficients({"least squares": past[2], "SUR, tree": past[0]}, ["past"],
                                 [right.subplots()])
    slope.set_title("slope and 95% interval", fontsize=10)
    return figure
