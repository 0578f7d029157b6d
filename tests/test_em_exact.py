"""EM where D is far below the variances: against decimal arithmetic, whatever the data's form."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from decimal_models import covariance, floats, inverse_and_logdet, likelihood
from decimals import decimals, precise
from gaps import KINDS, at_random
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import PATHS, computing, hierarchies

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor.conditional import loglik_samples
from mlrops.factor.estep.complete import CompleteData, CompleteStep
from mlrops.factor.estep.incomplete import IncompleteStep
from mlrops.factor.estep.incomplete_solve import IncompletePrecision, ObservedCells
from mlrops.factor.estep.sources import open_source
from mlrops.factor.estep.streamed import StreamedStep
from mlrops.kernels import residual

n, N = 18, 22
# Features with small D: one, some of several leaves, a whole leaf, all.
PLACES = {"one": [5], "few": [4, 5, 13], "a leaf": list(range(9, 18)), "all": list(range(18))}
SMALL = (1e-6, 1e-9, 1e-12)
TREES = {
    "tree": ((2, 0, 1, 1), [[0, 18], [0, 9, 18], [0, 6, 9, 18], [0, 1, 6, 9, 18]]),
    "flat": ((3,), [[0, 18]]),
    "roots": ((1, 2), [[0, 5, 18], [0, 2, 5, 18]]),
}


@pytest.fixture(autouse=True)
def many_digits():
    with precise(60):
        yield


@cache
def problem(kind="tree", place="one", small=1e-6, gaps=None, weighted=False, copies=False):
    """Samples of a model in feature order, and the model on the tree in its own order."""
    ranks, boundaries = TREES[kind]
    rng = np.random.default_rng(3)
    h = Hierarchy(rng.permutation(n), boundaries)
    F, D = rng.standard_normal((n, sum(ranks))), rng.uniform(0.3, 2, n)
    D[PLACES[place]] = small
    if copies:
        F[PLACES[place]] = F[PLACES[place][0]]
    A = MLR.from_compact(h._in_tree_order(), ranks, F, D)
    Y = h._scatter(A.sample(N, random_state=1).T).T + 1
    if gaps:
        Y[3:][gaps(Y[3:].shape, rng)] = np.nan
        Y = Y[~np.isnan(Y).all(axis=1)]
    weights = rng.uniform(0.5, 2, len(Y)) if weighted else None
    return SimpleNamespace(A=A, Y=Y, h=h, weights=weights)


FORMS = {
    "array": (lambda Y: Y, {"compress": False}), "compressed": (lambda Y: Y, {"compress": True}),
    "chunks": (lambda Y: [Y[:3], Y[3:4], Y[4:]], {}), "sparse": (sp.csr_array, {}),
}
# What rounding of the samples moves, those of the triangular factor in place of the data.
TOL = {"array": 1e-12, "compressed": 1e-11, "chunks": 1e-12, "sparse": 1e-12}


def source_of(p, form):
    make, options = FORMS[form]
    return open_source(make(p.Y), p.h, True, "em" if np.isnan(p.Y).any() else "raise", p.weights,
                       options.get("compress"))[0]


def reference(p, source):
    """What `decimals.likelihood` says of the samples about the mean of the source."""
    weights = np.ones(len(p.Y)) if p.weights is None else p.weights
    X = (p.Y[:, p.h.permutation] - source.mean).T
    return likelihood(p.A, X, weights)


def away(found, expected):
    return np.abs(found - expected).max(initial=0) / max(1, np.abs(expected).max(initial=0))


def check(p, source, tol=1e-12):
    """Likelihood and gradient of an E-step; derivatives know F and x to rounding only, over √D."""
    step = source.evaluate(p.A, source.mean)
    loglik, dF, dD, dmean = reference(p, source)
    root = np.sqrt(p.A._d)
    slope = max(1e-10, 10 * tol, (5e-16 if tol == 1e-12 else 2e-15) / root.min())
    assert step.loglik == pytest.approx(loglik, rel=tol)
    found = step.gradient(*step.update(keep=True), scale=root)
    assert away(found[0], dF) <= slope
    assert away(found[1] * p.A._d, dD) <= slope
    if source.mean_is_free:
        assert away(found[2] * root, dmean) <= slope


@pytest.mark.quick(3)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("place", PLACES)
def test_complete_samples(place, small, form):
    p = problem("tree", place, small)
    check(p, source_of(p, form), TOL[form])


@pytest.mark.parametrize("form", FORMS)
def test_weights(form):
    p = problem("tree", "few", 1e-9, weighted=True)
    check(p, source_of(p, form), 1e-11)


@pytest.mark.parametrize("kind", ["flat", "roots"])
@pytest.mark.parametrize("form", ["array", "sparse"])
def test_other_trees(kind, form):
    p = problem(kind, "few", 1e-9)
    check(p, source_of(p, form))


@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("form", FORMS)
def test_copies_of_one_feature(form, small):
    """Rows of D^{-1/2}F that are long and equal.

    What the plain forms may lose at 1e-6 they lose here: pivots cancel, too.
    """
    p = problem("tree", "few", small, copies=True)
    check(p, source_of(p, form), 1e-10 if small == 1e-6 else TOL[form])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gaps", [None, at_random])
def test_whichever_way_it_is_computed(path, gaps):
    p = problem("tree", "few", 1e-9, gaps)
    with computing(path):
        A = MLR.from_compact(p.A.hierarchy, p.A.ranks, p.A.F, p.A.D)
        check(SimpleNamespace(**{**vars(p), "A": A}), source_of(p, "array"))


@pytest.mark.parametrize("form", ["array", "chunks", "sparse"])
def test_many_blocks(monkeypatch, form):
    monkeypatch.setattr("mlrops.factor.estep.complete.LEAST_WIDTH", 3)
    monkeypatch.setattr("mlrops.factor.estep.complete.BLOCK_ITEMS", 1)
    monkeypatch.setattr("mlrops.factor.estep.streamed.LEAST_ITEMS", 1)
    monkeypatch.setattr("mlrops.factor.estep.streamed.LEAST_WIDTH", 3)
    p = problem("tree", "few", 1e-9)
    check(p, source_of(p, form))


@pytest.mark.quick(3)
@pytest.mark.parametrize("form", ["array", "chunks"])
@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("place", PLACES)
def test_missing_cells(place, small, form):
    p = problem("tree", place, small, at_random, True)
    check(p, source_of(p, form))


@pytest.mark.parametrize("form", ["array", "chunks"])
@pytest.mark.parametrize("gaps", [k for k in KINDS if k.__name__ != "nothing"])
def test_kinds_of_gaps(gaps, form):
    p = problem("tree", "few", 1e-9, gaps)
    check(p, source_of(p, form))


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000), gaps=st.booleans())
def test_any_tree_and_any_variances(data, seed, gaps):
    h = data.draw(hierarchies(max_n=10, max_levels=4))
    ranks = tuple(data.draw(st.integers(0, 3)) for _ in range(h.n_levels))
    rng = np.random.default_rng(seed)
    F, D = rng.standard_normal((h.n, sum(ranks))), 10 ** rng.uniform(-12, 0, h.n)
    A = MLR.from_compact(h._in_tree_order(), ranks, F, D)
    Y = h._scatter(A.sample(12, random_state=seed).T).T
    if gaps:
        Y[2:][at_random(Y[2:].shape, rng)] = np.nan
        Y = Y[~np.isnan(Y).all(axis=1)]
    p = SimpleNamespace(A=A, Y=Y, h=h, weights=None)
    source = open_source(Y, h, True, "em", None, False)[0]
    step, loglik = source.evaluate(A, source.mean), reference(p, source)[0]
    size = max(abs(loglik), np.abs(np.log(D)).sum())
    assert abs(step.loglik - loglik) < 1e-11 * size
    F, D, _ = step.update()
    assert np.isfinite(F).all() and (D > 0).all()


def test_a_penalty():
    p, ridge = problem("tree", "few", 1e-9), 3.0
    X = np.ascontiguousarray((p.Y[:, p.h.permutation] - p.Y[:, p.h.permutation].mean(axis=0)).T)
    data = CompleteData(X, np.square(X).sum(axis=1), np.zeros(n), N, float(N), ridge)
    step = data.evaluate(p.A, data.mean)
    loglik, dF, dD, _ = likelihood(p.A, X)
    squares = np.square(p.A._F).sum(axis=1) / p.A._d
    assert step.loglik == pytest.approx(loglik - ridge * squares.sum() / 2 / N, rel=1e-12)
    F, D, _ = step.gradient(*step.update(keep=True), scale=np.sqrt(p.A._d))
    expected = dF - ridge / N * p.A._F / np.sqrt(p.A._d)[:, None]
    assert away(F, expected) < 1e-13
    assert away(D * p.A._d, dD + ridge / N * squares / 2) < 1e-13


# ---------------------------------------------------------------- the M-step


def dense_update(p, X):
    """F and D to which EM goes from complete samples X (n, N), in decimals."""
    S, F = covariance(p.A)
    inverse, _ = inverse_and_logdet(S)
    x = decimals(X)
    Z = F.T @ inverse @ x
    moments = N * (decimals(np.eye(len(Z))) - F.T @ inverse @ F) + Z @ Z.T
    new_F, new_D = np.zeros_like(p.A._F), np.zeros(n)
    used, at = [], 0
    for level, r in enumerate(p.A.ranks):
        used.append(at + p.A.hierarchy.labels(level)[:, None] * r + np.arange(r))
        at += r * p.A.hierarchy.group_counts[level]
    used = np.concatenate(used, axis=1)
    for i in range(n):
        W, _ = inverse_and_logdet(moments[np.ix_(used[i], used[i])])
        v = Z[used[i]] @ x[i]
        f = W @ v
        new_F[i], new_D[i] = floats(f), float((x[i] @ x[i] - f @ v) / N)
    return new_F, new_D


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_the_update(place, form):
    """Variances far below the others come out to digits of their own."""
    p = problem("tree", place, 1e-9)
    source = source_of(p, form)
    F, D, _ = source.evaluate(p.A, source.mean).update()
    exact_F, exact_D = dense_update(p, (p.Y[:, p.h.permutation] - source.mean).T)
    assert away(F, exact_F) < 1e-13
    assert np.abs(D / exact_D - 1).max() < 1e-10


@pytest.mark.parametrize("form, gaps", [*((form, None) for form in FORMS), ("array", at_random),
                                        ("chunks", at_random)])
def test_em_is_monotone_to_rounding(form, gaps):
    """Steps of EM itself, which nothing accepts or refuses, in a Heywood case."""
    p = problem("flat", "few", 1e-12, gaps)
    source = source_of(p, form)
    floor, trace = 1e-11 * source.variance, []
    F, D, mean = p.A._F, np.maximum(p.A._d, floor), source.mean
    for _ in range(40):
        A = MLR.from_compact(p.A.hierarchy, p.A.ranks, F, D)
        step = source.evaluate(A, mean)
        F, D, mean = step.update()
        D = np.maximum(D, floor)
        trace.append(step.loglik)
    assert (D / source.variance).min() < 1e-9
    assert (np.diff(trace) >= -2e-14 * np.abs(trace[1:])).all()
    assert trace[-1] > trace[0]


# ---------------------------------------------------------------- the posterior of an operator


@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("place", PLACES)
def test_posteriors(place, small):
    p = problem("tree", place, small)
    X = np.ascontiguousarray(p.Y[:, p.h.permutation].T)
    A, squares = p.A.astype(float), np.square(X).sum(axis=1)
    posterior = MLR.from_compact(A.hierarchy, A.ranks, A.F, A.D).posterior(X)
    S, F = covariance(A)
    inverse, _ = inverse_and_logdet(S)
    x = decimals(X)
    y = inverse @ x
    total = posterior.total_inv_quad(squares)
    assert total == pytest.approx(float((x * y).sum()), rel=max(1e-12, 5e-16 / small**0.5))
    Z, at = floats(F.T @ y), 0
    for level, r in enumerate(A.ranks):
        groups = A.hierarchy.group_counts[level]
        assert away(posterior.mean(level), Z[at : at + groups * r].reshape(groups, r, N)) < 1e-12
        at += groups * r
    _, D = posterior.regress(squares)
    assert np.abs(D / dense_update(p, X)[1] - 1).max() < 1e-15 / small**0.5 + 1e-12


def test_the_posterior_of_no_samples():
    p = problem("tree", "few", 1e-9)
    empty = p.A.posterior(np.empty((n, 0)))
    assert empty.total_inv_quad(np.zeros(n)) == 0 and empty.mean(0).shape == (1, 2, 0)


def test_posteriors_in_single_precision_are_summed_in_double():
    """What is left is what rounding does to the samples, over √D: not over D, nor by summing."""
    p = problem("tree", "few", 1e-6)
    A = p.A.astype(np.float32)
    X = np.ascontiguousarray(A.sample(N, random_state=1).T)
    assert X.dtype == np.float32
    S, _ = covariance(A)
    inverse, _ = inverse_and_logdet(S)
    x = decimals(X)
    total = A.posterior(X).total_inv_quad(np.square(X, dtype=float).sum(axis=1))
    assert total == pytest.approx(float((x * (inverse @ x)).sum()), rel=1e-4)
    many = np.ones((n, 40_000), np.float32)
    plain = MLR.from_compact(A.hierarchy, A.ranks, A.F * 0, np.full(n, 0.1, np.float32))
    total = plain.posterior(many).total_inv_quad(np.full(n, 40_000.0))
    assert total == pytest.approx(n * 40_000 / float(np.float32(0.1)), rel=1e-7)


# ---------------------------------------------------------------- blocks of observed cells


@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("place", PLACES)
def test_observed_blocks(place, small):
    p = problem("tree", place, small, at_random)
    X = np.ascontiguousarray(p.Y[:, p.h.permutation].T) - 1
    precision = IncompletePrecision(p.A, ObservedCells(p.A.hierarchy, ~np.isnan(X)))
    S, _ = covariance(p.A)
    logs, quads, x = 0.0, np.zeros(len(p.Y)), precision.solve(X)
    for t, sample in enumerate(X.T):
        o = np.flatnonzero(~np.isnan(sample))
        block = S[np.ix_(o, o)]
        inverse, log = inverse_and_logdet(block)
        b = decimals(sample[o])
        logs, quads[t] = logs + float(log), float(b @ inverse @ b)
        r, size = floats(block @ decimals(x[o, t]) - b), np.linalg.norm(floats(block), 2)
        assert np.linalg.norm(r) <= 1e-13 * (size * np.linalg.norm(x[o, t])
                                             + np.linalg.norm(sample[o]))
    assert precision.logdet() == pytest.approx(logs, rel=1e-12, abs=1e-12)
    assert np.abs(precision.inv_quad(X) / quads - 1).max() < 1e-12 + 1e-15 / small**0.5


def test_a_sample_with_nan_spoils_no_other():
    p = problem("tree", "few", 1e-9, at_random)
    X = np.ascontiguousarray(p.Y[:, p.h.permutation].T)
    precision = IncompletePrecision(p.A, ObservedCells(p.A.hierarchy, ~np.isnan(X)))
    expected = precision.inv_quad(X)
    X[np.flatnonzero(~np.isnan(X[:, 4]))[0], 4] = np.nan
    found, others = precision.inv_quad(X), np.arange(len(p.Y)) != 4
    assert np.isnan(found[4]) and found[others] == pytest.approx(expected[others], rel=1e-12)


def test_solves_that_are_no_answers_are_refused():
    p = problem("tree", "one", 1e-16, at_random)
    X = np.ascontiguousarray(p.Y[:, p.h.permutation].T)
    precision = IncompletePrecision(p.A, ObservedCells(p.A.hierarchy, ~np.isnan(X)))
    with pytest.raises(np.linalg.LinAlgError, match="backward error .* D is too small beside F"):
        precision.solve(X)


@pytest.mark.parametrize("place", PLACES)
def test_likelihoods_of_single_samples(place):
    p = problem("tree", place, 1e-12, at_random)
    X = np.ascontiguousarray(p.Y[:, p.h.permutation])
    expected = [likelihood(p.A, x[:, None])[0] for x in X]
    assert loglik_samples(p.A, np.zeros(n), X) == pytest.approx(expected, rel=1e-10)


# ---------------------------------------------------------------- fits


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning", "ignore::mlrops.UnboundedWarning")
@pytest.mark.parametrize("dtype, floor", [(float, 1e-12), (np.float32, 1e-9)])
@pytest.mark.parametrize("form, gaps", [*((form, None) for form in FORMS), ("array", at_random),
                                        ("chunks", at_random)])
def test_fits_report_what_their_scores_say(form, gaps, dtype, floor):
    p = problem("flat", "few", 1e-9, gaps)
    make, options = FORMS[form]
    if gaps:
        options = {"missing": "em"}
    Y = p.Y.astype(dtype)
    fit = fit_factor_model(make(Y), 3, variance_floor=floor, max_iter=60, **options)
    assert fit.boundary.size and (np.diff(fit.loglik_trace) >= 0).all()
    assert fit.loglik == pytest.approx(np.mean(fit.score_samples(Y)), rel=1e-10)


def test_nothing_changes_where_nothing_is_lost():
    p, gaps = (problem("tree", "few", 1e-2, kind) for kind in (None, at_random))
    kinds = [type(source_of(p, form).evaluate(p.A, np.zeros(n))) for form in FORMS]
    assert kinds == [CompleteStep, CompleteStep, StreamedStep, StreamedStep]
    assert type(source_of(gaps, "array").evaluate(p.A, np.zeros(n))) is IncompleteStep
    rows, leaves = residual.long_rows(p.A._F, p.A._d, p.A._layout)
    assert rows.size == leaves.size == 0
