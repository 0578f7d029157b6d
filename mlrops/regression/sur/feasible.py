r"""Generalized least squares given Σ, or with an unrestricted Σ estimated from residuals."""

import warnings
from typing import Any

import numpy as np

from ..._common.convergence import ConvergenceWarning
from ..._common.driver import CONVERGED, Iterate, Iteration, Watch, drive
from ..._common.typing import FloatArray
from ..._common.wording import counted, name_some
from ...operators.base import StructuredOperator
from ...operators.elementary import Dense
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .beta_step import BetaStep, beta_step
from .data import SURData
from .residual_moments import completed, pairwise
from .result import SURResult

__all__ = ["estimated_gls", "known_gls", "as_factor_model"]

# Iterations in a row without a gain and without a smaller gradient than all before them: rounding
# is all that is left.
QUIET = 5


def known_gls(data: SURData, covariance: StructuredOperator, options: Any) -> SURResult:
    """GLS with a covariance that is known."""
    K = data.K
    if not isinstance(covariance, StructuredOperator):
        raise TypeError("covariance must be an operator of this package (Dense for an array), got"
                        f" {type(covariance).__name__}")
    if covariance.shape != (K, K):
        raise ValueError(f"covariance must have shape {(K, K)}, one row an equation, got"
                         f" {covariance.shape}")
    if not covariance.symmetric or covariance.slogdet()[0] <= 0:
        raise ValueError(f"covariance must be symmetric positive definite, {covariance!r} is not")
    if data.observed is not None:
        if isinstance(covariance, Dense):
            covariance = as_factor_model(covariance.A)
        if not isinstance(covariance, MLR):
            raise ValueError("missing samples need a covariance whose blocks can be inverted one by"
                             f" one: an array, a Dense or an MLR, got {covariance!r}")
    system = data.system(beta_ridge=options.beta_ridge)
    step = beta_step(system, covariance, system.ols, 0.0, options.solver, options.maxiter)
    penalty = float(step.gamma @ (system.penalty * step.gamma))
    loglik = system.average_loglik(system.weigh(covariance), step.quad - penalty)
    converged = not step.is_short and step.norm <= options.gtol
    if not converged:
        warnings.warn(_shortfall(step, options), ConvergenceWarning, stacklevel=5)
    return SURResult(
        data=data, coefficients=data.exact(system.coefficients(step.gamma)), covariance=covariance,
        loglik=loglik, loglik_trace=np.array([loglik]),
        objective_trace=np.array([loglik - 0.5 * penalty / data.N]), n_iter=0, converged=converged,
        termination=_termination(step, converged), n_cg=[step.n_iter], gradient_norm=0.0,
        normal_norm=step.norm, boundary=np.array([], int), options=options,
        covariance_is_known=True)


def estimated_gls(data: SURData, options: Any, watch: Watch) -> SURResult:
    """Feasible GLS with an unrestricted Σ, ``options.method`` "fgls" or "ifgls"; see `SUR.fit`.

    References
    ----------
    A. Zellner, "An efficient method of estimating seemingly unrelated regressions and tests for
    aggregation bias", 1962; W. Oberhofer, J. Kmenta, "A general procedure for obtaining maximum
    likelihood estimates in generalized regression models", 1974.
    """
    fit = FeasibleGLS(data, options)
    run = drive(fit, max(options.max_iter, 1), options.method, watch)
    termination, step, text = run.termination, fit.step, None
    if step is not None and step.is_short:
        termination, text = _termination(step, False), _shortfall(step, options)
    elif termination in ("max_iter", "rounding"):
        text = (f"{options.method} stopped after {counted(run.n_iter, 'iteration')} with a gradient"
                f" of {fit.gradient_norm:.1e}; gtol asks for {options.gtol:.0e}: raise"
                f" {'max_iter' if termination == 'max_iter' else 'gtol'}")
    if text is not None:
        warnings.warn(text, ConvergenceWarning, stacklevel=5)
    return SURResult(
        data=data, coefficients=data.exact(fit.params), covariance=fit.covariance,
        loglik=run.logliks[-1], loglik_trace=np.array(run.logliks),
        objective_trace=np.array(run.objectives), n_iter=run.n_iter,
        converged=termination in CONVERGED, termination=termination, n_cg=fit.n_cg,
        gradient_norm=fit.gradient_norm, normal_norm=np.inf if step is None else step.norm,
        boundary=np.array([], int), options=options)


class FeasibleGLS(Iteration):
    """Σ from residuals and coefficients by GLS in turn, from least squares equation by equation.

    It begins at least squares with independent errors.  A step takes Σ from the residuals of the
    coefficients there are, and then the best coefficients for it: the first step is feasible GLS.
    """

    def __init__(self, data: SURData, options: Any):
        self._data, self._options = data, options
        self._system = system = data.system(beta_ridge=options.beta_ridge)
        self._label = list(system.numbers)
        self._check_data()
        self._tree = Hierarchy.flat(data.K)
        self.n_cg: list[int] = []  # iterations of the solver, by iteration
        self._norms: list[float] = []  # of the gradient by Σ, at the start and by iteration
        self.step: BetaStep | None = None
        E = system.residuals(system.ols)
        system.check_errors(E)
        sigma = np.diag(np.einsum("kt,kt->k", E, E, dtype=float) / data.nobs)
        self._place(sigma, self._operator(sigma), system.ols, E)

    def _check_data(self) -> None:
        data, options = self._data, self._options
        if data.K > data.N:
            raise ValueError(
                f"method={options.method!r} needs no more equations than rows, got"
                f" {counted(data.K, 'equation')} and {counted(data.N, 'row')}: the unrestricted"
                ' covariance of their residuals is singular; use method="factor"')
        if data.observed is None:
            self._check_bounded()
            return
        if options.solver != "cg":
            raise ValueError('missing samples need solver="cg"')
        if options.dfk and options.method == "ifgls":
            raise ValueError('dfk=True with method="ifgls" needs complete samples, some equations'
                             " lack some: the likelihood of incomplete ones has no such divisor;"
                             ' use method="fgls" or dfk=False')
        there = data.observed.astype(float)
        both, least = there.T @ there, data.p if options.dfk else np.zeros(data.K)
        few = np.argwhere(both <= np.maximum.outer(least, least))
        if len(few):
            i, j = few[0]
            raise ValueError(
                f"equations {self._label[i]} and {self._label[j]} have"
                f" {counted(int(both[i, j]), 'row')} in common, too few for the covariance of their"
                ' errors; leave one out, or use method="factor"')

    def _check_bounded(self) -> None:
        """Refuse to look for a maximum that complete samples do not have.

        Weights of the equations' errors and coefficients that make their weighted sum zero in every
        row let Σ become singular and the likelihood infinite.  There are such where the equations
        and their independent regressors are more than the rows.
        """
        data = self._data
        if self._options.method != "ifgls" or data.constraints is not None:
            return
        if int(data.p.sum()) + data.K <= data.N:
            return
        rank = int(np.linalg.matrix_rank(self._system.basis))
        if data.K > 1 and rank + data.K > data.N:
            raise ValueError(
                'method="ifgls": the likelihood has no maximum over unrestricted covariances,'
                f" {counted(data.K, 'equation')} with {counted(rank, 'independent regressor')} in"
                f" all need {rank + data.K} rows, there are {data.N}; use"
                ' method="fgls", one step, or method="factor"')

    def _operator(self, sigma: FloatArray) -> StructuredOperator:
        """Σ (K, K) as what weighs residuals."""
        if self._system.observed is None:
            return Dense(sigma, positive_definite=True)
        return as_factor_model(sigma, self._tree)

    def _place(self, sigma: FloatArray, covariance: StructuredOperator, gamma: FloatArray,
               E: FloatArray) -> None:
        """Stand at Σ, an array and an operator, and coefficients γ with residuals E (K, N)."""
        self._sigma, self.covariance, self.gamma, self._E = sigma, covariance, gamma, E
        weighting = self._system.weigh(covariance)
        quad = np.einsum("kt,kt->", E, weighting.solve(E), dtype=float)
        self._loglik = self._system.average_loglik(weighting, float(quad))
        self._next = self._moments()
        # Derivatives of the log-likelihood a row by Σ, in units in which Σ is the identity.
        left = covariance.whiten(covariance.whiten(self._next).T) - np.eye(len(sigma))
        self._norms.append(float(np.linalg.norm(left)) / 2)

    def _moments(self) -> FloatArray:
        """Σ of the residuals that there are (K, K)."""
        E, data, p = self._E.astype(float, copy=False), self._data, self._data.p
        if data.observed is None:
            S = E @ E.T / data.N
            if self._options.dfk:
                scale = np.sqrt(data.N / (data.N - p))
                S = S * np.outer(scale, scale)
        elif self._options.method == "fgls":
            S = pairwise(E, data.observed.T, p if self._options.dfk else None)
        else:
            S = completed(E, data.observed.T, self._sigma)
        return (S + S.T) / 2

    def _check_sigma(self, S: FloatArray) -> None:
        """Refuse a Σ that has no inverse."""
        sd = np.sqrt(S.diagonal())
        value, vectors = np.linalg.eigh(S / np.outer(sd, sd))
        if value[0] > len(S) * np.finfo(self._system.dtype).eps * value[-1]:
            return
        share = np.abs(vectors[:, 0])
        worst = [self._label[j] for j in np.flatnonzero(share > 0.1 * share.max())]
        text = (f"method={self._options.method!r} needs a positive definite covariance of the"
                f" residuals, the smallest eigenvalue of their correlations is {value[0]:.1e}"
                f" (equations {name_some(worst)}): ")
        if self._data.observed is not None and self._options.method == "fgls":
            raise ValueError(text + "that of pairwise complete residuals need not be; use"
                             ' method="ifgls", which fits the incomplete rows by EM, or'
                             ' method="factor"')
        raise ValueError(text + f"{counted(self._data.N, 'row')} tell too little of"
                         f" {counted(self._data.K, 'equation')}, or the errors of some depend on"
                         ' one another and the likelihood has no maximum; leave one of them out, or'
                         ' use method="factor"')

    @property
    def gradient_norm(self) -> float:
        """Size of the derivatives by Σ; see `SURResult`."""
        return self._norms[-1]

    @property
    def loglik(self) -> float:
        """Log-likelihood a row."""
        return self._loglik

    @property
    def objective(self) -> float:
        """The same less the penalty of a ridge."""
        gamma = self.gamma
        return self._loglik - 0.5 * float(gamma @ (self._system.penalty * gamma)) / self._data.N

    @property
    def params(self) -> list[FloatArray]:
        """Coefficients of each equation."""
        return self._system.coefficients(self.gamma)

    def iterate(self, n_iter: int) -> Iterate:
        return Iterate(n_iter, self.objective, self.loglik, self.covariance, self.params)

    def advance(self) -> str | None:
        """Take Σ from the residuals, and coefficients by GLS."""
        sigma = self._next
        self._check_sigma(sigma)
        covariance, options = self._operator(sigma), self._options
        self.step = step = beta_step(self._system, covariance, self.gamma, 0.0, options.solver,
                                     options.maxiter)
        self.n_cg.append(step.n_iter)
        self._place(sigma, covariance, step.gamma, step.residuals)
        return None

    def reason(self, trace: list[float]) -> str | None:
        if len(trace) == 1:
            return None
        if self._options.method == "fgls" or self.gradient_norm <= self._options.gtol:
            return "gradient"
        if len(trace) <= QUIET:
            return None
        gains = max(trace[-QUIET:]) > max(trace[:-QUIET])
        falls = min(self._norms[-QUIET:]) < min(self._norms[:-QUIET])
        return None if gains or falls else "rounding"


def as_factor_model(sigma: FloatArray, tree: Hierarchy | None = None) -> MLR:
    """A positive definite array as an `MLR` of K - 1 factors, equal up to rounding.

    In units of standard deviations D is the smallest eigenvalue, and the factors are what is above
    it; blocks of missing cells can then be inverted one by one.

    Parameters
    ----------
    sigma : ndarray, shape (K, K)
        Symmetric positive definite; whether it is, is for the caller to see.
    tree : Hierarchy, optional
        The hierarchy of K equations, one group, that the MLR shall have.

    Returns
    -------
    MLR, shape (K, K)

    Raises
    ------
    ValueError
        An array whose smallest eigenvalue is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops.regression.sur.feasible import as_factor_model
    >>> A = as_factor_model(np.array([[4.0, 1.0], [1.0, 1.0]]))
    >>> A.ranks, A.D, A.toarray().round(12).tolist()
    ((1,), array([2. , 0.5]), [[4.0, 1.0], [1.0, 1.0]])
    """
    K, sd = len(sigma), np.sqrt(sigma.diagonal())
    value, vectors = np.linalg.eigh(sigma / np.outer(sd, sd))
    F = sd[:, None] * vectors[:, 1:] * np.sqrt(value[1:] - value[0])
    return MLR(Hierarchy.flat(K) if tree is None else tree, [F], value[0] * np.square(sd))


def _termination(step: BetaStep, converged: bool) -> str:
    """Why a β-step ended, of the driver's words."""
    return "gradient" if converged else "max_iter" if step.end == "max_iter" else "rounding"


def _shortfall(step: BetaStep, options: Any) -> str:
    """What is wrong with a β-step that did not reach rounding, or rounding not gtol."""
    text = (f"the normal equations' residual is {step.norm:.1e} after"
            f" {counted(step.n_iter, 'iteration')} of {options.solver}, ")
    if step.end == "max_iter":
        return text + "more than rounding leaves; raise maxiter"
    if step.end == "stalled":
        return text + ("more than rounding explains, and falls no further: covariance is too close"
                       " to singular for it"
                       + ("" if options.solver == "lsmr" else "; try solver='lsmr'"))
    return text + (f"which is rounding; gtol asks for {options.gtol:.0e}: raise gtol, or"
                   " measure Y from nearer its fit")
