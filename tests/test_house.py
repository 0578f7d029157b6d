"""The house rules: who imports whom, how long files are."""

import ast
from pathlib import Path

import pytest

import mlrops

PACKAGE = Path(mlrops.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FACTORIZATIONS = {"cho_factor", "cholesky", "cho_solve", "cholesky_banded", "inv", "pinv", "solve",
                  "lu_factor", "ldl", "spsolve", "splu", "factorized", "lstsq"}
SHARED = PACKAGE / "operators" / "_validate.py"  # one wording for one mistake, for everybody
HEAVY = {"pandas", "sklearn", "matplotlib", "numba", "pylops", "IPython"}


def module_name(file):
    parts = ("mlrops", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file, inside_functions=True):
    """(module, name or None) of every import of a file, relative ones resolved."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else outside_functions(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def outside_functions(tree):
    """Statements that run when the module is imported."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


def reaches(file, target):
    """Whether a file imports `target` or something below it, the wording of checks apart."""
    return any(
        full == target or full.startswith(target + ".")
        for module, name in imports(file)
        if module != module_name(SHARED)
        for full in (module, f"{module}.{name}" if name else module)
    )


def within(*folders):
    return [f for f in FILES if f.relative_to(PACKAGE).parts[0] in folders]


def test_the_walk_sees_relative_imports():
    operator = PACKAGE / "operators" / "mlr.py"
    assert ("mlrops", "kernels") in set(imports(operator))
    assert ("mlrops.operators.base", "StructuredOperator") in set(imports(operator))
    assert reaches(operator, "mlrops.kernels") and reaches(operator, "mlrops.hierarchy")
    assert not reaches(operator, "mlrops.models")
    assert reaches(PACKAGE / "kernels" / "_jit.py", "numba")


@pytest.mark.parametrize("folders, forbidden", [
    (("models", "fitting"), ("mlrops.kernels", "numba")),
    (("kernels",), ("mlrops.operators", "mlrops.models", "mlrops.hierarchy", "mlrops.fitting",
                    "mlrops._grouping", "mlrops.datasets")),
    (("hierarchy.py", "_grouping.py"), ("mlrops.operators", "mlrops.models", "mlrops.fitting")),
    (("operators",), ("mlrops.models", "mlrops.fitting", "numba", "mlrops.datasets")),
], ids=["models", "kernels", "hierarchy", "operators"])
def test_one_direction_only(folders, forbidden):
    files = within(*folders)
    assert files
    for file in files:
        for target in forbidden:
            assert not reaches(file, target), f"{file.name} imports {target}"


def test_nothing_imports_the_commands():
    inside = within("cli", "__main__.py")
    assert any(reaches(file, "mlrops.cli") for file in inside)
    for file in set(FILES) - set(inside):
        assert not reaches(file, "mlrops.cli"), f"{file.name} imports mlrops.cli"


def test_shared_checks_know_nothing_of_the_package():
    assert {module for module, _ in imports(SHARED)} <= {
        "numpy", "decimal", "numbers", "operator", "mlrops._wording"}
    assert not set(imports(PACKAGE / "_wording.py"))
    assert {module for module, _ in imports(PACKAGE / "_labels.py")} <= {
        "collections.abc", "mlrops._wording"}


@pytest.mark.parametrize("file", within("models", "fitting"), ids=lambda f: f.name)
def test_models_factor_no_covariance_of_their_own(file):
    names = {name for _, name in imports(file)}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        # np.linalg.inv, scipy.linalg.cho_factor, linalg.solve, sla.cholesky ...
        if isinstance(node, ast.Attribute) and node.attr in FACTORIZATIONS:
            owner = ast.unparse(node.value)
            if owner.split(".")[-1] in {"linalg", "la", "sla", "spla", "splinalg"}:
                names.add(node.attr)
    assert not names & FACTORIZATIONS


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_import_time_dependencies(file):
    heavy = {module.split(".")[0] for module, _ in imports(file, inside_functions=False)} & HEAVY
    if file.name == "_jit.py":
        assert heavy <= {"numba"}
    elif file.name == "sklearn.py":
        assert heavy <= {"sklearn"}
    else:
        assert not heavy


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{file.name} does not say what it is for"


def test_tests_are_short():
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert Path(__file__) in files
    assert not [f.name for f in files if len(f.read_text(encoding="utf-8").splitlines()) >= 500]
