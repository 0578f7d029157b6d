"""Trees cut by chunks of columns, and models and samples on them."""

import numpy as np
import pytest

from mlrops import MLR, FactorModelResult, Hierarchy

da = pytest.importorskip("dask.array")


def within_parts():
    """A tree whose order is not that of the features, but within 12 and 24 of them."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(12), 12 + rng.permutation(24)])
    return Hierarchy(order, [[0, 36], [0, 12, 36], [0, 3, 12, 20, 21, 36]])


# Name: tree, ranks, columns of the chunks, and the level that these leave whole.
CASES = {
    "flat": (Hierarchy.flat(30), (2,), (10, 13, 7), 1),
    "two levels, cut at 1": (Hierarchy.balanced(36, [1, 3]), (2, 1), (12, 24), 1),
    "three levels, cut at 0": (Hierarchy.balanced(36, [3, 6, 12]), (1, 1, 1), (12, 24), 0),
    "three levels, cut at 1": (Hierarchy.balanced(36, [1, 3, 6]), (2, 1, 1), (12, 24), 1),
    "three levels, cut at 2": (Hierarchy.balanced(36, [1, 3, 6]), (2, 1, 1), (6, 18, 12), 2),
    "leaves in pieces": (Hierarchy.balanced(36, [1, 3, 6]), (2, 1, 1), (10, 8, 18), 3),
    "several parents a part": (Hierarchy.balanced(48, [1, 4, 16]), (1, 2, 1), (9, 30, 9), 2),
    "unequal, other order": (within_parts(), (2, 1, 2), (12, 24), 1),
    "rank zero levels": (Hierarchy.balanced(36, [1, 3, 6]), (0, 2, 0), (18, 18), 2),
    "groups of one feature": (Hierarchy.balanced(24, [1, 4, 24]), (1, 1, 1), (7, 10, 7), 2),
    "no factors": (Hierarchy.balanced(24, [1, 4]), (0, 0), (7, 10, 7), 2),
}
SIMPLE = "three levels, cut at 2"


def samples(h, ranks, N=60, seed=0):
    rng = np.random.default_rng(seed)
    A = MLR(h, [rng.standard_normal((h.n, r)) for r in ranks], rng.uniform(0.5, 1.5, h.n))
    return A.sample(N, random_state=seed) + rng.standard_normal(h.n)


def operator(h, ranks, dtype=float, seed=5):
    rng = np.random.default_rng(seed)
    return MLR(h, [rng.standard_normal((h.n, r)) for r in ranks],
               rng.uniform(0.5, 2.0, h.n)).astype(dtype)


def cut(Y, widths):
    return da.from_array(Y, chunks=(-1, widths))


def same(a, b):
    a, b = (x if type(x) is FactorModelResult else x.gather() for x in (a, b))
    return all(np.array_equal(x, y) for x, y in (
        (a.covariance.F, b.covariance.F), (a.covariance.D, b.covariance.D), (a.mean, b.mean),
        (a.loglik_trace, b.loglik_trace)))
