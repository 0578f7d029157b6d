"""What the user of a command got wrong."""

import difflib
import re
from contextlib import contextmanager

__all__ = ["CommandError", "in_options", "unknown"]


class CommandError(Exception):
    """Printed in one line, without a traceback; the command exits with code 2."""


def unknown(name, known, where):
    """An error for a name that does not exist, with those it may stand for."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    if not close:  # of the same letters in another case
        close = [other for other in known if other.lower() == name.lower()]
    hint = (f"did you mean {' or '.join(close)}?" if close
            else f"there are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}")
    return CommandError(f"{where} has no column {name}; {hint}")


@contextmanager
def in_options(options):
    """What the library refuses about its parameters, said of the command's options.

    Parameters
    ----------
    options : dict of str to str
        Option by name of the parameter, such as ``{"n_levels": "--levels"}``.  A parameter is known
        by a value behind it (``psd=True``), or by an underscore, which no word has.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise CommandError(_said_of(options, str(error))) from error


def _said_of(options, text):
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
