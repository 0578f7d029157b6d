"""Archives: named arrays and a little JSON in one ``.npz`` file, written whole or not at all.

`mlrops.save` and the checkpoints of the solvers use `write_archive` and `read_archive`.  This
module knows arrays and JSON, and no class of the package.

Layout, version 1
-----------------
A zip archive of uncompressed members, in this order:

``mlrops.json``
    ASCII text, ``{"format": "mlrops", "version": 1, "kind": …, "arrays": …, "meta": …}`` with the
    first two keys in front.  ``kind`` says what the file holds; ``arrays`` lists every array as
    ``name: {"dtype": "<f8", "shape": [3, 2]}``; ``meta`` is what the writer adds.
``<name>.npy``
    One array each in NumPy's npy format 1.0: booleans, integers, floats of at most 8 bytes, dates,
    fixed-width strings; of either byte order, in C or Fortran order.  Never a pickle.

``numpy.load(path)`` opens it without ``allow_pickle``: arrays by their names, the text as bytes
under ``"mlrops.json"``.

`mlrops.io.plain` tells how the text holds what JSON does not have.
"""

import errno
import json
import math
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeAlias

import numpy as np

from .plain import DTYPE, encode, from_json, plain_dtype

__all__ = [
    "check_folder",
    "check_regular",
    "read_archive",
    "reading",
    "remove_leftovers",
    "replacing",
    "write_archive",
]

Path: TypeAlias = str | os.PathLike[str]
Meta: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, np.ndarray]

VERSION = 1
TEXT = "mlrops.json"
FOLDER = "a folder"
# Letters of a file's name that its temporary files show.
NAME_SHOWN = 40

_FRONT = re.compile(r'\s*\{\s*"format"\s*:\s*"mlrops"\s*,\s*"version"\s*:\s*(\d{1,9})\s*[,}]')
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NPY = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    r"\{'descr': '([^']{2,40})', 'fortran_order': (True|False),"
    r" 'shape': \((|\d{1,19},|\d{1,19}(?:, \d{1,19})+)\), \} *\n"
)
_CHUNK = 1 << 20


# ---------------------------------------------------------------- writing


def write_archive(path: Path, kind: str, meta: Meta, arrays: Arrays) -> None:
    """Write an archive of this `kind` atomically: readers see the old file or the whole new one.

    It is written exactly at `path`; a symbolic link keeps pointing to the file.  `meta` holds what
    `mlrops.io.plain` encodes, and comes back bit for bit (a NumPy string as str).  What the layout
    cannot hold is refused by its place before anything is written.

    A temporary file ``.<name>.<hex>.tmp`` in the same folder is written and flushed to the disk,
    then takes the place of `path`; last the folder is flushed where the platform can.  A process
    that is killed may leave that temporary file behind, never half an archive at `path`.  Arrays
    are written in pieces of 16 MB, without a copy.  Equal contents give equal files.
    """
    check_regular(path)
    if type(kind) is not str:
        raise TypeError(f"kind must be a string, got {type(kind).__name__}")
    if type(meta) is not dict:
        raise TypeError(f"meta must be a dict, got {type(meta).__name__}")
    arrays = {name: _check_array(name, x) for name, x in arrays.items()}
    listed = {name: {"dtype": x.dtype.str, "shape": x.shape} for name, x in arrays.items()}
    header = {"format": "mlrops", "version": VERSION, "kind": kind, "arrays": listed}
    header["meta"] = encode(meta, ("meta",))
    text = json.dumps(header, allow_nan=False).encode("ascii")
    with replacing(path) as file, _zip(file) as archive:
        archive.writestr(zipfile.ZipInfo(TEXT), text)
        for name, x in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, x, version=(1, 0), allow_pickle=False)


def _check_array(name: str, x: np.ndarray) -> np.ndarray:
    if type(name) is not str or not _NAME.fullmatch(name):
        raise ValueError(
            "names of arrays are up to 100 letters, digits, '_', '.' and '-', and begin with none"
            f" of the last two; got {name!r}"
        )
    if type(x) not in (np.ndarray, np.memmap):
        raise TypeError(f"array {name!r} must be a NumPy array, got {type(x).__name__}")
    if not DTYPE.fullmatch(x.dtype.str):
        raise TypeError(
            f"array {name!r} cannot be saved: expected booleans, integers, floats of at most 8"
            f" bytes, dates or fixed-width strings, got dtype {x.dtype}"
        )
    return x


@contextmanager
def _zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """An archive to be written; after an exception nothing more is written to it.

    A `zipfile.ZipFile` that is interrupted in the middle of a member still tries to close itself,
    and raises an error of its own in place of the KeyboardInterrupt.
    """
    archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
    try:
        yield archive
        archive.close()
    except BaseException:
        archive.fp = None
        raise


def check_regular(path: Path) -> str:
    """The path of the file itself, links followed; refuses all but ordinary files and new ones."""
    real = os.path.realpath(os.fsdecode(path))
    other = _no_file(real)
    if other is not None:
        number = errno.EISDIR if other == FOLDER else errno.EINVAL
        raise OSError(number, f"it is {other}, expected an ordinary file", os.fsdecode(path))
    return real


def check_folder(path: Path) -> str:
    """The path of the folder itself, links followed; refuses all but folders and new ones."""
    real = os.path.realpath(os.fsdecode(path))
    if os.path.exists(real) and not os.path.isdir(real):
        what = f"it is {_no_file(real) or 'a file'}, expected a folder or a new path"
        raise OSError(errno.ENOTDIR, what, os.fsdecode(path))
    return real


def _no_file(path: str) -> str | None:
    """What there is at `path`, if it is not an ordinary file; None if it is one, or nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing, or nothing that can be seen: opening it will tell
        return None
    kinds = dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")
    kinds |= {stat.S_IFDIR: FOLDER, stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "no file")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new binary file that takes the place of `path` if the block succeeds."""
    path = check_regular(path)
    folder, stem = _stem(path)
    temporary = os.path.join(folder, f"{stem}{os.urandom(6).hex()}.tmp")
    try:
        with _created(temporary, path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # not every platform opens folders, not every file system flushes them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _created(temporary: str, path: str) -> IO[bytes]:
    """A new file; errors name `path`, which is what was asked for."""
    try:
        return open(temporary, "xb")
    except OSError as error:
        error.filename = path
        raise


def _stem(path: str) -> tuple[str, str]:
    """The folder of the temporary files of `path`, and the beginning of their names."""
    folder, name = os.path.split(path)
    return folder, f".{name[:NAME_SHOWN]}."


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that writers of `path` left when they were killed.

    No writer may be at work.  Temporary files show only the first letters of a long name, so that
    they may belong to another file: these stay.
    """
    path = os.path.realpath(os.fsdecode(path))
    folder, stem = _stem(path)
    if len(os.path.basename(path)) <= NAME_SHOWN and os.path.isdir(folder):
        ours = re.compile(re.escape(stem) + r"[0-9a-f]{12}\.tmp")
        for name in filter(ours.fullmatch, os.listdir(folder)):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


# ---------------------------------------------------------------- reading


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a bad file provokes in the block into one ValueError that names the file.

    Errors of the file system (no such file, no permission, a folder) and of memory pass through.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # EINVAL means that an offset in the file points nowhere; other numbers are errors of the
        # file system.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = (
            f"{error}" if isinstance(error, ValueError) else f"{error} ({type(error).__name__})"
        )
        raise ValueError(f"cannot read {os.fsdecode(path)!r}: {reason}") from None


def read_archive(path: Path, kind: str) -> tuple[Meta, Arrays]:
    """The meta and the arrays (writeable, owned by nobody else) of an archive of this `kind`.

    Everything in the file is checked before it is used; a ValueError about it begins with ``cannot
    read '<path>'``.  Memory is allocated only for bytes that the file really has: members are
    uncompressed and together no longer than the file, and the shape of an array must agree with the
    length of its member.  Every member's checksum is verified.  No name in the file is imported,
    and nothing is unpickled.
    """
    path = os.fspath(path)
    with reading(path):
        other = _no_file(path)
        if other not in (None, FOLDER):  # a pipe without a writer would be waited for
            raise ValueError(f"it is {other}, expected an ordinary file")
    with reading(path), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = _members(archive, os.fstat(file.fileno()).st_size)
        header = _header(archive, set(members), kind)
        arrays = {}
        for name, listed in header["arrays"].items():
            arrays[name] = _read_array(archive, members[name + ".npy"], listed)
        return header["meta"], arrays


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, after a check that they are plain, distinct and really there."""
    members, total = {}, 0
    for info in archive.infolist():
        name = info.filename
        if info.orig_filename != name or not _NAME.fullmatch(name.removesuffix(".npy")):
            raise ValueError(f"damaged or not of mlrops: {info.orig_filename[:60]!r} is no member")
        if name in members:
            raise ValueError(f"damaged: two members {name!r}")
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"member {name!r} is compressed or encrypted; members must be stored")
        members[name] = info
        total += info.file_size
        if info.file_size != info.compress_size or total > size:
            raise ValueError(f"damaged: member {name!r} is longer than the file")
    if TEXT not in members:
        raise ValueError(f"not an mlrops archive: it has no member {TEXT!r}")
    return members


def _header(archive: zipfile.ZipFile, names: set[str], kind: str) -> Meta:
    text = archive.read(TEXT).decode("utf-8")
    front = _FRONT.match(text)
    if not front:
        raise ValueError(f"not an mlrops archive: {TEXT!r} does not begin with format and version")
    version = int(front[1])
    if version != VERSION:
        advice = "update mlrops" if version > VERSION else "there is no such version"
        raise ValueError(
            f"its format version is {version}, this mlrops reads version {VERSION}; {advice}"
        )
    header = from_json(text)
    for key, wanted in (("kind", str), ("arrays", dict), ("meta", dict)):
        if type(header.get(key)) is not wanted:
            raise ValueError(f"damaged: {TEXT!r} has no {key!r} of type {wanted.__name__}")
    if header["kind"] != kind:
        raise ValueError(f"expected an archive of kind {kind!r}, got {header['kind'][:60]!r}")
    listed = {name + ".npy" for name in header["arrays"]}
    if listed != names - {TEXT}:
        odd = sorted(listed ^ (names - {TEXT}))[0]
        how = "missing" if odd in listed else f"not listed in {TEXT!r}"
        raise ValueError(f"damaged: array {odd[:60]!r} is {how}")
    return header


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, listed: Any) -> np.ndarray:
    name = info.filename
    with archive.open(info) as member:
        start = member.read(len(_NPY) + 2)
        length = int.from_bytes(start[len(_NPY) :], "little")
        header = _NPY_HEADER.fullmatch(member.read(length).decode("latin1"))
        if start[: len(_NPY)] != _NPY or not header:
            raise ValueError(f"damaged: {name!r} is not a plain array of npy format 1.0")
        dtype, shape = plain_dtype(header[1]), tuple(map(int, re.findall(r"\d+", header[3])))
        if listed != {"dtype": header[1], "shape": list(shape)}:
            raise ValueError(f"damaged: {name!r} is not the array that {TEXT!r} lists")
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - len(start) - length:
            raise ValueError(f"damaged: {name!r} has not the length that its shape {shape} needs")
        x = np.empty(shape, dtype, order="F" if header[2] == "True" else "C")
        flat = (x.T if header[2] == "True" else x).reshape(-1).view(np.uint8)
        for begin in range(0, size, _CHUNK):  # in pieces: readinto would take a second copy
            piece = np.frombuffer(member.read(min(_CHUNK, size - begin)), np.uint8)
            if piece.size != min(_CHUNK, size - begin):
                raise ValueError(f"damaged: {name!r} ends early")
            flat[begin : begin + _CHUNK] = piece
    if dtype.kind == "b" and size and flat.max() > 1:
        raise ValueError(f"damaged: {name!r} holds booleans other than 0 and 1")
    return x
