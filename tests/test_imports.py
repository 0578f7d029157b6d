"""What importing the package loads, and what of it can be found: names, completion, help."""

import ast
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import mlrops

HEAVY = ("scipy.cluster", "scipy.spatial", "numba", "pandas", "sklearn", "matplotlib", "narwhals",
         "dask", "distributed", "joblib",
         "zarr", "h5py", "pyarrow")
MODELS = ("mlrops.factor", "mlrops.regression", "mlrops.fitting", "mlrops.plotting", "mlrops.cli")
LOADED = "import sys\nbefore = set(sys.modules)\n{}\nprint(*sorted(set(sys.modules) - before))"


def loaded(statement):
    done = subprocess.run([sys.executable, "-c", LOADED.format(statement)], capture_output=True,
                          text=True, check=True)
    return set(done.stdout.split())


def below(modules, names):
    return sorted(m for m in modules for name in names if m == name or m.startswith(f"{name}."))


def test_the_package_loads_next_to_nothing():
    found = loaded("import mlrops")
    assert not below(found, (*HEAVY, *MODELS, "scipy", "mlrops.operators", "mlrops.io"))


@pytest.mark.parametrize("statement", [
    "from mlrops import MLR, Diagonal, Hierarchy", "from mlrops import save, load, io",
    "import mlrops; mlrops.Diagonal([1.0]) @ [1.0]"])
def test_operators_load_no_models(statement):
    assert not below(loaded(statement), (*HEAVY, *MODELS))


def test_models_load_only_what_they_use():
    assert not below(loaded("from mlrops import fit_factor_model, fit_mlr, SUR"), HEAVY)


def test_loading_an_operator_loads_no_models(tmp_path):
    path = tmp_path / "a.npz"
    mlrops.save(path, mlrops.Diagonal([1.0, 2.0]))
    assert not below(loaded(f"import mlrops; mlrops.load({str(path)!r})"), (*HEAVY, *MODELS))


def test_every_name_is_there_and_listed():
    assert set(mlrops.__all__) <= set(dir(mlrops))
    for name in mlrops.__all__:
        assert getattr(mlrops, name) is not None
    space = {}
    exec("from mlrops import *", space)
    assert set(mlrops.__all__) <= set(space)
    with pytest.raises(AttributeError, match="module 'mlrops' has no attribute 'nothing'"):
        mlrops.nothing  # noqa: B018
    text = pydoc.plain(pydoc.render_doc(mlrops))
    assert "fit_factor_model" in text and "class MLR" in text


@pytest.mark.parametrize("room", ["io", "datasets", "plotting", "factor", "fitting", "regression"])
def test_rooms_list_their_names(room):
    module = getattr(mlrops, room)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_tables_of_names_agree():
    """What type checkers are told is what runs, and what the package says that it has."""
    tree = ast.parse(Path(mlrops.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If)
                and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.level == 1
        told |= {alias.name: node.module for alias in node.names}
    runs = {name: home for home, names in mlrops._HOMES.items() for name in names.split()}
    modules = {path.stem for path in Path(mlrops.__file__).parent.iterdir()}
    assert set(told) | set(runs) <= set(mlrops.__all__) | modules
    assert {name for name in mlrops.__all__ if name not in runs} <= modules
    assert told.keys() - modules == runs.keys()
    for name, home in runs.items():
        assert told[name] == home or told[name].startswith(f"{home}."), name
