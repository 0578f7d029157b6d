"""Tournaments of starts: a heat from each, finals of the best two, and the best of these."""

import numpy as np
import pytest
from test_checkpoint import GAPS, RANKS, H, Y, fit, same, stop_after
from trees import close

from mlrops import MLR
from mlrops.factor import climb
from mlrops.factor.climb import FINALISTS, Climb, Tournament, starts_of
from mlrops.io.archive import read_archive

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
WAYS = "scoring", "bfgs", "em"
HEAT = 5
RUNS = {"n_init": 4, "random_state": 5, "tol": 1e-6}


@pytest.fixture
def short_heats(monkeypatch):
    """Heats so short that there is something left for the finals."""
    monkeypatch.setattr(climb, "HEAT", HEAT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


def stages(data=Y, **options):
    """The iterates of a fit climb by climb, and its result."""
    seen = []

    def callback(iterate):
        if not seen or iterate.n_iter <= seen[-1][-1].n_iter:
            seen.append([])
        seen[-1].append(iterate)

    found = fit(data, callback=callback, **options)
    return seen, found


def ends(climbs):
    return [iterates[-1].objective for iterates in climbs]


# ---------------------------------------------------------------- what runs, and what wins


@pytest.mark.quick(4)
@pytest.mark.parametrize("optimizer", WAYS)
@pytest.mark.parametrize("init", ["principal_factor", "frobenius", "random"])
@pytest.mark.parametrize("more", [{}, {"prior": 3.0}], ids=["", "a prior"])
def test_the_best_two_heats_go_on_and_the_best_final_wins(init, optimizer, more, short_heats):
    options = {**RUNS, **more, "init": init, "optimizer": optimizer}
    climbs, found = stages(**options)
    heats, finals = climbs[:4], climbs[4:]
    assert [[it.n_iter for it in heat] for heat in heats] == [list(range(HEAT + 1))] * 4
    order = np.argsort(ends(heats))[::-1]
    assert len(set(ends(heats))) == 4 and len(finals) == FINALISTS == 2
    for number, final in zip(order, finals, strict=False):  # the better one first
        assert final[0].n_iter == HEAT
        assert final[0].objective == heats[number][-1].objective
    best = int(np.argmax(ends(finals)))
    assert found.converged and found.objective_trace[-1] == max(ends(finals)) > max(ends(heats))
    whole = [*heats[order[best]], *finals[best][1:]]
    assert np.array_equal(found.objective_trace, [it.objective for it in whole])
    assert np.array_equal(found.loglik_trace, [it.loglik for it in whole])
    close(found.covariance.toarray(), whole[-1].covariance.toarray(), 1e-12)
    same(stages(**options)[1], found)


def test_a_heat_is_a_fit_cut_short(short_heats):
    climbs, found = stages(**{**RUNS, "n_init": 3}, init="frobenius")
    kinds = starts_of("frobenius", 3)
    assert kinds == ["frobenius", "principal_factor", "svd"]
    for kind, heat in zip(kinds, climbs, strict=False):
        alone = fit(init=kind, max_iter=HEAT)
        assert np.array_equal(alone.loglik_trace, [it.loglik for it in heat])
    # With its final, the winner is that fit to its end.
    starts = [heat[0].loglik for heat in climbs[:3]]
    same(found, fit(init=kinds[starts.index(found.loglik_trace[0])], tol=1e-6))
    fewer = stages(**{**RUNS, "n_init": 2}, init="frobenius")[0]
    for one, other in zip(fewer[:2], climbs, strict=False):
        assert [it.loglik for it in one] == [it.loglik for it in other]


def test_random_starts_differ_by_their_seeds(short_heats):
    climbs = stages(**RUNS, init="random")[0][:4]
    assert len({heat[0].loglik for heat in climbs}) == 4
    alone = fit(init="random", random_state=5, max_iter=HEAT)
    assert np.array_equal(alone.loglik_trace, [it.loglik for it in climbs[0]])
    others = stages(**{**RUNS, "random_state": 6}, init="random")[0][:4]
    assert not {heat[0].loglik for heat in climbs} & {heat[0].loglik for heat in others}
    more = stages(**{**RUNS, "n_init": 5}, init="random")[0][:5]
    assert [heat[0].loglik for heat in more[:4]] == [heat[0].loglik for heat in climbs]


def test_which_starts_there_are():
    A = MLR(H, [np.ones((24, r)) for r in RANKS], np.ones(24))
    assert starts_of("svd", 1) == ["svd"]
    assert starts_of("svd", 5) == ["svd", "principal_factor", "frobenius", "random", "random"]
    assert starts_of("random", 3) == ["random"] * 3
    assert starts_of(A, 5) == [A, "principal_factor", "svd", "frobenius", "random"]
    climbs, _ = stages(n_init=2, init=A, max_iter=1)
    close(climbs[0][0].covariance.toarray(), A.toarray(), 1e-12)
    assert climbs[1][0].loglik == fit(max_iter=0).loglik


def test_several_starts_reach_more_than_a_bad_one():
    """From one that EM leaves slowly, the others lead away."""
    bad = MLR(H, [np.full((24, r), 1e-9) for r in RANKS], Y.var(axis=0))
    one = fit(init=bad, optimizer="em", max_iter=10)
    several = fit(init=bad, optimizer="em", max_iter=10, n_init=2)
    assert several.loglik > one.loglik + 1
    assert several.loglik == fit(optimizer="em", max_iter=10).loglik


def test_climbs_that_are_over_in_their_heats_are_not_climbed_again():
    climbs, found = stages(n_init=3, optimizer="scoring", tol=1e-4)
    assert len(climbs) == 3 and found.converged
    assert found.objective_trace[-1] == max(ends(climbs))
    climbs, found = stages(n_init=3, optimizer="em", tol=0, gtol=0, max_iter=4)
    assert found.termination == "max_iter" and found.n_iter == 4
    assert [len(iterates) for iterates in climbs] == [5, 5, 5, 1, 1]


def test_finalists_are_the_best_two_in_the_order_of_their_heats():
    def of(height):
        return Climb(None, [height], [height], 1, False, 0.0, "max_iter", {})

    tournament = Tournament((1, 2, 3, 4))
    assert not tournament.is_over and tournament.entrant is None
    for height in (2.0, 5.0, 1.0, 3.0):
        assert tournament.is_heat
        tournament.finish(of(height))
    assert [x.objectives[-1] for x in tournament.kept] == [5.0, 3.0] and not tournament.is_over
    assert tournament.entrant.objectives == [5.0]
    tournament.finish(of(5.5))
    assert tournament.entrant.objectives == [3.0] and not tournament.is_over
    tournament.finish(of(6.0))
    assert tournament.is_over and tournament.best.objectives == [6.0]
    alone = Tournament((1,))
    assert not alone.is_heat and alone.n_heats == 0
    alone.finish(of(1.0))
    assert alone.is_over and alone.best.objectives == [1.0]


# ---------------------------------------------------------------- stopped by the user


@pytest.mark.parametrize("how, word", [(StopIteration, "callback"),
                                       (KeyboardInterrupt, "interrupted")])
def test_a_stop_returns_the_best_so_far(how, word, short_heats):
    climbs, found = stages(**RUNS)
    count = [len(iterates) for iterates in climbs]
    for number in range(len(count)):
        at = sum(count[:number]) + 2
        part = fit(**RUNS, callback=stop_after(at, how))
        assert part.termination == word and not part.converged
        reached = [*climbs[:number], climbs[number][:2]]
        assert part.objective_trace[-1] == max(ends(reached))
        assert part.loglik <= found.loglik


def test_a_stop_at_the_first_call():
    part = fit(**RUNS, callback=stop_after(1))
    assert part.termination == "callback" and part.n_iter == 0


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def whole():
    """Tournaments that nothing stopped, and how many calls each climb of theirs made."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(climb, "HEAT", HEAT)
        for optimizer in WAYS:
            climbs, full = stages(**RUNS, optimizer=optimizer)
            found[optimizer] = full, [len(iterates) for iterates in climbs]
    return found


@pytest.mark.quick(12)
@pytest.mark.parametrize("optimizer", WAYS)
@pytest.mark.parametrize("how", [StopIteration, KeyboardInterrupt])
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("after", [1, 3, 0])
def test_resumed_bit_for_bit_at_every_stage(optimizer, how, number, after, path, whole,
                                            short_heats):
    """Stopped at the first, the third or the last call of each heat and final."""
    full, count = whole[optimizer]
    at = sum(count[:number]) + (after or count[number])
    options = {**RUNS, "optimizer": optimizer, "checkpoint": path}
    part = fit(**options, callback=stop_after(at, how))
    assert part.termination in ("callback", "interrupted")
    meta, _ = read_archive(path, "factor model checkpoint")
    assert meta["number"] == number and len(meta["climbs"]) == 1 + min(number, 2)
    same(fit(**options, resume=True), full)
    same(fit(**options, resume=True), full)  # finished, and again


@pytest.mark.parametrize("optimizer", WAYS)
def test_cut_again_and_again(optimizer, path, whole, short_heats):
    """By errors: what was written last goes on, from wherever that is."""
    full, count = whole[optimizer]
    options = {**RUNS, "optimizer": optimizer, "checkpoint": path, "checkpoint_every": 2,
               "resume": True}
    cuts, found = 0, None
    while found is None:
        try:
            found = fit(**options, callback=stop_after(5, ZeroDivisionError))
        except ZeroDivisionError:
            cuts += 1
            assert cuts < sum(count)
    assert cuts > 4
    same(found, full)


@pytest.mark.quick(1)
@pytest.mark.parametrize("optimizer", WAYS)
def test_resumed_with_missing_cells(optimizer, path, short_heats):
    options = {"missing": "em", "n_init": 3, "random_state": 0, "optimizer": optimizer,
               "tol": 1e-6}
    climbs, full = stages(GAPS, **options)
    for number in range(len(climbs)):
        at = sum(len(iterates) for iterates in climbs[:number]) + 2
        fit(GAPS, **options, checkpoint=path, callback=stop_after(at))
        same(fit(GAPS, **options, checkpoint=path, resume=True), full)


def test_finalists_stay_as_they_were_in_checkpoints(path, short_heats):
    """While one goes on, the arrays of both stand in the file."""
    heats, finals = [], []
    options = {**RUNS, "optimizer": "em", "checkpoint": path, "checkpoint_every": 1}

    def callback(iterate):
        if not heats and iterate.n_iter == HEAT + 1:  # the first final has begun
            heats.append(read_archive(path, "factor model checkpoint")[1])
        elif heats and not finals and iterate.n_iter == HEAT + 9:
            finals.append(read_archive(path, "factor model checkpoint")[1])

    fit(**options, callback=callback)
    (before,), (after,) = heats, finals
    assert not np.array_equal(before["F"], after["F"])
    for name in before:
        if name.startswith(("first_", "second_")):
            assert np.array_equal(before[name], after[name]), name


# ---------------------------------------------------------------- side by side


@pytest.mark.parametrize("optimizer", WAYS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_n_jobs_changes_nothing(n_jobs, optimizer, whole, short_heats):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="threading"):
        found = fit(**RUNS, optimizer=optimizer, n_jobs=n_jobs)
    same(found, whole[optimizer][0])
    same(fit(optimizer=optimizer, n_jobs=n_jobs), fit(optimizer=optimizer))  # of one start


def test_processes_change_nothing():
    joblib = pytest.importorskip("joblib")
    options = {"n_init": 3, "random_state": 1, "optimizer": "em", "tol": 1e-6}
    full = fit(**options)
    assert full.n_iter > climb.HEAT  # there are finals
    same(fit(**options, n_jobs=2), full)
    # Large arrays come to processes as memory maps that cannot be written to.
    with joblib.parallel_config(max_nbytes=8):
        same(fit(**options, n_jobs=2), full)


def test_n_jobs_leaves_nothing_to_watch(path):
    with pytest.raises(ValueError, match="checkpoint follows fits one after the other"):
        fit(n_init=2, n_jobs=2, checkpoint=path)
    assert not path.exists()
    with pytest.raises(ValueError, match="callback follows fits one after the other"):
        fit(n_init=2, n_jobs=2, callback=lambda iterate: None)
