"""`FactorModel`: factor models as a scikit-learn estimator.

Needs scikit-learn (``pip install "mlrops[sklearn]"``).
"""

from functools import partial
from typing import Any

import numpy as np

from ._common.cluster import is_dask
from ._common.deprecated import replaced_option
from ._common.disk import on_disk
from ._common.given import align_weights
from ._common.typing import Data, FloatArray, Labels, Ranks, RowData
from ._common.validate import as_real
from ._common.wording import counted
from .factor import FactorModelResult, fit_factor_model
from .operators.mlr import MLR
from .tree.hierarchy import Hierarchy
from .tree.reading import tree_of

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted
except ImportError as error:
    raise ImportError(
        'mlrops.sklearn needs scikit-learn: python -m pip install "mlrops[sklearn]"') from error

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # a method of the estimators before scikit-learn 1.6

    def validate_data(estimator, X, *, ensure_all_finite=True, **options):
        return estimator._validate_data(X, force_all_finite=ensure_all_finite, **options)


__all__ = ["FactorModel"]

FLOATS = (np.float64, np.float32)


class FactorModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Maximum likelihood factor model, single-level or on a tree of the features.

    The model is :math:`x \sim N(\mu, \Sigma)` with
    :math:`\Sigma = \sum_l F_l F_l^T + \mathrm{diag}(D)`, F_l block diagonal over the groups of
    level l of a hierarchy of the features.  Without a hierarchy it is that of
    `sklearn.decomposition.FactorAnalysis`.

    Parameters
    ----------
    ranks : int or tuple of int, optional
        Number of factors of each level, coarsest first; one number where there is one level.
    hierarchy : Hierarchy or labels, optional
        Tree of the features that `fit` sees, as in `fit_factor_model`; default one level with one
        group.
    init, n_init, n_jobs, optimizer
        As in `fit_factor_model`.
    prior : None, True, float or "cv", optional
        Strength of a prior that keeps the entries of D away from zero, as in `fit_factor_model`:
        for few samples.
    prior_variance : float, array_like, Series or dict, shape (n,), optional
        Variances that it pulls D to; default each feature's own variance.
    center : bool, optional
        As in `fit_factor_model`.
    missing : {"raise", "em"}, optional
        What to do about NaN: refuse it, or leave out the cells it marks, in `fit` as in what is
        done with the fitted model.
    tol, gtol, max_iter, variance_floor
        As in `fit_factor_model`.
    random_state : None, int, RandomState or numpy.random.Generator, optional
        Seed of random starts.

    Attributes
    ----------
    result_ : FactorModelResult
        All that is known of the fit: rotations, criteria, filling in, conditional distributions.
    covariance_ : MLR, shape (n, n)
        Fitted covariance, a linear operator with ``solve`` and ``logdet``.
    mean_ : ndarray, shape (n,)
        Fitted mean; zeros with ``center=False``.
    noise_variance_ : ndarray, shape (n,)
        D, the variance of each feature that is its own.
    components_ : ndarray or sparse array, shape (s, n)
        Loadings, one row a factor, ``s = Σ p_l r_l``; see there.
    loglik_ : float
        Average log-likelihood a sample of the data fitted to.
    n_iter_ : int
        Number of updates.
    n_features_in_ : int
        Number of features n.
    feature_names_in_ : ndarray of str, shape (n,)
        Column names; only where all of them are strings.

    Raises
    ------
    ValueError, TypeError
        From `fit`: what `fit_factor_model` refuses, constant features among it.

    Warns
    -----
    mlrops.ConvergenceWarning
        From `fit`: the iteration cap was reached, or variances stand at their floor.

    See Also
    --------
    mlrops.fit_factor_model : the same as a function; also takes sparse data, chunks of rows,
        callbacks and checkpoints.
    mlrops.select_ranks : ranks by cross-validation or a criterion, fit by fit from warm starts.

    Notes
    -----
    A constant feature has no variance to estimate, and `fit` refuses it by name.  Where features
    may be constant, `sklearn.feature_selection.VarianceThreshold` in front drops them; the
    hierarchy must be that of the features it leaves.  Sparse X is refused, because scores of it
    would be computed on a dense copy.

    Examples
    --------
    >>> from mlrops.datasets import simulate_factor_model
    >>> from mlrops.sklearn import FactorModel
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = simulate_factor_model(12, 2, n_samples=200, random_state=0).Y
    >>> pipe = make_pipeline(StandardScaler(), FactorModel())
    >>> search = GridSearchCV(pipe, {"factormodel__ranks": [1, 2, 3]}, cv=4).fit(X)
    >>> search.best_params_
    {'factormodel__ranks': 2}
    >>> search.transform(X).shape
    (200, 2)
    >>> search.best_estimator_[-1].covariance_
    <12x12 MLR, groups (1,), ranks (2,), float64>
    """

    result_: FactorModelResult
    covariance_: MLR
    mean_: FloatArray
    noise_variance_: FloatArray
    loglik_: float
    n_iter_: int
    n_features_in_: int

    @replaced_option("accelerate", "optimizer", {True: "auto", False: "em"})
    def __init__(self, ranks: Ranks = 1, hierarchy: Hierarchy | Labels | None = None, *,
                 init: Any = "principal_factor", n_init: int = 1, n_jobs: int | None = None,
                 optimizer: str = "auto", prior: Any = None, prior_variance: Any = None,
                 center: bool = True, missing: str = "raise", tol: float | None = None,
                 gtol: float = 1e-5, max_iter: int = 1000, variance_floor: float = 1e-6,
                 random_state: Any = None):
        self.ranks = ranks
        self.hierarchy = hierarchy
        self.init = init
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.optimizer = optimizer
        self.prior = prior
        self.prior_variance = prior_variance
        self.center = center
        self.missing = missing
        self.tol = tol
        self.gtol = gtol
        self.max_iter = max_iter
        self.variance_floor = variance_floor
        self.random_state = random_state

    # ---------------------------------------------------------------- fitting

    def fit(self, X: RowData, y: Any = None,
            sample_weight: Labels | None = None) -> "FactorModel":
        """Fit the model.

        Parameters
        ----------
        X : array_like, DataFrame or data on disk, shape (N, n)
            Data, one sample a row; at least 2 samples, no constant features.  Arrays of zarr and
            h5py, parquet files and datasets stay on disk, as in `fit_factor_model`; memory maps
            are arrays.
        y : ignored
        sample_weight : array_like or Series, shape (N,), optional
            Non-negative weights of the samples; only their ratios count.  A Series is matched to
            the index of a DataFrame.

        Returns
        -------
        self : FactorModel
        """
        _refuse_dask(X)
        # NaN and infinity are left to fit_factor_model, which names their columns.
        check = partial(validate_data, self, dtype=FLOATS, ensure_all_finite=False)
        data: Any = _on_disk(X)
        if data is None:
            data = check(X, ensure_min_samples=2)
        else:
            check(next(iter(data))[:0], ensure_min_samples=0)  # for the names of the features
        names = getattr(self, "feature_names_in_", None)
        options, weights = self.get_params(deep=False), align_weights(sample_weight, X)
        options["hierarchy"] = tree_of(
            self.hierarchy, None if names is None else tuple(names), self.n_features_in_)
        if isinstance(self.random_state, np.random.RandomState):
            options["random_state"] = self.random_state.randint(2**31 - 1)  # for a Generator
        if weights is not None:
            options["sample_weight"] = as_real(weights, "sample_weight")
        fit = fit_factor_model(data, **options)
        self.result_ = fit
        self.covariance_, self.mean_ = fit.covariance, fit.mean
        self.noise_variance_ = fit.covariance.D
        self.loglik_, self.n_iter_ = fit.loglik, fit.n_iter
        return self

    def _check(self, X: RowData) -> Any:
        """Data for a fitted model, as an array, or as arrays that are read from disk."""
        check_is_fitted(self)
        _refuse_dask(X)
        check = partial(validate_data, self, reset=False, dtype=FLOATS,
                        ensure_all_finite="allow-nan" if self.missing == "em" else True)
        disk = _on_disk(X)
        return check(X) if disk is None else disk.through(check)

    # ---------------------------------------------------------------- factors

    def transform(self, X: RowData) -> FloatArray:
        """Scores of the factors: their means given each sample.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, n)
            With ``missing="em"`` NaN marks a missing cell, and the means are those given the
            observed cells of the sample.

        Returns
        -------
        Z : ndarray, shape (N, s)
            ``(I + Fᵀ D⁻¹ F)⁻¹ Fᵀ D⁻¹ (x - μ)`` with F spread out: level by level, group by group,
            the factors of a group side by side.
        """
        data = self._check(X)
        levels = self.result_.scores(data)
        return np.concatenate([z.reshape(len(z), z.shape[1] * z.shape[2]) for z in levels], axis=1)

    def inverse_transform(self, Z: Data) -> FloatArray:
        """Means of samples given their factors, ``Z @ components_ + mean_``.

        Parameters
        ----------
        Z : array_like, shape (N, s)

        Returns
        -------
        X : ndarray, shape (N, n)

        Raises
        ------
        ValueError
            NaN or infinity, or another number of columns than `transform` gives.
        """
        check_is_fitted(self)
        scores = check_array(Z, dtype=FLOATS, ensure_min_features=0, input_name="Z")
        if scores.shape[1] != self._n_features_out:
            raise ValueError(f"Z must have {counted(self._n_features_out, 'factor')} (columns), got"
                             f" shape {scores.shape}")
        return scores @ self.components_ + self.mean_

    @property
    def components_(self) -> Any:
        """Loadings, one row a factor in the order of `transform`, shape (s, n).

        With a single group an array, as in `sklearn.decomposition.FactorAnalysis`.  On a tree a
        `scipy.sparse.csr_array`, formed anew each time: a factor loads on the features of its
        group only, so of ``n s`` entries ``n R`` are stored.
        """
        A = self.result_.covariance
        if A.hierarchy.group_counts == (1,):
            return A.F.T
        F = A.expanded_matrix()[:A.shape[0], A.shape[0]:]
        return F.T.tocsr().astype(A.dtype, copy=False)

    @property
    def _n_features_out(self) -> int:
        return int(np.dot(self.covariance_.hierarchy.group_counts, self.covariance_.ranks))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Names of the columns of `transform`.

        Parameters
        ----------
        input_features : array_like of str, shape (n,), optional
            Only compared with the names of the features fitted to.

        Returns
        -------
        names : ndarray of str, shape (s,)
            ``"level1_bank_factor0"``: the level, left out where there is one only; the name or
            number of the group, left out where it is the only one of its level; the factor.
        """
        super().get_feature_names_out(input_features)  # the comparison
        A = self.result_.covariance
        return np.array([f"{group}factor{k}" for level, r in enumerate(A.ranks)
                         for group in _groups(A.hierarchy, level) for k in range(r)], dtype=object)

    # ---------------------------------------------------------------- the distribution

    def score_samples(self, X: RowData) -> FloatArray:
        """Log-likelihood of each sample.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, n)
            With ``missing="em"`` NaN marks a missing cell, which is left out.

        Returns
        -------
        loglik : ndarray, shape (N,)
            0 for a sample without an observed cell.
        """
        data = self._check(X)
        return self.result_.score_samples(data)

    def score(self, X: RowData, y: Any = None) -> float:
        """Average log-likelihood a sample; one without an observed cell counts nowhere.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, n)
        y : ignored

        Returns
        -------
        loglik : float
        """
        data = self._check(X)
        return self.result_.score(data)

    def get_covariance(self) -> FloatArray:
        """Fitted covariance as a dense array (n, n); `covariance_` is the operator."""
        check_is_fitted(self)
        return self.covariance_.toarray()

    def get_precision(self) -> FloatArray:
        """Inverse of that as a dense array (n, n); ``covariance_.inv()`` is the operator."""
        check_is_fitted(self)
        return self.covariance_.inv().toarray()

    # ---------------------------------------------------------------- what scikit-learn asks

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "em"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _more_tags(self) -> dict[str, Any]:  # the same before scikit-learn 1.6
        return {"allow_nan": self.missing == "em", "preserves_dtype": FLOATS}


def _refuse_dask(X: Any) -> None:
    """Refuse what would be computed to become an array: nobody asked for that."""
    if is_dask(X):
        raise TypeError(f"X must be in memory, got a dask {type(X).__name__}, which is not computed"
                        " unasked: give X.compute(), or fit by fit_factor_model, which takes it")


def _on_disk(X):
    """See `on_disk`; memory maps are arrays here, because joblib makes them of arrays in memory."""
    return None if isinstance(X, np.ndarray) else on_disk(X)


def _groups(hierarchy: Hierarchy, level: int) -> list[str]:
    """The beginning of the names of the factors of each group of a level."""
    prefix = f"level{level}_" if hierarchy.n_levels > 1 else ""
    count, names = hierarchy.group_counts[level], hierarchy.names(level)
    if count == 1:
        return [prefix]
    if names is None or len(set(map(str, names))) < count:
        names = tuple(range(count))
    return [f"{prefix}{name}_" for name in names]
