"""``python -m mlrops sur``: regressions of the columns of a file, or of stock portfolios."""

import warnings
from collections import Counter
from fnmatch import fnmatchcase
from itertools import chain
from statistics import median

import numpy as np

from .._common.text import number, short
from .._common.wording import counted
from ..regression.sur.model import SUR
from .errors import CommandError, reporting
from .groups_file import groups_by_name
from .outputs import can_draw, check_outputs, save_picture
from .parquet_file import open_table
from .table_file import Cells, write_table
from .tables import CONSTANT, coefficient_table, paragraph, percent, table

__all__ = ["sur"]

CHOICES = "bic", "aic", "cv"
MOST_EQUATIONS = 10  # that are printed one by one
MOST_REGRESSORS = 40  # that are described one by one
MOST_PANELS = 6  # of the picture


def sur(args):
    """Run the command: read, fit, print, draw."""
    if args.data is None:
        given = [name for name, value in vars(args).items()
                 if value and name not in ("command", "output")]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise CommandError(f"{option} describes columns of a file: name it by --data")
        from .french import french

        french(args.output)
    else:
        _regress(args)


def _regress(args):
    check_outputs({"--output": args.output, "--save-table": args.save_table},
                  {"--data": args.data, "--groups": args.groups})
    can_draw("--output", args.output)
    cells = read_cells(args)
    data = open_table(args.data, cells, encodes=True)
    equations = read_specification(data, args)
    groups = None
    if args.groups is not None:
        groups = groups_by_name(open_table(args.groups, cells, encodes=True), equations,
                                "equation")
    ranks = read_ranks(args.ranks or "bic")
    with reporting("sur"):
        model = SUR(read_columns(data, equations, not args.no_const))
        if data.suspicion() is not None:
            warnings.warn(data.suspicion(), stacklevel=1)
        kind, options = covariance_kind(data, args, model.dropped)
        fit = model.fit(ranks, groups, cov_type=kind, cov_kwds=options)
        plain = model.fit(0, cov_type=kind, cov_kwds=options)
        K = fit.n_equations
        tables = {label: coefficient_table(result)
                  for label, result in (("sur", fit), ("ols", plain))}
        if args.save_table is not None:  # before anything else is done with them
            head = ("equation", "regressor", "coef", "std_err", "t", "p", "lower", "upper",
                    "ols_coef", "ols_std_err")
            write_table(args.save_table, head, (
                (*pair, *map(repr, row), *map(repr, tables["ols"][pair][:2]))
                for pair, row in tables["sur"].items()))
        print(_where(data, args, model))
        if fit.selection is not None:
            print(f"Ranks {fit.selection.ranks} are best by {ranks} of"
                  f" {len(fit.selection.table)} candidates.")
        print(f"\n{fit.summary(max_equations=K if K <= MOST_EQUATIONS else 0)}\n")
    print((_beside if K <= MOST_EQUATIONS else _by_regressor)(**tables))
    if len({id(X) for X in model.data.Xs}) == 1 < K:
        print("\nAll equations have the same X: SUR is least squares, whatever the errors.")
    if args.save_table is not None:
        print(f"\nCoefficients written to {args.save_table}")
    counts = Counter(chain(*fit.names.regressors))
    names = [name for name, _ in counts.most_common() if name != CONSTANT or fit.n_params == K]
    with reporting("sur"):
        save_picture(args.output, lambda: _picture(fit, plain, names[:MOST_PANELS]))
    if len(names) > MOST_PANELS:
        print(f"It shows {MOST_PANELS} of {len(names)} regressors, those of most equations.")


# ---------------------------------------------------------------- what is asked for


def read_cells(args):
    """How the cells of the files are written."""
    decimal = args.decimal or "."
    words = args.na_values or ()
    if decimal != ",":  # a list, as of other options
        words = [part for word in words for part in word.split(",")]
    return Cells(args.encoding, decimal, args.thousands, tuple(words)).checked()


def read_specification(data, args):
    """Columns of the regressors of each equation, ``{dependent: {regressor: column}}``."""
    own = dict(_own_equation(text, data) for text in args.equation or ())
    names = _pick(args.exog, data, {args.index_column})
    shared = dict(zip(names, names, strict=True))
    apart = {args.index_column, args.clusters, *shared}
    equations = {name: shared for name in _pick(args.dependent, data, apart)}
    if not equations and not own:
        raise CommandError('nothing to explain: give --dependent, or --equation "y ~ x"')
    equations.update(own)
    for name, regressors in equations.items():
        if name in regressors.values():
            raise CommandError(f"equation {name} has {name} among its own regressors")
        if not regressors and (args.no_const or name not in own):
            raise CommandError(f"equation {name} has no regressors: give --exog, or --equation"
                               f' "{name} ~ x"')
        if CONSTANT in regressors and not args.no_const:
            raise CommandError(f"a regressor is called {CONSTANT}, like the intercept: leave it"
                               " out, or give --no-const")
    return equations


def _own_equation(text, data):
    """``y ~ x + name=z`` as (y, {x: x, name: z}); 1 is the intercept, which is there anyway."""
    left, tilde, right = (part.strip() for part in text.partition("~"))
    terms = [term.strip() for term in right.split("+")]
    if not left or not tilde or not all(terms):
        raise CommandError(f'--equation must look like "y ~ x1 + x2", got "{text}"')
    regressors = {}
    for term in terms:
        if term == "1":
            continue
        name, column = term, term
        if term not in data.columns and "=" in term:
            name, column = (part.strip() for part in term.split("=", 1))
        if name in regressors:
            raise CommandError(f'--equation "{text}" has two regressors {name}')
        regressors[name] = column
    for name in (left, *regressors.values()):
        if name not in data.columns:
            raise data.unknown(name)
    return left, regressors


def _pick(names, data, apart):
    """Columns by name or pattern, each once; patterns never stand for those set apart."""
    out = {}
    for name in filter(None, map(str.strip, (names or "").split(","))):
        if name in data.columns:
            out[name] = True
            continue
        if not set(name) & set("*?["):
            raise data.unknown(name)
        found = [column for column in data.columns
                 if fnmatchcase(column, name) and column not in apart]
        if not found:
            raise CommandError(f'{data.path} has no further column like "{name}"')
        out.update(dict.fromkeys(found, True))
    return list(out)


def read_columns(data, equations, constant):
    """``{dependent: (y, {regressor: x})}`` for `SUR`."""
    columns, designs, out = {}, {}, {}
    for name, regressors in equations.items():
        for column in (name, *regressors.values()):
            if column not in columns:
                columns[column] = data.numbers(column)
        key = tuple(regressors.items())
        if key not in designs:  # one object, so that equations are seen to share it
            const = {CONSTANT: np.ones(len(data.rows))} if constant else {}
            designs[key] = const | {regressor: columns[x] for regressor, x in key}
        out[name] = columns[name], designs[key]
    return out


def read_ranks(text):
    """A criterion, or numbers of factors, coarsest level first."""
    if text in CHOICES:
        return text
    try:
        ranks = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise CommandError("--ranks must be numbers such as 2,1 or one of"
                           f" {', '.join(CHOICES)}, got {text!r}") from None
    return ranks if len(ranks) > 1 else ranks[0]


def covariance_kind(data, args, dropped):
    """``cov_type`` and ``cov_kwds`` of `SUR.fit`."""
    kind = args.cov_type or ("clustered" if args.clusters else "unadjusted")
    if (kind == "clustered") != (args.clusters is not None):
        raise CommandError("--cov-type clustered and --clusters belong together")
    if kind != "clustered":
        return kind, None
    labels = np.unique(data.text(args.clusters), return_inverse=True)[1]
    return kind, {"clusters": np.delete(labels, dropped)}


# ---------------------------------------------------------------- what is shown


def _where(data, args, model):
    text = f"{data.path}: {counted(len(data.rows), 'row')}"
    if args.index_column is not None:
        labels = data.text(args.index_column)
        text += f", {labels[0]} to {labels[-1]}"
    K = model.data.K
    text += f"; {counted(K, 'equation')}"
    if model.data.observed is not None or model.dropped:
        text += f" with {min(model.data.nobs)} to {max(model.data.nobs)} of these rows"
    return text + "."


def _beside(sur, ols):
    """Each coefficient and its standard error by least squares and by SUR."""
    rows, last = [], None
    for (equation, regressor), (b, se, *_) in sur.items():
        b0, se0 = ols[equation, regressor][:2]
        rows.append((short(equation) if equation != last else "", short(regressor),
                     *map(number, (b0, se0, b, se)), percent(se / se0 - 1) + "%"))
        last = equation
    head = "", "", "OLS", "std err", "SUR", "std err", "std err"
    return table(head, rows, gap=1, left=2)


def _by_regressor(sur, ols):
    """For each regressor, the spread of its coefficients and what SUR does to their errors."""
    rows = []
    for regressor in dict.fromkeys(name for _, name in sur):
        pairs = [pair for pair in sur if pair[1] == regressor]
        coefs = [sur[pair][0] for pair in pairs]
        changes = [sur[pair][1] / ols[pair][1] - 1 for pair in pairs]
        sure = [sum(found[pair][3] < 0.05 for pair in pairs) for found in (ols, sur)]
        rows.append((short(regressor), str(len(pairs)),
                     *(f"{x:.3g}" for x in (min(coefs), median(coefs), max(coefs))),
                     *(percent(x) for x in (min(changes), median(changes), max(changes))),
                     *map(str, sure)))
    if len(rows) > MOST_REGRESSORS:
        rest = len(rows) - MOST_REGRESSORS
        rows = [*rows[:MOST_REGRESSORS], (f"and {rest} more", *[""] * 9)]
    return "\n".join([
        paragraph("Smallest, median and largest coefficients; change of their standard errors from"
                  " those of least squares equation by equation (OLS), in percent; coefficients"
                  " with p < 0.05."), "",
        table(("", "eqs", "min", "median", "max", "se: min", "median", "max", "p: OLS", "SUR"),
              rows, gap=1)])


def _picture(fit, plain, regressors):
    from ..plotting import plot_coefficients

    axes = plot_coefficients({"least squares": plain, "SUR": fit}, regressors)
    return axes[0].figure
