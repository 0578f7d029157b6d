"""What `MLR` and `LowRankPlusDiagonal` have in common: ``Σ = F Fᵀ + diag(D)`` by its factors."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.typing import FloatArray, IntArray
from ..kernels.layout import Layout
from ..tree.hierarchy import Hierarchy
from . import accuracy
from .base import StructuredOperator
from .refine import column_dots, corrected, of_size_one

__all__ = ["Factored", "columns_of"]

# Right-hand sides at a time.
_BLOCK = 64


def columns_of(x: FloatArray) -> FloatArray:
    """View `x` as (n, k), C-contiguous."""
    return np.ascontiguousarray(x.reshape(x.shape[0], -1))


class Factored(StructuredOperator):
    """``F Fᵀ + diag(D)`` with F compact on a tree, of one group of all features or of many.

    With ``P = I + FᵀD⁻¹F`` everything follows from the factors' means ``z = P⁻¹ Fᵀ D⁻¹ b``.  The
    rows of arrays (n, k) here are in the order of the tree.  A subclass provides

        _hierarchy, _ranks, _F, _d     the tree, and F (n, R) and D (n,) in its order
        _once(b)                       ``x = D⁻¹ (b - F z)`` and z
        _means(x), _product(x)         Fᵀx and Σ x
        _gained, _sizes, _norms        log det P; P's diagonal and pivots; bounds of ‖P‖ and ‖F‖
                                       above and of ‖Σ‖ below
        _path_covariance()             the blocks of P⁻¹ along the paths to the leaves
        _make_root()                   an object with color, color_transpose and whiten
    """

    _hierarchy: Hierarchy
    _ranks: tuple[int, ...]
    _F: FloatArray
    _d: FloatArray
    _gained: float
    _sizes: tuple[FloatArray, FloatArray]
    _norms: tuple[float, float, float]
    _once: Callable[[FloatArray], tuple[FloatArray, FloatArray]]
    _means: Callable[[FloatArray], FloatArray]
    _product: Callable[[FloatArray], FloatArray]
    _path_covariance: Callable[[], FloatArray]
    _make_root: Callable[[], Any]

    @cached_property
    def F(self) -> FloatArray:
        """Factors (n, R), rows in feature order; read-only."""
        return self._in_feature_order(self._F)

    @cached_property
    def D(self) -> FloatArray:
        """The diagonal part (n,), feature order; read-only."""
        return self._in_feature_order(self._d)

    def _in_feature_order(self, x: FloatArray) -> FloatArray:
        x = self._hierarchy._scatter(x)
        x.flags.writeable = False
        return x

    @cached_property
    def _layout(self) -> Layout:
        h = self._hierarchy
        return kernels.layout.make_layout(h.boundaries, h._paths, self._ranks)

    @property
    def _n_factors(self) -> int:
        return self._layout.s

    @cached_property
    def _dinv(self) -> FloatArray:
        return 1 / self._d

    def _apply(self, compute: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
        """Feature order in, feature order out, around `compute` on (n, k) in tree order."""
        h = self._hierarchy
        return h._scatter(compute(columns_of(h._gather(x)))).reshape(x.shape)

    def _mul(self, x):
        if self._F.shape[1] == 0 or x.size == 0:
            return (x.T * self.D).T
        return self._apply(self._product, x)

    def _diagonal(self):
        return self.D + np.einsum("ij,ij->i", self.F, self.F)

    # ---------------------------------------------------------------- solves and determinant

    def _solve(self, b):
        if self._F.shape[1] == 0 or b.size == 0:
            return (b.T / self.D).T
        return self._apply(lambda t: of_size_one(self._corrected, t), b)

    def _corrected(self, b: FloatArray) -> FloatArray:
        """``Σ⁻¹ b``, corrected where a bound asks for it."""
        def once(b, columns):
            x, z = self._once(b)
            return x, column_dots(z)

        return corrected(self, once, lambda x, columns: self._product(x), b, self._dinv,
                         self._norms)

    def _slogdet(self):
        if not self._F.shape[1]:
            return 1.0, self._rough_logdet()
        return 1.0, accuracy.check_logdet(self)

    def _rough_logdet(self) -> float:
        """`logdet` even where it would be refused: for iterations that have to go on."""
        return float(np.log(self._d, dtype=np.float64).sum() + self._gained)

    def _inv_quad(self, x):
        t = columns_of(self._hierarchy._gather(x))
        if self._F.shape[1] == 0 or x.size == 0:
            quad = column_dots(t, weight=self._dinv)
        else:
            quad = of_size_one(self._inv_quads, t, power=2)
        return quad[0] if x.ndim == 1 else quad.astype(self.dtype, copy=False)

    def _inv_quads(self, x: FloatArray) -> FloatArray:
        # min over z of ‖D^{-1/2}(x - F z)‖² + ‖z‖², attained at the posterior mean: a sum of
        # squares, where xᵀD⁻¹x - ‖w‖² would cancel.
        y, z = self._once(x)
        quad = column_dots(y, weight=self._d) + column_dots(z)  # x - F z = D y

        def gap(columns):
            return z[:, columns] - self._means(np.ascontiguousarray(y[:, columns]))

        accuracy.check_quad(self, quad, column_dots(z), column_dots(x, weight=self._dinv), gap)
        return quad

    # ---------------------------------------------------------------- diagonal of the inverse

    def _inverse_diagonal(self) -> FloatArray:
        """diag(Σ⁻¹), feature order."""
        return self._hierarchy._scatter(self._unexplained() / self._d)

    def _unexplained(self, check: bool = True) -> FloatArray:
        """``D_i (Σ⁻¹)_ii``, the share of D in the partial variances, (n,) in tree order.

        Without `check`, at least eps: for what has to go on, such as preconditioners.
        """
        if not self._F.shape[1]:
            return np.ones_like(self._d)
        layout, cov = self._layout, self._path_covariance()
        left = 1 - kernels.curvature.explained(self._F, self._d, cov, layout)
        if not check:
            return np.maximum(left, np.finfo(self.dtype).eps)
        rough, moved = accuracy.loss_of_explained(cov, self._sizes[0], layout)
        if (accuracy.loss_left(self, rough) <= accuracy.PROMISED[self.dtype] * left).all():
            return left
        moved = kernels.curvature.explained(self._F, self._d, moved(), layout)
        doubtful = np.flatnonzero(
            ~(accuracy.loss_left(self, moved) <= accuracy.PROMISED[self.dtype] * left))
        if not doubtful.size:
            return left
        left = left.copy()
        for part in np.array_split(doubtful, -(-doubtful.size // _BLOCK)):
            with suppress(np.linalg.LinAlgError):  # then what there is is refused, by name
                left[part], moved[part] = self._unexplained_by_solves(part)
        accuracy.check_left(self, left, moved, self._hierarchy.permutation)
        return left

    def _unexplained_by_solves(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """``D_i (Σ⁻¹)_ii`` of some rows by solves, and how many units of rounding they are off by.

        A solve corrects itself; one more says what it left, which is added.
        """
        own = rows, np.arange(rows.size)
        unit = np.zeros((len(self._d), rows.size), self.dtype)
        unit[own] = 1
        x = of_size_one(self._corrected, unit)
        off = of_size_one(self._corrected, unit - self._product(x))[own]
        d = self._d[rows]
        return d * (x[own] + off), np.abs(d * off) / accuracy.loss_left(self, np.float64(1.0))

    # ---------------------------------------------------------------- square root

    @cached_property
    def _root(self) -> Any:
        return accuracy.checked_root(self, self._make_root())

    def _color(self, z):
        return self._apply(self._root.color, z)

    def _whiten(self, x):
        return self._apply(self._root.whiten, x)
