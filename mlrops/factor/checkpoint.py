"""Checkpoints of a fit: everything the next update depends on, so that nothing else matters."""

import hashlib
import os
from dataclasses import asdict
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from .._common.driver import Iteration, Stopping, current_termination
from .._common.validate import check_number, check_rank
from .._common.wording import counted
from ..io.archive import check_regular, read_archive, remove_leftovers, write_archive
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .ascent import MEMORY, Ascent, LikelihoodSurface
from .em import Point
from .estep.protocol import Source

__all__ = ["Checkpoint", "Checkpointing", "Outcome", "Restarts", "fingerprint", "to_resume"]

KIND = "factor model checkpoint"


class Checkpointing(NamedTuple):
    """Where and when a fit is to be written to a file, and whether it goes on from there."""

    path: Any
    every: int | None  # updates between two checkpoints
    seconds: float | None  # between two checkpoints; what comes first counts
    resume: bool

    def check(self) -> None:
        if self.path is None:
            if self.resume:
                raise ValueError("resume=True needs the path of a checkpoint: checkpoint=path")
            return
        check_regular(self.path)
        if self.every is not None and check_rank(self.every, "checkpoint_every") < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {self.every}")
        if self.seconds is not None:
            check_number(self.seconds, "checkpoint_seconds")
            if not self.seconds >= 0:
                raise ValueError(f"checkpoint_seconds must not be negative, got {self.seconds!r}")


def fingerprint(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Source,
                **options: object) -> dict[str, str]:
    """What must be the same for a resumed fit: name → text, short enough for an error message.

    Data in memory are known by every digit that centring leaves, others by their moments and two
    random combinations of the samples; for data in chunks that is one pass more.
    """
    return {
        "shape of the data": f"{counted(source.n_samples, 'sample')} of"
                             f" {counted(hierarchy.n, 'feature')}",
        "dtype": str(source.dtype),
        "data": _digest(source.variance, source.mean, source.start_data(2, 0)),
        "ranks": str(tuple(ranks)),
        "hierarchy": _digest(hierarchy.permutation, *hierarchy.boundaries),
        **{name: str(value) for name, value in options.items()}}


def to_resume(init: object, n_init: int, stopping: Stopping, random_state: object,
              **options: object) -> dict[str, object]:
    """Options that a resumed fit must share with the one that it goes on with."""
    if isinstance(init, MLR):
        init = f"operator {_digest(init.F, init.D)}"
    options.update(n_init=n_init, init=init)
    if n_init > 1:  # runs that are over stopped by these
        options.update(asdict(stopping))
    if n_init > 1 or init == "random":
        seeded = isinstance(random_state, (int, np.integer))
        options["random_state"] = random_state if seeded else "no integer"
    return options


def _digest(*arrays: np.ndarray) -> str:
    """A short text that differs for arrays that differ."""
    found = hashlib.sha256()
    for x in arrays:
        found.update(f"{x.dtype.str}{x.shape}".encode())
        found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()[:16]


class Outcome(NamedTuple):
    """Where the ascent from one start stopped, in tree order."""

    point: Point
    gradient_norm: float
    trace: list[float]
    termination: str
    n_evaluations: int


class Restarts:
    """The ascents from several starts: which one is under way, and the best of those before it."""

    def __init__(self, seeds: tuple[int, ...], number: int = 0, best: Outcome | None = None):
        self.seeds, self.number, self.best = seeds, number, best

    def finish(self, outcome: Outcome) -> None:
        """Take what an ascent found and go on to the next one."""
        if self.best is None or outcome.trace[-1] > self.best.trace[-1]:
            self.best = outcome
        self.number += 1

    def meta(self) -> dict[str, Any]:
        best = self.best and {"gradient_norm": self.best.gradient_norm,
                              "termination": self.best.termination,
                              "n_evaluations": self.best.n_evaluations}
        return {"seeds": list(self.seeds), "number": self.number, "best": best}

    def arrays(self) -> dict[str, np.ndarray]:
        if self.best is None:
            return {}
        return {"best_trace": np.array(self.best.trace),
                **{f"best_{name}": x for name, x in self.best.point._asdict().items()}}

    @classmethod
    def read(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Restarts":
        best = meta["best"]
        if best is not None:
            best = Outcome(Point(*(arrays[f"best_{name}"] for name in Point._fields)),
                           best["gradient_norm"], arrays["best_trace"].tolist(),
                           current_termination(best["termination"]), best["n_evaluations"])
        return cls(tuple(meta["seeds"]), meta["number"], best)


class Saved(NamedTuple):
    """An ascent as it was left."""

    point: Point
    trace: list[float]
    meta: dict[str, Any]
    pairs: dict[str, np.ndarray]

    def restore(self, ascent: Ascent) -> None:
        """Give an ascent that stands at the point its memory back."""
        ascent.n_evaluations, ascent.exhausted = self.meta["n_evaluations"], self.meta["exhausted"]
        pairs, k = ascent.pairs, len(self.pairs["S"])
        pairs.S[:k], pairs.Y[:k] = self.pairs["S"], self.pairs["Y"]
        pairs.SY[...], pairs.count = self.pairs["SY"], self.meta["count"]


class Checkpoint:
    """Writes a fit to one file from time to time, each time the whole file or nothing.

    It is the `Observer` of a fit that has an `ascent`; for `identity` see `fingerprint`.
    """

    saved: Saved | None = None

    def __init__(self, wanted: Checkpointing, identity: dict[str, str], restarts: Restarts):
        self.path, self.every, self.seconds, self._is_resumed = wanted
        self.identity, self.restarts = identity, restarts
        self._last = monotonic(), 0  # time and number of updates when it was last written
        remove_leftovers(self.path)

    def resume(self, surface: LikelihoodSurface, accelerate: bool) -> Restarts:
        """The starts that are still to be climbed from: those of the file if it is to be used."""
        if self._is_resumed and os.path.exists(self.path):
            self._read(surface, MEMORY + 1 if accelerate else 0)
        return self.restarts

    def begin(self, iteration: Iteration, trace: list[float]) -> None:
        """Write the start of an ascent; one that goes on from the file stands in it."""
        if self.saved is None:
            self.finish(iteration, trace)
        self._last = monotonic(), len(trace) - 1

    def visit(self, iteration: Iteration, trace: list[float]) -> None:
        """Write if it is time to."""
        then, n_iter = self._last
        due = self.every is not None and len(trace) - 1 - n_iter >= self.every
        if due or (self.seconds is not None and monotonic() - then >= self.seconds):
            self.finish(iteration, trace)

    def finish(self, iteration: Any, trace: list[float]) -> None:
        """Write."""
        ascent: Ascent = iteration.ascent
        pairs, point, k = ascent.pairs, ascent.state.point, ascent.pairs.rows
        meta = {"identity": self.identity, "restarts": self.restarts.meta(), "count": pairs.count,
                "n_evaluations": ascent.n_evaluations, "exhausted": ascent.exhausted}
        write_archive(self.path, KIND, meta, {
            **point._asdict(), "trace": np.array(trace),
            "S": pairs.S[:k], "Y": pairs.Y[:k], "SY": pairs.SY, **self.restarts.arrays()})
        self._last = monotonic(), len(trace) - 1

    def _read(self, surface: LikelihoodSurface, rows: int) -> None:
        meta, arrays = read_archive(self.path, KIND)
        try:
            self._check_identity(meta["identity"])
            self._check_meta(meta)
            _check_arrays(arrays, surface, rows)
            _expect(len(arrays["S"]) == min(meta["count"], rows), "S")
            self.restarts = Restarts.read(meta["restarts"], arrays)
            self.saved = Saved(
                Point(*(arrays[name] for name in Point._fields)), arrays["trace"].tolist(), meta,
                {name: arrays[name] for name in ("S", "Y", "SY")})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{os.fsdecode(self.path)!r} is no checkpoint of this version: {error!r}") from None

    def _check_identity(self, identity: dict[str, str]) -> None:
        differ = [f"{name}: {identity.get(name)} there, {self.identity.get(name)} now"
                  for name in {**self.identity, **identity}
                  if identity.get(name) != self.identity.get(name)]
        if differ:
            raise ValueError(
                f"{os.fsdecode(self.path)!r} is the checkpoint of another fit"
                f" ({'; '.join(differ)}); resume with the data and options it was written with, or"
                " choose another path")

    def _check_meta(self, meta: dict[str, Any]) -> None:
        counts = meta["count"], meta["n_evaluations"], meta["restarts"]["number"]
        _expect(all(type(x) is int and x >= 0 for x in counts), "a count")
        _expect(type(meta["exhausted"]) is bool, "'exhausted'")
        seeds, best = meta["restarts"]["seeds"], meta["restarts"]["best"]
        _expect(str(len(seeds)) == self.identity["n_init"] and counts[2] < len(seeds), "'seeds'")
        _expect(all(type(x) is int and x >= 0 for x in seeds), "'seeds'")
        _expect((best is None) == (counts[2] == 0), "'best'")
        if best is not None:
            kinds = {"gradient_norm": float, "termination": str, "n_evaluations": int}
            _expect({name: type(x) for name, x in best.items()} == kinds, "'best'")


def _check_arrays(arrays: dict[str, np.ndarray], surface: LikelihoodSurface, rows: int) -> None:
    """Refuse arrays of shapes, dtypes and values that no checkpoint of this model holds."""
    (n, R), k = surface.shape, len(arrays["S"])
    shapes: dict[str, tuple[int, ...]] = {
        "S": (k, surface.size), "Y": (k, surface.size), "SY": (rows, rows)}
    for which in ("", "best_") if "best_F" in arrays else ("",):
        shapes |= {which + "F": (n, R), which + "D": (n,), which + "mean": (n,),
                   which + "trace": (max(arrays[which + "trace"].size, 1),)}
    for name, shape in shapes.items():
        x = arrays[name]
        exact = not name.endswith(("S", "Y", "mean"))
        _expect(x.shape == shape and x.dtype.kind == "f" and bool(np.isfinite(x).all())
                and (x.dtype == np.float64 or not exact)
                and not (name.endswith("D") and bool((x <= 0).any())), name)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise TypeError(f"{what} does not fit the model")
