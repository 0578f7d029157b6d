"""From an array of dask in chunks of columns to benches: the parts of a fit, each on a worker."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._common.cluster import (
    check_workers,
    chunks_of,
    in_pairs,
    on_workers,
    results_beside,
    task,
    task_of,
)
from ..._common.given import Given, wrong_weights
from ..._common.labelled import named
from ..._common.spread import Shelf, Spread
from ..._common.typing import BoolArray, FloatArray
from ..._common.validate import plain, working_dtype
from ..._common.wording import counted
from ...operators.cut import Cut
from ...operators.part_sweeps import alone
from ...operators.parts import Part
from ...tree.hierarchy import Hierarchy
from ..checkpoint import digest
from ..estep.columns import Bench
from ..estep.complete import complete_source
from ..likelihood import LikelihoodSurface
from ..limits import check_scale
from ..prior import Prior
from ..usable import usable_ranks
from .surface import SpreadSurface

__all__ = ["ColumnSource", "Options", "Plan", "check_finite", "open_columns", "open_parts",
           "plans_of"]


class Options(NamedTuple):
    """What every part is fitted with."""

    ranks: tuple[int, ...]
    center: bool
    variance_floor: float
    prior: float  # strength; 0 for none
    digested: bool = False  # whether a text is to tell the data apart from others


class ColumnSource(NamedTuple):
    """What is known here of data in chunks of columns; see `Source`."""

    n_samples: int
    n_features: int
    weight: float
    dtype: np.dtype
    digests: tuple[str, ...]  # of the data of each part, empty where they were not asked for


class Plan(NamedTuple):
    """What a part is made from, beside its data."""

    number: int
    part: Part
    first: int
    tree: Hierarchy
    usable: BoolArray
    names: Sequence[Any]  # of its features as they came: names, or numbers
    prior_variance: FloatArray | None  # (m,) in the order of the part


class _Size(NamedTuple):
    n_samples: int
    weight: float
    dtype: np.dtype
    digests: tuple[str, ...]

    def merged(self, other: "_Size") -> "_Size":
        return self._replace(dtype=np.result_type(self.dtype, other.dtype),
                             digests=self.digests + other.digests)


def open_columns(given: Given, cut: Cut, options: Options, prior_variance: FloatArray | None,
                 keep: bool) -> SpreadSurface:
    """What a fit to an array in chunks of columns climbs; see `fit_factor_model`.

    `prior_variance` (n,) is in the order of the features; `keep` is for quasi-Newton steps.
    """
    weights, N = given.relative_weights(), given.values.shape[0]
    if weights is not None and weights.size != N:
        raise ValueError(wrong_weights(weights.size, N))
    check_workers()
    collection = on_workers(given.values)  # to be held until the benches are there
    return open_parts(chunks_of(collection), weights, cut, options, prior_variance, keep)


def open_parts(chunks: Sequence[Any], weights: FloatArray | None, cut: Cut, options: Options,
               prior_variance: FloatArray | None = None, keep: bool = True,
               shelf: Shelf | None = None) -> SpreadSurface:
    """What a fit climbs, of data (N, m) that tasks give, one a part of `cut`.

    They are gone through now: what the parts keep of them depends on the tasks, should it be lost.
    `weights` (N,) are relative, as `Given.relative_weights` gives them.  On the `shelf` of another
    surface over the same cut, points and vectors go from one to the other.
    """
    shared = task_of(weights)
    plans = plans_of(cut, prior_variance)
    benches = [task(alone(_open), chunk, shared, plan, options)
               for chunk, plan in zip(chunks, plans, strict=True)]
    sizes = in_pairs(_Size.merged, [task(_size, bench) for bench in benches])
    (crown, *benches), (size,) = results_beside(
        [task_of(cut.layout.crown()), *benches], [sizes])
    shelf = Shelf([]) if shelf is None else shelf
    shelf.anchors = benches
    parts = Spread(shelf, benches)  # the shelf does not write data
    parts.stays = True
    source = ColumnSource(size.n_samples, cut.hierarchy.n, size.weight, size.dtype,
                          size.digests)
    return SpreadSurface(parts, source, crown, cut, options.ranks, keep)


def plans_of(cut: Cut, prior_variance: FloatArray | None) -> list[Plan]:
    """What each part is made from; `prior_variance` (n,) is in the order of the features."""
    h = cut.hierarchy
    names: Sequence[Any] = range(h.n) if h.feature_names is None else h.feature_names
    plans = []
    for number, (part, tree, usable) in enumerate(zip(cut.parts(), cut.trees(), _usable(cut),
                                                      strict=True)):
        lo, hi = int(cut.ends[number]), int(cut.ends[number + 1])
        t = None if prior_variance is None else prior_variance[part.features]
        plans.append(Plan(number, part, lo, tree, usable, names[lo:hi], t))
    return plans


def _usable(cut):
    """Which columns of F the leaves of each part can use, (leaves, R)."""
    usable = usable_ranks(cut.hierarchy, cut.ranks)
    return [np.concatenate([np.arange(r) < count[path][:, None] for r, count, path in
                            zip(cut.ranks, usable, _leaves(cut, part).T, strict=True)], axis=1)
            for part in cut.parts()]


def _leaves(cut, part):
    """The groups of each level on the way to each leaf of a part (leaves, L)."""
    layout = cut.layout
    first, last = (int(layout.top_leaf[g]) for g in (part.groups.start, part.groups.stop))
    return layout.path[first:last]


def _open(chunk, weights, plan, options):
    Y = plain(chunk, f"chunk {plan.number} of Y")
    Y = np.asarray(Y, working_dtype(Y.dtype, f"chunk {plan.number} of Y"))
    text = ""
    if options.digested:
        text = digest(Y) if weights is None else digest(Y, weights)
    if weights is not None and not weights.all():
        Y, weights = Y[weights > 0], weights[weights > 0]
    check_finite(Y, "Y", plan, "column",
                 'cells may be missing (missing="em") in chunks of rows only, Y.rechunk({1: -1})')
    data = complete_source(Y, plan.tree, options.center, weights, plan.names, compress=False)
    check_scale(data, plan.tree, plan.names)
    prior = None
    if options.prior:
        t = data.variance if plan.prior_variance is None else plan.prior_variance
        prior = Prior(options.prior, t, float(data.n_samples),
                      np.full(len(t), float(data.n_samples)))
    surface = LikelihoodSurface(data, plan.tree, options.ranks,
                                options.variance_floor * data.variance, prior=prior)
    return Bench(plan.number, plan.part, plan.first, plan.tree, plan.usable, surface, text)


def check_finite(x: FloatArray, what: str, plan: Plan, feature: str, hint: str) -> None:
    """Refuse NaN and infinity in a chunk (N, m) or (N, m, p), whose columns the plan names."""
    bad = ~np.isfinite(x)
    if bad.any():
        kind = "NaN" if np.isnan(x).any() else "infinity"
        columns = np.flatnonzero(bad.any(axis=tuple(i for i in range(x.ndim) if i != 1)))
        raise ValueError(
            f"{what} must be finite, got {counted(int(bad.sum()), 'cell')} with {kind} in chunk"
            f" {plan.number}, in {counted(columns.size, feature)} ({named(columns, plan.names)});"
            f" {hint}")


def _size(bench):
    data = bench.data
    return _Size(data.n_samples, data.weight, data.dtype, (bench.digest,))
