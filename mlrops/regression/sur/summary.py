"""A fitted system of regressions as text and as one table."""

import textwrap

import numpy as np

from ..._common.optional import import_pandas
from ..._common.text import (
    NAME,
    WIDTH,
    coefficient_columns,
    coefficient_lines,
    number,
    short,
    side_by_side,
    title,
)
from ..._common.wording import name_some
from .hypotheses import coefficient_names

__all__ = ["coefficient_frame", "flat", "summarize_system"]

def flat(x):
    """What belongs to the coefficients, one after the other: of lists, Series or DataFrames."""
    return np.concatenate(x) if isinstance(x, list) else np.asarray(x)


def _table(fit, alpha):
    """Columns of `coefficient_columns` for all coefficients, (P, 6)."""
    bare = fit._by_number  # pandas objects are for the user
    return np.column_stack([flat(bare.params), flat(bare.bse), flat(bare.tvalues),
                            flat(bare.pvalues), flat(bare.conf_int(alpha))])


def _columns(fit, alpha):
    return coefficient_columns(alpha, bool(np.isinf(fit._df_resid).all()))


def coefficient_frame(fit, alpha):
    """The DataFrame of `SystemTests.to_frame`."""
    pd = import_pandas()

    names = coefficient_names(fit)
    pairs = [(equation, regressor) for equation, regressors
             in zip(names.equations, names.regressors, strict=True) for regressor in regressors]
    index = pd.MultiIndex.from_tuples(pairs, names=["equation", "regressor"])
    if fit.data.names is None:
        index = index.set_levels([level.astype(int) for level in index.levels])
    return pd.DataFrame(_table(fit, alpha), index=index, columns=_columns(fit, alpha))


def summarize_system(fit, alpha, max_equations):
    """The text of `SystemTests.summary`."""
    rule = "=" * WIDTH
    lines = [*title("Seemingly unrelated regressions"), *_facts(fit), rule]
    for block in (_equations(fit, alpha, max_equations), _notes(fit)):
        block = list(block)
        lines += [*block, rule] if block else []
    return "\n".join(lines)


def _facts(fit):
    """Pairs of name and value, in two columns."""
    data, known = fit.data, fit.covariance_is_known
    cells = int(np.sum(data.nobs))
    left = [
        ("Equations", f"{fit.K:,}"),
        ("Rows", f"{fit.N:,}"),
        ("Observations", f"{cells:,}"),
        ("Coefficients", f"{fit.P:,}"),
        ("Estimator", "GLS, known errors" if known else "maximum likelihood"),
        ("Std. errors", short(fit.cov_kind)),
    ]
    right = [
        ("Log-likelihood", f"{fit.N * fit.loglik:,.2f}"),
        ("AIC", f"{fit.aic:,.2f}"),
        ("BIC", f"{fit.bic:,.2f}"),
        ("Degrees of freedom", f"{fit.degrees_of_freedom:,}"),
        ("McElroy R-squared", f"{fit.mcelroy_rsquared:.4f}"),
    ]
    if fit.K > 1:
        right.append(("Breusch-Pagan", _correlation_test(fit)))
    if known:
        left.append(("Covariance", short(type(fit.covariance).__name__)))
    else:
        h, ranks = fit.covariance.hierarchy, fit.covariance.ranks
        left += [("Ranks", _few(ranks)), ("Groups", _few(h.group_counts))]
        right.append(("Iterations", f"{fit.n_iter:,}"))
    right.append(("Converged", f"{'yes' if fit.converged else 'no'} ({fit.termination})"))
    return side_by_side(left, right)


def _correlation_test(fit):
    try:
        test = fit.breusch_pagan()
    except ValueError:  # an equation without residuals, which a known Σ allows
        return "none"
    return f"{test.statistic:,.2f} (p {test.pvalue:.3f})"


def _few(numbers):
    """Numbers of the levels, as many as there is room for."""
    text = ", ".join(f"{x:,}" for x in numbers)
    return text if len(text) <= 24 else text[:21] + "..."


def _equations(fit, alpha, max_equations):
    """A table an equation, below the line that describes it."""
    shown = min(fit.K, max_equations)
    if not shown:
        return
    names, ends = coefficient_names(fit), np.cumsum([0, *(b.size for b in fit.coefficients)])
    table, columns = _table(fit, alpha), _columns(fit, alpha)
    spread = np.sqrt(np.asarray(fit.covariance.diagonal(), float))
    rsquared = fit._by_number.rsquared
    for j in range(shown):
        own = slice(ends[j], ends[j + 1])
        if j:
            yield "-" * WIDTH
        share = "none" if np.isnan(rsquared[j]) else f"{rsquared[j]:.4f}"
        name = f"equation {j}" if fit.data.names is None else short(names.equations[j])
        yield (f"{name:<{NAME}}{fit.data.nobs[j]:>8,} observations"
               f"   R-squared {share:>7}   error sd {number(spread[j]):>9}")
        if ends[j] < ends[j + 1]:
            letter = "x" if fit.data.names is None else ""
            yield from coefficient_lines([letter + name for name in names.regressors[j]],
                                         table[own], columns)
    if fit.K > shown:
        yield "-" * WIDTH
        yield f"... and {fit.K - shown:,} more equations"


def _notes(fit):
    """What a reader of the numbers has to know."""
    data, names = fit.data, coefficient_names(fit).equations
    notes = []
    if fit.covariance_is_known:
        notes.append("The covariance of the errors is known: z in place of t.")
    if not fit.converged:
        notes.append(f"Not converged: stopped on {fit.termination}.")
    if data.observed is not None:
        missing = data.observed.size - int(data.observed.sum())
        notes.append(f"Missing cells: {missing:,} of {data.observed.size:,}.")
    if data.weights is not None:
        notes.append("Observations are weighted.")
    if data.constraints is not None:
        notes.append(f"Linear constraints on the coefficients: {len(data.constraints[1]):,}.")
    for name, what in (("beta_ridge", "coefficients"), ("factor_ridge", "loadings")):
        if value := getattr(fit.options, name):
            notes.append(f"Penalty of the {what}: {name} {value:g}; the log-likelihood is without"
                         " it.")
    if len(fit.boundary):
        notes.append(f"Variances at the floor (Heywood cases): {len(fit.boundary):,}"
                     f" ({name_some(short(names[j]) for j in fit.boundary)}).")
    if fit.capped:
        groups = [f"level {level} group {_group(fit, level, g)}" for level, g, _ in fit.capped]
        notes.append(f"Groups of fewer equations than the rank: {len(groups):,}"
                     f" ({name_some(groups)}).")
    for note in notes:
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ")


def _group(fit, level, group):
    names = fit.covariance.hierarchy.names(level)
    return group if names is None else short(names[group])
