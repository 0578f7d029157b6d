"""`MLR`: a symmetric positive definite multilevel low rank matrix, the main operator here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import kernels
from .._common.labels import by_label
from .._common.stored import RANKS, check_compact, floats, instance, one_dtype
from .._common.typing import Data, FloatArray, Indices, Labels, Ranks, Real, ScoreMethod, Vector
from .._common.validate import as_features, as_finite, as_positive, as_real, check_rank, read_only
from .._common.wording import counted
from ..tree.hierarchy import Hierarchy
from . import expanded, parts
from .factored import Factored
from .rules import GENERAL

if TYPE_CHECKING:
    from .information import FactorInformation
    from .posterior import FactorMoments, FactorPosterior

__all__ = ["MLR"]

GeneralMLR: TypeAlias = Any  # its file imports this one


def check_ranks(ranks: Ranks | None, hierarchy: Hierarchy) -> tuple[int, ...]:
    """A tuple of one non-negative rank a level; None, ranks that were left out, is refused."""
    given: Any = ranks
    given = (given,) if np.ndim(given) == 0 else tuple(given)
    if len(given) != hierarchy.n_levels:
        raise ValueError(f"ranks must have {counted(hierarchy.n_levels, 'entry')}, one a level, got"
                         f" {len(given)}: {given}")
    return tuple(check_rank(r, f"rank of level {level}") for level, r in enumerate(given))


def check_truncation(ranks: Ranks | None, tol: float | None, hierarchy: Hierarchy
                     ) -> tuple[int, ...] | None:
    """The ranks to keep, one a level, where any are given; and `tol` checked."""
    if ranks is not None:
        given: Any = (ranks,) * hierarchy.n_levels if np.ndim(ranks) == 0 else ranks
        ranks = check_ranks(given, hierarchy)
    if tol is not None and not 0 <= tol < np.inf:
        raise ValueError(f"tol must be finite and non-negative, got {tol}")
    return ranks


class MLR(Factored):
    r"""Multilevel low rank matrix :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`.

    `F_l` is block diagonal over the groups of level l of a hierarchy of the features; a block is
    ``(|group|, r_l)``.  Stored compactly, as ``(n, R)`` numbers with ``R = Σ r_l``.

    Parameters
    ----------
    hierarchy : Hierarchy
        Nested partition of the n features, L levels, coarsest first.
    factors : sequence of L array_like, shapes (n, r_l)
        Row i of ``factors[l]`` is the loading of feature i on the r_l factors of its group at level
        l; rows in feature order.  r_l may be 0.
    D : array_like, shape (n,)
        Positive diagonal.  A Series, dict or DataFrame with labels, here or among the factors, is
        matched to the names of the hierarchy (`Hierarchy.feature_names`).

    Raises
    ------
    ValueError
        Wrong shapes, NaN or infinity, ``D <= 0``; the message names features and level.
    TypeError
        Complex or non-numeric entries.

    Notes
    -----
    With n features, total rank R and leaves much larger than R:

    ==================  =======================  =============================
    operation           flops                    reads of F
    ==================  =======================  =============================
    ``A @ x``           4 n R                    2
    factor (once)       n R² + Σ p_l r_l R_l²    1
    ``solve``           4 n R                    2 (3 more a correction)
    ``logdet``          free after factoring     0
    ``inv``             free                     0
    its diagonal, or U  n R²                     1
    ==================  =======================  =============================

    The factorization is the Cholesky factorization without fill of ``I + Fᵀ D⁻¹ F``, leaves
    eliminated first (recursive Sherman-Morrison-Woodbury); see T. Parshakova, T. Hastie, E. Darve,
    S. Boyd, "Factor fitting, rank allocation, and partitioning in multilevel low rank matrices"
    (2023) and "Fitting multilevel factor models" (2024).

    Where D is so small beside F that this would lose more than 2500 units of rounding, a QR
    factorization of ``[D^{-1/2} F; I]`` up the tree takes its place, right whatever D is: see
    `factorization`.  It takes 5 to 15 times as long and ``(n + s) R`` numbers more, s the number of
    all factors; a solve by it takes 2 to 16 times as long.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> h = Hierarchy.from_labels(["a", "a", "b", "b"])
    >>> A = MLR(h, [np.ones((4, 1)), np.array([[1.0], [1], [2], [2]])], D=np.full(4, 0.5))
    >>> A.toarray()
    array([[2.5, 2. , 1. , 1. ],
           [2. , 2.5, 1. , 1. ],
           [1. , 1. , 5.5, 5. ],
           [1. , 1. , 5. , 5.5]])
    >>> x = A.solve([1.0, 0, 0, 0])
    >>> np.round(A @ x, 12) + 0.0
    array([1., 0., 0., 0.])
    >>> bool(np.isclose(A.logdet(), np.linalg.slogdet(A.toarray())[1]))
    True
    """

    def __init__(self, hierarchy: Hierarchy, factors: Sequence[Data], D: Vector | Labels) -> None:
        if not isinstance(hierarchy, Hierarchy):
            raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
        if isinstance(factors, np.ndarray) and factors.ndim == 2:
            raise TypeError(
                f"factors must be a sequence of {counted(hierarchy.n_levels, 'array')} (n, r_l),"
                f" one a level, got one array of shape {factors.shape}; see MLR.from_compact")
        n, L, names = hierarchy.n, hierarchy.n_levels, hierarchy.feature_names
        if len(factors := list(factors)) != L:
            raise ValueError(f"factors must hold one array a level ({L}), got {len(factors)}")
        levels = []
        for level, f in enumerate(factors):
            what = f"factors of level {level}"
            levels.append(as_finite(by_label(f, names, what, "feature"), what, ndim=2))
            if len(levels[-1]) != n:
                raise ValueError(f"{what} must have {counted(n, 'row')}, one a feature, got"
                                 f" {levels[-1].shape}")
        d = as_positive(by_label(D, names, "D", "feature"), "D", n)
        dtype = np.result_type(d, *levels)
        F = np.concatenate(levels, axis=1).astype(dtype, copy=False)
        self._adopt(hierarchy, [f.shape[1] for f in levels], hierarchy._gather(F),
                    read_only(hierarchy._gather(d.astype(dtype, copy=False))))

    def _adopt(self, hierarchy: Hierarchy, ranks: Sequence[int], F: FloatArray, D: FloatArray
               ) -> None:
        """Set up from compact arrays in tree order that belong to us."""
        super().__init__(D.dtype, (hierarchy.n, hierarchy.n), positive_definite=True)
        self._hierarchy = hierarchy
        self._ranks = tuple(int(r) for r in ranks)
        self._F = np.ascontiguousarray(F)
        self._d = np.ascontiguousarray(D)
        self._F.flags.writeable = self._d.flags.writeable = False

    @classmethod
    def _from_tree(cls, hierarchy: Hierarchy, ranks: Sequence[int], F: FloatArray, D: FloatArray
                   ) -> "MLR":
        """Wrap arrays whose rows are in tree order; no copy, no checks."""
        self = cls.__new__(cls)
        self._adopt(hierarchy, ranks, F, D)
        return self

    @classmethod
    def from_compact(cls, hierarchy: Hierarchy, ranks: Ranks, F: Data, D: Vector | Labels, *,
                     copy: bool = True, check_finite: bool = True) -> "MLR":
        """Build from one array of all factors.

        Parameters
        ----------
        hierarchy : Hierarchy
        ranks : sequence of int
            One rank a level.
        F : array_like, shape (n, R)
            Factors of all levels side by side, coarsest first, rows in feature order.
        D : array_like, shape (n,)
        copy : bool, optional
            With False the arrays may be kept as they are: the caller must not write to them while
            the operator is in use.
        check_finite : bool, optional
            False skips the passes over F and D that look for NaN, infinity and ``D <= 0``.

        Returns
        -------
        MLR

        Raises
        ------
        ValueError, TypeError
            As `MLR`.
        """
        ranks = check_ranks(ranks, hierarchy)
        f, d = (by_label(x, hierarchy.feature_names, what, "feature")
                for x, what in ((F, "F"), (D, "D")))
        f = (as_finite if check_finite else as_real)(f, "F", ndim=2)
        if f.shape != (wanted := (hierarchy.n, sum(ranks))):
            raise ValueError(f"F must have shape (n, R) = {wanted}, got {f.shape}")
        d = as_positive(d, "D", hierarchy.n) if check_finite else as_real(d, "D", ndim=1)
        dtype = np.result_type(f, d)
        kept = read_only if copy and hierarchy._in_order else np.ascontiguousarray
        f, d = (kept(hierarchy._gather(x.astype(dtype, copy=False))) for x in (f, d))
        return cls._from_tree(hierarchy, ranks, f.view(), d.view())

    stored_fields = {"hierarchy": instance(Hierarchy, "of type Hierarchy"), "ranks": RANKS,
                     "F": floats(2), "D": floats(1)}

    def to_fields(self) -> dict[str, object]:
        return dict(zip(self.stored_fields, self.__reduce__()[1], strict=True))

    @classmethod
    def from_fields(cls, hierarchy: Hierarchy, ranks: tuple[int, ...], F: FloatArray,
                    D: FloatArray) -> "MLR":
        check_compact(check_ranks(ranks, hierarchy), F=(F, hierarchy))
        return cls._from_tree(hierarchy, ranks, F, one_dtype(F=F, D=as_positive(D, "D", len(F))))

    @property
    def hierarchy(self) -> Hierarchy:
        """The Hierarchy of the features."""
        return self._hierarchy

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each level, tuple of L int."""
        return self._ranks

    @property
    def factors(self) -> list[FloatArray]:
        """List of L read-only arrays (n, r_l), rows in feature order."""
        return np.split(self.F, self._layout.cols[1:-1], axis=1)

    @property
    def storage(self) -> int:
        """Numbers stored: n R + n (int)."""
        return self._F.size + self._d.size

    def __reduce__(self):
        # Arrays only: layout, factorization and inverse are rebuilt when they are needed.
        return MLR._from_tree, (self._hierarchy, self._ranks, self._F, self._d)

    def astype(self, dtype: npt.DTypeLike) -> "MLR":
        """The same matrix in another precision.

        Parameters
        ----------
        dtype : numpy.dtype or what makes one
            float32 or float64.

        Returns
        -------
        MLR, shape (n, n)
            The object itself where it has that precision already.
        """
        if self.dtype == np.dtype(dtype):
            return self
        return MLR._from_tree(self._hierarchy, self._ranks, self._F.astype(dtype),
                              self._d.astype(dtype))

    def partial_variance(self) -> FloatArray:
        """Variance of each feature given all others, ``1 / (Σ⁻¹)_ii``, (n,).
        """
        return self._hierarchy._scatter(self._d / self._unexplained())

    def _rough_partial_variance(self) -> FloatArray:
        """`partial_variance` by Cholesky also where QR would be more exact; at most D / eps."""
        return self._hierarchy._scatter(self._d / self._unexplained(rough=True))

    def _cholesky(self):
        return kernels.tree.factor(self._F, self._dinv, self._layout)

    def _once(self, b):
        return kernels.tree.solve(self._F, self._dinv, self._factor.K, b, self._layout)

    def _explained(self, t):
        return kernels.tree.means(self._factor.K, t, self._layout)

    def _sample(self, size, rng):
        layout = self._layout
        W = rng.standard_normal((layout.s, size)).astype(self.dtype, copy=False)
        noise = rng.standard_normal((layout.n, size)).astype(self.dtype, copy=False)
        y = kernels.tree.spread(self._F, np.sqrt(self._d), W, noise, layout)
        return self._hierarchy._scatter(y).T

    def posterior(self, X: Real, check_finite: bool = True) -> "FactorPosterior":
        """Distribution of the factors given samples.

        Parameters
        ----------
        X : array_like, shape (n, N)
            Centred samples, one a column.
        check_finite : bool, optional
            False skips the pass over X that looks for NaN and infinity.

        Returns
        -------
        FactorPosterior
            ``mean(level)`` (p_l, r_l, N) and ``covariance(level)`` (p_l, r_l, r_l), the latter
            without the inverse, after K. Takahashi, J. Fagan, M. Chen (1973).

        Raises
        ------
        ValueError
            X has not n rows, or holds NaN or infinity.
        """
        from .posterior import FactorPosterior

        return FactorPosterior(self, X, check_finite)

    def scores(self, X: Real, method: ScoreMethod = "posterior") -> "FactorMoments":
        """Means and covariances of the factors given samples, which are not looked at for NaN.

        Parameters
        ----------
        X : array_like, shape (n, N)
            Centred samples, one a column.
        method : {"posterior", "bartlett"}, optional
            `FactorPosterior`, or `LeastSquaresScores`: unbiased, and without a prior.

        Returns
        -------
        FactorMoments
            With methods ``mean(level)`` and ``covariance(level)``.

        Raises
        ------
        ValueError
            Another method, or X has not n rows.
        numpy.linalg.LinAlgError
            ``"bartlett"`` where ``Fᵀ D⁻¹ F`` is singular.
        """
        from .posterior import FactorPosterior, LeastSquaresScores

        kinds = {"posterior": FactorPosterior, "bartlett": LeastSquaresScores}
        if method not in kinds:
            raise ValueError(f"method must be 'posterior' or 'bartlett', got {method!r}")
        return kinds[method](self, X, check_finite=False)

    def information(self) -> "FactorInformation":
        """Expected information of F and D of normal samples with this covariance, a sample.

        Returns
        -------
        FactorInformation, shape (n R + n, n R + n)
            Operator on ``numpy.append(F, D)``, with ``times(dF, dD)`` for the two apart.
        """
        from .information import FactorInformation

        return FactorInformation(self)

    def _relevel(self, change):
        """An MLR with ``change(l, F_l, boundaries_l)`` in place of each level's compact factors."""
        bounds = self._hierarchy.boundaries
        cols = self._layout.cols
        levels = [change(level, np.ascontiguousarray(self._F[:, cols[level]:cols[level + 1]]),
                         bounds[level]) for level in range(len(bounds))]
        F = np.concatenate(levels, axis=1)
        return MLR._from_tree(self._hierarchy, [f.shape[1] for f in levels], F, self._d)

    def principal(self) -> "MLR":
        """The same matrix with every block of factors rotated to its principal axes.

        Returns
        -------
        MLR
            Columns of each group orthogonal, longest first, the entry of largest magnitude of each
            positive: the convention in which two fits can be compared.
        """
        return self._relevel(lambda _, F, offsets: kernels.groups.principal_axes(F, offsets)[0])

    def compress(self, ranks: Ranks | None = None, tol: float | None = None) -> "MLR":
        """Lower the ranks: truncate every group's block to its leading singular triples.

        Parameters
        ----------
        ranks : int or sequence of int, optional
            Largest rank to keep at each level (one number for all levels, or one a level).
        tol : float, optional
            Keep a column where its singular value exceeds `tol` times the largest of its group.
            Default ``max(|group|, r_l) eps`` when `ranks` is None: removes only what rounding put
            there, such as the repeated columns of ``A + A``.

        Returns
        -------
        MLR
            On the same hierarchy, with the same D.  A truncated column lowers the trace by its
            squared singular value; nothing is moved to D.

        Raises
        ------
        ValueError, TypeError
            Not a rank for each level, negative ranks or `tol`.
        """
        kept, eps = check_truncation(ranks, tol, self._hierarchy), np.finfo(self.dtype).eps

        def truncate(level, F, offsets):
            if F.shape[1] == 0:
                return F
            B, sigma = kernels.groups.principal_axes(F, offsets)
            sizes = np.diff(offsets)[:, None]
            cut = tol if tol is not None else (
                0.0 if kept is not None else eps * np.maximum(sizes, F.shape[1]))
            keep = sigma > cut * sigma[:, :1]
            B *= np.repeat(keep, np.diff(offsets), axis=0)
            width = int(keep.sum(axis=1).max())
            return B[:, : width if kept is None else min(width, kept[level])]

        return self._relevel(truncate)

    def to_general(self) -> GeneralMLR:
        """The same matrix as a `GeneralMLR`: D becomes a finest level of single features.

        Returns
        -------
        GeneralMLR
        """
        return GENERAL(self)

    def restrict(self, features: Indices) -> "MLR":
        """The principal submatrix of some features.

        Parameters
        ----------
        features : array_like of int, shape (k,)
            Distinct features, in the order wanted.

        Returns
        -------
        MLR
            On the tree that these features leave, with the same ranks; empty groups vanish.
        """
        features = as_features(features, self.shape[0])
        h = self._hierarchy
        tree = h._restrict(features)
        rows = h._position[features][tree.permutation]
        return MLR._from_tree(tree, self._ranks, self._F[rows], self._d[rows])

    expanded_matrix, expanded_cholesky = expanded.expanded_matrix, expanded.expanded_cholesky
    part, up, root, down, merge = (
        parts.part, parts.up, parts.root, parts.down, staticmethod(parts.merge))

    def __repr__(self) -> str:
        h = self._hierarchy
        return (f"<{h.n}x{h.n} MLR, groups {h.group_counts}, ranks {self._ranks},"
                f" {self.dtype}>")
