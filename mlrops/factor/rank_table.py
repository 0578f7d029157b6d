"""The result of a choice of ranks: the table of the candidates, and the chosen one."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._common.optional import import_pandas
from .._common.wording import counted

__all__ = ["CRITERIA", "RankRecord", "RankSelection", "merit"]

CRITERIA = ("bic", "aic", "cv")


class RankRecord(NamedTuple):
    """One candidate with its likelihoods and criteria; a row of ``RankSelection.table``.

    Attributes
    ----------
    ranks : tuple of L int
    storage : int
        Numbers stored, n R + n.
    df : int
        Free parameters, rotations counted out.
    loglik : float
        Average log-likelihood a sample of the fit to all samples.
    aic, bic : float
        ``-2 N loglik + 2 df`` and ``-2 N loglik + df log N``.
    cv_mean, cv_se : float
        Held-out log-likelihood a sample, mean over folds and its standard error.
    n_iter : int
        Updates of all its fits together.
    converged : bool
        Whether all its fits converged.
    n_capped : int
        Groups with too few features to use their level's rank.
    refused : str
        The reason where it cannot be chosen because the likelihood of a fit has no maximum, else
        empty.  NaN then stands for its likelihoods, which would depend on the floor of D alone.

    Examples
    --------
    >>> from mlrops import select_ranks
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(8, 1, n_samples=100, random_state=0).Y
    >>> record = select_ranks(Y, candidates=[1]).table[0]
    >>> record.ranks, record.storage, record.df
    ((1,), 16, 24)
    """

    ranks: tuple[int, ...]
    storage: int
    df: int
    loglik: float
    aic: float
    bic: float
    cv_mean: float
    cv_se: float
    n_iter: int
    converged: bool
    n_capped: int
    refused: str = ""


def merit(record: RankRecord, criterion: str) -> tuple[float, int]:
    """A key that is smallest for the best candidate; of equals, the one with fewer parameters."""
    if record.refused:
        return math.inf, record.df
    return (-record.cv_mean if criterion == "cv" else getattr(record, criterion)), record.df


@dataclass(frozen=True, repr=False)
class RankSelection:
    """Ranks chosen for a model; what `select_ranks` and `select_sur_ranks` return.

    Attributes
    ----------
    ranks : tuple of L int
        The chosen ranks, coarsest level first.
    criterion : {"bic", "aic", "cv"}
        The criterion that chose them.
    table : list of RankRecord
        One record a candidate, in the order in which they were tried: ``ranks``, ``storage``,
        ``df``, ``loglik``, ``aic``, ``bic``, ``cv_mean``, ``cv_se``, ``n_iter``, ``converged``,
        ``n_capped``, ``refused``.  NaN stands for what was not computed.
    fit : FactorModelResult, SURResult or None
        The fit with the chosen ranks to all samples; None with ``refit=False``.
    one_standard_error : bool
        Whether the simplest candidate within one standard error of the best was chosen.

    Examples
    --------
    >>> from mlrops import select_ranks
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(12, 2, n_samples=400, random_state=0).Y
    >>> selection = select_ranks(Y, candidates=range(4))
    >>> selection
    <RankSelection: ranks (2,), the best of 4 candidates by bic>
    >>> selection.table[2].df  # 12·2 - 1 loadings, D, mean
    47
    >>> selection.to_frame()["df"].tolist()
    [24, 36, 47, 57]
    """

    ranks: tuple[int, ...]
    criterion: str
    table: list[RankRecord] = field(repr=False)
    fit: Any
    one_standard_error: bool = False

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, one row a candidate."""
        return import_pandas().DataFrame(self.table, columns=RankRecord._fields)

    def summary(self, limit: int | None = 20) -> str:
        """The table as text, best candidates first, the chosen one marked by a star.

        Parameters
        ----------
        limit : int or None, optional
            Number of candidates shown; the chosen one always is.

        Returns
        -------
        str
        """
        ordered = sorted(self.table, key=lambda record: merit(record, self.criterion))
        shown = [record for i, record in enumerate(ordered)
                 if limit is None or i < limit or record.ranks == self.ranks]
        columns = ["ranks", "storage", "df", "loglik", "aic", "bic", "cv_mean", "cv_se", "n_iter"]
        if all(math.isnan(record.cv_mean) for record in self.table):
            columns = [name for name in columns if not name.startswith("cv")]
        cells = [columns, *([_text(getattr(record, name), name) for name in columns]
                            for record in shown)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rule = ", one-standard-error rule" if self.one_standard_error else ""
        lines = [f"Ranks by {self.criterion}{rule}: {self.ranks} of {len(self.table)} candidates"]
        for record, (ranks, *numbers) in zip([None, *shown], cells, strict=True):
            mark = "*" if record and record.ranks == self.ranks else " "
            right = map(str.rjust, numbers, widths[1:])
            lines.append("  ".join([mark, ranks.ljust(widths[0]), *right, _notes(record)]).rstrip())
        if len(shown) < len(ordered):
            lines.append(f"   and {len(ordered) - len(shown)} more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        rule = ("the simplest within a standard error of the best" if self.one_standard_error
                else "the best")
        return (f"<RankSelection: ranks {self.ranks}, {rule} of {len(self.table)} candidates"
                f" by {self.criterion}>")


def _text(value, name):
    if name in ("aic", "bic"):
        return f"{value:.2f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _notes(record: RankRecord | None) -> str:
    """The remarks at the end of a candidate's line; none for the head of the table."""
    if record is None:
        return ""
    notes = [] if record.converged else ["not converged"]
    if record.n_capped:
        notes.append(f"{counted(record.n_capped, 'group')} capped")
    if record.refused:
        notes.append("refused: no maximum")
    return ", ".join(notes)
