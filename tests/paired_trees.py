"""Random pairs of trees of one shape and general multilevel matrices on them, with dense twins."""

import numpy as np
from hypothesis import strategies as st
from market import dense_general
from trees import hierarchies

from mlrops import GeneralMLR, Hierarchy


def twin(shape, sizes, permutation):
    """A tree of the shape of another one, its leaves of these sizes."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    at = [np.searchsorted(shape.boundaries[-1], b) for b in shape.boundaries]
    return Hierarchy(permutation, [ends[b] for b in at])


@st.composite
def pairs(draw, square=False, max_leaf=4):
    """Two trees of one shape: unequal groups, unlike permutations, several roots, deep ones."""
    shape = draw(hierarchies(max_n=12, max_levels=5))
    leaves = shape.group_counts[-1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(1, max_leaf + 1, leaves)
    cols = rng.permutation(rows) if square else rng.integers(1, max_leaf + 1, leaves)
    return (twin(shape, rows, rng.permutation(rows.sum())),
            twin(shape, cols, rng.permutation(cols.sum())), rng)


def factors(h, ranks, rng, dtype=np.float64):
    return [rng.standard_normal((h.n, r)).astype(dtype) for r in ranks]


def general(rows, cols, ranks, rng, dtype=np.float64):
    left, right = factors(rows, ranks, rng, dtype), factors(cols, ranks, rng, dtype)
    return GeneralMLR(rows, cols, left, right), dense_general(rows, cols, left, right)


@st.composite
def operators(draw, square=False, dtype=np.float64, max_rank=3):
    rows, cols, rng = draw(pairs(square))
    ranks = [draw(st.integers(0, max_rank)) for _ in range(rows.n_levels)]
    return *general(rows, cols, ranks, rng, dtype), rng


def example(seed=0, dtype=np.float64):
    """One permuted rectangular pair: two roots, rank 0, one-wide groups."""
    rng = np.random.default_rng(seed)
    rows = Hierarchy(rng.permutation(30), [[0, 20, 30], [0, 5, 20, 30], [0, 5, 6, 20, 21, 30]])
    cols = Hierarchy(rng.permutation(23), [[0, 3, 23], [0, 1, 3, 23], [0, 1, 2, 3, 10, 23]])
    return *general(rows, cols, (2, 0, 3), rng, dtype), rng
