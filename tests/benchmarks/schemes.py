"""Other accelerations of EM, to compare with: plain, parameter-expanded, SQUAREM, damped Anderson.

Each takes a `Map` and yields the best log-likelihood after every evaluation of the EM map.  All are
monotone: where a jump lets the log-likelihood fall, the plain EM step is taken.
"""

import numpy as np

from mlrops.factor.estep.sources import open_source
from mlrops.factor.likelihood import LikelihoodSurface
from mlrops.factor.point import Point
from mlrops.factor.start import start


class Map:
    """The EM map on vectors ``(F / sd, log D)``."""

    def __init__(self, Y, ranks, hierarchy, init, expanded=False):
        source, h, _ = open_source(Y, hierarchy, True, "raise", None, None)
        self.problem = LikelihoodSurface(source, h._in_tree_order(), ranks, 1e-6 * source.variance)
        self.first = self.pack(*start(init, h, ranks, source, 0))
        self.expanded = expanded

    def pack(self, F, D):
        sd = self.problem.sd
        return np.concatenate([(F / sd[:, None]).ravel(), np.log(D / sd**2)])

    def unpack(self, v):
        F, D, _ = self.problem.parts(v)
        sd = self.problem.sd
        return F * sd[:, None], np.maximum(np.exp(D) * sd**2, self.problem.floor)

    def __call__(self, v):
        """(log-likelihood at v, where EM goes from v)."""
        F, D = self.unpack(v)
        state = self.problem.evaluate(Point(F, D, self.problem.source.mean))
        state.map(Point.empty_like(state.point), False)
        F, D, _ = state.image
        return state.loglik, self.pack(self.expand(F, state) if self.expanded else F, D)

    def expand(self, F, state):
        """The factors' second moments, group by group, are moved into F (PX-EM)."""
        posterior, h, col, F = state.step._posterior, self.problem.tree, 0, F.copy()
        for level, r in enumerate(self.problem.ranks):
            if r:
                Z = posterior.mean(level)
                A = posterior.covariance(level) + Z @ Z.swapaxes(1, 2) / self.problem.source.weight
                C = np.linalg.cholesky(A)[h.labels(level)]
                F[:, col : col + r] = np.einsum("ir,irs->is", F[:, col : col + r], C)
            col += r
        return F


def plain(G, evaluations):
    v = G.first
    for _ in range(evaluations):
        loglik, v = G(v)
        yield loglik


def squarem(G, evaluations):
    """R. Varadhan, C. Roland, "Simple and globally convergent methods", 2008, step length S3."""
    limit, v = 4.0, G.first
    here, v1 = G(v)
    yield here
    for _ in range(evaluations):
        between, v2 = G(v1)
        yield between
        r, c = v1 - v, v2 - 2 * v1 + v
        a = np.linalg.norm(r) / max(np.linalg.norm(c), 1e-300)
        capped, a = a >= limit, min(max(a, 1.0), limit)
        jump = v + 2 * a * r + a * a * c
        loglik, v3 = G(jump)
        if loglik >= between:
            v, v1 = jump, v3
            limit *= 4 if capped else 1
            yield loglik
        else:
            yield between
            limit = max(1.0, limit / 4) if capped else limit
            v = v2
            loglik, v1 = G(v)
            yield loglik


def daarem(G, evaluations, memory=10):
    """N. Henderson, R. Varadhan, "Damped Anderson acceleration with restarts", 2019."""
    v = G.first
    best, image = G(v)
    yield best
    r, dV, dR, strength = image - v, [], [], 0
    candidate, jumped = image, False
    for _ in range(evaluations):
        loglik, image = G(candidate)
        if jumped and not loglik >= best:
            yield best
            candidate, jumped, strength = v + r, False, strength - 2 * memory
            continue
        step = image - candidate
        dV, dR = [*dV, candidate - v][-memory:], [*dR, step - r][-memory:]
        v, r, best = candidate, step, max(best, loglik)
        yield best
        strength += 1
        U, s, Vt = np.linalg.svd(np.array(dR).T, full_matrices=False)
        gamma = Vt.T @ (damped(s, U.T @ r, 1 / (1 + 1.2 ** (25 - strength))))
        candidate = v + r - np.array(dV).T @ gamma - np.array(dR).T @ gamma
        jumped = True


def damped(s, b, share):
    """Ridge coefficients whose squared length is `share` of that without a ridge."""
    keep = s > 1e-12 * s[0]
    full = np.square(b[keep] / s[keep]).sum()
    low, high = 1e-20 * s[0] ** 2, 1e10 * s[0] ** 2
    for _ in range(100):
        ridge = np.sqrt(low * high)
        if np.square(s * b / (s**2 + ridge)).sum() > share * full:
            low = ridge
        else:
            high = ridge
    return s * b / (s**2 + low)
