"""What a file holds of a `SURResult`, and the result made of it again; see `mlrops.io`."""

from dataclasses import asdict
from numbers import Integral, Real

import numpy as np

from .._common.driver import CONVERGED, TERMINATIONS, current_termination
from .._common.optional import import_pandas
from .._common.validate import as_finite, as_positive
from .._common.wording import counted
from ..factor.selection import CRITERIA, RankRecord, RankSelection
from ..operators import MLR, StructuredOperator
from ..regression.sur.als_gls import SUROptions
from ..regression.sur.covariance import KINDS, read_kwds
from ..regression.sur.data import SURData, SystemNames
from ..regression.sur.result import SURResult
from ..regression.sur.row_weights import KERNELS, cluster_weights
from .fields import (
    BOUNDARY,
    CAPPED,
    COUNT,
    FINITE,
    FLAG,
    NOT_NEGATIVE,
    Check,
    check_capped,
    check_fields,
    floats,
    maybe,
    of_field,
    one_of,
    tuple_of,
)

__all__ = ["make_system", "system_fields"]

OPTIONAL = type(None)
# What each field may be; those of a newer version are refused, those that may be None may lack.
FIELDS = {
    "Y": np.ndarray, "X": tuple, "X_of": tuple, "observed": (np.ndarray, OPTIONAL),
    "weights": (np.ndarray, OPTIONAL), "R": (np.ndarray, OPTIONAL), "q": (np.ndarray, OPTIONAL),
    "equations": (tuple, OPTIONAL), "regressors": (tuple, OPTIONAL),
    "constraints": (tuple, OPTIONAL), "rows": (np.ndarray, OPTIONAL),
    "rows_name": (str, int, tuple, OPTIONAL), "period": (str, OPTIONAL),
    "coefficients": np.ndarray, "covariance": StructuredOperator, "covariance_is_known": bool,
    "loglik": Real, "loglik_trace": np.ndarray,
    "objective_trace": (np.ndarray, OPTIONAL), "n_iter": Integral,
    "converged": (bool, np.bool_), "termination": str, "cg_iterations": list,
    "gradient_norm": Real, "normal_norm": Real, "boundary": np.ndarray, "capped": tuple,
    "options": dict, "selection": (dict, OPTIONAL), "cov_kind": str, "cov_options": dict,
    "clusters": (np.ndarray, OPTIONAL),
}
# What they must be besides.
CHECKS = {
    "Y": floats(2), "X": tuple_of(floats(2), "a list of matrices"),
    "X_of": tuple_of(COUNT, "a tuple of integers that are not negative"),
    "weights": maybe(floats(2)), "R": maybe(floats(2)), "q": maybe(floats(1)),
    "coefficients": floats(1), "covariance_is_known": FLAG, "loglik": FINITE,
    "loglik_trace": floats(1), "objective_trace": maybe(floats(1)), "n_iter": COUNT, "converged": FLAG,
    "termination": one_of(*TERMINATIONS),
    "cg_iterations": Check("a list of integers that are not negative",
                           lambda x: all(map(COUNT.holds, x))),
    "gradient_norm": NOT_NEGATIVE, "normal_norm": NOT_NEGATIVE, "boundary": BOUNDARY,
    "capped": CAPPED, "cov_kind": one_of(*KINDS),
}
# What the options of the coefficients' covariance may be.
COV_OPTIONS = {
    "debiased": maybe(FLAG), "group_debias": FLAG, "kernel": one_of(*KERNELS),
    "bandwidth": maybe(FINITE), "n_boot": COUNT, "random_state": maybe(COUNT), "progress": FLAG,
}
RECORD = {
    "ranks": tuple_of(COUNT, "a tuple of integers that are not negative"), "storage": COUNT,
    "df": COUNT, "n_iter": COUNT, "converged": FLAG, "n_capped": COUNT,
    **dict.fromkeys(("loglik", "aic", "bic", "cv_mean", "cv_se"),
                    Check("a number", lambda x: isinstance(x, Real) and FLAG.holds(x) is False)),
}


def system_fields(fit):
    """The fields of a result: arrays, operators, numbers and text."""
    data, names = fit.data, fit.data.names
    unique = list({id(X): X for X in data.Xs}.values())  # what equations share is stored once
    number = {id(X): i for i, X in enumerate(unique)}
    R, q = (None, None) if data.constraints is None else data.constraints
    equations, regressors, rows, constraints = (None,) * 4 if names is None else names
    cov_options = dict(fit.cov_kwds)
    clusters = cov_options.pop("clusters", None)
    out = {
        "Y": data.Y, "X": tuple(unique), "X_of": tuple(number[id(X)] for X in data.Xs),
        "observed": data.observed, "weights": data.weights, "R": R, "q": q,
        "equations": equations, "regressors": regressors, "constraints": constraints,
        "coefficients": np.concatenate(fit.coefficients),
        "cov_kind": fit.cov_type, "cov_options": cov_options,
        "clusters": None if clusters is None else _plain(clusters, "the labels of clusters"),
        "options": _option_fields(fit.options), "selection": _selection_fields(fit.selection),
        **_row_fields(rows),
    }
    out["cg_iterations"] = fit.n_cg
    return out | {name: getattr(fit, name) for name in FIELDS if name not in out}


def _option_fields(options):
    own = {name: getattr(options, name) for name in
           ("solver", "max_cg_iter", "variance_floor", "beta_ridge", "factor_ridge")}
    return own | asdict(options.rules)


def _selection_fields(selection):
    if selection is None:
        return None
    return {"ranks": selection.ranks, "criterion": selection.criterion,
            "one_standard_error": selection.one_standard_error,
            "table": [tuple(record) for record in selection.table]}


def _row_fields(rows):
    """A pandas index as an array, with its name; periods by their numbers and frequency."""
    if rows is None:
        return {"rows": None, "rows_name": None, "period": None}
    period = rows.freqstr if hasattr(rows, "freqstr") and hasattr(rows, "asfreq") else None
    values = rows.asi8 if period else _plain(rows, "the row labels")
    return {"rows": values, "rows_name": rows.name, "period": period}


def _plain(labels, what):
    """Labels as an array of numbers, dates or text."""
    values = np.asarray(labels)
    if values.dtype.kind == "O" and all(isinstance(x, str) for x in values.ravel()):
        values = values.astype(str)
    if values.dtype.kind not in "biufmMU":
        raise TypeError(f"{what} must be numbers, text, periods or dates without a time zone, got"
                        f" {type(values.ravel()[0]).__name__}")
    return values


# ---------------------------------------------------------------- out of a file


def make_system(**given):
    """The result of its fields, everything checked."""
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise ValueError(f"it has a field {unknown[0][:60]!r}, unknown here: it was written by a"
                         " newer mlrops")
    for name, kinds in FIELDS.items():
        value = given.setdefault(name, None)
        if not isinstance(value, kinds):
            raise TypeError(f"field {name!r} must not be of type {type(value).__name__}")
    check_fields(given, CHECKS)
    data = _data(given)
    K, P = data.K, int(data.p.sum())
    beta = as_finite(given["coefficients"], "coefficients", dtype=given["coefficients"].dtype)
    _shaped(beta, "coefficients", "f", (P,))
    covariance, known = given["covariance"], given["covariance_is_known"]
    if covariance.shape != (K, K) or not (known or isinstance(covariance, MLR)):
        raise ValueError(f"covariance must be of order {K}, an MLR where it was fitted, got"
                         f" {covariance!r}")
    if not covariance.symmetric:
        raise ValueError(f"covariance must be symmetric, got {covariance!r}")
    if given["objective_trace"] is None:  # version 0.1.0 kept it in the place of the other one
        given["objective_trace"] = given["loglik_trace"].copy()
    for name in ("loglik_trace", "objective_trace"):
        _shaped(given[name], name, "f", (given["n_iter"] + 1,))
        as_finite(given[name], name)
    if (given["boundary"] >= K).any():
        raise ValueError(f"boundary must hold equations, integers from 0 to {K - 1}")
    if given["converged"] and given["termination"] not in CONVERGED:
        raise ValueError("field 'converged' is True, but field 'termination' is"
                         f" {given['termination']!r}")
    if isinstance(covariance, MLR):
        check_capped(given["capped"], covariance.ranks, covariance.hierarchy.group_counts)
    elif given["capped"]:
        raise ValueError("field 'capped' must be empty where the covariance is no MLR")
    with of_field("options"):
        options = SUROptions.checked(**given["options"])
    plain = ("loglik", "loglik_trace", "objective_trace", "n_iter", "converged", "termination",
             "gradient_norm", "normal_norm", "boundary", "capped")
    result = SURResult(
        data=data, coefficients=np.split(beta, np.cumsum(data.p)[:-1]), covariance=covariance,
        covariance_is_known=known, options=options, n_cg=given["cg_iterations"],
        selection=_selection(given["selection"]), cov_type=given["cov_kind"],
        cov_kwds=_cov_kwds(given, data),
        **{name: given[name] for name in plain})
    with of_field("X"):  # regressors that depend on one another are found out by what they give
        _ = result.system
    return result


def _cov_kwds(given, data):
    """Options of the coefficients' covariance."""
    config, clusters, N = given["cov_options"], given["clusters"], data.N
    with of_field("cov_options"):
        check_fields(config, COV_OPTIONS)
        if not 0 <= (config.get("bandwidth") or 0) < N:
            raise ValueError(f"field 'bandwidth' must lie between 0 and the number of rows, {N},"
                             f" got {config['bandwidth']}")
        if config.get("n_boot", 2) < 2:
            raise ValueError(f"field 'n_boot' must be at least 2, got {config['n_boot']}")
    if (clusters is None) != (given["cov_kind"] != "clustered"):
        raise ValueError("field 'clusters' must be there for clustered errors, and for no others")
    if clusters is not None:
        with of_field("clusters"):
            cluster_weights(clusters, data, bool(config.get("group_debias")))
        config = config | {"clusters": clusters}
    with of_field("cov_options"):
        return read_kwds(given["cov_kind"], config)


def _shaped(x, name, kinds, shape):
    if x.dtype.kind not in kinds or x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got dtype {x.dtype} and shape {x.shape}")


def _data(given):
    """The `SURData`."""
    Y, known, at = given["Y"], given["X"], given["X_of"]
    if not Y.size:
        raise ValueError(f"Y must have rows and columns, got shape {Y.shape}")
    Y, (N, K) = as_finite(Y, "Y"), Y.shape
    for X in known:
        if X.dtype != Y.dtype or len(X) != N:
            raise ValueError(f"X must hold matrices of {Y.dtype} with {counted(N, 'row')}")
        as_finite(X, "X")
    if len(at) != K or set(at) != set(range(len(known))):
        raise ValueError(f"X_of must hold the number of each of the {K} equations' X")
    Xs = [known[i] for i in at]
    P = sum(X.shape[1] for X in Xs)
    if given["observed"] is not None:
        _shaped(given["observed"], "observed", "b", (N, K))
        if Y[~given["observed"]].any():
            raise ValueError("Y must be 0 in the cells that 'observed' says are missing")
    weights = given["weights"]
    if weights is not None:
        _shaped(weights, "weights", "f", (N, K))
        as_positive(weights.ravel(), "weights")
    R, q = given["R"], given["q"]
    if (R is None) != (q is None):
        raise ValueError("R and q belong together")
    if R is not None:
        _shaped(q, "q", "f", (q.size,))
        _shaped(R, "R", "f", (q.size, P))
        as_finite(R, "R")
        as_finite(q, "q")
    return SURData(Xs, Y, given["observed"], weights, None if R is None else (R, q),
                   _names(given, Xs, Y, 0 if q is None else q.size))


def _names(given, Xs, Y, m):
    """`SystemNames` or None."""
    equations, regressors = given["equations"], given["regressors"]
    if equations is None:
        return None
    constraints = given["constraints"] or ()
    right = regressors is not None and len(equations) == len(regressors) == len(Xs) and all(
        type(own) is tuple and len(own) == X.shape[1]
        for own, X in zip(regressors, Xs, strict=True)) and len(constraints) in (0, m)
    if not right or not all(type(name) is str for own in (equations, constraints, *regressors)
                            for name in own):
        raise ValueError("equations, regressors and constraints must be one text each for what"
                         " they name")
    rows = given["rows"]
    if rows is not None:
        if rows.shape != (len(Y),):
            raise ValueError(f"rows must have {counted(len(Y), 'label')}, got shape {rows.shape}")
        pd = import_pandas()

        with of_field("rows" if given["period"] is None else "period"):
            if given["period"] is not None:
                rows = pd.arrays.PeriodArray(rows, dtype=pd.PeriodDtype(given["period"]))
            elif rows.dtype.kind not in "biufmMU":
                raise ValueError(f"there are no row labels of {rows.dtype}")
        with of_field("rows_name"):
            rows = pd.Index(rows, name=given["rows_name"])
    return SystemNames(equations, regressors, rows, constraints)


def _selection(given):
    """The `RankSelection` or None."""
    if given is None:
        return None
    with of_field("selection"):
        check_fields(given, {
            "ranks": RECORD["ranks"], "criterion": one_of(*CRITERIA), "one_standard_error": FLAG,
            "table": Check("a list of records", lambda x: type(x) is list and x != []
                           and all(type(record) is tuple for record in x))})
        table = [RankRecord(*record) for record in given["table"]]
        for record in table:
            check_fields(record._asdict(), RECORD)
        if given["ranks"] not in [record.ranks for record in table]:
            raise ValueError(f"the chosen ranks {given['ranks']} are no candidate")
        return RankSelection(**given | {"fit": None, "table": table})
