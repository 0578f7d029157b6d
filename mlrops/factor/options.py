"""Checks of the options that the fits share."""

from numbers import Real

import numpy as np

from .._common.labelled import named
from .._common.validate import check_rank
from .._common.wording import counted
from .run import Rules

__all__ = ["check_options", "check_scale", "check_times"]


def check_options(n_init, tol, gtol, max_iter, variance_floor):
    """The number of starts and the rules to stop by."""
    n_init = check_rank(n_init, "n_init")
    if n_init < 1:
        raise ValueError("n_init must be at least 1, got 0")
    for name, value in (("tol", tol), ("gtol", gtol), ("variance_floor", variance_floor)):
        check_number(value, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return n_init, Rules(tol, gtol, check_rank(max_iter, "max_iter"))


def check_scale(source, hierarchy, names, axis_name="feature"):
    """Refuse variances so large or small that what is computed with them leaves the dtype.

    Limits of double precision are those of squares of variances.
    """
    limits = np.finfo(source.dtype)
    low = max(float(limits.tiny / limits.eps), 1e-60)
    high = min(float(limits.max * limits.eps), 1e60)
    variance = hierarchy._scatter(source.variance)
    bad = np.flatnonzero(~((variance >= low) & (variance <= high)))
    if bad.size:
        raise ValueError(
            f"Y has {counted(bad.size, axis_name)} ({named(bad, names)}) with variances out of the"
            f" range that can be computed with in {source.dtype}, {low:.0e} to {high:.0e}; change"
            " their units"
        )


def check_number(value, name):
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")


def check_times(every, seconds):
    if every is not None and check_rank(every, "checkpoint_every") < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {every}")
    if seconds is not None:
        check_number(seconds, "checkpoint_seconds")
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"checkpoint_seconds must not be negative, got {seconds!r}")
