"""`DistributedMLR`: an MLR whose rows of F and D lie in parts on the workers of a cluster."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._common.cached import cached_property
from .._common.cluster import (
    added,
    chunks_of,
    import_array,
    in_pairs,
    is_dask,
    joined,
    nothing,
    task,
    task_of,
)
from .._common.spread import Shelf, Spread
from .._common.typing import FloatArray
from .._common.validate import as_generator, as_real, check_rank
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from . import part_files, part_sweeps
from .cut import Cut, cut_at
from .mlr import MLR
from .part_axes import principal
from .part_sweeps import alone, in_part_order, own_factors
from .parts import Part, merge

__all__ = ["DistributedMLR"]


class DistributedMLR:
    r"""Multilevel low rank matrix :math:`\sum_l F_l F_l^T + \mathrm{diag}(D)` in parts on workers.

    It is what `fit_factor_model` finds for a dask array in chunks of columns, with one part a
    chunk.  Operands and results are dask arrays, cut along their rows as the parts are; products
    and solves are computed when the result is.

    A part is a run of features, whole groups of one level of the tree.  What parts exchange are
    ``R_c k`` numbers a parent of these groups for k columns, R_c the ranks above, and once
    ``R_c²`` to factor.

    See Also
    --------
    MLR : the same in one memory, with more methods; what `gather` gives.

    Notes
    -----
    Solves and log-determinants are those of the Cholesky factorization of ``I + Fᵀ D⁻¹ F``, which
    is kept once it was needed: they lose as many digits as D is smaller than the variances, see
    `MLR.factorization`.

    Examples
    --------
    >>> import dask, numpy as np
    >>> import dask.array as da
    >>> from mlrops import MLR, DistributedMLR, Hierarchy
    >>> h = Hierarchy.from_boundaries([[0, 6], [0, 2, 6]])
    >>> whole = MLR(h, [np.ones((6, 1)), np.ones((6, 1))], D=np.full(6, 0.5))
    >>> with dask.config.set(scheduler="threads"):
    ...     A = DistributedMLR.cut(whole, (2, 4))
    ...     x = A.solve(da.arange(6.0, chunks=3)).compute()
    >>> A
    <6x6 DistributedMLR, groups (1, 2), ranks (1, 1), float64, 2 parts of 2 to 4 features>
    >>> bool(np.allclose(whole @ x, np.arange(6.0)))
    True
    """

    __array_ufunc__ = None  # NumPy leaves products with it to it

    def __init__(self, hierarchy: Hierarchy, cut: Cut, parts: Spread, dtype: np.dtype):
        self._hierarchy, self._cut, self._parts = hierarchy, cut, parts
        self.dtype = np.dtype(dtype)
        self._crown = parts.shelf.spread([task_of(cut.layout.crown())])

    @classmethod
    def cut(cls, covariance: MLR, widths: Sequence[int]) -> "DistributedMLR":
        """Cut an MLR in memory into parts, to have it beside data in chunks of columns.

        Parameters
        ----------
        covariance : MLR, shape (n, n)
        widths : sequence of int
            Features of each part, in feature order: ``Y.chunks[1]`` of an array of dask.

        Returns
        -------
        DistributedMLR

        Raises
        ------
        ValueError
            The widths do not add up to n, or features of one part stand in the tree among those of
            another.
        """
        n, h = covariance.shape[0], covariance.hierarchy
        if sum(widths) != n:
            raise ValueError(f"widths must add up to the {counted(n, 'feature')}, got {sum(widths)}"
                             f" in {counted(len(widths), 'part')}")
        cut = cut_at(h, covariance.ranks, widths)
        parts = [task_of(part._replace(F=covariance._F[lo:hi], D=covariance._d[lo:hi]))
                 for part, lo, hi in zip(cut.parts(), cut.ends[:-1], cut.ends[1:], strict=True)]
        return cls(h, cut, Shelf([]).spread(parts), covariance.dtype)

    # ---------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, n)``."""
        return self._hierarchy.n, self._hierarchy.n

    @property
    def hierarchy(self) -> Hierarchy:
        """The Hierarchy of the features."""
        return self._hierarchy

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each level, tuple of L int."""
        return self._cut.ranks[: self._hierarchy.n_levels]

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each part, in feature order: the chunks of operands and results."""
        return tuple(np.diff(self._cut.ends).tolist())

    @property
    def D(self) -> Any:
        """The diagonal part, a dask array (n,) in feature order."""
        return self._rows([task(_part_D, part) for part in self._parts.parts], ())

    @property
    def F(self) -> Any:
        """Factors, a dask array (n, R) in feature order."""
        return self._rows([task(_part_F, part) for part in self._parts.parts], (sum(self.ranks),))

    def __repr__(self) -> str:
        n, widths = self.shape[0], self.widths
        size = (counted(widths[0], "feature") if min(widths) == max(widths) else
                f"{min(widths)} to {max(widths)} features")
        return (f"<{n}x{n} DistributedMLR, groups {self._hierarchy.group_counts}, ranks"
                f" {self.ranks}, {self.dtype}, {counted(len(widths), 'part')} of {size}>")

    def __getattr__(self, name: str) -> Any:
        if hasattr(MLR, name):
            raise AttributeError(f"DistributedMLR has no {name!r}: where one memory holds it,"
                                 f" gather() gives an MLR, which has")
        raise AttributeError(f"DistributedMLR has no {name!r}")

    def __reduce__(self) -> Any:
        raise TypeError("a DistributedMLR cannot be pickled, since its parts are on workers: save"
                        " it to a directory, or gather it")

    def persist(self) -> "DistributedMLR":
        """Read or compute the parts now, to stay on the workers.

        Returns
        -------
        DistributedMLR
            The object itself.
        """
        self._parts.shelf.results(task(nothing))
        return self

    def gather(self) -> MLR:
        """The same operator in the memory here.

        Returns
        -------
        MLR, shape (n, n)
        """
        F, D = self._parts.total(joined, _numbers)
        return MLR._from_tree(self._hierarchy, self.ranks, F, D)

    def principal(self) -> "DistributedMLR":
        """The same matrix with every block of factors rotated to its principal axes.

        Returns
        -------
        DistributedMLR
            See `MLR.principal`.
        """
        return DistributedMLR(self._hierarchy, self._cut, principal(self._parts, self._cut),
                              self.dtype)

    # ---------------------------------------------------------------- products and solves

    def matvec(self, x: Any) -> Any:
        """``A x``.

        Parameters
        ----------
        x : dask array or array_like, shape (n,) or (n, k)
            An array in memory is sent to the workers in parts.

        Returns
        -------
        dask array, shape (n,) or (n, k)
            Cut along its rows as the parts are.

        Raises
        ------
        ValueError, TypeError
            Another number of rows, or no numbers.
        """
        return self._swept(x, None, part_sweeps.rows)

    matmat = matvec

    def __matmul__(self, x: Any) -> Any:
        return self.matvec(x)

    def solve(self, b: Any) -> Any:
        """``A⁻¹ b``.

        Parameters
        ----------
        b : dask array or array_like, shape (n,) or (n, k)

        Returns
        -------
        dask array, shape (n,) or (n, k)

        Raises
        ------
        ValueError, TypeError
            As `matvec`.
        numpy.linalg.LinAlgError
            A node cannot be factored, at this call; the message names level and group.
        """
        return self._swept(b, self._factors, part_sweeps.rows)

    def inv_quad(self, x: Any) -> Any:
        """``xᵀ A⁻¹ x``, of each column.

        Parameters
        ----------
        x : dask array or array_like, shape (n,) or (n, k)

        Returns
        -------
        dask array, shape () or (k,)

        Raises
        ------
        ValueError, TypeError, numpy.linalg.LinAlgError
            As `solve`.
        """
        cut, trailing, _ = self._operand(x)
        swept, coarse, K = self._sweeps(cut, self._factors)
        own = self._own(coarse)
        total = in_pairs(added, [
            task(alone(part_sweeps.quadratic), *each) for each in
            zip(self._parts.parts, cut, map(_first_of, swept), own, K, strict=True)])
        return import_array().from_delayed(task(_total, total, coarse, trailing), trailing, float)

    def logdet(self) -> float:
        """log det A.

        Returns
        -------
        float

        Raises
        ------
        numpy.linalg.LinAlgError
            As `solve`.
        """
        return self._factors[2]

    def slogdet(self) -> tuple[float, float]:
        """Sign and logarithm of the determinant.

        Returns
        -------
        sign, logdet : float
        """
        return 1.0, self.logdet()

    def diagonal(self) -> Any:
        """The diagonal.

        Returns
        -------
        dask array, shape (n,)
        """
        return self._rows([task(alone(_diagonal), part) for part in self._parts.parts], ())

    def sample(self, size: int | None = None, random_state: Any = None) -> Any:
        """Draw from the normal distribution with mean zero and this covariance.

        Parameters
        ----------
        size : int, optional
            Number of samples; None draws one.
        random_state : None, int or numpy.random.Generator
            Seed or generator.

        Returns
        -------
        dask array, shape (n,) for ``size=None``, else (size, n)
            In chunks of columns.  The numbers hang on the parts, not on the workers.
        """
        k = 1 if size is None else check_rank(size, "size")
        seed, array = int(as_generator(random_state).integers(2**63)), import_array()
        numbers = range(1, 1 + len(self.widths))
        coarse = task(alone(part_sweeps.drawn_crown), self._crown.parts[0], k, self.dtype,
                      [seed, 0])
        drawn = [task(alone(part_sweeps.drawn_rows), part, own, k, [seed, number]) for
                 part, own, number in zip(self._parts.parts, self._own(coarse), numbers,
                                          strict=True)]
        samples = array.concatenate([array.from_delayed(x, (k, m), self.dtype) for x, m in
                                     zip(drawn, self.widths, strict=True)], axis=1)
        return samples[0] if size is None else samples

    # ---------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a directory, one file a part and an index; `mlrops.load` reads it.

        Parameters
        ----------
        path : str or os.PathLike
            A directory that all workers see.  It is made if it is not there; what was saved in it
            before is replaced once all is written.

        Raises
        ------
        OSError
            It cannot be written, or is a file.
        """
        part_files.save(path, self._hierarchy, self._cut, self.dtype, self._parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DistributedMLR":
        """What `save` wrote; parts are read by workers when they are needed.

        Parameters
        ----------
        path : str or os.PathLike

        Returns
        -------
        DistributedMLR

        Raises
        ------
        ValueError
            The index is damaged; damaged parts are told where they are read.
        OSError
            FileNotFoundError and the like.
        """
        hierarchy, cut, dtype, parts = part_files.load(path)
        return cls(hierarchy, cut, Shelf([]).spread(parts), dtype)

    # ---------------------------------------------------------------- how it is done

    @cached_property
    def _factors(self) -> tuple[Spread, Spread, float]:
        """K of each part, of the levels above, and log det A; the first two stay on workers."""
        shelf = self._parts.shelf
        found = [task(alone(part_sweeps.factor), part) for part in self._parts.parts]
        passed = in_pairs(alone(merge), [task(_second, one) for one in found])
        root = task(alone(part_sweeps.crown_factor), self._crown.parts[0], passed)
        own = shelf.spread(map(_first_of, found))
        above = shelf.spread([_first_of(root)])
        return own, above, float(shelf.results(task(_second, root))[0])

    def _operand(self, x: Any) -> tuple[list[Any], tuple[int, ...], np.dtype]:
        """An operand in parts, in their order; its shape behind the first axis; its dtype."""
        n, widths = self.shape[0], self.widths
        if not is_dask(x):
            x = as_real(x, "operand", ndim=(1, 2))
        if getattr(x, "ndim", 0) not in (1, 2) or x.shape[0] != n:
            raise ValueError(f"an operand must have {counted(n, 'row')}, one a feature, in one or"
                             f" two dimensions, got shape {getattr(x, 'shape', None)}")
        dtype = np.result_type(self.dtype, np.float32 if x.dtype.kind in "iub" else x.dtype)
        if dtype.kind != "f":
            raise TypeError(f"an operand must be real, got {x.dtype}")
        if is_dask(x):
            x = x.rechunk((widths, *((k,) for k in x.shape[1:])))
            given = chunks_of(x)
        else:
            ends = np.cumsum((0, *widths))
            given = [task_of(x[lo:hi]) for lo, hi in zip(ends[:-1], ends[1:], strict=True)]
        cut = [task(_columns, *pair) for pair in zip(self._parts.parts, given, strict=True)]
        return cut, x.shape[1:], dtype

    def _sweeps(self, x: list[Any], factors: Any) -> tuple[list[Any], Any, list[Any]]:
        """The sweeps up of x, what the levels above make of them, and K of each part."""
        K, above = ([None] * len(x), None) if factors is None else (
            factors[0].parts, factors[1].parts[0])
        swept = [task(alone(part_sweeps.sweep), *each) for each in
                 zip(self._parts.parts, x, K, strict=True)]
        passed = in_pairs(alone(merge), [task(_second, one) for one in swept])
        coarse = task(alone(part_sweeps.crown_sweep), self._crown.parts[0], passed, above)
        return swept, coarse, K

    def _own(self, coarse: Any) -> list[Any]:
        return [task(own_factors, coarse, *place) for place in self._cut.parents()]

    def _swept(self, x: Any, factors: Any, function: Callable[..., FloatArray]) -> Any:
        """Rows that a function makes of an operand, its sweep up and what comes down."""
        cut, trailing, _ = self._operand(x)
        swept, coarse, K = self._sweeps(cut, factors)
        found = [task(alone(function), *each) for each in zip(
            self._parts.parts, cut, map(_first_of, swept), self._own(coarse), K, strict=True)]
        return self._rows([task(_in_feature_order, part, x, trailing) for part, x in
                           zip(self._parts.parts, found, strict=True)], trailing)

    def _rows(self, tasks: list[Any], trailing: tuple[int, ...]) -> Any:
        """A dask array of rows in parts."""
        array = import_array()
        return array.concatenate([array.from_delayed(x, (m, *trailing), self.dtype) for x, m in
                                  zip(tasks, self.widths, strict=True)])


def _first_of(pair: Any) -> Any:
    return task(_first, pair)


def _first(pair):
    return pair[0]


def _second(pair):
    return pair[1]


def _columns(part: Part, x: FloatArray) -> FloatArray:
    """Rows of an operand (m, k) in the part's order and precision."""
    x = np.asarray(x, part.F.dtype).reshape(len(x), -1)
    return in_part_order(part, np.ascontiguousarray(x))


def _in_feature_order(part, x, trailing):
    return in_part_order(part, x, back=True).reshape(len(x), *trailing)


def _part_D(part):
    return in_part_order(part, part.D, back=True)


def _part_F(part):
    return in_part_order(part, part.F, back=True)


def _diagonal(part):
    return in_part_order(part, part.D + np.einsum("ij,ij->i", part.F, part.F), back=True)


def _numbers(part):
    return part.F, part.D


def _total(sums, coarse, trailing):
    return (sums + coarse.inv_quad).reshape(trailing)
