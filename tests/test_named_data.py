"""What comes into a factor model with names goes out with names; what is no array of numbers."""

import warnings

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from mlrops import (
    ConvergenceWarning,
    Dense,
    Hierarchy,
    fit_factor_model,
    load,
    partition_features,
    plotting,
    save,
    select_ranks,
)

N, NAMES = 90, ["ant", "bee", "cow", "dog", "elk", "fox"]
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, 1)) + RNG.standard_normal((N, 6))
ROWS = pd.date_range("2020-01-01", periods=N)
FRAME = pd.DataFrame(Y, ROWS, NAMES)
POLARS = pl.DataFrame({name: FRAME[name].to_numpy() for name in NAMES})
SECTOR = pd.Series(["x", "x", "x", "y", "y", "y"], NAMES)
FIT = fit_factor_model(FRAME, (1, 1), SECTOR, max_iter=60, tol=1e-4)
PLAIN = fit_factor_model(Y, (1, 1), list(SECTOR), max_iter=60, tol=1e-4)
GAPS = FRAME[:8].mask(RNG.random((8, 6)) < 0.3)


def fitted(Y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_factor_model(Y, **{"ranks": 1, "max_iter": 5, **options})


# ---------------------------------------------------------------- out


def test_scores():
    means, spreads = FIT.scores(FRAME[NAMES[::-1]], covariance=True)
    for level, (frame, expected) in enumerate(zip(means, PLAIN.scores(Y), strict=True)):
        assert frame.index.equals(FRAME.index) and frame.columns.names == ["group", "factor"]
        np.testing.assert_allclose(frame.to_numpy(), expected.reshape(N, -1), atol=1e-12)
        np.testing.assert_allclose(FIT.scores(FRAME, level), frame, atol=1e-12)
    assert list(means[0].columns) == [("all", "factor 0")]
    assert list(means[1].columns) == [("x", "factor 0"), ("y", "factor 0")]
    assert [x.shape for x in spreads] == [(1, 1, 1), (2, 1, 1)]
    turned = FIT.rotate().scores(FRAME, level=-1)
    assert list(turned.columns) == list(means[1].columns)


def test_scores_of_a_level_without_factors_or_of_groups_that_share_a_name():
    fit = fitted(FRAME, ranks=(1, 0), hierarchy=SECTOR)
    assert fit.scores(FRAME, 1).shape == (N, 0)
    h = Hierarchy.from_labels(list("uuuvvv"), list("ababab"), qualify=True)
    fit = fitted(FRAME, ranks=(0, 0, 1), hierarchy=h)
    assert [group for group, _ in fit.scores(FRAME, 2).columns] == [f"group {g}" for g in range(4)]


def test_results_a_row():
    found = FIT.score_samples(GAPS)
    assert found.index.equals(GAPS.index) and found.name == "loglik"
    np.testing.assert_allclose(found, PLAIN.score_samples(GAPS.to_numpy()), rtol=1e-10)
    assert isinstance(FIT.score(FRAME), float)


def test_what_takes_no_data_has_the_names_of_the_fit():
    assert list(FIT.sample(3, random_state=0).columns) == NAMES
    assert list(FIT.sample(random_state=0).index) == NAMES
    np.testing.assert_allclose(FIT.sample(3, random_state=0), PLAIN.sample(3, random_state=0))
    assert list(FIT.communalities.index) == list(FIT.uniquenesses.index) == NAMES
    shares = FIT.variance_shares("feature")
    assert list(shares.index) == NAMES and list(shares.columns) == ["level 0", "level 1", "D"]
    assert isinstance(FIT.variance_shares(), np.ndarray)
    for x in (PLAIN.sample(3), PLAIN.sample(), PLAIN.communalities, PLAIN.uniquenesses,
              PLAIN.variance_shares("feature"), FIT.mean, FIT.covariance.D):
        assert type(x) is np.ndarray


def test_arrays_in_arrays_out():
    for x in (*FIT.scores(Y), FIT.score_samples(Y), FIT.impute(Y), FIT.rotate().scores(Y, 0),
              FIT.condition(["ant", "dog"]).mean([1.0, 2.0])):
        assert type(x) is np.ndarray


def test_conditional_distributions():
    rest = FIT.condition(pd.Series([True, False] * 3, NAMES)[::-1])
    assert rest.observed_names == ("ant", "cow", "elk")
    assert rest.missing_names == rest.covariance.hierarchy.feature_names == ("bee", "dog", "fox")
    y = pd.Series({"elk": 3.0, "ant": 1.0, "cow": 2.0})
    expected = rest.mean([1.0, 2.0, 3.0])
    for given in (y, dict(y)):
        pd.testing.assert_series_equal(rest.mean(given), pd.Series(expected, rest.missing_names))
    many = rest.mean(y.to_frame("day").T)
    assert list(many.columns) == list(rest.missing_names) and list(many.index) == ["day"]
    for forms in (["ant", "cow", "elk"], pd.Index(["ant", "cow", "elk"]), [0, 2, 4],
                  np.array([True, False] * 3), pd.Series([True, False] * 3, NAMES, object)):
        assert FIT.condition(forms).observed_names == rest.observed_names
    numbered = PLAIN.condition([4, 0])
    assert numbered.observed_names is None
    np.testing.assert_array_equal(numbered.mean(pd.Series({0: 1.0, 4: 2.0})),
                                  numbered.mean([2.0, 1.0]))


@pytest.mark.parametrize("observed, error, message", [
    (pd.Series([True, False], ["ant", "bee"]), ValueError, r"none for 4 features \(cow, dog"),
    (pd.Series([True] * 3 + [False] * 3, list("abcdef")), ValueError, r"6 labels belong to no"),
    ({name: 1.5 for name in NAMES}, TypeError, "a dict must hold True and False"),
    (FRAME, TypeError, "got a table"), (["owl"], ValueError, "names of features, got owl"),
])
def test_selections_that_do_not_fit(observed, error, message):
    with pytest.raises(error, match=message):
        FIT.condition(observed)


def test_pictures_carry_names():
    ax = plotting.plot_correlation(FIT)
    assert {text.get_text() for text in ax.get_yticklabels()} == set(NAMES)
    ax = plotting.plot_correlation(FIT.covariance, names=pd.Series(list("ABCDEF"), NAMES)[::-1])
    assert [text.get_text() for text in ax.get_yticklabels()] == list("ABCDEF")
    ax = plotting.plot_variance_shares(FIT.covariance)
    assert {text.get_text() for text in ax.get_yticklabels()} == {"total", *NAMES}
    ax = plotting.plot_hierarchy(Hierarchy.from_labels(SECTOR))
    assert [text.get_text() for text in ax.get_xticklabels()] == NAMES
    ax = plotting.plot_hierarchy(Hierarchy.from_labels(SECTOR), names=())
    assert not ax.get_xticklabels()
    with pytest.raises(ValueError, match="names must have the labels"):
        plotting.plot_correlation(FIT, names=pd.Series(list("ABCDEF"), list("uvwxyz")))
    plt.close("all")


def test_names_are_kept_in_files_and_found_trees(tmp_path):
    save(tmp_path / "fit.npz", FIT)
    again = load(tmp_path / "fit.npz")
    assert again.feature_names == again.covariance.hierarchy.feature_names == tuple(NAMES)
    pd.testing.assert_series_equal(again.score_samples(FRAME[NAMES[::-1]]),
                                   FIT.score_samples(FRAME))
    assert partition_features(FRAME, (1, 1), min_size=2).feature_names == tuple(NAMES)


# ---------------------------------------------------------------- whose names


def test_nameless_data_take_over_the_names_of_a_tree(tmp_path):
    np.save(tmp_path / "Y.npy", Y)
    mapped, h = np.load(tmp_path / "Y.npy", mmap_mode="r"), Hierarchy.from_labels(SECTOR)
    for data in (Y, Y.tolist(), sp.csr_array(Y), mapped, [Y[:40], Y[40:]], pd.DataFrame(Y)):
        fit = fitted(data, ranks=(1, 0), hierarchy=h)
        assert fit.feature_names == fit.covariance.hierarchy.feature_names == tuple(NAMES)
        with pytest.raises(ValueError, match="the data have none to match them to"):
            fitted(data, ranks=(1, 0), hierarchy=SECTOR)


def test_names_of_data_stay_with_the_tree_of_the_fit():
    fit = fitted(FRAME, ranks=(1, 0), hierarchy=Hierarchy.balanced(6, [1, 2]))
    assert fit.covariance.hierarchy.feature_names == tuple(NAMES)
    again = fitted(FRAME[NAMES[::-1]], ranks=(1, 0), hierarchy=fit.covariance.hierarchy)
    assert again.covariance.hierarchy.labels(1).tolist() == [1, 1, 1, 0, 0, 0]


def test_numbers_of_columns_are_no_names():
    numbered = pd.DataFrame(Y)
    assert fitted(numbered).feature_names is None
    assert FIT.score(numbered) == FIT.score(Y)
    assert PLAIN.score(numbered[[5, 4, 3, 2, 1, 0]]) == PLAIN.score(Y)
    with pytest.raises(ValueError, match=r"Y has names of features \(ant, .*has none: give Y as a"):
        PLAIN.score(FRAME)


def test_names_that_repeat_are_read_by_position_or_refused():
    twins = FRAME.set_axis(list("aabbcc"), axis=1)
    fit = fitted(twins)
    assert fit.score(twins) == pytest.approx(fit.score(Y))
    with pytest.raises(ValueError, match="Y must have each label once .* got c, b, a more than"):
        fit.score(twins.iloc[:, ::-1])
    with pytest.raises(ValueError, match="more than one feature of the data is called a, b, c"):
        fitted(twins, ranks=(1, 0), hierarchy={"a": "x", "b": "x", "c": "y"})


def test_chunks_are_put_in_the_order_of_the_first():
    table, parts = SECTOR[::-1].to_dict(), [FRAME[:30], FRAME[30:][NAMES[::-1]]]
    expected = fitted(FRAME, ranks=(1, 0), hierarchy=SECTOR, compress=False)
    for chunks in (parts, lambda: iter(parts), [POLARS[:30], POLARS[30:].select(NAMES[::-1])]):
        found = fitted(chunks, ranks=(1, 0), hierarchy=table)
        assert found.feature_names == tuple(NAMES)
        assert found.loglik == pytest.approx(expected.loglik, rel=1e-6)
    once = fitted(iter(parts), ranks=(1, 0), hierarchy=Hierarchy.from_labels(SECTOR[::-1]),
                  compress=True)
    assert once.feature_names == tuple(NAMES)
    with pytest.raises(ValueError, match=r"chunk 1 must have .* \(fox\).* \(owl\)"):
        fitted([parts[0], parts[1].rename(columns={"fox": "owl"})])


def test_weights():
    w = pd.Series(RNG.uniform(1, 2, N), ROWS)
    expected = fitted(Y, sample_weight=w.to_numpy()).loglik
    assert fitted(FRAME, sample_weight=w[::-1]).loglik == pytest.approx(expected, rel=1e-12)
    numbered = pd.Series(w.to_numpy())[::-1]
    for data in (Y, sp.csr_array(Y), [Y[:50], Y[50:]], [FRAME[:50], FRAME[50:]], POLARS):
        assert fitted(data, sample_weight=numbered).loglik == pytest.approx(
            fitted(data, sample_weight=w.to_numpy()).loglik, rel=1e-12)
        with pytest.raises(ValueError, match="sample_weight has labels .* data have none"):
            fitted(data, sample_weight=w)
    for bad, message in ((np.nan, "be finite, got nan"), (-1, "not be negative, got -1")):
        with pytest.raises(ValueError, match=rf"{message} for sample 2020-01-02"):
            fitted(FRAME, sample_weight=w.where(w.index != ROWS[1], bad))


def test_folds_by_mask():
    held = pd.Series(np.arange(N) % 3 == 0, ROWS)
    found = [select_ranks(FRAME, candidates=[1], criterion="cv", max_iter=5, refit=False,
                          folds=[(~mask, mask)]).table[0].cv_mean
             for mask in (held, held[::-1], held.to_numpy())]
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match="the mask of fold 0 must have the labels of the data"):
        select_ranks(FRAME, candidates=[1], criterion="cv",
                     folds=[(~held, held.set_axis(range(N)))])


# ---------------------------------------------------------------- frames of other libraries


def test_polars():
    fit = fit_factor_model(POLARS, (1, 1), SECTOR, max_iter=60, tol=1e-4)
    assert fit.feature_names == tuple(NAMES) and fit.loglik == pytest.approx(FIT.loglik)
    turned = POLARS.select(NAMES[::-1])
    loglik, level = fit.score_samples(turned), fit.scores(turned, 1)
    assert isinstance(loglik, pl.Series) and loglik.name == "loglik"
    np.testing.assert_allclose(loglik.to_numpy(), FIT.score_samples(FRAME).to_numpy())
    assert level.columns == ["x factor 0", "y factor 0"]
    filled = fit.impute(pl.from_pandas(GAPS.reset_index(drop=True)).select(NAMES[::-1]))
    assert isinstance(filled, pl.DataFrame) and filled.columns == NAMES[::-1]
    np.testing.assert_allclose(filled.select(NAMES).to_numpy(), FIT.impute(GAPS).to_numpy())
    rest = fit.condition(["dog", "ant"]).mean(POLARS.select(["ant", "dog"])[:3])
    assert isinstance(rest, pl.DataFrame) and rest.columns == ["bee", "cow", "elk", "fox"]
    assert select_ranks(POLARS, hierarchy=SECTOR, candidates=[(1, 0)], criterion="cv",
                        max_iter=5).fit.feature_names == tuple(NAMES)
    with pytest.raises(ValueError, match=r"none for 1 feature \(fox\)"):
        fit.score(POLARS.drop("fox"))


def test_polars_covariances_stand_in_the_order_of_their_columns():
    S = FRAME.cov()
    turned = S.loc[NAMES[::-1], NAMES[::-1]]
    table = pl.DataFrame({name: turned[name].to_numpy() for name in turned})
    assert FIT.kl_divergence(table) == pytest.approx(FIT.kl_divergence(S), rel=1e-12)


# ---------------------------------------------------------------- inputs


FORMS = {
    "big-endian": Y.astype(">f8"), "object": Y.astype(object), "nullable": FRAME.astype("Float64"),
    "object frame": FRAME.astype(object), "strided": np.repeat(Y, 2, axis=1)[:, ::2],
    "Fortran": np.asfortranarray(Y), "masked nowhere": np.ma.array(Y), "list": Y.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_same_numbers(form):
    found, expected = fitted(FORMS[form]), fitted(Y)
    assert found.loglik == pytest.approx(expected.loglik, rel=1e-10)
    np.testing.assert_allclose(FIT.score_samples(FORMS[form]), PLAIN.score_samples(Y), rtol=1e-9)


HOLES = np.abs(Y) > 2.2
MISSING = {
    "NaN": np.where(HOLES, np.nan, Y), "masked": np.ma.array(Y, mask=HOLES),
    "None": np.where(HOLES, None, Y.astype(object)), "NA": FRAME.astype("Float64").mask(HOLES),
    "masked objects": np.ma.array(Y.astype(object), mask=HOLES),
    "null": pl.from_pandas(FRAME.mask(HOLES).reset_index(drop=True)),
}


@pytest.mark.parametrize("form", MISSING)
def test_missing_cells_are_left_out_of_folds_in_every_form(form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found, expected = (select_ranks(data, candidates=[1], criterion="cv", shuffle=False,
                                        refit=False, missing="em", max_iter=5).table[0].cv_mean
                           for data in (MISSING[form], MISSING["NaN"]))
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", MISSING)
def test_missing_cells_are_missing_in_every_form(form):
    data, plain = MISSING[form], MISSING["NaN"]
    assert fitted(data, missing="em").loglik == pytest.approx(fitted(plain, missing="em").loglik)
    np.testing.assert_allclose(FIT.score_samples(data), PLAIN.score_samples(plain), rtol=1e-9)
    np.testing.assert_allclose(FIT.impute(data), PLAIN.impute(plain), rtol=1e-9)
    np.testing.assert_allclose(np.reshape(FIT.scores(data, 1), (N, 2)),
                               np.reshape(PLAIN.scores(plain, 1), (N, 2)), rtol=1e-9)
    parts = [data[:50], data[50:]]
    assert fitted(parts, missing="em").loglik == pytest.approx(fitted(plain, missing="em").loglik)
    for refuse in (fitted, lambda data: fitted(parts)):
        with pytest.raises(ValueError, match="missing cell|finite"):
            refuse(data)


NOT_IN_MEMORY = {
    "lazy": POLARS.lazy(), "operator": FIT.covariance,
    "scipy": aslinearoperator(Y), "dense": Dense(np.eye(6)),
}


@pytest.mark.parametrize("kind", NOT_IN_MEMORY)
def test_what_is_not_in_memory_is_not_computed(kind):
    data = NOT_IN_MEMORY[kind]
    for call in (fitted, FIT.score_samples, FIT.scores, FIT.impute,
                 lambda data: select_ranks(data, candidates=[1])):
        with pytest.raises(TypeError, match="must be in memory|must be numbers, got the operator"):
            call(data)
    with pytest.raises(TypeError, match="chunk 0 must be"):
        fitted([data], hierarchy=Hierarchy.flat(6)) if kind != "lazy" else fitted(lambda: [data])


def test_a_dask_array_is_fitted_where_it_is():
    """It was refused before: more in test_dask_data.py."""
    blocks = da.from_array(Y, chunks=(30, 6))
    assert fitted(blocks).loglik == pytest.approx(fitted(Y, compress=False).loglik)
    with pytest.raises(TypeError, match="chunk 0 must be in memory"):
        fitted([blocks], hierarchy=Hierarchy.flat(6))


@pytest.mark.parametrize("data, error, message", [
    (FRAME["ant"], ValueError, r"must be 2-d, samples by features, got shape \(90,\)"),
    (POLARS["ant"], ValueError, "must be 2-d, samples by features"),
    (FRAME.iloc[:0], ValueError, "at least 2 samples"),
    (FRAME.iloc[:, :0], ValueError, "at least one feature"),
    (FRAME.astype(str), TypeError, r"numeric, .* in 6 columns \(ant, bee"),
    (FRAME.assign(cow="x"), TypeError, r"in 1 column \(cow\)"),
    (POLARS.with_columns(pl.lit("x").alias("cow")), TypeError, r"in 1 column \(cow\)"),
    (FRAME.where(FRAME < 2, np.inf), ValueError, r"infinite cells in .* \(ant, bee"),
    (FRAME.assign(elk=1.0), ValueError, r"1 constant feature \(elk\)"),
])
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        fitted(data)


def test_cells_are_refused_by_name():
    for bad, call in ((np.inf, FIT.score), (np.inf, FIT.scores), (np.inf, FIT.impute)):
        with pytest.raises(ValueError, match=r"in 1 cell \(feature dog\)"):
            call(FRAME.mask((FRAME.index == ROWS[3])[:, None] & (FRAME.columns == "dog"), bad))
