"""`em_gls`: the model of `als_gls` by dense matrices and plain EM, for comparison and teaching."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._common.driver import Iteration, Stopping, drive
from ..._common.typing import Data, FloatArray, Labels, Ranks
from ...factor.likelihood import independent_loglik
from ...factor.limits import at_floor
from ...factor.start import start
from ...factor.usable import capped_groups
from ...operators.elementary import Dense
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .als_gls import SUROptions, check_hierarchy
from .climb import LEAST_GAIN, residual_source, warn_of
from .data import read_equations
from .groups import read_tree
from .limits import check_bounded, check_carried
from .result import SURResult
from .system import StackedSystem

__all__ = ["em_gls"]

# Iterations whose gains must all be small; EM gains less in one than `als_gls` does.
SMALL_GAINS = 3


def em_gls(Xs: Sequence[Data] | Mapping[Any, Data] | Data, Y: Data, ranks: Ranks,
           hierarchy: Hierarchy | Labels | None = None, *, tol: float = 1e-9, gtol: float = 1e-5,
           max_iter: int = 5000, variance_floor: float = 1e-6) -> SURResult:
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
    options = SUROptions(tol=tol, gtol=gtol, max_iter=max_iter, variance_floor=variance_floor)
    data = read_equations(Xs, Y)
    hierarchy = check_hierarchy(read_tree(hierarchy, data), data.K)
    ranks = check_carried(data, hierarchy, ranks)
    check_bounded(data, hierarchy, ranks)
    system = data.system()
    E = system.residuals(system.ols)
    system.check_errors(E)
    source = residual_source(hierarchy._gather(E))
    F, D = map(hierarchy._scatter, start("svd", hierarchy._in_tree_order(), ranks, source, None))
    floor = hierarchy._scatter(variance_floor * source.variance).astype(D.dtype)
    first = _State(system, system.ols, hierarchy, ranks, F, np.maximum(D, floor))
    fit = _DenseEM(first, floor, options, independent_loglik(source))
    run = drive(fit, max(options.max_iter, 1), "EM")
    state = fit.state
    result = SURResult(
        data=data, coefficients=system.coefficients(state.gamma),
        covariance=MLR.from_compact(hierarchy, ranks, state.F, state.D).principal(),
        loglik=run.logliks[-1], loglik_trace=np.array(run.logliks),
        objective_trace=np.array(run.objectives), n_iter=run.n_iter, converged=run.converged,
        termination=run.termination, n_cg=[], gradient_norm=state.gradient_norm(floor),
        normal_norm=state.normal_norm(), boundary=at_floor(state.D, floor),
        capped=capped_groups(hierarchy, ranks), options=options)
    warn_of(result, stacklevel=3)
    return result


class _DenseEM(Iteration):
    """EM steps for Σ, each followed by the best coefficients for it."""

    def __init__(self, state: "_State", floor: FloatArray, stopping: Stopping, independent: float):
        self.state, self._floor, self._stopping = state, floor, stopping
        self._independent = independent

    @property
    def objective(self) -> float:
        return self.state.loglik

    def _scale(self) -> float:
        """What gains are measured by."""
        return max(self.state.loglik - self._independent, self.state.D.size / 2)

    def advance(self) -> str | None:
        new = self.state.em_step(self._floor).gls_step()
        if new.loglik < self.state.loglik:  # rounding is all that is left, of the gain or of Σ
            lost = (self.state.loglik - new.loglik) / self._scale()
            return "tol" if lost <= max(self._stopping.tol, LEAST_GAIN) else "rounding"
        self.state = new
        return None

    def reason(self, trace: list[float]) -> str | None:
        if len(trace) > 1 and self.state.gradient_norm(self._floor) <= self._stopping.gtol:
            return "gradient"
        return "tol" if self._stopping.small_gains(trace, self._scale(), SMALL_GAINS) else None


class _State:
    """Coefficients and covariance with every matrix they give, dense, in feature order."""

    def __init__(self, system: StackedSystem, gamma: FloatArray, hierarchy: Hierarchy,
                 ranks: tuple[int, ...], F: FloatArray, D: FloatArray):
        self.system, self.gamma, self.E = system, gamma, system.residuals(gamma)
        self.hierarchy, self.ranks, self.F, self.D = hierarchy, ranks, F, D
        self.loadings, self.leaves = _spread(hierarchy, ranks, F)
        sigma = self.loadings @ self.loadings.T + np.diag(D)
        sigma = Dense((sigma + sigma.T) / 2, positive_definite=True)
        self.precision = sigma.solve(np.eye(len(D), dtype=D.dtype))
        self.S = self.E @ self.E.T / system.N
        quad = system.N * np.vdot(self.precision, self.S)
        self.loglik = system.average_loglik(system.weigh(sigma), float(quad))

    def em_step(self, floor: FloatArray) -> "_State":
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

    def gls_step(self) -> "_State":
        """The coefficients that maximize the likelihood for this covariance."""
        normal = self.system.normal_matrix(self.precision)
        step = Dense(normal).solve(self.system.adjoint(self.precision @ self.E))
        new = _State(self.system, self.gamma + step, self.hierarchy, self.ranks, self.F, self.D)
        return new if new.loglik >= self.loglik else self

    def gradient_norm(self, floor: FloatArray) -> float:
        """As the result defines it, from ``½ (Σ⁻¹SΣ⁻¹ - Σ⁻¹)``, the derivative by Σ."""
        dS = (self.precision @ self.S @ self.precision - self.precision) / 2
        by_D = self.D * dS.diagonal()
        by_D[(self.D <= floor) & (by_D < 0)] = 0
        by_F = (np.sqrt(self.D) * 2 * (dS @ self.loadings).T).T * (self.loadings != 0)
        return float(max(np.abs(by_D).max(), np.abs(by_F).max(initial=0)))

    def normal_norm(self) -> float:
        unit = self.system.spread(1 / np.sqrt(self.precision.diagonal()))
        score = unit * self.system.adjoint(self.precision @ self.E)
        return float(np.linalg.norm(score) / np.sqrt(self.system.N))


def _spread(hierarchy: Hierarchy, ranks: tuple[int, ...], F: FloatArray) -> tuple[Any, Any]:
    """Loadings (K, s), a column for each factor of each group, and (equations, columns) a leaf."""
    by_level, at = [], 0
    for level, r in enumerate(ranks):
        labels = hierarchy.labels(level)
        by_level.append(at + labels[:, None] * r + np.arange(r))
        at += hierarchy.group_counts[level] * r
    columns = np.concatenate(by_level, axis=1)
    loadings = np.zeros((hierarchy.n, at), F.dtype)
    np.put_along_axis(loadings, columns, F, axis=1)
    leaves = hierarchy.labels(-1)
    rows = [np.flatnonzero(leaves == g) for g in range(hierarchy.group_counts[-1])]
    return loadings, [(r, columns[r[0]]) for r in rows]
