"""Files of a `DistributedMLR`: one a part, and an index that is written last."""

import os
from contextlib import suppress
from typing import Any

import numpy as np

from .._common.cluster import in_pairs, nothing, results, task
from .._common.spread import Spread
from .._common.stored import of_field
from .._common.wording import counted
from ..io.archive import read_archive, reading, write_archive
from ..io.saving import INDEX
from ..tree.hierarchy import Hierarchy
from .cut import Cut, cut_at
from .parts import Part

__all__ = ["load", "save", "write_part"]

KIND, PART = "distributed operator", "part of a distributed operator"


def save(path: Any, hierarchy: Hierarchy, cut: Cut, dtype: np.dtype, parts: Spread) -> None:
    """Write the parts where they are, then the index here; then remove older parts."""
    path = os.fsdecode(os.path.abspath(path))
    os.makedirs(path, exist_ok=True)
    token = os.urandom(6).hex()
    names = [f"part-{i}-{token}.npz" for i in range(len(parts.parts))]
    writes = [task(_write, part, os.path.join(path, name)) for part, name in
              zip(parts.parts, names, strict=True)]
    results(in_pairs(nothing, writes))
    fields = hierarchy.to_fields()
    boundaries: Any = fields["boundaries"]
    arrays = {f"boundaries.{i}": x for i, x in enumerate(boundaries)}
    arrays |= {"permutation": hierarchy.permutation, "ends": cut.ends}
    meta = {"ranks": cut.ranks[: hierarchy.n_levels], "dtype": str(dtype), "parts": tuple(names),
            "names": fields["names"], "feature_names": fields["feature_names"]}
    write_archive(os.path.join(path, INDEX), KIND, meta, arrays)
    for name in os.listdir(path):
        if name.startswith("part-") and name.endswith(".npz") and name not in names:
            with suppress(OSError):
                os.unlink(os.path.join(path, name))


def load(path: Any) -> tuple[Hierarchy, Cut, np.dtype, list[Any]]:
    """The tree, its cut, the dtype, and a task a part that reads it."""
    path = os.fsdecode(os.path.abspath(path))
    index = os.path.join(path, INDEX)
    meta, arrays = read_archive(index, KIND)
    with reading(index):
        levels = tuple(arrays[f"boundaries.{i}"] for i in range(len(arrays) - 2))
        hierarchy = Hierarchy.from_fields(arrays["permutation"], levels, meta["names"],
                                          meta["feature_names"])
        dtype, names = np.dtype(meta["dtype"]), meta["parts"]
        ends = arrays["ends"]
        if len(names) != ends.size - 1 or ends[0] != 0 or ends[-1] != hierarchy.n or dtype not in (
                np.float32, np.float64):
            raise ValueError(f"damaged: {counted(len(names), 'part')} of {dtype} do not fit")
        for name in names:
            if type(name) is not str or os.path.basename(name) != name:
                raise ValueError("damaged: a part has no name of a file")
        with of_field("ranks"):
            cut = cut_at(hierarchy, meta["ranks"], np.diff(ends).tolist())
    R = sum(meta["ranks"])
    return hierarchy, cut, dtype, [
        task(_read, os.path.join(path, name), part, R, dtype)
        for name, part in zip(names, cut.parts(), strict=True)]


def _write(part: Part, path: str) -> None:
    write_part(path, PART, {}, {"F": part.F, "D": part.D})


def write_part(path: str, kind: str, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write the file of a part where it lies."""
    try:
        write_archive(path, kind, meta, arrays)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a worker does not see the folder of {path}: parts are written by the workers, to a"
            " directory that all of them share") from error


def _read(path: str, part: Part, R: int, dtype: np.dtype) -> Part:
    _, arrays = read_archive(path, PART)
    with reading(path):
        F, D, m = arrays["F"], arrays["D"], len(part.features)
        if F.shape != (m, R) or D.shape != (m,) or F.dtype != dtype or D.dtype != dtype:
            raise ValueError(f"damaged: F must be ({m}, {R}) and D ({m},) of {dtype}, got"
                             f" {F.shape} and {D.shape} of {F.dtype} and {D.dtype}")
        if not (np.isfinite(F).all() and np.isfinite(D).all() and (D > 0).all()):
            raise ValueError("damaged: F and D must be finite, D positive")
    return part._replace(F=F, D=D)
