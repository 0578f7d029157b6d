"""What a file holds of a `SURResult`, and the result made of it again; see `mlrops.io`."""

from numbers import Integral, Real

import numpy as np

from ._optional import import_pandas
from ._wording import counted
from .models.selection import RankRecord, RankSelection
from .models.sur.als_gls import SUROptions
from .models.sur.covariance import CovConfig
from .models.sur.data import SURData, SystemNames
from .models.sur.result import SURResult
from .operators import MLR, StructuredOperator
from .operators._validate import as_finite, as_positive

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
    "loglik": Real, "loglik_trace": np.ndarray, "n_iter": Integral,
    "converged": (bool, np.bool_), "termination": str, "cg_iterations": list,
    "gradient_norm": Real, "normal_norm": Real, "boundary": np.ndarray, "capped": tuple,
    "options": dict, "selection": (dict, OPTIONAL), "cov_kind": str, "cov_options": dict,
    "clusters": (np.ndarray, OPTIONAL),
}


def system_fields(fit):
    """The fields of a result: arrays, operators, numbers and text."""
    data, names = fit.data, fit.data.names
    unique = list({id(X): X for X in data.Xs}.values())  # what equations share is stored once
    number = {id(X): i for i, X in enumerate(unique)}
    R, q = (None, None) if data.constraints is None else data.constraints
    equations, regressors, rows, constraints = (None,) * 4 if names is None else names
    cov_options = dict(fit.cov_config.options)
    clusters = cov_options.pop("clusters", None)
    out = {
        "Y": data.Y, "X": tuple(unique), "X_of": tuple(number[id(X)] for X in data.Xs),
        "observed": data.observed, "weights": data.weights, "R": R, "q": q,
        "equations": equations, "regressors": regressors, "constraints": constraints,
        "coefficients": np.concatenate(fit.coefficients),
        "cov_kind": fit.cov_config.kind, "cov_options": cov_options,
        "clusters": None if clusters is None else _plain(clusters, "the labels of clusters"),
        "options": _option_fields(fit.options), "selection": _selection_fields(fit.selection),
        **_row_fields(rows),
    }
    return out | {name: getattr(fit, name) for name in FIELDS if name not in out}


def _option_fields(options):
    own = {name: getattr(options, name) for name in
           ("solver", "max_cg_iter", "variance_floor", "beta_ridge", "factor_ridge")}
    return own | options.rules._asdict()


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
    data = _data(given)
    K, P = data.K, int(data.p.sum())
    beta = as_finite(given["coefficients"], "coefficients", dtype=given["coefficients"].dtype)
    _shaped(beta, "coefficients", "f", (P,))
    covariance, known = given["covariance"], given["covariance_is_known"]
    if covariance.shape != (K, K) or not (known or isinstance(covariance, MLR)):
        raise ValueError(f"covariance must be of order {K}, an MLR where it was fitted, got"
                         f" {covariance!r}")
    trace, boundary = given["loglik_trace"], given["boundary"]
    _shaped(trace, "loglik_trace", "f", (max(trace.size, 1),))
    _shaped(boundary, "boundary", "iu", (boundary.size,))
    if boundary.size and not 0 <= boundary.min() <= boundary.max() < K:
        raise ValueError(f"boundary must hold equations, integers from 0 to {K - 1}")
    config = given["cov_options"]
    if given["clusters"] is not None:
        config = config | {"clusters": given["clusters"]}
    config = CovConfig(given["cov_kind"], config)
    config.check()
    plain = ("loglik", "n_iter", "converged", "termination", "cg_iterations", "gradient_norm",
             "normal_norm", "capped")
    return SURResult(
        data=data, coefficients=np.split(beta, np.cumsum(data.p)[:-1]), covariance=covariance,
        covariance_is_known=known, loglik_trace=trace, boundary=boundary,
        options=SUROptions.checked(**given["options"]), selection=_selection(given["selection"]),
        cov_config=config, **{name: given[name] for name in plain})


def _shaped(x, name, kinds, shape):
    if x.dtype.kind not in kinds or x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got dtype {x.dtype} and shape {x.shape}")


def _data(given):
    """The `SURData`."""
    Y, known, at = given["Y"], given["X"], given["X_of"]
    if Y.dtype not in (np.float32, np.float64) or Y.ndim != 2 or not Y.size:
        raise ValueError(f"Y must be a matrix of floats, got dtype {Y.dtype} and shape {Y.shape}")
    Y, (N, K) = as_finite(Y, "Y"), Y.shape
    for X in known:
        if not isinstance(X, np.ndarray) or X.dtype != Y.dtype or X.ndim != 2 or len(X) != N:
            raise ValueError(f"X must hold matrices of {Y.dtype} with {counted(N, 'row')}")
        as_finite(X, "X")
    if len(at) != K or any(type(i) is not int for i in at) or set(at) != set(range(len(known))):
        raise ValueError(f"X_of must hold the number of each of the {K} equations' X")
    Xs = [known[i] for i in at]
    P = sum(X.shape[1] for X in Xs)
    if given["observed"] is not None:
        _shaped(given["observed"], "observed", "b", (N, K))
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
        raise ValueError("names must be one text for each equation, regressor and constraint")
    rows = given["rows"]
    if rows is not None:
        if rows.shape != (len(Y),):
            raise ValueError(f"rows must have {counted(len(Y), 'label')}, got shape {rows.shape}")
        pd = import_pandas()

        if given["period"] is not None:
            rows = pd.arrays.PeriodArray(rows, dtype=pd.PeriodDtype(given["period"]))
        rows = pd.Index(rows, name=given["rows_name"])
    return SystemNames(equations, regressors, rows, constraints)


def _selection(given):
    if given is None:
        return None
    return RankSelection(**given | {"fit": None, "table": [RankRecord(*r) for r in given["table"]]})
