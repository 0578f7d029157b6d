"""Files that a command writes: refused before the work begins, written whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..io.archive import check_regular, replacing
from .errors import CommandError

__all__ = ["can_draw", "check_outputs", "save_picture", "write_picture", "write_text", "writing"]


def check_outputs(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Refuse files that could not be written in the end, given by option; leaves nothing behind."""
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


def can_draw(option: str, path: str) -> bool:
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


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """An OSError becomes an error of the command."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8."""
    with writing(path), replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_picture(path: str | Path, figure: Any) -> None:
    """Write a figure of pyplot in the format of the path's ending, and close it."""
    import matplotlib.pyplot as plt

    try:
        with writing(path), replacing(path) as file:
            figure.savefig(file, format=_ending(path), dpi=130)
    finally:
        plt.close(figure)


def save_picture(path: str, draw: Callable[[], Any]) -> None:
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
