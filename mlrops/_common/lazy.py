"""Modules and names that are loaded when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, modules: Iterable[str] = (), names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package that loads its parts on first use.

    `package` is its ``__name__``, `modules` are modules of it, and `names` gives for other names
    the module of the package that has each.
    """
    home, known = dict(names or {}), set(modules)

    def load(name: str) -> Any:
        if name in known:
            return import_module(f"{package}.{name}")
        if name in home:
            value = getattr(import_module(f"{package}.{home[name]}"), name)
            setattr(sys.modules[package], name, value)  # the next look-up does not come here
            return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *known, *home})

    return load, listed
