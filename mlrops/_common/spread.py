"""What is cut in parts that stay on the workers of a cluster, and files that cut their lineage.

A `Spread` is a value in parts: part i is what task i gives, and stays where it was computed.  Work
on it makes further tasks, which run once a number is asked for: then everything that is alive is
computed with it.  A lost worker costs what its parts were made of, back to the last files: now and
then a `Shelf` writes all that is alive, and tasks that load the files take the place of those that
computed it.  So neither what a loss costs nor what the scheduler remembers grows with the number of
steps.
"""

import os
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from .cluster import in_pairs, is_remote, merged, nothing, results_beside, task
from .optional import import_dask

__all__ = ["Shelf", "Spread"]

# Steps between two times that files are written: what a lost worker costs, and what the scheduler
# remembers, is bounded by the most.  Between the two it is written once the steps have taken so
# many times as long as the files did.
LEAST, MOST, TIMES = 10, 40, 20


class Shelf:
    """Keeps account of what is spread over the workers, and where it is written to.

    `anchors` are tasks, one a part: what is loaded again is loaded where these gave their results.
    The files go with the shelf, which everything spread on it holds.
    """

    def __init__(self, anchors: Sequence[Any]):
        self.anchors = list(anchors)
        self._alive: weakref.WeakSet[Spread] = weakref.WeakSet()
        self._number = 0
        self._files: dict[int, list[str]] = {}  # by the number of what is written
        self._directory = ""
        self._steps, self._last, self._took = 0, monotonic(), 0.0  # since the files, and for them

    def spread(self, parts: Iterable[Any]) -> "Spread":
        """Parts that tasks give."""
        found = Spread(self, parts)
        self._alive.add(found)
        return found

    def derived(self, function: Callable[..., Any], *given: Any) -> "Spread":
        """``function(*parts)`` of what is spread, to be made anew from these rather than written.
        """
        found = self.spread(())
        found.recipe = function, given
        found.renew()
        return found

    def results(self, *nodes: Any) -> list[Any]:
        """What tasks give here, with everything alive computed where it belongs."""
        pending = [x for x in self._alive if not x.stays]
        kept, found = results_beside([part for x in pending for part in x.parts], nodes)
        for x in pending:
            x.parts, kept = kept[: len(x.parts)], kept[len(x.parts) :]
            x.stays = True
        return found

    @property
    def directory(self) -> str:
        """Where the files are, by dask's setting temporary-directory."""
        if not self._directory:
            base = import_dask().config.get("temporary-directory", None)
            self._directory = tempfile.mkdtemp(prefix="mlrops-", dir=base)
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def _path(self, number: int, part: int) -> str:
        return os.path.join(self.directory, f"{number}-{part}")

    def step(self) -> None:
        """Count an evaluation or a product that begins, and write files if it is time to."""
        self._steps += 1
        rare = monotonic() - self._last >= TIMES * self._took
        if self._steps >= (LEAST if rare else MOST):
            self.settle()

    def settle(self, anchored: bool = True) -> None:
        """Write what is alive to files, from which on it is computed again if it is lost.

        If it is no longer to be `anchored`, the anchors are let go.
        """
        if not anchored:
            self.anchors = []
        if is_remote():
            begin = monotonic()
            self._settle(anchored)
            self._last = monotonic()
            self._took = self._last - begin
        self._steps = 0

    def _settle(self, anchored: bool) -> None:
        made = [x for x in self._alive if x.recipe is not None]
        alive = [x for x in self._alive if x.recipe is None]
        new = {self._number + 1 + i: x for i, x in enumerate(x for x in alive if not x.written)}
        self._number += len(new)
        paths = {number: [self._path(number, i) for i in range(len(x.parts))]
                 for number, x in new.items()}
        self._files |= paths
        self._write({number: x.parts for number, x in new.items()}, paths)
        for number, x in new.items():
            x.written = number
        for x in alive if not anchored else new.values():
            files, nowhere = self._files[x.written], [None] * len(x.parts)
            anchors = self.anchors if len(self.anchors) == len(files) else nowhere
            x.parts = [task(_read, *pair) for pair in zip(files, anchors, strict=True)]
            x.stays = False
        renewed = set(new.values())
        while renewed:  # and what is made of what is made
            renewed = {x for x in made if x.recipe and not renewed.isdisjoint(x.recipe[1])}
            for x in renewed:
                x.renew()
        self.results()
        # Only now nothing that is alive goes back to what is not.
        held = {x.written for x in self._alive}
        for number in [number for number in self._files if number not in held]:
            for path in self._files.pop(number):
                with suppress(OSError):
                    os.unlink(path)

    def _write(self, parts: dict[int, list[Any]], paths: dict[int, list[str]]) -> None:
        """Write what some tasks give, one task for all that is of one part."""
        writes = []
        for i in range(max(map(len, parts.values()), default=0)):
            own = [number for number in parts if i < len(parts[number])]
            writes.append(task(_write, [paths[number][i] for number in own],
                               *(parts[number][i] for number in own)))
        if writes:
            self.results(in_pairs(nothing, writes))


class Spread:
    """A value in parts, each the result of a task; nothing changes it."""

    def __init__(self, shelf: Shelf, parts: Iterable[Any]):
        self.shelf, self.parts = shelf, list(parts)
        self.stays = False  # whether the parts have been computed and are kept
        self.written = 0  # the number under which they are on the shelf, if they are
        # What makes the parts of others, where that is done again rather than parts written.
        self.recipe: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def renew(self) -> None:
        """Make the parts by the recipe, of what it is made of now."""
        assert self.recipe is not None
        function, (first, *others) = self.recipe
        self.parts, self.stays = first._tasks(function, others), False

    def map(self, function: Callable[..., Any], *given: Any) -> "Spread":
        """``function(part, *given)`` of each part; of what is spread among `given` its part, too.

        Other things are sent with each task: they should be small.
        """
        return self.shelf.spread(self._tasks(function, given))

    def total(self, merge: Callable[[Any, Any], Any], function: Callable[..., Any], *given: Any
              ) -> Any:
        """The same, which should be small, merged here in fixed pairs."""
        return merged(merge, self.shelf.results(*self._tasks(function, given)))

    def _tasks(self, function: Callable[..., Any], given: Sequence[Any]) -> list[Any]:
        columns = [x.parts if isinstance(x, Spread) else [x] * len(self.parts) for x in given]
        return [task(function, *row) for row in zip(self.parts, *columns, strict=True)]


def _write(paths, *values):
    """Write files, each whole or not at all; what a lost worker wrote is written again."""
    for path, value in zip(paths, values, strict=True):
        own = f"{path}.{os.getpid()}"
        try:
            with open(own, "wb") as file:
                pickle.dump(value, file, protocol=5)
            os.replace(own, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(_unseen(path)) from error


def _read(path, anchor):
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(_unseen(path)) from error


def _unseen(path):
    return (f"a worker does not see {path}: parts of a fit are written to a directory that all"
            " workers and the client must share; name one in dask's setting temporary-directory")
