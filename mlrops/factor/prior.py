"""An inverse-gamma prior on the variances D of a factor model, against Heywood cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from .._common.labelled import named
from .._common.labels import by_label
from .._common.typing import FloatArray, IntArray
from .._common.validate import as_finite, check_number
from .._common.wording import counted, name_some
from ..tree.hierarchy import Hierarchy

__all__ = ["NEEDS_PRIOR", "PRIOR_HELPS", "Prior", "has_prior", "prior_fields",
           "read_prior", "read_strength", "read_variance", "ruled_by_prior", "summary_facts",
           "summary_remark"]


# There are many samples where there are so many for each feature.  The prior then rules a variance
# of which it makes up this share or more: it is then a third above what the data say, and costs
# 0.02 nats a sample, where samples could tell it.
MANY, MUCH = 5, 0.25
PRIOR_HELPS = "A prior on the variances keeps them away from it (prior=True)"
NEEDS_PRIOR = "prior_variance needs a prior: give prior=True or a strength"


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
        """The second derivative of the penalty by log D, over D²: positive everywhere."""
        return self._rate * self.variance / D**3

    @property
    def shares(self) -> FloatArray:
        """The prior's share of each variance: D is this share of t, and the rest of the data's."""
        return self.strength / (self.counts + self.strength)


def read_prior(prior: Any, variance: Any, n_samples: float, shares: FloatArray, own: FloatArray,
               hierarchy: Hierarchy, ranks: tuple[int, ...], names: Sequence[Any] | None,
               noun: str = "feature") -> Prior | None:
    """The prior that a user asks for by its strength, True or None, and by its variances.

    True is one pseudo-sample for each factor that a feature sees.  `shares` are those of the
    samples that show each feature, and `own` the features' variances, both in tree order; `noun` is
    what errors call a feature.
    """
    strength = read_strength(prior)
    if strength is None:
        if variance is not None:
            raise ValueError(NEEDS_PRIOR)
        return None
    strength = float(sum(ranks)) if strength is True else strength
    if strength == 0:
        return None
    t = own if variance is None else hierarchy._gather(
        read_variance(variance, names, hierarchy.n, noun))
    return Prior(strength, t, float(n_samples), n_samples * shares)


def has_prior(prior: Any) -> bool:
    """Whether this option asks for a prior."""
    return not (prior is None or prior is False or prior == 0)


def read_strength(prior: Any) -> float | bool | None:
    """A strength as a number, True, or None for no prior; "cv" is not for those who ask here."""
    if prior is None or isinstance(prior, (bool, np.bool_)):
        return True if prior else None
    if not isinstance(prior, Real):
        raise ValueError(f'prior must be None, True, a number or "cv", got {prior!r}')
    check_number(prior, "prior", below=np.inf)
    return float(prior)


def read_variance(variance: Any, names: Sequence[Any] | None, n: int, noun: str) -> FloatArray:
    """The variances t (n,) that a user gives, by name or one for all, in the order of the data."""
    t = by_label(variance, names, "prior_variance", noun, extra=True)
    t = as_finite(t, "prior_variance", dtype=np.float64, ndim=(0, 1))
    t = np.full(n, float(t)) if t.ndim == 0 else t
    if t.shape != (n,):
        raise ValueError(f"prior_variance must be one number or have one for each of the"
                         f" {counted(n, noun)}, got shape {t.shape}")
    bad = np.flatnonzero(t <= 0)
    if bad.size:
        raise ValueError(f"prior_variance must be positive, got {t[bad[0]]:.3g}"
                         f" ({counted(bad.size, noun)}: {named(bad, names)})")
    return t


def prior_fields(prior: Prior | None, hierarchy: Hierarchy) -> dict[str, Any]:
    """What a result keeps of a prior, in the order of the features."""
    if prior is None:
        return {}
    return {"prior": prior.strength, "prior_variance": hierarchy._scatter(prior.variance),
            "prior_share": hierarchy._scatter(prior.shares)}


def ruled_by_prior(D: FloatArray, fields: Mapping[str, Any]) -> IntArray:
    """Features whose variances the prior sets more than it should where there are many samples.

    All is in one order; `fields` are those of `prior_fields`.
    """
    if not fields.get("prior"):
        return np.array([], int)
    share, t = fields["prior_share"], fields["prior_variance"]
    counts = fields["prior"] * (1 / share - 1)
    return np.flatnonzero((counts >= MANY * D.size) & (share * t >= MUCH * D))


def summary_facts(fit: Any) -> list[tuple[str, str]]:
    """What the summary of a result says of its prior: pairs of name and value."""
    if not fit.prior:
        return []
    low, high = (f"{x:.1%}" for x in (fit.prior_share.min(), fit.prior_share.max()))
    return [("Prior, pseudo-samples", f"{fit.prior:g}"),
            ("Its share of D", low if low == high else f"{low} to {high}")]


def summary_remark(fit: Any, names: Sequence[str], noun: str) -> str | None:
    """What the summary of a result says of variances that the prior sets."""
    if not fit.prior:
        return None
    ruled = ruled_by_prior(fit.covariance.D, vars(fit))
    if not ruled.size:
        return None
    return (f"Variances that the prior sets rather than the many samples, a quarter of each or"
            f" more: {ruled.size:,} of {len(names):,} ({name_some(names[i] for i in ruled)}). A"
            f" weaker prior may suit these {noun}s better")
