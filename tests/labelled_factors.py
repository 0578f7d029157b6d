"""Every public call of trees, factor models and fits of matrices that takes labelled data.

`CALLS` maps a name to a function of ``change``, which is applied to every object with labels that
the call is given and returns one with the same labels in another order (or, in another test, with
a foreign one).  What the function returns must not depend on the order.
"""

from functools import cache

import numpy as np
import pandas as pd

from mlrops import (
    MLR,
    Hierarchy,
    allocate_ranks,
    fit_factor_model,
    fit_mlr,
    partition,
    partition_features,
    partition_points,
    plotting,
    select_ranks,
)

N, NAMES = 200, ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
ROWS = pd.Index([f"r{t:02}" for t in range(N)])
_rng = np.random.default_rng(0)
_common, _own = _rng.standard_normal((N, 1)), _rng.standard_normal((N, 2)).repeat(4, axis=1)
Y = pd.DataFrame(_common + _own + _rng.standard_normal((N, 8)), ROWS, list(NAMES))
WEIGHTS = pd.Series(_rng.uniform(0.5, 2, N), ROWS)
GROUPS = pd.Series(list("uuuuvvvv"), list(NAMES))
TABLE = pd.DataFrame({"coarse": GROUPS, "fine": list("aabbccdd")})
LEVELS = ["coarse", "fine"]
PATHS = {name: tuple(row) for name, row in zip(NAMES, TABLE.to_numpy(), strict=True)}
MASK = pd.Series([True, False] * 4, list(NAMES))
NEW = Y.iloc[:7] + 0.5
GAPS = NEW.mask(_rng.random(NEW.shape) < 0.3)
SHOWN = pd.DataFrame(_rng.random(Y.shape) < 0.95, Y.index, Y.columns)
KERNEL = pd.DataFrame(np.exp(-np.abs(np.subtract.outer(*[np.arange(8.0)] * 2)) / 3), list(NAMES),
                      list(NAMES))
COV = Y.cov(ddof=0)
POINTS = pd.DataFrame({"x": np.arange(8.0) ** 2, "y": [0, 1] * 4}, list(NAMES))
HELD = pd.Series(np.arange(N) % 3 == 0, ROWS)


@cache
def fit():
    return fit_factor_model(Y, (1, 1), GROUPS)


def outcome(found):
    """What does not depend on the order of the features, or has their names."""
    names = list(found.feature_names)
    sigma = pd.DataFrame(found.covariance.toarray(), names, names)
    return found.loglik, sigma, found.communalities, pd.Series(found.mean, names)


def tree(h):
    """Groups by the names of the features."""
    return [pd.Series(h.labels(level), list(h.feature_names)) for level in range(h.n_levels)]


def in_names(A):
    """An operator on trees with names as a frame."""
    rows, cols = getattr(A, "rows", None), getattr(A, "cols", None)
    if rows is None:
        rows = cols = A.hierarchy
    return pd.DataFrame(A.toarray(), list(rows.feature_names), list(cols.feature_names))


def text_of(ax):
    """A picture's names of features, as a set."""
    return sorted(text.get_text() for text in [*ax.get_xticklabels(), *ax.get_yticklabels()]
                  if text.get_text() in NAMES)


def _condition(change):
    rest = fit().condition(change(MASK))
    return rest.missing, rest.covariance.toarray(), rest.observed_names


def _mean(form):
    def call(change):
        rest = fit().condition(list(NAMES[::2]))
        return rest.mean(change(form(NEW[list(NAMES[::2])])))
    return call


def _selected(change):
    held = change(HELD)
    found = select_ranks(change(Y), [(1, 1, 0), (1, 0, 1)], change(TABLE)[LEVELS],
                         criterion="cv", folds=[(~held, held)], sample_weight=change(WEIGHTS))
    return ([(record.ranks, record.cv_mean, record.loglik) for record in found.table],
            outcome(found.fit))


def _plot(name):
    def call(change):
        import matplotlib.pyplot as plt

        given = fit_factor_model(change(Y), (1, 1), change(GROUPS))
        ax = getattr(plotting, name)(given if name != "plot_hierarchy" else given.covariance)
        found = text_of(ax)
        plt.close(ax.figure)
        assert found, "no feature is named"
        return found == sorted(NAMES) or found == sorted(NAMES * 2)
    return call


def _estimator(change):
    from mlrops.sklearn import FactorModel

    data = change(Y)
    model = FactorModel((1, 1), change(GROUPS)).fit(data, sample_weight=change(WEIGHTS))
    return outcome(model.result_)


def _measured(found):
    return [found.chi2, found.tli, found.srmr]


def _checked(found):
    return [found.objective, found.gradient_norm]


CALLS = {
    "Hierarchy.from_labels": lambda change: tree(
        Hierarchy.from_labels(change(GROUPS), change(TABLE["fine"]))),
    "Hierarchy.from_labels, frame": lambda change: tree(
        Hierarchy.from_labels(change(GROUPS), change(TABLE[["fine"]]))),
    "Hierarchy.from_labels, dicts": lambda change: tree(
        Hierarchy.from_labels(change(dict(GROUPS)), change(dict(TABLE["fine"])))),
    "fit_factor_model": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1), change(GROUPS), sample_weight=change(WEIGHTS))),
    "fit_factor_model, frame": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1, 0), change(TABLE)[LEVELS])),
    "fit_factor_model, dicts": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1, 0), change(PATHS), sample_weight=change(dict(WEIGHTS)))),
    "fit_factor_model, list": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1, 0), [change(GROUPS), change(TABLE["fine"])])),
    "fit_factor_model, hierarchy": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1), Hierarchy.from_labels(change(GROUPS)))),
    "fit_factor_model, missing": lambda change: outcome(fit_factor_model(
        change(Y.where(SHOWN)), (1, 1), change(GROUPS), missing="em", tol=1e-13, gtol=1e-8,
        sample_weight=change(WEIGHTS))),
    "fit_factor_model, chunks": lambda change: outcome(fit_factor_model(
        [change(Y[:20]), change(Y[20:])], (1, 1), change(GROUPS))),
    "fit_factor_model, init": lambda change: outcome(fit_factor_model(
        change(Y), (1, 1), change(GROUPS), init=fit().covariance, max_iter=0)),
    "select_ranks": _selected,
    "sklearn.FactorModel": _estimator,
    "fit_factor_model, covariance": lambda change: outcome(fit_factor_model(
        covariance=change(COV), n_samples=N, ranks=(1, 1), hierarchy=change(GROUPS))),
    "FactorModelResult.fit_measures": lambda change: _measured(fit().fit_measures(change(Y))),
    "FactorModelResult.fit_measures, covariance": lambda change: _measured(fit().fit_measures(
        covariance=change(COV))),
    "FactorModelResult.score": lambda change: fit().score(change(NEW)),
    "FactorModelResult.score_samples": lambda change: fit().score_samples(change(GAPS)),
    "FactorModelResult.scores": lambda change: [
        fit().scores(change(NEW)), fit().scores(change(NEW), 0, method="bartlett")],
    "FactorModelResult.check": lambda change: _checked(fit().check(
        change(Y), n_directions=0, n_init=0)),
    "FactorModelResult.impute": lambda change: fit().impute(change(GAPS), return_std=True),
    "FactorModelResult.condition": _condition,
    "FactorModelResult.condition, dict": lambda change: fit().condition(
        change(dict(MASK))).observed,
    "FactorModelResult.expected_loglik": lambda change: fit().expected_loglik(
        change(KERNEL), change(KERNEL["ant"])),
    "FactorModelResult.kl_divergence": lambda change: fit().kl_divergence(
        change(KERNEL), change(dict(KERNEL["bee"]))),
    "FactorModelResult.kl_divergence, operator": lambda change: fit().kl_divergence(
        MLR(Hierarchy.from_labels(change(GROUPS)), [np.ones((8, 1))] * 2, np.ones(8))),
    "RotatedLoadings.scores": lambda change: fit().rotate().scores(change(NEW)),
    "Conditional.mean": _mean(lambda y: y.iloc[0]),
    "Conditional.mean, dict": _mean(lambda y: dict(y.iloc[0])),
    "Conditional.mean, frame": _mean(lambda y: y),
    "fit_mlr": lambda change: in_names(
        fit_mlr(change(KERNEL), (2, 1), change(GROUPS), tol=1e-9, random_state=0).operator),
    "fit_mlr, two trees": lambda change: in_names(fit_mlr(
        change(KERNEL), (2, 1), change(GROUPS), change(dict(GROUPS)), symmetric=False, tol=1e-9,
        random_state=0).operator),
    "allocate_ranks": lambda change: allocate_ranks(
        change(KERNEL), 3, change(GROUPS), random_state=0).ranks,
    "partition": lambda change: _same_groups(partition(change(KERNEL), 2)),
    "partition_features": lambda change: _same_groups([partition_features(
        change(Y), (1, 1), min_size=2)]),
    "partition_points": lambda change: _same_groups(partition_points(change(POINTS))),
    "partition_points, two": lambda change: _same_groups(
        partition_points(change(POINTS), change(POINTS.set_axis(list("abcdefgh"))))),
    "plot_correlation": _plot("plot_correlation"),
    "plot_variance_shares": _plot("plot_variance_shares"),
    "plot_hierarchy": _plot("plot_hierarchy"),
}
# Names that are looked at by nobody but the result, so that none of them is foreign.
NAMES_MAY_DIFFER = {"partition_features", "partition_points", "partition_points, two"}


def _same_groups(trees):
    """Groups as sets of names: of two halves the first depends on the order of the rows."""
    return [sorted(sorted(np.array(h.feature_names)[h.features(1, g)].tolist())
                   for g in range(h.group_counts[1])) for h in trees]


# Public calls that take nothing with labels, or where labels cannot disagree with anything.
NO_LABELS = {
    "as_operator": "an operator or an array, which have no names", "check_operator": "an operator",
    "load": "a file", "save": "an object and a file",
    "Hierarchy.from_boundaries": "offsets", "Hierarchy.from_linkage": "a linkage, by position",
    "Hierarchy.flat": "sizes", "Hierarchy.balanced": "sizes", "Hierarchy.describe": "sizes",
    "Hierarchy.features": "numbers", "Hierarchy.group_sizes": "numbers",
    "Hierarchy.labels": "numbers", "Hierarchy.names": "numbers",
    "FactorModelResult.sample": "sizes; named", "FactorModelResult.rotate": "options",
    "FactorModelResult.summary": "options", "FactorModelResult.to_frame": "nothing; named",
    "FactorModelResult.variance_shares": "options; named", "RotatedLoadings.to_frame": "nothing",
    "RankSelection.summary": "options", "RankSelection.to_frame": "nothing",
    "MLRFit.summary": "options", "MLRFit.to_mlr": "nothing",
    "RankAllocation.summary": "options", "RankAllocation.to_mlr": "nothing",
    "GLSResult.conf_int": "a level", "GLSResult.cov_params": "nothing",
    "GLSResult.summary": "options", "GLSResult.to_frame": "options",
    "SUR.reset_constraints": "nothing", "SURResult.breusch_pagan": "options",
    "SURResult.conf_int": "a level", "SURResult.factor_scores": "options",
    "SURResult.homogeneity_test": "names", "SURResult.likelihood_ratio": "a result",
    "SURResult.summary": "options", "SURResult.to_frame": "options",
    "plot_coefficients": "a result", "plot_levels": "an operator", "plot_loglik": "results",
    "plot_matrix": "a matrix", "plot_rank_allocation": "results", "plot_sparsity": "an operator",
}
