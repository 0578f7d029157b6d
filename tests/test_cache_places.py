"""Kernels compile wherever they are, and whatever happened while they were compiled before."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mlrops
from mlrops.kernels import _jit


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    """The one warning of a process that has no cache is not due, but where a test asks for it."""
    monkeypatch.setattr(_jit, "_warned", True)


def double(x):
    for i in range(x.size):
        x[i] *= 2


def fresh():
    """A kernel that is not compiled, and will not be kept."""
    kernel = _jit.jit(double)
    kernel._cache = _jit._Cache(_jit.NullCache(), OSError("no place here"))
    return kernel


def works(kernel):
    x = np.arange(3.0)
    kernel(x)
    return x.tolist() == [0, 2, 4]


# ---------------------------------------------------------------- no place for a cache

SCRIPT = """
import warnings
import numpy as np
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    import mlrops
    A = mlrops.MLR(mlrops.Hierarchy.flat(3), [np.ones((3, 1))], np.ones(3))
    print(mlrops.__file__, (A @ np.ones(3)).tolist())
    print(len(caught), *(one.message for one in caught))
"""


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A copy of the package beside which nothing can be written, not even by root."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(Path(mlrops.__file__).parent, folder / "mlrops",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for place in [*folder.glob("**/")]:
        (place / "__pycache__").write_text("a file")
    return folder


def run(folder, **places):
    """Standard output of a product in a process whose home is below a file."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("NUMBA_", "XDG_")) and name != "LOCALAPPDATA"}
    home = str(folder / "mlrops" / "__init__.py" / "home")
    environment |= {"PYTHONPATH": str(folder), "HOME": home, "USERPROFILE": home,
                    "OPENBLAS_NUM_THREADS": "1", **places}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, cwd=folder, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"{folder / 'mlrops' / '__init__.py'} [4.0, 4.0, 4.0]"
    return second


@pytest.mark.slow
def test_a_read_only_installation_without_a_home(sealed):
    said = run(sealed)
    assert said.startswith("1 compiled kernels are not kept") and "NUMBA_CACHE_DIR" in said


@pytest.mark.slow
def test_a_folder_is_given_as_the_warning_says(sealed, tmp_path):
    assert run(sealed, NUMBA_CACHE_DIR=str(tmp_path)) == "0"
    assert list(tmp_path.glob("**/*.nbc"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to(sealed):
    said = run(sealed, NUMBA_CACHE_DIR=str(sealed / "mlrops" / "sklearn.py" / "cache"))
    assert said.startswith("1 compiled kernels are not kept")


# ---------------------------------------------------------------- files of a cache


class Broken:
    """A cache whose files cannot be read or written."""

    cache_path = "there"

    def __init__(self, error):
        self.error, self.saved = error, []

    def load_overload(self, *args):
        raise self.error

    def save_overload(self, *args):
        self.saved.append(args)
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), EOFError("ends early"),
                                   PermissionError(13, "Permission denied")], ids=str)
def test_damaged_and_full_caches(error, monkeypatch):
    monkeypatch.setattr(_jit, "_warned", False)
    kernel = fresh()
    kernel._cache = _jit._Cache(Broken(error))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert works(kernel) and works(kernel)
    (warning,) = caught
    assert str(error) in str(warning.message) and "NUMBA_CACHE_DIR" in str(warning.message)
    assert len(kernel._cache.saved) == 1 and kernel.stats.cache_path == "there"


def test_a_truncated_file_is_compiled_anew(tmp_path, monkeypatch):
    source = tmp_path / "kernels_of_a_test.py"
    source.write_text("def double(x):\n    for i in range(x.size):\n        x[i] *= 2\n")
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("kernels_of_a_test")
    assert works(_jit.jit(module.double))
    files = [*(tmp_path / "cache").glob("**/*.nb[ci]")]
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        monkeypatch.setattr(_jit, "_warned", False)
        with pytest.warns(UserWarning, match="not kept"):
            assert works(_jit.jit(module.double))
        file.write_bytes(whole)


# ---------------------------------------------------------------- one kind of array flags


def add_all(parts, x, out):
    for i in range(out.size):
        out[i] = x[i] + parts[0][i] + parts[1][i]


@pytest.mark.parametrize("first", [0, 3, 7])
def test_a_read_only_array_is_compiled_as_a_writeable_one(first):
    """Whatever comes first, alone or in a tuple; what was met once is found without a detour."""
    kernel, detours = _jit.jit(add_all), []
    kernel._cache = _jit._Cache(_jit.NullCache())
    usual = kernel._compile_for_args
    kernel._compile_for_args = lambda *args: detours.append(args) or usual(*args)
    x = np.arange(3.0)
    fixed = x.copy()
    fixed.flags.writeable = False
    choices = [(a, b, c) for a in (fixed, x) for b in (fixed, x) for c in (fixed, x)]
    choices = choices[first:] + choices[:first]
    for _ in range(2):
        for a, b, c in choices:
            out = np.zeros(3)
            kernel((a, b), c, out)
            assert out.tolist() == [0, 3, 6]
    assert len(kernel.signatures) == 1 and len(detours) == len(choices) - (first < 7)


# ---------------------------------------------------------------- exceptions while compiling


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends signals to threads")
def test_an_interrupt_while_compiling_leaves_the_kernel_usable():
    """Ctrl-C comes out at once; what is compiled is compiled to the end."""
    kernel, out = fresh(), threading.Event()
    compiling, usual = [], kernel._compile_for_args.args[0]

    def interrupted(*args, **kwargs):
        compiling.append(threading.current_thread())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert out.wait(60)
        return usual(*args, **kwargs)

    kernel._compile_for_args = partial(_jit._compile_whole, interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernel(np.arange(3.0))
    out.set()
    with _jit._busy:  # when it has been compiled
        pass
    assert compiling[0] is not threading.main_thread()
    assert len(kernel.overloads) == 1 and works(kernel)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("context", ["typingctx", "targetctx"])
def test_exceptions_in_the_compiler(context, error):
    """numba reads its registries by generators, and one that has raised is at its end."""
    assert works(fresh())
    kernel = fresh()

    def raising():
        raise error("from within")
        yield

    for loader in list(getattr(kernel, context)._registries.values())[:3]:
        for name in loader._registrations:
            loader._registrations[name] = raising()
    # It takes a call for each stream: each stands in the way of the next one.
    for _ in range(20):
        try:
            kernel(np.arange(3.0))
            break
        except error:
            pass
    assert works(kernel) and works(fresh())


def test_failures_are_not_remembered():
    assert works(fresh())
    kernel = fresh()
    compiler, usual = kernel._compiler, kernel._compiler._compile_core

    def fails(*args):
        raise _jit.nb.errors.TypingError("not now")

    compiler._compile_core = fails
    with pytest.raises(_jit.nb.errors.TypingError, match="not now"):
        kernel(np.arange(3.0))
    compiler._compile_core = usual
    assert works(kernel)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_while_compiling_compiles():
    """After Ctrl-C the compiler is still at work, with its lock."""
    kernel, begun, children = fresh(), threading.Event(), []
    usual = kernel._compile_for_args.args[0]

    def begins(*args, **kwargs):
        begun.set()
        return usual(*args, **kwargs)

    kernel._compile_for_args = partial(_jit._compile_whole, begins)
    worker = threading.Thread(target=kernel, args=(np.arange(3.0),))
    worker.start()
    begun.wait()
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            os._exit(0 if works(kernel) and works(fresh()) else 1)
    worker.join()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_kernels_compile_in_any_thread():
    found = []
    worker = threading.Thread(target=lambda: found.append(works(fresh())))
    worker.start()
    worker.join()
    assert found == [True]
