"""Seeded draws from regressions whose errors have a structured covariance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._common.typing import FloatArray, RandomState, Ranks, Vector
from .._common.validate import as_finite, as_generator, check_rank
from .._common.wording import counted
from ..operators.base import StructuredOperator
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .simulate import at_least_one, simulate_mlr

__all__ = ["GLSSimulation", "SURSimulation", "simulate_gls", "simulate_sur"]


@dataclass(frozen=True, eq=False, repr=False)
class SURSimulation:
    """What `simulate_sur` returns.

    Attributes
    ----------
    Xs : list of K ndarray, shapes (N, p_j)
        Regressors of each equation.
    Y : ndarray, shape (N, K)
        Dependent variables: ``Y[:, j] = Xs[j] @ params[j] + errors[:, j]``.
    params : list of K ndarray, shapes (p_j,)
        The true coefficients.
    covariance : MLR
        The true K×K covariance of the errors; its ``factors`` and ``D`` are the parameters drawn.
    errors : ndarray, shape (N, K)
        The errors.
    scores : tuple of L ndarray, shapes (N, p_l, r_l)
        The factors that moved each group of equations, as in `Simulation`.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.datasets import simulate_sur
    >>> data = simulate_sur(3, 2, ranks=1, n_samples=50, random_state=0)
    >>> bool(np.allclose(data.Y[:, 1], data.Xs[1] @ data.params[1] + data.errors[:, 1]))
    True
    """

    Xs: list[FloatArray]
    Y: FloatArray
    params: list[FloatArray]
    covariance: MLR
    errors: FloatArray
    scores: tuple[FloatArray, ...]

    def __repr__(self) -> str:
        N, K = self.Y.shape
        total = sum(map(len, self.params))
        return (f"<SURSimulation of {counted(N, 'observation')} of {counted(K, 'equation')},"
                f" {counted(total, 'coefficient')}, {self.Y.dtype}; {self.covariance!r}>")


@dataclass(frozen=True, eq=False, repr=False)
class GLSSimulation:
    """What `simulate_gls` returns.

    Attributes
    ----------
    X : ndarray, shape (N, p)
        Regressors.
    y : ndarray, shape (N,)
        Dependent variable: ``y = X @ params + errors``.
    params : ndarray, shape (p,)
        The true coefficients.
    covariance : StructuredOperator
        The N×N covariance of the errors, as given.
    errors : ndarray, shape (N,)
        The errors.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Identity
    >>> from mlrops.datasets import simulate_gls
    >>> data = simulate_gls(2, Identity(50), random_state=0)
    >>> bool(np.allclose(data.y, data.X @ data.params + data.errors))
    True
    """

    X: FloatArray
    y: FloatArray
    params: FloatArray
    covariance: StructuredOperator
    errors: FloatArray

    def __repr__(self) -> str:
        N, p = self.X.shape
        return (f"<GLSSimulation of {counted(N, 'observation')}, {counted(p, 'coefficient')},"
                f" {self.y.dtype}; {self.covariance!r}>")


def simulate_sur(K: int, p: int | Sequence[int], ranks: Ranks, n_samples: int, *,
                 hierarchy: Hierarchy | None = None, noise: float | Vector = 1.0,
                 beta: float | Sequence[Vector] = 1.0, dtype: npt.DTypeLike = np.float64,
                 random_state: RandomState | np.random.RandomState = None) -> SURSimulation:
    """Draw K regressions whose errors share factors, and rows of data from them.

    Regressors are standard normal and independent of the errors.  The errors of one row
    are a draw from the multilevel factor model of `simulate_mlr`, equations in the place of
    features.

    Parameters
    ----------
    K : int
        Number of equations.
    p : int or sequence of K int
        Number of regressors, of all equations or of each.
    ranks : int or sequence of L int
        Factors of the errors: one number without a hierarchy, one a level with it.
    n_samples : int
        Number of rows N, at least 1.
    hierarchy : Hierarchy, optional
        Groups of the K equations.  None is one level with one group.
    noise : float or array_like, shape (K,), default 1.0
        Variances of the part of the errors that is each equation's own.  One number is their
        expected size, an array is taken as it is; see `simulate_mlr`.
    beta : float or sequence of K array_like, shapes (p_j,), default 1.0
        Coefficients.  One number is their standard deviation: they are then drawn from a normal
        distribution of mean zero.  A sequence is taken as it is.
    dtype : {float64, float32}
        Precision of data, coefficients and covariance.  The draws are the same, up to rounding.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Seed or generator.

    Returns
    -------
    SURSimulation
        ``Xs``, ``Y`` (N, K), ``params``, ``covariance`` (`MLR`), ``errors``, ``scores``.

    Raises
    ------
    ValueError
        Counts below 1, sequences of another length than K, ranks that do not match the levels, a
        hierarchy of another number of equations, noise that is not positive.
    TypeError
        A count that is no integer, a hierarchy or dtype of the wrong kind.

    Notes
    -----
    Coefficients, factors and D are drawn before the rows, so that a seed fixes the truth
    whatever `n_samples` is.  No K×K array is formed.

    Examples
    --------
    >>> from mlrops.datasets import simulate_sur
    >>> data = simulate_sur(50, 3, 2, n_samples=200, random_state=0)
    >>> data.Y.shape, data.Xs[7].shape, data.covariance.ranks
    ((200, 50), (200, 3), (2,))

    Unequal numbers of regressors, and errors that follow a tree of equations:

    >>> from mlrops import Hierarchy
    >>> tree = Hierarchy.balanced(6, [1, 3])
    >>> data = simulate_sur(
    ...     6, [1, 2, 3, 1, 2, 3], [1, 1], n_samples=40, hierarchy=tree, random_state=0)
    >>> [len(b) for b in data.params]
    [1, 2, 3, 1, 2, 3]
    """
    K, N = at_least_one(K, "K"), at_least_one(n_samples, "n_samples")
    widths: list[Any] = [p] * K if np.ndim(p) == 0 else list(p)  # type: ignore[arg-type]
    if len(widths) != K:
        raise ValueError(f"p must be an integer or one for each of the {counted(K, 'equation')},"
                         f" got {len(widths)}")
    widths = [at_least_one(width, f"p of equation {j}") for j, width in enumerate(widths)]
    if hierarchy is None:
        if np.ndim(ranks) != 0:
            raise ValueError("ranks must be one integer where there is no hierarchy, got"
                             f" {ranks!r}; a rank for each level needs hierarchy=")
        hierarchy, ranks = Hierarchy.flat(K), [check_rank(ranks, "ranks")]
    elif not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}")
    elif hierarchy.n != K:
        raise ValueError(f"hierarchy must group the {counted(K, 'equation')}, got one of"
                         f" {hierarchy.n}")

    dtype, rng = np.dtype(dtype), as_generator(random_state)
    params = [b.astype(dtype, copy=False) for b in _coefficients(beta, widths, rng)]
    errors = simulate_mlr(hierarchy, ranks, N, noise=noise, dtype=dtype, random_state=rng)
    Xs = [rng.standard_normal((N, width)).astype(dtype, copy=False) for width in widths]
    Y = errors.Y + np.stack([X @ b for X, b in zip(Xs, params, strict=True)], axis=1)
    return SURSimulation(Xs, Y, params, errors.covariance, errors.Y, errors.scores)


def simulate_gls(p: int, covariance: StructuredOperator, *, beta: float | Vector = 1.0,
                 random_state: RandomState | np.random.RandomState = None) -> GLSSimulation:
    """Draw one regression whose N errors have a given covariance.

    Parameters
    ----------
    p : int
        Number of regressors; they are standard normal and independent of the errors.
    covariance : StructuredOperator, shape (N, N)
        Covariance of the errors: any operator with ``sample``, which is any symmetric positive
        definite one.  Its dtype is that of the data.
    beta : float or array_like, shape (p,), default 1.0
        Coefficients.  One number is their standard deviation, an array is taken as it is.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Seed or generator.

    Returns
    -------
    GLSSimulation
        ``X`` (N, p), ``y`` (N,), ``params`` (p,), ``covariance``, ``errors``.

    Raises
    ------
    ValueError
        p below 1, coefficients of another shape, an operator that is not symmetric positive
        definite.
    TypeError
        A covariance without ``sample``.

    Examples
    --------
    Ten persons in five regions, each observed eight times: observations of a region are correlated
    across persons, those of a person over time.

    >>> import numpy as np
    >>> from mlrops import Dense, Hierarchy, Kronecker, MLR
    >>> from mlrops.datasets import simulate_gls
    >>> regions = MLR(Hierarchy.balanced(10, [5]), [np.ones((10, 1))], np.ones(10))
    >>> time = Dense(0.5 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))),
    ...              positive_definite=True)
    >>> data = simulate_gls(3, Kronecker(regions, time), random_state=0)
    >>> data.X.shape, data.y.shape
    ((80, 3), (80,))
    """
    p = at_least_one(p, "p")
    if not hasattr(covariance, "sample"):
        raise TypeError("covariance must be an operator with a sample method, got"
                        f" {type(covariance).__name__}")
    rng, dtype = as_generator(random_state), np.dtype(covariance.dtype)
    params = _coefficients([beta] if np.ndim(beta) else beta, [p], rng)[0].astype(dtype, copy=False)
    errors = covariance.sample(random_state=rng)
    X = rng.standard_normal((errors.size, p)).astype(dtype, copy=False)
    return GLSSimulation(X, X @ params + errors, params, covariance, errors)


def _coefficients(beta: Any, widths: list[int], rng: Any) -> list[FloatArray]:
    """Coefficients of each equation: drawn with standard deviation `beta`, or as they are given."""
    if np.isscalar(beta) or isinstance(beta, np.ndarray) and beta.ndim == 0:
        scale = float(as_finite(beta, "beta"))
        if scale < 0:
            raise ValueError(f"beta must not be negative where it is a size, got {scale}")
        return [scale * rng.standard_normal(width) for width in widths]
    given = [as_finite(b, "beta", ndim=1, axis_name="coefficient") for b in beta]
    sizes = [b.size for b in given]
    if sizes != widths:
        raise ValueError("beta must hold as many coefficients as there are regressors,"
                         f" {widths}, got {sizes}")
    return given
