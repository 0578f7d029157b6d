"""How many factors a system of equations carries."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._common.typing import IntArray
from ..._common.wording import counted, name_some
from ...factor.usable import usable_ranks
from ...operators.mlr import check_ranks
from ...tree.hierarchy import Hierarchy
from .data import SURData

__all__ = ["carried_ranks", "check_bounded", "check_carried", "is_bounded"]


def check_carried(data: SURData, hierarchy: Hierarchy, ranks: Any) -> tuple[int, ...]:
    """`carried_ranks` of the data."""
    label = range(data.K) if data.names is None else data.names.equations
    return carried_ranks(data.p, data.nobs, hierarchy, ranks, label)


def carried_ranks(p: IntArray, nobs: IntArray, hierarchy: Hierarchy, ranks: Any,
                  label: Any) -> tuple[int, ...]:
    """Ranks that the rows carry; of a single equation 0, which has no other to share factors with.

    With as many regressors and factors as cells an equation could be fitted exactly, whatever its
    coefficients.
    """
    ranks = check_ranks(ranks, hierarchy)
    if p.size == 1:
        return (0,) * len(ranks)
    factors = np.sum([usable[hierarchy.labels(level)]
                      for level, usable in enumerate(usable_ranks(hierarchy, ranks))], axis=0)
    bad = np.flatnonzero(nobs <= p + factors)
    if bad.size:
        j = bad[0]
        raise ValueError(
            f"equation {label[j]} has {counted(nobs[j], 'row')} for"
            f" {counted(p[j], 'regressor')} and {counted(factors[j], 'factor')}; more rows"
            f" than both together are needed ({counted(bad.size, 'equation')}:"
            f" {name_some(label[i] for i in bad)}): lower the ranks")
    return ranks


def is_bounded(p: int, N: int, ranks: Sequence[int]) -> bool:
    """Whether so few regressors an equation and factors leave the likelihood a maximum anyhow."""
    R = sum(ranks)
    return (R + 1) * p < N - R


def check_bounded(data: SURData, hierarchy: Hierarchy, ranks: tuple[int, ...],
                  label: Sequence[Any] | None = None) -> None:
    """Refuse ranks for which the likelihood has no maximum.

    Take R + 1 equations of a leaf whose equations have R factors.  Where their residuals satisfy
    one linear equation in every row, their variances D can go to zero and the likelihood to
    infinity.  These are N conditions on R weights (one of R + 1 is free) and on as many
    coefficients as there are independent regressors: ``N - R`` of them are enough.  Errors call the
    equations by `label`.
    """
    if data.observed is not None:  # a row then constrains the equations that it has
        return
    if is_bounded(int(data.p.max()), data.N, ranks):
        return
    if label is None:
        label = range(data.K) if data.names is None else data.names.equations
    p, labels, usable = data.p, hierarchy.labels(-1), usable_ranks(hierarchy, ranks)
    for leaf in range(hierarchy.group_counts[-1]):
        equations = np.flatnonzero(labels == leaf)
        R = sum(int(usable[level][hierarchy.labels(level)[equations[0]]])
                for level in range(hierarchy.n_levels))
        if R == 0 or equations.size <= R:
            continue
        most = equations[np.argsort(-p[equations], kind="stable")[: R + 1]]
        if p[most].sum() < data.N - R:
            continue
        X = np.concatenate([data.Xs[j] for j in most], axis=1)
        length = np.linalg.norm(X, axis=0)
        rank = int(np.linalg.matrix_rank(X / np.where(length > 0, length, 1)))
        if rank >= data.N - R:
            raise ValueError(
                f"with {counted(R, 'factor')} the likelihood has no maximum: equations"
                f" {name_some([label[j] for j in most], limit=R + 1)} have {rank} independent"
                f" regressors, and {counted(data.N, 'row')} allow {data.N - R - 1} for {R + 1}"
                " equations; lower the ranks, or take a prior or a factor_ridge")
