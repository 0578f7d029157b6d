"""Corrections of standard errors for a covariance of few observations: degrees of freedom, scale.

All in terms of the fitted Σ: partial variances and posterior covariances of the factors, which an
MLR knows without a K×K matrix.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..._common.typing import BoolArray, FloatArray, IntArray
from ..._common.validate import as_finite
from ..._common.wording import counted, name_some
from ...operators.mlr import MLR

__all__ = ["Level", "Weights", "corrected_covariance", "effective_weights", "left_df",
           "residual_df", "scales", "wald_df", "weights_of"]

Counts: TypeAlias = int | list[int] | IntArray


def effective_weights(covariance: MLR) -> FloatArray:
    r"""How many estimated weights predict each equation's error from those of the others.

    Generalized least squares regresses equation j on its regressors and, with weights that Σ
    implies, on the errors of the other equations.  Of K - 1 free weights an unstructured Σ would
    pay for every one; factors cost

    .. math:: q_j = k_j + (k_j + 2) \ell_j + v_j,

    at most the number of other equations in the largest group with factors on j's path.

    Parameters
    ----------
    covariance : MLR, shape (K, K)

    Returns
    -------
    ndarray, shape (K,)
        0 where Σ is diagonal.

    Notes
    -----
    To first order in 1/N the errors of estimated weights raise the variance of what they predict
    by :math:`q_j / N`, :math:`q_j = N \, \mathrm{tr}(\mathrm{cov}(\hat w_j) \Sigma) / \tau_j` with
    weights :math:`w_j = \Sigma^{-1} e_j \tau_j` and the partial variance
    :math:`\tau_j = 1 / (\Sigma^{-1})_{jj}`.  Fisher's information on loadings and variances, taken
    equation by equation, gives the three terms:

    - the equation's own loadings: k_j, the factors on its path, each group's rank capped by the
      number of its other equations, for with m of them it cannot tell more than m weights apart;
    - loadings and variance of the other equations, ``k_j + 2`` degrees of freedom each, with the
      squared weight of each: in sum the leverage :math:`\ell_j = 1 - D_j / \tau_j`;
    - noise of the other equations' loadings, through factors that are not known precisely: the
      trace v_j of the posterior covariance of the factors.

    A leverage is counted no smaller than its mean over the group, (rank - v) / equations: where a
    variance runs to the floor, one equation's residual becomes a factor, and the leverage of the
    others on it is lost from sight.  With one factor and equal loadings q falls from 2 k_j, where
    they are weak, to k_j, where the factor is known.  Correlations of a path's factors across
    levels are not counted.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.regression.sur.small_sample import effective_weights
    >>> for K in 2, 5, 100:
    ...     A = MLR(Hierarchy.flat(K), [np.ones((K, 1))], np.ones(K))
    ...     print(K, effective_weights(A)[0].round(2))
    2 1.0
    5 1.67
    100 1.04
    """
    return _weights(_as_mlr(covariance)).number


def residual_df(covariance: Any, N: Counts, p: Counts, *, shared: bool = False) -> FloatArray:
    r"""Degrees of freedom of each equation, for Student's t of intervals and tests.

    Parameters
    ----------
    covariance : MLR, shape (K, K)
        The fitted Σ.
    N : int or array_like of int, shape (K,)
        Observations of each equation.
    p : int or array_like of int, shape (K,)
        Regressors of each equation, ``p_j < N_j``.
    shared : bool, optional
        All equations have the same regressors: see `corrected_covariance`.

    Returns
    -------
    ndarray, shape (K,)
        :math:`\nu_j = \max(N_j - p_j - q_j, 1)` with q of `effective_weights`; not integers.
        Where Σ is diagonal, or X shared, ``N_j - p_j``.  The floor is one degree of freedom,
        Cauchy's distribution: fewer rows than parameters tell nothing of a variance.

    Raises
    ------
    ValueError, TypeError
        A Σ that is not an MLR, numbers that are not integers or of wrong shape, ``N_j <= p_j``
        (equations are named).

    Notes
    -----
    An estimated partial variance is, to first order, distributed as
    :math:`\tau_j \chi^2_{\nu_j} / N_j`: in Fisher's information its relative variance is 2 / N
    whatever the structure of Σ, and least squares with :math:`p_j + q_j` coefficients leaves
    :math:`\nu_j`.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.regression.sur.small_sample import residual_df
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], np.ones(3))
    >>> residual_df(A, 20, [2, 3, 19])
    array([16., 15.,  1.])
    """
    covariance = _as_mlr(covariance)
    n, widths = _check_counts(N, p, covariance.shape[0])
    return left_df(n - widths, 0.0 if shared else _weights(covariance).number)


def left_df(left: FloatArray, number: FloatArray | float) -> FloatArray:
    """`residual_df` from rows less regressors, and the effective weights."""
    return np.maximum(left - number, 1.0)


def corrected_covariance(covariance: Any, N: Counts, p: Counts, *, shared: bool = False,
                         bias_only: bool = False) -> MLR:
    r"""A fitted Σ, scaled so that ``(Xᵀ(Σ⁻¹⊗I)X)⁻¹`` is the covariance of the coefficients.

    Parameters
    ----------
    covariance : MLR, shape (K, K)
        Σ by maximum likelihood.
    N : int or array_like of int, shape (K,)
        Observations of each equation.
    p : int or array_like of int, shape (K,)
        Regressors of each equation, ``p_j < N_j``.
    shared : bool, optional
        All equations have the same regressors.  Generalized least squares is then least squares
        whatever Σ, no weights are estimated, and :math:`\sigma_{ij} N / \sqrt{(N - p_i)(N - p_j)}`,
        the correction of SUR with an unstructured Σ, is all that is needed: unbiased.  It is for
        standard errors and tests within an equation: a joint test across equations inverts Σ, and
        needs the correction for weights all the same.
    bias_only : bool, optional
        Leave out the variance that estimated weights add to coefficients: an estimate of Σ itself,
        such as a parametric bootstrap draws from, whose refits add that variance on their own.

    Returns
    -------
    MLR
        Same hierarchy and ranks.

    Raises
    ------
    ValueError, TypeError
        As for `residual_df`.

    Notes
    -----
    Equation j has :math:`q_j` weights to estimate (`effective_weights`) and
    :math:`\nu_j = N_j - p_j - q_j` degrees of freedom.  As in a regression on its X and q_j random
    regressors,

    - the estimated partial variance is too small by :math:`\nu_j / N_j`;
    - what the weights take from X raises the variance of its coefficients by
      :math:`(N_j - p_j - 1) / (\nu_j - 1)`, the mean of an inverse beta variable; with few degrees
      of freedom :math:`1 + (N_j - p_j - \nu_j) / \max(\nu_j - 1, 1)`.

    D_j is multiplied by the product c_j of both.  Loadings, whose products are those of residuals
    on p_j regressors, by the root of :math:`a_j = N_j / (N_j - p_j)`; but so far as they are the
    equation's own noise by that of c_j, a mean of a_j and c_j with weight
    :math:`\ell_j = 1 - D_j / \tau_j`, their share of the partial variance.  For ordinary equations
    that is little; where D_j stands at the floor it is all.  A group of one equation has no factor
    but more of the same noise.

    Coefficients of regressors that equations share, intercepts for one, need few weights or none,
    and their standard errors are on the safe side.  As N grows all factors tend to 1.

    See M. S. Srivastava, D. E. A. Giles, "Seemingly Unrelated Regression Equations Models" (1987)
    for the unstructured case, where the same cost is exact in simple designs, and R. Kackar,
    D. Harville, "Approximations for standard errors of estimators of fixed and random effects in
    mixed linear models" (1984) for the cost of estimated weights.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.regression.sur.small_sample import corrected_covariance, residual_df
    >>> A = MLR(Hierarchy.flat(5), [np.ones((5, 1))], np.ones(5))
    >>> residual_df(A, 20, 3).round(2)
    array([15.33, 15.33, 15.33, 15.33, 15.33])
    >>> B = corrected_covariance(A, 20, 3)
    >>> np.sqrt(B.partial_variance() / A.partial_variance()).round(2)
    array([1.2, 1.2, 1.2, 1.2, 1.2])
    >>> bool(np.allclose(corrected_covariance(A, 10**9, 3).toarray(), A.toarray()))
    True
    """
    covariance = _as_mlr(covariance)
    n, widths = _check_counts(N, p, covariance.shape[0])
    left = n - widths
    if shared:
        return _scaled(covariance, [n / left] * len(covariance.ranks), n / left)
    return _scaled(covariance, *scales(_weights(covariance), n, left, bias_only))


def scales(weights: "Weights", n: FloatArray, left: FloatArray, bias_only: bool = False
           ) -> tuple[list[FloatArray], FloatArray]:
    """What `corrected_covariance` multiplies by: squares of loadings, level by level, and D."""
    a, nu = n / left, left_df(left, weights.number)
    c = n / nu
    if not bias_only:
        c *= 1 + (left - nu) / np.maximum(nu - 1, 1)
    mean = a + (c - a) * weights.leverage
    return [np.where(alone, c, mean) for alone in weights.alone], c


def wald_df(restrictions: Any, params_covariance: Any, equations: Any, df: Any) -> float:
    r"""Denominator degrees of freedom of the F test of ``R β = r``, R (m, P) of full row rank.

    From the covariance (P, P) of the coefficients that the test uses, the equation of each
    coefficient, and the degrees of freedom of the equations, of `residual_df`.  Where all
    restrictions are in one equation, its own.

    A restriction that involves several equations gets degrees of freedom by Satterthwaite's rule
    from their shares of its variance, :math:`1 / \nu = \sum_j s_j^2 / \nu_j`.  Several restrictions
    have matrices :math:`G_j` of shares, with :math:`\sum_j G_j = I` in coordinates in which the
    equations' parts of their covariance add up to the identity; :math:`1 / \nu_i` are the
    eigenvalues of :math:`\sum_j G_j^2 / \nu_j`, whose trace is half of what the mean of the Wald
    statistic exceeds m by, to first order.  They do not depend on how the hypothesis is written.

    Where the restrictions are independent this is the method of A. Fai, P. Cornelius, "Approximate
    F-tests of multiple degree of freedom hypotheses in generalized least squares analyses of
    unbalanced split-plot experiments" (1996), as is the rest: F gets the mean of squared t
    statistics with these degrees of freedom, :math:`\nu / (\nu - 2) = \sum_i \nu_i / (\nu_i - 2) /
    m`.  Where a :math:`\nu_i` is 2 or less that mean does not exist, and the smallest is taken.
    """
    R = as_finite(restrictions, "restrictions", np.float64, ndim=2)
    C = as_finite(params_covariance, "params_covariance", np.float64, ndim=2)
    df = as_finite(df, "df", np.float64, ndim=1)
    equations = np.asarray(equations)
    m, P = R.shape
    if C.shape != (P, P) or equations.shape != (P,):
        raise ValueError(f"restrictions have {counted(P, 'column')}, so params_covariance must"
                         f" have shape ({P}, {P}) and equations ({P},), got {C.shape} and"
                         f" {equations.shape}")
    involved = np.any(R != 0, axis=0)
    equations = equations[involved]
    if np.all(equations == equations[0]):
        return float(df[equations[0]])
    same = equations[:, None] == equations
    R, C = R[:, involved], np.where(same, C[np.ix_(involved, involved)], 0)
    R = R / np.sqrt(np.einsum("ij,jk,ik->i", R, C, R))[:, None]  # their units do not count
    values, axes = np.linalg.eigh(R @ C @ R.T)
    R = (axes / np.sqrt(values)).T @ R
    # G_j = R_j C_jj R_jᵀ, so that the sum of G_j² / ν_j is R C (R_jᵀ R_j / ν_j on the blocks) C Rᵀ.
    RC = R @ C
    nu = 1 / np.linalg.eigvalsh(RC @ np.where(same, R.T @ R / df[equations], 0) @ RC.T)
    if nu.min() <= 2:
        return float(nu.min())
    excess = np.mean(2 / (nu - 2))  # of ν / (ν - 2) over 1
    return float(2 + 2 / excess)


class Level(NamedTuple):
    """A level of the tree, as far as the equations are here."""

    F: FloatArray  # (K, r)
    group: IntArray  # (K,) number of each equation's group
    sizes: IntArray  # (groups,) equations of the groups, wherever they are
    covariance: Any  # (groups, r, r) of their factors given data


class Weights(NamedTuple):
    """What an estimated Σ takes from the degrees of freedom of each equation."""

    number: FloatArray  # q (K,)
    leverage: FloatArray  # 1 - noise / τ (K,)
    alone: list[BoolArray]  # for each level the equations (K,) that are their own group


def _weights(covariance: MLR) -> Weights:
    h, K = covariance.hierarchy, covariance.shape[0]
    posterior = covariance.posterior(np.empty((K, 0), covariance.dtype))
    return weights_of(covariance.D, covariance._rough_partial_variance(), [
        Level(F, h.labels(level), h.group_sizes(level), posterior.covariance(level))
        for level, F in enumerate(covariance.factors)])


def weights_of(D: FloatArray, partial_variance: FloatArray, levels: list[Level]) -> Weights:
    """`effective_weights` and what else corrections need, from what is known of Σ."""
    noise = D.astype(np.float64)
    factors, unknown, mean_leverage, others = np.zeros((4, len(D)))
    alone = []
    for F, group, sizes, covariance in levels:
        rank = F.shape[1]
        alone.append((sizes == 1)[group])
        if rank == 0:
            continue
        noise += np.where(alone[-1], np.einsum("kr,kr->k", F, F), 0)
        distinct = np.minimum(rank, sizes - 1)
        variances = np.linalg.eigvalsh(covariance)  # ascending
        v = np.where(np.arange(rank) < distinct[:, None], variances, 0).sum(axis=1)
        factors += distinct[group]
        unknown += v[group]
        mean_leverage += ((distinct - v) / sizes)[group]
        others = np.maximum(others, sizes[group] - 1)
    leverage = np.clip(1 - noise / partial_variance, 0, 1)
    number = factors + (factors + 2) * np.maximum(leverage, mean_leverage) + unknown
    return Weights(np.minimum(number, others), leverage, alone)


def _scaled(covariance: MLR, levels: list[FloatArray], diagonal: FloatArray) -> MLR:
    """Loadings times the roots of one number an equation and level, variances times another."""
    F = [(f * np.sqrt(s)[:, None]).astype(covariance.dtype)
         for f, s in zip(covariance.factors, levels, strict=True)]
    return MLR(covariance.hierarchy, F, (covariance.D * diagonal).astype(covariance.dtype))


def _as_mlr(covariance: Any) -> MLR:
    if not isinstance(covariance, MLR):
        raise TypeError("corrections for small samples need the MLR that was fitted, got"
                        f" {type(covariance).__name__}; a Σ that is known needs none")
    return covariance


def _check_counts(N: Counts, p: Counts, K: int) -> tuple[FloatArray, FloatArray]:
    """N and p as floats (K,)."""
    out = []
    for x, name in (N, "N"), (p, "p"):
        x = np.asarray(x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"{name} must be an integer or integers, got dtype {x.dtype}")
        if x.shape not in ((), (K,)):
            raise ValueError(f"{name} must be one number or one for each of the"
                             f" {counted(K, 'equation')}, got shape {x.shape}")
        out.append(np.broadcast_to(x, (K,)).astype(np.float64))
    bad = np.flatnonzero(out[0] <= out[1])
    if bad.size:
        j = bad[0]
        raise ValueError(f"every equation needs more observations than regressors; equation {j} has"
                         f" {out[0][j]:g} and {out[1][j]:g} ({counted(bad.size, 'equation')}:"
                         f" {name_some(bad)})")
    bad = np.flatnonzero(out[1] < 0)
    if bad.size:
        raise ValueError(f"p must not be negative, got {out[1][bad[0]]:g} for equation {bad[0]}")
    return out[0], out[1]
