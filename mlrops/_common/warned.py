"""Warnings kept for later, by each thread those of its own."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

__all__ = ["InTurn", "Warned", "kept_warnings", "pass_on"]


class Warned(NamedTuple):
    """A warning, and the line that it is about."""

    message: Warning
    category: type[Warning]
    filename: str
    lineno: int


class InTurn:
    """A context of the whole process: the first thread to come enters it, the last one leaves it.

    What such a context finds and restores stays right where threads come and go in any order.
    """

    def __init__(self, make: Callable[..., AbstractContextManager[Any]]):
        self._make, self._lock, self._users = make, threading.RLock(), 0

    @contextmanager
    def __call__(self, *args: Any) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._context = self._make(*args)
                self._context.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._context.__exit__(None, None, None)


class _Local(threading.local):
    kept: list[Warned] | None = None


_local = _Local()


@contextmanager
def _shown_by_thread() -> Iterator[None]:
    """Show all warnings, those of a thread that keeps them to it."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message, category, filename, lineno, file=None, line=None):
            if _local.kept is None:
                usual(message, category, filename, lineno, file, line)
            else:
                _local.kept.append(Warned(message, category, filename, lineno))

        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


_shown = InTurn(_shown_by_thread)


@contextmanager
def kept_warnings() -> Iterator[list[Warned]]:
    """Keep all warnings of the calling thread, whatever filters there are, in place of showing.

    ``warnings.catch_warnings`` is for the whole process: threads that use it get one another's.
    """
    kept: list[Warned] = []
    outer = _local.kept
    with _shown():
        _local.kept = kept
        try:
            yield kept
        finally:
            _local.kept = outer


def pass_on(kept: Iterable[Warned], but: type[Warning] | None = None) -> None:
    """Warn of what was kept as if it came now: at its own line, by the filters of this process.

    Those of the category `but` are dropped.
    """
    for message, category, filename, lineno in kept:
        if but is not None and issubclass(category, but):
            continue
        where: dict[str, Any] = {}
        for names in (getattr(module, "__dict__", {}) for module in [*sys.modules.values()]):
            if names.get("__file__") == filename:
                where = {"module": names["__name__"],
                         "registry": names.setdefault("__warningregistry__", {})}
                break
        warnings.warn_explicit(message, category, filename, lineno, **where)
