"""Random trees, ranks and MLR operators for Hypothesis, each with its dense matrix."""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from mlrops import MLR, Hierarchy
from mlrops.factor.estep import forest, incomplete_solve, moments, patterns
from mlrops.kernels import layout, leaf, parts, threads, tree


class Case(NamedTuple):
    """An operator and what it was made of; ``dense`` is formed from labels, entry by entry."""

    A: MLR
    dense: np.ndarray  # (n, n), float64
    hierarchy: Hierarchy
    factors: list  # of (n, r_l), feature order
    D: np.ndarray
    rng: np.random.Generator


@st.composite
def hierarchies(draw, max_n=30, max_levels=6):
    """Unequal groups, groups of one feature, repeated levels, several roots, any feature order."""
    n = draw(st.integers(1, max_n))
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=12))) if n > 1 else []
    levels = [[0, *cuts, n]]
    for _ in range(draw(st.integers(0, max_levels - 1))):
        how = draw(st.sampled_from(["merge", "merge", "repeat", "root"]))
        kept = levels[0][1:-1]
        if how == "merge":
            kept = [b for b in kept if draw(st.booleans())]
        elif how == "root":
            kept = []
        levels.insert(0, [0, *kept, n])
    permutation = draw(st.one_of(st.just(list(range(n))), st.permutations(range(n))))
    return Hierarchy(permutation, levels)


def same_group(hierarchy, level):
    """(n, n) mask of the pairs of features that share their group of a level."""
    labels = hierarchy.labels(level)
    return labels[:, None] == labels


def dense_mlr(hierarchy, factors, D):
    """The matrix by its definition, in float64."""
    out = np.diag(np.asarray(D, float))
    for level, F in enumerate(factors):
        F = np.asarray(F, float)
        out += np.where(same_group(hierarchy, level), F @ F.T, 0)
    return out


def spread(hierarchy, factors):
    """Spread-out factors (n, s): the groups of level 0 one after the other, then of level 1, ..."""
    blocks = [np.where(hierarchy.labels(level)[:, None] == g, F, 0)
              for level, F in enumerate(factors)
              for g in range(hierarchy.group_counts[level])]
    return np.concatenate(blocks, axis=1)


def make_case(hierarchy, ranks, seed, dtype=np.float64):
    """A well-conditioned operator with normal factors and D in [0.4, 2.5]."""
    rng = np.random.default_rng(seed)
    n = hierarchy.n
    factors = [rng.standard_normal((n, r)).astype(dtype) for r in ranks]
    D = np.exp(rng.uniform(-0.9, 0.9, n)).astype(dtype)
    A = MLR(hierarchy, factors, D)
    return Case(A, dense_mlr(hierarchy, factors, D), hierarchy, factors, D, rng)


def permuted_case():
    """One tree for examples: permuted, two roots, a level of rank 0, leaves of one feature."""
    rng = np.random.default_rng(5)
    levels = [[0, 20, 30], [0, 5, 20, 30], [0, 5, 6, 20, 21, 30]]
    return make_case(Hierarchy(rng.permutation(30), levels), (2, 0, 3), seed=6)


@st.composite
def cases(draw, max_n=30, max_levels=6, max_rank=4, dtype=np.float64):
    """Cases on random trees; levels of rank 0 and groups smaller than their rank included."""
    hierarchy = draw(hierarchies(max_n, max_levels))
    ranks = [draw(st.integers(0, max_rank)) for _ in range(hierarchy.n_levels)]
    return make_case(hierarchy, ranks, draw(st.integers(0, 2**32 - 1)), dtype)


PATHS = {
    "as shipped": {},
    "BLAS for every leaf": {"BLAS_WORK": 0, "BLAS_COLUMNS": 1, "CHUNK": 3},
    "loops for every leaf": {"BLAS_WORK": 10**12},
    "leaves in pieces": {"BLAS_WORK": 10**12, "PIECE_ROWS": 2},
    "block after block of leaves": {"BLOCK_ITEMS": 1, "CACHE_ITEMS": 1},
    "subtrees shared by threads": {"SHARES": 2, "SHARED_ITEMS": 0, "LARGEST_SHARE": 1.0,
                                   "MIN_WORK": 0, "CACHE_ITEMS": 40},
    "large leaves shared by pieces": {"SHARES": 10**9, "SHARED_ITEMS": 0, "LONG_ROWS": 3,
                                      "PIECE_ROWS": 2, "MIN_WORK": 0, "BLAS_WORK": 0},
}


def set_constants(patch, **values):
    """Set tuning constants of the kernels in every module that uses them."""
    for name, value in values.items():
        owners = [m for m in (forest, incomplete_solve, layout, leaf, moments, parts, patterns,
                              threads, tree) if hasattr(m, name)]
        assert owners, name
        for module in owners:
            patch.setattr(module, name, value)
    patch.setattr(Hierarchy, "_layout", lambda h, ranks: layout.make_layout(
        h.boundaries, h._paths, ranks))  # a tree keeps those of other constants


@contextmanager
def computing(path):
    """Force one of the ways in which the same numbers are computed; operators are built inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLROPS_NUM_THREADS", "3")
        set_constants(patch, **PATHS[path])
        yield


def close(actual, desired, tol=1e-9):
    """Equal within `tol` times the largest entry."""
    desired = np.asarray(desired)
    assert np.shape(actual) == desired.shape, (np.shape(actual), desired.shape)
    if desired.size:
        error = np.abs(actual - desired).max()
        assert error <= tol * np.abs(desired).max(), error / np.abs(desired).max()
