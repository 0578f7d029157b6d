"""Rotation of the factors within groups towards loadings that are easy to read."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from .._common.cached import cached_property
from .._common.convergence import ConvergenceWarning
from .._common.optional import import_pandas
from .._common.typing import FloatArray, RowData, ScoreMethod
from .._common.validate import check_rank
from .._common.wording import name_some
from ..operators.mlr import MLR
from .conditional import factor_scores

__all__ = ["RotatedLoadings", "loadings_frame", "rotate"]

FactorModelResult: TypeAlias = Any  # its file imports this one

# Share of the (1/m)(Σ λ²)² term in the orthomax criterion.
ORTHOMAX = {"quartimax": 0.0, "varimax": 1.0, "promax": 1.0}
# Numbers of loadings that are rotated at a time: a few megabytes with the temporaries.
BATCH = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RotatedLoadings:
    """Rotated factors of a fitted model; what `FactorModelResult.rotate` returns.

    Within group g of level l, ``loadings[l]`` is ``F_l @ rotation[l][g]``; the rotated factors have
    covariance ``factor_covariance[l][g]`` and Σ is what it was:
    ``Σ_l Λ_l Φ_l Λ_lᵀ + diag(D)``.

    Attributes
    ----------
    fit : FactorModelResult
        The model whose factors were rotated.
    method : str
        The method asked for.
    loadings : tuple of L ndarray, shapes (n, r_l)
        Λ_l, feature order.  Columns of each group longest first, the entry of largest magnitude
        positive, as in `MLR.principal`.
    rotation : tuple of L ndarray, shapes (p_l, r_l, r_l)
        Orthogonal, but for ``"promax"``.
    factor_covariance : tuple of L ndarray, shapes (p_l, r_l, r_l)
        Φ_l, unit diagonal; identities but for ``"promax"``.
    converged : bool
        Whether every group came to rest within the number of sweeps allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> fit = fit_factor_model(simulate_factor_model(8, 2, n_samples=90, random_state=0).Y, 2)
    >>> turned = fit.rotate("promax")
    >>> turned.loadings[0].shape, turned.rotation[0].shape, turned.oblique
    ((8, 2), (1, 2, 2), True)
    >>> bool(np.allclose(turned.covariance.toarray(), fit.covariance.toarray()))
    True
    """

    fit: FactorModelResult
    method: str
    loadings: tuple[FloatArray, ...]
    rotation: tuple[FloatArray, ...]
    factor_covariance: tuple[FloatArray, ...]
    converged: bool

    @property
    def oblique(self) -> bool:
        """Whether the rotated factors are correlated (bool)."""
        return self.method == "promax"

    @cached_property
    def covariance(self) -> MLR:
        """Σ as an `MLR`: with the rotated loadings as factors where they are orthogonal."""
        fitted = self.fit.covariance
        if self.oblique:
            return fitted
        return MLR.from_compact(fitted.hierarchy, fitted.ranks,
                                np.concatenate(self.loadings, axis=1), fitted.D,
                                check_finite=False)

    @property
    def result(self) -> FactorModelResult:
        """The fitted model with the rotated factors, a `FactorModelResult`.

        Raises
        ------
        ValueError
            After an oblique rotation: a result has uncorrelated factors.
        """
        if self.oblique:
            raise ValueError(
                f"{self.method} gives correlated factors, which no FactorModelResult holds; use"
                " loadings, factor_covariance and scores of the rotation itself")
        return dataclasses.replace(self.fit, covariance=self.covariance)

    def scores(self, Y: RowData, level: int | None = None, *,
               method: ScoreMethod = "posterior") -> Any:
        """Scores of the rotated factors, ``Φ Tᵀ z`` with the scores z of the model's own.

        Parameters
        ----------
        Y, level, method
            As for `FactorModelResult.scores`.

        Returns
        -------
        scores : ndarray, shape (N, p_l, r_l), or DataFrame
            A tuple of L arrays for ``level=None``; DataFrames for a DataFrame.
        """
        axes = [np.matmul(T, Phi)
                for T, Phi in zip(self.rotation, self.factor_covariance, strict=True)]
        return factor_scores(self.fit, Y, level, method, axes=axes)

    def to_frame(self) -> Any:
        """The loadings as a pandas DataFrame; see `FactorModelResult.to_frame`."""
        return loadings_frame(self.fit, self.loadings)

    def __repr__(self) -> str:
        state = "" if self.converged else ", not converged"
        return f"<RotatedLoadings by {self.method}{state}: {self.fit.covariance!r}>"


def rotate(fit: FactorModelResult, method: str, level: int | Sequence[int] | None,
           normalize: bool, power: float, max_iter: int, tol: float) -> RotatedLoadings:
    """Rotate a fitted model; see `FactorModelResult.rotate`."""
    if method not in ORTHOMAX:
        raise ValueError(f"method must be one of {', '.join(map(repr, ORTHOMAX))}, got {method!r}")
    if not power >= 1:
        raise ValueError(f"power must be at least 1, got {power!r}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol!r}")
    max_iter = check_rank(max_iter, "max_iter")
    h = fit.covariance.hierarchy
    chosen = range(h.n_levels) if level is None else [h._level(x) for x in np.atleast_1d(level)]

    loadings, rotation, factor_covariance, at_rest = [], [], [], True
    for at, F in enumerate(fit.covariance.factors):
        rotated, r = np.array(F), F.shape[1]
        T, Phi = np.tile(np.eye(r, dtype=F.dtype), (2, h.group_counts[at], 1, 1))
        if at in chosen and r:
            F = h._gather(F)
            Lambda = np.empty_like(F)
            for rows, groups in _batches(h, at, r):
                B = F[rows].astype(float)
                found, rested = _rotation(B, method, normalize, power, max_iter, tol)
                Lambda[rows], T[groups], Phi[groups] = _in_order(B, *found)
                at_rest &= rested
                bad = groups[np.isnan(Phi[groups, 0, 0])]
                if bad.size:
                    raise np.linalg.LinAlgError(
                        f"promax finds dependent axes at level {at} (group {name_some(bad)}); lower"
                        " the power or rotate that level orthogonally")
            rotated = h._scatter(Lambda)
        loadings.append(rotated)
        rotation.append(T)
        factor_covariance.append(Phi)
    if not at_rest:
        warnings.warn(f"{method} did not come to rest in {max_iter} sweeps in some groups; raise"
                      " max_iter or tol", ConvergenceWarning, stacklevel=3)
    return RotatedLoadings(fit, method, tuple(loadings), tuple(rotation),
                           tuple(factor_covariance), at_rest)


def _batches(hierarchy, level, r):
    """(rows (g, m), group numbers (g,)) of groups of one size, a bounded number at a time."""
    offsets = hierarchy.boundaries[level]
    for rows in hierarchy._equal_groups(level):
        step = max(1, BATCH // (rows.shape[1] * r))
        for start in range(0, len(rows), step):
            batch = rows[start : start + step]
            yield batch, np.searchsorted(offsets, batch[:, 0])


def _rotation(B, method, normalize, power, max_iter, tol):
    """((T, Φ), whether all came to rest) for groups of loadings B (g, m, r)."""
    if normalize:  # rows of unit length (Kaiser); rows of zeros stay
        lengths = np.sqrt(np.square(B).sum(axis=2, keepdims=True))
        B = np.divide(B, lengths, out=np.zeros_like(B), where=lengths > 0)
    T, rested = _orthomax(B, ORTHOMAX[method], max_iter, tol)
    if method != "promax":
        return (T, np.broadcast_to(np.eye(T.shape[1]), T.shape)), rested
    U, Phi = _promax(np.matmul(B, T), power)
    return (np.matmul(T, U), Phi), rested


def _orthomax(B, gamma, max_iter, tol):
    """Rotations T (g, r, r) that maximize ``Σ_j [Σ_i λ_ij⁴ - (γ/m) (Σ_i λ_ij²)²]``, Λ = B T.

    Each step turns disjoint pairs of columns by the angle that is best for the pair, so that the
    criterion can only rise (H. F. Kaiser, "The varimax criterion for analytic rotation in factor
    analysis", 1958).  A group is at rest when a sweep over all pairs finds none to turn: for each,
    the derivative by the angle is `tol` of the pair's ``Σ (x² + y²)²`` or less.
    """
    g, m, r = B.shape
    X = np.concatenate([B, np.broadcast_to(np.eye(r), (g, r, r))], axis=1)  # Λ on top of T
    X = np.ascontiguousarray(X.swapaxes(1, 2))
    rounds = list(_rounds(r))
    turning = np.arange(g if rounds else 0)
    for _ in range(max_iter):
        if not turning.size:
            break
        W, turned = X[turning], np.zeros(turning.size, bool)
        for i, j in rounds:
            x, y = W[:, i], W[:, j]
            angle = _best_angle(x[..., :m], y[..., :m], gamma, tol)
            c, s = np.cos(angle)[..., None], np.sin(angle)[..., None]
            W[:, i], W[:, j] = c * x + s * y, c * y - s * x
            turned |= (angle != 0).any(axis=1)
        X[turning] = W
        turning = turning[turned]
    return X[:, :, m:].swapaxes(1, 2), not turning.size


def _best_angle(x, y, gamma, tol):
    """The angle for each pair of columns x, y (..., m); 0 where nothing is to be gained."""
    m = x.shape[-1]
    u, v = (x - y) * (x + y), 2 * x * y
    U, V = u.sum(axis=-1), v.sum(axis=-1)
    # As a function of φ the criterion is constant + ¼ (a cos 4φ + b sin 4φ).
    a = ((u - v) * (u + v)).sum(axis=-1) - gamma / m * (U - V) * (U + V)
    b = 2 * ((u * v).sum(axis=-1) - gamma / m * U * V)
    scale = tol * np.square(x * x + y * y).sum(axis=-1)
    best = (np.abs(b) <= scale) & (a >= -scale)
    return np.where(best, 0, np.arctan2(b, a) / 4)


def _rounds(r):
    """All pairs of r columns, in rounds of disjoint pairs (the schedule of a tournament)."""
    seats = list(range(r + r % 2))
    for _ in range(len(seats) - 1):
        pairs = [sorted(p) for p in zip(seats, seats[::-1], strict=True)][: len(seats) // 2]
        pairs = [p for p in pairs if p[1] < r]
        if pairs:
            yield tuple(np.array(pairs).T)
        seats.insert(1, seats.pop())


def _promax(Lambda, power):
    """(U, Φ): the oblique turn of rotated loadings towards ``Λ |Λ|^(power - 1)``, by least squares.

    Columns of U are scaled so that ``Φ = (UᵀU)⁻¹`` has unit diagonal; a column of zeros stays as it
    is (A. E. Hendrickson, P. O. White, "Promax: a quick method for rotation to oblique simple
    structure", 1964).
    """
    m, r = Lambda.shape[1:]
    lengths = np.sqrt(np.square(Lambda).sum(axis=1))
    largest = lengths.max(axis=1, keepdims=True)
    absent = lengths <= max(m, r) * np.finfo(float).eps * largest
    peaks = np.where(absent, 1, np.abs(Lambda).max(axis=1))[:, None]  # or high powers underflow
    target = Lambda * (np.abs(Lambda) / peaks) ** (power - 1)
    W, s, Vt = np.linalg.svd(Lambda, full_matrices=False)
    kept = s > max(m, r) * np.finfo(float).eps * s[:, :1]
    inverse = np.divide(1, s, out=np.zeros_like(s), where=kept)
    U = np.matmul(Vt.swapaxes(1, 2) * inverse[:, None], np.matmul(W.swapaxes(1, 2), target))
    group, column = np.nonzero(absent)
    U[group, :, column] = U[group, column] = 0
    U[group, column, column] = 1
    U /= np.sqrt(np.square(U).sum(axis=1, keepdims=True))

    _, s, Vt = np.linalg.svd(U)
    s[s[:, -1] <= r * np.finfo(float).eps] = np.nan  # no oblique axes: the caller names the group
    V = Vt.swapaxes(1, 2) / s[:, None]
    Phi = np.matmul(V, V.swapaxes(1, 2))
    d = np.sqrt(np.einsum("gii->gi", Phi))
    return U * d[:, None], Phi / (d[:, :, None] * d[:, None])


def _in_order(B, T, Phi):
    """(Λ, T, Φ) with the columns of Λ = B T longest first and their largest entries positive."""
    Lambda = np.matmul(B, T)
    order = np.argsort(-np.square(Lambda).sum(axis=1), axis=1, kind="stable")
    peaks = np.take_along_axis(Lambda, np.abs(Lambda).argmax(axis=1)[:, None], axis=1)[:, 0]
    signs = np.take_along_axis(np.where(peaks < 0, -1.0, 1.0), order, axis=1)

    def columns(X):
        return np.take_along_axis(X, order[:, None], axis=2) * signs[:, None]

    return columns(Lambda), columns(T), columns(columns(Phi).swapaxes(1, 2))


def loadings_frame(fit: FactorModelResult, loadings: Sequence[FloatArray]) -> Any:
    """Loadings, one array (n, r_l) a level, with variance and communality, as a DataFrame."""
    pd = import_pandas()
    columns = [(f"level {level}", f"factor {k}")
               for level, F in enumerate(loadings) for k in range(F.shape[1])]
    data = np.column_stack([*loadings, fit.covariance.D, fit.communalities])
    return pd.DataFrame(
        data, index=None if fit.feature_names is None else pd.Index(fit.feature_names),
        columns=pd.MultiIndex.from_tuples([*columns, ("D", ""), ("communality", "")]))
