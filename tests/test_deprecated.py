"""Names of earlier versions work, and warn with the name of today."""

import ast
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import mlrops
from mlrops._common.deprecated import moved_names, old_attribute, renamed_options

PACKAGE = Path(mlrops.__file__).parent
# What version 0.1.0 had in mlrops.models, and where it is now.
MODELS = {
    "mlrops": ["ConvergenceWarning"],
    "mlrops.factor": [
        "FactorModelResult", "RankRecord", "RankSelection", "RotatedLoadings",
        "degrees_of_freedom", "fit_factor_model", "select_ranks"],
    "mlrops.regression": [
        "Bootstrap", "GLSResult", "HypothesisTest", "SUR", "SURResult", "SystemPrediction",
        "als_gls", "corrected_covariance", "effective_weights", "em_gls", "gls", "residual_df",
        "select_sur_ranks"],
}
ITERATES = [("mlrops.models", "FactorModelIterate"), ("mlrops.models", "SURIterate"),
            ("mlrops.factor", "FactorModelIterate"), ("mlrops.regression", "SURIterate"),
            ("mlrops.fitting", "MLRIterate")]


@pytest.mark.parametrize("home, name", [(home, name) for home, names in MODELS.items()
                                        for name in names])
def test_names_of_models(home, name):
    with pytest.warns(DeprecationWarning, match=rf"mlrops\.models\.{name} is called {home}\.{name}"
                      ) as seen:
        found = getattr(mlrops.models, name)
    assert found is getattr(import_module(home), name)
    assert [w.filename for w in seen] == [__file__]


@pytest.mark.parametrize("module, name", ITERATES)
def test_iterates(module, name):
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{name} is called mlrops\.Iterate"):
        assert getattr(import_module(module), name) is mlrops.Iterate


@pytest.mark.parametrize("name", ["ConvergenceWarning", "UnboundedWarning"])
def test_warnings_of_operators(name):
    with pytest.warns(DeprecationWarning, match=f"mlrops.operators.{name} is called mlrops.{name}"):
        assert getattr(mlrops.operators, name) is getattr(mlrops, name)


def test_names_that_never_were():
    with pytest.raises(AttributeError, match=r"module 'mlrops\.models' has no attribute 'nothing'"):
        mlrops.models.nothing  # noqa: B018
    find = moved_names("old", {"sqrt": "math", "root": "math:sqrt"})
    with pytest.warns(DeprecationWarning, match=r"old\.root is called math\.sqrt since"):
        assert find("root")(9) == 3


def test_the_package_uses_no_old_name():
    """Every call of the three helpers is about another name than the one of today."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = getattr(getattr(node, "func", None), "id", None)
            if called == "old_attribute":
                assert ast.unparse(node.args[0]) != ast.unparse(node.args[1])
            if called == "renamed_options":
                assert all(k.arg != ast.literal_eval(k.value) for k in node.keywords)


def test_an_old_attribute():
    class Fit:
        steps = old_attribute("steps", "n_iter")
        n_iter = 3

    with pytest.warns(DeprecationWarning, match="Fit.steps is called Fit.n_iter since version 0.2"
                      ) as seen:
        assert Fit().steps == 3
    assert seen[0].filename == __file__
    with pytest.raises(AttributeError):
        Fit().steps = 4


def test_an_old_option():
    @renamed_options(steps="max_iter")
    def fit(x, max_iter=10):
        """It fits."""
        return x, max_iter

    with pytest.warns(DeprecationWarning, match=r"fit\(steps=\) is called max_iter= since") as seen:
        assert fit(1, steps=5) == (1, 5)
    assert seen[0].filename == __file__
    with pytest.raises(TypeError, match="fit got both max_iter= and steps=, its earlier name"):
        fit(1, steps=5, max_iter=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(1, 4) == fit(1, max_iter=4) == (1, 4)
    assert fit.__doc__ == "It fits." and fit.__wrapped__ is not fit
