"""``python -m mlrops warmup``: compile every kernel now, by small problems of every kind."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from .._common.wording import counted

__all__ = ["PROBLEMS", "warmup"]

N = 48  # features of most problems
GROUPS = 1, 2, 8


class Room:
    """What the problems share: a tree, its factors, data, all of one dtype."""

    def __init__(self, dtype: Any):
        from .. import MLR, Hierarchy

        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(0)
        self.tree = Hierarchy.balanced(N, GROUPS)
        self.ranks = 2, 1, 1
        self.factors = [self.draw(N, r) for r in self.ranks]
        self.covariance = MLR(self.tree, self.factors, np.ones(N, self.dtype))
        D = np.where(np.arange(N) % 7, 1, 1e-8).astype(self.dtype)
        self.hard = MLR(self.tree, self.factors, D)  # some variances are far below others
        self.Y = self.covariance.sample(80, random_state=0)

    def draw(self, *shape: int) -> np.ndarray:
        """Standard normal numbers."""
        return self.rng.standard_normal(shape).astype(self.dtype)

    def fit(self, Y: Any = None, **options: Any) -> Any:
        """A factor model of Y, by default complete data, in a few steps."""
        from .. import fit_factor_model

        return fit_factor_model(self.Y if Y is None else Y, self.ranks, self.tree, max_iter=4,
                                **options)

    def hard_fit(self, Y: Any = None, **options: Any) -> None:
        """The same from `hard`, of which EM needs the residuals."""
        self.fit(Y, init=self.hard, variance_floor=1e-9, **options)


def _operators(room):
    """Products, solves, determinants, square roots, inverses; ordinary matrices and hard ones."""
    from .. import MLR, Hierarchy, LowRankPlusDiagonal

    ones, flat = np.ones(N, room.dtype), room.draw(N, 3)
    matrices = [LowRankPlusDiagonal(flat, ones)]
    matrices += [MLR(room.tree, room.factors, (D * ones).astype(room.dtype))
                 for D in (1, 1e-3, 1e-9, 1e-14, np.logspace(-16, 0, N))]
    for A in matrices:
        for x in (room.draw(N), room.draw(N, 3)):
            for verb in (A.matmat if x.ndim == 2 else A.matvec, A.solve, A.whiten, A.color,
                         A.inv_quad):
                with suppress(np.linalg.LinAlgError):  # of a matrix that is too hard
                    verb(x)
        with suppress(np.linalg.LinAlgError):
            A.logdet()
            A.inv().diagonal()
            A.inv() @ x
    tall = MLR(Hierarchy.flat(1200), [room.draw(1200, 6)], np.ones(1200, room.dtype))
    tall.solve(room.draw(1200, 6))  # leaves that go to BLAS
    long = MLR(Hierarchy.flat(10_000), [room.draw(10_000, 2)], np.ones(10_000, room.dtype))
    long.solve(room.draw(10_000))  # a leaf that is cut into pieces
    many = Hierarchy.balanced(256, (1, 8, 64))  # of many groups, where a path is a small part
    D = np.where(np.arange(256) % 7, 1, 1e-14).astype(room.dtype)
    MLR(many, [room.draw(256, 1) for _ in range(3)], D).inv().diagonal()
    A = matrices[1]
    A.partial_variance()
    A.inv().toarray()
    for B in (A, room.hard):
        B.posterior(room.Y.T.copy()).regress(np.square(room.Y).sum(axis=0))


def _general(room):
    """Multilevel matrices that are not symmetric, and their products."""
    from .. import GeneralMLR

    B = GeneralMLR(room.tree, room.tree, room.factors, [room.draw(N, r) for r in room.ranks])
    for A in (B, B.T, B @ room.covariance, room.covariance @ room.covariance):
        for x in (room.draw(N), room.draw(N, 3)):
            A @ x


def _use(fit, Y):
    """What is asked of a fit."""
    fit.score(Y)
    fit.scores(np.nan_to_num(Y))
    fit.scores(np.where(np.arange(N) == 3, np.nan, Y), covariance=True)
    fit.impute(np.where(np.arange(N) == 3, np.nan, Y), return_std=True)
    fit.condition([0, 1]).covariance.logdet()


def _complete(room):
    """A factor model of complete samples, more than features, and fewer."""
    for Y in (room.Y, room.Y[:20]):
        fit = room.fit(Y)
    _use(fit, room.Y)
    room.hard_fit()


def _missing(room):
    """A factor model of samples with missing cells, and solves with what they show."""
    from ..factor.estep.incomplete_solve import IncompletePrecision, ObservedCells

    Y = np.where(room.rng.random(room.Y.shape) < 0.1, np.nan, room.Y).astype(room.dtype)
    _use(room.fit(Y, missing="em"), Y)
    room.hard_fit(Y, missing="em")
    cells = ObservedCells(room.tree, ~np.isnan(Y.T))
    for A in (room.covariance, room.hard):
        precision = IncompletePrecision(A, cells)
        precision.inverse_diagonal(), precision.inv_quad(Y.T)


def _streamed(room):
    """A factor model of samples that come in chunks."""
    Y = np.where(room.rng.random(room.Y.shape) < 0.1, np.nan, room.Y).astype(room.dtype)
    for data in map(np.ascontiguousarray, (room.Y, Y)):
        room.fit([data[:30], data[30:]], sample_weight=np.ones(len(data)), missing="em")


def _sparse(room):
    """A factor model of sparse samples."""
    import scipy.sparse

    shown = np.where(room.rng.random(room.Y.shape) < 0.3, room.Y, 0)
    shown[:2] = room.Y[:2]
    for center in (True, False):
        room.fit(scipy.sparse.csr_array(shown), center=center)
    room.hard_fit(scipy.sparse.csr_array(shown))


def _matrices(room):
    """A multilevel matrix near to a given one, on a tree that is found."""
    import scipy.sparse

    from .. import allocate_ranks, fit_mlr, partition

    A = room.draw(N, N)
    for symmetric, M in ((True, A + A.T), (False, A)):
        rows, cols = partition(M, 3, random_state=0)
        fit_mlr(M, (2, 1, 1), rows, cols, symmetric=symmetric, max_iter=2)
    for M in (abs(A) + abs(A.T), A, scipy.sparse.csr_array(np.where(abs(A) > 1, A, 0))):
        partition(M, 3, balanced=False, random_state=0)
    allocate_ranks(room.covariance.toarray(), 4, room.tree, psd=True, max_iter=2)


def _regressions(room):
    """Regressions with correlated errors, with and without missing cells."""
    from .. import SUR, gls
    from ..datasets import simulate_gls

    data = simulate_gls(3, room.covariance, random_state=0)
    for solver in ("cg", "lsmr", "qr"):
        gls(data.X, data.y, room.covariance, solver=solver)
    x, Y = room.draw(len(room.Y), 2).astype(float), room.Y.astype(float)
    gappy = np.where(room.rng.random(Y.shape) < 0.1, np.nan, Y)
    for values in (Y, gappy):
        equations = {f"y{i}": (values[:, i], x) for i in range(12)}
        for ranks, tree in ((1, None), ((1, 1), {f"y{i}": f"g{i // 4}" for i in range(12)})):
            fit = SUR(equations).fit(ranks, tree, max_iter=3)
        fit.with_cov("robust")


# What is done, and what it is called; every dtype goes through those that know any.
PROBLEMS: dict[str, Callable[[Room], object]] = {
    "operators": _operators, "general matrices": _general, "complete data": _complete,
    "missing cells": _missing, "chunks of samples": _streamed, "sparse data": _sparse,
    "matrix fits": _matrices, "regressions": _regressions}


def warmup(args: Any) -> None:
    """Run the command: compile, say how long it took and where the kernels are kept."""
    from ..kernels import _jit

    start, at_start = perf_counter(), len(_jit.compiled())
    with _jit.announcing(lambda: None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that are stopped; what is lost is said below
        for dtype in (np.float64, np.float32)[: 1 + args.float32]:
            for name, problem in PROBLEMS.items():
                begun, before = perf_counter(), len(_jit.compiled())
                print(f"{name}, {np.dtype(dtype)} ...", end=" ", flush=True)
                problem(Room(dtype))
                count = len(_jit.compiled()) - before
                print(f"{counted(count, 'kernel')} compiled, {perf_counter() - begun:.1f} s")
    print("\n" + _outcome(len(_jit.compiled()) - at_start, perf_counter() - start,
                          _jit.cache_folders()))


def _outcome(count, seconds, folders):
    """What was done, and for whom."""
    if not folders:
        return (f"Compiled {counted(count, 'kernel')} in {seconds:.1f} s, for this process alone:"
                " there is no place to keep them.\nSet the environment variable NUMBA_CACHE_DIR to"
                " a folder that can be written to.")
    place = f"in {os.path.commonpath(sorted(folders))}"
    if not count:
        return f"Nothing was to be compiled: the kernels lie {place}."
    return f"Compiled {counted(count, 'kernel')} in {seconds:.1f} s; they are kept {place}."
