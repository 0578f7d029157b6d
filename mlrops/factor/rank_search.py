"""Trying candidate ranks: all of a grid, or a greedy walk from fit to fit.

What is fitted is an object with

``hierarchy``
    the tree of the features (or equations);
``fit(ranks, rows, near)``
    the fit to some rows, or to all for None, perhaps starting from the fit of a neighbour;
``score(fit, rows)``
    the average held-out log-likelihood of rows;
``degrees_of_freedom(ranks)`` and ``n_samples(fit)``
    for information criteria;
``refusal(ranks, rows, share)``
    why these rows have no maximum of the likelihood, or None; a share below 1 asks for so many
    rows more.
"""

import itertools
import math
import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse

from .._common.cached import cached_property
from .._common.convergence import ConvergenceWarning, UnboundedWarning
from .._common.given import as_array, is_chunks
from .._common.wording import counted, name_some
from ..operators.mlr import MLR
from .conditional import loglik_samples
from .criteria import degrees_of_freedom
from .factor_model import fit_factor_model
from .folds import take_rows
from .limits import too_few_samples

__all__ = ["WHOLE", "FactorFits", "RankRecord", "Search", "greedy", "grid", "merit"]

WHOLE = (None, None)  # all samples to train on, none to test on
BLOCK = 1000  # samples scored at a time


class RankRecord(NamedTuple):
    """What is known of one candidate; a row of ``RankSelection.table``.

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
        Groups with fewer features than their level's rank.
    refused : str
        Why it cannot be chosen: one of its fits has a likelihood without a maximum.  Empty where
        it can; else NaN stands for its likelihoods, which are what the floor of D makes them.

    Examples
    --------
    >>> from mlrops import select_ranks
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(8, 1, n_samples=100, random_state=0).Y
    >>> record = select_ranks(Y, candidates=[1]).table[0]
    >>> record.ranks, record.storage, record.df
    ((1,), 16, 24)
    """

    ranks: tuple
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


def merit(record, criterion):
    """What is smallest for the best candidate; of equals, that with fewer parameters."""
    if record.refused:
        return math.inf, record.df
    return (-record.cv_mean if criterion == "cv" else getattr(record, criterion)), record.df


class FactorFits:
    """Fits of factor models to rows of Y, with options of `fit_factor_model`."""

    def __init__(self, Y, hierarchy, options, rng):
        self._Y, self.hierarchy, self._options, self._rng = Y, hierarchy, options, rng
        self._weight = options.get("sample_weight")

    def fit(self, ranks, rows=None, near=None):
        options = dict(self._options)
        if near is not None and not {"init", "n_init"} & options.keys():
            options["init"] = _beside(near, ranks, self._rng)
        if rows is not None and self._weight is not None:
            options["sample_weight"] = np.asarray(self._weight)[rows]
        Y = self._Y if rows is None else take_rows(self._Y, rows)
        return fit_factor_model(Y, ranks, self.hierarchy, random_state=self._rng, **options)

    def score(self, fit, rows):
        """Average log-likelihood of samples, some rows at a time: they are made dense."""
        weights = np.ones(rows.size) if self._weight is None else np.asarray(self._weight)[rows]
        total, counted_in = 0.0, 0.0
        for first in range(0, rows.size, BLOCK):
            here = slice(first, first + BLOCK)
            Y = take_rows(self._Y, rows[here])
            Y = fit._rows(Y.toarray() if scipy.sparse.issparse(Y) else Y, missing=True).values
            weight = np.where(np.isnan(Y).all(axis=1), 0, weights[here])
            total += weight @ loglik_samples(fit.covariance, fit.mean, Y)
            counted_in += weight.sum()
        if not counted_in:
            raise ValueError(f"none of {counted(rows.size, 'sample')} has an observed cell and a"
                             " positive weight")
        return total / counted_in

    def degrees_of_freedom(self, ranks):
        return degrees_of_freedom(self.hierarchy, ranks, mean=self._options.get("center", True))

    def refusal(self, ranks, rows=None, share=1.0):
        counted_in = self._counted_in
        if counted_in is None:
            return None
        n_samples = np.count_nonzero(counted_in if rows is None else counted_in[rows])
        center = self._options.get("center", True)
        return too_few_samples(self.hierarchy, ranks, n_samples, center, share)

    @cached_property
    def _counted_in(self):
        """Which samples have a cell and a positive weight; None for chunks, still to be read."""
        if is_chunks(self._Y):
            return None
        found = np.ones(np.shape(self._Y)[0], bool)
        if self._options.get("missing") == "em":
            found &= ~np.isnan(as_array(self._Y)).all(axis=1)
        if self._weight is not None and np.size(self._weight) == found.size:  # else fits refuse it
            found &= np.asarray(self._weight) > 0
        return found

    def n_samples(self, fit):
        return fit.n_samples


class Search:
    """Fits candidates, each once, and keeps the fits that may be asked for again."""

    def __init__(self, problem, parts, criterion, one_standard_error, total, bar, allowed):
        self._problem, self._parts, self._allowed = problem, parts, allowed
        self._criterion, self._one_standard_error = criterion, one_standard_error
        self._total, self._bar = total, bar
        self._records, self._fits = {}, {}
        self._n_fits, self._unconverged, self._boundary, self._refused = 0, [], [], []

    def eligible(self):
        """Records of the candidates that may be chosen."""
        return [record for record in self._records.values()
                if self._total is None or sum(record.ranks) == self._total]

    def better(self, ranks, other):
        return self._key(ranks) < self._key(other)

    def _key(self, ranks):
        return merit(self._records[ranks], self._criterion)

    def _best(self):
        return min(self.eligible(), key=lambda record: merit(record, self._criterion), default=None)

    def chosen(self):
        """Ranks that the criterion chooses of the candidates seen so far."""
        best = self._best()
        if best is not None and best.refused:
            return None
        if best is None or not self._one_standard_error:
            return best and best.ranks
        within = [record for record in self.eligible()
                  if record.cv_mean >= best.cv_mean - best.cv_se]
        return min(within, key=lambda record: (record.df, -record.cv_mean)).ranks

    def best_of(self, candidates, parent=None):
        """Fit those candidates that are allowed, from the fits of `parent`; the best of them."""
        best = None
        for ranks in filter(self._allowed, candidates):
            if ranks not in self._records:
                self._evaluate(ranks, parent)
            if best is None or self.better(ranks, best):
                best = ranks
            self._forget_but({parent, best, self.chosen()})
        return best

    def _forget_but(self, kept):
        """Drop fits that nothing starts from; by the one-standard-error rule any may win late."""
        self._fits = {ranks: fits if ranks in kept else fits[:1]
                      for ranks, fits in self._fits.items()
                      if ranks in kept or self._one_standard_error}

    def _evaluate(self, ranks, parent):
        fits, held_out, refused = [], [], ""
        for part, (_, test) in enumerate(self._parts):
            fit, refused = self._fit(ranks, part, parent)
            fits.append(fit)
            if refused:
                if test is not None:
                    refused = f"in the training part of fold {self._fold(part)} {refused}"
                break
            if test is not None:
                held_out.append(self._score(fit, part))
        self._fits[ranks] = fits
        self._records[ranks] = self._record(ranks, fits, held_out, refused)
        self._bar.update()
        self._bar.set_postfix(ranks=ranks, best=self.chosen(), refresh=False)

    def _score(self, fit, part):
        try:
            return self._problem.score(fit, self._parts[part][1])
        except ValueError as error:
            raise ValueError(f"the test samples of fold {self._fold(part)} cannot be scored:"
                             f" {error}; use fewer folds, or shuffle them") from error

    def _fold(self, part):
        return part - (self._parts[0] is WHOLE)

    def _fit(self, ranks, part, parent=None):
        train, _ = self._parts[part]
        known = self._fits.get(parent, ())
        near = known[part] if part < len(known) else None
        if train is None:
            return self._run(ranks, None, near)
        try:
            return self._run(ranks, train, near)
        except ValueError as error:
            raise ValueError(
                f"the {train.size} training samples of fold {self._fold(part)} cannot be fitted:"
                f" {error}; use fewer folds, or shuffle them"
            ) from error

    def _run(self, ranks, rows, near):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            fit = self._problem.fit(ranks, rows, near)
        for warning in caught:
            if not issubclass(warning.category, ConvergenceWarning):
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno)
        if fit.termination == "interrupted":  # not a fit to be compared with others
            raise KeyboardInterrupt
        self._n_fits += 1
        if not fit.converged:
            self._unconverged.append(ranks)
        refused = "".join(str(w.message) for w in caught
                          if issubclass(w.category, UnboundedWarning))
        if refused:
            self._refused.append(ranks)
        elif len(fit.boundary):
            self._boundary.append(ranks)
        return fit, refused

    def _record(self, ranks, fits, held_out, refused):
        h, n_folds = self._problem.hierarchy, 0 if refused else len(held_out)
        df = self._problem.degrees_of_freedom(ranks)
        loglik = aic = bic = math.nan
        if self._parts[0] is WHOLE and not refused:
            loglik, n_samples = fits[0].loglik, self._problem.n_samples(fits[0])
            aic = -2 * n_samples * loglik + 2 * df
            bic = -2 * n_samples * loglik + df * math.log(n_samples)
        return RankRecord(
            ranks=ranks, storage=h.n * (sum(ranks) + 1), df=df, loglik=loglik, aic=aic, bic=bic,
            cv_mean=float(np.mean(held_out)) if n_folds else math.nan,
            cv_se=(float(np.std(held_out, ddof=1) / math.sqrt(n_folds)) if n_folds > 1
                   else math.nan),
            n_iter=sum(fit.n_iter for fit in fits), converged=all(fit.converged for fit in fits),
            n_capped=sum(int((h.group_sizes(level) < r).sum()) for level, r in enumerate(ranks)),
            refused=refused)

    def fit_to_all(self, ranks):
        """The fit of one candidate to all samples."""
        return self._fits[ranks][0]

    def warn(self, stacklevel):
        """One warning for all fits."""
        told = []
        for ranks, what in ((self._unconverged, "did not converge (raise max_iter or tol)"),
                            (self._boundary, "ended with variances at the floor (Heywood cases)"),
                            (self._refused, "have a likelihood without a maximum (refused)")):
            if ranks:
                told.append(f"{len(ranks)} {what}: ranks {name_some(dict.fromkeys(ranks))}")
        if told:
            warnings.warn(f"of {counted(self._n_fits, 'fit')}, {'; '.join(told)}",
                          ConvergenceWarning, stacklevel=stacklevel)


def greedy(search, start, limits, total, exact):
    """Add, drop or move one factor at a time as long as the criterion falls."""
    search.best_of([start])
    current = start
    while True:
        forced = exact and sum(current) < total
        moves = [_more(current, limits, total)]
        if not forced:
            moves.append(_moved(current, limits) + ([] if exact else _fewer(current)))
        for candidates in moves:
            best = search.best_of(candidates, current)
            if best is not None and (forced or search.better(best, current)):
                current = best
                break
        else:
            return


def _more(ranks, limits, total):
    if sum(ranks) >= total:
        return []
    return [_step(ranks, up=level) for level, r in enumerate(ranks) if r < limits[level]]


def _fewer(ranks):
    return [_step(ranks, down=level) for level, r in enumerate(ranks) if r > 0]


def _moved(ranks, limits):
    return [_step(fewer, up=level) for fewer in _fewer(ranks)
            for level, r in enumerate(fewer) if r < limits[level] and r >= ranks[level]]


def _step(ranks, up=None, down=None):
    return tuple(r + (level == up) - (level == down) for level, r in enumerate(ranks))


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


def grid(limits, total, exact):
    """Rank vectors within the limits whose sum is `total`, or at most that, smallest first."""
    def splits(limits, total):
        if len(limits) == 1:
            return [(total,)] if total <= limits[0] else []
        return [(r, *rest) for r in range(min(limits[0], total) + 1)
                for rest in splits(limits[1:], total - r)]

    return list(itertools.chain.from_iterable(
        splits(limits, R) for R in ([total] if exact else range(total + 1))))
