"""The arguments of ``python -m mlrops``."""

import argparse
import sys

from .. import __version__
from .errors import CommandError

__all__ = ["main"]

_ABOUT = """\
mlrops: structured matrices as SciPy linear operators with solve and logdet, and the factor models
and systems of regressions built on them.  The demo fits a tree-structured factor model to 68 years
of monthly returns of 30 stock portfolios and puts the fitted covariance to work in SciPy's solvers;
sur regresses these returns, or the columns of your file, with errors that are correlated across
equations."""

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
sectors.csv has one row an equation: its name, then its groups, coarse to fine.  Empty cells, NA and
NaN are missing: an equation lacks the rows in which one of its columns is missing, the others keep
them."""


def main(argv=None):
    """Run a command; the code to exit with."""
    args = _parser().parse_args(argv)
    if args.command is None:
        _parser().print_help()
        return 0
    try:
        args.run(args)
    except CommandError as error:
        print(f"mlrops {args.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _demo(args):
    from .demo import demo

    demo(args.output)


def _sur(args):
    if args.data is None:
        given = [name for name in ("dependent", "exog", "equation", "groups", "ranks", "no_const",
                                   "cov_type", "clusters", "index_column", "save_table")
                 if getattr(args, name)]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise CommandError(f"{option} describes columns of a file: name it by --data")
        from .french import french

        french(args.output)
    else:
        from .sur import regress

        regress(args)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m mlrops", description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"mlrops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    run = commands.add_parser(
        "demo", help="fit and use a covariance of real stock returns; prints a table, writes a PNG",
        description="Hold out each fifth of the months, compare a tree and a single-level factor"
        " model of equal storage on it, use the covariance in SciPy.")
    _output(run, "mlrops-demo.png")
    run.set_defaults(run=_demo)

    run = commands.add_parser(
        "sur", help="regressions with correlated errors, of stock returns or of your own file;"
        " prints tables, writes a PNG", description=_SUR, epilog=_SUR_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _output(run, "mlrops-sur.png")
    own = run.add_argument_group("your own file")
    own.add_argument("--data", metavar="CSV",
                     help="a table with a head; separated by commas, semicolons or tabs")
    own.add_argument("--dependent", metavar="A,B,...",
                     help='columns to explain, one equation each; patterns like "ret_*" too')
    own.add_argument("--exog", metavar="X,Z,...", help="regressors of all these equations")
    own.add_argument("--equation", action="append", metavar='"A ~ X + Z"',
                     help='an equation with regressors of its own (repeat); "name=X" gives a column'
                     " the name that it has in other equations")
    own.add_argument("--groups", metavar="CSV", help="groups of the equations: a tree")
    own.add_argument("--ranks", metavar="R",
                     help="factors of each level, such as 2,1 (the first for all equations), or"
                     " bic, aic, cv (default: bic)")
    own.add_argument("--no-const", action="store_true", help="no intercepts")
    own.add_argument("--cov-type", choices=("unadjusted", "robust", "clustered", "hac",
                                            "bootstrap"),
                     help="kind of standard errors (default: unadjusted)")
    own.add_argument("--clusters", metavar="COLUMN", help="clusters of rows, for clustered")
    own.add_argument("--index-column", metavar="COLUMN",
                     help="labels of the rows, such as dates; never a variable")
    own.add_argument("--save-table", metavar="CSV", help="write all coefficients")
    run.set_defaults(run=_sur)
    return parser


def _output(parser, default):
    parser.add_argument("-o", "--output", default=default, metavar="PNG",
                        help="where to write the picture (default: %(default)s)")
