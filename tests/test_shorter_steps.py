"""Scoring shortens a corrected step that is too long, where damping would take many tries."""

import numpy as np
import pytest

from mlrops import Hierarchy, fit_factor_model
from mlrops.datasets import simulate_mlr
from mlrops.factor import scoring
from mlrops.factor.scoring import SHORTER, Scoring

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")


def heavy_tails():
    """Samples whose likelihood curves less than the information of a normal model says."""
    rng = np.random.default_rng(0)
    chips = np.sort(rng.integers(0, 20, 120))
    h = Hierarchy.from_labels(chips // 5, chips)
    E = simulate_mlr(h, (3, 1, 1), n_samples=300, noise=2.0, random_state=0).Y
    return E * np.sqrt(2 / (rng.standard_t(4, (300, 1)) ** 2 + 1)), (5, 2, 1), h


class Slope:
    """A parabola of one variable, ``slope x - ½ curvature x²``, as an ascent sees it."""

    def __init__(self, slope, curvature):
        self.slope, self.curvature, self.tried = slope, curvature, []

    def rise(self, d, share):
        self.tried.append(share)
        x = share * float(d[0])
        return self.slope * x - 0.5 * self.curvature * x**2


@pytest.mark.parametrize("times, share", [(2.5, 0.4), (4.0, 0.25), (50.0, SHORTER[0])])
def test_the_share_is_the_top_of_the_parabola(times, share, monkeypatch):
    """A step so many times too long is tried once more, where the parabola has its top."""
    line, jumps = Slope(1.0, 1.0), Scoring(1)
    monkeypatch.setattr(jumps, "_try", lambda ascent, d, s=1.0: line.rise(d, s))
    monkeypatch.setattr(scoring, "scoring_step", lambda *_: np.array([times]))
    jumps.damping, jumps.pairs.count = scoring.CORRECTED, 1
    monkeypatch.setattr(jumps.pairs, "corrected", lambda B: B)

    class Here:
        gradient = np.array([1.0])
        precondition = information = staticmethod(lambda: None)

    class Ascent:
        state = Here

    rises = times * SHORTER[0] < 2
    assert jumps.jump(Ascent) == rises
    assert line.tried[0] == 1 and line.tried[1] == pytest.approx(share)
    # Where that fails, too, pairs are forgotten, and plain steps follow until there are others.
    assert line.tried[2:] == ([] if rises else [1.0] * scoring.TRIES)
    assert len(jumps.pairs) == rises


def test_shortened_steps_rise(monkeypatch):
    Y, ranks, h = heavy_tails()
    taken = []
    plain = Scoring._try

    def watched(self, ascent, d, share=1.0):
        rise = plain(self, ascent, d, share)
        taken.append((share, rise))
        return rise

    monkeypatch.setattr(Scoring, "_try", watched)
    fit = fit_factor_model(Y, ranks, h, optimizer="scoring", init="svd", tol=0, gtol=1e-7,
                           max_iter=150)
    assert (np.diff(fit.objective_trace) >= 0).all()
    shorter = [(share, rise) for share, rise in taken if share < 1]
    assert shorter and all(SHORTER[0] <= share <= SHORTER[1] for share, _ in shorter)
    assert np.mean([rise >= 0 for _, rise in shorter]) > 0.5
