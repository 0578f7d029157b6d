"""`FactorModelResult`: a fitted factor model and its methods."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._common.cluster import is_dask
from .._common.disk import by_blocks
from .._common.labelled import Samples, like_rows, read_samples, with_names
from .._common.stored import Stored
from .._common.typing import (
    FloatArray,
    IntArray,
    Labels,
    RandomState,
    Real,
    RotationMethod,
    RowData,
    ScoreMethod,
)
from .._common.validate import check_rank, shows_a_cell
from .._common.wording import counted
from ..operators.mlr import MLR
from . import by_chunks, conditional, divergence
from .check import Checked
from .explained import Explained
from .fit_measures import Measured
from .prior_search import PriorRecord
from .rotation import RotatedLoadings, loadings_frame, rotate
from .stored import FIELDS, checked
from .summary import summarize

__all__ = ["FactorModelResult"]


@dataclass(frozen=True, repr=False)
class FactorModelResult(Stored, Explained, Checked, Measured):
    """A fitted factor model; what `fit_factor_model` returns.

    Attributes
    ----------
    covariance : MLR
        Fitted covariance ``Σ_l F_l F_lᵀ + diag(D)``, feature order, factors on principal axes
        (`MLR.principal`).
    mean : ndarray, shape (n,)
        Mean of the data; zeros with ``center=False``.
    loglik : float
        Average log-likelihood a sample of the fitted parameters.
    loglik_trace : ndarray, shape (n_iter + 1,)
        Entry t is the average log-likelihood a sample of the parameters after t updates.
    n_iter : int
        Number of updates.
    converged : bool
    termination : str
        Why it stopped: ``"tol"`` (called ``"loglik"`` in version 0.1), ``"gradient"``,
        ``"max_iter"``, ``"callback"`` or ``"interrupted"``.
    boundary : ndarray of int, shape (number of them,)
        Features whose variance in D stands at its floor, the smallest value that the fit allows.
        In such a *Heywood case* the factors explain all of the feature's variance.
    n_samples : int
        Number of samples fitted to.
    n_evaluations : int
        Evaluations of the likelihood from the start that was kept, those of refused steps included.
    gradient_norm : float
        Largest derivative of the log-likelihood a sample by a loading or a mean, in units of the
        square root of the feature's D, or by log D; variances at the floor count only where they
        would rise.
    feature_names : tuple of str or None
        Column names of the data where it had some, else those of the hierarchy.  Arrays of the
        result are in their order.
    capped : tuple of (int, int, int)
        ``(level, group, features)`` of groups that can use fewer factors than their level's rank:
        m features have no use for more than m, at all the levels together at which they are a group
        of their own.  Coarser levels get theirs first; further columns are zero.
    mean_is_estimated : bool
        Whether `mean` was fitted to the data, and counts among the parameters.
    objective_trace : ndarray, shape (n_iter + 1,)
        What was climbed: `loglik_trace`, less what a prior takes off.  It never falls;
        with a prior the log-likelihood may.
    optimizer : str
        How steps were found: ``"scoring"``, ``"bfgs"`` or ``"em"``.
    prior : float
        Strength α of the prior on D in pseudo-samples; 0 without one.
    prior_variance, prior_share : ndarray, shape (n,), or None
        The prior's variances t, and its share ``α / (N_i + α)`` of each variance in D.
    prior_scores : ndarray, shape (k, 3), or None
        With ``prior="cv"``: strengths, strongest first, and the numbers of `prior_table`.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import fit_factor_model
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.standard_normal((500, 1)) + rng.standard_normal((500, 6))
    >>> fit = fit_factor_model(Y, ranks=1)
    >>> fit.termination, fit.covariance.ranks, fit.loglik_trace.size == fit.n_iter + 1
    ('gradient', (1,), True)
    >>> bool(np.isclose(fit.score(Y), fit.loglik))
    True
    """

    covariance: MLR
    mean: FloatArray
    loglik: float
    loglik_trace: FloatArray = field(repr=False)
    n_iter: int
    converged: bool
    termination: str
    boundary: IntArray
    n_samples: int
    n_evaluations: int = 0
    gradient_norm: float = math.nan
    feature_names: tuple[str, ...] | None = None
    capped: tuple[tuple[int, int, int], ...] = ()
    mean_is_estimated: bool = True
    objective_trace: FloatArray | None = field(default=None, repr=False)
    optimizer: str = "bfgs"
    prior: float = 0.0
    prior_variance: FloatArray | None = field(default=None, repr=False)
    prior_share: FloatArray | None = field(default=None, repr=False)
    prior_scores: FloatArray | None = field(default=None, repr=False)

    stored_fields = FIELDS

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> "FactorModelResult":
        return cls(**checked(given))

    @property
    def n_features(self) -> int:
        """Number of features n."""
        return self.mean.size

    @property
    def objective(self) -> float:
        """What was maximized: the average log-likelihood a sample, less what a prior takes off."""
        return self.loglik if self.objective_trace is None else float(self.objective_trace[-1])

    @property
    def prior_table(self) -> tuple[PriorRecord, ...]:
        """Strengths that ``prior="cv"`` compared; empty where there was nothing to compare."""
        return tuple(PriorRecord(*x) for x in ([] if self.prior_scores is None
                                               else self.prior_scores.tolist()))

    def _samples(self, Y: Any, missing: bool = False) -> Samples:
        """Data as `Samples`; every method that takes data takes it from here."""
        return read_samples(Y, self.feature_names, self.mean.size, missing)

    # ---------------------------------------------------------------- data under the model

    def score_samples(self, Y: RowData) -> Any:
        """Log-likelihood of each sample.

        Parameters
        ----------
        Y : array_like, DataFrame or data on disk, shape (N, n)
            The columns of a DataFrame stand in any order, and have the names fitted to.  NaN marks
            a missing cell, which is left out.  Data on disk are read block by block.

        Returns
        -------
        loglik : ndarray, Series, column of pyarrow for a table on disk, or dask array, shape (N,)
            0 for a sample without an observed cell.
        """
        if is_dask(Y):
            return by_chunks.score_samples(self, Y)
        return by_blocks(lambda block, _: like_rows(block, self._logliks(block)[0], "loglik"), Y)

    def score(self, Y: RowData) -> Any:
        """Average log-likelihood a sample; one without an observed cell counts nowhere.

        Parameters
        ----------
        Y : as in `score_samples`

        Returns
        -------
        float, or dask array without dimensions
        """
        if is_dask(Y):
            return by_chunks.score(self, Y)
        return conditional.average(*by_blocks(lambda block, _: self._logliks(block), Y))

    def _logliks(self, Y):
        """Log-likelihoods of samples, and which of them have a cell."""
        Y = self._samples(Y, missing=True).values
        return conditional.loglik_samples(self.covariance, self.mean, Y), shows_a_cell(Y)

    def scores(self, Y: RowData, level: int | None = None, *, covariance: bool = False,
               method: ScoreMethod = "posterior") -> Any:
        r"""Scores of the factors in each sample.

        Parameters
        ----------
        Y : array_like, DataFrame or data on disk, shape (N, n)
            NaN marks a missing cell; scores are then those given the observed cells of each row.
        level : int, optional
            One level; default all of them.
        covariance : bool, optional
            Also return the covariance of a group's factors given the data.
        method : {"posterior", "bartlett"}, optional
            Posterior means, ``(I + Fᵀ D⁻¹ F)⁻¹ Fᵀ D⁻¹ (y - μ)`` with F spread out; or weighted
            least squares over all factors jointly, ``(Fᵀ D⁻¹ F)⁻¹ Fᵀ D⁻¹ (y - μ)``, which is
            unbiased given the factors (M. Bartlett, 1937).

        Returns
        -------
        scores : ndarray, shape (N, p_l, r_l), or DataFrame
            A tuple of L arrays for ``level=None``.  For a DataFrame they are DataFrames with its
            rows, and columns ``(group, factor)``, in the order of `Hierarchy.names`.
        covariance : ndarray, shape (p_l, r_l, r_l), or (N, p_l, r_l, r_l) if a cell is missing
            Of the factors given the data, or of the error of the least squares scores.  It is the
            same for all complete rows, and one a row where any cell of Y is missing.  A tuple of L
            arrays for ``level=None``.  Only with ``covariance=True``.

        Raises
        ------
        ValueError, IndexError
            Data that do not fit the model, a level that does not exist.
        numpy.linalg.LinAlgError
            ``method="bartlett"`` where ``Fᵀ D⁻¹ F`` is singular: a level's factors depend on those
            of finer levels.  The message names level and group.  Factors that a group does not use
            (columns of zeros, as in groups smaller than their rank) are left out: their score is 0
            with variance 1.  It names rows, too, whose observed cells are too few for all factors.

        Notes
        -----
        A row without an observed cell has the posterior that the factors have without data: mean 0
        and covariance I.  Each different pattern of missing cells takes one factorization.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import Hierarchy, fit_factor_model
        >>> from mlrops.datasets import simulate_mlr
        >>> sim = simulate_mlr(Hierarchy.balanced(40, [1, 4]), (1, 1), 300, random_state=0)
        >>> fit = fit_factor_model(sim.Y, (1, 1), sim.covariance.hierarchy)
        >>> fit.scores(sim.Y, level=1).shape
        (300, 4, 1)
        >>> z, cov = fit.scores(sim.Y, level=0, covariance=True)
        >>> r = np.corrcoef(z[:, 0, 0], sim.scores[0][:, 0, 0])[0, 1]
        >>> bool(abs(r) > 0.95), cov.shape
        (True, (1, 1, 1))
        """
        if is_dask(Y):
            return by_chunks.scores(self, Y, level, method, covariance)
        return conditional.factor_scores(self, Y, level, method, covariance=covariance)

    def sample(self, size: int | None = None, random_state: RandomState = None) -> Any:
        """Draw from the fitted normal distribution.

        Parameters
        ----------
        size : int, optional
            Number of samples; None draws one.
        random_state : None, int, numpy.random.Generator or RandomState
            Seed or generator.

        Returns
        -------
        samples : ndarray, shape (n,) for ``size=None``, else (size, n)
            A Series or DataFrame of pandas where the features have names.
        """
        drawn = self.covariance.sample(size, random_state) + self.mean
        return with_names(drawn.T, self.feature_names).T

    # ---------------------------------------------------------------- against a known truth

    def expected_loglik(self, true_covariance: Any, true_mean: Labels | None = None) -> float:
        r"""Expected log-likelihood of a new sample from a known normal distribution.

        Parameters
        ----------
        true_covariance : operator, array_like or DataFrame, shape (n, n)
            Its covariance Σ*.  The rows and the columns of a DataFrame, and the features of an
            `MLR` on a hierarchy with names, are those fitted to, in any order.
        true_mean : array_like or Series, shape (n,), optional
            Its mean; default the fitted one.  A Series or dict is matched by name.

        Returns
        -------
        loglik : float
            ``-½ (n log 2π + log det Σ + tr(Σ⁻¹ Σ*) + (μ - μ*)ᵀ Σ⁻¹ (μ - μ*))``, in float64.

        Raises
        ------
        ValueError, TypeError
            Not n×n, an array that is not symmetric, a mean of another length.

        Notes
        -----
        For an `MLR` on any hierarchy, a `LowRankPlusDiagonal` or a `Diagonal` the trace takes one
        pass over both sets of factors, ``2 n R R*`` flops.  For any other operator it takes n
        products with it and n solves, 64 at a time.

        Examples
        --------
        >>> from mlrops import fit_factor_model
        >>> from mlrops.datasets import simulate_factor_model
        >>> sim = simulate_factor_model(20, 2, n_samples=200, random_state=0)
        >>> fit = fit_factor_model(sim.Y, 2)
        >>> bool(fit.expected_loglik(sim.covariance, sim.mean) < fit.loglik)
        True
        >>> bool(0 < fit.kl_divergence(sim.covariance, sim.mean) < 1)
        True
        """
        return divergence.expected_loglik(
            self.covariance, self.mean, true_covariance, true_mean, self.feature_names)

    def kl_divergence(self, true_covariance: Any, true_mean: Labels | None = None) -> float:
        """Kullback-Leibler divergence of the fitted distribution from a known normal one.

        Parameters
        ----------
        true_covariance, true_mean
            As in `expected_loglik`; the covariance must have a ``logdet``.

        Returns
        -------
        divergence : float
            ``KL(true ‖ fitted)``, the true entropy's excess over `expected_loglik`; 0 when equal.

        Raises
        ------
        ValueError, TypeError
            As in `expected_loglik`, or no structured determinant.
        """
        return divergence.kl_divergence(
            self.covariance, self.mean, true_covariance, true_mean, self.feature_names)

    # ---------------------------------------------------------------- reading the factors

    def rotate(self, method: RotationMethod = "varimax", level: int | Sequence[int] | None = None,
               *, normalize: bool = True, power: float = 4.0, max_iter: int = 1000,
               tol: float = 1e-9) -> RotatedLoadings:
        r"""Rotate the factors of every group towards loadings that are easy to read.

        Parameters
        ----------
        method : {"varimax", "quartimax", "promax"}, optional
            Varimax maximizes the variance of squared loadings within the columns of a group,
            ``Σ_j [Σ_i λ_ij⁴ - (Σ_i λ_ij²)² / m]``; quartimax leaves the second term out.  Promax
            goes on from varimax to oblique axes by a least squares fit to ``λ |λ|^(power - 1)``.
        level : int or sequence of int, optional
            Levels to rotate; default all.
        normalize : bool, optional
            Give the features' loadings within a level unit length while axes are sought (Kaiser),
            in promax also for the oblique step.
        power : float, optional
            Of promax, at least 1.
        max_iter : int, optional
            Largest number of sweeps over the pairs of factors.
        tol : float, optional
            A pair is at rest when the derivative of its criterion by the angle is at most `tol`
            times ``Σ_i (λ_ij² + λ_ik²)²``.

        Returns
        -------
        RotatedLoadings
            ``loadings``, ``rotation`` and ``factor_covariance`` a level; ``result``, the model with
            rotated factors, after an orthogonal rotation.

        Raises
        ------
        ValueError, IndexError
            An unknown method, a level that does not exist, `power` or `tol` out of range.
        numpy.linalg.LinAlgError
            The oblique axes of a group depend on each other.

        Warns
        -----
        ConvergenceWarning
            A group did not come to rest.

        Notes
        -----
        Columns of each group are longest first and the entry of largest magnitude of each is
        positive, the convention of `MLR.principal`.  Columns of zeros stay.  Σ and with it the
        log-likelihood are unchanged.  All groups of one size are rotated at once.

        Examples
        --------
        Two bundles of features, each with a factor of its own, behind mixed axes.

        >>> import numpy as np
        >>> from mlrops import fit_factor_model
        >>> rng = np.random.default_rng(0)
        >>> z = rng.standard_normal((2000, 2))
        >>> Y = z.repeat(3, axis=1) + 0.3 * rng.standard_normal((2000, 6))
        >>> turned = fit_factor_model(Y, ranks=2).rotate("varimax")
        >>> np.abs(turned.loadings[0]).round().astype(int).T.tolist()
        [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
        >>> turned.result.covariance.ranks
        (2,)
        """
        return rotate(self, method, level, normalize, power, max_iter, tol)

    def to_frame(self) -> Any:
        """Loadings, variances and communalities as a pandas DataFrame, one row a feature.

        Returns
        -------
        pandas.DataFrame, shape (n, R + 2)
            Columns ``("level 0", "factor 0")``, …, ``"D"``, ``"communality"``; index the names.
        """
        return loadings_frame(self, self.covariance.factors)

    def summary(self, max_factors: int = 20, top: int = 5) -> str:
        """The fit as a readable text, less than 80 columns wide.

        Parameters
        ----------
        max_factors : int, optional
            List the largest loadings of at most this many factors, coarsest level first; 0 leaves
            the list out.
        top : int, optional
            Features to name for each factor.

        Returns
        -------
        str
        """
        return summarize(self, check_rank(max_factors, "max_factors"), check_rank(top, "top"))

    # ---------------------------------------------------------------- given some of the cells

    def impute(self, Y: RowData, return_std: bool = False) -> Any:
        """Fill missing cells with their conditional means given the observed cells of their sample.

        Parameters
        ----------
        Y : array_like, DataFrame or data on disk, shape (N, n)
            NaN marks a missing cell.  Data on disk are read by blocks, what is returned in memory.
        return_std : bool, optional
            Also return conditional standard deviations.

        Returns
        -------
        filled : ndarray or DataFrame, shape (N, n)
            A DataFrame for a DataFrame, with its rows and columns; observed cells as they are.
        std : ndarray or DataFrame, shape (N, n)
            Conditional standard deviations, 0 at observed cells.  Only with ``return_std=True``.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import fit_factor_model
        >>> from mlrops.datasets import simulate_factor_model
        >>> Y = simulate_factor_model(20, 2, n_samples=300, random_state=0).Y
        >>> gone = np.random.default_rng(0).random(Y.shape) < 0.2
        >>> filled, std = fit_factor_model(Y, 2).impute(np.where(gone, np.nan, Y), return_std=True)
        >>> bool(np.isclose(((filled - Y)[gone] / std[gone]).std(), 1, atol=0.1))
        True
        """
        if is_dask(Y):
            return by_chunks.impute(self, Y, return_std)

        def of_block(block: Any, _: int) -> Any:
            samples = self._samples(block, missing=True)
            found: Any = conditional.impute(
                self.covariance, self.mean, samples.values, return_std)
            return tuple(map(samples.back, found)) if return_std else samples.back(found)

        return by_blocks(of_block, Y)

    def condition(self, observed: Labels | Real) -> conditional.Conditional:
        """Distribution of the other features given some.

        Parameters
        ----------
        observed : array_like, shape (n,) of bool or (n_observed,) of int or str, Series or dict
            The features that are given: a mask, their numbers, or their names.  A mask that is a
            Series or dict is matched by name.

        Returns
        -------
        Conditional
            With ``observed``, ``missing``, ``covariance`` (an `MLR`), ``mean_map`` (an operator,
            ``Σ_mo Σ_oo⁻¹``) and ``mean(y)``.

        Raises
        ------
        ValueError
            All features are observed or none, repeated features, names not known or shared.
        IndexError
            Feature numbers out of range.

        Notes
        -----
        Given the observed features the others are normal with mean
        ``μ_m + Σ_mo Σ_oo⁻¹ (y_o - μ_o)`` and a covariance on what the tree leaves of them, with the
        same ranks: neither is ever dense.
        """
        return conditional.condition(self.covariance, self.mean, observed, self.feature_names)

    def __repr__(self) -> str:
        return (f"<FactorModelResult: loglik {self.loglik:.6g} a sample,"
                f" {counted(self.n_iter, 'iteration')}, {self.termination}, {self.covariance!r}>")
