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
from ..io.archive import (
    check_folder,
    check_regular,
    read_archive,
    remove_leftovers,
    write_archive,
)
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .ascent import Ascent, Jumps
from .climb import FINALISTS, Climb, Tournament
from .estep.protocol import Source
from .point import Point
from .prior import Prior

__all__ = ["KIND", "PREFIXES", "VECTORS", "Checkpoint", "Checkpointing", "check_floats",
           "describe_prior", "digest", "expect", "fingerprint", "identity_of", "numbers_of",
           "pairs_in", "to_resume"]

KIND = "factor model checkpoint"


class Checkpointing(NamedTuple):
    """Where and when a fit is to be written to, and whether it goes on from there."""

    path: Any
    every: int | None  # updates between two checkpoints
    seconds: float | None  # between two checkpoints; what comes first counts
    resume: bool

    def check(self, in_parts: bool = False) -> None:
        """Refuse bad options; a fit whose parts lie on workers is written to a folder."""
        if self.path is None:
            if self.resume:
                raise ValueError("resume=True needs the path of a checkpoint: checkpoint=path")
            return
        (check_folder if in_parts else check_regular)(self.path)
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
    data = digest(source.variance, source.mean, source.start_data(2, 0))
    return identity_of(hierarchy, ranks, source, data, **options)


def identity_of(hierarchy: Hierarchy, ranks: tuple[int, ...], source: Any, data: str,
                **options: object) -> dict[str, str]:
    """The same, of data that a text tells apart from others."""
    return {
        "shape of the data": f"{counted(source.n_samples, 'sample')} of"
                             f" {counted(hierarchy.n, 'feature')}",
        "dtype": str(source.dtype),
        "data": data,
        "ranks": str(tuple(ranks)),
        "hierarchy": digest(hierarchy.permutation, *hierarchy.boundaries),
        **{name: str(value) for name, value in options.items()}}


def to_resume(init: object, n_init: int, stopping: Stopping, random_state: object,
              **options: object) -> dict[str, object]:
    """Options that a resumed fit must share with the one that it goes on with."""
    if isinstance(init, MLR):
        init = f"operator {digest(init.F, init.D)}"
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
    return f"strength {prior.strength!r}, variances {digest(prior.variance)}"


def digest(*arrays: np.ndarray) -> str:
    """A short text that differs for arrays that differ."""
    found = hashlib.sha256()
    for x in arrays:
        found.update(f"{x.dtype.str}{x.shape}".encode())
        found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()[:16]


class Checkpoint:
    """Writes a fit to one file from time to time, each time the whole file or nothing.

    It is the observer of a fit that has an `ascent`; for `identity` see `fingerprint`.  Points and
    vectors are arrays; where they are something else, `_write` and `_models` are others.
    """

    saved: Climb | None = None

    def __init__(self, wanted: Checkpointing, identity: dict[str, str], tournament: Tournament):
        self.path, self.every, self.seconds, self._is_resumed = wanted
        self.identity, self.tournament = identity, tournament
        self._last = monotonic(), 0  # time and number of updates when it was last written
        self.file = self._file()
        remove_leftovers(self.file)

    def _file(self) -> Any:
        """The file without which there is no checkpoint."""
        return self.path

    def resume(self, surface: Any, jumps: Jumps | None) -> Tournament:
        """The starts that are still to be climbed from: those of the file if it is to be used."""
        if self._is_resumed and os.path.exists(self.file):
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
        meta = {"identity": self.identity, "seeds": list(self.tournament.seeds),
                "number": self.tournament.number, "climbs": [_facts(climb) for climb in climbs]}
        self._write(meta, climbs)
        self._last = monotonic(), run.n_iter

    def _write(self, meta: dict[str, Any], climbs: list[Climb]) -> None:
        models = [{**climb.point._asdict(), **climb.memory} for climb in climbs]
        write_archive(self.file, KIND, meta, _prefixed(models) | numbers_of(climbs))

    def _models(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], climbs: list[Climb],
                surface: Any) -> list[Climb]:
        """The climbs with their points and the vectors that their jumps remember."""
        return [_with_model(climb, arrays, prefix, surface)
                for prefix, climb in zip(PREFIXES, climbs, strict=False)]

    def _read(self, surface: Any, memory: dict[str, Any]) -> None:
        meta, arrays = read_archive(self.file, KIND)
        try:
            _of_this_version(meta, arrays)
            self._check_identity(meta["identity"])
            self._check_meta(meta)
            climbs = [_climb(facts, arrays, prefix, memory)
                      for prefix, facts in zip(PREFIXES, meta["climbs"], strict=False)]
            climbs = self._models(meta, arrays, climbs, surface)
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
        expect(str(len(seeds)) == self.identity["n_init"], "'seeds'")
        expect(all(type(x) is int and x >= 0 for x in [*seeds, number]), "'seeds'")
        at = Tournament(tuple(seeds), number)
        expect(not at.is_over, "'number'")
        expect(len(climbs) == 1 + (min(number, FINALISTS) if at.n_heats else 0), "'climbs'")
        kinds = {"n_evaluations": int, "exhausted": bool, "gradient_norm": float,
                 "termination": str}
        for facts in climbs:
            expect({name: type(x) for name, x in facts.items()} == kinds, "'climbs'")
            expect(facts["n_evaluations"] >= 0, "a count")


# Names of the arrays of the climb under way, and of those that wait for it in a tournament.
PREFIXES = "", "first_", "second_"
# Of what jumps remember, that which is of the size of the model.
VECTORS = "S", "Y"
FACTS = "n_evaluations", "exhausted", "gradient_norm", "termination"


def _facts(climb: Climb) -> dict[str, Any]:
    return {name: getattr(climb, name) for name in FACTS}


def numbers_of(climbs: list[Climb]) -> dict[str, np.ndarray]:
    """What is not of the size of the model: traces, and numbers that jumps remember."""
    return _prefixed([
        {"trace": np.array(climb.objectives), "logliks": np.array(climb.logliks),
         **{name: x for name, x in climb.memory.items() if name not in VECTORS}}
        for climb in climbs])


def _prefixed(groups: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {prefix + name: x for prefix, group in zip(PREFIXES, groups, strict=False)
            for name, x in group.items()}


def _climb(facts: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str,
           memory: dict[str, Any]) -> Climb:
    """A climb from the numbers of a file, checked, still without a point.

    Its jumps' memory is like `memory`, still without vectors.
    """
    kept = [name for name in memory if name not in VECTORS]
    own = {name: arrays[prefix + name] for name in ("trace", "logliks", *kept)}
    length = max(own["trace"].size, 1)
    shapes: dict[str, tuple[int, ...]] = {"trace": (length,), "logliks": (length,)}
    for name in kept:
        x = own[name]
        if name == "SY":
            shapes["SY"] = memory["SY"].shape
        else:
            expect(x.shape == () and x.dtype.kind in "iuf" and bool(np.isfinite(x) and x >= 0),
                   name)
    check_floats(own, shapes)
    return Climb(None, own["trace"].tolist(), own["logliks"].tolist(), **facts,
                 memory={name: own[name] for name in kept})


def pairs_in(climb: Climb) -> int:
    """The vectors S, and Y, that a climb has, by the numbers of its memory."""
    memory = climb.memory
    return min(int(memory["count"]), len(memory["SY"])) if "SY" in memory else 0


def _with_model(climb: Climb, arrays: dict[str, np.ndarray], prefix: str, surface: Any) -> Climb:
    (n, R), k = surface.shape, pairs_in(climb)
    shapes: dict[str, tuple[int, ...]] = {"F": (n, R), "D": (n,), "mean": (n,)}
    if "SY" in climb.memory:
        shapes |= dict.fromkeys(VECTORS, (k, surface.size))
    own = {name: arrays[prefix + name] for name in shapes}
    check_floats(own, shapes)
    point = Point(*(own.pop(name) for name in Point._fields))
    return climb._replace(point=point, memory=climb.memory | own)


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


def check_floats(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse arrays of shapes, dtypes and values that no checkpoint of a model holds."""
    for name, shape in shapes.items():
        x = arrays[name]
        exact = name not in (*VECTORS, "mean")
        expect(x.shape == shape and x.dtype.kind == "f" and bool(np.isfinite(x).all())
               and (x.dtype == np.float64 or not exact)
               and not (name == "D" and bool((x <= 0).any())), name)


def expect(holds: bool, what: str) -> None:
    """Refuse what is read unless something holds."""
    if not holds:
        raise TypeError(f"{what} does not fit the model")
