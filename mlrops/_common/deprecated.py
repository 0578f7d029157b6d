"""Names of earlier versions, which work for one version more and say what they are called now."""

import functools
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["OldName", "moved_names", "old_attribute", "other_name", "renamed_options",
           "replaced_option", "warn_old"]

F = TypeVar("F", bound=Callable[..., Any])


def warn_old(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that `old` is called `new` now."""
    warnings.warn(
        f"{old} is called {new} since version 0.2.0; the old name goes in 0.3.0",
        DeprecationWarning,
        stacklevel=stacklevel)


class OldName(property):
    """An attribute under its earlier name: reading it warns and gives what it is called now."""


def old_attribute(old: str, new: str) -> property:
    """A property of the name that an attribute had, which gives the attribute `new`."""

    def read(self: Any) -> Any:
        kind = type(self).__name__
        warn_old(f"{kind}.{old}", f"{kind}.{new}")
        return getattr(self, new)

    read.__doc__ = f"Earlier name of `{new}`."
    return OldName(read)


def other_name(name: str, users: str = "linearmodels") -> property:
    """A property that gives the attribute `name` under the name that it has elsewhere."""

    def read(self: Any) -> Any:
        return getattr(self, name)

    read.__doc__ = f"Another name of `{name}`, that of {users}."
    return property(read)


def renamed_options(**renamed: str) -> Callable[[F], F]:
    """Decorator of a function some options of which were called otherwise: ``old="new"``."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            return function(*args, **_new_names(function.__name__, renamed, options))

        return call  # type: ignore[return-value]

    return decorate


def _new_names(function: str, renamed: Mapping[str, str], options: dict[str, Any]
              ) -> dict[str, Any]:
    for old in renamed.keys() & options.keys():
        new = renamed[old]
        if new in options:
            raise TypeError(f"{function} got both {new}= and {old}=, its earlier name: give {new}=")
        warn_old(f"{function}({old}=)", f"{new}=", stacklevel=4)
        options[new] = options.pop(old)
    return options


def replaced_option(old: str, new: str, words: Mapping[bool, str]) -> Callable[[F], F]:
    """Decorator of a function whose option `old`, on or off, became a word of the option `new`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if old in options:
                value = bool(options.pop(old))
                if new in options:
                    raise TypeError(f"{function.__name__} got both {new}= and {old}=, which it"
                                    f" replaces: give {new}=")
                warnings.warn(
                    f"{old}={value} is {new}={words[value]!r} since version 0.3.0; the old option"
                    " goes in 0.4.0", DeprecationWarning, stacklevel=2)
                options[new] = words[value]
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return decorate


def moved_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module from which names moved, each to the module in `homes`.

    Where a name is another one there, its home is ``"module:name"``.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, new = homes[name].partition(":")
        warn_old(f"{package}.{name}", f"{home}.{new or name}")
        return getattr(import_module(home), new or name)

    return find
