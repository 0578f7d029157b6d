"""The ways to climb: which one is chosen, objectives that never fall, the same maximum from all."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import close, hierarchies

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor import climb
from mlrops.factor.climb import MANY, OPTIMIZERS, chosen_optimizer, jumps_of
from mlrops.factor.estep.sources import open_source
from mlrops.kernels.vectors import Arrays

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
WAYS = tuple(OPTIMIZERS)


def gappy(Y, seed, share=0.1):
    return np.where(np.random.default_rng(seed).random(Y.shape) < share, np.nan, Y)


def in_kind(kind, Y, seed):
    """Data of a kind, options they need, and the samples and weights that they stand for."""
    weights = np.ones(len(Y))
    if "few" in kind:
        Y, weights = Y[:4], weights[:4]
    if "duplicated" in kind:
        Y[:, -1] = Y[:, 0]
        Y[:, Y.shape[1] // 2] = -2 * Y[:, 0]
    if "missing" in kind:
        Y = gappy(Y, seed)
    if "float32" in kind:
        Y = Y.astype(np.float32)
    options = {"missing": "em"}
    if "weighted" in kind:
        weights = np.random.default_rng(seed).uniform(0, 2, len(Y))
        options["sample_weight"] = weights
    data = Y
    if "sparse" in kind:
        data = sp.csr_array(Y)
    elif "chunks" in kind:
        data = [Y[:15], Y[15:16], Y[16:]]
    return data, options, Y, weights


KINDS = ["complete", "weighted", "sparse", "chunks", "missing", "missing, weighted",
         "missing, chunks", "duplicated", "few", "float32", "missing, duplicated"]


@pytest.mark.quick(9)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", [None, True, 0.5])
@pytest.mark.parametrize("optimizer", [*WAYS, "auto"])
@settings(max_examples=8)
@given(h=hierarchies(max_n=14, max_levels=4), seed=st.integers(0, 1000), data=st.data())
def test_the_objective_never_falls(optimizer, prior, kind, h, seed, data):
    ranks = tuple(data.draw(st.integers(0, 3)) for _ in range(h.n_levels))
    init = data.draw(st.sampled_from(["principal_factor", "svd", "random"]))
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((40, h.n)) @ rng.standard_normal((h.n, h.n))
    Y += rng.standard_normal((40, h.n))
    given, options, Y, weights = in_kind(kind, Y, seed)
    seen = []
    fit = fit_factor_model(
        given, ranks, h, init=init, random_state=seed, max_iter=60, prior=prior,
        optimizer=optimizer, **options,
        callback=lambda it: seen.append((it.objective, it.loglik, it.covariance.D)))
    objectives = fit.objective_trace
    assert (np.diff(objectives) >= 0).all() and np.isfinite(objectives).all()
    assert np.array_equal(objectives, [objective for objective, _, _ in seen])
    assert np.array_equal(fit.loglik_trace, [loglik for _, loglik, _ in seen])
    assert fit.n_evaluations >= fit.n_iter + 1
    # What the prior takes off, by its definition.
    variance = np.ones(h.n) if fit.prior_variance is None else fit.prior_variance
    strength = sum(ranks) if prior is True else prior or 0.0
    assert fit.prior == strength
    for objective, loglik, D in seen:
        penalty = strength / (2 * fit.n_samples) * float((np.log(D) + variance / D).sum())
        rel = 1e-6 if "float32" in kind else 1e-9
        assert objective == pytest.approx(loglik - penalty, rel=rel, abs=rel)
    # What was gained is really there: the parameters have the likelihood that is claimed.
    if (fit.covariance.D > 1e-4 * np.nanvar(Y, axis=0)).all():
        rel = 1e-3 if "float32" in kind else 1e-8
        shown = ~np.isnan(Y).all(axis=1)
        rows = fit.score_samples(Y[shown])
        found = np.average(rows, weights=weights[shown])
        assert found == pytest.approx(fit.loglik, rel=rel, abs=rel)


def tree_samples(seed, N=300):
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(30), [[0, 30], [0, 12, 30]])
    A = MLR(h, [rng.standard_normal((30, r)) for r in (1, 1)], rng.uniform(0.5, 1.5, 30))
    return h, A.sample(N, random_state=seed) + rng.standard_normal(30)


@pytest.mark.quick(5)
@pytest.mark.parametrize("kind", ["complete", "weighted", "sparse", "chunks", "missing"])
@pytest.mark.parametrize("prior", [None, 20.0])
@pytest.mark.parametrize("seed", range(2))
def test_all_reach_the_same_maximum(seed, prior, kind):
    h, Y = tree_samples(seed)
    data, options, _, _ = in_kind(kind, Y, seed)
    fits = {way: fit_factor_model(data, (1, 1), h, optimizer=way, tol=0, gtol=1e-7, prior=prior,
                                  max_iter=20_000, **options) for way in WAYS}
    best = fits["scoring"]
    for way, fit in fits.items():
        assert fit.optimizer == way and fit.converged
        assert fit.objective_trace[-1] == pytest.approx(best.objective_trace[-1], abs=1e-9)
        close(fit.covariance.toarray(), best.covariance.toarray(), 1e-4)
    assert best.n_evaluations <= fits["em"].n_evaluations
    assert fits["bfgs"].n_evaluations <= fits["em"].n_evaluations


def test_the_first_step_of_each_way_is_its_own():
    """Names that all led to one climb would agree in every number."""
    h, Y = tree_samples(0)
    starts = [fit_factor_model(Y, (1, 1), h, optimizer=way, tol=0, gtol=0, max_iter=3)
              .objective_trace for way in WAYS]
    assert len({trace[0] for trace in starts}) == 1 and len({trace[3] for trace in starts}) == 3


# ---------------------------------------------------------------- the one that is chosen


def opened(Y, h=None):
    source, h, _ = open_source(Y, h, True, "em", None, None)
    return source


@pytest.mark.parametrize("N, n, rank, expected", [
    (24, 3000, 4, "scoring"), (24, 3000, 5, "bfgs"), (3000, 150, 25, "scoring"),
    (3000, 150, 70, "bfgs"), (30, 10, 0, "scoring"), (40, 10, 1, "scoring")])
def test_auto_looks_at_the_width_of_the_data(N, n, rank, expected):
    Y = np.random.default_rng(0).standard_normal((N, n))
    assert (MANY * rank <= min(N, n)) == (expected == "scoring")
    assert chosen_optimizer("auto", opened(Y), rank) == expected
    assert fit_factor_model(Y, rank, max_iter=0).optimizer == expected


def test_auto_takes_scoring_where_data_are_dear():
    Y = np.random.default_rng(0).standard_normal((24, 3000))
    assert fit_factor_model(Y, 5, max_iter=0).optimizer == "bfgs"
    for data in (gappy(Y, 0, 0.01), sp.csr_array(Y), [Y[:12], Y[12:]]):
        assert fit_factor_model(data, 5, missing="em", max_iter=0).optimizer == "scoring"
        named = fit_factor_model(data, 5, missing="em", max_iter=0, optimizer="bfgs")
        assert named.optimizer == "bfgs"


def test_the_rank_of_all_levels_counts():
    Y, h = np.random.default_rng(0).standard_normal((30, 2000)), Hierarchy.balanced(2000, (1, 4))
    assert fit_factor_model(Y, (2, 3), h, max_iter=0).optimizer == "scoring"
    assert fit_factor_model(Y, (3, 3), h, max_iter=0).optimizer == "bfgs"


def test_names_and_their_climbs():
    assert set(WAYS) == {"scoring", "bfgs", "em"} and jumps_of("em", Arrays(7)) is None
    source = opened(np.random.default_rng(0).standard_normal((9, 4)))
    for way in WAYS:
        assert chosen_optimizer(way, source, 3) == way
        kind = climb.OPTIMIZERS[way]
        assert kind is None or type(jumps_of(way, Arrays(7))) is kind


@pytest.mark.parametrize("wrong", ["newton", "EM", "", None, True, 3])
def test_unknown_optimizers_are_refused(wrong):
    Y = np.random.default_rng(0).standard_normal((20, 5))
    message = 'optimizer must be "auto", "scoring", "bfgs" or "em", got ' + repr(wrong)
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit_factor_model(Y, 1, optimizer=wrong)


# ---------------------------------------------------------------- the option it replaces


@pytest.mark.parametrize("old, new", [(True, "auto"), (False, "em"), (np.False_, "em")])
def test_accelerate_is_an_old_word(old, new):
    h, Y = tree_samples(0)
    with pytest.warns(DeprecationWarning, match=(
            f"accelerate={bool(old)} is optimizer='{new}' since version 0.3.0")) as told:
        found = fit_factor_model(Y, (1, 1), h, max_iter=5, accelerate=old)
    assert [w.filename for w in told if w.category is DeprecationWarning] == [__file__]
    expected = fit_factor_model(Y, (1, 1), h, max_iter=5, optimizer=new)
    assert np.array_equal(found.loglik_trace, expected.loglik_trace)
    assert found.optimizer == expected.optimizer


def test_old_and_new_word_together_are_refused():
    h, Y = tree_samples(0)
    with pytest.raises(TypeError, match="fit_factor_model got both optimizer= and accelerate="):
        fit_factor_model(Y, (1, 1), h, accelerate=True, optimizer="em")


def test_estimators_know_the_old_word():
    sklearn = pytest.importorskip("mlrops.sklearn")
    with pytest.warns(DeprecationWarning, match="accelerate=False is optimizer='em'") as told:
        estimator = sklearn.FactorModel(2, accelerate=False)
    assert [w.filename for w in told] == [__file__]
    assert estimator.optimizer == "em" and estimator.get_params()["optimizer"] == "em"
    assert "accelerate" not in estimator.get_params()
