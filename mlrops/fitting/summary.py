"""A fitted multilevel low rank matrix as text."""

from .._common.text import WIDTH, paragraph, side_by_side, title
from .._common.wording import name_some

__all__ = ["summarize"]


def summarize(fit, heading, steps):
    """The text of `MLRFit.summary`."""
    rule = "=" * WIDTH
    return "\n".join([*title(heading), *_facts(fit, steps), rule, *_levels(fit.operator),
                      *_capped(fit.capped), rule])


def _facts(fit, steps):
    """Pairs of name and value, in two columns."""
    m, n = fit.operator.shape
    left = [
        ("Rows", f"{m:,}"),
        ("Columns", f"{n:,}"),
        ("Levels", f"{len(fit.ranks)}"),
        ("Total rank", f"{sum(fit.ranks):,}"),
        ("Numbers stored", f"{fit.operator.storage:,}"),
        ("of the dense matrix", f"{fit.operator.storage / (m * n):.1%}"),
    ]
    right = [
        ("Relative error", f"{fit.error:.4g}"),
        ("of the start", f"{fit.objective_trace[0]:.4g}"),
        *steps,
        ("Seconds", f"{fit.times[-1]:.3g}"),
        ("Stopped on", fit.termination),
        ("Converged", "yes" if fit.converged else "no"),
    ]
    return side_by_side(left, right)


def _levels(operator):
    """A line a level: its groups, the sides of their blocks, and what its factors hold."""
    rows, cols = operator.rows, operator.cols
    form = "{:<8}{:>12}{:>18}{:>18}{:>8}{:>14}"
    yield form.format("level", "groups", "rows a group", "columns a group", "rank", "numbers")
    yield "-" * WIDTH
    for level, r in enumerate(operator.ranks):
        yield form.format(
            level, f"{rows.group_counts[level]:,}", _range(rows.group_sizes(level)),
            _range(cols.group_sizes(level)), f"{r:,}", f"{sum(operator.shape) * r:,}")


def _range(sizes):
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _capped(capped):
    """Groups whose blocks cannot have the rank of their level."""
    if capped:
        groups = [f"level {level} group {g}" for level, g, _ in capped]
        yield from paragraph(f"Groups with a side shorter than the rank: {len(groups):,}"
                             f" ({name_some(groups)})")
