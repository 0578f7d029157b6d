"""The data that ships, value by value, and the simulators, by the laws they draw from."""

import copy
import hashlib
import pickle
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops.datasets import load_french, load_grunfeld, simulate_factor_model, simulate_mlr
from mlrops.tree.hierarchy import Hierarchy

# ---------------------------------------------------------------- the French portfolios

INDUSTRIES = "NoDur Durbl Manuf Enrgy Chems BusEq Telcm Utils Shops Hlth Money Other".split()


def digest(x):
    """A checksum of exact values, whatever the byte order of the machine."""
    return hashlib.sha256(np.ascontiguousarray(x, dtype="<f8").tobytes()).hexdigest()[:16]


def test_french_shapes_and_names():
    french = load_french()
    assert french.returns.shape == (819, 30) and french.returns.dtype == np.float64
    assert french.factors.shape == (819, 5)
    assert french.returns.flags.c_contiguous and french.factors.flags.c_contiguous
    assert french.factor_names == ("MktRF", "SMB", "HML", "Mom", "RF")
    assert list(french.names[:12]) == INDUSTRIES
    sorts = [f"S{s}{sort}{k}" for sort in "VM" for s in (1, 3, 5) for k in (1, 3, 5)]
    assert list(french.names[12:]) == sorts
    assert french.dates.dtype == np.dtype("datetime64[M]")
    assert (french.dates == np.arange("1949-01", "2017-04", dtype="datetime64[M]")).all()
    assert repr(french).startswith("<French portfolio returns: 819 months from 1949-01 to 2017-03")


def test_french_values():
    french = load_french()

    def value(name, month):
        table = np.hstack([french.factors, french.returns])
        column = (french.factor_names + french.names).index(name)
        return table[np.flatnonzero(french.dates == np.datetime64(month))[0], column]

    known = [
        ("NoDur", "1949-01", 3.67),
        ("S5M5", "1949-01", -2.21),
        ("MktRF", "1949-01", 0.23),
        ("RF", "1949-01", 0.10),
        ("S1V1", "2017-03", 1.95),
        ("RF", "2017-03", 0.03),
        ("S5M5", "2017-03", -1.07),
    ]
    for name, month, percent in known:
        assert value(name, month) == percent / 100
    assert np.isfinite(french.returns).all() and np.isfinite(french.factors).all()
    assert digest(french.returns) == "a5ccb7fe0e42f93c"
    assert digest(french.factors) == "b132a8d1f8a29a15"


def test_french_excess_returns():
    french = load_french()
    assert np.array_equal(french.excess, french.returns - french.factors[:, 4:])
    assert french.excess[0, 0] == pytest.approx(0.0357)
    # what the market factor means: the portfolios rise and fall with it
    for i in range(30):
        assert np.corrcoef(french.excess[:, i], french.factors[:, 0])[0, 1] > 0.5


def test_french_tree():
    french = load_french()
    h = french.hierarchy
    assert h.group_counts == (1, 3, 7)
    assert h.names(0) is None
    assert h.names(1) == ("industry", "size-momentum", "size-value")
    assert h.names(2) == (
        "industry",
        *(f"S{s} {sort}" for sort in ("momentum", "value") for s in (1, 3, 5)),
    )
    for i, name in enumerate(french.names):
        family, group = h.names(1)[h.labels(1)[i]], h.names(2)[h.labels(2)[i]]
        if name in INDUSTRIES:
            assert family == group == "industry"
        else:
            sort = {"V": "value", "M": "momentum"}[name[2]]
            assert (family, group) == (f"size-{sort}", f"S{name[1]} {sort}")
    assert h.group_sizes(2).tolist() == [12, 3, 3, 3, 3, 3, 3]


def test_french_is_frozen_and_new_each_time():
    french = load_french()
    with pytest.raises(AttributeError):
        french.returns = None
    french.returns[:] = 0
    assert load_french().returns[0, 0] != 0
    assert np.array_equal(pickle.loads(pickle.dumps(load_french())).returns, load_french().returns)
    assert copy.copy(french).hierarchy is french.hierarchy


def test_french_frame_is_that_of_linearmodels():
    pd = pytest.importorskip("pandas")
    source = pytest.importorskip("linearmodels.datasets.french")
    french, theirs = load_french(), source.load()
    # Its files have 16 decimals, which not all versions read back to the last bit.
    pd.testing.assert_frame_equal(french.to_frame(), theirs, rtol=0, atol=1e-15)
    for ours, names in ((french.returns, french.names), (french.factors, french.factor_names)):
        np.testing.assert_allclose(ours, theirs[list(names)].to_numpy(), rtol=0, atol=1e-15)


def test_french_frame():
    pytest.importorskip("pandas")
    french = load_french()
    frame = french.to_frame()
    assert frame.shape == (819, 36)
    assert list(frame.columns) == ["dates", *french.factor_names, *french.names]
    assert str(frame["dates"].iloc[-1]) == "2017-03-01 00:00:00"


# ---------------------------------------------------------------- Grunfeld


def test_grunfeld_values():
    panel = load_grunfeld()
    for variable in (panel.invest, panel.value, panel.capital):
        assert variable.shape == (20, 11) and variable.flags.c_contiguous
        assert variable.dtype == np.float64 and (variable > 0).all()
    assert panel.years.tolist() == list(range(1935, 1955))
    assert panel.firms == (
        "General Motors", "US Steel", "General Electric", "Chrysler", "Atlantic Refining", "IBM",
        "Union Oil", "Westinghouse", "Goodyear", "Diamond Match", "American Steel",
    )  # fmt: skip
    assert (panel.invest[0, 0], panel.value[0, 0], panel.capital[0, 0]) == (317.6, 3078.5, 2.8)
    assert (panel.invest[3, 0], panel.invest[6, 0]) == (257.7, 512.0)
    assert [digest(x) for x in (panel.invest, panel.value, panel.capital)] == [
        "ce3d07f4d77319df",
        "0781988c14c81c3c",
        "1c28ae402ea60430",
    ]
    with pytest.raises(AttributeError):
        panel.invest = None


def test_grunfeld_frame_is_that_of_statsmodels():
    pd = pytest.importorskip("pandas")
    source = pytest.importorskip("statsmodels.datasets.grunfeld")
    theirs = source.load_pandas().data
    pd.testing.assert_frame_equal(load_grunfeld().to_frame(), theirs, check_exact=True)


# ---------------------------------------------------------------- what ships beside the data


def test_every_data_file_states_its_source_and_licence():
    data = resources.files("mlrops.datasets").joinpath("data")
    files = {file.name for file in data.iterdir()}
    assert files == {"about.json", "french.csv.gz", "french.txt", "grunfeld.csv", "grunfeld.txt"}
    assert len(data.joinpath("french.csv.gz").read_bytes()) < 60_000
    french = data.joinpath("french.txt").read_text(encoding="ascii")
    for phrase in (
        "Kenneth R. French's data library",
        "Copyright (c) 2017 Kevin Sheppard",
        "Redistributions in binary form must reproduce the above copyright",
        'THE SOFTWARE IS PROVIDED "AS IS"',
    ):
        assert phrase in french
    assert "Public domain" in data.joinpath("grunfeld.txt").read_text(encoding="ascii")
    assert "2017 Kevin Sheppard" in load_french().license
    assert load_grunfeld().license == "public domain"
    for data_set in (load_french(), load_grunfeld()):
        assert data_set.description and data_set.source


def test_importing_and_loading_needs_no_pandas():
    script = (
        "import sys; sys.modules['pandas'] = None\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "import mlrops.datasets\n"
        "assert not [f for f in opened if f.endswith(('.csv', '.gz'))]\n"
        "mlrops.datasets.load_french().excess, mlrops.datasets.load_grunfeld()\n"
        "assert [f for f in opened if f.endswith('.gz')]\n"
    )
    root = Path(mlrops.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


# ---------------------------------------------------------------- the simulators


def shuffled_tree():
    """27 features in unequal groups, in no order."""
    rng = np.random.default_rng(3)
    fine = rng.permutation(np.repeat(range(6), [1, 2, 3, 5, 7, 9]))
    return Hierarchy.from_labels(np.array([0, 0, 1, 1, 1, 2])[fine], fine)


def test_data_is_factors_times_scores_plus_noise():
    h = shuffled_tree()
    data = simulate_mlr(h, [2, 0, 3], 50, noise=1e-20, mean=np.arange(27.0), random_state=1)
    assert [z.shape for z in data.scores] == [(50, 1, 2), (50, 3, 0), (50, 6, 3)]
    expected = np.tile(data.mean, (50, 1))
    for level, z in enumerate(data.scores):
        for i, group in enumerate(h.labels(level)):
            expected[:, i] += z[:, group] @ data.covariance.factors[level][i]
    assert np.abs(data.Y - expected).max() < 1e-8
    assert np.array_equal(data.mean, np.arange(27.0))


def test_covariance_is_the_sum_of_the_levels():
    h = shuffled_tree()
    A = simulate_mlr(h, [2, 1, 1], 1, random_state=1).covariance
    dense = np.diag(A.D)
    for level, F in enumerate(A.factors):
        same = h.labels(level)[:, None] == h.labels(level)
        dense = dense + np.where(same, F @ F.T, 0)
    assert A.hierarchy is h and A.ranks == (2, 1, 1)
    assert np.allclose(A.toarray(), dense, rtol=1e-13, atol=1e-14)


@pytest.mark.slow
def test_sample_covariance_converges_to_the_true_one():
    h = shuffled_tree()
    errors = []
    for N in (2_000, 200_000):
        data = simulate_mlr(h, [2, 1, 1], N, noise=0.5, mean=3.0, random_state=7)
        true = data.covariance.toarray()
        sample = np.cov(data.Y.T)
        spread = np.sqrt((np.outer(np.diag(true), np.diag(true)) + true**2) / N)
        assert np.abs((sample - true) / spread).max() < 5  # standard errors, over 378 entries
        assert np.abs((data.Y.mean(axis=0) - 3) / np.sqrt(np.diag(true) / N)).max() < 5
        errors.append(np.linalg.norm(sample - true))
    assert errors[1] < errors[0] / 5  # ten times less, as 1/sqrt(N)


def test_levels_and_noise_have_the_stated_size():
    data = simulate_mlr(Hierarchy.balanced(20_000, [1, 10]), [3, 2], 1, noise=0.2, random_state=0)
    for F in data.covariance.factors:
        assert np.square(F).sum(axis=1).mean() == pytest.approx(1, rel=0.05)
    D = data.covariance.D
    assert D.mean() == pytest.approx(0.2, rel=0.02) and D.min() >= 0.1 and D.max() <= 0.3
    noise = np.linspace(1, 2, 9)
    assert np.array_equal(simulate_factor_model(9, 2, 1, noise=noise).covariance.D, noise)
    assert simulate_factor_model(1, 1, 1, noise=[0.7]).covariance.D == [0.7]


def test_seeds():
    h = Hierarchy.balanced(12, [1, 3])

    def draw(seed, N=20):
        return simulate_mlr(h, [1, 1], N, random_state=seed)

    assert np.array_equal(draw(5).Y, draw(5).Y)
    assert np.array_equal(draw(5).Y, draw(np.random.default_rng(5)).Y)
    assert not np.array_equal(draw(5).Y, draw(6).Y)
    assert not np.array_equal(draw(None).Y, draw(None).Y)
    legacy = [draw(np.random.RandomState(5)).Y for _ in range(2)]
    assert np.array_equal(*legacy)
    # the model belongs to the seed, not to the number of samples
    assert np.array_equal(draw(5).covariance.F, draw(5, N=3).covariance.F)
    assert np.array_equal(draw(5).covariance.D, draw(5, N=3).covariance.D)


def test_float32_is_float64_rounded():
    h = shuffled_tree()
    single, double = (
        simulate_mlr(h, [2, 1, 1], 40, mean=1.0, dtype=dtype, random_state=2)
        for dtype in (np.float32, "float64")
    )
    for x in (single.Y, single.mean, single.covariance, *single.scores):
        assert x.dtype == np.float32
    assert double.Y.dtype == double.covariance.dtype == np.float64
    assert np.abs(single.Y - double.Y).max() < 1e-5
    assert single.Y.flags.c_contiguous


def test_factor_model_is_the_flat_tree():
    data = simulate_factor_model(8, 3, 10, noise=0.3, random_state=4)
    same = simulate_mlr(Hierarchy.flat(8), [3], 10, noise=0.3, random_state=4)
    assert np.array_equal(data.Y, same.Y)
    assert data.covariance.hierarchy == Hierarchy.flat(8)
    assert repr(data).startswith("<Simulation of 10 samples of 8 features, float64; <8x8 MLR")


def test_many_features_need_no_dense_matrix():
    n = 200_000  # n x n would be 320 GB
    data = simulate_mlr(Hierarchy.balanced(n, [1, 100, 20_000]), [2, 1, 1], 5, random_state=0)
    assert data.Y.shape == (5, n) and np.isfinite(data.Y).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"ranks": [1]}, ValueError, "ranks must have 2 entries, one a level, got 1"),
        ({"ranks": [1, -1]}, ValueError, "rank of level 1 must be non-negative, got -1"),
        ({"ranks": [1, 1.5]}, TypeError, "rank of level 1 must be an integer, got 1.5"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, got 0"),
        ({"n_samples": 2.5}, TypeError, "n_samples must be an integer, got 2.5"),
        ({"noise": 0}, ValueError, "noise must be positive, got 0"),
        ({"noise": [1, 1, -2, 1]}, ValueError, "noise must be positive, got -2 at feature 2"),
        ({"noise": [1, 1]}, ValueError, r"noise must have shape \(4,\), got \(2,\)"),
        ({"noise": np.nan}, ValueError, "noise must be finite"),
        ({"mean": [1, 2]}, ValueError, r"mean must be a number or have shape \(4,\), got \(2,\)"),
        ({"mean": np.inf}, ValueError, "mean must be finite"),
        ({"dtype": int}, TypeError, "dtype must be float64 or float32, got int64"),
        ({"hierarchy": [0, 4]}, TypeError, "hierarchy must be a Hierarchy, got list"),
    ],
)
def test_simulate_refuses(change, error, message):
    arguments = {"hierarchy": Hierarchy.balanced(4, [1, 2]), "ranks": [1, 1], "n_samples": 3}
    with pytest.raises(error, match=message):
        simulate_mlr(**{**arguments, **change})
