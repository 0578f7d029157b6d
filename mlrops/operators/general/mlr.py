"""`GeneralMLR`: a multilevel low rank matrix without symmetry, rectangular or square."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.stored import FLAG, RANKS, check_compact, floats, instance, maybe, one_dtype
from ..._common.typing import FloatArray, Ranks, Real
from ..._common.validate import as_finite, as_real, read_only
from ...tree.hierarchy import Hierarchy
from ..base import StructuredOperator
from ..composed import Product, Scaled
from ..mlr import MLR, check_ranks
from ..refine import refined
from ..rules import rule
from . import conversions
from . import entries as parts
from . import solve as solving
from .checks import check_pair, check_sides, mirrored, show_equal
from .levels import Levels

__all__ = ["GeneralMLR"]

_TREE = instance(Hierarchy, "of type Hierarchy")
_EQUAL = instance((MLR, Product, Scaled), "an MLR, a Product or a Scaled")


class GeneralMLR(StructuredOperator):
    r"""General multilevel low rank matrix :math:`A = \sum_l B_l C_l^T`, m×n.

    The rows and the columns each have a hierarchy, the two trees of one shape.  Group g of a level
    of `rows` is paired with group g of that level of `cols`; on the pair, level l holds a block
    ``B_g C_gᵀ`` of rank r_l or less.  Stored compactly, as ``(m + n) R`` numbers, ``R = Σ r_l``.

    Parameters
    ----------
    rows, cols : Hierarchy
        Nested partitions of the m rows and of the n columns: as many levels, as many groups at
        each level, and each group with as many children.
    left : sequence of L array_like, shapes (m, r_l)
        Row i of ``left[l]`` is the row of B_g of row i's group g of level l; in the order of the
        rows of A.  r_l may be 0.
    right : sequence of L array_like, shapes (n, r_l)
        The same for the columns of A.

    Raises
    ------
    ValueError
        Trees of unlike shape (the message names level and group), factors of wrong shape or with
        NaN or infinity (it names the level).
    TypeError
        Complex or non-numeric entries.

    See Also
    --------
    MLR : symmetric positive definite, with a faster solve and a square root.

    Notes
    -----
    There is no diagonal part: a finest level of single features with rank 1 on a square matrix
    plays that role, and `from_mlr`, sums and products put it there.  With leaves much larger
    than R:

    =====================  ==============================  ===================
    operation              flops                           reads of B and C
    =====================  ==============================  ===================
    ``A @ x``, ``A.T @ y`` 2 (m + n) R                     1
    ``norm``               (m + n) R² / 2                  1
    ``entries``            2 R an entry                    a row of each
    ``block``, `toarray`   2 a b R for a×b entries         the rows asked for
    ``A + B``              none; ranks add                 1
    ``A @ B``              2 (m + n) R_A R_B; ranks add    1 a level
    ``compress``           4 (m + n) Σ r_l²                1
    =====================  ==============================  ===================

    `solve` and `slogdet` factor the sparse expanded matrix

    .. math:: \begin{pmatrix} A_0 & B \\ C^T & -I \end{pmatrix}

    with B and C spread out; :math:`A_0` holds the levels whose blocks, multiplied out, are no
    larger than their factors.  A is its Schur complement.  SciPy's sparse LU does it once, in
    float64, in an order of the tree's own: leaf by leaf, each group's factors after its subtree,
    so that fill stays small.  `solve` takes a step of iterative refinement where it helps.  A
    matrix that is singular, by structure or to working precision, raises
    ``numpy.linalg.LinAlgError``.  Two kinds need no sparse LU: those that are seen to be an `MLR`
    (left equals right, nonzero diagonal level) are solved, and have a square root, as one; and
    products of square operands, such as ``MLR @ MLR``, remember the `Product` and are solved, and
    have a determinant and a root, factor by factor.

    See T. Parshakova, T. Hastie, E. Darve, S. Boyd, "Factor fitting, rank allocation, and
    partitioning in multilevel low rank matrices" (2023).

    Examples
    --------
    Three rows and four columns, in two groups each: a rank one matrix plus a rank one block in each
    group.

    >>> import numpy as np
    >>> from mlrops import GeneralMLR, Hierarchy
    >>> rows = Hierarchy.from_labels(["a", "a", "b"])
    >>> cols = Hierarchy.from_labels(["a", "b", "b", "b"])
    >>> A = GeneralMLR(rows, cols, [np.ones((3, 1)), [[1.0], [2], [3]]],
    ...                [np.ones((4, 1)), [[5.0], [0], [1], [2]]])
    >>> A.toarray()
    array([[ 6.,  1.,  1.,  1.],
           [11.,  1.,  1.,  1.],
           [ 1.,  1.,  4.,  7.]])
    >>> A @ [1, 1, 1, 1]
    array([ 9., 14., 13.])
    >>> A.entries([0, 2], [0, 3])
    array([6., 7.])
    >>> A.T @ A
    <4x4 GeneralMLR, groups (1, 2), ranks (2, 1), float64>
    """

    def __init__(self, rows: Hierarchy, cols: Hierarchy, left: Sequence[Real],
                 right: Sequence[Real]) -> None:
        check_pair(rows, cols)
        left, right = check_sides(rows, cols, left, right)
        dtype = np.result_type(*left, *right)
        B, C = (h._gather(np.concatenate(side, axis=1).astype(dtype, copy=False))
                for h, side in ((rows, left), (cols, right)))
        self._adopt(rows, cols, [f.shape[1] for f in left], B, C)

    def _adopt(self, rows, cols, ranks, B, C, symmetric=False, equal_to=None):
        # Compact arrays in tree order that belong to us; `symmetric` is a proof, `equal_to` an
        # operator with a direct solve that is equal to this.
        B, C = np.ascontiguousarray(B), np.ascontiguousarray(C)
        signs = mirrored(B, C) if rows == cols else None
        if signs == 1:
            C = B
        B.flags.writeable = C.flags.writeable = False
        self._rows, self._cols, self._ranks = rows, cols, tuple(int(r) for r in ranks)
        self._B, self._C = B, C
        if equal_to is None and C is B:
            equal_to = conversions.positive_form(self)
        self._equal_to = equal_to
        super().__init__(
            B.dtype, (rows.n, cols.n),
            symmetric=symmetric or signs is not None or getattr(equal_to, "symmetric", False),
            positive_definite=getattr(equal_to, "positive_definite", False))

    @classmethod
    def _from_tree(cls, rows: Hierarchy, cols: Hierarchy, ranks: Sequence[int], B: FloatArray,
                   C: FloatArray, symmetric: bool = False, equal_to: Any = None) -> "GeneralMLR":
        """Wrap arrays whose rows are in tree order; no copy, no checks."""
        self = cls.__new__(cls)
        self._adopt(rows, cols, ranks, B, C, symmetric, equal_to)
        return self

    @classmethod
    def _of(cls, levels: Levels, symmetric: bool = False, equal_to: Any = None) -> "GeneralMLR":
        """The matrix of these levels; their diagonal, if any, is the finest level."""
        levels = levels.with_diagonal_level()
        levels = levels.astype(np.result_type(levels.B, levels.C))
        return cls._from_tree(*levels[:5], symmetric, equal_to)

    @classmethod
    def from_compact(cls, rows: Hierarchy, cols: Hierarchy, ranks: Ranks, B: Real, C: Real, *,
                     copy: bool = True, check_finite: bool = True) -> "GeneralMLR":
        """Build from one array of all left factors and one of all right ones.

        Parameters
        ----------
        rows, cols : Hierarchy
        ranks : sequence of int
            One rank a level.
        B : array_like, shape (m, R)
            Left factors of all levels side by side, coarsest first, in the order of the rows.
        C : array_like, shape (n, R)
            Right factors, in the order of the columns.
        copy : bool, optional
            With False the arrays may be kept as they are: the caller must not write to them while
            the operator is in use.
        check_finite : bool, optional
            False skips the passes over B and C that look for NaN and infinity.

        Returns
        -------
        GeneralMLR

        Raises
        ------
        ValueError, TypeError
            As `GeneralMLR`.
        """
        check_pair(rows, cols)
        widths = check_ranks(ranks, rows)
        check = as_finite if check_finite else as_real
        left, right = check(B, "B", ndim=2), check(C, "C", ndim=2)
        for X, h, name, size in ((left, rows, "B", "m"), (right, cols, "C", "n")):
            if X.shape != (h.n, sum(widths)):
                raise ValueError(f"{name} must have shape ({size}, R) = {(h.n, sum(widths))},"
                                 f" got {X.shape}")
        dtype = np.result_type(left, right)
        left, right = (
            (read_only if copy and h._in_order else np.ascontiguousarray)(
                h._gather(X.astype(dtype, copy=False)))
            for X, h in ((left, rows), (right, cols)))
        return cls._from_tree(rows, cols, widths, left.view(), right.view())

    @classmethod
    def from_mlr(cls, A: MLR) -> "GeneralMLR":
        """The same matrix as `A`, an `MLR`: its D becomes a finest level of single features.

        Parameters
        ----------
        A : MLR

        Returns
        -------
        GeneralMLR
            Positive definite; its `solve` and square root are those of `A`.  Where the finest level
            of `A` is one of single features already, D joins it.

        Raises
        ------
        TypeError
            `A` is not an `MLR`.
        """
        if not isinstance(A, MLR):
            raise TypeError(f"from_mlr expects an MLR, got {type(A).__name__}")
        h = A.hierarchy
        return cls._of(Levels(h, h, A.ranks, A._F, A._F, A._d), True)

    @property
    def rows(self) -> Hierarchy:
        """The Hierarchy of the rows."""
        return self._rows

    @property
    def cols(self) -> Hierarchy:
        """The Hierarchy of the columns."""
        return self._cols

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each level, tuple of L int."""
        return self._ranks

    @cached_property
    def B(self) -> FloatArray:
        """Compact left factors (m, R), coarsest level first, in the order of the rows."""
        return _shown(self._rows, self._B)

    @cached_property
    def C(self) -> FloatArray:
        """Compact right factors (n, R), in the order of the columns; read-only like `B`."""
        return self.B if self._C is self._B else _shown(self._cols, self._C)

    @property
    def left(self) -> list[FloatArray]:
        """List of L read-only arrays (m, r_l), in the order of the rows."""
        return self._levels.of_level(self.B)

    @property
    def right(self) -> list[FloatArray]:
        """List of L read-only arrays (n, r_l), in the order of the columns."""
        return self._levels.of_level(self.C)

    @property
    def storage(self) -> int:
        """Numbers in the factors, (m + n) R (int)."""
        return sum(self.shape) * self._B.shape[1]

    @property
    def _levels(self) -> Levels:
        return Levels(self._rows, self._cols, self._ranks, self._B, self._C)

    @property
    def _columns(self):
        """The first column of each level, and R."""
        return self._levels.columns

    @cached_property
    def _layouts(self):
        return tuple(kernels.layout.make_layout(h.boundaries, h._paths, self._ranks)
                     for h in (self._rows, self._cols))

    @property
    def _known_form(self):
        """The operator that this one is equal to, where its factors do not show it."""
        seen = isinstance(self._equal_to, MLR) and self._C is self._B
        return None if seen else self._equal_to

    @property
    def _semidefinite(self):
        return (self._C is self._B or self._positive_definite
                or getattr(self._equal_to, "_semidefinite", False))

    def __reduce__(self):
        # Arrays only: layouts and factorizations are rebuilt when they are needed.
        return GeneralMLR._from_tree, (
            self._rows, self._cols, self._ranks, self._B, self._C, self._symmetric,
            self._known_form)

    stored_fields = {"rows": _TREE, "cols": _TREE, "ranks": RANKS, "B": floats(2),
                     "C": maybe(floats(2)), "symmetric": FLAG, "equal_to": maybe(_EQUAL)}

    def to_fields(self) -> dict[str, object]:
        return {"rows": self.rows, "cols": self.cols, "ranks": self.ranks, "B": self._B,
                "C": None if self._C is self._B else self._C, "symmetric": self.symmetric,
                "equal_to": self._known_form}

    @classmethod
    def from_fields(cls, rows: Hierarchy, cols: Hierarchy, ranks: tuple[int, ...], B: FloatArray,
                    C: FloatArray | None, symmetric: bool, equal_to: Any) -> "GeneralMLR":
        check_pair(rows, cols)
        C = B if C is None else C
        one_dtype(B=B, C=C)
        check_compact(check_ranks(ranks, rows), B=(B, rows), C=(C, cols))
        A = cls._from_tree(rows, cols, ranks, B, C)
        if (symmetric and not A.symmetric) or equal_to is not None:
            show_equal(A, symmetric, equal_to)
            A = cls._from_tree(rows, cols, ranks, B, C, symmetric, equal_to)
        return A

    def _mul(self, x):
        return _transfer(self._levels, self._layouts, x)

    def _rmul(self, x):
        return _transfer(self._levels.T, self._layouts[::-1], x)

    def _transpose(self):
        known = None if self._equal_to is None else self._equal_to.T
        return GeneralMLR._from_tree(
            self._cols, self._rows, self._ranks, self._C, self._B, equal_to=known)

    entries, block, norm = parts.entries, parts.block, parts.norm
    to_mlr, compress = conversions.to_mlr, conversions.compress

    def toarray(self) -> FloatArray:
        """The dense matrix, shape (m, n).  The only method that forms it."""
        dense = kernels.paired.assemble(
            self._B, self._C, self._columns, self._rows.boundaries, self._cols.boundaries)
        dense = self._rows._scatter(dense)
        return dense if self._cols._in_order else np.take(dense, self._cols._position, axis=1)

    def _diagonal(self):
        i = np.arange(min(self.shape))
        return self.entries(i, i)

    lstsq = solving.lstsq

    @cached_property
    def _own_lu(self):
        return solving.ExpandedLU(self)

    @property
    def _lu(self):
        """(factored expanded matrix, whether it is that of the transpose): one serves both."""
        other = self._transposed
        if other is not None and "_own_lu" in vars(other) and "_own_lu" not in vars(self):
            return other._own_lu, True
        return self._own_lu, False

    def _solve(self, b):
        if b.size == 0:
            return b.copy()
        if isinstance(self._equal_to, MLR):
            return self._equal_to._solve(b)
        if self._equal_to is not None:
            known = self._equal_to
            return refined(self, getattr(known, "_by_factors", known._solve), b)
        lu, transposed = self._lu
        return refined(self, lambda r: lu.solve(r, transposed), b, units=10)

    def _slogdet(self):
        return (self._lu[0] if self._equal_to is None else self._equal_to).slogdet()

    def _whiten(self, x):
        return self._equal_to.whiten(x)

    def _color(self, z):
        return self._equal_to.color(z)

    def _inv_quad(self, x):
        return self._equal_to.inv_quad(x)

    def __repr__(self):
        m, n = self.shape
        return (f"<{m}x{n} GeneralMLR, groups {self._rows.group_counts}, ranks {self._ranks},"
                f" {self.dtype}>")


def _shown(hierarchy, X):
    """Compact factors in the user's order, read-only."""
    X = hierarchy._scatter(X)
    X.flags.writeable = False
    return X


def _transfer(levels, layouts, x):
    rows, cols, _, B, C, _ = levels
    if B.shape[1] == 0 or x.size == 0:
        return np.zeros((rows.n, *x.shape[1:]), B.dtype)
    t = np.ascontiguousarray(cols._gather(x).reshape(cols.n, -1))
    y = kernels.tree.transfer(B, C, t, *layouts)
    return rows._scatter(y).reshape(rows.n, *x.shape[1:])


rule("general", MLR)(GeneralMLR.from_mlr)
