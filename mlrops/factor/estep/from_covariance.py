"""A covariance matrix in place of samples: pseudo-samples that have the same second moments."""

from typing import Any

import numpy as np

from ..._common.frames import column_names, is_foreign, is_frame
from ..._common.labelled import named
from ..._common.labels import names_of_features
from ..._common.typing import FloatArray
from ..._common.validate import as_finite, check_rank, in_memory, plain, working_dtype
from ..._common.wording import agree, counted
from ...operators.named import read_square
from ...tree.reading import tree_of
from .complete import CompleteData
from .sources import Opened

__all__ = ["check_no_samples", "open_covariance", "root_of"]

# Units of rounding, for each feature, to which eigenvalues of correlations may be negative.
ROUNDING = 10


def check_no_samples(Y: Any, covariance: Any, **options: Any) -> None:
    """Refuse what goes with samples only, by name, beside a covariance."""
    if covariance is None:
        raise TypeError("n_samples= goes with a covariance=, got none; data Y have their own number"
                        " of samples")
    if Y is not None:
        raise TypeError("fit_factor_model takes data Y or a covariance=, got both")
    for name, usual in (("sample_weight", None), ("compress", None), ("missing", "raise")):
        value = options[name]
        if value is not usual and not (isinstance(value, str) and value == usual):
            raise ValueError(f"{name} is about samples, which a covariance= does not show: leave it"
                             " out, or give the data Y")
    if isinstance(options["prior"], str):
        raise ValueError('prior="cv" holds out samples, which a covariance= does not show: give the'
                         " prior a strength, or True")


def open_covariance(S: Any, n_samples: Any, hierarchy: Any, what: str = "covariance") -> Opened:
    """What a fit takes in place of data of which only the covariance `S` (n, n) is known.

    The n samples or fewer that it stands for count as `n_samples`, N.  Every E-step needs no more
    of N samples than ``Y'Y``, so all iterates are those of a fit to data with ``Y'Y / N = S``.
    """
    if n_samples is None:
        raise TypeError(f"{what}= needs n_samples=, the number of samples that it comes from")
    if check_rank(n_samples, "n_samples") < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples}")
    in_memory(S, what)
    names = _names(S)
    values = plain(read_square(S, names, what, "feature"), what)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"{what} must be square, features by features, got shape {values.shape}")
    hierarchy = tree_of(hierarchy, names, values.shape[1])
    if hierarchy.n != len(values):
        raise ValueError(f"{what} must have one row and one column for each of the hierarchy's"
                         f" {counted(hierarchy.n, 'feature')}, got shape {values.shape}")
    names = hierarchy.feature_names
    root, N = root_of(values, names, what), int(n_samples)
    X = np.ascontiguousarray(hierarchy._gather(root)) * N**0.5
    source = CompleteData(X, np.einsum("ik,ik->i", X, X), np.zeros(hierarchy.n), N, float(N))
    return Opened(source, hierarchy, names)


def _names(S):
    """Names of the features of a frame, which its columns have."""
    if not is_frame(S):
        return None
    if is_foreign(S):
        return column_names(S)
    return names_of_features(S.columns)


def root_of(S: FloatArray, names: Any, what: str = "covariance") -> FloatArray:
    """X (n, k) with ``X X' = S``, k the rank of S, an (n, n) array; float64 whatever its dtype.

    Eigenvalues are those of the correlations, so that the units of features do not matter.
    """
    rounding = float(np.finfo(working_dtype(S.dtype, what)).eps)
    S = as_finite(S, what, dtype=float, ndim=2, labels=names)
    variance = np.diagonal(S)
    bad = np.flatnonzero(~(variance > 0))
    if bad.size:
        raise ValueError(
            f"{what} must have positive variances on its diagonal, got {variance[bad[0]]:.3g}"
            f" ({counted(bad.size, 'feature')}: {named(bad, names)}); leave constant features out")
    sd = np.sqrt(variance)
    R = S / sd[:, None] / sd
    skew = np.abs(R - R.T)
    if skew.max() > np.sqrt(rounding):
        i, j = divmod(int(skew.argmax()), len(S))
        raise ValueError(f"{what} must be symmetric, got {S[i, j]:.6g} and {S[j, i]:.6g} for"
                         f" features {named([i, j], names)}; pass (S + S.T) / 2 if that is"
                         " rounding")
    values, V = np.linalg.eigh((R + R.T) / 2)
    least = ROUNDING * len(S) * rounding
    if values[0] < -least:
        n_bad = int((values < -least).sum())
        heavy = np.sort(np.argsort(-np.abs(V[:, 0]), kind="stable")[:3])
        raise ValueError(
            f"{what} must be positive semidefinite, got {counted(n_bad, 'negative eigenvalue')} of"
            f" its correlations, the lowest {values[0]:.3g}, in a combination of which"
            f" {agree(heavy.size, 'feature', 'features')} {named(heavy, names)} have the largest"
            " weights; correlations of pairs with missing cells are often not: fit to the data"
            ' with missing="em", or pass the nearest matrix that is')
    kept = values > least
    return sd[:, None] * (V[:, kept] * np.sqrt(values[kept]))
