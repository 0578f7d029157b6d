"""Splitting samples into folds for cross-validation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._common.labels import by_label
from .._common.typing import IntArray
from .._common.validate import check_rank
from .._common.wording import counted

__all__ = ["make_folds", "naming_part"]


def make_folds(folds: Any, n_folds: int, shuffle: bool, n_samples: int, rng: np.random.Generator,
               row_labels: Any = None) -> list[tuple[IntArray, IntArray]]:
    """Pairs (train, test) of increasing sample numbers.

    `folds` may be such pairs, of numbers, masks or slices, or an object with a method ``split``.
    None cuts the samples into `n_folds` parts of nearly equal size, shuffled or contiguous, and
    tests on one after the other.  Masks with labels are matched to those of the rows.
    """
    samples = np.arange(n_samples)
    if folds is None:
        n_folds = check_rank(n_folds, "n_folds")
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        if n_samples < n_folds:
            raise ValueError(f"{n_folds} folds need at least {n_folds} samples, got {n_samples};"
                             " use fewer folds")
        tests = np.array_split(rng.permutation(samples) if shuffle else samples, n_folds)
        pairs = [(np.setdiff1d(samples, test), test) for test in tests]
    else:
        try:
            pairs = [(train, test) for train, test in (
                folds.split(samples) if hasattr(folds, "split") else folds)]
        except (TypeError, ValueError):
            raise TypeError("folds must be pairs (train, test) of sample numbers, or have a method"
                            f" split that gives them, got {folds!r}") from None
        if not pairs:
            raise ValueError("folds must hold at least one pair (train, test), got none")
    return [_check_fold(k, pair, samples, row_labels) for k, pair in enumerate(pairs)]


def _check_fold(k, pair, samples, row_labels):
    """Train and test as increasing sample numbers."""
    def numbers(x):
        if getattr(getattr(x, "dtype", None), "kind", "") == "b":
            x = by_label(x, row_labels, f"the mask of fold {k}", "sample")
        return np.unique(samples[x if isinstance(x, slice) else np.asarray(x)])

    try:
        train, test = map(numbers, pair)
    except IndexError as error:
        raise ValueError(
            f"fold {k} does not index {counted(samples.size, 'sample')}: {error}") from None
    if train.size < 2 or test.size < 1:
        raise ValueError(f"fold {k} needs 2 samples or more to train on and 1 or more to test on,"
                         f" got {train.size} and {test.size}")
    both = np.intersect1d(train, test, assume_unique=True)
    if both.size:
        raise ValueError(f"fold {k} tests on {both.size} of the samples it trains on, {both[0]}"
                         " the first")
    return train, test


@contextmanager
def naming_part(what: str, advice: str = "use fewer folds, or shuffle them") -> Iterator[None]:
    """Errors say of which part of the data they are."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}; {advice}") from error
