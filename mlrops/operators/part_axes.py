"""Principal axes of factors whose groups reach over several parts."""

from typing import Any

import numpy as np

from .. import kernels
from .._common.cluster import in_pairs, task, task_of
from .._common.spread import Spread
from .._common.typing import FloatArray, IntArray
from .cut import Cut
from .part_sweeps import alone
from .parts import Part

__all__ = ["principal"]

Blocks = dict[tuple[int, int], Any]  # by level and group


def principal(parts: Spread, cut: Cut) -> Spread:
    """The parts with every block of factors on its principal axes: see `MLR.principal`.

    The levels above pass the triangular factors of their blocks, and then the largest entries of
    their columns.
    """
    levels = [level for level in range(cut.level) if cut.ranks[level]]
    places = parts.shelf.spread(task_of(x) for x in _places(cut, levels))
    sizes = {(level, g): int(size) for level in levels
             for g, size in enumerate(cut.hierarchy.group_sizes(level))}
    cores = in_pairs(alone(_stacked), parts.map(alone(_cores), places).parts)
    axes = task(alone(_axes), cores, sizes)
    peaks = in_pairs(_higher, parts.map(alone(_peaks), places, axes).parts)
    return parts.map(alone(_turned), places, axes, peaks)


def _places(cut, levels):
    """The rows and columns of the blocks of the levels above in each part."""
    cols = cut.layout.cols
    for lo, hi in zip(cut.ends[:-1], cut.ends[1:], strict=True):
        found = {}
        for level in levels:
            offsets = cut.hierarchy.boundaries[level]
            first = int(np.searchsorted(offsets, lo, side="right")) - 1
            last = int(np.searchsorted(offsets, hi))
            inner = np.clip(offsets[first : last + 1], lo, hi) - lo
            for i, rows in enumerate(zip(inner[:-1].tolist(), inner[1:].tolist(), strict=True)):
                found[level, first + i] = (slice(*rows),
                                           slice(int(cols[level]), int(cols[level + 1])))
        yield found


def _cores(part, places):
    return {key: np.linalg.qr(part.F[place], mode="r") for key, place in places.items()}


def _stacked(a: Blocks, b: Blocks) -> Blocks:
    both = {key: np.linalg.qr(np.concatenate([a[key], b[key]]), mode="r")
            for key in a.keys() & b.keys()}
    return {**a, **b, **both}


def _axes(cores: Blocks, sizes: dict[tuple[int, int], int]) -> Blocks:
    """The rotation (r, r) of each block, zero in columns that its features have no use for."""
    found = {}
    for key, core in cores.items():
        V = np.linalg.svd(core, full_matrices=True)[2].T.copy()
        V[:, sizes[key] :] = 0
        found[key] = V
    return found


def _peaks(part, places, axes):
    """Of each column the entry of largest magnitude."""
    found = {}
    for key, place in places.items():
        x = part.F[place] @ axes[key]
        found[key] = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    return found


def _higher(a: Blocks, b: Blocks) -> Blocks:
    both = {key: np.where(np.abs(b[key]) > np.abs(a[key]), b[key], a[key])
            for key in a.keys() & b.keys()}
    return {**a, **b, **both}


def _turned(part: Part, places: Blocks, axes: Blocks, peaks: Blocks) -> Part:
    F, layout = part.F.copy(), part.layout
    for key, place in places.items():
        F[place] = (part.F[place] @ axes[key]) * np.where(peaks[key] < 0, -1, 1)
    for level in range(layout.top, layout.L):
        own = layout.columns(level)
        offsets: IntArray = layout.leaf_off[layout.first_leaves[level]]
        block: FloatArray = np.ascontiguousarray(part.F[:, own])
        F[:, own] = kernels.groups.principal_axes(block, offsets)[0]
    return part._replace(F=F)
