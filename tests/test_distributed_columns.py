"""Factor models of features in chunks of columns, and what they give: parts on workers."""

import gc
import pickle
import threading

import clusters
import numpy as np
import pytest
from trees import close

import mlrops
from mlrops import MLR, DistributedMLR, FactorModelResult, Hierarchy, fit_factor_model
from mlrops._common.given import read_given
from mlrops.factor.columns.source import Options, open_columns
from mlrops.operators.cut import cut_at

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


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
each = pytest.mark.parametrize("name", CASES)


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


@pytest.fixture(scope="module")
def two():
    with clusters.cluster(2) as (client, workers):
        yield client, workers


@pytest.fixture
def threads():
    with dask.config.set(scheduler="threads"):
        yield


# ---------------------------------------------------------------- against one machine


@each
def test_where_chunks_cut(name):
    h, ranks, widths, level = CASES[name]
    found = cut_at(h, ranks, widths)
    assert found.level == level and found.ranks[: len(ranks)] == ranks
    assert np.array_equal(found.ends, np.cumsum((0, *widths)))
    parts = found.parts()
    assert sum(len(part.groups) for part in parts) == found.hierarchy.group_counts[level]
    assert np.array_equal(np.concatenate([part.features for part in parts]), h.permutation)


@each
@pytest.mark.parametrize("options", [
    {}, {"sample_weight": np.arange(60) % 3}, {"center": False}, {"prior": True},
    {"prior": 3.0, "prior_variance": 2.0}],
    ids=["plain", "weights", "not centred", "prior", "prior to a variance"])
def test_iterates_of_EM_are_those_of_one_machine(threads, name, options):
    h, ranks, widths, _ = CASES[name]
    Y = samples(h, ranks)
    options = options | {"init": operator(h, ranks), "optimizer": "em", "max_iter": 6, "tol": 0}
    seen, here = [], []
    fit = fit_factor_model(cut(Y, widths), ranks, h, **options,
                           callback=lambda iterate: seen.append(iterate.covariance.gather()))
    one = fit_factor_model(Y, ranks, h, **options, callback=lambda x: here.append(x.covariance))
    assert len(seen) == len(here) == fit.n_iter + 1
    for a, b in zip(seen, here, strict=True):
        close(a.F, b.F, 1e-10)
        close(a.D, b.D, 1e-10)
    close(fit.loglik_trace, one.loglik_trace, 1e-12)
    close(fit.objective_trace, one.objective_trace, 1e-12)
    close(fit.mean.compute(), one.mean, 1e-12)
    whole = fit.gather()
    close(whole.covariance.F, one.covariance.F, 1e-8)  # on principal axes
    assert (fit.n_samples, fit.optimizer, fit.capped) == (one.n_samples, "em", one.capped)
    assert fit.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-6, abs=1e-12)
    assert whole.prior == one.prior
    if one.prior:
        close(whole.prior_variance, one.prior_variance, 1e-12)
        close(whole.prior_share, one.prior_share, 1e-12)


@each
def test_quasi_newton_steps_are_those_of_one_machine(threads, name):
    """The same first steps, and the same maximum."""
    h, ranks, widths, _ = CASES[name]
    Y = samples(h, ranks, 150)
    options = {"init": operator(h, ranks)}
    few = [fit_factor_model(data, ranks, h, optimizer="bfgs", max_iter=6, **options)
           for data in (cut(Y, widths), Y)]
    close(few[0].loglik_trace, few[1].loglik_trace, 1e-9)
    assert few[0].n_evaluations == few[1].n_evaluations
    fit = fit_factor_model(cut(Y, widths), ranks, h, **options)
    one = fit_factor_model(Y, ranks, h, optimizer="bfgs", **options)
    assert fit.optimizer == "bfgs" and fit.converged
    assert fit.loglik == pytest.approx(one.loglik, abs=1e-4)
    assert (np.diff(fit.loglik_trace) >= 0).all()
    assert len(np.setxor1d(fit.boundary, one.boundary)) <= 1  # some are only on their way


@each
@pytest.mark.parametrize("init", ["principal_factor", "svd", "frobenius", "random"])
def test_starts_lead_to_the_maximum(threads, name, init):
    h, ranks, widths, _ = CASES[name]
    Y = samples(h, ranks, 150)
    one = fit_factor_model(Y, ranks, h, optimizer="bfgs", n_init=4, random_state=0)
    fit = fit_factor_model(cut(Y, widths), ranks, h, init=init, random_state=3)
    assert fit.loglik > one.loglik - (0.1 if init != "random" else 1.0)
    again = fit_factor_model(cut(Y, widths), ranks, h, init=init, random_state=3)
    assert same(fit, again)


def test_principal_factors_of_one_level_are_those_of_one_machine(threads):
    h = Hierarchy.flat(120)
    Y = samples(h, (4,), 300)
    fit, one = (fit_factor_model(data, 4, h, max_iter=0, optimizer="bfgs")
                for data in (cut(Y, 40), Y))
    assert fit.loglik == pytest.approx(one.loglik, abs=1e-3)


def test_a_tournament_of_starts(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    Y = samples(h, ranks, 100)
    best = fit_factor_model(cut(Y, widths), ranks, h, n_init=3, random_state=0)
    alone = [fit_factor_model(cut(Y, widths), ranks, h, init=init)
             for init in ("principal_factor", "svd", "frobenius")]
    assert best.loglik >= max(fit.loglik for fit in alone) - 1e-4


def test_single_precision(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    Y = samples(h, ranks, 100).astype(np.float32)
    fit = fit_factor_model(cut(Y, widths), ranks, h)
    assert fit.covariance.dtype == fit.mean.dtype == np.float32
    whole = fit.gather()
    assert whole.covariance.dtype == np.float32
    assert whole.score(Y) == pytest.approx(fit.loglik, abs=1e-7)
    assert fit.loglik == pytest.approx(fit_factor_model(Y, ranks, h).loglik, abs=1e-3)


def test_integers_and_names(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    named = Hierarchy.from_labels({f"x{i}": i // 6 for i in range(36)})
    Y = np.round(10 * samples(h, ranks, 100)).astype(int)
    fit = fit_factor_model(cut(Y, widths), (1, 1), named)
    assert fit.feature_names == named.feature_names and fit.covariance.dtype == float
    assert fit.gather().to_frame().index[3] == "x3"


def test_heywood_cases_and_likelihoods_without_a_maximum(threads):
    h = Hierarchy.flat(12)
    Y = samples(h, (2,), 200)
    Y[:, 7] = Y[:, 2] * 3  # a duplicate, in another part
    with pytest.warns(mlrops.UnboundedWarning, match=r"those of 2 features .*: 2, 7"):
        fit = fit_factor_model(cut(Y, 4), 2, h)
    assert fit.boundary.tolist() == [2, 7]
    with pytest.warns(mlrops.UnboundedWarning, match="no maximum: 6 samples"):
        fit_factor_model(cut(Y[:6, :6] + 0, 3), 5, max_iter=20)
    with pytest.raises(np.linalg.LinAlgError, match=r"1 feature \([27]\) go to|\(2, 7\) go to"):
        fit_factor_model(cut(Y, 4), 2, h, variance_floor=0, max_iter=5000, gtol=0, tol=0)


def test_what_a_callback_sees_and_how_it_stops(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    Y, seen = samples(h, ranks), []

    def stop(iterate):
        seen.append(iterate)
        if iterate.n_iter == 3:
            raise StopIteration

    fit = fit_factor_model(cut(Y, widths), ranks, h, callback=stop)
    assert fit.termination == "callback" and fit.n_iter == 3 and not fit.converged
    assert [x.n_iter for x in seen] == [0, 1, 2, 3]
    close(seen[-1].covariance.gather().toarray(), fit.covariance.gather().toarray(), 1e-12)


# ---------------------------------------------------------------- the result


@each
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_operator_is_the_gathered_one(threads, name, dtype):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks, dtype)
    B = DistributedMLR.cut(A, widths)
    tol = 1e-12 if dtype == np.float64 else 1e-5
    assert (B.shape, B.dtype, B.ranks, B.widths) == (A.shape, A.dtype, ranks, widths)
    assert B.hierarchy == h
    rng = np.random.default_rng(1)
    for x in (rng.standard_normal(h.n), rng.standard_normal((h.n, 3)), np.arange(h.n)):
        for given in (x, da.from_array(x, chunks=7)):
            for found, expected in ((B @ given, A @ x), (B.matvec(given), A @ x),
                                    (B.solve(given), A.solve(x)),
                                    (B.inv_quad(given), A.inv_quad(x))):
                assert isinstance(found, da.Array) and found.shape == np.shape(expected)
                close(found.compute(), expected, tol)
            assert (B @ given).chunks[0] == widths
    assert B.logdet() == pytest.approx(A.logdet(), rel=tol) and B.slogdet() == (1, B.logdet())
    close(B.diagonal().compute(), A.diagonal(), tol)
    close(B.D.compute(), A.D, tol)
    close(B.F.compute(), A.F, tol)
    whole = B.gather()
    assert np.array_equal(whole.F, A.F) and np.array_equal(whole.D, A.D)
    close(B.principal().gather().F, A.principal().F, 100 * tol)


@each
def test_samples_have_the_covariance(threads, name):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    drawn = B.sample(30_000, random_state=0)
    assert drawn.chunks[1] == widths and B.sample(random_state=1).shape == (h.n,)
    spread = np.sqrt(A.diagonal())
    found = np.cov(drawn.compute().T) / np.outer(spread, spread)
    assert np.abs(found - A.toarray() / np.outer(spread, spread)).max() < 0.04
    again = B.sample(30_000, random_state=0)
    assert np.array_equal(again[:5].compute(), drawn[:5].compute())


@each
def test_files_of_an_operator(threads, name, tmp_path):
    h, ranks, widths, _ = CASES[name]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    mlrops.save(tmp_path / "there", B)
    for again in (mlrops.load(tmp_path / "there"), DistributedMLR.load(tmp_path / "there")):
        assert again.hierarchy == h and again.ranks == ranks and again.widths == widths
        assert np.array_equal(again.gather().F, A.F)
    assert len(list((tmp_path / "there").iterdir())) == len(widths) + 1
    DistributedMLR.cut(2 * A, widths).save(tmp_path / "there")  # takes the place of the other
    assert len(list((tmp_path / "there").iterdir())) == len(widths) + 1
    close(mlrops.load(tmp_path / "there").persist().diagonal().compute(), 2 * A.diagonal(), 1e-12)


def test_damaged_files(threads, tmp_path):
    h, ranks, widths, _ = CASES[SIMPLE]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    B.save(tmp_path / "a")
    part = min((tmp_path / "a").glob("part-1*"))
    part.write_bytes(part.read_bytes()[:-400])
    with pytest.raises(ValueError, match="cannot read .*part-1"):
        mlrops.load(tmp_path / "a").gather()
    part.unlink()
    with pytest.raises(FileNotFoundError):
        mlrops.load(tmp_path / "a").gather()
    (tmp_path / "a" / "index.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot read .*index"):
        mlrops.load(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        DistributedMLR.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        B.save(tmp_path / "file")


def test_what_an_operator_refuses(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    A = operator(h, ranks)
    B = DistributedMLR.cut(A, widths)
    assert repr(B) == ("<36x36 DistributedMLR, groups (1, 3, 6), ranks (2, 1, 1), float64, 3 parts"
                       " of 6 to 18 features>")
    for x in (np.ones(35), da.ones(35), np.ones((36, 2, 2))):
        with pytest.raises(ValueError, match="36 rows|1-d or 2-d"):
            B @ x
    with pytest.raises(TypeError, match="real"):
        B @ da.ones(36, dtype=complex)
    with pytest.raises(AttributeError, match=r"no 'factorization': .*gather\(\) gives an MLR"):
        _ = B.factorization
    with pytest.raises(AttributeError, match="no 'nonsense'$"):
        _ = B.nonsense
    with pytest.raises(TypeError, match="save it to a directory, or gather it"):
        pickle.dumps(B)
    with pytest.raises(ValueError, match="add up to the 36 features, got 30 in 3 parts"):
        DistributedMLR.cut(A, (10, 10, 10))
    broken = DistributedMLR.cut(MLR.from_compact(h, ranks, 1e200 * A.F, A.D), widths)
    with pytest.raises(np.linalg.LinAlgError, match=r"level 2, group \d \(6 features\)"):
        broken.logdet()


def test_scores_of_a_fit(threads):
    h, ranks, widths, _ = CASES["unequal, other order"]
    Y = samples(h, ranks, 80)
    fit = fit_factor_model(cut(Y, widths), ranks, h)
    whole, new = fit.gather(), samples(h, ranks, 30, seed=4)
    close(fit.score_samples(cut(new, widths)).compute(), whole.score_samples(new), 1e-10)
    close(fit.score_samples(cut(new, 9)).compute(), whole.score_samples(new), 1e-10)
    assert float(fit.score(cut(Y, widths)).compute()) == pytest.approx(fit.loglik, rel=1e-12)
    drawn = fit.sample(5, random_state=0)
    assert drawn.shape == (5, 36) and fit.n_features == 36
    assert "DistributedMLR" in repr(fit)
    with pytest.raises(TypeError, match=r"the chunks of columns it was fitted to, \(12, 24\)"):
        fit.score(new)
    with pytest.raises(TypeError, match=r"gather\(\) gives a fit in memory"):
        fit.scores(cut(new, widths))
    with pytest.raises(TypeError, match=r"gather\(\)"):
        fit.impute(new)
    with pytest.raises(ValueError, match="36 features, got shape"):
        fit.score(cut(new[:, :30], 10))
    with pytest.raises(AttributeError, match=r"gather\(\) gives an MLR"):
        fit.rotate()


# ---------------------------------------------------------------- bad input


BAD = {
    "both ways": (lambda Y: da.from_array(Y, chunks=(20, 12)), {}, ValueError, "cut both ways"),
    "of unknown size": (lambda Y: (lambda x: x[:, da.from_array(np.ones(36, bool), chunks=12)])(
        da.from_array(Y, chunks=(60, 12))), {}, ValueError, "unknown sizes"),
    "complex": (lambda Y: cut(Y + 0j, 12), {}, TypeError, "real"),
    "too narrow": (lambda Y: cut(Y[:, :24], 12), {}, ValueError, "36 features, got shape"),
    "one sample": (lambda Y: cut(Y[:1], 12), {}, ValueError, "at least 2 samples"),
    "missing": (lambda Y: cut(Y, 12), {"missing": "em"}, ValueError, "complete columns"),
    "compress": (lambda Y: cut(Y, 12), {"compress": True}, ValueError, "chunks of rows"),
    "scoring": (lambda Y: cut(Y, 12), {"optimizer": "scoring"}, ValueError, 'take "bfgs"'),
    "cv": (lambda Y: cut(Y, 12), {"prior": "cv"}, ValueError, "chunks of rows"),
    "jobs": (lambda Y: cut(Y, 12), {"n_jobs": 2}, ValueError, "leave n_jobs out"),
    "a start": (lambda Y: cut(Y, 12), {"init": "zeros"}, ValueError, "init must be"),
    "an optimizer": (lambda Y: cut(Y, 12), {"optimizer": "adam"}, ValueError, "optimizer must be"),
    "weights": (lambda Y: cut(Y, 12), {"sample_weight": np.ones(7)}, ValueError, "60 samples, got"),
    "dask weights": (lambda Y: cut(Y, 12), {"sample_weight": da.ones(60)}, TypeError, "compute"),
    "ranks": (lambda Y: cut(Y, 12), {"ranks": (1, 1)}, ValueError, "3 entries"),
    "a variance without a prior": (lambda Y: cut(Y, 12), {"prior_variance": 1.0}, ValueError,
                                   "needs a prior"),
    "init on another tree": (lambda Y: cut(Y, 12), {"init": operator(Hierarchy.flat(36), (1,))},
                             ValueError, "init must live"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(threads, what):
    change, options, kind, words = BAD[what]
    h, ranks, _, _ = CASES[SIMPLE]
    options = {"ranks": ranks, "hierarchy": h} | options
    with pytest.raises(kind, match=words):
        fit_factor_model(change(samples(h, ranks)), **options)


def test_bad_cells_name_chunk_and_column(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    Y = samples(h, ranks)
    Y[3, 8], Y[5, 8] = np.nan, np.nan
    with pytest.raises(ValueError, match=r"2 cells with NaN in chunk 1, in 1 column \(8\)"):
        fit_factor_model(cut(Y, widths), ranks, h)
    fit = fit_factor_model(cut(Y, widths), ranks, h, sample_weight=~np.isnan(Y).any(axis=1))
    assert fit.n_samples == 58
    named = Hierarchy.from_labels({f"x{i}": i // 6 for i in range(36)})
    Y[3, 8], Y[5, 8] = np.inf, 1
    with pytest.raises(ValueError, match=r"1 cell with infinity in chunk 1, .*\(x8\)"):
        fit_factor_model(cut(Y, widths), (1, 1), named)
    Y[:, 8] = 1
    with pytest.raises(ValueError, match=r"1 constant feature \(8\)"):
        fit_factor_model(cut(Y, widths), ranks, h)
    Y[:, 8] = 1e40 * np.random.default_rng(0).standard_normal(60)
    with pytest.raises(ValueError, match=r"1 feature \(8\) with variances out of the range"):
        fit_factor_model(cut(Y, widths), ranks, h)


def test_features_in_another_order(threads):
    """What the error advises works."""
    order = np.random.default_rng(0).permutation(36)
    h = Hierarchy(order, [[0, 36], [0, 12, 36]])
    Y = samples(h, (1, 1))
    with pytest.raises(ValueError, match=r"in that order, Y = Y\[:, hierarchy.permutation\]"):
        fit_factor_model(cut(Y, 12), (1, 1), h)
    ordered = cut(Y, 12)[:, h.permutation].rechunk((-1, (12, 24)))
    fit = fit_factor_model(ordered, (1, 1), Hierarchy.from_boundaries(h.boundaries))
    one = fit_factor_model(Y, (1, 1), h)
    assert fit.loglik == pytest.approx(one.loglik, abs=1e-4)


def test_other_calls_say_that_they_take_rows(threads):
    h, ranks, widths, _ = CASES[SIMPLE]
    Y = samples(h, ranks)
    with pytest.raises(ValueError, match="whole rows"):
        mlrops.select_ranks(cut(Y, widths))
    with pytest.raises(ValueError, match="whole rows"):
        fit_factor_model(Y, ranks, h).score(cut(Y, widths))


# ---------------------------------------------------------------- bits, and workers that are lost


TALL = Hierarchy.balanced(720, [1, 3, 12]), (2, 1, 1), (240, 180, 60, 240)


def tall(optimizer="bfgs", **options):
    h, ranks, widths = TALL
    options = {"max_iter": 14, "gtol": 0, "tol": 0, "optimizer": optimizer} | options
    return fit_factor_model(cut(samples(h, ranks, 40), widths), ranks, h, **options)


@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_bits_do_not_depend_on_the_number_of_workers(two, optimizer):
    with dask.config.set(scheduler=two[0]):
        first = tall(optimizer).gather()
    assert first.n_iter == 14
    with dask.config.set(scheduler="sync"):
        assert same(tall(optimizer), first)
    for n_workers in (1, 3):
        with clusters.cluster(n_workers):
            assert same(tall(optimizer), first)


def holder_of_root(client):
    """The process that holds what the levels above the parts gave last, if it is there."""
    held = client.who_has()
    for key, where in held.items():
        if "sweep_root" in str(key) and where:
            return client.run(clusters.os.getpid, workers=list(where)[:1]).popitem()[1]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("which", ["one", "all", "root"])
@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_a_fit_goes_on_when_workers_are_killed(optimizer, which):
    """In the midst of an iteration, before the first files and after."""
    with dask.config.set(scheduler="sync"):
        expected = tall(optimizer).gather()
    with clusters.cluster(2) as (client, _):
        killed = []

        def shoot():
            root = None
            for _ in range(2000 if which == "root" else 0):
                root = root or holder_of_root(client)
                if root:
                    break
            pids = clusters.pids(client)
            killed.append([root or pids[0]] if which != "all" else pids)
            clusters.kill(killed[-1])

        shots = {n_iter: threading.Timer(0.1, shoot) for n_iter in (3, 12)}

        def look(iterate):
            if iterate.n_iter in shots:
                client.wait_for_workers(2, timeout=60)
                shots[iterate.n_iter].start()

        found = tall(optimizer, callback=look).gather()
        for shot in shots.values():
            shot.join()
        assert len(killed) == 2
    assert np.array_equal(found.covariance.F, expected.covariance.F)
    assert np.array_equal(found.loglik_trace, expected.loglik_trace)


@pytest.mark.slow
def test_a_result_outlives_the_workers(two, tmp_path):
    """What a fit leaves is computed again from files, without the data."""
    client, _ = two
    fit = tall(max_iter=3)
    expected = fit.gather()
    clusters.kill(clusters.pids(client))
    again = fit.gather()
    assert np.array_equal(again.covariance.F, expected.covariance.F)
    assert np.array_equal(again.mean, expected.mean)
    fit.covariance.save(tmp_path / "parts")
    assert np.array_equal(mlrops.load(tmp_path / "parts").gather().F, expected.covariance.F)


@pytest.mark.parametrize("optimizer", ["em", "bfgs"])
def test_what_the_scheduler_holds_does_not_grow(two, optimizer):
    client, workers = two
    gc.collect()
    assert clusters.forgotten(workers, 0)
    held, files = [], []

    def look(iterate):
        held.append(len(workers.scheduler.tasks))

    fit = tall(optimizer, max_iter=60 if optimizer == "em" else 40, callback=look)
    assert max(held[-20:]) <= max(held[:20]) + 8
    assert not files
    parts = len(fit.covariance.widths)
    assert clusters.forgotten(workers, 2 * parts + 10)  # F, D and mean of each part
    del fit
    gc.collect()
    assert clusters.forgotten(workers, 0)


def test_files_are_cleared_away(two, tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        seen = []
        fit = tall(max_iter=25, callback=lambda iterate: seen.append(
            sum(len(list(folder.iterdir())) for folder in tmp_path.iterdir())))
        assert max(seen) > 0 and max(seen[15:]) <= 2 * 16 * 4
        assert len(list(tmp_path.iterdir())) == 1
        del fit
        gc.collect()
        assert not list(tmp_path.iterdir())


def moved(client):
    """Bytes between workers so far; what the client sends is not among them."""
    logs = client.run(lambda dask_worker: [
        entry["total"] for entry in dask_worker.transfer_incoming_log])
    return sum(map(sum, logs.values()))


def test_an_iteration_moves_little(two):
    """``R_c² + R_c N`` numbers a parent and part up and as many down, whatever the features."""
    client, _ = two
    N, each = 50, []
    for m in (500, 4000):
        h, ranks = Hierarchy.balanced(4 * m, [1, 4, 40]), (3, 2, 2)
        rng, count = np.random.default_rng(0), []
        Y = cut(rng.standard_normal((N, 4 * m)), m)
        fit_factor_model(Y, ranks, h, optimizer="em", max_iter=8, tol=0, gtol=0, init="random",
                         callback=lambda iterate, count=count: count.append(moved(client)))
        each.append(np.median(np.diff(count)))
    c = 3  # ranks above the cut, at level 1
    one = 8 * ((c + 1) * (N + c + 2))
    # Four parts on two workers: what parts pass, and what goes down to them, crosses or does not.
    assert 0 < max(each) <= 8 * one


# ---------------------------------------------------------------- for those who build on it


def test_a_surface_over_other_data_goes_on_where_one_was(threads):
    """Residuals change from round to round; points and files do not."""
    from mlrops.factor.ascent import Ascent
    from mlrops.factor.columns.source import open_parts

    h, ranks, widths, _ = CASES[SIMPLE]
    Y = samples(h, ranks)
    where, options = cut_at(h, ranks, widths), Options(ranks, False, 1e-6, 0.0)
    first = open_columns(read_given(cut(Y, widths)), where, options, None, False)
    ascent = Ascent(first, first.first(operator(h, ranks), h, None))
    ascent.advance()
    chunks = list(np.ravel(cut(2 * Y, widths).to_delayed()))
    second = open_parts(chunks, None, where, options, keep=False, shelf=first.shelf)
    on = Ascent(second, ascent.state.point)
    covariance = ascent.state.point.operator(h, ranks, np.dtype(float)).gather()
    one = fit_factor_model(2 * Y, ranks, h, center=False, init=covariance, max_iter=0)
    assert on.state.loglik == pytest.approx(one.loglik, rel=1e-12)
