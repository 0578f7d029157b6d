"""Every public call of regressions that takes labelled data, for `test_labels_regression`.

`CALLS` maps a name to a function of ``change``, which is applied to every object with labels that
the call is given and returns one with the same labels in another order (or, in another test, with
a foreign one).  What the function returns must not depend on the order.
"""

from functools import cache

import numpy as np
import pandas as pd

from mlrops import SUR, als_gls, em_gls, gls, select_sur_ranks

N, NAMES = 40, ("u", "v", "w")
ROWS = pd.Index([f"r{t:02}" for t in range(N)], name="row")
_rng = np.random.default_rng(0)
XS = {name: pd.DataFrame(_rng.standard_normal((N, 2)), ROWS, ["a", "b"]) for name in NAMES}
Y = pd.DataFrame(_rng.standard_normal((N, 3)) + _rng.standard_normal((N, 1)), ROWS, list(NAMES))
WEIGHTS = pd.Series(_rng.uniform(0.5, 2, N), ROWS)
CLUSTERS = pd.Series(np.arange(N) // 5, ROWS)
SIGMA = pd.DataFrame([[2.0, 1, 0.5], [1, 3, 0.2], [0.5, 0.2, 1]], list(NAMES), list(NAMES))
LATER = pd.Index([f"s{t}" for t in range(6)], name="row")
NEW_XS = {name: pd.DataFrame(_rng.standard_normal((6, 2)), LATER, ["a", "b"]) for name in NAMES}
NEW_Y = pd.DataFrame(_rng.standard_normal((6, 3)), LATER, list(NAMES))


def equations(change=lambda x: x):
    """In the form of `SUR`, with weights in the first equation."""
    out = {name: {"dependent": change(Y[name]), "exog": change(XS[name])} for name in NAMES}
    out["u"]["weights"] = change(WEIGHTS)
    return out


@cache
def fit():
    return SUR(equations()).fit(covariance=SIGMA)


@cache
def fitted():
    """With a Σ that was fitted: an MLR, which takes missing cells."""
    return SUR(equations()).fit(ranks=1)


def tables(result):
    return result.params, result.bse, result.resid, result.loglik


def every(change, frames):
    return [change(X) for X in frames.values()]


def _gls(change):
    found = gls(change(XS["u"]), change(Y["u"]), change(WEIGHTS), x0=pd.Series({"a": 1.0, "b": 2}))
    return (found.params, found.bse, found.tvalues, found.pvalues, found.resid, found.fittedvalues,
            found.conf_int(), found.cov_params(), found.to_frame())


def _gls_covariance(change):
    lag = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    found = gls(XS["u"], change(Y["u"]), change(pd.DataFrame(0.5**lag, ROWS, ROWS)))
    return found.params, found.bse, found.resid


R = pd.DataFrame([[1, -1.0], [1, 2]], ["same", "sum"], ["u_a", "v_b"])
Q = pd.Series({"same": 0.0, "sum": 1})


def _add_constraints(change):
    model = SUR(equations())
    model.add_constraints(change(R), change(Q))
    return model.fit(covariance=SIGMA).params


def _selected(change):
    found = select_sur_ranks(change(XS), change(Y), candidates=[0, 1], refit=False)
    return [(record.ranks, record.loglik, record.df) for record in found.table]


def _clustered(change):
    return fit().with_cov("clustered", clusters=change(CLUSTERS)).bse


def _predictions(change):
    found = fit().get_prediction(every(change, NEW_XS))
    return (found.predicted_mean, found.se_mean, found.se_obs, found.conf_int(),
            found.summary_frame())


def _scored(name):
    def call(change):
        return getattr(fit(), name)(every(change, NEW_XS), change(NEW_Y))
    return call


CALLS = {
    "gls": _gls,
    "gls, dicts": lambda change: gls(XS["u"], change(dict(Y["u"])), change(dict(WEIGHTS)),
                                     x0=change({"a": 1, "b": 2})).params,
    "gls, covariance": _gls_covariance,
    "als_gls": lambda change: tables(als_gls(change(XS), change(Y), covariance=change(SIGMA))),
    "als_gls, list": lambda change: tables(als_gls(  # which stands in the order of Y's columns
        every(change, XS), change(Y)[list(NAMES)], covariance=SIGMA)),
    "als_gls, fitted": lambda change: tables(als_gls(change(XS), change(Y), ranks=1)),
    "als_gls, groups": lambda change: als_gls(
        list(XS.values()), Y, (1, 0), change({"u": "n", "v": "s", "w": "n"})).loglik,
    "em_gls": lambda change: em_gls(change(XS), change(Y), ranks=1, gtol=1e-4).params,
    "select_sur_ranks": _selected,
    "SUR": lambda change: tables(SUR(equations(change)).fit(covariance=SIGMA)),
    "SUR.fit": lambda change: tables(SUR(equations()).fit(covariance=change(SIGMA))),
    "SUR.fit, groups": lambda change: SUR(equations()).fit(
        (1, 0), change(pd.Series({"u": "n", "v": "s", "w": "n"}))).loglik,
    "SUR.fit, clusters": lambda change: SUR(equations()).fit(
        covariance=SIGMA, cov_type="clustered",
        cov_kwds={"clusters": change(dict(CLUSTERS))}).bse,
    "SUR.add_constraints": _add_constraints,
    "SUR.multivariate_ls": lambda change: SUR.multivariate_ls(
        change(Y), change(XS["u"])).fit(covariance=SIGMA).params,
    "SURResult.with_cov": _clustered,
    "SURResult.cov_params": lambda change: fit().cov_params("clustered", clusters=change(CLUSTERS)),
    "SURResult.predict": lambda change: fit().predict(every(change, NEW_XS)),
    "SURResult.predict, dict": lambda change: fit().predict(change(NEW_XS)),
    "SURResult.get_prediction": _predictions,
    "SURResult.score": _scored("score"),
    "SURResult.score_samples": _scored("score_samples"),
    "SURResult.mean_squared_error": _scored("mean_squared_error"),
    "SURResult.wald_test": lambda change: fit().wald_test(
        change(R), change(Q)).statistic,
    "SURResult.wald_test, series": lambda change: fit().wald_test(
        change(pd.Series({("u", "a"): 1.0, ("v", "b"): 2}))).statistic,
}
# A row that nothing else has: cells that are missing, not a mistake.
ROWS_MAY_DIFFER = {"SUR", "SUR.multivariate_ls"}
