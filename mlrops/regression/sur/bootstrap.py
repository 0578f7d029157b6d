"""Parametric bootstrap of a fitted system."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..._common.convergence import ConvergenceWarning
from ..._common.jobs import Jobs
from ..._common.progress import progress_bar
from ..._common.typing import FloatArray
from ..._common.validate import check_rank
from ..._common.warned import kept_warnings
from ..._common.wording import counted
from ...operators.base import StructuredOperator
from .data import SURData
from .system_fit import SystemFit

__all__ = ["Bootstrap", "bootstrap", "drawn_data"]


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Coefficients of refits to data drawn from a fitted system.

    Attributes
    ----------
    draws : ndarray, shape (B, P)
        Coefficients, equation by equation, one refit a row.
    failed : int
        Refits that ended with an error; they are not among the draws.
    unconverged : int
        Refits among the draws that stopped at the cap of iterations.

    Examples
    --------
    >>> from mlrops import als_gls
    >>> from mlrops.datasets import simulate_sur
    >>> sim = simulate_sur(4, 2, ranks=1, n_samples=60, random_state=0)
    >>> fit = als_gls(sim.Xs, sim.Y, 1).with_cov("bootstrap", n_boot=10)
    >>> fit.bootstrap.draws.shape, fit.bootstrap.failed
    ((10, 8), 0)
    """

    draws: FloatArray
    failed: int
    unconverged: int

    def __repr__(self) -> str:
        return (f"<Bootstrap of {counted(len(self.draws), 'draw')},"
                f" {counted(self.failed, 'refit')} failed, {self.unconverged} did not converge>")


def drawn_data(fit: SystemFit, covariance: StructuredOperator, rng: np.random.Generator) -> SURData:
    """The data of a system with fitted values plus new errors, over the square roots of weights."""
    errors = covariance.sample(fit.nobs, rng)
    if fit.data.weights is not None:
        errors = errors / np.sqrt(fit.data.weights)
    return fit.data.with_Y(np.nan_to_num(fit.fitted) + errors)


def bare(fit: SystemFit) -> SystemFit:
    """A fit without what was computed from it, for other processes."""
    return replace(fit)


def _refitted(fit: SystemFit, Y: FloatArray) -> tuple[FloatArray, bool] | Exception:
    """Coefficients of a refit and whether it converged, or why there is none."""
    try:
        with kept_warnings():  # the bootstrap has one of its own
            refit = fit._refit(fit.data.with_Y(Y))
    except (ValueError, np.linalg.LinAlgError) as error:
        return error
    if refit.termination == "interrupted":
        raise KeyboardInterrupt
    return np.concatenate(refit.coefficients), refit.converged


def bootstrap(fit: SystemFit, covariance: StructuredOperator, n_boot: int = 200,
              random_state: Any = 0, progress: bool = False, n_jobs: int | None = None
              ) -> Bootstrap:
    """Refit a system `n_boot` times to data drawn from it with errors of this covariance.

    Rows ``e* ~ N(0, Σ)`` are added to the fitted values, over the square roots of weights and with
    the same cells missing; coefficients and covariance are fitted again with the same ranks,
    hierarchy and options, a covariance that was given is kept.
    """
    if check_rank(n_boot, "n_boot") < 2:
        raise ValueError(f"n_boot must be at least 2, got {n_boot}")
    rng, draws, failed, unconverged = np.random.default_rng(random_state), [], 0, 0
    reason: Exception | None = None
    # They are drawn here, in their order: refits have nothing random.
    drawn = ((drawn_data(fit, covariance, rng).Y,) for _ in range(n_boot))
    refits = Jobs(n_jobs).run(partial(_refitted, bare(fit)), drawn)
    for _, found in progress_bar(refits, total=n_boot, desc="bootstrap", disable=not progress):
        if isinstance(found, Exception):
            failed, reason = failed + 1, found
            continue
        coefficients, converged = found
        draws.append(coefficients)
        unconverged += not converged
    if failed > n_boot / 2:
        raise ValueError(f"{failed} of {n_boot} refits of the bootstrap failed, the last one with:"
                         f" {reason}") from reason
    if failed or unconverged:
        warnings.warn(f"of {n_boot} refits of the bootstrap {failed} failed and {unconverged} did"
                      " not converge; the former are left out", ConvergenceWarning, stacklevel=4)
    return Bootstrap(np.array(draws, dtype=np.float64), failed, unconverged)
