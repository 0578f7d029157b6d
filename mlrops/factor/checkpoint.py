"""Checkpoints of a fit: everything the next update depends on, so that nothing else matters."""

import hashlib
import os
from time import monotonic
from typing import NamedTuple

import numpy as np

from .._common.wording import counted
from ..io.archive import read_archive, remove_leftovers, write_archive
from .em import Point
from .run import Outcome

__all__ = ["Checkpoint", "Restarts", "digest", "fingerprint"]

KIND = "factor model checkpoint"


def fingerprint(hierarchy, ranks, source, **options):
    """What must be the same for a resumed fit: name → text, short enough for an error message.

    Data in memory are known by every digit that centring leaves, others by their moments and two
    random combinations of the samples; for data in chunks that is one pass more.
    """
    return {
        "shape of the data": f"{counted(source.n_samples, 'sample')} of"
                             f" {counted(hierarchy.n, 'feature')}",
        "dtype": str(source.dtype),
        "data": digest(source.variance, source.mean, source.start_data(2, 0)),
        "ranks": str(tuple(ranks)),
        "hierarchy": digest(hierarchy.permutation, *hierarchy.boundaries),
        **{name: str(value) for name, value in options.items()},
    }


def digest(*arrays):
    """A short text that tells arrays apart."""
    found = hashlib.sha256()
    for x in arrays:
        found.update(f"{x.dtype.str}{x.shape}".encode())
        found.update(np.ascontiguousarray(x))
    return found.hexdigest()[:16]


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
        best = None
        if meta["best"] is not None:
            best = Outcome(Point(*(arrays[f"best_{name}"] for name in Point._fields)),
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
    """

    def __init__(self, path, every, seconds, identity):
        self.path, self.every, self.seconds, self.identity = path, every, seconds, identity
        self.saved, self.restarts = None, None
        self._since, self._at = monotonic(), 0
        remove_leftovers(path)

    def resume(self, problem, memory):
        """Go on from the file if there is one; `memory` is the largest number of pairs."""
        if os.path.exists(self.path):
            self._read(problem, memory + 1 if memory else 0)

    def begin(self, ascent, trace):
        """Write the start of a run; one that goes on from the file stands in it."""
        if self.saved is None:
            self.write(ascent, trace)
        self._since, self._at = monotonic(), len(trace) - 1

    def visit(self, ascent, trace):
        """Write if it is time to."""
        due = self.every is not None and len(trace) - 1 - self._at >= self.every
        if due or (self.seconds is not None and monotonic() - self._since >= self.seconds):
            self.write(ascent, trace)

    def write(self, ascent, trace):
        pairs, point = ascent.pairs, ascent.state.point
        k = pairs.rows
        meta = {"identity": self.identity, "restarts": self.restarts.meta(), "count": pairs.count,
                "n_evaluations": ascent.n_evaluations, "exhausted": ascent.exhausted}
        write_archive(self.path, KIND, meta, {
            "F": point.F, "D": point.D, "mean": point.mean, "trace": np.array(trace),
            "S": pairs.S[:k], "Y": pairs.Y[:k], "SY": pairs.SY, **self.restarts.arrays()})
        self._since, self._at = monotonic(), len(trace) - 1

    def _read(self, problem, rows):
        meta, arrays = read_archive(self.path, KIND)
        try:
            self._check_identity(meta["identity"])
            self._check_meta(meta)
            self._check_arrays(arrays, problem, rows)
            _expect(len(arrays["S"]) == min(meta["count"], rows), "S")
            self.restarts = Restarts.read(meta["restarts"], arrays)
            self.saved = Saved(
                Point(*(arrays[name] for name in Point._fields)), arrays["trace"].tolist(),
                meta["n_evaluations"], meta["exhausted"],
                {"count": meta["count"], **{name: arrays[name] for name in ("S", "Y", "SY")}})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{os.fsdecode(self.path)!r} is no checkpoint of this version: {error!r}") from None

    def _check_identity(self, identity):
        differ = [name for name in {**self.identity, **identity}
                  if identity.get(name) != self.identity.get(name)]
        if differ:
            told = "; ".join(f"{name}: {identity.get(name)} there, {self.identity.get(name)} now"
                             for name in differ)
            raise ValueError(
                f"{os.fsdecode(self.path)!r} is the checkpoint of another fit ({told}); resume with"
                " the data and options it was written with, or choose another path"
            )

    def _check_meta(self, meta):
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

    def _check_arrays(self, arrays, problem, rows):
        (n, R), dtype, k = problem.shape, np.float64, len(arrays["S"])
        wanted = {"S": (k, problem.size), "Y": (k, problem.size), "SY": (rows, rows)}
        for name, shape in wanted.items():
            _expect(arrays[name].shape == shape and arrays[name].dtype.kind == "f"
                    and np.isfinite(arrays[name]).all(), name)
        for which in ("", "best_") if "best_F" in arrays else ("",):
            F, D, mean, trace = (arrays[which + name] for name in ("F", "D", "mean", "trace"))
            _expect(F.shape == (n, R) and F.dtype == dtype and np.isfinite(F).all(), which + "F")
            _expect(D.shape == (n,) and D.dtype == dtype and bool((D > 0).all())
                    and np.isfinite(D).all(), which + "D")
            _expect(mean.shape == (n,) and mean.dtype.kind == "f" and np.isfinite(mean).all(),
                    which + "mean")
            _expect(trace.ndim == 1 and trace.size > 0 and trace.dtype == np.float64
                    and np.isfinite(trace).all(), which + "trace")


def _expect(holds, what):
    if not holds:
        raise TypeError(f"{what} does not fit the model")
