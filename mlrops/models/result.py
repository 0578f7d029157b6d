"""`FactorModelResult`: what a fitted factor model knows and can do."""

import math
from dataclasses import dataclass, field

import numpy as np

from .._wording import counted
from ..operators._validate import as_finite, as_real, check_rank
from ..operators.bartlett import BartlettScores
from ..operators.mlr import MLR
from . import conditional, criteria, divergence
from .frames import check_names, like_frame, loadings_frame
from .rotation import rotate
from .sources import as_array
from .summary import summarize

__all__ = ["FactorModelResult"]


@dataclass(frozen=True, repr=False)
class FactorModelResult:
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
        Why it stopped: ``"loglik"``, ``"gradient"``, ``"max_iter"``, ``"callback"`` or
        ``"interrupted"``.
    boundary : ndarray of int, shape (number of them,)
        Features whose variance in D stands at the floor (Heywood cases).
    n_samples : int
        Number of samples fitted to.
    n_evaluations : int
        Number of evaluations of the EM map, rejected jumps of the acceleration included.
    gradient_norm : float
        Largest derivative of the log-likelihood a sample by a loading or a mean, in units of the
        square root of the feature's D, or by log D; variances at the floor count only where they
        would rise.
    feature_names : tuple of str or None
        Column names of the data where it had some.
    capped : tuple of (int, int, int)
        ``(level, group, features)`` of groups that have fewer features than their level's rank.
    mean_is_estimated : bool
        Whether `mean` was fitted to the data, and counts among the parameters.

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
    mean: np.ndarray
    loglik: float
    loglik_trace: np.ndarray = field(repr=False)
    n_iter: int
    converged: bool
    termination: str
    boundary: np.ndarray
    n_samples: int
    n_evaluations: int = 0
    gradient_norm: float = math.nan
    feature_names: tuple | None = None
    capped: tuple = ()
    mean_is_estimated: bool = True

    def _rows(self, Y, missing=False):
        """Data (N, n) as an array; every method that takes data takes it from here."""
        n = self.mean.size
        names = getattr(Y, "columns", None)
        if names is not None and self.feature_names is not None:
            check_names(names, self.feature_names)
        if names is not None:
            Y = as_array(Y, names)
        Y = as_real(Y, "Y", ndim=2) if missing else as_finite(Y, "Y", ndim=2, axis=1)
        if Y.shape[1] != n:
            raise ValueError(f"Y must have {counted(n, 'feature')} (columns), got shape {Y.shape}")
        return Y

    # ---------------------------------------------------------------- data under the model

    def score_samples(self, Y):
        """Log-likelihood of each sample.

        Parameters
        ----------
        Y : array_like or DataFrame, shape (N, n)
            A DataFrame must have the columns of the one fitted to, in that order.  NaN marks a
            missing cell, which is left out.

        Returns
        -------
        loglik : ndarray, shape (N,)
            0 for a sample without an observed cell.
        """
        Y = self._rows(Y, missing=True)
        return conditional.loglik_samples(self.covariance, self.mean, Y)

    def score(self, Y):
        """Average log-likelihood a sample; one without an observed cell counts nowhere.

        Parameters
        ----------
        Y : array_like or DataFrame, shape (N, n)

        Returns
        -------
        float
        """
        Y = self._rows(Y, missing=True)
        return conditional.average(conditional.loglik_samples(self.covariance, self.mean, Y), Y)

    def scores(self, Y, level=None, *, covariance=False, method="posterior"):
        r"""Scores of the factors in each sample.

        Parameters
        ----------
        Y : array_like or DataFrame, shape (N, n)
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
        scores : ndarray, shape (N, p_l, r_l)
            A tuple of L arrays for ``level=None``.
        covariance : ndarray, shape (p_l, r_l, r_l)
            The same for every sample: of the factors given the data, or of the error of the least
            squares scores.  A tuple of L arrays for ``level=None``.  Only with ``covariance=True``.

        Raises
        ------
        ValueError, IndexError
            Data that do not fit the model, a level that does not exist.
        numpy.linalg.LinAlgError
            ``method="bartlett"`` where ``Fᵀ D⁻¹ F`` is singular: a level's factors depend on those
            of finer levels.  The message names level and group.  Factors that a group does not use
            (columns of zeros, as in groups smaller than their rank) are left out: their score is 0
            with variance 1.

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
        if method not in ("posterior", "bartlett"):
            raise ValueError(f"method must be 'posterior' or 'bartlett', got {method!r}")
        h = self.covariance.hierarchy
        levels = range(h.n_levels) if level is None else (h._level(level),)
        X = (self._rows(Y) - self.mean).T
        factors = (self.covariance.posterior(X, check_finite=False) if method == "posterior"
                   else BartlettScores(self.covariance, X, check_finite=False))
        means = tuple(np.moveaxis(factors.mean(at), 2, 0) for at in levels)
        if not covariance:
            return means if level is None else means[0]
        spreads = tuple(factors.covariance(at) for at in levels)
        return (means, spreads) if level is None else (means[0], spreads[0])

    def sample(self, size=None, random_state=None):
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
        """
        return self.covariance.sample(size, random_state) + self.mean

    # ---------------------------------------------------------------- against a known truth

    def expected_loglik(self, true_covariance, true_mean=None):
        r"""Expected log-likelihood of a new sample from a known normal distribution.

        Parameters
        ----------
        true_covariance : operator or array_like, shape (n, n)
            Its covariance Σ*.
        true_mean : array_like, shape (n,), optional
            Its mean; default the fitted one.

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
        return divergence.expected_loglik(self.covariance, self.mean, true_covariance, true_mean)

    def kl_divergence(self, true_covariance, true_mean=None):
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
            As in `expected_loglik`, or a true covariance without a structured determinant.
        """
        return divergence.kl_divergence(self.covariance, self.mean, true_covariance, true_mean)

    # ---------------------------------------------------------------- what the factors explain

    @property
    def correlation(self):
        """Fitted correlation matrix, an `MLR` on the same hierarchy.

        Factors and D in units of the features' standard deviations; the factors keep their axes.
        """
        A = self.covariance
        sd = np.sqrt(A.diagonal())
        return MLR.from_compact(A.hierarchy, A.ranks, A.F / sd[:, None], A.D / np.square(sd),
                                check_finite=False)

    @property
    def communalities(self):
        """Share of each feature's variance that its common factors explain, (n,)."""
        return 1 - self.uniquenesses

    @property
    def uniquenesses(self):
        """Share of each feature's variance that is its own, ``D / diag(Σ)``, (n,)."""
        return self.covariance.D / self.covariance.diagonal()

    def variance_shares(self, by="covariance"):
        """Share of variance that each level explains.

        Parameters
        ----------
        by : {"covariance", "correlation", "feature"}, optional
            Shares of ``tr Σ``; shares of the trace of the correlation matrix, in which every
            feature counts the same; or the shares of each feature.

        Returns
        -------
        shares : ndarray, shape (L + 1,), or (n, L + 1) by feature
            Levels, coarsest first, then D.  Each row sums to 1.

        Raises
        ------
        ValueError
            Another `by`.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import Hierarchy, fit_factor_model
        >>> from mlrops.datasets import simulate_mlr
        >>> sim = simulate_mlr(Hierarchy.balanced(60, [1, 4]), (2, 1), 500, random_state=0)
        >>> fit = fit_factor_model(sim.Y, (2, 1), sim.covariance.hierarchy)
        >>> np.round(fit.variance_shares(), 1)  # a third each, in the population
        array([0.3, 0.3, 0.3])
        """
        if by not in ("covariance", "correlation", "feature"):
            raise ValueError(
                f"by must be 'covariance', 'correlation' or 'feature', got {by!r}")
        A = self.covariance
        parts = np.stack([*(np.einsum("ij,ij->i", F, F, dtype=float) for F in A.factors), A.D],
                         axis=1)
        if by == "covariance":
            return parts.sum(axis=0) / parts.sum()
        shares = parts / parts.sum(axis=1, keepdims=True)
        return shares.mean(axis=0) if by == "correlation" else shares.astype(A.dtype, copy=False)

    # ---------------------------------------------------------------- comparing models

    @property
    def degrees_of_freedom(self):
        """Number of free parameters, rotations counted out; see `mlrops.models.criteria`."""
        A = self.covariance
        return criteria.degrees_of_freedom(A.hierarchy, A.ranks, self.mean_is_estimated)

    @property
    def aic(self):
        """Akaike's criterion of all samples, ``-2 N loglik + 2 df``; smaller is better."""
        return -2 * self.n_samples * self.loglik + 2 * self.degrees_of_freedom

    @property
    def bic(self):
        """Schwarz's criterion of all samples, ``-2 N loglik + df log N``; smaller is better."""
        return (-2 * self.n_samples * self.loglik
                + math.log(self.n_samples) * self.degrees_of_freedom)

    # ---------------------------------------------------------------- reading the factors

    def rotate(self, method="varimax", level=None, *, normalize=True, power=4.0, max_iter=1000,
               tol=1e-9):
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

    def to_frame(self):
        """Loadings, variances and communalities as a pandas DataFrame, one row a feature.

        Returns
        -------
        pandas.DataFrame, shape (n, R + 2)
            Columns ``("level 0", "factor 0")``, …, ``"D"``, ``"communality"``; index the names.
        """
        return loadings_frame(self, self.covariance.factors)

    def summary(self, max_factors=20, top=5):
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

    def impute(self, Y, return_std=False):
        """Fill missing cells with their conditional means given the observed cells of their sample.

        Parameters
        ----------
        Y : array_like or DataFrame, shape (N, n)
            NaN marks a missing cell.
        return_std : bool, optional
            Also return conditional standard deviations.

        Returns
        -------
        filled : ndarray or DataFrame, shape (N, n)
            A DataFrame for a DataFrame; observed cells as they are.
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
        found = conditional.impute(self.covariance, self.mean, self._rows(Y, missing=True),
                                   return_std)
        return tuple(like_frame(Y, x) for x in found) if return_std else like_frame(Y, found)

    def condition(self, observed):
        """Distribution of the other features given some.

        Parameters
        ----------
        observed : array_like, shape (n,) of bool or (n_observed,) of int or str
            The features that are given: a mask, their numbers, or their names.

        Returns
        -------
        Conditional
            With ``observed``, ``missing``, ``covariance`` (an `MLR`), ``mean_map`` (an operator,
            ``Σ_mo Σ_oo⁻¹``) and ``mean(y)``.
        """
        return conditional.condition(self.covariance, self.mean, observed, self.feature_names)

    def __repr__(self):
        return (f"<FactorModelResult: loglik {self.loglik:.6g} a sample,"
                f" {counted(self.n_iter, 'iteration')}, {self.termination}, {self.covariance!r}>")
