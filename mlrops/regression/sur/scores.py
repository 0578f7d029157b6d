"""Scores of the factors that the errors of a fitted system share."""


import numpy as np

from ..._common.labelled import factor_columns
from ..._common.optional import import_pandas
from ..._common.typing import FloatArray, Labelled, ScoreMethod
from ...operators.mlr import MLR
from .measures import weighted_errors
from .system_fit import SystemFit

__all__ = ["factor_scores"]


def factor_scores(fit: SystemFit, level: int | None = None,
                  method: ScoreMethod = "posterior") -> Labelled:
    """Scores of the factors of the errors in each row of the fit.

    Parameters
    ----------
    level : int, optional
        One level; default all of them.
    method : {"posterior", "bartlett"}, optional
        Posterior means given the residuals, ``Fᵀ Σ⁻¹ e`` with F spread out; or weighted least
        squares over all factors jointly, which is unbiased given the factors (M. Bartlett, 1937).

    Returns
    -------
    scores : ndarray, shape (N, p_l, r_l), or DataFrame
        A tuple of L of them for ``level=None``.  Where equations have names, DataFrames with
        the labels of the rows and columns ``(group, factor)``.

    Raises
    ------
    TypeError
        A known covariance that is no `MLR`, and so has no factors.
    ValueError, IndexError
        An unknown method, ``"bartlett"`` with missing cells, a level that does not exist.

    Notes
    -----
    Residuals are those times the square roots of their weights.  Where cells are missing, Σ is
    that of the cells that are there, and rows without any have scores 0.
    """
    covariance = fit.covariance
    if fit._is_unrestricted:
        raise TypeError(f'method="{fit.method}" fits no factors; use method="factor"')
    if not isinstance(covariance, MLR):
        raise TypeError(f"only an MLR has factors with scores, the covariance given is"
                        f" {covariance!r}")
    h = covariance.hierarchy
    levels = range(h.n_levels) if level is None else (h._level(level),)
    E = weighted_errors(fit)
    if fit.data.observed is None:
        factors = covariance.scores(E, method)
        found = tuple(np.moveaxis(factors.mean(at), 2, 0) for at in levels)
    elif method != "posterior":
        raise ValueError(f"method={method!r} needs complete rows, some equations lack some; use"
                         " 'posterior'")
    else:
        found = tuple(_given_some(fit, E, at) for at in levels)
    if fit.data.names is not None:
        found = tuple(_named(fit, x, at) for x, at in zip(found, levels, strict=True))
    return found if level is None else found[0]


def _named(fit: SystemFit, scores: FloatArray, level: int) -> Labelled:
    """Scores of a level as a DataFrame with columns (group, factor)."""
    pd = import_pandas()
    pairs = factor_columns(fit.covariance.hierarchy, level, scores.shape[2])
    columns = pd.MultiIndex.from_arrays([[pair[i] for pair in pairs] for i in (0, 1)],
                                        names=["group", "factor"])
    return pd.DataFrame(scores.reshape(len(scores), -1), index=fit.names.rows, columns=columns)


def _given_some(fit: SystemFit, E: FloatArray, level: int) -> FloatArray:
    """``Fᵀ Σ⁻¹ e`` of the cells that are there: posterior means of a level, (N, p_l, r_l)."""
    V, F = fit.system.weigh(fit.covariance).solve(E), fit.covariance.factors[level]
    h = fit.covariance.hierarchy
    groups = (h.features(level, g) for g in range(h.group_counts[level]))
    return np.stack([V[at].T @ F[at] for at in groups], axis=1)
