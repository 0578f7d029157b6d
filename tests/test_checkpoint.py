"""Checkpoints: a fit that was cut ends where it would have ended; bad files are refused."""

import numpy as np
import pytest
import scipy.sparse as sp

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.factor import checkpoint, climb
from mlrops.factor.checkpoint import KIND
from mlrops.io.archive import read_archive, remove_leftovers, write_archive

RANKS = (2, 1, 1)


def problem(N=60, n=24, seed=3):
    """A permuted tree and samples of a model on it."""
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(n), [[0, n], [0, n // 3, n], [0, 3, n // 3, n // 2, n]])
    A = MLR(h, [rng.standard_normal((n, r)) for r in RANKS], rng.uniform(0.5, 1.5, n))
    return h, A.sample(N, random_state=seed) + rng.standard_normal(n)


H, Y = problem()
GAPS = np.where(np.random.default_rng(1).random(Y.shape) < 0.1, np.nan, Y)


def fit(data=Y, **options):
    options = {"tol": 1e-7, **options}
    return fit_factor_model(data, options.pop("ranks", RANKS), options.pop("h", H), **options)


def same(found, expected):
    """Every number of two results, bit for bit."""
    for name in ("mean", "loglik_trace", "objective_trace", "boundary"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.covariance.F, expected.covariance.F)
    np.testing.assert_array_equal(found.covariance.D, expected.covariance.D)
    for name in ("loglik", "n_iter", "n_evaluations", "termination", "converged", "gradient_norm",
                 "optimizer", "prior"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


@pytest.fixture
def short_heats(monkeypatch):
    """Heats so short that there is something left for the finals."""
    monkeypatch.setattr(climb, "HEAT", 5)


# ---------------------------------------------------------------- cut and resumed

KINDS = {
    "scoring": (Y, {"optimizer": "scoring"}),
    "bfgs": (Y, {"optimizer": "bfgs"}),
    "plain": (Y, {"optimizer": "em"}),
    "scoring, a prior": (Y, {"optimizer": "scoring", "prior": True}),
    "bfgs, a prior": (Y, {"optimizer": "bfgs", "prior": 3.0, "prior_variance": 2.0}),
    "plain, a prior": (Y, {"optimizer": "em", "prior": True}),
    "float32": (Y.astype(np.float32), {}),
    "missing cells": (GAPS, {"missing": "em"}),
    "missing cells, bfgs": (GAPS, {"missing": "em", "optimizer": "bfgs"}),
    "missing cells, mean fixed": (GAPS - 1, {"missing": "em", "center": False}),
    "sparse": (sp.csr_array(Y), {}),
    "chunks": ([Y[:20], Y[20:]], {}),
    "weights": (Y, {"sample_weight": np.arange(60.0)}),
    "rank 0": (Y, {"ranks": (0, 0, 0)}),
    "random": (Y, {"init": "random", "random_state": 0, "tol": 1e-5}),
    "stopped by what is felt": (Y, {"tol": None}),
}


@pytest.mark.quick(7)
@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_a_cut(kind, path):
    data, options = KINDS[kind]
    full = fit(data, **options)
    assert full.converged
    for cut in (0, 1, 4, max(full.n_iter - 1, 0)):  # every cut goes on from the last
        part = fit(data, **options, max_iter=cut, checkpoint=path, resume=True)
        assert part.n_iter == min(cut, full.n_iter)
    same(fit(data, **options, checkpoint=path, resume=True), full)
    same(fit(data, **options, checkpoint=path, resume=True), full)  # finished, and again
    same(fit(data, **options, checkpoint=path), full)  # not resumed: from the start
    same(fit(data, **options, checkpoint=str(path), max_iter=10**6, resume=True), full)


def test_resume_without_a_file_begins(path):
    same(fit(checkpoint=path, resume=True), fit())
    assert path.exists()


def test_resume_needs_a_path():
    with pytest.raises(ValueError, match="checkpoint=path"):
        fit(resume=True)


def stop_after(calls, how=StopIteration):
    """A callback that stops the fit at its call number `calls`."""
    def callback(iterate):
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise how

    return callback


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_how_often_it_is_written(path, monkeypatch):
    written = []

    def write(path, kind, meta, arrays):
        written.append(arrays["trace"].size - 1)
        write_archive(path, kind, meta, arrays)

    monkeypatch.setattr(checkpoint, "write_archive", write)
    options = {"optimizer": "bfgs"}
    full = fit(checkpoint=path, checkpoint_every=np.int64(10), checkpoint_seconds=None, **options)
    end = full.n_iter
    assert end > 20 and written == [*range(0, end + 1, 10), *([end] if end % 10 else [end])]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=0, **options)
    assert written == [*range(end + 1), end]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=None, **options)
    assert written == [0, end]
    written.clear()
    monkeypatch.setattr(climb, "HEAT", 25)
    runs = fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, n_init=2,
               random_state=0, max_iter=40, tol=0, gtol=0, **options)
    # Two heats, and the finals that go on from them.
    assert runs.n_iter == 40 and written == [0, 10, 20, 25] * 2 + [25, 35, 40] * 2
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=5, **options)
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=17, resume=True,
        **options)
    assert written == [0, 5, 15, 17]


def test_a_folder_that_is_not_there_is_told_before_the_fit(tmp_path):
    calls = []
    with pytest.raises(FileNotFoundError):
        fit(checkpoint=tmp_path / "no" / "fit.npz", callback=calls.append)
    assert not calls


def test_progress_of_a_resumed_fit(path, capsys):
    with pytest.warns(ConvergenceWarning, match="4 updates"):
        fit(checkpoint=path, max_iter=4)
    with pytest.warns(ConvergenceWarning, match="9 updates"):
        fit(checkpoint=path, max_iter=9, resume=True, progress=True)
    assert "9/9" in capsys.readouterr().err


def test_random_states_are_advanced_once():
    one, other = np.random.default_rng(4), np.random.default_rng(4)
    fit(random_state=one, tol=0.9)
    fit(random_state=other, tol=1e-4)
    assert one.integers(2**60) == other.integers(2**60)


# ---------------------------------------------------------------- other fits, damaged files


def far_digit(x):
    """Data that differ in the last digits of one number, as far as centring leaves them."""
    x = x.copy()
    x[-1, -1] += 8 * np.spacing(np.abs(x[:, -1]).max())
    return x


OTHERS = {
    "data, a far digit": ({"data": far_digit(Y)}, "data: "),
    "data, one column in another order": (
        {"data": np.column_stack([np.sort(Y[:, 0]), Y[:, 1:]])}, "data: "),
    "samples": ({"data": Y[:-1]}, "60 samples of 24 features there, 59 samples"),
    "dtype": ({"data": Y.astype(np.float32)}, "dtype: float64 there, float32 now"),
    "weights": ({"sample_weight": np.arange(60.0) + 1}, "data: "),
    "ranks": ({"ranks": (1, 1, 1)}, r"ranks: \(2, 1, 1\) there, \(1, 1, 1\) now"),
    "hierarchy": ({"h": problem(seed=1)[0]}, "hierarchy: "),
    "optimizer": ({"optimizer": "em"}, "optimizer: scoring there, em now"),
    "another optimizer": ({"optimizer": "bfgs"}, "optimizer: scoring there, bfgs now"),
    "prior": ({"prior": 2.0}, "prior: None there, strength 2.0, variances .* now"),
    "centring": ({"center": False}, "center: True there, False now"),
    "start": ({"init": "random"}, "init: principal_factor there, random now"),
    "restarts": ({"n_init": 2}, "n_init: 1 there, 2 now"),
    "floor": ({"variance_floor": 1e-3}, "variance_floor: 1e-06 there, 0.001 now"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_fits_are_refused(other, path):
    changed, message = OTHERS[other]
    fit(checkpoint=path, optimizer="scoring")
    with pytest.raises(ValueError, match=message) as caught:
        fit(**{"optimizer": "scoring", **changed}, checkpoint=path, resume=True)
    assert str(path) in str(caught.value)


def test_other_priors_are_refused(path):
    one = {"prior": 2.0, "prior_variance": 1.0}
    fit(**one, checkpoint=path)
    same(fit(**one, checkpoint=path, resume=True), fit(**one))
    for other in ({}, {"prior": 2.0}, {"prior": 1.0, "prior_variance": 1.0},
                  {"prior": 2.0, "prior_variance": np.linspace(1, 2, 24)}):
        with pytest.raises(ValueError, match="another fit.*prior: strength 2.0"):
            fit(**other, checkpoint=path, resume=True)


def test_the_optimizer_that_auto_chose_may_be_named(path):
    full = fit()
    assert full.optimizer == "scoring"
    fit(checkpoint=path, callback=stop_after(4))
    same(fit(checkpoint=path, resume=True, optimizer="scoring"), full)


@pytest.mark.parametrize("data", [sp.csr_array(Y), [Y]], ids=["sparse", "chunks"])
def test_other_data_are_refused_that_never_sit_in_memory(data, path):
    changed = np.column_stack([np.sort(Y[:, 0]), Y[:, 1:]])
    fit(data, checkpoint=path)
    with pytest.raises(ValueError, match="another fit.*data: "):
        fit(type(data)([changed] if isinstance(data, list) else changed), checkpoint=path,
            resume=True)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, lambda x: [x]],
                         ids=["array", "sparse", "chunks"])
def test_data_of_the_same_moments_are_told_apart(form, path):
    """Whole numbers, one column in another order: means and variances are equal to the bit."""
    Z = np.random.default_rng(0).integers(-9, 10, (40, 24)).astype(float)
    other = np.column_stack([np.sort(Z[:, 0]), Z[:, 1:]])
    options = {"center": False, "checkpoint": path, "tol": 0.9}
    if form is np.asarray:
        options["compress"] = False
    fit(form(Z), **options)
    fit(form(Z), **options, resume=True)
    with pytest.raises(ValueError, match=r"another fit \(data: \w+ there, \w+ now\)"):
        fit(form(other), **options, resume=True)


def test_other_starts_and_seeds_are_refused(path):
    one, other = (MLR(H, [np.full((24, r), x) for r in RANKS], np.ones(24)) for x in (0.1, 0.2))
    fit(init=one, checkpoint=path)
    same(fit(init=one, checkpoint=path, resume=True), fit(init=one))
    with pytest.raises(ValueError, match="init: operator .* there, operator .* now"):
        fit(init=other, checkpoint=path, resume=True)
    fit(init="random", random_state=1, checkpoint=path)
    with pytest.raises(ValueError, match="random_state: 1 there, 2 now"):
        fit(init="random", random_state=2, checkpoint=path, resume=True)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_runs_that_are_over_cannot_be_cut_elsewhere(path):
    fit(n_init=2, random_state=0, max_iter=4, checkpoint=path)
    with pytest.raises(ValueError, match="max_iter: 4 there, 9 now"):
        fit(n_init=2, random_state=0, max_iter=9, checkpoint=path, resume=True)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other kind"])
def test_damaged_files(damage, path):
    fit(checkpoint=path)
    content = bytearray(path.read_bytes())
    if damage == "other kind":
        write_archive(path, "MLR", {}, {})
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes({"empty": b"", "text": b"checkpoint", "cut": content[:-200],
                          "flipped": content}[damage])
    with pytest.raises(ValueError, match=f"cannot read '{path}'"):
        fit(checkpoint=path, resume=True)


def grown(x):
    return np.concatenate([x, x[-1:]])


ARRAYS = [
    ("F", grown), ("F", lambda x: x.T), ("F", lambda x: x.astype(np.float32)),
    ("F", lambda x: x + np.nan), ("D", grown), ("D", lambda x: -x), ("D", lambda x: x * np.inf),
    ("D", lambda x: x[:, None]), ("mean", grown), ("mean", lambda x: x > 0),
    ("trace", lambda x: x[:0]), ("trace", lambda x: x[None]), ("trace", lambda x: x * np.nan),
    ("logliks", grown), ("logliks", None), ("damping", None), ("damping", lambda x: -x),
    ("damping", lambda x: x + np.nan), ("damping", lambda x: x[None]),
    ("S", lambda x: x[:, 1:]), ("Y", lambda x: x[1:]), ("Y", grown),
    ("SY", lambda x: x[1:, 1:]), ("S", None), ("F", None), ("trace", None),
    ("count", None), ("count", lambda x: x - 10**6), ("count", lambda x: 0 * x),
    ("count", lambda x: x * np.inf), ("count", lambda x: x[None]),
    ("first_F", grown), ("first_D", lambda x: x[1:]), ("first_mean", grown),
    ("first_trace", None), ("first_damping", lambda x: -x), ("second_D", lambda x: -x),
    ("second_SY", None), ("second_logliks", lambda x: x[1:]), ("second_S", grown),
]
IN_A_FINAL = {"n_init": 2, "random_state": 0, "optimizer": "scoring"}


@pytest.mark.quick(12)
@pytest.mark.parametrize("name, change", ARRAYS)
def test_arrays_that_do_not_fit_the_model(name, change, path, short_heats):
    fit(**IN_A_FINAL, checkpoint=path, callback=final_of(2))
    meta, arrays = read_archive(path, KIND)
    assert len(meta["climbs"]) == 3
    arrays.pop(name) if change is None else arrays.update(
        {name: np.asarray(change(arrays[name]))})
    write_archive(path, KIND, meta, arrays)
    what = "(count|S|Y)" if name == "count" else name.split("_")[-1]
    message = rf"{path}' is no checkpoint of this version: .*{what}\b"
    with pytest.raises(ValueError, match=message):
        fit(**IN_A_FINAL, checkpoint=path, resume=True)


def final_of(heats):
    """A callback that stops the fit two updates into the first final."""
    seen = []

    def callback(iterate):
        seen.append(iterate.n_iter)
        if seen.count(0) == heats and seen[-1] == climb.HEAT + 2:
            raise StopIteration

    return callback


def put(value, *keys):
    def change(meta):
        for key in keys[:-1]:
            meta = meta[key]
        meta[keys[-1]] = value

    return change


def pop(*keys):
    def change(meta):
        for key in keys[:-1]:
            meta = meta[key]
        meta.pop(keys[-1])

    return change


@pytest.mark.quick(14)
@pytest.mark.parametrize("change", [
    put([], "seeds"), put(["a", "b"], "seeds"), put([1], "seeds"), put([-1, 2], "seeds"),
    put(None, "seeds"), put(0, "number"), put(1, "number"), put(4, "number"), put(-1, "number"),
    put(True, "number"), put("2", "number"), put(None, "climbs"), put([], "climbs"),
    put({}, "climbs"), put([1, 2, 3], "climbs"), pop("climbs", 2), pop("climbs", 0),
    put(None, "climbs", 0, "n_evaluations"), put(-1, "climbs", 1, "n_evaluations"),
    put(1, "climbs", 2, "exhausted"), put(None, "climbs", 0, "gradient_norm"),
    put(3, "climbs", 1, "termination"), put(0, "climbs", 1, "more"),
    pop("climbs", 0, "termination"), pop("seeds"), pop("number"), pop("climbs"), pop("identity"),
    put([1], "identity"), put({}, "identity"), put("3", "identity", "n_init"),
])
def test_entries_that_do_not_fit_the_model(change, path, short_heats):
    fit(**IN_A_FINAL, checkpoint=path, callback=final_of(2))
    meta, arrays = read_archive(path, KIND)
    assert meta["number"] == 2
    change(meta)
    write_archive(path, KIND, meta, arrays)
    with pytest.raises(ValueError, match=str(path)):
        fit(**IN_A_FINAL, checkpoint=path, resume=True)


@pytest.mark.parametrize("options, error, message", [
    ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
    ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every must be an integer"),
    ({"checkpoint_seconds": -1.0}, ValueError, "checkpoint_seconds must not be negative"),
    ({"checkpoint_seconds": np.nan}, ValueError, "checkpoint_seconds must not be negative"),
])
def test_bad_times(options, error, message, path):
    with pytest.raises(error, match=message):
        fit(checkpoint=path, **options)


def test_leftovers_of_killed_writers(tmp_path):
    path, long = tmp_path / "fit.npz", tmp_path / ("a" * 41)
    mine = tmp_path / ".fit.npz.0123456789ab.tmp"
    others = [tmp_path / name for name in (
        ".fit.npz.tmp", ".other.npz.0123456789ab.tmp", ".fit.npz.0123456789ab.tmp.npz",
        "fit.npz.0123456789ab.tmp", f".{'a' * 40}.0123456789ab.tmp")]
    for file in (mine, *others):
        file.write_text("half")
    fit(checkpoint=path, tol=0.9)
    remove_leftovers(long)
    assert not mine.exists() and all(file.exists() for file in others)
