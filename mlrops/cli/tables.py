"""How the commands print tables."""

import textwrap
from collections.abc import Sequence
from typing import Any

__all__ = ["CONSTANT", "coefficient_table", "columns", "markdown", "paragraph", "percent", "table"]

CONSTANT = "const"  # the name of an intercept


def columns(rows: Sequence[Sequence[str]], gap: int = 2, left: int = 1) -> list[str]:
    """Lines of rows of text, the first `left` cells of a row to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [(" " * gap).join(cell.ljust(width) if i < left else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], gap: int = 2,
          left: int = 1) -> str:
    """Rows of text below their head and a rule."""
    first, *rest = columns([head, *rows], gap, left)
    return "\n".join([first, "-" * len(first), *rest])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                     for row in [head, ["---"] * len(head), *rows])


def paragraph(text: str) -> str:
    """Words broken into lines of a terminal."""
    return textwrap.fill(" ".join(text.split()), 79, break_long_words=False, break_on_hyphens=False)


def percent(change: float, digits: int = 1) -> str:
    """A relative change with its sign; what rounds to nothing is +0."""
    return f"{round(100 * change, digits) + 0.0:+.{digits}f}"


def coefficient_table(fit: Any) -> dict[tuple[str, str], list[float]]:
    """``{(equation, regressor): (coef, se, t, p, low, high)}``."""
    return dict(zip(fit.names.coefficients(), fit.inference.table().tolist(), strict=True))
