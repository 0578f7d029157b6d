"""The choice among candidate ranks: a list, all of a grid, or a greedy walk from fit to fit.

`select_ranks` and `select_sur_ranks` share all of it.  They differ in the model, which they hand
over as `RankedFits`.
"""

import itertools
import math
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._common.convergence import ConvergenceWarning, UnboundedWarning
from .._common.frames import is_frame, is_series
from .._common.jobs import Jobs
from .._common.progress import progress_bar
from .._common.typing import IntArray, Ranks
from .._common.validate import check_rank
from .._common.warned import kept_warnings, pass_on
from .._common.wording import counted, name_some
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from .folds import make_folds, naming_part
from .limits import useful_ranks
from .rank_table import CRITERIA, RankRecord, RankSelection, merit
from .usable import capped_groups

__all__ = ["RankOptions", "RankedFits", "choose_ranks", "in_new_order", "order_in_errors"]

# Share of the samples' dimensions that factors may take unless the user names a budget: with N = 8
# of 40 features that have one factor, BIC falls to the last rank, at half of the dimensions, too.
DEFAULT_SHARE = 0.25
STRATEGIES = ("greedy", "grid")
NEW_ORDER = "; arguments stand in the order data, candidates, hierarchy"


class RankOptions(NamedTuple):
    """The options of a choice of ranks; see `select_ranks`."""

    candidates: Sequence[Ranks] | None = None
    criterion: str = "bic"
    strategy: str = "greedy"
    max_rank: Ranks | None = None
    total_rank: int | None = None
    max_storage: int | None = None
    exact: bool = False
    start: Ranks | None = None
    n_folds: int = 5
    shuffle: bool = True
    folds: Any = None
    one_standard_error: bool = False
    refit: bool = True
    progress: bool = False
    n_jobs: int | None = None

    @property
    def generating(self) -> list[str]:
        """Names of the options given that say how candidates are generated."""
        names = "max_rank", "total_rank", "max_storage", "start", "exact"
        return [name for name in names if getattr(self, name) is not None
                and getattr(self, name) is not False]

    @property
    def greedy(self) -> bool:
        """Whether one candidate leads to the next."""
        return self.candidates is None and self.strategy == "greedy"


class RankedFits(Protocol):
    """Fits of one model to rows of its data, with various ranks.

    `fit` takes some rows, or all for None, perhaps starts from a neighbour's fit, and draws from
    `rng`; `score` is the average log-likelihood of rows left out of it.  `refusal` is why some rows
    have no maximum of the likelihood, or None; a share below 1 asks for so many rows more.  No
    total rank above `largest_total` is generated for rows to train on.  `n_rows` is asked for where
    folds are cut.  `ready` computes what fits to all rows share, before they go to workers.
    """

    hierarchy: Hierarchy
    row_labels: Any = None
    is_bounded: bool = False  # whether a prior gives what is climbed a maximum, whatever the ranks

    def n_rows(self) -> int: ...
    def fit(self, ranks: tuple[int, ...], rows: IntArray | None, near: Any,
            rng: np.random.Generator) -> Any: ...

    def score(self, fit: Any, rows: IntArray) -> float: ...
    def degrees_of_freedom(self, ranks: tuple[int, ...]) -> int: ...
    def n_samples(self, fit: Any) -> int: ...
    def ready(self) -> None: ...

    def jobs(self, n_jobs: int | None) -> Jobs:
        return Jobs(n_jobs)

    def refusal(self, ranks: tuple[int, ...], rows: IntArray | None, share: float) -> str | None:
        return None

    def largest_total(self, parts: Sequence[IntArray | None]) -> float:
        return math.inf


class Part(NamedTuple):
    """Rows to train on and to test on, and their name in errors."""

    train: IntArray | None = None  # all of them
    test: IntArray | None = None  # none
    name: str = ""

    @property
    def within(self) -> str:
        return f"in the training part of {self.name} " if self.name else ""


class PartFits(NamedTuple):
    """The tasks of a search, which do not depend on one another: candidates on parts of the rows.

    Random numbers belong to a candidate and a part, whenever and wherever it is fitted.
    """

    model: RankedFits
    parts: list[Part]
    seed: int

    def fit(self, ranks: tuple[int, ...], k: int, near: Any) -> tuple[Any, str, float]:
        """The fit, why it has no maximum ("" where it has), and its held-out likelihood or NaN."""
        part, rng = self.parts[k], np.random.default_rng([self.seed, k, *ranks])
        what = (nullcontext() if part.train is None else naming_part(
            f"the {part.train.size} training samples of {part.name} cannot be fitted"))
        with what, kept_warnings() as kept:
            fit = self.model.fit(ranks, part.train, near, rng)
        pass_on(kept, but=ConvergenceWarning)
        if fit.termination == "interrupted":  # not a fit to be compared with others
            raise KeyboardInterrupt
        refused = "".join(str(warned.message) for warned in kept
                          if issubclass(warned.category, UnboundedWarning))
        if refused or part.test is None:
            return fit, refused and part.within + refused, math.nan
        with naming_part(f"the test samples of {part.name} cannot be scored"):
            return fit, "", self.model.score(fit, part.test)


def in_new_order(function: str, candidates: Any, hierarchy: Any,
                 stacklevel: int = 3) -> tuple[Any, Any]:
    """Candidates and hierarchy, which stood the other way round in version 0.1."""
    if _names_features(candidates):
        warnings.warn(f"{function}(data, hierarchy, candidates) is {function}(data, candidates,"
                      " hierarchy) since version 0.2.0; the old order goes in 0.3.0",
                      DeprecationWarning, stacklevel=stacklevel)
        return hierarchy, candidates
    if isinstance(hierarchy, range):
        raise TypeError(f"hierarchy must be a Hierarchy or labels, got {hierarchy!r}{NEW_ORDER}")
    return candidates, hierarchy


def _names_features(x):
    """Whether this is a tree, or labels by name: then it cannot be a list of candidates."""
    return isinstance(x, Hierarchy | Mapping) or is_frame(x) or is_series(x)


@contextmanager
def order_in_errors(given: Any) -> Iterator[None]:
    """Add the order of arguments to errors about a plain list, which may stand in a wrong place."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if given is None or _names_features(given):
            raise
        raise type(error)(f"{error}{NEW_ORDER}") from None


def choose_ranks(fits: RankedFits, options: RankOptions, rng: np.random.Generator,
                 stacklevel: int = 4) -> RankSelection:
    """`select_ranks` for whatever is fitted; warnings point `stacklevel` calls up."""
    for name, choices in (("criterion", CRITERIA), ("strategy", STRATEGIES)):
        if getattr(options, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got"
                             f" {getattr(options, name)!r}")
    jobs = fits.jobs(options.n_jobs)
    parts = _parts(fits, options, rng)
    budget = None if options.candidates is not None else _budget(fits, options, parts)
    search = Search(fits, options, parts, budget, jobs, rng)
    candidates = search.candidates()
    if parts[0].train is None:
        fits.ready()
    with progress_bar(total=None if options.greedy else len(candidates), desc="ranks",
              disable=not options.progress) as search.bar:
        best = search.best_of(candidates)
        if options.greedy:
            search.climb(best)
    ranks = search.chosen()
    if ranks is None:
        raise ValueError(search.why_none())
    search.warn(stacklevel)
    return RankSelection(ranks, options.criterion, search.eligible(),
                         search.fits[ranks][0] if options.refit else None,
                         bool(options.one_standard_error))


def _parts(fits, options, rng):
    """All rows, and the folds: each candidate is fitted to each of these parts."""
    folds = []
    if options.criterion == "cv":
        pairs = make_folds(options.folds, options.n_folds, options.shuffle, fits.n_rows(), rng,
                           fits.row_labels)
        folds = [Part(*pair, f"fold {k}") for k, pair in enumerate(pairs)]
    if options.one_standard_error and len(folds) < 2:
        raise ValueError(
            'one_standard_error needs criterion="cv" and 2 folds or more to estimate it from')
    return [Part(), *folds] if options.refit or not folds else folds


class Search:
    """Fits candidates, each once, and keeps the fits that may be asked for again."""

    def __init__(self, model, options, parts, budget, jobs, rng):
        self.model, self.options, self.parts, self.budget = model, options, parts, budget
        self.jobs, self.tasks = jobs, PartFits(model, parts, int(rng.integers(2**63)))
        unbounded = options.candidates is None and not options.generating
        # Held-out samples and a prior need no further limit.
        is_safe = options.criterion == "cv" and model.is_bounded
        self.share = DEFAULT_SHARE if unbounded and not is_safe else 1.0
        self.bar = progress_bar(disable=True)
        self.records, self.fits = {}, {}  # by ranks
        self.n_fits, self.unconverged, self.at_floor, self.refused = 0, [], [], []

    # ---------------------------------------------------------------- candidates

    def candidates(self):
        """The list, or the grid, or where the greedy walk starts."""
        options = self.options
        if options.candidates is not None:
            if options.generating:
                raise ValueError(
                    f"{name_some(options.generating)} generate candidates; candidates are given")
            listed = _check_candidates(options.candidates, self.model.hierarchy)
            for i, ranks in enumerate(listed):
                self._check(ranks, f"candidates[{i}]: ")
            return listed
        if options.greedy:
            start = self.budget.check_start(options.start, self.model.hierarchy)
            self._check(start, "start: ")
            return [start]
        if not {"max_rank", "total_rank", "max_storage"} & set(options.generating):
            raise ValueError(
                'strategy="grid" needs max_rank, total_rank or max_storage to be finite')
        if options.start is not None:
            raise ValueError('start is where strategy="greedy" starts, not a grid')
        grid = self.budget.grid()
        candidates = [ranks for ranks in grid if self._refusal(ranks) is None]
        if grid and not candidates:
            self._check(grid[0])
        return candidates

    def _refusal(self, ranks):
        """Why the likelihood of some training part has no maximum, or None."""
        for part in self.parts:
            reason = self.model.refusal(ranks, part.train, self.share)
            if reason is not None:
                return part.within + reason
        return None

    def _check(self, ranks, what=""):
        reason = self._refusal(ranks)
        if reason is not None:
            raise ValueError(f"{what}{reason}; lower the ranks")

    def best_of(self, candidates, parent=None):
        """Fit those candidates that are allowed, from the fits of `parent`; the best of them."""
        best, allowed = None, [ranks for ranks in candidates if self._refusal(ranks) is None]
        found = self._found([ranks for ranks in allowed if ranks not in self.records], parent)
        for ranks in allowed:
            if ranks not in self.records:
                self._evaluate(ranks, next(found)[1])
            if best is None or self._merit(ranks) < self._merit(best):
                best = ranks
            # Nothing starts from other fits; by the one-standard-error rule any may win late.
            kept = {parent, best, self.chosen()}
            self.fits = {r: fits if r in kept else fits[:1] for r, fits in self.fits.items()
                         if r in kept or self.options.one_standard_error}
        return best

    def climb(self, current):
        """Add, drop or move one factor at a time as long as the criterion falls."""
        while True:
            forced = self.budget.exact and sum(current) < self.budget.total
            for candidates in self.budget.moves(current):
                best = self.best_of(candidates, current)
                if best is not None and (forced or self._merit(best) < self._merit(current)):
                    current = best
                    break
            else:
                return

    # ---------------------------------------------------------------- records

    def _merit(self, ranks):
        return merit(self.records[ranks], self.options.criterion)

    def eligible(self):
        """Records of the candidates that may be chosen."""
        total = self.budget.total if self.options.exact else None
        return [record for record in self.records.values() if total in (None, sum(record.ranks))]

    def chosen(self):
        """Ranks that the criterion chooses of the candidates seen so far."""
        records = self.eligible()
        best = min(records, key=lambda record: merit(record, self.options.criterion), default=None)
        if best is None or best.refused:
            return None
        if not self.options.one_standard_error:
            return best.ranks
        within = [record for record in records if record.cv_mean >= best.cv_mean - best.cv_se]
        return min(within, key=lambda record: (record.df, -record.cv_mean)).ranks

    def why_none(self):
        """Why no candidate can be chosen."""
        records = self.eligible()
        if not records:
            return (f"no split of a total rank of {self.budget.total} can be reached whose"
                    " likelihood has a maximum; lower it")
        return (f"{counted(len(records), 'candidate')}, and all of them refused: with ranks"
                f" {records[0].ranks} {records[0].refused}")

    # ---------------------------------------------------------------- one candidate

    def _found(self, fresh, parent):
        """What came of the tasks of new candidates, which start from the fits of `parent`."""
        near = self.fits.get(parent, [])
        tasks = ((ranks, k, near[k] if k < len(near) else None)
                 for ranks in fresh for k in range(len(self.parts)))
        # Once a part has no maximum, the others of that candidate are not asked for.
        outcomes = self.jobs.run(self.tasks.fit, tasks,
                                 wanted=lambda ranks, *_: ranks not in self.refused)
        return itertools.groupby(outcomes, key=lambda outcome: outcome[0][0])

    def _evaluate(self, ranks, outcomes):
        fits, held_out, refused = [], [], ""
        for (_, k, _), (fit, refused, score) in outcomes:
            fits.append(fit)
            self._count(ranks, fit, refused)
            if self.parts[k].test is not None:
                held_out.append(score)
        self.fits[ranks] = fits
        self.records[ranks] = self._record(ranks, fits, held_out, refused)
        self.bar.update()
        self.bar.set_postfix(ranks=ranks, best=self.chosen(), refresh=False)

    def _count(self, ranks, fit, refused):
        self.n_fits += 1
        if not fit.converged:
            self.unconverged.append(ranks)
        if refused:
            self.refused.append(ranks)
        elif len(fit.boundary):
            self.at_floor.append(ranks)

    def _record(self, ranks, fits, held_out, refused):
        h, n_folds = self.model.hierarchy, 0 if refused else len(held_out)
        df = self.model.degrees_of_freedom(ranks)
        loglik = aic = bic = math.nan
        if self.parts[0].train is None and not refused:
            loglik, n_samples = fits[0].loglik, self.model.n_samples(fits[0])
            aic = -2 * n_samples * loglik + 2 * df
            bic = -2 * n_samples * loglik + df * math.log(n_samples)
        return RankRecord(
            ranks=ranks, storage=h.n * (sum(ranks) + 1), df=df, loglik=loglik, aic=aic, bic=bic,
            cv_mean=float(np.mean(held_out)) if n_folds else math.nan,
            cv_se=(float(np.std(held_out, ddof=1) / math.sqrt(n_folds)) if n_folds > 1
                   else math.nan),
            n_iter=sum(fit.n_iter for fit in fits), converged=all(fit.converged for fit in fits),
            n_capped=len(capped_groups(h, ranks)),
            refused=refused)

    def warn(self, stacklevel):
        """One warning for all fits."""
        kinds = ((self.unconverged, "did not converge (raise max_iter or tol)"),
                 (self.at_floor, "ended with variances at the floor (Heywood cases)"),
                 (self.refused, "have a likelihood without a maximum (refused)"))
        parts = [f"{len(ranks)} {what}: ranks {name_some(dict.fromkeys(ranks))}"
                 for ranks, what in kinds if ranks]
        if parts:
            warnings.warn(f"of {counted(self.n_fits, 'fit')}, {'; '.join(parts)}",
                          ConvergenceWarning, stacklevel=stacklevel)


def _check_candidates(candidates: Iterable[Ranks], hierarchy: Hierarchy) -> list[tuple[int, ...]]:
    candidates = list(candidates)
    if not candidates:
        raise ValueError("candidates must hold at least one rank vector, got none")
    checked = []
    for i, ranks in enumerate(candidates):
        try:
            ranks = check_ranks(ranks, hierarchy)
        except (TypeError, ValueError) as error:
            raise type(error)(f"candidates[{i}]: {error}{NEW_ORDER}") from None
        if max(ranks) > hierarchy.n:
            raise ValueError(
                f"candidates[{i}]: no rank may exceed hierarchy.n = {hierarchy.n}, got {ranks}")
        checked.append(ranks)
    return list(dict.fromkeys(checked))


# ---------------------------------------------------------------- what may be generated


class Budget(NamedTuple):
    """How far candidates may go."""

    limits: list[int]  # largest rank of each level
    total: int  # largest total rank
    exact: bool  # whether the total has to be used up

    def check_start(self, start: Ranks | None, hierarchy: Hierarchy) -> tuple[int, ...]:
        """Where the greedy walk starts."""
        if start is None:
            return (0,) * len(self.limits)
        ranks: tuple[int, ...] = check_ranks(start, hierarchy)
        if sum(ranks) > self.total or any(map(operator.gt, ranks, self.limits)):
            raise ValueError(f"start must lie within ranks {tuple(self.limits)} and total rank"
                             f" {self.total}, got {ranks}")
        return ranks

    def moves(self, ranks: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
        """One factor more at some level; where that does not help, one moved, or one less."""
        def step(up=None, down=None):
            return tuple(r + (level == up) - (level == down) for level, r in enumerate(ranks))

        left = sum(ranks) < self.total
        lower = [level for level, r in enumerate(ranks) if r > 0]
        higher = [level for level, r in enumerate(ranks) if r < self.limits[level]]
        more = [step(up) for up in higher] if left else []
        if self.exact and left:
            return [more]
        moved = [step(up, down) for down in lower for up in higher if up != down]
        return [more, moved + ([] if self.exact else [step(down=down) for down in lower])]

    def grid(self) -> list[tuple[int, ...]]:
        """All rank vectors within the budget, smallest total first."""
        def splits(limits, total):
            if len(limits) == 1:
                return [(total,)] if total <= limits[0] else []
            return [(r, *rest) for r in range(min(limits[0], total) + 1)
                    for rest in splits(limits[1:], total - r)]

        totals = [self.total] if self.exact else range(self.total + 1)
        return [ranks for total in totals for ranks in splits(self.limits, total)]


def _budget(fits, options, parts):
    """The `Budget` that options and data leave."""
    h = fits.hierarchy
    n, L, limits = h.n, h.n_levels, useful_ranks(h)
    if options.max_rank is not None:
        wanted = options.max_rank
        wanted = check_ranks((wanted,) * L if np.ndim(wanted) == 0 else wanted, h)
        limits = [min(int(h.group_sizes(level).max()) - 1, r) for level, r in enumerate(wanted)]
    if options.total_rank is not None and options.max_storage is not None:
        raise ValueError("give total_rank or max_storage, not both")
    total = asked = sum(limits)
    if options.total_rank is not None:
        asked = check_rank(options.total_rank, "total_rank")
    elif options.max_storage is not None:
        asked = check_rank(options.max_storage, "max_storage") // n - 1
        if asked < 0:
            raise ValueError(f"max_storage must leave room for the {counted(n, 'entry')} of D, got"
                             f" {options.max_storage}")
    elif options.exact:
        raise ValueError("exact=True needs total_rank or max_storage, the budget to use up")
    if options.exact and asked > total:
        raise ValueError(f"a total rank of {asked} cannot be used up: the levels hold ranks up to"
                         f" {tuple(limits)}, {total} in all")
    total = min(asked, total)
    largest = fits.largest_total([part.train for part in parts])
    if options.exact and total > largest:
        raise ValueError(f"a total rank of {total} cannot be used up: the rows carry"
                         f" {counted(largest, 'factor')} at most")
    return Budget(limits, min(total, largest), bool(options.exact))
