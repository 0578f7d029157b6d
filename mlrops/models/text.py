"""What the printed summaries of models share: their width, and how names and numbers look."""

import textwrap

__all__ = ["NAME", "WIDTH", "number", "paragraph", "ratio", "short", "side_by_side", "title"]

WIDTH = 78
NAME = 16  # characters of a name


def title(text):
    """A centred line and a rule below it."""
    return [f"{text:^{WIDTH}}".rstrip(), "=" * WIDTH]


def side_by_side(left, right):
    """Pairs of name and value in two columns; the shorter one may end early."""
    rows = max(len(left), len(right))
    columns = ([*pairs, *[("", "")] * (rows - len(pairs))] for pairs in (left, right))
    for (a, b), (c, d) in zip(*columns, strict=True):
        yield f"{a:<14}{b:>21}    {c:<19}{d:>20}".rstrip()


def number(x):
    """Four decimals, as regression tables have them; more digits where four show nothing."""
    size = abs(x)
    return f"{x:.4f}" if size == 0 or 1e-3 <= size < 1e5 else f"{x:.3e}"


def ratio(t):
    """A t or z value."""
    return f"{t:.3f}" if abs(t) < 1e4 else f"{t:.1e}"


def short(name):
    """A name of at most `NAME` characters."""
    name = str(name)
    return name if len(name) <= NAME else name[: NAME - 3] + "..."


def paragraph(text):
    """A rule and a text broken into lines."""
    yield "-" * WIDTH
    yield from textwrap.wrap(text, WIDTH)
