"""Factor models of features in chunks of columns, against one machine; what they refuse."""

import numpy as np
import pytest
from column_parts import CASES, SIMPLE, cut, operator, same, samples
from trees import close

import mlrops
from mlrops import Hierarchy, fit_factor_model
from mlrops._common.given import read_given
from mlrops.factor.columns.source import Options, open_columns
from mlrops.operators.cut import cut_at
from mlrops.operators.part_sweeps import own_factors
from mlrops.operators.parts import sweep_root, sweep_up

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
each = pytest.mark.parametrize("name", CASES)


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
def test_a_part_gets_what_it_needs_of_the_levels_above(name):
    h, ranks, widths, level = CASES[name]
    where, A = cut_at(h, ranks, widths), operator(h, ranks)
    crown, parts = where.layout.crown(), where.parts()
    b = np.random.default_rng(0).standard_normal((h.n, 2))
    passed = [sweep_up(part._replace(F=A._F[lo:hi], D=A._d[lo:hi]), h._gather(b)[lo:hi])[1]
              for part, lo, hi in zip(parts, where.ends[:-1], where.ends[1:], strict=True)]
    coarse = sweep_root(crown, A.merge(*passed), covariances=True)
    assert coarse.logdet == pytest.approx(A.logdet(), rel=1e-13)
    close(coarse.inv_quad, A.inv_quad(b), 1e-11)
    for part, parents in zip(parts, where.parents(), strict=True):
        own = own_factors(coarse, *parents)
        for mine, theirs in zip(own.of(part)[:2], coarse.of(part)[:2], strict=True):
            assert np.array_equal(mine, theirs)
        assert np.array_equal(own.covariances, coarse.of(part).covariances)
        assert len(own.factors) == parents[1] - parents[0]


@pytest.mark.quick(15)
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


@pytest.mark.quick(5)
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


@pytest.mark.quick(6)
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
