"""EM with missing cells: every iterate against a reference by the book, sample after sample."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from gaps import KINDS, at_random, blocks, nothing, one_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import PATHS, close, computing, dense_mlr, hierarchies, spread

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr
from mlrops.factor.conditional import loglik_samples
from mlrops.factor.estep import patterns as passes
from mlrops.factor.estep.complete import complete_source
from mlrops.factor.estep.incomplete import incomplete_source
from mlrops.factor.estep.sources import open_source
from mlrops.factor.start import start


def make(h, ranks, N, kind, seed, dtype=float):
    """Data with missing cells, every column shown three times or more, and where EM starts."""
    rng = np.random.default_rng(seed)
    n = h.n
    Y = rng.standard_normal((N, n)) @ rng.standard_normal((n, n)) / math.sqrt(n) + 3
    mask = kind(Y.shape, rng)
    mask[:3] = False
    rng.shuffle(mask)
    Y[mask] = np.nan
    F = rng.standard_normal((n, sum(ranks)))
    return SimpleNamespace(
        h=h, ranks=tuple(ranks), Y=Y.astype(dtype), F=F.astype(dtype),
        D=rng.uniform(1, 2, n).astype(dtype), mean=rng.standard_normal(n).astype(dtype),
        weights=rng.uniform(0.2, 3, N), rng=rng)


def tree_problem(kind=at_random, N=40, seed=0, dtype=float):
    """A permuted tree with two roots, a level of rank 0 and leaves of one feature."""
    rng = np.random.default_rng(seed)
    levels = [[0, 14, 20], [0, 4, 14, 20], [0, 4, 5, 14, 15, 20]]
    return make(Hierarchy(rng.permutation(20), levels), (2, 0, 2), N, kind, seed, dtype)


@st.composite
def problems(draw):
    h = draw(hierarchies(max_n=12, max_levels=4))
    ranks = [draw(st.integers(0, 2)) for _ in range(h.n_levels)]
    return make(h, ranks, draw(st.integers(6, 15)), draw(st.sampled_from(KINDS)),
                draw(st.integers(0, 10**6)))


# ---------------------------------------------------------------- by the book


def split(F, ranks):
    return np.split(np.asarray(F), np.cumsum(ranks)[:-1], axis=1)


def dense_loglik(S, mean, Y, weights):
    """Weighted average of the normal log-likelihood of what the samples show, if anything."""
    total = weight = 0.0
    for y, w in zip(Y, weights, strict=True):
        o = ~np.isnan(y)
        if o.any():
            total += w * scipy.stats.multivariate_normal(mean[o], S[np.ix_(o, o)]).logpdf(y[o])
            weight += w
    return total / weight


def dense_update(h, ranks, F, D, mean, Y, weights, mean_is_free):
    """One EM update with spread-out factors: dense inverses, one sample at a time."""
    n = h.n
    support = spread(h, split(np.ones_like(F), ranks)) != 0
    B = spread(h, split(F, ranks))
    s = B.shape[1]
    W, v, yy, count = np.zeros((n, s + 1, s + 1)), np.zeros((n, s + 1)), np.zeros(n), np.zeros(n)
    for y, w in zip(Y, weights, strict=True):
        o = np.flatnonzero(~np.isnan(y))
        gain = B[o].T @ np.linalg.inv(B[o] @ B[o].T + np.diag(D[o]))
        z = np.append(gain @ (y[o] - mean[o]), 1)
        second = np.outer(z, z)
        second[:s, :s] += np.eye(s) - gain @ B[o]
        target = y[o] if mean_is_free else y[o] - mean[o]
        W[o] += w * second
        v[o] += w * target[:, None] * z
        yy[o] += w * target**2
        count[o] += w
    F, D, mean = np.empty_like(F), np.empty_like(D), mean.copy()
    for i in range(n):
        own = np.append(np.flatnonzero(support[i]), [s] if mean_is_free else []).astype(int)
        x = np.linalg.solve(W[i][np.ix_(own, own)], v[i, own])
        F[i] = x[: F.shape[1]]
        D[i] = (yy[i] - x @ v[i, own]) / count[i]
        if mean_is_free:
            mean[i] = x[-1]
    return F, D, mean


def em(problem, updates, weights=None, center=True, mean=None):
    """Yield (parameters in feature order, log-likelihood, E-step) of the iterates."""
    h, ranks = problem.h, problem.ranks
    gaps, form = np.isnan(problem.Y).any(), getattr(problem, "form", np.asarray)
    source = (open_source(form(problem.Y), h, center, "em", weights, None)[0] if gaps else
              incomplete_source(problem.Y, h, center, weights))
    begin = source.mean if mean is None else h._gather(mean)
    point = h._gather(problem.F), h._gather(problem.D), begin
    for _ in range(updates + 1):
        F, D, mean = point
        covariance = MLR.from_compact(h._in_tree_order(), ranks, F, D)
        step = source.evaluate(covariance, mean)
        point = step.update(keep=True)
        yield SimpleNamespace(F=h._scatter(F), D=h._scatter(D), mean=h._scatter(mean),
                              loglik=step.loglik, step=step, image=point)


def check_iterates(problem, updates, weights, center, tol=1e-8):
    plain = np.ones(len(problem.Y)) if weights is None else weights
    mean = problem.mean if center else np.zeros(problem.h.n)
    F, D = problem.F.astype(float), problem.D.astype(float)
    Y = problem.Y.astype(float)
    for found in em(problem, updates, weights, center, mean):
        close(found.F, F, tol)
        close(found.D, D, tol)
        assert np.abs(found.mean - mean).max() <= tol * (1 + np.abs(mean).max())
        S = dense_mlr(problem.h, split(F, problem.ranks), D)
        assert found.loglik == pytest.approx(
            dense_loglik(S, mean, Y, plain), rel=10 * tol, abs=10 * tol)
        F, D, mean = dense_update(problem.h, problem.ranks, F, D, mean, Y, plain, center)


@settings(max_examples=40)
@given(problem=problems(), weighted=st.booleans(), center=st.booleans())
def test_iterates_equal_dense_em(problem, weighted, center):
    check_iterates(problem, 3, problem.weights if weighted else None, center)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("center", [True, False], ids=["mean free", "mean fixed"])
def test_every_kind_of_missing_cells(kind, center):
    problem = tree_problem(kind)
    check_iterates(problem, 4, problem.weights, center)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [at_random, blocks], ids=lambda kind: kind.__name__)
def test_all_ways_of_computing_agree(path, kind):
    with computing(path), pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CHUNK_ITEMS", 40)
        problem = tree_problem(kind)
        check_iterates(problem, 2, problem.weights, True)


@pytest.mark.parametrize("ranks", [(3,), (0,)])
def test_one_level(ranks):
    check_iterates(make(Hierarchy.flat(9), ranks, 30, at_random, 1), 4, None, True)


def test_single_precision():
    """Of the data: all that follows from them is computed in double."""
    problem = tree_problem(dtype=np.float32)
    for name in ("F", "D", "mean"):
        setattr(problem, name, getattr(problem, name).astype(float))
    check_iterates(problem, 3, problem.weights, True)
    source = incomplete_source(problem.Y, problem.h, True)
    assert source.dtype == np.float32 and source.samples.dtype == source.mean.dtype == np.float64


@settings(max_examples=15)
@given(problem=problems(), center=st.booleans())
def test_loglik_never_falls(problem, center):
    trace = np.array([it.loglik for it in em(problem, 40, problem.weights, center)])
    assert (np.diff(trace) >= -1e-8 * (1 + np.abs(trace[1:]))).all()


# ---------------------------------------------------------------- without missing cells


@pytest.mark.parametrize("N", [12, 40], ids=["N < n", "N > n"])
@pytest.mark.parametrize("center", [True, False])
def test_complete_data_give_the_iterates_of_the_complete_algorithm(N, center):
    problem = tree_problem(nothing, N=N)
    h = problem.h
    complete = complete_source(problem.Y, h, center)
    F, D = h._gather(problem.F), h._gather(problem.D)
    for found in em(problem, 10, center=center):
        covariance = MLR.from_compact(h._in_tree_order(), problem.ranks, F, D)
        expected = complete.evaluate(covariance, complete.mean)
        close(found.F, h._scatter(F), 1e-9)
        close(found.D, h._scatter(D), 1e-9)
        assert found.loglik == pytest.approx(expected.loglik, rel=1e-10)
        if center:
            close(found.mean, problem.Y.mean(axis=0), 1e-12)
        else:
            assert not found.mean.any()
        F, D, _ = expected.update()


# ---------------------------------------------------------------- gradient


@pytest.mark.slow
@pytest.mark.parametrize("kind", [at_random, blocks, nothing], ids=lambda kind: kind.__name__)
def test_gradient_equals_finite_differences(kind):
    problem = tree_problem(kind)
    h, ranks, weights = problem.h, problem.ranks, problem.weights
    first = next(em(problem, 0, weights, mean=problem.mean))
    given = first.step.gradient(*first.image)
    dF, dD, dmean = (h._scatter(x) for x in given)

    def loglik(F, D, mean):
        return dense_loglik(dense_mlr(h, split(F, ranks), D), mean, problem.Y, weights)

    at, step = (problem.F, problem.D, problem.mean), 1e-5
    for which, found in enumerate((dF, dD, dmean)):
        expected = np.empty_like(found)
        for index in np.ndindex(found.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in at]
                moved[which][index] += sign * step
                ends.append(loglik(*moved))
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        close(found, expected, 1e-6)


def test_gradient_of_a_fixed_mean_is_zero():
    problem = tree_problem()
    first = next(em(problem, 0, center=False))
    dF, _, dmean = first.step.gradient(*first.image)
    assert not dmean.any() and dF.any()


def test_an_update_is_the_preconditioned_gradient():
    """EM as gradient ascent: ``(F, μ) += N D (dF, dμ) W⁻¹``."""
    problem = tree_problem()
    for center in (True, False):
        first = next(em(problem, 0, problem.weights, center))
        dF, _, dmean = first.step.gradient(*first.image)
        move, shift = first.step.precondition(dF, dmean if center else dmean[:0])
        h = problem.h
        close(h._scatter(first.image[0] - move), problem.F, 1e-10)
        if center:
            close(h._scatter(first.image[2] - shift), first.mean, 1e-10)
        else:
            assert shift.size == 0


# ---------------------------------------------------------------- weights, units, order


def test_integer_weights_stand_for_repeated_samples():
    problem = tree_problem()
    times = problem.rng.integers(0, 4, len(problem.Y))
    repeated = SimpleNamespace(**{**vars(problem), "Y": np.repeat(problem.Y, times, axis=0)})
    for one, two in zip(em(problem, 4, times), em(repeated, 4), strict=True):
        close(one.F, two.F)
        close(one.D, two.D)
        close(one.mean, two.mean)
        assert one.loglik == pytest.approx(two.loglik, rel=1e-12)
    for one, two in zip(em(problem, 2, problem.weights), em(problem, 2, 7e3 * problem.weights),
                        strict=True):
        close(one.F, two.F, 1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scale_equivariance(scale):
    problem = tree_problem()
    other = SimpleNamespace(**{**vars(problem), "Y": problem.Y * scale, "F": problem.F * scale,
                               "D": problem.D * scale**2})
    for one, two in zip(em(problem, 5), em(other, 5), strict=True):
        close(two.F, one.F * scale)
        close(two.D, one.D * scale**2)
        close(two.mean, one.mean * scale)


def test_order_of_samples_and_features_does_not_matter():
    problem = tree_problem()
    p, q = problem.rng.permutation(20), problem.rng.permutation(40)
    other = SimpleNamespace(
        h=Hierarchy(np.argsort(p)[problem.h.permutation], problem.h.boundaries),
        Y=problem.Y[q][:, p], F=problem.F[p], D=problem.D[p], ranks=problem.ranks)
    for one, two in zip(em(problem, 5), em(other, 5), strict=True):
        close(two.F, one.F[p])
        close(two.mean, one.mean[p])


def test_a_large_mean_costs_no_digits():
    problem = tree_problem()
    far = SimpleNamespace(**{**vars(problem), "Y": problem.Y + 2.0**26})
    for one, two in zip(em(problem, 5), em(far, 5), strict=True):
        close(two.F, one.F, 1e-6)
        assert np.abs(two.mean - 2.0**26 - one.mean).max() < 1e-6


# ---------------------------------------------------------------- the source


def test_what_the_source_says_of_the_data():
    problem = tree_problem()
    Y, h, w = problem.Y.copy(), problem.h, problem.weights
    Y[5], Y[9] = np.nan, np.nan
    source, _, _ = open_source(Y, h, True, "em", w, None)
    assert source.n_samples == 38 and source.mean_is_free and source.dtype == float
    w = w / np.delete(w, [5, 9]).sum() * 38
    seen = ~np.isnan(Y)
    mean = np.nansum(w[:, None] * Y, axis=0) / (w @ seen)
    variance = np.nansum(w[:, None] * (Y - mean) ** 2, axis=0) / (w @ seen)
    close(h._scatter(source.mean), mean, 1e-12)
    close(h._scatter(source.variance), variance, 1e-12)
    close(h._scatter(source.shares), w @ seen / 38, 1e-12)
    independent = dense_loglik(np.diag(variance), mean, Y, w)
    assert independent == pytest.approx(-0.5 * source.shares @ (
        np.log(2 * np.pi) + 1 + np.log(source.variance)), rel=1e-12)
    X = source.start_data(10, None)
    close(np.square(X).sum(axis=1) / source.n_samples, source.variance, 1e-12)
    order = np.argsort(w)  # of the filled data, whatever the order of the samples
    filled = np.where(seen, Y - mean, 0)[:, h.permutation] * np.sqrt(w)[:, None]
    scaled = filled * np.sqrt(variance[h.permutation] * 38 / np.square(filled).sum(axis=0))
    close(X @ X.T, scaled[order].T @ scaled[order], 1e-12)
    fixed, _, _ = open_source(Y, h, False, "em", None, None)
    assert not fixed.mean.any() and not fixed.mean_is_free
    close(h._scatter(fixed.variance), np.nanmean(Y**2, axis=0), 1e-12)
    F, D = start("svd", h, problem.ranks, source, None)
    assert np.isfinite(F).all() and (D > 0).all() and np.abs(F).sum() > 0


def test_samples_that_say_nothing_change_nothing():
    problem = tree_problem()
    Y = np.insert(problem.Y, [0, 7, 7], np.nan, axis=0)
    more = SimpleNamespace(**{**vars(problem), "Y": Y})
    for one, two in zip(em(problem, 3), em(more, 3), strict=True):
        assert np.array_equal(one.F, two.F) and one.loglik == two.loglik
    weights = np.where(np.arange(40) % 5, 1.0, 0.0)
    fewer = SimpleNamespace(**{**vars(problem), "Y": problem.Y[weights > 0]})
    for one, two in zip(em(problem, 3, weights), em(fewer, 3), strict=True):
        assert np.array_equal(one.F, two.F) and one.loglik == two.loglik


def test_patterns_are_found():
    def structure(kind):
        return incomplete_source(tree_problem(kind).Y, tree_problem(kind).h, True).samples

    assert structure(nothing).n_patterns == 1
    assert structure(blocks).n_patterns == 4
    assert structure(one_cell).n_patterns == 2
    samples = structure(blocks)
    # Leaf by leaf: as many classes as there are parts of the columns in it.
    problem = tree_problem(blocks)
    expected = sum(np.unique(np.isnan(problem.Y[:, problem.h.features(2, g)]), axis=1).shape[1]
                   for g in range(5))
    assert samples._patterns.row_off.size - 1 == expected < 20
    close(samples.counts, (~np.isnan(problem.Y)).sum(axis=0)[problem.h.permutation])


def test_batches_cover_the_samples_and_stay_small(monkeypatch):
    problem = tree_problem(N=90)
    samples = incomplete_source(problem.Y, problem.h, True).samples
    layout = MLR.from_compact(problem.h, problem.ranks, problem.F, problem.D)._layout
    patterns = samples._patterns
    for items in (1, 700, 2000, 10**6):
        monkeypatch.setattr(passes, "BLOCK_ITEMS", items)
        ranges = list(passes.batches(patterns, layout))
        assert np.array_equal(np.concatenate([np.arange(a, b) for a, b in ranges]), np.arange(90))
        for first, last in ranges:
            p0, p1, _ = patterns.of(first, last)
            assert p1 - p0 == 1 or (p1 - p0) * layout.n_leaves * (layout.R + 1) ** 2 <= items
            assert last - first <= max(layout.R, items // (layout.n_leaves * layout.R + 20))
        assert (len(ranges) == 1) == (items == 10**6)


def test_the_data_stay_as_they_are():
    problem = tree_problem()
    before = problem.Y.copy()
    problem.Y.flags.writeable = False
    list(em(problem, 2, problem.weights))
    assert np.array_equal(problem.Y, before, equal_nan=True)


def spoiled(column, values):
    Y = tree_problem().Y.copy()
    Y[:, column] = np.nan
    Y[: len(values), column] = values
    return Y


@pytest.mark.parametrize("Y, message", [
    (spoiled(4, []), r"1 column with fewer than 2 observed cells \({}\)"),
    (spoiled(4, [1.0]), r"fewer than 2 observed cells \({}\)"),
    (spoiled(4, [2.5, 2.5, 2.5]), r"constant where observed \({}\)"),
])
def test_columns_that_cannot_be_fitted_are_named(Y, message):
    h = tree_problem().h
    with pytest.raises(ValueError, match=message.format(4)):
        incomplete_source(Y, h, True)
    names = [f"gene {i}" for i in range(20)]
    with pytest.raises(ValueError, match=message.format("gene 4")):
        incomplete_source(Y, h, True, names=names)


def test_breakdown_names_level_and_group():
    problem = tree_problem()
    F = problem.F * 1e200
    A = MLR.from_compact(problem.h, problem.ranks, F, problem.D * 1e-220)
    with pytest.raises(np.linalg.LinAlgError, match="broke down at level"), \
            np.errstate(over="ignore", invalid="ignore"):
        loglik_samples(A, np.zeros(20), problem.Y)


# ---------------------------------------------------------------- the fit


def test_fit_leaves_out_missing_cells():
    problem = tree_problem(N=200)
    Y, h, ranks = problem.Y, problem.h, problem.ranks
    Y[17] = np.nan
    init = MLR.from_compact(h, ranks, problem.F, problem.D)
    options = {"missing": "em", "init": init}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = fit_factor_model(Y, ranks, h, optimizer="em", max_iter=5, tol=0, **options)
        fit = fit_factor_model(Y, ranks, h, **options)
    for t, found in enumerate(em(problem, 5)):
        assert plain.loglik_trace[t] == pytest.approx(found.loglik, rel=1e-9)
    close(plain.covariance.toarray(), dense_mlr(h, split(found.F, ranks), found.D), 1e-8)
    close(plain.mean, found.mean, 1e-8)
    assert (np.diff(fit.loglik_trace) >= -1e-10).all() and fit.loglik > plain.loglik
    assert fit.n_samples == 199 and fit.mean_is_estimated
    scores = fit.score_samples(Y)
    assert scores[17] == 0 and scores.sum() / 199 == pytest.approx(fit.loglik, rel=1e-9)
    assert np.abs(fit.mean - np.nanmean(Y, axis=0)).max() > 1e-4  # not the mean of what is there


def test_fit_and_imputation_of_nullable_columns():
    pd = pytest.importorskip("pandas")
    problem = tree_problem(N=60)
    names = [f"gene {i}" for i in range(20)]
    frame = pd.DataFrame(problem.Y, columns=names).convert_dtypes()
    assert str(frame.dtypes.iloc[0]) == "Float64"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit, same = (fit_factor_model(data, problem.ranks, problem.h, missing="em", max_iter=10)
                     for data in (frame, problem.Y))
    assert fit.loglik == same.loglik
    filled = fit.impute(frame)
    assert list(filled.columns) == names and filled.notna().all(axis=None)
    assert np.array_equal(filled.to_numpy(), same.impute(problem.Y))
    with pytest.raises(ValueError, match=r"constant where observed \(gene 4\)"):
        fit_factor_model(frame.assign(**{"gene 4": frame["gene 4"] * 0}), problem.ranks, problem.h,
                         missing="em")


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_fit_does_not_depend_on_units(scale):
    h = Hierarchy.balanced(60, (1, 4, 12))
    Y = simulate_mlr(h, (2, 1, 1), 300, random_state=0).Y
    Y[at_random(Y.shape, np.random.default_rng(0))] = np.nan
    one, many = (fit_factor_model(Y * s, (2, 1, 1), h, missing="em") for s in (1, scale))
    assert one.converged and many.converged and not one.boundary.size
    close(many.covariance.toarray(), one.covariance.toarray() * scale**2, 1e-6)
