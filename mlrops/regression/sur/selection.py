"""`select_sur_ranks`: the ranks of a system's error covariance, by BIC or held-out likelihood."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..._common.deprecated import renamed_options
from ..._common.jobs import Jobs
from ..._common.typing import Criterion, Data, Labels, RandomState, Ranks, Strategy
from ...factor import rank_search
from ...factor.criteria import degrees_of_freedom
from ...factor.rank_table import RankSelection
from ...tree.hierarchy import Hierarchy
from .als_gls import SUROptions, check_hierarchy, fit_system
from .data import Shared, read_equations
from .groups import read_tree
from .measures import average_loglik

__all__ = ["select_sur_ranks", "select_system_ranks"]


@renamed_options(max_cg_iter="maxiter")
def select_sur_ranks(Xs: Any, Y: Data, candidates: Sequence[Ranks] | None = None,
                     hierarchy: Hierarchy | Labels | None = None, *, criterion: Criterion = "bic",
                     strategy: Strategy = "greedy", max_rank: Ranks | None = None,
                     total_rank: int | None = None, max_storage: int | None = None,
                     exact: bool = False, start: Ranks | None = None, n_folds: int = 5,
                     shuffle: bool = True, folds: Any = None, one_standard_error: bool = False,
                     refit: bool = True, n_jobs: int | None = None, progress: bool = False,
                     random_state: RandomState = None, **fit_options: Any) -> RankSelection:
    r"""Choose the ranks of `als_gls` by BIC, AIC or held-out likelihood.

    Parameters
    ----------
    Xs, Y
        As for `als_gls`, matched by name where they have names.
    candidates
        As in `select_ranks`, rows in the place of samples and equations in that of features.
    hierarchy : Hierarchy or labels, optional
        Tree of the equations, as for `SUR.fit`; default one level with one group.
    criterion : {"bic", "aic", "cv"}, optional
        ``-2 N loglik + df log N``, ``-2 N loglik + 2 df``, or the average log-likelihood of rows
        that were left out of the fit, coefficients included, averaged over folds.
    strategy, max_rank, total_rank, max_storage, exact, start
        As in `select_ranks`: how candidates are generated.
    n_folds, shuffle, folds, one_standard_error, refit
        As in `select_ranks`.
    n_jobs : int, optional
        How many fits run at a time, each in a worker of joblib: -1 is one for each core, None is
        one unless a `joblib.parallel_config` around the call says otherwise.  The result is the
        same, see the notes of `fit_factor_model`.  It is for candidates and folds.
    progress, random_state
        As in `select_ranks`.
    **fit_options : optional
        Further options of `als_gls` (``tol``, ``max_iter``, ...).

    Returns
    -------
    RankSelection
        Its ``fit`` is a `SURResult`.

    Raises
    ------
    ValueError, TypeError
        As in `select_ranks` and `als_gls`; a training part that cannot be fitted is named.

    Warns
    -----
    ConvergenceWarning
        Once, with the number of fits that did not converge or have variances at the floor.

    See Also
    --------
    select_ranks : the same for factor models; how candidates are generated and compared.
    SUR.fit : ``ranks="bic"`` or ``"cv"``.

    Notes
    -----
    *Degrees of freedom* are those of Σ, rotations out (`mlrops.factor.criteria`), and the
    coefficients that constraints leave free.  In held-out rows with missing cells the likelihood
    is that of the cells that are there.

    *Ranks are generated* as long as the likelihood has a maximum in every training part.  With R
    factors and N rows it has none where R + 1 equations have N - R regressors or more in all, one
    array that several share counted once: with p regressors each, R goes up to about N / (p + 1).
    Listed candidates that have more are refused.

    Every candidate starts as `als_gls` does by itself: starts from a neighbour's fit, as
    `select_ranks` takes them, needed no fewer updates of Σ (32 equations on a tree, 20 candidates:
    1424 for 1453 at N = 200, 1670 for 1510 at N = 50).

    For the criteria see G. Schwarz (1978) and H. Akaike (1987), as in `select_ranks`.

    Examples
    --------
    >>> from mlrops.datasets import simulate_sur
    >>> from mlrops import select_sur_ranks
    >>> sim = simulate_sur(20, 3, ranks=2, n_samples=200, random_state=0)
    >>> selection = select_sur_ranks(sim.Xs, sim.Y, candidates=range(5))
    >>> selection.ranks, selection.fit.covariance.ranks
    ((2,), (2,))
    >>> [record.df for record in selection.table]  # 60 coefficients, D, loadings less rotations
    [80, 100, 119, 137, 154]
    """
    candidates, hierarchy = rank_search.in_new_order("select_sur_ranks", candidates, hierarchy,
                                                     stacklevel=4)
    prior_variance = fit_options.pop("prior_variance", None)
    fit_with = SUROptions(**fit_options)
    options = rank_search.RankOptions(
        candidates, criterion, strategy, max_rank, total_rank, max_storage, exact, start, n_folds,
        shuffle, folds, one_standard_error, refit, progress, n_jobs)
    data = read_equations(Xs, Y)
    fit_with = fit_with.with_variances(prior_variance, data)
    with rank_search.order_in_errors(hierarchy):
        tree = read_tree(hierarchy, data)
    return select_system_ranks(data, tree, options, fit_with, random_state=random_state,
                               stacklevel=6)


def select_system_ranks(data, hierarchy, options, fit_with, *, random_state=None, callback=None,
                        stacklevel=4):
    """`select_sur_ranks` for `SURData`, `RankOptions` and checked options of the fits."""
    fits = SystemFits(data, check_hierarchy(hierarchy, data.K), fit_with, callback)
    return rank_search.choose_ranks(fits, options, np.random.default_rng(random_state), stacklevel)


def _rows_of(data, rows):
    return data if rows is None else data.take(rows)


class SystemFits(rank_search.RankedFits):
    """Fits of a system of equations to some of its rows."""

    def __init__(self, data, hierarchy, fit_with, callback=None):
        self.data, self.hierarchy, self._fit_with = data, hierarchy, fit_with
        self._callback = callback
        self._take = Shared(partial(_rows_of, data))
        self._n_free = data.system().n_free  # refuses regressors and constraints before any fit

    def n_rows(self):
        return self.data.N

    def jobs(self, n_jobs):
        return Jobs(n_jobs, callback=self._callback)

    def fit(self, ranks, rows, near, rng):
        return fit_system(self._take(rows), ranks, self.hierarchy, self._fit_with,
                          callback=self._callback)

    def score(self, fit, rows):
        return average_loglik(fit, self._take(rows))

    def degrees_of_freedom(self, ranks):
        return self._n_free + degrees_of_freedom(self.hierarchy, ranks, mean=False)

    def n_samples(self, fit):
        return fit.nobs

    def largest_total(self, parts):
        """Largest total rank with which the likelihood of all parts (rows, or None) has a maximum.

        With R factors it has none where R + 1 equations have as many regressors in all as there are
        rows beyond R: coefficients can then make their errors depend on one another.  With a prior
        an equation only needs more cells than it has regressors and factors.
        """
        observed = self.data.observed
        rows = min(int(self.data.nobs.min()) if part is None
                   else part.size if observed is None else int(observed[part].sum(axis=0).min())
                   for part in parts)
        if self._fit_with.prior:
            return max(0, rows - int(self.data.p.max()) - 1)
        widths = sorted({id(X): X.shape[1] for X in self.data.Xs}.values(), reverse=True)
        total = np.cumsum(widths + [0] * (rows - len(widths)))[:rows]  # of R + 1 equations
        return max(0, int(np.count_nonzero(np.arange(rows) + total < rows)) - 1)
