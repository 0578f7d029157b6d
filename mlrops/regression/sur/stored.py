"""What a file holds of a `SURResult`, and the result made of it again."""

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from ..._common.optional import import_pandas
from ..._common.stored import (
    COUNT,
    FINITE,
    FIT,
    FLAG,
    NOT_NEGATIVE,
    OPERATOR,
    Check,
    Stored,
    check_fields,
    check_fit,
    floats,
    instance,
    maybe,
    of_field,
    one_of,
    tuple_of,
)
from ..._common.validate import as_finite, as_positive
from ..._common.wording import counted
from ...factor.selection import CRITERIA, RankRecord, RankSelection
from ...factor.stored import STRENGTH, check_prior
from ...operators.mlr import MLR
from .covariance import KINDS, read_kwds
from .data import SURData, SystemNames
from .row_weights import KERNELS, cluster_weights
from .system_fit import SystemFit

__all__ = ["StoredSystem"]

ARRAY, TUPLE = instance(np.ndarray, "an array"), instance(tuple, "a tuple")
FITTER = Check("options of a fit", lambda x: hasattr(x, "fit"))
TEXT, DICT = instance(str, "a text"), instance(dict, "a dict")
COUNTS = tuple_of(COUNT, "a tuple of integers that are not negative")
# What the options of the coefficients' covariance may be.
COV_OPTIONS = {
    "debiased": maybe(FLAG), "group_debias": FLAG, "kernel": one_of(*KERNELS),
    "bandwidth": maybe(FINITE), "n_boot": COUNT, "random_state": maybe(COUNT), "progress": FLAG}
RECORD = {
    "ranks": COUNTS, "storage": COUNT, "df": COUNT, "n_iter": COUNT, "converged": FLAG,
    "n_capped": COUNT, **dict.fromkeys(
        ("loglik", "aic", "bic", "cv_mean", "cv_se"),
        Check("a number", lambda x: isinstance(x, Real) and not FLAG.holds(x)))}
SELECTION = {
    "ranks": COUNTS, "criterion": one_of(*CRITERIA), "one_standard_error": FLAG,
    "table": Check("a list of records", lambda x: type(x) is list and x != []
                   and all(type(record) is tuple for record in x))}
# Fields of the result that are stored as they are.
PLAIN = {name: FIT[name] for name in (
    "loglik", "loglik_trace", "n_iter", "converged", "termination", "gradient_norm", "boundary",
    "capped")} | {
    "covariance": OPERATOR, "covariance_is_known": FLAG, "normal_norm": NOT_NEGATIVE,
    "objective_trace": maybe(FIT["objective_trace"]), "prior": maybe(STRENGTH),
    "prior_variance": maybe(floats(1)), "prior_share": maybe(floats(1)),
    "n_cg": Check("a list of integers that are not negative",
                  lambda x: type(x) is list and all(map(COUNT.holds, x)))}


class StoredSystem(Stored, SystemFit):
    """The part of `SURResult` that `mlrops.save` and `mlrops.load` use.

    Regressors that several equations share are stored once: ``X`` are the different ones, ``X_of``
    tells which are whose.
    """

    stored_fields = PLAIN | {
        "Y": floats(2), "X": tuple_of(floats(2), "a list of matrices"), "X_of": COUNTS,
        "observed": maybe(ARRAY), "weights": maybe(floats(2)), "R": maybe(floats(2)),
        "q": maybe(floats(1)), "equations": maybe(TUPLE), "regressors": maybe(TUPLE),
        "constraints": maybe(TUPLE), "rows": maybe(ARRAY), "period": maybe(TEXT),
        "rows_name": maybe(instance((str, int, tuple), "a name")), "coefficients": floats(1),
        "options": FITTER, "selection": maybe(DICT), "cov_type": one_of(*KINDS), "cov_kwds": DICT,
        "clusters": maybe(ARRAY)}

    def to_fields(self) -> dict[str, Any]:
        data, selection = self.data, self.selection
        unique = list({id(X): X for X in data.Xs}.values())
        number = {id(X): i for i, X in enumerate(unique)}
        R, q = data.constraints or (None, None)
        equations, regressors, rows, constraints = data.names or (None,) * 4
        cov_kwds = dict(self.cov_kwds)
        clusters = cov_kwds.pop("clusters", None)
        return {name: getattr(self, name) for name in PLAIN} | {
            "Y": data.Y, "X": tuple(unique), "X_of": tuple(number[id(X)] for X in data.Xs),
            "observed": data.observed, "weights": data.weights, "R": R, "q": q,
            "equations": equations, "regressors": regressors, "constraints": constraints,
            **_row_fields(rows), "coefficients": np.concatenate(self.coefficients),
            "cov_type": self.cov_type, "cov_kwds": cov_kwds,
            "clusters": None if clusters is None else _plain(clusters, "the labels of clusters"),
            "options": self.options,
            "selection": selection and {
                "ranks": selection.ranks, "criterion": selection.criterion,
                "one_standard_error": selection.one_standard_error,
                "table": [tuple(record) for record in selection.table]}}

    @classmethod
    def from_fields(cls, *args: Any, **given: Any) -> Any:
        given = dict.fromkeys(cls.stored_fields) | given
        data, A = _data(given), given["covariance"]
        K = data.K
        free = given["covariance_is_known"] or getattr(
            given["options"], "method", "factor") != "factor"
        beta = as_finite(given["coefficients"], "coefficients", dtype=given["coefficients"].dtype)
        _shaped(beta, "coefficients", "f", (int(data.p.sum()),))
        if A.shape != (K, K) or not (free or isinstance(A, MLR)):
            raise ValueError(f"covariance must be of order {K}, an MLR where it was fitted, got"
                             f" {A!r}")
        if not A.symmetric:
            raise ValueError(f"covariance must be symmetric, got {A!r}")
        if (given["boundary"] >= K).any():
            raise ValueError(f"boundary must hold equations, integers from 0 to {K - 1}")
        if given["capped"] and not isinstance(A, MLR):
            raise ValueError("field 'capped' must be empty where the covariance is no MLR")
        if given["objective_trace"] is None:  # version 0.1.0 kept it in the place of the other one
            given["objective_trace"] = given["loglik_trace"].copy()
        given["prior"] = given["prior"] or 0.0  # which version 0.2.0 did not know
        check_prior(given, K)
        check_fit(given, ["loglik_trace", "objective_trace"], *(
            (A.ranks, A.hierarchy.group_counts) if isinstance(A, MLR) else ((), ())))
        result = cls(
            data=data, coefficients=np.split(beta, np.cumsum(data.p)[:-1]),
            options=given["options"], selection=_selection(given["selection"]),
            cov_type=given["cov_type"], cov_kwds=_cov_kwds(given, data),
            **{name: given[name] for name in PLAIN})
        with of_field("X"):  # regressors that depend on one another are found out by what they give
            _ = result.system
        return result


def _row_fields(rows: Any) -> dict[str, Any]:
    """A pandas index as an array, with its name; periods by their numbers and frequency."""
    if rows is None:
        return {"rows": None, "rows_name": None, "period": None}
    period = rows.freqstr if hasattr(rows, "freqstr") and hasattr(rows, "asfreq") else None
    values = rows.asi8 if period else _plain(rows, "the row labels")
    return {"rows": values, "rows_name": rows.name, "period": period}


def _plain(labels: Any, what: str) -> np.ndarray:
    """Labels as an array of numbers, dates or text."""
    values = np.asarray(labels)
    if values.dtype.kind == "O" and all(isinstance(x, str) for x in values.ravel()):
        values = values.astype(str)
    if values.dtype.kind not in "biufmMU":
        raise TypeError(f"{what} must be numbers, text, periods or dates without a time zone, got"
                        f" {type(values.ravel()[0]).__name__}")
    return values


def _index(given: dict[str, Any], N: int) -> Any:
    """The pandas index of the rows."""
    rows, period = given["rows"], given["period"]
    if rows.shape != (N,):
        raise ValueError(f"rows must have {counted(N, 'label')}, got shape {rows.shape}")
    pd = import_pandas()
    with of_field("rows" if period is None else "period"):
        if period is not None:
            rows = pd.arrays.PeriodArray(rows, dtype=pd.PeriodDtype(period))
        elif rows.dtype.kind not in "biufmMU":
            raise ValueError(f"there are no row labels of {rows.dtype}")
    with of_field("rows_name"):
        return pd.Index(rows, name=given["rows_name"])


def _names(given: dict[str, Any], data: SURData) -> SystemNames | None:
    equations, regressors = given["equations"], given["regressors"]
    if equations is None:
        return None
    constraints, m = given["constraints"] or (), 0 if given["q"] is None else given["q"].size
    right = regressors is not None and len(equations) == len(regressors) == data.K and all(
        type(own) is tuple and len(own) == p
        for own, p in zip(regressors, data.p, strict=True)) and len(constraints) in (0, m)
    if not right or not all(type(name) is str for own in (equations, constraints, *regressors)
                            for name in own):
        raise ValueError("equations, regressors and constraints must be one text each for what"
                         " they name")
    rows = None if given["rows"] is None else _index(given, data.N)
    return SystemNames(equations, regressors, rows, constraints)


def _shaped(x: np.ndarray, name: str, kinds: str, shape: tuple[int, ...]) -> None:
    if x.dtype.kind not in kinds or x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got dtype {x.dtype} and shape {x.shape}")


def _data(given: dict[str, Any]) -> SURData:
    Y, known, at, observed = (given[name] for name in ("Y", "X", "X_of", "observed"))
    weights, R, q = (given[name] for name in ("weights", "R", "q"))
    if not Y.size:
        raise ValueError(f"Y must have rows and columns, got shape {Y.shape}")
    Y, (N, K) = as_finite(Y, "Y"), Y.shape
    for X in known:
        if X.dtype != Y.dtype or len(X) != N:
            raise ValueError(f"X must hold matrices of {Y.dtype} with {counted(N, 'row')}")
        as_finite(X, "X")
    if len(at) != K or set(at) != set(range(len(known))):
        raise ValueError(f"X_of must hold the number of each of the {K} equations' X")
    if observed is not None:
        _shaped(observed, "observed", "b", (N, K))
        if Y[~observed].any():
            raise ValueError("Y must be 0 in the cells that 'observed' says are missing")
    if weights is not None:
        _shaped(weights, "weights", "f", (N, K))
        as_positive(weights.ravel(), "weights")
    if (R is None) != (q is None):
        raise ValueError("R and q belong together")
    Xs = [known[i] for i in at]
    if R is not None:
        _shaped(R, "R", "f", (q.size, sum(X.shape[1] for X in Xs)))
        as_finite(R, "R")
        as_finite(q, "q")
    data = SURData(Xs, Y, observed, weights, None if R is None else (R, q))
    return replace(data, names=_names(given, data))


def _cov_kwds(given: dict[str, Any], data: SURData) -> dict[str, Any]:
    kwds, clusters, N = given["cov_kwds"], given["clusters"], data.N
    with of_field("cov_kwds"):
        check_fields(kwds, COV_OPTIONS)
        if not 0 <= (kwds.get("bandwidth") or 0) < N:
            raise ValueError(f"field 'bandwidth' must lie between 0 and the number of rows, {N},"
                             f" got {kwds['bandwidth']}")
        if kwds.get("n_boot", 2) < 2:
            raise ValueError(f"field 'n_boot' must be at least 2, got {kwds['n_boot']}")
    if (clusters is None) != (given["cov_type"] != "clustered"):
        raise ValueError("field 'clusters' must be there for clustered errors, and for no others")
    if clusters is not None:
        with of_field("clusters"):
            cluster_weights(clusters, data, bool(kwds.get("group_debias")))
        kwds = kwds | {"clusters": clusters}
    with of_field("cov_kwds"):
        return read_kwds(given["cov_type"], kwds)


def _selection(given: dict[str, Any] | None) -> RankSelection | None:
    if given is None:
        return None
    with of_field("selection"):
        check_fields(given, SELECTION)
        table = [RankRecord(*record) for record in given["table"]]
        for record in table:
            check_fields(record._asdict(), RECORD)
        if given["ranks"] not in [record.ranks for record in table]:
            raise ValueError(f"the chosen ranks {given['ranks']} are no candidate")
        return RankSelection(**given | {"fit": None, "table": table})
