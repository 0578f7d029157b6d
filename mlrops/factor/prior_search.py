"""The strength of a prior on the variances D by cross-validation: ``prior="cv"``."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._common.convergence import ConvergenceWarning
from .._common.given import read_given
from .._common.jobs import Jobs
from .._common.progress import progress_bar
from .._common.typing import FloatArray, IntArray
from .._common.validate import as_generator
from .._common.warned import kept_warnings, pass_on
from ..operators.mlr import check_ranks
from ..tree.hierarchy import Hierarchy
from ..tree.reading import tree_of
from .estep.chunks import check_features
from .folds import make_folds, naming_part
from .limits import too_few_samples
from .rows import Rows, rows_of

__all__ = ["PriorRecord", "search_prior"]

# Strengths, in pseudo-samples for each factor that a feature sees, strongest first; 0 is no prior.
GRID = 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 1 / 16, 0.0
FOLDS = 5
# `tol` of the fits to folds where the user gives none: enough to tell strengths apart by hundredths
# of a nat, in half the time.
ROUGH = 1e-5
ADVICE = "give the prior a strength, or True, in place of \"cv\""


class PriorRecord(NamedTuple):
    """One strength of the prior with its held-out log-likelihood; an entry of ``prior_table``.

    Attributes
    ----------
    strength : float
        Pseudo-samples; 0 is no prior.
    cv_mean : float
        Held-out log-likelihood a sample, mean over folds.
    cv_se : float
        Standard error of its difference from the best strength's, fold by fold; 0 for the best.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(20, 2, n_samples=12, random_state=0).Y
    >>> fit = fit_factor_model(Y, 2, prior="cv")
    >>> fit.prior in [record.strength for record in fit.prior_table]
    True
    """

    strength: float
    cv_mean: float
    cv_se: float


def search_prior(fit: Callable[..., Any], Y: Any, ranks: Any, hierarchy: Any, weights: Any,
                 options: dict[str, Any], progress: bool, jobs: Jobs
                 ) -> tuple[float, FloatArray]:
    """The strength that predicts held-out samples best, and the table of all strengths.

    The samples are cut into contiguous parts, because neighbours in time are alike; each is held
    out in turn.  The strongest prior is fitted to the rest first and each weaker one starts from
    the fit before it.  Of strengths within one standard error of the best the strongest is chosen.
    The error is that of the difference to the best: how much folds differ does not count.  `fit` is
    `fit_factor_model`, and `options` are those of all fits.  Folds are tasks of `jobs`.
    """
    given = read_given(Y, weights, peek=False)
    if given.kind in ("disk", "chunks"):
        kind = "data on disk" if given.kind == "disk" else "chunks of rows"
        raise ValueError(f'prior="cv" holds out rows of data in memory, got {kind}; {ADVICE}')
    hierarchy = tree_of(hierarchy, given.names, given.n)
    check_features(given.values.shape, hierarchy)
    rows = rows_of(given)
    level_ranks = check_ranks(ranks, hierarchy)
    kept = np.flatnonzero(rows.counted_in(options["missing"]))
    if kept.size < 3:
        raise ValueError(f'prior="cv" needs 3 samples or more, got {kept.size}; {ADVICE}')
    folds = [(kept[train], kept[test]) for train, test in make_folds(
        None, min(FOLDS, kept.size), False, kept.size, np.random.default_rng(0))]
    strengths = _strengths(hierarchy, level_ranks, folds, options["center"])
    options = options | {"tol": ROUGH if options["tol"] is None else options["tol"]}
    seeds = as_generator(options.pop("random_state")).integers(2**63, size=len(folds))
    search = _Search(fit, rows, level_ranks, hierarchy, options, folds, strengths)
    scores, unconverged, here = np.empty((len(folds), len(strengths))), 0, jobs.here
    with progress_bar(total=scores.size, desc="prior", disable=not progress) as bar:
        tasks = ((k, int(seed), bar.update if here else None) for k, seed in enumerate(seeds))
        for k, (_, (held_out, failed)) in enumerate(jobs.run(search.fold, tasks)):
            scores[k] = held_out
            unconverged += failed
            bar.update(0 if here else len(strengths))
    if unconverged:
        warnings.warn(
            f"of {scores.size} fits to parts of the samples, by which the prior is chosen,"
            f" {unconverged} did not converge; raise max_iter or tol", ConvergenceWarning,
            stacklevel=5)
    table = compare(strengths, scores)
    return choose(table), table


class _Search(NamedTuple):
    """What the folds have in common."""

    fit: Callable[..., Any]
    rows: Rows
    ranks: tuple[int, ...]
    hierarchy: Hierarchy
    options: dict[str, Any]
    folds: Sequence[tuple[IntArray, IntArray]]
    strengths: Sequence[float]

    def fold(self, k: int, seed: int, tick: Callable[[], object] | None = None
             ) -> tuple[list[float], int]:
        """What each strength scores on the samples held out, and how many fits did not converge."""
        scores, unconverged = [], 0
        (train, test), warm = self.folds[k], self.options | {"random_state": seed}
        for strength in self.strengths:
            Y, weights = self.rows.part(train)
            with naming_part(f"the {train.size} samples outside fold {k}, of"
                             f" {train.size + test.size}, cannot be fitted", ADVICE):
                found = _quiet(self.fit, Y, self.ranks, self.hierarchy, prior=strength, **warm,
                               **weights)
            if found.termination == "interrupted":
                raise KeyboardInterrupt
            unconverged += not found.converged
            scores.append(self.rows.score(found, test))
            warm |= {"init": found.covariance, "n_init": 1}
            if tick is not None:
                tick()
        return scores, unconverged


def choose(table: FloatArray) -> float:
    """The strongest prior within one standard error of the best."""
    strength, mean, error = table.T
    return float(strength[mean >= mean.max() - error].max())


def _strengths(hierarchy: Hierarchy, ranks: tuple[int, ...],
               folds: Sequence[tuple[IntArray, IntArray]], center: bool) -> list[float]:
    """The strengths to compare, strongest first: 0 only where the likelihood has a maximum."""
    fewest = min(train.size for train, _ in folds)
    bounded = too_few_samples(hierarchy, ranks, fewest, center) is None
    return [share * max(sum(ranks), 1) for share in GRID if share or bounded]


def _quiet(fit: Callable[..., Any], *data: Any, **options: Any) -> Any:
    """A fit whose warnings of convergence are not for the user."""
    with kept_warnings() as kept:
        found = fit(*data, **options)
    pass_on(kept, but=ConvergenceWarning)
    return found


def compare(strengths: Sequence[float], scores: FloatArray) -> FloatArray:
    """Strengths, means over folds, and standard errors of their differences from the best."""
    means = scores.mean(axis=0)
    less = scores[:, [means.argmax()]] - scores
    return np.stack([strengths, means, less.std(axis=0, ddof=1) / math.sqrt(len(scores))], axis=1)
