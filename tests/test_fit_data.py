"""The same data in every form that users hold them: the same fit."""

import functools
import math

import numpy as np
import pytest
import scipy.sparse as sp
from trees import close, dense_mlr

from mlrops import MLR, Hierarchy, fit_factor_model
from mlrops.factor.estep.sources import open_source

pd = pytest.importorskip("pandas")
RANKS = (2, 1, 1)
N, n = 200, 24


def make(seed=0):
    """A permuted tree, samples of a model on it, and a point to start from."""
    rng = np.random.default_rng(seed)
    h = Hierarchy(rng.permutation(n), [[0, n], [0, n // 3, n], [0, 3, n // 3, n // 2, n]])
    A = MLR(h, [rng.standard_normal((n, r)) for r in RANKS], rng.uniform(0.5, 1.5, n))
    Y = A.sample(N, random_state=seed) + rng.standard_normal(n)
    return h, Y * np.exp(rng.standard_normal(n))


H, Y = make()
NAMES = [f"feature {j}" for j in range(n)]
START = MLR(H, [np.random.default_rng(1).standard_normal((n, r)) * Y.std(axis=0)[:, None]
                for r in RANKS], Y.var(axis=0))


def fit(data, **options):
    """A few updates from a given point: every number can be compared.

    Not so by scoring: where a variance nears its floor its steps blow rounding up.
    """
    options = {"init": START, "optimizer": "bfgs", "max_iter": 6, "tol": 0, "gtol": 0, **options}
    with pytest.warns(match="6 updates"):
        return fit_factor_model(data, RANKS, options.pop("h", H), **options)


def same(found, expected, tol=1e-6):  # jumps are formed in single precision
    np.testing.assert_allclose(found.loglik_trace, expected.loglik_trace, rtol=tol, atol=tol)
    close(found.covariance.toarray(), expected.covariance.toarray(), tol)
    close(found.mean, expected.mean, tol)
    assert found.n_samples == expected.n_samples


@functools.cache
def reference(**options):
    return fit(Y, **options)


# ---------------------------------------------------------------- arrays


def strided(x):
    wide = np.full((2 * len(x), 3 * x.shape[1]), np.nan)
    wide[::2, 1::3] = x
    return wide[::2, 1::3]


LAYOUTS = {
    "Fortran": np.asfortranarray, "strided": strided, "reversed": lambda x: x[::-1].copy()[::-1],
    "big-endian": lambda x: x.astype(">f8"), "long double": lambda x: x.astype(np.longdouble),
    "list of lists": lambda x: x.tolist(), "list of rows": list, "matrix": np.matrix,
    "masked array": np.ma.masked_invalid, "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays(layout):
    found = fit(LAYOUTS[layout](Y))
    assert found.covariance.dtype == np.float64
    same(found, reference(), 1e-11)


@pytest.mark.quick(2)
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, sp.csc_array,
                                    lambda x: [x[:50], x[50:]],
                                    lambda x: pd.DataFrame(x, columns=NAMES)])
def test_single_precision_stays(layout):
    found = fit(layout(Y.astype(np.float32)))
    assert found.covariance.dtype == np.float32
    same(found, reference(), 2e-4)


COUNTS = np.random.default_rng(2).poisson(3.0, (N, n))


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.int64])
def test_integers(dtype):
    expected = fit(COUNTS.astype(float))
    same(fit(COUNTS.astype(dtype)), expected, 1e-11)
    same(fit(sp.csr_array(COUNTS.astype(dtype))), expected)
    same(fit([COUNTS.astype(dtype)]), expected)
    same(fit(pd.DataFrame(COUNTS.astype(dtype))), expected, 1e-11)


def test_booleans():
    same(fit(COUNTS > 2), fit((COUNTS > 2).astype(float)), 1e-11)


# ---------------------------------------------------------------- sparse, chunks, maps


@pytest.mark.quick(5)
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("format", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_formats(format, kind):
    Z = COUNTS * 1.0
    made = getattr(sp, f"{format}_{kind}")(sp.coo_array(Z))
    same(fit(made), fit(Z))
    same(fit(made, center=False), fit(Z, center=False))


def test_explicit_zeros_and_duplicates_of_sparse_entries():
    row, col = np.indices((N, n)).reshape(2, -1)
    halves = np.concatenate([COUNTS.ravel() * 0.25, COUNTS.ravel() * 0.75])
    made = sp.coo_array((halves, (np.tile(row, 2), np.tile(col, 2))), shape=(N, n))
    assert made.nnz == 2 * N * n and (made.data == 0).any()
    same(fit(made), fit(COUNTS))
    assert made.nnz == 2 * N * n


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "Y.npy", Y)
    return tmp_path / "Y.npy"


CHUNKS = {
    "list of arrays": lambda: [Y[:1], Y[1:90], Y[90:]],
    "tuple of frames": lambda: (pd.DataFrame(Y[:70]), pd.DataFrame(Y[70:])),
    "function": lambda: lambda: (Y[i : i + 17] for i in range(0, N, 17)),
    "function to a list": lambda: lambda: [Y[:100], Y[100:]],
    "frames with nullable columns": lambda: [pd.DataFrame(Y[:9]).astype("Float64"), Y[9:]],
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_chunks(kind):
    same(fit(CHUNKS[kind]()), reference())
    same(fit(CHUNKS[kind](), compress=True), reference())
    flat = fit_factor_model(CHUNKS[kind](), 1, random_state=0)
    assert flat.covariance.hierarchy == Hierarchy.flat(n)


def test_chunk_frames_of_mixed_columns():
    frame = pd.DataFrame(Y)
    frame[3] = frame[3] > 0
    same(fit([frame[:50], frame[50:]]), fit(frame.to_numpy(float)))


def test_a_generator_is_for_compression_only():
    with pytest.raises(TypeError, match="can be used once; pass a function"):
        fit_factor_model((Y[i : i + 20] for i in range(0, N, 20)), RANKS, H)
    with pytest.raises(TypeError, match="give a hierarchy"):
        fit_factor_model((Y[i : i + 20] for i in range(0, N, 20)), 1, compress=True)
    same(fit((Y[i : i + 20] for i in range(0, N, 20)), compress=True), reference())


@pytest.mark.parametrize("mode", ["r", "c"])
def test_memory_maps(mode, file):
    mapped = np.load(file, mmap_mode=mode)
    assert isinstance(mapped, np.memmap)
    same(fit(mapped), reference())
    same(fit(mapped, compress=True), reference())
    same(fit(mapped[::2]), fit(Y[::2]))
    same(fit(np.load(file, mmap_mode=mode)[:, ::-1]), fit(Y[:, ::-1]))
    assert fit_factor_model(mapped, 1, tol=0.1).covariance.hierarchy == Hierarchy.flat(n)


# ---------------------------------------------------------------- frames


def frames():
    plain = pd.DataFrame(Y, columns=NAMES)
    return {
        "float64": plain, "Float64": plain.astype("Float64"),
        "sparse": plain.astype(pd.SparseDtype(float)),
        "object index": plain.set_index(pd.Index([f"day {i}" for i in range(N)])),
        "mixed": pd.concat([plain.iloc[:, :5].astype("Float64"), plain.iloc[:, 5:]], axis=1),
    }


@pytest.mark.parametrize("kind", frames())
def test_frames(kind):
    found = fit(frames()[kind])
    same(found, reference(), 1e-11)
    assert found.feature_names == tuple(NAMES)


def test_integer_columns_with_gaps():
    frame = pd.DataFrame(COUNTS, columns=NAMES).astype("Int64")
    same(fit(frame), fit(COUNTS), 1e-11)
    frame.iloc[3, 4] = pd.NA
    gaps = COUNTS.astype(float)
    gaps[3, 4] = np.nan
    same(fit(frame, missing="em"), fit(gaps, missing="em"), 1e-11)
    with pytest.raises(ValueError, match=r"1 missing cell \(NaN\) in 1 column \(feature 4\)"):
        fit_factor_model(frame, RANKS, H)


def test_frames_of_float32_and_small_columns_stay_in_single_precision():
    frame = pd.DataFrame(Y.astype(np.float32))
    assert fit(frame).covariance.dtype == np.float32
    frame[0] = frame[0].astype(float)
    assert fit(frame).covariance.dtype == np.float64


COLUMNS = {
    "strings": pd.Index(NAMES), "integers": pd.RangeIndex(100, 100 + n),
    "two levels": pd.MultiIndex.from_product([["a", "b"], range(n // 2)]),
    "shared": pd.Index(["x", "y"] * (n // 2)), "dates": pd.date_range("2020-01-01", periods=n),
    "mixed": pd.Index(["a", 1, 2.5, None] * (n // 4), dtype=object),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_names_go_through_results(kind):
    columns = COLUMNS[kind]
    frame = pd.DataFrame(Y, columns=columns)
    found = fit(frame)
    assert found.feature_names == tuple(map(str, columns))
    assert found.feature_names[5][:10] in found.summary()
    assert list(found.to_frame().index) == list(map(str, columns))
    assert found.score(frame) == pytest.approx(found.loglik)
    assert found.score(Y) == pytest.approx(found.loglik)
    gaps = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
    filled = found.impute(gaps)
    assert filled.columns.equals(frame.columns) and filled.index.equals(frame.index)
    close(filled.to_numpy(), found.impute(gaps.to_numpy()), 1e-12)
    other = frame.set_axis([f"other {j}" for j in range(n)], axis=1)
    distinct = kind not in ("shared", "mixed")
    with pytest.raises(ValueError, match="labels .*other 0" if distinct else "more than one"):
        found.score_samples(other)
    with pytest.raises(ValueError, match="none for 1 feature" if distinct else "more than "):
        found.impute(frame.iloc[:, :-1])
    if kind == "shared":
        with pytest.raises(ValueError, match="several features are called x"):
            found.condition(["x"])
    elif kind != "mixed":
        given = found.condition([found.feature_names[j] for j in (7, 2)])
        assert given.observed.tolist() == [7, 2]


def test_columns_in_another_order_are_found_by_name():
    frame = pd.DataFrame(Y, columns=NAMES)
    assert fit(frame).score(frame[NAMES[::-1]]) == fit(frame).score(Y)


def test_names_of_chunks():
    frame = pd.DataFrame(Y, columns=NAMES)
    assert fit([frame[:20], frame[20:]]).feature_names == tuple(NAMES)


def test_a_hierarchy_by_labels():
    sector = np.array([f"sector {j % 3}" for j in range(n)])
    industry = np.array([f"industry {j % 6}" for j in range(n)])
    frame = pd.DataFrame(Y, columns=NAMES)
    h = Hierarchy.from_labels(pd.Series(sector), pd.Series(industry))
    found = fit_factor_model(frame, (1, 1, 1), h, max_iter=3, tol=0.9)
    S = dense_mlr(h, found.covariance.factors, found.covariance.D)
    X = Y - Y.mean(axis=0)
    quad = np.einsum("ti,ti->", X, np.linalg.solve(S, X.T).T) / N
    expected = -0.5 * (n * math.log(2 * math.pi) + np.linalg.slogdet(S)[1] + quad)
    assert found.loglik == pytest.approx(expected, rel=1e-10)


def test_the_order_of_the_features_does_not_matter():
    order = np.random.default_rng(0).permutation(n)
    h = Hierarchy.from_labels(*(H.labels(level)[order] for level in range(3)), root=False)
    start = MLR(h, [F[order] for F in START.factors], START.D[order])
    for kind in (np.asarray, sp.csr_array, lambda x: [x]):
        found = fit(kind(Y[:, order]), h=h, init=start)
        expected = reference()
        close(found.covariance.toarray(), expected.covariance.toarray()[np.ix_(order, order)],
              1e-6)
        close(found.loglik_trace, expected.loglik_trace, 1e-7)


# ---------------------------------------------------------------- every kind, weighted

KINDS = {
    "array": np.asarray, "not compressed": np.asarray, "frame": pd.DataFrame,
    "sparse": sp.csr_array, "chunks": lambda x: [x[:5], x[5:]],
    "chunks, compressed": lambda x: [x[:5], x[5:]],
}
OPTIONS = {"not compressed": {"compress": False}, "chunks, compressed": {"compress": True}}
TIMES = np.random.default_rng(5).integers(0, 4, N)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_agree(kind, optimizer, center):
    found = fit(KINDS[kind](Y), optimizer=optimizer, center=center, **OPTIONS.get(kind, {}))
    same(found, reference(optimizer=optimizer, center=center))
    assert center or not found.mean.any()


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_stand_for_repeated_samples(kind, center):
    options = {"center": center, **OPTIONS.get(kind, {})}
    expected = fit(np.repeat(Y, TIMES, axis=0), center=center)
    found = fit(KINDS[kind](Y), sample_weight=TIMES, **options)
    close(found.loglik_trace, expected.loglik_trace, 1e-7)
    close(found.covariance.toarray(), expected.covariance.toarray(), 1e-6)
    close(found.mean, expected.mean, 1e-6)
    assert found.n_samples == np.count_nonzero(TIMES)
    same(fit(KINDS[kind](Y[TIMES > 0]), sample_weight=TIMES[TIMES > 0], **options), found, 1e-10)
    for scale in (2.0**-900, 3e300):
        same(fit(KINDS[kind](Y), sample_weight=TIMES * scale, **options), found, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["svd", "random"])
def test_starts_do_not_see_the_scale_of_weights(kind, init):
    options = {"init": init, "random_state": 3, "max_iter": 0, "gtol": 0.99,
               **OPTIONS.get(kind, {})}
    one, other = (fit_factor_model(KINDS[kind](Y), RANKS, H, sample_weight=TIMES * scale,
                                   **options) for scale in (1.0, 1e40))
    close(one.covariance.toarray(), other.covariance.toarray(), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_any_scale_of_weights_in_single_precision(kind):
    Z, options = Y.astype(np.float32), OPTIONS.get(kind, {})
    expected = fit(KINDS[kind](Z), sample_weight=TIMES, **options)
    for scale in (2.0**-1000, 2.0**-100, 2.0**1020):
        same(fit(KINDS[kind](Z), sample_weight=TIMES * scale, **options), expected, 1e-5)


def test_weights_and_missing_cells():
    gaps = np.where(np.random.default_rng(3).random(Y.shape) < 0.1, np.nan, Y)
    expected = fit(np.repeat(gaps, TIMES, axis=0), missing="em")
    for scale in (1.0, 1e200):
        found = fit(gaps, missing="em", sample_weight=pd.Series(TIMES * scale))
        close(found.loglik_trace, expected.loglik_trace, 1e-9)
        close(found.covariance.toarray(), expected.covariance.toarray(), 1e-8)
        close(found.mean, expected.mean, 1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300])
def test_samples_of_weight_zero_may_hold_anything(kind, junk):
    Z = Y.copy()
    Z[TIMES == 0] = junk
    options = OPTIONS.get(kind, {})
    same(fit(KINDS[kind](Z), sample_weight=TIMES, **options),
         fit(KINDS[kind](Y), sample_weight=TIMES, **options), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_converged_fits_agree(kind):
    options = {"tol": 0, "gtol": 1e-7, **OPTIONS.get(kind, {})}
    found = fit_factor_model(KINDS[kind](Y), RANKS, H, init=START, **options)
    expected = converged()
    assert found.termination == expected.termination == "gradient"
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-10)
    close(found.covariance.toarray(), expected.covariance.toarray(), 1e-4)


@functools.cache
def converged():
    return fit_factor_model(Y, RANKS, H, init=START, tol=0, gtol=1e-7)


@pytest.mark.parametrize("compress", [True, False, np.False_])
def test_compression_changes_no_iterate(compress):
    seen, expected = [], []
    assert open_source(Y, H, True, "raise", None, compress)[0].X.shape == (n, n if compress else N)
    fit(Y, optimizer="em", compress=compress, callback=seen.append)
    fit([Y], optimizer="em", callback=expected.append)
    for one, other in zip(seen, expected, strict=True):
        assert one.loglik == pytest.approx(other.loglik, abs=1e-10)
        close(one.covariance.F, other.covariance.F, 1e-9)


@pytest.mark.parametrize("kind", ["sparse", "chunks"])
def test_a_fit_from_a_sketch_is_the_same_every_time(kind):
    one, other = (fit(KINDS[kind](Y), init="svd") for _ in range(2))
    assert np.array_equal(one.covariance.F, other.covariance.F)


# ---------------------------------------------------------------- data far from zero


def test_large_means():
    start = {"init": "svd", "optimizer": "em"}
    expected = fit(Y, **start)
    for kind in ("array", "not compressed"):
        found = fit(KINDS[kind](Y + 1e8), **start, **OPTIONS.get(kind, {}))
        close(found.covariance.toarray(), expected.covariance.toarray(), 1e-5)
        close(found.loglik_trace, expected.loglik_trace, 1e-6)
        np.testing.assert_allclose(found.mean - 1e8, expected.mean, atol=1e-6)
    gaps = np.where(np.random.default_rng(3).random(Y.shape) < 0.1, np.nan, Y)
    close(fit(gaps + 1e8, missing="em", **start).loglik_trace,
          fit(gaps, missing="em", **start).loglik_trace, 1e-6)


def test_large_means_in_single_precision():
    """What float32 holds of the data is fitted, no less."""
    Z = (Y / Y.std(axis=0) + 1e4).astype(np.float32)
    found, expected = fit(Z, init="svd"), fit(Z.astype(float), init="svd")
    close(found.covariance.toarray(), expected.covariance.toarray(), 2e-3)


# ---------------------------------------------------------------- missing cells


def test_complete_data_take_the_complete_path():
    same(fit(Y, missing="em"), reference(), 1e-15)


def observed_loglik(S, mean, Y):
    """Average log-likelihood of the observed cells, sample by sample, from the dense matrix."""
    total = 0.0
    for y in Y:
        o = ~np.isnan(y)
        r = y[o] - mean[o]
        total -= 0.5 * (o.sum() * math.log(2 * math.pi) + np.linalg.slogdet(S[np.ix_(o, o)])[1]
                        + r @ np.linalg.solve(S[np.ix_(o, o)], r))
    return total / len(Y)


@pytest.mark.parametrize("center", [True, False])
def test_missing_cells_are_left_out_exactly(center):
    """At the fit, the observed-data log-likelihood of the dense matrix is flat."""
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(12), [[0, 12], [0, 5, 12]])
    A = MLR(h, [rng.uniform(0.7, 1.4, (12, 1)) for _ in range(2)], np.ones(12))
    Z = A.sample(120, random_state=0) + (2 if center else 0)
    Z[rng.random(Z.shape) < 0.2] = np.nan
    Z[7] = np.nan
    found = fit_factor_model(Z, (1, 1), h, missing="em", center=center, tol=0, gtol=1e-6)
    assert found.termination == "gradient" and found.n_samples == 119
    used, covariance = np.delete(Z, 7, axis=0), found.covariance

    def loglik(F, D, mean):
        return observed_loglik(dense_mlr(h, [F[:, :1], F[:, 1:]], D), mean, used)

    at = covariance.F, covariance.D, found.mean
    assert found.loglik == pytest.approx(loglik(*at), rel=1e-12)
    for which in (0, 1, 2) if center else (0, 1):
        for _ in range(4):
            u = rng.standard_normal(at[which].shape) * 1e-4
            up, down = ([x + s * u if i == which else x for i, x in enumerate(at)]
                        for s in (1, -1))
            slope = (loglik(*up) - loglik(*down)) / 2e-4
            assert abs(slope) < 1e-5
            assert loglik(*up) < found.loglik + 1e-12


def test_rows_without_cells_change_nothing():
    gaps = np.where(np.random.default_rng(3).random(Y.shape) < 0.1, np.nan, Y)
    with_empty = np.insert(gaps, [0, 50, N], np.nan, axis=0)
    same(fit(with_empty, missing="em"), fit(gaps, missing="em"), 1e-10)
    same(fit(np.insert(Y, 5, np.nan, axis=0), missing="em"), reference())


def test_masked_cells_are_missing():
    hidden = np.random.default_rng(3).random(Y.shape) < 0.1
    same(fit(np.ma.masked_array(Y, hidden), missing="em"),
         fit(np.where(hidden, np.nan, Y), missing="em"), 1e-15)
    with pytest.raises(ValueError, match=f"{hidden.sum()} missing cells"):
        fit_factor_model(np.ma.masked_array(Y, hidden), RANKS, H)
    same(fit(np.ma.masked_array(COUNTS, hidden), missing="em"),
         fit(np.where(hidden, np.nan, COUNTS), missing="em"), 1e-15)


# ---------------------------------------------------------------- what a callback keeps


@pytest.mark.parametrize("h", [H, Hierarchy.balanced(n, [1, 2, 4])])
@pytest.mark.parametrize("missing", [False, True])
def test_iterates_are_never_written_again(h, missing):
    data = np.where(np.random.default_rng(3).random(Y.shape) < 0.1, np.nan, Y) if missing else Y
    seen, copies = [], []

    def keep(iterate):
        seen.append(iterate.covariance)
        copies.append((iterate.covariance.F.copy(), iterate.covariance.D.copy()))

    fit(data, h=h, init="svd", callback=keep, missing="em")
    assert len(seen) == 7
    for A, (F, D) in zip(seen, copies, strict=True):
        assert np.array_equal(A.F, F) and np.array_equal(A.D, D)
        assert not A.F.flags.writeable
