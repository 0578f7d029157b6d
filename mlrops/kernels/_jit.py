"""How loops are compiled: signatures are lazy, the code is cached on disk where there is a place.

numba gives up where it finds no folder for its cache, where a file of the cache is damaged or
cannot be written, and for the rest of the process where an exception has struck its registries
while they were read.  None of these is a reason not to compute.

Who waits for a first compilation is told what for: in a line on standard error, if that is a
terminal or a notebook, unless the environment variable MLROPS_QUIET is set.
"""

import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba as nb
from numba import types
from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.utils import stream_list

__all__ = ["announcing", "as_written", "cache_folders", "compiled", "jit", "part"]

_FAST = {"reassoc", "contract", "nsz"}  # sums may be regrouped; NaN and infinity keep their meaning

_njit: Any = nb.njit
_TUPLE: Any = types.BaseAnonymousTuple
_kernels: list[Any] = []
_entered: set[tuple[Any, ...]] = set()  # kernels and types under which they have code
_warned = False


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function without the GIL, for each signature when it is first called."""
    return _kept(function)


def part(function: Callable[..., Any]) -> Any:
    """The same for what only kernels call, whose code becomes part of theirs.

    A call would cost as much as the work on a small node: an array is passed as seven numbers.
    """
    return _kept(function, forceinline=True, no_cpython_wrapper=True)


def as_written(kernel: Any) -> Any:
    """A kernel for others to take in before anything is compiled: none waits for the kernel."""
    return _njit(inline="always")(kernel.py_func)


def _kept(function, **options):
    kernel = _njit(nogil=True, fastmath=_FAST, error_model="numpy", no_cfunc_wrapper=True,
                   **options)(function)
    try:
        kernel.enable_caching()
        with suppress(AttributeError):  # of a numba that keeps its stamp elsewhere
            file = kernel._cache._cache_file
            file._source_stamp = file._source_stamp, *_shared()
        kernel._cache = _Cache(kernel._cache)
    except (RuntimeError, OSError) as error:
        kernel._cache = _Cache(NullCache(), error)
    kernel._compile_for_args = partial(_compile_whole, partial(_entry, kernel))
    _kernels.append(kernel)
    return kernel


@cache
def _shared() -> tuple[tuple[str, int, int], ...]:
    """When the files here that kernels take parts from were written, and their sizes.

    numba compiles anew what stands in a file that has changed, not what has taken in its parts.
    """
    files = sorted(Path(__file__).parent.glob("_*.py"))
    found = ((file.name, file.stat()) for file in files)
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


# ---------------------------------------------------------------- what was compiled, and saying so


def compiled() -> list[str]:
    """Names of the kernels that this process has compiled, once a signature.

    What it read from the cache does not count.
    """
    return [kernel.py_func.__name__ for kernel in _kernels
            for times in kernel.stats.cache_misses.values() for _ in range(times)]


def cache_folders() -> set[str]:
    """Where kernels are kept; empty where there is no place, or not all of them could be written.
    """
    places = {kernel.stats.cache_path for kernel in _kernels}
    return set() if _warned else {str(place) for place in places if place is not None}


def _on_standard_error():
    """Say in a line what is waited for, to whoever may be waiting."""
    stream = sys.stderr
    if os.environ.get("MLROPS_QUIET", "") not in ("", "0") or stream is None:
        return
    with suppress(OSError, ValueError):  # of a stream that is closed
        if stream.isatty() or type(stream).__module__.startswith("ipykernel."):
            print("mlrops: compiling kernels, once per installation", file=stream, flush=True)


_announce: Callable[[], object] | None = _on_standard_error


@contextmanager
def announcing(announce: Callable[[], object]) -> Iterator[None]:
    """Within, the first compilation calls `announce` instead of printing its line."""
    global _announce
    usual, _announce = _announce, announce
    try:
        yield
    finally:
        _announce = usual if _announce is announce else None


def _say_once():
    global _announce
    announce, _announce = _announce, None
    if announce is not None:
        announce()


# ---------------------------------------------------------------- one kind of array flags


def _entry(kernel: Any, *args: Any) -> Any:
    """Machine code for `args`, in which a read-only array counts as one that can be written to.

    A kernel writes only what its caller made for it, so it need not be compiled for every choice of
    flags.  The code goes into the table by the types as they are: the next call finds it there.
    Once: of two equal entries, which two threads at their first call would make, numba takes none,
    and every call would come here again.
    """
    kernel._compilation_chain_init_hook()
    given = [kernel.typeof_pyval(arg) for arg in args]
    plain = [_writeable(kind) for kind in given]
    code = kernel.compile(tuple(plain))
    if given != plain and (kernel, *given) not in _entered:
        _entered.add((kernel, *given))
        kernel._insert([kind._code for kind in given], code, False)
    kernel._types_active_call.clear()
    return code


def _writeable(kind: Any) -> Any:
    """The type of the same arrays without a ban on writing."""
    if isinstance(kind, types.Array):
        return kind.copy(readonly=False)
    if isinstance(kind, _TUPLE):
        return types.Tuple([_writeable(member) for member in kind])
    return kind


# ---------------------------------------------------------------- the cache


class _Cache:
    """numba's cache of one kernel; what goes wrong with its files costs time and nothing else.

    `reason` is the error that left no place for a cache, if there was one.
    """

    def __init__(self, cache: Any, reason: Exception | None = None) -> None:
        self._cache, self._reason = cache, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        found = None
        try:
            if self._reason is not None:
                raise self._reason
            found = self._cache.load_overload(signature, context)
        except Exception as error:  # a damaged file may raise anything
            _warn_of(error)
        if found is None:  # it will be compiled
            _say_once()
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(signature, compiled)
        except Exception as error:
            _warn_of(error)


def _warn_of(error: Exception) -> None:
    """Warn once that this process compiles for itself alone."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "compiled kernels are not kept for the next process, which will compile them again:"
            f" {error}. Set the environment variable NUMBA_CACHE_DIR to a folder that can be"
            " written to before Python starts", stacklevel=2)


# ---------------------------------------------------------------- exceptions while compiling


def _compile_whole(compile_for_args: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Compile to the end or not at all.

    Signals reach the main thread only, and there an exception may strike between any two lines of
    numba.  So one thread compiles for all, and finishes whatever becomes of the call that waits.
    """
    def mending() -> Any:
        with _busy, _uncollected():
            try:
                return compile_for_args(*args, **kwargs)
            except BaseException:
                _mend()
                raise

    try:
        found = _compiler().submit(mending)
    except RuntimeError:  # no more threads, or the interpreter is ending
        return mending()
    while not found.done():  # a signal just before a wait without an end would not end it
        wait([found], timeout=0.1)
    return found.result()


@contextmanager
def _uncollected():
    """Without garbage collection: a compiler makes objects by the million, and few that are."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_lock, _busy = threading.Lock(), threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _compiler() -> ThreadPoolExecutor:
    """The thread that compiles."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(1, thread_name_prefix="mlrops compiler")
        return _pool


def _forget():
    """A forked child has no thread that compiles, and is not forked while there is one at work."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None
    _busy.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_busy.acquire, after_in_parent=_busy.release, after_in_child=_forget)


def _mend():
    """Take back what an exception left in numba: failures that it remembers, streams that it ended.

    A context reads each registry by generators, which give what is new since the last time.
    """
    with global_compiler_lock:
        for kernel in _kernels:
            kernel._compiler._failed_cache.clear()
        for context in (_kernels[0].typingctx, _kernels[0].targetctx):
            for registry, loader in list(context._registries.items()):
                for name, stream in loader._registrations.items():
                    if stream.gi_frame is None:
                        loader._registrations[name] = stream_list(_missing(context, registry, name))


def _missing(context, registry, name):
    """Entries of a registry; of globals those that the context lacks, it refuses the others."""
    entries = getattr(registry, name)
    if name != "globals":
        return entries
    return [entry for entry in entries if context._lookup_global(entry[0]) is None]
