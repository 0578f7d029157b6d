"""`fit_factor_model`: maximum likelihood factor models, single-level or on a tree, by EM."""

import warnings
from dataclasses import dataclass

import numpy as np

from ..hierarchy import Hierarchy
from ..operators._validate import check_rank, name_some
from ..operators.mlr import MLR, check_ranks
from .ascent import Problem
from .data import prepare
from .em import Point
from .result import FactorModelResult
from .run import Rules, run
from .start import start

__all__ = ["ConvergenceWarning", "FactorModelIterate", "fit_factor_model"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged, or at the boundary of the parameters."""


@dataclass(frozen=True)
class FactorModelIterate:
    """What a callback sees: parameters after `n_iter` updates and their log-likelihood."""

    n_iter: int
    loglik: float
    covariance: MLR


def fit_factor_model(Y, ranks, hierarchy=None, *, init="svd", accelerate=True, center=True,
                     tol=1e-9, gtol=1e-5, max_iter=1000, variance_floor=1e-6, progress=False,
                     callback=None, random_state=None):
    r"""Fit a factor model by maximum likelihood (EM).

    The model is :math:`y_t \sim N(\mu, \Sigma)` with
    :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block diagonal over the groups of
    level l of a hierarchy of the features.  Without a hierarchy it is the ordinary factor model.

    Parameters
    ----------
    Y : array_like, shape (N, n)
        Data, one sample a row; N at least 2, no constant features.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first.
    hierarchy : Hierarchy, optional
        Tree of the features; default one level with one group.
    init : {"svd", "random"} or MLR, optional
        Starting point: top-down truncated SVDs of the running residual, group by group; a seeded
        random draw; or an operator on the same hierarchy with the same ranks.
    center : bool, optional
        Take off the mean of every feature first.
    tol : float, optional
        Stop when an update raises the average log-likelihood a sample by no more than `tol` times
        its distance from that of independent features (or n/2 where that is larger).  Unlike the
        log-likelihood itself, this measure does not depend on the units of the data.
    max_iter : int, optional
        Largest number of updates.
    variance_floor : float, optional
        Entries of D are kept at or above this share of the feature's own variance.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(iterate)`` with a `FactorModelIterate` for the start and after every
        update; raising StopIteration stops the fit.
    random_state : None, int or numpy.random.Generator, optional
        Seed of ``init="random"``.

    Returns
    -------
    FactorModelResult

    Raises
    ------
    ValueError, TypeError
        NaN or infinity in Y (the features are named), constant features, fewer than 2 samples,
        shapes that do not fit the hierarchy, bad ranks, complex data.

    Warns
    -----
    ConvergenceWarning
        The iteration cap was reached, or variances stand at the floor.

    Notes
    -----
    An update costs about ``4 n R min(N, n)`` flops: one product of the factors with the data, one
    of the data with the factors' posterior means, and sweeps over the tree.  Without acceleration,
    what runs is exactly EM: from the same start, the same iterates (D. Rubin, D. Thayer, "EM
    algorithms for ML factor analysis", 1982; T. Parshakova et al., "Fitting multilevel factor
    models", 2024, for the multilevel case).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy, fit_factor_model
    >>> from mlrops.datasets import simulate_mlr
    >>> h = Hierarchy.from_labels(np.repeat(["a", "b", "c"], 20))
    >>> sim = simulate_mlr(h, ranks=(1, 1), n_samples=400, random_state=0)
    >>> fit = fit_factor_model(sim.Y, ranks=(1, 1), hierarchy=h)
    >>> fit.converged, fit.covariance.ranks
    (True, (1, 1))
    >>> bool((np.diff(fit.loglik_trace) > -1e-9).all())
    True
    """
    if hierarchy is None:
        hierarchy = Hierarchy.flat(_n_features(Y))
    elif not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    ranks = check_ranks(ranks, hierarchy)
    max_iter = check_rank(max_iter, "max_iter")
    for name, value in (("tol", tol), ("gtol", gtol), ("variance_floor", variance_floor)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    source = prepare(Y, hierarchy, center)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    tree = hierarchy._in_tree_order()
    floor = (variance_floor * source.variance).astype(source.dtype)
    problem = Problem(source, tree, ranks, floor)
    first = Point(*start(init, hierarchy, ranks, source, random_state), source.mean)
    report = None if callback is None else _Reporter(callback, hierarchy)
    rules = Rules(tol, gtol, max_iter)
    outcome = run(problem, first, accelerate, rules, progress, report)
    return _result(outcome, problem, hierarchy, variance_floor, rules)


class _Reporter:
    """Shows the iterates to a callback as the user orders the features."""

    def __init__(self, callback, hierarchy):
        self.callback, self.hierarchy = callback, hierarchy

    def __call__(self, n_iter, state):
        covariance = _in_feature_order(state.mapped.covariance, self.hierarchy)
        self.callback(FactorModelIterate(n_iter, state.loglik, covariance))


def _result(outcome, problem, hierarchy, variance_floor, rules):
    """What a run found, in feature order, with its warnings."""
    state = outcome.state
    boundary = np.sort(hierarchy.permutation[state.point.D <= problem.floor])
    _warn(outcome.termination, rules.max_iter, boundary, variance_floor)
    return FactorModelResult(
        covariance=_in_feature_order(state.mapped.covariance, hierarchy).principal(),
        mean=hierarchy._scatter(state.point.mean), loglik=outcome.trace[-1],
        loglik_trace=np.array(outcome.trace), n_iter=len(outcome.trace) - 1,
        converged=outcome.termination in ("loglik", "gradient"), termination=outcome.termination,
        boundary=boundary, n_samples=problem.source.n_samples,
        n_evaluations=outcome.n_evaluations, gradient_norm=state.gradient_norm)


def _n_features(Y):
    shape = np.shape(Y)
    if len(shape) != 2:
        raise ValueError(f"Y must be 2-d, samples by features, got shape {shape}")
    return shape[1]


def _in_feature_order(covariance, hierarchy):
    """The operator that was fitted in tree order, for the features as the user orders them."""
    return MLR.from_compact(
        hierarchy, covariance.ranks, hierarchy._scatter(covariance.F),
        hierarchy._scatter(covariance.D), check_finite=False)


def _warn(termination, max_iter, boundary, variance_floor):
    if termination == "max_iter":
        warnings.warn(
            f"EM did not converge in {max_iter} updates; raise max_iter or tol",
            ConvergenceWarning, stacklevel=4)
    if boundary.size:
        warnings.warn(
            f"{boundary.size} features have a variance at the floor of {variance_floor:g} of their"
            f" total (Heywood cases: {name_some(boundary)}); fewer factors may do",
            ConvergenceWarning, stacklevel=4)
