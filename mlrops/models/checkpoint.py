"""Checkpoints of a fit: everything the next update depends on, so that nothing else matters."""

import hashlib
import os
from time import monotonic
from typing import NamedTuple

import numpy as np

from .._archive import read_archive, write_archive
from .em import Point
from .run import Outcome

__all__ = ["Checkpoint", "Restarts", "fingerprint"]

KIND = "factor model checkpoint"


def fingerprint(hierarchy, ranks, source, **options):
    """What must be the same for a resumed fit: name → text, short enough for an error message."""
    moments = hashlib.sha256()
    for x in (source.variance, source.mean):
        moments.update(np.ascontiguousarray(x, np.float64).tobytes())
    tree = hashlib.sha256(hierarchy.permutation.astype(np.int64).tobytes())
    for offsets in hierarchy.boundaries:
        tree.update(offsets.astype(np.int64).tobytes())
    return {
        "shape of the data": f"{source.n_samples} samples of {hierarchy.n} features",
        "dtype": str(source.dtype), "data": moments.hexdigest()[:16], "ranks": str(tuple(ranks)),
        "hierarchy": tree.hexdigest()[:16],
        **{name: str(value) for name, value in options.items()},
    }


class Saved(NamedTuple):
    """A run as it was left."""

    point: Point
    trace: list
    n_evaluations: int
    exhausted: bool
    pairs: dict

    def restore(self, ascent):
        """Give an ascent that stands at the point its memory back."""
        ascent.n_evaluations, ascent.exhausted = self.n_evaluations, self.exhausted
        pairs = ascent.pairs
        k = len(self.pairs["S"])
        pairs.S[:k], pairs.Y[:k] = self.pairs["S"], self.pairs["Y"]
        pairs.SY[...], pairs.count = self.pairs["SY"], self.pairs["count"]


class Restarts:
    """The runs of a fit from several starts: which one is on, and the best of those before it."""

    def __init__(self, seeds, number=0, best=None):
        self.seeds, self.number, self.best = seeds, number, best

    def finish(self, outcome):
        """Take what a run found and go on to the next one."""
        if self.best is None or outcome.trace[-1] > self.best.trace[-1]:
            self.best = outcome
        self.number += 1

    def meta(self):
        best = self.best and {"gradient_norm": self.best.gradient_norm,
                              "termination": self.best.termination,
                              "n_evaluations": self.best.n_evaluations}
        return {"seeds": list(self.seeds), "number": self.number, "best": best}

    def arrays(self):
        if self.best is None:
            return {}
        return {"best_trace": np.array(self.best.trace),
                **{f"best_{name}": x for name, x in self.best.point._asdict().items()}}

    @classmethod
    def read(cls, meta, arrays):
        best = meta["best"] and Outcome(
            Point(*(arrays[f"best_{name}"] for name in Point._fields)),
            trace=arrays["best_trace"].tolist(), **meta["best"])
        return cls(tuple(meta["seeds"]), meta["number"], best)


class Checkpoint:
    """Writes a run to one file from time to time, each time the whole file or nothing.

    Parameters
    ----------
    path : str or os.PathLike
    every : int or None
        Number of updates between two checkpoints.
    seconds : float or None
        Seconds between two checkpoints; what comes first counts.
    identity : dict
        See `fingerprint`.
    resume : bool
        Read the file if there is one.
    """

    def __init__(self, path, every, seconds, identity, resume):
        self.path, self.every, self.seconds, self.identity = path, every, seconds, identity
        self.saved, self.restarts = None, None
        self._since, self._at = monotonic(), 0
        if resume and os.path.exists(path):
            self._read()

    def visit(self, ascent, trace):
        """Write if it is time to."""
        due = self.every is not None and len(trace) - 1 - self._at >= self.every
        if due or (self.seconds is not None and monotonic() - self._since >= self.seconds):
            self.write(ascent, trace)

    def write(self, ascent, trace):
        pairs, point = ascent.pairs, ascent.state.point
        k = len(pairs)
        meta = {"identity": self.identity, "restarts": self.restarts.meta(), "count": pairs.count,
                "n_evaluations": ascent.n_evaluations, "exhausted": ascent.exhausted}
        write_archive(self.path, KIND, meta, {
            "F": point.F, "D": point.D, "mean": point.mean, "trace": np.array(trace),
            "S": pairs.S[:k], "Y": pairs.Y[:k], "SY": pairs.SY, **self.restarts.arrays()})
        self._since, self._at = monotonic(), len(trace) - 1

    def _read(self):
        meta, arrays = read_archive(self.path, KIND)
        try:
            identity = dict(meta["identity"])
            self.restarts = Restarts.read(meta["restarts"], arrays)
            self.saved = Saved(
                Point(*(arrays[name] for name in ("F", "D", "mean"))), arrays["trace"].tolist(),
                meta["n_evaluations"], meta["exhausted"],
                {"count": meta["count"], **{name: arrays[name] for name in ("S", "Y", "SY")}})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no checkpoint of this version: {error}") from None
        differ = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if differ:
            told = "; ".join(
                f"{name}: {identity.get(name)} there, {self.identity[name]} now" for name in differ)
            raise ValueError(
                f"{self.path} is the checkpoint of another fit ({told}); resume with the data and"
                " options it was written with, or choose another path"
            )
