"""Matrices nobody forms: functions of indices and kernels of points, fitted to samples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from paired_trees import example, pairs

import mlrops
from mlrops import GeneralMLR, Hierarchy, allocate_ranks, fit_mlr, partition_points
from mlrops.__main__ import main
from mlrops._common.radial import KERNELS, radial
from mlrops.datasets import hierarchical_matrix, sphere_kernel
from mlrops.fitting.blocks import DenseBlocks
from mlrops.fitting.entries import Entries
from mlrops.fitting.pairs import GroupPairs
from mlrops.fitting.sampled import SampledBlocks
from mlrops.fitting.search import State
from mlrops.fitting.unformed import target_of
from mlrops.io.archive import read_archive, write_archive


def relative_error(A, fit):
    return np.linalg.norm(A - fit.operator.toarray()) / np.linalg.norm(A)


def of(A):
    return lambda i, j: A[np.ix_(i, j)]


def points(n, d=2, seed=0):
    return np.random.default_rng(seed).random((n, d))


def blocks_of(A, rows, cols, samples, seed=0, symmetric=False):
    target = GroupPairs(rows, cols)
    return target, SampledBlocks(Entries(of(A), rows, cols), target, symmetric, samples,
                                 np.random.default_rng(seed))


def normal(blocks, pairs, fixed, rng):
    """Products and Gram matrices of the leaves, for two columns a level."""
    parts = [np.pad(rng.standard_normal((getattr(pairs, fixed).n, 2)), ((0, 1), (0, 0)))
             for _ in range(pairs.n_levels)]
    Y, grams = blocks.normal(parts, fixed)
    return Y[:-1], grams.products(np.ones(2 * pairs.n_levels, bool))[0]


# ---------------------------------------------------------------- what is sampled


@given(pairs())
def test_large_samples_are_the_matrix(drawn):
    rows, cols, rng = drawn
    A = rng.standard_normal((rows.n, cols.n))
    trees, blocks = blocks_of(A, rows, cols, 1000)
    whole = DenseBlocks(A, trees, A.dtype)
    assert blocks.squared_norm == pytest.approx(whole.squared_norm)
    for fixed in ("rows", "cols"):
        seed = int(rng.integers(2**32))
        for got, expected in zip(*(normal(x, trees, fixed, np.random.default_rng(seed))
                                   for x in (blocks, whole)), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_samples_are_unbiased(symmetric):
    rng = np.random.default_rng(0)
    rows = Hierarchy(rng.permutation(60), [[0, 60], [0, 25, 60], [0, 10, 25, 45, 46, 60]])
    cols = rows if symmetric else Hierarchy(
        rng.permutation(50), [[0, 50], [0, 30, 50], [0, 1, 30, 38, 45, 50]])
    A = rng.standard_normal((60, cols.n))
    A = A + A.T if symmetric else A
    found = [blocks_of(A, rows, cols, 6, seed, symmetric) for seed in range(400)]
    pairs, whole = found[0][0], DenseBlocks(A, found[0][0], A.dtype)
    for fixed in ("rows", "cols"):
        draws = [normal(x, pairs, fixed, np.random.default_rng(1)) for _, x in found]
        for k, expected in enumerate(normal(whole, pairs, fixed, np.random.default_rng(1))):
            got = np.array([x[k] for x in draws])
            se = got.std(axis=0) / np.sqrt(len(got))
            assert (np.abs(got.mean(axis=0) - expected) <= 5 * se + 1e-10).all()
            assert se.max() > 0
    norms = np.array([x.squared_norm for _, x in found])
    assert abs(norms.mean() - whole.squared_norm) < 4 * norms.std() / np.sqrt(norms.size)


def test_few_entries_are_read():
    X, read = points(4000), []

    def entries(i, j):
        read.append(i.size * j.size)
        return radial("gaussian", 0.2, X[i], X[j])

    tree, _ = partition_points(X, None, 7)
    fit = fit_mlr(None, (3, 2, 0, 0, 0, 0, 0), tree, entries=entries, samples=16, symmetric=True,
                  max_iter=2, random_state=0)
    held_out = 512 * 4000
    assert sum(read) < 4000 * (6 * 16 + 63) + 2 * 64**2 + held_out + 1
    assert fit.operator.symmetric and fit.held_out_se > 0


# ---------------------------------------------------------------- fits


def test_small_functions_are_fitted_as_the_whole_matrix():
    A, rows, cols = hierarchical_matrix(60, 45, [1, 3, 9], [2, 1, 1], noise=0.1, random_state=0)
    for fit, size in ((allocate_ranks, 5), (fit_mlr, (2, 1, 1))):
        found = fit(None, size, rows, cols, entries=of(A), random_state=0)
        expected = fit(A, size, rows, cols, random_state=0)
        np.testing.assert_array_equal(found.operator.B, expected.operator.B)
        np.testing.assert_array_equal(found.objective_trace, expected.objective_trace)
        assert found.held_out_error is None and found.held_out_se is None
    X = points(80)
    found = allocate_ranks(None, 5, points=X, kernel="matern32", scale=0.3, random_state=0)
    tree = found.operator.rows
    expected = allocate_ranks(radial("matern32", 0.3, X, X), 5, tree, random_state=0)
    assert found.operator.symmetric and found.ranks == expected.ranks
    np.testing.assert_array_equal(found.operator.B, expected.operator.B)


def test_errors_of_samples_are_near_those_of_the_whole_matrix():
    X = points(1500)
    fit = allocate_ranks(None, 12, points=X, kernel="gaussian", scale=0.2, random_state=0)
    A = radial("gaussian", 0.2, X, X)
    whole = allocate_ranks(A, 12, fit.operator.rows, random_state=0)
    true = relative_error(A, fit)
    assert fit.operator.symmetric and sum(fit.ranks) == 12
    assert true < 1.15 * whole.error
    assert abs(fit.error - true) < 5 * fit.held_out_se < 0.3 * true
    assert fit.error == fit.held_out_error > fit.objective_trace[-1]
    assert (np.diff(fit.objective_trace) <= 0).all() and len(fit.history) == fit.times.size
    assert f"held-out error {fit.error:.3g} ± {fit.held_out_se:.1g}" in repr(fit)
    text = fit.summary()
    assert f"Held-out relative error {fit.error:>14.4g}"[:24] in text and "standard error" in text
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.quick(1)
@pytest.mark.parametrize("options", [{"start": "top"}, {"start": "uniform"}, {"start": "bottom"}],
                         ids=str)
def test_symmetric_ends_are_no_worse(options):
    X = points(2000)
    fits = [allocate_ranks(None, 12, points=X, kernel="gaussian", scale=0.2, symmetric=symmetric,
                           random_state=0, **options) for symmetric in (True, False)]
    assert fits[0].operator.symmetric and not fits[1].operator.symmetric
    assert fits[0].error < 1.1 * fits[1].error


@pytest.mark.parametrize("symmetric", [True, False])
def test_held_out_rows_that_are_all_rows_give_the_error(symmetric):
    X = points(500)
    A = radial("exponential", 0.3, X, X)
    tree, _ = partition_points(X, None, 4)
    fit = fit_mlr(None, (3, 1, 1, 0), tree, entries=of(A), samples=20, symmetric=symmetric,
                  random_state=0)
    assert fit.held_out_se == 0 and fit.operator.symmetric == symmetric
    assert fit.error == pytest.approx(relative_error(A, fit), rel=1e-9)
    assert fit.error > fit.objective_trace[-1]


@pytest.mark.parametrize("counts", [[1, 2, 4], [1, 3, 9], [1, 1, 5]])
def test_planted_matrices_are_found_from_samples(counts):
    A, rows, cols = hierarchical_matrix(720, 540, counts, [2, 1, 1], random_state=1)
    assert rows.group_sizes(2)[0] < 540 - cols.group_sizes(1)[0] or counts[1] == 1
    fit = fit_mlr(None, (2, 1, 1), rows, cols, entries=of(A), samples=24, random_state=0,
                  tol=1e-9, max_iter=400)
    assert fit.error < 1e-6


def test_blocks_of_zeros_and_no_matrix_at_all():
    rows = Hierarchy.balanced(300, [1, 3, 6])
    A = np.kron(np.eye(3), np.ones((100, 100)))
    fit = fit_mlr(None, (0, 1, 0), rows, entries=of(A), samples=20, random_state=0)
    assert fit.error < 1e-7
    with pytest.raises(ValueError, match="A is all zero"):
        fit_mlr(None, (1, 1, 0), rows, entries=of(0 * A), samples=20)


def test_callbacks_seeds_and_starts():
    X, seen = points(800), []
    tree, _ = partition_points(X, None, 4)
    options = {"points": X, "kernel": "gaussian", "samples": 30, "random_state": 1}

    def stop(iterate):
        seen.append(iterate.stage)
        if len(seen) == 3:
            raise StopIteration

    cut = allocate_ranks(None, 6, tree, callback=stop, **options)
    assert cut.termination == "callback" and not cut.converged and cut.held_out_se > 0
    assert cut.operator.symmetric
    first, again = (fit_mlr(None, (3, 1, 1, 1), tree, **options) for _ in range(2))
    np.testing.assert_array_equal(first.operator.B, again.operator.B)
    assert first.held_out_error == again.held_out_error
    more = fit_mlr(None, (3, 1, 1, 1), tree, init=first.operator, max_iter=1, **options)
    assert more.error < 1.1 * first.error


def test_float32_functions_and_numbers():
    X = points(700).astype(np.float32)
    dtypes = set()

    def kernel(x, y):
        dtypes.add(x.dtype)
        return radial("gaussian", 0.5, x, y)

    fit = allocate_ranks(None, 6, points=X, kernel=kernel, samples=40, random_state=0)
    double = allocate_ranks(None, 6, points=X.astype(float), kernel="gaussian", scale=0.5,
                            samples=40, random_state=0)
    assert dtypes == {np.dtype(np.float32)} and fit.operator.dtype == np.float64
    assert fit.error == pytest.approx(double.error, rel=0.2)


# ---------------------------------------------------------------- points


def test_points_with_names_and_pairs_of_them():
    X = pd.DataFrame(points(300), columns=["x", "y"], index=[f"p{i}" for i in range(300)])
    Y = pd.DataFrame(points(260, seed=1), columns=["x", "y"])[["y", "x"]]
    fit = allocate_ranks(None, 6, points=(X, Y), kernel="gaussian", scale=0.4, random_state=0,
                         samples=40)
    A = radial("gaussian", 0.4, X.to_numpy(), Y[["x", "y"]].to_numpy())
    assert fit.error == pytest.approx(relative_error(A, fit), rel=1e-9)  # of all rows
    assert fit.operator.rows.feature_names == tuple(X.index)
    assert not fit.operator.symmetric and fit.operator.shape == (300, 260)
    sizes = fit.operator.rows.group_sizes(-1)
    assert 25 < sizes.min() and sizes.max() < 100
    one = allocate_ranks(None, 6, points=X, kernel="gaussian", scale=0.4, random_state=0)
    assert one.operator.symmetric and one.operator.rows.feature_names == tuple(X.index)


def test_kernels_by_name_are_those_of_the_data_sets():
    for name in KERNELS:
        data = sphere_kernel(30, name, 0.7, random_state=0)
        fit = fit_mlr(None, 30, Hierarchy.flat(30), points=data.sources, kernel=name, scale=0.7)
        np.testing.assert_allclose(fit.operator.toarray(), data.A, atol=1e-10)


def test_a_kernel_that_is_not_symmetric_is_not_made_so():
    X = points(500)

    def kernel(x, y):
        return np.exp(-np.square(x[:, None] - 1.3 * y).sum(axis=2))

    fit = fit_mlr(None, (4, 1), partition_points(X, None, 2)[0], points=X, kernel=kernel,
                  samples=50, random_state=0)
    assert not fit.operator.symmetric and fit.error < 0.02
    with pytest.raises(ValueError, match=r"symmetric=True needs a symmetric function: entries \("):
        fit_mlr(None, (4, 1), partition_points(X, None, 2)[0], points=X, kernel=kernel,
                symmetric=True)


# ---------------------------------------------------------------- refusals

X = points(400)
TREE = partition_points(X, None, 3)[0]
S = radial("gaussian", 0.5, X, X)


def bad_entries(value, dtype=float):
    A = S.astype(dtype)
    A[7, 9] = A[11, 9] = value
    return of(A)


@pytest.mark.parametrize("given, error, message", [
    ({}, TypeError, "A must be numeric, a matrix, unless entries= or points= are given"),
    ({"entries": of(S), "points": X}, ValueError, "one of A, entries= and points=, got entries an"),
    ({"A": S, "entries": of(S)}, ValueError, "give one of A, entries= and points=, got A and"),
    ({"A": S, "samples": 5}, ValueError, "samples= is for entries= and points="),
    ({"A": S, "kernel": "gaussian"}, ValueError, "kernel= and scale= are for points="),
    ({"entries": of(S), "scale": 1.0}, ValueError, "kernel= and scale= are for points="),
    ({"entries": of(S), "rows": None}, TypeError, "rows must be a Hierarchy, got NoneType"),
    ({"entries": S}, TypeError, r"entries must be a function f\(i, j\) .*, got ndarray"),
    ({"entries": of(S), "psd": True}, ValueError, "psd=True needs a matrix A"),
    ({"entries": of(S), "samples": 0}, ValueError, "samples must be at least 1, got 0"),
    ({"entries": of(S), "samples": 2.5}, TypeError, "samples must be an integer"),
    ({"entries": lambda i, j: S[i][:, j].T}, ValueError, r"of shape \(\d+, \d+\), got shape \(\d"),
    ({"entries": lambda i, j: S[i, j[: i.size]] if j.size >= i.size else S[j, i[: j.size]]},
     ValueError, r"must give the block of its rows and columns, of shape"),
    ({"entries": bad_entries(np.nan)}, ValueError,
     r"entries\(i, j\) must be finite, got NaN or infinity \(row .*; column 9\)"),
    ({"entries": bad_entries(1j, complex)}, TypeError, r"entries\(i, j\) must be real, got compl"),
    ({"entries": lambda i, j: S[np.ix_(i, j)].astype(str)}, TypeError, "must be numeric"),
    ({"entries": of(np.triu(S)), "symmetric": True}, ValueError,
     r"symmetric=True needs a symmetric function: entries \(\d+, \d+\) and"),
    ({"entries": of(S), "symmetric": True, "cols": Hierarchy.balanced(400, [1, 2, 4])}, ValueError,
     "needs the same hierarchy of rows and columns"),
    ({"points": X}, ValueError, "points= need kernel="),
    ({"points": X, "kernel": "gausian"}, ValueError, "one of 'gaussian', .*; got 'gausian'"),
    ({"points": X, "kernel": 3}, TypeError, "kernel must be a function of two arrays of points"),
    ({"points": X, "kernel": "gaussian", "scale": 0}, ValueError, "scale must be positive, got 0"),
    ({"points": X, "kernel": "gaussian", "scale": -1}, ValueError, "scale must be finite and not"),
    ({"points": X, "kernel": radial, "scale": 2}, ValueError, "scale is for kernels by name"),
    ({"points": (X, points(400, 3)), "kernel": "gaussian"}, ValueError,
     "must have the same dimension, got 2 and 3"),
    ({"points": (X, X, X), "kernel": "gaussian"}, ValueError, "or a tuple of those .*, got 3"),
    ({"points": X[:300], "kernel": "gaussian"}, ValueError,
     "rows must be a tree of the 300 points, got one of 400 features"),
    ({"points": np.where(X > 0.99, np.nan, X), "kernel": "gaussian"}, ValueError,
     r"points must be finite, got NaN .*\(point"),
    ({"points": X[:0], "kernel": "gaussian"}, ValueError, "points must hold at least one point"),
    ({"points": X, "kernel": "gaussian", "rows": None, "cols": TREE}, ValueError,
     "cols without rows"),
    ({"points": X, "kernel": lambda x, y: np.full((len(x), len(y)), np.inf)}, ValueError,
     r"kernel\(x, y\) must be finite"),
], ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_bad_input(given, error, message):
    given = {"A": None, "rows": TREE, "samples": None if "A" in given else 30, **given}
    A = given.pop("A")
    for fit, size in ((allocate_ranks, 4), (fit_mlr, (2, 1, 1))):
        with pytest.raises(error, match=message):
            fit(A, size, **given)


def test_what_needs_a_residual_is_refused():
    for bad in ({"method": "bcd"}, {"start": "topdown"}):
        with pytest.raises(ValueError, match='work on what is left of a whole matrix'):
            fit_mlr(None, (2, 1, 1), TREE, entries=of(S), samples=30, **bad)


def test_names_of_rows_are_in_errors():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 300)}, index=[f"s{i}" for i in range(300)])

    def kernel(x, y):
        return np.where(x == frame.x.iloc[7], np.nan, 1.0) + 0 * y.T

    with pytest.raises(ValueError, match=r"NaN or infinity \(row s7; column s"):
        fit_mlr(None, (1, 1), Hierarchy.balanced(300, [1, 2]), points=frame, kernel=kernel,
                samples=50)


# ---------------------------------------------------------------- files and the command


def test_files_keep_the_held_out_error(tmp_path):
    path = tmp_path / "fit.npz"
    for fit, size in ((allocate_ranks, 4), (fit_mlr, (2, 1, 1))):
        found = fit(None, size, TREE, entries=of(S), samples=30, random_state=0)
        mlrops.save(path, found)
        again = mlrops.load(path)
        assert (again.error, again.held_out_se) == (found.error, found.held_out_se)
        assert repr(again) == repr(found)
    meta, arrays = read_archive(path, "object")
    fields = meta["nodes"][-1]["values"]
    for changes, message in (({"held_out_se": None}, "must come with held_out_se"),
                             ({"held_out_error": -1.0}, "must be a finite number that is not neg"),
                             ({"held_out_error": "x"}, "must not be of type str")):
        meta["nodes"][-1]["values"] = {**fields, **changes}
        write_archive(path, "object", meta, arrays)
        with pytest.raises(ValueError, match=message):
            mlrops.load(path)


def test_the_command_fits_points(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("points.csv", points(600), delimiter=",", header="x,y", comments="")
    assert main(["fit", "points.csv", "--kernel", "gaussian", "--scale", "0.3", "--total-rank", "6",
                 "--start", "uniform,bottom,top"]) == 0
    out = capsys.readouterr().out
    assert "600 points of dimension 2, kernel gaussian" in out and " ± " in out
    assert "low rank 6" in out and (tmp_path / "mlrops-fit.png").stat().st_size > 0
    operator = mlrops.load("mlrops-fit.npz")
    X = np.loadtxt("points.csv", delimiter=",", skiprows=1)
    A = radial("gaussian", 0.3, X, X)
    error = np.linalg.norm(A - operator.toarray()) / np.linalg.norm(A)
    shown = float(out.split("multilevel")[-1].split()[0])
    assert shown == pytest.approx(error, rel=0.2) and sum(operator.ranks) == 6
    starts = [float(line.split(" ± ")[0].split()[-1]) for line in out.splitlines()
              if line.startswith(("uniform", "bottom", "top"))]
    assert len(set(starts)) > 1 and shown == min(starts)


@pytest.mark.parametrize("options, message", [
    (["--scale", "2"], "--scale is for points and needs --kernel"),
    (["--kernel", "gausian"], "got 'gausian'"),
    (["--kernel", "gaussian", "--psd"], "--psd is for a matrix"),
    (["--kernel", "gaussian", "--method", "order"], "--method is for a matrix"),
    (["--kernel", "gaussian", "--scale", "0"], "scale must be positive, got 0"),
    (["--kernel", "gaussian", "--total-rank", "99"], "--total-rank 99 is too large for 40 points"),
])
def test_the_command_refuses(tmp_path, capsys, options, message):
    np.save(tmp_path / "points.npy", points(40))
    rank = [] if "--total-rank" in options else ["--total-rank", "3"]
    assert main(["fit", str(tmp_path / "points.npy"), *rank, *options,
                 "--output", str(tmp_path / "x.npz"), "--picture", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_kernels_of_many_points_are_fitted_as_well_as_of_fewer_in_full():
    data = sphere_kernel(3000, "inverse_multiquadric", 0.3, random_state=0)
    whole = allocate_ranks(data.A, 28, partition_points(data.sources, None, 7)[0], random_state=0)
    rng = np.random.default_rng(1)
    many = rng.standard_normal((20_000, 3))
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    fit = allocate_ranks(None, 28, points=many, kernel="inverse_multiquadric", scale=0.3,
                         random_state=0)
    assert fit.operator.symmetric and fit.error < 1.25 * whole.error


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_examples_with_narrow_groups_fit(seed):
    operator, A, _ = example(seed)
    rows, cols = operator.rows, operator.cols
    fit = allocate_ranks(None, 6, rows, cols, entries=of(A), samples=3, random_state=0,
                         max_iter=5)
    assert fit.error == pytest.approx(relative_error(A, fit), rel=1e-6, abs=1e-7)
    assert np.isfinite(fit.operator.B).all()


def test_symmetric_fits_whose_levels_are_not_are_grown_anew():
    """Levels ``u vᵀ`` and ``v uᵀ`` add up to a symmetric matrix; neither is near to one."""
    x = np.linspace(-1, 1, 600)
    u, v = np.exp(-(x**2)), np.sin(3 * x)
    tree = Hierarchy.balanced(600, [1, 1, 2])
    target = target_of(None, tree, None, True, False, entries=of(np.outer(u, v) + np.outer(v, u)),
                       samples=100)
    state = State(target, 0)
    state.open(2)
    columns = [u[:, None], v[:, None], x[:, None][:, :0]]
    state.engine.load(GeneralMLR(tree, tree, columns, [columns[1], columns[0], columns[2]]))
    assert state.engine.error() < 1e-7
    state.hand_over()
    operator = state.engine.factors.operator()
    assert operator.symmetric and operator.ranks == (1, 1, 0)
    assert state.engine.error() < 1e-3
