"""Everything a data file brings: one clear error, or a fit and at most one warning of a kind."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from trees import close

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model, select_ranks
from mlrops._common.convergence import UnboundedWarning

pd = pytest.importorskip("pandas")

N, n = 60, 12
NAMES = list("abcdefghijkl")
RNG = np.random.default_rng(0)
H = Hierarchy(RNG.permutation(n), [[0, n], [0, 5, n]])
Y = MLR(H, [RNG.uniform(0.7, 1.3, (n, 1)) for _ in range(2)], np.ones(n)).sample(
    N, random_state=0) + 1
RANKS = (1, 1)

FORMS = {
    "array": np.asarray, "frame": lambda x: pd.DataFrame(x, columns=NAMES),
    "sparse": sp.csr_array, "chunks": lambda x: [x[:10], x[10:]],
    "frames in chunks": lambda x: [pd.DataFrame(x[:10], columns=NAMES),
                                   pd.DataFrame(x[10:], columns=NAMES)],
}
NAMED = {"array": "2", "frame": "c", "sparse": "2", "chunks": "2", "frames in chunks": "c"}


def changed(value, at):
    x = Y.copy()
    x[at] = value
    return x


@pytest.fixture(autouse=True)
def silent():
    """Warnings are errors, but where a test expects them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_cells_that_are_no_numbers(form, value):
    with pytest.raises(ValueError, match=rf"(feature |column \(){NAMED[form]}\b"):
        fit_factor_model(FORMS[form](changed(value, (slice(20, 40), 2))), RANKS, H)


def test_infinite_and_missing_cells_are_told_apart():
    both = changed(np.nan, (3, 5))
    both[4, [2, 7]] = np.inf, -np.inf
    for missing in ("raise", "em"):
        with pytest.raises(ValueError, match=r"2 infinite cells in 2 columns \(c, h\)"):
            fit_factor_model(FORMS["frame"](both), RANKS, H, missing=missing)


def test_rows_that_are_missing_entirely():
    gaps = changed(np.nan, ([0, 9], slice(None)))
    with pytest.raises(ValueError, match='24 missing cells .* in 12 columns .*; 2 of 60 rows are'
                                         ' missing entirely; missing="em"'):
        fit_factor_model(FORMS["frame"](gaps), RANKS, H)
    assert fit_factor_model(gaps, RANKS, H, missing="em", tol=0.1).n_samples == 58
    with pytest.raises(ValueError, match="at least 2 samples"):
        fit_factor_model(np.full((5, n), np.nan), RANKS, H, missing="em")


@pytest.mark.parametrize("form", FORMS)
def test_constant_columns(form):
    with pytest.raises(ValueError, match=rf"1 constant feature \({NAMED[form]}\)"):
        fit_factor_model(FORMS[form](changed(0.1, (slice(None), 2))), RANKS, H)
    weights = np.ones(N)
    weights[:7] = 0
    with pytest.raises(ValueError, match=rf"1 constant feature \({NAMED[form]}\)"):
        fit_factor_model(FORMS[form](changed(0.1, (slice(7, None), 2))), RANKS, H,
                         sample_weight=weights)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sparse"])
def test_columns_that_are_hardly_observed(form):
    for seen, message in ((0, "1 column with fewer than 2 observed cells"),
                          (1, "1 column with fewer than 2 observed cells"),
                          (2, "1 feature that is constant where observed")):
        gaps = changed(np.nan, (slice(None), 2))
        gaps[5 : 5 + seen, 2] = 4.0
        with pytest.raises(ValueError, match=rf"{message} \({NAMED[form]}\)"):
            fit_factor_model(FORMS[form](gaps), RANKS, H, missing="em")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale, dtype", [
    (1e180, float), (1e-180, float), (1e32, float), (1e-32, float), (1e25, np.float32),
    (1e-25, np.float32)])
def test_units_out_of_range(form, scale, dtype):
    x = Y.copy()
    x[:, 2] *= scale
    with pytest.raises(ValueError, match=f"1 feature .* out of the range .* {np.dtype(dtype)}"):
        fit_factor_model(FORMS[form](x.astype(dtype)), RANKS, H)


def test_units_within_range():
    scale = np.ones(n)
    scale[2], scale[3] = 1e28, 1e-28
    found, expected = (fit_factor_model(
        Y * s, (1, 0), H, init=MLR(H, [s[:, None], np.empty((n, 0))], s**2), tol=0)
        for s in (scale, np.ones(n)))
    assert found.termination == expected.termination == "gradient"
    close(found.communalities, expected.communalities, 1e-4)


# ---------------------------------------------------------------- dtypes and containers


@pytest.mark.parametrize("bad, error, message", [
    (Y.astype(complex), TypeError, "must be real, got complex"),
    (Y.astype(str).astype(object), TypeError, "must be numeric, got .* of type str at entry 0, 0"),
    (Y.astype(str), TypeError, "must be numeric, got dtype <U"),
    (np.zeros((N, n), "M8[D]"), TypeError, r"must be numeric, got dtype datetime64\[D\]"),
    (np.zeros((N, n), "m8[s]"), TypeError, r"must be numeric, got dtype timedelta64\[s\]"),
    (np.zeros((N, n), [("x", float)]), TypeError, "must be numeric, got dtype"),
    ([[1.0, None], [2.0, 3.0]], ValueError, r"1 missing cell \(NaN\) in 1 column \(1\)"),
    (sp.csr_array(Y).astype(complex), TypeError, "must be real, got complex"),
    ([Y.astype(complex)], TypeError, "chunk 0 must be real, got complex"),
    ([Y, Y.astype(str).astype(object)], TypeError, "chunk 1 must be numeric"),
    ([sp.csr_array(Y)], TypeError, "chunk 0 is sparse"),
    ("Y.csv", TypeError, "row chunks, got str"),
    (b"Y", TypeError, "row chunks, got bytes"),
    ({"a": [1.0, 2.0]}, TypeError, "row chunks, got dict"),
    ({1.0, 2.0}, TypeError, "row chunks, got set"),
    (None, TypeError, "must be numeric, got None"),
    (3.0, ValueError, r"must be 2-d, samples by features, got shape \(\)"),
    ([], ValueError, r"must be 2-d, samples by features, got shape \(0,\)"),
    (Y[0], ValueError, r"must be 2-d, samples by features, got shape \(12,\)"),
    (Y[None], ValueError, r"must be 2-d, samples by features, got shape \(1, 60, 12\)"),
    ([Y[None]], ValueError, "must be 2-d"),
    (lambda: Y, ValueError, "chunk 0 must be 2-d|chunks must be 2-d"),
    (pd.Series(Y[0]), ValueError, "must be 2-d"),
    (sp.coo_array(np.arange(4.0)), ValueError, r"must be 2-d|got 1|shape \(1, 4\)"),
    (Y[:0], ValueError, "at least 2 samples .* got 0"),
    (Y[:1], ValueError, "at least 2 samples .* got 1"),
    (sp.csr_array(Y[:1]), ValueError, "at least 2 samples .* got 1"),
    ([Y[:1]], ValueError, "at least 2 samples .* got 1"),
    ([Y[:0]], ValueError, "at least 2 samples .* got 0"),
])
@pytest.mark.parametrize("hierarchy", [None, H])
def test_no_data(bad, error, message, hierarchy):
    if hierarchy is not None and np.shape(bad)[-1:] == (2,):
        hierarchy = Hierarchy.flat(2)
    with pytest.raises(error, match=message):
        fit_factor_model(bad, 1 if hierarchy is None or hierarchy.n_levels == 1 else RANKS,
                         hierarchy)


@pytest.mark.parametrize("none", [
    Y[:, :0], sp.csr_array((N, 0)), [Y[:, :0]], pd.DataFrame(index=range(N)), [[], []]])
def test_no_columns(none):
    with pytest.raises(ValueError, match="at least one feature"):
        fit_factor_model(none, 1)
    with pytest.raises(ValueError, match="12 features|at least one feature"):
        fit_factor_model(none, RANKS, H)


def test_no_chunks():
    with pytest.raises(ValueError, match="no chunks"):
        fit_factor_model(lambda: iter(()), 1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        fit_factor_model(lambda: iter(()), RANKS, H)


COLUMNS = {
    "strings": ["x"] * N, "dates": pd.date_range("2020-01-01", periods=N),
    "objects": np.array([1.0, object()] * (N // 2), object),
    "categories": pd.Categorical(["u", "v"] * (N // 2)),
    "complex": np.ones(N, complex), "zones": pd.date_range("2020-01-01", periods=N, tz="UTC"),
    "spans": pd.timedelta_range("1s", periods=N), "periods": pd.period_range("2020", periods=N),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("chunked", [False, True])
def test_columns_of_a_frame_that_are_no_numbers(kind, chunked):
    frame = FORMS["frame"](Y)
    frame["c"] = frame["g"] = COLUMNS[kind]
    with pytest.raises(TypeError, match=rf"{'chunk 0' if chunked else 'Y'} must be numeric, got"
                                        r" dtype .* in 2 columns \(c, g\)"):
        fit_factor_model([frame] if chunked else frame, RANKS, H)


def test_names_that_do_not_match():
    found = fit_factor_model(FORMS["frame"](Y), RANKS, H, tol=1e-3)
    for method in (found.score, found.score_samples, found.scores, found.impute):
        with pytest.raises(ValueError, match=r"none for 1 feature \(b\), and 1 label .* \(B\)"):
            method(FORMS["frame"](Y).rename(columns={"b": "B"}))
    mixed = FORMS["frames in chunks"](Y)
    mixed[1] = mixed[1].rename(columns={"b": "B"})
    with pytest.raises(ValueError, match=r"chunk 1 .* none for 1 feature \(b\).* \(B\)"):
        fit_factor_model(mixed, RANKS, H)


@pytest.mark.parametrize("form", FORMS)
def test_another_number_of_features(form):
    wider = Hierarchy.balanced(n + 1, [1, 2])
    with pytest.raises(ValueError, match="hierarchy's 13 features, got shape .*samples are rows"):
        fit_factor_model(FORMS[form](Y), RANKS, wider)


def test_no_hierarchy():
    for bad in (3, "balanced", H.balanced):
        with pytest.raises(TypeError, match="hierarchy must be a Hierarchy or labels of the feat"):
            fit_factor_model(Y, RANKS, bad)
    with pytest.raises(ValueError, match="hierarchy: level 1 has 2 labels for 12 features"):
        fit_factor_model(Y, RANKS, [[0, n]])


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights, error, message", [
    (-np.ones(N), ValueError, "not be negative, got -1 for sample 0 .60 samples"),
    (np.where(np.arange(N) == 3, -2, 1), ValueError, r"-2 for sample 3 \(1 sample: 3\)"),
    (np.zeros(N), ValueError, "not all be zero"),
    (np.where(np.arange(N) == 3, np.nan, 1), ValueError, "finite, .*sample 3"),
    (np.full(N, np.inf), ValueError, "finite"),
    (np.ones(N - 1), ValueError, "one entry for each of the 60 samples, got 59"),
    (np.ones((N, 1)), ValueError, "1-d"),
    (2.0, ValueError, "1-d"),
    (np.eye(N)[4], ValueError, "at least 2 samples .*of positive weight, got 1"),
    (["one"] * N, TypeError, "weights must be numeric"),
    (np.ones(N, complex), TypeError, "weights must be real"),
])
def test_bad_weights(form, weights, error, message):
    with pytest.raises(error, match=message):
        fit_factor_model(FORMS[form](Y), RANKS, H, sample_weight=weights)


# ---------------------------------------------------------------- ranks and options


@pytest.mark.parametrize("form", ["array", "sparse", "chunks"])
@pytest.mark.parametrize("ranks, error, message", [
    ((1,), ValueError, "2 entries, one a level, got 1"),
    ((1, 1, 1), ValueError, "2 entries, one a level, got 3"),
    (1, ValueError, "2 entries, one a level"),
    ((1, -1), ValueError, "rank of level 1 must be non-negative, got -1"),
    ((1.0, 1), TypeError, "rank of level 0 must be an integer, got 1.0"),
    ((1, None), TypeError, "rank of level 1 must be an integer, got None"),
    (("1", 1), TypeError, "rank of level 0 must be an integer"),
    ((True, 1), TypeError, "rank of level 0 must be an integer, got True"),
    ("11", ValueError, "2 entries, one a level"),
    (None, ValueError, "2 entries, one a level"),
])
def test_bad_ranks(form, ranks, error, message):
    with pytest.raises(error, match=message):
        fit_factor_model(FORMS[form](Y), ranks, H)


@pytest.mark.parametrize("options, error, message", [
    ({"tol": "small"}, TypeError, "tol must be a number, got 'small'"),
    ({"gtol": None}, TypeError, "gtol must be a number, got None"),
    ({"gtol": "small"}, TypeError, "gtol must be a number, got 'small'"),
    ({"variance_floor": 1j}, TypeError, "variance_floor must be a number"),
    ({"missing": "drop"}, ValueError, "missing must be \"raise\" or \"em\", got 'drop'"),
    ({"compress": "yes"}, ValueError, "compress must be True, False or None, got 'yes'"),
    ({"n_init": 0}, ValueError, "n_init must be at least 1"),
    ({"n_init": 1.5}, TypeError, "n_init must be an integer"),
    ({"init": 3}, ValueError,
     "init must be 'principal_factor', 'svd', 'frobenius', 'random' or an MLR, got 3"),
])
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        fit_factor_model(Y, RANKS, H, **options)


def test_options_that_contradict_the_data():
    with pytest.raises(ValueError, match="never made dense"):
        fit_factor_model(sp.csr_array(Y), RANKS, H, compress=True)
    with pytest.raises(ValueError, match="compress=True needs complete data"):
        fit_factor_model(changed(np.nan, (3, 4)), RANKS, H, missing="em", compress=True)
    gaps = changed(np.nan, (13, 4))
    with pytest.raises(ValueError, match="compress=True needs complete.* chunk 1, row 3, .* e$"):
        fit_factor_model(FORMS["frames in chunks"](gaps), RANKS, H, missing="em", compress=True)


# ---------------------------------------------------------------- extremes that work


@pytest.mark.quick(2)
@pytest.mark.parametrize("form", ["array", "sparse", "chunks"])
@pytest.mark.parametrize("samples", [2, 3])
def test_fewer_samples_than_factors(form, samples):
    """Two or three samples lie in the span of the factors: every variance goes to the floor."""
    few = f"no maximum: {samples} samples, less one for the mean, carr"
    with pytest.warns(UnboundedWarning, match=few):
        found = fit_factor_model(FORMS[form](Y[:samples]), (4, 2), H, max_iter=3000)
    assert found.boundary.size == n and np.isfinite(found.loglik)
    assert (np.diff(found.loglik_trace) >= -1e-9).all()
    X = Y[:samples] - Y[:samples].mean(axis=0)
    close(found.covariance.D, 1e-6 * np.square(X).mean(axis=0), 1e-9)


@pytest.mark.parametrize("ranks", [(20, 20), (n, 0), (0, n + 3)])
def test_ranks_above_the_number_of_features(ranks):
    found = fit_factor_model(Y, ranks, H, tol=1e-6)
    full = -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(np.cov(Y.T, bias=True))[1] + n)
    assert found.loglik <= full + 1e-9
    if ranks[0] >= n:  # any covariance can be written so
        assert found.loglik == pytest.approx(full, abs=1e-3)
    assert found.capped == tuple((level, g, size) for level, r in enumerate(ranks)
                                 for g, size in enumerate(H.group_sizes(level)) if size < r)


def test_one_feature():
    for rank in (0, 1, 3):
        found = fit_factor_model(Y[:, :1], rank)
        assert found.covariance.toarray()[0, 0] == pytest.approx(Y[:, 0].var(), rel=1e-4)


def test_two_features_two_samples():
    found = fit_factor_model([[1.0, 2.0], [3.0, 5.0]], 0)
    close(found.covariance.toarray(), np.diag([1.0, 2.25]), 1e-12)
    close(found.mean, [2.0, 3.5], 1e-12)


def test_duplicated_columns():
    twice = changed(Y[:, 2], (slice(None), 7))
    assert H.labels(1)[2] == H.labels(1)[7]
    with pytest.warns(ConvergenceWarning) as caught:
        found = fit_factor_model(FORMS["frame"](twice), RANKS, H)
    assert {2, 7} <= set(found.boundary)
    # A likelihood without a maximum may, by rounding, also use up its updates.
    text, = (str(w.message) for w in caught if "Heywood cases" in str(w.message))
    assert f"{found.boundary.size} features" in text and "(Heywood cases: c, h" in text


# ---------------------------------------------------------------- warnings


def test_warnings_come_once_and_point_here():
    twice = changed(Y[:, 2], (slice(None), 7))
    with pytest.warns(ConvergenceWarning) as caught:
        found = fit_factor_model(twice, RANKS, H, optimizer="em", max_iter=30, gtol=0, tol=0,
                                 variance_floor=0.1)
    assert found.boundary.size and len(caught) == 2
    assert [("did not converge" in str(w.message), "Heywood cases" in str(w.message))
            for w in caught] == [(True, False), (False, True)]
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(ConvergenceWarning) as caught:
        fit_factor_model(twice, RANKS, H, optimizer="em", max_iter=30, gtol=0, tol=0, n_init=3,
                         random_state=0)
    assert {w.filename for w in caught} == {__file__}
    assert sum("did not converge in 30 updates" in str(w.message) for w in caught) == 1


def test_warnings_of_a_selection_come_once_and_point_here():
    with pytest.warns(ConvergenceWarning) as caught:
        select_ranks(Y, [(0, 0), (1, 0), (1, 1), (2, 2)], H, max_iter=3, gtol=0, tol=0)
    assert [w.filename for w in caught] == [__file__]
    assert "did not converge" in str(caught[0].message)


def test_no_warning_where_there_is_none():
    fit_factor_model(Y, (1, 0), H)
    fit_factor_model(Y, (1, 0), H, max_iter=2, callback=stop)


def stop(iterate):
    if iterate.n_iter == 1:
        raise StopIteration
