"""`MLRFit` and `RankAllocation`: what the Frobenius fits return."""

from dataclasses import dataclass, field

import numpy as np

from ..operators.general_mlr import GeneralMLR

__all__ = ["MLRFit", "RankAllocation"]


@dataclass(frozen=True, repr=False)
class MLRFit:
    """A fitted multilevel low rank matrix; what `fit_mlr` returns.

    Attributes
    ----------
    operator : GeneralMLR
        The fit, each block's factors on principal axes: ``B = U √s`` and ``C = V √s``, largest
        first, the entry of largest magnitude of every left column positive.  A symmetric fit has
        ``B = C`` but for signs, a positive semidefinite one ``B = C``.
    errors : ndarray, shape (n_iter + 1,)
        Relative errors ``‖A - M‖_F / ‖A‖_F`` of the start and after every iteration.
    times : ndarray, shape (n_iter + 1,)
        Seconds at which they were reached.
    n_iter : int
        Number of iterations.
    converged : bool
    termination : str
        ``"tol"``, ``"exact"`` (nothing but rounding is left), ``"rounding"`` (the next iteration
        would have raised the error, for rounding; it was taken back), ``"max_iter"`` or
        ``"callback"``.  The first two count as converged.
    capped : tuple of (int, int, int)
        ``(level, group, side)`` of groups whose smaller side is less than their level's rank.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy, fit_mlr
    >>> x = np.linspace(0, 1, 32)
    >>> fit = fit_mlr(np.exp(-8 * np.abs(x[:, None] - x)), [2, 2], Hierarchy.balanced(32, [1, 4]))
    >>> fit.termination, fit.errors.size == fit.n_iter + 1, fit.operator.symmetric
    ('tol', True, True)
    """

    operator: GeneralMLR
    errors: np.ndarray
    times: np.ndarray
    n_iter: int
    converged: bool
    termination: str
    capped: tuple = field(default=())

    @property
    def error(self):
        """Relative error of `operator` (float)."""
        return float(self.errors[-1])

    @property
    def ranks(self):
        """Rank of each level (tuple of int)."""
        return self.operator.ranks

    def to_mlr(self, tol=None):
        """The fit as an `MLR`, where it is symmetric positive definite with a diagonal level.

        See `GeneralMLR.to_mlr` for what it takes, and for its errors.
        """
        return self.operator.to_mlr(tol)

    def __repr__(self):
        m, n = self.operator.shape
        return (f"<{type(self).__name__} of {m}x{n}, ranks {self.ranks}, error {self.error:.3g},"
                f" {self._summary()}>")

    def _summary(self):
        return f"{self.n_iter} iterations, {self.termination!r}"


@dataclass(frozen=True, repr=False)
class RankAllocation(MLRFit):
    """A fit whose ranks were found; what `allocate_ranks` returns.

    Attributes
    ----------
    operator, converged, termination, capped
        As in `MLRFit`; ``"exchanges"`` means that no exchange of rank tried lowers the error any
        more.
    errors, times : ndarray, shape (n_iter + 1,)
        Relative errors of the start, and after every step: an accepted exchange, or a refit.
    history : tuple of (tuple of int, float)
        Rank vectors and errors, one for each entry of `errors`.
    n_iter : int
        Number of entries of `history` behind the first.
    n_trials : int
        Number of exchanges tried.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import allocate_ranks, partition
    >>> from mlrops.datasets import gauss_transform
    >>> A = gauss_transform(60, 40, random_state=0).A
    >>> rows, cols = partition(A, 3, random_state=0)
    >>> fit = allocate_ranks(A, 4, rows, cols, random_state=0)
    >>> len(fit.history) == len(fit.errors), sum(fit.ranks)
    (True, 4)
    >>> bool((np.diff(fit.errors) <= 0).all())
    True
    """

    history: tuple = ()
    n_trials: int = 0

    def _summary(self):
        return f"{self.n_trials} exchanges tried, {self.termination!r}"
