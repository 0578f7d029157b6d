"""The arguments of ``python -m mlrops``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .. import __version__
from .errors import CommandError
from .printing import Unread, printing

__all__ = ["main"]

_ABOUT = """\
mlrops: structured matrices as SciPy linear operators with solve and logdet, and the factor models
and systems of regressions built on them.  The demo fits a tree-structured factor model to 68 years
of monthly returns of 30 stock portfolios and puts the fitted covariance to work in SciPy's solvers;
sur regresses these returns, or the columns of your file, with errors that are correlated across
equations; fit approximates a matrix of yours; info describes what was saved; bench compares speed
and answers with other packages, where they are installed; warmup compiles all kernels ahead."""

_DEMO = """\
Hold out each fifth of the months, compare a tree and a single-level factor model of equal storage
on it, use the covariance in SciPy."""

_BENCH = """\
Compare speed and answers with the floor of plain BLAS products, with the published recursion in
Python, with sparse and dense factorizations, and with scikit-learn, alsgls, linearmodels and PyLops
where they are installed.  Prints a table, in under three minutes on two cores and 1.5 GB."""

_BENCH_EXAMPLES = """\
examples:
  python -m mlrops bench -o bench.md
  python -m mlrops bench --only floor,sklearn
  python -m mlrops bench --quick

The rows are floor, em, recursion, sparse, dense, sklearn, alsgls, linearmodels and pylops.  The
exit code is 2 where answers differ."""

_SUR = """\
Seemingly unrelated regressions.  Without --data: excess returns of 30 stock portfolios, first on
four factors, then each on its own past year, beside least squares equation by equation.  With
--data: columns of your own file."""

_SUR_EXAMPLES = """\
examples:
  python -m mlrops sur --data returns.csv --dependent "ret_*" --exog market,size \\
      --groups sectors.csv --ranks bic -o coefficients.png
  python -m mlrops sur --data firms.csv --ranks 1 --cov-type robust \\
      --equation "invest_gm ~ value=value_gm + capital=capital_gm" \\
      --equation "invest_ge ~ value=value_ge + capital=capital_ge"

The rows must be in order of time for --cov-type hac.
sectors.csv has a line of column names and one row an equation: its name, then its groups, coarse
to fine.  Empty cells, NA and NaN are missing: an equation lacks the rows in which one of its
columns is missing, the others keep them.  pandas reads the files, pip install "mlrops[pandas]", and
pyarrow those that end in .parquet, pip install "mlrops[disk]".
One from Excel, with a code for missing cells:
  python -m mlrops sur --data returns.csv --dependent "ret_*" --exog market --decimal , \\
      --thousands . --na-values=-99,99 --encoding cp1252"""

_FIT = """\
Approximate a matrix by a sum of block-diagonal low rank matrices on a hierarchy of its rows and
one of its columns.  The hierarchies and the ranks of their levels are found, unless given."""

_FIT_EXAMPLES = """\
examples:
  python -m mlrops fit kernel.npy --total-rank 20
  python -m mlrops fit graph.mtx --total-rank 10 --n-levels 6 --start bottom -o graph-mlr.npz
  python -m mlrops fit covariance.csv --total-rank 8 --psd --groups sectors.csv
  python -m mlrops fit points.csv --kernel gaussian --scale 0.2 --total-rank 20

By default there are 1 + log2(smaller side / total rank) levels, rounded: leaves of about the total
rank.
groups.csv has a line of column names and then one line a row of the matrix, in order: the groups it
is in, coarse to fine.  Where its first column holds the names at the head of the matrix, lines may
stand in any order.  Text files hold numbers separated by commas, semicolons, tabs or spaces; a
first line without any number is a head.
Readers of .parquet, .zarr and .h5 come with pip install "mlrops[disk]"."""


_WARMUP = """\
Compile every kernel now, by running small problems of every kind, instead of each when it is first
used.  They are kept for later processes: once per installation is enough, in the image of a
container, say."""

_INFO = """\
Describe a file of mlrops.save: the levels and ranks of an operator, or the parts it is composed of,
what it stores beside the dense matrix, its determinant where that costs little; the summary of a
result; the groups of a tree."""


class _Renamed(argparse.Action):
    """An option that is also read under its old name, with a warning."""

    def __init__(self, option_strings: Sequence[str], dest: str, old: str,
                 **keywords: Any) -> None:
        super().__init__(option_strings, dest, **keywords)
        self.old = old

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: Any, option_string: str | None = None) -> None:
        if option_string == self.old:
            print(f"{parser.prog.removeprefix('python -m ')}: warning: {self.old} is now called"
                  f" {self.option_strings[0]}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _levels(text: str) -> int | str:
    """A number of levels, or "auto"."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from None


# Options of the commands: names, what stands for the value, help, and other keywords of argparse.
_OWN_FILE = [
    ("--data", "CSV", "a table with a head, separated by commas, semicolons or tabs; or .parquet"),
    ("--dependent", "A,B,...", 'columns to explain, one equation each; patterns like "ret_*" too'),
    ("--exog", "X,Z,...", "regressors of all these equations"),
    ("--equation", '"A ~ X + Z"', 'an equation with regressors of its own (repeat); "name=X" gives'
     " a column the name that it has in other equations", {"action": "append"}),
    ("--groups", "CSV", "groups of the equations: a tree"),
    ("--ranks", "R", "factors of each level, such as 2,1 (the first for all equations), or bic,"
     " aic, cv (default: bic)"),
    ("--no-const", None, "no intercepts", {"action": "store_true"}),
    ("--cov-type", None, "kind of standard errors (default: unadjusted)",
     {"choices": ("unadjusted", "robust", "clustered", "hac", "bootstrap")}),
    ("--clusters", "COLUMN", "clusters of rows, for clustered"),
    ("--index-column", "COLUMN", "labels of the rows, such as dates; never a variable"),
    ("--decimal", "SIGN", 'of numbers, such as "," (default: ".")'),
    ("--thousands", "SIGN", 'between thousands, such as "," or " " (default: none)'),
    ("--na-values", "WORD", "cells that are missing, besides empty ones, NA, N/A, NaN, null, none"
     ' and "."; such as -99.99 -999', {"nargs": "+", "action": "extend"}),
    ("--encoding", "NAME", "of the files, such as latin-1, cp1252, utf-16 (default: utf-8)"),
    ("--save-table", "CSV", "write all coefficients"),
]
_FIT_OPTIONS = [
    ("matrix", None, ".npy, .npz (NumPy or SciPy sparse), .csv, .mtx, .parquet, .zarr or .h5"),
    ("--total-rank", "R", "sum of the ranks of all levels: (m + n) R numbers are stored",
     {"action": _Renamed, "old": "--rank", "type": int, "required": True}),
    ("--n-levels", "L", "levels of the tree to be found (default: auto, as deep as it goes)",
     {"action": _Renamed, "old": "--levels", "type": _levels, "default": "auto"}),
    ("--method", None, "how the tree is found (default: spectral; order keeps the order of rows and"
     " columns; the others read the matrix as distances)",
     {"choices": ("spectral", "order", "distance", "linkage")}),
    ("--groups", "CSV", "the tree of a square matrix, where known"),
    ("--kernel", "NAME", "the file holds points, one a line, of which the matrix is a kernel:"
     " gaussian, exponential, matern32, multiquadric, inverse_multiquadric or thin_plate; it is"
     " never formed"),
    ("--scale", "S", "length scale of the kernel (default: 1)", {"type": float}),
    ("--start", "S,...", "how ranks begin: grow, uniform, bottom, top or all, the best is kept"
     " (default: grow,top)", {"default": "grow,top"}),
    ("--symmetric", None, "fit a symmetric matrix (default: if the matrix is one)",
     {"action": argparse.BooleanOptionalAction}),
    ("--psd", None, "fit positive semidefinite blocks", {"action": "store_true"}),
    ("--key", "NAME", "which array of an .npz, .zarr or .h5 file"),
    ("--random-state", "SEED", "default: 0",
     {"action": _Renamed, "old": "--seed", "type": int, "default": 0}),
    ("-o --output", "NPZ", "where to write the operator (default: %(default)s)",
     {"default": "mlrops-fit.npz"}),
    ("--picture", "PNG", "where to write the picture (default: %(default)s)",
     {"default": "mlrops-fit.png"}),
]
_BENCH_OPTIONS = [
    ("--only", "ROW,...", "some of the rows (default: all)"),
    ("--quick", None, "tiny problems, in seconds: whether the answers agree",
     {"action": "store_true"}),
    ("-o --output", "MD", "write the table in Markdown, too"),
]
_FILE = "file", None, "written by mlrops.save or a command; .npz and .npy of NumPy too"
_PICTURE = "-o --output", "PNG", "where to write the picture (default: %(default)s)"

# Of each command: what the list of commands says of it, its description, examples, options.
_COMMANDS: dict[str, tuple[str, str, str | None, list[Any]]] = {
    "demo": ("fit and use a covariance of real stock returns; prints a table, writes a PNG", _DEMO,
             None, [(*_PICTURE, {"default": "mlrops-demo.png"})]),
    "sur": ("regressions with correlated errors, of stock returns or of your own file; prints"
            " tables, writes a PNG", _SUR, _SUR_EXAMPLES,
            [(*_PICTURE, {"default": "mlrops-sur.png"}), ("your own file", _OWN_FILE)]),
    "fit": ("a multilevel low rank matrix near to your own; prints errors, writes the operator and"
            " a PNG", _FIT, _FIT_EXAMPLES, _FIT_OPTIONS),
    "bench": ("speed and answers against BLAS, published algorithms and other packages; prints a"
              " table", _BENCH, _BENCH_EXAMPLES, _BENCH_OPTIONS),
    "warmup": ("compile all kernels now; says how long it took and where they are kept", _WARMUP,
               None, [("--float32", None, "those for single precision, too",
                       {"action": "store_true"})]),
    "info": ("what a saved operator, tree or result is, and what it stores", _INFO, None, [_FILE]),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the code to exit with."""
    with printing() as out:
        args = _parser().parse_args(argv)
        if args.command is None:
            _parser().print_help()
            return 0
        # Where a command has no file to write, nothing is left to do once its reader has gone.
        out.vital = getattr(args, "output", None) is None
        code = _run(args)
        if out.lost is None:
            return code
        if not isinstance(out.lost, BrokenPipeError):  # of | head, and nobody wants to know
            print(f"mlrops {args.command}: warning: not all of the text could be written:"
                  f" {out.lost}", file=sys.stderr)
        return code or 1


def _run(args):
    try:
        command = import_module(f"{__package__}.{args.command}")
        getattr(command, args.command)(args)
        sys.stdout.flush()
    except CommandError as error:
        print(f"mlrops {args.command}: error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"mlrops {args.command}: error: out of memory: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mlrops {args.command}: interrupted", file=sys.stderr)
        return 130  # as a shell counts it: 128 + SIGINT
    except Unread:
        return 1
    return 0


def _parser():
    form = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m mlrops", description=_ABOUT, **form)
    parser.add_argument("--version", action="version", version=f"mlrops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, (summary, description, examples, options) in _COMMANDS.items():
        _add(commands.add_parser(name, help=summary, description=description, epilog=examples,
                                 **form), options)
    return parser


def _add(parser, options):
    """Add options, those of a list as a group; an old name is read, but no longer shown."""
    for names, metavar, *rest in options:
        if isinstance(metavar, list):
            _add(parser.add_argument_group(names), metavar)
            continue
        keywords = {"help": rest[0], **(rest[1] if rest[1:] else {})}
        if metavar is not None:
            keywords["metavar"] = metavar
        if "old" in keywords:
            parser.add_argument(names, keywords["old"], **keywords).option_strings = [names]
        else:
            parser.add_argument(*names.split(), **keywords)
