"""How messages list and count: one wording for everybody."""

from collections.abc import Iterable
from typing import Any

__all__ = ["agree", "counted", "name_some"]


def name_some(indices: Iterable[Any], limit: int = 5) -> str:
    """Spell out the first few indices of a list: ``"3, 17, 20 and 4 more"``."""
    indices = [str(i) for i in indices]
    shown = ", ".join(indices[:limit])
    return shown if len(indices) <= limit else f"{shown} and {len(indices) - limit} more"


def agree(n: int, one: str, many: str) -> str:
    """The word that goes with a count: ``agree(n, "has", "have")``."""
    return one if n == 1 else many


def counted(n: int, noun: str, spec: str = "") -> str:
    """A count and its noun: ``"1 entry"``, ``"2 entries"``; `spec` formats the number."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{n:{spec}} {agree(n, noun, plural)}"
