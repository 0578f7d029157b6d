"""The factors of a part of an MLR given samples: what `FactorPosterior` is of a whole one."""

from typing import Any

import numpy as np

from .. import kernels
from .._common.cached import cached_property
from .._common.typing import FloatArray
from ..kernels.layout import Layout
from .parts import Coarse, Part, Swept

__all__ = ["PartPosterior", "crown_covariances", "partial_variance", "path_covariances",
           "precondition"]


class PartPosterior:
    """Factors along the paths of a part given centred samples, the rest of a sweep down.

    With ``swept, passed = sweep_up(part, X, ...)``, and the `coarse` factors and covariances that
    `sweep_root` made of what all parts passed.  All arrays have the rows of the part, in its order;
    see `FactorPosterior` for what the methods return.
    """

    def __init__(self, part: Part, swept: Swept, coarse: Coarse, X: FloatArray):
        self.part, self._X, self._K = part, X, swept.K
        layout, coarse = part.layout, coarse.of(part)
        self._coarse: Any = coarse.factors, coarse.covariances
        self.moments: Any = None  # (2, leaves, R, R): second moments of the factors and inverses
        self._means = swept.W.copy()
        if layout.R:
            kernels.parts.share(
                lambda lo, hi: kernels.parts.down(layout, swept.K, self._means, coarse.factors,
                                                  None, lo, hi),
                layout, layout.s * layout.R * X.shape[1])

    def regress(self, squares: FloatArray, n_samples: float,
                out: tuple[FloatArray, FloatArray], keep_moments: bool = False
                ) -> tuple[FloatArray, FloatArray]:
        """The M-step: F (m, R) and D (m,), from the sums of squares (m,) of the features."""
        (F, D), layout = out, self.part.layout
        if not layout.R:
            D[:] = squares / n_samples
            return F, D
        shape = (2, layout.n_leaves, layout.R, layout.R)
        self.moments = np.empty(shape, F.dtype) if keep_moments else None
        kernels.tree.regress(self._K, self._means, self._X, squares, n_samples, layout, F, D,
                             self.moments, coarse=self._coarse)
        return F, D

    def gradient(self, F: FloatArray, D: FloatArray, n_samples: float, scale: FloatArray,
                 out: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives (m, R) and (m,) of the average log-likelihood a sample by F and D."""
        part = self.part
        if not part.layout.R:
            return out, (D / part.D - 1) / (2 * part.D)
        return out, kernels.curvature.gradient(part.F, part.D, F, D, self.moments[0], n_samples,
                                               scale, part.layout, out)

    @cached_property
    def partial_variance(self) -> FloatArray:
        """Variance (m,) of each feature given all others, at most D / eps."""
        return partial_variance(self.part, self._K, self._coarse[1])


def partial_variance(part: Part, K: FloatArray, covariances: FloatArray | None) -> FloatArray:
    """`PartPosterior.partial_variance`, from the factors of the nodes, and of the levels above the
    covariances at the part's parents.
    """
    F, d, layout = part.F, part.D, part.layout
    if not layout.R:
        return d
    left = 1 - kernels.curvature.forms(F, path_covariances(part, K, covariances), layout) / d
    return d / np.maximum(left, np.finfo(d.dtype).eps)


def path_covariances(part: Part, K: FloatArray, covariances: FloatArray | None) -> FloatArray:
    """Covariances (leaves, R, R) of the factors on the way to each leaf of a part, given samples.

    K and `covariances` as for `partial_variance`.
    """
    return kernels.tree.path_covariance(K, part.layout, covariances)


def crown_covariances(layout: Layout, K: FloatArray) -> FloatArray:
    """Covariances (parents, c, c) of the factors of the levels above, given samples."""
    return kernels.parts.coarse_covariance(layout, K)


def precondition(G: FloatArray, scale: FloatArray, inverses: FloatArray, n_samples: float,
                 layout: Layout, out: FloatArray) -> FloatArray:
    """EM's answer ``N diag(scale) G W⁻¹`` to a gradient, W⁻¹ the `inverses` of second moments."""
    if layout.R:
        kernels.curvature.precondition(G, scale, inverses, n_samples, layout, out)
    return out
