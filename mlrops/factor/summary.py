"""A fitted factor model as text."""

import itertools
import math
import textwrap
from typing import Any, TypeAlias

import numpy as np

from .._common.text import WIDTH, paragraph, short, side_by_side, title
from .._common.wording import name_some
from .prior import PRIOR_HELPS, summary_facts, summary_remark

__all__ = ["summarize"]

FactorModelResult: TypeAlias = Any  # its file imports this one


def summarize(fit: FactorModelResult, max_factors: int, top: int) -> str:
    """The text of `FactorModelResult.summary`."""
    rule = "=" * WIDTH
    parts = [*title("Factor model"), *_facts(fit), rule, *_levels(fit), *_remarks(fit),
             *_strengths(fit)]
    if max_factors:
        parts += _factors(fit, max_factors, top)
    return "\n".join([*parts, rule])


def _facts(fit):
    """Pairs of name and value, in two columns."""
    h = fit.covariance.hierarchy
    left = [
        ("Features", f"{h.n:,}"),
        ("Samples", f"{fit.n_samples:,}"),
        ("Levels", f"{h.n_levels}"),
        ("Factors", f"{np.dot(h.group_counts, fit.covariance.ranks):,}"),
        ("Updates", f"{fit.n_iter:,}"),
        ("Evaluations", f"{fit.n_evaluations:,}"),
        ("Converged", "yes" if fit.converged else "no")]
    right = [
        ("Log-likelihood", f"{fit.n_samples * fit.loglik:,.2f}"),
        ("a sample", f"{fit.loglik:,.6g}"),
        ("Degrees of freedom", f"{fit.degrees_of_freedom:,}"),
        ("AIC", f"{fit.aic:,.2f}"),
        ("BIC", f"{fit.bic:,.2f}"),
        ("Stopped on", fit.termination),
        ("Gradient norm", "not known" if math.isnan(fit.gradient_norm)
         else f"{fit.gradient_norm:.2g}")]
    if fit.prior:
        right.insert(2, ("less the prior's penalty", f"{fit.n_samples * fit.objective:,.2f}"))
        left += summary_facts(fit)
    return side_by_side(left, right)


def _levels(fit):
    """A line a level: its groups and what it explains."""
    h, ranks = fit.covariance.hierarchy, fit.covariance.ranks
    total, equal = fit.variance_shares(), fit.variance_shares(by="correlation")
    form = "{:<8}{:>12}{:>20}{:>8}{:>15}{:>15}"
    yield form.format("level", "groups", "features a group", "rank", "share of var.", "mean share")
    yield "-" * WIDTH
    for level, (p, r) in enumerate(zip(h.group_counts, ranks, strict=True)):
        sizes = h.group_sizes(level)
        low, high = int(sizes.min()), int(sizes.max())
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        yield form.format(level, f"{p:,}", size, r, f"{total[level]:.1%}", f"{equal[level]:.1%}")
    yield form.format("D", "", "", "", f"{total[-1]:.1%}", f"{equal[-1]:.1%}")


def _remarks(fit):
    """Variances at the floor, and groups that cannot use their rank."""
    names = fit.feature_names
    if len(fit.boundary):
        at_floor = [i if names is None else short(names[i]) for i in fit.boundary]
        yield from paragraph(f"Variances at the floor (Heywood cases): {len(at_floor):,}"
                              f" ({name_some(at_floor)}). {PRIOR_HELPS}")
    labels = [str(i) if names is None else short(names[i]) for i in range(fit.n_features)]
    if (remark := summary_remark(fit, labels, "feature")) is not None:
        yield from paragraph(remark)
    if fit.capped:
        groups = [f"level {level} group {g}" for level, g, _ in fit.capped]
        yield from paragraph(f"Groups with too few features for their rank: {len(groups):,}"
                              f" ({name_some(groups)})")


def _strengths(fit):
    """A line a strength of the prior that cross-validation compared."""
    if not fit.prior_table:
        return
    yield "-" * WIDTH
    form = "{:<2}{:>18}{:>24}{:>34}"
    yield form.format("", "prior's strength", "held out, a sample", "standard error to the best")
    for strength, mean, error in fit.prior_table:
        mark = "*" if strength == fit.prior else ""
        yield form.format(mark, f"{strength:g}", f"{mean:.6g}", f"{error:.2g}")


def _factors(fit, max_factors, top):
    """A line a factor: the features with the largest standardized loadings."""
    lines = list(itertools.islice(_loadings(fit, top), max_factors + 1))
    if not lines:
        return
    yield "-" * WIDTH
    yield "level, group, factor: largest loadings, in standard deviations of the feature"
    for line in lines[:max_factors]:
        glued = f"  {line}".replace(" ", "\0").replace(",\0", ", ")  # broken after commas only
        for part in textwrap.wrap(glued, WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False):
            yield part.replace("\0", " ")
    if len(lines) > max_factors:
        yield "  ... and more factors"


def _loadings(fit, top):
    """Title and largest loadings of one factor after the other, those of zeros left out."""
    h, names = fit.covariance.hierarchy, fit.feature_names
    sd = np.sqrt(fit.covariance.diagonal())
    for level, F in enumerate(fit.covariance.factors):
        groups = h.names(level)
        for group in range(h.group_counts[level] if F.any() else 0):
            features = h.features(level, group)
            name = group if groups is None else short(groups[group])
            for k in range(F.shape[1]):
                loadings = F[features, k] / sd[features]
                first = np.argsort(-np.abs(loadings), kind="stable")[:top]
                if loadings.any():
                    yield f"{level}, {name}, {k}: " + ", ".join(
                        f"{short(i if names is None else names[i])} {x:+.2f}"
                        for i, x in zip(features[first], loadings[first], strict=True))
