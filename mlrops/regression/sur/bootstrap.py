"""Parametric bootstrap of a fitted system."""

import warnings
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ..._common.validate import check_rank
from ..._common.wording import counted

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

    draws: np.ndarray
    failed: int
    unconverged: int

    def __repr__(self):
        return (f"<Bootstrap of {counted(len(self.draws), 'draw')},"
                f" {counted(self.failed, 'refit')} failed, {self.unconverged} did not converge>")


def drawn_data(result, covariance, rng):
    """The data of a system with fitted values plus new errors, over the square roots of weights."""
    data = result.data
    errors = covariance.sample(data.N, rng)
    if data.weights is not None:
        errors = errors / np.sqrt(data.weights)
    return data.with_Y(np.nan_to_num(result.fitted) + errors)


def bootstrap(result, covariance, n_boot=200, random_state=0, progress=False):
    """Refit a system to data drawn from it.

    Rows ``e* ~ N(0, Σ)`` are added to the fitted values, over the square roots of weights and with
    the same cells missing; coefficients and covariance are fitted again with the same ranks,
    hierarchy and options, a covariance that was given is kept.

    Parameters
    ----------
    result : SURResult
    covariance : StructuredOperator, shape (K, K)
        Σ of the draws.
    n_boot : int
        At least 2.
    random_state : int or numpy.random.Generator
    progress : bool

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        More than half of the refits fail.
    """
    from .als_gls import fit_system

    if check_rank(n_boot, "n_boot") < 2:
        raise ValueError(f"n_boot must be at least 2, got {n_boot}")
    rng = np.random.default_rng(random_state)
    how = ((None, None) if result.covariance_is_known
           else (result.covariance.ranks, result.covariance.hierarchy))
    keep = result.covariance if result.covariance_is_known else None
    draws, failed, unconverged, why = [], 0, 0, None
    for _ in tqdm(range(n_boot), desc="bootstrap", disable=not progress):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refit = fit_system(drawn_data(result, covariance, rng), *how, result.options,
                                   covariance=keep)
        except (ValueError, np.linalg.LinAlgError) as error:
            failed, why = failed + 1, error
            continue
        draws.append(np.concatenate(refit.coefficients))
        unconverged += not refit.converged
    if failed > n_boot / 2:
        raise ValueError(f"{failed} of {n_boot} refits of the bootstrap failed, the last one with:"
                         f" {why}") from why
    if failed or unconverged:
        from ..._common.convergence import ConvergenceWarning

        warnings.warn(f"of {n_boot} refits of the bootstrap {failed} failed and {unconverged} did"
                      " not converge; the former are left out", ConvergenceWarning, stacklevel=4)
    return Bootstrap(np.array(draws, dtype=np.float64), failed, unconverged)
