"""``python -m mlrops info``: what a file of `mlrops.save` holds, or one of NumPy."""

import argparse
import inspect
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import operators as ops
from .._common.text import short
from ..factor.checkpoint import KIND as CHECKPOINT
from ..fitting.fit_result import size_range
from ..io.archive import TEXT, VERSION
from ..io.saving import KIND, fields_of, load
from ..operators import MLR, GeneralMLR, LowRankPlusDiagonal, StructuredOperator
from ..operators.woodbury import WoodburyInverse
from ..tree.hierarchy import Hierarchy
from .errors import CommandError
from .tables import columns, paragraph, table

__all__ = ["info", "logdet_is_cheap", "stored_numbers"]

MOST_PARTS = 40  # of a composed operator that are drawn
MOST_GROUPS = 12  # of a tree that are drawn
MOST_NAMES = 6
CHEAP = 1e9  # flops of a determinant that is computed unasked
SUMMARY = {"max_factors": 0, "max_equations": 0}
# Determinants that need no more than those of the parts.
SPLIT = (ops.BlockDiagonal, ops.Inverse, ops.Kronecker, ops.MLRInverse, ops.Product, ops.Scaled,
         ops.Transposed, WoodburyInverse)


def info(args: argparse.Namespace) -> None:
    """Run the command: find out what the file is, print it."""
    path = args.file
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            text = _of_numpy("an array of NumPy", path, [("", path)])
        elif start[:2] == b"PK":
            text = _archive(path)
        else:
            raise CommandError(f"{path} is {'neither .npz nor .npy' if start else 'empty'}")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:
        if str(error).startswith("cannot read"):
            raise CommandError(error) from None
        raise CommandError(f"cannot read {path!r}: damaged: {error}") from None
    print(text)


def _archive(path: str) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if TEXT not in names:
            return _of_archive(path, archive, names)
        kind = _kind(archive)
    if kind == KIND:
        obj = load(path)
        return f"{_front(path, type(obj).__name__)}\n\n{describe(obj)}"
    use = ("To go on from it, call fit_factor_model with checkpoint= and resume=True."
           if kind == CHECKPOINT else "mlrops.load does not read it.")
    return f"{_front(path, f'a {kind}'[:60])}\n\n{use}"


def _front(path: str, what: str) -> str:
    return f"{path}: {what}, saved by mlrops in format {VERSION}, {_bytes(os.path.getsize(path))}"


def _kind(archive: zipfile.ZipFile) -> str:
    """The kind that an archive of mlrops names; where it is damaged, `load` will say how."""
    try:
        header = json.loads(archive.read(TEXT))
    except (ValueError, RecursionError):
        return KIND
    return header.get("kind", KIND) if type(header) is dict else KIND


# ---------------------------------------------------------------- files of NumPy


def _of_archive(path: str, archive: zipfile.ZipFile, names: list[str]) -> str:
    what = "arrays of NumPy"
    if {"format.npy", "shape.npy", "data.npy"} <= set(names):
        with np.load(path, allow_pickle=False) as inside:
            kind, shape = inside["format"].item().decode(), inside["shape"]
        what = f"a sparse {kind} matrix of SciPy, {' by '.join(f'{n:,}' for n in shape)}"
    members = [name for name in names if name.endswith(".npy")]
    return _of_numpy(what, path, [(name.removesuffix(".npy"), archive, name) for name in members])


def _of_numpy(what, path, members):
    """What NumPy or SciPy wrote: name, shape, dtype and length of each array."""
    rows = []
    for name, container, *member in members:
        with container.open(*member) if member else open(container, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                    else np.lib.format.read_array_header_2_0)
            shape, _, dtype = read(file)  # the data are not read
        rows.append((name, " by ".join(f"{n:,}" for n in shape) or "one number", str(dtype),
                     _bytes(math.prod(shape) * dtype.itemsize)))
    front = f"{path}: {what}; not a file of mlrops, {_bytes(os.path.getsize(path))}"
    return f"{front}\n\n" + (
        table(("array", "shape", "dtype", "bytes"), rows, left=3) if rows else "It has no arrays.")


# ---------------------------------------------------------------- objects


def describe(obj: Any) -> str:
    """The text on a hierarchy, an operator or a result."""
    if isinstance(obj, StructuredOperator):
        return _operator(obj)
    if isinstance(obj, Hierarchy):
        return f"{obj.describe(max_groups=MOST_GROUPS)}\n\n{_levels(obj, obj)}"
    return _result(obj)


def _result(fit: Any) -> str:
    """A result's own summary, then the operator it found."""
    if hasattr(fit, "summary"):
        known = inspect.signature(fit.summary).parameters
        summary = str(fit.summary(**{name: x for name, x in SUMMARY.items() if name in known}))
    else:
        summary = repr(fit).strip("<>")
    text = [summary, *_names(fit)]
    for name in ("covariance", "operator"):
        operator = getattr(fit, name, None)
        if isinstance(operator, StructuredOperator):
            has_levels = "\nlevel " in summary
            text.append(f"Its {name}: {_operator(operator, levels=not has_levels)}")
    return "\n\n".join(text)


def _names(fit: Any) -> list[str]:
    names = getattr(fit, "feature_names", None)
    noun = "Features"
    if names is None and getattr(fit, "data", None) is not None:
        names, noun = getattr(fit.data.names, "equations", None), "Equations"
    if names is None:
        return []
    shown = ", ".join(short(name) for name in names[:MOST_NAMES])
    more = f", ... ({len(names):,} in all)" if len(names) > MOST_NAMES else ""
    return [paragraph(f"{noun}: {shown}{more}")]


def _operator(A: StructuredOperator, levels: bool = True) -> str:
    if _parts(A):
        text = ["\n".join(_tree(A))]
    elif isinstance(A, (MLR, GeneralMLR)) and levels:
        rows, cols = (A.hierarchy,) * 2 if isinstance(A, MLR) else (A.rows, A.cols)
        m, n = A.shape
        text = [f"{m:,} by {n:,}, {A.dtype}", _levels(rows, cols, A)]
    else:
        text = [_title(A)]
    facts = "\n".join(line.rstrip() for line in columns([*_facts(A)], left=2))
    return "\n\n".join([*text, facts])


def _title(A: StructuredOperator) -> str:
    return repr(A).removeprefix("<").removesuffix(">")


def _facts(A: StructuredOperator) -> Iterator[tuple[str, str]]:
    """Pairs of a name and what is known, or costs little to find out."""
    m, n = A.shape
    tags = [word for word, has in (("positive definite", A.positive_definite),
                                   ("symmetric", A.symmetric)) if has]
    yield "structure", tags[0] if tags else "not known to be symmetric" if m == n else "rectangular"
    numbers, order = stored_numbers(A)
    width = np.dtype(A.dtype).itemsize
    text = f"{numbers:,} numbers, {_bytes(numbers * width)}"
    if order:
        text += f", and {order:,} integers"
    if isinstance(A, GeneralMLR) and A._B is A._C:
        text += "; factors of rows and columns are one array"
    yield "storage", text
    share = numbers / (m * n) if m * n else 1.0
    yield "dense", f"{m * n:,} numbers, {_bytes(m * n * width)}" + (
        f"; storage is {100 * share:.3g}% of it" if share < 1 else "")
    d = A.D if isinstance(A, (MLR, LowRankPlusDiagonal)) else (
        A.d if isinstance(A, ops.Diagonal) else None)
    if d is not None and d.size:
        yield "diagonal D", f"{d.min():.6g} to {d.max():.6g}"
    if logdet_is_cheap(A):
        sign, value = A.slogdet()
        yield "log|det|", f"{value:.10g}{'' if sign > 0 else f', sign {sign:+.0f}'} (computed now)"


def _levels(rows, cols, A=None):
    """A line a level: groups, smallest and largest group, and of an operator what it stores."""
    square = rows is cols
    head = ["level", "groups", "features each" if square else "rows each"]
    head += ([] if square else ["columns each"]) + ([] if A is None else ["rank", "numbers"])
    lines = []
    for level, p in enumerate(rows.group_counts):
        line = [str(level), f"{p:,}", size_range(rows.group_sizes(level))]
        line += [] if square else [size_range(cols.group_sizes(level))]
        if A is not None:
            sides = A.shape[0] if isinstance(A, MLR) or A._B is A._C else sum(A.shape)
            line += [str(A.ranks[level]), f"{sides * A.ranks[level]:,}"]
        lines.append(line)
    if isinstance(A, MLR):
        lines.append(["D", *[""] * (len(head) - 2), f"{A.shape[0]:,}"])
    return table(head, lines)


# ---------------------------------------------------------------- parts


def _entries(A: Any) -> list[Any]:
    """What an operator or a tree consists of."""
    return [x for several in fields_of(A).values() for x in several]


def _parts(A: StructuredOperator) -> list[StructuredOperator]:
    """The operators that an operator is made of."""
    return [x for x in _entries(A) if isinstance(x, StructuredOperator)]


def stored_numbers(A: StructuredOperator) -> tuple[int, int]:
    """Numbers of floats and of integers in the arrays of an operator; a shared one counts once."""
    seen, counts, pending = {}, {"f": 0, "i": 0}, [A]
    while pending:
        x = pending.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x  # kept: no identity is given away twice
        if isinstance(x, np.ndarray):
            if x.dtype.kind in counts:
                counts[x.dtype.kind] += x.size
        elif isinstance(x, (StructuredOperator, Hierarchy)):
            pending += _entries(x)
    return counts["f"], counts["i"]


def _tree(A: StructuredOperator) -> list[str]:
    """An operator and its parts, a line each; those that were drawn before are not drawn again."""
    drawn: set[int] = set()
    lines: list[str] = []
    pending = [(A, "", "")]
    while pending and len(lines) < MOST_PARTS:
        x, before, below = pending.pop()
        again = id(x) in drawn
        parts = [] if again else _parts(x)
        drawn.add(id(x))
        lines.append(f"{before}{_title(x)}{' (the same as above)' if again else ''}")
        last = len(parts) - 1
        pending += reversed([(part, f"{below}{'└─' if i == last else '├─'} ",
                              f"{below}{'   ' if i == last else '│  '}")
                             for i, part in enumerate(parts)])
    return [*lines, "... and more parts"] if pending else lines


def logdet_is_cheap(A: StructuredOperator) -> bool:
    """Whether the determinant is known by structure and costs less than a billion flops."""
    m, n = A.shape
    if m != n or n == 0:
        return False
    if isinstance(A, (ops.Permutation, ops.Diagonal)):
        return True
    if isinstance(A, SPLIT):
        return all(map(logdet_is_cheap, _parts(A)))
    if isinstance(A, ops.Woodbury):
        return n * A.U.shape[1] ** 2 < CHEAP and logdet_is_cheap(A.base)
    if isinstance(A, (MLR, LowRankPlusDiagonal)):
        return n * A.F.shape[1] ** 2 < CHEAP
    return isinstance(A, ops.Dense) and n**3 < CHEAP


def _bytes(size: float) -> str:
    if size < 1000:
        return f"{size:,} byte{'' if size == 1 else 's'}"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 1000 or unit == "TB":
            break
    return f"{size:.3g} {unit}"
