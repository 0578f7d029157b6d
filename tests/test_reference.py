"""The reference: docstrings say what signatures have, in numpydoc's form, and stand alone."""

import ast
import builtins
import dataclasses
import doctest
import functools
import importlib.util
import inspect
import re
import textwrap

import pytest

import mlrops
import mlrops.datasets
import mlrops.plotting
from mlrops._common.deprecated import OldName
from mlrops._common.stored import Stored

ORDER = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns", "See Also", "Notes",
         "References", "Examples")
LISTS = ("Parameters", "Attributes", "Returns", "Yields")
RETURNED = {  # classes that nobody builds, but everybody holds
    "mlrops.datasets.french": ("FrenchReturns",),
    "mlrops.datasets.grunfeld": ("GrunfeldPanel",),
    "mlrops.datasets.matrices": ("PointMatrix",),
    "mlrops.datasets.simulate": ("Simulation",),
    "mlrops.datasets.simulate_regression": ("GLSSimulation", "SURSimulation"),
    "mlrops.factor.conditional": ("Conditional",),
    "mlrops.factor.fit_measures": ("FitMeasures",),
    "mlrops.factor.maximum": ("Curvature", "MaximumCheck", "OtherStart"),
    "mlrops.factor.rank_table": ("RankRecord",),
    "mlrops.factor.rotation": ("RotatedLoadings",),
    "mlrops.regression.sur.bootstrap": ("Bootstrap",),
    "mlrops.regression.sur.hypotheses": ("HypothesisTest",),
    "mlrops.regression.sur.prediction": ("SystemPrediction",),
    "mlrops.operators": ("LstsqInfo", "OperatorReport"),
    "mlrops.operators.krylov": ("LogdetEstimate",),
}
UNBUILT = {"Conditional", "DistributedMLR", "LogdetEstimate", "MLRInverse",
           "WoodburyInverse"}  # by other objects
SOURCES = {  # whose method it is, as the docstring has to say
    "mlrops.MLR": "Parshakova", "mlrops.GeneralMLR": "Parshakova", "mlrops.Woodbury": "Woodbury",
    "mlrops.MLR.posterior": "Takahashi",
    "mlrops.MLR.expanded_cholesky": "Parshakova",
    "mlrops.GeneralMLR.lstsq": "Fong", "mlrops.StructuredOperator.slogdet": "Ubaru",
    "mlrops.fit_mlr": "Parshakova", "mlrops.allocate_ranks": "Parshakova",
    "mlrops.partition": "Dhillon", "mlrops.partition_points": "Bentley",
    "mlrops.fit_factor_model": "Rubin", "mlrops.select_ranks": "Schwarz",
    "mlrops.select_sur_ranks": "Schwarz",
    "mlrops.FactorModelResult.rotate": "Kaiser", "mlrops.FactorModelResult.scores": "Bartlett",
    "mlrops.FactorModelResult.fit_measures": "Bartlett",
    "mlrops.gls": "Aitken", "mlrops.als_gls": "Oberhofer", "mlrops.em_gls": "Meng",
    "mlrops.SUR": "Zellner", "mlrops.SURResult.breusch_pagan": "Breusch",
    "mlrops.SURResult.mcelroy_rsquared": "McElroy", "mlrops.SURResult.likelihood_ratio": "Drton",
    "mlrops.SURResult.wald_test": "Fai", "mlrops.SURResult.homogeneity_test": "Zellner",
    "mlrops.SURResult.with_cov": "Newey", "mlrops.SURResult.factor_scores": "Bartlett",
    "mlrops.datasets.load_grunfeld": "Grunfeld", "mlrops.datasets.load_french": "French",
}


def _public_objects():
    """Name and object of everything public: functions, classes, and classes that come back."""
    modules = [mlrops, mlrops.datasets, mlrops.plotting]
    if importlib.util.find_spec("sklearn"):
        modules.append(importlib.import_module("mlrops.sklearn"))
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                yield f"{module.__name__}.{name}", thing
    for module, names in RETURNED.items():
        for name in names:
            yield f"{module}.{name}", getattr(importlib.import_module(module), name)


def _members(cls):
    """Name, owner and attribute of public methods and properties that the package defines."""
    for name in dir(cls):
        owner = next(c for c in cls.__mro__ if name in vars(c))
        thing = vars(owner)[name]
        described = vars(Stored).get(name, thing) is thing  # else where the hook comes from
        if (not name.startswith("_") and owner.__module__.startswith("mlrops") and described
                and not isinstance(thing, OldName)):
            yield name, owner, thing


def _function(thing):
    """The function behind a method or property; None behind data."""
    if isinstance(thing, property):
        return thing.fget
    if isinstance(thing, functools.cached_property):
        return thing.func
    if isinstance(thing, (classmethod, staticmethod)):
        return thing.__func__
    return thing if inspect.isfunction(thing) else None


def _reference():
    """(name, object, function to inspect, kind), inherited members once."""
    seen = set()
    for name, thing in _public_objects():
        if not inspect.isclass(thing):
            yield name, thing, thing, "function"
            continue
        yield name, thing, thing.__init__, "class"
        for member, owner, attribute in _members(thing):
            function = _function(attribute)
            if function is None or (owner, member) in seen:
                continue
            seen.add((owner, member))
            calls = not isinstance(attribute, (property, functools.cached_property))
            home = f"mlrops.{owner.__name__}" if owner.__name__ in mlrops.__all__ else name
            yield f"{home}.{member}", function, function, "method" if calls else "property"


ENTRIES = {name: rest for name, *rest in _reference()}
PUBLIC = dict(_public_objects())
CALLED = [name for name, (_, _, kind) in ENTRIES.items() if kind in ("function", "method")]


def _is_record(thing):
    """Whether a class is filled by the package: a dataclass or a named tuple."""
    return inspect.isclass(thing) and (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"))


def _doc(name):
    return inspect.getdoc(ENTRIES[name][0]) or ""


def _sections(doc):
    """(title, lines) of the sections of a docstring, in order; the first has no title."""
    lines = doc.splitlines()
    found = [(None, [])]
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        heads = number == 0 or not lines[number - 1].strip()
        if line.strip() and heads and re.fullmatch(r"-{3,}", below):
            found.append((line, []))
        elif not (found[-1][0] == lines[number - 1] and re.fullmatch(r"-{3,}", line)):
            found[-1][1].append(line)
    return found


def _section(doc, title):
    return dict(_sections(doc)).get(title)


def _items(doc, title):
    """(names, type, description) of each item of a section."""
    items = []
    for line in _section(doc, title) or []:
        if line.startswith(" "):
            items[-1][2].append(line.strip())
        elif line.strip():
            names, _, kind = line.partition(" : ")
            items.append(([name.strip() for name in names.split(",")], kind.strip(), []))
    return [(names, kind, " ".join(text)) for names, kind, text in items]


def _parameters(name):
    """Names of the parameters that are the caller's, stars as in numpydoc."""
    parameters = inspect.signature(ENTRIES[name][1]).parameters.values()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(p.kind, "") + p.name for p in parameters
            if p.name not in ("self", "cls", "fit") and not p.name.startswith("_")]


def _body(function):
    """Statements of a function, those of functions within it apart."""
    pending = list(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            pending.extend(ast.iter_child_nodes(node))


def _gives_something(function):
    return any(isinstance(node, (ast.Yield, ast.YieldFrom))
               or isinstance(node, ast.Return) and node.value is not None
               and not (isinstance(node.value, ast.Constant) and node.value.value is None)
               for node in _body(function))


def _refuses(function):
    """Whether it raises by itself, other than to say that a subclass has to."""
    return any(isinstance(node, ast.Raise) and "NotImplemented" not in ast.unparse(node)
               and node.exc is not None for node in _body(function))


@pytest.mark.parametrize("name", ENTRIES)
def test_sections(name):
    doc = _doc(name)
    assert doc and doc.splitlines()[0].rstrip().endswith((".", "`.", ":")), "no summary line"
    titles = [title for title, _ in _sections(doc)[1:]]
    assert set(titles) <= set(ORDER)
    assert titles == sorted(titles, key=ORDER.index) and len(set(titles)) == len(titles)
    lines = doc.splitlines()
    for number, line in enumerate(lines):
        if line.strip().rstrip(":") in ORDER:
            assert line in ORDER and lines[number + 1] == "-" * len(line), f"underline of {line}"
            assert not lines[number - 1] and lines[number + 2].strip(), f"lines around {line}"
    for title in LISTS:
        for names, kind, text in _items(doc, title):
            assert all(re.fullmatch(r"\*{0,2}[A-Za-z_][\w.]*", n) for n in names) or not kind
            assert not names[0].startswith("None") and (kind or text or title == "Returns")


@pytest.mark.parametrize("name", [name for name, (thing, _, kind) in ENTRIES.items()
                                  if kind != "property" and not _is_record(thing)])
def test_parameters_are_those_of_the_signature(name):
    expected, thing = _parameters(name), ENTRIES[name][0]
    if inspect.isclass(thing) and (issubclass(thing, Warning) or thing.__name__ in UNBUILT):
        return
    found = [n for names, _, _ in _items(_doc(name), "Parameters") for n in names]
    if expected and expected[-1].startswith("**") and expected[-1] not in found:
        named = expected[:-1]  # in the place of **options its keywords
        assert found[: len(named)] == named and len(found) > len(named)
    else:
        assert found == expected


@pytest.mark.parametrize("name", ENTRIES)
def test_types_and_shapes(name):
    doc = _doc(name)
    for title in ("Parameters", "Attributes"):
        for names, kind, text in _items(doc, title):
            assert kind or text.startswith("As "), f"type of {names}"
            if re.search(r"\b(nd)?array(_like)?\b", kind):
                assert re.search(r"shapes? |\(", kind), f"shape of {names}: {kind}"
    if ENTRIES[name][2] in ("function", "method"):
        for names, kind, _ in _items(doc, "Returns"):
            if "ndarray" in kind or "ndarray" in names[0]:
                assert re.search(r"shapes? ", f"{names} {kind}"), f"shape of {names}: {kind}"


@pytest.mark.parametrize("name", CALLED)
def test_returns(name):
    function, kind = ENTRIES[name][1:]
    told = _section(_doc(name), "Returns") is not None
    if not _gives_something(function):
        assert not told
    elif kind == "function" or _parameters(name):
        assert told


@pytest.mark.parametrize("name", ENTRIES)
def test_raises(name):
    thing, function, kind = ENTRIES[name]
    told = _section(_doc(name), "Raises") is not None
    if kind == "function" and _parameters(name):
        assert told
    elif kind == "class" and not _is_record(thing) and not issubclass(thing, Warning):
        assert told or not _parameters(name) or thing.__name__ in UNBUILT
    elif inspect.isfunction(function) and kind != "class" and _refuses(function):
        assert told


@pytest.mark.parametrize("name", ENTRIES)
def test_records_have_attributes(name):
    thing = ENTRIES[name][0]
    documented = [n for names, _, _ in _items(_doc(name), "Attributes") for n in names]
    if _is_record(thing):
        fields = getattr(thing, "_fields", None) or [f.name for f in dataclasses.fields(thing)]
        public = [field for field in fields if not field.startswith("_")]
        assert set(public) <= set(documented), set(public) - set(documented)
    if inspect.isclass(thing):
        known = set(dir(thing)) | {"n_features_in_", "feature_names_in_"}  # of scikit-learn
        for cls in thing.__mro__[:-1]:
            known |= set(vars(cls).get("__annotations__", {}))
        known |= set(re.findall(r"self\.(\w+)", inspect.getsource(thing)))
        assert set(documented) <= known, set(documented) - known


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name):
    examples = _section(_doc(name), "Examples")
    assert examples and any(line.startswith(">>> ") for line in examples)


@pytest.mark.parametrize("name", [n for n in ENTRIES if ">>> " in _doc(n)])
def test_examples_stand_alone(name):
    """What an example uses it imports or makes, from the place where users find it."""
    code = "".join(e.source for e in doctest.DocTestParser().get_examples(_doc(name)))
    tree = ast.parse(code)
    made, used = set(dir(builtins)), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mlrops"):
            elsewhere = {alias.name for alias in node.names} & set(mlrops.__all__)
            assert node.module == "mlrops" or not elsewhere, f"import {elsewhere} from mlrops"
    assert not used - made


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_named(name):
    text = _doc(name)
    assert SOURCES[name] in text and re.search(r"\b(1[89]|20)\d\d\b", text)


def test_what_the_audit_sees():
    doc = ("Do.\n\nParameters\n----------\nx, y : array_like, shape (n,)\n    Two.\n\n"
           "Returns\n-------\nz : int")
    assert [title for title, _ in _sections(doc)] == [None, "Parameters", "Returns"]
    assert _items(doc, "Parameters") == [(["x", "y"], "array_like, shape (n,)", "Two.")]
    assert {"mlrops.MLR.posterior", "mlrops.SURResult.rsquared", "mlrops.MLR"} <= set(ENTRIES)
    assert _refuses(mlrops.Hierarchy._level) and not _refuses(mlrops.Hierarchy.labels)
    assert _gives_something(mlrops.load) and not _gives_something(mlrops.save)
    assert _parameters("mlrops.BlockDiagonal") == ["*ops"]


def test_the_package_opens_with_notation_an_example_and_its_names():
    doc = inspect.getdoc(mlrops)
    titles = [title for title, _ in _sections(doc)]
    assert titles[1:] == ["Notation, used everywhere", "A worked example", "What is here"]
    for name in mlrops.__all__:
        assert re.search(rf"\b{name}\b", doc), f"{name} is not in help(mlrops)"
