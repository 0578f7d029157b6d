"""A fitted factor model as text."""

import math
import textwrap

import numpy as np

from ..operators._validate import name_some

__all__ = ["summarize"]

WIDTH = 78
NAME = 16  # characters of a feature's name


def summarize(fit, max_factors, top):
    """The text of `FactorModelResult.summary`."""
    rule = "=" * WIDTH
    parts = [f"{'Factor model':^{WIDTH}}".rstrip(), rule, *_facts(fit), rule, *_levels(fit),
             *_remarks(fit)]
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
        ("Groups", _counts(h.group_counts)),
        ("Ranks", _counts(fit.covariance.ranks)),
        ("Updates", f"{fit.n_iter:,}"),
        ("Evaluations", f"{fit.n_evaluations:,}"),
    ]
    right = [
        ("Log-likelihood", f"{fit.n_samples * fit.loglik:,.2f}"),
        ("a sample", f"{fit.loglik:,.6g}"),
        ("Degrees of freedom", f"{fit.degrees_of_freedom:,}"),
        ("AIC", f"{fit.aic:,.2f}"),
        ("BIC", f"{fit.bic:,.2f}"),
        ("Stopped on", fit.termination if fit.converged else f"{fit.termination}, not converged"),
        ("Gradient norm", "not known" if math.isnan(fit.gradient_norm)
         else f"{fit.gradient_norm:.2g}"),
    ]
    for (a, b), (c, d) in zip(left, right, strict=True):
        yield f"{a:<12}{b:>23}    {c:<19}{d:>20}"


def _counts(numbers, width=23):
    text = ", ".join(f"{x:,}" for x in numbers)
    return text if len(text) <= width else text[: width - 4].rpartition(",")[0] + ", ..."


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
    """Variances at the floor, and groups too small for their rank."""
    names = fit.feature_names
    if len(fit.boundary):
        who = [i if names is None else _short(names[i]) for i in fit.boundary]
        yield from _paragraph(f"Variances at the floor (Heywood cases): {len(who):,} features"
                              f" ({name_some(who)})")
    if fit.capped:
        groups = [f"level {level} group {g}" for level, g, _ in fit.capped]
        yield from _paragraph(f"Fewer features than the rank: {len(groups):,} groups"
                              f" ({name_some(groups)})")


def _paragraph(text):
    yield "-" * WIDTH
    yield from textwrap.wrap(text, WIDTH)


def _factors(fit, max_factors, top):
    """A line a factor: the features with the largest standardized loadings."""
    h, names = fit.covariance.hierarchy, fit.feature_names
    sd = np.sqrt(fit.covariance.diagonal())
    lines = []
    for level, F in enumerate(fit.covariance.factors):
        for g in range(min(h.group_counts[level], max_factors)):
            features = h.features(level, g)
            block = F[features] / sd[features, None]
            for k in range(min(F.shape[1], max_factors)):
                first = np.argsort(-np.abs(block[:, k]), kind="stable")[:top]
                said = ", ".join(
                    f"{_short(i if names is None else names[i])} {loading:+.2f}"
                    for i, loading in zip(features[first], block[first, k], strict=True))
                lines.append((f"{level}, {_group(h, level, g)}, {k}", said))
            if len(lines) >= max_factors:
                break
    total = sum(p * r for p, r in zip(h.group_counts, fit.covariance.ranks, strict=True))
    if not lines:
        return
    yield "-" * WIDTH
    yield "level, group, factor: largest loadings, in standard deviations of the feature"
    for title, said in lines[:max_factors]:
        yield from textwrap.wrap(f"  {title}: {said}", WIDTH, subsequent_indent=" " * 6)
    if total > max_factors:
        yield f"  ... {total - max_factors:,} more factors"


def _group(hierarchy, level, group):
    names = hierarchy.names(level)
    return str(group) if names is None else _short(names[group])


def _short(name):
    name = str(name)
    return name if len(name) <= NAME else name[: NAME - 3] + "..."
