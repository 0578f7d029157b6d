"""`select_ranks`: ranks by information criteria or held-out likelihood."""

import math
import operator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .._common.given import read_given
from .._common.optional import import_pandas
from .._common.validate import as_real, check_rank
from .._common.wording import counted, name_some
from ..operators.mlr import MLR, check_ranks
from ..tree.hierarchy import Hierarchy
from ..tree.reading import tree_of
from .folds import make_folds
from .limits import useful_ranks
from .rank_search import WHOLE, FactorFits, RankRecord, Search, greedy, grid, merit

__all__ = ["CRITERIA", "RankOptions", "RankRecord", "RankSelection", "choose_ranks", "select_ranks"]

# Share of the samples' dimensions that factors may take unless the user names a budget: with N = 8
# of 40 features that have one factor, BIC falls to the last rank, at half of the dimensions, too.
DEFAULT_SHARE = 0.25
CRITERIA = ("bic", "aic", "cv")
STRATEGIES = ("greedy", "grid")


class RankOptions(NamedTuple):
    """How ranks are chosen, see `select_ranks`."""

    candidates: Any = None
    criterion: str = "bic"
    strategy: str = "greedy"
    max_rank: Any = None
    total_rank: int | None = None
    max_storage: int | None = None
    exact: bool = False
    start: Any = None
    n_folds: int = 5
    shuffle: bool = True
    folds: Any = None
    one_standard_error: bool = False
    refit: bool = True
    progress: bool = False

    @property
    def generates(self):
        """Names of the options given that generate candidates."""
        names = "max_rank", "total_rank", "max_storage", "start"
        return [*(name for name in names if getattr(self, name) is not None),
                *(["exact"] if self.exact else [])]


@dataclass(frozen=True, repr=False)
class RankSelection:
    """Ranks chosen for a model; what `select_ranks` and `select_sur_ranks` return.

    Attributes
    ----------
    ranks : tuple of L int
        The chosen ranks, coarsest level first.
    criterion : {"bic", "aic", "cv"}
        What chose them.
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

    ranks: tuple
    criterion: str
    table: list = field(repr=False)
    fit: object
    one_standard_error: bool = False

    def to_frame(self):
        """The table as a pandas DataFrame, one row a candidate."""
        pd = import_pandas()

        return pd.DataFrame(self.table, columns=RankRecord._fields)

    def summary(self, limit=20):
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
        held_out = any(not math.isnan(record.cv_mean) for record in self.table)
        if not held_out:
            columns = [name for name in columns if not name.startswith("cv")]
        rows = [["", *columns, ""]]
        for record in shown:
            notes = [] if record.converged else ["not converged"]
            if record.n_capped:
                notes.append(f"{counted(record.n_capped, 'group')} capped")
            if record.refused:
                notes.append("refused: no maximum")
            rows.append(["*" if record.ranks == self.ranks else "",
                         *(_text(getattr(record, name), name) for name in columns),
                         ", ".join(notes)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rule = ", one-standard-error rule" if self.one_standard_error else ""
        lines = [f"Ranks by {self.criterion}{rule}: {self.ranks} of {len(self.table)} candidates"]
        for mark, ranks, *numbers, notes in rows:
            cells = [text.rjust(w) for text, w in zip(numbers, widths[2:-1], strict=True)]
            line = "  ".join([mark.ljust(1), ranks.ljust(widths[1]), *cells, notes])
            lines.append(line.rstrip())
        if len(shown) < len(ordered):
            lines.append(f"   and {len(ordered) - len(shown)} more")
        return "\n".join(lines)

    def __repr__(self):
        how = ("the simplest within a standard error of the best" if self.one_standard_error
               else "the best")
        return (f"<RankSelection: ranks {self.ranks}, {how} of {len(self.table)} candidates"
                f" by {self.criterion}>")


def _text(value, name):
    if name in ("aic", "bic"):
        return f"{value:.2f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def select_ranks(Y, hierarchy=None, candidates=None, *, criterion="bic", strategy="greedy",
                 max_rank=None, total_rank=None, max_storage=None, exact=False, start=None,
                 n_folds=5, shuffle=True, folds=None, one_standard_error=False, refit=True,
                 progress=False, random_state=None, **fit_options):
    r"""Choose the ranks of `fit_factor_model` by BIC, AIC or held-out likelihood.

    Candidates are listed, or generated under a budget: all of them (``strategy="grid"``) or by a
    greedy search over the levels.

    Parameters
    ----------
    Y : array_like, DataFrame or sparse matrix, shape (N, n)
        Data, one sample a row.  With a hierarchy, BIC and AIC take whatever `fit_factor_model`
        takes; held-out likelihood takes data whose rows can be selected.
    hierarchy : Hierarchy or labels, optional
        Tree of the features, as in `fit_factor_model`; default one level with one group.
    candidates : sequence of (sequence of int), optional
        Rank vectors to compare, coarsest level first; for one level also plain numbers, such as
        ``range(10)``.  Excludes the options that generate candidates.
    criterion : {"bic", "aic", "cv"}, optional
        ``-2 N loglik + df log N``, ``-2 N loglik + 2 df``, or the average log-likelihood of samples
        left out of the fit (mean included), averaged over folds.
    strategy : {"greedy", "grid"}, optional
        How candidates are generated.
    max_rank : int or sequence of int, optional
        Largest rank of each level (one number for all, or one a level).
    total_rank : int, optional
        Largest total rank R.
    max_storage : int, optional
        Largest number of numbers stored, ``n R + n`` (`MLR.storage`); instead of `total_rank`.
    exact : bool, optional
        Use up the budget: only splits of one total rank over the levels are compared.
    start : sequence of int, optional
        Where the greedy search starts; default all ranks 0.
    n_folds : int, optional
        Number of folds of ``criterion="cv"``.
    shuffle : bool, optional
        Draw the folds at random; False cuts runs of neighbouring samples, for time series.
    folds : iterable of (train, test), or splitter, optional
        Folds of one's own: sample numbers, masks or slices, or an object with a method
        ``split`` as in scikit-learn.  Takes the place of `n_folds` and `shuffle`.  A mask that is a
        Series is matched by the labels of the rows.
    one_standard_error : bool, optional
        With ``criterion="cv"``, choose the candidate with the fewest free parameters of those whose
        held-out likelihood is within one standard error (of the best one's) of the best.
    refit : bool, optional
        Keep the fit of the chosen ranks to all samples.  With ``criterion="cv"`` False saves one
        fit a candidate, and leaves its log-likelihood, AIC and BIC out of the table.
    progress : bool, optional
        Show a progress bar.
    random_state : None, int or numpy.random.Generator, optional
        Seed of the folds, of the warm starts and of what `fit_factor_model` draws.
    **fit_options : optional
        Further options of `fit_factor_model` (``tol``, ``max_iter``, ...).  ``sample_weight`` goes
        with its samples into the folds.

    Returns
    -------
    RankSelection

    Raises
    ------
    ValueError, TypeError
        Candidates that do not fit the hierarchy or exceed n, a budget below zero or too small for
        D, fewer samples than folds, a fold whose training part cannot be fitted (the fold and the
        features are named), options that contradict one another; and what `fit_factor_model`
        raises.  Ranks for which the likelihood has no maximum, see Notes: the candidate and the
        reason are named.

    Warns
    -----
    ConvergenceWarning
        Once, with the number of fits that did not converge, have variances at the floor or a
        likelihood without a maximum.

    Notes
    -----
    *Degrees of freedom* are counted with rotations out, level by level; a group smaller than its
    rank counts as many factors as it can have, and is counted in the table (``n_capped``).

    *The greedy search* tries one more factor at each level and takes the best; where none helps,
    one factor less, or one moved from a level to another; it ends where no move lowers the
    criterion.  With `exact`, factors are added until the budget is used, then moved.

    *How far it goes.*  A candidate must have a likelihood with a maximum.  N samples (those of
    positive weight that have a cell, in every training part) less one for the mean carry ``N - 2``
    factors of more features than that; listed candidates with more are refused, and none are
    generated.  Where a fit runs off all the same, as it can in trees, with missing cells and with
    features that determine one another, its record says so (``refused``) and it is not chosen.
    Unless a budget is named (`max_rank`, `total_rank`, `max_storage`), factors take at most a
    quarter of the N - 1 dimensions: penalties of BIC and AIC are for many samples each.  Without
    `max_rank` no level gets more factors than its largest group has a model for: m features with
    more than ``m + ½ - (2 m + ¼)^½`` factors have more parameters than covariances (Ledermann,
    1937); a pair gets one.  With it, one factor less than features is the most.

    *Starts.*  A listed or grid candidate is fitted as `fit_factor_model` does by itself.  A greedy
    candidate starts from its neighbour's fit (each fold from that fold's): the last principal axis
    of a level (of correlations) is dropped, or a column added.  A zero column would be a stationary
    point of EM, so it is a random direction, with signal-to-noise ratio :math:`\sum_i f_i^2 / D_i`
    near 1 in each group.  With ``init`` or ``n_init`` given, all fits start that way.

    Each candidate is fitted once.  Its fits are dropped as soon as neither a later start nor the
    result can need them; only `one_standard_error` keeps a fit a candidate to the end.

    G. Schwarz, "Estimating the dimension of a model", 1978; H. Akaike, "Factor analysis and AIC",
    1987; T. Hastie, R. Tibshirani, J. Friedman, "The elements of statistical learning", 2009,
    section 7.10, for the one-standard-error rule.

    Examples
    --------
    >>> from mlrops import Hierarchy, select_ranks
    >>> from mlrops.datasets import simulate_mlr
    >>> h = Hierarchy.balanced(40, [1, 4])
    >>> sim = simulate_mlr(h, ranks=(2, 1), n_samples=300, random_state=0)
    >>> selection = select_ranks(sim.Y, h, random_state=0)
    >>> selection.ranks, selection.fit.covariance.ranks
    ((2, 1), (2, 1))
    >>> splits = select_ranks(sim.Y, h, total_rank=3, exact=True, strategy="grid", criterion="cv")
    >>> [record.ranks for record in splits.table], splits.ranks
    ([(0, 3), (1, 2), (2, 1), (3, 0)], (2, 1))
    """
    _check_fit_options(fit_options)
    given = read_given(Y, fit_options.get("sample_weight"), peek=False)
    if given.weights is not None:
        fit_options["sample_weight"] = as_real(given.weights, "sample_weight")
    if given.kind != "chunks":
        hierarchy = tree_of(hierarchy, given.names, given.n)
    elif not isinstance(hierarchy, Hierarchy):
        _shape(Y)  # says that chunks need one
    Y = given.values  # names are those of the hierarchy from here on, masked cells are NaN
    rng = np.random.default_rng(random_state)
    how = RankOptions(
        candidates, criterion, strategy, max_rank, total_rank, max_storage, exact, start, n_folds,
        shuffle, folds, one_standard_error, refit, progress)
    return choose_ranks(
        FactorFits(Y, hierarchy, fit_options, rng), how, lambda: _shape(Y)[0], rng,
        rows=given.labels)


def choose_ranks(problem, how, count_rows, rng, *, rows=None, carried=None, stacklevel=4):
    """`select_ranks` for whatever is fitted, see `rank_search`, and `RankOptions`.

    `count_rows` is called where folds have to be cut, `rows` are labels of the rows; `carried`, if
    given, returns for the training parts (arrays of row numbers, or None for all) the largest total
    rank to be generated.  Warnings point `stacklevel` calls up from where they are raised.
    """
    hierarchy, candidates = problem.hierarchy, how.candidates
    _check_choice(how.criterion, CRITERIA, "criterion")
    _check_choice(how.strategy, STRATEGIES, "strategy")
    parts, pairs = [WHOLE], []
    if how.criterion == "cv":
        pairs = make_folds(how.folds, how.n_folds, how.shuffle, count_rows(), rng, rows)
        parts = [*(parts if how.refit else []), *pairs]
    maxima = _Maxima(problem, parts, 1.0)
    if how.one_standard_error and len(pairs) < 2:
        raise ValueError(
            'one_standard_error needs criterion="cv" and 2 folds or more to estimate it from')
    if candidates is not None:
        if how.generates:
            raise ValueError(
                f"{name_some(how.generates)} generate candidates; candidates are given")
        candidates = _check_candidates(candidates, hierarchy)
        for i, ranks in enumerate(candidates):
            maxima.check(ranks, f"candidates[{i}]: ")
    else:
        if not how.generates:  # nobody says how far to go
            maxima = _Maxima(problem, parts, DEFAULT_SHARE)
        limits, total = _check_budget(hierarchy, how)
        if carried is not None:
            total = _check_carried(carried([train for train, _ in parts]), total, how.exact)
        if how.strategy == "grid":
            if not set(how.generates) & {"max_rank", "total_rank", "max_storage"}:
                raise ValueError(
                    'strategy="grid" needs max_rank, total_rank or max_storage to be finite')
            if how.start is not None:
                raise ValueError('start is where strategy="greedy" starts, not a grid')
            every = grid(limits, total, how.exact)
            candidates = list(filter(maxima.exists, every))
            if every and not candidates:
                maxima.check(every[0])
        else:
            start = _check_start(how.start, hierarchy, limits, total)
            maxima.check(start, "start: ")

    eligible = total if how.exact else None
    with tqdm(total=None if candidates is None else len(candidates), desc="ranks",
              disable=not how.progress) as bar:
        search = Search(problem, parts, how.criterion, how.one_standard_error, eligible, bar,
                        maxima.exists)
        if candidates is None:
            greedy(search, start, limits, total, how.exact)
        else:
            search.best_of(candidates)
    ranks = search.chosen()
    if ranks is None:
        raise ValueError(_why_none(search.eligible(), total if how.exact else None))
    fit = search.fit_to_all(ranks) if how.refit else None
    search.warn(stacklevel)
    return RankSelection(ranks, how.criterion, search.eligible(), fit, bool(how.one_standard_error))


# ---------------------------------------------------------------- what may be asked for


class _Maxima:
    """Whether the likelihoods of all training parts have a maximum, by the number of samples."""

    def __init__(self, problem, parts, share):
        self._problem, self._parts, self._share = problem, parts, share

    def exists(self, ranks):
        return self._refusal(ranks) is None

    def check(self, ranks, what=""):
        refusal = self._refusal(ranks)
        if refusal is not None:
            raise ValueError(f"{what}{refusal}; lower the ranks")

    def _refusal(self, ranks):
        for part, (train, _) in enumerate(self._parts):
            found = self._problem.refusal(ranks, train, self._share)
            if found is not None:
                fold = part - (self._parts[0] is WHOLE)
                return found if train is None else f"in the training part of fold {fold} {found}"
        return None


def _why_none(records, total):
    """Why no candidate can be chosen."""
    if not records:
        return (f"no split of a total rank of {total} can be reached whose likelihood has a"
                " maximum; lower it")
    refused = records[0]
    return (f"{counted(len(records), 'candidate')}, and all of them refused: with ranks"
            f" {refused.ranks} {refused.refused}")


def _shape(Y):
    try:
        N, n = np.shape(Y)
    except (TypeError, ValueError):
        raise ValueError(
            "Y must be an array, DataFrame or sparse matrix of samples by features, got"
            f" {type(Y).__name__}; chunks of rows can be compared on a given hierarchy, by BIC or"
            " AIC"
        ) from None
    return N, n


def _check_choice(value, choices, name):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_fit_options(options):
    if isinstance(options.get("init"), MLR):
        raise ValueError("init must not be an operator: it has ranks of its own")
    single = [name for name in ("checkpoint", "resume") if options.get(name)]
    if single:
        raise ValueError(f"{name_some(single)}: an option of one fit, not of a choice among many")


def _check_candidates(candidates, hierarchy):
    candidates = list(candidates)
    if not candidates:
        raise ValueError("candidates must hold at least one rank vector, got none")
    checked = []
    for i, ranks in enumerate(candidates):
        try:
            ranks = check_ranks(ranks, hierarchy)
        except (TypeError, ValueError) as error:
            raise type(error)(f"candidates[{i}]: {error}") from None
        if max(ranks) > hierarchy.n:
            raise ValueError(
                f"candidates[{i}]: no rank may exceed hierarchy.n = {hierarchy.n}, got {ranks}")
        checked.append(ranks)
    return list(dict.fromkeys(checked))


def _check_budget(hierarchy, how):
    """Largest rank of each level and in total."""
    n, L = hierarchy.n, hierarchy.n_levels
    max_rank, total_rank, max_storage = how.max_rank, how.total_rank, how.max_storage
    limits = useful_ranks(hierarchy)
    if max_rank is not None:
        limits = [int(hierarchy.group_sizes(level).max()) - 1 for level in range(L)]
        wanted = check_ranks((max_rank,) * L if np.ndim(max_rank) == 0 else max_rank, hierarchy)
        limits = list(map(min, limits, wanted))
    if total_rank is not None and max_storage is not None:
        raise ValueError("give total_rank or max_storage, not both")
    if how.exact and total_rank is None and max_storage is None:
        raise ValueError("exact=True needs total_rank or max_storage, the budget to use up")
    total = sum(limits)
    if total_rank is not None:
        wanted = check_rank(total_rank, "total_rank")
    elif max_storage is not None:
        wanted = check_rank(max_storage, "max_storage") // n - 1
        if wanted < 0:
            raise ValueError(
                f"max_storage must leave room for the {counted(n, 'entry')} of D, got"
                f" {max_storage}")
    else:
        return limits, total
    if how.exact and wanted > total:
        raise ValueError(
            f"a total rank of {wanted} cannot be used up: the levels hold ranks up to"
            f" {tuple(limits)}, {total} in all"
        )
    return limits, min(wanted, total)


def _check_carried(most, total, exact):
    """The largest total rank that the data carry, too."""
    if exact and total > most:
        raise ValueError(f"a total rank of {total} cannot be used up: the rows carry"
                         f" {counted(most, 'factor')} at most")
    return min(total, most)


def _check_start(start, hierarchy, limits, total):
    if start is None:
        return (0,) * hierarchy.n_levels
    start = check_ranks(start, hierarchy)
    if sum(start) > total or any(map(operator.gt, start, limits)):
        raise ValueError(
            f"start must lie within ranks {tuple(limits)} and total rank {total}, got {start}")
    return start
