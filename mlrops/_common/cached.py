"""Values that are computed on first use and kept: once, even where several threads ask.

``functools.cached_property`` has one lock for all objects of a class up to Python 3.11, where one
object that factors keeps every other waiting, and no lock at all since 3.12, where threads repeat
the work.  Here each value of each object has a lock of its own.  It exists only while somebody
computes the value, in a table beside the objects, so that there is nothing to pickle or to copy.
Waiting threads cannot deadlock: a value waits for another only where it is computed from it.

A child that is forked while another thread computes inherits locks whose holder does not exist
there; it starts with an empty table, and computes what the parent had not finished.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["cached_property", "computed_once"]

# (id of an object, name of the value): [lock, number of threads that hold it or wait for it].  The
# objects are alive as long as they have an entry: a caller holds them.
_guard = threading.RLock()
_computing: dict[tuple[int, str], list[Any]] = {}


def _start_anew():
    global _guard
    _guard = threading.RLock()
    _computing.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_start_anew)


def computed_once(obj: object, name: str, compute: Callable[[], Any]) -> Any:
    """``vars(obj)[name]``, which is ``compute()`` where there is none yet.

    One thread computes; others that ask for this value of this object meanwhile wait for it.  An
    exception leaves nothing behind, and the next thread tries.
    """
    values = vars(obj)
    if name in values:
        return values[name]
    key = id(obj), name
    with _guard:
        entry = _computing.setdefault(key, [threading.RLock(), 0])
        entry[1] += 1
    try:
        with entry[0]:
            if name not in values:
                values[name] = compute()
            return values[name]
    finally:
        with _guard:
            entry[1] -= 1
            if entry[1] == 0 and _computing.get(key) is entry:  # not in a child forked meanwhile
                del _computing[key]


class cached_property(functools.cached_property):
    """A property computed on first use and kept in the object's ``__dict__``, by one thread."""

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        return computed_once(instance, self.attrname, lambda: self.func(instance))
