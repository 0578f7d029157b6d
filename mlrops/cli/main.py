"""The arguments of ``python -m mlrops``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

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
and answers with other packages, where they are installed."""

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
columns is missing, the others keep them.  pandas reads the files: pip install "mlrops[pandas]".
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

By default there are 1 + log2(smaller side / total rank) levels, rounded: leaves of about the total
rank.
groups.csv has a line of column names and then one line a row of the matrix, in order: the groups it
is in, coarse to fine.  Where its first column holds the names at the head of the matrix, lines may
stand in any order.  Text files hold numbers separated by commas, semicolons, tabs or spaces; a
first line without any number is a head."""


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


class _Command(NamedTuple):
    """What the help says of a command, and its options: ``(name, ..., keywords of argparse)``."""

    help: str
    description: str
    options: Sequence[tuple[Any, ...]]
    epilog: str | None = None


def _picture(default):
    return "-o", "--output", {"default": default, "metavar": "PNG",
                              "help": "where to write the picture (default: %(default)s)"}


_OWN_FILE = [
    ("--data", {"metavar": "CSV",
                "help": "a table with a head; separated by commas, semicolons or tabs"}),
    ("--dependent", {"metavar": "A,B,...", "help":
     'columns to explain, one equation each; patterns like "ret_*" too'}),
    ("--exog", {"metavar": "X,Z,...", "help": "regressors of all these equations"}),
    ("--equation", {"action": "append", "metavar": '"A ~ X + Z"', "help":
     'an equation with regressors of its own (repeat); "name=X" gives a column the name that it'
     " has in other equations"}),
    ("--groups", {"metavar": "CSV", "help": "groups of the equations: a tree"}),
    ("--ranks", {"metavar": "R", "help":
     "factors of each level, such as 2,1 (the first for all equations), or bic, aic, cv (default:"
     " bic)"}),
    ("--no-const", {"action": "store_true", "help": "no intercepts"}),
    ("--cov-type", {"choices": ("unadjusted", "robust", "clustered", "hac", "bootstrap"),
                    "help": "kind of standard errors (default: unadjusted)"}),
    ("--clusters", {"metavar": "COLUMN", "help": "clusters of rows, for clustered"}),
    ("--index-column", {"metavar": "COLUMN", "help":
     "labels of the rows, such as dates; never a variable"}),
    ("--decimal", {"metavar": "SIGN", "help": 'of numbers, such as "," (default: ".")'}),
    ("--thousands", {"metavar": "SIGN",
                     "help": 'between thousands, such as "," or " " (default: none)'}),
    ("--na-values", {"nargs": "+", "action": "extend", "metavar": "WORD", "help":
     'cells that are missing, besides empty ones, NA, N/A, NaN, null, none and "."; such as -99.99'
     " -999"}),
    ("--encoding", {"metavar": "NAME", "help":
     "of the files, such as latin-1, cp1252, utf-16 (default: utf-8)"}),
    ("--save-table", {"metavar": "CSV", "help": "write all coefficients"}),
]

_COMMANDS = {
    "demo": _Command(
        "fit and use a covariance of real stock returns; prints a table, writes a PNG",
        _DEMO, [_picture("mlrops-demo.png")]),
    "sur": _Command(
        "regressions with correlated errors, of stock returns or of your own file; prints tables,"
        " writes a PNG", _SUR, [_picture("mlrops-sur.png"), ("your own file", _OWN_FILE)],
        _SUR_EXAMPLES),
    "fit": _Command(
        "a multilevel low rank matrix near to your own; prints errors, writes the operator and a"
        " PNG", _FIT, [
            ("matrix", {"help": ".npy, .npz (NumPy or SciPy sparse), .csv or .mtx"}),
            ("--total-rank", {"old": "--rank", "type": int, "required": True, "metavar": "R",
                              "help": "sum of the ranks of all levels: (m + n) R numbers are"
                              " stored"}),
            ("--n-levels", {"old": "--levels", "type": int, "metavar": "L",
                            "help": "levels of the tree to be found"}),
            ("--method", {"choices": ("spectral", "order", "distance", "linkage"), "help":
             "how the tree is found (default: spectral; order keeps the order of rows and columns;"
             " the others read the matrix as distances)"}),
            ("--groups", {"metavar": "CSV", "help": "the tree of a square matrix, where known"}),
            ("--start", {"default": "all", "metavar": "S,...", "help":
             "first ranks: uniform, bottom, top or all, the best is kept (default: all)"}),
            ("--symmetric", {"action": argparse.BooleanOptionalAction,
                             "help": "fit a symmetric matrix (default: if the matrix is one)"}),
            ("--psd", {"action": "store_true", "help": "fit positive semidefinite blocks"}),
            ("--key", {"metavar": "NAME", "help": "which array of an .npz file"}),
            ("--random-state", {"old": "--seed", "type": int, "default": 0, "metavar": "SEED",
                                "help": "default: 0"}),
            ("-o", "--output", {"default": "mlrops-fit.npz", "metavar": "NPZ", "help":
             "where to write the operator (default: %(default)s)"}),
            ("--picture", {"default": "mlrops-fit.png", "metavar": "PNG", "help":
             "where to write the picture (default: %(default)s)"}),
        ], _FIT_EXAMPLES),
    "bench": _Command(
        "speed and answers against BLAS, published algorithms and other packages; prints a table",
        _BENCH, [
            ("--only", {"metavar": "ROW,...", "help": "some of the rows (default: all)"}),
            ("--quick", {"action": "store_true", "help":
             "tiny problems, in seconds: whether the answers agree"}),
            ("-o", "--output", {"metavar": "MD", "help": "write the table in Markdown, too"}),
        ], _BENCH_EXAMPLES),
    "info": _Command(
        "what a saved operator, tree or result is, and what it stores", _INFO,
        [("file", {"help": "written by mlrops.save or a command; .npz and .npy of NumPy too"})]),
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
    parser = argparse.ArgumentParser(
        prog="python -m mlrops", description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"mlrops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, command in _COMMANDS.items():
        _add(commands.add_parser(
            name, help=command.help, description=command.description, epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter), command.options)
    return parser


def _add(parser, options):
    """Add options, those of a list as a group; an old name is read, but no longer shown."""
    for *names, last in options:
        if isinstance(last, list):
            _add(parser.add_argument_group(*names), last)
        elif "old" in last:
            option = parser.add_argument(*names, last["old"], action=_Renamed, **last)
            option.option_strings = names
        else:
            parser.add_argument(*names, **last)
