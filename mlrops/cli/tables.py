"""How the commands print tables."""

import textwrap

__all__ = ["columns", "paragraph", "percent", "table"]


def columns(rows, gap=2, left=1):
    """Lines of rows of text, the first `left` cells of a row to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [(" " * gap).join(cell.ljust(width) if i < left else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows]


def table(head, rows, gap=2, left=1):
    """Rows of text below their head and a rule."""
    first, *rest = columns([head, *rows], gap, left)
    return "\n".join([first, "-" * len(first), *rest])


def paragraph(text):
    """Words broken into lines of a terminal."""
    return textwrap.fill(" ".join(text.split()), 79, break_long_words=False, break_on_hyphens=False)


def percent(change, digits=1):
    """A relative change with its sign; what rounds to nothing is +0."""
    return f"{round(100 * change, digits) + 0.0:+.{digits}f}"
