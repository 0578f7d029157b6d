"""The house rules: who imports whom, how long files are."""

import ast
from pathlib import Path

import pytest

import mlrops

PACKAGE = Path(mlrops.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FACTORIZATIONS = {"cho_factor", "cholesky", "cho_solve", "cholesky_banded", "inv", "pinv", "solve",
                  "lu_factor", "ldl", "spsolve", "splu", "factorized", "lstsq"}
# What is no covariance: a matrix of the last few steps, two rows for each.
OWN = {"factor/secant.py": {"pinv"}}
HEAVY = {"pandas", "sklearn", "matplotlib", "numba", "pylops", "IPython", "narwhals", "zarr",
         "h5py", "pyarrow", "dask", "distributed", "joblib"}
# A room imports from those before it, and from itself, only.
ROOMS = ("_common", "io", "kernels", "tree", "operators", "datasets", "fitting", "factor",
         "regression", "plotting", "sklearn.py", "models.py", "cli", "__main__.py")
# Rooms that do without one before them.
APART = {"kernels": {"io"}, "tree": {"io"}, "operators": {"datasets"}, "datasets": {"io"},
         "fitting": {"kernels", "datasets"}, "factor": {"kernels", "datasets"},
         "regression": {"kernels", "datasets", "fitting"}, "sklearn.py": {"plotting", "kernels"}}
# What is compiled for one kind of E-step, for the climb or for one fit stands with it.
COMPILING = ("factor/estep", "factor/likelihood.py", "factor/scoring.py", "factor/secant.py",
             "fitting/_compiled_bisection.py")


def module_name(file):
    parts = ("mlrops", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file, inside_functions=True, types=False):
    """(module, name or None) of every import of a file, relative ones resolved.

    Those that only type checkers read count with `types`.
    """
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            node.body = []
    nodes = ast.walk(tree) if inside_functions else outside_functions(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def outside_functions(tree):
    """Statements that run when the module is imported, those for type checkers left out."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


def reaches(file, target):
    """Whether a file imports `target` or something below it."""
    return any(
        full == target or full.startswith(target + ".")
        for module, name in imports(file)
        for full in (module, f"{module}.{name}" if name else module)
    )


def room_of(file):
    return file.relative_to(PACKAGE).parts[0]


def within(*rooms):
    return [f for f in FILES if room_of(f) in rooms]


def files_imported(file, types=False):
    """The files of the package that a file imports."""
    for module, name in imports(file, types=types):
        for full in (f"{module}.{name}", module):
            if full in BY_NAME and BY_NAME[full] != file:
                yield BY_NAME[full]
                break


BY_NAME = {module_name(file): file for file in FILES}


def test_the_walk_sees_relative_imports():
    operator = PACKAGE / "operators" / "mlr.py"
    assert ("mlrops", "kernels") in set(imports(operator))
    assert ("mlrops.operators.factored", "Factored") in set(imports(operator))
    assert reaches(operator, "mlrops.kernels") and reaches(operator, "mlrops.tree.hierarchy")
    assert not reaches(operator, "mlrops.factor")
    assert reaches(PACKAGE / "kernels" / "_jit.py", "numba")
    assert PACKAGE / "operators" / "factored.py" in set(files_imported(operator))


def test_every_file_has_a_room():
    assert {room_of(file) for file in FILES} == {*ROOMS, "__init__.py"}


@pytest.mark.parametrize("file", within(*ROOMS), ids=module_name)
def test_one_direction_only(file):
    room, place = room_of(file), file.relative_to(PACKAGE).as_posix()
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - APART.get(room, set())
    if place.startswith(COMPILING):
        allowed |= {"kernels"}
    if room in ("cli", "__main__.py"):
        allowed |= {"__init__.py"}
    others = {room_of(other) for other in files_imported(file)} - allowed
    assert not others, f"{place} imports {others}"


def test_only_compiling_files_import_numba():
    assert [f.name for f in FILES if reaches(f, "numba")] == ["_jit.py", "_lanes.py"]


def circles(types=False):
    """Groups of files that import each other, directly or through others (Tarjan's algorithm)."""
    number, low, stack, found = {}, {}, [], []

    def visit(file):
        number[file] = low[file] = len(number)
        stack.append(file)
        for other in set(files_imported(file, types)):
            if other not in number:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], number[other])
        if low[file] == number[file]:
            members = stack[stack.index(file):]
            del stack[-len(members):]
            if len(members) > 1:
                found.append(members)

    for file in FILES:
        if file not in number:
            visit(file)
    return found


def test_no_circle():
    """Operators look up in a table of rules, which knows none of them, what they give together."""
    assert [[file.relative_to(PACKAGE).as_posix() for file in members]
            for members in circles()] == []


def test_one_circle_of_types():
    """The verbs that all operators have give operators: for type checkers only."""
    assert [{file.name for file in members} for members in circles(types=True)] == [
        {"arithmetic.py", "base.py"}]


def test_no_room_is_called_tests():
    assert not [file for file in FILES if file.stem in ("tests", "conftest")]


@pytest.mark.parametrize("file", within("factor", "regression", "fitting"), ids=lambda f: f.name)
def test_models_factor_no_covariance_of_their_own(file):
    names, name = {name for _, name in imports(file)}, file.relative_to(PACKAGE).as_posix()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        # np.linalg.inv, scipy.linalg.cho_factor, linalg.solve, sla.cholesky ...
        if isinstance(node, ast.Attribute) and node.attr in FACTORIZATIONS - OWN.get(name, set()):
            owner = ast.unparse(node.value)
            if owner.split(".")[-1] in {"linalg", "la", "sla", "spla", "splinalg"}:
                names.add(node.attr)
    assert not names & FACTORIZATIONS


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_import_time_dependencies(file):
    heavy = {module.split(".")[0] for module, _ in imports(file, inside_functions=False)} & HEAVY
    if file.name in ("_jit.py", "_lanes.py"):
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
