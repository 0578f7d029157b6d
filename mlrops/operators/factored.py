"""What `MLR` and `LowRankPlusDiagonal` have in common: ``Σ = F Fᵀ + diag(D)`` by its factors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.typing import FloatArray
from .._common.wording import counted
from ..kernels.layout import Layout
from ..tree.hierarchy import Hierarchy
from . import accuracy
from .base import StructuredOperator
from .refine import (
    BACKWARD_ERROR,
    CORRECTIONS,
    LIMIT,
    are_safe,
    check_reached,
    column_dots,
    doubtful,
    lengths,
    of_size_one,
    refine,
)

if TYPE_CHECKING:  # what is compiled is loaded when it is needed
    from ..kernels.qr import QR
    from ..kernels.tree import Factorization

__all__ = ["Factored", "columns_of"]


def columns_of(x: FloatArray) -> FloatArray:
    """View `x` as (n, k), C-contiguous."""
    return np.ascontiguousarray(x.reshape(x.shape[0], -1))


class Factored(StructuredOperator):
    """``F Fᵀ + diag(D)`` with F compact on a tree, of one group of all features or of many.

    With ``P = I + FᵀD⁻¹F`` everything follows from the factors' means ``z = P⁻¹ Fᵀ D⁻¹ b``, or,
    where the Cholesky factor of P has lost too much, from `_qr`.  The rows of arrays (n, k) here
    are in the order of the tree.  A subclass provides

        _hierarchy, _ranks, _F, _d     the tree, and F (n, R) and D (n,) in its order
        _cholesky()                    the factorization of P: see `kernels.tree.Factorization`
        _once(b)                       ``x = D⁻¹ (b - F z)`` and z; squares (4, k) of the lengths
                                       of b, D^{-1/2} b, z and x, which may overflow
        _explained(t)                  P⁻¹ t
    """

    _hierarchy: Hierarchy
    _ranks: tuple[int, ...]
    _F: FloatArray
    _d: FloatArray
    _cholesky: Callable[[], "Factorization"]
    _once: Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]
    _explained: Callable[[FloatArray], FloatArray]

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
        return self._hierarchy._layout(self._ranks)

    @cached_property
    def _dinv(self) -> FloatArray:
        with np.errstate(over="ignore"):
            return 1 / self._d

    # ---------------------------------------------------------------- the factorization

    @property
    def factorization(self) -> accuracy.Factorization:
        """How it is factored, and what that loses: a tuple (method, bound).

        Returns
        -------
        method : {"cholesky", "qr"}
            Cholesky's, of ``I + Fᵀ D⁻¹ F``, loses as many units of rounding as the largest of all
            ``Σ_ii / D_i``, and of all ratios of a diagonal entry to its pivot, tells.  Above 2500
            units it is QR, of ``[D^{-1/2} F; I]``, which loses a few whatever D is, takes 5 to 15
            times as long and keeps as many numbers as F and the factors' rows have.
        bound : float
            The relative error that it leaves.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import LowRankPlusDiagonal
        >>> F = np.array([[1.0], [2.0], [3.0]])
        >>> LowRankPlusDiagonal(F, np.full(3, 0.1)).factorization.method
        'cholesky'
        >>> LowRankPlusDiagonal(F, np.full(3, 1e-12)).factorization.method
        'qr'
        """
        eps = float(np.finfo(self.dtype).eps)
        if self._exactly:
            return accuracy.Factorization("qr", eps)
        loss = max(self._share_loss, self._factor.loss) if self._F.shape[1] else 1.0
        return accuracy.Factorization("cholesky", eps * loss)

    @cached_property
    def _factor(self) -> "Factorization":
        """The factorization of P."""
        return self._checked(self._cholesky())

    def _checked(self, found: "Factorization") -> "Factorization":
        """`found`, by Cholesky, where its pivots leave what iterations need, else `_qr`'s."""
        loss = found.loss if found.fail is None and found.loss >= 1 else np.inf
        if not loss * np.finfo(self.dtype).eps <= accuracy.TOLERATED[self.dtype]:
            found = found._replace(K=self._qr.K, gained=self._qr.gained, loss=loss)
        found.K.flags.writeable = False
        return found

    @cached_property
    def _share_loss(self) -> float:
        """The largest ``Σ_ii / D_i``, or a bound of it that is no reason for QR."""
        bound = 1 + self._factor.share
        return bound if bound <= accuracy.LARGEST else self._scales.share

    @cached_property
    def _exactly(self) -> bool:
        """Whether the Cholesky factor of P has lost too much."""
        if not self._F.shape[1]:
            return False
        return not (self._share_loss <= accuracy.LARGEST and self._factor.loss <= accuracy.LARGEST)

    @cached_property
    def _qr(self) -> "QR":
        found = kernels.qr.QR(self._F, self._d, self._layout)
        if found.failed is not None:
            raise self._breakdown(*found.failed)
        return found

    def _breakdown(self, level: int, group: int) -> np.linalg.LinAlgError:
        return np.linalg.LinAlgError(
            f"factorization broke down at level {level}, group {group}"
            f" ({counted(self._hierarchy.group_sizes(level)[group], 'feature')}): I + Fᵀ D⁻¹ F"
            f" overflows {self.dtype}, or D is too small beside F for its precision: {self._range}")

    @property
    def _range(self) -> str:
        return (f"entries of F reach {np.abs(self._F).max():.3g} and of D fall to"
                f" {self._d.min():.3g}; rescale the features")

    @cached_property
    def _rough_norms(self) -> tuple[float, float, float]:
        return accuracy.rough_norms(self)

    @cached_property
    def _norms(self) -> tuple[float, float, float]:
        return accuracy.norms(self)

    @cached_property
    def _sharper_norms(self) -> tuple[float, float, float]:
        return accuracy.sharper(self)

    @cached_property
    def _largest(self) -> float:
        return float(self._factor.sizes.max(initial=1.0))

    @cached_property
    def _scales(self) -> accuracy.Scales:
        return accuracy.scales(self)

    # ---------------------------------------------------------------- products and solves

    def _product(self, x: FloatArray) -> FloatArray:
        """Σ x."""
        return kernels.tree.multiply(self._F, self._d, x, self._layout)

    def _means(self, x: FloatArray) -> FloatArray:
        """Fᵀ x."""
        return kernels.tree.up(self._F, x, self._layout)

    def _loadings(self, z: FloatArray) -> FloatArray:
        """F z."""
        x = np.zeros((len(self._d), z.shape[1]), z.dtype)
        return kernels.tree.spread(self._F, self._d, z, x, self._layout)

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

    def _solve(self, b):
        if self._F.shape[1] == 0 or b.size == 0:
            return (b.T / self.D).T
        return self._apply(self._solved, b)

    def _solved(self, b: FloatArray) -> FloatArray:
        """``Σ⁻¹ b``, of columns of size one where their squares under- or overflow."""
        if not self._exactly:
            found = self._once(b)
            if are_safe(found[2][0], b.dtype):  # which it tells without another pass over b
                return self._corrected(b, found)
        return of_size_one(self._corrected, b)

    def _corrected(self, b: FloatArray, found: Any = None) -> FloatArray:
        """``Σ⁻¹ b``, corrected where its backward error asks for it; `found` is `_once` of b."""
        if self._exactly:
            return self._by_qr(b)
        x, z, squares = self._once(b) if found is None else found
        norms = self._rough_norms
        if not doubtful(squares, norms[0] * self._largest, norms).size:
            return x
        # An entry of P is off by eps √(P_ii P_jj): so much does rounding in P move of P z.
        squares[2] = column_dots(z, weight=self._factor.sizes)
        for name in ("_rough_norms", "_norms", "_sharper_norms"):  # in order of their price
            norms = getattr(self, name)
            left = doubtful(squares, norms[0], norms)
            if not left.size:
                return x
        return self._in_factor_space(b, x, z, left)

    def _in_factor_space(self, b: FloatArray, x: FloatArray, z: FloatArray, left: Any
                         ) -> FloatArray:
        """Correct the columns `left` of x, where their backward errors are not small.

        Exactly, ``z = Fᵀ x``, and the residual of x is F (z - Fᵀ x): the gap says how large it is,
        and corrects x and z by ``D⁻¹ F P⁻¹ gap``, which never forms the residual by itself.
        """
        n, both, size = len(x), np.concatenate([x, z]), lengths(b)
        _, factors, norm = self._sharper_norms

        def residual(both, columns):
            x, z = both[:n], both[n:]
            gap = z - self._means(np.ascontiguousarray(x))
            return gap, factors * lengths(gap) / (norm * lengths(x) + size[columns])

        def step(gap, _):
            z = self._explained(gap)
            x = self._loadings(z)
            x *= self._dinv[:, None]
            return np.concatenate([x, -z])

        eps = np.finfo(b.dtype).eps
        with np.errstate(over="ignore", invalid="ignore"):
            reached = refine(both, residual, step, left, BACKWARD_ERROR * eps, CORRECTIONS)
            x, high = np.ascontiguousarray(both[:n]), np.flatnonzero(~(reached <= LIMIT * eps))
            if high.size:  # by a bound; see what it is
                reached = lengths(b - self._product(x)) / (norm * lengths(x) + size)
        check_reached(self, reached[high])
        return x

    def _by_qr(self, b: FloatArray) -> FloatArray:
        """``Σ⁻¹ b`` by `_qr`, which errs by a few units, and where it does not is corrected."""
        norm = self._scales.below
        if not norm <= float(np.finfo(self.dtype).max):
            raise np.linalg.LinAlgError(f"{self!r} overflows {self.dtype}: {self._range}")
        x, size = self._qr.solve(b)[0], lengths(b)

        def residual(x, columns):
            r = np.take(b, columns, axis=1) - self._product(x)
            return r, lengths(r) / np.maximum(
                norm * lengths(x) + size[columns], np.finfo(b.dtype).tiny)

        with np.errstate(over="ignore", invalid="ignore"):
            reached = refine(x, residual, lambda r, _: self._qr.solve(r)[0],
                             np.flatnonzero(np.isfinite(size)),
                             BACKWARD_ERROR * np.finfo(b.dtype).eps, CORRECTIONS)
        check_reached(self, reached)
        return x

    # ---------------------------------------------------------------- what else follows

    def _slogdet(self):
        if not self._exactly:
            return 1.0, self._rough_logdet()
        return 1.0, float(np.log(self._d, dtype=np.float64).sum() + self._qr.gained)

    def _rough_logdet(self) -> float:
        """`logdet` by Cholesky also where QR would be more exact: for iterations."""
        gained = self._factor.gained if self._F.shape[1] else 0.0
        return float(np.log(self._d, dtype=np.float64).sum() + gained)

    def _inv_quad(self, x):
        t = columns_of(self._hierarchy._gather(x))
        if self._F.shape[1] == 0 or x.size == 0:
            quad = column_dots(t, weight=self._dinv)
        else:
            quad = of_size_one(self._inv_quads, t, power=2)
        return quad[0] if x.ndim == 1 else quad.astype(self.dtype, copy=False)

    def _inv_quads(self, x: FloatArray) -> FloatArray:
        if self._exactly:
            return column_dots(self._qr.whiten(x))
        # min over z of ‖D^{-1/2}(x - F z)‖² + ‖z‖², attained at the posterior mean: a sum of
        # squares, where xᵀD⁻¹x - ‖w‖² would cancel.
        y, _, squares = self._once(x)
        return column_dots(y, weight=self._d) + squares[2]  # x - F z = D y

    def _inverse_diagonal(self) -> FloatArray:
        """diag(Σ⁻¹), feature order."""
        return self._hierarchy._scatter(self._unexplained() / self._d)

    def _unexplained(self, rough: bool = False) -> FloatArray:
        """``D_i (Σ⁻¹)_ii``, the share of D in the partial variances, (n,) in tree order.

        `rough`, by Cholesky and at least eps, serves what has to go on, such as preconditioners.
        """
        if not self._F.shape[1]:
            return np.ones_like(self._d)
        if not rough and self._exactly:
            return self._qr.outside().astype(self.dtype, copy=False)
        H = self._inverse_rows()
        left = 1 - self._d * np.einsum("ij,ij->i", H, H, dtype=np.float64)
        if rough:
            left = np.maximum(left, np.finfo(self.dtype).eps)
        return left.astype(self.dtype, copy=False)

    def _inverse_rows(self) -> FloatArray:
        """H (n, R) with ``Σ⁻¹ = diag(1/D) - H Hᵀ``, in tree order."""
        return kernels.tree.inverse_rows(self._F, self._dinv, self._factor.K, self._layout)

    @cached_property
    def _cancels(self) -> bool:
        """Whether rounding moves ``diag(1/D) - H Hᵀ`` by more than ``CANCELLED ‖Σ⁻¹‖``.

        Where D is small and ‖Σ⁻¹‖ is not, as with as many factors as features.
        """
        if not self._exactly:
            return False
        with np.errstate(over="ignore"):
            least = float((self._unexplained() / self._d).max())
            moved = float(np.finfo(self.dtype).eps * self._dinv.max())
        return not moved <= accuracy.CANCELLED[self.dtype] * least or not np.isfinite(least)

    @cached_property
    def _root(self) -> Any:
        """An object with color, whiten and their transposes."""
        if self._exactly:
            return self._qr
        return kernels.root.square_root(
            self._F, self._d, self._hierarchy.boundaries, self._layout.cols)

    def _color(self, z):
        return self._apply(self._root.color, z)

    def _whiten(self, x):
        return self._apply(self._root.whiten, x)
