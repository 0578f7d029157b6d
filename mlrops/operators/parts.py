"""Sweeps of an MLR part by part, for machines that hold a part of its rows each."""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .. import kernels
from .._common.typing import FloatArray, IntArray, Real
from .._common.validate import as_real, check_rank
from .._common.wording import counted, name_some

__all__ = ["Coarse", "Part", "Passed", "Swept", "down", "merge", "part", "root", "sweep_root",
           "sweep_up", "up"]

MLR: TypeAlias = Any  # its file imports this one
Layout: TypeAlias = Any  # what is compiled is loaded when it is needed

if TYPE_CHECKING:
    from ..kernels.parts import Passed
else:
    Passed: TypeAlias = Any


class Part(NamedTuple):
    """Whole groups of one level of an `MLR`: their rows of F and D, and their tree."""

    level: int
    groups: range  # the groups of that level
    features: IntArray  # (m,) the features of these groups, in the order of the rows here
    begins: IntArray  # (L,) the group of each level in which it begins
    F: FloatArray  # (m, R)
    D: FloatArray  # (m,)
    layout: Layout

    def breakdown(self, level: int, group: int) -> np.linalg.LinAlgError:
        """The error at one of its groups, which it names by its number in the whole tree."""
        first, last = self.layout.first_leaves[level][group : group + 2]
        size = int(self.layout.leaf_off[last] - self.layout.leaf_off[first])
        return np.linalg.LinAlgError(
            f"factorization broke down at level {level}, group {group + int(self.begins[level])}"
            f" ({counted(size, 'feature')}): I + Fᵀ D⁻¹ F overflows {self.F.dtype}, or D is too"
            f" small beside F for its precision: entries of F reach {np.abs(self.F).max():.3g}"
            f" there and of D fall to {self.D.min():.3g}; rescale the features")


class Swept(NamedTuple):
    """What a part keeps from its sweep up for its sweep down."""

    K: FloatArray  # (s, R) the factors of its nodes
    W: FloatArray  # (s, k) right-hand sides of its nodes
    b: FloatArray  # (m, k)
    one: bool  # whether b was a vector


class Coarse(NamedTuple):
    """What the levels above the parts make of what these passed; goes to every part."""

    factors: FloatArray  # (parents, c, k) factors of the levels above, along the path of a parent
    first: int  # the number of the first parent that is here
    logdet: float  # log det Σ
    inv_quad: FloatArray  # (k,) bᵀ Σ⁻¹ b
    covariances: FloatArray | None = None  # (parents, c, c) of these factors given b, if asked for

    def of(self, part: Part) -> "Coarse":
        """What a part needs of it: the factors of its own parents."""
        lo, hi = int(part.layout.place[0, 0]), int(part.layout.place[-1, 0]) + 1
        own = slice(lo - self.first, hi - self.first)
        cov = self.covariances
        return self._replace(factors=self.factors[own], first=lo,
                             covariances=cov if cov is None else cov[own])


def part(self: MLR, level: int, first: int = 0, last: int | None = None) -> Part:
    """Whole groups of one level: their rows of F and D, for another machine or process.

    Parts of one level, however they are cut, make `solve`, `logdet` and `inv_quad`::

        state, passed = A.up(part, b)             # where the part is
        coarse = A.root(A.merge(*all_passed))     # at one place
        x = A.down(part, state, coarse)           # where the part is

    What goes to and fro are plain arrays of a number of rows that does not grow with the
    features: ``R_c² + R_c k`` numbers a parent of the groups, R_c the ranks above `level`.  All
    of it can be pickled.  The results are the same to the last bit whatever the cuts and in
    whatever order parts are merged, for one level; for other levels, and beside `solve`, to
    rounding.  They are those of the Cholesky factorization: see `factorization`.

    Parameters
    ----------
    level : int
        Level whose groups are not cut.
    first, last : int, optional
        The groups ``first:last`` of that level; by default all.

    Returns
    -------
    Part
        With ``features`` (m,), the features of the groups, in the order of the part's rows.

    Raises
    ------
    IndexError, ValueError
        No such level, no such groups.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> h = Hierarchy.from_labels(["a", "a", "b", "b", "c"])
    >>> A = MLR(h, [np.ones((5, 1)), np.ones((5, 1))], D=np.full(5, 0.5))
    >>> b = np.arange(5.0)
    >>> cuts = [A.part(1, 0, 2), A.part(1, 2)]
    >>> swept = [A.up(part, b[part.features]) for part in cuts]
    >>> coarse = A.root(A.merge(*(passed for _, passed in swept)))
    >>> x = np.empty(5)
    >>> for part, (state, _) in zip(cuts, swept):
    ...     x[part.features] = A.down(part, state, coarse)
    >>> bool(np.allclose(x, A.solve(b))), bool(np.isclose(coarse.logdet, A.logdet()))
    (True, True)
    """
    A, h = self, self.hierarchy
    level = range(h.n_levels)[level]
    last = h.group_counts[level] if last is None else check_rank(last, "last")
    first = check_rank(first, "first")
    if not first < last <= h.group_counts[level]:
        raise ValueError(f"a part must have a group or more of the"
                         f" {counted(h.group_counts[level], 'group')} of level {level}, got"
                         f" groups {first} to {last} (not included)")
    lo, hi = (int(h.boundaries[level][g]) for g in (first, last))
    layout = A._layout.at(level)
    return Part(level, range(first, last), h.permutation[lo:hi],
                layout.path[layout.top_leaf[first]], A._F[lo:hi], A._d[lo:hi],
                layout.part(first, last))


def up(self: MLR, part: Part, b: Real | None = None) -> tuple[Swept, Passed]:
    """Multiply and eliminate all that is below the cut, in one part; see `part`.

    Parameters
    ----------
    part : Part
    b : array_like, shape (m,) or (m, k), optional
        Rows of right-hand sides, in the order of ``part.features``.

    Returns
    -------
    state : Swept
        What `down` goes on with.
    passed : Passed
        What `root` needs of it.

    Raises
    ------
    ValueError
        Another number of rows.
    numpy.linalg.LinAlgError
        A node cannot be factored; the message names level and group.
    """
    d, dtype = part.D, part.F.dtype
    b = np.empty((len(d), 0), dtype) if b is None else as_real(b, "b", dtype=dtype, ndim=(1, 2))
    if len(b) != len(d):
        raise ValueError(f"b must have {counted(len(d), 'row')}, one for each of the part's"
                         f" features, got an array of shape {b.shape}")
    one = b.ndim == 1
    swept, passed = sweep_up(part, np.ascontiguousarray(b.reshape(len(d), -1)))
    return swept._replace(one=one), passed


def sweep_up(part: Part, b: FloatArray, squares: FloatArray | None = None
             ) -> tuple[Swept, Passed]:
    """`up` of b (m, k) that is checked, by a machine that has no more than the part.

    With the sums of squares (m,) of the rows of b, ``bᵀ Σ⁻¹ b`` is only summed over its columns.
    """
    F, d, layout = part.F, part.D, part.layout
    dinv = 1 / d
    found, W, passed = kernels.parts.factor_up(F, dinv, b, layout, np.ones(layout.s, F.dtype))
    if found.fail[0] >= 0:
        raise part.breakdown(*(int(i) for i in found.fail))
    # Of b what is left is counted with the sign of w²: so the root may go on adding w².
    off = layout.leaf_off[layout.top_leaf[:-1]]
    passed.sums[:, 0] += np.add.reduceat(np.log(d, dtype=np.float64), off) / 2
    if squares is None:
        passed.sums[:, 1:] -= np.add.reduceat(
            np.square(b, dtype=np.float64) * dinv[:, None], off, axis=0)
    else:
        explained = passed.sums[:, 1:].sum(axis=1) - np.add.reduceat(squares * dinv, off)
        passed = passed._replace(sums=np.column_stack([passed.sums[:, 0], explained]))
    return Swept(found.K, W, b, False), merge(passed)


def merge(*passed: Passed) -> Passed:
    """What parts pass up together, in any order; associative to the last bit; see `part`.

    Parameters
    ----------
    *passed : Passed
        What `up` gave for some parts, or `merge` itself.

    Returns
    -------
    Passed

    Raises
    ------
    ValueError
        They come from groups of more than one level.
    """
    levels = {one.level for one in passed}
    if len(levels) != 1:
        raise ValueError("merge: what is passed must come from groups of one level, got levels"
                         f" {sorted(levels)}")
    return kernels.parts.merge(*passed)


def root(self: MLR, passed: Passed) -> Coarse:
    """Sweep the levels above the parts, of which all have passed; see `part`.

    Parameters
    ----------
    passed : Passed
        Of all parts, merged.

    Returns
    -------
    Coarse
        For `down`; ``of(part)`` is what one part needs.  With ``logdet`` (float) and
        ``inv_quad`` (k,), which loses as many digits as D is smaller than the variances.

    Raises
    ------
    ValueError
        A group has passed nothing, or twice; the message names groups.
    numpy.linalg.LinAlgError
        A node cannot be factored; the message names level and group.
    """
    A = self
    layout = A._layout.at(passed.level)
    missing = _missing(passed, layout)
    if missing.size:
        raise ValueError(f"root: {counted(missing.size, 'group')} of level {passed.level} passed"
                         f" nothing ({name_some(missing)}); merge what all parts passed")
    return sweep_root(layout, passed)


def sweep_root(layout: Layout, passed: Passed, covariances: bool = False) -> Coarse:
    """`root` by a machine that has the levels above the parts only (`Layout.crown`).

    With `covariances` those of the factors given b go down, too.
    """
    s, k, dtype = int(layout.zoff[layout.top]), passed.rows.shape[2], passed.rows.dtype
    found = kernels.parts.room_for_factor(layout, dtype, s)
    K, W = found.K, np.empty((s, k), dtype)
    summed = max(0, k + 1 - passed.sums.shape[1])  # columns that `sweep_up` has summed up
    passed = passed._replace(sums=np.pad(passed.sums, ((0, 0), (0, summed))))
    sums = kernels.parts.root(passed.copy(), layout, K, W, np.ones(s, dtype), found)
    if found.fail[0] >= 0:
        level, group = (int(i) for i in found.fail)
        raise np.linalg.LinAlgError(
            f"factorization broke down at level {level}, group {group}: I + Fᵀ D⁻¹ F overflows"
            f" {dtype}, or D is too small beside F for its precision; rescale the features")
    cov = kernels.parts.coarse_covariance(layout, K) if covariances else None
    return Coarse(kernels.parts.coarse_factors(layout, K, W), 0, 2 * float(sums[0]), -sums[1:],
                  cov)


def _missing(passed, layout):
    """Numbers of the groups of whom nothing was passed, and of those that were passed twice."""
    first = np.searchsorted(layout.parent, passed.place[:, 0]) + passed.place[:, 1]
    count = np.zeros(layout.n_groups, int)
    for at, size in zip(first, passed.place[:, 2], strict=True):
        count[at : at + size] += 1
    if (count > 1).any():
        twice = np.flatnonzero(count > 1)
        raise ValueError(f"root: {counted(twice.size, 'group')} of level {passed.level} passed"
                         f" twice ({name_some(twice)})")
    return np.flatnonzero(count == 0)


def down(self: MLR, part: Part, state: Swept, coarse: Coarse) -> FloatArray:
    """The rows of ``Σ⁻¹ b`` in one part; see `part`.

    Parameters
    ----------
    part : Part
    state : Swept
        What `up` gave for it; it may be used again.
    coarse : Coarse
        What `root` gave, or its ``of(part)``.

    Returns
    -------
    ndarray, shape (m,) or (m, k), as b was
    """
    F, layout, b, dinv = part.F, part.layout, state.b, 1 / part.D
    x: FloatArray = b * dinv[:, None]
    if layout.R:
        x = kernels.tree.rows_from(F, dinv, b, state.W.copy(), state.K, layout, 1.0, True,
                                   coarse=coarse.of(part).factors)
    return x[:, 0] if state.one else x
