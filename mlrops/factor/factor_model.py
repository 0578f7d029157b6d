"""`fit_factor_model`: maximum likelihood factor models, single-level or on a tree, by EM."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from .._common.deprecated import replaced_option
from .._common.driver import CONVERGED, Callback, Watch
from .._common.given import cut_by_columns, read_given
from .._common.jobs import Jobs
from .._common.typing import (
    Data,
    FloatArray,
    Labels,
    Optimizer,
    Prior,
    RandomState,
    Ranks,
    RowData,
)
from .._common.validate import check_number, check_rank
from ..operators.mlr import MLR, check_ranks
from ..tree.hierarchy import Hierarchy
from .checkpoint import Checkpoint, Checkpointing, describe_prior, fingerprint, to_resume
from .climb import (
    FactorStopping,
    Race,
    Tournament,
    best_of_starts,
    chosen_optimizer,
    felt_by,
    is_linear,
    jumps_of,
    warn_of_end,
)
from .columns.fit import fit_columns
from .estep.from_covariance import check_no_samples, open_covariance
from .estep.protocol import Source
from .estep.sources import open_source
from .likelihood import LikelihoodSurface, VanishingVariance
from .limits import (
    at_floor,
    check_scale,
    run_off,
    too_few_samples,
    warn_of_floor,
    warn_of_prior,
)
from .prior import prior_fields, read_prior, ruled_by_prior
from .prior_search import search_prior
from .result import FactorModelResult
from .usable import capped_groups

__all__ = ["fit_factor_model"]


@replaced_option("accelerate", "optimizer", {True: "auto", False: "em"})
def fit_factor_model(Y: RowData | Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
                     ranks: Ranks | None = None,
                     hierarchy: Hierarchy | Labels | None = None, *,
                     covariance: Data | None = None, n_samples: int | None = None,
                     init: Literal["principal_factor", "svd", "frobenius", "random"] | MLR
                     = "principal_factor",
                     n_init: int = 1, n_jobs: int | None = None, optimizer: Optimizer = "auto",
                     prior: Prior = None, prior_variance: Labels | float | None = None,
                     center: bool = True, missing: Literal["raise", "em"] = "raise",
                     sample_weight: Labels | None = None, compress: bool | None = None,
                     tol: float | None = None, gtol: float = 1e-5,
                     max_iter: int = 1000, variance_floor: float = 1e-6, progress: bool = False,
                     callback: Callback | None = None,
                     checkpoint: str | os.PathLike[str] | None = None,
                     checkpoint_every: int | None = None, checkpoint_seconds: float | None = 60.0,
                     resume: bool = False, random_state: RandomState = None) -> FactorModelResult:
    r"""Fit a factor model by maximum likelihood (EM).

    The model is :math:`y_t \sim N(\mu, \Sigma)` with
    :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block diagonal over the groups of
    level l of a hierarchy of the features.  Without a hierarchy it is the ordinary factor model.

    Parameters
    ----------
    Y : array_like, DataFrame, sparse matrix, data on disk, row chunks or of dask, shape (N, n)
        Data, one sample a row; N at least 2, no constant features.  Left out where a `covariance`
        is given.

        - *DataFrame*: its column names are kept and stand in results and errors; those of other
          libraries (polars, pyarrow) are read by narwhals.
        - *scipy.sparse*: only products with it are taken, centring is implicit.  Entries that are
          not stored are zeros.
        - *On disk*, a numpy.memmap, an array of zarr, h5py or netCDF4, a ParquetFile or Dataset of
          pyarrow (``pip install "mlrops[disk]"``): one pass an iteration, 16 MB at a time or, up to
          256 MB, the rows of one of its own chunks; in memory a block of samples about as large as
          the factors, and what the reader holds, for parquet some row groups.  Columns of tables
          have names as those of DataFrames; those that pandas takes as labels of rows are left out.
        - *iterable of arrays (c, n)*, or *a function without arguments that returns an iterator
          over such*: the same, chunk by chunk; with missing cells see `missing`.
        - *Array or DataFrame of dask in chunks of rows* (``pip install "mlrops[dask]"``): chunks
          are gone through where they are, on the workers of the `distributed.Client` there is,
          else by threads here; see Notes.
        - *Array of dask in chunks of whole columns*: F, D and the data stay in parts on the
          workers; complete data only, see Notes.
    ranks : int or sequence of int
        Number of factors of each level, coarsest first; one number where there is one level.  A
        group gets as many factors as it has features at most, at all levels together at which it
        stands, coarser ones first (``result.capped`` lists those that get fewer than the rank).
    hierarchy : Hierarchy or labels, optional
        Tree of the features; default one level with one group.  Labels are what
        `Hierarchy.from_labels` takes, one object, or a list of one a level: a dict, Series or
        DataFrame is matched to the columns by name, and may speak of features that Y does not have.
        A Hierarchy with names must have those of the columns, and is put in their order; data
        without names take over its own.
    covariance : array_like or DataFrame, shape (n, n), optional
        Covariance or correlation matrix S of the samples, in place of Y, symmetric and positive
        semidefinite; see Notes.  Rows of a DataFrame are matched to its columns by name.
    n_samples : int, optional
        Number N of samples that `covariance` was computed from, and only given with it.
    init : {"principal_factor", "svd", "frobenius", "random"} or MLR, optional
        Starting point, of features in units of their standard deviations: iterated principal
        factors, level by level, see Notes; top-down truncated SVDs of the running residual, group
        by group; the model nearest to the sample correlations in the Frobenius norm, see Notes; a
        seeded random draw; or an operator on the same hierarchy with the same ranks, matched by
        name where its hierarchy has names.
    n_init : int, optional
        Number of starts of a tournament: the first as `init` says, then those of
        ``"principal_factor"``, ``"svd"`` and ``"frobenius"`` that it is not, then random ones (all
        random with ``init="random"``).  Each is climbed from for 60 updates, the best two go on,
        and the better one is returned.
    n_jobs : int, optional
        How many fits run at a time, each in a worker of joblib: -1 is one for each core, None is
        one unless a `joblib.parallel_config` around the call says otherwise.  The result is the
        same, see Notes.  It is for the starts of `n_init` and the folds of ``prior="cv"``; a
        callback, a checkpoint and data of dask need one at a time, and so do open files of h5py
        and pyarrow: a function may open them for each pass.
    optimizer : {"auto", "scoring", "bfgs", "em"}, optional
        How steps are found: Fisher scoring, limited-memory BFGS directions, or plain EM steps only;
        see Notes.  ``"auto"`` is scoring where an evaluation is dear (missing cells, sparse and
        streamed data), F has 10,000 numbers or fewer, or samples and features are six or more for
        each of the R factors; else BFGS.  ``result.optimizer`` says which.
    prior : None, True, float or "cv", optional
        Strength α, in pseudo-samples, of a prior that keeps the entries of D away from zero: a fit
        to few samples is then good for the next sample, too, see Notes.  True is one pseudo-sample
        for each factor that a feature sees.  "cv" chooses α by the log-likelihood of held-out
        samples: they are cut into five contiguous parts, so shuffle rows whose order groups them;
        the strongest of nine within one standard error of the best is taken, None among them
        where the likelihood has a maximum.  It needs data in memory and about 45 fits, which stop
        at ``tol=1e-5`` unless another is given.
    prior_variance : float, array_like, Series or dict, shape (n,), optional
        Variances t that the prior pulls D to; default each feature's own variance.  One number
        where features share a scale that is known; names are matched to the features.
    center : bool, optional
        Estimate the mean; False fixes it at zero.
    missing : {"raise", "em"}, optional
        What to do about NaN and masked cells: an error that names the columns, or exact EM on the
        cells that are there.  Then rows without an observed cell are left out, and a column needs
        two observed cells that differ.  Data on disk and chunks take one pass an iteration, too;
        ``(R + 1)(R + 2) / 2`` numbers are kept in memory for each set of features of one leaf that
        are missing in the same samples, and three blocks of samples about as large as those.
    sample_weight : array_like, Series or dict, shape (N,), optional
        Non-negative weights of the samples; only their ratios count.  Samples of weight 0 are left
        out, whatever they hold.  Labels are matched to the index of a DataFrame; rows of other data
        have none but their numbers, in chunks counted through.  With dask they may be a dask array,
        or for a DataFrame a Series with its partitions.
    compress : bool, optional
        Replace N > n complete samples by n with the same second moments (one QR factorization).
        The iterates stay the same.  Default: for arrays and frames.  For data on disk and chunks
        True takes about ``6 n²`` numbers of memory and reads the data once in all.
    tol : float, optional
        Stop when three updates in a row raise the average log-likelihood a sample by no more than
        `tol` times its distance from that of independent features (or n/2 where that is larger).
        Unlike the log-likelihood itself, this measure does not depend on the units of the data.
        Default: when they raise the log-likelihood of all samples by no more than 2e-4 each, which
        no test or criterion feels.  Where such gains hardly fall off, a warning says so.
    gtol : float, optional
        Stop when no derivative of the average log-likelihood by a loading or a mean, in units of
        the square root of the feature's D, or by log D is larger.  Plain EM computes them at
        every tenth update.
    max_iter : int, optional
        Largest number of updates.
    variance_floor : float, optional
        Entries of D are kept at or above this share of the feature's own variance.
    progress : bool, optional
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(iterate)`` with an `Iterate` for the start and after every update;
        raising StopIteration stops the fit.
    checkpoint : str or os.PathLike, optional
        File to write the state of the fit to, at the start, now and then, and at the end.  A
        checkpoint is written whole or not at all.  For chunks of columns it is a folder that all
        workers see: each part is one file, which its worker writes.
    checkpoint_every : int, optional
        Updates between two checkpoints.
    checkpoint_seconds : float, optional
        Seconds between two checkpoints; what comes first counts, None is never.
    resume : bool, optional
        Go on from the checkpoint if it is there: to the same result, bit for bit, as without
        the interruption.  Data and options must be those it was written with, but for what only
        watches the fit and, with a single start, `tol`, `gtol` and `max_iter`.
    random_state : None, int or numpy.random.Generator, optional
        Seed of random starts; a resumed fit goes on with the seeds it began with.

    Returns
    -------
    FactorModelResult
        For chunks of columns a `DistributedFactorModel`, whose `covariance` is a `DistributedMLR`.

    Raises
    ------
    ConnectionError, RuntimeError
        A cluster without a scheduler, or without workers for a minute (or as long as dask's
        ``distributed.scheduler.no-workers-timeout``); workers without this package, with another
        version of it, or lost again and again.  Checkpoints stay.
    ValueError, TypeError
        NaN or infinity in Y (the features are named), constant features, fewer than 2 samples,
        shapes that do not fit the hierarchy, bad ranks or weights, complex data; a checkpoint that
        is damaged or of another fit; a covariance that is none, options that need samples with it.
    numpy.linalg.LinAlgError
        With a `variance_floor` near 0, variances that run to zero; the features are named.

    Warns
    -----
    ConvergenceWarning
        The iteration cap was reached, small gains hardly fall off (a plateau), variances stand at
        the floor (Heywood cases), or a prior sets variances rather than the many samples there are.
        A likelihood without a maximum is named as such: N samples carry ``N - 2`` factors of more
        features than that (``N - 1`` with ``center=False``), and features that determine one
        another, such as duplicates, run off too.
    UserWarning
        Y is square and looks like a correlation matrix, which is no data but a `covariance`.

    Notes
    -----
    An EM update costs about ``4 n R min(N, n)`` flops: one product of the factors with the data,
    one of the data with the factors' posterior means, and sweeps over the tree.  With
    ``optimizer="em"`` what runs is exactly EM: from the same start, the same iterates (D. Rubin,
    D. Thayer, "EM algorithms for ML factor analysis", 1982; T. Parshakova et al., "Fitting
    multilevel factor models", 2024, for the multilevel case).

    *From a covariance.*  The likelihood of complete samples depends on nothing but their mean and
    their second moments, so that a fit to S is the fit to any data that have it.  S is the maximum
    likelihood estimate ``Σ (y - m)(y - m)ᵀ / N`` about the sample mean m, or about zero with
    ``center=False``.  Where it was divided by ``N - 1``, as `numpy.cov`, pandas and R do, give
    ``S * (N - 1) / N``; for correlations it makes no difference.  A fit to correlations is one to
    standardized data.  The mean of the result is zero, since S does not tell it: data that `score`,
    `scores` and other methods are asked about must be centred (and standardized, for correlations).
    It counts as estimated unless ``center=False``, so `aic` and `bic` are those of the data.
    `sample_weight`, ``missing="em"``, `compress` and ``prior="cv"`` are about samples, and refused.

    *Scoring.*  An evaluation of the EM map also gives the gradient, for ``2 n R²`` flops.  Steps
    solve ``(I + λ M) d = g``: I the expected information (`MLR.information`, which no data are
    needed for), M⁻¹ EM's own answer to a gradient, λ a damping that falls as steps rise as
    predicted; by conjugate gradients, at most 30 products of ``10 n R²`` flops, ten as a rule.
    Variances are coordinates as they are, the floor is a bound.  A step that would let the
    log-likelihood fall is damped more, at the price of an E-step, up to five times; then a plain
    EM step, which cannot fall, is taken instead.  To within 1e-4 of the maximum it takes a tenth to
    a half of the evaluations of BFGS directions from the same start on eight of the nine problems
    of ``tests/benchmarks/test_evaluations.py``, on three of them to a lower maximum, as BFGS does
    on two of the three.

    *BFGS.*  Updates go along limited-memory BFGS directions whose initial inverse Hessian is EM's
    answer to a gradient (after M. Jamshidian, R. Jennrich, "Acceleration of the EM algorithm by
    using quasi-Newton methods", 1997).  A jump that would let the log-likelihood fall is shortened
    once, and then left for a plain EM step.  To get where 400 plain iterations get took 33 to 72
    evaluations on the four problems of ``tests/benchmarks/test_acceleration.py``; SQUAREM took 69
    to 141, damped Anderson acceleration 55 to 196, parameter-expanded EM 198 and more.

    At its peak a fit held 45 arrays of the size of F by scoring and 35 by BFGS, start and data of
    20 samples included (n = 200,000, R = 12).

    *Principal factors.*  Levels in turn, coarse to fine, get the leading eigenpairs (λ, v) of their
    groups' blocks of ``Ψ^-½ (S - O) Ψ^-½``, as factors ``Ψ^½ v √(λ - 1)``: S are the correlations,
    O what the other levels explain of them, Ψ the uniquenesses, which each level leaves anew.  For
    one level these are the factors of the largest likelihood for this Ψ.  Five sweeps of one
    product with the data a level (three in the first) cost as much as 10 to 25 EM updates, about
    what the SVDs cost on a tree; with small groups, whose blocks are formed, twenty are taken.  On
    14 problems of ``tests/benchmarks/test_starts.py``, some of which its constants were chosen on,
    it always leads to within 1e-3 nats a sample of the best maximum known; the SVDs fail on three.
    No start is sure to: on 27 other fits to 100 months of returns it got there 17 times, the
    Frobenius start and the SVDs 13 times each, and `n_init` finds more.  From random starts BFGS
    ends at the best maximum more often than scoring where variances run to zero: 16 of 16 times
    against 13 on 546 months of returns, 9 of 10 against 1 where a tenth of their cells lacks.

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

    *Chunks of rows on a cluster.*  F, D and the search are in this process, chunks and E-steps on
    the workers.  An iteration sends F, D and mean, ``n (R + 2)`` numbers, once to each worker, and
    adds up ``n R + s R`` moments a chunk, s the number of factors of all groups, in pairs that the
    order of the chunks fixes: the same chunks give the same bits on any number of workers, also
    when workers are lost, whose chunks are loaded anew.  Chunks are read again in every pass unless
    ``Y.persist()`` keeps them in the workers' memory; those of `dask.array.from_array` are sent
    once.  A chunk should be many times as large as the moments, ``N_chunk >> R``, and a worker's
    share of an iteration take a second or more: below that one machine is faster.
    ``compress=True`` is one pass in all, and leaves n rows here.

    *Prior.*  D has an inverse-gamma prior, after J. Martin, R. McDonald, "Bayesian estimation in
    unrestricted factor analysis: a treatment for Heywood cases", 1975.  Climbed is the average
    log-likelihood a sample less ``α / (2 N) Σ_i (log D_i + t_i / D_i)``; `objective_trace` is what
    that came to, `loglik_trace` the likelihood alone.  The M-step stays exact: what it gives
    without a prior becomes ``(N_i D_i + α t_i) / (N_i + α)``, N_i the weight of the samples that
    show feature i.  So D_i stays above ``α t_i / (N_i + α)``, there are no Heywood cases, and there
    is a maximum whatever the ranks.  It depends neither on rotations nor, with the features' own
    variances, on their units.  Held out, 20 months of 30 returns gain 37 nats a month, 80 months 2.
    It loses where many samples tell of variances far below α t / N: 0.03 to 0.14 nats a feature,
    with 2 to 12 factors, on 456 samples of 30 measures of breast cancer.  A warning then names the
    features.  "cv" loses there, too: where samples have heavy tails one standard error is much, and
    `prior_table` shows what weaker priors came to.  See
    ``tests/benchmarks/test_prior_held_out.py``.

    *Chunks of columns.*  A dask array ``Y.rechunk((-1, widths))`` says how F, D and the data are
    cut: chunk by chunk, in the order of the tree (``Y[:, hierarchy.permutation]`` where that is
    another).  The levels above the coarsest one whose groups no chunk cuts are swept at one place;
    with ranks R_c there, an evaluation moves ``R_c² + R_c N`` numbers for each of their groups and
    each part up, and as many down: so N should not be many times the features of a part.  Chunks
    that cut the finest groups do so with all R.  Steps are those of BFGS, or of EM, to the same
    iterates as on one machine; vectors stay in parts, and their inner products come here.  Results
    have the same bits for any number of workers, and go on when some or all are lost: every 10 to
    40 evaluations, the rarer the longer it takes, what the next one needs is written to files, in a
    directory that all workers must share (dask's setting temporary-directory).  Levels above the
    parts start from principal factors of what coarser levels leave of the data, where
    ``init="principal_factor"``, else from the singular directions; the parts' own levels as in
    memory.  A fit that is resumed from a checkpoint needs the same chunks; by plain EM a checkpoint
    costs an evaluation.  There is no scoring, no missing cell, and no correction for variances
    below 2e-7 of a feature's own.  It pays where one memory does not hold F, or an iteration takes
    workers a second and more.

    Interrupted (Ctrl-C), the fit finishes its update, writes the checkpoint and returns the best
    parameters so far, ``termination="interrupted"``.  A second Ctrl-C breaks the update off; then
    the checkpoint stays as last written.  With `n_jobs` the best climb that was over is returned,
    and where none was the interruption goes through as KeyboardInterrupt.

    *Side by side.*  Workers are processes of this machine, which take about a second to begin, or
    those of a cluster in ``with joblib.parallel_config(backend="dask"):``.  Those of this machine
    share its threads: each has ``cores // n_jobs``, at least one, for BLAS and for the kernels;
    on a cluster each fit has one.  Random numbers belong to a start or a fold, not to a worker, so
    that results are the same for any number of jobs: bit for bit where BLAS gives the same for any
    number of threads, as with ``OPENBLAS_NUM_THREADS=1``, and else to rounding.

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

    From a correlation matrix and the number of samples behind it:

    >>> S = np.corrcoef(sim.Y.T)
    >>> same = fit_factor_model(covariance=S, n_samples=400, ranks=(1, 1), hierarchy=h)
    >>> bool(np.allclose(same.uniquenesses, fit.uniquenesses, atol=1e-3))
    True

    Few samples, and how well what they give describes the distribution they come from:

    >>> bare, shrunk = (fit_factor_model(sim.Y[:20], (1, 1), h, prior=p) for p in (None, True))
    >>> bool(shrunk.expected_loglik(sim.covariance) > bare.expected_loglik(sim.covariance) + 1)
    True
    """
    if covariance is not None or n_samples is not None:
        check_no_samples(Y, covariance, sample_weight=sample_weight, compress=compress,
                         missing=missing, prior=prior)
        Y = open_covariance(covariance, n_samples, hierarchy)
    if check_rank(n_init, "n_init") < 1:
        raise ValueError("n_init must be at least 1, got 0")
    rules = {} if tol is None else {"tol": tol}
    stopping = FactorStopping(**rules, gtol=gtol, max_iter=max_iter)
    check_number(variance_floor, "variance_floor", below=1)
    checkpointing = Checkpointing(checkpoint, checkpoint_every, checkpoint_seconds, resume)
    checkpointing.check(in_parts=cut_by_columns(Y))  # before the data are gone through
    jobs = Jobs(n_jobs, callback=callback, checkpoint=checkpoint, data=Y)
    if cut_by_columns(Y):
        return fit_columns(
            read_given(Y, sample_weight), ranks, hierarchy, init=init, n_init=n_init,
            optimizer=optimizer, prior=prior, prior_variance=prior_variance, center=center,
            missing=missing, compress=compress, stopping=stopping, tol=tol,
            variance_floor=variance_floor, watch=Watch(progress, callback),
            checkpointing=checkpointing, random_state=random_state)
    prior_scores = None
    if isinstance(prior, str) and prior == "cv":
        prior, prior_scores = search_prior(fit_factor_model, Y, ranks, hierarchy, sample_weight, {
            "init": init, "n_init": n_init, "optimizer": optimizer,
            "prior_variance": prior_variance, "center": center, "missing": missing,
            "compress": compress, "tol": tol, "gtol": gtol, "max_iter": max_iter,
            "variance_floor": variance_floor, "random_state": random_state}, progress, jobs)
    source, hierarchy, names = open_source(Y, hierarchy, center, missing, sample_weight, compress)
    check_scale(source, hierarchy, names)
    level_ranks = check_ranks(ranks, hierarchy)
    stopping = felt_by(stopping, tol, source.n_samples)
    way = chosen_optimizer(optimizer, source, sum(level_ranks))
    penalty = read_prior(prior, prior_variance, source.n_samples, source.shares, source.variance,
                         hierarchy, level_ranks, names)
    # In tree order nothing has to be permuted during the iteration, only its result at the end.
    surface = LikelihoodSurface(
        source, hierarchy._in_tree_order(), level_ranks, variance_floor * source.variance,
        linear=is_linear(way), prior=penalty)
    # One seed a start; a later start does not change an earlier one's.
    seeds = np.random.default_rng(random_state).integers(2**63, size=n_init)
    tournament, keeper, saved = Tournament(tuple(map(int, seeds))), None, None
    if checkpoint is not None:
        options = to_resume(
            init, n_init, stopping, random_state, optimizer=way, center=bool(center),
            variance_floor=float(variance_floor), prior=describe_prior(penalty))
        keeper = Checkpoint(
            checkpointing, fingerprint(hierarchy, level_ranks, source, **options), tournament)
        tournament = keeper.resume(surface, jumps_of(way, surface.vectors))
        saved = keeper.saved
    race = Race(surface, hierarchy, init, stopping, way)
    try:
        best = best_of_starts(race, tournament, Watch(progress, callback, keeper), saved, jobs)
    except VanishingVariance as error:
        raise error.naming(hierarchy, names, "feature") from None
    place = at_floor(best.point.D, surface.floor)
    boundary = np.sort(hierarchy.permutation[place])
    unbounded = None
    if penalty is None:
        unbounded = (too_few_samples(hierarchy, level_ranks, source.n_samples, center)
                     or run_off(source, hierarchy, level_ranks, best.point, place, names))
    warn_of_end(best, source.n_samples, stopping, stacklevel=4)  # through the decorator
    warn_of_floor(boundary, names, variance_floor, unbounded, stacklevel=4)
    fitted = best.point.operator(hierarchy, level_ranks, source.dtype).principal()
    of_prior = prior_fields(penalty, hierarchy)
    if prior_scores is None:
        warn_of_prior(ruled_by_prior(hierarchy._scatter(best.point.D), of_prior), hierarchy.n,
                      names, stacklevel=4)
    exact_mean, loglik = hierarchy._scatter(best.point.mean), best.logliks[-1]
    mean = exact_mean.astype(source.dtype, copy=False)
    if source.dtype != np.float64:
        loglik = _rounded_loglik(source, hierarchy, fitted, mean, exact_mean)
    return FactorModelResult(
        covariance=fitted, mean=mean, loglik=loglik, loglik_trace=np.array(best.logliks),
        n_iter=len(best.logliks) - 1, converged=best.termination in CONVERGED,
        termination=best.termination, boundary=boundary, n_samples=source.n_samples,
        n_evaluations=best.n_evaluations, gradient_norm=best.gradient_norm, feature_names=names,
        capped=capped_groups(hierarchy, level_ranks), mean_is_estimated=bool(center),
        objective_trace=np.array(best.objectives), optimizer=way,
        prior_scores=prior_scores, **of_prior)


def _rounded_loglik(source: Source, hierarchy: Hierarchy, covariance: MLR, mean: FloatArray,
                    exact_mean: FloatArray) -> float:
    """The log-likelihood of parameters that have been rounded to single precision."""
    rounded = covariance.astype(float)
    F, D, at = map(hierarchy._gather, (rounded.F, rounded.D, mean.astype(float)))
    in_tree = MLR.from_compact(hierarchy._in_tree_order(), covariance.ranks, F, D)
    loglik = source.evaluate(in_tree, at).loglik
    if not source.mean_is_free:  # complete samples are taken about their exact mean
        loglik -= 0.5 * float(rounded.inv_quad(mean - exact_mean))
    return float(loglik)
