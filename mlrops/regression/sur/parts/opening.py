"""From arrays of dask in chunks of equations to a system in parts, each on a worker."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...._common.cluster import (
    check_workers,
    chunks_of,
    import_array,
    is_dask,
    on_workers,
    results_beside,
    task,
    task_of,
)
from ...._common.spread import Shelf, Spread
from ...._common.typing import FloatArray, IntArray
from ...._common.validate import as_finite, plain, working_dtype
from ...._common.wording import counted
from ....factor.columns.source import Plan, check_finite, plans_of
from ....factor.estep.columns import Bench
from ....factor.estep.complete import CompleteData
from ....factor.likelihood import LikelihoodSurface
from ....factor.limits import check_scale
from ....factor.prior import Prior
from ....operators.cut import Cut
from ....operators.part_sweeps import alone
from ....tree.hierarchy import Hierarchy
from ..data import SURData
from ..limits import check_bounded
from ..system import StackedSystem
from .equations import Equations

__all__ = ["Given", "SpreadSystem", "in_tree_order", "open_system", "read_parts", "regressors_of"]


class Given(NamedTuple):
    """Dependent variables and regressors, of which nothing is computed."""

    Y: Any  # a dask array (N, K) in chunks of columns
    X: Any  # (N, p) for all equations, maybe of dask; or a dask array (N, K, p) in the same chunks
    dtype: np.dtype

    @property
    def widths(self) -> tuple[int, ...]:
        """Equations of each chunk."""
        return self.Y.chunks[1]


class Rules(NamedTuple):
    """What every part is fitted with."""

    ranks: tuple[int, ...]
    variance_floor: float
    beta_ridge: float
    prior: float  # strength; 0 for none
    is_bounded: bool  # whether the likelihood has a maximum in any case


class SpreadSystem(NamedTuple):
    """Equations in parts, and what is known of them here."""

    equations: Spread  # an `Equations` each
    crown: Any  # a task: the levels above
    cut: Cut
    parents: list[tuple[int, int]]  # of each part, in the levels above
    hierarchy: Hierarchy
    N: int
    p: int
    dtype: np.dtype

    @property
    def K(self) -> int:
        """Number of equations."""
        return self.hierarchy.n

    @property
    def widths(self) -> list[int]:
        """Equations of each part."""
        return np.diff(self.cut.ends).tolist()

    @property
    def shelf(self) -> Shelf:
        """Where vectors and parameters are written now and then."""
        return self.equations.shelf

    def between(self, coarse: Any, own: Callable[[Any, int, int], Any]) -> Spread:
        """What parts need of the result of a task that stands for all parents."""
        found = {place: task(own, coarse, *place) for place in set(self.parents)}
        return self.shelf.spread(found[place] for place in self.parents)


# ---------------------------------------------------------------- what is given


def read_parts(Xs: Any, Y: Any) -> Given:
    """Check shapes and chunks of what `als_gls` is given where Y is a collection of dask."""
    if not hasattr(Y, "chunks") or Y.ndim != 2:
        what = f"a dask {type(Y).__name__}" if is_dask(Y) else "an array in memory beside dask Xs"
        raise TypeError("Y must be a dask array of 2 dimensions (N, K) in chunks of columns, got"
                        f" {what} of {getattr(Y, 'ndim', 'no')} dimensions"
                        + ("; give Y.to_dask_array(lengths=True).rechunk({0: -1, 1: ...})"
                           if hasattr(Y, "columns") else ""))
    _check_known(Y, "Y")
    rows, columns = Y.numblocks
    if rows > 1:
        way = f"both ways, into {rows} by {columns} chunks" if columns > 1 else "by rows"
        raise ValueError(f"Y is cut {way}: make the chunks whole columns, one or more equations"
                         " each, Y.rechunk({0: -1})")
    X = _read_regressors(Xs, Y)
    dtype = np.result_type(working_dtype(Y.dtype, "Y"), working_dtype(X.dtype, "Xs"))
    N, p = Y.shape[0], X.shape[-1]
    if N <= p:
        raise ValueError(f"every equation has {counted(p, 'regressor')} and {counted(N, 'row')};"
                         " more rows than regressors are needed")
    return Given(Y, X, dtype)


def _check_known(x, what):
    if any(np.isnan(float(size)) for sizes in x.chunks for size in sizes):
        raise ValueError(f"{what} has chunks of unknown sizes: call {what}.compute_chunk_sizes()"
                         " first")


def _read_regressors(Xs, Y):
    N, K = Y.shape
    if is_dask(Xs):
        if getattr(Xs, "ndim", 0) not in (2, 3) or not hasattr(Xs, "chunks"):
            raise ValueError(
                "regressors must be a dask array (N, K, p), or (N, p) for all equations, got a dask"
                f" {type(Xs).__name__} of {getattr(Xs, 'ndim', 'no')} dimensions")
        _check_known(Xs, "Xs")
        if Xs.ndim == 2:
            _check_rows(Xs, N)
            return Xs.rechunk(-1)
        if Xs.shape[:2] != (N, K):
            raise ValueError(f"Xs must have shape (N, K, p) with the {N} rows and {K} equations of"
                             f" Y, got {Xs.shape}")
        if Xs.chunks[1] != Y.chunks[1] or Xs.numblocks[0] > 1 or Xs.numblocks[2] > 1:
            raise ValueError(
                "the chunks of Xs must be those of Y along the equations and whole along rows and"
                " regressors: Xs.rechunk({0: -1, 1: Y.chunks[1], 2: -1})")
        return Xs
    if isinstance(Xs, (list, tuple)):
        return _stacked(Xs, Y)
    if hasattr(Xs, "keys"):
        raise TypeError("beside Xs with names, Y must be in memory, got a dask Array, which is not"
                        " computed unasked: give its compute(), or Xs without names: an array"
                        " (N, p) for all equations, a list of K arrays, or a dask array (N, K, p)")
    X = as_finite(Xs, "Xs", ndim=2, axis_name="row")
    _check_rows(X, N)
    return X


def _check_rows(X, N):
    if len(X) != N:
        raise ValueError(f"Xs has {counted(len(X), 'row')}, Y has {N}: every equation needs the"
                         " same rows")


def _stacked(Xs, Y):
    """The dask array (N, K, p) of a list of K arrays, which travel with their part."""
    N, K = Y.shape
    if len(Xs) != K:
        raise ValueError("Xs must hold one array for each equation (column of Y), got"
                         f" {len(Xs)} for {counted(K, 'equation')}")
    Xs = [plain(X, f"X of equation {j}") for j, X in enumerate(Xs)]
    for j, X in enumerate(Xs):
        if X.ndim != 2 or len(X) != N or X.shape[1] != Xs[0].shape[1]:
            p = Xs[0].shape[-1]
            raise ValueError(
                f"X of equation {j} has shape {X.shape}: beside a dask array Y all equations need"
                f" the {N} rows of Y and equally many regressors, {p} as equation 0 has")
    dtype, array = np.result_type(*{X.dtype for X in Xs}), import_array()
    ends = np.cumsum((0, *Y.chunks[1]))
    return array.concatenate([
        array.from_delayed(task_of(np.stack(Xs[lo:hi], axis=1)), (N, hi - lo, Xs[0].shape[1]),
                           dtype) for lo, hi in zip(ends[:-1], ends[1:], strict=True)], axis=1)


# ---------------------------------------------------------------- parts


def open_system(given: Given, cut: Cut, hierarchy: Hierarchy, rules: Rules,
                prior_variance: FloatArray | None) -> SpreadSystem:
    """The system of what is given, its parts where the chunks are."""
    check_workers()
    Y, X = (on_workers(x) if is_dask(x) else x for x in given[:2])  # held until parts are there
    plans = plans_of(cut, prior_variance)
    regressors = regressors_of(X, len(plans))
    parts = [task(alone(_open), chunk, x, plan, rules, given.dtype)
             for chunk, x, plan in zip(chunks_of(Y), regressors, plans, strict=True)]
    (crown, *parts), _ = results_beside([task_of(cut.layout.crown()), *parts], [])
    equations = Spread(Shelf(parts), parts)  # the shelf does not write data
    equations.stays = True
    N, p = given.Y.shape[0], given.X.shape[-1]
    return SpreadSystem(equations, crown, cut, cut.parents(), hierarchy, N, p, given.dtype)


def regressors_of(X: Any, n_parts: int) -> list[Any]:
    """The regressors of each part as a task: of all equations (N, p), or of its own (N, m, p)."""
    chunks = chunks_of(X) if is_dask(X) else [task_of(X)]
    return chunks * (n_parts if X.ndim == 2 else 1)


def in_tree_order(X: FloatArray, order: IntArray) -> list[FloatArray]:
    """The regressors (N, p) of each equation of a part."""
    return [X if X.ndim == 2 else X[:, j] for j in order]


def _open(Y: Any, X: Any, plan: Plan, rules: Rules, dtype: np.dtype) -> Equations:
    """Read, check and orthogonalize a part."""
    tree, names = plan.tree, plan.names
    Y = _numbers(Y, f"chunk {plan.number} of Y", dtype)
    hint = "cells may be missing in memory only, in the equations of a SUR"
    check_finite(Y, "Y", plan, "equation", hint)
    X = _numbers(X, f"chunk {plan.number} of Xs", dtype)
    if X.ndim == 3:
        check_finite(X, "Xs", plan, "equation", hint)
    else:
        as_finite(X, "Xs", ndim=2, axis_name="row")
    m, p = Y.shape[1], X.shape[-1]
    if not rules.is_bounded:
        check_bounded(SURData(in_tree_order(X, np.arange(m)), Y), tree, rules.ranks, label=names)
    order = tree.permutation
    in_order = [names[j] for j in order]
    system = StackedSystem(in_tree_order(X, order), Y[:, order], in_order, ridge=rules.beta_ridge,
                           regressors=[range(p)] * m)
    E = system.residuals(system.ols)
    system.check_errors(E)
    squares = np.einsum("kt,kt->k", E, E, dtype=np.float64)
    # What says where D stands and in which units F is; residuals come with coefficients.
    data = CompleteData(np.empty((m, 0)), squares, np.zeros(m), system.N, float(system.N),
                        dtype=dtype)
    check_scale(data, tree, names, "equation")
    prior = None
    if rules.prior:
        t = data.variance if plan.prior_variance is None else plan.prior_variance
        prior = Prior(rules.prior, t, float(system.N), np.full(m, float(system.N)))
    surface = LikelihoodSurface(data, tree, rules.ranks, rules.variance_floor * data.variance,
                                prior=prior)
    bench = Bench(plan.number, plan.part, plan.first, tree, plan.usable, surface)
    return Equations(bench, system)


def _numbers(x, what, dtype):
    x = plain(x, what)
    working_dtype(x.dtype, what)
    return np.asarray(x, dtype)
