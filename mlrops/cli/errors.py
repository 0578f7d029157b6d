"""What the user of a command got wrong."""

import difflib

__all__ = ["CommandError", "unknown"]


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
