"""Columns that groups can use, along chains of the same group; what stands elsewhere; reports."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import close, dense_mlr, hierarchies, make_case, same_group

import mlrops
from mlrops import MLR, Hierarchy, als_gls, fit_factor_model, select_ranks
from mlrops.factor.criteria import degrees_of_freedom
from mlrops.factor.limits import too_few_samples
from mlrops.factor.start import STARTS
from mlrops.factor.usable import capped_groups, fold, usable_columns, usable_ranks

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

# Features 0 to 3 are a group at three levels, feature 4 at two, features 5 to 11 at one.
CHAINS = Hierarchy(np.random.default_rng(2).permutation(12),
                   [[0, 12], [0, 4, 12], [0, 4, 5, 12], [0, 4, 5, 8, 12]])
RANKS = 1, 3, 2, 1


def samples(h=CHAINS, ranks=RANKS, N=200, seed=0):
    A = make_case(h, ranks, seed).A
    return A.sample(N, random_state=seed)


def test_levels_take_from_the_features_in_turn():
    assert [x.tolist() for x in usable_ranks(CHAINS, RANKS)] == [
        [1], [3, 3], [1, 1, 2], [0, 0, 1, 1]]
    assert capped_groups(CHAINS, RANKS) == ((2, 0, 4), (2, 1, 1), (3, 0, 4), (3, 1, 1))
    # The coarsest level with a rank above zero has them.
    assert [x.tolist() for x in usable_ranks(CHAINS, (1, 0, 2, 4))] == [
        [1], [0, 0], [2, 1, 2], [2, 0, 3, 4]]


@given(h=hierarchies(), data=st.data())
def test_by_a_walk_down_the_tree(h, data):
    ranks = [data.draw(st.integers(0, 4)) for _ in range(h.n_levels)]
    mask = h._scatter(usable_columns(h, ranks))
    col = 0
    left: dict[tuple[int, ...], int] = {}
    for level, r in enumerate(ranks):
        for g in range(h.group_counts[level]):
            features = tuple(sorted(h.features(level, g)))
            usable = min(r, left.setdefault(features, len(features)))
            left[features] -= usable
            assert (mask[list(features), col : col + r] == (np.arange(r) < usable)).all()
        col += r


@given(h=hierarchies(max_n=14), data=st.data())
def test_folding_keeps_the_covariance(h, data):
    ranks = [data.draw(st.integers(0, 3)) for _ in range(h.n_levels)]
    case = make_case(h, ranks, data.draw(st.integers(0, 99)))
    F = np.array(h._gather(case.A.F))
    before = F.copy()
    fold(F, h, ranks)
    usable = usable_columns(h, ranks)
    assert not F[~usable].any()
    parts = np.split(h._scatter(F), np.cumsum(ranks)[:-1], axis=1)
    close(dense_mlr(h, parts, case.D), case.dense, 1e-12)
    col = 0
    for level, r in enumerate(ranks):  # what stands in none of these stays, to the bit
        for g in range(h.group_counts[level]):
            chain = [k for k in range(h.n_levels) for other in range(h.group_counts[k])
                     if np.array_equal(h.features(k, other), h.features(level, g))]
            if sum(ranks[k] for k in chain) <= h.group_sizes(level)[g]:
                rows = slice(*h.boundaries[level][g : g + 2])
                assert np.array_equal(F[rows, col : col + r], before[rows, col : col + r])
        col += r


@pytest.mark.quick(4)
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("init", [*STARTS, "MLR"])
def test_columns_without_a_use_are_zero_from_start_to_end(init, optimizer):
    Y, seen = samples(), []
    operator = make_case(CHAINS, RANKS, 5).A
    fit = fit_factor_model(Y, RANKS, CHAINS, init=operator if init == "MLR" else init,
                           optimizer=optimizer, max_iter=20, random_state=0, callback=seen.append)
    usable = CHAINS._scatter(usable_columns(CHAINS, RANKS))
    for A in [*(it.covariance for it in seen), fit.covariance]:
        assert not A.F[~usable].any()
        if init != "principal_factor":
            assert A.F[usable].all()
    if init == "MLR":
        close(seen[0].covariance.toarray(), operator.toarray(), 1e-12)
    assert fit.capped == capped_groups(CHAINS, RANKS)


@pytest.mark.parametrize("init", ["principal_factor", "svd", "frobenius"])
def test_as_likely_as_without_the_redundant_columns(init):
    """A level that repeats the groups above it, and one of single features, need no evaluation."""
    h = Hierarchy.from_boundaries([[0, 12], [0, 5, 12]])
    Y = make_case(h, (2, 1), 3).A.sample(300, random_state=1)
    options = {"init": init, "optimizer": "bfgs"}  # scoring blows rounding up near the floor
    plain = fit_factor_model(Y, (2, 1), h, **options)
    twice = Hierarchy.from_boundaries([[0, 12], [0, 12], [0, 5, 12], [0, 5, 12]])
    parted = fit_factor_model(Y, (1, 1, 0, 1), twice, **options)
    # Five features hold no more than five columns, of which the coarser level has all.
    full = fit_factor_model(Y, (2, 12), h, **options)
    more = fit_factor_model(Y, (2, 12, 3), Hierarchy.from_boundaries([*h.boundaries, [0, 5, 12]]),
                            **options)
    for one, other in ((plain, parted), (full, more)):
        assert other.loglik == pytest.approx(one.loglik, abs=2e-6)
        assert other.degrees_of_freedom == one.degrees_of_freedom
    assert more.n_evaluations <= full.n_evaluations
    assert np.array_equal(more.covariance.factors[2], np.zeros((12, 3)))
    # The Frobenius fit searches more directions at more levels: another start, the same end.
    close(more.covariance.toarray(), full.covariance.toarray(),
          1e-3 if init == "frobenius" else 1e-9)
    assert more.capped == (*full.capped, (2, 0, 5), (2, 1, 7))


@pytest.mark.parametrize("ranks", [(1, 1, 1), (0, 1, 2), (1, 0, 1)])
def test_a_feature_of_its_own_needs_one_column(ranks):
    h = Hierarchy.from_boundaries([[0, 8], [0, 1, 8], [0, 1, 8]])
    usable = [x[0] for x in usable_ranks(h, ranks)][1:]
    assert sum(usable) == 1
    Y = samples(Hierarchy.flat(8), (2,))
    fit = fit_factor_model(Y, ranks, h, max_iter=5)
    assert sum(bool(F[0].any()) for F in fit.covariance.factors[1:]) == 1


@pytest.mark.parametrize("h, ranks", [
    (CHAINS, (1, 1, 1, 0)), (CHAINS, (1, 0, 1, 1)),
    (Hierarchy.from_boundaries([[0, 15], [0, 15], [0, 6, 15]]), (1, 1, 1))])
def test_the_dimension_of_what_is_climbed(h, ranks):
    """The rank of the derivative of Σ by the usable columns and D is the count of parameters."""
    rng, usable = np.random.default_rng(0), h._scatter(usable_columns(h, ranks))
    F = np.where(usable, rng.standard_normal((h.n, sum(ranks))), 0)
    level_of = np.repeat(np.arange(len(ranks)), ranks)
    rows = [np.eye(h.n)[i][:, None] * np.eye(h.n)[i] for i in range(h.n)]
    for i, j in zip(*np.nonzero(usable), strict=True):
        d = np.zeros((h.n, h.n))
        d[i] = F[:, j] * same_group(h, level_of[j])[i]
        rows.append(d + d.T)
    rank = np.linalg.matrix_rank(np.reshape(rows, (len(rows), -1)))
    assert rank == degrees_of_freedom(h, ranks, mean=False)


def test_where_it_is_reported(tmp_path):
    Y = samples()
    fit = fit_factor_model(Y, RANKS, CHAINS, max_iter=3)
    assert "Groups with too few features for their rank: 4 (level 2 group 0," in fit.summary()
    mlrops.save(tmp_path / "fit.npz", fit)
    assert mlrops.load(tmp_path / "fit.npz").capped == fit.capped
    mlrops.save(tmp_path / "bad.npz", dataclasses.replace(fit, capped=((1, 0, 4),)))
    with pytest.raises(ValueError, match="groups smaller than the ranks of their level"):
        mlrops.load(tmp_path / "bad.npz")
    assert select_ranks(Y, [RANKS], CHAINS, max_iter=3).table[0].n_capped == 4
    X = np.random.default_rng(0).standard_normal((200, 1))
    system = als_gls([X] * 12, Y, RANKS, CHAINS, max_iter=2)
    assert system.capped == fit.capped
    assert "Groups with too few equations for their rank: 4" in system.summary()


def test_samples_are_counted_against_columns_that_are_used():
    """Six features have six factors, whatever the levels at which they are a group."""
    h = Hierarchy.from_boundaries([[0, 6], [0, 6]])
    assert too_few_samples(h, (4, 4), 6, True).endswith("ranks (4, 4) give 6 to 6 features")


def test_an_operator_without_stray_columns_stays_as_it_is():
    F = np.random.default_rng(0).standard_normal((12, sum(RANKS)))
    F[~CHAINS._scatter(usable_columns(CHAINS, RANKS))] = 0
    A, seen = MLR.from_compact(CHAINS, RANKS, F, np.ones(12)), []
    fit_factor_model(samples(), RANKS, CHAINS, init=A, max_iter=0, callback=seen.append)
    assert np.array_equal(seen[0].covariance.F, F)
