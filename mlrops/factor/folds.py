"""Splitting samples into folds for cross-validation, whatever the data are kept in."""

import numpy as np
import scipy.sparse

from .._common.labels import by_label
from .._common.validate import check_rank
from .._common.wording import counted

__all__ = ["make_folds", "take_rows"]


def make_folds(folds, n_folds, shuffle, n_samples, rng, rows=None):
    """List of (train, test) pairs of increasing sample numbers.

    Parameters
    ----------
    folds : None, iterable of (train, test), or object with a method ``split``
        None cuts the samples into `n_folds` parts of nearly equal size, shuffled or contiguous, and
        tests on one after the other.  Train and test may be numbers, masks or slices.
    n_folds : int
    shuffle : bool
    n_samples : int
    rng : numpy.random.Generator
    rows : sequence, optional
        Labels of the samples, to which masks with labels are matched.
    """
    samples = np.arange(n_samples)
    if folds is None:
        n_folds = check_rank(n_folds, "n_folds")
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        if n_samples < n_folds:
            raise ValueError(f"{n_folds} folds need at least {n_folds} samples, got {n_samples};"
                             " use fewer folds")
        parts = np.array_split(rng.permutation(samples) if shuffle else samples, n_folds)
        pairs = [(np.setdiff1d(samples, part), part) for part in parts]
    else:
        pairs = folds.split(samples) if hasattr(folds, "split") else folds
        try:
            pairs = [(train, test) for train, test in pairs]
        except (TypeError, ValueError):
            raise TypeError("folds must be pairs (train, test) of sample numbers, or have a method"
                            f" split that gives them, got {folds!r}") from None
        if not pairs:
            raise ValueError("folds must hold at least one pair (train, test), got none")
    return [_check_fold(k, train, test, samples, rows) for k, (train, test) in enumerate(pairs)]


def _check_fold(k, train, test, samples, rows):
    try:
        train, test = (np.unique(samples[x if isinstance(x, slice) else _chosen(x, rows, k)])
                       for x in (train, test))
    except IndexError as error:
        raise ValueError(f"fold {k} does not index {counted(samples.size, 'sample')}:"
                         f" {error}") from None
    if train.size < 2 or test.size < 1:
        raise ValueError(f"fold {k} needs 2 samples or more to train on and 1 or more to test on,"
                         f" got {train.size} and {test.size}")
    both = np.intersect1d(train, test, assume_unique=True)
    if both.size:
        raise ValueError(f"fold {k} tests on {both.size} of the samples it trains on, {both[0]} the"
                         " first")
    return train, test


def _chosen(x, rows, fold):
    """Numbers or a mask as an array; a mask with labels in the order of the samples."""
    if getattr(getattr(x, "dtype", None), "kind", "") == "b":
        x = by_label(x, rows, f"the mask of fold {fold}", "sample")
    return np.asarray(x)


def take_rows(Y, rows):
    """Rows of an array, a pandas DataFrame or a SciPy sparse matrix, as the same kind of thing."""
    if hasattr(Y, "iloc"):
        return Y.iloc[rows]
    if scipy.sparse.issparse(Y):
        return Y.tocsr()[rows]
    return np.asarray(Y)[rows]
