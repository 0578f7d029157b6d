"""Checkpoints of fits to chunks of columns: a file a part, which its worker writes, and an index.

The index is written last, and names the files of its parts.  Those of the index before are removed
after that, so that a fit that is killed at any moment leaves one whole checkpoint.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..._common.cluster import in_pairs, nothing, task
from ..._common.spread import Spread
from ..._common.typing import FloatArray
from ..._common.wording import counted, name_some
from ...io.archive import read_archive, reading, write_archive
from ...operators.part_files import write_part
from ...tree.hierarchy import Hierarchy
from ..checkpoint import (
    KIND,
    PREFIXES,
    VECTORS,
    Checkpoint,
    check_floats,
    digest,
    expect,
    identity_of,
    numbers_of,
    pairs_in,
)
from ..climb import Climb
from ..estep.columns import Bench
from ..point import Point
from .surface import SpreadPoint, SpreadSurface, SpreadVector

__all__ = ["PartsCheckpoint", "identity_of_parts"]

INDEX, PART = "checkpoint.npz", "part of a factor model checkpoint"
# The files of parts, and what writers of them that were killed left.
NAME = re.compile(r"checkpoint-\d+-[0-9a-f]{12}\.npz")
LEFT = re.compile(rf"{NAME.pattern}|\.{NAME.pattern}\.[0-9a-f]{{12}}\.tmp")
# Chunks whose widths stand in the identity of a fit one by one.
FEW = 8
POINT = "point"


def identity_of_parts(surface: SpreadSurface, hierarchy: Hierarchy, strength: float,
                      prior_variance: FloatArray | None, **options: object) -> dict[str, str]:
    """What must be the same for a resumed fit; see `fingerprint`.

    Data are known by every digit of each chunk.
    """
    source, widths = surface.source, np.diff(surface.cut.ends)
    prior = "None"
    if strength:
        t = "of the data" if prior_variance is None else digest(prior_variance)
        prior = f"strength {strength!r}, variances {t}"
    chunks = (", ".join(map(str, widths.tolist())) if len(widths) <= FEW
              else f"{len(widths)}, of widths {digest(widths)}")
    data = np.frombuffer("".join(source.digests).encode(), np.uint8)
    return identity_of(hierarchy, surface.ranks, source, digest(data), chunks=chunks, prior=prior,
                       **options)


class PartsCheckpoint(Checkpoint):
    """A checkpoint in a folder that the client and all workers see."""

    def _file(self) -> str:
        self.folder = os.path.realpath(os.fsdecode(self.path))
        os.makedirs(self.folder, exist_ok=True)
        return os.path.join(self.folder, INDEX)

    def _write(self, meta: dict[str, Any], climbs: list[Climb]) -> None:
        spread, token = _spread(climbs), os.urandom(6).hex()
        parts = list(zip(*(x.parts for x in spread.values()), strict=True))
        names = [f"checkpoint-{i}-{token}.npz" for i in range(len(parts))]
        writes = [task(_write, os.path.join(self.folder, name), list(spread), *values)
                  for name, values in zip(names, parts, strict=True)]
        climbs[0].point.surface.shelf.results(in_pairs(nothing, writes))
        unseen = self._missing(names)
        if unseen:
            raise FileNotFoundError(
                f"workers wrote {name_some(unseen)} to {self.folder!r}, where they are not to be"
                " seen from here: a checkpoint is a folder that the client and all workers share")
        write_archive(self.file, KIND, meta | {"parts": tuple(names)}, numbers_of(climbs))
        for name in set(os.listdir(self.folder)) - {*names}:
            if LEFT.fullmatch(name):
                with suppress(OSError):
                    os.unlink(os.path.join(self.folder, name))

    def _missing(self, names: Sequence[str]) -> list[str]:
        seen = {*os.listdir(self.folder)}
        return [name for name in names if name not in seen]

    def _models(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], climbs: list[Climb],
                surface: Any) -> list[Climb]:
        names, benches, shelf = meta["parts"], surface.benches, surface.shelf
        expect(len(names) == len(benches.parts), "'parts'")
        expect(all(type(x) is str and NAME.fullmatch(x) for x in names), "'parts'")
        missing = self._missing(names)
        if missing:
            raise ValueError(
                f"{self.folder!r} is no whole checkpoint: {counted(len(missing), 'file')} of its"
                f" {counted(len(names), 'part')} are missing ({name_some(missing)}); put back all"
                " files that were written together, or begin without resume=True")
        counts = [pairs_in(climb) for climb in climbs]
        read = shelf.spread(task(_read, os.path.join(self.folder, name), bench, counts)
                            for name, bench in zip(names, benches.parts, strict=True))
        found = []
        for prefix, climb, k in zip(PREFIXES, climbs, counts, strict=False):
            memory: dict[str, Any] = {**climb.memory}
            if "SY" in memory:
                memory |= {name: [SpreadVector(read.map(_item, f"{prefix}{name}.{i}"))
                                  for i in range(k)] for name in VECTORS}
            point = SpreadPoint(surface, read.map(_item, prefix + POINT))
            found.append(climb._replace(point=point, memory=memory))
        shelf.results(in_pairs(nothing, read.parts))
        del read
        # The next checkpoint removes these files: nothing may go back to them.
        shelf.settle()
        return found


def _spread(climbs: Sequence[Climb]) -> dict[str, Spread]:
    """All that lies in parts, by names that are the same in the files."""
    found: dict[str, Spread] = {}
    for prefix, climb in zip(PREFIXES, climbs, strict=False):
        found[prefix + POINT] = climb.point.parts
        for name in VECTORS:
            rows: Any = climb.memory.get(name, ())
            found |= {f"{prefix}{name}.{i}": row.parts for i, row in enumerate(rows)}
    return found


def _item(found, name):
    return found[name]


def _write(path: str, names: Sequence[str], *values: Any) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, x in zip(names, values, strict=True):
        prefix = name.removesuffix(POINT)
        arrays |= ({prefix + field: y for field, y in x._asdict().items()}
                   if isinstance(x, Point) else {name: x})
    write_part(path, PART, {"name": os.path.basename(path)}, arrays)


def _read(path: str, bench: Bench, counts: Sequence[int]) -> dict[str, Any]:
    """The points and vectors in the file of a part, checked."""
    found: dict[str, Any] = {}
    try:
        meta, arrays = read_archive(path, PART)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a worker does not see {path}: a checkpoint is a folder that the client and all"
            " workers share") from error
    with reading(path):
        if meta != {"name": os.path.basename(path)}:
            raise ValueError("damaged: it was written under another name")
        (m, R), size = bench.surface.shape, bench.surface.size
        for prefix, k in zip(PREFIXES, counts, strict=False):
            rows = [f"{name}.{i}" for name in VECTORS for i in range(k)]
            shapes: dict[str, tuple[int, ...]] = {"F": (m, R), "D": (m,), "mean": (m,)}
            own = {name: arrays[prefix + name] for name in [*shapes, *rows]}
            check_floats(own, shapes | dict.fromkeys(rows, (size,)))
            found[prefix + POINT] = Point(own["F"], own["D"], own["mean"])
            found |= {prefix + name: own[name] for name in rows}
    return found
