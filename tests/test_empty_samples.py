"""A sample without any cell counts nowhere."""

import numpy as np
import pandas as pd
import pytest

from mlrops import SUR, Hierarchy, fit_factor_model, select_ranks, select_sur_ranks
from mlrops.datasets import simulate_factor_model, simulate_sur
from mlrops.sklearn import FactorModel

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

Y = simulate_factor_model(8, 1, n_samples=40, random_state=0).Y
NOTHING = np.full((40, 8), np.nan)
BOTH = np.stack([Y, NOTHING], axis=1).reshape(80, 8)  # every other sample is empty


@pytest.mark.parametrize("kind", ["array", "frame", "masked"])
def test_scores_are_those_of_the_fit(kind):
    data = {"array": BOTH, "frame": pd.DataFrame(BOTH, columns=list("abcdefgh")),
            "masked": np.ma.masked_invalid(BOTH)}[kind]
    fit = fit_factor_model(data, 1, missing="em")
    assert fit.n_samples == 40
    assert fit.score(data) == pytest.approx(fit.loglik, abs=1e-9)
    if kind != "masked":
        model = FactorModel(1, missing="em").fit(data)
        assert model.score(data) == pytest.approx(model.loglik_, abs=1e-9)
        loglik = np.asarray(fit.score_samples(data))
        assert np.array_equal(loglik[1::2], np.zeros(40)) and (loglik[::2] < 0).all()


def test_gaps_and_empty_samples_together():
    gaps = np.where(np.random.default_rng(0).random(BOTH.shape) < 0.2, np.nan, BOTH)
    fit = fit_factor_model(gaps, 1, missing="em")
    assert fit.score(gaps) == pytest.approx(fit.loglik, abs=1e-9)


def test_nothing_to_score_is_an_error():
    fit = fit_factor_model(Y, 1)
    model = FactorModel(1, missing="em").fit(Y)
    for score in (fit.score, model.score):
        with pytest.raises(ValueError, match="none of 40 samples has an observed cell"):
            score(NOTHING)


def test_regressions():
    sim = simulate_sur(4, 2, ranks=1, n_samples=60, random_state=0)
    names = [f"y{j}" for j in range(4)]
    equations = {name: {"dependent": sim.Y[:, j], "exog": sim.Xs[j]}
                 for j, name in enumerate(names)}
    fit = SUR(equations).fit(1)
    half = sim.Y.copy()
    half[::2] = np.nan
    expected = np.asarray(fit.score_samples(sim.Xs, sim.Y))[1::2].mean()
    assert fit.score(sim.Xs, half) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="none of 60 samples has an observed cell"):
        fit.score(sim.Xs, np.full_like(half, np.nan))


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_validation(weighted):
    """The same folds with and without empty samples, whose weights do not count either."""
    weights = np.random.default_rng(0).uniform(0.5, 2, 40) if weighted else np.ones(40)
    rows = np.array_split(np.arange(40), 4)
    folds = [(np.setdiff1d(np.arange(40), test), test) for test in rows]
    mixed = [tuple(np.sort(np.concatenate([2 * x, 2 * x + 1])) for x in fold) for fold in folds]
    options = dict(candidates=[0, 1], criterion="cv", missing="em")
    plain = select_ranks(Y, folds=folds, sample_weight=weights, **options)
    found = select_ranks(BOTH, folds=mixed, sample_weight=np.repeat(weights, 2), **options)
    assert found.ranks == plain.ranks
    for a, b in zip(found.table, plain.table, strict=True):
        # Fits end within a tolerance, to which what is held out is of first order.
        assert a.cv_mean == pytest.approx(b.cv_mean, abs=1e-6)
        assert a.bic == pytest.approx(b.bic, abs=1e-6)


def test_a_fold_without_a_cell_is_named():
    folds = [(np.arange(0, 80, 2), np.arange(1, 80, 2))]
    with pytest.raises(ValueError, match="test samples of fold 0 cannot be scored: none of 40"):
        select_ranks(BOTH, [0, 1], Hierarchy.flat(8), criterion="cv", missing="em", folds=folds,
                     refit=False)


def test_cross_validation_of_regressions():
    sim = simulate_sur(4, 2, ranks=1, n_samples=60, random_state=0)
    assert np.isfinite(select_sur_ranks(sim.Xs, sim.Y, candidates=[0, 1], criterion="cv",
                                        random_state=0).table[1].cv_mean)
