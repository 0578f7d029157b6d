"""Solves with the principal blocks of an MLR covariance that samples with missing cells show."""


import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.validate import as_real
from ...operators.mlr import MLR
from ...operators.refine import corrected
from ...tree.hierarchy import Hierarchy
from . import kernels as passes

__all__ = ["IncompletePrecision", "ObservedCells"]


class ObservedCells:
    """Which cells of an array (n, N) are there, samples grouped by their patterns once and for all.

    Parameters
    ----------
    hierarchy : Hierarchy
        Of the n features.
    observed : array_like of bool, shape (n, N)
        True where there is a value; rows in feature order, one sample a column.  Samples without
        any and features that no sample shows are allowed.

    Notes
    -----
    Depends on the mask alone: one object serves every covariance and all values.  A boolean is kept
    for each pair of a class, a set of features of one leaf that are missing in the same samples,
    and a pattern.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops.factor.estep.incomplete_solve import ObservedCells
    >>> observed = np.array([[True, True, True, True], [False, True, True, False]])
    >>> cells = ObservedCells(Hierarchy.flat(2), observed)
    >>> cells.n_patterns, cells.counts
    (2, array([4, 2]))
    >>> for samples, features in cells.groups():
    ...     print(samples, features)
    [0 3] [0]
    [1 2] [0 1]
    """

    def __init__(self, hierarchy, observed):
        if not isinstance(hierarchy, Hierarchy):
            raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
        observed = np.asarray(observed)
        if observed.dtype != bool:
            raise TypeError(f"observed must be boolean, got dtype {observed.dtype}")
        if observed.ndim != 2 or observed.shape[0] != hierarchy.n or observed.shape[1] == 0:
            raise ValueError(
                f"observed must have one row a feature ({hierarchy.n}) and a column for each of one"
                f" sample or more, got shape {observed.shape}"
            )
        self.hierarchy = hierarchy
        leaf_off = np.asarray(hierarchy.boundaries[-1], np.int64)
        self._patterns, self._order = passes.incomplete.group(
            hierarchy._gather(observed), leaf_off)

    @property
    def shape(self):
        """(n, N)."""
        return self.hierarchy.n, self._order.size

    @property
    def n_patterns(self):
        """Number of different patterns of observed cells (int)."""
        return self._patterns.starts.size - 1

    @cached_property
    def counts(self):
        """Number of samples that show each feature, (n,) int, feature order."""
        return self.hierarchy._scatter(self._tree_counts)

    @cached_property
    def _tree_counts(self):
        patterns, counts = self._patterns, np.empty(self.shape[0], np.int64)
        counts[patterns.rows] = np.repeat(patterns.seen @ self._pattern_counts, patterns.sizes)
        return counts

    @cached_property
    def _pattern_counts(self):
        """Number of samples of each pattern."""
        return np.diff(self._patterns.starts)

    @cached_property
    def _owner(self):
        return self._patterns.owner(0, self.shape[1])

    def groups(self):
        """Yield (samples, features) for each pattern: its samples and the features they show.

        Increasing numbers; for callers that form dense blocks.
        """
        patterns, permutation = self._patterns, self.hierarchy.permutation
        for p in range(self.n_patterns):
            samples = self._order[patterns.starts[p] : patterns.starts[p + 1]]
            rows = patterns.rows[np.repeat(patterns.seen[:, p], patterns.sizes)]
            yield np.sort(samples), np.sort(permutation[rows])


class IncompletePrecision:
    r"""Inverses of the blocks of an MLR covariance that each of N samples shows.

    For sample t with observed features O the inverse of :math:`\Sigma_{OO}`, on the tree of Σ.

    Parameters
    ----------
    covariance : MLR
    cells : ObservedCells
        On the hierarchy of the covariance.

    Notes
    -----
    A missing cell is a feature of zero precision in its sample: ``Σ_OO⁻¹`` follows from Woodbury's
    identity with zeros in ``D⁻¹``, on the same tree.  With P patterns, C classes (see
    `ObservedCells`) and ``s = Σ p_l r_l`` factors in all groups:

    =====================  ==========================================  ======================
    operation              flops                                       numbers kept
    =====================  ==========================================  ======================
    factor (once)          ``n R² + C P R² + P Σ p_l r_l R_l²``        ``P s R``
    ``solve``              ``4 n R N + 4 s R N``                       none
    ``logdet``             free after factoring                        none
    ``inv_quad``           those of ``solve``                          none
    ``inverse_diagonal``   ``n R² + C P R²`` and P sweeps              none
    =====================  ==========================================  ======================

    With leaves much larger than R, ``P s R`` is small beside the data; leaves of R features or
    fewer make it about ``P n R``.

    `solve` is refined as `MLR.solve` is, where a bound of its backward error asks for it; and like
    it needs ``eps ‖I + FᵀD⁻¹F‖`` below 1 for that to help.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.estep.incomplete_solve import IncompletePrecision, ObservedCells
    >>> h = Hierarchy.flat(2)
    >>> sigma = MLR(h, [np.ones((2, 1))], D=np.ones(2))  # [[2, 1], [1, 2]]
    >>> cells = ObservedCells(h, np.array([[True, True], [True, False]]))
    >>> precision = IncompletePrecision(sigma, cells)
    >>> np.round(precision.solve([[3.0, 3.0], [3.0, np.nan]]), 12)
    array([[1. , 1.5],
           [1. , 0. ]])
    >>> bool(np.isclose(precision.logdet(), np.log(3) + np.log(2)))
    True
    """

    def __init__(self, covariance, cells):
        if not isinstance(covariance, MLR):
            raise TypeError(f"covariance must be an MLR, got {type(covariance).__name__}")
        if covariance.hierarchy != cells.hierarchy:
            raise ValueError(
                f"covariance and cells must share one hierarchy, got {covariance.hierarchy!r} and"
                f" {cells.hierarchy!r}"
                + (", groups or order of features differ" if covariance.shape[0] == cells.shape[0]
                   else "")
            )
        self._sigma, self._cells = covariance, cells

    @property
    def covariance(self):
        """The MLR."""
        return self._sigma

    @property
    def cells(self):
        """The ObservedCells."""
        return self._cells

    @property
    def shape(self):
        """(n, N)."""
        return self._cells.shape

    @cached_property
    def _factor(self):
        """(K, log det(I + Fᵀ D⁻¹ F)), one for each pattern; see passes.incomplete_solve."""
        A = self._sigma
        K, logs, fail = passes.incomplete_solve.factor(
            A._F, A._dinv, self._cells._patterns, A._layout)
        if fail is not None:
            raise A._breakdown(*fail)
        return K, logs

    @cached_property
    def _norms(self):
        A = self._sigma
        return passes.incomplete_solve.norms(
            A._F, A._d, A._dinv, self._cells._patterns, A._layout)

    def _batches(self, E):
        """Yield (X, columns, owner): samples with zeros for missing cells, and their patterns."""
        cells, permutation = self._cells, self._sigma.hierarchy.permutation
        for first, last in passes.incomplete_solve.batches(cells._patterns, self._sigma._layout):
            owner, columns = cells._owner[first:last], cells._order[first:last]
            room = kernels.scratch.scratch("cells", (len(E), last - first), E.dtype)
            yield passes.incomplete_solve.gather(
                E, permutation, columns, cells._patterns, owner, out=room), columns, owner

    def _values(self, E, verb):
        E = as_real(E, verb, ndim=2)
        if E.shape != self.shape:
            raise ValueError(
                f"{verb}: expected an array of shape (n, N) = {self.shape}, got {E.shape}")
        out = np.result_type(E.dtype, self._sigma.dtype)
        return np.ascontiguousarray(E, self._sigma.dtype), out

    def _pass(self, X, owner, out=None):
        """``D⁻¹ (x - F z)`` with zeros at missing cells, and ``‖z‖²``, of samples of a batch."""
        A, patterns = self._sigma, self._cells._patterns
        if A._layout.R == 0:
            return X * A._dinv[:, None], np.zeros(X.shape[1])
        y, squares = passes.incomplete_solve.solve(
            A._F, A._dinv, self._factor[0], X, owner, A._layout, out)
        return passes.incomplete_solve.hide(y, patterns, owner), squares

    def solve(self, E):
        """``Σ_OO⁻¹ e_O`` for each sample e, zeros at its missing cells.

        Parameters
        ----------
        E : array_like, shape (n, N)
            Rows in feature order.  Values at missing cells are ignored, NaN or not; NaN at an
            observed cell makes its sample NaN and no other.

        Returns
        -------
        ndarray, shape (n, N)
        """
        A = self._sigma
        E, dtype = self._values(E, "solve")
        out = np.empty_like(E)
        for X, columns, owner in self._batches(E):
            y = self._corrected(X, owner) if A._layout.R else self._pass(X, owner)[0]
            passes.incomplete_solve.scatter(y, A.hierarchy.permutation, columns, out)
        return out.astype(dtype, copy=False)

    def _corrected(self, X, owner):
        A, patterns = self._sigma, self._cells._patterns

        def solve(b, columns):
            if columns is None:
                return self._pass(b, owner, kernels.scratch.scratch("solved", b.shape, b.dtype))
            return self._pass(b, owner[columns])

        def multiply(x, columns):  # Σ_OO x_O, from zeros elsewhere
            return passes.incomplete_solve.hide(
                kernels.tree.multiply(A._F, A._d, x, A._layout), patterns, owner[columns])

        bounds = [bound[owner] for bound in self._norms]
        return corrected(A, solve, multiply, X, A._dinv, bounds)

    def inv_quad(self, E):
        """``e_Oᵀ Σ_OO⁻¹ e_O`` of each sample, (N,), never negative; 0 for one without any cell.

        The smallest ``‖D^{-1/2}(e - F z)‖² + ‖z‖²`` over z: a sum of squares.
        """
        E, dtype = self._values(E, "inv_quad")
        out = np.empty(E.shape[1], dtype)
        for X, columns, owner in self._batches(E):
            y, squares = self._pass(X, owner)
            out[columns] = np.einsum("ik,ik,i->k", y, y, self._sigma._d) + squares
        return out

    def logdet(self):
        """``Σ_t log det Σ_OO`` over the samples, float; a sample without any cell adds 0."""
        A, cells = self._sigma, self._cells
        logs = cells._tree_counts @ np.log(A._d, dtype=float)
        return float(logs + (cells._pattern_counts @ self._factor[1] if A._layout.R else 0))

    def inverse_diagonal(self):
        """Mean of ``(Σ_OO⁻¹)_ii`` over the samples that show feature i, (n,); 0 where none does.

        What a sample's cell weighs by itself, for preconditioners of weighted regressions.
        """
        A, cells = self._sigma, self._cells
        if A._layout.R == 0:
            return A.hierarchy._scatter(np.where(cells._tree_counts > 0, A._dinv, 0))
        return A.hierarchy._scatter(passes.incomplete_solve.inverse_diagonal(
            A._F, A._d, self._factor[0], cells._pattern_counts, cells._patterns, A._layout))
