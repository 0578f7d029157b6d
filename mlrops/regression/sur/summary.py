"""A fitted system of regressions as text."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from ..._common.text import NAME, WIDTH, coefficient_lines, number, short, side_by_side, title
from ..._common.validate import check_rank
from ..._common.wording import name_some
from ...factor.prior import PRIOR_HELPS, summary_facts, summary_remark
from . import measures
from .covariance import inference_of
from .hypotheses import breusch_pagan
from .system_fit import SystemFit

__all__ = ["summary"]

ESTIMATORS = {"factor": "maximum likelihood", "gls": "GLS, known errors",
              "fgls": "feasible GLS, 1 step", "ifgls": "feasible GLS, iterated"}


def summary(fit: SystemFit, alpha: float = 0.05, max_equations: int = 10) -> str:
    """The system as text, 78 columns wide: facts, a table an equation, notes.

    Parameters
    ----------
    alpha : float, default 0.05
        Confidence intervals have level ``1 - alpha``.
    max_equations : int, default 10
        Print the coefficients of at most so many equations; with 0 no standard errors are computed.

    Returns
    -------
    text : str
        For ``print``.  The error sd of an equation is the square root of its entry in Σ.
    """
    max_equations = check_rank(max_equations, "max_equations")
    rule = "=" * WIDTH
    lines = [*title("Seemingly unrelated regressions"), *_facts(fit), rule]
    for block in map(list, (_equations(fit, alpha, max_equations), _notes(fit))):
        lines += [*block, rule] if block else []
    return "\n".join(lines)


def _facts(fit: SystemFit) -> Iterator[str]:
    """Pairs of name and value, in two columns."""
    data, known = fit.data, fit.covariance_is_known
    cells = int(np.sum(data.nobs))
    left = [("Equations", f"{fit.n_equations:,}"), ("Rows", f"{fit.nobs:,}"),
            ("Observations", f"{cells:,}"), ("Coefficients", f"{fit.n_params:,}"),
            ("Estimator", ESTIMATORS[fit.method]),
            ("Std. errors", short(fit.cov_type))]
    right = [("Log-likelihood", f"{fit.llf:,.2f}"), ("AIC", f"{fit.aic:,.2f}"),
             ("BIC", f"{fit.bic:,.2f}"), ("Degrees of freedom", f"{fit.degrees_of_freedom:,}"),
             ("McElroy R-squared", f"{measures.mcelroy(fit):.4f}")]
    if fit.n_equations > 1:
        right.append(("Breusch-Pagan", _correlation_test(fit)))
    if known:
        left.append(("Covariance", short(type(fit.covariance).__name__)))
    elif fit.method != "factor":
        left.append(("Covariance", "unrestricted"))
        right.append(("Iterations", f"{fit.n_iter:,}"))
    else:
        h, ranks = fit.covariance.hierarchy, fit.covariance.ranks
        chosen = "" if fit.selection is None else f" ({fit.selection.criterion})"
        left += [("Ranks", _few(ranks) + chosen), ("Groups", _few(h.group_counts))]
        right.append(("Iterations", f"{fit.n_iter:,}"))
        right += summary_facts(fit)
    right.append(("Converged", f"{'yes' if fit.converged else 'no'} ({fit.termination})"))
    return side_by_side(left, right)


def _correlation_test(fit: SystemFit) -> str:
    try:
        test = breusch_pagan(fit)
    except ValueError:  # an equation without residuals, which a known Σ allows
        return "none"
    return f"{test.statistic:,.2f} (p {test.pvalue:.3f})"


def _few(numbers: Sequence[int]) -> str:
    """Numbers of the levels, as many as there is room for."""
    text = ", ".join(f"{x:,}" for x in numbers)
    return text if len(text) <= 24 else text[:21] + "..."


def _equations(fit: SystemFit, alpha: float, max_equations: int) -> Iterator[str]:
    """A table an equation, below the line that describes it."""
    shown = min(fit.n_equations, max_equations)
    if not shown:
        return
    names, ends, inference = fit.names, np.cumsum([0, *fit.data.p]), inference_of(fit)
    table, columns = inference.table(alpha), inference.columns(alpha)
    spread = np.sqrt(np.asarray(fit.covariance.diagonal(), float))
    rsquared = measures.equation_rsquared(fit)
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
    if fit.n_equations > shown:
        yield "-" * WIDTH
        yield f"... and {fit.n_equations - shown:,} more equations"


def _notes(fit: SystemFit) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    data, names = fit.data, fit.names.equations
    notes = []
    if fit.covariance_is_known:
        notes.append("The covariance of the errors is known: z in place of t.")
    elif fit.method != "factor":
        by_em = fit.method == "ifgls" and data.observed is not None
        how = "by EM" if by_em else f"with divisor {'N - p' if fit.options.dfk else 'N'}"
        law = f"t with {fit._df_resid[0]:,.0f} degrees of freedom" if fit.options.small else (
            "z in place of t")
        notes.append(f"Covariance of the residuals {how}: {law}.")
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
    if fit.prior:
        notes.append(f"Prior on the variances; the log-likelihood is without it, what was"
                     f" maximized is {fit.nobs * fit.objective:,.2f}.")
    if (remark := summary_remark(fit, list(map(short, names)), "equation")) is not None:
        notes.append(f"{remark}.")
    if len(fit.boundary):
        notes.append(f"Variances at the floor (Heywood cases): {len(fit.boundary):,}"
                     f" ({name_some(short(names[j]) for j in fit.boundary)}). {PRIOR_HELPS}.")
    if fit.capped:
        h = fit.covariance.hierarchy
        groups = [f"level {level} group {short((h.names(level) or range(g + 1))[g])}"
                  for level, g, _ in fit.capped]
        notes.append(f"Groups with too few equations for their rank: {len(groups):,}"
                     f" ({name_some(groups)}).")
    for note in notes:
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ")
