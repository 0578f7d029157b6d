"""Parts of printed summaries, which all have one width and one form of names and numbers."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["NAME", "WIDTH", "coefficient_columns", "coefficient_lines", "number", "paragraph",
           "ratio", "short", "side_by_side", "title"]

WIDTH = 78
NAME = 16  # characters of a name


def title(text: str) -> list[str]:
    """A centred line and a rule below it."""
    return [f"{text:^{WIDTH}}".rstrip(), "=" * WIDTH]


def side_by_side(left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]]
                 ) -> Iterator[str]:
    """Pairs of name and value in two columns; the shorter one may end early."""
    rows = max(len(left), len(right))
    columns = ([*pairs, *[("", "")] * (rows - len(pairs))] for pairs in (left, right))
    for (a, b), (c, d) in zip(*columns, strict=True):
        yield f"{a}{b:>{35 - len(a)}}    {c}{d:>{39 - len(c)}}".rstrip()


def number(x: float) -> str:
    """Four decimals, as regression tables have them; more digits where four show nothing."""
    size = abs(x)
    return f"{x:.4f}" if size == 0 or 1e-3 <= size < 1e5 else f"{x:.3e}"


def ratio(t: float) -> str:
    """A t or z value."""
    return f"{t:.3f}" if abs(t) < 1e4 else f"{t:.1e}"


def short(name: object) -> str:
    """A name of at most `NAME` characters."""
    text = str(name)
    return text if len(text) <= NAME else text[: NAME - 3] + "..."


def paragraph(text: str) -> Iterator[str]:
    """A rule and a text broken into lines."""
    yield "-" * WIDTH
    yield from textwrap.wrap(text, WIDTH)


def coefficient_columns(alpha: float, known: bool) -> list[str]:
    """Heads of a table of coefficients; z in place of t where the size of errors is known."""
    letter = "z" if known else "t"
    return ["coef", "std err", letter, f"P>|{letter}|", f"[{alpha / 2:.6g}",
            f"{1 - alpha / 2:.6g}]"]


def coefficient_lines(names: Iterable[object], table: Iterable[Iterable[float]],
                      columns: Iterable[str]) -> Iterator[str]:
    """A head, a rule and a line a coefficient; `table` has the columns of `coefficient_columns`."""
    line = "{:<16}{:>11}{:>11}{:>9}{:>8}{:>11}{:>12}"
    yield line.format("", *columns).rstrip()
    yield "-" * WIDTH
    for name, (b, se, t, p, low, high) in zip(names, table, strict=True):
        yield line.format(short(name), number(b), number(se), ratio(t), f"{p:.3f}", number(low),
                          number(high))
