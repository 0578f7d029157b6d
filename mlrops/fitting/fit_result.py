"""`MLRFit` and `RankAllocation`: what the Frobenius fits return."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._common.deprecated import old_attribute
from .._common.stored import COUNT, FINITE, FIT, Check, Stored, check_fit, maybe, of_field
from .._common.text import WIDTH, paragraph, side_by_side, title
from .._common.typing import FloatArray, IntArray
from .._common.wording import counted, name_some
from ..operators.general.mlr import GeneralMLR
from ..operators.mlr import MLR, check_ranks

__all__ = ["MLRFit", "RankAllocation", "size_range"]


# A number where the fit did not see the matrix itself.
HELD_OUT = maybe(Check("a finite number that is not negative",
                       lambda x: FINITE.holds(x) and x >= 0))


@dataclass(frozen=True, repr=False)
class MLRFit(Stored):
    """A fitted multilevel low rank matrix; what `fit_mlr` returns.

    Attributes
    ----------
    operator : GeneralMLR
        The fit, each block's factors on principal axes: ``B = U √s`` and ``C = V √s``, largest
        first, the entry of largest magnitude of every left column positive.  A symmetric fit has
        ``B = C`` but for signs, a positive semidefinite one ``B = C``.
    objective_trace : ndarray, shape (n_iter + 1,)
        Relative errors ``‖A - M‖_F / ‖A‖_F`` of the start and after every iteration, which the fit
        descends; if there is a `held_out_error`, of what the fit saw of A.
    times : ndarray, shape (n_iter + 1,)
        Seconds at which they were reached.
    n_iter : int
        Number of iterations.
    converged : bool
    termination : str
        ``"tol"``, ``"exact"`` (only rounding is left), ``"rounding"`` (rounding made the next
        iteration raise the error, so that it was taken back), ``"max_iter"``, ``"callback"`` or
        ``"interrupted"`` (by Ctrl-C).  The first two count as converged.
    capped : tuple of (int, int, int)
        ``(level, group, side)`` of groups whose smaller side is less than their level's rank.
    held_out_error, held_out_se : float or None
        Where the fit saw samples of a function or blocks peeled off an operator: the relative error
        to the matrix itself, estimated from whole rows of the function or products with random
        vectors, and its standard error.  `objective_trace` then holds the errors to what was seen.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy, fit_mlr
    >>> x = np.linspace(0, 1, 32)
    >>> fit = fit_mlr(np.exp(-8 * np.abs(x[:, None] - x)), [2, 2], Hierarchy.balanced(32, [1, 4]))
    >>> fit.termination, fit.objective_trace.size == fit.n_iter + 1, fit.operator.symmetric
    ('tol', True, True)
    """

    operator: GeneralMLR
    objective_trace: FloatArray
    times: FloatArray
    n_iter: int
    converged: bool
    termination: str
    capped: tuple[tuple[int, int, int], ...] = ()
    held_out_error: float | None = field(default=None, kw_only=True)
    held_out_se: float | None = field(default=None, kw_only=True)

    errors = old_attribute("errors", "objective_trace")

    stored_fields = FIT | {"n_trials": COUNT, "held_out_error": HELD_OUT, "held_out_se": HELD_OUT}

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> Any:
        fit, traces = cls(**given), ("objective_trace", "times")
        check_fit(given, traces, fit.operator.ranks, fit.operator.rows.group_counts)
        for name in traces:
            if given[name].dtype != np.float64 or given[name].min() < 0:
                raise ValueError(f"{name} must hold n_iter + 1 = {fit.n_iter + 1} numbers of"
                                 f" float64, none below zero, got {given[name].dtype}")
        if (fit.held_out_error is None) != (fit.held_out_se is None):
            raise ValueError("held_out_error must come with held_out_se, or neither")
        return fit

    @property
    def error(self) -> float:
        """Relative error of `operator` (float): `held_out_error`, if there is one."""
        held_out = self.held_out_error
        return float(self.objective_trace[-1] if held_out is None else held_out)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each level (tuple of int)."""
        return self.operator.ranks

    def to_mlr(self, tol: float | None = None) -> MLR:
        """The fit as an `MLR`, where it is symmetric positive definite with a diagonal level.

        Parameters
        ----------
        tol : float, optional
            As for `GeneralMLR.to_mlr`.

        Returns
        -------
        MLR

        Raises
        ------
        ValueError
            As `GeneralMLR.to_mlr`: also where an entry of the diagonal level is not positive, as in
            fits without ``psd=True``, or of a matrix whose own entry is not.
        """
        return self.operator.to_mlr(tol)

    def summary(self) -> str:
        """The fit as a readable text, less than 80 columns wide.

        Returns
        -------
        text : str
            For ``print``: errors, numbers stored, groups, sides of the blocks and rank of each
            level, and groups whose blocks cannot have their level's rank.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import Hierarchy, fit_mlr
        >>> x = np.linspace(0, 1, 32)
        >>> A = np.exp(-8 * np.abs(x[:, None] - x))
        >>> fit = fit_mlr(A, [2, 5], Hierarchy.balanced(32, [1, 8]))
        >>> print(fit.summary())  # doctest: +ELLIPSIS
                                   Multilevel low rank fit
        ==============================================================================
        Rows                             32    Relative error                 ...
        Columns                          32    of the start                   ...
        Levels                            2    Iterations                            ...
        Total rank                        7    Seconds                            ...
        Numbers stored                  448    Stopped on                          tol
        of the dense matrix           43.8%    Converged                           yes
        ==============================================================================
        level         groups      rows a group   columns a group    rank       numbers
        ------------------------------------------------------------------------------
        0                  1                32                32       2           128
        1                  8                 4                 4       5           320
        ------------------------------------------------------------------------------
        Groups with a side shorter than the rank: 8 (level 1 group 0, level 1 group 1,
        level 1 group 2, level 1 group 3, level 1 group 4 and 3 more)
        ==============================================================================
        """
        rule = "=" * WIDTH
        return "\n".join([*title(self._title), *_facts(self), rule, *_levels(self.operator),
                          *_capped(self.capped), rule])

    _title = "Multilevel low rank fit"

    def _steps(self) -> list[tuple[str, str]]:
        """Names and numbers of what was done."""
        return [("Iterations", f"{self.n_iter:,}")]

    def __repr__(self) -> str:
        m, n = self.operator.shape
        error = f"error {self.error:.3g}"
        if self.held_out_se is not None:
            error = f"held-out {error} ± {self.held_out_se:.1g}"
        return f"<{type(self).__name__} of {m}x{n}, ranks {self.ranks}, {error}, {self._summary()}>"

    def _summary(self) -> str:
        return f"{counted(self.n_iter, 'iteration')}, {self.termination!r}{self._shorter()}"

    def _shorter(self) -> str:
        return f", {counted(len(self.capped), 'group')} capped" if self.capped else ""


@dataclass(frozen=True, repr=False)
class RankAllocation(MLRFit):
    """A fit whose ranks were found; what `allocate_ranks` returns.

    Attributes
    ----------
    operator, converged, termination, capped, held_out_error, held_out_se
        As in `MLRFit`; ``"tol"`` (``"exchanges"`` in version 0.1) means that no exchange of rank
        that was tried lowers the error any more, ``"rounding"`` that some would, but by less than
        rounding changes it.  Both count as converged.
    objective_trace, times : ndarray, shape (n_iter + 1,)
        Relative errors of the start, and after every step: an accepted exchange, or a refit; and
        the seconds at which they were reached.
    history : tuple of (tuple of int, float)
        Rank vectors and errors, one for each entry of `objective_trace`.
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
    >>> len(fit.history) == len(fit.objective_trace), sum(fit.ranks)
    (True, 4)
    >>> bool((np.diff(fit.objective_trace) <= 0).all())
    True
    """

    history: tuple[tuple[tuple[int, ...], float], ...] = ()
    n_trials: int = 0

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> Any:
        fit = super().from_fields(**given)
        operator, history, errors = fit.operator, fit.history, fit.objective_trace
        if len(history) != errors.size:
            raise ValueError(
                f"history must have {counted(errors.size, 'entry')}, got {len(history)}")
        for entry, error in zip(history, errors, strict=True):
            with of_field("history"):
                right = type(entry) is tuple and len(entry) == 2 and type(entry[0]) is tuple and (
                    check_ranks(entry[0], operator.rows) == entry[0] and entry[1] == error)
            if not right:
                raise ValueError("history must hold ranks, one a level, and the entries of"
                                 " objective_trace")
        if history[-1][0] != operator.ranks or any(
                sum(ranks) != sum(operator.ranks) for ranks, _ in history):
            raise ValueError("history must end with the operator's ranks, and keep their sum")
        return fit

    _title = "Multilevel low rank fit of a given total rank"

    def _steps(self) -> list[tuple[str, str]]:
        return [("Steps", f"{self.n_iter:,}"), ("Exchanges tried", f"{self.n_trials:,}")]

    def _summary(self) -> str:
        return f"{self.n_trials} exchanges tried, {self.termination!r}{self._shorter()}"


def _facts(fit):
    """Pairs of name and value, in two columns."""
    m, n = fit.operator.shape
    left = [("Rows", f"{m:,}"), ("Columns", f"{n:,}"), ("Levels", f"{len(fit.ranks)}"),
            ("Total rank", f"{sum(fit.ranks):,}"), ("Numbers stored", f"{fit.operator.storage:,}"),
            ("of the dense matrix", f"{fit.operator.storage / (m * n):.1%}")]
    errors = [("Relative error", f"{fit.error:.4g}")]
    if fit.held_out_se is not None:
        errors = [("Held-out relative error", f"{fit.error:.4g}"),
                  ("standard error", f"{fit.held_out_se:.1g}"),
                  ("of what was seen", f"{fit.objective_trace[-1]:.4g}")]
    right = [*errors, ("of the start", f"{fit.objective_trace[0]:.4g}"), *fit._steps(),
             ("Seconds", f"{fit.times[-1]:.3g}"), ("Stopped on", fit.termination),
             ("Converged", "yes" if fit.converged else "no")]
    return side_by_side(left, right)


def _levels(operator):
    """A line a level: its groups, the sides of their blocks, and what its factors hold."""
    rows, cols = operator.rows, operator.cols
    form = "{:<8}{:>12}{:>18}{:>18}{:>8}{:>14}"
    yield form.format("level", "groups", "rows a group", "columns a group", "rank", "numbers")
    yield "-" * WIDTH
    for level, r in enumerate(operator.ranks):
        yield form.format(
            level, f"{rows.group_counts[level]:,}", size_range(rows.group_sizes(level)),
            size_range(cols.group_sizes(level)), f"{r:,}", f"{sum(operator.shape) * r:,}")


def size_range(sizes: IntArray) -> str:
    """Sizes of groups in words: the smallest to the largest."""
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _capped(capped):
    """Groups whose blocks cannot have the rank of their level."""
    if capped:
        groups = [f"level {level} group {g}" for level, g, _ in capped]
        yield from paragraph(f"Groups with a side shorter than the rank: {len(groups):,}"
                             f" ({name_some(groups)})")
