"""Units of the features, and how the data lie in memory, change nothing."""

import numpy as np
import pytest
import scipy.sparse as sp
from trees import close

from mlrops import Hierarchy, als_gls, fit_factor_model, select_ranks
from mlrops.datasets import simulate_mlr, simulate_sur
from mlrops.factor.estep.sources import open_source
from mlrops.factor.start import STARTS, start

pytestmark = pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")

H = Hierarchy(np.random.default_rng(0).permutation(24), [[0, 24], [0, 6, 12, 18, 24]])
FLAT = Hierarchy.flat(24)
RANKS = (2, 1)
Y = simulate_mlr(H, RANKS, 300, random_state=0).Y
GAPS = np.where(np.random.default_rng(1).random(Y.shape) < 0.1, np.nan, Y)
DECADES = 10.0 ** np.random.default_rng(2).uniform(-12, 12, 24)
SCALES = {"small": np.full(24, 1e-12), "large": np.full(24, 1e12), "by column": DECADES}
KINDS = {
    "array": (Y, {}), "uncompressed": (Y, {"compress": False}),
    "missing": (GAPS, {"missing": "em"}),
    "weights": (Y, {"sample_weight": np.random.default_rng(3).uniform(0.5, 2, 300)}),
    "sparse": (sp.csr_array(Y), {}), "chunks": ([Y[:100], Y[100:]], {}),
    "compressed chunks": ([Y[:100], Y[100:]], {"compress": True}),
    "as they are": (Y, {"center": False}), "frobenius": (Y, {"init": "frobenius"}),
    "random": (Y, {"init": "random", "random_state": 0}), "plain": (Y, {"optimizer": "em"}),
}


def scaled(data, s):
    if isinstance(data, list):
        return [scaled(part, s) for part in data]
    return sp.csr_array(data * s) if sp.issparse(data) else data * s


@pytest.mark.quick(12)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_fits_are_equivariant(kind, scale):
    (data, options), s = KINDS[kind], SCALES[scale]
    one, many = (fit_factor_model(scaled(data, x), RANKS, H, max_iter=60, **options)
                 for x in (np.ones(24), s))
    assert not one.boundary.size and not many.boundary.size
    sd = np.sqrt(one.covariance.diagonal())
    close(many.covariance.toarray() / np.outer(s * sd, s * sd),
          one.covariance.toarray() / np.outer(sd, sd), 1e-8)
    close(many.mean / (s * sd), one.mean / sd, 1e-8)
    shares = 1 if kind != "missing" else np.mean(~np.isnan(GAPS), axis=0)
    assert many.loglik == pytest.approx(one.loglik - (shares * np.log(s)).sum(), abs=1e-8)


def test_powers_of_two_change_no_bit():
    s = 2.0 ** np.random.default_rng(0).integers(-40, 40, 24)
    one, many = (fit_factor_model(Y * x, RANKS, H) for x in (np.ones(24), s))
    assert np.array_equal(many.covariance.D, one.covariance.D * s**2)
    assert many.n_evaluations == one.n_evaluations


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("missing", [False, True])
def test_starts_are_equivariant(init, missing):
    h, ranks, found = H, RANKS, []
    for s in (np.ones(24), DECADES):
        source, _, _ = open_source((GAPS if missing else Y) * s, h, True, "em", None, None)
        F, D = start(init, h, ranks, source, 0)
        s = h._gather(s)
        found.append(((F / s[:, None]) @ (F / s[:, None]).T, D / s**2))
    close(found[1][0], found[0][0], 1e-9)
    close(found[1][1], found[0][1], 1e-9)


def test_ranks_are_chosen_in_any_units():
    one, many = (select_ranks(Y * s, hierarchy=H, max_rank=2, random_state=0) for s in (1, DECADES))
    assert one.ranks == many.ranks
    for a, b in zip(one.table, many.table, strict=True):
        assert a.ranks == b.ranks
        assert b.bic - a.bic == pytest.approx(2 * 300 * np.log(DECADES).sum(), abs=1e-2)


def test_regressions_are_equivariant():
    sim = simulate_sur(8, 2, ranks=1, n_samples=60, random_state=0)
    s = 10.0 ** np.random.default_rng(0).uniform(-12, 12, 8)
    one, many = als_gls(sim.Xs, sim.Y, 1), als_gls(sim.Xs, sim.Y * s, 1)
    close(np.array(many.params) / s[:, None], np.array(one.params), 1e-6)
    close(many.covariance.toarray() / np.outer(s, s), one.covariance.toarray(), 1e-6)


# ---------------------------------------------------------------- memory


def spread_out(x):
    wide = np.zeros((2 * len(x), 3 * x.shape[1]), x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


LAYOUTS = {"Fortran": np.asfortranarray, "strided": spread_out, "read-only": read_only,
           "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
           "turned": lambda x: x[::-1].copy()[::-1]}


@pytest.mark.quick(16)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["array", "few", "uncompressed", "weights", "missing"])
def test_the_same_bits_however_the_data_lie(kind, dtype, layout):
    data, options = KINDS["array" if kind == "few" else kind]
    data = data[:15] if kind == "few" else data  # fewer samples than features
    data = data.astype(dtype)
    other = LAYOUTS[layout](data)
    one, many = (fit_factor_model(x, RANKS, H, max_iter=20, **options) for x in (data, other))
    assert one.loglik == many.loglik
    for name in ("F", "D"):
        assert np.array_equal(getattr(one.covariance, name), getattr(many.covariance, name))
    assert np.array_equal(one.mean, many.mean)
    assert np.array_equal(one.score_samples(data), one.score_samples(other))
