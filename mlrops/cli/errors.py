"""What the user of a command got wrong."""

import difflib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["CommandError", "in_options", "needed", "reporting", "unknown"]


class CommandError(Exception):
    """Printed in one line, without a traceback; the command exits with code 2."""


def unknown(name: str, known: Iterable[str], where: str) -> CommandError:
    """An error for a name that does not exist, with those it may stand for."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    if not close:  # of the same letters in another case
        close = [other for other in known if other.lower() == name.lower()]
    hint = (f"did you mean {' or '.join(close)}?" if close
            else f"there are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}")
    return CommandError(f"{where} has no column {name}; {hint}")


def needed(path: str, module: str, extra: str) -> Any:
    """The module that reads a file, or an error that says how to get it."""
    try:
        return import_module(module)
    except ImportError:
        raise CommandError(f"{path} is read by {module.partition('.')[0]}, which is not installed:"
                           f' python -m pip install "mlrops[{extra}]"') from None


@contextmanager
def reporting(command: str) -> Iterator[None]:
    """Warnings become lines on stderr; what the models refuse becomes an error of the command."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"mlrops {command}: warning: {message}", file=sys.stderr)
        try:
            yield
        except (ValueError, TypeError, np.linalg.LinAlgError) as error:
            raise CommandError(error) from error


@contextmanager
def in_options(parameters: Sequence[str], **other: str) -> Iterator[None]:
    """What the library refuses about its parameters becomes an error about the command's options.

    The `parameters` have options of the same name, such as ``n_levels`` and ``--n-levels``;
    `other` gives the options of further ones.  A parameter is known by a value behind it
    (``psd=True``), or by an underscore, which no word has.
    """
    options = {name: f"--{name.replace('_', '-')}" for name in parameters} | other
    try:
        yield
    except (ValueError, TypeError) as error:
        raise CommandError(_about_options(options, str(error))) from error


def _about_options(options, text):
    names = "|".join(map(re.escape, options))
    value = r"""(?P<value>'[^']*'|"[^"]*"|[\w.+-]*\w)"""

    def option(found):
        name, value = options[found["name"]], found["value"]
        if value is None:
            return name if "_" in found["name"] else found[0]
        if value == "False":
            return f"--no-{name.removeprefix('--')}"
        return name if value == "True" else f"{name} {value.strip(chr(34) + chr(39))}"

    return re.sub(rf"\b(?P<name>{names})\b(?: ?= ?{value})?", option, text)
