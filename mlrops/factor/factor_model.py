"""`fit_factor_model`: maximum likelihood factor models, single-level or on a tree, by EM."""

import warnings
from dataclasses import dataclass

import numpy as np

from .._common.convergence import ConvergenceWarning, UnboundedWarning
from .._common.labelled import named
from .._common.wording import agree, counted
from ..io.archive import check_regular
from ..operators.mlr import MLR, check_ranks
from .ascent import MEMORY, Problem, VanishingVariance
from .checkpoint import Checkpoint, Restarts, digest, fingerprint
from .em import Point
from .estep.sources import open_source
from .limits import at_floor, run_off, too_few_samples
from .options import check_options, check_scale, check_times
from .result import FactorModelResult
from .run import run
from .start import capped_groups, start

__all__ = ["FactorModelIterate", "fit_factor_model"]


@dataclass(frozen=True)
class FactorModelIterate:
    """What a callback of `fit_factor_model` sees.

    Attributes
    ----------
    n_iter : int
        Updates so far.
    loglik : float
        Average log-likelihood a sample of the parameters after them.
    covariance : MLR, shape (n, n)

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y, seen = simulate_factor_model(8, 1, n_samples=50, random_state=0).Y, []
    >>> fit = fit_factor_model(Y, 1, callback=lambda iterate: seen.append(iterate.loglik))
    >>> bool((seen == fit.loglik_trace).all())
    True
    """

    n_iter: int
    loglik: float
    covariance: MLR


def fit_factor_model(Y, ranks, hierarchy=None, *, init="svd", n_init=1, accelerate=True,
                     center=True, missing="raise", sample_weight=None, compress=None, tol=1e-9,
                     gtol=1e-5, max_iter=1000, variance_floor=1e-6, progress=False, callback=None,
                     checkpoint=None, checkpoint_every=None, checkpoint_seconds=60.0, resume=False,
                     random_state=None):
    r"""Fit a factor model by maximum likelihood (EM).

    The model is :math:`y_t \sim N(\mu, \Sigma)` with
    :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block diagonal over the groups of
    level l of a hierarchy of the features.  Without a hierarchy it is the ordinary factor model.

    Parameters
    ----------
    Y : array_like, DataFrame, sparse matrix, memmap or iterable of row chunks, shape (N, n)
        Data, one sample a row; N at least 2, no constant features.

        - *DataFrame*: its column names are kept and stand in results and errors; those of other
          libraries (polars, pyarrow) are read by narwhals.
        - *scipy.sparse*: only products with it are taken, centring is implicit.  Entries that are
          not stored are zeros.
        - *numpy.memmap*, *iterable of arrays (c, n)*, or *a function without arguments that returns
          an iterator over such*: one pass an iteration, in memory a block of samples about as
          large as the factors.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first; one number where there is one level.  A
        group with fewer features than its level's rank gets as many factors as it has features
        (``result.capped`` lists them).
    hierarchy : Hierarchy or labels, optional
        Tree of the features; default one level with one group.  Labels are what
        `Hierarchy.from_labels` takes, one object, or a list of one a level: a dict, Series or
        DataFrame is matched to the columns by name, and may speak of features that Y does not have.
        A Hierarchy with names must have those of the columns, and is put in their order; data
        without names take over its own.
    init : {"svd", "principal_factor", "frobenius", "random"} or MLR, optional
        Starting point, of features in units of their standard deviations: top-down truncated SVDs
        of the running residual, group by group; iterated principal factors (one level of one group
        only); the model nearest to the sample correlations in the Frobenius norm, see Notes; a
        seeded random draw; or an operator on the same hierarchy with the same ranks,
        matched by name where its hierarchy has names.
    n_init : int, optional
        Number of starts, of which the best outcome is kept: the first one as `init` says, further
        ones random.
    accelerate : bool, optional
        False takes plain EM steps only; see Notes.
    center : bool, optional
        Estimate the mean; False fixes it at zero.
    missing : {"raise", "em"}, optional
        What to do about NaN and masked cells: an error that names the columns, or exact EM on the
        cells that are there.  Then rows without an observed cell are left out, and a column needs
        two observed cells that differ.
    sample_weight : array_like, Series or dict, shape (N,), optional
        Non-negative weights of the samples; only their ratios count.  Samples of weight 0 are left
        out, whatever they hold.  Labels are matched to the index of a DataFrame; rows of other data
        have none but their numbers, in chunks counted through.
    compress : bool, optional
        Replace N > n complete samples by n with the same second moments (one QR factorization).
        The iterates stay the same.  Default: for arrays and frames.  For memory maps and chunks
        True takes about ``6 n²`` numbers of memory and reads the data once in all.
    tol : float, optional
        Stop when three updates in a row raise the average log-likelihood a sample by no more than
        `tol` times its distance from that of independent features (or n/2 where that is larger).
        Unlike the log-likelihood itself, this measure does not depend on the units of the data.
    gtol : float, optional
        Stop when no derivative of the average log-likelihood by a loading or a mean, in units of
        the square root of the feature's D, or by log D is larger.  Plain EM looks at every tenth
        update.
    max_iter : int, optional
        Largest number of updates.
    variance_floor : float, optional
        Entries of D are kept at or above this share of the feature's own variance.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(iterate)`` with a `FactorModelIterate` for the start and after every
        update; raising StopIteration stops the fit.
    checkpoint : str or os.PathLike, optional
        File to write the state of the fit to, at the start, now and then, and at the end.  A
        checkpoint is written whole or not at all.
    checkpoint_every : int, optional
        Updates between two checkpoints.
    checkpoint_seconds : float, optional
        Seconds between two checkpoints; what comes first counts, None is never.
    resume : bool, optional
        Go on from the checkpoint if the file is there: to the same result, bit for bit, as without
        the interruption.  Data and options must be those it was written with, but for what only
        watches the fit and, with a single start, `tol`, `gtol` and `max_iter`.
    random_state : None, int or numpy.random.Generator, optional
        Seed of random starts; a resumed fit goes on with the seeds it began with.

    Returns
    -------
    FactorModelResult

    Raises
    ------
    ValueError, TypeError
        NaN or infinity in Y (the features are named), constant features, fewer than 2 samples,
        shapes that do not fit the hierarchy, bad ranks or weights, complex data; a checkpoint that
        is damaged or of another fit.
    numpy.linalg.LinAlgError
        With a `variance_floor` near 0, variances that run to zero; the features are named.

    Warns
    -----
    ConvergenceWarning
        The iteration cap was reached, or variances stand at the floor (Heywood cases).  A
        likelihood without a maximum is named as such: N samples carry ``N - 2`` factors of more
        features than that (``N - 1`` with ``center=False``), and features that determine one
        another, such as duplicates, run off too.

    Notes
    -----
    An EM update costs about ``4 n R min(N, n)`` flops: one product of the factors with the data,
    one of the data with the factors' posterior means, and sweeps over the tree.  With
    ``accelerate=False`` what runs is exactly EM: from the same start, the same iterates (D. Rubin,
    D. Thayer, "EM algorithms for ML factor analysis", 1982; T. Parshakova et al., "Fitting
    multilevel factor models", 2024, for the multilevel case).

    *Acceleration.*  An evaluation of the EM map also gives the gradient, for ``2 n R²`` flops.
    Updates go along limited-memory BFGS directions whose initial inverse Hessian is EM's own answer
    to a gradient (after M. Jamshidian, R. Jennrich, "Acceleration of the EM algorithm by using
    quasi-Newton methods", 1997).  A jump that would let the log-likelihood fall is shortened once;
    then a plain EM step, which cannot fall, is taken instead.  To get where 400 plain iterations
    get took 33 to 72 evaluations on the four problems of ``tests/benchmarks/test_acceleration.py``;
    SQUAREM took 69 to 141, damped Anderson acceleration 55 to 196, parameter-expanded EM 198 and
    more.  It needs about eighteen more arrays of the size of F, and where there are few samples for
    each factor an update takes up to two and a half times as long as a plain one.

    *Frobenius start.*  Block coordinate descent for the least ``‖S - Σ‖``, S the correlations of
    the data and D at or above a tenth: in turn each level gets its best factors for what the others
    leave of S, by a step of subspace iteration, and D its best values; each of these lowers the
    error.  Of S only products are taken: a sweep down and up the levels costs
    ``24 n k Σ(r_l + 3)`` flops for k samples whatever the number of groups (less for small ones),
    memory a few times that of the k samples, and three to ten sweeps are usual, 30 the most.  It is
    nearer to the maximum than the SVDs where levels compete for the same covariance.  Of sparse
    and streamed data with many samples S is that of a random sketch, missing cells stand at their
    means.  Columns that a group has no use for, as the factor of a single feature, begin small and
    random.

    Interrupted (Ctrl-C), the fit finishes its update, writes the checkpoint and returns the best
    parameters so far, ``termination="interrupted"``.  A second Ctrl-C breaks the update off; then
    the checkpoint stays as last written.

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
    >>> bool((np.diff(fit.loglik_trace) >= 0).all())
    True
    """
    n_init, rules = check_options(n_init, tol, gtol, max_iter, variance_floor)
    if checkpoint is not None:  # before the data are gone through
        check_regular(checkpoint)
        check_times(checkpoint_every, checkpoint_seconds)
    source, hierarchy, names = open_source(Y, hierarchy, center, missing, sample_weight, compress)
    check_scale(source, hierarchy, names)
    ranks = check_ranks(ranks, hierarchy)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    tree = hierarchy._in_tree_order()
    floor = variance_floor * source.variance
    problem = Problem(source, tree, ranks, floor)
    report = None if callback is None else _Reporter(callback, hierarchy, source.dtype)
    restarts, keeper = Restarts(_seeds(random_state, n_init)), None
    if checkpoint is not None:
        options = _options_to_resume(init, accelerate, center, variance_floor, n_init, rules,
                                     random_state)
        keeper = Checkpoint(checkpoint, checkpoint_every, checkpoint_seconds,
                            fingerprint(hierarchy, ranks, source, **options))
        if resume:
            keeper.resume(problem, MEMORY if accelerate else 0)
        restarts = keeper.restarts = keeper.restarts or restarts
    elif resume:
        raise ValueError("resume=True needs the path of a checkpoint: checkpoint=path")

    stopped = None
    while restarts.number < n_init and stopped is None:
        first = None
        if keeper is None or keeper.saved is None:
            how = init if restarts.number == 0 else "random"
            # Only random starts take a seed: sketches of the data are the same in every fit.
            seed = restarts.seeds[restarts.number] if how == "random" else None
            F, D = start(how, hierarchy, ranks, source, seed)
            first = Point(F, np.maximum(D, floor), source.mean)
        try:
            outcome = run(problem, first, accelerate, rules, progress, report, keeper)
        except VanishingVariance as error:
            low = np.sort(hierarchy.permutation[error.place])
            raise error.told(f"{counted(low.size, 'feature')} ({named(low, names)})",
                             "feature") from None
        restarts.finish(outcome)
        if outcome.termination in ("callback", "interrupted"):
            stopped = outcome.termination
        if keeper is not None:
            keeper.saved = None
    found = restarts.best
    if stopped is not None:
        found = found._replace(termination=stopped)
    place = at_floor(found.point.D, floor)
    boundary = np.sort(hierarchy.permutation[place])
    capped = capped_groups(hierarchy, ranks)
    unbounded = (too_few_samples(hierarchy, ranks, source.n_samples, center)
                 or run_off(source, hierarchy, ranks, found.point, place, names))
    _warn(found.termination, max_iter, boundary, variance_floor, names, unbounded)
    covariance = _in_feature_order(hierarchy, ranks, found.point, source.dtype).principal()
    exact_mean, loglik = hierarchy._scatter(found.point.mean), found.trace[-1]
    mean = exact_mean.astype(source.dtype, copy=False)
    if source.dtype != np.float64:
        loglik = _rounded_loglik(source, hierarchy, covariance, mean, exact_mean)
    return FactorModelResult(
        covariance=covariance, mean=mean, loglik=loglik,
        loglik_trace=np.array(found.trace), n_iter=len(found.trace) - 1,
        converged=found.termination in ("loglik", "gradient"), termination=found.termination,
        boundary=boundary, n_samples=source.n_samples, n_evaluations=found.n_evaluations,
        gradient_norm=found.gradient_norm, feature_names=names, capped=capped,
        mean_is_estimated=bool(center))


def _options_to_resume(init, accelerate, center, variance_floor, n_init, rules, random_state):
    """Options that a resumed fit must share with the one that it goes on with."""
    options = {"accelerate": bool(accelerate), "center": bool(center), "n_init": n_init,
               "variance_floor": float(variance_floor), "init": init}
    if isinstance(init, MLR):
        options["init"] = f"operator {digest(init.F, init.D)}"
    if n_init > 1:  # runs that are over stopped by these
        options.update(rules._asdict())
    if n_init > 1 or options["init"] == "random":
        seeded = isinstance(random_state, (int, np.integer))
        options["random_state"] = random_state if seeded else "no integer"
    return options


def _seeds(random_state, n_init):
    """One integer seed a start; a later start does not change an earlier one's."""
    rng = np.random.default_rng(random_state)
    return tuple(int(seed) for seed in rng.integers(2**63, size=n_init))


class _Reporter:
    """Shows the iterates to a callback as the user orders the features."""

    def __init__(self, callback, hierarchy, dtype):
        self.callback, self.hierarchy, self.dtype = callback, hierarchy, dtype

    def __call__(self, n_iter, state):
        covariance = _in_feature_order(
            self.hierarchy, state.mapped.covariance.ranks, state.point, self.dtype)
        self.callback(FactorModelIterate(n_iter, state.loglik, covariance))


def _in_feature_order(hierarchy, ranks, point, dtype):
    """The operator that was fitted in tree order, for the features as the user orders them."""
    F, D = (hierarchy._scatter(x).astype(dtype, copy=False) for x in (point.F, point.D))
    return MLR.from_compact(hierarchy, ranks, F, D, check_finite=False)


def _rounded_loglik(source, hierarchy, covariance, mean, exact_mean):
    """The log-likelihood of parameters that have been rounded to single precision."""
    rounded = covariance.astype(float)
    F, D, at = map(hierarchy._gather, (rounded.F, rounded.D, mean.astype(float)))
    in_tree = MLR.from_compact(hierarchy._in_tree_order(), covariance.ranks, F, D)
    loglik = source.evaluate(in_tree, at).loglik
    if not source.mean_is_free:  # complete samples are taken about their exact mean
        loglik -= 0.5 * rounded.inv_quad(mean - exact_mean)
    return float(loglik)


def _warn(termination, max_iter, boundary, variance_floor, names, unbounded):
    if termination == "max_iter":
        warnings.warn(
            f"EM did not converge in {counted(max_iter, 'update')}; raise max_iter or tol",
            ConvergenceWarning, stacklevel=3)
    if unbounded is not None:
        warnings.warn(f"{unbounded}; lower the ranks or leave features out, all figures depend on"
                      f" the variance_floor of {variance_floor:g}", UnboundedWarning, stacklevel=3)
    elif boundary.size:
        warnings.warn(
            f"{counted(boundary.size, 'feature')} {agree(boundary.size, 'has', 'have')} a variance"
            f" at the floor of {variance_floor:g} of {agree(boundary.size, 'its', 'their')} total"
            f" (Heywood cases: {named(boundary, names)}); fewer factors may do",
            ConvergenceWarning, stacklevel=3)
