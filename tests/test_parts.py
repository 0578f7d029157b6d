"""Sweeps part by part: any cut of the tree gives the same bits, and what the whole gives."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from trees import make_case

from mlrops import MLR, Hierarchy

TREES = {
    "balanced": (Hierarchy.balanced(120, [1, 3, 12, 60]), (2, 1, 0, 2)),
    "several roots": (Hierarchy.balanced(60, [4, 12]), (2, 1)),
    "one leaf a feature": (Hierarchy.balanced(24, [1, 8, 24]), (2, 2, 1)),
    "unequal": (Hierarchy(np.random.default_rng(3).permutation(40),
                          [[0, 40], [0, 3, 4, 30, 40], [0, 1, 3, 4, 9, 10, 11, 25, 30, 33, 40]]),
                (1, 2, 1)),
    "flat": (Hierarchy.flat(15), (3,)),
    "no factors": (Hierarchy.balanced(12, [1, 4]), (0, 0)),
}
CASES = pytest.mark.parametrize("name", TREES)


def case(name, dtype=np.float64):
    h, ranks = TREES[name]
    A = make_case(h, ranks, 0).A.astype(dtype)
    b = np.random.default_rng(1).standard_normal((h.n, 3)).astype(dtype)
    return A, b


def by_parts(A, b, level, cuts, order=None):
    """Solution, coarse part and what was merged, of parts that end at `cuts`."""
    parts = [A.part(level, lo, hi) for lo, hi in pairwise(cuts)]
    swept = [A.up(part, b[part.features]) for part in parts]
    passed = [swept[i][1] for i in (order or range(len(parts)))]
    merged = A.merge(*passed)
    coarse, x = A.root(merged), np.empty_like(b)
    for part, (state, _) in zip(parts, swept, strict=True):
        x[part.features] = A.down(part, state, coarse.of(part))
    return x, coarse, merged


def every_cut(groups, rng):
    """One part, single groups, and some cuts between."""
    yield [0, groups]
    yield list(range(groups + 1))
    for _ in range(4):
        inner = np.flatnonzero(rng.random(groups - 1) < 0.4) + 1 if groups > 1 else []
        yield [0, *map(int, inner), groups]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@CASES
def test_any_cut_gives_the_same_bits_and_what_the_whole_gives(name, dtype):
    A, b = case(name, dtype)
    tol = 1e-12 if dtype == np.float64 else 1e-4
    for level, groups in enumerate(A.hierarchy.group_counts):
        found = [by_parts(A, b, level, cuts)
                 for cuts in every_cut(groups, np.random.default_rng(level))]
        x, coarse, merged = found[0]
        for other in found[1:]:
            np.testing.assert_array_equal(other[0], x)
            for mine, theirs in zip(coarse, other[1], strict=True):
                np.testing.assert_array_equal(theirs, mine)
            for mine, theirs in zip(merged, other[2], strict=True):
                np.testing.assert_array_equal(theirs, mine)
        np.testing.assert_allclose(x, A.solve(b), rtol=0, atol=tol * np.abs(x).max())
        assert coarse.logdet == pytest.approx(A.logdet(), rel=tol, abs=tol)
        np.testing.assert_allclose(coarse.inv_quad, A.inv_quad(b), rtol=10 * tol)


@CASES
def test_merging_is_associative_to_the_bit_in_any_order(name):
    A, b = case(name)
    level, rng = A.hierarchy.n_levels - 1, np.random.default_rng(0)
    groups = A.hierarchy.group_counts[level]
    passed = [A.up(part, b[part.features])[1]
              for part in (A.part(level, g, g + 1) for g in range(groups))]
    expected = A.merge(*passed)
    for _ in range(5):
        left = [passed[i] for i in rng.permutation(groups)]
        while len(left) > 1:  # two of them, wherever they stand
            i, j = sorted(rng.choice(len(left), 2, replace=False))
            left[i:i + 1] = [A.merge(left[i], left.pop(j))]
        for mine, theirs in zip(expected, left[0], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_what_is_exchanged_is_small_and_can_be_sent():
    A, b = case("balanced")
    part = pickle.loads(pickle.dumps(A.part(3)))
    state, passed = A.up(part, b[part.features])
    state, passed = pickle.loads(pickle.dumps((state, passed)))
    x = A.down(part, state, pickle.loads(pickle.dumps(A.root(passed))))
    np.testing.assert_allclose(x, A.solve(b)[part.features], atol=1e-12)
    above = 3  # ranks 2, 1 and 0: the columns of the levels above
    runs = len(passed.place)
    assert runs <= 2 * 12  # of 60 groups, of 12 parents with 5 of them each
    assert passed.gram.shape == (runs, above, above) and passed.rows.shape == (runs, above, 3)


def test_a_vector_and_no_right_hand_side():
    A, b = case("balanced")
    part = A.part(1)
    state, passed = A.up(part, b[part.features, 0])
    x = A.down(part, state, A.root(passed))
    assert x.shape == (120,)
    np.testing.assert_allclose(x, A.solve(b[part.features, 0][np.argsort(part.features)])[
        part.features], atol=1e-12)
    assert A.root(A.up(part)[1]).logdet == pytest.approx(A.logdet(), rel=1e-13)


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_threads_change_no_bit(count, monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", count)
    h = Hierarchy.balanced(60_000, [1, 30, 3000])
    rng = np.random.default_rng(0)
    A = MLR.from_compact(h, (4, 3, 3), rng.standard_normal((h.n, 10)), rng.uniform(1, 2, h.n))
    b = rng.standard_normal(h.n)
    found = [A.solve(b), A @ b, np.array(A.logdet())]
    monkeypatch.setenv("MLROPS_NUM_THREADS", "5")
    again = MLR.from_compact(h, (4, 3, 3), A.F, A.D)
    for mine, theirs in zip(found, [again.solve(b), again @ b, np.array(again.logdet())],
                            strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_refusals():
    A, b = case("balanced")
    with pytest.raises(ValueError, match=r"12 groups of level 2, got groups 3 to 13"):
        A.part(2, 3, 13)
    with pytest.raises(ValueError, match="got groups 3 to 3"):
        A.part(2, 3, 3)
    with pytest.raises(IndexError):
        A.part(7)
    part = A.part(2, 0, 5)
    with pytest.raises(ValueError, match="b must have 50 rows"):
        A.up(part, b)
    passed = A.up(part, b[part.features])[1]
    with pytest.raises(ValueError, match=r"7 groups of level 2 passed nothing \(5, 6, 7"):
        A.root(passed)
    with pytest.raises(ValueError, match=r"5 groups of level 2 passed twice \(0, 1"):
        A.root(A.merge(passed, passed))
    with pytest.raises(ValueError, match=r"one level, got levels \[1, 2\]"):
        A.merge(passed, A.up(A.part(1))[1])
    broken = MLR.from_compact(A.hierarchy, A.ranks, 1e200 * A.F, A.D)
    with pytest.raises(np.linalg.LinAlgError, match="level 3, group 15 "):
        broken.up(broken.part(2, 3, 5))
