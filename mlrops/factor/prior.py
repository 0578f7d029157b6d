"""An inverse-gamma prior on the variances D of a factor model, against Heywood cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._common.labels import by_label
from .._common.typing import FloatArray
from .._common.validate import as_positive, check_number
from ..tree.hierarchy import Hierarchy
from .estep.protocol import Source

__all__ = ["Prior", "describe_prior", "read_prior"]


@dataclass(frozen=True)
class Prior:
    """``α`` pseudo-samples of variance ``t_i`` of each feature's own part; arrays in tree order.

    It takes ``(α / 2 N) Σ_i (log D_i + t_i / D_i)`` off the average log-likelihood a sample (J.
    Martin, R. McDonald, "Bayesian estimation in unrestricted factor analysis: a treatment for
    Heywood cases", 1975).  The M-step stays exact, and D_i never falls below
    ``α t_i / (N_i + α)``, N_i the weight of the samples that show feature i.
    """

    strength: float  # α
    variance: FloatArray  # t (n,)
    n_samples: float  # N
    counts: FloatArray  # N_i (n,)

    @property
    def _rate(self) -> float:
        return self.strength / (2 * self.n_samples)

    def penalty(self, D: FloatArray) -> float:
        """What is taken off the average log-likelihood a sample."""
        return self._rate * float((np.log(D) + self.variance / D).sum())

    def shrink(self, D: FloatArray) -> FloatArray:
        """The M-step of D from the one without a prior."""
        pulled = self.counts * np.maximum(D, 0) + self.strength * self.variance
        return pulled / (self.counts + self.strength)

    def derivative(self, D: FloatArray) -> FloatArray:
        """Of minus the penalty, by D."""
        return self._rate * (self.variance / D - 1) / D

    def information(self, D: FloatArray) -> FloatArray:
        """The expected second derivative of the penalty by D, a sample: positive everywhere."""
        return self._rate * self.variance / D**3


def read_prior(prior: Any, variance: Any, source: Source, hierarchy: Hierarchy,
               ranks: tuple[int, ...], names: Sequence[str] | None) -> Prior | None:
    """The prior that a user asks for by its strength, True or None, and by its variances.

    True is one pseudo-sample for each factor that a feature sees.
    """
    if prior is None or prior is False:
        if variance is not None:
            raise ValueError("prior_variance needs a prior: give prior=True or a strength")
        return None
    if isinstance(prior, str) or prior is not True and not isinstance(prior, (int, float)):
        raise ValueError(f'prior must be None, True, a number or "cv", got {prior!r}')
    strength = float(sum(ranks)) if prior is True else float(prior)
    check_number(strength, "prior", below=np.inf)
    if strength == 0:
        return None
    n, N = hierarchy.n, source.n_samples
    if variance is None:
        t = source.variance
    else:
        t = by_label(variance, names, "prior_variance", "feature", extra=True)
        t = np.full(n, float(t)) if np.ndim(t) == 0 else t
        t = hierarchy._gather(as_positive(t, "prior_variance", n).astype(float))
    return Prior(strength, t, float(N), N * source.shares)


def describe_prior(prior: Prior | None) -> str:
    """A short text that differs for priors that differ."""
    if prior is None:
        return "None"
    return f"strength {prior.strength!r}, variances {float(np.log(prior.variance).sum())!r}"
