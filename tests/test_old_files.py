"""Files that version 0.1.0 wrote, in ``data/v0.1``: each loads, with every number it had.

What they held stands beside them: numbers in ``expected.json``, arrays in ``expected_arrays.npz``.
Checkpoints of version 0.2.0, in ``data/v0.2``, go on to where its fits went.
"""

import json
import math
import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops import Hierarchy, fit_factor_model
from mlrops.factor import checkpoint, factor_model
from mlrops.io.archive import read_archive

FOLDER = Path(__file__).parent / "data" / "v0.1"
WORDS = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
with np.load(FOLDER / "expected_arrays.npz") as inside:
    ARRAYS = dict(inside)
# What fields and reasons to stop were called, and are called now.
RENAMED = {"errors": "objective_trace", "cg_iterations": "n_cg"}
WORDS_NOW = {"loglik": "tol", "exchanges": "tol"}


def read(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an old name that the loading itself uses
        return mlrops.load(FOLDER / f"{name}.npz")


def plain(x):
    if isinstance(x, (tuple, list)):
        return [plain(y) for y in x]
    x = x.item() if isinstance(x, np.generic) else x
    return "nan" if type(x) is float and math.isnan(x) else x


def same(found, expected):
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def close(found, expected):
    scale = np.abs(expected).max(initial=0)
    rtol = 1e-5 if expected.dtype == np.float32 else 1e-9
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)


def check_fields(name, fit):
    """Every field of a result that is a number, text, an array or an operator."""
    assert type(fit).__name__ == WORDS[name]["class"]
    known = {f.name for f in fields(fit)}
    for old, value in WORDS[name]["fields"].items():
        new = RENAMED.get(old, old)
        found = getattr(fit, new if new in known else old)
        assert plain(found) == (WORDS_NOW.get(value, value) if old == "termination" else value), old
    for key, value in ARRAYS.items():
        owner, _, old = key.partition(".")
        new = RENAMED.get(old, old)
        if owner == name and ({old, new} & known):
            found = getattr(fit, new if new in known else old)
            if isinstance(found, np.ndarray):
                same(found, value)
            elif hasattr(found, "toarray"):
                close(found.toarray(), value)


def test_every_file_is_read_here():
    found = {path.stem for path in FOLDER.glob("*.npz")} - {"expected_arrays"}
    assert found == set(WORDS)


@pytest.mark.parametrize("name", ["operators", "operators_single"])
def test_operators(name):
    blocks = read(name)
    assert len(blocks.ops) == len(WORDS[name])
    for i, (A, expected) in enumerate(zip(blocks.ops, WORDS[name], strict=True)):
        assert type(A).__name__ == expected["class"], expected["name"]
        assert list(A.shape) == expected["shape"]
        assert A.symmetric == expected["symmetric"]
        assert A.positive_definite == expected["positive_definite"]
        close(A.toarray(), ARRAYS[f"{name}.{i}"])
    assert {x["class"] for x in WORDS[name]} >= {
        "BlockDiagonal", "Dense", "Diagonal", "GeneralMLR", "Identity", "Inverse", "Kronecker",
        "LowRank", "LowRankPlusDiagonal", "MLR", "MLRInverse", "Permutation", "Product", "Scaled",
        "Sum", "Transposed", "Woodbury", "WoodburyInverse", "Wrapped"}


def test_hierarchy():
    h, expected = read("hierarchy"), WORDS["hierarchy"]
    same(h.permutation, ARRAYS["hierarchy.permutation"])
    assert [b.tolist() for b in h.boundaries] == expected["boundaries"]
    assert plain([h.names(level) for level in range(h.n_levels)]) == expected["names"]
    assert list(h.feature_names) == expected["feature_names"]
    assert np.array_equal([h.labels(level) for level in range(h.n_levels)],
                          ARRAYS["hierarchy.labels"])


def test_factor_model():
    fit, expected = read("factor_model"), WORDS["factor_model"]
    check_fields("factor_model", fit)
    assert math.isclose(fit.score(ARRAYS["factor_model.Y"]), expected["score"], rel_tol=1e-9)
    h = fit.covariance.hierarchy
    assert plain([h.names(level) for level in range(h.n_levels)]) == expected["names"]
    assert str(fit.summary())


@pytest.mark.parametrize("name", [name for name in WORDS if name.startswith("sur_")])
def test_systems(name):
    pd = pytest.importorskip("pandas")
    fit, expected = read(name), WORDS[name]
    check_fields(name, fit)
    data, names = fit.data, expected["names"]
    same(data.Y, ARRAYS[f"{name}.Y"])
    for field in ("observed", "weights"):
        if f"{name}.{field}" in ARRAYS:
            same(getattr(data, field), ARRAYS[f"{name}.{field}"])
        else:
            assert getattr(data, field) is None
    if f"{name}.R" in ARRAYS:
        same(data.constraints[0], ARRAYS[f"{name}.R"])
        same(data.constraints[1], ARRAYS[f"{name}.q"])
    assert [int(X is data.Xs[0]) for X in data.Xs] == expected["shared"]
    if names is None:
        assert data.names is None
    else:
        assert list(data.names.equations) == names["equations"]
        assert plain(data.names.regressors) == names["regressors"]
        assert list(data.names.constraints or ()) == names["constraints"]
        assert isinstance(data.names.rows, pd.PeriodIndex)
        assert [str(x) for x in data.names.rows] == names["rows"]
        assert (data.names.rows.name, data.names.rows.freqstr) == (
            names["rows_name"], names["freq"])
    assert {key: getattr(fit.options, key) for key in expected["options"]} == expected["options"]
    assert fit.cov_type == expected["kind"]
    kwds = {key: x.tolist() if isinstance(x, np.ndarray) else x for key, x in fit.cov_kwds.items()}
    assert kwds == expected["cov_options"]
    bse = fit.bse
    close(np.concatenate(bse) if isinstance(bse, list) else np.asarray(bse), ARRAYS[f"{name}.bse"])
    same(np.concatenate(fit.coefficients), ARRAYS[f"{name}.coefficients"])
    for key in ("aic", "bic"):
        assert math.isclose(getattr(fit, key), expected[key], rel_tol=1e-9)
    if expected["selection"] is None:
        assert fit.selection is None
    else:
        chosen = {field: plain(getattr(fit.selection, field)) for field in expected["selection"]}
        assert plain([list(x) for x in fit.selection.table]) == chosen["table"]
        assert chosen == expected["selection"]
    assert str(fit.summary())


@pytest.mark.parametrize("name", ["mlr_fit", "rank_allocation", "rank_allocation_symmetric"])
def test_fits_of_matrices(name):
    fit = read(name)
    check_fields(name, fit)
    assert str(fit.summary())


def known_data(path, monkeypatch):
    """Let a fit know its data again: another processor may round the last bits of their digest."""
    data = read_archive(path, checkpoint.KIND)[0]["identity"]["data"]
    made = factor_model.fingerprint
    monkeypatch.setattr(factor_model, "fingerprint", lambda *args, **options: {
        **made(*args, **options), "data": data})


@pytest.mark.filterwarnings("ignore:the fit did not converge")
def test_a_fit_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    """It reaches what the whole fit reached."""
    path = tmp_path / "checkpoint.npz"
    shutil.copy(FOLDER / "checkpoint.npz", path)
    known_data(path, monkeypatch)
    fit = fit_factor_model(ARRAYS["checkpoint.Y"], (1, 1), Hierarchy.from_labels(list("aaabbb")),
                           init="svd", optimizer="bfgs", max_iter=9, tol=0, gtol=0,
                           checkpoint=path, resume=True)
    assert fit.n_iter == 9
    close(fit.covariance.toarray(), ARRAYS["checkpoint.covariance"])
    assert math.isclose(fit.loglik, WORDS["checkpoint"]["fields"]["loglik"], rel_tol=1e-9)


LATER = FOLDER.parent / "v0.2"
GROUPS = list("aaaaabbbbccc")
RULES = {"tol": 0, "gtol": 0}


@pytest.mark.filterwarnings("ignore:the fit did not converge")
@pytest.mark.parametrize("optimizer", ["bfgs", "em"])
def test_a_fit_goes_on_from_a_checkpoint_of_version_0_2_0(optimizer, tmp_path, monkeypatch):
    """Written after 12 updates; what whole fits of that version came to in 18 stands beside."""
    path = tmp_path / "checkpoint.npz"
    shutil.copy(LATER / f"checkpoint_{optimizer}.npz", path)
    known_data(path, monkeypatch)
    with np.load(LATER / "expected_arrays.npz") as arrays:
        expected = dict(arrays)
    seen = []

    def resume(**options):
        options = {"init": "svd", "optimizer": optimizer, **RULES, **options}
        return fit_factor_model(expected["Y"], (1, 1), Hierarchy.from_labels(GROUPS), max_iter=18,
                                checkpoint=path, resume=True, **options)

    other = "em" if optimizer == "bfgs" else "bfgs"
    with pytest.raises(ValueError, match=f"optimizer: {optimizer} there, {other} now"):
        resume(optimizer=other)
    with pytest.raises(ValueError, match="init: svd there, principal_factor now"):
        resume(init="principal_factor")
    with pytest.raises(ValueError, match="prior: None there, strength 2.0"):
        resume(prior=True)
    fit = resume(callback=lambda iterate: seen.append(iterate.n_iter))
    assert seen == list(range(12, 19)) and fit.n_iter == 18
    np.testing.assert_allclose(fit.loglik_trace, expected[f"{optimizer}.trace"], rtol=1e-9)
    np.testing.assert_array_equal(fit.loglik_trace[:13], expected[f"{optimizer}.trace"][:13])
    np.testing.assert_array_equal(fit.objective_trace, fit.loglik_trace)
    np.testing.assert_allclose(fit.covariance.toarray(), expected[f"{optimizer}.covariance"],
                               rtol=1e-6, atol=1e-8)
    assert fit.n_evaluations == expected[f"{optimizer}.n_evaluations"]
    again = resume()  # what is written now goes on, too
    assert np.array_equal(again.loglik_trace, fit.loglik_trace)


def test_a_checkpoint_of_version_0_2_0_is_resumed_by_its_old_word(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    shutil.copy(LATER / "checkpoint_em.npz", path)
    known_data(path, monkeypatch)
    with np.load(LATER / "expected_arrays.npz") as arrays:
        Y = arrays["Y"]
    with pytest.warns(DeprecationWarning, match="accelerate=False is optimizer='em'"):
        fit = fit_factor_model(Y, (1, 1), Hierarchy.from_labels(GROUPS), max_iter=12, gtol=0.9,
                               init="svd", accelerate=False, checkpoint=path, resume=True)
    assert fit.n_iter == 12
