"""Kinds of covariance of the coefficients of a fitted system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from scipy.linalg import matmul_toeplitz

from ..._common.cached import cached_property, computed_once
from ..._common.deprecated import renamed_options
from ..._common.labels import by_label, labels_of
from ..._common.optional import import_pandas
from ..._common.typing import BoolArray, FloatArray, IntArray, Labelled
from ..._common.validate import check_number
from ..._common.wording import agree, counted, name_some
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense
from ...operators.mlr import MLR
from ..inference import Inference
from . import row_weights
from .bootstrap import Bootstrap, bootstrap
from .coefficient_inverse import MOST_COEFFICIENTS, CoefficientInverse
from .small_sample import corrected_covariance
from .system import StackedSystem
from .system_fit import SystemFit

__all__ = ["KINDS", "CovType", "blocks_of", "bootstrap_of", "cov_params", "estimated",
           "inference_of", "joint_estimate", "read_kwds", "with_cov"]

Fit = TypeVar("Fit", bound=SystemFit)
CovType: TypeAlias = Literal["unadjusted", "robust", "clustered", "hac", "bootstrap"]

# Squares of scores whose sum is below this share of what independent rows would give are zeros that
# the normal equations make, as exactly as they are solved.
SILENT = 1e-6


class Covariance(Protocol):
    """A covariance of the coefficients of a system, equation by equation."""

    def times(self, V: FloatArray) -> FloatArray:
        """Its product with V (P, m)."""

    def matrix(self) -> FloatArray:
        """The whole of it, (P, P)."""

    def blocks(self) -> list[FloatArray]:
        """Its diagonal blocks, K arrays (p_j, p_j)."""


@renamed_options(kind="cov_type")
def with_cov(fit: Fit, cov_type: CovType, **cov_kwds: Any) -> Fit:
    r"""The same fit with another kind of covariance of its coefficients.

    Standard errors, intervals, tests and predictions of the result that is returned use it.

    Parameters
    ----------
    cov_type : {"unadjusted", "robust", "clustered", "hac", "bootstrap"}
        With :math:`A = X^T (\Sigma^{-1} \otimes I) X` and the scores of the rows
        :math:`s_t = \sum_j x_{tj} (\Sigma^{-1} e_t)_j`,

        - ``"unadjusted"``: :math:`A^{-1}`, for errors that are independent across rows with
          covariance Σ.  Where Σ was estimated, of the Σ that
          `mlrops.regression.corrected_covariance` makes of it for small samples, and as it is
          where it is that of ``method="fgls"`` or ``"ifgls"``;
        - ``"robust"``: :math:`A^{-1} (\sum_t s_t s_t^T) A^{-1}`, rows with errors of any
          covariance, independent;
        - ``"clustered"``: the same with sums of scores over clusters of rows, independent
          across clusters;
        - ``"hac"``: with products of scores of neighbouring rows too, weighted by a kernel:
          errors that are autocorrelated;
        - ``"bootstrap"``: that of refits to data drawn from the fitted system with normal
          errors.
    debiased : bool, optional
        ``"unadjusted"``: False takes Σ as it was estimated, which is too small for few rows;
        default True, and False where Σ is known or unrestricted.  The others: multiply by
        ``N / √((N - p_i) (N - p_j))``, N the cells of an equation; default True.
    clusters : array_like, Series, DataFrame or dict, shape (N,) or (N, 2)
        ``"clustered"``: labels of the rows; a Series, a DataFrame or a dict is matched to the
        rows by label, and may have more of them.  With two of them the covariances by the first
        and by the second are added and that by their intersections is taken off.
    group_debias : bool, optional
        ``"clustered"``: multiply by ``g / (g - 1) (N - 1) / N`` for g clusters; default False.
    kernel : {"bartlett", "parzen", "qs"}, optional
        ``"hac"``: default Bartlett's; ``"qs"`` is the quadratic spectral one.
    bandwidth : float, optional
        ``"hac"``: lags up to it get weights from Bartlett's and Parzen's kernel.  Default the
        rule of Newey and West (1994) for the sum of the standardized scores.
    n_boot, random_state, progress : int, int or Generator, bool, optional
        ``"bootstrap"``: number of refits, default 200; their seed, default 0; a progress bar.
    n_jobs : int, optional
        ``"bootstrap"``: how many fits run at a time, each in a worker of joblib: -1 is one for
        each core, None is one unless a `joblib.parallel_config` around the call says otherwise.
        The result is the same, see the notes of `fit_factor_model`.

    Returns
    -------
    SURResult

    Raises
    ------
    ValueError, TypeError
        Unknown kinds and options.  When the covariance is first used: coefficients whose scores
        are zero in every row or cluster, variances that two kinds of clusters make negative.

    Notes
    -----
    Constraints make the covariance singular: a coefficient that they fix has standard error 0.
    With a ridge `unadjusted` is the sandwich
    :math:`(A + \Lambda)^{-1} A (A + \Lambda)^{-1}`, the covariance of an estimate that is
    biased; the others have :math:`(A + \Lambda)^{-1}` in place of :math:`A^{-1}`.

    All are computed in double precision, and exactly up to 4000 coefficients; beyond, where the
    factors of Σ on a path of the tree, times rows, are at most 4000: some seconds for 30,000
    coefficients.  Else by conjugate gradients, for N columns (``"robust"``, ``"clustered"``,
    ``"hac"``) or for P (standard errors of ``"unadjusted"``), which takes long.
    """
    out = replace(fit, cov_type=cov_type, cov_kwds=read_kwds(cov_type, cov_kwds, fit.names.rows))
    shared = (name for name, value in vars(SystemFit).items() if isinstance(value, cached_property))
    vars(out).update({name: vars(fit)[name] for name in shared if name in vars(fit)})
    return out


@renamed_options(kind="cov_type")
def cov_params(fit: SystemFit, cov_type: CovType | None = None, **cov_kwds: Any) -> Labelled:
    """Covariance of the coefficients.

    Parameters
    ----------
    cov_type : str, optional
        One of those of `with_cov`.  Default the one in use.
    **cov_kwds : optional
        Those of the kind, as for `with_cov`.

    Returns
    -------
    ndarray, shape (P, P), or DataFrame
        Coefficients equation by equation, as ``numpy.concatenate(result.params)``.

    Raises
    ------
    ValueError, TypeError
        As `with_cov`; more than 4000 coefficients: `bse` knows the standard errors of any number.
    """
    P = fit.n_params
    if P > MOST_COEFFICIENTS:
        raise ValueError(
            f"cov_params forms a matrix of at most {MOST_COEFFICIENTS} coefficients, the system"
            f" has {P}, which would take {8e-9 * P**2:.1f} GB; bse, tvalues, pvalues and conf_int"
            " need no such matrix")
    if cov_type is not None or cov_kwds:
        fit = with_cov(fit, cov_type or fit.cov_type, **cov_kwds)
    out = estimated(fit).matrix()
    if fit.data.names is None:
        return out
    return import_pandas().DataFrame(out, index=fit._index, columns=fit._index)


def read_kwds(cov_type: str, cov_kwds: Mapping[str, Any], rows: Any = None) -> dict[str, Any]:
    """The options of a kind of covariance, checked, clusters in the order of the rows.

    `rows` is the pandas Index of the data, or None.  There may be clusters of more rows, which
    equations lack.
    """
    if cov_type not in KINDS:
        raise ValueError(f"cov_type must be one of {', '.join(KINDS)}, got {cov_type!r}")
    known = KINDS[cov_type][1]
    strange = [name for name in cov_kwds if name not in known]
    if strange:
        raise TypeError(f'cov_type="{cov_type}" takes the options {", ".join(known)}, got'
                        f" {', '.join(strange)}")
    out = dict(cov_kwds)
    if labels_of(out.get("clusters")) is not None:
        out["clusters"] = by_label(out["clusters"], rows, "clusters", "row", extra=True)
    return out


def estimated(fit: SystemFit) -> Covariance:
    """The covariance of the coefficients that a fit uses, computed once."""
    return computed_once(fit, "_cov", lambda: KINDS[fit.cov_type][0](fit, **fit.cov_kwds))


def blocks_of(fit: SystemFit) -> list[FloatArray]:
    """Diagonal blocks of the covariance of the coefficients, K arrays (p_j, p_j)."""
    return computed_once(fit, "_blocks", estimated(fit).blocks)


def inference_of(fit: SystemFit) -> Inference:
    """Coefficients of a fit with their standard errors and degrees of freedom."""
    def compute() -> Inference:
        variances = np.concatenate([block.diagonal() for block in blocks_of(fit)])
        return Inference(np.concatenate(fit.coefficients), np.sqrt(variances),
                         np.repeat(fit._df_resid, fit.data.p))

    return computed_once(fit, "_inference", compute)


def bootstrap_of(fit: SystemFit) -> Bootstrap:
    """The draws behind standard errors of the kind "bootstrap"; see `SURResult.bootstrap`."""
    if fit.cov_type != "bootstrap":
        raise ValueError('with_cov("bootstrap") makes the draws; the covariance in use is'
                         f' "{fit.cov_type}"')
    found: Any = estimated(fit)
    return found.bootstrap


def precise(fit: SystemFit) -> tuple[StackedSystem, StructuredOperator]:
    """The system and Σ of a fit, in double precision."""
    data, covariance = fit.data.in_double(), fit.covariance
    system = fit.system if data is fit.data else data.system(beta_ridge=fit.options.beta_ridge)
    return system, covariance.astype(float) if isinstance(covariance, MLR) else covariance


def _unadjusted(fit: SystemFit, debiased: bool | None = None,
                joint: bool = False) -> CoefficientInverse:
    structured = fit.method == "factor"
    if fit.covariance_is_known and debiased:
        raise ValueError("debiased=True corrects a Σ that was estimated; this one is known")
    if debiased and not structured:
        raise ValueError("debiased=True corrects a Σ of factors; an unrestricted one gets the"
                         f' divisor of Stata and linearmodels from fit(method="{fit.method}",'
                         " dfk=True)")
    system, covariance = precise(fit)
    if structured and debiased is not False:
        covariance = _small_sample(fit, covariance, joint)
    return CoefficientInverse(system, covariance)


def _small_sample(fit: SystemFit, covariance: MLR, joint: bool = False, **options: bool) -> MLR:
    """Σ of a fit, corrected for the coefficients and factors that were estimated with it."""
    return corrected_covariance(covariance, fit.data.nobs, fit.data.p,
                                shared=fit.system.is_least_squares and not joint, **options)


def joint_estimate(fit: SystemFit) -> Covariance:
    """The covariance in use, for tests across equations.

    With shared X coefficients take no weights from Σ, but such a test does.
    """
    if fit.cov_type == "unadjusted" and fit.system.is_least_squares:
        return _unadjusted(fit, **fit.cov_kwds, joint=True)
    return estimated(fit)


def _bootstrap(fit: SystemFit, n_boot: int = 200, random_state: Any = 0,
               progress: bool = False, n_jobs: int | None = None) -> "ScoreCovariance":
    covariance = fit.covariance
    if fit.method == "factor":
        covariance = _small_sample(fit, covariance, bias_only=True)
    elif isinstance(covariance, Dense) and not covariance.positive_definite:
        covariance = Dense(covariance.A, positive_definite=True)
    found = bootstrap(fit, covariance, n_boot, random_state, progress, n_jobs)
    centred = found.draws - found.draws.mean(axis=0)
    return ScoreCovariance(centred.T / np.sqrt(len(centred) - 1), None, fit.data.p, found)


@dataclass(frozen=True, eq=False)
class ScoreCovariance:
    """``Z W Zᵀ`` from an array Z (P, N) and products with W (N, N), by default the identity."""

    Z: FloatArray
    weigh: row_weights.Weigh | None
    p: IntArray
    bootstrap: Bootstrap | None = None  # of which Z are the draws

    @cached_property
    def _weighed(self) -> FloatArray:
        """``Z W``."""
        return self.Z if self.weigh is None else self.weigh(self.Z.T).T

    def times(self, V: FloatArray) -> FloatArray:
        return self._weighed @ (self.Z.T @ V)

    def matrix(self) -> FloatArray:
        out = self._weighed @ self.Z.T
        return (out + out.T) / 2

    def blocks(self) -> list[FloatArray]:
        cuts = np.cumsum(self.p)[:-1]
        pairs = zip(np.split(self._weighed, cuts), np.split(self.Z, cuts), strict=True)
        return [(B + B.T) / 2 for B in (w @ z.T for w, z in pairs)]


def _robust(fit: SystemFit, debiased: bool = True) -> ScoreCovariance:
    return _from_scores(fit, lambda S: None, debiased)


def _clustered(fit: SystemFit, clusters: Any = None, debiased: bool = True,
               group_debias: bool = False) -> ScoreCovariance:
    weigh = row_weights.cluster_weights(clusters, fit.data, group_debias)
    return _from_scores(fit, lambda S: weigh, debiased)


def _hac(fit: SystemFit, kernel: str = "bartlett", bandwidth: float | None = None,
         debiased: bool = True) -> ScoreCovariance:
    N = fit.data.N
    if kernel not in row_weights.KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(row_weights.KERNELS)}, got {kernel!r}")
    if bandwidth is not None:
        check_number(bandwidth, "bandwidth")
        if not 0 <= bandwidth < N:
            raise ValueError(f"bandwidth must lie between 0 and the number of rows, {N}, got"
                             f" {bandwidth}")

    def weights(S: FloatArray) -> row_weights.Weigh:
        width = row_weights.automatic_bandwidth(S, kernel) if bandwidth is None else bandwidth
        lags = row_weights.kernel_weights(kernel, width, N)
        return lambda X: matmul_toeplitz(lags, X)

    return _from_scores(fit, weights, debiased)


def _from_scores(fit: SystemFit, weights: Callable[[FloatArray], row_weights.Weigh | None],
                 debiased: bool) -> ScoreCovariance:
    """The sandwich ``H S W Sᵀ H`` from the scores S (P, N) of the rows, W that of weights(S)."""
    system, covariance = precise(fit)
    data, p = fit.data, fit.data.p
    errors = np.nan_to_num(fit.errors.T.astype(np.float64, copy=False))
    if data.weights is not None:
        errors = errors * np.sqrt(data.weights.T)
    V = system.weigh(covariance).solve(errors)
    gamma = np.concatenate([(b.Q * V[b.equations][:, None, :]).reshape(-1, system.N)
                            for b in system.batches])
    # Scores x_tj v_tj in the units of the regressors, and a bound of the sums of their squares.
    U = V.T if data.weights is None else V.T * np.sqrt(data.weights)
    S = np.concatenate([X.T * U[:, j] for j, X in enumerate(data.Xs)])
    size = np.concatenate([u * np.square(X, dtype=float).sum(axis=0) for u, X
                           in zip(np.mean(np.square(U), axis=0), data.Xs, strict=True)])
    weigh = weights(S)
    left = np.einsum("it,it->i", S, S if weigh is None else weigh(S.T).T)
    silent = np.abs(left) <= SILENT * size
    if silent.any():
        raise ValueError(
            f"the scores of {counted(int(silent.sum()), 'coefficient')} are zero in every row or"
            f" cluster ({_name(fit, silent)}), as those of a regressor that differs from zero in"
            ' one of them only: cov_type="unadjusted" knows their variance, this one does not')
    inverse = CoefficientInverse(system, covariance)
    Z = np.concatenate(system.coefficients(inverse.bread(gamma)))
    Z[inverse.fixed] = 0
    if debiased:
        n = data.nobs
        Z *= np.sqrt(np.repeat(n / (n - p), p))[:, None]
    out = ScoreCovariance(Z, weigh, p)
    variances = np.concatenate([block.diagonal() for block in out.blocks()])
    bad = (variances <= 1e-12 * np.square(Z).sum(axis=1)) & ~inverse.fixed
    if bad.any():
        raise ValueError(
            f"{counted(int(bad.sum()), 'variance')} {agree(bad.sum(), 'is', 'are')} not"
            f" positive ({_name(fit, bad)}): with two kinds of clusters their sum less that of"
            " the intersections need not be; cluster by one of them")
    return out


def _name(fit: SystemFit, chosen: BoolArray) -> str:
    """Some coefficients by regressor and equation."""
    return name_some(f"{regressor} of equation {equation}" for (equation, regressor), here
                     in zip(fit.names.coefficients(), chosen, strict=True) if here)


KINDS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "unadjusted": (_unadjusted, ("debiased",)),
    "robust": (_robust, ("debiased",)),
    "clustered": (_clustered, ("clusters", "group_debias", "debiased")),
    "hac": (_hac, ("kernel", "bandwidth", "debiased")),
    "bootstrap": (_bootstrap, ("n_boot", "random_state", "n_jobs", "progress"))}
