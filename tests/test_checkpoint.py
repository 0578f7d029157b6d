"""Checkpoints: a fit that was cut ends where it would have ended; bad files are refused."""

import numpy as np
import pytest
import scipy.sparse as sp

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model
from mlrops.factor import checkpoint
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
    for name in ("mean", "loglik_trace", "boundary"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.covariance.F, expected.covariance.F)
    np.testing.assert_array_equal(found.covariance.D, expected.covariance.D)
    for name in ("loglik", "n_iter", "n_evaluations", "termination", "converged", "gradient_norm"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


# ---------------------------------------------------------------- cut and resumed

KINDS = {
    "accelerated": (Y, {}),
    "plain": (Y, {"optimizer": "em"}),
    "float32": (Y.astype(np.float32), {}),
    "missing cells": (GAPS, {"missing": "em"}),
    "missing cells, mean fixed": (GAPS - 1, {"missing": "em", "center": False}),
    "sparse": (sp.csr_array(Y), {}),
    "chunks": ([Y[:20], Y[20:]], {}),
    "weights": (Y, {"sample_weight": np.arange(60.0)}),
    "rank 0": (Y, {"ranks": (0, 0, 0)}),
    "random": (Y, {"init": "random", "random_state": 0, "tol": 1e-5}),
}


@pytest.mark.quick(3)
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


@pytest.fixture(scope="module")
def three_runs():
    calls = []
    full = fit(**RUNS, callback=lambda iterate: calls.append(iterate.n_iter))
    assert len(calls) > 60 and calls.count(0) == 3 and calls.index(0, 1) > 3
    return full, calls


RUNS = {"n_init": 3, "init": "random", "random_state": 5, "tol": 1e-5}


@pytest.mark.quick(5)
@pytest.mark.parametrize("run", [0, 1, 2])
@pytest.mark.parametrize("how, after", [
    (StopIteration, 1), (KeyboardInterrupt, 1), (KeyboardInterrupt, 5)])
def test_restarts_resume_within_any_run(run, how, after, three_runs, path):
    full, calls = three_runs
    at = [i for i, n_iter in enumerate(calls) if n_iter == 0][run] + after
    part = fit(**RUNS, checkpoint=path, callback=stop_after(at, how))
    assert part.termination == ("callback" if how is StopIteration else "interrupted")
    assert not part.converged
    same(fit(**RUNS, checkpoint=path, resume=True), full)


def test_a_stop_in_a_later_run_returns_the_best_of_all():
    first = fit()
    part = fit(n_init=3, random_state=5, callback=stop_after(first.n_iter + 3, KeyboardInterrupt))
    assert part.termination == "interrupted" and not part.converged
    assert part.loglik == first.loglik


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_how_often_it_is_written(path, monkeypatch):
    written = []

    def write(path, kind, meta, arrays):
        written.append(arrays["trace"].size - 1)
        write_archive(path, kind, meta, arrays)

    monkeypatch.setattr(checkpoint, "write_archive", write)
    full = fit(checkpoint=path, checkpoint_every=np.int64(10), checkpoint_seconds=None)
    end = full.n_iter
    assert end > 20 and written == [*range(0, end + 1, 10), *([end] if end % 10 else [end])]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=0)
    assert written == [*range(end + 1), end]
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=None)
    assert written == [0, end]
    written.clear()
    runs = fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, n_init=2,
               random_state=0, max_iter=25, tol=0, gtol=0)
    assert runs.n_iter == 25 and written == [0, 10, 20, 25] * 2
    written.clear()
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=5)
    fit(checkpoint=path, checkpoint_seconds=None, checkpoint_every=10, max_iter=17, resume=True)
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
    "acceleration": ({"optimizer": "em"}, "optimizer: bfgs there, em now"),
    "centring": ({"center": False}, "center: True there, False now"),
    "start": ({"init": "random"}, "init: principal_factor there, random now"),
    "restarts": ({"n_init": 2}, "n_init: 1 there, 2 now"),
    "floor": ({"variance_floor": 1e-3}, "variance_floor: 1e-06 there, 0.001 now"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_fits_are_refused(other, path):
    changed, message = OTHERS[other]
    fit(checkpoint=path)
    with pytest.raises(ValueError, match=message) as caught:
        fit(**changed, checkpoint=path, resume=True)
    assert str(path) in str(caught.value)


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
    ("S", lambda x: x[:, 1:]), ("Y", lambda x: x[1:]), ("Y", grown),
    ("SY", lambda x: x[1:, 1:]), ("S", None), ("F", None), ("trace", None),
    ("best_F", grown), ("best_D", lambda x: x[1:]), ("best_mean", grown), ("best_trace", None),
]


@pytest.mark.quick(6)
@pytest.mark.parametrize("name, change", ARRAYS)
def test_arrays_that_do_not_fit_the_model(name, change, path):
    options = {"n_init": 2, "random_state": 0, "checkpoint": path}
    fit(**options)
    meta, arrays = read_archive(path, KIND)
    arrays.pop(name) if change is None else arrays.update({name: change(arrays[name])})
    write_archive(path, KIND, meta, arrays)
    with pytest.raises(ValueError, match=f"{path}' is no checkpoint of this version: .*{name}"):
        fit(**options, resume=True)


def put(value, *keys):
    def change(meta):
        for key in keys[:-1]:
            meta = meta[key]
        meta[keys[-1]] = value

    return change


@pytest.mark.quick(8)
@pytest.mark.parametrize("change", [
    put(-1, "count"), put(2, "count"), put("9", "count"), put(True, "count"),
    put(None, "n_evaluations"), put(1, "exhausted"), put([], "restarts", "seeds"),
    put(["a", "b"], "restarts", "seeds"), put(2, "restarts", "number"),
    put(0, "restarts", "number"), put(None, "restarts", "best"), put({}, "restarts", "best"),
    put([1], "restarts", "best"), put(None, "restarts"), put([1], "identity"),
    lambda meta: meta.pop("count"), lambda meta: meta.pop("identity"),
])
def test_entries_that_do_not_fit_the_model(change, path):
    options = {"n_init": 2, "random_state": 0, "checkpoint": path}
    fit(**options)
    meta, arrays = read_archive(path, KIND)
    change(meta)
    write_archive(path, KIND, meta, arrays)
    with pytest.raises(ValueError, match=str(path)):
        fit(**options, resume=True)


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
