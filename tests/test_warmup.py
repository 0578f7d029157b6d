"""``python -m mlrops warmup`` compiles every kernel, each once; what is compiled is announced."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_documents import examples

from mlrops.cli import warmup
from mlrops.cli.main import main
from mlrops.kernels import _jit

ROOT = Path(__file__).parents[1]


def run(*arguments, **environment):
    """A process of its own: (standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that the command has filled, and what it said."""
    folder = str(tmp_path_factory.mktemp("cache"))
    return folder, run("-m", "mlrops", "warmup", NUMBA_CACHE_DIR=folder)[0]


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_it_says_what_it_did_and_where_the_kernels_are(warm):
    folder, said = warm
    found = re.search(r"Compiled (\d+) kernels in (\d+\.\d) s; they are kept in (.*)\.$", said)
    assert int(found[1]) > 30 and float(found[2]) > 1
    assert Path(found[3]).is_relative_to(folder)
    counts = [int(count) for count in re.findall(r"\.\.\. (\d+) kernels? compiled", said)]
    assert len(counts) == len(warmup.PROBLEMS) and sum(counts) == int(found[1])
    again, _ = run("-m", "mlrops", "warmup", NUMBA_CACHE_DIR=folder)
    assert f"Nothing was to be compiled: the kernels lie in {found[3]}." in again


@pytest.mark.slow
@pytest.mark.parametrize("code, printed", examples())
def test_after_it_no_example_of_the_readme_compiles(code, printed, warm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counting = ("\nimport sys\nfrom mlrops.kernels._jit import compiled\n"
                "print(compiled(), file=sys.stderr)")
    assert run("-c", code + counting, NUMBA_CACHE_DIR=warm[0])[1] == "[]\n"


def test_without_a_place_for_the_cache_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(_jit, "_warned", True)
    monkeypatch.setattr(warmup, "PROBLEMS", {"one": lambda room: None})
    assert main(["warmup"]) == 0
    out = capsys.readouterr().out
    assert "no place to keep them" in out and "NUMBA_CACHE_DIR" in out


# ---------------------------------------------------------------- one signature a kernel


@pytest.mark.slow
def test_every_kernel_is_compiled_for_one_signature(tmp_path):
    """Whether inputs can be written to or not."""
    code = """if True:
        import numpy as np
        from mlrops.cli import warmup
        class Fixed(warmup.Room):
            def draw(self, *shape):
                x = super().draw(*shape)
                x.flags.writeable = False
                return x
        for room in (warmup.Room, Fixed):
            for problem in warmup.PROBLEMS.values():
                problem(room(float))
        import importlib, pkgutil, mlrops
        for module in pkgutil.walk_packages(mlrops.__path__, "mlrops."):
            if "_compiled" in module.name:
                importlib.import_module(module.name)
        from mlrops.kernels._jit import _kernels
        for kernel in _kernels:
            if not kernel.targetoptions.get("no_cpython_wrapper"):  # parts serve several
                print(kernel.py_func.__name__, len(kernel.signatures))
    """
    said, _ = run("-W", "ignore", "-c", code, NUMBA_CACHE_DIR=str(tmp_path))
    counts = dict(line.split() for line in said.splitlines())
    assert len(counts) > 30
    assert {name for name, count in counts.items() if count != "1"} == set()


# ---------------------------------------------------------------- what is announced

COLD = """if True:
    import sys
    class Stream:
        def __init__(self, stream, terminal): self.stream, self.terminal = stream, terminal
        def isatty(self): return self.terminal
        def __getattr__(self, name): return getattr(self.stream, name)
    if {notebook}:
        Stream.__module__ = "ipykernel.iostream"
    sys.stderr = Stream(sys.stderr, {terminal})
    import numpy as np
    import mlrops
    A = mlrops.MLR(mlrops.Hierarchy.flat(3), [np.ones((3, 1))], np.ones(3))
    A @ np.ones(3)
    A @ np.ones((3, 2))
"""
LINE = "mlrops: compiling kernels, once per installation\n"


@pytest.mark.slow
def test_who_waits_is_told_once(tmp_path):
    def said(where, terminal=False, notebook=False, **environment):
        return run("-c", COLD.format(terminal=terminal, notebook=notebook),
                   NUMBA_CACHE_DIR=str(tmp_path / where), **environment)[1]

    assert said("pipe") == ""
    assert said("terminal", terminal=True) == LINE
    assert said("terminal", terminal=True) == ""  # read from the cache
    assert said("notebook", notebook=True) == LINE
    assert said("quiet", terminal=True, MLROPS_QUIET="1") == ""


def add(x, y):
    for i in range(x.size):
        x[i] += y


@pytest.mark.parametrize("first", [True, False])
def test_who_says_it_himself_does_so_at_the_first_compilation(first, monkeypatch):
    said, before = [], _jit.compiled().count("add")
    monkeypatch.setattr(_jit, "_announce", (lambda: said.append("usual")) if first else None)
    kernel = _jit.jit(add)
    kernel._cache = _jit._Cache(_jit.NullCache())
    with _jit.announcing(lambda: said.append("mine")):
        kernel(np.ones(2), 1.0)
        kernel(np.ones(2, np.float32), 1.0)
        assert said == ["mine"]
    kernel(np.ones(2), 1)
    assert said == ["mine"] and _jit.compiled().count("add") == before + 3
