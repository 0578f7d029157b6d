"""The one way to show how far long work is: a bar where somebody looks, else a line now and then.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["progress_bar"]

# Seconds between two lines.
PAUSE = 5


class _Lines(tqdm):
    """A bar for files and pipes: each state is a line of its own."""

    def __init__(self, *args: Any, **options: Any):
        options |= {"mininterval": PAUSE, "miniters": 1, "bar_format": options.get(
            "bar_format", "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}{postfix}]")}
        super().__init__(*args, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        def write(line: str) -> None:
            if line:
                file.write(line + "\n")
                file.flush()

        return write

    def moveto(self, n: int) -> None:
        """Lines follow one another."""

    def close(self) -> None:
        if not self.disable:
            if self.leave and self.last_print_n != self.n:
                self.refresh()
            self.disable: bool = True
            self._decr_instances(self)


def progress_bar(items: Iterable[Any] | None = None, *, patient: bool = False, **options: Any
                 ) -> Any:
    """A tqdm bar: in notebooks a widget, on terminals as usual, else a line every few seconds.

    A `patient` one writes no line before the first few seconds are over.  Other options are those
    of tqdm.
    """
    if "ipykernel" in sys.modules and "ipywidgets" in sys.modules:
        from tqdm.notebook import tqdm as widget

        return widget(items, **options)
    if sys.stderr is None or sys.stderr.isatty():
        return tqdm(items, **options)
    return _Lines(items, delay=PAUSE if patient else 0, **options)
