"""What a file holds of a `FactorModelResult`, and what its parts may be."""

from typing import Any

import numpy as np

from .._common.stored import (
    COUNT,
    FINITE,
    FIT,
    FLAG,
    NAMES,
    Check,
    check_fit,
    floats,
    maybe,
    one_of,
)

__all__ = ["FIELDS", "STRENGTH", "check_prior", "checked"]

STRENGTH = Check("a finite number that is not negative",
                 lambda x: FINITE.holds(x) and x >= 0)
FIELDS = FIT | {
    "mean": floats(1), "n_samples": COUNT, "feature_names": maybe(NAMES),
    "mean_is_estimated": FLAG, "objective_trace": maybe(floats(1)),
    "optimizer": one_of("scoring", "bfgs", "em"), "prior": STRENGTH,
    "prior_variance": maybe(floats(1)), "prior_share": maybe(floats(1)),
    "prior_scores": maybe(floats(2))}


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """Fields from a file, which must fit one another."""
    given, A = dict(given), given["covariance"]
    n, mean, names, boundary = A.shape[0], given["mean"], given.get("feature_names"), given[
        "boundary"]
    if mean.shape != (n,) or not np.isfinite(mean).all():
        raise ValueError(f"mean must hold {n} finite floats, got {mean.dtype} of shape"
                         f" {mean.shape}")
    if names is not None and len(names) != n:
        raise ValueError(f"feature_names must be {n}, got {len(names)}")
    if boundary.size and boundary.max() >= n:
        raise ValueError(f"boundary must hold features, integers from 0 to {n - 1}")
    if given.get("objective_trace") is None:  # versions before 0.3.0 had no prior
        given["objective_trace"] = given["loglik_trace"].copy()
    check_fit(given, ["loglik_trace", "objective_trace"], A.ranks, A.hierarchy.group_counts)
    check_prior(given, n)
    return given


def check_prior(given: dict[str, Any], n: int) -> None:
    """Refuse what fits no prior on n variances."""
    strength = given.get("prior", 0.0)
    for name, most in (("prior_variance", np.inf), ("prior_share", 1.0)):
        x = given.get(name)
        if (x is None) != (strength == 0):
            raise ValueError(f"{name} must be there with a prior, and only then")
        if x is not None and (x.shape != (n,) or not ((x > 0) & (x < np.inf) & (x <= most)).all()):
            raise ValueError(f"{name} must hold {n} positive floats, got {x.dtype} of shape"
                             f" {x.shape}")
    scores = given.get("prior_scores")
    if scores is not None:
        if not scores.size or scores.shape[1] != 3 or not np.isfinite(scores).all() or (
                scores[:, ::2] < 0).any():
            raise ValueError("prior_scores must hold a strength, a log-likelihood and a standard"
                             f" error in each row, got {scores.dtype} of shape {scores.shape}")
        if strength not in scores[:, 0]:
            raise ValueError(f"the strength {strength} of the prior is not in prior_scores")
