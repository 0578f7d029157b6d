"""What a command prints: a terminal that cannot show it or is gone costs no result."""

import os
import sys
from contextlib import contextmanager, suppress

__all__ = ["Printer", "Unread", "printing"]


class Unread(Exception):
    """Nobody takes what a command prints, and it does nothing else."""


class Printer:
    """A text stream that replaces what its encoding lacks, and outlives its reader.

    A stream None, as in a process without a terminal, takes everything in silence.  `lost` says why
    nothing is written any more: a pipe that was closed, a disk that is full.  If `vital`, such an
    error is raised, as `Unread`.
    """

    def __init__(self, stream, vital=False):
        self.stream, self.vital, self.lost = stream, vital, None

    def __getattr__(self, name):
        if self.stream is None:
            raise AttributeError(name)
        return getattr(self.stream, name)

    def isatty(self):
        return self.lost is None and self.stream is not None and self.stream.isatty()

    def write(self, text):
        self._try(self._write, text)
        return len(text)

    def flush(self):
        if self.stream is not None:
            self._try(self.stream.flush)

    def _write(self, text):
        if self.stream is None:
            return
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self.stream, "encoding", None) or "ascii"
            self.stream.write(text.encode(encoding, "replace").decode(encoding))

    def _try(self, function, *args):
        if self.lost is not None:
            return
        try:
            function(*args)
        except (OSError, ValueError) as error:  # of a closed file it is a ValueError
            self.lost = error
            if self.vital:
                raise Unread from error

    def close_lost(self):
        """Let Python end in silence: at exit it would flush what cannot be written."""
        if self.lost is not None:
            with suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextmanager
def printing():
    """Within, the process's streams are a `Printer` each; yields that of standard output."""
    streams = sys.stdout, sys.stderr
    printers = [Printer(stream) for stream in streams]
    sys.stdout, sys.stderr = printers
    try:
        yield printers[0]
    finally:
        for printer in printers:
            with suppress(OSError):
                printer.flush()
            printer.close_lost()
        sys.stdout, sys.stderr = streams
