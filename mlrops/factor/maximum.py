"""What a look around the end of a fit found: figures, a verdict in words, and a summary."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._common.text import WIDTH, paragraph, short, side_by_side, title
from .._common.wording import agree, counted, name_some
from .limits import PLATEAU

__all__ = ["CURVED", "Curvature", "MaximumCheck", "OtherStart", "verdict"]

# Curvatures, relative to what EM divides by, beyond which they are not rounding.
CURVED = 1e-5


class Curvature(NamedTuple):
    """Minus the second derivative along a direction, in nats of all samples.

    The direction is as long as some feature allows: to the change of a loading by the partial
    standard deviation, what the other features leave unknown of it, or of D by its square.

    Attributes
    ----------
    direction : str
        Which direction it is, in words.
    information, differences : float
        By the expected information, and by central differences of the gradient of Y.
    ratio : float
        Of the second to the first.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(10, 2, n_samples=300, random_state=0).Y
    >>> found = fit_factor_model(Y, 2).check(Y, random_state=0)
    >>> found.curvatures[0].direction, bool(found.curvatures[0].ratio > 0.1)
    ('least curved', True)
    """

    direction: str
    information: float
    differences: float

    @property
    def ratio(self) -> float:
        """Of the curvature by differences to that by the information."""
        return self.differences / self.information if self.information else np.nan


class OtherStart(NamedTuple):
    """What the climb from another start ends at.

    Attributes
    ----------
    objective : float
        What is climbed, an average over the samples.
    gain : float
        Nats a sample over the fit; negative where the fit is higher.
    same_covariance : bool
        Whether no more than one nat in all samples tells its covariance from that of the fit.
    divergence : float
        Kullback-Leibler divergence of the fit from it, nats a sample.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(10, 2, n_samples=300, random_state=0).Y
    >>> found = fit_factor_model(Y, 2).check(Y, random_state=0)
    >>> found.others[0].same_covariance, bool(abs(found.others[0].gain) < 1e-4)
    (True, True)
    """

    objective: float
    gain: float
    same_covariance: bool
    divergence: float


@dataclass(frozen=True)
class MaximumCheck:
    """Whether a fit ended at a maximum; what `FactorModelResult.check` returns.

    Attributes
    ----------
    verdict : str
        ``"maximum"``; ``"maximum, ..."`` where another start leads to a higher one; ``"not a
        maximum: ..."`` with the reasons; or ``"flat: ..."``.
    n_samples : int
    loglik, objective : float
        Average log-likelihood a sample, and what was climbed: the same less what a prior takes off.
    gradient_norm : float
        As of `FactorModelResult`.
    largest : tuple of (str or int, str)
        The feature with the largest derivative, by name where it has one, and by what it is:
        ``"level 0"``, ``"D"`` or ``"mean"``.
    expected_gain : float
        ``½ gᵀ I⁻¹ g`` times N, g the gradient and I the information: nats of the log-likelihood of
        all samples that the quadratic about the fit lets expect.
    ahead : float
        The same from some updates further on, with what these really gained.  Where it is much to
        gain this is nearer to the truth; equal to `expected_gain` where there is nothing.
    curvatures : tuple of Curvature
        ``direction``, ``information``, ``differences`` and ``ratio`` of each direction.
    least_curvature : float
        The smallest one by differences, relative to what EM divides by: 1 is that of data whose
        factors are seen.  Negative at a saddle; NaN without directions.
    saddle_gain : float
        Nats of all samples gained by some updates from a step along a direction of negative
        curvature; 0 where there is none.
    zero_columns : tuple of (int, int, int)
        ``(level, group, columns)`` of groups that could use more columns than they have.
    zero_column_gain : float
        Nats of all samples gained by some updates from small random columns in their place.
    held : tuple of (str or int, float)
        Features whose variance stands at the floor, and the derivative of the objective a sample by
        log D: negative where it would go lower.
    others : tuple of OtherStart
        ``objective``, ``gain``, ``same_covariance`` and ``divergence`` of each other start.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y = simulate_factor_model(10, 2, n_samples=300, random_state=0).Y
    >>> found = fit_factor_model(Y, 2).check(Y, random_state=0)
    >>> found.verdict, found.is_maximum, bool(found.expected_gain < 0.01)
    ('maximum', True, True)
    >>> print(found.summary().splitlines()[0].strip())
    Is it a maximum?
    """

    verdict: str
    n_samples: int
    loglik: float
    objective: float
    gradient_norm: float
    largest: tuple[str | int, str]
    expected_gain: float
    ahead: float
    curvatures: tuple[Curvature, ...]
    least_curvature: float
    saddle_gain: float
    zero_columns: tuple[tuple[int, int, int], ...]
    zero_column_gain: float
    held: tuple[tuple[str | int, float], ...]
    others: tuple[OtherStart, ...]

    @property
    def is_maximum(self) -> bool:
        """Whether nothing was found that speaks against a maximum (bool)."""
        return self.verdict.startswith("maximum")

    def summary(self) -> str:
        """The check as a readable text, less than 80 columns wide.

        Returns
        -------
        str
        """
        lines = [*title("Is it a maximum?"), *_facts(self), *paragraph(f"Verdict: {self.verdict}")]
        return "\n".join([*lines, *_table(self), *_remarks(self), "=" * WIDTH])

    __str__ = summary


def verdict(found: MaximumCheck, unbounded: str | None) -> str:
    """In words; what speaks most against a maximum comes first."""
    N, reasons = found.n_samples, [] if unbounded is None else [unbounded]
    if found.ahead > PLATEAU:
        reasons.append(f"going on gains about {found.ahead:.2g} nats")
    if found.saddle_gain > PLATEAU and found.ahead <= PLATEAU:
        reasons.append("a saddle point: the curvature is negative along a direction, and leaving"
                       f" along it gains {found.saddle_gain:.2g} nats or more")
    elif found.saddle_gain > PLATEAU:
        reasons.append("along a direction the curvature is negative, as at a saddle point")
    if found.zero_column_gain > max(PLATEAU, 1.01 * found.ahead):
        reasons.append("small random numbers in columns of zeros lead"
                       f" {found.zero_column_gain:.2g} nats or more up")
    if reasons:
        return f"not a maximum: {'; '.join(reasons)}"
    if any(N * abs(start.gain) <= PLATEAU and not start.same_covariance for start in found.others):
        return "flat: another start ends as high, at another covariance"
    if found.least_curvature < CURVED:
        return "flat: along a direction there is no curvature, by differences of the gradient"
    best = max((start.gain for start in found.others), default=0.0)
    if N * best > PLATEAU:
        return f"maximum, but not the highest: another start ends {best:.2g} nats a sample higher"
    return "maximum"


def _facts(found: MaximumCheck) -> Iterator[str]:
    """Pairs of name and value, in two columns."""
    feature, part = found.largest
    left = [("Samples", f"{found.n_samples:,}"), ("Log-likelihood a sample", f"{found.loglik:.6g}"),
            ("What was climbed", f"{found.objective:.6g}")]
    right = [("Gradient norm", f"{found.gradient_norm:.2g}"),
             ("its feature", f"{short(feature)}, {part}"),
             ("Nats expected ahead", f"{found.expected_gain:.2g}"),
             ("after some updates", f"{found.ahead:.2g}")]
    return side_by_side(left, right)


def _table(found: MaximumCheck) -> Iterator[str]:
    """A line a direction."""
    if not found.curvatures:
        return
    form = "{:<28}{:>18}{:>18}{:>14}"
    yield "-" * WIDTH
    yield form.format("curvature, nats", "by information", "by differences", "ratio")
    for row in found.curvatures:
        yield form.format(row.direction, f"{row.information:.4g}", f"{row.differences:.4g}",
                          f"{row.ratio:.4g}")


def _remarks(found: MaximumCheck) -> Iterator[str]:
    """Held variances, columns of zeros and other starts."""
    if found.held:
        n = len(found.held)
        lower = [short(name) for name, slope in found.held if slope <= 0]
        higher = [short(name) for name, slope in found.held if slope > 0]
        text = (f"{counted(n, 'variance')} {agree(n, 'stands', 'stand')} at the floor (Heywood"
                f" cases).")
        if lower:
            text += f" The likelihood would have lower ones of {name_some(lower)}."
        if higher:
            text += f" It would have higher ones of {name_some(higher)}."
        yield from paragraph(text)
    if found.zero_columns:
        groups = [f"level {level} group {g}" for level, g, _ in found.zero_columns]
        yield from paragraph(
            f"Columns of zeros that a group could use: {name_some(groups)}. Small random numbers in"
            f" their place gain {found.zero_column_gain:.2g} nats.")
    if found.others:
        yield from paragraph(" ".join(_outcome(start, found.n_samples) for start in found.others))


def _outcome(start: OtherStart, n_samples: int) -> str:
    size = abs(start.gain)
    where = ("as high" if n_samples * size <= PLATEAU else
             f"{size:.2g} nats a sample {'higher' if start.gain > 0 else 'lower'}")
    return (f"Another start ends {where}, at {'the same' if start.same_covariance else 'another'}"
            " covariance.")
