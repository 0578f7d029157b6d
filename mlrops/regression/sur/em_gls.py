"""`em_gls`: the model of `als_gls` by dense matrices and plain EM, for comparison and teaching."""

import numpy as np

from ...factor.ascent import independent_loglik
from ...factor.limits import at_floor
from ...factor.start import capped_groups, start
from ...operators.elementary import Dense
from ...operators.mlr import MLR
from .als_gls import SUROptions, check_hierarchy
from .climb import LEAST_GAIN, residual_source, warn_of
from .data import read_equations
from .groups import read_tree
from .limits import check_bounded, check_carried
from .result import SURResult

__all__ = ["em_gls"]


def em_gls(Xs, Y, ranks, hierarchy=None, *, tol=1e-9, gtol=1e-5, max_iter=5000,
           variance_floor=1e-6):
    """Fit the model of `als_gls` the dense way: same likelihood, same maximum.

    Every iteration solves the P×P normal equations for all coefficients, forms the K×K covariance
    and its inverse, and takes one EM step.  It shows what the structure saves, and checks it.

    Parameters
    ----------
    Xs, Y, ranks, hierarchy
        As in `als_gls`.
    tol, gtol, max_iter, variance_floor
        As in `als_gls`; an iteration is one EM step, which gains little, so more are needed.

    Returns
    -------
    SURResult
        ``n_cg`` is empty: the normal equations are solved directly.

    Raises
    ------
    ValueError, TypeError
        As `als_gls`.

    Warns
    -----
    ConvergenceWarning
        The iteration cap was reached, or variances stand at the floor.

    Notes
    -----
    With P coefficients in all an iteration takes ``P³/3 + O(K³ + N K²)`` flops, and memory holds
    ``O(P² + K²)`` numbers.  Each half-step maximizes the likelihood, or the function that EM puts
    below it, given the other (X.-L. Meng, D. Rubin, "Maximum likelihood estimation via the ECM
    algorithm", 1993).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import als_gls, em_gls
    >>> rng = np.random.default_rng(0)
    >>> Xs = [rng.standard_normal((80, 2)) for _ in range(6)]
    >>> E = rng.standard_normal((80, 1)) + rng.standard_normal((80, 6))
    >>> Y = np.stack([X.sum(axis=1) for X in Xs], axis=1) + E
    >>> dense, structured = em_gls(Xs, Y, ranks=1), als_gls(Xs, Y, ranks=1)
    >>> bool(abs(dense.loglik - structured.loglik) < 1e-6)
    True
    """
    options = SUROptions.checked(tol=tol, gtol=gtol, max_iter=max_iter,
                                 variance_floor=variance_floor)
    rules, data = options.rules, read_equations(Xs, Y)
    hierarchy = check_hierarchy(read_tree(hierarchy, data), data.K)
    ranks = check_carried(data, hierarchy, ranks)
    check_bounded(data, hierarchy, ranks)
    system = data.system()
    E = system.residuals(system.ols)
    system.check_errors(E)
    source = residual_source(hierarchy._gather(E))
    F, D = map(hierarchy._scatter,
               start("svd", hierarchy._in_tree_order(), ranks, source, None))
    floor = hierarchy._scatter(variance_floor * source.variance).astype(D.dtype)
    state = _State(system, system.ols, hierarchy, ranks, F, np.maximum(D, floor))
    independent, trace, termination = independent_loglik(source), [state.loglik], None
    while termination is None:
        new = state.em_step(floor).gls_step()
        if new.loglik < state.loglik:  # rounding is all that is left, of the gain or of Σ
            lost = (state.loglik - new.loglik) / max(trace[-1] - independent, data.K / 2)
            termination = "tol" if lost <= max(rules.tol, LEAST_GAIN) else "rounding"
            break
        state = new
        trace.append(state.loglik)
        gains, scale = np.diff(trace[-4:]), max(trace[-1] - independent, data.K / 2)
        if state.gradient_norm(floor) <= rules.gtol:
            termination = "gradient"
        elif gains.size == 3 and gains.max() <= rules.tol * scale:
            termination = "tol"
        elif len(trace) > rules.max_iter:
            termination = "max_iter"
    boundary = at_floor(state.D, floor)
    covariance = MLR.from_compact(hierarchy, ranks, state.F, state.D).principal()
    fit = SURResult(
        data=data, coefficients=system.coefficients(state.gamma), covariance=covariance,
        loglik=trace[-1], loglik_trace=np.array(trace), objective_trace=np.array(trace),
        n_iter=len(trace) - 1,
        converged=termination in ("gradient", "tol"), termination=termination, n_cg=[],
        gradient_norm=state.gradient_norm(floor), normal_norm=state.normal_norm(),
        boundary=boundary, capped=capped_groups(hierarchy, ranks), options=options)
    warn_of(fit, stacklevel=3)
    return fit


class _State:
    """Coefficients and covariance with every matrix they give, dense, in feature order."""

    def __init__(self, system, gamma, hierarchy, ranks, F, D):
        self.system, self.gamma, self.E = system, gamma, system.residuals(gamma)
        self.hierarchy, self.ranks, self.F, self.D = hierarchy, ranks, F, D
        self.loadings, self.leaves = _spread(hierarchy, ranks, F)
        sigma = self.loadings @ self.loadings.T + np.diag(D)
        sigma = Dense((sigma + sigma.T) / 2, positive_definite=True)
        self.precision = sigma.solve(np.eye(len(D), dtype=D.dtype))
        self.S = self.E @ self.E.T / system.N
        quad = system.N * np.vdot(self.precision, self.S)
        self.loglik = system.average_loglik(system.weigh(sigma), float(quad))

    def em_step(self, floor):
        """Regress the residuals on the factors' posterior, equation by equation."""
        G = self.precision @ self.loadings
        second = np.eye(G.shape[1]) - self.loadings.T @ G + G.T @ self.S @ G
        cross = self.S @ G
        F, D = np.empty_like(self.F), np.empty_like(self.D)
        for rows, own in self.leaves:
            V = cross[np.ix_(rows, own)]
            F[rows] = Dense(second[np.ix_(own, own)]).solve(V.T).T
            D[rows] = self.S.diagonal()[rows] - np.einsum("ij,ij->i", F[rows], V)
        return _State(self.system, self.gamma, self.hierarchy, self.ranks, F, np.maximum(D, floor))

    def gls_step(self):
        """The coefficients that maximize the likelihood for this covariance."""
        normal = self.system.normal_matrix(self.precision)
        step = Dense(normal).solve(self.system.adjoint(self.precision @ self.E))
        new = _State(self.system, self.gamma + step, self.hierarchy, self.ranks, self.F, self.D)
        return new if new.loglik >= self.loglik else self

    def gradient_norm(self, floor):
        """As the result defines it, from ``½ (Σ⁻¹SΣ⁻¹ - Σ⁻¹)``, the derivative by Σ."""
        dS = (self.precision @ self.S @ self.precision - self.precision) / 2
        by_D = self.D * dS.diagonal()
        by_D[(self.D <= floor) & (by_D < 0)] = 0
        by_F = (np.sqrt(self.D) * 2 * (dS @ self.loadings).T).T * (self.loadings != 0)
        return float(max(np.abs(by_D).max(), np.abs(by_F).max(initial=0)))

    def normal_norm(self):
        unit = self.system.spread(1 / np.sqrt(self.precision.diagonal()))
        score = unit * self.system.adjoint(self.precision @ self.E)
        return float(np.linalg.norm(score) / np.sqrt(self.system.N))


def _spread(hierarchy, ranks, F):
    """Loadings (K, s), a column for each factor of each group, and (equations, columns) a leaf."""
    columns, at = [], 0
    for level, r in enumerate(ranks):
        labels = hierarchy.labels(level)
        columns.append(at + labels[:, None] * r + np.arange(r))
        at += hierarchy.group_counts[level] * r
    columns = np.concatenate(columns, axis=1)
    loadings = np.zeros((hierarchy.n, at), F.dtype)
    np.put_along_axis(loadings, columns, F, axis=1)
    leaves = hierarchy.labels(-1)
    rows = [np.flatnonzero(leaves == g) for g in range(hierarchy.group_counts[-1])]
    return loadings, [(r, columns[r[0]]) for r in rows]
