"""Collections of dask in chunks of rows: what is taken, what is given back, what is refused."""

import re
import sys

import numpy as np
import pytest

import mlrops.sklearn
from mlrops import Hierarchy, fit_factor_model, select_ranks
from mlrops.datasets import simulate_mlr
from mlrops.factor.estep import distributed
from mlrops.kernels import threads

da = pytest.importorskip("dask.array")
pd = pytest.importorskip("pandas")

H = Hierarchy.balanced(12, [1, 2])
RANKS = 1, 1
NAMES = list("abcdefghijkl")
Y = simulate_mlr(H, RANKS, n_samples=300, random_state=0).Y
GAPS = Y.copy()
GAPS[::7, 2], GAPS[5] = np.nan, np.nan
W = np.random.default_rng(0).random(300)


def cut(values, rows=100, columns=12):
    return da.from_array(values, chunks=(rows, columns))


def frames(values, n=3):
    dd = pytest.importorskip("dask.dataframe")
    return dd.from_pandas(values, npartitions=n)


@pytest.fixture(scope="module")
def fit():
    return fit_factor_model(Y, RANKS, H)


def same_fit(a, b, tol=1e-9):
    assert abs(a.loglik - b.loglik) <= tol * abs(b.loglik)
    np.testing.assert_allclose(a.covariance.D, b.covariance.D, rtol=1e-3)


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("values", [Y.astype(np.float32), (100 * Y).astype(int),
                                    Y.astype(">f8"), np.asfortranarray(Y)],
                         ids=["float32", "int", "big-endian", "Fortran order"])
def test_dtypes(values):
    found, here = fit_factor_model(cut(values), RANKS, H), fit_factor_model(values, RANKS, H)
    assert found.covariance.dtype == here.covariance.dtype
    same_fit(found, here, 1e-6)


def test_chunks_may_differ_in_size_and_dtype_and_be_empty():
    mixed = da.concatenate([cut(Y[:10]), cut(Y)[:0], cut(Y[10:11].astype(np.float32)), cut(Y[11:])])
    rounded = Y.copy()
    rounded[10] = rounded[10].astype(np.float32)
    same_fit(fit_factor_model(mixed, RANKS, H), fit_factor_model(rounded, RANKS, H))


def test_weights_of_dask_are_those_in_memory():
    here = fit_factor_model(Y, RANKS, H, sample_weight=W, prior=9)
    for weights in (W, cut(W[:, None], columns=1)[:, 0], da.from_array(3 * W, chunks=17)):
        found = fit_factor_model(cut(Y), RANKS, H, sample_weight=weights, prior=9)
        same_fit(found, here)
        np.testing.assert_allclose(found.prior_share, here.prior_share, rtol=1e-12)


def test_a_task_keeps_to_its_thread(monkeypatch):
    seen, moments = [], distributed._moments

    def look(*args):
        seen.append(threads._local.inside)
        return moments(*args)

    monkeypatch.setattr(distributed, "_moments", look)
    fit_factor_model(cut(Y), RANKS, H)
    assert seen and all(seen) and not threads._local.inside


def test_frames_bring_names_and_labels():
    df = pd.DataFrame(GAPS, columns=NAMES)
    df["d"] = df["d"].astype("Float64")
    groups = dict(zip(NAMES, "xxxyyyzzzwww", strict=True))
    here = fit_factor_model(df, RANKS, groups, missing="em")
    found = fit_factor_model(frames(df), RANKS, groups, missing="em")
    assert found.feature_names == tuple(NAMES) == here.feature_names
    same_fit(found, here)
    weights = pd.Series(W)
    same_fit(fit_factor_model(frames(df), RANKS, H, missing="em", sample_weight=frames(weights)),
             fit_factor_model(df, RANKS, H, missing="em", sample_weight=weights))
    same_fit(fit_factor_model(frames(df), RANKS, H, missing="em", sample_weight=W),
             fit_factor_model(df, RANKS, H, missing="em", sample_weight=weights))


def test_names_of_the_tree_go_with_the_columns():
    named = Hierarchy.from_labels(pd.Series(list("xxxyyyzzzwww"), index=NAMES))
    df = pd.DataFrame(Y, columns=NAMES)[NAMES[::-1]]
    found, here = (fit_factor_model(data, RANKS, named) for data in (frames(df), df))
    assert found.feature_names == here.feature_names
    same_fit(found, here)


def test_prior_by_held_out_samples_and_check(fit):
    found, here = (fit_factor_model(data, RANKS, H, prior="cv") for data in (cut(Y), Y))
    assert found.prior == here.prior
    same_fit(found, here)
    assert fit.check(cut(Y)).verdict == fit.check(Y).verdict


@pytest.mark.parametrize("options", [{}, {"criterion": "cv"},
                                     {"criterion": "cv", "missing": "em"}], ids=str)
def test_ranks_are_those_chosen_in_memory(options):
    data = GAPS if "missing" in options else Y
    options = options | {"hierarchy": H, "max_rank": 2, "random_state": 0, "tol": 1e-8}
    found, here = select_ranks(cut(data), **options), select_ranks(data, **options)
    assert found.ranks == here.ranks and len(found.table) == len(here.table)
    for a, b in zip(found.table, here.table, strict=True):
        assert a.ranks == b.ranks
        np.testing.assert_allclose([a.bic, a.cv_mean], [b.bic, b.cv_mean], rtol=1e-5)
    same_fit(found.fit, here.fit, 1e-6)


def test_ranks_of_a_frame_by_bic():
    df = pd.DataFrame(Y, columns=NAMES)
    assert select_ranks(frames(df), hierarchy=H, max_rank=1).ranks == select_ranks(
        df, hierarchy=H, max_rank=1).ranks


# ---------------------------------------------------------------- what is given back


@pytest.mark.parametrize("values", [Y, GAPS], ids=["complete", "missing cells"])
def test_methods_give_dask_arrays(fit, values):
    lazy = cut(values)
    results = [(fit.score_samples, ()), (fit.score, ()), (fit.scores, (0,)), (fit.scores, (1,)),
               (fit.impute, ())]
    for method, options in results:
        found, here = method(lazy, *options), method(values, *options)
        assert isinstance(found, da.Array) and found.shape == np.shape(here)
        assert found.dtype == np.asarray(here).dtype
        assert np.ndim(here) == 0 or found.chunks[0] == lazy.chunks[0]
        np.testing.assert_allclose(found.compute(), here, rtol=1e-12, atol=1e-12)
    assert float(fit.score(lazy)) == pytest.approx(fit.score(values), rel=1e-13)
    for found, here in zip(fit.scores(lazy), fit.scores(values), strict=True):
        np.testing.assert_allclose(found.compute(), here, rtol=1e-12, atol=1e-12)
    for found, here in zip(fit.impute(lazy, return_std=True), fit.impute(values, return_std=True),
                           strict=True):
        np.testing.assert_allclose(found.compute(), here, rtol=1e-12, atol=1e-12)
    bartlett = fit.scores(lazy[8:14], 1, method="bartlett")
    np.testing.assert_allclose(bartlett, fit.scores(values[8:14], 1, method="bartlett"))


def test_methods_give_dask_frames():
    df = pd.DataFrame(GAPS, columns=NAMES)
    fit, turned = fit_factor_model(df, RANKS, H, missing="em"), frames(df)[NAMES[::-1]]
    pd.testing.assert_series_equal(fit.score_samples(turned).compute(), fit.score_samples(df))
    assert float(fit.score(turned)) == pytest.approx(fit.score(df), rel=1e-13)
    pd.testing.assert_frame_equal(fit.impute(turned).compute(), fit.impute(df[NAMES[::-1]]))
    for found, here in zip(fit.scores(turned), fit.scores(df), strict=True):
        pd.testing.assert_frame_equal(found.compute(), here)


def test_nothing_is_computed_before_it_is_asked_for(fit):
    def refuse(chunk):
        raise AssertionError("computed")

    lazy = cut(Y).map_blocks(refuse, dtype=float, meta=np.empty((0, 0)))
    for found in (fit.score_samples(lazy), fit.score(lazy), *fit.scores(lazy), fit.impute(lazy)):
        with pytest.raises(AssertionError, match="computed"):
            found.compute()


# ---------------------------------------------------------------- what is refused


def of_chunk(number, change):
    """Y with another second chunk than it says."""
    return cut(Y).map_blocks(
        lambda x, block_info: change(x) if block_info[0]["chunk-location"][0] == number else x,
        dtype=float)


def with_cell(value):
    other = Y.copy()
    other[150, 2] = value
    return other


REFUSED = {
    "both ways": (lambda: cut(Y, 100, 6), {}, ValueError,
                  "Y is cut both ways, into 3 by 2 chunks: make the chunks whole rows, .*or whole"
                  " columns"),
    "unknown sizes": (lambda: cut(Y)[cut(Y)[:, 0] > 0], {}, ValueError, "compute_chunk_sizes"),
    "complex": (lambda: cut(Y).astype(complex), {}, TypeError, "Y must be real"),
    "text": (lambda: cut(Y).astype(str), {}, TypeError, "Y must be numeric"),
    "a complex chunk": (lambda: of_chunk(1, lambda x: x.astype(complex)), {}, TypeError,
                        "chunk 1 must be real"),
    "a chunk of text": (lambda: of_chunk(1, lambda x: x.astype(str)), {}, TypeError,
                        "chunk 1 must be numeric"),
    "a chunk of other shape": (lambda: of_chunk(2, lambda x: x[:, :11]), {}, ValueError,
                               r"chunk 2 must have one column for each .* shape \(100, 11\)"),
    "NaN": (lambda: cut(with_cell(np.nan)), {}, ValueError,
            'NaN in chunk 1, row 50, feature 2; missing="em"'),
    "infinity": (lambda: cut(with_cell(np.inf)), {"missing": "em"}, ValueError,
                 "infinity in chunk 1, row 50, feature 2"),
    "NaN, compressed": (lambda: cut(GAPS), {"missing": "em", "compress": True}, ValueError,
                        "needs complete data.*NaN in chunk [0-2], row [0-6], feature 2"),
    "NaN in a frame": (lambda: frames(pd.DataFrame(with_cell(np.nan), columns=NAMES)), {},
                       ValueError, "NaN in chunk 1, row 50, feature c"),
    "text in a frame": (lambda: frames(pd.DataFrame(Y, columns=NAMES).assign(c="x")), {}, TypeError,
                        "chunk [0-2] must be numeric.*of c: "),
    "a vector": (lambda: cut(Y)[:, 0], {}, ValueError, "Y must be 2-d"),
    "no rows": (lambda: cut(Y)[:0], {}, ValueError, "at least 2 samples"),
    "one row": (lambda: cut(Y)[:1], {}, ValueError, "at least 2 samples"),
    "constant": (lambda: cut(Y * (np.arange(12) != 2)), {}, ValueError, "1 constant feature .2."),
    "too few weights": (lambda: cut(Y), {"sample_weight": W[1:]}, ValueError,
                        "each of the 300 samples, got 299"),
    "too few lazy weights": (lambda: cut(Y), {"sample_weight": da.ones(299)}, ValueError,
                             "each of the 300 samples, got 299"),
    "negative weights": (lambda: cut(Y), {"sample_weight": da.from_array(
        np.where(np.arange(300) == 203, -1, W))}, ValueError, "negative, got -1 for sample 203"),
    "no weights": (lambda: cut(Y), {"sample_weight": da.zeros(300)}, ValueError, "all be zero"),
    "labelled weights": (lambda: frames(pd.DataFrame(Y, columns=NAMES)),
                         {"sample_weight": pd.Series(W)}, TypeError, "give a dask Series"),
    "other labels": (lambda: frames(pd.DataFrame(Y, columns=NAMES)), {"sample_weight": lambda:
                     frames(pd.Series(W, index=np.arange(1, 301)))}, ValueError,
                     "it has none for 1 sample"),
    "other partitions": (lambda: frames(pd.DataFrame(Y, columns=NAMES)), {"sample_weight": lambda:
                         frames(pd.Series(W), 2)}, ValueError, "3 chunks, got 2"),
    "another tree": (lambda: cut(Y), {"hierarchy": Hierarchy.flat(8)}, ValueError,
                     "hierarchy's 8 features"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_one_clear_error(name):
    data, options, kind, words = REFUSED[name]
    options = {key: x() if callable(x) else x for key, x in options.items()}
    with pytest.raises(kind) as caught:
        fit_factor_model(data(), 1, **options)
    assert re.search(words, " ".join(str(caught.value).split())), str(caught.value)


def test_data_that_change_between_passes_are_refused():
    calls = []

    def fewer(x):
        calls.append(1)
        return x if len(calls) <= 3 else x[:-1]

    lazy = cut(Y).map_blocks(fewer, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="data changed between passes: 99 rows after 100"):
        fit_factor_model(lazy, 1)


def test_cells_that_come_and_go_are_refused():
    calls = []

    def other(x):
        calls.append(1)
        x = x.copy()
        x[0 if len(calls) <= 3 else slice(2), 3] = np.nan
        return x

    lazy = cut(Y).map_blocks(other, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="other cells are missing among"):
        fit_factor_model(lazy, 1, missing="em")


def test_methods_refuse_what_cannot_be_done(fit):
    with pytest.raises(ValueError, match="cut by columns: make the chunks whole rows"):
        fit.score(cut(Y, 300, 6))
    with pytest.raises(ValueError, match="covariance=True needs samples in memory"):
        fit.scores(cut(Y), covariance=True)
    with pytest.raises(ValueError, match="none of 300 samples has an observed cell"):
        fit.score(cut(GAPS) * np.nan).compute()
    with pytest.raises(ValueError, match="rows of a dask DataFrame cannot be held out"):
        select_ranks(frames(pd.DataFrame(Y, columns=NAMES)), hierarchy=H, criterion="cv")
    model = mlrops.sklearn.FactorModel(1)
    with pytest.raises(TypeError, match="fit_factor_model, which takes it"):
        model.fit(cut(Y))
    with pytest.raises(TypeError, match="not computed unasked"):
        model.fit(Y).transform(cut(Y))


def test_without_dask_the_error_names_the_extra(monkeypatch):
    lazy = cut(Y)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=re.escape('pip install "mlrops[dask]"')):
        fit_factor_model(lazy, 1)
