"""Files that a command writes: refused before the work begins, written whole or not at all."""

import os
import tempfile
from pathlib import Path

from ..io.archive import check_regular, replacing
from .errors import CommandError

__all__ = ["can_draw", "check_outputs", "save_picture", "write_picture", "write_text"]


def check_outputs(outputs, inputs):
    """Refuse files that could not be written in the end; leaves nothing behind.

    Parameters
    ----------
    outputs, inputs : dict of str to path or None
        By option, or by what else the file is called in a message.
    """
    taken = {os.path.realpath(path): what for what, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in taken:
            raise CommandError(f"{option} {path} would replace the file of {taken[real]}: give"
                               " another name")
        taken[real] = option
        reason = _refusal(real)
        if reason is not None:
            raise CommandError(f"{option} {path} cannot be written: {reason}")


def _refusal(path):
    """Why a file cannot come to stand there; None if it can."""
    folder = os.path.dirname(path)
    try:
        check_regular(path)
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(folder):
            return f"there is no folder {folder}"
    except OSError as error:
        return error.strerror
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror


def can_draw(option, path):
    """Whether there is matplotlib; refuses an ending that it does not know."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if _ending(path) not in known:
        raise CommandError(f"{option} {path} cannot be written: it must end in"
                           f" .{', .'.join(known)}")
    return True


def write_text(path, text):
    """Write a text in UTF-8."""
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None


def write_picture(path, figure):
    """Write a figure of pyplot in the format that its name tells, and close it."""
    import matplotlib.pyplot as plt

    try:
        with replacing(path) as file:
            figure.savefig(file, format=_ending(path), dpi=130)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        plt.close(figure)


def save_picture(path, draw):
    """Write the figure that `draw` makes, or say why there is none."""
    try:
        import matplotlib.pyplot  # noqa: F401 - whether it is there
    except ImportError as error:
        print(f"\nNo picture: {error}.  Install it with: python -m pip install matplotlib")
        return
    write_picture(path, draw())
    print(f"\nPicture written to {path}")


def _ending(path):
    return Path(path).suffix[1:].lower()
