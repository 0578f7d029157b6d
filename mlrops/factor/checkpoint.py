"""Checkpoints of a fit: everything the next update depends on, so that nothing else matters."""

import hashlib
import os
from dataclasses import asdict
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from .._common.driver import Iteration, Run, Stopping
from .._common.validate import check_number, check_rank
from .._common.wording import counted
from ..io.archive import check_regular, read_archive, remove_leftovers, write_archive
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .ascent import Ascent, Jumps
from .climb import FINALISTS, Climb, Tournament
from .estep.protocol import Source
from .likelihood import LikelihoodSurface
from .point import Point
from .prior import Prior

__all__ = ["Checkpoint", "Checkpointing", "describe_prior", "fingerprint", "to_resume"]

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


def describe_prior(prior: Prior | None) -> str:
    """A short text that differs for priors that differ."""
    if prior is None:
        return "None"
    return f"strength {prior.strength!r}, variances {_digest(prior.variance)}"


def _digest(*arrays: np.ndarray) -> str:
    """A short text that differs for arrays that differ."""
    found = hashlib.sha256()
    for x in arrays:
        found.update(f"{x.dtype.str}{x.shape}".encode())
        found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()[:16]


class Checkpoint:
    """Writes a fit to one file from time to time, each time the whole file or nothing.

    It is the `Observer` of a fit that has an `ascent`; for `identity` see `fingerprint`.
    """

    saved: Climb | None = None

    def __init__(self, wanted: Checkpointing, identity: dict[str, str], tournament: Tournament):
        self.path, self.every, self.seconds, self._is_resumed = wanted
        self.identity, self.tournament = identity, tournament
        self._last = monotonic(), 0  # time and number of updates when it was last written
        remove_leftovers(self.path)

    def resume(self, surface: LikelihoodSurface, jumps: Jumps | None) -> Tournament:
        """The starts that are still to be climbed from: those of the file if it is to be used."""
        if self._is_resumed and os.path.exists(self.path):
            self._read(surface, {} if jumps is None else jumps.memory())
        return self.tournament

    def begin(self, iteration: Iteration, run: Run) -> None:
        """Write the start of an ascent; one that goes on from the file stands in it."""
        if self.saved is None:
            self.finish(iteration, run)
        self.saved = None
        self._last = monotonic(), run.n_iter

    def visit(self, iteration: Iteration, run: Run) -> None:
        """Write if it is time to."""
        then, n_iter = self._last
        due = self.every is not None and run.n_iter - n_iter >= self.every
        if due or (self.seconds is not None and monotonic() - then >= self.seconds):
            self.finish(iteration, run)

    def finish(self, iteration: Any, run: Run) -> None:
        """Write."""
        ascent: Ascent = iteration.ascent
        climbs = [Climb.of(ascent, run), *self.tournament.kept]
        arrays: dict[str, np.ndarray] = {}
        for prefix, climb in zip(PREFIXES, climbs, strict=False):
            arrays |= {prefix + name: x for name, x in _arrays(climb).items()}
        meta = {"identity": self.identity, "seeds": list(self.tournament.seeds),
                "number": self.tournament.number, "climbs": [_facts(climb) for climb in climbs]}
        write_archive(self.path, KIND, meta, arrays)
        self._last = monotonic(), run.n_iter

    def _read(self, surface: LikelihoodSurface, memory: dict[str, Any]) -> None:
        meta, arrays = read_archive(self.path, KIND)
        try:
            _of_this_version(meta, arrays)
            self._check_identity(meta["identity"])
            self._check_meta(meta)
            climbs = [_climb(facts, arrays, prefix, surface, memory)
                      for prefix, facts in zip(PREFIXES, meta["climbs"], strict=False)]
            self.tournament = Tournament(tuple(meta["seeds"]), meta["number"], climbs[1:])
            self.saved = climbs[0]
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
        seeds, number, climbs = meta["seeds"], meta["number"], meta["climbs"]
        _expect(str(len(seeds)) == self.identity["n_init"], "'seeds'")
        _expect(all(type(x) is int and x >= 0 for x in [*seeds, number]), "'seeds'")
        at = Tournament(tuple(seeds), number)
        _expect(not at.is_over, "'number'")
        _expect(len(climbs) == 1 + (min(number, FINALISTS) if at.n_heats else 0), "'climbs'")
        kinds = {"n_evaluations": int, "exhausted": bool, "gradient_norm": float,
                 "termination": str}
        for facts in climbs:
            _expect({name: type(x) for name, x in facts.items()} == kinds, "'climbs'")
            _expect(facts["n_evaluations"] >= 0, "a count")


# Names of the arrays of the climb under way, and of those that wait for it in a tournament.
PREFIXES = "", "first_", "second_"
FACTS = "n_evaluations", "exhausted", "gradient_norm", "termination"


def _facts(climb: Climb) -> dict[str, Any]:
    return {name: getattr(climb, name) for name in FACTS}


def _arrays(climb: Climb) -> dict[str, np.ndarray]:
    return {**climb.point._asdict(), "trace": np.array(climb.objectives),
            "logliks": np.array(climb.logliks), **climb.memory}


def _climb(facts: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str,
           surface: LikelihoodSurface, memory: dict[str, Any]) -> Climb:
    """A climb from the arrays of a file, checked; its jumps' memory is like `memory`."""
    names = *Point._fields, "trace", "logliks", *memory
    own = {name: arrays[prefix + name] for name in names}
    _check_arrays(own, surface, memory)
    return Climb(Point(*(own[name] for name in Point._fields)), own["trace"].tolist(),
                 own["logliks"].tolist(), **facts, memory={name: own[name] for name in memory})


def _of_this_version(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Give what version 0.2.0 wrote, of a fit from one start, the names that it has now."""
    if "count" not in meta:
        return
    options = meta["identity"]
    options["optimizer"] = "bfgs" if options.pop("accelerate") == "True" else "em"
    options["prior"] = "None"
    arrays["count"], arrays["logliks"] = np.array(meta.pop("count")), arrays["trace"]
    restarts = meta.pop("restarts")
    meta.update(seeds=restarts["seeds"], number=restarts["number"], climbs=[
        {"n_evaluations": meta.pop("n_evaluations"), "exhausted": meta.pop("exhausted"),
         "gradient_norm": float("nan"), "termination": ""}])


def _check_arrays(arrays: dict[str, np.ndarray], surface: LikelihoodSurface,
                  memory: dict[str, Any]) -> None:
    """Refuse arrays of shapes, dtypes and values that no checkpoint of this model holds.

    `memory` is like that of the ascent, but that S and Y may have any number of rows up to SY's.
    """
    n, R = surface.shape
    length = max(arrays["trace"].size, 1)
    shapes: dict[str, tuple[int, ...]] = {
        "F": (n, R), "D": (n,), "mean": (n,), "trace": (length,), "logliks": (length,)}
    for name in memory.keys() - {"S", "Y", "SY"}:
        x = arrays[name]
        _expect(x.shape == () and x.dtype.kind in "iuf" and bool(np.isfinite(x) and x >= 0), name)
    if "SY" in memory:
        rows = len(memory["SY"])
        k = min(int(arrays["count"]), rows)
        shapes |= {"S": (k, surface.size), "Y": (k, surface.size), "SY": (rows, rows)}
    for name, shape in shapes.items():
        x = arrays[name]
        exact = name not in ("S", "Y", "mean")
        _expect(x.shape == shape and x.dtype.kind == "f" and bool(np.isfinite(x).all())
                and (x.dtype == np.float64 or not exact)
                and not (name == "D" and bool((x <= 0).any())), name)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise TypeError(f"{what} does not fit the model")
