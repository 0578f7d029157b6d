"""Which comparisons run, and how their table is printed."""

import importlib
import os
import platform
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ... import __version__
from ...kernels import threads
from ..errors import CommandError
from ..outputs import check_outputs, write_text
from ..tables import columns, markdown, paragraph
from . import operators, peers
from .race import PeerError, Race, of_peer, race

__all__ = ["COMPARISONS", "bench"]

SECONDS = 4.0  # for the rounds of one race
WIDTH = 60  # of what went wrong
VARIABLES = ("MLROPS_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
             "NUMBA_NUM_THREADS")
HEAD = "problem", "against", "its time", "ours", "times as fast", "answers"


@dataclass(frozen=True)
class Comparison:
    """Races with one peer: ``races(quick, module)`` yields them, `note` says how they are run."""

    races: Callable[[bool, ModuleType | None], Iterator[Race]]
    note: str
    module: str | None = None  # what of the peer is imported
    package: str | None = None  # what the peer is installed as

    def load(self) -> ModuleType | None:
        """The peer's module; None where there is nothing to import."""
        if self.module is None:
            return None
        try:
            return of_peer(importlib.import_module)(self.module)
        except PeerError as error:
            cause = error.__cause__
            if (isinstance(cause, ModuleNotFoundError)
                    and cause.name == self.module.split(".")[0]):
                raise PeerError(f"not installed: pip install {self.package}") from None
            raise


FLOOR = """floor: the products of plain BLAS that no method can do without, on the same arrays; 1
would be perfect.  Answers are compared with those of the recursion in Python, of EM for one
leaf."""
COMPARISONS = {
    "floor": Comparison(operators.against_floor, FLOOR),
    "em": Comparison(operators.em_floor, FLOOR),
    "recursion": Comparison(operators.against_recursion, """recursion in Python: our reference
        implementation of recursive Sherman-Morrison-Woodbury as in Parshakova, Hastie and Boyd
        (2024), loops over groups in Python, NumPy within them; its EM iteration solves with all
        features for each leaf."""),
    "sparse": Comparison(operators.against_sparse, """SciPy's sparse LU: splu of the expanded
        matrix, which it is given, in symmetric mode with MMD ordering."""),
    "dense": Comparison(operators.against_dense, """dense Cholesky: LAPACK, of the dense matrix,
        which it is given."""),
    "sklearn": Comparison(peers.against_sklearn, """FactorAnalysis: scikit-learn, tol=1e-6,
        max_iter=10000; ours with its default tol=1e-9, gtol=1e-5.""",
        "sklearn.decomposition", "scikit-learn"),
    "alsgls": Comparison(peers.against_alsgls, """alsgls: its simulator and its defaults,
        rel_tol=1e-6, at most 8 sweeps; ours with its default tol=1e-9, gtol=1e-5.""",
        "alsgls", "alsgls"),
    "linearmodels": Comparison(peers.against_linearmodels, """linearmodels: its SUR has no
        structured covariance and always computes standard errors; ours is given the same one as
        an MLR ("cov given"), or takes the same residuals of least squares for a dense one.""",
        "linearmodels.system", "linearmodels"),
    "pylops": Comparison(peers.against_pylops, """PyLops: conjugate gradients to a relative residual
        of 1e-12; it has no direct solve for this matrix, and no determinant.""",
        "pylops", "pylops"),
}
METHOD = """Best of at least two rounds in turn; "times as fast" is the other's time over ours.
Iterations of EM are timed without what a fit does once, such as transposing the data.
Answers: largest difference relative to the largest entry; of fits, the average log-likelihood a
sample, theirs -> ours."""


class Row(NamedTuple):
    """Cells of the table, and whether the row is as it should be."""

    problem: str
    task: str
    cells: tuple  # against, its time, ours, times as fast, answers
    holds: bool = True


def bench(args):
    """Run the command: compare, print, write."""
    chosen = choose(args.only)
    check_outputs({"--output": args.output} if args.output else {}, {})
    start = perf_counter()
    rows = []
    for name in chosen:
        rows += compare(name, args.quick)
    _progress("")
    took = f"{perf_counter() - start:.0f} s in all."
    if args.quick:
        took += "  --quick: problems are too small for their times to mean anything."
    notes = [METHOD, *dict.fromkeys(COMPARISONS[name].note for name in chosen), machine()]
    if args.output is not None:
        write_text(args.output, "\n\n".join([as_markdown(rows), *map(paragraph, notes)]) + "\n")
    print(as_text(rows), *map(paragraph, notes), took, sep="\n\n")
    if args.output is not None:
        print(f"\nTable written to {args.output}")
    differ = [f"{row.problem}: {row.task}" for row in rows if not row.holds]
    if differ:
        raise CommandError("answers differ or are missing: " + "; ".join(differ))


def choose(only):
    """Names of comparisons, in their own order."""
    if only is None:
        return list(COMPARISONS)
    asked = [name.strip() for name in only.split(",") if name.strip()]
    for name in asked:
        if name not in COMPARISONS:
            raise CommandError(f"--only must name some of {', '.join(COMPARISONS)}, got {name!r}")
    if not asked:
        raise CommandError(f"--only must name some of {', '.join(COMPARISONS)}, got {only!r}")
    return [name for name in COMPARISONS if name in asked]


def compare(name, quick):
    """Rows of one comparison; what goes wrong with a peer stands in its row."""
    comparison, rows = COMPARISONS[name], []
    excused = comparison.package is not None  # our own references must work
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            races = comparison.races(quick, comparison.load())
            for entrants in iter(lambda: of_peer(next)(races, None), None):
                place = entrants.problem, entrants.task
                _progress(f"{name}: {', '.join(place)}")
                try:
                    rows.append(measure(entrants, 0.0 if quick else SECONDS))
                except PeerError as error:
                    rows.append(Row(*place, empty(entrants.peer, error), excused))
        except PeerError as error:
            rows.append(Row(comparison.package or name, "", empty("", error), excused))
    return rows


def empty(peer, error):
    """Cells of a row without figures."""
    return peer, "", "", "", textwrap.shorten(str(error), WIDTH, placeholder=" ...")


def measure(entrants, budget):
    """The row of a race.  Where answers differ, their times are not compared."""
    theirs, ours, agreement = race(entrants, budget)
    faster, text = "", f"DIFFER: {agreement.text}"
    if agreement.holds:
        ratio = theirs / ours
        faster, text = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}", agreement.text
    return Row(entrants.problem, entrants.task,
               (entrants.peer, seconds(theirs), seconds(ours), faster, text), agreement.holds)


def seconds(t):
    """A time with three digits, in s, ms or us."""
    unit, size = ("s", 1.0) if t >= 1 else ("ms", 1e-3) if t >= 1e-3 else ("us", 1e-6)
    value = t / size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


# ---------------------------------------------------------------- what is printed


def as_text(rows):
    """The table for a terminal, a heading above the rows of each problem."""
    cells = [HEAD, *((f"  {row.task}", *row.cells) for row in rows)]
    width = max(len(row[-1]) for row in cells)
    cells = [(*row[:-1], row[-1].ljust(width)) for row in cells]
    first, *rest = (line.rstrip() for line in columns(cells, left=2))
    lines, last = [first, "-" * max(map(len, [first, *rest]))], None
    for row, line in zip(rows, rest, strict=True):
        if row.problem != last:
            lines.append(row.problem)
            last = row.problem
        lines.append(line)
    return "\n".join(lines)


def as_markdown(rows):
    """The table for a README."""
    return markdown(HEAD, [(f"{row.problem}: {row.task}" if row.task else row.problem, *row.cells)
                           for row in rows])


def machine():
    """Processor, threads, and the versions of all that was run."""
    found = [f"Python {platform.python_version()}", f"mlrops {__version__}"]
    for package in ("numpy", "scipy", "numba", *(c.package for c in COMPARISONS.values())):
        if package is not None:
            with suppress(PackageNotFoundError):
                found.append(f"{package} {version(package)}")
    given = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    shared = f"threads: {threads.count()}" + (f" ({', '.join(given)})" if given else "")
    return f"{processor()}; {shared}; {blas()}; {', '.join(found)}."


def processor():
    """Its name, as far as the system tells."""
    with suppress(OSError):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.split(":", 1)[1].split())
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], check=True,
                                  capture_output=True, text=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()


def blas():
    """The BLAS of NumPy."""
    built = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{built.get('name', 'unknown BLAS')} {built.get('version', '')}".strip()


def _progress(text):
    """One line on stderr that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
