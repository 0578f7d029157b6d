"""`select_ranks`: ranks by information criteria or held-out likelihood."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._common.cached import cached_property
from .._common.cluster import is_dask
from .._common.given import read_given
from .._common.jobs import Jobs
from .._common.typing import Criterion, Data, Labels, RandomState, Ranks, Strategy
from .._common.wording import name_some
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from ..tree.reading import tree_of
from .criteria import degrees_of_freedom
from .estep.sources import Opened, open_source
from .factor_model import fit_factor_model
from .limits import too_few_samples
from .prior import has_prior
from .rank_search import RankedFits, RankOptions, choose_ranks, in_new_order, order_in_errors
from .rank_table import CRITERIA, RankRecord, RankSelection
from .rows import rows_of

__all__ = ["CRITERIA", "RankOptions", "RankRecord", "RankSelection", "select_ranks"]


def select_ranks(Y: Data | Any, candidates: Sequence[Ranks] | None = None,
                 hierarchy: Hierarchy | Labels | None = None, *, criterion: Criterion = "bic",
                 strategy: Strategy = "greedy", max_rank: Ranks | None = None,
                 total_rank: int | None = None, max_storage: int | None = None,
                 exact: bool = False, start: Ranks | None = None, n_folds: int = 5,
                 shuffle: bool = True, folds: Any = None, one_standard_error: bool = False,
                 refit: bool = True, n_jobs: int | None = None, progress: bool = False,
                 random_state: RandomState = None, **fit_options: Any) -> RankSelection:
    r"""Choose the ranks of `fit_factor_model` by BIC, AIC or held-out likelihood.

    Candidates are listed, or generated under a budget: all of them (``strategy="grid"``) or by a
    greedy search over the levels.

    Parameters
    ----------
    Y : array_like, DataFrame or sparse matrix, shape (N, n)
        Data, one sample a row, also on disk.  With a hierarchy, BIC and AIC take whatever
        `fit_factor_model` takes; held-out likelihood takes data whose rows can be selected, and
        reads those on disk whole for each fit: it gives the samples left out the weight 0.
    candidates : sequence of (sequence of int), optional
        Rank vectors to compare, coarsest level first; for one level also plain numbers, such as
        ``range(10)``.  Excludes the options that generate candidates.
    hierarchy : Hierarchy or labels, optional
        Tree of the features, as in `fit_factor_model`; default one level with one group.
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
    n_jobs : int, optional
        How many fits run at a time, each in a worker of joblib: -1 is one for each core, None is
        one unless a `joblib.parallel_config` around the call says otherwise.  The result is the
        same, see the notes of `fit_factor_model`.  It is for candidates that do not start from one
        another's fits, and for folds; a callback and data of dask need one at a time.
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
        Once, with the numbers of fits that did not converge, that have variances at the floor, and
        whose likelihood has no maximum.

    Notes
    -----
    *Degrees of freedom* are counted with rotations out, level by level; a group smaller than its
    rank counts as many factors as it can have, at all levels at which it stands together, and is
    counted in the table (``n_capped``).

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

    *Fewer samples than features.*  Choose ranks by ``criterion="cv"`` with ``prior=True``.  With
    a prior there is a maximum whatever the ranks, so no candidate is refused; held-out samples say
    what they are worth, and generated ones go up to the dimensions that the training samples have,
    since further factors would be zeros.  BIC at the bare maximum is of no use there: on six times
    20 months of 30 returns, ranks up to (8, 4, 2), it comes to -13,694 nats a held-out month, this
    to -76 (``tests/benchmarks/test_prior_held_out.py``).  ``prior="cv"`` chooses a strength for
    every candidate, about 45 fits each.

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
    >>> selection = select_ranks(sim.Y, hierarchy=h, random_state=0)
    >>> selection.ranks, selection.fit.covariance.ranks
    ((2, 1), (2, 1))
    >>> splits = select_ranks(sim.Y, hierarchy=h, total_rank=3, exact=True, strategy="grid",
    ...                       criterion="cv")
    >>> [record.ranks for record in splits.table], splits.ranks
    ([(0, 3), (1, 2), (2, 1), (3, 0)], (2, 1))
    """
    candidates, hierarchy = in_new_order("select_ranks", candidates, hierarchy)
    options = RankOptions(
        candidates, criterion, strategy, max_rank, total_rank, max_storage, exact, start, n_folds,
        shuffle, folds, one_standard_error, refit, progress, n_jobs)
    rng = np.random.default_rng(random_state)
    return choose_ranks(FactorFits(Y, hierarchy, fit_options), options, rng)


class FactorFits(RankedFits):
    """Fits of factor models to rows of Y, with options of `fit_factor_model`.

    Data, tree and weights are checked and matched by name when the object is made.  From then on
    names are those of the hierarchy, and masked cells are NaN.
    """

    def __init__(self, Y, hierarchy, options):
        if isinstance(options.get("init"), MLR):
            raise ValueError("init must not be an operator: it has ranks of its own")
        single = [name for name in ("checkpoint", "resume") if options.get(name)]
        if single:
            raise ValueError(
                f"{name_some(single)}: an option of one fit, not of a choice among many")
        given = read_given(Y, options.get("sample_weight"), peek=False)
        self._Y, self._is_chunks, self._rows = given.values, given.kind == "chunks", rows_of(given)
        self._options, self.row_labels = options, given.labels
        self.is_bounded = has_prior(options.get("prior"))
        if not self._is_chunks:
            with order_in_errors(hierarchy):
                hierarchy = tree_of(hierarchy, given.names, given.n)
        elif not isinstance(hierarchy, Hierarchy):
            self.n_rows()  # says that chunks need one
        self.hierarchy = hierarchy

    def n_rows(self):
        try:
            return self._rows.number
        except (TypeError, AttributeError, ValueError):
            if is_dask(self._Y):
                raise
            raise ValueError(
                "Y must be an array, DataFrame or sparse matrix of samples by features, got"
                f" {type(self._Y).__name__}; chunks of rows can be compared on a given hierarchy,"
                " by BIC or AIC") from None

    @cached_property
    def _opened(self):
        """All samples, read, checked and compressed once for all ranks.

        Chunks are left as they are, and samples of which each fit holds out some, too.
        """
        if self._is_chunks or self._options.get("prior") == "cv":
            return self._Y
        given = {"center": True, "missing": "raise", "compress": None} | self._options
        return Opened(*open_source(self._Y, self.hierarchy, given["center"], given["missing"],
                                   self._rows.weights, given["compress"]))

    def jobs(self, n_jobs):
        return Jobs(n_jobs, callback=self._options.get("callback"), data=self._Y)

    def ready(self):
        _ = self._opened

    def fit(self, ranks, rows, near, rng):
        Y, weights = ((self._opened, self._rows.weights_of_all()) if rows is None else
                      self._rows.part(rows))
        options = self._options | weights
        # A neighbour's fit has seen the rows that a search for the prior holds out.
        own_start = {"init", "n_init"} & options.keys() or options.get("prior") == "cv"
        if near is not None and not own_start:
            options["init"] = _beside(near, ranks, rng)
        return fit_factor_model(Y, ranks, self.hierarchy, random_state=rng, **options)

    def score(self, fit, rows):
        return self._rows.score(fit, rows)

    def degrees_of_freedom(self, ranks):
        return degrees_of_freedom(self.hierarchy, ranks, mean=self._options.get("center", True))

    def refusal(self, ranks, rows=None, share=1.0):
        if self._is_chunks or self.is_bounded and share == 1:
            return None
        center = self._options.get("center", True)
        return too_few_samples(self.hierarchy, ranks, self._n_counted(rows), center, share)

    def largest_total(self, parts):
        """With a prior, the dimensions that samples have: further factors would be zeros."""
        if self._is_chunks or not self.is_bounded:
            return math.inf
        fewest = min(map(self._n_counted, parts))
        return max(fewest - bool(self._options.get("center", True)), 0)

    def _n_counted(self, rows):
        """How many samples have a cell and a positive weight."""
        counted_in = self._counted_in
        return int(np.count_nonzero(counted_in if rows is None else counted_in[rows]))

    @cached_property
    def _counted_in(self):
        return self._rows.counted_in(self._options.get("missing", "raise"))

    def n_samples(self, fit):
        return fit.n_samples


def _beside(fit, ranks, rng):
    """A start with the given ranks near a fit with other ones; see the notes of `select_ranks`.

    Axes are those of the correlations, which do not depend on units.
    """
    h, sd = fit.covariance.hierarchy, np.sqrt(fit.covariance.diagonal().astype(float))
    near, factors = fit.correlation.principal(), []
    for level, (F, r) in enumerate(zip(near.factors, ranks, strict=True)):
        sizes = h.group_sizes(level)[h.labels(level)]
        new = rng.standard_normal((h.n, max(r - F.shape[1], 0)))
        new *= np.sqrt(near.D / sizes)[:, None]
        factors.append(np.concatenate([F[:, :r], new], axis=1) * sd[:, None])
    return MLR(h, factors, near.D * sd**2)
