"""A hierarchy as text: what `Hierarchy.describe` prints."""

from typing import Any, TypeAlias

import numpy as np

from .._common.wording import counted
from .grouping import as_integer

__all__ = ["describe"]

Hierarchy: TypeAlias = Any  # its file imports this one


def describe(tree: Hierarchy, max_groups: int) -> str:
    """See `Hierarchy.describe`."""
    max_groups = as_integer(max_groups, "max_groups")
    if max_groups < 1:
        raise ValueError(f"max_groups must be at least 1, got {max_groups}")
    counts = ", ".join(f"{p:,}" for p in tree.group_counts)
    lines = [f"Hierarchy of {counted(tree.n, 'feature', ',')}, groups by level: {counts}"]
    _draw(tree, lines, "", 0, 0, tree.group_counts[0], max_groups)
    return "\n".join(lines)


def _draw(tree, lines, indent, level, first, last, budget):
    """Draw groups first to last - 1 of a level; `budget` groups at most, subtrees included."""
    count = last - first
    shown = min(count, budget)
    if _subtree(tree, level, first, last) > budget and level < tree.n_levels - 1:
        shown = min(count, (budget + 1) // 2)  # half goes to width, half to depth
    spare = budget - shown
    for g in range(first, first + shown):
        ends = g == last - 1
        line = f"{indent}{'└─' if ends else '├─'} {_title(tree, level, g)}"
        if level == tree.n_levels - 1:
            lines.append(line)
            continue
        a, b = np.searchsorted(tree.boundaries[level + 1], tree.boundaries[level][g : g + 2])
        hidden = _subtree(tree, level + 1, a, b)
        given = min(hidden, spare)
        spare -= given
        if given:
            lines.append(f"{line} in {counted(b - a, 'group', ',')}")
            _draw(tree, lines, indent + ("   " if ends else "│  "), level + 1, a, b, given)
        else:
            lines.append(f"{line} ... {counted(hidden, 'more group', ',')}")
    if shown < count:
        lines.append(f"{indent}└─ ... {count - shown:,} more")


def _subtree(tree, level, first, last):
    """Number of groups of this and all finer levels within groups first to last - 1."""
    span = tree.boundaries[level][[first, last]]
    return sum(int(np.diff(np.searchsorted(b, span))[0]) for b in tree.boundaries[level:])


def _title(tree, level, group):
    names, offsets = tree.names(level), tree.boundaries[level]
    default = "all" if offsets.size == 2 else f"group {group}"
    name = default if names is None else names[group]
    return f"{name}: {counted(offsets[group + 1] - offsets[group], 'feature', ',')}"
